//! The RTSP shell against cameras that misbehave, over real sockets.
//!
//! Times are the core's affair and tested there; here nothing waits for a clock.

#[path = "rig/fake_camera.rs"]
mod fake_camera;

use std::future::pending;
use std::sync::mpsc;

use fake_camera::{FakeCamera, IDR, Manner, PPS, Peer, SDP, SDP_AUDIO, SPS, frame, rtp};
use lightnvr::ingest::{IngestError, SourceEvent, Unit, rtsp};
use lightnvr::media::nal::length_prefixed_nals;
use md5::{Digest as _, Md5};
use smol::future::FutureExt;

/// Everything that a run gave.
struct Run {
    events: Vec<SourceEvent>,
    result: Result<(), IngestError>,
}

impl Run {
    fn units(&self) -> Vec<&Unit> {
        let mut units = Vec::new();
        for event in &self.events {
            if let SourceEvent::Unit(unit) = event {
                units.push(unit);
            }
        }
        units
    }

    fn error(&self) -> String {
        self.result.as_ref().expect_err("the run failed").to_string()
    }
}

/// Runs until the camera ends it.
fn run(url: &str) -> Run {
    run_until(url, pending())
}

fn run_until(url: &str, stop: impl Future<Output = ()>) -> Run {
    let mut events = Vec::new();
    let result = lightnvr::system::drive::block_on(rtsp::run(
        url,
        &mut |event| events.push(event),
        &|| false,
        stop,
    ));
    Run { events, result }
}

/// Pictures one after the other, then the camera hangs up.
fn send_pictures(peer: &mut Peer, count: u16) {
    (0..count).for_each(|n| peer.send_picture(n, IDR));
}

#[test]
fn pictures_arrive_byte_for_byte() {
    let big: Vec<u8> =
        [0x65, 0x88].into_iter().chain((2..300_000u32).map(|n| n as u8 | 1)).collect();
    let sent = big.clone();
    let camera = FakeCamera::playing(Manner::default(), move |peer| {
        let mut sequence = 65_500; // wraps on the way
        for n in 0..5 {
            peer.send(&frame(0, &rtp(sequence, n * 3600, false, SPS)));
            peer.send(&frame(0, &rtp(sequence.wrapping_add(1), n * 3600, false, PPS)));
            sequence = peer.send_fragments(sequence.wrapping_add(2), n * 3600, &sent);
        }
    });
    let run = run(&camera.url());
    assert_eq!(run.error(), "camera closed the connection");
    assert!(
        matches!(&run.events[0], SourceEvent::Started { video: Some(v), audio: None } if v.width == 640)
    );
    let units = run.units();
    assert_eq!(units.len(), 5);
    for (n, unit) in (0..).zip(units) {
        assert!(unit.is_key && !unit.is_damaged);
        assert_eq!((unit.pts, unit.dts), (n * 3600, n * 3600));
        let nals: Vec<&[u8]> = length_prefixed_nals(&unit.data).collect();
        assert_eq!(nals, [SPS, PPS, &big]);
        assert!(unit.data.capacity() - unit.data.len() < 64 << 10);
    }
}

#[test]
fn stopping_says_good_bye_even_to_a_silent_camera() {
    let (stop, stopped) = smol::channel::bounded(1);
    let (saw, seen) = mpsc::channel();
    let camera = FakeCamera::playing(Manner::default(), move |peer| {
        stop.send_blocking(()).expect("the run waits for it");
        saw.send(peer.wait_for_teardown()).expect("the test waits for it");
    });
    let run = run_until(&camera.url(), async { stopped.recv().await.expect("sent") });
    assert_eq!(run.result, Ok(()));
    assert_eq!(seen.recv(), Ok(true));
}

#[test]
fn stopping_works_before_the_camera_says_anything() {
    let (stop, stopped) = smol::channel::bounded(1);
    let camera = FakeCamera::start(move |_, peer| {
        peer.request();
        stop.send_blocking(()).expect("the run waits for it");
        assert!(peer.request().is_none(), "no session, no good-bye");
    });
    let run = run_until(&camera.url(), async { stopped.recv().await.expect("sent") });
    assert_eq!(run.result, Ok(()));
}

#[test]
fn dropping_the_run_hangs_up() {
    let (stop, stopped) = smol::channel::bounded(1);
    let (saw, seen) = mpsc::channel();
    let camera = FakeCamera::playing(Manner::default(), move |peer| {
        stop.send_blocking(()).expect("the run waits for it");
        saw.send(peer.request().is_none()).expect("the test waits for it");
    });
    let url = camera.url();
    let mut sink = |_| {};
    let run = async { drop(rtsp::run(url.as_str(), &mut sink, &|| false, pending()).await) };
    lightnvr::system::drive::block_on(run.or(async { stopped.recv().await.expect("sent") }));
    assert_eq!(seen.recv(), Ok(true));
}

#[test]
fn a_connection_cut_in_mid_packet_keeps_what_was_whole() {
    let camera = FakeCamera::playing(Manner::default(), |peer| {
        send_pictures(peer, 6);
        let packet = frame(0, &rtp(6, 6 * 3600, true, &[IDR, &[7; 900]].concat()));
        peer.send(&packet[..500]);
    });
    let run = run(&camera.url());
    assert!(matches!(run.result, Err(IngestError::Connection { .. })), "{:?}", run.result);
    assert_eq!(run.units().len(), 6);
}

#[test]
fn sequence_numbers_that_stand_still_lose_no_picture() {
    let camera = FakeCamera::playing(Manner::default(), |peer| {
        for n in 0..100 {
            peer.send(&frame(0, &rtp(7, n * 3600, true, IDR)));
        }
    });
    let run = run(&camera.url());
    let units = run.units();
    assert_eq!(units.len(), 100);
    assert!(units[20..].iter().all(|unit| !unit.is_damaged), "soon they are not believed any more");
}

#[test]
fn a_missing_packet_damages_one_picture() {
    let camera = FakeCamera::playing(Manner::default(), |peer| {
        (0..20).filter(|n| *n != 10).for_each(|n| peer.send_picture(n, IDR));
    });
    let run = run(&camera.url());
    let damaged: Vec<i64> = run.units().iter().filter(|u| u.is_damaged).map(|u| u.pts).collect();
    assert_eq!((run.units().len(), damaged), (19, vec![11 * 3600]));
}

#[test]
fn a_timeout_of_0_makes_no_flood_of_requests() {
    let (stop, stopped) = smol::channel::bounded(1);
    let (saw, seen) = mpsc::channel();
    let manner = Manner { session: "1;timeout=0", ..Manner::default() };
    let camera = FakeCamera::playing(manner, move |peer| {
        send_pictures(peer, 500);
        stop.send_blocking(()).expect("the run waits for it");
        assert!(peer.wait_for_teardown());
        saw.send(peer.requests.len()).expect("the test waits for it");
    });
    let run = run_until(&camera.url(), async { stopped.recv().await.expect("sent") });
    assert_eq!(run.result, Ok(()));
    // OPTIONS, DESCRIBE, SETUP, PLAY, TEARDOWN, and one keep-alive at most.
    assert!((5..=6).contains(&seen.recv().expect("sent")));
}

/// What becomes of a camera that answers DESCRIBE like this and nothing more.
fn run_describe(answer: impl Fn(&mut Peer) + Send + 'static) -> Run {
    let camera = FakeCamera::start(move |_, peer| {
        let Some(options) = peer.request() else { return };
        peer.answer(&options, 200, "", "");
        peer.request();
        answer(peer);
        peer.request();
    });
    run(&camera.url())
}

#[track_caller]
fn check_protocol_error(run: &Run, want: &str) {
    assert!(matches!(run.result, Err(IngestError::Protocol { .. })), "{:?}", run.result);
    assert!(run.error().contains(want), "{}", run.error());
}

#[test]
fn a_body_of_4_gib_is_refused_at_its_announcement() {
    let run = run_describe(|peer| {
        peer.send(b"RTSP/1.0 200 OK\r\nCSeq: 2\r\nContent-Length: 4294967296\r\n\r\nv=0\r\n");
    });
    check_protocol_error(&run, "RTSP body of more than 65536 bytes");
}

#[test]
fn an_endless_header_is_cut_off() {
    let run = run_describe(|peer| {
        peer.send(b"RTSP/1.0 200 OK\r\nX: ");
        while peer.send(&[b'a'; 1000]) {}
    });
    check_protocol_error(&run, "RTSP head of more than 16384 bytes");
    let run = run_describe(|peer| {
        peer.send(b"RTSP/1.0 200 OK\r\n");
        while peer.send(b"X-Line: one of a great many\r\n") {}
    });
    check_protocol_error(&run, "RTSP head of more than 16384 bytes");
}

#[test]
fn endless_line_ends_and_garbage_are_cut_off() {
    let run = run_describe(|peer| while peer.send(&[0xff; 1000]) {});
    check_protocol_error(&run, "no RTSP or RTP in 262144 bytes");
}

#[test]
fn a_flood_of_media_is_bounded_and_the_first_video_taken() {
    let media =
        "m=video 0 RTP/AVP 96 97 98 99 100 101 102 103 104 105\r\na=rtpmap:96 VP8/90000\r\n";
    let flood = run_describe(move |peer| {
        let sdp = media.repeat(600);
        let head = format!("RTSP/1.0 200 OK\r\nCSeq: 2\r\nContent-Length: {}\r\n\r\n", sdp.len());
        peer.send((head + &sdp).as_bytes());
    });
    assert_eq!(flood.error(), "video codec VP8 is not supported");
    let manner = Manner { sdp: SDP.to_owned() + &media.repeat(500), ..Manner::default() };
    let camera = FakeCamera::playing(manner, |peer| send_pictures(peer, 8));
    assert_eq!(run(&camera.url()).units().len(), 8);
}

#[test]
fn other_channels_than_asked_for_are_used() {
    let manner = Manner {
        sdp: SDP.to_owned() + SDP_AUDIO,
        interleaved: ["10-11", "4"],
        ..Manner::default()
    };
    let camera = FakeCamera::playing(manner, |peer| {
        for n in 0..8 {
            let mut audio = rtp(n, u32::from(n) * 160, false, &[0xd5; 160]);
            audio[1] = 8;
            peer.send(&frame(4, &audio));
            peer.send(&frame(10, &rtp(n, u32::from(n) * 3600, true, IDR)));
            peer.send(&frame(99, &rtp(n, 0, true, IDR)));
        }
    });
    let run = run(&camera.url());
    let (video, audio): (Vec<&Unit>, Vec<&Unit>) = run
        .units()
        .into_iter()
        .partition(|unit| matches!(unit.track, lightnvr::media::packet::Track::Video(_)));
    assert_eq!((video.len(), audio.len()), (8, 8));
    assert_eq!(audio[7].pts - audio[0].pts, 7 * 160);
}

#[test]
fn lost_framing_costs_a_picture_and_not_the_session() {
    let camera = FakeCamera::playing(Manner::default(), |peer| {
        send_pictures(peer, 10);
        // The send buffer of the camera overran: a packet ends early.
        peer.send(&frame(0, &rtp(10, 36_000, true, &[IDR, &[7; 500]].concat()))[..300]);
        (11..30).for_each(|n| peer.send_picture(n, IDR));
    });
    let run = run(&camera.url());
    let times: Vec<i64> = run.units().iter().map(|unit| unit.pts / 3600).collect();
    assert_eq!(times[..10], (0..10).collect::<Vec<_>>());
    assert_eq!(*times.last().expect("pictures"), 29);
    // What the packet announced is swallowed: some 500 bytes, twelve of these small pictures.
    assert!(times.len() > 15, "{times:?}");
    assert!(run.units().iter().any(|unit| unit.is_damaged));
}

fn md5(text: String) -> String {
    Md5::digest(text).iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Whether a request is signed for `nonce` by user `admin` with password `p@ss`.
fn is_signed(request: &fake_camera::Request, nonce: &str) -> bool {
    let ha1 = md5("admin:IP Camera (1):p@ss".to_owned());
    let ha2 = md5(format!("{}:{}", request.method, request.uri));
    let response = md5(format!("{ha1}:{nonce}:{ha2}"));
    let header = request.field("Authorization").unwrap_or("");
    header.starts_with("Digest ") && header.contains(&format!("response=\"{response}\""))
}

/// Challenges every request that is not signed for the nonce of this moment; it changes at DESCRIBE.
fn guarded(peer: &mut Peer) {
    let mut nonce = "first";
    while let Some(request) = peer.request() {
        if request.method == "DESCRIBE" {
            nonce = "second";
        }
        if is_signed(&request, nonce) {
            peer.answer(&request, 200, "Session: 1\r\n", if nonce == "second" { SDP } else { "" });
            if request.method == "PLAY" {
                return send_pictures(peer, 8);
            }
        } else {
            let challenge = format!(
                "WWW-Authenticate: Basic realm=\"IP Camera (1)\"\r\n\
                 WWW-Authenticate: Digest realm=\"IP Camera (1)\", nonce=\"{nonce}\", stale=\"FALSE\"\r\n"
            );
            peer.answer(&request, 401, &challenge, "");
        }
    }
}

#[test]
fn digest_is_preferred_and_a_new_nonce_signed_again() {
    let camera = FakeCamera::start(|_, peer| guarded(peer));
    assert_eq!(run(&camera.url_with("admin:p@ss")).units().len(), 8);
    assert_eq!(run(&camera.url_with("admin:p%40ss")).units().len(), 8);
    for login in ["admin:wrong", "root:p@ss", "admin"] {
        assert_eq!(run(&camera.url_with(login)).result, Err(IngestError::Unauthorized), "{login}");
    }
    assert_eq!(run(&camera.url()).result, Err(IngestError::Unauthorized));
}

#[test]
fn a_redirect_is_followed_to_another_camera() {
    let target = FakeCamera::playing(Manner::default(), |peer| send_pictures(peer, 8));
    let location = format!("Location: {}\r\n", target.url());
    let camera = FakeCamera::start(move |_, peer| {
        while let Some(request) = peer.request() {
            let status = if request.method == "DESCRIBE" { 302 } else { 200 };
            peer.answer(&request, status, if status == 302 { &location } else { "" }, "");
        }
    });
    assert_eq!(run(&camera.url()).units().len(), 8);
}

#[test]
fn a_circle_of_redirects_ends() {
    let camera = FakeCamera::start(|_, peer| {
        let Some(request) = peer.request() else { return };
        let location = format!("Location: {}\r\n", request.uri);
        peer.answer(&request, 301, &location, "");
        peer.request();
    });
    let run = run(&camera.url());
    assert_eq!(run.error(), "camera redirects more than 3 times");
    assert!(matches!(run.result, Err(IngestError::Refused { .. })));
}

#[test]
fn errors_hold_no_password() {
    let camera = FakeCamera::start(|_, peer| drop(peer.request()));
    for url in
        [camera.url_with("u:secret"), "rtsp://u:secret@".to_owned(), "http://u:secret@c".to_owned()]
    {
        let run = run(&url);
        assert!(!run.error().contains("secret"), "{}", run.error());
        assert!(!format!("{:?}", run.result).contains("secret"));
    }
}

#[test]
fn a_port_without_a_camera_is_said_so() {
    let url = FakeCamera::start(|_, _| {}).url(); // gone by now
    assert_eq!(run(&url).error(), "camera not reachable: connection refused");
}
