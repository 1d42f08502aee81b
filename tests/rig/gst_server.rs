//! The GStreamer RTSP server (`gst_server.py`) as a child process.

use std::path::Path;
use std::process::Command;
use std::time::Duration;

use super::clips::{Audio, Clip, Video};
use super::process::Process;
use super::test_file;

/// Python and GStreamer on a loaded machine with a cold disk.
const START_WITHIN: Duration = Duration::from_secs(30);

/// Where the parameter sets are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sets {
    /// Only in the SDP, as Axis cameras do.
    Sdp,
    /// Only in band, before every keyframe.
    Band,
    /// In the SDP and in band.
    Both,
    /// In band, where the clip has them.
    Clip,
}

/// How the server wants to be spoken to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Auth {
    None,
    Basic,
    Digest,
}

/// One clip under a path.
#[derive(Clone, Copy, Debug)]
pub struct Mount {
    pub path: &'static str,
    pub clip: &'static Clip,
    pub sets: Sets,
}

/// A running server.
pub struct GstServer {
    process: Process,
    port: u16,
}

/// User name and password of every server that wants one.
pub const USER: &str = "viewer";
pub const PASSWORD: &str = "p@ss:w/rd";

/// The same as it stands in a URL.
pub const PASSWORD_IN_URL: &str = "p%40ss%3Aw%2Frd";

impl GstServer {
    /// Serves each mount to any number of sessions, one after the other or at once, each from its start.
    pub fn start(auth: Auth, mounts: &[Mount]) -> Self {
        Self::start_with(auth, mounts, &[])
    }

    /// Like `start`, but each mount is played by one session only and then gone.
    pub fn start_once(auth: Auth, mounts: &[Mount]) -> Self {
        Self::start_with(auth, mounts, &["--once"])
    }

    /// Like `start`, but RTP over TCP is refused.
    pub fn start_over_udp(mounts: &[Mount]) -> Self {
        Self::start_with(Auth::None, mounts, &["--udp"])
    }

    /// Like `start`, encrypted with the certificate and key of this file.
    pub fn start_with_tls(auth: Auth, mounts: &[Mount], pem: &Path) -> Self {
        Self::start_with(auth, mounts, &["--tls", pem.to_str().expect("a path of the tests")])
    }

    /// Loses power, and is another server at the same address at once: the same camera again, or another one.
    pub fn replace(&mut self, mounts: &[Mount]) {
        self.kill();
        *self = Self::start_with(Auth::None, mounts, &["--port", &self.port.to_string()]);
    }

    fn start_with(auth: Auth, mounts: &[Mount], more: &[&str]) -> Self {
        // Debian's python3: another one on PATH would not find GStreamer.
        let mut command = Command::new("/usr/bin/python3");
        command.arg(test_file("rig/gst_server.py")).args(more);
        command.args(["--user", USER, "--password", PASSWORD, "--auth"]).arg(match auth {
            Auth::None => "none",
            Auth::Basic => "basic",
            Auth::Digest => "digest",
        });
        for mount in mounts {
            command.args(["--mount", mount.path]).arg(mount.clip.file());
            command.arg(match mount.clip.video {
                Video::H264 => "h264",
                Video::H265 => "h265",
                Video::Vp8 => "vp8",
                Video::Mjpeg => "mjpeg",
            });
            command.arg(match mount.clip.audio {
                Audio::None => "none",
                Audio::Aac => "aac",
                Audio::Pcma => "pcma",
                Audio::Pcmu => "pcmu",
                Audio::Opus => "opus",
            });
            command.arg(match mount.sets {
                Sets::Sdp => "sdp",
                Sets::Band => "band",
                Sets::Both => "both",
                Sets::Clip => "clip",
            });
        }
        let mut process = Process::start("gst_server.py", &mut command);
        let port = process.wait_for_line("port of the RTSP server", START_WITHIN, |line| {
            line.strip_prefix("port ")?.parse().ok()
        });
        Self { process, port }
    }

    /// URL without user and password.
    pub fn url(&self, path: &str) -> String {
        format!("rtsp://127.0.0.1:{}/{path}", self.port)
    }

    /// URL with the right user and password.
    pub fn url_with_login(&self, path: &str) -> String {
        format!("rtsp://{USER}:{PASSWORD_IN_URL}@127.0.0.1:{}/{path}", self.port)
    }

    /// How often a session began to play `path`.
    pub fn plays(&self, path: &str) -> usize {
        let wanted = format!("play {path}");
        self.process.stdout().iter().filter(|line| **line == wanted).count()
    }

    /// How often a session of `path` was ended by its client.
    pub fn teardowns(&self, path: &str) -> usize {
        let wanted = format!("teardown {path}");
        self.process.stdout().iter().filter(|line| **line == wanted).count()
    }

    /// The whole server is gone at once, as a camera that loses power.
    pub fn kill(&mut self) {
        self.process.kill();
    }
}
