//! The H.264 encoder of sources whose pictures come unencoded: openh264, and nothing of it leaks.
//!
//! In here: its settings, one picture to one access unit, and lending it to jobs on a codec thread. Not in here:
//! where the pictures come from (`testpattern.rs`, `v4l2.rs`), and when there is to be a keyframe.

use std::sync::{Arc, Mutex, PoisonError};

use openh264::encoder::{
    Complexity, Encoder, EncoderConfig, FrameRate, FrameType, IntraFramePeriod, Profile,
    RateControlMode, UsageType, VuiConfig,
};
use openh264::formats::YUVSlices;
use openh264::{OpenH264API, Timestamp};

use super::picture_core::Picture;
use super::{IngestError, Unit};
use crate::media::format::VideoFormat;
use crate::media::packet::Track;
use crate::media::{h264, nal};
use crate::system::pool::{Pool, PoolError};

/// One picture, encoded.
#[derive(Debug)]
pub struct Encoded {
    pub format: Arc<VideoFormat>,
    pub is_key: bool,
    /// NAL units behind 4-byte lengths.
    pub data: Vec<u8>,
}

impl Encoded {
    /// As a source delivers it, at this time in 90 kHz ticks.
    pub fn into_unit(self, ticks: i64) -> Unit {
        let Self { format, is_key, data } = self;
        let track = Track::Video(format);
        Unit { track, pts: ticks, dts: ticks, is_key, is_damaged: false, data }
    }
}

/// Encodes pictures of one size: 10 to 20 MB at 720p.
pub struct H264Encoder {
    encoder: Encoder,
    /// Known from the first keyframe on.
    format: Option<Arc<VideoFormat>>,
}

impl H264Encoder {
    /// An encoder for so many pictures per second, at least 1.
    pub fn open(fps: u16) -> Result<Self, String> {
        let config = EncoderConfig::new()
            .profile(Profile::Baseline)
            .usage_type(UsageType::CameraVideoRealTime)
            .complexity(Complexity::Low)
            // A constant quantiser (openh264's own, 26): the same picture costs the same bits everywhere, none
            // is left out, and the test pattern's code stays readable. With rate control and without leaving out
            // frames, openh264 2.6 writes a warning of its own to standard error.
            .rate_control_mode(RateControlMode::Off)
            .max_frame_rate(FrameRate::from_hz(f32::from(fps)))
            .skip_frames(false)
            // Keyframes come when the caller says so. 0 threads would mean one per processor.
            .intra_frame_period(IntraFramePeriod::auto())
            .scene_change_detect(false)
            .num_threads(1)
            // Looking at the pictures first gains nothing here.
            .background_detection(false)
            .adaptive_quantization(false)
            .vui(VuiConfig::bt601());
        let encoder = Encoder::with_api_config(OpenH264API::from_source(), config);
        let encoder = encoder.map_err(|error| format!("encoder: {error}"))?;
        Ok(Self { encoder, format: None })
    }

    /// Encodes the next picture, at this time in 90 kHz ticks for the rate. `None`: the encoder gave nothing for it.
    pub fn encode(
        &mut self,
        picture: &Picture,
        ticks: i64,
        wants_key: bool,
    ) -> Result<Option<Encoded>, String> {
        if wants_key {
            self.encoder.force_intra_frame();
        }
        let time = Timestamp::from_millis(u64::try_from(ticks / 90).unwrap_or(0));
        let stream = self.encoder.encode_at(&slices(picture), time);
        let stream = stream.map_err(|error| format!("encoder: {error}"))?;
        let is_key = stream.frame_type() == FrameType::IDR;
        let annex_b = stream.to_vec();
        if annex_b.is_empty() {
            return Ok(None);
        }
        if is_key && self.format.is_none() {
            self.format = Some(Arc::new(format_of(&annex_b)?));
        }
        let format = self.format.as_ref().ok_or("encoder began without keyframe")?;
        let mut data = Vec::with_capacity(annex_b.len() + 16);
        for unit in nal::split_annex_b(&annex_b) {
            nal::push_length_prefixed(&mut data, unit);
        }
        Ok(Some(Encoded { format: Arc::clone(format), is_key, data }))
    }
}

fn slices(picture: &Picture) -> YUVSlices<'_> {
    let (width, height) = (picture.width, picture.height);
    let planes = (&picture.y[..], &picture.u[..], &picture.v[..]);
    YUVSlices::new(planes, (width, height), (width, width / 2, width / 2))
}

/// From the parameter sets in front of the first keyframe.
fn format_of(annex_b: &[u8]) -> Result<VideoFormat, String> {
    let find = |kind| nal::split_annex_b(annex_b).find(|unit| h264::nal_type(unit) == kind);
    match (find(h264::NAL_SPS), find(h264::NAL_PPS)) {
        (Some(sps), Some(pps)) => h264::video_format(sps, pps),
        _ => Err("encoder gave no parameter sets".to_owned()),
    }
}

/// What jobs on a codec thread work with, one after the other. A job that finds the pool full is dropped with all
/// that it owns, so it is only taken by a job that runs. Locked to take and to put back.
pub struct Lent<T>(Arc<Mutex<Option<Box<T>>>>);

impl<T> Default for Lent<T> {
    fn default() -> Self {
        Self(Arc::default())
    }
}

impl<T: Send + 'static> Lent<T> {
    /// Runs `job` with what `open` makes at the first time. `None`: the pool was full.
    pub async fn run<R: Send + 'static>(
        &self,
        pool: &Pool,
        open: impl FnOnce() -> Result<T, String> + Send + 'static,
        job: impl FnOnce(&mut T) -> Result<R, String> + Send + 'static,
    ) -> Result<Option<R>, IngestError> {
        let shelf = Arc::clone(&self.0);
        let job = move || {
            let kept = shelf.lock().unwrap_or_else(PoisonError::into_inner).take();
            let mut tool = match kept {
                Some(tool) => tool,
                None => Box::new(open()?),
            };
            let result = job(&mut tool)?;
            *shelf.lock().unwrap_or_else(PoisonError::into_inner) = Some(tool);
            Ok(result)
        };
        let broken = |what: String| IngestError::Connection { what };
        match pool.run(job).await {
            Ok(result) => result.map(Some).map_err(broken),
            Err(PoolError::Full) => Ok(None),
            Err(PoolError::Panicked) => Err(broken("the encoder panicked, see the log".to_owned())),
        }
    }
}
