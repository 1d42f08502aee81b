//! The REST API: text in, a reply out.
//!
//! In here: `answer`, which checks a request in the contract's order (route, method, media type, body)
//! and calls one handler per resource. A handler is a plain function of `(&Ctx, input)`; reads use the
//! snapshot and the store, writes are commands (ONE-OWNER). Not in here: sockets (`serve.rs`), and what
//! the gate has done before: framing, `Host`, rate, authentication, `Origin` (`http/`).

pub mod backup;
pub mod devices;
pub mod error;
pub mod export;
pub mod health;
pub mod json;
pub mod ledger;
pub mod openapi;
pub mod page;
pub mod password;
pub mod pictures;
pub mod query;
pub mod recording_list;
pub mod recordings;
pub mod render;
pub mod route;
pub mod serve;
pub mod session;
pub mod settings;
pub mod storage;
pub mod streaming;
pub mod streams;
pub mod system;
pub mod system_log;
pub mod trial;
pub mod update;
pub mod wire;

use std::fmt;
use std::sync::Arc;
use std::time::Instant;

use crate::config::device::LocalCamera;
use crate::nvr::command::CommandSender;
use crate::nvr::snapshot::SnapshotCell;
use crate::store::StoreReader;
use crate::update::desk::Desk;
use error::ApiError;
use json::Fields;
use route::{Method, Route};

/// What `/proc` and the recordings' filesystem say; taken without waiting.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct MachineStats {
    /// Percent of all cores.
    pub cpu_usage: f64,
    /// Percent of RAM that is not available.
    pub memory_usage: f64,
    /// Bytes that an unprivileged program may use in all.
    pub storage_total: u64,
    /// Bytes that an unprivileged program may still use.
    pub storage_free: u64,
    /// Bytes that the program wrote to disks since it began, if the kernel counts them.
    pub bytes_written: Option<u64>,
}

/// What the handlers see of the recorder.
pub struct Ctx {
    pub snapshot: SnapshotCell,
    pub commands: CommandSender,
    pub store: StoreReader,
    /// When the program began: the zero of `Snapshot::at_ms`.
    pub started: Instant,
    /// Must not block: it answers the newest sample.
    pub machine: Arc<dyn Fn() -> MachineStats + Send + Sync>,
    /// Asks the drivers of the cameras on this machine, which may take a second; `None` while another thread does.
    pub cameras: Arc<dyn Fn() -> Option<Vec<LocalCamera>> + Send + Sync>,
    pub desk: Arc<Desk>,
}

impl fmt::Debug for Ctx {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Ctx").field("started", &self.started).finish_non_exhaustive()
    }
}

/// One request as the handlers need it; the body is complete.
#[derive(Clone, Copy, Debug)]
pub struct Request<'a> {
    pub method: Method,
    /// Path and query as sent.
    pub target: &'a str,
    pub content_type: Option<&'a str>,
    pub accept_encoding: Option<&'a str>,
    pub body: &'a [u8],
    /// Bytes of a body that is still on the client's connection.
    pub length: Option<u64>,
    /// The session that sent it, if it came with a cookie.
    pub session: Option<u64>,
    /// Sent by the gate itself to fetch the next page of a list.
    pub is_follow_up: bool,
}

/// A successful answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Reply {
    /// A whole JSON document.
    Json(String),
    Bytes {
        content_type: &'static str,
        body: &'static [u8],
        headers: &'static [(&'static str, &'static str)],
    },
    /// A piece of a JSON document; `next` is the target whose answer follows it without a gap.
    Page { body: String, next: Option<String> },
    /// A file that the gate sends, with ranges and conditions.
    File(FileReply),
    /// Plain text.
    Text(String),
    /// The gate checks `credentials` (`user:password`) and answers `body` with a cookie, or why not.
    LogIn { credentials: String, body: String },
    /// The gate ends the session of the request.
    LogOut,
    /// The recorder itself serves the connection.
    Order(wire::Order),
    /// The live service serves the connection itself.
    Live(wire::LiveOrder),
}

/// What the gate needs to send a file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FileReply {
    /// Absolute path.
    pub path: String,
    /// Bytes from the start that may be sent: what is synced of a running recording.
    pub size: u64,
    /// With its quotes.
    pub etag: String,
    /// Unix seconds.
    pub modified_s: i64,
    pub content_type: &'static str,
    /// Value of `Content-Disposition`.
    pub disposition: String,
}

/// Answers one request.
pub fn answer(ctx: &Ctx, request: &Request<'_>) -> Result<Reply, ApiError> {
    let (path, query) = match request.target.split_once('?') {
        Some((path, query)) => (path, query),
        None => (request.target, ""),
    };
    let route = route::parse_route(path);
    if route == Route::NotFound {
        return Err(ApiError::NotFound("Not found"));
    }
    if !route.methods().contains(&request.method) {
        return Err(ApiError::MethodNotAllowed { allow: route.allow() });
    }
    match request.method {
        // There is nothing to say beside the path.
        Method::Post if route == Route::AdoptStorage && request.body.is_empty() => {
            storage::adopt(ctx)
        }
        Method::Post if route == Route::Update => update::post(ctx, request),
        Method::Post | Method::Put => change(ctx, route, request, &read_fields(request)?),
        Method::Delete => delete(ctx, route),
        _ => match route {
            Route::Asset(asset) => Ok(page::get(asset, request.accept_encoding)),
            _ => read(ctx, route, query, request.is_follow_up),
        },
    }
}

fn read(ctx: &Ctx, route: Route, query: &str, is_follow_up: bool) -> Result<Reply, ApiError> {
    match route {
        Route::Streams => Ok(streams::list(ctx)),
        Route::Stream(id) => streams::get(ctx, id),
        Route::Export(id) => export::get(ctx, id, &query::parse_export(query)?),
        Route::Ledger(id) => ledger::get(ctx, id, &query::parse_ledger(query)?),
        Route::Recordings => {
            recording_list::list(ctx, &query::parse_recordings(query, is_follow_up)?)
        }
        Route::Recording(id) => recordings::get(ctx, id),
        Route::Download(id) => recordings::download(ctx, id),
        Route::Devices => devices::list(ctx),
        Route::System => system::get(ctx),
        Route::Backup => backup::get(ctx, query),
        Route::SystemLog => Ok(system_log::get()),
        Route::Update => Ok(update::get(ctx)),
        Route::Settings => Ok(settings::get(ctx)),
        Route::Session => Ok(session::get(ctx)),
        Route::Hls(id, file) => streaming::hls(ctx, id, file, query),
        Route::LiveSocket(id) => streaming::socket(ctx, id, query),
        Route::Mjpeg(id) => pictures::mjpeg(ctx, id, query),
        Route::Snapshot(id) => pictures::snapshot(ctx, id, query),
        Route::OpenApi => Ok(openapi::get()),
        Route::Health => health::get(ctx),
        Route::Asset(_)
        | Route::Password
        | Route::AdoptStorage
        | Route::StreamTest
        | Route::NotFound => Err(ApiError::NotFound("Not found")),
    }
}

fn change(
    ctx: &Ctx,
    route: Route,
    request: &Request<'_>,
    fields: &Fields,
) -> Result<Reply, ApiError> {
    match route {
        Route::Streams => streams::create(ctx, fields),
        Route::StreamTest => trial::test(ctx, fields),
        Route::Backup => backup::put(ctx, fields),
        Route::Stream(id) => streams::update(ctx, id, fields),
        Route::Recording(id) => recordings::update(ctx, id, fields),
        Route::Settings => settings::update(ctx, fields),
        Route::Password => password::change(ctx, fields, request.session),
        Route::Session => session::open(ctx, fields),
        Route::AdoptStorage => storage::adopt(ctx),
        _ => Err(ApiError::NotFound("Not found")),
    }
}

fn delete(ctx: &Ctx, route: Route) -> Result<Reply, ApiError> {
    match route {
        Route::Stream(id) => streams::delete(ctx, id),
        Route::Recording(id) => recordings::delete(ctx, id),
        Route::Session => Ok(session::close()),
        _ => Err(ApiError::NotFound("Not found")),
    }
}

/// The body as fields. An empty body has no media type to be wrong, so it is a bad body.
fn read_fields(request: &Request<'_>) -> Result<Fields, ApiError> {
    if !request.body.is_empty() && !request.content_type.is_some_and(is_json) {
        return Err(ApiError::MediaType("application/json"));
    }
    Fields::parse(request.body)
}

/// Whether a `Content-Type` is JSON; parameters don't matter (RFC 8259 section 11 knows none).
fn is_json(content_type: &str) -> bool {
    let media_type = content_type.split(';').next().unwrap_or("").trim();
    media_type.eq_ignore_ascii_case("application/json")
}

/// What a change without a resource to show answers.
fn success() -> Reply {
    Reply::Json(r#"{"success":true}"#.to_owned())
}
