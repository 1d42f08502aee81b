//! Carries out commands, one after the other: check against the whole state, make durable, put into force.
//!
//! The order is the promise of the API: `Ok` means that the change is on the medium and in the snapshot.

use std::io::ErrorKind;
use std::path::Path;
use std::rc::Rc;
use std::time::Duration;

use smol::channel::{Receiver, Sender};
use smol::future::FutureExt;

use super::command::{Command, CommandError, Reply};
use super::snapshot::StreamView;
use super::state::Nvr;
use super::swap::{SwapChange, SwapError};
use crate::config::FieldError;
use crate::config::settings::{Settings, SettingsPatch};
use crate::config::stream::{StreamConfig, StreamPatch};
use crate::http::listener::Listener;
use crate::record::RecordError;
use crate::record::retention::{self, Doomed};
use crate::store::Change;
use crate::store::row::RecordingRow;
use crate::store::spans::Life;
use crate::system::clock;
use crate::system::pool::PoolError;
use crate::system::wait;

/// A command waits no longer for a path, such as that of a server that is gone: others are behind it. Less than the API
/// waits for the command.
const PATIENCE: Duration = Duration::from_secs(3);

/// What only the commands need.
pub struct Applier {
    pub nvr: Rc<Nvr>,
    /// Where a listener for a changed `web_port` goes; `None` when `--listen` overrides the setting.
    pub listeners: Option<Sender<Listener>>,
    /// Removed when the password is changed.
    pub initial_password: std::path::PathBuf,
}

/// Settings that were checked, with what they need.
pub(super) struct Prepared {
    settings: Settings,
    swap: SwapChange,
    /// Of a changed `web_port`.
    listener: Option<Listener>,
}

impl Prepared {
    /// What is to be committed; nothing if they are as they were.
    pub(super) fn change(&self, was: &Settings) -> Vec<Change> {
        let is_new = self.settings != *was;
        is_new.then(|| Change::PutSettings(self.settings.clone())).into_iter().collect()
    }
}

fn bad_field(field: &'static str, what: impl Into<String>) -> CommandError {
    CommandError::BadField(FieldError { field, what: what.into() })
}

fn internal(error: &RecordError) -> CommandError {
    log::error!("command: {error}");
    match error {
        RecordError::Pool(PoolError::Full) => {
            CommandError::Busy { what: "the disk is busy".into(), retry_after_s: 5 }
        }
        _ => CommandError::Internal,
    }
}

/// What needs a storage that is not there, or does not take it, can be tried again.
fn no_storage(error: &RecordError) -> CommandError {
    log::warn!("command: {error}");
    CommandError::Busy { what: error.for_owner().to_owned(), retry_after_s: 5 }
}

/// The end of `work`, or that `what` does not answer. It must be able to end anywhere.
async fn patiently<T>(
    what: &str,
    work: impl Future<Output = Result<T, CommandError>>,
) -> Result<T, CommandError> {
    let too_long = async {
        wait::pause(PATIENCE).await;
        Err(silent(what))
    };
    work.or(too_long).await
}

fn silent(what: &str) -> CommandError {
    let what = format!("{what} does not answer: its disk or its server is stuck or gone");
    CommandError::Busy { what, retry_after_s: 5 }
}

fn answer<T>(reply: &Reply<T>, result: Result<T, CommandError>) {
    // A client that has gone away does not want the answer any more.
    let _ = reply.try_send(result);
}

impl Applier {
    /// Carries out commands for ever.
    pub async fn run(self, commands: Receiver<Command>) {
        while let Ok(command) = commands.recv().await {
            if command.is_wanted() {
                self.apply(command).await;
            }
        }
    }

    async fn apply(&self, command: Command) {
        match command {
            Command::CreateStream { patch, reply } => {
                answer(&reply, self.create_stream(&patch).await);
            }
            Command::UpdateStream { id, patch, reply } => {
                answer(&reply, self.update_stream(id, &patch).await);
            }
            Command::DeleteStream { id, reply } => answer(&reply, self.delete_stream(id).await),
            Command::DeleteRecording { id, reply } => {
                answer(&reply, self.delete_recording(id).await);
            }
            Command::ProtectRecording { id, is_protected, reply } => {
                answer(&reply, self.protect_recording(id, is_protected).await);
            }
            Command::AdoptStorage { reply } => answer(&reply, self.adopt_storage().await),
            Command::UpdateSettings { patch, reply } => match self.update_settings(&patch).await {
                Ok((settings, listener)) => {
                    answer(&reply, Ok(settings));
                    if let (Some(listeners), Some(listener)) = (&self.listeners, listener) {
                        let _ = listeners.send(listener).await;
                    }
                }
                Err(error) => answer(&reply, Err(error)),
            },
            Command::Restore { backup, reply } => match self.restore(&backup).await {
                Ok(listener) => {
                    answer(&reply, Ok(()));
                    if let (Some(listeners), Some(listener)) = (&self.listeners, listener) {
                        let _ = listeners.send(listener).await;
                    }
                }
                Err(error) => answer(&reply, Err(error)),
            },
            Command::ChangePassword { current, new, session, reply } => {
                answer(&reply, self.change_password(&current, &new, session).await);
            }
        }
    }

    async fn commit(&self, change: Change) -> Result<(), CommandError> {
        self.commit_all(vec![change]).await
    }

    pub(super) async fn commit_all(&self, changes: Vec<Change>) -> Result<(), CommandError> {
        let committed = self.nvr.parts.recordings.commit(changes).await;
        committed.map_err(|error| internal(&error))
    }

    fn published(&self, id: u32) -> Result<StreamView, CommandError> {
        self.nvr.publish();
        self.nvr.stream_view(id).ok_or(CommandError::NotFound("Stream not found"))
    }

    fn check_name(&self, config: &StreamConfig) -> Result<(), CommandError> {
        match self.nvr.stream_named(&config.name) {
            Some(other) if other != config.id => Err(bad_field(
                "name",
                format!("stream {other} has this name already; names are unique"),
            )),
            _ => Ok(()),
        }
    }

    async fn create_stream(&self, patch: &StreamPatch) -> Result<StreamView, CommandError> {
        let id = self.free_stream_id().await?;
        let config = StreamConfig::from_patch(id, patch).map_err(CommandError::BadField)?;
        self.check_name(&config)?;
        let max = usize::from(self.nvr.settings().max_streams);
        if self.nvr.stream_count() >= max {
            let what =
                format!("there are {max} streams already; the setting max_streams allows no more");
            return Err(bad_field("max_streams", what));
        }
        let life = Life { stream_id: id, created_ms: clock::wall_ms(), removed_ms: None };
        self.commit_all(vec![Change::PutStream(config.clone()), Change::PutLife(life)]).await?;
        self.nvr.add_stream(config);
        self.published(id)
    }

    /// An id that no stream had before, not even one that only recordings know of.
    pub(super) async fn free_stream_id(&self) -> Result<u32, CommandError> {
        let recordings = &self.nvr.parts.recordings;
        let reader = recordings.store.reader();
        let stored = recordings.store_pool.run(move || reader.next_stream_id()).await;
        let stored =
            stored.map_err(RecordError::Pool).and_then(|id| id.map_err(RecordError::Store));
        let stored = stored.map_err(|error| internal(&error))?;
        Ok(self.nvr.peek_stream_id().max(stored).max(recordings.stream_id_floor()))
    }

    async fn update_stream(
        &self,
        id: u32,
        patch: &StreamPatch,
    ) -> Result<StreamView, CommandError> {
        let was = self.nvr.stream_config(id).ok_or(CommandError::NotFound("Stream not found"))?;
        let config = was.patched(patch).map_err(CommandError::BadField)?;
        self.check_name(&config)?;
        if config != was {
            self.commit(Change::PutStream(config.clone())).await?;
            self.nvr.change_stream(config).await;
            self.nvr.wake_retention();
        }
        self.published(id)
    }

    async fn delete_stream(&self, id: u32) -> Result<(), CommandError> {
        self.nvr.stream_config(id).ok_or(CommandError::NotFound("Stream not found"))?;
        let now_ms = clock::wall_ms();
        let life = self.nvr.parts.recordings.store.reader().life(id);
        let created_ms = life.ok().flatten().map_or(now_ms, |life| life.created_ms);
        let life = Life { stream_id: id, created_ms, removed_ms: Some(now_ms) };
        self.commit_all(vec![Change::RemoveStream(id), Change::PutLife(life)]).await?;
        self.nvr.remove_stream(id).await;
        self.nvr.publish();
        Ok(())
    }

    async fn delete_recording(&self, id: u64) -> Result<(), CommandError> {
        let recordings = &self.nvr.parts.recordings;
        if recordings.is_open(id) {
            return Err(bad_field(
                "id",
                "this recording is still being written; it can be deleted once it is finished",
            ));
        }
        let row = self.recording(id).await?;
        let doomed = vec![Doomed { id, path: row.path }];
        retention::trash(recordings, &doomed).await.map_err(|error| no_storage(&error))?;
        let remove = async {
            let removed = retention::remove_files(recordings, doomed).await;
            removed.map_err(|error| no_storage(&error))
        };
        // Whoever comes behind does not wait for a disk that never answers.
        let leave = async {
            wait::pause(PATIENCE).await;
            log::warn!("recording {id} is deleted; its file will go when its disk answers");
            Ok(())
        };
        remove.or(leave).await?;
        self.nvr.wake_retention();
        Ok(())
    }

    async fn recording(&self, id: u64) -> Result<RecordingRow, CommandError> {
        let recordings = &self.nvr.parts.recordings;
        let reader = recordings.store.reader();
        let found = recordings.store_pool.run(move || reader.recording(id)).await;
        found
            .map_err(RecordError::Pool)
            .and_then(|found| found.map_err(RecordError::Store))
            .map_err(|error| internal(&error))?
            .ok_or(CommandError::NotFound("Recording not found"))
    }

    async fn protect_recording(&self, id: u64, is_protected: bool) -> Result<(), CommandError> {
        let recordings = &self.nvr.parts.recordings;
        let is_open = recordings.protect_open(id, is_protected).await;
        if !is_open.map_err(|error| internal(&error))? {
            if recordings.is_open(id) {
                let what = "the recording is being finished".into();
                return Err(CommandError::Busy { what, retry_after_s: 1 });
            }
            let row = self.recording(id).await?;
            if row.is_protected != is_protected {
                let row = RecordingRow { is_protected, ..row };
                self.commit(Change::PutRecording(row)).await?;
            }
        }
        self.nvr.publish();
        self.nvr.wake_retention();
        Ok(())
    }

    async fn adopt_storage(&self) -> Result<(), CommandError> {
        let adopt = async {
            let adopted = self.nvr.parts.recordings.adopt().await;
            adopted.map_err(|error| no_storage(&error))
        };
        let adopted = patiently("storage_path", adopt).await;
        self.nvr.publish();
        adopted
    }

    async fn update_settings(
        &self,
        patch: &SettingsPatch,
    ) -> Result<(Settings, Option<Listener>), CommandError> {
        let was = self.nvr.settings();
        let prepared = self.prepare_settings(&was, was.patched(patch)).await?;
        let changes = prepared.change(&was);
        let settings = prepared.settings.clone();
        if !changes.is_empty() {
            self.commit_all(changes).await?;
        }
        let listener = self.enforce_settings(&was, prepared).await;
        Ok((settings, listener))
    }

    /// Checks settings against the whole state and makes ready what they need.
    pub(super) async fn prepare_settings(
        &self,
        was: &Settings,
        settings: Settings,
    ) -> Result<Prepared, CommandError> {
        let streams = self.nvr.stream_count();
        if usize::from(settings.max_streams) < streams {
            return Err(bad_field(
                "max_streams",
                format!("there are {streams} streams; it must be {streams} to 512"),
            ));
        }
        if settings.storage_path != was.storage_path {
            patiently("storage_path", self.probe_storage(&settings.storage_path)).await?;
        }
        let swap = patiently("swap_path", self.prepare_swap(was, &settings)).await?;
        let mut listener = None;
        if settings.web_port != was.web_port && self.listeners.is_some() {
            let address = (std::net::Ipv4Addr::UNSPECIFIED, settings.web_port).into();
            let bound = crate::http::listener::listen(address);
            listener = Some(bound.map_err(|error| {
                let port = settings.web_port;
                bad_field(
                    "web_port",
                    format!(
                        "port {port} can't be bound ({}); choose another from 1 to 65535",
                        error.kind()
                    ),
                )
            })?);
        }
        Ok(Prepared { settings, swap, listener })
    }

    /// Puts settings into force that are in the store; gives the listener of a changed port.
    pub(super) async fn enforce_settings(
        &self,
        was: &Settings,
        prepared: Prepared,
    ) -> Option<Listener> {
        let Prepared { settings, swap, listener } = prepared;
        if settings != *was {
            if settings.storage_path != was.storage_path {
                let root = Path::new(&settings.storage_path).to_path_buf();
                // Why not is in the state of the streams and in /healthz.
                let _ = self.nvr.parts.recordings.move_to(root).await;
            }
            self.nvr.change_settings(settings);
            self.nvr.use_swap(swap).await;
            self.nvr.wake_retention();
            self.nvr.publish();
        }
        listener
    }

    /// The swap file that the changed settings want, made before they are in force.
    async fn prepare_swap(
        &self,
        was: &Settings,
        is: &Settings,
    ) -> Result<SwapChange, CommandError> {
        self.nvr.prepare_swap(was, is).await.map_err(|what| match what {
            SwapError::File(what) => bad_field("swap_path", what),
            SwapError::Size(what) => bad_field("swap_size", what),
            SwapError::Busy => CommandError::Busy {
                what: "earlier swap files are still read".into(),
                retry_after_s: 5,
            },
        })
    }

    async fn probe_storage(&self, path: &str) -> Result<(), CommandError> {
        let probed = self.nvr.parts.recordings.probe(Path::new(path).to_path_buf()).await;
        probed.map_err(|error| match error {
            // So many do not answer that this one is not asked.
            RecordError::Disk { kind: ErrorKind::WouldBlock, .. } => silent("storage_path"),
            RecordError::Disk { kind, .. } => bad_field(
                "storage_path",
                format!("can't be created or written ({kind}); it must be an absolute path of a writable directory"),
            ),
            other => internal(&other),
        })
    }

    async fn change_password(
        &self,
        current: &str,
        new: &str,
        session: Option<u64>,
    ) -> Result<(), CommandError> {
        let auth = &self.nvr.parts.auth;
        let busy = || CommandError::Busy {
            what: "too many passwords are being checked".into(),
            retry_after_s: 1,
        };
        if !auth.verify_password(current).await.map_err(|_| busy())? {
            return Err(CommandError::WrongPassword);
        }
        let phc = auth.hash(new).await.map_err(|_| busy())?;
        self.commit(Change::PutPassword(phc.clone())).await?;
        auth.set_hash(phc, session);
        self.nvr.publish();
        if let Err(error) = std::fs::remove_file(&self.initial_password)
            && error.kind() != std::io::ErrorKind::NotFound
        {
            log::warn!("the initial password's file could not be removed: {error}");
        }
        Ok(())
    }
}
