//! Partition tables repaired: on a medium that nobody uses, and under mounted partitions, where
//! only the kernel itself can write. gpart(8) tells whether GEOM finds them whole.

use std::fs::{self, OpenOptions};
use std::os::unix::fs::FileExt;
use std::path::Path;

use serde_json::Value;

use crate::disk::{Disk, Layout, Mounted, Scheme};
use crate::harness::{Run, Test, program, tests, tool, wait_until};

pub const TESTS: &[Test] = tests![
    a_zeroed_first_sector,
    a_zeroed_gpt_header,
    a_shifted_label,
    all_of_a_gpt,
    the_mbr_of_a_mounted_medium,
    the_gpt_of_a_mounted_medium,
    a_gpt_that_the_kernel_knows_to_be_damaged,
    the_label_of_a_mounted_slice,
    what_the_kernel_cannot_write,
    the_running_medium,
];

/// A running root, and its copy on a medium of its own with the same layout.
struct Two {
    running: Disk,
    other: Disk,
    whole: Vec<u8>,
}

impl Two {
    fn new(scheme: Scheme) -> Self {
        let running = Disk::new(Layout { scheme, ..Layout::with_config() });
        let other = Disk::bare(Layout { scheme, in_a_file: true, ..Layout::default() });
        running.fill();
        running.configure(&format!(
            "[root]\nslots = [\"{}\", \"{}\"]\n[config]\nslots = [\"{}\", \"{}\"]\n",
            running.node(1),
            other.node(1),
            running.config(1),
            running.config(2)
        ));
        // Boot code, without which little of a first sector is anybody's.
        match scheme {
            Scheme::Mbr => {
                gpart(&["bootcode", "-b", "/boot/mbr", other.name()]);
                gpart(&["bootcode", "-b", "/boot/boot", &format!("{}s1", other.name())]);
            }
            Scheme::Gpt => {
                let words = ["bootcode", "-b", "/boot/pmbr", "-p", "/boot/gptboot", "-i", "1"];
                gpart(&[&words[..], &[other.name()]].concat());
            }
        }
        running.snapshot();
        let kept = running.root().join("config/.dualroot/tables");
        assert!(fs::read(kept).unwrap().starts_with(b"dualroot tables 1 "));
        let whole = fs::read(other.file()).unwrap();
        let two = Self { running, other, whole };
        two.run(&["table", "check"]).exits(0);
        two
    }

    fn run(&self, args: &[&str]) -> Run {
        self.running.dualroot(args)
    }

    /// Writes through GEOM, which looks at the medium again when it is closed.
    fn write(&self, offset: u64, data: &[u8]) {
        let node = Path::new("/dev").join(self.other.name());
        let medium = OpenOptions::new().read(true).write(true).open(node).unwrap();
        medium.write_all_at(data, offset).unwrap();
    }

    /// Writes below GEOM, which does not get to know.
    fn rot(&self, offset: u64, data: &[u8]) {
        let file = OpenOptions::new().write(true).open(self.other.file()).unwrap();
        file.write_all_at(data, offset).unwrap();
    }

    /// The kinds of the differences, as `check` tells them.
    #[track_caller]
    fn told(&self) -> Vec<String> {
        let report = self.run(&["table", "check", "--json"]).exits(3).json();
        let list = report["differences"].as_array().unwrap();
        assert!(list.iter().all(|d| d["medium"] == self.other.name()), "{report}");
        list.iter().map(|d| d["kind"].as_str().unwrap_or("medium").to_owned()).collect()
    }

    /// Repairs: the plan first, which changes nothing; then every byte is back, gpart(8) finds
    /// nothing, and the copy is there and is the copy.
    #[track_caller]
    fn repair(&self, kinds: &[&str], through: &str) {
        assert_eq!(self.told(), kinds);
        let damaged = self.bytes();
        let plan = self.run(&["table", "restore", "-n"]).exits(0);
        assert_eq!(plan.stdout.lines().count(), kinds.len(), "{plan}");
        assert!(plan.stdout.lines().all(|l| l.contains(through)), "{plan}");
        assert!(self.bytes() == damaged, "-n wrote");
        self.run(&["table", "restore"]).exits(0).prints("read back and equal");
        self.assert_whole();
    }

    fn bytes(&self) -> Vec<u8> {
        fs::read(self.other.file()).unwrap()
    }

    #[track_caller]
    fn assert_whole(&self) {
        self.run(&["table", "check"]).exits(0);
        assert!(self.bytes() == self.whole, "not as it was at {}", self.first_difference());
        wait_until("the copy is there", || Path::new(&self.other.node(1)).exists());
        let shown = tool("gpart", &[&"show", &self.other.name()]);
        assert!(!shown.contains("CORRUPT"), "{shown}");
        let status = tool("gpart", &[&"status", &"-s", &self.other.name()]);
        assert!(!status.is_empty(), "no status");
        let ok = |line: &str| line.split_whitespace().nth(1) == Some("OK");
        assert!(status.lines().all(ok), "{status}");
    }

    fn first_difference(&self) -> usize {
        let now = self.bytes();
        now.iter().zip(&self.whole).position(|(a, b)| a != b).unwrap_or(now.len())
    }

    /// The copy mounts and is the copy.
    #[track_caller]
    fn assert_copy(&self) {
        let copy = Mounted::new(&["-o", "ro"], &self.other.node(1), &self.running.side("copy"));
        assert!(copy.path().join("boot/kernel/kernel").exists());
        drop(copy);
        self.run(&["verify"]).exits(0);
    }

    fn last(&self) -> u64 {
        self.whole.len() as u64 - 512
    }

    /// Byte of the medium where slot 1's slice, or partition, begins.
    fn first_slice(&self) -> u64 {
        let shown = tool("gpart", &[&"show", &self.other.name()]);
        let line = shown.lines().find(|l| l.split_whitespace().nth(2) == Some("1")).unwrap();
        line.split_whitespace().next().unwrap().parse::<u64>().unwrap() * 512
    }

    fn mounted(&self, words: &[&str]) -> Mounted {
        Mounted::new(words, &self.other.node(1), &self.running.side("used"))
    }
}

fn gpart(words: &[&str]) {
    Run::of(program("gpart").args(words)).exits(0);
}

// ---- nobody uses it -----------------------------------------------------------------------------

fn a_zeroed_first_sector() {
    let two = Two::new(Scheme::Mbr);
    two.write(0, &[0; 512]);
    wait_until("the slices are gone", || !Path::new(&two.other.node(1)).exists());
    two.repair(&["mbr"], &format!("through /dev/{}", two.other.name()));
    two.assert_copy();
}

fn a_zeroed_gpt_header() {
    let two = Two::new(Scheme::Gpt);
    for (at, kind) in [(512, "gpt-header"), (two.last(), "backup-header")] {
        two.write(at, &[0; 512]);
        wait_until("GEOM sees it", || {
            tool("gpart", &[&"show", &two.other.name()]).contains("CORRUPT")
        });
        let check = two.run(&["table", "check"]).exits(3);
        check.prints(&format!("gpart recover {}", two.other.name()));
        two.repair(&[kind], &format!("through /dev/{}", two.other.name()));
    }
    two.assert_copy();
}

/// The label of slot 1 one sector behind its place.
fn a_shifted_label() {
    let two = Two::new(Scheme::Mbr);
    let slice = two.first_slice();
    let at = usize::try_from(slice).unwrap();
    let label = two.whole[at + 512..at + 1024].to_vec();
    two.write(slice + 512, &[vec![0; 512], label].concat());
    wait_until("the partition is gone", || !Path::new(&two.other.node(1)).exists());
    two.repair(&["boot2", "label"], &format!("through /dev/{}", two.other.name()));
    two.assert_copy();
}

fn all_of_a_gpt() {
    let two = Two::new(Scheme::Gpt);
    two.write(0, &vec![0; 34 * 512]);
    two.write(two.last() - 32 * 512, &vec![0; 33 * 512]);
    wait_until("the partitions are gone", || !Path::new(&two.other.node(1)).exists());
    let kinds = ["backup-entries", "backup-header", "gpt-entries", "gpt-header", "mbr"];
    two.repair(&kinds, &format!("through /dev/{}", two.other.name()));
    two.assert_copy();
}

// ---- partitions of it are mounted ---------------------------------------------------------------

fn the_mbr_of_a_mounted_medium() {
    let two = Two::new(Scheme::Mbr);
    for words in [&["-o", "ro"][..], &["-o", "ro,noatime"]] {
        let mounted = two.mounted(words);
        two.rot(0, &[0; 512]);
        two.repair(&["mbr"], "through gpart");
        drop(mounted);
    }
    // Which slice boots, set since, stays.
    gpart(&["set", "-a", "active", "-i", "2", two.other.name()]);
    let chosen = two.bytes();
    let mounted = two.mounted(&["-o", "ro"]);
    two.rot(0, &[0; 512]);
    two.run(&["table", "restore"]).exits(0);
    assert!(two.bytes() == chosen);
    drop(mounted);
    two.assert_copy();
}

fn the_gpt_of_a_mounted_medium() {
    let two = Two::new(Scheme::Gpt);
    let mounted = two.mounted(&["-o", "ro"]);
    two.rot(512, &[0; 512]);
    two.repair(&["gpt-header"], "through gpart");
    two.rot(two.last() - 32 * 512, &vec![0; 33 * 512]);
    two.repair(&["backup-entries", "backup-header"], "through gpart");
    two.rot(0, &vec![0; 34 * 512]);
    two.repair(&["gpt-entries", "gpt-header", "mbr"], "through gpart");
    // Boot code in a partition that nobody uses, beside the mounted one.
    let boot = two.first_slice();
    two.rot(boot + 1024, &[0; 512]);
    two.repair(&["boot-partition"], &format!("through /dev/{}p1", two.other.name()));
    drop(mounted);
    two.assert_copy();
}

/// What `gpart recover` is for: GEOM refuses every other change of such a table.
fn a_gpt_that_the_kernel_knows_to_be_damaged() {
    let two = Two::new(Scheme::Gpt);
    for (at, kind) in [(512, "gpt-header"), (two.last(), "backup-header")] {
        two.write(at, &[0; 512]);
        wait_until("GEOM sees it", || {
            tool("gpart", &[&"show", &two.other.name()]).contains("CORRUPT")
        });
        wait_until("the copy is there", || Path::new(&two.other.node(1)).exists());
        let mounted = two.mounted(&["-o", "ro"]);
        two.repair(&[kind], "through gpart");
        drop(mounted);
    }
    two.assert_copy();
}

fn the_label_of_a_mounted_slice() {
    let two = Two::new(Scheme::Mbr);
    let slice = two.first_slice();
    let mounted = two.mounted(&["-o", "ro"]);
    two.rot(slice + 512, &[0; 512]);
    two.repair(&["label"], "through gpart");
    two.rot(slice, &vec![0; 8192]);
    two.repair(&["boot1", "boot2", "label"], "through gpart");
    // The label of the slice that nobody uses goes there by itself.
    let second = slice + (24 << 20);
    let at = usize::try_from(second).unwrap();
    if two.whole[at + 512..at + 516] == 0x8256_4557_u32.to_le_bytes() {
        two.rot(second + 512, &[0; 512]);
        two.repair(&["label"], &format!("through /dev/{}s2", two.other.name()));
    }
    drop(mounted);
    two.assert_copy();
}

/// Boot code between the table and the first slice is nobody's but the medium's.
fn what_the_kernel_cannot_write() {
    let two = Two::new(Scheme::Mbr);
    let mounted = two.mounted(&["-o", "ro"]);
    two.rot(512, &[7; 512]);
    let damaged = two.bytes();
    for args in [&["table", "restore", "-n"][..], &["table", "restore"]] {
        let run = two.run(args).fails(6, "cannot be written while the medium is in use");
        run.says("hint: start from another medium");
        assert!(two.bytes() == damaged, "it was written");
    }
    // A partition that is in use is never moved, even where the kernel could write.
    two.rot(512, &two.whole[512..1024]);
    drop(mounted);
    two.run(&["table", "check"]).exits(0);
    // Another table, made on purpose, and its partition mounted.
    gpart(&["delete", "-i", "1", &format!("{}s1", two.other.name())]);
    gpart(&["add", "-t", "freebsd-ufs", "-s", "8m", "-i", "1", &format!("{}s1", two.other.name())]);
    tool("newfs", &[&two.other.node(1)]);
    let mounted = two.mounted(&["-o", "ro"]);
    let other = two.bytes();
    // The copy's file system is gone, and nothing else tells one memory disk from another.
    two.run(&["table", "restore"]).exits(6);
    assert!(two.bytes() == other, "it was written");
    drop(mounted);
}

/// The medium that the root runs from: what differs there is told, and only gpart(8) writes it.
fn the_running_medium() {
    let disk = Disk::new(Layout { in_a_file: true, ..Layout::with_config() });
    disk.fill();
    gpart(&["bootcode", "-b", "/boot/mbr", disk.name()]);
    disk.snapshot();
    disk.dualroot(&["table", "check"]).exits(0);
    let file = OpenOptions::new().read(true).write(true).open(disk.file()).unwrap();
    let mut sector = vec![0; 512];
    file.read_exact_at(&mut sector, 0).unwrap();
    file.write_all_at(&[0; 512], 0).unwrap();
    let report = disk.dualroot(&["table", "check", "--json"]).exits(3).json();
    assert_eq!(report["differences"].as_array().map(Vec::len), Some(1), "{report}");
    assert_eq!(report["differences"][0]["kind"], Value::from("mbr"), "{report}");
    disk.dualroot(&["table", "restore"]).exits(0);
    let mut now = vec![0; 512];
    file.read_exact_at(&mut now, 0).unwrap();
    assert_eq!(now, sector);
    let status = tool("gpart", &[&"status", &"-s", &disk.name()]);
    assert!(status.lines().all(|l| l.contains(" OK ")), "{status}");
    assert_eq!(disk.state(), "valid");
    disk.dualroot(&["verify"]).exits(0);
    disk.snapshot();
}
