//! FLAC encoder (RFC 9639), as small as G.711 needs: 16 bits, one or two channels, lossless.
//!
//! In here: constant, verbatim and fixed prediction, Rice partitions, wasted bits (G.711 has two or
//! three in every sample). Not in here: linear prediction, stereo decorrelation, which buy little
//! on a microphone's 8 kHz. Frames keep the streamable subset (section 7) and variable block size
//! numbering, so that each RTP payload can be a frame of its own.

use super::bits::BitWriter;
use super::format::{AudioCodec, AudioFormat};

/// Samples per channel in a frame (section 8.2: at least 16; section 7: at most 4608 up to 48 kHz).
pub const BLOCK_SAMPLES_MIN: usize = 16;
pub const BLOCK_SAMPLES_MAX: usize = 4608;

const SAMPLE_BITS: u32 = 16;
const ORDER_MAX: usize = 4;
/// Section 7: at most 8 in the subset.
const PARTITION_ORDER_MAX: u32 = 8;
/// Rice parameter 15 is the escape code (section 9.2.7.1), which this encoder does not use.
const RICE_MAX: u32 = 14;
/// Coded sample numbers have 36 bits (section 9.1.5).
const SAMPLE_NUMBER_MASK: u64 = (1 << 36) - 1;

/// The audio format of a G.711 stream as it is stored. `source_codec` is `pcma` or `pcmu`.
pub fn audio_format_g711(
    source_codec: &'static str,
    sample_rate: u32,
    channels: u8,
) -> AudioFormat {
    let encoder = FlacEncoder::new(sample_rate, channels);
    AudioFormat {
        codec: AudioCodec::Flac,
        source_codec,
        sample_rate: encoder.sample_rate,
        channels: encoder.channels,
        decoder_config: encoder.stream_info().to_vec(),
        rfc6381: "flac".to_owned(),
    }
}

/// Encodes one stream; every call of `encode` makes one frame.
#[derive(Clone, Debug)]
pub struct FlacEncoder {
    sample_rate: u32,
    channels: u8,
    /// Of the first sample of the next frame, per channel.
    sample_number: u64,
    /// Scratch space of one channel, kept to stay off the heap.
    samples: Vec<i32>,
    residual: Vec<u32>,
}

impl FlacEncoder {
    /// `channels` is 1 or 2 and `sample_rate` 1 to 655350 Hz (section 8.2); others are moved into
    /// range.
    pub fn new(sample_rate: u32, channels: u8) -> Self {
        Self {
            sample_rate: sample_rate.clamp(1, 655_350),
            channels: channels.clamp(1, 2),
            sample_number: 0,
            samples: Vec::new(),
            residual: Vec::new(),
        }
    }

    /// The STREAMINFO block without its header (section 8.2). Number of samples, frame sizes and
    /// checksum are 0, not known: a recording is described before it is made.
    pub fn stream_info(&self) -> [u8; 34] {
        let mut info = [0; 34];
        info[..2].copy_from_slice(&(BLOCK_SAMPLES_MIN as u16).to_be_bytes());
        info[2..4].copy_from_slice(&(BLOCK_SAMPLES_MAX as u16).to_be_bytes());
        let packed =
            self.sample_rate << 12 | u32::from(self.channels - 1) << 9 | (SAMPLE_BITS - 1) << 4;
        info[10..14].copy_from_slice(&packed.to_be_bytes()); // then 36 bits of total samples: 0
        info
    }

    /// One frame of these samples, channels interleaved. `None` unless each channel has
    /// `BLOCK_SAMPLES_MIN` to `BLOCK_SAMPLES_MAX` samples.
    pub fn encode(&mut self, samples: &[i16]) -> Option<Vec<u8>> {
        let channels = usize::from(self.channels);
        let block = samples.len() / channels;
        let is_whole = samples.len() == block * channels;
        if !is_whole || !(BLOCK_SAMPLES_MIN..=BLOCK_SAMPLES_MAX).contains(&block) {
            return None;
        }
        let mut frame = encode_header(self.sample_rate, self.channels, self.sample_number, block);
        frame.reserve(samples.len() * 2);
        let mut bits = BitWriter::new(frame);
        for channel in 0..channels {
            self.samples.clear();
            let own = samples[channel..].iter().step_by(channels);
            self.samples.extend(own.map(|&sample| i32::from(sample)));
            encode_subframe(&mut bits, &mut self.samples, &mut self.residual);
        }
        let mut frame = bits.finish();
        let checksum = crc16(&frame);
        frame.extend_from_slice(&checksum.to_be_bytes());
        self.sample_number = (self.sample_number + block as u64) & SAMPLE_NUMBER_MASK;
        Some(frame)
    }
}

/// Frame header (section 9.1) with its checksum. `block` is at most `BLOCK_SAMPLES_MAX`.
fn encode_header(sample_rate: u32, channels: u8, sample_number: u64, block: usize) -> Vec<u8> {
    let (block_code, block_bytes) = if block <= 256 { (6, 1) } else { (7, 2) };
    let (rate_code, rate_value, rate_bytes) = rate_code(sample_rate);
    let mut out = Vec::with_capacity(16);
    out.extend_from_slice(&[0xFF, 0xF9]); // sync code, variable block size
    out.push(block_code << 4 | rate_code);
    out.push((channels - 1) << 4 | 4 << 1); // independent channels, 16 bits
    push_coded_number(&mut out, sample_number);
    out.extend_from_slice(&(block as u16 - 1).to_be_bytes()[2 - block_bytes..]);
    out.extend_from_slice(&rate_value.to_be_bytes()[2 - rate_bytes..]);
    let checksum = crc8(&out);
    out.push(checksum);
    out
}

/// Code of the sample rate, and its value behind the header with the length in bytes (section
/// 9.1.2).
fn rate_code(rate: u32) -> (u8, u16, usize) {
    const TABLE: [u32; 11] =
        [88200, 176_400, 192_000, 8000, 16000, 22050, 24000, 32000, 44100, 48000, 96000];
    if let Some(at) = TABLE.iter().position(|&known| known == rate) {
        (at as u8 + 1, 0, 0)
    } else if rate.is_multiple_of(1000) && rate / 1000 <= 255 {
        (12, (rate / 1000) as u16, 1)
    } else if let Ok(hertz) = u16::try_from(rate) {
        (13, hertz, 2)
    } else if rate.is_multiple_of(10) {
        (14, (rate / 10) as u16, 2)
    } else {
        (0, 0, 0) // as STREAMINFO says: outside of the subset, but right
    }
}

/// UTF-8 as it once was, up to 36 bits in 7 bytes (section 9.1.5).
fn push_coded_number(out: &mut Vec<u8>, number: u64) {
    if number < 0x80 {
        out.push(number as u8);
        return;
    }
    let bits = 64 - number.leading_zeros();
    let extra = (bits - 2) / 5; // n more bytes carry 6n + (6 - n) bits
    let lead = !(0xFFu32 >> (extra + 1)) as u8;
    out.push(lead | (number >> (6 * extra)) as u8);
    for at in (0..extra).rev() {
        out.push(0x80 | (number >> (6 * at) & 0x3F) as u8);
    }
}

/// One channel (section 9.2). `samples` is changed: wasted bits are shifted out.
fn encode_subframe(bits: &mut BitWriter, samples: &mut [i32], residual: &mut Vec<u32>) {
    if samples.iter().all(|&sample| sample == samples[0]) {
        bits.u(8, 0); // constant, no wasted bits
        bits.u(SAMPLE_BITS, samples[0] as u32);
        return;
    }
    let wasted = samples.iter().fold(0, |seen, &sample| seen | sample).trailing_zeros();
    samples.iter_mut().for_each(|sample| *sample >>= wasted);
    let width = SAMPLE_BITS - wasted;
    let order = choose_order(samples);
    fill_residual(samples, order, residual);
    let (partition_order, cost) = choose_partitions(residual, samples.len(), order);
    let is_verbatim =
        cost + u64::from(width) * order as u64 >= u64::from(width) * samples.len() as u64;
    let kind = if is_verbatim { 1 } else { 8 + order as u32 };
    bits.u(8, kind << 1 | u32::from(wasted > 0));
    if wasted > 0 {
        bits.unary(wasted - 1);
    }
    let plain = if is_verbatim { samples.len() } else { order };
    for &sample in &samples[..plain] {
        bits.u(width, sample as u32);
    }
    if !is_verbatim {
        encode_residual(bits, residual, samples.len(), order, partition_order);
    }
}

/// The fixed predictor with the smallest residual (section 9.2.5): one pass over all five.
fn choose_order(samples: &[i32]) -> usize {
    let mut sums = [0u64; ORDER_MAX + 1];
    let mut last = [0i32; ORDER_MAX];
    for (at, &sample) in samples.iter().enumerate() {
        let mut error = sample;
        for order in 0..=ORDER_MAX {
            if at >= ORDER_MAX {
                sums[order] += u64::from(error.unsigned_abs());
            }
            if order < ORDER_MAX {
                let previous = std::mem::replace(&mut last[order], error);
                error -= previous;
            }
        }
    }
    (0..=ORDER_MAX).min_by_key(|&order| sums[order]).unwrap_or(0)
}

/// Residual of the fixed predictor, folded to unsigned (section 9.2.7.2). At most 21 bits.
fn fill_residual(samples: &[i32], order: usize, residual: &mut Vec<u32>) {
    const COEFFICIENTS: [[i32; ORDER_MAX]; ORDER_MAX + 1] =
        [[0, 0, 0, 0], [1, 0, 0, 0], [2, -1, 0, 0], [3, -3, 1, 0], [4, -6, 4, -1]];
    let weights = &COEFFICIENTS[order][..order];
    residual.clear();
    residual.extend((order..samples.len()).map(|at| {
        let past = samples[at - order..at].iter().rev();
        let predicted: i32 = weights.iter().zip(past).map(|(weight, sample)| weight * sample).sum();
        let error = samples[at] - predicted;
        (error << 1 ^ error >> 31) as u32
    }));
}

/// The partition order with the fewest bits, and these bits (an upper bound). The sums of a coarser
/// partition are the sums of two finer ones.
fn choose_partitions(residual: &[u32], block: usize, order: usize) -> (u32, u64) {
    let fits = |po: u32| block.is_multiple_of(1 << po) && block >> po > order;
    let finest = (0..=PARTITION_ORDER_MAX).take_while(|&po| fits(po)).last().unwrap_or(0);
    let mut sums = [0u64; 1 << PARTITION_ORDER_MAX];
    for (at, &value) in residual.iter().enumerate() {
        sums[(at + order) / (block >> finest)] += u64::from(value);
    }
    let mut best = (0, u64::MAX);
    for partition_order in (0..=finest).rev() {
        let count = 1usize << partition_order;
        let size = block >> partition_order;
        let cost = 6
            + (0..count)
                .map(|at| 4 + choose_rice(sums[at], if at == 0 { size - order } else { size }).1)
                .sum::<u64>();
        if cost <= best.1 {
            best = (partition_order, cost);
        }
        for at in 0..count / 2 {
            sums[at] = sums[2 * at] + sums[2 * at + 1];
        }
    }
    best
}

/// The Rice parameter for `count` values of this sum, and their bits at most. The cost falls to one
/// minimum and rises behind it.
fn choose_rice(sum: u64, count: usize) -> (u32, u64) {
    let cost = |rice: u32| (sum >> rice) + count as u64 * u64::from(rice + 1);
    let best = (0..RICE_MAX).find(|&rice| cost(rice + 1) >= cost(rice)).unwrap_or(RICE_MAX);
    (best, cost(best))
}

/// Coded residual (section 9.2.7) with 4-bit Rice parameters.
fn encode_residual(
    bits: &mut BitWriter,
    residual: &[u32],
    block: usize,
    order: usize,
    partition_order: u32,
) {
    bits.u(2, 0);
    bits.u(4, partition_order);
    let size = block >> partition_order;
    let mut rest = residual;
    for at in 0..1usize << partition_order {
        let (values, behind) = rest.split_at(if at == 0 { size - order } else { size });
        rest = behind;
        let sum = values.iter().map(|&value| u64::from(value)).sum();
        let (rice, _) = choose_rice(sum, values.len());
        bits.u(4, rice);
        for &value in values {
            bits.unary(value >> rice);
            bits.u(rice, value);
        }
    }
}

static CRC8_TABLE: [u8; 256] = {
    let mut table = [0; 256];
    let mut at = 0;
    while at < 256 {
        table[at] = (crc_byte(at as u16, 0x07 << 8) >> 8) as u8;
        at += 1;
    }
    table
};
static CRC16_TABLE: [u16; 256] = {
    let mut table = [0; 256];
    let mut at = 0;
    while at < 256 {
        table[at] = crc_byte(at as u16, 0x8005);
        at += 1;
    }
    table
};

/// Shifts one byte through a register of 16 bits (a polynomial of 8 bits stands in its upper half).
const fn crc_byte(byte: u16, polynomial: u16) -> u16 {
    let mut register = byte << 8;
    let mut at = 0;
    while at < 8 {
        let carry = register & 0x8000 != 0;
        register = (register << 1) ^ if carry { polynomial } else { 0 };
        at += 1;
    }
    register
}

/// Checksum of a frame header (section 9.1.8): x^8 + x^2 + x + 1.
fn crc8(data: &[u8]) -> u8 {
    data.iter().fold(0, |crc, byte| CRC8_TABLE[usize::from(crc ^ byte)])
}

/// Checksum of a frame (section 9.3): x^16 + x^15 + x^2 + 1.
fn crc16(data: &[u8]) -> u16 {
    data.iter().fold(0u16, |crc, byte| crc << 8 ^ CRC16_TABLE[usize::from((crc >> 8) as u8 ^ byte)])
}

#[cfg(test)]
mod tests;
