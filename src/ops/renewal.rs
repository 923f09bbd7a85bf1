//! Whether a copy that is there can be brought up to date, or is made anew.

use jiff::Timestamp;

use super::mounted::Mounted;
use super::record;
use crate::copy::tree::can_renew;
use crate::device::Id;
use crate::error::{Context, Error, Kind, Result};
use crate::plan::{Since, Way};
use crate::slot::view::View;
use crate::slot::{Pair, State};
use crate::sys::{Format, Os};

use super::preflight::switches;
use super::source::Source;

/// How `pair` is copied: over what is on its target, where that is the whole and valid copy of an
/// earlier run, on a file system such as a new one would be; else into a new one. With `trust` what
/// has not been touched since then is not read.
///
/// # Errors
/// A signal came, or something is in use.
pub(super) fn way<O: Os>(
    os: &O,
    view: &View,
    pair: &Pair,
    source: &Source<'_, O>,
    format: &Format,
    trust: bool,
) -> Result<Way> {
    match older(os, view, pair, source, format) {
        Ok(since) => {
            // A clock that was set back since tells nothing.
            let told = trust && since.verified < Timestamp::now();
            Ok(Way::Refresh(told.then_some(since)))
        }
        Err(e) if matches!(e.kind, Kind::Signal(_) | Kind::Busy) => Err(e),
        Err(e) => {
            log::info!("{} is copied anew: {e}", pair.part.point());
            Ok(Way::Anew)
        }
    }
}

/// When the copy that is there was made, where it can be brought up to date.
fn older<O: Os>(
    os: &O,
    view: &View,
    pair: &Pair,
    source: &Source<'_, O>,
    format: &Format,
) -> Result<Since> {
    same_file_system(view, pair.source, pair.target, format).map_err(Error::refused)?;
    let device = view.devices.get(pair.target).path();
    os.drop_cache(&device)?;
    if let Some(complaint) = os.inspect(&device, format.fs)? {
        return Err(Error::refused(complaint));
    }
    let mounted = Mounted::private(os, &device, format.fs.name(), "renewal")?;
    let root = os.open_dir(mounted.point())?;
    let found = record::read(&root);
    let usage = os.usage(mounted.point())?;
    let renewable = can_renew(&source.dir, &root).doing_to("reading", &device)?;
    drop(root);
    mounted.unmount()?;
    let record = match found.record {
        Some(record) if found.state == State::Valid => record,
        _ => return Err(Error::refused(found.reason.unwrap_or_default())),
    };
    let inodes = usage.used_inodes.saturating_add(usage.free_inodes);
    let bytes = usage.used_bytes.saturating_add(usage.free_bytes);
    let why = if record.factory {
        "it is only of the factory's files"
    } else if record.filesystem != pair.part.point() {
        "it is a copy of something else"
    } else if !renewable {
        "its root directory has attributes that cannot be taken away"
    } else if source.usage.used_bytes > bytes || format.inodes.is_some_and(|n| n > inodes) {
        "it is too small"
    } else {
        return Ok(Since { created: record.created, verified: record.verified });
    };
    Err(Error::refused(why))
}

/// Whether the target has the file system that it would get.
fn same_file_system(
    view: &View,
    source: Id,
    target: Id,
    format: &Format,
) -> std::result::Result<(), &'static str> {
    let Some(there) = view.superblocks.get(&target) else { return Err("there is none") };
    let source = view.superblocks.get(&source);
    if view.mounts.iter().any(|mount| view.provider_of(mount) == Some(target)) {
        Err("what is there is mounted")
    } else if there.fs.name() != format.fs.name() {
        Err("it has another file system")
    } else if !there.clean {
        Err("it was not unmounted")
    } else if there.label != format.label {
        Err("it has another label")
    } else if switches(Some(there)) != format.ufs {
        Err("it has other switches")
    } else if source.is_some_and(|source| source.id == there.id) {
        Err("it has the identity of its source")
    } else {
        Ok(())
    }
}
