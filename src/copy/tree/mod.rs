//! Copying a tree into an empty file system, or over an older copy of it, its manifest written on the
//! way.
//!
//! One thread walks the source in byte order and makes the directories; workers copy everything
//! else in batches; the caller's thread takes the results in walk order, makes the further names
//! of files that have several, finishes directories and writes the manifest. So the manifest, the
//! order of work and the first error do not depend on the number of workers.
//!
//! Over an older copy the walk also goes along what is there and along its manifest: what the source
//! does not have is removed, what is there and is to be stays as it is, and of a file that differs
//! only the blocks that differ are written.

mod finish;
mod object;
mod patch;
mod remove;
mod renew;
mod walk;

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::{OsStr, OsString};
use std::io::{self, Write};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::sync::Arc;

use nix::errno::Errno;

use super::attributes;
use super::beside::Beside;
use super::pool::{self, Feed};
use super::progress::Monitor;
use super::provenance::Provenance;
use super::selection::Selection;
use super::stack::Place;
use super::stream::Ring;
use super::touched::Touched;
use crate::error::{Context, Error, Kind as ErrorKind, Result};
use crate::record::manifest::{Object, Writer};
use crate::sys::tree::{Dir, Kind, Meta, Time, Xattrs};
use finish::Finisher;
pub use remove::remove;
pub use renew::can_renew;

/// What differs from a plain copy. All paths are relative to the root, without a leading slash.
#[derive(Clone, Debug, Default)]
pub struct Options {
    /// Left out, with everything below.
    pub exclude: BTreeSet<Vec<u8>>,
    /// Regular files whose copy gets this content instead: each of them must be met, unless it is
    /// not selected.
    pub replace: BTreeMap<Vec<u8>, Arc<[u8]>>,
    /// Entries of the copy's root that the manifest tells checkers to pass over.
    pub ignore: Vec<(&'static str, Kind)>,
    /// Worker threads.
    pub workers: usize,
    /// Where the source is: where that is not known, nothing of this copy is trusted later.
    pub provenance: Option<Provenance>,
    /// Of an older copy: what need not be read to be known.
    pub trust: Option<Trust>,
    /// Of an older copy: files that are made anew, whatever they seem to be.
    pub suspect: BTreeSet<Vec<u8>>,
    /// The older copy has the source's own blocks, which were proved: what has the metadata of its
    /// source has its content.
    pub same_blocks: bool,
}

/// When an object was last touched tells that it is what the manifest of the older copy says, where it
/// is the object that the manifest tells of. The time of the last change of any kind can be set by
/// nobody, but for who sets the clock.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Trust {
    /// Nothing in the source that was last changed before this has changed since it was copied.
    pub source: Time,
    /// Nothing in the copy that was last changed before this has changed since it was verified.
    pub copy: Time,
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
    /// Of these, the bytes that were written.
    pub written: u64,
    /// Objects that were listed and gone when they were to be read.
    pub vanished: u64,
}

/// A copy that is done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Done<W> {
    /// How much of what.
    pub summary: Summary,
    /// What of it this run wrote, or could not tell to be as it was.
    pub touched: Touched,
    /// Where the manifest went.
    pub manifest: W,
}

/// A source directory and its copy.
struct Pair<D> {
    source: D,
    target: D,
    /// What is made in the copy may get ACLs from it. A new one gets its own when all in it is made.
    passes_on: bool,
}

impl<D: Dir> Pair<D> {
    /// `target` is, or is in, an older copy.
    fn over(source: D, target: D) -> io::Result<Self> {
        let passes_on = attributes::pass_on(&target.xattrs()?);
        Ok(Self { source, target, passes_on })
    }
}

impl<D: Dir> Place for Pair<D> {
    type Id = ((u64, u64), (u64, u64));

    fn parent(&self) -> io::Result<Self> {
        Self::over(self.source.open_parent()?, self.target.open_parent()?)
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
    /// What the copy has under this name already.
    old: Option<Old>,
}

/// What an older copy has under a name.
struct Old {
    /// As its manifest has it.
    listed: Option<Box<Object>>,
    /// It is made anew, whatever it seems to be.
    suspect: bool,
    /// What need not be read to be known.
    trust: Option<Trust>,
    /// It has the source's own blocks.
    same_blocks: bool,
}

/// What an object took.
#[derive(Clone, Copy, Default)]
struct Effort {
    /// Bytes of content that it has, holes not counted.
    bytes: u64,
    /// What of them was written.
    written: u64,
    /// It was not found, by looking at it alone, to be what it was.
    touched: bool,
}

/// A job: some names of one directory.
struct Batch<D> {
    pair: Arc<Pair<D>>,
    path: Arc<Path>,
    entries: Vec<Entry>,
}

/// What became of one name.
enum Outcome {
    Copied(Box<Object>, Effort),
    Vanished,
    /// It has several names, here or in the older copy: the caller's thread decides which comes first.
    Several(Box<Entry>, Meta),
}

/// What the walk tells between the batches.
enum Event<D> {
    Enter { name: OsString, object: Box<Object> },
    Leave { pair: Arc<Pair<D>>, meta: Box<Meta>, xattrs: Xattrs },
    Vanished,
    Failed(Error),
}

type BatchResult<D> = (Arc<Pair<D>>, Vec<(OsString, Result<Outcome>)>);
type TreeFeed<D> = Feed<Batch<D>, BatchResult<D>, Event<D>>;

/// Copies everything on `source`'s file system, on which nothing else is seen mounted, or what is
/// selected of it, into `target`, and writes the manifest to `manifest`. `target` is an empty root, or
/// an older copy whose manifest is `old`.
///
/// # Errors
/// The first failure in walk order: an object that could not be copied whole, with all its
/// attributes, is a failure. The copy is then unfinished.
pub fn copy<D: Dir, W: Write>(
    source: D,
    target: D,
    options: &Options,
    selection: Option<Selection<'_>>,
    old: Option<Beside<'_>>,
    monitor: &Monitor,
    manifest: W,
) -> Result<Done<W>> {
    let over = old.is_some();
    let root = if over {
        Pair::over(source, target).doing_to("reading the copy of", "/")?
    } else {
        Pair { source, target, passes_on: false }
    };
    let root = Arc::new(root);
    let workers = options.workers.max(1);
    let writer = Writer::new(manifest).doing("writing the manifest")?;
    let mut finisher = Finisher::new(Arc::clone(&root), options, over, monitor, writer);
    pool::run(
        workers,
        |feed: &TreeFeed<D>| walk::walk(feed, &root, options, selection, old, monitor),
        // One ring more than workers: the finisher has its own.
        || Ring::for_workers(workers + 1),
        |ring, batch| object::copy_batch(ring, batch, options.provenance.as_ref(), monitor),
        |item| finisher.take(item),
    )?;
    finisher.finish()
}

/// Of a file that is to get other content: it would keep the one that it has, or have none.
fn not_replaced(path: &Path) -> Error {
    let cause = "it is no longer the regular file that was to be changed";
    Error::new(ErrorKind::Failed, "reading", cause).path(path)
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
pub(super) fn replaced(error: &io::Error) -> bool {
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

/// Whether a file that could not be opened is none. What open(2) says of a device depends on the
/// mount: `EACCES` on Linux where there are to be none (mount(8), `nodev`).
fn is_other<D: Dir>(dir: &D, name: &OsStr, error: &io::Error) -> bool {
    replaced(error) || dir.stat(name).is_ok_and(|meta| meta.kind != Kind::File)
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::symlink;

    use tempfile::TempDir;

    use super::*;
    use crate::sys::FdDir;

    #[test]
    fn what_is_to_be_replaced_is_met_or_the_copy_fails() {
        let source = tempfile::tempdir().unwrap();
        fs::create_dir_all(source.path().join("etc/dir")).unwrap();
        fs::write(source.path().join("etc/fstab"), "old").unwrap();
        symlink("fstab", source.path().join("etc/link")).unwrap();
        symlink("etc", source.path().join("linked")).unwrap();
        let copied = |path: &str, also: Option<&str>| -> Result<TempDir> {
            let target = tempfile::tempdir().unwrap();
            let replace = [(path.as_bytes().to_vec(), b"new".as_slice().into())].into();
            let options = Options { replace, ..Options::default() };
            let [from, to] = [&source, &target].map(|dir| FdDir::open(dir.path()).unwrap());
            let selection = also.map(|also| [also.as_bytes().to_vec()].into());
            let selection = selection.map(|also| Selection::new(None, also)).transpose()?;
            copy(from, to, &options, selection, None, &Monitor::default(), io::sink())?;
            Ok(target)
        };
        let target = copied("etc/fstab", None).unwrap();
        assert_eq!(fs::read(target.path().join("etc/fstab")).unwrap(), b"new");
        for path in ["etc/link", "etc/dir", "etc/none", "linked/fstab", "none/fstab"] {
            let error = copied(path, None).unwrap_err();
            assert_eq!(error.path.as_deref(), Some(Path::new(path)), "{error}");
        }
        // What is not selected is not copied, and need not be met.
        for path in ["etc/fstab", "etc/none/x"] {
            let target = copied(path, Some("linked")).unwrap();
            assert!(!target.path().join("etc").exists());
        }
        assert!(copied("etc/fstab", Some("etc/dir")).is_ok());
        assert!(copied("etc/none", Some("etc/dir")).is_err());
    }
}
