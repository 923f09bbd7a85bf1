//! Which file system a partition holds, told from its first bytes: UFS2 (`sys/ufs/ffs/fs.h`), ext2
//! to ext4 and XFS (the on-disk formats in Linux's documentation).
//!
//! UFS2 is looked for at 64 KiB only, where the kernel and the boot loader want it. Debian's
//! `makefs -t ffs -o version=2` puts it at 8 KiB: FreeBSD does not mount that, so it is not found
//! here either, but [`wipe_ranges`] covers it, and UFS1, which sits at the same place.

use std::ops::Range;

use super::{array, bsd, le16, le32, le64};

/// Bytes from the partition's start that [`read`] and [`wipe_ranges`] need.
pub const WINDOW: usize = 128 * 1024;

/// What there is to say where none is found: what else is there (swap, encryption, another's file
/// system) is not looked for.
pub const NONE: &str = "no file system that dualroot knows is on it";

/// `FS_DOSOFTDEP`: soft updates.
pub const UFS_SOFT_UPDATES: u32 = 0x02;
/// `FS_NEEDSFSCK`: a foreground `fsck_ffs(8)` has to come first.
pub const UFS_NEEDS_FSCK: u32 = 0x04;
/// `FS_SUJ`: journaled soft updates.
pub const UFS_JOURNAL: u32 = 0x08;
/// `FS_ACLS`: POSIX.1e access control lists.
pub const UFS_ACLS: u32 = 0x10;
/// `FS_MULTILABEL`: one MAC label for every object.
pub const UFS_MULTILABEL: u32 = 0x20;
/// `FS_GJOURNAL`: on a gjournal(8) provider.
pub const UFS_GJOURNAL: u32 = 0x40;
/// `FS_NFS4ACLS`: access control lists of `NFSv4`.
pub const UFS_NFS4_ACLS: u32 = 0x100;
/// `FS_TRIM`: free blocks are reported to the medium.
pub const UFS_TRIM: u32 = 0x400;

/// `SBLOCK_UFS1` and `SBLOCK_UFS2`.
const UFS_PLACES: [usize; 2] = [8192, UFS2];
/// `SBLOCK_UFS2`.
const UFS2: usize = 65536;
/// `SBLOCKSIZE`.
const UFS_LENGTH: usize = 8192;
/// Length of `struct fs`.
const UFS_STRUCT: usize = 1376;
/// `FS_UFS2_MAGIC`.
const UFS2_MAGIC: u32 = 0x1954_0119;
/// `FS_UFS1_MAGIC`, `FS_UFS2_MAGIC`, and `FS_BAD_MAGIC` of a newfs(8) that was cut.
const UFS_MAGICS: [u32; 3] = [0x0001_1954, UFS2_MAGIC, 0x1996_0408];
/// The superblock of ext2 to ext4.
const EXT: Range<usize> = 1024..2048;
/// What is zeroed of an XFS: its superblock and free space headers, in sectors of any size.
const XFS: Range<u64> = 0..4096;

/// A file system that can hold a root.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum FileSystem {
    /// FreeBSD's UFS2.
    Ufs2,
    /// ext2, ext3 or ext4: one family, mounted by one driver.
    Ext4,
    /// XFS of version 4 or 5.
    Xfs,
}

impl FileSystem {
    /// The type that mount(8) takes: `ufs`, `ext4`, `xfs`.
    pub fn name(self) -> &'static str {
        match self {
            Self::Ufs2 => "ufs",
            Self::Ext4 => "ext4",
            Self::Xfs => "xfs",
        }
    }
}

/// What the superblock says. While the file system is mounted the medium lags behind: ask
/// statfs(2) for the numbers then.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Superblock {
    /// The kind.
    pub fs: FileSystem,
    /// The volume's label, where it has one (`tunefs -L`, `e2label`, `xfs_admin -L`).
    pub label: Option<String>,
    /// UFS: the 16 hex digits that glabel(8) makes `ufsid/` of (no node where all are 0). Others:
    /// the UUID as lower-case text.
    pub id: String,
    /// Bytes in a block; UFS: in a fragment.
    pub block: u32,
    /// UFS: bytes in a whole block (`fs_bsize`). Others: `block`.
    pub whole_block: u32,
    /// Free space in units of `block`, with the part that is kept for root.
    pub free_blocks: u64,
    /// Free inodes. XFS: `u64::MAX`, it makes them as it needs them.
    pub free_inodes: u64,
    /// XFS: bytes that each of these takes of the free space. Others: 0, their room is set aside.
    pub inode: u32,
    /// Whether it was unmounted in order. XFS: only that mkfs.xfs came to its end; whether the log
    /// has to be replayed stands in the log.
    pub clean: bool,
    /// UFS: `fs_flags`, see [`UFS_SOFT_UPDATES`] and its neighbours. Others: 0.
    pub flags: u32,
}

/// Reads the superblock out of the partition's first [`WINDOW`] bytes. `None` where there is none
/// that makes sense; a shorter window only hides what lies behind its end.
///
/// UFS comes first because newfs(8) leaves the first 8 KiB alone, where an older ext4 or XFS can
/// still be seen; the makers of those clear what was there before. Behind a BSD label (partition
/// `a` at the start of its slice) these bytes are boot code, and only UFS is looked for.
pub fn read(window: &[u8]) -> Option<Superblock> {
    ufs2(window).or_else(|| {
        if is_labelled(window) {
            return None;
        }
        ext4(window).or_else(|| xfs(window))
    })
}

/// The byte ranges of the partition to overwrite with zeros so that none of these file systems is
/// recognised any more, in ascending order and apart; empty where none is. They are decided by
/// magic number alone (ext, whose number is short, also by its block size), so that a damaged
/// superblock is wiped too.
///
/// UFS1 and UFS2: 8 KiB at 8 KiB, at 64 KiB, or both. XFS: the first 4 KiB. ext2 to ext4: 1 KiB at
/// 1 KiB (not a multiple of 4096: its first KiB may be boot code; on media with such sectors the
/// caller reads, changes and writes the whole sector). Behind a BSD label nothing of the first
/// 8 KiB is touched: boot1, the label and boot2. Backup superblocks stay, for fsck(8) by hand.
pub fn wipe_ranges(window: &[u8]) -> Vec<Range<u64>> {
    let mut ranges = Vec::new();
    if !is_labelled(window) {
        if window.starts_with(b"XFSB") {
            ranges.push(XFS);
        } else if ext_block(window).is_some() {
            ranges.push(widen(EXT));
        }
    }
    let found = |place: &usize| ufs_magic(window, *place).is_some_and(|m| UFS_MAGICS.contains(&m));
    let ufs = UFS_PLACES.into_iter().filter(found).map(|place| widen(place..place + UFS_LENGTH));
    ranges.extend(ufs);
    ranges
}

/// The byte range of a UFS2 in which its root directory's inode lies, with the other inodes of its
/// first block (`ino_to_fsba`: the inodes of the first cylinder group begin at `fs_iblkno`). Without
/// it nothing of the old tree can be reached, also not through the superblock of a new file system
/// that is only half made.
pub fn root_inodes(window: &[u8]) -> Option<Range<u64>> {
    ufs2(window)?;
    let fs = &window[UFS2..];
    let start = u64::from(le32(fs, 16)?) * u64::from(le32(fs, 52)?);
    (start > 0).then(|| start..start + u64::from(le32(fs, 48).unwrap_or(0)))
}

/// The sector of `inodes` that the root directory's own is in: the third one (`UFS_ROOTINO`) of 256
/// bytes each.
pub fn root_sector(inodes: &Range<u64>, sector: u32) -> Range<u64> {
    let sector = u64::from(sector.max(1));
    let start = (inodes.start + 2 * 256) / sector * sector;
    start..start + sector
}

/// The same range of bytes, of a medium instead of a buffer.
fn widen(range: Range<usize>) -> Range<u64> {
    range.start as u64..range.end as u64
}

/// Whether a BSD label is in the second sector, of any size that a medium can have.
fn is_labelled(window: &[u8]) -> bool {
    [512, 1024, 2048, 4096].into_iter().any(|sector| bsd::is_labelled(window, sector))
}

/// `fs_magic` of a UFS superblock at `place`.
fn ufs_magic(window: &[u8], place: usize) -> Option<u32> {
    le32(window.get(place..)?, 1372)
}

/// UFS2, with the checks of `ffs_subr.c` that tell it from leftovers. The check hash is the
/// kernel's own business at mount.
fn ufs2(window: &[u8]) -> Option<Superblock> {
    if ufs_magic(window, UFS2)? != UFS2_MAGIC {
        return None;
    }
    let fs = window.get(UFS2..)?.get(..UFS_STRUCT)?;
    let (groups, bsize, fsize, frag) = (le32(fs, 44)?, le32(fs, 48)?, le32(fs, 52)?, le32(fs, 56)?);
    let sane = groups >= 1
        && bsize.is_power_of_two()
        && (4096..=65536).contains(&bsize)
        && fsize.is_power_of_two()
        && (512..=bsize).contains(&fsize)
        && frag == bsize / fsize
        && frag <= 8
        && le64(fs, 1000)? == UFS2 as u64
        && le64(fs, 1080)? != 0;
    if !sane {
        return None;
    }
    // Signed on the medium; below zero only by damage, and then nothing is free.
    let count = |at| array(fs, at).map(|b| u64::try_from(i64::from_le_bytes(b)).unwrap_or(0));
    let (free_blocks, free_inodes, free_fragments) = (count(1016)?, count(1024)?, count(1032)?);
    let flags = le32(fs, 1312)?;
    Some(Superblock {
        fs: FileSystem::Ufs2,
        label: text(fs.get(680..712)?),
        id: format!("{:08x}{:08x}", le32(fs, 144)?, le32(fs, 148)?),
        block: fsize,
        whole_block: bsize,
        free_blocks: free_blocks.saturating_mul(u64::from(frag)).saturating_add(free_fragments),
        free_inodes,
        inode: 0,
        clean: fs.get(209) == Some(&1) && flags & UFS_NEEDS_FSCK == 0,
        flags,
    })
}

/// The block size of ext2 to ext4, if its magic number is there.
fn ext_block(window: &[u8]) -> Option<u32> {
    let fs = window.get(EXT)?;
    let shift = le32(fs, 24)?;
    (le16(fs, 56)? == 0xef53 && shift <= 6).then(|| 1024 << shift)
}

fn ext4(window: &[u8]) -> Option<Superblock> {
    const JOURNAL_RECOVERY: u32 = 0x04;
    const JOURNAL_DEVICE: u32 = 0x08;
    const WIDE: u32 = 0x80;
    let block = ext_block(window)?;
    let fs = window.get(EXT)?;
    let (state, incompatible) = (le16(fs, 58)?, le32(fs, 96)?);
    if incompatible & JOURNAL_DEVICE != 0 || le32(fs, 0)? == 0 {
        return None;
    }
    let high = if incompatible & WIDE == 0 { 0 } else { le32(fs, 0x158)? };
    Some(Superblock {
        fs: FileSystem::Ext4,
        label: text(fs.get(120..136)?),
        id: uuid(array(fs, 104)?),
        block,
        whole_block: block,
        free_blocks: u64::from(high) << 32 | u64::from(le32(fs, 12)?),
        free_inodes: u64::from(le32(fs, 16)?),
        inode: 0,
        // State: bit 0 unmounted in order, bit 1 errors seen.
        clean: state & 3 == 1 && incompatible & JOURNAL_RECOVERY == 0,
        flags: 0,
    })
}

/// XFS, which is big-endian.
fn xfs(window: &[u8]) -> Option<Superblock> {
    let be16 = |at| array(window, at).map(u16::from_be_bytes);
    let be32 = |at| array(window, at).map(u32::from_be_bytes);
    let be64 = |at| array(window, at).map(u64::from_be_bytes);
    let block = be32(4)?;
    let sane = window.starts_with(b"XFSB")
        && block.is_power_of_two()
        && (512..=65536).contains(&block)
        && u32::from(*window.get(120)?) == block.trailing_zeros()
        && matches!(be16(100)? & 0xf, 4 | 5)
        && be64(8)? != 0;
    if !sane {
        return None;
    }
    Some(Superblock {
        fs: FileSystem::Xfs,
        label: text(window.get(108..120)?),
        id: uuid(array(window, 32)?),
        block,
        whole_block: block,
        free_blocks: be64(144)?,
        free_inodes: u64::MAX,
        inode: u32::from(be16(104)?),
        clean: window.get(126) == Some(&0),
        flags: 0,
    })
}

/// The text before the first NUL, if any.
fn text(bytes: &[u8]) -> Option<String> {
    let text = bytes.split(|&byte| byte == 0).next().unwrap_or_default();
    (!text.is_empty()).then(|| String::from_utf8_lossy(text).into_owned())
}

/// A UUID whose bytes are in the order of its text.
fn uuid(bytes: [u8; 16]) -> String {
    let hex = format!("{:032x}", u128::from_be_bytes(bytes));
    [&hex[..8], &hex[8..12], &hex[12..16], &hex[16..20], &hex[20..]].join("-")
}

#[cfg(test)]
pub(crate) mod tests {

    use proptest::prelude::*;

    use super::*;

    pub(crate) fn wiped(window: &[u8]) -> Vec<(u64, u64)> {
        wipe_ranges(window).into_iter().map(|range| (range.start, range.end)).collect()
    }

    /// As an erased copy has them.
    pub(crate) fn wipe(window: &mut [u8]) {
        for range in wipe_ranges(window) {
            let range = usize::try_from(range.start).unwrap()..usize::try_from(range.end).unwrap();
            let end = range.end.min(window.len());
            window[range.start..end].fill(0);
        }
    }

    /// A window with a UFS2 as newfs(8) makes it.
    pub(crate) fn ufs() -> Vec<u8> {
        let mut bytes = vec![0; WINDOW];
        let fs = &mut bytes[UFS2..];
        let words = [(44, 4), (48, 32768), (52, 4096), (56, 8), (144, 0x5f00_0001), (148, 0xab)];
        for (at, value) in words.into_iter().chain([(1312, 0x2 | 0x8), (1372, UFS2_MAGIC)]) {
            fs[at..at + 4].copy_from_slice(&value.to_le_bytes());
        }
        let longs = [(1000, 65536), (1016, 1000), (1024, 777), (1032, 5), (1080, 99_999)];
        for (at, value) in longs {
            fs[at..at + 8].copy_from_slice(&u64::to_le_bytes(value));
        }
        fs[209] = 1;
        fs[680..684].copy_from_slice(b"root");
        bytes
    }

    #[test]
    fn ufs2_is_read() {
        let expected = Superblock {
            fs: FileSystem::Ufs2,
            label: Some("root".to_owned()),
            id: "5f000001000000ab".to_owned(),
            block: 4096,
            whole_block: 32768,
            free_blocks: 8005,
            free_inodes: 777,
            inode: 0,
            clean: true,
            flags: UFS_SOFT_UPDATES | UFS_JOURNAL,
        };
        assert_eq!(read(&ufs()), Some(expected.clone()));
        let mut dirty = ufs();
        dirty[UFS2 + 209] = 0;
        assert_eq!(read(&dirty), Some(Superblock { clean: false, ..expected }));
    }

    #[test]
    fn the_root_inode_is_where_the_inodes_begin() {
        let mut bytes = ufs();
        assert_eq!(root_inodes(&bytes), None);
        bytes[UFS2 + 16] = 32;
        assert_eq!(root_inodes(&bytes), Some(131_072..163_840));
        assert_eq!(root_sector(&(131_072..163_840), 512), 131_584..132_096);
        assert_eq!(root_sector(&(131_072..163_840), 4096), 131_072..135_168);
        bytes[UFS2 + 1372] = 0;
        assert_eq!(root_inodes(&bytes), None);
    }

    #[test]
    fn implausible_ufs2_is_none_and_still_wiped() {
        for (at, value) in [(44, 0), (48, 3000), (48, 1 << 17), (52, 256), (56, 7), (1000, 8192)] {
            let mut bytes = ufs();
            bytes[UFS2 + at..UFS2 + at + 4].copy_from_slice(&i32::to_le_bytes(value));
            assert_eq!(read(&bytes), None, "{at} {value}");
            assert_eq!(wiped(&bytes), [(65536, 73728)]);
        }
        let mut negative = ufs();
        negative[UFS2 + 1016..UFS2 + 1024].fill(0xff);
        assert_eq!(read(&negative).unwrap().free_blocks, 5);
    }

    #[test]
    fn the_boot_area_behind_a_label_is_never_touched() {
        for sector in [512, 4096] {
            let mut bytes = ufs();
            bytes[..8192].copy_from_slice(&bsd::tests::slice(sector, &[(0, 99, 0, 7)]));
            bytes[1024 + 56..1024 + 58].copy_from_slice(&[0x53, 0xef]);
            bytes[..4].copy_from_slice(b"XFSB");
            assert_eq!(wiped(&bytes), [(65536, 73728)]);
            bytes[UFS2..].fill(0);
            assert_eq!((read(&bytes), wipe_ranges(&bytes)), (None, Vec::new()));
        }
    }

    proptest! {
        #[test]
        fn any_window(length in 0..WINDOW, changes in prop::collection::vec(
                      (0usize..1400, any::<u8>()), 0..20), kind in 0..4) {
            let mut bytes = ufs();
            match kind {
                0 => bytes[1024 + 56..1024 + 58].copy_from_slice(&[0x53, 0xef]),
                1 => bytes[..8].copy_from_slice(b"XFSB\0\0\x10\0"),
                _ => {}
            }
            if kind < 2 { bytes[UFS2 + 1372] = 0; }
            for (at, value) in changes {
                for base in [0, 1024, UFS2] { bytes[base + at] = value; }
            }
            bytes.truncate(length.max(usize::from(kind == 3) * WINDOW));
            let _ = read(&bytes);
            wipe(&mut bytes);
            prop_assert_eq!(read(&bytes), None);
            prop_assert!(wipe_ranges(&bytes).is_empty());
        }

        #[test]
        fn random_windows(bytes in prop::collection::vec(any::<u8>(), 0..4096)) {
            let _ = (read(&bytes), wipe_ranges(&bytes));
        }
    }
}
