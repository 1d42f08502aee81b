//! The decoders and the encoder of pictures: openh264, zune-jpeg and jpeg-encoder, and nothing of them leaks.
//!
//! In here: jobs for a codec thread, which know neither streams nor viewers. Not in here: planes and sizes
//! (`picture_core.rs`). openh264 is told to be silent; what it says to an access unit is a [`DecodeError`].

use std::sync::Arc;

use jpeg_encoder::{Encoder, ImageBuffer, JpegColorType, SamplingFactor};
use openh264::decoder::Decoder;
use openh264::formats::YUVSource;
use zune_jpeg::JpegDecoder;
use zune_jpeg::zune_core::bytestream::ZCursor;
use zune_jpeg::zune_core::colorspace::ColorSpace;
use zune_jpeg::zune_core::options::DecoderOptions;

use super::picture_core::{self, PIXELS_MAX, Picture, Plane};
use crate::media::format::{VideoCodec, VideoFormat};
use crate::media::packet::Packet;

/// Small letters of a test pattern stay clean, and 1080p takes 200 to 500 kB.
const QUALITY: u8 = 80;

/// A picture as JPEG, shared by all who want it at this width.
pub type Jpeg = Arc<[u8]>;

/// A width that is asked for; `None` is the stream's own.
pub type Width = Option<u16>;

/// Why an access unit gave no picture. Decoding goes on at the next keyframe.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DecodeError {
    pub what: String,
    /// It was a keyframe, so nothing that was lost before can be the reason.
    pub is_key: bool,
}

/// A picture of a stream in the widths that were asked for.
#[derive(Clone, Debug)]
pub struct Shot {
    /// Capture time and place in the stream of the packet that shows it.
    pub wall_ms: i64,
    pub pts: i64,
    pub jpegs: Vec<(Width, Jpeg)>,
}

/// Decodes one stream, keyframe by keyframe and what follows each.
pub struct VideoDecoder {
    format: Arc<VideoFormat>,
    /// `None` for MJPEG, whose pictures stand alone.
    h264: Option<Decoder>,
    is_full_range: bool,
}

impl VideoDecoder {
    /// A decoder for `format`, of which `why_undecodable` has nothing to say.
    pub fn open(format: &Arc<VideoFormat>) -> Result<Self, DecodeError> {
        let h264 = match format.codec {
            VideoCodec::H264 => Some(Decoder::new().map_err(|error| broken(&error, true))?),
            _ => None,
        };
        let is_full_range = picture_core::is_full_range(format);
        Ok(Self { format: Arc::clone(format), h264, is_full_range })
    }

    /// Whether it was opened for this format.
    pub fn is_for(&self, format: &Arc<VideoFormat>) -> bool {
        self.format == *format
    }

    /// Decodes `packets`, which follow on what was decoded before or begin with a keyframe, and makes a picture
    /// of the one that is shown last. `None` if the decoder keeps that to itself.
    pub fn shoot(
        &mut self,
        packets: &[Arc<Packet>],
        widths: &[Width],
    ) -> Result<Option<Shot>, DecodeError> {
        // B-frames come after a picture that is shown after them.
        let shown = packets.iter().enumerate().max_by_key(|(_, packet)| packet.pts);
        let Some((shown, last)) = shown else { return Ok(None) };
        let mut jpegs = None;
        if self.h264.is_none() {
            jpegs = Some(from_jpeg(&last.data, widths)?);
        }
        if let Some(decoder) = &mut self.h264 {
            for (n, packet) in packets.iter().enumerate() {
                if n != shown && picture_core::is_disposable(&packet.data) {
                    continue;
                }
                let is_key = packet.is_key;
                let data = picture_core::encode_annex_b(&self.format, &packet.data, is_key);
                let decoded = decoder.decode(&data).map_err(|error| broken(&error, is_key))?;
                match decoded {
                    Some(yuv) if n == shown => {
                        jpegs = Some(from_yuv(&yuv, self.is_full_range, widths, is_key)?);
                    }
                    // With its pictures given out one by one, a decoder that gives none has found none.
                    None if is_key => return Err(broken(&"no picture in a keyframe", true)),
                    _ => {}
                }
            }
        }
        Ok(jpegs.map(|jpegs| Shot { wall_ms: last.wall_ms, pts: last.pts, jpegs }))
    }
}

fn broken(what: &dyn std::fmt::Display, is_key: bool) -> DecodeError {
    DecodeError { what: format!("decoder: {what}"), is_key }
}

fn from_yuv(
    yuv: &impl YUVSource,
    is_full_range: bool,
    widths: &[Width],
    is_key: bool,
) -> Result<Vec<(Width, Jpeg)>, DecodeError> {
    let (width, height) = yuv.dimensions();
    let strides = yuv.strides();
    let plane = |data, stride, (width, height)| Plane { data, width, height, stride, step: 1 };
    let chroma = (width.div_ceil(2), height.div_ceil(2));
    let planes = [
        plane(yuv.y(), strides.0, (width, height)),
        plane(yuv.u(), strides.1, chroma),
        plane(yuv.v(), strides.2, chroma),
    ];
    encode_all(&planes, is_full_range, widths).map_err(|what| broken(&what, is_key))
}

/// A camera's JPEG: as it is, or smaller.
fn from_jpeg(data: &[u8], widths: &[Width]) -> Result<Vec<(Width, Jpeg)>, DecodeError> {
    if widths == [None] {
        return Ok(vec![(None, Jpeg::from(data))]);
    }
    let broken = |what: &dyn std::fmt::Display| broken(what, true);
    let options = DecoderOptions::default().jpeg_set_out_colorspace(ColorSpace::YCbCr);
    let mut decoder = JpegDecoder::new_with_options(ZCursor::new(data), options);
    decoder.decode_headers().map_err(|error| broken(&error))?;
    let (width, height) = decoder.dimensions().ok_or_else(|| broken(&"no size"))?;
    if width * height > PIXELS_MAX as usize {
        return Err(broken(&format!("{width}x{height} is too large")));
    }
    // The camera's own picture is never better than the camera's own JPEG of it.
    let is_smaller = |wanted: &&Width| wanted.is_some_and(|wanted| usize::from(wanted) < width);
    let (smaller, same): (Vec<_>, Vec<_>) = widths.iter().partition(is_smaller);
    let mut jpegs: Vec<(Width, Jpeg)> = Vec::with_capacity(widths.len());
    if !same.is_empty() {
        let whole = Jpeg::from(data);
        jpegs.extend(same.into_iter().map(|wanted: Width| (wanted, Arc::clone(&whole))));
    }
    if !smaller.is_empty() {
        let samples = decoder.decode().map_err(|error| broken(&error))?;
        if decoder.output_colorspace() != Some(ColorSpace::YCbCr) {
            return Err(broken(&"a picture without the three planes of YCbCr"));
        }
        let plane = |n: usize| Plane {
            data: samples.get(n..).unwrap_or(&[]),
            width,
            height,
            stride: width * 3,
            step: 3,
        };
        let planes = [plane(0), plane(1), plane(2)];
        jpegs.extend(encode_all(&planes, true, &smaller).map_err(|what| broken(&what))?);
    }
    Ok(jpegs)
}

fn encode_all(
    planes: &[Plane<'_>; 3],
    is_full_range: bool,
    widths: &[Width],
) -> Result<Vec<(Width, Jpeg)>, String> {
    let encode = |&wanted: &Width| {
        let size = picture_core::scaled_size((planes[0].width, planes[0].height), wanted);
        let mut picture = Picture::shrink(planes, size).ok_or("planes that are too short")?;
        if !is_full_range {
            picture.widen_range();
        }
        Ok((wanted, encode(&picture)?))
    };
    widths.iter().map(encode).collect()
}

fn encode(picture: &Picture) -> Result<Jpeg, String> {
    let mut out = Vec::with_capacity(picture.y.len() / 4);
    let mut encoder = Encoder::new(&mut out, QUALITY);
    encoder.set_sampling_factor(SamplingFactor::F_2_2);
    encoder.encode_image(Rows(picture)).map_err(|error| error.to_string())?;
    Ok(Jpeg::from(out))
}

/// Gives each chroma sample four times; of each four the encoder keeps one (its method is "nearest").
struct Rows<'a>(&'a Picture);

impl ImageBuffer for Rows<'_> {
    fn get_jpeg_color_type(&self) -> JpegColorType {
        JpegColorType::Ycbcr
    }

    fn width(&self) -> u16 {
        self.0.width as u16 // at most 8192
    }

    fn height(&self) -> u16 {
        self.0.height as u16
    }

    fn fill_buffers(&self, y: u16, buffers: &mut [Vec<u8>; 4]) {
        let (width, y) = (self.0.width, usize::from(y));
        let chroma_width = width.div_ceil(2);
        let [luma, cb, cr, _] = buffers;
        luma.extend_from_slice(&self.0.y[y * width..(y + 1) * width]);
        let start = y / 2 * chroma_width;
        for (out, plane) in [(cb, &self.0.cb), (cr, &self.0.cr)] {
            let len = out.len() + width;
            out.extend(plane[start..start + chroma_width].iter().flat_map(|&sample| [sample; 2]));
            out.truncate(len);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ingest::SourceEvent;
    use crate::ingest::pattern_core::read_code;
    use crate::ingest::testpattern::{PatternRequest, run};
    use crate::media::packet::{Run, Track};
    use crate::system::pool::Pool;

    /// The first packets of a test pattern.
    fn pattern(width: u16, height: u16, count: usize) -> Vec<Arc<Packet>> {
        let pool = Pool::start("codec-test", 1, 4).expect("threads");
        let request = PatternRequest { label: "test".to_owned(), width, height, fps: 30 };
        let (done, stop) = smol::channel::bounded(1);
        let mut packets = Vec::new();
        let mut sink = |event| {
            let SourceEvent::Unit(unit) = event else { return };
            packets.push(Arc::new(Packet {
                seq: packets.len() as u64,
                run: Arc::new(Run { id: 1, audio: None }),
                track: unit.track,
                pts: unit.pts,
                dts: unit.dts,
                is_key: unit.is_key,
                is_damaged: false,
                wall_ms: 1_741_514_400_000 + unit.pts / 90,
                data: unit.data,
            }));
            if packets.len() == count {
                let _ = done.try_send(());
            }
        };
        let stopped = async { stop.recv().await.unwrap_or(()) };
        smol::block_on(run(request, &pool, &mut sink, stopped)).expect("no error");
        packets
    }

    fn format(packet: &Packet) -> Arc<VideoFormat> {
        let Track::Video(format) = &packet.track else { panic!("audio") };
        Arc::clone(format)
    }

    /// Width, height and luma.
    fn luma(jpeg: &[u8]) -> (usize, usize, Vec<u8>) {
        let options = DecoderOptions::default().jpeg_set_out_colorspace(ColorSpace::Luma);
        let mut decoder = JpegDecoder::new_with_options(ZCursor::new(jpeg), options);
        let luma = decoder.decode().expect("a JPEG");
        let (width, height) = decoder.dimensions().expect("decoded");
        (width, height, luma)
    }

    #[track_caller]
    fn frame_of(jpeg: &[u8], size: (usize, usize)) -> u32 {
        let (width, height, luma) = luma(jpeg);
        assert_eq!((width, height), size);
        read_code(&luma, width, height, width).expect("a code").frame
    }

    #[test]
    fn the_last_picture_of_each_batch_comes_in_every_width() {
        // 322 and 242 are no multiples of 16: the decoder crops.
        let packets = pattern(322, 242, 6);
        let mut decoder = VideoDecoder::open(&format(&packets[0])).unwrap();
        let shot = decoder.shoot(&packets[..1], &[None]).unwrap().unwrap();
        let first = frame_of(&shot.jpegs[0].1, (322, 242));
        let shot = decoder.shoot(&packets[1..], &[None, Some(161), Some(5000)]).unwrap().unwrap();
        assert_eq!((shot.pts, shot.wall_ms), (packets[5].pts, packets[5].wall_ms));
        let frames: Vec<u32> = [(322, 242), (161, 121), (322, 242)]
            .iter()
            .zip(&shot.jpegs)
            .map(|(size, (_, jpeg))| frame_of(jpeg, *size))
            .collect();
        assert!(frames.iter().all(|frame| *frame == frames[0] && *frame >= first + 5));
        assert!(decoder.shoot(&[], &[None]).unwrap().is_none());
    }

    #[test]
    fn rubbish_and_a_start_without_keyframe_are_errors() {
        let packets = pattern(64, 64, 3);
        let mut decoder = VideoDecoder::open(&format(&packets[0])).unwrap();
        assert!(!decoder.shoot(&packets[1..2], &[None]).is_ok_and(|shot| shot.is_some()));
        let mut torn = Packet::clone(&packets[0]);
        let len = torn.data.len();
        torn.data.truncate(len / 2);
        torn.data[len / 3..].fill(0xA5);
        let torn = [Arc::new(torn)];
        let mut decoder = VideoDecoder::open(&format(&packets[0])).unwrap();
        let error = decoder.shoot(&torn, &[None]).unwrap_err();
        assert!(error.is_key, "{error:?}");
        // And a whole keyframe mends it.
        assert!(decoder.shoot(&packets[..1], &[None]).unwrap().is_some());
    }

    #[test]
    fn a_cameras_jpeg_is_passed_on_and_made_smaller() {
        let packets = pattern(640, 480, 1);
        let mut decoder = VideoDecoder::open(&format(&packets[0])).unwrap();
        let jpeg = decoder.shoot(&packets, &[None]).unwrap().unwrap().jpegs.remove(0).1;
        let frame = frame_of(&jpeg, (640, 480));
        let all = from_jpeg(&jpeg, &[None]).unwrap();
        assert_eq!(all, [(None, Arc::clone(&jpeg))]);
        let all = from_jpeg(&jpeg, &[None, Some(320), Some(640)]).unwrap();
        for (width, made) in all {
            match width {
                Some(320) => assert_eq!(frame_of(&made, (320, 240)), frame),
                _ => assert_eq!(made, jpeg, "{width:?}"),
            }
        }
        assert!(from_jpeg(&jpeg[..300], &[Some(16)]).is_err());
        assert!(from_jpeg(&[], &[Some(16)]).is_err());
    }
}
