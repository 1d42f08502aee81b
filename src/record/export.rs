//! One MP4 of all recordings of a stream in a span of time, read piece by piece with constant memory.
//!
//! In here: which recordings, from which keyframe to which fragment, where each lies on the time axis of the
//! export, and reading. Not in here: boxes (`media/fmp4_join.rs`), who may ask (`api/export.rs`), and sending.
//! All of it blocks, so it runs in the pool of downloads. What is not recorded stays a gap in time; a
//! recording that was deleted meanwhile is one, too. The file is fragmented as recordings are: nothing has to
//! be known, or kept, of what comes later.

use std::fs::{File, OpenOptions};
use std::io::{self, ErrorKind};
use std::ops::Range;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::Path;

use rustix::fs::OFlags;

use crate::media::fmp4_join::{
    Difference, JoinHead, TrackTime, earliest_ticks, move_fragment, track_times,
};
use crate::media::fmp4_moof::{VideoRun, parse_moof};
use crate::media::mp4_box::BoxHead;
use crate::nvr::snapshot::SnapshotCell;
use crate::store::row::RecordingRow;
use crate::store::{Place, RecordingQuery, StoreReader};

/// Recordings in one export: a day of files of ten seconds. Each head is read before the first byte is sent.
pub const RECORDINGS_MAX: usize = 8640;
/// Bytes of one piece.
const PIECE_BYTES: usize = 256 << 10;
/// Heads looked at in one step of the planning.
const HEADS_PER_STEP: usize = 16;
/// First read at the begin of a file: our heads have under 2 KiB and the room for the index behind.
const HEAD_BYTES: usize = 16 << 10;
/// A larger `moov` or `moof` is not ours.
const HEAD_BYTES_MAX: usize = 1 << 20;
/// The usual read of a fragment's head.
const FRAGMENT_HEAD_BYTES: usize = 4 << 10;
/// A recording that begins so shortly after the one before follows on it without a gap: the clock of the
/// recorder and that of the camera differ by as much in an hour.
const JOINT_MS_MAX: i64 = 250;
const TICKS_PER_MS: i64 = 90;

/// Why there is no export, or none any more.
#[derive(Debug)]
pub enum ExportError {
    /// No recording in this time.
    Empty,
    TooMany,
    /// From this moment on (Unix milliseconds) pictures or sound are of another kind.
    Differs {
        at_ms: i64,
        what: String,
    },
    /// The text is for the log.
    Failed(String),
}

impl From<io::Error> for ExportError {
    fn from(error: io::Error) -> Self {
        Self::Failed(error.to_string())
    }
}

/// An export: `plan` until it answers true, then `read` until it answers none.
pub struct Export {
    store: StoreReader,
    snapshot: SnapshotCell,
    stream_id: u32,
    start_ms: i64,
    end_ms: i64,
    /// The recording that was looked at last.
    behind: Option<Place>,
    planned: usize,
    /// Head of the first recording, or of the first one with sound.
    head: Option<JoinHead>,
    end_planned_ms: i64,
    start_planned_ms: Option<i64>,
    is_begun: bool,
    open: Option<Open>,
    /// Wall clock of the axis' zero.
    zero_ms: i64,
    sequence: u32,
    /// Where the last fragment ends on the axis, and by the wall clock.
    end_ticks: i64,
    last_end_ms: Option<i64>,
}

/// A recording that is being read.
struct Open {
    file: File,
    row: RecordingRow,
    /// What has to be added to its times, in ticks.
    shift: i64,
    /// The next fragment.
    at: u64,
    /// What of the present fragment's media is still to be read.
    data: Range<u64>,
}

/// The head of a fragment as it stands in a file.
struct FragmentHead {
    /// `moof` and the head of `mdat`.
    bytes: Vec<u8>,
    times: Vec<TrackTime>,
    /// `None`: sound alone, as where the video has stopped.
    video: Option<VideoRun>,
    data: Range<u64>,
}

impl Export {
    /// Of the recordings of `stream_id` that overlap `[start_ms, end_ms)`.
    pub fn new(
        store: StoreReader,
        snapshot: SnapshotCell,
        stream_id: u32,
        (start_ms, end_ms): (i64, i64),
    ) -> Self {
        Self {
            store,
            snapshot,
            stream_id,
            start_ms,
            end_ms,
            behind: None,
            planned: 0,
            head: None,
            end_planned_ms: start_ms,
            start_planned_ms: None,
            is_begun: false,
            open: None,
            zero_ms: 0,
            sequence: 0,
            end_ticks: 0,
            last_end_ms: None,
        }
    }

    /// Looks at the next heads. True: all agree, and `read` may be called.
    pub fn plan(&mut self) -> Result<bool, ExportError> {
        for _ in 0..HEADS_PER_STEP {
            let Some(row) = self.next_row()? else {
                self.behind = None;
                return if self.head.is_some() { Ok(true) } else { Err(ExportError::Empty) };
            };
            if self.planned >= RECORDINGS_MAX {
                return Err(ExportError::TooMany);
            }
            let Some((file, head)) = self.open_row(&row)? else { continue };
            self.planned += 1;
            self.end_planned_ms = self.end_planned_ms.max(row.end_ms.min(self.end_ms));
            if self.start_planned_ms.is_none() {
                let start_ms = row.start_ms;
                let mut open =
                    Open { file, row: row.clone(), shift: 0, at: head.media_at, data: 0..0 };
                let first = find_start(&mut open, self.start_ms)?.and_then(|first| first.video);
                self.start_planned_ms = first.map(|video| start_ms + ticks_to_ms(video.base_dts));
            }
            match &self.head {
                None => self.head = Some(head),
                Some(known) => {
                    if let Some(difference) = known.difference(&head) {
                        let what = describe(difference, known, &head);
                        return Err(ExportError::Differs { at_ms: row.start_ms, what });
                    }
                    if !known.has_audio() && head.has_audio() {
                        self.head = Some(head);
                    }
                }
            }
        }
        Ok(false)
    }

    /// The next bytes; `None` at the end.
    pub fn read(&mut self) -> Result<Option<Vec<u8>>, ExportError> {
        if !self.is_begun {
            self.is_begun = true;
            let first_ms = self.start_planned_ms.unwrap_or(self.start_ms);
            let length_ms = (self.end_planned_ms - first_ms).max(0);
            let ticks = u64::try_from(length_ms * TICKS_PER_MS).unwrap_or(0);
            return Ok(self.head.as_ref().map(|head| head.encode(ticks)));
        }
        loop {
            if let Some(open) = &mut self.open {
                if !open.data.is_empty() {
                    return read_piece(open).map(Some);
                }
                if let Some(bytes) = self.next_fragment()? {
                    return Ok(Some(bytes));
                }
                self.open = None;
            }
            if !self.open_next()? {
                return Ok(None);
            }
        }
    }

    /// The recording behind the last one. The first one is the last that began at or before the start: where
    /// two overlap, as by the lag of a busy machine, the last keyframe before the start is in that one.
    fn next_row(&mut self) -> Result<Option<RecordingRow>, ExportError> {
        let is_first = self.behind.is_none();
        let mut row = self.row_behind()?;
        while is_first && row.as_ref().is_some_and(|row| row.start_ms <= self.start_ms) {
            let behind = self.behind;
            match self.row_behind()? {
                Some(next) if next.start_ms <= self.start_ms => row = Some(next),
                _ => {
                    self.behind = behind;
                    break;
                }
            }
        }
        Ok(row)
    }

    /// The next row by time, of a running recording as far as it is synced.
    fn row_behind(&mut self) -> Result<Option<RecordingRow>, ExportError> {
        let query = RecordingQuery {
            stream_id: Some(self.stream_id),
            start_ms: Some(self.start_ms),
            end_ms: Some(self.end_ms),
            after: self.behind,
            limit: 1,
            ..RecordingQuery::default()
        };
        // First: a recording that ends in between then still has its row.
        let snapshot = self.snapshot.load();
        let failed = |error| ExportError::Failed(format!("store: {error}"));
        let row = self.store.recordings(&query).map_err(failed)?.pop();
        let running = snapshot.running.iter().find(|running| {
            self.behind.is_none_or(|behind| (running.start_ms, running.id) > behind)
                && running.stream_id == self.stream_id
                && running.start_ms < self.end_ms
                && running.end_ms > self.start_ms
        });
        let running = running.filter(|running| {
            row.as_ref().is_none_or(|row| row.place() >= (running.start_ms, running.id))
        });
        let row = match running {
            Some(running) => Some(running.row()),
            None => row,
        };
        self.behind = row.as_ref().map(RecordingRow::place).or(self.behind);
        Ok(row)
    }

    /// The recording's file and head; `None` if it was deleted meanwhile, or holds nothing of ours.
    fn open_row(&self, row: &RecordingRow) -> Result<Option<(File, JoinHead)>, ExportError> {
        let file = match open_file(Path::new(&row.path)) {
            Ok(file) => file,
            Err(error) if error.kind() == ErrorKind::NotFound => {
                let failed = |error| ExportError::Failed(format!("store: {error}"));
                return match self.store.recording(row.id).map_err(failed)? {
                    Some(_) => Err(ExportError::Failed(format!("{}: {error}", row.path))),
                    None => Ok(None),
                };
            }
            Err(error) => return Err(ExportError::Failed(format!("{}: {error}", row.path))),
        };
        let mut len = HEAD_BYTES;
        loop {
            let bytes = read_at(&file, 0, len, row.size)?;
            let is_short = bytes.len() < len;
            match JoinHead::parse(&bytes) {
                Some(head) => return Ok(Some((file, head))),
                None if is_short || len >= HEAD_BYTES_MAX => {
                    log::warn!("{}: left out of an export: not a recording of ours", row.path);
                    return Ok(None);
                }
                None => len = HEAD_BYTES_MAX,
            }
        }
    }

    /// Opens the next recording and puts it on the axis; false when there is none.
    fn open_next(&mut self) -> Result<bool, ExportError> {
        while let Some(row) = self.next_row()? {
            let Some((file, head)) = self.open_row(&row)? else { continue };
            let known = self.head.as_ref();
            if known.is_none_or(|known| known.difference(&head).is_some()) {
                // It began after the heads were looked at: what follows is another export.
                return Ok(false);
            }
            let mut open = Open { file, row, shift: 0, at: head.media_at, data: 0..0 };
            match self.last_end_ms {
                None => {
                    let Some(first) = find_start(&mut open, self.start_ms)? else { continue };
                    let rate = self.sample_rate();
                    let earliest = earliest_ticks(&first.times, rate);
                    open.shift = -i64::try_from(earliest).unwrap_or(i64::MAX);
                    self.zero_ms = open.row.start_ms - open.shift / TICKS_PER_MS;
                }
                Some(last_end_ms) => {
                    let gap_ms = open.row.start_ms - last_end_ms;
                    let by_wall = (open.row.start_ms - self.zero_ms).saturating_mul(TICKS_PER_MS);
                    let is_joint = gap_ms.abs() <= JOINT_MS_MAX;
                    // The axis never goes back, also where the clock did.
                    open.shift =
                        if is_joint { self.end_ticks } else { by_wall.max(self.end_ticks) };
                }
            }
            self.open = Some(open);
            return Ok(true);
        }
        Ok(false)
    }

    fn sample_rate(&self) -> u32 {
        self.head.as_ref().and_then(JoinHead::sample_rate).unwrap_or(1)
    }

    /// The head of the next fragment, moved; `None` when the recording, or the span, is over.
    fn next_fragment(&mut self) -> Result<Option<Vec<u8>>, ExportError> {
        let rate = self.sample_rate();
        let Some(open) = &mut self.open else { return Ok(None) };
        let Some(mut fragment) = read_fragment(open)? else { return Ok(None) };
        let is_behind =
            |video: VideoRun| open.row.start_ms + ticks_to_ms(video.base_dts) >= self.end_ms;
        if fragment.video.is_some_and(is_behind) {
            return Ok(None);
        }
        self.sequence = self.sequence.wrapping_add(1);
        let FragmentHead { bytes, times, .. } = &mut fragment;
        move_fragment(bytes, times, self.sequence, open.shift, rate);
        if let Some(video) = fragment.video {
            let end = video.base_dts.saturating_add(video.duration);
            let end_ticks = i64::try_from(end).unwrap_or(i64::MAX).saturating_add(open.shift);
            self.end_ticks = self.end_ticks.max(end_ticks);
            self.last_end_ms = Some(open.row.start_ms + ticks_to_ms(end));
        }
        open.at = fragment.data.end;
        open.data = fragment.data;
        Ok(Some(fragment.bytes))
    }
}

fn ticks_to_ms(ticks: u64) -> i64 {
    i64::try_from(ticks).unwrap_or(i64::MAX) / TICKS_PER_MS
}

fn describe(difference: Difference, was: &JoinHead, is: &JoinHead) -> String {
    match difference {
        Difference::Picture if was.size != is.size => format!(
            "the picture changes from {}x{} to {}x{}",
            was.size.0, was.size.1, is.size.0, is.size.1
        ),
        Difference::Picture => "the video's coding changes".to_owned(),
        Difference::Sound => "the sound's coding changes".to_owned(),
    }
}

/// Whoever may write to the recordings must not have us read another file by a link, nor wait on a pipe.
fn open_file(path: &Path) -> io::Result<File> {
    let flags = (OFlags::NOFOLLOW | OFlags::NONBLOCK).bits().cast_signed();
    let file = OpenOptions::new().read(true).custom_flags(flags).open(path)?;
    if file.metadata()?.is_file() { Ok(file) } else { Err(ErrorKind::InvalidInput.into()) }
}

/// Up to `len` bytes at `at`, and none behind `size`.
fn read_at(file: &File, at: u64, len: usize, size: u64) -> io::Result<Vec<u8>> {
    let left = usize::try_from(size.saturating_sub(at)).unwrap_or(usize::MAX);
    let mut bytes = vec![0; len.min(left)];
    let mut filled = 0;
    while filled < bytes.len() {
        match file.read_at(&mut bytes[filled..], at + filled as u64) {
            Ok(0) => break,
            Ok(n) => filled += n,
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    bytes.truncate(filled);
    Ok(bytes)
}

fn read_piece(open: &mut Open) -> Result<Vec<u8>, ExportError> {
    let left = usize::try_from(open.data.end - open.data.start).unwrap_or(PIECE_BYTES);
    let piece = read_at(&open.file, open.data.start, left.min(PIECE_BYTES), open.data.end)?;
    if piece.is_empty() {
        return Err(ExportError::Failed(format!("{}: ends too early", open.row.path)));
    }
    open.data.start += piece.len() as u64;
    Ok(piece)
}

/// The fragment at `open.at`; `None` at the end of what is synced, or where none follows.
fn read_fragment(open: &Open) -> Result<Option<FragmentHead>, ExportError> {
    let (at, size) = (open.at, open.row.size);
    let mut len = FRAGMENT_HEAD_BYTES;
    loop {
        let mut bytes = read_at(&open.file, at, len, size)?;
        let Some(moof) = BoxHead::parse(&bytes).filter(|head| head.kind == *b"moof") else {
            return Ok(None);
        };
        let wanted = moof.size.saturating_add(16);
        if wanted > HEAD_BYTES_MAX as u64 {
            return Ok(None);
        }
        let wanted = wanted as usize; // <= HEAD_BYTES_MAX
        if bytes.len() < wanted && len < wanted {
            len = wanted;
            continue;
        }
        let moof_len = moof.size as usize; // < HEAD_BYTES_MAX
        let Some(mdat) = bytes.get(moof_len..).and_then(BoxHead::parse) else { return Ok(None) };
        let end = (at + moof.size).checked_add(mdat.size).filter(|end| *end <= size);
        let (Some(end), b"mdat") = (end, &mdat.kind) else { return Ok(None) };
        let head_len = moof_len + mdat.head_len as usize;
        bytes.truncate(head_len);
        let video = parse_moof(&bytes[moof.head_len as usize..moof_len]).video;
        let times = track_times(&bytes[..moof_len]);
        let data = at + head_len as u64..end;
        return Ok(times.map(|times| FragmentHead { bytes, times, video, data }));
    }
}

/// Moves `open` to the last fragment that begins with a keyframe at or before `start_ms`, or to the first one.
fn find_start(open: &mut Open, start_ms: i64) -> Result<Option<FragmentHead>, ExportError> {
    let mut found: Option<(u64, FragmentHead)> = None;
    while let Some(fragment) = read_fragment(open)? {
        let begins_ms = fragment.video.map(|v| open.row.start_ms + ticks_to_ms(v.base_dts));
        if begins_ms.is_some_and(|begins_ms| begins_ms > start_ms) && found.is_some() {
            break;
        }
        let (here, next) = (open.at, fragment.data.end);
        if fragment.video.is_some_and(|video| video.starts_with_key) {
            found = Some((here, fragment));
        }
        open.at = next;
    }
    let Some((at, fragment)) = found else { return Ok(None) };
    open.at = at;
    Ok(Some(fragment))
}
