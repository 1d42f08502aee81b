//! Reads back what a recording holds, after a crash or when the store has to be rebuilt from files.
//!
//! In here: a sans-IO walk over the boxes, `Want` out, bytes in. Not in here: reading, cutting and
//! patching the file (record/). Invariant S1: any bytes, however hostile, end in `Done` after at
//! most one read per eight bytes of the file, without a panic and within `READ_BYTES_MAX` and
//! `ENTRIES_MAX` of memory.

use super::fmp4::{RecordingTag, TAG_START_AT};
use super::fmp4_index::{INDEX_SLOTS_MAX, Index, IndexEntry, index_bytes, merge_pairs};
use super::fmp4_moof::{Fragment, parse_moof};
use super::mp4_box::{BoxHead, Cursor, boxes};

/// The longest read: a larger `moov`, `sidx` or `moof` is not ours.
pub const READ_BYTES_MAX: usize = 1 << 20;
/// The usual read: the head of a fragment of a second is under 2 KiB.
const READ_BYTES: usize = 4096;
/// More fragments are merged in pairs. A quarter of an hour at one per second has 900.
pub const ENTRIES_MAX: usize = 8192;
const _: () = assert!(index_bytes(INDEX_SLOTS_MAX) <= READ_BYTES_MAX);
/// Our files have three boxes in front of the first fragment.
const HEAD_BOXES_MAX: u32 = 64;
/// Of a movie and two tracks, with their media.
const CREATED_MAX: usize = 5;
/// Head of an `mdat` box with a 64-bit size.
const MDAT_HEAD_BYTES_MAX: usize = 16;

/// What the scanner needs next.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Want {
    /// Up to `len` bytes at `at`, to be handed to `feed`; fewer mean that the file ends there.
    Read {
        at: u64,
        len: usize,
    },
    Done(Result<Scan, ScanError>),
}

/// Why a file holds no recording, and so what to do with it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ScanError {
    /// The file ends inside its head, or is all zeros: it holds no media and can go.
    TornHead,
    /// Something else than a recording: leave it alone.
    NotRecording { what: String },
}

/// What a recording holds.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Scan {
    /// `None`: a fragmented MP4, but not written by a recorder.
    pub tag: Option<RecordingTag>,
    /// Offset behind the last whole fragment: cut here, and every player is content.
    pub media_end: u64,
    /// Of the video, in 90 kHz ticks, with the duration of the last sample.
    pub duration_ticks: u64,
    /// Presentation time of the first picture, in 90 kHz ticks.
    pub earliest_pts: u64,
    /// What `encode_index` takes; merged when there are more than `ENTRIES_MAX`.
    pub fragments: Vec<IndexEntry>,
    /// Where the room for the index is, and for how many entries.
    pub index_at: Option<u64>,
    pub index_slots: usize,
    /// Where `mehd` has its duration, which is `duration_ticks` once the recording is finished.
    pub duration_at: Option<u64>,
    /// Where the tag has the start, and where the movie and its tracks have the time that they were made.
    pub start_at: Option<u64>,
    pub created_at: Vec<u64>,
    /// Index and duration are in place and reach the end of the file: nothing is left to do.
    pub is_indexed: bool,
    pub has_torn_tail: bool,
    /// Sequence number of the last fragment that was looked at, 0 without any.
    pub last_sequence: u32,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    /// Boxes up to the room for the index, or up to the first fragment of a file that has no tag.
    Head,
    /// The room for the index.
    Index,
    /// The index reaches the end of the file: only its last entry is looked at.
    LastEntry,
    /// One fragment after the other.
    Fragments,
}

/// Walks over one file.
#[derive(Clone, Debug)]
pub struct Scanner {
    file_len: u64,
    stage: Stage,
    /// Start of the box that is looked at, and how much of it is wanted.
    at: u64,
    len: usize,
    head_boxes: u32,
    has_movie: bool,
    /// Duration in `mehd`: 0 until the recording was finished.
    movie_duration: u64,
    index: Option<Index>,
    /// Decoding time behind the last video fragment.
    next_dts: Option<u64>,
    scan: Scan,
    done: Option<Result<(), ScanError>>,
}

impl Scanner {
    /// Starts on a file of `file_len` bytes.
    pub fn new(file_len: u64) -> Self {
        Self {
            file_len,
            stage: Stage::Head,
            at: 0,
            len: READ_BYTES,
            head_boxes: 0,
            has_movie: false,
            movie_duration: 0,
            index: None,
            next_dts: None,
            scan: Scan::default(),
            done: (file_len == 0).then_some(Err(ScanError::TornHead)),
        }
    }

    /// What is needed next; the same until `feed` is called.
    pub fn next(&self) -> Want {
        match &self.done {
            Some(Ok(())) => Want::Done(Ok(self.scan.clone())),
            Some(Err(error)) => Want::Done(Err(error.clone())),
            None => {
                let left = self.file_len - self.at;
                Want::Read {
                    at: self.at,
                    len: self.len.min(usize::try_from(left).unwrap_or(self.len)),
                }
            }
        }
    }

    /// Takes the bytes of the last `Want::Read`.
    pub fn feed(&mut self, bytes: &[u8]) {
        if self.done.is_some() {
            return;
        }
        match self.stage {
            Stage::Head => self.feed_head(bytes),
            Stage::Index => self.feed_index(bytes),
            Stage::LastEntry => self.feed_last_entry(bytes),
            Stage::Fragments => self.feed_fragment(bytes),
        }
    }

    /// Whether all `wanted` bytes are there; else asks for them, or `None` when the file has no
    /// more.
    fn have(&mut self, bytes: &[u8], wanted: u64) -> Option<bool> {
        if bytes.len() as u64 >= wanted {
            return Some(true);
        }
        let was_asked_for = self.len as u64 >= wanted;
        if was_asked_for || wanted > READ_BYTES_MAX as u64 || self.at + wanted > self.file_len {
            return None;
        }
        self.len = wanted as usize; // <= READ_BYTES_MAX
        Some(false)
    }

    fn feed_head(&mut self, bytes: &[u8]) {
        let Some(head) = BoxHead::parse(bytes) else {
            let is_blank = bytes.iter().all(|&byte| byte == 0);
            let is_torn = self.has_movie || is_blank || bytes.len() < MDAT_HEAD_BYTES_MAX;
            return self.refuse(is_torn, "no box");
        };
        let is_first = self.head_boxes == 0;
        self.head_boxes += 1;
        if is_first != (head.kind == *b"ftyp") || self.head_boxes > HEAD_BOXES_MAX {
            return self.refuse(false, "not a sequence of boxes that a recorder writes");
        }
        if head.kind == *b"moof" && self.has_movie {
            return self.begin_fragments();
        }
        let Some(end) = self.at.checked_add(head.size).filter(|&end| end <= self.file_len) else {
            return self.refuse(true, "");
        };
        let wanted = if head.kind == *b"moov" { head.size } else { 0 };
        match self.have(bytes, wanted) {
            Some(true) => {}
            Some(false) => {
                self.head_boxes -= 1; // the same box again, with its body
                return;
            }
            None => return self.refuse(false, "a movie header that is too large"),
        }
        match &head.kind {
            b"moov" if !self.has_movie => {
                self.take_movie(&bytes[head.head_len as usize..head.size as usize], head.head_len);
                if !self.has_movie {
                    return self.refuse(false, "a movie without fragments");
                }
            }
            b"moov" | b"mdat" => return self.refuse(false, "not fragmented as a recorder does it"),
            _ => {}
        }
        self.go_to(end);
        if self.scan.tag.is_some() {
            self.begin_index();
        } else if end == self.file_len {
            self.refuse(true, "");
        }
    }

    fn go_to(&mut self, at: u64) {
        self.at = at;
        self.len = READ_BYTES;
        self.scan.media_end = at;
    }

    /// Reads tag and duration out of `moov`; without `mvex` there are no fragments to come.
    fn take_movie(&mut self, body: &[u8], head_len: u64) {
        let body_at = self.at + head_len;
        self.has_movie = boxes(body).any(|(kind, ..)| kind == *b"mvex");
        for (kind, at, child) in boxes(body) {
            self.note_created(kind, child, body_at + at as u64, 0);
            if kind == *b"uuid"
                && let Some((tag, slots)) = RecordingTag::parse(child)
            {
                self.scan.tag = Some(tag);
                self.scan.index_slots = slots;
                self.scan.start_at = Some(body_at + (at + TAG_START_AT) as u64);
            } else if kind == *b"mvex" {
                let header = boxes(child).find(|(kind, ..)| kind == b"mehd");
                if let Some((_, header_at, header)) = header {
                    self.take_duration(header, body_at + (at + header_at) as u64);
                }
            }
        }
    }

    /// Headers of version 1 begin with version and flags, the time of creation and that of the last change.
    fn note_created(&mut self, kind: [u8; 4], body: &[u8], body_at: u64, depth: u32) {
        match &kind {
            b"mvhd" | b"tkhd" | b"mdhd"
                if body.len() >= 20 && body[0] == 1 && self.scan.created_at.len() < CREATED_MAX =>
            {
                self.scan.created_at.push(body_at + 4);
            }
            b"trak" | b"mdia" if depth < 2 => {
                for (kind, at, child) in boxes(body) {
                    self.note_created(kind, child, body_at + at as u64, depth + 1);
                }
            }
            _ => {}
        }
    }

    /// `mehd` of version 1; an older one has no room for what we write.
    fn take_duration(&mut self, body: &[u8], body_at: u64) {
        let mut cursor = Cursor::new(body);
        if cursor.u32() == Some(1 << 24)
            && let Some(duration) = cursor.u64()
        {
            self.scan.duration_at = Some(body_at + 4);
            self.movie_duration = duration;
        }
    }

    /// `moov` of a recording is behind us: here is the room for the index.
    fn begin_index(&mut self) {
        let room = index_bytes(self.scan.index_slots);
        if self.file_len - self.at < room as u64 {
            return self.refuse(true, "");
        }
        self.scan.index_at = Some(self.at);
        self.stage = Stage::Index;
        self.len = room;
    }

    /// What stands in the room does not decide where the first fragment is, because a power cut may
    /// have torn it.
    fn feed_index(&mut self, bytes: &[u8]) {
        let room = index_bytes(self.scan.index_slots);
        if bytes.len() < room {
            return self.refuse(true, "");
        }
        self.index = self.parse_index(bytes);
        self.go_to(self.at + room as u64);
        if self.at == self.file_len {
            return self.finish();
        }
        self.begin_fragments();
    }

    /// A `sidx` that fills the room together with the `free` box behind it, and says the same
    /// duration as `mehd`. Anything else was torn, or the recording never was finished.
    fn parse_index(&self, room: &[u8]) -> Option<Index> {
        let mut both = boxes(room);
        let (_, _, body) = both.next().filter(|(kind, ..)| kind == b"sidx")?;
        let (_, free_at, free) = both.next().filter(|(kind, ..)| kind == b"free")?;
        let index = Index::parse(body)?;
        let has_all =
            free_at + free.len() == room.len() && index.first_offset == free.len() as u64 + 8;
        let duration: u64 = index.entries.iter().map(|entry| u64::from(entry.duration)).sum();
        (has_all && duration == self.movie_duration && duration > 0).then_some(index)
    }

    /// The head is read. When the index is whole, there is no need to visit every fragment.
    fn begin_fragments(&mut self) {
        self.stage = Stage::Fragments;
        self.len = READ_BYTES;
        let Some(index) = &self.index else { return };
        let bytes: u64 = index.entries.iter().map(|entry| u64::from(entry.bytes)).sum();
        let last = index.entries.last().map_or(0, |entry| u64::from(entry.bytes));
        if self.at + bytes == self.file_len {
            self.stage = Stage::LastEntry;
            self.at = self.file_len - last;
        }
    }

    fn feed_last_entry(&mut self, bytes: &[u8]) {
        match self.parse_fragment(bytes) {
            Parsed::More => {}
            Parsed::Whole { fragment, .. } => {
                let Some(index) = self.index.take() else { return };
                self.scan.earliest_pts = index.earliest_pts;
                self.scan.fragments = index.entries;
                self.scan.media_end = self.file_len;
                self.scan.last_sequence = fragment.sequence;
                self.scan.is_indexed = true;
                self.finish();
            }
            Parsed::Torn => {
                // The index was written before the media reached the disk: don't believe it.
                self.index = None;
                self.stage = Stage::Fragments;
                self.go_to(self.scan.media_end);
            }
        }
    }

    fn feed_fragment(&mut self, bytes: &[u8]) {
        match self.parse_fragment(bytes) {
            Parsed::More => {}
            Parsed::Torn => self.finish(),
            Parsed::Whole { fragment, end } => {
                self.take_fragment(&fragment, end - self.at);
                self.go_to(end);
                if end == self.file_len {
                    self.finish();
                }
            }
        }
    }

    /// A fragment counts when `moof` and `mdat` are whole. What is inside of `moof` may be damaged:
    /// its bytes are kept all the same, because recorded video behind it must not be cut off.
    fn parse_fragment(&mut self, bytes: &[u8]) -> Parsed {
        let Some(moof) = BoxHead::parse(bytes).filter(|head| head.kind == *b"moof") else {
            return Parsed::Torn;
        };
        let left = self.file_len - self.at;
        if moof.size > (READ_BYTES_MAX - MDAT_HEAD_BYTES_MAX) as u64 || moof.size >= left {
            return Parsed::Torn;
        }
        match self.have(bytes, left.min(moof.size + MDAT_HEAD_BYTES_MAX as u64)) {
            Some(true) => {}
            Some(false) => return Parsed::More,
            None => return Parsed::Torn,
        }
        let (moof_bytes, behind) = bytes.split_at(moof.size as usize);
        let Some(mdat) = BoxHead::parse(behind).filter(|head| head.kind == *b"mdat") else {
            return Parsed::Torn;
        };
        match moof.size.checked_add(mdat.size).filter(|&size| size <= left) {
            Some(size) => Parsed::Whole {
                fragment: parse_moof(&moof_bytes[moof.head_len as usize..]),
                end: self.at + size,
            },
            None => Parsed::Torn,
        }
    }

    /// Adds a fragment to the list. A hole in the decoding times belongs to the fragment in front
    /// of it, so that the durations of the index add up to the times in the file.
    fn take_fragment(&mut self, fragment: &Fragment, bytes: u64) {
        self.scan.last_sequence = fragment.sequence;
        let bytes = u32::try_from(bytes).unwrap_or(u32::MAX);
        let mut entry = IndexEntry { bytes, duration: 0, starts_with_key: false };
        if let Some(video) = &fragment.video {
            let hole = self.next_dts.map_or(0, |next| video.base_dts.saturating_sub(next));
            if let Some(last) = self.scan.fragments.last_mut() {
                last.duration =
                    last.duration.saturating_add(u32::try_from(hole).unwrap_or(u32::MAX));
            }
            if self.next_dts.is_none() {
                self.scan.earliest_pts = video.earliest_pts;
            }
            entry.duration = u32::try_from(video.duration).unwrap_or(u32::MAX);
            entry.starts_with_key = video.starts_with_key;
            let end = video.base_dts.saturating_add(video.duration);
            self.next_dts = self.next_dts.max(Some(end));
        }
        if self.scan.fragments.len() >= ENTRIES_MAX {
            merge_pairs(&mut self.scan.fragments);
        }
        self.scan.fragments.push(entry);
    }

    fn finish(&mut self) {
        let durations = self.scan.fragments.iter().map(|entry| u64::from(entry.duration));
        self.scan.duration_ticks = durations.sum();
        self.scan.has_torn_tail = self.scan.media_end < self.file_len;
        self.done = Some(Ok(()));
    }

    /// Ends the walk inside the head. Behind a whole `moov` a torn tail is only a tail without
    /// media.
    fn refuse(&mut self, is_torn: bool, what: &str) {
        if is_torn && self.has_movie {
            return self.finish();
        }
        let foreign = || ScanError::NotRecording { what: format!("{what}, at byte {}", self.at) };
        self.done = Some(Err(if is_torn { ScanError::TornHead } else { foreign() }));
    }
}

/// What stands at the place that is looked at.
enum Parsed {
    /// More bytes were asked for.
    More,
    Whole {
        fragment: Fragment,
        end: u64,
    },
    Torn,
}

#[cfg(test)]
mod tests;
