//! The machines that verbs begin with: small, with one object of each kind.

use std::io::Cursor;
use std::path::Path;

use dualroot::error::Error;
use dualroot::ops::snapshot::{self, Options, Outcome};
use dualroot::ops::{Session, clean};
use dualroot::plan::{Method, Reading};
use dualroot::sys::fake::{Action, IMMUTABLE, Loss, Machine, Tree, When, World};
use dualroot::sys::tree::Kind;
use dualroot::sys::{Access, Os, Snapshots};
use dualroot::table::gpt::{self, Copy, Raw};

pub const MB: u64 = 1 << 20;
const FSTAB: &str = "/dev/da0s1 / ufs rw 1 1
/dev/da0s2 /altroot ufs rw,noauto 0 0
/dev/da0s3 /config ufs rw 2 2
/dev/da0s4 /altconfig ufs rw,noauto 0 0
";

pub fn session(machine: &Machine, medium: Option<&str>) -> Session {
    let media = medium.map(str::to_owned);
    Session { root: "/".into(), config: None, media, monitor: machine.monitor() }
}

pub fn snapshot(machine: &Machine, medium: Option<&str>, options: Options) -> Result<(), Error> {
    match snapshot::run(machine, &session(machine, medium), options, &mut |_| {})? {
        Outcome::Done(_) => Ok(()),
        Outcome::Planned(steps) => panic!("planned {steps:?}"),
    }
}

fn done<T>(result: Result<T, Error>) -> T {
    result.unwrap_or_else(|e| panic!("{e}"))
}

fn bytes(length: usize, seed: usize) -> Vec<u8> {
    (0..length).map(|n| u8::try_from((n * 31 + seed) % 251).unwrap()).collect()
}

fn root_tree(tree: &mut Tree) {
    for dir in ["dev", "config", "boot", "etc"] {
        tree.dir(dir);
    }
    tree.file("etc/fstab", FSTAB.as_bytes());
    tree.file("boot/kernel", &bytes(9000, 1));
    tree.attributes("boot/kernel").flags = IMMUTABLE;
    tree.file("etc/rc", b"#!/bin/sh\n");
    tree.link("boot/rc", "etc/rc");
    tree.symlink("etc/motd", "rc");
    tree.special("dev.null", Kind::Char, (1, 3));
}

/// da0 with two roots and two configs, nothing copied yet, no mount points made.
pub fn blank() -> Machine {
    let machine = Machine::new();
    machine.world(|w| {
        running(w, |w| {
            for device in ["da0s2", "da0s4"] {
                w.make_fs(device, &format!("{device}-fs")).unwrap();
            }
        });
    });
    machine
}

/// da0 with a root and a config that run, and two more slices.
fn running(w: &mut World, others: impl Fn(&mut World)) {
    w.add_disk("da0", &[2 * MB, 2 * MB, 2 * MB, 2 * MB]);
    for device in ["da0s1", "da0s3"] {
        w.make_fs(device, &format!("{device}-fs")).unwrap();
    }
    others(w);
    w.edit("da0s1", root_tree);
    w.edit("da0s3", |tree| tree.file("app.conf", b"host-name ex3300;\n"));
    w.boot = vec![("/dev/da0s1".into(), "/".into()), ("/dev/da0s3".into(), "/config".into())];
    w.start().unwrap();
}

/// Copies the blocks of the file systems.
pub const BLOCKS: Options = Options {
    partition: None,
    force: false,
    repair: false,
    dry_run: false,
    only: None,
    factory: false,
    fresh: false,
    reading: Reading::Full,
    method: Method::Block,
};

/// The slices for the copy hold nothing at all, and the sources are copied from their snapshots.
pub fn bare() -> Machine {
    let machine = Machine::new();
    machine.world(|w| {
        w.snapshots = Snapshots::Journaled;
        running(w, |_| {});
    });
    machine
}

/// With a finished copy of an older state, and a source that is copied from its snapshot.
pub fn copied() -> Machine {
    copied_with(&blank(), Options::default())
}

/// The same of a copy that was made by the blocks of the file systems.
pub fn copied_by_blocks() -> Machine {
    copied_with(&bare(), BLOCKS)
}

/// The same with a root that is mounted read-only and copied as it is.
pub fn read_only() -> Machine {
    let machine = copied_by_blocks();
    machine.world(|w| w.boot_read_only = true);
    machine.lose_power(Loss::None)
}

fn copied_with(machine: &Machine, options: Options) -> Machine {
    done(snapshot(machine, None, options));
    machine.world(|w| {
        w.snapshots = Snapshots::Journaled;
        w.edit("da0s1", |tree| {
            tree.file("boot/kernel", &bytes(5000, 2));
            tree.file("etc/new", b"new\n");
            tree.remove("etc/motd");
        });
        w.edit("da0s3", |tree| tree.file("app.conf", b"host-name ex4200;\n"));
    });
    machine.lose_power(Loss::None)
}

/// With a finished copy, and another disk with an older table and file systems.
pub fn two_disks() -> Machine {
    let machine = copied();
    machine.world(|w| {
        w.add_disk("da1", &[4 * MB, 8 * MB]);
        for device in ["da1s1", "da1s2"] {
            w.make_fs(device, &format!("{device}-fs")).unwrap();
            w.edit(device, |tree| tree.file("old", b"old\n"));
        }
    });
    machine
}

/// A run of another process ended in the middle: the copy is mounted and being written, the
/// source has a snapshot.
pub fn littered() -> Machine {
    let machine = copied();
    machine.world(|w| w.edit("da0s1", |tree| tree.file("etc/rc", &bytes(600, 3))));
    machine.inject(When::Each("os.thaw", snapshot_file("")), Action::Stop);
    snapshot(&machine, None, Options::default()).unwrap_err();
    machine.next_process();
    assert_eq!(
        done(clean::run(&machine.fork(), &session(&machine, None), false)).snapshots.len(),
        1
    );
    machine
}

fn snapshot_file(point: &str) -> String {
    format!("{point}/.snap/{}.dualroot", std::process::id())
}

/// A finished copy, mounted and written to by somebody who forgot it.
pub fn forgotten() -> Machine {
    let machine = copied();
    done(machine.mount(Path::new("/dev/da0s2"), Path::new("/altroot"), "ufs", Access::Write));
    machine
}

/// With a finished copy on `root`, a device that `add` adds.
fn copied_to(root: &str, add: impl Fn(&mut World)) -> Machine {
    let machine = blank();
    machine.world(|w| {
        add(w);
        w.make_fs(root, "other").unwrap();
        let text = FSTAB.replace("/dev/da0s2", &format!("/dev/{root}"));
        w.edit("da0s1", |tree| tree.file("etc/fstab", text.as_bytes()));
    });
    done(snapshot(&machine, None, Options::default()));
    machine
}

/// The copy is on da1, of which the table and what leads to it is gone.
pub fn torn() -> Machine {
    let machine = copied_to("da1s1", |w| {
        w.add_disk("da1", &[2 * MB, MB]);
        w.table("da1")[..440].fill(0x31);
    });
    machine.world(|w| w.table("da1").fill(0));
    machine.lose_power(Loss::None)
}

/// The copy is on da1, of which both copies of the GPT are whole and have another name for its
/// partition than they had.
pub fn renamed() -> Machine {
    let ufs = "516e7cb6-6ecf-11d6-8ff8-00022d09712b";
    let machine = copied_to("da1p1", |w| w.add_gpt_disk("da1", &[(ufs, 2 * MB), (ufs, MB)]));
    for copy in [Copy::Primary, Copy::Backup] {
        let mut raw = gpt_of(&machine, copy);
        raw.array[56] = b'x';
        gpt::seal(&mut raw.header, &raw.array);
        machine.world(|w| w.put("da1", raw.array_at, &raw.array));
        machine.world(|w| w.put("da1", raw.header_at, &raw.header));
    }
    machine.lose_power(Loss::None)
}

/// The same without the primary copy.
pub fn renamed_backup() -> Machine {
    renamed_without(Copy::Primary)
}

/// The same without the backup.
pub fn renamed_primary() -> Machine {
    renamed_without(Copy::Backup)
}

fn renamed_without(copy: Copy) -> Machine {
    let machine = renamed();
    let raw = gpt_of(&machine, copy);
    machine.world(|w| w.put("da1", raw.header_at, &[0; 512]));
    machine.lose_power(Loss::None)
}

/// A copy of the GPT of da1.
fn gpt_of(machine: &Machine, copy: Copy) -> Raw {
    let size = machine.world(|w| w.devices.get(w.devices.find(Path::new("da1")).unwrap()).size);
    let all = machine.read_device(Path::new("/dev/da1"), 0, usize::try_from(size).unwrap());
    gpt::read_raw(&mut Cursor::new(done(all)), size, 512, copy).unwrap().unwrap().0
}
