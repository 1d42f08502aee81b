//! The text of the playlists (RFC 8216bis).
//!
//! In here: the media playlist with its parts, and the multivariant playlist with one variant. The first
//! is what `playlist.m3u8` names: it is what reloads, and a stream's format may change while it is
//! watched, which a multivariant playlist, fetched once, could only get wrong. Players read the codecs
//! from the initialization section then. `master.m3u8` is for those that want CODECS first.
//! Keeps PURE-CORE.

use std::fmt::Write as _;

use super::window_core::{Epoch, Segment, TARGET_S, Window};
use crate::media::format::AudioCodec;
use crate::system::clock;

/// Parts are listed of this many segments at the end, the open one included. They are for players at the
/// edge, and must go three target durations from the end (RFC 8216bis section 4.4.4.9), which strict
/// readers take for three segments. They can be fetched for as long as their segment.
const PARTS_SEGMENTS: u64 = 3;

/// How far from the end players stay, in parts (RFC 8216bis section 4.4.3.8: at least 2, better 3).
const HOLD_BACK_PARTS: i64 = 3;

/// What a request for a playlist waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Delivery {
    /// The playlist holds it.
    Ready,
    /// Not yet.
    Wait,
    /// It is too far ahead: 400.
    Ahead,
}

/// Whether the playlist holds what `_HLS_msn` and `_HLS_part` ask for (section 6.2.5.2).
pub fn poll_delivery(window: &Window, msn: u64, part: Option<u64>) -> Delivery {
    let (open, next) = window.next_part();
    if msn > open + 1 {
        return Delivery::Ahead;
    }
    let is_there = match part {
        None => msn < open,
        // More than the segment has: the first of the next one is meant.
        Some(part) if msn < open => {
            let parts = window.segment(msn).map_or(u64::MAX, |segment| segment.parts.len() as u64);
            part < parts || msn + 1 < open || next > 0
        }
        Some(part) => msn == open && part < next,
    };
    if is_there { Delivery::Ready } else { Delivery::Wait }
}

/// The media playlist; `None` while there is no complete segment, which many players need to start. `query` goes
/// behind each name, with its `?`, or is empty.
pub fn encode_playlist(window: &Window, query: &str) -> Option<String> {
    let complete: i64 = window.listed().filter_map(|segment| segment.ticks).sum();
    if complete == 0 {
        return None;
    }
    let (sequence, discontinuities) = window.sequences();
    let mut out = String::with_capacity(8 << 10);
    let target = part_target_ms(window);
    let _ = write!(
        out,
        "#EXTM3U\n#EXT-X-VERSION:6\n#EXT-X-TARGETDURATION:{TARGET_S}\n\
         #EXT-X-SERVER-CONTROL:CAN-BLOCK-RELOAD=YES,PART-HOLD-BACK={}\n\
         #EXT-X-PART-INF:PART-TARGET={}\n#EXT-X-MEDIA-SEQUENCE:{sequence}\n",
        Seconds(HOLD_BACK_PARTS * target),
        Seconds(target),
    );
    if discontinuities > 0 {
        let _ = writeln!(out, "#EXT-X-DISCONTINUITY-SEQUENCE:{discontinuities}");
    }
    if window.listed().all(|segment| segment.is_independent) {
        out.push_str("#EXT-X-INDEPENDENT-SEGMENTS\n");
    }
    let (open, _) = window.next_part();
    let mut map = None;
    for segment in window.listed() {
        if segment.is_discontinuity {
            out.push_str("#EXT-X-DISCONTINUITY\n");
        }
        if map.replace(segment.epoch.number) != Some(segment.epoch.number) {
            let _ = writeln!(out, "#EXT-X-MAP:URI=\"init_{}.mp4{query}\"", segment.epoch.number);
        }
        write_segment(&mut out, segment, segment.number + PARTS_SEGMENTS > open, query);
    }
    // The next part has this name whichever segment it begins in, so that the hint always comes true.
    let next = window.next_sequence();
    let _ = writeln!(out, "#EXT-X-PRELOAD-HINT:TYPE=PART,URI=\"part_{next}.m4s{query}\"");
    Some(out)
}

fn write_segment(out: &mut String, segment: &Segment, has_parts: bool, query: &str) {
    let number = segment.number;
    let is_empty = segment.ticks.is_none() && segment.parts.is_empty();
    if !is_empty {
        let _ =
            writeln!(out, "#EXT-X-PROGRAM-DATE-TIME:{}", clock::iso_milliseconds(segment.wall_ms));
    }
    for part in segment.parts.iter().filter(|_| has_parts) {
        let independent = if part.is_independent { ",INDEPENDENT=YES" } else { "" };
        let (duration, sequence) = (Seconds(ms(part.ticks)), part.sequence);
        let _ = writeln!(
            out,
            "#EXT-X-PART:DURATION={duration},URI=\"part_{sequence}.m4s{query}\"{independent}"
        );
    }
    if let Some(ticks) = segment.ticks {
        let _ = writeln!(out, "#EXTINF:{},\nseg_{number}.m4s{query}", Seconds(ms(ticks)));
    }
}

/// PART-TARGET in milliseconds: no listed part is longer.
fn part_target_ms(window: &Window) -> i64 {
    let parts = |s: &Segment| s.parts.iter().map(|part| part.ticks).max().unwrap_or(0);
    let longest = window.listed().map(|s| s.part_target.max(parts(s))).max().unwrap_or(0);
    (longest + 89) / 90
}

/// Rounded to the nearest; nothing lasts no time.
fn ms(ticks: i64) -> i64 {
    ((ticks + 45) / 90).max(1)
}

/// Milliseconds, shown as seconds with three decimals.
struct Seconds(i64);

impl std::fmt::Display for Seconds {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}.{:03}", self.0 / 1000, self.0 % 1000)
    }
}

/// The multivariant playlist of a stream of this format; `query` goes behind the name, with its `?`, or is empty.
pub fn encode_master(epoch: &Epoch, bits_per_second: u64, query: &str) -> String {
    let video = &epoch.video;
    let mut out = String::from("#EXTM3U\n#EXT-X-VERSION:6\n");
    let _ = write!(
        out,
        "#EXT-X-STREAM-INF:BANDWIDTH={},CODECS=\"{}\",RESOLUTION={}x{}",
        bits_per_second.max(1),
        codecs(epoch, true),
        video.width,
        video.height,
    );
    if video.fps_milli > 0 {
        let _ = write!(out, ",FRAME-RATE={}", Seconds(i64::from(video.fps_milli)));
    }
    let _ = writeln!(out, "\nplaylist.m3u8{query}");
    out
}

/// Both tracks' codecs as RFC 6381 has them. In HLS they are the names of the sample entries (`fLaC`,
/// `Opus`), as Apple's players want them; MediaSource knows `flac` and `opus`.
pub fn codecs(epoch: &Epoch, is_hls: bool) -> String {
    let mut out = epoch.video.rfc6381.clone();
    if let Some(audio) = &epoch.audio {
        out.push(',');
        out.push_str(match audio.codec {
            AudioCodec::Flac if is_hls => "fLaC",
            AudioCodec::Opus if is_hls => "Opus",
            _ => &audio.rfc6381,
        });
    }
    out
}
