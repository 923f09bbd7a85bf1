//! A partition: what was written to it, and what of that is durable.

use std::cell::{Cell, OnceCell};
use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::Arc;

use super::ffs::{self, Geometry};
use super::tree::{Attributes, BLOCK, Body, Change, Content, Inode, ROOT, Tree};
use crate::error::{Error, Result};
use crate::sys::tree::Time;
use crate::sys::{Format, FsType};

/// Inodes that a new file system uses itself, as sys/freebsd counts them.
const OWN_INODES: u64 = 16;
/// In so many parts at most a medium takes a write, each of whole sectors: a loss of power may leave
/// any of them.
const PARTS: u64 = 8;
const SECTOR: u64 = 512;

/// A partition as its bytes, and as the objects of the file system that these are, where somebody
/// asks for them.
#[derive(Clone, Debug)]
pub(super) struct Image {
    bytes: Content,
    /// Read from the bytes, or ahead of them.
    tree: OnceCell<Tree>,
    /// Whether objects have changed since they were read; a file system in memory is always ahead.
    ahead: bool,
    /// The bytes that the objects are.
    laid: OnceCell<Content>,
    now: Time,
}

/// What happens to an image.
#[derive(Clone, Debug)]
pub(super) enum Write {
    /// Bytes, past its file system.
    Bytes(u64, Arc<[u8]>),
    /// An object.
    Object(u64, Change),
}

impl Image {
    /// A partition full of zeros.
    fn blank(size: u64, now: Time) -> Self {
        let bytes = Content::of(size, BTreeMap::new());
        Self { bytes, tree: OnceCell::new(), ahead: false, laid: OnceCell::new(), now }
    }

    /// A file system that is nowhere but in memory.
    fn memory(tree: Tree, now: Time) -> Self {
        Self { tree: OnceCell::from(tree), ahead: true, ..Self::blank(0, now) }
    }

    /// Its objects; the root of an empty tree where there is no file system.
    pub(super) fn tree(&self) -> &Tree {
        let read = || ffs::read(&self.bytes, self.now).unwrap_or_else(|| Tree::new(0, 0, self.now));
        self.tree.get_or_init(read)
    }

    /// The same, to be changed; `None` where there is no file system.
    fn tree_mut(&mut self) -> Option<&mut Tree> {
        if !self.ahead && Geometry::of(&self.bytes).is_none() {
            return None;
        }
        self.tree();
        (self.ahead, self.laid) = (true, OnceCell::new());
        self.tree.get_mut()
    }

    /// What reads of the device see.
    pub(super) fn bytes(&self) -> &Content {
        if !self.ahead {
            return &self.bytes;
        }
        self.laid.get_or_init(|| ffs::lay_out(&self.bytes, self.tree()))
    }

    /// Boot code and superblock, which no object changes.
    fn boot(&self) -> &Content {
        &self.bytes
    }

    /// Whether its objects are what it was last written as.
    pub(super) fn is_ahead(&self) -> bool {
        self.ahead
    }

    fn apply(&mut self, write: &Write, now: Time) {
        self.now = now;
        match write {
            Write::Bytes(offset, data) => {
                self.bytes();
                if let Some(laid) = self.laid.take() {
                    self.bytes = laid;
                }
                (self.ahead, self.tree) = (false, OnceCell::new());
                self.bytes.write(*offset, data);
            }
            Write::Object(ino, change) => {
                if let Some(tree) = self.tree_mut() {
                    tree.now = now;
                    tree.apply(*ino, change);
                }
            }
        }
    }

    fn repair(&mut self, opens: &BTreeMap<u64, u32>) {
        if self.ahead
            && let Some(tree) = self.tree_mut()
        {
            tree.repair(opens);
        }
    }
}

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
    /// Nobody is to read what it holds until it gets a new file system: the blocks that were written
    /// since that was said, which may be read.
    sealed: Option<BTreeSet<u64>>,
    /// Somebody did.
    peeked: Cell<bool>,
}

impl Volume {
    /// A blank partition, or a file system in memory.
    pub(super) fn new(provider: Option<String>, size: u64, now: Time) -> Self {
        let written = match provider {
            Some(_) => Image::blank(size, now),
            None => Image::memory(Tree::new(size / BLOCK, size / BLOCK, now), now),
        };
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
            sealed: None,
            peeked: Cell::new(false),
        }
    }

    /// What reads see.
    pub(super) fn tree(&self) -> &Tree {
        if self.sealed.is_some() {
            self.peeked.set(true);
        }
        self.written.tree()
    }

    /// Whether there is a file system that can be mounted.
    pub(super) fn is_file_system(&self) -> bool {
        Geometry::of(self.written.boot()).is_some()
    }

    /// Whether there is no root to be mounted.
    pub(super) fn lost_root(&self) -> bool {
        self.written.tree().get(ROOT).is_err()
    }

    /// Reads the bytes of the device.
    pub(super) fn read(&self, offset: u64, buffer: &mut [u8]) {
        let end = offset + buffer.len() as u64;
        if let Some(own) = &self.sealed
            && !(offset / BLOCK..end.div_ceil(BLOCK)).all(|block| own.contains(&block))
        {
            self.peeked.set(true);
        }
        self.look(offset, buffer);
    }

    /// The same, where it matters to nobody what a file system holds.
    pub(super) fn look(&self, offset: u64, buffer: &mut [u8]) {
        let in_boot = offset + buffer.len() as u64 <= ffs::BOOT * BLOCK;
        let image = &self.written;
        if in_boot { image.boot() } else { image.bytes() }.read(offset, buffer);
    }

    /// What fsck(8) says of it.
    pub(super) fn check(&self) -> Option<String> {
        ffs::check(self.written.bytes())
    }

    /// From here on it is noticed where somebody reads what it holds before it gets a new file
    /// system.
    pub(super) fn seal(&mut self) {
        (self.sealed, self.peeked) = (Some(BTreeSet::new()), Cell::new(false));
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

    /// Writes bytes past the file system. They arrive in parts.
    pub(super) fn write_bytes(&mut self, offset: u64, data: &[u8], now: Time) {
        let part = (data.len() as u64 / PARTS).next_multiple_of(SECTOR).max(SECTOR);
        for (n, data) in (0..).zip(data.chunks(usize::try_from(part).unwrap_or(usize::MAX))) {
            self.write(Write::Bytes(offset + n * part, data.into()), now);
        }
        if let Some(own) = &mut self.sealed {
            own.extend(offset / BLOCK..(offset + data.len() as u64) / BLOCK);
        }
        if self.sealed.is_some() && (offset..offset + data.len() as u64).contains(&ffs::SUPERBLOCK)
        {
            let new = self.is_file_system();
            self.sealed.take_if(|_| new);
        }
    }

    /// The same, where the medium takes something else.
    pub(super) fn write_bytes_badly(&mut self, offset: u64, data: &[u8], now: Time) {
        self.written.apply(&Write::Bytes(offset, data.into()), now);
        let mut rotten = data.to_vec();
        if let Some(byte) = rotten.last_mut() {
            *byte ^= 0x10;
        }
        self.log(Write::Bytes(offset, rotten.into()), now);
    }

    /// The number of a new object. One that is free is given out once nothing on the medium leads to
    /// it (soft updates do so): where no other is left, what waits is written first.
    pub(super) fn allocate(&mut self) -> u64 {
        self.unused().unwrap_or_else(|| {
            self.flush();
            self.durable.repair(&BTreeMap::new());
            self.unused().unwrap_or(0)
        })
    }

    fn unused(&mut self) -> Option<u64> {
        let Self { written, durable, log, .. } = self;
        let logged = |ino| log.iter().any(|(_, w)| matches!(w, Write::Object(n, _) if *n == ino));
        let using = |ino| durable.tree().get(ino).is_ok() || logged(ino);
        written.tree_mut()?.allocate(using)
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
        if !self.opens.contains_key(&ino)
            && let Some(tree) = self.written.tree_mut()
        {
            tree.prune(ino);
        }
    }

    /// Makes everything durable.
    pub(super) fn flush(&mut self) {
        if !self.log.is_empty() {
            self.changes += 1;
            for (now, write) in std::mem::take(&mut self.log) {
                self.durable.apply(&write, now);
            }
            self.durable.repair(&BTreeMap::new());
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
            Write::Bytes(..) => true,
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
        self.durable.repair(&BTreeMap::new());
        self.written = self.durable.clone();
        self.opens.clear();
    }

    /// How many writes nobody flushed.
    pub(super) fn pending(&self) -> usize {
        self.log.len()
    }

    /// Changes the tree now and for good, with all that was written before.
    ///
    /// # Panics
    /// There is no file system: the test is wrong.
    pub(super) fn edit(&mut self, now: Time, f: &mut dyn FnMut(&mut Tree)) {
        self.flush();
        for image in [&mut self.written, &mut self.durable] {
            let tree = image.tree_mut().unwrap_or_else(|| panic!("there is no file system"));
            tree.now = now;
            f(tree);
            tree.repair(&self.opens);
        }
    }

    /// What newfs(8) does: the groups of inodes first, the superblock last.
    pub(super) fn format(&mut self, format: &Format, serial: u32, now: Time) -> Result<()> {
        for (offset, data) in ffs::newfs_writes(&make(format, self.size, serial, now)?) {
            self.write_bytes(offset, &data, now);
        }
        Ok(())
    }
}

/// The bytes of a new, empty UFS2 on `size` bytes, with the checks of newfs(8).
pub(super) fn make(format: &Format, size: u64, serial: u32, now: Time) -> Result<Content> {
    if format.fs != FsType::Ufs2 {
        return Err(Error::refused(format!("this cannot make {} file systems", format.fs.name())));
    }
    let label = format.label.as_deref().unwrap_or_default();
    let legal = |b: u8| b.is_ascii_alphanumeric() || b == b'-' || b == b'_';
    if !label.bytes().all(legal) || label.len() > FsType::Ufs2.label_max() {
        return Err(Error::refused(format!("\"{label}\" is no label of a UFS")));
    }
    let wanted = format.inodes.unwrap_or(0).saturating_add(OWN_INODES);
    let geometry = Geometry::new(size, wanted.max(size / (2 * BLOCK)));
    let Some(geometry) = geometry.filter(|_| size / wanted >= BLOCK) else {
        return Err(Error::refused(format!("{wanted} inodes do not fit on {size} bytes")));
    };
    let mut tree = Tree::new(geometry.offered(), geometry.numbers(), now);
    // It is the first one.
    let snap = tree.allocate(|_| false).unwrap_or_default();
    let body = Body::Dir { parent: ROOT, entries: BTreeMap::new() };
    let inode = Arc::new(Inode::new(body, Attributes::new(0o770, now)));
    tree.apply(snap, &Change::Make(inode));
    tree.apply(ROOT, &Change::Link(".snap".into(), snap));
    Ok(ffs::newfs(geometry, format, size, serial, &tree))
}
