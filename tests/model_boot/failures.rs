//! Every failure, every signal and every loss of power.

use std::collections::HashSet;
use std::path::Path;

use dualroot::error::{Error, Kind};
use dualroot::ops::history;
use dualroot::slot::State;
use dualroot::sys::fake::{Action, Call, Loss, Machine, When};
use dualroot::table::Scheme;
use nix::errno::Errno;

use crate::findings::Findings;
use crate::machine::{
    SIGINT, by_loader, choose, codes, confirm, done, machine, parts, reject, session, show,
    snapshot, without_config,
};
use crate::start::{fingerprint, losses, start, started, table, tables};

/// A verb, and the machine that it is tried on.
struct Case {
    name: &'static str,
    machine: Machine,
    run: fn(&Machine) -> Result<(), Error>,
    /// The slot that starts before it, and after it.
    before: u32,
    after: u32,
}

fn cases() -> Vec<Case> {
    let [mbr, gpt] = [Scheme::Mbr, Scheme::Gpt].map(machine);
    let trial = || {
        let machine = gpt.fork();
        done(choose(&machine, 2, true));
        machine
    };
    let on_trial = started(&trial()).0;
    let waiting = by_loader(Scheme::Mbr);
    done(choose(&waiting, 2, true));
    let by_file = started(&waiting).0;
    let alone = without_config(&by_loader(Scheme::Mbr));
    done(choose(&alone, 2, true));
    let alone = started(&alone).0;
    let unknown = without_config(&gpt);
    done(choose(&unknown, 2, true));
    let unknown = started(&unknown).0;
    let second = |machine: &Machine| {
        let machine = machine.fork();
        done(choose(&machine, 2, false));
        started(&machine).0
    };
    let case = |name, machine: &Machine, run, before, after| {
        let machine = machine.lose_power(Loss::None);
        Case { name, machine, run, before, after }
    };
    vec![
        case("boot 2, MBR", &mbr, |m| choose(m, 2, false).map(drop), 1, 2),
        case("boot 1, MBR", &second(&mbr), |m| choose(m, 1, false).map(drop), 2, 1),
        case("boot 2, GPT", &gpt, |m| choose(m, 2, false).map(drop), 1, 2),
        case("boot 1, GPT", &second(&gpt), |m| choose(m, 1, false).map(drop), 2, 1),
        case("boot 2 --once", &gpt, |m| choose(m, 2, true).map(drop), 1, 2),
        case("boot 1 --once", &second(&gpt), |m| choose(m, 1, true).map(drop), 2, 1),
        case("confirm", &on_trial, |m| confirm(m).map(drop), 1, 2),
        case("confirm, own journals", &unknown, |m| confirm(m).map(drop), 1, 2),
        case("reject, own journals", &unknown, |m| reject(m).map(drop), 1, 1),
        case("reject, armed", &trial(), |m| reject(m).map(drop), 2, 1),
        case("reject, running", &on_trial, |m| reject(m).map(drop), 1, 1),
        case("boot 2 --once, MBR", &by_loader(Scheme::Mbr), |m| choose(m, 2, true).map(drop), 1, 2),
        // The slot that runs starts in between: the file goes first.
        case("boot 2, MBR, armed", &waiting, |m| choose(m, 2, false).map(drop), 1, 2),
        case("confirm, MBR", &by_file, |m| confirm(m).map(drop), 1, 2),
        case("confirm, MBR, own journals", &alone, |m| confirm(m).map(drop), 1, 2),
        case("reject, MBR, armed", &waiting, |m| reject(m).map(drop), 2, 1),
        case("reject, MBR, running", &by_file, |m| reject(m).map(drop), 1, 1),
    ]
}

/// Whether it belongs to what is written down when all is done; or the last look at the medium, of
/// which only the tables count.
fn is_history(call: &Call) -> bool {
    ["os.canonical", "os.read_device", "os.read_file", "os.open_dir"].contains(&call.op)
        || call.op.starts_with("dir.")
        || call.op.starts_with("file.")
}

fn calls(case: &Case) -> Vec<Call> {
    let machine = case.machine.fork();
    machine.record();
    done((case.run)(&machine));
    machine.trace()
}

/// What starts is one of the two, nothing that runs was written to, and the verb can be done again.
fn survives(case: &Case, after: &Machine, how: &str, findings: &mut Findings) {
    let Some((up, slot)) = start(after, Loss::None) else {
        findings.add("nothing starts", how);
        return;
    };
    let fits = slot == case.before || slot == case.after;
    findings.check(fits, &format!("slot {slot} starts"), how);
    let slots = show(&up).slots;
    findings.check(slots[1].state == State::Valid || slots[1].booted, "the copy is gone", how);
    // Whoever is up can say what he wants.
    for wanted in [1, 2] {
        let again = up.fork();
        match choose(&again, wanted, false) {
            Err(e) => findings.add(format!("boot {wanted} fails then: {e}"), how),
            Ok(_) => findings.check(
                start(&again, Loss::All).is_some_and(|(_, slot)| slot == wanted),
                "boot has no effect then",
                how,
            ),
        }
    }
}

#[test]
fn something_starts_after_every_failure_and_signal() {
    for case in cases() {
        let mut findings = Findings::default();
        let mut seen = HashSet::new();
        let calls = calls(&case);
        for call in &calls {
            let how = format!("{}: {call}", case.name);
            let rots = call.op == "os.set_boot.write";
            let mut actions =
                vec![Action::Fail(Errno::EIO as i32), Action::Signal(SIGINT), Action::Stop];
            actions.extend(rots.then_some(Action::Rot));
            for action in actions {
                let how = format!("{how} {action:?}");
                let rot = matches!(action, Action::Rot);
                let machine = case.machine.fork();
                machine.inject(When::Call(call.clone()), action);
                let result = (case.run)(&machine);
                match &result {
                    Ok(()) => {
                        findings.check(!rot, "done, though the medium says otherwise", &how);
                        let slot = start(&machine, Loss::All).map(|(_, slot)| slot);
                        findings.check(slot == Some(case.after), "done, and without effect", &how);
                    }
                    Err(e) => {
                        let refused = e.kind == Kind::Refused;
                        let same = table(&machine) == table(&case.machine);
                        findings.check(!refused || same, "refused after writing", &how);
                    }
                }
                machine.next_process();
                if !rot && seen.insert(fingerprint(&machine)) {
                    survives(&case, &machine, &how, &mut findings);
                }
            }
        }
        println!("{}: {} operations, {} states", case.name, calls.len(), seen.len());
        findings.none();
    }
}

#[test]
fn something_starts_after_every_loss_of_power() {
    let mut cuts = 0;
    for case in cases() {
        let mut findings = Findings::default();
        let mut seen = HashSet::new();
        let calls = calls(&case);
        let count = calls.len() as u64;
        for k in 1..=count + 1 {
            let machine = case.machine.fork();
            machine.stop_at(k);
            let stopped = (case.run)(&machine).is_err();
            // In the end there is only the history.
            let rest = calls.iter().skip(usize::try_from(k).unwrap() - 1);
            assert!(stopped || rest.clone().all(is_history), "at {k} of {count}");
            for loss in losses(&machine, k) {
                cuts += 1;
                let after = machine.lose_power(loss);
                let at = machine.hits().first().map_or("the end".to_owned(), ToString::to_string);
                let how = format!("{}: {loss:?} at {k}: {at}", case.name);
                if seen.insert(fingerprint(&after)) {
                    survives(&case, &after, &how, &mut findings);
                }
            }
        }
        println!("{}: {} states", case.name, seen.len());
        findings.none();
    }
    println!("{cuts} losses of power");
}

/// On a GPT gptboot would fall through to a half copy, were it flagged: neither the first slot nor
/// the second may be while it is written. And the next run makes it whole.
#[test]
fn gptboot_never_meets_a_half_copy() {
    let first = machine(Scheme::Gpt);
    let second = first.fork();
    done(choose(&second, 2, false));
    let second = started(&second).0;
    for (machine, own) in [(first, 1), (second, 2)] {
        let trace = machine.fork();
        trace.record();
        done(snapshot(&trace));
        let next =
            |machine: &Machine| show(machine).next.iter().map(|n| n.slot).collect::<Vec<_>>();
        let fall_back = next(&trace);
        assert_eq!(fall_back, if own == 1 { vec![1, 2] } else { vec![2] });
        let calls = trace.trace();
        let mut findings = Findings::default();
        let (mut seen, mut begun) = (HashSet::new(), HashSet::new());
        for (k, call) in (1..).zip(&calls) {
            let machine = machine.fork();
            machine.stop_at(k);
            if snapshot(&machine).is_ok() {
                assert!(calls[usize::try_from(k).unwrap() - 1..].iter().all(is_history), "{call}");
            }
            for loss in losses(&machine, k) {
                let how = format!("{loss:?} at {k}: {call}");
                let after = machine.lose_power(loss);
                if !seen.insert(fingerprint(&after)) {
                    continue;
                }
                let up = start(&after, Loss::None).filter(|(_, slot)| *slot == own);
                findings.check(up.is_some(), "another slot starts", &how);
                let state = show(&after).slots[usize::from(own == 1)].state;
                // What it finds in the trees, tests/crash goes through.
                if let Some((up, _)) = up.filter(|_| begun.insert((tables(&after), state.name()))) {
                    if let Err(e) = snapshot(&up) {
                        findings.add(format!("the next snapshot fails: {e}"), &how);
                    }
                    let valid = show(&up).slots[usize::from(own == 1)].state == State::Valid;
                    let done = valid && next(&up) == fall_back && codes(&up) == codes(&trace);
                    findings.check(done, "the next snapshot does not end it", &how);
                }
                // Where even the running root is gone, only a whole copy comes up.
                let [one, two, _] = parts(Scheme::Gpt);
                let running = if own == 1 { &one } else { &two };
                after.world(|w| w.edit(running, |tree| tree.remove("boot/kernel")));
                let slot = start(&after, Loss::None).map(|(_, slot)| slot);
                findings.check(
                    slot.is_none() || state == State::Valid,
                    &format!("slot {slot:?} comes up and is {state:?}"),
                    &how,
                );
            }
        }
        let (calls, seen, begun) = (calls.len(), seen.len(), begun.len());
        println!("slot {own}: {calls} operations, {seen} states, {begun} next snapshots");
        findings.none();
    }
}

#[test]
fn an_interrupted_run_is_told_until_the_next_one() {
    let machine = machine(Scheme::Gpt);
    let count = {
        let trace = machine.fork();
        trace.record();
        done(snapshot(&trace));
        trace.trace().iter().position(|c| c.op == "claim.flush").unwrap() as u64
    };
    machine.stop_at(count);
    snapshot(&machine).unwrap_err();
    let machine = machine.lose_power(Loss::All);
    let operation = show(&machine).interrupted.expect("nothing is told");
    assert_eq!(
        (operation.verb.as_str(), operation.target.as_deref()),
        ("snapshot", Some("/dev/da0p3"))
    );
    assert!(codes(&machine).contains(&"run-interrupted"), "{:?}", codes(&machine));
    done(snapshot(&machine));
    assert_eq!(show(&machine).interrupted, None);
    let log = done(history::run(&machine, &session(&machine))).entries;
    let log: Vec<_> = log.iter().map(|e| (e.verb.as_str(), e.result.name())).collect();
    assert_eq!(log[1..], [("snapshot", "interrupted"), ("snapshot", "done")]);
}

#[test]
fn the_history_outlives_a_var_in_memory() {
    let machine = machine(Scheme::Mbr);
    for _ in 0..400 {
        done(choose(&machine, 1, false));
    }
    let log = |machine: &Machine| done(history::run(machine, &session(machine))).entries;
    let before = log(&machine);
    assert_eq!(before.len(), 401, "each run once, though it is kept twice");
    assert!(before.is_sorted_by_key(|entry| entry.when));
    machine.world(|w| w.edit("da0s1", |tree| tree.remove("var/db/dualroot")));
    let after = log(&machine);
    assert_eq!(after[..], before[before.len() - after.len()..], "what is left is the newest");
    assert!(after.len() > 100, "{}", after.len());
    // /config is small.
    let listing = machine.world(|w| w.tree("da0s3").listing());
    let size = |name: &str| listing[&Path::new(".dualroot").join(name)].size;
    assert!(size("log") + size("log.0") < 68 << 10, "{} {}", size("log"), size("log.0"));
    // Where /config takes nothing, /var does.
    let full = Action::Fail(Errno::ENOSPC as i32);
    machine.inject(When::Each("dir.create_file", "da0s3:.dualroot/log.new".to_owned()), full);
    done(choose(&machine, 1, false));
    assert_eq!(log(&machine).len(), after.len() + 1);
    // And who does not know the slots still reads what there is.
    machine.world(|w| {
        w.edit("da0s1", |tree| tree.file("etc/fstab", b"/dev/da9 /altroot ufs rw 0 0\n"));
    });
    assert_eq!(log(&machine).len(), 1);
}
