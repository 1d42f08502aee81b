//! What real cameras do: each case of `tests/golden/quirks/` is played to the program, all at once.
//!
//! A recording must play, hold what was sent, the ledger must say what was missing, and the camera must have
//! seen as many connections as it takes. `QUIRK=name cargo test --test quirks` plays those of that name.

#[path = "rig/fake_camera.rs"]
mod fake_camera;
#[path = "rig/quirk_camera.rs"]
mod quirk_camera;
#[path = "rig/quirk_case.rs"]
mod quirk_case;
#[path = "rig/quirk_media.rs"]
mod quirk_media;
#[path = "rig/quirk_udp.rs"]
mod quirk_udp;
mod rig;

use std::process::{Command, Stdio};
use std::sync::Mutex;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use quirk_camera::ScriptedCamera;
use quirk_case::{Case, Want};
use rig::json::{Look, quote};
use rig::nvr::{Nvr, Recording};
use rig::temp_dir::TempDir;
use rig::wait;

/// The longest script, on a loaded machine.
const PLAYED_WITHIN: Duration = Duration::from_secs(60);
/// From the end of a connection to what the API says of it.
const DETAIL_WITHIN: Duration = Duration::from_secs(5);
const FINISHED_WITHIN: Duration = Duration::from_secs(20);

/// A case that is being played.
struct Playing<'a> {
    case: &'a Case,
    camera: ScriptedCamera,
    id: u64,
}

#[test]
fn every_camera_of_the_table_is_recorded() {
    let cases = quirk_case::load_all();
    assert!(!cases.is_empty(), "no such case");
    // Cameras film what is there before they are asked.
    cases.iter().for_each(|case| drop(quirk_media::film(&case.clip)));
    let home = TempDir::new("quirks");
    let nvr = Nvr::start(home.path());
    nvr.set(r#"{"max_streams":256}"#);
    nvr.keep_files_long();
    let start = |case| {
        let camera = ScriptedCamera::start(case);
        let transport = case.transport.as_deref();
        let transport =
            transport.map(|word| format!(r#","transport":{}"#, quote(word))).unwrap_or_default();
        let body =
            format!(r#"{{"name":{},"url":{}{transport}}}"#, quote(&case.name), quote(&camera.url));
        let id = nvr.json("POST", "/api/v1/streams", Some(&body)).field("id").integer();
        Playing { case, camera, id }
    };
    let playing: Vec<Playing> = cases.iter().map(start).collect();
    let finished = finish(&nvr, &playing);
    // Two at a time: each check is an ffmpeg.
    let (next, faults) = (Mutex::new(finished.iter()), Mutex::new(Vec::new()));
    let work = || {
        while let Some((play, seen, recordings, states)) = {
            let mut next = next.lock().expect("no panic inside");
            next.next()
        } {
            let mut found = Vec::new();
            check_camera(play, &mut found);
            check_stream(&play.case.want, seen, states, &mut found);
            check_recordings(&play.case.want, recordings, &mut found);
            let found = found.into_iter().map(|what| format!("{}: {what}", play.case.name));
            faults.lock().expect("no panic inside").extend(found);
        }
    };
    std::thread::scope(|scope| {
        let other = std::thread::Builder::new().name("judge".into()).spawn_scoped(scope, work);
        work();
        other.expect("a thread").join().expect("no panic inside");
    });
    let faults = faults.into_inner().expect("no panic inside");
    assert!(faults.is_empty(), "{} cases\n  {}", cases.len(), faults.join("\n  "));
    assert!(nvr.stop().success());
    assert_eq!(rig::nvr::check(home.path()), (Some(0), String::new()));
}

/// A case that was played: the stream at its end, its recordings, and what the ledger says of them.
type Finished<'a> = (&'a Playing<'a>, miniserde::json::Value, Vec<Recording>, Vec<String>);

/// Ends each stream when its camera is through, for a camera that says nothing any more is left.
fn finish<'a>(nvr: &Nvr, playing: &'a [Playing<'a>]) -> Vec<Finished<'a>> {
    let mut waiting: Vec<&Playing> = playing.iter().collect();
    let mut ended = Vec::new();
    let end = Instant::now() + PLAYED_WITHIN;
    while !waiting.is_empty() {
        let names = || waiting.iter().map(|play| play.case.name.as_str()).collect::<Vec<_>>();
        assert!(Instant::now() < end, "not through: {:?}", names());
        waiting.retain(|play| {
            let is_done = play.camera.progress.is_done.load(Ordering::SeqCst);
            if is_done {
                let seen = look(nvr, play);
                let path = format!("/api/v1/streams/{}", play.id);
                nvr.json("PUT", &path, Some(r#"{"enabled":false}"#));
                ended.push((*play, seen));
            }
            !is_done
        });
        wait::pause(Duration::from_millis(50));
    }
    let ended = ended.into_iter().map(|(play, seen)| {
        let recordings = match play.case.want.files {
            0 => nvr.recordings(&format!("?stream_id={}", play.id)),
            _ => nvr.wait_for_finished(play.id, FINISHED_WITHIN),
        };
        let states = ledger(nvr, play.id);
        (play, seen, recordings, states)
    });
    ended.collect()
}

/// The stream, when its `status_detail` says what it is to say.
fn look(nvr: &Nvr, play: &Playing) -> miniserde::json::Value {
    let end = Instant::now() + DETAIL_WITHIN;
    loop {
        let seen = nvr.stream(play.id);
        let detail = seen.field("status_detail").text();
        let is_said = play.case.want.detail.as_ref().is_none_or(|want| detail.contains(want));
        if is_said || Instant::now() > end {
            return seen;
        }
        wait::pause(Duration::from_millis(50));
    }
}

/// The states between the begin of the stream's first recording and the end of its last.
fn ledger(nvr: &Nvr, id: u64) -> Vec<String> {
    let list = nvr.json("GET", &format!("/api/v1/recordings?stream_id={id}"), None);
    let rows = list.field("recordings").items();
    let times = |name| rows.iter().map(move |row| row.field(name).text().to_owned());
    let (Some(start), Some(end)) = (times("start_time").min(), times("end_time").max()) else {
        return Vec::new();
    };
    let path = format!("/api/v1/streams/{id}/ledger?start={start}&end={end}");
    let ledger = nvr.json("GET", &path, None);
    let spans = ledger.field("spans").items().iter();
    // The list gives times to the second, so the ends are a little off: nothing of what is there counts, nor does
    // a new connection that came at once.
    let is_long = |span: &&miniserde::json::Value| {
        let ms = |name| {
            let text = span.field(name).text();
            lightnvr::system::clock::parse_rfc3339_ms(text).expect("a time")
        };
        let least_ms = match span.field("state").text() {
            "recorded" => 0,
            "not_configured" | "disabled" => 1000,
            _ => 500,
        };
        ms("end") - ms("start") > least_ms
    };
    spans.filter(is_long).map(|span| span.field("state").text().to_owned()).collect()
}

fn check_camera(play: &Playing, found: &mut Vec<String>) {
    let want = &play.case.want;
    let connections = play.camera.progress.connections.load(Ordering::SeqCst);
    if connections != want.connections {
        found.push(format!("{connections} connections, want {}", want.connections));
    }
    let said = play.camera.progress.said.lock().expect("no panic inside").clone();
    let is_said = |text: &&String| said.contains(&text.replace("$HOST", &play.camera.host));
    let missing = want.said.iter().filter(|text| !is_said(text));
    found.extend(missing.map(|text| format!("never said {text:?}:\n{said}")));
    let forbidden = want.unsaid.iter().filter(is_said);
    found.extend(forbidden.map(|text| format!("said {text:?}:\n{said}")));
}

fn check_stream(
    want: &Want,
    seen: &miniserde::json::Value,
    states: &[String],
    found: &mut Vec<String>,
) {
    let advice: Vec<&str> = seen.field("advice").items().iter().map(Look::text).collect();
    let is_given = |part: &String| advice.iter().any(|text| text.contains(part.as_str()));
    if !want.advice.iter().all(is_given) || want.advice.len() != advice.len() {
        found.push(format!("advice {advice:?}, want {:?}", want.advice));
    }
    let detail = seen.field("status_detail").text();
    if want.detail.as_ref().is_some_and(|part| !detail.contains(part.as_str())) {
        found.push(format!("status_detail {detail:?}, want {:?}", want.detail));
    }
    if states != want.ledger {
        found.push(format!("ledger {states:?}, want {:?}", want.ledger));
    }
}

fn check_recordings(want: &Want, recordings: &[Recording], found: &mut Vec<String>) {
    if recordings.len() != want.files {
        found.push(format!("{} recordings, want {}", recordings.len(), want.files));
    }
    let (mut pictures, mut sounds, mut seconds) = (0, 0, 0.0);
    for recording in recordings {
        let (played, said) = play(recording);
        if !said.is_empty() && !want.is_damaged {
            found.push(format!("ffmpeg: {}", said.lines().next().unwrap_or("")));
        }
        // `framecrc` writes a line for each frame: track, times, size, sum.
        let count = |track: &str| played.lines().filter(|line| line.starts_with(track)).count();
        pictures += count("0,");
        sounds += count("1,");
        seconds += recording.duration;
    }
    if !(want.pictures.0..=want.pictures.1).contains(&pictures) {
        found.push(format!("{pictures} pictures, want {:?}", want.pictures));
    }
    if want.sound.is_some_and(|(least, most)| !(least..=most).contains(&sounds)) {
        found.push(format!("{sounds} frames of sound, want {:?}", want.sound));
    }
    if want.seconds.is_some_and(|(least, most)| !(least..=most).contains(&seconds)) {
        found.push(format!("{seconds} s are recorded, want {:?}", want.seconds));
    }
}

/// Decodes a recording; gives its frames and what ffmpeg had to say.
fn play(recording: &Recording) -> (String, String) {
    let mut ffmpeg = Command::new("ffmpeg");
    ffmpeg.args(["-v", "error", "-nostdin", "-ignore_editlist", "1", "-i"]).arg(&recording.path);
    ffmpeg.args(["-map", "0", "-fps_mode", "passthrough", "-f", "framecrc", "-"]);
    let out = ffmpeg.stdin(Stdio::null()).output().expect("ffmpeg starts");
    let text = |bytes: Vec<u8>| String::from_utf8_lossy(&bytes).into_owned();
    (text(out.stdout), text(out.stderr))
}
