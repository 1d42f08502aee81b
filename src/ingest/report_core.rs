//! Receiver reports: what a camera is told of how its packets arrive (RFC 3550 sections 6.4.2 and A.8).
//!
//! Keeps PURE-CORE. Sent over UDP only, where some cameras stop without them.

use std::time::{Duration, Instant};

/// RFC 3550 section 6.2 wants at least 5 s between two reports.
pub const EVERY: Duration = Duration::from_secs(5);

/// What arrived of one track.
#[derive(Debug, Default)]
pub struct Arrivals {
    clock_rate: u32,
    ssrc: u32,
    is_known: bool,
    base: u32,
    /// The highest number, with the wraps in its upper half.
    highest: u32,
    received: u32,
    /// Expected and received as of the last report.
    before: (u32, u32),
    /// Last timestamp and when it came.
    last: Option<(u32, Instant)>,
    /// In ticks times 16, as in section A.8.
    jitter: u32,
    /// The middle of the last sender report's clock, and when it came.
    sender: Option<(u32, Instant)>,
}

impl Arrivals {
    /// `clock_rate`: RTP ticks per second.
    pub fn new(clock_rate: u32) -> Self {
        Self { clock_rate, ..Self::default() }
    }

    /// Takes a packet as it arrived.
    pub fn note(&mut self, ssrc: u32, sequence: u16, timestamp: u32, now: Instant) {
        if !self.is_known || self.ssrc != ssrc {
            let first = u32::from(sequence);
            *self = Self {
                is_known: true,
                ssrc,
                base: first,
                highest: first,
                ..Self::new(self.clock_rate)
            };
        }
        self.received = self.received.wrapping_add(1);
        let ahead = sequence.wrapping_sub(self.highest as u16);
        if ahead < 0x8000 {
            self.highest = self.highest.wrapping_add(ahead.into());
        }
        if let Some((last, at)) = self.last.replace((timestamp, now)) {
            let passed =
                now.saturating_duration_since(at).as_micros() * u128::from(self.clock_rate);
            let transit = i64::try_from(passed / 1_000_000).unwrap_or(i64::MAX / 2)
                - i64::from(timestamp.wrapping_sub(last) as i32);
            let off =
                u32::try_from(transit.unsigned_abs()).unwrap_or(u32::MAX >> 5).min(u32::MAX >> 5);
            self.jitter = self.jitter.saturating_add(off) - ((self.jitter + 8) >> 4);
        }
    }

    /// Takes the clock of a sender report, in 2^-32 s.
    pub fn note_sender(&mut self, ntp: u64, now: Instant) {
        self.sender = Some(((ntp >> 16) as u32, now));
    }

    /// Packets expected by now, and received.
    fn counts(&self) -> (u32, u32) {
        (self.highest.wrapping_sub(self.base).wrapping_add(1), self.received)
    }

    /// A receiver report with its name, as one compound packet. `None`: nothing came yet.
    pub fn report(&mut self, own_ssrc: u32, now: Instant) -> Option<Vec<u8>> {
        if !self.is_known {
            return None;
        }
        let (expected, received) = self.counts();
        let lost = (i64::from(expected) - i64::from(received)).clamp(-0x80_0000, 0x7f_ffff) as i32;
        let expected_since = expected.wrapping_sub(self.before.0);
        let lost_since = expected_since.saturating_sub(received.wrapping_sub(self.before.1));
        let fraction =
            (u64::from(lost_since) * 256).checked_div(expected_since.into()).unwrap_or(0);
        self.before = (expected, received);
        let (sender, delay) = self.sender.map_or((0, 0), |(middle, at)| {
            let delay = now.saturating_duration_since(at).as_micros() * 65_536 / 1_000_000;
            (middle, u32::try_from(delay).unwrap_or(u32::MAX))
        });
        let mut out = vec![0x81, 201, 0, 7];
        let fraction_and_lost = (fraction.min(255) as u32) << 24 | lost as u32 & 0xff_ffff;
        for word in
            [own_ssrc, self.ssrc, fraction_and_lost, self.highest, self.jitter >> 4, sender, delay]
        {
            out.extend_from_slice(&word.to_be_bytes());
        }
        // SDES with a CNAME (section 6.5), padded to a whole word.
        out.extend_from_slice(&[0x81, 202, 0, 4]);
        out.extend_from_slice(&own_ssrc.to_be_bytes());
        out.extend_from_slice(b"\x01\x08lightnvr\0\0");
        Some(out)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_report_says_what_was_lost_and_how_late_it_came() {
        let t0 = Instant::now();
        let mut arrivals = Arrivals::new(90_000);
        assert_eq!(arrivals.report(7, t0), None);
        // 65534, 65535, 0, 2: one of five is missing, over the wrap.
        for (n, sequence) in (0..).zip([65534, 65535, 0, 2]) {
            arrivals.note(9, sequence, n * 3600, t0 + Duration::from_millis(40) * n);
        }
        arrivals.note_sender(0x1234_5678_9abc_def0, t0);
        let report = arrivals.report(7, t0 + Duration::from_secs(1)).unwrap();
        assert_eq!(report.len(), 52);
        let word = |at: usize| u32::from_be_bytes(report[at..at + 4].try_into().unwrap());
        assert_eq!((word(4), word(8)), (7, 9));
        assert_eq!(word(12), 51 << 24 | 1, "a fifth, and one");
        assert_eq!((word(16), word(20)), (0x1_0002, 0));
        assert_eq!((word(24), word(28)), (0x5678_9abc, 65_536));
        assert_eq!(&report[32..36], [0x81, 202, 0, 4]);
        let next = arrivals.report(7, t0 + Duration::from_secs(1)).unwrap();
        assert_eq!(next[12], 0, "nothing was lost since");
    }

    #[test]
    fn wild_packets_are_survived() {
        let t0 = Instant::now();
        let mut arrivals = Arrivals::new(u32::MAX);
        for n in 0..1000_u32 {
            let n = n.wrapping_mul(0x9e37_79b9);
            arrivals.note(n & 1, n as u16, n, t0 + Duration::from_secs((n % 7).into()));
            arrivals.report(1, t0);
        }
    }
}
