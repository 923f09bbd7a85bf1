//! What `fsck_ffs -n` would complain about.

use std::collections::{BTreeMap, BTreeSet};

use super::reading::{Found, block};
use super::{
    BACKUP, BLOCK, Content, GROUP_HASH, GROUP_MAGIC, Geometry, HEADER, MAPS, SUPERBLOCK,
    SUPERBLOCK_LENGTH, hash, index, le32,
};
use crate::sys::fake::tree::ROOT;
use crate::sys::tree::Kind;

/// The first thing in these bytes that is not as the rest says; `None` where there is nothing, or no
/// file system.
pub(in super::super) fn check(bytes: &Content) -> Option<String> {
    let geometry = Geometry::of(bytes)?;
    try_check(bytes, geometry).err()
}

fn try_check(bytes: &Content, g: Geometry) -> Result<(), String> {
    let whole = |good: bool, what: String| if good { Ok(()) } else { Err(what) };
    // From the root on: objects, how many names each has, and their blocks.
    let mut names: BTreeMap<u64, u64> = BTreeMap::new();
    let mut used: BTreeSet<u64> = BTreeSet::from([g.summary()]);
    let slots: BTreeSet<u64> = g.slots().into_iter().collect();
    let mut found = BTreeMap::new();
    let mut todo = vec![ROOT];
    while let Some(number) = todo.pop() {
        if found.contains_key(&number) {
            continue;
        }
        let Some(inode) = Found::read(bytes, g, number) else {
            return Err(format!("a name leads to inode {number}, which is free"));
        };
        let mut blocks = inode.attribute_blocks();
        let content = inode.blocks(bytes, &mut |at| blocks.push(at));
        blocks.extend(content.into_values());
        for at in blocks {
            whole(slots.contains(&at), format!("inode {number} has block {at}, which is no data"))?;
            whole(used.insert(at), format!("block {at} is used twice"))?;
        }
        if inode.kind == Kind::Dir {
            for (_, child) in inode.entries(bytes) {
                *names.entry(child).or_default() += 1;
                todo.push(child);
            }
        }
        found.insert(number, inode.names);
    }
    for (number, told) in &found {
        let is = names.get(number).copied().unwrap_or(0);
        whole(is == u64::from(*told), format!("inode {number} has {is} names, not {told}"))?;
    }
    let mut superblock = vec![0; SUPERBLOCK_LENGTH];
    bytes.read(SUPERBLOCK, &mut superblock);
    for group in 0..g.groups {
        let base = Geometry::base(group);
        let mut backup = vec![0; SUPERBLOCK_LENGTH];
        bytes.read((base + BACKUP) * BLOCK, &mut backup);
        whole(backup == superblock, format!("the superblock of group {group} is another one"))?;
        let header = block(bytes, base + HEADER);
        let right = le32(&header, 4) == GROUP_MAGIC
            && u64::from(le32(&header, 12)) == group
            && le32(&header, GROUP_HASH) == hash(&header, GROUP_HASH);
        whole(right, format!("the header of group {group} is damaged"))?;
        let is_set = |map: usize, bit: u64| header[map + index(bit / 8)] >> (bit % 8) & 1 == 1;
        for n in 0..g.inodes {
            let number = group * g.inodes + n;
            let there = number < ROOT || found.contains_key(&number);
            whole(is_set(MAPS, n) == there, format!("the map of inodes is wrong at {number}"))?;
        }
        let free = index(le32(&header, 96).into());
        for n in 0..g.length(group) {
            let at = base + n;
            let right = is_set(free, n) == (slots.contains(&at) && !used.contains(&at));
            whole(right, format!("the map of blocks is wrong at {at}"))?;
        }
    }
    Ok(())
}
