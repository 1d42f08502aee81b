//! Updates on the device, as root: a bundle is verified, written to the other slot, tried, and confirmed or left.
//!
//! In here: carrying out the steps of `update/update_core`, in pieces that leave the card to the recordings, and the look
//! at a version on trial. The recorder's word that a bundle is there is all that is believed of it: its signature is
//! verified here, from the file, before a byte is written, and what was written is read back and held against what was
//! signed before it is tried. Not in here: what is to be done and in which order.

use std::cell::{Cell, RefCell};
use std::fs::{self, File, OpenOptions};
use std::io::{self, ErrorKind, Read, Write};
use std::net::Ipv4Addr;
use std::os::unix::fs::{FileExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use rustix::fs::{Advice, OFlags};
use smol::channel::{Receiver, Sender, bounded};
use smol::future::FutureExt;
use smol::io::{AsyncReadExt, AsyncWriteExt};
use smol::net::TcpStream;

use super::init::{partition, say, write_private};
use super::{BOOT_DIR, DEVICE_DIR, RUN_DIR, UPDATE_DIR, boot_files};
use crate::VERSION;
use crate::store::SCHEMA;
use crate::system::pool::Pool;
use crate::system::{clock, wait};
use crate::update::bundle_core::{
    BUNDLE_BYTES_MAX, Device, HEAD_BYTES_MAX, Header, PART_KINDS, PartCheck, PartKind,
    PayloadCheck, Refusal, Version, parse_hex, read_head,
};
use crate::update::desk::{
    BUNDLE_DIR, BUNDLE_FILE, DEVICE_FILE, Phase, STATUS_FILE, Status, encode_device,
};
use crate::update::update_core::{
    self, BootState, Note, Outcome, RECORDED_BEFORE, Slot, Start, Step, TrialWatch, Verdict,
};

/// The public key that `image.sh --sign` puts into the root: 64 hexadecimal digits.
const KEY_FILE: &str = "/etc/lightnvr-update-key";
const BOARD_FILE: &str = "/etc/lightnvr-board";
/// What the boot loader reads, and the copy that it reads when the first is no use.
const SLOT_FILE: &str = "slot.txt";
const SLOT_COPY: &str = "slot.bak";
const SLOT_BYTES_MAX: usize = 512;
/// In `DEVICE_DIR`: what became of the last update.
const NOTE_FILE: &str = "update";
const NOTE_BYTES_MAX: u64 = 4 << 10;
/// In `RUN_DIR`, for `rcS`: the version that runs is confirmed, or was not on trial.
const CONFIRMED_FILE: &str = "confirmed";
/// Read or written at once. After each piece the card is left alone for as long as the piece took.
const PIECE_BYTES: usize = 1 << 20;
const SHOWN_EVERY: Duration = Duration::from_secs(1);
const TRIAL_TICK: Duration = Duration::from_secs(1);
const HEALTH_EVERY: Duration = Duration::from_secs(5);
const HEALTH_WITHIN: Duration = Duration::from_secs(5);
const ANSWER_BYTES_MAX: usize = 1024;

/// What the keeper heard of the recorder, for whoever judges an update.
#[derive(Debug)]
pub struct Heard {
    port: Cell<Option<u16>>,
    is_recording: Cell<bool>,
    recorded_at: Cell<Option<Instant>>,
    ends: Cell<u32>,
    bundles: Sender<()>,
}

/// The two ends: what is heard, and the word that a bundle is there. A word that comes while another waits says nothing
/// new.
pub fn heard() -> (Heard, Receiver<()>) {
    let (bundles, receiver) = bounded(1);
    let heard = Heard {
        port: Cell::default(),
        is_recording: Cell::default(),
        recorded_at: Cell::default(),
        ends: Cell::default(),
        bundles,
    };
    (heard, receiver)
}

impl Heard {
    pub fn set_port(&self, port: Option<u16>) {
        self.port.set(port);
    }

    pub fn set_recording(&self, is_recording: bool) {
        self.is_recording.set(is_recording);
        if is_recording {
            self.has_recorded();
        }
    }

    /// A stream records, or did before a restart: then it is as well.
    pub fn has_recorded(&self) {
        self.recorded_at.set(Some(Instant::now()));
    }

    pub fn bundle_is_there(&self) {
        let _ = self.bundles.try_send(());
    }

    pub fn recorder_ended(&self) {
        self.port.set(None);
        self.is_recording.set(false);
        self.ends.set(self.ends.get() + 1);
    }

    fn was_recording(&self) -> bool {
        self.recorded_at.get().is_some_and(|at| at.elapsed() <= RECORDED_BEFORE)
    }
}

/// Runs for ever. Without the marks of an image it only says that no update can be taken.
pub async fn run(data_dir: &Path, heard: &Heard, bundles: Receiver<()>) {
    match Updater::new(data_dir) {
        Ok(updater) => updater.run(heard, bundles).await,
        Err(error) => {
            say(&format!("updates: {error}"));
            smol::future::pending().await
        }
    }
}

struct Updater {
    bundle: PathBuf,
    disk: PathBuf,
    running: Slot,
    device: Device,
    pool: Pool,
    note: RefCell<Option<Note>>,
}

/// Why the steps of an update ended early.
enum Broken {
    /// The bundle, or what was written of it, is not what was signed.
    Refused(Refusal),
    Failed(io::Error),
}

impl From<io::Error> for Broken {
    fn from(error: io::Error) -> Self {
        Self::Failed(error)
    }
}

impl From<Refusal> for Broken {
    fn from(refusal: Refusal) -> Self {
        Self::Refused(refusal)
    }
}

impl Updater {
    fn new(data_dir: &Path) -> io::Result<Self> {
        let run = |name: &str| fs::read_to_string(Path::new(RUN_DIR).join(name));
        let odd = |what: &str| io::Error::other(format!("{what} is not understood"));
        let running = Slot::parse(run("slot")?.trim()).ok_or_else(|| odd("the slot"))?;
        let board = fs::read_to_string(BOARD_FILE)?.trim().to_owned();
        let key = fs::read_to_string(KEY_FILE).ok();
        let device = Device {
            key: key.as_deref().and_then(parse_hex),
            board,
            version: Version::parse(VERSION).ok_or_else(|| odd(VERSION))?,
            store_schema: SCHEMA,
        };
        fs::create_dir_all(UPDATE_DIR)?;
        fs::set_permissions(UPDATE_DIR, fs::Permissions::from_mode(0o755))?;
        publish(DEVICE_FILE, &encode_device(&device.board, key.as_deref()))?;
        Ok(Self {
            bundle: data_dir.join(BUNDLE_DIR).join(BUNDLE_FILE),
            disk: run("disk")?.trim().into(),
            running,
            device,
            pool: Pool::start("update", 1, 2)?,
            note: RefCell::new(read_note()),
        })
    }

    async fn run(&self, heard: &Heard, bundles: Receiver<()>) {
        let note = self.note.borrow().clone();
        let now_ms = clock::wall_ms();
        let Start { steps, trial } =
            update_core::at_start(told(), self.running, note.as_ref(), now_ms);
        if let Err(error) = self.carry_out(&steps, None).await {
            say(&format!("update: {}", words(&error)));
        }
        let is_restarting = match &trial {
            Some(note) => self.try_out(heard, note).await == Phase::Restarting,
            None => steps.contains(&Step::Restart),
        };
        if is_restarting {
            return smol::future::pending().await;
        }
        if let Some(note) = &*self.note.borrow()
            && matches!(note.outcome, Outcome::RolledBack(_) | Outcome::Failed(_))
        {
            say(&format!("update to {}: {}", note.version, note.outcome.reason()));
        }
        let _ = fs::write(Path::new(RUN_DIR).join(CONFIRMED_FILE), "");
        loop {
            self.show(Phase::Idle, 0);
            if bundles.recv().await.is_err() {
                return smol::future::pending().await;
            }
            self.take(heard).await;
        }
    }

    /// Looks at the version that runs until it is confirmed, or not well: then the device restarts.
    async fn try_out(&self, heard: &Heard, note: &Note) -> Phase {
        say(&format!("version {VERSION} is on trial"));
        self.remember(note.clone());
        self.show(Phase::Trial, 0);
        let mut watch = TrialWatch::new(Instant::now(), note.was_recording);
        let mut ends = heard.ends.get();
        let mut asked: Option<Instant> = None;
        let (steps, phase) = loop {
            let now = Instant::now();
            while ends != heard.ends.get() {
                ends += 1;
                watch.recorder_ended();
            }
            if asked.is_none_or(|at| now.duration_since(at) >= HEALTH_EVERY) {
                asked = Some(now);
                let health = health(heard.port.get()).await;
                if let Some(why) = watch.saw(Instant::now(), health, heard.is_recording.get()) {
                    say(&format!("version {VERSION} on trial is not well: {why}"));
                }
            }
            match watch.poll(Instant::now()) {
                Verdict::Wait => wait::pause(TRIAL_TICK).await,
                Verdict::Confirm => {
                    say(&format!("version {VERSION} is well: it stays"));
                    break (update_core::confirm(note, clock::wall_ms()), Phase::Idle);
                }
                Verdict::GiveUp(why) => {
                    say(&format!("version {VERSION} is not well ({why}): back to the one before"));
                    let steps = update_core::give_up(note, why, clock::wall_ms());
                    break (steps, Phase::Restarting);
                }
            }
        };
        if phase == Phase::Restarting {
            self.show(phase, 0);
        }
        // Where the card takes no write the boot loader's count ends the trial.
        if let Err(error) = self.carry_out(&steps, None).await {
            say(&format!("update: {}", words(&error)));
            if phase == Phase::Restarting {
                restart();
            }
        }
        phase
    }

    /// Verifies the bundle that the recorder left, and installs it.
    async fn take(&self, heard: &Heard) {
        self.show(Phase::Checking, 0);
        let taken = self.verify().await;
        let (header, installed) = match taken {
            Err(error) => (None, Err(error)),
            Ok(header) => {
                let version = header.version.to_string();
                say(&format!(
                    "update to {version} is being written to slot {}",
                    self.running.other().name()
                ));
                let now_ms = clock::wall_ms();
                let was_recording = heard.was_recording();
                let steps = update_core::install(self.running, version, was_recording, now_ms);
                let done = self.carry_out(&steps, Some(&header)).await;
                (Some(header), done)
            }
        };
        // The directory is the recorder's: at worst a file of this name goes elsewhere.
        let _ = fs::remove_file(&self.bundle);
        let Err(broken) = installed else {
            // The restart is under way.
            return smol::future::pending().await;
        };
        let why = words(&broken);
        say(&format!("update: {why}"));
        let outcome = match (&header, broken) {
            (None, Broken::Refused(_)) => Outcome::Refused(why),
            _ => Outcome::Failed(why),
        };
        let version = header.map_or_else(String::new, |header| header.version.to_string());
        let at_ms = clock::wall_ms();
        let slot = self.running.other();
        self.remember(Note { version, slot, was_recording: false, outcome, at_ms });
    }

    /// The whole file, before anything is written.
    async fn verify(&self) -> Result<Header, Broken> {
        let (path, device) = (self.bundle.clone(), self.device.clone());
        self.shown(Phase::Checking, move |done| check_bundle(&path, &device, done)).await
    }

    async fn carry_out(&self, steps: &[Step], header: Option<&Header>) -> Result<(), Broken> {
        for step in steps {
            match (step, header) {
                (Step::Note(note), _) => self.remember(note.clone()),
                (Step::Boot(state), _) => tell(*state)?,
                (Step::Restart, _) => {
                    self.show(Phase::Restarting, 100);
                    restart();
                }
                (Step::Write(slot, kind), Some(header)) => {
                    let (from, to) = (self.bundle.clone(), self.place(*slot, *kind));
                    let range = header.range(*kind);
                    let total: u64 = header.parts.iter().map(|part| part.size).sum();
                    let before = range.start - header.length;
                    let write = move |done: &Done| {
                        done.set(before, total);
                        write_part(&from, range.start, range.end - range.start, &to, done)
                    };
                    self.shown(Phase::Writing, write).await?;
                }
                (Step::Compare(slot), Some(header)) => {
                    let places = PART_KINDS.map(|kind| self.place(*slot, kind));
                    let header = header.clone();
                    let compare = move |done: &Done| compare(&header, &places, done);
                    self.shown(Phase::Writing, compare).await?;
                }
                (Step::Write(..) | Step::Compare(_), None) => {}
            }
        }
        Ok(())
    }

    fn place(&self, slot: Slot, kind: PartKind) -> PathBuf {
        let boot = Path::new(BOOT_DIR).join(slot.name());
        match kind {
            PartKind::Kernel => boot.join("kernel.gz"),
            PartKind::Initrd => boot.join("initrd.zst"),
            PartKind::Root => partition(&self.disk, slot.partition()),
        }
    }

    /// Does `work` on the thread for updates, and shows meanwhile how far it is.
    async fn shown<T: Send + 'static>(
        &self,
        phase: Phase,
        work: impl FnOnce(&Done) -> Result<T, Broken> + Send + 'static,
    ) -> Result<T, Broken> {
        let done = Arc::new(Done::default());
        let seen = Arc::clone(&done);
        let run = async {
            let ended = self.pool.run(move || work(&seen)).await;
            ended.unwrap_or_else(|error| Err(io::Error::other(format!("{error:?}")).into()))
        };
        let show = async {
            loop {
                self.show(phase, done.percent());
                wait::pause(SHOWN_EVERY).await;
            }
        };
        run.or(show).await
    }

    fn remember(&self, note: Note) {
        let path = Path::new(DEVICE_DIR).join(NOTE_FILE);
        if let Err(error) = write_private(&path, &note.encode()).and_then(|()| sync_dir(DEVICE_DIR))
        {
            say(&format!("{}: {error}", path.display()));
        }
        *self.note.borrow_mut() = Some(note);
    }

    fn show(&self, phase: Phase, percent: u8) {
        let last = self.note.borrow().clone();
        let status = Status { slot: self.running, phase, percent, last };
        if let Err(error) = publish(STATUS_FILE, &status.encode()) {
            say(&format!("{UPDATE_DIR}: {error}"));
        }
    }
}

/// How far a piece of work is, in bytes.
#[derive(Debug, Default)]
struct Done {
    done: AtomicU64,
    total: AtomicU64,
}

impl Done {
    fn set(&self, done: u64, total: u64) {
        self.total.store(total, Ordering::Relaxed);
        self.done.store(done, Ordering::Relaxed);
    }

    fn add(&self, bytes: usize) {
        self.done.fetch_add(bytes as u64, Ordering::Relaxed);
    }

    fn percent(&self) -> u8 {
        let total = self.total.load(Ordering::Relaxed).max(1);
        let percent = self.done.load(Ordering::Relaxed) * 100 / total;
        u8::try_from(percent).unwrap_or(100).min(100)
    }
}

fn words(broken: &Broken) -> String {
    match broken {
        Broken::Refused(Refusal(what)) => what.clone(),
        Broken::Failed(error) => format!("it could not be written: {error}"),
    }
}

/// Calls `piece` for all of a file's bytes from `at` on, with a rest after each piece.
fn each_piece(
    file: &File,
    mut at: u64,
    length: u64,
    mut piece: impl FnMut(&[u8], u64) -> Result<(), Broken>,
) -> Result<(), Broken> {
    let end = at + length;
    let mut buffer = vec![0; PIECE_BYTES];
    while at < end {
        let began = Instant::now();
        let room = PIECE_BYTES.min(usize::try_from(end - at).unwrap_or(PIECE_BYTES));
        file.read_exact_at(&mut buffer[..room], at)?;
        piece(&buffer[..room], at)?;
        at += room as u64;
        smol::block_on(wait::pause(began.elapsed()));
    }
    Ok(())
}

/// The recorder's file: taken as it is, never followed elsewhere.
fn open_bundle(path: &Path) -> io::Result<File> {
    let flags = (OFlags::NOFOLLOW | OFlags::NONBLOCK).bits().cast_signed();
    let file = OpenOptions::new().read(true).custom_flags(flags).open(path)?;
    if file.metadata()?.is_file() { Ok(file) } else { Err(ErrorKind::InvalidInput.into()) }
}

fn check_bundle(path: &Path, device: &Device, done: &Done) -> Result<Header, Broken> {
    let not_whole = || Refusal("the update is not whole".into());
    let file = open_bundle(path)?;
    let total = file.metadata()?.len();
    if total > BUNDLE_BYTES_MAX {
        return Err(Refusal("the update is over 256 MiB".into()).into());
    }
    let mut head = Vec::new();
    (&file).take(HEAD_BYTES_MAX as u64).read_to_end(&mut head)?;
    let header = read_head(&head, total, device)?.ok_or_else(not_whole)?;
    let mut check = PayloadCheck::new(&header);
    done.set(0, total);
    each_piece(&file, header.length, total - header.length, |bytes, _| {
        done.add(bytes.len());
        Ok(check.feed(bytes)?)
    })?;
    check.finish()?;
    Ok(header)
}

/// Copies one part to its place, a piece at a time, each on the card before the next.
fn write_part(from: &Path, at: u64, length: u64, to: &Path, done: &Done) -> Result<(), Broken> {
    let bundle = open_bundle(from)?;
    if !to.starts_with(BOOT_DIR) {
        let file = OpenOptions::new().write(true).open(to)?;
        return copy(&bundle, at, length, &file, done);
    }
    // Not `boot_files::writable` around an error of ours: what it answers is the card's own.
    boot_files::writable(|| {
        if let Some(dir) = to.parent() {
            fs::create_dir_all(dir)?;
        }
        let file = File::create(to)?;
        Ok(copy(&bundle, at, length, &file, done))
    })?
}

fn copy(bundle: &File, at: u64, length: u64, to: &File, done: &Done) -> Result<(), Broken> {
    each_piece(bundle, at, length, |bytes, from| {
        to.write_all_at(bytes, from - at)?;
        to.sync_data()?;
        done.add(bytes.len());
        Ok(())
    })?;
    Ok(to.sync_all()?)
}

/// Reads what is on the card, not what the kernel remembers of it, and holds it against what was signed.
fn compare(header: &Header, places: &[PathBuf; 3], done: &Done) -> Result<(), Broken> {
    done.set(0, header.parts.iter().map(|part| part.size).sum());
    for (part, place) in header.parts.into_iter().zip(places) {
        let file = File::open(place)?;
        let kept = rustix::fs::fadvise(&file, 0, None, Advice::DontNeed);
        kept.map_err(io::Error::from)?;
        let mut check = PartCheck::new(part);
        each_piece(&file, 0, part.size, |bytes, _| {
            check.feed(bytes);
            done.add(bytes.len());
            Ok(())
        })?;
        check.finish().map_err(|Refusal(what)| {
            Refusal(format!("what the card gives back is not what was written to it: {what}"))
        })?;
    }
    Ok(())
}

/// What the boot loader was told last.
fn told() -> Option<BootState> {
    [SLOT_FILE, SLOT_COPY].iter().find_map(|name| {
        let bytes = boot_files::read(name, SLOT_BYTES_MAX).ok()??;
        BootState::parse(&String::from_utf8_lossy(&bytes))
    })
}

/// The copy first: it holds the new state whole before the file that is read first is touched.
fn tell(state: BootState) -> io::Result<()> {
    boot_files::overwrite(SLOT_COPY, &state.encode())?;
    boot_files::overwrite(SLOT_FILE, &state.encode())
}

fn read_note() -> Option<Note> {
    let mut text = String::new();
    let file = File::open(Path::new(DEVICE_DIR).join(NOTE_FILE)).ok()?;
    file.take(NOTE_BYTES_MAX).read_to_string(&mut text).ok()?;
    Note::parse(&text)
}

fn sync_dir(path: &str) -> io::Result<()> {
    File::open(path)?.sync_all()
}

/// A file for the recorder, which must not write it.
fn publish(name: &str, text: &str) -> io::Result<()> {
    let path = Path::new(UPDATE_DIR).join(name);
    let beside = path.with_extension("new");
    let mut file = File::create(&beside)?;
    file.write_all(text.as_bytes())?;
    file.set_permissions(fs::Permissions::from_mode(0o644))?;
    fs::rename(beside, path)
}

/// In order: init ends the recorder first.
fn restart() {
    if let Err(error) = Command::new("/sbin/reboot").spawn() {
        say(&format!("restart: {error}"));
    }
}

/// Whether gate, API and disks answer that they are well.
async fn health(port: Option<u16>) -> Result<(), String> {
    let port = port.ok_or("the recorder has not said that it serves")?;
    let ask = async {
        let mut socket = TcpStream::connect((Ipv4Addr::LOCALHOST, port)).await?;
        socket.write_all(b"GET /healthz HTTP/1.0\r\nHost: localhost\r\n\r\n").await?;
        let mut answer = Vec::new();
        socket.take(ANSWER_BYTES_MAX as u64).read_to_end(&mut answer).await?;
        Ok(answer)
    };
    let late = async {
        wait::pause(HEALTH_WITHIN).await;
        Err(io::Error::from(ErrorKind::TimedOut))
    };
    let answer = ask.or(late).await.map_err(|error| format!("the API does not answer: {error}"))?;
    let answer = String::from_utf8_lossy(&answer);
    let status = answer.split(' ').nth(1).unwrap_or_default();
    let body = answer.split("\r\n\r\n").nth(1).unwrap_or_default();
    if status == "200" { Ok(()) } else { Err(format!("status {status} {body}")) }
}
