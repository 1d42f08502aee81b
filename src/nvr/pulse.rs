//! The recorder's word that it lives, for whoever started it (`system/notify.rs`).
//!
//! In here: when the word is given. The executor gives it, so it turns; and each disk thread has answered, or has been
//! busy for less than `STALL_MAX`. A stalled card is waited for that long, and the ledger names the state; a disk that
//! is full, read-only or missing leaves its thread answering. What follows from silence: `appliance/watch_core.rs`.

use std::rc::Rc;
use std::time::{Duration, Instant};

use smol::future::FutureExt;

use super::state::Nvr;
use crate::system::notify::Notifier;
use crate::system::pool::{Pool, PoolError};
use crate::system::wait;

const EVERY: Duration = Duration::from_secs(5);
/// A recording that grew so long ago still counts as one that grows: two words and a slow card.
const MOVED_WITHIN: Duration = Duration::from_secs(15);
/// Longest time without an answer of a disk thread. Stalls of up to 40 s were seen with cards that recovered.
pub const STALL_MAX: Duration = Duration::from_secs(120);

impl Nvr {
    /// Tells for ever, if anybody wants to know. `port` overrides the setting `web_port`.
    pub async fn keep_notified(self: Rc<Self>, port: Option<u16>) {
        let notifier = Notifier::from_environment();
        if !notifier.is_wanted() {
            return;
        }
        let mut progress = Progress::default();
        let web_port = || port.unwrap_or_else(|| self.parts.cell.load().settings.web_port);
        notifier.ready(web_port());
        loop {
            let asked = Instant::now();
            let mut answered = Box::pin(answer_of_all(self.parts.recordings.disks.pools()));
            loop {
                let is_done = async {
                    (&mut answered).await;
                    true
                };
                let is_later = async {
                    wait::pause(EVERY).await;
                    false
                };
                if is_done.or(is_later).await {
                    break;
                }
                if asked.elapsed() < STALL_MAX {
                    notifier.alive(web_port(), progress.has_moved(&self));
                }
            }
            notifier.alive(web_port(), progress.has_moved(&self));
            wait::pause(EVERY).await;
        }
    }
}

/// Whether recordings grow.
#[derive(Debug, Default)]
struct Progress {
    /// The newest recording that runs, and its synced bytes.
    seen: Option<(u64, u64)>,
    moved_at: Option<Instant>,
}

impl Progress {
    /// Whether synced media of some stream came since the last look, or shortly before that.
    fn has_moved(&mut self, nvr: &Nvr) -> bool {
        let running = &nvr.parts.cell.load().running;
        let newest = running.iter().map(|recording| recording.id).max();
        let bytes = running.iter().map(|recording| recording.size).sum();
        self.look(newest.map(|id| (id, bytes)), Instant::now())
    }

    fn look(&mut self, now_seen: Option<(u64, u64)>, now: Instant) -> bool {
        if now_seen.is_some_and(|(_, bytes)| bytes > 0) && now_seen != self.seen {
            self.moved_at = Some(now);
        }
        self.seen = now_seen;
        now_seen.is_some() && self.moved_at.is_some_and(|at| now - at <= MOVED_WITHIN)
    }
}

/// Resolves when each thread has taken a job after now.
async fn answer_of_all(pools: Vec<Pool>) {
    for pool in pools {
        while pool.run(|| ()).await == Err(PoolError::Full) {
            wait::pause(EVERY).await;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_grows_is_a_recording_and_what_stands_still_is_none() {
        let t0 = Instant::now();
        let at = |s| t0 + Duration::from_secs(s);
        let mut progress = Progress::default();
        assert!(!progress.look(None, at(0)));
        assert!(!progress.look(Some((1, 0)), at(5)), "nothing is synced yet");
        assert!(progress.look(Some((1, 900)), at(10)));
        assert!(progress.look(Some((1, 900)), at(15)), "the card is slow");
        assert!(!progress.look(Some((1, 900)), at(30)));
        assert!(progress.look(Some((2, 500)), at(35)), "the next file");
        assert!(!progress.look(None, at(36)));
    }

    #[test]
    fn a_disk_thread_that_hangs_leaves_the_question_open() {
        let pool = Pool::start("test", 1, 2).expect("threads");
        let (go, held) = std::sync::mpsc::channel::<()>();
        smol::block_on(async {
            let mut holding = Box::pin(pool.run(move || held.recv().is_ok()));
            assert!(smol::future::poll_once(&mut holding).await.is_none());
            let mut asked = Box::pin(answer_of_all(vec![pool.clone()]));
            assert!(smol::future::poll_once(&mut asked).await.is_none(), "the thread is held");
            go.send(()).expect("the job waits");
            asked.await;
        });
    }
}
