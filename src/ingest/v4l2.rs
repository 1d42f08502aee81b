//! The source behind `v4l2://`: a camera on this machine, recorded as it encodes or encoded here.
//!
//! In here: the camera's thread, which alone touches the driver, and the way of its pictures to the stream. Not in here:
//! ioctls (`v4l2_sys.rs`), decisions (`v4l2_core.rs`, `v4l2_frame_core.rs`). The thread begins with a session and ends
//! with it; a driver that never answers keeps its thread and its device, and no second one is started for that device.
//! What the executor or the codec threads have no time for is left out and counted.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use smol::channel::{Receiver, Sender, TrySendError, bounded};
use smol::future::or;

use super::encoder::{Encoded, H264Encoder, Lent};
use super::pattern_core::{KEY_SECONDS, LeftOut};
use super::picture_core::Picture;
use super::v4l2_core::{
    CaptureClock, Choice, Kind, Layout, Pace, Wish, choose, encoded_size, is_gap, size_advice,
};
use super::v4l2_frame_core::Framer;
use super::v4l2_sys::{Captured, Device, busy, number_of};
use super::{IngestError, SourceEvent, Unit, jpeg_decoder};
use crate::media::format::VIDEO_TIMESCALE;
use crate::media::packet::Track;
use crate::system::pool::{self, Pool};
use crate::system::wait;

/// Cameras that are open at once, in all streams.
const CAMERAS_MAX: usize = 16;
/// Pictures between the camera's thread and the executor; a further one is left out.
const PICTURES_MAX: usize = 2;
/// How often a thread without pictures looks whether it is to end.
const POLL: Duration = Duration::from_millis(200);
/// A driver may look for its camera's firmware, or reset it.
const OPEN_MAX: Duration = Duration::from_secs(10);
/// Between two pictures.
const SILENT_MAX: Duration = Duration::from_secs(10);
/// For so long pictures may come of which none can be used.
const USELESS_TICKS_MAX: i64 = 20 * VIDEO_TIMESCALE as i64;
/// After it a stream that ends does not wait for its camera any more.
const CLOSE_MAX: Duration = Duration::from_millis(700);
/// Pictures per second where neither stream nor camera say, for what is told of those that are left out.
const FPS_NOMINAL: u16 = 30;

/// What a stream wants of a camera on this machine.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Request {
    /// Its device file.
    pub path: String,
    pub wish: Wish,
}

/// Delivers what the camera sends until `stop`. The track and its format come with the first picture.
pub async fn run(
    request: Request,
    codec: &Pool,
    sink: &mut dyn FnMut(SourceEvent),
    stop: impl Future<Output = ()>,
) -> Result<(), IngestError> {
    let camera = Camera::start(request.clone())?;
    let stopped = async {
        stop.await;
        Ok(())
    };
    let ended = or(stopped, deliver(&camera, &request, codec, sink)).await;
    // Who comes next finds the device free.
    camera.close().await;
    ended
}

/// What a camera's thread tells.
enum Message {
    Opened(Choice, Layout),
    /// A picture, and how many before it found no room.
    Picture(Captured, u64),
    Ended(IngestError),
}

/// The executor's end of a camera's thread. Dropping it ends the thread.
struct Camera {
    messages: Receiver<Message>,
    is_stopped: Arc<AtomicBool>,
}

impl Camera {
    fn start(request: Request) -> Result<Self, IngestError> {
        let place = Place::take()?;
        let (out, messages) = bounded(PICTURES_MAX);
        let is_stopped = Arc::new(AtomicBool::new(false));
        let stopped = Arc::clone(&is_stopped);
        let name = format!("v4l-{}", place.0);
        let started = pool::spawn(&name, move || work(&request, place, &out, &stopped));
        let failed = |error| IngestError::Connection { what: format!("camera's thread: {error}") };
        drop(started.map_err(failed)?);
        Ok(Self { messages, is_stopped })
    }

    /// What the thread tells next; an error if it is silent for so long.
    async fn next(&self, patience: Duration) -> Result<Message, IngestError> {
        let told = async {
            let gone = || IngestError::Connection { what: "the camera's thread ended".into() };
            self.messages.recv().await.map_err(|_| gone())
        };
        let late = async {
            wait::pause(patience).await;
            Err(IngestError::Silent { timeout: patience })
        };
        or(told, late).await
    }

    async fn close(self) {
        self.is_stopped.store(true, Ordering::Relaxed);
        let closed = async { while self.messages.recv().await.is_ok() {} };
        or(closed, wait::pause(CLOSE_MAX)).await;
    }
}

impl Drop for Camera {
    fn drop(&mut self) {
        self.is_stopped.store(true, Ordering::Relaxed);
    }
}

/// Who has which place, and which device.
static PLACES: Mutex<[Option<u64>; CAMERAS_MAX]> = Mutex::new([None; CAMERAS_MAX]);
/// The device of a thread that has not looked yet.
const NO_DEVICE: u64 = u64::MAX;

/// A thread's place among the cameras; dropping it frees its device, too.
struct Place(usize);

impl Place {
    fn take() -> Result<Self, IngestError> {
        let mut places = PLACES.lock().unwrap_or_else(PoisonError::into_inner);
        let what = || format!("{CAMERAS_MAX} local cameras are in use, or their drivers hang");
        let free = places.iter().position(Option::is_none);
        let free = free.ok_or_else(|| IngestError::Connection { what: what() })?;
        places[free] = Some(NO_DEVICE);
        Ok(Self(free))
    }

    /// Whether this device is nobody else's; then it is this thread's.
    fn claim(&self, number: u64) -> bool {
        let mut places = PLACES.lock().unwrap_or_else(PoisonError::into_inner);
        let is_free = !places.contains(&Some(number));
        if is_free {
            places[self.0] = Some(number);
        }
        is_free
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        PLACES.lock().unwrap_or_else(PoisonError::into_inner)[self.0] = None;
    }
}

/// The camera's thread.
fn work(request: &Request, place: Place, out: &Sender<Message>, is_stopped: &AtomicBool) {
    let worked = catch_unwind(AssertUnwindSafe(|| capture(request, &place, out, is_stopped)));
    // The device is closed.
    drop(place);
    let ended = worked.unwrap_or_else(|_| {
        Err(IngestError::Connection { what: "internal error at this camera, see the log".into() })
    });
    if let Err(error) = ended {
        // Nobody may listen any more.
        let _ = out.send_blocking(Message::Ended(error));
    }
}

fn capture(
    Request { path, wish }: &Request,
    place: &Place,
    out: &Sender<Message>,
    is_stopped: &AtomicBool,
) -> Result<(), IngestError> {
    let number = number_of(path)?;
    if !place.claim(number) {
        return Err(IngestError::Connection { what: busy(path, "another stream") });
    }
    let device = Device::open(path, number)?;
    let refused = |what: String| IngestError::Refused { what };
    if !device.identity().is_camera {
        return Err(refused(format!(
            "{path} is no camera that delivers pictures in its own right"
        )));
    }
    let choice = choose(&device.offers(wish), wish).map_err(refused)?;
    let layout = device.set(&choice)?;
    let mut capture = device.start()?;
    if out.send_blocking(Message::Opened(choice, layout)).is_err() {
        return Ok(());
    }
    let mut lost = 0;
    while !is_stopped.load(Ordering::Relaxed) {
        let Some(captured) = capture.next(POLL)? else { continue };
        match out.try_send(Message::Picture(captured, lost)) {
            Ok(()) => lost = 0,
            Err(TrySendError::Full(_)) => lost += 1,
            Err(TrySendError::Closed(_)) => break,
        }
    }
    Ok(())
}

async fn deliver(
    camera: &Camera,
    request: &Request,
    codec: &Pool,
    sink: &mut dyn FnMut(SourceEvent),
) -> Result<(), IngestError> {
    let (choice, layout) = match camera.next(OPEN_MAX).await {
        Ok(Message::Opened(choice, layout)) => (choice, layout),
        Ok(Message::Ended(error)) => return Err(error),
        Ok(Message::Picture(..)) | Err(_) => {
            let what = format!("driver of {} does not answer", request.path);
            return Err(IngestError::Connection { what });
        }
    };
    let mut way = Way::new(&choice, layout, &request.wish);
    if let Some(words) = way.advice(&request.wish) {
        sink(SourceEvent::Advice(words));
    }
    let mut left_out = LeftOut::new("camera", way.fps);
    let mut is_started = false;
    loop {
        let (captured, lost) = match camera.next(SILENT_MAX).await? {
            Message::Picture(captured, lost) => (captured, lost),
            Message::Ended(error) => return Err(error),
            Message::Opened(..) => continue,
        };
        let (ticks, unit) = way.take(captured, codec).await?;
        let frame = ticks.unsigned_abs() * u64::from(way.fps) / u64::from(VIDEO_TIMESCALE);
        let missed = lost + std::mem::take(&mut way.left_out);
        if let Some(words) = left_out.poll(frame, missed) {
            sink(SourceEvent::Advice(words));
        }
        let Some(unit) = unit else { continue };
        if !is_started && let Track::Video(format) = &unit.track {
            is_started = true;
            sink(SourceEvent::Started { video: Some(Arc::clone(format)), audio: None });
        }
        sink(SourceEvent::Unit(unit));
    }
}

/// How pictures become access units.
enum Means {
    AsIs(Framer),
    /// In this size.
    Encode {
        encoder: Lent<H264Encoder>,
        size: (usize, usize),
        last_key: Option<i64>,
    },
}

/// The way of a camera's pictures.
struct Way {
    means: Means,
    layout: Layout,
    fps: u16,
    clock: CaptureClock,
    pace: Pace,
    sequence: Option<u32>,
    /// Time of the last picture that could be used, and what was wrong with one after it.
    useful: i64,
    complaint: String,
    /// Pictures that no codec thread had time for, since this was last taken.
    left_out: u64,
}

impl Way {
    fn new(choice: &Choice, layout: Layout, wish: &Wish) -> Self {
        let means = if choice.is_as_is {
            Means::AsIs(Framer::new(layout.kind))
        } else {
            let size = encoded_size(wish, &layout);
            Means::Encode { encoder: Lent::default(), size, last_key: None }
        };
        // Of H.264 none can be left out.
        let is_paced = layout.kind != Kind::H264;
        Self {
            means,
            layout,
            fps: choice.fps.unwrap_or(FPS_NOMINAL),
            clock: CaptureClock::default(),
            pace: Pace::new(choice.fps.filter(|_| is_paced)),
            sequence: None,
            useful: 0,
            complaint: String::new(),
            left_out: 0,
        }
    }

    fn advice(&self, wish: &Wish) -> Option<String> {
        let (width, height) = match &self.means {
            Means::AsIs(_) => (self.layout.width, self.layout.height),
            Means::Encode { size, .. } => *size,
        };
        size_advice(wish, width, height)
    }

    /// The time of a picture, and its access unit if it is to have one.
    async fn take(
        &mut self,
        captured: Captured,
        codec: &Pool,
    ) -> Result<(i64, Option<Unit>), IngestError> {
        let Captured { mut data, stamp_us, arrived_us, sequence, is_broken, is_full } = captured;
        let ticks = self.clock.ticks(stamp_us, arrived_us);
        let is_gap = self.sequence.is_some_and(|last| is_gap(last, sequence));
        self.sequence = Some(sequence);
        if !self.pace.takes(ticks) {
            return Ok((ticks, None));
        }
        let unit = match &mut self.means {
            Means::AsIs(framer) => {
                if is_gap {
                    framer.note_gap();
                }
                // Cut off, or of unknown length with something old behind it: v4l2loopback says so of the first
                // picture after a reader came. The end of a JPEG is known.
                if is_full && self.layout.kind == Kind::H264 {
                    data.clear();
                }
                framer.unit(data, ticks, is_broken)
            }
            Means::Encode { .. } if is_broken => None,
            Means::Encode { .. } => self.encode(data, ticks, codec).await?,
        };
        if unit.is_some() {
            self.useful = ticks;
        } else if ticks - self.useful > USELESS_TICKS_MAX {
            let what = match self.complaint.as_str() {
                "" => "camera sends pictures that cannot be used".to_owned(),
                why => format!("camera sends pictures that cannot be used: {why}"),
            };
            return Err(IngestError::Connection { what });
        }
        Ok((ticks, unit))
    }

    async fn encode(
        &mut self,
        data: Vec<u8>,
        ticks: i64,
        codec: &Pool,
    ) -> Result<Option<Unit>, IngestError> {
        let Means::Encode { encoder, size, last_key } = &mut self.means else { return Ok(None) };
        let key_ticks = KEY_SECONDS as i64 * i64::from(VIDEO_TIMESCALE);
        let wants_key = last_key.is_none_or(|last| ticks - last >= key_ticks);
        let (layout, size, fps) = (self.layout, *size, self.fps);
        let open = move || H264Encoder::open(fps);
        let job = move |encoder: &mut H264Encoder| {
            Ok(match picture(data, &layout) {
                Ok(picture) => {
                    let picture = picture.scaled(size.0, size.1);
                    encoder.encode(&picture, ticks, wants_key)?.ok_or_else(String::new)
                }
                Err(what) => Err(what),
            })
        };
        let encoded: Encoded = match encoder.run(codec, open, job).await? {
            Some(Ok(encoded)) => encoded,
            Some(Err(complaint)) => {
                self.complaint = complaint;
                return Ok(None);
            }
            None => {
                self.left_out += 1;
                return Ok(None);
            }
        };
        if encoded.is_key {
            *last_key = Some(ticks);
        }
        Ok(Some(encoded.into_unit(ticks)))
    }
}

/// The picture in a camera's buffer, or what is wrong with it.
fn picture(data: Vec<u8>, layout: &Layout) -> Result<Picture, String> {
    let Layout { kind, width, height, stride } = *layout;
    let picture = match kind {
        Kind::Yuyv => Picture::from_yuyv(&data, width, height, stride),
        Kind::Nv12 => Picture::from_nv12(&data, width, height, stride),
        Kind::Mjpeg => return jpeg_decoder::decode(data, width, height),
        Kind::H264 => None,
    };
    picture.ok_or_else(|| "a picture is too short".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::media::format::VideoCodec;
    use crate::media::nal;

    fn wish(codec: VideoCodec, width: u16, height: u16) -> Wish {
        Wish { codec, width, height, fps: 0 }
    }

    fn captured(data: Vec<u8>, n: u32) -> Captured {
        let stamp_us = i64::from(n) * 100_000;
        let arrived_us = stamp_us + 5000;
        let (is_broken, is_full) = (false, false);
        Captured { data, stamp_us: Some(stamp_us), arrived_us, sequence: n, is_broken, is_full }
    }

    fn encoding(layout: Layout, wish: &Wish) -> Way {
        let choice = Choice {
            kind: layout.kind,
            code: 0,
            width: layout.width as u16,
            height: layout.height as u16,
            fps: Some(15),
            is_as_is: false,
        };
        Way::new(&choice, layout, wish)
    }

    #[test]
    fn unencoded_pictures_become_h264_in_the_wished_size() {
        let pool = Pool::start("codec-test", 1, 4).expect("threads");
        let layout = Layout { kind: Kind::Yuyv, width: 160, height: 120, stride: 320 };
        let wish = wish(VideoCodec::H264, 80, 0);
        let mut way = encoding(layout, &wish);
        assert_eq!(way.advice(&wish), None);
        smol::block_on(async {
            let mut keys = Vec::new();
            for n in 0..45 {
                let taken = way.take(captured(vec![100; 320 * 120], n), &pool).await;
                let (ticks, unit) = taken.expect("no error");
                let unit = unit.expect("a picture");
                assert_eq!((ticks, unit.pts), (i64::from(n) * 9000, ticks));
                let Track::Video(format) = &unit.track else { panic!("{unit:?}") };
                assert_eq!((format.width, format.height), (80, 64), "the encoder's least height");
                keys.extend(unit.is_key.then_some(n));
            }
            assert_eq!(keys, [0, 20, 40], "every two seconds");
        });
    }

    #[test]
    fn h264_that_fills_its_buffer_has_no_known_end() {
        let pool = Pool::start("codec-test", 1, 4).expect("threads");
        let mut encoder = H264Encoder::open(10).expect("encoder");
        let encoded = encoder.encode(&Picture::grey(64, 64, 50), 0, true).expect("encodes");
        let data = encoded.expect("a picture").data;
        let nals = nal::length_prefixed_nals(&data);
        let data: Vec<u8> = nals.flat_map(|unit| [&[0, 0, 0, 1], unit].concat()).collect();
        let layout = Layout { kind: Kind::H264, width: 64, height: 64, stride: 0 };
        let (code, fps) = (0, None);
        let choice = Choice { kind: Kind::H264, code, width: 64, height: 64, fps, is_as_is: true };
        let mut way = Way::new(&choice, layout, &wish(VideoCodec::H264, 0, 0));
        smol::block_on(async {
            let full = Captured { is_full: true, ..captured(data.clone(), 0) };
            assert_eq!(way.take(full, &pool).await.expect("no error"), (0, None));
            let (_, unit) = way.take(captured(data, 1), &pool).await.expect("no error");
            let unit = unit.expect("a picture");
            assert!(unit.is_key && unit.is_damaged, "something before it is missing");
        });
    }

    #[test]
    fn useless_pictures_are_survived_for_a_while() {
        let pool = Pool::start("codec-test", 1, 4).expect("threads");
        let layout = Layout { kind: Kind::Mjpeg, width: 64, height: 64, stride: 0 };
        let mut way = encoding(layout, &wish(VideoCodec::H264, 0, 0));
        smol::block_on(async {
            for n in 0..200 {
                let (_, unit) = way.take(captured(vec![1, 2, 3], n), &pool).await.expect("not yet");
                assert_eq!(unit, None);
            }
            let error = way.take(captured(vec![1, 2, 3], 201), &pool).await.expect_err("too long");
            assert_eq!(error.to_string(), "camera sends pictures that cannot be used: no JPEG");
        });
    }

    #[test]
    fn a_full_pool_costs_a_picture_and_is_counted() {
        let (pool, free) = pool::full();
        smol::block_on(async {
            let layout = Layout { kind: Kind::Yuyv, width: 64, height: 64, stride: 128 };
            let mut way = encoding(layout, &wish(VideoCodec::H264, 0, 0));
            let left_out = way.take(captured(vec![9; 128 * 64], 0), &pool).await.expect("no error");
            assert_eq!((left_out.1, way.left_out), (None, 1));
            free();
            let (_, unit) =
                way.take(captured(vec![9; 128 * 64], 1), &pool).await.expect("no error");
            assert!(unit.expect("a picture").is_key);
        });
    }

    #[test]
    fn a_device_has_one_thread() {
        let (first, second) = (Place::take().expect("room"), Place::take().expect("room"));
        assert!(first.claim(7) && !second.claim(7) && second.claim(8));
        drop(first);
        assert!(second.claim(7), "given back");
    }

    #[test]
    fn a_camera_that_is_not_there_and_what_is_none_end_at_once() {
        let pool = Pool::start("codec-test", 1, 4).expect("threads");
        let ended = |path: &str| {
            let request = Request { path: path.to_owned(), wish: wish(VideoCodec::H264, 0, 0) };
            let mut sink = |event| panic!("{event:?}");
            let run = run(request, &pool, &mut sink, std::future::pending());
            crate::system::drive::block_on(run).expect_err(path)
        };
        assert!(matches!(ended("/dev/video255"), IngestError::Unplugged { .. }));
        assert!(matches!(ended("/dev/null"), IngestError::Refused { .. }));
    }
}
