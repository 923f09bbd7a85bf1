//! Copying one object, again where it changes meanwhile.

use std::io::{Seek, Write};
use std::path::Path;

use nix::errno::Errno;

use super::remove::remove;
use super::renew::Target;
use super::{Batch, BatchResult, Effort, Entry, Outcome, Pair, is_other, not_replaced, vanished};
use crate::copy::attributes;
use crate::copy::content::{self, Passed};
use crate::copy::progress::{Monitor, interrupted};
use crate::copy::provenance::Provenance;
use crate::copy::stream::{Fault, Ring, Side};
use crate::error::{Context, Error, Kind as ErrorKind, Result};
use crate::record::manifest::Object;
use crate::sys::tree::{Dir, File, Kind, Meta};

/// A file that changes while it is read is read so many times before the copy fails.
const TRIES: u32 = 3;

pub(super) fn copy_batch<D: Dir>(
    ring: &mut Ring,
    batch: Batch<D>,
    provenance: Option<&Provenance>,
    monitor: &Monitor,
) -> BatchResult<D> {
    let Batch { pair, path, entries } = batch;
    let mut results = Vec::with_capacity(entries.len());
    for entry in entries {
        let name = entry.name.clone();
        let result = copy_entry(ring, &pair, &path, entry, provenance, monitor, Name::Only);
        let failed = result.is_err();
        results.push((name, result));
        if failed {
            break; // nothing after the first error counts
        }
    }
    (pair, results)
}

/// Which name of a file is copied.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Name {
    /// The only one. Where there turn out to be others, here or in the older copy, the caller's
    /// thread decides which comes first.
    Only,
    /// The first of several. The others become links to it, which flags may forbid: those that it is
    /// to have come last.
    First,
}

/// Copies one object, again where it changes meanwhile.
pub(super) fn copy_entry<D: Dir>(
    ring: &mut Ring,
    pair: &Pair<D>,
    dir: &Path,
    mut entry: Entry,
    provenance: Option<&Provenance>,
    monitor: &Monitor,
    which: Name,
) -> Result<Outcome> {
    let path = dir.join(&entry.name);
    for _ in 0..TRIES {
        let mut attempt =
            Attempt { ring, pair, entry: &entry, path: &path, provenance, monitor, which };
        match attempt.run()? {
            Tried::Copied(object, effort) => return Ok(Outcome::Copied(object, effort)),
            Tried::Vanished if entry.replace.is_some() => return Err(not_replaced(&path)),
            Tried::Vanished => {
                if entry.old.is_some() {
                    remove(&pair.target, &entry.name, &path)?;
                }
                return Ok(Outcome::Vanished);
            }
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

pub(super) enum Tried {
    Copied(Box<Object>, Effort),
    Vanished,
    Several(Meta),
    Changed,
}

pub(super) struct Attempt<'a, D> {
    pub(super) ring: &'a mut Ring,
    pub(super) pair: &'a Pair<D>,
    pub(super) entry: &'a Entry,
    pub(super) path: &'a Path,
    pub(super) provenance: Option<&'a Provenance>,
    pub(super) monitor: &'a Monitor,
    pub(super) which: Name,
}

impl<D: Dir> Attempt<'_, D> {
    fn run(&mut self) -> Result<Tried> {
        if let Some(tried) = self.untouched() {
            return Ok(tried);
        }
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
            Err(e) if is_other(&self.pair.source, &self.entry.name, &e) => {
                return Ok(Tried::Changed);
            }
            Err(e) => return Err(e).doing_to("opening", self.path),
        };
        let mut meta = source.meta().doing_to("reading", self.path)?;
        if meta.kind != Kind::File {
            return Ok(Tried::Changed);
        }
        if self.entry.replace.is_some() {
            // With other content it is a file of its own; its other names keep the one they have.
            meta.nlink = 1;
        }
        if meta.nlink > 1 && self.which == Name::Only {
            return Ok(Tried::Several(meta));
        }
        let Some(mut target) = self.target(&source, &meta)? else {
            return Ok(Tried::Several(meta));
        };
        let copied = self.renew(&mut source, &mut target, &meta);
        // Before the second look, so that they belong to the same state of the file.
        let xattrs = source.xattrs();
        let again = source.meta().doing_to("reading", self.path)?;
        if changed(&meta, &again) {
            // Whatever happened while it changed (even a read error past its new end) may not
            // happen again.
            let made = target.before.is_none();
            drop(target);
            if made {
                self.remove_copy()?;
            }
            return Ok(Tried::Changed);
        }
        let (passed, written) = copied?;
        if passed.short {
            return Err(Error::new(ErrorKind::Failed, "reading", "the file ends before its size")
                .path(self.path)
                .at(passed.data_end));
        }
        let xattrs = xattrs.doing_to("reading the extended attributes of", self.path)?;
        self.set_attributes(&target, &meta, &xattrs)?;
        let mut object = self.object(&meta);
        object.size = self.size(&meta);
        object.sums = Some(passed.sums);
        object.xattrs = attributes::checksum(&xattrs);
        let effort = Effort { bytes: passed.bytes, written, touched: true };
        Ok(Tried::Copied(Box::new(object), effort))
    }

    /// What the manifest keeps of it, without content, attributes and link target.
    fn object(&self, meta: &Meta) -> Object {
        let mut object = Object::new(meta, D::KEEPS_BIRTH);
        // What gets other content is no copy of it.
        if self.entry.replace.is_none() {
            object.source = self.provenance.map(|provenance| provenance.of(meta));
        }
        object
    }

    pub(super) fn create(&self) -> Result<D::File> {
        let file =
            self.pair.target.create_file(&self.entry.name).doing_to("creating", self.path)?;
        if self.pair.passes_on {
            attributes::disinherit(file.xattrs(), |key| file.remove_xattr(key), self.path)?;
        }
        Ok(file)
    }

    fn remove_copy(&self) -> Result<()> {
        self.pair.target.remove_file(&self.entry.name).doing_to("removing the copy of", self.path)
    }

    /// Passes the content that the copy is to have to `sink`.
    pub(super) fn pass<W: Write + Seek>(
        &mut self,
        source: &mut D::File,
        sink: &mut W,
        meta: &Meta,
    ) -> Result<Passed> {
        let tick = |bytes| self.monitor.passing(bytes);
        match &self.entry.replace {
            None => content::pass(source, sink, meta, self.ring, &tick),
            Some(content) => content::pass_from_memory(content, sink, self.ring, &tick),
        }
        .map_err(|fault| failed(&fault, self.path, self.monitor))
    }

    /// The size that the copy is to have.
    pub(super) fn size(&self, meta: &Meta) -> u64 {
        self.entry.replace.as_ref().map_or(meta.size, |content| content.len() as u64)
    }

    /// The flags that the copy gets at once.
    pub(super) fn flags(&self, meta: &Meta) -> u32 {
        match self.which {
            Name::Only => meta.flags,
            Name::First => 0,
        }
    }

    /// Fills a new file. Returns the bytes written too: all of them.
    pub(super) fn fill(
        &mut self,
        source: &mut D::File,
        target: &mut Target<D::File>,
        meta: &Meta,
    ) -> Result<(Passed, u64)> {
        if meta.size > 1 << 20 {
            source.will_read_once();
        }
        let passed = self.pass(source, &mut target.file, meta)?;
        let size = self.size(meta);
        if passed.data_end < size && !passed.short {
            target.file.set_len(size).doing_to("setting the size of", self.path)?;
        }
        let written = passed.bytes;
        Ok((passed, written))
    }

    fn special(&mut self, meta: &Meta) -> Result<Tried> {
        let (source, target, name) = (&self.pair.source, &self.pair.target, &self.entry.name);
        if meta.nlink > 1 && self.which == Name::Only {
            return Ok(Tried::Several(meta.clone()));
        }
        if self.entry.replace.is_some() {
            return Err(not_replaced(self.path));
        }
        let mut object = self.object(meta);
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
        object.xattrs = attributes::checksum(&xattrs);
        if let Some(old) = &self.entry.old {
            if !old.suspect && self.stands(&object, meta, &xattrs)? {
                return Ok(Tried::Copied(Box::new(object), Effort::default()));
            }
            remove(target, name, self.path)?;
        }
        if meta.kind == Kind::Symlink {
            target.make_symlink(name, &object.link)
        } else {
            target.make_special(name, meta)
        }
        .doing_to("making", self.path)?;
        if self.pair.passes_on {
            let remove = |key: &_| target.remove_xattr_of(name, key);
            attributes::disinherit(target.xattrs_of(name), remove, self.path)?;
        }
        attributes::set_on_entry(target, name, meta, &xattrs, self.flags(meta), self.path)?;
        let effort = Effort { touched: true, ..Effort::default() };
        Ok(Tried::Copied(Box::new(object), effort))
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
