//! The listening socket and its options.
//!
//! In here: one bound socket whose options every accepted one inherits (Linux copies them; tcp(7)),
//! so a new connection costs no calls of its own. Not in here: accepting (`gate.rs`).

use std::io;
use std::net::{SocketAddr, TcpListener};
use std::time::Duration;

use async_io::Async;
use rustix::net::{AddressFamily, SocketFlags, SocketType, sockopt};

/// Connections that the kernel completes and holds for us; more are retried by the client's kernel.
const BACKLOG: i32 = 1024;
/// Unacknowledged data for so long ends a connection: a peer that lost power holds nothing for ever.
const USER_TIMEOUT_MS: u32 = 30_000;
/// Silence after which the kernel asks whether the peer is alive, and how often.
const KEEPALIVE_IDLE: Duration = Duration::from_secs(30);
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(10);
const KEEPALIVE_PROBES: u32 = 3;
/// Asked for; Linux doubles it for its bookkeeping. 8 Mbit/s for 125 ms, so a download is not slowed
/// by it on a LAN, and a stalled reader holds no more of the kernel's memory.
const SEND_BUFFER_BYTES: usize = 128 << 10;

/// A bound socket that listens already; hand it to the gate.
#[derive(Debug)]
pub struct Listener {
    pub(super) io: Async<TcpListener>,
    addr: SocketAddr,
}

impl Listener {
    /// Where it listens: with port 0 asked for, the port that was given.
    pub fn local_addr(&self) -> SocketAddr {
        self.addr
    }
}

/// Binds `addr`. An error is the caller's to show: the port is taken, or not allowed.
pub fn listen(addr: SocketAddr) -> io::Result<Listener> {
    let family = if addr.is_ipv4() { AddressFamily::INET } else { AddressFamily::INET6 };
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let fd = rustix::net::socket_with(family, SocketType::STREAM, flags, None)?;
    sockopt::set_socket_reuseaddr(&fd, true)?;
    if addr.is_ipv6() {
        sockopt::set_ipv6_v6only(&fd, false)?;
    }
    sockopt::set_tcp_user_timeout(&fd, USER_TIMEOUT_MS)?;
    sockopt::set_socket_keepalive(&fd, true)?;
    sockopt::set_tcp_keepidle(&fd, KEEPALIVE_IDLE)?;
    sockopt::set_tcp_keepintvl(&fd, KEEPALIVE_INTERVAL)?;
    sockopt::set_tcp_keepcnt(&fd, KEEPALIVE_PROBES)?;
    sockopt::set_tcp_nodelay(&fd, true)?;
    sockopt::set_socket_send_buffer_size(&fd, SEND_BUFFER_BYTES)?;
    rustix::net::bind(&fd, &addr)?;
    rustix::net::listen(&fd, BACKLOG)?;
    let io = Async::new(TcpListener::from(fd))?;
    let addr = io.get_ref().local_addr()?;
    Ok(Listener { io, addr })
}

#[cfg(test)]
mod tests {
    use std::net::TcpStream;

    use super::*;

    #[test]
    fn an_accepted_socket_inherits_the_options() {
        let listener = listen("127.0.0.1:0".parse().unwrap()).unwrap();
        let _client = TcpStream::connect(listener.local_addr()).unwrap();
        let (accepted, _) = smol::block_on(listener.io.accept()).unwrap();
        assert_eq!(sockopt::tcp_user_timeout(&accepted).unwrap(), USER_TIMEOUT_MS);
        assert_eq!(sockopt::tcp_keepidle(&accepted).unwrap(), KEEPALIVE_IDLE);
        assert!(sockopt::socket_keepalive(&accepted).unwrap());
        assert!(sockopt::tcp_nodelay(&accepted).unwrap());
        assert_eq!(sockopt::socket_send_buffer_size(&accepted).unwrap(), 2 * SEND_BUFFER_BYTES);
    }

    #[test]
    fn a_taken_port_is_an_error_at_once() {
        let first = listen("127.0.0.1:0".parse().unwrap()).unwrap();
        assert!(listen(first.local_addr()).is_err());
    }
}
