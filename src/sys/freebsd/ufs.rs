//! Making UFS2 file systems with newfs(8) and tunefs(8).

use std::ffi::OsStr;
use std::fs::File;
use std::path::{Path, PathBuf};

use super::{device, md};
use crate::error::{Context, Error, Result};
use crate::sys::{Format, FsType, command, rehearsed, unix};
use crate::table::superblock::{Superblock, WINDOW};

/// newfs(8)'s fragment: there cannot be more than one inode for each.
const FRAGMENT: u64 = 4096;

/// newfs(8)'s own choice: an inode for every two fragments.
const USUAL_DENSITY: u64 = 2 * FRAGMENT;

/// Inodes that a new file system uses itself: 0 to 2, `.snap`, the journal, and some to spare.
const OWN_INODES: u64 = 16;

/// A page, in which swap-backed memory disks are counted on every platform.
const PAGE: u64 = 4096;

/// The last part of a rehearsal's label (mdconfig(8) -L); the first is the process id of the run.
const WORD: &str = "dualroot";

/// A memory disk, md(4), that goes away with its handle. Only what is written to takes memory.
struct MemoryDisk(PathBuf);

impl MemoryDisk {
    fn new(size: u64) -> Result<Self> {
        let label = format!("{}.{WORD}", std::process::id());
        let size = format!("{}b", size - size % PAGE);
        let words = ["-t", "swap", "-S", "512", "-L", &label, "-s"].map(OsStr::new);
        md::attach(&words, OsStr::new(&size)).map(Self)
    }
}

impl Drop for MemoryDisk {
    fn drop(&mut self) {
        if let Err(e) = md::detach(&self.0) {
            log::warn!("{e}");
        }
    }
}

/// Makes the file system on a memory disk and returns what it offers. (newfs(8) takes a plain file
/// only with a disk label in it.)
pub(super) fn rehearse(wanted: &Format, size: u64) -> Result<Superblock> {
    newfs_words(wanted, size)?;
    let disk = MemoryDisk::new(size)?;
    // Without the label: /dev/ufs would have it twice, and the later one loses its name.
    format(&disk.0, &Format { label: None, ..wanted.clone() })?;
    rehearsed(&unix::read_device(&disk.0, 0, WINDOW)?)
}

/// Removes the disks of rehearsals that were killed, where `gone` says so of their labels.
pub(super) fn sweep_rehearsals(gone: &dyn Fn(&OsStr) -> bool) -> Result<()> {
    let left = md::labelled(|label| {
        Path::new(label).extension() == Some(OsStr::new(WORD)) && gone(label)
    })?;
    left.iter().try_for_each(|disk| md::detach(disk))
}

/// Makes an empty UFS2 with the source's switches.
pub(super) fn format(device: &Path, format: &Format) -> Result<()> {
    let file = File::open(device).doing_to("opening", device)?;
    let size = device::size(&file).doing_to("asking the size of", device)?;
    drop(file);
    let newfs = newfs_words(format, size).map_err(|e| e.path(device))?;
    run("/sbin/newfs", &newfs, device)?;
    let tunefs = tunefs_words(format);
    if tunefs.is_empty() {
        return Ok(());
    }
    run("/sbin/tunefs", &tunefs, device)
}

/// Makes the copy of a UFS2 as large as its device. Identity and label are in its superblocks
/// already.
pub(super) fn adopt(device: &Path, format: &Format, grow: bool) -> Result<()> {
    if format.fs != FsType::Ufs2 {
        let cause = format!("FreeBSD copies no {} by its blocks", format.fs.name());
        return Err(Error::refused(cause).path(device));
    }
    if grow { run("/sbin/growfs", &["-y".to_owned()], device) } else { Ok(()) }
}

fn run(program: &str, words: &[String], device: &Path) -> Result<()> {
    let args: Vec<&OsStr> = words.iter().map(OsStr::new).chain([device.as_os_str()]).collect();
    command::run_stoppable(&[program], &args).map(drop).map_err(|e| e.path(device))
}

fn newfs_words(format: &Format, size: u64) -> Result<Vec<String>> {
    if format.fs != FsType::Ufs2 {
        return Err(Error::refused(format!(
            "FreeBSD cannot make {} file systems",
            format.fs.name()
        )));
    }
    let mut words = vec!["-O".to_owned(), "2".to_owned()];
    let switches = [
        (format.ufs.soft_updates || format.ufs.journal, "-U"),
        (format.ufs.multilabel, "-l"),
        (format.ufs.trim, "-t"),
    ];
    words.extend(switches.iter().filter(|(on, _)| *on).map(|(_, word)| (*word).to_owned()));
    if let Some(label) = &format.label {
        let legal = |b: u8| b.is_ascii_alphanumeric() || b == b'-' || b == b'_';
        if !label.bytes().all(legal) || label.len() > FsType::Ufs2.label_max() {
            return Err(Error::refused(format!("\"{label}\" is no label of a UFS")));
        }
        words.extend(["-L".to_owned(), label.clone()]);
    }
    let wanted = format.inodes.unwrap_or(0).saturating_add(OWN_INODES);
    let density = size / wanted;
    if density < FRAGMENT {
        return Err(Error::refused(format!(
            "{wanted} inodes do not fit on {size} bytes (one for every {FRAGMENT})"
        )));
    }
    // Never fewer than usual. newfs(8) rounds down to whole fragments, so to more inodes.
    if density < USUAL_DENSITY {
        words.extend(["-i".to_owned(), density.to_string()]);
    }
    Ok(words)
}

/// What newfs(8) has no word for, and the journal: `newfs -j` would look for tunefs(8) in `PATH`.
fn tunefs_words(format: &Format) -> Vec<String> {
    let switches =
        [(format.ufs.journal, "-j"), (format.ufs.posix_acls, "-a"), (format.ufs.nfs4_acls, "-N")];
    let on = switches.iter().filter(|(on, _)| *on);
    on.flat_map(|(_, word)| [(*word).to_owned(), "enable".to_owned()]).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::Kind;
    use crate::sys::UfsSwitches;

    const PLAIN: Format = Format {
        fs: FsType::Ufs2,
        label: None,
        id: None,
        inodes: None,
        block: None,
        sector: 512,
        ufs: SWITCHES,
    };
    const SWITCHES: UfsSwitches = UfsSwitches {
        soft_updates: false,
        journal: false,
        posix_acls: false,
        nfs4_acls: false,
        multilabel: false,
        trim: false,
    };

    fn newfs(format: &Format, size: u64) -> String {
        newfs_words(format, size).unwrap().join(" ")
    }

    #[test]
    fn switches_become_words() {
        assert_eq!(newfs(&PLAIN, 1 << 28), "-O 2");
        let ufs = UfsSwitches { journal: true, trim: true, posix_acls: true, ..SWITCHES };
        let full = Format { label: Some("root2".to_owned()), ufs, ..PLAIN };
        assert_eq!(newfs(&full, 1 << 28), "-O 2 -U -t -L root2");
        assert_eq!(tunefs_words(&full).join(" "), "-j enable -a enable");
    }

    #[test]
    fn what_newfs_cannot_make_is_refused() {
        let label = |label: &str| Format { label: Some(label.to_owned()), ..PLAIN };
        let ext4 = Format { fs: FsType::Ext4, ..PLAIN };
        for format in [label("a b"), label(&"a".repeat(32)), ext4] {
            assert_eq!(newfs_words(&format, 1 << 28).unwrap_err().kind, Kind::Refused);
        }
        let longest = "a".repeat(31);
        assert_eq!(newfs(&label(&longest), 1 << 28), format!("-O 2 -L {longest}"));
    }

    #[test]
    fn inodes_are_never_too_few_and_never_fewer_than_usual() {
        let with = |inodes| Format { inodes: Some(inodes), ..PLAIN };
        assert_eq!(newfs(&with(1000), 1 << 28), "-O 2");
        assert_eq!(newfs(&with(40_000), 1 << 28), "-O 2 -i 6708");
        let error = newfs_words(&with(70_000), 1 << 28).unwrap_err();
        assert_eq!(error.kind, Kind::Refused);
        assert!(newfs_words(&with(u64::MAX), 1 << 28).is_err());
    }
}
