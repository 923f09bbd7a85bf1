//! Making partition tables with sfdisk(8), and telling the kernel with partx(8).

use std::fmt::Write as _;
use std::path::Path;

use super::device;
use crate::error::{Error, Result};
use crate::sys::{command, erase_for};
use crate::table::Scheme;
use crate::table::drawing::{Drawing, Family, Role};

const SFDISK: [&str; 2] = ["/sbin/sfdisk", "/usr/sbin/sfdisk"];
const MKSWAP: [&str; 2] = ["/sbin/mkswap", "/usr/sbin/mkswap"];
const PARTX: [&str; 3] = ["/usr/bin/partx", "/sbin/partx", "/bin/partx"];

/// Puts the table on a medium that nobody uses, whatever was on it.
pub(super) fn partition(medium: &Path, drawing: &Drawing) -> Result<()> {
    let mut claim = device::Claimed::open(medium)?;
    erase_for(&mut claim, drawing)?;
    drop(claim);
    let script = script(drawing).map_err(|e| e.path(medium))?;
    // The kernel is told by partx(8): it may have no reader for such tables of its own.
    let quiet =
        ["--quiet", "--no-reread", "--no-tell-kernel", "--wipe=never", "--wipe-partitions=never"];
    let words: Vec<_> = quiet.iter().map(Path::new).chain([medium]).collect();
    command::run_with(&SFDISK, &words, script.as_bytes()).map_err(|e| e.path(medium))?;
    // What the kernel still has of the old table goes first. There may be nothing of it.
    let tell = |what: &str| command::run(&PARTX, &[Path::new(what), medium]);
    if let Err(e) = tell("--delete") {
        log::debug!("{e}");
    }
    tell("--add").map_err(|e| e.path(medium))?;
    if let Some((_, swap)) = drawing.of(Role::Swap) {
        let name = medium.to_string_lossy();
        let swap = Family::Linux.partition(&name, drawing.scheme, swap.index);
        command::run(&MKSWAP, &[swap])?;
    }
    Ok(())
}

/// Marks what boots. A boot loader is not installed: Linux has many, each with its own installer.
pub(super) fn make_bootable(medium: &Path, drawing: &Drawing) -> Result<()> {
    if drawing.scheme == Scheme::Gpt {
        return Ok(());
    }
    let boots = drawing.boots.to_string();
    let quiet = ["--quiet", "--no-reread", "--no-tell-kernel", "--activate"];
    let words: Vec<_> = quiet.iter().map(Path::new).chain([medium, Path::new(&boots)]).collect();
    command::run(&SFDISK, &words).map(drop).map_err(|e| e.path(medium))
}

/// sfdisk(8)'s input. Its numbers are in sectors of the medium.
fn script(drawing: &Drawing) -> Result<String> {
    let label = if drawing.scheme == Scheme::Gpt { "gpt" } else { "dos" };
    let mut text = format!("label: {label}\nunit: sectors\nsector-size: {}\n", drawing.sector);
    for part in &drawing.parts {
        let kind = match (drawing.scheme, part.role) {
            (_, None) => return Err(Error::refused("Linux makes no BSD labels")),
            // UEFI specification, 5.3.3; systemd's Discoverable Partitions for the other two.
            (Scheme::Gpt, Some(Role::Efi)) => "C12A7328-F81F-11D2-BA4B-00A0C93EC93B",
            (Scheme::Gpt, Some(Role::Swap)) => "0657FD6D-A4AB-43C4-84E5-0933C84B4F4F",
            (Scheme::Gpt, _) => "0FC63DAF-8483-4772-8E79-3D69D8477DE4",
            (_, Some(Role::Swap)) => "82",
            (_, Some(Role::Efi)) => "ef",
            _ => "83",
        };
        let sector = u64::from(drawing.sector);
        // Writing to a String cannot fail.
        let _ = write!(text, "{}: ", part.index);
        let _ =
            write!(text, "start={}, size={}, type={kind}", part.start / sector, part.size / sector);
        if let Some(label) = &part.label {
            let _ = write!(text, ", name=\"{label}\"");
        }
        text.push('\n');
    }
    Ok(text)
}
