//! Cameras on this machine: the URLs that name them, and what is told of them.
//!
//! In here: which paths a stream may name. Not in here: what a device is asked (`ingest/v4l2_sys.rs`). Keeps PURE-CORE.
//! A URL is written by whoever may change streams, so it reaches nothing but the device files of cameras.

/// How the URL of a local camera begins; the path of its device file follows.
pub const SCHEME: &str = "v4l2://";
/// Video4Linux has minor numbers 0 to 255 (Documentation/admin-guide/devices.txt of Linux).
const NUMBER_MAX: u16 = 255;
/// Links that udev makes, whose names stay when cameras are plugged in in another order.
const LINKS: [&str; 2] = ["/dev/v4l/by-id/", "/dev/v4l/by-path/"];
/// Longest name of a link in bytes; the kernel's own limit for a file's name.
const LINK_BYTES_MAX: usize = 255;

/// Whether `url` is meant to name a local camera.
pub fn is_local(url: &str) -> bool {
    url.starts_with(SCHEME)
}

/// The device file that `url` names: `/dev/video0`, or a link of udev's to one. `None` for any other path.
pub fn path_of(url: &str) -> Option<&str> {
    let path = url.strip_prefix(SCHEME)?;
    (number_of(path).is_some() || is_link(path)).then_some(path)
}

/// The number in `/dev/video7`, without sign or leading zero.
pub fn number_of(path: &str) -> Option<u16> {
    let digits = path.strip_prefix("/dev/video")?;
    let number: u16 = digits.parse().ok().filter(|&number| number <= NUMBER_MAX)?;
    (number.to_string() == digits).then_some(number)
}

fn is_link(path: &str) -> bool {
    // What udev leaves in names; no `/`, so nothing outside of the directory.
    let is_name_char = |c: char| c.is_ascii_alphanumeric() || "#+-.:=@_".contains(c);
    LINKS.iter().filter_map(|dir| path.strip_prefix(dir)).any(|name| {
        (1..=LINK_BYTES_MAX).contains(&name.len())
            && !name.starts_with('.')
            && name.chars().all(is_name_char)
    })
}

/// A camera on this machine.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LocalCamera {
    /// `/dev/video0`
    pub path: String,
    /// As a stream would name it: by a name that stays, where there is one.
    pub url: String,
    /// What the camera calls itself.
    pub name: String,
    /// The kernel's driver, such as `uvcvideo`.
    pub driver: String,
    pub formats: Vec<LocalFormat>,
    /// Why nothing more is known.
    pub problem: Option<String>,
}

/// One format of a camera.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LocalFormat {
    /// The kernel's code of four characters, such as `YUYV`.
    pub fourcc: String,
    /// In the driver's words.
    pub description: String,
    /// What a stream's `codec` may be with it; none: it can't be recorded.
    pub codecs: Vec<&'static str>,
    pub sizes: Vec<LocalSize>,
}

/// One picture size of a format.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LocalSize {
    /// In pixels.
    pub width: u16,
    pub height: u16,
    /// Most frames per second, rounded down; 0 where the driver does not say.
    pub fps: u16,
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn device_files_of_cameras_and_no_others() {
        for good in [
            "/dev/video0",
            "/dev/video255",
            "/dev/v4l/by-id/usb-046d_HD_Pro_Webcam_C920_EF163C5F-video-index0",
            "/dev/v4l/by-path/pci-0000:00:14.0-usb-0:2:1.0-video-index0",
        ] {
            assert_eq!(path_of(&format!("v4l2://{good}")), Some(good));
        }
        for bad in [
            "",
            "/dev/video",
            "/dev/video00",
            "/dev/video+1",
            "/dev/video256",
            "/dev/video0/../sda",
            "/dev/sda",
            "/dev/../dev/video0",
            "//dev/video0",
            "dev/video0",
            "/dev/v4l/by-id/",
            "/dev/v4l/by-id/..",
            "/dev/v4l/by-id/../../sda",
            "/dev/v4l/by-id/a b",
            "/dev/v4l/by-id/a%2Fb",
            "/dev/v4l/video0",
            "/etc/passwd",
            "/dev/video0?x=1",
        ] {
            assert_eq!(path_of(&format!("v4l2://{bad}")), None, "{bad}");
        }
        assert_eq!(path_of("/dev/video0"), None);
        assert!(is_local("v4l2:///dev/sda") && !is_local("rtsp://v4l2://"));
    }

    proptest! {
        #[test]
        fn a_path_stays_below_dev(rest in "[a-z0-9./:_-]{0,40}") {
            for start in ["v4l2://", "v4l2:///dev/", "v4l2:///dev/video", "v4l2:///dev/v4l/by-id/"] {
                if let Some(path) = path_of(&format!("{start}{rest}")) {
                    prop_assert!(path.starts_with("/dev/"));
                    prop_assert!(path.split('/').all(|part| part != ".." && part != "."));
                }
            }
        }
    }
}
