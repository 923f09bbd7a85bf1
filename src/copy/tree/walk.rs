//! The walk through the source: directories made, everything else handed out.

use std::ffi::{OsStr, OsString};
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::result::Result as StdResult;
use std::sync::Arc;

use super::{
    Batch, Entry, Event, Options, Pair, TreeFeed, pop_name, push_name, replaced, vanished,
};
use crate::copy::attributes;
use crate::copy::pool::{Closed, Stopped};
use crate::copy::progress::{Monitor, interrupted};
use crate::copy::selection::Selection;
use crate::copy::stack::Stack;
use crate::error::Context;
use crate::record::manifest::Object;
use crate::sys::tree::{Dir, Kind, Meta, Names, Xattrs};

/// Names in one job: enough to make the queue's cost vanish, few enough to share work.
const BATCH: usize = 16;

/// What the walk keeps of a directory that it is in.
struct Listing {
    names: Names,
    next: usize,
    meta: Meta,
    xattrs: Xattrs,
}

pub(super) fn walk<D: Dir>(
    feed: &TreeFeed<D>,
    root: &Arc<Pair<D>>,
    options: &Options,
    selection: Option<Selection<'_>>,
    monitor: &Monitor,
) -> StdResult<(), Closed> {
    let mut walk = Walk { feed, options, selection, monitor, path: Vec::new(), device: 0 };
    match walk.run(root) {
        Ok(()) => Ok(()),
        Err(Stopped::Closed) => Err(Closed),
        Err(Stopped::Failed(error)) => feed.event(Event::Failed(error)),
    }
}

struct Walk<'a, D> {
    feed: &'a TreeFeed<D>,
    options: &'a Options,
    selection: Option<Selection<'a>>,
    monitor: &'a Monitor,
    path: Vec<u8>,
    device: u64,
}

impl<D: Dir> Walk<'_, D> {
    fn run(&mut self, root: &Arc<Pair<D>>) -> StdResult<(), Stopped> {
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
                if let Some(selection) = &mut self.selection {
                    selection.enter(&name);
                }
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
            if let Some(selection) = &mut self.selection {
                selection.leave()?;
            }
        }
        self.selection.as_ref().map_or(Ok(()), Selection::complete)?;
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
    ) -> StdResult<Listing, Stopped> {
        let shown = if name == "." { PathBuf::from("/") } else { self.shown(name) };
        let xattrs = pair.source.xattrs().doing_to("reading the extended attributes of", &shown)?;
        let names = pair.source.names().doing_to("listing", &shown)?;
        self.announce(name, &meta, &xattrs)?;
        Ok(Listing { names, next: 0, meta, xattrs })
    }

    fn announce(&self, name: &OsStr, meta: &Meta, xattrs: &Xattrs) -> StdResult<(), Closed> {
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
    ) -> StdResult<Option<(Arc<Pair<D>>, OsString, Listing)>, Stopped> {
        let mut batch = Vec::new();
        while let Some((name, hint)) = listing.names.get(listing.next) {
            listing.next += 1;
            push_name(&mut self.path, name);
            let excluded = self.options.exclude.contains(&self.path);
            let replace = self.options.replace.get(&self.path).cloned();
            pop_name(&mut self.path);
            let left_out = match &mut self.selection {
                Some(selection) => selection.admits(name)?.is_none(),
                None => false,
            };
            if excluded || left_out {
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

    fn hand_out(&self, pair: &Arc<Pair<D>>, batch: &mut Vec<Entry>) -> StdResult<(), Closed> {
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
    ) -> StdResult<Option<(Arc<Pair<D>>, Listing)>, Stopped> {
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
        if meta.dev == self.device && !self.options.points.contains(shown.as_os_str().as_bytes()) {
            let listing = self.enter(&below, name, meta)?;
            return Ok(Some((below, listing)));
        }
        // Another file system is mounted here: its point is kept as an empty directory.
        let covered = self.options.covered.get(shown.as_os_str().as_bytes()).cloned();
        let mut meta = covered.unwrap_or(meta);
        // What is mounted there may keep no birth time (devfs), but its point in the copy has one.
        meta.birth.get_or_insert(meta.mtime);
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
