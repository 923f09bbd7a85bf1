//! Sweeping up after runs that are gone.

use std::ffi::OsStr;
use std::path::PathBuf;

use super::mounted::run_dir;
use super::snapshot::frozen::is_ours;
use crate::error::{Context, Result};
use crate::mounts::Mount;
use crate::slot::discover::Layout;
use crate::sys::tree::Dir;
use crate::sys::{Os, SNAPSHOTS};

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
    let run_dir = run_dir(os);
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
    is_done(os.sweep_rehearsals(&gone));
    // They outlive the power, and another start may give us the number of the run that took them: we
    // have taken none yet.
    let own = format!("{}.", std::process::id());
    let left = |name: &OsStr| gone(name) || name.to_str().is_some_and(|n| n.starts_with(&own));
    for point in layout.pairs.iter().filter_map(|pair| pair.mounted.as_ref()) {
        let place = point.join(SNAPSHOTS);
        let Ok(names) = os.open_dir(&place).and_then(|dir| dir.names().doing("listing")) else {
            continue;
        };
        for (name, _) in names.iter().filter(|(name, _)| is_ours(name) && left(name)) {
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
