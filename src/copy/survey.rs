//! Whether everything in a tree can be read.

use std::ffi::OsStr;
use std::path::PathBuf;
use std::sync::Arc;

use super::content::{self, Discard};
use super::pool;
use super::progress::{Monitor, interrupted};
use super::stack::Stack;
use super::stream::{Ring, Side};
use crate::error::{Context, Error, Result};
use crate::sys::tree::{Dir, File, Kind, Names};

/// Reads every file of `root`'s file system to its end.
///
/// # Errors
/// The first that cannot be read, with its path; or a signal came.
pub fn read_all<D: Dir>(root: D, monitor: &Monitor) -> Result<()> {
    let root = Arc::new(root);
    let mut ring = Ring::for_workers(pool::cores());
    let mut path = PathBuf::new();
    let device = root.meta().doing_to("reading", "/")?.dev;
    let names = root.names().doing_to("listing", "/")?;
    let mut stack: Stack<D, (Names, usize)> =
        Stack::new(root, (names, 0)).doing_to("reading", "/")?;
    while let Some((dir, (names, next))) = stack.top() {
        let Some((name, _)) = names.get(*next) else {
            stack.pop().doing_to("leaving", &path)?;
            path.pop();
            continue;
        };
        *next += 1;
        let shown = path.join(name);
        let meta = dir.stat(name).doing_to("reading", &shown)?;
        match meta.kind {
            Kind::File => read(&mut ring, &**dir, name, monitor)
                .map_err(|error| Error { path: Some(shown), ..error })?,
            Kind::Symlink => drop(dir.read_link(name).doing_to("reading", &shown)?),
            Kind::Dir if meta.dev == device => {
                let below = dir.open_dir(name).doing_to("opening", &shown)?;
                let names = below.names().doing_to("listing", &shown)?;
                path.push(name);
                stack.push(Arc::new(below), (names, 0)).doing_to("reading", &path)?;
            }
            _ => {}
        }
        monitor.finished(1);
    }
    Ok(())
}

fn read<D: Dir>(ring: &mut Ring, dir: &D, name: &OsStr, monitor: &Monitor) -> Result<()> {
    let mut file = dir.open_file(name).doing_to("opening", name)?;
    let meta = file.meta().doing_to("reading", name)?;
    let tick = |bytes| monitor.passing(bytes);
    match content::pass(&mut file, &mut Discard, &meta, ring, &tick) {
        Ok(_) => Ok(()),
        Err(fault) => Err(match (fault.side, monitor.stopped()) {
            (Side::Stopped, Some(signal)) => interrupted(signal),
            _ => Error::io("reading", &fault.source).at(fault.offset),
        }),
    }
}
