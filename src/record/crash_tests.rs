//! A power cut at every operation of a session: two streams that rotate, with a recording deleted as
//! retention does it, and packets that went through the swap file; and of one that learns the time and dates its
//! recordings anew.
//!
//! After each one, what was synced (and in a second mode any part of what was not) is all that a new start finds.
//! It must find a store that opens, its own storage, files that play, a row for each and nothing else, and of each
//! stream all but the last 2 s and one round. Not in here: the very creation of the store's file.

use std::ops::RangeInclusive;
use std::path::Path;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;

use super::check;
use super::crash_disk::{CrashDisk, Random, Wreck};
use super::cut_core::{Cut, CutConfig, Cutter, Opening};
use super::disk::{Disk, DiskFile, Disks};
use super::open::OpenRecordings;
use super::recovery;
use super::retention::{self, Doomed};
use super::storage::{self, Consent};
use crate::buffer::board_core::{Board, Op};
use crate::buffer::ring::Take;
use crate::buffer::spill_core;
use crate::ledger::clock_core::Redate;
use crate::ledger::span_core::Layer;
use crate::media::media_clip::{Clip, encode_clip};
use crate::media::media_tool::{TempDir, run};
use crate::media::packet::{Packet, Run, Track};
use crate::store::row::RecordingRow;
use crate::store::{Change, RecordingQuery, Store};
use crate::system::pool::Pool;

const ROOT: &str = "/lightnvr-crash-test/storage";
const START_MS: i64 = 1_700_000_003_000;
/// A minute after the beginning of 1970, and what is missing to 2023.
const EARLY_MS: i64 = 63_000;
const BY_MS: i64 = 1_700_000_000_000;
const SECONDS: i64 = 12;
const SEGMENT_MS: i64 = 5000;
const FPS: i64 = 15;
/// The promise: 2 s, and the round in flight.
const LOST_MS_MAX: i64 = 3000;
/// Random remainders per power cut.
const LUCKS: u64 = 2;
/// ffmpeg plays what every so many power cuts leave; the scanner reads all.
const PLAYED_EVERY: usize = 60;

/// Seconds in which nothing is recorded, as if the disk did not take it.
const STALLED: RangeInclusive<i64> = 8..=9;
/// RAM of a stream: so little that older pictures go to the swap file, and so much that none do.
const TIGHT: usize = 4 << 10;
const PLENTY: usize = 4 << 20;
const SWAP_BYTES: u64 = 1 << 20;

/// The streams' buffers, with their swap file in the storage's own directory, where an owner may have it.
struct Buffer {
    board: Board,
    rings: Vec<u32>,
    file: Arc<dyn DiskFile>,
    /// Chunks that went to the file.
    written: u32,
}

impl Buffer {
    /// For two streams with `ring_bytes` each.
    fn new(disk: &CrashDisk, ring_bytes: usize) -> Self {
        let mut board = Board::new(PLENTY);
        let rings = (0..2).map(|stream_id| board.add(stream_id, 50, ring_bytes)).collect();
        assert!(board.use_file(SWAP_BYTES).is_some());
        let file = disk.create("lightnvr.swap").unwrap();
        file.set_len(SWAP_BYTES).unwrap();
        Self { board, rings, file, written: 0 }
    }

    fn push(&mut self, stream_id: u32, packet: Packet) {
        self.board.push(self.rings[stream_id as usize], packet);
        self.work();
    }

    fn take(&mut self, stream_id: u32) -> Option<Arc<Packet>> {
        loop {
            match self.board.take(self.rings[stream_id as usize]) {
                Take::Packet(packet) => return Some(packet),
                Take::Loading => self.work(),
                Take::Empty => return None,
            }
        }
    }

    fn work(&mut self) {
        while let Some(op) = self.board.next_op(0) {
            match op {
                Op::Write(op) => {
                    let bytes = spill_core::encode(&op.packets, &op.table);
                    let mut rest = &bytes[..];
                    for extent in &op.extents {
                        let (now, later) = rest.split_at(extent.len);
                        self.file.write_at(now, extent.at).unwrap();
                        rest = later;
                    }
                    self.written += 1;
                    self.board.end_write(Some(spill_core::crc32(&bytes)));
                }
                Op::Load(op) => {
                    let mut bytes = vec![0; op.extents.iter().map(|extent| extent.len).sum()];
                    let mut rest = &mut bytes[..];
                    for extent in &op.extents {
                        let (now, later) = rest.split_at_mut(extent.len);
                        self.file.read_at(now, extent.at).unwrap();
                        rest = later;
                    }
                    assert_eq!(spill_core::crc32(&bytes), op.crc);
                    self.board.end_load(spill_core::decode(&bytes, &op.table));
                }
            }
        }
    }
}

struct Camera {
    clip: Rc<Clip>,
    run: Arc<Run>,
    config: CutConfig,
    cutter: Cutter,
    start_ms: i64,
    frames: i64,
    opening: Option<Opening>,
    writing: Option<u64>,
}

impl Camera {
    fn new(stream_id: u32, clip: &Rc<Clip>, start_ms: i64) -> Self {
        let stream_name = format!("cam {stream_id}");
        Self {
            clip: Rc::clone(clip),
            run: Arc::new(Run { id: 1, audio: None }),
            config: CutConfig { stream_id, stream_name, segment_ms: SEGMENT_MS },
            cutter: Cutter::default(),
            start_ms,
            frames: 0,
            opening: None,
            writing: None,
        }
    }

    fn packet(&mut self) -> Packet {
        let n = self.frames;
        self.frames += 1;
        let unit = &self.clip.units[n as usize % self.clip.units.len()];
        Packet {
            seq: n as u64,
            run: Arc::clone(&self.run),
            track: Track::Video(Arc::new(self.clip.format.clone())),
            pts: n * 90_000 / FPS,
            dts: n * 90_000 / FPS,
            is_key: unit.is_key,
            is_damaged: false,
            wall_ms: self.start_ms + n * 1000 / FPS,
            data: unit.data.clone(),
        }
    }

    async fn carry_out(&mut self, cuts: Vec<Cut>, recordings: &OpenRecordings) {
        for cut in cuts {
            match (cut, self.writing) {
                (Cut::Open(opened), _) => self.opening = Some(opened),
                (Cut::Fragment(fragment), writing) => match (self.opening.take(), writing) {
                    (Some(opening), _) => {
                        let CutConfig { stream_id, stream_name, .. } = &self.config;
                        let id = recordings.create(*stream_id, stream_name, opening, fragment);
                        self.writing = Some(id.await.unwrap());
                    }
                    (None, id) => recordings.append(id.unwrap(), fragment).await.unwrap(),
                },
                (Cut::Finish { patches }, id) => {
                    recordings.finish(id.unwrap(), patches).await.unwrap();
                    self.writing = None;
                }
            }
        }
    }

    async fn finish(&mut self, recordings: &OpenRecordings) {
        let mut cuts = Vec::new();
        self.cutter.finish(&self.config, &mut cuts);
        self.carry_out(cuts, recordings).await;
    }

    /// A second into the buffer, and out of it unless it stays there.
    async fn film_second(&mut self, buffer: &mut Buffer, recordings: Option<&OpenRecordings>) {
        let stream_id = self.config.stream_id;
        for _ in 0..FPS {
            let packet = self.packet();
            buffer.push(stream_id, packet);
            let Some(recordings) = recordings else { continue };
            while let Some(packet) = buffer.take(stream_id) {
                let mut cuts = Vec::new();
                self.cutter.push(packet, &self.config, &mut cuts);
                self.carry_out(cuts, recordings).await;
            }
        }
    }
}

/// Makes what was written permanent, on one disk after the other.
async fn sync_round(recordings: &OpenRecordings) {
    for pool in recordings.disks_to_sync() {
        recordings.sync_disk(&pool).await.unwrap();
    }
}

/// Runs the session; answers its history and how many operations came before it.
fn session(clip: &Rc<Clip>) -> (CrashDisk, usize) {
    let disk = CrashDisk::default();
    let listener = disk.clone();
    let tell = Box::new(move |op| listener.note_store(op));
    let store = Store::open_in_memory(Vec::new(), tell).unwrap();
    let before = disk.op_count();
    let pool = Pool::start("store", 1, 64).unwrap();
    let root = Path::new(ROOT).to_owned();
    let recordings =
        OpenRecordings::new(store.clone(), pool, Disks::default(), disk.opener(), root, 1);
    smol::block_on(async {
        recordings.look_at_storage().await;
        let mut cameras = [Camera::new(0, clip, START_MS), Camera::new(1, clip, START_MS)];
        let mut buffer = Buffer::new(&disk, TIGHT);
        for second in 1..=SECONDS {
            let is_stalled = STALLED.contains(&second);
            for camera in &mut cameras {
                camera.film_second(&mut buffer, (!is_stalled).then_some(&recordings)).await;
            }
            if is_stalled {
                continue;
            }
            disk.note(second * 1000);
            sync_round(&recordings).await;
            if second == SECONDS / 2 {
                let oldest = store.reader().recording(1).unwrap().unwrap();
                let doomed = vec![Doomed { id: oldest.id, path: oldest.path }];
                retention::delete(&recordings, doomed).await.unwrap();
            }
        }
        for camera in &mut cameras {
            camera.finish(&recordings).await;
        }
        assert!(buffer.written > 3 && buffer.board.take_losses().is_empty());
    });
    (disk, before)
}

/// A board that starts in 1970, records, and then learns the time.
fn session_of_1970(clip: &Rc<Clip>) -> (CrashDisk, usize) {
    let disk = CrashDisk::default();
    let listener = disk.clone();
    let tell = Box::new(move |op| listener.note_store(op));
    let store = Store::open_in_memory(Vec::new(), tell).unwrap();
    let pool = Pool::start("store", 1, 64).unwrap();
    let root = Path::new(ROOT).to_owned();
    let recordings =
        OpenRecordings::new(store.clone(), pool, Disks::default(), disk.opener(), root, 1);
    let mut before = 0;
    smol::block_on(async {
        recordings.look_at_storage().await;
        let mut cameras = [Camera::new(0, clip, EARLY_MS), Camera::new(1, clip, EARLY_MS)];
        let mut buffer = Buffer::new(&disk, PLENTY);
        for _ in 1..=SECONDS / 2 {
            for camera in &mut cameras {
                camera.film_second(&mut buffer, Some(&recordings)).await;
            }
            sync_round(&recordings).await;
        }
        for camera in &mut cameras {
            camera.finish(&recordings).await;
        }
        let row = store.reader().recording(1).unwrap().unwrap();
        let row = RecordingRow { is_protected: true, ..row };
        recordings.commit(vec![Change::PutRecording(row)]).await.unwrap();
        before = disk.op_count();
        let boot = recordings.boot;
        recordings.redate(Redate { boot, from_ms: 0, until_ms: EARLY_MS + 60_000, by_ms: BY_MS });
        recordings.redate_some().await;
    });
    (disk, before)
}

#[test]
fn a_power_cut_while_recordings_are_dated_anew_loses_none_and_leaves_none_half() {
    let dir = TempDir::new();
    let clip = Rc::new(encode_clip(&dir, 2, &["-c:v", "libx264", "-g", "15", "-bf", "0"]));
    let (disk, first) = session_of_1970(&clip);
    let count = disk.op_count();
    let (_, whole) = start_on(&disk.after(first, None));
    assert_eq!(whole.len(), 4, "two files each");
    let mut moved = 0;
    for cut in first..=count {
        for luck in 0..=LUCKS {
            let random = (luck > 0).then_some(Random((cut as u64) << 8 | luck));
            let wreck = disk.after(cut, random);
            let what = format!("power cut after {cut} of {count} operations, luck {luck}");
            let (store, mut rows) = start_on(&wreck);
            rows.sort_by_key(|row| row.id);
            let is_moved = rows[0].start_ms >= BY_MS;
            moved += u32::from(is_moved);
            let by_ms = if is_moved { BY_MS } else { 0 };
            for (was, is) in whole.iter().zip(&rows) {
                let times = (was.start_ms + by_ms, was.end_ms + by_ms);
                assert_eq!((is.start_ms, is.end_ms), times, "{what}: all or none");
                assert_eq!(
                    (is.id, is.is_protected, is.size),
                    (was.id, was.is_protected, was.size),
                    "{what}"
                );
                let name = format!("/{}.mp4", crate::system::clock::file_stem(is.start_ms));
                assert!(is.path.ends_with(&name), "{what}: {}", is.path);
            }
            assert!(rows.len() == whole.len() && rows[0].is_protected, "{what}");
            let deleted = store.reader().spans(0, Layer::Deleted, (0, i64::MAX), 9).unwrap();
            assert_eq!(deleted, [], "{what}");
        }
    }
    assert!(moved > 60, "{moved}");
    let wreck = disk.after(count, None);
    check_plays(&wreck.disk, &dir);
}

/// A new start on what is left.
fn start_on(wreck: &Wreck) -> (Store, Vec<RecordingRow>) {
    let store = Store::open_in_memory(wreck.store.clone(), Box::new(drop)).expect("store opens");
    let (root, opener) = (Path::new(ROOT), wreck.disk.opener());
    let disk = storage::attach(&opener, &store, root, Consent::No).expect("the storage is ours");
    let next_id = store.load(String::new()).unwrap().next_recording_id;
    let next_id = Arc::new(AtomicU64::new(next_id));
    let recovered = recovery::recover(&store, disk.as_ref(), &opener, root, next_id).unwrap();
    assert_eq!(recovered.failed, 0);
    if !store.reader().garbage(1).unwrap().is_empty() {
        let pool = Pool::start("store", 1, 64).unwrap();
        let disks = Disks::default();
        let opened = (store.clone(), wreck.disk.opener(), root.to_owned());
        let recordings = OpenRecordings::new(opened.0, pool, disks, opened.1, opened.2, 1);
        smol::block_on(async {
            recordings.look_at_storage().await;
            assert!(!retention::sweep(&recordings).await.unwrap());
        });
    }
    let findings = check::check(&store, &opener, root).unwrap();
    assert_eq!(findings, Vec::<String>::new());
    let all = RecordingQuery { limit: 1000, ..Default::default() };
    let rows = store.reader().recordings(&all).unwrap();
    assert_eq!(store.reader().garbage(9).unwrap(), [], "a deletion that was begun is finished");
    let files = recovery::files_of(disk.as_ref()).unwrap();
    assert_eq!(files.len(), rows.len(), "{files:?}");
    (store, rows)
}

/// Each stream is there from its start, or from the file behind the deleted one, to the promised moment.
fn check_loss(wreck: &Wreck, rows: &[RecordingRow]) {
    let must_reach_ms = START_MS + wreck.note - LOST_MS_MAX;
    for stream_id in 0..2 {
        let mut spans: Vec<_> = rows.iter().filter(|row| row.stream_id == stream_id).collect();
        spans.sort_by_key(|row| row.start_ms);
        let end_ms = spans.last().map_or(START_MS, |last| last.end_ms);
        assert!(
            end_ms >= must_reach_ms,
            "stream {stream_id} ends {} ms early",
            must_reach_ms - end_ms
        );
        for pair in spans.windows(2) {
            let hole_ms = pair[1].start_ms - pair[0].end_ms;
            assert!(hole_ms.abs() <= 2, "stream {stream_id}: {hole_ms} ms between two files");
        }
        assert!(spans.len() <= 4, "no file is there twice");
    }
}

fn check_plays(disk: &CrashDisk, dir: &TempDir) {
    for (name, bytes) in disk.files().into_iter().filter(|(name, _)| name.ends_with(".mp4")) {
        let path = dir.write(&name.replace('/', "_"), &bytes);
        run("ffmpeg", &["-v", "error", "-xerror", "-i", &path, "-f", "null", "-"]);
    }
}

#[test]
fn a_power_cut_at_any_operation_loses_at_most_2_s_and_a_round() {
    let dir = TempDir::new();
    let clip = Rc::new(encode_clip(
        &dir,
        2,
        &["-c:v", "libx264", "-g", "15", "-bf", "0", "-sc_threshold", "0"],
    ));
    let (disk, first) = session(&clip);
    let count = disk.op_count();
    assert!(count - first > 150, "only {} operations", count - first);
    for cut in first..=count {
        for luck in 0..=LUCKS {
            let random = (luck > 0).then_some(Random((cut as u64) << 8 | luck));
            let wreck = disk.after(cut, random);
            let what = format!("power cut after {} of {count} operations, luck {luck}", cut);
            let checked = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
                let (_store, rows) = start_on(&wreck);
                check_loss(&wreck, &rows);
            }));
            assert!(checked.is_ok(), "{what}");
            if cut % PLAYED_EVERY == luck as usize {
                check_plays(&wreck.disk, &dir);
            }
        }
    }
    println!("{} power cuts, {} each", count + 1 - first, LUCKS + 1);
}

#[test]
fn without_a_power_cut_nothing_is_lost() {
    let dir = TempDir::new();
    let clip = Rc::new(encode_clip(&dir, 2, &["-c:v", "libx264", "-g", "15", "-bf", "0"]));
    let (disk, _) = session(&clip);
    let wreck = disk.after(disk.op_count(), None);
    let (_store, rows) = start_on(&wreck);
    let end_ms = rows.iter().map(|row| row.end_ms).max().unwrap();
    assert_eq!(end_ms, START_MS + SECONDS * 1000);
    assert_eq!(wreck.disk.list("0").unwrap().len(), 2);
    check_plays(&wreck.disk, &dir);
}
