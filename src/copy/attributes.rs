//! Everything of an object but its content, in the order that loses nothing: owner (a change of
//! owner clears set-id bits and file capabilities), mode and times, extended attributes with the
//! ACLs among them (a change of mode rewrites an NFSv4 ACL), flags.

use std::ffi::OsStr;
use std::io;
use std::path::Path;

use crc32fast::Hasher;

use crate::error::{Context, Result};
use crate::sys::tree::{Dir, File, Meta, Xattrs, is_acl};

/// CRC-32 over names and values; `None` where there are none.
pub fn checksum(xattrs: &Xattrs) -> Option<u32> {
    use std::os::unix::ffi::OsStrExt;
    if xattrs.is_empty() {
        return None;
    }
    let mut hasher = Hasher::new();
    for (name, value) in xattrs {
        hasher.update(name.as_bytes());
        hasher.update(&[0]);
        hasher.update(&(value.len() as u64).to_le_bytes());
        hasher.update(value);
    }
    Some(hasher.finalize())
}

/// Whether what is made in a directory with these attributes may get ACLs from it.
pub fn pass_on(xattrs: &Xattrs) -> bool {
    xattrs.iter().any(|(name, _)| is_acl(name))
}

/// Takes the ACLs away that a new object, whose `xattrs` were read, has from its directory, where there
/// is one already that passes them on: that of an older copy.
///
/// # Errors
/// They could not be read, or removed.
pub fn disinherit(
    xattrs: io::Result<Xattrs>,
    remove: impl Fn(&OsStr) -> io::Result<()>,
    path: &Path,
) -> Result<()> {
    xattrs
        .and_then(|all| all.iter().filter(|(n, _)| is_acl(n)).try_for_each(|(n, _)| remove(n)))
        .doing_to("taking the inherited ACL from the copy of", path)
}

/// What is set.
enum Attribute<'a> {
    Owner,
    ModeAndTimes,
    Xattr(&'a OsStr, &'a [u8]),
    Flags,
}

/// Sets all in order. `flags` is 0 where further names of the object are still to be made.
fn set_all(
    xattrs: &Xattrs,
    flags: u32,
    path: &Path,
    set: impl Fn(Attribute<'_>) -> io::Result<()>,
) -> Result<()> {
    set(Attribute::Owner).doing_to("setting the owner of", path)?;
    set(Attribute::ModeAndTimes).doing_to("setting mode and times of", path)?;
    for (name, value) in xattrs {
        let setting = format!("setting extended attribute {} of", name.to_string_lossy());
        set(Attribute::Xattr(name, value)).doing_to(setting, path)?;
    }
    if flags != 0 {
        set(Attribute::Flags).doing_to("setting the flags of", path)?;
    }
    Ok(())
}

/// For an open file, that has no flags, and gets `flags`.
pub fn set_on_file<F: File>(
    file: &F,
    meta: &Meta,
    xattrs: &Xattrs,
    flags: u32,
    path: &Path,
) -> Result<()> {
    set_all(xattrs, flags, path, |attribute| match attribute {
        Attribute::Owner => file.set_owner(meta.uid, meta.gid),
        Attribute::ModeAndTimes => file.set_mode_and_times(meta),
        Attribute::Xattr(name, value) => file.set_xattr(name, value),
        Attribute::Flags => file.set_flags(flags),
    })
}

/// For an open directory, once everything in it is in place.
pub fn set_on_dir<D: Dir>(dir: &D, meta: &Meta, xattrs: &Xattrs, path: &Path) -> Result<()> {
    set_all(xattrs, meta.flags, path, |attribute| match attribute {
        Attribute::Owner => dir.set_owner(meta.uid, meta.gid),
        Attribute::ModeAndTimes => dir.set_mode_and_times(meta),
        Attribute::Xattr(name, value) => dir.set_xattr(name, value),
        Attribute::Flags => dir.set_flags(meta.flags),
    })
}

/// For an entry that cannot be opened: symbolic link, device, fifo, socket. It gets `flags`.
pub fn set_on_entry<D: Dir>(
    dir: &D,
    entry: &OsStr,
    meta: &Meta,
    xattrs: &Xattrs,
    flags: u32,
    path: &Path,
) -> Result<()> {
    set_all(xattrs, flags, path, |attribute| match attribute {
        Attribute::Owner => dir.set_owner_of(entry, meta.uid, meta.gid),
        Attribute::ModeAndTimes => dir.set_mode_and_times_of(entry, meta),
        Attribute::Xattr(name, value) => dir.set_xattr_of(entry, name, value),
        Attribute::Flags => dir.set_flags_of(entry, flags),
    })
}
