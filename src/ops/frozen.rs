//! A snapshot of a mounted file system, mounted itself, given back whatever happens.

use std::ffi::OsStr;
use std::path::{Path, PathBuf};

use super::mounted::{Mounted, patiently};
use crate::error::Result;
use crate::sys::{FsType, Os};

/// Where UFS keeps its snapshots (`mksnap_ffs`(8), dump(8) `-L`): never copied.
pub(super) const SNAPSHOTS: &str = ".snap";
/// The last part of our snapshots' names; the first is the process id of the run.
const WORD: &str = "dualroot";

/// Whether a snapshot of this name is of this program.
pub(super) fn is_ours(name: &OsStr) -> bool {
    Path::new(name).extension() == Some(OsStr::new(WORD))
}

/// One moment of a file system, to be read. Give it back with [`Frozen::thaw`], which tells of
/// errors; dropping it does the same, and can only log them.
#[must_use]
pub(super) struct Frozen<'a, O: Os> {
    os: &'a O,
    file: Option<PathBuf>,
    mounted: Option<Mounted<'a, O>>,
}

impl<'a, O: Os> Frozen<'a, O> {
    /// Takes a snapshot of the UFS mounted on `point`.
    ///
    /// # Errors
    /// The system takes none (there are 20, there is no room for it); nothing of it is left then.
    pub(super) fn take(os: &'a O, point: &Path) -> Result<Self> {
        let dir = point.join(SNAPSHOTS);
        // newfs(8) makes it; a file system that was made otherwise has none.
        os.make_dir(&dir)?;
        let file = dir.join(format!("{}.{WORD}", std::process::id()));
        let mut frozen = Self { os, file: Some(file.clone()), mounted: None };
        let device = os.freeze(&file)?;
        frozen.mounted = Some(Mounted::private(os, &device, FsType::Ufs2.name(), "frozen")?);
        Ok(frozen)
    }

    /// Where it is mounted.
    pub(super) fn point(&self) -> &Path {
        self.mounted.as_ref().map_or(Path::new(""), Mounted::point)
    }

    /// Unmounts and removes it.
    pub(super) fn thaw(mut self) -> Result<()> {
        self.give_back()
    }

    fn give_back(&mut self) -> Result<()> {
        // Both are tried: the room that the snapshot takes is the running system's.
        let unmounted = self.mounted.take().map_or(Ok(()), Mounted::unmount);
        let removed = self.file.take().map_or(Ok(()), |file| patiently(|| self.os.thaw(&file)));
        unmounted.and(removed)
    }
}

impl<O: Os> Drop for Frozen<'_, O> {
    fn drop(&mut self) {
        if let Err(error) = self.give_back() {
            log::error!("{error}");
        }
    }
}
