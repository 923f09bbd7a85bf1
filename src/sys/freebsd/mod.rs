//! FreeBSD 13 and later.

mod cache;
mod device;
mod efi;
pub(super) mod extattr;
mod gpart;
mod kenv;
mod md;
mod mount;
mod part;
pub(super) mod priority;
mod process;
#[cfg(test)]
mod referee;
mod snapshot;
mod sysctl;
pub(super) mod tree;
mod ufs;
mod view;

pub(super) use process::prepare;
pub(super) use view::View;

use std::ffi::OsStr;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::command::Ended;
use super::{
    Access, Boot, Format, FsType, Generation, Holder, MARK, NEXTBOOT, Os, Rewrite, Snapshots,
    Usage, command, unix,
};
use crate::device::Devices;
use crate::error::{Context, Result};
use crate::mounts::Mount;
use crate::slot::loader;
use crate::table::boot::Firmware;
use crate::table::drawing::Drawing;
use crate::table::flags::Change;
use crate::table::superblock::Superblock;
use unix::FdDir;

/// `G_F_FOOTSHOOTING` of geom(4)'s `kern.geom.debugflags`: whole disks can then be written to
/// while they are mounted.
const FOOT_SHOOTING: i32 = 0x10;

/// Where the ports tree puts pkg(8). The base system's `/usr/sbin/pkg` only installs it.
const PKG: &str = "/usr/local/sbin/pkg";

/// What tells this start from every other one: random, or, where the kernel has no such number yet, the
/// moment, which moves with every step of the clock.
fn start_id() -> Result<String> {
    let id = sysctl::value(c"kern.boot_id").or_else(|_| sysctl::value(c"kern.boottime"))?;
    // 16 bytes, or a struct timeval of as many.
    Ok(id.first_chunk().map_or_else(String::new, |id| format!("{:032x}", u128::from_be_bytes(*id))))
}

/// The running FreeBSD.
#[derive(Clone, Copy, Debug, Default)]
pub struct Native;

impl Native {
    /// The running FreeBSD.
    pub fn new() -> Self {
        Self
    }
}

impl Os for Native {
    type Dir = FdDir;
    type Claim = device::Claimed;
    type Device = fs::File;

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
        let output = command::run(&["/sbin/camcontrol"], &["devlist", "-v"])?;
        Ok(device::on_usb(&String::from_utf8_lossy(&output.stdout)))
    }

    fn swaps(&self) -> Result<Vec<PathBuf>> {
        device::swaps()
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

    fn open_device(&self, device: &Path) -> Result<fs::File> {
        // A character device has no cache.
        fs::File::open(device).doing_to("opening", device)
    }

    fn refresh(&self, _medium: &Path) -> Result<()> {
        Ok(()) // character devices have no buffers
    }

    fn ident(&self, medium: &Path) -> Result<Option<String>> {
        device::ident(medium)
    }

    fn rewrites(&self) -> bool {
        true
    }

    fn rewrite(&self, holder: &Path, what: &Rewrite) -> Result<()> {
        part::rewrite(&self.run_dir(), holder, what)
    }

    fn claim(&self, device: &Path) -> Result<device::Claimed> {
        device::Claimed::open(device)
    }

    fn format(&self, device: &Path, format: &Format) -> Result<()> {
        ufs::format(device, format)
    }

    fn adopt(&self, device: &Path, format: &Format, grow: bool) -> Result<()> {
        ufs::adopt(device, format, grow)
    }

    fn rehearse(&self, format: &Format, size: u64) -> Result<Superblock> {
        ufs::rehearse(format, size)
    }

    fn sweep_rehearsals(&self, gone: &dyn Fn(&OsStr) -> bool) -> Result<()> {
        ufs::sweep_rehearsals(gone)
    }

    fn inspect(&self, device: &Path, fs: FsType) -> Result<Option<String>> {
        match fs {
            // -f: whatever its clean flag says.
            FsType::Ufs2 => {
                command::check(&["/sbin/fsck_ffs"], &[Path::new("-f"), Path::new("-n"), device])
            }
            FsType::Ext4 | FsType::Xfs => Ok(None),
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
        gpart::partition(medium, drawing)
    }

    fn make_bootable(&self, medium: &Path, drawing: &Drawing, root: &Path) -> Result<()> {
        gpart::make_bootable(medium, drawing, root)
    }

    fn set_boot(&self, medium: &Path, change: &Change) -> Result<()> {
        part::set_boot(medium, change)
    }

    fn run_hook(&self, program: &Path, limit: Duration, stop: &dyn Fn() -> bool) -> Result<Ended> {
        command::run_limited(program, limit, stop)
    }

    fn reboot(&self) -> Result<()> {
        command::run(&["/sbin/reboot"], &[] as &[&str]).map(drop)
    }

    fn snapshots(&self) -> Result<Snapshots> {
        snapshot::kinds()
    }

    fn freeze(&self, file: &Path) -> Result<PathBuf> {
        snapshot::freeze(file)
    }

    fn thaw(&self, file: &Path) -> Result<()> {
        snapshot::thaw(file)
    }

    fn holders(&self, mount: &Mount) -> Result<Vec<Holder>> {
        process::holders(mount).doing_to("asking who uses", &mount.point)
    }

    fn open_uncovered(&self, point: &Path, generation: Generation) -> Result<FdDir> {
        view::open(point, generation)
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
            used_bytes: s.blocks().saturating_sub(s.blocks_free()).saturating_mul(unit),
            // The reserve (tunefs -m) is for root, so it counts as free.
            free_bytes: s.blocks_free().saturating_mul(unit),
            used_inodes: s.files().saturating_sub(s.files_free()),
            free_inodes: if s.files() == 0 { u64::MAX } else { s.files_free() },
        })
    }

    fn forbids(&self) -> Result<Option<String>> {
        let level = sysctl::int(c"kern.securelevel")?;
        if level > 0 {
            // security(7): no clearing of system flags, no writing to disks that are mounted.
            return Ok(Some(format!("kern.securelevel is {level}")));
        }
        let flags = sysctl::int(c"kern.geom.debugflags")?;
        Ok((flags & FOOT_SHOOTING != 0).then(|| {
            format!("kern.geom.debugflags is {flags:#x}: GEOM does not protect mounted disks")
        }))
    }

    fn packages(&self, root: &Path) -> Result<Option<Vec<(String, String)>>> {
        if !root.join("var/db/pkg/local.sqlite").exists() || !Path::new(PKG).exists() {
            return Ok(None);
        }
        let mut args: Vec<&OsStr> = Vec::new();
        if root != Path::new("/") {
            args.extend([OsStr::new("-r"), root.as_os_str()]);
        }
        args.extend(["query", "%n\t%v"].map(OsStr::new));
        let output = command::run(&[PKG], &args)?;
        let text = String::from_utf8_lossy(&output.stdout);
        let pairs = text.lines().filter_map(|line| line.split_once('\t'));
        Ok(Some(pairs.map(|(name, version)| (name.to_owned(), version.to_owned())).collect()))
    }

    fn boot(&self) -> Result<Boot> {
        let roots = kenv::value(c"vfs.root.mountfrom").unwrap_or_default();
        // Only x86 has it.
        let firmware = match sysctl::string(c"machdep.bootmethod").as_deref() {
            Ok("BIOS") => Some(Firmware::Bios),
            Ok("UEFI") => Some(Firmware::Uefi),
            _ => None,
        };
        Ok(Boot {
            loader: kenv::value(c"currdev").or_else(|| kenv::value(c"loaddev")),
            roots: loader::roots(&roots).map(str::to_owned).collect(),
            firmware,
            // The Lua loader leaves the name, Forth's only that it has looked (support.4th).
            nextboot: kenv::value(c"nextboot_conf")
                .or_else(|| kenv::value(c"nextboot_enable").map(|_| NEXTBOOT.to_owned()))
                .map(PathBuf::from),
            trial: kenv::value(MARK),
            id: start_id()?,
        })
    }

    fn efi_program(&self) -> Result<Option<String>> {
        Ok(efi::program())
    }

    fn run_dir(&self) -> PathBuf {
        // Emptied at boot (rc.d/cleanvar).
        PathBuf::from("/var/run/dualroot")
    }

    fn alive(&self, pid: u32) -> bool {
        process::alive(pid)
    }
}
