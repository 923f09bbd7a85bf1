//! The machine's state: disks, mounts, paths.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::ffi::{OsStr, OsString};
use std::hash::{Hash, Hasher};
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::{Component, Path, PathBuf};

use nix::errno::Errno;

use super::disk::Disk;
use super::ffs;
use super::tree::{BLOCK, Body, Change, ROOT, Tree};
use super::volume::{Loss, Volume};
use crate::device::{Class, Devices, Id, Lower, Provider};
use crate::error::Result;
use crate::mounts::Mount;
use crate::sys::command::Ended;
use crate::sys::tree::{Kind, Time};
use crate::sys::{Boot, Format, FsType, Holder, Snapshots, UfsSwitches};
use crate::table::superblock::WINDOW;

pub(super) const SECTOR: u64 = 512;
/// Where the first slice begins.
pub(super) const FIRST: u64 = 1 << 20;
/// Room of a file system in memory.
const MEMORY: u64 = 64 << 20;
/// `MAXSYMLINKS`.
const LINKS_MAX: u32 = 32;
/// Processes that have ended have pids from here on.
const DEAD: u32 = 4_000_000;

/// A mounted file system.
#[derive(Clone, Debug)]
pub(super) struct Mounted {
    pub(super) mount: Mount,
    pub(super) volume: usize,
    /// The mount and the directory there that it covers.
    covers: Option<(i64, u64)>,
    /// Open files and directories.
    handles: u32,
}

impl Mounted {
    fn id(&self) -> i64 {
        self.mount.id[0]
    }
}

/// Where a path or a handle leads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Node {
    pub(super) mount: i64,
    pub(super) volume: usize,
    pub(super) ino: u64,
}

/// What a machine consists of. Tests change the public fields as they like.
#[derive(Clone, Debug)]
pub struct World {
    /// The storage stack. Providers added over a slice read that slice's bytes.
    pub devices: Devices,
    /// Disks on USB.
    pub usb_disks: Vec<String>,
    /// What it pages or dumps to.
    pub swaps: Vec<PathBuf>,
    /// Why the system forbids all work.
    pub forbids: Option<String>,
    /// What its package tool tells of any root.
    pub packages: Option<Vec<(String, String)>>,
    /// Whether this process may mount and write devices.
    pub privileged: bool,
    /// Which snapshots it can take.
    pub snapshots: Snapshots,
    /// Who keeps every mount busy.
    pub holders: Vec<Holder>,
    /// Other processes that are alive.
    pub alive: BTreeSet<u32>,
    /// Whether directories tell the kinds of their entries.
    pub kinds_in_listings: bool,
    /// Bytes that one read or write moves at most.
    pub transfer_max: usize,
    /// Serial numbers, by the name of the disk.
    pub idents: BTreeMap<String, String>,
    /// What started the system.
    pub started: Boot,
    /// What the firmware has started.
    pub efi_program: Option<String>,
    /// How programs of the administrator's end, by their names; others end with 0.
    pub hooks: BTreeMap<String, Ended>,
    /// What is mounted at boot: node and point, the root first.
    pub boot: Vec<(PathBuf, PathBuf)>,
    /// Whether the root is mounted read-only then.
    pub boot_read_only: bool,
    pub(super) run_dir: PathBuf,
    pub(super) now: Time,
    /// What is outside the file systems, by the name of the disk.
    pub(super) disks: BTreeMap<String, Disk>,
    pub(super) volumes: Vec<Volume>,
    pub(super) mounts: Vec<Mounted>,
    next_mount: i64,
    serial: u32,
    dead: u32,
    /// Volumes opened for writing.
    pub(super) claims: BTreeSet<usize>,
}

impl World {
    pub(super) fn new(run_dir: PathBuf) -> Self {
        Self {
            devices: Devices::default(),
            usb_disks: Vec::new(),
            swaps: Vec::new(),
            forbids: None,
            packages: None,
            privileged: true,
            snapshots: Snapshots::None,
            holders: Vec::new(),
            alive: BTreeSet::new(),
            kinds_in_listings: true,
            transfer_max: usize::MAX,
            idents: BTreeMap::new(),
            started: Boot::default(),
            efi_program: None,
            boot: Vec::new(),
            boot_read_only: false,
            run_dir,
            now: Time { sec: 1_600_000_000, nsec: 0 },
            disks: BTreeMap::new(),
            hooks: BTreeMap::new(),
            volumes: Vec::new(),
            mounts: Vec::new(),
            next_mount: 1,
            serial: 0,
            dead: DEAD,
            claims: BTreeSet::new(),
        }
    }

    // ---- building ---------------------------------------------------------------------------

    /// Adds a disk with up to four slices of these sizes, blank, the first one active.
    pub fn add_disk(&mut self, name: &str, slices: &[u64]) {
        let mut table = vec![0; 512];
        let disk = self.devices.providers.len();
        let size = FIRST + slices.iter().sum::<u64>();
        self.devices.providers.push(provider(name.to_owned(), Class::Disk, size, Vec::new()));
        let mut start = FIRST;
        for (index, &size) in (1..).zip(slices) {
            let name = format!("{name}s{index}");
            let lower = vec![Lower { id: disk, offset: Some(start) }];
            let class = Class::Partition { index };
            self.devices.providers.push(provider(name.clone(), class, size, lower));
            self.volumes.push(Volume::new(Some(name), size, self.now));
            let entry = entry(index);
            table[entry + 4] = 0xa5;
            let sectors = |bytes: u64| u32::try_from(bytes / SECTOR).unwrap_or(u32::MAX);
            table[entry + 8..entry + 12].copy_from_slice(&sectors(start).to_le_bytes());
            table[entry + 12..entry + 16].copy_from_slice(&sectors(size).to_le_bytes());
            start += size;
        }
        table[510..].copy_from_slice(&[0x55, 0xaa]);
        self.disks.entry(name.to_owned()).or_default().first().copy_from_slice(&table);
        self.set_active(name, 1);
    }

    /// Sets the active flag of one slice; 0 takes it from all.
    pub fn set_active(&mut self, disk: &str, slice: u32) {
        if let Some(disk) = self.disks.get_mut(disk) {
            let table = disk.first();
            for index in 1..=4 {
                table[entry(index)] = if index == slice { 0x80 } else { 0 };
            }
        }
    }

    /// Makes an empty UFS2, durable at once.
    ///
    /// # Errors
    /// It does not fit, or there is no such device.
    pub fn make_fs(&mut self, device: &str, label: &str) -> Result<()> {
        let label = Some(label.to_owned());
        let ufs = UfsSwitches { soft_updates: true, ..UfsSwitches::default() };
        let (fs, sector) = (FsType::Ufs2, 512);
        let format = Format { fs, label, id: None, inodes: None, block: None, sector, ufs };
        let (serial, now) = (self.next_serial(), self.now);
        let volume = self.must_find(device);
        self.volumes[volume].format(&format, serial, now)?;
        self.volumes[volume].drop_cache();
        Ok(())
    }

    /// Changes a device's tree behind everybody's back, for good, one second later.
    pub fn edit(&mut self, device: &str, mut f: impl FnMut(&mut Tree)) {
        self.edit_dyn(device, &mut f);
    }

    pub(super) fn edit_dyn(&mut self, device: &str, f: &mut dyn FnMut(&mut Tree)) {
        self.now.sec += 1;
        let (volume, now) = (self.must_find(device), self.now);
        self.volumes[volume].edit(now, f);
    }

    /// The tree of a device as reads see it.
    pub fn tree(&self, device: &str) -> &Tree {
        self.volumes[self.must_find(device)].tree()
    }

    /// The first [`WINDOW`] bytes of a device as reads see them.
    pub fn head(&self, device: &str) -> Vec<u8> {
        let mut head = vec![0; WINDOW];
        self.volumes[self.must_find(device)].look(0, &mut head);
        head
    }

    /// What of a device is before all that its file system changes: boot code and the superblock.
    pub fn boot_area(&self, device: &str) -> Vec<u8> {
        let mut boot = vec![0; usize::try_from(ffs::BOOT * BLOCK).unwrap_or(0)];
        self.volumes[self.must_find(device)].look(0, &mut boot);
        boot
    }

    /// Whether the kernel would mount a device.
    pub fn is_mountable(&self, device: &str) -> bool {
        let volume = &self.volumes[self.must_find(device)];
        volume.is_file_system() && !volume.lost_root()
    }

    /// Whether no object of a device was changed since its bytes were written past the file system.
    pub fn is_as_written(&self, device: &str) -> bool {
        !self.volumes[self.must_find(device)].written.is_ahead()
    }

    /// What fsck(8) says of a device; `None` where it says nothing, or there is no file system.
    pub fn complaint(&self, device: &str) -> Option<String> {
        self.volumes[self.must_find(device)].check()
    }

    /// All that a device holds: the objects of a file system that was mounted and changed, or the
    /// bytes.
    pub fn hash(&self, device: &str, hasher: &mut impl Hasher) {
        let image = &self.volumes[self.must_find(device)].written;
        if image.is_ahead() {
            image.tree().listing().hash(hasher);
        } else {
            let empty = vec![0; usize::try_from(BLOCK).unwrap_or(0)];
            let full = image.bytes().all().filter(|(_, block)| **block != empty);
            full.for_each(|(at, block)| (at, crc32fast::hash(&block)).hash(hasher));
        }
    }

    /// How many writes to a device nobody flushed.
    pub fn pending(&self, device: &str) -> usize {
        self.volumes[self.must_find(device)].pending()
    }

    /// # Panics
    /// There is no such device: the test is wrong.
    pub(super) fn must_find(&self, device: &str) -> usize {
        let found = self.volumes.iter().position(|v| v.provider.as_deref() == Some(device));
        found.unwrap_or_else(|| panic!("no device {device}"))
    }

    pub(super) fn next_serial(&mut self) -> u32 {
        self.serial += 1;
        self.serial
    }

    // ---- the life of the machine ------------------------------------------------------------

    /// Mounts what is mounted at boot.
    ///
    /// # Errors
    /// A device or a mount point is missing.
    pub fn start(&mut self) -> io::Result<()> {
        self.add_memory("tmpfs", self.run_dir.clone());
        let boot = self.boot.clone();
        for (device, point) in &boot {
            let root = point.as_os_str() == "/";
            self.mount(device, point, FsType::Ufs2.name(), root && self.boot_read_only)?;
            if root && self.tree_at(Path::new("/dev")).is_ok() {
                self.add_memory("devfs", PathBuf::from("/dev"));
            }
        }
        Ok(())
    }

    fn add_memory(&mut self, fs: &str, point: PathBuf) {
        self.volumes.push(Volume::new(None, MEMORY, self.now));
        let covers = self.resolve(&point).ok().map(|(node, _)| (node.mount, node.ino));
        self.add_mount(fs.to_owned(), point, fs, false, self.volumes.len() - 1, covers);
    }

    fn add_mount(
        &mut self,
        source: String,
        point: PathBuf,
        fs: &str,
        read_only: bool,
        volume: usize,
        covers: Option<(i64, u64)>,
    ) -> Mount {
        let id = [self.next_mount, 0];
        self.next_mount += 1;
        let mount =
            Mount { source, number: None, point, fs: fs.to_owned(), whole: true, read_only, id };
        self.mounts.push(Mounted { mount: mount.clone(), volume, covers, handles: 0 });
        mount
    }

    /// The power goes and comes back.
    pub(super) fn after(mut self, loss: Loss, run_dir: &Path) -> Self {
        self.forget_snapshots();
        self.volumes.retain(|v| v.provider.is_some());
        let mut kept = loss.kept(self.pending_everywhere()).into_iter();
        self.disks.values_mut().for_each(|d| d.lose(&mut kept));
        self.volumes.iter_mut().for_each(|v| v.lose(&mut kept));
        self.mounts.clear();
        self.claims.clear();
        self.run_dir = run_dir.to_path_buf();
        self.now.sec += 60;
        let drawn = self.disks.iter().filter(|(_, disk)| disk.drawn).map(|(name, _)| name.clone());
        drawn.collect::<Vec<_>>().iter().for_each(|name| self.taste(name));
        // What could not be mounted is not in the mount table.
        let _ = self.start();
        self
    }

    /// Writes that nobody flushed, on all media.
    pub fn pending_everywhere(&self) -> usize {
        let disks = self.disks.values().map(Disk::pending).sum::<usize>();
        disks + self.volumes.iter().map(Volume::pending).sum::<usize>()
    }

    /// A number that grows with every change of what is written or durable.
    pub(super) fn changes(&self) -> u64 {
        let disks = self.disks.values().map(|d| d.changes).sum::<u64>();
        disks + self.volumes.iter().map(|v| v.changes).sum::<u64>()
    }

    /// From here on [`World::peeked`] tells whether anybody read an object of this device before it
    /// got a new file system.
    pub fn seal(&mut self, device: &str) {
        let volume = self.must_find(device);
        self.volumes[volume].seal();
    }

    /// What is sealed and was read.
    pub fn peeked(&self) -> BTreeSet<String> {
        self.volumes.iter().filter(|v| v.peeked()).filter_map(|v| v.provider.clone()).collect()
    }

    /// The partitions that hold something, with the bytes that each has.
    pub fn partitions(&self) -> Vec<(String, u64)> {
        self.volumes.iter().filter_map(|v| Some((v.provider.clone()?, v.size))).collect()
    }

    /// What the disks hold outside the file systems, as reads see it: disk, sector, bytes.
    pub fn sectors(&self) -> Vec<(&str, u64, Vec<u8>)> {
        let mut all = Vec::new();
        for (name, disk) in &self.disks {
            for (number, data) in disk.sectors(0, u64::MAX) {
                all.push((name.as_str(), number, data.to_vec()));
            }
        }
        all
    }

    /// Flushes the cache of a disk: what was written past its file systems.
    pub(super) fn flush_disk(&mut self, id: Id) {
        let Some(extent) = self.devices.extents(id).first().copied() else { return };
        if let Some(disk) = self.disks.get_mut(&self.devices.get(extent.base).name) {
            disk.flush();
        }
    }

    /// The process ends and another one comes, which has another pid: private mount points then
    /// name a process that is gone.
    pub(super) fn end_process(&mut self) {
        self.close_all();
        self.dead += 1;
        let (own, dead) = (format!("{}.", std::process::id()), format!("{}.", self.dead));
        let mut renamed = Vec::new();
        for mounted in &mut self.mounts {
            if let Ok(name) = mounted.mount.point.strip_prefix(&self.run_dir)
                && let Some(word) = name.to_str().and_then(|n| n.strip_prefix(&own))
            {
                mounted.mount.point = self.run_dir.join(format!("{dead}{word}"));
            }
        }
        let Ok((node, _)) = self.resolve(&self.run_dir.clone()) else { return };
        if let Ok(inode) = self.volumes[node.volume].tree().get(node.ino)
            && let Body::Dir { entries, .. } = &inode.body
        {
            let own = entries.keys().filter_map(|n| n.to_str()?.strip_prefix(&own));
            renamed.extend(own.map(str::to_owned));
        }
        self.orphan_snapshots(&own, &dead);
        for word in renamed {
            let (from, to) = (format!("{own}{word}"), format!("{dead}{word}"));
            let change = Change::Rename(from.into(), to.into());
            self.volumes[node.volume].change(node.ino, change, self.now);
        }
    }

    /// No handle and no claim is open: their process has ended.
    pub(super) fn close_all(&mut self) {
        self.claims.clear();
        self.mounts.iter_mut().for_each(|m| m.handles = 0);
        for volume in &mut self.volumes {
            for (ino, _) in std::mem::take(&mut volume.opens) {
                volume.prune(ino);
            }
        }
    }

    /// Puts the run directory elsewhere, with all that is mounted in it.
    pub(super) fn move_run_dir(&mut self, run_dir: PathBuf) {
        for mounted in &mut self.mounts {
            if let Ok(rest) = mounted.mount.point.strip_prefix(&self.run_dir) {
                let point =
                    if rest.as_os_str().is_empty() { run_dir.clone() } else { run_dir.join(rest) };
                mounted.mount.point = point;
            }
        }
        self.run_dir = run_dir;
    }

    // ---- devices ----------------------------------------------------------------------------

    /// Finds a provider by its node or an alias of it.
    pub(super) fn provider(&self, device: &Path) -> io::Result<Id> {
        let Some(mut id) = self.devices.find(device) else { return Err(Errno::ENOENT.into()) };
        while let (Class::Alias, [lower]) =
            (&self.devices.get(id).class, self.devices.get(id).lower.as_slice())
        {
            id = lower.id;
        }
        Ok(id)
    }

    /// The volume that begins where the provider does.
    pub(super) fn volume(&self, id: Id) -> io::Result<usize> {
        let place = |id: Id| self.devices.extents(id).first().map(|e| (e.base, e.start));
        let wanted = place(id);
        let same = |v: &Volume| {
            let provider = v.provider.as_ref().and_then(|name| self.devices.find(Path::new(name)));
            provider.is_some_and(|provider| place(provider) == wanted)
        };
        self.volumes.iter().position(same).ok_or_else(|| Errno::ENXIO.into())
    }

    /// Whether a volume is mounted.
    pub(super) fn is_mounted(&self, volume: usize) -> bool {
        self.mounts.iter().any(|m| m.volume == volume)
    }

    /// Reads bytes: tables and partitions; all else is zeros.
    pub(super) fn read_bytes(&self, id: Id, offset: u64, length: usize) -> io::Result<Vec<u8>> {
        self.read_with(id, offset, length, Volume::look)
    }

    /// The same, `read` being how bytes of a partition are read.
    pub(super) fn read_with(
        &self,
        id: Id,
        offset: u64,
        length: usize,
        read: impl Fn(&Volume, u64, &mut [u8]),
    ) -> io::Result<Vec<u8>> {
        let provider = self.devices.get(id);
        let sector = u64::from(provider.sector);
        if !offset.is_multiple_of(sector) || !(length as u64).is_multiple_of(sector) {
            return Err(Errno::EINVAL.into());
        }
        let length = provider.size.saturating_sub(offset).min(length as u64);
        let mut bytes = vec![0; usize::try_from(length).map_err(io::Error::other)?];
        let Some(extent) = self.devices.extents(id).first().copied() else { return Ok(bytes) };
        let start = extent.start + offset;
        // All of these are inside buffers in memory.
        let inside = |position: u64| usize::try_from(position).unwrap_or(usize::MAX);
        if let Some(disk) = self.disks.get(&self.devices.get(extent.base).name) {
            for (number, data) in disk.sectors(start, start + length) {
                let at = number * SECTOR;
                let (from, to) = (start.max(at), (start + length).min(at + SECTOR));
                bytes[inside(from - start)..inside(to - start)]
                    .copy_from_slice(&data[inside(from - at)..inside(to - at)]);
            }
        }
        for volume in &self.volumes {
            let provider = volume.provider.as_ref().and_then(|n| self.devices.find(Path::new(n)));
            let place = provider.and_then(|id| self.devices.extents(id).first().copied());
            let Some(place) = place.filter(|place| place.base == extent.base) else { continue };
            let (from, to) = (start.max(place.start), (start + length).min(place.end));
            if from < to {
                let part = &mut bytes[inside(from - start)..inside(to - start)];
                read(volume, from - place.start, part);
            }
        }
        Ok(bytes)
    }

    /// The volumes that lie on a disk.
    pub(super) fn volumes_on(&self, disk: Id) -> Vec<usize> {
        let on = |v: &Volume| {
            let provider = v.provider.as_ref().and_then(|n| self.devices.find(Path::new(n)));
            provider.is_some_and(|id| self.devices.medium(id) == Some(disk))
        };
        (0..self.volumes.len()).filter(|&n| on(&self.volumes[n])).collect()
    }

    /// Writes bytes, past the file systems.
    pub(super) fn write_bytes(&mut self, id: Id, offset: u64, data: &[u8]) {
        self.write_with(id, offset, data, Volume::write_bytes);
    }

    /// The same, `write` being what becomes of bytes of a partition.
    pub(super) fn write_with(
        &mut self,
        id: Id,
        offset: u64,
        data: &[u8],
        write: impl Fn(&mut Volume, u64, &[u8], Time),
    ) {
        let Some(extent) = self.devices.extents(id).first().copied() else { return };
        let (start, end) = (extent.start + offset, extent.start + offset + data.len() as u64);
        // All of these are inside buffers in memory.
        let inside = |position: u64| usize::try_from(position).unwrap_or(usize::MAX);
        let whole = start..end;
        let mut outside = vec![whole];
        for n in 0..self.volumes.len() {
            let provider = self.volumes[n].provider.as_ref();
            let provider = provider.and_then(|name| self.devices.find(Path::new(name)));
            let place = provider.and_then(|id| self.devices.extents(id).first().copied());
            let Some(place) = place.filter(|place| place.base == extent.base) else { continue };
            let (from, to) = (start.max(place.start), end.min(place.end));
            if from < to {
                let part = &data[inside(from - start)..inside(to - start)];
                write(&mut self.volumes[n], from - place.start, part, self.now);
                let apart =
                    |r: std::ops::Range<u64>| [r.start..r.end.min(from), r.start.max(to)..r.end];
                outside = outside.into_iter().flat_map(apart).filter(|r| r.start < r.end).collect();
            }
        }
        if let Some(disk) = self.disks.get_mut(&self.devices.get(extent.base).name) {
            for range in outside {
                disk.write(
                    range.start,
                    &data[inside(range.start - start)..inside(range.end - start)],
                );
            }
        }
    }

    /// The first sector of a disk, durable at once.
    ///
    /// # Panics
    /// There is no such disk: the test is wrong.
    pub fn table(&mut self, disk: &str) -> &mut Vec<u8> {
        self.disks.get_mut(disk).unwrap_or_else(|| panic!("no disk {disk}")).first()
    }

    // ---- mounts -----------------------------------------------------------------------------

    pub(super) fn mounted(&self, id: i64) -> io::Result<&Mounted> {
        // A handle of a mount that was forced off is dead.
        self.mounts.iter().find(|m| m.id() == id).ok_or_else(|| Errno::EIO.into())
    }

    pub(super) fn mount(
        &mut self,
        device: &Path,
        point: &Path,
        fs: &str,
        read_only: bool,
    ) -> io::Result<Mount> {
        let volume = self.volume(self.provider(device)?)?;
        if self.claims.contains(&volume) {
            return Err(Errno::EBUSY.into());
        }
        if fs != FsType::Ufs2.name() || !self.volumes[volume].is_file_system() {
            return Err(Errno::EINVAL.into());
        }
        if self.volumes[volume].lost_root() {
            return Err(Errno::EIO.into());
        }
        // Only readers share a device.
        if self.mounts.iter().any(|m| m.volume == volume && !(read_only && m.mount.read_only)) {
            return Err(Errno::EBUSY.into());
        }
        let (covers, point) = if point == Path::new("/") && self.mount_at(point).is_none() {
            (None, point.to_path_buf())
        } else {
            let (node, canonical) = self.resolve(point)?;
            if self.volumes[node.volume].tree().get(node.ino)?.kind() != Kind::Dir {
                return Err(Errno::ENOTDIR.into());
            }
            if self.mount_at(&canonical).is_some() {
                return Err(Errno::EBUSY.into());
            }
            (Some((node.mount, node.ino)), canonical)
        };
        let source = device.to_string_lossy().into_owned();
        Ok(self.add_mount(source, point, fs, read_only, volume, covers))
    }

    fn mount_at(&self, point: &Path) -> Option<&Mounted> {
        self.mounts.iter().rev().find(|m| m.mount.point == point)
    }

    pub(super) fn unmount(&mut self, mount: &Mount, force: bool, flush: bool) -> io::Result<()> {
        let id = mount.id[0];
        let position = self.mounts.iter().position(|m| m.id() == id);
        let Some(position) = position else { return Ok(()) };
        let covered = self.mounts.iter().any(|m| m.covers.is_some_and(|(below, _)| below == id));
        if covered || (self.mounts[position].handles > 0 && !force) {
            return Err(Errno::EBUSY.into());
        }
        let gone = self.mounts.remove(position);
        if !gone.mount.read_only && flush {
            self.volumes[gone.volume].flush();
        }
        Ok(())
    }

    /// The kernel takes away what is mounted there, as UFS does where it cannot read metadata.
    pub fn take_away(&mut self, point: &Path) {
        if let Some(top) = self.mounts.iter().rposition(|m| m.mount.point == point) {
            self.mounts.remove(top);
        }
    }

    /// Counts an open handle.
    pub(super) fn open(&mut self, node: Node) {
        if let Some(mounted) = self.mounts.iter_mut().find(|m| m.id() == node.mount) {
            mounted.handles += 1;
            *self.volumes[node.volume].opens.entry(node.ino).or_default() += 1;
        }
    }

    /// Counts a handle that was closed.
    pub(super) fn close(&mut self, node: Node) {
        let Some(mounted) = self.mounts.iter_mut().find(|m| m.id() == node.mount) else { return };
        mounted.handles = mounted.handles.saturating_sub(1);
        let volume = &mut self.volumes[node.volume];
        if let Some(opens) = volume.opens.get_mut(&node.ino) {
            *opens -= 1;
            if *opens == 0 {
                volume.opens.remove(&node.ino);
                volume.prune(node.ino);
            }
        }
    }

    /// Steps from a covered directory into what is mounted there.
    pub(super) fn cross(&self, mut node: Node) -> Node {
        let covering = |node: Node| {
            self.mounts.iter().rev().find(|m| m.covers == Some((node.mount, node.ino)))
        };
        while let Some(upper) = covering(node) {
            node = Node { mount: upper.id(), volume: upper.volume, ino: ROOT };
        }
        node
    }

    /// The directory above, out of a mount where it is its root.
    pub(super) fn above(&self, mut node: Node) -> io::Result<Node> {
        while node.ino == ROOT {
            let Some((mount, ino)) = self.mounted(node.mount)?.covers else { return Ok(node) };
            node = Node { mount, volume: self.mounted(mount)?.volume, ino };
        }
        let ino = self.volumes[node.volume].tree().child(node.ino, OsStr::new(".."))?;
        Ok(Node { ino, ..node })
    }

    // ---- paths ------------------------------------------------------------------------------

    /// Follows a path with its symbolic links; also tells the path without them.
    pub(super) fn resolve(&self, path: &Path) -> io::Result<(Node, PathBuf)> {
        let root = |point: &Path| {
            let mounted = self.mount_at(point).ok_or(Errno::ENOENT)?;
            Ok::<_, io::Error>(Node { mount: mounted.id(), volume: mounted.volume, ino: ROOT })
        };
        let names = |path: &Path| -> Vec<OsString> {
            let normal = |c: Component<'_>| match c {
                Component::RootDir | Component::CurDir => None,
                other => Some(other.as_os_str().to_owned()),
            };
            path.components().filter_map(normal).collect()
        };
        let (mut node, mut canonical, mut todo) = match path.strip_prefix(&self.run_dir) {
            Ok(rest) => (root(&self.run_dir)?, self.run_dir.clone(), VecDeque::from(names(rest))),
            Err(_) => (root(Path::new("/"))?, PathBuf::from("/"), VecDeque::from(names(path))),
        };
        let mut links = 0;
        while let Some(name) = todo.pop_front() {
            if name == ".." {
                node = self.above(node)?;
                canonical.pop();
                continue;
            }
            let tree = self.volumes[node.volume].tree();
            let ino = tree.child(node.ino, &name)?;
            if let Body::Symlink(target) = &tree.get(ino)?.body {
                links += 1;
                if links > LINKS_MAX {
                    return Err(Errno::ELOOP.into());
                }
                let target = Path::new(OsStr::from_bytes(target));
                if target.is_absolute() {
                    (node, canonical) = (root(Path::new("/"))?, PathBuf::from("/"));
                }
                for name in names(target).into_iter().rev() {
                    todo.push_front(name);
                }
                continue;
            }
            canonical.push(&name);
            node = self.cross(Node { ino, ..node });
        }
        Ok((node, canonical))
    }

    fn tree_at(&self, path: &Path) -> io::Result<Node> {
        Ok(self.resolve(path)?.0)
    }
}

pub(super) fn provider(name: String, class: Class, size: u64, lower: Vec<Lower>) -> Provider {
    let (aliases, sector, number) = (Vec::new(), 512, None);
    Provider { name, aliases, class, size, sector, number, lower, removable: false }
}

/// Where a slice's entry is in the first sector.
pub(super) fn entry(index: u32) -> usize {
    446 + (index as usize - 1) * 16
}
