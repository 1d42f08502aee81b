//! Fragments of live view: one per part for HLS, one per frame for sockets.
//!
//! In here: which samples, with which times. The bytes of a head are `media/fmp4`'s; the media itself
//! stays in its packets. A part's fragment depends on nothing but the part, so it is the same bytes
//! whenever it is fetched, by itself or in its segment. Keeps PURE-CORE.

use super::window_core::{Epoch, Part, Window};
use crate::media::fmp4::{
    AUDIO_TRACK_ID, SampleInfo, TrackFragment, VIDEO_TRACK_ID, encode_fragment_head,
    encode_live_init,
};
use crate::media::format::{AudioCodec, AudioFormat, VIDEO_TIMESCALE};
use crate::media::packet::{Packet, Track};

/// A fragment: `head`, then the data of these packets in this order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fragment {
    pub head: Vec<u8>,
    pub packets: Vec<u64>,
    /// Bytes in all.
    pub len: u64,
}

/// The initialization section of an epoch.
pub fn encode_epoch_init(epoch: &Epoch) -> Vec<u8> {
    encode_live_init(&epoch.video, epoch.audio.as_deref())
}

/// The fragment of a part; `None` when its packets are gone.
pub fn encode_part(window: &Window, epoch: &Epoch, part: &Part) -> Option<Fragment> {
    let (mut video, mut audio) = (Samples::default(), Samples::default());
    for index in part.first..part.end {
        let packet = window.packet(index)?;
        match &packet.track {
            Track::Video(_) => video.add(index, packet, packet.dts - epoch.zero),
            Track::Audio(_) => {
                // Before the picture's beginning: no place on the axis.
                let at = packet.pts - audio_zero(epoch);
                if at >= 0 {
                    audio.add(index, packet, at);
                }
            }
        }
    }
    video.close(part.last_ticks);
    let usual = epoch.audio.as_deref().map_or(1, usual_duration);
    audio.close(audio.samples.iter().rev().nth(1).map_or(usual, |one| i64::from(one.duration)));
    let head = encode_fragment_head(
        part.sequence as u32, // rises, modulo 2^32
        &[video.fragment(VIDEO_TRACK_ID), audio.fragment(AUDIO_TRACK_ID)],
    );
    let len = head.len() as u64 + video.bytes + audio.bytes;
    video.packets.append(&mut audio.packets);
    Some(Fragment { head, packets: video.packets, len })
}

/// The head of the fragment of one packet; `None` when it has no place on the axis of its epoch.
pub fn encode_frame_head(window: &Window, epoch: &Epoch, index: u64) -> Option<Vec<u8>> {
    let packet = window.packet(index)?;
    let (mut track, track_id, duration) = match &packet.track {
        Track::Video(_) => {
            // The next frame is known while a viewer catches up.
            let later = (index + 1..window.end()).filter_map(|at| window.packet(at));
            let next = later.take(FRAMES_AHEAD_MAX).find(|next| next.is_video());
            let next = next.filter(|next| next.run.id == packet.run.id);
            let step = next.map_or(window.interval(), |next| next.dts - packet.dts);
            (Samples::default(), VIDEO_TRACK_ID, step.max(1))
        }
        Track::Audio(format) => (Samples::default(), AUDIO_TRACK_ID, usual_duration(format)),
    };
    let at = match &packet.track {
        Track::Video(_) => packet.dts - epoch.zero,
        Track::Audio(_) => packet.pts - audio_zero(epoch),
    };
    if at < 0 {
        return None;
    }
    track.add(index, packet, at);
    track.close(duration);
    Some(encode_fragment_head(index as u32, &[track.fragment(track_id)]))
}

/// Packets of sound between two pictures that are looked through.
const FRAMES_AHEAD_MAX: usize = 16;

/// Where the epoch's zero lies on the axis of its sound.
fn audio_zero(epoch: &Epoch) -> i64 {
    let rate = epoch.audio.as_ref().map_or(1, |audio| audio.sample_rate);
    (i128::from(epoch.zero) * i128::from(rate)).div_euclid(i128::from(VIDEO_TIMESCALE)) as i64
}

/// Samples of a frame whose successor is not known: AAC has 1024; Opus usually 20 ms, and FLAC is made in
/// pieces of 20 ms.
fn usual_duration(audio: &AudioFormat) -> i64 {
    match audio.codec {
        AudioCodec::Aac => 1024,
        AudioCodec::Opus | AudioCodec::Flac => i64::from(audio.sample_rate / 50).max(1),
    }
}

/// The samples of one track.
#[derive(Default)]
struct Samples {
    base: i64,
    last: i64,
    samples: Vec<SampleInfo>,
    packets: Vec<u64>,
    bytes: u64,
}

impl Samples {
    fn add(&mut self, index: u64, packet: &Packet, at: i64) {
        match self.samples.last_mut() {
            Some(last) => last.duration = u32::try_from(at - self.last).unwrap_or(0),
            None => self.base = at,
        }
        self.last = at;
        self.bytes += packet.data.len() as u64;
        self.packets.push(index);
        self.samples.push(SampleInfo {
            size: packet.data.len() as u32, // <= PACKET_BYTES_MAX
            duration: 0,
            cts_offset: i32::try_from(packet.pts - packet.dts).unwrap_or(0),
            is_key: packet.is_key,
        });
    }

    fn close(&mut self, duration: i64) {
        if let Some(last) = self.samples.last_mut() {
            last.duration = u32::try_from(duration).unwrap_or(0);
        }
    }

    fn fragment(&self, track_id: u32) -> TrackFragment<'_> {
        let base_dts = u64::try_from(self.base).unwrap_or(0);
        TrackFragment { track_id, base_dts, samples: &self.samples }
    }
}
