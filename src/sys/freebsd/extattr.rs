//! Extended attributes of both namespaces (extattr(2)), by descriptor for every kind of object.
//!
//! What cannot be opened for reading (symbolic link, fifo, socket, device) is opened with `O_PATH`,
//! which the extattr calls take, so that no path and no working directory is needed.
//!
//! ACLs are attributes of the system namespace (`posix1e.acl_access`, `posix1e.acl_default`,
//! `nfs4.acl`) and are copied as they are.

use std::ffi::{CString, OsStr, OsString};
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::{OsStrExt, OsStringExt};

use nix::errno::Errno;
use nix::fcntl::{OFlag, openat};
use nix::libc::{self, c_int, c_void};
use nix::sys::stat::Mode;

use crate::sys::tree::Xattrs;

/// The namespaces and their names, as extattr(9) and other programs write them.
const NAMESPACES: [(c_int, &str); 2] =
    [(libc::EXTATTR_NAMESPACE_SYSTEM, "system."), (libc::EXTATTR_NAMESPACE_USER, "user.")];

/// Room for what most objects have: nothing, or an ACL.
const ROOM: usize = 512;

/// Reads a value of unknown length. extattr(2) fills a buffer that is too small without a word, so
/// where a full one comes back a larger one is asked for. (It would tell the length without a buffer,
/// at the price of a second call for every object.)
fn read_all(call: impl Fn(*mut c_void, usize) -> libc::ssize_t) -> nix::Result<Vec<u8>> {
    let mut value = vec![0_u8; ROOM];
    loop {
        let filled = Errno::result(call(value.as_mut_ptr().cast(), value.len()))?;
        let filled = usize::try_from(filled).map_err(|_| Errno::EIO)?;
        if filled < value.len() {
            value.truncate(filled);
            return Ok(value);
        }
        value.resize(value.len() * 8, 0);
    }
}

/// The names in a namespace, each behind a byte with its length.
fn list(fd: BorrowedFd<'_>, namespace: c_int) -> nix::Result<Vec<u8>> {
    read_all(|room, length| {
        // SAFETY: extattr_list_fd(2): the descriptor is open, at most `length` bytes are written.
        unsafe { libc::extattr_list_fd(fd.as_raw_fd(), namespace, room, length) }
    })
}

fn get(fd: BorrowedFd<'_>, namespace: c_int, name: &CString) -> nix::Result<Vec<u8>> {
    read_all(|room, length| {
        let name = name.as_ptr();
        // SAFETY: extattr_get_fd(2): the descriptor is open, the name ends with NUL, at most
        // `length` bytes are written.
        unsafe { libc::extattr_get_fd(fd.as_raw_fd(), namespace, name, room, length) }
    })
}

/// All attributes of an open object, sorted by full name.
///
/// A file system or a kind of object (devices on UFS) that has no attributes has none. Only root
/// outside a jail sees the system namespace; for others it is empty.
pub(in crate::sys) fn xattrs_fd(fd: BorrowedFd<'_>) -> io::Result<Xattrs> {
    let mut all = Xattrs::new();
    for (namespace, prefix) in NAMESPACES {
        let names = match list(fd, namespace) {
            Ok(names) => names,
            Err(Errno::EOPNOTSUPP | Errno::ENOSYS) => continue,
            Err(Errno::EPERM) if !nix::unistd::geteuid().is_root() => continue,
            Err(e) => return Err(e.into()),
        };
        let mut rest = names.as_slice();
        while let Some((&length, tail)) = rest.split_first() {
            let (name, tail) = tail.split_at_checked(length.into()).ok_or(Errno::EIO)?;
            rest = tail;
            let c_name = CString::new(name)?;
            match get(fd, namespace, &c_name) {
                Ok(value) => {
                    all.push((OsString::from_vec([prefix.as_bytes(), name].concat()), value));
                }
                // Removed since it was listed; the change of ctime makes the caller look again.
                Err(Errno::ENOATTR) => {}
                Err(e) => return Err(e.into()),
            }
        }
    }
    all.sort();
    Ok(all)
}

/// Splits a full name into namespace and name.
fn parse(full: &OsStr) -> io::Result<(c_int, CString)> {
    for (namespace, prefix) in NAMESPACES {
        if let Some(name) = full.as_bytes().strip_prefix(prefix.as_bytes()) {
            return Ok((namespace, CString::new(name)?));
        }
    }
    // Another system's namespace (Linux's `security.`) has no place here.
    Err(Errno::EOPNOTSUPP.into())
}

/// Sets one attribute.
pub(in crate::sys) fn set_xattr_fd(
    fd: BorrowedFd<'_>,
    key: &OsStr,
    value: &[u8],
) -> io::Result<()> {
    let (namespace, name) = parse(key)?;
    let (data, length) = (value.as_ptr().cast(), value.len());
    // SAFETY: extattr_set_fd(2): the descriptor is open, the name ends with NUL, `length` bytes are
    // behind the pointer.
    let set =
        unsafe { libc::extattr_set_fd(fd.as_raw_fd(), namespace, name.as_ptr(), data, length) };
    if usize::try_from(Errno::result(set)?) == Ok(length) {
        return Ok(());
    }
    Err(io::ErrorKind::WriteZero.into())
}

/// Removes one attribute.
pub(in crate::sys) fn remove_xattr_fd(fd: BorrowedFd<'_>, key: &OsStr) -> io::Result<()> {
    let (namespace, name) = parse(key)?;
    // SAFETY: extattr_delete_fd(2): the descriptor is open, the name ends with NUL.
    let removed = unsafe { libc::extattr_delete_fd(fd.as_raw_fd(), namespace, name.as_ptr()) };
    Ok(Errno::result(removed).map(drop)?)
}

/// A handle on an entry of any kind that reads and follows nothing (open(2), `O_PATH`).
fn handle(dir: BorrowedFd<'_>, name: &OsStr) -> io::Result<OwnedFd> {
    Ok(openat(dir, name, OFlag::O_PATH | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC, Mode::empty())?)
}

/// All attributes of an entry, a symbolic link itself included.
pub(in crate::sys) fn xattrs_at(dir: BorrowedFd<'_>, name: &OsStr) -> io::Result<Xattrs> {
    xattrs_fd(handle(dir, name)?.as_fd())
}

/// Sets one attribute of an entry, a symbolic link itself included.
pub(in crate::sys) fn set_xattr_at(
    dir: BorrowedFd<'_>,
    name: &OsStr,
    key: &OsStr,
    value: &[u8],
) -> io::Result<()> {
    set_xattr_fd(handle(dir, name)?.as_fd(), key, value)
}

/// Removes one attribute of an entry, a symbolic link itself included.
pub(in crate::sys) fn remove_xattr_at(
    dir: BorrowedFd<'_>,
    name: &OsStr,
    key: &OsStr,
) -> io::Result<()> {
    remove_xattr_fd(handle(dir, name)?.as_fd(), key)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs::{self, File};
    use std::os::unix::fs::symlink;

    fn key(text: &str) -> &OsStr {
        OsStr::new(text)
    }

    #[test]
    fn attributes_of_files_and_links_come_back() {
        let dir = tempfile::tempdir().unwrap();
        let handle = File::open(dir.path()).unwrap();
        fs::write(dir.path().join("f"), "x").unwrap();
        symlink("nowhere", dir.path().join("l")).unwrap();
        let file = File::open(dir.path().join("f")).unwrap();
        let large = vec![7; 20_000];
        let mut wanted: Xattrs = vec![
            ("user.empty".into(), Vec::new()),
            ("user.full".into(), vec![9; ROOM]),
            ("user.large".into(), large),
            (OsString::from_vec(b"user.\xff.b".to_vec()), b"a\0b".to_vec()),
        ];
        if nix::unistd::geteuid().is_root() {
            wanted.push(("system.one".into(), b"1".to_vec()));
        }
        wanted.sort();
        for (name, value) in &wanted {
            set_xattr_fd(file.as_fd(), name, value).unwrap();
            if name.as_bytes().starts_with(b"system.") {
                set_xattr_at(handle.as_fd(), key("l"), name, value).unwrap();
            }
        }
        assert_eq!(xattrs_fd(file.as_fd()).unwrap(), wanted);
        assert_eq!(xattrs_at(handle.as_fd(), key("f")).unwrap(), wanted);
        let system: Xattrs = wanted
            .iter()
            .filter(|(name, _)| name.as_bytes().starts_with(b"system."))
            .cloned()
            .collect();
        assert_eq!(xattrs_at(handle.as_fd(), key("l")).unwrap(), system);
        assert!(set_xattr_fd(file.as_fd(), key("security.x"), b"").is_err());
        for (name, _) in &wanted {
            remove_xattr_fd(file.as_fd(), name).unwrap();
            if name.as_bytes().starts_with(b"system.") {
                remove_xattr_at(handle.as_fd(), key("l"), name).unwrap();
            }
        }
        assert_eq!(xattrs_fd(file.as_fd()).unwrap(), []);
        assert_eq!(xattrs_at(handle.as_fd(), key("l")).unwrap(), []);
        assert!(remove_xattr_fd(file.as_fd(), key("user.empty")).is_err());
    }

    #[test]
    fn many_names_are_listed() {
        let dir = tempfile::tempdir().unwrap();
        let handle = File::open(dir.path()).unwrap();
        let names: Vec<String> = (0..50).map(|n| format!("user.{n:0>200}")).collect();
        for name in &names {
            set_xattr_fd(handle.as_fd(), key(name), b"v").unwrap();
        }
        let found = xattrs_fd(handle.as_fd()).unwrap();
        assert!(found.iter().map(|(name, _)| name).eq(names.iter().map(OsStr::new)));
    }
}
