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
#[cfg(all(test, target_os = "freebsd"))]
mod gpart;
pub mod gpt;
pub mod mbr;
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
    /// hex digits). GPT: the disk's GUID. `None` where there is none, as in a BSD label.
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
mod tests {
    use std::io::{Cursor, Write};
    use std::process::Stdio;

    use proptest::prelude::*;

    use super::*;

    /// Runs a tool of the test machine and panics if it is missing or fails: a table that nobody
    /// else made proves nothing. Its stdout. (Linux and FreeBSD have different ones: what needs
    /// them is marked so.)
    #[allow(clippy::disallowed_methods, reason = "tests run foreign tools; sys::command is above")]
    pub(super) fn tool(program: &str, arguments: &[&str], input: &str) -> String {
        let path = std::env::var("PATH").unwrap_or_default();
        let mut child = std::process::Command::new(program)
            .args(arguments)
            .env("PATH", format!("{path}:/usr/sbin:/sbin"))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap_or_else(|e| panic!("{program} is needed by this test: {e}"));
        child.stdin.take().unwrap().write_all(input.as_bytes()).unwrap();
        let output = child.wait_with_output().unwrap();
        assert!(output.status.success(), "{program}: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap()
    }

    #[cfg(target_os = "linux")]
    /// A sparse file of `size` bytes.
    pub(super) fn image(size: u64) -> tempfile::NamedTempFile {
        let file = tempfile::NamedTempFile::new().unwrap();
        file.as_file().set_len(size).unwrap();
        file
    }

    /// A medium that refuses what a FreeBSD disk device refuses.
    pub(super) struct Device<T> {
        pub(super) inner: T,
        pub(super) sector: u64,
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

    #[cfg(target_os = "linux")]
    /// The table of an image file, read as from a device.
    pub(super) fn read_image(file: &tempfile::NamedTempFile, sector: u32) -> Table {
        let size = file.as_file().metadata().unwrap().len();
        let mut device = Device { inner: file.reopen().unwrap(), sector: u64::from(sector) };
        read(&mut device, size, sector).unwrap().expect("a table")
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

    #[cfg(target_os = "linux")]
    const MB: u64 = 1 << 20;

    /// A GPT that the system's own tool made, 8 MB, as bytes.
    #[cfg(target_os = "freebsd")]
    fn gpt_bytes() -> Vec<u8> {
        let medium = super::gpart::Medium::new(8);
        for words in
            ["create -s GPT", "add -t efi -b 2048 -s 2048", "add -t linux-data -b 8192 -s 1024"]
        {
            medium.gpart(words, "");
        }
        medium.bytes()
    }

    #[cfg(target_os = "linux")]
    fn gpt_bytes() -> Vec<u8> {
        let file = image(8 * MB);
        let script = "label: gpt\nstart=2048, size=2048\nstart=8192, size=1024, type=L\n";
        tool("sfdisk", &["-q", "--no-reread", file.path().to_str().unwrap()], script);
        std::fs::read(file.path()).unwrap()
    }

    #[test]
    #[cfg_attr(target_os = "freebsd", ignore = "needs root, for md(4)")]
    fn a_lost_gpt_is_a_fault_and_its_backup_stands_in() {
        let mut bytes = gpt_bytes();
        let whole = read_bytes(&bytes, 512).unwrap().unwrap();
        bytes[512..1024].fill(0);
        assert_eq!(read_bytes(&bytes, 512).unwrap().unwrap(), whole);
        bytes[..512].fill(0);
        assert_eq!(read_bytes(&bytes, 512).unwrap().unwrap(), whole, "no boot signature at all");
        bytes[512..].fill(0);
        assert!(read_bytes(&bytes, 512).unwrap().is_none());
        let mut bytes = gpt_bytes();
        bytes[512..].fill(0);
        assert_eq!(fault(read_bytes(&bytes, 512)), Fault::Lost);
    }

    #[test]
    #[cfg_attr(target_os = "freebsd", ignore = "needs root, for md(4)")]
    fn an_mbr_wins_over_the_remains_of_a_gpt() {
        let mut bytes = gpt_bytes();
        bytes[446..510].fill(0);
        bytes[446..462].copy_from_slice(&[0x80, 0, 0, 0, 0xa5, 0, 0, 0, 64, 0, 0, 0, 9, 0, 0, 0]);
        assert_eq!(read_bytes(&bytes, 512).unwrap().unwrap().scheme, Scheme::Mbr);
    }

    #[test]
    #[cfg_attr(target_os = "freebsd", ignore = "needs root, for md(4)")]
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
    #[cfg_attr(target_os = "freebsd", ignore = "needs root, for md(4)")]
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
