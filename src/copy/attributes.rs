//! Everything of an object but its content, in the order that loses nothing: owner (a change of
//! owner clears set-id bits and file capabilities), mode and times, extended attributes with the
//! ACLs among them (a change of mode rewrites an NFSv4 ACL), flags.

use std::ffi::OsStr;
use std::path::Path;

use crc32fast::Hasher;

use crate::error::{Context, Result};
use crate::sys::tree::{Dir, File, Meta, Xattrs};

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

/// For an open file. `flags` is false where further names of the file are still to be made.
pub fn set_on_file<F: File>(
    file: &F,
    meta: &Meta,
    xattrs: &Xattrs,
    flags: bool,
    path: &Path,
) -> Result<()> {
    file.set_owner(meta.uid, meta.gid).doing_to("setting the owner of", path)?;
    file.set_mode_and_times(meta).doing_to("setting mode and times of", path)?;
    for (name, value) in xattrs {
        file.set_xattr(name, value).doing_to(setting(name), path)?;
    }
    if flags && meta.flags != 0 {
        file.set_flags(meta.flags).doing_to("setting the flags of", path)?;
    }
    Ok(())
}

/// For an open directory, once everything in it is in place.
pub fn set_on_dir<D: Dir>(dir: &D, meta: &Meta, xattrs: &Xattrs, path: &Path) -> Result<()> {
    dir.set_owner(meta.uid, meta.gid).doing_to("setting the owner of", path)?;
    dir.set_mode_and_times(meta).doing_to("setting mode and times of", path)?;
    for (name, value) in xattrs {
        dir.set_xattr(name, value).doing_to(setting(name), path)?;
    }
    if meta.flags != 0 {
        dir.set_flags(meta.flags).doing_to("setting the flags of", path)?;
    }
    Ok(())
}

/// For an entry that cannot be opened: symbolic link, device, fifo, socket.
pub fn set_on_entry<D: Dir>(
    dir: &D,
    name: &OsStr,
    meta: &Meta,
    xattrs: &Xattrs,
    flags: bool,
    path: &Path,
) -> Result<()> {
    dir.set_owner_of(name, meta.uid, meta.gid).doing_to("setting the owner of", path)?;
    dir.set_mode_and_times_of(name, meta).doing_to("setting mode and times of", path)?;
    for (key, value) in xattrs {
        dir.set_xattr_of(name, key, value).doing_to(setting(key), path)?;
    }
    if flags && meta.flags != 0 {
        dir.set_flags_of(name, meta.flags).doing_to("setting the flags of", path)?;
    }
    Ok(())
}

fn setting(xattr: &OsStr) -> String {
    format!("setting extended attribute {} of", xattr.to_string_lossy())
}
