//! The web page and what it loads, embedded at build time from `web/dist` (`src/build.rs`).
//!
//! Files lie in the program's read-only data, plain and as gzip. Names under `/assets/` hold a hash of the
//! content, so a browser keeps them for good; the page itself is asked for each time.

use super::Reply;

/// One file of the page.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Asset {
    /// Path of its URL.
    pub path: &'static str,
    pub content_type: &'static str,
    pub body: &'static [u8],
    /// `body` in the content coding `gzip`; `None` where the page was not built.
    pub gzip: Option<&'static [u8]>,
}

// `ASSETS`, by rising path.
include!(concat!(env!("OUT_DIR"), "/assets.rs"));

type Header = (&'static str, &'static str);

/// Nothing from elsewhere, nothing inline, in nobody else's frame. `blob:` is what MediaSource and the pictures
/// of a stream's test are to an element; only the page's own script can make one.
const POLICY: Header = (
    "Content-Security-Policy",
    "default-src 'self'; img-src 'self' blob:; media-src 'self' blob:; object-src 'none'; base-uri 'none'; \
     form-action 'self'; frame-ancestors 'self'",
);
const REFERRER: Header = ("Referrer-Policy", "no-referrer");
const VARY: Header = ("Vary", "Accept-Encoding");
const GZIP: Header = ("Content-Encoding", "gzip");
/// After an update of the recorder the browser must not run the old page against the new API.
const ASK: Header = ("Cache-Control", "no-cache");
/// RFC 8246: a reload does not ask for it again.
const KEEP: Header = ("Cache-Control", "public, max-age=31536000, immutable");

const PAGE: &[Header] = &[POLICY, REFERRER, VARY, ASK];
const PAGE_GZIP: &[Header] = &[POLICY, REFERRER, VARY, ASK, GZIP];
const HASHED: &[Header] = &[POLICY, REFERRER, VARY, KEEP];
const HASHED_GZIP: &[Header] = &[POLICY, REFERRER, VARY, KEEP, GZIP];

/// The file with this URL path.
pub fn find(path: &str) -> Option<&'static Asset> {
    ASSETS.iter().find(|asset| asset.path == path)
}

/// `GET /` and what it loads, for a client that sent this `Accept-Encoding`.
pub fn get(asset: &Asset, accept_encoding: Option<&str>) -> Reply {
    let gzip = asset.gzip.filter(|_| accept_encoding.is_some_and(accepts_gzip));
    let headers = match (asset.path.starts_with("/assets/"), gzip.is_some()) {
        (false, false) => PAGE,
        (false, true) => PAGE_GZIP,
        (true, false) => HASHED,
        (true, true) => HASHED_GZIP,
    };
    let body = gzip.unwrap_or(asset.body);
    Reply::Bytes { content_type: asset.content_type, body, headers }
}

/// RFC 9110 section 12.5.3, for the one coding there is: `gzip` or its old name or `*`, unless its weight is 0.
fn accepts_gzip(accept_encoding: &str) -> bool {
    let weight = |name: &str| {
        accept_encoding.split(',').find_map(|item| {
            let mut parts = item.split(';').map(str::trim);
            let is_it = parts.next().is_some_and(|coding| coding.eq_ignore_ascii_case(name));
            let q = parts.find_map(|part| part.strip_prefix("q=").or(part.strip_prefix("Q=")));
            is_it.then(|| q.is_none_or(|q| q.parse::<f32>().is_ok_and(|q| q > 0.0)))
        })
    };
    weight("gzip").or_else(|| weight("x-gzip")).or_else(|| weight("*")).unwrap_or(false)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(path: &str) -> &'static str {
        std::str::from_utf8(find(path).expect(path).body).expect("UTF-8")
    }

    #[test]
    fn what_a_client_accepts() {
        for (value, want) in [
            ("gzip, deflate", true),
            ("deflate, GZIP;q=0.5", true),
            ("br;q=1.0, *;q=0.1", true),
            ("x-gzip", true),
            ("", false),
            ("identity", false),
            ("gzip;q=0", false),
            ("gzip; q=0.000, *", false),
            ("gzip;q=x", false),
            ("*;q=0", false),
            ("notgzip", false),
        ] {
            assert_eq!(accepts_gzip(value), want, "{value}");
        }
    }

    #[test]
    fn a_hashed_file_is_kept_and_the_page_is_asked_for() {
        const BODIES: (&[u8], &[u8]) = (b"plain", b"small");
        let asset = |path| Asset {
            path,
            content_type: "text/javascript; charset=utf-8",
            body: BODIES.0,
            gzip: Some(BODIES.1),
        };
        let check = |path, accept, want_body: &[u8], cache: &str, is_gzip| {
            let Reply::Bytes { body, headers, .. } = get(&asset(path), accept) else {
                panic!("bytes");
            };
            assert_eq!(body, want_body, "{path}");
            assert!(headers.contains(&VARY) && headers.contains(&POLICY));
            assert!(headers.contains(&("Cache-Control", cache)), "{path}: {headers:?}");
            assert_eq!(headers.contains(&GZIP), is_gzip, "{path}");
        };
        check("/", None, BODIES.0, "no-cache", false);
        check("/", Some("gzip"), BODIES.1, "no-cache", true);
        check("/assets/a-1.js", Some("br"), BODIES.0, KEEP.1, false);
        check("/assets/a-1.js", Some("gzip"), BODIES.1, KEEP.1, true);
    }

    #[test]
    fn the_page_loads_nothing_that_is_not_embedded() {
        let page = text("/");
        let links = page.split(['"', '\'']).filter(|part| part.starts_with('/'));
        for link in links {
            assert!(find(link).is_some(), "{link} is not embedded");
        }
        // Without a built page this is all there is.
        assert!(page.contains("./build.sh") || page.contains("<script type=\"module\""), "{page}");
    }

    #[test]
    fn the_page_needs_nothing_inline_and_nothing_from_elsewhere() {
        let page = text("/");
        assert!(!page.contains("style=") && !page.contains("<style") && !page.contains("http"));
        assert!(!page.split_whitespace().any(|word| word.starts_with("on") && word.contains('=')));
        for (at, _) in page.match_indices("<script") {
            assert!(page[at..].contains(" src=\"/assets/"), "{page}");
        }
    }
}
