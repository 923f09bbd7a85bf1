//! Directories, files and locks of a real system, for both systems alike.

use std::ffi::{CStr, OsStr};
use std::fs::{self, File as StdFile, TryLockError};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::ops::Range;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, IntoRawFd, OwnedFd};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::Path;
use std::ptr::NonNull;

use nix::errno::Errno;
use nix::fcntl::{AtFlags, FcntlArg, OFlag, fcntl, openat};
use nix::libc;
use nix::sys::stat::{Mode, fchmod};
use nix::unistd::{Gid, Uid, UnlinkatFlags, Whence};

use super::platform::{extattr, priority, tree as native};
use super::tree::{Dir, File, Kind, Meta, Names, Xattrs};
use crate::error::{Context, Result};

nix::ioctl_read_bad!(window_size, libc::TIOCGWINSZ, libc::winsize);

/// Opens that only ever lead to a directory, never through a symbolic link.
const DIR_FLAGS: OFlag = OFlag::O_RDONLY
    .union(OFlag::O_DIRECTORY)
    .union(OFlag::O_NOFOLLOW)
    .union(OFlag::O_CLOEXEC)
    .union(native::READ_FLAGS);

/// Lets everybody else have the processor first and, where the system knows such a thing, the media:
/// this thread, those that it starts, and the programs that they run.
pub fn give_way() -> io::Result<()> {
    // SAFETY: setpriority(2): no pointers; 0 is the caller. A value past the end is the end.
    let result = unsafe { libc::setpriority(libc::PRIO_PROCESS, 0, 20) };
    Errno::result(result)?;
    priority::idle_io()
}

/// Opens that lead to a regular file, and never wait: a fifo may have taken its place.
const FILE_FLAGS: OFlag = OFlag::O_NOFOLLOW
    .union(OFlag::O_NONBLOCK)
    .union(OFlag::O_NOCTTY)
    .union(OFlag::O_CLOEXEC)
    .union(native::READ_FLAGS);

/// An open directory.
#[derive(Debug)]
pub struct FdDir(StdFile);

impl FdDir {
    /// Opens a directory by path, following symbolic links in it.
    pub fn open(path: &Path) -> io::Result<Self> {
        let flags = (OFlag::O_DIRECTORY | OFlag::O_CLOEXEC).bits();
        fs::OpenOptions::new().read(true).custom_flags(flags).open(path).map(Self)
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
        let mut stream = Stream::new(openat(self, c".", DIR_FLAGS, Mode::empty())?)?;
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
        native::stat_at(self.as_fd(), name)
    }

    fn open_dir(&self, name: &OsStr) -> io::Result<Self> {
        Ok(Self(openat(self, name, DIR_FLAGS, Mode::empty())?.into()))
    }

    fn open_parent(&self) -> io::Result<Self> {
        Ok(Self(openat(self, c"..", DIR_FLAGS, Mode::empty())?.into()))
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

/// An open regular file.
#[derive(Debug)]
pub struct FdFile(StdFile);

impl AsFd for FdFile {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

impl FdFile {
    /// Sets or clears `O_DIRECT` (fcntl(2)); whether that changed anything.
    fn set_direct(&self, direct: bool) -> bool {
        let Ok(flags) = fcntl(&self.0, FcntlArg::F_GETFL).map(OFlag::from_bits_retain) else {
            return false;
        };
        let wanted = if direct { flags | OFlag::O_DIRECT } else { flags - OFlag::O_DIRECT };
        wanted != flags && fcntl(&self.0, FcntlArg::F_SETFL(wanted)).is_ok()
    }
}

impl Read for FdFile {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match self.0.read(buffer) {
            // No whole sector: the rest of a file, most often.
            Err(e) if e.raw_os_error() == Some(libc::EINVAL) && self.set_direct(false) => {
                self.0.read(buffer)
            }
            read => read,
        }
    }
}

impl Write for FdFile {
    fn write(&mut self, data: &[u8]) -> io::Result<usize> {
        self.0.write(data)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.0.flush()
    }
}

impl Seek for FdFile {
    fn seek(&mut self, position: SeekFrom) -> io::Result<u64> {
        self.0.seek(position)
    }
}

impl File for FdFile {
    fn meta(&self) -> io::Result<Meta> {
        native::stat_fd(self.as_fd())
    }

    fn next_data(&self, from: u64, end: u64) -> io::Result<Option<Range<u64>>> {
        if from >= end {
            return Ok(None);
        }
        let at = i64::try_from(from).map_err(io::Error::other)?;
        let start = match nix::unistd::lseek(self, at, Whence::SeekData) {
            Ok(start) => u64::try_from(start).map_err(io::Error::other)?,
            Err(Errno::ENXIO) => return Ok(None), // only a hole is left
            // lseek(2): the file system does not know holes, so all of it is data.
            Err(Errno::EINVAL | Errno::ENOTTY | Errno::EOPNOTSUPP) => return Ok(Some(from..end)),
            Err(e) => return Err(e.into()),
        };
        if start >= end {
            return Ok(None);
        }
        let at = i64::try_from(start).map_err(io::Error::other)?;
        let hole = nix::unistd::lseek(self, at, Whence::SeekHole)?;
        Ok(Some(start..u64::try_from(hole).map_err(io::Error::other)?.min(end)))
    }

    fn set_len(&self, size: u64) -> io::Result<()> {
        self.0.set_len(size)
    }

    fn sync(&self) -> io::Result<()> {
        self.0.sync_all()
    }

    fn will_read_once(&self) {
        // Advice only: a system that does not take it reads as fast as it does without.
        let _ = nix::fcntl::posix_fadvise(
            self,
            0,
            0,
            nix::fcntl::PosixFadviseAdvice::POSIX_FADV_SEQUENTIAL,
        );
    }

    fn past_the_cache(&self) {
        self.set_direct(true);
    }

    fn xattrs(&self) -> io::Result<Xattrs> {
        extattr::xattrs_fd(self.as_fd())
    }

    fn set_xattr(&self, name: &OsStr, value: &[u8]) -> io::Result<()> {
        extattr::set_xattr_fd(self.as_fd(), name, value)
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
}

fn set_owner(fd: BorrowedFd<'_>, uid: u32, gid: u32) -> io::Result<()> {
    Ok(nix::unistd::fchown(fd, Some(Uid::from_raw(uid)), Some(Gid::from_raw(gid)))?)
}

fn set_mode(fd: BorrowedFd<'_>, mode: u32) -> io::Result<()> {
    Ok(fchmod(fd, mode_bits(mode))?)
}

/// Permission bits in the system's own width (16 bits on FreeBSD).
pub(super) fn mode_bits(mode: u32) -> Mode {
    #[allow(clippy::cast_possible_truncation)] // 12 bits fit both widths
    Mode::from_bits_truncate((mode & 0o7777) as nix::libc::mode_t)
}

/// A held lock file. The lock ends with the process, however that ends (flock(2)); the file stays
/// and is never replaced, so that two runs cannot hold different files of one name.
#[derive(Debug)]
pub struct Lock {
    file: StdFile,
    exclusive: bool,
}

/// The answer to an attempt to lock.
#[derive(Debug)]
pub enum LockState {
    /// It is ours until dropped.
    Held(Lock),
    /// Somebody else's, with what they wrote into it.
    Taken(String),
}

impl Lock {
    /// Tries to take the lock without waiting. A holder of the exclusive lock leaves `note` in the
    /// file; readers share the lock and leave nothing.
    pub fn try_take(path: &Path, exclusive: bool, note: &str) -> Result<LockState> {
        let mut file = fs::OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o644)
            .open(path)
            .doing_to("opening lock", path)?;
        let taken = if exclusive { file.try_lock() } else { file.try_lock_shared() };
        match taken {
            Ok(()) => {
                if exclusive {
                    file.set_len(0).doing_to("writing lock", path)?;
                    file.write_all(note.as_bytes()).doing_to("writing lock", path)?;
                }
                Ok(LockState::Held(Self { file, exclusive }))
            }
            Err(TryLockError::WouldBlock) => {
                let mut note = String::new();
                file.read_to_string(&mut note).doing_to("reading lock", path)?;
                Ok(LockState::Taken(note))
            }
            Err(TryLockError::Error(e)) => Err(e).doing_to("locking", path),
        }
    }
}

impl Drop for Lock {
    fn drop(&mut self) {
        if self.exclusive {
            // An old note without a lock is a dead owner's; a failure here reads just like that.
            let _ = self.file.set_len(0);
        }
    }
}

/// Makes `path` and those above it with mode 0755 whatever the umask is.
pub(super) fn make_dir(path: &Path) -> Result<()> {
    if path.is_dir() {
        return Ok(());
    }
    if let Some(above) = path.parent() {
        make_dir(above)?;
    }
    fs::create_dir(path).doing_to("making directory", path)?;
    fs::set_permissions(path, fs::Permissions::from_mode(0o755)).doing_to("setting mode of", path)
}

/// A file's content, `None` where there is no such file.
pub(super) fn read_file(path: &Path) -> Result<Option<Vec<u8>>> {
    match fs::read(path) {
        Ok(content) => Ok(Some(content)),
        Err(e) if matches!(e.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => {
            Ok(None)
        }
        Err(e) => Err(e).doing_to("reading", path),
    }
}

/// The columns of the terminal that stdout is; `None` where it is none.
pub fn terminal_width() -> Option<usize> {
    let mut size = libc::winsize { ws_row: 0, ws_col: 0, ws_xpixel: 0, ws_ypixel: 0 };
    // SAFETY: TIOCGWINSZ (tty(4), ioctl_tty(2)) writes a winsize at the pointer.
    unsafe { window_size(libc::STDOUT_FILENO, &raw mut size) }.ok()?;
    // A serial line does not know.
    Some(if size.ws_col == 0 { 80 } else { usize::from(size.ws_col) })
}

/// Reads up to `length` bytes at `offset`.
pub(super) fn read_device(device: &Path, offset: u64, length: usize) -> Result<Vec<u8>> {
    let mut file = StdFile::open(device).doing_to("opening", device)?;
    file.seek(SeekFrom::Start(offset)).doing_to("seeking in", device)?;
    let mut data = Vec::new();
    let mut buffer = vec![0; length];
    while data.len() < length {
        match file.read(&mut buffer[..length - data.len()]) {
            Ok(0) => break,
            Ok(n) => data.extend_from_slice(&buffer[..n]),
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            Err(e) => {
                let at = offset + data.len() as u64;
                return Err(e).doing_to("reading", device).map_err(|e| e.at(at));
            }
        }
    }
    Ok(data)
}

#[cfg(test)]
mod tests {
    use super::*;
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
