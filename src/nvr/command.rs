//! What other threads may ask of the executor: the only way to change anything.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use smol::channel::{Receiver, Sender, bounded};
use smol::future::FutureExt;

use super::snapshot::StreamView;
use crate::config::FieldError;
use crate::config::settings::{Settings, SettingsPatch};
use crate::config::stream::StreamPatch;
use crate::system::wait;

/// Commands that wait for the executor; a sender beyond that gets `Busy`.
pub const COMMANDS_MAX: usize = 32;

/// Why a command was not carried out; the API turns it into a status.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum CommandError {
    /// The owner's input breaks a rule that takes the whole state to check: 400.
    BadField(FieldError),
    /// The same of a field within a document: `place` is what holds it.
    BadPlace { place: String, error: FieldError },
    /// No such stream or recording: 404. The text is the whole message ("Stream not found").
    NotFound(&'static str),
    /// Not now; the same command may succeed later: 503.
    Busy { what: String, retry_after_s: u32 },
    /// The present password is wrong: 400 on `current`, counted as a wrong password.
    WrongPassword,
    /// The store could not be written; the cause is in the log: 500.
    Internal,
}

/// Settings and streams to be put back.
#[derive(Debug)]
pub struct Backup {
    pub settings: SettingsPatch,
    pub streams: Vec<StreamPatch>,
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
    /// Keeps a recording from automatic deletion, or no longer.
    ProtectRecording {
        id: u64,
        is_protected: bool,
        reply: Reply<()>,
    },
    /// Takes on the storage that is at the storage path.
    AdoptStorage {
        reply: Reply<()>,
    },
    Restore {
        backup: Backup,
        reply: Reply<()>,
    },
    UpdateSettings {
        patch: SettingsPatch,
        reply: Reply<Settings>,
    },
    ChangePassword {
        current: String,
        new: String,
        /// The session that asks, which goes on; all others end.
        session: Option<u64>,
        reply: Reply<()>,
    },
}

/// How long a thread of the API waits for a command: longer than any takes on a disk that answers.
const ANSWER_WITHIN: Duration = Duration::from_secs(5);
/// Threads that may wait that long; a further one waits for `IMPATIENT` only, so that reads find a thread.
pub const PATIENT_MAX: usize = 3;
const IMPATIENT: Duration = Duration::from_millis(300);

/// The sending side, held by the API's threads.
#[derive(Clone, Debug)]
pub struct CommandSender {
    commands: Sender<Command>,
    waiting: Arc<AtomicUsize>,
}

/// Makes the two ends of the command queue.
pub fn command_queue() -> (CommandSender, Receiver<Command>) {
    let (commands, rx) = bounded(COMMANDS_MAX);
    (CommandSender { commands, waiting: Arc::default() }, rx)
}

impl CommandSender {
    /// Sends the command that `make` builds around a reply channel and blocks this thread until it is
    /// answered, but not for ever: a stalled disk holds up commands, and then the answer is `Busy`. Such a command is
    /// left out if it has not begun (`Command::is_wanted`); one that has is still carried out. Never call it on the
    /// executor.
    pub fn ask<T>(&self, make: impl FnOnce(Reply<T>) -> Command) -> Result<T, CommandError> {
        let is_patient = self.waiting.fetch_add(1, Ordering::Relaxed) < PATIENT_MAX;
        let answer = self.ask_within(make, if is_patient { ANSWER_WITHIN } else { IMPATIENT });
        self.waiting.fetch_sub(1, Ordering::Relaxed);
        answer
    }

    fn ask_within<T>(
        &self,
        make: impl FnOnce(Reply<T>) -> Command,
        within: Duration,
    ) -> Result<T, CommandError> {
        let busy = |what: &str| CommandError::Busy { what: what.into(), retry_after_s: 1 };
        let (reply, answer) = bounded(1);
        self.commands.try_send(make(reply)).map_err(|_| busy("the recorder is busy"))?;
        let answered = async { answer.recv().await.ok() };
        let late = async {
            wait::pause(within).await;
            Some(Err(busy(
                "the recorder has not answered, perhaps a disk stalls; look before you try again",
            )))
        };
        smol::future::block_on(answered.or(late))
            .unwrap_or_else(|| Err(busy("the recorder is busy")))
    }
}

impl Command {
    /// Whether somebody still waits for the answer.
    pub fn is_wanted(&self) -> bool {
        !match self {
            Self::CreateStream { reply, .. } | Self::UpdateStream { reply, .. } => {
                reply.is_closed()
            }
            Self::DeleteStream { reply, .. }
            | Self::DeleteRecording { reply, .. }
            | Self::ProtectRecording { reply, .. }
            | Self::AdoptStorage { reply }
            | Self::Restore { reply, .. }
            | Self::ChangePassword { reply, .. } => reply.is_closed(),
            Self::UpdateSettings { reply, .. } => reply.is_closed(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_recorder_that_does_not_answer_holds_nobody_for_ever() {
        let (sender, inbox) = command_queue();
        let adopt = |reply| Command::AdoptStorage { reply };
        let answer = sender.ask_within(adopt, Duration::from_millis(1));
        assert!(matches!(answer, Err(CommandError::Busy { .. })), "{answer:?}");
        let command = inbox.try_recv().expect("it was sent");
        assert!(!command.is_wanted(), "who has gone does not want it any more");
        drop(inbox);
        assert!(matches!(sender.ask(adopt), Err(CommandError::Busy { .. })));
    }
}
