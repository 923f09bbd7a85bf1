//! Blank memory disks that get a new table and a copy.

use std::fs::{self, File};
use std::io::Read;
use std::path::Path;

use serde_json::Value;

use crate::disk::{Disk, Layout, Scheme};
use crate::harness::{Run, program, tool};

/// A blank memory disk.
pub struct Medium(String);

impl Medium {
    pub fn new(megabytes: u32, sector: u32) -> Self {
        let (size, sector) = (format!("{megabytes}m"), sector.to_string());
        let words: [&dyn AsRef<std::ffi::OsStr>; 9] =
            [&"-a", &"-t", &"swap", &"-s", &size, &"-S", &sector, &"-L", &crate::harness::LABEL];
        Self(tool("mdconfig", &words).trim().to_owned())
    }

    /// `md1`
    pub fn name(&self) -> &str {
        &self.0
    }

    pub fn node(&self, suffix: &str) -> String {
        format!("/dev/{}{suffix}", self.0)
    }

    pub fn hash(&self, disk: &Disk) -> String {
        disk.hash(&self.0)
    }

    pub fn begins(&self, suffix: &str, length: usize) -> Vec<u8> {
        let mut bytes = vec![0; 512];
        File::open(self.node(suffix)).unwrap().read_exact(&mut bytes).unwrap();
        bytes.truncate(length);
        bytes
    }
}

impl Drop for Medium {
    fn drop(&mut self) {
        Run::of(program("mdconfig").args(["-d", "-o", "force", "-u", &self.0]));
    }
}

/// A running system with `/config`, and boot code to be copied.
pub fn disk(scheme: Scheme) -> Disk {
    let disk = Disk::new(Layout { scheme, ..Layout::with_config() });
    disk.fill();
    for name in ["mbr", "boot", "pmbr", "gptboot"] {
        let path = Path::new("/boot").join(name);
        disk.write(&format!("boot/{name}"), fs::read(path).unwrap());
    }
    disk
}

pub fn on(disk: &Disk, medium: &Medium, args: &[&str]) -> Run {
    disk.dualroot(&[&["--media", &medium.0], args].concat())
}

/// Partitions it, and compares what GEOM then has with what was said.
pub fn partitioned(disk: &Disk, medium: &Medium, args: &[&str]) -> Value {
    let run = on(disk, medium, &[&["snapshot", "--json", "--partition"], args].concat());
    let report = run.exits(0).json();
    for row in report["partitions"].as_array().unwrap() {
        let name = format!("{}{}", medium.0, row["partition"].as_str().unwrap());
        let size = tool("diskinfo", &[&name]);
        assert_eq!(size.split_whitespace().nth(2).unwrap(), row["size"].to_string(), "{name}");
    }
    assert!(report["pairs"].as_array().unwrap().iter().all(|p| p["verified"] == true), "{report}");
    let status = tool("gpart", &[&"status", &"-s"]);
    assert!(!status.contains("CORRUPT"), "{status}");
    on(disk, medium, &["verify"]).exits(0);
    report
}
