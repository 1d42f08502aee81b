//! Keeps a device's clock: asks the owner's time servers, else those that DHCP named. Where the owner wants it, cameras may
//! then ask this device.
//!
//! In here: sockets, names and the system's clock. Not in here: what an answer means (`sntp_core`), what cameras are told
//! (`time_server`).

use std::cell::Cell;
use std::fs;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::Path;
use std::time::{Duration, Instant};

use smol::future::FutureExt;
use smol::net::{UdpSocket, resolve};

use super::init::say;
use super::sntp_core::{self, Action, Discipline};
use super::time_server_core::Synced;
use super::{RUN_DIR, TIME_SERVER_MARK, keep, time_server};
use crate::system::{clock, wait};

const ANSWER_MAX: Duration = Duration::from_secs(2);
const TICK: Duration = Duration::from_secs(1);
const SERVERS_MAX: usize = 4;
/// After the socket was out of order.
const SERVE_AGAIN: Duration = Duration::from_secs(60);

/// Asks and sets for ever, and answers.
pub async fn run() {
    let synced = Cell::new(None);
    if Path::new(RUN_DIR).join(TIME_SERVER_MARK).exists() {
        keep_clock(&synced).or(answer_cameras(&synced)).await;
    } else {
        keep_clock(&synced).await;
    }
}

async fn answer_cameras(synced: &Cell<Option<Synced>>) {
    loop {
        // With IPv6 all addresses, also those of IPv4.
        let both = UdpSocket::bind((Ipv6Addr::UNSPECIFIED, sntp_core::PORT)).await;
        let socket = match both {
            Err(_) => UdpSocket::bind((Ipv4Addr::UNSPECIFIED, sntp_core::PORT)).await,
            bound => bound,
        };
        let served = match socket {
            Ok(socket) => time_server::serve(&socket, synced).await,
            Err(error) => Err(error),
        };
        if let Err(error) = served {
            say(&format!("time server for cameras: {error}"));
        }
        wait::pause(SERVE_AGAIN).await;
    }
}

async fn keep_clock(synced: &Cell<Option<Synced>>) {
    let mut discipline = Discipline::default();
    let mut is_known = false;
    let mut next = Instant::now();
    loop {
        if Instant::now() >= next {
            let wait = match ask_any().await {
                Some((name, answer)) => {
                    act(discipline.answered(answer.offset_ms), &name);
                    let at_ms = clock::wall_ms();
                    synced.set(Some(Synced { at_ms, ..answer.synced }));
                    if !is_known {
                        is_known = true;
                        keep::save_time();
                    }
                    sntp_core::EVERY
                }
                None => discipline.failed(),
            };
            next = Instant::now() + wait;
        }
        act(discipline.each_second(), "");
        wait::pause(TICK).await;
    }
}

fn act(action: Action, server: &str) {
    let set = match action {
        Action::Nothing => return,
        Action::Slew(us) => clock::move_wall_us(us),
        Action::Step(ms) => {
            let from = clock::wall_ms();
            let set = clock::move_wall_us(ms.saturating_mul(1000));
            let to = clock::iso_seconds(from.saturating_add(ms));
            say(&format!("clock set to {to} by {server}; it showed {}", clock::iso_seconds(from)));
            set
        }
    };
    if let Err(error) = set {
        say(&format!("clock: {error}"));
    }
}

/// A good answer, and whose it is.
struct Answer {
    offset_ms: i64,
    synced: Synced,
}

/// The first good answer of all servers, in their order.
async fn ask_any() -> Option<(String, Answer)> {
    for name in servers() {
        match ask(&name).await {
            Ok(answer) => return Some((name, answer)),
            Err(error) => log::debug!("time server {name}: {error}"),
        }
    }
    None
}

/// From the set-up file, else from DHCP.
fn servers() -> Vec<String> {
    let lines = |name: &str| -> Vec<String> {
        let text = fs::read_to_string(Path::new(RUN_DIR).join(name)).unwrap_or_default();
        text.split_whitespace().take(SERVERS_MAX).map(str::to_owned).collect()
    };
    let own = lines("ntp");
    if own.is_empty() { lines("ntp-dhcp") } else { own }
}

async fn ask(name: &str) -> io::Result<Answer> {
    let (host, port) = sntp_core::server(name);
    let late = async {
        wait::pause(ANSWER_MAX).await;
        Err(io::ErrorKind::TimedOut.into())
    };
    let found = resolve((host, port)).or(late).await?;
    let to = *found.first().ok_or(io::ErrorKind::NotFound)?;
    let any: SocketAddr = match to {
        SocketAddr::V4(_) => (Ipv4Addr::UNSPECIFIED, 0).into(),
        SocketAddr::V6(_) => (Ipv6Addr::UNSPECIFIED, 0).into(),
    };
    let socket = UdpSocket::bind(any).await?;
    // Only this server's answers come through.
    socket.connect(to).await?;
    let mut bytes = [0; 8];
    getrandom::fill(&mut bytes).map_err(|error| io::Error::other(error.to_string()))?;
    let cookie = u64::from_ne_bytes(bytes);
    let sent_ms = clock::wall_ms();
    socket.send(&sntp_core::request(cookie)).await?;
    let mut answer = [0; sntp_core::PACKET_BYTES];
    let got = async { socket.recv(&mut answer).await };
    let late = async {
        wait::pause(ANSWER_MAX).await;
        Err(io::ErrorKind::TimedOut.into())
    };
    let length = got.or(late).await?;
    let got_ms = clock::wall_ms();
    let offset = sntp_core::offset_ms(&answer[..length], cookie, sent_ms, got_ms);
    let offset_ms = offset.map_err(io::Error::other)?;
    let server = match to.ip().to_canonical() {
        IpAddr::V4(v4) => v4.octets(),
        IpAddr::V6(_) => [0; 4],
    };
    Ok(Answer { offset_ms, synced: Synced { stratum: answer[1], server, at_ms: got_ms } })
}
