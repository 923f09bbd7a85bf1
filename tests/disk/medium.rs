//! A blank medium beside the running one, for those tests that fill another.

use std::fs::{self, File};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use serde_json::Value;
use sha2::{Digest, Sha256};

use crate::harness::{Disk, Run, hex, program, temp_dir, tool, try_tool, wait_until};

pub const MIB: u64 = 1 << 20;
/// What tests of other media need.
pub const TOOLS: &[&str] = &["sfdisk", "sgdisk", "fdisk", "parted", "partx", "mkfs.ext4", "mkswap"];

/// A sparse image on a loop device with sectors of its own.
pub struct Medium {
    node: PathBuf,
    dir: tempfile::TempDir,
}

impl Medium {
    pub fn new(megabytes: u64, sector: u32) -> Self {
        let dir = temp_dir();
        let image = dir.path().join("medium");
        File::create(&image).unwrap().set_len(megabytes * MIB).unwrap();
        let sector = sector.to_string();
        let mut node = PathBuf::new();
        wait_until("there is a loop device", || {
            let run = try_tool("losetup", &[&"-f", &"--show", &"-b", &sector, &image]);
            node = PathBuf::from(run.stdout.trim_end());
            run.code == 0
        });
        Self { node, dir }
    }

    pub fn path(&self) -> &Path {
        &self.node
    }

    pub fn node(&self) -> &str {
        self.node.to_str().unwrap()
    }

    /// Its kernel name.
    pub fn name(&self) -> &str {
        self.node.file_name().unwrap().to_str().unwrap()
    }

    pub fn part(&self, n: usize) -> PathBuf {
        PathBuf::from(format!("{}p{n}", self.node()))
    }

    /// SHA-256 of the image. Holes are read, so only of small ones.
    pub fn hash(&self) -> String {
        tool("sync", &[]);
        let bytes = fs::read(self.dir.path().join("medium")).unwrap();
        hex(&Sha256::digest(bytes))
    }

    /// Whether nothing has been written to it.
    pub fn is_blank(&self) -> bool {
        tool("sync", &[]);
        fs::metadata(self.dir.path().join("medium")).unwrap().blocks() == 0
    }

    /// The partitions, as a reader that is not ours tells of them.
    pub fn table(&self) -> Vec<Value> {
        let json: Value = serde_json::from_slice(&tool("sfdisk", &[&"-J", &self.node])).unwrap();
        json["partitiontable"]["partitions"].as_array().unwrap().clone()
    }

    /// Nobody who reads tables finds a fault.
    #[track_caller]
    pub fn assert_sound(&self, scheme: &str) {
        Run::of(program("sfdisk").args(["--verify", "-q"]).arg(&self.node)).exits(0);
        if scheme == "gpt" {
            let run = Run::of(program("sgdisk").arg("-v").arg(&self.node)).exits(0);
            assert!(run.stdout.contains("No problems found"), "{run}");
        }
        let run = Run::of(program("fdisk").arg("-l").arg(&self.node)).exits(0);
        assert_eq!(run.stderr, "", "{run}");
        // It says on stderr, or asks, where something is not as it should be.
        let run = Run::of(program("parted").args(["-s", "-m"]).arg(&self.node).arg("print"));
        let run = run.exits(0);
        assert_eq!(run.stderr, "", "{run}");
        let kind = if scheme == "gpt" { ":gpt:" } else { ":msdos:" };
        assert!(run.stdout.contains(kind), "{run}");
    }
}

impl Drop for Medium {
    fn drop(&mut self) {
        try_tool("partx", &[&"-d", &self.node]);
        try_tool("losetup", &[&"-d", &self.node]);
    }
}

/// A run on this medium.
pub fn on(disk: &Disk, medium: &Medium, args: &[&str]) -> Run {
    let mut words = vec!["--media", medium.node()];
    words.extend(args);
    disk.dualroot(&words)
}
