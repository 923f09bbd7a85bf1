//! Clearing what is mounted in the way.

use crate::error::{Error, Kind, Result};
use crate::mounts::Mount;
use crate::mounts::stale::{Obstacle, obstacles};
use crate::slot::Pair;
use crate::slot::view::View;
use crate::sys::Os;

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

/// Unmounts what is in the way of a verb that takes nothing away by force.
///
/// # Errors
/// It is busy, or foreign (exit 4).
pub fn gently<O: Os>(os: &O, view: &View, pairs: &[Pair]) -> Result<()> {
    let clear = || {
        for obstacle in find(os, view, pairs, false)? {
            unmount(os, obstacle.mount(), false)?;
        }
        Ok(())
    };
    clear().map_err(|error: Error| match error.kind {
        Kind::Busy => error.hint("end what uses it and unmount it, or use dualroot clean --force"),
        _ => error,
    })
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
