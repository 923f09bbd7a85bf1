//! A file system in memory: inodes, names, content with holes.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::{OsStr, OsString};
use std::io;
use std::ops::Range;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use nix::errno::Errno;

use crate::sys::Usage;
use crate::sys::tree::{Kind, Meta, Time};

/// Bytes in a block: the unit of holes and of space.
pub const BLOCK: u64 = 4096;
/// The root's inode, as on UFS.
pub(super) const ROOT: u64 = 2;
/// Entries that one block of a directory holds.
const ENTRIES: usize = 64;
/// `NAME_MAX` of both systems.
const NAME_MAX: usize = 255;

/// `UF_NODUMP` of FreeBSD's chflags(2): a flag without effect here.
pub const NODUMP: u32 = 0x1;
/// `SF_IMMUTABLE`: nothing about the object can be changed but its flags.
pub const IMMUTABLE: u32 = 0x2_0000;
/// `UF_IMMUTABLE` and `SF_IMMUTABLE`.
const ANY_IMMUTABLE: u32 = IMMUTABLE | 0x2;
/// `UF_NOUNLINK` and `SF_NOUNLINK`.
const ANY_NOUNLINK: u32 = 0x10_0010;

/// What every object has besides its content.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Attributes {
    /// Permission bits with set-id and sticky.
    pub mode: u32,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// chflags(2) flags.
    pub flags: u32,
    /// Last read; only ever set, never moved by reading.
    pub atime: Time,
    /// Last write.
    pub mtime: Time,
    /// Last change of any kind.
    pub ctime: Time,
    /// Creation.
    pub birth: Time,
    /// Extended attributes.
    pub xattrs: BTreeMap<OsString, Vec<u8>>,
}

impl Attributes {
    /// What a new object has.
    pub(super) fn new(mode: u32, now: Time) -> Self {
        Self { mode, atime: now, mtime: now, ctime: now, birth: now, ..Self::default() }
    }
}

/// The content of a regular file; blocks that are not there are holes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Content {
    size: u64,
    blocks: BTreeMap<u64, Arc<Vec<u8>>>,
}

/// A position inside a block fits every machine's index.
fn index(at: u64) -> usize {
    usize::try_from(at).unwrap_or(usize::MAX)
}

impl Content {
    /// What is in these blocks, holes elsewhere.
    pub(super) fn of(size: u64, blocks: BTreeMap<u64, Arc<Vec<u8>>>) -> Self {
        Self { size, blocks }
    }

    pub(super) fn size(&self) -> u64 {
        self.size
    }

    /// The blocks that are no holes.
    pub(super) fn all(&self) -> impl Iterator<Item = (u64, Arc<Vec<u8>>)> {
        self.blocks.iter().map(|(number, block)| (*number, Arc::clone(block)))
    }

    /// A block, to be in another content, too.
    pub(super) fn share(&self, number: u64) -> Arc<Vec<u8>> {
        let block = self.blocks.get(&number).cloned();
        block.unwrap_or_else(|| Arc::new(vec![0; index(BLOCK)]))
    }

    /// Puts a whole block.
    pub(super) fn set(&mut self, number: u64, block: Arc<Vec<u8>>) {
        self.blocks.insert(number, block);
    }

    pub(super) fn read(&self, offset: u64, buffer: &mut [u8]) -> usize {
        let length = self.size.saturating_sub(offset).min(buffer.len() as u64);
        let buffer = &mut buffer[..index(length)];
        let mut done = 0;
        while done < buffer.len() {
            let at = offset + done as u64;
            let inside = index(at % BLOCK);
            let piece = (index(BLOCK) - inside).min(buffer.len() - done);
            let target = &mut buffer[done..done + piece];
            match self.blocks.get(&(at / BLOCK)) {
                Some(block) => target.copy_from_slice(&block[inside..inside + piece]),
                None => target.fill(0),
            }
            done += piece;
        }
        done
    }

    pub(super) fn write(&mut self, offset: u64, data: &[u8]) {
        let mut done = 0;
        while done < data.len() {
            let at = offset + done as u64;
            let inside = index(at % BLOCK);
            let piece = (index(BLOCK) - inside).min(data.len() - done);
            let block =
                self.blocks.entry(at / BLOCK).or_insert_with(|| vec![0; index(BLOCK)].into());
            Arc::make_mut(block)[inside..inside + piece].copy_from_slice(&data[done..done + piece]);
            done += piece;
        }
        self.size = self.size.max(offset + data.len() as u64);
    }

    fn set_len(&mut self, size: u64) {
        if size < self.size {
            self.blocks.retain(|number, _| number * BLOCK < size);
            let inside = index(size % BLOCK);
            if inside > 0
                && let Some(block) = self.blocks.get_mut(&(size / BLOCK))
            {
                Arc::make_mut(block)[inside..].fill(0);
            }
        }
        self.size = size;
    }

    /// The next range of allocated blocks, cut at `end`.
    pub(super) fn next_data(&self, from: u64, end: u64) -> Option<Range<u64>> {
        let end = end.min(self.size);
        let (&first, _) = self.blocks.range(from / BLOCK..).next()?;
        let start = from.max(first * BLOCK);
        if start >= end {
            return None;
        }
        let mut last = first;
        while self.blocks.contains_key(&(last + 1)) {
            last += 1;
        }
        Some(start..((last + 1) * BLOCK).min(end))
    }

    /// Blocks that a write would add.
    pub(super) fn growth(&self, offset: u64, length: u64) -> u64 {
        if length == 0 {
            return 0;
        }
        let touched = offset / BLOCK..=(offset + length - 1) / BLOCK;
        touched.filter(|number| !self.blocks.contains_key(number)).count() as u64
    }
}

/// What an object is, with all that belongs to its kind.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Body {
    File(Content),
    Dir { parent: u64, entries: BTreeMap<OsString, u64> },
    Symlink(Vec<u8>),
    Special(Kind, (u64, u64)),
}

/// An object.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Inode {
    pub(super) body: Body,
    pub(super) attributes: Attributes,
    /// Names in directories; not used for directories.
    nlink: u64,
}

impl Inode {
    pub(super) fn new(body: Body, attributes: Attributes) -> Self {
        Self { body, attributes, nlink: 0 }
    }

    pub(super) fn kind(&self) -> Kind {
        match &self.body {
            Body::File(_) => Kind::File,
            Body::Dir { .. } => Kind::Dir,
            Body::Symlink(_) => Kind::Symlink,
            Body::Special(kind, _) => *kind,
        }
    }

    fn blocks(&self) -> u64 {
        match &self.body {
            Body::File(content) => content.blocks.len() as u64,
            Body::Dir { entries, .. } => 1 + (entries.len() / ENTRIES) as u64,
            Body::Symlink(_) | Body::Special(..) => 0,
        }
    }

    /// Fails on an immutable object, as chmod(2), link(2) and the others do.
    pub(super) fn may_change(&self) -> io::Result<()> {
        if self.attributes.flags & ANY_IMMUTABLE != 0 {
            return Err(Errno::EPERM.into());
        }
        Ok(())
    }

    /// Fails where the object's names must stay.
    pub(super) fn may_go(&self) -> io::Result<()> {
        self.may_change()?;
        if self.attributes.flags & ANY_NOUNLINK != 0 {
            return Err(Errno::EPERM.into());
        }
        Ok(())
    }
}

/// One change of a tree, as it waits to become durable. Each touches one inode, so that those of
/// different inodes can be lost independently.
#[derive(Clone, Debug)]
pub(super) enum Change {
    Make(Arc<Inode>),
    Link(OsString, u64),
    Unlink(OsString),
    Rename(OsString, OsString),
    Write(u64, Arc<[u8]>),
    SetLen(u64),
    Attributes(Arc<Attributes>),
}

/// A file system's objects.
#[derive(Clone, Debug)]
pub struct Tree {
    inodes: BTreeMap<u64, Arc<Inode>>,
    next: u64,
    used: u64,
    blocks: u64,
    numbers: u64,
    /// The time of every change.
    pub(super) now: Time,
}

/// What [`Tree::listing`] tells of an object, to compare trees with.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Seen {
    /// What it is.
    pub kind: Kind,
    /// Its attributes, without the time of the last change.
    pub attributes: Attributes,
    /// Bytes of a regular file.
    pub size: u64,
    /// The ranges of a regular file that are not holes, with their content.
    pub data: Vec<(u64, Vec<u8>)>,
    /// Target of a symbolic link.
    pub link: Vec<u8>,
    /// Number of a device.
    pub device: (u64, u64),
    /// The first name of a file with several, where this is another one.
    pub same_as: Option<PathBuf>,
}

impl Tree {
    /// An empty file system of `blocks` blocks, whose inodes have numbers below `numbers`.
    pub(super) fn new(blocks: u64, numbers: u64, now: Time) -> Self {
        let mut tree = Self::without_root(blocks, numbers, now);
        let body = Body::Dir { parent: ROOT, entries: BTreeMap::new() };
        tree.insert(ROOT, Arc::new(Inode::new(body, Attributes::new(0o755, now))));
        tree
    }

    /// Not even a root.
    pub(super) fn without_root(blocks: u64, numbers: u64, now: Time) -> Self {
        Self { inodes: BTreeMap::new(), next: ROOT, used: 0, blocks, numbers, now }
    }

    /// All objects by their numbers, whatever leads to them.
    pub(super) fn all(&self) -> impl Iterator<Item = (u64, &Inode)> {
        self.inodes.iter().map(|(number, inode)| (*number, &**inode))
    }

    pub(super) fn get(&self, ino: u64) -> io::Result<&Inode> {
        self.inodes.get(&ino).map(|i| &**i).ok_or_else(|| Errno::ESTALE.into())
    }

    /// The number for the next object: one that was never used, or else one that nobody is `using`.
    /// Where nobody is using any there is one, if [`Tree::room`] says so.
    pub(super) fn allocate(&mut self, using: impl Fn(u64) -> bool) -> Option<u64> {
        if self.next + 1 < self.numbers {
            self.next += 1;
            return Some(self.next);
        }
        let free = |ino: &u64| !self.inodes.contains_key(ino) && !using(*ino);
        (ROOT + 1..self.numbers).find(free)
    }

    pub(super) fn insert(&mut self, ino: u64, inode: Arc<Inode>) {
        self.used += inode.blocks();
        if let Some(old) = self.inodes.insert(ino, inode) {
            self.used -= old.blocks();
        }
        self.next = self.next.max(ino);
    }

    fn change<T>(&mut self, ino: u64, f: impl FnOnce(&mut Inode, Time) -> T) -> Option<T> {
        let inode = Arc::make_mut(self.inodes.get_mut(&ino)?);
        let before = inode.blocks();
        let result = f(inode, self.now);
        self.used = self.used + inode.blocks() - before;
        Some(result)
    }

    fn count_name(&mut self, ino: u64, by: i64) {
        self.change(ino, |inode, now| {
            inode.nlink = inode.nlink.saturating_add_signed(by);
            inode.attributes.ctime = now;
        });
    }

    /// Makes a change. What it needs may be missing after a loss of power: then nothing happens.
    pub(super) fn apply(&mut self, ino: u64, change: &Change) {
        match change {
            Change::Make(inode) => self.insert(ino, Arc::clone(inode)),
            Change::Link(name, child) => {
                if self.inodes.contains_key(child) {
                    self.replace_entry(ino, name, Some(*child));
                }
            }
            Change::Unlink(name) => self.replace_entry(ino, name, None),
            Change::Rename(from, to) => {
                if let Ok(child) = self.child(ino, from) {
                    self.replace_entry(ino, to, Some(child));
                    self.replace_entry(ino, from, None);
                }
            }
            Change::Write(offset, data) => self.content(ino, |c| c.write(*offset, data)),
            Change::SetLen(size) => self.content(ino, |c| c.set_len(*size)),
            Change::Attributes(attributes) => {
                self.change(ino, |inode, _| inode.attributes = (**attributes).clone());
            }
        }
    }

    fn content(&mut self, ino: u64, f: impl FnOnce(&mut Content)) {
        self.change(ino, |inode, now| {
            if let Body::File(content) = &mut inode.body {
                f(content);
                (inode.attributes.mtime, inode.attributes.ctime) = (now, now);
            }
        });
    }

    fn replace_entry(&mut self, dir: u64, name: &OsStr, child: Option<u64>) {
        let old = self.change(dir, |inode, now| {
            let Body::Dir { entries, .. } = &mut inode.body else { return None };
            (inode.attributes.mtime, inode.attributes.ctime) = (now, now);
            Some(match child {
                Some(child) => entries.insert(name.to_owned(), child),
                None => entries.remove(name),
            })
        });
        let Some(Some(old)) = old else { return };
        if let Some(child) = child {
            self.count_name(child, 1);
        }
        if let Some(old) = old {
            self.count_name(old, -1);
        }
    }

    /// Removes an object that no name leads to.
    pub(super) fn prune(&mut self, ino: u64) {
        if ino != ROOT
            && self.inodes.get(&ino).is_some_and(|i| i.nlink == 0)
            && let Some(gone) = self.inodes.remove(&ino)
        {
            self.used -= gone.blocks();
        }
    }

    /// What fsck(8) does: drops names that lead nowhere and objects without a name, counts again.
    /// Objects that are `open` stay.
    pub(super) fn repair(&mut self, open: &BTreeMap<u64, u32>) {
        let mut names: BTreeMap<u64, u64> = BTreeMap::new();
        let mut found = BTreeSet::from([ROOT]);
        let mut todo = vec![ROOT];
        while let Some(dir) = todo.pop() {
            let Ok(Inode { body: Body::Dir { entries, .. }, .. }) = self.get(dir) else { continue };
            let mut lost = Vec::new();
            for (name, child) in entries {
                match self.inodes.get(child) {
                    None => lost.push(name.clone()),
                    Some(inode) => {
                        let first = found.insert(*child);
                        if inode.kind() != Kind::Dir {
                            *names.entry(*child).or_default() += 1;
                        } else if first {
                            names.insert(*child, 1);
                            todo.push(*child);
                        } else {
                            lost.push(name.clone());
                        }
                    }
                }
            }
            if !lost.is_empty() {
                self.change(dir, |inode, _| {
                    if let Body::Dir { entries, .. } = &mut inode.body {
                        entries.retain(|name, _| !lost.contains(name));
                    }
                });
            }
        }
        self.inodes.retain(|ino, _| found.contains(ino) || open.contains_key(ino));
        for (ino, nlink) in names {
            if self.inodes.get(&ino).is_some_and(|i| i.nlink != nlink) {
                self.change(ino, |inode, _| inode.nlink = nlink);
            }
        }
        self.used = self.inodes.values().map(|i| i.blocks()).sum();
    }

    /// Looks a name up.
    pub(super) fn child(&self, dir: u64, name: &OsStr) -> io::Result<u64> {
        let Body::Dir { parent, entries } = &self.get(dir)?.body else {
            return Err(Errno::ENOTDIR.into());
        };
        match name.as_bytes() {
            b"" => Err(Errno::ENOENT.into()),
            b"." => Ok(dir),
            b".." => Ok(*parent),
            bytes if bytes.len() > NAME_MAX => Err(Errno::ENAMETOOLONG.into()),
            bytes if bytes.iter().any(|b| matches!(b, b'/' | 0)) => Err(Errno::EINVAL.into()),
            _ => entries.get(name).copied().ok_or_else(|| Errno::ENOENT.into()),
        }
    }

    /// Checks that `name` can be made in `dir`.
    pub(super) fn may_add(&self, dir: u64, name: &OsStr) -> io::Result<()> {
        match self.child(dir, name) {
            Ok(_) => return Err(Errno::EEXIST.into()),
            Err(e) if e.kind() == io::ErrorKind::NotFound && !name.is_empty() => {}
            Err(e) => return Err(e),
        }
        self.get(dir)?.may_change()?;
        let Body::Dir { entries, .. } = &self.get(dir)?.body else { return Ok(()) };
        self.room(u64::from((entries.len() + 1).is_multiple_of(ENTRIES)), 0)
    }

    /// Fails where there is not so much left.
    pub(super) fn room(&self, blocks: u64, inodes: u64) -> io::Result<()> {
        if self.used + blocks > self.blocks || inodes > self.free_inodes() {
            return Err(Errno::ENOSPC.into());
        }
        Ok(())
    }

    /// 0 and 1 are no objects.
    fn free_inodes(&self) -> u64 {
        self.numbers.saturating_sub(ROOT + self.inodes.len() as u64)
    }

    /// statvfs(3).
    pub(super) fn usage(&self) -> Usage {
        Usage {
            used_bytes: self.used * BLOCK,
            free_bytes: self.blocks.saturating_sub(self.used) * BLOCK,
            used_inodes: self.inodes.len() as u64,
            free_inodes: self.free_inodes(),
        }
    }

    /// stat(2), `dev` being the file system's identity.
    pub(super) fn meta(&self, ino: u64, dev: u64) -> io::Result<Meta> {
        let inode = self.get(ino)?;
        let a = &inode.attributes;
        let (size, nlink, rdev) = match &inode.body {
            Body::File(content) => (content.size, inode.nlink, (0, 0)),
            Body::Dir { entries, .. } => {
                let is_dir = |child: &&u64| self.get(**child).is_ok_and(|i| i.kind() == Kind::Dir);
                (512, 2 + entries.values().filter(is_dir).count() as u64, (0, 0))
            }
            Body::Symlink(target) => (target.len() as u64, inode.nlink, (0, 0)),
            Body::Special(_, number) => (0, inode.nlink, *number),
        };
        Ok(Meta {
            kind: inode.kind(),
            dev,
            ino,
            nlink,
            mode: a.mode,
            uid: a.uid,
            gid: a.gid,
            size,
            blocks: inode.blocks() * (BLOCK / 512),
            rdev,
            atime: a.atime,
            mtime: a.mtime,
            ctime: a.ctime,
            birth: Some(a.birth),
            flags: a.flags,
        })
    }
}

/// What tests do to a tree behind everybody's back. Paths are relative to the tree's root.
///
/// Those that change something panic where the path leads nowhere or something else is in the way:
/// the test is wrong then.
impl Tree {
    fn find(&self, path: &Path) -> io::Result<u64> {
        path.iter().try_fold(ROOT, |dir, name| self.child(dir, name))
    }

    fn must_find(&self, path: &Path) -> u64 {
        self.find(path).unwrap_or_else(|e| panic!("{}: {e}", path.display()))
    }

    fn add(&mut self, path: &Path, mode: u32, body: impl FnOnce(u64) -> Body) {
        let dir = self.must_find(path.parent().unwrap_or(Path::new("")));
        let name = path.file_name().unwrap_or_default();
        let Some(ino) = self.allocate(|_| false) else { panic!("no inode for {}", path.display()) };
        let inode = Inode::new(body(dir), Attributes::new(mode, self.now));
        self.apply(ino, &Change::Make(Arc::new(inode)));
        self.apply(dir, &Change::Link(name.to_owned(), ino));
    }

    /// Makes a directory.
    pub fn dir(&mut self, path: impl AsRef<Path>) {
        self.add(path.as_ref(), 0o755, |parent| Body::Dir { parent, entries: BTreeMap::new() });
    }

    /// Makes a file, or writes an old one anew.
    pub fn file(&mut self, path: impl AsRef<Path>, content: &[u8]) {
        self.sparse(path, content.len() as u64, &[(0, content)]);
    }

    /// Makes a file of `size` bytes with holes around `data`, or writes an old one anew.
    pub fn sparse(&mut self, path: impl AsRef<Path>, size: u64, data: &[(u64, &[u8])]) {
        let path = path.as_ref();
        if self.find(path).is_err() {
            self.add(path, 0o644, |_| Body::File(Content::default()));
        }
        let ino = self.must_find(path);
        self.apply(ino, &Change::SetLen(0));
        for (offset, data) in data {
            self.apply(ino, &Change::Write(*offset, (*data).into()));
        }
        self.apply(ino, &Change::SetLen(size));
    }

    /// Makes a symbolic link.
    pub fn symlink(&mut self, path: impl AsRef<Path>, target: &str) {
        self.add(path.as_ref(), 0o755, |_| Body::Symlink(target.into()));
    }

    /// Makes a fifo, socket or device.
    pub fn special(&mut self, path: impl AsRef<Path>, kind: Kind, number: (u64, u64)) {
        self.add(path.as_ref(), 0o644, |_| Body::Special(kind, number));
    }

    /// Makes another name of a file.
    pub fn link(&mut self, path: impl AsRef<Path>, original: impl AsRef<Path>) {
        let path = path.as_ref();
        let ino = self.must_find(original.as_ref());
        let dir = self.must_find(path.parent().unwrap_or(Path::new("")));
        let name = path.file_name().unwrap_or_default();
        self.apply(dir, &Change::Link(name.to_owned(), ino));
    }

    /// Removes a name, with everything below it.
    pub fn remove(&mut self, path: impl AsRef<Path>) {
        let path = path.as_ref();
        let ino = self.must_find(path);
        if let Ok(Inode { body: Body::Dir { entries, .. }, .. }) = self.get(ino) {
            let names: Vec<OsString> = entries.keys().cloned().collect();
            for name in names {
                self.remove(path.join(name));
            }
        }
        let dir = self.must_find(path.parent().unwrap_or(Path::new("")));
        let name = path.file_name().unwrap_or_default();
        self.apply(dir, &Change::Unlink(name.to_owned()));
    }

    /// The attributes of an object, to be changed without a trace in its times.
    pub fn attributes(&mut self, path: impl AsRef<Path>) -> &mut Attributes {
        let ino = self.must_find(path.as_ref());
        let Some(inode) = self.inodes.get_mut(&ino) else { unreachable!("it was found") };
        &mut Arc::make_mut(inode).attributes
    }

    /// Whether something has this path.
    pub fn has(&self, path: impl AsRef<Path>) -> bool {
        self.find(path.as_ref()).is_ok()
    }

    /// Everything in the tree by its path, the root's being empty.
    pub fn listing(&self) -> BTreeMap<PathBuf, Seen> {
        let mut seen = BTreeMap::new();
        let mut first: BTreeMap<u64, PathBuf> = BTreeMap::new();
        let mut todo = BTreeMap::from([(PathBuf::new(), ROOT)]);
        // In the order of the paths, whatever the order of the numbers.
        while let Some((path, ino)) = todo.pop_first() {
            let Ok(inode) = self.get(ino) else { continue };
            let mut object = describe(inode);
            match &inode.body {
                Body::Dir { entries, .. } => {
                    todo.extend(entries.iter().map(|(name, child)| (path.join(name), *child)));
                }
                _ if inode.nlink > 1 => {
                    object.same_as = first.get(&ino).cloned();
                    first.entry(ino).or_insert_with(|| path.clone());
                }
                _ => {}
            }
            seen.insert(path, object);
        }
        seen
    }
}

fn describe(inode: &Inode) -> Seen {
    let attributes = Attributes { ctime: Time::default(), ..inode.attributes.clone() };
    let mut seen = Seen {
        kind: inode.kind(),
        attributes,
        size: 0,
        data: Vec::new(),
        link: Vec::new(),
        device: (0, 0),
        same_as: None,
    };
    match &inode.body {
        Body::File(content) => {
            seen.size = content.size;
            let mut at = 0;
            while let Some(range) = content.next_data(at, content.size) {
                let mut data = vec![0; index(range.end - range.start)];
                content.read(range.start, &mut data);
                at = range.end;
                seen.data.push((range.start, data));
            }
        }
        Body::Dir { .. } => {}
        Body::Symlink(target) => seen.link.clone_from(target),
        Body::Special(_, number) => seen.device = *number,
    }
    seen
}
