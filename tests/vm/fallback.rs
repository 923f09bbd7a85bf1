//! Trials, and a machine whose primary slot does not come up: it boots from the other one, says so,
//! repairs what is broken and nothing else.
//!
//! `vm/run.sh` boots the appliance that `made` installs again and again, each boot runs the next test
//! there, and between them it destroys the primary slot or cuts the power.

use std::fs;
use std::path::Path;
use std::thread::sleep;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::boot::{Names, gpart, install, run, runs_from, slots};
use crate::disk::Mounted;
use crate::harness::{BASE, Run, Test, program, skip, tests, tool};

pub const TESTS: &[Test] = tests![
    made,
    first_slot,
    on_trial,
    returned,
    confirmed,
    stays,
    falls_back,
    primary_again,
    chosen,
    cut_off,
    finishes,
];

const NAMES: Names = Names {
    root: ["/dev/gpt/boxA", "/dev/gpt/boxB"],
    config: ["/dev/gpt/boxConfigA", "/dev/gpt/boxConfigB"],
};
const TITLE: &str = "WARNING: THIS DEVICE HAS BOOTED FROM THE BACKUP BOX IMAGE";
/// What motd(5) was when rc(8) came to its end.
const AT_BOOT: &str = "/var/tmp/motd-at-boot";

/// GPT with gptboot, everything installed and switched on.
fn made() {
    if !Path::new("/dev/vtbd3").exists() {
        skip("no /dev/vtbd3");
    }
    gpart("create -s GPT vtbd3");
    gpart("add -t freebsd-boot -s 512k -i 1 vtbd3");
    gpart("bootcode -b /boot/pmbr -p /boot/gptboot -i 1 vtbd3");
    for (index, size, label) in [
        (2, "320m", "boxA"),
        (3, "320m", "boxB"),
        (4, "16m", "boxConfigA"),
        (5, "16m", "boxConfigB"),
    ] {
        gpart(&format!("add -t freebsd-ufs -a 1m -s {size} -i {index} -l {label} vtbd3"));
    }
    gpart("set -a bootme -i 2 vtbd3");
    install("/dev/vtbd3p2", "/dev/vtbd3p4", &NAMES, &[]);
    let root = Mounted::new(&[], "/dev/vtbd3p2", &Path::new(BASE).join("box"));
    let mut script = program("/bin/sh");
    script.arg("/root/in/scripts/install.sh").env("DUALROOT", "/root/in/dualroot");
    Run::of(script.env("DESTDIR", root.path())).exits(0);
    let append = |path: &str, text: &str| {
        let path = root.path().join(path);
        let old = fs::read_to_string(&path).unwrap_or_default();
        fs::write(path, old + text).unwrap();
    };
    append("etc/rc.conf", "dualroot_enable=YES\nauto_snapshot_enable=YES\nupdate_motd=YES\n");
    append("etc/dualroot.conf", "product = \"BOX\"\nauto-snapshot = true\n");
    append("etc/rc.local", &format!("cp /var/run/motd {AT_BOOT}\n"));
}

fn status() -> Value {
    run(&["auto-snapshot", "--status", "--json"]).json()
}

/// The journal's word for how this start came about.
fn how() -> Value {
    let text = fs::read_to_string("/config/.dualroot/journal.json").unwrap();
    serde_json::from_str::<Value>(&text).unwrap()["boot"]["how"].clone()
}

#[track_caller]
fn wait_for(state: &str) {
    let begun = Instant::now();
    loop {
        let found = status();
        if found["state"] == state {
            return;
        }
        let log = fs::read_to_string("/var/log/auto-snapshot.log").unwrap_or_default();
        assert!(begun.elapsed() < Duration::from_secs(200), "{found}\n{log}");
        sleep(Duration::from_millis(500));
    }
}

fn motd() -> String {
    let read = |path: &str| fs::read_to_string(path).unwrap_or_default();
    read("/var/run/motd") + &read("/etc/motd.template")
}

fn next() -> Value {
    run(&["show", "--json"]).json()["next"].clone()
}

fn first_slot() {
    runs_from(&NAMES, 0);
    assert_eq!(how(), "planned");
    assert!(!fs::read_to_string(AT_BOOT).unwrap().contains("WARNING: THIS DEVICE"));
    run(&["snapshot"]).prints("The following filesystems were archived: / /config\n");
    let next = next();
    assert_eq!((&next[0]["slot"], &next[1]["slot"]), (&json!(1), &json!(2)), "{next}");
    run(&["boot", "2", "--once"]);
}

/// gptboot has started it once. Its own journal knows nothing of that, since each slot has its own.
fn on_trial() {
    is_on_trial();
    assert_eq!(next()[0]["slot"], 1, "and then the other one again");
}

fn is_on_trial() {
    let both = slots();
    assert_eq!((&both[1]["booted"], &both[1]["active"]), (&json!(true), &json!(false)), "{both:?}");
    assert_eq!(how(), "trial");
    assert!(!fs::read_to_string(AT_BOOT).unwrap().contains("WARNING: THIS DEVICE"));
}

/// Nobody has confirmed it: the known-good slot runs again by itself.
fn returned() {
    runs_from(&NAMES, 0);
    assert_eq!(how(), "returned");
    assert!(!motd().contains("WARNING: THIS DEVICE"), "{}", motd());
    run(&["boot", "2", "--once"]);
}

fn confirmed() {
    is_on_trial();
    run(&["confirm"]);
    assert_eq!(next()[0]["slot"], 2);
}

fn stays() {
    runs_from(&NAMES, 1);
    assert_eq!(how(), "planned");
    run(&["boot", "1"]);
    let next = next();
    assert_eq!((&next[0]["slot"], &next[1]["slot"]), (&json!(1), &json!(2)), "{next}");
}

/// The file system of the first slot was destroyed.
fn falls_back() {
    let both = slots();
    assert_eq!((&both[1]["booted"], &both[0]["booted"]), (&json!(true), &json!(false)), "{both:?}");
    assert_eq!(how(), "fallback");
    let seen = fs::read_to_string(AT_BOOT).unwrap();
    assert!(seen.contains(TITLE) && seen.contains("slot 1 (/dev/vtbd0p2) was to run"), "{seen}");
    is_repaired();
    let next = next();
    assert_eq!((&next[0]["slot"], &next[1]["slot"]), (&json!(1), &json!(2)), "{next}");
    let log = tool("cat", &[&"/var/log/auto-snapshot.log"]);
    assert!(log.contains("is repaired, and starts next"), "{log}");
    fs::write("/etc/made-on-slot-2", "later than the copy\n").unwrap();
}

/// The primary slot is whole and starts next, and the notice is gone.
#[track_caller]
fn is_repaired() {
    wait_for("Completed");
    let both = slots();
    let first = (&both[0]["state"], &both[0]["active"]);
    assert_eq!(first, (&json!("valid"), &json!(true)), "{both:?}");
    assert!(!motd().contains("WARNING: THIS DEVICE"), "{}", motd());
}

/// And is whole again; the operator then chooses the other one.
fn primary_again() {
    runs_from(&NAMES, 0);
    assert_eq!(how(), "planned");
    assert!(!motd().contains("WARNING: THIS DEVICE"), "{}", motd());
    assert!(!Path::new("/etc/made-on-slot-2").exists());
    assert_eq!(slots()[0]["state"], "valid");
    fs::write("/etc/made-on-slot-1", "newer\n").unwrap();
    run(&["boot", "2"]);
}

/// No copy, no notice: what is on the first slot stays.
fn chosen() {
    runs_from(&NAMES, 1);
    assert_eq!(how(), "planned");
    assert!(Path::new("/etc/made-on-slot-2").exists());
    assert!(!motd().contains("WARNING: THIS DEVICE"), "{}", motd());
    let first = Mounted::new(&["-o", "ro"], NAMES.root[0], &Path::new(BASE).join("first"));
    assert_eq!(fs::read(first.path().join("etc/made-on-slot-1")).unwrap(), b"newer\n");
    drop(first);
    let running = tool("ps", &[&"-ax", &"-o", &"command="]);
    assert!(!running.contains("auto-snapshot"), "{running}");
    run(&["boot", "1"]);
}

/// Destroyed once more; the power goes while it is repaired.
fn cut_off() {
    assert_eq!(how(), "fallback");
    wait_for("In progress");
    let begun = Instant::now();
    while slots()[0]["state"] != "writing" {
        assert!(begun.elapsed() < Duration::from_secs(200), "{:?}", slots());
        sleep(Duration::from_millis(200));
    }
    assert_eq!(next()[0]["slot"], 2, "the flags are on the running slot first");
}

fn finishes() {
    let both = slots();
    assert_eq!((&both[1]["booted"], &both[0]["booted"]), (&json!(true), &json!(false)), "{both:?}");
    assert_eq!(how(), "fallback");
    is_repaired();
    crate::compare::assert_sound(NAMES.root[0]);
}
