//! Who keeps a mount busy, out of procfs (proc(5)).

use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::Command;
use std::thread::sleep;
use std::time::Duration;

use nix::libc;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

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

/// `proc_pid_maps(5)`: the fourth field is the device in hexadecimal.
fn maps(process: &Path, major: u32, minor: u32) -> bool {
    let device = format!("{major:02x}:{minor:02x}");
    fs::read(process.join("maps")).is_ok_and(|text| {
        String::from_utf8_lossy(&text)
            .lines()
            .any(|l| l.split_whitespace().nth(3) == Some(device.as_str()))
    })
}

/// Ends every holder of the mount: SIGTERM, and SIGKILL for those that stay, as `fuser -k` does.
/// Never this process or one that it descends from: then the mount stays busy.
pub(super) fn end_holders(mount: &Mount) -> Result<()> {
    let spared = ancestors();
    for signal in [Signal::SIGTERM, Signal::SIGKILL] {
        for _ in 0..20 {
            let holders = holders(mount)?;
            let to_end: Vec<_> = holders.iter().filter(|h| !spared.contains(&h.pid)).collect();
            if to_end.is_empty() {
                return Ok(());
            }
            for holder in to_end {
                log::warn!("ending process {} ({}): {signal}", holder.pid, holder.command);
                let pid = Pid::from_raw(i32::try_from(holder.pid).unwrap_or(i32::MAX));
                // It may be gone by now; whoever stays is seen in the next round.
                let _ = kill(pid, signal);
            }
            sleep(Duration::from_millis(100));
        }
    }
    Ok(())
}

/// This process, its parent, and so on.
fn ancestors() -> Vec<u32> {
    let mut found = vec![std::process::id()];
    // proc_pid_stat(5): the parent is the second word behind the command in parentheses.
    let parent = |pid: u32| -> Option<u32> {
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
        stat.rsplit_once(')')?.1.split_whitespace().nth(1)?.parse().ok()
    };
    while let Some(pid) = found.last().copied().and_then(parent).filter(|p| *p > 0) {
        found.push(pid);
    }
    found
}

/// Lets a program end when this process does: a formatter that outlived a killed run would work
/// against the next one (`PR_SET_PDEATHSIG`, prctl(2); it goes with the thread that waits for it).
pub(in crate::sys) fn prepare(command: &mut Command) {
    let us = nix::unistd::getpid();
    let last = move || {
        nix::sys::prctl::set_pdeathsig(Signal::SIGKILL)?;
        // We may have been gone before that.
        if nix::unistd::getppid() == us { Ok(()) } else { Err(io::ErrorKind::BrokenPipe.into()) }
    };
    // SAFETY: prctl(2) and getppid(2) may be called between fork and exec, and nothing else is.
    unsafe { command.pre_exec(last) };
}
