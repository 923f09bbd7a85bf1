//! The four slices of a master boot record (`sys/sys/disk/mbr.h`, `sys/geom/part/g_part_mbr.c`).
//!
//! Logical slices of an extended one are not followed: it is an entry of kind `ebr`, and nothing
//! that FreeBSD boots lies in there.

use super::{Entry, Fault, Scheme, Table, boot0, check_entries, check_sector, le16, le32};

/// Bytes that matter of the first sector, whatever its size.
const LENGTH: usize = 512;
/// Disk signature, little-endian 32 bits, behind the boot code.
const DISK_ID: usize = 440;
/// First of four entries of 16 bytes.
const ENTRIES: usize = 446;
/// Little-endian 0xaa55.
const SIGNATURE: usize = 510;

/// An entry as it is on the medium, in sectors.
struct Raw {
    index: u32,
    status: u8,
    code: u8,
    start: u32,
    count: u32,
}

impl Raw {
    /// Whether its status is one: active or not.
    fn has_status(&self) -> bool {
        matches!(self.status, 0x00 | 0x80)
    }
}

/// Whether the sector ends as a boot sector does (0x55 0xaa at 510); file systems do so too.
pub fn has_signature(sector: &[u8]) -> bool {
    le16(sector, SIGNATURE) == Some(0xaa55)
}

/// Whether the sector is a protective MBR: a slice of type 0xee says that a GPT rules the medium.
pub fn is_protective(sector: &[u8]) -> bool {
    has_signature(sector) && raw_entries(sector).iter().any(|raw| raw.code == 0xee)
}

/// Reads the slices from the first sector (`bytes`, at least 512) of a medium of `size` bytes in
/// sectors of `sector` bytes.
///
/// `None` where this is no MBR: see [`entries`]. Several active flags are kept as they are.
///
/// # Errors
/// [`Fault::Beyond`] and [`Fault::Overlap`], both of which GEOM refuses too; [`Fault::Sector`].
pub fn read(bytes: &[u8], size: u64, sector: u32) -> Result<Option<Table>, Fault> {
    check_sector(sector)?;
    let Some(entries) = entries(bytes, size, sector) else { return Ok(None) };
    check_entries(&entries, size)?;
    Ok(Some(Table { scheme: Scheme::Mbr, sector, disk_id: disk_id(bytes), entries }))
}

/// The slices as they are written, wherever they lead to, in sectors of at most 65536 bytes.
///
/// `None` where this is no MBR: no signature, a protective MBR, a status that is neither 0x00 nor
/// 0x80 (text or code of a boot sector), or a FAT boot sector, told by its parameter block where
/// the entries are empty or do not fit the medium. Entries without a type, a start or a size are
/// left out, as GEOM does.
pub fn entries(bytes: &[u8], size: u64, sector: u32) -> Option<Vec<Entry>> {
    if bytes.len() < LENGTH || !has_signature(bytes) || is_protective(bytes) {
        return None;
    }
    let raw = raw_entries(bytes);
    if raw.iter().any(|raw| !raw.has_status()) {
        return None;
    }
    let sector_bytes = u64::from(sector);
    let signature = signature(bytes);
    let entries: Vec<Entry> = raw
        .iter()
        .filter(|raw| raw.code != 0 && raw.start != 0 && raw.count != 0)
        .map(|raw| Entry {
            index: raw.index,
            start: u64::from(raw.start) * sector_bytes,
            size: u64::from(raw.count) * sector_bytes,
            kind: kind(raw.code),
            active: raw.status == 0x80,
            // Linux's PARTUUID: the disk's signature and the slice's number.
            uuid: signature.as_ref().map(|id| format!("{id}-{:02x}", raw.index)),
            ..Entry::default()
        })
        .collect();
    let fits = !entries.is_empty() && check_entries(&entries, size).is_ok();
    (fits || !has_fat_parameters(bytes)).then_some(entries)
}

/// The index of an entry whose status is no status, in a sector that otherwise looks like an MBR: it
/// is no boot sector of FAT, and an entry of it lies on the medium.
pub fn bad_status(bytes: &[u8], size: u64, sector: u32) -> Option<u32> {
    if bytes.len() < LENGTH || !has_signature(bytes) || has_fat_parameters(bytes) {
        return None;
    }
    let raw = raw_entries(bytes);
    let sectors = size / u64::from(sector.max(1));
    let lies_there = |raw: &Raw| {
        let end = u64::from(raw.start) + u64::from(raw.count);
        raw.code != 0 && raw.start != 0 && raw.count != 0 && end <= sectors
    };
    let bad = raw.iter().find(|raw| !raw.has_status())?.index;
    raw.iter().any(lies_there).then_some(bad)
}

/// Where the protective slice begins and ends, in sectors; the end is `None` where the field is
/// full (a medium with more sectors than 32 bits count, or one who does not say).
pub fn protective(bytes: &[u8]) -> Option<(u64, Option<u64>)> {
    let raw = raw_entries(bytes).into_iter().find(|raw| raw.code == 0xee)?;
    let start = u64::from(raw.start);
    Some((start, (raw.count != u32::MAX).then(|| start + u64::from(raw.count))))
}

/// Whether there is anything where the boot code is: before the disk signature.
pub fn has_boot_code(bytes: &[u8]) -> bool {
    bytes.iter().take(DISK_ID).any(|&byte| byte != 0)
}

/// Sets or clears the active flag of an entry, from 1.
pub fn set_active(sector: &mut [u8], index: u32, active: bool) {
    let at = ENTRIES + (index.clamp(1, 4) as usize - 1) * 16;
    if let Some(status) = sector.get_mut(at) {
        *status = if active { 0x80 } else { 0 };
    }
}

/// The disk signature as 8 hex digits.
fn signature(bytes: &[u8]) -> Option<String> {
    le32(bytes, DISK_ID).filter(|&id| id != 0).map(|id| format!("{id:08x}"))
}

/// What tells the medium from others: its signature, unless boot0 keeps in its place what it started
/// last, as the older version does.
pub fn disk_id(bytes: &[u8]) -> Option<String> {
    let taken = boot0::remembered(bytes).is_some_and(|kept| kept.end > DISK_ID);
    signature(bytes).filter(|_| !taken)
}

/// The four entries; fewer where the sector is too short.
fn raw_entries(bytes: &[u8]) -> Vec<Raw> {
    let area = bytes.get(ENTRIES..SIGNATURE).unwrap_or_default();
    let decode = |(index, raw): (u32, &[u8])| {
        Some(Raw {
            index,
            status: *raw.first()?,
            code: *raw.get(4)?,
            start: le32(raw, 8)?,
            count: le32(raw, 12)?,
        })
    };
    (1..).zip(area.chunks_exact(16)).filter_map(decode).collect()
}

/// Whether the sector has the BIOS parameter block of a FAT file system: a boot sector without
/// boot code has an all-zero table, which only this tells from an empty MBR.
fn has_fat_parameters(bytes: &[u8]) -> bool {
    let sector = le16(bytes, 11).unwrap_or(0);
    let cluster = bytes.get(13).copied().unwrap_or(0);
    sector.is_power_of_two() && (512..=4096).contains(&sector) && cluster.is_power_of_two()
}

/// The word of gpart(8) for a slice's type. 0x85, Linux's extended slice, counts as `ebr` although
/// gpart prints `!133`: it holds logical slices all the same.
fn kind(code: u8) -> String {
    let word = match code {
        0x05 | 0x0f | 0x85 => "ebr",
        0x06 => "fat16",
        0x07 => "ntfs",
        0x0b => "fat32",
        0x0c => "fat32lba",
        0x41 => "prep-boot",
        0x42 => "ms-ldm-data",
        0x82 => "linux-swap",
        0x83 => "linux-data",
        0x8e => "linux-lvm",
        0xa5 => "freebsd",
        0xa8 => "apple-ufs",
        0xab => "apple-boot",
        0xaf => "apple-hfs",
        0xef => "efi",
        0xfb => "vmware-vmfs",
        0xfc => "vmware-vmkdiag",
        0xfd => "linux-raid",
        other => return format!("!{other}"),
    };
    word.to_owned()
}

#[cfg(test)]
pub(super) mod tests {
    use proptest::prelude::*;

    use super::*;

    const MB: u64 = 1 << 20;

    /// A first sector with these entries: status, type, start, sectors.
    pub(in super::super) fn sector(entries: &[(u8, u8, u32, u32)]) -> Vec<u8> {
        let mut bytes = vec![0; 512];
        for (n, &(status, code, start, count)) in entries.iter().enumerate() {
            let at = ENTRIES + n * 16;
            bytes[at] = status;
            bytes[at + 4] = code;
            bytes[at + 8..at + 12].copy_from_slice(&start.to_le_bytes());
            bytes[at + 12..at + 16].copy_from_slice(&count.to_le_bytes());
        }
        bytes[510..].copy_from_slice(&[0x55, 0xaa]);
        bytes
    }

    #[test]
    fn sectors_of_4096_bytes_scale() {
        let bytes = sector(&[(0, 0xa5, 256, 256)]);
        let table = read(&bytes, 2 * MB, 4096).unwrap().unwrap();
        assert_eq!((table.entries[0].start, table.entries[0].size), (MB, MB));
    }

    #[test]
    fn holes_are_left_out_and_indices_stay() {
        let bytes =
            sector(&[(0, 0, 7, 7), (0x80, 0xa5, 64, 10), (0, 0xa5, 0, 5), (0x80, 19, 1, 1)]);
        let table = read(&bytes, MB, 512).unwrap().unwrap();
        let seen: Vec<_> = table.entries.iter().map(|e| (e.index, e.kind.as_str())).collect();
        assert_eq!(seen, [(2, "freebsd"), (4, "!19")]);
        assert!(table.entries.iter().all(|e| e.active), "two active flags are kept");
        assert_eq!(table.disk_id, None);
    }

    #[test]
    fn an_empty_table_is_a_table() {
        assert_eq!(read(&sector(&[]), MB, 512).unwrap().unwrap().entries, []);
    }

    #[test]
    fn boot_sectors_are_no_tables() {
        let mut fat = sector(&[]);
        fat[11..14].copy_from_slice(&[0, 2, 8]);
        assert_eq!(read(&fat, MB, 512), Ok(None));
        fat[446..454].copy_from_slice(b"\0isk err");
        fat[454..462].copy_from_slice(b"or, pres");
        assert_eq!(read(&fat, MB, 512), Ok(None), "valid status, garbage entries");
        assert_eq!(read(&sector(&[(b'N', b'o', 1, 1)]), MB, 512), Ok(None));
        assert_eq!(read(&sector(&[(0, 0xee, 1, 99)]), MB, 512), Ok(None));
        assert_eq!(read(&[0; 512], MB, 512), Ok(None));
        assert_eq!(read(&[], MB, 512), Ok(None));
    }

    #[test]
    fn damage_is_named() {
        let beyond = sector(&[(0, 0xa5, 64, u32::MAX)]);
        assert_eq!(read(&beyond, MB, 512), Err(Fault::Beyond { index: 1 }));
        let overlap = sector(&[(0, 0xa5, 100, 10), (0, 0xa5, 64, 37)]);
        assert_eq!(read(&overlap, MB, 512), Err(Fault::Overlap { first: 2, second: 1 }));
    }

    proptest! {
        #[test]
        fn any_bytes(mut bytes in prop::collection::vec(any::<u8>(), 0..1024), size: u64,
                     sign: bool, sector: u32) {
            if sign && bytes.len() >= 512 {
                bytes[510..512].copy_from_slice(&[0x55, 0xaa]);
                for at in [446, 462, 478, 494] { bytes[at] &= 0x80; }
            }
            let _ = read(&bytes, size, sector);
            if let Ok(Some(table)) = read(&bytes, size, 512) {
                prop_assert!(table.entries.iter().all(|e| e.end() <= size && e.size > 0));
            }
        }
    }
}
