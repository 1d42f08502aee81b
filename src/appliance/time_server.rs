//! A time server for the cameras, where the set-up file wants one (`time_server = yes`): what they show and send is dated as
//! the recordings are.
//!
//! In here: the socket. Not in here: what is answered (`time_server_core`), how the own clock is set (`sntp`).

use std::cell::Cell;
use std::io;
use std::time::Instant;

use smol::net::UdpSocket;

use super::time_server_core::{Allowance, Synced, answer};
use crate::system::clock;

/// A longer request is cut off, which is no loss: what follows the first 48 bytes is extensions.
const REQUEST_BYTES_MAX: usize = 512;

/// Answers until the socket is out of order.
pub async fn serve(socket: &UdpSocket, synced: &Cell<Option<Synced>>) -> io::Result<()> {
    let started = Instant::now();
    let mut allowance = Allowance::default();
    let mut request = [0; REQUEST_BYTES_MAX];
    loop {
        let (length, from) = socket.recv_from(&mut request).await?;
        let packet = answer(&request[..length], clock::wall_ms(), synced.get());
        if let Some(packet) = packet
            && allowance.take(started.elapsed().as_secs())
        {
            // A camera that has gone meanwhile is no reason to stop.
            let _ = socket.send_to(&packet, from).await;
        }
    }
}
