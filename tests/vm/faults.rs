//! Media that fail: never `valid` wrongly, never a hang, never a panic, and the mounts are gone.

use std::fs::{self, OpenOptions};
use std::os::unix::fs::FileExt;
use std::path::Path;

use nix::sys::signal::Signal;

use crate::disk::{Disk, Layout, mounts};
use crate::harness::{Run, Test, need_class, program, tests, tool, try_tool};

pub const TESTS: &[Test] = tests![
    a_slot_behind_gnop,
    writes_fail_at_every_stage,
    reads_fail_at_every_stage,
    the_source_cannot_be_read,
    a_byte_changes_before_it_is_read_back,
    the_disk_fills_up,
    the_medium_is_pulled_while_it_is_written,
    the_medium_is_pulled_while_it_is_read_back,
    gnop_is_destroyed_under_a_run,
    what_the_kernel_takes_away_is_not_taken_for_the_slot,
];

/// Changes the first byte of `marker` on a device, behind everybody's back.
pub fn flip(node: &str, marker: &[u8]) {
    let device = OpenOptions::new().read(true).write(true).open(node).unwrap();
    let mut block = vec![0; 4096];
    for offset in (0..).step_by(block.len()) {
        assert!(device.read_at(&mut block, offset).unwrap() > 0, "no such bytes on {node}");
        if block.starts_with(marker) {
            block[0] ^= 1;
            device.write_all_at(&block, offset).unwrap();
            return;
        }
    }
}

/// A disk whose slot 2 is reached through a gnop(8).
struct Failing {
    disk: Disk,
}

impl Failing {
    fn new() -> Self {
        need_class("gnop");
        let disk = Disk::new(Layout { roots_mb: [16, 16], ..Layout::default() });
        disk.fill();
        disk.much(3);
        let failing = Self { disk };
        failing.name_through();
        failing
    }

    /// Slot 2 is what the gnop offers.
    fn name_through(&self) {
        self.disk.name_slots(&self.disk.node(1), &format!("/dev/{}", self.nop()));
    }

    /// Slot 2 is the partition itself.
    fn name_directly(&self) {
        self.disk.name_slots(&self.disk.node(1), &self.disk.node(2));
    }

    fn nop(&self) -> String {
        format!("{}.nop", self.disk.part(2))
    }

    /// Puts the gnop there.
    fn create(&self, words: &[&str]) {
        Run::of(program("gnop").arg("create").args(words).arg(self.disk.part(2))).exits(0);
    }

    fn destroy(&self) {
        for mount in mounts().iter().rev().filter(|m| m.source.contains(".nop")) {
            try_tool("umount", &[&"-f", &mount.point]);
        }
        try_tool("gnop", &[&"destroy", &"-f", &self.nop()]);
    }

    /// Reads and writes of a whole run.
    fn requests(&self, args: &[&str]) -> [u64; 2] {
        self.create(&[]);
        self.disk.dualroot(args).exits(0);
        let text = tool("gnop", &[&"list", &self.nop()]);
        let number = |what: &str| {
            let line = text.lines().find(|l| l.trim().starts_with(what)).unwrap();
            line.split_whitespace().last().unwrap().parse::<u64>().unwrap()
        };
        let found = ["Reads:", "Writes:"].map(number);
        self.destroy();
        found
    }

    /// A snapshot during which every request fails from the n-th on.
    fn sweep(&self, words: &[&str], requests: u64) {
        const STEPS: u64 = 12;
        let mut failures = 0;
        for step in 0..STEPS {
            let n = requests * step / STEPS;
            self.create(&[words, &["-e", "5", "-c", &n.to_string()]].concat());
            let run = self.disk.dualroot(&["snapshot"]);
            failures += u32::from(run.code != 0);
            let left: Vec<_> = mounts().into_iter().filter(|m| m.source.contains(".nop")).collect();
            self.destroy();
            assert!(left.is_empty(), "request {n}: left mounted: {left:?}; {run}");
            assert!(is_bare(&self.disk), "request {n}: it was copied into the running root: {run}");
            assert!(matches!(run.code, 0 | 1 | 4 | 5 | 6), "request {n}: {run}");
            assert!(run.code == 0 || run.stderr.contains("dualroot: "), "request {n}: {run}");
            // What it says is what is on the medium.
            self.name_directly();
            let state = self.disk.state();
            assert!(run.code != 0 || state == "valid", "request {n}: {state} after {run}");
            if state == "valid" {
                // Also where it failed before it began, or after the record was read back.
                self.disk.dualroot(&["verify"]).exits(0);
            }
            self.name_through();
        }
        assert!(failures > 0, "nothing failed");
        self.name_directly();
        self.disk.snapshot();
        assert_eq!(self.disk.state(), "valid");
    }
}

fn a_slot_behind_gnop() {
    let failing = Failing::new();
    failing.create(&[]);
    failing.disk.snapshot();
    assert_eq!(failing.disk.state(), "valid");
    failing.disk.dualroot(&["verify"]).exits(0);
    failing.destroy();
}

fn writes_fail_at_every_stage() {
    let failing = Failing::new();
    let [reads, writes] = failing.requests(&["snapshot"]);
    failing.sweep(&["-w", "100", "-r", "0"], reads + writes);
}

fn reads_fail_at_every_stage() {
    let failing = Failing::new();
    let [reads, writes] = failing.requests(&["snapshot"]);
    failing.sweep(&["-r", "100", "-w", "0"], reads + writes);
}

/// The running root's medium stops reading. UFS since 13 takes such a file system away by itself, so
/// that the root may be gone in the middle; whatever is said then, it is no success.
fn the_source_cannot_be_read() {
    need_class("gnop");
    let disk = Disk::new(Layout::default());
    disk.fill();
    tool("umount", &[&disk.root()]);
    let (part, nop) = (disk.part(1), format!("{}.nop", disk.part(1)));
    tool("gnop", &[&"create", &part]);
    tool("mount", &[&"-o", &"ro", &format!("/dev/{nop}"), &disk.root()]);
    disk.name_slots(&format!("/dev/{nop}"), &disk.node(2));
    disk.dualroot(&["show"]).exits(0);
    tool("gnop", &[&"configure", &"-r", &"100", &"-e", &"5", &nop]);
    let run = disk.dualroot(&["snapshot"]);
    tool("gnop", &[&"configure", &"-r", &"0", &nop]);
    assert!(matches!(run.code, 1 | 6) && run.stderr.contains("dualroot: "), "{run}");
    disk.assert_unmounted();
    try_tool("umount", &[&"-f", &disk.root()]);
    tool("gnop", &[&"destroy", &"-f", &nop]);
    tool("mount", &[&"-o", &"ro", &disk.node(1), &disk.root()]);
    disk.name_slots(&disk.node(1), &disk.node(2));
    assert_ne!(disk.state(), "valid");
}

/// The copy is written, and before it is read back a byte of it changes on the medium. (A read-only
/// mount does not keep others from writing to its device.)
fn a_byte_changes_before_it_is_read_back() {
    let disk = Disk::new(Layout::default());
    disk.fill();
    let marker = b"a byte of this line changes on the medium";
    disk.write("zz/victim", marker);
    disk.much(8);
    let running = disk.halted(true);
    flip(&disk.node(2), marker);
    running.signal(Signal::SIGCONT);
    running.wait().exits(5).says("reading back zz/victim at 0");
    disk.assert_unmounted();
    assert_ne!(disk.state(), "valid");
    disk.snapshot();
    assert_eq!(disk.state(), "valid");
}

/// There was room for everything when it was measured; somebody else then writes to the copy.
fn the_disk_fills_up() {
    let disk = Disk::new(Layout { roots_mb: [24, 24], ..Layout::default() });
    disk.fill();
    disk.much(12);
    let running = disk.halted(false);
    let run = try_tool("dd", &[&"if=/dev/zero", &"bs=64k", &of(&disk.altroot().join("filler"))]);
    assert!(run.stderr.contains("No space left on device"), "{run}");
    running.signal(Signal::SIGCONT);
    running.wait().fails(1, "No space left on device").says("copying / to /altroot: ");
    disk.assert_unmounted();
    assert_ne!(disk.state(), "valid");
    disk.snapshot();
    assert_eq!(disk.state(), "valid");
}

fn of(path: &Path) -> String {
    format!("of={}", path.display())
}

/// Pulls the medium once the copy is mounted; both roots lie on media of their own.
fn pull(read_only: bool) {
    let disk = Disk::new(Layout::default());
    disk.fill();
    disk.much(12);
    let other = Disk::bare(Layout::default());
    disk.name_slots(&disk.node(1), &other.node(2));
    let running = disk.halted(read_only);
    tool("mdconfig", &[&"-d", &"-o", &"force", &"-u", &other.name()]);
    running.signal(Signal::SIGCONT);
    let run = running.wait();
    assert!(matches!(run.code, 1 | 5), "{run}");
    let left: Vec<_> = mounts().into_iter().filter(|m| m.point == disk.altroot()).collect();
    assert!(left.is_empty(), "{left:?}: {run}");
    // The slot is gone, and that is what is said.
    disk.dualroot(&["show"]).fails(6, "no such device");
    assert!(fs::read_dir(disk.altroot()).unwrap().next().is_none());
}

fn the_medium_is_pulled_while_it_is_written() {
    pull(false);
}

fn the_medium_is_pulled_while_it_is_read_back() {
    pull(true);
}

/// Whether the running root is mounted, and nothing is in the directory that the other is mounted on.
fn is_bare(disk: &Disk) -> bool {
    let is_there = mounts().iter().any(|mount| mount.point == disk.root());
    is_there && fs::read_dir(disk.altroot()).unwrap().next().is_none()
}

/// UFS mounts what it cannot read the root's inode of, and takes it away a moment later: then the path
/// leads into the running system.
fn what_the_kernel_takes_away_is_not_taken_for_the_slot() {
    let failing = Failing::new();
    failing.create(&[]);
    failing.disk.snapshot();
    failing.destroy();
    let mut unreadable = 0;
    for args in [["show", "--json"], ["verify", "--json"]] {
        for n in 0..failing.requests(&args).iter().sum() {
            failing.create(&["-r", "100", "-e", "5", "-c", &n.to_string()]);
            let run = failing.disk.dualroot(&args);
            failing.destroy();
            assert!(is_bare(&failing.disk), "request {n}: {run}");
            assert!(!run.stderr.contains("unmounting"), "request {n}: {run}");
            if args[0] == "verify" {
                assert!(matches!(run.code, 1 | 3 | 5 | 6), "request {n}: {run}");
                continue;
            }
            if run.code == 6 {
                continue; // It does not see a slot there.
            }
            let slots = &run.exits(0).json()["slots"];
            let slot = slots.as_array().unwrap().iter().find(|slot| slot["booted"] == false);
            let state = slot.unwrap()["state"].as_str().unwrap().to_owned();
            assert_ne!(state, "empty", "request {n}");
            unreadable += u32::from(state == "unknown");
        }
    }
    assert!(unreadable > 0);
}

fn gnop_is_destroyed_under_a_run() {
    let failing = Failing::new();
    failing.disk.much(8);
    for read_only in [false, true] {
        failing.create(&[]);
        let running = failing.disk.halted(read_only);
        tool("gnop", &[&"destroy", &"-f", &failing.nop()]);
        running.signal(Signal::SIGCONT);
        let run = running.wait();
        assert!(matches!(run.code, 1 | 5), "{run}");
        failing.disk.assert_unmounted();
        failing.name_directly();
        assert_ne!(failing.disk.state(), "valid");
        failing.name_through();
    }
}
