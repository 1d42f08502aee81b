//! What a track is made of: codec and decoder configuration, as recorder and live view need it.

/// Timescale of every video track, ticks per second (RFC 6184 section 5.1 fixes the RTP rate).
pub const VIDEO_TIMESCALE: u32 = 90_000;

/// The codec of a video track.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum VideoCodec {
    H264,
    H265,
    Mjpeg,
}

impl VideoCodec {
    /// The name that the API uses: `h264`, `h265`, `mjpeg`.
    pub fn name(self) -> &'static str {
        match self {
            Self::H264 => "h264",
            Self::H265 => "h265",
            Self::Mjpeg => "mjpeg",
        }
    }
}

/// Decoder configuration of a video track. Two values that are equal decode alike.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VideoFormat {
    pub codec: VideoCodec,
    /// Picture size in luma samples after cropping.
    pub width: u16,
    pub height: u16,
    /// Frames per second times 1000 as the parameter sets declare it, 0 when they don't.
    pub fps_milli: u32,
    /// Body of the `avcC` or `hvcC` box (ISO/IEC 14496-15), empty for MJPEG.
    pub decoder_config: Vec<u8>,
    /// `codecs` parameter of RFC 6381, such as `avc1.640028`.
    pub rfc6381: String,
    /// How many frames the decoder holds back to put B-frames in order, as far as the parameter sets
    /// say so; `None` where they are silent.
    pub reorder_frames: Option<u8>,
}

#[cfg(test)]
impl VideoFormat {
    /// A format of a test, of which nothing else matters.
    pub fn sample(codec: VideoCodec, width: u16, height: u16) -> Self {
        Self {
            codec,
            width,
            height,
            fps_milli: 0,
            decoder_config: Vec::new(),
            rfc6381: String::new(),
            reorder_frames: None,
        }
    }
}

/// The codec of an audio track as it is stored. G.711 arrives here as FLAC: browsers don't play G.711
/// in MP4, and FLAC gives the samples back bit by bit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AudioCodec {
    Aac,
    Opus,
    Flac,
}

/// Decoder configuration of an audio track.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AudioFormat {
    pub codec: AudioCodec,
    /// What the source sends, as the API names it: `aac`, `opus`, `pcma`, `pcmu`.
    pub source_codec: &'static str,
    /// Samples per second, and the timescale of the track (Opus: always 48000).
    pub sample_rate: u32,
    pub channels: u8,
    /// AAC: AudioSpecificConfig (ISO/IEC 14496-3); FLAC: the 34 bytes of STREAMINFO; Opus: empty.
    pub decoder_config: Vec<u8>,
    /// `codecs` parameter of RFC 6381: `mp4a.40.2`, `opus`, `flac`.
    pub rfc6381: String,
}
