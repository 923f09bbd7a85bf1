//! BSD disklabels (`sys/sys/disk/bsd.h`, `sys/geom/part/g_part_bsd.c`): up to 20 partitions inside
//! a slice, described in the slice's second sector, between boot1 and boot2.

use super::{Entry, Fault, Scheme, Table, check_entries, check_sector, le16, le32};

/// Bytes of a slice that hold boot1, label and boot2 (`BBSIZE`): what [`read`] needs.
pub const WINDOW: usize = 8192;

/// The letter of a partition (`g_part_bsd_name`): 1 is `a`.
pub fn letter(index: u32) -> char {
    char::from(b'a' + u8::try_from(index.clamp(1, 26) - 1).unwrap_or(0))
}

/// `DISKMAGIC`, at the start of the label and again at [`MAGIC2`].
const MAGIC: u32 = 0x8256_4557;
/// `d_secsize`: bytes in a sector.
const SECTOR: usize = 40;
/// `d_nsectors` and `d_ntracks`: the geometry, both 1 to 255 for GEOM.
const GEOMETRY: [usize; 2] = [44, 48];
/// `d_magic2`.
const MAGIC2: usize = 132;
/// `d_npartitions`, 16 bits.
const COUNT: usize = 138;
/// `d_partitions`: 16 bytes each.
const PARTITIONS: usize = 148;
/// Index of `c`, the whole slice.
const RAW: usize = 2;

/// A partition as it is on the medium, in sectors.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Raw {
    /// `a` is 1.
    pub index: u32,
    /// Sectors.
    pub count: u32,
    /// First sector, from where the label counts.
    pub start: u32,
    /// `p_fstype`.
    pub kind: u8,
}

/// A label as it is on the medium, with its checksum and its own fields checked, but not what its
/// partitions say.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Label {
    /// All partitions, `a` first, with those that are not in use.
    pub partitions: Vec<Raw>,
}

impl Label {
    /// `c`, the whole slice.
    pub fn raw(&self) -> Option<&Raw> {
        self.partitions.get(RAW)
    }

    /// The partitions in use besides `c`.
    pub fn used(&self) -> impl Iterator<Item = &Raw> {
        let used = |raw: &&Raw| raw.index as usize != RAW + 1 && raw.count != 0 && raw.kind != 0;
        self.partitions.iter().filter(used)
    }
}

/// Whether a label's two magic numbers are in the second sector of `bytes`.
pub fn is_labelled(bytes: &[u8], sector: u32) -> bool {
    at(bytes, sector).is_some()
}

/// The label in the second sector; `None` where there is none.
///
/// # Errors
/// [`Fault::Checksum`], [`Fault::Invalid`] for fields that GEOM refuses, [`Fault::Sector`].
pub fn label(bytes: &[u8], sector: u32) -> Result<Option<Label>, Fault> {
    check_sector(sector)?;
    let Some(label) = at(bytes, sector) else { return Ok(None) };
    Ok(Some(Label { partitions: partitions(label, sector)? }))
}

/// The byte at which something that looks like a label lies, wherever that is.
pub fn find(bytes: &[u8]) -> Option<usize> {
    let bytes = &bytes[..bytes.len().min(WINDOW)];
    (0..bytes.len()).step_by(4).find(|&place| {
        le32(bytes, place) == Some(MAGIC) && le32(bytes, place + MAGIC2) == Some(MAGIC)
    })
}

/// Reads the label of a slice from its first [`WINDOW`] bytes.
///
/// `slice_start` is the slice's first byte on its medium, `slice_size` its bytes. The entries'
/// starts are relative to the slice. Old labels count from the start of the medium instead; like
/// GEOM and boot2 this goes by where `c` starts and not by where the slice is, so that the label
/// of a slice that was copied to another place still holds. `c` itself, empty entries and entries
/// of type 0 (unused) are left out, and so is what starts before `c`: GEOM makes no node for it.
///
/// `None` where there is no label.
///
/// # Errors
/// [`Fault::Checksum`], [`Fault::Invalid`] for fields that GEOM refuses, [`Fault::Beyond`],
/// [`Fault::Overlap`], [`Fault::Sector`].
pub fn read(
    sector_data: &[u8],
    slice_start: u64,
    slice_size: u64,
    sector: u32,
) -> Result<Option<Table>, Fault> {
    let Some(label) = label(sector_data, sector)? else { return Ok(None) };
    if slice_start.checked_add(slice_size).is_none() {
        return Err(Fault::Invalid("slice beyond any medium"));
    }
    let base = label.raw().map_or(0, |raw| raw.start);
    let bytes = u64::from(sector);
    let entries: Vec<Entry> = label
        .used()
        .filter_map(|raw| {
            Some(Entry {
                index: raw.index,
                start: u64::from(raw.start.checked_sub(base)?) * bytes,
                size: u64::from(raw.count) * bytes,
                kind: kind(raw.kind),
                ..Entry::default()
            })
        })
        .collect();
    check_entries(&entries, slice_size)?;
    Ok(Some(Table { scheme: Scheme::Bsd, sector, disk_id: None, entries }))
}

/// The bytes from the label's start on, if both magic numbers are there.
fn at(bytes: &[u8], sector: u32) -> Option<&[u8]> {
    let label = bytes.get(usize::try_from(sector).ok()?..)?;
    (le32(label, 0)? == MAGIC && le32(label, MAGIC2)? == MAGIC).then_some(label)
}

/// Checks the label and decodes its partitions, `a` first.
fn partitions(label: &[u8], sector: u32) -> Result<Vec<Raw>, Fault> {
    const SHORT: Fault = Fault::Invalid("truncated disklabel");
    if le32(label, SECTOR).ok_or(SHORT)? != sector {
        return Err(Fault::Invalid("disklabel for another sector size"));
    }
    for field in GEOMETRY {
        if !(1..=255).contains(&le32(label, field).ok_or(SHORT)?) {
            return Err(Fault::Invalid("disklabel with an impossible geometry"));
        }
    }
    let count = usize::from(le16(label, COUNT).ok_or(SHORT)?);
    if !(8..=20).contains(&count) {
        return Err(Fault::Invalid("disklabel with an impossible number of partitions"));
    }
    let label = label.get(..PARTITIONS + count * 16).ok_or(SHORT)?;
    // The checksum's own field makes the exclusive or of all 16-bit words zero.
    let sum = label.chunks_exact(2).fold(0, |sum, word| sum ^ le16(word, 0).unwrap_or(0));
    if sum != 0 {
        return Err(Fault::Checksum("disklabel"));
    }
    let decode = |(index, raw): (u32, &[u8])| {
        Some(Raw { index, count: le32(raw, 0)?, start: le32(raw, 4)?, kind: *raw.get(12)? })
    };
    let raw = (1..).zip(label[PARTITIONS..].chunks_exact(16));
    raw.map(|raw| decode(raw).ok_or(SHORT)).collect()
}

/// The word of gpart(8) for a partition's `p_fstype`.
fn kind(code: u8) -> String {
    let word = match code {
        1 => "freebsd-swap",
        7 => "freebsd-ufs",
        14 => "freebsd-vinum",
        27 => "freebsd-zfs",
        30 => "freebsd-nandfs",
        other => return format!("!{other}"),
    };
    word.to_owned()
}

#[cfg(test)]
pub(super) mod tests {
    use proptest::prelude::*;

    use super::*;

    const MB: u64 = 1 << 20;

    /// The first 8 KiB of a slice with these partitions: index, sectors, start, type.
    pub(in super::super) fn slice(sector: u32, partitions: &[(usize, u32, u32, u8)]) -> Vec<u8> {
        let mut bytes = vec![0; WINDOW];
        let label = &mut bytes[sector as usize..];
        for (at, value) in [(0, MAGIC), (MAGIC2, MAGIC), (SECTOR, sector), (44, 63), (48, 255)] {
            label[at..at + 4].copy_from_slice(&value.to_le_bytes());
        }
        label[COUNT] = 8;
        for &(index, count, start, kind) in partitions {
            let at = PARTITIONS + index * 16;
            label[at..at + 4].copy_from_slice(&count.to_le_bytes());
            label[at + 4..at + 8].copy_from_slice(&start.to_le_bytes());
            label[at + 12] = kind;
        }
        seal(label);
        bytes
    }

    fn seal(label: &mut [u8]) {
        label[136..138].fill(0);
        let length = PARTITIONS + usize::from(label[COUNT]) * 16;
        let sum = label[..length].chunks_exact(2).fold(0, |sum, word| sum ^ le16(word, 0).unwrap());
        label[136..138].copy_from_slice(&sum.to_le_bytes());
    }

    fn places(table: &Table) -> Vec<(u32, u64, u64, &str)> {
        table.entries.iter().map(|e| (e.index, e.start, e.size, e.kind.as_str())).collect()
    }

    #[test]
    fn relative_and_absolute_labels_say_the_same() {
        let relative =
            [(0, 1000, 16, 7), (1, 100, 1016, 1), (2, 2048, 0, 0), (4, 50, 1200, 27), (7, 9, 0, 0)];
        let absolute = relative.map(|(index, count, start, kind)| (index, count, start + 63, kind));
        let expected = [
            (1, 16 * 512, 512_000, "freebsd-ufs"),
            (2, 1016 * 512, 51_200, "freebsd-swap"),
            (5, 1200 * 512, 25_600, "freebsd-zfs"),
        ];
        for (partitions, start) in [(relative, 63), (absolute, 63), (absolute, 1_000_000)] {
            let table = read(&slice(512, &partitions), start * 512, MB, 512).unwrap().unwrap();
            assert_eq!(places(&table), expected);
            assert_eq!((table.scheme.name(), table.disk_id), ("BSD", None));
        }
    }

    #[test]
    fn an_entry_before_the_raw_partition_has_no_node() {
        let bytes = slice(512, &[(0, 10, 62, 7), (2, 2048, 63, 0), (3, 10, 63, 99)]);
        let table = read(&bytes, 0, MB, 512).unwrap().unwrap();
        assert_eq!(places(&table), [(4, 0, 5120, "!99")]);
    }

    #[test]
    fn sectors_of_4096_bytes_scale() {
        let bytes = slice(4096, &[(0, 200, 2, 7), (2, 256, 0, 0)]);
        let table = read(&bytes, MB, MB, 4096).unwrap().unwrap();
        assert_eq!(places(&table), [(1, 8192, 819_200, "freebsd-ufs")]);
        assert_eq!(read(&bytes, MB, MB, 512), Ok(None), "not in the second sector");
    }

    #[test]
    fn twenty_partitions() {
        let mut bytes = slice(512, &[(19, 5, 100, 14), (2, 2048, 0, 0)]);
        bytes[512 + COUNT] = 20;
        seal(&mut bytes[512..]);
        let table = read(&bytes, 0, MB, 512).unwrap().unwrap();
        assert_eq!(places(&table), [(20, 51_200, 2560, "freebsd-vinum")]);
        bytes[512 + COUNT] = 21;
        seal(&mut bytes[512..]);
        assert!(matches!(read(&bytes, 0, MB, 512), Err(Fault::Invalid(_))));
    }

    #[test]
    fn damage_is_named() {
        let good = slice(512, &[(0, 1000, 16, 7), (2, 2048, 0, 0)]);
        assert_eq!(read(&[0; 8192], 0, MB, 512), Ok(None));
        assert_eq!(read(&good[..600], 0, MB, 512), Ok(None));
        assert_eq!(read(&good[..700], 0, MB, 512), Err(Fault::Invalid("truncated disklabel")));
        assert_eq!(read(&good, 0, 1016 * 512 - 1, 512), Err(Fault::Beyond { index: 1 }));
        assert!(matches!(read(&good, u64::MAX, MB, 512), Err(Fault::Invalid(_))));
        let mut bad = good.clone();
        bad[600] ^= 1;
        assert_eq!(read(&bad, 0, MB, 512), Err(Fault::Checksum("disklabel")));
        let overlap = slice(512, &[(0, 1000, 16, 7), (3, 10, 1000, 7), (2, 2048, 0, 0)]);
        assert_eq!(read(&overlap, 0, MB, 512), Err(Fault::Overlap { first: 1, second: 4 }));
    }

    proptest! {
        #[test]
        fn any_partitions(parts in prop::collection::vec((0usize..8, any::<u32>(), any::<u32>(),
                          any::<u8>()), 0..8), small: bool, size: u64, start: u64) {
            let parts: Vec<_> = parts.into_iter().map(|(index, count, start, kind)| {
                let mask = if small { 0xfff } else { u32::MAX };
                (index, count & mask, start & mask, kind)
            }).collect();
            if let Ok(Some(table)) = read(&slice(512, &parts), start, size, 512) {
                prop_assert!(table.entries.iter().all(|e| e.end() <= size && e.size > 0));
            }
        }

        #[test]
        fn any_bytes(bytes in prop::collection::vec(any::<u8>(), 0..2048), size: u64, sector: u32,
                     sign: bool) {
            let mut bytes = bytes;
            if sign && bytes.len() > 1024 {
                bytes[512..516].copy_from_slice(&MAGIC.to_le_bytes());
                bytes[644..648].copy_from_slice(&MAGIC.to_le_bytes());
            }
            let _ = read(&bytes, 0, size, sector);
            let _ = read(&bytes, 0, size, 512);
        }
    }
}
