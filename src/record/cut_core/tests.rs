//! Every packet lands in one fragment, files start at keyframes and rotate at the wall clock's boundaries.

use super::*;
use crate::media::format::{AudioCodec, VideoCodec};
use proptest::prelude::*;

fn video_format(width: u16) -> Arc<VideoFormat> {
    Arc::new(VideoFormat {
        codec: VideoCodec::H264,
        width,
        height: 480,
        fps_milli: 15_000,
        decoder_config: vec![1, 0x42, 0, 30, 0xff, 0xe0, 0],
        rfc6381: "avc1.42001e".into(),
        reorder_frames: Some(0),
    })
}

fn audio_format() -> Arc<AudioFormat> {
    Arc::new(AudioFormat {
        codec: AudioCodec::Aac,
        source_codec: "aac",
        sample_rate: 8000,
        channels: 1,
        decoder_config: vec![0x15, 0x88],
        rfc6381: "mp4a.40.2".into(),
    })
}

/// Builds the packets of a camera at 15 fps that starts at `start_ms`.
struct Camera {
    run: Arc<Run>,
    video: Arc<VideoFormat>,
    start_ms: i64,
    seq: u64,
}

impl Camera {
    fn new(start_ms: i64) -> Self {
        let run = Arc::new(Run { id: 1, audio: Some(audio_format()) });
        Self { run, video: video_format(640), start_ms, seq: 0 }
    }

    fn packet(&mut self, track: Track, pts: i64, wall_ms: i64, is_key: bool) -> Arc<Packet> {
        self.seq += 1;
        Arc::new(Packet {
            seq: self.seq,
            run: Arc::clone(&self.run),
            track,
            pts,
            dts: pts,
            is_key,
            is_damaged: false,
            wall_ms,
            data: self.seq.to_be_bytes().to_vec(),
        })
    }

    fn frame(&mut self, n: i64, is_key: bool) -> Arc<Packet> {
        let track = Track::Video(Arc::clone(&self.video));
        self.packet(track, n * 6000, self.start_ms + n * 1000 / 15, is_key)
    }

    fn sound(&mut self, n: i64) -> Arc<Packet> {
        self.packet(Track::Audio(audio_format()), n * 1024, self.start_ms + n * 128, true)
    }
}

fn config(segment_ms: i64) -> CutConfig {
    CutConfig { stream_id: 3, stream_name: "Tor".into(), segment_ms }
}

/// One file as it came out.
#[derive(Debug, Default)]
struct File {
    start_ms: i64,
    end_ms: i64,
    seqs: Vec<u64>,
    fragments: usize,
    is_finished: bool,
}

fn files(cuts: Vec<Cut>) -> Vec<File> {
    let mut files: Vec<File> = Vec::new();
    for cut in cuts {
        match cut {
            Cut::Open(opening) => {
                files.push(File { start_ms: opening.start_ms, ..File::default() })
            }
            Cut::Fragment(fragment) => {
                let file = files.last_mut().expect("a file is open");
                assert!(!file.is_finished, "a fragment after the end");
                let data: usize = fragment.packets.iter().map(|packet| packet.data.len()).sum();
                assert_eq!(fragment.len, (fragment.head.len() + data) as u64);
                file.seqs.extend(fragment.packets.iter().map(|packet| packet.seq));
                file.end_ms = fragment.end_ms;
                file.fragments += 1;
            }
            Cut::Finish { .. } => files.last_mut().expect("a file is open").is_finished = true,
        }
    }
    files
}

#[test]
fn rotation_is_aligned_to_midnight() {
    let day = 1_741_478_400_000; // 2025-03-09T00:00:00Z
    assert_eq!(rotation_after(day, 900_000), day + 900_000);
    assert_eq!(rotation_after(day + 899_999, 900_000), day + 900_000);
    assert_eq!(rotation_after(day + 900_000, 900_000), day + 1_800_000);
    // 7 s do not divide the day: it starts over at midnight.
    assert_eq!(rotation_after(day + DAY_MS - 1, 7000), day + DAY_MS);
    assert_eq!(rotation_after(-1, 1000), 0);
}

#[test]
fn a_file_starts_at_a_keyframe_and_rotates_at_the_first_one_after_the_boundary() {
    let mut camera = Camera::new(1_741_478_400_000 + 5000);
    let (mut cutter, mut cuts) = (Cutter::default(), Vec::new());
    // Keyframes at frames 10, 40, 70…: wall second 5 + 2/3 and every 2 s from there.
    for n in 0..300 {
        let packet = camera.frame(n, n % 30 == 10);
        cutter.push(packet, &config(10_000), &mut cuts);
    }
    cutter.finish(&config(900_000), &mut cuts);
    let files = files(cuts);
    let starts: Vec<i64> = files.iter().map(|file| file.start_ms - camera.start_ms).collect();
    assert_eq!(starts, [10 * 1000 / 15, 100 * 1000 / 15, 250 * 1000 / 15]);
    let all: Vec<u64> = files.iter().flat_map(|file| file.seqs.clone()).collect();
    assert_eq!(all, (11..=300).collect::<Vec<_>>());
    assert!(files.iter().all(|file| file.is_finished));
    assert!((files[0].end_ms - files[1].start_ms).abs() <= 1, "no gap between files");
    assert!(files[0].fragments >= 6, "a fragment is at most a second: {}", files[0].fragments);
}

#[test]
fn a_changed_length_counts_for_the_file_that_is_open() {
    let mut camera = Camera::new(1_741_478_400_000);
    let (mut cutter, mut cuts) = (Cutter::default(), Vec::new());
    for n in 0..300 {
        let segment_ms = if n < 200 { 900_000 } else { 10_000 };
        let packet = camera.frame(n, n % 30 == 0);
        cutter.push(packet, &config(segment_ms), &mut cuts);
    }
    cutter.finish(&config(10_000), &mut cuts);
    let starts: Vec<i64> = files(cuts).iter().map(|file| file.start_ms - camera.start_ms).collect();
    assert_eq!(starts, [0, 14_000]);
}

#[test]
fn another_run_or_picture_size_starts_another_file() {
    let mut camera = Camera::new(0);
    let (mut cutter, mut cuts) = (Cutter::default(), Vec::new());
    for n in 0..10 {
        let packet = camera.frame(n, n == 0);
        cutter.push(packet, &config(900_000), &mut cuts);
    }
    camera.video = video_format(1280);
    for n in 10..20 {
        let packet = camera.frame(n, n == 10);
        cutter.push(packet, &config(900_000), &mut cuts);
    }
    camera.run = Arc::new(Run { id: 2, audio: None });
    for n in 0..10 {
        let packet = camera.frame(n, n == 2);
        cutter.push(packet, &config(900_000), &mut cuts);
    }
    cutter.finish(&config(900_000), &mut cuts);
    let lengths: Vec<usize> = files(cuts).iter().map(|file| file.seqs.len()).collect();
    assert_eq!(lengths, [10, 10, 8]);
}

#[test]
fn a_step_of_the_clock_begins_a_file_at_the_next_keyframe_and_loses_nothing() {
    for step_ms in [3_600_000, -3_600_000] {
        let mut camera = Camera::new(1_741_514_400_000);
        let (mut cutter, mut cuts) = (Cutter::default(), Vec::new());
        for n in 0..60 {
            if n == 30 {
                camera.start_ms += step_ms;
            }
            let packet = camera.frame(n, n % 15 == 0);
            cutter.push(packet, &config(900_000), &mut cuts);
        }
        cutter.finish(&config(900_000), &mut cuts);
        let files = files(cuts);
        let lengths: Vec<usize> = files.iter().map(|file| file.seqs.len()).collect();
        assert_eq!(lengths, [30, 30], "{step_ms}");
        assert_eq!(files[0].end_ms, 1_741_514_402_000);
        assert_eq!(files[1].start_ms, 1_741_514_402_000 + step_ms);
    }
}

#[test]
fn sound_that_came_before_the_first_keyframe_is_kept() {
    let mut camera = Camera::new(1000);
    let (mut cutter, mut cuts) = (Cutter::default(), Vec::new());
    let sound = camera.sound(0);
    cutter.push(sound, &config(900_000), &mut cuts);
    let frame = camera.frame(3, true); // 200 ms later
    cutter.push(frame, &config(900_000), &mut cuts);
    cutter.finish(&config(900_000), &mut cuts);
    let files = files(cuts);
    assert_eq!(files[0].seqs, [2, 1], "video first, then sound");
    assert_eq!(files[0].start_ms, 1200, "the recording begins with the picture");
}

#[test]
fn a_camera_whose_video_stops_does_not_pile_up_sound() {
    let mut camera = Camera::new(0);
    let (mut cutter, mut cuts) = (Cutter::default(), Vec::new());
    let frame = camera.frame(0, true);
    cutter.push(frame, &config(900_000), &mut cuts);
    for n in 0..2000 {
        let sound = camera.sound(n);
        cutter.push(sound, &config(900_000), &mut cuts);
    }
    let segment = cutter.segment.as_ref().expect("open");
    assert!(segment.pending_audio.len() <= FRAGMENT_AUDIO_MAX);
    cutter.finish(&config(900_000), &mut cuts);
    assert_eq!(files(cuts)[0].seqs.len(), 2001);
}

#[test]
fn frozen_time_stamps_and_silent_sound_do_not_pile_up_pictures() {
    let mut camera = Camera::new(0);
    let (mut cutter, mut cuts) = (Cutter::default(), Vec::new());
    for n in 0..1000 {
        let track = Track::Video(Arc::clone(&camera.video));
        let packet = camera.packet(track, n, 0, n % 500 == 0);
        cutter.push(packet, &config(900_000), &mut cuts);
        let held = cutter.waiting.as_ref().map_or(0, |waiting| waiting.behind.len());
        assert!(held <= WAITING_PACKETS_MAX, "{held} at {n}");
    }
    cutter.finish(&config(900_000), &mut cuts);
    assert_eq!(files(cuts).iter().map(|file| file.seqs.len()).sum::<usize>(), 1000);
}

#[test]
fn what_the_disk_refused_is_forgotten_and_the_next_keyframe_opens_a_file() {
    let mut camera = Camera::new(0);
    let (mut cutter, mut cuts) = (Cutter::default(), Vec::new());
    for n in 0..20 {
        let packet = camera.frame(n, n % 10 == 0);
        cutter.push(packet, &config(900_000), &mut cuts);
    }
    cutter.abandon();
    cuts.clear();
    for n in 20..50 {
        let packet = camera.frame(n, n % 10 == 5);
        cutter.push(packet, &config(900_000), &mut cuts);
    }
    cutter.finish(&config(900_000), &mut cuts);
    assert_eq!(files(cuts)[0].seqs.first(), Some(&26));
}

#[test]
fn sound_that_is_late_goes_to_the_file_that_it_belongs_to() {
    let mut camera = Camera::new(1_741_478_400_000);
    let (mut cutter, mut cuts) = (Cutter::default(), Vec::new());
    let mut sounds = 0;
    for n in 0..240 {
        let packet = camera.frame(n, n % 30 == 0);
        cutter.push(packet, &config(10_000), &mut cuts);
        // Every sound comes 200 ms after the picture that it goes with.
        while (sounds + 1) * 128 + 200 <= n * 1000 / 15 {
            let sound = camera.sound(sounds);
            cutter.push(sound, &config(10_000), &mut cuts);
            sounds += 1;
        }
    }
    cutter.finish(&config(10_000), &mut cuts);
    let mut ends = Vec::new();
    for cut in &cuts {
        let Cut::Fragment(fragment) = cut else { continue };
        let audio = fragment.packets.iter().filter(|packet| !packet.is_video());
        let is_first_file = fragment.end_ms <= camera.start_ms + 10_000;
        ends.extend(audio.map(|packet| (is_first_file, packet.pts * 1000 / 8000)));
    }
    assert_eq!(ends.len(), sounds as usize);
    for (is_first_file, ms) in ends {
        assert_eq!(is_first_file, ms < 10_000, "sound of {ms} ms");
    }
}

proptest! {
    #[test]
    fn every_packet_from_the_first_keyframe_on_lands_in_one_fragment(
        steps in proptest::collection::vec((0_u8..10, 1_i64..20_000), 1..400),
    ) {
        let mut camera = Camera::new(1_700_000_000_000);
        let (mut cutter, mut cuts) = (Cutter::default(), Vec::new());
        let (mut video, mut audio) = (0, 0);
        let (mut want, mut first_key) = (Vec::new(), None);
        for (kind, step) in steps {
            let packet = if kind < 3 {
                audio += step;
                let wall_ms = camera.start_ms + audio / 8;
                camera.packet(Track::Audio(audio_format()), audio, wall_ms, true)
            } else {
                video += step;
                let track = Track::Video(Arc::clone(&camera.video));
                camera.packet(track, video, camera.start_ms + video / 90, kind == 9)
            };
            if packet.is_video_key() {
                first_key.get_or_insert(packet.dts);
            }
            // Sound of over a second before the first picture has no file to go to.
            let has_file = first_key.is_some_and(|key| key - file_ticks(&packet) < 90_000);
            if has_file {
                want.push(packet.seq);
            }
            cutter.push(packet, &config(10_000), &mut cuts);
        }
        cutter.finish(&config(900_000), &mut cuts);
        let files = files(cuts);
        let mut got: Vec<u64> = files.iter().flat_map(|file| file.seqs.clone()).collect();
        got.sort_unstable();
        prop_assert!(got.is_sorted_by(|a, b| a < b), "nothing twice: {:?}", got);
        // Sound from before the first keyframe may be there as well.
        got.retain(|seq| want.contains(seq));
        prop_assert_eq!(got, want);
        for file in &files {
            prop_assert!(file.is_finished && file.end_ms >= file.start_ms);
        }
    }
}

#[test]
fn until_it_says_so_nothing_follows_from_ordinary_pictures() {
    let (mut camera, mut cutter) = (Camera::new(0), Cutter::default());
    let (mut quiet, mut cut) = (0, 0);
    for n in 0..300 {
        let packet = camera.frame(n, n % 40 == 3);
        let is_before = !packet.is_key && packet.dts < cutter.quiet_until();
        let mut out = Vec::new();
        cutter.push(packet, &config(8000), &mut out);
        assert!(out.is_empty() || !is_before, "picture {n}");
        quiet += u32::from(is_before);
        cut += u32::from(!out.is_empty());
        cutter.push(camera.sound(n / 2), &config(8000), &mut Vec::new());
    }
    assert!(quiet > 250 && cut >= 20, "{quiet} of 300 may wait, {cut} cut something");
}
