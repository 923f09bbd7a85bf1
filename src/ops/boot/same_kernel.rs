//! Whether two roots have the same kernel and the same modules, byte for byte.

use std::ffi::OsStr;
use std::io::Read;
use std::path::{Path, PathBuf};

use crate::copy::progress::{Monitor, interrupted};
use crate::error::{Context, Result};
use crate::record::packages::{descend, read};
use crate::slot::loader;
use crate::sys::tree::{Dir, File, Kind};

/// Modules that are loaded later come from there, too (`kern.module_path`).
const MODULES: &str = "boot/modules";
/// kldxref(8) makes it anew from the modules beside it.
const INDEX: &str = "linker.hints";
/// What the loader reads, in its order.
const FILES: [&str; 4] =
    ["defaults/loader.conf", "device.hints", "loader.conf", "loader.conf.local"];
const FURTHER: &str = "boot/loader.conf.d";
const CHUNK: usize = 256 << 10;

/// The value that loader.conf(5) gives a variable: the last one counts.
pub(super) fn variable<D: Dir>(root: &D, name: &str) -> Result<Option<Vec<u8>>> {
    let mut files: Vec<String> = FILES.map(|file| format!("boot/{file}")).into();
    if let Some(dir) = descend(root, FURTHER)? {
        let names = dir.names().doing_to("listing", FURTHER)?;
        let names =
            names.iter().filter(|(name, _)| Path::new(name).extension() == Some("conf".as_ref()));
        files.extend(names.filter_map(|(name, _)| Some(format!("{FURTHER}/{}", name.to_str()?))));
    }
    let mut found = None;
    for file in files {
        found = read(root, &file)?.and_then(|text| loader::last(&text, name)).or(found);
    }
    Ok(found)
}

/// What of kernel and modules differs first, in words; `None` where nothing does.
///
/// # Errors
/// One of them cannot be read, or a signal came.
pub(super) fn difference<D: Dir>(
    running: &D,
    other: &D,
    monitor: &Monitor,
) -> Result<Option<String>> {
    let kernel = |root: &D| -> Result<String> {
        let name = variable(root, "kernel")?.unwrap_or_else(|| b"kernel".to_vec());
        Ok(String::from_utf8_lossy(&name).into_owned())
    };
    let (own, theirs) = (kernel(running)?, kernel(other)?);
    if own != theirs {
        return Ok(Some(format!("loader.conf takes kernel {own} here and {theirs} there")));
    }
    // An absolute path would be another slot's, or another device's.
    let dir = format!("boot/{own}");
    let whole = own.split('/').all(|part| ![".", "..", ""].contains(&part));
    for (dir, needed) in [(dir.as_str(), true), (MODULES, false)] {
        let both =
            if whole { (descend(running, dir)?, descend(other, dir)?) } else { (None, None) };
        match both {
            (None, None) if needed => return Ok(Some(format!("/{dir} is no directory"))),
            (None, None) => {}
            (Some(one), Some(two)) => {
                if let Some(path) = compare(one, two, Path::new(dir), monitor)? {
                    return Ok(Some(format!("/{} differs", path.display())));
                }
            }
            _ => return Ok(Some(format!("only one of the slots has /{dir}"))),
        }
    }
    Ok(None)
}

/// The first path at which two trees differ.
fn compare<D: Dir>(one: D, two: D, path: &Path, monitor: &Monitor) -> Result<Option<PathBuf>> {
    let mut todo = vec![(one, two, path.to_path_buf())];
    while let Some((one, two, path)) = todo.pop() {
        let (names, others) =
            (one.names().doing_to("listing", &path)?, two.names().doing_to("listing", &path)?);
        let mut left = names.iter().map(|(name, _)| name).filter(|name| *name != INDEX);
        let mut right = others.iter().map(|(name, _)| name).filter(|name| *name != INDEX);
        loop {
            let name = match (left.next(), right.next()) {
                (None, None) => break,
                (Some(a), Some(b)) if a == b => a,
                (a, b) => return Ok([a, b].into_iter().flatten().min().map(|n| path.join(n))),
            };
            let at = path.join(name);
            let (a, b) = (
                one.stat(name).doing_to("reading", &at)?,
                two.stat(name).doing_to("reading", &at)?,
            );
            let same = match (a.kind, b.kind) {
                (Kind::Dir, Kind::Dir) => {
                    let open = |dir: &D| dir.open_dir(name).doing_to("opening", &at);
                    todo.push((open(&one)?, open(&two)?, at.clone()));
                    true
                }
                (Kind::File, Kind::File) => {
                    a.size == b.size && equal(&one, &two, name, &at, monitor)?
                }
                (Kind::Symlink, Kind::Symlink) => {
                    let target = |dir: &D| dir.read_link(name).doing_to("reading", &at);
                    target(&one)? == target(&two)?
                }
                (a, b) => a == b,
            };
            if !same {
                return Ok(Some(at));
            }
        }
    }
    Ok(None)
}

fn equal<D: Dir>(one: &D, two: &D, name: &OsStr, at: &Path, monitor: &Monitor) -> Result<bool> {
    let open = |dir: &D| dir.open_file(name).doing_to("opening", at);
    let (mut one, mut two) = (open(one)?, open(two)?);
    one.will_read_once();
    two.will_read_once();
    let (mut left, mut right) = (Vec::with_capacity(CHUNK), Vec::with_capacity(CHUNK));
    loop {
        if let Some(signal) = monitor.stopped() {
            return Err(interrupted(signal));
        }
        left.clear();
        right.clear();
        fill(&mut one, &mut left).doing_to("reading", at)?;
        fill(&mut two, &mut right).doing_to("reading", at)?;
        if left != right || left.is_empty() {
            return Ok(left == right);
        }
    }
}

fn fill<F: File>(file: &mut F, buffer: &mut Vec<u8>) -> std::io::Result<usize> {
    Read::by_ref(file).take(CHUNK as u64).read_to_end(buffer)
}
