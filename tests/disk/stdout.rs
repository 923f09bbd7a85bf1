//! Results that nobody can be told.

use std::collections::BTreeSet;
use std::fs::OpenOptions;
use std::process::Stdio;

use serde_json::Value;

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

/// The names of a value, and of those in it.
fn names(value: &Value, all: &mut BTreeSet<String>) {
    match value {
        Value::Object(map) => {
            for (name, value) in map {
                all.insert(name.clone());
                names(value, all);
            }
        }
        Value::Array(list) => {
            for value in list {
                names(value, all);
            }
        }
        _ => {}
    }
}

/// One object on one line, in which nothing is said twice, and whose every key the manual has.
#[test]
fn every_verb_has_one_object() {
    if !ready(&[]) {
        return;
    }
    let manual = include_str!("../../scripts/dualroot.8");
    let (_, section) = manual.split_once("\n.Sh JSON\n").unwrap();
    let (section, _) = section.split_once("\n.Sh ").unwrap();
    let is_part = |c: char| c.is_ascii_alphanumeric() || c == '_';
    let words: BTreeSet<_> = section.split(|c| !is_part(c)).collect();
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
        let mut all = BTreeSet::new();
        names(&run.json(), &mut all);
        let missing: Vec<_> = all.iter().filter(|name| !words.contains(name.as_str())).collect();
        assert!(missing.is_empty(), "not in the manual: {missing:?}");
    }
}
