//! A file with new content, durably: there is the old one or the whole new one, whatever happens.

use std::ffi::{OsStr, OsString};
use std::io::{self, Read};

use crate::error::{Context, Result};
use crate::sys::tree::{Dir, File};

/// Gives the file `name` of `dir` this content, under a temporary name first. Where that fails the
/// old file stays.
///
/// # Errors
/// The content cannot be read, or the file system does not take it.
pub(super) fn replace<D: Dir>(dir: &D, name: &str, content: &mut dyn Read) -> Result<()> {
    let mut new = OsString::from(name);
    new.push(".new");
    let written = write(dir, name, &new, content);
    if written.is_err() {
        // A full file system gets its room back; what remains is overwritten next time.
        let _ = dir.remove_file(&new);
    }
    written
}

fn write<D: Dir>(dir: &D, name: &str, new: &OsStr, content: &mut dyn Read) -> Result<()> {
    match dir.remove_file(new) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => Err(e).doing_to("removing", new)?,
        _ => {}
    }
    let mut file = dir.create_file(new).doing_to("creating", new)?;
    io::copy(content, &mut file).doing_to("writing", new)?;
    file.sync().doing_to("flushing", new)?;
    drop(file);
    dir.rename(new, OsStr::new(name)).doing_to("renaming", new)?;
    dir.sync().doing_to("flushing the directory of", name)
}
