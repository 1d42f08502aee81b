//! A stream's configuration: fields, defaults, ranges.
//!
//! In here: the rules for each field and how a patch becomes a configuration. Not in here: rules
//! across streams, such as unique names (`nvr/`). Keeps PURE-CORE.

use std::fmt;
use std::ops::RangeInclusive;

use super::fingerprint::Fingerprint;
use super::settings::{MAX_STORAGE_SIZE_RANGE, RETENTION_DAYS_RANGE};
use super::transport::Transport;
use super::{FieldError, check_range, device, url};
pub use crate::media::format::VideoCodec;

/// Longest `url` in bytes.
pub const URL_BYTES_MAX: usize = 1024;
/// Longest `name` in characters.
pub const NAME_CHARS_MAX: usize = 64;
/// `width` and `height` in pixels, 0 for "as the source sends".
pub const SIDE_RANGE: RangeInclusive<u64> = 0..=8192;
/// `fps`, 0 for "as the source sends".
pub const FPS_RANGE: RangeInclusive<u64> = 0..=120;
/// `priority`, higher matters more.
pub const PRIORITY_RANGE: RangeInclusive<u64> = 0..=100;
/// `priority` of a stream that was added without one.
pub const PRIORITY_DEFAULT: u8 = 5;

/// One configured stream, as stored.
#[derive(Clone, PartialEq, Eq)]
pub struct StreamConfig {
    pub id: u32,
    pub name: String,
    /// With the camera's password in it: never logged, never answered; `url_masked` is for people.
    pub url: String,
    pub enabled: bool,
    /// Wished picture size and rate, 0 for "as the source sends".
    pub width: u16,
    pub height: u16,
    pub fps: u16,
    pub codec: VideoCodec,
    /// 0 to 100, higher matters more.
    pub priority: u8,
    pub record: bool,
    /// In place of the setting of that name.
    pub retention_days: Option<u32>,
    /// Bytes that recordings of this stream may take, beside the setting for all together; 0 for no limit.
    pub max_storage_size: Option<u64>,
    /// The small feed of the same camera, opened only while somebody looks at it. As secret as `url`;
    /// `sub_url_masked` is for people.
    pub sub_url: Option<String>,
    pub transport: Transport,
    /// What the camera's certificate must be; else the system's authorities decide.
    pub tls_fingerprint: Option<Fingerprint>,
}

/// Any subset of the changeable fields: the body of POST and PUT, each field already in its range.
/// The urls may hold `***` as password, which only a PUT can resolve.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct StreamPatch {
    pub name: Option<String>,
    pub url: Option<String>,
    pub enabled: Option<bool>,
    pub width: Option<u16>,
    pub height: Option<u16>,
    pub fps: Option<u16>,
    pub codec: Option<VideoCodec>,
    pub priority: Option<u8>,
    pub record: Option<bool>,
    /// `Some(None)` clears the override.
    pub retention_days: Option<Option<u32>>,
    pub max_storage_size: Option<Option<u64>>,
    pub sub_url: Option<Option<String>>,
    pub transport: Option<Transport>,
    /// `Some(None)` clears it.
    pub tls_fingerprint: Option<Option<Fingerprint>>,
}

impl StreamConfig {
    /// A new stream: the defaults with `patch` over them. Errors where `name` or `url` is missing, or a
    /// field breaks its rule.
    pub fn from_patch(id: u32, patch: &StreamPatch) -> Result<Self, FieldError> {
        let required = |field| FieldError::new(field, "is required");
        if patch.name.is_none() {
            return Err(required("name"));
        }
        let url = patch.url.as_deref().ok_or_else(|| required("url"))?;
        let sub_url = patch.sub_url.as_ref().and_then(Option::as_deref).unwrap_or_default();
        for (field, url) in [("url", url), ("sub_url", sub_url)] {
            if url::has_masked_password(url) {
                let what = "the password *** stands for a stored one, and a new stream has none; \
                            write the password itself (*** as password: %2A%2A%2A)";
                return Err(FieldError::new(field, what));
            }
        }
        Self::fresh(id).with(patch).checked()
    }

    /// This stream with `patch` over it. A `***` password in the patch means the stored one, and that
    /// only for the same user and host: else a camera's password could be sent to anybody. In `sub_url`
    /// it may be the one of `url`, too: it is the same camera.
    pub fn patched(&self, patch: &StreamPatch) -> Result<Self, FieldError> {
        let mut patch = patch.clone();
        if let Some(new) = &mut patch.url {
            resolve("url", new, &[&self.url])?;
        }
        if let Some(Some(new)) = &mut patch.sub_url {
            let stored: Vec<&str> =
                self.sub_url.as_deref().into_iter().chain([&*self.url]).collect();
            resolve("sub_url", new, &stored)?;
        }
        self.clone().with(&patch).checked()
    }

    /// The url as people may see it: `***` for the password.
    pub fn url_masked(&self) -> String {
        url::mask(&self.url)
    }

    /// The same of the sub-stream.
    pub fn sub_url_masked(&self) -> Option<String> {
        self.sub_url.as_deref().map(url::mask)
    }

    fn fresh(id: u32) -> Self {
        Self {
            id,
            name: String::new(),
            url: String::new(),
            enabled: true,
            width: 0,
            height: 0,
            fps: 0,
            codec: VideoCodec::H264,
            priority: PRIORITY_DEFAULT,
            record: true,
            retention_days: None,
            max_storage_size: None,
            sub_url: None,
            transport: Transport::Auto,
            tls_fingerprint: None,
        }
    }

    fn with(self, patch: &StreamPatch) -> Self {
        Self {
            id: self.id,
            name: patch.name.clone().unwrap_or(self.name),
            url: patch.url.clone().unwrap_or(self.url),
            enabled: patch.enabled.unwrap_or(self.enabled),
            width: patch.width.unwrap_or(self.width),
            height: patch.height.unwrap_or(self.height),
            fps: patch.fps.unwrap_or(self.fps),
            codec: patch.codec.unwrap_or(self.codec),
            priority: patch.priority.unwrap_or(self.priority),
            record: patch.record.unwrap_or(self.record),
            retention_days: patch.retention_days.unwrap_or(self.retention_days),
            max_storage_size: patch.max_storage_size.unwrap_or(self.max_storage_size),
            sub_url: patch.sub_url.clone().unwrap_or(self.sub_url),
            transport: patch.transport.unwrap_or(self.transport),
            tls_fingerprint: patch.tls_fingerprint.unwrap_or(self.tls_fingerprint),
        }
    }

    fn checked(self) -> Result<Self, FieldError> {
        check_name(&self.name)?;
        check_url("url", &self.url)?;
        self.sub_url.as_deref().map_or(Ok(()), |url| check_url("sub_url", url))?;
        self.check_local()?;
        check_range("width", self.width.into(), &SIDE_RANGE)?;
        check_range("height", self.height.into(), &SIDE_RANGE)?;
        check_range("fps", self.fps.into(), &FPS_RANGE)?;
        check_range("priority", self.priority.into(), &PRIORITY_RANGE)?;
        let days = self.retention_days.unwrap_or(0);
        check_range("retention_days", days.into(), &RETENTION_DAYS_RANGE)?;
        let size = self.max_storage_size.unwrap_or(0);
        check_range("max_storage_size", size, &MAX_STORAGE_SIZE_RANGE)?;
        let is_tls = self.url.starts_with("rtsps://");
        if self.tls_fingerprint.is_some() && !is_tls {
            let what = "is for a url that begins with rtsps://; null clears it";
            return Err(FieldError::new("tls_fingerprint", what));
        }
        if self.transport == Transport::Udp && is_tls {
            let what = "must be auto or tcp with rtsps://, for over UDP the pictures would not be encrypted, got udp";
            return Err(FieldError::new("transport", what));
        }
        Ok(self)
    }

    /// A local camera is recorded as H.264 or MJPEG, and is nobody's sub-stream: it would be opened twice.
    fn check_local(&self) -> Result<(), FieldError> {
        if self.sub_url.as_deref().is_some_and(device::is_local) {
            let what = "must begin with rtsp://, rtsps:// or testpattern://; a camera with v4l2:// has no second feed";
            return Err(FieldError::new("sub_url", what));
        }
        if device::is_local(&self.url) && self.codec == VideoCodec::H265 {
            let what = "must be h264 or mjpeg with v4l2://, got h265";
            return Err(FieldError::new("codec", what));
        }
        Ok(())
    }
}

/// Shows the url masked: a configuration ends up in log lines.
impl fmt::Debug for StreamConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "stream {} {:?} {:?} enabled={} {}x{}@{} {} priority={} record={} \
             retention_days={:?} max_storage_size={:?} sub_url={:?} transport={} tls_fingerprint={:?}",
            self.id,
            self.name,
            self.url_masked(),
            self.enabled,
            self.width,
            self.height,
            self.fps,
            self.codec.name(),
            self.priority,
            self.record,
            self.retention_days,
            self.max_storage_size,
            self.sub_url_masked(),
            self.transport.name(),
            self.tls_fingerprint
        )
    }
}

/// Shows the url masked.
impl fmt::Debug for StreamPatch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("StreamPatch")
            .field("name", &self.name)
            .field("url", &self.url.as_deref().map(url::mask))
            .field("enabled", &self.enabled)
            .field("size", &(self.width, self.height))
            .field("fps", &self.fps)
            .field("codec", &self.codec)
            .field("priority", &self.priority)
            .field("record", &self.record)
            .field("retention_days", &self.retention_days)
            .field("max_storage_size", &self.max_storage_size)
            .field("sub_url", &self.sub_url.as_ref().map(|url| url.as_deref().map(url::mask)))
            .field("transport", &self.transport)
            .field("tls_fingerprint", &self.tls_fingerprint)
            .finish()
    }
}

/// Puts a stored password in the place of each `***` of `new`, from the first of `stored` that has it for the same
/// user and host.
fn resolve(field: &'static str, new: &mut String, stored: &[&str]) -> Result<(), FieldError> {
    if !url::has_masked_password(new) {
        return Ok(());
    }
    let mut same = stored.iter().filter(|old| url::same_user_and_host(new, old));
    let known = same.find_map(|old| url::with_password_of(new, old));
    let what = "the password *** keeps the stored one only while user and host stay as \
                they are; write the password itself";
    *new = known.ok_or_else(|| FieldError::new(field, what))?;
    Ok(())
}

/// The codec with this name in the API.
pub fn codec_named(name: &str) -> Option<VideoCodec> {
    [VideoCodec::H264, VideoCodec::H265, VideoCodec::Mjpeg].into_iter().find(|c| c.name() == name)
}

/// Whether `c` shows as something: no controls, no format characters, which are not seen or turn the
/// direction of the text around them, no fillers. A name is shown in lists and becomes a file's name, and
/// two names that look the same would be taken for one stream. The variation selectors of emoji may stay.
fn is_printable(c: char) -> bool {
    let is_invisible = matches!(c,
        '\u{AD}' | '\u{34F}' | '\u{61C}' | '\u{17B4}'..='\u{17B5}' | '\u{180E}'
        | '\u{200B}'..='\u{200F}' | '\u{2028}'..='\u{202E}' | '\u{2060}'..='\u{206F}'
        | '\u{FEFF}' | '\u{FFF9}'..='\u{FFFB}' | '\u{1D173}'..='\u{1D17A}'
        | '\u{E0000}'..='\u{E007F}'
        // Hangul fillers: letters that are drawn as a blank, or not at all.
        | '\u{115F}'..='\u{1160}' | '\u{3164}' | '\u{FFA0}');
    !c.is_control() && !is_invisible
}

/// A blank of any width; the empty Braille cell looks like one.
fn is_blank(c: char) -> bool {
    c.is_whitespace() || c == '\u{2800}'
}

/// An error unless `name` is 1 to 64 printable characters.
pub fn check_name(name: &str) -> Result<(), FieldError> {
    let rule = |got: String| {
        let what = format!("must be 1 to {NAME_CHARS_MAX} printable characters, {got}");
        Err(FieldError::new("name", what))
    };
    if let Some(c) = name.chars().find(|&c| !is_printable(c)) {
        return rule(format!("got the invisible character U+{:04X}", u32::from(c)));
    }
    if !name.is_empty() && name.chars().all(is_blank) {
        return rule("got blanks only".into());
    }
    match name.chars().count() {
        0 => rule("got none".into()),
        n if n > NAME_CHARS_MAX => rule(format!("got {n}")),
        _ => Ok(()),
    }
}

/// An error, with the name of this field, unless `url` is one that a stream can have. No message repeats a part of
/// it: it may be a password in the wrong place.
pub fn check_url(field: &'static str, url: &str) -> Result<(), FieldError> {
    let bad = |what: String| Err(FieldError::new(field, what));
    if url.len() > URL_BYTES_MAX {
        return bad(format!("must be at most {URL_BYTES_MAX} bytes, got {}", url.len()));
    }
    if let Some(c) = url.chars().find(|&c| c.is_control() || c == ' ') {
        let code = u32::from(c);
        return bad(format!("must not hold the character U+{code:04X}; write it as %{code:02X}"));
    }
    if url.starts_with("testpattern://") {
        return Ok(());
    }
    if device::is_local(url) {
        let what = "must name a camera after v4l2://, as in v4l2:///dev/video0, v4l2:///dev/v4l/by-id/NAME or \
                    v4l2:///dev/v4l/by-path/NAME";
        return device::path_of(url).map_or_else(|| bad(what.into()), |_| Ok(()));
    }
    if !url.starts_with("rtsp://") && !url.starts_with("rtsps://") {
        return bad("must begin with rtsp://, rtsps://, v4l2:// or testpattern://".into());
    }
    if url::has_escaped_colon(url) {
        return bad(
            "has a user with %3A and no password; write ':' between user and password, and \
                    %3A only for a ':' in the password"
                .into(),
        );
    }
    // `user:12/x@host` would be the host `user`, and the password would be shown as part of the path.
    if url::has_late_at(url) {
        return bad(
            "has an '@' behind its host; write '/', '?' and '#' in a password as %2F, %3F, %23, \
                    and '@' in a path as %40"
                .into(),
        );
    }
    let (host, port) = url::host_and_port(url);
    if !is_host(host) {
        return bad("needs a host name or address after rtsp:// (letters, digits, '-', '.', '_', or \
                    an IPv6 address in brackets); write '/', '?' and '#' in a password as %2F, %3F, %23"
            .into());
    }
    if port.is_some_and(|port| parse_port(port).is_none()) {
        return bad(
            "needs a port from 1 to 65535 after the host's ':'; write '/', '?' and '#' in a \
                    password as %2F, %3F, %23"
                .into(),
        );
    }
    Ok(())
}

fn is_host(host: &str) -> bool {
    if let Some(inner) = host.strip_prefix('[').and_then(|h| h.strip_suffix(']')) {
        return inner.contains(':')
            && inner.chars().all(|c| c.is_ascii_hexdigit() || matches!(c, ':' | '.'));
    }
    let is_host_char = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '.' | '_');
    !host.is_empty() && host.chars().all(is_host_char)
}

/// Decimal without sign or leading zero, 1 to 65535.
fn parse_port(port: &str) -> Option<u16> {
    let n: u16 = port.parse().ok().filter(|&n| n > 0)?;
    (n.to_string() == port).then_some(n)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn patch(name: &str, url: &str) -> StreamPatch {
        StreamPatch { name: Some(name.into()), url: Some(url.into()), ..StreamPatch::default() }
    }

    #[track_caller]
    fn check_bad_url(url: &str, part: &str) {
        let error = check_url("url", url).expect_err(url);
        assert_eq!(error.field, "url");
        assert!(error.what.contains(part), "{url}: {}", error.what);
    }

    #[test]
    fn a_new_stream_has_the_defaults_of_the_contract() {
        let config = StreamConfig::from_patch(3, &patch("Front Door", "rtsp://cam/1")).expect("ok");
        assert_eq!((config.id, config.enabled, config.record), (3, true, true));
        assert_eq!((config.width, config.height, config.fps), (0, 0, 0));
        assert_eq!((config.codec, config.priority), (VideoCodec::H264, 5));
    }

    #[test]
    fn name_and_url_are_required() {
        let error = StreamConfig::from_patch(0, &StreamPatch::default()).expect_err("no name");
        assert_eq!(error, FieldError::new("name", "is required"));
        let no_url = StreamPatch { name: Some("a".into()), ..StreamPatch::default() };
        let error = StreamConfig::from_patch(0, &no_url).expect_err("no url");
        assert_eq!(error, FieldError::new("url", "is required"));
    }

    #[test]
    fn names() {
        assert!(check_name("Hof · 門 ☀\u{FE0F}").is_ok());
        assert!(check_name(&"ä".repeat(64)).is_ok());
        for bad in ["", "a\nb", "a\u{202E}b", "\u{7f}", &"ä".repeat(65)] {
            assert_eq!(check_name(bad).expect_err(bad).field, "name");
        }
        for bad in [" ", "\u{A0}\u{3000}", "\u{2800} "] {
            let error = check_name(bad).expect_err(bad);
            assert!(error.what.ends_with("got blanks only"), "{}", error.what);
        }
    }

    #[test]
    fn a_name_holds_nothing_that_is_not_seen() {
        for range in [
            0x61C..=0x61C,
            0x115F..=0x1160,
            0x200B..=0x200F,
            0x202A..=0x202E,
            0x2060..=0x206F,
            0x3164..=0x3164,
            0xFEFF..=0xFEFF,
            0xFFA0..=0xFFA0,
            0xE0000..=0xE007F,
        ] {
            for code in range {
                let c = char::from_u32(code).expect("a character");
                let error = check_name(&format!("Front{c} Door")).expect_err("refused");
                assert!(error.what.ends_with(&format!("U+{code:04X}")), "{}", error.what);
            }
        }
    }

    #[test]
    fn urls() {
        for good in [
            "rtsp://192.168.1.100:554/stream1",
            "rtsp://admin:p@ss:w@cam.local/live?channel=1&subtype=0",
            "rtsp://[fe80::1]:8554",
            "rtsps://admin:pw@cam:8322/1",
            "testpattern://",
            "testpattern://anything?fps=15",
            "v4l2:///dev/video0",
        ] {
            assert_eq!(check_url("url", good), Ok(()), "{good}");
        }
        check_bad_url("http://cam/", "rtsp://");
        check_bad_url("v4l2://dev/video0", "v4l2:///dev/video0");
        check_bad_url("v4l2:///dev/sda", "v4l2:///dev/video0");
        check_bad_url("v4l2:///dev/video0/../sda", "v4l2:///dev/video0");
        check_bad_url("rtsp://", "host");
        check_bad_url("rtsp://a b/", "U+0020; write it as %20");
        check_bad_url("rtsp://cam:99999/", "port");
        check_bad_url("rtsp://cam:0554/", "port");
        check_bad_url("rtsp://admin:se/cret@cam/", "%2F");
        check_bad_url("rtsp://admin%3Apw@cam/", "between user and password");
        check_bad_url("rtsp://admin%3apw@cam/", "between user and password");
        assert_eq!(check_url("url", "rtsp://admin:p%3Aw@cam/"), Ok(()));
        check_bad_url(&format!("rtsp://cam/{}", "x".repeat(1024)), "at most 1024 bytes, got 1035");
    }

    #[test]
    fn a_masked_password_is_kept_only_for_the_same_user_and_host() {
        let old = StreamConfig::from_patch(0, &patch("a", "rtsp://u:secret@cam/1")).expect("ok");
        let put = |url: &str| {
            old.patched(&StreamPatch { url: Some(url.into()), ..StreamPatch::default() })
        };
        assert_eq!(put("rtsp://u:***@cam:8554/2").expect("kept").url, "rtsp://u:secret@cam:8554/2");
        assert_eq!(put("rtsp://u:new@evil/2").expect("own").url, "rtsp://u:new@evil/2");
        for bad in ["rtsp://u:***@evil/1", "rtsp://v:***@cam/1"] {
            assert_eq!(put(bad).expect_err(bad).field, "url");
        }
        let xm = "rtsp://cam/user=admin_password=secret_channel=1_stream=0.sdp";
        let old = StreamConfig::from_patch(0, &patch("a", xm)).expect("ok");
        let put = |url: &str| {
            old.patched(&StreamPatch { url: Some(url.into()), ..StreamPatch::default() })
        };
        let masked = old.url_masked();
        assert_eq!(put(&masked).expect("kept").url, xm);
        for (from, to) in [("rtsp://cam", "rtsp://evil"), ("user=admin", "user=root")] {
            let bad = masked.replace(from, to);
            assert_eq!(put(&bad).expect_err(&bad).field, "url");
        }
        let error = StreamConfig::from_patch(1, &patch("b", "rtsp://cam/1?pwd=***"));
        assert_eq!(error.expect_err("nothing stored").field, "url");
        let error = StreamConfig::from_patch(1, &patch("b", "rtsp://u:***@cam/1"));
        assert_eq!(error.expect_err("nothing stored").field, "url");
    }

    #[test]
    fn what_belongs_to_tls_needs_rtsps() {
        let pinned = |url: &str, transport| StreamPatch {
            tls_fingerprint: Some(Some(Fingerprint([7; 32]))),
            transport: Some(transport),
            ..patch("a", url)
        };
        let make = |url, transport| StreamConfig::from_patch(0, &pinned(url, transport));
        assert!(make("rtsps://cam/1", Transport::Auto).is_ok());
        let error = make("rtsp://cam/1", Transport::Auto).expect_err("not encrypted");
        assert_eq!(error.field, "tls_fingerprint");
        let error = make("rtsps://cam/1", Transport::Udp).expect_err("not encrypted");
        assert_eq!(error.field, "transport");
    }

    #[test]
    fn a_local_camera_is_h264_or_mjpeg_and_no_sub_stream() {
        let local = |codec| {
            let patch = patch("a", "v4l2:///dev/video0");
            StreamConfig::from_patch(0, &StreamPatch { codec: Some(codec), ..patch })
        };
        assert!(local(VideoCodec::H264).is_ok() && local(VideoCodec::Mjpeg).is_ok());
        assert_eq!(local(VideoCodec::H265).expect_err("none gives it").field, "codec");
        let sub_url = Some(Some("v4l2:///dev/video0".to_owned()));
        let sub = StreamPatch { sub_url, ..patch("a", "rtsp://cam/1") };
        let error = StreamConfig::from_patch(0, &sub).expect_err("opened twice");
        assert_eq!(error.field, "sub_url");
    }

    #[test]
    fn no_password_in_debug_output() {
        let patch = patch("a", "rtsp://u:secret@cam/1");
        let config = StreamConfig::from_patch(0, &patch).expect("ok");
        assert!(!format!("{config:?} {patch:?}").contains("secret"));
        let patch = StreamPatch { sub_url: Some(Some("rtsp://u:secret@cam/2".into())), ..patch };
        let config = StreamConfig::from_patch(0, &patch).expect("ok");
        assert!(!format!("{config:?} {patch:?}").contains("secret"));
    }

    #[test]
    fn a_sub_stream_has_the_rules_of_the_url_and_may_share_its_password() {
        let sub = |url: &str| StreamPatch {
            sub_url: Some(Some(url.to_owned())),
            ..StreamPatch::default()
        };
        let fresh = StreamConfig::from_patch(0, &patch("a", "rtsp://u:one@cam/1")).expect("ok");
        assert_eq!(fresh.sub_url, None);
        let masked = fresh.patched(&sub("rtsp://u:***@cam/2")).expect("the password of the url");
        assert_eq!(masked.sub_url.as_deref(), Some("rtsp://u:one@cam/2"));
        let other = fresh.patched(&sub("rtsp://v:two@cam/2")).expect("another user");
        assert_eq!(other.sub_url_masked().as_deref(), Some("rtsp://v:***@cam/2"));
        let kept = other.patched(&sub("rtsp://v:***@cam/3")).expect("its own password");
        assert_eq!(kept.sub_url.as_deref(), Some("rtsp://v:two@cam/3"));
        for bad in ["rtsp://v:***@cam/2", "rtsp://u:***@evil/2", "http://cam/2", ""] {
            assert_eq!(fresh.patched(&sub(bad)).expect_err(bad).field, "sub_url");
        }
        let new = StreamPatch { url: Some("rtsp://cam/1".into()), ..sub("rtsp://u:***@cam/2") };
        let new = StreamPatch { name: Some("b".into()), ..new };
        assert_eq!(StreamConfig::from_patch(1, &new).expect_err("nothing stored").field, "sub_url");
        let gone = StreamPatch { sub_url: Some(None), ..StreamPatch::default() };
        assert_eq!(kept.patched(&gone).expect("null clears it").sub_url, None);
    }

    proptest! {
        #[test]
        fn what_is_accepted_is_in_range_and_can_be_put_back(
            name in "\\PC{0,70}",
            url in "(rtsp|testpattern|http)://([a-z]{1,4}:[a-z@:]{0,6}@)?[a-z.\\[\\]:0-9]{0,12}(/\\PC{0,9})?",
            numbers in (0u16..9000, 0u16..200, 0u8..130),
        ) {
            let patch = StreamPatch {
                width: Some(numbers.0),
                fps: Some(numbers.1),
                priority: Some(numbers.2),
                ..patch(&name, &url)
            };
            if let Ok(config) = StreamConfig::from_patch(7, &patch) {
                prop_assert!((1..=64).contains(&config.name.chars().count()));
                prop_assert!(config.width <= 8192 && config.fps <= 120 && config.priority <= 100);
                let back = StreamPatch { url: Some(config.url_masked()), ..patch };
                prop_assert_eq!(config.patched(&back), Ok(config.clone()));
            }
        }
    }
}
