//! The source behind `testpattern://`: paints, encodes and delivers pictures without a camera.
//!
//! In here: the camera's turns on a codec thread, the timer. What is drawn and when is decided in
//! `ingest/pattern_core.rs`. One frame at a time is on the codec pool; a frame whose time is over, or that
//! finds the pool full, is left out and counted, and the times of the others stay true.

use std::sync::Arc;
use std::time::Instant;

use super::encoder::{Encoded, H264Encoder, Lent};
pub use super::pattern_core::PatternRequest;
use super::pattern_core::{Code, LeftOut, Painter, Plan, Schedule};
use super::{IngestError, SourceEvent};
use crate::system::clock;
use crate::system::drive::Timer;
use crate::system::pool::Pool;

/// Delivers the pattern until `stop`. The track and its format come with the first picture; an error is
/// always `Connection`, so the stream tries again.
pub async fn run(
    request: PatternRequest,
    pool: &Pool,
    sink: &mut dyn FnMut(SourceEvent),
    stop: impl Future<Output = ()>,
) -> Result<(), IngestError> {
    let stopped = async {
        stop.await;
        Ok(())
    };
    smol::future::or(stopped, deliver(Plan::new(&request), pool, sink)).await
}

async fn deliver(
    plan: Plan,
    pool: &Pool,
    sink: &mut dyn FnMut(SourceEvent),
) -> Result<(), IngestError> {
    let mut schedule = Schedule::new(plan.fps);
    let mut left_out = LeftOut::new("test pattern", plan.fps);
    let studio = Studio { plan: Arc::new(plan), camera: Lent::default() };
    let mut is_started = false;
    let start = Instant::now();
    loop {
        Timer::at(start + schedule.due()).await;
        let (frame, late) = schedule.take(start.elapsed());
        let order = Order {
            ticks: schedule.ticks(frame),
            code: Code { frame: (frame & 0xffff_ffff) as u32, unix_ms: clock::wall_ms() },
            wants_key: schedule.wants_key(frame),
        };
        let shot = studio.shoot(pool, order).await?;
        if let Some(words) = left_out.poll(frame, late + u64::from(shot.is_none())) {
            sink(SourceEvent::Advice(words));
        }
        let Some(shot) = shot else { continue };
        if !is_started {
            is_started = true;
            sink(SourceEvent::Started { video: Some(Arc::clone(&shot.format)), audio: None });
        }
        if shot.is_key {
            schedule.key_made(frame);
        }
        sink(SourceEvent::Unit(shot.into_unit(order.ticks)));
    }
}

/// One picture to make.
#[derive(Clone, Copy, Debug)]
struct Order {
    /// 90 kHz, for the encoder's rate control.
    ticks: i64,
    code: Code,
    wants_key: bool,
}

/// Sends the camera to the codec pool and back.
struct Studio {
    plan: Arc<Plan>,
    camera: Lent<Camera>,
}

impl Studio {
    /// `None`: the pool was full, or the encoder gave nothing for this picture.
    async fn shoot(&self, pool: &Pool, order: Order) -> Result<Option<Encoded>, IngestError> {
        let plan = Arc::clone(&self.plan);
        let open = move || Camera::open(&plan);
        let shot = self.camera.run(pool, open, move |camera| camera.shoot(order)).await?;
        Ok(shot.flatten())
    }
}

/// Painter and encoder.
struct Camera {
    painter: Painter,
    encoder: H264Encoder,
}

impl Camera {
    fn open(plan: &Plan) -> Result<Self, String> {
        let encoder = H264Encoder::open(plan.fps)?;
        Ok(Self { painter: Painter::new(plan), encoder })
    }

    fn shoot(&mut self, order: Order) -> Result<Option<Encoded>, String> {
        let picture = self.painter.paint(order.code);
        self.encoder.encode(picture, order.ticks, order.wants_key)
    }
}

#[cfg(test)]
mod tests {
    use super::super::pattern_core::read_code;
    use super::*;
    use crate::media::packet::Track;
    use crate::media::{h264, nal};
    use openh264::decoder::Decoder;
    use openh264::formats::YUVSource;
    use std::path::{Path, PathBuf};
    use std::process::Command;

    const START_CODE: [u8; 4] = [0, 0, 0, 1];
    /// 2025-03-09T10:00:00Z.
    const WALL_MS: i64 = 1_741_514_400_000;

    fn plan(width: u16, height: u16, fps: u16) -> Plan {
        Plan::new(&PatternRequest { label: "Front door".to_owned(), width, height, fps })
    }

    /// Makes the frames that `run` would make if each were on time.
    fn shoot_all(plan: &Plan, frames: u64) -> (Vec<Encoded>, Vec<Code>) {
        let mut schedule = Schedule::new(plan.fps);
        let mut camera = Camera::open(plan).expect("encoder");
        let mut codes = Vec::new();
        let shots = (0..frames).map(|_| {
            let due = schedule.due();
            let (frame, _) = schedule.take(due);
            let unix_ms = WALL_MS + i64::try_from(due.as_millis()).expect("small");
            let code = Code { frame: u32::try_from(frame).expect("small"), unix_ms };
            codes.push(code);
            let wants_key = schedule.wants_key(frame);
            let order = Order { ticks: schedule.ticks(frame), code, wants_key };
            let shot = camera.shoot(order).expect("encoder").expect("a picture");
            assert_eq!(shot.is_key, wants_key, "frame {frame}");
            if shot.is_key {
                schedule.key_made(frame);
            }
            shot
        });
        (shots.collect(), codes)
    }

    fn annex_b(shot: &Encoded) -> Vec<u8> {
        let nals = nal::length_prefixed_nals(&shot.data);
        nals.flat_map(|unit| [&START_CODE[..], unit].concat()).collect()
    }

    #[test]
    fn every_frame_can_be_told_after_decoding() {
        for (width, height, fps) in
            [(1280, 720, 15), (322, 242, 15), (160, 120, 5), (1920, 1088, 30)]
        {
            let (shots, codes) = shoot_all(&plan(width, height, fps), 35);
            let mut decoder = Decoder::new().expect("decoder");
            for (shot, code) in shots.iter().zip(codes) {
                let picture = decoder.decode(&annex_b(shot)).expect("decodes").expect("no delay");
                assert_eq!(picture.dimensions(), (usize::from(width), usize::from(height)));
                let (stride, _, _) = picture.strides();
                let (w, h) = picture.dimensions();
                assert_eq!(read_code(picture.y(), w, h, stride), Some(code), "{width}x{height}");
            }
        }
    }

    #[test]
    fn format_keyframes_and_bit_rate_are_as_planned() {
        let (shots, _) = shoot_all(&plan(0, 0, 0), 15 * 6);
        let format = &shots[0].format;
        assert_eq!((format.width, format.height), (1280, 720));
        assert!(format.rfc6381.starts_with("avc1.42"), "{}", format.rfc6381);
        assert_eq!(format.reorder_frames, Some(0));
        assert!(!format.decoder_config.is_empty());
        for (n, shot) in shots.iter().enumerate() {
            let kinds: Vec<u8> =
                nal::length_prefixed_nals(&shot.data).map(h264::nal_type).collect();
            let want: &[u8] = if n % 30 == 0 { &[7, 8, 5] } else { &[1] };
            assert_eq!(kinds, want, "frame {n}");
            assert_eq!(shot.format, *format);
        }
        let bits: usize = shots.iter().map(|shot| shot.data.len() * 8).sum();
        let per_second = bits / 6;
        assert!((800_000..1_200_000).contains(&per_second), "{per_second} bit/s");
    }

    /// A directory of the test's own that goes when the test ends.
    struct Scratch(PathBuf);

    impl Scratch {
        fn new(name: &str) -> Self {
            let name = format!("lightnvr-{name}-{}", std::process::id());
            let path = std::env::temp_dir().join(name);
            std::fs::create_dir_all(&path).expect("temporary directory");
            Self(path)
        }
    }

    impl Drop for Scratch {
        fn drop(&mut self) {
            drop(std::fs::remove_dir_all(&self.0));
        }
    }

    /// Runs ffmpeg in `dir`, wants silence on standard error, and gives what it wrote to standard output.
    #[track_caller]
    fn ffmpeg(dir: &Path, args: &str) -> Vec<u8> {
        let mut command = Command::new("ffmpeg");
        command.current_dir(dir).args(["-nostdin", "-y", "-v", "error", "-xerror"]);
        let output = command.args(args.split(' ')).output();
        let output = output.expect("this test needs ffmpeg (Debian package ffmpeg)");
        let words = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success() && words.is_empty(), "ffmpeg {args}: {words}");
        output.stdout
    }

    #[track_caller]
    fn check_gray(pictures: &[u8], width: usize, height: usize, codes: &[Code]) {
        let found: Vec<_> = pictures
            .chunks_exact(width * height)
            .map(|luma| read_code(luma, width, height, width))
            .collect();
        let want: Vec<_> = codes.iter().copied().map(Some).collect();
        assert_eq!(found, want);
    }

    #[test]
    fn ffmpeg_plays_it_and_the_code_survives_half_size_and_jpeg() {
        let scratch = Scratch::new("pattern");
        let dir = &scratch.0;
        let (shots, codes) = shoot_all(&plan(0, 0, 0), 45);
        let stream: Vec<u8> = shots.iter().flat_map(annex_b).collect();
        std::fs::write(dir.join("pattern.h264"), stream).expect("temporary file");
        ffmpeg(dir, "-i pattern.h264 -f null -");
        let half = ffmpeg(dir, "-i pattern.h264 -vf scale=640:360 -pix_fmt gray -f rawvideo -");
        check_gray(&half, 640, 360, &codes);
        let to_jpeg = "-vf scale=640:360 -pix_fmt yuvj420p -c:v mjpeg -q:v 12 -f mjpeg half.mjpeg";
        ffmpeg(dir, &format!("-i pattern.h264 {to_jpeg}"));
        let jpeg = ffmpeg(dir, "-i half.mjpeg -pix_fmt gray -f rawvideo -");
        check_gray(&jpeg, 640, 360, &codes);
    }

    #[test]
    fn ffprobe_sees_the_planned_stream() {
        let scratch = Scratch::new("pattern-probe");
        let (shots, _) = shoot_all(&plan(640, 360, 10), 21);
        let stream: Vec<u8> = shots.iter().flat_map(annex_b).collect();
        std::fs::write(scratch.0.join("pattern.h264"), stream).expect("temporary file");
        let entries = "stream=codec_name,profile,width,height,pix_fmt,has_b_frames,color_space";
        let output = Command::new("ffprobe")
            .current_dir(&scratch.0)
            .args(["-v", "error", "-count_packets", "-show_entries"])
            .args([&format!("{entries},nb_read_packets"), "-of", "csv=p=0", "pattern.h264"])
            .output()
            .expect("this test needs ffprobe (Debian package ffmpeg)");
        assert_eq!(String::from_utf8_lossy(&output.stderr), "");
        let want = "h264,Constrained Baseline,640,360,0,yuv420p,smpte170m,21\n";
        assert_eq!(String::from_utf8_lossy(&output.stdout), want);
    }

    /// Runs the source until `enough` says so of the events so far.
    fn run_until(pool: &Pool, enough: impl Fn(&[SourceEvent]) -> bool) -> Vec<SourceEvent> {
        let mut events = Vec::new();
        let (done, stop) = smol::channel::bounded(1);
        let mut sink = |event| {
            events.push(event);
            if enough(&events) {
                let _ = done.try_send(());
            }
        };
        let request = PatternRequest { label: "test".to_owned(), width: 64, height: 64, fps: 30 };
        let stopped = async { stop.recv().await.unwrap_or(()) };
        smol::block_on(run(request, pool, &mut sink, stopped)).expect("no error");
        events
    }

    #[test]
    fn the_source_starts_delivers_and_stops() {
        let pool = Pool::start("codec-test", 1, 4).expect("threads");
        let events = run_until(&pool, |events| events.len() == 4);
        let [SourceEvent::Started { video: Some(format), audio: None }, units @ ..] = &events[..]
        else {
            panic!("{events:?}")
        };
        assert_eq!((format.width, format.height), (64, 64));
        let mut last = -1;
        for (n, event) in units.iter().enumerate() {
            let SourceEvent::Unit(unit) = event else { panic!("{event:?}") };
            assert_eq!(unit.track, Track::Video(Arc::clone(format)));
            assert!(
                unit.pts == unit.dts && unit.pts % 3000 == 0 && unit.pts > last,
                "{}",
                unit.pts
            );
            assert_eq!(unit.is_key, n == 0);
            last = unit.pts;
        }
    }

    #[test]
    fn a_full_pool_costs_frames_and_nothing_else() {
        let (pool, free) = crate::system::pool::full();
        smol::block_on(async {
            let plan = Arc::new(plan(64, 64, 30));
            let studio = Studio { plan, camera: Lent::default() };
            let code = Code { frame: 1, unix_ms: WALL_MS };
            let order = Order { ticks: 0, code, wants_key: true };
            let shot = studio.shoot(&pool, order).await;
            assert!(matches!(shot, Ok(None)), "{shot:?}");
            free();
            for wants_key in [true, false] {
                let shot = studio.shoot(&pool, Order { wants_key, ..order }).await;
                assert_eq!(shot.expect("encoder").expect("a picture").is_key, wants_key);
            }
        });
    }
}
