//! Camera URLs, taken apart for connecting.
//!
//! In here: `RtspUrl::parse`, which is total: owners paste URLs with unescaped `@`, `/` or `#` in the
//! password (quirk 13). Not in here: name resolution (`rtsp.rs`), what is accepted
//! (`config/stream.rs`), hiding the password (`config/url.rs`).

use std::fmt;

/// RFC 2326 section 3.2.
pub const PORT_DEFAULT: u16 = 554;
/// RFC 7826 section 22.14.
pub const PORT_TLS_DEFAULT: u16 = 322;
/// Longest URL taken from a camera (redirect, control attribute), in bytes.
pub const URL_BYTES_MAX: usize = 2048;

/// User name and password, percent-decoded. `Debug` shows neither.
#[derive(Clone, PartialEq, Eq)]
pub struct Credentials {
    pub user: String,
    pub password: String,
}

impl fmt::Debug for Credentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Credentials(***)")
    }
}

/// A parsed `rtsp://` URL.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RtspUrl {
    /// Name or address, an IPv6 literal without its brackets.
    pub host: String,
    pub port: u16,
    /// What goes on the wire: the URL without user name and password.
    pub request: String,
    pub credentials: Option<Credentials>,
    /// `rtsps://`
    pub is_tls: bool,
}

impl RtspUrl {
    /// Takes a URL apart. The error is a sentence for the owner and holds nothing of the URL.
    pub fn parse(url: &str) -> Result<Self, String> {
        let parts = split(url.trim());
        let is_tls = parts.scheme.eq_ignore_ascii_case("rtsps://");
        if !is_tls && !parts.scheme.eq_ignore_ascii_case("rtsp://") {
            return Err("the URL must begin with rtsp:// or rtsps://".to_owned());
        }
        let (host, port) =
            parse_host_port(parts.host_port).ok_or("the URL has no valid host and port")?;
        let port = port.unwrap_or(if is_tls { PORT_TLS_DEFAULT } else { PORT_DEFAULT });
        let scheme = if is_tls { "rtsps" } else { "rtsp" };
        let mut request = format!("{scheme}://{}", parts.host_port);
        push_escaped(&mut request, parts.path);
        let credentials = parts.userinfo.map(|userinfo| {
            let (user, password) = userinfo.split_once(':').unwrap_or((userinfo, ""));
            Credentials { user: percent_decode(user), password: percent_decode(password) }
        });
        Ok(Self { host: host.to_owned(), port, request, credentials, is_tls })
    }

    /// The URL of a redirect: credentials go along only to the same host, and not from TLS to plain text, so
    /// that a camera cannot send the owner's password elsewhere.
    pub fn redirected(&self, location: &str) -> Result<Self, String> {
        if location.len() > URL_BYTES_MAX {
            return Err(format!("redirect to a URL of more than {URL_BYTES_MAX} bytes"));
        }
        let mut target = Self::parse(location)?;
        let is_as_safe = target.is_tls || !self.is_tls;
        let is_same_host = target.host.eq_ignore_ascii_case(&self.host);
        target.credentials = self.credentials.clone().filter(|_| is_same_host && is_as_safe);
        Ok(target)
    }
}

/// The text of a camera as it stands in a request: a URL without user name and password. One that is none is
/// still what the camera calls its track, so it is kept, fit for a line.
pub fn request_of(text: &str) -> String {
    RtspUrl::parse(text).map_or_else(
        |_| {
            let mut line = String::new();
            push_escaped(&mut line, text);
            line
        },
        |url| url.request,
    )
}

/// A URL cut where its parts meet: `scheme` with `://`, the rest without the `@`. All parts joined
/// again give the URL.
struct Parts<'a> {
    scheme: &'a str,
    userinfo: Option<&'a str>,
    host_port: &'a str,
    path: &'a str,
}

fn split(url: &str) -> Parts<'_> {
    let after_scheme = url.find("://").map_or(0, |at| at + 3);
    let (scheme, rest) = url.split_at(after_scheme);
    let is_end = |c| matches!(c, '/' | '?' | '#');
    let mut end = rest.find(is_end).unwrap_or(rest.len());
    // An unescaped `/`, `?` or `#` in the password ends the authority too early. Then what is left
    // is no host and port, and an `@` follows: it is the last `@` that ends the password. (A password
    // like `12/3` cannot be told from a port and a path.)
    let host_port = rest[..end].rsplit('@').next().unwrap_or("");
    if (parse_host_port(host_port).is_none() || host_port.ends_with(':'))
        && let Some(at) = rest.rfind('@')
    {
        end = rest[at..].find(is_end).map_or(rest.len(), |n| at + n);
    }
    let (authority, path) = rest.split_at(end);
    let (userinfo, host_port) = match authority.rsplit_once('@') {
        Some((userinfo, host_port)) => (Some(userinfo), host_port),
        None => (None, authority),
    };
    Parts { scheme, userinfo, host_port, path }
}

/// `host`, `host:port`, `[v6]` or `[v6]:port`.
fn parse_host_port(text: &str) -> Option<(&str, Option<u16>)> {
    let (host, port) = if let Some(rest) = text.strip_prefix('[') {
        let (host, after) = rest.split_once(']')?;
        host.parse::<std::net::Ipv6Addr>().ok()?;
        (host, if after.is_empty() { "" } else { after.strip_prefix(':')? })
    } else {
        text.split_once(':').unwrap_or((text, ""))
    };
    let is_name = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '_' | ':');
    if host.is_empty() || !host.chars().all(is_name) {
        return None;
    }
    if port.is_empty() {
        return Some((host, None));
    }
    let is_digits = port.bytes().all(|b| b.is_ascii_digit());
    port.parse().ok().filter(|&port: &u16| is_digits && port != 0).map(|port| (host, Some(port)))
}

/// Blanks and control characters would break the request line; nothing else is touched, because
/// cameras compare the text they gave out.
fn push_escaped(out: &mut String, path: &str) {
    for c in path.chars() {
        if c.is_ascii_graphic() {
            out.push(c);
        } else {
            let mut bytes = [0; 4];
            for byte in c.encode_utf8(&mut bytes).bytes() {
                out.push_str(&format!("%{byte:02X}"));
            }
        }
    }
}

/// A `%` without two hex digits behind it stands for itself.
fn percent_decode(text: &str) -> String {
    let bytes = text.as_bytes();
    let mut out = Vec::with_capacity(bytes.len());
    let mut at = 0;
    while let Some(&byte) = bytes.get(at) {
        let hex = |n: usize| bytes.get(at + n).and_then(|&b| (b as char).to_digit(16));
        match (byte, hex(1), hex(2)) {
            (b'%', Some(high), Some(low)) => {
                out.push((high * 16 + low) as u8);
                at += 3;
            }
            _ => {
                out.push(byte);
                at += 1;
            }
        }
    }
    String::from_utf8_lossy(&out).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[track_caller]
    fn check_parse(url: &str, host: &str, port: u16, request: &str, login: Option<(&str, &str)>) {
        let got = RtspUrl::parse(url).unwrap();
        assert_eq!((got.host.as_str(), got.port), (host, port), "{url}");
        assert_eq!(got.request, request, "{url}");
        let got = got.credentials.as_ref().map(|c| (c.user.as_str(), c.password.as_str()));
        assert_eq!(got, login, "{url}");
    }

    #[test]
    fn urls_are_taken_apart() {
        check_parse("rtsp://cam/1", "cam", 554, "rtsp://cam/1", None);
        check_parse("RTSP://cam:8554", "cam", 8554, "rtsp://cam:8554", None);
        check_parse("rtsp://[::1]:99/x", "::1", 99, "rtsp://[::1]:99/x", None);
        check_parse("rtsp://[fe80::2]/x", "fe80::2", 554, "rtsp://[fe80::2]/x", None);
        check_parse("rtsp://a@cam/1", "cam", 554, "rtsp://cam/1", Some(("a", "")));
        check_parse(
            "rtsp://a:b@cam/1?u=1&s=0",
            "cam",
            554,
            "rtsp://cam/1?u=1&s=0",
            Some(("a", "b")),
        );
        check_parse("rtsp://cam?x=1", "cam", 554, "rtsp://cam?x=1", None);
        check_parse("rtsp://cam/a b\r\nX: y", "cam", 554, "rtsp://cam/a%20b%0D%0AX:%20y", None);
    }

    #[test]
    fn passwords_may_hold_anything() {
        let want =
            |url, password| check_parse(url, "cam", 554, "rtsp://cam/1", Some(("a", password)));
        want("rtsp://a:p@ss@cam/1", "p@ss");
        want("rtsp://a:p:q@cam/1", "p:q");
        want("rtsp://a:p/q@cam/1", "p/q");
        want("rtsp://a:p?q#r@cam/1", "p?q#r");
        want("rtsp://a:p%40%3a%2F@cam/1", "p@:/");
        want("rtsp://a:100%@cam/1", "100%");
        want("rtsp://a:%zz%4@cam/1", "%zz%4");
    }

    #[test]
    fn bad_urls_are_refused_without_naming_the_password() {
        for url in
            ["", "cam/1", "http://a:secret@cam/", "rtsp://", "rtsp://a:secret@/", "rtsp:///x"]
        {
            let why = RtspUrl::parse(url).unwrap_err();
            assert!(!why.contains("secret"), "{why}");
        }
        for url in
            ["rtsp://cam:0/", "rtsp://cam:65536/", "rtsp://cam:+5/", "rtsp://[x]/", "rtsp://a b/"]
        {
            assert!(RtspUrl::parse(url).is_err(), "{url}");
        }
    }

    #[test]
    fn a_redirect_keeps_the_password_on_the_same_host_only() {
        let from = RtspUrl::parse("rtsp://a:secret@cam/1").unwrap();
        let same = from.redirected("rtsp://cam:8554/2").unwrap();
        assert_eq!(same.credentials, from.credentials);
        let other = from.redirected("rtsp://evil/2").unwrap();
        assert_eq!(other.credentials, None);
        assert!(!format!("{from:?}").contains("secret"));
    }

    proptest! {
        #[test]
        fn any_text_is_survived(url in "(rtsp://)?[a:@/?#\\[\\]%.0-9 \u{e4}]{0,40}") {
            let _ = RtspUrl::parse(&url);
        }
    }
}
