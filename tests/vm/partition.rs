//! Another medium gets a new table, by gpart(8), and a copy; what is in use is left alone.

use std::fs::{self, File};
use std::io::Read;
use std::path::Path;

use serde_json::Value;

use crate::compare::{assert_equal, assert_sound};
use crate::disk::{Disk, Layout, Mounted, Scheme};
use crate::harness::{Run, Test, Undo, need_class, program, tests, tool};

pub const TESTS: &[Test] = tests![
    slices_with_labels_on_an_mbr,
    partitions_of_a_gpt,
    large_sectors,
    what_was_there_before_is_gone,
    var_and_swap_are_the_copys_own,
    what_is_in_use_is_left_alone,
    what_does_not_fit_is_refused,
];

/// A blank memory disk.
struct Medium(String);

impl Medium {
    fn new(megabytes: u32, sector: u32) -> Self {
        let (size, sector) = (format!("{megabytes}m"), sector.to_string());
        let words: [&dyn AsRef<std::ffi::OsStr>; 9] =
            [&"-a", &"-t", &"swap", &"-s", &size, &"-S", &sector, &"-L", &crate::harness::LABEL];
        Self(tool("mdconfig", &words).trim().to_owned())
    }

    fn node(&self, suffix: &str) -> String {
        format!("/dev/{}{suffix}", self.0)
    }

    fn hash(&self, disk: &Disk) -> String {
        disk.hash(&self.0)
    }

    fn begins(&self, suffix: &str, length: usize) -> Vec<u8> {
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
fn disk(scheme: Scheme) -> Disk {
    let disk = Disk::new(Layout { scheme, ..Layout::with_config() });
    disk.fill();
    for name in ["mbr", "boot", "pmbr", "gptboot"] {
        let path = Path::new("/boot").join(name);
        disk.write(&format!("boot/{name}"), fs::read(path).unwrap());
    }
    disk
}

fn on(disk: &Disk, medium: &Medium, args: &[&str]) -> Run {
    disk.dualroot(&[&["--media", &medium.0], args].concat())
}

/// Partitions it, and compares what GEOM then has with what was said.
fn partitioned(disk: &Disk, medium: &Medium, args: &[&str]) -> Value {
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

fn slices_with_labels_on_an_mbr() {
    let (disk, medium) = (disk(Scheme::Mbr), Medium::new(200, 512));
    partitioned(&disk, &medium, &["--root-size", "40", "--swap-size", "8", "--data-size", "8"]);
    for part in ["s1a", "s4d"] {
        assert_sound(&medium.node(part));
    }
    let show = tool("gpart", &[&"show", &"-p", &medium.0]);
    let first = show.lines().find(|l| l.contains(&format!("{}s1 ", medium.0))).unwrap();
    assert!(first.contains("[active]") && show.matches("[active]").count() == 1, "{show}");
    // The place of the table and the disk's number are not the boot code's.
    assert_eq!(medium.begins("", 440), fs::read("/boot/mbr").unwrap()[..440]);
    for slice in ["s1", "s2"] {
        assert_eq!(medium.begins(slice, 440), fs::read("/boot/boot").unwrap()[..440], "{slice}");
    }
    let copy = Mounted::new(&["-o", "ro"], &medium.node("s1a"), &disk.side("copy"));
    // Its mount point has times of its own.
    tool("umount", &[&disk.root().join("config")]);
    assert_equal(&disk.root(), copy.path());
    let fstab = fs::read_to_string(copy.path().join("etc/fstab")).unwrap();
    assert!(fstab.contains(&format!("{} / ufs", medium.node("s1a"))), "{fstab}");
    assert!(fstab.contains(&format!("{} /config ufs", medium.node("s4d"))), "{fstab}");
}

fn partitions_of_a_gpt() {
    let (disk, medium) = (disk(Scheme::Gpt), Medium::new(200, 512));
    partitioned(&disk, &medium, &[]);
    assert_sound(&medium.node("p2"));
    let show = tool("gpart", &[&"show", &"-l", &medium.0]);
    let boots = show.lines().find(|l| l.contains("[bootme]")).unwrap();
    assert!(boots.contains(&format!("{}-rootA", medium.0)), "{show}");
    assert_eq!(medium.begins("", 440), fs::read("/boot/pmbr").unwrap()[..440]);
    assert_eq!(medium.begins("p1", 512), fs::read("/boot/gptboot").unwrap()[..512]);
    // The alternate slot of the running medium is another matter.
    assert_eq!(disk.state(), "empty");
    let report = on(&disk, &medium, &["show", "--json"]).exits(0).json();
    assert_eq!(report["slots"][1]["state"], "valid", "{report}");
}

fn large_sectors() {
    let (disk, medium) = (disk(Scheme::Gpt), Medium::new(200, 4096));
    partitioned(&disk, &medium, &["--swap-size", "0"]);
    assert_sound(&medium.node("p2"));
    partitioned(&disk, &medium, &["--swap-size", "0", "--scheme", "mbr"]);
    assert_sound(&medium.node("s1a"));
}

/// Tables, labels and file systems at the same places: nothing of them comes through.
fn what_was_there_before_is_gone() {
    let (disk, medium) = (disk(Scheme::Mbr), Medium::new(200, 512));
    for scheme in ["mbr", "gpt", "mbr", "mbr"] {
        let report = partitioned(&disk, &medium, &["--swap-size", "8", "--scheme", scheme]);
        let rows = report["partitions"].as_array().unwrap().len();
        let slices = if scheme == "mbr" { 4 } else { 0 };
        let nodes = fs::read_dir("/dev").unwrap().map(|e| e.unwrap().file_name());
        let own = |name: &std::ffi::OsString| {
            let name = name.to_string_lossy();
            name.starts_with(&medium.0) && *name != *medium.0
        };
        assert_eq!(nodes.filter(own).count(), rows + slices, "{scheme}");
    }
}

fn var_and_swap_are_the_copys_own() {
    let (disk, medium) = (disk(Scheme::Mbr), Medium::new(200, 512));
    let var = Medium::new(16, 512);
    tool("newfs", &[&"-U", &var.node("")]);
    let over = Mounted::new(&[], &var.node(""), &disk.root().join("var"));
    let fstab = fs::read_to_string(disk.root().join("etc/fstab")).unwrap();
    let more = format!("{} /var ufs rw 2 2\n{} none swap sw 0 0\n", var.node(""), disk.node(2));
    disk.write("etc/fstab", fstab + &more);
    partitioned(&disk, &medium, &["--swap-size", "8"]);
    assert_sound(&medium.node("s3e"));
    let copy = Mounted::new(&["-o", "ro"], &medium.node("s1a"), &disk.side("copy"));
    let fstab = fs::read_to_string(copy.path().join("etc/fstab")).unwrap();
    for line in
        [format!("{} /var ufs", medium.node("s3e")), format!("{} none swap", medium.node("s3b"))]
    {
        assert!(fstab.contains(&line), "{fstab}");
    }
    drop((copy, over));
}

fn what_is_in_use_is_left_alone() {
    let (disk, medium) = (disk(Scheme::Mbr), Medium::new(200, 512));
    disk.dualroot(&["snapshot", "--partition"]).fails(6, "holds the running root");
    partitioned(&disk, &medium, &["--swap-size", "8"]);
    let before = medium.hash(&disk);
    let refused = |code: i32, words: &str| {
        on(&disk, &medium, &["snapshot", "--partition"]).fails(code, words);
        assert!(medium.hash(&disk) == before, "it was written");
    };
    let over = Mounted::new(&["-o", "ro"], &medium.node("s4d"), &disk.side("here"));
    refused(6, "is mounted on");
    drop(over);
    let swap = medium.node("s3b");
    let paging = Undo::after(&["swapon", &swap], &["swapoff", &swap]);
    refused(6, "is used for swap");
    drop(paging);
    need_class("gnop");
    let (part, nop) = (format!("{}s2a", medium.0), format!("{}s2a.nop", medium.0));
    let over = Undo::after(&["gnop", "create", &part], &["gnop", "destroy", "-f", &nop]);
    refused(6, "it is in use by");
    drop(over);
    let held = File::options().read(true).write(true).open(medium.node("s2a")).unwrap();
    refused(4, "open for writing");
    drop(held);
}

fn what_does_not_fit_is_refused() {
    let (disk, medium) = (disk(Scheme::Gpt), Medium::new(64, 512));
    disk.write("usr/large", crate::disk::pattern(8 << 20, 7));
    let before = medium.hash(&disk);
    for (args, words) in [
        (&["--root-size", "0"][..], "--root-size 0"),
        (&["--root-size", "60"], "it does not fit: 2 roots of 60 MB"),
        (&["--root-size", "6"], "the copy of / does not fit"),
        (&["--config-size", "90%"], "it does not fit"),
    ] {
        on(&disk, &medium, &[&["snapshot"], args].concat()).fails(6, words);
        assert!(medium.hash(&disk) == before, "{args:?} wrote");
    }
    on(&disk, &medium, &["snapshot", "--partition", "-n"]).exits(0).prints("1. put a new GPT");
    assert!(medium.hash(&disk) == before);
}
