//! Files that are there whole or not at all, whenever the power goes.

use std::ffi::OsStr;
use std::io::{self, Read};

use crate::error::{Context, Result, if_there};
use crate::record::DIR;
use crate::sys::tree::{Dir, File};

/// Opens the directory for what is ours in a file system, and makes it where it is missing.
pub(super) fn own_dir<D: Dir>(root: &D) -> Result<D> {
    if let Some(dir) = if_there(root.open_dir(OsStr::new(DIR))).doing_to("opening", DIR)? {
        return Ok(dir);
    }
    // What is copied stays as it was copied, to its time.
    let before = root.meta().doing_to("reading", DIR)?;
    root.make_dir(OsStr::new(DIR)).doing_to("making", DIR)?;
    root.set_mode_and_times(&before).doing_to("setting the times above", DIR)?;
    root.sync().doing_to("flushing", DIR)?;
    root.open_dir(OsStr::new(DIR)).doing_to("opening", DIR)
}

/// Puts a file in place: under a temporary name first. What was there stays until then, and stays
/// where it fails.
pub(super) fn put<D: Dir>(dir: &D, name: &str, content: &[u8]) -> Result<()> {
    put_from(dir, name, &mut &*content)
}

/// The same with content that is read.
pub(super) fn put_from<D: Dir>(dir: &D, name: &str, content: &mut dyn Read) -> Result<()> {
    replace(dir, name, content, &|_| Ok(()))
}

/// The same for a file of the administrator's: it keeps its owner and its mode; a new one can be
/// read by everybody.
pub(super) fn put_as_it_was<D: Dir>(dir: &D, name: &str, content: &[u8]) -> Result<()> {
    let old = if_there(dir.stat(OsStr::new(name))).doing_to("reading", name)?;
    replace(dir, name, &mut &*content, &|file| {
        let mut meta = file.meta()?;
        meta.mode = old.as_ref().map_or(0o644, |old| old.mode);
        if let Some(old) = &old {
            file.set_owner(old.uid, old.gid)?;
        }
        file.set_mode_and_times(&meta)
    })
}

/// `finish` sets what the file is to have besides its content when it comes to its name.
fn replace<D: Dir>(
    dir: &D,
    name: &str,
    content: &mut dyn Read,
    finish: &dyn Fn(&D::File) -> io::Result<()>,
) -> Result<()> {
    let temporary = format!("{name}.new");
    let written = write(dir, &temporary, name, content, finish);
    if written.is_err() {
        // A full file system gets its room back; what remains is overwritten next time.
        let _ = dir.remove_file(OsStr::new(&temporary));
    }
    written
}

fn write<D: Dir>(
    dir: &D,
    temporary: &str,
    name: &str,
    content: &mut dyn Read,
    finish: &dyn Fn(&D::File) -> io::Result<()>,
) -> Result<()> {
    let create = || dir.create_file(OsStr::new(temporary));
    let mut file = match create() {
        // Left by a run that was killed.
        Err(e) if e.kind() == io::ErrorKind::AlreadyExists => {
            dir.remove_file(OsStr::new(temporary)).doing_to("removing", temporary)?;
            create()
        }
        done => done,
    }
    .doing_to("creating", temporary)?;
    io::copy(content, &mut file).doing_to("writing", temporary)?;
    finish(&file).doing_to("setting owner and mode of", temporary)?;
    file.sync().doing_to("flushing", temporary)?;
    drop(file);
    dir.rename(OsStr::new(temporary), OsStr::new(name)).doing_to("renaming", temporary)?;
    dir.sync().doing_to("flushing the directory of", name)
}
