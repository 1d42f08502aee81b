//! The password inside a stream's URL: hiding it, and keeping it when it comes back hidden.
//!
//! In here: total functions over text; any input gives an answer, for they also run on what older
//! versions stored. Not in here: which URLs are accepted (`config/stream.rs`), what a camera gets to
//! see (`ingest/`). Keeps PURE-CORE.

/// What stands in an answer where a password was, and in a PUT where it is to stay.
pub const MASK: &str = "***";

/// A URL cut into the pieces that matter here; put together they are the whole text again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Parts<'a> {
    /// With `://`.
    scheme: &'a str,
    /// `None` without any `@`.
    user: Option<&'a str>,
    /// What follows the first `:` before the last `@`.
    password: Option<&'a str>,
    /// Host and port.
    host_port: &'a str,
    /// From the first `/`, `?` or `#` on.
    rest: &'a str,
}

fn split(url: &str) -> Parts<'_> {
    let scheme_len = url.find("://").map_or(0, |at| at + "://".len());
    let (scheme, after) = url.split_at(scheme_len);
    let (authority, rest) = after.split_at(after.find(['/', '?', '#']).unwrap_or(after.len()));
    // The last `@`: people write passwords with an `@` into the URL as they are, and hosts have none.
    let (userinfo, host_port) = match authority.rsplit_once('@') {
        Some((userinfo, host_port)) => (Some(userinfo), host_port),
        None => (None, authority),
    };
    let (user, password) = match userinfo.map(|info| info.split_once(':').ok_or(info)) {
        Some(Ok((user, password))) => (Some(user), Some(password)),
        Some(Err(user)) => (Some(user), None),
        None => (None, None),
    };
    Parts { scheme, user, password, host_port, rest }
}

/// Host without port; the brackets of an IPv6 address stay.
fn host(host_port: &str) -> &str {
    match (host_port.rfind(':'), host_port.rfind(']')) {
        (Some(colon), Some(bracket)) if colon < bracket => host_port,
        (Some(colon), _) => &host_port[..colon],
        (None, _) => host_port,
    }
}

/// `url` with `***` for its password, if it has one (even an empty one).
pub fn mask(url: &str) -> String {
    with_password(url, MASK)
}

/// Whether the password is the `***` that stands for "as it was".
pub fn has_masked_password(url: &str) -> bool {
    split(url).password == Some(MASK)
}

/// Whether a password that belongs to `a` may be sent where `b` points: same user, same host.
pub fn same_user_and_host(a: &str, b: &str) -> bool {
    let (a, b) = (split(a), split(b));
    a.user == b.user && host(a.host_port).eq_ignore_ascii_case(host(b.host_port))
}

/// `url` with the password of `old`; `None` where either has none.
pub fn with_password_of(url: &str, old: &str) -> Option<String> {
    split(url).password?;
    Some(with_password(url, split(old).password?))
}

fn with_password(url: &str, password: &str) -> String {
    let Parts { scheme, user, password: old, host_port, rest } = split(url);
    match (user, old) {
        (Some(user), Some(_)) => format!("{scheme}{user}:{password}@{host_port}{rest}"),
        _ => url.to_owned(),
    }
}

/// Whether an `@` stands behind host and port: then a password may have been cut in two.
pub(super) fn has_late_at(url: &str) -> bool {
    split(url).rest.contains('@')
}

/// Host and port text of `url`, for the rules on what is accepted; the port is `None` without a `:`.
pub(super) fn host_and_port(url: &str) -> (&str, Option<&str>) {
    let host_port = split(url).host_port;
    let host = host(host_port);
    (host, host_port[host.len()..].strip_prefix(':'))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[track_caller]
    fn check_mask(url: &str, want: &str) {
        assert_eq!(mask(url), want, "{url}");
    }

    #[test]
    fn passwords_are_hidden() {
        check_mask("rtsp://admin:secret@cam/live", "rtsp://admin:***@cam/live");
        check_mask("rtsp://admin:s@cr:t@cam:554/live", "rtsp://admin:***@cam:554/live");
        check_mask("rtsp://admin:@cam/live", "rtsp://admin:***@cam/live");
        check_mask("rtsp://admin@cam/live", "rtsp://admin@cam/live");
        check_mask("rtsp://cam/live?to=a:b@c", "rtsp://cam/live?to=a:b@c");
        check_mask("rtsp://[::1]:554/live", "rtsp://[::1]:554/live");
        check_mask("testpattern://", "testpattern://");
        check_mask("", "");
    }

    #[test]
    fn a_password_stays_only_with_its_user_and_host() {
        let same = |a, b| same_user_and_host(a, b);
        assert!(same("rtsp://u:a@Cam:554/1", "rtsp://u:***@cam:8554/2"));
        assert!(same("rtsp://u:a@[::1]:554/1", "rtsp://u:***@[::1]/1"));
        assert!(!same("rtsp://u:a@cam/1", "rtsp://v:***@cam/1"));
        assert!(!same("rtsp://u:a@cam/1", "rtsp://u:***@cam2/1"));
        assert!(!same("rtsp://u:a@cam/1", "rtsp://u:***@cam@evil/1"));
    }

    #[test]
    fn the_old_password_is_put_back() {
        let put = |new, old| with_password_of(new, old);
        assert_eq!(
            put("rtsp://u:***@cam/2", "rtsp://u:p@:w@cam/1").as_deref(),
            Some("rtsp://u:p@:w@cam/2")
        );
        assert_eq!(put("rtsp://u:***@cam/2", "rtsp://u@cam/1"), None);
    }

    #[test]
    fn host_and_port_are_found() {
        assert_eq!(host_and_port("rtsp://u:p@cam:554/x"), ("cam", Some("554")));
        assert_eq!(host_and_port("rtsp://[fe80::1]:554/x"), ("[fe80::1]", Some("554")));
        assert_eq!(host_and_port("rtsp://[fe80::1]/x"), ("[fe80::1]", None));
        assert_eq!(host_and_port("rtsp:///x"), ("", None));
        assert_eq!(host_and_port("rtsp://cam:/x"), ("cam", Some("")));
    }

    proptest! {
        #[test]
        fn any_text_has_an_answer(url in "\\PC{0,40}", old in "[a-z:/@?#\\[\\]*]{0,40}") {
            prop_assert_eq!(mask(&mask(&url)), mask(&url));
            prop_assert_eq!(mask(&mask(&old)), mask(&old));
            let _ = same_user_and_host(&url, &old);
            let _ = with_password_of(&url, &old);
            let _ = host_and_port(&old);
        }

        #[test]
        fn no_password_survives_masking(password in "[!\"$-.0-9:;<=>@A-Z_a-z]{1,20}") {
            let url = format!("rtsp://user:{password}@cam:554/live");
            let masked = mask(&url);
            prop_assert_eq!(&masked, "rtsp://user:***@cam:554/live");
            prop_assert!(has_masked_password(&masked));
            prop_assert!(same_user_and_host(&masked, &url));
            prop_assert_eq!(with_password_of(&masked, &url), Some(url));
        }
    }
}
