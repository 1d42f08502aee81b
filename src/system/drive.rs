//! The loop of the main thread, and its timers.
//!
//! In here: `block_on`, which polls one future, rings timers and sleeps in between; `Timer`. Not in here: sockets,
//! for which async-io's helper thread waits; it wakes this one.
//! Why not `async_io::block_on`: there the main thread and the helper compete for one epoll, the helper by looking
//! every so often, and each timer that is set costs both of them a round of ten system calls. Here a timer is an
//! entry in a map, and everything that is due at a moment costs one wait together.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::future::Future;
use std::marker::PhantomData;
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, Wake, Waker};
use std::thread::{self, Thread};
use std::time::{Duration, Instant};

/// When and which; timers of one moment ring in the order in which they were set.
type Key = (Instant, u64);

thread_local! {
    /// Bounded by the tasks: each waits for a few timers at most.
    static TIMERS: RefCell<BTreeMap<Key, Waker>> = const { RefCell::new(BTreeMap::new()) };
    static NEXT_ID: Cell<u64> = const { Cell::new(0) };
    /// How many `block_on` are at work on this thread, one inside the other.
    static DEPTH: Cell<u32> = const { Cell::new(0) };
}

/// Wakes the thread. The flag tells a wake from other reasons for which a thread is unparked.
struct Alarm {
    is_rung: AtomicBool,
    thread: Thread,
}

impl Wake for Alarm {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        if !self.is_rung.swap(true, Ordering::SeqCst) {
            self.thread.unpark();
        }
    }
}

struct Depth;

impl Depth {
    fn enter() -> Self {
        DEPTH.set(DEPTH.get() + 1);
        Self
    }
}

impl Drop for Depth {
    fn drop(&mut self) {
        DEPTH.set(DEPTH.get() - 1);
    }
}

/// Runs `future` to its end on this thread, with the timers that are set meanwhile.
pub fn block_on<T>(future: impl Future<Output = T>) -> T {
    let alarm = Arc::new(Alarm { is_rung: AtomicBool::new(false), thread: thread::current() });
    let waker = Waker::from(Arc::clone(&alarm));
    let mut context = Context::from_waker(&waker);
    let _depth = Depth::enter();
    let mut future = pin!(future);
    loop {
        if let Poll::Ready(value) = future.as_mut().poll(&mut context) {
            return value;
        }
        let next = ring(Instant::now());
        if alarm.is_rung.swap(false, Ordering::SeqCst) {
            continue;
        }
        match next {
            Some(at) => thread::park_timeout(at.saturating_duration_since(Instant::now())),
            None => thread::park(),
        }
        ring(Instant::now());
        alarm.is_rung.store(false, Ordering::SeqCst);
    }
}

/// Wakes who waits for `now` or earlier; answers when the next timer is due.
fn ring(now: Instant) -> Option<Instant> {
    loop {
        // A waker may set timers: the map is free while it runs.
        let due = TIMERS.with_borrow_mut(|timers| match timers.first_entry() {
            Some(first) if first.key().0 <= now => Ok(first.remove()),
            first => Err(first.map(|first| first.key().0)),
        });
        match due {
            Ok(waker) => waker.wake(),
            Err(next) => return next,
        }
    }
}

enum State {
    /// Not polled since it was set.
    Idle,
    Set(Key),
    /// On a thread without `block_on` of this file (tests, threads of the REST layer).
    Elsewhere(async_io::Timer),
}

/// Resolves at its time, never before. Belongs to the thread that polls it.
pub struct Timer {
    at: Instant,
    state: State,
    is_of_thread: PhantomData<Rc<()>>,
}

impl Timer {
    pub fn at(at: Instant) -> Self {
        Self { at, state: State::Idle, is_of_thread: PhantomData }
    }

    pub fn after(length: Duration) -> Self {
        Self::at(Instant::now() + length)
    }

    /// Sets another time. Takes effect with the next poll.
    pub fn set_at(&mut self, at: Instant) {
        self.unset();
        self.at = at;
    }

    fn unset(&mut self) {
        if let State::Set(key) = std::mem::replace(&mut self.state, State::Idle) {
            TIMERS.with_borrow_mut(|timers| timers.remove(&key));
        }
    }
}

impl Future for Timer {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<()> {
        if let State::Elsewhere(timer) = &mut self.state {
            return Pin::new(timer).poll(context).map(drop);
        }
        if Instant::now() >= self.at {
            self.unset();
            return Poll::Ready(());
        }
        if DEPTH.get() == 0 {
            self.state = State::Elsewhere(async_io::Timer::at(self.at));
            return self.poll(context);
        }
        let key = match self.state {
            State::Set(key) => key,
            _ => (self.at, NEXT_ID.replace(NEXT_ID.get() + 1)),
        };
        self.state = State::Set(key);
        TIMERS.with_borrow_mut(|timers| match timers.get_mut(&key) {
            Some(waker) => waker.clone_from(context.waker()),
            None => _ = timers.insert(key, context.waker().clone()),
        });
        Poll::Pending
    }
}

impl Drop for Timer {
    fn drop(&mut self) {
        self.unset();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use smol::LocalExecutor;
    use smol::channel::bounded;
    use smol::future::{FutureExt, poll_once};

    const SOON: Duration = Duration::from_millis(2);

    fn timers_set() -> usize {
        TIMERS.with_borrow(BTreeMap::len)
    }

    #[test]
    fn timers_ring_in_order_and_leave_nothing() {
        let began = Instant::now();
        let executor = LocalExecutor::new();
        let (tx, rx) = bounded(8);
        block_on(executor.run(async {
            let task = |n: u32| {
                let tx = tx.clone();
                executor.spawn(async move {
                    Timer::at(began + n * SOON).await;
                    tx.send(n).await.expect("room");
                })
            };
            let tasks = [3, 1, 2].map(task);
            for want in 1..=3 {
                assert_eq!(rx.recv().await, Ok(want));
                assert!(Instant::now() >= began + want * SOON, "never early");
            }
            drop(tasks);
        }));
        assert_eq!(timers_set(), 0);
    }

    #[test]
    fn another_time_counts_from_the_next_poll_on() {
        block_on(async {
            let mut timer = Timer::after(Duration::from_secs(3600));
            assert_eq!(poll_once(&mut timer).await, None);
            assert_eq!(timers_set(), 1);
            timer.set_at(Instant::now() + SOON);
            assert_eq!(timers_set(), 0);
            timer.await;
            drop(Timer::after(SOON).or(async {}));
        });
        assert_eq!(timers_set(), 0);
    }

    #[test]
    fn another_thread_wakes_it() {
        let (tx, rx) = bounded(1);
        let other =
            std::thread::Builder::new().spawn(move || tx.send_blocking(7)).expect("a thread");
        let late = async {
            Timer::after(Duration::from_secs(30)).await;
            panic!("nobody woke it");
        };
        assert_eq!(block_on(async { rx.recv().await }.or(late)), Ok(7));
        other.join().expect("no panic").expect("sent");
    }

    #[test]
    fn elsewhere_a_timer_rings_too() {
        smol::future::block_on(Timer::after(SOON));
        assert_eq!(timers_set(), 0);
    }
}
