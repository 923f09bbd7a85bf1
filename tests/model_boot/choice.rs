//! A slot is chosen, tried, confirmed or rejected.

use dualroot::error::Kind;
use dualroot::ops::{history, show, snapshot};
use dualroot::record::journal::How;
use dualroot::slot::State;
use dualroot::sys::command::Ended;
use dualroot::sys::fake::{Action, Call, Loss, Machine, Tree, When};
use dualroot::table::Scheme;
use nix::errno::Errno;

use crate::machine::{
    choose, codes, confirm, done, how, machine, parts, reject, running, session, show, snapshot,
    without_config,
};
use crate::start::{started, table};

#[test]
fn a_slot_that_is_chosen_starts_and_leads_back() {
    for scheme in [Scheme::Mbr, Scheme::Gpt] {
        let machine = machine(scheme);
        assert_eq!(show(&machine).next[0].slot, 1);
        let report = done(choose(&machine, 2, false));
        assert_eq!((report.slot, report.changed, report.reboot_due), (2, true, true));
        let next: Vec<_> = show(&machine).next.iter().map(|n| (n.slot, n.once)).collect();
        // The first slot comes first in the table: it cannot be what a GPT falls back on.
        assert_eq!(next, [(2, false)], "{scheme}");
        assert_eq!(snapshot(&machine).unwrap_err().kind, Kind::Refused, "it starts next");
        let (machine, slot) = started(&machine);
        assert_eq!((slot, running(&machine)), (2, 2));
        // Slot 1 has no record, but it has run.
        let slots = show(&machine).slots;
        assert_eq!((slots[0].state, slots[0].active), (State::Invalid, false));
        done(choose(&machine, 1, false));
        let next: Vec<_> = show(&machine).next.iter().map(|n| n.slot).collect();
        assert_eq!(next, if scheme == Scheme::Gpt { vec![1, 2] } else { vec![1] });
        let (machine, slot) = started(&machine);
        assert_eq!(slot, 1);
        assert!(!done(choose(&machine, 1, false)).changed, "{scheme}: it was so already");
        let log = done(history::run(&machine, &session(&machine))).entries;
        let log: Vec<_> = log.iter().map(|e| (e.verb.as_str(), e.result.name())).collect();
        // What slot 2 did is in its own /var, and on /config, which is both slots'.
        assert_eq!(
            log,
            [("snapshot", "done"), ("boot", "done"), ("boot", "done"), ("boot", "done")]
        );
    }
}

/// Where each slot has a journal of its own, that of the copy does not know that the other one has run.
#[test]
fn the_way_back_needs_no_journal_of_the_other_slot() {
    for scheme in [Scheme::Mbr, Scheme::Gpt] {
        // A choice, or a word that it is good: each is enough.
        let [chosen, confirmed] = [(); 2].map(|()| without_config(&machine(scheme)));
        done(choose(&chosen, 2, false));
        done(confirm(&confirmed));
        for machine in [chosen, confirmed] {
            // By the menu of the boot code, where nothing else says so.
            machine.world(|w| {
                w.boot[0].0 = format!("/dev/{}", parts(scheme)[1]).into();
                w.started.id.push('+');
            });
            let machine = machine.lose_power(Loss::None);
            assert_eq!(running(&machine), 2);
            assert_eq!(show(&machine).slots[0].state, State::Invalid);
            done(choose(&machine, 1, false));
            assert_eq!(started(&machine).1, 1, "{scheme}");
        }
    }
}

/// Takes the mark away, too.
fn unmarked(machine: &Machine) -> bool {
    let one = &parts(crate::start::scheme(machine))[0];
    machine.world(|w| {
        let there = w.tree(one).has(".dualroot/used");
        w.edit(one, |tree| {
            if tree.has(".dualroot") {
                tree.remove(".dualroot");
            }
        });
        there
    })
}

/// What is known of a slot is forgotten with the first write to it: neither before nor later.
#[test]
fn a_snapshot_that_writes_nothing_forgets_nothing() {
    let machine = machine(Scheme::Gpt);
    done(choose(&machine, 2, false));
    let (machine, slot) = started(&machine);
    assert_eq!(slot, 2);
    // Only the journal tells that it has run.
    assert!(unmarked(&machine));
    for call in ["os.make_dir", "os.claim"] {
        let place = if call == "os.claim" { "/dev/da0p2" } else { "/altroot" };
        let machine = machine.fork();
        machine.world(|w| w.edit("da0p3", |tree| tree.remove("altroot")));
        machine.inject(When::Each(call, place.to_owned()), Action::Fail(Errno::EIO as i32));
        snapshot(&machine).unwrap_err();
        assert!(!machine.hits().is_empty(), "{call} was not reached");
        let machine = machine.lose_power(Loss::All);
        done(choose(&machine, 1, false));
        assert_eq!(started(&machine).1, 1, "{call}");
    }
    let trace = machine.fork();
    trace.record();
    done(snapshot(&trace));
    let first = trace.trace().iter().position(|call| call.op == "claim.wipe").unwrap();
    machine.stop_at(first as u64 + 1);
    snapshot(&machine).unwrap_err();
    let machine = machine.lose_power(Loss::All);
    assert_eq!(choose(&machine, 1, false).unwrap_err().kind, Kind::Refused);
}

#[test]
fn a_trial_ends_by_itself_or_is_confirmed_or_rejected() {
    let machine = machine(Scheme::Gpt);
    let stage = |machine: &Machine| show(machine).trial.map(|t| t.stage);
    done(choose(&machine, 2, true));
    let next: Vec<_> = show(&machine).next.iter().map(|n| (n.slot, n.once)).collect();
    assert_eq!(next, [(2, true), (1, false)]);
    assert_eq!(stage(&machine), Some(show::Stage::Armed));
    assert!(codes(&machine).contains(&"trial-armed"), "{:?}", codes(&machine));
    assert_eq!(confirm(&machine).unwrap_err().kind, Kind::Refused, "it has not started");
    let (trial, slot) = started(&machine);
    assert_eq!((slot, stage(&trial)), (2, Some(show::Stage::Running)));
    assert!(codes(&trial).contains(&"trial-unconfirmed"), "{:?}", codes(&trial));
    // The known-good root is not written over.
    let error = snapshot(&trial).unwrap_err();
    assert_eq!(error.kind, Kind::Refused, "{error}");
    // It ends by itself.
    let (back, slot) = started(&trial);
    assert_eq!((slot, stage(&back)), (1, Some(show::Stage::Over)));
    assert!(codes(&back).contains(&"trial-over"), "{:?}", codes(&back));
    done(confirm(&back));
    assert_eq!((stage(&back), show(&back).next[0].slot), (None, 1));
    // It is confirmed.
    let confirmed = trial.fork();
    assert_eq!(done(confirm(&confirmed)).slot, 2);
    assert_eq!(stage(&confirmed), None);
    let (again, slot) = started(&confirmed);
    assert_eq!(slot, 2);
    done(snapshot(&again));
    assert_eq!(started(&again).1, 2);
    // It is rejected, before and after the start.
    for machine in [machine, trial] {
        let report = done(reject(&machine));
        assert_eq!((report.slot, report.reboot_due), (1, running(&machine) == 2));
        assert_eq!(stage(&machine), None);
        let (machine, slot) = started(&machine);
        assert_eq!(slot, 1);
        assert_eq!(reject(&machine).unwrap_err().kind, Kind::Refused, "there is none");
    }
}

/// The slot that is tried has its own journal: only the flags tell it that it is.
#[test]
fn a_trial_is_known_without_the_journal_of_the_other_slot() {
    let machine = without_config(&machine(Scheme::Gpt));
    let stage = |machine: &Machine| show(machine).trial.map(|t| t.stage);
    done(choose(&machine, 2, true));
    let trial = started(&machine).0;
    let told = || {
        assert_eq!((running(&trial), stage(&trial)), (2, Some(show::Stage::Running)));
        assert!(codes(&trial).contains(&"trial-unconfirmed"), "{:?}", codes(&trial));
        // The known-good root is not written over, whatever is said.
        for force in [false, true] {
            let options = snapshot::Options { force, ..snapshot::Options::default() };
            let error = snapshot::run(&trial, &session(&trial), options, &mut |_| {});
            assert_eq!(error.unwrap_err().kind, Kind::Refused);
        }
        assert_eq!(choose(&trial, 1, true).unwrap_err().kind, Kind::Refused, "it is on trial");
    };
    // Without rc(8)'s help and with it.
    told();
    let unseen = trial.fork();
    assert_eq!(how(&trial), How::Trial);
    told();
    for machine in [unseen, trial] {
        let [confirmed, rejected] = [(); 2].map(|()| machine.fork());
        done(confirm(&confirmed));
        assert_eq!((stage(&confirmed), show(&confirmed).next[0].slot), (None, 2));
        assert_eq!(started(&confirmed).1, 2);
        // What was rejected is not found again by its flags.
        assert_eq!(done(reject(&rejected)).slot, 1);
        assert_eq!(stage(&rejected), None);
        assert_eq!(reject(&rejected).unwrap_err().kind, Kind::Refused, "there is none");
        let (rejected, slot) = started(&rejected);
        assert_eq!((slot, stage(&rejected).is_some()), (1, true), "its own journal knows of it");
        // It ends by itself.
        assert_eq!(started(&machine).1, 1);
    }
    // A choice that starts next is no trial of what runs, with or without rc(8)'s help.
    let chosen = without_config(&self::machine(Scheme::Gpt));
    done(choose(&chosen, 2, false));
    assert_eq!((stage(&chosen), how(&chosen)), (None, How::Planned));
    let (chosen, slot) = started(&chosen);
    assert_eq!((slot, stage(&chosen), how(&chosen)), (2, None, How::Planned));
}

/// The flags could not be changed, and what was written of it before could not be taken back.
#[test]
fn a_trial_that_the_journal_does_not_know_is_rejected() {
    let machine = machine(Scheme::Gpt);
    done(choose(&machine, 2, true));
    let before = machine.fork();
    let flags = When::Each("os.set_boot", "/dev/da0".to_owned());
    machine.inject(flags, Action::Fail(Errno::EIO as i32));
    for place in ["da0p2:journal.json.new", "da0p4:.dualroot/journal.json.new"] {
        let taken_back = Call { op: "dir.create_file", place: place.to_owned(), nth: 1 };
        machine.inject(When::Call(taken_back), Action::Fail(Errno::EIO as i32));
    }
    assert_eq!(reject(&machine).unwrap_err().kind, Kind::Failed);
    let hits: Vec<_> = machine.hits().iter().map(ToString::to_string).collect();
    assert_eq!(hits.len(), 3, "{hits:?}");
    let machine = machine.lose_power(Loss::None);
    assert_eq!(show(&machine).next, show(&before).next, "it waits");
    assert_eq!(done(reject(&machine)).slot, 1);
    assert_eq!(started(&machine).1, 1);
}

#[test]
fn a_trial_that_does_not_even_load_is_given_up_at_once() {
    let machine = machine(Scheme::Gpt);
    done(choose(&machine, 2, true));
    machine.world(|w| w.edit("da0p3", |tree| tree.remove("boot/kernel")));
    let (machine, slot) = started(&machine);
    assert_eq!(slot, 1);
    assert!(codes(&machine).contains(&"boot-failed"), "{:?}", codes(&machine));
    assert_eq!(show(&machine).trial.unwrap().stage, show::Stage::Over);
}

#[test]
fn health_hooks_decide() {
    let machine = machine(Scheme::Gpt);
    let hook = |tree: &mut Tree, name: &str, mode, uid| {
        for dir in ["etc/dualroot", "etc/dualroot/health.d"] {
            if !tree.has(dir) {
                tree.dir(dir);
            }
        }
        let path = format!("etc/dualroot/health.d/{name}");
        tree.file(&path, b"#!/bin/sh\n");
        let attributes = tree.attributes(&path);
        (attributes.mode, attributes.uid) = (mode, uid);
    };
    machine.world(|w| {
        w.edit("da0p3", |tree| {
            hook(tree, "10-ping", 0o755, 0);
            hook(tree, "20-routes", 0o500, 0);
            hook(tree, "README", 0o644, 7);
        });
    });
    done(choose(&machine, 2, true));
    let (machine, _) = started(&machine);
    let flags = |machine: &Machine| table(machine).entries;
    for (case, change, says) in [
        ("exit", Some(Ended { code: Some(3), late: false, tail: "no route".into() }), "exit 3"),
        ("time", Some(Ended { code: None, late: true, tail: String::new() }), "60 seconds"),
        ("others", None, "others than root can write it"),
    ] {
        let machine = machine.fork();
        machine.world(|w| match change.clone() {
            Some(ended) => drop(w.hooks.insert("20-routes".into(), ended)),
            None => w.edit("da0p3", |tree| hook(tree, "20-routes", 0o775, 0)),
        });
        let before = (flags(&machine), show(&machine).trial);
        let error = confirm(&machine).unwrap_err();
        assert_eq!(error.kind, Kind::Failed, "{case}");
        let text = error.to_string();
        assert!(text.contains(says) && text.contains("20-routes"), "{case}: {text}");
        assert!(before == (flags(&machine), show(&machine).trial), "{case}: something changed");
        let log = done(history::run(&machine, &session(&machine))).entries;
        let last = log.last().unwrap();
        assert_eq!((last.verb.as_str(), last.code), ("confirm", 1), "{case}");
        assert_eq!(last.details[0], "10-ping: passed");
        assert_eq!(started(&machine).1, 1, "{case}");
    }
    let report = done(confirm(&machine));
    let names: Vec<_> = report.hooks.iter().map(|h| (h.name.as_str(), h.passed)).collect();
    assert_eq!(names, [("10-ping", Some(true)), ("20-routes", Some(true)), ("README", None)]);
    assert_eq!(started(&machine).1, 2);
}
