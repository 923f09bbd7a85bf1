//! The files in which a copy must name itself instead of its source.

use std::collections::BTreeMap;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::copy::follow::{follow, read};
use crate::copy::stack::open_below;
use crate::device::Id;
use crate::error::{Context, Error, Result};
use crate::ops::notice;
use crate::slot::discover::Layout;
use crate::slot::fstab::{self, Change};
use crate::slot::loader;
use crate::slot::names::Names;
use crate::slot::notice::put;
use crate::slot::view::View;
use crate::sys::Os;
use crate::sys::tree::{Dir, Kind};

/// The fstab of the root, and the one that NanoBSD's `/etc` is made from.
pub(in super::super) const FSTABS: [&str; 2] = ["etc/fstab", "conf/base/etc/fstab"];

/// New content, by path relative to the root and without symbolic links, of the files below `root`
/// (the running root, or a moment of it) that name a device of a pair. Source and target change
/// places: what was `/` becomes the copy, and an entry for `/altroot` leads back to the source, or to
/// the other slot of the copy's own medium. `targets` has the names that the targets have now.
///
/// # Errors
/// One of the files makes no sense, or a name cannot be written into it. Refused: one that names a
/// device of a pair is on another file system, where a symbolic link leads to, and is not copied.
pub fn files<O: Os>(
    os: &O,
    view: &View,
    root: &O::Dir,
    layout: &Layout,
    targets: &BTreeMap<Id, Names>,
) -> Result<BTreeMap<Vec<u8>, Arc<[u8]>>> {
    let mut swapped = BTreeMap::new();
    // What its names will be where it is to be used.
    let there = |id: Id, names: Names| match (view.devices.medium(id), view.running_medium()) {
        (Some(now), Some(then)) if layout.purpose.as_primary => {
            names.moved(&view.devices.get(now).name, &view.devices.get(then).name)
        }
        _ => names,
    };
    for pair in layout.pairs.iter().chain(&layout.others) {
        let target = targets.get(&pair.target).cloned().unwrap_or_else(|| view.names(pair.target));
        swapped.insert(pair.source, there(pair.target, target));
        swapped.insert(pair.target, view.names(pair.source));
    }
    // What the copy's medium has of its own is what the copy uses.
    for own in &layout.own {
        if let Some(source) = own.source {
            let names = || there(own.target, view.names(own.target));
            swapped.entry(source).or_insert_with(names);
        }
    }
    let respell = |spec: &[u8]| {
        // By the names of the pairs first: a clone of the medium may bear the same ones.
        let named = swapped.keys().copied().find(|&id| view.names(id).is(spec));
        let id = named.or_else(|| view.find(spec))?;
        Some(swapped.get(&id)?.spell_like(spec))
    };
    let mut files = BTreeMap::new();
    let mut add = |path: &Path, found: Found, new: Vec<u8>| match found {
        Found::Here(_, text) | Found::Elsewhere(_, text) if new == text => Ok(()),
        Found::Here(key, _) => {
            files.insert(key.as_os_str().as_bytes().to_vec(), Arc::from(new));
            Ok(())
        }
        Found::Elsewhere(to, _) => {
            let to = to.display();
            let cause = format!("it leads to /{to}, on another file system, and names this slot");
            let hint = "keep that file on the root, where each slot has its own";
            Err(Error::refused(cause).path(Path::new("/").join(path)).hint(hint))
        }
    };
    for path in notice::FILES.map(Path::new) {
        // The notice of a fall-back is the running slot's. Where it lies elsewhere, it is not copied.
        if let Some(found @ Found::Here(..)) = find(os, view, root, path)? {
            let new = put(found.text(), None);
            add(path, found, new)?;
        }
    }
    for path in FSTABS.map(Path::new) {
        if let Some(found) = find(os, view, root, path)? {
            let new = fstab::rewrite(found.text(), |entry| match respell(&entry.spec) {
                Some(device) => Change::Device(device),
                None if stays_behind(view, layout, entry) => Change::Comment,
                None => Change::Keep,
            });
            add(path, found, new.map_err(|e| e.path(view.root.join(path)))?)?;
        }
    }
    for path in loader_files(root)? {
        if let Some(found) = find(os, view, root, &path)? {
            let new = loader::rewrite(found.text(), respell);
            add(&path, found, new.map_err(|e| e.path(view.root.join(&path)))?)?;
        }
    }
    Ok(files)
}

/// A file that there is, and its content.
enum Found {
    /// On the file system that is copied, at this path without symbolic links.
    Here(PathBuf, Vec<u8>),
    /// Where a symbolic link leads out of it.
    Elsewhere(PathBuf, Vec<u8>),
}

impl Found {
    fn text(&self) -> &[u8] {
        let (Self::Here(_, text) | Self::Elsewhere(_, text)) = self;
        text
    }
}

/// The regular file that a path leads to.
fn find<O: Os>(os: &O, view: &View, root: &O::Dir, path: &Path) -> Result<Option<Found>> {
    let place = follow(root, path).doing_to("following", path)?;
    match place.kind {
        Some(Kind::File) => {
            let text = read(root, &place.path).doing_to("reading", path)?;
            Ok(Some(Found::Here(place.path, text)))
        }
        None if place.linked => {
            let text = os.read_file(&view.root.join(&place.path))?;
            Ok(text.map(|text| Found::Elsewhere(place.path, text)))
        }
        _ => Ok(None),
    }
}

/// Whether an entry of fstab names a partition of the running medium of which another one, that the
/// copy lies on, has no counterpart: without the running medium a system would not come up past it.
pub(super) fn stays_behind(view: &View, layout: &Layout, entry: &fstab::Entry) -> bool {
    let Some(id) = view.find(&entry.spec).filter(|_| view.elsewhere().is_some()) else {
        return false;
    };
    let pairs = layout.pairs.iter().chain(&layout.others).map(|pair| pair.source);
    let own = layout.own.iter().filter_map(|own| own.source);
    let mut kept = pairs.chain(own).chain(layout.shared_config);
    view.devices.medium(id) == view.running_medium() && !kept.any(|kept| kept == id)
}

/// `boot/loader.conf`, `boot/loader.conf.local`, all of `boot/loader.conf.d` and their like.
pub(in super::super) fn loader_files<D: Dir>(root: &D) -> Result<Vec<PathBuf>> {
    let mut files = Vec::new();
    for (dir, wanted) in [("boot", "loader.conf"), ("boot/loader.conf.d", "")] {
        let dir = follow(root, dir.as_ref()).doing_to("following", dir)?;
        if dir.kind != Some(Kind::Dir) {
            continue;
        }
        let names = open_below(root, &dir.path).and_then(|dir| dir.names());
        let names = names.doing_to("listing", &dir.path)?;
        let wanted =
            names.iter().filter(|(name, _)| name.as_bytes().starts_with(wanted.as_bytes()));
        files.extend(wanted.map(|(name, _)| dir.path.join(name)));
    }
    Ok(files)
}
