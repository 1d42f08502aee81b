//! A small recorder for the tests of the API: a thread that owns the state and carries out commands as
//! the executor does, rows in memory, and a client that speaks raw HTTP to the private socket.
#![allow(dead_code, reason = "each test program uses a part of it")]

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Instant;

use lightnvr::api::serve::{Server, start};
use lightnvr::api::{Ctx, MachineStats};
use lightnvr::config::FieldError;
use lightnvr::config::settings::Settings;
use lightnvr::config::stream::StreamConfig;
use lightnvr::nvr::command::{Command, CommandError, command_queue};
use lightnvr::nvr::snapshot::{RunningRecording, Snapshot, SnapshotCell, StreamStatus, StreamView};
use lightnvr::store::row::RecordingRow;
use lightnvr::store::{Change, Store, StoreReader};
use lightnvr::system::pool;

pub const PASSWORD: &str = "correct horse";

/// The recordings' rows in a store on disk.
#[derive(Clone)]
pub struct Rows(Store);

impl Rows {
    fn open(dir: &Path) -> Self {
        std::fs::create_dir_all(dir).expect("a directory");
        Self(Store::open(dir).expect("a store"))
    }

    pub fn insert(&self, row: RecordingRow) {
        self.0.commit(&[Change::PutRecording(row)]).expect("a commit");
    }

    pub fn insert_all(&self, rows: impl Iterator<Item = RecordingRow>) {
        let changes: Vec<Change> = rows.map(Change::PutRecording).collect();
        self.0.commit(&changes).expect("a commit");
    }

    pub fn remove(&self, id: u64) -> bool {
        let was = self.0.reader().recording(id).expect("an answer").is_some();
        self.0.commit(&[Change::RemoveRecording(id)]).expect("a commit");
        was
    }

    pub fn reader(&self) -> StoreReader {
        self.0.reader()
    }
}

/// The second recording of the contract has id 2, and so on: one every quarter of an hour.
pub fn row(id: u64, size: u64) -> RecordingRow {
    let start_ms = 1_741_514_400_000 + (i64::try_from(id).expect("small") - 1) * 900_000;
    let minutes = (id - 1) * 15;
    RecordingRow {
        id,
        stream_id: 0,
        stream_name: "Front Door".into(),
        start_ms,
        end_ms: start_ms + 900_000,
        size,
        path: format!(
            "/var/lib/lightnvr/recordings/0/20250309_{:02}{:02}00.mp4",
            10 + minutes / 60,
            minutes % 60
        ),
        in_progress: false,
        is_protected: false,
        boot: 0,
    }
}

/// What is being written of recording `id`.
pub fn running(id: u64) -> RunningRecording {
    let row = row(id, 1000);
    RunningRecording {
        id,
        stream_id: row.stream_id,
        stream_name: row.stream_name,
        start_ms: row.start_ms,
        end_ms: row.start_ms + 2500,
        size: 1000,
        path: row.path,
        is_protected: false,
    }
}

/// An answer: status, head, body.
pub struct Answer {
    pub status: u16,
    pub head: String,
    pub body: String,
}

impl Answer {
    /// The value of a header.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.head.lines().find_map(|line| {
            let (n, value) = line.split_once(": ")?;
            n.eq_ignore_ascii_case(name).then_some(value)
        })
    }
}

/// The served API with its state.
pub struct Rig {
    pub snapshot: SnapshotCell,
    pub rows: Rows,
    pub socket: PathBuf,
    pub dir: PathBuf,
    ctx: Arc<Ctx>,
    server: Option<Server>,
}

impl Rig {
    /// An empty recorder on the machine of the contract's example.
    pub fn new() -> Self {
        Self::on_machine(|| MachineStats {
            cpu_usage: 15.2,
            memory_usage: 45.7,
            storage_total: 1_000_000_000,
            storage_free: 217_000_000,
            bytes_written: Some(783_000),
        })
    }

    /// An empty recorder on this machine.
    pub fn on_machine(machine: impl Fn() -> MachineStats + Send + Sync + 'static) -> Self {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let n = COUNT.fetch_add(1, Ordering::Relaxed);
        let dir = std::env::temp_dir().join(format!("lightnvr-api-{}-{n}", std::process::id()));
        let socket = dir.join("run").join("api.sock");
        let snapshot = SnapshotCell::new(Snapshot {
            streams: vec![],
            settings: Settings::new("/var/lib/lightnvr/recordings".into()),
            running: vec![],
            ailments: vec![],
            ledger: vec![],
            forecast: vec![],
            is_initial_password: false,
            at_ms: 0,
        });
        let rows = Rows::open(&dir.join("store"));
        let (commands, inbox) = command_queue();
        let mut state = State {
            cell: snapshot.clone(),
            rows: rows.clone(),
            next_id: 0,
            password: PASSWORD.into(),
        };
        drop(pool::spawn("state", move || {
            while let Ok(command) = inbox.recv_blocking() {
                state.carry_out(command);
            }
        }));
        let ctx = Ctx {
            snapshot: snapshot.clone(),
            commands,
            store: rows.reader(),
            started: Instant::now(),
            machine: Arc::new(machine),
            cameras: Arc::new(|| Some(Vec::new())),
            desk: Arc::new(lightnvr::update::desk::Desk::new(None)),
        };
        let ctx = Arc::new(ctx);
        let server = Some(start(&socket, Arc::clone(&ctx)).expect("a socket"));
        Self { snapshot, rows, socket, dir, ctx, server }
    }

    /// Changes the snapshot.
    pub fn publish(&self, change: impl FnOnce(&mut Snapshot)) {
        publish(&self.snapshot, change);
    }

    /// Sends a request; a body goes as JSON.
    pub fn ask(&self, method: &str, target: &str, body: &str) -> Answer {
        let kind = if body.is_empty() { "" } else { "Content-Type: application/json\r\n" };
        self.ask_with(method, target, kind, body)
    }

    /// Sends a request with these header lines.
    pub fn ask_with(&self, method: &str, target: &str, headers: &str, body: &str) -> Answer {
        let mut stream = self.connect().expect("the socket listens");
        ask_on(&mut stream, method, target, headers, body)
    }

    /// A connection to the socket.
    pub fn connect(&self) -> std::io::Result<UnixStream> {
        UnixStream::connect(&self.socket)
    }

    /// Follows the pieces of a list as the gate does: the whole document.
    pub fn whole_list(&self, target: &str) -> String {
        let mut answer = self.ask("GET", target, "");
        let mut body = answer.body.clone();
        while let Some(next) = answer.header("lightnvr-next").map(str::to_owned) {
            answer = self.ask_with("GET", &next, "lightnvr-internal: 1\r\n", "");
            assert_eq!(answer.status, 200, "{}", answer.body);
            body.push_str(&answer.body);
        }
        body
    }

    /// Starts another server on the same socket.
    pub fn start_again(&self) -> std::io::Result<Server> {
        self.start_at(&self.socket)
    }

    /// Starts another server on this socket.
    pub fn start_at(&self, socket: &Path) -> std::io::Result<Server> {
        start(socket, Arc::clone(&self.ctx))
    }

    /// The socket's path as the gate has it.
    pub fn server_socket(&self) -> &Path {
        self.server.as_ref().expect("not stopped").socket()
    }

    /// Ends the server.
    pub fn stop(&mut self) {
        self.server = None;
    }
}

impl Drop for Rig {
    fn drop(&mut self) {
        self.stop();
        drop(std::fs::remove_dir_all(&self.dir));
    }
}

/// Sends a request on a connection that stays open.
pub fn ask_on(
    stream: &mut UnixStream,
    method: &str,
    target: &str,
    headers: &str,
    body: &str,
) -> Answer {
    try_ask_on(stream, method, target, headers, body).expect("an answer")
}

/// The same where the server may go meanwhile.
pub fn try_ask_on(
    stream: &mut UnixStream,
    method: &str,
    target: &str,
    headers: &str,
    body: &str,
) -> std::io::Result<Answer> {
    let len = body.len();
    let head = format!(
        "{method} {target} HTTP/1.1\r\nHost: cam\r\n{headers}Content-Length: {len}\r\n\r\n"
    );
    stream.write_all(head.as_bytes())?;
    stream.write_all(body.as_bytes())?;
    read_answer(stream, method == "HEAD")
}

fn read_answer(stream: &mut UnixStream, is_head: bool) -> std::io::Result<Answer> {
    let mut head = Vec::new();
    let mut byte = [0];
    while !head.ends_with(b"\r\n\r\n") {
        stream.read_exact(&mut byte)?;
        head.push(byte[0]);
    }
    let head = String::from_utf8(head).expect("ASCII");
    let status = head.split(' ').nth(1).expect("a status line").parse().expect("a number");
    let mut answer = Answer { status, head, body: String::new() };
    assert_eq!(answer.header("Transfer-Encoding"), None, "the length is always known");
    let len = answer.header("Content-Length").expect("a length").parse().expect("a number");
    let mut body = vec![0; if is_head { 0 } else { len }];
    stream.read_exact(&mut body)?;
    answer.body = String::from_utf8(body).expect("text");
    Ok(answer)
}

fn publish(cell: &SnapshotCell, change: impl FnOnce(&mut Snapshot)) {
    let mut snapshot = (*cell.load()).clone();
    change(&mut snapshot);
    cell.publish(snapshot);
}

struct State {
    cell: SnapshotCell,
    rows: Rows,
    next_id: u32,
    password: String,
}

impl State {
    fn carry_out(&mut self, command: Command) {
        match command {
            Command::CreateStream { patch, reply } => {
                let made = StreamConfig::from_patch(self.next_id, &patch);
                let made = made.and_then(|config| self.check_name(config));
                let view = made.map(|config| view(config, StreamStatus::Connecting));
                if let Ok(view) = &view {
                    self.next_id += 1;
                    publish(&self.cell, |s| s.streams.push(view.clone()));
                }
                drop(reply.try_send(view.map_err(CommandError::BadField)));
            }
            Command::UpdateStream { id, patch, reply } => {
                drop(reply.try_send(self.update(id, |config| config.patched(&patch))));
            }
            Command::DeleteStream { id, reply } => {
                let known = self.cell.load().streams.iter().any(|v| v.config.id == id);
                publish(&self.cell, |s| s.streams.retain(|v| v.config.id != id));
                let answer = known.then_some(()).ok_or(CommandError::NotFound("Stream not found"));
                drop(reply.try_send(answer));
            }
            Command::DeleteRecording { id, reply } => drop(reply.try_send(self.delete(id))),
            Command::ProtectRecording { reply, .. } => drop(reply.try_send(Ok(()))),
            Command::Restore { reply, .. } => drop(reply.try_send(Ok(()))),
            Command::AdoptStorage { reply } => drop(reply.try_send(Ok(()))),
            Command::UpdateSettings { patch, reply } => {
                let new = self.cell.load().settings.patched(&patch);
                let checked = new.check().map(|()| new.clone());
                if checked.is_ok() {
                    publish(&self.cell, |s| s.settings = new);
                }
                drop(reply.try_send(checked.map_err(CommandError::BadField)));
            }
            Command::ChangePassword { current, new, reply, .. } => {
                let is_right = current == self.password;
                if is_right {
                    self.password = new;
                }
                drop(reply.try_send(is_right.then_some(()).ok_or(CommandError::WrongPassword)));
            }
        }
    }

    fn check_name(&self, config: StreamConfig) -> Result<StreamConfig, FieldError> {
        let snapshot = self.cell.load();
        let is_taken = |v: &StreamView| v.config.name == config.name && v.config.id != config.id;
        if snapshot.streams.iter().any(is_taken) {
            return Err(FieldError::new("name", "is taken by another stream; names are unique"));
        }
        Ok(config)
    }

    fn update(
        &self,
        id: u32,
        change: impl FnOnce(&StreamConfig) -> Result<StreamConfig, FieldError>,
    ) -> Result<StreamView, CommandError> {
        let snapshot = self.cell.load();
        let old = snapshot.streams.iter().find(|v| v.config.id == id);
        let old = old.ok_or(CommandError::NotFound("Stream not found"))?;
        let config = change(&old.config).and_then(|config| self.check_name(config));
        let config = config.map_err(CommandError::BadField)?;
        let status = if config.enabled { StreamStatus::Connecting } else { StreamStatus::Disabled };
        let new = view(config, status);
        publish(&self.cell, |s| {
            let place = s.streams.iter_mut().find(|v| v.config.id == id);
            *place.expect("just seen") = new.clone();
        });
        Ok(new)
    }

    fn delete(&self, id: u64) -> Result<(), CommandError> {
        if self.cell.load().running.iter().any(|running| running.id == id) {
            let what = "is still being written; switch its stream off first";
            return Err(CommandError::BadField(FieldError::new("id", what)));
        }
        let known = self.rows.remove(id);
        known.then_some(()).ok_or(CommandError::NotFound("Recording not found"))
    }
}

fn view(config: StreamConfig, status: StreamStatus) -> StreamView {
    StreamView {
        config,
        status,
        status_detail: String::new(),
        actual: None,
        advice: vec![],
        buffer: None,
    }
}
