//! Cuts a stream's packets into fragments and files: where a recording starts, when it rotates, what is in
//! each fragment.
//!
//! In here: decisions and the bytes around the media. Not in here: writing (`record/writer.rs`).
//! Rules: a file starts at a video keyframe; a fragment is one group of pictures and at most
//! `FRAGMENT_MS_MAX`; a new run or another picture size or codec starts a new file. Packets arrive in
//! order of their sequence numbers and each lands in exactly one fragment. Sound arrives a little after the
//! picture that it goes with, so a file with sound is opened only when the sound has caught up with its
//! keyframe: what is earlier belongs to the file before, or to the second in front of the first file.
//! Keeps PURE-CORE.

use std::collections::VecDeque;
use std::sync::Arc;

use crate::media::fmp4::{
    self, IndexEntry, Init, RecordingTag, SampleInfo, TrackFragment, encode_fragment_head,
};
use crate::media::format::{AudioFormat, VIDEO_TIMESCALE, VideoFormat};
use crate::media::packet::{Packet, Run, Track};

/// Longest media in one fragment: what a killed process can lose.
pub const FRAGMENT_MS_MAX: i64 = 1000;
/// A fragment is closed early at this size, whatever its length.
pub const FRAGMENT_BYTES_MAX: usize = 4 << 20;
/// Audio packets in a fragment; beyond that (video has stopped) they go out without video.
const FRAGMENT_AUDIO_MAX: usize = 512;
/// Audio that came before the first keyframe of a run and is kept for the first file, in packets.
const HELD_AUDIO_MAX: usize = 128;
/// How long a file waits for the sound to catch up with its keyframe, in 90 kHz ticks: half a second.
const SOUND_LATE_MAX: i64 = VIDEO_TIMESCALE as i64 / 2;
/// Packets that wait with it at most: over a second of 60 fps.
const WAITING_PACKETS_MAX: usize = 64;
/// Between two pictures wall time and media time differ by this only when the recorder's clock stepped: then a new
/// file begins, so that each file has one true time.
const WALL_STEP_MS: u64 = 1000;
/// Index entries that are kept in memory; neighbours are merged beyond that.
const INDEX_ENTRIES_MAX: usize = 4096;
const DAY_MS: i64 = 86_400_000;
/// Video sample whose successor never came: the rate of a common camera.
const VIDEO_DURATION_DEFAULT: u32 = VIDEO_TIMESCALE / 15;
const TRACK_VIDEO: u32 = 1;
const TRACK_AUDIO: u32 = 2;

/// What the cutter must know of the stream; may change from packet to packet.
#[derive(Clone, Debug)]
pub struct CutConfig {
    pub stream_id: u32,
    pub stream_name: String,
    /// Wished length of a file in milliseconds.
    pub segment_ms: i64,
}

/// The next thing to do with the disk, in order.
#[derive(Debug)]
pub enum Cut {
    /// Start a file; a fragment follows.
    Open(Opening),
    Fragment(Fragment),
    /// End the file: overwrite these few bytes in its head.
    Finish {
        patches: Vec<(u64, Vec<u8>)>,
    },
}

/// A file that begins.
#[derive(Debug)]
pub struct Opening {
    /// Wall clock of the first picture, Unix milliseconds.
    pub start_ms: i64,
    /// What stands before the first fragment.
    pub init: Vec<u8>,
}

/// One `moof` and `mdat`: `head`, then the packets' data in this order.
#[derive(Debug)]
pub struct Fragment {
    pub head: Vec<u8>,
    pub packets: Vec<Arc<Packet>>,
    /// Bytes of head and data.
    pub len: u64,
    /// Wall clock of its end, Unix milliseconds.
    pub end_ms: i64,
}

struct Segment {
    run: Arc<Run>,
    video: Arc<VideoFormat>,
    audio: Option<Arc<AudioFormat>>,
    start_ms: i64,
    /// Where the file's time zero lies on the run's time axis, 90 kHz.
    zero: i64,
    init: Init,
    index_slots: usize,
    index: Vec<IndexEntry>,
    sequence: u32,
    pending_video: Vec<Arc<Packet>>,
    pending_video_bytes: usize,
    /// With the time in the file, in samples.
    pending_audio: Vec<(i64, Arc<Packet>)>,
    /// Earliest time that the next audio sample may have in the file.
    audio_next: i64,
    /// Length of the pictures that were cut, 90 kHz.
    duration: u64,
    /// Decoding time and wall time of the last picture.
    last_video: (i64, i64),
    earliest_pts: u64,
    last_video_duration: u32,
    last_audio_duration: u32,
}

/// A file that begins as soon as the sound has caught up.
struct Waiting {
    key: Arc<Packet>,
    format: Arc<VideoFormat>,
    /// What came behind the keyframe and belongs to the new file.
    behind: Vec<Arc<Packet>>,
    bytes: usize,
}

/// The state of one stream's recording.
#[derive(Default)]
pub struct Cutter {
    segment: Option<Segment>,
    waiting: Option<Waiting>,
    held_audio: VecDeque<Arc<Packet>>,
}

/// First boundary after `start_ms`: UTC midnight plus a multiple of `segment_ms`.
pub fn rotation_after(start_ms: i64, segment_ms: i64) -> i64 {
    let segment_ms = segment_ms.max(1);
    let midnight = start_ms.div_euclid(DAY_MS) * DAY_MS;
    let next = midnight + ((start_ms - midnight) / segment_ms + 1) * segment_ms;
    next.min(midnight + DAY_MS)
}

impl Cutter {
    /// Takes the next packet and appends what follows from it to `out`.
    pub fn push(&mut self, packet: Arc<Packet>, config: &CutConfig, out: &mut Vec<Cut>) {
        if self.waiting.is_some() {
            self.push_waiting(packet, config, out);
            return;
        }
        match &packet.track {
            Track::Audio(_) => self.push_audio(packet, out),
            Track::Video(format) => {
                let format = Arc::clone(format);
                let must_end =
                    self.segment.as_ref().is_some_and(|s| s.must_end(&packet, &format, config));
                match &mut self.segment {
                    Some(segment) if !must_end => segment.push_video(packet, out),
                    _ => self.begin(packet, format, config, out),
                }
            }
        }
    }

    /// A new file is due: at once, or when the sound has caught up.
    fn begin(
        &mut self,
        packet: Arc<Packet>,
        format: Arc<VideoFormat>,
        config: &CutConfig,
        out: &mut Vec<Cut>,
    ) {
        let next_dts = self.segment.as_ref().and_then(|s| s.continued_by(&packet));
        if let Some(segment) = &mut self.segment {
            if next_dts.is_some() {
                segment.cut(next_dts, false, out);
            } else {
                self.end(None, out);
            }
        }
        if !packet.is_key {
            return;
        }
        if packet.run.audio.is_some() {
            self.waiting = Some(Waiting { key: packet, format, behind: Vec::new(), bytes: 0 });
        } else {
            self.end(next_dts, out);
            self.open(packet, format, config, out);
        }
    }

    fn push_waiting(&mut self, packet: Arc<Packet>, config: &CutConfig, out: &mut Vec<Cut>) {
        let Some(waiting) = &mut self.waiting else { return };
        let (key, is_same_run) = (&waiting.key, packet.run.id == waiting.key.run.id);
        let time = file_ticks(&packet);
        if is_same_run && !packet.is_video() && time < key.dts {
            self.push_audio(packet, out);
            return;
        }
        // A camera with broken time stamps may never reach the end of that half second.
        let is_full = waiting.bytes + packet.data.len() > FRAGMENT_BYTES_MAX
            || waiting.behind.len() >= WAITING_PACKETS_MAX;
        let is_late = time - key.dts >= SOUND_LATE_MAX;
        let is_over = !is_same_run || !packet.is_video() || is_late || is_full;
        if is_same_run {
            waiting.bytes += packet.data.len();
            waiting.behind.push(Arc::clone(&packet));
        }
        if is_over {
            self.stop_waiting(config, out);
            if !is_same_run {
                self.push(packet, config, out);
            }
        }
    }

    fn stop_waiting(&mut self, config: &CutConfig, out: &mut Vec<Cut>) {
        let Some(Waiting { key, format, behind, .. }) = self.waiting.take() else { return };
        self.end(Some(key.dts), out);
        self.open(key, format, config, out);
        for packet in behind {
            self.push(packet, config, out);
        }
    }

    /// Ends the file that is open, if one is: the run is over or nobody wants a recording any more.
    pub fn finish(&mut self, config: &CutConfig, out: &mut Vec<Cut>) {
        while self.waiting.is_some() {
            self.stop_waiting(config, out);
        }
        self.end(None, out);
        self.held_audio.clear();
    }

    /// Forgets the file that is open, because the disk refused it; goes on at the next keyframe.
    pub fn abandon(&mut self) {
        self.segment = None;
        self.waiting = None;
    }

    /// Until when nothing follows from pictures that are no keyframes: a decoding time of the run. Whoever hands packets
    /// in may let them wait until then.
    pub fn quiet_until(&self) -> i64 {
        match (&self.waiting, &self.segment) {
            (Some(_), _) => i64::MIN,
            (None, None) => i64::MAX,
            (None, Some(segment)) => segment
                .pending_video
                .first()
                .map_or(i64::MIN, |first| first.dts + FRAGMENT_MS_MAX * 90),
        }
    }

    fn push_audio(&mut self, packet: Arc<Packet>, out: &mut Vec<Cut>) {
        match &mut self.segment {
            Some(segment) if segment.run.id == packet.run.id => segment.push_audio(packet, out),
            _ => {
                self.held_audio.retain(|held| held.run.id == packet.run.id);
                if self.held_audio.len() >= HELD_AUDIO_MAX {
                    self.held_audio.pop_front();
                }
                self.held_audio.push_back(packet);
            }
        }
    }

    fn open(
        &mut self,
        key: Arc<Packet>,
        video: Arc<VideoFormat>,
        config: &CutConfig,
        out: &mut Vec<Cut>,
    ) {
        let audio = key.run.audio.clone();
        let rate = i64::from(audio.as_ref().map_or(1, |audio| audio.sample_rate.max(1)));
        let timescale = i64::from(VIDEO_TIMESCALE);
        self.held_audio.retain(|held| {
            held.run.id == key.run.id && (key.dts - to_video_ticks(held.pts, rate)) < timescale
        });
        // Audio that belongs to this second but came first moves the file's zero, so that it keeps its place.
        let first_audio = self.held_audio.front().map(|held| to_video_ticks(held.pts, rate));
        let zero = first_audio.map_or(key.dts, |audio| audio.min(key.dts));
        let start_ms = key.wall_ms;
        let tag = RecordingTag {
            stream_id: config.stream_id,
            stream_name: config.stream_name.clone(),
            start_ms,
        };
        // One entry a group of pictures; most cameras send a keyframe every two seconds or less often.
        let index_slots = usize::try_from(config.segment_ms / 2000).unwrap_or(0) + 16;
        let init = fmp4::encode_init(&video, audio.as_deref(), &tag, index_slots);
        out.push(Cut::Open(Opening { start_ms, init: init.bytes.clone() }));
        let mut segment = Segment {
            run: Arc::clone(&key.run),
            video,
            audio,
            start_ms,
            zero,
            init: Init { bytes: Vec::new(), ..init },
            index_slots,
            index: Vec::new(),
            sequence: 0,
            pending_video: Vec::new(),
            pending_video_bytes: 0,
            pending_audio: Vec::new(),
            audio_next: 0,
            duration: 0,
            last_video: (key.dts, key.wall_ms),
            earliest_pts: u64::try_from(key.pts - zero).unwrap_or(0),
            last_video_duration: VIDEO_DURATION_DEFAULT,
            last_audio_duration: u32::try_from(rate / 50).unwrap_or(0).max(1),
        };
        for held in self.held_audio.drain(..) {
            segment.push_audio(held, out);
        }
        segment.push_video(key, out);
        self.segment = Some(segment);
    }

    fn end(&mut self, next_dts: Option<i64>, out: &mut Vec<Cut>) {
        if let Some(mut segment) = self.segment.take() {
            segment.cut(next_dts, true, out);
            out.push(Cut::Finish { patches: segment.patches() });
        }
    }
}

/// Where a packet stands on the run's time axis in 90 kHz, rounded down.
fn file_ticks(packet: &Packet) -> i64 {
    match &packet.track {
        Track::Video(_) => packet.dts,
        Track::Audio(format) => to_video_ticks(packet.pts, i64::from(format.sample_rate.max(1))),
    }
}

/// Audio time on the video's scale, rounded down.
fn to_video_ticks(pts: i64, rate: i64) -> i64 {
    (i128::from(pts) * i128::from(VIDEO_TIMESCALE)).div_euclid(i128::from(rate)) as i64
}

impl Segment {
    fn must_end(&self, packet: &Packet, format: &VideoFormat, config: &CutConfig) -> bool {
        if packet.run.id != self.run.id {
            return true;
        }
        if !packet.is_key {
            return false;
        }
        // Parameter sets stay in band, so that new ones of the same size need no new file (some cameras
        // alternate between two PPS with every keyframe).
        let passed_ms = (packet.dts - self.last_video.0) / 90;
        let step_ms = packet.wall_ms.abs_diff(self.last_video.1.saturating_add(passed_ms));
        let is_other = packet.run.audio != self.audio
            || format.codec != self.video.codec
            || (format.width, format.height) != (self.video.width, self.video.height);
        let media_ms = (packet.dts - self.zero) / 90;
        // Asked each time: a changed setting counts for the file that is open.
        let rotate_at_ms = rotation_after(self.start_ms, config.segment_ms);
        is_other
            || step_ms > WALL_STEP_MS
            || packet.wall_ms >= rotate_at_ms
            || media_ms >= 2 * config.segment_ms
    }

    /// The decoding time at which `packet` follows on this segment, if it is of the same run.
    fn continued_by(&self, packet: &Packet) -> Option<i64> {
        (packet.run.id == self.run.id).then_some(packet.dts)
    }

    fn push_video(&mut self, packet: Arc<Packet>, out: &mut Vec<Cut>) {
        self.last_video = (packet.dts, packet.wall_ms);
        if let Some(first) = self.pending_video.first() {
            let is_full = packet.dts - first.dts >= FRAGMENT_MS_MAX * 90
                || self.pending_video_bytes + packet.data.len() > FRAGMENT_BYTES_MAX;
            if packet.is_key || is_full {
                self.cut(Some(packet.dts), false, out);
            }
        }
        self.pending_video_bytes += packet.data.len();
        self.pending_video.push(packet);
    }

    fn push_audio(&mut self, packet: Arc<Packet>, out: &mut Vec<Cut>) {
        let Some(format) = &self.audio else { return };
        let zero = (i128::from(self.zero) * i128::from(format.sample_rate))
            .div_euclid(i128::from(VIDEO_TIMESCALE)) as i64;
        // Never backwards: after a rotation the first packets may belong before the keyframe.
        let time = (packet.pts - zero).max(self.audio_next);
        self.audio_next = time + 1;
        self.pending_audio.push((time, packet));
        if self.pending_audio.len() >= FRAGMENT_AUDIO_MAX {
            self.cut_audio_only(out);
        }
    }

    fn cut_audio_only(&mut self, out: &mut Vec<Cut>) {
        let video = std::mem::take(&mut self.pending_video);
        let bytes = self.pending_video_bytes;
        self.cut(None, false, out);
        (self.pending_video, self.pending_video_bytes) = (video, bytes);
    }

    /// Makes a fragment of what is pending. `next_dts` gives the last video sample its duration; the last audio
    /// sample waits for its successor unless the file ends.
    fn cut(&mut self, next_dts: Option<i64>, is_last: bool, out: &mut Vec<Cut>) {
        let video = std::mem::take(&mut self.pending_video);
        self.pending_video_bytes = 0;
        let keep = usize::from(!is_last).min(self.pending_audio.len());
        let kept = self.pending_audio.split_off(self.pending_audio.len() - keep);
        let audio = std::mem::replace(&mut self.pending_audio, kept);
        if video.is_empty() && audio.is_empty() {
            return;
        }
        let video_samples = self.video_samples(&video, next_dts);
        let audio_samples = self.audio_samples(&audio);
        let mut tracks = Vec::with_capacity(2);
        let mut duration = 0;
        if let Some(first) = video.first() {
            let base = first.dts - self.zero;
            duration = video_samples.iter().map(|sample| sample.duration).sum();
            self.duration += u64::from(duration);
            let base_dts = u64::try_from(base).unwrap_or(0);
            tracks.push(TrackFragment { track_id: TRACK_VIDEO, base_dts, samples: &video_samples });
        }
        if let Some((time, _)) = audio.first() {
            let base_dts = u64::try_from(*time).unwrap_or(0);
            tracks.push(TrackFragment { track_id: TRACK_AUDIO, base_dts, samples: &audio_samples });
        }
        self.sequence += 1;
        let head = encode_fragment_head(self.sequence, &tracks);
        let starts_with_key = video.first().is_some_and(|packet| packet.is_key);
        let packets: Vec<_> = video.into_iter().chain(audio.into_iter().map(|(_, p)| p)).collect();
        let data: usize = packets.iter().map(|packet| packet.data.len()).sum();
        let len = (head.len() + data) as u64;
        self.add_to_index(len, duration, starts_with_key);
        out.push(Cut::Fragment(Fragment { head, packets, len, end_ms: self.end_ms() }));
    }

    fn end_ms(&self) -> i64 {
        self.start_ms + i64::try_from(self.duration / 90).unwrap_or(0)
    }

    fn video_samples(&mut self, video: &[Arc<Packet>], next_dts: Option<i64>) -> Vec<SampleInfo> {
        let mut samples = Vec::with_capacity(video.len());
        for (n, packet) in video.iter().enumerate() {
            let next = video.get(n + 1).map(|next| next.dts).or(next_dts);
            let duration = next
                .and_then(|next| u32::try_from(next - packet.dts).ok())
                .unwrap_or(self.last_video_duration);
            self.last_video_duration = duration.min(VIDEO_TIMESCALE);
            samples.push(SampleInfo {
                size: u32::try_from(packet.data.len()).unwrap_or(u32::MAX),
                duration,
                cts_offset: i32::try_from(packet.pts - packet.dts).unwrap_or(0),
                is_key: packet.is_key,
            });
        }
        samples
    }

    fn audio_samples(&mut self, audio: &[(i64, Arc<Packet>)]) -> Vec<SampleInfo> {
        let mut samples = Vec::with_capacity(audio.len());
        for (n, (time, packet)) in audio.iter().enumerate() {
            let next = audio.get(n + 1).or(self.pending_audio.first()).map(|(next, _)| *next);
            let duration = next
                .and_then(|next| u32::try_from(next - time).ok())
                .unwrap_or(self.last_audio_duration);
            self.last_audio_duration = duration;
            let size = u32::try_from(packet.data.len()).unwrap_or(u32::MAX);
            samples.push(SampleInfo { size, duration, cts_offset: 0, is_key: true });
        }
        samples
    }

    fn add_to_index(&mut self, len: u64, duration: u32, starts_with_key: bool) {
        let bytes = u32::try_from(len).unwrap_or(u32::MAX);
        let entry = IndexEntry { bytes, duration, starts_with_key };
        match self.index.pop() {
            // An entry is a group of pictures; fragments from its middle, or of sound alone, extend it.
            Some(last) if !starts_with_key => self.index.push(last.merge(entry)),
            last => self.index.extend(last.into_iter().chain([entry])),
        }
        if self.index.len() >= INDEX_ENTRIES_MAX {
            let pairs =
                self.index.chunks(2).map(|pair| pair[1..].iter().fold(pair[0], |a, b| a.merge(*b)));
            self.index = pairs.collect();
        }
    }

    fn patches(&self) -> Vec<(u64, Vec<u8>)> {
        let (init, slots) = (&self.init, self.index_slots);
        let index = fmp4::encode_index(&self.index, slots, self.earliest_pts);
        vec![(init.index_at, index), (init.duration_at, self.duration.to_be_bytes().to_vec())]
    }
}

#[cfg(test)]
mod tests;
