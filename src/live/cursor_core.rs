//! Where a socket's viewer is in its stream, and when it skips.
//!
//! In here: the next packet to send. A viewer starts at the newest keyframe. One that has not been at
//! the end of what there is for `BEHIND_MS_MAX` is behind: it goes on at the newest keyframe, or waits for
//! the next one, and is told how many frames it lost. While it catches up for the first time it may take
//! longer, as long as its group of pictures is the newest. Keeps PURE-CORE.

use super::window_core::{BEHIND_MS_MAX, Window};

/// What to do for a viewer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// Send the packet of this index.
    Send(u64),
    /// Say that so many frames were left out.
    Skipped(u64),
    /// There is nothing to send now.
    Wait,
}

/// A viewer's place.
#[derive(Debug)]
pub struct Cursor {
    next: u64,
    /// When everything there was had been sent; `None` before the first time.
    at_end_ms: Option<u64>,
    /// Nothing is sent until there is a keyframe from `next` on.
    waits_for_key: bool,
    /// Frames left out that the viewer was not told of.
    skipped: u64,
}

impl Cursor {
    /// A viewer who starts now.
    pub fn new(window: &Window) -> Self {
        let key = window.newest_key();
        Self {
            next: key.unwrap_or_else(|| window.end()),
            at_end_ms: None,
            waits_for_key: key.is_none(),
            skipped: 0,
        }
    }

    /// What to do now; `now_ms` must not run backwards.
    pub fn poll(&mut self, window: &Window, now_ms: u64) -> Step {
        let newer_key = window.newest_key().filter(|key| *key > self.next);
        let is_late = match self.at_end_ms {
            Some(at) => now_ms.saturating_sub(at) > BEHIND_MS_MAX as u64,
            None => newer_key.is_some(),
        };
        let is_gone = self.next < window.end() && window.packet(self.next).is_none();
        if !self.waits_for_key && self.next < window.end() && (is_late || is_gone) {
            self.waits_for_key = true;
            self.at_end_ms = Some(now_ms);
        }
        if self.waits_for_key {
            let Some(key) = window.newest_key().filter(|key| *key >= self.next) else {
                let lost = window.end() - self.next.min(window.end());
                self.skipped += lost;
                self.next += lost;
                return Step::Wait;
            };
            self.skipped += key - self.next;
            (self.next, self.waits_for_key) = (key, false);
            self.at_end_ms = self.at_end_ms.map(|_| now_ms);
        }
        if self.skipped > 0 {
            return Step::Skipped(std::mem::take(&mut self.skipped));
        }
        if self.next >= window.end() {
            self.at_end_ms = Some(now_ms);
            return Step::Wait;
        }
        self.next += 1;
        Step::Send(self.next - 1)
    }
}
