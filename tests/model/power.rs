//! Losses of power, and processes that are killed.

use std::collections::HashSet;

use dualroot::ops::snapshot::Options;
use dualroot::ops::{clean, verify};
use dualroot::slot::{Choice, Part, State};
use dualroot::sys::fake::{Action, Call, Loss, When};

use crate::findings::Findings;
use crate::judge::{HALF, calls, calls_with, check_new, fingerprint, half, left, state, work};
use crate::machine::{Base, base, done, run, run_with, session};

#[test]
fn the_power_can_go_at_every_operation() {
    let base = base();
    let count = work(calls(&base.machine)).len() as u64;
    let mut findings = Findings::default();
    let mut seen = HashSet::new();
    let mut cases = 0;
    for k in 1..=count + 1 {
        let machine = base.machine.fork();
        machine.stop_at(k);
        let stopped = run(&machine).is_err();
        assert_eq!(stopped, k <= count, "at {k} of {count}");
        let pending = machine.world(|w| w.pending("da0s2") + w.pending("da0s4"));
        let losses =
            [Loss::All, Loss::None, Loss::AllBut(pending / 2), Loss::Half(k), Loss::Half(!k)];
        for loss in losses {
            cases += 1;
            let after = machine.lose_power(loss);
            if !seen.insert(fingerprint(&after)) {
                continue;
            }
            let at = machine.hits().first().map_or("the end".to_owned(), ToString::to_string);
            let case = format!("{loss:?} of {pending} at operation {k}: {at}");
            if let Some(what) = half(&after, &base.old) {
                findings.add(HALF, &format!("{case}: {what}"));
            }
            match run(&after) {
                Err(e) => findings.add(format!("the next run fails: {e}"), &case),
                Ok(_) => check_new(&after, "after the next run", &mut findings, &case),
            }
        }
    }
    println!("{cases} losses of power, {} different states", seen.len());
    findings.none();
}

#[test]
fn a_killed_process_leaves_what_the_next_one_clears() {
    each_kill_is_cleared(&base(), Options::default(), |_| true);
}

/// The process ends at one of these operations, and another one comes.
pub fn each_kill_is_cleared(base: &Base, options: Options, tried: fn(&Call) -> bool) {
    let mut findings = Findings::default();
    let mut seen = HashSet::new();
    for call in work(calls_with(&base.machine, options)).into_iter().filter(tried) {
        let machine = base.machine.fork();
        machine.inject(When::Call(call.clone()), Action::Stop);
        run_with(&machine, options).unwrap_err();
        machine.next_process();
        let mounts = left(&machine);
        if !seen.insert((fingerprint(&machine), mounts)) {
            continue;
        }
        if let Some(what) = half(&machine, &base.old) {
            findings.add(HALF, &format!("{call}: {what}"));
        }
        let fork = machine.fork();
        match clean::run(&fork, &session(&fork), false) {
            Ok(report) => {
                findings.check(left(&fork).is_empty(), "not clean", &call);
                let told = report.cleared.len() == left(&machine).len();
                findings.check(told, "not all was told", &call);
            }
            Err(e) => findings.add(format!("clean fails: {e}"), &call),
        }
        match run_with(&machine, options) {
            Err(e) => findings.add(format!("the next run fails: {e}"), &call),
            Ok(_) => check_new(&machine, "after the next run", &mut findings, &call),
        }
    }
    println!("{} different states", seen.len());
    findings.none();
}

#[test]
fn a_slot_is_valid_only_as_a_whole() {
    // Only /config is copied, and the power goes on the way.
    let base = base();
    let options = Options { only: Some(Part::Config), ..Options::default() };
    let machine = base.machine.fork();
    machine.record();
    done(run_with(&machine, options));
    let mut findings = Findings::default();
    let mut seen = HashSet::new();
    for k in 1..=work(machine.trace()).len() as u64 {
        let machine = base.machine.fork();
        machine.stop_at(k);
        run_with(&machine, options).unwrap_err();
        for loss in [Loss::All, Loss::None, Loss::Half(k)] {
            let after = machine.lose_power(loss);
            if !seen.insert(fingerprint(&after)) || state(&after) != State::Valid {
                continue;
            }
            let fork = after.fork();
            match verify::run(&fork, &session(&fork), Choice::Alternate) {
                Ok(report) if report.differences.is_empty() => {}
                Ok(report) => findings.add(format!("valid, but {:?}", report.differences), &k),
                Err(e) => findings.add(format!("valid, but {e}"), &k),
            }
        }
    }
    findings.none();
}
