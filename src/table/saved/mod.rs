//! What is kept of the partition tables of a medium, to repair them with, and the file of it.
//!
//! The file is three things one behind the other, so that a shell can look at it (`head -n 2`):
//!
//! ```text
//! dualroot tables 1 SHA-256\n    the version, and 64 hex digits over all that follows
//! {"schema":1,…}\n               one line of JSON: the media and their pieces
//! …                              the pieces' bytes in the JSON's order, without trailing zeros
//! ```
//!
//! A piece is a run of whole sectors. Of its `length` bytes only the first `stored` are in the
//! file, the others are zeros; `crc32` is over all `length`. Offsets count from the start of the
//! medium. Nothing is read from a file whose checksum, version or fields are not right.

pub mod capture;
pub mod compare;
pub mod identity;

use std::fmt;
use std::io::{self, Read, Seek, SeekFrom};
use std::ops::Range;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use super::{Entry, Scheme, Table, bsd};

/// The version of the format that this program writes.
pub const SCHEMA: u32 = 1;
/// How the file begins.
const MAGIC: &str = "dualroot tables ";
/// No piece is longer: as much of a boot partition as is kept, and the longest GPT there is.
const LONGEST: u64 = 4 << 20;
/// No file is longer.
pub const FILE_MAX: u64 = 64 << 20;

/// Which structure a piece is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum What {
    /// The first sector: an MBR with its boot code, or what protects a GPT.
    Mbr,
    /// What lies between it and the first slice: the rest of the boot code.
    BootGap,
    /// The sector of one logical slice.
    Ebr,
    /// The header behind the protective MBR.
    GptHeader,
    /// Its entries.
    GptEntries,
    /// The header in the last sector.
    BackupHeader,
    /// Its entries.
    BackupEntries,
    /// The first sector of a slice with a BSD label.
    Boot1,
    /// The label.
    Label,
    /// What follows up to 8 KiB.
    Boot2,
    /// The content of a freebsd-boot partition.
    BootPartition,
}

impl What {
    /// Whether it says where partitions are; the others are boot code.
    pub fn is_table(self) -> bool {
        !matches!(self, Self::BootGap | Self::Boot1 | Self::Boot2 | Self::BootPartition)
    }
}

/// A run of sectors.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Piece {
    /// What it is.
    pub what: What,
    /// Of which slice, partition or logical slice; `None` for the medium's own.
    pub index: Option<u32>,
    /// First byte on the medium.
    pub offset: u64,
    /// All of it.
    pub bytes: Vec<u8>,
}

impl Piece {
    /// Where it lies on the medium.
    pub fn range(&self) -> Range<u64> {
        self.offset..self.offset.saturating_add(self.bytes.len() as u64)
    }
}

impl fmt::Display for Piece {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let text = match self.what {
            What::Mbr => "master boot record",
            What::BootGap => "boot code behind the master boot record",
            What::Ebr => "extended boot record",
            What::GptHeader => "gpt header",
            What::GptEntries => "gpt entries",
            What::BackupHeader => "backup gpt header",
            What::BackupEntries => "backup gpt entries",
            What::Boot1 => "boot1",
            What::Label => "bsd label",
            What::Boot2 => "boot2",
            What::BootPartition => "boot code",
        };
        f.write_str(text)?;
        match (self.what, self.index) {
            (_, None) => Ok(()),
            (What::Ebr, Some(index)) => write!(f, " {index}"),
            (What::BootPartition, Some(index)) => write!(f, " of partition {index}"),
            (_, Some(index)) => write!(f, " of slice {index}"),
        }
    }
}

/// A file system that was found at a place of the medium.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FileSystem {
    /// First byte on the medium.
    pub offset: u64,
    /// Its own identity: see [`Superblock::id`](super::superblock::Superblock::id).
    pub id: String,
}

/// One medium.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Medium {
    /// Its kernel name when it was looked at: `da0`.
    pub name: String,
    /// Its serial number, where the system tells one.
    pub ident: Option<String>,
    /// Bytes.
    pub size: u64,
    /// Bytes in a sector.
    pub sector: u32,
    /// The table's kind, where there is one.
    pub scheme: Option<Scheme>,
    /// [`Table::disk_id`](super::Table::disk_id).
    pub disk_id: Option<String>,
    /// What its partitions hold.
    pub file_systems: Vec<FileSystem>,
    /// In the order in which they are written back: what leads to others comes last.
    pub pieces: Vec<Piece>,
}

impl Medium {
    /// The pieces as a medium that is zero everywhere else.
    fn reader(&self) -> Sparse<'_> {
        Sparse { medium: self, position: 0 }
    }

    /// The tables that these pieces make, each with the range of the medium that it divides: the
    /// medium's own first, then the labels of its slices. Empty where the pieces are no tables.
    pub fn tables(&self) -> Vec<(Range<u64>, Table)> {
        let whole = 0..self.size;
        let own = super::read(&mut self.reader(), self.size, self.sector).ok().flatten();
        let mut found: Vec<_> = own.map(|table| (whole.clone(), table)).into_iter().collect();
        for label in self.pieces.iter().filter(|p| p.what == What::Label) {
            let start = label.offset.saturating_sub(u64::from(self.sector));
            let slices = found.first().map_or(&[][..], |(_, table)| &table.entries);
            let slice = slices.iter().find(|e| e.start == start).map(|e| e.start..e.end());
            let slice = if label.index.is_some() { slice } else { Some(whole.clone()) };
            let Some(slice) = slice else { continue };
            let (first, length) = (start / u64::from(self.sector), bsd::WINDOW as u64);
            let window = super::read_sectors(&mut self.reader(), self.sector, first, length);
            let Ok(window) = window else { continue };
            let size = slice.end - slice.start;
            if let Ok(Some(table)) = bsd::read(&window, start, size, self.sector) {
                found.push((slice, table));
            }
        }
        found
    }

    /// What this has and `now`, of the same medium, has not, though there is nothing else in its
    /// place: the table, or the label of a slice that is there.
    pub fn lost(&self, now: &Self) -> Option<String> {
        let filled = |at: u64| now.file_systems.iter().any(|f| f.offset == at);
        if now.scheme.is_none() && self.scheme.is_some() && !filled(0) {
            return Some("partition table".to_owned());
        }
        let mine = self.pieces.iter().filter(|p| p.what == What::Label && p.index.is_some());
        let slices = now.tables().into_iter().next().map_or_else(Vec::new, |(_, t)| t.entries);
        let gone = |label: &&Piece| {
            let start = label.offset.saturating_sub(u64::from(self.sector));
            let slice = slices.iter().any(|e| e.start == start && e.kind == "freebsd");
            // It may hold a file system of its own since.
            slice
                && !now.pieces.iter().any(|p| p.what == What::Label && p.offset == label.offset)
                && !filled(start)
        };
        mine.into_iter().find(gone).map(ToString::to_string)
    }

    /// Every partition that those tables make, on the medium.
    pub fn partitions(&self) -> Vec<Range<u64>> {
        let on = |(range, table): (Range<u64>, Table)| {
            let place = move |e: &Entry| range.start + e.start..range.start + e.end();
            table.entries.iter().map(place).collect::<Vec<_>>()
        };
        self.tables().into_iter().flat_map(on).collect()
    }
}

/// [`Medium::reader`].
#[derive(Debug)]
struct Sparse<'a> {
    medium: &'a Medium,
    position: u64,
}

impl Read for Sparse<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        buffer.fill(0);
        let end = self.position.saturating_add(buffer.len() as u64).min(self.medium.size);
        let length = end.saturating_sub(self.position);
        for piece in &self.medium.pieces {
            let (from, to) = (self.position.max(piece.offset), end.min(piece.range().end));
            if from < to {
                // All of these are inside buffers in memory.
                let inside = |at: u64| usize::try_from(at).unwrap_or(usize::MAX);
                buffer[inside(from - self.position)..inside(to - self.position)].copy_from_slice(
                    &piece.bytes[inside(from - piece.offset)..inside(to - piece.offset)],
                );
            }
        }
        self.position = end;
        usize::try_from(length).map_err(io::Error::other)
    }
}

impl Seek for Sparse<'_> {
    fn seek(&mut self, to: SeekFrom) -> io::Result<u64> {
        match to {
            SeekFrom::Start(at) => self.position = at,
            SeekFrom::Current(by) => self.position = self.position.saturating_add_signed(by),
            SeekFrom::End(by) => self.position = self.medium.size.saturating_add_signed(by),
        }
        Ok(self.position)
    }
}

/// What the file holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Saved {
    /// Program and version that wrote it.
    pub tool: String,
    /// When the media were looked at.
    pub created: Timestamp,
    /// In the order of their names.
    pub media: Vec<Medium>,
}

// ---- the file -----------------------------------------------------------------------------------

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Head {
    schema: u32,
    tool: String,
    created: Timestamp,
    media: Vec<MediumHead>,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct MediumHead {
    name: String,
    ident: Option<String>,
    size: u64,
    sector: u32,
    scheme: Option<Scheme>,
    disk_id: Option<String>,
    file_systems: Vec<FileSystem>,
    pieces: Vec<PieceHead>,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct PieceHead {
    what: What,
    index: Option<u32>,
    offset: u64,
    length: u64,
    stored: u64,
    crc32: u32,
}

/// The bytes without the zeros at their end.
fn stored(bytes: &[u8]) -> &[u8] {
    // By chunks first: most of a boot partition is zeros.
    let whole = bytes.chunks(512).rposition(|chunk| chunk != &[0; 512][..chunk.len()]);
    let bytes = &bytes[..whole.map_or(0, |last| bytes.len().min((last + 1) * 512))];
    &bytes[..bytes.iter().rposition(|&b| b != 0).map_or(0, |last| last + 1)]
}

fn hex(bytes: &[u8]) -> String {
    use std::fmt::Write as _;
    bytes.iter().fold(String::new(), |mut text, byte| {
        let _ = write!(text, "{byte:02x}"); // writing to a String cannot fail
        text
    })
}

impl Saved {
    /// The file's content.
    pub fn encode(&self) -> Vec<u8> {
        let piece = |p: &Piece| PieceHead {
            what: p.what,
            index: p.index,
            offset: p.offset,
            length: p.bytes.len() as u64,
            stored: stored(&p.bytes).len() as u64,
            crc32: crc32fast::hash(&p.bytes),
        };
        let medium = |m: &Medium| MediumHead {
            name: m.name.clone(),
            ident: m.ident.clone(),
            size: m.size,
            sector: m.sector,
            scheme: m.scheme,
            disk_id: m.disk_id.clone(),
            file_systems: m.file_systems.clone(),
            pieces: m.pieces.iter().map(piece).collect(),
        };
        let head = Head {
            schema: SCHEMA,
            tool: self.tool.clone(),
            created: self.created,
            media: self.media.iter().map(medium).collect(),
        };
        let mut rest = serde_json::to_vec(&head).unwrap_or_default();
        rest.push(b'\n');
        for piece in self.media.iter().flat_map(|m| &m.pieces) {
            rest.extend_from_slice(stored(&piece.bytes));
        }
        let mut text = format!("{MAGIC}{SCHEMA} {}\n", hex(&Sha256::digest(&rest))).into_bytes();
        text.append(&mut rest);
        text
    }

    /// Reads the file's content.
    ///
    /// # Errors
    /// In words for the user: it is something else, of another version, or damaged.
    pub fn decode(file: &[u8]) -> Result<Self, String> {
        let (first, rest) = line(file).ok_or("it is no file of partition tables")?;
        let (version, sum) = first
            .strip_prefix(MAGIC)
            .and_then(|text| text.split_once(' '))
            .ok_or("it is no file of partition tables")?;
        if version != SCHEMA.to_string() {
            return Err(format!("it has version {version}, this program knows version {SCHEMA}"));
        }
        if sum != hex(&Sha256::digest(rest)) {
            return Err("it is damaged: its checksum is another".to_owned());
        }
        let (head, payload) = line(rest).ok_or("it is damaged: it has no head")?;
        let head: Head = serde_json::from_str(head).map_err(|e| format!("it is damaged: {e}"))?;
        if head.schema != SCHEMA {
            return Err(format!("it is damaged: its head has version {}", head.schema));
        }
        let mut left = payload;
        let media = head.media.into_iter().map(|m| m.read(&mut left)).collect::<Result<_, _>>()?;
        if !left.is_empty() {
            return Err("it is damaged: it is longer than its head says".to_owned());
        }
        Ok(Self { tool: head.tool, created: head.created, media })
    }
}

/// The first line as text, and what follows it.
fn line(bytes: &[u8]) -> Option<(&str, &[u8])> {
    let end = bytes.iter().position(|&b| b == b'\n')?;
    Some((std::str::from_utf8(&bytes[..end]).ok()?, &bytes[end + 1..]))
}

impl MediumHead {
    /// With its pieces' bytes, taken from the front of `left`.
    fn read(self, left: &mut &[u8]) -> Result<Medium, String> {
        let Self { name, ident, size, sector, scheme, disk_id, file_systems, pieces } = self;
        super::check_sector(sector).map_err(|e| format!("it is damaged: {name}: {e}"))?;
        let mut read = Vec::new();
        for head in pieces {
            let wrong = |why| Err(format!("it is damaged: {name} at {}: {why}", head.offset));
            let whole = |n: u64| n.is_multiple_of(u64::from(sector));
            let end = head.offset.checked_add(head.length);
            if !whole(head.offset) || !whole(head.length) || head.length > LONGEST {
                return wrong("a piece of an impossible length or place");
            }
            if end.is_none_or(|end| end > size) || head.stored > head.length {
                return wrong("a piece beyond the medium");
            }
            // Both are at most LONGEST.
            let [length, here] =
                [head.length, head.stored].map(|n| usize::try_from(n).unwrap_or(usize::MAX));
            let Some((data, rest)) = left.split_at_checked(here) else {
                return wrong("its bytes are missing");
            };
            *left = rest;
            let mut bytes = vec![0; length];
            bytes[..here].copy_from_slice(data);
            if crc32fast::hash(&bytes) != head.crc32 {
                return wrong("a piece's checksum is another");
            }
            read.push(Piece { what: head.what, index: head.index, offset: head.offset, bytes });
        }
        let pieces = read;
        Ok(Medium { name, ident, size, sector, scheme, disk_id, file_systems, pieces })
    }
}

#[cfg(test)]
pub(crate) mod tests;
