//! A camera that plays a case of the table (`quirk_case.rs`) on the fake camera's connections.
//!
//! What can be done after PLAY, one line each; a camera that is through stays and answers:
//! - `pictures N`: the next N pictures, at their pace. `hush N`: their time passes without them.
//!   `miss N`: they got lost, their numbers with them. `skip N`: the clip goes on without time.
//! - `clip NAME`: another film. `pace FPS`: how fast they come. `stamps FPS`: what their times say.
//! - `sets none|band|marked|late`: parameter sets before keyframes; with a marker; with the time of the picture before.
//! - `marks last|each|never`: markers. `pack plain|codes|joined|split|whole`: start codes
//!   in payloads; fragments that begin and end.
//! - `outlier EVERY S`, `shift S`: times that are wrong by S seconds, once each so many pictures, or from now on.
//! - `sequence N`, `timestamp N`: of what follows. `ssrc WORD`: four letters.
//! - `sound pcma|aac|adts|off`: goes with the pictures. `report S`: sender reports of a clock that is S seconds off.
//! - `text`: its `|` lines are sent. `hex BYTES...`: these are. `packet CHANNEL TYPE BYTES...`: an RTP packet.
//! - `torn N`: N bytes of a packet, whose rest never comes. `bye`: RTCP BYE. `renew`: another nonce.
//! - `spoil bits|cut N`: each Nth payload. `giant MB`: a NAL unit without end. `flood N`: packets of a byte.
//! - `wait S`, `done`: the runner may end the stream. `close`: hangs up.
//! - UDP only: `swap N`: each Nth packet comes N / 2 packets later. `double N`, `lose N`: each Nth comes twice,
//!   never. `stranger N`: each Nth is accompanied by one from another address.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use md5::{Digest as _, Md5};

use super::fake_camera::{FakeCamera, Heard, Peer, Request, frame};
use super::quirk_case::{Case, Connection, Line};
use super::quirk_media::{Film, film, fragments, jpeg_payloads, nal_payloads};
use super::quirk_udp::Lane;
use super::rig::clips::Video;

/// Ticks between two pictures of every clip.
const PICTURE_TICKS: f64 = 6000.0;
const PICTURES_PER_S: f64 = 15.0;
/// After the last act: packets are read at common moments, and the last picture waits for another.
const SETTLE: Duration = Duration::from_millis(1500);
const FOR_EVER: Duration = Duration::from_secs(600);

/// What the test sees of a camera.
#[derive(Default)]
pub struct Progress {
    pub connections: AtomicUsize,
    pub is_done: AtomicBool,
    /// Heads of all that the recorder sent.
    pub said: Mutex<String>,
}

/// A camera that plays a case; ends when dropped.
pub struct ScriptedCamera {
    _camera: FakeCamera,
    pub progress: Arc<Progress>,
    pub url: String,
    /// Address and port, which `$HOST` stands for.
    pub host: String,
}

impl ScriptedCamera {
    pub fn start(case: &Case) -> Self {
        let progress = Arc::new(Progress::default());
        let (seen, case_of_camera) = (Arc::clone(&progress), case.clone());
        let camera = FakeCamera::start(move |n, peer| {
            seen.connections.store(n + 1, Ordering::SeqCst);
            let connections = &case_of_camera.connections;
            let at = n.min(connections.len() - 1);
            let is_last = at + 1 == connections.len();
            let mut player = Player::new(peer, &case_of_camera, &connections[at], &seen, n);
            let _ = player.run(is_last);
            if player.rules.iter().any(|rule| rule.word(0) == "over") {
                seen.is_done.store(true, Ordering::SeqCst);
            }
        });
        let host = camera.url().replace("rtsp://", "").replace("/stream", "");
        let url = case.url.replace("$HOST", &host);
        Self { _camera: camera, progress, url, host }
    }
}

/// One connection. Whatever returns `None` ends it.
struct Player<'a> {
    peer: &'a mut Peer,
    case: &'a Case,
    acts: &'a [Line],
    rules: Vec<Line>,
    progress: &'a Progress,
    nonce: u32,
    has_sets_in_sdp: bool,
    setups: usize,
    is_playing: bool,
    is_asked_to_end: bool,
    heard_at: Instant,
    lanes: [Lane; 2],
    film: Arc<Film>,
    next: usize,
    /// Where the film's time 0 lies.
    film_base: f64,
    last_ticks: f64,
    manner: Manner,
    number: u16,
    sound: Sound,
    due_at: Instant,
    count: u32,
}

/// How pictures are sent.
struct Manner {
    sets: String,
    marks: String,
    pack: String,
    interval: Duration,
    stamp_ratio: f64,
    outlier: (u32, f64),
    ssrc: [u8; 4],
    /// Each so many payloads are cut, or have bits turned.
    spoil: (bool, u32),
}

struct Sound {
    kind: String,
    number: u16,
    /// Samples so far.
    samples: u32,
    rate: u32,
}

impl<'a> Player<'a> {
    fn new(
        peer: &'a mut Peer,
        case: &'a Case,
        connection: &'a Connection,
        progress: &'a Progress,
        n: usize,
    ) -> Self {
        let rules = connection.rules.clone();
        let rule = |name: &str| rules.iter().find(|rule| rule.word(0) == name);
        let sound = rule("sound").map_or("off", |rule| rule.word(1)).to_owned();
        let film = film(&case.clip);
        Self {
            peer,
            case,
            acts: &connection.acts,
            progress,
            nonce: n as u32 * 100,
            has_sets_in_sdp: true,
            setups: 0,
            is_playing: false,
            is_asked_to_end: false,
            heard_at: Instant::now(),
            lanes: [Lane::Channel(0), Lane::Channel(2)],
            film,
            next: 0,
            film_base: 1_000_000.0,
            last_ticks: 1_000_000.0,
            manner: Manner {
                sets: "none".to_owned(),
                marks: "last".to_owned(),
                pack: "plain".to_owned(),
                interval: Duration::from_secs_f64(1.0 / PICTURES_PER_S),
                stamp_ratio: 1.0,
                outlier: (0, 0.0),
                ssrc: *b"CAM0",
                spoil: (false, 0),
            },
            number: 100,
            sound: Sound {
                rate: if sound == "pcma" { 8000 } else { 16_000 },
                kind: sound,
                number: 0,
                samples: 0,
            },
            due_at: Instant::now(),
            count: 0,
            rules,
        }
    }

    fn run(&mut self, is_last: bool) -> Option<()> {
        if let Some(rule) = self.rules.iter().find(|rule| rule.word(0) == "patience") {
            self.peer.be_impatient(Duration::from_secs_f64(rule.number(1)));
        }
        while !self.is_playing {
            self.listen(FOR_EVER)?;
        }
        self.heard_at = Instant::now();
        self.due_at = Instant::now();
        for act in self.acts {
            self.act(act)?;
        }
        self.lanes[0].flush();
        self.listen(SETTLE)?;
        if is_last {
            self.progress.is_done.store(true, Ordering::SeqCst);
        }
        loop {
            self.listen(FOR_EVER)?;
        }
    }

    /// Answers what comes for so long, or until PLAY was answered.
    fn listen(&mut self, time: Duration) -> Option<()> {
        let was_playing = self.is_playing;
        let end = Instant::now() + time;
        while Instant::now() < end && self.is_playing == was_playing {
            let lifeline = self.rules.iter().find(|rule| rule.word(0) == "lifeline").cloned();
            let lifeline = lifeline.filter(|_| self.is_playing);
            let dead_at = lifeline
                .as_ref()
                .map(|rule| self.heard_at + Duration::from_secs_f64(rule.number(1)));
            match self.peer.hear_until(dead_at.map_or(end, |dead_at| dead_at.min(end))) {
                Heard::End => return None,
                Heard::Nothing if dead_at.is_some_and(|at| Instant::now() >= at) => return None,
                Heard::Nothing => {}
                Heard::Request(request) => self.hear(&request, lifeline.as_ref())?,
            }
        }
        Some(())
    }

    fn hear(&mut self, request: &Request, lifeline: Option<&Line>) -> Option<()> {
        self.progress.said.lock().expect("no panic inside").push_str(&request.head);
        if request.method == "RTSP/1.0" {
            return Some(());
        }
        if let Some(rule) = lifeline {
            let words = &rule.words[2..];
            let needs_session = words.iter().any(|word| word == "session");
            let is_meant =
                words.iter().all(|word| word == "session") || words.contains(&request.method);
            if is_meant && (!needs_session || request.field("Session").is_some()) {
                self.heard_at = Instant::now();
            }
        }
        self.is_asked_to_end |= request.method == "TEARDOWN";
        let needed = self.rules.iter().filter(|rule| rule.word(0) == "need");
        if needed.clone().any(|rule| request.field(rule.word(1)).is_none()) {
            self.answer(request, 401, &Line::default());
            return Some(());
        }
        if let Some(login) = &self.case.login
            && !self.is_signed(request, login)
        {
            let challenge = Line { words: Vec::new(), text: login.text.clone() };
            self.answer(request, 401, &challenge);
            return Some(());
        }
        let rules = self.rules.iter();
        let fits = |rule: &Line| rule.word(1) == request.method;
        let once = rules.clone().position(|rule| rule.word(0) == "once" && fits(rule));
        let rule = match once {
            Some(at) => Some(self.rules.remove(at)),
            None => rules.filter(|rule| rule.word(0) == "on").find(|rule| fits(rule)).cloned(),
        };
        let rule = rule.unwrap_or_default();
        match rule.word(2) {
            "close" => return None,
            "none" => return Some(()),
            "" => self.answer(request, 200, &rule),
            status => self.answer(request, status.parse().expect("a status"), &rule),
        }
        Some(())
    }

    /// Digest as of RFC 2069, or Basic where that is all there is.
    fn is_signed(&self, request: &Request, login: &Line) -> bool {
        let md5 = |text: String| -> String {
            Md5::digest(text).iter().map(|byte| format!("{byte:02x}")).collect()
        };
        let header = request.field("Authorization").unwrap_or("");
        let realm = login.text.iter().find_map(|line| {
            let (_, rest) =
                line.strip_prefix("WWW-Authenticate: Digest ")?.split_once("realm=\"")?;
            rest.split('"').next()
        });
        let realm = realm.expect("a Digest challenge");
        let ha1 = md5(format!("{}:{realm}:{}", login.word(1), login.word(2)));
        let ha2 = md5(format!("{}:{}", request.method, request.uri));
        let response = md5(format!("{ha1}:{}:{ha2}", self.nonce_text()));
        header.starts_with("Digest ") && header.contains(&format!("response=\"{response}\""))
    }

    fn nonce_text(&self) -> String {
        format!("nonce{}", self.nonce)
    }

    /// Answers with the lines of `rule` in place of the fields of these names.
    fn answer(&mut self, request: &Request, status: u16, rule: &Line) {
        let cseq = request.field("CSeq").unwrap_or("0").to_owned();
        let mut body = String::new();
        let session = "Session: 1234".to_owned();
        let mut fields = vec![format!("CSeq: {cseq}")];
        match request.method.as_str() {
            _ if status >= 300 => {}
            "OPTIONS" => fields.push("Public: OPTIONS, DESCRIBE, SETUP, PLAY, TEARDOWN".to_owned()),
            "DESCRIBE" => {
                fields.push("Content-Type: application/sdp".to_owned());
                body = self.sdp();
            }
            "SETUP" => {
                let asked = request.field("Transport").unwrap_or("").to_owned();
                let at = self.setups.min(1);
                self.setups += 1;
                fields.push(session);
                fields.push(format!("Transport: {}", self.lanes[at].set_up(&asked)));
            }
            _ => fields.push(session),
        }
        let name_of = |line: &str| line.split(':').next().unwrap_or("").to_ascii_lowercase();
        for line in &rule.text {
            let name = name_of(line.trim_start_matches('!'));
            fields.retain(|field| name_of(field) != name);
        }
        let own = rule.text.iter().filter(|line| !line.starts_with('!'));
        fields.extend(own.map(|line| self.fill(line, &cseq)));
        if !body.is_empty() {
            fields.push(format!("Content-Length: {}", body.len()));
        }
        let head = fields.join("\r\n");
        self.peer.send(format!("RTSP/1.0 {status} X\r\n{head}\r\n\r\n{body}").as_bytes());
        self.is_playing |= request.method == "PLAY" && status < 300;
    }

    fn fill(&self, text: &str, cseq: &str) -> String {
        let text = text.replace("$LONG", &"a".repeat(20_000));
        let media = "m=video 0 RTP/AVP 96 97 98 99 100\r\na=rtpmap:96 VP8/90000\r\n";
        let text = text.replace("$MEDIA", &media.repeat(900));
        let text = text.replace("$CSEQ", cseq).replace("$NONCE", &self.nonce_text());
        self.film.fill(&text.replace("$HOST", &self.peer.host()))
    }

    fn sdp(&self) -> String {
        if let Some(own) = self.rules.iter().find(|rule| rule.word(0) == "sdp") {
            let end = if own.word(1) == "lf" { "\n" } else { "\r\n" };
            return self.fill(&own.text.join(end), "");
        }
        let sound = match self.sound.kind.as_str() {
            "off" => String::new(),
            "pcma" => "m=audio 0 RTP/AVP 8\r\na=control:trackID=1\r\n".to_owned(),
            _ => format!(
                "m=audio 0 RTP/AVP 97\r\na=rtpmap:97 MPEG4-GENERIC/16000/1\r\na=fmtp:97 mode=AAC-hbr;\
                 sizelength=13;indexlength=3;indexdeltalength=3;config={}\r\na=control:trackID=1\r\n",
                self.film.aac_config()
            ),
        };
        self.film.sdp(self.has_sets_in_sdp) + &sound
    }

    fn act(&mut self, act: &Line) -> Option<()> {
        let whole = || act.number(1) as u32;
        match act.word(0) {
            "pictures" => (0..whole()).try_for_each(|_| self.picture(true))?,
            "hush" => (0..whole()).try_for_each(|_| self.picture(false))?,
            "miss" => {
                self.number = self.number.wrapping_add(20);
                (0..whole()).try_for_each(|_| self.picture(false))?;
            }
            "skip" => {
                self.next += whole() as usize;
                self.film_base = self.last_ticks - self.film.pictures[self.next].ticks as f64;
            }
            "clip" => {
                self.film = film(act.word(1));
                self.next = 0;
                self.film_base = self.last_ticks + PICTURE_TICKS;
            }
            "pace" => self.manner.interval = Duration::from_secs_f64(1.0 / act.number(1)),
            "stamps" => self.manner.stamp_ratio = PICTURES_PER_S / act.number(1),
            "sets" => self.manner.sets = act.word(1).to_owned(),
            "marks" => self.manner.marks = act.word(1).to_owned(),
            "pack" => self.manner.pack = act.word(1).to_owned(),
            "outlier" => self.manner.outlier = (whole(), act.number(2) * 90_000.0),
            "shift" => self.film_base += act.number(1) * 90_000.0,
            "sequence" => self.number = whole() as u16,
            "timestamp" => self.film_base = act.number(1),
            "ssrc" => self.manner.ssrc = act.word(1).as_bytes().try_into().expect("four letters"),
            "sound" => self.sound.kind = act.word(1).to_owned(),
            "report" => self.report(act.number(1)),
            "text" => {
                let text = self.fill(&(act.text.join("\r\n") + "\r\n\r\n"), "");
                self.peer.send(text.as_bytes());
            }
            "hex" => drop(self.peer.send(&bytes_of(&act.words[1..]))),
            "packet" => {
                let body = bytes_of(&act.words[3..]);
                let packet = packet(act.number(2) as u8, 1, 1, *b"ELSE", true, &body);
                self.peer.send(&frame(act.number(1) as u8, &packet));
            }
            "torn" => {
                let packet = packet(96, self.number, 0, self.manner.ssrc, false, &[0x41; 1300]);
                self.peer.send(&frame(0, &packet)[..whole() as usize]);
            }
            "bye" => {
                let bye = [&[0x81, 203, 0, 1][..], &self.manner.ssrc].concat();
                self.lanes[0].send_control(self.peer, &bye);
            }
            "renew" => self.nonce += 1,
            "wait" => {
                self.listen(Duration::from_secs_f64(act.number(1)))?;
                self.due_at = Instant::now();
            }
            "done" => self.progress.is_done.store(true, Ordering::SeqCst),
            "close" => return None,
            "channel" => self.lanes[0] = Lane::Channel(whole() as u8),
            "spoil" => self.manner.spoil = (act.word(1) == "cut", act.number(2) as u32),
            "giant" => self.giant(whole())?,
            "flood" => self.flood(whole()),
            "swap" | "double" | "lose" | "stranger" => self.lanes[0].spoil(act.word(0), whole()),
            other => panic!("{}: no act {other:?}", self.case.name),
        }
        Some(())
    }

    /// Waits for the next picture's time and sends it with its sound.
    fn picture(&mut self, is_sent: bool) -> Option<()> {
        self.due_at += self.manner.interval;
        let left = self.due_at.saturating_duration_since(Instant::now());
        self.listen(left)?;
        let film = Arc::clone(&self.film);
        let picture = &film.pictures[self.next];
        let before = self.last_ticks;
        let mut ticks = self.film_base + picture.ticks as f64 * self.manner.stamp_ratio;
        self.last_ticks = ticks;
        self.next += 1;
        self.count += 1;
        let (every, by) = self.manner.outlier;
        if every > 0 && self.count.is_multiple_of(every) {
            ticks += by;
        }
        if is_sent {
            let sets: &[Vec<u8>] = if picture.is_key { &film.sets } else { &[] };
            self.send_picture(&film, &picture.nals, sets, ticks, before);
        }
        self.send_sound(&film);
        Some(())
    }

    fn send_picture(
        &mut self,
        film: &Film,
        nals: &[Vec<u8>],
        sets: &[Vec<u8>],
        ticks: f64,
        before: f64,
    ) {
        if film.video == Video::Mjpeg {
            let payloads = jpeg_payloads(&nals[0]);
            return self.send_payloads(26, &payloads, ticks, true);
        }
        let sets = if self.manner.sets == "none" { &[] } else { sets };
        let (code, first) = ([0, 0, 0, 1], sets.first().map_or(0, Vec::len));
        match self.manner.pack.as_str() {
            "joined" | "split" => {
                let all: Vec<&[u8]> = sets.iter().chain(nals).map(Vec::as_slice).collect();
                let mut joined = nal_payloads(&all.join(&code[..]), film.video, false);
                if self.manner.pack == "split" && first > 0 {
                    joined = fragments(&all.join(&code[..]), first + 1);
                }
                return self.send_payloads(96, &joined, ticks, true);
            }
            _ => {}
        }
        for set in sets {
            let (ticks, has_marker) = match self.manner.sets.as_str() {
                "late" => (before, true),
                other => (ticks, other == "marked"),
            };
            let set =
                if self.manner.pack == "codes" { [&code, &set[..]].concat() } else { set.clone() };
            self.send_payloads(96, &[set], ticks, has_marker || self.manner.marks == "each");
        }
        for (n, nal) in nals.iter().enumerate() {
            let mut payloads = nal_payloads(nal, film.video, self.manner.pack == "whole");
            if self.manner.pack == "codes" && payloads.len() == 1 {
                payloads[0].splice(..0, code);
            }
            let is_end = n + 1 == nals.len() || self.manner.marks == "each";
            self.send_payloads(96, &payloads, ticks, is_end);
        }
    }

    /// The last one with a marker, if `is_end`.
    fn send_payloads(&mut self, kind: u8, payloads: &[Vec<u8>], ticks: f64, is_end: bool) {
        for (n, payload) in payloads.iter().enumerate() {
            let has_marker = is_end && n + 1 == payloads.len() && self.manner.marks != "never";
            let timestamp = ticks as i64 as u32;
            let payload = &self.spoiled(payload);
            let packet =
                packet(kind, self.number, timestamp, self.manner.ssrc, has_marker, payload);
            self.lanes[0].send(self.peer, &packet);
            self.number = self.number.wrapping_add(1);
        }
    }

    fn spoiled(&self, payload: &[u8]) -> Vec<u8> {
        let mut payload = payload.to_vec();
        let (is_cut, every) = self.manner.spoil;
        if every > 0 && u32::from(self.number).is_multiple_of(every) {
            if is_cut {
                payload.truncate(payload.len() / 2);
            } else {
                let at = usize::from(self.number) * 7 % payload.len();
                payload[at] ^= 1 << (self.number % 8);
            }
        }
        payload
    }

    /// Fragments of one NAL unit that never ends, 10 MB in a second.
    fn giant(&mut self, megabytes: u32) -> Option<()> {
        let body = [&[0x7c, 5][..], &[0x5a; 50_000]].concat();
        for n in 0..megabytes * 20 {
            let mut body = body.clone();
            body[1] |= u8::from(n == 0) << 7;
            let ticks = self.last_ticks + PICTURE_TICKS;
            self.send_payloads(96, &[body], ticks, false);
            self.listen(Duration::from_millis(5))?;
        }
        self.due_at = Instant::now();
        Some(())
    }

    /// Packets of one byte, as fast as they are taken.
    fn flood(&mut self, packets: u32) {
        let mut many = Vec::new();
        for n in 0..packets {
            many.extend(frame(0, &packet(96, n as u16, n, self.manner.ssrc, true, &[0x41])));
            if many.len() > 1 << 16 && !self.peer.send(&many) {
                return;
            }
            if many.len() > 1 << 16 {
                many.clear();
            }
        }
    }

    /// The sound of a picture's time.
    fn send_sound(&mut self, film: &Film) {
        let until = (f64::from(self.count) / PICTURES_PER_S * f64::from(self.sound.rate)) as u32;
        while self.sound.samples < until {
            let (kind, samples, payload) = match self.sound.kind.as_str() {
                "pcma" => (8, 160, vec![0xd5; 160]),
                "aac" | "adts" => {
                    let frame = &film.aac[self.sound.samples as usize / 1024];
                    let body = if self.sound.kind == "adts" { &frame[..] } else { &frame[7..] };
                    let size = (body.len() as u16) << 3;
                    (97, 1024, [&[0, 16][..], &size.to_be_bytes(), body].concat())
                }
                _ => (0, until - self.sound.samples, Vec::new()),
            };
            if !payload.is_empty() {
                let Sound { number, samples, .. } = self.sound;
                let packet = packet(kind, number, samples, *b"MIC0", true, &payload);
                self.lanes[1].send(self.peer, &packet);
                self.sound.number = number.wrapping_add(1);
            }
            self.sound.samples += samples;
        }
    }

    fn report(&mut self, off_s: f64) {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).expect("after 1970");
        // From 1900 to 1970 (RFC 3550 section 4).
        let ntp = ((now.as_secs_f64() + 2_208_988_800.0 + off_s) * 4_294_967_296.0) as u64;
        let video = (self.manner.ssrc, self.last_ticks as i64 as u32);
        let sound = (*b"MIC0", self.sound.samples);
        for (lane, (ssrc, timestamp)) in self.lanes.iter_mut().zip([video, sound]) {
            let mut report = [&[0x80, 200, 0, 6][..], &ssrc, &ntp.to_be_bytes()].concat();
            report.extend(timestamp.to_be_bytes());
            report.extend([0; 8]);
            lane.send_control(self.peer, &report);
        }
    }
}

/// An RTP packet.
fn packet(
    kind: u8,
    number: u16,
    timestamp: u32,
    ssrc: [u8; 4],
    marker: bool,
    payload: &[u8],
) -> Vec<u8> {
    let mut packet = vec![0x80, u8::from(marker) << 7 | kind];
    packet.extend(number.to_be_bytes());
    packet.extend(timestamp.to_be_bytes());
    packet.extend(ssrc);
    packet.extend(payload);
    packet
}

fn bytes_of(words: &[String]) -> Vec<u8> {
    let byte = |word: &String| u8::from_str_radix(word, 16).expect("bytes in hex");
    words.iter().map(byte).collect()
}
