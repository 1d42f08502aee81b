//! Waiting: a pause, and the request to stop that a task can wait for beside its work.

use std::cell::{Cell, RefCell};
use std::future::poll_fn;
use std::rc::Rc;
use std::task::{Poll, Waker};
use std::time::{Duration, Instant};

use super::drive::{self, Timer};

/// Sleeps without holding the executor.
pub async fn pause(length: Duration) {
    Timer::after(length).await;
}

/// Periodic work is done at moments that lie so far apart, and that are moments of ingest, too.
const BEAT: Duration = Duration::from_millis(200);

/// Sleeps for about `length`, a second or more, to the nearest beat: periodic work of all parts is done in one waking.
pub async fn beat(length: Duration) {
    let at = Instant::now() + length - BEAT / 2;
    Timer::at(drive::next_moment(at, BEAT)).await;
}

/// What both sides share. The channel of smol would do, but this is looked at with every packet.
#[derive(Debug, Default)]
struct Shared {
    is_asked: Cell<bool>,
    /// Of the tasks that wait; one each.
    wakers: RefCell<Vec<Waker>>,
}

/// The side that asks: dropping it is the request.
#[derive(Debug)]
pub struct Stopper(Rc<Shared>);

impl Drop for Stopper {
    fn drop(&mut self) {
        self.0.is_asked.set(true);
        self.0.wakers.take().into_iter().for_each(Waker::wake);
    }
}

/// The side that is asked.
#[derive(Clone, Debug)]
pub struct Stopping(Rc<Shared>);

/// Makes the two sides.
pub fn stop_pair() -> (Stopper, Stopping) {
    let shared = Rc::new(Shared::default());
    (Stopper(Rc::clone(&shared)), Stopping(shared))
}

impl Stopping {
    /// Whether the stopper is gone.
    pub fn is_asked(&self) -> bool {
        self.0.is_asked.get()
    }

    /// Resolves when the stopper is gone.
    pub async fn asked(&self) {
        poll_fn(|cx| {
            if self.is_asked() {
                return Poll::Ready(());
            }
            let mut wakers = self.0.wakers.borrow_mut();
            if !wakers.iter().any(|waker| waker.will_wake(cx.waker())) {
                wakers.push(cx.waker().clone());
            }
            Poll::Pending
        })
        .await
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use smol::future::{block_on, poll_once};

    #[test]
    fn a_beat_is_as_long_as_asked_for_but_for_half_of_one() {
        let (began, length) = (Instant::now(), Duration::from_millis(300));
        drive::block_on(beat(length));
        assert!(began.elapsed() >= length - BEAT / 2);
    }

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
