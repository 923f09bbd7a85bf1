//! What the copy calls itself, in the files that its start depends on.

use std::path::{Path, PathBuf};

use crate::copy::follow::{follow, read};
use crate::finding::Finding;
use crate::ops::snapshot::rewrite::{FSTABS, loader_files};
use crate::slot::discover::Layout;
use crate::slot::view::View;
use crate::slot::{Pair, fstab, loader};
use crate::sys::tree::{Dir, Kind};

pub(super) fn names<D: Dir>(view: &View, layout: &Layout, root: &D) -> Vec<Finding> {
    let mut findings = Vec::new();
    let device = view.node(layout.root().target);
    for path in FSTABS {
        let Some(text) = content(root, path.as_ref()) else { continue };
        let place = format!("{device}: {path}");
        let entries = match fstab::parse(&text) {
            Ok(entries) => entries,
            Err(error) => {
                let hint = "make a new copy: dualroot snapshot";
                let what = error.to_string();
                findings.push(Finding::warning("copy-fstab-invalid", place, what, hint));
                continue;
            }
        };
        for pair in &layout.pairs {
            let point = pair.part.point();
            for entry in entries.iter().filter(|e| e.file == point.as_bytes()) {
                findings.extend(named(view, pair, &entry.spec, &place));
            }
        }
    }
    for path in loader_files(root).unwrap_or_default() {
        let Some(text) = content(root, &path) else { continue };
        let specs = std::cell::RefCell::new(Vec::new());
        let collect = |spec: &[u8]| {
            specs.borrow_mut().push(spec.to_vec());
            None
        };
        // Nothing is replaced, so that nothing can be wrong with it.
        if loader::rewrite(&text, collect).is_ok() {
            let place = format!("{device}: {}", path.display());
            let specs = specs.into_inner();
            findings.extend(specs.iter().filter_map(|s| named(view, layout.root(), s, &place)));
        }
    }
    findings
}

/// Where nothing in a root of FreeBSD names the root to mount. The loader takes it from loader.conf or
/// from the entry for `/` in fstab (`getrootmount` in stand/common/boot.c), and knows of no other way
/// with UFS; the kernel then asks at the console. What cannot be read may name one.
pub(super) fn unnamed<D: Dir>(root: &D, place: String) -> Option<Finding> {
    let unnamed_by = |path: &str| {
        let Some(text) = content(root, path.as_ref()) else { return true };
        fstab::parse(&text).is_ok_and(|entries| entries.iter().all(|e| e.file != b"/"))
    };
    let assigns = |path: &PathBuf| {
        content(root, path).is_none_or(|text| loader::last(&text, loader::ROOTS).is_some())
    };
    let files = loader_files(root);
    if !FSTABS.into_iter().all(unnamed_by) || files.map_or(true, |f| f.iter().any(assigns)) {
        return None;
    }
    let what = "neither fstab nor loader.conf names its root: a start of it stops at mountroot>";
    let hint = "give /etc/fstab of the running slot an entry for /, then: dualroot snapshot";
    Some(Finding::warning("root-not-named", place, what, hint))
}

/// A name in the copy that is not the copy's.
fn named(view: &View, pair: &Pair, spec: &[u8], place: &str) -> Option<Finding> {
    let point = pair.part.point();
    let text = String::from_utf8_lossy(spec);
    let hint = "make a new copy: dualroot snapshot";
    match view.find(spec) {
        Some(id) if id == pair.target => None,
        Some(id) => {
            let running = if id == pair.source { ", which is running now" } else { "" };
            let what = format!("it names {text} ({}) for {point}{running}", view.node(id));
            Some(Finding::error("copy-names-another", place, what, hint))
        }
        None => {
            let what = format!("it names {text} for {point}, which is not there");
            Some(Finding::warning("copy-names-nobody", place, what, hint))
        }
    }
}

/// The content of the file that a path leads to. What cannot be read is for `verify` to tell.
fn content<D: Dir>(root: &D, path: &Path) -> Option<Vec<u8>> {
    let place = follow(root, path).ok().filter(|place| place.kind == Some(Kind::File))?;
    read(root, &place.path).ok()
}
