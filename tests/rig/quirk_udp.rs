//! The way of a scripted camera's packets: a channel of the RTSP connection, or UDP with its troubles.

use std::net::{SocketAddr, UdpSocket};

use super::fake_camera::{Peer, frame};

/// Where a track's packets go.
pub enum Lane {
    Channel(u8),
    Udp(Box<Udp>),
}

/// A track's pair of sockets.
pub struct Udp {
    rtp: UdpSocket,
    rtcp: UdpSocket,
    stranger: UdpSocket,
    to: [SocketAddr; 2],
    swap: u32,
    double: u32,
    lose: u32,
    strangers: u32,
    sent: u32,
    /// A packet that comes later, and when.
    held: Option<(u32, Vec<u8>)>,
}

fn socket() -> UdpSocket {
    UdpSocket::bind("127.0.0.1:0").expect("a port on loopback")
}

impl Lane {
    /// Takes the `Transport` that is asked for and gives the one to answer.
    pub fn set_up(&mut self, asked: &str) -> String {
        let ports = asked.split(';').find_map(|part| part.strip_prefix("client_port="));
        let Some((rtp, rtcp)) = ports.and_then(|ports| ports.split_once('-')) else {
            let Self::Channel(channel) = self else { return String::new() };
            return format!(
                "RTP/AVP/TCP;unicast;interleaved={channel}-{}",
                u16::from(*channel) + 1
            );
        };
        let to = [rtp, rtcp].map(|port| {
            SocketAddr::from(([127, 0, 0, 1], port.parse().expect("a port of the recorder")))
        });
        let udp = Udp {
            rtp: socket(),
            rtcp: socket(),
            stranger: UdpSocket::bind("127.0.0.2:0").expect("all of 127/8 is loopback"),
            to,
            swap: 0,
            double: 0,
            lose: 0,
            strangers: 0,
            sent: 0,
            held: None,
        };
        let port = |socket: &UdpSocket| socket.local_addr().expect("bound").port();
        let ports = format!("{}-{}", port(&udp.rtp), port(&udp.rtcp));
        *self = Self::Udp(Box::new(udp));
        format!("RTP/AVP;unicast;client_port={rtp}-{rtcp};server_port={ports}")
    }

    pub fn spoil(&mut self, how: &str, every: u32) {
        let Self::Udp(udp) = self else { panic!("{how} is for UDP") };
        match how {
            "swap" => udp.swap = every,
            "double" => udp.double = every,
            "lose" => udp.lose = every,
            _ => udp.strangers = every,
        }
    }

    pub fn send(&mut self, peer: &mut Peer, packet: &[u8]) {
        match self {
            Self::Channel(channel) => drop(peer.send(&frame(*channel, packet))),
            Self::Udp(udp) => udp.send(packet),
        }
    }

    pub fn send_control(&mut self, peer: &mut Peer, packet: &[u8]) {
        match self {
            Self::Channel(channel) => drop(peer.send(&frame(*channel | 1, packet))),
            Self::Udp(udp) => drop(udp.rtcp.send_to(packet, udp.to[1])),
        }
    }
}

impl Udp {
    fn send(&mut self, packet: &[u8]) {
        self.sent += 1;
        let n = self.sent;
        let is_at = |every: u32| every > 0 && n.is_multiple_of(every);
        if is_at(self.strangers) {
            let _ = self.stranger.send_to(packet, self.to[0]);
        }
        let is_held = is_at(self.swap) && self.held.is_none();
        if is_held {
            self.held = Some((n + self.swap / 2, packet.to_vec()));
        } else if !is_at(self.lose) {
            self.put(packet);
        }
        if is_at(self.double) {
            self.put(packet);
        }
        if let Some((at, held)) = self.held.take_if(|(at, _)| n >= *at) {
            debug_assert!(n >= at);
            self.put(&held);
        }
    }

    fn put(&self, packet: &[u8]) {
        // A recorder that is gone is no trouble of the camera.
        let _ = self.rtp.send_to(packet, self.to[0]);
    }
}
