//! Metadata of files on FreeBSD: flags, times with the birth time, special files.

use std::ffi::{CString, OsStr};
use std::fs::File;
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::UnixDatagram;

use nix::errno::Errno;
use nix::fcntl::{AtFlags, OFlag};
use nix::libc::{self, c_int};
use nix::sys::stat::{
    FchmodatFlags, FileStat, Mode, SFlag, UtimensatFlags, fchmodat, fstat, fstatat, futimens,
    mknodat, utimensat,
};
use nix::sys::time::TimeSpec;

use crate::sys::tree::{Kind, Meta, Time};
use crate::sys::unix::mode_bits;

unsafe extern "C" {
    /// bindat(2), which neither libc nor nix declare.
    fn bindat(
        dir: c_int,
        socket: c_int,
        address: *const libc::sockaddr,
        length: libc::socklen_t,
    ) -> c_int;
}

/// FreeBSD has no flag to read without writing access times: a read-only or `noatime` source has
/// none to write.
pub(in crate::sys) const READ_FLAGS: OFlag = OFlag::empty();

/// Birth times can be set, see [`set_times`].
pub(in crate::sys) const KEEPS_BIRTH: bool = true;

fn invalid<E>(_: E) -> io::Error {
    Errno::EINVAL.into()
}

fn time(sec: libc::time_t, nsec: libc::c_long) -> io::Result<Time> {
    Ok(Time { sec, nsec: u32::try_from(nsec).map_err(invalid)? })
}

/// `SF_SNAPSHOT` of chflags(2).
const SNAPSHOT: u32 = 0x0020_0000;

fn meta_of(s: &FileStat) -> io::Result<Meta> {
    let kind = match s.st_mode & libc::S_IFMT {
        libc::S_IFREG => Kind::File,
        libc::S_IFDIR => Kind::Dir,
        libc::S_IFLNK => Kind::Symlink,
        libc::S_IFIFO => Kind::Fifo,
        libc::S_IFSOCK => Kind::Socket,
        libc::S_IFCHR => Kind::Char,
        libc::S_IFBLK => Kind::Block,
        other => return Err(io::Error::other(format!("unknown file type {other:o}"))),
    };
    // What is no device has NODEV here, or nothing in particular.
    let rdev = match kind {
        Kind::Char | Kind::Block => {
            let (major, minor) = (libc::major(s.st_rdev), libc::minor(s.st_rdev));
            (major.cast_unsigned().into(), minor.cast_unsigned().into())
        }
        _ => (0, 0),
    };
    // stat(2): -1 where the file system keeps no birth time.
    let birth = (s.st_birthtime != -1).then(|| time(s.st_birthtime, s.st_birthtime_nsec));
    // A snapshot of the file system that it lies in (mksnap_ffs(8)) reads as all of it. It is nothing
    // anywhere else: empty, as dump(8) has it, and as a later snapshot shows it.
    let snapshot = s.st_flags & SNAPSHOT != 0;
    let length = |n: i64| if snapshot { Ok(0) } else { u64::try_from(n).map_err(invalid) };
    Ok(Meta {
        kind,
        dev: s.st_dev,
        ino: s.st_ino,
        nlink: s.st_nlink,
        mode: u32::from(s.st_mode) & 0o7777,
        uid: s.st_uid,
        gid: s.st_gid,
        size: length(s.st_size)?,
        blocks: length(s.st_blocks)?,
        rdev,
        atime: time(s.st_atime, s.st_atime_nsec)?,
        mtime: time(s.st_mtime, s.st_mtime_nsec)?,
        ctime: time(s.st_ctime, s.st_ctime_nsec)?,
        birth: birth.transpose()?,
        flags: s.st_flags & !SNAPSHOT,
    })
}

/// Metadata of an open file or directory.
pub(in crate::sys) fn stat_fd(fd: BorrowedFd<'_>) -> io::Result<Meta> {
    meta_of(&fstat(fd)?)
}

/// Metadata of an entry, flags included for every kind.
pub(in crate::sys) fn stat_at(dir: BorrowedFd<'_>, name: &OsStr) -> io::Result<Meta> {
    meta_of(&fstatat(dir, name, AtFlags::AT_SYMLINK_NOFOLLOW)?)
}

/// Sets flags. chflags(2): `SF_SNAPSHOT` cannot be set, and a securelevel above 0 keeps `schg`,
/// `sappnd` and `sunlnk` from being cleared.
pub(in crate::sys) fn set_flags_fd(fd: BorrowedFd<'_>, flags: u32) -> io::Result<()> {
    // SAFETY: chflags(2): the descriptor is open for the time of the call.
    let result = unsafe { libc::fchflags(fd.as_raw_fd(), flags.into()) };
    Ok(Errno::result(result).map(drop)?)
}

/// Sets the flags of an entry, a symbolic link itself included. chflags(2) counts as a change of what
/// has them already, so that is left alone.
pub(in crate::sys) fn set_flags_at(
    dir: BorrowedFd<'_>,
    name: &OsStr,
    flags: u32,
) -> io::Result<()> {
    if stat_at(dir, name)?.flags == flags {
        return Ok(());
    }
    let name = CString::new(name.as_bytes()).map_err(invalid)?;
    let at = libc::AT_SYMLINK_NOFOLLOW;
    // SAFETY: chflags(2): the directory is open for the time of the call, the name ends with NUL.
    let result = unsafe { libc::chflagsat(dir.as_raw_fd(), name.as_ptr(), flags.into(), at) };
    Ok(Errno::result(result).map(drop)?)
}

/// Creates a fifo, socket or device.
pub(in crate::sys) fn make_special(
    dir: BorrowedFd<'_>,
    name: &OsStr,
    meta: &Meta,
) -> io::Result<()> {
    let mode = Mode::S_IRUSR | Mode::S_IWUSR;
    let kind = match meta.kind {
        Kind::Fifo => return Ok(nix::unistd::mkfifoat(dir, name, mode)?),
        Kind::Socket => return make_socket(dir, name),
        Kind::Char => SFlag::S_IFCHR,
        Kind::Block => SFlag::S_IFBLK,
        Kind::File | Kind::Dir | Kind::Symlink => return Err(io::ErrorKind::InvalidInput.into()),
    };
    let number = |n: u64| u32::try_from(n).map_err(invalid);
    let device = libc::makedev(number(meta.rdev.0)?, number(meta.rdev.1)?);
    Ok(mknodat(dir, name, kind, mode, device)?)
}

/// mknod(2) makes no sockets here: one is bound and closed, which leaves its name. The name has to
/// fit into an address, as it had to when the source's socket was bound.
fn make_socket(dir: BorrowedFd<'_>, name: &OsStr) -> io::Result<()> {
    let mut address = libc::sockaddr_un {
        sun_len: 0,
        sun_family: libc::AF_UNIX.try_into().map_err(invalid)?,
        sun_path: [0; 104],
    };
    let name_bytes = name.as_bytes();
    if name_bytes.contains(&0) {
        return Err(Errno::EINVAL.into());
    }
    let room = address.sun_path.get_mut(..name_bytes.len()).ok_or(Errno::ENAMETOOLONG)?;
    for (to, &from) in room.iter_mut().zip(name_bytes) {
        *to = from.cast_signed();
    }
    // unix(4): SUN_LEN, without a NUL.
    let length = std::mem::offset_of!(libc::sockaddr_un, sun_path) + name_bytes.len();
    address.sun_len = length.try_into().map_err(invalid)?;
    let length = length.try_into().map_err(invalid)?;
    let socket = UnixDatagram::unbound()?;
    let pointer = (&raw const address).cast();
    // SAFETY: bindat(2): both descriptors are open for the time of the call, `length` bytes of the
    // address are behind the pointer.
    let result = unsafe { bindat(dir.as_raw_fd(), socket.as_raw_fd(), pointer, length) };
    Errno::result(result)?;
    // The new name has all bits that the umask leaves.
    set_mode_at(dir, name, Kind::Socket, 0o600)
}

/// Sets the mode of an entry; a symbolic link has one of its own here.
pub(in crate::sys) fn set_mode_at(
    dir: BorrowedFd<'_>,
    name: &OsStr,
    _kind: Kind,
    mode: u32,
) -> io::Result<()> {
    Ok(fchmodat(dir, name, mode_bits(mode), FchmodatFlags::NoFollowSymlink)?)
}

/// Sets the times of an object through `set`, which takes access and modification time.
///
/// utimensat(2): the birth time cannot be set, but a modification time older than it takes it
/// along. So the modification time is first set to the wanted birth time and then to its own. That
/// way the birth time can only go down: it becomes the wanted one on everything made for this copy,
/// unless it is newer than the modification time, which takes it along as well. And a time of
/// exactly one second before 1970 means "leave it" inside the kernel.
fn set_times(meta: &Meta, set: impl Fn(&TimeSpec, &TimeSpec) -> nix::Result<()>) -> io::Result<()> {
    let spec = |t: Time| TimeSpec::new(t.sec, t.nsec.into());
    let (atime, mtime) = (spec(meta.atime), spec(meta.mtime));
    if let Some(birth) = meta.birth.filter(|&birth| birth < meta.mtime) {
        set(&atime, &spec(birth))?;
    }
    Ok(set(&atime, &mtime)?)
}

/// Sets birth, access and modification time.
pub(in crate::sys) fn set_times_of(file: &File, meta: &Meta) -> io::Result<()> {
    set_times(meta, |atime, mtime| futimens(file, atime, mtime))
}

/// The same for an entry, a symbolic link itself included.
pub(in crate::sys) fn set_times_at(
    dir: BorrowedFd<'_>,
    name: &OsStr,
    meta: &Meta,
) -> io::Result<()> {
    let follow = UtimensatFlags::NoFollowSymlink;
    set_times(meta, |atime, mtime| utimensat(dir, name, atime, mtime, follow))
}

/// Starts writing everything, and waits for the directory.
///
/// There is no syncfs(2) here, and sync(2) neither waits nor reports. Nothing is lost by that: UFS
/// keeps a block that could not be written and tries again, and the unmount that follows waits for
/// all of them and fails with the error (see [`unmount`](super::mount::unmount)).
pub(in crate::sys) fn sync_all(dir: BorrowedFd<'_>) -> io::Result<()> {
    nix::unistd::sync();
    Ok(nix::unistd::fsync(dir)?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs::{self, File};
    use std::os::fd::AsFd;
    use std::os::unix::fs::symlink;

    fn temp() -> (tempfile::TempDir, File) {
        let dir = tempfile::tempdir().unwrap();
        let handle = File::open(dir.path()).unwrap();
        (dir, handle)
    }

    fn name(text: &str) -> &OsStr {
        OsStr::new(text)
    }

    #[test]
    fn birth_access_and_modification_time_are_set_on_links_and_files() {
        let (path, dir) = temp();
        fs::write(path.path().join("f"), "x").unwrap();
        symlink("nowhere", path.path().join("l")).unwrap();
        for entry in ["f", "l"] {
            let mut meta = stat_at(dir.as_fd(), name(entry)).unwrap();
            meta.birth = Some(Time { sec: 1_000_000_000, nsec: 123_456_000 });
            meta.mtime = Time { sec: 1_100_000_000, nsec: 7_000 };
            meta.atime = Time { sec: 1_200_000_000, nsec: 0 };
            set_times_at(dir.as_fd(), name(entry), &meta).unwrap();
            let found = stat_at(dir.as_fd(), name(entry)).unwrap();
            assert_eq!(
                (found.birth, found.mtime, found.atime),
                (meta.birth, meta.mtime, meta.atime)
            );
        }
        let file = File::open(path.path().join("f")).unwrap();
        let mut meta = stat_fd(file.as_fd()).unwrap();
        meta.mtime = Time { sec: -5, nsec: 1_000 };
        set_times_of(&file, &meta).unwrap();
        let found = stat_fd(file.as_fd()).unwrap();
        // An older modification time takes the birth time along.
        assert_eq!((found.mtime, found.birth), (meta.mtime, Some(meta.mtime)));
    }

    #[test]
    fn links_have_flags_and_modes_of_their_own() {
        let (path, dir) = temp();
        symlink("nowhere", path.path().join("l")).unwrap();
        set_mode_at(dir.as_fd(), name("l"), Kind::Symlink, 0o640).unwrap();
        set_flags_at(dir.as_fd(), name("l"), 1).unwrap(); // UF_NODUMP
        let found = stat_at(dir.as_fd(), name("l")).unwrap();
        assert_eq!((found.kind, found.mode, found.flags), (Kind::Symlink, 0o640, 1));
        set_flags_fd(dir.as_fd(), 1).unwrap();
        assert_eq!(stat_fd(dir.as_fd()).unwrap().flags, 1);
    }

    #[test]
    fn special_files_are_made() {
        let (_path, dir) = temp();
        let mut meta = stat_fd(dir.as_fd()).unwrap();
        let longest = "s".repeat(104);
        for (entry, kind) in
            [("fifo", Kind::Fifo), ("sock", Kind::Socket), (&longest, Kind::Socket)]
        {
            meta.kind = kind;
            make_special(dir.as_fd(), name(entry), &meta).unwrap();
            let found = stat_at(dir.as_fd(), name(entry)).unwrap();
            assert_eq!((found.kind, found.mode, found.rdev), (kind, 0o600, (0, 0)));
        }
        let error = make_special(dir.as_fd(), name(&"s".repeat(105)), &meta).unwrap_err();
        assert_eq!(error.raw_os_error(), Some(libc::ENAMETOOLONG));
        if nix::unistd::geteuid().is_root() {
            for kind in [Kind::Char, Kind::Block] {
                (meta.kind, meta.rdev) = (kind, (0x1234, 0x0056_0078));
                let entry = format!("{kind:?}");
                make_special(dir.as_fd(), name(&entry), &meta).unwrap();
                let found = stat_at(dir.as_fd(), name(&entry)).unwrap();
                assert_eq!((found.kind, found.rdev), (kind, meta.rdev));
            }
        }
    }

    #[test]
    fn everything_is_synced() {
        let (_path, dir) = temp();
        sync_all(dir.as_fd()).unwrap();
    }
}
