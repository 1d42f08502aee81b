//! Sample entries of MP4: how a track is coded.
//!
//! In here: `avc1` and `hvc1` (ISO/IEC 14496-15), `mp4v` and `mp4a` (14496-14), `Opus` (the
//! encapsulation at opus-codec.org), `fLaC` (the encapsulation at xiph.org). Not in here: the rest
//! of `moov` (`fmp4.rs`).

use super::format::{AudioCodec, AudioFormat, VideoCodec, VideoFormat};
use super::mp4_box::{push_u16, push_u32, write_box, write_full_box};

/// `objectTypeIndication` (mp4ra.org): JPEG, and AAC of any object type.
const OBJECT_JPEG: u8 = 0x6C;
const OBJECT_AAC: u8 = 0x40;
/// `streamType` (ISO/IEC 14496-1 table 6): visual, audio.
const STREAM_VISUAL: u8 = 4;
const STREAM_AUDIO: u8 = 5;
/// `resolution` of a picture: 72 dots per inch, as every writer says.
const DPI_72: u32 = 72 << 16;

/// `VisualSampleEntry` (ISO/IEC 14496-12 section 12.1.3) with the decoder configuration.
pub fn write_video_entry(out: &mut Vec<u8>, video: &VideoFormat) {
    let (kind, config_kind) = match video.codec {
        VideoCodec::H264 => (b"avc1", b"avcC"),
        VideoCodec::H265 => (b"hvc1", b"hvcC"),
        VideoCodec::Mjpeg => (b"mp4v", b"esds"),
    };
    write_box(out, kind, |out| {
        write_entry_head(out);
        out.extend_from_slice(&[0; 16]);
        push_u16(out, video.width);
        push_u16(out, video.height);
        push_u32(out, DPI_72);
        push_u32(out, DPI_72);
        push_u32(out, 0);
        push_u16(out, 1); // frame_count
        out.extend_from_slice(&[0; 32]); // compressorname
        push_u16(out, 24); // depth: colour, no alpha
        push_u16(out, 0xFFFF);
        if video.codec == VideoCodec::Mjpeg {
            write_esds(out, OBJECT_JPEG, STREAM_VISUAL, &[]);
        } else {
            write_box(out, config_kind, |out| out.extend_from_slice(&video.decoder_config));
        }
    });
}

/// `AudioSampleEntry` (ISO/IEC 14496-12 section 12.2.3) with the decoder configuration.
pub fn write_audio_entry(out: &mut Vec<u8>, audio: &AudioFormat) {
    let kind = match audio.codec {
        AudioCodec::Aac => b"mp4a",
        AudioCodec::Opus => b"Opus",
        AudioCodec::Flac => b"fLaC",
    };
    write_box(out, kind, |out| {
        write_entry_head(out);
        out.extend_from_slice(&[0; 8]);
        push_u16(out, u16::from(audio.channels));
        push_u16(out, 16); // samplesize
        push_u32(out, 0);
        // 16.16: rates from 65536 on do not fit and are read from the configuration.
        push_u32(out, u16::try_from(audio.sample_rate).map_or(0, |rate| u32::from(rate) << 16));
        match audio.codec {
            AudioCodec::Aac => write_esds(out, OBJECT_AAC, STREAM_AUDIO, &audio.decoder_config),
            AudioCodec::Opus => write_opus_config(out, audio.channels),
            AudioCodec::Flac => write_full_box(out, b"dfLa", 0, 0, |out| {
                out.extend_from_slice(&[0x80, 0, 0, 34]); // last block, STREAMINFO, length
                out.extend_from_slice(&audio.decoder_config);
            }),
        }
    });
}

/// What all sample entries begin with.
fn write_entry_head(out: &mut Vec<u8>) {
    out.extend_from_slice(&[0; 6]);
    push_u16(out, 1); // data_reference_index
}

/// `dOps`, without pre-skip: the stream was running before the recording began.
fn write_opus_config(out: &mut Vec<u8>, channels: u8) {
    write_box(out, b"dOps", |out| {
        out.push(0); // version
        out.push(channels.clamp(1, 2)); // mapping family 0 has no more
        push_u16(out, 0); // PreSkip
        push_u32(out, 48_000); // InputSampleRate
        push_u16(out, 0); // OutputGain
        out.push(0); // ChannelMappingFamily
    });
}

/// `esds` with the descriptors of ISO/IEC 14496-1 section 7.2.6: ES 3, decoder config 4, specific
/// info 5, sync layer 6.
fn write_esds(out: &mut Vec<u8>, object: u8, stream: u8, specific: &[u8]) {
    let specific_len = if specific.is_empty() { 0 } else { 5 + specific.len() };
    write_full_box(out, b"esds", 0, 0, |out| {
        push_descriptor(out, 3, 3 + 5 + 13 + specific_len + 5 + 1);
        push_u16(out, 0); // ES_ID
        out.push(0);
        push_descriptor(out, 4, 13 + specific_len);
        out.push(object);
        out.push(stream << 2 | 1);
        out.extend_from_slice(&[0; 3]); // bufferSizeDB
        push_u32(out, 0); // maxBitrate
        push_u32(out, 0); // avgBitrate
        if !specific.is_empty() {
            push_descriptor(out, 5, specific.len());
            out.extend_from_slice(specific);
        }
        push_descriptor(out, 6, 1);
        out.push(2); // reserved for MP4
    });
}

/// Tag and length of a descriptor, the length in four groups of 7 bits.
fn push_descriptor(out: &mut Vec<u8>, tag: u8, len: usize) {
    out.push(tag);
    for shift in [21, 14, 7] {
        out.push(0x80 | (len >> shift & 0x7F) as u8);
    }
    out.push((len & 0x7F) as u8);
}
