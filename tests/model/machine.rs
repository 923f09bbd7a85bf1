//! The machines that runs begin with, and runs.

use std::path::{Path, PathBuf};

use dualroot::device::{Class, Lower, Provider};
use dualroot::error::Error;
use dualroot::ops::snapshot::{Options, Outcome, Report};
use dualroot::ops::{Session, snapshot};
use dualroot::sys::Snapshots;
use dualroot::sys::fake::{BLOCK, IMMUTABLE, Loss, Machine, NODUMP, Tree, World};
use dualroot::sys::tree::{Kind as Object, Time};

use crate::judge::{Listing, alternate};

pub const MB: u64 = 1 << 20;
pub const SIGINT: i32 = 2;
pub const FSTAB: &str = "# Device\tMountpoint\tFStype\tOptions\tDump\tPass#
/dev/da0s1\t/\tufs\trw\t1\t1
/dev/da0s2\t/altroot\tufs\trw,noauto\t0\t0
/dev/ufs/config1\t/config\tufs\trw\t2\t2
/dev/da0s4\t/altconfig\tufs\trw,noauto\t0\t0
proc /proc procfs rw 0 0 # stays
";
/// What the copy must say of itself.
pub const FSTAB_COPY: &str = "# Device\tMountpoint\tFStype\tOptions\tDump\tPass#
/dev/da0s2\t/\tufs\trw\t1\t1
/dev/da0s1\t/altroot\tufs\trw,noauto\t0\t0
/dev/ufs/config2\t/config\tufs\trw\t2\t2
/dev/da0s3\t/altconfig\tufs\trw,noauto\t0\t0
proc /proc procfs rw 0 0 # stays
";
pub const LOADER: &str = "autoboot_delay=\"2\"\nvfs.root.mountfrom=\"ufs:/dev/ufs/root1\" # here\n";
pub const LOADER_COPY: &str =
    "autoboot_delay=\"2\"\nvfs.root.mountfrom=\"ufs:/dev/ufs/root2\" # here\n";

/// What the box knows of its slots.
pub const STATE: &str = "var/db/dualroot";

/// da0 with two roots and two configs, nothing copied yet.
pub fn blank() -> Machine {
    blank_of(2 * MB)
}

pub fn blank_of(root: u64) -> Machine {
    blank_of_all(root, MB, MB)
}

pub fn blank_of_all(root: u64, config: u64, altconfig: u64) -> Machine {
    blank_with(&[root, root, config, altconfig], root_tree)
}

/// The same with slices of these sizes and this root.
pub fn blank_with(slices: &[u64], root_tree: fn(&mut Tree)) -> Machine {
    let machine = Machine::new();
    machine.world(|w| {
        w.add_disk("da0", slices);
        for (device, label) in
            [("da0s1", "root1"), ("da0s2", "root2"), ("da0s3", "config1"), ("da0s4", "config2")]
        {
            w.make_fs(device, label).unwrap();
        }
        w.edit("da0s1", root_tree);
        w.edit("da0s3", config_tree);
        w.boot = vec![("/dev/da0s1".into(), "/".into()), ("/dev/da0s3".into(), "/config".into())];
        w.start().unwrap();
    });
    machine
}

pub fn root_tree(tree: &mut Tree) {
    for dir in ["dev", "config", "boot", "etc", "bin", "usr", "usr/bin", "var", "var/empty", "proc"]
    {
        tree.dir(dir);
    }
    tree.file("etc/fstab", FSTAB.as_bytes());
    tree.file("boot/loader.conf", LOADER.as_bytes());
    tree.file("boot/nextboot.conf", b"nextboot_enable=\"YES\"\n");
    tree.file("boot/kernel", &noise(3 * 4096 + 77));
    tree.attributes("boot/kernel").flags = IMMUTABLE;
    tree.file("etc/os-release", b"NAME=JUNOS\nVERSION_ID=12.3\n");
    tree.file("etc/empty", b"");
    tree.attributes("etc/empty").mode = 0o400;
    // One program under two names, set-uid and immutable.
    tree.file("bin/su", &noise(900));
    tree.link("usr/bin/su", "bin/su");
    let su = tree.attributes("bin/su");
    (su.mode, su.uid, su.gid, su.flags) = (0o4755, 0, 20, IMMUTABLE);
    su.xattrs.insert("user.origin".into(), b"pkg".to_vec());
    tree.symlink("usr/bin/sh", "../../bin/su");
    let link = tree.attributes("usr/bin/sh");
    link.mtime = Time { sec: 1_000_000_007, nsec: 5 };
    link.xattrs.insert("system.mark".into(), vec![0, 255]);
    // A hole before, between and behind.
    tree.sparse("var/log", 7 * BLOCK + 9, &[(2 * BLOCK, b"two"), (4 * BLOCK + 11, &noise(5000))]);
    tree.special("var/fifo", Object::Fifo, (0, 0));
    tree.special("var/socket", Object::Socket, (0, 0));
    tree.special("var/null", Object::Char, (1, 3));
    let empty = tree.attributes("var/empty");
    (empty.mode, empty.flags, empty.gid) = (0o555, IMMUTABLE, 7);
    empty.mtime = Time { sec: -86_400, nsec: 999_999_999 };
    empty.birth = Time { sec: -90_000, nsec: 1 };
    empty.xattrs.insert("user.dir".into(), b"yes".to_vec());
}

pub fn config_tree(tree: &mut Tree) {
    tree.file("app.conf", b"host-name ex3300;\n");
    tree.attributes("app.conf").flags = NODUMP;
    tree.dir("old");
    tree.file("old/app.conf.1", b"host-name ex;\n");
}

/// More than what every step is tried with: deep, wide, strange names.
pub fn large_tree(tree: &mut Tree) {
    let mut path = PathBuf::from("usr/deep");
    tree.dir(&path);
    for level in 0..40 {
        path.push(format!("d{level}"));
        tree.dir(&path);
        tree.file(path.join("file"), format!("level {level}").as_bytes());
        tree.link(path.join("zlink"), path.join("file"));
    }
    tree.dir("usr/wide");
    for number in 0..150 {
        tree.file(format!("usr/wide/{number:03}"), &noise(number * 37));
    }
    for name in
        ["new\nline", "blank here", "#hash", "\\040", "é", "-rf", "*", "a=b", &"n".repeat(255)]
    {
        tree.file(format!("usr/wide/{name}"), name.as_bytes());
    }
    tree.file("usr/large", &noise(700_000));
    tree.sparse("usr/hole", 90 * MB, &[(70 * MB + 5, b"far out")]);
    tree.special("usr/disk", Object::Block, (7, 9));
    tree.link("usr/deep/fifo", "var/fifo");
}

pub fn noise(length: usize) -> Vec<u8> {
    let mut x = 0x2545_f491u32;
    let mut next = || {
        x = x.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        x.to_be_bytes()[0]
    };
    (0..length).map(|_| next()).collect()
}

/// A machine with a finished copy of an older state, and everything of that copy.
pub struct Base {
    pub machine: Machine,
    pub old: [Listing; 2],
}

pub fn base() -> Base {
    copied(&blank(), Options::default())
}

/// The same, the copy being made in this way.
pub fn copied(machine: &Machine, options: Options) -> Base {
    done(run_with(machine, options));
    machine.world(|w| {
        w.snapshots = Snapshots::Journaled;
        w.edit("da0s1", |tree| {
            tree.file("boot/kernel", &noise(2 * 4096));
            tree.file("etc/rc", b"#!/bin/sh\n");
            tree.remove("etc/empty");
            // Mount points that are still to be made.
            tree.remove("altroot");
            tree.remove("altconfig");
        });
        w.edit("da0s3", |tree| tree.file("app.conf", b"host-name ex4200;\n"));
    });
    let machine = machine.lose_power(Loss::None);
    let old = alternate(&machine);
    Base { machine, old }
}

pub fn session(machine: &Machine) -> Session {
    Session { root: "/".into(), config: None, media: None, monitor: machine.monitor() }
}

pub fn run(machine: &Machine) -> Result<Report, Error> {
    run_with(machine, Options::default())
}

pub fn run_with(machine: &Machine, options: Options) -> Result<Report, Error> {
    match snapshot::run(machine, &session(machine), options, &mut |_| {})? {
        Outcome::Done(report) => Ok(report),
        Outcome::Planned(plan) => panic!("planned {plan:?}"),
    }
}

pub fn done<T>(result: Result<T, Error>) -> T {
    result.unwrap_or_else(|e| panic!("{e}"))
}

/// A provider on top of others.
pub fn over(w: &mut World, name: &str, class: Class, lower: &[(&str, Option<u64>)]) {
    let find = |name: &str| w.devices.find(Path::new(name)).unwrap();
    let lower: Vec<_> = lower.iter().map(|&(n, offset)| Lower { id: find(n), offset }).collect();
    let size = w.devices.get(lower[0].id).size;
    let (name, aliases, number) = (name.to_owned(), Vec::new(), None);
    let provider =
        Provider { name, aliases, class, size, sector: 512, number, lower, removable: false };
    w.devices.providers.push(provider);
}

pub fn fstab(w: &mut World, from: &str, to: &str) {
    let text = FSTAB.replace(from, to);
    w.edit("da0s1", |tree| tree.file("etc/fstab", text.as_bytes()));
}
