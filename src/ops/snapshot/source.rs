//! The source of a copy, opened.

use std::ffi::OsStr;

use crate::error::{Context, Result};
use crate::ops::mounted::Mounted;
use crate::ops::uncovered;
use crate::slot::Pair;
use crate::slot::view::View;
use crate::sys::tree::Dir;
use crate::sys::{Os, Usage};

/// An opened source.
pub(super) struct Source<'a, O: Os> {
    /// Its root, without what is mounted on it.
    pub(super) dir: O::Dir,
    /// What it holds.
    pub(super) usage: Usage,
    /// The mount that we made where it was not mounted.
    mounted: Option<Mounted<'a, O>>,
}

impl<'a, O: Os> Source<'a, O> {
    pub(super) fn open(os: &'a O, view: &View, pair: &Pair) -> Result<Self> {
        if let Some(point) = &pair.mounted {
            let dir = uncovered::open(os, view, point)?;
            return Ok(Self { dir, usage: os.usage(point)?, mounted: None });
        }
        let device = view.devices.get(pair.source).path();
        let mounted = Mounted::private(os, &device, &pair.fs, "source")?;
        let (dir, usage) = (mounted.open()?, os.usage(mounted.point())?);
        Ok(Self { dir, usage, mounted: Some(mounted) })
    }

    /// A second handle on it.
    pub(super) fn reopen(&self) -> Result<O::Dir> {
        self.dir.open_dir(OsStr::new(".")).doing_to("opening", "/")
    }

    /// Gives it back.
    pub(super) fn close(self) -> Result<()> {
        let Self { dir, mounted, .. } = self;
        drop(dir);
        mounted.map_or(Ok(()), Mounted::unmount)
    }
}
