//! Reading and writing a non-blocking socket under a deadline.
//!
//! In here: try at once, and wait for the socket or the clock when that blocks. Nothing in here knows
//! what the bytes mean; TCP and Unix streams are the same to it.

use std::future::Future;
use std::io::{self, ErrorKind, IoSlice, Read, Write};
use std::time::{Duration, Instant};

use async_io::Async;

use crate::system::drive::Timer;

/// Pieces of one call; Linux takes 1024 (writev(2)).
const SLICES_MAX: usize = 256;

/// Reads what there is, at most `buf.len()` bytes; 0 is the end. `TimedOut` when `deadline` is over.
pub async fn read_some<T>(io: &Async<T>, buf: &mut [u8], deadline: Instant) -> io::Result<usize>
where
    for<'a> &'a T: Read,
{
    loop {
        let mut stream = io.get_ref();
        match stream.read(buf) {
            Err(err) if err.kind() == ErrorKind::WouldBlock => {}
            Err(err) if err.kind() == ErrorKind::Interrupted => continue,
            other => return other,
        }
        before(deadline, io.readable()).await?;
    }
}

/// Writes all of `buf`. `TimedOut` when nothing moves for `stall`, or when `deadline` is over;
/// `on_wait` is called each time that the other side takes no more for now.
pub async fn write_all<T>(
    io: &Async<T>,
    mut buf: &[u8],
    stall: Duration,
    deadline: Option<Instant>,
    on_wait: impl Fn(),
) -> io::Result<()>
where
    for<'a> &'a T: Write,
{
    while !buf.is_empty() {
        let mut stream = io.get_ref();
        match stream.write(buf) {
            Ok(0) => return Err(ErrorKind::WriteZero.into()),
            Ok(n) => {
                buf = &buf[n..];
                continue;
            }
            Err(err) if err.kind() == ErrorKind::WouldBlock => {}
            Err(err) if err.kind() == ErrorKind::Interrupted => continue,
            Err(err) => return Err(err),
        }
        on_wait();
        let stalled_at = Instant::now() + stall;
        let until = deadline.map_or(stalled_at, |deadline| deadline.min(stalled_at));
        before(until, io.writable()).await?;
    }
    Ok(())
}

/// Writes all of `parts`, one after the other, without copying them together; else like `write_all`.
/// Where it stops in the middle they are left advanced.
pub async fn write_all_vectored<T>(
    io: &Async<T>,
    mut parts: &mut [IoSlice<'_>],
    stall: Duration,
    on_wait: impl Fn(),
) -> io::Result<()>
where
    for<'a> &'a T: Write,
{
    IoSlice::advance_slices(&mut parts, 0); // empty ones at the front would look like an end
    while !parts.is_empty() {
        let mut stream = io.get_ref();
        match stream.write_vectored(&parts[..parts.len().min(SLICES_MAX)]) {
            Ok(0) => return Err(ErrorKind::WriteZero.into()),
            Ok(n) => {
                IoSlice::advance_slices(&mut parts, n);
                continue;
            }
            Err(err) if err.kind() == ErrorKind::WouldBlock => {}
            Err(err) if err.kind() == ErrorKind::Interrupted => continue,
            Err(err) => return Err(err),
        }
        on_wait();
        before(Instant::now() + stall, io.writable()).await?;
    }
    Ok(())
}

/// `work`, or `TimedOut` at `deadline`.
pub async fn before<T>(
    deadline: Instant,
    work: impl Future<Output = io::Result<T>>,
) -> io::Result<T> {
    let late = async {
        Timer::at(deadline).await;
        Err(ErrorKind::TimedOut.into())
    };
    smol::future::or(work, late).await
}
