//! Waiting: a pause, and the request to stop that a task can wait for beside its work.

use std::cell::{Cell, RefCell};
use std::future::poll_fn;
use std::rc::Rc;
use std::task::{Poll, Waker};
use std::time::Duration;

use super::drive::Timer;

/// Sleeps without holding the executor.
pub async fn pause(length: Duration) {
    Timer::after(length).await;
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
