//! Reading back: whole files, torn ones, hostile ones.

use super::*;
use crate::media::fmp4::{
    SampleInfo, TrackFragment, VIDEO_TRACK_ID, dating_patches, encode_fragment_head, encode_index,
    encode_init, index_bytes,
};
use crate::media::media_clip::{Clip, Recording, encode_clip, package, probe_packets, tag};
use crate::media::media_tool::{TempDir, run, run_text};
use proptest::prelude::*;

/// Scans a file in memory; returns also how many reads it took.
fn scan_counted(file: &[u8]) -> (Result<Scan, ScanError>, usize) {
    let mut scanner = Scanner::new(file.len() as u64);
    for reads in 0.. {
        assert!(reads <= file.len() / 8 + 3, "the walk ends");
        match scanner.next() {
            Want::Done(result) => return (result, reads),
            Want::Read { at, len } => {
                assert!((1..=READ_BYTES_MAX).contains(&len), "{len} bytes");
                assert!(at + len as u64 <= file.len() as u64, "inside the file");
                scanner.feed(&file[at as usize..][..len]);
            }
        }
    }
    unreachable!("the loop has no end of its own")
}

fn scan(file: &[u8]) -> Result<Scan, ScanError> {
    scan_counted(file).0
}

fn record(dir: &TempDir, seconds: u32) -> (Clip, Recording) {
    let codec = ["-c:v", "libx264", "-preset", "fast", "-crf", "45", "-g", "15", "-bf", "2"];
    let clip = encode_clip(dir, seconds, &codec);
    let recording = package(&clip, None, 10, 30);
    (clip, recording)
}

/// Where the fragments of a recording end, the end of the head first.
fn fragment_ends(recording: &Recording) -> Vec<u64> {
    let head = recording.init.bytes.len() as u64;
    let ends = recording.entries.iter().scan(head, |end, entry| {
        *end += u64::from(entry.bytes);
        Some(*end)
    });
    std::iter::once(head).chain(ends).collect()
}

#[test]
fn unfinished_recording_is_read_back() {
    let dir = TempDir::new();
    let (_, recording) = record(&dir, 4);
    let found = scan(&recording.bytes).unwrap();
    let want = Scan {
        start_at: found.start_at,
        created_at: found.created_at.clone(),
        tag: Some(tag()),
        media_end: recording.bytes.len() as u64,
        duration_ticks: recording.duration(),
        earliest_pts: recording.samples.iter().map(|sample| sample.pts).min().unwrap() as u64,
        fragments: recording.entries.clone(),
        index_at: Some(recording.init.index_at),
        index_slots: 30,
        duration_at: Some(recording.init.duration_at),
        is_indexed: false,
        has_torn_tail: false,
        last_sequence: recording.entries.len() as u32,
    };
    assert_eq!(found, want);
}

#[test]
fn a_file_that_is_dated_anew_is_as_if_it_had_been_made_then() {
    let dir = TempDir::new();
    let (clip, recording) = record(&dir, 2);
    let start_ms = 86_400_000 * 365 * 56;
    let mut bytes = recording.bytes.clone();
    for (at, patch) in dating_patches(&scan(&bytes).unwrap(), start_ms) {
        bytes[at as usize..][..patch.len()].copy_from_slice(&patch);
    }
    let new_tag = RecordingTag { start_ms, ..tag() };
    let init = encode_init(&clip.format, None, &new_tag, 30);
    assert_eq!(bytes[..init.bytes.len()], init.bytes);
    assert_eq!(bytes[init.bytes.len()..], recording.bytes[init.bytes.len()..]);
}

#[test]
fn finished_recording_is_read_back_without_a_walk() {
    let dir = TempDir::new();
    let (_, recording) = record(&dir, 4);
    let (result, reads) = scan_counted(&recording.finished(12_000));
    let found = result.unwrap();
    assert!(found.is_indexed && !found.has_torn_tail);
    assert_eq!(found.duration_ticks, recording.duration());
    assert_eq!((found.earliest_pts, found.last_sequence), (12_000, 7));
    assert_eq!(found.fragments.len(), 4, "one per key");
    assert_eq!(found.media_end, recording.bytes.len() as u64);
    assert!(reads <= 6, "{reads} reads");
    // Patched again from what was found, the file stays as it is.
    let index = encode_index(&found.fragments, found.index_slots, found.earliest_pts);
    let at = found.index_at.unwrap() as usize;
    assert_eq!(recording.finished(12_000)[at..at + index.len()], index);
}

#[test]
fn file_cut_anywhere_is_cut_back_to_a_whole_fragment() {
    let dir = TempDir::new();
    let (_, recording) = record(&dir, 2);
    let ends = fragment_ends(&recording);
    let head = recording.init.bytes.len();
    let movie_end = recording.init.index_at as usize;
    let files = [&recording.bytes, &recording.finished(12_000)];
    for (file, len) in files.iter().flat_map(|file| (0..file.len()).map(move |len| (file, len))) {
        let result = scan(&file[..len]);
        if len < movie_end {
            assert_eq!(result, Err(ScanError::TornHead), "cut at {len}");
            continue;
        }
        let found = result.unwrap_or_else(|error| panic!("cut at {len}: {error:?}"));
        let whole = ends.iter().filter(|&&end| end <= len as u64).count();
        if len < head {
            assert_eq!(found.fragments, []);
            continue;
        }
        assert_eq!(found.media_end, ends[whole - 1], "cut at {len}");
        assert_eq!(found.fragments, recording.entries[..whole - 1], "cut at {len}");
        assert_eq!(found.has_torn_tail, found.media_end < len as u64);
        assert!(!found.is_indexed, "the index is for the whole file");
    }
}

#[test]
fn recovered_file_plays() {
    let dir = TempDir::new();
    let (_, recording) = record(&dir, 2);
    let ends = fragment_ends(&recording);
    for (end, whole) in ends[1..].iter().zip(1..) {
        let torn =
            &recording.finished(12_000)[..(end + 40).min(recording.bytes.len() as u64) as usize];
        let found = scan(torn).unwrap();
        let mut file = torn[..found.media_end as usize].to_vec();
        let index = encode_index(&found.fragments, found.index_slots, found.earliest_pts);
        let at = found.index_at.unwrap() as usize;
        file[at..at + index.len()].copy_from_slice(&index);
        let at = found.duration_at.unwrap() as usize;
        file[at..at + 8].copy_from_slice(&found.duration_ticks.to_be_bytes());
        let path = dir.write("recovered.mp4", &file);
        run("ffmpeg", &["-v", "error", "-xerror", "-i", &path, "-f", "null", "-"]);
        let packets = probe_packets(&path, "v");
        assert_eq!(packets, recording.samples[..packets.len()]);
        let units: u64 =
            recording.entries[..whole].iter().map(|entry| u64::from(entry.duration)).sum();
        assert_eq!(packets.len() as u64, units / 6000);
        let again = scan(&file).unwrap();
        assert!(again.is_indexed && again.duration_ticks == units);
    }
}

#[test]
fn torn_index_is_not_believed() {
    let dir = TempDir::new();
    let (_, recording) = record(&dir, 4);
    let finished = recording.finished(12_000);
    let from = recording.init.index_at as usize;
    let to = from + index_bytes(30);
    for cut in from..to {
        for is_front_new in [true, false] {
            let (front, back) = if is_front_new {
                (&finished, &recording.bytes)
            } else {
                (&recording.bytes, &finished)
            };
            let file = [&front[..cut], &back[cut..]].concat();
            if file == finished {
                continue;
            }
            let found = scan(&file).unwrap_or_else(|error| panic!("{cut}: {error:?}"));
            assert_eq!(found.media_end, file.len() as u64, "cut at {cut}, front {is_front_new}");
            assert_eq!(found.duration_ticks, recording.duration(), "cut at {cut}");
            assert_eq!((found.index_at, found.index_slots), (Some(from as u64), 30));
        }
    }
}

#[test]
fn index_without_its_media_is_not_believed() {
    let dir = TempDir::new();
    let (_, recording) = record(&dir, 4);
    let ends = fragment_ends(&recording);
    let mut file = recording.finished(12_000);
    let len = file.len();
    // The last key's fragments never reached the card: the file system gives zeros.
    let (at, _) =
        recording.entries.iter().enumerate().rfind(|(_, entry)| entry.starts_with_key).unwrap();
    file[ends[at] as usize..len].fill(0);
    let found = scan(&file).unwrap();
    assert!(found.has_torn_tail && !found.is_indexed);
    assert_eq!(found.media_end, ends[at]);
    assert_eq!(found.fragments, recording.entries[..at]);
}

#[test]
fn index_without_its_duration_is_not_finished() {
    let dir = TempDir::new();
    let (_, recording) = record(&dir, 2);
    let mut file = recording.finished(12_000);
    let at = recording.init.duration_at as usize;
    file[at..at + 8].fill(0);
    let found = scan(&file).unwrap();
    assert!(!found.is_indexed);
    assert_eq!(found.duration_ticks, recording.duration());
}

#[test]
fn damage_inside_a_fragment_does_not_cut_off_what_follows() {
    let dir = TempDir::new();
    let (_, recording) = record(&dir, 4);
    let ends = fragment_ends(&recording);
    let mut file = recording.bytes.clone();
    file[ends[2] as usize + 28..ends[2] as usize + 60].fill(0xEE); // the track fragment's head
    let found = scan(&file).unwrap();
    assert_eq!(found.media_end, file.len() as u64);
    assert_eq!(found.fragments.len(), recording.entries.len());
    assert_eq!(found.duration_ticks, recording.duration(), "the hole belongs to the one in front");
}

#[test]
fn other_files_are_left_alone() {
    let dir = TempDir::new();
    let (clip, _) = record(&dir, 1);
    let plain = std::fs::read(&clip.reference).unwrap();
    assert!(matches!(scan(&plain), Err(ScanError::NotRecording { .. })));
    assert!(matches!(scan(&[b'x'; 5000]), Err(ScanError::NotRecording { .. })));
    assert!(matches!(scan(b"RIFF\x10\0\0\0AVI LIST...."), Err(ScanError::NotRecording { .. })));
    assert_eq!(scan(&[]), Err(ScanError::TornHead));
    assert_eq!(scan(&[0; 100_000]), Err(ScanError::TornHead));
}

#[test]
fn fragments_of_ffmpeg_are_understood() {
    let dir = TempDir::new();
    let (clip, _) = record(&dir, 4);
    let path = dir.path("fragmented.mp4");
    let flags = "frag_keyframe+empty_moov+default_base_moof+skip_trailer";
    let copy = ["-v", "error", "-i", &clip.reference, "-c", "copy", "-movflags", flags];
    run("ffmpeg", &[&copy[..], &["-video_track_timescale", "90000", &path][..]].concat());
    let found = scan(&std::fs::read(&path).unwrap()).unwrap();
    assert_eq!((found.tag, found.index_at), (None, None));
    assert_eq!((found.fragments.len(), found.last_sequence), (4, 4));
    assert!(found.fragments.iter().all(|entry| entry.starts_with_key));
    let args = ["-v", "error", "-show_entries", "packet=duration", "-of", "csv=p=0", &path];
    let text = run_text("ffprobe", &args);
    let durations = text.lines().map(|line| line.trim_end_matches(',').parse::<u64>().unwrap());
    assert_eq!(found.duration_ticks, durations.sum::<u64>());
    assert!(!found.has_torn_tail, "{} bytes", found.media_end);
}

/// A recording made of tiny fragments, one per `(gap, samples)`.
fn tiny_recording(fragments: &[(u64, u32)]) -> Vec<u8> {
    let format =
        crate::media::format::VideoFormat::sample(crate::media::format::VideoCodec::Mjpeg, 16, 16);
    let mut file = crate::media::fmp4::encode_init(&format, None, &tag(), 8).bytes;
    let mut base_dts = 0;
    for (&(gap, count), sequence) in fragments.iter().zip(1..) {
        base_dts += gap;
        let sample = SampleInfo { size: 1, duration: 10, cts_offset: 0, is_key: true };
        let samples = vec![sample; count as usize];
        let track = TrackFragment { track_id: VIDEO_TRACK_ID, base_dts, samples: &samples };
        file.extend_from_slice(&encode_fragment_head(sequence, &[track]));
        file.resize(file.len() + samples.len(), 0xAA);
        base_dts += u64::from(10 * count);
    }
    file
}

#[test]
fn holes_count_and_lists_stay_bounded() {
    let found = scan(&tiny_recording(&[(100, 1), (0, 2), (5000, 3)])).unwrap();
    let durations: Vec<_> = found.fragments.iter().map(|entry| entry.duration).collect();
    assert_eq!(durations, [10, 5020, 30]);
    assert_eq!((found.duration_ticks, found.earliest_pts), (5060, 100));

    let many = scan(&tiny_recording(&vec![(0, 1); ENTRIES_MAX + 10])).unwrap();
    assert!(many.fragments.len() <= ENTRIES_MAX);
    assert_eq!(many.duration_ticks, 10 * (ENTRIES_MAX as u64 + 10));
    assert_eq!(many.last_sequence, ENTRIES_MAX as u32 + 10);
    let huge = scan(&tiny_recording(&[(0, 1), (0, 70_000), (0, 1)])).unwrap();
    assert_eq!(huge.duration_ticks, 700_020, "a head larger than the usual read");
}

proptest! {
    #[test]
    fn damaged_recording_ends_without_a_panic(
        flips in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..8),
        words in prop::collection::vec((any::<prop::sample::Index>(), 0usize..4), 0..3),
        cut: prop::sample::Index,
        is_finished: bool,
    ) {
        let mut file = tiny_recording(&[(0, 3), (0, 40), (77, 1), (0, 9)]);
        if is_finished {
            let found = scan(&file).unwrap();
            let index = encode_index(&found.fragments, 8, 0);
            let at = found.index_at.unwrap() as usize;
            file[at..at + index.len()].copy_from_slice(&index);
        }
        for (at, value) in flips {
            let at = at.index(file.len());
            file[at] = value;
        }
        for (at, which) in words {
            let at = at.index(file.len() - 4);
            let word = [0u32, 1, u32::MAX, 1 << 31][which];
            file[at..at + 4].copy_from_slice(&word.to_be_bytes());
        }
        file.truncate(1 + cut.index(file.len()));
        if let Ok(found) = scan(&file) {
            prop_assert!(found.media_end <= file.len() as u64);
            let bytes: u64 = found.fragments.iter().map(|entry| u64::from(entry.bytes)).sum();
            prop_assert!(bytes <= found.media_end);
            prop_assert_eq!(found.has_torn_tail, found.media_end < file.len() as u64);
        }
    }

    #[test]
    fn arbitrary_bytes_end_without_a_panic(data: Vec<u8>, reads_short in 0usize..40) {
        let _ = scan(&data);
        let with_type = [b"\0\0\0\x08ftyp", &data[..]].concat();
        let _ = scan(&with_type);
        // A file that is shorter than it was said to be.
        let mut scanner = Scanner::new(u64::MAX);
        for _ in 0..50 {
            let Want::Read { at, len } = scanner.next() else { break };
            let from = usize::try_from(at).unwrap_or(usize::MAX).min(with_type.len());
            scanner.feed(&with_type[from..][..len.min(reads_short).min(with_type.len() - from)]);
        }
    }

    #[test]
    fn arbitrary_fragment_heads_never_panic(data: Vec<u8>, kind in 0usize..3) {
        parse_moof(&data);
        let head = [&b"\0\0\0\x10tfhd\0\0\0\0\0\0\0\x01"[..], b"\0\0\0\x10tfdt\0\0\0\0\0\0\0\x01"].concat();
        let mut body = head;
        body.extend_from_slice(&(data.len() as u32 + 8).to_be_bytes());
        body.extend_from_slice([b"trun", b"tfhd", b"tfdt"][kind]);
        body.extend_from_slice(&data);
        let mut moof = (body.len() as u32 + 8).to_be_bytes().to_vec();
        moof.extend_from_slice(b"traf");
        moof.extend_from_slice(&body);
        parse_moof(&moof);
    }
}
