//! The walk along the manifest, and through the directories that it names.

use std::collections::BTreeSet;
use std::ffi::{OsStr, OsString};
use std::io::{self, BufRead};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::result::Result as StdResult;
use std::sync::Arc;

use super::{Batch, Difference, Event, VerifyFeed, compare, unreadable};
use crate::copy::attributes;
use crate::copy::pool::{Closed, Stopped};
use crate::copy::progress::{Monitor, interrupted};
use crate::copy::stack::Stack;
use crate::copy::touched::Touched;
use crate::error::{Context, Error, Kind as ErrorKind};
use crate::record::manifest::{Line, Object, Reader};
use crate::sys::tree::{Dir, Kind, Names};

/// Names in one job, and bytes after which it gets no more: one thread would read them one after the
/// other.
const BATCH: usize = 16;
const BATCH_BYTES: u64 = 1 << 20;

/// Walks along `manifest`; what is not as it says goes to `feed`.
pub(super) fn walk<D: Dir, M: BufRead>(
    feed: &VerifyFeed<D>,
    root: &Arc<D>,
    manifest: M,
    only: Option<&Touched>,
    monitor: &Monitor,
) -> StdResult<(), Closed> {
    let (path, batch) = (PathBuf::new(), Vec::new());
    let mut walk = Walk { feed, only, monitor, path, number: 0, batch, passed: 0 };
    match walk.run(root, Reader::new(manifest)) {
        Ok(()) => Ok(()),
        Err(Stopped::Closed) => Err(Closed),
        Err(Stopped::Failed(error)) => feed.event(Event::Failed(error)),
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
    only: Option<&'a Touched>,
    monitor: &'a Monitor,
    path: PathBuf,
    /// Objects of the manifest that were read.
    number: u64,
    /// What is to be compared in the innermost directory and was not yet handed out.
    batch: Vec<(OsString, Object)>,
    /// Directories that the manifest is in, and that are not looked into.
    passed: u32,
}

impl<D: Dir> Walk<'_, D> {
    fn run<M: BufRead>(
        &mut self,
        root: &Arc<D>,
        mut manifest: Reader<M>,
    ) -> StdResult<(), Stopped> {
        let mut next = || {
            manifest.next_line().map_err(|e| match e.kind() {
                io::ErrorKind::InvalidData => malformed(&e.to_string()),
                _ => Error::io("reading", &e).path("the manifest"),
            })
        };
        let Some(Line::Object(_, object)) = next()? else {
            return Err(malformed("it has no root").into());
        };
        if !self.is_wanted() {
            while next()?.is_some() {}
            return Ok(());
        }
        let listing = self.enter(root, &object, Path::new("."))?;
        let mut stack = Stack::new(Arc::clone(root), listing).doing_to("reading", "/")?;
        while let Some(line) = next()? {
            if let Some(signal) = self.monitor.stopped() {
                return Err(interrupted(signal).into());
            }
            self.follow(&mut stack, line)?;
        }
        if stack.depth() > 0 {
            return Err(malformed("it ends before its root does").into());
        }
        Ok(())
    }

    /// Goes where the manifest goes.
    fn follow(&mut self, stack: &mut Stack<D, Listing>, line: Line) -> StdResult<(), Stopped> {
        let is_dir = line.is_dir();
        let wanted = matches!(line, Line::Object(..)) && self.is_wanted();
        if self.passed > 0 {
            match line {
                Line::Leave => self.passed -= 1,
                _ => self.passed += u32::from(is_dir),
            }
            return Ok(());
        }
        let Some((dir, listing)) = stack.top() else {
            return Err(malformed("it goes on after its root").into());
        };
        let dir = Arc::clone(dir);
        match line {
            Line::Ignored(name, _) => {
                listing.ignored.insert(name);
                self.passed = u32::from(is_dir);
            }
            Line::Object(name, _) if !wanted => {
                self.pass_extra(listing, Some(&name))?;
                self.passed = u32::from(is_dir);
            }
            Line::Object(name, object) if is_dir => {
                self.hand_out(&dir)?;
                self.pass_extra(listing, Some(&name))?;
                if let Some((below, listing)) = self.descend(&dir, &name, &object)? {
                    stack.push(below, listing).doing_to("reading", &name)?;
                    self.path.push(&name);
                } else {
                    self.passed = 1;
                }
            }
            Line::Object(name, object) => {
                self.pass_extra(listing, Some(&name))?;
                self.batch.push((name, object));
                if is_full(&self.batch) {
                    self.hand_out(&dir)?;
                }
            }
            Line::Leave => {
                self.hand_out(&dir)?;
                self.pass_extra(listing, None)?;
                stack.pop().doing_to("leaving", &self.path)?;
                self.path.pop();
            }
        }
        Ok(())
    }

    /// Whether the next object of the manifest is to be looked at.
    fn is_wanted(&mut self) -> bool {
        self.number += 1;
        self.only.is_none_or(|only| only.has(self.number - 1))
    }

    fn different(&self, path: PathBuf, what: impl Into<String>) -> StdResult<(), Closed> {
        self.feed.event(Event::Different(Difference::of(path, what)))
    }

    /// Compares a directory itself and lists it.
    fn enter(&self, dir: &Arc<D>, object: &Object, path: &Path) -> StdResult<Listing, Stopped> {
        self.feed.event(Event::Dir)?;
        let read = dir.meta().and_then(|meta| Ok((meta, dir.xattrs()?, dir.names()?)));
        match read {
            Ok((meta, xattrs, names)) => {
                for what in compare::<D>(object, &meta, attributes::checksum(&xattrs)) {
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
    ) -> StdResult<Option<(Arc<D>, Listing)>, Stopped> {
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
    fn pass_extra(&self, listing: &mut Listing, name: Option<&OsStr>) -> StdResult<(), Closed> {
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

    /// Has what was collected in `dir` compared.
    fn hand_out(&mut self, dir: &Arc<D>) -> StdResult<(), Closed> {
        if self.batch.is_empty() {
            return Ok(());
        }
        let entries = std::mem::take(&mut self.batch);
        self.feed.job(Batch { dir: Arc::clone(dir), path: self.path.as_path().into(), entries })
    }
}

fn is_full(batch: &[(OsString, Object)]) -> bool {
    let bytes = batch.iter().fold(0_u64, |sum, (_, object)| sum.saturating_add(object.size));
    batch.len() == BATCH || bytes >= BATCH_BYTES
}

fn malformed(why: &str) -> Error {
    Error::new(ErrorKind::Differs, "reading the manifest", why)
}
