//! UFS2 on the medium (fs(5), dir(5), `sys/ufs/ufs/dinode.h`): what a file system of this machine is
//! as bytes, and how it is read again.
//!
//! Blocks are of one fragment. Superblocks, cylinder groups with their maps and check hashes,
//! inodes, directories and indirect blocks are where the kernel has them; only the area of extended
//! attributes has a format of its own. Where the data lie is told by their inode's number alone, as
//! long as nobody else lies there: what does not change stays where it is.
//!
//! Nothing here uses [`crate::ufs`], which is what it is to be the referee of.

mod check;
mod layout;
mod reading;

pub(super) use check::check;
pub(super) use layout::{lay_out, newfs, newfs_writes};
pub(super) use reading::read;

use super::tree::{BLOCK, Content};
use crate::sys::Format;
use crate::table::superblock;

/// Where the superblock is, and its bytes (`SBLOCK_UFS2`, `SBLOCKSIZE`).
pub(super) const SUPERBLOCK: u64 = 65536;
const SUPERBLOCK_LENGTH: usize = 8192;
/// Bytes of it that the check hash is taken of (`fs_sbsize`).
const SUPERBLOCK_USED: usize = 4096;
/// What is before it all: boot code and the superblock.
pub(super) const BOOT: u64 = 18;
/// Fragments of a cylinder group, and where in it are the backup of the superblock (in the first
/// group right behind the superblock itself), the header and the inodes.
const PER_GROUP: u64 = 256;
const BACKUP: u64 = BOOT;
const HEADER: u64 = 20;
const INODES: u64 = 21;
/// Bytes of an inode, and how many are in a block.
const INODE: u64 = 256;
const PER_BLOCK: u64 = BLOCK / INODE;
/// The first inodes of a group, which newfs(8) writes (`2 * INOPB`).
const WRITTEN: u64 = 2 * PER_BLOCK;
/// Block addresses in an inode (`UFS_NDADDR`), and in an indirect block.
const DIRECT: u64 = 12;
const INDIRECT: u64 = BLOCK / 8;
/// `DIRBLKSIZ`
const CHUNK: usize = 512;
/// A symbolic link of fewer bytes is in its inode (`fs_maxsymlinklen`).
const SHORT_LINK: usize = 120;

const MAGIC: u32 = 0x1954_0119;
const GROUP_MAGIC: u32 = 0x0009_0255;
/// Where `fs_ckhash` and `cg_ckhash` are.
const HASH: usize = 1304;
const GROUP_HASH: usize = 132;
/// `FS_METACKHASH`, and of what (`fs_metackhash`): superblocks and headers of groups.
const HASHED: u32 = 0x200;
const HASHES: u32 = 3;
/// Where a header's maps begin: inodes in use, then free fragments.
const MAPS: usize = 168;

/// The format bits of `di_mode`, and `d_type`, of each kind.
const KINDS: [(u16, u8, crate::sys::tree::Kind); 7] = {
    use crate::sys::tree::Kind;
    [
        (0o010_000, 1, Kind::Fifo),
        (0o020_000, 2, Kind::Char),
        (0o040_000, 4, Kind::Dir),
        (0o060_000, 6, Kind::Block),
        (0o100_000, 8, Kind::File),
        (0o120_000, 10, Kind::Symlink),
        (0o140_000, 12, Kind::Socket),
    ]
};

/// How large the parts of a file system are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Geometry {
    /// Fragments in all.
    size: u64,
    /// Cylinder groups.
    groups: u64,
    /// Inodes of each.
    inodes: u64,
}

impl Geometry {
    /// On so many bytes, with at least so many inodes; `None` where there is no room.
    pub(super) fn new(bytes: u64, inodes: u64) -> Option<Self> {
        let all = bytes / BLOCK;
        let inodes = inodes.div_ceil(all.div_ceil(PER_GROUP).max(1)).max(WRITTEN);
        let inodes = inodes.next_multiple_of(PER_BLOCK);
        // A last group needs room for data.
        let rest = all % PER_GROUP;
        let size = if rest <= INODES + inodes / PER_BLOCK { all - rest } else { all };
        let fits = size > 0 && INODES + inodes / PER_BLOCK < PER_GROUP;
        fits.then_some(Self { size, groups: size.div_ceil(PER_GROUP), inodes })
    }

    /// Of the file system on these bytes; `None` where there is none.
    pub(super) fn of(bytes: &Content) -> Option<Self> {
        let mut fs = vec![0; SUPERBLOCK_USED];
        bytes.read(SUPERBLOCK, &mut fs);
        let (groups, inodes) = (u64::from(le32(&fs, 44)), u64::from(le32(&fs, 184)));
        let found = Self { size: le64(&fs, 1080), groups, inodes };
        let whole = le32(&fs, 1372) == MAGIC && le32(&fs, HASH) == hash(&fs, HASH);
        (whole && found.size * BLOCK <= bytes.size()).then_some(found)
    }

    /// Inodes in all, with the two that there are not.
    pub(super) fn numbers(self) -> u64 {
        self.groups * self.inodes
    }

    /// Blocks for data that are offered: some are kept for indirect blocks and attributes.
    pub(super) fn offered(self) -> u64 {
        let all = self.slots().len() as u64;
        all - all / 32 - 8
    }

    fn base(group: u64) -> u64 {
        group * PER_GROUP
    }

    fn length(self, group: u64) -> u64 {
        PER_GROUP.min(self.size - Self::base(group))
    }

    /// The first data of a group.
    fn data(self) -> u64 {
        INODES + self.inodes / PER_BLOCK
    }

    /// The summary of all groups.
    fn summary(self) -> u64 {
        self.data()
    }

    /// Where data can lie: behind the inodes and, but for the first group, before the backup.
    fn slots(self) -> Vec<u64> {
        let of = |group: u64| {
            let base = Self::base(group);
            let before = if group == 0 { base..base } else { base..base + BACKUP };
            before.chain(base + self.data()..base + self.length(group))
        };
        (0..self.groups).flat_map(of).filter(|&at| at != self.summary()).collect()
    }

    /// Where an inode is, in bytes.
    fn inode(self, number: u64) -> u64 {
        let table = Self::base(number / self.inodes) + INODES;
        table * BLOCK + number % self.inodes * INODE
    }

    /// The superblock of a new file system, in which there is the root and `.snap`.
    fn superblock(self, format: &Format, partition: u64, serial: u32) -> Vec<u8> {
        let mut fs = vec![0; SUPERBLOCK_LENGTH];
        let switches = [
            (format.ufs.soft_updates, superblock::UFS_SOFT_UPDATES),
            (format.ufs.journal, superblock::UFS_JOURNAL),
            (format.ufs.posix_acls, superblock::UFS_ACLS),
            (format.ufs.nfs4_acls, superblock::UFS_NFS4_ACLS),
            (format.ufs.multilabel, superblock::UFS_MULTILABEL),
            (format.ufs.trim, superblock::UFS_TRIM),
        ];
        let flags = switches.iter().filter(|(on, _)| *on).fold(HASHED, |all, (_, flag)| all | flag);
        let word = |n: u64| u32::try_from(n).unwrap_or(u32::MAX);
        for (at, value) in [
            (8, word(BACKUP)),
            (12, word(HEADER)),
            (16, word(INODES)),
            (20, word(self.data())),
            (44, word(self.groups)),
            (48, word(BLOCK)),
            (52, word(BLOCK)),
            (56, 1),
            (104, word(SUPERBLOCK_USED as u64)),
            (144, 0x5f00_0000 + serial),
            (148, serial.wrapping_mul(0x9e37_79b9)),
            (156, word((self.groups * 16).next_multiple_of(BLOCK))),
            (160, word(BLOCK)),
            (184, word(self.inodes)),
            (188, word(PER_GROUP)),
            (1308, HASHES),
            (1312, flags),
            (1372, MAGIC),
        ] {
            put(&mut fs, at, &value.to_le_bytes());
        }
        for (at, value) in [
            (872, partition / BLOCK),
            (1000, SUPERBLOCK),
            (1016, self.offered() - 2),
            (1024, self.numbers() - 4),
            (1080, self.size),
            (1088, self.slots().len() as u64),
            (1096, self.summary()),
        ] {
            put(&mut fs, at, &value.to_le_bytes());
        }
        fs[209] = 1;
        put(&mut fs, 680, format.label.as_deref().unwrap_or_default().as_bytes());
        seal(&mut fs, SUPERBLOCK_USED, HASH);
        fs
    }
}

/// CRC-32C as the kernel takes it, of `bytes` with zeros where it is stored itself.
fn hash(bytes: &[u8], at: usize) -> u32 {
    let (before, after) = (&bytes[..at], &bytes[at + 4..]);
    let sum = [before, &[0; 4], after].iter().fold(0, |sum, part| crc32c::crc32c_append(sum, part));
    !sum
}

fn seal(bytes: &mut [u8], length: usize, at: usize) {
    let hash = hash(&bytes[..length], at);
    put(bytes, at, &hash.to_le_bytes());
}

fn put(bytes: &mut [u8], at: usize, value: &[u8]) {
    bytes[at..at + value.len()].copy_from_slice(value);
}

fn array<const N: usize>(bytes: &[u8], at: usize) -> [u8; N] {
    std::array::from_fn(|n| bytes[at + n])
}

fn le16(bytes: &[u8], at: usize) -> u16 {
    u16::from_le_bytes(array(bytes, at))
}

fn le32(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(array(bytes, at))
}

fn le64(bytes: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(array(bytes, at))
}

/// A position in memory.
fn index(at: u64) -> usize {
    usize::try_from(at).unwrap_or(usize::MAX)
}

#[cfg(test)]
mod tests;
