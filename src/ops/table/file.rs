//! Where the file of partition tables lies, and how it gets there.

use std::ffi::OsStr;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use crate::device::Id;
use crate::error::{Context, Error, Kind, Result, if_there};
use crate::ops::mounted::{Mounted, open_root};
use crate::ops::{durable, lock};
use crate::record::{DIR, TABLES};
use crate::slot::Part;
use crate::slot::discover::Layout;
use crate::slot::view::View;
use crate::sys::Os;
use crate::sys::tree::Dir;
use crate::table::saved::{FILE_MAX, Saved};

/// Puts the file in place below `root`, durably. What was there stays until then, and stays where
/// it fails.
pub(in super::super) fn put<D: Dir>(root: &D, content: &[u8]) -> Result<()> {
    durable::put(&durable::own_dir(root)?, TABLES, content)
}

/// Where the file is on a device that need not be mounted: a path would lead nowhere.
pub(super) fn on(device: &Path) -> PathBuf {
    PathBuf::from(format!("/{DIR}/{TABLES} on {}", device.display()))
}

/// The file below `root`; `None` where there is none.
fn get<D: Dir>(root: &D) -> io::Result<Option<Vec<u8>>> {
    let Some(dir) = if_there(root.open_dir(OsStr::new(DIR)))? else { return Ok(None) };
    let Some(file) = if_there(dir.open_file(OsStr::new(TABLES)))? else { return Ok(None) };
    let mut content = Vec::new();
    file.take(FILE_MAX + 1).read_to_end(&mut content)?;
    Ok(Some(content))
}

/// That the file is what was written.
pub(in super::super) fn check<D: Dir>(root: &D, content: &[u8]) -> Result<()> {
    if get(root).doing("reading")?.as_deref() == Some(content) {
        return Ok(());
    }
    let cause = "it is not what was written";
    Err(Error::new(Kind::Differs, "reading back", cause).path(format!("{DIR}/{TABLES}")))
}

/// Finds the newest file: on `/config` and on the running root, where it is when that is a copy,
/// else on the alternate slot. With `given`, that one only.
///
/// # Errors
/// There is none, or none that is whole: of `kind`, with all that was looked at.
pub(super) fn locate<O: Os>(
    os: &O,
    view: &View,
    given: Option<&Path>,
    kind: Kind,
) -> Result<(PathBuf, Saved)> {
    let places = match given {
        Some(path) => vec![(path.to_path_buf(), os.read_file(path))],
        None => own(os, view),
    };
    let mut looked = Vec::new();
    let mut found = judge(places, &mut looked);
    if found.is_empty()
        && given.is_none()
        && let Ok(layout) = view.discover()
    {
        let target = layout.root().target;
        let place = on(&view.devices.get(target).path());
        found = judge(vec![(place, on_copy(os, view, target))], &mut looked);
    }
    let newest = newest(found);
    if newest.is_some() {
        looked.iter().filter(|l| !l.ends_with("there is none")).for_each(|l| log::warn!("{l}"));
    }
    newest.ok_or_else(|| {
        let cause = format!("no saved partition tables; looked at: {}", looked.join("; "));
        let error = Error::new(kind, "", cause);
        match given {
            Some(_) => error.hint("without --file the newest that is found is taken"),
            None => error.hint("dualroot table save makes them, and so does a snapshot"),
        }
    })
}

/// The newest file, for a run that has the locks of the copy itself; `None` where there is none that
/// is whole.
///
/// # Errors
/// What was mounted for it stays mounted.
pub(super) fn kept<O: Os>(os: &O, view: &View, layout: &Layout) -> Result<Option<Saved>> {
    let mut looked = Vec::new();
    let mut found = judge(own(os, view), &mut looked);
    if found.is_empty() {
        let target = layout.root().target;
        let place = on(&view.devices.get(target).path());
        found = judge(vec![(place, unlocked(os, view, target)?)], &mut looked);
    }
    Ok(newest(found).map(|(_, saved)| saved))
}

fn newest(found: Vec<(PathBuf, Saved)>) -> Option<(PathBuf, Saved)> {
    found.into_iter().max_by_key(|(_, saved)| saved.created)
}

/// What is on `/config` and on the running root.
fn own<O: Os>(os: &O, view: &View) -> Vec<Place> {
    // Without a mount of its own it is part of the root.
    let points = [view.below(Part::Config.point()), view.root.clone()].into_iter();
    let mounted = points.filter(|point| view.mount_at(point).is_some());
    mounted.map(|point| (point.join(DIR).join(TABLES), at(os, &point))).collect()
}

/// A path, and what was read there.
type Place = (PathBuf, Result<Option<Vec<u8>>>);

/// Those of them that are whole; why the others are not, in `looked`.
fn judge(places: Vec<Place>, looked: &mut Vec<String>) -> Vec<(PathBuf, Saved)> {
    let mut found = Vec::new();
    for (path, content) in places {
        let why = match content.map(|content| content.map(|bytes| Saved::decode(&bytes))) {
            Ok(Some(Ok(saved))) => {
                found.push((path, saved));
                continue;
            }
            Ok(Some(Err(why))) => why,
            Ok(None) => "there is none".to_owned(),
            Err(error) => error.to_string(),
        };
        looked.push(format!("{}: {why}", path.display()));
    }
    found
}

fn at<O: Os>(os: &O, point: &Path) -> Result<Option<Vec<u8>>> {
    read(&os.open_dir(point)?, point)
}

fn read<D: Dir>(root: &D, point: &Path) -> Result<Option<Vec<u8>>> {
    get(root).doing_to("reading", point)
}

/// The file on the copy, which is mounted read-only for it where nobody has.
fn on_copy<O: Os>(os: &O, view: &View, target: Id) -> Result<Option<Vec<u8>>> {
    if let lock::Reading::Taken(_) = &lock::shared(os, view, target)? {
        return Err(Error::new(Kind::Busy, "", "another run is at it"));
    }
    unlocked(os, view, target)?
}

/// What is read there, or why nothing is.
///
/// # Errors
/// What was mounted for it stays mounted.
fn unlocked<O: Os>(os: &O, view: &View, target: Id) -> Result<Result<Option<Vec<u8>>>> {
    if let Some(mount) = view.mounts.iter().find(|m| m.whole && view.provider_of(m) == Some(target))
    {
        return Ok(open_root(os, mount).and_then(|root| read(&root, &mount.point)));
    }
    let Some(superblock) = view.superblocks.get(&target) else { return Ok(Ok(None)) };
    let device = view.devices.get(target).path();
    let mounted = match Mounted::private(os, &device, superblock.fs.name(), "tables") {
        Ok(mounted) => mounted,
        Err(error) => return Ok(Err(error)),
    };
    let content = mounted.open().and_then(|root| read(&root, mounted.point()));
    mounted.unmount()?;
    Ok(content)
}
