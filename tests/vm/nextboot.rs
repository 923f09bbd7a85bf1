//! A trial on an MBR, which has no flag for it: by nextboot(8), with the real loader.
//!
//! `vm/run.sh` boots the appliance that `made` installs again and again, and each boot runs the next
//! test there. Its `/var` is in memory and each slot has a `/config` of its own, so that the slot on trial
//! knows of it only by what the loader left.

use std::fs;
use std::path::Path;

use serde_json::{Value, json};

use crate::boot::{Names, gpart, install, on, run, runs_from, slots};
use crate::disk::{Mounted, dualroot};
use crate::harness::{BASE, Run, Test, skip, tests, tool};

pub const TESTS: &[Test] =
    tests![made, first_slot, on_trial, returned, confirmed, stays, rejected, back];

const NAMES: Names =
    Names { root: ["/dev/da0s1a", "/dev/da0s2a"], config: ["/dev/da0s3d", "/dev/da0s3e"] };
const FILE: &str = "boot/nextboot.conf";

/// MBR, a BSD label in every slice, `boot` in both roots' slices.
fn made() {
    if !Path::new("/dev/da1").exists() {
        skip("no /dev/da1");
    }
    gpart("create -s MBR da1");
    gpart("bootcode -b /boot/mbr da1");
    for (slice, size) in [(1, "320m"), (2, "320m"), (3, "33m")] {
        gpart(&format!("add -t freebsd -a 1m -s {size} -i {slice} da1"));
        gpart(&format!("create -s BSD da1s{slice}"));
    }
    for slice in [1, 2] {
        gpart(&format!("bootcode -b /boot/boot da1s{slice}"));
        gpart(&format!("add -t freebsd-ufs -i 1 da1s{slice}"));
    }
    gpart("add -t freebsd-ufs -s 16m -i 4 da1s3");
    gpart("add -t freebsd-ufs -s 16m -i 5 da1s3");
    gpart("set -a active -i 1 da1");
    install("/dev/da1s1a", "/dev/da1s3d", &NAMES, &[]);
    let root = Mounted::new(&[], "/dev/da1s1a", &Path::new(BASE).join("box"));
    let path = root.path().join("etc/rc.conf");
    let old = fs::read_to_string(&path).unwrap_or_default();
    fs::write(path, old + "varmfs=YES\nvarsize=32m\n").unwrap();
}

/// How this start came about.
fn how() -> Value {
    run(&["auto-snapshot", "--assess", "--json"]).json()["how"].clone()
}

fn next() -> Vec<(u64, bool)> {
    let report = run(&["show", "--json"]).json();
    let next = report["next"].as_array().unwrap().iter();
    next.map(|n| (n["slot"].as_u64().unwrap(), n["once"].as_bool().unwrap())).collect()
}

/// The slot that the loader came from, as it calls it.
fn loader() -> String {
    tool("kenv", &[&"currdev"]).trim().to_owned()
}

fn codes() -> String {
    let report = Run::of(dualroot().args(["check", "--json"])).json();
    let findings = report["findings"].as_array().unwrap().iter();
    findings.map(|f| f["code"].as_str().unwrap()).collect::<Vec<_>>().join(" ")
}

fn tries(slot: usize, from: usize) {
    let said = run(&["boot", &slot.to_string(), "--once"]);
    said.prints(&format!("kernel of slot {from}, root of slot {slot}"));
    assert_eq!(next(), [(slot as u64, true), (from as u64, false)]);
    let trial = run(&["show", "--json"]).json()["trial"].clone();
    assert_eq!((&trial["by"], &trial["stage"]), (&json!("nextboot"), &json!("armed")), "{trial}");
    let text = fs::read_to_string(Path::new("/").join(FILE)).unwrap();
    assert!(text.starts_with("nextboot_enable=\"YES\"\n"), "{text}");
}

fn first_slot() {
    runs_from(&NAMES, 0);
    assert_eq!(how(), "planned");
    Run::of(dualroot().args(["boot", "2", "--once"])).fails(6, "slot 2");
    run(&["snapshot"]).prints("The following filesystems were archived: / /config\n");
    tries(2, 1);
    Run::of(dualroot().args(["snapshot"])).fails(6, "nextboot.conf");
}

/// Kernel of slot 1, root of slot 2.
fn is_on_trial() {
    assert_eq!((on("/"), on("/config")), (NAMES.root[1].to_owned(), NAMES.config[1].to_owned()));
    assert_eq!(loader(), "disk0s1a:");
    assert_eq!(how(), "trial");
    let trial = run(&["show", "--json"]).json()["trial"].clone();
    assert_eq!((&trial["by"], &trial["stage"]), (&json!("nextboot"), &json!("running")), "{trial}");
    assert_eq!(next(), [(1, false)]);
    let codes = codes();
    assert!(codes.contains("trial-unconfirmed"), "{codes}");
    assert!(!codes.contains("half-boot") && !codes.contains("nextboot"), "{codes}");
    let first = Mounted::new(&["-o", "ro"], NAMES.root[0], &Path::new(BASE).join("first"));
    let text = fs::read_to_string(first.path().join(FILE)).unwrap();
    assert!(text.starts_with("nextboot_enable=\"NO\" \n"), "{text}");
}

fn on_trial() {
    is_on_trial();
    Run::of(dualroot().args(["snapshot"])).fails(6, "slot 1");
}

/// Nobody has confirmed it.
fn returned() {
    runs_from(&NAMES, 0);
    assert_eq!(loader(), "disk0s1a:");
    assert_eq!(how(), "returned");
    // /var was emptied twice since.
    let log = run(&["log", "--json"]).json();
    let verbs: Vec<_> = log["entries"].as_array().unwrap().iter().map(|e| &e["verb"]).collect();
    assert_eq!(verbs, ["snapshot", "boot"], "{log}");
    tries(2, 1);
}

fn confirmed() {
    is_on_trial();
    run(&["confirm"]);
    assert_eq!(next(), [(2, false)]);
}

/// From now on by its own kernel.
fn stays() {
    runs_from(&NAMES, 1);
    assert_eq!(loader(), "disk0s2a:");
    assert_eq!(how(), "planned");
    // It is given up before it has begun, and then it is not.
    tries(1, 2);
    run(&["reject"]);
    assert!(!Path::new("/").join(FILE).exists());
    assert_eq!(next(), [(2, false)]);
    tries(1, 2);
}

fn rejected() {
    assert_eq!((on("/"), loader()), (NAMES.root[0].to_owned(), "disk0s2a:".to_owned()));
    assert_eq!(how(), "trial");
    run(&["reject"]);
    assert_eq!(run(&["show", "--json"]).json()["trial"], Value::Null);
    assert_eq!(slots()[1]["active"], true);
}

fn back() {
    runs_from(&NAMES, 1);
    assert_eq!(loader(), "disk0s2a:");
    assert!(!codes().contains("half-boot"), "{}", codes());
}
