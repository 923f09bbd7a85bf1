//! Directories, by their handles.

use std::ffi::{CStr, OsStr};
use std::fs::{self, File as StdFile};
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, IntoRawFd, OwnedFd};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::ptr::NonNull;

use nix::errno::Errno;
use nix::fcntl::{AtFlags, OFlag, openat};
use nix::libc;
use nix::sys::stat::Mode;
use nix::unistd::{Gid, Uid, UnlinkatFlags};

use super::{FdFile, set_mode, set_owner};
use crate::sys::platform::{View, extattr, tree as native};
use crate::sys::tree::{Dir, Kind, Meta, Names, Xattrs};

/// Opens that only ever lead to a directory, never through a symbolic link.
pub(in crate::sys) const DIR_FLAGS: OFlag = OFlag::O_RDONLY
    .union(OFlag::O_DIRECTORY)
    .union(OFlag::O_NOFOLLOW)
    .union(OFlag::O_CLOEXEC)
    .union(native::READ_FLAGS);

/// Opens that lead to a regular file, and never wait: a fifo may have taken its place.
const FILE_FLAGS: OFlag = OFlag::O_NOFOLLOW
    .union(OFlag::O_NONBLOCK)
    .union(OFlag::O_NOCTTY)
    .union(OFlag::O_CLOEXEC)
    .union(native::READ_FLAGS);

/// An open directory, and what is seen from it.
#[derive(Debug)]
pub struct FdDir(StdFile, View);

impl FdDir {
    /// Opens a directory by path, following symbolic links in it.
    pub fn open(path: &Path) -> io::Result<Self> {
        let flags = (OFlag::O_DIRECTORY | OFlag::O_CLOEXEC).bits();
        let file = fs::OpenOptions::new().read(true).custom_flags(flags).open(path)?;
        Ok(Self(file, View::default()))
    }

    /// The same directory with another view.
    pub(in crate::sys) fn seen(self, view: View) -> Self {
        Self(self.0, view)
    }
}

impl AsFd for FdDir {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

/// A directory stream. nix's loses the descriptor where fdopendir(3) fails, and FreeBSD's reads the
/// first entries at once: one directory that cannot be read would keep its file system mounted.
struct Stream(NonNull<libc::DIR>);

impl Stream {
    fn new(fd: OwnedFd) -> io::Result<Self> {
        // SAFETY: fdopendir(3): the descriptor is open; where it fails, it is still ours.
        let stream = unsafe { libc::fdopendir(fd.as_raw_fd()) };
        let stream = NonNull::new(stream).ok_or_else(io::Error::last_os_error)?;
        // The stream's own from here on.
        let _ = fd.into_raw_fd();
        Ok(Self(stream))
    }

    /// The next name, good until the one after it is asked for, and its kind where that is told.
    fn next(&mut self) -> io::Result<Option<(&CStr, Option<Kind>)>> {
        Errno::clear();
        // SAFETY: readdir(3): the stream is open, and nobody else reads it.
        let entry = unsafe { libc::readdir(self.0.as_ptr()) };
        if entry.is_null() {
            // At the end errno stays as it was.
            return if Errno::last_raw() == 0 { Ok(None) } else { Err(io::Error::last_os_error()) };
        }
        // SAFETY: readdir(3) returned a record, which begins with this fixed part.
        let kind = unsafe { (*entry).d_type };
        // SAFETY: the place of the name in it, of which no more is touched than there is.
        let name = unsafe { &raw const (*entry).d_name };
        // SAFETY: the name ends with NUL and stays until the stream is read again or closed.
        let name = unsafe { CStr::from_ptr(name.cast()) };
        Ok(Some((name, kind_of(kind))))
    }
}

impl Drop for Stream {
    fn drop(&mut self) {
        // SAFETY: closedir(3): the stream is open and not used any more.
        unsafe { libc::closedir(self.0.as_ptr()) };
    }
}

fn kind_of(kind: u8) -> Option<Kind> {
    Some(match kind {
        libc::DT_FIFO => Kind::Fifo,
        libc::DT_CHR => Kind::Char,
        libc::DT_DIR => Kind::Dir,
        libc::DT_BLK => Kind::Block,
        libc::DT_REG => Kind::File,
        libc::DT_LNK => Kind::Symlink,
        libc::DT_SOCK => Kind::Socket,
        _ => return None,
    })
}

impl Dir for FdDir {
    type File = FdFile;
    const KEEPS_BIRTH: bool = native::KEEPS_BIRTH;

    fn meta(&self) -> io::Result<Meta> {
        native::stat_fd(self.as_fd())
    }

    fn names(&self) -> io::Result<Names> {
        // A fresh open, since reading moves the handle's position.
        let mut stream = Stream::new(self.1.open_dir(self.as_fd(), OsStr::new("."))?)?;
        let mut names = Names::default();
        while let Some((name, kind)) = stream.next()? {
            if name != c"." && name != c".." {
                names.push(name.to_bytes(), kind);
            }
        }
        names.sort();
        Ok(names)
    }

    fn stat(&self, name: &OsStr) -> io::Result<Meta> {
        self.1.stat(self.as_fd(), name)
    }

    fn open_dir(&self, name: &OsStr) -> io::Result<Self> {
        Ok(Self(self.1.open_dir(self.as_fd(), name)?.into(), self.1.clone()))
    }

    fn open_parent(&self) -> io::Result<Self> {
        self.open_dir(OsStr::new(".."))
    }

    fn open_file(&self, name: &OsStr) -> io::Result<FdFile> {
        Ok(FdFile(openat(self, name, FILE_FLAGS | OFlag::O_RDONLY, Mode::empty())?.into()))
    }

    fn open_to_change(&self, name: &OsStr) -> io::Result<FdFile> {
        Ok(FdFile(openat(self, name, FILE_FLAGS | OFlag::O_RDWR, Mode::empty())?.into()))
    }

    fn create_file(&self, name: &OsStr) -> io::Result<FdFile> {
        let flags =
            OFlag::O_RDWR | OFlag::O_CREAT | OFlag::O_EXCL | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
        Ok(FdFile(openat(self, name, flags, Mode::S_IRUSR | Mode::S_IWUSR)?.into()))
    }

    fn make_dir(&self, name: &OsStr) -> io::Result<()> {
        Ok(nix::sys::stat::mkdirat(self, name, Mode::S_IRWXU)?)
    }

    fn make_special(&self, name: &OsStr, meta: &Meta) -> io::Result<()> {
        native::make_special(self.as_fd(), name, meta)
    }

    fn make_symlink(&self, name: &OsStr, target: &[u8]) -> io::Result<()> {
        Ok(nix::unistd::symlinkat(OsStr::from_bytes(target), self, name)?)
    }

    fn read_link(&self, name: &OsStr) -> io::Result<Vec<u8>> {
        Ok(nix::fcntl::readlinkat(self, name)?.into_vec())
    }

    fn make_link(&self, name: &OsStr, from: &Self, original: &OsStr) -> io::Result<()> {
        Ok(nix::unistd::linkat(from, original, self, name, AtFlags::empty())?)
    }

    fn remove_file(&self, name: &OsStr) -> io::Result<()> {
        Ok(nix::unistd::unlinkat(self, name, UnlinkatFlags::NoRemoveDir)?)
    }

    fn remove_dir(&self, name: &OsStr) -> io::Result<()> {
        Ok(nix::unistd::unlinkat(self, name, UnlinkatFlags::RemoveDir)?)
    }

    fn rename(&self, from: &OsStr, to: &OsStr) -> io::Result<()> {
        Ok(nix::fcntl::renameat(self, from, self, to)?)
    }

    fn sync(&self) -> io::Result<()> {
        self.0.sync_all()
    }

    fn sync_all(&self) -> io::Result<()> {
        native::sync_all(self.as_fd())
    }

    fn xattrs(&self) -> io::Result<Xattrs> {
        extattr::xattrs_fd(self.as_fd())
    }

    fn set_xattr(&self, name: &OsStr, value: &[u8]) -> io::Result<()> {
        extattr::set_xattr_fd(self.as_fd(), name, value)
    }

    fn remove_xattr(&self, name: &OsStr) -> io::Result<()> {
        extattr::remove_xattr_fd(self.as_fd(), name)
    }

    fn set_owner(&self, uid: u32, gid: u32) -> io::Result<()> {
        set_owner(self.as_fd(), uid, gid)
    }

    fn set_mode_and_times(&self, meta: &Meta) -> io::Result<()> {
        set_mode(self.as_fd(), meta.mode)?;
        native::set_times_of(&self.0, meta)
    }

    fn set_flags(&self, flags: u32) -> io::Result<()> {
        native::set_flags_fd(self.as_fd(), flags)
    }

    fn xattrs_of(&self, name: &OsStr) -> io::Result<Xattrs> {
        extattr::xattrs_at(self.as_fd(), name)
    }

    fn set_xattr_of(&self, name: &OsStr, key: &OsStr, value: &[u8]) -> io::Result<()> {
        extattr::set_xattr_at(self.as_fd(), name, key, value)
    }

    fn remove_xattr_of(&self, name: &OsStr, key: &OsStr) -> io::Result<()> {
        extattr::remove_xattr_at(self.as_fd(), name, key)
    }

    fn set_owner_of(&self, name: &OsStr, uid: u32, gid: u32) -> io::Result<()> {
        let (uid, gid) = (Some(Uid::from_raw(uid)), Some(Gid::from_raw(gid)));
        Ok(nix::unistd::fchownat(self, name, uid, gid, AtFlags::AT_SYMLINK_NOFOLLOW)?)
    }

    fn set_mode_and_times_of(&self, name: &OsStr, meta: &Meta) -> io::Result<()> {
        native::set_mode_at(self.as_fd(), name, meta.kind, meta.mode)?;
        native::set_times_at(self.as_fd(), name, meta)
    }

    fn set_flags_of(&self, name: &OsStr, flags: u32) -> io::Result<()> {
        native::set_flags_at(self.as_fd(), name, flags)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Read;
    use std::os::unix::net::UnixStream;
    use std::time::Duration;

    #[test]
    fn what_cannot_be_listed_is_closed_again() {
        let (mut end, other) = UnixStream::pair().unwrap();
        assert!(Stream::new(other.into()).is_err());
        // Only once the other end is closed there is an end to read; else the time runs out.
        end.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
        assert_eq!(end.read(&mut [0]).unwrap(), 0);
    }
}
