//! Puts the program together, runs it, and takes it apart on SIGTERM.
//!
//! Order at the start: lock, store, password, threads, executor, sockets, storage, streams, recovery, ready line. Order at the end: sources,
//! recorders with their last rows, exit.

use std::ffi::OsString;
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
use super::ledger;
use super::orders::Orders;
use super::snapshot::{Snapshot, SnapshotCell};
use super::state::{Nvr, Parts, live_config};
use super::update::Intake;
use crate::api::password::PASSWORD_BYTES_MAX;
use crate::api::serve;
use crate::args::RunArgs;
use crate::buffer::spill::Buffers;
use crate::config::stream::{StreamConfig, StreamPatch};
use crate::http::auth::{self, Auth};
use crate::http::gate::{Gate, GateConfig};
use crate::http::listener;
use crate::ingest::v4l2_devices;
use crate::live::jpeg::Pictures;
use crate::live::service::Live;
use crate::record::disk::Disks;
use crate::record::open::OpenRecordings;
use crate::record::storage::{self, Consent};
use crate::record::{check as record_check, real_disk, rebuild};
use crate::store::damage::{self, Lost};
use crate::store::{Change, Loaded, Store};
use crate::system::pool::Pool;
use crate::system::{drive, log as log_thread, memory, signal, stats, wait};
use crate::update::desk::Desk;

/// SIGTERM to exit takes 3 s at most; what is not done by then is left for recovery.
const SHUTDOWN_MAX: Duration = Duration::from_millis(2700);
/// Jobs that wait for a codec thread.
const CODEC_JOBS_MAX: usize = 64;
const CODEC_THREADS_MAX: usize = 3;
/// How long the streams wait for the storage's marker at the start.
const STORAGE_PATIENCE: Duration = Duration::from_millis(250);
/// How long the ready line waits for recovery, beside which the streams record already.
const RECOVERY_PATIENCE: Duration = Duration::from_secs(1);
const RECOVERY_LOOK: Duration = Duration::from_millis(10);
/// One part in so many of the memory that is available at the start may be borrowed by streams.
const BORROWED_PART: u64 = 4;
/// Random bytes of a generated password: 15 bytes are 120 bits and 20 characters of base64.
const PASSWORD_BYTES: usize = 15;
const PASSWORD_CHARS_GOOD: usize = 10;
const INITIAL_PASSWORD: &str = "initial-password";
const PASSWORD_VARIABLE: &str = "LIGHTNVR_ADMIN_PASSWORD";

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
    let root = PathBuf::from(&loaded.settings.storage_path);
    record_check::check(&store, &real_disk::opener(), &root).map_err(|error| error.to_string())
}

/// Runs `lightnvr check --rebuild`.
pub fn rebuild(data_dir: &Path, storage: Option<PathBuf>) -> ExitCode {
    match try_rebuild(data_dir, storage) {
        Ok(done) => {
            println!("{done}");
            ExitCode::SUCCESS
        }
        Err(message) => {
            eprintln!("lightnvr: {message}");
            ExitCode::FAILURE
        }
    }
}

fn try_rebuild(data_dir: &Path, storage: Option<PathBuf>) -> Result<String, String> {
    let data_dir =
        data_dir.canonicalize().map_err(|error| format!("{}: {error}", data_dir.display()))?;
    let _lock = lock(&data_dir, true)?;
    let opened = damage::open_or_begin_anew(&data_dir, &default_storage(&data_dir));
    let (store, mut loaded, lost) = opened.map_err(|error| error.to_string())?;
    if let Some(Lost { why, .. }) = lost {
        println!("{why}; kept as {}", data_dir.join(damage::BROKEN[0]).display());
    }
    if let Some(storage) = storage {
        let storage =
            storage.canonicalize().map_err(|error| format!("{}: {error}", storage.display()))?;
        loaded.settings.storage_path = storage.to_string_lossy().into_owned();
        let change = Change::PutSettings(loaded.settings.clone());
        store.commit(&[change]).map_err(|error| error.to_string())?;
    }
    let root = PathBuf::from(&loaded.settings.storage_path);
    let rebuilt = rebuild::rebuild(&store, &real_disk::opener(), &root, loaded.next_recording_id);
    rebuilt.map_err(|error| format!("{}: {error}", root.display()))
}

fn default_storage(data_dir: &Path) -> String {
    data_dir.join("recordings").to_string_lossy().into_owned()
}

/// A damaged store has made room for this one: says so, and knows the storage again that the old one knew.
fn begin_anew(store: &Store, lost: &Lost, loaded: &Loaded) {
    let what = if lost.has_copy { "rows of recordings" } else { "streams, settings and rows" };
    log::error!("{}; it is kept as {}, {what} begin anew", lost.why, damage::BROKEN[0]);
    let root = Path::new(&loaded.settings.storage_path);
    if !lost.has_copy
        && let Err(error) = storage::attach(&real_disk::opener(), store, root, Consent::Adopt)
    {
        log::warn!("{}: {error}", root.display());
    }
}

/// Stores a new password of user admin while no recorder runs: `lightnvr init` does, for an owner who holds the card.
pub fn set_password(data_dir: &Path, password: &str) -> Result<(), String> {
    let password = checked_password("password", password)?;
    let data_dir = absolute(data_dir)?;
    let _lock = lock(&data_dir, true)?;
    let store = Store::open(&data_dir).map_err(|error| error.to_string())?;
    let change = Change::PutPassword(auth::hash_password(&password));
    store.commit(&[change]).map_err(|error| error.to_string())?;
    match std::fs::remove_file(data_dir.join(INITIAL_PASSWORD)) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            Err(format!("{INITIAL_PASSWORD}: {error}"))
        }
        _ => Ok(()),
    }
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
    let opened = damage::open_or_begin_anew(&data_dir, &default_storage(&data_dir));
    let (store, mut loaded, lost) = opened.map_err(|error| error.to_string())?;
    if let Some(lost) = &lost {
        begin_anew(&store, lost, &loaded);
    }
    store.keep_copy();
    let phc = match loaded.password_phc.take() {
        Some(phc) => phc,
        None => first_password(&args, &data_dir, &store)?,
    };
    let root = PathBuf::from(&loaded.settings.storage_path);
    let down = ledger::last_alive(&store, &loaded.streams).map_err(|error| error.to_string())?;
    let next_recording_id = loaded.next_recording_id;
    if args.is_demo && loaded.streams.is_empty() {
        loaded.streams.push(add_demo(&store, loaded.next_stream_id)?);
    }
    let down = ledger::begin(&store, &loaded.streams, down).map_err(|error| error.to_string())?;
    let executor = Rc::new(LocalExecutor::new());
    let disks = Disks::default();
    let store_pool = smol::block_on(disks.pool_for(&data_dir));
    let store_pool = store_pool.map_err(|error| format!("disk thread: {error}"))?;
    let codec_threads = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    let codec_threads = codec_threads.saturating_sub(1).clamp(1, CODEC_THREADS_MAX);
    let codec = Pool::start("codec", codec_threads, CODEC_JOBS_MAX)
        .map_err(|error| format!("codec thread: {error}"))?;
    let auth = Auth::new(phc, codec.clone());
    if data_dir.join(INITIAL_PASSWORD).exists() {
        auth.mark_initial();
    }
    let parts = Parts {
        executor: Rc::clone(&executor),
        auth: Rc::new(auth),
        live: Rc::new(Live::new(
            live_config(&loaded.settings),
            Pictures::new(Rc::clone(&executor), codec.clone()),
        )),
        codec,
        recordings: OpenRecordings::new(
            store,
            store_pool,
            disks,
            real_disk::opener(),
            root,
            next_recording_id,
        ),
        buffers: Buffers::new(borrowed_bytes_max(), started),
        cell: SnapshotCell::new(Snapshot {
            streams: Vec::new(),
            settings: loaded.settings.clone(),
            running: Vec::new(),
            ailments: Vec::new(),
            ledger: Vec::new(),
            forecast: Vec::new(),
            is_initial_password: false,
            at_ms: 0,
        }),
        started,
    };
    let main = serve_all(args, data_dir, parts, loaded, (down, lost));
    drive::block_on(executor.run(main))
}

/// Runs until a signal comes.
async fn serve_all(
    args: RunArgs,
    data_dir: PathBuf,
    parts: Parts,
    loaded: Loaded,
    (down, lost): (Option<ledger::Down>, Option<Lost>),
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
    let desk = Arc::new(Desk::new(args.update_dir.clone()));
    let ctx = crate::api::Ctx {
        snapshot: parts.cell.clone(),
        commands,
        store: parts.recordings.store.reader(),
        started: parts.started,
        machine: Arc::new(move || measured.stats()),
        cameras: Arc::new(v4l2_devices::list),
        desk: Arc::clone(&desk),
    };
    let server = serve::start(&data_dir.join("run").join("api.sock"), Arc::new(ctx))
        .map_err(|error| format!("API: {error}"))?;
    let (listeners, listener_receiver) = bounded(1);
    listeners.send(listening).await.map_err(|error| error.to_string())?;
    // A disk that does not answer delays nobody else.
    parts.recordings.look_at_storage().or(wait::pause(STORAGE_PATIENCE)).await;
    let nvr = Nvr::new(parts, loaded.settings, loaded.next_stream_id);
    nvr.set_down(down);
    nvr.set_lost(lost);
    memory::lock();
    for config in loaded.streams {
        nvr.add_stream(config);
    }
    nvr.publish();
    let mut gate_config = GateConfig::new(
        server.socket().to_owned(),
        nvr.parts.cell.clone(),
        Rc::clone(&nvr.parts.auth),
        rustix::system::uname().nodename().to_string_lossy().into_owned(),
    );
    gate_config.live = Some(Rc::<Live>::clone(&nvr.parts.live));
    let intake = Intake::new(desk, &data_dir);
    gate_config.orders = Some(Rc::new(Orders::new(Rc::clone(&nvr), intake)));
    let gate = Gate::new(gate_config);
    let applier = Applier {
        nvr: Rc::clone(&nvr),
        listeners: args.listen.is_none().then(|| listeners.clone()),
        initial_password: data_dir.join(INITIAL_PASSWORD),
    };
    let mut tasks = vec![
        executor.spawn(applier.run(command_receiver)),
        executor.spawn(Rc::clone(&nvr).keep_published()),
        executor.spawn(Rc::clone(&nvr).keep_synced()),
        executor.spawn(Rc::clone(&nvr).keep_retained()),
        executor.spawn(Rc::clone(&nvr).keep_clock()),
        executor.spawn(gauges.keep_measured(Rc::clone(&nvr))),
        executor.spawn(keep_storage(Rc::clone(&nvr))),
        executor.spawn(Rc::clone(&nvr.parts.buffers).run()),
        executor.spawn(Rc::clone(&nvr).keep_swap_file()),
        executor.spawn(Rc::clone(&nvr).keep_memory_watched()),
        executor.spawn(Rc::clone(&nvr.parts.live).keep_trimmed()),
    ];
    let gate_executor = Rc::clone(&executor);
    let redirect = args.redirect_port.and_then(redirect_listener);
    tasks.push(executor.spawn(async move {
        gate.serve(&gate_executor, listener_receiver, redirect).await;
    }));
    settled(&nvr).or(wait::pause(RECOVERY_PATIENCE)).await;
    let mut terminated = Box::pin(signal::terminated());
    // From here on a signal ends the program in order, also one that comes with the ready line.
    let early = smol::future::poll_once(&mut terminated).await;
    say(&format!("LightNVR {} ready: http://{bound}/", crate::VERSION));
    let port = args.listen.map(|_| bound.port());
    tasks.push(executor.spawn(Rc::clone(&nvr).keep_notified(port)));
    let name = match early {
        Some(name) => name,
        // In a task of its own: this one is polled with every other.
        None => executor.spawn(terminated).await,
    };
    log::info!("{}: stopping", name.map_err(|error| format!("signals: {error}"))?);
    let stopped = async {
        nvr.stop_all().await;
        nvr.flush_ledger().await;
    };
    stopped.or(wait::pause(SHUTDOWN_MAX)).await;
    drop((tasks, server));
    log_thread::flush();
    Ok(())
}

/// The page is worth more than the way to it: without the second port the program runs all the same.
fn redirect_listener(port: u16) -> Option<listener::Listener> {
    let listening = listener::listen((Ipv4Addr::UNSPECIFIED, port).into());
    listening.inspect_err(|error| log::error!("redirect from port {port}: {error}")).ok()
}

async fn keep_storage(nvr: Rc<Nvr>) {
    nvr.parts.recordings.keep_storage().await;
}

/// Resolves when what an earlier life left is settled.
async fn settled(nvr: &Nvr) {
    while !nvr.parts.recordings.is_compared() {
        wait::pause(RECOVERY_LOOK).await;
    }
}

/// What all streams together may borrow when the disk does not keep up.
fn borrowed_bytes_max() -> usize {
    let available_kib = stats::memory().map_or(0, |memory| memory.available_kib);
    usize::try_from(available_kib * 1024 / BORROWED_PART).unwrap_or(usize::MAX)
}

/// A line on standard output; a closed pipe is no reason to stop recording.
fn say(line: &str) {
    let _ = writeln!(std::io::stdout(), "{line}");
    let _ = std::io::stdout().flush();
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
    match &args.admin_password_file {
        Some(path) => {
            let from = format!("--admin-password-file {}", path.display());
            let text = std::fs::read_to_string(path).map_err(|error| format!("{from}: {error}"))?;
            checked_password(&from, text.trim_end_matches(['\r', '\n'])).map(Some)
        }
        None => password_of_variable(std::env::var_os(PASSWORD_VARIABLE)),
    }
}

fn password_of_variable(value: Option<OsString>) -> Result<Option<String>, String> {
    let Some(value) = value else { return Ok(None) };
    let text = value.to_str().ok_or_else(|| format!("{PASSWORD_VARIABLE}: is not UTF-8"))?;
    checked_password(PASSWORD_VARIABLE, text).map(Some)
}

/// The same rules as for a changed password, but that a short one is only warned of. The message
/// repeats nothing of it.
fn checked_password(from: &str, password: &str) -> Result<String, String> {
    if password.is_empty() {
        return Err(format!("{from}: the password is empty"));
    }
    if password.len() > PASSWORD_BYTES_MAX {
        let got = password.len();
        return Err(format!(
            "{from}: the password must be at most {PASSWORD_BYTES_MAX} bytes, got {got}"
        ));
    }
    if password.chars().any(char::is_control) {
        return Err(format!(
            "{from}: the password must be one line and not hold control characters"
        ));
    }
    Ok(password.to_owned())
}

fn random_password() -> Result<String, String> {
    use base64::Engine;
    let mut bytes = [0; PASSWORD_BYTES];
    getrandom::fill(&mut bytes).map_err(|error| format!("random numbers: {error}"))?;
    Ok(base64::engine::general_purpose::URL_SAFE_NO_PAD.encode(bytes))
}

#[cfg(test)]
mod tests {
    use std::os::unix::ffi::OsStringExt;

    use super::*;

    #[test]
    fn a_given_password_obeys_the_rules_of_a_changed_one() {
        assert_eq!(checked_password("here", "päss"), Ok("päss".to_owned()));
        assert_eq!(checked_password("here", &"x".repeat(256)), Ok("x".repeat(256)));
        for (password, part) in [
            (String::new(), "empty"),
            ("secret".repeat(43), "at most 256 bytes, got 258"),
            ("secret\nsecret".into(), "control characters"),
            ("secret\u{7f}".into(), "control characters"),
        ] {
            let error = checked_password("here", &password).expect_err("refused");
            assert!(error.starts_with("here: ") && error.contains(part), "{error}");
            assert!(!error.contains("secret"), "{error}");
        }
    }

    #[test]
    fn a_variable_that_is_no_text_is_an_error() {
        assert_eq!(password_of_variable(None), Ok(None));
        assert_eq!(password_of_variable(Some("päss".into())), Ok(Some("päss".to_owned())));
        let error = password_of_variable(Some(OsString::from_vec(b"p\xff".to_vec())));
        assert_eq!(error, Err("LIGHTNVR_ADMIN_PASSWORD: is not UTF-8".to_owned()));
        assert!(password_of_variable(Some(OsString::new())).is_err(), "set, but to nothing");
    }
}
