//! A gate in this process, with a little REST layer behind it that answers what a test needs.

#![allow(dead_code, reason = "each test binary uses its part")]

use std::io::{BufRead, BufReader, Read, Write};
use std::net::SocketAddr;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread::JoinHandle;

use lightnvr::config::settings::Settings;
use lightnvr::http::auth::Auth;
use lightnvr::http::counters::Counters;
use lightnvr::http::gate::{Gate, GateConfig};
use lightnvr::http::listener::{Listener, listen};
use lightnvr::nvr::snapshot::{Snapshot, SnapshotCell};
use lightnvr::system::pool::{Pool, spawn};
use smol::channel::{Receiver, Sender, bounded};

/// `admin:secret`, with the cheapest parameters that argon2 has: its strength is tested elsewhere.
const PHC: &str =
    "$argon2id$v=19$m=8,t=1,p=1$BwcHBwcHBwcHBwcHBwcHBw$4R1PEQPItpvkTH5juMUak3oEb8rtWEdaRzGIjigkYIU";
/// The same in an `Authorization` field.
pub const BASIC: &str = "Basic YWRtaW46c2VjcmV0";

/// A running gate; dropping it closes everything.
pub struct Rig {
    pub addr: SocketAddr,
    pub counters: Arc<Counters>,
    pub snapshot: SnapshotCell,
    /// For a gate that is to move.
    pub listeners: Sender<Listener>,
    pub dir: PathBuf,
    stop: Sender<()>,
    thread: Option<JoinHandle<()>>,
}

/// Starts a gate whose configuration `change` may alter.
pub fn start(change: impl FnOnce(&mut GateConfig) + Send + 'static) -> Rig {
    static RIGS: AtomicU32 = AtomicU32::new(0);
    let n = RIGS.fetch_add(1, Ordering::Relaxed);
    let dir = std::env::temp_dir().join(format!("lightnvr-gate-{}-{n}", std::process::id()));
    drop(std::fs::remove_dir_all(&dir));
    std::fs::create_dir_all(&dir).expect("a directory of our own");
    let socket = dir.join("rest.sock");
    serve_rest(UnixListener::bind(&socket).expect("a socket"), dir.clone());
    let snapshot = SnapshotCell::new(Snapshot {
        streams: Vec::new(),
        settings: Settings::new("/nowhere".into()),
        running: Vec::new(),
        ailments: Vec::new(),
        ledger: Vec::new(),
        forecast: Vec::new(),
        is_initial_password: false,
        at_ms: 0,
    });
    let (listeners, receiver) = bounded(1);
    let (stop, stopped) = bounded(1);
    let (say, heard) = std::sync::mpsc::channel();
    let cell = snapshot.clone();
    let body = move || {
        let pool = Pool::start("codec", 1, 8).expect("a thread");
        let auth = Rc::new(Auth::new(PHC.into(), pool));
        let mut config = GateConfig::new(socket, cell, auth, "cellar".into());
        change(&mut config);
        run(Gate::new(config), &say, receiver, &stopped);
    };
    let thread = spawn("gate", body).expect("a thread");
    let (counters, addr) = heard.recv().expect("the gate starts");
    Rig { addr, counters, snapshot, listeners, dir, stop, thread: Some(thread) }
}

fn run(
    gate: Rc<Gate>,
    say: &std::sync::mpsc::Sender<(Arc<Counters>, SocketAddr)>,
    receiver: Receiver<Listener>,
    stopped: &Receiver<()>,
) {
    let executor = Rc::new(smol::LocalExecutor::new());
    let first = listen("127.0.0.1:0".parse().expect("an address")).expect("a free port");
    say.send((gate.counters(), first.local_addr())).expect("the test waits");
    let (direct, listeners) = bounded(2);
    direct.try_send(first).expect("room for one");
    let serve = Rc::clone(&gate).serve(&executor, listeners, None);
    let hand_on = async {
        while let Ok(listener) = receiver.recv().await {
            direct.send(listener).await.expect("the gate listens");
        }
        std::future::pending().await
    };
    let until = async { stopped.recv().await.unwrap_or_default() };
    let all = smol::future::or(until, smol::future::or(hand_on, serve));
    lightnvr::system::drive::block_on(executor.run(all));
}

impl Rig {
    pub fn open(&self) -> usize {
        usize::try_from(self.counters.open.get()).expect("few")
    }

    /// Changes the settings as the owner would.
    pub fn set(&self, change: impl FnOnce(&mut Settings)) {
        let mut snapshot = Snapshot::clone(&self.snapshot.load());
        change(&mut snapshot.settings);
        self.snapshot.publish(snapshot);
    }
}

impl Drop for Rig {
    fn drop(&mut self) {
        self.stop.try_send(()).unwrap_or_default();
        let ended = self.thread.take().map(JoinHandle::join);
        drop(std::fs::remove_dir_all(&self.dir));
        if !std::thread::panicking() {
            ended.expect("started once").expect("the gate did not panic");
            assert_eq!(self.counters.open.get(), 0, "every connection is closed");
        }
    }
}

/// What the REST layer reads of a request.
struct Asked {
    method: String,
    target: String,
    head: String,
    body: Vec<u8>,
}

fn serve_rest(listener: UnixListener, dir: PathBuf) {
    let accept = move || {
        for stream in listener.incoming().map_while(Result::ok) {
            let dir = dir.clone();
            drop(spawn("rest", move || while answer_one(&stream, &dir) {}).expect("a thread"));
        }
    };
    drop(spawn("rest-accept", accept).expect("a thread"));
}

/// Answers one request; false when the connection is to be closed.
fn answer_one(mut stream: &UnixStream, dir: &Path) -> bool {
    let Some(asked) = read_asked(stream) else { return false };
    let (path, query) = asked.target.split_once('?').unwrap_or((&asked.target, ""));
    let file = dir.join("a.mp4");
    let (fields, body) = match path {
        "/healthz" => (String::new(), b"ok".to_vec()),
        "/big" => (String::new(), vec![b'x'; 1 << 20]),
        "/too-big" => (String::new(), vec![b'x'; (1 << 20) + 1]),
        "/die" => return false,
        "/answer-and-close" => {
            drop(stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"));
            return false;
        }
        "/panic" => {
            return stream.write_all(b"HTTP/1.1 500 x\r\nContent-Length: 0\r\n\r\n").is_ok();
        }
        "/api/v1/pages" => page(query),
        "/api/v1/file" | "/api/v1/recordings/1/download" => (order(&file, query), Vec::new()),
        "/api/v1/session" if asked.method == "POST" => {
            let credentials = String::from_utf8_lossy(&asked.body);
            (format!("lightnvr-log-in: {credentials}\r\n"), echo(&asked))
        }
        "/api/v1/session" if asked.method == "DELETE" => {
            ("lightnvr-log-out: 1\r\n".into(), b"{}".to_vec())
        }
        "/api/v1/password" if asked.body == b"wrong" => {
            ("lightnvr-wrong-password: 1\r\n".into(), b"{}".to_vec())
        }
        "/api/v1/fields" => (
            "Keep-Alive: timeout=5\r\nlightnvr-task: x\r\nUpgrade: y\r\nX-Own: z\r\n\
             Set-Cookie: a\r\nServer: rest\r\n"
                .into(),
            b"{}".to_vec(),
        ),
        _ => (String::new(), echo(&asked)),
    };
    let mut reply =
        format!("HTTP/1.1 200 OK\r\n{fields}Content-Length: {}\r\n\r\n", body.len()).into_bytes();
    if asked.method != "HEAD" {
        reply.extend_from_slice(&body);
    }
    stream.write_all(&reply).is_ok()
}

fn echo(asked: &Asked) -> Vec<u8> {
    [asked.head.as_bytes(), b"\r\n", &asked.body].concat()
}

/// Five pages of 100 KiB; `break=N` breaks off at page N.
fn page(query: &str) -> (String, Vec<u8>) {
    let (n, end) = query.split_once('&').unwrap_or((query, ""));
    let n: u8 = n.strip_prefix("n=").and_then(|n| n.parse().ok()).unwrap_or(0);
    let next = match n {
        _ if end == format!("break={n}") => "lightnvr-next: nowhere\r\n".to_owned(),
        4 => String::new(),
        _ => format!("lightnvr-next: /api/v1/pages?n={}&{end}\r\n", n + 1),
    };
    (next, vec![b'0' + n; 100 << 10])
}

fn order(file: &Path, query: &str) -> String {
    let len = std::fs::metadata(file).map_or(0, |meta| meta.len());
    let size = query.strip_prefix("size=").and_then(|n| n.parse().ok()).unwrap_or(len);
    format!(
        "lightnvr-file: {}\r\nlightnvr-file-size: {size}\r\nlightnvr-etag: \"e-1\"\r\n\
         lightnvr-modified: 784111777\r\nContent-Type: video/mp4\r\n\
         Content-Disposition: attachment; filename=\"a.mp4\"\r\n",
        file.display()
    )
}

fn read_asked(stream: &UnixStream) -> Option<Asked> {
    // A reader per request is enough: the gate sends the next one only after the reply.
    let mut reader = BufReader::new(stream);
    let mut head = String::new();
    while !head.ends_with("\r\n\r\n") {
        if reader.read_line(&mut head).ok()? == 0 {
            return None;
        }
    }
    let length = head.lines().find_map(|line| line.strip_prefix("Content-Length: "));
    let mut body = vec![0; length.map_or(0, |length| length.parse().expect("a length"))];
    reader.read_exact(&mut body).ok()?;
    let mut words = head.split(' ');
    let (method, target) = (words.next()?.to_owned(), words.next()?.to_owned());
    Some(Asked { method, target, head, body })
}
