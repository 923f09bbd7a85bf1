//! Mounts of the tests, and of everybody.

use std::fs;
use std::path::{Path, PathBuf};
use std::thread::sleep;
use std::time::Duration;

use tempfile::TempDir;

/// A mount of the test's own, given back when it is dropped.
#[derive(Debug)]
pub struct Mounted {
    pub(super) dir: TempDir,
}

impl Mounted {
    pub fn path(&self) -> &Path {
        self.dir.path()
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        unmount(self.dir.path());
    }
}

/// Unmounts what the test mounted.
pub fn unmount(point: &Path) {
    let mut result = nix::mount::umount(point);
    for _ in 0..50 {
        if result != Err(nix::errno::Errno::EBUSY) {
            break;
        }
        sleep(Duration::from_millis(20));
        result = nix::mount::umount(point);
    }
    if !std::thread::panicking() {
        result.unwrap_or_else(|e| panic!("unmounting {}: {e}", point.display()));
    }
}

/// A line of `/proc/self/mountinfo`.
#[derive(Clone, Debug)]
pub struct Mount {
    pub point: PathBuf,
    pub source: String,
    pub options: String,
}

/// All mounts, in the order of their making.
pub fn mounts() -> Vec<Mount> {
    let text = fs::read_to_string("/proc/self/mountinfo").unwrap();
    text.lines()
        .filter_map(|line| {
            let fields: Vec<_> = line.split(' ').collect();
            let dash = fields.iter().position(|f| *f == "-")?;
            Some(Mount {
                point: PathBuf::from(fields.get(4)?.replace("\\040", " ")),
                source: (*fields.get(dash + 2)?).to_owned(),
                options: (*fields.get(5)?).to_owned(),
            })
        })
        .collect()
}
