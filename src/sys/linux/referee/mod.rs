//! Tables of sfdisk(8) and fdisk(8), file systems of mkfs(8), on images in files: nobody has to be
//! root.

mod file_systems;
mod flags;
mod tables;

use tempfile::NamedTempFile;

use crate::sys::referee::tool;
use crate::table::tests::Device;
use crate::table::{self, Table};

const MB: u64 = 1 << 20;

/// A sparse file of `size` bytes.
fn image(size: u64) -> NamedTempFile {
    let file = NamedTempFile::new().unwrap();
    file.as_file().set_len(size).unwrap();
    file
}

/// One with the table that sfdisk makes of `script`.
fn medium(size: u64, script: &str) -> NamedTempFile {
    let file = image(size);
    tool("sfdisk", &["-q", "--no-reread", file.path().to_str().unwrap()], script);
    file
}

/// All of it.
fn bytes(file: &NamedTempFile) -> Vec<u8> {
    std::fs::read(file.path()).unwrap()
}

/// Its table, read as from a device.
fn read(file: &NamedTempFile) -> Table {
    let size = file.as_file().metadata().unwrap().len();
    let mut device = Device { inner: file.reopen().unwrap(), sector: 512 };
    table::read(&mut device, size, 512).unwrap().expect("a table")
}
