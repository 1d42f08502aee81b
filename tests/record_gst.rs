//! The main job on real input: what a GStreamer RTSP server sends is in the files, once and unchanged.
//!
//! In here: whole clips in real time, judged by ffmpeg and ffprobe. Not in here: faulty cameras
//! (`ingest_*`), the machine failing (`record_kill.rs`).

mod rig;

use std::time::Duration;

use rig::clips::{self, Audio, Video};
use rig::gst_server::{Auth, GstServer, Mount, Sets, USER};
use rig::json::Look;
use rig::mp4;
use rig::nvr::{Nvr, Recording};
use rig::temp_dir::TempDir;
use rig::wait;

/// A clip lasts 24 s; the rest is for a loaded machine, and for noticing the end of the session.
const RECORDED_WITHIN: Duration = Duration::from_secs(75);
/// Connecting, on a loaded machine.
const CONNECTED_WITHIN: Duration = Duration::from_secs(20);
/// RTP time stamps are in 1/90000 s; the clip's own are rounded to its file's time scale.
const PTS_S_OFF_MAX: f64 = 0.001;

/// Records each mount from its first to its last access unit and hands its finished files to `check`.
fn record_all(name: &str, mounts: &[Mount], check: impl Fn(&Mount, &[Recording])) {
    let home = TempDir::new(name);
    let server = GstServer::start_once(Auth::None, mounts);
    let nvr = Nvr::start(home.path());
    nvr.set(r#"{"segment_seconds":10}"#);
    let add = |mount: &Mount| nvr.add_stream(mount.path, &server.url(mount.path));
    let ids: Vec<u64> = mounts.iter().map(add).collect();
    for (mount, id) in mounts.iter().zip(ids) {
        // The path is gone after one session, so the stream can't be connected again.
        wait::until(&format!("{} was played", mount.path), RECORDED_WITHIN, || {
            let is_over = server.plays(mount.path) == 1
                && nvr.stream(id).field("status").text() != "connected"
                && !nvr.recordings(&format!("?stream_id={id}")).is_empty();
            is_over.then_some(())
        });
        let recordings = nvr.wait_for_finished(id, RECORDED_WITHIN);
        assert!(recordings.len() >= 3, "{}: two rotations make three files", mount.path);
        check(mount, &recordings);
    }
    assert!(nvr.stop().success());
    assert_eq!(rig::nvr::check(home.path()), (Some(0), String::new()));
}

/// Every NAL unit of the clip is in the files, in order, once, with its time.
fn check_video(mount: &Mount, recordings: &[Recording]) {
    let video = mount.clip.video;
    let clip = mount.clip.file();
    let sent = mp4::media_units(&clip, video);
    let got: Vec<Vec<u8>> =
        recordings.iter().flat_map(|r| mp4::media_units(&r.path, video)).collect();
    assert_eq!(got.len(), sent.len(), "{}: number of NAL units", mount.path);
    let first_wrong = got.iter().zip(&sent).position(|(got, sent)| got != sent);
    assert_eq!(first_wrong, None, "{}: first NAL unit that differs", mount.path);

    let sent = mp4::packets(&clip, "v");
    let mut at = 0;
    for recording in recordings {
        if mount.clip.name != clips::H264_OPEN.name {
            mp4::check_plays(&recording.path);
        }
        let got = mp4::packets(&recording.path, "v");
        let what = recording.path.display();
        assert!(got[0].is_key, "{what} begins with a keyframe");
        for (n, packet) in got.iter().enumerate() {
            let want = sent[at + n].pts_s - sent[at].pts_s;
            let off = packet.pts_s - got[0].pts_s - want;
            assert!(off.abs() < PTS_S_OFF_MAX, "{what}: access unit {n} is shown {off} s too late");
            assert_eq!(packet.is_key, sent[at + n].is_key, "{what}: access unit {n} a keyframe?");
        }
        at += got.len();
    }
    assert_eq!(at, sent.len(), "{}: number of access units", mount.path);
}

/// Every AAC frame, and every sample of G.711, is in the files, in order, once.
fn check_sound(mount: &Mount, recordings: &[Recording]) {
    let clip = mount.clip.file();
    match mount.clip.audio {
        Audio::None => assert!(recordings.iter().all(|r| mp4::codec(&r.path, "a").is_empty())),
        Audio::Aac | Audio::Opus => {
            let hashes = |file| mp4::packets(file, "a").into_iter().map(|packet| packet.hash);
            let sent: Vec<String> = hashes(&clip).collect();
            let got: Vec<String> = recordings.iter().flat_map(|r| hashes(&r.path)).collect();
            assert_eq!(got.len(), sent.len(), "number of frames");
            assert_eq!(got.iter().zip(&sent).position(|(got, sent)| got != sent), None);
        }
        Audio::Pcma | Audio::Pcmu => {
            assert!(recordings.iter().all(|r| mp4::codec(&r.path, "a") == "flac"));
            let sent = mp4::samples(&clip);
            let got: Vec<i16> = recordings.iter().flat_map(|r| mp4::samples(&r.path)).collect();
            assert_eq!(got.len(), sent.len(), "number of samples");
            assert_eq!(got.iter().zip(&sent).position(|(got, sent)| got != sent), None);
        }
    }
}

#[test]
fn every_access_unit_is_recorded_once_across_rotations() {
    let mounts = [
        Mount { path: "h264_sets_in_sdp", clip: &clips::H264, sets: Sets::Sdp },
        Mount { path: "h264_sets_in_band", clip: &clips::H264, sets: Sets::Band },
        Mount { path: "h264_b_sets_in_sdp", clip: &clips::H264_B, sets: Sets::Sdp },
        Mount { path: "h264_b_sets_in_band", clip: &clips::H264_B, sets: Sets::Band },
        Mount { path: "h264_rich", clip: &clips::H264_RICH, sets: Sets::Clip },
        Mount { path: "h265_sets_in_sdp", clip: &clips::H265, sets: Sets::Sdp },
        Mount { path: "h265_b_sets_in_band", clip: &clips::H265_B, sets: Sets::Band },
    ];
    record_all("record_video", &mounts, |mount, recordings| {
        check_video(mount, recordings);
        check_sound(mount, recordings);
        let codec = if mount.clip.video == Video::H264 { "h264" } else { "hevc" };
        assert!(recordings.iter().all(|r| mp4::codec(&r.path, "v") == codec));
    });
}

#[test]
fn every_frame_of_sound_is_recorded_once_across_rotations() {
    let mounts = [
        Mount { path: "aac", clip: &clips::H264_AAC, sets: Sets::Both },
        Mount { path: "pcma", clip: &clips::H264_PCMA, sets: Sets::Sdp },
        Mount { path: "pcmu", clip: &clips::H264_PCMU, sets: Sets::Sdp },
    ];
    record_all("record_sound", &mounts, |mount, recordings| {
        check_video(mount, recordings);
        check_sound(mount, recordings);
    });
}

#[test]
fn what_few_cameras_send_is_recorded_as_it_is() {
    let mounts = [
        Mount { path: "interlaced", clip: &clips::INTERLACED, sets: Sets::Both },
        Mount { path: "opus", clip: &clips::H264_OPUS, sets: Sets::Both },
        Mount { path: "mjpeg", clip: &clips::MJPEG, sets: Sets::Both },
    ];
    record_all("record_few", &mounts, |mount, recordings| {
        if mount.clip.video != Video::Mjpeg {
            check_video(mount, recordings);
            return check_sound(mount, recordings);
        }
        // RTP carries no headers of JPEG, so the bytes are others and the pictures the same.
        let sent = mp4::packets(&mount.clip.file(), "v").len();
        recordings.iter().for_each(|recording| mp4::check_plays(&recording.path));
        let got = recordings.iter().map(|recording| mp4::packets(&recording.path, "v").len());
        assert_eq!(got.sum::<usize>(), sent, "number of pictures");
        assert!(recordings.iter().all(|r| mp4::codec(&r.path, "v") == "mjpeg"));
    });
}

#[test]
fn open_gops_are_recorded_whole_and_cut_at_recovery_points() {
    // A file that begins in an open GOP holds B-frames whose other reference is in the file before:
    // ffmpeg decodes what follows, but has something to say about these, so its silence is not asked for.
    let mounts = [Mount { path: "open", clip: &clips::H264_OPEN, sets: Sets::Both }];
    record_all("record_open_gops", &mounts, check_video);
}

#[test]
fn a_stream_is_recorded_with_basic_and_with_digest_login() {
    let home = TempDir::new("record_login");
    let mount = Mount { path: "cam", clip: &clips::H264, sets: Sets::Both };
    let servers = [Auth::Basic, Auth::Digest].map(|auth| GstServer::start(auth, &[mount]));
    let nvr = Nvr::start(home.path());
    let right = servers.each_ref().map(|s| nvr.add_stream(&s.url("x"), &s.url_with_login("cam")));
    let wrong = servers.each_ref().map(|server| {
        let url = server.url_with_login("cam").replace(USER, "nobody");
        nvr.add_stream(&server.url("y"), &url)
    });
    for id in right {
        let stream = nvr.wait_for_status(id, "connected", CONNECTED_WITHIN);
        assert!(!stream.field("url").text().contains("%40"), "the password is not answered");
        assert_eq!(stream.field("actual").field("codec").text(), "h264");
        wait::until("something is recorded", CONNECTED_WITHIN, || {
            nvr.recordings(&format!("?stream_id={id}")).first().filter(|r| r.size > 0).cloned()
        });
    }
    for id in wrong {
        let stream = nvr.wait_for_status(id, "error", CONNECTED_WITHIN);
        let detail = stream.field("status_detail").text();
        assert!(detail.contains("password"), "says what is wrong: {detail}");
        assert!(nvr.recordings(&format!("?stream_id={id}")).is_empty());
    }
    let recordings = nvr.recordings("");
    assert!(nvr.stop().success());
    for recording in recordings {
        mp4::check_plays(&recording.path);
    }
}

#[test]
fn what_cannot_be_recorded_is_an_error_that_names_it() {
    let home = TempDir::new("record_refused");
    let mounts = [
        Mount { path: "vp8", clip: &clips::VP8, sets: Sets::Both },
        Mount { path: "good", clip: &clips::H264, sets: Sets::Both },
    ];
    let server = GstServer::start(Auth::None, &mounts);
    let nvr = Nvr::start(home.path());
    let vp8 = nvr.add_stream("vp8", &server.url("vp8"));
    let missing = nvr.add_stream("missing", &server.url("nothing-here"));
    let good = nvr.add_stream("good", &server.url("good"));
    let vp8 = nvr.wait_for_status(vp8, "error", CONNECTED_WITHIN);
    let detail = vp8.field("status_detail").text();
    assert!(detail.contains("VP8"), "names the codec: {detail}");
    let missing = nvr.wait_for_status(missing, "error", CONNECTED_WITHIN);
    assert!(!missing.field("status_detail").text().is_empty());
    nvr.wait_for_status(good, "connected", CONNECTED_WITHIN);
    assert!(nvr.stop().success());
}

#[test]
fn a_camera_that_comes_back_is_recorded_again() {
    let home = TempDir::new("record_again");
    let mount = Mount { path: "cam", clip: &clips::H264, sets: Sets::Both };
    let mut server = GstServer::start(Auth::None, &[mount]);
    let nvr = Nvr::start(home.path());
    let id = nvr.add_stream("cam", &server.url("cam"));
    nvr.wait_for_status(id, "connected", CONNECTED_WITHIN);
    wait::until("a fragment is listed", CONNECTED_WITHIN, || {
        nvr.recordings("").first().filter(|r| r.size > 0).cloned()
    });
    server.kill();
    let stream = nvr.wait_for_status(id, "reconnecting", CONNECTED_WITHIN);
    assert!(!stream.field("status_detail").text().is_empty());
    let first = nvr.wait_for_finished(id, CONNECTED_WITHIN);
    mp4::check_plays(&first[0].path);
    // Another server, so another port: the owner changes the url.
    let server = GstServer::start(Auth::None, &[mount]);
    let body = format!(r#"{{"url":"{}"}}"#, server.url("cam"));
    nvr.json("PUT", &format!("/api/v1/streams/{id}"), Some(&body));
    nvr.wait_for_status(id, "connected", CONNECTED_WITHIN);
    wait::until("a second recording is listed", CONNECTED_WITHIN, || {
        nvr.recordings("").get(1).filter(|r| r.size > 0).cloned()
    });
    let recordings = nvr.recordings("");
    assert!(nvr.stop().success());
    for recording in recordings {
        mp4::check_plays(&recording.path);
    }
}
