//! The SHA-256 of a certificate, as owners write it.

use std::fmt;

/// SHA-256 of the camera's certificate (DER).
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Fingerprint(pub [u8; 32]);

impl Fingerprint {
    /// 64 hexadecimal digits in any case, with colons between the bytes or without.
    pub fn parse(text: &str) -> Option<Self> {
        let digits: Vec<u8> = match text.len() {
            64 => text.bytes().collect(),
            95 if text.bytes().skip(2).step_by(3).all(|byte| byte == b':') => {
                let is_digit = |(n, _): &(usize, u8)| n % 3 != 2;
                text.bytes().enumerate().filter(is_digit).map(|(_, byte)| byte).collect()
            }
            _ => return None,
        };
        let mut hash = [0; 32];
        for (byte, pair) in hash.iter_mut().zip(digits.chunks_exact(2)) {
            let digit = |at: usize| char::from(pair[at]).to_digit(16);
            *byte = (digit(0)? << 4 | digit(1)?) as u8;
        }
        Some(Self(hash))
    }
}

/// As the API answers it: 64 lower-case digits.
impl fmt::Display for Fingerprint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for Fingerprint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_ways_to_write_it_are_read() {
        let plain = "00ff".repeat(16);
        let parsed = Fingerprint::parse(&plain).unwrap();
        assert_eq!(parsed.to_string(), plain);
        let colons = vec!["00:FF"; 16].join(":");
        assert_eq!(Fingerprint::parse(&colons), Some(parsed));
        for bad in ["", "00", &plain[1..], &plain.replace('f', "g"), &colons.replace(':', "-")] {
            assert_eq!(Fingerprint::parse(bad), None, "{bad}");
        }
        assert_eq!(Fingerprint::parse(&"é".repeat(32)), None);
    }
}
