//! Partition tables made as gpart(8) makes them: MBR slices with BSD labels.

use std::io::{self, Cursor, Read, Seek};
use std::path::Path;

use super::Machine;
use super::volume::Volume;
use super::world::{World, provider};
use crate::device::{Class, Id, Lower, Provider};
use crate::error::{Context, Error, Result};
use crate::sys::{Os, erase_for};
use crate::table::drawing::{Drawing, Drawn};
use crate::table::{self, Entry, Scheme, bsd};

const SECTOR: u64 = 512;

impl Machine {
    /// Erases, then a transaction for the slices and one for each label, none of them flushed.
    pub(super) fn draw(&self, medium: &Path, drawing: &Drawing) -> Result<()> {
        if drawing.scheme != Scheme::Mbr {
            return Err(Error::refused("this machine draws no other table than an MBR"));
        }
        let mut claim = self.claim(medium)?;
        erase_for(&mut claim, drawing)?;
        drop(claim);
        self.commit(medium, 0, &mbr(drawing))?;
        for slice in drawing.parts.iter().filter(|part| !part.inside.is_empty()) {
            self.commit(medium, slice.start + SECTOR, &label(slice))?;
        }
        Ok(())
    }

    /// Boot code for the medium and for its slices with a root, then the active flag.
    pub(super) fn mark(&self, medium: &Path, drawing: &Drawing) -> Result<()> {
        let mut sector = mbr(drawing);
        sector[..440].fill(0x31);
        self.commit(medium, 0, &sector)?;
        for slice in drawing.parts.iter().filter(|part| part.index <= 2) {
            self.commit(medium, slice.start, &[0x32; 512])?;
        }
        sector[446 + 16 * (drawing.boots as usize - 1)] = 0x80;
        self.commit(medium, 0, &sector)
    }

    /// Writes past everything, and lets the kernel look at the medium again.
    fn commit(&self, medium: &Path, offset: u64, bytes: &[u8]) -> Result<()> {
        let written = self.with_path("os.commit", medium, |turn| {
            let world = turn.world();
            let id = world.provider(medium)?;
            world.write_bytes(id, offset, bytes);
            let name = world.devices.get(id).name.clone();
            world.taste(&name);
            Ok(())
        });
        written.doing_to("writing the table of", medium)
    }
}

fn sectors(bytes: u64) -> [u8; 4] {
    u32::try_from(bytes / SECTOR).unwrap_or(u32::MAX).to_le_bytes()
}

fn mbr(drawing: &Drawing) -> Vec<u8> {
    let mut sector = vec![0; 512];
    for part in &drawing.parts {
        let entry = &mut sector[446 + 16 * (part.index as usize - 1)..][..16];
        entry[4] = 0xa5;
        entry[8..12].copy_from_slice(&sectors(part.start));
        entry[12..].copy_from_slice(&sectors(part.size));
    }
    sector[510..].copy_from_slice(&[0x55, 0xaa]);
    sector
}

/// A label (`sys/sys/disk/bsd.h`) of eight partitions, `c` being the whole slice.
fn label(slice: &Drawn) -> Vec<u8> {
    let mut sector = vec![0; 512];
    for (at, value) in [(0, 0x8256_4557_u32), (132, 0x8256_4557), (40, 512), (44, 63), (48, 255)] {
        sector[at..at + 4].copy_from_slice(&value.to_le_bytes());
    }
    sector[138] = 8;
    let mut put = |index: u32, start: u64, size: u64, kind: u8| {
        let entry = &mut sector[148 + 16 * (index as usize - 1)..][..16];
        entry[..4].copy_from_slice(&sectors(size));
        entry[4..8].copy_from_slice(&sectors(start));
        entry[12] = kind;
    };
    put(3, 0, slice.size, 0);
    for part in &slice.inside {
        put(part.index, part.start, part.size, if part.kind == "freebsd-swap" { 1 } else { 7 });
    }
    let sum = |bytes: [u8; 2], word: &[u8]| [bytes[0] ^ word[0], bytes[1] ^ word[1]];
    let check = sector.chunks_exact(2).fold([0, 0], sum);
    sector[136..138].copy_from_slice(&check);
    sector
}

/// A device as the parsers read it.
pub(super) struct Bytes<'a>(&'a World, Id, Cursor<()>);

impl<'a> Bytes<'a> {
    pub(super) fn of(world: &'a World, device: Id) -> Self {
        Self(world, device, Cursor::new(()))
    }
}

impl Read for Bytes<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let data = self.0.read_bytes(self.1, self.2.position(), buffer.len())?;
        buffer[..data.len()].copy_from_slice(&data);
        self.2.set_position(self.2.position() + data.len() as u64);
        Ok(data.len())
    }
}

impl Seek for Bytes<'_> {
    fn seek(&mut self, to: io::SeekFrom) -> io::Result<u64> {
        let io::SeekFrom::Start(at) = to else { return Err(io::ErrorKind::Unsupported.into()) };
        self.2.set_position(at);
        Ok(at)
    }
}

impl World {
    /// Looks at the table of a disk, as GEOM does, and has the partitions that it finds and no
    /// others. What lies where there was none before is blank.
    pub(super) fn taste(&mut self, disk: &str) {
        let Some(id) = self.devices.find(Path::new(disk)) else { return };
        let id = self.forget_partitions(id);
        let size = self.devices.get(id).size;
        let table = table::read(&mut Bytes::of(self, id), size, 512);
        let mut leaves = Vec::new();
        for entry in table.ok().flatten().map(|t| t.entries).unwrap_or_default() {
            let slice = self.add_partition(id, format!("{disk}s{}", entry.index), &entry);
            let head = self.read_bytes(slice, 0, bsd::WINDOW).unwrap_or_default();
            let label = bsd::read(&head, entry.start, entry.size, 512).ok().flatten();
            let inside = label.map(|label| label.entries).unwrap_or_default();
            for part in &inside {
                let name = format!("{disk}s{}{}", entry.index, bsd::letter(part.index));
                leaves.push((name.clone(), part.size));
                self.add_partition(slice, name, part);
            }
        }
        self.disks.entry(disk.to_owned()).or_default().drawn = true;
        for volume in &mut self.volumes {
            let own = |name: &String| name.strip_prefix(disk).is_some_and(|n| n.starts_with('s'));
            let there = |name: &String| leaves.contains(&(name.clone(), volume.size));
            if volume.provider.as_ref().is_some_and(|name| own(name) && !there(name)) {
                volume.provider = None;
            }
        }
        for (name, size) in leaves {
            if !self.volumes.iter().any(|v| v.provider.as_ref() == Some(&name)) {
                self.volumes.push(Volume::new(Some(name), size, self.now));
            }
        }
    }

    /// Takes all partitions of a disk out of the stack; the disk's number after that.
    fn forget_partitions(&mut self, disk: Id) -> Id {
        let stays = |id: &Id| *id == disk || self.devices.medium(*id) != Some(disk);
        let kept: Vec<Id> = (0..self.devices.providers.len()).filter(stays).collect();
        let now = |id: Id| kept.iter().position(|k| *k == id).unwrap_or_default();
        let moved = |p: &Provider| {
            let lower = p.lower.iter().map(|l| Lower { id: now(l.id), offset: l.offset });
            Provider { lower: lower.collect(), ..p.clone() }
        };
        let providers = kept.iter().map(|id| moved(self.devices.get(*id))).collect();
        let disk = now(disk);
        self.devices.providers = providers;
        disk
    }

    fn add_partition(&mut self, below: Id, name: String, entry: &Entry) -> Id {
        let lower = vec![Lower { id: below, offset: Some(entry.start) }];
        let class = Class::Partition { index: entry.index };
        self.devices.providers.push(provider(name, class, entry.size, lower));
        self.devices.providers.len() - 1
    }
}
