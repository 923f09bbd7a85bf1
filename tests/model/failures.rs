//! Operations that fail, and signals.

use std::collections::HashSet;
use std::path::{Path, PathBuf};

use dualroot::error::Kind;
use dualroot::ops::show;
use dualroot::ops::snapshot::Options;
use dualroot::slot::{Choice, State};
use dualroot::sys::Os;
use dualroot::sys::fake::{Action, Call, Machine, When, World};
use dualroot::table::superblock;
use nix::errno::Errno;

use crate::findings::Findings;
use crate::judge::{
    HALF, against_source, alternate, calls, calls_with, check_failed, check_new, fingerprint, half,
    left, source, state, work,
};
use crate::machine::{Base, SIGINT, base, done, fstab, run, run_with, session};

/// Operations of the run at which a call of this name on a target can run out of space.
fn takes_space(call: &Call) -> bool {
    let ops = ["create_file", "make_dir", "make_special", "make_symlink", "make_link", "rename"];
    let target = call.place.starts_with("da0s2") || call.place.starts_with("da0s4");
    target
        && (call.op.strip_prefix("dir.").is_some_and(|op| ops.contains(&op))
            || call.op.ends_with("set_xattr")
            || ["file.write", "file.set_len", "file.sync", "dir.sync_all"].contains(&call.op))
}

#[test]
fn every_operation_can_fail_once() {
    each_operation_fails(&base(), Options::default());
}

/// A run fails, or survives it; then the next one does it all.
pub fn each_operation_fails(base: &Base, options: Options) {
    let calls = calls_with(&base.machine, options);
    println!("a run has {} operations", calls.len());
    let mut findings = Findings::default();
    let mut seen = HashSet::new();
    for call in &calls {
        let mut errors = vec![Errno::EIO];
        errors.extend(takes_space(call).then_some(Errno::ENOSPC));
        errors.extend(["file.read", "file.write"].contains(&call.op).then_some(Errno::EINTR));
        for errno in errors {
            let case = format!("{call} fails with {errno}");
            let machine = base.machine.fork();
            machine.inject(When::Call(call.clone()), Action::Fail(errno as i32));
            let result = run_with(&machine, options);
            findings.check(machine.hits().len() == 1, "it was not reached", &case);
            check_failed(&machine, base, &result, call, errno, &mut findings, &case);
            if seen.insert(fingerprint(&machine)) {
                match run_with(&machine, options) {
                    Err(e) => findings.add(format!("the next run fails: {e}"), &case),
                    Ok(_) => check_new(&machine, "after the next run", &mut findings, &case),
                }
            }
        }
    }
    println!("{} different states were left", seen.len());
    findings.none();
}

/// What is made anew for want of room has another identity, and the root's copy is made before.
#[test]
fn a_name_that_a_refresh_would_lose_stays() {
    let base = base();
    let id = |m: &Machine, d| m.world(|w| superblock::read(&w.head(d)).unwrap().id);
    for by_identity in [false, true] {
        let machine = base.machine.fork();
        let (source, before) = (id(&machine, "da0s3"), id(&machine, "da0s4"));
        if by_identity {
            machine.world(|w| fstab(w, "/dev/ufs/config1", &format!("/dev/ufsid/{source}")));
        }
        let written = Call { op: "file.write", place: "da0s4:app.conf".into(), nth: 0 };
        machine.inject(When::Call(written), Action::Fail(Errno::ENOSPC as i32));
        let result = run(&machine);
        assert_eq!(machine.hits().len(), 1, "it was not reached");
        if by_identity {
            let error = result.unwrap_err();
            assert_eq!((error.kind, error.errno), (Kind::Failed, Some(Errno::ENOSPC as i32)));
            assert!(error.hint.as_ref().is_some_and(|h| h.contains("--fresh")), "{error:?}");
            assert_ne!(state(&machine), State::Valid);
            assert_eq!(id(&machine, "da0s4"), before, "it was made anew");
            done(run_with(&machine, Options { fresh: true, ..Options::default() }));
            let copy = machine.world(|w| w.tree("da0s2").listing());
            let text = String::from_utf8_lossy(&copy[Path::new("etc/fstab")].data[0].1);
            let made = id(&machine, "da0s4");
            assert!(text.contains(&format!("/dev/ufsid/{made}\t/config\t")), "{text}");
        } else {
            done(result);
            assert_ne!(id(&machine, "da0s4"), before, "it was brought up to date");
        }
        assert_eq!(state(&machine), State::Valid);
    }
}

#[test]
fn a_medium_that_keeps_something_else_is_found_out() {
    each_rot_is_found(&base(), Options::default());
}

/// What is written arrives as something else, once at each place.
pub fn each_rot_is_found(base: &Base, options: Options) {
    let mut findings = Findings::default();
    let calls = calls_with(&base.machine, options);
    // What is written to /config or the root, which are mounted, cannot be read past the system's
    // memory: of the partition tables there, their own checksums tell; a journal is whole or none.
    let mounted = |c: &Call| ["da0s3:.dualroot", "da0s1:"].iter().any(|p| c.place.starts_with(p));
    let writes = |c: &Call| ["file.write", "claim.write_at"].contains(&c.op) && !mounted(c);
    for call in calls.into_iter().filter(writes) {
        let machine = base.machine.fork();
        machine.inject(When::Call(call.clone()), Action::Rot);
        match run_with(&machine, options) {
            Ok(_) => findings.add("nobody saw it", &call),
            Err(e) => findings.check(e.kind == Kind::Differs, &format!("{:?}: {e}", e.kind), &call),
        }
        machine.next_process();
        if let Some(what) = half(&machine, &base.old) {
            findings.add(HALF, &format!("{call}: {what}"));
        }
    }
    findings.none();
}

/// Others look at a device for a moment: GEOM's tasting, an indexer, who reads its label.
#[test]
fn what_is_busy_for_a_moment_is_waited_for() {
    let base = base();
    let waits = ["os.claim", "os.drop_cache", "os.mount", "os.unmount"];
    let calls: Vec<_> =
        calls(&base.machine).into_iter().filter(|c| waits.contains(&c.op)).collect();
    assert!(waits.iter().all(|op| calls.iter().any(|c| c.op == *op)), "{calls:?}");
    for call in calls {
        let machine = base.machine.fork();
        machine.inject(When::Call(call.clone()), Action::Fail(Errno::EBUSY as i32));
        let result = run(&machine);
        assert!(result.is_ok(), "{call}: {result:?}");
        assert_eq!(against_source(&machine), [""; 0], "{call}");
    }
}

/// A loss of power has left a file system that can be mounted, and nothing to open in it.
#[test]
fn a_root_that_is_no_directory_is_told() {
    let base = base();
    let machine = base.machine.fork();
    let opened = When::Each("os.open_dir", format!("RUN/{}.show", std::process::id()));
    machine.inject(opened, Action::Fail(Errno::ENOTDIR as i32));
    let report = done(show::run(&machine, &session(&machine), Some(Choice::Alternate)));
    assert_eq!(machine.hits().len(), 1, "it was opened");
    assert_eq!(report.slots[0].state, State::Unknown);
    assert_eq!(report.slots[0].reason.as_deref(), Some("Not a directory"));
    assert!(left(&machine).is_empty());
    done(run(&machine));
    assert_eq!(against_source(&machine), [""; 0]);
}

/// The kernel has taken a mount away by the time that it is opened: the path leads into the running
/// system then.
#[test]
fn what_is_no_longer_mounted_is_not_taken_for_the_slot() {
    let base = base();
    let calls = calls(&base.machine);
    let is_opened = |call: &Call, before: &Call| before.op == "os.mount" || call.place == "/config";
    let pairs = calls.windows(2).filter(|pair| pair[1].op == "os.open_dir");
    let opened: Vec<_> =
        pairs.filter(|pair| is_opened(&pair[1], &pair[0])).map(|pair| &pair[1]).collect();
    assert!(opened.len() >= 8, "{opened:?}");
    let mut failed = 0;
    for call in opened {
        let machine = base.machine.fork();
        let point = match call.place.strip_prefix("RUN/") {
            Some(name) => machine.run_dir().join(name),
            None => PathBuf::from(&call.place),
        };
        let taken = Action::Change(Box::new(move |world: &mut World| world.take_away(&point)));
        machine.inject(When::Call(call.clone()), taken);
        let result = run(&machine);
        assert_eq!(machine.hits().len(), 1, "{call}");
        // What is only looked at, whether it is an older copy, is none then.
        if let Err(error) = result {
            let gone = [Errno::ENXIO, Errno::EIO].map(|errno| Some(errno as i32));
            assert!(gone.contains(&error.errno), "{call}: {error}");
            failed += 1;
        }
        for listing in source(&machine) {
            let points = ["altroot", "altconfig"].map(Path::new);
            let inside =
                |p: &&PathBuf| points.iter().any(|point| p.starts_with(point) && p != point);
            let written: Vec<_> = listing.keys().filter(inside).collect();
            assert!(written.is_empty(), "{call}: {written:?} on the running slot");
        }
        assert!(left(&machine).is_empty(), "{call}: {:?}", left(&machine));
        machine.next_process();
        done(run(&machine));
        assert_eq!(against_source(&machine), [""; 0], "{call}");
    }
    assert!(failed > 0);
}

#[test]
fn a_device_that_is_gone_fails_and_leaves_the_source_alone() {
    let base = base();
    let count = work(calls(&base.machine)).len() as u64;
    for k in (1..=count).step_by(7) {
        let machine = base.machine.fork();
        machine.fail_from(k, Errno::ENXIO);
        let error = run(&machine).unwrap_err();
        assert!(matches!(error.kind, Kind::Failed | Kind::Differs | Kind::Refused), "{k}: {error}");
        machine.next_process();
        assert_eq!(half(&machine, &base.old), None, "{k}");
        done(run(&machine));
        assert_eq!(against_source(&machine), [""; 0], "{k}");
    }
}

#[test]
fn a_signal_stops_at_every_operation() {
    each_signal_stops(&base(), Options::default(), |_| true);
}

/// A run that gets a signal at one of these operations ends with it, and is no half copy; or it came
/// too late.
pub fn each_signal_stops(base: &Base, options: Options, tried: fn(&Call) -> bool) {
    let mut findings = Findings::default();
    let mut finished = 0;
    for call in calls_with(&base.machine, options).into_iter().filter(tried) {
        let machine = base.machine.fork();
        machine.inject(When::Call(call.clone()), Action::Signal(SIGINT));
        let result = run_with(&machine, options);
        for mount in left(&machine) {
            findings.add(format!("left mounted: {mount}"), &call);
        }
        machine.next_process();
        match result {
            Ok(_) => {
                finished += 1;
                check_new(&machine, "after success", &mut findings, &call);
            }
            Err(e) => {
                let is_signal = e.kind == Kind::Signal(SIGINT);
                findings.check(is_signal, &format!("{:?}: {e}", e.kind), &call);
                let old = alternate(&machine) == base.old;
                findings.check(
                    old || state(&machine) != State::Valid,
                    "valid though it was stopped",
                    &call,
                );
            }
        }
    }
    println!("{finished} came too late to stop anything");
    findings.none();
}
