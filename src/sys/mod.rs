//! The system: the only place with `unsafe`, `cfg(target_os)`, processes, mounts and devices.
//!
//! [`Os`] is the face that everything above talks to. [`Native`] is the running system's
//! implementation; [`fake`] is one in memory that separates *written* from *durable*.

/// Starting programs.
pub mod command;
pub mod fake;
pub mod offset;
#[cfg(test)]
mod referee;
pub mod tree;
mod unix;

#[cfg(target_os = "freebsd")]
#[path = "freebsd/mod.rs"]
mod platform;
#[cfg(target_os = "linux")]
#[path = "linux/mod.rs"]
mod platform;

pub use platform::Native;
pub use unix::{FdDir, FdFile, Lock, LockState, give_way, terminal_width};

use std::ffi::{CStr, OsStr};
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::device::Devices;
use crate::error::{Error, Kind, Result};
use crate::mounts::Mount;
use crate::table::boot::Firmware;
use crate::table::drawing::Drawing;
use crate::table::flags::Change;
use crate::table::superblock::{self, Superblock};
use command::Ended;
use offset::ReadAt;
use tree::Dir;

/// The file systems that can be made as a copy of their own kind.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FsType {
    /// FreeBSD's UFS2.
    Ufs2,
    /// Linux ext4.
    Ext4,
    /// Linux XFS.
    Xfs,
}

impl FsType {
    /// The mount type, as mount(8) and fstab(5) spell it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Ufs2 => "ufs",
            Self::Ext4 => "ext4",
            Self::Xfs => "xfs",
        }
    }

    /// Reads the mount type.
    pub fn from_name(name: &str) -> Option<Self> {
        [Self::Ufs2, Self::Ext4, Self::Xfs].into_iter().find(|t| t.name() == name)
    }

    /// The longest label in bytes (`MAXVOLLEN` - 1 in ufs/ffs/fs.h; mke2fs(8); mkfs.xfs(8)).
    pub fn label_max(self) -> usize {
        match self {
            Self::Ufs2 => 31,
            Self::Ext4 => 16,
            Self::Xfs => 12,
        }
    }
}

/// Where UFS keeps its snapshots (`mksnap_ffs`(8), dump(8) `-L`).
pub const SNAPSHOTS: &str = ".snap";
/// The journal of a UFS's soft updates (tunefs(8) `-j`).
pub const JOURNAL: &str = ".sujournal";
/// Where fsck(8) puts what has lost its name; a new ext4 has it.
pub const FOUND: &str = "lost+found";
/// What a file system may have of its own in its root directory.
pub const OWN: [&str; 3] = [SNAPSHOTS, JOURNAL, FOUND];

/// Switches of a UFS2 superblock that a copy keeps (tunefs(8)).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[allow(clippy::struct_excessive_bools)] // five independent bits of fs_flags
pub struct UfsSwitches {
    /// Soft updates (`-U`).
    pub soft_updates: bool,
    /// Soft updates journaling (`-j`).
    pub journal: bool,
    /// POSIX.1e ACLs (tunefs `-a`).
    pub posix_acls: bool,
    /// NFSv4 ACLs (tunefs `-N`).
    pub nfs4_acls: bool,
    /// MAC multilabel (`-l`).
    pub multilabel: bool,
    /// TRIM (`-t`).
    pub trim: bool,
}

/// A file system to be made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Format {
    /// Which kind.
    pub fs: FsType,
    /// Its label; none leaves it without.
    pub label: Option<String>,
    /// Its identity (UUID), where the copy had one that fstab may know it by; not on UFS.
    pub id: Option<String>,
    /// At least this many inodes; none takes the default density.
    pub inodes: Option<u64>,
    /// Bytes in a block; none leaves it to the tool, as on UFS.
    pub block: Option<u32>,
    /// Bytes in a sector of its medium.
    pub sector: u32,
    /// What a UFS2 keeps of its source.
    pub ufs: UfsSwitches,
}

/// How a file system is mounted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    /// To be filled: no access times, no set-id, no programs.
    Write,
    /// To be read from the medium; nothing is written, not even a journal replayed.
    Read,
}

/// A process that keeps a mount busy.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Holder {
    /// Process id.
    pub pid: u32,
    /// Its command.
    pub command: String,
}

/// Which snapshots of mounted file systems a system can take.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Snapshots {
    /// None.
    #[default]
    None,
    /// Of UFS2, but not with soft updates journaling.
    Plain,
    /// Of every UFS2.
    Journaled,
}

/// Where a loader of FreeBSD looks for what it does once (stand/defaults/loader.conf).
pub const NEXTBOOT: &str = "/boot/nextboot.conf";
/// The kernel variable in which a start by that file tells that it is a trial.
pub const MARK: &CStr = c"dualroot.trial";

/// What started the system, as far as it tells.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Boot {
    /// The loader's own name of the device that it took the kernel from: `disk0s1a:`.
    pub loader: Option<String>,
    /// The devices that the kernel was told to mount on `/`, tried in this order: `/dev/da0s1a`,
    /// `UUID=…`.
    pub roots: Vec<String>,
    /// How the machine starts.
    pub firmware: Option<Firmware>,
    /// The file that this loader reads once, where it is one that does (nextboot(8)).
    pub nextboot: Option<PathBuf>,
    /// The value of [`MARK`].
    pub trial: Option<String>,
    /// What tells this start from every other one.
    pub id: String,
}

/// A device opened for writing by nobody else.
pub trait Claim {
    /// The provider's kernel name as the open handle tells it, never the name it was opened by.
    fn provider(&self) -> Result<String>;
    /// Bytes of the device.
    fn size(&self) -> Result<u64>;
    /// Writes zeros over `[offset, offset + length)`.
    fn wipe(&mut self, offset: u64, length: u64) -> Result<()>;
    /// Writes `data` at `offset`, both whole sectors.
    fn write_at(&mut self, offset: u64, data: &[u8]) -> Result<()>;
    /// Lets the kernel read the partition table anew, at the latest when this is dropped. `false`
    /// where it goes on with the one that it knows.
    fn reread(&mut self) -> Result<bool>;
    /// Flushes to the medium: file data, and the device's own cache.
    fn flush(&mut self) -> Result<()>;
}

/// What the kernel itself can write to a medium that is in use, from what it has in memory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Rewrite {
    /// The copy of a GPT that it found damaged.
    Recover,
    /// The whole table, by giving an entry the type that it has.
    Table {
        /// 1-based index of any entry.
        index: u32,
        /// Its type in gpart(8)'s words.
        kind: String,
    },
    /// Boot code: 512 bytes on a medium, 8 KiB in a slice with a BSD label.
    BootCode(Vec<u8>),
}

/// Erases what an old table, label or file system left where the new ones of `drawing` will be, and
/// flushes.
fn erase_for<C: Claim>(claim: &mut C, drawing: &Drawing) -> Result<()> {
    for range in drawing.wipes(claim.size()?) {
        claim.wipe(range.start, range.end - range.start)?;
    }
    claim.flush()
}

/// What a rehearsal made, told by its first bytes.
fn rehearsed(window: &[u8]) -> Result<Superblock> {
    superblock::read(window)
        .ok_or_else(|| Error::new(Kind::Failed, "rehearsing the format", "no file system was made"))
}

/// The generation of an inode as the medium has it: with the number it makes a file handle.
pub type Generation = Box<dyn Fn(u64) -> io::Result<u32> + Send + Sync>;

/// The running system, or one that behaves like it.
pub trait Os: Sync {
    /// Its directories.
    type Dir: Dir;
    /// Its claimed devices.
    type Claim: Claim;
    /// Its devices that are read.
    type Device: ReadAt + 'static;

    /// Whether this process may mount and write devices.
    fn privileged(&self) -> bool;
    /// All mounts, lowest first where several share a point. Never blocks on a dead file system.
    fn mounts(&self) -> Result<Vec<Mount>>;
    /// The storage stack.
    fn devices(&self) -> Result<Devices>;
    /// Kernel names of the disks on USB, in the order in which they were found.
    fn usb_disks(&self) -> Result<Vec<String>>;
    /// Nodes that the system pages or dumps to.
    fn swaps(&self) -> Result<Vec<PathBuf>>;
    /// A path with every symbolic link resolved.
    fn canonical(&self, path: &Path) -> Result<PathBuf>;
    /// The file's content; `None` where there is no such file.
    fn read_file(&self, path: &Path) -> Result<Option<Vec<u8>>>;
    /// Up to `length` bytes of a device at `offset`, fewer where it ends. Both are multiples of
    /// the sector size, as FreeBSD's character devices ask.
    fn read_device(&self, device: &Path, offset: u64, length: usize) -> Result<Vec<u8>>;
    /// Opens a device to be read in large requests, past the system's cache where it has one.
    fn open_device(&self, device: &Path) -> Result<Self::Device>;
    /// Makes the next [`Os::read_device`] of a medium come from it, also while it is in use.
    fn refresh(&self, medium: &Path) -> Result<()>;
    /// The medium's serial number, or what else its hardware tells of itself; `None` where it
    /// tells nothing.
    fn ident(&self, medium: &Path) -> Result<Option<String>>;
    /// Whether this system knows [`Os::rewrite`].
    fn rewrites(&self) -> bool;
    /// Lets the kernel write the table, or the boot code, of a medium or slice that is in use.
    fn rewrite(&self, holder: &Path, what: &Rewrite) -> Result<()>;
    /// Opens a device for writing, exclusively.
    fn claim(&self, device: &Path) -> Result<Self::Claim>;
    /// Makes a file system with the system's own tool.
    fn format(&self, device: &Path, format: &Format) -> Result<()>;
    /// Makes a file system that was copied by its blocks one of its own: with the identity and the
    /// label of `format`, as far as they are not in it already, and, where `grow` says that there is
    /// more room than its source had, as large as its device.
    fn adopt(&self, device: &Path, format: &Format, grow: bool) -> Result<()>;
    /// What a format of `size` bytes would offer, told by the tool that will make it, before anything
    /// is written: its blocks, what is free of them, and inodes. Its label and its identity mean
    /// nothing.
    fn rehearse(&self, format: &Format, size: u64) -> Result<Superblock>;
    /// Removes what rehearsals left beside the run directory, where `gone` says of its name, which is
    /// like those there (`PID.word`), that its run is gone.
    fn sweep_rehearsals(&self, gone: &dyn Fn(&OsStr) -> bool) -> Result<()>;
    /// Lets the system's own tool check an unmounted file system, without a change. Its complaint,
    /// or `None` where it is content or there is no such check.
    fn inspect(&self, device: &Path, fs: FsType) -> Result<Option<String>>;
    /// Mounts, and returns the mount as the table has it: its point is without symbolic links.
    /// Nothing stays mounted where that fails.
    fn mount(&self, device: &Path, point: &Path, fs: &str, access: Access) -> Result<Mount>;
    /// Unmounts exactly this mount, which may be gone by now. `force` breaks open files.
    fn unmount(&self, mount: &Mount, force: bool) -> Result<()>;
    /// Drops every cached block of the device, so that the next read comes from the medium.
    fn drop_cache(&self, device: &Path) -> Result<()>;
    /// Puts a partition table on a medium that nobody uses, whatever was on it, and makes the
    /// kernel read it.
    fn partition(&self, medium: &Path, drawing: &Drawing) -> Result<()>;
    /// Puts boot code, out of `root`'s `/boot`, on a medium with this table, and marks what boots.
    fn make_bootable(&self, medium: &Path, drawing: &Drawing, root: &Path) -> Result<()>;
    /// Changes the boot flags of a medium, also while it is in use: in one step where its table
    /// allows that, so that there are the old flags or the new ones. What it made of them is to be
    /// read back.
    fn set_boot(&self, medium: &Path, change: &Change) -> Result<()>;
    /// Runs a program of the administrator's and waits for it, no longer than `limit`, nor after
    /// `stop` says so; then it is killed with all that it started.
    fn run_hook(&self, program: &Path, limit: Duration, stop: &dyn Fn() -> bool) -> Result<Ended>;
    /// Starts the system again, in good order.
    fn reboot(&self) -> Result<()>;
    /// Which snapshots this system can take.
    fn snapshots(&self) -> Result<Snapshots>;
    /// Takes a snapshot of the file system that `file` is to lie in, and returns a read-only device
    /// with it. Nothing is left of one that fails.
    fn freeze(&self, file: &Path) -> Result<PathBuf>;
    /// Removes what [`Os::freeze`] made, as far as it is there.
    fn thaw(&self, file: &Path) -> Result<()>;
    /// Who keeps this mount busy.
    fn holders(&self, mount: &Mount) -> Result<Vec<Holder>>;
    /// Opens the root of the file system that is mounted on `point`: that file system alone, as it is
    /// below what is mounted on its own directories. Where the system can only be asked for a
    /// directory by its inode, `generation` tells the rest of its file handle.
    fn open_uncovered(&self, point: &Path, generation: Generation) -> Result<Self::Dir>;
    /// Opens a directory by path.
    fn open_dir(&self, path: &Path) -> Result<Self::Dir>;
    /// Makes a directory, mode 0755, and those above it.
    fn make_dir(&self, path: &Path) -> Result<()>;
    /// Removes an empty directory.
    fn remove_dir(&self, path: &Path) -> Result<()>;
    /// Blocks and inodes of the file system that holds `path`.
    fn usage(&self, path: &Path) -> Result<Usage>;
    /// Reasons for which this system forbids the whole work (`securelevel`, GEOM's debug flags).
    fn forbids(&self) -> Result<Option<String>>;
    /// The installed packages that the system's own package tool tells of `root`, name and
    /// version; `None` where `root` has no such database.
    fn packages(&self, root: &Path) -> Result<Option<Vec<(String, String)>>>;
    /// What started the system.
    fn boot(&self) -> Result<Boot>;
    /// The program on an EFI system partition that the firmware has started the system by, as it calls
    /// it, `\EFI\BOOT\BOOTX64.EFI`; `None` where nothing tells that.
    fn efi_program(&self) -> Result<Option<String>>;
    /// Where lock files and private mount points live: gone after a reboot, never on a slot.
    fn run_dir(&self) -> PathBuf;
    /// Whether a process of this program is alive under this number.
    fn alive(&self, pid: u32) -> bool;
}

/// Used and total space of a file system (statvfs(3)).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Usage {
    /// Bytes in use.
    pub used_bytes: u64,
    /// Bytes that root can still fill.
    pub free_bytes: u64,
    /// Inodes in use.
    pub used_inodes: u64,
    /// Free inodes; `u64::MAX` where the file system makes them as needed.
    pub free_inodes: u64,
}
