use proptest::prelude::*;

use super::*;
use crate::live::cursor_core::{Cursor, Step};
use crate::live::fragment_core::encode_part;
use crate::live::playlist_core::{Delivery, encode_playlist, poll_delivery};
use crate::media::format::{AudioCodec, VideoCodec};
use crate::media::packet::Run;

fn video(width: u16) -> Arc<VideoFormat> {
    Arc::new(VideoFormat {
        codec: VideoCodec::H264,
        width,
        height: 360,
        fps_milli: 0,
        decoder_config: vec![1],
        rfc6381: "avc1.640028".into(),
        reorder_frames: None,
    })
}

fn audio() -> Arc<AudioFormat> {
    Arc::new(AudioFormat {
        codec: AudioCodec::Aac,
        source_codec: "aac",
        sample_rate: 8000,
        channels: 1,
        decoder_config: vec![0x15, 0x88],
        rfc6381: "mp4a.40.2".into(),
    })
}

/// A camera whose next packet is asked for.
struct Camera {
    run: Arc<Run>,
    format: Arc<VideoFormat>,
    dts: i64,
}

impl Camera {
    fn new() -> Self {
        let run = Arc::new(Run { id: 1, audio: Some(audio()) });
        Self { run, format: video(640), dts: 0 }
    }

    fn reconnect(&mut self) {
        self.run = Arc::new(Run { id: self.run.id + 1, audio: Some(audio()) });
        self.dts = 5;
    }

    fn packet(&self, track: Track, at: i64, is_key: bool) -> Arc<Packet> {
        Arc::new(Packet {
            seq: 0,
            run: Arc::clone(&self.run),
            track,
            pts: at,
            dts: at,
            is_key,
            is_damaged: false,
            wall_ms: 1_741_514_400_000 + i64::from(self.run.id) * 100_000_000 + self.dts / 90,
            data: vec![0; 100],
        })
    }

    fn frame(&mut self, step: i64, is_key: bool) -> Arc<Packet> {
        self.dts += step;
        self.packet(Track::Video(Arc::clone(&self.format)), self.dts, is_key)
    }

    fn sound(&self) -> Arc<Packet> {
        self.packet(Track::Audio(audio()), self.dts * 8000 / 90_000, true)
    }
}

/// 15 fps for so many frames, with a keyframe every `gop`.
fn film(window: &mut Window, camera: &mut Camera, frames: u32, gop: u32, keep: Keep) {
    for n in 0..frames {
        window.push(camera.frame(6000, n % gop == 0), keep);
        window.check();
    }
}

#[test]
fn parts_last_200_ms_and_segments_end_at_keyframes() {
    let (mut window, mut camera) = (Window::new(7, 18), Camera::new());
    film(&mut window, &mut camera, 91, 30, Keep::All);
    let complete: Vec<_> = window.listed().filter_map(|segment| segment.ticks).collect();
    assert_eq!(complete, [180_000; 3]);
    let first = window.segment(7).unwrap();
    assert_eq!(first.parts.len(), 10);
    assert!(first.parts.iter().all(|part| part.ticks == 18_000 && part.end - part.first == 3));
    assert!(first.parts[0].is_independent && !first.parts[1].is_independent);
    let text = encode_playlist(&window, "").unwrap();
    assert!(text.contains("#EXT-X-MEDIA-SEQUENCE:7\n#EXT-X-INDEPENDENT-SEGMENTS\n"), "{text}");
    assert!(text.contains("#EXT-X-MAP:URI=\"init_7.mp4\"\n#EXT-X-PROGRAM-DATE-TIME:"), "{text}");
    assert!(text.contains("URI=\"part_86.m4s\"\n#EXTINF:2.000,\nseg_9.m4s\n"), "{text}");
    assert!(text.ends_with("#EXT-X-PRELOAD-HINT:TYPE=PART,URI=\"part_87.m4s\"\n"), "{text}");
    assert!(!text.contains("DISCONTINUITY"), "{text}");
}

#[test]
fn a_group_of_pictures_without_an_end_is_cut_after_six_seconds() {
    let (mut window, mut camera) = (Window::new(0, 18), Camera::new());
    film(&mut window, &mut camera, 200, 1000, Keep::All);
    let complete: Vec<_> = window.listed().filter_map(|segment| segment.ticks).collect();
    assert_eq!(complete, [540_000; 2]);
    assert!(!encode_playlist(&window, "").unwrap().contains("INDEPENDENT-SEGMENTS"));
}

#[test]
fn without_viewers_only_what_one_starts_with_is_kept() {
    let (mut window, mut camera) = (Window::new(0, 18), Camera::new());
    film(&mut window, &mut camera, 40, 30, Keep::Idle);
    assert_eq!(window.end() - window.first, 10, "from the newest keyframe on");
    let (mut window, mut camera) = (Window::new(0, 18), Camera::new());
    film(&mut window, &mut camera, 46, 30, Keep::Start);
    assert_eq!(window.listed().count(), 1);
    assert_eq!(encode_playlist(&window, ""), None);
    // The first segment of a viewer is whole, from keyframe to keyframe: nothing can be shown of less.
    film(&mut window, &mut camera, 1, 30, Keep::All);
    let text = encode_playlist(&window, "").unwrap();
    assert!(text.contains("#EXT-X-MEDIA-SEQUENCE:1\n#EXT-X-INDEPENDENT-SEGMENTS\n"), "{text}");
    assert!(text.contains("seg_1.m4s"), "{text}");
    // A second more than the group of pictures, for sockets that are a little behind.
    assert!(window.packet(window.newest_key().unwrap()).is_some());
    assert!(window.end() - window.first <= 30 + 17, "{}", window.end() - window.first);
}

#[test]
fn what_left_the_list_can_be_fetched_for_one_window_more() {
    let (mut window, mut camera) = (Window::new(0, 18), Camera::new());
    film(&mut window, &mut camera, 15 * 60 + 1, 30, Keep::All);
    let (from, _) = window.sequences();
    assert_eq!((from, window.next_part().0), (21, 30)); // 9 * 2 s listed
    assert!(window.segment(from - 9).is_some() && window.segment(from - 10).is_none());
    film(&mut window, &mut camera, 1, 30, Keep::Listed);
    assert!(window.segment(from - 1).is_none() && window.segment(from).is_some());
}

#[test]
fn reconnect_and_resolution_change_are_discontinuities_with_sections_of_their_own() {
    let (mut window, mut camera) = (Window::new(0, 18), Camera::new());
    film(&mut window, &mut camera, 31, 30, Keep::All);
    window.end_run();
    camera.reconnect();
    film(&mut window, &mut camera, 31, 30, Keep::All);
    camera.format = video(320);
    film(&mut window, &mut camera, 31, 30, Keep::All);
    let text = encode_playlist(&window, "").unwrap();
    assert_eq!(text.matches("#EXT-X-DISCONTINUITY\n").count(), 2, "{text}");
    for section in ["init_0.mp4", "init_2.mp4", "init_4.mp4"] {
        assert!(text.contains(section), "{section} {text}");
    }
    assert_eq!(window.epoch_numbered(4).unwrap().video.width, 320);
    film(&mut window, &mut camera, 15 * 40, 30, Keep::All);
    assert_eq!(window.sequences().1, 2);
    let text = encode_playlist(&window, "").unwrap();
    assert!(text.contains("#EXT-X-DISCONTINUITY-SEQUENCE:2\n"), "{text}");
    assert!(window.epoch_numbered(0).is_none() && window.epoch_numbered(4).is_some());
}

#[test]
fn a_hole_is_a_discontinuity_and_no_long_segment() {
    let (mut window, mut camera) = (Window::new(0, 18), Camera::new());
    film(&mut window, &mut camera, 10, 300, Keep::All);
    window.push(camera.frame(120_000, false), Keep::All);
    window.push(camera.frame(6000, false), Keep::All);
    window.check();
    let segments: Vec<_> = window.listed().map(|s| (s.ticks, s.is_discontinuity)).collect();
    assert_eq!(segments, [(Some(60_000), false), (None, true)]);
}

#[test]
fn a_hinted_part_comes_wherever_the_segment_ends() {
    // Keyframes where a part ends, where it does not, and a camera that is lost.
    for (group, then_lost) in [(30, false), (31, false), (32, false), (40, true)] {
        let (mut window, mut camera) = (Window::new(0, 18), Camera::new());
        film(&mut window, &mut camera, 35, group, Keep::All);
        for n in 35..120_u64 {
            let hinted = window.next_sequence();
            if then_lost && n == 70 {
                window.end_run();
            }
            let is_key = n.is_multiple_of(group as u64) || then_lost && n == 70;
            window.push(camera.frame(6000, is_key), Keep::All);
            let has_come = window.part(hinted).is_some();
            assert!(has_come || window.next_sequence() == hinted, "{group}: {n}");
        }
        let first = window.segment(0).unwrap().parts[0].sequence;
        assert!((first..window.next_sequence()).all(|sequence| window.part(sequence).is_some()));
    }
}

#[test]
fn blocking_reload() {
    let (mut window, mut camera) = (Window::new(0, 18), Camera::new());
    film(&mut window, &mut camera, 30 + 7, 30, Keep::All); // segment 1 has 2 parts
    assert_eq!(window.next_part(), (1, 2));
    let poll = |window: &Window, msn, part| poll_delivery(window, msn, part);
    assert_eq!(poll(&window, 0, None), Delivery::Ready);
    assert_eq!(poll(&window, 1, None), Delivery::Wait);
    assert_eq!(poll(&window, 1, Some(1)), Delivery::Ready);
    assert_eq!(poll(&window, 1, Some(2)), Delivery::Wait);
    assert_eq!(poll(&window, 0, Some(99)), Delivery::Ready); // means 1, 0
    assert_eq!(poll(&window, 2, Some(0)), Delivery::Wait);
    assert_eq!(poll(&window, 3, None), Delivery::Ahead);
    window.push(camera.frame(6000, false), Keep::All);
    window.push(camera.frame(6000, false), Keep::All);
    assert_eq!(poll(&window, 1, Some(2)), Delivery::Ready);
}

#[test]
fn a_part_is_the_same_bytes_whenever_it_is_fetched() {
    let (mut window, mut camera) = (Window::new(0, 18), Camera::new());
    for n in 0..40 {
        window.push(camera.frame(6000, n % 30 == 0), Keep::All);
        window.push(camera.sound(), Keep::All);
    }
    let segment = window.segment(0).unwrap();
    let of = |window: &Window| {
        let segment = window.segment(0).unwrap();
        encode_part(window, &segment.epoch, &segment.parts[1]).unwrap()
    };
    assert_eq!(segment.parts[1].end - segment.parts[1].first, 6, "three frames, three sounds");
    let early = of(&window);
    film(&mut window, &mut camera, 100, 30, Keep::All);
    assert_eq!(early, of(&window));
    assert_eq!(early.len, early.head.len() as u64 + 600);
}

#[test]
fn a_viewer_who_is_behind_goes_on_at_a_keyframe() {
    let (mut window, mut camera) = (Window::new(0, 18), Camera::new());
    film(&mut window, &mut camera, 20, 30, Keep::Start);
    let mut cursor = Cursor::new(&window);
    for n in 0..20 {
        assert_eq!(cursor.poll(&window, 100), Step::Send(n));
    }
    assert_eq!(cursor.poll(&window, 100), Step::Wait);
    film(&mut window, &mut camera, 5, 30, Keep::Start); // the first of these is a keyframe
    assert_eq!(cursor.poll(&window, 1100), Step::Send(20));
    assert_eq!(cursor.poll(&window, 1101), Step::Wait, "the keyframe has passed already");
    window.push(camera.frame(6000, false), Keep::Start);
    assert_eq!(cursor.poll(&window, 1102), Step::Wait);
    window.push(camera.frame(6000, true), Keep::Start);
    assert_eq!(cursor.poll(&window, 1103), Step::Skipped(5));
    assert_eq!(cursor.poll(&window, 1103), Step::Send(26));
    assert_eq!(cursor.poll(&window, 1104), Step::Wait);
}

#[test]
fn a_viewer_who_starts_may_take_its_time_within_a_group_of_pictures() {
    let (mut window, mut camera) = (Window::new(0, 18), Camera::new());
    film(&mut window, &mut camera, 100, 1000, Keep::Start);
    let mut cursor = Cursor::new(&window);
    assert_eq!(cursor.poll(&window, 0), Step::Send(0));
    assert_eq!(cursor.poll(&window, 9000), Step::Send(1));
    window.push(camera.frame(6000, true), Keep::Start);
    assert_eq!(cursor.poll(&window, 9001), Step::Skipped(98));
    assert_eq!(cursor.poll(&window, 9001), Step::Send(100));
}

#[test]
fn a_frame_that_is_missing_makes_no_part_too_short() {
    let (mut window, mut camera) = (Window::new(0, 18), Camera::new());
    for n in 0..300 {
        let step = if n % 7 == 3 { 12_000 } else { 6000 };
        window.push(camera.frame(step, n % 30 == 0), Keep::All);
        window.check();
    }
    let segments = window.listed().filter(|segment| segment.ticks.is_some());
    for segment in segments {
        let (_, whole) = segment.parts.split_last().unwrap();
        let shortest = whole.iter().map(|part| part.ticks).min().unwrap();
        assert!(shortest * 100 >= segment.part_target * 85, "{:?}", segment.parts);
    }
}

fn any_step() -> impl Strategy<Value = (i64, bool, u8)> {
    let steps = prop_oneof![8 => 1000_i64..9000, 1 => 1_i64..20_000, 1 => -5_i64..900_000];
    (steps, prop::bool::weighted(0.05), any::<u8>())
}

proptest! {
    #[test]
    fn every_packet_from_the_first_keyframe_on_is_in_one_part(
        steps in prop::collection::vec(any_step(), 1..400),
    ) {
        let (mut window, mut camera) = (Window::new(3, 18), Camera::new());
        let (mut last_from, mut last_gone) = (3, 0);
        for (step, is_key, what) in steps {
            match what {
                0..3 => {
                    window.end_run();
                    camera.reconnect();
                }
                3..6 => camera.format = video(u16::from(what) * 100),
                6..8 => window.clear(),
                8..80 => window.push(camera.sound(), Keep::All),
                _ => {}
            }
            let keep = if what < 40 { Keep::Start } else { Keep::All };
            window.push(camera.frame(step, is_key), keep);
            window.check();
            let (from, gone) = window.sequences();
            prop_assert!(from >= last_from && gone >= last_gone, "numbers rise");
            (last_from, last_gone) = (from, gone);
            // A playlist never claims what the RFC forbids.
            if let Some(text) = encode_playlist(&window, "") {
                let target: f64 = value(&text, "PART-TARGET=").parse().unwrap();
                for line in text.lines().filter(|line| line.starts_with("#EXT-X-PART:")) {
                    let duration: f64 = value(line, "DURATION=").parse().unwrap();
                    prop_assert!(duration > 0.0 && duration <= target, "{}", text);
                }
            }
            for segment in window.listed() {
                for part in &segment.parts {
                    let found = encode_part(&window, &segment.epoch, part).unwrap();
                    let pictures = (part.first..part.end)
                        .filter(|index| window.packet(*index).unwrap().is_video()).count();
                    let sent = found.packets.iter()
                        .filter(|index| window.packet(**index).unwrap().is_video()).count();
                    prop_assert_eq!(pictures, sent);
                    prop_assert!(pictures > 0, "a part has a picture");
                }
            }
        }
    }

    #[test]
    fn regular_frames_give_regular_parts(
        interval in 1500_i64..80_000,
        jitter in prop::collection::vec(-4_i64..5, 300),
        gop in 10_u32..200,
    ) {
        let (mut window, mut camera) = (Window::new(0, 18), Camera::new());
        for (n, jitter) in jitter.into_iter().enumerate() {
            let step = interval + interval * jitter / 200; // two percent
            window.push(camera.frame(step, (n as u32).is_multiple_of(gop)), Keep::All);
        }
        window.check();
        for segment in window.listed().skip(1).filter(|segment| segment.ticks.is_some()) {
            let (_, whole) = segment.parts.split_last().unwrap();
            for part in whole {
                let percent = part.ticks * 100 / segment.part_target;
                prop_assert!((85..=100).contains(&percent), "{percent} % of {}", segment.part_target);
            }
            let sum: i64 = segment.parts.iter().map(|part| part.ticks).sum();
            let off = (sum - segment.ticks.unwrap()).abs();
            prop_assert!(off <= interval / 20 * segment.parts.len() as i64 + 1, "{off} ticks off");
        }
    }
}

fn value<'a>(text: &'a str, name: &str) -> &'a str {
    let from = text.find(name).map(|at| &text[at + name.len()..]).unwrap_or_default();
    from.split([',', '\n']).next().unwrap_or_default()
}
