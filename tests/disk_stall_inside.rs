//! The cases of `disk_stall` in one process: the thread of the recordings' disk stands still, real recorders and
//! a real swap file go on. It needs no rights and no time: half a minute of four streams comes at once.

mod rig;

use std::cell::RefCell;
use std::fs;
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use lightnvr::buffer::board_core::Protection;
use lightnvr::buffer::spill::{Buffers, SwapFile};
use lightnvr::ingest::{SourceEvent, Unit};
use lightnvr::live::feed::Feed;
use lightnvr::media::format::{VideoCodec, VideoFormat};
use lightnvr::media::packet::Track;
use lightnvr::record::cut_core::CutConfig;
use lightnvr::record::disk::Disks;
use lightnvr::record::open::OpenRecordings;
use lightnvr::record::{real_disk, writer};
use lightnvr::store::Store;
use lightnvr::stream::hub::{Hub, RingConfig};
use lightnvr::system::pool::Pool;
use lightnvr::system::wait::{Stopper, stop_pair};
use smol::channel::bounded;
use smol::future::yield_now;
use smol::{LocalExecutor, Task};

use rig::temp_dir::TempDir;

const STREAMS: u32 = 4;
/// 15 fps at 4 Mbit/s with a keyframe every 20 pictures.
const PICTURE_BYTES: usize = 33_000;
const GROUP: u32 = 20;
const STALL_PICTURES: u32 = 30 * 15;
const RING_BYTES: usize = 1 << 20;
const SWAP_BYTES: u64 = 128 << 20;
/// Marks a picture in a file; stream and number follow.
const MARK: &[u8; 8] = b"PICTURE!";
const WITHIN: Duration = Duration::from_secs(30);

/// Where the swap file is.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Swap {
    OtherDisk,
    SameDisk,
    None,
}

struct Camera {
    hub: Rc<Hub>,
    format: Arc<VideoFormat>,
    id: u32,
    next: u32,
    _stop: Stopper,
    _recorder: Task<()>,
}

impl Camera {
    fn shoot(&mut self) {
        let is_key = self.next.is_multiple_of(GROUP);
        let mut data = (PICTURE_BYTES as u32).to_be_bytes().to_vec();
        data.push(if is_key { 0x65 } else { 0x41 });
        data.extend_from_slice(MARK);
        data.extend_from_slice(&self.id.to_be_bytes());
        data.extend_from_slice(&self.next.to_be_bytes());
        data.resize(PICTURE_BYTES + 4, 0);
        let pts = i64::from(self.next) * 6000;
        let track = Track::Video(Arc::clone(&self.format));
        let unit = Unit { track, pts, dts: pts, is_key, is_damaged: false, data };
        self.hub.deliver(SourceEvent::Unit(unit));
        self.next += 1;
    }

    fn waits(&self) -> u64 {
        let buffer = self.hub.view().buffer.expect("it runs");
        buffer.ram_bytes + buffer.spilled_bytes
    }

    fn borrows(&self) -> bool {
        self.hub.view().buffer.expect("it runs").protection == Protection::Borrowed
    }

    fn dropped(&self) -> u64 {
        self.hub.view().buffer.expect("it runs").dropped
    }
}

/// Half a minute of stall; then the numbers of the pictures in the files of each stream, and how many were
/// counted as dropped.
fn stall(name: &str, swap: Swap, budget: usize) -> Vec<(Vec<u32>, u64)> {
    let home = TempDir::new(name);
    let executor = LocalExecutor::new();
    let disks = Disks::default();
    let root = home.path().join("recordings");
    let disk = disks.pool_for(&root).expect("a thread");
    let other = Pool::start("other", 1, 64).expect("a thread");
    let store = Store::open(home.path()).expect("a store");
    let opener = real_disk::opener();
    let recordings = OpenRecordings::new(store, other.clone(), disks, opener, root.clone(), 1);
    let buffers = Buffers::new(budget, Instant::now());
    let working = executor.spawn(Rc::clone(&buffers).run());
    if swap != Swap::None {
        let file = SwapFile::make(&home.path().join("swap"), SWAP_BYTES).expect("room");
        let pool = if swap == Swap::SameDisk { disk.clone() } else { other };
        buffers.use_file(&file, pool);
        buffers.set_same_disk(swap == Swap::SameDisk);
    }
    let camera = |id| camera(&executor, &buffers, &recordings, id);
    let mut cameras: Vec<Camera> = (0..STREAMS).map(camera).collect();
    lightnvr::system::drive::block_on(executor.run(async {
        recordings.look_at_storage().await;
        shoot_all(&mut cameras, 2 * GROUP);
        // The disk's thread takes this and stands still.
        let (go, hold) = std::sync::mpsc::channel::<()>();
        let held = executor.spawn(async move { disk.run(move || hold.recv().is_err()).await });
        for _ in 0..STALL_PICTURES / GROUP {
            shoot_all(&mut cameras, GROUP);
            // A real camera leaves the swap file's disk more than a second for these.
            let end = Instant::now() + WITHIN;
            while swap == Swap::OtherDisk && cameras.iter().any(Camera::borrows) {
                assert!(Instant::now() < end, "the swap file did not take it");
                yield_now().await;
            }
            yield_now().await;
        }
        drop(go);
        held.await.expect("it was held");
        shoot_all(&mut cameras, 2 * GROUP);
        let end = Instant::now() + WITHIN;
        while cameras.iter().any(|camera| camera.waits() > 0) {
            assert!(Instant::now() < end, "it was not written");
            yield_now().await;
        }
        // What is in no file yet is in a fragment that has not been closed: it ends with the run.
        cameras.iter().for_each(|camera| camera.hub.end_run());
        while !recordings.running().is_empty() {
            assert!(Instant::now() < end, "it was not finished");
            yield_now().await;
        }
    }));
    drop(working);
    let lost: u64 = buffers.take_losses().iter().map(|loss| loss.packets).sum();
    assert_eq!(lost, cameras.iter().map(Camera::dropped).sum::<u64>(), "each loss is a span");
    cameras.iter().map(|camera| (numbers(&root, camera.id), camera.dropped())).collect()
}

fn shoot_all(cameras: &mut [Camera], pictures: u32) {
    for _ in 0..pictures {
        cameras.iter_mut().for_each(Camera::shoot);
    }
}

fn camera(
    executor: &LocalExecutor<'_>,
    buffers: &Rc<Buffers>,
    recordings: &Rc<OpenRecordings>,
    id: u32,
) -> Camera {
    // The last one matters most.
    let ring = RingConfig { stream_id: id, priority: id as u8, bytes_max: RING_BYTES };
    let (changed, _) = bounded(1);
    let live = Feed::new(Rc::default(), 0, 18);
    let hub = Rc::new(Hub::new(buffers, &ring, true, changed, Instant::now(), live));
    let config = CutConfig { stream_id: id, stream_name: id.to_string(), segment_ms: 3_600_000 };
    let (stop, stopping) = stop_pair();
    let config = Rc::new(RefCell::new(config));
    let recorder = writer::run(Rc::clone(&hub), Rc::clone(recordings), config, stopping);
    let format = Arc::new(VideoFormat {
        codec: VideoCodec::H264,
        width: 640,
        height: 360,
        fps_milli: 15_000,
        decoder_config: vec![1, 0x42, 0, 0x1e],
        rfc6381: "avc1.42001e".into(),
        reorder_frames: Some(0),
    });
    hub.deliver(SourceEvent::Started { video: Some(Arc::clone(&format)), audio: None });
    let recorder = executor.spawn(recorder);
    Camera { hub, format, id, next: 0, _stop: stop, _recorder: recorder }
}

/// The numbers of the pictures of stream `id`, in the order in which they are in its files.
fn numbers(root: &Path, id: u32) -> Vec<u32> {
    let entries = fs::read_dir(root.join(id.to_string())).expect("it was recorded");
    let mut files: Vec<PathBuf> = entries.map(|entry| entry.expect("readable").path()).collect();
    files.sort();
    let mut numbers = Vec::new();
    for file in files {
        let bytes = fs::read(file).expect("readable");
        let number = |at: usize| u32::from_be_bytes(bytes[at..at + 4].try_into().expect("4"));
        let mut at = 0;
        while at + PICTURE_BYTES <= bytes.len() + MARK.len() {
            if bytes[at..].starts_with(MARK) {
                assert_eq!(number(at + 8), id);
                numbers.push(number(at + 12));
                at += PICTURE_BYTES;
            } else {
                at += 1;
            }
        }
    }
    numbers
}

#[track_caller]
fn check_nothing_lost(name: &str, swap: Swap, budget: usize) {
    for (numbers, dropped) in stall(name, swap, budget) {
        assert_eq!(dropped, 0);
        assert_eq!(numbers, (0..STALL_PICTURES / GROUP * GROUP + 4 * GROUP).collect::<Vec<_>>());
    }
}

#[test]
fn the_swap_file_on_another_disk_carries_a_stall() {
    check_nothing_lost("inside_swap", Swap::OtherDisk, 16 << 20);
}

#[test]
fn ram_carries_a_stall_when_the_swap_file_is_on_the_same_disk() {
    // More than half is needed: then the file is tried, and what is on its way there must not be waited for.
    check_nothing_lost("inside_same_disk", Swap::SameDisk, 80 << 20);
}

#[test]
fn ram_carries_a_stall_without_a_swap_file() {
    check_nothing_lost("inside_no_swap", Swap::None, 128 << 20);
}

#[test]
fn past_the_bound_whole_groups_go_lowest_priority_first() {
    let streams = stall("inside_bound", Swap::None, 20 << 20);
    let dropped: Vec<u64> = streams.iter().map(|(_, dropped)| *dropped).collect();
    assert!(dropped.is_sorted_by(|a, b| a >= b), "{dropped:?}");
    assert!(dropped[0] > 0 && dropped[3] == 0, "{dropped:?}");
    for (numbers, dropped) in streams {
        assert_eq!(
            numbers.len() as u64 + dropped,
            u64::from(STALL_PICTURES / GROUP * GROUP + 4 * GROUP)
        );
        for pair in numbers.windows(2) {
            assert!(pair[1] == pair[0] + 1 || pair[1].is_multiple_of(GROUP), "{pair:?}");
        }
    }
}
