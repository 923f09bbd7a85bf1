//! The storage stack out of sysfs (sysfs(5); Documentation/ABI/stable/sysfs-block), claimed
//! devices and flushing.

use std::cell::OnceCell;
use std::collections::HashMap;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Seek, SeekFrom, Write};
use std::os::fd::AsRawFd;
use std::os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::libc;
use walkdir::{DirEntry, WalkDir};

use crate::device::{Class, Devices, Id, Lower, Provider};
use crate::error::{Context, Error, Kind, Result};
use crate::sys;
use crate::sys::offset::ReadAt;

nix::ioctl_none!(blkrrpart, 0x12, 95);
nix::ioctl_none!(blkflsbuf, 0x12, 97);
nix::ioctl_read_bad!(loop_get_status64, 0x4C05, [u64; 29]);

/// sysfs counts in these, whatever the medium's sector is.
const SYSFS_SECTOR: u64 = 512;

fn attribute(dir: &Path, name: &str) -> Option<String> {
    fs::read_to_string(dir.join(name)).ok().map(|s| s.trim().to_owned())
}

fn number(dir: &Path, name: &str) -> Option<u64> {
    attribute(dir, name)?.parse().ok()
}

fn device_number(dir: &Path) -> Option<(u64, u64)> {
    let text = attribute(dir, "dev")?;
    let (major, minor) = text.split_once(':')?;
    Some((major.parse().ok()?, minor.parse().ok()?))
}

/// What a loop device lies on: by inode, since the file may be renamed, removed or linked.
struct LoopFile {
    /// Device and number of the file's inode.
    inode: (u64, u64),
    /// The block device that it is, where it is one.
    device: Option<(u32, u32)>,
    offset: u64,
}

/// `LOOP_GET_STATUS64` (loop(4), linux/loop.h): the first four fields of `struct loop_info64`.
fn loop_file(name: &str) -> Option<LoopFile> {
    let file = File::open(Path::new("/dev").join(name)).ok()?;
    let mut info = [0u64; 29]; // 232 bytes
    // SAFETY: loop(4): LOOP_GET_STATUS64 fills a loop_info64, which is 232 bytes of integers.
    unsafe { loop_get_status64(file.as_raw_fd(), &raw mut info) }.ok()?;
    let [device, inode, rdevice, offset, ..] = info;
    let device_node = (rdevice != 0).then(|| (libc::major(rdevice), libc::minor(rdevice)));
    Some(LoopFile { inode: (device, inode), device: device_node, offset })
}

/// The kernel's name of a block device.
fn block_name(major: u32, minor: u32) -> Option<String> {
    let link = fs::read_link(format!("/sys/dev/block/{major}:{minor}")).ok()?;
    Some(link.file_name()?.to_string_lossy().into_owned())
}

/// What is known while the devices are listed.
#[derive(Default)]
struct Known {
    /// What each provider lies on, by name first, since it may be listed later.
    below: Vec<(Id, String, Option<u64>)>,
    /// The first loop device over each file, and its offset there.
    files: HashMap<(u64, u64), (String, u64)>,
}

/// Every block device with a size, partitions right behind their disk.
pub(super) fn devices() -> Result<Devices> {
    let block = Path::new("/sys/block");
    let mut devices = Devices::default();
    let mut dirs: Vec<PathBuf> = Vec::new();
    for entry in fs::read_dir(block).doing_to("reading", block)? {
        dirs.push(entry.doing_to("reading", block)?.path());
    }
    dirs.sort();
    let mut known = Known::default();
    for dir in dirs {
        if number(&dir, "size").is_none_or(|sectors| sectors == 0) {
            continue; // a loop device without a file, a drive without a medium
        }
        add_disk(&dir, &mut devices, &mut known);
    }
    for (id, name, offset) in known.below {
        if let Some(lower) = devices.find(Path::new(&name)) {
            devices.providers[id].lower.push(Lower { id: lower, offset });
        }
    }
    add_aliases(&mut devices);
    Ok(devices)
}

/// Disks whose place in the device tree is below a USB port.
pub(super) fn usb_disks() -> Result<Vec<String>> {
    let block = Path::new("/sys/block");
    let mut names = Vec::new();
    for entry in fs::read_dir(block).doing_to("reading", block)? {
        let path = entry.doing_to("reading", block)?.path();
        let place = fs::canonicalize(&path).unwrap_or_default();
        if place.components().any(|c| c.as_os_str().to_string_lossy().starts_with("usb"))
            && let Some(name) = path.file_name()
        {
            names.push(name.to_string_lossy().into_owned());
        }
    }
    names.sort();
    Ok(names)
}

fn add_disk(dir: &Path, devices: &mut Devices, known: &mut Known) {
    let below = &mut known.below;
    let Some(name) = dir.file_name().map(|n| n.to_string_lossy().into_owned()) else { return };
    let sector = number(dir, "queue/logical_block_size").and_then(|s| u32::try_from(s).ok());
    let sector = sector.unwrap_or(512);
    let id = devices.providers.len();
    let mut class = Class::Disk;
    if let Ok(slaves) = fs::read_dir(dir.join("slaves")) {
        for slave in slaves.flatten() {
            let raid = attribute(dir, "md/level");
            class = match raid.as_deref() {
                Some("raid1" | "raid10") => Class::Mirror,
                Some(_) => Class::Other("md".to_owned()),
                None => Class::Other("dm".to_owned()),
            };
            below.push((id, slave.file_name().to_string_lossy().into_owned(), None));
        }
    }
    // A loop device over a block device is a window on it; over a file it is a medium, but the
    // second one over the same file is a window on the first.
    if let Some(backing) = attribute(dir, "loop/backing_file")
        && let Some(file) = loop_file(&name)
    {
        if let Some((major, minor)) = file.device {
            class = Class::Other("loop".to_owned());
            let lower = block_name(major, minor).unwrap_or(backing);
            below.push((id, lower, Some(file.offset)));
        } else if let Some((first, base)) = known.files.get(&file.inode) {
            class = Class::Other("loop".to_owned());
            // One that begins before the first has no place on it: taken as covering all of it.
            below.push((id, first.clone(), file.offset.checked_sub(*base)));
        } else {
            known.files.insert(file.inode, (name.clone(), file.offset));
        }
    }
    devices.providers.push(Provider {
        name: name.clone(),
        aliases: Vec::new(),
        class,
        size: number(dir, "size").unwrap_or(0) * SYSFS_SECTOR,
        sector,
        number: device_number(dir),
        lower: Vec::new(),
        removable: number(dir, "removable") == Some(1),
    });
    let Ok(entries) = fs::read_dir(dir) else { return };
    let mut partitions: Vec<(u64, PathBuf)> = entries
        .flatten()
        .filter_map(|e| Some((number(&e.path(), "partition")?, e.path())))
        .collect();
    partitions.sort();
    for (index, path) in partitions {
        let Some(partition) = path.file_name() else { continue };
        let part_id = devices.providers.len();
        let start = number(&path, "start").unwrap_or(0) * SYSFS_SECTOR;
        below.push((part_id, name.clone(), Some(start)));
        devices.providers.push(Provider {
            name: partition.to_string_lossy().into_owned(),
            aliases: Vec::new(),
            class: Class::Partition { index: u32::try_from(index).unwrap_or(u32::MAX) },
            size: number(&path, "size").unwrap_or(0) * SYSFS_SECTOR,
            sector,
            number: device_number(&path),
            lower: Vec::new(),
            removable: false,
        });
    }
}

/// `/dev/disk/by-*` and `/dev/mapper` are other names, where udev makes them.
fn add_aliases(devices: &mut Devices) {
    let walk = ["/dev/disk", "/dev/mapper"].into_iter().flat_map(|d| WalkDir::new(d).min_depth(1));
    for entry in walk.flatten().filter(DirEntry::path_is_symlink) {
        if let Ok(node) = fs::canonicalize(entry.path())
            && let Some(id) = devices.find(&node)
        {
            devices.providers[id].aliases.push(entry.into_path());
        }
    }
}

/// Requests of this size and more go past the cache. Smaller ones are better gathered in it.
const DIRECT: usize = 64 << 10;
/// What direct requests begin at and are multiples of, in memory and on the medium: no medium has
/// smaller sectors. Those that have larger ones answer EINVAL.
const SECTOR: u64 = 512;

/// Whether a request may go past the cache.
fn may_be_direct(offset: u64, data: &[u8]) -> bool {
    let aligned = |n: u64| n.is_multiple_of(SECTOR);
    aligned(offset) && aligned(data.len() as u64) && aligned(data.as_ptr().addr() as u64)
}

/// Opens what `file` is once more with `O_DIRECT` (open(2)); `None` where it cannot be had.
fn direct(file: &File, write: bool) -> Option<File> {
    // By its handle: a name may lead elsewhere by now.
    let path = format!("/proc/self/fd/{}", file.as_raw_fd());
    let flags = libc::O_DIRECT | libc::O_CLOEXEC;
    OpenOptions::new().read(!write).write(write).custom_flags(flags).open(path).ok()
}

/// A block device opened for reading, past the cache where that can be.
#[derive(Debug)]
pub struct Direct {
    direct: Option<File>,
    cached: File,
}

impl Direct {
    pub(super) fn open(device: &Path) -> Result<Self> {
        let cached = File::open(device).doing_to("opening", device)?;
        Ok(Self { direct: direct(&cached, false), cached })
    }
}

impl ReadAt for Direct {
    fn read_at(&self, offset: u64, buffer: &mut [u8]) -> io::Result<usize> {
        if let Some(direct) = self.direct.as_ref().filter(|_| may_be_direct(offset, buffer)) {
            match FileExt::read_at(direct, buffer, offset) {
                Err(e) if e.raw_os_error() == Some(libc::EINVAL) => {}
                read => return read,
            }
        }
        FileExt::read_at(&self.cached, buffer, offset)
    }
}

/// A block device opened with `O_EXCL`, which fails while it is mounted, swapped to or claimed by
/// another (open(2)).
#[derive(Debug)]
pub struct Claimed {
    device: PathBuf,
    file: File,
    /// The same past the cache, opened when it is first of use.
    direct: OnceCell<Option<File>>,
}

impl Claimed {
    pub(super) fn open(device: &Path) -> Result<Self> {
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .custom_flags(libc::O_EXCL | libc::O_CLOEXEC)
            .open(device);
        match file {
            Ok(file) => Ok(Self { device: device.to_path_buf(), file, direct: OnceCell::new() }),
            Err(e) if e.raw_os_error() == Some(libc::EBUSY) => {
                Err(Error::io("opening for writing", &e).path(device).kind(Kind::Busy))
            }
            Err(e) => Err(Error::io("opening for writing", &e).path(device)),
        }
    }
}

impl sys::Claim for Claimed {
    fn provider(&self) -> Result<String> {
        let rdev = self.file.metadata().doing_to("reading", &self.device)?.rdev();
        let node = format!("/sys/dev/block/{}:{}", libc::major(rdev), libc::minor(rdev));
        let link = fs::read_link(&node).doing_to("reading", &node)?;
        Ok(link.file_name().unwrap_or_default().to_string_lossy().into_owned())
    }

    fn size(&self) -> Result<u64> {
        // lseek(2) to the end of a block device tells its size.
        (&self.file).seek(SeekFrom::End(0)).doing_to("asking the size of", &self.device)
    }

    fn wipe(&mut self, offset: u64, length: u64) -> Result<()> {
        let zeros = vec![0; usize::try_from(length).unwrap_or(0)];
        self.file.seek(SeekFrom::Start(offset)).doing_to("seeking in", &self.device)?;
        self.file.write_all(&zeros).doing_to("erasing", &self.device).map_err(|e| e.at(offset))
    }

    fn write_at(&mut self, offset: u64, data: &[u8]) -> Result<()> {
        if data.len() >= DIRECT && may_be_direct(offset, data) {
            let direct = self.direct.get_or_init(|| direct(&self.file, true));
            match direct.as_ref().map(|direct| direct.write_all_at(data, offset)) {
                None => {}
                Some(Err(e)) if e.raw_os_error() == Some(libc::EINVAL) => {}
                Some(written) => {
                    return written.doing_to("writing", &self.device).map_err(|e| e.at(offset));
                }
            }
        }
        let written = self.file.write_all_at(data, offset).doing_to("writing", &self.device);
        written.map_err(|e| e.at(offset))
    }

    fn reread(&mut self) -> Result<bool> {
        // SAFETY: BLKRRPART takes no argument (linux/fs.h).
        match unsafe { blkrrpart(self.file.as_raw_fd()) } {
            Ok(_) => Ok(true),
            // A partition is open; a device whose tables the kernel does not read (loop).
            Err(Errno::EBUSY | Errno::EINVAL) => Ok(false),
            Err(e) => Err(std::io::Error::from(e))
                .doing_to("reading the partition table of", &self.device),
        }
    }

    fn flush(&mut self) -> Result<()> {
        // fsync(2) on a block device also empties the device's own cache.
        self.file.sync_all().doing_to("flushing", &self.device)
    }
}

/// Writes back and drops the block device's cache (ioctl `BLKFLSBUF`, linux/fs.h): after it, and
/// after the unmount that dropped the file system's own pages, reads come from the medium.
pub(super) fn drop_cache(device: &Path) -> Result<()> {
    let file = File::open(device).doing_to("opening", device)?;
    file.sync_all().doing_to("flushing", device)?;
    // SAFETY: BLKFLSBUF takes no argument (linux/fs.h).
    unsafe { blkflsbuf(file.as_raw_fd()) }
        .map_err(std::io::Error::from)
        .doing_to("dropping the cache of", device)?;
    Ok(())
}

/// What the drive tells of itself: a serial number (`NVMe`, virtio), a world-wide name (SCSI, ATA), a
/// card's identification (MMC).
pub(super) fn ident(device: &Path) -> Option<String> {
    let dir = Path::new("/sys/block").join(device.file_name()?);
    ["serial", "device/serial", "wwid", "device/wwid", "device/cid"]
        .into_iter()
        .find_map(|name| attribute(&dir, name).filter(|text| !text.is_empty()))
}
