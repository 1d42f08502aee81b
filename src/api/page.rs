//! The web page and what it loads, embedded at build time from `web/` (`src/build.rs`).

use super::Reply;

/// One file of the page.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Asset {
    /// Path of its URL.
    pub path: &'static str,
    pub content_type: &'static str,
    pub body: &'static [u8],
}

// `ASSETS`, by rising path.
include!(concat!(env!("OUT_DIR"), "/assets.rs"));

/// Nothing from elsewhere, nothing inline, in nobody else's frame. `no-cache`: after an update of the
/// recorder the browser must not run the old page against the new API.
const HEADERS: &[(&str, &str)] = &[
    (
        "Content-Security-Policy",
        "default-src 'self'; base-uri 'none'; form-action 'self'; frame-ancestors 'self'",
    ),
    ("Referrer-Policy", "no-referrer"),
    ("Cache-Control", "no-cache"),
];

/// The file with this URL path.
pub fn find(path: &str) -> Option<&'static Asset> {
    ASSETS.iter().find(|asset| asset.path == path)
}

/// `GET /` and what it loads
pub fn get(asset: &Asset) -> Reply {
    Reply::Bytes { content_type: asset.content_type, body: asset.body, headers: HEADERS }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(path: &str) -> &'static str {
        std::str::from_utf8(find(path).expect(path).body).expect("UTF-8")
    }

    #[test]
    fn the_page_loads_nothing_that_is_not_embedded() {
        let page = text("/");
        let links = page.split(['"', '\'']).filter(|part| part.starts_with('/'));
        let mut count = 0;
        for link in links {
            assert!(find(link).is_some(), "{link} is not embedded");
            count += 1;
        }
        assert!(count >= 2, "a script and a style sheet");
    }

    #[test]
    fn the_page_needs_nothing_inline_and_nothing_from_elsewhere() {
        let page = text("/");
        assert!(!page.contains("style=") && !page.contains("<style"));
        assert!(!page.split_whitespace().any(|word| word.starts_with("on") && word.contains('=')));
        assert!(
            page.matches("<script").count() == page.matches("<script type=\"module\" src=").count()
        );
        for asset in ASSETS.iter().filter(|asset| asset.content_type.starts_with("text/")) {
            let body = String::from_utf8_lossy(asset.body);
            assert!(!body.contains("https://") && !body.contains("innerHTML"), "{}", asset.path);
        }
    }

    #[test]
    fn one_file_alone_calls_fetch() {
        for asset in ASSETS.iter().filter(|asset| asset.path.ends_with(".js")) {
            let calls = String::from_utf8_lossy(asset.body).contains("fetch(");
            assert_eq!(calls, asset.path == "/src/api.js", "{}", asset.path);
        }
    }
}
