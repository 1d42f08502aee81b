//! Takes in the bundle of an update, for `lightnvr keep` to install.
//!
//! In here: one upload at a time, from the connection to a file beside the store, in steps that leave the disk to the
//! recordings: they come first, and the client waits while one of them waits. A bundle that this device may not take
//! is refused as soon as that is seen. The keeper verifies it all again: it runs as root and believes nobody. Not in here:
//! what a bundle is (`update/bundle_core`), what becomes of it (`appliance/update`).

use std::cell::RefCell;
use std::fs::{File, OpenOptions};
use std::io::{self, ErrorKind, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use smol::future::or;

use super::orders::Orders;
use super::trial::Turn;
use crate::VERSION;
use crate::http::viewer::{Stop, Viewer, blocking};
use crate::store::{SCHEMA, StoreError, StoreReader};
use crate::system::notify::Notifier;
use crate::system::{clock, stats, wait};
use crate::update::bundle_core::{
    Device, HEAD_BYTES_MAX, Header, PayloadCheck, Refusal, Version, read_head,
};
use crate::update::desk::{
    BUNDLE_DIR, BUNDLE_FILE, BUNDLE_PART, Desk, READY_WORD, RECORDED_WORD, Upload,
};
use crate::update::update_core::RECORDED_BEFORE;

/// A client that sends nothing for so long has gone.
const STALL_MAX: Duration = Duration::from_secs(20);
/// The largest bundle at 150 kB/s.
const UPLOAD_MAX: Duration = Duration::from_secs(30 * 60);
/// Written and synced at once: a recording's own sync waits for no more than this.
const STEP_BYTES: usize = 512 << 10;
/// Left free beside the bundle: room for what is recorded until retention makes more.
const SPARE_BYTES: u64 = 16 << 20;
/// While more than this of a stream waits for the disk, the upload waits, too. Below what is an ailment (5 s).
const WAITING_MS_MAX: u64 = 4000;
const LOOK_AGAIN: Duration = Duration::from_millis(500);
/// How soon a client that is turned away may come back.
const RETRY_S: u32 = 10;

/// Where uploads go.
#[derive(Debug)]
pub struct Intake {
    desk: Arc<Desk>,
    dir: PathBuf,
    turn: Turn,
    notifier: RefCell<Option<Notifier>>,
}

impl Intake {
    /// What an earlier life left of an upload goes.
    pub fn new(desk: Arc<Desk>, data_dir: &Path) -> Self {
        let dir = data_dir.join(BUNDLE_DIR);
        if desk.is_device() {
            clear(&dir).unwrap_or_else(|error| log::warn!("{}: {error}", dir.display()));
        }
        Self { desk, dir, turn: Turn::default(), notifier: RefCell::default() }
    }

    /// Tells the keeper; answers whether that was possible.
    fn tell_keeper(&self, was_recording: bool) -> bool {
        let words = match was_recording {
            true => format!("{RECORDED_WORD}\n{READY_WORD}"),
            false => READY_WORD.to_owned(),
        };
        let mut notifier = self.notifier.borrow_mut();
        notifier.get_or_insert_with(Notifier::from_environment).tell(&words)
    }
}

/// Why an upload came to nothing.
enum Failed {
    /// The bundle is not for this device, or is no bundle: 422.
    Refused { version: String, reason: String },
    /// The disk: 503, and the cause is in the log.
    Disk(io::Error),
    /// No room: 507.
    NoRoom { want: u64, free: u64 },
    /// The client has gone, or is too slow.
    Gone,
}

impl From<io::Error> for Failed {
    fn from(error: io::Error) -> Self {
        Self::Disk(error)
    }
}

impl From<Stop> for Failed {
    fn from(_: Stop) -> Self {
        Self::Gone
    }
}

fn refused(Refusal(reason): Refusal) -> Failed {
    Failed::Refused { version: String::new(), reason }
}

/// Serves `POST /system/update`.
pub async fn serve(orders: &Orders, length: u64, mut viewer: Viewer<'_>) -> Result<(), Stop> {
    let intake = &orders.intake;
    let Some(_turn) = intake.turn.take() else {
        return viewer.refuse_for("another update is being sent; one at a time", RETRY_S).await;
    };
    if matches!(*intake.desk.upload(), Upload::Given) && intake.dir.join(BUNDLE_FILE).exists() {
        return viewer.refuse_for("an update is being installed", RETRY_S).await;
    }
    let version = Version::parse(VERSION);
    let device = version.and_then(|version| intake.desk.device(version, SCHEMA));
    let Some(device) = device else {
        return viewer.refuse_for("the device is not ready for an update", RETRY_S).await;
    };
    let _showing = Showing(&intake.desk);
    let late = async {
        wait::pause(UPLOAD_MAX).await;
        Err(Failed::Gone)
    };
    let taken = or(take(orders, length, &device, &mut viewer), late).await;
    if taken.is_err() {
        let dir = intake.dir.clone();
        if let Err(error) = blocking(move || clear(&dir)).await {
            log::warn!("update: {error}");
        }
    }
    match taken {
        Ok(header) => {
            if !intake.tell_keeper(has_recorded(orders).await) {
                return viewer.refuse_for("the device is not ready for an update", RETRY_S).await;
            }
            intake.desk.set_upload(Upload::Given);
            log::info!("update to {} is to be installed", header.version);
            let body = format!(r#"{{"success":true,"version":"{}"}}"#, header.version);
            viewer.reply(&[("Content-Type", "application/json")], body.as_bytes()).await
        }
        Err(Failed::Refused { version, reason }) => {
            log::warn!("update refused: {reason}");
            let at_ms = clock::wall_ms();
            intake.desk.set_upload(Upload::Refused { version, reason: reason.clone(), at_ms });
            viewer.refuse_saying(422, &reason).await
        }
        Err(Failed::NoRoom { want, free }) => {
            let mib = |bytes: u64| bytes >> 20;
            let what = format!(
                "the update needs {} MiB on the data partition, {} MiB are free: delete some recordings",
                mib(want) + 1,
                mib(free)
            );
            viewer.refuse_saying(507, &what).await
        }
        Err(Failed::Disk(error)) => {
            log::error!("update: {error}");
            viewer
                .refuse_for("the data partition can't be written now; the log says why", RETRY_S)
                .await
        }
        Err(Failed::Gone) => Err(Stop::Gone),
    }
}

/// Whether something was recorded lately, in this run of the device or before. What can't be read was.
async fn has_recorded(orders: &Orders) -> bool {
    let parts = &orders.nvr.parts;
    let reader = parts.recordings.store.reader();
    let snapshot = parts.cell.load();
    let configs = snapshot.streams.iter().map(|view| &view.config);
    let ids = configs.filter(|config| config.enabled && config.record).map(|config| config.id);
    let ids: Vec<u32> = ids.collect();
    let found = blocking(move || was_recording(&reader, &ids, clock::wall_ms())).await;
    found.unwrap_or_else(|error| {
        log::warn!("update: {error}");
        true
    })
}

/// Whether one of the streams was recorded in the time of `RECORDED_BEFORE` before `now_ms`. Where the clock was not set,
/// then or now, it may be off by as much in the other direction: the last known time is kept more often.
fn was_recording(reader: &StoreReader, ids: &[u32], now_ms: i64) -> Result<bool, StoreError> {
    for &id in ids {
        let newest = reader.newest(id)?;
        let is_late = |end_ms: i64| now_ms.abs_diff(end_ms) <= RECORDED_BEFORE.as_millis() as u64;
        if newest.is_some_and(|newest| newest.in_progress || is_late(newest.end_ms)) {
            return Ok(true);
        }
    }
    Ok(false)
}

/// An upload that ends, however that is, is not shown any more.
struct Showing<'a>(&'a Desk);

impl Drop for Showing<'_> {
    fn drop(&mut self) {
        if matches!(*self.0.upload(), Upload::Under { .. }) {
            self.0.set_upload(Upload::None);
        }
    }
}

/// Reads, verifies and keeps the bundle.
async fn take(
    orders: &Orders,
    length: u64,
    device: &Device,
    viewer: &mut Viewer<'_>,
) -> Result<Header, Failed> {
    let desk = &orders.intake.desk;
    let dir = orders.intake.dir.clone();
    let mut file = blocking(move || begin(&dir, length)).await?;
    viewer.ask_for_body().await?;
    let mut taking = Taking::Head;
    let mut received = 0;
    let mut step = Vec::with_capacity(STEP_BYTES);
    while received < length {
        let room = STEP_BYTES.min(usize::try_from(length - received).unwrap_or(STEP_BYTES));
        step.resize(room, 0);
        let mut filled = 0;
        while filled < room {
            match viewer.read_body(&mut step[filled..], STALL_MAX).await? {
                0 => return Err(Failed::Gone),
                n => filled += n,
            }
        }
        if let Err(refusal) = taking.feed(&step, length, device) {
            drain(viewer, length - received - room as u64).await?;
            return Err(refused(refusal));
        }
        received += room as u64;
        wait_for_recordings(orders).await;
        let written;
        (written, file, step) = blocking(move || {
            let written = file.write_all(&step).and_then(|()| file.sync_data());
            (written, file, step)
        })
        .await;
        written?;
        desk.set_upload(Upload::Under { received, total: length });
    }
    let Taking::Parts(parts) = taking else {
        return Err(refused(Refusal("the update is not whole: it ends in its head".into())));
    };
    let (header, check) = *parts;
    check.finish().map_err(|Refusal(reason)| Failed::Refused {
        version: header.version.to_string(),
        reason,
    })?;
    let dir = orders.intake.dir.clone();
    blocking(move || finish(&dir)).await?;
    Ok(header)
}

/// How far the look at a bundle is.
enum Taking {
    Head,
    Parts(Box<(Header, PayloadCheck)>),
}

impl Taking {
    /// Looks at the next bytes; the first ones hold the whole head, or the whole bundle.
    fn feed(&mut self, bytes: &[u8], total: u64, device: &Device) -> Result<(), Refusal> {
        const { assert!(STEP_BYTES >= HEAD_BYTES_MAX) }
        match self {
            Self::Parts(parts) => parts.1.feed(bytes),
            Self::Head => {
                let Some(header) = read_head(bytes, total, device)? else {
                    return Err(Refusal("the update is not whole: it ends in its head".into()));
                };
                let mut check = PayloadCheck::new(&header);
                let at = usize::try_from(header.length).unwrap_or(bytes.len()).min(bytes.len());
                check.feed(&bytes[at..])?;
                *self = Self::Parts(Box::new((header, check)));
                Ok(())
            }
        }
    }
}

/// Reads the rest and throws it away: many clients hear the answer only when they have sent all.
async fn drain(viewer: &mut Viewer<'_>, mut left: u64) -> Result<(), Stop> {
    let mut buffer = vec![0; 64 << 10];
    while left > 0 {
        let room = buffer.len().min(usize::try_from(left).unwrap_or(buffer.len()));
        match viewer.read_body(&mut buffer[..room], STALL_MAX).await? {
            0 => return Err(Stop::Gone),
            n => left -= n as u64,
        }
    }
    Ok(())
}

/// Waits while packets of a stream wait for the disk; the whole upload has its end.
async fn wait_for_recordings(orders: &Orders) {
    let is_behind = || {
        let streams = &orders.nvr.parts.cell.load().streams;
        let mut buffers = streams.iter().filter_map(|stream| stream.buffer.as_ref());
        buffers.any(|buffer| buffer.held_ms > WAITING_MS_MAX)
    };
    while is_behind() {
        wait::pause(LOOK_AGAIN).await;
    }
}

/// Makes room, looks whether there is enough, and begins the file.
fn begin(dir: &Path, length: u64) -> Result<File, Failed> {
    clear(dir)?;
    std::fs::DirBuilder::new().recursive(true).mode(0o700).create(dir)?;
    let free = stats::storage(dir)?.free;
    let want = length + SPARE_BYTES;
    if free < want {
        return Err(Failed::NoRoom { want, free });
    }
    let mut options = OpenOptions::new();
    Ok(options.write(true).create_new(true).mode(0o600).open(dir.join(BUNDLE_PART))?)
}

/// Gives the whole bundle its name.
fn finish(dir: &Path) -> io::Result<()> {
    std::fs::rename(dir.join(BUNDLE_PART), dir.join(BUNDLE_FILE))?;
    File::open(dir)?.sync_all()
}

/// Removes what is left of a bundle.
fn clear(dir: &Path) -> io::Result<()> {
    for name in [BUNDLE_PART, BUNDLE_FILE] {
        match std::fs::remove_file(dir.join(name)) {
            Err(error) if error.kind() != ErrorKind::NotFound => return Err(error),
            _ => {}
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::row::RecordingRow;
    use crate::store::{Change, Store};

    const NOW_MS: i64 = 1_800_000_000_000;
    const HOUR_MS: i64 = 3_600_000;

    fn row(id: u32, end_ms: i64, in_progress: bool) -> Change {
        Change::PutRecording(RecordingRow {
            id: id.into(),
            stream_id: id,
            stream_name: "Tor".into(),
            start_ms: NOW_MS - 5 * HOUR_MS,
            end_ms,
            size: 5,
            path: format!("/nowhere/{id}.mp4"),
            in_progress,
            is_protected: false,
            boot: 1,
        })
    }

    #[test]
    fn what_was_recorded_before_a_restart_counts_for_an_hour() {
        let dir = std::env::temp_dir().join(format!("lightnvr-recorded-{}", std::process::id()));
        std::fs::create_dir_all(&dir).expect("a directory");
        let store = Store::open(&dir).expect("a store");
        let rows = [
            row(0, NOW_MS - HOUR_MS - 1, false),
            row(1, NOW_MS - HOUR_MS + 1, false),
            row(2, NOW_MS - 4 * HOUR_MS, true),
            row(3, NOW_MS + 600_000, false),
            row(4, NOW_MS + 2 * HOUR_MS, false),
        ];
        store.commit(&rows).expect("it can be written");
        let was = |ids: &[u32]| was_recording(&store.reader(), ids, NOW_MS).expect("readable");
        assert!(!was(&[0]) && was(&[1]), "an hour");
        assert!(was(&[2]), "it was being written");
        assert!(was(&[3]) && !was(&[4]), "by another clock");
        assert!(!was(&[5]) && !was(&[]) && was(&[5, 0, 1]), "any of them");
        std::fs::remove_dir_all(&dir).expect("it is ours");
    }
}
