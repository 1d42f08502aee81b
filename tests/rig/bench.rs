//! The recorder without its sockets, in this process, on a storage that can be made to fail.

use std::cell::Cell;
use std::future::Future;
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use lightnvr::api::query::LedgerQuery;
use lightnvr::api::{self, Ctx, MachineStats};
use lightnvr::buffer::spill::Buffers;
use lightnvr::config::settings::Settings;
use lightnvr::config::stream::{StreamConfig, StreamPatch};
use lightnvr::http::auth::Auth;
use lightnvr::live::jpeg::Pictures;
use lightnvr::live::service::Live;
use lightnvr::nvr::command::command_queue;
use lightnvr::nvr::snapshot::{Snapshot, SnapshotCell};
use lightnvr::nvr::state::{Nvr, Parts, live_config};
use lightnvr::record::disk::Disks;
use lightnvr::record::open::OpenRecordings;
use lightnvr::record::{check, real_disk};
use lightnvr::store::row::RecordingRow;
use lightnvr::store::{RecordingQuery, Store};
use lightnvr::system::pool::Pool;
use smol::future::FutureExt;
use smol::{LocalExecutor, Timer};

use super::fault_disk::Faults;
use super::ledger::{self, Span};
use super::{json, mp4};

const POLL_EVERY: Duration = Duration::from_millis(20);

/// The recorder's state with its clocks running.
pub struct Bench {
    pub faults: Faults,
    pub nvr: Rc<Nvr>,
    pub store: Store,
    pub root: PathBuf,
}

/// What a recorder may hold in memory.
#[derive(Clone, Copy, Debug)]
pub struct Memory {
    /// KiB of each stream.
    pub ring: u32,
    /// Bytes that all streams may borrow.
    pub shared: usize,
}

/// More than any of these tests needs.
pub const PLENTY: Memory = Memory { ring: 1024, shared: 64 << 20 };
/// Less than a second of the test picture.
pub const TIGHT: Memory = Memory { ring: 8, shared: 0 };

/// Runs `body` with a recorder on `home`, one stream of a test picture, and ends it in order.
pub fn run<F: Future<Output = ()>>(home: &Path, body: impl FnOnce(Rc<Bench>) -> F) {
    run_with(home, PLENTY, body);
}

/// The same with so much memory.
pub fn run_with<F: Future<Output = ()>>(
    home: &Path,
    memory: Memory,
    body: impl FnOnce(Rc<Bench>) -> F,
) {
    let executor = Rc::new(LocalExecutor::new());
    let bench = Rc::new(Bench::new(home, memory, &executor));
    let is_done = Cell::new(false);
    let main = async {
        let nvr = Rc::clone(&bench.nvr);
        let clocks = [
            executor.spawn(Rc::clone(&nvr).keep_published()),
            executor.spawn(Rc::clone(&nvr).keep_synced()),
            executor.spawn(Rc::clone(&nvr.parts.buffers).run()),
            executor.spawn({
                let nvr = Rc::clone(&nvr);
                async move { nvr.parts.recordings.keep_storage().await }
            }),
        ];
        body(Rc::clone(&bench)).await;
        nvr.stop_all().await;
        drop(clocks);
        is_done.set(true);
    };
    lightnvr::system::drive::block_on(executor.run(main));
    assert!(is_done.get());
    let findings = check::check(&bench.store, &real_disk::opener(), &bench.root);
    assert_eq!(findings.expect("the check can be made"), Vec::<String>::new());
}

/// A stream of a small test picture.
pub fn stream(id: u32) -> StreamConfig {
    let patch = StreamPatch {
        name: Some(format!("Tor {id}")),
        url: Some("testpattern://".into()),
        width: Some(320),
        height: Some(240),
        fps: Some(10),
        ..StreamPatch::default()
    };
    StreamConfig::from_patch(id, &patch).expect("a stream")
}

impl Bench {
    fn new(home: &Path, memory: Memory, executor: &Rc<LocalExecutor<'static>>) -> Self {
        let root = home.join("storage");
        let store = Store::open(home).expect("a store");
        let faults = Faults::default();
        let disks = Disks::default();
        // The store is on a disk of its own that does not fail.
        let store_pool = Pool::start("store", 1, 64).expect("a thread");
        let codec = Pool::start("codec", 1, 64).expect("a thread");
        let mut settings = Settings::new(root.to_string_lossy().into_owned());
        settings.buffer_size = memory.ring;
        let opener = faults.opener();
        let recordings =
            OpenRecordings::new(store.clone(), store_pool, disks, opener, root.clone(), 1);
        let started = Instant::now();
        let parts = Parts {
            executor: Rc::clone(executor),
            auth: Rc::new(Auth::new(String::new(), codec.clone())),
            live: Rc::new(Live::new(
                live_config(&settings),
                Pictures::new(Rc::clone(executor), codec.clone()),
            )),
            codec,
            recordings,
            buffers: Buffers::new(memory.shared, started),
            cell: SnapshotCell::new(Snapshot {
                streams: Vec::new(),
                settings: settings.clone(),
                running: Vec::new(),
                ailments: Vec::new(),
                ledger: Vec::new(),
                forecast: Vec::new(),
                is_initial_password: false,
                at_ms: 0,
            }),
            started,
        };
        let nvr = Nvr::new(parts, settings, 0);
        nvr.add_stream(stream(0));
        Self { faults, nvr, store, root }
    }

    pub fn snapshot(&self) -> Arc<Snapshot> {
        self.nvr.parts.cell.load()
    }

    /// Waits until `condition` gives a value; panics with `what` and the newest snapshot after `within`.
    pub async fn until<T>(
        &self,
        what: &str,
        within: Duration,
        mut condition: impl FnMut(&Snapshot) -> Option<T>,
    ) -> T {
        let end = Instant::now() + within;
        loop {
            if let Some(value) = condition(&self.snapshot()) {
                return value;
            }
            assert!(Instant::now() < end, "{within:?} in vain: {what}: {:?}", self.snapshot());
            Timer::after(POLL_EVERY).await;
        }
    }

    /// The ledger of the stream between two times, Unix milliseconds, as the API answers it.
    pub fn ledger(&self, start_ms: i64, end_ms: i64) -> Vec<Span> {
        let ctx = Ctx {
            snapshot: self.nvr.parts.cell.clone(),
            commands: command_queue().0,
            store: self.store.reader(),
            started: self.nvr.parts.started,
            machine: Arc::new(MachineStats::default),
            cameras: Arc::new(|| Some(Vec::new())),
            desk: Arc::new(lightnvr::update::desk::Desk::new(None)),
        };
        let query = LedgerQuery { start_ms: Some(start_ms), end_ms: Some(end_ms) };
        match api::ledger::get(&ctx, 0, &query).expect("an answer") {
            api::Reply::Json(text) => ledger::read(&json::parse(&text), start_ms),
            other => panic!("{other:?}"),
        }
    }

    /// When each picture on the disk was taken, Unix milliseconds, by ffprobe.
    pub fn pictures(&self) -> Vec<i64> {
        let running = self.snapshot();
        let running =
            running.running.iter().map(|running| (running.path.clone(), running.start_ms));
        let rows = self.rows().into_iter().filter(|row| !row.in_progress);
        let files = rows.map(|row| (row.path, row.start_ms)).chain(running);
        let mut pictures: Vec<i64> = files
            .flat_map(|(path, start_ms)| {
                let packets = mp4::packets(Path::new(&path), "v");
                packets.into_iter().map(move |packet| start_ms + (packet.pts_s * 1000.0) as i64)
            })
            .collect();
        pictures.sort_unstable();
        pictures
    }

    /// Bytes of all recordings, as far as they are synced.
    pub fn bytes(&self) -> u64 {
        let running: u64 = self.snapshot().running.iter().map(|running| running.size).sum();
        running + self.rows().iter().filter(|row| !row.in_progress).map(|row| row.size).sum::<u64>()
    }

    pub fn rows(&self) -> Vec<RecordingRow> {
        let all = RecordingQuery { limit: usize::MAX, ..Default::default() };
        self.store.reader().recordings(&all).expect("the store can be read")
    }

    /// Waits until more is recorded than now.
    pub async fn records(&self, within: Duration) {
        let before = self.bytes();
        self.until("more is recorded", within, |_| (self.bytes() > before).then_some(())).await;
    }

    /// Waits until the stream and `/healthz` say so.
    pub async fn says(&self, words: &str, within: Duration) {
        let is_said = |snapshot: &Snapshot| {
            let stream = snapshot.streams.first()?;
            let is_in_health = snapshot.ailments.iter().any(|ailment| ailment.contains(words));
            (stream.status_detail.contains(words) && is_in_health).then_some(())
        };
        self.until(words, within, is_said).await;
    }

    /// Waits until neither has anything to say.
    pub async fn is_well(&self, within: Duration) {
        let is_well = |snapshot: &Snapshot| {
            let is_silent = snapshot.streams.iter().all(|stream| stream.status_detail.is_empty());
            (is_silent && snapshot.ailments.is_empty()).then_some(())
        };
        self.until("all is well", within, is_well).await;
    }

    /// Lets `time` pass, because something must not happen in it.
    pub async fn pass(&self, time: Duration) {
        Timer::after(time).or(std::future::pending()).await;
    }
}
