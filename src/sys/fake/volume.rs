//! A partition: what was written to it, and what of that is durable.

use std::cell::Cell;
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;

use super::tree::{Attributes, BLOCK, Body, Change, Inode, ROOT, Tree};
use crate::error::{Error, Result};
use crate::sys::tree::Time;
use crate::sys::{Format, FsType};
use crate::table::superblock::{self, WINDOW};

/// Inodes that a new file system uses itself, as sys/freebsd counts them.
const OWN_INODES: u64 = 16;
/// Bytes of an inode on the medium.
const INODE: u64 = 256;
/// Blocks for boot code, superblocks and maps.
const OVERHEAD: u64 = 40;

/// The bytes of a partition, as far as they matter: the beginning as they are, a file system as
/// its objects.
#[derive(Clone, Debug)]
pub(super) struct Image {
    /// The first [`WINDOW`] bytes.
    pub(super) head: Arc<Vec<u8>>,
    pub(super) tree: Tree,
}

/// What happens to an image.
#[derive(Clone, Debug)]
pub(super) enum Write {
    /// Bytes of its beginning.
    Head(usize, Arc<[u8]>),
    /// One part of the old objects goes: a new file system writes over them piece by piece.
    Clear(u64),
    /// The root and the size of a new file system.
    Tree(Box<Tree>),
    /// An object.
    Object(u64, Change),
}

impl Image {
    /// A partition full of zeros.
    fn blank(now: Time) -> Self {
        Self { head: Arc::new(vec![0; WINDOW]), tree: Tree::new(0, 0, now) }
    }

    fn apply(&mut self, write: &Write, now: Time) {
        match write {
            Write::Head(offset, bytes) => {
                let head = Arc::make_mut(&mut self.head);
                let end = head.len().min(offset + bytes.len());
                if *offset < end {
                    head[*offset..end].copy_from_slice(&bytes[..end - offset]);
                }
                let inodes = (BEFORE_INODES * FRAGMENT) as usize;
                if (*offset..end).contains(&inodes) {
                    self.tree.clear(|ino| ino == ROOT);
                }
            }
            Write::Clear(piece) => self.tree.clear(|ino| ino / PIECE % PIECES == *piece),
            Write::Tree(tree) => self.tree = (**tree).clone(),
            Write::Object(ino, change) => {
                self.tree.now = now;
                self.tree.apply(*ino, change);
            }
        }
    }
}

/// Where UFS2 has it.
const SUPERBLOCK: usize = 65536;
/// Bytes of a fragment, and how many of them are before the inodes.
const FRAGMENT: u32 = 4096;
const BEFORE_INODES: u32 = 24;
/// In how many pieces a new file system writes over the old objects, and how many numbers that
/// follow each other are in one.
const PIECES: u64 = 4;
const PIECE: u64 = 6;

/// What a loss of power takes of the writes that nobody flushed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Loss {
    /// All of them.
    All,
    /// None: the medium was faster than the power.
    None,
    /// All but the first so many.
    AllBut(usize),
    /// Only this one.
    One(usize),
    /// All but this one.
    Others(usize),
    /// All but those whose bit is set here, the first one's being the lowest.
    AllButThese(u64),
    /// Each with probability one half, by this seed: media write in what order they like.
    Half(u64),
}

impl Loss {
    /// Which of `count` writes are kept.
    pub(super) fn kept(self, count: usize) -> Vec<bool> {
        match self {
            Self::All => vec![false; count],
            Self::None => vec![true; count],
            Self::AllBut(n) => (0..count).map(|i| i < n).collect(),
            Self::One(n) => (0..count).map(|i| i != n).collect(),
            Self::Others(n) => (0..count).map(|i| i == n).collect(),
            Self::AllButThese(bits) => (0..count).map(|i| i < 64 && bits >> i & 1 == 1).collect(),
            Self::Half(mut seed) => (0..count).map(|_| split_mix(&mut seed) & 1 == 1).collect(),
        }
    }
}

/// Steele, Lea, Flood: Fast Splittable Pseudorandom Number Generators.
fn split_mix(seed: &mut u64) -> u64 {
    *seed = seed.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let mut z = *seed;
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

/// A partition.
#[derive(Clone, Debug)]
pub(super) struct Volume {
    /// Kernel name of its provider; `None` for file systems in memory.
    pub(super) provider: Option<String>,
    /// The file that holds it, where it is a snapshot.
    pub(super) backing: Option<PathBuf>,
    /// Bytes.
    pub(super) size: u64,
    /// What reads see.
    pub(super) written: Image,
    /// What a loss of power leaves.
    durable: Image,
    /// What makes the one of the other, oldest first.
    log: Vec<(Time, Write)>,
    /// How often each object is open: one without a name stays until it is closed.
    pub(super) opens: BTreeMap<u64, u32>,
    pub(super) changes: u64,
    /// Nobody is to read its objects until it gets a new file system.
    sealed: bool,
    /// Somebody did.
    peeked: Cell<bool>,
}

impl Volume {
    /// A blank partition, or a file system in memory.
    pub(super) fn new(provider: Option<String>, size: u64, now: Time) -> Self {
        let mut written = Image::blank(now);
        if provider.is_none() {
            written.tree = Tree::new(size / BLOCK, size / BLOCK, now);
        }
        let durable = written.clone();
        Self {
            provider,
            backing: None,
            size,
            written,
            durable,
            log: Vec::new(),
            opens: BTreeMap::new(),
            changes: 0,
            sealed: false,
            peeked: Cell::new(false),
        }
    }

    /// What reads see.
    pub(super) fn tree(&self) -> &Tree {
        if self.sealed {
            self.peeked.set(true);
        }
        &self.written.tree
    }

    /// Whether there is no root to be mounted.
    pub(super) fn lost_root(&self) -> bool {
        self.written.tree.get(ROOT).is_err()
    }

    /// From here on it is noticed where somebody reads its objects before it gets a new file
    /// system.
    pub(super) fn seal(&mut self) {
        (self.sealed, self.peeked) = (true, Cell::new(false));
    }

    /// Whether somebody did.
    pub(super) fn peeked(&self) -> bool {
        self.peeked.get()
    }

    /// Writes, not durable yet.
    pub(super) fn write(&mut self, write: Write, now: Time) {
        self.written.apply(&write, now);
        self.log(write, now);
    }

    fn log(&mut self, write: Write, now: Time) {
        if self.provider.is_some() {
            self.changes += 1;
            self.log.push((now, write));
        }
    }

    /// Writes content, of which another one arrives on the medium.
    pub(super) fn write_badly(&mut self, ino: u64, offset: u64, data: &[u8], now: Time) {
        self.written.apply(&Write::Object(ino, Change::Write(offset, data.into())), now);
        let mut rotten = data.to_vec();
        if let Some(byte) = rotten.last_mut() {
            *byte ^= 0x10;
        }
        self.log(Write::Object(ino, Change::Write(offset, rotten.into())), now);
    }

    /// A change of an object.
    pub(super) fn change(&mut self, ino: u64, change: Change, now: Time) {
        self.write(Write::Object(ino, change), now);
    }

    /// Removes an object that neither a name nor a handle leads to.
    pub(super) fn prune(&mut self, ino: u64) {
        if !self.opens.contains_key(&ino) {
            self.written.tree.prune(ino);
        }
    }

    /// Makes everything durable.
    pub(super) fn flush(&mut self) {
        if !self.log.is_empty() {
            self.changes += 1;
            for (now, write) in std::mem::take(&mut self.log) {
                self.durable.apply(&write, now);
            }
            self.durable.tree.repair(&BTreeMap::new());
        }
    }

    /// Makes one object durable, as fsync(2) does: a file with its content and attributes, a
    /// directory with its entries. What went to the medium without a file system goes first.
    pub(super) fn flush_object(&mut self, ino: u64) {
        let listed: Vec<u64> = self
            .log
            .iter()
            .filter_map(|(_, write)| match write {
                Write::Object(dir, Change::Link(_, child)) if *dir == ino => Some(*child),
                _ => None,
            })
            .collect();
        let (go, stay) = std::mem::take(&mut self.log).into_iter().partition(|(_, w)| match w {
            Write::Head(..) | Write::Clear(_) | Write::Tree(_) => true,
            Write::Object(object, Change::Make(_)) => *object == ino || listed.contains(object),
            Write::Object(object, _) => *object == ino,
        });
        let go: Vec<(Time, Write)> = go;
        self.changes += u64::from(!go.is_empty());
        self.log = stay;
        for (now, write) in go {
            self.durable.apply(&write, now);
        }
    }

    /// Forgets what is only in memory: reads come from the medium.
    pub(super) fn drop_cache(&mut self) {
        self.flush();
        self.written = self.durable.clone();
    }

    /// What is there after the power was gone; `kept` tells which writes arrived.
    pub(super) fn lose(&mut self, kept: &mut impl Iterator<Item = bool>) {
        let log = std::mem::take(&mut self.log);
        for ((now, write), _) in log.iter().zip(kept).filter(|(_, kept)| *kept) {
            self.durable.apply(write, *now);
        }
        self.durable.tree.repair(&BTreeMap::new());
        self.written = self.durable.clone();
        self.opens.clear();
    }

    /// How many writes nobody flushed.
    pub(super) fn pending(&self) -> usize {
        self.log.len()
    }

    /// Changes the tree now and for good, with all that was written before.
    pub(super) fn edit(&mut self, now: Time, f: &mut dyn FnMut(&mut Tree)) {
        self.flush();
        for image in [&mut self.written, &mut self.durable] {
            image.tree.now = now;
            f(&mut image.tree);
            image.tree.repair(&self.opens);
        }
    }

    /// What newfs(8) does: the groups of inodes first, the superblock last.
    pub(super) fn format(&mut self, format: &Format, serial: u32, now: Time) -> Result<()> {
        let image = make(format, self.size, serial, now)?;
        self.sealed = false;
        for piece in 0..PIECES {
            self.write(Write::Clear(piece), now);
        }
        self.write(Write::Tree(Box::new(image.tree)), now);
        self.write(Write::Head(SUPERBLOCK, image.head[SUPERBLOCK..SUPERBLOCK + 8192].into()), now);
        Ok(())
    }
}

/// A new, empty UFS2 on `size` bytes, with the checks of newfs(8).
pub(super) fn make(format: &Format, size: u64, serial: u32, now: Time) -> Result<Image> {
    if format.fs != FsType::Ufs2 {
        return Err(Error::refused(format!("this cannot make {} file systems", format.fs.name())));
    }
    let label = format.label.as_deref().unwrap_or_default();
    let legal = |b: u8| b.is_ascii_alphanumeric() || b == b'-' || b == b'_';
    if !label.bytes().all(legal) || label.len() > FsType::Ufs2.label_max() {
        return Err(Error::refused(format!("\"{label}\" is no label of a UFS")));
    }
    let wanted = format.inodes.unwrap_or(0).saturating_add(OWN_INODES);
    if size / wanted < BLOCK {
        return Err(Error::refused(format!("{wanted} inodes do not fit on {size} bytes")));
    }
    let inodes = wanted.max(size / (2 * BLOCK));
    let overhead = OVERHEAD + (inodes * INODE).div_ceil(BLOCK);
    let mut tree = Tree::new((size / BLOCK).saturating_sub(overhead), inodes, now);
    let snap = tree.allocate();
    let body = Body::Dir { parent: ROOT, entries: BTreeMap::new() };
    let inode = Arc::new(Inode::new(body, Attributes::new(0o770, now)));
    tree.apply(snap, &Change::Make(inode));
    tree.apply(ROOT, &Change::Link(".snap".into(), snap));
    let head = Arc::new(head(&tree, format, size, label, serial));
    Ok(Image { head, tree })
}

/// The beginning of a UFS2 (`sys/ufs/ffs/fs.h`).
fn head(tree: &Tree, format: &Format, size: u64, label: &str, serial: u32) -> Vec<u8> {
    const FRAGMENTS: u32 = 8;
    let mut head = vec![0; WINDOW];
    let mut put = |at: usize, bytes: &[u8]| {
        head[SUPERBLOCK + at..SUPERBLOCK + at + bytes.len()].copy_from_slice(bytes);
    };
    let usage = tree.usage();
    let free = usage.free_bytes / u64::from(FRAGMENT);
    let switches = [
        (format.ufs.soft_updates, superblock::UFS_SOFT_UPDATES),
        (format.ufs.journal, superblock::UFS_JOURNAL),
        (format.ufs.posix_acls, superblock::UFS_ACLS),
        (format.ufs.nfs4_acls, superblock::UFS_NFS4_ACLS),
        (format.ufs.multilabel, superblock::UFS_MULTILABEL),
        (format.ufs.trim, superblock::UFS_TRIM),
    ];
    let flags = switches.iter().filter(|(on, _)| *on).fold(0, |all, (_, flag)| all | flag);
    for (at, value) in [
        (16, BEFORE_INODES),
        (44, 1),
        (48, FRAGMENT * FRAGMENTS),
        (52, FRAGMENT),
        (56, FRAGMENTS),
        (144, 0x5f00_0000 + serial),
        (148, serial.wrapping_mul(0x9e37_79b9)),
        (1312, flags),
        (1372, 0x1954_0119),
    ] {
        put(at, &value.to_le_bytes());
    }
    for (at, value) in [
        (1000, SUPERBLOCK as u64),
        (1016, free / u64::from(FRAGMENTS)),
        (1024, usage.free_inodes),
        (1032, free % u64::from(FRAGMENTS)),
        (1080, size / u64::from(FRAGMENT)),
    ] {
        put(at, &value.to_le_bytes());
    }
    put(209, &[1]);
    put(680, label.as_bytes());
    head
}
