//! Who may ask for what: the checks that need no password and no clock.
//!
//! In here: `Host` (against DNS rebinding), `Origin` (against other sites' pages), and which paths
//! need a password or count as media. Not in here: passwords (`auth.rs`), rates (`rate_core.rs`).

use std::net::{Ipv4Addr, Ipv6Addr};

/// The host of `authority` may be used to reach this recorder: an IP literal, `localhost`, the own
/// name with or without `.local`, or one of `allowed`. The port is ignored: a forwarded one differs.
pub fn host_allowed(authority: &str, own_name: &str, allowed: &[String]) -> bool {
    let Some((host, _)) = split_authority(authority) else { return false };
    if is_ip_literal(host) {
        return true;
    }
    let host = host.strip_suffix('.').unwrap_or(host);
    let is = |name: &str| {
        let name = name.strip_suffix('.').unwrap_or(name);
        !name.is_empty() && host.eq_ignore_ascii_case(name)
    };
    let own_bare = strip_local(own_name);
    is("localhost")
        || is(own_name)
        || is(own_bare)
        || (!own_bare.is_empty() && strip_local(host).eq_ignore_ascii_case(own_bare))
        || allowed.iter().any(|name| is(name))
}

fn strip_local(name: &str) -> &str {
    let cut = name.len().saturating_sub(".local".len());
    match (name.get(..cut), name.get(cut..)) {
        (Some(bare), Some(end)) if end.eq_ignore_ascii_case(".local") => bare,
        _ => name,
    }
}

/// Host and port of an authority without user (RFC 3986 section 3.2); `None` when malformed.
/// `lightnvr.local:80` is `lightnvr.local`, `[::1]:80` is `[::1]`.
pub fn without_port(authority: &str) -> &str {
    split_authority(authority).map_or(authority, |(host, _)| host)
}

fn split_authority(authority: &str) -> Option<(&str, Option<&str>)> {
    let host_len = match authority.strip_prefix('[') {
        Some(rest) => rest.find(']')? + 2,
        None => authority.find(':').unwrap_or(authority.len()),
    };
    let (host, rest) = authority.split_at(host_len);
    let port = match rest.strip_prefix(':') {
        Some(port) if port.bytes().all(|b| b.is_ascii_digit()) => Some(port),
        None if rest.is_empty() => None,
        _ => return None,
    };
    Some((host, port.filter(|port| !port.is_empty())))
}

fn is_ip_literal(host: &str) -> bool {
    match host.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')) {
        Some(v6) => v6.parse::<Ipv6Addr>().is_ok(),
        None => host.parse::<Ipv4Addr>().is_ok(),
    }
}

/// `method` may change something (RFC 9110 section 9.2.1: these may not).
pub fn is_changing(method: &str) -> bool {
    !matches!(method, "GET" | "HEAD" | "OPTIONS" | "TRACE")
}

/// `origin` names the same host and port as the request's `Host` (RFC 6454 section 7). Behind a
/// proxy with TLS the scheme is not the one we see, so the default port is that of the origin's.
pub fn origin_is_host(origin: &[u8], host: Option<&str>) -> bool {
    let (Ok(origin), Some(host)) = (std::str::from_utf8(origin), host) else { return false };
    let (authority, default_port) = match origin.split_once("://") {
        Some(("http", authority)) => (authority, "80"),
        Some(("https", authority)) => (authority, "443"),
        _ => return false, // `null`, an extension, anything else
    };
    let (Some(a), Some(b)) = (split_authority(authority), split_authority(host)) else {
        return false;
    };
    a.0.eq_ignore_ascii_case(b.0) && a.1.unwrap_or(default_port) == b.1.unwrap_or(default_port)
}

/// `path` needs a password. Everything under `/api/` does; so does every path that has a segment
/// `api` anywhere, in any spelling, so that no way of reading a path (decoding, dots, doubled or
/// turned slashes, case) leads around the check. No file of the page lies under such a name.
pub fn needs_password(path: &str) -> bool {
    let decoded = percent_decode(path.as_bytes());
    decoded.split(|b| matches!(b, b'/' | b'\\')).any(|s| s.eq_ignore_ascii_case(b"api"))
}

fn percent_decode(path: &[u8]) -> Vec<u8> {
    let hex = |b: &u8| char::from(*b).to_digit(16).and_then(|digit| u8::try_from(digit).ok());
    let (mut out, mut rest) = (Vec::with_capacity(path.len()), path);
    while let [first, tail @ ..] = rest {
        rest = tail;
        let mut byte = *first;
        if let (b'%', [high, low, after @ ..]) = (byte, tail)
            && let (Some(high), Some(low)) = (hex(high), hex(low))
        {
            byte = (high << 4) | low;
            rest = after;
        }
        out.push(byte);
    }
    out
}

/// The path of the resource that logs in and out.
pub const SESSION_PATH: &str = "/api/v1/session";

/// The request brings its credentials in its body, so it needs none before. Only in this one spelling.
pub fn is_login(method: &str, path: &str) -> bool {
    method == "POST" && path == SESSION_PATH
}

/// `path` is media: live streams, downloads and exports, of which a player asks for many in a row, or which
/// take long.
pub fn is_media(path: &str) -> bool {
    let Some(rest) = path.strip_prefix("/api/v1/") else { return false };
    let is_of = |start: &str, end: &str| {
        let id = rest.strip_prefix(start).and_then(|rest| rest.strip_suffix(end));
        id.is_some_and(|id| !id.is_empty() && id.bytes().all(|b| b.is_ascii_digit()))
    };
    rest.starts_with("streaming/")
        || is_of("recordings/", "/download")
        || is_of("streams/", "/export.mp4")
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[track_caller]
    fn check_host(host: &str, want: bool) {
        let allowed = ["nvr.example.com".to_owned(), "Bare.".to_owned(), String::new()];
        assert_eq!(host_allowed(host, "cellar", &allowed), want, "{host}");
    }

    #[test]
    fn hosts() {
        for host in [
            "192.168.1.10",
            "192.168.1.10:8080",
            "[fe80::1]:80",
            "[::1]",
            "localhost:1",
            "LOCALHOST",
            "cellar",
            "Cellar.local:8080",
            "cellar.",
            "cellar.local.",
            "bare",
            "nvr.example.com",
            "NVR.example.com.:443",
            "cellar:",
        ] {
            check_host(host, true);
        }
        for host in [
            "",
            "evil.com",
            "cellar.evil.com",
            "localhost.evil.com",
            "cellar.local.evil.com",
            "192.168.1.10.evil.com",
            "[fe80::1",
            "[::1]x",
            "localhost:80x",
            ".local",
            ".",
            "1.2.3",
            "[evil.com]",
            "nvr.example.com.evil",
            "bare:80:80",
        ] {
            check_host(host, false);
        }
        assert!(host_allowed("cellar.local", "cellar.local", &[]));
        assert!(host_allowed("cellar", "cellar.local", &[]));
        assert!(!host_allowed("", "", &[]));
        assert!(!host_allowed(".local", "", &[]));
        assert!(!host_allowed("x", "", &[]));
    }

    #[test]
    fn origins() {
        let same = |origin: &str, host: &str| origin_is_host(origin.as_bytes(), Some(host));
        assert!(same("http://nvr.local:8080", "NVR.local:8080"));
        assert!(same("http://nvr", "nvr:80"));
        assert!(same("https://nvr", "nvr"));
        assert!(same("http://[::1]:8080", "[::1]:8080"));
        assert!(!same("http://nvr:8081", "nvr:8080"));
        assert!(!same("http://nvr", "nvr:8080"));
        assert!(!same("http://nvr.evil.com", "nvr"));
        assert!(!same("null", "nvr"));
        assert!(!same("nvr", "nvr"));
        assert!(!same("", ""));
        assert!(!origin_is_host(b"http://nvr", None));
    }

    #[test]
    fn paths() {
        for path in [
            "/api",
            "/api/",
            "/api/v1/streams",
            "//api/v1",
            "/%61pi/v1",
            "/x/../api/v1",
            "/API/v1",
            "/%2fapi%2Fv1",
            "/./api",
            "/x\\api\\v1",
            "/%5capi",
        ] {
            assert!(needs_password(path), "{path}");
        }
        for path in ["/", "/healthz", "/api.js", "/apis/x", "/%", "/%6", "/%zzapi", "/src/api.js"] {
            assert!(!needs_password(path), "{path}");
        }
        assert!(is_login("POST", "/api/v1/session"));
        for path in ["/api/v1/session/", "//api/v1/session", "/api/v1/Session", "/api/v1/streams"] {
            assert!(!is_login("POST", path) && needs_password(path), "{path}");
        }
        assert!(!is_login("DELETE", "/api/v1/session") && !is_login("GET", "/api/v1/session"));
        assert!(is_media("/api/v1/streaming/0/hls/index.m3u8"));
        assert!(is_media("/api/v1/recordings/17/download"));
        assert!(is_media("/api/v1/streams/0/export.mp4"));
        assert!(!is_media("/api/v1/recordings/download"));
        assert!(!is_media("/api/v1/recordings/1/2/download"));
        assert!(!is_media("/api/v1/streams"));
    }

    proptest! {
        #[test]
        fn any_text_is_answered(a in "\\PC{0,30}", b in "[\\[\\]a-z:.%0-9/]{0,30}") {
            host_allowed(&a, &b, &[]);
            host_allowed(&b, &a, std::slice::from_ref(&a));
            origin_is_host(b.as_bytes(), Some(&a));
            needs_password(&b);
            is_media(&b);
        }
    }
}
