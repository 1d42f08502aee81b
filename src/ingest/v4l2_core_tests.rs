//! Unit tests of `v4l2_core.rs`: drivers as they are, and as none should be.

use proptest::prelude::*;

use super::*;

fn wish(codec: VideoCodec, width: u16, height: u16, fps: u16) -> Wish {
    Wish { codec, width, height, fps }
}

fn offer(code: &[u8; 4], sizes: &[(u16, u16, u16)]) -> Offer {
    let sizes = sizes.iter().map(|&(width, height, fps)| LocalSize { width, height, fps });
    Offer { code: fourcc(*code), sizes: sizes.collect() }
}

/// As a Logitech C270 says it: large pictures are slow unless they are JPEG.
fn webcam() -> Vec<Offer> {
    let yuyv = [(640, 480, 30), (1280, 720, 10), (1280, 960, 7)];
    let mjpg = [(640, 480, 30), (1280, 720, 30), (1280, 960, 30)];
    vec![offer(b"YUYV", &yuyv), offer(b"MJPG", &mjpg)]
}

#[track_caller]
fn check_choice(offers: &[Offer], wish: Wish, code: &[u8; 4], size: (u16, u16), is_as_is: bool) {
    let choice = choose(offers, &wish).expect("something fits");
    let got = (choice.code, (choice.width, choice.height), choice.is_as_is);
    assert_eq!(got, (fourcc(*code), size, is_as_is), "{wish:?}");
}

#[test]
fn what_the_camera_encodes_comes_first() {
    let mut offers = webcam();
    let h264 = VideoCodec::H264;
    check_choice(&offers, wish(h264, 640, 480, 15), b"YUYV", (640, 480), false);
    check_choice(&offers, wish(h264, 0, 0, 0), b"MJPG", (1280, 720), false);
    check_choice(&offers, wish(h264, 1280, 720, 10), b"YUYV", (1280, 720), false);
    check_choice(&offers, wish(h264, 800, 600, 15), b"MJPG", (1280, 720), false);
    check_choice(&offers, wish(h264, 1920, 1080, 5), b"YUYV", (1280, 960), false);
    check_choice(&offers, wish(VideoCodec::Mjpeg, 0, 0, 0), b"MJPG", (1280, 720), true);
    offers.push(offer(b"H264", &[(640, 480, 30), (1920, 1080, 30)]));
    check_choice(&offers, wish(h264, 0, 0, 0), b"H264", (1920, 1080), true);
    check_choice(&offers, wish(h264, 640, 480, 15), b"H264", (640, 480), true);
    assert_eq!(choose(&offers, &wish(h264, 0, 0, 0)).expect("fits").fps, None);
    assert_eq!(choose(&webcam(), &wish(h264, 0, 0, 120)).expect("fits").fps, Some(30));
}

#[test]
fn nothing_that_fits_is_said_with_what_there_is() {
    let error = choose(&webcam()[..1], &wish(VideoCodec::Mjpeg, 0, 0, 0)).expect_err("no JPEG");
    assert!(error.contains("codec mjpeg: it has YUYV, and mjpeg needs MJPG"), "{error}");
    let bayer = [offer(b"RGGB", &[(640, 480, 30)])];
    let error = choose(&bayer, &wish(VideoCodec::H264, 0, 0, 0)).expect_err("no format");
    assert!(error.contains("it has RGGB, and h264 needs H264, MJPG, NV12 or YUYV"), "{error}");
    let error = choose(&[], &wish(VideoCodec::H264, 0, 0, 0)).expect_err("nothing");
    assert!(error.contains("it has no format"), "{error}");
    // Too much for the encoder of this program, though not for a camera's own.
    let large = [offer(b"YUYV", &[(3840, 2160, 5)])];
    assert!(choose(&large, &wish(VideoCodec::H264, 3840, 2160, 5)).is_err());
    let large = [offer(b"H264", &[(3840, 2160, 5)])];
    check_choice(&large, wish(VideoCodec::H264, 0, 0, 0), b"H264", (3840, 2160), true);
}

#[test]
fn sizes_of_a_range_are_the_wished_one_and_common_ones() {
    let range = Sizes::Range { width: (32, 2592, 2), height: (32, 1944, 2) };
    let wanted = wish(VideoCodec::H264, 801, 600, 0);
    let found = sizes(&[range], Some(&wanted), Kind::Yuyv);
    assert_eq!(found[0], (800, 600));
    assert!(found.contains(&(1280, 720)) && found.contains(&(2592, 1944)), "{found:?}");
    let odd = Sizes::Range { width: (100, 50, 0), height: (1, 2, 0) };
    assert_eq!(sizes(&[odd], None, Kind::Yuyv), []);
    let twice = [Sizes::One { width: 640, height: 480 }; 2];
    assert_eq!(sizes(&twice, None, Kind::Yuyv), [(640, 480)]);
}

#[test]
fn rates() {
    for (numerator, denominator, want) in
        [(1, 30, 30), (1001, 30_000, 29), (2, 1, 1), (0, 30, 0), (1, 0, 0), (1, u32::MAX, u16::MAX)]
    {
        assert_eq!(fps_of(numerator, denominator), want, "{numerator}/{denominator}");
    }
}

#[test]
fn codes_are_shown_and_what_they_can_become() {
    assert_eq!(fourcc_text(fourcc(*b"Y16 ")), "Y16");
    assert_eq!(fourcc_text(fourcc(*b"Y16 ") | 1 << 31), "Y16");
    assert_eq!(fourcc_text(0x0102_0304), "....");
    assert_eq!(codecs(fourcc(*b"MJPG")), ["mjpeg", "h264"]);
    assert_eq!(codecs(fourcc(*b"YUYV")), ["h264"]);
    assert_eq!(codecs(fourcc(*b"RGGB")), [""; 0]);
}

fn choice(kind: Kind, code: &[u8; 4], is_as_is: bool) -> Choice {
    Choice { kind, code: fourcc(*code), width: 640, height: 480, fps: None, is_as_is }
}

fn set(code: &[u8; 4], width: u32, height: u32, stride: u32, image_bytes: u32) -> Set {
    Set { code: fourcc(*code), width, height, stride, image_bytes, planes: 1 }
}

#[test]
fn what_a_driver_sets_is_checked() {
    let yuyv = choice(Kind::Yuyv, b"YUYV", false);
    let layout = agree(&yuyv, &set(b"YUYV", 640, 360, 0, 460_800)).expect("fits");
    assert_eq!((layout.width, layout.height, layout.stride), (640, 360, 1280));
    let padded = agree(&yuyv, &set(b"YUYV", 638, 360, 1280, 460_800)).expect("fits");
    assert_eq!(padded.stride, 1280);
    let split = agree(&yuyv, &Set { planes: 2, ..set(b"YUYV", 640, 360, 0, 460_800) });
    assert_eq!(split, Err("driver splits pictures into 2 planes, want 1".into()));
    for (bad, words) in [
        (set(b"MJPG", 640, 360, 0, 1), "offers YUYV and sets MJPG"),
        (set(b"YUYV", 0, 360, 0, 1), "0x360"),
        (set(b"YUYV", u32::MAX, 360, 0, 1), "4294967295x360"),
        (set(b"YUYV", 3840, 2160, 0, 1), "at most are 1920x1088"),
        (set(b"YUYV", 640, 360, 1279, 1), "rows of 1279 bytes, want 1280"),
        (set(b"YUYV", 640, 360, u32::MAX, 1), "want 1280"),
        (set(b"YUYV", 640, 360, 0, u32::MAX), "4294967295 bytes"),
    ] {
        let error = agree(&yuyv, &bad).expect_err(words);
        assert!(error.contains(words), "{error}");
    }
    let jpeg = choice(Kind::Mjpeg, b"MJPG", true);
    assert_eq!(agree(&jpeg, &set(b"JPEG", 3840, 2160, 7, 1)).expect("fits").stride, 0);
}

#[test]
fn pictures_are_encoded_in_the_wished_size() {
    let layout = Layout { kind: Kind::Yuyv, width: 640, height: 480, stride: 1280 };
    for (wished, want) in [
        ((0, 0), (640, 480)),
        ((320, 0), (320, 240)),
        ((0, 360), (480, 360)),
        ((321, 241), (320, 240)),
        ((8192, 8192), (1920, 1088)),
        ((1, 1), (64, 64)),
    ] {
        let wish = wish(VideoCodec::H264, wished.0, wished.1, 0);
        assert_eq!(encoded_size(&wish, &layout), want, "{wished:?}");
    }
    let wished = wish(VideoCodec::Mjpeg, 800, 0, 0);
    assert!(size_advice(&wished, 640, 480).expect("another size").contains("640x480"));
    assert_eq!(size_advice(&wished, 800, 600), None);
}

#[test]
fn times_are_the_drivers_while_they_can_be_true() {
    let mut clock = CaptureClock::default();
    assert_eq!(clock.ticks(Some(5_000_000), 5_040_000), 0);
    assert_eq!(clock.ticks(Some(5_100_000), 5_170_000), 9000);
    // From the future, long ago, none: by arrival.
    assert_eq!(clock.ticks(Some(9_999_999_999), 5_200_000), 18_000);
    assert_eq!(clock.ticks(Some(-1), 25_300_000), 1_827_000);
    assert_eq!(clock.ticks(None, 25_400_000), 1_836_000);
    // And never back.
    assert_eq!(clock.ticks(Some(25_000_000), 25_500_000), 1_836_001);
}

#[test]
fn counts_of_a_driver() {
    for (last, now, want) in [
        (0, 1, false),
        (u32::MAX, 0, false),
        (3, 5, true),
        (u32::MAX, 1, true),
        (0, 0, false),
        (9, 0, false),
    ] {
        assert_eq!(is_gap(last, now), want, "{last} {now}");
    }
}

#[test]
fn more_pictures_than_wished_are_left_out() {
    let taken = |fps, interval: i64| {
        let mut pace = Pace::new(fps);
        (0..90_000 / interval).filter(|n| pace.takes(n * interval)).count()
    };
    assert_eq!(taken(Some(15), 3000), 15);
    assert_eq!(taken(Some(15), 3600), 15);
    assert_eq!(taken(Some(15), 6000), 15);
    assert_eq!(taken(Some(30), 6000), 15);
    assert_eq!(taken(None, 3000), 30);
}

proptest! {
    #[test]
    fn any_driver_is_survived(
        ranges in proptest::collection::vec(any::<[u32; 6]>(), 0..5),
        codes in proptest::collection::vec(prop_oneof![
            any::<u32>(), Just(fourcc(*b"YUYV")), Just(fourcc(*b"MJPG")), Just(fourcc(*b"H264")),
        ], 0..5),
        wished in (any::<bool>(), 0u16..=8192, 0u16..=8192, 0u16..=120),
        answer in any::<[u32; 4]>(),
        interval in (any::<u32>(), any::<u32>()),
    ) {
        let codec = if wished.0 { VideoCodec::H264 } else { VideoCodec::Mjpeg };
        let wish = wish(codec, wished.1, wished.2, wished.3);
        let named: Vec<Sizes> = ranges
            .iter()
            .flat_map(|n| [
                Sizes::One { width: n[0], height: n[1] },
                Sizes::Range { width: (n[0], n[1], n[2]), height: (n[3], n[4], n[5]) },
            ])
            .collect();
        let found = sizes(&named, Some(&wish), Kind::Yuyv);
        prop_assert!(found.len() <= SIZES_MAX);
        let fps = fps_of(interval.0, interval.1);
        let sizes: Vec<_> =
            found.iter().map(|&(width, height)| LocalSize { width, height, fps }).collect();
        let offers: Vec<_> =
            codes.iter().map(|&code| Offer { code, sizes: sizes.clone() }).collect();
        if let Ok(choice) = choose(&offers, &wish) {
            let [width, height, stride, image_bytes] = answer;
            let set = Set { code: choice.code, width, height, stride, image_bytes, planes: 1 };
            let near = Set { width: choice.width.into(), height: choice.height.into(), stride: 0, image_bytes: 0, ..set };
            prop_assert!(agree(&choice, &near).is_ok());
            for layout in [agree(&choice, &set), agree(&choice, &near)].into_iter().flatten() {
                let (width, height) = encoded_size(&wish, &layout);
                prop_assert!(width % 2 == 0 && height % 2 == 0);
                prop_assert!((64..=1920).contains(&width) && (64..=1088).contains(&height));
            }
        }
    }

    #[test]
    fn times_rise_whatever_a_driver_says(times in proptest::collection::vec((any::<Option<i64>>(), any::<i64>()), 1..20)) {
        let mut clock = CaptureClock::default();
        let mut last = -1;
        for (stamp, arrived) in times {
            let ticks = clock.ticks(stamp, arrived);
            prop_assert!(ticks > last);
            last = ticks;
        }
    }
}
