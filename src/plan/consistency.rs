//! How a copy comes to be of one moment of its source. Pure.

use std::fmt;

use serde::Serialize;

use crate::sys::{FsType, Snapshots, Usage};
use crate::table::superblock::{self, Superblock};

/// What makes the copy consistent.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(tag = "consistency", rename_all = "kebab-case")]
pub enum Consistency {
    /// Nobody writes to the source: it is mounted read-only.
    ReadOnly,
    /// A snapshot of the file system is copied, taken when the copying begins.
    Snapshot,
    /// The source is copied as it is used. What changes under the copy is copied again, and what
    /// never holds still fails the run: every file is of one moment, the tree need not be.
    #[serde(rename = "change-detection")]
    Detection {
        /// Why there is no snapshot.
        #[serde(rename = "no_snapshot")]
        why: String,
    },
}

impl fmt::Display for Consistency {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::ReadOnly => f.write_str("mounted read-only"),
            Self::Snapshot => f.write_str("by a snapshot of the file system"),
            Self::Detection { why } => {
                write!(f, "as it was used, with changes copied again (no snapshot: {why})")
            }
        }
    }
}

/// A snapshot is taken only while one part in so many is free. Every block that is overwritten or
/// freed while it exists is kept, and `mksnap_ffs`(8) warns that a full disk may then panic the
/// system. newfs(8) keeps 8 % from everybody but root, so on a file system that is full for its
/// users there are none.
const ROOM: u64 = 8;

/// A source, as far as the choice depends on it.
#[derive(Clone, Copy, Debug)]
pub struct Source<'a> {
    /// Its type, as mount(8) spells it.
    pub fs: &'a str,
    /// Whether it is mounted read-only.
    pub read_only: bool,
    /// What its medium says of it.
    pub superblock: Option<&'a Superblock>,
    /// What it holds.
    pub usage: Usage,
}

/// Whether snapshots are to be taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wanted {
    /// Wherever one can be.
    Always,
    /// Nowhere: the user's word.
    Never,
    /// Not on this system: power that goes while the kernel takes one can leave what the next start
    /// asks somebody at the console about.
    NotWhereFsckAsks,
}

/// Chooses. `snapshots` are those that the system takes.
pub fn choose(source: Source<'_>, snapshots: Snapshots, wanted: Wanted) -> Consistency {
    if source.read_only {
        return Consistency::ReadOnly;
    }
    match obstacle(source, snapshots, wanted) {
        None => Consistency::Snapshot,
        Some(why) => Consistency::Detection { why },
    }
}

/// Why no snapshot is to be taken.
fn obstacle(source: Source<'_>, snapshots: Snapshots, wanted: Wanted) -> Option<String> {
    if snapshots == Snapshots::None || source.fs != FsType::Ufs2.name() {
        return Some(format!("this system takes none of {}", source.fs));
    }
    match wanted {
        Wanted::Always => {}
        Wanted::Never => return Some("switched off in the configuration".to_owned()),
        Wanted::NotWhereFsckAsks => {
            let why = "fsck_y_enable is off, and a loss of power could leave what fsck asks about";
            return Some(why.to_owned());
        }
    }
    let Some(superblock) = source.superblock else {
        return Some("the superblock cannot be read".to_owned());
    };
    // Before FreeBSD 14 a snapshot and the journal's recovery after a power cut did not go together.
    if superblock.flags & superblock::UFS_JOURNAL != 0 && snapshots != Snapshots::Journaled {
        return Some("soft updates journaling, before FreeBSD 14".to_owned());
    }
    if superblock.flags & superblock::UFS_GJOURNAL != 0 {
        return Some("gjournal".to_owned());
    }
    // ufs_itimes_locked: what changes of a device's owner, mode and times stays in memory there
    // (IN_LAZYMOD), and no sync(2) and no snapshot writes it.
    if superblock.flags & superblock::UFS_SOFT_UPDATES == 0 {
        return Some("no soft updates, without which it would lack changes of devices".to_owned());
    }
    let Usage { used_bytes: used, free_bytes: free, .. } = source.usage;
    let size = used.saturating_add(free);
    if free < size / ROOM {
        let percent = u128::from(free) * 100 / u128::from(size.max(1));
        return Some(format!("{percent} % of the file system are free, it may need more"));
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::table::superblock::FileSystem;

    fn superblock(flags: u32) -> Superblock {
        Superblock {
            fs: FileSystem::Ufs2,
            label: None,
            id: "5f0aabcd00000001".to_owned(),
            block: 4096,
            whole_block: 32768,
            free_blocks: 0,
            free_inodes: 0,
            inode: 0,
            clean: false,
            flags,
        }
    }

    fn free(percent: u64) -> Usage {
        let (used_bytes, free_bytes) = ((100 - percent) << 20, percent << 20);
        Usage { used_bytes, free_bytes, used_inodes: 10, free_inodes: 10 }
    }

    fn source(superblock: Option<&Superblock>, percent: u64) -> Source<'_> {
        Source { fs: "ufs", read_only: false, superblock, usage: free(percent) }
    }

    fn chosen(flags: u32, percent: u64, snapshots: Snapshots) -> String {
        let superblock = superblock(flags);
        choose(source(Some(&superblock), percent), snapshots, Wanted::Always).to_string()
    }

    #[test]
    fn a_read_only_source_needs_nothing() {
        let read_only = Source { read_only: true, ..source(None, 0) };
        let found = choose(read_only, Snapshots::None, Wanted::Always);
        assert_eq!(found, Consistency::ReadOnly);
    }

    #[test]
    fn a_snapshot_is_taken_where_it_is_safe() {
        use superblock::{UFS_JOURNAL, UFS_SOFT_UPDATES};
        let soft = UFS_SOFT_UPDATES;
        let journal = UFS_SOFT_UPDATES | UFS_JOURNAL;
        for (flags, percent, snapshots, word) in [
            (0, 50, Snapshots::Plain, "no soft updates"),
            (soft, 50, Snapshots::Plain, "by a snapshot"),
            (journal, 50, Snapshots::Plain, "before FreeBSD 14"),
            (journal, 50, Snapshots::Journaled, "by a snapshot"),
            (soft, 13, Snapshots::Journaled, "by a snapshot"),
            (soft, 12, Snapshots::Journaled, "12 % of the file system are free"),
            (soft, 0, Snapshots::Journaled, "0 % of the file system are free"),
            (superblock::UFS_GJOURNAL, 50, Snapshots::Journaled, "gjournal"),
            (soft, 50, Snapshots::None, "takes none of ufs"),
        ] {
            let found = chosen(flags, percent, snapshots);
            assert!(found.contains(word), "{flags:#x} {percent} {snapshots:?}: {found}");
        }
        let unread = source(None, 50);
        let ext4 = Source { fs: "ext4", ..unread };
        for (source, wanted, word) in [
            (ext4, Wanted::Always, "takes none of ext4"),
            (unread, Wanted::Always, "cannot be read"),
            (unread, Wanted::Never, "switched off"),
            (unread, Wanted::NotWhereFsckAsks, "fsck_y_enable is off"),
        ] {
            let found = choose(source, Snapshots::Journaled, wanted).to_string();
            assert!(found.contains(word), "{found}");
        }
    }
}
