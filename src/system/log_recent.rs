//! The last lines of the log, for `GET /api/v1/system/log`.
//!
//! In here: a ring of whole lines of at most `RECENT_BYTES_MAX`, which takes memory as lines come. Not in
//! here: what is logged, and writing it (`log.rs`). There is one log, and so one ring.

use std::collections::VecDeque;
use std::sync::{Mutex, PoisonError};

/// Bytes of the lines that are kept: some 600 lines, the oldest of which go.
pub const RECENT_BYTES_MAX: usize = 64 << 10;

static RECENT: Mutex<Recent> = Mutex::new(Recent { bytes: VecDeque::new() });

struct Recent {
    bytes: VecDeque<u8>,
}

impl Recent {
    fn push(&mut self, line: &[u8]) {
        while !self.bytes.is_empty() && self.bytes.len() + line.len() > RECENT_BYTES_MAX {
            let first = self.bytes.iter().position(|byte| *byte == b'\n');
            self.bytes.drain(..first.map_or(self.bytes.len(), |end| end + 1));
        }
        if line.len() <= RECENT_BYTES_MAX {
            self.bytes.extend(line);
        }
    }

    fn text(&self) -> String {
        let (front, back) = self.bytes.as_slices();
        String::from_utf8_lossy(&[front, back].concat()).into_owned()
    }
}

/// Keeps a line, with its line feed.
pub fn push(line: &[u8]) {
    RECENT.lock().unwrap_or_else(PoisonError::into_inner).push(line);
}

/// The lines that are kept, oldest first.
pub fn text() -> String {
    RECENT.lock().unwrap_or_else(PoisonError::into_inner).text()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn whole_lines_within_the_bound_and_the_newest_last(
            lengths in prop::collection::vec(0usize..9000, 1..60),
        ) {
            let mut recent = Recent { bytes: VecDeque::new() };
            for (n, length) in lengths.iter().enumerate() {
                recent.push(format!("{n} {}\n", "x".repeat(*length)).as_bytes());
                let text = recent.text();
                prop_assert!(text.len() <= RECENT_BYTES_MAX && text.ends_with('\n'));
                let numbers: Vec<usize> =
                    text.lines().map(|line| line.split(' ').next().unwrap().parse().unwrap()).collect();
                prop_assert_eq!(numbers.last(), Some(&n));
                prop_assert!(numbers.windows(2).all(|pair| pair[0] + 1 == pair[1]), "without a hole");
            }
        }
    }
}
