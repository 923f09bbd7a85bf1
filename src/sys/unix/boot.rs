//! Boot flags, written in their places on the medium.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::Path;

use crate::error::{Context, Error, Result};
use crate::table::flags::{self, Change};

/// Makes a change by writes of which each is flushed before the next, so that no loss of power leaves a
/// table that nothing can read. The medium has `size` bytes and sectors of `sector`.
pub(crate) fn write_flags(
    file: &mut File,
    medium: &Path,
    (size, sector): (u64, u32),
    change: &Change,
    flush: impl Fn(&File) -> io::Result<()>,
) -> Result<()> {
    let writes =
        flags::writes(file, size, sector, change).map_err(|e| Error::from(e).path(medium))?;
    for (offset, bytes) in writes {
        let written = file.write_all_at(&bytes, offset).doing_to("writing", medium);
        written.map_err(|e| e.at(offset))?;
        flush(file).doing_to("flushing", medium)?;
    }
    Ok(())
}
