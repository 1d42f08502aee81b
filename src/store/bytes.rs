//! Records of the store as bytes: a version byte, then fields in a fixed order, little-endian.
//!
//! A later version appends fields; an older record then lacks them and takes their defaults. A record
//! with a higher version is read as far as this program knows it, so that a store can go back one version.

use crate::config::stream::StreamConfig;
use crate::config::transport::Transport;
use crate::ledger::clock_core::Redate;
use crate::media::format::VideoCodec;

use super::row::{RecordingRow, StorageRow};

const STREAM_VERSION: u8 = 1;
const RECORDING_VERSION: u8 = 1;
const GARBAGE_VERSION: u8 = 1;
const STORAGE_VERSION: u8 = 1;
const REDATE_VERSION: u8 = 1;

/// Appends fields.
pub struct Writer(Vec<u8>);

impl Writer {
    pub fn new(version: u8) -> Self {
        Self(vec![version])
    }

    pub fn u8(mut self, value: u8) -> Self {
        self.0.push(value);
        self
    }

    pub fn u64(mut self, value: u64) -> Self {
        self.0.extend_from_slice(&value.to_le_bytes());
        self
    }

    pub fn i64(mut self, value: i64) -> Self {
        self.0.extend_from_slice(&value.to_le_bytes());
        self
    }

    /// Texts are shorter than 64 KiB by the rules of `config/`; anything longer is cut at that.
    pub fn text(mut self, value: &str) -> Self {
        let len = u16::try_from(value.len()).unwrap_or(u16::MAX);
        self.0.extend_from_slice(&len.to_le_bytes());
        self.0.extend_from_slice(&value.as_bytes()[..usize::from(len)]);
        self
    }

    /// A number that may be absent.
    pub fn option(self, value: Option<u64>) -> Self {
        self.u8(u8::from(value.is_some())).u64(value.unwrap_or(0))
    }

    pub fn done(self) -> Vec<u8> {
        self.0
    }
}

/// Takes fields; `None` as soon as one is not there.
pub struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    /// Version 0 was never written.
    pub fn new(record: &'a [u8]) -> Option<Self> {
        let (&version, rest) = record.split_first()?;
        (version >= 1).then_some(Self(rest))
    }

    fn take<const N: usize>(&mut self) -> Option<[u8; N]> {
        let (head, rest) = self.0.split_first_chunk::<N>()?;
        self.0 = rest;
        Some(*head)
    }

    pub fn u8(&mut self) -> Option<u8> {
        self.take::<1>().map(|[byte]| byte)
    }

    pub fn u64(&mut self) -> Option<u64> {
        self.take().map(u64::from_le_bytes)
    }

    pub fn i64(&mut self) -> Option<i64> {
        self.take().map(i64::from_le_bytes)
    }

    /// A number that may be absent; so it is in a record from before there was such a field.
    pub fn option(&mut self) -> Option<u64> {
        let (is_there, value) = (self.u8()?, self.u64()?);
        (is_there != 0).then_some(value)
    }

    pub fn text(&mut self) -> Option<String> {
        let len = usize::from(u16::from_le_bytes(self.take()?));
        let (head, rest) = self.0.split_at_checked(len)?;
        self.0 = rest;
        String::from_utf8(head.to_vec()).ok()
    }
}

/// A bare counter.
pub fn read_u64(record: &[u8]) -> Option<u64> {
    record.try_into().ok().map(u64::from_le_bytes)
}

fn codec_number(codec: VideoCodec) -> u8 {
    match codec {
        VideoCodec::H264 => 0,
        VideoCodec::H265 => 1,
        VideoCodec::Mjpeg => 2,
    }
}

fn codec_of(number: u8) -> Option<VideoCodec> {
    [VideoCodec::H264, VideoCodec::H265, VideoCodec::Mjpeg].get(usize::from(number)).copied()
}

pub fn encode_stream(config: &StreamConfig) -> Vec<u8> {
    Writer::new(STREAM_VERSION)
        .text(&config.name)
        .text(&config.url)
        .u8(u8::from(config.enabled))
        .u64(config.width.into())
        .u64(config.height.into())
        .u64(config.fps.into())
        .u8(codec_number(config.codec))
        .u8(config.priority)
        .u8(u8::from(config.record))
        .option(config.retention_days.map(u64::from))
        .option(config.max_storage_size)
        .text(config.sub_url.as_deref().unwrap_or_default())
        .u8(config.transport.number())
        .done()
}

pub fn decode_stream(id: u32, record: &[u8]) -> Option<StreamConfig> {
    let mut fields = Reader::new(record)?;
    Some(StreamConfig {
        id,
        name: fields.text()?,
        url: fields.text()?,
        enabled: fields.u8()? != 0,
        width: fields.u64()?.try_into().ok()?,
        height: fields.u64()?.try_into().ok()?,
        fps: fields.u64()?.try_into().ok()?,
        codec: codec_of(fields.u8()?)?,
        priority: fields.u8()?,
        record: fields.u8()? != 0,
        retention_days: fields.option().and_then(|days| days.try_into().ok()),
        max_storage_size: fields.option(),
        sub_url: fields.text().filter(|url| !url.is_empty()),
        transport: Transport::of_number(fields.u8().unwrap_or(0)),
    })
}

pub fn encode_recording(row: &RecordingRow) -> Vec<u8> {
    Writer::new(RECORDING_VERSION)
        .u64(row.stream_id.into())
        .text(&row.stream_name)
        .i64(row.start_ms)
        .i64(row.end_ms)
        .u64(row.size)
        .text(&row.path)
        .u8(u8::from(row.in_progress))
        .u8(u8::from(row.is_protected))
        .u64(row.boot)
        .done()
}

pub fn decode_recording(id: u64, record: &[u8]) -> Option<RecordingRow> {
    let mut fields = Reader::new(record)?;
    Some(RecordingRow {
        id,
        stream_id: fields.u64()?.try_into().ok()?,
        stream_name: fields.text()?,
        start_ms: fields.i64()?,
        end_ms: fields.i64()?,
        size: fields.u64()?,
        path: fields.text()?,
        in_progress: fields.u8()? != 0,
        is_protected: fields.u8().is_some_and(|flag| flag != 0),
        boot: fields.u64().unwrap_or(0),
    })
}

pub fn encode_garbage(path: &str) -> Vec<u8> {
    Writer::new(GARBAGE_VERSION).text(path).done()
}

pub fn decode_garbage(record: &[u8]) -> Option<String> {
    Reader::new(record)?.text()
}

pub fn encode_storage(row: &StorageRow) -> Vec<u8> {
    Writer::new(STORAGE_VERSION).text(&row.uuid).u8(u8::from(row.is_marked)).done()
}

pub fn decode_storage(record: &[u8]) -> Option<StorageRow> {
    let mut fields = Reader::new(record)?;
    Some(StorageRow { uuid: fields.text()?, is_marked: fields.u8()? != 0 })
}

pub fn encode_redate(redate: &Redate) -> Vec<u8> {
    let Redate { boot, from_ms, until_ms, by_ms } = *redate;
    Writer::new(REDATE_VERSION).u64(boot).i64(from_ms).i64(until_ms).i64(by_ms).done()
}

pub fn decode_redate(record: &[u8]) -> Option<Redate> {
    let mut fields = Reader::new(record)?;
    let (boot, from_ms) = (fields.u64()?, fields.i64()?);
    Some(Redate { boot, from_ms, until_ms: fields.i64()?, by_ms: fields.i64()? })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn arbitrary_records_never_panic(record in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ = decode_stream(1, &record);
            let _ = decode_recording(1, &record);
            let _ = read_u64(&record);
        }

        #[test]
        fn a_recording_comes_back_as_it_went_in(
            id in 1_u64.., stream_id in any::<u32>(), name in ".{0,64}", path in ".{0,200}",
            start_ms in any::<i64>(), end_ms in any::<i64>(), size in any::<u64>(), flags in (any::<bool>(), any::<bool>()),
            boot in any::<u64>(),
        ) {
            let row = RecordingRow {
                id, stream_id, stream_name: name, start_ms, end_ms, size, path,
                in_progress: flags.0, is_protected: flags.1, boot,
            };
            prop_assert_eq!(decode_recording(id, &encode_recording(&row)), Some(row));
        }
    }

    #[test]
    fn records_from_before_there_were_more_fields_are_read() {
        let row = RecordingRow {
            id: 3,
            stream_id: 1,
            stream_name: "Tor".into(),
            start_ms: 5,
            end_ms: 6,
            size: 7,
            path: "/x".into(),
            in_progress: true,
            is_protected: false,
            boot: 0,
        };
        let record = encode_recording(&row);
        assert_eq!(decode_recording(3, &record[..record.len() - 9]), Some(row));
        let config = StreamConfig {
            id: 1,
            name: "Tor".into(),
            url: "testpattern://".into(),
            enabled: true,
            width: 0,
            height: 0,
            fps: 0,
            codec: VideoCodec::H264,
            priority: 5,
            record: true,
            retention_days: None,
            max_storage_size: None,
            sub_url: None,
            transport: Transport::Auto,
        };
        let record = encode_stream(&config);
        assert_eq!(decode_stream(1, &record[..record.len() - 21]), Some(config.clone()));
        let more = StreamConfig { retention_days: Some(0), max_storage_size: Some(9), ..config };
        let record = encode_stream(&more);
        assert_eq!(decode_stream(1, &record[..record.len() - 3]), Some(more.clone()));
        let more = StreamConfig {
            sub_url: Some("rtsp://cam/2".into()),
            transport: Transport::Udp,
            ..more
        };
        assert_eq!(decode_stream(1, &encode_stream(&more)), Some(more));
    }

    #[test]
    fn a_record_of_a_later_version_with_more_fields_is_read() {
        let row = RecordingRow {
            id: 3,
            stream_id: 1,
            stream_name: "Tor".into(),
            start_ms: 5,
            end_ms: 6,
            size: 7,
            path: "/x".into(),
            in_progress: false,
            is_protected: false,
            boot: 0,
        };
        let mut record = encode_recording(&row);
        record[0] = 9;
        record.extend_from_slice(b"later fields");
        assert_eq!(decode_recording(3, &record), Some(row));
    }
}
