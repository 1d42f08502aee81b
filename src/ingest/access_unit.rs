//! Access units of H.264 and H.265: NAL units as they arrive become whole pictures.
//!
//! In here: where a picture ends, length prefixes, Annex B inside payloads, bounds. Not in here: RTP
//! payload formats (`depacketize_h264.rs`, `depacketize_h265.rs`), time (`timeline.rs`).
//! Invariant A1: every NAL unit handed in is in the data of exactly one access unit, byte for byte
//! and in order, unless something was lost; then `is_damaged` says so.
//!
//! The end of a picture: a new timestamp always; a marker once the camera has shown that its markers
//! are true (quirk 36: on every slice, or never); and what can only stand in front of a picture. What
//! has no slice yet waits for the next picture (quirk 35: Reolink marks the SPS and stamps it with the
//! previous time).

use std::sync::Arc;
use std::time::Instant;

use crate::media::format::VideoFormat;
use crate::media::nal;
use crate::media::packet::PACKET_BYTES_MAX;

use super::rtp::RtpPacket;

/// Most bytes that wait without a slice; parameter sets and SEI take a few KiB.
const PREFIX_BYTES_MAX: usize = 256 << 10;
/// Pictures that must end with their marker before it is believed.
const MARKERS_TRUSTED: u8 = 4;
/// Pictures whose slices are searched for start codes too; afterwards only if there was one.
const SEARCHED_UNITS: u8 = 16;
/// Smallest buffer for a picture.
const CAPACITY_BYTES_MIN: usize = 2 << 10;
/// How much of a NAL unit `classify` looks at.
pub const HEAD_BYTES: usize = 80;

/// What a NAL unit is to its access unit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NalClass {
    Slice {
        begins_picture: bool,
        is_key: bool,
    },
    /// Stands in front of the slices: delimiter, parameter sets, SEI. `is_key`: a recovery point.
    Before {
        is_key: bool,
    },
    /// Anything else; stays with the picture it came behind.
    Other,
}

/// What differs between H.264 and H.265.
pub trait NalCodec {
    /// Looks at the first `HEAD_BYTES` of a NAL unit at most.
    fn classify(&self, head: &[u8]) -> NalClass;
    /// Sees every whole NAL unit that is no slice, and so the parameter sets.
    fn remember(&mut self, nal: &[u8]);
    /// The format as of the last parameter sets.
    fn format(&mut self) -> Option<Arc<VideoFormat>>;
}

/// One picture with what stands in front of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AccessUnit {
    pub format: Option<Arc<VideoFormat>>,
    pub timestamp: u32,
    /// When its first packet came.
    pub arrived: Instant,
    pub is_key: bool,
    pub is_damaged: bool,
    pub data: Vec<u8>,
}

/// A NAL unit whose fragments are coming in.
#[derive(Clone, Copy, Debug)]
struct Open {
    /// Where its length stands.
    at: usize,
    /// What the picture was without it.
    had_slice: bool,
    was_key: bool,
}

/// What came behind the slices of a picture and may stand in front of the next one.
struct Tail {
    at: usize,
    is_key: bool,
    /// The format before it was seen.
    format: Option<Arc<VideoFormat>>,
}

/// Whether markers end pictures.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Markers {
    /// So many pictures ended with one so far.
    Unknown(u8),
    Trusted,
    /// One was in the middle of a picture.
    Lying,
}

/// Collects NAL units into access units.
pub struct Assembler<C> {
    pub codec: C,
    data: Vec<u8>,
    timestamp: Option<u32>,
    arrived: Option<Instant>,
    has_slice: bool,
    is_key: bool,
    is_damaged: bool,
    /// A marker came behind a slice of this picture.
    has_marker: bool,
    /// The NAL unit that is still open.
    open: Option<Open>,
    /// GStreamer repeats parameter sets in front of every slice, so they don't end a picture by themselves.
    tail: Option<Tail>,
    /// The picture grew too large; the rest of it is left out.
    is_overflowing: bool,
    markers: Markers,
    /// Timestamp of the last picture that a marker ended.
    emitted: Option<u32>,
    has_annex_b: bool,
    units_searched: u8,
    /// What is allocated for an ordinary and for a key picture.
    size_hint: [usize; 2],
    /// How often a bound was hit.
    pub overflows: u64,
}

impl<C: NalCodec> Assembler<C> {
    pub fn new(codec: C) -> Self {
        Self {
            codec,
            data: Vec::new(),
            timestamp: None,
            arrived: None,
            has_slice: false,
            is_key: false,
            is_damaged: false,
            has_marker: false,
            open: None,
            tail: None,
            is_overflowing: false,
            markers: Markers::Unknown(0),
            emitted: None,
            has_annex_b: false,
            units_searched: 0,
            size_hint: [CAPACITY_BYTES_MIN; 2],
            overflows: 0,
        }
    }

    /// To be called before the NAL units of a packet: a new timestamp ends the picture.
    pub fn begin_packet(
        &mut self,
        packet: &RtpPacket<'_>,
        is_gap: bool,
        now: Instant,
        out: &mut impl FnMut(AccessUnit),
    ) {
        if is_gap {
            self.abandon_nal();
            self.is_damaged = true;
        }
        if self.timestamp != Some(packet.timestamp) {
            self.end_nal();
            self.end_unit(out);
            self.is_damaged |= is_gap | self.is_overflowing;
            self.is_overflowing = false;
            self.timestamp = Some(packet.timestamp);
            self.arrived = Some(now);
        }
        self.arrived.get_or_insert(now);
    }

    /// To be called behind the NAL units of a packet.
    pub fn end_packet(&mut self, packet: &RtpPacket<'_>, out: &mut impl FnMut(AccessUnit)) {
        if packet.has_marker && self.has_slice && self.tail.is_none() {
            self.has_marker = true;
            if self.markers == Markers::Trusted && self.open.is_none() {
                self.end_unit(out);
                self.emitted = self.timestamp;
            }
        }
    }

    /// One whole payload that should be one NAL unit.
    pub fn whole_nal(&mut self, payload: &[u8], out: &mut impl FnMut(AccessUnit)) {
        self.end_nal();
        let class = self.codec.classify(head_of(payload));
        if !self.is_searched(class) {
            self.push_nal(payload, class, out);
            return;
        }
        for nal in nal::split_annex_b(payload) {
            self.has_annex_b |= nal.len() != payload.len();
            let class = self.codec.classify(head_of(nal));
            self.push_nal(nal, class, out);
        }
    }

    fn push_nal(&mut self, nal: &[u8], class: NalClass, out: &mut impl FnMut(AccessUnit)) {
        self.end_before(class, out);
        self.note(class);
        if self.has_room(4 + nal.len()) {
            nal::push_length_prefixed(&mut self.data, nal);
        }
        if !matches!(class, NalClass::Slice { .. }) {
            self.codec.remember(nal);
        }
    }

    /// The first fragment of a NAL unit: its header, restored, and what follows.
    pub fn begin_nal(&mut self, header: &[u8], body: &[u8], out: &mut impl FnMut(AccessUnit)) {
        self.end_nal();
        let mut head = [0; HEAD_BYTES];
        let from_body = body.len().min(HEAD_BYTES - header.len());
        let len = header.len() + from_body;
        head[..header.len()].copy_from_slice(header);
        head[header.len()..len].copy_from_slice(&body[..from_body]);
        let class = self.codec.classify(&head[..len]);
        self.end_before(class, out);
        let (had_slice, was_key) = (self.has_slice, self.is_key);
        self.note(class);
        if self.has_room(4 + header.len() + body.len()) {
            self.open = Some(Open { at: self.data.len(), had_slice, was_key });
            self.data.extend_from_slice(&[0; 4]);
            self.data.extend_from_slice(header);
            self.data.extend_from_slice(body);
        }
    }

    /// A further fragment. Without a first one it is left out.
    pub fn append(&mut self, body: &[u8]) {
        if self.open.is_none() {
            self.is_damaged |= !self.is_overflowing;
            return;
        }
        if self.has_marker {
            self.markers = Markers::Lying;
        }
        if self.has_room(body.len()) {
            self.data.extend_from_slice(body);
        }
    }

    /// The last fragment is in, or what follows shows that it will not come.
    pub fn end_nal(&mut self) {
        let Some(Open { at, .. }) = self.open.take() else { return };
        let body = at + 4;
        let length = (self.data.len() - body) as u32; // bounded by PACKET_BYTES_MAX
        self.data[at..body].copy_from_slice(&length.to_be_bytes());
        let class = self.codec.classify(head_of(&self.data[body..]));
        if self.is_searched(class) {
            let first = nal::split_annex_b(&self.data[body..]).next();
            if first.is_some_and(|nal| nal.len() as u32 != length) {
                self.has_annex_b = true;
                self.resplit(at);
                return;
            }
        }
        if !matches!(class, NalClass::Slice { .. }) {
            self.codec.remember(&self.data[body..]);
        }
    }

    /// Something in the payload could not be used.
    pub fn mark_damaged(&mut self) {
        self.is_damaged = true;
    }

    /// Whether there is a picture that looks whole, but markers are not trusted.
    pub fn is_waiting(&self) -> bool {
        self.has_slice && self.has_marker && self.open.is_none()
    }

    /// Nothing follows, at least for now: hands out the last picture, if it looks whole.
    pub fn finish(&mut self, out: &mut impl FnMut(AccessUnit)) {
        if self.is_waiting() {
            self.end_unit(out);
            self.emitted = self.timestamp;
        }
    }

    /// The fragments at `at` were several NAL units with start codes between them (quirk 37).
    fn resplit(&mut self, at: usize) {
        let joined = self.data.split_off(at);
        for nal in nal::split_annex_b(&joined[4..]) {
            let class = self.codec.classify(head_of(nal));
            self.note(class);
            if self.has_room(4 + nal.len()) {
                nal::push_length_prefixed(&mut self.data, nal);
            }
            if !matches!(class, NalClass::Slice { .. }) {
                self.codec.remember(nal);
            }
        }
    }

    /// Within a NAL unit there is no start code, so only those are searched that misbehaving cameras
    /// put in front of others, the first pictures, and everything once there was one.
    fn is_searched(&self, class: NalClass) -> bool {
        self.has_annex_b
            || self.units_searched < SEARCHED_UNITS
            || !matches!(class, NalClass::Slice { .. })
    }

    /// Ends the picture in front of a NAL unit that cannot belong to it.
    fn end_before(&mut self, class: NalClass, out: &mut impl FnMut(AccessUnit)) {
        match class {
            NalClass::Slice { begins_picture: false, .. } => {
                if let Some(tail) = self.tail.take() {
                    self.is_key |= tail.is_key;
                }
                let is_rest = !self.has_slice && self.emitted == self.timestamp;
                if self.has_slice && self.has_marker {
                    self.markers = Markers::Lying;
                } else if is_rest && self.timestamp.is_some() {
                    // The marker that ended the picture was in its middle; the rest comes alone.
                    self.markers = Markers::Lying;
                    self.is_damaged = true;
                }
            }
            // Two pictures with one timestamp; with nothing between them it may be two fields.
            NalClass::Slice { begins_picture: true, .. }
                if self.has_marker || self.tail.is_some() =>
            {
                self.end_unit(out);
            }
            NalClass::Before { .. } if self.has_marker => self.end_unit(out),
            NalClass::Before { .. } if self.has_slice && self.tail.is_none() => {
                let format = self.codec.format();
                self.tail = Some(Tail { at: self.data.len(), is_key: false, format });
            }
            _ => {}
        }
    }

    fn note(&mut self, class: NalClass) {
        match class {
            NalClass::Slice { is_key, .. } => {
                self.has_slice = true;
                self.is_key |= is_key;
            }
            NalClass::Before { is_key } => match &mut self.tail {
                Some(tail) => tail.is_key |= is_key,
                None => self.is_key |= is_key,
            },
            NalClass::Other => {}
        }
    }

    /// Makes sure that `bytes` more fit, else gives the picture up.
    fn has_room(&mut self, bytes: usize) -> bool {
        if self.is_overflowing {
            return false;
        }
        let bytes_max = if self.has_slice { PACKET_BYTES_MAX } else { PREFIX_BYTES_MAX };
        if self.data.len() + bytes > bytes_max {
            self.overflows += 1;
            self.is_overflowing = true;
            self.reset();
            self.is_damaged = true;
            return false;
        }
        let wanted = self.size_hint[usize::from(self.is_key)];
        if self.data.capacity() < wanted {
            self.data.reserve_exact((wanted - self.data.len()).max(bytes));
        }
        true
    }

    fn abandon_nal(&mut self) {
        if let Some(open) = self.open.take() {
            self.data.truncate(open.at);
            self.tail = self.tail.take().filter(|tail| tail.at < open.at);
            (self.has_slice, self.is_key) = (open.had_slice, open.was_key);
        }
    }

    fn reset(&mut self) {
        self.data.clear();
        (self.open, self.tail) = (None, None);
        (self.has_slice, self.is_key, self.has_marker) = (false, false, false);
    }

    /// Hands out the picture, if there is one.
    fn end_unit(&mut self, out: &mut impl FnMut(AccessUnit)) {
        self.end_nal();
        if !self.has_slice {
            return;
        }
        if let Markers::Unknown(count) = self.markers
            && self.has_marker
        {
            let is_enough = count + 1 >= MARKERS_TRUSTED;
            self.markers = if is_enough { Markers::Trusted } else { Markers::Unknown(count + 1) };
        }
        self.units_searched = self.units_searched.saturating_add(1);
        let mut data = std::mem::take(&mut self.data);
        let tail = self.tail.take();
        let next = tail.as_ref().map(|tail| data.split_off(tail.at)).unwrap_or_default();
        let next_is_key = tail.as_ref().is_some_and(|tail| tail.is_key);
        if !data.is_empty() {
            // Growing copies, and frames vary: so the hint is what held the largest of late.
            let hint = &mut self.size_hint[usize::from(self.is_key)];
            *hint = (data.len() + data.len() / 8).max(*hint - *hint / 16).max(CAPACITY_BYTES_MIN);
            data.shrink_to_fit();
            out(AccessUnit {
                format: tail.map_or_else(|| self.codec.format(), |tail| tail.format),
                timestamp: self.timestamp.unwrap_or(0),
                arrived: self.arrived.expect("set with the first packet"),
                is_key: self.is_key,
                is_damaged: std::mem::take(&mut self.is_damaged),
                data,
            });
        }
        self.reset();
        (self.data, self.is_key) = (next, next_is_key);
    }
}

fn head_of(nal: &[u8]) -> &[u8] {
    &nal[..nal.len().min(HEAD_BYTES)]
}

/// Parameter sets of `N` kinds, and the format they make. Some cameras alternate between two pairs
/// (quirk 39), so the last few formats are kept: the same bytes always give the same `Arc`.
pub struct ParameterSets<const N: usize> {
    sets: [Vec<u8>; N],
    is_changed: bool,
    format: Option<Arc<VideoFormat>>,
    recent: Vec<([Vec<u8>; N], Arc<VideoFormat>)>,
    /// Why the last sets made no format.
    pub error: Option<String>,
}

/// Formats remembered.
const RECENT_FORMATS_MAX: usize = 4;
/// Larger parameter sets are left alone; real ones have under 400 bytes.
const SET_BYTES_MAX: usize = 4 << 10;

impl<const N: usize> Default for ParameterSets<N> {
    fn default() -> Self {
        let sets = std::array::from_fn(|_| Vec::new());
        Self { sets, is_changed: false, format: None, recent: Vec::new(), error: None }
    }
}

impl<const N: usize> ParameterSets<N> {
    pub fn get(&self, kind: usize) -> &[u8] {
        &self.sets[kind]
    }

    /// Takes a parameter set; true if it differs from the one before.
    pub fn set(&mut self, kind: usize, nal: &[u8]) -> bool {
        let nal = nal::trim_zeros(nal);
        if nal == self.sets[kind] || nal.len() > SET_BYTES_MAX {
            return false;
        }
        self.sets[kind].clear();
        self.sets[kind].extend_from_slice(nal);
        self.is_changed = true;
        true
    }

    /// The format of the current sets. Sets that cannot be understood leave the old one in force.
    pub fn format(
        &mut self,
        parse: impl FnOnce(&[Vec<u8>; N]) -> Result<VideoFormat, String>,
    ) -> Option<Arc<VideoFormat>> {
        if self.is_changed && self.sets.iter().all(|set| !set.is_empty()) {
            self.is_changed = false;
            if let Some((_, format)) = self.recent.iter().find(|(sets, _)| *sets == self.sets) {
                self.format = Some(Arc::clone(format));
            } else {
                match parse(&self.sets) {
                    Ok(format) => self.keep(Arc::new(format)),
                    Err(why) => self.error = Some(why),
                }
            }
        }
        self.format.clone()
    }

    fn keep(&mut self, format: Arc<VideoFormat>) {
        if self.recent.len() >= RECENT_FORMATS_MAX {
            self.recent.remove(0);
        }
        self.recent.push((self.sets.clone(), Arc::clone(&format)));
        self.format = Some(format);
    }
}
