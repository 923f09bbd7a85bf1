//! The two roots: which is which, what belongs to them, and what the copy calls itself.

pub mod arrival;
pub mod config;
pub mod discover;
mod elsewhere;
pub mod flags;
pub mod fstab;
mod future;
pub mod guard;
pub mod half_boot;
pub mod kernel;
pub mod loader;
pub mod media;
pub mod names;
pub mod nextboot;
pub mod notice;
pub mod rc_conf;
pub mod view;

use std::path::PathBuf;

use serde::Serialize;

use crate::device::Id;

/// A part of the system that is copied on its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Part {
    /// `/`, copied to `/altroot`.
    Root,
    /// `/config`, copied to `/altconfig`.
    Config,
}

impl Part {
    /// Where the original is mounted.
    pub fn point(self) -> &'static str {
        match self {
            Self::Root => "/",
            Self::Config => "/config",
        }
    }

    /// Where the copy is mounted.
    pub fn alternate(self) -> &'static str {
        match self {
            Self::Root => "/altroot",
            Self::Config => "/altconfig",
        }
    }
}

/// A source and its copy.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pair {
    /// Which part.
    pub part: Part,
    /// The provider that is copied.
    pub source: Id,
    /// Its file system type, as mounted or as fstab says.
    pub fs: String,
    /// Where it is mounted; `None` where it is not.
    pub mounted: Option<PathBuf>,
    /// The provider that gets the copy.
    pub target: Id,
}

/// One of the two roots.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Slot {
    /// 1 or 2, in the order of the medium.
    pub number: u32,
    /// The provider of its root.
    pub root: Id,
    /// Whether it is mounted on `/`.
    pub running: bool,
    /// Whether it boots next.
    pub active: bool,
}

/// What is known of a slot's content.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum State {
    /// It has a record, and the manifest is the record's.
    Valid,
    /// It holds files and no record: a copy that was not finished, or none of ours.
    Invalid,
    /// A live process is writing it.
    Writing,
    /// It cannot be told.
    Unknown,
    /// There is nothing on it.
    Empty,
}

impl State {
    /// The word for it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Valid => "valid",
            Self::Invalid => "invalid",
            Self::Writing => "writing",
            Self::Unknown => "unknown",
            Self::Empty => "empty",
        }
    }
}

/// Which slots a command shall act on or show.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Choice {
    /// The slot of this number, 1 or 2.
    Number(u32),
    /// The one that is not running.
    Alternate,
}
