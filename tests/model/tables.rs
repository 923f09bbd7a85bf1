//! Partition tables: kept, and repaired.

use std::collections::HashSet;
use std::path::Path;

use dualroot::device::Class;
use dualroot::error::{Error, Kind};
use dualroot::ops::table;
use dualroot::sys::fake::{Action, Call, Loss, Machine, When, World};
use dualroot::table::saved::Saved;
use nix::errno::Errno;

use crate::findings::Findings;
use crate::judge::{calls, left};
use crate::machine::{MB, base, blank, done, fstab, over, run, session};

/// The file of partition tables on `/config`, as it is on the medium.
fn kept(machine: &Machine) -> Option<Vec<u8>> {
    let config = machine.world(|w| w.tree("da0s3").listing());
    let file = config.get(Path::new(".dualroot/tables"))?;
    let mut content = vec![0; usize::try_from(file.size).unwrap()];
    for (at, bytes) in &file.data {
        let at = usize::try_from(*at).unwrap();
        content[at..at + bytes.len()].copy_from_slice(bytes);
    }
    Some(content)
}

/// Whatever stops a snapshot, the file of the one before is there until the new one is.
#[test]
fn the_partition_tables_that_were_kept_are_never_half() {
    let base = base();
    let old = kept(&base.machine).expect("the first snapshot kept them");
    let mut findings = Findings::default();
    let mut seen = HashSet::new();
    let near = |c: &Call| c.place.starts_with("da0s3:.dualroot");
    let calls: Vec<_> = calls(&base.machine).into_iter().filter(near).collect();
    assert!(calls.len() > 5, "{calls:?}");
    for call in calls {
        for action in [Action::Stop, Action::Fail(Errno::ENOSPC as i32), Action::Rot] {
            let rot = matches!(action, Action::Rot);
            let machine = base.machine.fork();
            machine.inject(When::Call(call.clone()), action);
            let result = run(&machine);
            for loss in [Loss::All, Loss::None, Loss::AllBut(1), Loss::Half(7), Loss::Half(8)] {
                let after = machine.lose_power(loss);
                let Some(now) = kept(&after) else {
                    findings.add("it is gone", &call);
                    continue;
                };
                seen.insert(now == old);
                let whole = Saved::decode(&now).is_ok();
                // What a medium makes of it is seen when it is read.
                findings.check(whole || rot, "it is half", &call);
                if result.is_err() && !whole {
                    findings.add("a failed run leaves a file that nobody can read", &call);
                }
            }
        }
    }
    assert_eq!(seen.len(), 2, "both the old and the new one were seen");
    findings.none();
}

/// da0 runs, the copy is on da1, whose table is gone.
fn two_disks() -> (Machine, Vec<u8>) {
    let machine = blank();
    machine.world(|w| {
        w.add_disk("da1", &[2 * MB, MB]);
        w.make_fs("da1s1", "other").unwrap();
        fstab(w, "/dev/da0s2", "/dev/da1s1");
        let code = w.table("da1");
        code[..440].fill(0x31);
    });
    done(run(&machine));
    let whole = machine.world(|w| {
        let table = w.table("da1");
        std::mem::replace(table, vec![0; 512])
    });
    (machine.lose_power(Loss::None), whole)
}

fn restore(machine: &Machine) -> Result<table::restore::Report, Error> {
    let choice = table::Choice { medium: Some("da1"), file: None };
    table::restore::run(machine, &session(machine), choice, false, &mut |_| {})
}

#[test]
fn a_repair_can_be_stopped_anywhere_and_done_again() {
    let (machine, whole) = two_disks();
    let sector = |machine: &Machine| machine.world(|w| w.table("da1").clone());
    let check = |machine: &Machine| {
        let choice = table::Choice::default();
        done(table::check::run(machine, &session(machine), choice)).differences
    };
    let differences = check(&machine);
    assert_eq!(differences.len(), 1, "{differences:?}");
    let others = machine.world(|w| w.tree("da1s1").listing());
    let trace = machine.fork();
    trace.record();
    assert_eq!(done(restore(&trace)).written.len(), 1);
    assert_eq!((sector(&trace), check(&trace)), (whole.clone(), vec![]));
    let mut findings = Findings::default();
    let mut seen = HashSet::new();
    for call in trace.trace() {
        // Only while the medium is open does it matter that the process ends.
        let stop = call.op.contains("claim").then_some(Action::Stop);
        for action in [Some(Action::Fail(Errno::EIO as i32)), stop].into_iter().flatten() {
            let case = format!("{call}: {action:?}");
            let machine = machine.fork();
            machine.inject(When::Call(call.clone()), action);
            match restore(&machine) {
                Ok(_) => findings.check(sector(&machine) == whole, "not repaired", &case),
                Err(e) => {
                    let written = sector(&machine) != vec![0; 512];
                    let refused = e.kind == Kind::Refused && written;
                    findings.check(!refused, &format!("refused after writing: {e}"), &case);
                }
            }
            machine.next_process();
            let machine = machine.lose_power(Loss::All);
            // There are not many states that it can leave.
            if !seen.insert((sector(&machine), left(&machine))) {
                continue;
            }
            match restore(&machine) {
                Ok(_) => findings.check(sector(&machine) == whole, "not repaired then", &case),
                Err(e) => findings.add(format!("the next one fails: {e}"), &case),
            }
            let same = machine.world(|w| w.tree("da1s1").listing()) == others;
            findings.check(same, "the partition was written", &case);
        }
    }
    findings.none();
}

#[test]
fn a_repair_is_refused_where_it_is_not_the_same_medium_or_in_use() {
    type Change = fn(&mut World);
    let (machine, _) = two_disks();
    let cases: [(&str, Change); 5] = [
        ("bytes, not", |w| {
            let id = w.devices.find(Path::new("da1")).unwrap();
            w.devices.providers[id].size += 512;
        }),
        ("serial number", |w| drop(w.idents.insert("da1".to_owned(), "Z9".to_owned()))),
        ("nothing tells", |w| w.make_fs("da1s1", "other").unwrap()),
        ("in use", |w| w.swaps.push("/dev/da1s2".into())),
        ("in use", |w| over(w, "da1s2.eli", Class::Other("ELI".to_owned()), &[("da1s2", None)])),
    ];
    // A medium that had a serial number when it was kept is not one that has another one now.
    machine.world(|w| {
        let table = w.table("da1");
        table[..].fill(0);
    });
    for (word, change) in cases {
        let machine = machine.fork();
        if word == "serial number" {
            let (_, whole) = two_disks();
            machine.world(|w| {
                *w.table("da1") = whole;
                w.idents.insert("da1".to_owned(), "Z8".to_owned());
            });
            done(table::save::run(&machine, &session(&machine)));
            machine.world(|w| w.table("da1").fill(0));
        }
        machine.world(change);
        let Err(error) = restore(&machine) else { panic!("{word}: not refused") };
        assert_eq!(error.kind, Kind::Refused, "{word}: {error}");
        assert!(error.to_string().contains(word), "{word}: {error}");
        assert_eq!(machine.world(|w| w.table("da1").clone()), vec![0; 512], "{word}");
        assert_eq!(left(&machine), [""; 0]);
    }
}
