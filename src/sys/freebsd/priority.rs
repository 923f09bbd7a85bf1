//! Whose I/O comes first.

use std::io;

/// Nothing to be done: GEOM serves in the order of asking (gsched(8) is no more). idprio(1), which
/// could keep a thread from running while it holds a lock of the file system, is the administrator's.
#[allow(clippy::unnecessary_wraps)] // on Linux it can fail
pub(in crate::sys) fn idle_io() -> io::Result<()> {
    Ok(())
}
