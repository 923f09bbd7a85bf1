//! A file system without what is mounted on its directories: a mount of its own, which is in no
//! directory (`open_tree(2)`).

use std::ffi::{CString, OsStr};
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::fcntl::openat;
use nix::libc;
use nix::sys::stat::Mode;

use super::tree;
use crate::error::{Context, Error, Result};
use crate::sys::tree::Meta;
use crate::sys::unix::{DIR_FLAGS, FdDir};

/// What is seen from a handle: what is mounted in the handle's own mount, which may be nothing.
#[derive(Clone, Debug, Default)]
pub(in crate::sys) struct View(());

impl View {
    #[allow(clippy::unused_self)] // another system's needs itself
    pub(in crate::sys) fn open_dir(
        &self,
        dir: BorrowedFd<'_>,
        name: &OsStr,
    ) -> io::Result<OwnedFd> {
        Ok(openat(dir, name, DIR_FLAGS, Mode::empty())?)
    }

    #[allow(clippy::unused_self)] // as above
    pub(in crate::sys) fn stat(&self, dir: BorrowedFd<'_>, name: &OsStr) -> io::Result<Meta> {
        tree::stat_at(dir, name)
    }
}

/// Opens the root of what is mounted on `point`, nothing mounted on it. It needs no unmounting: the
/// mount goes with the last handle into it.
pub(super) fn open(point: &Path) -> Result<FdDir> {
    let operation = "opening";
    let tree = open_tree(point).map_err(|e| match e.raw_os_error().map(Errno::from_raw) {
        Some(Errno::ENOSYS) => {
            Error::refused("what its own mounts cover is seen from Linux 5.2 on").path(point)
        }
        _ => Error::io(operation, &e).path(point),
    })?;
    // The handle of a mount is only for paths (O_PATH).
    let path = PathBuf::from(format!("/proc/self/fd/{}", tree.as_fd().as_raw_fd()));
    let dir = FdDir::open(&path).doing_to(operation, point)?;
    Ok(dir.seen(View(())))
}

fn open_tree(point: &Path) -> io::Result<OwnedFd> {
    let path = CString::new(point.as_os_str().as_bytes())?;
    let flags = libc::OPEN_TREE_CLONE | libc::O_CLOEXEC.cast_unsigned();
    // SAFETY: open_tree(2): the path ends with NUL and outlives the call.
    let fd = unsafe { libc::syscall(libc::SYS_open_tree, libc::AT_FDCWD, path.as_ptr(), flags) };
    let fd = Errno::result(fd)?;
    let fd = RawFd::try_from(fd).map_err(io::Error::other)?;
    // SAFETY: open_tree(2) opened it for the caller alone.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}
