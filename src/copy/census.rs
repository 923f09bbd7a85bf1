//! How much room a copy of a tree takes at most, object by object.

use std::collections::HashSet;
use std::path::PathBuf;
use std::sync::Arc;

use super::progress::{Monitor, interrupted};
use super::selection::Selection;
use super::stack::Stack;
use super::tree::replaced;
use crate::error::{Context, Result, if_there};
use crate::sys::tree::{Dir, Kind, Meta, Names};
use crate::sys::{JOURNAL, SNAPSHOTS};
use crate::table::superblock::FileSystem;

/// What was counted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Census {
    /// Inodes.
    pub inodes: u64,
    /// Bytes in the copy's blocks.
    pub bytes: u64,
}

/// How the copy's file system gives out room.
#[derive(Clone, Copy, Debug)]
pub struct Grain {
    /// Its kind.
    pub fs: FileSystem,
    /// Bytes in the smallest piece: a block; UFS: a fragment.
    pub unit: u64,
    /// Bytes in a whole block; only UFS has smaller pieces.
    pub block: u64,
    /// Bytes in a whole block of the source: where its holes begin and end.
    pub source: u64,
    /// Bytes of the same room that an inode takes; 0 where it has room of its own.
    pub inode: u64,
}

/// `UFS_NDADDR` and `UFS_NIADDR` of ufs/ufs/dinode.h: blocks of a file whose addresses are in its
/// inode, and levels of blocks with the other addresses, of 8 bytes each.
const DIRECT: u64 = 12;
const LEVELS: u32 = 3;

impl Grain {
    /// Bytes that an object takes at most.
    fn room(self, meta: &Meta) -> u64 {
        let in_source = meta.blocks.saturating_mul(512);
        let used = in_source.div_ceil(self.unit).saturating_mul(self.unit);
        let content = match meta.kind {
            // Blocks that files share in the source are not shared in the copy. At least a piece: what
            // lay in the inode itself (inline data) may not in the copy.
            Kind::File if in_source < meta.size => {
                let pieces = in_source.div_ceil(self.source).max(1);
                let spread = pieces.saturating_mul(self.source.max(self.block));
                self.without_holes(meta.size).min(spread)
            }
            Kind::File => self.without_holes(meta.size),
            Kind::Dir => self.without_holes(meta.size.max(1)),
            Kind::Symlink => self.unit,
            Kind::Fifo | Kind::Socket | Kind::Char | Kind::Block => 0,
        };
        match self.fs {
            // Extended attributes have blocks, too, of which only their sum with the others is told.
            FileSystem::Ufs2 | FileSystem::Ext4 => content.max(used),
            // It takes more than it needs for what grows.
            FileSystem::Xfs => content.saturating_add(self.inode),
        }
    }

    /// What so many bytes take: on UFS, beyond the first blocks, whole blocks (`blksize` of
    /// ufs/ffs/fs.h) and those with their addresses.
    fn without_holes(self, size: u64) -> u64 {
        if self.fs != FileSystem::Ufs2 || size <= DIRECT.saturating_mul(self.block) {
            return size.div_ceil(self.unit).saturating_mul(self.unit);
        }
        let (blocks, addresses) = (size.div_ceil(self.block), self.block / 8);
        let (mut left, mut indirect) = (blocks - DIRECT, 0);
        for level in 1..=LEVELS {
            let here = left.min(addresses.saturating_pow(level));
            let each = |n| here.div_ceil(addresses.saturating_pow(n));
            indirect += (1..=level).map(each).sum::<u64>();
            left -= here;
        }
        (blocks + indirect).saturating_mul(self.block)
    }
}

impl Census {
    fn add(&mut self, meta: &Meta, grain: Grain) {
        self.inodes += 1;
        self.bytes = self.bytes.saturating_add(grain.room(meta));
    }
}

/// Counts the tree at `root`, on which nothing else is seen mounted, or what is selected of it, as it
/// will lie in the copy.
///
/// # Errors
/// A directory cannot be read, a signal came, or something selected is not there. What vanishes
/// meanwhile is not counted.
pub fn take<D: Dir>(
    root: D,
    grain: Grain,
    mut selection: Option<Selection<'_>>,
    monitor: &Monitor,
) -> Result<Census> {
    let root = Arc::new(root);
    let mut census = Census::default();
    let mut several = HashSet::new();
    let mut path = PathBuf::new();
    let meta = root.meta().doing_to("reading", "/")?;
    census.add(&meta, grain);
    let names = root.names().doing_to("listing", "/")?;
    let mut stack: Stack<D, (Names, usize)> =
        Stack::new(root, (names, 0)).doing_to("reading", "/")?;
    while let Some((dir, (names, next))) = stack.top() {
        if let Some(signal) = monitor.stopped() {
            return Err(interrupted(signal));
        }
        let Some((name, _)) = names.get(*next) else {
            stack.pop().doing_to("leaving", &path)?;
            path.pop();
            if let Some(selection) = &mut selection {
                selection.leave()?;
            }
            continue;
        };
        *next += 1;
        // Its snapshots and its journal are not copied.
        let own = || [SNAPSHOTS, JOURNAL].iter().any(|own| name == *own);
        if grain.fs == FileSystem::Ufs2 && path.as_os_str().is_empty() && own() {
            continue;
        }
        if let Some(selection) = &mut selection
            && selection.admits(name)?.is_none()
        {
            continue;
        }
        let Some(meta) = if_there(dir.stat(name)).doing_to("reading", path.join(name))? else {
            continue;
        };
        // One inode, however many names.
        if meta.kind != Kind::Dir && meta.nlink > 1 && !several.insert(meta.ino) {
            continue;
        }
        census.add(&meta, grain);
        if meta.kind == Kind::Dir {
            let below = match if_there(dir.open_dir(name)) {
                Err(e) if replaced(&e) => continue,
                below => below.doing_to("opening", path.join(name))?,
            };
            let Some(below) = below else { continue };
            let names = below.names().doing_to("listing", path.join(name))?;
            path.push(name);
            if let Some(selection) = &mut selection {
                selection.enter(name);
            }
            stack.push(Arc::new(below), (names, 0)).doing_to("reading", &path)?;
        }
    }
    selection.as_ref().map_or(Ok(()), Selection::complete)?;
    Ok(census)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sys::FdDir;

    const KB: u64 = 1024;
    const UFS: Grain =
        Grain { fs: FileSystem::Ufs2, unit: 4 * KB, block: 32 * KB, source: 32 * KB, inode: 0 };

    /// KB that an object of so many bytes takes, for which the source has `used` KB.
    fn takes(grain: Grain, kind: Kind, size: u64, used: u64) -> u64 {
        let meta = Meta { size, blocks: used * 2, ..Meta::sample(kind) };
        let bytes = grain.room(&meta);
        assert_eq!(bytes % KB, 0);
        bytes / KB
    }

    #[test]
    fn a_large_file_of_a_ufs_has_whole_blocks_and_those_with_addresses() {
        let file = |size, used| takes(UFS, Kind::File, size, used);
        assert_eq!((file(0, 0), file(1, 4), file(5 * KB, 8)), (0, 4, 8));
        assert_eq!(file(384 * KB, 384), 384);
        // Block 13, and the one that has its address.
        assert_eq!(file(384 * KB + 1, 448), 448);
        // 4096 addresses in a block: one more is the first of the second level.
        let single = (12 + 4096) * 32;
        assert_eq!(file(single * KB, single + 32), single + 32);
        assert_eq!(file(single * KB + 1, single + 128), single + 32 + 32 + 64);
        let double = single + 4096 * 4096 * 32;
        let indirect = 32 * (1 + 1 + 4096);
        assert_eq!(file(double * KB, double + indirect), double + indirect);
        let more = double + 32 + indirect + 32 * 3;
        assert_eq!(file(double * KB + 1, more), more);
    }

    #[test]
    fn extended_attributes_take_blocks() {
        assert_eq!(takes(UFS, Kind::File, 0, 4), 4);
        assert_eq!(takes(UFS, Kind::File, 8 * KB, 12), 12);
        assert_eq!(takes(UFS, Kind::Dir, 512, 8), 8);
        assert_eq!(takes(UFS, Kind::Fifo, 0, 4), 4);
        assert_eq!(takes(UFS, Kind::Char, 0, 0), 0);
    }

    #[test]
    fn holes_stay_and_no_block_is_smaller_than_the_copy_has_them() {
        let huge = 1 << 40;
        assert_eq!(takes(UFS, Kind::File, huge, 96), 96);
        // The same in blocks of 4 KB: each of 24 may be in another block of the copy.
        let small = Grain { source: 4 * KB, ..UFS };
        assert_eq!(takes(small, Kind::File, huge, 96), 24 * 32);
        assert_eq!(takes(small, Kind::File, 128 * KB, 96), 128, "never more than without holes");
    }

    #[test]
    fn elsewhere_a_block_is_the_smallest_piece() {
        let ext4 = Grain { fs: FileSystem::Ext4, block: 4 * KB, source: 4 * KB, ..UFS };
        assert_eq!(takes(ext4, Kind::File, 385 * KB, 388), 388);
        assert_eq!(takes(ext4, Kind::File, 100, 0), 4, "it lay in the inode");
        assert_eq!(takes(ext4, Kind::File, 4 * KB, 8), 8, "attributes");
        let xfs = Grain { fs: FileSystem::Xfs, inode: KB, ..ext4 };
        assert_eq!(takes(xfs, Kind::File, 4 * KB, 64), 5, "room for what is not there yet");
        assert_eq!(takes(xfs, Kind::Fifo, 0, 0), 1, "its inode alone");
    }

    #[test]
    fn snapshots_and_the_journal_of_a_ufs_are_not_counted() {
        let dir = tempfile::tempdir().unwrap();
        for path in [".snap", "etc", "etc/.snap"] {
            std::fs::create_dir(dir.path().join(path)).unwrap();
        }
        for path in [".snap/1.dualroot", ".sujournal", "etc/fstab", "etc/.snap/fstab"] {
            std::fs::write(dir.path().join(path), "").unwrap();
        }
        let count = |grain| {
            let root = FdDir::open(dir.path()).unwrap();
            take(root, grain, None, &Monitor::default()).unwrap().inodes
        };
        assert_eq!(count(UFS), 1 + 4);
        assert_eq!(count(Grain { fs: FileSystem::Ext4, ..UFS }), 1 + 7);
    }
}
