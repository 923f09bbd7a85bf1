//! The machines that runs begin with, and the verbs on them.

use std::path::Path;

use dualroot::error::Error;
use dualroot::ops::{Session, auto_snapshot, boot, check, show, snapshot};
use dualroot::record::journal::{By, How};
use dualroot::slot::Choice;
use dualroot::sys::fake::{Loss, Machine, Tree};
use dualroot::table::Scheme;

use crate::start::scheme;

pub const MB: u64 = 1 << 20;
pub const SIGINT: i32 = 2;
pub const BOOT: &str = "83bd6b9d-7f41-11dc-be0b-001560b84f0f";
pub const UFS: &str = "516e7cb6-6ecf-11d6-8ff8-00022d09712b";
/// What starts from each slot.
pub const KERNEL: &[u8] = b"a kernel";
/// What only gptboot says.
pub const GPTBOOT: &[u8] = b"\0%s: no UFS partition was found\n\0";

/// da0 with two roots and a `/config` that both use; slot 2 has a copy.
pub fn machine(scheme: Scheme) -> Machine {
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
pub fn by_loader(scheme: Scheme) -> Machine {
    let machine = machine(scheme);
    machine.world(|w| {
        let slot = if scheme == Scheme::Gpt { "disk0p2:" } else { "disk0s1:" };
        w.started.loader = Some(slot.to_owned());
        w.started.nextboot = Some("/boot/nextboot.conf".into());
    });
    machine
}

/// Each slot has its own journal: there is no `/config`.
pub fn without_config(machine: &Machine) -> Machine {
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

pub fn parts(scheme: Scheme) -> [String; 3] {
    let infix = if scheme == Scheme::Gpt { ["p2", "p3", "p4"] } else { ["s1", "s2", "s3"] };
    infix.map(|part| format!("da0{part}"))
}

pub fn root(tree: &mut Tree, fstab: &str) {
    for dir in ["dev", "config", "boot", "boot/kernel", "etc", "var", "var/db", "altroot"] {
        tree.dir(dir);
    }
    tree.file("etc/fstab", fstab.as_bytes());
    tree.file("boot/kernel/kernel", KERNEL);
}

pub fn session(machine: &Machine) -> Session {
    Session { root: "/".into(), config: None, media: None, monitor: machine.monitor() }
}

pub fn snapshot(machine: &Machine) -> Result<(), Error> {
    let options = snapshot::Options::default();
    snapshot::run(machine, &session(machine), options, &mut |_| {}).map(drop)
}

pub fn choose(machine: &Machine, slot: u32, once: bool) -> Result<boot::Report, Error> {
    boot::run(machine, &session(machine), Choice::Number(slot), once, false)
}

pub fn confirm(machine: &Machine) -> Result<boot::Report, Error> {
    boot::confirm::run(machine, &session(machine))
}

pub fn reject(machine: &Machine) -> Result<boot::Report, Error> {
    boot::reject::run(machine, &session(machine), false)
}

pub fn show(machine: &Machine) -> show::Report {
    let fork = machine.fork();
    done(show::run(&fork, &session(&fork), None))
}

pub fn codes(machine: &Machine) -> Vec<&'static str> {
    let fork = machine.fork();
    done(check::run(&fork, &session(&fork))).findings.iter().map(|f| f.code).collect()
}

pub fn done<T>(result: Result<T, Error>) -> T {
    result.unwrap_or_else(|e| panic!("{e}"))
}

pub fn running(machine: &Machine) -> u32 {
    let slots = show(machine).slots;
    slots.iter().find(|slot| slot.booted).unwrap().slot
}

pub const FILE: &str = "boot/nextboot.conf";

/// The file on a slot, as text.
pub fn file(machine: &Machine, device: &str) -> Option<String> {
    let listing = machine.world(|w| w.tree(device).listing());
    let file = listing.get(Path::new(FILE))?;
    Some(String::from_utf8(file.data[0].1.clone()).unwrap())
}

pub fn stage(machine: &Machine) -> Option<(show::Stage, By)> {
    show(machine).trial.map(|report| (report.stage, report.trial.by))
}

/// How the running slot came up, as rc(8) has it told.
pub fn how(machine: &Machine) -> How {
    done(auto_snapshot::run(machine, &session(machine), true, &mut |_| {})).how
}
