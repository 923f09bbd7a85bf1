//! A trial by the loader's file.

use dualroot::error::{Error, Kind};
use dualroot::ops::{auto_snapshot, boot, show, snapshot};
use dualroot::record::journal::{By, How};
use dualroot::sys::fake::{Loss, Machine, World};
use dualroot::table::Scheme;

use crate::machine::{
    FILE, by_loader, choose, codes, confirm, done, file, how, parts, reject, running, session,
    show, snapshot, stage, without_config,
};
use crate::start::{start, started, table};

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
