//! One writer per medium; `show` never waits for it.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use crate::harness::{Call, Disk, Layout, Run, Running, ready};

/// A run that is refused a lock ends within this.
const AT_ONCE: Duration = Duration::from_secs(1);

fn disk() -> Disk {
    let disk = Disk::new(Layout::roots(16, 16));
    disk.fill();
    disk.snapshot();
    disk
}

/// Runs the program to its end, which must come at once.
#[track_caller]
fn at_once(disk: &Disk, args: &[&str]) -> Run {
    let begun = Instant::now();
    let run = disk.dualroot(args);
    assert!(begun.elapsed() < AT_ONCE, "it took {:?}: {run}", begun.elapsed());
    run
}

/// No other writer gets in, and `show` tells that the slot is being written.
#[track_caller]
fn locked_out(disk: &Disk, pid: u32) {
    let mounts = disk.alternate_mounts().len();
    let words = format!("process {pid} (dualroot snapshot)");
    for args in [&["snapshot"][..], &["verify"], &["clean"], &["snapshot", "--force"]] {
        let run = at_once(disk, args).fails(4, &words);
        assert_eq!(run.stdout, "");
    }
    let error = at_once(disk, &["--json", "snapshot"]).exits(4).json()["error"].clone();
    assert_eq!(error["code"], "busy");
    assert!(error["cause"].as_str().unwrap().contains(&words), "{error}");

    let run = at_once(disk, &["show"]).exits(0);
    assert!(run.stdout.contains(&format!("internal ({}) (primary)", disk.node(1))), "{run}");
    assert!(run.stdout.contains(&format!("internal ({}) (backup)", disk.node(2))), "{run}");
    assert!(run.stdout.contains("State: writing"), "{run}");
    assert!(run.stdout.contains(&pid.to_string()), "{run}");
    assert!(!run.stdout.contains("error"), "{run}");
    let report = at_once(disk, &["show", "--json"]).exits(0).json();
    let slot = &report["slots"][1];
    assert_eq!((&slot["slot"], &slot["state"]), (&2.into(), &"writing".into()), "{report}");
    assert_eq!(report["slots"][0]["booted"], true, "{report}");
    assert_eq!(disk.alternate_mounts().len(), mounts, "somebody touched the running snapshot");
}

fn held_at(call: Call<'_>) {
    let disk = disk();
    let halted = disk.halt(&["snapshot", "--fresh"], call);
    locked_out(&disk, halted.running.pid());
    halted.go().wait_soon().exits(0);
    assert_eq!(disk.state(), "valid");
}

#[test]
fn before_the_format() {
    if ready(&["cc"]) {
        held_at(("spawn", ".rehearsal", 0));
    }
}

#[test]
fn in_the_copy() {
    if ready(&["cc"]) {
        held_at(("create", "20.txt", 0));
    }
}

#[test]
fn in_the_verification() {
    if ready(&["cc"]) {
        held_at(("open", "20.txt", 1));
    }
}

#[test]
fn at_the_record() {
    if ready(&["cc"]) {
        held_at(("rename", "record.json", 0));
    }
}

/// The lock is the medium's, not the slot's or the command line's.
#[test]
fn another_medium_is_free() {
    if !ready(&["cc"]) {
        return;
    }
    let (disk, other) = (disk(), disk());
    let halted = disk.halt(&["snapshot", "--fresh"], ("create", "20.txt", 0));
    other.snapshot();
    assert_eq!(other.state(), "valid");
    halted.go().wait_soon().exits(0);
}

/// A run onto another medium uses the mount points, the journal and the flags of the same system: no
/// other writer gets in, whatever it says, and nobody takes the run for one that is gone.
#[test]
fn a_run_onto_another_medium_is_at_work() {
    if !ready(&["cc"]) {
        return;
    }
    let (disk, other) = (disk(), Disk::new(Layout::roots(16, 16)));
    let onto = format!("--media={}", other.medium().display());
    let halted = disk.halt(&["snapshot", "--fresh", &onto], ("create", "20.txt", 0));
    let words = format!("process {} (dualroot snapshot)", halted.running.pid());
    for args in
        [&["snapshot"][..], &["snapshot", "--force"], &["verify"], &["clean"], &["boot", "1"]]
    {
        at_once(&disk, args).fails(4, &words);
    }
    let report = at_once(&disk, &["show", "--json"]).exits(0).json();
    assert_eq!(report["interrupted"], serde_json::Value::Null, "{report}");
    assert_eq!(report["slots"][1]["state"], "valid", "its own slot is nobody's: {report}");
    let report = at_once(&disk, &["show", "--json", &onto]).exits(0).json();
    assert_eq!(report["slots"][1]["state"], "writing", "{report}");
    let check = at_once(&disk, &["check"]);
    for code in ["stale-mount", "run-interrupted"] {
        assert!(!check.stdout.contains(code), "{check}");
    }
    halted.go().wait_soon().exits(0);
    let log = disk.dualroot(&["log", "--json"]).exits(0).json();
    let last = log["entries"].as_array().unwrap().last().unwrap().clone();
    assert_eq!((&last["verb"], &last["result"]), (&"snapshot".into(), &"done".into()), "{log}");
}

#[test]
fn a_dead_holder_holds_nothing() {
    if !ready(&["cc"]) {
        return;
    }
    let disk = disk();
    disk.halt(&["snapshot", "--fresh"], ("create", "20.txt", 0)).kill();
    assert_eq!(disk.state(), "invalid");
    disk.snapshot();
    assert_eq!(disk.state(), "valid");
}

/// While `verify` or `clean` hold the lock the slot is not being written, and `show` says so.
#[test]
fn verify_locks_writers_out_and_not_show() {
    if !ready(&["cc"]) {
        return;
    }
    let disk = disk();
    let halted = disk.halt(&["verify"], ("open", "20.txt", 0));
    let words = format!("process {} (dualroot verify)", halted.running.pid());
    for args in [&["snapshot"][..], &["verify"], &["clean"]] {
        at_once(&disk, args).fails(4, &words);
    }
    let run = at_once(&disk, &["show"]).exits(0);
    assert!(run.stdout.contains("State: valid"), "{run}");
    halted.go().wait_soon().exits(0);
    disk.assert_unmounted();
}

/// A snapshot waits for a `show` that looks into the slot, and goes on once that has ended.
#[test]
fn a_snapshot_lets_show_finish() {
    if !ready(&["cc"]) {
        return;
    }
    let disk = disk();
    let show = disk.halt(&["show"], ("umount", ".show", 0));
    let mut snapshot = disk.spawn(&["snapshot"]);
    std::thread::sleep(Duration::from_millis(200));
    assert!(!snapshot.ended(), "{}", snapshot.wait());
    let shown = show.go().wait_soon().exits(0);
    assert!(shown.stdout.contains("State: valid"), "{shown}");
    snapshot.wait_soon().exits(0);
    assert_eq!(disk.state(), "valid");
}

/// ... and does not wait for ever for one that hangs.
#[test]
fn a_hanging_show_is_named() {
    if !ready(&["cc"]) {
        return;
    }
    let disk = disk();
    let before = disk.hash_device(2);
    let show = disk.halt(&["show"], ("umount", ".show", 0));
    let pid = show.running.pid().to_string();
    let run = disk.spawn(&["snapshot"]).wait_soon().exits(4);
    assert_eq!(run.stderr.lines().filter(|l| l.starts_with("dualroot: ")).count(), 1, "{run}");
    show.go().wait_soon().exits(0);
    assert_eq!(disk.hash_device(2), before);
    assert!(run.stderr.contains(&pid), "the process is not named: {run}");
}

#[test]
fn many_shows_at_once() {
    if !ready(&[]) {
        return;
    }
    let disk = disk();
    let shows: Vec<_> = (0..8).map(|_| disk.spawn(&["show"])).collect();
    for show in shows {
        let run = show.wait_soon().exits(0);
        assert!(run.stdout.contains("State: valid"), "{run}");
        assert_eq!(run.stderr, "");
    }
    disk.assert_unmounted();
}

/// The second one looks where the first one has mounted the slot, which then goes away.
#[test]
fn a_show_loses_the_mount_that_it_wanted_to_use() {
    if !ready(&["cc"]) {
        return;
    }
    let disk = disk();
    let first = disk.halt(&["show"], ("umount", ".show", 0));
    let name = format!("{}.show", first.running.pid());
    let second = disk.halt(&["show"], ("open", &name, 0));
    first.go().wait_soon().exits(0).prints("State: valid");
    let run = second.go().wait_soon().exits(0);
    assert!(run.stdout.contains("State: valid"), "{run}");
    disk.assert_unmounted();
}

#[test]
fn a_show_while_a_snapshot_begins_and_ends() {
    if !ready(&[]) {
        return;
    }
    let disk = disk();
    let mut snapshot = disk.spawn(&["snapshot"]);
    let mut seen = Vec::new();
    while !snapshot.ended() {
        let run = disk.dualroot(&["show"]).exits(0);
        assert!(!run.stdout.contains("error"), "{run}");
        let state = run.stdout.lines().rfind(|l| l.starts_with("State: ")).unwrap();
        seen.push(state.split(' ').nth(1).unwrap().to_owned());
    }
    snapshot.wait_soon().exits(0);
    assert!(seen.iter().all(|s| s == "valid" || s == "writing"), "{seen:?}");
    assert_eq!(disk.state(), "valid");
}

/// Of several that start together one gets the lock; the others end with 4 or, where it was done
/// by then, do their own.
#[test]
fn several_start_together() {
    if !ready(&[]) {
        return;
    }
    let disk = disk();
    let runs: Vec<_> = (0..4).map(|_| disk.spawn(&["snapshot"])).collect();
    let runs: Vec<Run> = runs.into_iter().map(Running::wait_soon).collect();
    assert!(runs.iter().any(|r| r.code == 0), "nobody got it");
    for run in runs {
        if run.code != 0 {
            run.fails(4, "is locked by process ");
        }
    }
    assert_eq!(disk.state(), "valid");
    disk.dualroot(&["verify"]).exits(0);
}

/// Locks stay, private mount points and scratch files do not.
#[test]
fn nothing_is_left_in_the_run_directory() {
    if !ready(&[]) {
        return;
    }
    let disk = disk();
    let mut own = Vec::new();
    for args in [&["snapshot"][..], &["show"], &["verify"], &["clean"]] {
        let running = disk.spawn(args);
        own.push(running.pid());
        running.wait_soon().exits(0);
    }
    let left = |pid: &u32| -> Vec<PathBuf> {
        let entries = std::fs::read_dir("/run/dualroot").unwrap().map(|e| e.unwrap().path());
        entries
            .filter(|p| p.file_name().unwrap().to_str().unwrap().starts_with(&format!("{pid}.")))
            .collect()
    };
    for pid in &own {
        assert_eq!(left(pid), Vec::<PathBuf>::new());
    }
}
