//! File systems: recognised, and not any more when they are erased.

use std::io::Read;

use super::{MB, image};
use crate::sys::referee::tool;
use crate::table::superblock::tests::{ufs, wipe, wiped};
use crate::table::superblock::{FileSystem, WINDOW, read, root_inodes, wipe_ranges};

fn window(file: &tempfile::NamedTempFile) -> Vec<u8> {
    let mut bytes = Vec::new();
    file.reopen().unwrap().take(WINDOW as u64).read_to_end(&mut bytes).unwrap();
    bytes
}

#[test]
fn makefs_puts_its_superblock_where_nothing_boots_from() {
    let directory = tempfile::tempdir().unwrap();
    std::fs::create_dir(directory.path().join("tree")).unwrap();
    let image = directory.path().join("image");
    let (image, tree) = (image.to_str().unwrap(), directory.path().join("tree"));
    let options = ["-t", "ffs", "-s", "4m", "-o", "version=2", image, tree.to_str().unwrap()];
    tool("makefs", &options, "");
    let mut bytes = std::fs::read(image).unwrap();
    assert_eq!(read(&bytes), None);
    assert_eq!(wiped(&bytes), [(8192, 16384)]);
    wipe(&mut bytes);
    assert_eq!(wipe_ranges(&bytes), []);
    // Its fields are where they are looked for: moved to 64 KiB, it is found.
    let mut moved = std::fs::read(image).unwrap();
    moved.copy_within(8192..16384, 65536);
    moved[65536 + 1000..65536 + 1008].copy_from_slice(&65536u64.to_le_bytes());
    let found = read(&moved).unwrap();
    assert_eq!((found.fs.name(), found.block, found.label), ("ufs", 1024, None));
    assert!(found.clean && found.free_blocks * 1024 < 4 * MB && found.free_blocks > 3 << 10);
    assert_eq!(wiped(&moved), [(8192, 16384), (65536, 73728)]);
    // The third inode is a directory.
    let inodes = usize::try_from(root_inodes(&moved).unwrap().start).unwrap();
    assert_eq!(
        u16::from_le_bytes([moved[inodes + 2 * 256], moved[inodes + 2 * 256 + 1]]) & 0o170_000,
        0o040_000
    );
}

#[test]
fn ext4_is_read_and_wiped() {
    let file = image(64 * MB);
    let path = file.path().to_str().unwrap();
    let id = "01234567-89ab-cdef-0123-456789abcdef";
    tool("mkfs.ext4", &["-q", "-L", "altroot", "-U", id, "-b", "4096", path], "");
    let mut bytes = window(&file);
    let found = read(&bytes).unwrap();
    assert_eq!((found.fs.name(), found.label.as_deref()), ("ext4", Some("altroot")));
    assert_eq!((found.id.as_str(), found.block, found.clean), (id, 4096, true));
    assert!((5000..16384).contains(&found.free_blocks), "{}", found.free_blocks);
    assert!(found.free_inodes > 1000 && found.flags == 0);
    assert_eq!(wiped(&bytes), [(1024, 2048)]);
    wipe(&mut bytes);
    assert_eq!((read(&bytes), wipe_ranges(&bytes)), (None, Vec::new()));
}

#[test]
fn ext4_in_need_of_its_journal_is_not_clean() {
    let file = image(16 * MB);
    tool("mkfs.ext4", &["-q", file.path().to_str().unwrap()], "");
    let mut bytes = window(&file);
    assert!(read(&bytes).unwrap().clean);
    bytes[1024 + 96] |= 4;
    assert!(!read(&bytes).unwrap().clean);
}

#[test]
fn xfs_is_read_and_wiped() {
    let file = image(512 * MB);
    let path = file.path().to_str().unwrap();
    let id = "uuid=01234567-89ab-cdef-0123-456789abcdef";
    tool("mkfs.xfs", &["-q", "-L", "config", "-m", id, path], "");
    let mut bytes = window(&file);
    let found = read(&bytes).unwrap();
    assert_eq!((found.fs.name(), found.label.as_deref()), ("xfs", Some("config")));
    assert_eq!((found.id.as_str(), found.block, found.clean), (&id[5..], 4096, true));
    assert!((80_000..131_072).contains(&found.free_blocks), "{}", found.free_blocks);
    assert_eq!(found.free_inodes, u64::MAX);
    assert_eq!(wiped(&bytes), [(0, 4096)]);
    wipe(&mut bytes);
    assert_eq!((read(&bytes), wipe_ranges(&bytes)), (None, Vec::new()));
}

#[test]
fn makers_of_linux_clear_a_ufs2_and_newfs_leaves_theirs() {
    for (maker, options) in [("mkfs.ext4", ["-q", "-F"]), ("mkfs.xfs", ["-q", "-f"])] {
        let file = image(512 * MB);
        std::fs::write(file.path(), ufs()).unwrap();
        file.as_file().set_len(512 * MB).unwrap();
        tool(maker, &[options[0], options[1], file.path().to_str().unwrap()], "");
        let mut bytes = window(&file);
        assert_ne!(read(&bytes).unwrap().fs, FileSystem::Ufs2, "{maker}");
        let fresh = ufs();
        bytes[8192..].copy_from_slice(&fresh[8192..]);
        assert_eq!(read(&bytes).unwrap().fs, FileSystem::Ufs2, "{maker}");
        assert_eq!(wipe_ranges(&bytes).len(), 2);
        wipe(&mut bytes);
        assert_eq!(read(&bytes), None);
    }
}
