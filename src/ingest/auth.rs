//! Signing of RTSP requests: Basic and Digest (RFC 2617, RFC 7616 with MD5 and SHA-256).
//!
//! In here: reading challenges, choosing the best, the answer, and how often to try again.
//! Not in here: sending (`session_core.rs`). Nothing here shows the password in `Debug` or errors.

use std::fmt;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use md5::{Digest as _, Md5};
use sha2::Sha256;

use super::url::Credentials;

/// Most challenges read from one answer; a camera sends two.
const CHALLENGES_MAX: usize = 8;
/// Most parameters read of one challenge.
const PARAMS_MAX: usize = 16;

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Method {
    Basic,
    DigestMd5,
    DigestSha256,
}

/// One `WWW-Authenticate` challenge that can be answered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Challenge {
    method: Method,
    realm: String,
    nonce: String,
    opaque: Option<String>,
    /// As the camera spelled it; sent back only if it came.
    algorithm: Option<String>,
    has_qop_auth: bool,
}

/// The state of authentication on one connection.
pub struct Auth {
    credentials: Option<Credentials>,
    challenge: Option<Challenge>,
    cnonce: String,
    /// Requests signed with the current nonce (RFC 2617 section 3.2.2, `nc`).
    nonce_count: u32,
    /// Refusals of signed requests since the last success.
    refused: u32,
}

impl fmt::Debug for Auth {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Auth").field("challenge", &self.challenge).finish_non_exhaustive()
    }
}

impl Auth {
    /// `seed` is random: it becomes the client nonce.
    pub fn new(credentials: Option<Credentials>, seed: u64) -> Self {
        let cnonce = format!("{seed:016x}");
        Self { credentials, challenge: None, cnonce, nonce_count: 0, refused: 0 }
    }

    /// Takes in a 401. True: sign the request again and resend it. False: the camera refuses these
    /// credentials. One refusal of a signed request may be a nonce that became old (quirk 5: an Axis
    /// M5525 changes it after 150 s and says `stale=FALSE`); two in a row are not.
    pub fn refused<'a>(&mut self, headers: impl Iterator<Item = &'a str>) -> bool {
        let Some(challenge) = best_challenge(headers) else { return false };
        if self.credentials.is_none() {
            return false;
        }
        if let Some(old) = &self.challenge {
            self.refused += 1;
            let is_new = old.nonce != challenge.nonce && challenge.method != Method::Basic;
            if self.refused >= 2 || !is_new {
                return false;
            }
        }
        self.nonce_count = 0;
        self.challenge = Some(challenge);
        true
    }

    /// Whether a challenge was just received, and nothing that was signed by it refused yet.
    pub fn is_fresh(&self) -> bool {
        self.challenge.is_some() && self.refused == 0
    }

    /// A request was answered with anything but 401.
    pub fn accepted(&mut self) {
        self.refused = 0;
    }

    /// Value of the `Authorization` header, `None` before the first challenge.
    pub fn sign(&mut self, method: &str, uri: &str) -> Option<String> {
        let challenge = self.challenge.as_ref()?;
        let credentials = self.credentials.as_ref()?;
        self.nonce_count = self.nonce_count.wrapping_add(1);
        Some(match challenge.method {
            Method::Basic => {
                let login = format!("{}:{}", credentials.user, credentials.password);
                format!("Basic {}", STANDARD.encode(login))
            }
            Method::DigestMd5 | Method::DigestSha256 => {
                let hash = match challenge.method {
                    Method::DigestSha256 => |s: String| hex(&Sha256::digest(s)),
                    _ => |s: String| hex(&Md5::digest(s)),
                };
                let nonce = (self.nonce_count, self.cnonce.as_str());
                digest(challenge, credentials, (method, uri), nonce, hash)
            }
        })
    }
}

/// RFC 2617 section 3.2.2; without `qop` the older form of RFC 2069, which most cameras want.
fn digest(
    challenge: &Challenge,
    credentials: &Credentials,
    (method, uri): (&str, &str),
    (nonce_count, cnonce): (u32, &str),
    hash: fn(String) -> String,
) -> String {
    let Challenge { realm, nonce, .. } = challenge;
    let user = &credentials.user;
    let ha1 = hash(format!("{user}:{realm}:{}", credentials.password));
    let ha2 = hash(format!("{method}:{uri}"));
    let (response, qop) = if challenge.has_qop_auth {
        let nc = format!("{nonce_count:08x}");
        let response = hash(format!("{ha1}:{nonce}:{nc}:{cnonce}:auth:{ha2}"));
        (response, format!(", qop=auth, nc={nc}, cnonce=\"{cnonce}\""))
    } else {
        (hash(format!("{ha1}:{nonce}:{ha2}")), String::new())
    };
    let user = user.replace('\\', "\\\\").replace('"', "\\\"");
    let mut out = format!(
        "Digest username=\"{user}\", realm=\"{realm}\", nonce=\"{nonce}\", uri=\"{uri}\", \
         response=\"{response}\""
    );
    if let Some(algorithm) = &challenge.algorithm {
        out.push_str(&format!(", algorithm={algorithm}"));
    }
    if let Some(opaque) = &challenge.opaque {
        out.push_str(&format!(", opaque=\"{opaque}\""));
    }
    out.push_str(&qop);
    out
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|b| format!("{b:02x}")).collect()
}

/// Digest SHA-256 before MD5 before Basic, whatever order the camera names them in (quirk 11).
fn best_challenge<'a>(headers: impl Iterator<Item = &'a str>) -> Option<Challenge> {
    headers.flat_map(parse_challenges).take(CHALLENGES_MAX).max_by_key(|c| c.method)
}

/// All challenges of one header value that can be answered; others are left out.
fn parse_challenges(header: &str) -> Vec<Challenge> {
    let mut found = Vec::new();
    let mut rest = header;
    while let Some((scheme, params, after)) = next_challenge(rest) {
        found.extend(challenge(scheme, &params));
        if found.len() >= CHALLENGES_MAX {
            break;
        }
        rest = after;
    }
    found
}

type Params<'a> = Vec<(&'a str, &'a str)>;

/// Scheme, parameters and what follows. A word without `=` behind it begins the next challenge.
fn next_challenge(text: &str) -> Option<(&str, Params<'_>, &str)> {
    let text = text.trim_start_matches([' ', '\t', ',']);
    let end = text.find([' ', '\t', ',']).unwrap_or(text.len());
    let (scheme, mut rest) = text.split_at(end);
    if scheme.is_empty() {
        return None;
    }
    let mut params = Vec::new();
    loop {
        let at = rest.trim_start_matches([' ', '\t', ',']);
        let name_end = at.find([' ', '\t', ',', '=', '"']).unwrap_or(at.len());
        let (name, after) = at.split_at(name_end);
        let Some(value) = after.trim_start().strip_prefix('=') else {
            // A stray quote or an empty word would be found for ever: then the rest is given up.
            return Some((scheme, params, if name.is_empty() { "" } else { at }));
        };
        let (value, after) = param_value(value.trim_start());
        if params.len() < PARAMS_MAX {
            params.push((name, value));
        }
        rest = after;
    }
}

/// A quoted or bare value and what follows it.
fn param_value(text: &str) -> (&str, &str) {
    if let Some(quoted) = text.strip_prefix('"') {
        let mut is_escaped = false;
        for (at, c) in quoted.char_indices() {
            match c {
                '"' if !is_escaped => return (&quoted[..at], &quoted[at + 1..]),
                '\\' => is_escaped = !is_escaped,
                _ => is_escaped = false,
            }
        }
        return (quoted, "");
    }
    let end = text.find([',', ' ', '\t']).unwrap_or(text.len());
    text.split_at(end)
}

fn challenge(scheme: &str, params: &Params<'_>) -> Option<Challenge> {
    let get = |name: &str| {
        let param = params.iter().find(|(n, _)| n.eq_ignore_ascii_case(name));
        param.map(|&(_, value)| value.trim())
    };
    let algorithm = get("algorithm");
    let method = if scheme.eq_ignore_ascii_case("basic") {
        Method::Basic
    } else if !scheme.eq_ignore_ascii_case("digest") {
        return None;
    } else {
        match algorithm.unwrap_or("MD5").to_ascii_uppercase().as_str() {
            "MD5" | "" => Method::DigestMd5,
            "SHA-256" => Method::DigestSha256,
            _ => return None,
        }
    };
    let nonce = get("nonce");
    if method != Method::Basic && nonce.is_none() {
        return None;
    }
    let qop = get("qop").unwrap_or("");
    Some(Challenge {
        method,
        realm: get("realm").unwrap_or("").to_owned(),
        nonce: nonce.unwrap_or("").to_owned(),
        opaque: get("opaque").map(str::to_owned),
        algorithm: algorithm.filter(|a| !a.is_empty()).map(str::to_owned),
        has_qop_auth: qop.split(',').any(|q| q.trim().eq_ignore_ascii_case("auth")),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn auth(user: &str, password: &str) -> Auth {
        let credentials = Credentials { user: user.to_owned(), password: password.to_owned() };
        Auth::new(Some(credentials), 7)
    }

    #[track_caller]
    fn check_best(headers: &[&str], method: Method, realm: &str, nonce: &str) {
        let got = best_challenge(headers.iter().copied()).expect("a challenge");
        assert_eq!((got.method, got.realm.as_str(), got.nonce.as_str()), (method, realm, nonce));
    }

    #[test]
    fn challenges_of_real_cameras_are_understood() {
        check_best(&[r#"Basic realm="/""#], Method::Basic, "/", "");
        check_best(
            &[
                r#"Digest realm="IP Camera(12345)", nonce="ab,c", stale="FALSE""#,
                r#"Basic realm="x""#,
            ],
            Method::DigestMd5,
            "IP Camera(12345)",
            "ab,c",
        );
        check_best(
            &[r#"Basic realm="x", Digest realm="y" , nonce = "z", algorithm="MD5""#],
            Method::DigestMd5,
            "y",
            "z",
        );
        check_best(
            &[
                r#"Digest realm=r,nonce=n"#,
                r#"digest realm="r", nonce="m", algorithm=SHA-256, qop="auth""#,
            ],
            Method::DigestSha256,
            "r",
            "m",
        );
        assert_eq!(best_challenge(["Digest realm=\"x\"", "Bearer", ""].into_iter()), None);
        assert_eq!(best_challenge([r#"Digest nonce="x", algorithm=MD5-sess"#].into_iter()), None);
    }

    #[test]
    fn digest_answers_match_the_examples_of_the_standards() {
        // RFC 2617 section 3.5, without and with qop.
        let mut a = auth("Mufasa", "Circle Of Life");
        let nonce = "dcd98b7102dd2f0e8b11d0f600bfb0c093";
        let header = format!(r#"Digest realm="testrealm@host.com", nonce="{nonce}", qop="auth""#);
        assert!(a.refused([header.as_str()].into_iter()));
        a.cnonce = "0a4f113b".to_owned();
        let signed = a.sign("GET", "/dir/index.html").unwrap();
        assert!(signed.contains("response=\"6629fae49393a05397450978507c4ef1\""), "{signed}");
        assert!(signed.contains("qop=auth, nc=00000001, cnonce=\"0a4f113b\""), "{signed}");

        // RFC 7616 section 3.9.1, SHA-256.
        let mut a = auth("Mufasa", "Circle of Life");
        let header = r#"Digest realm="http-auth@example.org", qop="auth, auth-int", algorithm=SHA-256, nonce="7ypf/xlj9XXwfDPEoM4URrv/xwf94BcCAzFZH4GiTo0v", opaque="FQhe/qaU925kfnzjCev0ciny7QMkPqMAFRtzCUYo5tdS""#;
        assert!(a.refused([header].into_iter()));
        a.cnonce = "f2/wE4q74E6zIJEtWaHKaf5wv/H5QzzpXusqGemxURZJ".to_owned();
        let signed = a.sign("GET", "/dir/index.html").unwrap();
        let want = "753927fa0e85d155564e2e272a28d1802ca10daf4496794697cf8db5856cb6c1";
        assert!(signed.contains(want), "{signed}");
        assert!(signed.contains("opaque=\"FQhe/"), "{signed}");
    }

    #[test]
    fn digest_without_qop_is_the_older_form() {
        let mut a = auth("admin", "12345");
        assert!(a.refused([r#"Digest realm="IP Camera", nonce="n""#].into_iter()));
        let signed = a.sign("DESCRIBE", "rtsp://cam/1").unwrap();
        // md5(md5(admin:IP Camera:12345):n:md5(DESCRIBE:rtsp://cam/1))
        let ha1 = hex(&Md5::digest("admin:IP Camera:12345"));
        let ha2 = hex(&Md5::digest("DESCRIBE:rtsp://cam/1"));
        let want = hex(&Md5::digest(format!("{ha1}:n:{ha2}")));
        assert!(signed.contains(&want) && !signed.contains("qop"), "{signed}");
        assert!(!signed.contains("12345"), "{signed}");
    }

    #[test]
    fn one_new_nonce_is_tried_and_a_second_refusal_is_final() {
        let mut a = auth("u", "p");
        assert_eq!(a.sign("OPTIONS", "x"), None);
        assert!(a.refused([r#"Digest realm="r", nonce="1""#].into_iter()));
        a.accepted();
        assert!(a.refused([r#"Digest realm="r", nonce="2", stale=FALSE"#].into_iter()));
        assert!(a.sign("OPTIONS", "x").unwrap().contains("nonce=\"2\""));
        assert!(!a.refused([r#"Digest realm="r", nonce="3", stale=TRUE"#].into_iter()));
    }

    #[test]
    fn the_same_nonce_or_basic_is_never_tried_twice() {
        let mut a = auth("u", "p");
        assert!(a.refused([r#"Basic realm="r""#].into_iter()));
        assert_eq!(a.sign("OPTIONS", "x").as_deref(), Some("Basic dTpw"));
        assert!(!a.refused([r#"Basic realm="other""#].into_iter()));
        assert!(!Auth::new(None, 0).refused([r#"Basic realm="r""#].into_iter()));
        assert!(!auth("u", "p").refused(std::iter::empty()));
    }

    #[test]
    fn nothing_shows_the_password() {
        let mut a = auth("u", "secret");
        a.refused([r#"Basic realm="r""#].into_iter());
        assert!(!format!("{a:?}").contains("secret"));
    }

    proptest! {
        #[test]
        fn any_header_is_survived(header in "[a-zD\", =\\\\\u{e4}]{0,60}|Digest .{0,60}") {
            parse_challenges(&header);
        }
    }
}
