//! Snapshots of a mounted UFS, by `mksnap_ffs`(8) and mdconfig(8).
//!
//! A snapshot is a file as large as its file system, in which every block that is overwritten or
//! freed later is kept. As a read-only memory disk it is a clean file system of that moment, with
//! the label and the ufsid of the living one; the snapshots in it are empty files.

use std::ffi::OsStr;
use std::fs;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use super::{md, sysctl};
use crate::error::{Context, Result};
use crate::sys::{Snapshots, command};

/// From this `__FreeBSD_version` on, snapshots and soft updates journaling go together. (13.2 takes
/// them already; its journal's recovery is not trusted with them here.)
const JOURNALED: i32 = 1_400_000;

pub(super) fn kinds() -> Result<Snapshots> {
    let version = sysctl::int(c"kern.osreldate")?;
    Ok(if version < JOURNALED { Snapshots::Plain } else { Snapshots::Journaled })
}

/// All writing to the file system stands still meanwhile, for as long as its cylinder groups take.
pub(super) fn freeze(file: &Path) -> Result<PathBuf> {
    command::run(&["/sbin/mksnap_ffs"], &[file]).map_err(|e| e.path(file))?;
    md::attach(&["-t", "vnode", "-o", "readonly", "-f"].map(OsStr::new), file.as_os_str())
}

pub(super) fn thaw(file: &Path) -> Result<()> {
    for disk in md::backed_by(file)? {
        md::detach(&disk)?;
    }
    match fs::remove_file(file) {
        Err(e) if e.kind() != ErrorKind::NotFound => Err(e).doing_to("removing", file),
        _ => Ok(()),
    }
}
