//! What is mounted where a run needs room, and whether it may be cleared. Pure.

use std::path::Path;

use super::Mount;

/// A mount that is in the way.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Obstacle {
    /// The target itself, mounted anywhere: to be unmounted. Whoever mounted it is gone, since the
    /// medium's lock is held: `show` and `verify` hold it too for as long as they mount.
    Stale(Mount),
    /// Something else: on the mount point that the run needs, or inside or over a stale mount.
    Foreign(Mount),
}

impl Obstacle {
    /// The mount itself.
    pub fn mount(&self) -> &Mount {
        match self {
            Self::Stale(mount) | Self::Foreign(mount) => mount,
        }
    }
}

/// Everything that is in the way of mounting the target on `point`, topmost first: the order in
/// which it can be unmounted.
///
/// `of_target` tells whether a mount is of the target; `root` is never an obstacle, wherever it
/// is mounted.
pub fn obstacles(
    mounts: &[Mount],
    of_target: impl Fn(&Mount) -> bool,
    root: &Path,
    point: &Path,
) -> Vec<Obstacle> {
    let stale: Vec<(usize, &Mount)> =
        mounts.iter().enumerate().filter(|(_, m)| of_target(m)).collect();
    let mut found = Vec::new();
    for (n, mount) in mounts.iter().enumerate().rev() {
        let near = stale.iter().any(|(below, stale)| {
            let inside = mount.point.starts_with(&stale.point);
            // Mounted later on a directory above: the stale mount cannot be reached.
            let over = n > *below && stale.point.starts_with(&mount.point);
            inside || over
        });
        if of_target(mount) {
            found.push(Obstacle::Stale(mount.clone()));
        } else if mount.point == point || (near && mount.point != root) {
            found.push(Obstacle::Foreign(mount.clone()));
        }
    }
    found
}
