//! What the box left the factory with: the list of it, and a copy of nothing else.
//!
//! The list is a manifest, of the day when the box was as it left the factory. `snapshot --factory`
//! copies what is on it, and the rescue configuration.

use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::io::{BufRead, BufReader};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};

use serde::Serialize;

use super::lock::{self, Observed};
use super::mounted::{Mounted, drop_cache};
use super::{Session, durable, record};
use crate::copy::follow::follow;
use crate::copy::selection::{Admission, Selection};
use crate::copy::stack::open_below;
use crate::error::{Context, During, Error, Result, if_there};
use crate::record::manifest::{Line, Object, Reader};
use crate::record::{DIR, MANIFEST};
use crate::slot::config::RESCUE;
use crate::slot::view::View;
use crate::slot::{Pair, Part, fstab};
use crate::sys::Os;
use crate::sys::tree::{Dir, Kind};
use crate::table::superblock;

/// Where the list lies, below the root.
const LIST_DIR: &str = "etc/dualroot";
const LIST: &str = "factory.mtree";

/// Changed objects that are named; all are counted.
const NAMED_MAX: usize = 20;

/// What is copied of `pair` with `--factory`, `source` being its root: of `/` what is on the list,
/// the list, the rescue configuration and mount points, of `/config` those alone.
///
/// # Errors
/// There is no list, or it is none.
pub(super) fn selection<'a, D: Dir>(view: &View, pair: &Pair, source: &D) -> Result<Selection<'a>>
where
    D::File: 'a,
{
    let config_apart = view.apart(Part::Config.point()).is_some();
    let mut also = BTreeSet::new();
    for path in rescue(view).into_iter().chain(points(view)) {
        let below = path.strip_prefix(Part::Config.point()).ok();
        let below = below.filter(|below| config_apart && !below.as_os_str().is_empty());
        let part = if below.is_some() { Part::Config } else { Part::Root };
        if part == pair.part {
            let relative = below.unwrap_or_else(|| path.strip_prefix("/").unwrap_or(&path));
            also.insert(relative.as_os_str().as_bytes().to_vec());
            // A link is nothing without what it leads to.
            if let Ok(place) = follow(source, relative) {
                also.insert(place.path.into_os_string().into_vec());
            }
        }
    }
    if pair.part == Part::Config {
        return Selection::new(None, also);
    }
    also.insert(format!("{LIST_DIR}/{LIST}").into_bytes());
    Selection::new(Some(Box::new(open(source)?)), also)
        .map_err(|e| e.during(format!("reading /{LIST_DIR}/{LIST}")))
}

fn open<D: Dir>(root: &D) -> Result<BufReader<D::File>> {
    let dir = open_below(root, Path::new(LIST_DIR));
    let path = format!("/{LIST_DIR}/{LIST}");
    let file = if_there(dir.and_then(|dir| dir.open_file(OsStr::new(LIST))));
    match file.doing_to("opening", &path)? {
        Some(file) => Ok(BufReader::with_capacity(64 << 10, file)),
        None => Err(Error::refused("there is no list of what the box left the factory with")
            .path(path)
            .hint(
                "make it while the box is as it left the factory: dualroot snapshot, then \
                     dualroot factory save",
            )),
    }
}

/// Where file systems are mounted at boot: the copy's fstab has them, too, and rc(8) stops where a
/// mount point is missing.
fn points(view: &View) -> impl Iterator<Item = PathBuf> {
    let at_boot = |entry: &&fstab::Entry| !entry.options.split(',').any(|o| o == "noauto");
    let points = view.fstab.iter().filter(at_boot).map(|e| OsStr::from_bytes(&e.file));
    points.map(PathBuf::from).filter(|point| point.is_absolute())
}

/// Where a rescue configuration may be.
fn rescue(view: &View) -> Vec<PathBuf> {
    match &view.config.factory.rescue {
        Some(path) => vec![PathBuf::from(path)],
        None => RESCUE.iter().map(PathBuf::from).collect(),
    }
}

/// What a copy has otherwise than the list.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Changes {
    /// How many objects.
    pub count: u64,
    /// The first of them, relative to the root.
    pub first: Vec<String>,
}

/// Compares the `manifest` of a copy that was made with the list on `source`. Times do not count,
/// nor does the content of files that a copy has rewritten, or another copy before it.
///
/// # Errors
/// One of the two cannot be read.
pub(super) fn changes<D: Dir>(
    source: &D,
    manifest: impl BufRead,
    rewritten: &BTreeSet<Vec<u8>>,
) -> Result<Changes> {
    let mut list = Selection::new(Some(Box::new(open(source)?)), BTreeSet::new())?;
    let mut manifest = Reader::new(manifest);
    let mut changes = Changes::default();
    let mut path = PathBuf::new();
    let mut root = true;
    while let Some(line) = manifest.next_line().doing_to("reading", MANIFEST)? {
        match line {
            Line::Object(..) if root => root = false,
            Line::Object(name, copied) => {
                let here = path.join(&name);
                if let Some(Admission::Listed(listed)) = list.admits(&name)? {
                    let content = !rewritten.contains(here.as_os_str().as_bytes());
                    if differs(&listed, &copied, content) {
                        changes.count += 1;
                        if changes.first.len() < NAMED_MAX {
                            changes.first.push(here.to_string_lossy().into_owned());
                        }
                    }
                }
                if copied.kind == Kind::Dir {
                    list.enter(&name);
                    path = here;
                }
            }
            // Left out of copies, so that no list has anything there.
            Line::Ignored(name, Kind::Dir) => list.enter(&name),
            Line::Ignored(..) => {}
            Line::Leave => {
                list.leave()?;
                path.pop();
            }
        }
    }
    Ok(changes)
}

fn differs(listed: &Object, copied: &Object, content: bool) -> bool {
    let about = |o: &Object| (o.kind, o.mode, o.uid, o.gid, o.flags, o.device, o.xattrs);
    let inside = |o: &Object| (o.size, o.link.clone(), o.sums.as_ref().map(|sums| sums.whole));
    about(listed) != about(copied) || content && inside(listed) != inside(copied)
}

/// What `factory save` did.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Report {
    /// Version of this shape.
    pub schema: u32,
    /// The list.
    pub file: String,
    /// What is on it.
    pub objects: u64,
    /// The device whose manifest it is.
    pub device: String,
}

/// Keeps the manifest of the alternate slot, which must be valid, as the list: the box was as it
/// left the factory when that snapshot was made.
///
/// # Errors
/// Refused: the slot is not valid, or holds a copy made with `--factory` (what is not on a list
/// cannot come onto it), or the root is mounted read-only, or there is a list.
pub fn save<O: Os>(os: &O, session: &Session) -> Result<Report> {
    let Observed { locks: _locks, view, layout, .. } =
        lock::observed(os, session, "factory save", true, |_, _| Ok(()))?;
    let directory = view.root.join(LIST_DIR);
    if view.mount_at(&view.root).is_some_and(|m| m.read_only) {
        return Err(Error::refused("the root is mounted read-only").path(directory));
    }
    if let Some(mount) = view.covering(&directory) {
        let cause = format!(
            "{} is mounted on {}: the list would not be the root's",
            mount.fs,
            mount.point.display()
        );
        return Err(Error::refused(cause).path(directory));
    }
    let pair = layout.root();
    let (device, node) = (view.devices.get(pair.target).path(), view.node(pair.target));
    let refuse = |why: String| {
        Err(Error::refused(format!("{node}: {why}"))
            .hint("dualroot snapshot makes a copy whose manifest is whole"))
    };
    let Some(superblock) = view.superblocks.get(&pair.target) else {
        return refuse(superblock::NONE.to_owned());
    };
    drop_cache(os, &device)?;
    let mounted = Mounted::private(os, &device, superblock.fs.name(), "factory")?;
    let root = mounted.open()?;
    let found = record::read(&root);
    let record = match found.record {
        None => return refuse(format!("it is {}", found.state.name())),
        Some(record) if record.factory => {
            return refuse("it was made with --factory".to_owned());
        }
        Some(record) => record,
    };
    // What it tells of is gone: nothing could make it again.
    let list = directory.join(LIST);
    if os.read_file(&list)?.is_some() {
        return Err(Error::refused("the list is there already")
            .path(list)
            .hint("remove it first, where another one is wanted"));
    }
    let mut manifest = root
        .open_dir(OsStr::new(DIR))
        .and_then(|dir| dir.open_file(OsStr::new(MANIFEST)))
        .doing_to("opening", MANIFEST)?;
    drop(root);
    os.make_dir(&directory)?;
    durable::put_from(&os.open_dir(&directory)?, LIST, &mut manifest)
        .during(format!("keeping the list of {node}"))?;
    drop(manifest);
    mounted.unmount()?;
    let (file, objects) = (list.to_string_lossy().into_owned(), record.objects);
    Ok(Report { schema: 1, file, objects, device: node })
}
