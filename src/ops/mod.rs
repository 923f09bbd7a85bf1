//! A file or a folder for each verb: observe, plan, execute, report.

mod arrival;
pub mod auto_snapshot;
pub mod boot;
pub mod check;
pub mod clean;
pub mod clear;
mod diagnosis;
mod durable;
pub mod factory;
mod flags;
mod fsck;
pub mod history;
mod journal;
pub mod lock;
pub mod mounted;
mod notice;
pub mod observe;
pub mod partitions;
pub mod record;
pub mod show;
pub mod snapshot;
pub mod sweep;
pub mod table;
mod uncovered;
pub mod verify;

use std::path::PathBuf;

use crate::copy::progress::Monitor;
use crate::error::{Error, Result};
use crate::sys::Os;

/// What all verbs are told by the command line.
#[derive(Debug)]
pub struct Session {
    /// What is taken for `/`.
    pub root: PathBuf,
    /// The configuration file, where the user named one.
    pub config: Option<PathBuf>,
    /// The medium of the alternate slot, where the user named one: a device or one of Junos's words.
    pub media: Option<String>,
    /// Progress and signals.
    pub monitor: Monitor,
}

/// Whether the system lets anybody write to a medium that is in use.
///
/// # Errors
/// Refused, with the system's reason.
fn permitted<O: Os>(os: &O) -> Result<()> {
    os.forbids()?.map_or(Ok(()), |reason| Err(Error::refused(reason)))
}
