//! Objects become bytes.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::ops::Range;
use std::os::unix::ffi::OsStrExt;
use std::sync::Arc;

use super::{
    BACKUP, BLOCK, BOOT, CHUNK, Content, DIRECT, GROUP_HASH, GROUP_MAGIC, Geometry, HEADER,
    INDIRECT, INODE, INODES, KINDS, MAPS, PER_BLOCK, PER_GROUP, SHORT_LINK, SUPERBLOCK,
    SUPERBLOCK_LENGTH, WRITTEN, index, put, seal,
};
use crate::sys::Format;
use crate::sys::fake::tree::{Body, Inode, ROOT, Tree};
use crate::sys::tree::{Kind, Time};

/// The bytes of an empty file system on a partition of `size` bytes.
pub(in super::super) fn newfs(
    geometry: Geometry,
    format: &Format,
    size: u64,
    serial: u32,
    tree: &Tree,
) -> Content {
    let mut bytes = Content::of(size, BTreeMap::new());
    bytes.write(SUPERBLOCK, &geometry.superblock(format, size, serial));
    lay_out(&bytes, tree)
}

/// The bytes of a file system with the objects of `tree`. What is free stays as it was in `old`, which
/// has the superblock; so do the counts in that, which the kernel brings up to date when it likes.
pub(in super::super) fn lay_out(old: &Content, tree: &Tree) -> Content {
    let Some(geometry) = Geometry::of(old) else { return old.clone() };
    let slots = geometry.slots();
    let taken = vec![false; slots.len()];
    let mut layout = Layout { geometry, slots, taken, bytes: old.clone(), inodes: BTreeMap::new() };
    for (number, inode) in tree.all() {
        layout.object(tree, number, inode);
    }
    layout.groups();
    layout.bytes
}

struct Layout {
    geometry: Geometry,
    /// Where data can lie, and where they do.
    slots: Vec<u64>,
    taken: Vec<bool>,
    bytes: Content,
    inodes: BTreeMap<u64, (Kind, Vec<u8>)>,
}

impl Layout {
    /// Finds a place for the `nth` block of an object, and puts it there.
    fn place(&mut self, number: u64, nth: u64, block: Arc<Vec<u8>>) -> u64 {
        let count = self.slots.len();
        let start = index((number * 7 + nth) % count as u64);
        let free = (start..count).chain(0..start).find(|&n| !self.taken[n]);
        let free = free.unwrap_or_else(|| panic!("{count} blocks are too few for this tree"));
        self.taken[free] = true;
        self.bytes.set(self.slots[free], block);
        self.slots[free]
    }

    /// The same of bytes, of which the last block is filled up with zeros.
    fn place_all(&mut self, number: u64, nth: u64, bytes: &[u8]) -> Vec<u64> {
        let blocks = bytes.chunks(index(BLOCK)).zip(nth..);
        let padded = |part: &[u8]| {
            let mut block = vec![0; index(BLOCK)];
            put(&mut block, 0, part);
            Arc::new(block)
        };
        blocks.map(|(part, nth)| self.place(number, nth, padded(part))).collect()
    }

    fn object(&mut self, tree: &Tree, number: u64, inode: &Inode) {
        let kind = inode.kind();
        let a = &inode.attributes;
        let mut raw = vec![0; index(INODE)];
        let format = KINDS.iter().find(|(_, _, k)| *k == kind).map_or(0, |(format, _, _)| *format);
        let (mut size, names) = tree.meta(number, 0).map_or((0, 0), |m| (m.size, m.nlink));
        match &inode.body {
            Body::File(content) => {
                let blocks: Vec<_> = content.all().collect();
                let places: BTreeMap<u64, u64> = blocks
                    .into_iter()
                    .map(|(nth, block)| (nth, self.place(number, nth, block)))
                    .collect();
                self.map(number, &mut raw, &places);
            }
            Body::Dir { parent, entries } => {
                let own = [(OsStr::new("."), number), (OsStr::new(".."), *parent)];
                let entries = entries.iter().map(|(name, child)| (name.as_os_str(), *child));
                let bytes = directory(tree, own.into_iter().chain(entries));
                size = bytes.len() as u64;
                let places = self.place_all(number, 0, &bytes);
                self.map(number, &mut raw, &(0..).zip(places).collect());
            }
            Body::Symlink(target) if target.len() < SHORT_LINK => put(&mut raw, 112, target),
            Body::Symlink(target) => {
                let places = self.place_all(number, 0, target);
                self.map(number, &mut raw, &(0..).zip(places).collect());
            }
            Body::Special(_, (major, minor)) => {
                put(&mut raw, 112, &(major << 32 | minor).to_le_bytes());
            }
        }
        let xattrs = attributes(inode);
        let places = self.place_all(number, DIRECT, &xattrs);
        assert!(places.len() <= 2, "more attributes than an inode has room for");
        for (n, place) in places.into_iter().enumerate() {
            put(&mut raw, 96 + 8 * n, &place.to_le_bytes());
        }
        let short = |n: u64| u16::try_from(n).unwrap_or(u16::MAX);
        put(&mut raw, 0, &(format | u16::try_from(a.mode & 0o7777).unwrap_or(0)).to_le_bytes());
        put(&mut raw, 2, &short(names).to_le_bytes());
        put(&mut raw, 16, &size.to_le_bytes());
        for (at, word) in [(4, a.uid), (8, a.gid), (88, a.flags)] {
            put(&mut raw, at, &word.to_le_bytes());
        }
        put(&mut raw, 92, &u32::try_from(xattrs.len()).unwrap_or(0).to_le_bytes());
        for (seconds, rest, Time { sec, nsec }) in
            [(32, 68, a.atime), (40, 64, a.mtime), (48, 72, a.ctime), (56, 76, a.birth)]
        {
            put(&mut raw, seconds, &sec.to_le_bytes());
            put(&mut raw, rest, &nsec.to_le_bytes());
        }
        assert!(number < self.geometry.numbers(), "there is no inode {number}");
        self.inodes.insert(number, (kind, raw));
    }

    /// Writes the addresses of blocks to an inode, and its indirect blocks.
    fn map(&mut self, number: u64, raw: &mut [u8], places: &BTreeMap<u64, u64>) {
        for (&nth, place) in places.range(..DIRECT) {
            put(raw, 112 + 8 * index(nth), &place.to_le_bytes());
        }
        let mut first = DIRECT;
        for level in 1..=3_u32 {
            let covers = INDIRECT.pow(level);
            if let Some(place) = self.indirect(number, places, first, level) {
                put(raw, 208 + 8 * index(u64::from(level) - 1), &place.to_le_bytes());
            }
            first += covers;
        }
    }

    /// The indirect block of this level from block `first` on; `None` where it would be empty.
    fn indirect(
        &mut self,
        number: u64,
        places: &BTreeMap<u64, u64>,
        first: u64,
        level: u32,
    ) -> Option<u64> {
        let each = INDIRECT.pow(level - 1);
        places.range(first..first + each * INDIRECT).next()?;
        let mut block = vec![0; index(BLOCK)];
        for n in 0..INDIRECT {
            let at = first + n * each;
            let place = if level == 1 {
                places.get(&at).copied()
            } else {
                self.indirect(number, places, at, level - 1)
            };
            put(&mut block, 8 * index(n), &place.unwrap_or(0).to_le_bytes());
        }
        Some(self.place(number, DIRECT, Arc::new(block)))
    }

    /// Writes inodes, headers and backups.
    fn groups(&mut self) {
        let g = self.geometry;
        let mut backup = vec![0; SUPERBLOCK_LENGTH];
        self.bytes.read(SUPERBLOCK, &mut backup);
        let mut summary = vec![0; index(BLOCK)];
        for group in 0..g.groups {
            let base = Geometry::base(group);
            let numbers = group * g.inodes..(group + 1) * g.inodes;
            let last =
                self.inodes.range(numbers.clone()).next_back().map(|(n, _)| n - numbers.start);
            let written = last.map_or(0, |n| n + 1).next_multiple_of(PER_BLOCK).max(WRITTEN);
            let mut table = vec![0; index(written * INODE)];
            let mut header = vec![0; index(BLOCK)];
            let mut dirs = 0;
            for (number, (kind, raw)) in self.inodes.range(numbers.clone()) {
                put(&mut table, index((number - numbers.start) * INODE), raw);
                set(&mut header[MAPS..], number - numbers.start);
                dirs += u32::from(*kind == Kind::Dir);
            }
            // 0 and 1 are no objects, and in use.
            for n in (0..ROOT).filter(|n| numbers.contains(n)) {
                set(&mut header[MAPS..], n);
            }
            let free_map = MAPS + index(g.inodes / 8);
            let own = |at: &u64| (base..base + g.length(group)).contains(at);
            let free = self.slots.iter().zip(&self.taken).filter(|(at, taken)| own(at) && !**taken);
            let free: Vec<u64> = free.map(|(at, _)| at - base).collect();
            for &n in &free {
                set(&mut header[free_map..], n);
            }
            let word = |n: u64| u32::try_from(n).unwrap_or(u32::MAX);
            let inodes = self.inodes.range(numbers.clone()).count() as u64;
            let none = if group == 0 { ROOT } else { 0 };
            let sums = [dirs, word(free.len() as u64), word(g.inodes - inodes - none), 0];
            for (n, sum) in sums.into_iter().enumerate() {
                put(&mut header, 24 + 4 * n, &sum.to_le_bytes());
                put(&mut summary, index(group) * 16 + 4 * n, &sum.to_le_bytes());
            }
            for (at, value) in [
                (4, GROUP_MAGIC),
                (12, word(group)),
                (20, word(g.length(group))),
                (92, word(MAPS as u64)),
                (96, word(free_map as u64)),
                (116, word(g.inodes)),
                (120, word(written)),
            ] {
                put(&mut header, at, &value.to_le_bytes());
            }
            let length = header.len();
            seal(&mut header, length, GROUP_HASH);
            self.bytes.write((base + BACKUP) * BLOCK, &backup);
            self.bytes.write((base + HEADER) * BLOCK, &header);
            self.bytes.write((base + INODES) * BLOCK, &table);
        }
        self.bytes.write(g.summary() * BLOCK, &summary);
    }
}

fn set(map: &mut [u8], bit: u64) {
    map[index(bit / 8)] |= 1 << (bit % 8);
}

/// The bytes of a directory.
fn directory<'a>(tree: &Tree, entries: impl Iterator<Item = (&'a OsStr, u64)>) -> Vec<u8> {
    let mut bytes: Vec<u8> = Vec::new();
    // Where the last entry begins: it takes all that is left of its chunk.
    let mut last = 0;
    let mut used = 0;
    for (name, number) in entries {
        let name = name.as_bytes();
        let length = (8 + name.len() + 1).next_multiple_of(4);
        let kind = tree.get(number).ok().map(Inode::kind);
        let kind = KINDS.iter().find(|(_, _, k)| Some(*k) == kind).map_or(0, |(_, kind, _)| *kind);
        if used + length > bytes.len() {
            bytes.extend([0; CHUNK]);
            used = bytes.len() - CHUNK;
        } else {
            let own = u16::try_from(used - last).unwrap_or(0);
            put(&mut bytes, last + 4, &own.to_le_bytes());
        }
        let rest = u16::try_from(bytes.len() - used).unwrap_or(0);
        put(&mut bytes, used, &u32::try_from(number).unwrap_or(0).to_le_bytes());
        put(&mut bytes, used + 4, &rest.to_le_bytes());
        bytes[used + 6] = kind;
        bytes[used + 7] = u8::try_from(name.len()).unwrap_or(0);
        put(&mut bytes, used + 8, name);
        last = used;
        used += length;
    }
    bytes
}

/// The area of extended attributes: lengths of name and value, then both.
fn attributes(inode: &Inode) -> Vec<u8> {
    let mut bytes = Vec::new();
    for (name, value) in &inode.attributes.xattrs {
        for length in [name.len(), value.len()] {
            bytes.extend(u32::try_from(length).unwrap_or(0).to_le_bytes());
        }
        bytes.extend(name.as_bytes());
        bytes.extend(value);
    }
    bytes
}

/// What newfs(8) writes of a file system, in its order: each group with its first inodes, then what
/// lies behind them, the superblock last.
pub(in super::super) fn newfs_writes(bytes: &Content) -> Vec<(u64, Vec<u8>)> {
    let Some(g) = Geometry::of(bytes) else { return Vec::new() };
    let read = |range: Range<u64>| {
        let mut part = vec![0; index(range.end - range.start)];
        bytes.read(range.start, &mut part);
        (range.start, part)
    };
    let blocks = |range: Range<u64>| read(range.start * BLOCK..range.end * BLOCK);
    // Inodes block by block: of what is written at once, a medium takes larger parts.
    let group = |n: u64| {
        let base = Geometry::base(n);
        let inodes = base + INODES..base + INODES + WRITTEN / PER_BLOCK;
        let own = blocks(base + BACKUP..base + INODES);
        [own].into_iter().chain(inodes.map(|at| blocks(at..at + 1)))
    };
    let mut writes: Vec<_> = (0..g.groups).flat_map(group).collect();
    let data = |at: &u64| *at >= g.data();
    let others = bytes.all().map(|(at, _)| at).filter(data).filter(|&at| {
        let inside = at % PER_GROUP;
        !(BACKUP..INODES + g.inodes / PER_BLOCK).contains(&inside)
    });
    writes.extend(others.map(|at| blocks(at..at + 1)));
    writes.push(read(SUPERBLOCK..BOOT * BLOCK));
    writes
}
