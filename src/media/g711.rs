//! G.711: A-law and mu-law, both directions (ITU-T G.711).
//!
//! In here: one byte is one sample of 8 bits that stands for one of 13 or 14. Browsers do not play
//! G.711 in MP4, so it is decoded and stored as FLAC (`flac.rs`); the way back is what proves that
//! nothing is lost.

/// Which of the two laws.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Law {
    /// `pcma`, RTP payload type 8.
    A,
    /// `pcmu`, RTP payload type 0.
    Mu,
}

static A_TABLE: [i16; 256] = decode_table(Law::A);
static MU_TABLE: [i16; 256] = decode_table(Law::Mu);

impl Law {
    /// The name that the API uses: `pcma`, `pcmu`.
    pub fn name(self) -> &'static str {
        match self {
            Self::A => "pcma",
            Self::Mu => "pcmu",
        }
    }

    /// One sample at the full scale of 16 bits: A-law in steps of 8, mu-law in steps of 4.
    pub fn decode(self, code: u8) -> i16 {
        match self {
            Self::A => A_TABLE[usize::from(code)],
            Self::Mu => MU_TABLE[usize::from(code)],
        }
    }

    /// All samples of a payload.
    pub fn decode_all(self, payload: &[u8]) -> Vec<i16> {
        payload.iter().map(|&code| self.decode(code)).collect()
    }

    /// The code whose interval holds `sample`. For every code but mu-law 0x7F (minus zero, which
    /// decodes to 0 like 0xFF) this undoes `decode`.
    pub fn encode(self, sample: i16) -> u8 {
        match self {
            Self::A => encode_a(sample),
            Self::Mu => encode_mu(sample),
        }
    }
}

const fn decode_table(law: Law) -> [i16; 256] {
    let mut table = [0; 256];
    let mut code = 0;
    while code < 256 {
        table[code] = match law {
            Law::A => decode_a(code as u8),
            Law::Mu => decode_mu(code as u8),
        };
        code += 1;
    }
    table
}

/// Table 1a of G.711, at 16 bits: even bits are inverted, the top bit set means positive.
const fn decode_a(code: u8) -> i16 {
    let code = code ^ 0x55;
    let segment = code >> 4 & 7;
    let step = (code as i16 & 0x0F) << 4 | 8; // the middle of the interval
    let magnitude = if segment == 0 { step } else { (step | 0x100) << (segment - 1) };
    if code & 0x80 != 0 { magnitude } else { -magnitude }
}

/// Table 2a of G.711, at 16 bits: all bits are inverted, 33 steps of bias at 14 bits are 0x84 at
/// 16.
const fn decode_mu(code: u8) -> i16 {
    let code = !code;
    let segment = code >> 4 & 7;
    let magnitude = (((code as i16 & 0x0F) << 3 | 0x84) << segment) - 0x84;
    if code & 0x80 != 0 { -magnitude } else { magnitude }
}

fn encode_a(sample: i16) -> u8 {
    let (magnitude, sign) = if sample >= 0 { (sample, 0x80) } else { (!sample, 0) };
    let magnitude = magnitude as u16 >> 3; // 12 bits
    let code = if magnitude < 0x20 {
        (magnitude >> 1) as u8
    } else {
        let segment = 11 - magnitude.leading_zeros() as u8; // 0x20 to 0x3F: segment 1
        segment << 4 | (magnitude >> segment & 0x0F) as u8
    };
    (code | sign) ^ 0x55
}

fn encode_mu(sample: i16) -> u8 {
    let sign = if sample < 0 { 0x80 } else { 0 };
    let biased = (sample.unsigned_abs().min(32_635) + 0x84) >> 3; // at least 0x10, at most 0xFFF
    let segment = 11 - biased.leading_zeros() as u8;
    !(sign | segment << 4 | (biased >> segment & 0x0F) as u8)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::media::media_tool::{TempDir, run};

    const ALL_CODES: [u8; 256] = {
        let mut codes = [0; 256];
        let mut code = 0;
        while code < 256 {
            codes[code] = code as u8;
            code += 1;
        }
        codes
    };

    #[test]
    fn every_code_comes_back() {
        for law in [Law::A, Law::Mu] {
            for code in ALL_CODES {
                let sample = law.decode(code);
                let back = law.encode(sample);
                assert_eq!(law.decode(back), sample, "{law:?} {code:#x}");
                let is_minus_zero = law == Law::Mu && code == 0x7F;
                assert!(back == code || is_minus_zero, "{law:?} {code:#x} came back as {back:#x}");
            }
        }
    }

    #[test]
    fn every_sample_stays_within_half_a_step() {
        for law in [Law::A, Law::Mu] {
            for sample in i16::MIN..=i16::MAX {
                let error = i32::from(law.decode(law.encode(sample))) - i32::from(sample);
                // 16 steps per octave; below 256 the steps stay as they are.
                let half_step = (i32::from(sample).abs() + 256) / 32;
                assert!(error.abs() <= half_step, "{law:?} {sample} is off by {error}");
            }
        }
    }

    #[test]
    fn tables_agree_with_ffmpeg() {
        let dir = TempDir::new();
        let input = dir.write("codes.raw", &ALL_CODES);
        for (law, name) in [(Law::A, "alaw"), (Law::Mu, "mulaw")] {
            let args = ["-v", "error", "-f", name, "-i", &input, "-f", "s16le", "-"];
            let want = run("ffmpeg", &args);
            let got: Vec<u8> =
                law.decode_all(&ALL_CODES).iter().flat_map(|sample| sample.to_le_bytes()).collect();
            assert_eq!(got, want, "{name}");
        }
    }
}
