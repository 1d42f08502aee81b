//! `lightnvr keep`: stays as long as the device runs, and keeps the recorder running.
//!
//! In here: the recorder as a child under a user of its own, the hardware watchdog, its log (`kept_log`), the files and lines
//! by which the owner learns address and first password, the last known time, updates (`update.rs`). What to do and when is in `watch_core`.
//! It runs as root and therefore takes in nothing but the recorder's datagrams, of which a few words count.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::net::{IpAddr, Ipv4Addr, UdpSocket};
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt, chown};
use std::os::unix::net::UnixDatagram;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitCode, Stdio};
use std::time::{Duration, Instant};

use rustix::fs::OFlags;
use rustix::process::{Pid, Resource, Rlimit, Signal, kill_process};
use rustix::thread::{Gid, Uid};
use smol::Async;
use smol::future::FutureExt;

use super::init::{TIME_FILE, say, write_private};
use super::kept_log::KeptLog;
use super::mdns::Responder;
use super::sntp;
use super::update::{self, Heard};
use super::watch_core::Watch;
use super::{DEVICE_DIR, RECORDER_ID, RUN_DIR, UPDATE_DIR, boot_files, grow};
use crate::args::KeepArgs;
use crate::system::{clock, signal, wait};
use crate::update::desk::{READY_WORD, RECORDED_WORD};

const TICK: Duration = Duration::from_secs(1);
/// From the last kick to the restart. The Pi's hardware can at most 15 s.
const WATCHDOG_S: i32 = 15;
/// From SIGTERM to SIGKILL; the recorder ends its files within 3 s.
const STOP_MAX: Duration = Duration::from_secs(4);
/// `video` in `rootfs-overlay/etc/group`: cameras' device files.
const VIDEO_GROUP: u32 = 44;
/// Below all that might be ended for want of memory; the kernel's range is -1000 to 1000.
const OOM_SCORE_KEEP: &str = "-1000";
const OOM_SCORE_RECORDER: &str = "-900";
/// Where browsers ask first; `rootfs-overlay/etc/sysctl.conf` lets the recorder's user have it.
const REDIRECT_PORT: &str = "80";
const LOG_SAVED_EVERY: Duration = Duration::from_secs(3600);
const TIME_SAVED_EVERY: Duration = Duration::from_secs(600);
const MESSAGE_BYTES_MAX: usize = 256;
const PASSWORD_BYTES_MAX: u64 = 300;
const INITIAL_PASSWORD: &str = "initial-password";
const PASSWORD_FILE: &str = "lightnvr-password.txt";

/// Runs until SIGTERM.
pub fn run(args: &KeepArgs) -> ExitCode {
    // Its own end would end the board's recording: the watchdog would bite.
    let _ = fs::write("/proc/self/oom_score_adj", OOM_SCORE_KEEP);
    let keep_time = async {
        sntp::run().await;
        Ok(())
    };
    let (heard, bundles) = update::heard();
    let keep_updated = async {
        update::run(&args.data_dir, &heard, bundles).await;
        Ok(())
    };
    match smol::block_on(keep(args, &heard).or(keep_time).or(keep_updated)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            say(&format!("keep: {error}"));
            ExitCode::FAILURE
        }
    }
}

enum Event {
    Message(String),
    Tick,
    Terminated,
}

async fn keep(args: &KeepArgs, heard: &Heard) -> io::Result<()> {
    let socket_path = Path::new(RUN_DIR).join("notify");
    let socket = listen(&socket_path)?;
    let mut keeper = Keeper::new(args, socket_path);
    let mut terminated = Box::pin(signal::terminated());
    let mut next = Instant::now();
    loop {
        let message = async {
            let mut buffer = [0; MESSAGE_BYTES_MAX];
            let got = socket.recv(&mut buffer).await.unwrap_or(0);
            Event::Message(String::from_utf8_lossy(&buffer[..got]).into_owned())
        };
        let tick = async {
            wait::pause(next.saturating_duration_since(Instant::now())).await;
            Event::Tick
        };
        let ended = async {
            let _ = (&mut terminated).await;
            Event::Terminated
        };
        match tick.or(ended).or(message).await {
            Event::Message(text) => keeper.hear(&text, heard),
            Event::Tick => {
                next = Instant::now() + TICK;
                keeper.tick(heard);
            }
            Event::Terminated => {
                keeper.stop().await;
                return Ok(());
            }
        }
    }
}

/// The socket of `NOTIFY_SOCKET`, which the recorder's user may write to.
fn listen(path: &Path) -> io::Result<Async<UnixDatagram>> {
    if let Err(error) = fs::remove_file(path)
        && error.kind() != io::ErrorKind::NotFound
    {
        return Err(error);
    }
    let socket = UnixDatagram::bind(path)?;
    chown(path, Some(RECORDER_ID), Some(RECORDER_ID))?;
    fs::set_permissions(path, fs::Permissions::from_mode(0o600))?;
    Async::new(socket)
}

struct Keeper {
    data_dir: PathBuf,
    socket: PathBuf,
    watch: Watch,
    child: Option<Child>,
    watchdog: Option<File>,
    responder: Responder,
    /// Port of the page, from the recorder's own words.
    port: Option<u16>,
    /// What was last told on the consoles: address, port, password.
    told: Option<(Option<IpAddr>, u16, Option<String>)>,
    /// What the password's file on the boot partition is known to hold; `None` when that is not known.
    password_file: Option<Option<String>>,
    log: KeptLog,
    log_saved: Instant,
    time_saved: Instant,
}

impl Keeper {
    fn new(args: &KeepArgs, socket: PathBuf) -> Self {
        let now = Instant::now();
        Self {
            data_dir: args.data_dir.clone(),
            socket,
            watch: Watch::new(now),
            child: None,
            watchdog: open_watchdog(),
            responder: Responder::default(),
            port: None,
            told: None,
            password_file: None,
            log: KeptLog::new(Path::new(RUN_DIR).join("log"), Path::new(DEVICE_DIR).join("log")),
            log_saved: now,
            time_saved: now,
        }
    }

    /// Takes in what the recorder says of itself.
    fn hear(&mut self, message: &str, heard: &Heard) {
        for line in message.lines() {
            if line == "WATCHDOG=1" {
                self.watch.heard(Instant::now());
            } else if let Some(port) = line.strip_prefix("X_PORT=") {
                self.port = port.parse().ok();
                heard.set_port(self.port);
            } else if let Some(recording) = line.strip_prefix("X_RECORDING=") {
                heard.set_recording(recording == "1");
            } else if line == RECORDED_WORD {
                heard.has_recorded();
            } else if line == READY_WORD {
                heard.bundle_is_there();
            }
        }
    }

    /// Once a second.
    fn tick(&mut self, heard: &Heard) {
        let now = Instant::now();
        self.look_at_child(now, heard);
        if self.watch.is_due(now) {
            self.start_child(now);
        }
        if self.watch.is_hung(now) {
            self.hung(now);
        } else if let Some(watchdog) = &mut self.watchdog {
            let _ = watchdog.write_all(b"k");
        }
        self.tell_owner();
        self.log.bound();
        if now.duration_since(self.log_saved) >= LOG_SAVED_EVERY {
            self.log_saved = now;
            self.save_log();
        }
        if now.duration_since(self.time_saved) >= TIME_SAVED_EVERY {
            self.time_saved = now;
            save_time();
        }
    }

    fn look_at_child(&mut self, now: Instant, heard: &Heard) {
        let Some(child) = &mut self.child else { return };
        if let Ok(Some(status)) = child.try_wait() {
            self.child = None;
            self.port = None;
            heard.recorder_ended();
            let wait = self.watch.ended(now);
            say(&format!("the recorder ended ({status}); it starts again in {} s", wait.as_secs()));
        }
    }

    fn start_child(&mut self, now: Instant) {
        match spawn(&self.data_dir, &self.socket, self.log.path()) {
            Ok(child) => {
                let score = format!("/proc/{}/oom_score_adj", child.id());
                let _ = fs::write(score, OOM_SCORE_RECORDER);
                self.child = Some(child);
                self.watch.started(now);
            }
            Err(error) => {
                let wait = self.watch.ended(now);
                say(&format!(
                    "the recorder can't be started ({error}); again in {} s",
                    wait.as_secs()
                ));
            }
        }
    }

    /// With a watchdog nothing is done, and the board restarts; without one the recorder alone is.
    fn hung(&mut self, now: Instant) {
        if self.watchdog.is_some() {
            return;
        }
        if let Some(child) = &mut self.child {
            say("the recorder hangs, and there is no hardware watchdog: it is ended");
            let _ = child.kill();
            self.watch.started(now);
        }
    }

    /// Announces the address, and shows the first password until it is changed.
    fn tell_owner(&mut self) {
        let Some(port) = self.port else { return };
        let password = first_password(&self.data_dir);
        if self.password_file.as_ref() != Some(&password) {
            let text = password.as_ref().map(|password| {
                format!("user: admin\r\npassword: {password}\r\nThis file goes away when the password is changed.\r\n")
            });
            match boot_files::write(PASSWORD_FILE, text.as_ref().map(String::as_bytes)) {
                Ok(()) => self.password_file = Some(password.clone()),
                Err(error) => {
                    say(&format!("{PASSWORD_FILE}: {error}"));
                    // Once is enough: the console has it too.
                    self.password_file = Some(password.clone());
                }
            }
        }
        let host = host_name();
        if let Err(error) = self.responder.announce(&host, port) {
            log::debug!("mDNS: {error}");
        }
        let tell = (own_address(), port, password);
        if self.told.as_ref() != Some(&tell) {
            let address = tell.0.map_or_else(String::new, |ip| format!(" or http://{ip}:{port}/"));
            let login = match &tell.2 {
                Some(password) => format!(", user admin, password {password}"),
                None => String::new(),
            };
            on_consoles(&format!(
                "LightNVR {}: http://{host}.local:{port}/{address}{login}",
                crate::VERSION
            ));
            self.told = Some(tell);
        }
    }

    fn save_log(&mut self) {
        if let Err(error) = self.log.save() {
            say(&format!("the log is not kept: {error}"));
        }
    }

    /// Ends the recorder in order. The watchdog is kicked meanwhile, and left armed: a system that hangs while it
    /// stops restarts too.
    async fn stop(&mut self) {
        if let Some(child) = &mut self.child {
            if let Some(pid) = i32::try_from(child.id()).ok().and_then(Pid::from_raw) {
                let _ = kill_process(pid, Signal::TERM);
            }
            let until = Instant::now() + STOP_MAX;
            while Instant::now() < until && matches!(child.try_wait(), Ok(None)) {
                wait::pause(Duration::from_millis(50)).await;
            }
            let _ = child.kill();
            let _ = child.wait();
        }
        if let Some(watchdog) = &mut self.watchdog {
            let _ = watchdog.write_all(b"k");
        }
        self.save_log();
        save_time();
    }
}

fn open_watchdog() -> Option<File> {
    let opened = OpenOptions::new().write(true).open("/dev/watchdog0");
    let file = opened.inspect_err(|error| say(&format!("no hardware watchdog ({error})"))).ok()?;
    match grow::set_watchdog_timeout(&file, WATCHDOG_S) {
        Ok(seconds) => say(&format!("hardware watchdog: {seconds} s")),
        Err(error) => say(&format!("hardware watchdog: {error}")),
    }
    Some(file)
}

fn spawn(data_dir: &Path, socket: &Path, log: &Path) -> io::Result<Child> {
    let log = OpenOptions::new().append(true).create(true).mode(0o600).open(log)?;
    let mut command = Command::new(std::env::current_exe()?);
    command.arg("--data-dir").arg(data_dir).arg("--redirect-port").arg(REDIRECT_PORT);
    command.arg("--update-dir").arg(UPDATE_DIR);
    command.env("NOTIFY_SOCKET", socket).env("HOME", data_dir);
    if let Ok(zone) = fs::read_to_string(Path::new(RUN_DIR).join("timezone")) {
        command.env("TZ", zone.trim());
    }
    command.stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log);
    // SAFETY: between fork and exec the closure makes system calls only, and allocates nothing.
    unsafe { command.pre_exec(become_recorder) };
    command.spawn()
}

/// In the child: the recorder's user, memory that may be locked, and an end with ours.
fn become_recorder() -> io::Result<()> {
    use rustix::process::{set_parent_process_death_signal, setrlimit};
    use rustix::thread::{set_thread_gid, set_thread_groups, set_thread_uid};
    setrlimit(Resource::Memlock, Rlimit { current: None, maximum: None })?;
    setrlimit(Resource::Nofile, Rlimit { current: Some(4096), maximum: Some(4096) })?;
    set_thread_groups(&[Gid::from_raw(VIDEO_GROUP)])?;
    set_thread_gid(Gid::from_raw(RECORDER_ID))?;
    set_thread_uid(Uid::from_raw(RECORDER_ID))?;
    set_parent_process_death_signal(Some(Signal::KILL))?;
    Ok(())
}

/// Keeps the time for the next start of a board without a clock chip.
pub fn save_time() {
    let path = Path::new(DEVICE_DIR).join(TIME_FILE);
    let _ = write_private(&path, &clock::wall_ms().to_string());
}

/// The generated password, as long as the owner has not changed it.
fn first_password(data_dir: &Path) -> Option<String> {
    use std::io::Read;
    let file = OpenOptions::new()
        .read(true)
        // The directory is the recorder's: what lies there is taken as it is, never followed elsewhere.
        .custom_flags(OFlags::NOFOLLOW.bits().cast_signed())
        .open(data_dir.join(INITIAL_PASSWORD))
        .ok()?;
    let mut text = String::new();
    file.take(PASSWORD_BYTES_MAX).read_to_string(&mut text).ok()?;
    let text = text.trim();
    let is_plain = !text.is_empty() && text.chars().all(|c| c.is_ascii_graphic());
    is_plain.then(|| text.to_owned())
}

fn host_name() -> String {
    rustix::system::uname().nodename().to_string_lossy().into_owned()
}

/// The address by which others reach this device: the one that a packet to the outside would carry.
fn own_address() -> Option<IpAddr> {
    // TEST-NET-1 (RFC 5737) for the default route, then the link-local network. Nothing is sent.
    [Ipv4Addr::new(192, 0, 2, 1), Ipv4Addr::new(169, 254, 255, 254)].into_iter().find_map(|to| {
        let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0)).ok()?;
        socket.connect((to, 9)).ok()?;
        Some(socket.local_addr().ok()?.ip()).filter(|ip| !ip.is_unspecified())
    })
}

/// A line on every console: HDMI and serial.
fn on_consoles(line: &str) {
    let active = fs::read_to_string("/sys/class/tty/console/active").unwrap_or_default();
    for name in active.split_whitespace() {
        let opened = OpenOptions::new()
            .write(true)
            .custom_flags((OFlags::NONBLOCK | OFlags::NOCTTY).bits().cast_signed())
            .open(Path::new("/dev").join(name));
        if let Ok(mut console) = opened {
            let _ = write!(console, "\r\n{line}\r\n");
        }
    }
}
