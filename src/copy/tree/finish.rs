//! Results in walk order: further names of files, directories finished, the manifest.

use std::collections::{HashMap, HashSet};
use std::ffi::{OsStr, OsString};
use std::io::{self, Write};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::object::{Name, copy_entry};
use super::remove::remove;
use super::renew::has_attributes;
use super::{
    BatchResult, Done, Effort, Entry, Event, Options, Outcome, Pair, Summary, pop_name, push_name,
};
use crate::copy::attributes;
use crate::copy::pool::Item;
use crate::copy::progress::{Monitor, interrupted};
use crate::copy::stack::open_below;
use crate::copy::stream::Ring;
use crate::copy::touched::Touched;
use crate::error::{Context, Error, Kind as ErrorKind, Result};
use crate::record::manifest::{Object, Writer};
use crate::sys::tree::{Dir, Kind, Meta, Time, Xattrs};

/// Where the first name of a file of several names was put.
struct Origin {
    dir: Vec<u8>,
    name: OsString,
    object: Object,
    /// Tells it from another file that gets its inode number when it is removed.
    birth: Option<Time>,
    names_left: u64,
    /// Its number in the copy, where that was there before.
    copy: Option<u64>,
}

/// A directory that is not yet finished.
struct Inside {
    number: u64,
    /// It, or something in it, was touched.
    touched: bool,
}

pub(super) struct Finisher<'a, D: Dir, W> {
    root: Arc<Pair<D>>,
    options: &'a Options,
    /// There is an older copy.
    over: bool,
    monitor: &'a Monitor,
    manifest: Writer<W>,
    ring: Ring,
    path: Vec<u8>,
    /// The directories on that path.
    inside: Vec<Inside>,
    touched: Touched,
    origins: HashMap<(u64, u64), Origin>,
    groups: u64,
    /// The numbers in an older copy of the files of several names.
    taken: HashSet<u64>,
    /// The directory of the last origin that was opened: links often come in runs.
    opened: Option<(Vec<u8>, D)>,
    /// Flags of files with several names, set when all names are made.
    flags: Vec<(Vec<u8>, OsString, u32)>,
    summary: Summary,
}

impl<'a, D: Dir, W: Write> Finisher<'a, D, W> {
    pub(super) fn new(
        root: Arc<Pair<D>>,
        options: &'a Options,
        over: bool,
        monitor: &'a Monitor,
        manifest: Writer<W>,
    ) -> Self {
        Self {
            root,
            options,
            over,
            monitor,
            manifest,
            ring: Ring::for_workers(options.workers.max(1) + 1),
            path: Vec::new(),
            inside: Vec::new(),
            touched: Touched::default(),
            origins: HashMap::new(),
            groups: 0,
            taken: HashSet::new(),
            opened: None,
            flags: Vec::new(),
            summary: Summary::default(),
        }
    }

    pub(super) fn take(&mut self, item: Item<BatchResult<D>, Event<D>>) -> Result<()> {
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
                self.inside.push(Inside { number: self.summary.objects, touched: false });
                self.write(&name, &object)?;
                if name == "." {
                    for (name, kind) in &self.options.ignore {
                        self.manifest.ignore(name, *kind).doing("writing the manifest")?;
                    }
                }
                push_name(&mut self.path, &name);
                Ok(())
            }
            Item::Event(Event::Leave { pair, meta, xattrs }) => self.leave(&pair, &meta, &xattrs),
            Item::Done((pair, results)) => {
                for (name, result) in results {
                    match result? {
                        Outcome::Copied(object, effort) => self.copied(&name, &object, effort)?,
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

    fn copied(&mut self, name: &OsStr, object: &Object, effort: Effort) -> Result<()> {
        self.summary.bytes += effort.bytes;
        self.summary.written += effort.written;
        if effort.touched {
            self.touch(self.summary.objects);
        }
        self.write(name, object)
    }

    /// Marks an object of the innermost directory.
    fn touch(&mut self, number: u64) {
        self.touched.mark(number);
        if let Some(inside) = self.inside.last_mut() {
            inside.touched = true;
        }
    }

    /// The path of the innermost directory: without the leading `.` of the root.
    fn dir(&self) -> Vec<u8> {
        self.path.strip_prefix(b"./").unwrap_or_default().to_vec()
    }

    fn leave(&mut self, pair: &Pair<D>, meta: &Meta, xattrs: &Xattrs) -> Result<()> {
        let path = PathBuf::from(OsString::from_vec(self.dir()));
        let Some(mut inside) = self.inside.pop() else {
            return Err(Error::new(ErrorKind::Failed, "leaving", "it was not entered").path(path));
        };
        if !(self.over && is_finished(&pair.target, meta, xattrs, &path)?) {
            attributes::set_on_dir(&pair.target, meta, xattrs, &path)?;
            inside.touched = true;
        }
        if inside.touched {
            self.touch(inside.number);
        }
        pop_name(&mut self.path);
        self.manifest.leave().doing("writing the manifest")
    }

    /// A name of a file that has several, or had them in the older copy: the first in walk order is
    /// copied, the others become links to it, or files of their own.
    fn several(&mut self, pair: &Arc<Pair<D>>, mut entry: Entry, meta: &Meta) -> Result<()> {
        let key = (meta.dev, meta.ino);
        let name = entry.name.clone();
        // A number that was given to another file meanwhile: the first one is gone.
        if self.origins.get(&key).is_some_and(|origin| origin.birth != meta.birth) {
            self.origins.remove(&key);
        }
        let there = match &entry.old {
            Some(_) => pair.target.stat(&name).ok(),
            None => None,
        };
        if let Some(origin) = self.origins.remove(&key) {
            return self.further(key, origin, &pair.target, &name, there.as_ref());
        }
        let dir = self.dir();
        let shown = Path::new(OsStr::from_bytes(&dir)).join(&name);
        let path: &Path = OsStr::from_bytes(&dir).as_ref();
        // What was one file and are two now.
        if there.is_some_and(|there| self.taken.contains(&there.ino)) {
            remove(&pair.target, &name, &shown)?;
            entry.old = None;
        }
        let (from, ring) = (self.options.provenance.as_ref(), &mut self.ring);
        let outcome = copy_entry(ring, pair, path, entry, from, self.monitor, Name::First)?;
        let Outcome::Copied(mut object, effort) = outcome else {
            self.summary.vanished += 1;
            return Ok(());
        };
        let copy = if self.over {
            Some(pair.target.stat(&name).doing_to("reading the copy of", &shown)?.ino)
        } else {
            None
        };
        self.taken.extend(copy);
        if meta.nlink > 1 {
            self.groups += 1;
            object.group = Some(self.groups);
            // How many names the copy gets is known only at the end: some may lie outside the tree.
            object.nlink = None;
        }
        if object.flags != 0 {
            self.flags.push((dir.clone(), name.clone(), object.flags));
        }
        self.copied(&name, &object, effort)?;
        if meta.nlink > 1 {
            let names_left = meta.nlink - 1;
            let birth = meta.birth;
            let origin = Origin { dir, name, object: *object, birth, names_left, copy };
            self.origins.insert(key, origin);
        }
        Ok(())
    }

    /// Makes a further name of a file, here in `target`, which has `there` under it.
    fn further(
        &mut self,
        key: (u64, u64),
        mut origin: Origin,
        target: &D,
        name: &OsStr,
        there: Option<&Meta>,
    ) -> Result<()> {
        let dir = self.dir();
        let shown = Path::new(OsStr::from_bytes(&dir)).join(name);
        let is_link = there.is_some_and(|there| Some(there.ino) == origin.copy);
        if there.is_some() && !is_link {
            remove(target, name, &shown)?;
        }
        if is_link {
            Ok(())
        } else if origin.dir == dir {
            link(target, name, target, &origin)
        } else {
            let from = match self.opened.take() {
                Some(opened) if opened.0 == origin.dir => opened.1,
                _ => open_below(&self.root.target, OsStr::from_bytes(&origin.dir).as_ref())
                    .doing_to("opening the copy of", OsStr::from_bytes(&origin.dir))?,
            };
            let result = link(target, name, &from, &origin);
            self.opened = Some((origin.dir.clone(), from));
            result
        }
        .doing_to("linking", &shown)?;
        let effort = Effort { touched: !is_link, ..Effort::default() };
        self.copied(name, &origin.object, effort)?;
        origin.names_left -= 1;
        if origin.names_left > 0 {
            self.origins.insert(key, origin);
        }
        Ok(())
    }

    pub(super) fn finish(self) -> Result<Done<W>> {
        for (dir, name, flags) in &self.flags {
            let path = Path::new(OsStr::from_bytes(dir)).join(name);
            open_below(&self.root.target, OsStr::from_bytes(dir).as_ref())
                .and_then(|parent| parent.set_flags_of(name, *flags))
                .doing_to("setting the flags of", path)?;
        }
        let Self { summary, touched, manifest, .. } = self;
        Ok(Done { summary, touched, manifest: manifest.into_inner() })
    }
}

/// Makes another name. Flags that an older copy has would forbid it; they are set when all names are
/// made.
fn link<D: Dir>(dir: &D, name: &OsStr, from: &D, origin: &Origin) -> io::Result<()> {
    if origin.copy.is_some() && origin.object.flags != 0 {
        from.set_flags_of(&origin.name, 0)?;
    }
    dir.make_link(name, from, &origin.name)
}

/// Whether a directory of an older copy is what it is to be.
fn is_finished<D: Dir>(dir: &D, meta: &Meta, xattrs: &Xattrs, path: &Path) -> Result<bool> {
    let there = dir.meta().doing_to("reading the copy of", path)?;
    let same = has_attributes::<D>(&there, meta) && there.flags == meta.flags;
    Ok(same && dir.xattrs().doing_to("reading the copy of", path)? == *xattrs)
}
