//! Everything of a medium that its tables can be judged by, read once.

use std::io::{Read, Seek};

use super::flags::Change;
use super::{
    Entry, Failure, Fault, Scheme, Table, bsd, check_sector, gpt, mbr, read_sectors, superblock,
};

/// Of no more slices than these the first bytes are looked at.
const MOST_SLICES: usize = 32;

/// What was read of a medium.
#[derive(Clone, Debug)]
pub struct Reading {
    /// Bytes of the medium.
    pub size: u64,
    /// Bytes in a sector.
    pub sector: u32,
    /// The first sector.
    pub first: Vec<u8>,
    /// The primary GPT.
    pub primary: Result<Option<gpt::Found>, Fault>,
    /// The backup GPT; not looked for beside an MBR.
    pub backup: Result<Option<gpt::Found>, Fault>,
    /// Whether the primary is damaged by nothing but a change of boot flags that was cut off.
    pub cut_off: bool,
    /// The first bytes of slices that hold more than a file system.
    pub slices: Vec<Slice>,
    /// What could not be read: the byte, and the system's words.
    pub unreadable: Vec<(u64, String)>,
}

/// The first bytes of a slice.
#[derive(Clone, Debug)]
pub struct Slice {
    /// Its entry.
    pub entry: Entry,
    /// At most [`superblock::WINDOW`] bytes, less where it or the medium ends.
    pub head: Vec<u8>,
}

impl Reading {
    /// Reads a medium of `size` bytes in sectors of `sector` bytes. Reads are whole sectors.
    ///
    /// # Errors
    /// [`Failure::Io`] where the very first sector cannot be read; [`Fault::Sector`].
    pub fn take<R: Read + Seek>(reader: &mut R, size: u64, sector: u32) -> Result<Self, Failure> {
        check_sector(sector)?;
        let bytes = u64::from(sector);
        let first = if size < bytes { Vec::new() } else { read_sectors(reader, sector, 0, bytes)? };
        let mut unreadable = Vec::new();
        let mut copy = |reader: &mut R, copy| match gpt::find(reader, size, sector, copy) {
            Ok(found) => Ok(found),
            Err(Failure::Fault(fault)) => Err(fault),
            Err(Failure::Io { offset, source }) => {
                unreadable.push((offset, crate::error::describe(&source)));
                Ok(None)
            }
        };
        let primary = copy(reader, gpt::Copy::Primary);
        let by_mbr = mbr::entries(&first, size, sector).is_some();
        let backup = if by_mbr { Ok(None) } else { copy(reader, gpt::Copy::Backup) };
        let cut_off = matches!((&primary, &backup), (Err(Fault::Checksum(_)), Ok(Some(_))))
            && gpt::is_cut_off(reader, size, sector).unwrap_or(false);
        let slices = Vec::new();
        let mut reading =
            Self { size, sector, first, primary, backup, cut_off, slices, unreadable };
        let entries = reading.entries().map(|(_, entries)| entries).unwrap_or_default();
        for entry in entries.into_iter().filter(holds_more).take(MOST_SLICES) {
            let room = size.saturating_sub(entry.start).min(entry.size);
            let window = if entry.kind == "freebsd" { superblock::WINDOW } else { bsd::WINDOW };
            let length = room.min(window as u64) / bytes * bytes;
            match read_sectors(reader, sector, entry.start / bytes, length) {
                Ok(head) => reading.slices.push(Slice { entry, head }),
                Err(Failure::Io { offset, source }) => {
                    reading.unreadable.push((offset, crate::error::describe(&source)));
                }
                // A place that no medium has: its entry is beyond this one, which is said already.
                Err(Failure::Fault(_)) => {}
            }
        }
        Ok(reading)
    }

    /// The table, as [`super::read`] tells it.
    ///
    /// # Errors
    /// What is wrong with the one that is there.
    pub fn table(&self) -> Result<Option<Table>, Fault> {
        if !mbr::is_protective(&self.first) && mbr::has_signature(&self.first) {
            return mbr::read(&self.first, self.size, self.sector);
        }
        match (&self.primary, &self.backup) {
            (Ok(Some(found)), _) | (_, Ok(Some(found))) => Ok(Some(found.table.clone())),
            (Err(fault), _) | (_, Err(fault)) => Err(fault.clone()),
            _ if mbr::is_protective(&self.first) => Err(Fault::Lost),
            _ => Ok(None),
        }
    }

    /// Whether the copies of a GPT differ, and in nothing but the boot flags: a change of them was
    /// interrupted. The primary is the one that counts where it is whole (`gptread` in
    /// stand/libsa/gpt.c).
    pub fn differs_in_flags(&self) -> bool {
        let (Ok(Some(primary)), Ok(Some(backup))) = (&self.primary, &self.backup) else {
            return self.cut_off;
        };
        let flags = Change::none(&primary.table, None);
        primary.table != backup.table && flags.apply(&backup.table) == primary.table
    }

    /// The scheme that rules the medium, and its entries as far as they can be told: of an MBR those
    /// that are written there, however wrong; of a GPT those of the copy that can be used.
    pub fn entries(&self) -> Option<(Scheme, Vec<Entry>)> {
        if let Some(entries) = mbr::entries(&self.first, self.size, self.sector) {
            return Some((Scheme::Mbr, entries));
        }
        if mbr::has_signature(&self.first) && !mbr::is_protective(&self.first) {
            return None;
        }
        let usable = |copy: &Result<Option<gpt::Found>, Fault>| copy.as_ref().ok()?.clone();
        match usable(&self.primary).or_else(|| usable(&self.backup)) {
            Some(found) => Some((Scheme::Gpt, found.table.entries)),
            None => self.is_gpt().then(|| (Scheme::Gpt, Vec::new())),
        }
    }

    /// Whether a GPT is meant to rule: a protective MBR says so, or there is a copy and no MBR.
    fn is_gpt(&self) -> bool {
        mbr::is_protective(&self.first)
            || [&self.primary, &self.backup].iter().any(|copy| !matches!(copy, Ok(None)))
    }

    /// The entries of a BSD label that can be used, counted from the start of its slice.
    pub fn partitions(&self, slice: &Slice) -> Option<Vec<Entry>> {
        let Entry { start, size, .. } = slice.entry;
        Some(bsd::read(&slice.head, start, size, self.sector).ok()??.entries)
    }
}

/// Whether more than a file system is looked for in it.
fn holds_more(entry: &Entry) -> bool {
    matches!(entry.kind.as_str(), "freebsd" | "freebsd-boot" | "efi" | "ebr")
}
