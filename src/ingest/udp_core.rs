//! The UDP part of a session: order, reports, and which packets are whose.
//!
//! Not in here: sockets and addresses (`udp.rs`), RTSP (`session_core.rs`). Keeps PURE-CORE.

use std::time::Instant;

use super::reorder_core::{Fate, Reorder};
use super::report_core::{Arrivals, EVERY};
use super::rtp::{parse_rtp, parse_sender_report};

/// Tracks of a session: 0 is the video, 1 the audio.
pub const TRACKS: usize = 2;

/// What is received at and what for: the answer to SETUP names the camera's ports.
#[derive(Default)]
struct Track {
    reorder: Reorder,
    arrivals: Option<Arrivals>,
    /// The camera's port for RTCP.
    control_port: Option<u16>,
}

/// The tracks of one session.
pub struct UdpCore {
    /// Our ports for RTP; RTCP has the next one.
    ports: [u16; TRACKS],
    /// Our name in reports.
    ssrc: u32,
    tracks: [Track; TRACKS],
    report_at: Instant,
}

impl UdpCore {
    pub fn new(ports: [u16; TRACKS], ssrc: u32, now: Instant) -> Self {
        // The first report soon: a camera may want a sign of life.
        Self { ports, ssrc, tracks: Default::default(), report_at: now + EVERY / 2 }
    }

    /// What SETUP asks for.
    pub fn transport(&self, track: usize) -> String {
        let port = self.ports[track];
        format!("RTP/AVP;unicast;client_port={port}-{}", u32::from(port) + 1)
    }

    /// Notes what the answer to SETUP says.
    pub fn set_up(&mut self, track: usize, clock_rate: u32, control_port: Option<u16>) {
        self.tracks[track].arrivals = Some(Arrivals::new(clock_rate));
        self.tracks[track].control_port = control_port;
    }

    /// Notes a packet of RTP; whether it is to be used now. What becomes of others, `pop` says.
    pub fn is_next(&mut self, track: usize, bytes: &[u8], now: Instant) -> bool {
        let Ok(packet) = parse_rtp(bytes) else {
            // Counted where it is found out again.
            return true;
        };
        let track = &mut self.tracks[track];
        if let Some(arrivals) = &mut track.arrivals {
            arrivals.note(packet.ssrc, packet.sequence, packet.timestamp, now);
        }
        track.reorder.push(packet.ssrc, packet.sequence, bytes, now) == Fate::Next
    }

    /// The next packet of a track that waited.
    pub fn pop(&mut self, track: usize, now: Instant) -> Option<Vec<u8>> {
        self.tracks[track].reorder.pop(now)
    }

    /// Notes a packet of RTCP.
    pub fn note_control(&mut self, track: usize, bytes: &[u8], now: Instant) {
        if let (Some(report), Some(arrivals)) =
            (parse_sender_report(bytes), &mut self.tracks[track].arrivals)
        {
            arrivals.note_sender(report.ntp, now);
        }
    }

    /// The reports that are due, each with its track and the camera's port.
    pub fn reports(&mut self, now: Instant) -> heapless::Vec<(usize, u16, Vec<u8>), TRACKS> {
        let mut out = heapless::Vec::new();
        if now < self.report_at {
            return out;
        }
        self.report_at = now + EVERY;
        for (n, track) in self.tracks.iter_mut().enumerate() {
            let report = track.arrivals.as_mut().and_then(|a| a.report(self.ssrc, now));
            if let (Some(report), Some(port)) = (report, track.control_port) {
                // One for each track.
                let _ = out.push((n, port, report));
            }
        }
        out
    }

    /// When there is something to do.
    pub fn due_at(&self) -> Instant {
        let waits = self.tracks.iter().filter_map(|track| track.reorder.due_at());
        waits.chain([self.report_at]).min().unwrap_or(self.report_at)
    }

    /// Packets that came late or twice, and how often the wait for one was cut short by a bound.
    pub fn late(&self) -> (u64, u64) {
        let sum = |count: fn(&Reorder) -> u64| self.tracks.iter().map(|t| count(&t.reorder)).sum();
        (sum(|reorder| reorder.late), sum(|reorder| reorder.overflows))
    }
}
