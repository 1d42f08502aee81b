//! Conversations with the session core: what cameras answer, and what comes of it.
//! Over 600 lines, because all of them hold the same scripted talk with a camera.

use proptest::prelude::*;

use super::*;
use crate::ingest::session_tracks::{FIRST_VIDEO_WAIT, VIDEO_WAIT_MIN};
use crate::ingest::track::VideoTrack;
use crate::media::packet::Track;

const SDP: &str = "a=control:*\r\nm=video 0 RTP/AVP 96\r\na=rtpmap:96 H264/90000\r\n\
    a=fmtp:96 sprop-parameter-sets=Z2QAHqyyAUBf8uAiAAADAAIAAAMAZB4sXJA=,aOvDyyLA\r\na=control:v\r\n\
    m=audio 0 RTP/AVP 8\r\na=control:a\r\n";
const IDR: &[u8] = b"\x65\x88\x84\x27\xd9";

/// A session and its clock.
struct Talk {
    core: SessionCore,
    now: Instant,
    events: Vec<SourceEvent>,
}

fn memory(credentials: bool) -> Memory {
    let url = RtspUrl::parse("rtsp://user:secret@cam/1").unwrap();
    let auth = Auth::new(url.credentials.filter(|_| credentials), 1);
    Memory {
        auth,
        skips_audio: false,
        needs_get_parameter: false,
        transport: Transport::Auto,
        refuses_tcp: false,
    }
}

impl Talk {
    fn new() -> Self {
        Self::with(memory(true))
    }

    fn with(memory: Memory) -> Self {
        let url = RtspUrl::parse("rtsp://user:secret@cam/1").unwrap();
        let now = Instant::now();
        Self { core: SessionCore::new(url, memory, now), now, events: Vec::new() }
    }

    /// Takes the next request, which must have this method.
    #[track_caller]
    fn expect(&mut self, method: &str) -> String {
        let sent = String::from_utf8(std::mem::take(self.core.output())).unwrap();
        assert!(sent.starts_with(&format!("{method} ")), "want {method}, sent {sent:?}");
        assert!(!sent.contains("secret"), "{sent}");
        sent
    }

    fn feed(&mut self, bytes: &[u8]) -> Result<(), End> {
        let used = self.core.receive(bytes, self.now, &mut |event| self.events.push(event))?;
        assert_eq!(used, bytes.len());
        Ok(())
    }

    fn answer(&mut self, status: u16, fields: &str) -> Result<(), End> {
        self.feed(format!("RTSP/1.0 {status} X\r\n{fields}\r\n").as_bytes())
    }

    /// Answers and takes the next request.
    #[track_caller]
    fn turn(&mut self, status: u16, fields: &str, next: &str) -> String {
        self.answer(status, fields).unwrap();
        self.expect(next)
    }

    fn describe(&mut self, sdp: &str) -> Result<(), End> {
        let head = format!("RTSP/1.0 200 OK\r\nContent-Length: {}\r\n\r\n{sdp}", sdp.len());
        self.feed(head.as_bytes())
    }

    /// As far as PLAY with SDP; the session lasts as `session` says.
    fn until_play(public: &str, session: &str) -> Self {
        let mut talk = Self::new();
        talk.expect("OPTIONS");
        talk.turn(200, public, "DESCRIBE");
        talk.describe(SDP).unwrap();
        talk.expect("SETUP");
        let transport = "Transport: RTP/AVP/TCP;interleaved=0-1\r\n";
        talk.turn(200, &format!("Session: {session}\r\n{transport}"), "SETUP");
        talk.turn(200, "Transport: RTP/AVP/TCP;interleaved=2-3\r\n", "PLAY");
        talk
    }

    fn playing(public: &str, session: &str) -> Self {
        let mut talk = Self::until_play(public, session);
        talk.answer(200, "").unwrap();
        talk
    }

    /// One picture, 40 ms later.
    fn picture(&mut self, n: u16, channel: u8, payload_type: u8) -> Result<(), End> {
        self.now += Duration::from_millis(40);
        self.feed(&frame(channel, &rtp(n, payload_type, IDR)))
    }

    fn poll_at(&mut self, seconds: u64) -> Result<Instant, End> {
        let at = self.now + Duration::from_secs(seconds);
        self.core.poll(at, &mut |event| self.events.push(event))
    }

    fn units(&self) -> Vec<(bool, i64)> {
        let unit = |event: &SourceEvent| match event {
            SourceEvent::Unit(unit) => Some((matches!(unit.track, Track::Video(_)), unit.pts)),
            _ => None,
        };
        self.events.iter().filter_map(unit).collect()
    }

    fn advice(&self) -> Vec<&str> {
        let mut found = Vec::new();
        for event in &self.events {
            if let SourceEvent::Advice(text) | SourceEvent::NoSound(text) = event {
                found.push(text.as_str());
            }
        }
        found
    }
}

fn rtp(n: u16, payload_type: u8, payload: &[u8]) -> Vec<u8> {
    let mut packet = vec![0x80, 0x80 | payload_type];
    packet.extend(n.to_be_bytes());
    packet.extend((u32::from(n) * 3600 + 90_000).to_be_bytes());
    packet.extend(u32::from(payload_type).to_be_bytes());
    packet.extend(payload);
    packet
}

fn frame(channel: u8, packet: &[u8]) -> Vec<u8> {
    let length = (packet.len() as u16).to_be_bytes();
    [&[b'$', channel, length[0], length[1]][..], packet].concat()
}

fn connection(what: &str) -> End {
    End::Failed(IngestError::Connection { what: what.to_owned() })
}

#[test]
fn a_session_goes_from_options_to_pictures() {
    let mut talk = Talk::until_play("Public: OPTIONS, PLAY\r\n", "77;timeout=30");
    talk.answer(200, "RTP-Info: url=v;rtptime=90000\r\n").unwrap();
    let [SourceEvent::Started { video: Some(video), audio: Some(audio) }] = talk.events.as_slice()
    else {
        panic!("{:?}", talk.events);
    };
    assert_eq!((video.width, audio.source_codec), (640, "pcma"));
    (0..6).for_each(|n| talk.picture(n, 0, 96).unwrap());
    talk.feed(&frame(2, &rtp(9, 8, &[0xd5; 160]))).unwrap();
    let units = talk.units();
    assert_eq!(units[..3], [(true, 0), (true, 3600), (true, 7200)]);
    // Six pictures of 40 ms: the audio begins where it arrived.
    assert_eq!(units.last(), Some(&(false, 1600)));
    talk.core.teardown(talk.now);
    assert!(talk.expect("TEARDOWN").contains("Session: 77\r\n"));
    talk.answer(200, "").unwrap();
    assert!(talk.core.is_over());
}

#[test]
fn requests_carry_what_cameras_want() {
    let mut talk = Talk::new();
    let options = talk.expect("OPTIONS");
    assert!(
        options.starts_with("OPTIONS rtsp://cam/1 RTSP/1.0\r\nCSeq: 1\r\nUser-Agent: LightNVR")
    );
    assert!(talk.turn(200, "", "DESCRIBE").contains("Accept: application/sdp\r\n"));
    let sdp = "a=control:*\nm=video 0 RTP/AVP 96\na=rtpmap:96 H264/90000\na=control:/trackID=0\n";
    let head = "RTSP/1.0 200 OK\r\nContent-Base: cam:554/1/\r\nContent-Length: ";
    talk.feed(format!("{head}{}\r\n\r\n{sdp}", sdp.len()).as_bytes()).unwrap();
    let setup = talk.expect("SETUP");
    assert!(setup.starts_with("SETUP rtsp://cam:554/1/trackID=0 RTSP/1.0\r\n"), "{setup}");
    assert!(setup.contains("Transport: RTP/AVP/TCP;unicast;interleaved=0-1\r\n"));
    let play = talk.turn(200, "Session: 5\r\n", "PLAY");
    assert!(play.starts_with("PLAY rtsp://cam:554/1/ RTSP/1.0\r\n"), "{play}");
    assert!(play.contains("Range: npt=0.000-\r\n") && play.contains("Session: 5\r\n"));
}

#[test]
fn keep_alive_uses_what_is_advertised_and_changes_when_refused() {
    let mut talk = Talk::playing("Public: OPTIONS,get_parameter\r\n", "5;timeout=10");
    (0..3).for_each(|n| talk.picture(n, 0, 96).unwrap());
    assert!(talk.poll_at(4).is_ok() && talk.core.output().is_empty());
    talk.poll_at(5).unwrap_err(); // no video for 5 s ends it, whatever else is due
    let mut talk = Talk::playing("Public: OPTIONS,get_parameter\r\n", "5;timeout=8");
    talk.picture(0, 0, 96).unwrap();
    talk.poll_at(4).unwrap();
    let sent = talk.expect("GET_PARAMETER");
    assert!(sent.starts_with("GET_PARAMETER rtsp://cam/1 ") && sent.contains("Session: 5\r\n"));
    talk.answer(501, "").unwrap();
    talk.now += Duration::from_secs(4);
    talk.picture(1, 0, 96).unwrap();
    talk.poll_at(4).unwrap();
    talk.expect("OPTIONS");
    assert_eq!(talk.answer(454, ""), Err(connection("camera forgot the session (454)")));
}

#[test]
fn keep_alive_without_an_answer_goes_on_and_a_timeout_of_0_does_not_spin() {
    let mut talk = Talk::playing("", "5;timeout=0");
    for n in 0..5 {
        talk.picture(n, 0, 96).unwrap();
        let until = talk.poll_at(0).unwrap();
        assert!(until >= talk.now + Duration::from_millis(900), "round {n}");
        talk.core.output().clear();
        talk.now += Duration::from_secs(2);
        talk.poll_at(0).unwrap();
        talk.expect("OPTIONS");
    }
}

#[test]
fn silence_is_noticed_in_every_step() {
    let mut talk = Talk::new();
    assert!(talk.poll_at(9).is_ok());
    let silent = |timeout| End::Failed(IngestError::Silent { timeout });
    assert_eq!(talk.poll_at(10), Err(silent(ANSWER_WAIT)));
    let mut talk = Talk::playing("", "5");
    assert!(talk.poll_at(29).is_ok());
    assert_eq!(talk.poll_at(30), Err(silent(FIRST_VIDEO_WAIT)));
    (0..3).for_each(|n| talk.picture(n, 0, 96).unwrap());
    // Sound alone is no sign of life.
    talk.now += Duration::from_secs(4);
    talk.feed(&frame(2, &rtp(9, 8, &[0xd5; 160]))).unwrap();
    assert_eq!(talk.poll_at(1), Err(silent(VIDEO_WAIT_MIN)));
}

#[test]
fn a_slow_camera_gets_three_times_its_longest_pause() {
    let mut talk = Talk::playing("", "5;timeout=100");
    talk.picture(0, 0, 96).unwrap();
    talk.now += Duration::from_secs(4);
    talk.picture(1, 0, 96).unwrap();
    assert!(talk.poll_at(12).is_ok());
    assert!(talk.poll_at(13).is_err());
}

#[test]
fn a_picture_each_20_s_is_waited_for_and_handed_out() {
    let mut talk = Talk::playing("", "5;timeout=100");
    for n in 0..5 {
        let units = talk.units().len();
        // The packets of one picture: the time between them is no pause between pictures.
        talk.feed(&frame(0, &rtp(2 * n, 96, b"\x06\x05\x01\x00"))).unwrap();
        let mut picture = rtp(2 * n + 1, 96, IDR);
        picture[4..8].copy_from_slice(&(u32::from(n) * 20 * 90_000).to_be_bytes());
        talk.feed(&frame(0, &picture)).unwrap();
        talk.poll_at(1).unwrap();
        assert_eq!(talk.units().len(), units + 1, "picture {n}");
        talk.core.output().clear();
        talk.poll_at(19).unwrap();
        talk.now += Duration::from_secs(20);
    }
    assert!(talk.poll_at(39).is_ok());
    assert!(talk.poll_at(40).is_err()); // three times 20 s after the last picture
}

#[test]
fn every_end_hands_out_the_last_picture_once() {
    let mut talk = Talk::playing("", "9");
    (0..3).for_each(|n| talk.picture(n, 0, 96).unwrap());
    assert_eq!(talk.units().len(), 2);
    talk.core.closed("camera closed the connection");
    for _ in 0..2 {
        talk.core.finish(&mut |event| talk.events.push(event));
        assert_eq!(talk.units().len(), 3);
    }
}

/// A sender report: at `ms` of the camera's clock the track stands at `timestamp`.
fn sender_report(ssrc: u32, ms: u64, timestamp: u32) -> Vec<u8> {
    let ntp = (3_900_000_000u64 << 32) + (ms << 32) / 1000;
    let mut packet = vec![0x80, 200, 0, 6];
    packet.extend(ssrc.to_be_bytes());
    packet.extend(ntp.to_be_bytes());
    packet.extend(timestamp.to_be_bytes());
    packet.extend([0; 8]);
    packet
}

/// The last picture and the last sound of a camera that sends 2 s of kept pictures at once and then
/// both live, in ms. `step_ms`: the camera's clock is set between its two reports.
fn last_of_burst(step_ms: u64) -> (i64, i64) {
    let mut talk = Talk::playing("", "9");
    let send = |talk: &mut Talk, n: u16| talk.feed(&frame(0, &rtp(n, 96, IDR))).unwrap();
    (0..50).for_each(|n| send(&mut talk, n));
    talk.feed(&frame(1, &sender_report(96, 0, 90_000 + 50 * 3600))).unwrap();
    talk.feed(&frame(3, &sender_report(8, step_ms, 90_000))).unwrap();
    for n in 0..50u16 {
        send(&mut talk, 50 + n);
        let mut sound = rtp(n, 8, &[0xd5; 320]);
        sound[4..8].copy_from_slice(&(90_000 + u32::from(n) * 320).to_be_bytes());
        talk.feed(&frame(2, &sound)).unwrap();
        talk.now += Duration::from_millis(40);
    }
    let units = talk.units();
    let times = |is_video| units.iter().filter(move |unit| unit.0 == is_video).map(|unit| unit.1);
    assert!(times(true).is_sorted() && times(false).is_sorted());
    (times(true).max().unwrap() / 90, times(false).max().unwrap() / 8)
}

#[test]
fn sender_reports_put_sound_and_pictures_together() {
    let (video, audio) = last_of_burst(0);
    assert!((video - audio).abs() <= 80, "{video} ms, {audio} ms");
    // A clock that jumped in between is not believed (quirk 29).
    let (video, audio) = last_of_burst(3_600_000);
    assert!(video - audio > 1800, "{video} ms, {audio} ms");
}

#[test]
fn a_picture_stamped_a_little_ahead_does_not_press_the_others_together() {
    let mut talk = Talk::playing("", "9");
    for n in 0..300u16 {
        talk.now += Duration::from_millis(40);
        let mut picture = rtp(n, 96, IDR);
        let ahead = if n % 40 == 37 { 20_000 } else { 0 };
        picture[4..8].copy_from_slice(&(u32::from(n) * 3600 + ahead).to_be_bytes());
        talk.feed(&frame(0, &picture)).unwrap();
    }
    let dts = |event: &SourceEvent| match event {
        SourceEvent::Unit(unit) => Some(unit.dts),
        _ => None,
    };
    let times: Vec<i64> = talk.events.iter().filter_map(dts).collect();
    let least = times.windows(2).map(|pair| pair[1] - pair[0]).min();
    // Half of an interval that is itself measured, and here from uneven times.
    assert!(least >= Some(1620), "{least:?}");
    assert!(times[times.len() - 1] < 301 * 3600);
}

#[test]
fn missing_parameter_sets_end_the_session_after_a_minute() {
    let mut talk = Talk::new();
    talk.turn(200, "", "OPTIONS");
    talk.core.output().clear();
    talk.describe("m=video 0 RTP/AVP 96\na=rtpmap:96 H264/90000\n").unwrap();
    talk.turn(200, "Session: 1;timeout=100\r\n", "SETUP");
    talk.core.output().clear();
    talk.answer(200, "").unwrap();
    let mut end = Ok(talk.now);
    for n in 0..20 {
        talk.now += Duration::from_secs(4);
        end = end.and_then(|_| talk.picture(n, 0, 96).and_then(|()| talk.poll_at(0)));
    }
    let Err(End::Failed(IngestError::Refused { what })) = end else { panic!("{end:?}") };
    assert!(what.starts_with("no usable parameter sets"), "{what}");
    assert!(talk.units().is_empty());
}

const DIGEST: &str = "WWW-Authenticate: Digest realm=\"r\", nonce=\"1\"\r\n";
const DIGEST_2: &str = "WWW-Authenticate: Digest realm=\"r\", nonce=\"2\", stale=FALSE\r\n";

#[test]
fn challenges_are_answered_on_the_same_connection() {
    let mut talk = Talk::new();
    talk.expect("OPTIONS");
    let both = format!("WWW-Authenticate: Basic realm=\"x\"\r\n{DIGEST}");
    let sent = talk.turn(401, &both, "OPTIONS");
    assert!(sent.contains("Authorization: Digest username=\"user\", realm=\"r\""), "{sent}");
    talk.turn(200, "", "DESCRIBE");
    // The nonce became old (Axis M5525).
    let sent = talk.turn(401, DIGEST_2, "DESCRIBE");
    assert!(sent.contains("nonce=\"2\""));
    assert_eq!(talk.answer(401, DIGEST), Err(End::Failed(IngestError::Unauthorized)));
}

#[test]
fn without_credentials_a_challenge_is_final() {
    let mut talk = Talk::with(memory(false));
    assert_eq!(talk.answer(401, DIGEST), Err(End::Failed(IngestError::Unauthorized)));
}

#[test]
fn a_camera_that_hangs_up_after_a_challenge_is_asked_again_once() {
    let mut talk = Talk::new();
    talk.answer(401, DIGEST).unwrap();
    assert_eq!(talk.core.closed("x"), End::Again);
    let mut talk = Talk::with(talk.core.into_memory());
    assert!(talk.expect("OPTIONS").contains("nonce=\"1\""));
    talk.turn(401, DIGEST_2, "OPTIONS");
    assert_eq!(talk.core.closed("x"), connection("x"));
}

#[test]
fn a_camera_that_hangs_up_on_its_sound_is_asked_without() {
    let mut talk = Talk::new();
    talk.answer(200, "").unwrap();
    talk.describe(SDP).unwrap();
    talk.answer(200, "Session: 1\r\n").unwrap();
    assert_eq!(talk.core.closed("x"), End::Again);
    let mut talk = Talk::with(talk.core.into_memory());
    talk.answer(200, "").unwrap();
    talk.describe(SDP).unwrap();
    talk.core.output().clear();
    talk.turn(200, "Session: 1\r\n", "PLAY");
    talk.answer(200, "").unwrap();
    assert_eq!(talk.advice(), ["camera hangs up when asked for sound: recording without"]);
}

#[test]
fn refused_sound_does_not_stop_the_video() {
    let mut talk = Talk::new();
    talk.answer(200, "").unwrap();
    talk.describe(SDP).unwrap();
    talk.answer(200, "Session: 1\r\n").unwrap();
    talk.core.output().clear();
    talk.turn(400, "", "PLAY");
    talk.answer(200, "").unwrap();
    assert_eq!(talk.advice(), ["camera refuses its sound: recording without"]);
    assert!(matches!(talk.events[0], SourceEvent::Started { audio: None, .. }));
}

#[track_caller]
fn check_describe(status: u16, fields: &str, want: &str) {
    let mut talk = Talk::new();
    talk.turn(404, "", "OPTIONS"); // whatever OPTIONS says
    let end = talk.answer(status, fields);
    assert!(format!("{end:?}").contains(want), "{status}: {end:?}");
}

#[test]
fn what_a_camera_answers_to_describe_decides() {
    check_describe(404, "", "Refused { what: \"no such path on the camera (404)\" }");
    check_describe(451, "", "Refused { what: \"camera cannot describe this stream (451)\" }");
    check_describe(503, "", "Connection { what: \"camera refuses DESCRIBE for now (503)\" }");
    check_describe(302, "Location: rtsp://other/2\r\n", "Redirect(RtspUrl { host: \"other\"");
    check_describe(302, "Location: http://other/2\r\n", "Refused");
    check_describe(301, "", "Refused { what: \"camera redirects to what cannot be used");
    check_describe(200, "", "Refused { what: \"the stream has no video\" }");
}

#[test]
fn tcp_refused_is_said_so() {
    let mut talk = Talk::new();
    talk.answer(200, "").unwrap();
    talk.describe(SDP).unwrap();
    talk.core.output().clear();
    talk.answer(461, "").unwrap();
    assert!(talk.core.wants_ports());
    talk.core.set_ports([28_000, 28_010], 7, talk.now);
    let sent = talk.expect("SETUP");
    assert!(sent.contains("Transport: RTP/AVP;unicast;client_port=28000-28001\r\n"), "{sent}");
    let want = "Err(Failed(Refused { what: \"camera refuses RTP over TCP and over UDP (461)\" }))";
    assert_eq!(format!("{:?}", talk.answer(461, "")), want);
}

#[test]
fn packets_over_udp_are_put_in_order_and_reported() {
    let mut talk = Talk::with(Memory { transport: Transport::Udp, ..memory(false) });
    talk.answer(200, "").unwrap();
    talk.describe(SDP).unwrap();
    talk.core.output().clear();
    talk.core.set_ports([28_000, 28_010], 7, talk.now);
    talk.expect("SETUP");
    let answer = "Session: 1\r\nTransport: RTP/AVP;unicast;server_port=5000-5001\r\n";
    let sent = talk.turn(200, answer, "SETUP");
    assert!(sent.contains("client_port=28010-28011"), "{sent}");
    talk.turn(200, answer, "PLAY");
    talk.answer(200, "").unwrap();
    for n in [0, 1, 3, 2, 2, 5, 6, 7, 8, 9] {
        talk.now += Duration::from_millis(40);
        let (core, events) = (&mut talk.core, &mut talk.events);
        let packet = rtp(n, 96, IDR);
        core.datagram(0, false, &packet, talk.now, &mut |event| events.push(event)).unwrap();
        core.poll(talk.now, &mut |event| events.push(event)).unwrap();
    }
    let units = talk.units();
    assert!(units.len() >= 7 && units.is_sorted_by(|a, b| a.1 < b.1), "{units:?}");
    let damaged =
        |event: &&SourceEvent| matches!(event, SourceEvent::Unit(unit) if unit.is_damaged);
    let damaged = talk.events.iter().filter(damaged).count();
    // The one before may have lost its end.
    assert!((1..=2).contains(&damaged), "4 is missing: {damaged}");
    let reports = talk.core.reports(talk.now + Duration::from_secs(5));
    assert_eq!(reports.len(), 1);
    assert_eq!((reports[0].0, reports[0].1, reports[0].2.len()), (0, 5001, 52));
}

#[test]
fn answers_are_matched_by_number_and_else_in_order() {
    let mut talk = Talk::new();
    talk.turn(200, "CSeq: 1 \r\n", "OPTIONS");
    talk.answer(200, "CSeq: 1\r\n").unwrap(); // a late or doubled answer
    talk.answer(100, "CSeq: 2\r\n").unwrap(); // goes on
    assert!(talk.core.output().is_empty());
    let sdp =
        format!("RTSP/1.0 200 OK\r\nCSeq: 4711\r\nContent-Length: {}\r\n\r\n{SDP}", SDP.len());
    talk.feed(sdp.as_bytes()).unwrap();
    talk.expect("SETUP");
}

#[test]
fn a_camera_that_knows_no_ranges_is_played_without() {
    let mut talk = Talk::until_play("", "1");
    let sent = talk.turn(457, "", "PLAY");
    assert!(!sent.contains("Range"), "{sent}");
    assert!(talk.answer(457, "").is_err());
}

#[test]
fn requests_of_the_camera_are_answered() {
    let mut talk = Talk::playing("", "9");
    talk.feed(b"GET_PARAMETER rtsp://x/ RTSP/1.0\r\nCSeq: 31\r\n\r\n").unwrap();
    let sent = talk.expect("RTSP/1.0");
    assert_eq!(sent, "RTSP/1.0 200 OK\r\nCSeq: 31\r\nSession: 9\r\n\r\n");
    talk.feed(b"PAUSE rtsp://x/ RTSP/1.0\r\nCSeq: 32\r\n\r\n").unwrap();
    assert!(talk.expect("RTSP/1.0").starts_with("RTSP/1.0 501"));
    talk.picture(0, 0, 96).unwrap();
    let end = talk.feed(b"TEARDOWN rtsp://x/ RTSP/1.0\r\nCSeq: 33\r\n\r\n");
    assert_eq!(end, Err(connection("camera ended the session")));
}

#[test]
fn a_camera_that_only_asks_is_cut_off() {
    let mut talk = Talk::playing("", "9");
    let request = b"OPTIONS rtsp://x/ RTSP/1.0\r\nCSeq: 31\r\n\r\n";
    let end = (0..10_000).find_map(|_| talk.feed(request).err());
    assert!(matches!(end, Some(End::Failed(IngestError::Protocol { .. }))), "{end:?}");
    assert!(talk.core.output().len() < OUTPUT_BYTES_MAX + 1000);
}

#[test]
fn good_bye_of_the_video_ends_the_session_with_its_last_picture() {
    let mut talk = Talk::playing("", "9");
    talk.picture(0, 0, 96).unwrap();
    talk.feed(&frame(1, &[0x81, 203, 0, 1, 0, 0, 0, 8])).unwrap(); // of another source
    talk.feed(&frame(1, &[0x81, 203, 0, 1, 0, 0, 0, 96])).unwrap();
    assert_eq!(talk.units(), [(true, 0)]);
    // There is sound too, which gets a moment for what is still on its way.
    assert!(talk.poll_at(0).is_ok());
    assert_eq!(talk.poll_at(1), Err(connection("camera ended the stream (RTCP BYE)")));
}

#[test]
fn channels_that_were_never_named_are_taken_if_they_fit() {
    let mut talk = Talk::playing("", "9");
    // Neither known nor fitting; on a known channel with another payload type (Geovision: 50).
    talk.picture(0, 8, 50).unwrap();
    talk.picture(0, 0, 50).unwrap();
    assert_eq!(talk.core.counters().frames_unknown, 2);
    for n in 0..3 {
        talk.picture(n, 10, 96).unwrap();
    }
    assert_eq!(talk.units().len(), 2);
    talk.picture(3, 0, 96).unwrap();
    assert_eq!(talk.core.counters().frames_unknown, 3);
}

#[test]
fn tracks_on_one_channel_are_told_apart_by_payload_type() {
    let mut talk = Talk::until_play("", "1");
    talk.core.tracks.audio.as_mut().unwrap().channel = 0;
    talk.answer(200, "").unwrap();
    talk.picture(0, 0, 96).unwrap();
    talk.feed(&frame(0, &rtp(5, 8, &[0xd5; 160]))).unwrap();
    talk.picture(1, 0, 96).unwrap();
    assert_eq!(talk.units().iter().filter(|(is_video, _)| *is_video).count(), 1);
    assert_eq!(talk.units().len(), 2);
}

#[test]
fn pictures_may_come_before_the_answer_to_play() {
    let mut talk = Talk::until_play("", "1");
    (0..3).for_each(|n| talk.picture(n, 0, 96).unwrap());
    assert!(matches!(talk.events[0], SourceEvent::Started { .. }));
    talk.answer(200, "RTP-Info: url=v;rtptime=0\r\n").unwrap();
    talk.picture(3, 0, 96).unwrap();
    assert_eq!(talk.units(), [(true, 0), (true, 3600), (true, 7200)]);
    let starts = talk.events.iter().filter(|e| matches!(e, SourceEvent::Started { .. })).count();
    assert_eq!(starts, 1);
}

#[test]
fn lost_framing_is_advised_once_and_marks_the_next_picture() {
    let mut talk = Talk::playing("", "1");
    talk.picture(0, 0, 96).unwrap();
    for n in 1..4 {
        let lost = [&[0xff; 9][..], &frame(0, &rtp(n, 96, IDR))].concat();
        talk.feed(&lost).unwrap();
    }
    assert_eq!(talk.advice().len(), 1);
    assert_eq!(talk.core.counters().junk_bytes, 27);
    let damaged = talk.events.iter().filter(|e| matches!(e, SourceEvent::Unit(u) if u.is_damaged));
    assert!(damaged.count() >= 2);
}

#[test]
fn frames_that_are_too_many_for_a_packet_are_counted() {
    let mut talk = Talk::new();
    talk.answer(200, "").unwrap();
    let aac = "m=audio 0 RTP/AVP 97\r\na=rtpmap:97 MPEG4-GENERIC/16000\r\n\
        a=fmtp:97 mode=AAC-hbr;config=1408;SizeLength=13;IndexLength=3;IndexDeltaLength=3\r\n";
    talk.describe(&SDP.replace("m=audio 0 RTP/AVP 8\r\n", aac)).unwrap();
    talk.core.output().clear();
    let transport = "Transport: RTP/AVP/TCP;interleaved=0-1\r\n";
    talk.turn(200, &format!("Session: 1\r\n{transport}"), "SETUP");
    talk.turn(200, "Transport: RTP/AVP/TCP;interleaved=2-3\r\n", "PLAY");
    talk.answer(200, "").unwrap();
    // RFC 3640 section 3.2.1: 70 AU headers of 16 bits, each of a frame of one byte.
    let headers = [0, 8].repeat(70);
    let payload = [&(70u16 * 16).to_be_bytes()[..], &headers, &[0x21; 70]].concat();
    talk.feed(&frame(2, &rtp(0, 97, &payload))).unwrap();
    assert_eq!(talk.units().len(), 64);
    assert_eq!(talk.core.counters().audio_dropped, 6);
}

#[test]
fn every_video_codec_makes_a_track() {
    for name in ["H264", "h265", "HEVC", "JPEG"] {
        let text = format!("m=video 0 RTP/AVP 96\na=rtpmap:96 {name}/90000\n");
        let media = sdp::parse(text.as_bytes()).media;
        assert!(VideoTrack::new(&media[0], &media[0].formats[0]).is_some(), "{name}");
    }
}

/// What a hostile or confused camera might say, in whatever order.
fn utterance() -> impl Strategy<Value = Vec<u8>> {
    let packet = (0u16..6, 94u8..98, 0u8..4, proptest::collection::vec(any::<u8>(), 0..20));
    prop_oneof![
        packet.prop_map(|(n, kind, channel, body)| frame(channel, &rtp(n, kind, &body))),
        (0u16..6).prop_map(|n| frame(0, &rtp(n, 96, IDR))),
        "RTSP/1.0 (200|401|404|302|457|999) X\r\n(CSeq: [0-9]\r\n)?(Session: [0-9a-f]{0,3};timeout=[0-9]\r\n)?(WWW-Authenticate: (Digest nonce=[0-9]|Basic)\r\n)?(Transport: interleaved=[0-9]-x\r\n)?\r\n"
            .prop_map(String::into_bytes),
        Just(format!("RTSP/1.0 200 OK\r\nContent-Length: {}\r\n\r\n{SDP}", SDP.len()).into_bytes()),
        "(OPTIONS|TEARDOWN|REDIRECT|FOO) x RTSP/1.0\r\n\r\n".prop_map(String::into_bytes),
        proptest::collection::vec(any::<u8>(), 0..30),
    ]
}

/// Everything that comes out of a byte stream that arrives in pieces of these sizes.
fn all_of(stream: &[u8], sizes: &[usize]) -> (Vec<SourceEvent>, Vec<u8>, Option<End>) {
    let mut core = Talk::new().core;
    let t0 = Instant::now();
    let (mut events, mut sent, mut start, mut end) = (Vec::new(), Vec::new(), 0, 0);
    for turn in 0.. {
        if end == stream.len() {
            break;
        }
        end = (end + sizes[turn % sizes.len()]).min(stream.len());
        let got = core.receive(&stream[start..end], t0, &mut |event| events.push(event));
        sent.append(core.output());
        match got {
            Ok(used) => start += used,
            // Where in the stream it was noticed depends on the pieces, if framing was lost.
            Err(over) => return (events, sent, Some(over)),
        }
    }
    (events, sent, None)
}

proptest! {
    #[test]
    fn any_camera_is_survived_and_splits_do_not_matter(
        utterances in proptest::collection::vec(utterance(), 0..20),
        sizes in proptest::collection::vec(1usize..200, 1..6),
    ) {
        let stream = utterances.concat();
        let whole = all_of(&stream, &[usize::MAX >> 1]);
        prop_assert_eq!(&all_of(&stream, &sizes), &whole);
        prop_assert!(!String::from_utf8_lossy(&whole.1).contains("secret"));
    }
}
