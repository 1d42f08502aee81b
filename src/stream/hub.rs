//! The hub of one stream: where its source delivers and its recorder takes.
//!
//! In here: numbering runs, wall clock, ring, meter, the state that the API shows. Not in here: when to
//! connect (`supervisor`), what is written (`record/`). Lives on the executor; nothing blocks.

use std::cell::RefCell;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Instant;

use smol::channel::{Receiver, Sender, bounded};

use super::meter_core::Meter;
use super::wall_core::RunClock;
use crate::buffer::board_core::BufferView;
use crate::buffer::ring::Take;
use crate::buffer::spill::{Buffers, Feed};
use crate::ingest::{SourceEvent, Unit};
use crate::ledger::span_core::{Span, State as LedgerState};
use crate::media::format::{AudioFormat, VideoFormat};
use crate::media::packet::{Packet, Run, Track};
use crate::nvr::snapshot::{Actual, StreamStatus};
use crate::system::clock;

/// Video is late when none came for this long, or for three frame intervals if that is longer.
const VIDEO_LATE_MS: f64 = 5000.0;
/// And never later than this.
const VIDEO_LATE_MS_MAX: f64 = 10_000.0;
/// Pieces of advice that are kept; a further one is left out.
const ADVICE_MAX: usize = 8;

/// For so long a fault of the disk that is over still costs what does not fit into memory.
const FAULT_TAIL_MS: i64 = 2000;
/// Silence within a run that is a loss.
const LOSS_MS_MIN: i64 = 2000;
/// Losses that wait to be taken, which happens every second; beyond it the last one grows.
const LOSSES_MAX: usize = 64;

struct State {
    /// The recorder wants packets.
    is_recording: bool,
    run: Option<Arc<Run>>,
    runs: u32,
    clock: Option<RunClock>,
    meter: Meter,
    video: Option<Arc<VideoFormat>>,
    status: StreamStatus,
    detail: String,
    advice: Vec<String>,
    record_error: Option<&'static str>,
    /// The same for the ledger.
    record_state: Option<LedgerState>,
    /// The last fault of the disk, and when it was over, Unix milliseconds.
    fault_over: Option<(LedgerState, i64)>,
    /// Retention allows no writing; why.
    hold: Option<&'static str>,
    /// The wall clock stepped: the next keyframe begins by the new time.
    is_clock_stale: bool,
    last_video: Option<LastVideo>,
    losses: Vec<Span>,
}

/// Video that came last within the run.
#[derive(Clone, Copy)]
struct LastVideo {
    wall_ms: i64,
    /// Since the one before it.
    interval_ms: Option<i64>,
}

impl State {
    /// Notes the time of a picture, and a loss if it is long after the one before. A camera that sends one picture
    /// in ten seconds loses nothing in between.
    fn note_video(&mut self, wall_ms: i64) {
        let last = self.last_video.replace(LastVideo { wall_ms, interval_ms: None });
        let Some(last) = last else { return };
        let interval_ms = wall_ms - last.wall_ms;
        self.last_video = Some(LastVideo { wall_ms, interval_ms: Some(interval_ms) });
        let usual_ms = last.interval_ms.unwrap_or(interval_ms);
        if interval_ms > LOSS_MS_MIN.max(usual_ms.saturating_mul(3)) {
            let (start_ms, state) = (last.wall_ms + usual_ms, LedgerState::SourceLoss);
            let span = Span { start_ms, end_ms: wall_ms, state };
            if self.losses.len() < LOSSES_MAX {
                self.losses.push(span);
            } else if let Some(last) = self.losses.last_mut() {
                last.end_ms = span.end_ms;
            }
        }
    }
}

/// One stream's state, shared by its source, its recorder and whoever asks.
pub struct Hub {
    state: RefCell<State>,
    /// Packets on their way to the recorder.
    feed: Feed,
    started: Instant,
    wake: Sender<()>,
    ready: Receiver<()>,
    /// Told when something changed that the snapshot shows.
    changed: Sender<()>,
}

/// What the API shows of a hub.
pub struct HubView {
    pub status: StreamStatus,
    pub detail: String,
    pub actual: Option<Actual>,
    pub advice: Vec<String>,
    pub buffer: Option<BufferView>,
}

/// What a hub's ring is made with.
pub struct RingConfig {
    pub stream_id: u32,
    /// Higher matters more.
    pub priority: u8,
    /// RAM of its own.
    pub bytes_max: usize,
}

impl Hub {
    /// A hub with a ring of its own in `buffers`; `started` is the zero of the monotonic clock.
    pub fn new(
        buffers: &Rc<Buffers>,
        ring: &RingConfig,
        is_recording: bool,
        changed: Sender<()>,
        started: Instant,
    ) -> Self {
        let (wake, ready) = bounded(1);
        let state = State {
            is_recording,
            run: None,
            runs: 0,
            clock: None,
            meter: Meter::default(),
            video: None,
            status: StreamStatus::Connecting,
            detail: String::new(),
            advice: Vec::new(),
            record_error: None,
            record_state: None,
            fault_over: None,
            hold: None,
            is_clock_stale: false,
            last_video: None,
            losses: Vec::new(),
        };
        let feed = buffers.feed(ring.stream_id, ring.priority, ring.bytes_max, wake.clone());
        Self { state: RefCell::new(state), feed, started, wake, ready, changed }
    }

    fn now_ms(&self) -> u64 {
        u64::try_from(self.started.elapsed().as_millis()).unwrap_or(u64::MAX)
    }

    fn wake_recorder(&self) {
        let _ = self.wake.try_send(());
    }

    fn tell_changed(&self) {
        let _ = self.changed.try_send(());
    }

    /// Takes what the source delivers.
    pub fn deliver(&self, event: SourceEvent) {
        match event {
            SourceEvent::Started { video, audio } => self.start_run(video, audio),
            SourceEvent::AudioChanged(audio) => {
                let mut state = self.state.borrow_mut();
                if let Some(run) = &state.run {
                    state.run = Some(Arc::new(Run { id: run.id, audio: Some(audio) }));
                }
            }
            SourceEvent::Unit(unit) => self.push(unit),
            SourceEvent::Advice(text) => {
                let mut state = self.state.borrow_mut();
                if state.advice.len() < ADVICE_MAX && !state.advice.contains(&text) {
                    state.advice.push(text);
                }
            }
        }
    }

    fn start_run(&self, video: Option<Arc<VideoFormat>>, audio: Option<Arc<AudioFormat>>) {
        let mut state = self.state.borrow_mut();
        state.runs = state.runs.wrapping_add(1);
        state.run = Some(Arc::new(Run { id: state.runs, audio }));
        state.clock = None;
        state.last_video = None;
        state.video = video;
        state.advice.clear();
    }

    fn push(&self, unit: Unit) {
        let now_ms = self.now_ms();
        let mut guard = self.state.borrow_mut();
        let state = &mut *guard;
        let Some(run) = state.run.clone() else { return };
        let mut packet = Packet {
            seq: 0,
            run,
            track: unit.track,
            pts: unit.pts,
            dts: unit.dts,
            is_key: unit.is_key,
            is_damaged: unit.is_damaged,
            wall_ms: 0,
            data: unit.data,
        };
        let timescale = i64::from(packet.timescale().max(1));
        let media_ms = (i128::from(packet.pts) * 1000).div_euclid(i128::from(timescale)) as i64;
        let arrived_ms = clock::wall_ms();
        if state.is_clock_stale && packet.is_video_key() {
            state.is_clock_stale = false;
            state.clock = None;
            state.last_video = None;
        }
        let run_clock = state.clock.get_or_insert_with(|| RunClock::new(media_ms, arrived_ms));
        packet.wall_ms = run_clock.wall_ms(media_ms, arrived_ms);
        let is_video = packet.is_video();
        if is_video {
            state.note_video(packet.wall_ms);
        }
        let key_pts = packet.is_video_key().then_some(packet.pts);
        state.meter.note(now_ms, packet.data.len(), is_video, key_pts);
        if let Track::Video(format) = &packet.track
            && state.video.as_ref() != Some(format)
        {
            state.video = Some(Arc::clone(format));
        }
        if state.is_recording && state.hold.is_none() {
            self.feed.push(packet);
            self.wake_recorder();
        }
        if is_video && state.status != StreamStatus::Connected {
            state.status = StreamStatus::Connected;
            state.detail.clear();
            self.tell_changed();
        }
    }

    /// The source has ended: what waits is still recorded, then the file is finished.
    pub fn end_run(&self) {
        self.state.borrow_mut().run = None;
        self.wake_recorder();
    }

    /// Sets what the API shows while there is no video.
    pub fn set_status(&self, status: StreamStatus, detail: String) {
        let mut state = self.state.borrow_mut();
        state.status = status;
        state.detail = detail;
        self.tell_changed();
    }

    /// Whether packets go to the recorder from now on.
    pub fn set_recording(&self, is_recording: bool) {
        self.state.borrow_mut().is_recording = is_recording;
        if !is_recording {
            self.set_record_error(None);
        }
        self.wake_recorder();
    }

    /// Changes the size of the ring.
    pub fn set_ring_bytes(&self, bytes: usize) {
        self.feed.set_bytes_max(bytes);
    }

    /// Changes who gives way first where memory ends.
    pub fn set_priority(&self, priority: u8) {
        self.feed.set_priority(priority);
    }

    /// Notes why nothing is being written, or that it is again.
    pub fn set_record_error(&self, error: Option<&'static str>) {
        let mut state = self.state.borrow_mut();
        if state.record_error != error {
            state.record_error = error;
            self.tell_changed();
        }
    }

    /// The same for the ledger.
    pub fn set_record_state(&self, record_state: Option<LedgerState>) {
        let mut state = self.state.borrow_mut();
        if let (Some(was), None) = (state.record_state, record_state) {
            state.fault_over = Some((was, clock::wall_ms()));
        }
        state.record_state = record_state;
    }

    /// Retention allows no writing for this reason, or does again.
    pub fn set_hold(&self, hold: Option<&'static str>) {
        let mut state = self.state.borrow_mut();
        if state.hold != hold {
            state.hold = hold;
            self.wake_recorder();
            self.tell_changed();
        }
    }

    /// Why nothing is being written, if so.
    pub fn record_error(&self) -> Option<&'static str> {
        let state = self.state.borrow();
        state.hold.or(state.record_error)
    }

    /// What the ledger is to say of the present moment: `None` while all is well, and while the source has not
    /// answered for the first time.
    pub fn ledger_state(&self) -> Option<LedgerState> {
        let status = self.view().status;
        let state = self.state.borrow();
        match status {
            StreamStatus::Connecting => None,
            StreamStatus::Disabled => Some(LedgerState::Disabled),
            _ if !state.is_recording => Some(LedgerState::RecordOff),
            StreamStatus::Reconnecting | StreamStatus::Error => Some(LedgerState::SourceDown),
            StreamStatus::Connected if state.hold.is_some() => Some(LedgerState::DiskFull),
            StreamStatus::Connected => state.record_state,
        }
    }

    /// Takes the times within a run of which the source sent nothing.
    pub fn take_losses(&self) -> Vec<Span> {
        std::mem::take(&mut self.state.borrow_mut().losses)
    }

    /// The wall clock stepped: from the next keyframe on packets are dated anew.
    pub fn note_clock_step(&self) {
        self.state.borrow_mut().is_clock_stale = true;
    }

    /// Bytes a second that the source delivers.
    pub fn bytes_per_s(&self) -> u64 {
        let now_ms = self.now_ms();
        self.state.borrow().meter.rates(now_ms).1 / 8
    }

    /// The oldest packet that waits for the recorder.
    pub fn take(&self) -> Take {
        self.feed.take()
    }

    /// Gives packets back that were taken last and could not be written; unless they `can_begin` a file, from the first
    /// keyframe on.
    pub fn put_back(&self, packets: Vec<Arc<Packet>>, can_begin: bool) {
        self.feed.put_back(packets, can_begin);
    }

    /// Why something from this time (Unix milliseconds) could not be written, if the disk refuses it, or did so until
    /// just before.
    pub fn fault_at(&self, at_ms: i64) -> Option<LedgerState> {
        let state = self.state.borrow();
        let over = state.fault_over.filter(|(_, over_ms)| at_ms <= over_ms + FAULT_TAIL_MS);
        state.record_state.or(over.map(|(fault, _)| fault))
    }

    /// Whether nothing more will come for the file that is open: no run, or no recording wanted.
    pub fn is_idle(&self) -> bool {
        let state = self.state.borrow();
        state.run.is_none() || !state.is_recording || state.hold.is_some()
    }

    /// Resolves when the recorder should look again.
    pub async fn ready(&self) {
        let _ = self.ready.recv().await;
    }

    /// What the API shows now.
    pub fn view(&self) -> HubView {
        let now_ms = self.now_ms();
        let state = self.state.borrow();
        let (fps, bitrate) = state.meter.rates(now_ms);
        let audio = state.run.as_ref().and_then(|run| run.audio.as_ref());
        let actual = state.video.as_ref().map(|video| Actual {
            codec: video.codec.name(),
            width: video.width,
            height: video.height,
            fps: (fps * 10.0).round() / 10.0,
            bitrate,
            keyframe_interval: (state.meter.keyframe_interval_s() * 100.0).round() / 100.0,
            audio: audio.map(|audio| audio.source_codec),
        });
        let (mut status, mut detail) = (state.status, state.detail.clone());
        if status == StreamStatus::Connected {
            let late_ms = if fps > 0.0 { 3000.0 / fps } else { 0.0 };
            let late_ms = late_ms.clamp(VIDEO_LATE_MS, VIDEO_LATE_MS_MAX);
            let age_ms = state.meter.video_age_ms(now_ms).unwrap_or(0);
            if age_ms as f64 > late_ms {
                status = StreamStatus::Reconnecting;
                detail = format!("no video for {} s", age_ms / 1000);
            } else if let Some(error) = state.hold.or(state.record_error) {
                detail = error.to_owned();
            }
        }
        HubView { status, detail, actual, advice: state.advice.clone(), buffer: self.feed.view() }
    }
}
