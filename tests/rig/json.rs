//! Reading JSON answers; whatever is not as expected fails the test and says what it was.

use miniserde::json::{self, Number, Value};

/// Parses `text`.
#[track_caller]
pub fn parse(text: &str) -> Value {
    json::from_str(text).unwrap_or_else(|_| panic!("not JSON: {text:?}"))
}

/// `text` as a JSON string with its quotes.
pub fn quote(text: &str) -> String {
    json::to_string(text)
}

/// What tests ask of a value.
pub trait Look {
    /// The field of an object.
    fn field(&self, name: &str) -> &Value;
    /// The field of an object, if it is there.
    fn field_if_any(&self, name: &str) -> Option<&Value>;
    fn items(&self) -> &[Value];
    fn text(&self) -> &str;
    fn number(&self) -> f64;
    fn integer(&self) -> u64;
    fn truth(&self) -> bool;
}

impl Look for Value {
    #[track_caller]
    fn field(&self, name: &str) -> &Value {
        self.field_if_any(name).unwrap_or_else(|| panic!("no {name} in {}", json::to_string(self)))
    }

    #[track_caller]
    fn field_if_any(&self, name: &str) -> Option<&Value> {
        match self {
            Value::Object(object) => object.get(name),
            other => panic!("not an object: {}", json::to_string(other)),
        }
    }

    #[track_caller]
    fn items(&self) -> &[Value] {
        match self {
            Value::Array(items) => items,
            other => panic!("not an array: {}", json::to_string(other)),
        }
    }

    #[track_caller]
    fn text(&self) -> &str {
        match self {
            Value::String(text) => text,
            other => panic!("not a string: {}", json::to_string(other)),
        }
    }

    #[track_caller]
    fn number(&self) -> f64 {
        match self {
            Value::Number(Number::F64(n)) => *n,
            Value::Number(Number::U64(n)) => *n as f64,
            Value::Number(Number::I64(n)) => *n as f64,
            other => panic!("not a number: {}", json::to_string(other)),
        }
    }

    #[track_caller]
    fn integer(&self) -> u64 {
        match self {
            Value::Number(Number::U64(n)) => *n,
            other => panic!("not an integer: {}", json::to_string(other)),
        }
    }

    #[track_caller]
    fn truth(&self) -> bool {
        match self {
            Value::Bool(truth) => *truth,
            other => panic!("not a truth value: {}", json::to_string(other)),
        }
    }
}
