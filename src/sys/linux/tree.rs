//! Metadata of files on Linux: statx(2), inode flags, times.

use std::ffi::{CString, OsStr};
use std::fs::File;
use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;

use filetime::FileTime;
use nix::fcntl::{OFlag, openat};
use nix::libc;
use nix::sys::stat::{FchmodatFlags, Mode, SFlag, UtimensatFlags, fchmodat, mknodat, utimensat};
use nix::sys::time::TimeSpec;

use crate::sys::tree::{Kind, Meta, Time};
use crate::sys::unix::mode_bits;

/// Reading the source must not write access times to it. Only the owner and root may ask for it.
pub(in crate::sys) const READ_FLAGS: OFlag = OFlag::O_NOATIME;

/// Linux tells the birth time and cannot set it.
pub(in crate::sys) const KEEPS_BIRTH: bool = false;

// Inode flags that mean something to a copy and that every file system with such flags can be
// asked to set (linux/fs.h, chattr(1)); the others describe the storage (extents, inline data, …).
const FS_SYNC_FL: u32 = 0x8;
const FS_IMMUTABLE_FL: u32 = 0x10;
const FS_APPEND_FL: u32 = 0x20;
const FS_NODUMP_FL: u32 = 0x40;
const FS_NOATIME_FL: u32 = 0x80;
const FS_DIRSYNC_FL: u32 = 0x1_0000;
const COPIED_FLAGS: u32 =
    FS_SYNC_FL | FS_IMMUTABLE_FL | FS_APPEND_FL | FS_NODUMP_FL | FS_NOATIME_FL | FS_DIRSYNC_FL;

nix::ioctl_read!(fs_ioc_getflags, b'f', 1, libc::c_long);
nix::ioctl_write_ptr!(fs_ioc_setflags, b'f', 2, libc::c_long);

fn time(t: libc::statx_timestamp) -> Time {
    Time { sec: t.tv_sec, nsec: t.tv_nsec }
}

/// statx(2), which unlike stat(2) tells the birth time.
fn statx(dir: BorrowedFd<'_>, name: &OsStr, flags: i32) -> io::Result<Meta> {
    let name =
        CString::new(name.as_bytes()).map_err(|_| io::Error::from_raw_os_error(libc::EINVAL))?;
    let mask = libc::STATX_BASIC_STATS | libc::STATX_BTIME;
    let mut buffer = MaybeUninit::<libc::statx>::zeroed();
    // SAFETY: statx(2): dir is open, name ends with NUL, the buffer is a statx, all outlive the call.
    let result =
        unsafe { libc::statx(dir.as_raw_fd(), name.as_ptr(), flags, mask, buffer.as_mut_ptr()) };
    if result != 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: statx(2) filled it; it was zeroed before, and any bits are valid for its integers.
    let s = unsafe { buffer.assume_init() };
    let kind = match libc::mode_t::from(s.stx_mode) & libc::S_IFMT {
        libc::S_IFREG => Kind::File,
        libc::S_IFDIR => Kind::Dir,
        libc::S_IFLNK => Kind::Symlink,
        libc::S_IFIFO => Kind::Fifo,
        libc::S_IFSOCK => Kind::Socket,
        libc::S_IFCHR => Kind::Char,
        libc::S_IFBLK => Kind::Block,
        other => return Err(io::Error::other(format!("unknown file type {other:o}"))),
    };
    Ok(Meta {
        kind,
        dev: libc::makedev(s.stx_dev_major, s.stx_dev_minor),
        ino: s.stx_ino,
        nlink: u64::from(s.stx_nlink),
        mode: u32::from(s.stx_mode) & 0o7777,
        uid: s.stx_uid,
        gid: s.stx_gid,
        size: s.stx_size,
        blocks: s.stx_blocks,
        rdev: (u64::from(s.stx_rdev_major), u64::from(s.stx_rdev_minor)),
        atime: time(s.stx_atime),
        mtime: time(s.stx_mtime),
        ctime: time(s.stx_ctime),
        birth: (s.stx_mask & libc::STATX_BTIME != 0).then(|| time(s.stx_btime)),
        flags: 0,
    })
}

/// Metadata of an open file or directory, its inode flags among them.
pub(in crate::sys) fn stat_fd(fd: BorrowedFd<'_>) -> io::Result<Meta> {
    let mut meta = statx(fd, OsStr::new(""), libc::AT_EMPTY_PATH)?;
    if matches!(meta.kind, Kind::File | Kind::Dir) {
        meta.flags = flags(fd)? & COPIED_FLAGS;
    }
    Ok(meta)
}

/// Metadata of an entry. Its inode flags need an open file: 0 here.
pub(in crate::sys) fn stat_at(dir: BorrowedFd<'_>, name: &OsStr) -> io::Result<Meta> {
    statx(dir, name, libc::AT_SYMLINK_NOFOLLOW)
}

/// A file system that has no inode flags has none set.
fn flags(fd: BorrowedFd<'_>) -> io::Result<u32> {
    let mut flags: libc::c_long = 0;
    // SAFETY: ioctl_iflags(2): FS_IOC_GETFLAGS writes an int at the pointer, which is large enough.
    match unsafe { fs_ioc_getflags(fd.as_raw_fd(), &raw mut flags) } {
        // The kernel reads and writes an int here, whatever the ioctl's declared size.
        Ok(_) => Ok(u32::try_from(flags & 0xffff_ffff).unwrap_or(0)),
        Err(nix::errno::Errno::ENOTTY | nix::errno::Errno::EOPNOTSUPP) => Ok(0),
        Err(e) => Err(e.into()),
    }
}

/// Sets the inode flags that a copy keeps, leaving those that describe the storage.
pub(in crate::sys) fn set_flags_fd(fd: BorrowedFd<'_>, wanted: u32) -> io::Result<()> {
    let present = flags(fd)?;
    let new = libc::c_long::from((present & !COPIED_FLAGS) | (wanted & COPIED_FLAGS));
    if new == libc::c_long::from(present) {
        return Ok(());
    }
    // SAFETY: ioctl_iflags(2): FS_IOC_SETFLAGS reads an int at the pointer, which is large enough.
    unsafe { fs_ioc_setflags(fd.as_raw_fd(), &raw const new) }?;
    Ok(())
}

/// Sets the inode flags of a file or directory by name.
pub(in crate::sys) fn set_flags_at(
    dir: BorrowedFd<'_>,
    name: &OsStr,
    flags: u32,
) -> io::Result<()> {
    let open = OFlag::O_RDONLY | OFlag::O_NOFOLLOW | OFlag::O_NONBLOCK | OFlag::O_CLOEXEC;
    let fd: OwnedFd = openat(dir, name, open, Mode::empty())?;
    set_flags_fd(fd.as_fd(), flags)
}

/// Creates a fifo, socket or device.
pub(in crate::sys) fn make_special(
    dir: BorrowedFd<'_>,
    name: &OsStr,
    meta: &Meta,
) -> io::Result<()> {
    let kind = match meta.kind {
        Kind::Fifo => SFlag::S_IFIFO,
        Kind::Socket => SFlag::S_IFSOCK,
        Kind::Char => SFlag::S_IFCHR,
        Kind::Block => SFlag::S_IFBLK,
        Kind::File | Kind::Dir | Kind::Symlink => return Err(io::ErrorKind::InvalidInput.into()),
    };
    let device = nix::sys::stat::makedev(meta.rdev.0, meta.rdev.1);
    Ok(mknodat(dir, name, kind, Mode::S_IRUSR | Mode::S_IWUSR, device)?)
}

/// Sets the mode of an entry. A symbolic link has none on Linux (symlink(7)).
pub(in crate::sys) fn set_mode_at(
    dir: BorrowedFd<'_>,
    name: &OsStr,
    kind: Kind,
    mode: u32,
) -> io::Result<()> {
    if kind == Kind::Symlink {
        return Ok(());
    }
    Ok(fchmodat(dir, name, mode_bits(mode), FchmodatFlags::FollowSymlink)?)
}

fn spec(time: Time) -> TimeSpec {
    TimeSpec::new(time.sec, i64::from(time.nsec))
}

/// Sets access and modification time. Linux cannot set the birth time.
pub(in crate::sys) fn set_times_of(file: &File, meta: &Meta) -> io::Result<()> {
    let time = |t: Time| FileTime::from_unix_time(t.sec, t.nsec);
    filetime::set_file_handle_times(file, Some(time(meta.atime)), Some(time(meta.mtime)))
}

/// The same for an entry, a symbolic link itself included.
pub(in crate::sys) fn set_times_at(
    dir: BorrowedFd<'_>,
    name: &OsStr,
    meta: &Meta,
) -> io::Result<()> {
    let (atime, mtime) = (spec(meta.atime), spec(meta.mtime));
    Ok(utimensat(dir, name, &atime, &mtime, UtimensatFlags::NoFollowSymlink)?)
}

/// syncfs(2), which since Linux 5.8 reports what earlier writing back could not write.
pub(in crate::sys) fn sync_all(dir: BorrowedFd<'_>) -> io::Result<()> {
    Ok(nix::unistd::syncfs(dir)?)
}
