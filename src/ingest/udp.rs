//! The sockets of a session over UDP: ports of a bounded range, packets from the camera's address only.
//!
//! What is in the packets and when is up to `udp_core.rs`.

use std::io::{self, ErrorKind};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::task::{Context, Poll};

use async_io::Async;

use super::udp_core::TRACKS;

/// Even ports of this range are bound, each with the one behind it: below those that the kernel gives out, and
/// for a firewall to know. Enough for 512 streams of two tracks, less others' ports.
pub const PORTS: std::ops::Range<u16> = 28_000..31_000;
/// Ports that are tried.
const TRIES_MAX: u16 = 200;
/// A keyframe of a 4K camera comes at once. The kernel gives what `net.core.rmem_max` allows.
const BUFFER_BYTES: usize = 1 << 20;
/// The largest packet of UDP; a Tapo sends 10 kB (quirk 34).
const PACKET_BYTES_MAX: usize = 65_535;
/// Packets that are read from a socket before others have their turn.
const PACKETS_AT_ONCE: usize = 256;

/// One track's sockets: RTP and RTCP.
struct Pair {
    sockets: [Async<UdpSocket>; 2],
    port: u16,
}

/// The sockets of a session.
pub struct Sockets {
    camera: IpAddr,
    pairs: [Pair; TRACKS],
    /// Packets from other addresses.
    pub strangers: u64,
}

impl Sockets {
    /// Binds for both tracks, beginning at a place of the range that `random` says.
    pub fn bind(camera: IpAddr, random: u32) -> io::Result<Self> {
        let first = Pair::bind(camera, random)?;
        let second = Pair::bind(camera, random.wrapping_add(u32::from(first.port / 2) + 1))?;
        Ok(Self { camera, pairs: [first, second], strangers: 0 })
    }

    /// The ports for RTP.
    pub fn ports(&self) -> [u16; TRACKS] {
        self.pairs.each_ref().map(|pair| pair.port)
    }

    /// Ready when there is a packet.
    pub fn poll_readable(&self, cx: &mut Context<'_>) -> Poll<()> {
        let mut poll = Poll::Pending;
        for socket in self.pairs.iter().flat_map(|pair| &pair.sockets) {
            // All are asked, so that any of them wakes.
            if socket.poll_readable(cx).is_ready() {
                poll = Poll::Ready(());
            }
        }
        poll
    }

    /// Reads what is there through `buffer` and hands it out: track, whether it is RTCP, bytes. Stops where
    /// `take` fails. Returns how many packets there were.
    pub fn receive<E>(
        &mut self,
        buffer: &mut [u8],
        mut take: impl FnMut(usize, bool, &[u8]) -> Result<(), E>,
    ) -> Result<usize, E> {
        let mut packets = 0;
        let buffer_len = buffer.len().min(PACKET_BYTES_MAX);
        let buffer = &mut buffer[..buffer_len];
        for (track, pair) in self.pairs.iter().enumerate() {
            for (n, socket) in pair.sockets.iter().enumerate() {
                for _ in 0..PACKETS_AT_ONCE {
                    let (read, from) = match socket.get_ref().recv_from(buffer) {
                        Ok(got) => got,
                        Err(error) if error.kind() == ErrorKind::Interrupted => continue,
                        // An ICMP message about a report of ours is none of the stream.
                        Err(_) => break,
                    };
                    packets += 1;
                    if from.ip().to_canonical() == self.camera.to_canonical() {
                        take(track, n == 1, &buffer[..read])?;
                    } else {
                        self.strangers += 1;
                    }
                }
            }
        }
        Ok(packets)
    }

    /// Sends a report; one that is lost is followed by another.
    pub fn send_control(&self, track: usize, port: u16, packet: &[u8]) {
        let socket = self.pairs[track].sockets[1].get_ref();
        let _ = socket.send_to(packet, SocketAddr::new(self.camera, port));
    }
}

impl Pair {
    fn bind(camera: IpAddr, random: u32) -> io::Result<Self> {
        let pairs = (PORTS.end - PORTS.start) / 2;
        let mut last = io::Error::new(ErrorKind::AddrInUse, "no free port");
        for n in 0..TRIES_MAX {
            let at = (random as u16 % pairs).wrapping_add(n) % pairs;
            let port = PORTS.start + at * 2;
            match (bind(camera, port), bind(camera, port + 1)) {
                (Ok(rtp), Ok(rtcp)) => return Ok(Self { sockets: [rtp, rtcp], port }),
                (Err(error), _) | (_, Err(error)) => last = error,
            }
        }
        Err(last)
    }
}

fn bind(camera: IpAddr, port: u16) -> io::Result<Async<UdpSocket>> {
    let any: IpAddr = match camera {
        IpAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
        IpAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
    };
    let socket = Async::<UdpSocket>::bind((any, port))?;
    // As much as there is will have to do.
    let _ = rustix::net::sockopt::set_socket_recv_buffer_size(&socket, BUFFER_BYTES);
    Ok(socket)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_camera_is_heard_and_ports_are_pairs_of_the_range() {
        let camera = IpAddr::from([127, 0, 0, 1]);
        let mut sockets = Sockets::bind(camera, 7).unwrap();
        let [video, audio] = sockets.ports();
        for port in [video, audio] {
            assert!(PORTS.contains(&port) && port.is_multiple_of(2) && PORTS.contains(&(port + 1)));
        }
        assert_ne!(video, audio);
        let send = |from: [u8; 4], port: u16, what: &[u8]| {
            let socket = UdpSocket::bind(SocketAddr::from((from, 0))).unwrap();
            socket.send_to(what, (camera, port)).unwrap();
        };
        send([127, 0, 0, 2], video, b"stranger");
        send([127, 0, 0, 1], video, b"rtp");
        send([127, 0, 0, 1], audio + 1, b"rtcp");
        let mut got = Vec::new();
        let mut buffer = vec![0; 1 << 16];
        sockets
            .receive(&mut buffer, |track, is_control, bytes| {
                got.push((track, is_control, bytes.to_vec()));
                Ok::<(), ()>(())
            })
            .unwrap();
        assert_eq!(got, [(0, false, b"rtp".to_vec()), (1, true, b"rtcp".to_vec())]);
        assert_eq!(sockets.strangers, 1);
    }
}
