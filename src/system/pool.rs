//! Named thread pools: the only place that starts threads of our own (ONE-DOOR).
//!
//! In here: `disk-N` and `codec-N` pools with a bounded queue, and single named threads.
//! Not in here: what the jobs do. A job that panics answers `Panicked`; its thread goes on.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::thread::JoinHandle;

use smol::channel::{Receiver, Sender, TrySendError, bounded};

/// Why a job gave no result.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PoolError {
    /// The queue is full: the caller decides what to leave out.
    Full,
    /// The job panicked, or the pool is gone; the panic is in the log.
    Panicked,
}

type Job = Box<dyn FnOnce() + Send>;

/// Threads `NAME-0`, `NAME-1`… that take jobs from one bounded queue, in order of arrival.
#[derive(Clone, Debug)]
pub struct Pool {
    jobs: Sender<Job>,
}

impl Pool {
    /// Starts `threads` threads with room for `queue_max` waiting jobs. The threads end when the last
    /// clone of the pool is dropped.
    pub fn start(name: &str, threads: usize, queue_max: usize) -> std::io::Result<Self> {
        Self::start_from(name, 0, threads, queue_max)
    }

    /// The same with names that count from `first`: pools of one kind tell their threads apart.
    pub fn start_from(
        name: &str,
        first: usize,
        threads: usize,
        queue_max: usize,
    ) -> std::io::Result<Self> {
        let (jobs, queue) = bounded::<Job>(queue_max);
        for n in first..first + threads {
            let queue = queue.clone();
            drop(spawn(&format!("{name}-{n}"), move || work(&queue))?);
        }
        Ok(Self { jobs })
    }

    /// Whether both are handles of one pool.
    pub fn is_same(&self, other: &Self) -> bool {
        self.jobs.same_channel(&other.jobs)
    }

    /// Queues `job` and waits for its result. Dropping the future does not stop a job that is queued.
    pub async fn run<T: Send + 'static>(
        &self,
        job: impl FnOnce() -> T + Send + 'static,
    ) -> Result<T, PoolError> {
        let (tx, rx) = bounded(1);
        let boxed: Job = Box::new(move || drop(tx.try_send(job())));
        match self.jobs.try_send(boxed) {
            Ok(()) => rx.recv().await.map_err(|_| PoolError::Panicked),
            Err(TrySendError::Full(_)) => Err(PoolError::Full),
            Err(TrySendError::Closed(_)) => Err(PoolError::Panicked),
        }
    }
}

fn work(queue: &Receiver<Job>) {
    while let Ok(job) = queue.recv_blocking() {
        if catch_unwind(AssertUnwindSafe(job)).is_err() {
            log::error!("a job panicked on thread {:?}", std::thread::current().name());
        }
    }
}

/// Starts one named thread. Linux shows 15 bytes of the name.
pub fn spawn(name: &str, body: impl FnOnce() + Send + 'static) -> std::io::Result<JoinHandle<()>> {
    std::thread::Builder::new().name(name.to_owned()).spawn(body)
}

/// For tests: a pool that is full, one job under way and one waiting, and what frees it.
#[cfg(test)]
pub(crate) fn full() -> (Pool, impl FnOnce()) {
    use std::sync::mpsc::channel;
    let pool = Pool::start("full", 1, 1).expect("a thread");
    let ((go, wait), (begin, began), (end, ended)) = (channel(), channel(), channel::<()>());
    let busy = move || {
        begin.send(()).expect("somebody waits");
        wait.recv().expect("it is freed");
    };
    pool.jobs.try_send(Box::new(busy)).expect("room for the first");
    began.recv().expect("the thread has taken it");
    let queued = move || end.send(()).expect("somebody waits");
    pool.jobs.try_send(Box::new(queued)).expect("room for one");
    let free = move || {
        go.send(()).expect("the job waits");
        ended.recv().expect("the other ends");
    };
    (pool, free)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_panicking_job_answers_and_its_thread_goes_on() {
        let pool = Pool::start("test", 1, 4).expect("threads");
        smol::block_on(async {
            let broken = pool.run(|| if true { panic!("on purpose") } else { 1 }).await;
            assert_eq!(broken, Err(PoolError::Panicked));
            assert_eq!(pool.run(|| 7).await, Ok(7));
        });
    }

    #[test]
    fn a_full_queue_is_said_at_once() {
        let (pool, free) = full();
        smol::block_on(async {
            assert_eq!(pool.run(|| true).await, Err(PoolError::Full));
            free();
            assert_eq!(pool.run(|| true).await, Ok(true));
        });
    }
}
