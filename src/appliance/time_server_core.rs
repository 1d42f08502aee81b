//! Answering cameras that ask for the time (SNTP server, RFC 5905 section 14 and RFC 4330 section 6).
//!
//! In here: which requests get an answer, what is in it, and how many a second. Pure. An answer is never longer than its
//! request, so that nobody can be flooded by way of it.

use super::sntp_core::{PACKET_BYTES, ntp_time};

/// Answers in a second, to all cameras together: a camera asks every few minutes, and some all at once after a power cut.
const ANSWERS_PER_S: u32 = 100;
/// Milliseconds are the smallest part of our time: 2^-10 s.
const PRECISION: i8 = -10;
/// What a clock without a server may drift, in parts per million (RFC 5905, PHI).
const DRIFT_PPM: i64 = 15;
/// What a clock that was just set may be off: half of a slow answer's way, and what is still to be slewed.
const SET_WITHIN_MS: i64 = 50;
/// Seven weeks; a client has turned away long before.
const AGE_MS_MAX: i64 = 1 << 32;
/// Not known yet (RFC 5905 section 7.4).
const KISS_INIT: [u8; 4] = *b"INIT";
const STRATUM_MAX: u8 = 15;

/// The clock was set by a server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Synced {
    /// Of that server, 1 to 15.
    pub stratum: u8,
    /// IPv4 address of that server; zeros for one with IPv6 only.
    pub server: [u8; 4],
    /// Unix milliseconds.
    pub at_ms: i64,
}

/// The answer to `request`, if it is a client's; `now_ms` is the own clock's. Without `synced` it says that the time is not
/// known: no camera takes it then.
pub fn answer(request: &[u8], now_ms: i64, synced: Option<Synced>) -> Option<[u8; PACKET_BYTES]> {
    let head = *request.first()?;
    let (version, mode) = (head >> 3 & 7, head & 7);
    if request.len() < PACKET_BYTES || mode != 3 || !(1..=4).contains(&version) {
        return None;
    }
    let mut packet = [0; PACKET_BYTES];
    let leap = if synced.is_some() { 0 } else { 3 };
    packet[0] = leap << 6 | version << 3 | 4;
    packet[2] = request[2];
    packet[3] = PRECISION.cast_unsigned();
    if let Some(synced) = synced {
        let age_ms = now_ms.saturating_sub(synced.at_ms).clamp(0, AGE_MS_MAX);
        packet[1] = synced.stratum.saturating_add(1).min(STRATUM_MAX);
        packet[8..12].copy_from_slice(&short(SET_WITHIN_MS + age_ms * DRIFT_PPM / 1_000_000));
        packet[12..16].copy_from_slice(&synced.server);
        packet[16..24].copy_from_slice(&ntp_time(synced.at_ms).to_be_bytes());
    } else {
        packet[12..16].copy_from_slice(&KISS_INIT);
    }
    packet[24..32].copy_from_slice(&request[40..48]);
    packet[32..40].copy_from_slice(&ntp_time(now_ms).to_be_bytes());
    packet[40..].copy_from_slice(&ntp_time(now_ms).to_be_bytes());
    Some(packet)
}

/// Milliseconds as 16 bits of seconds and 16 of their fraction.
fn short(ms: i64) -> [u8; 4] {
    let value = u32::try_from((ms << 16) / 1000).unwrap_or(u32::MAX);
    value.to_be_bytes()
}

/// How many answers are left in this second.
#[derive(Clone, Copy, Debug, Default)]
pub struct Allowance {
    second: u64,
    given: u32,
}

impl Allowance {
    /// Takes one. `second` is of any clock that only goes forward.
    pub fn take(&mut self, second: u64) -> bool {
        if self.second != second {
            *self = Self { second, given: 0 };
        }
        self.given += 1;
        self.given <= ANSWERS_PER_S
    }
}

#[cfg(test)]
mod tests {
    use super::super::sntp_core;
    use super::*;
    use proptest::prelude::*;

    const T0: i64 = 1_795_000_000_000;
    const COOKIE: u64 = 0x0123_4567_89ab_cdef;
    const SYNCED: Synced = Synced { stratum: 2, server: [192, 168, 1, 1], at_ms: T0 - 100_000_000 };

    #[test]
    fn what_is_answered_is_our_time() {
        let packet =
            answer(&sntp_core::request(COOKIE), T0 + 5_000, Some(SYNCED)).expect("a client's");
        let offset = sntp_core::offset_ms(&packet, COOKIE, T0, T0).expect("a good answer");
        assert!(offset.abs_diff(5_000) <= 1, "{offset}");
        assert_eq!((packet[0], packet[1]), (0x24, 3));
        // 50 ms, and 15 ppm of 100,005 s.
        assert_eq!(u32::from_be_bytes(packet[8..12].try_into().expect("four")) >> 16, 1);
        assert_eq!(packet[12..16], [192, 168, 1, 1]);
    }

    #[test]
    fn a_time_that_is_not_known_is_no_time() {
        let packet = answer(&sntp_core::request(COOKIE), T0, None).expect("a client's");
        assert!(sntp_core::offset_ms(&packet, COOKIE, T0, T0).is_err());
        assert_eq!((packet[0] >> 6, packet[1], &packet[12..16]), (3, 0, b"INIT".as_slice()));
    }

    #[test]
    fn others_than_clients_get_no_answer() {
        let good = sntp_core::request(COOKIE);
        // Symmetric, server, broadcast, control and private mode; version 0 and 5; too short.
        for head in [0x21, 0x22, 0x24, 0x25, 0x26, 0x27, 0x03, 0x2b] {
            let mut packet = good;
            packet[0] = head;
            assert_eq!(answer(&packet, T0, Some(SYNCED)), None, "{head:#x}");
        }
        assert_eq!(answer(&good[..47], T0, Some(SYNCED)), None);
        assert_eq!(answer(&[], T0, Some(SYNCED)), None);
        for version in 1..=4 {
            let mut packet = good;
            packet[0] = version << 3 | 3;
            let got = answer(&packet, T0, Some(SYNCED)).expect("a client's");
            assert_eq!(got[0], version << 3 | 4, "its version");
        }
    }

    #[test]
    fn a_second_has_a_hundred_answers() {
        let mut allowance = Allowance::default();
        assert_eq!((0..500).filter(|_| allowance.take(7)).count(), 100);
        assert_eq!((0..500).filter(|_| allowance.take(8)).count(), 100);
    }

    proptest! {
        #[test]
        fn no_answer_is_longer_than_its_request(bytes in proptest::collection::vec(any::<u8>(), 0..100), now: i64, at: i64) {
            let now_ms = now / 4;
            let synced = Synced { at_ms: at / 4, ..SYNCED };
            if let Some(packet) = answer(&bytes, now_ms, Some(synced)) {
                prop_assert!(packet.len() <= bytes.len());
            }
        }
    }
}
