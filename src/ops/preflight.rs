//! Whether the copy will fit, asked before anything is written.

use crate::error::{Error, Kind, Result};
use crate::slot::Pair;
use crate::slot::discover::View;
use crate::slot::names::label_for_copy;
use crate::sys::{Format, FsType, Os, UfsSwitches, Usage};
use crate::table::superblock::{self, Superblock};

/// Room that the record and the manifest take: a line of about this size per object.
const MANIFEST_LINE: u64 = 256;
/// Room that never hurts: directories grow in steps, and the record needs a block or two.
const SLACK: u64 = 256 << 10;

/// The file system that `pair`'s target will get, proved to be large enough for what the source
/// holds now.
///
/// # Errors
/// Refused with what is missing: bytes, or inodes.
pub fn format<O: Os>(os: &O, view: &View, pair: &Pair, usage: Usage) -> Result<Format> {
    let fs = FsType::from_name(&pair.fs).ok_or_else(|| Error::refused("unknown file system"))?;
    let source = view.superblocks.get(&pair.source);
    let old = view.superblocks.get(&pair.target).and_then(|s| s.label.as_deref());
    let label = label_for_copy(source.and_then(|s| s.label.as_deref()), old, fs.label_max());
    // fstab may know the copy by its identity: it keeps it, unless it is the source's own.
    let old = view.superblocks.get(&pair.target).filter(|s| {
        s.fs.name() == fs.name() && fs != FsType::Ufs2 && s.id.bytes().any(|b| !b"0-".contains(&b))
    });
    let id = old.map(|s| s.id.clone()).filter(|id| source.is_none_or(|s| s.id != *id));
    let mut format = Format { fs, label, id, inodes: None, ufs: switches(source) };
    let size = view.devices.get(pair.target).size;
    let refuse = |why: String| {
        Error::refused(format!(
            "the copy of {} does not fit {}: {why}",
            pair.part.point(),
            view.node(pair.target)
        ))
    };
    let needed_inodes = usage.used_inodes + 8;
    let needed_bytes = usage.used_bytes + usage.used_inodes * MANIFEST_LINE + SLACK;
    // What cannot fit by its size alone is refused in numbers, not in the words of mkfs.
    if needed_bytes > size {
        return Err(refuse(short("bytes", needed_bytes, size)));
    }
    let mut offered = rehearse(os, &format, size).map_err(|e| refuse(e.to_string()))?;
    if offered.free_inodes < needed_inodes {
        format.inodes = Some(needed_inodes + needed_inodes / 10 + 16);
        // A tool that cannot make so many says so itself; what counts is what it offered before.
        match rehearse(os, &format, size) {
            Ok(more) if more.free_inodes >= needed_inodes => offered = more,
            _ => return Err(refuse(short("inodes", needed_inodes, offered.free_inodes))),
        }
    }
    let blocks = offered.free_blocks.saturating_sub(kept_back(fs, size, offered.block));
    let offered_bytes = blocks.saturating_mul(u64::from(offered.block));
    if offered_bytes < needed_bytes {
        return Err(refuse(short("bytes", needed_bytes, offered_bytes)));
    }
    Ok(format)
}

/// Blocks that the kernel keeps back from everybody, root included.
fn kept_back(fs: FsType, size: u64, block: u32) -> u64 {
    let blocks = size / u64::from(block.max(1));
    match fs {
        // ext4_calculate_resv_clusters: 2 %, at most 4096.
        FsType::Ext4 => (blocks / 50).min(4096),
        // xfs_default_resblks: 5 %, at most 8192.
        FsType::Xfs => (blocks / 20).min(8192),
        FsType::Ufs2 => 0,
    }
}

fn short(what: &str, needed: u64, offered: u64) -> String {
    format!(
        "it needs {needed} {what}, {offered} are there, {} are missing",
        needed.saturating_sub(offered)
    )
}

fn rehearse<O: Os>(os: &O, format: &Format, size: u64) -> Result<Superblock> {
    let window = os.rehearse(format, size)?;
    superblock::read(&window)
        .ok_or_else(|| Error::new(Kind::Failed, "rehearsing the format", "no file system was made"))
}

fn switches(source: Option<&Superblock>) -> UfsSwitches {
    let flags = source.map_or(superblock::UFS_SOFT_UPDATES, |s| s.flags);
    let has = |flag: u32| flags & flag != 0;
    UfsSwitches {
        soft_updates: has(superblock::UFS_SOFT_UPDATES),
        journal: has(superblock::UFS_JOURNAL),
        posix_acls: has(superblock::UFS_ACLS),
        nfs4_acls: has(superblock::UFS_NFS4_ACLS),
        multilabel: has(superblock::UFS_MULTILABEL),
        trim: has(superblock::UFS_TRIM),
    }
}
