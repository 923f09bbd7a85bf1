//! The machine as an operating system: devices, mounts, paths.

use std::ffi::OsStr;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use nix::errno::Errno;

use super::fault::Place;
use super::handle::FakeDir;
use super::tree::{Attributes, Body, Change, Inode};
use super::volume::{self, Volume};
use super::world::{Node, SECTOR, World};
use super::{Machine, Turn};
use crate::device::{Class, Devices, Id};
use crate::error::{Context, Error, Kind as ErrorKind, Result, if_there};
use crate::mounts::Mount;
use crate::sys::command::Ended;
use crate::sys::offset::ReadAt;
use crate::sys::tree::Kind;
use crate::sys::{self, Access, Boot, Format, Generation, Holder, Os, Rewrite, Snapshots, Usage};
use crate::table::drawing::Drawing;
use crate::table::flags;
use crate::table::superblock::{Superblock, WINDOW};

/// `EBUSY` is somebody else's doing.
fn busy<T>(result: Result<T>) -> Result<T> {
    result.map_err(|e| match e.errno {
        Some(errno) if errno == Errno::EBUSY as i32 => e.kind(ErrorKind::Busy),
        _ => e,
    })
}

impl Machine {
    /// An operation on a path.
    pub(super) fn with_path<T>(
        &self,
        op: &'static str,
        path: &Path,
        f: impl FnOnce(&mut Turn<'_>) -> io::Result<T>,
    ) -> io::Result<T> {
        // The run directory has another name on every machine.
        let below = |turn: &World| path.strip_prefix(&turn.run_dir).ok().map(Path::to_path_buf);
        let text = match self.world(|world| below(world)) {
            Some(rest) => Path::new("RUN").join(rest),
            None => path.to_path_buf(),
        };
        let mut turn = self.begin(op, Place(&text.to_string_lossy(), OsStr::new("")))?;
        f(&mut turn)
    }

    /// An operation on nothing in particular.
    fn ask<T>(&self, op: &'static str, doing: &str, f: impl FnOnce(&mut World) -> T) -> Result<T> {
        let mut turn = self.begin(op, Place("", OsStr::new(""))).doing(doing)?;
        Ok(f(turn.world()))
    }
}

impl Os for Machine {
    type Dir = FakeDir;
    type Claim = FakeClaim;
    type Device = FakeDevice;

    fn privileged(&self) -> bool {
        self.world(|w| w.privileged)
    }

    fn mounts(&self) -> Result<Vec<Mount>> {
        self.ask("os.mounts", "reading the mount table", |w| {
            w.mounts.iter().map(|m| m.mount.clone()).collect()
        })
    }

    fn devices(&self) -> Result<Devices> {
        self.ask("os.devices", "reading the devices", |w| w.devices.clone())
    }

    fn usb_disks(&self) -> Result<Vec<String>> {
        self.ask("os.usb_disks", "asking for disks on USB", |w| w.usb_disks.clone())
    }

    fn swaps(&self) -> Result<Vec<PathBuf>> {
        self.ask("os.swaps", "reading the swap devices", |w| w.swaps.clone())
    }

    fn canonical(&self, path: &Path) -> Result<PathBuf> {
        self.with_path("os.canonical", path, |turn| {
            let world = turn.world();
            if path.starts_with("/dev") {
                let id = world.provider(path)?;
                return Ok(world.devices.get(id).path());
            }
            Ok(world.resolve(path)?.1)
        })
        .doing_to("resolving", path)
    }

    fn read_file(&self, path: &Path) -> Result<Option<Vec<u8>>> {
        let read = self.with_path("os.read_file", path, |turn| {
            let (node, _) = turn.world().resolve(path)?;
            let tree = turn.world().volumes[node.volume].tree();
            match &tree.get(node.ino)?.body {
                Body::File(content) => {
                    let size = tree.meta(node.ino, 0)?.size;
                    let mut bytes = vec![0; usize::try_from(size).map_err(io::Error::other)?];
                    content.read(0, &mut bytes);
                    Ok(bytes)
                }
                _ => Err(Errno::EISDIR.into()),
            }
        });
        if_there(read).doing_to("reading", path)
    }

    fn read_device(&self, device: &Path, offset: u64, length: usize) -> Result<Vec<u8>> {
        self.with_path("os.read_device", device, |turn| {
            let id = turn.world().provider(device)?;
            // As a character device has it.
            if [offset, length as u64].iter().any(|n| !n.is_multiple_of(SECTOR)) {
                return Err(Errno::EINVAL.into());
            }
            turn.world().read_bytes(id, offset, length)
        })
        .doing_to("reading", device)
        .map_err(|e| e.at(offset))
    }

    fn open_device(&self, device: &Path) -> Result<FakeDevice> {
        let id = self.with_path("os.open_device", device, |turn| turn.world().provider(device));
        Ok(FakeDevice { machine: self.clone(), id: id.doing_to("opening", device)? })
    }

    fn refresh(&self, medium: &Path) -> Result<()> {
        // Reads see what was written, be it durable or not.
        self.with_path("os.refresh", medium, |turn| turn.world().provider(medium).map(drop))
            .doing_to("reading anew", medium)
    }

    fn ident(&self, medium: &Path) -> Result<Option<String>> {
        let asked = self.with_path("os.ident", medium, |turn| {
            let name = medium.strip_prefix("/dev").unwrap_or(medium).to_string_lossy();
            Ok(turn.world().idents.get(name.as_ref()).cloned())
        });
        asked.doing_to("asking the serial number of", medium)
    }

    fn rewrites(&self) -> bool {
        false
    }

    fn rewrite(&self, holder: &Path, _what: &Rewrite) -> Result<()> {
        Err(Error::refused("this machine has no gpart").path(holder))
    }

    fn claim(&self, device: &Path) -> Result<FakeClaim> {
        let claimed = self.with_path("os.claim", device, |turn| {
            let world = turn.world();
            let id = world.provider(device)?;
            let volumes = match world.devices.get(id).class {
                Class::Disk => world.volumes_on(id),
                _ => vec![world.volume(id)?],
            };
            let taken = |v: &usize| world.is_mounted(*v) || world.claims.contains(v);
            if volumes.iter().any(taken) {
                return Err(Errno::EBUSY.into());
            }
            world.claims.extend(&volumes);
            Ok((id, volumes))
        });
        let (id, volumes) = busy(claimed.doing_to("opening for writing", device))?;
        Ok(FakeClaim { machine: self.clone(), device: device.to_path_buf(), id, volumes })
    }

    fn format(&self, device: &Path, format: &Format) -> Result<()> {
        let found = self.with_path("os.format", device, |turn| {
            let world = turn.world();
            let volume = world.volume(world.provider(device)?)?;
            if world.is_mounted(volume) || world.claims.contains(&volume) {
                return Err(Errno::EBUSY.into());
            }
            let (serial, now) = (world.next_serial(), world.now);
            Ok(world.volumes[volume].format(format, serial, now))
        });
        busy(found.doing_to("making a file system on", device))?.map_err(|e| e.path(device))
    }

    fn adopt(&self, device: &Path, _format: &Format, grow: bool) -> Result<()> {
        // Identity and label are in its superblocks already.
        self.with_path("os.adopt", device, |_| Ok(())).doing_to("adopting", device)?;
        if grow {
            return Err(Error::refused("this machine has no growfs").path(device));
        }
        Ok(())
    }

    fn rehearse(&self, format: &Format, size: u64) -> Result<Superblock> {
        let now = self.ask("os.rehearse", "rehearsing the format", |w| w.now)?;
        let mut head = vec![0; WINDOW];
        volume::make(format, size, 0, now)?.read(0, &mut head);
        sys::rehearsed(&head)
    }

    fn sweep_rehearsals(&self, _gone: &dyn Fn(&OsStr) -> bool) -> Result<()> {
        Ok(()) // they are no more than bytes
    }

    fn inspect(&self, device: &Path, _fs: sys::FsType) -> Result<Option<String>> {
        let checked = self.with_path("os.inspect", device, |turn| {
            let world = turn.world();
            let volume = world.volume(world.provider(device)?)?;
            Ok(world.volumes[volume].check())
        });
        checked.doing_to("checking", device)
    }

    fn mount(&self, device: &Path, point: &Path, fs: &str, access: Access) -> Result<Mount> {
        let mounted = self.with_path("os.mount", device, |turn| {
            turn.world().mount(device, point, fs, access == Access::Read)
        });
        busy(mounted.doing_to("mounting", device))
    }

    fn unmount(&self, mount: &Mount, force: bool) -> Result<()> {
        let gone = self.with_path("os.unmount", &mount.point, |turn| {
            let flush = !turn.lie;
            turn.world().unmount(mount, force, flush)
        });
        busy(gone.doing_to("unmounting", &mount.point))
    }

    fn drop_cache(&self, device: &Path) -> Result<()> {
        let dropped = self.with_path("os.drop_cache", device, |turn| {
            let lie = turn.lie;
            let world = turn.world();
            let id = world.provider(device)?;
            let volume = world.volume(id)?;
            if world.is_mounted(volume) {
                return Err(Errno::EBUSY.into());
            }
            if !lie {
                world.volumes[volume].drop_cache();
                world.flush_disk(id);
            }
            Ok(())
        });
        busy(dropped.doing_to("dropping the cache of", device))
    }

    fn partition(&self, medium: &Path, drawing: &Drawing) -> Result<()> {
        self.draw(medium, drawing)
    }

    fn make_bootable(&self, medium: &Path, drawing: &Drawing, _root: &Path) -> Result<()> {
        self.mark(medium, drawing)
    }

    fn set_boot(&self, medium: &Path, change: &flags::Change) -> Result<()> {
        self.change_flags(medium, change)
    }

    fn run_hook(&self, program: &Path, _limit: Duration, stop: &dyn Fn() -> bool) -> Result<Ended> {
        let ended = self.with_path("os.run_hook", program, |turn| {
            let name = program.file_name().unwrap_or_default().to_string_lossy().into_owned();
            let good = Ended { code: Some(0), late: false, tail: String::new() };
            Ok(turn.world().hooks.get(&name).cloned().unwrap_or(good))
        });
        let ended = ended.doing_to("running", program)?;
        Ok(if stop() { Ended { code: None, ..ended } } else { ended })
    }

    fn reboot(&self) -> Result<()> {
        self.ask("os.reboot", "starting again", |_| ())
    }

    fn snapshots(&self) -> Result<Snapshots> {
        self.ask("os.snapshots", "asking what snapshots there are", |w| w.snapshots)
    }

    fn freeze(&self, file: &Path) -> Result<PathBuf> {
        self.with_path("os.freeze", file, |turn| turn.world().freeze(file))
            .doing_to("taking a snapshot", file)
    }

    fn thaw(&self, file: &Path) -> Result<()> {
        let gone = self.with_path("os.thaw", file, |turn| turn.world().thaw(file));
        busy(gone.doing_to("removing the snapshot", file))
    }

    fn holders(&self, mount: &Mount) -> Result<Vec<Holder>> {
        self.with_path("os.holders", &mount.point, |turn| Ok(turn.world().holders.clone()))
            .doing_to("asking who uses", &mount.point)
    }

    fn open_uncovered(&self, point: &Path, _generation: Generation) -> Result<FakeDir> {
        self.open_dir(point).map(FakeDir::uncovered)
    }

    fn open_dir(&self, path: &Path) -> Result<FakeDir> {
        self.with_path("os.open_dir", path, |turn| {
            let (node, _) = turn.world().resolve(path)?;
            FakeDir::open(self, turn, node)
        })
        .doing_to("opening", path)
    }

    fn make_dir(&self, path: &Path) -> Result<()> {
        self.with_path("os.make_dir", path, |turn| make_dir(turn.world(), path))
            .doing_to("making directory", path)
    }

    fn remove_dir(&self, path: &Path) -> Result<()> {
        self.with_path("os.remove_dir", path, |turn| remove_dir(turn.world(), path))
            .doing_to("removing", path)
    }

    fn usage(&self, path: &Path) -> Result<Usage> {
        self.with_path("os.usage", path, |turn| {
            let (node, _) = turn.world().resolve(path)?;
            Ok(turn.world().volumes[node.volume].tree().usage())
        })
        .doing_to("asking the space of", path)
    }

    fn forbids(&self) -> Result<Option<String>> {
        self.ask("os.forbids", "reading the security level", |w| w.forbids.clone())
    }

    fn packages(&self, root: &Path) -> Result<Option<Vec<(String, String)>>> {
        self.with_path("os.packages", root, |turn| Ok(turn.world().packages.clone()))
            .doing_to("asking the packages of", root)
    }

    fn boot(&self) -> Result<Boot> {
        self.ask("os.boot", "reading what started the system", |w| w.started.clone())
    }

    fn efi_program(&self) -> Result<Option<String>> {
        self.ask("os.efi_program", "asking for the firmware's program", |w| w.efi_program.clone())
    }

    fn run_dir(&self) -> PathBuf {
        self.world(|w| w.run_dir.clone())
    }

    fn alive(&self, pid: u32) -> bool {
        pid == std::process::id() || self.world(|w| w.alive.contains(&pid))
    }
}

/// The directory that holds a path's last name, which may be changed.
pub(super) fn parent<'a>(world: &World, path: &'a Path) -> io::Result<(Node, &'a OsStr)> {
    let (node, _) = world.resolve(path.parent().unwrap_or(Path::new("/")))?;
    if world.mounted(node.mount)?.mount.read_only {
        return Err(Errno::EROFS.into());
    }
    Ok((node, path.file_name().unwrap_or_default()))
}

fn make_dir(world: &mut World, path: &Path) -> io::Result<()> {
    match world.resolve(path) {
        Ok((node, _)) if world.volumes[node.volume].tree().get(node.ino)?.kind() == Kind::Dir => {
            return Ok(());
        }
        Ok(_) => return Err(Errno::EEXIST.into()),
        Err(e) if e.kind() == io::ErrorKind::NotFound => {}
        Err(e) => return Err(e),
    }
    if let Some(above) = path.parent() {
        make_dir(world, above)?;
    }
    let (node, name) = parent(world, path)?;
    let now = world.now;
    let volume = &mut world.volumes[node.volume];
    volume.tree().may_add(node.ino, name)?;
    volume.tree().room(1, 1)?;
    let ino = volume.allocate();
    let body = Body::Dir { parent: node.ino, entries: std::collections::BTreeMap::new() };
    let inode = Inode::new(body, Attributes::new(0o755, now));
    volume.change(ino, Change::Make(Arc::new(inode)), now);
    volume.change(node.ino, Change::Link(name.to_owned(), ino), now);
    Ok(())
}

fn remove_dir(world: &mut World, path: &Path) -> io::Result<()> {
    let (node, name) = parent(world, path)?;
    let now = world.now;
    let tree = world.volumes[node.volume].tree();
    let ino = tree.child(node.ino, name)?;
    let inode = tree.get(ino)?;
    match &inode.body {
        Body::Dir { entries, .. } if entries.is_empty() => {}
        Body::Dir { .. } => return Err(Errno::ENOTEMPTY.into()),
        _ => return Err(Errno::ENOTDIR.into()),
    }
    inode.may_go()?;
    tree.get(node.ino)?.may_change()?;
    let child = Node { ino, ..node };
    if world.cross(child) != child {
        return Err(Errno::EBUSY.into());
    }
    let volume = &mut world.volumes[node.volume];
    volume.change(node.ino, Change::Unlink(name.to_owned()), now);
    volume.prune(ino);
    Ok(())
}

/// A device opened for reading.
#[derive(Debug)]
pub struct FakeDevice {
    machine: Machine,
    id: Id,
}

impl ReadAt for FakeDevice {
    fn read_at(&self, offset: u64, buffer: &mut [u8]) -> io::Result<usize> {
        let path = self.machine.world(|world| world.devices.get(self.id).path());
        let bytes = self.machine.with_path("device.read_at", &path, |turn| {
            turn.world().read_with(self.id, offset, buffer.len(), Volume::read)
        })?;
        buffer[..bytes.len()].copy_from_slice(&bytes);
        Ok(bytes.len())
    }
}

/// A partition, or a disk with all its partitions, opened for writing.
#[derive(Debug)]
pub struct FakeClaim {
    machine: Machine,
    device: PathBuf,
    id: Id,
    volumes: Vec<usize>,
}

impl FakeClaim {
    fn with<T>(
        &self,
        op: &'static str,
        doing: &str,
        f: impl FnOnce(&mut World) -> io::Result<T>,
    ) -> Result<T> {
        self.machine
            .with_path(op, &self.device, |turn| f(turn.world()))
            .doing_to(doing, &self.device)
    }

    /// The same for what changes the medium.
    fn change(
        &self,
        op: &'static str,
        doing: &str,
        f: impl FnOnce(&mut Turn<'_>) -> io::Result<()>,
    ) -> Result<()> {
        self.machine
            .with_path(op, &self.device, |turn| if turn.lie { Ok(()) } else { f(turn) })
            .doing_to(doing, &self.device)
    }
}

impl sys::Claim for FakeClaim {
    fn provider(&self) -> Result<String> {
        let name = self.with("claim.provider", "asking the provider of", |world| {
            let id = world.provider(&self.device)?;
            Ok(world.devices.get(id).name.clone())
        })?;
        Ok(name)
    }

    fn size(&self) -> Result<u64> {
        let id = self.id;
        self.with("claim.size", "asking the size of", |world| Ok(world.devices.get(id).size))
    }

    fn wipe(&mut self, offset: u64, length: u64) -> Result<()> {
        let id = self.id;
        self.change("claim.wipe", "erasing", |turn| {
            let whole = |n: u64| n.is_multiple_of(512);
            let Ok(bytes) = usize::try_from(length) else { return Err(Errno::EINVAL.into()) };
            if !whole(offset) || !whole(length) {
                return Err(Errno::EINVAL.into());
            }
            turn.world().write_bytes(id, offset, &vec![0; bytes]);
            Ok(())
        })
        .map_err(|e: Error| e.at(offset))
    }

    fn write_at(&mut self, offset: u64, data: &[u8]) -> Result<()> {
        let id = self.id;
        self.change("claim.write_at", "writing", |turn| {
            if !offset.is_multiple_of(512) || !data.len().is_multiple_of(512) {
                return Err(Errno::EINVAL.into());
            }
            if turn.rot {
                turn.world().write_with(id, offset, data, Volume::write_bytes_badly);
            } else {
                turn.world().write_bytes(id, offset, data);
            }
            Ok(())
        })
        .map_err(|e: Error| e.at(offset))
    }

    fn reread(&mut self) -> Result<bool> {
        self.with("claim.reread", "reading the partition table of", |_| Ok(true))
    }

    fn flush(&mut self) -> Result<()> {
        let (id, volumes) = (self.id, &self.volumes);
        self.change("claim.flush", "flushing", |turn| {
            let world = turn.world();
            for &volume in volumes {
                world.volumes[volume].flush();
            }
            world.flush_disk(id);
            Ok(())
        })
    }
}

impl Drop for FakeClaim {
    fn drop(&mut self) {
        self.machine.world(|w| w.claims.retain(|v| !self.volumes.contains(v)));
    }
}
