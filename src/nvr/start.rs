//! Puts the program together, runs it, and takes it apart on SIGTERM.
//!
//! Order at the start: lock, store, password, recovery, threads, executor, sockets, ready line. Order at the end: sources,
//! recorders with their last rows, exit.

use std::fs::{DirBuilder, File, OpenOptions};
use std::io::Write;
use std::net::Ipv4Addr;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use rustix::fs::{FlockOperation, flock};
use smol::LocalExecutor;
use smol::channel::bounded;
use smol::future::FutureExt;

use super::apply::Applier;
use super::command::command_queue;
use super::gauges::Gauges;
use super::snapshot::{Snapshot, SnapshotCell};
use super::state::{Nvr, Parts, live_config};
use crate::api::serve;
use crate::args::RunArgs;
use crate::config::stream::{StreamConfig, StreamPatch};
use crate::http::auth::{self, Auth};
use crate::http::gate::{Gate, GateConfig};
use crate::http::listener;
use crate::live::jpeg::Pictures;
use crate::live::service::Live;
use crate::record::disk::Disks;
use crate::record::open::OpenRecordings;
use crate::record::{check as record_check, recovery};
use crate::store::{Change, Loaded, Store};
use crate::system::pool::Pool;
use crate::system::{log as log_thread, signal, wait};

/// SIGTERM to exit takes 3 s at most; what is not done by then is left for recovery.
const SHUTDOWN_MAX: Duration = Duration::from_millis(2700);
/// Jobs that wait for a codec thread.
const CODEC_JOBS_MAX: usize = 64;
const CODEC_THREADS_MAX: usize = 3;
/// Random bytes of a generated password: 15 bytes are 120 bits and 20 characters of base64.
const PASSWORD_BYTES: usize = 15;
const PASSWORD_CHARS_GOOD: usize = 10;
const INITIAL_PASSWORD: &str = "initial-password";
const PASSWORD_VARIABLE: &str = "LIGHTNVR_ADMIN_PASSWORD";
/// A path of a Unix socket has 108 bytes (unix(7)).
const SOCKET_PATH_MAX: usize = 100;

/// Threads of smol's pool for blocking calls, which reads downloads and asks for names. Its default is 500.
const BLOCKING_THREADS_MAX: &str = "2";

/// Runs the recorder until SIGTERM or SIGINT. Called first thing in `main`: it sets a variable of the process.
pub fn run(args: RunArgs) -> ExitCode {
    // SAFETY: no other thread runs yet, so nobody reads the environment meanwhile.
    unsafe { std::env::set_var("BLOCKING_MAX_THREADS", BLOCKING_THREADS_MAX) };
    match try_run(args) {
        Ok(()) => ExitCode::SUCCESS,
        Err(message) => {
            log_thread::flush();
            eprintln!("lightnvr: {message}");
            ExitCode::FAILURE
        }
    }
}

/// Runs `lightnvr check`.
pub fn check(data_dir: &Path) -> ExitCode {
    match try_check(data_dir) {
        Ok(findings) if findings.is_empty() => ExitCode::SUCCESS,
        Ok(findings) => {
            for finding in findings {
                println!("{finding}");
            }
            ExitCode::FAILURE
        }
        Err(message) => {
            eprintln!("lightnvr: {message}");
            ExitCode::FAILURE
        }
    }
}

fn try_check(data_dir: &Path) -> Result<Vec<String>, String> {
    if !data_dir.join(crate::store::FILE_NAME).is_file() {
        return Err(format!("{}: no store here", data_dir.display()));
    }
    let _lock = lock(data_dir, false)?;
    let store = Store::open_unchanged(data_dir).map_err(|error| error.to_string())?;
    let loaded = store.load(default_storage(data_dir)).map_err(|error| error.to_string())?;
    record_check::check(&store, Path::new(&loaded.settings.storage_path))
        .map_err(|error| error.to_string())
}

fn default_storage(data_dir: &Path) -> String {
    data_dir.join("recordings").to_string_lossy().into_owned()
}

/// Takes the data directory for this process alone.
fn lock(data_dir: &Path, may_create: bool) -> Result<File, String> {
    let path = data_dir.join("lock");
    let opened =
        OpenOptions::new().read(true).write(may_create).create(may_create).mode(0o600).open(&path);
    let file = match opened {
        Ok(file) => file,
        // Nothing ever ran here with a lock file: nothing to be kept out of.
        Err(_) if !may_create => File::open(data_dir).map_err(|error| error.to_string())?,
        Err(error) => return Err(format!("{}: {error}", path.display())),
    };
    match flock(&file, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => Ok(file),
        Err(rustix::io::Errno::WOULDBLOCK) => Err(format!(
            "another lightnvr is running with the data directory {}; stop it first or use another --data-dir",
            data_dir.display()
        )),
        Err(error) => Err(format!("{}: {error}", path.display())),
    }
}

fn absolute(data_dir: &Path) -> Result<PathBuf, String> {
    let made = DirBuilder::new().recursive(true).mode(0o750).create(data_dir);
    made.and_then(|()| data_dir.canonicalize())
        .map_err(|error| format!("{}: {error}", data_dir.display()))
}

fn try_run(args: RunArgs) -> Result<(), String> {
    let started = Instant::now();
    log_thread::init(args.log_level).map_err(|error| format!("log thread: {error}"))?;
    let data_dir = absolute(&args.data_dir)?;
    let _lock = lock(&data_dir, true)?;
    let store = Store::open(&data_dir).map_err(|error| error.to_string())?;
    let mut loaded = store.load(default_storage(&data_dir)).map_err(|error| error.to_string())?;
    let phc = match loaded.password_phc.take() {
        Some(phc) => phc,
        None => first_password(&args, &data_dir, &store)?,
    };
    let root = PathBuf::from(&loaded.settings.storage_path);
    let recovered = recovery::recover(&store, &root, loaded.next_recording_id);
    let (next_recording_id, done) = recovered.map_err(|error| format!("recovery: {error}"))?;
    if done != recovery::Recovered::default() {
        log::info!("recovery: {done:?}");
    }
    if args.is_demo && loaded.streams.is_empty() {
        loaded.streams.push(add_demo(&store, loaded.next_stream_id)?);
    }
    let executor = Rc::new(LocalExecutor::new());
    let disks = Disks::default();
    let store_pool = disks.pool_for(&data_dir).map_err(|error| format!("disk thread: {error}"))?;
    let codec_threads = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    let codec_threads = codec_threads.saturating_sub(1).clamp(1, CODEC_THREADS_MAX);
    let codec = Pool::start("codec", codec_threads, CODEC_JOBS_MAX)
        .map_err(|error| format!("codec thread: {error}"))?;
    let parts = Parts {
        executor: Rc::clone(&executor),
        auth: Rc::new(Auth::new(phc, codec.clone())),
        live: Rc::new(Live::new(
            live_config(&loaded.settings),
            Pictures::new(Rc::clone(&executor), codec.clone()),
        )),
        codec,
        recordings: OpenRecordings::new(store, store_pool, disks, root, next_recording_id),
        cell: SnapshotCell::new(Snapshot {
            streams: Vec::new(),
            settings: loaded.settings.clone(),
            running: Vec::new(),
            ailments: Vec::new(),
            at_ms: 0,
        }),
        started,
    };
    let main = serve_all(args, data_dir, parts, loaded);
    smol::block_on(executor.run(main))
}

/// Runs until a signal comes.
async fn serve_all(
    args: RunArgs,
    data_dir: PathBuf,
    parts: Parts,
    loaded: Loaded,
) -> Result<(), String> {
    let web_port = loaded.settings.web_port;
    let address = args.listen.unwrap_or_else(|| (Ipv4Addr::UNSPECIFIED, web_port).into());
    let listening =
        listener::listen(address).map_err(|error| format!("listen on {address}: {error}"))?;
    let bound = listening.local_addr();
    let executor = Rc::clone(&parts.executor);
    let (commands, command_receiver) = command_queue();
    let gauges = Arc::new(Gauges::new(Path::new(&loaded.settings.storage_path)));
    let measured = Arc::clone(&gauges);
    let ctx = crate::api::Ctx {
        snapshot: parts.cell.clone(),
        commands,
        store: parts.recordings.store.reader(),
        started: parts.started,
        machine: Arc::new(move || measured.stats()),
    };
    let socket = socket_path(&data_dir);
    let server = serve::start(&socket, Arc::new(ctx)).map_err(|error| format!("API: {error}"))?;
    let mut gate_config = GateConfig::new(
        socket,
        parts.cell.clone(),
        Rc::clone(&parts.auth),
        rustix::system::uname().nodename().to_string_lossy().into_owned(),
    );
    gate_config.live = Some(Rc::<Live>::clone(&parts.live));
    let gate = Gate::new(gate_config);
    let (listeners, listener_receiver) = bounded(1);
    listeners.send(listening).await.map_err(|error| error.to_string())?;
    let nvr = Nvr::new(parts, loaded.settings, loaded.next_stream_id);
    for config in loaded.streams {
        nvr.add_stream(config);
    }
    nvr.publish();
    let applier = Applier {
        nvr: Rc::clone(&nvr),
        listeners: args.listen.is_none().then(|| listeners.clone()),
        initial_password: data_dir.join(INITIAL_PASSWORD),
    };
    let mut tasks = vec![
        executor.spawn(applier.run(command_receiver)),
        executor.spawn(Rc::clone(&nvr).keep_published()),
        executor.spawn(Rc::clone(&nvr).keep_synced()),
        executor.spawn(gauges.keep_measured(Rc::clone(&nvr))),
    ];
    let gate_executor = Rc::clone(&executor);
    tasks.push(executor.spawn(async move { gate.serve(&gate_executor, listener_receiver).await }));
    let mut terminated = Box::pin(signal::terminated());
    // From here on a signal ends the program in order, also one that comes with the ready line.
    let early = smol::future::poll_once(&mut terminated).await;
    say(&format!("LightNVR {} ready: http://{bound}/", crate::VERSION));
    let name = match early {
        Some(name) => name,
        None => terminated.await,
    };
    log::info!("{}: stopping", name.map_err(|error| format!("signals: {error}"))?);
    nvr.stop_all().or(wait::pause(SHUTDOWN_MAX)).await;
    drop((tasks, server));
    log_thread::flush();
    Ok(())
}

/// A line on standard output; a closed pipe is no reason to stop recording.
fn say(line: &str) {
    let _ = writeln!(std::io::stdout(), "{line}");
    let _ = std::io::stdout().flush();
}

/// Where tiny_http listens: in the data directory, or where that path is too long, in a directory for this process.
fn socket_path(data_dir: &Path) -> PathBuf {
    let socket = data_dir.join("run").join("api.sock");
    if socket.as_os_str().len() <= SOCKET_PATH_MAX {
        return socket;
    }
    std::env::temp_dir().join(format!("lightnvr-{}", std::process::id())).join("api.sock")
}

fn add_demo(store: &Store, id: u32) -> Result<StreamConfig, String> {
    let patch = StreamPatch {
        name: Some("Demo".into()),
        url: Some("testpattern://".into()),
        ..StreamPatch::default()
    };
    let config = StreamConfig::from_patch(id, &patch)
        .map_err(|error| format!("demo stream: {}: {}", error.field, error.what))?;
    store.commit(&[Change::PutStream(config.clone())]).map_err(|error| error.to_string())?;
    Ok(config)
}

/// The first password: given by the owner, else random, printed once and kept in a file until it is changed.
/// Answers its hash, which is stored.
fn first_password(args: &RunArgs, data_dir: &Path, store: &Store) -> Result<String, String> {
    let given = given_password(args)?;
    if let Some(password) = &given
        && password.chars().count() < PASSWORD_CHARS_GOOD
    {
        log::warn!("the given password has under {PASSWORD_CHARS_GOOD} characters");
    }
    let is_random = given.is_none();
    let password = match given {
        Some(password) => password,
        None => random_password()?,
    };
    let phc = auth::hash_password(&password);
    let path = data_dir.join(INITIAL_PASSWORD);
    if is_random {
        let written = OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(true)
            .mode(0o600)
            .open(&path)
            .and_then(|mut file| {
                file.write_all(format!("{password}\n").as_bytes())?;
                file.sync_all()
            });
        written.map_err(|error| format!("{}: {error}", path.display()))?;
    }
    store.commit(&[Change::PutPassword(phc.clone())]).map_err(|error| error.to_string())?;
    if is_random {
        say(&format!(
            "First start: user admin, password {password} (kept in {} until it is changed)",
            path.display()
        ));
    }
    Ok(phc)
}

fn given_password(args: &RunArgs) -> Result<Option<String>, String> {
    let password = match &args.admin_password_file {
        Some(path) => {
            let text = std::fs::read_to_string(path);
            let text =
                text.map_err(|error| format!("--admin-password-file {}: {error}", path.display()))?;
            Some(text.trim_end_matches(['\r', '\n']).to_owned())
        }
        None => std::env::var(PASSWORD_VARIABLE).ok(),
    };
    match password {
        Some(password) if password.is_empty() => Err("the given admin password is empty".into()),
        other => Ok(other),
    }
}

fn random_password() -> Result<String, String> {
    use base64::Engine;
    let mut bytes = [0; PASSWORD_BYTES];
    getrandom::fill(&mut bytes).map_err(|error| format!("random numbers: {error}"))?;
    Ok(base64::engine::general_purpose::URL_SAFE_NO_PAD.encode(bytes))
}
