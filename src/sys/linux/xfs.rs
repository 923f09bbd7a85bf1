//! Making XFS file systems with mkfs.xfs(8).

use std::ffi::OsString;
use std::path::Path;

use crate::error::{Error, Kind, Result};
use crate::sys::{Format, command};
use crate::table::superblock::{FileSystem, Superblock};

const MKFS: [&str; 2] = ["/sbin/mkfs.xfs", "/usr/sbin/mkfs.xfs"];

/// Makes an empty one.
pub(super) fn format(device: &Path, format: &Format) -> Result<()> {
    mkfs(device, format, "-q").map(drop)
}

/// What an empty one offers. Nothing is written to `file`, which may be where there is no room for
/// the log.
pub(super) fn rehearse(file: &Path, format: &Format) -> Result<Superblock> {
    let text = mkfs(file, format, "-N")?;
    planned(&text).ok_or_else(|| {
        Error::new(Kind::Failed, "running mkfs.xfs -N", format!("its words are new: {text}"))
    })
}

fn mkfs(device: &Path, format: &Format, how: &str) -> Result<String> {
    let mut args: Vec<OsString> = Vec::new();
    let mut add = |words: &[&str]| args.extend(words.iter().map(OsString::from));
    add(&[how, "-f", "-K", "-s", &format!("size={}", format.sector)]);
    if let Some(block) = format.block {
        add(&["-b", &format!("size={block}")]);
    }
    if let Some(id) = &format.id {
        add(&["-m", &format!("uuid={id}")]);
    }
    if let Some(label) = &format.label {
        add(&["-L", label]);
    }
    args.push(device.into());
    let output = command::run_stoppable(&MKFS, &args)?;
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// Reads what `-N` prints: lines of `SECTION=NAME KEY=VALUE ...`, whose section is that of the line
/// above where they name none. Of every group's blocks its headers, of a sector each (superblock, AGF,
/// AGI, AGFL), and the roots of its B+trees (two of free space, one of inodes, and one for each feature
/// that has a tree) are taken, and in one group the first 64 inodes.
fn planned(text: &str) -> Option<Superblock> {
    let value = |wanted: &str, key: &str| {
        let mut section = "";
        text.lines().filter_map(|line| line.split_once('=')).find_map(|(head, rest)| {
            if !head.trim().is_empty() {
                section = head.trim();
            }
            let words = || rest.split([' ', ',']).filter_map(|word| word.split_once('='));
            let found = words().find(|(k, _)| section == wanted && *k == key);
            found.and_then(|(_, value)| value.parse::<u64>().ok())
        })
    };
    let of_group = |key| value("meta-data", key);
    let (block, blocks) = (value("data", "bsize")?.max(1), value("data", "blocks")?);
    let (inode, sector, groups) = (of_group("isize")?, of_group("sectsz")?, of_group("agcount")?);
    let trees = ["finobt", "rmapbt", "reflink"].map(|key| of_group(key).unwrap_or(0));
    let group = (4 * sector).div_ceil(block) + 3 + trees.iter().sum::<u64>();
    let taken = [value("log", "blocks")?, groups * group, (64 * inode).div_ceil(block)];
    let block = u32::try_from(block).ok()?;
    Some(Superblock {
        fs: FileSystem::Xfs,
        label: None,
        id: String::new(),
        block,
        whole_block: block,
        free_blocks: blocks.saturating_sub(taken.iter().sum()),
        free_inodes: u64::MAX,
        inode: u32::try_from(inode).ok()?,
        clean: true,
        flags: 0,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sys::{FsType, UfsSwitches, rehearsed, unix};
    use crate::table::superblock::WINDOW;

    /// What it plans is what it makes.
    #[test]
    fn a_plan_is_what_is_made() {
        if !MKFS.iter().any(|program| Path::new(program).exists()) {
            return println!("skipped: no mkfs.xfs");
        }
        let file = tempfile::NamedTempFile::new().unwrap();
        for (size, block, sector) in
            [(400, None, 512), (640, Some(1024), 512), (400, Some(4096), 4096), (9000, None, 512)]
        {
            file.as_file().set_len(0).unwrap();
            file.as_file().set_len(size << 20).unwrap();
            let (fs, ufs) = (FsType::Xfs, UfsSwitches::default());
            let wanted = Format { fs, label: None, id: None, inodes: None, block, sector, ufs };
            let planned = rehearse(file.path(), &wanted).unwrap();
            let head = unix::read_device(file.path(), 0, WINDOW).unwrap();
            assert!(head.iter().all(|byte| *byte == 0), "it was written");
            format(file.path(), &wanted).unwrap();
            let made = rehearsed(&unix::read_device(file.path(), 0, WINDOW).unwrap()).unwrap();
            assert_eq!(planned, Superblock { id: String::new(), ..made });
        }
    }

    #[test]
    fn other_words_are_no_plan() {
        assert_eq!(planned(""), None);
        assert_eq!(planned("data = bsize=4096 blocks=100, imaxpct=25\n"), None);
    }
}
