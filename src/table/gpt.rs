//! GUID partition tables: a thin map over `gptman`, in gpart(8)'s words.
//!
//! `gptman` decodes headers and entries. Where they are read from, how many there may be and the
//! entries' checksum stay here: its own reader takes lengths from the medium as they are, asks for
//! odd bytes and panics at entries that are not 128 bytes long.

use std::fmt::Write as _;
use std::io::{self, Cursor, Read, Seek};

use gptman::{GPTHeader, GPTPartitionEntry};

use super::flags::Flags;
use super::{
    Entry, Failure, Fault, Scheme, Table, check_entries, check_sector, le32, le64, read_sectors,
};

/// More entries than this are refused before anything is allocated for them.
const MOST_ENTRIES: u32 = 1024;
/// Longer entries than this are refused too. The shortest are 128 bytes.
const LONGEST_ENTRY: u32 = 4096;
/// `GPT_ENT_ATTR_BOOTME` (`sys/sys/disk/gpt.h`).
const BOOT_ME: u64 = 1 << 59;
/// `GPT_ENT_ATTR_BOOTONCE`.
const BOOT_ONCE: u64 = 1 << 58;
/// `GPT_ENT_ATTR_BOOTFAILED`.
const BOOT_FAILED: u64 = 1 << 57;

/// Type GUIDs and gpart(8)'s words for them (`sys/sys/disk/gpt.h`, `g_part_gpt.c`).
const KINDS: [(&str, &str); 16] = [
    ("024dee41-33e7-11d3-9d69-0008c781f39f", "mbr"),
    ("0657fd6d-a4ab-43c4-84e5-0933c84b4f4f", "linux-swap"),
    ("0fc63daf-8483-4772-8e79-3d69d8477de4", "linux-data"),
    ("21686148-6449-6e6f-744e-656564454649", "bios-boot"),
    ("516e7cb4-6ecf-11d6-8ff8-00022d09712b", "freebsd"),
    ("516e7cb5-6ecf-11d6-8ff8-00022d09712b", "freebsd-swap"),
    ("516e7cb6-6ecf-11d6-8ff8-00022d09712b", "freebsd-ufs"),
    ("516e7cb8-6ecf-11d6-8ff8-00022d09712b", "freebsd-vinum"),
    ("516e7cba-6ecf-11d6-8ff8-00022d09712b", "freebsd-zfs"),
    ("74ba7dd9-a689-11e1-bd04-00e081286acf", "freebsd-nandfs"),
    ("83bd6b9d-7f41-11dc-be0b-001560b84f0f", "freebsd-boot"),
    ("a19d880f-05fc-4d3b-a006-743f0f84911e", "linux-raid"),
    ("c12a7328-f81f-11d2-ba4b-00a0c93ec93b", "efi"),
    ("e3c9e316-0b5c-4db8-817d-f92df00215ae", "ms-reserved"),
    ("e6d6d379-f507-44c2-a23c-238f2a3df928", "linux-lvm"),
    ("ebd0a0a2-b9e5-4433-87c0-68b6b72699c7", "ms-basic-data"),
];

/// One of the two copies of a GPT.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Copy {
    /// Behind the protective MBR.
    Primary,
    /// In the last sector of the medium.
    Backup,
}

/// Reads the GPT of a medium of `size` bytes: the primary copy, or the backup where the primary
/// cannot be used. `None` where neither is there.
///
/// # Errors
/// The primary's, or the backup's where only that one is there: see [`read_copy`].
pub fn read<R: Read + Seek>(
    reader: &mut R,
    size: u64,
    sector: u32,
) -> Result<Option<Table>, Failure> {
    let primary = read_copy(reader, size, sector, Copy::Primary);
    if let Ok(Some(_)) = primary {
        return primary;
    }
    match (primary, read_copy(reader, size, sector, Copy::Backup)) {
        (_, Ok(Some(table))) => Ok(Some(table)),
        (Err(failure), _) | (_, Err(failure)) => Err(failure),
        _ => Ok(None),
    }
}

/// Reads one copy alone, to tell whether it is whole. `None` where no header is in its place.
///
/// # Errors
/// [`Failure::Io`]; [`Fault::Checksum`] of header or entries, [`Fault::Invalid`] for fields that
/// GEOM refuses, [`Fault::Beyond`] for an entry outside the usable sectors, [`Fault::Overlap`],
/// [`Fault::Sector`].
pub fn read_copy<R: Read + Seek>(
    reader: &mut R,
    size: u64,
    sector: u32,
    copy: Copy,
) -> Result<Option<Table>, Failure> {
    Ok(read_raw(reader, size, sector, copy)?.map(|(_, table)| table))
}

/// One copy, and where it says that the other one is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Found {
    /// What it says.
    pub table: Table,
    /// The sector of the other copy's header.
    pub other: u64,
}

/// Reads one copy alone, as [`read_copy`] does.
///
/// # Errors
/// As [`read_copy`].
pub fn find<R: Read + Seek>(
    reader: &mut R,
    size: u64,
    sector: u32,
    copy: Copy,
) -> Result<Option<Found>, Failure> {
    let found = read_raw(reader, size, sector, copy)?;
    let other = |raw: &Raw| le64(&raw.header, OTHER_LBA).unwrap_or(0);
    Ok(found.map(|(raw, table)| Found { other: other(&raw), table }))
}
/// One copy as it lies on the medium: whole sectors.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Raw {
    /// First byte of the header on the medium.
    pub header_at: u64,
    /// The header's sector.
    pub header: Vec<u8>,
    /// First byte of the entries on the medium.
    pub array_at: u64,
    /// The entries' sectors.
    pub array: Vec<u8>,
}

/// Reads one copy as [`read_copy`] does, and its bytes.
///
/// # Errors
/// The same.
pub fn read_raw<R: Read + Seek>(
    reader: &mut R,
    size: u64,
    sector: u32,
    copy: Copy,
) -> Result<Option<(Raw, Table)>, Failure> {
    check_sector(sector)?;
    let bytes = u64::from(sector);
    // Protective MBR, two headers, two arrays and one sector to give away: GEOM's minimum.
    if size / bytes < 6 {
        return Ok(None);
    }
    let last = size / bytes - 1;
    let lba = if copy == Copy::Primary { 1 } else { last };
    let sectors = read_sectors(reader, sector, lba, bytes)?;
    if !sectors.starts_with(SIGNATURE) {
        return Ok(None);
    }
    let header =
        GPTHeader::read_from(&mut Cursor::new(&sectors)).map_err(|error| header_fault(&error))?;
    let length = check_header(&header, lba, last, sector)?;
    let array = read_sectors(reader, sector, header.partition_entry_lba, length)?;
    let used = &array[..usize::try_from(length).unwrap_or(usize::MAX).min(array.len())];
    if crc32fast::hash(used) != header.partition_entry_array_crc32 {
        return Err(Fault::Checksum("gpt entries").into());
    }
    let entry_size = usize::try_from(header.size_of_partition_entry).unwrap_or(usize::MAX);
    let mut entries = Vec::new();
    for (index, raw) in (1..).zip(used.chunks_exact(entry_size)) {
        // gptman asks for more than the 128 bytes that it decodes.
        let raw = GPTPartitionEntry::read_from(&mut raw.chain(io::repeat(0)))
            .map_err(|_| Fault::Invalid("unreadable gpt entry"))?;
        if raw.is_used() {
            entries.push(entry(index, &raw, &header, bytes)?);
        }
    }
    check_entries(&entries, size)?;
    let disk_id = Some(guid(header.disk_guid));
    let array_at = header.partition_entry_lba * bytes;
    let raw = Raw { header_at: lba * bytes, header: sectors, array_at, array };
    Ok(Some((raw, Table { scheme: Scheme::Gpt, sector, disk_id, entries })))
}

/// The start of every header.
const SIGNATURE: &[u8] = b"EFI PART";
/// Places in a header: its length, its own checksum (both 32 bits), its own sector, the other
/// header's, that of the entries (64 bits), how many those are, how long each is, and their
/// checksum (32 bits).
const HEADER_SIZE: usize = 12;
const HEADER_CRC: usize = 16;
const OWN_LBA: usize = 24;
const OTHER_LBA: usize = 32;
const ARRAY_LBA: usize = 72;
const ENTRY_COUNT: usize = 80;
const ENTRY_SIZE: usize = 84;
const ARRAY_CRC: usize = 88;
/// Place of the 64 attribute bits in an entry.
const ATTRIBUTES: usize = 48;
/// The bits that booting changes.
const BOOT_BITS: u64 = BOOT_ME | BOOT_ONCE | BOOT_FAILED;

/// Bytes of the entries that a header counts, and of one of them; `None` where they do not fit.
fn array_length(header: &[u8], array: &[u8]) -> Option<(usize, usize)> {
    let size = usize::try_from(le32(header, ENTRY_SIZE)?).ok().filter(|&n| n >= 128)?;
    let count = usize::try_from(le32(header, ENTRY_COUNT)?).ok()?;
    let length = count.checked_mul(size).filter(|&length| length <= array.len())?;
    Some((length, size))
}

/// The checksums that belong to these bytes, of the header and of the entries.
fn checksums(header: &[u8], array: &[u8]) -> Option<(u32, u32)> {
    let length = usize::try_from(le32(header, HEADER_SIZE)?).ok().filter(|&n| n >= 92)?;
    let mut own = header.get(..length)?.to_vec();
    own[HEADER_CRC..HEADER_CRC + 4].fill(0);
    let entries = crc32fast::hash(&array[..array_length(header, array)?.0]);
    Some((crc32fast::hash(&own), entries))
}

/// Whether header and entries belong together: signature and both checksums.
pub fn is_whole(header: &[u8], array: &[u8]) -> bool {
    header.starts_with(SIGNATURE)
        && checksums(header, array).is_some_and(|(own, entries)| {
            le32(header, HEADER_CRC) == Some(own) && le32(header, ARRAY_CRC) == Some(entries)
        })
}

/// Sets both checksums.
pub fn seal(header: &mut [u8], array: &[u8]) {
    if let Some((_, entries)) = checksums(header, array) {
        header[ARRAY_CRC..ARRAY_CRC + 4].copy_from_slice(&entries.to_le_bytes());
    }
    if let Some((own, _)) = checksums(header, array) {
        header[HEADER_CRC..HEADER_CRC + 4].copy_from_slice(&own.to_le_bytes());
    }
}

/// Gives the entries of `to` the boot attributes that those of `from` have.
pub fn take_boot_bits(header: &[u8], to: &mut [u8], from: &[u8]) {
    let Some((length, size)) = array_length(header, to) else { return };
    for (to, from) in to[..length].chunks_exact_mut(size).zip(from.chunks_exact(size)) {
        let (Some(own), Some(other)) = (le64(to, ATTRIBUTES), le64(from, ATTRIBUTES)) else {
            return;
        };
        let bits = (own & !BOOT_BITS) | (other & BOOT_BITS);
        to[ATTRIBUTES..ATTRIBUTES + 8].copy_from_slice(&bits.to_le_bytes());
    }
}

/// Sets the boot attributes of an entry, from 1.
pub fn set_flags(header: &[u8], array: &mut [u8], index: u32, flags: Flags) {
    let Some((length, size)) = array_length(header, array) else { return };
    let Some(place) = usize::try_from(index).ok().and_then(|n| n.checked_sub(1)) else { return };
    let Some(entry) = array[..length].chunks_exact_mut(size).nth(place) else { return };
    let Some(own) = le64(entry, ATTRIBUTES) else { return };
    let all =
        [(flags.boot_me, BOOT_ME), (flags.boot_once, BOOT_ONCE), (flags.boot_failed, BOOT_FAILED)];
    let set = all.iter().filter(|(on, _)| *on).fold(0, |bits, (_, bit)| bits | bit);
    let bits = (own & !BOOT_BITS) | set;
    entry[ATTRIBUTES..ATTRIBUTES + 8].copy_from_slice(&bits.to_le_bytes());
}

/// The other copy of a whole one on a medium of `size` bytes, as `gpart recover` makes it: the
/// backup behind the usable sectors, the primary behind the protective MBR. `None` where the two
/// do not belong to a medium of this size.
pub fn mirror(raw: &Raw, size: u64, sector: u32) -> Option<Raw> {
    let bytes = u64::from(sector);
    let last = (size / bytes).checked_sub(1)?;
    let (own, other) = (le64(&raw.header, OWN_LBA)?, le64(&raw.header, OTHER_LBA)?);
    let array = match (own, other) {
        (1, backup) if backup == last => last.checked_sub(raw.array.len() as u64 / bytes)?,
        (backup, 1) if backup == last => 2,
        _ => return None,
    };
    let mut header = raw.header.clone();
    for (at, value) in [(OWN_LBA, other), (OTHER_LBA, own), (ARRAY_LBA, array)] {
        header[at..at + 8].copy_from_slice(&value.to_le_bytes());
    }
    seal(&mut header, &raw.array);
    let (header_at, array_at) = (other * bytes, array * bytes);
    Some(Raw { header_at, header, array_at, array: raw.array.clone() })
}

/// Whether the primary is what a change of boot flags leaves of it that was cut off: all that the
/// backup says but for those flags, in entries that its header, whole in itself, does not know yet.
///
/// # Errors
/// [`Failure::Io`]; the backup's, as [`read_copy`].
pub fn is_cut_off<R: Read + Seek>(reader: &mut R, size: u64, sector: u32) -> Result<bool, Failure> {
    let backup = read_raw(reader, size, sector, Copy::Backup)?;
    let Some(mut whole) = backup.and_then(|(raw, _)| mirror(&raw, size, sector)) else {
        return Ok(false);
    };
    let bytes = u64::from(sector);
    let header = read_sectors(reader, sector, whole.header_at / bytes, bytes)?;
    let array = read_sectors(reader, sector, whole.array_at / bytes, whole.array.len() as u64)?;
    take_boot_bits(&whole.header, &mut whole.array, &array);
    let own = checksums(&header, &array).map(|(own, _)| own);
    for crc in [HEADER_CRC, ARRAY_CRC] {
        whole.header[crc..crc + 4].copy_from_slice(&header[crc..crc + 4]);
    }
    let sealed = le32(&header, HEADER_CRC) == own;
    Ok(sealed && header == whole.header && array == whole.array)
}

fn header_fault(error: &gptman::Error) -> Fault {
    match error {
        gptman::Error::InvalidChecksum(..) => Fault::Checksum("gpt header"),
        gptman::Error::InvalidRevision => Fault::Invalid("gpt header of an unknown revision"),
        gptman::Error::InvalidHeaderSize => Fault::Invalid("gpt header of an unknown size"),
        _ => Fault::Invalid("unreadable gpt header"),
    }
}

/// Checks the header that was found in sector `lba` of a medium whose last sector is `last`, as
/// GEOM does, and returns the bytes of its entries.
fn check_header(header: &GPTHeader, lba: u64, last: u64, sector: u32) -> Result<u64, Fault> {
    let GPTHeader { first_usable_lba: first, last_usable_lba: end, backup_lba: other, .. } =
        *header;
    let (count, size) = (header.number_of_partition_entries, header.size_of_partition_entry);
    // For either copy `primary_lba` is its own place and `backup_lba` that of the other.
    if header.primary_lba != lba {
        return Err(Fault::Invalid("gpt header in the wrong place"));
    }
    if other == lba || other > last {
        return Err(Fault::Invalid("gpt made for a larger medium"));
    }
    if first < 2 || end < first || end >= last {
        return Err(Fault::Invalid("gpt with impossible usable sectors"));
    }
    if !(1..=MOST_ENTRIES).contains(&count) {
        return Err(Fault::Invalid("gpt with an impossible number of entries"));
    }
    if !(128..=LONGEST_ENTRY).contains(&size) || !size.is_multiple_of(8) {
        return Err(Fault::Invalid("gpt with an impossible length of entries"));
    }
    let length = u64::from(count) * u64::from(size);
    let array_start = header.partition_entry_lba;
    let array_end = array_start.saturating_add(length.div_ceil(u64::from(sector)));
    if array_start < 2 || array_end > last || (array_start <= end && array_end > first) {
        return Err(Fault::Invalid("gpt entries in an impossible place"));
    }
    Ok(length)
}

/// An entry in use as a value; `bytes` are those of a sector.
fn entry(
    index: u32,
    raw: &GPTPartitionEntry,
    header: &GPTHeader,
    bytes: u64,
) -> Result<Entry, Fault> {
    let beyond = Fault::Beyond { index };
    let (first, last) = (raw.starting_lba, raw.ending_lba);
    if first < header.first_usable_lba || last < first || last > header.last_usable_lba {
        return Err(beyond);
    }
    let name = raw.partition_name.as_str();
    Ok(Entry {
        index,
        start: first.checked_mul(bytes).ok_or(beyond.clone())?,
        // At most the medium's sectors, so that adding one cannot wrap.
        size: (last - first).saturating_add(1).checked_mul(bytes).ok_or(beyond)?,
        kind: kind(raw.partition_type_guid),
        label: (!name.is_empty()).then(|| name.to_owned()),
        uuid: Some(guid(raw.unique_partition_guid)),
        active: false,
        boot_me: raw.attribute_bits & BOOT_ME != 0,
        boot_once: raw.attribute_bits & BOOT_ONCE != 0,
        boot_failed: raw.attribute_bits & BOOT_FAILED != 0,
    })
}

/// The word of gpart(8) for a type. It has none for the "discoverable" types of Linux
/// (`!4f68bce3-e8cd-4db1-96e7-fbcaf984b709` is a root for x86-64).
fn kind(bytes: [u8; 16]) -> String {
    let text = guid(bytes);
    match KINDS.iter().find(|(guid, _)| *guid == text) {
        Some((_, word)) => (*word).to_owned(),
        None => format!("!{text}"),
    }
}

/// A GUID as lower-case text; on the medium its first three fields are little-endian.
fn guid(bytes: [u8; 16]) -> String {
    const ORDER: [usize; 16] = [3, 2, 1, 0, 5, 4, 7, 6, 8, 9, 10, 11, 12, 13, 14, 15];
    let mut text = String::with_capacity(36);
    for (n, at) in ORDER.into_iter().enumerate() {
        if matches!(n, 4 | 6 | 8 | 10) {
            text.push('-');
        }
        // Writing to a String cannot fail.
        let _ = write!(text, "{:02x}", bytes[at]);
    }
    text
}

#[cfg(test)]
mod tests {
    use gptman::GPT;
    use proptest::prelude::*;

    use super::super::tests::Device;
    use super::*;

    const MB: u64 = 1 << 20;
    const UFS: [u8; 16] = [
        0xb6, 0x7c, 0x6e, 0x51, 0xcf, 0x6e, 0xd6, 0x11, 0x8f, 0xf8, 0, 0x02, 0x2d, 0x09, 0x71, 0x2b,
    ];

    /// A medium of 4 MB that gptman wrote: two entries with boot attributes.
    fn medium(sector: u32) -> Vec<u8> {
        let mut cursor = Cursor::new(vec![0; 4 << 20]);
        let mut gpt = GPT::new_from(&mut cursor, u64::from(sector), [0xab; 16]).unwrap();
        for (index, first, attribute_bits) in [(1, 100, BOOT_ME | BOOT_ONCE), (5, 200, BOOT_FAILED)]
        {
            gpt[index] = GPTPartitionEntry {
                partition_type_guid: UFS,
                unique_partition_guid: [u8::try_from(index).unwrap(); 16],
                starting_lba: first,
                ending_lba: first + 99,
                attribute_bits,
                partition_name: if index == 1 { "rootA".into() } else { "".into() },
            };
        }
        gpt.write_into(&mut cursor).unwrap();
        GPT::write_protective_mbr_into(&mut cursor, u64::from(sector)).unwrap();
        cursor.into_inner()
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

    /// Recomputes both checksums of the primary copy after a change.
    fn seal(bytes: &mut [u8], array: std::ops::Range<usize>) {
        let sum = crc32fast::hash(&bytes[array]).to_le_bytes();
        bytes[512 + 88..512 + 92].copy_from_slice(&sum);
        bytes[512 + 16..512 + 20].fill(0);
        let sum = crc32fast::hash(&bytes[512..512 + 92]).to_le_bytes();
        bytes[512 + 16..512 + 20].copy_from_slice(&sum);
    }

    /// A good medium with a field of the primary header changed, checksums right, no backup.
    fn changed(at: usize, value: &[u8]) -> Vec<u8> {
        let mut bytes = medium(512);
        bytes[512 + at..512 + at + value.len()].copy_from_slice(value);
        seal(&mut bytes, 1024..1024 + 16384);
        let end = bytes.len();
        bytes[end - 512..].fill(0);
        bytes
    }

    #[test]
    fn both_copies_and_both_sectors_say_the_same() {
        for sector in [512, 4096] {
            let mut bytes = medium(sector);
            let whole = super::super::read(
                &mut Device { inner: Cursor::new(&bytes), sector: u64::from(sector) },
                4 * MB,
                sector,
            );
            let whole = whole.unwrap().unwrap();
            let start = 100 * u64::from(sector);
            assert_eq!(whole.by_index(1).unwrap().start, start);
            assert_eq!(whole.by_index(5).unwrap().size, start);
            bytes[2 * sector as usize] ^= 1;
            assert_eq!(read_bytes(&bytes, sector).unwrap().unwrap(), whole, "backup");
            let primary = read_copy(&mut Cursor::new(&bytes), 4 * MB, sector, Copy::Primary);
            assert_eq!(fault(primary), Fault::Checksum("gpt entries"));
            let end = bytes.len();
            bytes[end - sector as usize + 20] ^= 1;
            assert_eq!(fault(read_bytes(&bytes, sector)), Fault::Checksum("gpt entries"));
            bytes[end - sector as usize..].fill(0);
            assert_eq!(fault(read_bytes(&bytes, sector)), Fault::Checksum("gpt entries"));
            bytes[sector as usize + 20] ^= 1;
            assert_eq!(fault(read_bytes(&bytes, sector)), Fault::Checksum("gpt header"));
        }
    }

    #[test]
    fn hostile_headers_are_refused() {
        let huge = u32::MAX.to_le_bytes();
        let far = u64::MAX.to_le_bytes();
        let cases: [(usize, &[u8]); 11] = [
            (80, &huge),
            (80, &[0; 4]),
            (84, &huge),
            (84, &[64, 0, 0, 0]),
            (84, &[129, 0, 0, 0]),
            (72, &far),
            (72, &[0; 8]),
            (72, &[100, 0, 0, 0, 0, 0, 0, 0]),
            (24, &far),
            (32, &far),
            (48, &far),
        ];
        for (at, value) in cases {
            let fault = fault(read_bytes(&changed(at, value), 512));
            assert!(matches!(fault, Fault::Invalid(_)), "{at} {value:?}: {fault:?}");
        }
        for (at, value) in [(8, [1, 1, 1, 1]), (12, huge), (12, [0; 4])] {
            let fault = fault(read_bytes(&changed(at, &value), 512));
            assert!(matches!(fault, Fault::Invalid(_)), "{at} {value:?}: {fault:?}");
        }
    }

    #[test]
    fn a_table_for_a_larger_medium_is_refused() {
        let bytes = medium(512);
        let fault = fault(read_bytes(&bytes[..bytes.len() / 2], 512));
        assert_eq!(fault, Fault::Invalid("gpt made for a larger medium"));
    }

    #[test]
    fn longer_entries_are_read() {
        let mut bytes = medium(512);
        let first = bytes[1024..1152].to_vec();
        bytes[1024..17408].fill(0);
        bytes[1024 + 256..1024 + 384].copy_from_slice(&first);
        bytes[512 + 80..512 + 88].copy_from_slice(&[64, 0, 0, 0, 0, 1, 0, 0]);
        seal(&mut bytes, 1024..1024 + 16384);
        let table = read_bytes(&bytes, 512).unwrap().unwrap();
        assert_eq!(table.entries.len(), 1);
        assert_eq!(table.by_index(2).unwrap().label.as_deref(), Some("rootA"));
    }

    proptest! {
        #[test]
        fn sealed_garbage_stays_inside(at in 24usize..88, value: u8, entry in 0usize..512,
                                       other: u8, fill: u64) {
            let mut bytes = medium(512);
            bytes[512 + at] = value;
            bytes[1024 + entry] = other;
            let place = 1024 + entry / 8 * 8;
            bytes[place..place + 8].copy_from_slice(&fill.to_le_bytes());
            seal(&mut bytes, 1024..1024 + 16384);
            for copy in [Copy::Primary, Copy::Backup] {
                if let Ok(Some(table)) = read_copy(&mut Cursor::new(&bytes), 4 * MB, 512, copy) {
                    prop_assert!(table.entries.iter().all(|e| e.end() <= 4 * MB && e.size > 0));
                }
            }
        }

        #[test]
        fn any_names(name in prop::collection::vec(any::<u8>(), 72)) {
            let mut bytes = medium(512);
            bytes[1024 + 56..1024 + 128].copy_from_slice(&name);
            seal(&mut bytes, 1024..1024 + 16384);
            prop_assert!(read_bytes(&bytes, 512).unwrap().is_some());
        }
    }
}
