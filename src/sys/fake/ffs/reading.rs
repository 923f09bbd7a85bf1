//! Bytes become objects, as the kernel and fsck(8) see them.

use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::OsStrExt;
use std::sync::Arc;

use super::{
    BLOCK, CHUNK, Content, DIRECT, GROUP_MAGIC, Geometry, HEADER, INDIRECT, INODE, KINDS,
    SHORT_LINK, index, le16, le32, le64,
};
use crate::sys::fake::tree::{Attributes, Body, Inode, ROOT, Tree};
use crate::sys::tree::{Kind, Time};

/// The objects that names lead to from the root; `None` where there is no file system. What is
/// damaged is not there: an inode that was never written, a block beyond the end.
pub(in super::super) fn read(bytes: &Content, now: Time) -> Option<Tree> {
    let geometry = Geometry::of(bytes)?;
    let mut tree = Tree::without_root(geometry.offered(), geometry.numbers(), now);
    let mut todo = vec![(ROOT, ROOT)];
    while let Some((number, parent)) = todo.pop() {
        if tree.get(number).is_ok() {
            continue;
        }
        let Some(found) = Found::read(bytes, geometry, number) else { continue };
        if number == ROOT && found.kind != Kind::Dir {
            break;
        }
        let body = found.body(bytes, parent);
        if let Body::Dir { entries, .. } = &body {
            todo.extend(entries.values().map(|child| (*child, number)));
        }
        tree.insert(number, Arc::new(Inode::new(body, found.attributes(bytes))));
    }
    tree.repair(&BTreeMap::new());
    Some(tree)
}

/// An inode as it is on the medium.
pub(super) struct Found {
    pub(super) kind: Kind,
    pub(super) names: u16,
    raw: Vec<u8>,
    geometry: Geometry,
}

impl Found {
    /// `None` where it is free.
    pub(super) fn read(bytes: &Content, geometry: Geometry, number: u64) -> Option<Self> {
        if number < ROOT || number >= geometry.numbers() {
            return None;
        }
        let group = number / geometry.inodes;
        let header = block(bytes, Geometry::base(group) + HEADER);
        if le32(&header, 4) == GROUP_MAGIC
            && number % geometry.inodes >= u64::from(le32(&header, 120))
        {
            return None;
        }
        let mut raw = vec![0; index(INODE)];
        bytes.read(geometry.inode(number), &mut raw);
        let format = le16(&raw, 0) & 0o170_000;
        let kind = KINDS.iter().find(|(f, _, _)| *f == format)?.2;
        Some(Self { kind, names: le16(&raw, 2), raw, geometry })
    }

    fn size(&self) -> u64 {
        le64(&self.raw, 16)
    }

    /// What is in it as bytes, where that is no regular file.
    fn content(&self, bytes: &Content) -> Vec<u8> {
        let blocks = self.blocks(bytes, &mut |_| {});
        let mut content = vec![0; index(self.size().min(DIRECT * BLOCK))];
        for (nth, at) in blocks {
            let start = index(nth * BLOCK);
            if let Some(rest) = content.get_mut(start..) {
                let part = rest.len().min(index(BLOCK));
                rest[..part].copy_from_slice(&block(bytes, at)[..part]);
            }
        }
        content
    }

    fn body(&self, bytes: &Content, parent: u64) -> Body {
        match self.kind {
            Kind::File => {
                let blocks = self.blocks(bytes, &mut |_| {});
                let content = blocks.into_iter().map(|(nth, at)| (nth, bytes.share(at)));
                Body::File(Content::of(self.size(), content.collect()))
            }
            Kind::Dir => {
                let entries = self.entries(bytes);
                let own = |name: &OsStr| name == "." || name == "..";
                let entries = entries.into_iter().filter(|(name, _)| !own(name)).collect();
                Body::Dir { parent, entries }
            }
            Kind::Symlink if self.size() < SHORT_LINK as u64 => {
                Body::Symlink(self.raw[112..112 + index(self.size())].to_vec())
            }
            Kind::Symlink => Body::Symlink(self.content(bytes)),
            kind => {
                let device = le64(&self.raw, 112);
                Body::Special(kind, (device >> 32, device & 0xffff_ffff))
            }
        }
    }

    /// The entries of a directory, `.` and `..` among them.
    pub(super) fn entries(&self, bytes: &Content) -> Vec<(OsString, u64)> {
        let mut entries = Vec::new();
        for chunk in self.content(bytes).chunks_exact(CHUNK) {
            let mut rest = chunk;
            while rest.len() >= 8 {
                let (number, length) = (le32(rest, 0), usize::from(le16(rest, 4)));
                let named = usize::from(rest[7]);
                if length < 8 + named || length > rest.len() {
                    break;
                }
                if number != 0 {
                    let name = OsStr::from_bytes(&rest[8..8 + named]).to_owned();
                    entries.push((name, number.into()));
                }
                rest = &rest[length..];
            }
        }
        entries
    }

    fn attributes(&self, bytes: &Content) -> Attributes {
        let raw = &self.raw;
        let time =
            |seconds, rest| Time { sec: le64(raw, seconds).cast_signed(), nsec: le32(raw, rest) };
        let mut area = Vec::new();
        for at in self.attribute_blocks() {
            area.extend(block(bytes, at));
        }
        area.truncate(index(le32(raw, 92).into()));
        let mut xattrs = BTreeMap::new();
        let mut rest = &area[..];
        while rest.len() >= 8 {
            let [name, value] = [0, 4].map(|at| index(le32(rest, at).into()));
            let Some(own) = rest.get(8..8 + name + value) else { break };
            xattrs.insert(OsStr::from_bytes(&own[..name]).to_owned(), own[name..].to_vec());
            rest = &rest[8 + name + value..];
        }
        Attributes {
            mode: u32::from(le16(raw, 0)) & 0o7777,
            uid: le32(raw, 4),
            gid: le32(raw, 8),
            flags: le32(raw, 88),
            atime: time(32, 68),
            mtime: time(40, 64),
            ctime: time(48, 72),
            birth: time(56, 76),
            xattrs,
        }
    }

    /// Where its extended attributes lie.
    pub(super) fn attribute_blocks(&self) -> Vec<u64> {
        let places = [96, 104].map(|at| le64(&self.raw, at));
        places.into_iter().filter(|at| self.is_there(*at)).collect()
    }

    fn is_there(&self, at: u64) -> bool {
        at != 0 && at < self.geometry.size
    }

    /// Its blocks by their numbers, and where they lie; each indirect block is told to `seen`.
    pub(super) fn blocks(&self, bytes: &Content, seen: &mut dyn FnMut(u64)) -> BTreeMap<u64, u64> {
        let mut blocks = BTreeMap::new();
        let short = self.kind == Kind::Symlink && self.size() < SHORT_LINK as u64;
        if short || !matches!(self.kind, Kind::File | Kind::Dir | Kind::Symlink) {
            return blocks;
        }
        for nth in 0..DIRECT {
            let at = le64(&self.raw, 112 + 8 * index(nth));
            if self.is_there(at) {
                blocks.insert(nth, at);
            }
        }
        let mut first = DIRECT;
        for level in 1..=3 {
            let at = le64(&self.raw, 200 + 8 * index(u64::from(level)));
            self.indirect(bytes, at, first, level, &mut blocks, seen);
            first += INDIRECT.pow(level);
        }
        blocks
    }

    fn indirect(
        &self,
        bytes: &Content,
        at: u64,
        first: u64,
        level: u32,
        blocks: &mut BTreeMap<u64, u64>,
        seen: &mut dyn FnMut(u64),
    ) {
        if !self.is_there(at) {
            return;
        }
        seen(at);
        let map = block(bytes, at);
        for n in 0..INDIRECT {
            let (at, nth) = (le64(&map, 8 * index(n)), first + n * INDIRECT.pow(level - 1));
            if level > 1 {
                self.indirect(bytes, at, nth, level - 1, blocks, seen);
            } else if self.is_there(at) {
                blocks.insert(nth, at);
            }
        }
    }
}

/// The bytes of a fragment.
pub(super) fn block(bytes: &Content, at: u64) -> Vec<u8> {
    let mut block = vec![0; index(BLOCK)];
    bytes.read(at * BLOCK, &mut block);
    block
}
