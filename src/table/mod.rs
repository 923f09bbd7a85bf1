//! Partition tables and superblocks: bytes in, values out.
//!
//! Nothing here writes, and nothing here trusts what it reads: every count, offset and checksum of
//! a medium is checked before it is used. What GEOM accepts and how it counts (`sys/geom/part`) is
//! the measure, because the entries have to be the ones that have device nodes on FreeBSD.

pub mod boot;
pub mod boot0;
pub mod bsd;
pub mod check;
pub mod drawing;
pub mod flags;
pub mod gpt;
pub mod mbr;
pub mod programs;
pub mod reading;
pub mod saved;
pub mod superblock;

use std::fmt;
use std::io::{self, Read, Seek, SeekFrom};

use serde::{Deserialize, Serialize};

use crate::error;

/// No table that is read at once is longer: 1024 GPT entries of 4096 bytes.
const LONGEST: u64 = 4 << 20;

/// The kind of a partition table.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "UPPERCASE")]
pub enum Scheme {
    /// Four slices in the first sector of a medium.
    Mbr,
    /// GUID partition table of a medium.
    Gpt,
    /// BSD disklabel inside a slice.
    Bsd,
}

impl Scheme {
    /// The name that gpart(8) gives it: `MBR`, `GPT`, `BSD`.
    pub fn name(self) -> &'static str {
        match self {
            Self::Mbr => "MBR",
            Self::Gpt => "GPT",
            Self::Bsd => "BSD",
        }
    }
}

impl fmt::Display for Scheme {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// One entry in use.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[allow(clippy::struct_excessive_bools, reason = "independent bits of the medium, not a state")]
pub struct Entry {
    /// 1-based place in the table; of a BSD label `a` is 1 and `h` is 8.
    pub index: u32,
    /// First byte, counted from the start of what holds the table: the medium, or the slice for a
    /// BSD label. A multiple of the sector.
    pub start: u64,
    /// Bytes; a multiple of the sector, never 0.
    pub size: u64,
    /// The type in gpart(8)'s words (`freebsd`, `freebsd-ufs`, `efi`, `linux-data`, …), or `!` and
    /// the raw type where it has none: `!18`, `!4f68bce3-e8cd-4db1-96e7-fbcaf984b709`.
    pub kind: String,
    /// GPT: the entry's name, where it has one.
    pub label: Option<String>,
    /// GPT: the entry's own GUID, lower-case text.
    pub uuid: Option<String>,
    /// MBR: the active flag (status 0x80). A damaged table can have several.
    pub active: bool,
    /// GPT: `GPT_ENT_ATTR_BOOTME`, bit 59 (`sys/sys/disk/gpt.h`, gptboot(8)).
    pub boot_me: bool,
    /// GPT: `GPT_ENT_ATTR_BOOTONCE`, bit 58.
    pub boot_once: bool,
    /// GPT: `GPT_ENT_ATTR_BOOTFAILED`, bit 57.
    pub boot_failed: bool,
}

impl Entry {
    /// One past the last byte, in the terms of [`Entry::start`].
    pub fn end(&self) -> u64 {
        self.start.saturating_add(self.size)
    }
}

/// A partition table whose entries lie within the medium and apart from each other.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Table {
    /// What kind it is.
    pub scheme: Scheme,
    /// Bytes in a sector.
    pub sector: u32,
    /// MBR: the disk signature as 8 hex digits (Linux's PARTUUID is this, `-` and the index as two
    /// hex digits). GPT: the disk's GUID. `None` where there is none, as in a BSD label or behind the
    /// older boot0.
    pub disk_id: Option<String>,
    /// In index order, unused ones left out.
    pub entries: Vec<Entry>,
}

impl Table {
    /// The entry that starts at byte `start`.
    pub fn by_start(&self, start: u64) -> Option<&Entry> {
        self.entries.iter().find(|entry| entry.start == start)
    }

    /// The entry with this 1-based index.
    pub fn by_index(&self, index: u32) -> Option<&Entry> {
        self.entries.iter().find(|entry| entry.index == index)
    }
}

/// What is wrong with a table that is there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Fault {
    /// No table can be in sectors of so many bytes.
    Sector(u32),
    /// A field contradicts the medium or itself; the text says which, as a noun phrase.
    Invalid(&'static str),
    /// The checksum of the named part does not match.
    Checksum(&'static str),
    /// The entry does not lie within the medium, slice or usable space of its table.
    Beyond {
        /// Its 1-based index.
        index: u32,
    },
    /// Two entries share bytes.
    Overlap {
        /// The one that starts first.
        first: u32,
        /// The one that starts inside it.
        second: u32,
    },
    /// The protective MBR says GPT and neither header is there.
    Lost,
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Sector(bytes) => write!(f, "no partition table in sectors of {bytes} bytes"),
            Self::Invalid(what) => write!(f, "invalid partition table: {what}"),
            Self::Checksum(what) => write!(f, "bad checksum of the {what}"),
            Self::Beyond { index } => write!(f, "entry {index} reaches beyond the table's space"),
            Self::Overlap { first, second } => write!(f, "entries {first} and {second} overlap"),
            Self::Lost => f.write_str("protective mbr without a gpt header"),
        }
    }
}

impl std::error::Error for Fault {}

/// Why a table could not be had from a medium.
#[derive(Debug)]
pub enum Failure {
    /// The medium could not be read.
    Io {
        /// Byte offset of the read.
        offset: u64,
        /// The system's answer.
        source: io::Error,
    },
    /// The medium was read and the table is damaged.
    Fault(Fault),
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Io { offset, source } => write!(f, "at {offset}: {}", error::describe(source)),
            Self::Fault(fault) => fault.fmt(f),
        }
    }
}

impl std::error::Error for Failure {}

impl From<Fault> for Failure {
    fn from(fault: Fault) -> Self {
        Self::Fault(fault)
    }
}

impl From<Fault> for error::Error {
    fn from(fault: Fault) -> Self {
        Self::new(error::Kind::Failed, "reading the partition table", fault.to_string())
    }
}

impl From<Failure> for error::Error {
    fn from(failure: Failure) -> Self {
        match failure {
            Failure::Io { offset, source } => {
                Self::io("reading the partition table", &source).at(offset)
            }
            Failure::Fault(fault) => fault.into(),
        }
    }
}

/// Reads the table of a whole medium of `size` bytes in sectors of `sector` bytes: a GPT behind a
/// protective MBR (from the backup header where the primary is damaged), else an MBR, else `None`.
///
/// As GEOM does, an MBR without a protective slice wins over what is left of a GPT, and a GPT is
/// looked for where the first sector carries no boot signature at all. Reads are whole sectors at
/// multiples of the sector, which FreeBSD's character devices insist on.
///
/// # Errors
/// [`Failure::Io`] where the medium cannot be read (also where it is shorter than `size`),
/// [`Failure::Fault`] where a table is there and is damaged.
pub fn read<R: Read + Seek>(
    reader: &mut R,
    size: u64,
    sector: u32,
) -> Result<Option<Table>, Failure> {
    check_sector(sector)?;
    if size < u64::from(sector) {
        return Ok(None);
    }
    let first = read_sectors(reader, sector, 0, u64::from(sector))?;
    if mbr::is_protective(&first) {
        return gpt::read(reader, size, sector)?.ok_or_else(|| Fault::Lost.into()).map(Some);
    }
    if mbr::has_signature(&first) {
        return Ok(mbr::read(&first, size, sector)?);
    }
    gpt::read(reader, size, sector)
}

/// Reads at least `length` bytes from sector `lba` on, in whole sectors. The caller has made sure
/// that they lie on the medium.
fn read_sectors<R: Read + Seek>(
    reader: &mut R,
    sector: u32,
    lba: u64,
    length: u64,
) -> Result<Vec<u8>, Failure> {
    let sector = u64::from(sector);
    let offset = lba.checked_mul(sector);
    let length = length.checked_next_multiple_of(sector).filter(|&length| length <= LONGEST);
    let (Some(offset), Some(Ok(length))) = (offset, length.map(usize::try_from)) else {
        return Err(Fault::Invalid("impossible length or place").into());
    };
    let mut bytes = vec![0; length];
    reader
        .seek(SeekFrom::Start(offset))
        .and_then(|_| reader.read_exact(&mut bytes))
        .map_err(|source| Failure::Io { offset, source })?;
    Ok(bytes)
}

/// Sectors that any of the tables can be in; keeps later divisions and sums safe.
fn check_sector(sector: u32) -> Result<(), Fault> {
    if sector.is_power_of_two() && (512..=65536).contains(&sector) {
        Ok(())
    } else {
        Err(Fault::Sector(sector))
    }
}

/// Checks that every entry lies within `size` bytes and apart from the others.
fn check_entries(entries: &[Entry], size: u64) -> Result<(), Fault> {
    let beyond = |entry: &&Entry| entry.start.checked_add(entry.size).is_none_or(|end| end > size);
    if let Some(entry) = entries.iter().find(beyond) {
        return Err(Fault::Beyond { index: entry.index });
    }
    let mut by_start: Vec<&Entry> = entries.iter().collect();
    by_start.sort_by_key(|entry| (entry.start, entry.index));
    // With no overlap up to here the predecessor is also the one that reaches furthest.
    match by_start.windows(2).find(|pair| pair[1].start < pair[0].end()) {
        Some(pair) => Err(Fault::Overlap { first: pair[0].index, second: pair[1].index }),
        None => Ok(()),
    }
}

/// The `N` bytes at `at`, if they are there; `from_le_bytes` and friends take it from here.
fn array<const N: usize>(bytes: &[u8], at: usize) -> Option<[u8; N]> {
    bytes.get(at..)?.first_chunk().copied()
}

/// Little-endian 16 bits at `at`.
fn le16(bytes: &[u8], at: usize) -> Option<u16> {
    array(bytes, at).map(u16::from_le_bytes)
}

/// Little-endian 32 bits at `at`.
fn le32(bytes: &[u8], at: usize) -> Option<u32> {
    array(bytes, at).map(u32::from_le_bytes)
}

/// Little-endian 64 bits at `at`.
fn le64(bytes: &[u8], at: usize) -> Option<u64> {
    array(bytes, at).map(u64::from_le_bytes)
}

#[cfg(test)]
pub(crate) mod tests {
    use std::io::Cursor;

    use proptest::prelude::*;

    use super::*;

    /// A medium that refuses what a FreeBSD disk device refuses.
    pub(crate) struct Device<T> {
        pub(crate) inner: T,
        pub(crate) sector: u64,
    }

    impl<T: Read + Seek> Read for Device<T> {
        fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
            let at = self.inner.stream_position()?;
            assert_eq!(at % self.sector, 0, "read at an odd offset");
            assert_eq!(buffer.len() as u64 % self.sector, 0, "read of an odd length");
            self.inner.read(buffer)
        }
    }

    impl<T: Seek> Seek for Device<T> {
        fn seek(&mut self, to: SeekFrom) -> io::Result<u64> {
            self.inner.seek(to)
        }
    }

    fn read_bytes(bytes: &[u8], sector: u32) -> Result<Option<Table>, Failure> {
        let mut device = Device { inner: Cursor::new(bytes), sector: u64::from(sector) };
        read(&mut device, bytes.len() as u64, sector)
    }

    fn fault(result: Result<Option<Table>, Failure>) -> Fault {
        match result {
            Err(Failure::Fault(fault)) => fault,
            other => panic!("not a fault: {other:?}"),
        }
    }

    const MB: u64 = 1 << 20;

    /// A GPT of gptman with partitions of these types (GUIDs), first and last sectors, as bytes.
    pub(crate) fn gpt(size: u64, sector: u32, parts: &[(&str, u64, u64)]) -> Vec<u8> {
        let mut medium = Cursor::new(vec![0; usize::try_from(size).unwrap()]);
        let mut gpt = gptman::GPT::new_from(&mut medium, u64::from(sector), [7; 16]).unwrap();
        for (n, &(kind, first, last)) in (1_u8..).zip(parts) {
            gpt[u32::from(n)] = gptman::GPTPartitionEntry {
                partition_type_guid: guid(kind),
                unique_partition_guid: [n; 16],
                starting_lba: first,
                ending_lba: last,
                attribute_bits: 0,
                partition_name: "x".into(),
            };
        }
        gpt.write_into(&mut medium).unwrap();
        gptman::GPT::write_protective_mbr_into(&mut medium, u64::from(sector)).unwrap();
        medium.into_inner()
    }

    /// A GUID as it is on the medium.
    fn guid(text: &str) -> [u8; 16] {
        let digits = text.replace('-', "");
        let bytes: Vec<u8> =
            (0..16).map(|n| u8::from_str_radix(&digits[2 * n..2 * n + 2], 16).unwrap()).collect();
        std::array::from_fn(|n| bytes[[3, 2, 1, 0, 5, 4, 7, 6, 8, 9, 10, 11, 12, 13, 14, 15][n]])
    }

    fn gpt_bytes() -> Vec<u8> {
        let (efi, data) =
            ("c12a7328-f81f-11d2-ba4b-00a0c93ec93b", "0fc63daf-8483-4772-8e79-3d69d8477de4");
        gpt(8 * MB, 512, &[(efi, 2048, 4095), (data, 8192, 9215)])
    }

    #[test]
    fn a_lost_gpt_is_a_fault_and_its_backup_stands_in() {
        the_backup_stands_in(&gpt_bytes());
    }

    /// Of a medium with sectors of 512 bytes and a whole GPT: what is read where one copy of it is
    /// lost, or both.
    pub(crate) fn the_backup_stands_in(medium: &[u8]) {
        let mut bytes = medium.to_vec();
        let whole = read_bytes(&bytes, 512).unwrap().unwrap();
        bytes[512..1024].fill(0);
        assert_eq!(read_bytes(&bytes, 512).unwrap().unwrap(), whole);
        bytes[..512].fill(0);
        assert_eq!(read_bytes(&bytes, 512).unwrap().unwrap(), whole, "no boot signature at all");
        bytes[512..].fill(0);
        assert!(read_bytes(&bytes, 512).unwrap().is_none());
        let mut bytes = medium.to_vec();
        bytes[512..].fill(0);
        assert_eq!(fault(read_bytes(&bytes, 512)), Fault::Lost);
    }

    #[test]
    fn an_mbr_wins_over_the_remains_of_a_gpt() {
        let mut bytes = gpt_bytes();
        bytes[446..510].fill(0);
        bytes[446..462].copy_from_slice(&[0x80, 0, 0, 0, 0xa5, 0, 0, 0, 64, 0, 0, 0, 9, 0, 0, 0]);
        assert_eq!(read_bytes(&bytes, 512).unwrap().unwrap().scheme, Scheme::Mbr);
    }

    #[test]
    fn short_media_and_odd_sectors_are_no_panic() {
        let bytes = gpt_bytes();
        for length in (0..5000).chain([16_384, 20_000, 100_000]) {
            let _ = read(&mut Cursor::new(&bytes[..length]), length as u64, 512);
            // A medium that ends before the size it claims.
            let _ = read(&mut Cursor::new(&bytes[..length]), u64::MAX, 512);
        }
        for sector in [0, 1, 511, 513, 1 << 31, u32::MAX] {
            assert_eq!(
                fault(read(&mut Cursor::new(&bytes), bytes.len() as u64, sector)),
                Fault::Sector(sector)
            );
        }
    }

    #[test]
    fn an_unreadable_medium_is_an_io_error_with_its_offset() {
        let failure = read(&mut Cursor::new([0; 100]), 4096, 512).unwrap_err();
        let error = error::Error::from(failure);
        assert_eq!((error.offset, error.kind), (Some(0), error::Kind::Failed));
    }

    #[test]
    fn overlaps_are_found_in_any_order() {
        let entry = |index, start, size| Entry { index, start, size, ..Entry::default() };
        let apart = [entry(1, 50, 50), entry(2, 0, 50)];
        assert_eq!(check_entries(&apart, 100), Ok(()));
        assert_eq!(check_entries(&apart, 99), Err(Fault::Beyond { index: 1 }));
        let nested = [entry(1, 60, 10), entry(2, 80, 10), entry(3, 0, 61)];
        assert_eq!(check_entries(&nested, 100), Err(Fault::Overlap { first: 3, second: 1 }));
        let wrapped = [entry(4, u64::MAX, 2)];
        assert_eq!(check_entries(&wrapped, u64::MAX), Err(Fault::Beyond { index: 4 }));
    }

    #[test]
    fn messages_are_plain_words() {
        assert_eq!(Fault::Overlap { first: 1, second: 2 }.to_string(), "entries 1 and 2 overlap");
        assert_eq!(
            error::Error::from(Fault::Checksum("gpt header")).to_string(),
            "reading the partition table: bad checksum of the gpt header"
        );
    }

    proptest! {
        #[test]
        fn random_media_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..20_000)) {
            if let Ok(Some(table)) = read_bytes(&bytes, 512) {
                prop_assert!(table.entries.iter().all(|e| e.end() <= bytes.len() as u64));
            }
        }
    }

    #[test]
    fn mutated_media_never_panic_and_entries_stay_inside() {
        let bytes = gpt_bytes();
        let mutation = prop::collection::vec((0usize..2048, any::<u8>()), 1..6);
        let mut runner = proptest::test_runner::TestRunner::default();
        runner
            .run(&mutation, |changes| {
                let mut bytes = bytes.clone();
                let last = bytes.len() - 1;
                for (at, value) in changes {
                    bytes[if at % 2 == 0 { at } else { last - at / 2 }] = value;
                }
                if let Ok(Some(table)) = read_bytes(&bytes, 512) {
                    prop_assert!(table.entries.iter().all(|e| e.end() <= bytes.len() as u64));
                    prop_assert!(check_entries(&table.entries, bytes.len() as u64).is_ok());
                }
                Ok(())
            })
            .unwrap();
    }
}
