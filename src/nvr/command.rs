//! What other threads may ask of the executor: the only way to change anything.

use smol::channel::{Receiver, Sender, bounded};

use super::snapshot::StreamView;
use crate::config::FieldError;
use crate::config::settings::{Settings, SettingsPatch};
use crate::config::stream::StreamPatch;

/// Commands that wait for the executor; a sender beyond that gets `Busy`.
pub const COMMANDS_MAX: usize = 32;

/// Why a command was not carried out; the API turns it into a status.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum CommandError {
    /// The owner's input breaks a rule that takes the whole state to check: 400.
    BadField(FieldError),
    /// No such stream or recording: 404. The text is the whole message ("Stream not found").
    NotFound(&'static str),
    /// Not now; the same command may succeed later: 503.
    Busy { what: String, retry_after_s: u32 },
    /// The present password is wrong: 400 on `current`, counted as a wrong password.
    WrongPassword,
    /// The store could not be written; the cause is in the log: 500.
    Internal,
}

/// Where the answer to a command goes.
pub type Reply<T> = Sender<Result<T, CommandError>>;

/// A change, with the place for its answer. `Ok` is sent only once the change is durable and
/// visible in the snapshot.
#[derive(Debug)]
pub enum Command {
    CreateStream {
        patch: StreamPatch,
        reply: Reply<StreamView>,
    },
    UpdateStream {
        id: u32,
        patch: StreamPatch,
        reply: Reply<StreamView>,
    },
    DeleteStream {
        id: u32,
        reply: Reply<()>,
    },
    DeleteRecording {
        id: u64,
        reply: Reply<()>,
    },
    /// Takes on the storage that is at the storage path.
    AdoptStorage {
        reply: Reply<()>,
    },
    UpdateSettings {
        patch: SettingsPatch,
        reply: Reply<Settings>,
    },
    ChangePassword {
        current: String,
        new: String,
        reply: Reply<()>,
    },
}

/// The sending side, held by the API's threads.
#[derive(Clone, Debug)]
pub struct CommandSender(Sender<Command>);

/// Makes the two ends of the command queue.
pub fn command_queue() -> (CommandSender, Receiver<Command>) {
    let (tx, rx) = bounded(COMMANDS_MAX);
    (CommandSender(tx), rx)
}

impl CommandSender {
    /// Sends the command that `make` builds around a reply channel and blocks this thread until it is
    /// answered. Never call it on the executor.
    pub fn ask<T>(&self, make: impl FnOnce(Reply<T>) -> Command) -> Result<T, CommandError> {
        let busy = || CommandError::Busy { what: "the recorder is busy".into(), retry_after_s: 1 };
        let (reply, answer) = bounded(1);
        self.0.try_send(make(reply)).map_err(|_| busy())?;
        answer.recv_blocking().unwrap_or_else(|_| Err(busy()))
    }
}
