//! Clearing what is mounted in the way.

use std::thread::sleep;
use std::time::{Duration, Instant};

use crate::error::{Error, Kind, Result};
use crate::mounts::Mount;
use crate::mounts::stale::{Obstacle, obstacles};
use crate::slot::Pair;
use crate::slot::discover::View;
use crate::sys::Os;

/// How long a live reader of ours (`show`) may take to go.
const LIVE_WAIT: Duration = Duration::from_secs(5);

/// What is in the way of the copies' mounts, topmost first. Looks again while a `show` reads.
///
/// # Errors
/// Something foreign is mounted there and `force` is false (exit 4).
pub fn find<O: Os>(os: &O, view: &mut View, pairs: &[Pair], force: bool) -> Result<Vec<Obstacle>> {
    let begun = Instant::now();
    loop {
        let found = all(os, view, pairs);
        if let Some(Obstacle::Foreign(mount)) =
            found.iter().find(|o| matches!(o, Obstacle::Foreign(_)))
            && !force
        {
            return Err(foreign(os, mount));
        }
        let live = found.iter().find_map(|o| match o {
            Obstacle::Live(mount, pid) => Some((mount, pid)),
            _ => None,
        });
        let Some((mount, pid)) = live else { return Ok(found) };
        if begun.elapsed() > LIVE_WAIT {
            let cause = format!("{} is in use by dualroot, process {pid}", mount.source);
            return Err(Error::new(Kind::Busy, "", cause));
        }
        sleep(Duration::from_millis(50));
        view.mounts = os.mounts()?;
    }
}

fn all<O: Os>(os: &O, view: &View, pairs: &[Pair]) -> Vec<Obstacle> {
    let mut found: Vec<Obstacle> = Vec::new();
    for pair in pairs {
        let point = view.below(pair.part.alternate());
        let of_target = |m: &Mount| view.provider_of(m) == Some(pair.target);
        let alive = |pid| os.alive(pid);
        for obstacle in obstacles(&view.mounts, of_target, &view.root, &point, &os.run_dir(), alive)
        {
            if !found.contains(&obstacle) {
                found.push(obstacle);
            }
        }
    }
    found
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
    os.unmount(mount, force).map_err(|error| {
        if error.kind != Kind::Busy {
            return error;
        }
        let cause = format!(
            "{} is mounted on {} and busy{}",
            mount.source,
            mount.point.display(),
            holders(os, mount)
        );
        Error::new(Kind::Busy, "", cause).hint("end what uses it, or use --force")
    })
}

/// Removes the private mount points of runs that are gone.
pub fn sweep<O: Os>(os: &O) -> Result<()> {
    use crate::sys::tree::Dir;
    let run_dir = os.run_dir();
    let Ok(dir) = os.open_dir(&run_dir) else { return Ok(()) };
    let Ok(names) = dir.names() else { return Ok(()) };
    for (name, _) in names.iter() {
        let Some((pid, _)) = name.to_str().and_then(|n| n.split_once('.')) else { continue };
        if pid.parse().is_ok_and(|pid| !os.alive(pid)) {
            os.remove_dir(&run_dir.join(name))?;
        }
    }
    Ok(())
}
