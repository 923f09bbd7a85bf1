//! `boot`, `confirm` and `reject` on a machine in memory, with a gptboot that obeys the flags and a
//! loader that reads nextboot.conf: every failure, every signal and every loss of power, and after each
//! of them something starts.

mod findings;

use std::collections::HashSet;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::path::Path;

use findings::Findings;

use dualroot::error::{Error, Kind};
use dualroot::ops::{Session, auto_snapshot, boot, check, history, show, snapshot};
use dualroot::record::journal::{Auto, By, How};
use dualroot::slot::{Choice, State};
use dualroot::sys::Os;
use dualroot::sys::command::Ended;
use dualroot::sys::fake::{Action, Call, Loss, Machine, Tree, When, World};
use dualroot::table::flags::{Change, Flags};
use dualroot::table::gpt::{self, Copy};
use dualroot::table::{Entry, Scheme, Table, superblock};
use nix::errno::Errno;

const MB: u64 = 1 << 20;
const SIGINT: i32 = 2;
const BOOT: &str = "83bd6b9d-7f41-11dc-be0b-001560b84f0f";
const UFS: &str = "516e7cb6-6ecf-11d6-8ff8-00022d09712b";
/// What starts from each slot.
const KERNEL: &[u8] = b"a kernel";
/// What only gptboot says.
const GPTBOOT: &[u8] = b"\0%s: no UFS partition was found\n\0";

// ---- the machine --------------------------------------------------------------------------------

/// da0 with two roots and a `/config` that both use; slot 2 has a copy.
fn machine(scheme: Scheme) -> Machine {
    let machine = Machine::new();
    let parts = parts(scheme);
    machine.world(|w| {
        if scheme == Scheme::Gpt {
            w.add_gpt_disk("da0", &[(BOOT, MB / 2), (UFS, 2 * MB), (UFS, 2 * MB), (UFS, MB)]);
            w.put("da0p1", 512, GPTBOOT);
        } else {
            w.add_disk("da0", &[2 * MB, 2 * MB, MB]);
        }
        for (device, label) in parts.iter().zip(["root1", "root2", "config"]) {
            w.make_fs(device, label).unwrap();
        }
        let [one, two, config] = &parts;
        let fstab = format!(
            "/dev/{one} / ufs rw 1 1\n/dev/{two} /altroot ufs rw,noauto 0 0\n/dev/{config} /config ufs rw 2 2\n"
        );
        w.edit(one, |tree| root(tree, &fstab));
        w.edit(config, |tree| tree.file("app.conf", b"host-name ex;\n"));
        w.boot = vec![
            (format!("/dev/{one}").into(), "/".into()),
            (format!("/dev/{config}").into(), "/config".into()),
        ];
        w.start().unwrap();
    });
    done(snapshot(&machine));
    machine.lose_power(Loss::None)
}

/// The same as FreeBSD's loader has started it.
fn by_loader(scheme: Scheme) -> Machine {
    let machine = machine(scheme);
    machine.world(|w| {
        let slot = if scheme == Scheme::Gpt { "disk0p2:" } else { "disk0s1:" };
        w.started.loader = Some(slot.to_owned());
        w.started.nextboot = Some("/boot/nextboot.conf".into());
    });
    machine
}

/// Each slot has its own journal: there is no `/config`.
fn without_config(machine: &Machine) -> Machine {
    let [one, two, _] = parts(scheme(machine));
    let machine = machine.fork();
    machine.world(|w| {
        let fstab = format!("/dev/{one} / ufs rw 1 1\n/dev/{two} /altroot ufs rw,noauto 0 0\n");
        w.edit(&one, |tree| tree.file("etc/fstab", fstab.as_bytes()));
        w.boot.truncate(1);
    });
    let machine = machine.lose_power(Loss::None);
    done(snapshot(&machine));
    machine
}

fn parts(scheme: Scheme) -> [String; 3] {
    let infix = if scheme == Scheme::Gpt { ["p2", "p3", "p4"] } else { ["s1", "s2", "s3"] };
    infix.map(|part| format!("da0{part}"))
}

fn root(tree: &mut Tree, fstab: &str) {
    for dir in ["dev", "config", "boot", "boot/kernel", "etc", "var", "var/db", "altroot"] {
        tree.dir(dir);
    }
    tree.file("etc/fstab", fstab.as_bytes());
    tree.file("boot/kernel/kernel", KERNEL);
}

fn session(machine: &Machine) -> Session {
    Session { root: "/".into(), config: None, media: None, monitor: machine.monitor() }
}

fn snapshot(machine: &Machine) -> Result<(), Error> {
    let options = snapshot::Options::default();
    snapshot::run(machine, &session(machine), options, &mut |_| {}).map(drop)
}

fn choose(machine: &Machine, slot: u32, once: bool) -> Result<boot::Report, Error> {
    boot::run(machine, &session(machine), Choice::Number(slot), once, false)
}

fn confirm(machine: &Machine) -> Result<boot::Report, Error> {
    boot::confirm::run(machine, &session(machine))
}

fn reject(machine: &Machine) -> Result<boot::Report, Error> {
    boot::reject::run(machine, &session(machine), false)
}

fn show(machine: &Machine) -> show::Report {
    let fork = machine.fork();
    done(show::run(&fork, &session(&fork), None))
}

fn codes(machine: &Machine) -> Vec<&'static str> {
    let fork = machine.fork();
    done(check::run(&fork, &session(&fork))).findings.iter().map(|f| f.code).collect()
}

fn done<T>(result: Result<T, Error>) -> T {
    result.unwrap_or_else(|e| panic!("{e}"))
}

fn running(machine: &Machine) -> u32 {
    let slots = show(machine).slots;
    slots.iter().find(|slot| slot.booted).unwrap().slot
}

// ---- what starts it -----------------------------------------------------------------------------

fn scheme(machine: &Machine) -> Scheme {
    let gpt = machine.world(|w| w.devices.find(Path::new("da0p1")).is_some());
    if gpt { Scheme::Gpt } else { Scheme::Mbr }
}

/// The table as the boot code reads it: of a GPT the primary copy, or the backup.
fn table(machine: &Machine) -> Table {
    let disk = machine.fork();
    let size = disk.devices().unwrap().get(0).size;
    let read = |at, length| disk.read_device(Path::new("/dev/da0"), at, length).unwrap();
    let bytes = read(0, usize::try_from(size).unwrap());
    let mut reader = std::io::Cursor::new(bytes);
    if scheme(machine) == Scheme::Mbr {
        return dualroot::table::read(&mut reader, size, 512).unwrap().unwrap();
    }
    let mut copy = |copy| gpt::read_copy(&mut reader, size, 512, copy).ok().flatten();
    copy(Copy::Primary).or_else(|| copy(Copy::Backup)).expect("no copy of the gpt is whole")
}

/// Whether the kernel of a slot can be loaded.
fn loads(machine: &Machine, device: &str) -> bool {
    machine.world(|w| {
        superblock::read(&w.boot_area(device)).is_some()
            && w.tree(device)
                .listing()
                .get(Path::new("boot/kernel/kernel"))
                .is_some_and(|f| f.data == [(0, KERNEL.to_vec())] && f.size == KERNEL.len() as u64)
    })
}

/// The machine starts: as `gptfind` does it (stand/libsa/gpt.c), or the code of an MBR. The slot
/// that came up, with what that did to the flags.
fn start(machine: &Machine, loss: Loss) -> Option<(Machine, u32)> {
    let machine = machine.lose_power(loss);
    let found = table(&machine);
    let all = parts(scheme(&machine));
    let [one, two, _] = &all;
    let number = |index: u32| match index {
        2 => Some((1, one)),
        3 => Some((2, two)),
        _ => None,
    };
    let ufs = || found.entries.iter().filter(|e| e.kind == "freebsd-ufs");
    let mut change = Change::none(&found, None);
    let slot = if found.scheme == Scheme::Mbr {
        let active: Vec<_> = found.entries.iter().filter(|e| e.active).collect();
        let [active] = active[..] else { return None };
        let slot = active.index;
        loads(&machine, &all[slot as usize - 1]).then_some(slot)
    } else {
        // A trial that was begun and did not lead to a system that could say so.
        for entry in ufs().filter(|e| e.boot_once && !e.boot_me) {
            let failed = Flags { boot_failed: true, ..Flags::default() };
            change.entries.insert(entry.index, (Flags::of(entry), failed));
        }
        let tried_once: Vec<&Entry> = ufs().filter(|e| e.boot_me && e.boot_once).collect();
        let flagged: Vec<&Entry> = ufs().filter(|e| e.boot_me && !e.boot_once).collect();
        let first = ufs().take(usize::from(tried_once.is_empty() && flagged.is_empty()));
        let mut came = None;
        for entry in tried_once.into_iter().chain(flagged).chain(first) {
            let flags = Flags::of(entry);
            if entry.boot_once {
                let tried = Flags { boot_me: false, ..flags };
                change.entries.insert(entry.index, (flags, tried));
            }
            match number(entry.index).filter(|(_, device)| loads(&machine, device)) {
                Some((slot, _)) => {
                    came = Some(slot);
                    break;
                }
                None if entry.boot_once => {
                    let failed = Flags { boot_failed: true, ..Flags::default() };
                    change.entries.insert(entry.index, (flags, failed));
                }
                None => {}
            }
        }
        came
    }?;
    if !change.is_empty() {
        // What one copy lacks, gptboot leaves to `gpart recover`.
        let _ = machine.set_boot(Path::new("/dev/da0"), &change);
    }
    let came = machine.world(|w| {
        let root = load(w, &all, slot)?;
        w.boot[0].0 = format!("/dev/{root}").into();
        w.started.id.push('+'); // another start than the one before
        all.iter().position(|device| *device == root)
    })?;
    Some((machine.lose_power(Loss::None), u32::try_from(came).unwrap() + 1))
}

/// The loader of a slot (stand/lua/config.lua), and the kernel after it: the device of the root.
fn load(w: &mut World, slots: &[String], slot: u32) -> Option<String> {
    let own = &slots[slot as usize - 1];
    let mut roots = vec![format!("/dev/{own}")];
    w.started.trial = None;
    if w.started.nextboot.is_some() {
        w.started.loader = Some(format!("disk0{}:", own.trim_start_matches("da0")));
        let found = w.tree(own).listing().get(Path::new(FILE)).map(|file| file.data[0].1.clone());
        if let Some(mut text) = found.filter(|text| !text.starts_with(b"nextboot_enable=\"NO\"")) {
            let lines = String::from_utf8(text.clone()).unwrap();
            let value = |name: &str| {
                let value = |line: &str| {
                    line.strip_prefix(name)?
                        .strip_prefix("=\"")?
                        .split('"')
                        .next()
                        .map(str::to_owned)
                };
                lines.lines().find_map(value)
            };
            assert_eq!(value("nextboot_enable").as_deref(), Some("YES"));
            if let Some(list) = value("vfs.root.mountfrom") {
                roots = list
                    .split(' ')
                    .map(|root| root.strip_prefix("ufs:").unwrap().to_owned())
                    .collect();
            }
            w.started.trial = value("dualroot.trial");
            text[..21].copy_from_slice(b"nextboot_enable=\"NO\" ");
            w.edit(own, |tree| tree.file(FILE, &text));
        }
    }
    w.started.roots.clone_from(&roots);
    let devices = roots.iter().filter_map(|root| root.strip_prefix("/dev/"));
    let sound = |device: &&str| {
        superblock::read(&w.boot_area(device)).is_some() && w.tree(device).has("etc/fstab")
    };
    devices.into_iter().find(sound).map(str::to_owned)
}

fn started(machine: &Machine) -> (Machine, u32) {
    start(machine, Loss::All).expect("nothing starts")
}

// ---- plain use ----------------------------------------------------------------------------------

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
    assert_eq!(names, [("10-ping", true), ("20-routes", true)]);
    assert_eq!(started(&machine).1, 2);
}

// ---- a trial by the loader's file ---------------------------------------------------------------

const FILE: &str = "boot/nextboot.conf";

/// The file on a slot, as text.
fn file(machine: &Machine, device: &str) -> Option<String> {
    let listing = machine.world(|w| w.tree(device).listing());
    let file = listing.get(Path::new(FILE))?;
    Some(String::from_utf8(file.data[0].1.clone()).unwrap())
}

fn stage(machine: &Machine) -> Option<(show::Stage, By)> {
    show(machine).trial.map(|report| (report.stage, report.trial.by))
}

/// How the running slot came up, as rc(8) has it told.
fn how(machine: &Machine) -> How {
    done(auto_snapshot::run(machine, &session(machine), true, &mut |_| {})).how
}

#[test]
fn nextboot_starts_the_other_root_once() {
    for own_journals in [false, true] {
        let machine = by_loader(Scheme::Mbr);
        let machine = if own_journals { without_config(&machine) } else { machine };
        assert_eq!(how(&machine), How::Planned);
        let report = done(choose(&machine, 2, true));
        assert_eq!((report.by, report.kernel, report.changed), (Some(By::Nextboot), Some(1), true));
        let next: Vec<_> = show(&machine).next.iter().map(|n| (n.slot, n.once)).collect();
        assert_eq!(next, [(2, true), (1, false)]);
        assert_eq!(stage(&machine), Some((show::Stage::Armed, By::Nextboot)));
        assert!(codes(&machine).contains(&"trial-armed"), "{:?}", codes(&machine));
        let text = file(&machine, "da0s1").unwrap();
        let head =
            "nextboot_enable=\"YES\"\nvfs.root.mountfrom=\"ufs:/dev/da0s2 ufs:/dev/da0s1\"\n";
        assert!(text.starts_with(head), "{text}");
        assert_eq!(table(&machine).entries.iter().position(|e| e.active), Some(0));
        // The copy is not written over before it is tried, whatever is said.
        for force in [false, true] {
            let options = snapshot::Options { force, ..snapshot::Options::default() };
            let error = snapshot::run(&machine, &session(&machine), options, &mut |_| {});
            assert_eq!(error.unwrap_err().kind, Kind::Refused);
        }
        assert_eq!(confirm(&machine).unwrap_err().kind, Kind::Refused, "it has not started");
        let (trial, slot) = started(&machine);
        assert_eq!((slot, running(&trial)), (2, 2));
        assert_eq!(file(&trial, "da0s1").unwrap().len(), text.len());
        let told = || {
            assert_eq!(stage(&trial), Some((show::Stage::Running, By::Nextboot)));
            let codes = codes(&trial);
            assert!(codes.contains(&"trial-unconfirmed"), "{codes:?}");
            assert!(!codes.contains(&"half-boot"), "{codes:?}");
            assert!(!codes.contains(&"nextboot-stale"), "{codes:?}");
        };
        // With rc(8)'s help and without.
        told();
        let [confirmed, rejected, chosen] = [(); 3].map(|()| trial.fork());
        assert_eq!(how(&trial), How::Trial);
        told();
        let error = snapshot(&trial).unwrap_err();
        assert_eq!(error.kind, Kind::Refused, "{error}");
        // It ends by itself.
        let (back, slot) = started(&trial);
        assert_eq!((slot, how(&back)), (1, How::Returned));
        assert_eq!(stage(&back), Some((show::Stage::Over, By::Nextboot)));
        assert!(!codes(&back).contains(&"half-boot"), "{:?}", codes(&back));
        done(reject(&back));
        assert_eq!((stage(&back), file(&back, "da0s1")), (None, None));
        // It is confirmed: from now on it has its own kernel.
        for machine in [confirmed, trial.fork()] {
            assert_eq!(done(confirm(&machine)).slot, 2);
            assert_eq!(stage(&machine), None);
            assert_eq!(how(&machine), if own_journals { How::Trial } else { how(&machine) });
            machine.world(|w| w.edit("da0s1", |tree| tree.remove("boot/kernel")));
            let (machine, slot) = started(&machine);
            assert_eq!((slot, how(&machine)), (2, How::Planned));
            assert!(!codes(&machine).contains(&"half-boot"), "{:?}", codes(&machine));
        }
        // It is rejected, or the other one is chosen: no word of it stays.
        done(reject(&rejected));
        done(choose(&chosen, 1, false));
        for machine in [rejected, chosen] {
            assert_eq!(stage(&machine), None);
            let (machine, slot) = started(&machine);
            assert_eq!(slot, 1);
            let open = auto_snapshot::run(&machine, &session(&machine), true, &mut |_| {});
            assert!(!done(open).is_open(), "a fall-back that is none");
        }
        // It waits, and is given up.
        for end in [|m: &Machine| reject(m), |m: &Machine| choose(m, 1, false)] {
            let machine = machine.fork();
            done(end(&machine));
            assert_eq!((stage(&machine), file(&machine, "da0s1")), (None, None));
            assert_eq!(started(&machine).1, 1);
        }
        let other = machine.fork();
        done(choose(&other, 2, false));
        assert_eq!(file(&other, "da0s1"), None);
        assert_eq!(started(&other).1, 2);
    }
}

/// The kernel cannot mount the slot: it goes on with the one before it.
#[test]
fn a_root_that_cannot_be_mounted_leads_back_at_once() {
    let machine = by_loader(Scheme::Mbr);
    done(choose(&machine, 2, true));
    machine.world(|w| w.put("da0s2", 64 << 10, &[0; 8192]));
    let (machine, slot) = started(&machine);
    assert_eq!((slot, how(&machine)), (1, How::Returned));
    let codes = codes(&machine);
    assert!(!codes.contains(&"half-boot") && codes.contains(&"trial-over"), "{codes:?}");
}

/// The loader could not write that it has read the file.
#[test]
fn a_file_that_stays_is_found_and_removed() {
    type Verb = fn(&Machine) -> Result<boot::Report, Error>;
    let machine = by_loader(Scheme::Mbr);
    done(choose(&machine, 2, true));
    let text = file(&machine, "da0s1").unwrap();
    let (trial, _) = started(&machine);
    trial.world(|w| w.edit("da0s1", |tree| tree.file(FILE, text.as_bytes())));
    assert!(codes(&trial).contains(&"nextboot-stale"), "{:?}", codes(&trial));
    assert_eq!(start(&trial, Loss::All).unwrap().1, 2, "it is tried again");
    let ends: [(Verb, u32); 3] =
        [(reject, 1), (confirm, 2), (|machine| choose(machine, 1, false), 1)];
    for (end, slot) in ends {
        let machine = trial.fork();
        done(end(&machine));
        assert_eq!(file(&machine, "da0s1"), None);
        assert_eq!(started(&machine).1, slot);
    }
}

#[test]
fn files_of_others_and_remains_are_told_apart() {
    let machine = by_loader(Scheme::Mbr);
    let with = |text: &str| {
        let machine = machine.fork();
        machine.world(|w| w.edit("da0s1", |tree| tree.file(FILE, text.as_bytes())));
        machine
    };
    let kernel = with("nextboot_enable=\"YES\"\nkernel=\"kernel.test\"\n");
    assert!(!codes(&kernel).iter().any(|code| code.starts_with("nextboot")));
    done(choose(&kernel, 2, false));
    assert!(file(&kernel, "da0s1").is_some(), "it is not ours");
    let root = with("nextboot_enable=\"YES\"\nvfs.root.mountfrom=\"ufs:/dev/da0s2\"\n");
    assert!(codes(&root).contains(&"nextboot-foreign"), "{:?}", codes(&root));
    assert_eq!(show(&root).next[0].slot, 2);
    let (half, slot) = started(&root);
    assert_eq!(slot, 2);
    assert!(codes(&half).contains(&"half-boot"), "what nobody has tried is an alarm");
    // What it has done before is nothing to it.
    let spent = with("nextboot_enable=\"NO\" \nkernel=\"kernel.test\"\n");
    done(choose(&spent, 2, true));
    // A trial that no journal knows can be given up.
    machine.world(|w| w.edit("da0s1", |_| {}));
    let lost = machine.fork();
    done(choose(&lost, 2, true));
    let text = file(&lost, "da0s1").unwrap();
    let lost = with(&text);
    assert!(codes(&lost).contains(&"nextboot-stale"), "{:?}", codes(&lost));
    done(reject(&lost));
    assert_eq!(file(&lost, "da0s1"), None);
    let remains = with(&text.replacen("\"YES\"", "\"NO\" ", 1));
    assert!(codes(&remains).contains(&"nextboot-stale"), "{:?}", codes(&remains));
    assert_eq!(show(&remains).next[0].slot, 1);
}

/// Why the loader's file is no way: in words, and nothing is written.
#[test]
fn nextboot_is_refused_where_it_would_prove_nothing() {
    type Change = fn(&mut World);
    let conf = |w: &mut World, text: &str| {
        w.edit("da0s1", |tree| tree.file("boot/loader.conf", text.as_bytes()));
    };
    let cases: [(&str, Change); 12] = [
        ("no loader(8)", |w| w.started.nextboot = None),
        ("the loader reads /boot/once.conf", |w| {
            w.started.nextboot = Some("/boot/once.conf".into());
        }),
        ("came from slot 2", |w| w.started.loader = Some("disk0s2:".to_owned())),
        ("which slot the loader came from", |w| w.started.loader = Some("zfs:zroot:".to_owned())),
        ("set up for something else", |w| {
            w.edit("da0s1", |tree| tree.file(FILE, b"nextboot_enable=\"YES\"\nkernel=\"x\"\n"));
        }),
        ("/boot/kernel/kernel differs", |w| {
            w.edit("da0s1", |tree| tree.file("boot/kernel/kernel", b"A kernel"));
        }),
        ("/boot/kernel/if_em.ko differs", |w| {
            w.edit("da0s1", |tree| tree.file("boot/kernel/if_em.ko", b"a driver"));
        }),
        ("only one of the slots has /boot/modules", |w| {
            w.edit("da0s1", |tree| tree.dir("boot/modules"));
        }),
        ("takes kernel test here and kernel there", |w| {
            w.edit("da0s1", |tree| tree.file("boot/loader.conf", b"kernel=\"test\"\n"));
        }),
        ("sets nextboot_enable", |w| {
            w.edit("da0s1", |tree| tree.file("boot/loader.conf", b"nextboot_enable=\"NO\"\n"));
        }),
        ("invalid", |w| w.edit("da0s2", |tree| tree.remove(".dualroot"))),
        ("read-only", |w| w.boot_read_only = true),
    ];
    for (word, change) in cases {
        let machine = by_loader(Scheme::Mbr);
        machine.world(change);
        let machine = machine.lose_power(Loss::None);
        let content = || {
            let [one, two, config] = parts(Scheme::Mbr);
            (table(&machine), machine.world(|w| [&one, &two, &config].map(|d| w.tree(d).listing())))
        };
        let before = content();
        let error = choose(&machine, 2, true).unwrap_err();
        assert_eq!(error.kind, Kind::Refused, "{word}: {error}");
        assert!(error.to_string().contains(word), "{word}: {error}");
        assert!(before == content(), "{word}: something was written");
    }
    // An index that is made anew is no other kernel, and what loader.conf says last counts.
    let machine = by_loader(Scheme::Mbr);
    machine.world(|w| {
        w.edit("da0s1", |tree| tree.file("boot/kernel/linker.hints", b"an index"));
        conf(w, "kernel=\"test\"\nkernel=\"kernel\"\n");
    });
    done(choose(&machine, 2, true));
}

/// loader.efi looks at no flag: it starts the other root once, and nothing starts it for good.
#[test]
fn what_no_flag_starts_is_tried_and_not_confirmed() {
    let machine = by_loader(Scheme::Mbr);
    machine.world(|w| w.started.firmware = Some(dualroot::table::boot::Firmware::Uefi));
    assert_eq!(choose(&machine, 2, false).unwrap_err().kind, Kind::Refused);
    assert_eq!(done(choose(&machine, 2, true)).by, Some(By::Nextboot));
    let (trial, slot) = started(&machine);
    assert_eq!(slot, 2);
    let error = confirm(&trial).unwrap_err();
    assert_eq!(error.kind, Kind::Refused, "{error}");
    assert!(error.to_string().contains("no flag would start it again"), "{error}");
    done(reject(&trial));
    assert_eq!(started(&trial).1, 1);
    // And on a GPT whose boot code is nobody's that is known.
    let machine = by_loader(Scheme::Gpt);
    machine.world(|w| w.put("da0p1", 512, &[7; 64]));
    assert_eq!(done(choose(&machine, 2, true)).by, Some(By::Nextboot));
    let (trial, slot) = started(&machine);
    assert_eq!((slot, how(&trial)), (2, How::Trial));
    assert_eq!(started(&trial).1, 1);
}

// ---- refusals -----------------------------------------------------------------------------------

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

// ---- everything that can go wrong ---------------------------------------------------------------

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

/// What may become of what nobody flushed at the `k`th operation.
fn losses(machine: &Machine, k: u64) -> Vec<Loss> {
    let pending = machine.world(|w| w.pending_tables());
    let mut losses = vec![Loss::All, Loss::None, Loss::Half(k), Loss::Half(!k)];
    losses.extend((1..pending).map(Loss::AllBut));
    losses
}

/// What is on the disk, as one number.
fn fingerprint(machine: &Machine) -> u64 {
    let mut hasher = DefaultHasher::new();
    format!("{:?}", table(machine)).hash(&mut hasher);
    let trees = parts(scheme(machine));
    machine.world(|w| trees.iter().for_each(|d| w.tree(d).listing().hash(&mut hasher)));
    hasher.finish()
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
/// the second may be while it is written.
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
        let next: Vec<_> = show(&trace).next.iter().map(|n| n.slot).collect();
        assert_eq!(next, if own == 1 { vec![1, 2] } else { vec![2] });
        let calls = trace.trace();
        let mut findings = Findings::default();
        let mut seen = HashSet::new();
        for (k, call) in (1..).zip(&calls) {
            let machine = machine.fork();
            machine.stop_at(k);
            if snapshot(&machine).is_ok() {
                assert!(calls[usize::try_from(k).unwrap() - 1..].iter().all(is_history), "{call}");
            }
            for loss in [Loss::All, Loss::None, Loss::Half(k)] {
                let how = format!("{loss:?} at {k}: {call}");
                let after = machine.lose_power(loss);
                if !seen.insert(fingerprint(&after)) {
                    continue;
                }
                let slot = start(&after, Loss::None).map(|(_, slot)| slot);
                findings.check(slot == Some(own), &format!("{slot:?} starts"), &how);
                // Where even the running root is gone, only a whole copy comes up.
                let [one, two, _] = parts(Scheme::Gpt);
                let state = show(&after).slots[usize::from(own == 1)].state;
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
        println!("slot {own}: {} operations, {} states", calls.len(), seen.len());
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

// ---- a fall-back, and its repair ----------------------------------------------------------------

/// The first slot was destroyed, and the machine has come up from the second.
fn fallen_back() -> Machine {
    let machine = machine(Scheme::Gpt);
    machine.world(|w| {
        w.edit("da0p3", |tree| tree.file("etc/dualroot.conf", b"auto-snapshot = true\n"));
        w.put("da0p2", 64 << 10, &[0; 8192]);
    });
    let (machine, slot) = started(&machine);
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

/// The kernel of the slot that was meant to run came up, and mounted the other root: the slot was
/// changed since it was copied, and that is no damage.
#[test]
fn a_half_boot_is_told_and_its_slot_left_alone() {
    let machine = by_loader(Scheme::Mbr);
    done(choose(&machine, 2, false));
    let (machine, _) = started(&machine);
    let config = b"auto-snapshot = true\n";
    machine.world(|w| w.edit("da0s2", |tree| tree.file("etc/dualroot.conf", config)));
    done(snapshot(&machine));
    done(choose(&machine, 1, false));
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
