//! The notice of a fall-back in the files that motd(5) is made of.

use std::ffi::OsStr;
use std::path::Path;

use nix::libc;

use super::durable;
use crate::error::{During, Result};
use crate::slot::notice::put;
use crate::sys::Os;
use crate::sys::tree::{Dir, Kind};

/// FreeBSD makes the third of the first at boot (rc.d/motd), and shows it; elsewhere it is the
/// second. Those that are there as files get the notice: with a read-only root the third one alone.
pub(super) const FILES: [&str; 3] = ["etc/motd.template", "etc/motd", "var/run/motd"];

/// Puts the notice into the files below `root`, or takes it out. Returns whether any has it now. One
/// that cannot be written, as on a read-only root, keeps nobody from what else is to be done.
pub(super) fn show<O: Os>(os: &O, root: &Path, notice: Option<&str>) -> bool {
    let mut shown = false;
    for file in FILES {
        match show_in(os, &root.join(file), notice) {
            Ok(done) => shown |= done,
            Err(e) if e.errno == Some(libc::EROFS) => log::info!("{e}"),
            Err(e) => log::warn!("{e}"),
        }
    }
    shown
}

fn show_in<O: Os>(os: &O, path: &Path, notice: Option<&str>) -> Result<bool> {
    let Some(old) = content(os, path)? else { return Ok(false) };
    let new = put(&old, notice);
    if new != old
        && let (Some(above), Some(name)) = (path.parent(), path.file_name().and_then(OsStr::to_str))
    {
        durable::put_as_it_was(&os.open_dir(above)?, name, &new)
            .during(format!("writing {}", path.display()))?;
    }
    Ok(notice.is_some())
}

/// Whether one of the files has a notice.
///
/// # Errors
/// One of them cannot be read.
pub(super) fn is_up<O: Os>(os: &O, root: &Path) -> Result<bool> {
    for file in FILES {
        if let Some(text) = content(os, &root.join(file))?
            && put(&text, None) != text
        {
            return Ok(true);
        }
    }
    Ok(false)
}

/// The content of a file. A link is not followed: it leads to another of them, or out of the tree.
pub(super) fn content<O: Os>(os: &O, path: &Path) -> Result<Option<Vec<u8>>> {
    let (Some(above), Some(name)) = (path.parent(), path.file_name()) else { return Ok(None) };
    let Ok(dir) = os.open_dir(above) else { return Ok(None) };
    match dir.stat(name) {
        Ok(meta) if meta.kind == Kind::File => os.read_file(path),
        _ => Ok(None),
    }
}
