//! What one camera may send in a second, so that a broken or hostile one costs its neighbours nothing.
//! Keeps PURE-CORE.

use std::time::{Duration, Instant};

/// A 4K camera of 50 Mbit/s sends 5000 packets in a second.
pub const PACKETS_PER_S_MAX: u32 = 40_000;
/// 256 Mbit/s: four times what MJPEG of 4K takes.
pub const BYTES_PER_S_MAX: usize = 32 << 20;
const SECOND: Duration = Duration::from_secs(1);

/// What came in this second.
#[derive(Debug)]
pub struct Quota {
    since: Instant,
    packets: u32,
    bytes: usize,
}

impl Quota {
    pub fn new(now: Instant) -> Self {
        Self { since: now, packets: 0, bytes: 0 }
    }

    /// Takes a packet or a message. The error says what was too much.
    pub fn note(&mut self, bytes: usize, now: Instant) -> Result<(), String> {
        if now >= self.since + SECOND {
            *self = Self::new(now);
        }
        self.packets += 1;
        self.bytes += bytes;
        if self.packets > PACKETS_PER_S_MAX {
            return Err(format!("camera sends more than {PACKETS_PER_S_MAX} packets in a second"));
        }
        if self.bytes > BYTES_PER_S_MAX {
            let mib = BYTES_PER_S_MAX >> 20;
            return Err(format!("camera sends more than {mib} MiB in a second"));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_flood_is_told_from_much() {
        let t0 = Instant::now();
        let mut quota = Quota::new(t0);
        for second in 0..3 {
            let now = t0 + SECOND * second;
            for _ in 0..PACKETS_PER_S_MAX {
                assert_eq!(quota.note(800, now), Ok(()));
            }
        }
        let error = quota.note(1, t0 + SECOND * 2).unwrap_err();
        assert!(error.contains("packets in a second"), "{error}");
        let error = Quota::new(t0).note(BYTES_PER_S_MAX + 1, t0).unwrap_err();
        assert!(error.contains("32 MiB in a second"), "{error}");
    }
}
