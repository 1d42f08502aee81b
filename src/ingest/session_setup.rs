//! What a session is set up from: tracks of a description, headers of SETUP and PLAY answers.
//!
//! Plain functions of camera text; `session_core.rs` decides when. What cannot be read falls back to
//! what was asked for.

use std::time::Duration;

use super::IngestError;
use super::sdp::{self, Description, Kind, Media};
use super::track::{AudioTrack, VideoTrack};
use super::url::RtspUrl;
use crate::config::transport::Transport;

/// RFC 2326 section 12.37: a session lives this long unless the camera says otherwise.
pub const TIMEOUT_DEFAULT: Duration = Duration::from_secs(60);
/// `timeout=0` must not make the keep-alive spin.
pub const TIMEOUT_MIN: Duration = Duration::from_secs(4);
/// A camera that promises to wait longer is reminded all the same.
pub const TIMEOUT_MAX: Duration = Duration::from_secs(120);
/// Longest session identifier.
const SESSION_BYTES_MAX: usize = 256;
/// Longest piece of camera text that is shown to people.
const NAME_CHARS_MAX: usize = 24;

/// The tracks to be set up, each with its URL.
pub struct Chosen {
    pub video: (VideoTrack, String),
    pub audio: Option<(AudioTrack, String)>,
    pub no_sound: Option<String>,
}

/// Chooses the first video and the first audio that can be taken. Others are left alone (quirk 18).
pub fn choose(description: &Description, base: &str) -> Result<Chosen, IngestError> {
    let base = sdp::join_control(base, description.control.as_deref());
    let url = |media: &Media| {
        let joined = sdp::join_control(&base, media.control.as_deref());
        RtspUrl::parse(&joined).map_or(joined, |url| url.request)
    };
    let media_of = |kind| description.media.iter().filter(move |media| media.kind == kind);
    let video = media_of(Kind::Video).find_map(|media| {
        let track = media.formats.iter().find_map(|format| VideoTrack::new(media, format));
        track.map(|track| (track, url(media)))
    });
    let Some(video) = video else {
        return Err(match media_of(Kind::Video).next() {
            Some(media) => refused(format!("video codec {} is not supported", codec_name(media))),
            None => refused("the stream has no video".to_owned()),
        });
    };
    let audio = media_of(Kind::Audio).find_map(|media| {
        let track = media.formats.iter().find_map(AudioTrack::new);
        track.map(|track| (track, url(media)))
    });
    let unknown = media_of(Kind::Audio).next().filter(|_| audio.is_none());
    let no_sound = unknown.map(|media| {
        format!("audio codec {} is not supported: recording without sound", codec_name(media))
    });
    Ok(Chosen { video, audio, no_sound })
}

/// A codec's name as the camera spells it, made fit for people.
fn codec_name(media: &Media) -> String {
    let Some(format) = media.formats.first() else { return "without a name".to_owned() };
    if format.encoding.is_empty() {
        return format!("of payload type {}", format.payload_type);
    }
    let shown = format.encoding.chars().filter(char::is_ascii_graphic);
    shown.take(NAME_CHARS_MAX).collect()
}

fn refused(what: String) -> IngestError {
    IngestError::Refused { what }
}

/// What an answer other than 200, 401 and a redirect means for the session.
pub fn refusal(method: &str, status: u16) -> IngestError {
    let what = match (method, status) {
        ("DESCRIBE", 404 | 410) => format!("no such path on the camera ({status})"),
        ("DESCRIBE", 403) => "camera forbids access to this path (403)".to_owned(),
        ("DESCRIBE", 406 | 415 | 451 | 501 | 551) => {
            format!("camera cannot describe this stream ({status})")
        }
        // Busy, booting, out of sessions: it may work the next time (quirks 9, 10).
        _ => {
            let what = format!("camera refuses {method} for now ({status})");
            return IngestError::Connection { what };
        }
    };
    refused(what)
}

/// Session identifier, and the timeout if there is one, from a `Session` header. `None`: there is no
/// identifier.
pub fn parse_session(value: &str) -> Option<(String, Option<Duration>)> {
    let mut parts = value.split(';').map(str::trim);
    let id = parts.next().filter(|id| !id.is_empty() && id.len() <= SESSION_BYTES_MAX)?;
    let timeout = parts.find_map(|part| {
        let (name, value) = part.split_once('=')?;
        let is_timeout = name.trim().eq_ignore_ascii_case("timeout");
        value.trim().parse().ok().filter(|_| is_timeout).map(Duration::from_secs)
    });
    Some((id.to_owned(), timeout.map(|timeout| timeout.clamp(TIMEOUT_MIN, TIMEOUT_MAX))))
}

/// The channel for RTP that a `Transport` header gives; cameras give others than asked for, one
/// alone, or none (quirk 22).
pub fn parse_channel(transport: Option<&str>, asked: u8) -> u8 {
    let params = transport.unwrap_or("").split([';', ',']);
    let mut ids = params.filter_map(|param| param.trim().split_once('='));
    let ids = ids.find(|(name, _)| name.trim().eq_ignore_ascii_case("interleaved"));
    ids.and_then(|(_, ids)| ids.split('-').next()?.trim().parse().ok()).unwrap_or(asked)
}

/// What the owner may do about a refusal, if it is of this kind (quirk 9).
pub fn advice_of(method: &str, status: u16) -> Option<String> {
    let is_full = status == 453 || status == 503 && matches!(method, "SETUP" | "PLAY");
    is_full.then(|| {
        format!(
            "the camera has no session left ({status}): many allow two at once, so close other programs that \
             watch it, or let them watch this recorder instead"
        )
    })
}

/// The port for RTCP that a `Transport` header gives.
pub fn parse_control_port(transport: Option<&str>) -> Option<u16> {
    let params = transport.unwrap_or("").split([';', ',']);
    let mut params = params.filter_map(|param| param.trim().split_once('='));
    let (_, ports) = params.find(|(name, _)| name.trim().eq_ignore_ascii_case("server_port"))?;
    let (rtp, rtcp) = ports.split_once('-').unwrap_or((ports, ""));
    let next = || rtp.trim().parse::<u16>().ok()?.checked_add(1);
    rtcp.trim().parse().ok().or_else(next).filter(|&port: &u16| port > 0)
}

/// Why no transport is left.
pub fn no_transport(transport: Transport) -> IngestError {
    refused(match transport {
        Transport::Auto => "camera refuses RTP over TCP and over UDP (461)".to_owned(),
        Transport::Tcp => {
            "camera refuses RTP over TCP (461); its transport auto or udp may work".to_owned()
        }
        Transport::Udp => {
            "camera refuses RTP over UDP (461); its transport auto or tcp may work".to_owned()
        }
    })
}

/// Whether the answer to SETUP grants what was asked for; what says nothing does.
pub fn is_granted(transport: Option<&str>, is_udp_asked: bool) -> bool {
    match is_udp_asked {
        true => !transport.is_some_and(|t| t.contains("interleaved")),
        false => !is_udp(transport),
    }
}

/// Whether a camera answers the wish for TCP with UDP ports.
fn is_udp(transport: Option<&str>) -> bool {
    transport.is_some_and(|t| t.contains("server_port=") && !t.contains("interleaved"))
}

/// The `rtptime` of the track with this URL (RFC 2326 section 12.33). Cameras write URLs in their own
/// ways, so its end decides; a `place` in the list stands in where no URL fits.
pub fn parse_rtptime(rtp_info: &str, url: &str, place: usize) -> Option<u32> {
    let mut entries = Vec::new();
    for part in rtp_info.split([',', ';']).map(str::trim) {
        match part.split_once('=') {
            Some((name, value)) if name.eq_ignore_ascii_case("url") => entries.push((value, None)),
            Some((name, value)) if name.eq_ignore_ascii_case("rtptime") => {
                entries.last_mut()?.1 = value.trim().parse().ok();
            }
            _ => {}
        }
    }
    let fits = |entry: &&(&str, Option<u32>)| {
        let named = entry.0.trim().trim_matches('"');
        !named.is_empty() && (url.ends_with(named) || named.ends_with(url))
    };
    entries.iter().find(fits).or_else(|| entries.get(place))?.1
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn choose_from(sdp: &str) -> Result<Chosen, String> {
        choose(&sdp::parse(sdp.as_bytes()), "rtsp://c/s/").map_err(|e| e.to_string())
    }

    #[test]
    fn the_first_usable_tracks_are_chosen() {
        let chosen = choose_from(
            "a=control:*\nm=video 0 RTP/AVP 98\na=rtpmap:98 VP8/90000\na=control:0\n\
             m=video 0 RTP/AVP 96\na=rtpmap:96 h264/90000\na=control:track 1\n\
             m=audio 0 RTP/AVP 97\na=rtpmap:97 G726-32/8000\na=control:2\n\
             m=audio 0 RTP/AVP 8\na=control:rtsp://c/s/3\n",
        )
        .unwrap();
        assert_eq!(chosen.video.1, "rtsp://c/s/track%201");
        assert_eq!(chosen.audio.unwrap().1, "rtsp://c/s/3");
        assert_eq!(chosen.no_sound, None);
    }

    #[test]
    fn what_cannot_be_taken_is_named() {
        let why = |sdp| choose_from(sdp).err().unwrap();
        let vp8 = "m=video 0 RTP/AVP 98\na=rtpmap:98 VP8/90000\n";
        assert_eq!(why(vp8), "video codec VP8 is not supported");
        assert_eq!(
            why("m=video 0 RTP/AVP 98\n"),
            "video codec of payload type 98 is not supported"
        );
        assert_eq!(why("m=audio 0 RTP/AVP 8\n"), "the stream has no video");
        let g726 = "m=video 0 RTP/AVP 26\nm=audio 0 RTP/AVP 97\na=rtpmap:97 G726-32/8000\n";
        let advice = choose_from(g726).unwrap().no_sound.unwrap();
        assert_eq!(advice, "audio codec G726-32 is not supported: recording without sound");
    }

    #[test]
    fn sessions_have_a_sane_timeout() {
        let check = |value, id: &str, seconds| {
            let seconds: Option<u64> = seconds;
            let want = Some((id.to_owned(), seconds.map(Duration::from_secs)));
            assert_eq!(parse_session(value), want, "{value}");
        };
        check("12;timeout=10", "12", Some(10));
        check(" 12 ; Timeout = 30 ", "12", Some(30));
        check("12", "12", None);
        check("12;timeout=0", "12", Some(4));
        check("12;timeout=x", "12", None);
        check("12;timeout=99999999999", "12", Some(120));
        assert_eq!(parse_session(";timeout=5"), None);
    }

    #[test]
    fn channels_are_what_the_camera_says() {
        let check =
            |transport, want| assert_eq!(parse_channel(transport, 2), want, "{transport:?}");
        check(Some("RTP/AVP/TCP;unicast;interleaved=4-5;ssrc=1"), 4);
        check(Some("RTP/AVP/TCP;interleaved=10"), 10);
        check(Some("RTP/AVP/TCP;Interleaved = 6 - 7"), 6);
        for text in
            [None, Some("RTP/AVP/TCP;unicast"), Some("interleaved=x"), Some("interleaved=300-301")]
        {
            check(text, 2);
        }
        let port = |text| parse_control_port(Some(text));
        assert_eq!(port("RTP/AVP;client_port=1-2;server_port=30-31"), Some(31));
        assert_eq!(port("RTP/AVP;server_port=30"), Some(31));
        assert_eq!(port("RTP/AVP;server_port=65535"), None);
        assert_eq!(port("RTP/AVP;server_port=a-0"), None);
        assert!(is_udp(Some("RTP/AVP;unicast;client_port=1-2;server_port=3-4")));
        assert!(!is_udp(Some("RTP/AVP/TCP;unicast;interleaved=0-1")));
        assert!(is_granted(None, true) && is_granted(None, false));
        assert!(!is_granted(Some("RTP/AVP/TCP;unicast;interleaved=0-1"), true));
    }

    #[test]
    fn start_times_are_found_by_url_or_place() {
        let info = "url=rtsp://c/s/trackID=1;seq=1;rtptime=10, url=trackID=2;rtptime=20;seq=2";
        assert_eq!(parse_rtptime(info, "rtsp://c/s/trackID=2", 0), Some(20));
        assert_eq!(parse_rtptime(info, "rtsp://c/s/trackID=1", 1), Some(10));
        assert_eq!(parse_rtptime("url=rtsp://other/1;rtptime=5", "rtsp://c/s", 0), Some(5));
        assert_eq!(parse_rtptime("url=x;seq=5", "rtsp://c/x", 0), None);
        assert_eq!(parse_rtptime("rtptime=5", "rtsp://c/x", 0), None);
    }

    #[test]
    fn refusals_tell_waiting_from_trying_again() {
        assert!(matches!(refusal("DESCRIBE", 404), IngestError::Refused { .. }));
        assert!(matches!(refusal("DESCRIBE", 503), IngestError::Connection { .. }));
        assert!(matches!(refusal("SETUP", 404), IngestError::Connection { .. }));
    }

    proptest! {
        #[test]
        fn any_text_is_survived(text in "[a-z=;,\" 0-9-]{0,60}|(url=[a-z]{0,3};rtptime=[0-9]{0,11},?){0,5}") {
            parse_session(&text);
            parse_channel(Some(&text), 0);
            parse_rtptime(&text, "rtsp://c/s", 1);
        }
    }
}
