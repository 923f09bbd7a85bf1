//! gpart(8): the only one that can write the table of a medium that is in use.
//!
//! GEOM keeps a table in memory from when it tasted it, and each change of it writes all of it: an
//! MBR with its boot code, both copies of a GPT with the protective MBR, a BSD label with boot1 and
//! boot2 (`g_part_mbr_write`, `g_part_gpt_write`, `g_part_bsd_write`).

use std::ffi::OsStr;
use std::fs;
use std::path::Path;

use super::{command, unix};
use crate::error::{Context, Result};
use crate::sys::Rewrite;

const GPART: &str = "/sbin/gpart";

/// Runs gpart(8) for `what` of the medium or slice `holder`. Boot code goes through a file in
/// `run_dir`.
pub(super) fn rewrite(run_dir: &Path, holder: &Path, what: &Rewrite) -> Result<()> {
    // gpart(8) takes the geom's name: for a slice that is the provider's.
    let holder = holder.strip_prefix("/dev").unwrap_or(holder).as_os_str();
    let run = |words: &[&OsStr]| command::run(&[GPART], &[words, &[holder]].concat()).map(drop);
    match what {
        Rewrite::Recover => run(&[OsStr::new("recover")]),
        Rewrite::Table { index, kind } => {
            let index = index.to_string();
            run(&["modify", "-i", &index, "-t", kind].map(OsStr::new))
        }
        Rewrite::BootCode(code) => {
            unix::make_dir(run_dir)?;
            let file = run_dir.join(format!("{}.bootcode", std::process::id()));
            fs::write(&file, code).doing_to("writing", &file)?;
            let done = run(&[OsStr::new("bootcode"), OsStr::new("-b"), file.as_os_str()]);
            fs::remove_file(&file).doing_to("removing", &file)?;
            done
        }
    }
}
