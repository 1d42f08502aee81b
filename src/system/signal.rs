//! The signals that ask the recorder to end: SIGTERM (systemd, init) and SIGINT (Ctrl-C).
//!
//! In here: waiting for the first of them. Not in here: what ending means (`nvr/`).

use std::io;

use async_signal::{Signal, Signals};
use smol::stream::StreamExt;

/// Resolves on the first SIGTERM or SIGINT after its first poll, with the signal's name for the log.
/// From that poll on neither signal kills the process any more, also after this future is gone: a
/// second Ctrl-C does not cut short the end of the open recordings.
pub async fn terminated() -> io::Result<&'static str> {
    let mut signals = Signals::new([Signal::Term, Signal::Int])?;
    match signals.next().await {
        Some(Ok(Signal::Int)) => Ok("SIGINT"),
        Some(Ok(_)) => Ok("SIGTERM"),
        Some(Err(error)) => Err(error),
        None => Err(io::Error::other("the stream of signals ended")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustix::process::{Signal as Raw, getpid, kill_process};
    use smol::future::poll_once;

    // One test: signals go to the whole process, two tests would see each other's.
    #[test]
    fn either_signal_ends_and_later_ones_do_no_harm() {
        smol::block_on(async {
            for (raw, name) in [(Raw::TERM, "SIGTERM"), (Raw::INT, "SIGINT")] {
                let mut ended = Box::pin(terminated());
                assert!(poll_once(&mut ended).await.is_none(), "nothing was sent yet");
                kill_process(getpid(), raw).expect("signal to self");
                assert_eq!(ended.await.expect("signals"), name);
            }
            // Nobody waits now; the default action would kill the test.
            kill_process(getpid(), Raw::TERM).expect("signal to self");
            kill_process(getpid(), Raw::INT).expect("signal to self");
        });
    }
}
