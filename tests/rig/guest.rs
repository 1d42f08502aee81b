//! The small Linux of `tests/vm`, on the processor of this machine: a recorder with a kernel of its own.

use std::fs::File;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use super::gst_server::GstServer;
use super::http;
use super::nvr::{self, Api, PASSWORD};
use super::process::run_silently;
use super::qemu::Qemu;
use super::{target_dir, test_file, wait};

/// From QEMU's start to the guest's last start line, in software on a loaded machine.
const UP_WITHIN: Duration = Duration::from_secs(120);
/// From the program's start to its first answer, argon2 in software included.
const READY_WITHIN: Duration = Duration::from_secs(120);

/// Ports of the guest: the recorder's, and where it takes commands.
const NVR_PORT: u16 = 8080;
const COMMAND_PORT: u16 = 8099;

/// A running guest. Dropping it pulls its plug.
pub struct Guest {
    qemu: Qemu,
    command: SocketAddr,
    api: Api,
}

/// What a guest is made of.
#[derive(Clone, Copy, Debug)]
pub struct Parts<'a> {
    pub memory_mib: u32,
    /// Images; the first is `/dev/vda`.
    pub disks: &'a [&'a Path],
}

/// Makes a disk image without holes in what the file system needs, so that nothing is written later on its behalf.
#[track_caller]
pub fn ext4_image(path: &Path, bytes: u64) -> PathBuf {
    blank_image(path, bytes);
    let mut mkfs = Command::new("/usr/sbin/mkfs.ext4");
    // Small images would get small blocks; no card has them.
    mkfs.args(["-q", "-F", "-b", "4096", "-E", "lazy_itable_init=0,lazy_journal_init=0"]);
    run_silently(mkfs.arg(path));
    path.to_owned()
}

/// Makes an empty disk.
#[track_caller]
pub fn blank_image(path: &Path, bytes: u64) -> PathBuf {
    File::create(path).and_then(|file| file.set_len(bytes)).expect("a sparse file");
    path.to_owned()
}

impl Guest {
    /// Boots one. `dir` takes its console and its initial RAM disk.
    #[track_caller]
    pub fn boot(dir: &Path, parts: Parts) -> Self {
        let made = target_dir().join("vm");
        assert!(made.join("made").is_file(), "no guest: tests/vm/make_guest.sh {}", made.display());
        let initrd = dir.join("initrd.cpio");
        if !initrd.exists() {
            let mut make = Command::new(test_file("vm/make_guest.sh"));
            run_silently(make.arg(&made).arg(nvr::binary()).arg(&initrd));
        }
        let mut command = Command::new("qemu-system-x86_64");
        command.args(["-machine", "q35", "-accel", "tcg,thread=multi", "-cpu", "Nehalem"]);
        command.args(["-smp", "2", "-no-reboot", "-m", &parts.memory_mib.to_string()]);
        command.arg("-kernel").arg(made.join("vmlinuz")).arg("-initrd").arg(initrd);
        // A panic ends QEMU. A root in ramfs is never swapped, programs' pages that nobody used yet included.
        let line = "console=ttyS0 rdinit=/init panic=-1 rootfstype=ramfs";
        command.args(["-append", line]);
        for (n, disk) in parts.disks.iter().enumerate() {
            // Its name on the command line must not be taken apart at a comma.
            let file = disk.display().to_string().replace(',', ",,");
            command.args(["-drive", &format!("if=none,format=raw,id=disk{n},file={file}")]);
            command.args(["-device", &format!("virtio-blk-pci,drive=disk{n}")]);
        }
        let ports = [NVR_PORT, COMMAND_PORT];
        let mut qemu = Qemu::start(dir, &mut command, "virtio-net-pci", &ports);
        let (nvr, at) = (qemu.port(NVR_PORT), qemu.port(COMMAND_PORT));
        qemu.wait_for_console("guest is up", UP_WITHIN);
        wait::until("the guest takes commands", UP_WITHIN, || run(at, "true").ok());
        Self { qemu, command: at, api: Api::new(nvr, PASSWORD) }
    }

    /// Runs a shell script in the guest; answers what it says, and panics unless it succeeds.
    #[track_caller]
    pub fn run(&self, script: &str) -> String {
        match run(self.command, script) {
            Ok((said, 0)) => said,
            other => panic!("in the guest: {script}: {other:?}"),
        }
    }

    /// Mounts a disk at a directory.
    #[track_caller]
    pub fn mount(&self, device: &str, at: &str) {
        self.run(&format!("mkdir -p {at} && mount -t ext4 -o noatime {device} {at}"));
    }

    /// Puts a layer before `/dev/DISK` that `cut_power` works on; gives the name of the device to use instead.
    #[track_caller]
    pub fn map_disk(&self, disk: &str) -> String {
        self.device_mapper(&format!(
            "dmsetup create {disk} --table \"0 $(cat /sys/block/{disk}/size) linear /dev/{disk} 0\""
        ));
        format!("/dev/mapper/{disk}")
    }

    /// From now on nothing that is written reaches the disk, though it says so. What was on its way has arrived.
    #[track_caller]
    pub fn cut_power(&self, disk: &str) {
        // With the lock of the file system all that it holds back would be written first.
        self.device_mapper(&format!(
            "dmsetup load {disk} --table \"0 $(cat /sys/block/{disk}/size) flakey /dev/{disk} 0 0 3600 1 drop_writes\" \
             && dmsetup suspend --noflush --nolockfs {disk} && dmsetup resume {disk}"
        ));
    }

    /// There is no udev that would answer dmsetup.
    fn device_mapper(&self, script: &str) {
        self.run(&format!("export DM_DISABLE_UDEV=1; {script}"));
    }

    /// Gives the guest a virtual camera; answers its device.
    #[track_caller]
    pub fn add_camera(&self) -> &'static str {
        // One device, which only captures video (Documentation/admin-guide/media/vivid.rst of Linux).
        self.run("load vivid n_devs=1 node_types=0x1");
        "/dev/video0"
    }

    /// The guest's clock in Unix milliseconds, which it shows in whole seconds: up to one too early.
    #[track_caller]
    pub fn now_ms(&self) -> i64 {
        1000 * self.run("date +%s").parse::<i64>().expect("seconds")
    }

    /// Starts the recorder on `data_dir` and waits until it answers.
    #[track_caller]
    pub fn start_nvr(&self, data_dir: &str) -> &Api {
        self.run(&format!(
            "printf %s '{PASSWORD}' >/run/password; \
             setsid sh -c 'echo $$ >/run/nvr.pid; exec lightnvr --data-dir {data_dir} --listen 0.0.0.0:{NVR_PORT} \
             --admin-password-file /run/password' >/dev/ttyS0 2>&1 &"
        ));
        wait::until("the recorder in the guest answers", READY_WITHIN, || {
            let answer = http::request(self.api.addr, "GET", "/healthz", &[], None).ok()?;
            (answer.status == 200).then_some(())
        });
        &self.api
    }

    /// Ends the recorder in good order.
    #[track_caller]
    pub fn stop_nvr(&self) {
        self.run("kill -TERM $(cat /run/nvr.pid)");
        wait::until("the recorder in the guest ends", nvr::STOP_WITHIN * 4, || {
            self.run("kill -0 $(cat /run/nvr.pid) 2>/dev/null && echo runs || true")
                .is_empty()
                .then_some(())
        });
    }

    /// The recorder's API.
    pub fn nvr(&self) -> &Api {
        &self.api
    }

    /// A number in `/proc/PID/FILE` of the recorder: the first of the line that begins with `name`.
    #[track_caller]
    pub fn nvr_number(&self, file: &str, name: &str) -> u64 {
        let text = self.run(&format!("cat /proc/$(cat /run/nvr.pid)/{file}"));
        let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
        let word = line.and_then(|line| line.split_whitespace().next()?.parse().ok());
        word.unwrap_or_else(|| panic!("no {name} in {text}"))
    }

    /// Bytes that the guest has written to `/dev/NAME` (Documentation/block/stat.rst of Linux: sectors of 512 bytes).
    #[track_caller]
    pub fn bytes_written(&self, name: &str) -> u64 {
        let text = self.run(&format!("cat /sys/block/{name}/stat"));
        let sectors = text.split_whitespace().nth(6).and_then(|word| word.parse::<u64>().ok());
        sectors.unwrap_or_else(|| panic!("no sectors written in {text}")) * 512
    }

    /// Fetches a recording into `file`.
    #[track_caller]
    pub fn download(&self, id: u64, file: &Path) {
        let path = format!("/api/v1/recordings/{id}/download");
        let answer = self.api.request("GET", &path, None);
        assert_eq!(answer.status, 200, "{path}");
        std::fs::write(file, answer.body).expect("the test's directory can be written");
    }

    /// Its plug is pulled.
    pub fn kill(mut self) {
        self.qemu.kill();
    }
}

/// URL of a stream of a server on this host, as the guest reaches it.
pub fn url(server: &GstServer, path: &str) -> String {
    server.url(path).replace("127.0.0.1", "10.0.2.2")
}

/// Runs a script; answers what it says and its exit code.
fn run(at: SocketAddr, script: &str) -> std::io::Result<(String, i32)> {
    let bad = || std::io::Error::other("no exit code");
    let body = Some(script.as_bytes());
    let answer = http::request(at, "POST", "/cgi-bin/run", &[], body)?;
    let (said, code) = answer.text().rsplit_once("\nexit ").ok_or_else(bad)?;
    Ok((said.trim_end().to_owned(), code.trim().parse().map_err(|_| bad())?))
}
