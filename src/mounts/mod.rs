//! The mount table as values, and what is stale in it.

pub mod stale;

use std::path::PathBuf;

/// One mounted file system.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mount {
    /// What is mounted, as the system says it: a node, a label's node, or a word (`tmpfs`).
    pub source: String,
    /// The device number of the file system, where the system's table speaks in them (Linux).
    pub number: Option<(u64, u64)>,
    /// Where.
    pub point: PathBuf,
    /// `ufs`, `ext4`, `nullfs`, …
    pub fs: String,
    /// Whether all of the file system is mounted, not only a directory of it (Linux's bind mount).
    pub whole: bool,
    /// Whether it is read-only.
    pub read_only: bool,
    /// The system's own handle on exactly this mount: the fsid on FreeBSD (`f_fsid`, for
    /// `MNT_BYFSID`), the mount id on Linux.
    pub id: [i64; 2],
}
