//! A handler's result as status, headers and body: the last step that knows no socket. Keeps PURE-CORE.

use std::borrow::Cow;

use super::error::ApiError;
use super::{FileReply, Reply, wire};

const JSON: &str = "application/json";

/// An answer ready to be sent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rendered {
    pub status: u16,
    pub headers: Vec<(&'static str, Cow<'static, str>)>,
    pub body: Cow<'static, [u8]>,
}

/// Turns a result into an answer.
pub fn render(result: Result<Reply, ApiError>) -> Rendered {
    let mut out = match result {
        Ok(Reply::Json(body)) => json(200, body),
        Ok(Reply::Page { body, next }) => {
            let mut out = json(200, body);
            out.headers.extend(next.map(|target| (wire::NEXT, Cow::Owned(target))));
            out
        }
        Ok(Reply::Bytes { content_type, body, headers }) => {
            let mut all = vec![("Content-Type", Cow::Borrowed(content_type))];
            all.extend(headers.iter().map(|&(name, value)| (name, Cow::Borrowed(value))));
            Rendered { status: 200, headers: all, body: Cow::Borrowed(body) }
        }
        Ok(Reply::File(file)) => file_headers(file),
        Ok(Reply::LogIn { credentials, body }) => {
            let mut out = json(200, body);
            out.headers.push((wire::LOG_IN, Cow::Owned(wire::encode_path(&credentials))));
            out
        }
        Ok(Reply::LogOut) => {
            let Rendered { status, mut headers, body } = render(Ok(super::success()));
            headers.push((wire::LOG_OUT, Cow::Borrowed("1")));
            Rendered { status, headers, body }
        }
        Ok(Reply::Order(order)) => {
            let headers = vec![(wire::ORDER, Cow::Owned(order.encode()))];
            Rendered { status: 200, headers, body: Cow::Borrowed(b"") }
        }
        Ok(Reply::Live(order)) => {
            let headers = vec![(wire::LIVE, Cow::Owned(order.encode()))];
            Rendered { status: 200, headers, body: Cow::Borrowed(b"") }
        }
        Err(error) => {
            let mut out = json(error.status(), error.body());
            let headers = error.headers().into_iter();
            out.headers.extend(headers.map(|(name, value)| (name, Cow::Owned(value))));
            out
        }
    };
    if !out.headers.iter().any(|(name, _)| *name == "Cache-Control") {
        out.headers.push(("Cache-Control", Cow::Borrowed("no-store")));
    }
    out
}

fn json(status: u16, body: String) -> Rendered {
    let headers = vec![("Content-Type", Cow::Borrowed(JSON))];
    Rendered { status, headers, body: Cow::Owned(body.into_bytes()) }
}

fn file_headers(file: FileReply) -> Rendered {
    let headers = vec![
        ("Content-Type", Cow::Borrowed(file.content_type)),
        ("Content-Disposition", Cow::Owned(file.disposition)),
        // The browser may keep what it has of a video, but asks each time: the file may be deleted.
        ("Cache-Control", Cow::Borrowed("private, no-cache")),
        (wire::FILE, Cow::Owned(wire::encode_path(&file.path))),
        (wire::FILE_SIZE, Cow::Owned(file.size.to_string())),
        (wire::FILE_ETAG, Cow::Owned(file.etag)),
        (wire::FILE_MODIFIED, Cow::Owned(file.modified_s.to_string())),
    ];
    Rendered { status: 200, headers, body: Cow::Borrowed(b"") }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn header<'a>(out: &'a Rendered, name: &str) -> Option<&'a str> {
        out.headers.iter().find(|(n, _)| *n == name).map(|(_, value)| value.as_ref())
    }

    #[test]
    fn an_error_has_its_headers_and_a_json_body() {
        let out = render(Err(ApiError::MethodNotAllowed { allow: "GET, HEAD" }));
        assert_eq!((out.status, header(&out, "Allow")), (405, Some("GET, HEAD")));
        assert_eq!(header(&out, "Content-Type"), Some("application/json"));
        assert_eq!(header(&out, "Cache-Control"), Some("no-store"));
        assert!(out.body.starts_with(b"{\"error\":"));
        let out = render(Err(ApiError::WrongPassword));
        assert_eq!((out.status, header(&out, wire::WRONG_PASSWORD)), (400, Some("1")));
    }

    #[test]
    fn a_piece_names_its_next_one() {
        let next = Some("/api/v1/recordings?continue=5".to_owned());
        let out = render(Ok(Reply::Page { body: "x".into(), next }));
        assert_eq!(header(&out, wire::NEXT), Some("/api/v1/recordings?continue=5"));
        let out = render(Ok(Reply::Page { body: "x".into(), next: None }));
        assert_eq!(header(&out, wire::NEXT), None);
    }

    #[test]
    fn a_file_is_told_in_headers() {
        let out = render(Ok(Reply::File(FileReply {
            path: "/data/Hof ä/1.mp4".into(),
            size: 77,
            etag: "\"1-2-3\"".into(),
            modified_s: 1_741_514_400,
            content_type: "video/mp4",
            disposition: "attachment; filename=\"a.mp4\"".into(),
        })));
        assert_eq!(header(&out, wire::FILE), Some("/data/Hof%20%C3%A4/1.mp4"));
        assert_eq!(header(&out, wire::FILE_SIZE), Some("77"));
        assert_eq!(header(&out, wire::FILE_ETAG), Some("\"1-2-3\""));
        assert_eq!(header(&out, wire::FILE_MODIFIED), Some("1741514400"));
        assert_eq!(header(&out, "Content-Type"), Some("video/mp4"));
        assert!(out.body.is_empty());
    }
}
