//! UFS2 on the medium (fs(5), `sys/ufs/ffs/fs.h`, `sys/ufs/ufs/dinode.h`): which bytes of it are in
//! use, told by its cylinder groups, and what they become in a copy with another identity.
//!
//! Nothing here trusts a number that it has not checked: a damaged or hostile file system is a
//! [`Fault`], never an endless loop, a read beyond the device, or much memory.

mod group;
mod image;
mod inode;
mod superblock;

pub use group::Group;
pub use image::{Identity, Image, Piece, Pieces};
pub use inode::generation;
pub use superblock::Superblock;

use std::fmt;
use std::io;

use crate::error::{Error, describe};

/// Why a file system cannot be copied by its blocks.
#[derive(Debug)]
pub enum Fault {
    /// No UFS2 superblock where it is looked for.
    None,
    /// newfs(8) did not come to its end (`FS_BAD_MAGIC`).
    Unfinished,
    /// A field of the superblock is impossible.
    Field(&'static str, u64),
    /// The check hash of the superblock, or of this cylinder group, is not right.
    Hash(Option<u32>),
    /// It was not unmounted in order, or fsck(8) has to look at it first.
    Unclean,
    /// So many snapshots lie in it; their blocks belong to the file system that it is.
    Snapshots(usize),
    /// Soft updates are journaled, and the kernel leaves the journal out of a snapshot.
    Journal,
    /// So many bytes are said to be on a device of so many.
    Beyond(u64, u64),
    /// What is wrong with this cylinder group.
    Group(u32, &'static str),
    /// What is wrong with this inode.
    Inode(u64, &'static str),
    /// The device failed at this byte.
    Io(u64, io::Error),
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::None => f.write_str("there is no UFS2"),
            Self::Unfinished => f.write_str("newfs was stopped before its end"),
            Self::Field(name, value) => write!(f, "its superblock has {name} {value}"),
            Self::Hash(None) => f.write_str("the check hash of its superblock is wrong"),
            Self::Hash(Some(n)) => write!(f, "the check hash of cylinder group {n} is wrong"),
            Self::Unclean => f.write_str("it was not unmounted cleanly: fsck has to come first"),
            Self::Snapshots(n) => write!(f, "it holds {n} snapshots of itself"),
            Self::Journal => f.write_str("its soft updates journal is in no snapshot of it"),
            Self::Beyond(size, device) => {
                write!(f, "its {size} bytes are more than the device's {device}")
            }
            Self::Group(n, why) => write!(f, "cylinder group {n}: {why}"),
            Self::Inode(n, why) => write!(f, "inode {n}: {why}"),
            Self::Io(_, source) => f.write_str(&describe(source)),
        }
    }
}

impl std::error::Error for Fault {}

impl From<Fault> for Error {
    fn from(fault: Fault) -> Self {
        match fault {
            Fault::Io(offset, source) => Self::io("reading", &source).at(offset),
            fault => Self::refused(fault.to_string()),
        }
    }
}

/// CRC-32C as the kernel takes it for its check hashes (`calculate_crc32c(~0, …)`): begun with ones,
/// and not inverted in the end.
fn check_hash(bytes: &[u8]) -> u32 {
    !crc32c::crc32c(bytes)
}

/// The check hash of `bytes` with zeros where it is stored itself.
fn check_hash_without(bytes: &[u8], at: usize) -> u32 {
    let mut bytes = bytes.to_vec();
    if let Some(own) = bytes.get_mut(at..at + 4) {
        own.fill(0);
    }
    check_hash(&bytes)
}

/// The `N` bytes at `at`; zeros behind the end, which no caller reaches: lengths are checked first.
fn array<const N: usize>(bytes: &[u8], at: usize) -> [u8; N] {
    bytes.get(at..).and_then(|rest| rest.first_chunk().copied()).unwrap_or([0; N])
}

fn le16(bytes: &[u8], at: usize) -> u16 {
    u16::from_le_bytes(array(bytes, at))
}

fn le32(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(array(bytes, at))
}

fn le64(bytes: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(array(bytes, at))
}

#[cfg(test)]
pub(crate) mod tests;
