//! The bytes that a copy is made of, in the order of the device.

use std::collections::VecDeque;
use std::ops::Range;

use super::superblock::{LENGTH, rename};
use super::{Fault, Group, Superblock, inode};
use crate::record;
use crate::sys::offset::ReadAt;

/// The last bytes of the boot area: newfs(8) keeps there how fsck(8) finds the backups
/// (`struct fsrecovery`, at the end of the last sector). What is before is boot code, or the label
/// of the slice that the partition begins.
const RECOVERY: u64 = 4096;

/// What a copy is known by, so that it is not taken for its source.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Identity {
    /// `fs_id`, of which glabel(8) makes `ufsid/`.
    pub id: [u32; 2],
    /// `fs_volname`, at most 31 bytes.
    pub label: Option<String>,
    /// Bytes of the partition that holds the copy.
    pub device: u64,
}

/// Bytes of a copy, at their place on the device.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Piece {
    /// Those of the source at the same place.
    Same(Range<u64>),
    /// Others than the source's.
    Other(u64, Vec<u8>),
}

impl Piece {
    /// Where it lies.
    pub fn range(&self) -> Range<u64> {
        match self {
            Self::Same(range) => range.clone(),
            Self::Other(at, bytes) => *at..*at + bytes.len() as u64,
        }
    }

    /// What of it lies in `inside`, which is a part of its range.
    fn cut(self, inside: Range<u64>) -> Self {
        match self {
            Self::Same(_) => Self::Same(inside),
            Self::Other(at, mut bytes) => {
                let distance = |to: u64| usize::try_from(to.saturating_sub(at)).unwrap_or(0);
                bytes.truncate(distance(inside.end));
                bytes.drain(..distance(inside.start).min(bytes.len()));
                Self::Other(inside.start, bytes)
            }
        }
    }
}

/// A UFS2 that is to be copied.
#[derive(Clone, Debug)]
pub struct Image {
    fs: Superblock,
    identity: Identity,
    /// The fragment with the start of the source's record, as it is to be in the copy.
    record: Option<(u64, Vec<u8>)>,
    /// Bytes in use.
    used: u64,
}

impl Image {
    /// Reads what there is on a partition of `device` bytes, every cylinder group among it, so that
    /// a later look at the same bytes finds no fault. The copy's record is not to be the source's,
    /// not even for the moment until it is removed: where there is one, its first fragment is zeros
    /// in the copy.
    ///
    /// # Errors
    /// There is no UFS2 that can be trusted.
    pub fn read<R: ReadAt>(reader: &R, device: u64, identity: Identity) -> Result<Self, Fault> {
        let fs = Superblock::read(reader, device)?;
        fs.at_rest()?;
        Self::of(fs, reader, identity)
    }

    /// The same of a snapshot that the kernel took of a file system in use (`ffs_snapshot`): it is
    /// marked clean there, what was removed and still open is gone, and all snapshots are empty
    /// files whose blocks are free.
    ///
    /// # Errors
    /// As [`Image::read`]; or its journal is not in it.
    pub fn of_snapshot<R: ReadAt>(
        reader: &R,
        device: u64,
        identity: Identity,
    ) -> Result<Self, Fault> {
        let fs = Superblock::read(reader, device)?;
        fs.is_frozen()?;
        Self::of(fs, reader, identity)
    }

    fn of<R: ReadAt>(fs: Superblock, reader: &R, identity: Identity) -> Result<Self, Fault> {
        let record = match inode::first_fragment(reader, &fs, &[record::DIR, record::RECORD])? {
            Some((at, length)) => {
                let inside = at / u64::from(fs.fragment) % u64::from(fs.per_group);
                let first =
                    if at < fs.base(1) * u64::from(fs.fragment) { 0 } else { fs.backup_start };
                if (u64::from(first)..fs.data_start.into()).contains(&inside) {
                    return Err(Fault::Inode(0, "the record lies where no file does"));
                }
                let mut bytes = vec![0; fs.fragment as usize];
                reader.read_exact_at(at, &mut bytes).map_err(|e| Fault::Io(at, e))?;
                bytes[..length].fill(0);
                Some((at, bytes))
            }
            None => None,
        };
        let mut image = Self { fs, identity, record, used: 0 };
        let mut used = 0;
        for piece in image.pieces(reader, 0..u64::MAX) {
            let range = piece?.range();
            used += range.end - range.start;
        }
        image.used = used;
        Ok(image)
    }

    /// The superblock.
    pub fn superblock(&self) -> &Superblock {
        &self.fs
    }

    /// Bytes that a copy is made of.
    pub fn used(&self) -> u64 {
        self.used
    }

    /// The first byte that belongs to the file system.
    pub fn start(&self) -> u64 {
        self.fs.place.saturating_sub(RECOVERY.min(self.fs.place / 2))
    }

    /// The end of the first group's header: what a file system begins with.
    pub fn head_end(&self) -> u64 {
        u64::from(self.fs.inodes_start) * u64::from(self.fs.fragment)
    }

    /// The bytes of the superblock, without which nobody takes it for a file system.
    pub fn key(&self) -> Range<u64> {
        self.fs.place..self.fs.place + u64::from(LENGTH)
    }

    /// The pieces of a copy that lie in `window`, in ascending order and apart.
    pub fn pieces<'a, R: ReadAt>(&'a self, reader: &'a R, window: Range<u64>) -> Pieces<'a, R> {
        let start = self.start().max(window.start);
        let per_group = u64::from(self.fs.per_group) * u64::from(self.fs.fragment);
        let group = u32::try_from(start / per_group).unwrap_or(u32::MAX);
        Pieces { image: self, reader, window: start..window.end, group, ready: VecDeque::new() }
    }

    /// The pieces of one group.
    fn group<R: ReadAt>(&self, reader: &R, number: u32) -> Result<VecDeque<Piece>, Fault> {
        let fragment = u64::from(self.fs.fragment);
        let group = Group::read(reader, &self.fs, number)?;
        let mut others = Vec::new();
        let backup = (self.fs.base(number) + u64::from(self.fs.backup_start)) * fragment;
        let primary = (number == 0).then_some(self.fs.place);
        for at in primary.into_iter().chain([backup]) {
            let mut bytes = vec![0; LENGTH as usize];
            reader.read_exact_at(at, &mut bytes).map_err(|e| Fault::Io(at, e))?;
            rename(&mut bytes, &self.identity);
            others.push((at, bytes));
        }
        let end = (self.fs.base(number) + u64::from(self.fs.length(number))) * fragment;
        let base = self.fs.base(number) * fragment;
        others.extend(self.record.clone().filter(|(at, _)| (base..end).contains(at)));
        others.sort_by_key(|(at, _)| *at);
        let mut pieces = VecDeque::new();
        let mut others = others.into_iter().peekable();
        for range in group.used(&self.fs) {
            let (mut from, to) = (range.start * fragment, range.end * fragment);
            while let Some((at, bytes)) = others.next_if(|(at, _)| *at < to) {
                if at < from {
                    return Err(Fault::Group(number, "the record lies in free space"));
                }
                if from < at {
                    pieces.push_back(Piece::Same(from..at));
                }
                from = at + bytes.len() as u64;
                pieces.push_back(Piece::Other(at, bytes));
            }
            if from < to {
                pieces.push_back(Piece::Same(from..to));
            }
        }
        Ok(pieces)
    }
}

/// The pieces of a copy; see [`Image::pieces`]. After a fault there are no more.
#[derive(Debug)]
pub struct Pieces<'a, R> {
    image: &'a Image,
    reader: &'a R,
    window: Range<u64>,
    group: u32,
    ready: VecDeque<Piece>,
}

impl<R: ReadAt> Iterator for Pieces<'_, R> {
    type Item = Result<Piece, Fault>;

    fn next(&mut self) -> Option<Self::Item> {
        loop {
            while let Some(piece) = self.ready.pop_front() {
                let range = piece.range();
                let inside = range.start.max(self.window.start)..range.end.min(self.window.end);
                if inside.is_empty() {
                    continue;
                }
                return Some(Ok(piece.cut(inside)));
            }
            let fs = &self.image.fs;
            let base = fs.base(self.group).saturating_mul(fs.fragment.into());
            if self.group >= fs.groups || base >= self.window.end {
                return None;
            }
            match self.image.group(self.reader, self.group) {
                Ok(pieces) => self.ready = pieces,
                Err(fault) => {
                    self.group = fs.groups;
                    return Some(Err(fault));
                }
            }
            self.group += 1;
        }
    }
}
