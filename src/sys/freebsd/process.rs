//! Who keeps a mount busy, out of `kern.proc` (sysctl(3), sys/user.h).

use std::io;
use std::mem::offset_of;
use std::os::unix::process::CommandExt;
use std::process::Command;

use nix::libc::{self, c_int};
use nix::sys::stat::stat;

use super::mount;
use super::sysctl::{int_at, long_at, records, text_at, value_of};
use crate::mounts::Mount;
use crate::sys::Holder;

/// `COMMLEN` of sys/user.h with its NUL.
const COMMAND_ROOM: usize = 20;

/// Where `kf_file_fsid` is in a `kinfo_file`: in the union behind `kf_offset`, after the type,
/// three spare ints, 29 spare longs and the link count. sys/user.h promises that it stays there.
const FILE_FSID: usize = offset_of!(libc::kinfo_file, kf_offset) + 8 + 16 + 30 * 8;

/// `KVME_TYPE_VNODE` of sys/user.h.
const MAPPED_FILE: c_int = 2;

/// Processes with an open file, a working, root or jail directory, a program or a mapping on the
/// mount's file system.
///
/// The system's own processes have none of these and answer with an error, as does one that ended
/// meanwhile: they hold nothing.
pub(super) fn holders(mount: &Mount) -> io::Result<Vec<Holder>> {
    let Some(device) = device_of(mount) else { return Ok(Vec::new()) };
    let processes = value_of(&[libc::CTL_KERN, libc::KERN_PROC, libc::KERN_PROC_PROC])?;
    let mut holders = Vec::new();
    for record in records(&processes) {
        let Some(pid) = int_at(record, offset_of!(libc::kinfo_proc, ki_pid)) else { continue };
        if !uses(pid, device) && !maps(pid, device) {
            continue;
        }
        if let Ok(pid) = u32::try_from(pid) {
            let command = String::from_utf8_lossy(command_in(record)).into_owned();
            holders.push(Holder { pid, command });
        }
    }
    holders.sort_by_key(|h| h.pid);
    Ok(holders)
}

/// The number that stat(2) tells for files of the mount. The mount's point tells it, unless another
/// mount covers it; then the medium's node does, which for UFS is the same number.
fn device_of(mount: &Mount) -> Option<u64> {
    if mount::mount_at(&mount.point).is_ok_and(|top| top.id == mount.id) {
        return stat(&mount.point).ok().map(|s| s.st_dev);
    }
    let node = stat(mount.source.as_str()).ok()?;
    (node.st_mode & libc::S_IFMT == libc::S_IFCHR).then_some(node.st_rdev)
}

fn uses(pid: c_int, device: u64) -> bool {
    let open = value_of(&[libc::CTL_KERN, libc::KERN_PROC, libc::KERN_PROC_FILEDESC, pid]);
    open.is_ok_and(|open| {
        records(&open).any(|file| {
            let kind = int_at(file, offset_of!(libc::kinfo_file, kf_type));
            matches!(kind, Some(libc::KF_TYPE_VNODE | libc::KF_TYPE_FIFO))
                && long_at(file, FILE_FSID) == Some(device)
        })
    })
}

fn maps(pid: c_int, device: u64) -> bool {
    let mapped = value_of(&[libc::CTL_KERN, libc::KERN_PROC, libc::KERN_PROC_VMMAP, pid]);
    mapped.is_ok_and(|mapped| {
        records(&mapped).any(|map| {
            int_at(map, offset_of!(libc::kinfo_vmentry, kve_type)) == Some(MAPPED_FILE)
                && long_at(map, offset_of!(libc::kinfo_vmentry, kve_vn_fsid)) == Some(device)
        })
    })
}

/// Whether the process is of this program: numbers are used again, after a start for daemons' too.
pub(super) fn alive(pid: u32) -> bool {
    let theirs = i32::try_from(pid).ok().and_then(command);
    theirs.is_some() && theirs == command(nix::unistd::getpid().as_raw())
}

/// The name of the program that the process runs; `None` where there is no such process.
fn command(pid: c_int) -> Option<Vec<u8>> {
    let record = value_of(&[libc::CTL_KERN, libc::KERN_PROC, libc::KERN_PROC_PID, pid]).ok()?;
    // The number may be a thread's: its process has another one.
    int_at(&record, offset_of!(libc::kinfo_proc, ki_pid)).filter(|found| *found == pid)?;
    Some(command_in(&record).to_vec())
}

/// `ki_comm` of a `kinfo_proc`.
fn command_in(record: &[u8]) -> &[u8] {
    text_at(record, offset_of!(libc::kinfo_proc, ki_comm), COMMAND_ROOM)
}

/// Has a program forked: up to its exec our handlers take what is sent to our process group, which it
/// leaves before that. As `posix_spawn`(3) starts it (`RFSPAWN`, rfork(2)) it has none, and ends by the
/// Ctrl-C of a moment. It need not end when this process does, as on Linux: the device's open count
/// keeps a formatter that outlived a killed run from being overtaken, since claiming waits for it.
pub(in crate::sys) fn prepare(command: &mut Command) {
    // SAFETY: fork(2) and execve(2): nothing is called between them.
    unsafe { command.pre_exec(|| Ok(())) };
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::path::Path;

    #[test]
    fn this_process_holds_its_working_directory() {
        let here = std::env::current_dir().unwrap();
        let mount = mount::mount_at(Path::new(&here)).unwrap();
        let pid = std::process::id();
        let me = holders(&mount).unwrap().into_iter().find(|h| h.pid == pid).unwrap();
        let program = std::env::current_exe().unwrap();
        let program = program.file_name().unwrap().to_string_lossy().into_owned();
        assert!(program.starts_with(&me.command), "{program} {}", me.command);
    }

    #[test]
    fn only_processes_of_this_program_live() {
        assert!(alive(std::process::id()));
        for pid in [0, 1, 999_999, u32::MAX] {
            assert!(!alive(pid), "{pid}");
        }
        assert_eq!(command(1).unwrap(), b"init");
    }
}
