//! Asking a time server (SNTP, RFC 5905 section 14), and what becomes of the clock.
//!
//! In here: the request, the checks of an answer, its offset, and how the clock is brought to it. Pure. The answers come
//! from the LAN or further away and are not signed: whoever is asked is believed within these checks.

use std::time::Duration;

/// Request and answer without extensions.
pub const PACKET_BYTES: usize = 48;
/// Where servers listen unless they are named with a port.
pub const PORT: u16 = 123;
/// Between two questions when all is well: 2^10 s, as in RFC 5905.
pub const EVERY: Duration = Duration::from_secs(1024);
const RETRY_MIN: Duration = Duration::from_secs(4);
const RETRY_MAX: Duration = Duration::from_secs(256);
/// A larger offset is set at once, a smaller one in small parts: recordings are dated by this clock.
const STEP_MS_MIN: i64 = 500;
/// Of each second: 1 ms is 1000 ppm, and a board's crystal is off by 50 at most.
const SLEW_US_PER_S: i64 = 1000;
/// An answer that was under way for longer says too little.
const DELAY_MS_MAX: i64 = 2_000;
/// From 1900 to 1970 in seconds.
const EPOCH_S: i64 = 2_208_988_800;
/// 2024-01-01: earlier times of a server are of the next era (RFC 5905 section 6; the first ends in 2036).
const FLOOR_S: i64 = 1_704_067_200;

/// The request. `cookie` comes back in the answer; it is random and not the time, which is nobody's business.
pub fn request(cookie: u64) -> [u8; PACKET_BYTES] {
    let mut packet = [0; PACKET_BYTES];
    packet[0] = (4 << 3) | 3; // version 4, client
    packet[40..].copy_from_slice(&cookie.to_be_bytes());
    packet
}

/// How far the clock is behind the server, in milliseconds. `sent_ms` and `got_ms` are the own clock's at the request
/// and the answer. An error says what is wrong with the answer.
pub fn offset_ms(
    answer: &[u8],
    cookie: u64,
    sent_ms: i64,
    got_ms: i64,
) -> Result<i64, &'static str> {
    if answer.len() < PACKET_BYTES {
        return Err("it is too short");
    }
    let number = |at: usize| u64::from_be_bytes(answer[at..at + 8].try_into().unwrap_or_default());
    if number(24) != cookie {
        return Err("it answers something else");
    }
    if answer[0] & 7 != 4 {
        return Err("it is no server's");
    }
    if answer[0] >> 6 == 3 || !(1..16).contains(&answer[1]) {
        return Err("the server does not know the time itself");
    }
    let (received, transmitted) = (number(32), number(40));
    if transmitted == 0 {
        return Err("it has no time");
    }
    let (received_ms, transmitted_ms) = (unix_ms(received), unix_ms(transmitted));
    let delay = (got_ms - sent_ms) - (transmitted_ms - received_ms);
    if !(0..=DELAY_MS_MAX).contains(&delay) {
        return Err("it was under way for too long");
    }
    Ok(((received_ms - sent_ms) + (transmitted_ms - got_ms)) / 2)
}

/// Seconds since 1900 and 32 bits of fraction as Unix milliseconds.
fn unix_ms(time: u64) -> i64 {
    let mut seconds = i64::from((time >> 32) as u32) - EPOCH_S;
    if seconds < FLOOR_S {
        seconds += 1 << 32;
    }
    seconds * 1000 + (((time & 0xffff_ffff) * 1000) >> 32) as i64
}

/// Unix milliseconds as seconds since 1900, which begin again in 2036, and 32 bits of fraction.
pub fn ntp_time(unix_ms: i64) -> u64 {
    let seconds = (unix_ms.div_euclid(1000) + EPOCH_S) as u64 & 0xffff_ffff;
    (seconds << 32) | (((unix_ms.rem_euclid(1000) as u64) << 32) / 1000)
}

/// What is to be done with the clock now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    /// Move it by so many milliseconds at once.
    Step(i64),
    /// Move it by so many microseconds.
    Slew(i64),
    Nothing,
}

/// The clock's way to the server's time.
#[derive(Clone, Debug, Default)]
pub struct Discipline {
    /// What is left to be slewed, in microseconds.
    left_us: i64,
    failures: u32,
}

impl Discipline {
    /// An answer was good. Small offsets are left for `each_second`.
    pub fn answered(&mut self, offset_ms: i64) -> Action {
        self.failures = 0;
        if offset_ms.abs() >= STEP_MS_MIN {
            self.left_us = 0;
            return Action::Step(offset_ms);
        }
        self.left_us = offset_ms * 1000;
        Action::Nothing
    }

    /// No server gave a good answer. Answers how long to wait.
    pub fn failed(&mut self) -> Duration {
        let wait = RETRY_MIN * 2_u32.saturating_pow(self.failures.min(8));
        self.failures += 1;
        wait.min(RETRY_MAX)
    }

    /// To be asked once a second.
    pub fn each_second(&mut self) -> Action {
        let part = self.left_us.clamp(-SLEW_US_PER_S, SLEW_US_PER_S);
        self.left_us -= part;
        if part == 0 { Action::Nothing } else { Action::Slew(part) }
    }
}

/// `host`, `host:port`, an IPv4 or IPv6 address: whom to ask, and where.
pub fn server(text: &str) -> (&str, u16) {
    match text.rsplit_once(':') {
        Some((host, port)) if !host.contains(':') => match port.parse() {
            Ok(port) => (host, port),
            Err(_) => (text, PORT),
        },
        _ => (text, PORT),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const COOKIE: u64 = 0x0123_4567_89ab_cdef;
    const T0: i64 = 1_795_000_000_000;

    fn answer(received_ms: i64, transmitted_ms: i64) -> [u8; PACKET_BYTES] {
        let mut packet = [0; PACKET_BYTES];
        packet[0] = (4 << 3) | 4;
        packet[1] = 2;
        packet[24..32].copy_from_slice(&COOKIE.to_be_bytes());
        packet[32..40].copy_from_slice(&ntp_time(received_ms).to_be_bytes());
        packet[40..].copy_from_slice(&ntp_time(transmitted_ms).to_be_bytes());
        packet
    }

    #[track_caller]
    fn check_offset(packet: &[u8], sent_ms: i64, got_ms: i64, want: i64) {
        let offset = offset_ms(packet, COOKIE, sent_ms, got_ms).expect("a good answer");
        assert!(offset.abs_diff(want) <= 1, "{offset}, want {want}");
    }

    #[test]
    fn the_offset_takes_the_way_into_account() {
        check_offset(&answer(T0 + 20, T0 + 25), T0, T0 + 45, 0);
        check_offset(&answer(T0 + 5_020, T0 + 5_025), T0, T0 + 45, 5_000);
        check_offset(&answer(T0, T0), 0, 40, T0 - 20); // a clock that starts in 1970
        let year_2040 = 2_209_000_000_000;
        check_offset(&answer(year_2040, year_2040), T0, T0, year_2040 - T0);
    }

    #[test]
    fn a_bad_answer_moves_nothing() {
        let good = answer(T0, T0);
        let broken = |at: usize, value: u8| {
            let mut packet = good;
            packet[at] = value;
            packet
        };
        for packet in [
            broken(24, 9),                      // another request's
            broken(0, (4 << 3) | 3),            // a client
            broken(0, (3 << 6) | (4 << 3) | 4), // not synchronised
            broken(1, 0),                       // kiss of death
            broken(1, 16),
            answer(T0, T0 + 5_000), // it was there longer than it was away
        ] {
            assert!(offset_ms(&packet, COOKIE, T0, T0 + 10).is_err());
        }
        assert!(offset_ms(&good[..47], COOKIE, T0, T0).is_err());
        assert!(offset_ms(&good, COOKIE, T0, T0 + 10_000).is_err(), "too slow");
    }

    #[test]
    fn large_offsets_are_set_and_small_ones_are_spread() {
        let mut clock = Discipline::default();
        assert_eq!(clock.answered(-80_000), Action::Step(-80_000));
        assert_eq!(clock.each_second(), Action::Nothing);
        assert_eq!(clock.answered(-3), Action::Nothing);
        let moved: Vec<Action> = (0..4).map(|_| clock.each_second()).collect();
        let slew = Action::Slew(-1000);
        assert_eq!(moved, [slew, slew, slew, Action::Nothing]);
    }

    #[test]
    fn silence_is_asked_again_less_and_less_often() {
        let mut clock = Discipline::default();
        let waits: Vec<u64> = (0..9).map(|_| clock.failed().as_secs()).collect();
        assert_eq!(waits, [4, 8, 16, 32, 64, 128, 256, 256, 256]);
        clock.answered(0);
        assert_eq!(clock.failed(), RETRY_MIN);
    }

    #[test]
    fn servers_may_have_a_port() {
        assert_eq!(server("time.example"), ("time.example", 123));
        assert_eq!(server("10.0.2.2:4123"), ("10.0.2.2", 4123));
        assert_eq!(server("fd00::1"), ("fd00::1", 123));
        assert_eq!(server("host:x"), ("host:x", 123));
    }

    proptest! {
        #[test]
        fn any_answer_is_read(bytes in proptest::collection::vec(any::<u8>(), 0..64), sent: i32, took in 0_i64..3000) {
            let sent_ms = i64::from(sent) * 1000;
            let _ = offset_ms(&bytes, COOKIE, sent_ms, sent_ms + took);
        }
    }
}
