//! `dualroot clean`: clear stale mounts.

use serde::Serialize;

use super::{Session, clear, lock};
use crate::error::Result;
use crate::sys::Os;

/// What was cleared.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Report {
    /// Version of this shape.
    pub schema: u32,
    /// In the order of the unmounting.
    pub cleared: Vec<Cleared>,
}

/// One mount that is gone.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Cleared {
    /// What was mounted.
    pub device: String,
    /// Where.
    pub point: String,
}

/// Unmounts every mount of the alternate slot.
///
/// # Errors
/// One is busy or something foreign is in the way: exit 4, unless forced.
pub fn run<O: Os>(os: &O, session: &Session, force: bool) -> Result<Report> {
    let (_locks, view, layout) = lock::observed(os, session, "clean", true, |_, _| Ok(()))?;
    let mut cleared = Vec::new();
    for obstacle in clear::find(os, &view, &layout.pairs, force)? {
        let mount = obstacle.mount();
        clear::unmount(os, mount, force)?;
        let point = mount.point.to_string_lossy().into_owned();
        cleared.push(Cleared { device: mount.source.clone(), point });
    }
    Ok(Report { schema: 1, cleared })
}
