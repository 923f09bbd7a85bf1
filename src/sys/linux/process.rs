//! Who keeps a mount busy, out of procfs (proc(5)).

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use nix::libc;

use crate::error::{Context, Result};
use crate::mounts::Mount;
use crate::sys::Holder;

/// Processes with an open file, a working or root directory, a program or a mapping on the
/// mount's file system.
pub(super) fn holders(mount: &Mount) -> Result<Vec<Holder>> {
    let Some((major, minor)) = mount.number else { return Ok(Vec::new()) };
    let (Ok(major), Ok(minor)) = (u32::try_from(major), u32::try_from(minor)) else {
        return Ok(Vec::new());
    };
    let device = libc::makedev(major, minor);
    let mut holders = Vec::new();
    for entry in fs::read_dir("/proc").doing_to("reading", "/proc")?.flatten() {
        let Some(pid) = entry.file_name().to_str().and_then(|n| n.parse().ok()) else { continue };
        // A process that ends meanwhile holds nothing.
        if uses(&entry.path(), device) || maps(&entry.path(), major, minor) {
            let command = fs::read_to_string(entry.path().join("comm")).unwrap_or_default();
            holders.push(Holder { pid, command: command.trim().to_owned() });
        }
    }
    holders.sort_by_key(|h| h.pid);
    Ok(holders)
}

fn uses(process: &Path, device: u64) -> bool {
    let on_device = |link: &Path| fs::metadata(link).is_ok_and(|m| m.dev() == device);
    ["cwd", "root", "exe"].iter().any(|link| on_device(&process.join(link)))
        || fs::read_dir(process.join("fd"))
            .is_ok_and(|fds| fds.flatten().any(|fd| on_device(&fd.path())))
}

/// proc_pid_maps(5): the fourth field is the device in hexadecimal.
fn maps(process: &Path, major: u32, minor: u32) -> bool {
    let device = format!("{major:02x}:{minor:02x}");
    fs::read(process.join("maps")).is_ok_and(|text| {
        String::from_utf8_lossy(&text)
            .lines()
            .any(|l| l.split_whitespace().nth(3) == Some(device.as_str()))
    })
}
