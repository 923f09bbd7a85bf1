//! A fall-back, and its repair.

use std::collections::HashSet;
use std::hash::{DefaultHasher, Hasher};
use std::path::Path;

use dualroot::error::{Error, Kind};
use dualroot::ops::auto_snapshot;
use dualroot::record::journal::{Auto, How, Journal};
use dualroot::slot::State;
use dualroot::sys::fake::{Action, Loss, Machine, When, World};
use dualroot::table::Scheme;
use nix::errno::Errno;

use crate::findings::Findings;
use crate::machine::{
    FILE, SIGINT, by_loader, choose, confirm, done, how, machine, session, show, snapshot,
    without_config,
};
use crate::start::{copied_back, fingerprint, losses, start, started};

/// The first slot was destroyed, and the machine has come up from the second.
fn fallen_back() -> Machine {
    falls_back(&machine(Scheme::Gpt))
}

/// The same where each slot has a journal of its own.
fn fallen_back_alone() -> Machine {
    falls_back(&without_config(&machine(Scheme::Gpt)))
}

fn falls_back(machine: &Machine) -> Machine {
    machine.world(|w| {
        w.edit("da0p3", |tree| tree.file("etc/dualroot.conf", b"auto-snapshot = true\n"));
        w.put("da0p2", 64 << 10, &[0; 8192]);
    });
    let (machine, slot) = started(machine);
    assert_eq!(slot, 2);
    machine
}

fn auto(machine: &Machine) -> Result<auto_snapshot::Report, Error> {
    auto_snapshot::run(machine, &session(machine), false, &mut |_| {})
}

/// The first slot, a copy that never ran, lacks its kernel, and the machine has come up from the second.
fn fallen_back_from_a_copy() -> Machine {
    let machine = machine(Scheme::Gpt);
    done(choose(&machine, 2, false));
    let (machine, _) = started(&machine);
    machine.world(|w| {
        w.edit("da0p3", |tree| {
            tree.file("etc/dualroot.conf", b"auto-snapshot = true\n");
            tree.file("etc/motd.template", b"Welcome\n");
        });
    });
    done(snapshot(&machine));
    done(choose(&machine, 1, false));
    machine.world(|w| w.edit("da0p2", |tree| tree.remove("boot/kernel")));
    let (machine, slot) = started(&machine);
    assert_eq!(slot, 2);
    machine
}

/// A reboot ends fsck, and this program; another time there is no memory for either.
#[test]
fn what_the_running_system_lacks_is_no_damage() {
    let begin = fallen_back_from_a_copy();
    let hash = |machine: &Machine| {
        let mut hasher = DefaultHasher::new();
        machine.world(|w| w.hash("da0p2", &mut hasher));
        hasher.finish()
    };
    let broken = hash(&begin);
    assert!(done(auto(&begin.fork())).repaired);
    let faults = [("os.inspect", Errno::EIO), ("os.mount", Errno::ENOMEM)];
    for (call, errno) in faults {
        let machine = begin.fork();
        machine.inject(When::Each(call, "/dev/da0p2".to_owned()), Action::Fail(errno as i32));
        let report = done(auto(&machine));
        assert!(!report.repaired && report.is_open(), "{call}: {report:?}");
        let note = report.status.note.unwrap_or_default();
        assert!(note.contains("nothing tells what is wrong"), "{call}: {note}");
        assert_eq!(hash(&machine), broken);
    }
    let machine = begin.fork();
    let inspect = || When::Each("os.inspect", "/dev/da0p2".to_owned());
    machine.inject(inspect(), Action::Signal(SIGINT));
    assert_eq!(auto(&machine).unwrap_err().kind, Kind::Signal(SIGINT));
    assert_eq!(hash(&machine), broken);
    let stored = done(auto_snapshot::status(&machine, &session(&machine)));
    assert_ne!(stored.state, Auto::InProgress, "nothing of it was begun");
}

/// On a root that is read-only the notice cannot be put up; the slot is repaired all the same.
#[test]
fn a_notice_that_cannot_be_written_keeps_nobody_from_the_repair() {
    let machine = fallen_back_from_a_copy();
    let assess = |m: &Machine| done(auto_snapshot::run(m, &session(m), true, &mut |_| {}));
    assert!(assess(&machine.fork()).notice);
    let create = When::Each("dir.create_file", "da0p3:motd.template.new".to_owned());
    machine.inject(create, Action::Fail(Errno::EROFS as i32));
    assert!(!assess(&machine).notice);
    assert!(done(auto(&machine)).repaired);
}

/// Whoever logs in reads it as soon as it is there, whatever ends the run that writes it.
#[test]
fn a_file_of_the_administrators_keeps_its_mode_at_every_step() {
    let begin = fallen_back_from_a_copy();
    let mode = |m: &Machine| {
        let listing = m.world(|w| w.tree("da0p3").listing());
        let file = &listing[Path::new("etc/motd.template")];
        (file.attributes.mode & 0o7777, file.size > b"Welcome\n".len() as u64)
    };
    let assess = |m: &Machine| auto_snapshot::run(m, &session(m), true, &mut |_| {});
    assert_eq!(mode(&begin), (0o644, false));
    let trace = begin.fork();
    trace.record();
    done(assess(&trace));
    assert_eq!(mode(&trace), (0o644, true));
    let steps = trace.trace().len() as u64;
    let seen: HashSet<_> = (1..=steps)
        .map(|step| {
            let machine = begin.fork();
            machine.stop_at(step);
            let _ = assess(&machine);
            mode(&machine)
        })
        .collect();
    assert_eq!(seen, HashSet::from([(0o644, false), (0o644, true)]));
}

/// The kernel of the slot that was meant to run came up, and mounted the other root: the slot was
/// changed since it was copied, and that is no damage.
#[test]
fn a_half_boot_is_told_and_its_slot_left_alone() {
    let machine = copied_back(&by_loader(Scheme::Mbr));
    let changed = machine.fork();
    machine.world(|w| {
        let to = b"nextboot_enable=\"YES\"\nvfs.root.mountfrom=\"ufs:/dev/da0s2\"\n";
        w.edit("da0s1", |tree| tree.file(FILE, to));
    });
    let (machine, slot) = started(&machine);
    let report = done(auto(&machine));
    assert_eq!((slot, report.how, report.repaired), (2, How::Fallback, false));
    let half = report.half_boot.unwrap();
    assert!(half.contains("/dev/da0s1") && half.contains("two slots in one system"), "{half}");
    let note = report.status.note.unwrap();
    assert!(note.contains("intact"), "{note}");
    // The same change of a slot that gave no sign of life is damage.
    changed.world(|w| {
        w.edit("da0s1", |tree| tree.file(FILE, b""));
        w.boot[0].0 = "/dev/da0s2".into();
        w.started.id.push('+');
    });
    let report = done(auto(&changed.lose_power(Loss::None)));
    assert_eq!((report.how, report.repaired, report.half_boot), (How::Fallback, true, None));
}

/// The slot ran once, and nobody noted that the other one runs now: what is written to it from then on
/// has not run.
#[test]
fn a_copy_that_was_cut_off_has_not_run() {
    let machine = machine(Scheme::Gpt);
    done(choose(&machine, 2, false));
    let (machine, _) = started(&machine);
    assert_eq!(how(&machine), How::Planned);
    done(choose(&machine, 1, false));
    let (machine, slot) = started(&machine);
    assert_eq!(slot, 1);
    let trace = machine.fork();
    trace.record();
    done(snapshot(&trace));
    machine.stop_at(trace.trace().len() as u64 / 2);
    assert!(snapshot(&machine).is_err());
    let (machine, slot) = started(&machine);
    assert_eq!(slot, 1);
    assert_ne!(show(&machine).slots[1].state, State::Valid);
    assert_eq!(how(&machine), How::Planned);
    assert_eq!(choose(&machine, 2, false).unwrap_err().kind, Kind::Refused);
}

/// What was found of a slot is forgotten once an operator has settled the matter.
#[test]
fn what_was_found_is_told_while_it_matters() {
    let machine = machine(Scheme::Gpt);
    assert_eq!(how(&machine), How::Planned);
    machine.world(|w| w.edit("da0p2", |tree| tree.remove("boot/kernel")));
    let (machine, slot) = started(&machine);
    assert_eq!(slot, 2);
    let note = done(auto(&machine)).status.note.unwrap_or_default();
    assert!(note.contains("intact"), "{note}");
    let status = || done(auto_snapshot::status(&machine, &session(&machine)));
    assert_eq!(status().note, Some(note));
    done(choose(&machine, 2, false));
    assert_eq!(how(&machine), How::Planned);
    assert_eq!(status().note, None);
}

/// What is said to try the slot again does it.
#[test]
fn a_choice_that_is_advised_is_not_refused() {
    for known in [true, false] {
        let machine = without_config(&machine(Scheme::Gpt));
        if known {
            done(choose(&machine, 1, false));
        }
        machine.world(|w| w.edit("da0p2", |tree| tree.remove("boot/kernel")));
        let (machine, slot) = started(&machine);
        assert_eq!(slot, 2);
        let note = done(auto(&machine)).status.note.unwrap_or_default();
        assert!(note.contains("intact"), "{note}");
        assert_eq!(note.contains("dualroot boot 1 --reboot tries it again"), known, "{note}");
        assert_eq!(note.contains("gpart set -a bootonce -i 2 /dev/da0"), !known, "{note}");
        assert_eq!(choose(&machine, 1, false).is_ok(), known);
    }
}

/// A repair that was cut off in the middle.
fn cut_off() -> Machine {
    let machine = fallen_back();
    let trace = machine.fork();
    trace.record();
    assert!(done(auto(&trace)).repaired);
    machine.stop_at(trace.trace().len() as u64 / 2);
    assert!(auto(&machine).is_err());
    let (machine, slot) = started(&machine);
    let report = done(auto_snapshot::run(&machine, &session(&machine), true, &mut |_| {}));
    assert_eq!((slot, report.is_open(), report.status.state), (2, true, Auto::InProgress));
    machine
}

/// Who makes the copy himself has repaired the slot: nothing says otherwise, and the next one is made
/// as ever.
#[test]
fn a_snapshot_ends_a_repair_that_was_cut_off() {
    let machine = cut_off();
    done(snapshot(&machine));
    let report = done(auto_snapshot::run(&machine, &session(&machine), true, &mut |_| {}));
    assert_eq!((report.how, report.notice, report.is_open()), (How::Planned, false, false));
    done(snapshot(&machine));
    assert_eq!(show(&machine).slots[0].state, State::Valid);
}

/// Who chooses the slot that runs has given the other one up: it is not told as repaired.
#[test]
fn a_choice_ends_a_repair_that_was_cut_off() {
    let choices = [|m: &Machine| choose(m, 2, false), |m: &Machine| confirm(m)];
    for (choice, failed) in choices.into_iter().flat_map(|c| [(c, false), (c, true)]) {
        let machine = cut_off();
        if failed {
            let format = When::Each("os.format", "/dev/da0p2".to_owned());
            machine.inject(format, Action::Fail(Errno::EIO as i32));
            assert_eq!(auto(&machine).unwrap_err().kind, Kind::Failed);
        }
        let status = || done(auto_snapshot::status(&machine, &session(&machine))).state;
        assert_eq!(status(), if failed { Auto::Failed } else { Auto::InProgress });
        done(choice(&machine));
        assert_eq!(status(), Auto::Disabled);
        let report = done(auto_snapshot::run(&machine, &session(&machine), false, &mut |_| {}));
        assert_eq!((report.how, report.repaired, report.is_open()), (How::Planned, false, false));
        assert_eq!(status(), Auto::Disabled);
        assert_ne!(show(&machine).slots[0].state, State::Valid);
        let (machine, slot) = started(&machine);
        assert_eq!((slot, how(&machine)), (2, How::Planned));
    }
}

/// What is up after a loss of power is whole, and goes on with the repair until that is done.
fn goes_on(after: &Machine, how: &str, findings: &mut Findings) {
    let Some((up, slot)) = start(after, Loss::None) else {
        findings.add("nothing starts", how);
        return;
    };
    let whole = show(&up).slots[slot as usize - 1].state;
    findings.check(slot == 2 || whole == State::Valid, "a half copy starts", how);
    match auto(&up) {
        Err(e) => findings.add(format!("the repair fails then: {e}"), how),
        Ok(report) => findings.check(!report.is_open(), "it stays open", how),
    }
    let Some((up, slot)) = start(&up, Loss::All) else {
        findings.add("nothing starts after the repair", how);
        return;
    };
    findings.check(slot == 1, "the repaired slot does not start", how);
    match auto(&up) {
        Err(e) => findings.add(format!("it fails on the repaired slot: {e}"), how),
        Ok(report) => {
            let settled = report.how == How::Planned && report.status.state != Auto::InProgress;
            findings.check(settled, &format!("{:?} on the repaired slot", report.how), how);
        }
    }
}

#[test]
fn a_repair_ends_whenever_the_power_goes() {
    let begin = fallen_back();
    let trace = begin.fork();
    trace.record();
    assert!(done(auto(&trace)).repaired);
    let calls = trace.trace();
    let (mut findings, mut seen, mut cuts) = (Findings::default(), HashSet::new(), 0);
    for k in 1..=calls.len() as u64 + 1 {
        let machine = begin.fork();
        machine.stop_at(k);
        let _ = auto(&machine); // stopped, but for what is only written down
        for loss in losses(&machine, k) {
            cuts += 1;
            let after = machine.lose_power(loss);
            if seen.insert(fingerprint(&after)) {
                let at = machine.hits().first().map_or("the end".to_owned(), ToString::to_string);
                goes_on(&after, &format!("{loss:?} at {k}: {at}"), &mut findings);
            }
        }
    }
    println!("repair: {} operations, {cuts} losses of power, {} states", calls.len(), seen.len());
    findings.none();
}

/// Whatever fails, the running slot is there afterwards, and an operator can end the matter.
#[test]
fn a_repair_that_fails_leaves_what_runs() {
    let begin = fallen_back();
    let trace = begin.fork();
    trace.record();
    done(auto(&trace));
    let calls = trace.trace();
    let mut findings = Findings::default();
    for (n, call) in calls.iter().enumerate() {
        for action in [Action::Fail(Errno::EIO as i32), Action::Signal(SIGINT)] {
            let how = format!("{call} {action:?}");
            let machine = begin.fork();
            machine.inject(When::Call(call.clone()), action);
            let result = auto(&machine);
            machine.next_process();
            let Some((up, slot)) = start(&machine, Loss::All) else {
                findings.add("nothing starts", &how);
                continue;
            };
            let whole = show(&up).slots[slot as usize - 1].state;
            findings.check(slot == 2 || whole == State::Valid, "a half copy starts", &how);
            findings.check(result.is_err() || slot == 1 || n > 0, "done, without effect", &how);
            if slot == 2 {
                let ended = choose(&up, 2, false).and_then(|_| snapshot(&up));
                // Of a table of which a write failed the system's own tool makes both copies whole.
                let told = |e: &Error| e.hint.as_ref().is_some_and(|h| h.contains("gpart recover"));
                let right = ended.as_ref().map_or_else(told, |()| true);
                findings.check(right, &format!("no way out: {ended:?}"), &how);
            }
        }
    }
    findings.none();
}

/// The flags were back when the power went, and the journal of the slot that ran does not know it. The
/// slot that was repaired ran, and got newer software; then the other one was chosen.
#[test]
fn a_repair_whose_end_was_not_written_down_is_not_done_again() {
    let begin = fallen_back_alone();
    let trace = begin.fork();
    trace.record();
    assert!(done(auto(&trace)).repaired);
    let mut cases = 0;
    for k in 1..=trace.trace().len() as u64 {
        let machine = begin.fork();
        machine.stop_at(k);
        let _ = auto(&machine); // stopped
        let Some((machine, 1)) = start(&machine, Loss::None) else { continue };
        assert_eq!(how(&machine), How::Planned, "at {k}");
        machine.world(|w| w.edit("da0p2", |tree| tree.file("boot/newer", b"software")));
        done(choose(&machine, 2, false));
        let (machine, slot) = started(&machine);
        assert_eq!(slot, 2);
        let report = done(auto(&machine));
        assert_eq!((report.repaired, report.is_open()), (false, false), "at {k}: {report:?}");
        assert!(machine.world(|w| w.tree("da0p2").has("boot/newer")), "at {k}");
        assert_eq!(how(&machine), How::Planned, "at {k}");
        assert_eq!(started(&machine).1, 2, "at {k}");
        cases += 1;
    }
    assert!(cases > 0);
}

/// What nobody can tell now is told at the next start, and until then it stays open.
#[test]
fn a_repair_that_was_cut_off_is_not_forgotten() {
    let machine = cut_off();
    let mount = || When::Each("os.mount", "/dev/da0p2".to_owned());
    let once = machine.fork();
    once.inject(mount(), Action::Fail(Errno::ENOMEM as i32));
    let report = done(auto(&once));
    assert_eq!((report.status.state, report.is_open()), (Auto::InProgress, true), "{report:?}");
    let (once, slot) = started(&once);
    assert_eq!((slot, how(&once)), (2, How::Fallback));
    assert!(done(auto(&once)).repaired);
    // Switched off meanwhile: it is told until somebody does something.
    machine.world(|w| w.edit("da0p3", |tree| tree.file("etc/dualroot.conf", b"")));
    for _ in 0..2 {
        let report = done(auto(&machine));
        assert_eq!((report.status.state, report.is_open()), (Auto::Failed, true), "{report:?}");
    }
    done(snapshot(&machine));
    let report = done(auto(&machine));
    assert_eq!((report.how, report.is_open()), (How::Planned, false));
}

/// Somebody says that what runs is to stay, while nobody holds the locks.
#[test]
fn a_choice_in_the_middle_of_a_repair_stands() {
    let begin = fallen_back();
    let trace = begin.fork();
    trace.record();
    assert!(done(auto(&trace)).repaired);
    // Before the first of them everything is as it was before.
    let calls = trace.trace();
    let locks: Vec<_> = calls.iter().filter(|c| c.op == "os.make_dir").skip(1).collect();
    let (mut early, mut late) = (0, 0);
    for call in locks {
        let machine = begin.fork();
        let choice = Action::Change(Box::new(|w: &mut World| {
            for (device, path) in
                [("da0p3", "var/db/dualroot/journal.json"), ("da0p4", ".dualroot/journal.json")]
            {
                let found = w.tree(device).listing().get(Path::new(path)).cloned();
                let Some(file) = found else { continue };
                let text = &file.data.first().unwrap().1;
                let mut journal: Journal = serde_json::from_slice(text).unwrap();
                if journal.auto_snapshot.take().is_some() {
                    journal.intended = journal.boot.as_ref().map(|boot| boot.slot.clone());
                    let text = serde_json::to_vec(&journal).unwrap();
                    w.edit(device, |tree| tree.file(path, &text));
                }
            }
        }));
        machine.inject(When::Call(call.clone()), choice);
        let ended = auto(&machine);
        let slots = show(&machine).slots;
        let Err(error) = ended else {
            // Between two that are for mounts, with the locks held.
            continue;
        };
        let cause = error.to_string();
        assert!(cause.contains("a slot was chosen meanwhile"), "{call}: {cause}");
        assert_eq!(error.kind, Kind::Failed, "the flags were changed before");
        let count = if slots[0].state == State::Valid { &mut late } else { &mut early };
        *count += 1;
        let status = done(auto_snapshot::status(&machine, &session(&machine)));
        assert_eq!(status.state, Auto::Disabled, "{call}");
        assert_eq!(started(&machine).1, 2, "{call}");
    }
    assert!(early > 0 && late > 0, "{early} {late}");
}
