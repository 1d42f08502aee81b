//! What the owner configures: streams and settings, with their ranges and defaults.
//!
//! In here: the values and the rules for one field. Not in here: rules across streams (`nvr/`), JSON
//! (`api/`), the store's records (`store/`). Keeps PURE-CORE.

pub mod settings;
pub mod stream;

/// What is wrong with one field of the owner's input.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FieldError {
    pub field: &'static str,
    /// What was wrong and what is allowed, without the field's name.
    pub what: String,
}
