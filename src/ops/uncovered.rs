//! A file system as it is below what is mounted on its own directories.

use std::io;
use std::path::Path;

use super::mounted::still_there;
use crate::error::Result;
use crate::mounts::Mount;
use crate::record::packages::{self, Software};
use crate::slot::view::View;
use crate::sys::{FsType, Generation, Os};
use crate::ufs::{Superblock, generation};

/// Opens the root of the file system that is mounted on `point`, and of that one alone: a memory
/// disk on `/etc`, as NanoBSD has it, hides what the root's start depends on.
///
/// # Errors
/// It cannot be opened, or was unmounted meanwhile.
pub(super) fn open<O: Os>(os: &O, view: &View, point: &Path) -> Result<O::Dir> {
    let mount = view.mount_at(point);
    let dir = open_alone(os, view, point, mount)?;
    mount.map_or(Ok(()), |mount| still_there(os, mount))?;
    Ok(dir)
}

fn open_alone<O: Os>(os: &O, view: &View, point: &Path, mount: Option<&Mount>) -> Result<O::Dir> {
    let ufs = mount.filter(|mount| mount.fs == FsType::Ufs2.name());
    let mounted = ufs.and_then(|mount| Some((mount, view.provider_of(mount)?)));
    let Some((mount, id)) = mounted else {
        return os.open_uncovered(point, Box::new(|_| Err(io::ErrorKind::Unsupported.into())));
    };
    // By the name that it is mounted by: below a label that is in use GEOM may have withdrawn others.
    let (device, size) = (os.open_device(Path::new(&mount.source))?, view.devices.get(id).size);
    let of: Generation = Box::new(move |inode| {
        let fs = Superblock::read(&device, size);
        fs.and_then(|fs| generation(&device, &fs, inode)).map_err(io::Error::other)
    });
    os.open_uncovered(point, of)
}

/// What is known of the software of `root`, the running root or a moment of it. Databases that lie
/// on other file systems (a `/var` of its own) are those of the running system.
pub(super) fn software<O: Os>(os: &O, view: &View, root: &O::Dir) -> Result<Software> {
    let told = os.packages(&view.root)?;
    let here = packages::scan(root, told.clone())?;
    if !packages::PLACES.iter().any(|place| view.covering(&view.below(place)).is_some()) {
        return Ok(here);
    }
    Ok(here.or(packages::scan(&os.open_dir(&view.root)?, told)?))
}
