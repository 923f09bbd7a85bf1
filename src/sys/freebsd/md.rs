//! Memory disks, by mdconfig(8).

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use crate::error::{Error, Kind, Result};
use crate::sys::command;

const PROGRAM: [&str; 1] = ["/sbin/mdconfig"];

/// Makes a disk; `words` end with the option whose value `last` is.
pub(super) fn attach(words: &[&OsStr], last: &OsStr) -> Result<PathBuf> {
    let words: Vec<&OsStr> = [&[OsStr::new("-a")], words, &[last]].concat();
    let output = command::run(&PROGRAM, &words)?;
    let name = String::from_utf8_lossy(&output.stdout).trim().to_owned();
    if !name.starts_with("md") {
        let cause = format!("mdconfig answered \"{name}\"");
        return Err(Error::new(Kind::Failed, "making a memory disk", cause));
    }
    Ok(Path::new("/dev").join(name))
}

/// Removes a disk. Forced, since GEOM may still be tasting it.
pub(super) fn detach(disk: &Path) -> Result<()> {
    let unit = disk.file_name().unwrap_or_default();
    let words = ["-d", "-o", "force", "-u"].map(OsStr::new);
    let words: Vec<&OsStr> = words.into_iter().chain([unit]).collect();
    command::run(&PROGRAM, &words).map(drop).map_err(|e| e.path(disk))
}

/// The disks whose content is in `file`. (`mdconfig -l -f` ends with an error where there is none.)
pub(super) fn backed_by(file: &Path) -> Result<Vec<PathBuf>> {
    Ok(listed(&list()?, |found, _| found == file.as_os_str()))
}

/// The disks of such a label.
pub(super) fn labelled(wanted: impl Fn(&OsStr) -> bool) -> Result<Vec<PathBuf>> {
    Ok(listed(&list()?, |_, label| wanted(label)))
}

fn list() -> Result<Vec<u8>> {
    Ok(command::run(&PROGRAM, &["-l", "-v"])?.stdout)
}

/// `md0 TAB vnode TAB 64M TAB /path TAB label`, a line each: the disks of such a file and label.
fn listed(text: &[u8], wanted: impl Fn(&OsStr, &OsStr) -> bool) -> Vec<PathBuf> {
    let lines = text.split(|b| *b == b'\n');
    lines
        .filter_map(|line| {
            let mut fields = line.split(|b| *b == b'\t').map(OsStr::from_bytes);
            let name = fields.next()?;
            wanted(fields.nth(2)?, fields.next()?).then(|| Path::new("/dev").join(name))
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn disks_are_found_by_their_file_and_by_their_label() {
        let text = b"md0\tvnode\t  64M\t/.snap/12.dualroot\t\nmd1\tswap\t  16M\t-\t7.dualroot\n\
            md2\tvnode\t  64M\t/.snap/1.dualroot\tx\n";
        let of_file = |name: &str| listed(text, |file, _| file == name);
        assert_eq!(of_file("/.snap/1.dualroot"), [Path::new("/dev/md2")]);
        assert!(of_file("/.snap").is_empty());
        assert_eq!(listed(text, |_, label| label == "7.dualroot"), [Path::new("/dev/md1")]);
        assert_eq!(listed(text, |_, label| label.is_empty()), [Path::new("/dev/md0")]);
    }
}
