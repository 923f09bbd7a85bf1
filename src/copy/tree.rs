//! Copying a tree into an empty file system, its manifest written on the way.
//!
//! One thread walks the source in byte order and makes the directories; workers copy everything
//! else in batches; the caller's thread takes the results in walk order, makes the further names
//! of files that have several, finishes directories and writes the manifest. So the manifest, the
//! order of work and the first error do not depend on the number of workers.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::ffi::{OsStr, OsString};
use std::io::{self, Cursor, Write};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use nix::errno::Errno;

use super::attributes;
use super::content::{self, Passed};
use super::digest::Digest;
use super::pool::{self, Closed, Feed, Item};
use super::progress::Monitor;
use super::stack::{Place, Stack};
use super::stream::{Fault, Ring, Side};
use crate::error::{Context, Error, Kind as ErrorKind, Result};
use crate::record::manifest::{Object, Writer};
use crate::sys::tree::{Dir, File, Kind, Meta, Names, Xattrs};

/// A file that changes while it is read is read so many times before the copy fails.
const TRIES: u32 = 3;
/// Names in one job: enough to make the queue's cost vanish, few enough to share work.
const BATCH: usize = 16;

/// What differs from a plain copy. All paths are relative to the root, without a leading slash.
#[derive(Clone, Debug, Default)]
pub struct Options {
    /// Left out, with everything below.
    pub exclude: BTreeSet<Vec<u8>>,
    /// Files whose copy gets this content instead.
    pub replace: BTreeMap<Vec<u8>, Arc<[u8]>>,
    /// Mount points whose own metadata are covered by what is mounted there.
    pub covered: BTreeMap<Vec<u8>, Meta>,
    /// Directories of the copy's root that the manifest tells checkers to pass over.
    pub ignore: Vec<String>,
    /// Worker threads.
    pub workers: usize,
}

/// What was copied.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Summary {
    /// Objects of every kind, the root included.
    pub objects: u64,
    /// Regular files, each name counted.
    pub files: u64,
    /// Bytes of content, holes not counted, a file of several names once.
    pub bytes: u64,
    /// Objects that were listed and gone when they were to be read.
    pub vanished: u64,
}

/// A source directory and its copy.
struct Pair<D> {
    source: D,
    target: D,
}

impl<D: Dir> Place for Pair<D> {
    type Id = ((u64, u64), (u64, u64));

    fn child(&self, name: &OsStr) -> io::Result<Self> {
        Ok(Self { source: self.source.child(name)?, target: self.target.child(name)? })
    }

    fn parent(&self) -> io::Result<Self> {
        Ok(Self { source: self.source.open_parent()?, target: self.target.open_parent()? })
    }

    fn id(&self) -> io::Result<Self::Id> {
        Ok((self.source.id()?, self.target.id()?))
    }
}

/// One name to be copied.
struct Entry {
    name: OsString,
    hint: Option<Kind>,
    replace: Option<Arc<[u8]>>,
}

/// A job: some names of one directory.
struct Batch<D> {
    pair: Arc<Pair<D>>,
    path: Arc<Path>,
    entries: Vec<Entry>,
}

/// What became of one name.
enum Outcome {
    Copied(Box<Object>, u64),
    Vanished,
    /// It has several names: the caller's thread decides which comes first.
    Several(Box<Entry>, Meta),
}

/// What the walk tells between the batches.
enum Event<D> {
    Enter { name: OsString, object: Box<Object> },
    Leave { pair: Option<Arc<Pair<D>>>, meta: Box<Meta>, xattrs: Xattrs },
    Vanished,
    Failed(Error),
}

type BatchResult<D> = (Arc<Pair<D>>, Vec<(OsString, Result<Outcome>)>);
type TreeFeed<D> = Feed<Batch<D>, BatchResult<D>, Event<D>>;

/// Copies everything on `source`'s file system into `target`, an empty root, and writes the
/// manifest to `manifest`.
///
/// # Errors
/// The first failure in walk order: an object that could not be copied whole, with all its
/// attributes, is a failure. The copy is then unfinished.
pub fn copy<D: Dir, W: Write>(
    source: D,
    target: D,
    options: &Options,
    monitor: &Monitor,
    manifest: W,
) -> Result<(Summary, W)> {
    let root = Arc::new(Pair { source, target });
    let workers = options.workers.max(1);
    let writer = Writer::new(manifest).doing("writing the manifest")?;
    let mut finisher = Finisher::new(Arc::clone(&root), options, monitor, writer);
    pool::run(
        workers,
        |feed: &TreeFeed<D>| walk(feed, &root, options, monitor),
        // One ring more than workers: the finisher has its own.
        || Ring::for_workers(workers + 1),
        |ring, batch| copy_batch(ring, batch, monitor),
        |item| finisher.take(item),
    )?;
    finisher.finish()
}

// ---- the walk -------------------------------------------------------------------------------

/// What the walk keeps of a directory that it is in.
struct Listing {
    names: Names,
    next: usize,
    meta: Meta,
    xattrs: Xattrs,
}

fn walk<D: Dir>(
    feed: &TreeFeed<D>,
    root: &Arc<Pair<D>>,
    options: &Options,
    monitor: &Monitor,
) -> std::result::Result<(), Closed> {
    let mut walk = Walk { feed, options, monitor, path: Vec::new(), device: 0 };
    match walk.run(root) {
        Ok(()) => Ok(()),
        Err(Stopped::Closed) => Err(Closed),
        Err(Stopped::Failed(error)) => feed.event(Event::Failed(error)),
    }
}

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

struct Walk<'a, D> {
    feed: &'a TreeFeed<D>,
    options: &'a Options,
    monitor: &'a Monitor,
    path: Vec<u8>,
    device: u64,
}

impl<D: Dir> Walk<'_, D> {
    fn run(&mut self, root: &Arc<Pair<D>>) -> std::result::Result<(), Stopped> {
        let meta = root.source.meta().doing_to("reading", "/")?;
        self.device = meta.dev;
        let listing = self.enter(root, OsStr::new("."), meta)?;
        let mut stack = Stack::new(Arc::clone(root), listing).doing_to("reading", "/")?;
        while let Some((pair, listing)) = stack.top() {
            if let Some(signal) = self.monitor.stopped() {
                return Err(interrupted(signal).into());
            }
            let pair = Arc::clone(pair);
            if let Some(below) = self.next_dir(&pair, listing)? {
                let (place, name, listing) = below;
                stack.push(place, listing).doing_to("reading", self.shown(&name))?;
                push_name(&mut self.path, &name);
                continue;
            }
            let popped = stack.pop().doing_to("leaving", self.shown(OsStr::new("")))?;
            let Some((pair, listing)) = popped else { break };
            self.feed.event(Event::Leave {
                pair: Some(pair),
                meta: Box::new(listing.meta),
                xattrs: listing.xattrs,
            })?;
            pop_name(&mut self.path);
        }
        Ok(())
    }

    /// The path of a name here, for messages.
    fn shown(&self, name: &OsStr) -> PathBuf {
        Path::new(OsStr::from_bytes(&self.path)).join(name)
    }

    /// Tells of a directory and lists it.
    fn enter(
        &mut self,
        pair: &Arc<Pair<D>>,
        name: &OsStr,
        meta: Meta,
    ) -> std::result::Result<Listing, Stopped> {
        let shown = if name == "." { PathBuf::from("/") } else { self.shown(name) };
        let xattrs = pair.source.xattrs().doing_to("reading the extended attributes of", &shown)?;
        let names = pair.source.names().doing_to("listing", &shown)?;
        self.announce(name, &meta, &xattrs)?;
        Ok(Listing { names, next: 0, meta, xattrs })
    }

    fn announce(
        &self,
        name: &OsStr,
        meta: &Meta,
        xattrs: &Xattrs,
    ) -> std::result::Result<(), Closed> {
        let mut object = Object::new(meta, D::KEEPS_BIRTH);
        object.xattrs = attributes::checksum(xattrs);
        self.feed.event(Event::Enter { name: name.to_owned(), object: Box::new(object) })
    }

    /// Hands out everything up to the next directory that is to be walked, and opens that.
    #[allow(clippy::type_complexity)] // an inner result, used once
    fn next_dir(
        &mut self,
        pair: &Arc<Pair<D>>,
        listing: &mut Listing,
    ) -> std::result::Result<Option<(Arc<Pair<D>>, OsString, Listing)>, Stopped> {
        let mut batch = Vec::new();
        while let Some((name, hint)) = listing.names.get(listing.next) {
            listing.next += 1;
            push_name(&mut self.path, name);
            let excluded = self.options.exclude.contains(&self.path);
            let replace = self.options.replace.get(&self.path).cloned();
            pop_name(&mut self.path);
            if excluded {
                continue;
            }
            let is_dir = match hint {
                Some(kind) => kind == Kind::Dir,
                None => match pair.source.stat(name) {
                    Ok(meta) => meta.kind == Kind::Dir,
                    Err(e) if vanished(&e) => {
                        self.hand_out(pair, &mut batch)?;
                        self.feed.event(Event::Vanished)?;
                        continue;
                    }
                    Err(e) => return Err(e).doing_to("reading", self.shown(name))?,
                },
            };
            if is_dir {
                self.hand_out(pair, &mut batch)?;
                let name = name.to_owned();
                if let Some((below, listing)) = self.descend(pair, &name)? {
                    return Ok(Some((below, name, listing)));
                }
                continue;
            }
            batch.push(Entry { name: name.to_owned(), hint, replace });
            if batch.len() == BATCH {
                self.hand_out(pair, &mut batch)?;
            }
        }
        self.hand_out(pair, &mut batch)?;
        Ok(None)
    }

    fn hand_out(
        &self,
        pair: &Arc<Pair<D>>,
        batch: &mut Vec<Entry>,
    ) -> std::result::Result<(), Closed> {
        if batch.is_empty() {
            return Ok(());
        }
        let path: Arc<Path> = Path::new(OsStr::from_bytes(&self.path)).into();
        let entries = std::mem::take(batch);
        self.feed.job(Batch { pair: Arc::clone(pair), path, entries })
    }

    /// Opens a directory and makes its copy; `None` where there is nothing to walk: it vanished,
    /// something else took its place, or another file system is mounted there.
    #[allow(clippy::type_complexity)] // an inner result, used once
    fn descend(
        &mut self,
        pair: &Arc<Pair<D>>,
        name: &OsStr,
    ) -> std::result::Result<Option<(Arc<Pair<D>>, Listing)>, Stopped> {
        let shown = self.shown(name);
        let source = match pair.source.open_dir(name) {
            Ok(dir) => dir,
            Err(e) if vanished(&e) => {
                self.feed.event(Event::Vanished)?;
                return Ok(None);
            }
            Err(e) if replaced(&e) => {
                // A symbolic link or a file took its place: copied as what it now is.
                let mut batch = vec![Entry { name: name.to_owned(), hint: None, replace: None }];
                self.hand_out(pair, &mut batch)?;
                return Ok(None);
            }
            Err(e) => return Err(e).doing_to("opening", &shown)?,
        };
        let meta = source.meta().doing_to("reading", &shown)?;
        make_dir(&pair.target, name).doing_to("making", &shown)?;
        let target = pair.target.open_dir(name).doing_to("opening the copy of", &shown)?;
        let below = Arc::new(Pair { source, target });
        if meta.dev == self.device {
            let listing = self.enter(&below, name, meta)?;
            return Ok(Some((below, listing)));
        }
        // Another file system is mounted here: its point is kept as an empty directory.
        let meta = self.options.covered.get(shown.as_os_str().as_bytes()).cloned().unwrap_or(meta);
        self.announce(name, &meta, &Xattrs::new())?;
        self.feed.event(Event::Leave {
            pair: Some(below),
            meta: Box::new(meta),
            xattrs: Xattrs::new(),
        })?;
        Ok(None)
    }
}

/// A fresh file system brings a directory or two of its own (`lost+found`).
fn make_dir<D: Dir>(target: &D, name: &OsStr) -> io::Result<()> {
    match target.make_dir(name) {
        Err(e) if e.kind() == io::ErrorKind::AlreadyExists => target.open_dir(name).map(drop),
        result => result,
    }
}

fn push_name(path: &mut Vec<u8>, name: &OsStr) {
    if !path.is_empty() {
        path.push(b'/');
    }
    path.extend_from_slice(name.as_bytes());
}

fn pop_name(path: &mut Vec<u8>) {
    let above = path.iter().rposition(|b| *b == b'/').unwrap_or(0);
    path.truncate(above);
}

fn vanished(error: &io::Error) -> bool {
    error.kind() == io::ErrorKind::NotFound
}

/// What open(2) says where the name is no longer what it was: a symbolic link (`ELOOP`; `EMLINK`
/// on FreeBSD), no directory, a directory, a socket or a device without a driver.
fn replaced(error: &io::Error) -> bool {
    matches!(
        error.raw_os_error().map(Errno::from_raw),
        Some(
            Errno::ELOOP
                | Errno::EMLINK
                | Errno::ENOTDIR
                | Errno::EISDIR
                | Errno::ENXIO
                | Errno::EOPNOTSUPP
        )
    )
}

/// The error of a run that a signal stopped.
pub fn interrupted(signal: i32) -> Error {
    let name = nix::sys::signal::Signal::try_from(signal)
        .map_or_else(|_| format!("signal {signal}"), |s| s.as_str().to_owned());
    Error::new(ErrorKind::Signal(signal), "", format!("stopped by {name}"))
}

// ---- the workers ----------------------------------------------------------------------------

fn copy_batch<D: Dir>(ring: &mut Ring, batch: Batch<D>, monitor: &Monitor) -> BatchResult<D> {
    let Batch { pair, path, entries } = batch;
    let mut results = Vec::with_capacity(entries.len());
    for entry in entries {
        let name = entry.name.clone();
        let result = copy_entry(ring, &pair, &path, entry, monitor, false);
        let failed = result.is_err();
        results.push((name, result));
        if failed {
            break; // nothing after the first error counts
        }
    }
    (pair, results)
}

/// Copies one object, again where it changes meanwhile. With `first`, a file of several names is
/// copied too, its flags left for later.
fn copy_entry<D: Dir>(
    ring: &mut Ring,
    pair: &Pair<D>,
    dir: &Path,
    mut entry: Entry,
    monitor: &Monitor,
    first: bool,
) -> Result<Outcome> {
    let path = dir.join(&entry.name);
    for _ in 0..TRIES {
        let mut attempt = Attempt { ring, pair, entry: &entry, path: &path, monitor, first };
        match attempt.run()? {
            Tried::Copied(object, bytes) => return Ok(Outcome::Copied(object, bytes)),
            Tried::Vanished => return Ok(Outcome::Vanished),
            Tried::Several(meta) => return Ok(Outcome::Several(Box::new(entry), meta)),
            Tried::Changed => entry.hint = None,
        }
    }
    Err(Error::new(
        ErrorKind::Failed,
        "reading",
        format!("it changed every time while it was read ({TRIES} tries)"),
    )
    .path(path)
    .hint("stop what writes to it, or move it to another file system"))
}

enum Tried {
    Copied(Box<Object>, u64),
    Vanished,
    Several(Meta),
    Changed,
}

struct Attempt<'a, D> {
    ring: &'a mut Ring,
    pair: &'a Pair<D>,
    entry: &'a Entry,
    path: &'a Path,
    monitor: &'a Monitor,
    first: bool,
}

impl<D: Dir> Attempt<'_, D> {
    fn run(&mut self) -> Result<Tried> {
        if self.entry.hint == Some(Kind::File) {
            return self.file();
        }
        match self.pair.source.stat(&self.entry.name) {
            Ok(meta) if meta.kind == Kind::File => self.file(),
            Ok(meta) if meta.kind == Kind::Dir => Ok(Tried::Changed),
            Ok(meta) => self.special(&meta),
            Err(e) if vanished(&e) => Ok(Tried::Vanished),
            Err(e) => Err(e).doing_to("reading", self.path),
        }
    }

    fn file(&mut self) -> Result<Tried> {
        let mut source = match self.pair.source.open_file(&self.entry.name) {
            Ok(file) => file,
            Err(e) if vanished(&e) => return Ok(Tried::Vanished),
            Err(e) if replaced(&e) => return Ok(Tried::Changed),
            Err(e) => return Err(e).doing_to("opening", self.path),
        };
        let meta = source.meta().doing_to("reading", self.path)?;
        if meta.kind != Kind::File {
            return Ok(Tried::Changed);
        }
        if meta.nlink > 1 && !self.first {
            return Ok(Tried::Several(meta));
        }
        let mut target = self.create()?;
        let copied = self.copy_content(&mut source, &mut target, &meta);
        let again = source.meta().doing_to("reading", self.path)?;
        if changed(&meta, &again) {
            // Whatever happened while it changed (even a read error past its new end) may not
            // happen again.
            drop(target);
            self.remove_copy()?;
            return Ok(Tried::Changed);
        }
        let passed = copied?;
        if passed.short {
            return Err(Error::new(ErrorKind::Failed, "reading", "the file ends before its size")
                .path(self.path)
                .at(passed.data_end));
        }
        let xattrs = source.xattrs().doing_to("reading the extended attributes of", self.path)?;
        attributes::set_on_file(&target, &meta, &xattrs, !self.first, self.path)?;
        let mut object = Object::new(&meta, D::KEEPS_BIRTH);
        if let Some(content) = &self.entry.replace {
            object.size = content.len() as u64;
        }
        object.sums = Some(passed.sums);
        object.xattrs = attributes::checksum(&xattrs);
        Ok(Tried::Copied(Box::new(object), passed.bytes))
    }

    fn create(&self) -> Result<D::File> {
        self.pair.target.create_file(&self.entry.name).doing_to("creating", self.path)
    }

    fn remove_copy(&self) -> Result<()> {
        self.pair.target.remove_file(&self.entry.name).doing_to("removing the copy of", self.path)
    }

    fn copy_content(
        &mut self,
        source: &mut D::File,
        target: &mut D::File,
        meta: &Meta,
    ) -> Result<Passed> {
        let tick = |bytes| self.monitor.passing(bytes);
        if let Some(content) = &self.entry.replace {
            let size = content.len() as u64;
            let mut digest = Digest::new(size);
            let bytes = self
                .ring
                .stream(&mut Cursor::new(content), target, size, &mut digest, &tick)
                .map_err(|fault| failed(&fault, self.path, self.monitor))?;
            let sums = digest.finish();
            return Ok(Passed { sums, bytes, data_end: bytes, short: false });
        }
        if meta.size > 1 << 20 {
            source.will_read_once();
        }
        let passed = content::pass(source, target, meta, self.ring, &tick)
            .map_err(|fault| failed(&fault, self.path, self.monitor))?;
        if passed.data_end < meta.size && !passed.short {
            target.set_len(meta.size).doing_to("setting the size of", self.path)?;
        }
        Ok(passed)
    }

    fn special(&mut self, meta: &Meta) -> Result<Tried> {
        let (source, target, name) = (&self.pair.source, &self.pair.target, &self.entry.name);
        if meta.nlink > 1 && !self.first {
            return Ok(Tried::Several(meta.clone()));
        }
        let mut object = Object::new(meta, D::KEEPS_BIRTH);
        if meta.kind == Kind::Symlink {
            object.link = match source.read_link(name) {
                Ok(link) => link,
                Err(e) if vanished(&e) => return Ok(Tried::Vanished),
                Err(e) if e.raw_os_error() == Some(Errno::EINVAL as i32) => {
                    return Ok(Tried::Changed);
                }
                Err(e) => return Err(e).doing_to("reading the link", self.path),
            };
        }
        let xattrs = match source.xattrs_of(name) {
            Ok(xattrs) => xattrs,
            Err(e) if vanished(&e) => return Ok(Tried::Vanished),
            Err(e) => return Err(e).doing_to("reading the extended attributes of", self.path),
        };
        match source.stat(name) {
            Ok(again) if !changed(meta, &again) => {}
            Ok(_) => return Ok(Tried::Changed),
            Err(e) if vanished(&e) => return Ok(Tried::Vanished),
            Err(e) => return Err(e).doing_to("reading", self.path),
        }
        if meta.kind == Kind::Symlink {
            target.make_symlink(name, &object.link)
        } else {
            target.make_special(name, meta)
        }
        .doing_to("making", self.path)?;
        attributes::set_on_entry(target, name, meta, &xattrs, !self.first, self.path)?;
        object.xattrs = attributes::checksum(&xattrs);
        Ok(Tried::Copied(Box::new(object), 0))
    }
}

/// Whether an object was written to, replaced or otherwise changed between two looks. Reading it
/// changes neither of these.
fn changed(before: &Meta, after: &Meta) -> bool {
    (before.kind, before.dev, before.ino, before.size, before.mtime, before.ctime)
        != (after.kind, after.dev, after.ino, after.size, after.mtime, after.ctime)
}

fn failed(fault: &Fault, path: &Path, monitor: &Monitor) -> Error {
    let operation = match fault.side {
        Side::Read => "reading",
        Side::Write => "writing",
        Side::Stopped => return interrupted(monitor.stopped().unwrap_or(nix::libc::SIGINT)),
    };
    Error::io(operation, &fault.source).path(path).at(fault.offset)
}

// ---- results in order -----------------------------------------------------------------------

/// Where the first name of a file of several names was put.
struct Origin {
    dir: Vec<u8>,
    name: OsString,
    group: u64,
    object: Object,
    names_left: u64,
}

struct Finisher<'a, D: Dir, W> {
    root: Arc<Pair<D>>,
    options: &'a Options,
    monitor: &'a Monitor,
    manifest: Writer<W>,
    ring: Ring,
    path: Vec<u8>,
    origins: HashMap<(u64, u64), Origin>,
    groups: u64,
    /// The directory of the last origin that was opened: links often come in runs.
    opened: Option<(Vec<u8>, D)>,
    /// Flags of files with several names, set when all names are made.
    flags: Vec<(Vec<u8>, OsString, u32)>,
    summary: Summary,
}

impl<'a, D: Dir, W: Write> Finisher<'a, D, W> {
    fn new(
        root: Arc<Pair<D>>,
        options: &'a Options,
        monitor: &'a Monitor,
        manifest: Writer<W>,
    ) -> Self {
        Self {
            root,
            options,
            monitor,
            manifest,
            ring: Ring::for_workers(options.workers.max(1) + 1),
            path: Vec::new(),
            origins: HashMap::new(),
            groups: 0,
            opened: None,
            flags: Vec::new(),
            summary: Summary::default(),
        }
    }

    fn take(&mut self, item: Item<BatchResult<D>, Event<D>>) -> Result<()> {
        if let Some(signal) = self.monitor.stopped() {
            return Err(interrupted(signal));
        }
        match item {
            Item::Event(Event::Failed(error)) => Err(error),
            Item::Event(Event::Vanished) => {
                self.summary.vanished += 1;
                Ok(())
            }
            Item::Event(Event::Enter { name, object }) => {
                self.write(&name, &object)?;
                if name == "." {
                    for name in &self.options.ignore {
                        self.manifest.ignore(name).doing("writing the manifest")?;
                    }
                }
                push_name(&mut self.path, &name);
                Ok(())
            }
            Item::Event(Event::Leave { pair, meta, xattrs }) => self.leave(pair, &meta, &xattrs),
            Item::Done((pair, results)) => {
                for (name, result) in results {
                    match result? {
                        Outcome::Copied(object, bytes) => self.copied(&name, &object, bytes)?,
                        Outcome::Vanished => self.summary.vanished += 1,
                        Outcome::Several(entry, meta) => self.several(&pair, *entry, &meta)?,
                    }
                }
                Ok(())
            }
        }
    }

    fn write(&mut self, name: &OsStr, object: &Object) -> Result<()> {
        self.summary.objects += 1;
        self.monitor.finished(1);
        if object.kind == Kind::File {
            self.summary.files += 1;
        }
        self.manifest.object(name, object).doing("writing the manifest")
    }

    fn copied(&mut self, name: &OsStr, object: &Object, bytes: u64) -> Result<()> {
        self.summary.bytes += bytes;
        self.write(name, object)
    }

    /// The path of the innermost directory: without the leading `.` of the root.
    fn dir(&self) -> Vec<u8> {
        self.path.strip_prefix(b"./").unwrap_or_default().to_vec()
    }

    fn leave(&mut self, pair: Option<Arc<Pair<D>>>, meta: &Meta, xattrs: &Xattrs) -> Result<()> {
        let path = PathBuf::from(OsString::from_vec(self.dir()));
        if let Some(pair) = pair {
            attributes::set_on_dir(&pair.target, meta, xattrs, &path)?;
        }
        pop_name(&mut self.path);
        self.manifest.leave().doing("writing the manifest")
    }

    /// A name of a file that has several: the first in walk order is copied, the others become
    /// links to it.
    fn several(&mut self, pair: &Arc<Pair<D>>, entry: Entry, meta: &Meta) -> Result<()> {
        let key = (meta.dev, meta.ino);
        let name = entry.name.clone();
        let dir = self.dir();
        let shown = Path::new(OsStr::from_bytes(&dir)).join(&name);
        if let Some(origin) = self.origins.get(&key) {
            if origin.dir == dir {
                pair.target.make_link(&name, &pair.target, &origin.name)
            } else {
                let from = match self.opened.take() {
                    Some(opened) if opened.0 == origin.dir => opened.1,
                    _ => open_below(&self.root.target, &origin.dir)
                        .doing_to("opening the copy of", OsStr::from_bytes(&origin.dir))?,
                };
                let result = pair.target.make_link(&name, &from, &origin.name);
                self.opened = Some((origin.dir.clone(), from));
                result
            }
            .doing_to("linking", &shown)?;
            let object = origin.object.clone();
            self.write(&name, &object)?;
            if let Some(origin) = self.origins.get_mut(&key) {
                origin.names_left -= 1;
                if origin.names_left == 0 {
                    self.origins.remove(&key);
                }
            }
            return Ok(());
        }
        let path: &Path = OsStr::from_bytes(&dir).as_ref();
        let outcome = copy_entry(&mut self.ring, pair, path, entry, self.monitor, true)?;
        let Outcome::Copied(mut object, bytes) = outcome else {
            self.summary.vanished += 1;
            return Ok(());
        };
        self.groups += 1;
        object.group = Some(self.groups);
        // How many names the copy gets is known only at the end: some may lie outside the tree.
        object.nlink = None;
        if object.flags != 0 {
            self.flags.push((dir.clone(), name.clone(), object.flags));
        }
        self.copied(&name, &object, bytes)?;
        if meta.nlink > 1 {
            let names_left = meta.nlink - 1;
            let origin = Origin { dir, name, group: self.groups, object: *object, names_left };
            debug_assert_eq!(origin.object.group, Some(origin.group));
            self.origins.insert(key, origin);
        }
        Ok(())
    }

    fn finish(self) -> Result<(Summary, W)> {
        for (dir, name, flags) in &self.flags {
            let path = Path::new(OsStr::from_bytes(dir)).join(name);
            open_below(&self.root.target, dir)
                .and_then(|parent| parent.set_flags_of(name, *flags))
                .doing_to("setting the flags of", path)?;
        }
        Ok((self.summary, self.manifest.into_inner()))
    }
}

/// Opens a directory below `root` name by name, so that no path is too long.
fn open_below<D: Dir>(root: &D, path: &[u8]) -> io::Result<D> {
    let mut dir = root.open_dir(OsStr::new("."))?;
    for name in path.split(|b| *b == b'/').filter(|n| !n.is_empty()) {
        dir = dir.open_dir(OsStr::from_bytes(name))?;
    }
    Ok(dir)
}
