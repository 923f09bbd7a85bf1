//! Directories, files and locks of a real system, for both systems alike.

mod dir;
mod file;
mod lock;

use std::fs::{self, File as StdFile};
use std::io::{self, Read, Seek, SeekFrom};
use std::os::fd::BorrowedFd;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use nix::errno::Errno;
use nix::libc;
use nix::sys::stat::{Mode, fchmod};
use nix::unistd::{Gid, Uid};

pub(in crate::sys) use self::dir::DIR_FLAGS;
pub use self::dir::FdDir;
pub use self::file::FdFile;
pub use self::lock::{Lock, LockState};
use super::platform::priority;
use crate::error::{Context, Result, if_there};

nix::ioctl_read_bad!(window_size, libc::TIOCGWINSZ, libc::winsize);

/// Lets everybody else have the processor first and, where the system knows such a thing, the media:
/// this thread, those that it starts, and the programs that they run.
pub fn give_way() -> io::Result<()> {
    // SAFETY: setpriority(2): no pointers; 0 is the caller. A value past the end is the end.
    let result = unsafe { libc::setpriority(libc::PRIO_PROCESS, 0, 20) };
    Errno::result(result)?;
    priority::idle_io()
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
    if_there(fs::read(path)).doing_to("reading", path)
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
