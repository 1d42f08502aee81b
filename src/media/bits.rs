//! Bits: a reader for parameter sets (H.264, H.265, AAC) and a writer for FLAC frames.
//!
//! In here: fixed-length and Exp-Golomb codes, on bytes whose emulation prevention is already gone
//! (`nal::unescape`). Not in here: what the bits mean. Invariant B1: reading any input, however
//! hostile, ends in `None`, never in a panic.

/// Reads bits from the most significant end; every method returns `None` past the end.
#[derive(Clone, Debug)]
pub struct BitReader<'a> {
    data: &'a [u8],
    at: usize,
}

impl<'a> BitReader<'a> {
    /// Starts at the first bit of `data`.
    pub fn new(data: &'a [u8]) -> Self {
        Self { data, at: 0 }
    }

    /// How many bits are left.
    pub fn bits_left(&self) -> usize {
        self.data.len() * 8 - self.at
    }

    /// One bit.
    pub fn flag(&mut self) -> Option<bool> {
        let byte = *self.data.get(self.at / 8)?;
        let bit = byte >> (7 - self.at % 8) & 1;
        self.at += 1;
        Some(bit == 1)
    }

    /// `count` bits as an unsigned number; `count` is at most 32.
    pub fn u(&mut self, count: u32) -> Option<u32> {
        if count > 32 || self.bits_left() < count as usize {
            return None;
        }
        let mut value = 0u64;
        let mut wanted = count as usize;
        while wanted > 0 {
            let used = self.at % 8;
            let take = wanted.min(8 - used);
            let byte = u64::from(*self.data.get(self.at / 8)?);
            value = value << take | (byte >> (8 - used - take) & ((1 << take) - 1));
            self.at += take;
            wanted -= take;
        }
        u32::try_from(value).ok()
    }

    /// Leaves out `count` bits.
    pub fn skip(&mut self, count: usize) -> Option<()> {
        if self.bits_left() < count {
            return None;
        }
        self.at += count;
        Some(())
    }

    /// Unsigned Exp-Golomb code (ITU-T H.264 section 9.1), 0 to `u32::MAX - 1`.
    pub fn ue(&mut self) -> Option<u32> {
        let mut zeros = 0;
        while !self.flag()? {
            zeros += 1;
            if zeros > 31 {
                return None;
            }
        }
        let rest = self.u(zeros)?;
        Some(((1u64 << zeros) - 1 + u64::from(rest)) as u32) // zeros <= 31: fits
    }

    /// An unsigned Exp-Golomb code that the standard bounds by `max`.
    pub fn ue_max(&mut self, max: u32) -> Option<u32> {
        self.ue().filter(|&value| value <= max)
    }

    /// Signed Exp-Golomb code (ITU-T H.264 section 9.1.1).
    pub fn se(&mut self) -> Option<i32> {
        let code = i64::from(self.ue()?);
        let magnitude = (code + 1) / 2;
        i32::try_from(if code % 2 == 1 { magnitude } else { -magnitude }).ok()
    }
}

/// Appends bits, the most significant first.
#[derive(Clone, Debug, Default)]
pub struct BitWriter {
    out: Vec<u8>,
    /// Bits that do not fill a byte yet, in the low `held_count` (under 8) bits.
    held: u64,
    held_count: u32,
}

impl BitWriter {
    /// Goes on behind the bytes of `out`.
    pub fn new(out: Vec<u8>) -> Self {
        Self { out, held: 0, held_count: 0 }
    }

    /// The low `count` bits of `value`; `count` is at most 32.
    pub fn u(&mut self, count: u32, value: u32) {
        debug_assert!(count <= 32, "more bits than the value has");
        self.held = self.held << count | (u64::from(value) & ((1 << count) - 1));
        self.held_count += count;
        while self.held_count >= 8 {
            self.held_count -= 8;
            self.out.push((self.held >> self.held_count) as u8);
        }
        self.held &= (1 << self.held_count) - 1;
    }

    /// `zeros` zeros and a one.
    pub fn unary(&mut self, zeros: u32) {
        for _ in 0..zeros / 32 {
            self.u(32, 0);
        }
        self.u(zeros % 32, 0);
        self.u(1, 1);
    }

    /// The bytes, the last one filled up with zeros.
    pub fn finish(mut self) -> Vec<u8> {
        self.u((8 - self.held_count) % 8, 0);
        self.out
    }
}

#[cfg(test)]
impl BitWriter {
    /// Unsigned Exp-Golomb code, for parameter sets that no encoder at hand writes.
    pub fn ue(&mut self, value: u32) {
        let code = value + 1;
        let len = 32 - code.leading_zeros();
        self.u(len - 1, 0);
        self.u(len, code);
    }

    /// Signed Exp-Golomb code.
    pub fn se(&mut self, value: i32) {
        self.ue(if value > 0 { 2 * value as u32 - 1 } else { 2 * value.unsigned_abs() });
    }

    /// Unsigned Exp-Golomb codes, one after the other.
    pub fn all_ue(&mut self, values: &[u32]) {
        for &value in values {
            self.ue(value);
        }
    }

    /// Fixed-length codes, one after the other.
    pub fn all(&mut self, codes: &[(u32, u32)]) {
        for &(count, value) in codes {
            self.u(count, value);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn fixed_and_exp_golomb_codes_follow_the_table() {
        // 1 | 010 | 011 | 00100 | 00101, padded: codes 0, 1, 2, 3, 4 (H.264 table 9-2).
        let bytes = [0b1010_0110, 0b0100_0010, 0b1000_0000];
        let mut bits = BitReader::new(&bytes);
        for want in 0..5 {
            assert_eq!(bits.ue(), Some(want));
        }
        let mut bits = BitReader::new(&bytes);
        let signed: Vec<_> = (0..5).map(|_| bits.se()).collect();
        assert_eq!(signed, [Some(0), Some(1), Some(-1), Some(2), Some(-2)]);
        let mut bits = BitReader::new(&[0x12, 0x34, 0x56, 0x78, 0x9A]);
        assert_eq!(bits.u(4), Some(1));
        assert_eq!(bits.u(32), Some(0x2345_6789));
        assert_eq!(bits.u(5), None);
        assert_eq!(bits.u(4), Some(0xA));
        assert_eq!(bits.u(0), Some(0));
        assert_eq!(bits.flag(), None);
    }

    #[test]
    fn longest_code_is_read_and_a_longer_one_refused() {
        let longest = [0x00, 0x00, 0x00, 0x01, 0xFF, 0xFF, 0xFF, 0xFF];
        assert_eq!(BitReader::new(&longest).ue(), Some(u32::MAX - 1));
        assert_eq!(BitReader::new(&[0; 16]).ue(), None);
        assert_eq!(BitReader::new(&[0, 0]).ue(), None);
    }

    proptest! {
        #[test]
        fn what_is_written_is_read(codes: Vec<(u8, u32)>, unary in 0u32..100) {
            let mut writer = BitWriter::new(vec![0xAB]);
            let codes = codes.into_iter().map(|(count, value)| (u32::from(count % 33), value));
            let codes: Vec<_> = codes.map(|(n, v)| (n, (u64::from(v) & ((1 << n) - 1)) as u32)).collect();
            writer.all(&codes);
            writer.unary(unary);
            let bytes = writer.finish();
            let mut reader = BitReader::new(&bytes);
            prop_assert_eq!(reader.u(8), Some(0xAB));
            for (count, value) in codes {
                prop_assert_eq!(reader.u(count), Some(value));
            }
            let zeros = std::iter::from_fn(|| reader.flag()).take_while(|one| !one).count();
            prop_assert_eq!(zeros, unary as usize);
            prop_assert!(reader.bits_left() < 8);
        }

        #[test]
        fn exp_golomb_codes_are_read_back(value in 0..u32::MAX - 1, signed in -70_000i32..70_000) {
            let mut writer = BitWriter::default();
            writer.ue(value);
            writer.se(signed);
            let bytes = writer.finish();
            let mut reader = BitReader::new(&bytes);
            prop_assert_eq!(reader.ue(), Some(value));
            prop_assert_eq!(reader.se(), Some(signed));
        }

        #[test]
        fn arbitrary_reads_never_panic(data: Vec<u8>, ops: Vec<(u8, u32)>) {
            let mut bits = BitReader::new(&data);
            for (op, arg) in ops {
                match op % 5 {
                    0 => drop(bits.u(arg % 40)),
                    1 => drop(bits.ue()),
                    2 => drop(bits.se()),
                    3 => drop(bits.skip(arg as usize)),
                    _ => drop(bits.flag()),
                }
                prop_assert!(bits.bits_left() <= data.len() * 8);
            }
        }
    }
}
