//! The resource `devices`: cameras on this machine, and what each can give.

use miniserde::{Serialize, json};

use super::error::ApiError;
use super::{Ctx, Reply};
use crate::config::device::{LocalCamera, LocalFormat};

/// How soon a client that comes during another's list may come back, in seconds.
const RETRY_S: u32 = 2;

#[derive(Serialize)]
struct DevicesOut<'a> {
    devices: Vec<DeviceOut<'a>>,
}

#[derive(Serialize)]
struct DeviceOut<'a> {
    url: &'a str,
    path: &'a str,
    name: &'a str,
    driver: &'a str,
    formats: Vec<FormatOut<'a>>,
    problem: Option<&'a str>,
}

#[derive(Serialize)]
struct FormatOut<'a> {
    format: &'a str,
    description: &'a str,
    codecs: &'a [&'static str],
    sizes: Vec<SizeOut>,
}

#[derive(Serialize)]
struct SizeOut {
    width: u16,
    height: u16,
    fps: Option<u16>,
}

/// `GET /devices`
pub fn list(ctx: &Ctx) -> Result<Reply, ApiError> {
    let cameras = (ctx.cameras)().ok_or_else(|| ApiError::Busy {
        what: "the list of local cameras is being made for somebody else".into(),
        retry_after_s: RETRY_S,
    })?;
    Ok(Reply::Json(devices_json(&cameras)))
}

fn devices_json(cameras: &[LocalCamera]) -> String {
    json::to_string(&DevicesOut { devices: cameras.iter().map(device_out).collect() })
}

fn device_out(camera: &LocalCamera) -> DeviceOut<'_> {
    DeviceOut {
        url: &camera.url,
        path: &camera.path,
        name: &camera.name,
        driver: &camera.driver,
        formats: camera.formats.iter().map(format_out).collect(),
        problem: camera.problem.as_deref(),
    }
}

fn format_out(format: &LocalFormat) -> FormatOut<'_> {
    let sizes = format.sizes.iter().map(|size| SizeOut {
        width: size.width,
        height: size.height,
        fps: Some(size.fps).filter(|&fps| fps > 0),
    });
    FormatOut {
        format: &format.fourcc,
        description: &format.description,
        codecs: &format.codecs,
        sizes: sizes.collect(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::device::LocalSize;

    #[test]
    fn cameras_are_written_as_documented() {
        let camera = LocalCamera {
            path: "/dev/video0".into(),
            url: "v4l2:///dev/video0".into(),
            name: "A \"camera\"".into(),
            driver: "uvcvideo".into(),
            formats: vec![LocalFormat {
                fourcc: "YUYV".into(),
                description: "YUYV 4:2:2".into(),
                codecs: vec!["h264"],
                sizes: vec![LocalSize { width: 640, height: 360, fps: 0 }],
            }],
            problem: None,
        };
        let want = r#"{"devices":[{"url":"v4l2:///dev/video0","path":"/dev/video0","name":"A \"camera\"","driver":"uvcvideo","formats":[{"format":"YUYV","description":"YUYV 4:2:2","codecs":["h264"],"sizes":[{"width":640,"height":360,"fps":null}]}],"problem":null}]}"#;
        assert_eq!(devices_json(&[camera]), want);
        assert_eq!(devices_json(&[]), r#"{"devices":[]}"#);
    }
}
