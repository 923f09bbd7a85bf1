//! `dualroot verify`: read a slot again from the medium, against its manifest.

use std::ffi::OsStr;
use std::io::BufReader;
use std::path::Path;

use serde::Serialize;

use super::diagnosis::is_ours;
use super::lock::{self, Observed};
use super::mounted::{Mounted, drop_cache};
use super::record::{self, Hashing};
use super::{Session, clear, uncovered};
use crate::copy::pool;
use crate::copy::progress::Phase;
use crate::copy::verify::{Report as TreeReport, verify};
use crate::error::{Context, During, Error, Kind, Result};
use crate::record::{DIR, MANIFEST};
use crate::slot::discover::Layout;
use crate::slot::view::View;
use crate::slot::{Choice, Pair};
use crate::sys::Os;
use crate::sys::tree::Dir;
use crate::table::superblock;

/// What a verification found.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Report {
    /// Version of this shape.
    pub schema: u32,
    /// The slot's number.
    pub slot: u32,
    /// The device of its root.
    pub device: String,
    /// Regular files compared, in all file systems of the slot.
    pub files: u64,
    /// Bytes read.
    pub bytes: u64,
    /// Everything that is not as the manifest says.
    pub differences: Vec<Difference>,
    /// All of them, where there are more than are listed.
    pub different: u64,
}

/// One difference.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Difference {
    /// The object, as an absolute path of the system that the slot holds.
    pub path: String,
    /// The first differing byte of its content.
    pub offset: Option<u64>,
    /// What differs.
    pub what: String,
}

/// Verifies the chosen slot, by default the alternate one.
///
/// # Errors
/// The slot has no valid record, or cannot be mounted (exit 3); or it is in use (exit 4). Differences
/// are no error here: they are in the report.
pub fn run<O: Os>(os: &O, session: &Session, choice: Choice) -> Result<Report> {
    let check = |_: &View, layout: &Layout| {
        let slot = layout.pick(choice);
        if slot.running {
            let cause = format!(
                "slot {} is running: it changes while it runs, and its manifest describes the day it was made",
                slot.number
            );
            return Err(Error::refused(cause));
        }
        Ok(())
    };
    let Observed { locks: _locks, view, layout, .. } =
        lock::observed(os, session, "verify", true, check)?;
    let slot = *layout.pick(choice);
    // What is mounted would be read from memory, not from the medium.
    clear::gently(os, &view, &layout.pairs)?;
    let mut report = Report {
        schema: 1,
        slot: slot.number,
        device: view.node(slot.root),
        files: 0,
        bytes: 0,
        differences: Vec::new(),
        different: 0,
    };
    for pair in &layout.pairs {
        let found = verify_pair(os, session, &view, pair).during(format!(
            "verifying {} ({})",
            pair.part.alternate(),
            view.node(pair.target)
        ))?;
        report.files += found.files;
        report.bytes += found.bytes;
        report.different += found.different;
        let base = Path::new(pair.part.point());
        report.differences.extend(found.differences.into_iter().map(|d| Difference {
            path: base.join(&d.path).to_string_lossy().into_owned(),
            offset: d.offset,
            what: d.what,
        }));
    }
    Ok(report)
}

/// What makes a slot valid again.
const COPY: &str = "dualroot snapshot makes a copy";

/// What cannot be mounted has no record that could be read, unless something of the running system
/// is missing.
fn unreadable(error: Error) -> Error {
    if error.kind == Kind::Failed && error.errno.is_some() && !is_ours(&error) {
        error.kind(Kind::Problems).hint(COPY)
    } else {
        error
    }
}

fn verify_pair<O: Os>(os: &O, session: &Session, view: &View, pair: &Pair) -> Result<TreeReport> {
    let device = view.devices.get(pair.target).path();
    let unproven = |why: &str| Error::new(Kind::Problems, "", why).hint(COPY);
    let Some(superblock) = view.superblocks.get(&pair.target) else {
        let fault = view.faults.get(&pair.target).map(String::as_str);
        return Err(unproven(fault.unwrap_or(superblock::NONE)));
    };
    drop_cache(os, &device)?;
    let mounted =
        Mounted::private(os, &device, superblock.fs.name(), "verify").map_err(unreadable)?;
    let root = mounted.open().map_err(unreadable)?;
    let found = record::read(&root);
    let Some(record) = found.record else {
        let why = found.reason.unwrap_or_default();
        return Err(unproven(&format!("it is {}: {why}", found.state.name())));
    };
    session.monitor.begin(Phase {
        name: format!("verifying {}", pair.part.alternate()),
        bytes: record.bytes,
        objects: record.objects,
    });
    let own = root.open_dir(OsStr::new(DIR)).doing_to("opening", DIR)?;
    let manifest = own.open_file(OsStr::new(MANIFEST)).doing_to("opening", MANIFEST)?;
    drop(own);
    let reference =
        pair.mounted.as_ref().map(|point| uncovered::open(os, view, point)).transpose()?;
    let mut manifest = BufReader::with_capacity(64 << 10, Hashing::new(manifest));
    let report =
        verify(root, &mut manifest, reference.as_ref(), None, pool::readers(), &session.monitor)?;
    let (file, sha256) = manifest.into_inner().finish();
    drop(file);
    if sha256 != record.manifest_sha256 {
        return Err(Error::new(Kind::Differs, "reading", "it is not the record's").path(MANIFEST));
    }
    mounted.unmount()?;
    Ok(report)
}
