//! The mount table (getfsstat(2)), nmount(2) and unmount(2).

use std::ffi::{CString, OsStr};
use std::io;
use std::mem::offset_of;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::libc::{self, c_int, c_long};
use nix::mount::{MntFlags, Nmount};

use super::sysctl::{int_at, long_at, text_at};
use crate::error::{Context, Error, Kind, Result};
use crate::mounts::Mount;
use crate::sys::Access;

/// statfs(2)'s structure in 64-bit words, its own alignment.
const WORDS: usize = size_of::<libc::statfs>() / size_of::<u64>();

/// `MFSNAMELEN` and `MNAMELEN` of sys/mount.h.
const TYPE_ROOM: usize = 16;
const NAME_ROOM: usize = 1024;

/// All mounts, in the order in which they were mounted, so that of several at one point the lowest
/// comes first. `MNT_NOWAIT`: a dead file system is told of and not asked. Only root is told the
/// ids, for others they are zero.
pub(super) fn mounts() -> Result<Vec<Mount>> {
    let mut count = getfsstat(&mut []).doing("counting mounts")?;
    loop {
        // A full answer may be a cut one: there must be room left.
        let mut buffer = vec![0; (count + 8) * WORDS];
        let filled = getfsstat(&mut buffer).doing("reading the mount table")?;
        if filled < count + 8 {
            return Ok(buffer.chunks_exact(WORDS).take(filled).filter_map(mount_of).collect());
        }
        count = filled;
    }
}

/// The mount that a path leads into.
pub(super) fn mount_at(path: &Path) -> io::Result<Mount> {
    let path = c_string(path.as_os_str())?;
    let mut buffer = vec![0_u64; WORDS];
    // SAFETY: statfs(2): the path ends with NUL, the buffer has a statfs's size and alignment.
    let result = unsafe { libc::statfs(path.as_ptr(), buffer.as_mut_ptr().cast()) };
    Errno::result(result)?;
    mount_of(&buffer).ok_or_else(|| io::ErrorKind::InvalidData.into())
}

/// Fills the buffer and returns how many structures it holds, or without one how many there are.
fn getfsstat(buffer: &mut [u64]) -> io::Result<usize> {
    let room = c_long::try_from(size_of_val(buffer)).map_err(io::Error::other)?;
    let pointer = if buffer.is_empty() { std::ptr::null_mut() } else { buffer.as_mut_ptr() };
    // SAFETY: getfsstat(2): `room` bytes of the right alignment are behind the pointer, or it is
    // null, which asks for the count.
    let count = unsafe { libc::getfsstat(pointer.cast(), room, libc::MNT_NOWAIT) };
    usize::try_from(Errno::result(count)?).map_err(io::Error::other)
}

fn mount_of(words: &[u64]) -> Option<Mount> {
    let record: Vec<u8> = words.iter().flat_map(|w| w.to_ne_bytes()).collect();
    let text = |at, room| text_at(&record, at, room);
    // fsid_t is two ints; their name in the libc crate is private.
    let id = offset_of!(libc::statfs, f_fsid);
    let flags = long_at(&record, offset_of!(libc::statfs, f_flags))?;
    let fs = text(offset_of!(libc::statfs, f_fstypename), TYPE_ROOM);
    let source = text(offset_of!(libc::statfs, f_mntfromname), NAME_ROOM);
    let point = text(offset_of!(libc::statfs, f_mntonname), NAME_ROOM);
    Some(Mount {
        source: String::from_utf8_lossy(source).into_owned(),
        number: None,
        point: PathBuf::from(OsStr::from_bytes(point)),
        fs: String::from_utf8_lossy(fs).into_owned(),
        whole: true,
        read_only: flags & u64::try_from(libc::MNT_RDONLY).ok()? != 0,
        id: [int_at(&record, id)?.into(), int_at(&record, id + size_of::<c_int>())?.into()],
    })
}

fn c_string(text: &OsStr) -> io::Result<CString> {
    CString::new(text.as_bytes()).map_err(|_| io::ErrorKind::InvalidInput.into())
}

/// Mounts `device` on `point`; nothing stays mounted where that fails.
///
/// `nocover` refuses (EBUSY) a point that already is a mount's root, so that nothing is stacked
/// (mount(8)). A file system that was not unmounted cleanly can be mounted to be read; to be
/// written it needs `fsck_ffs`(8) first, and the kernel's message says so.
pub(super) fn mount(device: &Path, point: &Path, fs: &str, access: Access) -> Result<Mount> {
    let operation = "mounting";
    let from = c_string(device.as_os_str()).doing_to(operation, device)?;
    let path = c_string(point.as_os_str()).doing_to(operation, point)?;
    let kind = c_string(OsStr::new(fs)).doing_to(operation, device)?;
    let below = mount_at(point).doing_to("asking for the mount below", point)?;
    let mut call = Nmount::new();
    call.str_opt(c"fstype", &kind).str_opt(c"fspath", &path).str_opt(c"from", &from);
    call.null_opt(c"noatime").null_opt(c"nosuid").null_opt(c"noexec").null_opt(c"nocover");
    if access == Access::Read {
        call.null_opt(c"ro");
    }
    call.nmount(MntFlags::empty()).map_err(|e| {
        let mut error = Error::io(operation, &e.error().into()).path(device);
        match (e.error(), e.errmsg()) {
            // vfs_donmount says this for every ENOENT below it, a missing superblock's too.
            (Errno::EINVAL, Some("Invalid fstype")) => {
                if let Some(path) = [device, point].into_iter().find(|path| !path.exists()) {
                    return Error::io(operation, &Errno::ENOENT.into()).path(path);
                }
                error.cause = format!("there is no {fs} file system on it");
                error
            }
            // The kernel's own words ("R/W mount of /altroot denied. Filesystem is not clean …").
            (_, Some(message)) => {
                let message = message.trim_end_matches(['.', ' ', '\n']);
                error.cause = format!("{message} ({})", error.cause);
                error
            }
            (Errno::EBUSY, None) => error.kind(Kind::Busy),
            // GEOM's answer: somebody has it open for writing, or exclusively.
            (Errno::EPERM, None) => {
                let hint = format!("see who has it open: fstat {}", device.display());
                error.kind(Kind::Busy).hint(hint)
            }
            (_, None) => error,
        }
    })?;
    let mount = mount_at(point).doing_to("asking for the mount on", point).inspect_err(|_| {
        if let Err(e) = nix::mount::unmount(point, MntFlags::empty()) {
            log::error!("{}", Error::io("unmounting", &e.into()).path(point));
        }
    })?;
    // UFS takes a file system away by itself, a moment after it was mounted, where it cannot read the
    // inode of its root. What the path leads to then is the running system.
    if mount.id == below.id {
        return Err(Error::io(operation, &Errno::ENXIO.into()).path(device));
    }
    Ok(mount)
}

/// Unmounts exactly this mount, whatever else is at its point by now.
///
/// Unless forced, this waits until everything is on the medium and reports what could not be
/// written: the mount then stays. The exception is a medium that is gone (ENXIO): UFS drops its
/// buffers and the unmount succeeds, so only reading back proves a copy.
pub(super) fn unmount(mount: &Mount, force: bool) -> Result<()> {
    let [first, second] = mount.id;
    let fsid = c_string(OsStr::new(&format!("FSID:{first}:{second}")))
        .doing_to("unmounting", &mount.point)?;
    let mut flags = MntFlags::MNT_BYFSID;
    flags.set(MntFlags::MNT_FORCE, force);
    match nix::mount::unmount(fsid.as_c_str(), flags) {
        // There is no such mount: UFS has taken it away by itself, for one.
        Ok(()) | Err(Errno::ENOENT) => {}
        Err(e) => {
            let kind = if e == Errno::EBUSY { Kind::Busy } else { Kind::Failed };
            return Err(Error::io("unmounting", &e.into()).path(&mount.point).kind(kind));
        }
    }
    // It was open for writing: what that took away comes back, a label's partition even.
    if !mount.read_only {
        super::device::settle();
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_root_is_mounted() {
        let all = mounts().unwrap();
        let root = all.iter().find(|m| m.point == Path::new("/")).unwrap();
        assert_eq!(mount_at(Path::new("/")).unwrap().id, root.id);
        assert!(!root.source.is_empty() && !root.fs.is_empty());
        assert_eq!(root.id == [0, 0], !nix::unistd::geteuid().is_root());
    }

    #[test]
    fn a_mount_that_is_gone_needs_no_unmounting() {
        let mut mount = mount_at(Path::new("/")).unwrap();
        mount.id = [0x1234_5678, -2];
        if nix::unistd::geteuid().is_root() {
            unmount(&mount, false).unwrap();
        }
        assert!(mounts().unwrap().iter().any(|m| m.point == mount.point));
    }
}
