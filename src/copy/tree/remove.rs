//! Removing what the copy is not to have any more, whatever flags protect it.

use std::ffi::{OsStr, OsString};
use std::io;
use std::path::Path;
use std::sync::Arc;

use nix::errno::Errno;

use super::vanished;
use crate::copy::stack::Stack;
use crate::error::{Context, Result};
use crate::sys::tree::{Dir, Kind, Names};

/// A directory that is being emptied.
struct Emptied {
    name: OsString,
    names: Names,
    next: usize,
}

/// Removes `name`, which `path` is for messages, with everything below. No link is followed; that it
/// is not there is no error.
///
/// # Errors
/// The first object that stays.
pub fn remove<D: Dir>(dir: &D, name: &OsStr, path: &Path) -> Result<()> {
    let mut path = path.to_owned();
    let Some(top) = take(dir, name, &path)? else { return Ok(()) };
    let emptied = |below: &D, name: &OsStr, path: &Path| -> Result<Emptied> {
        let names = below.names().doing_to("listing the copy of", path)?;
        Ok(Emptied { name: name.to_owned(), names, next: 0 })
    };
    let frame = emptied(&top, name, &path)?;
    let mut stack = Stack::new(Arc::new(top), frame).doing_to("reading the copy of", &path)?;
    while let Some((place, frame)) = stack.top() {
        if let Some((name, _)) = frame.names.get(frame.next) {
            frame.next += 1;
            path.push(name);
            let name = name.to_owned();
            match take(&**place, &name, &path)? {
                Some(below) => {
                    let frame = emptied(&below, &name, &path)?;
                    stack.push(Arc::new(below), frame).doing_to("reading the copy of", &path)?;
                }
                None => drop(path.pop()),
            }
            continue;
        }
        let left = stack.pop().doing_to("leaving the copy of", &path)?;
        let Some((place, frame)) = left else { break };
        drop(place);
        let above = stack.top().map_or(dir, |(above, _)| &**above);
        above.remove_dir(&frame.name).doing_to("removing the copy of", &path)?;
        path.pop();
    }
    Ok(())
}

/// Removes an object; a directory is opened instead, ready to be emptied.
fn take<D: Dir>(dir: &D, name: &OsStr, path: &Path) -> Result<Option<D>> {
    let meta = match dir.stat(name) {
        Ok(meta) => meta,
        Err(e) if vanished(&e) => return Ok(None),
        Err(e) => return Err(e).doing_to("reading the copy of", path),
    };
    if meta.kind == Kind::Dir {
        return open_unprotected(dir, name).map(Some).doing_to("opening the copy of", path);
    }
    match dir.remove_file(name) {
        // unlink(2): it is immutable, or must not be unlinked.
        Err(e) if e.raw_os_error() == Some(Errno::EPERM as i32) => dir
            .set_flags_of(name, 0)
            .and_then(|()| dir.remove_file(name))
            .doing_to("removing the copy of", path)?,
        removed => removed.doing_to("removing the copy of", path)?,
    }
    Ok(None)
}

/// Opens a directory and takes away the flags that protect it and what is in it.
pub(super) fn open_unprotected<D: Dir>(dir: &D, name: &OsStr) -> io::Result<D> {
    let below = dir.open_dir(name)?;
    unprotect(&below)?;
    Ok(below)
}

/// Takes away the flags that protect a directory and what is in it.
pub(super) fn unprotect<D: Dir>(dir: &D) -> io::Result<()> {
    if dir.meta()?.flags == 0 { Ok(()) } else { dir.set_flags(0) }
}
