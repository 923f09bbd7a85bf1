//! Providers, swap and dump devices, claimed devices and flushing.

use std::ffi::CString;
use std::fs::{File, OpenOptions, TryLockError};
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::libc::{self, c_int};

use super::sysctl;
use crate::device::{Devices, geom};
use crate::error::{Context, Error, Kind, Result};
use crate::sys;

// disk(4)'s ioctls (sys/disk.h). The name is as long as MAXPATHLEN.
nix::ioctl_read!(diocgsectorsize, b'd', 128, libc::c_uint);
nix::ioctl_read!(diocgmediasize, b'd', 129, libc::off_t);
nix::ioctl_none!(diocgflush, b'd', 135);
nix::ioctl_read!(diocgident, b'd', 137, [u8; 256]);
nix::ioctl_read!(diocgprovidername, b'd', 138, [u8; 1024]);

/// Bytes that are erased with one call.
const WIPE_MAX: u64 = 1 << 20;

fn confxml() -> Result<String> {
    let text = sysctl::value(c"kern.geom.confxml")?;
    Ok(String::from_utf8_lossy(&text).into_owned())
}

/// Every provider of GEOM's mesh.
pub(super) fn devices() -> Result<Devices> {
    let mut devices = geom::parse(&confxml()?)?;
    for provider in &mut devices.providers {
        provider.removable = is_removable(&provider.name);
    }
    Ok(devices)
}

/// Whether da(4) took the medium for one that can be taken out of its drive. GEOM does not tell.
fn is_removable(name: &str) -> bool {
    let unit = name.strip_prefix("da").and_then(|unit| unit.parse::<u32>().ok());
    let variable = unit.and_then(|n| CString::new(format!("kern.cam.da.{n}.flags")).ok());
    // A kernel that has no such variable says nothing.
    let flags = variable.and_then(|name| sysctl::string(&name).ok());
    flags.is_some_and(|flags| flags.contains("PACK_REMOVABLE"))
}

/// The disks behind umass(4), out of `camcontrol devlist -v` (camcontrol(8)):
///
/// ```text
/// scbus2 on umass-sim0 bus 0:
/// <Generic Flash Disk 8.07>          at scbus2 target 0 lun 0 (pass1,da0)
/// ```
pub(super) fn on_usb(list: &str) -> Vec<String> {
    let mut usb = false;
    let mut names = Vec::new();
    for line in list.lines() {
        if let Some((_, bus)) = line.split_once(" on ").filter(|_| line.starts_with("scbus")) {
            usb = bus.starts_with("umass-sim");
        } else if usb && let Some((_, peripherals)) = line.rsplit_once('(') {
            let all = peripherals.trim_end_matches(')').split(',');
            names.extend(all.filter(|name| name.starts_with("da")).map(str::to_owned));
        }
    }
    names
}

/// Swap devices (`vm.swap_info`, swapctl(8)) and where the kernel dumps to
/// (`kern.shutdown.dumpdevname`, dumpon(8)). A swap file has no node: its mount is busy.
pub(super) fn swaps() -> Result<Vec<PathBuf>> {
    // struct xswdev of vm/vm_param.h: version, device, flags, blocks, blocks in use.
    const DEVICE: usize = 8;
    let doing = "reading vm.swap_info";
    let numbers = sysctl::numbers(c"vm.swap_info").doing(doing)?;
    let mut nodes = Vec::new();
    for index in 0.. {
        let numbers: Vec<c_int> = numbers.iter().copied().chain([index]).collect();
        let entry = match sysctl::value_of(&numbers) {
            Ok(entry) => entry,
            Err(e) if e.raw_os_error() == Some(libc::ENOENT) => break,
            Err(e) => return Err(e).doing(doing),
        };
        nodes.extend(sysctl::long_at(&entry, DEVICE).and_then(device_name));
    }
    let dump = sysctl::string(c"kern.shutdown.dumpdevname")?;
    nodes.extend(dump.split(',').filter(|name| !name.is_empty()).map(str::to_owned));
    Ok(nodes.into_iter().map(|name| Path::new("/dev").join(name)).collect())
}

/// devname(3); `None` for a number that is no node any more.
fn device_name(device: u64) -> Option<String> {
    let mut name = [0_u8; 64]; // SPECNAMELEN with its NUL (sys/param.h)
    let room = c_int::try_from(name.len()).ok()?;
    // SAFETY: devname(3): at most `room` bytes are written behind the pointer, a NUL among them.
    unsafe { libc::devname_r(device, libc::S_IFCHR, name.as_mut_ptr().cast(), room) };
    let name = sysctl::text_at(&name, 0, name.len());
    // "#NODEV" and "#C:0x12" are not names.
    (!name.is_empty() && !name.starts_with(b"#"))
        .then(|| String::from_utf8_lossy(name).into_owned())
}

/// Bytes of an open medium.
pub(super) fn size(file: &File) -> io::Result<u64> {
    let mut size: libc::off_t = 0;
    // SAFETY: DIOCGMEDIASIZE (sys/disk.h) writes an off_t at the pointer.
    unsafe { diocgmediasize(file.as_raw_fd(), &raw mut size) }?;
    u64::try_from(size).map_err(io::Error::other)
}

fn sector(file: &File) -> io::Result<u64> {
    let mut sector: libc::c_uint = 0;
    // SAFETY: DIOCGSECTORSIZE (sys/disk.h) writes a u_int at the pointer.
    unsafe { diocgsectorsize(file.as_raw_fd(), &raw mut sector) }?;
    Ok(u64::from(sector.max(1)))
}

/// Empties the device's own write cache, where it has one. Asks for a handle open for writing.
fn flush_cache(file: &File) -> io::Result<()> {
    // SAFETY: DIOCGFLUSH (sys/disk.h) takes no argument.
    match unsafe { diocgflush(file.as_raw_fd()) } {
        // A driver without a cache says the one, a class that does not know the call the other
        // (ENOIOCTL inside the kernel).
        Ok(_) | Err(Errno::EOPNOTSUPP | Errno::ENOTTY) => Ok(()),
        Err(e) => Err(e.into()),
    }
}

/// Refuses a provider that is open more often than `ours`.
fn refuse_users(device: &Path, name: &str, ours: u32) -> Result<()> {
    let opens = geom::opens(&confxml()?, name)?.unwrap_or_default();
    let cause = if opens.writers > ours || opens.exclusive > 0 {
        "it, or something on it, is open for writing"
    } else if opens.readers > ours {
        "it, or something on it, is mounted read-only or being read"
    } else {
        return Ok(());
    };
    let hint = format!("see mount; swapinfo; gmirror status; fstat /dev/{name}");
    Err(Error::new(Kind::Busy, "claiming", cause).path(device).hint(hint))
}

/// Opens a device that nobody uses. What is asked first is asked because opening for writing would
/// tear a medium from under its read-only mounts, which GEOM does not protect.
fn open_for_writing(device: &Path) -> Result<File> {
    let node = device.canonicalize().doing_to("resolving", device)?;
    if let Ok(name) = node.strip_prefix("/dev") {
        refuse_users(device, &name.to_string_lossy(), 0)?;
    }
    OpenOptions::new().read(true).write(true).open(device).map_err(|e| {
        let error = Error::io("opening for writing", &e).path(device);
        if e.raw_os_error() != Some(libc::EPERM) {
            return error;
        }
        error.kind(Kind::Busy).hint(
            "it, or something on it, is mounted or part of a mirror: see mount, gmirror status",
        )
    })
}

/// Waits until GEOM has looked at a provider again that was open for writing.
///
/// Opening a provider for writing spoils what lies on it: partitions and labels that are not open
/// themselves go, with their nodes, and come back some time after the last writer is gone. GEOM
/// does that in a queue, and a question for the mesh waits in the same queue; what comes back adds
/// to its end what lies on it, so there is a question for each layer (slice, partition, label).
pub(super) fn settle() {
    for _layer in 0..4 {
        // Nobody is told of a failure: whoever needs the node finds out.
        let _ = sysctl::value(c"kern.geom.confxml");
    }
}

/// [`settle`] in the end.
#[derive(Debug)]
pub(super) struct Settle;

impl Drop for Settle {
    fn drop(&mut self) {
        settle();
    }
}

/// A device opened for writing.
///
/// A character device has no exclusive opening: the kernel ignores `O_EXCL` (`geom_dev`). What there
/// is, is used:
/// - While it is open for writing, GEOM refuses (EPERM) whoever wants it, or something on it, for
///   himself: a mount read-write, a mirror. And it refuses us where one of those came first.
/// - A read-only mount, a second plain writer (dd(1)) and swap are not refused but counted, also
///   those of everything that lies on the device: where there is one, the claim fails. That is
///   asked before and after the opening. Who comes later and writes plainly cannot be kept out.
/// - flock(2) keeps other runs of this program out.
///
/// A claim keeps mounts out, our own too: drop it first. Labels and partitions on the device are
/// gone while it lasts and are back when it is dropped.
#[derive(Debug)]
pub struct Claimed {
    device: PathBuf,
    file: File,
    sector: u64,
    /// Dropped after the file, in the order of the fields.
    _after: Settle,
}

impl Claimed {
    pub(super) fn open(device: &Path) -> Result<Self> {
        let after = Settle;
        let file = open_for_writing(device)?;
        match file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                let error = Error::new(Kind::Busy, "locking", "another process has it locked");
                return Err(error.path(device));
            }
            Err(TryLockError::Error(e)) => return Err(e).doing_to("locking", device),
        }
        let sector = sector(&file).doing_to("asking the sector size of", device)?;
        let claimed = Self { device: device.to_path_buf(), file, sector, _after: after };
        let name = sys::Claim::provider(&claimed)?;
        refuse_users(device, &name, 1)?;
        Ok(claimed)
    }
}

impl sys::Claim for Claimed {
    fn provider(&self) -> Result<String> {
        let mut name = [0_u8; 1024];
        // SAFETY: DIOCGPROVIDERNAME (sys/disk.h) writes at most MAXPATHLEN bytes at the pointer.
        unsafe { diocgprovidername(self.file.as_raw_fd(), &raw mut name) }
            .map_err(io::Error::from)
            .doing_to("asking the provider of", &self.device)?;
        Ok(String::from_utf8_lossy(sysctl::text_at(&name, 0, name.len())).into_owned())
    }

    fn size(&self) -> Result<u64> {
        size(&self.file).doing_to("asking the size of", &self.device)
    }

    fn wipe(&mut self, offset: u64, length: u64) -> Result<()> {
        if !offset.is_multiple_of(self.sector) || !length.is_multiple_of(self.sector) {
            let cause = format!("{length} bytes are not whole sectors of {}", self.sector);
            let error = Error::new(Kind::Failed, "erasing", cause);
            return Err(error.path(&self.device).at(offset));
        }
        let chunk = WIPE_MAX.next_multiple_of(self.sector).min(length);
        let zeros = vec![0; usize::try_from(chunk).unwrap_or(0)];
        let mut done = 0;
        while done < length {
            let now = chunk.min(length - done);
            let part = &zeros[..usize::try_from(now).unwrap_or(0)];
            let at = offset.saturating_add(done);
            self.file
                .write_all_at(part, at)
                .doing_to("erasing", &self.device)
                .map_err(|e| e.at(at))?;
            done += now;
        }
        Ok(())
    }

    fn write_at(&mut self, offset: u64, data: &[u8]) -> Result<()> {
        let written = self.file.write_all_at(data, offset).doing_to("writing", &self.device);
        written.map_err(|e| e.at(offset))
    }

    fn reread(&mut self) -> Result<bool> {
        // GEOM tastes a provider again when its last writer is gone.
        Ok(true)
    }

    fn flush(&mut self) -> Result<()> {
        // Writes to a character device go straight down; fsync(2) tells whether it still is there.
        self.file.sync_all().doing_to("flushing", &self.device)?;
        flush_cache(&self.file).doing_to("flushing", &self.device)
    }
}

/// Makes the next read come from the medium.
///
/// Character devices have no buffers. A file system's blocks are buffers of the device and pages
/// of its files, both belong to the mount, and the unmount that came before this wrote them and
/// threw them away (vinvalbuf(9), vflush(9)). What is left is the device's own cache, which the
/// kernel flushes only for a handle open for writing. A medium that cannot be written to has
/// nothing to flush.
pub(super) fn drop_cache(device: &Path) -> Result<()> {
    let _after = Settle;
    match open_for_writing(device) {
        Ok(file) => flush_cache(&file).doing_to("flushing", device),
        Err(e) if e.errno == Some(libc::EROFS) => Ok(()),
        Err(e) => Err(e),
    }
}

/// The drive's identification (disk(9) `d_ident`); `None` where the class has none, as a memory disk.
pub(super) fn ident(device: &Path) -> Result<Option<String>> {
    let file = File::open(device).doing_to("opening", device)?;
    let mut text = [0_u8; 256]; // DISK_IDENT_SIZE
    // SAFETY: DIOCGIDENT (sys/disk.h) writes at most DISK_IDENT_SIZE bytes at the pointer.
    match unsafe { diocgident(file.as_raw_fd(), &raw mut text) } {
        Ok(_) => {
            let text = String::from_utf8_lossy(sysctl::text_at(&text, 0, text.len()));
            Ok(Some(text.trim().to_owned()).filter(|text| !text.is_empty()))
        }
        Err(_) => Ok(None),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn disks_on_usb_are_told_from_others() {
        let list = "scbus0 on ahcich0 bus 0:
<QEMU HARDDISK 2.5+>               at scbus0 target 0 lun 0 (pass0,ada0)
<>                                 at scbus0 target -1 lun ffffffff ()
scbus2 on umass-sim0 bus 0:
<Generic Flash Disk 8.07>          at scbus2 target 0 lun 0 (pass1,da0)
<Generic Flash Disk 8.07>          at scbus2 target 0 lun 1 (da1,pass2)
scbus3 on vtscsi0 bus 0:
<QEMU QEMU HARDDISK 2.5+>          at scbus3 target 0 lun 0 (pass3,da2)
scbus-1 on xpt0 bus 0:
<>                                 at scbus-1 target -1 lun ffffffff (xpt0)
";
        assert_eq!(on_usb(list), ["da0", "da1"]);
    }
}
