//! What is mounted where a run needs room, and whether it may be cleared. Pure.

use std::path::Path;

use super::Mount;

/// A mount that is in the way.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Obstacle {
    /// The target itself, mounted anywhere by anybody who is gone: to be unmounted.
    Stale(Mount),
    /// The target, mounted by a process of ours that is still alive (`show` reading a record).
    Live(Mount, u32),
    /// Something else: on the mount point that the run needs, or inside a stale mount.
    Foreign(Mount),
}

impl Obstacle {
    /// The mount itself.
    pub fn mount(&self) -> &Mount {
        match self {
            Self::Stale(mount) | Self::Live(mount, _) | Self::Foreign(mount) => mount,
        }
    }
}

/// Everything that is in the way of mounting `target` on `point`, topmost first: the order in
/// which it can be unmounted.
///
/// `of_target` tells whether a mount is of the target; `alive` whether a process lives; `root` is
/// never an obstacle, wherever it is mounted.
pub fn obstacles(
    mounts: &[Mount],
    of_target: impl Fn(&Mount) -> bool,
    root: &Path,
    point: &Path,
    run_dir: &Path,
    alive: impl Fn(u32) -> bool,
) -> Vec<Obstacle> {
    let stale_points: Vec<&Path> =
        mounts.iter().filter(|&m| of_target(m)).map(|m| m.point.as_path()).collect();
    let mut found = Vec::new();
    for mount in mounts.iter().rev() {
        let inside = stale_points.iter().any(|p| mount.point.starts_with(p));
        if of_target(mount) {
            found.push(match owner(&mount.point, run_dir) {
                Some(pid) if alive(pid) => Obstacle::Live(mount.clone(), pid),
                _ => Obstacle::Stale(mount.clone()),
            });
        } else if mount.point == point || (inside && mount.point != root) {
            found.push(Obstacle::Foreign(mount.clone()));
        }
    }
    found
}

/// Private mount points are named `RUN_DIR/PID.WORD`.
fn owner(point: &Path, run_dir: &Path) -> Option<u32> {
    let name = point.strip_prefix(run_dir).ok()?.to_str()?;
    name.split_once('.')?.0.parse().ok()
}
