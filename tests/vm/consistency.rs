//! A source that is written while it is copied. A file that changes under the copy is copied again;
//! what never holds still fails the run.

use std::fs::{self, OpenOptions};
use std::os::unix::fs::FileExt;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use crate::compare::assert_sound;
use crate::disk::{Disk, Layout, pattern};
use crate::harness::{Running, Test, tests};

pub const TESTS: &[Test] =
    tests![writers_hammer_the_source, a_file_never_holds_still, files_come_and_go];

/// Bytes of a file of which every block says the same generation.
const BLOCK: usize = 4096;
const BLOCKS: usize = 64;

fn generation(n: u64) -> Vec<u8> {
    n.to_le_bytes().repeat(BLOCK * BLOCKS / 8)
}

/// Whole files are replaced by renaming, as a careful program does: the copy has one moment of each.
fn writers_hammer_the_source() {
    let disk = Disk::new(Layout::default());
    disk.fill();
    for n in 0..6 {
        disk.write(&format!("usr/much/{n}"), pattern(1 << 20, n + 100));
        disk.write(&format!("var/replaced{n}"), generation(0));
    }
    let done = AtomicBool::new(false);
    let root = disk.root();
    thread::scope(|scope| {
        scope.spawn(|| {
            for round in 1.. {
                if done.load(Ordering::Relaxed) {
                    return;
                }
                let name = format!("replaced{}", round % 6);
                let new = root.join("var").join("new");
                fs::write(&new, generation(round)).unwrap();
                fs::rename(&new, root.join("var").join(name)).unwrap();
                thread::sleep(std::time::Duration::from_millis(20));
            }
        });
        let run = disk.dualroot(&["snapshot"]);
        done.store(true, Ordering::Relaxed);
        run.exits(0);
    });
    assert_eq!(disk.state(), "valid");
    disk.dualroot(&["verify"]).exits(0);
    assert_sound(&disk.node(2));
    let copy = disk.mount_copy();
    for n in 0..6 {
        let content = fs::read(copy.path().join(format!("var/replaced{n}"))).unwrap();
        let first = &content[..8];
        assert_eq!(content.len(), BLOCK * BLOCKS);
        assert!(content.chunks_exact(8).all(|c| c == first), "replaced{n} is of two moments");
    }
}

/// One file is written all the time, in place: there is no moment that could be copied.
fn a_file_never_holds_still() {
    let disk = Disk::new(Layout::default());
    disk.fill();
    disk.write("var/log/busy", pattern(4 << 20, 9));
    let done = AtomicBool::new(false);
    let path = disk.root().join("var/log/busy");
    let run = thread::scope(|scope| {
        scope.spawn(|| {
            let file = OpenOptions::new().write(true).open(&path).unwrap();
            for n in 0_u64.. {
                if done.load(Ordering::Relaxed) {
                    return;
                }
                file.write_all_at(&n.to_le_bytes(), n % (4 << 20)).unwrap();
            }
        });
        let run = disk.dualroot(&["snapshot"]);
        done.store(true, Ordering::Relaxed);
        run
    });
    run.fails(1, "var/log/busy").says("it changed every time while it was read");
    disk.assert_unmounted();
    assert_ne!(disk.state(), "valid");
    disk.snapshot();
    assert_eq!(disk.state(), "valid");
}

/// What vanishes while it is copied is counted and told, and is no failure.
fn files_come_and_go() {
    let disk = Disk::new(Layout::default());
    disk.fill();
    for n in 0..6 {
        disk.write(&format!("usr/much/{n}"), pattern(1 << 20, n + 100));
    }
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
    running.signal(nix::sys::signal::Signal::SIGCONT);
    let report = running.wait().exits(0).json();
    assert_eq!(report["pairs"][0]["verified"], true, "{report}");
    disk.dualroot(&["verify"]).exits(0);
    assert_sound(&disk.node(2));
}
