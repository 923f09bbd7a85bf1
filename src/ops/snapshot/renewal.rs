//! Whether a copy that is there can be brought up to date, or is made anew.

use std::result::Result as StdResult;

use jiff::Timestamp;

use super::preflight::switches;
use super::source::Source;
use crate::copy::tree::can_renew;
use crate::device::Id;
use crate::error::{Error, Kind, Result};
use crate::ops::mounted::{Mounted, drop_cache};
use crate::ops::record;
use crate::plan::{Since, Way};
use crate::record::Record;
use crate::slot::view::View;
use crate::slot::{Pair, State};
use crate::sys::{Format, Os};

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
    match older(os, view, pair, source, format)? {
        Ok(record) => {
            let (created, verified) = (record.created, record.verified);
            // A clock that was set back since tells nothing, nor does another source's.
            let told = verified < Timestamp::now() && record.source == view.node(pair.source);
            Ok(Way::Refresh((trust && told).then_some(Since { created, verified })))
        }
        Err(why) => {
            log::info!("{} is copied anew: {why}", pair.part.point());
            Ok(Way::Anew)
        }
    }
}

/// The record of the copy that is there, where that can be brought up to date; else why not. What
/// cannot be looked at cannot; what cannot be unmounted again could not be written either.
fn older<O: Os>(
    os: &O,
    view: &View,
    pair: &Pair,
    source: &Source<'_, O>,
    format: &Format,
) -> Result<StdResult<Record, String>> {
    if let Err(why) = same_file_system(view, pair.source, pair.target, format) {
        return Ok(Err(why.to_owned()));
    }
    let device = view.devices.get(pair.target).path();
    drop_cache(os, &device)?;
    match os.inspect(&device, format.fs) {
        Ok(None) => {}
        Ok(Some(complaint)) => return Ok(Err(complaint)),
        Err(e) if matches!(e.kind, Kind::Signal(_)) => return Err(e),
        Err(e) => return Ok(Err(e.to_string())),
    }
    let mounted = match Mounted::private(os, &device, format.fs.name(), "renewal") {
        Err(e) if !matches!(e.kind, Kind::Signal(_) | Kind::Busy) => return Ok(Err(e.to_string())),
        mounted => mounted?,
    };
    let found = examine(os, &mounted, pair, source, format);
    mounted.unmount()?;
    Ok(found)
}

fn examine<O: Os>(
    os: &O,
    mounted: &Mounted<'_, O>,
    pair: &Pair,
    source: &Source<'_, O>,
    format: &Format,
) -> StdResult<Record, String> {
    let told = |e: Error| e.to_string();
    let root = mounted.open().map_err(told)?;
    let found = record::read(&root);
    let Some(record) = found.record.filter(|_| found.state == State::Valid) else {
        return Err(found.reason.unwrap_or_default());
    };
    let usage = os.usage(mounted.point()).map_err(told)?;
    let inodes = usage.used_inodes.saturating_add(usage.free_inodes);
    let bytes = usage.used_bytes.saturating_add(usage.free_bytes);
    if record.factory {
        Err("it is only of the factory's files".to_owned())
    } else if record.filesystem != pair.part.point() {
        Err("it is a copy of something else".to_owned())
    } else if !can_renew(&source.dir, &root).map_err(|e| e.to_string())? {
        Err("its root directory has attributes that cannot be taken away".to_owned())
    } else if source.usage.used_bytes > bytes || format.inodes.is_some_and(|n| n > inodes) {
        Err("it is too small".to_owned())
    } else {
        Ok(record)
    }
}

/// Whether the target has the file system that it would get.
fn same_file_system(
    view: &View,
    source: Id,
    target: Id,
    format: &Format,
) -> StdResult<(), &'static str> {
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
    } else if format.block.is_some_and(|block| block != there.block) {
        Err("it has blocks of another size")
    } else if source.is_some_and(|source| source.id == there.id) {
        Err("it has the identity of its source")
    } else {
        Ok(())
    }
}
