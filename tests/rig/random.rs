//! Random moments that can be had again.

/// The numbers after a seed by splitmix64 (Steele, Lea, Flood 2014).
pub struct Random(u64);

impl Random {
    /// From a new seed, which is printed, or from `LIGHTNVR_SEED`: a failure can be run again.
    pub fn seeded() -> Self {
        let seed = match std::env::var("LIGHTNVR_SEED") {
            Ok(seed) => seed.parse().expect("LIGHTNVR_SEED is a number"),
            Err(_) => u64::from(std::process::id()),
        };
        println!("to run the same moments again: LIGHTNVR_SEED={seed}");
        Self(seed)
    }

    /// Any number from 0 to below `end`.
    pub fn below(&mut self, end: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (z ^ (z >> 31)) % end
    }
}
