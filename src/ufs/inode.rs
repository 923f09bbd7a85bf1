//! As much of inodes and directories as it takes to find one file by its path.

use super::superblock::INODE;
use super::{Fault, Superblock, le16, le32, le64};
use crate::sys::offset::ReadAt;

/// `UFS_ROOTINO`.
const ROOT: u64 = 2;
/// `UFS_NDADDR`: block addresses in the inode itself.
const DIRECT: u64 = 12;
/// `DIRBLKSIZ`: no entry of a directory crosses it.
const CHUNK: usize = 512;
const FORMAT: u16 = 0o170_000;
const DIRECTORY: u16 = 0o040_000;
const REGULAR: u16 = 0o100_000;

/// What is needed of a `struct ufs2_dinode`.
struct Inode {
    number: u64,
    mode: u16,
    size: u64,
    /// Addresses of its first blocks, in fragments; 0 for a hole.
    direct: [u64; 12],
    generation: u32,
}

/// The generation of an inode: a file handle names it beside its number.
///
/// # Errors
/// There is no such inode, or it cannot be read.
pub fn generation<R: ReadAt>(reader: &R, fs: &Superblock, number: u64) -> Result<u32, Fault> {
    read(reader, fs, number).map(|inode| inode.generation)
}

/// The bytes of the partition in which the first fragment of a regular file lies, and how many of
/// them are the file's; `None` where there is no such file, or nothing in it.
///
/// # Errors
/// A directory on the way is damaged, or has more than its first twelve blocks without the name in
/// them.
pub(super) fn first_fragment<R: ReadAt>(
    reader: &R,
    fs: &Superblock,
    path: &[&str],
) -> Result<Option<(u64, usize)>, Fault> {
    let mut inode = read(reader, fs, ROOT)?;
    for name in path {
        if inode.mode & FORMAT != DIRECTORY {
            return Ok(None);
        }
        match find(reader, fs, &inode, name.as_bytes())? {
            Some(number) => inode = read(reader, fs, number)?,
            None => return Ok(None),
        }
    }
    if inode.mode & FORMAT != REGULAR || inode.size == 0 || inode.direct[0] == 0 {
        return Ok(None);
    }
    let at = address(fs, &inode, 0)?;
    let length = inode.size.min(fs.fragment.into());
    Ok(Some((at, usize::try_from(length).unwrap_or(0))))
}

/// Byte address of block `index`, which is no hole.
fn address(fs: &Superblock, inode: &Inode, index: usize) -> Result<u64, Fault> {
    let fragment = inode.direct[index];
    if fragment >= fs.size {
        return Err(Fault::Inode(inode.number, "a block of it is not on the file system"));
    }
    Ok(fragment * u64::from(fs.fragment))
}

fn read<R: ReadAt>(reader: &R, fs: &Superblock, number: u64) -> Result<Inode, Fault> {
    let group = u32::try_from(number / u64::from(fs.inodes)).ok().filter(|&n| n < fs.groups);
    let Some(group) = group else {
        return Err(Fault::Inode(number, "there is none of that number"));
    };
    // Below `fs.inodes`, which is 32 bits.
    let index = u32::try_from(number % u64::from(fs.inodes)).unwrap_or(0);
    let table = (fs.base(group) + u64::from(fs.inodes_start)) * u64::from(fs.fragment);
    let at = table + u64::from(index) * u64::from(INODE);
    // Whole fragments, as devices want it.
    let start = at / u64::from(fs.fragment) * u64::from(fs.fragment);
    let mut bytes = vec![0; fs.fragment as usize];
    reader.read_exact_at(start, &mut bytes).map_err(|e| Fault::Io(start, e))?;
    let bytes = &bytes[usize::try_from(at - start).unwrap_or(0)..];
    Ok(Inode {
        number,
        mode: le16(bytes, 0),
        size: le64(bytes, 16),
        direct: std::array::from_fn(|n| le64(bytes, 112 + 8 * n)),
        generation: le32(bytes, 80),
    })
}

/// The number behind a name in a directory.
fn find<R: ReadAt>(
    reader: &R,
    fs: &Superblock,
    dir: &Inode,
    name: &[u8],
) -> Result<Option<u64>, Fault> {
    let block = u64::from(fs.block);
    let shown = dir.size.min(DIRECT * block);
    for (index, start) in (0..shown).step_by(fs.block as usize).enumerate() {
        let length = (shown - start).min(block);
        // A directory has no holes (ufs_direct.c); reading on in one would only find zeros.
        let at = address(fs, dir, index)?;
        let mut bytes =
            vec![0; usize::try_from(length).unwrap_or(0).next_multiple_of(fs.fragment as usize)];
        reader.read_exact_at(at, &mut bytes).map_err(|e| Fault::Io(at, e))?;
        bytes.truncate(usize::try_from(length).unwrap_or(0));
        for chunk in bytes.chunks(CHUNK) {
            if let Some(number) =
                find_in(chunk, name).map_err(|why| Fault::Inode(dir.number, why))?
            {
                return Ok(Some(number));
            }
        }
    }
    if dir.size > shown {
        return Err(Fault::Inode(dir.number, "the directory is too large to be searched"));
    }
    Ok(None)
}

/// The number behind a name in 512 bytes of a directory (`struct direct`).
fn find_in(chunk: &[u8], name: &[u8]) -> Result<Option<u64>, &'static str> {
    let mut rest = chunk;
    while rest.len() >= 8 {
        let (number, length) = (le32(rest, 0), usize::from(le16(rest, 4)));
        let named = usize::from(rest[7]);
        if length < 8 + named || length > rest.len() {
            return Err("an entry of the directory is damaged");
        }
        if number != 0 && &rest[8..8 + named] == name {
            return Ok(Some(number.into()));
        }
        rest = &rest[length..];
    }
    Ok(None)
}
