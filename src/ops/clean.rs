//! `dualroot clean`: clear stale mounts, and what runs that are gone left.

use std::path::PathBuf;

use serde::Serialize;

use super::lock::{self, Observed};
use super::{Session, clear};
use crate::error::Result;
use crate::mounts::Mount;
use crate::sys::Os;

/// What was cleared.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Report {
    /// Version of this shape.
    pub schema: u32,
    /// In the order of the unmounting.
    pub cleared: Vec<Cleared>,
    /// Snapshots of file systems that runs which are gone had left, removed.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub snapshots: Vec<String>,
}

/// One mount that is gone.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Cleared {
    /// What was mounted.
    pub device: String,
    /// Where.
    pub point: String,
}

impl Cleared {
    fn new(mount: &Mount) -> Self {
        let point = mount.point.to_string_lossy().into_owned();
        Self { device: mount.source.clone(), point }
    }
}

/// Unmounts every mount of the alternate slot.
///
/// # Errors
/// One is busy or something foreign is in the way: exit 4, unless forced.
pub fn run<O: Os>(os: &O, session: &Session, force: bool) -> Result<Report> {
    let Observed { locks: _locks, view, layout, swept } =
        lock::observed(os, session, "clean", true, |_, _| Ok(()))?;
    let mut cleared: Vec<Cleared> = swept.mounts.iter().map(Cleared::new).collect();
    for obstacle in clear::find(os, &view, &layout.pairs, force)? {
        clear::unmount(os, obstacle.mount(), force)?;
        cleared.push(Cleared::new(obstacle.mount()));
    }
    let name = |file: &PathBuf| file.to_string_lossy().into_owned();
    Ok(Report { schema: 1, cleared, snapshots: swept.snapshots.iter().map(name).collect() })
}
