//! A cylinder group's header: which of its fragments are free, which of its inodes were ever
//! written.

use super::{Fault, Superblock, check_hash_without, le32};
use crate::sys::offset::ReadAt;

/// Length of `struct cg` without its maps.
pub(super) const STRUCT: u32 = 168;
const MAGIC: u32 = 0x0009_0255;
/// Where `cg_ckhash` is.
const HASH: usize = 132;

/// A checked header.
#[derive(Clone, Debug)]
pub struct Group {
    number: u32,
    bytes: Vec<u8>,
    /// Where the map of free fragments begins.
    free: usize,
    /// Fragments that it covers.
    length: u32,
    /// Inodes from the group's first one on that were written once (`cg_initediblk`).
    written_inodes: u32,
}

impl Group {
    /// Reads and checks the header of group `number`.
    ///
    /// # Errors
    /// It is not one, not this one, or its maps do not lie in it.
    pub fn read<R: ReadAt>(reader: &R, fs: &Superblock, number: u32) -> Result<Self, Fault> {
        let fragment = u64::from(fs.fragment);
        let at = (fs.base(number) + u64::from(fs.header_start)) * fragment;
        // Whole fragments, as devices want it; superblock.rs has checked that they are there.
        let length = fs.header.next_multiple_of(fs.fragment);
        let mut bytes = vec![0; length as usize];
        reader.read_exact_at(at, &mut bytes).map_err(|e| Fault::Io(at, e))?;
        bytes.truncate(fs.header as usize);
        let wrong = |why| Err(Fault::Group(number, why));
        if le32(&bytes, 4) != MAGIC {
            return wrong("its magic number is not there");
        }
        if le32(&bytes, 12) != number {
            return wrong("it has the number of another one");
        }
        if fs.hashed_groups && check_hash_without(&bytes, HASH) != le32(&bytes, HASH) {
            return Err(Fault::Hash(Some(number)));
        }
        let length = fs.length(number);
        if le32(&bytes, 20) != length {
            return wrong("it has another number of fragments than the superblock tells");
        }
        let free = le32(&bytes, 96);
        let map_end = u64::from(free) + u64::from(length.div_ceil(8));
        if free < STRUCT || map_end > u64::from(fs.header) {
            return wrong("the map of its free fragments is not inside of it");
        }
        let written_inodes = le32(&bytes, 120);
        if written_inodes > fs.inodes {
            return wrong("more of its inodes are initialized than it has");
        }
        Ok(Self { number, bytes, free: free as usize, length, written_inodes })
    }

    /// Whether a fragment of it is free.
    fn is_free(&self, fragment: u32) -> bool {
        let byte = self.bytes.get(self.free + fragment as usize / 8).copied().unwrap_or(0);
        byte >> (fragment % 8) & 1 == 1
    }

    /// The fragments in use, counted from the start of the file system, in ascending order and
    /// apart: what the map says, and what it should say. Inodes that were never written are not
    /// read by anybody (`UFS2` initializes them when it needs them), so they are left out.
    pub(super) fn used(&self, fs: &Superblock) -> Vec<std::ops::Range<u64>> {
        let blocks = self.written_inodes.div_ceil(fs.inodes_per_block());
        let inodes_end = fs.inodes_start + blocks * fs.per_block;
        // In the first group the boot area, too.
        let first = if self.number == 0 { 0 } else { fs.backup_start };
        let base = fs.base(self.number);
        let summary_end = fs.summary + u64::from(fs.summary_bytes).div_ceil(fs.fragment.into());
        let is_used = |fragment: u32| {
            let address = base + u64::from(fragment);
            match fragment {
                n if (inodes_end..fs.data_start).contains(&n) => false,
                n if (first..inodes_end).contains(&n) => true,
                _ if (fs.summary..summary_end).contains(&address) => true,
                n => !self.is_free(n),
            }
        };
        let mut ranges: Vec<std::ops::Range<u64>> = Vec::new();
        for fragment in (0..self.length).filter(|&n| is_used(n)) {
            let address = base + u64::from(fragment);
            match ranges.last_mut() {
                Some(last) if last.end == address => last.end += 1,
                _ => ranges.push(address..address + 1),
            }
        }
        ranges
    }
}
