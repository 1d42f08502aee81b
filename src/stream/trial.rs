//! A look at a source that is no stream (yet): connect, watch for some seconds, say goodbye.
//!
//! In here: the run and its deadline. Not in here: what is counted (`trial_core.rs`), and how many trials
//! there may be at once (`nvr/trial.rs`). It is a session of its own beside those of the streams.

use std::cell::{Cell, RefCell};
use std::panic::AssertUnwindSafe;
use std::time::Duration;

use smol::future::FutureExt;

use super::supervisor::{Source, session};
use super::trial_core::{Facts, Progress, Trial};
use crate::config::stream::StreamConfig;
use crate::ingest::{IngestError, Unit};
use crate::system::pool::Pool;
use crate::system::wait::{self, stop_pair};

/// From the first byte to the last; with the goodbye and the picture a trial takes 10 s at most.
const TRIAL_MAX: Duration = Duration::from_millis(8500);
/// What the goodbye may take.
const GOODBYE_MAX: Duration = Duration::from_millis(700);

/// Why nothing can be said about a source.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TrialError {
    /// The source said so.
    Ingest(IngestError),
    /// It was over before that; so far it came.
    Late { progress: Progress, within: Duration },
}

/// Looks at the source of `config`. Dropping the future ends it, too.
pub async fn run(config: &StreamConfig, codec: &Pool) -> Result<(Facts, Unit), TrialError> {
    let source = Source::main(config);
    let (stopper, stop) = stop_pair();
    let stopper = Cell::new(Some(stopper));
    let trial = RefCell::new(Trial::default());
    let mut sink = |event| {
        let mut trial = trial.borrow_mut();
        trial.take(event);
        if trial.is_done() {
            drop(stopper.take());
        }
    };
    let ended = {
        let session = AssertUnwindSafe(session(&source, codec, &mut sink, &|| true, stop.asked()));
        let ended = async {
            session.catch_unwind().await.unwrap_or_else(|_| {
                Err(IngestError::Connection { what: "internal error, see the log".into() })
            })
        };
        let late = async {
            wait::pause(TRIAL_MAX).await;
            drop(stopper.take());
            wait::pause(GOODBYE_MAX).await;
            Ok(())
        };
        ended.or(late).await
    };
    let trial = trial.into_inner();
    let (is_done, progress) = (trial.is_done(), trial.progress());
    match ended {
        Err(error) if !is_done => Err(TrialError::Ingest(error)),
        _ => trial.finish().ok_or(TrialError::Late { progress, within: TRIAL_MAX }),
    }
}
