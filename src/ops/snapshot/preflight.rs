//! Whether the copy will fit, asked before anything is written.

use std::ffi::OsStr;

use super::source::Source;
use crate::copy::census::{self, Census, Grain};
use crate::copy::progress::Monitor;
use crate::error::{Context, During, Error, Kind, Result};
use crate::ops::factory;
use crate::slot::Pair;
use crate::slot::discover::Purpose;
use crate::slot::names::{cut, label_for_copy};
use crate::slot::view::View;
use crate::sys::tree::Dir;
use crate::sys::{Format, FsType, Os, UfsSwitches};
use crate::table::superblock::{self, FileSystem, Superblock};

/// Room that the record and the manifest take: a line of about this size per object.
const MANIFEST_LINE: u64 = 256;
/// Room that never hurts: directories grow in steps, and the record needs a block or two.
const SLACK: u64 = 256 << 10;
/// As much of it is for the partition tables.
const TABLES: u64 = 64 << 10;
/// Bytes in a block of most ext4 and XFS.
const USUAL_BLOCK: u32 = 4096;
/// What mkfs.ext4(8) makes at least, and mkfs.xfs(8) with checksums.
const SMALLEST_BLOCK: u32 = 1024;

/// The file system that `pair`'s target will get, proved to be large enough for what is to be
/// copied of `source` now, and for `tables` bytes of partition tables.
///
/// # Errors
/// Refused with what is missing: bytes, or inodes, or what the factory's list has.
pub(super) fn format<O: Os>(
    os: &O,
    view: &View,
    pair: &Pair,
    source: &Source<'_, O>,
    tables: u64,
    purpose: Purpose,
    monitor: &Monitor,
) -> Result<Format> {
    let mut format = wanted(view, pair, purpose)?;
    let usage = source.usage;
    let size = view.devices.get(pair.target).size;
    let refuse = |why: String| {
        Error::refused(format!(
            "the copy of {} does not fit {}: {why}",
            pair.part.point(),
            view.node(pair.target)
        ))
        .hint("remove what need not be there, or use a larger slot")
    };
    let offered = match os.rehearse(&format, size) {
        Ok(offered) => offered,
        Err(e) if matches!(e.kind, Kind::Signal(_)) => return Err(e),
        // What is too small for any file system is refused in numbers, where there are some.
        Err(_) if usage.used_bytes > size && !purpose.factory => {
            return Err(refuse(short("bytes", usage.used_bytes, size)));
        }
        Err(e) => return Err(refuse(e.to_string())),
    };
    let block = u64::from(offered.block.max(1));
    let needed_bytes =
        |census: &Census| needed_bytes(census).saturating_add(tables.saturating_sub(TABLES));
    let bytes = |offered: &Superblock| {
        offered.free_blocks.saturating_sub(kept_back(offered, size)).saturating_mul(block)
    };
    let of_source = view.superblocks.get(&pair.source);
    let pieces = |s: &Superblock| (s.fs, s.block, s.whole_block);
    // In pieces of the same size no object takes more than in the source, but for one of them; only XFS
    // shares blocks between files. Where that bound fits, nothing need be counted.
    let bound = Census {
        inodes: usage.used_inodes,
        bytes: usage.used_bytes.saturating_add(usage.used_inodes.saturating_mul(block)),
    };
    let fits = |census: &Census, offered: &Superblock| {
        needed_bytes(census) <= bytes(offered) && needed_inodes(census) <= offered.free_inodes
    };
    let same = of_source.map(pieces) == Some(pieces(&offered));
    if same && format.fs != FsType::Xfs && !purpose.factory && fits(&bound, &offered) {
        return Ok(format);
    }
    let tree = source.dir.open_dir(OsStr::new(".")).doing_to("opening", pair.part.point())?;
    let selection =
        purpose.factory.then(|| factory::selection(view, pair, &source.dir)).transpose();
    let whole = |s: &Superblock| u64::from(s.whole_block.max(1));
    let source_block = of_source.map_or(block, whole);
    let grain = Grain {
        fs: offered.fs,
        unit: block,
        block: whole(&offered),
        source: source_block,
        inode: offered.inode.into(),
    };
    let census = selection
        .and_then(|selection| census::take(tree, grain, selection, monitor))
        .during(format!("counting {}", pair.part.point()))
        // Nothing is written yet.
        .map_err(|e| if e.kind == Kind::Failed { e.kind(Kind::Refused) } else { e })?;
    let mut offered = offered;
    let inodes = needed_inodes(&census);
    if offered.free_inodes < inodes {
        format.inodes = Some(inodes + inodes / 10 + 16);
        // A tool that cannot make so many says so itself; what counts is what it offered before.
        match os.rehearse(&format, size) {
            Ok(more) if more.free_inodes >= inodes => offered = more,
            _ => return Err(refuse(short("inodes", inodes, offered.free_inodes))),
        }
    }
    if bytes(&offered) < needed_bytes(&census) {
        return Err(refuse(short("bytes", needed_bytes(&census), bytes(&offered))));
    }
    Ok(format)
}

/// The file system that suits the source; what the copy is known by in fstab stays.
pub(super) fn wanted(view: &View, pair: &Pair, purpose: Purpose) -> Result<Format> {
    let fs = FsType::from_name(&pair.fs).ok_or_else(|| Error::refused("unknown file system"))?;
    let source = view.superblocks.get(&pair.source);
    let old = view.superblocks.get(&pair.target);
    let label = label_for_copy(
        source.and_then(|s| s.label.as_deref()),
        old.and_then(|s| s.label.as_deref()),
        fs.label_max(),
    );
    let label = if purpose.as_primary {
        // Two of one name, but never at the same time: it comes in the place of the other.
        source.and_then(|s| s.label.clone())
    } else {
        label.map(|label| unborne(view, pair, label, fs.label_max()))
    };
    // fstab may know the copy by its identity: it keeps it, unless it is the source's own.
    let old = old.filter(|s| {
        s.fs.name() == fs.name() && fs != FsType::Ufs2 && s.id.bytes().any(|b| !b"0-".contains(&b))
    });
    let id = old.map(|s| s.id.clone()).filter(|id| source.is_none_or(|s| s.id != *id));
    let sector = view.devices.get(pair.target).sector;
    let block = (fs != FsType::Ufs2).then(|| {
        // Not what suits the slot's size: an attribute that fills a block of the source needs one as
        // large. newfs(8) has one size for all.
        source.map_or(USUAL_BLOCK, |s| s.block).max(sector).max(SMALLEST_BLOCK)
    });
    Ok(Format { fs, label, id, inodes: None, block, sector, ufs: switches(source) })
}

/// The label, or one with the medium's name where another file system bears it already: two of one
/// name are one too many for whoever mounts by it.
fn unborne(view: &View, pair: &Pair, label: String, max: usize) -> String {
    let others = view.superblocks.iter().filter(|(id, _)| **id != pair.target);
    let taken = others.filter_map(|(_, s)| s.label.as_ref()).any(|other| *other == label);
    let medium = view.devices.medium(pair.target).map(|id| view.devices.get(id).name.clone());
    match medium.filter(|_| taken && view.elsewhere().is_some()) {
        Some(medium) => {
            let tail = format!("-{}", medium.replace('/', "-"));
            format!("{}{tail}", cut(&label, max.saturating_sub(tail.len())))
        }
        None => label,
    }
}

fn needed_bytes(census: &Census) -> u64 {
    census.bytes.saturating_add(census.inodes.saturating_mul(MANIFEST_LINE)).saturating_add(SLACK)
}

/// Bytes that the record of so many objects takes, beside `tables` bytes of partition tables.
pub(super) fn needed_for_record(inodes: u64, tables: u64) -> u64 {
    needed_bytes(&Census { inodes, bytes: tables.saturating_sub(TABLES) })
}

/// Room for the record's own files too.
fn needed_inodes(census: &Census) -> u64 {
    census.inodes.saturating_add(8)
}

/// Blocks that the kernel keeps back from everybody, root included.
fn kept_back(offered: &Superblock, size: u64) -> u64 {
    let block = u64::from(offered.block.max(1));
    let blocks = size / block;
    match offered.fs {
        // ext4_calculate_resv_clusters: 2 %, at most 4096.
        FileSystem::Ext4 => (blocks / 50).min(4096),
        // xfs_default_resblks: 5 %, at most 8192. And xfs_refcountbt_calc_reserves and
        // xfs_finobt_calc_reserves: room for a record of 12 bytes for every block, and one of 16 for
        // every 64 inodes, in blocks that are half full.
        FileSystem::Xfs => {
            const HEADER: u64 = 56;
            let inodes = size / u64::from(offered.inode.max(256));
            let records = (12 * blocks).saturating_add(16 * (inodes / 64));
            (blocks / 20).min(8192) + 2 * records / block.saturating_sub(HEADER).max(1)
        }
        FileSystem::Ufs2 => 0,
    }
}

fn short(what: &str, needed: u64, offered: u64) -> String {
    format!(
        "it needs {needed} {what}, {offered} are there, {} are missing",
        needed.saturating_sub(offered)
    )
}

/// What a UFS2 keeps of its source.
pub(super) fn switches(source: Option<&Superblock>) -> UfsSwitches {
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
