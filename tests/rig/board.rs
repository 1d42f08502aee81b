//! The image of board `virt-arm64` on a card of its own, in a machine under QEMU: a device as an owner has it.
//!
//! The shell on the virtio console is what only this board has.

use std::fs;
use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use super::http;
use super::json::Look;
use super::nvr::Api;
use super::process::run_silently;
use super::qemu::Qemu;
use super::{target_dir, wait};

/// From the plug to the first answer: U-Boot, kernel and argon2 in software, on a loaded machine.
pub const UP_WITHIN: Duration = Duration::from_secs(240);
pub const RECORDED_WITHIN: Duration = Duration::from_secs(120);
/// A command in the guest's shell.
const SHELL_WITHIN: Duration = Duration::from_secs(60);
const WEB_PORT: u16 = 8080;
const PORT_80: u16 = 80;

/// A card with a LightNVR image on it, as a file.
pub struct Card {
    pub file: PathBuf,
}

/// A running device. Dropping it pulls its plug.
pub struct Board {
    pub qemu: Qemu,
    shell: PathBuf,
    card: PathBuf,
    /// When it was plugged in.
    pub started: Instant,
}

/// What else is in the machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Watchdog {
    Absent,
    Present,
}

/// A file of the built image.
pub fn built(name: &str) -> PathBuf {
    let path = target_dir().join("image/virt-arm64").join(name);
    assert!(path.is_file(), "no {}: ./build.sh image --board virt-arm64", path.display());
    path
}

impl Card {
    /// A card of `bytes`, freshly flashed.
    #[track_caller]
    pub fn flash(file: &Path, bytes: u64) -> Self {
        let image = built("lightnvr-virt-arm64.img");
        run_silently(Command::new("cp").arg("--sparse=always").arg(image).arg(file));
        let card = fs::OpenOptions::new().write(true).open(file).expect("it was made");
        card.set_len(bytes).expect("a sparse file");
        Self { file: file.to_owned() }
    }

    /// Writes a file to the boot partition, as an owner does on another computer.
    #[track_caller]
    pub fn write(&self, name: &str, text: &str) {
        let beside = self.file.with_extension("txt");
        fs::write(&beside, text).expect("the test's directory can be written");
        let mut copy = self.mtool("mcopy");
        run_silently(copy.arg("-o").arg(beside).arg(format!("::{name}")));
    }

    /// Reads a file of the boot partition.
    #[track_caller]
    pub fn read(&self, name: &str) -> String {
        let bytes = run_silently(self.mtool("mtype").arg(format!("::{name}")));
        String::from_utf8(bytes).expect("text")
    }

    /// Names of all files on the boot partition.
    #[track_caller]
    pub fn list(&self) -> String {
        let bytes = run_silently(self.mtool("mdir").args(["-/", "-b", "::"]));
        String::from_utf8(bytes).expect("names are UTF-8")
    }

    /// A tool of mtools on the boot partition, which begins at 4 MiB.
    fn mtool(&self, name: &str) -> Command {
        let mut tool = Command::new(name);
        tool.arg("-i").arg(format!("{}@@4M", self.file.display()));
        tool
    }
}

impl Board {
    /// Plugs it in, with 256 MB of memory.
    #[track_caller]
    pub fn plug_in(dir: &Path, card: &Card, watchdog: Watchdog) -> Self {
        let shell = dir.join("shell");
        let _ = fs::remove_file(&shell);
        let mut command = Command::new("qemu-system-aarch64");
        command.args(["-M", "virt", "-accel", "tcg,thread=multi", "-cpu", "cortex-a53"]);
        command.args(["-smp", "2", "-m", "256", "-bios"]).arg(built("u-boot.bin"));
        let file = card.file.display().to_string().replace(',', ",,");
        command.args(["-drive", &format!("if=none,format=raw,id=card,file={file}")]);
        command.args(["-device", "virtio-blk-device,drive=card", "-device", "virtio-rng-device"]);
        command.args(["-device", "virtio-serial-device", "-device", "virtconsole,chardev=shell"]);
        let socket = shell.display().to_string().replace(',', ",,");
        let socket = format!("socket,id=shell,server=on,wait=off,path={socket}");
        command.args(["-chardev", &socket]);
        if watchdog == Watchdog::Present {
            command.args(["-device", "i6300esb", "-action", "watchdog=reset"]);
        }
        let started = Instant::now();
        let qemu = Qemu::start(dir, &mut command, "virtio-net-pci", &[PORT_80, WEB_PORT]);
        Self { qemu, shell, card: card.file.clone(), started }
    }

    /// Waits until the page answers; gives the time since `since`.
    #[track_caller]
    pub fn wait_for_http(&mut self, since: Instant) -> Duration {
        let at = self.qemu.port(WEB_PORT);
        wait::until("the page answers", UP_WITHIN, || {
            http::request(at, "GET", "/", &[], None).ok().filter(|r| r.status == 200)
        });
        since.elapsed()
    }

    /// The API with this password.
    #[track_caller]
    pub fn api(&mut self, password: &str) -> Api {
        Api::new(self.qemu.port(WEB_PORT), password)
    }

    /// What port 80 answers for a path.
    #[track_caller]
    pub fn port_80(&mut self, path: &str) -> http::Response {
        let at = self.qemu.port(PORT_80);
        http::request(at, "GET", path, &[], None).expect("port 80 answers")
    }

    /// The password that the console shows.
    #[track_caller]
    pub fn shown_password(&mut self) -> String {
        self.qemu.wait_for_console(", user admin, password ", UP_WITHIN);
        let console = self.qemu.console();
        let (_, rest) = console.rsplit_once(", user admin, password ").expect("it was there");
        rest.split_whitespace().next().expect("a password").to_owned()
    }

    /// Runs a line of shell in the guest as root; answers what it says, and panics unless it succeeds.
    #[track_caller]
    pub fn run(&self, script: &str) -> String {
        match self.try_run(script) {
            (said, 0) => said,
            (said, status) => panic!("in the guest: {script}: status {status}: {said}"),
        }
    }

    /// `run` with its exit status.
    #[track_caller]
    pub fn try_run(&self, script: &str) -> (String, i32) {
        assert!(!script.contains('\n'), "one line");
        let mut shell = UnixStream::connect(&self.shell).expect("QEMU serves the console");
        shell.set_read_timeout(Some(Duration::from_millis(200))).expect("a timeout can be set");
        // What is typed is echoed; the marks are put together by the shell, so that the echo is not taken for them.
        let line = format!("\necho '=BEGIN'='='; {{ {script}; }} 2>&1; echo '=END'='=' $?\n");
        shell.write_all(line.as_bytes()).expect("the console takes it");
        let mut got = Vec::new();
        wait::until(&format!("answer of the shell to: {script}"), SHELL_WITHIN, || {
            let mut buffer = [0; 4096];
            if let Ok(bytes) = shell.read(&mut buffer) {
                got.extend_from_slice(&buffer[..bytes]);
            }
            let text = String::from_utf8_lossy(&got).replace('\r', "");
            let (_, rest) = text.split_once("=BEGIN==\n")?;
            let (said, status) = rest.split_once("=END== ")?;
            let (status, _) = status.split_once('\n')?;
            Some((said.trim_end().to_owned(), status.trim().parse().expect("a status")))
        })
    }

    /// The recorder's process.
    #[track_caller]
    pub fn recorder(&self) -> u32 {
        let said = self.run("grep -ls '^Uid:.900' /proc/[0-9]*/status | cut -d / -f 3");
        said.lines().next().and_then(|pid| pid.parse().ok()).unwrap_or_else(|| panic!("{said:?}"))
    }

    /// From now on nothing that is written reaches the card, though it says so.
    #[track_caller]
    pub fn cut_power(&mut self, dir: &Path) {
        let lost = dir.join("lost.qcow2");
        let _ = fs::remove_file(&lost);
        // Made beforehand: QEMU would tell of it between its answers.
        let mut make = Command::new("qemu-img");
        make.args(["create", "-q", "-f", "qcow2", "-F", "raw", "-b"]).arg(&self.card).arg(&lost);
        run_silently(&mut make);
        let said = self.qemu.monitor(&format!("snapshot_blkdev -n card {} qcow2", lost.display()));
        assert!(!said.to_lowercase().contains("error"), "{said}");
    }

    /// Its plug is pulled.
    pub fn pull_plug(mut self) {
        self.qemu.kill();
    }

    /// Ends in order, as by `reboot` in the system, up to where the firmware would start again.
    #[track_caller]
    pub fn power_off(mut self) {
        self.run("setsid poweroff >/dev/null 2>&1 & true");
        self.qemu.wait_for_end(UP_WITHIN);
    }
}

/// How many recordings have something in them.
#[track_caller]
pub fn recorded(api: &Api) -> usize {
    let list = api.json("GET", "/api/v1/recordings", None);
    list.field("recordings").items().iter().filter(|r| r.field("size").integer() > 0).count()
}

/// `wait_for_recording` of a recorder that may be down for a while.
#[track_caller]
pub fn wait_for_recording_again(api: &Api, known: usize) {
    wait::until("the recorder is back", UP_WITHIN, || {
        http::request(api.addr, "GET", "/", &[], None).ok().filter(|r| r.status == 200)
    });
    wait_for_recording(api, known, Instant::now());
}

/// Waits for a recording that was not among `known`; gives the time since `since`.
#[track_caller]
pub fn wait_for_recording(api: &Api, known: usize, since: Instant) -> Duration {
    wait::until("something new is recorded", RECORDED_WITHIN, || {
        (recorded(api) > known).then_some(())
    });
    since.elapsed()
}
