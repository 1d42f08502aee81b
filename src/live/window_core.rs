//! The recent packets of one stream, and how they are cut into segments and parts of HLS.
//!
//! In here: what is kept, and where segments (RFC 8216bis section 3) and parts begin. Not in here: the
//! playlist's text (`playlist_core.rs`), the bytes of fragments (`fragment_core.rs`), memory over all
//! streams (`feed.rs`). Packets are shared, never copied.
//!
//! Every packet has an index that rises by one. From the newest keyframe on everything is kept, so that a
//! viewer starts with a picture at once; older segments only while somebody watches. A segment begins at
//! the first keyframe a second after the last cut, and at the latest after 6 s. A part is closed as soon
//! as no further frame fits into it, by the usual distance of frames: waiting for the next frame to know
//! the last one's duration would cost that much latency. So a part's duration is exact but for its last
//! frame, where it is an estimate; a segment's duration is exact, unless a gap follows. A frame belongs to a
//! part if half of it fits, so that jitter does not make parts that are too short.
//! Invariants, verified by `Window::check`: W1 segment numbers rise by one; W2 parts follow each other
//! without gap or overlap in packets; W3 no segment is longer than the target; W4 the byte count matches.
//! Keeps PURE-CORE.

use std::collections::VecDeque;
use std::rc::Rc;
use std::sync::Arc;

use crate::media::format::{AudioFormat, VIDEO_TIMESCALE, VideoFormat};
use crate::media::packet::{Packet, Track};

const SECOND: i64 = VIDEO_TIMESCALE as i64;
/// EXT-X-TARGETDURATION: fixed, because a playlist must not change it.
pub const TARGET_S: i64 = 6;
/// The longest segment in 90 kHz ticks.
pub const SEGMENT_TICKS_MAX: i64 = TARGET_S * SECOND;
/// Cameras that send keyframes alone must not make a segment of each.
const SEGMENT_TICKS_MIN: i64 = SECOND;
/// The wished length of a part: 200 ms.
const PART_TICKS: i64 = SECOND / 5;
/// A part may be longer than its frames' usual distances sum up to, in percent: arrival jitters.
const PART_SLACK_PERCENT: i64 = 105;
/// A hole of this length, or of four frames if that is longer, is a discontinuity: players stall in one.
const GAP_TICKS: i64 = SECOND;
/// And at the latest this, so that W3 holds for a camera of one picture in ten seconds.
const GAP_TICKS_MAX: i64 = 5 * SECOND;
/// What is listed must last for three target durations (RFC 8216bis section 6.2.2).
pub const WINDOW_S_MIN: i64 = 3 * TARGET_S;
/// Segments that are listed at least.
const LISTED_MIN: usize = 3;
/// Segment numbers begin with the time of the start in seconds, those of parts with so many times as much: after a
/// restart no name is used again. Parts of 200 ms, and one that a keyframe ends early.
const PARTS_PER_SECOND_MAX: u64 = 8;
/// Frames that a socket may be behind before it skips; so long they are kept.
pub const BEHIND_MS_MAX: i64 = 1000;
/// Packets without video that a part takes (video has stopped); further sound is left out.
const PART_PACKETS_MAX: u64 = 2048;
/// Distances of frames of which the middle one is the usual one, and as how many the rate counts that the parameter
/// sets declare.
const STEPS_MAX: usize = 15;
const DECLARED_STEPS: usize = 2;
/// Distance of frames until it is known: 15 fps.
const INTERVAL_DEFAULT: i64 = SECOND / 15;

/// A stretch of one format on one time axis: what one initialization section is for.
#[derive(Debug)]
pub struct Epoch {
    /// The number of its first segment, and so of its initialization section.
    pub number: u64,
    pub video: Arc<VideoFormat>,
    pub audio: Option<Arc<AudioFormat>>,
    /// Index of its first packet.
    pub first: u64,
    /// Where its media time zero lies on the run's axis, 90 kHz.
    pub zero: i64,
    /// Wall clock of that, Unix milliseconds.
    pub zero_wall_ms: i64,
    run: u32,
}

/// A part of a segment: one fragment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Part {
    /// Indices of its packets.
    pub first: u64,
    pub end: u64,
    /// Decoding time of its first frame on the run's axis, and its duration, 90 kHz.
    pub start: i64,
    pub ticks: i64,
    /// Duration of its last frame.
    pub last_ticks: i64,
    /// It starts with a keyframe.
    pub is_independent: bool,
    /// Rises by one from part to part, over segments too: VLC complains of anything else. Its name in playlists.
    pub sequence: u64,
}

/// A segment.
#[derive(Debug)]
pub struct Segment {
    pub number: u64,
    pub epoch: Rc<Epoch>,
    /// It does not go on where the one before ended.
    pub is_discontinuity: bool,
    /// Index of its first packet, and decoding time of its first frame.
    pub first: u64,
    pub start: i64,
    /// Wall clock of its beginning, Unix milliseconds.
    pub wall_ms: i64,
    pub parts: Vec<Part>,
    /// Its duration in 90 kHz ticks once it is complete.
    pub ticks: Option<i64>,
    /// It starts with a keyframe.
    pub is_independent: bool,
    /// Part target that held when it was begun, 90 kHz.
    pub part_target: i64,
}

/// How much may be kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Keep {
    /// What a viewer starts with, while nobody watches.
    Idle,
    /// The same, and what viewers need who are a little behind.
    Start,
    /// What the playlist lists.
    Listed,
    /// And as much that left it: players ask late.
    All,
}

#[derive(Debug)]
struct OpenPart {
    first: u64,
    start: i64,
    is_independent: bool,
}

/// The window of one stream.
#[derive(Debug)]
pub struct Window {
    window_ticks: i64,
    packets: VecDeque<Arc<Packet>>,
    /// Index of `packets[0]`.
    first: u64,
    bytes: usize,
    epochs: VecDeque<Rc<Epoch>>,
    segments: VecDeque<Segment>,
    open: Option<OpenPart>,
    next_number: u64,
    next_sequence: u64,
    listed_from: u64,
    discontinuities_gone: u64,
    has_begun: bool,
    newest_key: Option<u64>,
    last_dts: i64,
    /// The usual distance of frames, 90 kHz: the middle one of `steps`.
    interval: i64,
    /// The last distances of frames.
    steps: VecDeque<i64>,
    part_target: i64,
    /// The distance of frames that it was made for.
    target_interval: i64,
    /// What decides about segments, as it was when they were trimmed: `keep`, number, keyframe, window.
    trimmed: Option<(Keep, u64, Option<u64>, i64)>,
}

impl Window {
    /// Segments are numbered from `first_number`; `window_s` seconds are listed.
    pub fn new(first_number: u64, window_s: i64) -> Self {
        let mut window = Self {
            window_ticks: 0,
            packets: VecDeque::new(),
            first: 0,
            bytes: 0,
            epochs: VecDeque::new(),
            segments: VecDeque::new(),
            open: None,
            next_number: first_number,
            next_sequence: first_number * PARTS_PER_SECOND_MAX + 1,
            listed_from: first_number,
            discontinuities_gone: 0,
            has_begun: false,
            newest_key: None,
            last_dts: 0,
            interval: INTERVAL_DEFAULT,
            steps: VecDeque::new(),
            part_target: part_target(INTERVAL_DEFAULT),
            target_interval: INTERVAL_DEFAULT,
            trimmed: None,
        };
        window.set_window_s(window_s);
        window
    }

    /// Changes how many seconds are listed; never fewer than `WINDOW_S_MIN`.
    pub fn set_window_s(&mut self, window_s: i64) {
        self.window_ticks = window_s.max(WINDOW_S_MIN) * SECOND;
    }

    /// Takes the next packet of the stream, and lets go of what `keep` does not cover.
    pub fn push(&mut self, packet: Arc<Packet>, keep: Keep) {
        match &packet.track {
            Track::Video(format) => {
                let format = Arc::clone(format);
                self.push_video(packet, &format);
            }
            Track::Audio(format) => {
                let epoch = self.epochs.back();
                let fits = epoch
                    .is_some_and(|e| e.run == packet.run.id && e.audio.as_ref() == Some(format));
                let first = self.open.as_ref().map_or(self.end(), |part| part.first);
                if fits && self.is_running() && self.end() - first < PART_PACKETS_MAX {
                    self.append(packet);
                }
            }
        }
        self.trim(keep);
    }

    /// The run is over: what is open is complete.
    pub fn end_run(&mut self) {
        self.close_segment(None);
    }

    /// Forgets everything; goes on at the next keyframe, as a discontinuity.
    pub fn clear(&mut self) {
        self.close_segment(None);
        self.first = self.end();
        self.packets.clear();
        self.bytes = 0;
        for segment in self.segments.drain(..) {
            let is_listed = segment.number >= self.listed_from;
            self.discontinuities_gone += u64::from(is_listed && segment.is_discontinuity);
        }
        self.listed_from = self.next_number;
        self.epochs.clear();
        self.newest_key = None;
    }

    /// Bytes held, bookkeeping included.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// The index that the next packet gets.
    pub fn end(&self) -> u64 {
        self.first + self.packets.len() as u64
    }

    /// A packet that is still held.
    pub fn packet(&self, index: u64) -> Option<&Arc<Packet>> {
        let at = usize::try_from(index.checked_sub(self.first)?).ok()?;
        self.packets.get(at)
    }

    /// Index of the newest keyframe, if it is held.
    pub fn newest_key(&self) -> Option<u64> {
        self.newest_key
    }

    /// The epoch of a packet.
    pub fn epoch_of(&self, index: u64) -> Option<&Rc<Epoch>> {
        self.epochs.iter().rev().find(|epoch| epoch.first <= index)
    }

    /// The newest epoch.
    pub fn epoch(&self) -> Option<&Rc<Epoch>> {
        self.epochs.back()
    }

    /// The epoch whose initialization section has this number.
    pub fn epoch_numbered(&self, number: u64) -> Option<&Rc<Epoch>> {
        self.epochs.iter().find(|epoch| epoch.number == number)
    }

    /// The usual distance of frames, 90 kHz.
    pub fn interval(&self) -> i64 {
        self.interval
    }

    /// A segment that can be fetched, the open one included.
    pub fn segment(&self, number: u64) -> Option<&Segment> {
        let front = self.segments.front()?.number;
        self.segments.get(usize::try_from(number.checked_sub(front)?).ok()?)
    }

    /// The segments of the playlist; the last one may be open.
    pub fn listed(&self) -> impl DoubleEndedIterator<Item = &Segment> {
        self.segments.iter().filter(|segment| segment.number >= self.listed_from)
    }

    /// EXT-X-MEDIA-SEQUENCE and EXT-X-DISCONTINUITY-SEQUENCE.
    pub fn sequences(&self) -> (u64, u64) {
        (self.listed_from, self.discontinuities_gone)
    }

    /// The number of the next part that will be closed: of which segment, and which of its parts.
    pub fn next_part(&self) -> (u64, u64) {
        match self.segments.back().filter(|segment| segment.ticks.is_none()) {
            Some(open) => (open.number, open.parts.len() as u64),
            None => (self.next_number, 0),
        }
    }

    /// The sequence number that the next part will have.
    pub fn next_sequence(&self) -> u64 {
        self.next_sequence
    }

    /// A part that can be fetched, and its segment.
    pub fn part(&self, sequence: u64) -> Option<(&Segment, &Part)> {
        let mut parts = self.segments.iter().flat_map(|s| s.parts.iter().map(move |p| (s, p)));
        parts.find(|(_, part)| part.sequence == sequence)
    }

    fn is_running(&self) -> bool {
        self.segments.back().is_some_and(|segment| segment.ticks.is_none())
    }

    fn append(&mut self, packet: Arc<Packet>) -> u64 {
        let index = self.end();
        self.bytes += packet.cost_bytes();
        self.packets.push_back(packet);
        index
    }

    fn push_video(&mut self, packet: Arc<Packet>, format: &Arc<VideoFormat>) {
        let (dts, is_key) = (packet.dts, packet.is_key);
        let epoch = self.epochs.back().filter(|epoch| epoch.run == packet.run.id);
        let is_other = |epoch: &Rc<Epoch>| {
            let (was, is) = (&epoch.video, format);
            // Parameter sets stay in band: others of the same size need no new section.
            (was.codec, was.width, was.height) != (is.codec, is.width, is.height)
                || epoch.audio != packet.run.audio
        };
        let starts_anew = match epoch {
            Some(epoch) if self.is_running() => is_key && is_other(epoch),
            _ if is_key => true,
            _ => return, // nothing to refer to
        };
        let step = dts - self.last_dts;
        let length = self.segments.back().map_or(0, |segment| dts - segment.start);
        let is_hole =
            !(1..=self.gap_ticks()).contains(&step) || length > SEGMENT_TICKS_MAX + SECOND / 2 - 1;
        if starts_anew {
            self.begin_epoch(&packet, format);
        } else if is_hole {
            // A frame that refers to what is in the hole still shows something.
            let format = self.epochs.back().map_or(Arc::clone(format), |e| Arc::clone(&e.video));
            self.begin_epoch(&packet, &format);
        } else {
            self.note_interval(step);
            self.cut_before(&packet);
        }
        self.last_dts = dts;
        let index = self.append(packet);
        if is_key {
            self.newest_key = Some(index);
        }
        let (interval, nominal) = (self.interval, self.part_nominal());
        let open =
            self.open.get_or_insert(OpenPart { first: index, start: dts, is_independent: is_key });
        if dts + interval + interval / 2 - open.start > nominal {
            self.close_part(None);
        }
    }

    /// Ends a part or a segment where `packet` does not belong to it any more.
    fn cut_before(&mut self, packet: &Packet) {
        let Some(segment) = self.segments.back() else { return };
        let length = packet.dts - segment.start;
        let is_long = length + self.interval > SEGMENT_TICKS_MAX;
        if (packet.is_key && length >= SEGMENT_TICKS_MIN) || is_long {
            let epoch = Rc::clone(&segment.epoch);
            self.close_segment(Some(packet.dts));
            self.begin_segment(epoch, packet, false);
        } else if let Some(open) = &self.open
            && packet.dts + self.interval / 2 - open.start > self.part_nominal()
            && packet.dts > open.start
        {
            self.close_part(Some(packet.dts));
        }
    }

    /// The part target without its slack.
    fn part_nominal(&self) -> i64 {
        self.part_target * 100 / PART_SLACK_PERCENT
    }

    fn gap_ticks(&self) -> i64 {
        (4 * self.interval).clamp(GAP_TICKS, GAP_TICKS_MAX)
    }

    fn note_interval(&mut self, step: i64) {
        let is_first = self.steps.is_empty();
        if self.steps.len() >= STEPS_MAX {
            self.steps.pop_front();
        }
        self.steps.push_back(step.clamp(1, GAP_TICKS_MAX));
        // The middle one: frames that are missing say nothing about the others.
        let mut sorted: Vec<i64> = self.steps.iter().copied().collect();
        sorted.sort_unstable();
        self.interval = sorted[sorted.len() / 2];
        if is_first {
            self.retarget();
        }
    }

    /// Parts are to be at least 85 % of the target (RFC 8216bis section 4.4.4.9), those listed before too:
    /// it only moves with a real change of the frame rate.
    fn retarget(&mut self) {
        self.target_interval = self.interval;
        self.part_target = part_target(self.interval);
    }

    fn begin_epoch(&mut self, packet: &Packet, format: &Arc<VideoFormat>) {
        self.close_segment(None);
        if format.fps_milli > 0 && self.steps.is_empty() {
            let declared = SECOND * 1000 / i64::from(format.fps_milli);
            (0..DECLARED_STEPS).for_each(|_| self.note_interval(declared));
        }
        let epoch = Rc::new(Epoch {
            number: self.next_number,
            video: Arc::clone(format),
            audio: packet.run.audio.clone(),
            first: self.end(),
            zero: packet.dts,
            zero_wall_ms: packet.wall_ms,
            run: packet.run.id,
        });
        self.epochs.push_back(Rc::clone(&epoch));
        self.begin_segment(epoch, packet, self.has_begun);
        self.has_begun = true;
    }

    fn begin_segment(&mut self, epoch: Rc<Epoch>, packet: &Packet, is_discontinuity: bool) {
        let drift = (self.interval - self.target_interval).abs();
        if drift * 100 > self.target_interval * (PART_SLACK_PERCENT - 100) {
            self.retarget();
        }
        // Sound that came behind the last part goes with this segment.
        let before = self.segments.back().filter(|_| !is_discontinuity);
        let first = before.and_then(|s| s.parts.last()).map_or(self.end(), |part| part.end);
        self.segments.push_back(Segment {
            number: self.next_number,
            epoch,
            is_discontinuity,
            first,
            start: packet.dts,
            wall_ms: packet.wall_ms,
            parts: Vec::new(),
            ticks: None,
            is_independent: packet.is_key,
            part_target: self.part_target,
        });
        self.next_number += 1;
    }

    /// Ends the open part; `next` is when the frame behind it is decoded, if that is known.
    fn close_part(&mut self, next: Option<i64>) {
        let (end, interval, target) = (self.end(), self.interval, self.part_target);
        let Some(segment) = self.segments.back_mut() else { return };
        let Some(OpenPart { first, start, is_independent }) = self.open.take() else { return };
        // Sound that came between two parts belongs to the later one.
        let first = segment.parts.last().map_or(segment.first, |part| part.end).min(first);
        // A frame that is late does not make the part longer than parts may be, nor shorter.
        let until = next.unwrap_or(self.last_dts + interval);
        let until = until.min(start + target).max(self.last_dts + 1);
        let (ticks, last_ticks) = (until - start, until - self.last_dts);
        let sequence = self.next_sequence;
        segment.parts.push(Part { first, end, start, ticks, last_ticks, is_independent, sequence });
        self.next_sequence += 1;
    }

    fn close_segment(&mut self, next: Option<i64>) {
        if !self.is_running() {
            return;
        }
        self.close_part(next);
        let until = next.unwrap_or(self.last_dts + self.interval);
        if let Some(segment) = self.segments.back_mut() {
            segment.ticks = Some((until - segment.start).min(SEGMENT_TICKS_MAX + SECOND / 2 - 1));
        }
    }

    fn trim(&mut self, keep: Keep) {
        // Between the ends of segments only packets go.
        let state = (keep, self.next_number, self.newest_key, self.window_ticks);
        if self.trimmed != Some(state) {
            self.trimmed = Some(state);
            self.trim_segments(keep);
        }
        self.trim_packets(if keep == Keep::Idle { 0 } else { BEHIND_MS_MAX });
    }

    fn trim_segments(&mut self, keep: Keep) {
        let mut listed_ticks: i64 = self.listed().filter_map(|segment| segment.ticks).sum();
        let mut complete = self.listed().filter(|segment| segment.ticks.is_some()).count();
        while let Some(segment) = self.segment(self.listed_from)
            && let Some(ticks) = segment.ticks
        {
            let is_surplus = complete > LISTED_MIN && listed_ticks - ticks >= self.window_ticks;
            let is_old = keep <= Keep::Start && self.is_before_start(segment);
            if !is_surplus && !is_old {
                break;
            }
            self.discontinuities_gone += u64::from(segment.is_discontinuity);
            self.listed_from += 1;
            (listed_ticks, complete) = (listed_ticks - ticks, complete - 1);
        }
        let gone = |segment: &&Segment| segment.number < self.listed_from;
        let mut gone_ticks: i64 =
            self.segments.iter().filter(gone).filter_map(|segment| segment.ticks).sum();
        while let Some(segment) = self.segments.front().filter(gone) {
            let ticks = segment.ticks.unwrap_or(0);
            if keep == Keep::All && gone_ticks - ticks < self.window_ticks {
                break;
            }
            gone_ticks -= ticks;
            self.segments.pop_front();
        }
    }

    /// Whether a viewer who starts now can do without this segment.
    fn is_before_start(&self, segment: &Segment) -> bool {
        let next = self.segment(segment.number + 1);
        next.is_some_and(|next| self.newest_key.is_none_or(|key| next.first <= key))
    }

    fn trim_packets(&mut self, behind_ms: i64) {
        let Some(newest_ms) = self.packets.back().map(|packet| packet.wall_ms) else { return };
        let needed = self.segments.front().map(|segment| segment.first);
        let needed = needed.into_iter().chain(self.newest_key).min().unwrap_or(u64::MAX);
        while let Some(packet) = self.packets.front()
            && self.first < needed
            && (behind_ms == 0 || newest_ms - packet.wall_ms > behind_ms)
        {
            self.bytes -= packet.cost_bytes();
            self.packets.pop_front();
            self.first += 1;
        }
        let first = self.first;
        while self.epochs.get(1).is_some_and(|next| next.first <= first) {
            self.epochs.pop_front();
        }
    }
}

/// As many frames as come closest to `PART_TICKS`, and the slack.
fn part_target(interval: i64) -> i64 {
    let frames = (PART_TICKS + interval / 2) / interval.max(1);
    frames.max(1) * interval * PART_SLACK_PERCENT / 100
}

#[cfg(test)]
impl Window {
    /// Panics when an invariant is broken.
    pub fn check(&self) {
        let numbers: Vec<u64> = self.segments.iter().map(|segment| segment.number).collect();
        assert!(numbers.windows(2).all(|pair| pair[1] == pair[0] + 1), "W1: {numbers:?}");
        let mut at = None;
        for segment in &self.segments {
            assert!(segment.first >= self.first, "W2: a segment's packets are held");
            let rounded = segment.ticks.map_or(0, |ticks| (ticks + SECOND / 2) / SECOND);
            assert!(rounded <= TARGET_S, "W3: {:?}", segment.ticks);
            assert!(segment.ticks.is_none_or(|ticks| ticks > 0), "W3");
            for part in &segment.parts {
                let follows = at.is_none_or(|at| at == part.first) || segment.is_discontinuity;
                assert!(follows, "W2: parts follow each other");
                assert!(part.first < part.end && part.ticks > 0, "W2: a part holds something");
                at = Some(part.end);
            }
            assert!(segment.ticks.is_none() || !segment.parts.is_empty(), "W2: parts");
        }
        let bytes: usize = self.packets.iter().map(|packet| packet.cost_bytes()).sum();
        assert_eq!(bytes, self.bytes, "W4: byte count matches packets");
    }
}

#[cfg(test)]
mod tests;
