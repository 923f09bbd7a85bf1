//! Partition tables that can lose what was not flushed, and what changes them.

use std::path::Path;

use super::disk::Disk;
use super::partition::Bytes;
use super::volume::Volume;
use super::world::{FIRST, SECTOR, World, entry, provider};
use super::{Machine, Turn};
use crate::device::{Class, Lower};
use crate::error::{Context, Error, Result};
use crate::table::flags::{Change, writes};
use crate::table::gpt;

/// Sectors of a GPT's entries, and entries.
const ARRAY: u64 = 32;
const ENTRIES: u32 = 128;

/// The little-endian bytes of a GUID's text: its first three groups are turned around.
fn guid(text: &str) -> Vec<u8> {
    let digits: Vec<u8> = text.bytes().filter(u8::is_ascii_hexdigit).collect();
    let pair = |pair: &[u8]| u8::from_str_radix(&String::from_utf8_lossy(pair), 16).unwrap_or(0);
    let mut bytes: Vec<u8> = digits.chunks(2).map(pair).collect();
    bytes.resize(16, 0);
    bytes[..4].reverse();
    bytes[4..6].reverse();
    bytes[6..8].reverse();
    bytes
}

impl World {
    /// Adds a disk with a GPT of partitions of these types (GUIDs) and sizes, blank, without flags.
    pub fn add_gpt_disk(&mut self, name: &str, parts: &[(&str, u64)]) {
        let size = 2 * FIRST + parts.iter().map(|(_, size)| size).sum::<u64>();
        let disk = self.devices.providers.len();
        self.devices.providers.push(provider(name.to_owned(), Class::Disk, size, Vec::new()));
        let last = size / SECTOR - 1;
        let mut array = vec![0; usize::try_from(ARRAY * SECTOR).unwrap_or(0)];
        let mut start = FIRST;
        for (n, &(kind, size)) in parts.iter().enumerate() {
            let index = u32::try_from(n).unwrap_or(0) + 1;
            let part = format!("{name}p{index}");
            let lower = vec![Lower { id: disk, offset: Some(start) }];
            self.devices.providers.push(provider(
                part.clone(),
                Class::Partition { index },
                size,
                lower,
            ));
            self.volumes.push(Volume::new(Some(part), size, self.now));
            let raw = &mut array[n * 128..][..128];
            raw[..16].copy_from_slice(&guid(kind));
            raw[16] = u8::try_from(index).unwrap_or(0); // any GUID of its own
            raw[32..40].copy_from_slice(&(start / SECTOR).to_le_bytes());
            raw[40..48].copy_from_slice(&((start + size) / SECTOR - 1).to_le_bytes());
            start += size;
        }
        let header = |own: u64, other: u64, at: u64| {
            let mut header = vec![0; 512];
            header[..8].copy_from_slice(b"EFI PART");
            for (place, value) in [(8, 0x0001_0000), (12, 92), (80, ENTRIES), (84, 128)] {
                header[place..place + 4].copy_from_slice(&u32::to_le_bytes(value));
            }
            for (place, value) in
                [(24, own), (32, other), (40, ARRAY + 2), (48, last - ARRAY - 1), (72, at)]
            {
                header[place..place + 8].copy_from_slice(&u64::to_le_bytes(value));
            }
            header[56] = 1; // any GUID
            gpt::seal(&mut header, &array);
            header
        };
        let mut first = vec![0; 512];
        first[entry(1) + 4] = 0xee;
        first[entry(1) + 8] = 1;
        first[entry(1) + 12..entry(1) + 16].fill(0xff);
        first[510..].copy_from_slice(&[0x55, 0xaa]);
        let primary = [header(1, last, 2), array.clone()].concat();
        let backup = [array.clone(), header(last, 1, last - ARRAY)].concat();
        let disk = self.disks.entry(name.to_owned()).or_default();
        disk.write(0, &first);
        disk.write(SECTOR, &primary);
        disk.write((last - ARRAY) * SECTOR, &backup);
        disk.flush();
    }

    /// Writes bytes of a partition, or of a disk outside its partitions, durable at once.
    ///
    /// # Panics
    /// There is no such device: the test is wrong.
    pub fn put(&mut self, device: &str, offset: u64, bytes: &[u8]) {
        let found = self.devices.find(Path::new(device));
        let id = found.unwrap_or_else(|| panic!("no device {device}"));
        self.write_bytes(id, offset, bytes);
        if let Ok(volume) = self.volume(id) {
            self.volumes[volume].flush();
        }
        self.flush_disk(id);
    }

    /// How many writes to tables nobody flushed.
    pub fn pending_tables(&self) -> usize {
        self.disks.values().map(Disk::pending).sum()
    }
}

impl Machine {
    /// As Linux does it: write after write, each flushed.
    pub(super) fn change_flags(&self, medium: &Path, change: &Change) -> Result<()> {
        let disk = medium.strip_prefix("/dev").unwrap_or(medium).to_string_lossy().into_owned();
        let writes = self.with_path("os.set_boot", medium, |turn| {
            let world = turn.world();
            let id = world.provider(medium)?;
            let size = world.devices.get(id).size;
            Ok(writes(&mut Bytes::of(world, id), size, 512, change))
        });
        let writes = writes.doing_to("opening", medium)?;
        let writes = writes.map_err(|e| Error::from(e).path(medium))?;
        for (at, bytes) in writes {
            let write = |turn: &mut Turn<'_>| {
                let mut new = bytes.clone();
                if turn.rot {
                    // What a checksum or a flag tells.
                    let place = match new.len() {
                        512 if at == 0 => 446,
                        512 => 40, // the first usable sector
                        length => length / 2,
                    };
                    new[place] ^= 0x80;
                }
                turn.world().disks.entry(disk.clone()).or_default().write(at, &new);
                Ok(())
            };
            self.with_path("os.set_boot.write", medium, write)
                .doing_to("writing", medium)
                .map_err(|e| e.at(at))?;
            let flush = |turn: &mut Turn<'_>| {
                turn.world().disks.entry(disk.clone()).or_default().flush();
                Ok(())
            };
            self.with_path("os.set_boot.flush", medium, flush).doing_to("flushing", medium)?;
        }
        Ok(())
    }
}
