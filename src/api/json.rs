//! JSON from clients: bytes to fields, and fields to values with errors that name them.
//!
//! miniserde parses but says neither what was wrong nor what was doubled, so its events build our own
//! `Value`, which keeps integers apart from floats, null apart from absent, and remembers a key that
//! came twice. Not in here: which fields a resource has. Keeps PURE-CORE and ALL-BOUNDED.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::ops::RangeInclusive;

use miniserde::de::{Map, Seq, Visitor};
use miniserde::{Deserialize, make_place};

use super::error::{ApiError, echo};
use crate::config::range_rule;

/// Longest JSON body in bytes.
pub const BODY_BYTES_MAX: usize = 64 << 10;
/// Deepest nesting of objects and arrays.
pub const DEPTH_MAX: usize = 16;

/// Any JSON value.
#[derive(Clone, Debug, PartialEq)]
pub enum Value {
    Null,
    Bool(bool),
    Unsigned(u64),
    Negative(i64),
    /// Everything with a fraction, an exponent or more digits than 64 bits hold.
    Float(f64),
    Text(String),
    List(Vec<Value>),
    Object(Object),
}

/// A JSON object; the last value of a doubled key wins here, and the key is told.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Object {
    pub fields: BTreeMap<String, Value>,
    pub doubled: Option<String>,
}

impl Value {
    /// Parses a whole document; the error says what was wrong with the body.
    pub fn parse(bytes: &[u8]) -> Result<Self, String> {
        let text = std::str::from_utf8(bytes)
            .map_err(|e| format!("body is not UTF-8 at byte {}", e.valid_up_to()))?;
        if depth(bytes) > DEPTH_MAX {
            return Err(format!("body is nested deeper than {DEPTH_MAX} levels"));
        }
        miniserde::json::from_str(text).map_err(|_| "body is not valid JSON".to_owned())
    }

    /// The value as a message shows it, short.
    fn shown(&self) -> String {
        match self {
            Self::Null => "null".into(),
            Self::Bool(b) => b.to_string(),
            Self::Unsigned(n) => n.to_string(),
            Self::Negative(n) => n.to_string(),
            Self::Float(n) => format!("{n:?}"),
            Self::Text(text) => format!("\"{}\"", echo(text)),
            Self::List(_) | Self::Object(_) => self.kind().into(),
        }
    }

    /// What kind of value it is, for a message about something secret.
    fn kind(&self) -> &'static str {
        match self {
            Self::Null => "null",
            Self::Bool(_) => "a boolean",
            Self::Unsigned(_) | Self::Negative(_) | Self::Float(_) => "a number",
            Self::Text(_) => "a string",
            Self::List(_) => "an array",
            Self::Object(_) => "an object",
        }
    }

    fn doubled(&self) -> Option<&str> {
        match self {
            Self::Object(object) => {
                object.doubled.as_deref().or_else(|| object.fields.values().find_map(Self::doubled))
            }
            Self::List(items) => items.iter().find_map(Self::doubled),
            _ => None,
        }
    }
}

/// Deepest nesting of brackets outside of strings. Broken JSON has some depth too; the parser says no.
fn depth(bytes: &[u8]) -> usize {
    let (mut depth, mut deepest) = (0_usize, 0);
    let (mut in_string, mut is_escaped) = (false, false);
    for &byte in bytes {
        match byte {
            _ if is_escaped => is_escaped = false,
            b'\\' if in_string => is_escaped = true,
            b'"' => in_string = !in_string,
            b'{' | b'[' if !in_string => depth += 1,
            b'}' | b']' if !in_string => depth = depth.saturating_sub(1),
            _ => {}
        }
        deepest = deepest.max(depth);
    }
    deepest
}

make_place!(Place);

impl Deserialize for Value {
    fn begin(out: &mut Option<Self>) -> &mut dyn Visitor {
        Place::new(out)
    }
}

impl Place<Value> {
    fn put(&mut self, value: Value) -> miniserde::Result<()> {
        self.out = Some(value);
        Ok(())
    }
}

impl Visitor for Place<Value> {
    fn null(&mut self) -> miniserde::Result<()> {
        self.put(Value::Null)
    }

    fn boolean(&mut self, b: bool) -> miniserde::Result<()> {
        self.put(Value::Bool(b))
    }

    fn string(&mut self, s: &str) -> miniserde::Result<()> {
        self.put(Value::Text(s.to_owned()))
    }

    fn negative(&mut self, n: i64) -> miniserde::Result<()> {
        self.put(if n == 0 { Value::Unsigned(0) } else { Value::Negative(n) })
    }

    fn nonnegative(&mut self, n: u64) -> miniserde::Result<()> {
        self.put(Value::Unsigned(n))
    }

    fn float(&mut self, n: f64) -> miniserde::Result<()> {
        self.put(Value::Float(n))
    }

    fn seq(&mut self) -> miniserde::Result<Box<dyn Seq + '_>> {
        Ok(Box::new(ListBuilder { out: &mut self.out, items: Vec::new(), item: None }))
    }

    fn map(&mut self) -> miniserde::Result<Box<dyn Map + '_>> {
        let object = Object::default();
        Ok(Box::new(ObjectBuilder { out: &mut self.out, object, key: None, value: None }))
    }
}

struct ListBuilder<'a> {
    out: &'a mut Option<Value>,
    items: Vec<Value>,
    item: Option<Value>,
}

impl Seq for ListBuilder<'_> {
    fn element(&mut self) -> miniserde::Result<&mut dyn Visitor> {
        self.items.extend(self.item.take());
        Ok(Deserialize::begin(&mut self.item))
    }

    fn finish(&mut self) -> miniserde::Result<()> {
        self.items.extend(self.item.take());
        *self.out = Some(Value::List(std::mem::take(&mut self.items)));
        Ok(())
    }
}

struct ObjectBuilder<'a> {
    out: &'a mut Option<Value>,
    object: Object,
    key: Option<String>,
    value: Option<Value>,
}

impl ObjectBuilder<'_> {
    fn shift(&mut self) {
        if let (Some(key), Some(value)) = (self.key.take(), self.value.take()) {
            match self.object.fields.entry(key) {
                Entry::Vacant(entry) => drop(entry.insert(value)),
                Entry::Occupied(mut entry) => {
                    self.object.doubled = Some(entry.key().clone());
                    entry.insert(value);
                }
            }
        }
    }
}

impl Map for ObjectBuilder<'_> {
    fn key(&mut self, key: &str) -> miniserde::Result<&mut dyn Visitor> {
        self.shift();
        self.key = Some(key.to_owned());
        Ok(Deserialize::begin(&mut self.value))
    }

    fn finish(&mut self) -> miniserde::Result<()> {
        self.shift();
        *self.out = Some(Value::Object(std::mem::take(&mut self.object)));
        Ok(())
    }
}

/// The fields of a body. Each getter answers `None` for an absent field and remembers its name, so that
/// `finish` can tell which of the client's fields nobody asked for.
#[derive(Debug)]
pub struct Fields {
    object: Object,
    known: RefCell<Vec<&'static str>>,
}

impl Fields {
    /// Parses a body that has to be one JSON object without doubled keys.
    pub fn parse(body: &[u8]) -> Result<Self, ApiError> {
        if body.is_empty() {
            return Err(ApiError::BadRequest("body is empty; it must be a JSON object".into()));
        }
        if body.len() > BODY_BYTES_MAX {
            return Err(ApiError::BodyTooLarge);
        }
        let value = Value::parse(body).map_err(ApiError::BadRequest)?;
        if let Some(key) = value.doubled() {
            return Err(ApiError::field(&echo(key), "is given twice"));
        }
        match value {
            Value::Object(object) => Ok(Self { object, known: RefCell::default() }),
            other => {
                let what = format!("body must be a JSON object, got {}", other.shown());
                Err(ApiError::BadRequest(what))
            }
        }
    }

    fn get(&self, field: &'static str) -> Option<&Value> {
        self.known.borrow_mut().push(field);
        self.object.fields.get(field)
    }

    fn read<'a, T>(
        &'a self,
        field: &'static str,
        rule: impl FnOnce() -> String,
        read: impl FnOnce(&'a Value) -> Option<T>,
    ) -> Result<Option<T>, ApiError> {
        let Some(value) = self.get(field) else { return Ok(None) };
        match read(value) {
            Some(read) => Ok(Some(read)),
            None => Err(ApiError::field(field, format!("{}, got {}", rule(), value.shown()))),
        }
    }

    /// A whole number in `range`, which has to fit into `T`.
    pub fn whole<T: TryFrom<u64>>(
        &self,
        field: &'static str,
        range: &RangeInclusive<u64>,
    ) -> Result<Option<T>, ApiError> {
        self.read(
            field,
            || range_rule(range),
            |value| match value {
                Value::Unsigned(n) if range.contains(n) => T::try_from(*n).ok(),
                _ => None,
            },
        )
    }

    /// A whole number in `range`, or null, which is `Some(None)`.
    pub fn whole_or_null<T: TryFrom<u64>>(
        &self,
        field: &'static str,
        range: &RangeInclusive<u64>,
    ) -> Result<Option<Option<T>>, ApiError> {
        self.read(
            field,
            || format!("{} or null", range_rule(range)),
            |value| match value {
                Value::Null => Some(None),
                Value::Unsigned(n) if range.contains(n) => T::try_from(*n).ok().map(Some),
                _ => None,
            },
        )
    }

    /// `true` or `false`.
    pub fn boolean(&self, field: &'static str) -> Result<Option<bool>, ApiError> {
        self.read(
            field,
            || "must be true or false".into(),
            |value| match value {
                Value::Bool(b) => Some(*b),
                _ => None,
            },
        )
    }

    /// Any text; the message about another type goes without the value, which may be a secret.
    pub fn text(&self, field: &'static str) -> Result<Option<&str>, ApiError> {
        match self.get(field) {
            None => Ok(None),
            Some(Value::Text(text)) => Ok(Some(text)),
            Some(other) => {
                Err(ApiError::field(field, format!("must be a string, got {}", other.kind())))
            }
        }
    }

    /// A string, or null, which is `Some(None)`.
    pub fn text_or_null(&self, field: &'static str) -> Result<Option<Option<&str>>, ApiError> {
        match self.get(field) {
            None => Ok(None),
            Some(Value::Null) => Ok(Some(None)),
            Some(Value::Text(text)) => Ok(Some(Some(text))),
            Some(other) => {
                let what = format!("must be a string or null, got {}", other.kind());
                Err(ApiError::field(field, what))
            }
        }
    }

    /// One of a few words.
    pub fn word<T>(
        &self,
        field: &'static str,
        rule: &str,
        parse: impl FnOnce(&str) -> Option<T>,
    ) -> Result<Option<T>, ApiError> {
        self.read(
            field,
            || rule.to_owned(),
            |value| match value {
                Value::Text(text) => parse(text),
                _ => None,
            },
        )
    }

    /// A list of texts.
    pub fn texts(&self, field: &'static str) -> Result<Option<Vec<String>>, ApiError> {
        let text = |value: &Value| match value {
            Value::Text(text) => Some(text.clone()),
            _ => None,
        };
        self.read(
            field,
            || "must be an array of strings".into(),
            |value| match value {
                Value::List(items) => items.iter().map(text).collect(),
                _ => None,
            },
        )
    }

    /// An object within.
    pub fn object(&self, field: &'static str) -> Result<Option<Self>, ApiError> {
        self.read(field, || "must be an object".into(), Self::of)
    }

    /// A list of objects within.
    pub fn objects(&self, field: &'static str) -> Result<Option<Vec<Self>>, ApiError> {
        self.read(
            field,
            || "must be an array of objects".into(),
            |value| match value {
                Value::List(items) => items.iter().map(Self::of).collect(),
                _ => None,
            },
        )
    }

    /// Keys that came twice were refused with the whole body.
    fn of(value: &Value) -> Option<Self> {
        match value {
            Value::Object(object) => {
                Some(Self { object: object.clone(), known: RefCell::default() })
            }
            _ => None,
        }
    }

    /// Accepts these fields with any value: what GET gave can be PUT back.
    pub fn ignore(&self, fields: &[&'static str]) {
        self.known.borrow_mut().extend(fields);
    }

    /// An error if there is a field that no getter asked for.
    pub fn finish(&self) -> Result<(), ApiError> {
        let known = self.known.borrow();
        match self.object.fields.keys().find(|key| !known.contains(&key.as_str())) {
            None => Ok(()),
            Some(key) => {
                let what = format!("unknown field; known are {}", known.join(", "));
                Err(ApiError::BadField { field: echo(key), what })
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[track_caller]
    fn check_bad_body(body: impl AsRef<[u8]>, part: &str) {
        let error = Fields::parse(body.as_ref()).expect_err(part);
        assert_eq!(error.status(), 400);
        assert!(error.body().contains(part), "{}", error.body());
    }

    #[track_caller]
    fn check_fps(value: &str, want: Result<Option<u16>, &str>) {
        let fields = Fields::parse(format!("{{\"fps\":{value}}}").as_bytes()).expect(value);
        let rule = "must be a whole number from 0 to 120, got ";
        let want = want.map_err(|got| ApiError::field("fps", format!("{rule}{got}")));
        assert_eq!(fields.whole::<u16>("fps", &(0..=120)), want);
    }

    #[test]
    fn bodies_that_are_no_object_are_refused_by_reason() {
        check_bad_body("", "body is empty");
        check_bad_body("[1]", "must be a JSON object, got an array");
        check_bad_body("7", "must be a JSON object, got 7");
        check_bad_body("{} {}", "not valid JSON");
        check_bad_body("{\"a\":1,}", "not valid JSON");
        check_bad_body("{\"a\":NaN}", "not valid JSON");
        check_bad_body("{\"a\":1e999}", "not valid JSON");
        check_bad_body("{\"a\":\"\\ud800\"}", "not valid JSON");
        check_bad_body(b"{\"a\":\"\xff\"}", "not UTF-8 at byte 6");
        check_bad_body("{\"a\":1,\"b\":2,\"a\":3}", "a: is given twice");
        check_bad_body("{\"b\":[{\"a\":1,\"\\u0061\":3}]}", "a: is given twice");
        let large = vec![b' '; BODY_BYTES_MAX + 1];
        assert_eq!(Fields::parse(&large).expect_err("too large"), ApiError::BodyTooLarge);
    }

    #[test]
    fn nesting_stops_at_sixteen_levels_outside_of_strings() {
        let nested = |n: usize| format!("{{\"a\":{}{}}}", "[".repeat(n), "]".repeat(n));
        assert!(Fields::parse(nested(15).as_bytes()).is_ok());
        check_bad_body(nested(16), "deeper than 16");
        check_bad_body("[".repeat(60_000), "deeper than 16");
        assert!(Fields::parse(b"{\"a\":\"[[[[[[[[[[[[[[[[[[\\\"[[[\"}").is_ok());
    }

    #[test]
    fn integers_are_kept_apart_from_everything_else() {
        check_fps("30", Ok(Some(30)));
        check_fps("-0", Ok(Some(0)));
        check_fps("30.0", Err("30.0"));
        check_fps("3e1", Err("30.0"));
        check_fps("121", Err("121"));
        check_fps("-1", Err("-1"));
        check_fps("18446744073709551616", Err("1.8446744073709552e19"));
        check_fps("null", Err("null"));
        check_fps("true", Err("true"));
        check_fps("\"fast\"", Err("\"fast\""));
        check_fps("[30]", Err("an array"));
    }

    #[test]
    fn absent_is_not_null_and_unknown_is_named() {
        let fields = Fields::parse(br#"{"name":null,"color":1,"id":7}"#).expect("an object");
        assert_eq!(fields.boolean("enabled"), Ok(None));
        assert_eq!(fields.text("name"), Err(ApiError::field("name", "must be a string, got null")));
        fields.ignore(&["id"]);
        let what = "unknown field; known are enabled, name, id";
        assert_eq!(fields.finish(), Err(ApiError::field("color", what)));
    }

    #[test]
    fn texts_are_a_list_of_strings_alone() {
        let fields = Fields::parse(br#"{"a":["x","y"],"b":["x",1],"c":"x"}"#).expect("an object");
        assert_eq!(fields.texts("a"), Ok(Some(vec!["x".into(), "y".into()])));
        assert!(fields.texts("b").is_err() && fields.texts("c").is_err());
    }

    #[test]
    fn ten_thousand_keys_take_no_time_worth_measuring() {
        let keys: Vec<String> = (0..7000).map(|n| format!("\"{n}\":1")).collect();
        let fields = Fields::parse(format!("{{{}}}", keys.join(",")).as_bytes()).expect("object");
        assert_eq!(fields.object.fields.len(), 7000);
    }

    proptest! {
        #[test]
        fn any_bytes_have_an_answer(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ = Fields::parse(&bytes);
        }

        #[test]
        fn json_like_text_has_an_answer(text in "[\\[\\]{}\",:\\\\u0-9a-f .eE+-]{0,60}") {
            let _ = Fields::parse(text.as_bytes());
        }

        #[test]
        fn texts_survive(name in "\\PC{0,40}", n in 0u64..200) {
            let body = format!("{{\"name\":{},\"fps\":{n}}}", miniserde::json::to_string(&name));
            let fields = Fields::parse(body.as_bytes()).expect("valid JSON");
            prop_assert_eq!(fields.text("name"), Ok(Some(name.as_str())));
            prop_assert_eq!(fields.whole::<u8>("fps", &(0..=120)).is_ok(), n <= 120);
            prop_assert_eq!(fields.finish(), Ok(()));
        }
    }
}
