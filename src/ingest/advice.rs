//! What an owner can do about a camera that does not deliver.
//!
//! In here: an error's reason and one sentence of advice, for people who look at a form and not at a log.
//! The texts of errors come from this module's neighbours; the tests hold both together.

use super::IngestError;

const PASSWORD: &str = "Check both: they are those of the camera, and some cameras have a user of their \
                        own for RTSP or ONVIF. In a URL special characters are written with a percent \
                        sign: @ as %40, : as %3A, / as %2F. After some wrong ones many cameras lock for \
                        minutes.";
const NO_PASSWORD: &str =
    "Put user name and password of the camera into the URL: rtsp://user:password@address/path";
const PATH: &str = "The address is right, but the path behind it is not: look it up in the camera's \
                    manual, or take the one of another model of the brand.";
const FORBIDDEN: &str = "The camera's user may not watch this path: give it the right to, or use another \
                         user.";
const NO_VIDEO: &str =
    "This path carries no video: use the path of the camera's main or sub stream.";
const CODEC: &str = "Set the camera to H.264 or H.265 for this path, or use another path.";
const TRANSPORT: &str = "Leave the stream's transport at auto, and allow RTP over TCP (\"interleaved\") or UDP \
                         unicast in the camera's settings.";
const NO_NAME: &str =
    "Check the spelling of the address, or write the camera's IP address in its place.";
const CLOSED_PORT: &str = "The device is there, but nothing listens on this port: RTSP has mostly 554. \
                           Switch RTSP (or ONVIF) on in the camera's settings.";
const NO_ANSWER: &str = "Is the camera on, and in the same network? Its address may have changed: look into \
                         the list of devices of your router.";
const SESSIONS: &str = "Many cameras serve only one or two viewers at once: close its app and other \
                        recorders, wait a minute and try again. If it has just started, it may need longer.";
const NOT_RTSP: &str = "What answers there does not speak RTSP: the port is probably that of the camera's \
                        web page (80, 8080). RTSP has mostly 554.";
const SILENT: &str = "The camera answers, but sends nothing. Try again; then restart the camera, or try its \
                      sub stream.";
const UNPLUGGED: &str = "Plug the camera in. Its number may have changed: the list of local cameras (GET /api/v1/devices) \
                         has the present ones, and names that stay.";
const BUSY: &str = "A camera on this machine serves one at a time: end the other program, or remove the other stream.";
const NO_RIGHT: &str = "As root: usermod -a -G video USER, then restart the recorder.";
const NO_FORMAT: &str = "Set the stream's codec to one that the camera can give: the list of local cameras (GET \
                         /api/v1/devices) has them.";
const NO_DEVICE: &str = "Take another one of the list of local cameras (GET /api/v1/devices).";
const OTHER: &str = "Compare URL and video settings with the camera's manual, then try again.";

/// Parts of an error's text, and what helps.
const BY_TEXT: [(&str, &str); 20] = [
    ("is busy:", BUSY),
    ("group video", NO_RIGHT),
    ("no video format", NO_FORMAT),
    ("is no video device", NO_DEVICE),
    ("is no camera", NO_DEVICE),
    ("no such path", PATH),
    ("forbids access", FORBIDDEN),
    ("has no video", NO_VIDEO),
    ("video codec", CODEC),
    ("parameter sets", CODEC),
    ("refuses RTP over", TRANSPORT),
    ("cannot describe", PATH),
    ("camera name not found", NO_NAME),
    ("connection refused", CLOSED_PORT),
    ("no route", NO_ANSWER),
    ("no answer", NO_ANSWER),
    ("for now", SESSIONS),
    ("closed the connection", SESSIONS),
    ("connection reset", SESSIONS),
    ("not reachable", NO_ANSWER),
];

/// Why there is no video, and what to do about it. Neither holds a secret.
pub fn explain(error: &IngestError, has_credentials: bool) -> (String, &'static str) {
    match error {
        IngestError::Unauthorized if has_credentials => (error.to_string(), PASSWORD),
        IngestError::Unauthorized => {
            ("camera asks for a user name and password".to_owned(), NO_PASSWORD)
        }
        IngestError::Silent { .. } => (error.to_string(), SILENT),
        IngestError::Protocol { what, .. } => {
            (format!("the answer is not RTSP as a camera speaks it ({what})"), NOT_RTSP)
        }
        IngestError::Unplugged { what } => (what.clone(), UNPLUGGED),
        IngestError::Refused { what } | IngestError::Connection { what } => {
            let known = BY_TEXT.iter().find(|(part, _)| what.contains(part));
            (what.clone(), known.map_or(OTHER, |(_, advice)| advice))
        }
    }
}

/// The same for a camera that was too slow: it has not answered, or not sent what a decoder begins with.
pub fn explain_late(
    has_answered: bool,
    has_pictures: bool,
    seconds: u64,
) -> (String, &'static str) {
    match (has_answered, has_pictures) {
        (false, _) => (format!("no answer from the camera for {seconds} s"), NO_ANSWER),
        (true, false) => (format!("camera sent no picture for {seconds} s"), SILENT),
        (true, true) => (
            format!("camera sent no keyframe for {seconds} s"),
            "Set the distance of keyframes (I-frame interval, GOP) in the camera to 1 or 2 seconds.",
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::transport::Transport;
    use crate::ingest::session_setup::{no_transport, refusal};

    #[track_caller]
    fn check(error: &IngestError, reason: &str, advice: &str) {
        let (got, what_to_do) = explain(error, true);
        assert!(got.contains(reason), "{got}");
        assert_eq!(what_to_do, advice, "{got}");
    }

    #[test]
    fn each_refusal_has_its_advice() {
        check(&IngestError::Unauthorized, "refused the user name or password", PASSWORD);
        assert_eq!(explain(&IngestError::Unauthorized, false).1, NO_PASSWORD);
        check(&refusal("DESCRIBE", 404), "no such path", PATH);
        check(&refusal("DESCRIBE", 403), "forbids", FORBIDDEN);
        check(&refusal("DESCRIBE", 451), "describe", PATH);
        check(&no_transport(Transport::Auto), "over UDP (461)", TRANSPORT);
        check(&refusal("SETUP", 453), "for now (453)", SESSIONS);
        check(&refusal("PLAY", 503), "for now (503)", SESSIONS);
        let error = IngestError::Protocol { what: "not a status line".into(), at: 0 };
        check(&error, "not RTSP", NOT_RTSP);
        assert_eq!(explain(&IngestError::Refused { what: "else".into() }, true).1, OTHER);
        assert!(explain_late(false, false, 8).0.contains("no answer"));
        assert!(explain_late(true, true, 8).0.contains("keyframe"));
    }
}
