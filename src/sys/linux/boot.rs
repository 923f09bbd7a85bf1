//! Boot flags. The bytes are written in their places: sfdisk(8) would make the whole table anew, and
//! knows neither boot0 nor an order of a GPT's copies that survives a loss of power.

use std::fs::OpenOptions;
use std::io::{Seek, SeekFrom};
use std::os::fd::AsRawFd;
use std::os::unix::fs::FileExt;
use std::path::Path;

use nix::libc;

use super::device;
use crate::error::{Context, Error, Result};
use crate::table::flags::{self, Change};

nix::ioctl_read_bad!(blksszget, libc::BLKSSZGET, libc::c_int);

/// Changes the flags, also of a medium that is in use: the kernel does not look at them.
pub(super) fn set_boot(medium: &Path, change: &Change) -> Result<()> {
    device::drop_cache(medium)?;
    let mut file =
        OpenOptions::new().read(true).write(true).open(medium).doing_to("opening", medium)?;
    let mut sector = 0;
    // SAFETY: BLKSSZGET (linux/fs.h) writes one int at the pointer.
    unsafe { blksszget(file.as_raw_fd(), &raw mut sector) }
        .map_err(std::io::Error::from)
        .doing_to("asking the sector size of", medium)?;
    let size = file.seek(SeekFrom::End(0)).doing_to("asking the size of", medium)?;
    let sector = u32::try_from(sector).unwrap_or(0);
    let writes =
        flags::writes(&mut file, size, sector, change).map_err(|e| Error::from(e).path(medium))?;
    for (offset, bytes) in writes {
        let written = file.write_all_at(&bytes, offset).doing_to("writing", medium);
        written.map_err(|e| e.at(offset))?;
        file.sync_all().doing_to("flushing", medium)?;
    }
    Ok(())
}
