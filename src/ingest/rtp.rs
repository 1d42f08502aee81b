//! RTP and RTCP packets (RFC 3550), and whether packets are missing between them.
//!
//! Not in here: time (`timeline.rs`), payloads (`depacketize_*.rs`).

/// An RTP packet, borrowed from the read buffer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RtpPacket<'a> {
    pub payload_type: u8,
    /// Video: the last packet of an access unit, if the camera keeps to it.
    pub has_marker: bool,
    pub sequence: u16,
    pub timestamp: u32,
    pub ssrc: u32,
    /// Profile number and words of the header extension.
    pub extension: Option<(u16, &'a [u8])>,
    pub payload: &'a [u8],
}

/// Parses an RTP packet (RFC 3550 section 5.1). The error says what is wrong with it.
pub fn parse_rtp(bytes: &[u8]) -> Result<RtpPacket<'_>, &'static str> {
    let Some((head, mut rest)) = bytes.split_first_chunk::<12>() else {
        return Err("RTP packet of less than 12 bytes");
    };
    if head[0] >> 6 != 2 {
        return Err("RTP packet of another version than 2");
    }
    let csrc_bytes = usize::from(head[0] & 0x0f) * 4;
    rest = rest.get(csrc_bytes..).ok_or("RTP packet ends in its CSRC list")?;
    let mut extension = None;
    if head[0] & 0x10 != 0 {
        let (head, after) = rest.split_first_chunk::<4>().ok_or("RTP extension is cut off")?;
        let length = usize::from(u16::from_be_bytes([head[2], head[3]])) * 4;
        let words = after.get(..length).ok_or("RTP extension is cut off")?;
        extension = Some((u16::from_be_bytes([head[0], head[1]]), words));
        rest = &after[length..];
    }
    if head[0] & 0x20 != 0
        && let Some(&padding) = rest.last()
    {
        let end = rest.len().checked_sub(padding.into()).ok_or("RTP padding beyond the payload")?;
        rest = &rest[..end];
    }
    Ok(RtpPacket {
        payload_type: head[1] & 0x7f,
        has_marker: head[1] & 0x80 != 0,
        sequence: u16::from_be_bytes([head[2], head[3]]),
        timestamp: u32::from_be_bytes([head[4], head[5], head[6], head[7]]),
        ssrc: u32::from_be_bytes([head[8], head[9], head[10], head[11]]),
        extension,
        payload: rest,
    })
}

/// What the first packet of a compound says, if it is a sender report (RFC 3550 section 6.4.1).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SenderReport {
    pub ssrc: u32,
    /// The camera's clock, in 2^-32 s.
    pub ntp: u64,
    /// The timestamp of the same moment.
    pub timestamp: u32,
}

/// Parses a sender report at the begin of a compound RTCP packet.
pub fn parse_sender_report(bytes: &[u8]) -> Option<SenderReport> {
    let head = bytes.first_chunk::<20>()?;
    if head[0] >> 6 != 2 || head[1] != 200 {
        return None;
    }
    let word = |at: usize| u32::from_be_bytes([head[at], head[at + 1], head[at + 2], head[at + 3]]);
    let ntp = u64::from(word(8)) << 32 | u64::from(word(12));
    Some(SenderReport { ssrc: word(4), ntp, timestamp: word(16) })
}

/// Whether a compound RTCP packet holds a BYE (RFC 3550 section 6.6) for `ssrc`; with `None` for
/// any. A camera that says BYE leaves the TCP connection open and is silent from then on (quirk 31).
pub fn has_bye(mut bytes: &[u8], ssrc: Option<u32>) -> bool {
    while let Some(head) = bytes.first_chunk::<4>() {
        let length = 4 + usize::from(u16::from_be_bytes([head[2], head[3]])) * 4;
        let Some(packet) = bytes.get(..length) else { return false };
        if head[0] >> 6 != 2 {
            return false;
        }
        if head[1] == 203 {
            let count = usize::from(head[0] & 0x1f);
            let mut sources = packet[4..].chunks_exact(4).take(count);
            let is_meant = |s: &[u8]| ssrc.is_none_or(|want| s == want.to_be_bytes());
            return count == 0 || sources.any(is_meant);
        }
        bytes = &bytes[length..];
    }
    false
}

/// Backward steps among `WINDOW` packets after which sequence numbers are not believed.
const STRIKES_MAX: u8 = 16;
const WINDOW: u8 = 64;

/// Sequence numbers of one track over TCP, where order is kept: a step other than one is a loss in
/// the camera, or in the framing.
#[derive(Debug, Default)]
pub struct SequenceTracker {
    last: Option<(u32, u16)>,
    /// Packets and backward steps of the current window.
    seen: u8,
    strikes: u8,
    is_distrusted: bool,
    /// Packets that are known to be missing.
    pub lost: u64,
}

impl SequenceTracker {
    /// Takes the next packet. True: something is missing between it and the one before. A camera
    /// whose numbers stand still or jump about is told from one that loses packets by steps
    /// backward, which TCP cannot make; its numbers mean nothing and are left alone.
    pub fn is_gap(&mut self, ssrc: u32, sequence: u16) -> bool {
        let Some((last_ssrc, last)) = self.last.replace((ssrc, sequence)) else { return false };
        if self.is_distrusted {
            return false;
        }
        let step = sequence.wrapping_sub(last);
        let is_backward = ssrc != last_ssrc || step == 0 || step >= 0x8000;
        self.strikes += u8::from(is_backward);
        self.seen += 1;
        self.is_distrusted = self.strikes >= STRIKES_MAX;
        if self.seen >= WINDOW {
            (self.seen, self.strikes) = (0, 0);
        }
        match step {
            1 if ssrc == last_ssrc => false,
            _ => {
                self.lost += if is_backward { 1 } else { u64::from(step) - 1 };
                true
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn all_parts_of_a_packet_are_told_apart() {
        let bytes = [
            &[0xb2, 0xe0, 0x12, 0x34, 0, 0, 0, 5, 0, 0, 0, 6][..],
            &[1; 8], // two CSRC
            &[0xff, 0xd8, 0, 1, 9, 9, 9, 9],
            b"data",
            &[0, 0, 3],
        ]
        .concat();
        let want = RtpPacket {
            payload_type: 96,
            has_marker: true,
            sequence: 0x1234,
            timestamp: 5,
            ssrc: 6,
            extension: Some((0xffd8, &[9; 4])),
            payload: b"data",
        };
        assert_eq!(parse_rtp(&bytes), Ok(want));
        for end in 0..28 {
            assert!(parse_rtp(&bytes[..end]).is_err() || end == 28, "{end}");
        }
    }

    #[test]
    fn bye_is_found_in_a_compound_for_the_right_source() {
        let sr = [&[0x80, 200, 0, 6][..], &[0; 24]].concat();
        let bye = [0x81, 203, 0, 1, 0, 0, 0, 7];
        let compound = [sr.clone(), bye.to_vec()].concat();
        assert!(has_bye(&compound, Some(7)) && has_bye(&compound, None));
        assert!(!has_bye(&compound, Some(8)));
        assert!(!has_bye(&sr, None));
        assert!(has_bye(&[0x80, 203, 0, 0], Some(8)));
    }

    #[test]
    fn gaps_are_counted_and_wraps_are_none() {
        let mut t = SequenceTracker::default();
        let steps = [(65534, false), (65535, false), (0, false), (3, true), (4, false), (4, true)];
        for (sequence, want) in steps {
            assert_eq!(t.is_gap(1, sequence), want, "{sequence}");
        }
        assert_eq!(t.lost, 3);
        assert!(t.is_gap(2, 5));
    }

    #[test]
    fn numbers_that_mean_nothing_are_left_alone() {
        let mut t = SequenceTracker::default();
        let gaps = (0..1000).filter(|_| t.is_gap(1, 7)).count();
        assert_eq!(gaps, usize::from(STRIKES_MAX));
    }

    proptest! {
        #[test]
        fn any_bytes_are_survived(bytes in proptest::collection::vec(any::<u8>(), 0..80)) {
            let _ = parse_rtp(&bytes);
            has_bye(&bytes, Some(1));
            parse_sender_report(&bytes);
        }
    }
}
