//! The hub of one stream: where its source delivers and its recorder takes.
//!
//! In here: numbering runs, wall clock, ring, meter, the state that the API shows. Not in here: when to
//! connect (`supervisor`), what is written (`record/`). Lives on the executor; nothing blocks.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::sync::Arc;
use std::time::Instant;

use smol::channel::{Receiver, Sender, bounded};

use super::meter_core::Meter;
use super::stamp_core::Stamp;
use crate::buffer::board_core::BufferView;
use crate::buffer::ring::Take;
use crate::buffer::spill::{Buffers, Feed};
use crate::ingest::{SourceEvent, Unit};
use crate::ledger::clock_core::ClockWatch;
use crate::ledger::span_core::{Span, State as LedgerState};
use crate::live::feed::Feed as LiveFeed;
use crate::media::format::{AudioCodec, AudioFormat, VideoFormat};
use crate::media::packet::{Packet, Track};
use crate::nvr::snapshot::{Actual, StreamStatus};
use crate::system::clock;

/// Video is late when none came for this long, or for three frame intervals if that is longer.
const VIDEO_LATE_MS: f64 = 5000.0;
/// And never later than this.
const VIDEO_LATE_MS_MAX: f64 = 10_000.0;
/// Pieces of advice that are kept; a further one is left out.
const ADVICE_MAX: usize = 8;

/// A recorder that rests is woken when so much of the ring's own RAM is filled, at the latest.
const REST_PART: usize = 8;
const REST_BYTES_MAX: usize = 256 << 10;

/// For so long a fault of the disk that is over still costs what does not fit into memory.
const FAULT_TAIL_MS: i64 = 2000;
/// Silence within a run that is a loss.
const LOSS_MS_MIN: i64 = 2000;
/// Losses that wait to be taken, which happens every second; beyond it the last one grows.
const LOSSES_MAX: usize = 64;

struct State {
    /// The recorder wants packets.
    is_recording: bool,
    /// Something of this run did not go to the recorder: what goes there next begins with a keyframe, and a new file.
    is_interrupted: bool,
    stamp: Stamp,
    /// Sees a step of the wall clock with the next picture.
    watch: ClockWatch,
    meter: Meter,
    video: Option<Arc<VideoFormat>>,
    status: StreamStatus,
    detail: String,
    advice: Vec<String>,
    /// It is of the session before.
    is_advice_old: bool,
    no_sound: Option<String>,
    record_error: Option<&'static str>,
    /// The same for the ledger.
    record_state: Option<LedgerState>,
    /// The last fault of the disk, and when it was over, Unix milliseconds.
    fault_over: Option<(LedgerState, i64)>,
    /// Retention allows no writing; why.
    hold: Option<&'static str>,
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
    /// What the session before said goes when this one has something to say, or has begun: a camera that refuses its
    /// sessions has no other time for its advice to be read.
    fn forget_old_advice(&mut self) {
        if std::mem::take(&mut self.is_advice_old) {
            self.advice.clear();
        }
    }

    /// Keeps a piece of advice, unless it is known or there are enough.
    fn note_advice(&mut self, text: String) {
        self.forget_old_advice();
        if self.advice.len() < ADVICE_MAX && !self.advice.contains(&text) {
            self.advice.push(text);
        }
    }

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

fn rest_bytes(ring_bytes: usize) -> usize {
    (ring_bytes / REST_PART).min(REST_BYTES_MAX)
}

/// One stream's state, shared by its source, its recorder and whoever asks.
pub struct Hub {
    state: RefCell<State>,
    /// Packets on their way to the recorder.
    feed: Feed,
    started: Instant,
    wake: Sender<()>,
    ready: Receiver<()>,
    /// The recorder rests until a picture with this decoding time.
    resting: Cell<Option<i64>>,
    /// Bytes delivered since the recorder had taken all.
    untaken: Cell<usize>,
    rest_bytes: Cell<usize>,
    /// Told when something changed that the snapshot shows.
    changed: Sender<()>,
    /// Whoever watches.
    live: Rc<LiveFeed>,
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
        live: Rc<LiveFeed>,
    ) -> Self {
        let (wake, ready) = bounded(1);
        let state = State {
            is_recording,
            is_interrupted: false,
            stamp: Stamp::default(),
            watch: ClockWatch::default(),
            meter: Meter::default(),
            video: None,
            status: StreamStatus::Connecting,
            detail: String::new(),
            advice: Vec::new(),
            is_advice_old: false,
            no_sound: None,
            record_error: None,
            record_state: None,
            fault_over: None,
            hold: None,
            last_video: None,
            losses: Vec::new(),
        };
        let feed = buffers.feed(ring.stream_id, ring.priority, ring.bytes_max, wake.clone());
        Self {
            state: RefCell::new(state),
            feed,
            started,
            wake,
            ready,
            resting: Cell::new(None),
            untaken: Cell::new(0),
            rest_bytes: Cell::new(rest_bytes(ring.bytes_max)),
            changed,
            live,
        }
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
                self.state.borrow_mut().stamp.set_audio(audio);
            }
            SourceEvent::Unit(unit) => self.push(unit),
            SourceEvent::Advice(text) => self.state.borrow_mut().note_advice(text),
            SourceEvent::NoSound(why) => {
                let mut state = self.state.borrow_mut();
                state.no_sound = Some(why.clone());
                state.note_advice(why);
            }
        }
    }

    fn start_run(&self, video: Option<Arc<VideoFormat>>, audio: Option<Arc<AudioFormat>>) {
        let mut state = self.state.borrow_mut();
        state.forget_old_advice();
        state.stamp.start(audio);
        state.is_interrupted = false;
        state.last_video = None;
        state.video = video;
    }

    fn push(&self, unit: Unit) {
        let now_ms = self.now_ms();
        let mut guard = self.state.borrow_mut();
        let state = &mut *guard;
        let is_wanted = state.is_recording && state.hold.is_none();
        if is_wanted && state.is_interrupted && unit.is_key && matches!(unit.track, Track::Video(_))
        {
            state.is_interrupted = false;
            state.stamp.interrupt();
        }
        let arrived_ms = clock::wall_ms();
        if state.watch.tick(arrived_ms, now_ms).is_some() {
            // Whoever drives the ledger looks at the clock then, too: sooner than it would by itself.
            self.tell_changed();
        }
        let stamped = state.stamp.packet(unit, arrived_ms);
        let Some((packet, is_dated_anew)) = stamped else { return };
        if is_dated_anew {
            state.last_video = None;
        }
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
        state.is_interrupted |= !is_wanted;
        let packet = if state.is_interrupted {
            Arc::new(packet)
        } else {
            let packet = self.feed.push(packet);
            self.note_untaken(&packet);
            packet
        };
        self.live.push(packet);
        if is_video && state.status != StreamStatus::Connected {
            state.status = StreamStatus::Connected;
            state.detail.clear();
            self.tell_changed();
        }
    }

    /// Wakes the recorder if there is a reason to.
    fn note_untaken(&self, packet: &Packet) {
        self.untaken.set(self.untaken.get() + packet.data.len());
        if let Some(until) = self.resting.get()
            && (packet.is_video_key()
                || (packet.is_video() && packet.dts >= until)
                || self.untaken.get() >= self.rest_bytes.get())
        {
            self.resting.set(None);
            self.wake_recorder();
        }
    }

    /// The source has ended: what waits is still recorded, then the file is finished.
    pub fn end_run(&self) {
        let mut state = self.state.borrow_mut();
        state.stamp.end();
        // What comes before the next run begins is said of that one.
        state.is_advice_old = true;
        state.no_sound = None;
        drop(state);
        self.wake_recorder();
        self.live.end_run();
    }

    /// Whether somebody watches: then packets should come at once.
    pub fn is_watched(&self) -> bool {
        self.live.is_watched()
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
        self.rest_bytes.set(rest_bytes(bytes));
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
        self.state.borrow_mut().stamp.note_clock_step();
    }

    /// Bytes a second that the source delivers.
    pub fn bytes_per_s(&self) -> u64 {
        let now_ms = self.now_ms();
        self.state.borrow().meter.rates(now_ms).1 / 8
    }

    /// The oldest packet that waits for the recorder.
    pub fn take(&self) -> Take {
        let take = self.feed.take();
        if take == Take::Empty {
            self.untaken.set(0);
        }
        take
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
        state.stamp.run().is_none() || !state.is_recording || state.hold.is_some()
    }

    /// Resolves when the recorder should look again for another reason than a packet.
    pub async fn ready(&self) {
        let _ = self.ready.recv().await;
    }

    /// The same, and for packets: a keyframe, a picture with the decoding time `until` or a later one, or many bytes.
    pub async fn ready_at(&self, until: i64) {
        if self.untaken.get() > 0 {
            return;
        }
        self.resting.set(Some(until));
        self.ready().await;
        self.resting.set(None);
    }

    /// What the API shows now.
    pub fn view(&self) -> HubView {
        let now_ms = self.now_ms();
        let state = self.state.borrow();
        let (fps, bitrate) = state.meter.rates(now_ms);
        let audio = state.stamp.run().and_then(|run| run.audio.as_ref());
        let as_flac = audio.filter(|audio| audio.codec == AudioCodec::Flac);
        let as_flac =
            as_flac.map(|_| "recorded and shown as FLAC, which keeps every sample".to_owned());
        let actual = state.video.as_ref().map(|video| Actual {
            codec: video.codec.name(),
            width: video.width,
            height: video.height,
            fps: (fps * 10.0).round() / 10.0,
            bitrate,
            keyframe_interval: (state.meter.keyframe_interval_s() * 100.0).round() / 100.0,
            audio: audio.map(|audio| audio.source_codec),
            audio_note: as_flac.or_else(|| state.no_sound.clone()),
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

#[cfg(test)]
mod tests {
    use smol::future::{block_on, poll_once};

    use super::*;
    use crate::buffer::buffer_tests::packet;
    use crate::live::feed::Budget;

    const RING_BYTES: usize = 80_000;

    fn hub() -> Hub {
        let now = Instant::now();
        let ring = RingConfig { stream_id: 1, priority: 5, bytes_max: RING_BYTES };
        let live = LiveFeed::new(Rc::<Budget>::default(), 0, 12);
        let hub = Hub::new(&Buffers::new(1 << 20, now), &ring, true, bounded(1).0, now, live);
        hub.deliver(SourceEvent::Started { video: None, audio: None });
        hub
    }

    fn deliver(hub: &Hub, dts: i64, is_key: bool, bytes: usize) {
        let Packet { track, data, .. } = packet(is_key, bytes);
        let unit = Unit { track, pts: dts, dts, is_key, is_damaged: false, data };
        hub.deliver(SourceEvent::Unit(unit));
    }

    /// Of these pictures the one at `at`, and no earlier one, wakes a recorder that rests until 1000.
    #[track_caller]
    fn check_wakes(pictures: &[(i64, bool, usize)], at: usize) {
        let hub = hub();
        assert_eq!(hub.take(), Take::Empty);
        block_on(async {
            let mut resting = Box::pin(hub.ready_at(1000));
            assert!(poll_once(&mut resting).await.is_none(), "nothing is there");
            for (n, &(dts, is_key, bytes)) in pictures.iter().enumerate() {
                deliver(&hub, dts, is_key, bytes);
                assert_eq!(poll_once(&mut resting).await.is_some(), n == at, "picture {n}");
            }
        });
    }

    #[test]
    fn the_recorder_rests_until_there_is_something_to_write() {
        check_wakes(&[(1, false, 9), (998, false, 9), (999, true, 9)], 2);
        check_wakes(&[(1, false, 9), (999, false, 9), (1000, false, 9)], 2);
        check_wakes(&[(1, false, 5000), (2, false, 5000)], 1);
    }

    /// Numbers of the runs and decoding times of what the recorder gets.
    fn taken(hub: &Hub) -> Vec<(u32, i64)> {
        let packets = std::iter::from_fn(|| match hub.take() {
            Take::Packet(packet) => Some((packet.run.id, packet.dts)),
            Take::Loading | Take::Empty => None,
        });
        packets.collect()
    }

    #[test]
    fn after_a_pause_that_the_recorder_has_not_seen_comes_a_keyframe_and_another_file() {
        let pauses: [fn(&Hub, bool); 2] = [
            |hub, is_pause| hub.set_recording(!is_pause),
            |hub, is_pause| hub.set_hold(is_pause.then_some("disk full")),
        ];
        for pause in pauses {
            let hub = hub();
            deliver(&hub, 0, true, 9);
            deliver(&hub, 1, false, 9);
            pause(&hub, true);
            deliver(&hub, 2, false, 9);
            deliver(&hub, 3, true, 9);
            pause(&hub, false);
            // It refers to a picture that the recorder did not get.
            deliver(&hub, 4, false, 9);
            deliver(&hub, 5, true, 9);
            deliver(&hub, 6, false, 9);
            assert_eq!(taken(&hub), [(1, 0), (1, 1), (2, 5), (2, 6)]);
        }
    }

    #[test]
    fn what_came_before_the_rest_is_taken_first() {
        let hub = hub();
        deliver(&hub, 1, false, 9);
        assert!(block_on(poll_once(hub.ready_at(1000))).is_some());
        hub.end_run();
        assert!(matches!(hub.take(), Take::Packet(_)) && hub.take() == Take::Empty);
        assert!(block_on(poll_once(hub.ready_at(1000))).is_some(), "the end is a reason, too");
    }
}
