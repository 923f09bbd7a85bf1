//! A mount of ours, given back whatever happens.

use std::path::{Path, PathBuf};
use std::thread::sleep;
use std::time::Duration;

use nix::errno::Errno;

use super::clear;
use crate::error::{Context, Error, Kind, Result};
use crate::mounts::Mount;
use crate::sys::tree::Dir;
use crate::sys::{Access, Os};

/// The system may look at a fresh mount for a moment (an indexer, GEOM's tasting).
const TRIES: u32 = 50;
const PAUSE: Duration = Duration::from_millis(100);

/// Tries again for a while what is busy: the kernel lets go of a mount a moment after it is gone.
pub(super) fn patiently<T>(attempt: impl Fn() -> Result<T>) -> Result<T> {
    let mut result = attempt();
    for _ in 1..TRIES {
        match &result {
            Err(e) if e.kind == Kind::Busy => sleep(PAUSE),
            _ => break,
        }
        result = attempt();
    }
    result
}

/// The run directory as the mount table spells it: without symbolic links (`/var` may be one).
pub(super) fn run_dir<O: Os>(os: &O) -> PathBuf {
    let path = os.run_dir();
    os.canonical(&path).unwrap_or(path)
}

/// Lets the next read of the device come from the medium. Who reads from it for a moment is let finish.
pub(super) fn drop_cache<O: Os>(os: &O, device: &Path) -> Result<()> {
    patiently(|| os.drop_cache(device))
}

/// Opens the root of exactly this mount.
///
/// Its path leads to a directory of the running system when the mount is gone: somebody has unmounted
/// it, or the kernel has, as UFS does by itself (FreeBSD 13) where metadata cannot be read.
///
/// # Errors
/// It is gone (ENXIO), or something is mounted over it.
pub(super) fn open_root<O: Os>(os: &O, mount: &Mount) -> Result<O::Dir> {
    let root = os.open_dir(&mount.point)?;
    still_there(os, mount)?;
    Ok(root)
}

/// What was mounted before, and is now, has been there all the time: what was asked of its path in
/// between was asked of it.
///
/// # Errors
/// It is gone (ENXIO), or something is mounted over it.
pub(super) fn still_there<O: Os>(os: &O, mount: &Mount) -> Result<()> {
    let top = os.mounts()?.into_iter().rfind(|m| m.point == mount.point);
    if top.is_some_and(|top| top.id == mount.id) {
        return Ok(());
    }
    Err(Error::io("opening", &Errno::ENXIO.into())
        .path(&mount.point)
        .hint("it was unmounted meanwhile, by somebody or, as its medium fails, by the kernel"))
}

/// Writes to the file system on `device`, flushes, and reads there: only what can be read from the
/// medium is on it.
pub(super) fn write_and_read<'a, O: Os, T>(
    os: &'a O,
    device: &Path,
    mount: impl Fn(Access) -> Result<Mounted<'a, O>>,
    write: impl FnOnce(&O::Dir) -> Result<()>,
    read: impl FnOnce(&O::Dir) -> Result<T>,
) -> Result<T> {
    let mounted = mount(Access::Write)?;
    let root = mounted.open()?;
    write(&root)?;
    root.sync_all().doing_to("flushing", device)?;
    drop(root);
    mounted.unmount()?;
    drop_cache(os, device)?;
    let mounted = mount(Access::Read)?;
    let found = mounted.open().and_then(|root| read(&root));
    mounted.unmount()?;
    found
}

/// A mounted device. Give it back with [`Mounted::unmount`], which tells of errors; dropping it
/// unmounts too, and can only log them.
#[must_use]
#[derive(Debug)]
pub struct Mounted<'a, O: Os> {
    os: &'a O,
    mount: Mount,
    given_back: bool,
    /// A private mount point, removed with the mount.
    private: Option<PathBuf>,
}

impl<'a, O: Os> Mounted<'a, O> {
    /// Mounts `device` on an existing directory.
    pub fn new(os: &'a O, device: &Path, point: &Path, fs: &str, access: Access) -> Result<Self> {
        // The mount before it may not be quite gone: then it is busy for a moment.
        let mount = patiently(|| os.mount(device, point, fs, access))?;
        Ok(Self { os, mount, given_back: false, private: None })
    }

    /// Mounts `device` read-only on a private directory that names this process as its owner.
    pub fn private(os: &'a O, device: &Path, fs: &str, word: &str) -> Result<Self> {
        Self::aside(os, device, fs, word, Access::Read)
    }

    /// Mounts `device` on a private directory that names this process as its owner.
    pub fn aside(os: &'a O, device: &Path, fs: &str, word: &str, access: Access) -> Result<Self> {
        let point = os.run_dir().join(format!("{}.{word}", std::process::id()));
        os.make_dir(&point)?;
        match Self::new(os, device, &point, fs, access) {
            Ok(mut mounted) => {
                mounted.private = Some(point);
                Ok(mounted)
            }
            Err(e) => {
                if let Err(left) = os.remove_dir(&point) {
                    log::error!("{left}");
                }
                Err(e)
            }
        }
    }

    /// Where it was mounted. What is there now, [`Mounted::open`] tells.
    pub fn point(&self) -> &Path {
        &self.mount.point
    }

    /// Opens its root.
    ///
    /// # Errors
    /// It is gone (ENXIO), or something is mounted over it.
    pub fn open(&self) -> Result<O::Dir> {
        open_root(self.os, &self.mount)
    }

    /// Unmounts.
    ///
    /// # Errors
    /// It stays busy, or what was still to be written could not be.
    pub fn unmount(mut self) -> Result<()> {
        self.give_back()
    }

    fn give_back(&mut self) -> Result<()> {
        if std::mem::replace(&mut self.given_back, true) {
            return Ok(());
        }
        patiently(|| self.os.unmount(&self.mount, false)).map_err(|error| match error.kind {
            Kind::Busy => clear::busy(self.os, &self.mount),
            _ => error,
        })?;
        match self.private.take() {
            Some(point) => self.os.remove_dir(&point),
            None => Ok(()),
        }
    }
}

impl<O: Os> Drop for Mounted<'_, O> {
    fn drop(&mut self) {
        if let Err(error) = self.give_back() {
            log::error!("{error}");
        }
    }
}
