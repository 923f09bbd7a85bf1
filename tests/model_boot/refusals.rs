//! What is refused, and what is told instead.

use std::path::Path;

use dualroot::error::{Error, Kind};
use dualroot::finding::Severity;
use dualroot::ops::{Session, auto_snapshot, boot, check, show};
use dualroot::record::journal::{How, Journal};
use dualroot::slot::Choice;
use dualroot::sys::Os;
use dualroot::sys::fake::{Action, Loss, Machine, When};
use dualroot::table::Scheme;
use dualroot::table::flags::{Change, Flags};
use nix::errno::Errno;

use crate::machine::{
    by_loader, choose, codes, confirm, done, how, machine, parts, reject, session, show,
};
use crate::start::{copied_back, started, table};

#[test]
fn refusals_change_no_flag_and_no_journal() {
    type Change = fn(&Machine);
    let damage = |machine: &Machine| machine.world(|w| w.edit("da0p3", |t| t.remove(".dualroot")));
    let cases: [(&str, Scheme, bool, Change); 9] = [
        ("invalid", Scheme::Gpt, false, damage),
        ("invalid", Scheme::Gpt, true, damage),
        ("no flag for one start", Scheme::Mbr, true, |_| {}),
        ("not gptboot", Scheme::Gpt, true, |m| m.world(|w| w.put("da0p1", 512, &[7; 64]))),
        ("UEFI", Scheme::Mbr, false, |m| {
            m.world(|w| w.started.firmware = Some(dualroot::table::boot::Firmware::Uefi));
        }),
        ("securelevel", Scheme::Gpt, false, |m| {
            m.world(|w| w.forbids = Some("securelevel is 2".into()));
        }),
        ("version 9", Scheme::Gpt, false, |m| {
            m.world(|w| {
                w.edit("da0p4", |t| t.file(".dualroot/journal.json", b"{\"schema\": 9, \"x\": 1}"));
            });
        }),
        ("not understood", Scheme::Gpt, false, |m| {
            m.world(|w| {
                w.edit("da0p4", |t| t.file(".dualroot/journal.json", b"{\"schema\": 1, \"x\": 1}"));
            });
        }),
        ("needs root", Scheme::Gpt, false, |m| m.world(|w| w.privileged = false)),
    ];
    for (word, scheme, once, change) in cases {
        let machine = machine(scheme);
        change(&machine);
        let content = || {
            let [one, two, config] = parts(scheme);
            let trees = machine.world(|w| [&one, &two, &config].map(|d| w.tree(d).listing()));
            (table(&machine), trees, machine.world(|w| w.pending_tables()))
        };
        let before = content();
        let Err(error) = choose(&machine, 2, once) else { panic!("{word}: not refused") };
        assert_eq!(error.kind, Kind::Refused, "{word}: {error}");
        assert!(error.to_string().contains(word), "{word}: {error}");
        assert!(before == content(), "{word}: something was written");
    }
    // A plain choice goes on where only nobody is known who obeys.
    let machine = machine(Scheme::Gpt);
    machine.world(|w| w.put("da0p1", 512, &[7; 64]));
    done(choose(&machine, 2, false));
}

/// A trial of which nothing would know is none; a plain choice needs nobody to know.
#[test]
fn a_trial_needs_a_place_for_the_journal() {
    let full = |places: &[&str]| {
        let machine = machine(Scheme::Gpt);
        for place in places {
            let full = Action::Fail(Errno::ENOSPC as i32);
            machine.inject(When::Each("dir.create_file", (*place).to_owned()), full);
        }
        machine
    };
    let places = ["da0p2:journal.json.new", "da0p4:.dualroot/journal.json.new"];
    let machine = full(&places);
    let before = table(&machine);
    let error = choose(&machine, 2, true).unwrap_err();
    assert_eq!(error.kind, Kind::Refused, "{error}");
    assert!(error.to_string().contains("nothing would know"), "{error}");
    assert_eq!(table(&machine), before);
    done(choose(&machine, 2, false));
    assert_eq!(started(&machine).1, 2);
    // One place is enough.
    let machine = full(&places[..1]);
    done(choose(&machine, 2, true));
    assert_eq!(show(&started(&machine).0).trial.unwrap().stage, show::Stage::Running);
}

#[test]
fn boot0_starts_what_it_was_told_and_check_sees_where_it_does_not() {
    let machine = machine(Scheme::Mbr);
    machine.world(|w| {
        let sector = w.table("da0");
        let start = [0xfc, 0x31, 0xc0, 0x8e, 0xc0, 0x8e, 0xd8, 0x8e, 0xd0, 0xbc, 0x00, 0x7c];
        sector[..12].copy_from_slice(&start);
        sector[0x1b2..0x1b8].copy_from_slice(b"Drive ");
    });
    assert!(!codes(&machine).contains(&"boot0-differs"));
    machine.world(|w| w.set_active("da0", 2));
    assert!(codes(&machine).contains(&"boot0-differs"), "{:?}", codes(&machine));
    assert_eq!(show(&machine).next[0].slot, 1, "boot0 does not look at the active flag");
    done(choose(&machine, 2, false));
    let sector = machine.world(|w| w.table("da0").clone());
    assert_eq!((sector[0x1b9], sector[446], sector[462]), (1, 0, 0x80));
    assert!(!codes(&machine).contains(&"boot0-differs"));
}

/// It would be another machine that starts again.
#[test]
fn only_the_running_root_starts_again() {
    let machine = machine(Scheme::Gpt);
    done(choose(&machine, 2, true));
    let before = table(&machine);
    let elsewhere = Session { root: "/config".into(), ..session(&machine) };
    let error = boot::run(&machine, &elsewhere, Choice::Number(2), false, true).unwrap_err();
    assert_eq!(error.kind, Kind::Usage, "{error}");
    let error = boot::reject::run(&machine, &elsewhere, true).unwrap_err();
    assert_eq!(error.kind, Kind::Usage, "{error}");
    assert_eq!(table(&machine), before);
    // By whatever name.
    let here = Session { root: "/config/..".into(), ..session(&machine) };
    assert!(done(boot::reject::run(&machine, &here, true)).rebooting);
}

/// The last number that there is has none behind it: nobody has written so often.
#[test]
fn a_journal_with_an_impossible_number_is_written_anew() {
    let machine = machine(Scheme::Gpt);
    done(choose(&machine, 2, false));
    for (device, path) in
        [("da0p2", "var/db/dualroot/journal.json"), ("da0p4", ".dualroot/journal.json")]
    {
        machine.world(|w| {
            let found = w.tree(device).listing().get(Path::new(path)).cloned().unwrap();
            let mut journal: Journal = serde_json::from_slice(&found.data[0].1).unwrap();
            journal.sequence = u64::MAX;
            let text = serde_json::to_vec(&journal).unwrap();
            w.edit(device, |tree| tree.file(path, &text));
        });
    }
    assert!(codes(&machine).contains(&"journal-unreadable"), "{:?}", codes(&machine));
    done(choose(&machine, 1, false));
    assert!(!codes(&machine).contains(&"journal-unreadable"), "{:?}", codes(&machine));
}

/// gptboot(8) does not start the second slot of a table without a flag: somebody has.
#[test]
fn a_slot_that_was_started_without_a_flag_is_on_no_trial() {
    let machine = machine(Scheme::Gpt);
    let found = table(&machine);
    let mut change = Change::none(&found, None);
    change.entries.values_mut().for_each(|(_, to)| *to = Flags::default());
    done(machine.set_boot(Path::new("/dev/da0"), &change));
    machine.world(|w| {
        w.boot[0].0 = "/dev/da0p3".into();
        w.started.id.push('+');
    });
    let machine = machine.lose_power(Loss::None);
    let report = show(&machine);
    assert_eq!((report.trial, report.next[0].slot), (None, 1));
    assert!(!codes(&machine).contains(&"trial-unconfirmed"), "{:?}", codes(&machine));
    assert!(codes(&machine).contains(&"active-not-running"), "{:?}", codes(&machine));
    assert_eq!(how(&machine), How::Planned);
    // With what gptboot leaves of a trial that it has begun, it is one.
    change = Change::none(&table(&machine), None);
    let begun = Flags { boot_once: true, ..Flags::default() };
    change.entries.get_mut(&3).unwrap().1 = begun;
    done(machine.set_boot(Path::new("/dev/da0"), &change));
    machine.world(|w| w.started.id.push('+'));
    let machine = machine.lose_power(Loss::None);
    assert_eq!(how(&machine), How::Trial);
}

/// Puts boot code into the MBR and, where it says so, boot1 and boot2 into the slices of the slots.
fn put_code(machine: &Machine, slices: [bool; 2]) {
    machine.world(|w| {
        w.table("da0")[..440].fill(0x31);
        for (device, code) in ["da0s1", "da0s2"].into_iter().zip(slices) {
            let byte = if code { 0x40 } else { 0 };
            w.put(device, 0, &[byte; 512]);
            w.put(device, 1024, &[byte; 4096]);
        }
    });
}

/// Everything that a refusal must leave.
fn state(machine: &Machine) -> impl PartialEq + use<> {
    let trees = machine.world(|w| ["da0s1", "da0s2", "da0s3"].map(|d| w.tree(d).listing()));
    (machine.world(|w| w.table("da0").clone()), trees, machine.world(|w| w.pending_tables()))
}

fn refuses<T: std::fmt::Debug>(machine: &Machine, run: impl Fn(&Machine) -> Result<T, Error>) {
    let before = state(machine);
    let error = run(machine).unwrap_err();
    assert_eq!(error.kind, Kind::Refused, "{error}");
    assert!(error.to_string().contains("no boot code (boot1, boot2) in the slice"), "{error}");
    assert!(error.hint.unwrap().starts_with("gpart bootcode -b /boot/boot /dev/da0s"));
    assert!(before == state(machine), "something was written");
}

/// The code of an MBR starts the active slice, whatever is in it.
#[test]
fn a_slice_without_boot_code_is_not_made_active() {
    let begin = machine(Scheme::Mbr);
    put_code(&begin, [true, false]);
    let missing = |machine: &Machine| {
        let report = done(check::run(machine, &session(machine)));
        let found = report.findings.into_iter();
        let found = found.filter(|f| f.code == "slice-boot-code-missing");
        found.map(|f| (f.severity, f.place)).collect::<Vec<_>>()
    };
    assert_eq!(missing(&begin), [(Severity::Warning, "/dev/da0s2".to_owned())]);
    let choose = |slot| move |machine: &Machine| choose(machine, slot, false);
    refuses(&begin, choose(2));
    // boot2 alone is not enough, and both are.
    begin.world(|w| w.put("da0s2", 1024, &[0x50; 4096]));
    refuses(&begin, choose(2));
    put_code(&begin, [true, true]);
    assert_eq!(missing(&begin), []);
    let machine = begin.fork();
    done(choose(2)(&machine));
    let (machine, slot) = started(&machine);
    assert_eq!(slot, 2);
    put_code(&machine, [false, true]);
    refuses(&machine, choose(1));
    // It starts by something else where no slice has any, or the MBR has none.
    put_code(&machine, [false, false]);
    done(choose(1)(&machine.fork()));
    put_code(&machine, [false, true]);
    machine.world(|w| w.table("da0")[..440].fill(0));
    done(choose(1)(&machine.fork()));
}

/// A trial has the other slot's kernel; only what ends it makes the slice active.
#[test]
fn a_trial_ends_only_where_something_starts() {
    let begin = by_loader(Scheme::Mbr);
    put_code(&begin, [true, false]);
    done(choose(&begin, 2, true));
    let (trial, slot) = started(&begin);
    assert_eq!(slot, 2);
    refuses(&trial, confirm);
    let rejected = trial.fork();
    done(reject(&rejected));
    // Somebody has moved the flag meanwhile.
    let moved = trial.fork();
    moved.world(|w| w.set_active("da0", 2));
    put_code(&moved, [false, true]);
    refuses(&moved, reject);
    put_code(&trial, [true, true]);
    assert_eq!(done(confirm(&trial)).slot, 2);
}

/// The flags would not come back to the slot.
#[test]
fn a_slot_from_which_nothing_starts_is_not_repaired() {
    let machine = copied_back(&machine(Scheme::Mbr));
    machine.world(|w| {
        w.edit("da0s1", |tree| tree.remove("boot/kernel"));
        w.started.id.push('+');
    });
    put_code(&machine, [false, true]);
    let machine = machine.lose_power(Loss::None);
    let auto = |m: &Machine| auto_snapshot::run(m, &session(m), false, &mut |_| {});
    // How the system came up is noted first.
    done(auto_snapshot::run(&machine, &session(&machine), true, &mut |_| {}));
    refuses(&machine, auto);
    put_code(&machine, [true, true]);
    let report = done(auto(&machine));
    assert!(report.repaired, "{report:?}");
    assert_eq!(started(&machine).1, 1);
}
