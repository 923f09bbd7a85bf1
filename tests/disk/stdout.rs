//! Results that nobody can be told.

use std::fs::OpenOptions;
use std::process::Stdio;

use crate::harness::{Disk, Layout, Run, ready};

const MESSAGE: &str = "printing the result: No space left on device";

fn full() -> Stdio {
    OpenOptions::new().write(true).open("/dev/full").unwrap().into()
}

#[test]
fn a_full_stdout_is_a_failure() {
    if !ready(&[]) {
        return;
    }
    let disk = Disk::new(Layout::default());
    disk.fill();
    let told = |args: &[&str], code| {
        let run = Run::of(disk.command(args).stdout(full())).fails(code, MESSAGE);
        assert!(run.stderr.contains("\nhint: ") == (code == 1), "{run}");
        run
    };
    // It goes on all the same, and says what became of it.
    told(&["snapshot"], 1).says("the snapshot was made and is valid");
    assert_eq!(disk.state(), "valid");
    told(&["--json", "snapshot"], 1).says("the snapshot was made and is valid");
    for args in [
        &["show"][..],
        &["show", "--json"],
        &["verify"],
        &["partitions"],
        &["log"],
        &["snapshot", "-n"],
        &["table", "check"],
        &["auto-snapshot", "--status"],
    ] {
        told(args, 1).says("nothing was to be changed");
    }
    for args in [&["clean"][..], &["table", "save"]] {
        told(args, 1).says("what was to be done is done");
    }
    // What was found is more.
    disk.write("etc/fstab", "/dev/none / ext4 rw 1 1\n");
    told(&["check"], 3);
}

/// `head` has enough.
#[test]
fn a_reader_that_goes_away_is_no_failure() {
    if !ready(&[]) {
        return;
    }
    let disk = Disk::new(Layout::default());
    disk.fill();
    for args in [&["snapshot"][..], &["show", "--json"]] {
        let (reader, writer) = std::io::pipe().unwrap();
        drop(reader);
        let run = Run::of(disk.command(args).stdout(writer)).exits(0);
        assert_eq!(run.stderr, "");
    }
    assert_eq!(disk.state(), "valid");
}

/// One object on one line, in which nothing is said twice.
#[test]
fn every_verb_has_one_object() {
    if !ready(&[]) {
        return;
    }
    let disk = Disk::new(Layout::default());
    disk.fill();
    for args in [
        &["snapshot", "-n"][..],
        &["snapshot"],
        &["show"],
        &["partitions"],
        &["verify"],
        &["check"],
        &["clean"],
        &["log"],
        &["boot", "2"],
        &["auto-snapshot"],
        &["auto-snapshot", "--status"],
        &["auto-snapshot", "--enable"],
        &["auto-snapshot", "--assess"],
        &["confirm"],
        &["reject"],
        &["table", "save"],
        &["table", "check"],
        &["table", "restore", "-n"],
        &["factory", "save"],
        &["snapshot", "--factory"],
    ] {
        let run = disk.dualroot(&[&["--json"], args].concat());
        assert_eq!(run.json()["schema"], 1, "{run}");
        assert_eq!(run.stdout.lines().count(), 1, "{run}");
    }
}
