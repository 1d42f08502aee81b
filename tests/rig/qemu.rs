//! A machine under QEMU, in software: its console, its ports on this host, and its end.
//!
//! In here: what every guest has. Not in here: what runs in it (`guest.rs` has the small one of `tests/vm`).

use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use super::json::{self, Look, quote};
use super::process::Process;
use super::wait;

/// QEMU itself, without its guest.
const MONITOR_WITHIN: Duration = Duration::from_secs(20);

/// A running machine. Dropping it pulls its plug.
pub struct Qemu {
    process: Process,
    console: PathBuf,
    asked: u32,
}

impl Qemu {
    /// Starts `command`, which says what machine it is, with a serial console in `dir/console-N.log` and a network
    /// in which `ports` of the guest (10.0.2.15) can be reached and this host's loopback is 10.0.2.2. `nic` is the
    /// model of the network card.
    #[track_caller]
    pub fn start(dir: &Path, command: &mut Command, nic: &str, ports: &[u16]) -> Self {
        let name = |n| dir.join(format!("console-{n}.log"));
        let console = (0..).map(name).find(|path| !path.exists()).expect("some number is free");
        // Port 0 is any free one.
        let forwards: String =
            ports.iter().map(|port| format!(",hostfwd=tcp:127.0.0.1:0-:{port}")).collect();
        command.args(["-nodefaults", "-no-user-config", "-display", "none", "-qmp", "stdio"]);
        command.arg("-serial").arg(format!("file:{}", console.display()));
        command.args(["-netdev", &format!("user,id=net{forwards}")]);
        command.args(["-device", &format!("{nic},netdev=net,romfile=")]);
        let mut process = Process::start("qemu", command);
        process.wait_for_line("greeting of QEMU", MONITOR_WITHIN, |line| {
            line.starts_with(r#"{"QMP""#).then_some(())
        });
        let mut qemu = Self { process, console, asked: 0 };
        qemu.execute(r#""execute":"qmp_capabilities""#);
        qemu
    }

    /// Has the monitor execute a command, written without braces; answers what it returned.
    #[track_caller]
    fn execute(&mut self, command: &str) -> miniserde::json::Value {
        self.asked += 1;
        let id = u64::from(self.asked);
        self.process.send_line(&format!("{{{command},\"id\":{id}}}"));
        self.process.wait_for_line("answer of QEMU", MONITOR_WITHIN, |line| {
            let answer = json::parse(line);
            answer.field_if_any("id").is_some_and(|of| of.integer() == id).then_some(answer)
        })
    }

    /// A command of QEMU's human monitor; answers what it says.
    #[track_caller]
    pub fn monitor(&mut self, line: &str) -> String {
        let command = format!(
            r#""execute":"human-monitor-command","arguments":{{"command-line":{}}}"#,
            quote(line)
        );
        self.execute(&command).field("return").text().to_owned()
    }

    /// Where one of the guest's ports is on this host.
    #[track_caller]
    pub fn port(&mut self, of_guest: u16) -> SocketAddr {
        let text = self.monitor("info usernet");
        // TCP[HOST_FORWARD]  FD  127.0.0.1 PORT  10.0.2.15 PORT  0 0
        let port = text.lines().find_map(|line| {
            let words: Vec<&str> = line.split_whitespace().collect();
            let is_it =
                words.first()?.contains("HOST_FORWARD") && words.get(5)?.parse() == Ok(of_guest);
            if is_it { words[3].parse::<u16>().ok() } else { None }
        });
        let port = port.unwrap_or_else(|| panic!("port {of_guest} is not forwarded:\n{text}"));
        SocketAddr::from(([127, 0, 0, 1], port))
    }

    /// What the guest wrote to its serial console so far.
    pub fn console(&self) -> String {
        String::from_utf8_lossy(&fs::read(&self.console).unwrap_or_default()).into_owned()
    }

    /// Waits until a line of the console has `text` in it.
    #[track_caller]
    pub fn wait_for_console(&mut self, text: &str, within: Duration) {
        let is_there = wait::until(&format!("{text:?} on the console"), within, || {
            let is_running = self.process.is_running();
            let is_there = self.console().contains(text);
            (is_there || !is_running).then_some(is_there)
        });
        assert!(is_there, "QEMU ended before: {text}\n{}", self.console());
    }

    /// Waits until the guest has switched the machine off.
    #[track_caller]
    pub fn wait_for_end(&mut self, within: Duration) {
        self.process.wait_for_exit(within);
    }

    /// Its plug is pulled. What its guest gave to its disks is in their files: that is a power cut only for
    /// what the guest had not given them yet.
    pub fn kill(&mut self) {
        self.process.kill();
    }
}

impl Drop for Qemu {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let console = self.console();
            let lines: Vec<&str> = console.lines().collect();
            let last = &lines[lines.len().saturating_sub(60)..];
            eprintln!("--- console of the guest, at its end\n{}", last.join("\n"));
        }
    }
}
