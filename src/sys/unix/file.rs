//! Regular files.

use std::ffi::OsStr;
use std::fs::File as StdFile;
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::ops::Range;
use std::os::fd::{AsFd, BorrowedFd};

use nix::errno::Errno;
use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::libc;
use nix::unistd::Whence;

use super::{set_mode, set_owner};
use crate::sys::platform::{extattr, tree as native};
use crate::sys::tree::{File, Meta, Xattrs};

/// An open regular file.
#[derive(Debug)]
pub struct FdFile(pub(super) StdFile);

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
}
