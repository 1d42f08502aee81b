//! Video4Linux: the one file that speaks to the kernel about cameras (ONE-DOOR), through the structures and ioctls of
//! the v4l crate.
//!
//! In here: opening a device file, asking what it offers, setting a format, buffers in the kernel's memory. Not in here:
//! what is chosen and what an answer is worth (`v4l2_core.rs`). A driver may block for seconds, so all of this runs on
//! a thread of its own (`v4l2.rs`), or on one of the API's (`v4l2_devices.rs`), never on the executor.
//! Of the v4l crate only the raw layer is used: its own types panic on names that are no UTF-8 and on values that
//! they don't know.

use std::ffi::c_void;
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::ptr;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::{FileType, Mode, OFlags};
use rustix::io::Errno;
use rustix::mm::{MapFlags, ProtFlags};
use rustix::time::{ClockId, clock_gettime};
use v4l::v4l_sys as sys;
use v4l::v4l2::{self, vidioc};

use super::IngestError;
use super::v4l2_core::{
    BUFFER_BYTES_MAX, Choice, FORMATS_MAX, INTERVALS_MAX, Kind, Layout, Offer, SIZES_MAX, Set,
    Sizes, Wish, agree, fps_of, sizes,
};
use crate::config::device::LocalSize;
use crate::media::packet::PACKET_BYTES_MAX;

/// Of all devices of Video4Linux (Documentation/admin-guide/devices.txt of Linux).
const MAJOR: u32 = 81;
/// Buffers that are asked for: one is filled, one is read, and two for a thread that comes late.
const BUFFERS: u32 = 4;
/// A driver may give more.
const BUFFERS_MAX: usize = 32;
/// Calls that a signal may interrupt.
const INTERRUPTS_MAX: u32 = 100;

const CAPTURE: u32 = sys::v4l2_buf_type_V4L2_BUF_TYPE_VIDEO_CAPTURE;
/// Cameras on boards' chips: the same calls with a list of planes in each buffer.
const CAPTURE_MPLANE: u32 = sys::v4l2_buf_type_V4L2_BUF_TYPE_VIDEO_CAPTURE_MPLANE;
const MMAP: u32 = sys::v4l2_memory_V4L2_MEMORY_MMAP;

/// Structures that an ioctl may read and write.
///
/// # Safety
/// All zeros, and any other bytes that the kernel writes, are a value of the type.
unsafe trait Plain: Sized {
    fn zeroed() -> Self {
        // SAFETY: the trait's promise.
        unsafe { std::mem::zeroed() }
    }
}

// SAFETY: structures of linux/videodev2.h: integers, and unions of them.
unsafe impl Plain for sys::v4l2_capability {}
// SAFETY: as above.
unsafe impl Plain for sys::v4l2_fmtdesc {}
// SAFETY: as above.
unsafe impl Plain for sys::v4l2_frmsizeenum {}
// SAFETY: as above.
unsafe impl Plain for sys::v4l2_frmivalenum {}
// SAFETY: as above; pointers in its union are raw ones, which may be null.
unsafe impl Plain for sys::v4l2_format {}
// SAFETY: as above.
unsafe impl Plain for sys::v4l2_streamparm {}
// SAFETY: as above.
unsafe impl Plain for sys::v4l2_requestbuffers {}
// SAFETY: as above; pointers in its union are raw ones, which may be null.
unsafe impl Plain for sys::v4l2_buffer {}
// SAFETY: as above; the pointer in its union is none.
unsafe impl Plain for sys::v4l2_plane {}
// SAFETY: an integer.
unsafe impl Plain for u32 {}

/// The number of the device behind a path, if that is a device of Video4Linux; without touching its driver.
pub fn number_of(path: &str) -> Result<u64, IngestError> {
    let stat = rustix::fs::stat(path).map_err(|errno| explain(path, "looking", errno))?;
    let is_video = FileType::from_raw_mode(stat.st_mode) == FileType::CharacterDevice
        && rustix::fs::major(stat.st_rdev) == MAJOR;
    if is_video { Ok(stat.st_rdev) } else { Err(no_camera(path)) }
}

fn no_camera(path: &str) -> IngestError {
    IngestError::Refused { what: format!("{path} is no video device") }
}

/// What an error of the kernel means to the owner.
fn explain(path: &str, doing: &str, errno: Errno) -> IngestError {
    match errno {
        Errno::NOENT | Errno::NODEV | Errno::NXIO => {
            IngestError::Unplugged { what: format!("no camera is plugged in as {path}") }
        }
        Errno::BUSY => IngestError::Connection { what: busy(path, "another program") },
        Errno::ACCESS | Errno::PERM => {
            let what = format!(
                "no permission to open {path}: the recorder's user must be in the group video"
            );
            IngestError::Refused { what }
        }
        Errno::NOTTY => no_camera(path),
        other => {
            let error = io::Error::from(other);
            IngestError::Connection { what: format!("camera {path}, {doing}: {error}") }
        }
    }
}

/// Words for a camera that somebody else has.
pub fn busy(path: &str, who: &str) -> String {
    format!("camera {path} is busy: {who} uses it")
}

/// What a device says of itself.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Identity {
    pub name: String,
    pub driver: String,
    /// Whether it delivers pictures that this program can fetch.
    pub is_camera: bool,
}

/// A format as a driver lists it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Listed {
    pub code: u32,
    pub description: String,
}

/// An open device.
pub struct Device {
    file: OwnedFd,
    path: String,
    identity: Identity,
    /// Type of its buffers: with planes or without.
    buffers: u32,
}

impl Device {
    /// Opens a path of which `number_of` has said `number`.
    pub fn open(path: &str, number: u64) -> Result<Self, IngestError> {
        let flags = OFlags::RDWR | OFlags::NONBLOCK | OFlags::CLOEXEC | OFlags::NOCTTY;
        let opened = rustix::fs::open(path, flags, Mode::empty());
        let file = opened.map_err(|errno| explain(path, "opening", errno))?;
        // Another device may have come in its place in between.
        let stat = rustix::fs::fstat(&file);
        if !stat.is_ok_and(|stat| stat.st_rdev == number) {
            return Err(no_camera(path));
        }
        let identity = Identity::default();
        let mut device = Self { file, path: path.to_owned(), identity, buffers: CAPTURE };
        device.ask()?;
        Ok(device)
    }

    fn ask(&mut self) -> Result<(), IngestError> {
        let mut capability = sys::v4l2_capability::zeroed();
        self.call(vidioc::VIDIOC_QUERYCAP, &mut capability).map_err(self.failed("asking"))?;
        let all = capability.capabilities;
        // A device with several files says in `device_caps` which of all this one has.
        let own = if all & sys::V4L2_CAP_DEVICE_CAPS == 0 { all } else { capability.device_caps };
        let is_plain = own & sys::V4L2_CAP_VIDEO_CAPTURE != 0;
        let has_planes = own & sys::V4L2_CAP_VIDEO_CAPTURE_MPLANE != 0;
        self.buffers = if has_planes && !is_plain { CAPTURE_MPLANE } else { CAPTURE };
        self.identity = Identity {
            name: text(&capability.card),
            driver: text(&capability.driver),
            is_camera: (is_plain || has_planes) && own & sys::V4L2_CAP_STREAMING != 0,
        };
        Ok(())
    }

    /// What it says of itself.
    pub fn identity(&self) -> &Identity {
        &self.identity
    }

    fn failed(&self, doing: &'static str) -> impl Fn(Errno) -> IngestError + '_ {
        move |errno| explain(&self.path, doing, errno)
    }

    fn call<T: Plain>(&self, request: vidioc::_IOC_TYPE, argument: &mut T) -> Result<(), Errno> {
        for _ in 0..INTERRUPTS_MAX {
            let at = ptr::from_mut(argument).cast::<c_void>();
            // SAFETY: the request's number holds the size of the structure behind `at`, which each caller below
            // pairs as linux/videodev2.h does; the kernel reads and writes no more than that.
            match unsafe { v4l2::ioctl(self.file.as_raw_fd(), request, at) } {
                Ok(()) => return Ok(()),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(Errno::from_io_error(&error).unwrap_or(Errno::IO)),
            }
        }
        Err(Errno::INTR)
    }

    /// The formats that the driver lists.
    pub fn formats(&self) -> Vec<Listed> {
        let mut found: Vec<Listed> = Vec::new();
        for index in 0..FORMATS_MAX as u32 {
            let mut listed = sys::v4l2_fmtdesc::zeroed();
            (listed.index, listed.type_) = (index, self.buffers);
            if self.call(vidioc::VIDIOC_ENUM_FMT, &mut listed).is_err() {
                break;
            }
            let code = listed.pixelformat;
            if !found.iter().any(|known| known.code == code) {
                found.push(Listed { code, description: text(&listed.description) });
            }
        }
        found
    }

    /// The sizes of a format with their rates; for a driver that lists none, the wished one.
    pub fn sizes(&self, code: u32, wish: Option<&Wish>) -> Vec<LocalSize> {
        let mut named = Vec::new();
        for index in 0..SIZES_MAX as u32 {
            let mut listed = sys::v4l2_frmsizeenum::zeroed();
            (listed.index, listed.pixel_format) = (index, code);
            if self.call(vidioc::VIDIOC_ENUM_FRAMESIZES, &mut listed).is_err() {
                break;
            }
            // SAFETY: both fields of the union are integers, so either may be read.
            let (one, range) =
                unsafe { (listed.__bindgen_anon_1.discrete, listed.__bindgen_anon_1.stepwise) };
            if listed.type_ == sys::v4l2_frmsizetypes_V4L2_FRMSIZE_TYPE_DISCRETE {
                named.push(Sizes::One { width: one.width, height: one.height });
            } else {
                let width = (range.min_width, range.max_width, range.step_width);
                let height = (range.min_height, range.max_height, range.step_height);
                named.push(Sizes::Range { width, height });
                // A range is the only entry (VIDIOC_ENUM_FRAMESIZES); who answers every index would go on.
                break;
            }
        }
        if named.is_empty() {
            named.push(Sizes::Range { width: (16, 8192, 2), height: (16, 8192, 2) });
        }
        let kind = Kind::of(code).unwrap_or(Kind::Yuyv);
        let sizes = sizes(&named, wish, kind).into_iter();
        sizes
            .map(|(width, height)| LocalSize { width, height, fps: self.fps(code, width, height) })
            .collect()
    }

    /// Most pictures per second in this size; 0 where the driver does not say.
    fn fps(&self, code: u32, width: u16, height: u16) -> u16 {
        let mut most = 0;
        for index in 0..INTERVALS_MAX as u32 {
            let mut listed = sys::v4l2_frmivalenum::zeroed();
            (listed.index, listed.pixel_format) = (index, code);
            (listed.width, listed.height) = (width.into(), height.into());
            if self.call(vidioc::VIDIOC_ENUM_FRAMEINTERVALS, &mut listed).is_err() {
                break;
            }
            // SAFETY: both fields of the union are integers, so either may be read.
            let (one, range) =
                unsafe { (listed.__bindgen_anon_1.discrete, listed.__bindgen_anon_1.stepwise) };
            let is_one = listed.type_ == sys::v4l2_frmivaltypes_V4L2_FRMIVAL_TYPE_DISCRETE;
            let shortest = if is_one { one } else { range.min };
            most = most.max(fps_of(shortest.numerator, shortest.denominator));
            if !is_one {
                break;
            }
        }
        most
    }

    /// All that the device offers a stream that wishes this; sizes only of formats that can be used.
    pub fn offers(&self, wish: &Wish) -> Vec<Offer> {
        let offer = |Listed { code, .. }| {
            let sizes = Kind::of(code).map(|_| self.sizes(code, Some(wish)));
            Offer { code, sizes: sizes.unwrap_or_default() }
        };
        self.formats().into_iter().map(offer).collect()
    }

    /// Sets format, size and rate; what the driver makes of it is what comes.
    pub fn set(&self, choice: &Choice) -> Result<Layout, IngestError> {
        let set = match self.buffers {
            CAPTURE_MPLANE => self.set_planes(choice),
            _ => self.set_plain(choice),
        };
        let set = set.map_err(self.failed("setting its format"))?;
        let refused = |what| IngestError::Refused { what: format!("camera {}: {what}", self.path) };
        let layout = agree(choice, &set).map_err(refused)?;
        if let Some(fps) = choice.fps {
            self.set_fps(fps);
        }
        Ok(layout)
    }

    fn set_plain(&self, choice: &Choice) -> Result<Set, Errno> {
        let mut format = sys::v4l2_format::zeroed();
        format.type_ = CAPTURE;
        format.fmt.pix = sys::v4l2_pix_format {
            width: choice.width.into(),
            height: choice.height.into(),
            pixelformat: choice.code,
            field: sys::v4l2_field_V4L2_FIELD_NONE,
            // SAFETY: `zeroed` set all of the union's bytes, and this field is integers.
            ..unsafe { format.fmt.pix }
        };
        self.call(vidioc::VIDIOC_S_FMT, &mut format)?;
        // SAFETY: for this type of buffer the kernel has written `pix`.
        let pix = unsafe { format.fmt.pix };
        Ok(Set {
            code: pix.pixelformat,
            width: pix.width,
            height: pix.height,
            stride: pix.bytesperline,
            image_bytes: pix.sizeimage,
            planes: 1,
        })
    }

    fn set_planes(&self, choice: &Choice) -> Result<Set, Errno> {
        let mut format = sys::v4l2_format::zeroed();
        format.type_ = CAPTURE_MPLANE;
        format.fmt.pix_mp = sys::v4l2_pix_format_mplane {
            width: choice.width.into(),
            height: choice.height.into(),
            pixelformat: choice.code,
            field: sys::v4l2_field_V4L2_FIELD_NONE,
            num_planes: 1,
            // SAFETY: `zeroed` set all of the union's bytes, and this field is integers.
            ..unsafe { format.fmt.pix_mp }
        };
        self.call(vidioc::VIDIOC_S_FMT, &mut format)?;
        // SAFETY: for this type of buffer the kernel has written `pix_mp`.
        let pix = unsafe { format.fmt.pix_mp };
        let [plane, ..] = pix.plane_fmt;
        Ok(Set {
            code: pix.pixelformat,
            width: pix.width,
            height: pix.height,
            stride: plane.bytesperline,
            image_bytes: plane.sizeimage,
            planes: pix.num_planes,
        })
    }

    /// A driver without rates keeps its own: pictures that are too many are left out later.
    fn set_fps(&self, fps: u16) {
        let mut parameters = sys::v4l2_streamparm::zeroed();
        parameters.type_ = self.buffers;
        parameters.parm.capture.timeperframe =
            sys::v4l2_fract { numerator: 1, denominator: u32::from(fps) };
        if let Err(errno) = self.call(vidioc::VIDIOC_S_PARM, &mut parameters) {
            log::debug!("camera {} keeps its frame rate: {errno}", self.path);
        }
    }

    /// Begins to deliver pictures.
    pub fn start(self) -> Result<Capture, IngestError> {
        let mut request = sys::v4l2_requestbuffers::zeroed();
        (request.count, request.type_, request.memory) = (BUFFERS, self.buffers, MMAP);
        self.call(vidioc::VIDIOC_REQBUFS, &mut request)
            .map_err(self.failed("asking for memory"))?;
        let count = request.count as usize;
        if !(2..=BUFFERS_MAX).contains(&count) {
            let what = format!("camera {}: driver gives {count} buffers", self.path);
            return Err(IngestError::Connection { what });
        }
        let mut buffers = Vec::with_capacity(count);
        for index in 0..request.count {
            buffers.push(self.map(index)?);
            self.queue(index)?;
        }
        let mut kind = self.buffers;
        self.call(vidioc::VIDIOC_STREAMON, &mut kind).map_err(self.failed("starting"))?;
        Ok(Capture { buffers, device: self })
    }

    fn map(&self, index: u32) -> Result<Mapped, IngestError> {
        let answered = self.exchange(vidioc::VIDIOC_QUERYBUF, index);
        let (_, plane) = answered.map_err(self.failed("asking for memory"))?;
        let len = plane.length as usize;
        if plane.length == 0 || plane.length > BUFFER_BYTES_MAX {
            let what = format!("camera {}: driver gives buffers of {len} bytes", self.path);
            return Err(IngestError::Connection { what });
        }
        // SAFETY: for memory of this type the kernel has written `mem_offset`, and `exchange` where it did not.
        let offset = u64::from(unsafe { plane.m.mem_offset });
        // SAFETY: a new mapping, at an address that the kernel picks, of memory that the driver keeps until unmapped.
        let mapped = unsafe {
            rustix::mm::mmap(
                ptr::null_mut(),
                len,
                ProtFlags::READ,
                MapFlags::SHARED,
                &self.file,
                offset,
            )
        };
        let start = mapped.map_err(self.failed("mapping its memory"))?;
        Ok(Mapped { start, len })
    }

    /// A call about a buffer; what the driver answers of it, and of its one plane, with planes or without.
    fn exchange(
        &self,
        request: vidioc::_IOC_TYPE,
        index: u32,
    ) -> Result<(sys::v4l2_buffer, sys::v4l2_plane), Errno> {
        let mut planes = [sys::v4l2_plane::zeroed(); sys::VIDEO_MAX_PLANES as usize];
        let mut buffer = sys::v4l2_buffer::zeroed();
        (buffer.index, buffer.type_, buffer.memory) = (index, self.buffers, MMAP);
        if self.buffers == CAPTURE_MPLANE {
            // The kernel reads and writes so many planes there at most, while `planes` lives.
            buffer.length = sys::VIDEO_MAX_PLANES;
            buffer.m.planes = planes.as_mut_ptr();
        }
        self.call(request, &mut buffer)?;
        let mut plane = planes[0];
        if self.buffers != CAPTURE_MPLANE {
            (plane.length, plane.bytesused) = (buffer.length, buffer.bytesused);
            // SAFETY: without planes and with memory of this type the kernel has written `offset`.
            plane.m.mem_offset = unsafe { buffer.m.offset };
        }
        Ok((buffer, plane))
    }

    /// Gives a buffer to the driver.
    fn queue(&self, index: u32) -> Result<(), IngestError> {
        let queued = self.exchange(vidioc::VIDIOC_QBUF, index);
        queued.map(drop).map_err(self.failed("handing memory back"))
    }
}

/// A buffer of the driver's, readable here until it is dropped.
struct Mapped {
    start: *mut c_void,
    len: usize,
}

impl Mapped {
    /// A copy of the first `len` bytes, or of all, without the first `skip`. The driver must have handed the buffer out.
    fn copy(&self, skip: usize, len: usize) -> Vec<u8> {
        let len = len.min(self.len);
        // SAFETY: `len` bytes from `start` on are mapped and readable; the driver writes to none of them between
        // VIDIOC_DQBUF and VIDIOC_QBUF, and one that does nonetheless changes bytes of which any value is a `u8`.
        let bytes = unsafe { std::slice::from_raw_parts(self.start.cast::<u8>(), len) };
        bytes.get(skip..).unwrap_or_default().to_vec()
    }
}

impl Drop for Mapped {
    fn drop(&mut self) {
        // SAFETY: mapped by `map` in this length, and nobody keeps a reference into it.
        let _ = unsafe { rustix::mm::munmap(self.start, self.len) };
    }
}

/// A picture as the driver handed it out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Captured {
    pub data: Vec<u8>,
    /// Microseconds on the kernel's monotonic clock, if the driver dates by that.
    pub stamp_us: Option<i64>,
    /// When it was fetched, on the same clock.
    pub arrived_us: i64,
    /// Counts pictures, those that the driver lost too; wraps.
    pub sequence: u32,
    /// The driver says that something is wrong with it, or it is longer than a packet may be.
    pub is_broken: bool,
    /// It fills its buffer to the last byte.
    pub is_full: bool,
}

/// A device that delivers. Dropping it stops and closes it.
pub struct Capture {
    // Before the device: mappings go first.
    buffers: Vec<Mapped>,
    device: Device,
}

impl Capture {
    /// Waits for the next picture, `None` if there is none for so long.
    pub fn next(&mut self, patience: Duration) -> Result<Option<Captured>, IngestError> {
        let deadline = Instant::now() + patience;
        let mut has_error = false;
        loop {
            match self.device.exchange(vidioc::VIDIOC_DQBUF, 0) {
                Ok((buffer, plane)) => return self.take(&buffer, &plane).map(Some),
                // poll says that nothing can come any more, or nothing is queued.
                Err(Errno::AGAIN) if has_error => {
                    let what = format!("camera {} stopped", self.device.path);
                    return Err(IngestError::Connection { what });
                }
                Err(Errno::AGAIN) => {}
                Err(errno) => return Err(explain(&self.device.path, "fetching a picture", errno)),
            }
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Ok(None);
            }
            let mut fds = [PollFd::new(&self.device.file, PollFlags::IN)];
            let timeout = Timespec {
                tv_sec: left.as_secs() as i64, // a patience of seconds
                tv_nsec: left.subsec_nanos().into(),
            };
            match poll(&mut fds, Some(&timeout)) {
                Ok(0) => return Ok(None),
                Ok(_) => {
                    let revents = fds[0].revents();
                    has_error =
                        revents.intersects(PollFlags::ERR | PollFlags::HUP | PollFlags::NVAL);
                }
                Err(Errno::INTR) => {}
                Err(errno) => return Err(explain(&self.device.path, "waiting", errno)),
            }
        }
    }

    fn take(
        &self,
        buffer: &sys::v4l2_buffer,
        plane: &sys::v4l2_plane,
    ) -> Result<Captured, IngestError> {
        let Some(mapped) = self.buffers.get(buffer.index as usize) else {
            let what = format!("camera {}: driver names buffer {}", self.device.path, buffer.index);
            return Err(IngestError::Connection { what });
        };
        // What comes before the picture counts as used (VIDIOC_QUERYBUF, `data_offset`).
        let (used, skip) = (plane.bytesused as usize, plane.data_offset as usize);
        let is_broken = buffer.flags & sys::V4L2_BUF_FLAG_ERROR != 0;
        let is_sane = used > skip && used <= mapped.len && used - skip <= PACKET_BYTES_MAX;
        let data = if is_sane { mapped.copy(skip, used) } else { Vec::new() };
        self.device.queue(buffer.index)?;
        let clock = buffer.flags & sys::V4L2_BUF_FLAG_TIMESTAMP_MASK;
        let is_monotonic = clock == sys::V4L2_BUF_FLAG_TIMESTAMP_MONOTONIC;
        #[allow(clippy::unnecessary_cast, reason = "of 32 or 64 bits, as the target has it")]
        let (seconds, micros) = (buffer.timestamp.tv_sec as i64, buffer.timestamp.tv_usec as i64);
        let stamp_us = seconds.checked_mul(1_000_000).and_then(|us| us.checked_add(micros));
        let now = clock_gettime(ClockId::Monotonic);
        Ok(Captured {
            data,
            stamp_us: stamp_us.filter(|_| is_monotonic),
            arrived_us: now.tv_sec * 1_000_000 + now.tv_nsec / 1000,
            sequence: buffer.sequence,
            is_broken: is_broken || !is_sane,
            is_full: used == mapped.len,
        })
    }
}

impl Drop for Capture {
    fn drop(&mut self) {
        let mut kind = self.device.buffers;
        // A camera that was unplugged has nothing to stop.
        let _ = self.device.call(vidioc::VIDIOC_STREAMOFF, &mut kind);
    }
}

/// Text of the kernel's up to the first zero, without what can't be shown.
fn text(bytes: &[u8]) -> String {
    let end = bytes.iter().position(|&byte| byte == 0).unwrap_or(bytes.len());
    let text = String::from_utf8_lossy(&bytes[..end]);
    text.chars().filter(|c| !c.is_control()).collect::<String>().trim().to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_video_devices_are_opened() {
        assert!(matches!(number_of("/dev/video255"), Err(IngestError::Unplugged { .. })));
        for path in ["/dev/null", "/etc/passwd", "/dev"] {
            let error = number_of(path).expect_err(path);
            assert_eq!(error, IngestError::Refused { what: format!("{path} is no video device") });
        }
        assert!(Device::open("/dev/null", 0).is_err(), "another device than was looked at");
    }

    #[test]
    fn errors_say_what_happens_next() {
        let busy = explain("/dev/video0", "starting", Errno::BUSY);
        let what = "camera /dev/video0 is busy: another program uses it".to_owned();
        assert_eq!(busy, IngestError::Connection { what });
        let gone = explain("/dev/video0", "fetching a picture", Errno::NODEV);
        assert!(matches!(gone, IngestError::Unplugged { .. }), "{gone}");
        let denied = explain("/dev/video0", "opening", Errno::ACCESS);
        assert!(matches!(denied, IngestError::Refused { .. }), "{denied}");
        assert!(denied.to_string().contains("group video"), "{denied}");
        let other = explain("/dev/video0", "starting", Errno::IO);
        assert!(other.to_string().starts_with("camera /dev/video0, starting: "), "{other}");
    }

    #[test]
    fn names_are_whatever_the_camera_says() {
        assert_eq!(text(b"HD Webcam\0rest"), "HD Webcam");
        assert_eq!(text(b"\xff\x1b[31m no end "), "\u{FFFD}[31m no end");
    }
}
