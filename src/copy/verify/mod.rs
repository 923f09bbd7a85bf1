//! Comparing a tree with its manifest, everything read again.

mod check;
mod walk;

use std::collections::HashMap;
use std::ffi::OsString;
use std::io::{self, BufRead};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::pool::{self, Feed, Item};
use super::progress::{Monitor, interrupted};
use super::stream::Ring;
use super::touched::Touched;
use crate::error::{Error, Result, describe};
use crate::record::manifest::Object;
use crate::sys::tree::{Dir, Meta, Time};

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
    /// When a file was last changed in any way, where that could be read.
    pub touched: Option<Time>,
}

impl Difference {
    /// Of an object as a whole.
    fn of(path: PathBuf, what: impl Into<String>) -> Self {
        Self { path, offset: None, what: what.into(), touched: None }
    }
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
/// otherwise its offset is that of the block. With `only`, nothing but what it marks is looked at.
///
/// # Errors
/// The manifest cannot be read, or a signal came. What cannot be read in the tree is a difference.
pub fn verify<D: Dir, M: BufRead + Send>(
    root: D,
    manifest: M,
    reference: Option<&D>,
    only: Option<&Touched>,
    workers: usize,
    monitor: &Monitor,
) -> Result<Report> {
    let root = Arc::new(root);
    let mut report = Report::default();
    let mut links: HashMap<u64, Link> = HashMap::new();
    pool::run(
        workers.max(1),
        |feed: &VerifyFeed<D>| walk::walk(feed, &root, manifest, only, monitor),
        || Ring::for_workers(workers),
        |ring, batch| check::check_batch(ring, &batch, reference, monitor),
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
                            let first = Link { ino, nlink, names: 0, path: path.clone() };
                            let link = links.entry(group).or_insert(first);
                            if link.ino == ino {
                                link.names += 1;
                            } else {
                                let what = format!("no hard link to {}", link.path.display());
                                report.add(Difference::of(path, what));
                            }
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
    // Of a file that has several names some may be others' work.
    let counted = |link: &Link| only.is_none() && link.names != link.nlink;
    let mut broken: Vec<_> = links.into_values().filter(counted).collect();
    broken.sort_by(|a, b| a.path.cmp(&b.path));
    for link in broken {
        let what = format!("{} of {} hard links", link.names, link.nlink);
        report.add(Difference::of(link.path, what));
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

fn unreadable(error: &io::Error) -> String {
    format!("unreadable: {}", describe(error))
}

/// In what an object is not what the manifest says, content apart.
fn compare<D: Dir>(expected: &Object, meta: &Meta, xattrs: Option<u32>) -> Vec<&'static str> {
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
    check("extended attributes", xattrs == expected.xattrs);
    different
}
