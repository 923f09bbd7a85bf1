//! The walk through the source: directories made, everything else handed out.

use std::collections::BTreeSet;
use std::ffi::{OsStr, OsString};
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::result::Result as StdResult;
use std::sync::Arc;

use super::remove::{open_unprotected, remove, unprotect};
use super::renew::can_become;
use super::{
    Batch, Entry, Event, Old, Options, Pair, TreeFeed, Trust, not_replaced, pop_name, push_name,
    replaced, vanished,
};
use crate::copy::attributes;
use crate::copy::beside::Beside;
use crate::copy::pool::{Closed, Stopped};
use crate::copy::progress::{Monitor, interrupted};
use crate::copy::selection::Selection;
use crate::copy::stack::Stack;
use crate::error::{Context, Error, Kind as ErrorKind, Result};
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
    /// What an older copy has here, passed in the same order.
    there: Names,
    passed: usize,
    /// Of that: what need not be read to be known.
    trust: Option<Trust>,
}

pub(super) fn walk<D: Dir>(
    feed: &TreeFeed<D>,
    root: &Arc<Pair<D>>,
    options: &Options,
    selection: Option<Selection<'_>>,
    old: Option<Beside<'_>>,
    monitor: &Monitor,
) -> StdResult<(), Closed> {
    let (path, unmet) = (Vec::new(), options.replace.keys().map(Vec::as_slice).collect());
    let mut walk = Walk { feed, options, selection, old, monitor, path, device: 0, unmet };
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
    /// The manifest of an older copy.
    old: Option<Beside<'a>>,
    monitor: &'a Monitor,
    path: Vec<u8>,
    device: u64,
    /// Files that are to get other content, and were not met yet.
    unmet: BTreeSet<&'a [u8]>,
}

impl<D: Dir> Walk<'_, D> {
    fn run(&mut self, root: &Arc<Pair<D>>) -> StdResult<(), Stopped> {
        let meta = root.source.meta().doing_to("reading", "/")?;
        self.device = meta.dev;
        let xattrs = root.source.xattrs().doing_to("reading the extended attributes of", "/")?;
        let trust = self.options.trust.filter(|trust| is_as_left(&root.target.meta(), *trust));
        if self.old.is_some() {
            unprotect(&root.target).doing_to("taking the flags from the copy of", "/")?;
        }
        let listing = self.enter(root, OsStr::new("."), meta, xattrs, trust)?;
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
                if let Some(old) = &mut self.old {
                    old.enter(&name);
                }
                continue;
            }
            let popped = stack.pop().doing_to("leaving", self.shown(OsStr::new("")))?;
            let Some((pair, listing)) = popped else { break };
            let Listing { meta, xattrs, .. } = listing;
            self.feed.event(Event::Leave { pair, meta: Box::new(meta), xattrs })?;
            pop_name(&mut self.path);
            if let Some(selection) = &mut self.selection {
                selection.leave()?;
            }
            if let Some(old) = &mut self.old {
                old.leave()?;
            }
        }
        self.selection.as_ref().map_or(Ok(()), Selection::complete)?;
        match self.unmet.first() {
            Some(path) => Err(not_replaced(OsStr::from_bytes(path).as_ref()).into()),
            None => Ok(()),
        }
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
        xattrs: Xattrs,
        trust: Option<Trust>,
    ) -> StdResult<Listing, Stopped> {
        let shown = if name == "." { PathBuf::from("/") } else { self.shown(name) };
        let names = pair.source.names().doing_to("listing", &shown)?;
        let there = match &self.old {
            Some(_) => pair.target.names().doing_to("listing the copy of", &shown)?,
            None => Names::default(),
        };
        self.announce(name, &meta, &xattrs)?;
        Ok(Listing { names, next: 0, meta, xattrs, there, passed: 0, trust })
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
        let options = self.options;
        while let Some((name, hint)) = listing.names.get(listing.next) {
            listing.next += 1;
            push_name(&mut self.path, name);
            let excluded = options.exclude.contains(&self.path);
            let replace = options.replace.get_key_value(&self.path);
            let left_out = match &mut self.selection {
                Some(selection) => selection.admits(name)?.is_none(),
                None => false,
            };
            if left_out {
                let here = Path::new(OsStr::from_bytes(&self.path));
                self.unmet.retain(|path| !Path::new(OsStr::from_bytes(path)).starts_with(here));
            }
            pop_name(&mut self.path);
            if excluded || left_out {
                continue;
            }
            let name = name.to_owned();
            let old = self.present(pair, listing, &name)?;
            let name = name.as_os_str();
            let is_dir = match hint {
                Some(kind) => kind == Kind::Dir,
                None => match pair.source.stat(name) {
                    Ok(meta) => meta.kind == Kind::Dir,
                    Err(e) if vanished(&e) => {
                        self.hand_out(pair, &mut batch)?;
                        if old.is_some() {
                            remove(&pair.target, name, &self.shown(name))?;
                        }
                        self.feed.event(Event::Vanished)?;
                        continue;
                    }
                    Err(e) => return Err(e).doing_to("reading", self.shown(name))?,
                },
            };
            if is_dir {
                self.hand_out(pair, &mut batch)?;
                if let Some((below, listing)) = self.descend(pair, name, old)? {
                    return Ok(Some((below, name.to_owned(), listing)));
                }
                continue;
            }
            let replace = replace.map(|(path, content)| {
                self.unmet.remove(path.as_slice());
                Arc::clone(content)
            });
            batch.push(Entry { name: name.to_owned(), hint, replace, old });
            if batch.len() == BATCH {
                self.hand_out(pair, &mut batch)?;
            }
        }
        self.pass_to(pair, listing, None)?;
        self.hand_out(pair, &mut batch)?;
        Ok(None)
    }

    /// What the older copy has under this name. What it has under names before it, which the source
    /// has not, is removed.
    fn present(
        &mut self,
        pair: &Arc<Pair<D>>,
        listing: &mut Listing,
        name: &OsStr,
    ) -> Result<Option<Old>> {
        let Some(old) = &mut self.old else { return Ok(None) };
        let listed = old.find(name)?.map(Box::new);
        if !self.pass_to(pair, listing, Some(name))? {
            return Ok(None);
        }
        push_name(&mut self.path, name);
        let suspect = self.options.suspect.contains(&self.path);
        pop_name(&mut self.path);
        let (trust, same_blocks) = (listing.trust, self.options.same_blocks);
        Ok(Some(Old { listed, suspect, trust, same_blocks }))
    }

    /// Removes what the older copy has before `name`, or before the end; whether it has `name` too.
    fn pass_to(
        &self,
        pair: &Arc<Pair<D>>,
        listing: &mut Listing,
        name: Option<&OsStr>,
    ) -> Result<bool> {
        while let Some((extra, _)) = listing.there.get(listing.passed) {
            if name.is_some_and(|name| name < extra) {
                return Ok(false);
            }
            listing.passed += 1;
            if name == Some(extra) {
                return Ok(true);
            }
            let ours = |(name, _): &(&str, Kind)| extra == *name;
            if !(self.path.is_empty() && self.options.ignore.iter().any(ours)) {
                remove(&pair.target, extra, &self.shown(extra))?;
            }
        }
        Ok(false)
    }

    fn hand_out(&self, pair: &Arc<Pair<D>>, batch: &mut Vec<Entry>) -> StdResult<(), Closed> {
        if batch.is_empty() {
            return Ok(());
        }
        let path: Arc<Path> = Path::new(OsStr::from_bytes(&self.path)).into();
        let entries = std::mem::take(batch);
        self.feed.job(Batch { pair: Arc::clone(pair), path, entries })
    }

    /// Opens a directory and makes its copy; `None` where there is nothing to walk: it vanished, or
    /// something else took its place.
    #[allow(clippy::type_complexity)] // an inner result, used once
    fn descend(
        &mut self,
        pair: &Arc<Pair<D>>,
        name: &OsStr,
        old: Option<Old>,
    ) -> StdResult<Option<(Arc<Pair<D>>, Listing)>, Stopped> {
        let shown = self.shown(name);
        let source = match pair.source.open_dir(name) {
            Ok(dir) => dir,
            Err(e) if vanished(&e) => {
                if old.is_some() {
                    remove(&pair.target, name, &shown)?;
                }
                self.feed.event(Event::Vanished)?;
                return Ok(None);
            }
            Err(e) if replaced(&e) => {
                // A symbolic link or a file took its place: copied as what it now is.
                let entry = Entry { name: name.to_owned(), hint: None, replace: None, old };
                let mut batch = vec![entry];
                self.hand_out(pair, &mut batch)?;
                return Ok(None);
            }
            Err(e) => return Err(e).doing_to("opening", &shown)?,
        };
        let meta = source.meta().doing_to("reading", &shown)?;
        if meta.dev != self.device {
            let cause = "another file system is mounted on it";
            return Err(Error::new(ErrorKind::Failed, "reading", cause).path(shown).into());
        }
        let xattrs = source.xattrs().doing_to("reading the extended attributes of", &shown)?;
        // Before this run changes it.
        let trust = old.as_ref().and_then(|old| old.trust);
        let trust = trust.filter(|trust| is_as_left(&pair.target.stat(name), *trust));
        let (target, passes_on) = target_dir(pair, name, old.as_ref(), (&meta, &xattrs), &shown)?;
        let below = Arc::new(Pair { source, target, passes_on });
        let listing = self.enter(&below, name, meta, xattrs, trust)?;
        Ok(Some((below, listing)))
    }
}

/// Whether the copy's directory is where it was when the copy was verified: what is in it keeps its
/// times when it comes to another place.
fn is_as_left(there: &io::Result<Meta>, trust: Trust) -> bool {
    there.as_ref().is_ok_and(|there| there.ctime < trust.copy)
}

/// The directory that gets the copy of one with these attributes: that of an older copy, where it can
/// become that; else a new one. And whether it passes ACLs on.
fn target_dir<D: Dir>(
    pair: &Pair<D>,
    name: &OsStr,
    old: Option<&Old>,
    wanted: (&Meta, &Xattrs),
    shown: &Path,
) -> Result<(D, bool)> {
    if old.is_some() {
        match open_unprotected(&pair.target, name) {
            Ok(dir) => {
                let attributes = dir.meta().and_then(|meta| Ok((meta, dir.xattrs()?)));
                let (there, xattrs) = attributes.doing_to("reading the copy of", shown)?;
                if can_become::<D>((&there, &xattrs), wanted) {
                    return Ok((dir, attributes::pass_on(&xattrs)));
                }
            }
            Err(e) if replaced(&e) || vanished(&e) => {}
            Err(e) => return Err(e).doing_to("opening the copy of", shown),
        }
        remove(&pair.target, name, shown)?;
    }
    make_dir(&pair.target, name).doing_to("making", shown)?;
    let dir = pair.target.open_dir(name).doing_to("opening the copy of", shown)?;
    if pair.passes_on {
        attributes::disinherit(dir.xattrs(), |key| dir.remove_xattr(key), shown)?;
    }
    Ok((dir, false))
}

/// A fresh file system brings a directory or two of its own (`lost+found`).
fn make_dir<D: Dir>(target: &D, name: &OsStr) -> io::Result<()> {
    match target.make_dir(name) {
        Err(e) if e.kind() == io::ErrorKind::AlreadyExists => target.open_dir(name).map(drop),
        result => result,
    }
}
