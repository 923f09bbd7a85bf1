//! Extended attributes (xattr(7)), through the xattr crate.

use std::ffi::OsStr;
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};
use std::path::Path;
use std::sync::{Mutex, PoisonError};

use nix::errno::Errno;
use xattr::FileExt;

use crate::sys::tree::Xattrs;

/// Serialises the changes of the working directory by [`beside`].
static WORKING_DIRECTORY: Mutex<()> = Mutex::new(());

/// Runs `f` with `dir` as working directory.
///
/// llistxattr(2) and its like take paths, and a path can be longer than `PATH_MAX` or lead
/// elsewhere by the time it is used. A bare name in the working directory cannot. It is left
/// again at once, since it would keep a mount busy.
fn beside<T>(dir: BorrowedFd<'_>, f: impl FnOnce() -> io::Result<T>) -> io::Result<T> {
    let _guard = WORKING_DIRECTORY.lock().unwrap_or_else(PoisonError::into_inner);
    nix::unistd::fchdir(dir)?;
    let result = f();
    std::env::set_current_dir("/")?;
    result
}

/// Whether a file system says that it has no extended attributes at all.
fn without(error: &io::Error) -> bool {
    matches!(error.raw_os_error().map(Errno::from_raw), Some(Errno::EOPNOTSUPP | Errno::ENOSYS))
}

/// Reads all values for the names listed, sorted by name.
fn collect(
    names: io::Result<xattr::XAttrs>,
    value: impl Fn(&OsStr) -> io::Result<Option<Vec<u8>>>,
) -> io::Result<Xattrs> {
    let names = match names {
        Ok(names) => names,
        Err(e) if without(&e) => return Ok(Vec::new()),
        Err(e) => return Err(e),
    };
    let mut all = Vec::new();
    for name in names {
        // None: removed since it was listed; the change of ctime makes the caller look again.
        if let Some(value) = value(&name)? {
            all.push((name, value));
        }
    }
    all.sort_unstable();
    Ok(all)
}

/// A descriptor as the xattr crate takes it.
struct Handle<'a>(BorrowedFd<'a>);

impl AsRawFd for Handle<'_> {
    fn as_raw_fd(&self) -> i32 {
        self.0.as_raw_fd()
    }
}

impl FileExt for Handle<'_> {}

/// All attributes of an open file or directory.
pub(in crate::sys) fn xattrs_fd(fd: BorrowedFd<'_>) -> io::Result<Xattrs> {
    let handle = Handle(fd);
    collect(handle.list_xattr(), |name| handle.get_xattr(name))
}

/// Sets one attribute of an open file or directory.
pub(in crate::sys) fn set_xattr_fd(
    fd: BorrowedFd<'_>,
    key: &OsStr,
    value: &[u8],
) -> io::Result<()> {
    Handle(fd).set_xattr(key, value)
}

/// Removes one attribute of an open file or directory.
pub(in crate::sys) fn remove_xattr_fd(fd: BorrowedFd<'_>, key: &OsStr) -> io::Result<()> {
    Handle(fd).remove_xattr(key)
}

/// All attributes of an entry, a symbolic link itself included.
pub(in crate::sys) fn xattrs_at(dir: BorrowedFd<'_>, name: &OsStr) -> io::Result<Xattrs> {
    let name = Path::new(".").join(name);
    beside(dir, || collect(xattr::list(&name), |key| xattr::get(&name, key)))
}

/// Sets one attribute of an entry.
pub(in crate::sys) fn set_xattr_at(
    dir: BorrowedFd<'_>,
    name: &OsStr,
    key: &OsStr,
    value: &[u8],
) -> io::Result<()> {
    beside(dir, || xattr::set(Path::new(".").join(name), key, value))
}

/// Removes one attribute of an entry.
pub(in crate::sys) fn remove_xattr_at(
    dir: BorrowedFd<'_>,
    name: &OsStr,
    key: &OsStr,
) -> io::Result<()> {
    beside(dir, || xattr::remove(Path::new(".").join(name), key))
}
