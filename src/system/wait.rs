//! Waiting: a pause, and the request to stop that a task can wait for beside its work.

use std::time::Duration;

use smol::channel::{Receiver, Sender, bounded};

use super::drive::Timer;

/// Sleeps without holding the executor.
pub async fn pause(length: Duration) {
    Timer::after(length).await;
}

/// The side that asks: dropping it is the request.
#[derive(Debug)]
pub struct Stopper {
    _open: Sender<()>,
}

/// The side that is asked.
#[derive(Clone, Debug)]
pub struct Stopping(Receiver<()>);

/// Makes the two sides.
pub fn stop_pair() -> (Stopper, Stopping) {
    let (open, asked) = bounded(1);
    (Stopper { _open: open }, Stopping(asked))
}

impl Stopping {
    /// Whether the stopper is gone.
    pub fn is_asked(&self) -> bool {
        self.0.is_closed()
    }

    /// Resolves when the stopper is gone.
    pub async fn asked(&self) {
        // Nothing is ever sent: the only answer is that the channel is closed.
        let _ = self.0.recv().await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use smol::future::{block_on, poll_once};

    #[test]
    fn dropping_the_stopper_wakes_who_waits() {
        let (stopper, stopping) = stop_pair();
        block_on(async {
            let mut asked = Box::pin(stopping.asked());
            assert!(poll_once(&mut asked).await.is_none() && !stopping.is_asked());
            drop(stopper);
            asked.await;
            assert!(stopping.is_asked());
        });
    }
}
