//! Clips for the servers to play, made with ffmpeg once per build directory.

use std::fs::{self, File};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use rustix::fs::FlockOperation;

use super::process::run_silently;
use super::target_dir;

/// Codec of a clip's picture, by the name that the API and the server use.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Video {
    H264,
    H265,
    Vp8,
    Mjpeg,
}

/// Codec of a clip's sound.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Audio {
    None,
    Aac,
    Pcma,
    Pcmu,
    Opus,
}

/// A recipe. All clips show a moving test picture of 640x360 at 15 fps with noise, so that no two
/// frames are alike, and a keyframe every 20 frames where nothing
/// else is said.
#[derive(Clone, Copy, Debug)]
pub struct Clip {
    pub name: &'static str,
    pub video: Video,
    pub audio: Audio,
    extension: &'static str,
    encoder: &'static str,
    source: Source,
}

/// Where a clip's frames come from.
#[derive(Clone, Copy, Debug)]
enum Source {
    /// Encoded for this clip, this many seconds.
    Fresh { seconds: u32 },
    /// The stream of another clip, again and again without encoding it.
    Looped { clip: &'static Clip, times: u32 },
}

/// 24 s hold at least two multiples of 10 s and the keyframe after each, whenever they begin.
const SECONDS: Source = Source::Fresh { seconds: 24 };

/// No B-frames, one slice, nothing but pictures and sets: what most cameras send.
pub const H264: Clip = Clip {
    name: "h264",
    video: Video::H264,
    audio: Audio::None,
    extension: "mp4",
    encoder: "-c:v libx264 -preset veryfast -b:v 500k -g 20 -bf 0 -x264-params scenecut=0",
    source: SECONDS,
};

/// B-frames in closed GOPs, also as references of each other.
pub const H264_B: Clip = Clip {
    name: "h264_b",
    encoder: "-c:v libx264 -preset veryfast -b:v 500k -g 20 -bf 2 -x264-params \
              scenecut=0:open-gop=0:b-pyramid=1",
    ..H264
};

/// All that may stand in an access unit: delimiter, sets before each keyframe, SEI in each, three
/// slices; and B-frames.
pub const H264_RICH: Clip = Clip {
    name: "h264_rich",
    encoder: "-c:v libx264 -preset veryfast -b:v 500k -g 20 -bf 2 -x264-params \
              scenecut=0:open-gop=0:slices=3:aud=1:repeat-headers=1:pic-struct=1:\
              nal-hrd=vbr:vbv-maxrate=800:vbv-bufsize=800",
    ..H264
};

/// Open GOPs: only the first picture is an IDR picture, the others are recovery points (SEI).
pub const H264_OPEN: Clip = Clip {
    name: "h264_open",
    encoder: "-c:v libx264 -preset veryfast -b:v 500k -g 20 -bf 2 -x264-params scenecut=0:open-gop=1",
    ..H264
};

/// What a camera of 1080p sends: 4 Mbit/s, which the noise takes at this size, too.
pub const H264_FAST: Clip = Clip {
    name: "h264_fast",
    encoder: "-c:v libx264 -preset ultrafast -b:v 4M -maxrate 4M -bufsize 2M -g 20 -bf 0 -x264-params scenecut=0",
    ..H264
};

/// Four minutes of it.
pub const LONG_FAST: Clip =
    Clip { name: "long_fast", source: Source::Looped { clip: &H264_FAST, times: 10 }, ..H264 };

/// A keyframe three times a second.
pub const H264_KEYS: Clip = Clip {
    name: "h264_keys",
    encoder: "-c:v libx264 -preset veryfast -b:v 500k -g 5 -bf 0 -x264-params scenecut=0",
    ..H264
};

/// Four minutes of it.
pub const LONG_KEYS: Clip =
    Clip { name: "long_keys", source: Source::Looped { clip: &H264_KEYS, times: 10 }, ..H264 };

pub const H265: Clip = Clip {
    name: "h265",
    video: Video::H265,
    encoder: "-c:v libx265 -preset ultrafast -b:v 400k -tag:v hvc1 -x265-params \
              log-level=none:info=0:keyint=20:min-keyint=20:scenecut=0:bframes=0:open-gop=0:pools=1",
    ..H264
};

/// H.265 with B-frames.
pub const H265_B: Clip = Clip {
    name: "h265_b",
    video: Video::H265,
    encoder: "-c:v libx265 -preset ultrafast -b:v 400k -tag:v hvc1 -x265-params \
              log-level=none:info=0:keyint=20:min-keyint=20:scenecut=0:bframes=2:open-gop=0:pools=1:aud=1",
    ..H264
};

pub const H264_AAC: Clip = Clip { name: "h264_aac", audio: Audio::Aac, ..H264 };

/// G.711 A-law at 8 kHz. MP4 has no name for it, QuickTime has.
pub const H264_PCMA: Clip =
    Clip { name: "h264_pcma", audio: Audio::Pcma, extension: "mov", ..H264 };

/// The same of mu-law.
pub const H264_PCMU: Clip =
    Clip { name: "h264_pcmu", audio: Audio::Pcmu, extension: "mov", ..H264 };

/// A quarter of the picture: what a camera sends after a change of its resolution.
pub const H264_SMALL: Clip = Clip {
    name: "h264_small",
    encoder: "-vf scale=320:180 -c:v libx264 -preset veryfast -b:v 200k -g 20 -bf 0 -x264-params scenecut=0",
    ..H264
};

/// Another `pic_init_qp` in the PPS than with a bit rate.
pub const H264_OTHER_QP: Clip = Clip {
    name: "h264_other_qp",
    encoder: "-c:v libx264 -preset veryfast -qp 34 -g 20 -bf 0 -x264-params scenecut=0",
    ..H264
};

/// One IDR picture; afterwards intra columns that wander, and recovery points (SEI).
pub const H264_REFRESH: Clip = Clip {
    name: "h264_refresh",
    encoder: "-c:v libx264 -preset veryfast -b:v 500k -g 20 -bf 0 -x264-params scenecut=0:intra-refresh=1",
    ..H264
};

/// A keyframe each 12 s.
pub const H264_LONG_GROUP: Clip = Clip {
    name: "h264_long_group",
    encoder: "-c:v libx264 -preset veryfast -b:v 500k -g 180 -bf 0 -x264-params scenecut=0",
    ..H264
};

/// Two fields in a picture.
pub const INTERLACED: Clip = Clip {
    name: "interlaced",
    encoder: "-c:v libx264 -preset veryfast -b:v 500k -g 20 -bf 0 -flags +ilme+ildct \
              -x264-params scenecut=0:interlaced=1:tff=1",
    ..H264
};

pub const H264_OPUS: Clip = Clip { name: "h264_opus", audio: Audio::Opus, ..H264 };

/// A codec that the recorder does not take.
pub const VP8: Clip = Clip {
    name: "vp8",
    video: Video::Vp8,
    extension: "mkv",
    encoder: "-c:v libvpx -deadline realtime -b:v 500k -g 20",
    source: Source::Fresh { seconds: 4 },
    ..H264
};

/// What RTP can carry of JPEG (RFC 2435): baseline, the standard's own Huffman tables.
pub const MJPEG: Clip = Clip {
    name: "mjpeg",
    video: Video::Mjpeg,
    extension: "mov",
    encoder: "-c:v mjpeg -pix_fmt yuvj420p -huffman default -q:v 6",
    ..H264
};

/// Ten minutes with sound: longer than any test listens.
pub const LONG: Clip = Clip {
    name: "long",
    audio: Audio::Aac,
    source: Source::Looped { clip: &H264_AAC, times: 25 },
    ..H264
};

/// The same of H.265, without sound.
pub const LONG_H265: Clip =
    Clip { name: "long_h265", source: Source::Looped { clip: &H265, times: 25 }, ..H265 };

impl Clip {
    /// How long it plays.
    pub fn length(&self) -> Duration {
        match self.source {
            Source::Fresh { seconds } => Duration::from_secs(u64::from(seconds)),
            Source::Looped { clip, times } => clip.length() * times,
        }
    }

    /// The file; makes it first if this is the first use, under a lock against other tests.
    pub fn file(&self) -> PathBuf {
        let dir = target_dir().join("test-clips");
        fs::create_dir_all(&dir).expect("the build directory can be written");
        // Before the lock, because the recipe of a looped clip makes the other clip.
        let mut recipe = self.recipe();
        let mut hasher = DefaultHasher::new();
        format!("{recipe:?}").hash(&mut hasher);
        let file = dir.join(format!("{}-{:016x}.{}", self.name, hasher.finish(), self.extension));
        let lock = File::create(dir.join("lock")).expect("the build directory can be written");
        rustix::fs::flock(&lock, FlockOperation::LockExclusive).expect("a lock on a plain file");
        if !file.exists() {
            let part = file.with_extension(format!("part.{}", self.extension));
            run_silently(recipe.arg(&part));
            fs::rename(&part, &file).expect("same directory");
        }
        file
    }

    fn recipe(&self) -> Command {
        let mut ffmpeg = Command::new("ffmpeg");
        ffmpeg.args(["-v", "error", "-nostdin", "-y"]);
        match self.source {
            Source::Looped { clip, times } => {
                ffmpeg.args(["-stream_loop", &(times - 1).to_string(), "-i"]).arg(clip.file());
                ffmpeg.args(["-c", "copy"]);
            }
            Source::Fresh { seconds } => {
                let picture = "testsrc2=s=640x360:r=15,noise=alls=12:allf=t,format=yuv420p";
                ffmpeg.args(["-f", "lavfi", "-i", picture]);
                if self.audio != Audio::None {
                    let sound = "aevalsrc=0.3*sin(2*PI*t*(300+20*t))+0.05*random(0):s=16000";
                    ffmpeg.args(["-f", "lavfi", "-i", sound]);
                }
                ffmpeg.args(["-t", &seconds.to_string()]);
                ffmpeg.args(self.encoder.split_whitespace());
                match self.audio {
                    Audio::None => &mut ffmpeg,
                    // An edit list would keep the server from sending the first and last frame.
                    Audio::Aac => ffmpeg.args("-c:a aac -b:a 32k -use_editlist 0".split(' ')),
                    Audio::Opus => ffmpeg.args("-c:a libopus -b:a 32k -use_editlist 0".split(' ')),
                    Audio::Pcma => ffmpeg.args(["-c:a", "pcm_alaw", "-ar", "8000"]),
                    Audio::Pcmu => ffmpeg.args(["-c:a", "pcm_mulaw", "-ar", "8000"]),
                };
            }
        }
        ffmpeg
    }
}
