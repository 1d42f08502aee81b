//! What a request can fail with: the one place that picks status codes and error bodies.
//!
//! Every status has the body `{"error": "…"}`; `field` follows where one field is to blame. A 5xx says
//! nothing of paths, URLs or causes: those are for the log, under the request's id.

use miniserde::{Serialize, json};

use crate::config::FieldError;
use crate::nvr::command::CommandError;
use crate::store::StoreError;

/// Longest piece of the client's own text that a message repeats, in characters.
const ECHO_CHARS_MAX: usize = 40;

/// Why a request got no success.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ApiError {
    /// The request as a whole is wrong: 400.
    BadRequest(String),
    /// One field or parameter is wrong; `what` goes without its name: 400.
    BadField { field: String, what: String },
    /// The present password is wrong: 400, and the gate counts it.
    WrongPassword,
    /// The message as the contract has it ("Stream not found"): 404.
    NotFound(&'static str),
    /// 405 with these methods in `Allow`.
    MethodNotAllowed { allow: &'static str },
    /// 413.
    BodyTooLarge,
    /// 415; the media type that is wanted.
    MediaType(&'static str),
    /// 411: a body without a length said beforehand.
    LengthRequired,
    /// This installation can't, whatever is sent: 501.
    NotHere(&'static str),
    /// Not now: 503 with `Retry-After`.
    Busy { what: String, retry_after_s: u32 },
    /// What keeps the recorder from its work: 503 of `/healthz` alone.
    Unhealthy { reasons: Vec<String> },
    /// 500; the cause is for the log.
    Internal { cause: String },
}

#[derive(Serialize)]
struct Body<'a> {
    error: &'a str,
}

#[derive(Serialize)]
struct FieldBody<'a> {
    error: &'a str,
    field: &'a str,
}

#[derive(Serialize)]
struct HealthBody<'a> {
    error: &'a str,
    reasons: &'a [String],
}

impl ApiError {
    /// The status code.
    pub fn status(&self) -> u16 {
        match self {
            Self::BadRequest(_) | Self::BadField { .. } | Self::WrongPassword => 400,
            Self::NotFound(_) => 404,
            Self::MethodNotAllowed { .. } => 405,
            Self::BodyTooLarge => 413,
            Self::LengthRequired => 411,
            Self::MediaType(_) => 415,
            Self::Internal { .. } => 500,
            Self::NotHere(_) => 501,
            Self::Busy { .. } | Self::Unhealthy { .. } => 503, // 429 belongs to the rate limiter alone
        }
    }

    /// The body, JSON.
    pub fn body(&self) -> String {
        let error: &str = match self {
            Self::BadField { field, what } => {
                return json::to_string(&FieldBody { error: &format!("{field}: {what}"), field });
            }
            Self::WrongPassword => {
                let error = "current: is not the present password";
                return json::to_string(&FieldBody { error, field: "current" });
            }
            Self::Unhealthy { reasons } => {
                let error = &reasons.join("; ");
                return json::to_string(&HealthBody { error, reasons });
            }
            Self::BadRequest(what) | Self::Busy { what, .. } => what,
            Self::NotFound(what) => what,
            Self::MethodNotAllowed { allow } => &format!("method not allowed; allowed are {allow}"),
            Self::BodyTooLarge => "body is larger than 64 KiB",
            Self::MediaType(want) => &format!("send the header Content-Type: {want}"),
            Self::LengthRequired => "send the header Content-Length",
            Self::NotHere(what) => what,
            Self::Internal { .. } => {
                "internal error; the log has it under this answer's X-Request-Id"
            }
        };
        json::to_string(&Body { error })
    }

    /// Headers that belong to the status.
    pub fn headers(&self) -> Vec<(&'static str, String)> {
        match self {
            Self::MethodNotAllowed { allow } => vec![("Allow", (*allow).to_owned())],
            Self::Busy { retry_after_s, .. } => vec![("Retry-After", retry_after_s.to_string())],
            Self::Unhealthy { .. } => vec![("Retry-After", "5".to_owned())],
            Self::WrongPassword => vec![(super::wire::WRONG_PASSWORD, "1".to_owned())],
            _ => Vec::new(),
        }
    }

    /// The same of a field within `place`, such as `streams[2]`.
    pub fn within(self, place: &str) -> Self {
        match self {
            Self::BadField { field, what } => {
                Self::BadField { field: format!("{place}.{field}"), what }
            }
            other => other,
        }
    }

    /// An error on one field.
    pub fn field(field: &str, what: impl Into<String>) -> Self {
        Self::BadField { field: field.to_owned(), what: what.into() }
    }
}

/// The client's own text, shortened, for a message.
pub fn echo(text: &str) -> String {
    match text.char_indices().nth(ECHO_CHARS_MAX) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text.to_owned(),
    }
}

impl From<FieldError> for ApiError {
    fn from(error: FieldError) -> Self {
        Self::BadField { field: error.field.to_owned(), what: error.what }
    }
}

impl From<CommandError> for ApiError {
    fn from(error: CommandError) -> Self {
        match error {
            CommandError::BadField(error) => error.into(),
            CommandError::BadPlace { place, error } => Self::from(error).within(&place),
            CommandError::NotFound(what) => Self::NotFound(what),
            CommandError::Busy { what, retry_after_s } => Self::Busy { what, retry_after_s },
            CommandError::WrongPassword => Self::WrongPassword,
            CommandError::Internal => {
                Self::Internal { cause: "the command did not succeed".into() }
            }
        }
    }
}

impl From<StoreError> for ApiError {
    fn from(error: StoreError) -> Self {
        Self::Internal { cause: format!("store: {error}") }
    }
}

/// Checks in a test that `input` is refused for this field, in words that have `part` in them and no password.
#[cfg(test)]
#[track_caller]
pub(crate) fn check_bad_field<T: std::fmt::Debug>(
    input: &str,
    got: Result<T, ApiError>,
    field: &str,
    part: &str,
) {
    match got {
        Err(ApiError::BadField { field: got, what }) => {
            assert_eq!(got, field, "{input}");
            assert!(what.contains(part), "{input}: {what}");
            assert!(!what.contains("hunter"), "a message repeats no password");
        }
        other => panic!("{input}: {other:?}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(error: ApiError, status: u16, body: &str) {
        assert_eq!((error.status(), error.body().as_str()), (status, body));
    }

    #[test]
    fn each_error_has_its_status_and_body() {
        check(ApiError::NotFound("Stream not found"), 404, r#"{"error":"Stream not found"}"#);
        check(
            FieldError::new("fps", "must be a whole number").into(),
            400,
            r#"{"error":"fps: must be a whole number","field":"fps"}"#,
        );
        check(
            CommandError::WrongPassword.into(),
            400,
            r#"{"error":"current: is not the present password","field":"current"}"#,
        );
        check(
            ApiError::Unhealthy { reasons: vec!["disk 0 stalls".into(), "b".into()] },
            503,
            r#"{"error":"disk 0 stalls; b","reasons":["disk 0 stalls","b"]}"#,
        );
        check(
            ApiError::MediaType("application/json"),
            415,
            r#"{"error":"send the header Content-Type: application/json"}"#,
        );
    }

    #[test]
    fn an_internal_error_keeps_its_cause_to_itself() {
        let error = ApiError::Internal { cause: "/secret/path".into() };
        assert_eq!(error.status(), 500);
        assert!(!error.body().contains("secret"));
    }

    #[test]
    fn busy_says_when_to_try_again() {
        let error: ApiError = CommandError::Busy { what: "wait".into(), retry_after_s: 2 }.into();
        assert_eq!(error.headers(), [("Retry-After", "2".to_owned())]);
    }
}
