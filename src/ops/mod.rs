//! One file per verb: observe, plan, execute, report.

mod arrival;
pub mod auto_snapshot;
mod blocks;
pub mod boot;
pub mod check;
pub mod clean;
pub mod clear;
mod copying;
mod diagnosis;
mod direction;
mod draft;
mod durable;
mod erase;
mod execute;
pub mod factory;
mod flags;
mod frozen;
mod fsck;
pub mod health;
pub mod history;
mod journal;
pub mod lock;
pub mod mounted;
mod nextboot;
mod notice;
pub mod observe;
pub mod partitions;
mod preflight;
mod raw;
mod read_back;
pub mod record;
mod renewal;
pub mod repartition;
pub mod rewrite;
mod same_kernel;
pub mod show;
pub mod snapshot;
mod source;
mod starter;
pub mod table;
pub mod verify;

use std::path::PathBuf;

use crate::copy::progress::Monitor;

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
