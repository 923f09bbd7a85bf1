//! Which sectors of a medium are kept: all that leads to its partitions, and the boot code.

use std::io::{Read, Seek};

use super::super::gpt::{self, Copy, Raw};
use super::super::{
    Entry, Failure, Fault, Scheme, Table, bsd, le32, mbr, read, read_sectors, superblock,
};
use super::{FileSystem, Piece, What};

/// Bytes from the medium's start up to which boot code between the MBR and the first slice is kept.
const GAP_MAX: u64 = 1 << 20;
/// As much of a freebsd-boot partition as is kept; gptboot(8) allows no more than 545 KB.
const BOOT_MAX: u64 = 1 << 20;
/// More logical slices than this are taken for a loop.
const LOGICAL_MAX: u32 = 128;

/// What there is to keep of a medium.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Captured {
    /// The table's kind.
    pub scheme: Option<Scheme>,
    /// Its identity.
    pub disk_id: Option<String>,
    /// What its partitions hold.
    pub file_systems: Vec<FileSystem>,
    /// Its sectors, in the order in which they are written back.
    pub pieces: Vec<Piece>,
    /// What is not kept, or not as it is on the medium, in words for the user.
    pub notes: Vec<String>,
}

/// Looks at a medium of `size` bytes in sectors of `sector` bytes.
///
/// Of a GPT with one good copy, the other is kept as `gpart recover` would make it.
///
/// # Errors
/// The medium cannot be read, or has a table that is damaged: nothing can be learned from that.
pub fn capture<R: Read + Seek>(
    reader: &mut R,
    size: u64,
    sector: u32,
) -> Result<Captured, Failure> {
    let mut found = Captured::default();
    let table = read(reader, size, sector)?;
    let mut medium = Reading { reader, size, sector, found: &mut found };
    match &table {
        Some(table) => medium.table(table)?,
        None => medium.bare()?,
    }
    Ok(found)
}

/// A medium under way.
struct Reading<'a, R> {
    reader: &'a mut R,
    size: u64,
    sector: u32,
    found: &'a mut Captured,
}

impl<R: Read + Seek> Reading<'_, R> {
    fn bytes(&mut self, offset: u64, length: u64) -> Result<Vec<u8>, Failure> {
        let sector = u64::from(self.sector);
        let length = length.next_multiple_of(sector).min(self.size.saturating_sub(offset));
        read_sectors(self.reader, self.sector, offset / sector, length)
    }

    fn keep(&mut self, what: What, index: Option<u32>, offset: u64, bytes: Vec<u8>) {
        self.found.pieces.push(Piece { what, index, offset, bytes });
    }

    fn table(&mut self, table: &Table) -> Result<(), Failure> {
        let sector = u64::from(self.sector);
        (self.found.scheme, self.found.disk_id) = (Some(table.scheme), table.disk_id.clone());
        for entry in &table.entries {
            match entry.kind.as_str() {
                "freebsd" => self.slice(Some(entry.index), entry.start, entry.size)?,
                "freebsd-boot" => self.boot_partition(entry)?,
                "ebr" => self.logical(entry)?,
                _ => self.file_system(entry.start, entry.size)?,
            }
        }
        let first = self.bytes(0, sector)?;
        if table.scheme == Scheme::Gpt {
            self.gpt()?;
        } else if let Some(start) = table.entries.iter().map(|e| e.start).min() {
            let end = start.min(GAP_MAX.next_multiple_of(sector));
            if end > sector {
                let gap = self.bytes(sector, end - sector)?;
                self.keep(What::BootGap, None, sector, gap);
            }
        }
        self.keep(What::Mbr, None, 0, first);
        Ok(())
    }

    /// Without a table it may have a label of its own ("dangerously dedicated").
    fn bare(&mut self) -> Result<(), Failure> {
        self.slice(None, 0, self.size)?;
        if self.found.pieces.iter().any(|p| p.what == What::Label) {
            self.found.scheme = Some(Scheme::Bsd);
        }
        Ok(())
    }

    fn gpt(&mut self) -> Result<(), Failure> {
        let mut copies = Vec::new();
        for copy in [Copy::Primary, Copy::Backup] {
            copies.push(match gpt::read_raw(self.reader, self.size, self.sector, copy) {
                Ok(raw) => raw.map(|(raw, _)| raw),
                Err(Failure::Fault(_)) => None,
                Err(failure) => return Err(failure),
            });
        }
        let mirrored = |raw: &Option<Raw>, size, sector| gpt::mirror(raw.as_ref()?, size, sector);
        let (size, sector) = (self.size, self.sector);
        let other = |n: usize| mirrored(&copies[1 - n], size, sector);
        let names = ["primary", "backup"];
        let whats =
            [(What::GptEntries, What::GptHeader), (What::BackupEntries, What::BackupHeader)];
        // The backup goes first: the copy that counts is written when there is another one.
        for n in [1, 0] {
            let copy = copies[n].clone().or_else(|| other(n));
            if copies[n].is_none() {
                let made = if copy.is_some() { "kept as made from the other" } else { "not kept" };
                self.found.notes.push(format!("the {} gpt is damaged: {made}", names[n]));
            }
            if let Some(raw) = copy {
                self.keep(whats[n].0, None, raw.array_at, raw.array);
                self.keep(whats[n].1, None, raw.header_at, raw.header);
            }
        }
        Ok(())
    }

    fn boot_partition(&mut self, entry: &Entry) -> Result<(), Failure> {
        let length = entry.size.min(BOOT_MAX);
        if length < entry.size {
            let index = entry.index;
            let note = format!("of partition {index} the first {length} of {} bytes", entry.size);
            self.found.notes.push(note);
        }
        let bytes = self.bytes(entry.start, length)?;
        self.keep(What::BootPartition, Some(entry.index), entry.start, bytes);
        Ok(())
    }

    /// A slice that may have a BSD label, or the medium itself.
    fn slice(&mut self, index: Option<u32>, start: u64, size: u64) -> Result<(), Failure> {
        let window = self.bytes(start, size.min(bsd::WINDOW as u64))?;
        let label = match bsd::read(&window, start, size, self.sector) {
            Ok(label) => label,
            Err(fault) => {
                let of = index.map_or_else(String::new, |index| format!(" of slice {index}"));
                self.found.notes.push(format!("the bsd label{of} is not kept: {fault}"));
                return Ok(());
            }
        };
        let Some(label) = label else { return self.file_system(start, size) };
        for entry in &label.entries {
            self.file_system(start + entry.start, entry.size)?;
        }
        // What is no UFS may keep data where the boot code would be.
        let boots = |e: &Entry| e.start >= bsd::WINDOW as u64 || e.kind == "freebsd-ufs";
        let sector = self.sector as usize;
        if label.entries.iter().all(boots) {
            self.keep(What::Boot1, index, start, window[..sector].to_vec());
            if let Some(rest) = window.get(2 * sector..).filter(|rest| !rest.is_empty()) {
                let at = start + 2 * u64::from(self.sector);
                self.keep(What::Boot2, index, at, rest.to_vec());
            }
        }
        let own = window[sector..2 * sector].to_vec();
        self.keep(What::Label, index, start + u64::from(self.sector), own);
        Ok(())
    }

    /// The chain of logical slices. Each sector of it has the slice, counted from itself, and the
    /// place of the next sector, counted from the start of the extended slice.
    fn logical(&mut self, extended: &Entry) -> Result<(), Failure> {
        let sector = u64::from(self.sector);
        let mut at = extended.start;
        let mut chain = Vec::new();
        for number in 1..=LOGICAL_MAX {
            let bytes = self.bytes(at, sector)?;
            if !mbr::has_signature(&bytes) {
                return Err(Fault::Invalid("extended slice without a boot record").into());
            }
            let place = |n: usize| {
                let from = 446 + n * 16;
                let code = u64::from(*bytes.get(from + 4)?);
                let start = u64::from(le32(&bytes, from + 8)?).checked_mul(sector)?;
                let size = u64::from(le32(&bytes, from + 12)?).checked_mul(sector)?;
                (code != 0 && size != 0).then_some((start, size))
            };
            let own = place(0).map(|(start, size)| (at.saturating_add(start), size));
            let next = place(1).map(|(start, _)| extended.start.saturating_add(start));
            chain.push(Piece { what: What::Ebr, index: Some(number), offset: at, bytes });
            if let Some((start, size)) = own.filter(|(start, _)| *start < extended.end()) {
                self.file_system(start, size.min(extended.end() - start))?;
            }
            match next {
                None => {
                    self.found.pieces.extend(chain.into_iter().rev());
                    return Ok(());
                }
                Some(next) if next > at && next < extended.end() => at = next,
                Some(_) => return Err(Fault::Invalid("logical slices out of order").into()),
            }
        }
        Err(Fault::Invalid("too many logical slices").into())
    }

    fn file_system(&mut self, start: u64, size: u64) -> Result<(), Failure> {
        if start.saturating_add(size) > self.size {
            return Ok(());
        }
        let window = self.bytes(start, size.min(superblock::WINDOW as u64))?;
        let id = superblock::read(&window).map(|s| s.id);
        if let Some(id) = id.filter(|id| id.bytes().any(|b| !b"0-".contains(&b))) {
            self.found.file_systems.push(FileSystem { offset: start, id });
        }
        Ok(())
    }
}

/// The identity in a first sector whose table need not make sense.
pub fn mbr_id(sector: &[u8]) -> Option<String> {
    mbr::disk_id(sector).filter(|_| mbr::has_signature(sector))
}
