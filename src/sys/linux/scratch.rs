//! A file for rehearsals.

use std::fs::{self, File};
use std::path::{Path, PathBuf};

use crate::error::{Context, Result};

/// A sparse file that goes away with its handle.
#[derive(Debug)]
pub(super) struct Scratch(PathBuf);

impl Scratch {
    /// Makes one of `size` bytes in `dir`.
    pub(super) fn new(dir: &Path, size: u64) -> Result<Self> {
        let path = dir.join(format!("{}.rehearsal", std::process::id()));
        let file = File::create(&path).doing_to("creating", &path)?;
        let scratch = Self(path);
        file.set_len(size).doing_to("setting the size of", &scratch.0)?;
        Ok(scratch)
    }

    /// Where it is.
    pub(super) fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        if let Err(e) = fs::remove_file(&self.0) {
            log::warn!("removing {}: {e}", self.0.display());
        }
    }
}
