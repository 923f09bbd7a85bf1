//! Clearing what is mounted in the way.

use std::ffi::OsStr;
use std::path::PathBuf;

use super::frozen::{SNAPSHOTS, is_ours};
use crate::error::{Context, Error, Kind, Result};
use crate::mounts::Mount;
use crate::mounts::stale::{Obstacle, obstacles};
use crate::slot::Pair;
use crate::slot::discover::Layout;
use crate::slot::view::View;
use crate::sys::Os;
use crate::sys::tree::Dir;

/// What is in the way of the copies' mounts, topmost first.
///
/// # Errors
/// Something foreign is mounted there and `force` is false (exit 4).
pub fn find<O: Os>(os: &O, view: &View, pairs: &[Pair], force: bool) -> Result<Vec<Obstacle>> {
    let mut found: Vec<Obstacle> = Vec::new();
    for pair in pairs {
        let point = view.below(pair.part.alternate());
        let of_target = |m: &Mount| view.provider_of(m) == Some(pair.target);
        for obstacle in obstacles(&view.mounts, of_target, &view.root, &point) {
            if let (Obstacle::Foreign(mount), false) = (&obstacle, force) {
                return Err(foreign(os, mount));
            }
            if !found.contains(&obstacle) {
                found.push(obstacle);
            }
        }
    }
    Ok(found)
}

fn foreign<O: Os>(os: &O, mount: &Mount) -> Error {
    let cause = format!(
        "{} ({}) is mounted on {}{}",
        mount.source,
        mount.fs,
        mount.point.display(),
        holders(os, mount)
    );
    Error::new(Kind::Busy, "", cause)
        .hint(format!("unmount it: umount {}; or use --force", mount.point.display()))
}

/// `, used by 812 (vi), 900 (sh)`, or nothing.
fn holders<O: Os>(os: &O, mount: &Mount) -> String {
    let Ok(holders) = os.holders(mount) else { return String::new() };
    let each = holders.iter().map(|h| format!("process {} ({})", h.pid, h.command));
    let list = each.collect::<Vec<_>>().join(", ");
    if list.is_empty() { list } else { format!(", used by {list}") }
}

/// Unmounts one obstacle.
///
/// # Errors
/// It is busy (exit 4): the message names who keeps it so.
pub fn unmount<O: Os>(os: &O, mount: &Mount, force: bool) -> Result<()> {
    log::info!("clearing {} from {}", mount.source, mount.point.display());
    os.unmount(mount, force).map_err(|error| match error.kind {
        Kind::Busy => busy(os, mount).hint("end what uses it, or use --force"),
        _ => error,
    })
}

/// The error of a mount that stays busy, with those who keep it so.
pub fn busy<O: Os>(os: &O, mount: &Mount) -> Error {
    let cause = format!(
        "{} is mounted on {} and busy{}",
        mount.source,
        mount.point.display(),
        holders(os, mount)
    );
    Error::new(Kind::Busy, "", cause)
}

/// What runs that are gone had left behind.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Swept {
    /// Private mounts.
    pub mounts: Vec<Mount>,
    /// Snapshots of the sources.
    pub snapshots: Vec<PathBuf>,
}

/// Removes what runs that are gone left behind: private mounts, their directories, rehearsals, and
/// snapshots of the sources. What cannot be removed (just removed by another run, busy) is left.
pub fn sweep<O: Os>(os: &O, layout: &Layout) -> Swept {
    let mut swept = Swept::default();
    let run_dir = os.run_dir();
    let gone = |name: &OsStr| {
        let pid =
            name.to_str().and_then(|n| n.split_once('.')).and_then(|(pid, _)| pid.parse().ok());
        pid.is_some_and(|pid| !os.alive(pid))
    };
    for mount in os.mounts().unwrap_or_default().iter().rev() {
        let private = mount.point.parent() == Some(run_dir.as_path());
        if private && mount.point.file_name().is_some_and(gone) && is_done(os.unmount(mount, false))
        {
            swept.mounts.push(mount.clone());
        }
    }
    if let Ok(dir) = os.open_dir(&run_dir)
        && let Ok(names) = dir.names()
    {
        for (name, _) in names.iter().filter(|(name, _)| gone(name)) {
            let removed = dir.remove_dir(name).or_else(|_| dir.remove_file(name));
            is_done(removed.doing_to("removing", run_dir.join(name)));
        }
    }
    for point in layout.pairs.iter().filter_map(|pair| pair.mounted.as_ref()) {
        let place = point.join(SNAPSHOTS);
        let Ok(names) = os.open_dir(&place).and_then(|dir| dir.names().doing("listing")) else {
            continue;
        };
        for (name, _) in names.iter().filter(|(name, _)| is_ours(name) && gone(name)) {
            let file = place.join(name);
            if is_done(os.thaw(&file)) {
                swept.snapshots.push(file);
            }
        }
    }
    swept
}

/// Whether it was done; a failure is only logged.
fn is_done(result: Result<()>) -> bool {
    result.inspect_err(|error| log::debug!("{error}")).is_ok()
}
