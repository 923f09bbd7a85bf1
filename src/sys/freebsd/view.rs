//! A file system without what is mounted on its directories: those are opened by their file handles
//! (fhopen(2)), since every path through them leads into what is mounted there.

use std::ffi::OsStr;
use std::fmt;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, FromRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::sync::Arc;

use nix::dir::Dir;
use nix::errno::Errno;
use nix::fcntl::openat;
use nix::libc;
use nix::sys::stat::{Mode, fstat};

use super::{mount, tree};
use crate::error::{Context, Result};
use crate::sys::Generation;
use crate::sys::tree::Meta;
use crate::sys::unix::{DIR_FLAGS, FdDir};

/// `struct ufid` of ufs/ufs/inode.h, the file identifier of a UFS: its own length, the number of an
/// inode and its generation.
const UFID: u16 = 12;

/// What is seen from a handle: everything, or one file system alone.
#[derive(Clone, Debug, Default)]
pub(in crate::sys) struct View(Option<Arc<Alone>>);

/// One mounted UFS.
struct Alone {
    /// As stat(2) tells it.
    device: libc::dev_t,
    /// As statfs(2) tells it.
    id: [i64; 2],
    generation: Generation,
}

impl fmt::Debug for Alone {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Alone")
            .field("device", &self.device)
            .field("id", &self.id)
            .finish_non_exhaustive()
    }
}

impl View {
    /// Opens a directory by its name in `dir`, `.` and `..` too: from a covered directory even they
    /// lead into what is mounted there.
    pub(in crate::sys) fn open_dir(
        &self,
        dir: BorrowedFd<'_>,
        name: &OsStr,
    ) -> io::Result<OwnedFd> {
        let opened = openat(dir, name, DIR_FLAGS, Mode::empty())?;
        match &self.0 {
            Some(alone) if fstat(&opened)?.st_dev != alone.device => alone.open(dir, name),
            _ => Ok(opened),
        }
    }

    pub(in crate::sys) fn stat(&self, dir: BorrowedFd<'_>, name: &OsStr) -> io::Result<Meta> {
        let meta = tree::stat_at(dir, name)?;
        match &self.0 {
            Some(alone) if meta.dev != alone.device => {
                tree::stat_fd(alone.open(dir, name)?.as_fd())
            }
            _ => Ok(meta),
        }
    }
}

impl Alone {
    /// Opens a directory that something is mounted on.
    fn open(&self, dir: BorrowedFd<'_>, name: &OsStr) -> io::Result<OwnedFd> {
        let number = fstat(dir)?.st_ino;
        if name == "." {
            return self.open_inode(number);
        }
        // What was made a moment ago has no generation on the medium yet. fsync(2) of a directory
        // writes the inodes of its entries first.
        if let Err(e) = nix::unistd::fsync(dir)
            && e != Errno::EROFS
        {
            return Err(e.into());
        }
        // Reading moves the position of a handle: another one.
        for entry in Dir::from_fd(self.open_inode(number)?)?.iter() {
            let entry = entry?;
            if entry.file_name().to_bytes() == name.as_bytes() {
                return self.open_inode(entry.ino());
            }
        }
        Err(Errno::ENOENT.into())
    }

    fn open_inode(&self, number: u64) -> io::Result<OwnedFd> {
        let generation = (self.generation)(number)?;
        let number = u32::try_from(number).map_err(io::Error::other)?;
        let mut identifier = [0; UFID as usize];
        identifier[..2].copy_from_slice(&UFID.to_ne_bytes());
        identifier[4..8].copy_from_slice(&number.to_ne_bytes());
        identifier[8..].copy_from_slice(&generation.to_ne_bytes());
        let mut handle = [0_u8; size_of::<libc::fhandle>()];
        for (place, half) in handle.chunks_exact_mut(4).zip(self.id) {
            let half = i32::try_from(half).map_err(io::Error::other)?;
            place.copy_from_slice(&half.to_ne_bytes());
        }
        handle[8..8 + identifier.len()].copy_from_slice(&identifier);
        // The alignment of its integers.
        let mut aligned = [0_u32; size_of::<libc::fhandle>().div_ceil(4)];
        for (word, bytes) in aligned.iter_mut().zip(handle.chunks_exact(4)) {
            *word = u32::from_ne_bytes(bytes.try_into().map_err(io::Error::other)?);
        }
        // SAFETY: fhopen(2): the pointer leads to a file handle, which is only read.
        let fd = unsafe { libc::fhopen(aligned.as_ptr().cast(), DIR_FLAGS.bits()) };
        let fd = Errno::result(fd)?;
        // SAFETY: fhopen(2) opened it for the caller alone.
        Ok(unsafe { OwnedFd::from_raw_fd(fd) })
    }
}

/// Opens the root of the UFS that is mounted on `point`.
pub(super) fn open(point: &Path, generation: Generation) -> Result<FdDir> {
    let dir = FdDir::open(point).doing_to("opening", point)?;
    let device = fstat(&dir).map_err(io::Error::from).doing_to("reading", point)?.st_dev;
    let id = mount::mount_at(point).doing_to("asking what is mounted on", point)?.id;
    Ok(dir.seen(View(Some(Arc::new(Alone { device, id, generation })))))
}
