//! Token buckets per address, in a table of fixed size.
//!
//! In here: who may, and if not, when. Not in here: what a bucket is for (`gate.rs`, `auth.rs`), and
//! the clock: `now_ms` is an argument and must not run backwards (it is clamped if it does).
//! Invariant T1: no bucket holds more than its burst. T2: an address has at most one bucket.

use std::net::IpAddr;

use heapless::Vec;

/// Whom limits are about: an IPv4 address, or the /64 that one IPv6 client can move within freely.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PeerKey(u128);

impl PeerKey {
    /// RFC 4291 section 2.5.4: the lower 64 bits are the interface's own. IPv4-mapped is IPv4.
    pub fn new(ip: IpAddr) -> Self {
        match ip.to_canonical() {
            IpAddr::V4(v4) => Self(u128::from(v4.to_bits())),
            // A v6 prefix has bits above the lowest 64, so it never equals a v4 address, but for
            // `::/64` (loopback, unspecified), which gets a mark of its own.
            IpAddr::V6(v6) => Self((v6.to_bits() & !u128::from(u64::MAX)) | (1 << 63)),
        }
    }
}

/// How much a bucket gets and holds.
#[derive(Clone, Copy, Debug)]
pub struct Rate {
    pub per_minute: u32,
    pub burst: u32,
}

/// One token. Chosen so that `per_minute` units come per millisecond, without rounding.
const TOKEN_UNITS: u64 = 60_000;

#[derive(Clone, Copy, Debug)]
struct Bucket {
    key: PeerKey,
    units: u64,
    /// When `units` was true.
    at_ms: u64,
}

/// Buckets of the `N` addresses that asked last. When full, the one that asked least recently loses
/// its bucket, and so starts again with a full one.
#[derive(Debug)]
pub struct RateTable<const N: usize> {
    rate: Rate,
    buckets: Vec<Bucket, N>,
    /// How often an address lost its bucket.
    pub evicted: u64,
}

impl<const N: usize> RateTable<N> {
    pub fn new(rate: Rate) -> Self {
        Self { rate, buckets: Vec::new(), evicted: 0 }
    }

    /// Takes one token of `key`, or says in how many whole seconds there is one (at least 1).
    pub fn take(&mut self, key: PeerKey, now_ms: u64) -> Result<(), u32> {
        let rate = self.rate;
        let bucket = self.bucket(key, now_ms);
        if bucket.units >= TOKEN_UNITS {
            bucket.units -= TOKEN_UNITS;
            return Ok(());
        }
        Err(seconds_until_token(rate, bucket.units))
    }

    /// Says what [`Self::take`] would say, and takes nothing.
    pub fn peek(&mut self, key: PeerKey, now_ms: u64) -> Result<(), u32> {
        let rate = self.rate;
        let units = self.bucket(key, now_ms).units;
        if units >= TOKEN_UNITS { Ok(()) } else { Err(seconds_until_token(rate, units)) }
    }

    /// Gives one token back.
    pub fn refund(&mut self, key: PeerKey, now_ms: u64) {
        let units_max = units_max(self.rate);
        let bucket = self.bucket(key, now_ms);
        bucket.units = (bucket.units + TOKEN_UNITS).min(units_max);
    }

    /// The bucket of `key`, filled up to `now_ms`.
    fn bucket(&mut self, key: PeerKey, now_ms: u64) -> &mut Bucket {
        let units_max = units_max(self.rate);
        let slot = self.buckets.iter().position(|b| b.key == key).unwrap_or_else(|| {
            let fresh = Bucket { key, units: units_max, at_ms: now_ms };
            if self.buckets.push(fresh).is_ok() {
                return self.buckets.len() - 1;
            }
            let oldest = self.buckets.iter().enumerate().min_by_key(|(_, b)| b.at_ms);
            let slot = oldest.map_or(0, |(slot, _)| slot);
            self.buckets[slot] = fresh;
            self.evicted += 1;
            slot
        });
        let bucket = &mut self.buckets[slot];
        let elapsed_ms = now_ms.saturating_sub(bucket.at_ms);
        let gained = elapsed_ms.saturating_mul(u64::from(self.rate.per_minute));
        bucket.units = bucket.units.saturating_add(gained).min(units_max);
        bucket.at_ms = bucket.at_ms.max(now_ms);
        bucket
    }

    /// Panics when T1 or T2 is broken.
    pub fn check(&self) {
        for (n, bucket) in self.buckets.iter().enumerate() {
            assert!(bucket.units <= units_max(self.rate), "T1: not over the burst");
            assert!(self.buckets[..n].iter().all(|b| b.key != bucket.key), "T2: one bucket each");
        }
    }
}

fn units_max(rate: Rate) -> u64 {
    u64::from(rate.burst) * TOKEN_UNITS
}

fn seconds_until_token(rate: Rate, units: u64) -> u32 {
    let missing = TOKEN_UNITS.saturating_sub(units);
    let seconds = missing.div_ceil(u64::from(rate.per_minute.max(1)) * 1000);
    u32::try_from(seconds).unwrap_or(u32::MAX).max(1)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const FIVE_A_MINUTE: Rate = Rate { per_minute: 5, burst: 5 };

    fn key(text: &str) -> PeerKey {
        PeerKey::new(text.parse().unwrap())
    }

    #[test]
    fn five_a_minute_are_five_then_one_every_twelve_seconds() {
        let mut table = RateTable::<4>::new(FIVE_A_MINUTE);
        let a = key("10.0.0.1");
        for _ in 0..5 {
            assert_eq!(table.take(a, 1000), Ok(()));
        }
        assert_eq!(table.take(a, 1000), Err(12));
        assert_eq!(table.peek(a, 12_999), Err(1));
        assert_eq!(table.take(key("10.0.0.2"), 1000), Ok(()), "another address is not concerned");
        assert_eq!(table.take(a, 13_000), Ok(()));
        assert_eq!(table.take(a, 13_000), Err(12));
        table.refund(a, 13_000);
        assert_eq!(table.take(a, 13_000), Ok(()));
    }

    #[test]
    fn a_v6_client_is_its_64_and_a_mapped_address_is_v4() {
        assert_eq!(key("2001:db8::1"), key("2001:db8::ffff:1"));
        assert_ne!(key("2001:db8::1"), key("2001:db8:0:1::1"));
        assert_eq!(key("::ffff:10.0.0.1"), key("10.0.0.1"));
        assert_ne!(key("::1"), key("0.0.0.1"));
        assert_ne!(key("::1"), key("0.0.0.0"));
    }

    #[test]
    fn a_full_table_forgets_who_asked_least_recently() {
        let mut table = RateTable::<2>::new(Rate { per_minute: 60, burst: 1 });
        assert_eq!(table.take(key("10.0.0.1"), 1), Ok(()));
        assert_eq!(table.take(key("10.0.0.2"), 2), Ok(()));
        assert_eq!(table.take(key("10.0.0.3"), 3), Ok(()));
        assert_eq!(table.evicted, 1);
        assert_eq!(table.take(key("10.0.0.2"), 3), Err(1), "still remembered");
        assert_eq!(table.take(key("10.0.0.1"), 4), Ok(()), "forgotten");
    }

    proptest! {
        #[test]
        fn nobody_gets_more_than_burst_and_rate(
            steps in prop::collection::vec((0_u8..6, 0_u64..3000), 1..200),
        ) {
            let rate = Rate { per_minute: 90, burst: 7 };
            let mut table = RateTable::<8>::new(rate);
            let (mut now_ms, mut granted) = (0, [0_u64; 6]);
            for (who, pause) in steps {
                now_ms += pause;
                if table.take(PeerKey(u128::from(who)), now_ms).is_ok() {
                    granted[usize::from(who)] += 1;
                }
                table.check();
            }
            for n in granted {
                prop_assert!(n <= 7 + now_ms * 90 / 60_000);
            }
        }
    }
}
