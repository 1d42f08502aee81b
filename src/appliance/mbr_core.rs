//! The partition table of the card (MBR): the last partition is made as long as the disk allows.
//!
//! In here: the 512 bytes of sector 0. Pure. Layout: four entries of 16 bytes from byte 446, start and length in
//! sectors as little-endian u32 at 8 and 12 of each, `55 AA` at the end (UEFI specification 2.10, section 5.2.1).

/// Bytes of a sector, and of the table.
pub const SECTOR_BYTES: usize = 512;
const ENTRIES_AT: usize = 446;
const ENTRY_BYTES: usize = 16;
const TYPE_AT: usize = 4;
const START_AT: usize = 8;
const LENGTH_AT: usize = 12;
/// The data partition: the last of the four.
pub const DATA_PARTITION: usize = 4;
const LINUX: u8 = 0x83;
/// Ends on a whole MiB, as the image's other partitions begin on one: flash erases larger blocks.
const ALIGN_SECTORS: u32 = 2048;

/// A partition in sectors of 512 bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Extent {
    pub start: u32,
    pub length: u32,
}

/// Where the data partition is; `None` when the sector is no table with a Linux partition in the last place.
pub fn data_partition(sector: &[u8; SECTOR_BYTES]) -> Option<Extent> {
    if sector[510..] != [0x55, 0xaa] {
        return None;
    }
    let entry = entry(sector);
    let number = |at: usize| -> Option<u32> {
        Some(u32::from_le_bytes(entry.get(at..at + 4)?.try_into().ok()?))
    };
    let extent = Extent { start: number(START_AT)?, length: number(LENGTH_AT)? };
    (entry[TYPE_AT] == LINUX && extent.start > 0 && extent.length > 0).then_some(extent)
}

fn entry(sector: &[u8; SECTOR_BYTES]) -> &[u8] {
    let at = ENTRIES_AT + (DATA_PARTITION - 1) * ENTRY_BYTES;
    &sector[at..at + ENTRY_BYTES]
}

/// Lengthens the data partition to the end of a disk of `disk_sectors`. Answers its new place; `None`, and the sector
/// unchanged, when there is nothing to gain. A table cannot say more than 2^32 sectors (2 TiB).
pub fn grow(sector: &mut [u8; SECTOR_BYTES], disk_sectors: u64) -> Option<Extent> {
    let old = data_partition(sector)?;
    let end = u32::try_from(disk_sectors).unwrap_or(u32::MAX);
    let end = end - end % ALIGN_SECTORS;
    let length = end.checked_sub(old.start)?;
    if length <= old.length {
        return None;
    }
    let at = ENTRIES_AT + (DATA_PARTITION - 1) * ENTRY_BYTES + LENGTH_AT;
    sector[at..at + 4].copy_from_slice(&length.to_le_bytes());
    Some(Extent { length, ..old })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn table(start: u32, length: u32) -> [u8; SECTOR_BYTES] {
        let mut sector = [0x5a; SECTOR_BYTES];
        let at = ENTRIES_AT + 3 * ENTRY_BYTES;
        sector[at + TYPE_AT] = LINUX;
        sector[at + START_AT..at + START_AT + 4].copy_from_slice(&start.to_le_bytes());
        sector[at + LENGTH_AT..at + LENGTH_AT + 4].copy_from_slice(&length.to_le_bytes());
        sector[510..].copy_from_slice(&[0x55, 0xaa]);
        sector
    }

    #[test]
    fn the_data_partition_takes_the_rest_of_the_card() {
        let mut sector = table(794_624, 131_072);
        let grown = grow(&mut sector, 2_097_152 + 77);
        assert_eq!(grown, Some(Extent { start: 794_624, length: 2_097_152 - 794_624 }));
        assert_eq!(data_partition(&sector), grown, "it is in the table");
        assert_eq!(grow(&mut sector, 2_097_152 + 77), None, "a second time there is nothing to do");
    }

    #[test]
    fn a_smaller_or_huge_disk_does_no_harm() {
        let mut sector = table(794_624, 131_072);
        let before = sector;
        assert_eq!(grow(&mut sector, 794_624 + 131_072), None);
        assert_eq!(grow(&mut sector, 5), None);
        assert_eq!(sector, before);
        let grown = grow(&mut sector, 1 << 40).expect("2 TiB are left");
        assert_eq!(grown.length, (u32::MAX - u32::MAX % ALIGN_SECTORS) - 794_624);
    }

    #[test]
    fn what_is_no_table_of_ours_is_left_alone() {
        let mut no_mark = table(1, 1);
        no_mark[510] = 0;
        let mut other_type = table(2048, 2048);
        other_type[ENTRIES_AT + 3 * ENTRY_BYTES + TYPE_AT] = 0x07;
        for mut sector in [no_mark, other_type, table(0, 1), table(1, 0), [0; SECTOR_BYTES]] {
            let before = sector;
            assert_eq!(grow(&mut sector, 1 << 30), None);
            assert_eq!(sector, before);
        }
    }

    proptest! {
        #[test]
        fn only_the_length_is_changed(start: u32, length: u32, disk in 0_u64..1 << 34) {
            let mut sector = table(start, length);
            let before = sector;
            if let Some(grown) = grow(&mut sector, disk) {
                prop_assert!(u64::from(grown.start) + u64::from(grown.length) <= disk);
                prop_assert!(grown.length > length && grown.start == start);
            }
            let at = ENTRIES_AT + 3 * ENTRY_BYTES + LENGTH_AT;
            prop_assert_eq!(&before[..at], &sector[..at]);
            prop_assert_eq!(&before[at + 4..], &sector[at + 4..]);
        }
    }
}
