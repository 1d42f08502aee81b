//! What the owner configures: streams and settings, with their ranges and defaults.
//!
//! In here: the values and the rules for one field. Not in here: rules across streams (`nvr/`), JSON
//! (`api/`), the store's records (`store/`). Keeps PURE-CORE.

pub mod device;
pub mod fingerprint;
pub mod settings;
pub mod stream;
pub mod transport;
pub mod url;

use std::ops::RangeInclusive;

/// What is wrong with one field of the owner's input.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FieldError {
    pub field: &'static str,
    /// What was wrong and what is allowed, without the field's name.
    pub what: String,
}

impl FieldError {
    /// An error on `field` in these words.
    pub fn new(field: &'static str, what: impl Into<String>) -> Self {
        Self { field, what: what.into() }
    }
}

/// An error unless `value` is in `range`.
pub fn check_range(
    field: &'static str,
    value: u64,
    range: &RangeInclusive<u64>,
) -> Result<(), FieldError> {
    if range.contains(&value) {
        return Ok(());
    }
    Err(FieldError::new(field, format!("{}, got {value}", range_rule(range))))
}

/// What is allowed, in words: "must be a whole number from 0 to 120".
pub fn range_rule(range: &RangeInclusive<u64>) -> String {
    format!("must be a whole number from {} to {}", range.start(), range.end())
}
