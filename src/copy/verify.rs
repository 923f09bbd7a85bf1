//! Comparing a tree with its manifest, everything read again.

use std::collections::{BTreeSet, HashMap};
use std::ffi::{OsStr, OsString};
use std::io::{self, BufRead, Read, Seek, SeekFrom};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::attributes;
use super::content::{self, Discard};
use super::digest::{Sums, block_size};
use super::pool::{self, Closed, Feed, Item};
use super::progress::Monitor;
use super::stack::Stack;
use super::stream::{Fault, Ring, Side};
use super::tree::interrupted;
use crate::error::{Context, Error, Kind as ErrorKind, Result, describe};
use crate::record::manifest::{Line, Object, Reader};
use crate::sys::tree::{Dir, File, Kind, Meta, Names, Xattrs};

/// Names in one job.
const BATCH: usize = 16;
/// More differences are counted, not kept: a slot that is all noise must not fill the memory.
const KEPT_MAX: usize = 100_000;

/// One thing in which the tree is not what its manifest says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Difference {
    /// The object, relative to the root.
    pub path: PathBuf,
    /// The first differing byte of a file's content.
    pub offset: Option<u64>,
    /// `content`, `size`, `mode`, `missing`, `extra`, …
    pub what: String,
}

/// What a comparison found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Report {
    /// Objects compared.
    pub objects: u64,
    /// Regular files among them.
    pub files: u64,
    /// Bytes read, holes not counted.
    pub bytes: u64,
    /// In walk order; at most the first 100,000.
    pub differences: Vec<Difference>,
    /// All of them.
    pub different: u64,
}

struct Batch<D> {
    dir: Arc<D>,
    path: Arc<Path>,
    entries: Vec<(OsString, Object)>,
}

/// What a worker found at one name.
#[derive(Default)]
struct Checked {
    differences: Vec<Difference>,
    file: bool,
    bytes: u64,
    /// Group, inode and number of names of a file that has several.
    link: Option<(u64, u64, u64, PathBuf)>,
}

enum Event {
    Different(Difference),
    Dir,
    Failed(Error),
}

type VerifyFeed<D> = Feed<Batch<D>, Result<Vec<Checked>>, Event>;

/// Compares the tree at `root` with `manifest`. Where `reference` (the tree it was copied from)
/// still has the content that the manifest tells, a difference is narrowed down to its byte;
/// otherwise its offset is that of the block.
///
/// # Errors
/// The manifest cannot be read, or a signal came. What cannot be read in the tree is a difference.
pub fn verify<D: Dir, M: BufRead + Send>(
    root: D,
    manifest: M,
    reference: Option<&D>,
    workers: usize,
    monitor: &Monitor,
) -> Result<Report> {
    let root = Arc::new(root);
    let mut report = Report::default();
    let mut links: HashMap<u64, Link> = HashMap::new();
    pool::run(
        workers.max(1),
        |feed: &VerifyFeed<D>| match (Walk { feed, monitor, path: PathBuf::new() })
            .run(&root, Reader::new(manifest))
        {
            Ok(()) => Ok(()),
            Err(Stopped::Closed) => Err(Closed),
            Err(Stopped::Failed(error)) => feed.event(Event::Failed(error)),
        },
        || Ring::for_workers(workers),
        |ring, batch| check_batch(ring, &batch, reference, monitor),
        |item| {
            match item {
                Item::Event(Event::Failed(error)) => return Err(error),
                Item::Event(Event::Different(difference)) => report.add(difference),
                Item::Event(Event::Dir) => report.objects += 1,
                Item::Done(result) => {
                    for checked in result? {
                        report.objects += 1;
                        report.files += u64::from(checked.file);
                        report.bytes += checked.bytes;
                        checked.differences.into_iter().for_each(|d| report.add(d));
                        if let Some((group, ino, nlink, path)) = checked.link {
                            let link =
                                links.entry(group).or_insert(Link { ino, nlink, names: 0, path });
                            link.names += u64::from(link.ino == ino);
                        }
                    }
                }
            }
            match monitor.stopped() {
                Some(signal) => Err(interrupted(signal)),
                None => Ok(()),
            }
        },
    )?;
    let mut broken: Vec<_> = links.into_values().filter(|l| l.names != l.nlink).collect();
    broken.sort_by(|a, b| a.path.cmp(&b.path));
    for link in broken {
        let what = format!("{} of {} hard links", link.names, link.nlink);
        report.add(Difference { path: link.path, offset: None, what });
    }
    Ok(report)
}

struct Link {
    ino: u64,
    nlink: u64,
    names: u64,
    path: PathBuf,
}

impl Report {
    fn add(&mut self, difference: Difference) {
        self.different += 1;
        if self.differences.len() < KEPT_MAX {
            self.differences.push(difference);
        }
    }
}

// ---- the walk along the manifest --------------------------------------------------------------

enum Stopped {
    Closed,
    Failed(Error),
}

impl From<Closed> for Stopped {
    fn from(_: Closed) -> Self {
        Self::Closed
    }
}

impl From<Error> for Stopped {
    fn from(error: Error) -> Self {
        Self::Failed(error)
    }
}

/// The names really in a directory, passed in the manifest's order.
#[derive(Default)]
struct Listing {
    names: Names,
    next: usize,
    ignored: BTreeSet<OsString>,
}

struct Walk<'a, D: Dir> {
    feed: &'a VerifyFeed<D>,
    monitor: &'a Monitor,
    path: PathBuf,
}

impl<D: Dir> Walk<'_, D> {
    fn run<M: BufRead>(
        &mut self,
        root: &Arc<D>,
        mut manifest: Reader<M>,
    ) -> std::result::Result<(), Stopped> {
        let mut next = || manifest.next_line().doing_to("reading", "the manifest");
        let Some(Line::Object(_, object)) = next()? else {
            return Err(malformed("it has no root").into());
        };
        let listing = self.enter(root, &object, Path::new("."))?;
        let mut stack = Stack::new(Arc::clone(root), listing).doing_to("reading", "/")?;
        let mut batch = Vec::new();
        // Directories of the manifest that are missing here: their entries are passed over.
        let mut missing = 0u32;
        while let Some(line) = next()? {
            if let Some(signal) = self.monitor.stopped() {
                return Err(interrupted(signal).into());
            }
            let Some((dir, listing)) = stack.top() else {
                return Err(malformed("it goes on after its root").into());
            };
            let dir = Arc::clone(dir);
            match line {
                Line::Object(_, object) if missing > 0 => {
                    missing += u32::from(object.kind == Kind::Dir);
                }
                Line::Ignored(_) if missing > 0 => missing += 1,
                Line::Leave if missing > 0 => missing -= 1,
                Line::Ignored(name) => {
                    listing.ignored.insert(name);
                    missing += 1;
                }
                Line::Object(name, object) if object.kind == Kind::Dir => {
                    self.hand_out(&dir, &mut batch)?;
                    self.pass_extra(listing, Some(&name))?;
                    match self.descend(&dir, &name, &object)? {
                        Some((below, listing)) => {
                            stack.push(below, listing).doing_to("reading", &name)?;
                            self.path.push(&name);
                        }
                        None => missing += 1,
                    }
                }
                Line::Object(name, object) => {
                    self.pass_extra(listing, Some(&name))?;
                    batch.push((name, object));
                    if batch.len() == BATCH {
                        self.hand_out(&dir, &mut batch)?;
                    }
                }
                Line::Leave => {
                    self.hand_out(&dir, &mut batch)?;
                    self.pass_extra(listing, None)?;
                    stack.pop().doing_to("leaving", &self.path)?;
                    self.path.pop();
                }
            }
        }
        if stack.depth() > 0 {
            return Err(malformed("it ends before its root does").into());
        }
        Ok(())
    }

    fn different(&self, path: PathBuf, what: impl Into<String>) -> std::result::Result<(), Closed> {
        self.feed.event(Event::Different(Difference { path, offset: None, what: what.into() }))
    }

    /// Compares a directory itself and lists it.
    fn enter(
        &self,
        dir: &Arc<D>,
        object: &Object,
        path: &Path,
    ) -> std::result::Result<Listing, Stopped> {
        self.feed.event(Event::Dir)?;
        let read = dir.meta().and_then(|meta| Ok((meta, dir.xattrs()?, dir.names()?)));
        match read {
            Ok((meta, xattrs, names)) => {
                for what in compare::<D>(object, &meta, &xattrs) {
                    self.different(path.to_path_buf(), what)?;
                }
                Ok(Listing { names, ..Listing::default() })
            }
            Err(e) => {
                self.different(path.to_path_buf(), unreadable(&e))?;
                Ok(Listing::default())
            }
        }
    }

    fn descend(
        &self,
        dir: &Arc<D>,
        name: &OsStr,
        object: &Object,
    ) -> std::result::Result<Option<(Arc<D>, Listing)>, Stopped> {
        let path = self.path.join(name);
        match dir.open_dir(name) {
            Ok(below) => {
                let below = Arc::new(below);
                let listing = self.enter(&below, object, &path)?;
                Ok(Some((below, listing)))
            }
            Err(e) => {
                let what = match dir.stat(name) {
                    Err(e) if e.kind() == io::ErrorKind::NotFound => "missing".to_owned(),
                    Ok(meta) if meta.kind != Kind::Dir => "type".to_owned(),
                    _ => unreadable(&e),
                };
                self.different(path, what)?;
                Ok(None)
            }
        }
    }

    /// Passes the names before `name` (or all): they are not in the manifest.
    fn pass_extra(
        &self,
        listing: &mut Listing,
        name: Option<&OsStr>,
    ) -> std::result::Result<(), Closed> {
        while let Some((present, _)) = listing.names.get(listing.next) {
            match name {
                Some(name) if present.as_bytes() > name.as_bytes() => break,
                Some(name) if present == name => {
                    listing.next += 1;
                    break;
                }
                _ => {}
            }
            if !listing.ignored.contains(present) {
                self.different(self.path.join(present), "extra")?;
            }
            listing.next += 1;
        }
        Ok(())
    }

    fn hand_out(
        &self,
        dir: &Arc<D>,
        batch: &mut Vec<(OsString, Object)>,
    ) -> std::result::Result<(), Closed> {
        if batch.is_empty() {
            return Ok(());
        }
        let entries = std::mem::take(batch);
        self.feed.job(Batch { dir: Arc::clone(dir), path: self.path.as_path().into(), entries })
    }
}

fn malformed(why: &str) -> Error {
    Error::new(ErrorKind::Differs, "reading the manifest", why)
}

fn unreadable(error: &io::Error) -> String {
    format!("unreadable: {}", describe(error))
}

// ---- the workers ------------------------------------------------------------------------------

fn check_batch<D: Dir>(
    ring: &mut Ring,
    batch: &Batch<D>,
    reference: Option<&D>,
    monitor: &Monitor,
) -> Result<Vec<Checked>> {
    let check = |(name, object): &(OsString, Object)| {
        let path = batch.path.join(name);
        let dir = &*batch.dir;
        let found = Checked::default();
        let mut check = Check { ring, dir, name, path, object, reference, monitor, found };
        check.run()?;
        monitor.finished(1);
        Ok(check.found)
    };
    batch.entries.iter().map(check).collect()
}

struct Check<'a, D> {
    ring: &'a mut Ring,
    dir: &'a D,
    name: &'a OsStr,
    path: PathBuf,
    object: &'a Object,
    reference: Option<&'a D>,
    monitor: &'a Monitor,
    found: Checked,
}

impl<D: Dir> Check<'_, D> {
    fn different(&mut self, what: impl Into<String>, offset: Option<u64>) {
        let path = self.path.clone();
        self.found.differences.push(Difference { path, offset, what: what.into() });
    }

    fn run(&mut self) -> Result<()> {
        let result = if self.object.kind == Kind::File { self.file()? } else { self.special() };
        if let Err(e) = result {
            if e.kind() == io::ErrorKind::NotFound {
                self.different("missing", None);
            } else {
                self.different(unreadable(&e), None);
            }
        }
        Ok(())
    }

    /// The outer error stops everything (a signal), the inner one is a difference.
    fn file(&mut self) -> Result<io::Result<()>> {
        self.found.file = true;
        let mut file = match self.dir.open_file(self.name) {
            Ok(file) => file,
            Err(e) => {
                if self.dir.stat(self.name).is_ok_and(|m| m.kind != Kind::File) {
                    self.different("type", None);
                    return Ok(Ok(()));
                }
                return Ok(Err(e));
            }
        };
        let (meta, xattrs) = match file.meta().and_then(|m| Ok((m, file.xattrs()?))) {
            Ok(read) => read,
            Err(e) => return Ok(Err(e)),
        };
        self.compare(&meta, &xattrs);
        if meta.kind != Kind::File {
            return Ok(Ok(()));
        }
        if meta.size != self.object.size {
            self.different("size", Some(meta.size.min(self.object.size)));
            return Ok(Ok(()));
        }
        if meta.size > 1 << 20 {
            file.will_read_once();
        }
        let tick = |bytes| self.monitor.passing(bytes);
        match content::pass(&mut file, &mut Discard, &meta, self.ring, &tick) {
            Ok(passed) => {
                self.found.bytes += passed.bytes;
                let expected = self.object.sums.clone().unwrap_or_default();
                if passed.short {
                    self.different("size", Some(passed.data_end));
                } else if let Some(block) = expected.first_difference(&passed.sums, meta.size) {
                    let offset = self.narrow(&mut file, &expected, block).unwrap_or(block);
                    self.different("content", Some(offset));
                }
            }
            Err(Fault { side: Side::Stopped, .. }) => {
                return Err(interrupted(self.monitor.stopped().unwrap_or(nix::libc::SIGINT)));
            }
            Err(fault) => self.different(unreadable(&fault.source), Some(fault.offset)),
        }
        Ok(Ok(()))
    }

    fn special(&mut self) -> io::Result<()> {
        let meta = self.dir.stat(self.name)?;
        let xattrs = self.dir.xattrs_of(self.name)?;
        self.compare(&meta, &xattrs);
        if meta.kind == Kind::Symlink
            && self.object.kind == Kind::Symlink
            && self.dir.read_link(self.name)? != self.object.link
        {
            self.different("link target", None);
        }
        Ok(())
    }

    fn compare(&mut self, meta: &Meta, xattrs: &Xattrs) {
        for what in compare::<D>(self.object, meta, xattrs) {
            self.different(what, None);
        }
        if let Some(group) = self.object.group {
            self.found.link = Some((group, meta.ino, meta.nlink, self.path.clone()));
        }
    }

    /// The first differing byte in the block at `offset`, where the reference still has the
    /// content that the manifest tells; `None` where it cannot be told.
    fn narrow(&self, file: &mut D::File, expected: &Sums, offset: u64) -> Option<u64> {
        let size = self.object.size;
        let block = block_size(size);
        let number = usize::try_from(offset / block).ok()?;
        let crc = expected.blocks.get(number).copied().unwrap_or(expected.whole);
        let mut original = open_file_below(self.reference?, &self.path).ok()?;
        if original.meta().ok()?.size != size {
            return None;
        }
        // Compared in pieces: a block of a huge file is huge.
        let length = block.min(size - offset);
        original.seek(SeekFrom::Start(offset)).ok()?;
        file.seek(SeekFrom::Start(offset)).ok()?;
        let mut hasher = crc32fast::Hasher::new();
        let (mut ours, mut theirs) = (vec![0; 64 << 10], vec![0; 64 << 10]);
        let mut first = None;
        let mut done = 0;
        while done < length {
            let piece = usize::try_from((length - done).min(64 << 10)).ok()?;
            original.read_exact(&mut theirs[..piece]).ok()?;
            hasher.update(&theirs[..piece]);
            if first.is_none() {
                file.read_exact(&mut ours[..piece]).ok()?;
                first =
                    (0..piece).find(|&n| ours[n] != theirs[n]).map(|n| offset + done + n as u64);
            }
            done += piece as u64;
        }
        first.filter(|_| hasher.finalize() == crc)
    }
}

/// Opens a file below `root` name by name.
fn open_file_below<D: Dir>(root: &D, path: &Path) -> io::Result<D::File> {
    let mut dir = root.open_dir(OsStr::new("."))?;
    for name in path.parent().into_iter().flat_map(Path::iter) {
        dir = dir.open_dir(name)?;
    }
    dir.open_file(path.file_name().unwrap_or_default())
}

/// In what an object is not what the manifest says, content apart.
fn compare<D: Dir>(expected: &Object, meta: &Meta, xattrs: &Xattrs) -> Vec<&'static str> {
    let found = Object::new(meta, D::KEEPS_BIRTH);
    if found.kind != expected.kind {
        return vec!["type"];
    }
    let mut different = Vec::new();
    let mut check = |what: &'static str, equal: bool| {
        if !equal {
            different.push(what);
        }
    };
    check("mode", found.mode == expected.mode);
    check("owner", (found.uid, found.gid) == (expected.uid, expected.gid));
    check("time", found.mtime == expected.mtime);
    check("device", found.device == expected.device);
    check("flags", found.flags == expected.flags);
    check("birth time", found.birth == expected.birth);
    check("links", expected.nlink.is_none() || found.nlink == expected.nlink);
    check("extended attributes", attributes::checksum(xattrs) == expected.xattrs);
    different
}
