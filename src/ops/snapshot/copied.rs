//! A copy of a part: what it is made onto, and what is known of it once it is made.

use std::collections::BTreeSet;

use jiff::Timestamp;

use crate::copy::touched::Touched;
use crate::copy::tree::Summary;
use crate::ops::factory::Changes;
use crate::plan::consistency::Consistency;
use crate::plan::{Since, Way};
use crate::record::packages::Software;
use crate::sys::tree::Time;

/// What a copy is made onto.
pub(super) enum Onto {
    /// A new file system.
    New,
    /// The source's own blocks: all that it has, and no copy yet.
    Blocks,
    /// An older copy, which is brought up to date: when it was made, where that is to tell what need
    /// not be read; and the files that are made anew, whatever they seem to be.
    Older(Option<Since>, BTreeSet<Vec<u8>>),
}

impl Onto {
    pub(super) fn way(&self) -> Way {
        match self {
            Self::New => Way::Anew,
            Self::Blocks => Way::Blocks,
            Self::Older(since, _) => Way::Refresh(*since),
        }
    }
}

/// A tree that was copied.
pub(super) struct Made {
    pub(super) summary: Summary,
    /// What of the copy this run wrote, or could not tell to be as it was.
    pub(super) touched: Touched,
    /// Of the manifest.
    pub(super) sha256: String,
    /// The files that name themselves in the copy instead of their source.
    pub(super) rewritten: BTreeSet<Vec<u8>>,
    /// When the older copy lost its record, by the clock of its file system.
    pub(super) revoked: Option<Time>,
}

/// What is known of a part once it is copied.
pub(super) struct Copied {
    pub(super) made: Made,
    pub(super) consistency: Consistency,
    pub(super) software: Software,
    pub(super) created: Timestamp,
    pub(super) verified: Option<Timestamp>,
    pub(super) way: Way,
    pub(super) changes: Option<Changes>,
    pub(super) copy_seconds: f64,
    pub(super) verify_seconds: f64,
}
