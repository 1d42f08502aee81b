//! The passwords inside a stream's URL: hiding them, and keeping those that come back hidden.
//!
//! In here: total functions over text; any input gives an answer, for they also run on what older
//! versions stored. Not in here: which URLs are accepted (`config/stream.rs`), what a camera gets to
//! see (`ingest/`). Keeps PURE-CORE.

use std::ops::Range;

/// What stands in an answer where a password was, and in a PUT where it is to stay.
pub const MASK: &str = "***";

/// Names that passwords have in paths and queries, in any case, as the end of a longer name too.
const PASSWORD_KEYS: [&str; 4] = ["password", "passwd", "pass", "pwd"];
/// Names that the user has there.
const USER_KEYS: [&str; 3] = ["username", "user", "usr"];

/// A URL cut into the pieces that matter here; put together they are the whole text again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Parts<'a> {
    /// With `://`.
    scheme: &'a str,
    /// What stands before the last `@`; `None` without any.
    userinfo: Option<&'a str>,
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
    Parts { scheme, userinfo, host_port, rest }
}

/// User, and where the password begins. A `:` that is written as `%3A` separates nothing for a camera,
/// but whoever wrote it meant a password.
fn split_userinfo(userinfo: &str) -> (&str, Option<usize>) {
    let escaped = || find_ignoring_case(userinfo, "%3a").map(|at| (at, "%3a".len()));
    match userinfo.find(':').map(|at| (at, 1)).or_else(escaped) {
        Some((at, len)) => (&userinfo[..at], Some(at + len)),
        None => (userinfo, None),
    }
}

/// What a URL says about who logs in, in the order of the text.
#[derive(Debug, Default)]
struct Login<'a> {
    users: Vec<&'a str>,
    passwords: Vec<Password>,
}

#[derive(Clone, Debug)]
struct Password {
    /// The name before its `=`; empty for the one before the `@`.
    key: &'static str,
    /// In the whole URL.
    range: Range<usize>,
}

fn login(url: &str) -> Login<'_> {
    let Parts { scheme, userinfo, rest, .. } = split(url);
    let mut login = Login::default();
    if let Some(userinfo) = userinfo {
        let (user, password) = split_userinfo(userinfo);
        login.users.push(user);
        if let Some(at) = password {
            let range = scheme.len() + at..scheme.len() + userinfo.len();
            login.passwords.push(Password { key: "", range });
        }
    }
    let start = url.len() - rest.len();
    let mut from = 0;
    while let Some(at) = rest[from..].find('=').map(|n| from + n) {
        from = at + 1;
        let (before, value) = (&rest[..at], &rest[from..]);
        let named = |key: &&&str| ends_ignoring_case(before, key);
        if let Some(key) = PASSWORD_KEYS.iter().find(named) {
            let len = value_len(before, &before[..at - key.len()], value);
            login.passwords.push(Password { key, range: start + from..start + from + len });
            from += len;
        } else if USER_KEYS.iter().any(|key| named(&key)) {
            let len = value_len(before, "", value);
            login.users.push(&value[..len]);
            from += len;
        }
    }
    login
}

/// How long the value is that `rest` begins with. In a path it ends at `/`, `?`, `&`, `#`; in a query
/// the first two may belong to it. Xiongmai cameras take `/user=admin_password=x_channel=1_stream=0.sdp`,
/// where `_channel=` ends it; behind a `?` or `&` it does not, or half of a password would be shown.
fn value_len(before: &str, separator: &str, rest: &str) -> usize {
    let ends: &[char] = if before.contains('?') { &['&', '#'] } else { &['&', '#', '/', '?'] };
    let len = rest.find(ends).unwrap_or(rest.len());
    if separator.ends_with(['&', '?', ';']) {
        return len;
    }
    let is_next_name = |at: &usize| {
        let name = &rest[at + 1..len];
        let name_len = name.find(|c: char| !c.is_ascii_alphanumeric()).unwrap_or(name.len());
        name_len > 0 && name[name_len..].starts_with('=')
    };
    rest[..len].match_indices('_').map(|(at, _)| at).find(is_next_name).unwrap_or(len)
}

fn ends_ignoring_case(text: &str, end: &str) -> bool {
    let start = text.len().checked_sub(end.len());
    start.and_then(|at| text.get(at..)).is_some_and(|tail| tail.eq_ignore_ascii_case(end))
}

fn find_ignoring_case(text: &str, part: &str) -> Option<usize> {
    text.to_ascii_lowercase().find(part)
}

/// Host without port; the brackets of an IPv6 address stay.
fn host(host_port: &str) -> &str {
    match (host_port.rfind(':'), host_port.rfind(']')) {
        (Some(colon), Some(bracket)) if colon < bracket => host_port,
        (Some(colon), _) => &host_port[..colon],
        (None, _) => host_port,
    }
}

/// `url` with `***` for each password in it (even an empty one).
pub fn mask(url: &str) -> String {
    let mut out = url.to_owned();
    for password in login(url).passwords.into_iter().rev() {
        out.replace_range(password.range, MASK);
    }
    out
}

/// Whether a password is the `***` that stands for "as it was".
pub fn has_masked_password(url: &str) -> bool {
    login(url).passwords.into_iter().any(|password| &url[password.range] == MASK)
}

/// Whether a password that belongs to `a` may be sent where `b` points: same user, same host.
pub fn same_user_and_host(a: &str, b: &str) -> bool {
    let host_of = |url| host(split(url).host_port);
    login(a).users == login(b).users && host_of(a).eq_ignore_ascii_case(host_of(b))
}

/// `url` with the password of `old` for each `***`; `None` where `old` has none in that place.
pub fn with_password_of(url: &str, old: &str) -> Option<String> {
    let (masked, stored) = (login(url).passwords, login(old).passwords);
    let mut out = url.to_owned();
    for (n, password) in masked.iter().enumerate().rev() {
        if &url[password.range.clone()] != MASK {
            continue;
        }
        let earlier = masked[..n].iter().filter(|other| other.key == password.key).count();
        let kept = stored.iter().filter(|other| other.key == password.key).nth(earlier)?;
        out.replace_range(password.range.clone(), &old[kept.range.clone()]);
    }
    Some(out)
}

/// Whether an `@` stands behind host and port: then a password may have been cut in two.
pub(super) fn has_late_at(url: &str) -> bool {
    split(url).rest.contains('@')
}

/// Whether the `:` between user and password is written as `%3A`: then a camera gets both as the user.
pub(super) fn has_escaped_colon(url: &str) -> bool {
    let userinfo = split(url).userinfo.unwrap_or_default();
    !userinfo.contains(':') && find_ignoring_case(userinfo, "%3a").is_some()
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
        check_mask("rtsp://admin%3Asecret@cam/live", "rtsp://admin%3A***@cam/live");
        check_mask("", "");
    }

    #[test]
    fn passwords_in_paths_and_queries_are_hidden() {
        for (url, want) in [
            ("cam/?user=admin&password=X&channel=1", "cam/?user=admin&password=***&channel=1"),
            ("cam/1?PWD=a/b?c_d=e&x=1#f", "cam/1?PWD=***&x=1#f"),
            ("cam/1?Passwd=", "cam/1?Passwd=***"),
            ("cam?pass=a=b&loginPass=c", "cam?pass=***&loginPass=***"),
            (
                "cam/user=admin_password=X_y_channel=1_stream=0.sdp?real_stream",
                "cam/user=admin_password=***_channel=1_stream=0.sdp?real_stream",
            ),
            ("cam/?user=a_password=X_channel=1", "cam/?user=a_password=***_channel=1"),
            ("cam/user=admin_password=_channel=1", "cam/user=admin_password=***_channel=1"),
            ("cam/user=a&password=x_y=z&channel=1", "cam/user=a&password=***&channel=1"),
            ("cam/password=X/live", "cam/password=***/live"),
            ("cam/password/live?passive=1", "cam/password/live?passive=1"),
        ] {
            check_mask(&format!("rtsp://u:p@{url}"), &format!("rtsp://u:***@{want}"));
            check_mask(&format!("rtsp://{url}"), &format!("rtsp://{want}"));
        }
    }

    #[test]
    fn a_password_stays_only_with_its_user_and_host() {
        let same = |a, b| same_user_and_host(a, b);
        assert!(same("rtsp://u:a@Cam:554/1", "rtsp://u:***@cam:8554/2"));
        assert!(same("rtsp://u:a@[::1]:554/1", "rtsp://u:***@[::1]/1"));
        assert!(!same("rtsp://u:a@cam/1", "rtsp://v:***@cam/1"));
        assert!(!same("rtsp://u:a@cam/1", "rtsp://u:***@cam2/1"));
        assert!(!same("rtsp://u:a@cam/1", "rtsp://u:***@cam@evil/1"));
        assert!(same("rtsp://cam/?user=u&pwd=a&c=1", "rtsp://cam/?user=u&pwd=***&c=2"));
        assert!(!same("rtsp://cam/?user=u&pwd=a", "rtsp://cam/?user=v&pwd=***"));
        assert!(!same("rtsp://cam/?user=u&pwd=a", "rtsp://evil/?user=u&pwd=***"));
    }

    #[test]
    fn the_old_password_is_put_back() {
        let put = |new, old| with_password_of(new, old);
        assert_eq!(
            put("rtsp://u:***@cam/2", "rtsp://u:p@:w@cam/1").as_deref(),
            Some("rtsp://u:p@:w@cam/2")
        );
        assert_eq!(put("rtsp://u:***@cam/2", "rtsp://u@cam/1"), None);
        assert_eq!(
            put("rtsp://u:***@cam/2?pwd=***&pass=new", "rtsp://u:a@cam/1?pwd=b&pass=c").as_deref(),
            Some("rtsp://u:a@cam/2?pwd=b&pass=new")
        );
        assert_eq!(put("rtsp://cam/?pwd=***", "rtsp://cam/?password=b"), None);
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

        #[test]
        fn no_password_survives_masking_wherever_it_stands(
            password in "Q[!\"$-.0-9:;<=>A-Z_a-z]{0,20}Q",
            key in "(password|PASSWD|Pass|pWd)",
            place in 0..4,
        ) {
            // In a path of underscores the first `_name=` ends it; elsewhere any text is taken.
            let plain = password.replace(['&', '_', '='], "-");
            let queried = password.replace('&', "-");
            let url = match place {
                0 => format!("rtsp://cam/?user=admin&{key}={queried}&channel=1"),
                1 => format!("rtsp://u:{queried}@cam/live?{key}={queried}"),
                2 => format!("rtsp://cam/user=admin_{key}={plain}_channel=1_stream=0.sdp"),
                _ => format!("rtsp://cam/user=admin&{key}={queried}"),
            };
            let masked = mask(&url);
            prop_assert!(!masked.contains('Q'), "{}", masked);
            prop_assert!(has_masked_password(&masked));
            prop_assert!(same_user_and_host(&masked, &url));
            prop_assert_eq!(with_password_of(&masked, &url), Some(url));
        }

        #[test]
        fn what_is_masked_can_be_put_back(
            url in "(rtsp://)?([a-z%3A:]{0,8}@)?cam[/?](([a-z]{0,3}|user|usr|pass|pwd|PASSWORD)[=_&/?#;*]{1,2}){0,8}",
        ) {
            let masked = mask(&url);
            prop_assert_eq!(mask(&masked), masked.clone());
            prop_assert!(same_user_and_host(&masked, &url));
            prop_assert_eq!(with_password_of(&masked, &url), Some(url));
        }
    }
}
