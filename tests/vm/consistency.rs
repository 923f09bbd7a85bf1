//! A source that is written while it is copied: read-only it is copied as it lies, read-write from a
//! snapshot where that is safe, else a file that changes under the copy is copied again. The output
//! says which it was.

use std::fs::{self, OpenOptions};
use std::os::unix::fs::FileExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use nix::sys::signal::{Signal, killpg};
use nix::unistd::Pid;
use serde_json::Value;

use crate::compare::{assert_equal, assert_manifest, assert_sound};
use crate::disk::{Disk, Layout, Mounted, mounts, pattern};
use crate::harness::{Holder, Running, Test, tests, tool, try_tool, wait_until};

pub const TESTS: &[Test] = tests![
    a_read_only_root_is_copied_as_it_lies,
    writers_hammer_the_source,
    a_file_never_holds_still,
    files_come_and_go_without_a_snapshot,
    journaled_soft_updates,
    too_full_for_a_snapshot,
    no_more_snapshots_than_twenty,
    what_other_snapshots_there_are_stays,
    a_snapshot_among_the_files_is_empty_in_the_copy,
    a_root_made_without_its_snapshot_directory,
    what_a_mount_covers_is_copied,
    by_label_and_looked_at_meanwhile,
    killed_in_the_middle,
    ended_by_a_signal,
    ended_by_many_signals,
    the_config_too,
];

/// Bytes of a file of which every block says the same generation.
const BLOCK: usize = 4096;
const BLOCKS: usize = 64;
/// Files that a writer goes through, one generation after the other.
const FILES: usize = 6;

fn generation(n: u64) -> Vec<u8> {
    n.to_le_bytes().repeat(BLOCK * BLOCKS / 8)
}

/// More to copy than can be done before the test has looked.
fn disk(layout: Layout) -> Disk {
    let disk = Disk::new(layout);
    disk.fill();
    for n in 0..6 {
        disk.write(&format!("usr/much/{n}"), pattern(1 << 20, n + 100));
    }
    disk
}

/// A snapshot run with its report; one pair of it says this of its consistency.
#[track_caller]
fn copied(disk: &Disk, pair: usize, consistency: &str) -> Value {
    let report = disk.dualroot(&["snapshot", "--json"]).exits(0).json();
    let pair = report["pairs"][pair].clone();
    assert_eq!(pair["consistency"], consistency, "{report}");
    assert_eq!(pair["no_snapshot"].is_string(), consistency == "change-detection", "{report}");
    nothing_left(disk);
    pair
}

/// Our snapshots in the source, the memory disks over them and their mounts.
pub fn left(disk: &Disk) -> Vec<String> {
    let dir = disk.root().join(".snap");
    let names = fs::read_dir(&dir).into_iter().flatten().map(|e| e.unwrap().path());
    let ours = |p: &PathBuf| p.extension().is_some_and(|e| e == "dualroot");
    let files = names.filter(ours).map(|p| p.display().to_string());
    let disks = tool("mdconfig", &[&"-lv"]);
    let disks = disks.lines().filter(|l| l.contains(".snap/")).map(str::to_owned);
    let frozen = |p: &Path| p.starts_with("/var/run/dualroot");
    let mounts = mounts().into_iter().filter(|m| frozen(&m.point)).map(|m| m.source);
    files.chain(disks).chain(mounts).collect()
}

#[track_caller]
pub fn nothing_left(disk: &Disk) {
    let left = left(disk);
    assert!(left.is_empty(), "{left:?}");
}

/// The source is whole after all that was done in it.
pub fn source_is_sound(disk: &Disk) {
    tool("umount", &[&disk.root()]);
    assert_sound(&disk.node(1));
    tool("mount", &[&disk.node(1), &disk.root()]);
}

fn a_read_only_root_is_copied_as_it_lies() {
    let disk = disk(Layout::default());
    tool("mount", &[&"-u", &"-o", &"ro", &disk.root()]);
    let before = disk.hash(&disk.part(1));
    copied(&disk, 0, "read-only");
    assert!(disk.hash(&disk.part(1)) == before, "the source was written");
    disk.snapshot().prints("/: copied mounted read-only\n");
}

fn writers_hammer_the_source() {
    let disk = disk(Layout { newfs: vec!["-U", "-L", "vmlive1"], ..Layout::default() });
    hammered(&disk, &["snapshot"]);
}

/// One writer goes through the files, over and over, in place: at every moment the first of them are
/// of one generation and the others of the one before. So must be the copy.
pub fn hammered(disk: &Disk, words: &[&str]) {
    for n in 0..FILES {
        disk.write(&format!("var/turn{n}"), generation(0));
    }
    let done = AtomicBool::new(false);
    let root = disk.root();
    thread::scope(|scope| {
        scope.spawn(|| {
            for round in 1.. {
                for n in 0..FILES {
                    if done.load(Ordering::Relaxed) {
                        return;
                    }
                    let file =
                        OpenOptions::new().write(true).open(root.join(format!("var/turn{n}")));
                    file.unwrap().write_all_at(&generation(round), 0).unwrap();
                }
                // Directories and inodes come and go, too.
                let dir = root.join(format!("var/tmp{}", round % 3));
                let _ = fs::remove_dir_all(&dir);
                fs::create_dir(&dir).unwrap();
                fs::write(dir.join("file"), generation(round)).unwrap();
            }
        });
        let run = disk.dualroot(words);
        done.store(true, Ordering::Relaxed);
        run.exits(0).prints("/: copied by a snapshot of the file system\n");
    });
    nothing_left(disk);
    assert_eq!(disk.state(), "valid");
    disk.dualroot(&["verify"]).exits(0);
    assert_sound(&disk.node(2));
    let copy = disk.mount_copy();
    let read = |n| fs::read(copy.path().join(format!("var/turn{n}"))).unwrap();
    // Block by block in the order of the writing: falling by one, once at most.
    let blocks: Vec<u64> = (0..FILES)
        .flat_map(|n| {
            let content = read(n);
            assert_eq!(content.len(), BLOCK * BLOCKS);
            content.chunks(8).map(|c| u64::from_le_bytes(c.try_into().unwrap())).collect::<Vec<_>>()
        })
        .collect();
    let falls: Vec<_> = blocks.windows(2).filter(|w| w[0] != w[1]).map(|w| (w[0], w[1])).collect();
    assert!(matches!(falls[..], []) || matches!(falls[..], [(a, b)] if a == b + 1), "{falls:?}");
    drop(copy);
    source_is_sound(disk);
}

/// One file is written all the time, in place: without a snapshot there is no moment of it that
/// could be copied.
fn a_file_never_holds_still() {
    let disk = disk(Layout::default());
    disk.write("var/log/busy", pattern(4 << 20, 9));
    disk.configure("file_system_snapshots = false\n");
    let path = disk.root().join("var/log/busy");
    let busy = |run: &dyn Fn()| {
        let done = AtomicBool::new(false);
        thread::scope(|scope| {
            scope.spawn(|| {
                let file = OpenOptions::new().write(true).open(&path).unwrap();
                for n in 0_u64.. {
                    if done.load(Ordering::Relaxed) {
                        return;
                    }
                    file.write_all_at(&n.to_le_bytes(), n % (4 << 20)).unwrap();
                }
            });
            run();
            done.store(true, Ordering::Relaxed);
        });
    };
    busy(&|| {
        let run = disk.dualroot(&["snapshot"]);
        run.fails(1, "var/log/busy").says("it changed every time while it was read");
    });
    disk.assert_unmounted();
    assert_ne!(disk.state(), "valid");
    disk.configure("");
    busy(&|| drop(copied(&disk, 0, "snapshot")));
    assert_eq!(disk.state(), "valid");
}

/// What vanishes while it is copied is counted and told, and is no failure.
fn files_come_and_go_without_a_snapshot() {
    let disk = disk(Layout::default());
    disk.configure("file_system_snapshots = false\n");
    for n in 0..300 {
        disk.write(&format!("zz/{n}"), format!("{n}"));
    }
    let running = Running::start(disk.command(&["snapshot", "--json"]));
    disk.wait_mounted(false);
    running.halt();
    for n in 0..300 {
        fs::remove_file(disk.root().join(format!("zz/{n}"))).unwrap();
    }
    disk.write("zz/new", "new");
    running.signal(Signal::SIGCONT);
    let report = running.wait().exits(0).json();
    let pair = &report["pairs"][0];
    assert_eq!(pair["verified"], true, "{report}");
    assert_eq!(pair["no_snapshot"], "switched off in the configuration", "{report}");
    disk.dualroot(&["verify"]).exits(0);
    assert_sound(&disk.node(2));
}

/// Journaled soft updates and snapshots go together since FreeBSD 14.
fn journaled_soft_updates() {
    let disk = disk(Layout { newfs: vec!["-j"], ..Layout::default() });
    let version: u32 = tool("sysctl", &[&"-n", &"kern.osreldate"]).trim().parse().unwrap();
    if version < 1_400_000 {
        let pair = copied(&disk, 0, "change-detection");
        let why = pair["no_snapshot"].as_str().unwrap();
        assert!(why.contains("soft updates journaling"), "{why}");
        disk.snapshot()
            .prints("/: copied as it was used, with changes copied again (no snapshot: ");
    } else {
        copied(&disk, 0, "snapshot");
    }
    source_is_sound(&disk);
}

/// `mksnap_ffs`(8): a full disk may panic the system.
fn too_full_for_a_snapshot() {
    let disk = disk(Layout { roots_mb: [24, 32], ..Layout::default() });
    let mut number = 0;
    let free = || nix::sys::statvfs::statvfs(&disk.root()).unwrap();
    while free().blocks_free() * 10 >= free().blocks() {
        disk.write(&format!("usr/fill/{number}"), pattern(512 << 10, number + 300));
        number += 1;
    }
    let pair = copied(&disk, 0, "change-detection");
    let why = pair["no_snapshot"].as_str().unwrap();
    assert!(why.contains("% of the file system are free"), "{why}");
    assert_eq!(disk.state(), "valid");
}

/// `FSMAXSNAP`: the next one is `ENOSPC`.
fn no_more_snapshots_than_twenty() {
    let disk = disk(Layout { roots_mb: [40, 40], ..Layout::default() });
    for n in 0..20 {
        tool("mksnap_ffs", &[&disk.root().join(format!(".snap/{n}"))]);
    }
    let pair = copied(&disk, 0, "change-detection");
    let why = pair["no_snapshot"].as_str().unwrap();
    assert!(why.contains("No space left on device"), "{why}");
    assert_eq!(fs::read_dir(disk.root().join(".snap")).unwrap().count(), 20);
    assert_eq!(disk.state(), "valid");
}

/// An operator's own snapshots are neither removed nor copied.
fn what_other_snapshots_there_are_stays() {
    let disk = disk(Layout::default());
    let (kept, odd) = (disk.root().join(".snap/monday"), disk.root().join(".snap/1.old"));
    tool("mksnap_ffs", &[&kept]);
    fs::write(&odd, "no snapshot").unwrap();
    copied(&disk, 0, "snapshot");
    disk.dualroot(&["clean"]).exits(0);
    assert!(tool("snapinfo", &[&disk.root()]).contains(".snap/monday") && odd.exists());
    let copy = disk.mount_copy();
    assert_eq!(fs::read_dir(copy.path().join(".snap")).unwrap().count(), 0);
    drop(copy);
    source_is_sound(&disk);
}

/// Its size is that of the file system, and it reads as that.
fn a_snapshot_among_the_files_is_empty_in_the_copy() {
    for consistency in ["snapshot", "read-only", "change-detection"] {
        let disk = disk(Layout::default());
        let kept = disk.write("var/backups/monday", "");
        fs::remove_file(&kept).unwrap();
        tool("mksnap_ffs", &[&kept]);
        match consistency {
            "read-only" => drop(tool("mount", &[&"-u", &"-o", &"ro", &disk.root()])),
            "change-detection" => disk.configure("file_system_snapshots = false\n"),
            _ => {}
        }
        // Also where the older copy is brought up to date.
        for _ in 0..2 {
            copied(&disk, 0, consistency);
            let copy = disk.mount_copy();
            let there = copy.path().join("var/backups/monday");
            assert_eq!(
                tool("stat", &[&"-f", &"%z %b %Sf", &there]).trim(),
                "0 0 -",
                "{consistency}"
            );
        }
        assert!(tool("snapinfo", &[&disk.root()]).contains("backups/monday"));
    }
}

fn a_root_made_without_its_snapshot_directory() {
    let disk = disk(Layout { newfs: vec!["-U", "-n"], ..Layout::default() });
    assert!(!disk.root().join(".snap").exists());
    copied(&disk, 0, "snapshot");
    disk.dualroot(&["verify"]).exits(0);
}

/// Memory disks over `/etc` and `/var`, as NanoBSD has them: they are not copied, and what they cover
/// is, whether the root is read from a snapshot, as it lies, or as it is used.
fn what_a_mount_covers_is_copied() {
    for consistency in ["snapshot", "read-only", "change-detection"] {
        let disk = disk(Layout::default());
        disk.write("etc/rc", "#!/bin/sh\n");
        disk.write("etc/rc.d/motd", pattern(5000, 1));
        let deep: Vec<_> = (0..40).map(|n| format!("d{n}")).collect();
        disk.write(&format!("var/{}/file", deep.join("/")), "at the end");
        disk.write("var/d0/behind", "it");
        match consistency {
            "read-only" => drop(tool("mount", &[&"-u", &"-o", &"ro", &disk.root()])),
            "change-detection" => {
                disk.configure("file_system_snapshots = false\n");
                // No moment ago, on the medium there was neither of the two.
                disk.write("new/below", "hidden");
                fs::remove_dir(disk.altroot()).unwrap();
            }
            _ => {}
        }
        let over = |name: &str| {
            let over = Mounted::new(&["-t", "tmpfs"], "tmpfs", &disk.root().join(name));
            fs::write(over.path().join("above"), "not ours").unwrap();
            over
        };
        let mut all = vec![over("etc"), over("var")];
        if consistency == "change-detection" {
            all.push(over("new"));
        }
        disk.write("etc/fstab", format!("{} / ufs ro 1 1\ntmpfs /etc tmpfs rw\n", disk.node(1)));
        for round in 1..=2 {
            copied(&disk, 0, consistency);
            disk.dualroot(&["verify"]).exits(0);
            assert_eq!(disk.slot(2)["product"], "Example OS", "{consistency} {round}");
        }
        if consistency == "read-only" {
            disk.dualroot(&["snapshot", "--method", "block"]).exits(0).prints("mounted read-only");
            disk.dualroot(&["verify"]).exits(0);
        }
        while let Some(over) = all.pop() {
            drop(over);
        }
        let copy = disk.mount_copy();
        assert_equal(&disk.root(), copy.path());
        assert_manifest(copy.path());
        let fstab = fs::read_to_string(copy.path().join("etc/fstab")).unwrap();
        assert!(fstab.contains(&format!("\n{} / ufs rw", disk.node(2))), "{fstab}");
    }
}

/// The snapshot's memory disk bears the label and the ufsid of the running root: nobody takes the
/// one for the other, in the run or beside it.
fn by_label_and_looked_at_meanwhile() {
    for read_by in ["/dev/ufs/vmlive1", ""] {
        let disk = disk(Layout { newfs: vec!["-U", "-L", "vmlive1"], ..Layout::default() });
        if !read_by.is_empty() {
            tool("umount", &[&disk.root()]);
            wait_until("the label is there", || Path::new(read_by).exists());
            tool("mount", &[&read_by, &disk.root()]);
        }
        disk.write_fstab("/dev/ufs/vmlive1");
        let running = Running::start(disk.command(&["snapshot"]));
        wait_until("the snapshot is mounted", || {
            mounts().iter().any(|m| m.point.starts_with("/var/run/dualroot"))
        });
        running.halt();
        assert_eq!(left(&disk).len(), 3, "{:?}", left(&disk));
        let text = disk.dualroot(&["show"]).exits(0).stdout;
        assert!(text.contains("(primary)") && text.contains("State: writing"), "{text}");
        disk.dualroot(&["clean"]).fails(4, "dualroot snapshot");
        running.signal(Signal::SIGCONT);
        running.wait().exits(0).prints("by a snapshot");
        nothing_left(&disk);
        assert_eq!(disk.state(), "valid");
        let copy = disk.mount_copy();
        let fstab = fs::read_to_string(copy.path().join("etc/fstab")).unwrap();
        assert!(fstab.contains("/dev/ufs/vmlive2 / ufs"), "{fstab}");
        drop(copy);
    }
}

/// A run that stands still while it copies the snapshot.
fn start(disk: &Disk) -> Running {
    let running = Running::start(disk.command(&["snapshot"]));
    disk.wait_mounted(false);
    running.halt();
    assert_eq!(left(disk).len(), 3, "{:?}", left(disk));
    running
}

/// What a killed run left takes the running root's room: the next run, or `clean`, removes it.
fn killed_in_the_middle() {
    let disk = disk(Layout::default());
    for words in [&["clean"][..], &["snapshot"]] {
        let running = start(&disk);
        running.signal(Signal::SIGKILL);
        running.wait().exits(1009);
        assert_eq!(left(&disk).len(), 3);
        let text = disk.dualroot(&["show"]).exits(0).stdout;
        assert!(text.contains("(primary)") && text.contains("(backup)"), "{text}");
        let run = disk.dualroot(words).exits(0);
        if words == ["clean"] {
            run.prints(".dualroot: removed\n").prints("frozen: unmounted /dev/md");
        }
        nothing_left(&disk);
    }
    assert_eq!(disk.state(), "valid");
    source_is_sound(&disk);
    // After a power cut only the file is left, and its number may be a daemon's by then.
    let daemon = Holder::inside(Path::new("/"));
    for pid in [99_999, daemon.pid()] {
        let file = disk.root().join(format!(".snap/{pid}.dualroot"));
        tool("mksnap_ffs", &[&file]);
        disk.dualroot(&["clean"]).exits(0).prints(&format!("{}: removed\n", file.display()));
        nothing_left(&disk);
    }
    assert_eq!(try_tool("snapinfo", &[&disk.root()]).stdout, "");
}

fn ended_by_a_signal() {
    let disk = disk(Layout::default());
    let running = start(&disk);
    running.signal(Signal::SIGTERM);
    running.signal(Signal::SIGCONT);
    running.wait().exits(128 + 15);
    nothing_left(&disk);
    disk.assert_unmounted();
}

/// A terminal's Ctrl-C, pressed again and again: nothing that gives back ends by it.
fn ended_by_many_signals() {
    let disk = disk(Layout::default());
    let mut command = disk.command(&["snapshot"]);
    command.process_group(0);
    let mut running = Running::start(command);
    disk.wait_mounted(false);
    running.halt();
    let group = Pid::from_raw(i32::try_from(running.pid()).unwrap());
    killpg(group, Signal::SIGINT).unwrap();
    running.signal(Signal::SIGCONT);
    while !running.ended() {
        let _ = killpg(group, Signal::SIGINT);
        thread::sleep(Duration::from_millis(1));
    }
    println!("{}", running.wait().exits(128 + 2));
    nothing_left(&disk);
    disk.assert_unmounted();
}

fn the_config_too() {
    let disk = disk(Layout::with_config());
    copied(&disk, 0, "snapshot");
    copied(&disk, 1, "snapshot");
    tool("mount", &[&"-u", &"-o", &"ro", &disk.root().join("config")]);
    copied(&disk, 0, "snapshot");
    copied(&disk, 1, "read-only");
    disk.dualroot(&["verify"]).exits(0);
}
