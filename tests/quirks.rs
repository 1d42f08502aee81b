//! What real cameras do: each case of `tests/golden/quirks/` is played to the program, all at once.
//!
//! A recording must play, hold what was sent, the ledger must say what was missing, and the camera must have
//! seen as many connections as it takes. `QUIRK=name cargo test --test quirks` plays those of that name.

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
use rig::fake_camera;
use rig::json::{Look, quote};
use rig::loop_disk::LoopDisk;
use rig::nvr::{Nvr, Recording};
use rig::temp_dir::TempDir;
use rig::wait;

/// The longest script, on a loaded machine.
const PLAYED_WITHIN: Duration = Duration::from_secs(60);
const DISK_BYTES: u64 = 256 << 20;
const FINISHED_WITHIN: Duration = Duration::from_secs(20);

/// A case that is being played.
struct Playing<'a> {
    case: &'a Case,
    camera: ScriptedCamera,
    id: u64,
}

#[test]
fn every_camera_of_the_table_is_recorded() {
    play_all("quirks");
}

/// The disk stands still from the first fragment until the camera has sent its last picture.
#[test]
fn a_camera_without_patience_never_waits_for_a_disk() {
    let mut cases = quirk_case::load_all("quirks");
    cases.retain(|case| case.name == "hangs_up_when_nobody_reads");
    let Some(case) = cases.first() else { return }; // `QUIRK` names another
    quirk_media::film(&case.clip);
    let home = TempDir::new("cases_slow_disk");
    let Some(mut disk) = LoopDisk::mount(home.path(), DISK_BYTES) else {
        println!("loop mounts are not allowed here: the disk does not stand still");
        return;
    };
    let nvr = Nvr::start(home.path());
    let path = disk.path().join("recordings").display().to_string();
    nvr.set(&format!(r#"{{"storage_path":{}}}"#, quote(&path)));
    nvr.keep_files_long();
    let playing = [start(&nvr, case)];
    wait::until("the stream is recorded", PLAYED_WITHIN, || {
        let recordings = nvr.recordings("");
        recordings.iter().any(|r| r.size > 0).then_some(())
    });
    disk.freeze();
    let frozen = disk.thaw_on_panic();
    wait::until("the camera is through", PLAYED_WITHIN, || {
        playing[0].camera.progress.is_done.load(Ordering::SeqCst).then_some(())
    });
    drop(frozen);
    disk.thaw();
    judge(&finish(&nvr, &playing));
    assert!(nvr.stop().success());
}

/// Bytes for hostile cameras together, one of which has a picture of 8 MiB and its buffers; a debug build's, too.
const GROWTH_KIB_MAX: u64 = 64 << 10;

#[test]
fn hostile_cameras_cost_their_neighbours_nothing() {
    let (before, after) = play_all("hostile");
    assert!(after < before + GROWTH_KIB_MAX, "from {before} to {after} KiB");
}

/// Plays the cases of this directory. Gives the program's memory in KiB, idle and afterwards.
fn play_all(dir: &str) -> (u64, u64) {
    let cases = quirk_case::load_all(dir);
    if cases.is_empty() {
        assert!(std::env::var_os("QUIRK").is_some(), "no cases");
        return (0, 0);
    }
    // Cameras film what is there before they are asked.
    cases.iter().for_each(|case| drop(quirk_media::film(&case.clip)));
    let home = TempDir::new(&format!("cases_{dir}"));
    let nvr = Nvr::start(home.path());
    nvr.set(r#"{"max_streams":256}"#);
    nvr.keep_files_long();
    let before = nvr.rss_kib();
    let playing: Vec<Playing> = cases.iter().map(|case| start(&nvr, case)).collect();
    let finished = finish(&nvr, &playing);
    let after = nvr.rss_kib();
    judge(&finished);
    assert!(nvr.stop().success());
    assert_eq!(rig::nvr::check(home.path()), (Some(0), String::new()));
    (before, after)
}

/// Adds a stream of this camera.
fn start<'a>(nvr: &Nvr, case: &'a Case) -> Playing<'a> {
    let camera = ScriptedCamera::start(case);
    let transport = case.transport.as_deref();
    let transport =
        transport.map(|word| format!(r#","transport":{}"#, quote(word))).unwrap_or_default();
    let body =
        format!(r#"{{"name":{},"url":{}{transport}}}"#, quote(&case.name), quote(&camera.url));
    let id = nvr.json("POST", "/api/v1/streams", Some(&body)).field("id").integer();
    Playing { case, camera, id }
}

/// Panics with all that is not as the cases want it.
#[track_caller]
fn judge(finished: &[Finished]) {
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
    assert!(faults.is_empty(), "{} cases\n  {}", finished.len(), faults.join("\n  "));
}

/// A case that was played: the stream at its end, its recordings, and what the ledger says of them.
type Finished<'a> = (&'a Playing<'a>, miniserde::json::Value, Vec<Recording>, Vec<String>);

/// Ends each stream when its camera is through, and `status_detail` says what it is to say: a camera that is
/// silent any longer would be left.
fn finish<'a>(nvr: &Nvr, playing: &'a [Playing<'a>]) -> Vec<Finished<'a>> {
    let mut waiting: Vec<&Playing> = playing.iter().collect();
    let mut ended = Vec::new();
    let end = Instant::now() + PLAYED_WITHIN;
    while !waiting.is_empty() {
        let names = || waiting.iter().map(|play| play.case.name.as_str()).collect::<Vec<_>>();
        assert!(Instant::now() < end, "not through: {:?}", names());
        waiting.retain(|play| {
            if !play.camera.progress.is_done.load(Ordering::SeqCst) {
                return true;
            }
            let seen = nvr.stream(play.id);
            let detail = seen.field("status_detail").text();
            if play.case.want.detail.as_ref().is_some_and(|want| !detail.contains(want)) {
                return true;
            }
            let path = format!("/api/v1/streams/{}", play.id);
            nvr.json("PUT", &path, Some(r#"{"enabled":false}"#));
            ended.push((*play, seen));
            false
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
    // A new connection that came at once is no gap.
    let is_long = |span: &&miniserde::json::Value| {
        let ms = |name| {
            let text = span.field(name).text();
            lightnvr::system::clock::parse_rfc3339_ms(text).expect("a time")
        };
        span.field("state").text() == "recorded" || ms("end") - ms("start") > 1500
    };
    let states = spans.filter(is_long).map(|span| span.field("state").text().to_owned());
    let states: Vec<String> = states.collect();
    // The list gives times to the second, so the ends are a little off.
    let is_recorded = |state: &String| state == "recorded";
    let from = states.iter().position(is_recorded).unwrap_or(0);
    let to = states.iter().rposition(is_recorded).map_or(0, |at| at + 1);
    states[from..to].to_vec()
}

fn check_camera(play: &Playing, found: &mut Vec<String>) {
    let want = &play.case.want;
    let connections = play.camera.progress.connections.load(Ordering::SeqCst);
    if !(want.connections.0..=want.connections.1).contains(&connections) {
        found.push(format!("{connections} connections, want {:?}", want.connections));
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
    if !want.advice.iter().all(is_given)
        || want.advice.len() != advice.len() && !want.has_more_advice
    {
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
