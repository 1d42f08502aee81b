//! Tells whoever started the program that it is ready, and then that it lives (sd_notify(3)): a service manager, or
//! `lightnvr keep` on a device.
//!
//! In here: one datagram per message to the socket that `NOTIFY_SOCKET` names. Not in here: whether it lives (`nvr/`).
//! Nobody listens: nothing is sent, and that is no error.

use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};

const VARIABLE: &str = "NOTIFY_SOCKET";

/// The way to the listener.
#[derive(Debug)]
pub struct Notifier(Option<(UnixDatagram, SocketAddr)>);

impl Notifier {
    /// Takes the socket's name from the environment: a path, or `@` and a name without a file.
    pub fn from_environment() -> Self {
        let name = std::env::var(VARIABLE).unwrap_or_default();
        let address = match name.strip_prefix('@') {
            Some(name) => SocketAddr::from_abstract_name(name),
            None if name.is_empty() => return Self(None),
            None => SocketAddr::from_pathname(&name),
        };
        let socket = UnixDatagram::unbound().and_then(|socket| {
            // A full queue means that nobody reads: the next message says the same.
            socket.set_nonblocking(true)?;
            Ok(socket)
        });
        Self(socket.ok().zip(address.ok()))
    }

    /// Whether somebody wants to know.
    pub fn is_wanted(&self) -> bool {
        self.0.is_some()
    }

    /// The program serves. The port is for the device's name service.
    pub fn ready(&self, port: u16) {
        self.send(&format!("READY=1\nWATCHDOG=1\nX_PORT={port}"));
    }

    /// The executor turns, and the disk threads answer. Whether a stream records is for who judges an update.
    pub fn alive(&self, port: u16, is_recording: bool) {
        let recording = u8::from(is_recording);
        self.send(&format!("WATCHDOG=1\nX_PORT={port}\nX_RECORDING={recording}"));
    }

    /// Something else that the listener knows; answers whether it was sent.
    pub fn tell(&self, word: &str) -> bool {
        self.is_wanted() && self.send(word)
    }

    fn send(&self, message: &str) -> bool {
        let Some((socket, address)) = &self.0 else { return false };
        let sent = socket.send_to_addr(message.as_bytes(), address);
        sent.inspect_err(|error| log::debug!("{VARIABLE}: {error}")).is_ok()
    }
}
