//! The files in which a copy must name itself instead of its source.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use nix::libc;

use crate::device::Id;
use crate::error::{Context, Result, if_there};
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

/// New content, by path relative to the root, of the files below `root` (the running root, or a
/// moment of it) that name a device of a pair. Source and target change places: what was `/`
/// becomes the copy, and an entry for `/altroot` leads back to the source, or to the other slot of
/// the copy's own medium. `targets` has the names that the targets have now.
///
/// # Errors
/// One of the files makes no sense, or a name cannot be written into it.
pub fn files<O: Os>(
    os: &O,
    view: &View,
    root: &Path,
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
    let mut files = without_notice(os, root)?;
    let mut add = |path: &str, text: &[u8], new: Vec<u8>| {
        if new != text {
            files.insert(path.as_bytes().to_vec(), Arc::from(new));
        }
    };
    for path in FSTABS {
        let full = root.join(path);
        if let Some(text) = os.read_file(&full)? {
            let new = fstab::rewrite(&text, |entry| match respell(&entry.spec) {
                Some(device) => Change::Device(device),
                None if stays_behind(view, layout, entry) => Change::Comment,
                None => Change::Keep,
            });
            add(path, &text, new.map_err(|e| e.path(&full))?);
        }
    }
    for path in loader_files(os, root)? {
        let full = root.join(&path);
        if let Some(text) = os.read_file(&full)? {
            let new = loader::rewrite(&text, respell);
            add(&path, &text, new.map_err(|e| e.path(&full))?);
        }
    }
    Ok(files)
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

/// The files of motd(5) without the notice of a fall-back: it is the running slot's.
fn without_notice<O: Os>(os: &O, root: &Path) -> Result<BTreeMap<Vec<u8>, Arc<[u8]>>> {
    let mut files = BTreeMap::new();
    for path in notice::FILES {
        if let Some(text) = notice::content(os, &root.join(path))? {
            let new = put(&text, None);
            if new != text {
                files.insert(path.as_bytes().to_vec(), Arc::from(new));
            }
        }
    }
    Ok(files)
}

/// `boot/loader.conf`, `boot/loader.conf.local`, all of `boot/loader.conf.d` and their like.
fn loader_files<O: Os>(os: &O, root: &Path) -> Result<Vec<String>> {
    let mut files = Vec::new();
    for (dir, wanted) in [("boot", "loader.conf"), ("boot/loader.conf.d", "")] {
        let open = match os.open_dir(&root.join(dir)) {
            Err(e) if matches!(e.errno, Some(libc::ENOENT | libc::ENOTDIR)) => continue,
            open => open?,
        };
        let names = open.names().doing_to("listing", dir)?;
        for (name, _) in names.iter() {
            let Some(text) = name.to_str().filter(|n| n.starts_with(wanted)) else { continue };
            let path = format!("{dir}/{text}");
            let meta = if_there(open.stat(name)).doing_to("reading", &path)?;
            if meta.is_some_and(|meta| meta.kind == Kind::File) {
                files.push(path);
            }
        }
    }
    Ok(files)
}
