//! Linux: development, CI and Linux appliances.

mod boot;
mod device;
pub(super) mod extattr;
mod mount;
pub(super) mod priority;
mod process;
#[cfg(test)]
mod referee;
mod scratch;
mod sfdisk;
pub(super) mod tree;
mod view;
mod xfs;

pub(super) use process::prepare;
pub(super) use view::View;

use std::ffi::{OsStr, OsString};
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::command::Ended;
use super::{
    Access, Boot, Format, FsType, Generation, Holder, Os, Rewrite, Snapshots, Usage, command,
    rehearsed, unix,
};
use crate::device::Devices;
use crate::error::{Context, Error, Result};
use crate::mounts::Mount;
use crate::table::boot::Firmware;
use crate::table::drawing::Drawing;
use crate::table::flags::Change;
use crate::table::superblock::{Superblock, WINDOW};
use unix::FdDir;

/// The running Linux.
#[derive(Clone, Copy, Debug, Default)]
pub struct Native;

impl Os for Native {
    type Dir = FdDir;
    type Claim = device::Claimed;
    type Device = device::Direct;

    fn privileged(&self) -> bool {
        nix::unistd::geteuid().is_root()
    }

    fn mounts(&self) -> Result<Vec<Mount>> {
        mount::mounts()
    }

    fn devices(&self) -> Result<Devices> {
        device::devices()
    }

    fn usb_disks(&self) -> Result<Vec<String>> {
        device::usb_disks()
    }

    fn swaps(&self) -> Result<Vec<PathBuf>> {
        // proc_swaps(5): a heading, then one line each, the node first.
        let Some(text) = unix::read_file(Path::new("/proc/swaps"))? else { return Ok(Vec::new()) };
        let text = String::from_utf8_lossy(&text);
        let nodes = text.lines().skip(1).filter_map(|l| l.split_whitespace().next());
        Ok(nodes.map(PathBuf::from).collect())
    }

    fn canonical(&self, path: &Path) -> Result<PathBuf> {
        fs::canonicalize(path).doing_to("resolving", path)
    }

    fn read_file(&self, path: &Path) -> Result<Option<Vec<u8>>> {
        unix::read_file(path)
    }

    fn read_device(&self, device: &Path, offset: u64, length: usize) -> Result<Vec<u8>> {
        unix::read_device(device, offset, length)
    }

    fn open_device(&self, device: &Path) -> Result<device::Direct> {
        device::Direct::open(device)
    }

    fn refresh(&self, medium: &Path) -> Result<()> {
        // The medium has another cache than each of its partitions.
        device::drop_cache(medium)
    }

    fn ident(&self, medium: &Path) -> Result<Option<String>> {
        Ok(device::ident(medium))
    }

    fn rewrites(&self) -> bool {
        false
    }

    fn rewrite(&self, holder: &Path, _what: &Rewrite) -> Result<()> {
        Err(Error::refused("Linux writes no partition tables of its own").path(holder))
    }

    fn claim(&self, device: &Path) -> Result<device::Claimed> {
        device::Claimed::open(device)
    }

    fn format(&self, device: &Path, format: &Format) -> Result<()> {
        let mut args: Vec<OsString> = Vec::new();
        let mut add = |words: &[&str]| args.extend(words.iter().map(OsString::from));
        let program = match format.fs {
            FsType::Ext4 => {
                // No discard: the slot was just erased as far as safety asks, and on a cheap card
                // a discard of the whole slice takes minutes.
                add(&["-q", "-F", "-E", "nodiscard,lazy_itable_init=1"]);
                if let Some(label) = &format.label {
                    add(&["-L", label]);
                }
                if let Some(id) = &format.id {
                    add(&["-U", id]);
                }
                if let Some(inodes) = format.inodes {
                    add(&["-N", &inodes.to_string()]);
                }
                // By itself it goes by the size of the device, and by its sectors, which a rehearsal's
                // file does not have.
                if let Some(block) = format.block {
                    add(&["-b", &block.to_string()]);
                }
                ["/sbin/mkfs.ext4", "/usr/sbin/mkfs.ext4"]
            }
            FsType::Xfs => return xfs::format(device, format),
            FsType::Ufs2 => {
                return Err(Error::refused("Linux cannot make UFS2 file systems").path(device));
            }
        };
        args.push(device.into());
        command::run_stoppable(&program, &args).map(drop)
    }

    fn adopt(&self, device: &Path, format: &Format, grow: bool) -> Result<()> {
        if format.fs != FsType::Ext4 {
            let cause = format!("Linux gives no {} another identity", format.fs.name());
            return Err(Error::refused(cause).path(device));
        }
        let run = |program: [&str; 2], words: &[&str]| {
            let args: Vec<OsString> =
                words.iter().map(OsString::from).chain([device.into()]).collect();
            command::run_stoppable(&program, &args).map(drop).map_err(|e| e.path(device))
        };
        // The other two want a file system that was checked after it was mounted.
        run(["/sbin/e2fsck", "/usr/sbin/e2fsck"], &["-f", "-p"])?;
        let id = format.id.as_deref().unwrap_or("random");
        let label = format.label.as_deref().unwrap_or_default();
        run(["/sbin/tune2fs", "/usr/sbin/tune2fs"], &["-U", id, "-L", label])?;
        if grow {
            // tune2fs(8) has written to it.
            run(["/sbin/e2fsck", "/usr/sbin/e2fsck"], &["-f", "-p"])?;
            run(["/sbin/resize2fs", "/usr/sbin/resize2fs"], &[])?;
        }
        Ok(())
    }

    fn rehearse(&self, format: &Format, size: u64) -> Result<Superblock> {
        unix::make_dir(&self.run_dir())?;
        // The run directory is in memory, and the file is sparse: of an ext4 little more than the inode
        // tables' heads take room there, of an XFS nothing, whose log would.
        let file = scratch::Scratch::new(&self.run_dir(), size)?;
        if format.fs == FsType::Xfs {
            return xfs::rehearse(file.path(), format);
        }
        self.format(file.path(), format)?;
        rehearsed(&unix::read_device(file.path(), 0, WINDOW)?)
    }

    fn sweep_rehearsals(&self, _gone: &dyn Fn(&OsStr) -> bool) -> Result<()> {
        Ok(()) // they are in the run directory
    }

    fn inspect(&self, device: &Path, fs: FsType) -> Result<Option<String>> {
        match fs {
            FsType::Ext4 => {
                command::check(&["/sbin/e2fsck", "/usr/sbin/e2fsck"], &[Path::new("-fn"), device])
            }
            // xfs_repair(8) does not know a log that is to be replayed from damage.
            FsType::Xfs | FsType::Ufs2 => Ok(None),
        }
    }

    fn mount(&self, device: &Path, point: &Path, fs: &str, access: Access) -> Result<Mount> {
        mount::mount(device, point, fs, access)
    }

    fn unmount(&self, mount: &Mount, force: bool) -> Result<()> {
        mount::unmount(mount, force)
    }

    fn drop_cache(&self, device: &Path) -> Result<()> {
        device::drop_cache(device)
    }

    fn partition(&self, medium: &Path, drawing: &Drawing) -> Result<()> {
        sfdisk::partition(medium, drawing)
    }

    fn make_bootable(&self, medium: &Path, drawing: &Drawing, _root: &Path) -> Result<()> {
        sfdisk::make_bootable(medium, drawing)
    }

    fn set_boot(&self, medium: &Path, change: &Change) -> Result<()> {
        boot::set_boot(medium, change)
    }

    fn run_hook(&self, program: &Path, limit: Duration, stop: &dyn Fn() -> bool) -> Result<Ended> {
        command::run_limited(program, limit, stop)
    }

    fn reboot(&self) -> Result<()> {
        command::run(&["/sbin/reboot", "/usr/sbin/reboot"], &[] as &[&str]).map(drop)
    }

    fn snapshots(&self) -> Result<Snapshots> {
        Ok(Snapshots::None)
    }

    fn freeze(&self, file: &Path) -> Result<PathBuf> {
        Err(Error::refused("Linux takes no snapshots of file systems").path(file))
    }

    fn thaw(&self, _file: &Path) -> Result<()> {
        Ok(())
    }

    fn holders(&self, mount: &Mount) -> Result<Vec<Holder>> {
        process::holders(mount)
    }

    fn open_uncovered(&self, point: &Path, _generation: Generation) -> Result<FdDir> {
        view::open(point)
    }

    fn open_dir(&self, path: &Path) -> Result<FdDir> {
        FdDir::open(path).doing_to("opening", path)
    }

    fn make_dir(&self, path: &Path) -> Result<()> {
        unix::make_dir(path)
    }

    fn remove_dir(&self, path: &Path) -> Result<()> {
        fs::remove_dir(path).doing_to("removing", path)
    }

    fn usage(&self, path: &Path) -> Result<Usage> {
        let s = nix::sys::statvfs::statvfs(path)
            .map_err(std::io::Error::from)
            .doing_to("asking the space of", path)?;
        let unit = s.fragment_size();
        Ok(Usage {
            used_bytes: (s.blocks() - s.blocks_free()) * unit,
            free_bytes: s.blocks_free() * unit,
            used_inodes: s.files() - s.files_free(),
            free_inodes: if s.files() == 0 { u64::MAX } else { s.files_free() },
        })
    }

    fn forbids(&self) -> Result<Option<String>> {
        Ok(None)
    }

    fn packages(&self, _root: &Path) -> Result<Option<Vec<(String, String)>>> {
        Ok(None) // dpkg's status file is read as it is
    }

    fn boot(&self) -> Result<Boot> {
        // The kernel's parameters (bootparam(7)): of several, the last one counts.
        let line = unix::read_file(Path::new("/proc/cmdline"))?.unwrap_or_default();
        let line = String::from_utf8_lossy(&line);
        let root =
            line.split_ascii_whitespace().filter_map(|w| w.strip_prefix("root=")).next_back();
        let firmware = if Path::new("/sys/firmware/efi").exists() {
            Some(Firmware::Uefi)
        } else {
            cfg!(any(target_arch = "x86", target_arch = "x86_64")).then_some(Firmware::Bios)
        };
        let id = unix::read_file(Path::new("/proc/sys/kernel/random/boot_id"))?.unwrap_or_default();
        let id = String::from_utf8_lossy(&id).trim().to_owned();
        let roots = root.map(str::to_owned).into_iter().collect();
        Ok(Boot { roots, firmware, id, ..Boot::default() })
    }

    fn efi_program(&self) -> Result<Option<String>> {
        Ok(None) // no program of FreeBSD's has started this kernel
    }

    fn run_dir(&self) -> PathBuf {
        PathBuf::from("/run/dualroot")
    }

    fn alive(&self, pid: u32) -> bool {
        // Numbers are used again: only a program of this name is one of ours.
        let name = |pid: &str| fs::read(Path::new("/proc").join(pid).join("comm")).ok();
        let theirs = name(&pid.to_string());
        theirs.is_some() && theirs == name("self")
    }
}
