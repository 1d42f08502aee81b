//! SDP of a DESCRIBE answer (RFC 8866), read line by line.
//!
//! In here: media, payload formats, control URLs. A line that is broken or unknown is left out:
//! cameras send SDP without `o=`, with broken `t=` and `c=`, with junk behind it (quirks 17, 18).
//! Not in here: which media is taken (`session_core.rs`).

use base64::Engine as _;
use base64::alphabet::STANDARD;
use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};

use super::url::URL_BYTES_MAX;

/// Most media of one SDP; what follows is left out.
pub const MEDIA_MAX: usize = 16;
/// Most payload formats of one media.
pub const FORMATS_MAX: usize = 8;
/// Most parameters of one `a=fmtp`.
const PARAMS_MAX: usize = 32;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    Video,
    Audio,
    Other,
}

/// One payload format of a media.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Format {
    pub payload_type: u8,
    /// As in `a=rtpmap`, upper case; of static payload types the name of RFC 3551.
    pub encoding: String,
    /// RTP ticks per second, never 0.
    pub clock_rate: u32,
    pub channels: u8,
    params: Vec<(String, String)>,
}

impl Format {
    /// Value of a parameter of `a=fmtp`, its name in any case.
    pub fn param(&self, name: &str) -> Option<&str> {
        let param = self.params.iter().find(|(n, _)| n.eq_ignore_ascii_case(name));
        param.map(|(_, value)| value.as_str())
    }
}

/// One `m=` with what belongs to it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Media {
    pub kind: Kind,
    pub formats: Vec<Format>,
    pub control: Option<String>,
    /// Width and height of `a=framesize` or `a=x-dimensions`, which MJPEG over 2040 px needs.
    pub size: Option<(u16, u16)>,
}

/// What a camera describes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Description {
    pub control: Option<String>,
    pub media: Vec<Media>,
}

/// Reads an SDP. Never fails: without a usable line it has no media.
pub fn parse(body: &[u8]) -> Description {
    let text = String::from_utf8_lossy(body);
    let mut description = Description::default();
    let mut is_full = false;
    for line in text.lines() {
        let line = line.trim();
        if let Some(value) = line.strip_prefix("m=") {
            is_full = description.media.len() >= MEDIA_MAX;
            if !is_full {
                description.media.push(parse_media(value));
            }
        } else if let Some(value) = line.strip_prefix("a=")
            && !is_full
        {
            attribute(&mut description, value);
        }
    }
    for format in description.media.iter_mut().flat_map(|m| &mut m.formats) {
        format.encoding.make_ascii_uppercase();
    }
    description
}

/// `video 0 RTP/AVP 96 97`. `application/TP-LINK 0 RTP/AVP smart/1/90000` is one, too (quirk 18).
fn parse_media(value: &str) -> Media {
    let mut words = value.split_ascii_whitespace();
    let kind = match words.next().unwrap_or("").to_ascii_lowercase().as_str() {
        "video" => Kind::Video,
        "audio" => Kind::Audio,
        _ => Kind::Other,
    };
    let types = words.skip(2).filter_map(|w| w.parse().ok()).filter(|&pt: &u8| pt < 128);
    let formats = types.take(FORMATS_MAX).map(|pt| static_format(pt, kind)).collect();
    Media { kind, formats, control: None, size: None }
}

/// RFC 3551 section 6, as far as cameras send it.
fn static_format(payload_type: u8, kind: Kind) -> Format {
    let (encoding, clock_rate) = match payload_type {
        0 => ("PCMU", 8000),
        8 => ("PCMA", 8000),
        14 => ("MPA", 90_000),
        26 => ("JPEG", 90_000),
        _ if kind == Kind::Audio => ("", 8000),
        _ => ("", 90_000),
    };
    Format { payload_type, encoding: encoding.to_owned(), clock_rate, channels: 1, params: vec![] }
}

fn attribute(description: &mut Description, line: &str) {
    let (name, value) = line.split_once(':').unwrap_or((line, ""));
    let (name, value) = (name.trim(), value.trim());
    let Some(media) = description.media.last_mut() else {
        if name == "control" && value.len() <= URL_BYTES_MAX {
            description.control = Some(value.to_owned());
        }
        return;
    };
    match name {
        "control" if value.len() <= URL_BYTES_MAX => media.control = Some(value.to_owned()),
        "rtpmap" => rtpmap(media, value),
        "fmtp" => fmtp(media, value),
        // RFC 6064 section 6.2.2: `96 1920-1080`.
        "framesize" => {
            let size = value.split_once(' ').and_then(|(_, size)| size.split_once('-'));
            media.size = size.and_then(parse_size).or(media.size);
        }
        "x-dimensions" => {
            media.size = value.split_once(',').and_then(parse_size).or(media.size);
        }
        _ => {}
    }
}

fn parse_size((width, height): (&str, &str)) -> Option<(u16, u16)> {
    Some((width.trim().parse().ok()?, height.trim().parse().ok()?))
}

/// `96 H264/90000` or `97 MPEG4-GENERIC/16000/2`.
fn rtpmap(media: &mut Media, value: &str) {
    let Some((format, rest)) = format_of(media, value) else { return };
    let mut parts = rest.split('/').map(str::trim);
    format.encoding = parts.next().unwrap_or("").to_owned();
    if let Some(rate @ 1..=192_000) = parts.next().and_then(|rate| rate.parse().ok()) {
        format.clock_rate = rate;
    }
    if let Some(channels @ 1..) = parts.next().and_then(|n| n.parse().ok()) {
        format.channels = channels;
    }
}

/// `96 packetization-mode=1;sprop-parameter-sets=Z0I=,aM4=; ` and empty ones (quirk 18).
fn fmtp(media: &mut Media, value: &str) {
    let Some((format, rest)) = format_of(media, value) else { return };
    let params = rest.split(';').filter_map(|param| param.split_once('='));
    let params = params.map(|(name, value)| (name.trim().to_owned(), value.trim().to_owned()));
    let room = PARAMS_MAX - format.params.len().min(PARAMS_MAX);
    format.params.extend(params.take(room));
}

/// The format that the payload type at the start of `value` names, and the rest. A media with only
/// one format takes every attribute: some cameras number them wrongly.
fn format_of<'a, 'b>(media: &'a mut Media, value: &'b str) -> Option<(&'a mut Format, &'b str)> {
    let (payload_type, rest) = value.split_once([' ', '\t']).unwrap_or((value, ""));
    let payload_type: u8 = payload_type.parse().ok()?;
    let is_only = media.formats.len() == 1;
    let format = media.formats.iter_mut().find(|f| f.payload_type == payload_type || is_only)?;
    Some((format, rest.trim()))
}

/// Cameras leave the padding out, or give too much of it.
const TOLERANT: GeneralPurpose = GeneralPurpose::new(
    &STANDARD,
    GeneralPurposeConfig::new()
        .with_decode_padding_mode(DecodePaddingMode::Indifferent)
        .with_decode_allow_trailing_bits(true),
);

/// A parameter set of an `a=fmtp`; empty if it is no base64.
pub fn decode_base64(text: &str) -> Vec<u8> {
    TOLERANT.decode(text.trim()).unwrap_or_default()
}

/// The URL of a control attribute (quirk 16): absolute ones as they are, `*` and none are the base,
/// others behind the base with one `/` between. Not RFC 3986, which would cut a query or the last
/// path segment: cameras mean plain concatenation.
pub fn join_control(base: &str, control: Option<&str>) -> String {
    let control = control.unwrap_or("").trim();
    let begins =
        |with: &str| control.get(..with.len()).is_some_and(|s| s.eq_ignore_ascii_case(with));
    let is_absolute = begins("rtsp://") || begins("rtsps://");
    if is_absolute {
        return control.to_owned();
    }
    match control {
        "" | "*" => base.to_owned(),
        _ if control.starts_with('?') => format!("{base}{control}"),
        _ => format!("{}/{}", base.trim_end_matches('/'), control.trim_start_matches('/')),
    }
}

/// The base that control attributes are joined to: `Content-Base`, else `Content-Location`, else
/// what was asked for.
pub fn base_url(content_base: Option<&str>, request: &str) -> String {
    let Some(base) = content_base.filter(|b| !b.is_empty() && b.len() <= URL_BYTES_MAX) else {
        return request.to_owned();
    };
    // Some Anjvision cameras send `192.168.1.10:554/stream0/`, no scheme (quirk 15).
    let base = if base.contains("://") { base.to_owned() } else { format!("rtsp://{base}") };
    match super::url::RtspUrl::parse(&base) {
        Ok(url) => url.request,
        Err(_) => request.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn golden(name: &str) -> Description {
        let path = format!("{}/tests/golden/rtsp/{name}", env!("CARGO_MANIFEST_DIR"));
        parse(&std::fs::read(path).unwrap())
    }

    #[test]
    fn a_plain_sdp_gives_video_and_audio() {
        let d = golden("hikvision_like.sdp");
        assert_eq!(d.control.as_deref(), Some("rtsp://192.168.1.64:554/Streaming/Channels/101/"));
        let kinds: Vec<Kind> = d.media.iter().map(|m| m.kind).collect();
        assert_eq!(kinds, [Kind::Video, Kind::Audio, Kind::Other]);
        let video = &d.media[0].formats[0];
        assert_eq!(
            (video.payload_type, video.encoding.as_str(), video.clock_rate),
            (96, "H264", 90_000)
        );
        assert_eq!(video.param("Packetization-Mode"), Some("1"));
        assert_eq!(
            video.param("sprop-parameter-sets"),
            Some("Z01AKI2NQDwBE/LgLcBAQFAAAD6AAAw1DoYACYFAABMS0u8ujQwAEwKAACYlpd5cKA==,aO44gA==")
        );
        assert_eq!(d.media[0].size, Some((1920, 1080)));
        let audio = &d.media[1].formats[0];
        assert_eq!((audio.encoding.as_str(), audio.clock_rate, audio.channels), ("PCMU", 8000, 1));
    }

    #[test]
    fn broken_lines_are_left_out() {
        let d = golden("tplink_like_broken.sdp");
        assert_eq!(d.control, None);
        assert_eq!(d.media.len(), 3);
        assert_eq!(d.media[0].control.as_deref(), Some("/trackID=0"));
        assert_eq!(d.media[0].formats[0].encoding, "H264");
        assert_eq!(d.media[0].formats[0].param("profile-level-id"), None);
        assert_eq!(
            (d.media[1].formats[0].encoding.as_str(), d.media[1].kind),
            ("PCMA", Kind::Audio)
        );
        assert_eq!((d.media[2].formats.len(), d.media[2].kind), (0, Kind::Other));
    }

    #[test]
    fn a_flood_of_media_is_bounded() {
        let flood = b"m=video 0 RTP/AVP 1 2 3 4 5 6 7 8 9 10\na=rtpmap:1 x/1\n".repeat(1000);
        let d = parse(&flood);
        assert_eq!((d.media.len(), d.media[0].formats.len()), (MEDIA_MAX, FORMATS_MAX));
    }

    #[track_caller]
    fn check_join(base: &str, control: &str, want: &str) {
        assert_eq!(join_control(base, Some(control)), want, "{base} + {control}");
    }

    #[test]
    fn control_urls_are_joined_by_plain_concatenation() {
        check_join("rtsp://c/s", "trackID=1", "rtsp://c/s/trackID=1");
        check_join("rtsp://c/s/", "trackID=1", "rtsp://c/s/trackID=1");
        check_join("rtsp://c/s/", "/trackID=0", "rtsp://c/s/trackID=0");
        check_join("rtsp://c/s?a=b", "trackID=1", "rtsp://c/s?a=b/trackID=1");
        check_join(
            "rtsp://c/s",
            "?rtsp_tunnel&stream=video",
            "rtsp://c/s?rtsp_tunnel&stream=video",
        );
        check_join("rtsp://c/s", "rtsp://d/x", "rtsp://d/x");
        check_join("rtsp://c/s/", "*", "rtsp://c/s/");
        assert_eq!(join_control("rtsp://c/s", None), "rtsp://c/s");
    }

    #[test]
    fn a_base_may_lack_its_scheme_or_be_nonsense() {
        let base = |text| base_url(text, "rtsp://asked/1");
        assert_eq!(base(Some("192.168.1.10:554/stream0/")), "rtsp://192.168.1.10:554/stream0/");
        assert_eq!(base(Some("rtsp://c/s/")), "rtsp://c/s/");
        for text in [None, Some(""), Some("http://x/"), Some("rtsp://:x/")] {
            assert_eq!(base(text), "rtsp://asked/1", "{text:?}");
        }
    }

    proptest! {
        #[test]
        fn any_bytes_are_survived(body in proptest::collection::vec(any::<u8>(), 0..400)) {
            parse(&body);
        }

        #[test]
        fn any_lines_are_survived(lines in proptest::collection::vec("(m=(video|audio|x)?|a=(rtpmap|fmtp|control|framesize):?|v=)[ 0-9/;=A-Z-]{0,20}", 0..40)) {
            let d = parse(lines.join("\n").as_bytes());
            prop_assert!(d.media.iter().flat_map(|m| &m.formats).all(|f| f.clock_rate > 0));
        }
    }
}
