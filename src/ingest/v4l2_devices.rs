//! The cameras of this machine, for who adds a stream.
//!
//! In here: the walk over `/dev` and the links that udev makes. Not in here: ioctls (`v4l2_sys.rs`). A driver may block,
//! so this is for a thread that may; and only one walk at a time, or one bad driver would take all threads.

use std::collections::BTreeMap;
use std::fs;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicBool, Ordering};

use super::v4l2_core::{Kind, codecs, fourcc_text};
use super::v4l2_sys::{Device, number_of};
use super::{IngestError, v4l2_sys};
use crate::config::device::{LocalCamera, LocalFormat, SCHEME, number_of as number_in, path_of};

/// Cameras that are listed.
pub const LISTED_MAX: usize = 32;
/// Device files that are looked at: a board's chip alone has a dozen that are none.
const FILES_MAX: usize = 64;
/// Links that are looked at.
const LINKS_MAX: usize = 128;

static IS_WALKING: AtomicBool = AtomicBool::new(false);

/// The one walk; dropping it lets the next one begin.
struct Walk;

impl Walk {
    fn begin() -> Option<Self> {
        (!IS_WALKING.swap(true, Ordering::SeqCst)).then_some(Self)
    }
}

impl Drop for Walk {
    fn drop(&mut self) {
        IS_WALKING.store(false, Ordering::SeqCst);
    }
}

/// The cameras in the order of their numbers; `None` while another list is being made.
pub fn list() -> Option<Vec<LocalCamera>> {
    let _walk = Walk::begin()?;
    let mut numbers: Vec<u16> = names("/dev", usize::MAX)
        .iter()
        .filter_map(|name| number_in(&format!("/dev/{name}")))
        .collect();
    numbers.sort_unstable();
    let links = links();
    let cameras = numbers.into_iter().take(FILES_MAX).filter_map(|number| {
        let path = format!("/dev/video{number}");
        let url = format!("{SCHEME}{}", links.get(&path).unwrap_or(&path));
        look(path, url)
    });
    Some(cameras.take(LISTED_MAX).collect())
}

/// Names in a directory; none where there is no such directory.
fn names(dir: &str, most: usize) -> Vec<String> {
    let entries = fs::read_dir(dir).into_iter().flatten().take(most);
    entries.filter_map(|entry| entry.ok()?.file_name().into_string().ok()).collect()
}

/// Device file to the link that a stream should name; the camera's own name before that of its socket.
fn links() -> BTreeMap<String, String> {
    let mut links = BTreeMap::new();
    for dir in ["/dev/v4l/by-path", "/dev/v4l/by-id"] {
        for name in names(dir, LINKS_MAX) {
            let link = format!("{dir}/{name}");
            let Ok(target) = fs::canonicalize(&link) else { continue };
            if path_of(&format!("{SCHEME}{link}")).is_some() {
                links.insert(target.to_string_lossy().into_owned(), link);
            }
        }
    }
    links
}

/// `None` for what is no camera.
fn look(path: String, url: String) -> Option<LocalCamera> {
    let looked = catch_unwind(AssertUnwindSafe(|| ask(&path)));
    let camera = LocalCamera { path, url, ..LocalCamera::default() };
    match looked {
        Ok(Ok(None)) => None,
        Ok(Ok(Some((identity, formats)))) => {
            Some(LocalCamera { name: identity.name, driver: identity.driver, formats, ..camera })
        }
        // It was there a moment ago.
        Ok(Err(IngestError::Unplugged { .. })) => None,
        Ok(Err(error)) => Some(LocalCamera { problem: Some(error.to_string()), ..camera }),
        Err(_) => {
            let problem = Some("internal error at this camera, see the log".to_owned());
            Some(LocalCamera { problem, ..camera })
        }
    }
}

type Known = (v4l2_sys::Identity, Vec<LocalFormat>);

fn ask(path: &str) -> Result<Option<Known>, IngestError> {
    let device = Device::open(path, number_of(path)?)?;
    let identity = device.identity().clone();
    if !identity.is_camera {
        return Ok(None);
    }
    let formats = device.formats().into_iter().map(|listed| LocalFormat {
        fourcc: fourcc_text(listed.code),
        description: listed.description,
        codecs: codecs(listed.code),
        sizes: Kind::of(listed.code).map(|_| device.sizes(listed.code, None)).unwrap_or_default(),
    });
    Ok(Some((identity, formats.collect())))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_list_at_a_time() {
        let walk = Walk::begin();
        assert_eq!(list(), None);
        drop(walk);
        let cameras = list().expect("nobody else lists");
        assert!(cameras.iter().all(|camera| path_of(&camera.url).is_some()));
    }

    #[test]
    fn what_is_no_camera_is_not_listed() {
        assert_eq!(look("/dev/video255".into(), String::new()), None);
        let camera = look("/dev/null".into(), String::new()).expect("listed with its problem");
        assert_eq!(camera.problem.as_deref(), Some("/dev/null is no video device"));
    }
}
