//! The board against a plain list of what was pushed.

use std::collections::BTreeMap;

use proptest::prelude::*;

use super::*;
use crate::buffer::buffer_tests::packet;
use crate::buffer::spill_core;

const KIB: usize = 1 << 10;
/// Recorder's clock between two packets.
const FRAME_MS: i64 = 10;

/// Swap files as bytes.
#[derive(Default)]
struct Disk(BTreeMap<u32, Vec<u8>>);

impl Disk {
    fn write(&mut self, op: &WriteOp) -> u32 {
        let bytes = spill_core::encode(&op.packets, &op.table);
        let mut rest = &bytes[..];
        let file = self.0.entry(op.file).or_default();
        for extent in &op.extents {
            let (at, now) = (extent.at as usize, &rest[..extent.len]);
            file.resize(file.len().max(at + extent.len), 0);
            file[at..at + extent.len].copy_from_slice(now);
            rest = &rest[extent.len..];
        }
        assert!(rest.is_empty());
        spill_core::crc32(&bytes)
    }

    fn read(&self, op: &LoadOp) -> Option<Vec<Packet>> {
        let file = &self.0[&op.file];
        let pieces = op.extents.iter().map(|e| &file[e.at as usize..e.at as usize + e.len]);
        let bytes = pieces.collect::<Vec<_>>().concat();
        (spill_core::crc32(&bytes) == op.crc).then(|| spill_core::decode(&bytes, &op.table))?
    }
}

/// A board, its disk, and what must come out.
struct Rig {
    board: Board,
    disk: Disk,
    pending: Option<Op>,
    streams: Vec<Stream>,
}

struct Stream {
    ring: u32,
    /// Whether each packet that was pushed was a keyframe; the first one has number 1.
    pushed: Vec<bool>,
    taken: Vec<u64>,
    lost: Vec<Loss>,
}

impl Rig {
    fn new(budget: usize, priorities: &[u8], bytes_max: usize) -> Self {
        let mut board = Board::new(budget);
        let streams = (0..).zip(priorities).map(|(stream_id, priority)| Stream {
            ring: board.add(stream_id, *priority, bytes_max),
            pushed: Vec::new(),
            taken: Vec::new(),
            lost: Vec::new(),
        });
        let streams = streams.collect();
        Self { board, disk: Disk::default(), pending: None, streams }
    }

    fn push(&mut self, n: usize, is_key: bool, len: usize) {
        let stream = &mut self.streams[n];
        stream.pushed.push(is_key);
        let seq = stream.pushed.len() as u64;
        let mut packet = packet(is_key, len);
        packet.wall_ms = seq as i64 * FRAME_MS;
        packet.data.fill((seq % 251) as u8 ^ (n as u8) << 5);
        self.board.push(stream.ring, packet);
        self.board.check();
    }

    /// Answers whether there was a packet.
    fn take(&mut self, n: usize) -> bool {
        let stream = &mut self.streams[n];
        let Take::Packet(packet) = self.board.take(stream.ring) else { return false };
        let last = stream.taken.last().copied().unwrap_or(0);
        assert!(packet.seq > last, "order");
        assert!(packet.seq == last + 1 || packet.is_key, "a keyframe follows a loss");
        assert_eq!(packet.is_key, stream.pushed[packet.seq as usize - 1]);
        assert_eq!(packet.wall_ms, packet.seq as i64 * FRAME_MS);
        let fill = (packet.seq % 251) as u8 ^ (n as u8) << 5;
        assert!(packet.data.iter().all(|byte| *byte == fill), "its own bytes");
        stream.taken.push(packet.seq);
        self.board.check();
        true
    }

    fn begin(&mut self) {
        if self.pending.is_none() {
            self.pending = self.board.next_op(0);
        }
    }

    /// Answers whether something was under way.
    fn end(&mut self, is_ok: bool) -> bool {
        match self.pending.take() {
            None => return false,
            Some(Op::Write(op)) => {
                let crc = self.disk.write(&op);
                self.board.end_write(is_ok.then_some(crc));
            }
            Some(Op::Load(op)) => {
                let packets = self.disk.read(&op);
                assert!(packets.is_some(), "blocks are overwritten only when they are free");
                self.board.end_load(packets.filter(|_| is_ok));
            }
        }
        self.board.check();
        true
    }

    fn work(&mut self) -> bool {
        self.begin();
        self.end(true)
    }

    /// Reads everything to its end, and compares what came and what was lost with what was pushed.
    fn finish(&mut self) {
        for n in 0..self.streams.len() {
            while self.take(n) || self.work() {}
        }
        while self.work() {}
        for loss in self.board.take_losses() {
            self.streams[loss.stream_id as usize].lost.push(loss);
        }
        for stream in &mut self.streams {
            stream.lost.sort_by_key(|loss| loss.first_seq);
            let mut expected = 1;
            let mut losses = stream.lost.iter().peekable();
            let mut taken = stream.taken.iter().peekable();
            while expected <= stream.pushed.len() as u64 {
                if taken.next_if(|seq| **seq == expected).is_some() {
                    expected += 1;
                    continue;
                }
                let loss = losses.next_if(|loss| loss.first_seq == expected);
                let loss = loss.unwrap_or_else(|| panic!("{expected} is neither here nor lost"));
                assert_eq!(loss.packets, loss.last_seq - loss.first_seq + 1);
                assert_eq!(loss.from_ms, expected as i64 * FRAME_MS);
                let last_ms = loss.last_seq as i64 * FRAME_MS;
                assert!((last_ms..=last_ms + FRAME_MS).contains(&loss.to_ms), "{loss:?}");
                expected = loss.last_seq + 1;
            }
            assert!(losses.next().is_none() && taken.next().is_none());
            let view = self.board.view(stream.ring).expect("it is there");
            assert_eq!((view.ram_bytes, view.spilled_bytes), (0, 0));
            assert_eq!(view.dropped, stream.pushed.len() as u64 - stream.taken.len() as u64);
        }
    }

    fn lost(&self, n: usize) -> u64 {
        self.streams[n].pushed.len() as u64 - self.streams[n].taken.len() as u64
    }
}

#[test]
fn without_a_file_and_without_budget_whole_groups_go_oldest_first() {
    let size = packet(true, 100).cost_bytes();
    let mut rig = Rig::new(0, &[5], size * 6);
    for n in 0..7 {
        rig.push(0, n % 3 == 0, 100);
    }
    rig.finish();
    assert_eq!(rig.streams[0].taken, [4, 5, 6, 7]);
}

#[test]
fn after_everything_was_lost_it_goes_on_with_a_keyframe() {
    let size = packet(true, 100).cost_bytes();
    let mut rig = Rig::new(0, &[5], size * 3);
    for n in 0..8 {
        rig.push(0, n == 0 || n == 6, 100);
    }
    rig.finish();
    assert_eq!(rig.streams[0].taken, [7, 8]);
    assert_eq!(rig.streams[0].lost.len(), 1);
}

#[test]
fn one_packet_larger_than_everything_is_still_taken() {
    let mut rig = Rig::new(0, &[5], 10);
    rig.push(0, true, 1000);
    rig.finish();
    assert_eq!(rig.streams[0].taken, [1]);
}

#[test]
fn what_does_not_fit_goes_to_the_file_and_comes_back_in_order() {
    let mut rig = Rig::new(0, &[5, 5], 256 * KIB);
    rig.board.use_file(8 << 20).expect("room");
    for n in 0..200 {
        rig.push(n % 2, n / 2 % 15 == 0, 10 * KIB);
        while rig.work() {}
    }
    let view = rig.board.view(rig.streams[0].ring).expect("it is there");
    assert!(view.spilled_bytes > 500 * KIB as u64 && view.protection == Protection::Swap);
    assert_eq!(view.held_ms, 99 * FRAME_MS);
    rig.finish();
    assert_eq!((rig.lost(0), rig.lost(1)), (0, 0));
}

#[test]
fn a_file_that_does_not_answer_is_not_waited_for() {
    let mut rig = Rig::new(4 << 20, &[5], 256 * KIB);
    rig.board.use_file(8 << 20).expect("room");
    for n in 0..300 {
        rig.push(0, n % 15 == 0, 10 * KIB);
        rig.begin();
    }
    let view = rig.board.view(rig.streams[0].ring).expect("it is there");
    assert_eq!((view.spilled_bytes, view.protection), (0, Protection::Borrowed));
    // Headroom does not count what does not answer.
    assert!(rig.board.shared_free(WRITE_LATE_MS + 1) < 2 << 20);
    rig.end(true);
    rig.finish();
    assert_eq!(rig.lost(0), 0);
}

#[test]
fn a_file_on_the_disk_of_the_recordings_is_used_after_half_of_the_budget() {
    let mut rig = Rig::new(MIB, &[5], 256 * KIB);
    rig.board.use_file(8 << 20).expect("room");
    rig.board.set_same_disk(true);
    for n in 0..70 {
        rig.push(0, n % 15 == 0, 10 * KIB);
        assert!(!rig.work(), "packet {n}");
    }
    rig.board.set_pressed(true);
    assert!(rig.work());
    rig.board.set_pressed(false);
    for n in 0..200 {
        rig.push(0, n % 15 == 0, 10 * KIB);
        while rig.work() {}
    }
    rig.finish();
    assert_eq!(rig.lost(0), 0);
}

const MIB: usize = 1 << 20;

#[test]
fn when_nothing_is_left_the_lowest_priority_goes_first() {
    // Without a file: RAM alone. With one: its blocks, too.
    for with_file in [false, true] {
        let mut rig = Rig::new(MIB, &[1, 5, 9], 256 * KIB);
        if with_file {
            rig.board.use_file(2 << 20).expect("room");
        }
        let mut lost = Vec::new();
        for n in 0..if with_file { 150 } else { 80 } {
            for stream in 0..3 {
                rig.push(stream, n % 15 == 0, 10 * KIB);
                while with_file && rig.work() {}
            }
            lost.push([0, 1, 2].map(|n| rig.board.view(n).expect("there").dropped));
        }
        let first = |n: usize| lost.iter().position(|lost| lost[n] > 0);
        assert!(first(0) < first(1) && first(0).is_some(), "{with_file}: {lost:?}");
        assert_eq!(first(2), None, "{with_file}: {lost:?}");
        rig.finish();
        // Whole groups: each loss begins with a keyframe and ends before the next one.
        for stream in &rig.streams {
            for loss in &stream.lost {
                assert!(stream.pushed[loss.first_seq as usize - 1], "{loss:?}");
            }
        }
    }
}

#[test]
fn what_can_not_be_read_back_is_a_counted_gap_that_ends_at_a_keyframe() {
    let mut rig = Rig::new(0, &[5], 256 * KIB);
    rig.board.use_file(8 << 20).expect("room");
    for n in 0..200 {
        rig.push(0, n % 70 == 0, 10 * KIB);
        while rig.work() {}
    }
    while rig.take(0) {}
    rig.begin();
    rig.end(false);
    rig.finish();
    assert_eq!(rig.streams[0].taken.first(), Some(&71));
    assert_eq!(rig.streams[0].lost.len(), 1);
}

#[test]
fn a_smaller_ring_another_file_or_none_loses_nothing() {
    let mut rig = Rig::new(0, &[5], MIB);
    rig.board.use_file(8 << 20).expect("room");
    for n in 0..90 {
        rig.push(0, n % 15 == 0, 10 * KIB);
    }
    rig.board.set_bytes_max(rig.streams[0].ring, 256 * KIB);
    rig.work();
    rig.board.use_file(4 << 20).expect("room");
    rig.work();
    rig.board.use_none();
    for _ in 0..10 {
        assert!(rig.take(0) || rig.work());
        rig.push(0, false, KIB);
    }
    assert!(rig.board.take_unneeded_files().len() < 2, "one is still read");
    rig.finish();
    assert_eq!(rig.lost(0), 0);
    rig.board.take_unneeded_files();
    assert!(rig.board.files.is_empty());
}

#[test]
fn a_ring_that_goes_away_is_a_loss_and_gives_its_blocks_back() {
    for is_under_way in [false, true] {
        let mut rig = Rig::new(0, &[5], 256 * KIB);
        rig.board.use_file(8 << 20).expect("room");
        for n in 0..100 {
            rig.push(0, n % 15 == 0, 10 * KIB);
            rig.work();
        }
        rig.take(0);
        if is_under_way {
            rig.begin();
        }
        rig.board.remove(rig.streams[0].ring);
        rig.end(true);
        rig.board.check();
        let lost: u64 = rig.board.take_losses().iter().map(|loss| loss.packets).sum();
        assert_eq!(lost, 100 - rig.streams[0].taken.len() as u64);
    }
}

#[derive(Clone, Debug)]
enum Step {
    Push { stream: usize, is_key: bool, len: usize },
    Take { stream: usize, count: usize },
    Begin,
    End { is_ok: bool },
    Size { stream: usize, bytes: usize },
    Priority { stream: usize, priority: u8 },
    File { bytes: u64 },
    NoFile,
    Pressed(bool),
    SameDisk(bool),
}

fn step(may_fail: bool) -> impl Strategy<Value = Step> {
    let push = (0_usize..3, prop::bool::weighted(0.15), 0_usize..60_000);
    prop_oneof![
        12 => push.prop_map(|(stream, is_key, len)| Step::Push { stream, is_key, len }),
        4 => (0_usize..3, 1_usize..8).prop_map(|(stream, count)| Step::Take { stream, count }),
        6 => Just(Step::Begin),
        6 => prop::bool::weighted(0.9).prop_map(move |is_ok| Step::End { is_ok: is_ok || !may_fail }),
        1 => (0_usize..3, 0_usize..400_000).prop_map(|(stream, bytes)| Step::Size { stream, bytes }),
        1 => (0_usize..3, 0_u8..9).prop_map(|(stream, priority)| Step::Priority { stream, priority }),
        1 => (100_000_u64..4_000_000).prop_map(|bytes| Step::File { bytes }),
        1 => Just(Step::NoFile),
        1 => any::<bool>().prop_map(Step::Pressed),
        1 => any::<bool>().prop_map(Step::SameDisk),
    ]
}

fn run(budget: usize, steps: Vec<Step>) -> Rig {
    let mut rig = Rig::new(budget, &[1, 5, 5], 100_000);
    for step in steps {
        match step {
            Step::Push { stream, is_key, len } => rig.push(stream, is_key, len),
            Step::Take { stream, count } => {
                for _ in 0..count {
                    rig.take(stream);
                }
            }
            Step::Begin => rig.begin(),
            Step::End { is_ok } => drop(rig.end(is_ok)),
            Step::Size { stream, bytes } => {
                rig.board.set_bytes_max(rig.streams[stream].ring, bytes);
            }
            Step::Priority { stream, priority } => {
                rig.board.set_priority(rig.streams[stream].ring, priority);
            }
            Step::File { bytes } => {
                rig.board.take_unneeded_files();
                if rig.board.can_use_file() {
                    rig.board.use_file(bytes);
                }
            }
            Step::NoFile => rig.board.use_none(),
            Step::Pressed(is_pressed) => rig.board.set_pressed(is_pressed),
            Step::SameDisk(is_same) => rig.board.set_same_disk(is_same),
        }
    }
    rig.finish();
    rig
}

proptest! {
    #[test]
    fn every_packet_comes_in_order_or_is_reported_lost(
        steps in prop::collection::vec(step(true), 1..200),
        budget in 0_usize..1_000_000,
    ) {
        run(budget, steps);
    }

    #[test]
    fn nothing_is_lost_while_there_is_room(steps in prop::collection::vec(step(false), 1..200)) {
        // More than all steps together can push: failed writes cost nothing, only failed reads would.
        let rig = run(200 * 61_000, steps);
        prop_assert_eq!([rig.lost(0), rig.lost(1), rig.lost(2)], [0, 0, 0]);
    }
}
