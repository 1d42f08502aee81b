//! HLS, as players and strict readers see it: ffmpeg, GStreamer, hls.js in Chromium, hls-parser, and the
//! rules of RFC 8216bis that none of them checks.

mod rig;

use std::collections::BTreeMap;
use std::fs;
use std::process::Command;
use std::time::{Duration, Instant};

use rig::clips;
use rig::gst_server::{Auth, GstServer, Mount, Sets};
use rig::json::{Look, quote};
use rig::nvr::{Nvr, PASSWORD};
use rig::process::{Process, run_silently};
use rig::temp_dir::TempDir;
use rig::webdriver::Browser;
use rig::{mp4, target_dir, test_file, wait, ws};

const CONNECTED_WITHIN: Duration = Duration::from_secs(20);
const PLAYED_WITHIN: Duration = Duration::from_secs(60);
/// Of 15 fps, more than one list's worth: it went on after a reload.
const GSTREAMER_PICTURES: usize = 120;
/// The middle one of many looks at how far hls.js is behind live.
const BEHIND_S_MAX: f64 = 1.2;

fn base(stream: u64) -> String {
    format!("/api/v1/streaming/{stream}/hls")
}

/// One playlist, read strictly.
#[derive(Debug, Default)]
struct Playlist {
    text: String,
    sequence: u64,
    discontinuities: u64,
    part_target: f64,
    segments: Vec<Segment>,
    hint: String,
}

#[derive(Clone, Debug, Default, PartialEq)]
struct Segment {
    /// Empty while it is open.
    uri: String,
    duration: f64,
    map: String,
    is_discontinuity: bool,
    date: String,
    parts: Vec<(String, f64)>,
}

#[track_caller]
fn parse(text: &str) -> Playlist {
    let mut playlist = Playlist { text: text.to_owned(), ..Playlist::default() };
    let mut segment = Segment::default();
    let mut map = String::new();
    let mut hold_back = 0.0;
    let attribute = |list: &str, name: &str| -> String {
        let value = list.split(',').find_map(|pair| pair.strip_prefix(name)?.strip_prefix('='));
        value.unwrap_or_else(|| panic!("no {name} in {list}")).trim_matches('"').to_owned()
    };
    let number = |text: &str| -> f64 { text.parse().unwrap_or_else(|_| panic!("{text}")) };
    let mut lines = text.lines();
    assert_eq!(lines.next(), Some("#EXTM3U"));
    for line in lines {
        let (tag, value) = line.split_once(':').unwrap_or((line, ""));
        match tag {
            "#EXT-X-VERSION" => assert_eq!(value, "6"),
            "#EXT-X-TARGETDURATION" => assert_eq!(value, "6"),
            "#EXT-X-SERVER-CONTROL" => {
                assert_eq!(attribute(value, "CAN-BLOCK-RELOAD"), "YES");
                hold_back = number(&attribute(value, "PART-HOLD-BACK"));
            }
            "#EXT-X-PART-INF" => {
                let target = number(&attribute(value, "PART-TARGET"));
                assert!((3.0 * target..=1.0).contains(&hold_back), "{text}");
                playlist.part_target = target;
            }
            "#EXT-X-MEDIA-SEQUENCE" => playlist.sequence = value.parse().expect("a number"),
            "#EXT-X-DISCONTINUITY-SEQUENCE" => {
                playlist.discontinuities = value.parse().expect("a number");
            }
            "#EXT-X-INDEPENDENT-SEGMENTS" => {}
            "#EXT-X-MAP" => map = attribute(value, "URI"),
            "#EXT-X-DISCONTINUITY" => segment.is_discontinuity = true,
            "#EXT-X-PROGRAM-DATE-TIME" => segment.date = value.to_owned(),
            "#EXT-X-PART" => {
                let duration = number(&attribute(value, "DURATION"));
                assert!(duration <= playlist.part_target + 1e-9, "{line}");
                segment.parts.push((attribute(value, "URI"), duration));
            }
            "#EXTINF" => segment.duration = number(value.trim_end_matches(',')),
            "#EXT-X-PRELOAD-HINT" => playlist.hint = attribute(value, "URI"),
            uri if !uri.starts_with('#') => {
                assert!(segment.duration > 0.0 && segment.duration.round() <= 6.0, "{text}");
                assert!(!map.is_empty() && !segment.date.is_empty(), "{text}");
                let sum: f64 = segment.parts.iter().map(|part| part.1).sum();
                // A hole of less than a second is in no part.
                let off = (sum - segment.duration).abs();
                assert!(segment.parts.is_empty() || off < 1.0, "parts add up: {segment:?}");
                (segment.uri, segment.map) = (uri.to_owned(), map.clone());
                playlist.segments.push(std::mem::take(&mut segment));
            }
            _ => panic!("unknown line {line}"),
        }
    }
    assert!(!playlist.hint.is_empty() && playlist.part_target > 0.0, "{text}");
    if !segment.parts.is_empty() {
        segment.map = map;
        playlist.segments.push(segment);
    }
    playlist
}

/// What RFC 8216bis section 6.2.1 allows to change from one playlist to the next.
#[track_caller]
fn check_follows(was: &Playlist, is: &Playlist) {
    let gone =
        usize::try_from(is.sequence.checked_sub(was.sequence).expect("it rises")).expect("few");
    let gone = gone.min(was.segments.len());
    let tags = was.segments[..gone].iter().filter(|segment| segment.is_discontinuity).count();
    assert_eq!(is.discontinuities, was.discontinuities + tags as u64, "{}", is.text);
    for (old, new) in was.segments[gone..].iter().zip(&is.segments) {
        assert_eq!((&old.map, old.is_discontinuity), (&new.map, new.is_discontinuity));
        assert_eq!(old.date, new.date);
        if !old.uri.is_empty() {
            assert_eq!((&old.uri, old.duration), (&new.uri, new.duration), "segments stay");
        }
        let known = old.parts.len().min(new.parts.len());
        assert_eq!(old.parts[..known], new.parts[..known], "parts stay");
    }
}

#[track_caller]
fn fetch(nvr: &Nvr, stream: u64, file: &str) -> Vec<u8> {
    let answer = nvr.request("GET", &format!("{}/{file}", base(stream)), None);
    assert_eq!(answer.status, 200, "{file}: {:?}", String::from_utf8_lossy(&answer.body));
    answer.body
}

#[track_caller]
fn playlist(nvr: &Nvr, stream: u64, query: &str) -> Playlist {
    parse(
        std::str::from_utf8(&fetch(nvr, stream, &format!("playlist.m3u8{query}"))).expect("UTF-8"),
    )
}

/// `playlist.m3u8?_HLS_msn=…&_HLS_part=…` for the part that comes next.
fn next_query(playlist: &Playlist) -> String {
    let complete = playlist.segments.iter().filter(|segment| !segment.uri.is_empty()).count();
    let open = playlist.segments.get(complete).map_or(0, |segment| segment.parts.len());
    format!("?_HLS_msn={}&_HLS_part={open}", playlist.sequence + complete as u64)
}

fn hinted(uri: &str) -> u64 {
    let number = uri.strip_prefix("part_").and_then(|rest| rest.strip_suffix(".m4s"));
    number.and_then(|number| number.parse().ok()).expect("a part")
}

fn lint(texts: &[String], home: &TempDir) {
    let file = home.path().join("playlists.json");
    let list: Vec<String> = texts.iter().map(|text| quote(text)).collect();
    fs::write(&file, format!("[{}]", list.join(","))).expect("can be written");
    let script = "const HLS = require('hls-parser'); HLS.setOptions({strictMode: true}); \
                  for (const text of JSON.parse(require('fs').readFileSync(process.argv[1]))) \
                  { const list = HLS.parse(text); \
                    if (!list.isMasterPlaylist) HLS.stringify(list); }";
    let mut node = Command::new("node");
    node.env("NODE_PATH", node_modules()).args(["-e", script]).arg(file);
    run_silently(&mut node);
}

fn node_modules() -> std::path::PathBuf {
    let modules = target_dir().join("npm/node_modules");
    assert!(modules.is_dir(), "no {}: run ./build.sh test", modules.display());
    modules
}

/// All that was seen of a stream by somebody who fetches everything that he is told of.
#[derive(Default)]
struct Run {
    /// Every playlist, the last one also read.
    texts: Vec<String>,
    last: Playlist,
    files: BTreeMap<String, Vec<u8>>,
}

impl Run {
    /// Reloads for so long, as fast as blocked reloads go, holding each list against the rules and the one before;
    /// `between` is called between two of them with the time since the beginning.
    fn follow(nvr: &Nvr, length: Duration, mut between: impl FnMut(Duration)) -> Self {
        let mut run = Self { last: playlist(nvr, 0, ""), ..Self::default() };
        let began = Instant::now();
        while began.elapsed() < length {
            between(began.elapsed());
            let was = std::mem::take(&mut run.last);
            // What is hinted at comes, also when the segment ends before it or the camera is lost.
            run.files.insert(was.hint.clone(), fetch(nvr, 0, &was.hint));
            let asked = Instant::now();
            let is = playlist(nvr, 0, &next_query(&was));
            assert!(asked.elapsed() < Duration::from_secs(10), "a blocked reload ends");
            assert!(hinted(&is.hint) > hinted(&was.hint), "it was blocked until there was more");
            check_follows(&was, &is);
            let is_listed = |segment: &Segment| segment.parts.iter().any(|part| part.0 == was.hint);
            assert!(is.segments.iter().any(is_listed), "{} is not in {}", was.hint, is.text);
            run.fetch_new(nvr, &is);
            run.texts.push(is.text.clone());
            run.last = is;
        }
        let (reloads, files) = (run.texts.len(), run.files.len());
        println!("{reloads} blocked reloads, {files} files, last playlist:\n{}", run.last.text);
        run
    }

    /// Each part, each section, each complete segment that was not fetched before.
    fn fetch_new(&mut self, nvr: &Nvr, is: &Playlist) {
        for segment in &is.segments {
            let mut names: Vec<&String> = segment.parts.iter().map(|part| &part.0).collect();
            names.push(&segment.map);
            names.extend(Some(&segment.uri).filter(|uri| !uri.is_empty()));
            for name in names {
                if !self.files.contains_key(name) {
                    self.files.insert(name.clone(), fetch(nvr, 0, name));
                }
            }
            let whole: Vec<u8> =
                segment.parts.iter().flat_map(|part| self.files[&part.0].clone()).collect();
            if !segment.uri.is_empty() && !segment.parts.is_empty() {
                assert!(
                    whole == self.files[&segment.uri],
                    "{} is the sum of its parts",
                    segment.uri
                );
            }
        }
    }

    /// The numbers of the segments before which an initialization section was listed, in order.
    fn sections(&self) -> Vec<u64> {
        let number = |name: &String| name.strip_prefix("init_")?.strip_suffix(".mp4")?.parse().ok();
        let mut numbers: Vec<u64> = self.files.keys().filter_map(number).collect();
        numbers.sort_unstable();
        numbers
    }

    /// Each section with what belongs to it is a file that plays, with pictures of that width; the widths in order.
    fn check_plays(&self, home: &TempDir) -> Vec<u64> {
        let sections = self.sections();
        let ends = sections[1..].iter().copied().chain([u64::MAX]);
        let widths = sections.iter().zip(ends).map(|(&begin, end)| {
            let mut bytes = self.files[&format!("init_{begin}.mp4")].clone();
            for number in (begin..end).take(100) {
                bytes.extend(self.files.get(&format!("seg_{number}.m4s")).into_iter().flatten());
            }
            let path = home.path().join(format!("{begin}.mp4"));
            fs::write(&path, bytes).expect("can be written");
            mp4::check_plays(&path);
            let mut ffprobe = Command::new("ffprobe");
            ffprobe.args(["-v", "error", "-select_streams", "v", "-show_entries", "stream=width"]);
            ffprobe.args(["-of", "csv=p=0"]).arg(&path);
            let width = String::from_utf8(run_silently(&mut ffprobe)).expect("text");
            width.trim().parse().unwrap_or_else(|_| panic!("{}: {width}", path.display()))
        });
        widths.collect()
    }
}

#[test]
fn a_run_with_another_source_and_another_size_keeps_every_rule() {
    let home = TempDir::new("live_hls_rules");
    let nvr = Nvr::start_with(home.path(), &["--demo"]);
    nvr.wait_for_status(0, "connected", CONNECTED_WITHIN);
    let mut texts = vec![String::from_utf8(fetch(&nvr, 0, "master.m3u8")).expect("UTF-8")];
    assert!(texts[0].contains("CODECS=\"avc1.") && texts[0].contains("RESOLUTION=1280x720"));
    let mut changes =
        vec![(4, r#"{"url":"testpattern://?again"}"#), (8, r#"{"width":640,"height":360}"#)]
            .into_iter()
            .peekable();
    let run = Run::follow(&nvr, Duration::from_secs(34), |since| {
        if let Some((_, change)) = changes.next_if(|(at, _)| since > Duration::from_secs(*at)) {
            nvr.json("PUT", "/api/v1/streams/0", Some(change));
        }
    });
    // A hole, such as a slow start of the encoder makes, has one of its own.
    assert!((3..6).contains(&run.sections().len()), "one of the beginning, one after each change");
    let was = &run.last;
    assert!(was.discontinuities >= 1, "one has left the list: {}", was.text);
    assert!(was.segments.iter().map(|segment| segment.duration).sum::<f64>() >= 18.0);
    let widths = run.check_plays(&home);
    assert_eq!((widths.first(), widths.last()), (Some(&1280), Some(&640)));
    texts.extend_from_slice(&run.texts);
    lint(&texts, &home);
    // What left the list is there for one window more, what was never there is not.
    fetch(&nvr, 0, &format!("seg_{}.m4s", was.sequence - 1));
    let not_there = |file: &str| nvr.request("GET", &format!("{}/{file}", base(0)), None).status;
    assert_eq!(not_there("seg_0.m4s"), 404);
    assert_eq!(not_there(&format!("seg_{}.m4s", was.sequence + 99)), 404);
    assert_eq!(not_there(&format!("part_{}.m4s", hinted(&was.hint) + 99)), 404);
    assert_eq!(not_there("part_1.m4s"), 404);
    assert_eq!(not_there("init_0.mp4"), 404);
    assert_eq!(not_there(&format!("playlist.m3u8?_HLS_msn={}", was.sequence + 99)), 400);
    assert_eq!(not_there("playlist.m3u8?_HLS_part=1"), 400);
    assert_eq!(not_there("nothing.m3u8"), 404);
}

/// The same camera comes back first, then a smaller one without sound is behind its address.
#[test]
fn a_run_with_a_camera_that_is_cut_off_twice_keeps_every_rule() {
    let home = TempDir::new("live_hls_cut");
    let camera = |clip| [Mount { path: "cam", clip, sets: Sets::Both }];
    let mut server = GstServer::start(Auth::None, &camera(&clips::LONG));
    let nvr = Nvr::start(home.path());
    let id = nvr.add_stream("cam", &server.url("cam"));
    nvr.wait_for_status(id, "connected", CONNECTED_WITHIN);
    let mut cuts = vec![(4, &clips::LONG), (10, &clips::H264_SMALL)].into_iter().peekable();
    let run = Run::follow(&nvr, Duration::from_secs(34), |since| {
        if let Some((_, clip)) = cuts.next_if(|(at, _)| since > Duration::from_secs(*at)) {
            server.replace(&camera(clip));
        }
    });
    let widths = run.check_plays(&home);
    assert_eq!(widths[..3], [640, 640, 320], "{widths:?}");
    assert!(run.last.discontinuities >= 1, "one has left the list: {}", run.last.text);
    lint(&run.texts, &home);
}

#[test]
fn nothing_is_shown_without_a_password() {
    let home = TempDir::new("live_hls_password");
    let nvr = Nvr::start_with(home.path(), &["--demo"]);
    nvr.wait_for_status(0, "connected", CONNECTED_WITHIN);
    let list = playlist(&nvr, 0, "");
    let segment = &list.segments[0];
    let files = ["playlist.m3u8", "master.m3u8", &list.hint, &segment.map, &segment.uri];
    let mut paths: Vec<String> = files.iter().map(|file| format!("{}/{file}", base(0))).collect();
    paths.extend(segment.parts.iter().map(|part| format!("{}/{}", base(0), part.0)));
    paths.extend(paths.clone().iter().map(|path| format!("{path}?quality=sub")));
    for path in ["live", "live?quality=sub", "mjpeg", "mjpeg?quality=sub", "mjpeg?width=64&fps=1"] {
        paths.push(format!("/api/v1/streaming/0/{path}"));
    }
    for path in ["snapshot.jpg", "snapshot.jpg?quality=sub", "snapshot.jpg?width=64", "hls/x", "x"]
    {
        paths.push(format!("/api/v1/streaming/0/{path}"));
    }
    for path in &paths {
        for headers in [&[][..], &[("Authorization", "Basic YWRtaW46d3Jvbmc=")]] {
            let answer =
                rig::http::request(nvr.addr, "GET", path, headers, None).expect("an answer");
            assert!(matches!(answer.status, 401 | 429), "{path}: {}", answer.status);
        }
        assert!(matches!(ws::open(nvr.addr, path, &[]).err(), Some(401 | 429)), "{path}");
    }
}

#[test]
fn ffmpeg_and_gstreamer_play_it() {
    let home = TempDir::new("live_hls_players");
    let mounts = [
        Mount { path: "aac", clip: &clips::LONG, sets: Sets::Both },
        Mount { path: "h265", clip: &clips::H265, sets: Sets::Both },
        Mount { path: "pcma", clip: &clips::H264_PCMA, sets: Sets::Both },
    ];
    let server = GstServer::start(Auth::None, &mounts);
    let nvr = Nvr::start(home.path());
    let header = format!("Authorization: {}\r\n", nvr.login());
    for (mount, streams) in mounts.iter().zip([["h264", "aac"], ["hevc", ""], ["h264", "flac"]]) {
        let id = nvr.add_stream(mount.path, &server.url(mount.path));
        nvr.wait_for_status(id, "connected", CONNECTED_WITHIN);
        let url = format!("http://{}{}/playlist.m3u8", nvr.addr, base(id));
        let mut ffprobe = Command::new("timeout");
        ffprobe.args(["60", "ffprobe", "-v", "error", "-headers", &header]);
        ffprobe.args(["-show_entries", "stream=codec_name", "-of", "csv=p=0", &url]);
        let found = String::from_utf8(run_silently(&mut ffprobe)).expect("text");
        let wanted: Vec<&str> = streams.into_iter().filter(|name| !name.is_empty()).collect();
        // ffprobe lists the streams of the one program, then all streams.
        let mut names: Vec<&str> = found.lines().filter(|line| !line.is_empty()).collect();
        names.dedup();
        assert!(names.starts_with(&wanted), "{}: {found}", mount.path);
        let mut ffmpeg = Command::new("timeout");
        ffmpeg.args(["60", "ffmpeg", "-v", "error", "-nostdin", "-xerror", "-headers", &header]);
        ffmpeg.args(["-i", &url, "-t", "6", "-f", "null", "-"]);
        run_silently(&mut ffmpeg);
    }
    // GStreamer's demuxers don't hand a login on to what they fetch.
    nvr.set(r#"{"web_auth_enabled":false}"#);
    let url = format!("http://{}{}/playlist.m3u8", nvr.addr, base(0));
    // GStreamer 1.22 knows no parts: it reloads every target duration, and rests when it has played what was listed.
    // So the pictures that come out are counted. Debian's python3: another one on PATH would not find GStreamer.
    let mut player = Command::new("/usr/bin/python3");
    player.arg(test_file("rig/gst_player.py")).arg(&url);
    let mut player = Process::start("gst_player.py", &mut player);
    let pictures = wait::until("GStreamer plays for 8 s", PLAYED_WITHIN, || {
        let shown = player.stdout().iter().filter(|line| line.starts_with("picture ")).count();
        assert!(player.is_running(), "{:?}", player.stderr());
        (shown >= GSTREAMER_PICTURES).then_some(shown)
    });
    println!("GStreamer: {pictures} pictures");
    player.kill();
}

#[test]
fn hls_js_plays_close_to_live_without_a_stall() {
    let home = TempDir::new("live_hls_js");
    let nvr = Nvr::start_with(home.path(), &["--demo"]);
    nvr.wait_for_status(0, "connected", CONNECTED_WITHIN);
    let browser = Browser::start(home.path());
    for name in ["hls.min.js", "hls.light.min.js"] {
        browser.go(&format!("http://admin:{PASSWORD}@{}/api/v1/system", nvr.addr));
        let library = fs::read_to_string(node_modules().join("hls.js/dist").join(name));
        let library = library.expect("hls.js is installed");
        // The recorder's pages allow no script of others: this one comes with WebDriver, not from a page.
        browser.run(&format!("{library}\n; window.Hls = this.Hls || self.Hls || Hls"));
        let url = format!("http://{}{}/playlist.m3u8", nvr.addr, base(0));
        browser.run(&format!(
            "window.from = undefined; window.stalls = 0; window.fatal = ''; window.seen = []; \
             const v = window.v = document.createElement('video'); v.muted = true; \
             document.body.append(v); \
             const hls = window.hls = new Hls({{lowLatencyMode: true, enableWorker: false}}); \
             hls.on(Hls.Events.ERROR, (_, data) => {{ if (data.fatal) fatal = data.details; \
               if (data.details === 'bufferStalledError') stalls += 1; }}); \
             hls.loadSource('{url}'); hls.attachMedia(v); v.play().catch(() => {{}})"
        ));
        let last = wait::until(&format!("{name} plays for 10 s"), PLAYED_WITHIN, || {
            let state = browser.run(
                "if (v.currentTime > 0) window.from ??= v.currentTime; \
                 if (v.currentTime - window.from > 3) seen.push(hls.latency); \
                 return [v.currentTime - (window.from ?? v.currentTime), stalls, fatal, seen.sort((a, b) => a - b)[seen.length >> 1] || 0, v.videoWidth, \
                 v.getVideoPlaybackQuality().totalVideoFrames, v.error ? v.error.message : '']",
            );
            let items = state.items();
            assert_eq!([items[2].text(), items[6].text()], ["", ""], "{name}");
            (items[0].number() > 10.0).then(|| [1, 3, 4, 5].map(|n| items[n].number()))
        });
        let [stalls, latency, width, frames] = last;
        println!("{name}: {frames} frames of {width}, {stalls} stalls, {latency:.2} s behind live");
        assert!(stalls == 0.0 && width == 1280.0 && frames > 100.0);
        assert!(0.0 < latency && latency <= BEHIND_S_MAX, "{name} is {latency} s behind");
        browser.run("hls.destroy(); v.remove()");
    }
}
