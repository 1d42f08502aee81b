//! The rig itself: what it serves is whole, and its checks find what they are for. If these tests fail,
//! the others say nothing about the recorder.

mod rig;

use std::process::{Child, Command, Stdio};

use rig::clips::{self, Clip, Video};
use rig::gst_server::{Auth, GstServer, Mount, PASSWORD, Sets};
use rig::mp4;
use rig::process::run_silently;
use rig::temp_dir::TempDir;
use rig::webdriver::Browser;

/// Records `url` with ffmpeg into `file`, whose extension names the format.
fn ffmpeg_records(url: &str, file: &std::path::Path) -> Child {
    let mut ffmpeg = Command::new("ffmpeg");
    ffmpeg.args(["-v", "fatal", "-nostdin", "-y", "-rtsp_transport", "tcp", "-i", url]);
    ffmpeg.args(["-map", "0", "-c", "copy"]).arg(file).stdin(Stdio::null());
    ffmpeg.spawn().expect("ffmpeg starts")
}

fn without_sets(units: Vec<Vec<u8>>, video: Video) -> Vec<Vec<u8>> {
    units.into_iter().filter(|unit| !mp4::is_parameter_set(unit, video)).collect()
}

#[test]
fn the_server_sends_every_access_unit_of_every_clip_once() {
    let home = TempDir::new("rig_server_is_lossless");
    let mounts: [(&Clip, &'static str, Sets); 8] = [
        (&clips::H264, "sdp", Sets::Sdp),
        (&clips::H264, "band", Sets::Band),
        (&clips::H264_B, "b_band", Sets::Band),
        (&clips::H264_B, "b_sdp", Sets::Sdp),
        (&clips::H264_RICH, "rich", Sets::Clip),
        (&clips::H264_OPEN, "open", Sets::Both),
        (&clips::H265, "h265", Sets::Sdp),
        (&clips::H265_B, "h265_b", Sets::Band),
    ];
    let mounts = mounts.map(|(clip, path, sets)| Mount { path, clip, sets });
    let server = GstServer::start_once(Auth::None, &mounts);
    // A raw elementary stream: no container of ffmpeg's that could want other timestamps.
    let file = |mount: &Mount| {
        let extension = if mount.clip.video == Video::H264 { "h264" } else { "hevc" };
        home.path().join(format!("{}.{extension}", mount.path))
    };
    let record = |mount: &Mount| ffmpeg_records(&server.url(mount.path), &file(mount));
    let clients: Vec<Child> = mounts.iter().map(record).collect();
    for mut client in clients {
        assert!(client.wait().expect("it is our child").success());
    }
    for mount in &mounts {
        let video = mount.clip.video;
        let sent = without_sets(mp4::nal_units(&mount.clip.file(), video), video);
        let stream = std::fs::read(file(mount)).expect("ffmpeg wrote it");
        let got = without_sets(mp4::split_annex_b(&stream), video);
        assert_eq!(got.len(), sent.len(), "{}: number of NAL units", mount.path);
        assert!(got == sent, "{}: NAL units differ", mount.path);
        assert_eq!(server.plays(mount.path), 1, "{}", mount.path);
    }
}

#[test]
fn the_server_sends_every_sample_and_every_aac_frame() {
    let home = TempDir::new("rig_server_sends_sound");
    let mounts = [("aac", &clips::H264_AAC), ("pcma", &clips::H264_PCMA)];
    let mounts = mounts.map(|(path, clip)| Mount { path, clip, sets: Sets::Both });
    let server = GstServer::start(Auth::Digest, &mounts);
    let recorded = home.path().join("pcma.mov");
    let mut recorder = ffmpeg_records(&server.url_with_login("pcma"), &recorded);
    // ffmpeg 7.1 reads AAC frames over RTSP and does not copy them, so ffprobe is the listener here.
    let url = server.url_with_login("aac");
    let got = audio_hashes(&["-rtsp_transport", "tcp", &url]);
    let clip = clips::H264_AAC.file();
    let sent = audio_hashes(&[clip.to_str().expect("UTF-8")]);
    assert_eq!(got.len(), sent.len(), "number of AAC frames");
    assert!(got == sent, "AAC frames differ");
    assert!(recorder.wait().expect("it is our child").success());
    let sent = mp4::samples(&clips::H264_PCMA.file());
    let got = mp4::samples(&recorded);
    assert_eq!(got.len(), sent.len(), "number of samples");
    assert!(got == sent, "samples differ");
}

/// The hash of its bytes for each audio packet that ffprobe reads from this input.
fn audio_hashes(input: &[&str]) -> Vec<String> {
    let mut ffprobe = Command::new("ffprobe");
    ffprobe.args(["-v", "fatal", "-select_streams", "a", "-show_packets"]);
    ffprobe.args(["-show_data_hash", "sha256", "-show_entries", "packet=data_hash", "-of", "csv"]);
    let text = String::from_utf8(run_silently(ffprobe.args(input))).expect("ffprobe prints text");
    // What follows on the hash belongs to the container.
    text.split("SHA256:").skip(1).map(|rest| rest[..64].to_owned()).collect()
}

#[test]
fn the_server_refuses_a_wrong_password() {
    let mount = Mount { path: "cam", clip: &clips::H264, sets: Sets::Both };
    for auth in [Auth::Basic, Auth::Digest] {
        let server = GstServer::start(auth, &[mount]);
        let describe = |url: String| -> bool {
            let mut ffprobe = Command::new("ffprobe");
            ffprobe.args(["-v", "fatal", "-rtsp_transport", "tcp", "-i"]).arg(url);
            ffprobe.status().expect("ffprobe starts").success()
        };
        assert!(describe(server.url_with_login("cam")), "{auth:?}");
        assert!(!describe(server.url("cam")), "{auth:?}");
        let wrong = server.url_with_login("cam").replace("%40", "");
        assert!(!wrong.contains(PASSWORD) && !describe(wrong), "{auth:?}");
    }
}

#[test]
fn clips_play_without_a_word() {
    use clips::{H264, H264_AAC, H264_B, H264_OPEN, H264_PCMA, H264_RICH, H265, H265_B};
    for clip in [H264, H264_B, H264_RICH, H264_OPEN, H265, H265_B, H264_AAC, H264_PCMA] {
        mp4::check_plays(&clip.file());
    }
}

#[test]
#[should_panic(expected = "corrupt input packet")]
fn a_file_cut_in_mid_fragment_does_not_pass_the_check() {
    let home = TempDir::new("rig_cut_file");
    let file = home.path().join("cut.mp4");
    let mut ffmpeg = Command::new("ffmpeg");
    ffmpeg.args(["-v", "error", "-i"]).arg(clips::H264.file());
    ffmpeg.args(["-c", "copy", "-movflags", "frag_keyframe+empty_moov"]).arg(&file);
    run_silently(&mut ffmpeg);
    let whole = std::fs::File::options().write(true).open(&file).expect("ffmpeg wrote it");
    let length = whole.metadata().expect("it is open").len();
    whole.set_len(length / 2).expect("it can be cut");
    mp4::check_plays(&file);
}

#[test]
fn the_browser_decodes_h264() {
    let home = TempDir::new("rig_browser");
    let browser = Browser::start(home.path());
    browser.go(&format!("file://{}", clips::H264.file().display()));
    let played = rig::wait::until("the clip plays", std::time::Duration::from_secs(30), || {
        use rig::json::Look;
        let at = browser.run(
            "const v = document.querySelector('video'); v?.play(); return v?.currentTime ?? 0",
        );
        (at.number() > 1.0).then_some(at)
    });
    drop(played);
}
