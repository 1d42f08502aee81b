//! Recordings put together: the head of an export, and fragments moved on its time axis.
//!
//! In here: what of a recording's head must agree for one MP4 to hold both (the sample descriptions), that
//! MP4's own head, and new times and numbers in a `moof`, in place. Not in here: which recordings, and
//! reading them (`record/export.rs`). Damage ends in `None`, never in a panic. Keeps PURE-CORE.

use super::fmp4::{AUDIO_TRACK_ID, RecordingTag, VIDEO_TRACK_ID};
use super::format::VIDEO_TIMESCALE;
use super::mp4_box::{BoxHead, Cursor, boxes, push_u64, write_box, write_full_box};

/// What an export needs of a recording's head.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct JoinHead {
    pub tag: RecordingTag,
    /// The boxes of `moov` that an export takes over: all but `mvex` and the tag.
    movie: Vec<u8>,
    /// `trex` boxes of `mvex`.
    extends: Vec<u8>,
    /// `stsd` of the video.
    video: Vec<u8>,
    /// Samples per second and `stsd` of the sound.
    audio: Option<(u32, Vec<u8>)>,
    /// Width and height of the pictures.
    pub size: (u16, u16),
    /// Offset behind `moov` and the room for the index: the first fragment.
    pub media_at: u64,
}

/// How two recordings differ so that one MP4 can't hold both.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Difference {
    Picture,
    Sound,
}

impl JoinHead {
    /// Parses the begin of a recording. `None`: not whole, or no recording of ours.
    pub fn parse(bytes: &[u8]) -> Option<Self> {
        let file_type = BoxHead::parse(bytes)?;
        let movie_at = usize::try_from(file_type.size).ok()?;
        let head = BoxHead::parse(bytes.get(movie_at..)?)?;
        let end = movie_at.checked_add(usize::try_from(head.size).ok()?)?;
        if file_type.kind != *b"ftyp" || head.kind != *b"moov" {
            return None;
        }
        let body = bytes.get(movie_at + head.head_len as usize..end)?;
        let (mut tag, mut movie, mut extends) = (None, Vec::new(), Vec::new());
        let (mut video, mut audio) = (None, None);
        for (kind, at, child) in boxes(body) {
            let whole = &body[at - 8..at + child.len()]; // boxes in `moov` are small
            match &kind {
                b"uuid" => tag = RecordingTag::parse(child).or(tag),
                b"mvex" => {
                    for (_, at, extend) in boxes(child).filter(|(kind, ..)| kind == b"trex") {
                        extends.extend_from_slice(&child[at - 8..at + extend.len()]);
                    }
                }
                b"trak" => {
                    let (handler, timescale, description) = parse_track(child)?;
                    match &handler {
                        b"vide" => video = Some(description),
                        b"soun" => audio = Some((timescale, description)),
                        _ => return None,
                    }
                    movie.extend_from_slice(whole);
                }
                _ => movie.extend_from_slice(whole),
            }
        }
        let (tag, slots) = tag?;
        let video = video?;
        let room = super::fmp4_index::index_bytes(slots);
        let size = picture_size(&video)?;
        Some(Self { tag, movie, extends, video, audio, size, media_at: (end + room) as u64 })
    }

    /// Whether it has sound.
    pub fn has_audio(&self) -> bool {
        self.audio.is_some()
    }

    /// Samples per second of the sound.
    pub fn sample_rate(&self) -> Option<u32> {
        self.audio.as_ref().map(|(rate, _)| *rate)
    }

    /// Why `other` can't go into the same MP4; one without sound always may.
    pub fn difference(&self, other: &Self) -> Option<Difference> {
        if self.video != other.video {
            return Some(Difference::Picture);
        }
        let differs = |own: &(u32, Vec<u8>)| other.audio.as_ref().is_some_and(|audio| audio != own);
        self.audio.as_ref().is_some_and(differs).then_some(Difference::Sound)
    }

    /// The head of an export of `duration` ticks (90 kHz).
    pub fn encode(&self, duration: u64) -> Vec<u8> {
        let mut out = Vec::with_capacity(self.movie.len() + 256);
        write_box(&mut out, b"ftyp", |out| {
            out.extend_from_slice(b"iso6\0\0\0\0iso6iso5mp41");
        });
        write_box(&mut out, b"moov", |out| {
            let header = BoxHead::parse(&self.movie).map_or(0, |head| head.size as usize);
            let (header, tracks) = self.movie.split_at(header.min(self.movie.len()));
            out.extend_from_slice(header);
            write_box(out, b"mvex", |out| {
                write_full_box(out, b"mehd", 1, 0, |out| push_u64(out, duration));
                out.extend_from_slice(&self.extends);
            });
            out.extend_from_slice(tracks);
        });
        out
    }
}

/// Handler, timescale and the whole `stsd` of a `trak`.
fn parse_track(body: &[u8]) -> Option<([u8; 4], u32, Vec<u8>)> {
    let media = child(body, b"mdia")?;
    let mut header = Cursor::new(child(media, b"mdhd")?);
    let times = if header.u32()? >> 24 == 0 { 8 } else { 16 };
    header.take(times)?;
    let timescale = header.u32().filter(|scale| *scale > 0)?;
    let handler = *child(media, b"hdlr")?.get(8..12)?.first_chunk()?;
    let table = child(child(media, b"minf")?, b"stbl")?;
    Some((handler, timescale, child(table, b"stsd")?.to_vec()))
}

fn child<'a>(body: &'a [u8], kind: &[u8; 4]) -> Option<&'a [u8]> {
    boxes(body).find(|(found, ..)| found == kind).map(|(_, _, child)| child)
}

/// Of the first `VisualSampleEntry` (ISO/IEC 14496-12 section 12.1.3).
fn picture_size(description: &[u8]) -> Option<(u16, u16)> {
    let mut cursor = Cursor::new(description);
    cursor.take(8 + 8 + 8 + 16)?;
    Some((cursor.u16()?, cursor.u16()?))
}

/// A time that one track of a fragment has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TrackTime {
    pub track_id: u32,
    /// Offset of the 64-bit decoding time in the `moof`.
    at: usize,
    pub base_dts: u64,
}

/// The times in a `moof`, of one or two tracks; `None` where it is not as a recorder writes it.
pub fn track_times(moof: &[u8]) -> Option<Vec<TrackTime>> {
    let head = BoxHead::parse(moof).filter(|head| head.kind == *b"moof")?;
    let body_at = head.head_len as usize;
    let body = moof.get(body_at..)?;
    let mut times = Vec::with_capacity(2);
    for (_, at, traf) in boxes(body).filter(|(kind, ..)| kind == b"traf") {
        let track_id = Cursor::new(child(traf, b"tfhd")?.get(4..)?).u32()?;
        let (_, time_at, time) = boxes(traf).find(|(kind, ..)| kind == b"tfdt")?;
        let mut cursor = Cursor::new(time);
        let base_dts = (cursor.u32()? == 1 << 24).then(|| cursor.u64())??;
        times.push(TrackTime { track_id, at: body_at + at + time_at + 4, base_dts });
    }
    (1..=2).contains(&times.len()).then_some(times)
}

/// Gives the fragment the number `sequence` and moves it by `shift` ticks of 90 kHz, the sound by as much in
/// samples of `sample_rate`. A time before zero becomes zero.
pub fn move_fragment(
    moof: &mut [u8],
    times: &[TrackTime],
    sequence: u32,
    shift: i64,
    sample_rate: u32,
) {
    // `mfhd` is the first box of a `moof` (section 8.8.5): number behind two heads and the version.
    if moof.get(12..16) == Some(b"mfhd")
        && let Some(number) = moof.get_mut(20..24)
    {
        number.copy_from_slice(&sequence.to_be_bytes());
    }
    for time in times {
        let shift =
            if time.track_id == AUDIO_TRACK_ID { to_samples(shift, sample_rate) } else { shift };
        let base = time.base_dts.saturating_add_signed(shift);
        if let Some(place) = moof.get_mut(time.at..time.at + 8) {
            place.copy_from_slice(&base.to_be_bytes());
        }
    }
}

/// Ticks of 90 kHz as samples, to the nearest.
pub fn to_samples(ticks: i64, sample_rate: u32) -> i64 {
    let scale = i128::from(VIDEO_TIMESCALE);
    let doubled = i128::from(ticks) * i128::from(sample_rate) * 2 + scale;
    doubled.div_euclid(2 * scale) as i64 // a time of a file in samples fits
}

/// When the fragment begins: the earlier of picture and sound, in ticks of 90 kHz.
pub fn earliest_ticks(times: &[TrackTime], sample_rate: u32) -> u64 {
    let ticks = |time: &TrackTime| match time.track_id {
        VIDEO_TRACK_ID => time.base_dts,
        _ => {
            let scaled = u128::from(time.base_dts) * u128::from(VIDEO_TIMESCALE);
            (scaled / u128::from(sample_rate.max(1))) as u64
        }
    };
    times.iter().map(ticks).min().unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::media::fmp4::{SampleInfo, TrackFragment, encode_fragment_head, encode_init};
    use crate::media::fmp4_moof::parse_moof;
    use crate::media::format::{AudioCodec, AudioFormat, VideoCodec, VideoFormat};

    fn video(width: u16) -> VideoFormat {
        VideoFormat {
            codec: VideoCodec::H264,
            width,
            height: 480,
            fps_milli: 0,
            decoder_config: vec![1, 2, 3],
            rfc6381: "avc1.640028".into(),
            reorder_frames: None,
        }
    }

    fn audio(sample_rate: u32) -> AudioFormat {
        AudioFormat {
            codec: AudioCodec::Aac,
            source_codec: "aac",
            sample_rate,
            channels: 1,
            decoder_config: vec![0x14, 8],
            rfc6381: "mp4a.40.2".into(),
        }
    }

    fn head(width: u16, rate: Option<u32>) -> JoinHead {
        let tag = RecordingTag { stream_id: 1, stream_name: "Hof".into(), start_ms: 7 };
        let init = encode_init(&video(width), rate.map(audio).as_ref(), &tag, 3);
        let head = JoinHead::parse(&init.bytes).expect("ours");
        assert_eq!(head.media_at, init.bytes.len() as u64);
        assert_eq!((head.tag.start_ms, head.size), (7, (width, 480)));
        head
    }

    #[test]
    fn what_differs_is_named() {
        let plain = head(640, None);
        assert_eq!(plain.difference(&head(640, Some(8000))), None);
        assert_eq!(head(640, Some(8000)).difference(&plain), None);
        assert_eq!(plain.difference(&head(320, None)), Some(Difference::Picture));
        let other = head(640, Some(16_000)).difference(&head(640, Some(8000)));
        assert_eq!(other, Some(Difference::Sound));
    }

    #[test]
    fn the_head_of_an_export_has_duration_and_tracks_and_no_tag() {
        let bytes = head(640, Some(8000)).encode(90_000 * 5);
        let kinds: Vec<[u8; 4]> = boxes(&bytes).map(|(kind, ..)| kind).collect();
        assert_eq!(kinds, [*b"ftyp", *b"moov"]);
        let movie = child(&bytes, b"moov").expect("there");
        let kinds: Vec<[u8; 4]> = boxes(movie).map(|(kind, ..)| kind).collect();
        assert_eq!(kinds, [*b"mvhd", *b"mvex", *b"trak", *b"trak"]);
        let extends = child(movie, b"mvex").expect("there");
        assert_eq!(child(extends, b"mehd"), Some(&[1, 0, 0, 0, 0, 0, 0, 0, 0, 6, 0xDD, 0xD0][..]));
        assert_eq!(boxes(extends).count(), 3);
        assert_eq!(JoinHead::parse(&bytes), None, "it is no recording");
    }

    #[test]
    fn a_fragment_moves_with_its_sound() {
        let sample = SampleInfo { size: 5, duration: 6000, cts_offset: 0, is_key: true };
        let tracks = [
            TrackFragment { track_id: VIDEO_TRACK_ID, base_dts: 90_000, samples: &[sample] },
            TrackFragment { track_id: AUDIO_TRACK_ID, base_dts: 7_500, samples: &[sample] },
        ];
        let mut bytes = encode_fragment_head(9, &tracks);
        let times = track_times(&bytes).expect("two tracks");
        assert_eq!(earliest_ticks(&times, 8000), 84_375);
        move_fragment(&mut bytes, &times, 3, -84_375, 8000);
        let moved = track_times(&bytes).expect("two tracks");
        assert_eq!((moved[0].base_dts, moved[1].base_dts), (5625, 0));
        let parsed = parse_moof(&bytes[8..]);
        assert_eq!((parsed.sequence, parsed.video.expect("video").base_dts), (3, 5625));
        assert_eq!((to_samples(45, 1000), to_samples(-46, 1000)), (1, -1));
    }

    proptest! {
        #[test]
        fn any_bytes_end_well(mut bytes in prop::collection::vec(any::<u8>(), 0..200), at in 0usize..3000, to: u8) {
            let _ = JoinHead::parse(&bytes);
            let _ = track_times(&bytes);
            let times = [TrackTime { track_id: 2, at: 180, base_dts: 5 }];
            move_fragment(&mut bytes, &times, 1, i64::MIN, u32::MAX);
            let tag = RecordingTag { stream_id: 1, stream_name: "Hof".into(), start_ms: 7 };
            let mut near = encode_init(&video(640), Some(&audio(8000)), &tag, 3).bytes;
            let len = near.len();
            near[at % len] = to;
            if let Some(head) = JoinHead::parse(&near) {
                let _ = head.encode(1);
            }
        }
    }
}
