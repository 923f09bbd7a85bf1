//! The superblock: where everything else is.

use super::{Fault, array, check_hash_without, le32, le64};
use crate::sys::offset::ReadAt;

/// `SBLOCKSEARCH`: bytes from the partition's start, in the kernel's order.
const PLACES: [u64; 4] = [65536, 8192, 0, 262_144];
/// `SBLOCKSIZE`.
pub(super) const LENGTH: u32 = 8192;
/// Length of `struct fs`.
const STRUCT: u32 = 1376;
/// Length of `struct ufs2_dinode`.
pub(super) const INODE: u32 = 256;
const MAGIC: u32 = 0x1954_0119;
const BAD_MAGIC: u32 = 0x1996_0408;
/// `FS_UNCLEAN` and `FS_NEEDSFSCK`.
const DIRTY: u32 = 0x05;
/// `FS_SUJ`.
const JOURNALED: u32 = 0x08;
/// `FS_METACKHASH`: without it the check hashes are left over from another kernel.
const HASHED: u32 = 0x200;
const CK_SUPERBLOCK: u32 = 1;
const CK_CYLGRP: u32 = 2;
/// Where `fs_ckhash` is.
const HASH: usize = 1304;
/// Where `fs_snapinum` is, and the end of it: the inodes of at most 20 snapshots.
const SNAPSHOTS: std::ops::Range<usize> = 1116..1196;

/// What is needed of a `struct fs`, checked. Addresses and lengths are in fragments where no unit is
/// given; those that end in `_start` count from the start of a cylinder group.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Superblock {
    /// Bytes from the partition's start at which it was found.
    pub place: u64,
    /// Bytes in a block.
    pub block: u32,
    /// Bytes in a fragment.
    pub fragment: u32,
    /// Fragments in a block.
    pub per_block: u32,
    /// Fragments in all.
    pub size: u64,
    /// Cylinder groups.
    pub groups: u32,
    /// Fragments in a cylinder group; the last one may have fewer.
    pub per_group: u32,
    /// Inodes in a cylinder group.
    pub inodes: u32,
    /// The backup of the superblock.
    pub backup_start: u32,
    /// The group's own header.
    pub header_start: u32,
    /// The inodes.
    pub inodes_start: u32,
    /// The first data.
    pub data_start: u32,
    /// Bytes of a group's header.
    pub header: u32,
    /// The summary of all groups.
    pub summary: u64,
    /// Bytes of it.
    pub summary_bytes: u32,
    /// Whether headers of groups carry check hashes.
    pub hashed_groups: bool,
    /// `fs_clean`: nobody has it mounted read-write, and it was unmounted in order.
    pub(super) clean: bool,
    /// `fs_flags`
    pub(super) flags: u32,
    /// Snapshots that it names.
    pub(super) snapshots: usize,
}

impl Superblock {
    /// Finds and checks the superblock of a partition of `device` bytes.
    ///
    /// # Errors
    /// There is none, or one that cannot be trusted.
    pub fn read<R: ReadAt>(reader: &R, device: u64) -> Result<Self, Fault> {
        let mut bytes = vec![0; LENGTH as usize];
        for place in PLACES {
            if place + u64::from(LENGTH) > device {
                continue;
            }
            reader.read_exact_at(place, &mut bytes).map_err(|e| Fault::Io(place, e))?;
            match le32(&bytes, 1372) {
                BAD_MAGIC => return Err(Fault::Unfinished),
                // A backup that happens to lie in one of the places tells where it belongs.
                MAGIC if le64(&bytes, 1000) == place => return Self::parse(&bytes, place, device),
                _ => {}
            }
        }
        Err(Fault::None)
    }

    /// Checks the 8 KiB at `place`.
    fn parse(fs: &[u8], place: u64, device: u64) -> Result<Self, Fault> {
        let field = |name, at, good: &dyn Fn(u32) -> bool| {
            let value = le32(fs, at);
            if good(value) { Ok(value) } else { Err(Fault::Field(name, value.into())) }
        };
        let length = field("fs_sbsize", 104, &|n| (STRUCT..=LENGTH).contains(&n))?;
        let flags = le32(fs, 1312);
        let hashes = if flags & HASHED == 0 { 0 } else { le32(fs, 1308) };
        if hashes & CK_SUPERBLOCK != 0 && !has_right_hash(&fs[..length as usize]) {
            return Err(Fault::Hash(None));
        }
        let block = field("fs_bsize", 48, &|n| n.is_power_of_two() && (4096..=65536).contains(&n))?;
        let fragment =
            field("fs_fsize", 52, &|n| n.is_power_of_two() && (512..=block).contains(&n))?;
        let per_block = field("fs_frag", 56, &|n| n == block / fragment && n <= 8)?;
        let inodes_per_block = block / INODE;
        let groups = field("fs_ncg", 44, &|n| n >= 1)?;
        let per_group = field("fs_fpg", 188, &|n| n > 0 && n.is_multiple_of(per_block))?;
        let inodes = field("fs_ipg", 184, &|n| n > 0 && n.is_multiple_of(inodes_per_block))?;
        let inode_fragments = u64::from(inodes / inodes_per_block) * u64::from(per_block);
        let bytes_to_fragments = |n: u64| n.div_ceil(u64::from(fragment));
        let primary_end =
            if place == 0 { 0 } else { bytes_to_fragments(place + u64::from(LENGTH)) };
        let backup_start = field("fs_sblkno", 8, &|n| u64::from(n) >= primary_end)?;
        let after = |start: u32, length: u64| u64::from(start) + length;
        let header_start = field("fs_cblkno", 12, &|n| {
            u64::from(n) >= after(backup_start, bytes_to_fragments(u64::from(LENGTH)))
        })?;
        let inodes_start =
            field("fs_iblkno", 16, &|n| u64::from(n) >= after(header_start, per_block.into()))?;
        let data_start = field("fs_dblkno", 20, &|n| {
            u64::from(n) >= after(inodes_start, inode_fragments) && n <= per_group
        })?;
        let size = le64(fs, 1080);
        let whole = u64::from(groups - 1) * u64::from(per_group);
        // The last group has at least its own header and inodes.
        if size < whole + u64::from(data_start) || size > whole + u64::from(per_group) {
            return Err(Fault::Field("fs_size", size));
        }
        match size.checked_mul(fragment.into()) {
            Some(bytes) if bytes <= device => {}
            bytes => return Err(Fault::Beyond(bytes.unwrap_or(u64::MAX), device)),
        }
        // struct csum is 16 bytes.
        let summary_bytes = field("fs_cssize", 156, &|n| {
            u64::from(n) >= 16 * u64::from(groups) && bytes_to_fragments(n.into()) <= size
        })?;
        let summary = le64(fs, 1096);
        let summary_end = summary.checked_add(bytes_to_fragments(summary_bytes.into()));
        if summary < u64::from(data_start) || summary_end.is_none_or(|end| end > size) {
            return Err(Fault::Field("fs_csaddr", summary));
        }
        let header = field("fs_cgsize", 160, &|n| (super::group::STRUCT..=block).contains(&n))?;
        Ok(Self {
            place,
            block,
            fragment,
            per_block,
            size,
            groups,
            per_group,
            inodes,
            backup_start,
            header_start,
            inodes_start,
            data_start,
            header,
            summary,
            summary_bytes,
            hashed_groups: hashes & CK_CYLGRP != 0,
            clean: array(fs, 209) == [1],
            flags,
            snapshots: fs[SNAPSHOTS].chunks(4).filter(|number| **number != [0; 4]).count(),
        })
    }

    /// Whether it can be copied as it lies: as it was left by an unmount, or is mounted read-only.
    pub(super) fn at_rest(&self) -> Result<(), Fault> {
        if !self.clean || self.flags & DIRTY != 0 {
            Err(Fault::Unclean)
        } else if self.snapshots > 0 {
            Err(Fault::Snapshots(self.snapshots))
        } else {
            Ok(())
        }
    }

    /// Whether a snapshot of it, which is mounted read-write, can be copied.
    ///
    /// # Errors
    /// What has to be done first, or why never.
    pub fn can_be_frozen(&self) -> Result<(), Fault> {
        if self.flags & DIRTY != 0 {
            Err(Fault::Unclean)
        } else if self.flags & JOURNALED != 0 {
            Err(Fault::Journal)
        } else {
            Ok(())
        }
    }

    /// Whether this, which is such a snapshot, can be copied. Those that it names are older, and in
    /// it empty files.
    pub(super) fn is_frozen(&self) -> Result<(), Fault> {
        if self.clean { self.can_be_frozen() } else { Err(Fault::Unclean) }
    }

    /// Bytes of the file system.
    pub fn bytes(&self) -> u64 {
        self.size * u64::from(self.fragment)
    }

    /// Whether growfs(8) can make it larger on a partition of `device` bytes: a further cylinder group
    /// needs room for a block of data.
    pub fn can_grow(&self, device: u64) -> bool {
        let fragments = device / u64::from(self.fragment);
        let rest = fragments % u64::from(self.per_group);
        let lost = if rest <= self.data_start.into() { rest } else { 0 };
        fragments - lost > self.size
    }

    /// The first fragment of a cylinder group (`cgbase`).
    pub(super) fn base(&self, group: u32) -> u64 {
        u64::from(group) * u64::from(self.per_group)
    }

    /// Fragments of a cylinder group.
    pub(super) fn length(&self, group: u32) -> u32 {
        let left = self.size.saturating_sub(self.base(group));
        u32::try_from(left).unwrap_or(u32::MAX).min(self.per_group)
    }

    /// Inodes in a block (`INOPB`).
    pub(super) fn inodes_per_block(&self) -> u32 {
        self.block / INODE
    }
}

fn has_right_hash(fs: &[u8]) -> bool {
    check_hash_without(fs, HASH) == le32(fs, HASH)
}

/// Gives a superblock, primary or backup, another identity, and its check hash anew where it carries
/// one: `fs_id`, `fs_volname` and `fs_providersize` (fragments of the partition it lies on). It
/// names no snapshots any more: no copy has any. What is no superblock stays as it is.
pub(super) fn rename(bytes: &mut [u8], identity: &super::Identity) {
    let length = le32(bytes, 104);
    if le32(bytes, 1372) != MAGIC || !(STRUCT..=LENGTH).contains(&length) {
        return;
    }
    let Some(fs) = bytes.get_mut(..length as usize) else { return };
    fs[144..148].copy_from_slice(&identity.id[0].to_le_bytes());
    fs[148..152].copy_from_slice(&identity.id[1].to_le_bytes());
    let label = identity.label.as_deref().unwrap_or_default().as_bytes();
    // MAXVOLLEN with its NUL.
    let label = &label[..label.len().min(31)];
    fs[680..712].fill(0);
    fs[680..680 + label.len()].copy_from_slice(label);
    fs[SNAPSHOTS].fill(0);
    if let Some(fragments) = identity.device.checked_div(le32(fs, 52).into()) {
        fs[872..880].copy_from_slice(&fragments.to_le_bytes());
    }
    if le32(fs, 1312) & HASHED != 0 && le32(fs, 1308) & CK_SUPERBLOCK != 0 {
        let hash = check_hash_without(fs, HASH);
        fs[HASH..HASH + 4].copy_from_slice(&hash.to_le_bytes());
    }
}
