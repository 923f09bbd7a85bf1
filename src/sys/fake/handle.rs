//! Open directories and files.

use std::ffi::OsStr;
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::ops::Range;
use std::sync::Arc;

use nix::errno::Errno;

use super::fault::Place;
use super::tree::{Attributes, Body, Change, Content, Inode};
use super::world::Node;
use super::{Machine, Turn};
use crate::sys::tree::{Dir, File, Kind, Meta, Names, Xattrs};

/// A directory's ACL for what will be in it, and the one of an object (POSIX.1e).
const ACL_DEFAULT: &str = "system.posix1e.acl_default";
const ACL_ACCESS: &str = "system.posix1e.acl_access";

/// No name: the operation is on the handle itself.
const SELF: &str = "";

/// An open object, counted by its mount.
#[derive(Debug)]
struct Handle {
    machine: Machine,
    node: Node,
    /// `da0s1:etc/fstab`
    place: Arc<str>,
    /// What is mounted on directories of its file system is not seen from here.
    uncovered: bool,
}

impl Drop for Handle {
    fn drop(&mut self) {
        self.machine.lock().world.close(self.node);
    }
}

impl Handle {
    /// Opens a node while its operation is under way.
    fn new(machine: &Machine, turn: &mut Turn<'_>, node: Node, place: &str) -> Self {
        turn.world().open(node);
        Self { machine: machine.clone(), node, place: place.into(), uncovered: false }
    }

    /// The handle of an entry here.
    fn entry(&self, turn: &mut Turn<'_>, node: Node, name: &OsStr) -> Self {
        let place = if node.volume == self.node.volume {
            if name == "." { self.place.to_string() } else { Place(&self.place, name).text() }
        } else {
            volume_name(turn, node)
        };
        self.beside(turn, node, &place)
    }

    /// A handle of another node, of which the same is seen.
    fn beside(&self, turn: &mut Turn<'_>, node: Node, place: &str) -> Self {
        let mut handle = Self::new(&self.machine, turn, node, place);
        handle.uncovered = self.uncovered;
        handle
    }

    /// What is seen at an entry here.
    fn seen(&self, turn: &mut Turn<'_>, ino: u64) -> Node {
        let node = Node { ino, ..self.node };
        if self.uncovered { node } else { turn.world().cross(node) }
    }

    fn begin(&self, op: &'static str, name: &OsStr) -> io::Result<Turn<'_>> {
        let mut turn = self.machine.begin(op, Place(&self.place, name))?;
        turn.world().mounted(self.node.mount)?;
        Ok(turn)
    }

    /// Begins an operation that changes something.
    fn begin_change(&self, op: &'static str, name: &OsStr) -> io::Result<Turn<'_>> {
        let mut turn = self.begin(op, name)?;
        if turn.world().mounted(self.node.mount)?.mount.read_only {
            return Err(Errno::EROFS.into());
        }
        Ok(turn)
    }

    /// The object itself, or its entry of that name.
    fn object(&self, turn: &mut Turn<'_>, name: &OsStr) -> io::Result<u64> {
        if name.is_empty() {
            return Ok(self.node.ino);
        }
        self.tree(turn).child(self.node.ino, name)
    }

    fn tree<'a>(&self, turn: &'a mut Turn<'_>) -> &'a super::Tree {
        turn.world().volumes[self.node.volume].tree()
    }

    fn change(&self, turn: &mut Turn<'_>, ino: u64, change: Change) {
        let now = turn.world().now;
        turn.world().volumes[self.node.volume].change(ino, change, now);
    }

    fn meta_of(turn: &mut Turn<'_>, node: Node) -> io::Result<Meta> {
        // Any number that is another one for each file system.
        turn.world().volumes[node.volume].tree().meta(node.ino, 100 + node.volume as u64)
    }

    /// Changes attributes, of the object itself or of an entry.
    fn set(
        &self,
        op: &'static str,
        name: &OsStr,
        f: impl FnOnce(&mut Attributes, Kind),
    ) -> io::Result<()> {
        let mut turn = self.begin_change(op, name)?;
        let ino = self.object(&mut turn, name)?;
        let now = turn.world().now;
        let inode = self.tree(&mut turn).get(ino)?;
        // Flags are what makes an object immutable: root may change them.
        if !op.contains("set_flags") {
            inode.may_change()?;
        }
        let mut attributes = inode.attributes.clone();
        f(&mut attributes, inode.kind());
        attributes.ctime = now;
        self.change(&mut turn, ino, Change::Attributes(Arc::new(attributes)));
        Ok(())
    }

    fn set_owner(&self, op: &'static str, name: &OsStr, uid: u32, gid: u32) -> io::Result<()> {
        self.set(op, name, |a, kind| {
            (a.uid, a.gid) = (uid, gid);
            if kind != Kind::Dir {
                a.mode &= 0o1777;
            }
        })
    }

    fn set_mode_and_times(&self, op: &'static str, name: &OsStr, meta: &Meta) -> io::Result<()> {
        self.set(op, name, |a, _| {
            (a.mode, a.atime, a.mtime) = (meta.mode & 0o7777, meta.atime, meta.mtime);
            a.birth = meta.birth.unwrap_or(a.birth);
        })
    }

    fn xattrs(&self, op: &'static str, name: &OsStr) -> io::Result<Xattrs> {
        let mut turn = self.begin(op, name)?;
        let ino = self.object(&mut turn, name)?;
        let all = &self.tree(&mut turn).get(ino)?.attributes.xattrs;
        Ok(all.iter().map(|(key, value)| (key.clone(), value.clone())).collect())
    }

    fn set_xattr(
        &self,
        op: &'static str,
        name: &OsStr,
        key: &OsStr,
        value: &[u8],
    ) -> io::Result<()> {
        self.set(op, name, |a, _| {
            a.xattrs.insert(key.to_owned(), value.to_vec());
        })
    }

    fn remove_xattr(&self, op: &'static str, name: &OsStr, key: &OsStr) -> io::Result<()> {
        self.set(op, name, |a, _| drop(a.xattrs.remove(key)))
    }
}

/// `da0s1:`, or the type of a file system in memory.
fn volume_name(turn: &mut Turn<'_>, node: Node) -> String {
    let world = turn.world();
    let fs = world.mounted(node.mount).map_or("", |m| m.mount.fs.as_str());
    let name = world.volumes[node.volume].provider.as_deref().unwrap_or(fs);
    format!("{name}:")
}

/// An open directory.
#[derive(Debug)]
pub struct FakeDir(Handle);

impl FakeDir {
    /// Opens a node that a path led to.
    pub(super) fn open(machine: &Machine, turn: &mut Turn<'_>, node: Node) -> io::Result<Self> {
        if turn.world().volumes[node.volume].tree().get(node.ino)?.kind() != Kind::Dir {
            return Err(Errno::ENOTDIR.into());
        }
        let name = volume_name(turn, node);
        Ok(Self(Handle::new(machine, turn, node, &name)))
    }

    /// The same, without what is mounted on directories of its file system.
    pub(super) fn uncovered(mut self) -> Self {
        self.0.uncovered = true;
        self
    }

    /// Makes an object with a name here.
    fn make(&self, turn: &mut Turn<'_>, name: &OsStr, mode: u32, body: Body) -> io::Result<u64> {
        let dir = self.0.node.ino;
        self.0.tree(turn).may_add(dir, name)?;
        self.0.tree(turn).room(u64::from(matches!(body, Body::Dir { .. })), 1)?;
        let now = turn.world().now;
        let ino = turn.world().volumes[self.0.node.volume].allocate();
        let mut attributes = Attributes::new(mode, now);
        // acl(3): the default ACL of a directory is everything's in it, and a directory's own too.
        let above = &self.0.tree(turn).get(dir)?.attributes.xattrs;
        if let Some(acl) = above.get(OsStr::new(ACL_DEFAULT)) {
            attributes.xattrs.insert(ACL_ACCESS.into(), acl.clone());
            if matches!(body, Body::Dir { .. }) {
                attributes.xattrs.insert(ACL_DEFAULT.into(), acl.clone());
            }
        }
        let inode = Inode::new(body, attributes);
        self.0.change(turn, ino, Change::Make(Arc::new(inode)));
        self.0.change(turn, dir, Change::Link(name.to_owned(), ino));
        Ok(ino)
    }

    /// Takes a name away, and the object with it where that was the last one.
    fn unlink(&self, turn: &mut Turn<'_>, name: &OsStr, ino: u64) -> io::Result<()> {
        let dir = self.0.node.ino;
        self.0.tree(turn).get(dir)?.may_change()?;
        self.0.tree(turn).get(ino)?.may_go()?;
        self.0.change(turn, dir, Change::Unlink(name.to_owned()));
        turn.world().volumes[self.0.node.volume].prune(ino);
        Ok(())
    }

    /// Opens a file that is there.
    fn opened(&self, mut turn: Turn<'_>, name: &OsStr, writable: bool) -> io::Result<FakeFile> {
        let ino = self.0.tree(&mut turn).child(self.0.node.ino, name)?;
        match self.0.tree(&mut turn).get(ino)?.kind() {
            Kind::Symlink => return Err(Errno::ELOOP.into()),
            Kind::Dir => return Err(Errno::EISDIR.into()),
            Kind::Socket => return Err(Errno::EOPNOTSUPP.into()),
            Kind::Char | Kind::Block => return Err(Errno::ENXIO.into()),
            Kind::File | Kind::Fifo => {}
        }
        let handle = self.0.entry(&mut turn, Node { ino, ..self.0.node }, name);
        Ok(FakeFile { handle, position: 0, writable })
    }

    fn is_covered(&self, turn: &mut Turn<'_>, ino: u64) -> bool {
        let node = Node { ino, ..self.0.node };
        turn.world().cross(node) != node
    }
}

impl Dir for FakeDir {
    type File = FakeFile;
    const KEEPS_BIRTH: bool = true;

    fn meta(&self) -> io::Result<Meta> {
        let mut turn = self.0.begin("dir.meta", SELF.as_ref())?;
        Handle::meta_of(&mut turn, self.0.node)
    }

    fn names(&self) -> io::Result<Names> {
        let mut turn = self.0.begin("dir.names", SELF.as_ref())?;
        let tell = turn.world().kinds_in_listings;
        let tree = self.0.tree(&mut turn);
        let Body::Dir { entries, .. } = &tree.get(self.0.node.ino)?.body else {
            return Err(Errno::ENOTDIR.into());
        };
        let mut names = Names::default();
        for (name, ino) in entries {
            use std::os::unix::ffi::OsStrExt;
            let kind = tree.get(*ino).ok().filter(|_| tell).map(Inode::kind);
            names.push(name.as_bytes(), kind);
        }
        names.sort();
        Ok(names)
    }

    fn stat(&self, name: &OsStr) -> io::Result<Meta> {
        let mut turn = self.0.begin("dir.stat", name)?;
        let ino = self.0.tree(&mut turn).child(self.0.node.ino, name)?;
        let node = self.0.seen(&mut turn, ino);
        Handle::meta_of(&mut turn, node)
    }

    fn open_dir(&self, name: &OsStr) -> io::Result<Self> {
        let mut turn = self.0.begin("dir.open_dir", name)?;
        let ino = self.0.tree(&mut turn).child(self.0.node.ino, name)?;
        match self.0.tree(&mut turn).get(ino)?.kind() {
            Kind::Dir => {}
            Kind::Symlink => return Err(Errno::ELOOP.into()),
            _ => return Err(Errno::ENOTDIR.into()),
        }
        let node = self.0.seen(&mut turn, ino);
        Ok(Self(self.0.entry(&mut turn, node, name)))
    }

    fn open_parent(&self) -> io::Result<Self> {
        let mut turn = self.0.begin("dir.open_parent", SELF.as_ref())?;
        let node = turn.world().above(self.0.node)?;
        let above = match self.0.place.rsplit_once(['/', ':']) {
            Some((above, _)) if above.contains(':') => above.to_owned(),
            _ => volume_name(&mut turn, node),
        };
        Ok(Self(self.0.beside(&mut turn, node, &above)))
    }

    fn open_file(&self, name: &OsStr) -> io::Result<FakeFile> {
        let turn = self.0.begin("dir.open_file", name)?;
        self.opened(turn, name, false)
    }

    fn open_to_change(&self, name: &OsStr) -> io::Result<FakeFile> {
        let mut turn = self.0.begin_change("dir.open_to_change", name)?;
        let ino = self.0.tree(&mut turn).child(self.0.node.ino, name)?;
        self.0.tree(&mut turn).get(ino)?.may_change()?;
        self.opened(turn, name, true)
    }

    fn create_file(&self, name: &OsStr) -> io::Result<FakeFile> {
        let mut turn = self.0.begin_change("dir.create_file", name)?;
        let ino = self.make(&mut turn, name, 0o600, Body::File(Content::default()))?;
        let handle = self.0.entry(&mut turn, Node { ino, ..self.0.node }, name);
        Ok(FakeFile { handle, position: 0, writable: true })
    }

    fn make_dir(&self, name: &OsStr) -> io::Result<()> {
        let mut turn = self.0.begin_change("dir.make_dir", name)?;
        let body =
            Body::Dir { parent: self.0.node.ino, entries: std::collections::BTreeMap::new() };
        self.make(&mut turn, name, 0o700, body).map(drop)
    }

    fn make_special(&self, name: &OsStr, meta: &Meta) -> io::Result<()> {
        let mut turn = self.0.begin_change("dir.make_special", name)?;
        if matches!(meta.kind, Kind::File | Kind::Dir | Kind::Symlink) {
            return Err(Errno::EINVAL.into());
        }
        self.make(&mut turn, name, 0o600, Body::Special(meta.kind, meta.rdev)).map(drop)
    }

    fn make_symlink(&self, name: &OsStr, target: &[u8]) -> io::Result<()> {
        let mut turn = self.0.begin_change("dir.make_symlink", name)?;
        self.make(&mut turn, name, 0o755, Body::Symlink(target.to_vec())).map(drop)
    }

    fn read_link(&self, name: &OsStr) -> io::Result<Vec<u8>> {
        let mut turn = self.0.begin("dir.read_link", name)?;
        let ino = self.0.tree(&mut turn).child(self.0.node.ino, name)?;
        match &self.0.tree(&mut turn).get(ino)?.body {
            Body::Symlink(target) => Ok(target.clone()),
            _ => Err(Errno::EINVAL.into()),
        }
    }

    fn make_link(&self, name: &OsStr, from: &Self, original: &OsStr) -> io::Result<()> {
        let mut turn = self.0.begin_change("dir.make_link", name)?;
        if from.0.node.mount != self.0.node.mount {
            return Err(Errno::EXDEV.into());
        }
        let tree = self.0.tree(&mut turn);
        let ino = tree.child(from.0.node.ino, original)?;
        let inode = tree.get(ino)?;
        inode.may_change()?;
        if inode.kind() == Kind::Dir {
            return Err(Errno::EPERM.into());
        }
        tree.may_add(self.0.node.ino, name)?;
        self.0.change(&mut turn, self.0.node.ino, Change::Link(name.to_owned(), ino));
        Ok(())
    }

    fn remove_file(&self, name: &OsStr) -> io::Result<()> {
        let mut turn = self.0.begin_change("dir.remove_file", name)?;
        let ino = self.0.tree(&mut turn).child(self.0.node.ino, name)?;
        if self.0.tree(&mut turn).get(ino)?.kind() == Kind::Dir {
            return Err(Errno::EPERM.into());
        }
        self.unlink(&mut turn, name, ino)
    }

    fn remove_dir(&self, name: &OsStr) -> io::Result<()> {
        let mut turn = self.0.begin_change("dir.remove_dir", name)?;
        let ino = self.0.tree(&mut turn).child(self.0.node.ino, name)?;
        match &self.0.tree(&mut turn).get(ino)?.body {
            Body::Dir { entries, .. } if entries.is_empty() => {}
            Body::Dir { .. } => return Err(Errno::ENOTEMPTY.into()),
            _ => return Err(Errno::ENOTDIR.into()),
        }
        if self.is_covered(&mut turn, ino) {
            return Err(Errno::EBUSY.into());
        }
        self.unlink(&mut turn, name, ino)
    }

    fn rename(&self, from: &OsStr, to: &OsStr) -> io::Result<()> {
        let mut turn = self.0.begin_change("dir.rename", from)?;
        let dir = self.0.node.ino;
        let tree = self.0.tree(&mut turn);
        let ino = tree.child(dir, from)?;
        tree.get(dir)?.may_change()?;
        tree.get(ino)?.may_go()?;
        let old = match tree.child(dir, to) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => None,
            old => Some(old?),
        };
        if let Some(old) = old {
            tree.get(old)?.may_go()?;
            match (&tree.get(ino)?.body, &tree.get(old)?.body) {
                (Body::Dir { .. }, Body::Dir { entries, .. }) if !entries.is_empty() => {
                    return Err(Errno::ENOTEMPTY.into());
                }
                (Body::Dir { .. }, Body::Dir { .. }) => {}
                (Body::Dir { .. }, _) => return Err(Errno::ENOTDIR.into()),
                (_, Body::Dir { .. }) => return Err(Errno::EISDIR.into()),
                _ => {}
            }
        }
        if old == Some(ino) {
            return Ok(());
        }
        self.0.change(&mut turn, dir, Change::Rename(from.to_owned(), to.to_owned()));
        if let Some(old) = old {
            turn.world().volumes[self.0.node.volume].prune(old);
        }
        Ok(())
    }

    fn sync(&self) -> io::Result<()> {
        let mut turn = self.0.begin("dir.sync", SELF.as_ref())?;
        if turn.lie {
            return Ok(());
        }
        turn.world().volumes[self.0.node.volume].flush_object(self.0.node.ino);
        Ok(())
    }

    fn sync_all(&self) -> io::Result<()> {
        let mut turn = self.0.begin("dir.sync_all", SELF.as_ref())?;
        if turn.lie {
            return Ok(());
        }
        turn.world().volumes[self.0.node.volume].flush();
        Ok(())
    }

    fn xattrs(&self) -> io::Result<Xattrs> {
        self.0.xattrs("dir.xattrs", SELF.as_ref())
    }

    fn set_xattr(&self, name: &OsStr, value: &[u8]) -> io::Result<()> {
        self.0.set_xattr("dir.set_xattr", SELF.as_ref(), name, value)
    }

    fn remove_xattr(&self, name: &OsStr) -> io::Result<()> {
        self.0.remove_xattr("dir.remove_xattr", SELF.as_ref(), name)
    }

    fn set_owner(&self, uid: u32, gid: u32) -> io::Result<()> {
        self.0.set_owner("dir.set_owner", SELF.as_ref(), uid, gid)
    }

    fn set_mode_and_times(&self, meta: &Meta) -> io::Result<()> {
        self.0.set_mode_and_times("dir.set_mode_and_times", SELF.as_ref(), meta)
    }

    fn set_flags(&self, flags: u32) -> io::Result<()> {
        self.0.set("dir.set_flags", SELF.as_ref(), |a, _| a.flags = flags)
    }

    fn xattrs_of(&self, name: &OsStr) -> io::Result<Xattrs> {
        self.0.xattrs("dir.xattrs_of", name)
    }

    fn set_xattr_of(&self, name: &OsStr, key: &OsStr, value: &[u8]) -> io::Result<()> {
        self.0.set_xattr("dir.set_xattr_of", name, key, value)
    }

    fn remove_xattr_of(&self, name: &OsStr, key: &OsStr) -> io::Result<()> {
        self.0.remove_xattr("dir.remove_xattr_of", name, key)
    }

    fn set_owner_of(&self, name: &OsStr, uid: u32, gid: u32) -> io::Result<()> {
        self.0.set_owner("dir.set_owner_of", name, uid, gid)
    }

    fn set_mode_and_times_of(&self, name: &OsStr, meta: &Meta) -> io::Result<()> {
        self.0.set_mode_and_times("dir.set_mode_and_times_of", name, meta)
    }

    fn set_flags_of(&self, name: &OsStr, flags: u32) -> io::Result<()> {
        self.0.set("dir.set_flags_of", name, |a, _| a.flags = flags)
    }
}

/// An open regular file.
#[derive(Debug)]
pub struct FakeFile {
    handle: Handle,
    position: u64,
    writable: bool,
}

impl FakeFile {
    /// The content; a fifo that is opened without a peer has none.
    fn content<'a>(&self, turn: &'a mut Turn<'_>) -> io::Result<Option<&'a Content>> {
        match &self.handle.tree(turn).get(self.handle.node.ino)?.body {
            Body::File(content) => Ok(Some(content)),
            _ => Ok(None),
        }
    }

    fn begin_write(&self, op: &'static str) -> io::Result<Turn<'_>> {
        let turn = self.handle.begin_change(op, SELF.as_ref())?;
        if self.writable { Ok(turn) } else { Err(Errno::EBADF.into()) }
    }
}

impl Read for FakeFile {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let mut turn = self.handle.begin("file.read", SELF.as_ref())?;
        let length = buffer.len().min(turn.world().transfer_max);
        let content = self.content(&mut turn)?;
        let n = content.map_or(0, |c| c.read(self.position, &mut buffer[..length]));
        drop(turn);
        self.position += n as u64;
        Ok(n)
    }
}

impl Write for FakeFile {
    fn write(&mut self, data: &[u8]) -> io::Result<usize> {
        let mut turn = self.begin_write("file.write")?;
        let data = &data[..data.len().min(turn.world().transfer_max)];
        let length = data.len() as u64;
        let growth = self.content(&mut turn)?.map_or(0, |c| c.growth(self.position, length));
        self.handle.tree(&mut turn).room(growth, 0)?;
        let (node, now, rot) = (self.handle.node, turn.world().now, turn.rot);
        let volume = &mut turn.world().volumes[node.volume];
        if rot {
            volume.write_badly(node.ino, self.position, data, now);
        } else {
            volume.change(node.ino, Change::Write(self.position, data.into()), now);
        }
        drop(turn);
        self.position += length;
        Ok(data.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Seek for FakeFile {
    fn seek(&mut self, position: SeekFrom) -> io::Result<u64> {
        let target = match position {
            SeekFrom::Start(at) => Some(at),
            SeekFrom::Current(by) => self.position.checked_add_signed(by),
            SeekFrom::End(by) => {
                let state = self.handle.machine.lock();
                let node = self.handle.node;
                let meta = state.world.volumes[node.volume].tree().meta(node.ino, 0)?;
                meta.size.checked_add_signed(by)
            }
        };
        self.position = target.ok_or(Errno::EINVAL)?;
        Ok(self.position)
    }
}

impl File for FakeFile {
    fn meta(&self) -> io::Result<Meta> {
        let mut turn = self.handle.begin("file.meta", SELF.as_ref())?;
        Handle::meta_of(&mut turn, self.handle.node)
    }

    fn next_data(&self, from: u64, end: u64) -> io::Result<Option<Range<u64>>> {
        let mut turn = self.handle.begin("file.next_data", SELF.as_ref())?;
        Ok(self.content(&mut turn)?.and_then(|c| c.next_data(from, end)))
    }

    fn set_len(&self, size: u64) -> io::Result<()> {
        let mut turn = self.begin_write("file.set_len")?;
        self.handle.change(&mut turn, self.handle.node.ino, Change::SetLen(size));
        Ok(())
    }

    fn sync(&self) -> io::Result<()> {
        let mut turn = self.handle.begin("file.sync", SELF.as_ref())?;
        if turn.lie {
            return Ok(());
        }
        turn.world().volumes[self.handle.node.volume].flush_object(self.handle.node.ino);
        Ok(())
    }

    fn will_read_once(&self) {}

    fn past_the_cache(&self) {}

    fn xattrs(&self) -> io::Result<Xattrs> {
        self.handle.xattrs("file.xattrs", SELF.as_ref())
    }

    fn set_xattr(&self, name: &OsStr, value: &[u8]) -> io::Result<()> {
        self.handle.set_xattr("file.set_xattr", SELF.as_ref(), name, value)
    }

    fn remove_xattr(&self, name: &OsStr) -> io::Result<()> {
        self.handle.remove_xattr("file.remove_xattr", SELF.as_ref(), name)
    }

    fn set_owner(&self, uid: u32, gid: u32) -> io::Result<()> {
        self.handle.set_owner("file.set_owner", SELF.as_ref(), uid, gid)
    }

    fn set_mode_and_times(&self, meta: &Meta) -> io::Result<()> {
        self.handle.set_mode_and_times("file.set_mode_and_times", SELF.as_ref(), meta)
    }

    fn set_flags(&self, flags: u32) -> io::Result<()> {
        self.handle.set("file.set_flags", SELF.as_ref(), |a, _| a.flags = flags)
    }
}
