//! The resource `session`: log in, who is logged in, log out. The password is checked and the cookie
//! made by the gate, which holds the sessions; here the body is read and the answer written.

use miniserde::{Serialize, json};

use super::error::ApiError;
use super::json::Fields;
use super::password::PASSWORD_BYTES_MAX;
use super::wire::USER;
use super::{Ctx, Reply};

/// Longest user name in bytes that is looked at; the only right one has 5.
pub const USERNAME_BYTES_MAX: usize = 64;

#[derive(Serialize)]
struct SessionOut {
    username: &'static str,
    must_change_password: bool,
}

/// `GET /session`
pub fn get(ctx: &Ctx) -> Reply {
    Reply::Json(body(ctx))
}

/// `POST /session`
pub fn open(ctx: &Ctx, fields: &Fields) -> Result<Reply, ApiError> {
    Ok(Reply::LogIn { credentials: read(fields)?, body: body(ctx) })
}

/// `DELETE /session`
pub fn close() -> Reply {
    Reply::LogOut
}

fn body(ctx: &Ctx) -> String {
    let must_change_password = ctx.snapshot.load().is_initial_password;
    json::to_string(&SessionOut { username: USER, must_change_password })
}

/// `user:password`, as in Basic authentication.
fn read(fields: &Fields) -> Result<String, ApiError> {
    let text = |name: &'static str, bytes_max: usize| {
        let text = fields.text(name)?.ok_or_else(|| ApiError::field(name, "is required"))?;
        if text.len() > bytes_max {
            return Err(ApiError::field(name, format!("is longer than {bytes_max} bytes")));
        }
        Ok(text)
    };
    let username = text("username", USERNAME_BYTES_MAX)?;
    let password = text("password", PASSWORD_BYTES_MAX)?;
    fields.finish()?;
    // A name ends at its first colon (RFC 7617 section 2): one that holds any is nobody's.
    let username = if username.contains(':') { "" } else { username };
    Ok(format!("{username}:{password}"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::error::check_bad_field;

    fn read_body(body: &str) -> Result<String, ApiError> {
        read(&Fields::parse(body.as_bytes()).expect(body))
    }

    #[track_caller]
    fn check_bad(body: &str, field: &str, part: &str) {
        check_bad_field(body, read_body(body), field, part);
    }

    #[test]
    fn both_fields_are_required_texts_of_bounded_length() {
        check_bad(r#"{"username":"admin"}"#, "password", "is required");
        check_bad(r#"{"password":"hunter2"}"#, "username", "is required");
        check_bad(r#"{"username":"admin","password":7}"#, "password", "a string, got a number");
        check_bad(r#"{"username":"admin","password":"hunter2","x":1}"#, "x", "unknown field");
        let long = "hunter2".repeat(40);
        check_bad(&format!(r#"{{"username":"a","password":"{long}"}}"#), "password", "256 bytes");
        check_bad(&format!(r#"{{"username":"{long}","password":""}}"#), "username", "64 bytes");
    }

    #[test]
    fn a_colon_in_the_name_does_not_move_into_the_password() {
        let credentials = read_body(r#"{"username":"admin","password":"a:b"}"#);
        assert_eq!(credentials.as_deref(), Ok("admin:a:b"));
        let credentials = read_body(r#"{"username":"admin:a","password":"b"}"#);
        assert_eq!(credentials.as_deref(), Ok(":b"));
    }
}
