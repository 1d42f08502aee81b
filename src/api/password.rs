//! The resource `password`: change it. Its length is checked here, the present one by the executor.

use super::error::ApiError;
use super::json::Fields;
use super::{Ctx, Reply, success};
use crate::nvr::command::Command;

/// Shortest new password in characters.
pub const PASSWORD_CHARS_MIN: usize = 10;
/// Longest password in bytes: it has to fit a header, and hashing has to end.
pub const PASSWORD_BYTES_MAX: usize = 256;

/// `PUT /password`, from `session` if it came with a cookie.
pub fn change(ctx: &Ctx, fields: &Fields, session: Option<u64>) -> Result<Reply, ApiError> {
    let (current, new) = read(fields)?;
    ctx.commands.ask(|reply| Command::ChangePassword { current, new, session, reply })?;
    Ok(success())
}

fn read(fields: &Fields) -> Result<(String, String), ApiError> {
    let current = fields.text("current")?;
    let new = fields.text("new")?;
    fields.finish()?;
    let current = current.ok_or_else(|| ApiError::field("current", "is required"))?;
    let new = new.ok_or_else(|| ApiError::field("new", "is required"))?;
    if current.len() > PASSWORD_BYTES_MAX {
        return Err(ApiError::field(
            "current",
            format!("is longer than {PASSWORD_BYTES_MAX} bytes"),
        ));
    }
    check_new(new)?;
    Ok((current.to_owned(), new.to_owned()))
}

fn check_new(new: &str) -> Result<(), ApiError> {
    let chars = new.chars().count();
    if chars < PASSWORD_CHARS_MIN || new.len() > PASSWORD_BYTES_MAX {
        let what = format!(
            "must be at least {PASSWORD_CHARS_MIN} characters and at most {PASSWORD_BYTES_MAX} bytes, \
             got {chars} characters"
        );
        return Err(ApiError::field("new", what));
    }
    // RFC 7617 section 2: a password of Basic authentication holds no control characters.
    if new.chars().any(char::is_control) {
        return Err(ApiError::field("new", "must not hold control characters"));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::error::check_bad_field;

    #[track_caller]
    fn check_bad(body: &str, field: &str, part: &str) {
        check_bad_field(body, read(&Fields::parse(body.as_bytes()).expect(body)), field, part);
    }

    #[test]
    fn the_new_password_has_a_shape() {
        check_bad(r#"{"current":"a","new":"hunter2"}"#, "new", "at least 10 characters");
        check_bad(r#"{"current":"a","new":"hunter\u00002hunter2"}"#, "new", "control");
        check_bad(&format!(r#"{{"current":"a","new":"{}"}}"#, "x".repeat(257)), "new", "256 bytes");
        check_bad(r#"{"current":"a"}"#, "new", "is required");
        check_bad(r#"{"new":"hunter2hunter2"}"#, "current", "is required");
        check_bad(r#"{"current":7,"new":"hunter2hunter2"}"#, "current", "a string, got a number");
        check_bad(r#"{"current":"a","new":"hunter2hunter2","x":1}"#, "x", "unknown field");
    }

    #[test]
    fn ten_characters_of_any_script_are_enough() {
        let fields = Fields::parse(r#"{"current":"","new":"äöüäöüäöüä"}"#.as_bytes()).expect("ok");
        assert_eq!(read(&fields), Ok((String::new(), "äöüäöüäöüä".into())));
    }
}
