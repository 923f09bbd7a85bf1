//! What the copy calls itself, in the files that its start depends on.

use std::ffi::OsStr;

use crate::finding::Finding;
use crate::ops::snapshot::rewrite::FSTABS;
use crate::record::packages;
use crate::slot::discover::Layout;
use crate::slot::view::View;
use crate::slot::{Pair, fstab, loader};
use crate::sys::tree::Dir;

pub(super) fn names<D: Dir>(view: &View, layout: &Layout, root: &D) -> Vec<Finding> {
    let mut findings = Vec::new();
    let device = view.node(layout.root().target);
    for path in FSTABS {
        let Ok(Some(text)) = packages::read(root, path) else { continue };
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
    for path in loader_files(root) {
        let Ok(Some(text)) = packages::read(root, &path) else { continue };
        let specs = std::cell::RefCell::new(Vec::new());
        let collect = |spec: &[u8]| {
            specs.borrow_mut().push(spec.to_vec());
            None
        };
        // Nothing is replaced, so that nothing can be wrong with it.
        if loader::rewrite(&text, collect).is_ok() {
            let place = format!("{device}: {path}");
            let specs = specs.into_inner();
            findings.extend(specs.iter().filter_map(|s| named(view, layout.root(), s, &place)));
        }
    }
    findings
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

/// The files that loader(8) reads.
fn loader_files<D: Dir>(root: &D) -> Vec<String> {
    let mut files = Vec::new();
    let Ok(boot) = root.open_dir(OsStr::new("boot")) else { return files };
    let list = |dir: &D| -> Vec<String> {
        let names = dir.names().map(|names| {
            names.iter().filter_map(|(name, _)| name.to_str().map(str::to_owned)).collect()
        });
        names.unwrap_or_default()
    };
    let plain = list(&boot).into_iter().filter(|n| n.starts_with("loader.conf"));
    files.extend(plain.filter(|n| n != "loader.conf.d").map(|n| format!("boot/{n}")));
    if let Ok(further) = boot.open_dir(OsStr::new("loader.conf.d")) {
        files.extend(list(&further).into_iter().map(|n| format!("boot/loader.conf.d/{n}")));
    }
    files.sort();
    files
}
