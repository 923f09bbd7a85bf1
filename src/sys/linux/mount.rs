//! The mount table (`proc_pid_mountinfo(5)`), mount(2) and umount2(2).

use std::ffi::OsString;
use std::os::unix::ffi::OsStringExt;
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::mount::{MntFlags, MsFlags};

use super::process;
use crate::error::{Context, Error, Kind, Result};
use crate::mounts::Mount;
use crate::sys::Access;

/// All mounts of this process's namespace, in the order in which they were stacked.
pub(super) fn mounts() -> Result<Vec<Mount>> {
    let table = "/proc/self/mountinfo";
    let text = std::fs::read(table).doing_to("reading", table)?;
    Ok(text.split(|&b| b == b'\n').filter_map(parse_line).collect())
}

/// `36 35 98:0 /mnt1 /mnt2 rw,noatime master:1 - ext3 /dev/root rw,errors=continue`
fn parse_line(line: &[u8]) -> Option<Mount> {
    let fields: Vec<&[u8]> = line.split(|&b| b == b' ').collect();
    let separator = fields.iter().position(|f| *f == b"-")?;
    let text = |n: usize| fields.get(n).map(|f| String::from_utf8_lossy(f).into_owned());
    let (major, minor) = text(2)?.split_once(':').map(|(a, b)| (a.parse(), b.parse()))?;
    let has_ro =
        |n: usize| fields.get(n).is_some_and(|f| f.split(|&b| b == b',').any(|o| o == b"ro"));
    Some(Mount {
        source: String::from_utf8_lossy(&decode(fields.get(separator + 2)?)).into_owned(),
        number: Some((major.ok()?, minor.ok()?)),
        point: PathBuf::from(OsString::from_vec(decode(fields.get(4)?))),
        fs: text(separator + 1)?,
        whole: fields.get(3) == Some(&&b"/"[..]),
        read_only: has_ro(5) || has_ro(separator + 3),
        id: [text(0)?.parse().ok()?, 0],
    })
}

/// Undoes `\040` for a blank and its like.
fn decode(field: &[u8]) -> Vec<u8> {
    let mut decoded = Vec::with_capacity(field.len());
    let mut rest = field;
    while let Some((&first, tail)) = rest.split_first() {
        let octal = tail.get(..3).and_then(|d| std::str::from_utf8(d).ok());
        match octal.and_then(|d| u8::from_str_radix(d, 8).ok()) {
            Some(byte) if first == b'\\' => {
                decoded.push(byte);
                rest = &tail[3..];
            }
            _ => {
                decoded.push(first);
                rest = tail;
            }
        }
    }
    decoded
}

/// Mounts `device` on `point`; nothing stays mounted where that fails.
pub(super) fn mount(device: &Path, point: &Path, fs: &str, access: Access) -> Result<Mount> {
    // As the table will have it.
    let point = std::fs::canonicalize(point).doing_to("resolving", point)?;
    attach(device, &point, fs, access)?;
    // One failed look does not end it.
    let found = mounts().or_else(|_| mounts()).and_then(|all| {
        all.into_iter().rfind(|m| m.point == point).ok_or_else(|| {
            Error::new(Kind::Failed, "mounting", "the mount is not in the table").path(device)
        })
    });
    found.inspect_err(|_| detach(&point))
}

fn attach(device: &Path, point: &Path, fs: &str, access: Access) -> Result<()> {
    let (flags, data) = match access {
        Access::Write => (MsFlags::MS_NOATIME, None),
        // A read-only mount would still replay the journal: `noload` (ext4), `norecovery` (xfs).
        Access::Read => (
            MsFlags::MS_RDONLY | MsFlags::MS_NOATIME,
            match fs {
                "ext4" => Some("noload"),
                "xfs" => Some("norecovery"),
                _ => None,
            },
        ),
    };
    let guarded = MsFlags::MS_NOSUID | MsFlags::MS_NODEV | MsFlags::MS_NOEXEC;
    match nix::mount::mount(Some(device), point, Some(fs), flags | guarded, data) {
        Ok(()) => Ok(()),
        Err(Errno::EBUSY) if access == Access::Read => {
            // It is mounted read-write somewhere out of reach: mount(2) only joins that mount with
            // its own flag, and a bind remount makes this view of it read-only.
            let joined = nix::mount::mount(Some(device), point, Some(fs), guarded, None::<&str>);
            joined.map_err(|e| Error::io("mounting", &e.into()).path(device).kind(Kind::Busy))?;
            let view = MsFlags::MS_REMOUNT | MsFlags::MS_BIND | MsFlags::MS_RDONLY | guarded;
            nix::mount::mount(None::<&str>, point, None::<&str>, view, None::<&str>)
                .inspect_err(|_| detach(point))
                .map_err(|e| Error::io("mounting", &e.into()).path(device))
        }
        Err(e) => {
            let kind = if e == Errno::EBUSY { Kind::Busy } else { Kind::Failed };
            Err(Error::io("mounting", &e.into()).path(device).kind(kind))
        }
    }
}

/// Takes back a mount of which nothing else is known.
fn detach(point: &Path) {
    if let Err(e) = nix::mount::umount2(point, MntFlags::UMOUNT_NOFOLLOW) {
        log::error!("{}", Error::io("unmounting", &e.into()).path(point));
    }
}

/// Unmounts exactly `mount`, not what was stacked over it meanwhile: umount2(2) knows only paths,
/// so the top of the stack at that path is asked first.
pub(super) fn unmount(mount: &Mount, force: bool) -> Result<()> {
    let mounts = mounts()?;
    if !mounts.iter().any(|m| m.id == mount.id) {
        return Ok(());
    }
    let top = mounts.into_iter().rfind(|m| m.point == mount.point);
    if top.is_none_or(|m| m.id != mount.id) {
        return Err(
            Error::new(Kind::Busy, "unmounting", "another mount lies on it").path(&mount.point)
        );
    }
    match (nix::mount::umount2(&mount.point, MntFlags::UMOUNT_NOFOLLOW), force) {
        (Ok(()), _) => Ok(()),
        (Err(Errno::EBUSY), true) => {
            // Linux cannot take open files away as FreeBSD's MNT_FORCE does, and a lazy unmount
            // (MNT_DETACH) leaves the file system at work on the device. So the holders end.
            process::end_holders(mount)?;
            unmount(mount, false)
        }
        (Err(e), _) => {
            let kind = if e == Errno::EBUSY { Kind::Busy } else { Kind::Failed };
            Err(Error::io("unmounting", &e.into()).path(&mount.point).kind(kind))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_with_blanks_and_optional_fields() {
        let line = b"36 35 7:2 / /mnt/a\\040b ro,noatime master:1 shared:2 - ext4 /dev/loop0p2 rw";
        let mount = parse_line(line).unwrap();
        assert_eq!(mount.point, Path::new("/mnt/a b"));
        assert_eq!(mount.number, Some((7, 2)));
        assert_eq!((mount.fs.as_str(), mount.source.as_str()), ("ext4", "/dev/loop0p2"));
        assert!(mount.read_only);
        assert_eq!(mount.id, [36, 0]);
    }

    #[test]
    fn garbage_is_no_mount() {
        for line in [&b""[..], b"-", b"1 2 3", b"x y 7:z / / rw - ext4 a b"] {
            assert_eq!(parse_line(line), None);
        }
    }
}
