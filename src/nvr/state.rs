//! Everything that changes: the streams with their tasks, the settings, the snapshot made of them.
//!
//! In here: starting and stopping streams, publishing the snapshot, the two clocks of the program (sync round,
//! snapshot). Not in here: what a command may do (`apply`).

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::rc::Rc;
use std::time::{Duration, Instant};

use smol::channel::{Receiver, Sender, bounded};
use smol::future::FutureExt;
use smol::{LocalExecutor, Task};

use super::ledger::Ledger;
use super::snapshot::{Forecast, Snapshot, SnapshotCell, StreamStatus, StreamView};
use super::swap::{self, Swap};
use crate::buffer::spill::Buffers;
use crate::config::settings::Settings;
use crate::config::stream::StreamConfig;
use crate::http::auth::Auth;
use crate::live::service::{Live, LiveConfig};
use crate::live::sub_feed::SubFeed;
use crate::record::RecordError;
use crate::record::cut_core::CutConfig;
use crate::record::open::OpenRecordings;
use crate::record::writer;
use crate::store::damage::Lost;
use crate::stream::hub::{Hub, RingConfig};
use crate::stream::{sub, supervisor};
use crate::system::drive::Timer;
use crate::system::pool::Pool;
use crate::system::wait::{self, Stopper, stop_pair};

/// A round of fdatasync starts this often: what a power cut can take back.
const SYNC_EVERY: Duration = Duration::from_secs(1);
/// The snapshot is renewed at least this often, so that figures move.
const PUBLISH_EVERY: Duration = Duration::from_secs(1);
/// And at most this often, however much changes.
const PUBLISH_PAUSE: Duration = Duration::from_millis(50);
/// What a sync round may take before `/healthz` says so.
pub const ROUND_LATE: Duration = Duration::from_secs(10);
/// How long a recorder may take to finish its file when its stream ends.
pub const RECORDER_STOP_MAX: Duration = Duration::from_millis(1500);

/// A stream that runs.
struct Running {
    hub: Rc<Hub>,
    cut: Rc<RefCell<CutConfig>>,
    /// Dropping these ends the tasks.
    source_stop: Option<Stopper>,
    recorder_stop: Stopper,
    source: Option<Task<()>>,
    recorder: Task<()>,
    sub: Option<RunningSub>,
}

/// A sub-stream that can be had.
struct RunningSub {
    feed: Rc<SubFeed>,
    /// Dropping it ends the task.
    stop: Stopper,
    task: Task<()>,
}

struct Stream {
    config: StreamConfig,
    running: Option<Running>,
}

/// What all of the program shares; made once by `start`.
pub struct Parts {
    pub executor: Rc<LocalExecutor<'static>>,
    pub codec: Pool,
    pub recordings: Rc<OpenRecordings>,
    pub buffers: Rc<Buffers>,
    pub auth: Rc<Auth>,
    pub live: Rc<Live>,
    pub cell: SnapshotCell,
    pub started: Instant,
}

/// The state.
pub struct Nvr {
    pub parts: Parts,
    settings: RefCell<Settings>,
    streams: RefCell<BTreeMap<u32, Stream>>,
    next_stream_id: RefCell<u32>,
    changed: Sender<()>,
    changes: Receiver<()>,
    /// Recorders of stopped streams whose disk has not answered yet.
    lingering: RefCell<Vec<Task<()>>>,
    /// When the sync round that is under way began, and what the last one said.
    round_since: RefCell<Option<Instant>>,
    round_error: RefCell<Option<&'static str>>,
    /// What became of the last store, if it was damaged.
    lost: RefCell<Option<Lost>>,
    pub swap: Swap,
    pub(super) ledger: Ledger,
    /// What retention said last, and how it is asked to look again.
    pub(super) forecast: RefCell<Vec<Forecast>>,
    pub(super) retention_wake: Sender<()>,
    pub(super) retention_asked: Receiver<()>,
}

impl Nvr {
    pub fn new(parts: Parts, settings: Settings, next_stream_id: u32) -> Rc<Self> {
        let (changed, changes) = bounded(1);
        let (retention_wake, retention_asked) = bounded(1);
        Rc::new(Self {
            parts,
            settings: RefCell::new(settings),
            streams: RefCell::default(),
            next_stream_id: RefCell::new(next_stream_id),
            changed,
            changes,
            lingering: RefCell::default(),
            round_since: RefCell::default(),
            round_error: RefCell::default(),
            lost: RefCell::default(),
            swap: Swap::default(),
            ledger: Ledger::default(),
            forecast: RefCell::default(),
            retention_wake,
            retention_asked,
        })
    }

    pub fn settings(&self) -> Settings {
        self.settings.borrow().clone()
    }

    /// This life began with a store that was damaged.
    pub fn set_lost(&self, lost: Option<Lost>) {
        *self.lost.borrow_mut() = lost;
    }

    /// What `/healthz` says of that: until all recordings are listed again, and until there are streams.
    fn lost_words(&self) -> Option<&'static str> {
        let lost = self.lost.borrow();
        let has_copy = lost.as_ref()?.has_copy;
        if !has_copy && self.stream_count() == 0 {
            return Some(
                "the store was damaged: streams, settings and password are lost, add them again",
            );
        }
        let is_done = self.parts.recordings.is_compared();
        (!is_done)
            .then_some("the store was damaged: recordings are being listed anew from their files")
    }

    /// Calls `visit` for each stream with its hub, if it runs; by rising id.
    pub(super) fn each_stream(&self, mut visit: impl FnMut(&StreamConfig, Option<&Hub>)) {
        for stream in self.streams.borrow().values() {
            visit(&stream.config, stream.running.as_ref().map(|running| &*running.hub));
        }
    }

    /// The id that the next stream gets; counts up.
    pub fn peek_stream_id(&self) -> u32 {
        *self.next_stream_id.borrow()
    }

    pub fn stream_config(&self, id: u32) -> Option<StreamConfig> {
        self.streams.borrow().get(&id).map(|stream| stream.config.clone())
    }

    pub fn stream_count(&self) -> usize {
        self.streams.borrow().len()
    }

    /// The stream of this name, if there is one.
    pub fn stream_named(&self, name: &str) -> Option<u32> {
        let streams = self.streams.borrow();
        streams.values().find(|stream| stream.config.name == name).map(|stream| stream.config.id)
    }

    fn cut_config(&self, config: &StreamConfig) -> CutConfig {
        CutConfig {
            stream_id: config.id,
            stream_name: config.name.clone(),
            segment_ms: i64::from(self.settings.borrow().segment_seconds) * 1000,
        }
    }

    fn ring_bytes(&self) -> usize {
        self.settings.borrow().buffer_size as usize * 1024
    }

    /// Takes on a stream and starts it if it is enabled.
    pub fn add_stream(&self, config: StreamConfig) {
        let mut next = self.next_stream_id.borrow_mut();
        *next = (*next).max(config.id.saturating_add(1));
        let running = config.enabled.then(|| self.start_stream(&config));
        self.streams.borrow_mut().insert(config.id, Stream { config, running });
    }

    fn start_stream(&self, config: &StreamConfig) -> Running {
        let ring = RingConfig {
            stream_id: config.id,
            priority: config.priority,
            bytes_max: self.ring_bytes(),
        };
        let (changed, started) = (self.changed.clone(), self.parts.started);
        let live = self.parts.live.feed(config.id);
        let hub = Hub::new(&self.parts.buffers, &ring, config.record, changed, started, live);
        let hub = Rc::new(hub);
        let cut = Rc::new(RefCell::new(self.cut_config(config)));
        let (recorder_stop, recorder_stopped) = stop_pair();
        let recordings = Rc::clone(&self.parts.recordings);
        let recorder = self.parts.executor.spawn(writer::run(
            Rc::clone(&hub),
            recordings,
            Rc::clone(&cut),
            recorder_stopped,
        ));
        let mut running = Running {
            hub,
            cut,
            source_stop: None,
            recorder_stop,
            source: None,
            recorder,
            sub: None,
        };
        self.start_source(&mut running, config);
        running.sub = self.start_sub(config);
        running
    }

    fn start_sub(&self, config: &StreamConfig) -> Option<RunningSub> {
        let source = sub::source(config)?;
        let feed = self.parts.live.add_sub(config.id);
        let (stop, stopped) = stop_pair();
        let (id, codec) = (config.id, self.parts.codec.clone());
        let work = sub::run(id, source, Rc::clone(&feed), codec, stopped);
        Some(RunningSub { feed, stop, task: self.parts.executor.spawn(work) })
    }

    fn start_source(&self, running: &mut Running, config: &StreamConfig) {
        let (stop, stopped) = stop_pair();
        let (hub, codec) = (Rc::clone(&running.hub), self.parts.codec.clone());
        let source = supervisor::run(config.clone(), hub, codec, stopped);
        running.source_stop = Some(stop);
        running.source = Some(self.parts.executor.spawn(source));
    }

    /// Puts a changed configuration into force. Only a change of what is fetched reconnects.
    pub async fn change_stream(&self, config: StreamConfig) {
        let Some((was, running)) = self
            .streams
            .borrow_mut()
            .get_mut(&config.id)
            .map(|stream| (stream.config.clone(), stream.running.take()))
        else {
            return;
        };
        let running = match running {
            Some(running) if !config.enabled => {
                self.linger(stop(running).await);
                self.parts.live.remove_sub(config.id);
                None
            }
            Some(mut running) => {
                *running.cut.borrow_mut() = self.cut_config(&config);
                running.hub.set_recording(config.record);
                running.hub.set_priority(config.priority);
                if fetches_other(&was, &config) {
                    stop_source(&mut running).await;
                    running.hub.set_status(StreamStatus::Connecting, String::new());
                    self.start_source(&mut running, &config);
                }
                if was.sub_url != config.sub_url {
                    if let Some(sub) = running.sub.take() {
                        stop_sub(sub).await;
                    }
                    self.parts.live.remove_sub(config.id);
                    running.sub = self.start_sub(&config);
                }
                Some(running)
            }
            None => config.enabled.then(|| self.start_stream(&config)),
        };
        self.streams.borrow_mut().insert(config.id, Stream { config, running });
    }

    /// Ends a stream; its recording is finished when this returns.
    pub async fn remove_stream(&self, id: u32) {
        let removed = self.streams.borrow_mut().remove(&id);
        if let Some(running) = removed.and_then(|stream| stream.running) {
            self.linger(stop(running).await);
        }
        self.forget(id);
        self.parts.live.remove(id);
        self.parts.live.remove_sub(id);
    }

    /// Keeps a recorder that waits for its disk until it is done. There is at most one for each stop of a stream.
    fn linger(&self, recorder: Option<Task<()>>) {
        let mut lingering = self.lingering.borrow_mut();
        lingering.retain(|task| !task.is_finished());
        lingering.extend(recorder);
    }

    /// Puts changed settings into force, for the streams that run too.
    pub fn change_settings(&self, settings: Settings) {
        self.parts.live.set_config(live_config(&settings));
        *self.settings.borrow_mut() = settings;
        for stream in self.streams.borrow().values() {
            if let Some(running) = &stream.running {
                running.hub.set_ring_bytes(self.ring_bytes());
                *running.cut.borrow_mut() = self.cut_config(&stream.config);
            }
        }
    }

    /// Ends all streams at once; their recordings are finished when this returns.
    pub async fn stop_all(&self) {
        let streams = std::mem::take(&mut *self.streams.borrow_mut());
        let stopping: Vec<_> = streams
            .into_values()
            .filter_map(|stream| stream.running)
            .map(|running| self.parts.executor.spawn(stop(running)))
            .collect();
        for task in stopping {
            drop(task.await);
        }
    }

    /// One stream as the API shows it.
    pub fn stream_view(&self, id: u32) -> Option<StreamView> {
        self.streams.borrow().get(&id).map(view)
    }

    /// Whether a disk has not answered a sync round for longer than a round takes.
    pub(super) fn is_round_late(&self) -> bool {
        self.round_since.borrow().is_some_and(|since| since.elapsed() > 2 * SYNC_EVERY)
    }

    /// Makes a new snapshot visible to the other threads.
    pub fn publish(&self) {
        self.observe();
        let mut streams: Vec<StreamView> = self.streams.borrow().values().map(view).collect();
        swap::fill_headroom(&mut streams, self.parts.buffers.shared_free());
        let mut ailments = swap::ailments(&streams);
        ailments.extend(self.swap.ailment());
        for stream in self.streams.borrow().values() {
            let error = stream.running.as_ref().and_then(|running| running.hub.record_error());
            if let Some(error) = error {
                ailments.push(swap::ailment_of(stream.config.id, error));
            }
        }
        ailments.extend(self.lost_words().map(str::to_owned));
        let storage = self.parts.recordings.storage_fault();
        ailments.extend(storage.or(*self.round_error.borrow()).map(str::to_owned));
        if let Some(since) = *self.round_since.borrow()
            && since.elapsed() > ROUND_LATE
        {
            ailments.push(format!("a disk has not answered for {} s", since.elapsed().as_secs()));
        }
        self.parts.cell.publish(Snapshot {
            streams,
            settings: self.settings(),
            running: self.parts.recordings.running(),
            ailments,
            ledger: self.parts.recordings.journal.borrow().live(),
            forecast: self.forecast.borrow().clone(),
            is_initial_password: self.parts.auth.is_initial(),
            at_ms: u64::try_from(self.parts.started.elapsed().as_millis()).unwrap_or(u64::MAX),
        });
    }

    async fn changed(&self) {
        let _ = self.changes.recv().await;
    }

    /// Publishes for ever: soon after a change, and every second.
    pub async fn keep_published(self: Rc<Self>) {
        loop {
            self.publish();
            wait::pause(PUBLISH_PAUSE).await;
            wait::pause(PUBLISH_EVERY).or(self.changed()).await;
        }
    }

    /// Syncs for ever: a round starts every second, or when the last one is over if that took longer.
    pub async fn keep_synced(self: Rc<Self>) {
        let mut due = Instant::now() + SYNC_EVERY;
        loop {
            Timer::at(due).await;
            due = Instant::now().max(due) + SYNC_EVERY;
            *self.round_since.borrow_mut() = Some(Instant::now());
            let done = self.parts.recordings.sync_round().await;
            *self.round_since.borrow_mut() = None;
            self.commit_ledger().await;
            let was = *self.round_error.borrow();
            let is = done.as_ref().err().map(RecordError::for_owner);
            // A disk that stays broken is told once, not every second.
            if is != was
                && let Err(error) = &done
            {
                log::error!("sync round: {error}");
            }
            *self.round_error.borrow_mut() = is;
        }
    }
}

/// What the settings say about live view.
pub fn live_config(settings: &Settings) -> LiveConfig {
    LiveConfig {
        hls_window_seconds: settings.hls_window_seconds,
        max_viewers: usize::from(settings.max_viewers),
    }
}

fn fetches_other(was: &StreamConfig, is: &StreamConfig) -> bool {
    let format = |config: &StreamConfig| (config.width, config.height, config.fps, config.codec);
    was.url != is.url || was.transport != is.transport || format(was) != format(is)
}

fn view(stream: &Stream) -> StreamView {
    let config = stream.config.clone();
    match &stream.running {
        None => StreamView {
            config,
            status: StreamStatus::Disabled,
            status_detail: String::new(),
            actual: None,
            advice: Vec::new(),
            buffer: None,
        },
        Some(running) => {
            let seen = running.hub.view();
            let note = running.sub.as_ref().and_then(|sub| sub.feed.note());
            StreamView {
                config,
                status: seen.status,
                status_detail: seen.detail,
                actual: seen.actual,
                advice: seen.advice.into_iter().chain(note).collect(),
                buffer: seen.buffer.map(swap::stream_buffer),
            }
        }
    }
}

/// Ends the source, within `STOP_MAX`: a camera that does not answer the goodbye is left without one.
async fn stop_source(running: &mut Running) {
    drop(running.source_stop.take());
    if let Some(source) = running.source.take() {
        source.or(wait::pause(supervisor::STOP_MAX)).await;
    }
    running.hub.end_run();
}

/// Ends a sub-stream, within `STOP_MAX`.
async fn stop_sub(RunningSub { stop, task, .. }: RunningSub) {
    drop(stop);
    task.or(wait::pause(supervisor::STOP_MAX)).await;
}

/// Ends the source and gives the recorder `RECORDER_STOP_MAX` to finish its file. Answers the recorder's task if its
/// disk did not answer by then: whoever drops it leaves the file to recovery.
async fn stop(mut running: Running) -> Option<Task<()>> {
    // Both at once: one goodbye does not wait for the other.
    let sub = running.sub.take();
    let sub_ended = async {
        if let Some(sub) = sub {
            stop_sub(sub).await;
        }
    };
    smol::future::zip(stop_source(&mut running), sub_ended).await;
    drop(running.recorder_stop);
    let mut recorder = running.recorder;
    let finished = async {
        (&mut recorder).await;
        true
    };
    let too_long = async {
        wait::pause(RECORDER_STOP_MAX).await;
        false
    };
    if finished.or(too_long).await { None } else { Some(recorder) }
}
