//! The index: as many bytes as were kept free, and whole for players.

use super::*;
use proptest::prelude::*;

fn entry(bytes: u32, duration: u32, starts_with_key: bool) -> IndexEntry {
    IndexEntry { bytes, duration, starts_with_key }
}

/// The entries of an encoded index, none when it is all `free`.
fn parse(bytes: &[u8]) -> Vec<IndexEntry> {
    let size = u32::from_be_bytes(*bytes.first_chunk().unwrap()) as usize;
    match &bytes[4..8] {
        b"free" => {
            assert_eq!(size, bytes.len());
            Vec::new()
        }
        b"sidx" => {
            let index = Index::parse(&bytes[8..size]).unwrap();
            assert_eq!(index.first_offset as usize, bytes.len() - size);
            assert_eq!(&bytes[size + 4..size + 8], b"free");
            index.entries
        }
        other => panic!("{other:?}"),
    }
}

#[test]
fn entries_without_a_key_join_the_one_in_front() {
    let entries =
        [entry(1, 10, false), entry(2, 20, false), entry(4, 40, true), entry(8, 80, false)];
    let got = parse(&encode_index(&entries, 10, 7));
    assert_eq!(got, [entry(3, 30, false), entry(12, 120, true)]);
}

#[test]
fn entries_that_do_not_fit_are_merged_evenly() {
    let entries: Vec<_> = (0..7).map(|n| entry(1 << n, 10, true)).collect();
    assert_eq!(parse(&encode_index(&entries, 7, 0)), entries);
    let got: Vec<_> =
        parse(&encode_index(&entries, 3, 0)).iter().map(|entry| entry.bytes).collect();
    assert_eq!(got, [0b11, 0b1100, 0b111_0000]);
}

#[test]
fn what_cannot_be_said_is_left_out() {
    assert_eq!(parse(&encode_index(&[], 3, 0)), []);
    assert_eq!(parse(&encode_index(&[entry(5, 5, true)], 0, 0)), []);
    assert_eq!(parse(&encode_index(&[entry(1 << 31, 5, true)], 3, 0)), []);
    let halves = [entry(1 << 30, 5, true); 2];
    assert_eq!(parse(&encode_index(&halves, 1, 0)), []);
    assert_eq!(parse(&encode_index(&halves, 2, 0)), halves);
    assert_eq!(encode_index(&[], usize::MAX, 0).len(), index_bytes(INDEX_SLOTS_MAX));
}

proptest! {
    #[test]
    fn nothing_is_lost_by_merging(
        entries in prop::collection::vec((1u32..100_000, 0u32..100_000, any::<bool>()), 1..200),
        slots in 1usize..100,
    ) {
        let entries: Vec<_> = entries.into_iter().map(|(b, d, key)| entry(b, d, key)).collect();
        let bytes = encode_index(&entries, slots, 0);
        prop_assert_eq!(bytes.len(), index_bytes(slots));
        let got = parse(&bytes);
        prop_assert!(!got.is_empty() && got.len() <= slots);
        let sum = |list: &[IndexEntry]| list.iter()
            .map(|entry| (u64::from(entry.bytes), u64::from(entry.duration)))
            .fold((0, 0), |sum, next| (sum.0 + next.0, sum.1 + next.1));
        prop_assert_eq!(sum(&got), sum(&entries));
        prop_assert!(got[1..].iter().all(|entry| entry.starts_with_key));
        let mut halved = entries.clone();
        merge_pairs(&mut halved);
        prop_assert_eq!(halved.len(), entries.len().div_ceil(2));
        prop_assert_eq!(sum(&halved), sum(&entries));
    }

    #[test]
    fn arbitrary_bytes_never_panic(data: Vec<u8>) {
        Index::parse(&data);
    }
}
