//! A snapshot of a mounted file system, mounted itself, given back whatever happens.

use std::ffi::OsStr;
use std::path::{Path, PathBuf};

use jiff::Timestamp;

use crate::copy::tree;
use crate::error::{Context, Result, if_there};
use crate::mounts::Mount;
use crate::ops::mounted::{Mounted, patiently, still_there};
use crate::slot::Part;
use crate::sys::tree::{Dir, Kind};
use crate::sys::{FsType, Os, SNAPSHOTS};

/// The last part of our snapshots' names; the first is the process id of the run.
const WORD: &str = "dualroot";

/// Whether a snapshot of this name is of this program.
pub(in super::super) fn is_ours(name: &OsStr) -> bool {
    Path::new(name).extension() == Some(OsStr::new(WORD))
}

/// One moment of a file system, to be read. Give it back with [`Frozen::thaw`], which tells of
/// errors; dropping it does the same, and can only log them.
#[must_use]
pub(super) struct Frozen<'a, O: Os> {
    taken: Timestamp,
    device: PathBuf,
    // Dropped in this order.
    mounted: Mounted<'a, O>,
    file: Held<'a, O>,
}

/// The snapshot's file, removed whatever happens.
struct Held<'a, O: Os> {
    os: &'a O,
    file: Option<PathBuf>,
}

impl<'a, O: Os> Frozen<'a, O> {
    /// Takes a snapshot of this UFS, which is a part of the running slot: of each there may be one at
    /// the same time.
    ///
    /// # Errors
    /// The system takes none (there are 20, there is no room for it); nothing of it is left then.
    pub(super) fn take(os: &'a O, part: Part, mount: &Mount) -> Result<Self> {
        let dir = mount.point.join(SNAPSHOTS);
        // newfs(8) makes it; a file system that was made otherwise has none.
        os.make_dir(&dir)?;
        let file = dir.join(format!("{}.{WORD}", std::process::id()));
        let (taken, held) = (Timestamp::now(), Held { os, file: Some(file.clone()) });
        let device = os.freeze(&file)?;
        // Else it is one of the file system below.
        still_there(os, mount)?;
        let word = match part {
            Part::Root => "frozen",
            Part::Config => "frozen-config",
        };
        let mounted = Mounted::private(os, &device, FsType::Ufs2.name(), word)?;
        Ok(Self { taken, device, mounted, file: held })
    }

    /// A moment that is not later than it.
    pub(super) fn taken(&self) -> Timestamp {
        self.taken
    }

    /// The device that has its blocks.
    pub(super) fn device(&self) -> &Path {
        &self.device
    }

    /// Opens its root.
    pub(super) fn open(&self) -> Result<O::Dir> {
        self.mounted.open()
    }

    /// Unmounts and removes it.
    pub(super) fn thaw(mut self) -> Result<()> {
        // Both are tried: the room that the snapshot takes is the running system's.
        let (unmounted, removed) = (self.mounted.unmount(), self.file.remove());
        unmounted.and(removed)
    }
}

impl<O: Os> Held<'_, O> {
    fn remove(&mut self) -> Result<()> {
        self.file.take().map_or(Ok(()), |file| patiently(|| self.os.thaw(&file)))
    }
}

/// Removes what the snapshots of a file system are in one that was copied by its blocks: files
/// without content.
pub(super) fn remove_names<D: Dir>(root: &D) -> Result<()> {
    let dir = OsStr::new(SNAPSHOTS);
    let there = if_there(root.stat(dir)).doing_to("reading the copy of", dir)?;
    if there.is_none_or(|meta| meta.kind != Kind::Dir) {
        return Ok(());
    }
    let dir = root.open_dir(dir).doing_to("opening the copy of", dir)?;
    let names = dir.names().doing_to("listing the copy of", SNAPSHOTS)?;
    names
        .iter()
        .try_for_each(|(name, _)| tree::remove(&dir, name, &Path::new(SNAPSHOTS).join(name)))
}

impl<O: Os> Drop for Held<'_, O> {
    fn drop(&mut self) {
        if let Err(error) = self.remove() {
            log::error!("{error}");
        }
    }
}
