//! A child process with its own process group, whose output is kept and which cannot outlive the test.

use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use rustix::process::{Pid, Signal};

use super::wait;

type Lines = Arc<Mutex<Vec<String>>>;

/// A running child. Dropping it kills its whole process group.
pub struct Process {
    name: String,
    child: Child,
    stdout: Lines,
    stderr: Lines,
}

impl Process {
    /// Starts `command`. Its standard input stays open for as long as the `Process` lives.
    pub fn start(name: &str, command: &mut Command) -> Self {
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        command.process_group(0);
        // SAFETY: prctl is async-signal-safe, and the closure neither allocates nor locks.
        unsafe {
            command.pre_exec(|| {
                // Dies with the thread that started it: a test that is killed leaves nothing behind.
                Ok(rustix::process::set_parent_process_death_signal(Some(Signal::KILL))?)
            });
        }
        let mut child = command.spawn().unwrap_or_else(|e| panic!("{name} does not start: {e}"));
        let stdout = keep_lines(child.stdout.take().expect("piped"));
        let stderr = keep_lines(child.stderr.take().expect("piped"));
        Self { name: name.to_owned(), child, stdout, stderr }
    }

    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Lines of standard output so far.
    pub fn stdout(&self) -> Vec<String> {
        lines(&self.stdout)
    }

    /// Lines of standard error so far.
    pub fn stderr(&self) -> Vec<String> {
        lines(&self.stderr)
    }

    /// Writes a line to its standard input.
    #[track_caller]
    pub fn send_line(&mut self, line: &str) {
        let stdin = self.child.stdin.as_mut().expect("piped");
        stdin.write_all(format!("{line}\n").as_bytes()).expect("it reads its input");
    }

    /// Waits until `find` gives something for a line of standard output.
    #[track_caller]
    pub fn wait_for_line<T>(
        &mut self,
        what: &str,
        within: Duration,
        find: impl Fn(&str) -> Option<T>,
    ) -> T {
        let found = wait::until(what, within, || {
            // Asked first, so that what it wrote before its end is still read.
            let ended = self.child.try_wait().expect("it is our child");
            match self.stdout().iter().find_map(|line| find(line)) {
                Some(found) => Some(Ok(found)),
                None => ended.map(Err),
            }
        });
        found.unwrap_or_else(|status| {
            panic!("{} ended ({status}) before: {what}\n{}", self.name, self.stderr().join("\n"))
        })
    }

    /// Waits for its end and gives its exit code.
    #[track_caller]
    pub fn wait_for_exit(&mut self, within: Duration) -> ExitStatus {
        let what = format!("{} ends", self.name);
        wait::until(&what, within, || self.child.try_wait().expect("it is our child"))
    }

    /// Whether it runs.
    pub fn is_running(&mut self) -> bool {
        self.child.try_wait().expect("it is our child").is_none()
    }

    /// Sends a signal to the child alone.
    pub fn signal(&self, signal: Signal) {
        let pid = Pid::from_child(&self.child);
        rustix::process::kill_process(pid, signal).expect("it is our child and not waited for");
    }

    /// SIGKILL, and waits until it is gone.
    pub fn kill(&mut self) {
        if self.is_running() {
            let group = Pid::from_child(&self.child);
            // The group may be gone between the two calls.
            let _ = rustix::process::kill_process_group(group, Signal::KILL);
        }
        let status = self.child.wait().expect("it is our child");
        assert!(status.signal().is_some() || status.code().is_some());
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.kill();
        if std::thread::panicking() {
            eprintln!("--- {}: standard error\n{}", self.name, self.stderr().join("\n"));
        }
    }
}

fn lines(of: &Lines) -> Vec<String> {
    of.lock().expect("the reader does not panic").clone()
}

/// Reads `pipe` to its end on a thread of its own: a full pipe would stop the child.
fn keep_lines(pipe: impl Read + Send + 'static) -> Lines {
    let kept = Lines::default();
    let keep = Arc::clone(&kept);
    let read = move || {
        for line in BufReader::new(pipe).split(b'\n').map_while(Result::ok) {
            let line = String::from_utf8_lossy(&line).into_owned();
            keep.lock().expect("no reader panics").push(line);
        }
    };
    let thread = std::thread::Builder::new().name("output".into()).spawn(read);
    drop(thread.expect("a thread can be started"));
    kept
}

/// Runs a command to its end and gives its standard output; panics if it fails or says anything.
#[track_caller]
pub fn run_silently(command: &mut Command) -> Vec<u8> {
    let out = command.stdin(Stdio::null()).output();
    let out = out.unwrap_or_else(|e| panic!("{command:?} does not start: {e}"));
    let said = String::from_utf8_lossy(&out.stderr);
    assert!(out.status.success() && said.is_empty(), "{command:?}: {}: {said}", out.status);
    out.stdout
}
