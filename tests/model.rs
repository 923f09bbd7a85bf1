//! The verbs on a machine in memory: every failure, every signal and every loss of power that a
//! run can meet, one after the other.

mod findings;

use std::collections::{BTreeMap, HashSet};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::path::{Path, PathBuf};

use findings::Findings;

use dualroot::copy::tree::{Options as TreeOptions, copy};
use dualroot::device::{Class, Lower, Provider};
use dualroot::error::{Error, Kind};
use dualroot::mounts::Mount;
use dualroot::ops::snapshot::{Options, Outcome, Report};
use dualroot::ops::{Session, check, clean, show, snapshot, table, verify};
use dualroot::plan::consistency::Consistency;
use dualroot::slot::{Choice, Part, State};
use dualroot::sys::fake::{
    Action, BLOCK, Call, IMMUTABLE, Loss, Machine, NODUMP, Seen, Tree, When, World,
};
use dualroot::sys::tree::{Kind as Object, Time};
use dualroot::sys::{Access, Os, Snapshots};
use dualroot::table::saved::Saved;
use dualroot::table::superblock;
use nix::errno::Errno;

type Listing = BTreeMap<PathBuf, Seen>;

const MB: u64 = 1 << 20;
const SIGINT: i32 = 2;
const FSTAB: &str = "# Device\tMountpoint\tFStype\tOptions\tDump\tPass#
/dev/da0s1\t/\tufs\trw\t1\t1
/dev/da0s2\t/altroot\tufs\trw,noauto\t0\t0
/dev/ufs/config1\t/config\tufs\trw\t2\t2
/dev/da0s4\t/altconfig\tufs\trw,noauto\t0\t0
proc /proc procfs rw 0 0 # stays
";
/// What the copy must say of itself.
const FSTAB_COPY: &str = "# Device\tMountpoint\tFStype\tOptions\tDump\tPass#
/dev/da0s2\t/\tufs\trw\t1\t1
/dev/da0s1\t/altroot\tufs\trw,noauto\t0\t0
/dev/ufs/config2\t/config\tufs\trw\t2\t2
/dev/da0s3\t/altconfig\tufs\trw,noauto\t0\t0
proc /proc procfs rw 0 0 # stays
";
const LOADER: &str = "autoboot_delay=\"2\"\nvfs.root.mountfrom=\"ufs:/dev/ufs/root1\" # here\n";
const LOADER_COPY: &str =
    "autoboot_delay=\"2\"\nvfs.root.mountfrom=\"ufs:/dev/ufs/root2\" # here\n";

/// What the box knows of its slots.
const STATE: &str = "var/db/dualroot";

// ---- machines -----------------------------------------------------------------------------------

/// da0 with two roots and two configs, nothing copied yet.
fn blank() -> Machine {
    blank_of(2 * MB)
}

fn blank_of(root: u64) -> Machine {
    blank_of_all(root, MB, MB)
}

fn blank_of_all(root: u64, config: u64, altconfig: u64) -> Machine {
    let machine = Machine::new();
    machine.world(|w| {
        w.add_disk("da0", &[root, root, config, altconfig]);
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

fn root_tree(tree: &mut Tree) {
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

fn config_tree(tree: &mut Tree) {
    tree.file("app.conf", b"host-name ex3300;\n");
    tree.attributes("app.conf").flags = NODUMP;
    tree.dir("old");
    tree.file("old/app.conf.1", b"host-name ex;\n");
}

/// More than what every step is tried with: deep, wide, strange names.
fn large_tree(tree: &mut Tree) {
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

fn noise(length: usize) -> Vec<u8> {
    let mut x = 0x2545_f491u32;
    let mut next = || {
        x = x.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        x.to_be_bytes()[0]
    };
    (0..length).map(|_| next()).collect()
}

/// A machine with a finished copy of an older state, and everything of that copy.
struct Base {
    machine: Machine,
    old: [Listing; 2],
}

fn base() -> Base {
    let machine = blank();
    done(run(&machine));
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

// ---- runs ---------------------------------------------------------------------------------------

fn session(machine: &Machine) -> Session {
    Session { root: "/".into(), config: None, media: None, monitor: machine.monitor() }
}

fn run(machine: &Machine) -> Result<Report, Error> {
    run_with(machine, Options::default())
}

fn run_with(machine: &Machine, options: Options) -> Result<Report, Error> {
    match snapshot::run(machine, &session(machine), options, &mut |_| {})? {
        Outcome::Done(report) => Ok(report),
        Outcome::Planned(steps) => panic!("planned {steps:?}"),
    }
}

fn done<T>(result: Result<T, Error>) -> T {
    result.unwrap_or_else(|e| panic!("{e}"))
}

/// What `show` says of the other slot, asked on a fork so that nothing of the asking stays.
fn state(machine: &Machine) -> State {
    let fork = machine.fork();
    let report = done(show::run(&fork, &session(&fork), Some(Choice::Alternate)));
    assert_eq!(left(&fork), mounts(machine), "show leaves mounts");
    report.slots[0].state
}

fn mounts(machine: &Machine) -> Vec<String> {
    left(machine)
}

/// Mounts that were not there at boot.
fn left(machine: &Machine) -> Vec<String> {
    let all = machine.fork().mounts().unwrap();
    let boot = |m: &Mount| ["/", "/config", "/dev"].iter().any(|p| m.point == Path::new(p));
    all.iter()
        .filter(|m| !boot(m) && m.fs != "tmpfs")
        .map(|m| format!("{} ({})", m.source, m.read_only))
        .collect()
}

fn alternate(machine: &Machine) -> [Listing; 2] {
    machine.world(|w| ["da0s2", "da0s4"].map(|d| without(w.tree(d).listing(), &[".snap"])))
}

fn source(machine: &Machine) -> [Listing; 2] {
    machine.world(|w| ["da0s1", "da0s3"].map(|d| w.tree(d).listing()))
}

/// Snapshots in the sources.
fn snapshots(machine: &Machine) -> Vec<String> {
    let all = source(machine).into_iter().flat_map(BTreeMap::into_keys);
    all.filter(|p| p.parent() == Some(Path::new(".snap")))
        .map(|p| p.display().to_string())
        .collect()
}

fn without(mut listing: Listing, names: &[&str]) -> Listing {
    listing.retain(|path, _| !names.iter().any(|name| path.starts_with(name)));
    listing
}

/// What a copy of `source` must hold.
fn expected(source: Listing) -> Listing {
    let left_out = [".snap", ".sujournal", ".dualroot", "boot/nextboot.conf", "firstboot", STATE];
    let mut listing = without(source, &left_out);
    for (path, text) in [("etc/fstab", FSTAB_COPY), ("boot/loader.conf", LOADER_COPY)] {
        if let Some(file) = listing.get_mut(Path::new(path)) {
            file.size = text.len() as u64;
            file.data = vec![(0, text.as_bytes().to_vec())];
        }
    }
    listing
}

/// Where a copy is not what its source says. Of mount points only owner and mode count: what is
/// mounted there covers the rest. The root's own time moves when they are made.
fn compare(mut expected: Listing, mut found: Listing) -> Vec<String> {
    for listing in [&mut expected, &mut found] {
        for point in ["", "altroot", "altconfig", "config", "dev"] {
            if let Some(dir) = listing.get_mut(Path::new(point)) {
                let a = &mut dir.attributes;
                (a.atime, a.mtime, a.birth) = Default::default();
            }
        }
    }
    let paths: Vec<_> = expected.keys().chain(found.keys()).cloned().collect();
    let mut different = Vec::new();
    for path in paths {
        // A loss of power may take a mount point of the source, not the copy's.
        let made = path.starts_with("altroot") || path.starts_with("altconfig");
        let (want, have) = (expected.remove(&path), found.remove(&path));
        if want != have && !(made && (want.is_none() || have.is_none())) {
            different.push(format!("{}: {}", path.display(), differs(want, have)));
        }
    }
    different
}

/// In what two objects differ.
fn differs(want: Option<Seen>, have: Option<Seen>) -> String {
    let (want, have) = match (want, have) {
        (Some(want), Some(have)) => (want, have),
        (want, _) => return if want.is_some() { "missing" } else { "extra" }.to_owned(),
    };
    let text = |seen: &Seen| {
        let bytes: Vec<u8> =
            seen.data.iter().flat_map(|(_, bytes)| bytes).take(300).copied().collect();
        String::from_utf8_lossy(&bytes).into_owned()
    };
    if (want.size, &want.data) != (have.size, &have.data) {
        return format!("{:?} became {:?}", text(&want), text(&have));
    }
    let bare = |seen: Seen| Seen { data: Vec::new(), ..seen };
    format!("{:?} became {:?}", bare(want), bare(have))
}

/// Where the copies are not what the sources of the same machine are.
fn against_source(machine: &Machine) -> Vec<String> {
    let pairs = source(machine).into_iter().zip(alternate(machine));
    pairs
        .flat_map(|(source, copy)| compare(expected(source), without(copy, &[".dualroot"])))
        .collect()
}

/// What no loss of power, no signal and no failure may leave.
const HALF: &str = "valid, but neither the old copy nor the new one";

/// What is wrong with the other slot: valid, but neither the whole old copy nor the whole new one.
fn half(machine: &Machine, old: &[Listing; 2]) -> Option<String> {
    if alternate(machine) == *old || state(machine) != State::Valid {
        return None;
    }
    let differences = against_source(machine);
    if !differences.is_empty() {
        return Some(differences.join("; ").chars().take(200).collect());
    }
    let fork = machine.fork();
    let report = done(verify::run(&fork, &session(&fork), Choice::Alternate));
    (!report.differences.is_empty()).then(|| format!("{:?}", report.differences))
}

/// The whole state of the disk as one number.
fn fingerprint(machine: &Machine) -> u64 {
    let mut hasher = DefaultHasher::new();
    machine.world(|w| {
        for device in ["da0s1", "da0s2", "da0s3", "da0s4"] {
            superblock::read(&w.head(device)).map(|s| s.id).hash(&mut hasher);
            w.tree(device).listing().hash(&mut hasher);
        }
    });
    hasher.finish()
}

/// All operations of a run without faults, in one of their orders.
fn calls(base: &Machine) -> Vec<Call> {
    let machine = base.fork();
    machine.record();
    done(run(&machine));
    machine.trace()
}

/// Those of them until the copy is recorded and unmounted. What is written down then, in the journal
/// and in the history, is no part of the work: where that fails there is a warning.
fn work(mut calls: Vec<Call>) -> Vec<Call> {
    let last = calls.iter().rposition(|call| call.op == "os.unmount").unwrap();
    calls.truncate(last + 1);
    calls
}

// ---- 0: the machine itself ----------------------------------------------------------------------

#[test]
fn the_machine_says_no_as_a_system_does() {
    use dualroot::sys::Claim;
    use dualroot::sys::tree::{Dir, File};
    use std::io::Write;
    let errno = |e: std::io::Error| Errno::from_raw(e.raw_os_error().unwrap());
    let machine = blank();
    let root = done(machine.open_dir(Path::new("/")));
    let name = std::ffi::OsStr::new;
    let no =
        |result: std::io::Result<()>, expected| assert_eq!(result.map_err(errno), Err(expected));
    let boot = root.open_dir(name("boot")).unwrap();
    no(boot.remove_file(name("kernel")), Errno::EPERM);
    no(boot.set_owner_of(name("kernel"), 1, 1), Errno::EPERM);
    no(boot.make_link(name("x"), &boot, name("kernel")), Errno::EPERM);
    let var = root.open_dir(name("var")).unwrap();
    no(var.open_dir(name("empty")).unwrap().make_dir(name("x")), Errno::EPERM);
    var.set_flags_of(name("empty"), 0).unwrap();
    no(root.remove_dir(name("boot")), Errno::ENOTEMPTY);
    no(root.remove_dir(name("config")), Errno::EBUSY);
    no(root.make_dir(name("boot")), Errno::EEXIST);
    no(root.make_dir(name(&"n".repeat(256))), Errno::ENAMETOOLONG);
    let bin = root.open_dir(name("usr")).unwrap().open_dir(name("bin")).unwrap();
    no(bin.open_file(name("sh")).map(drop), Errno::ELOOP);
    no(bin.open_dir(name("sh")).map(drop), Errno::ELOOP);
    no(root.open_dir(name("none")).map(drop), Errno::ENOENT);
    // A file without a name is there until it is closed.
    let mut file = root.create_file(name("f")).unwrap();
    root.remove_file(name("f")).unwrap();
    assert_eq!(file.write(b"x").unwrap(), 1);
    assert_eq!(file.meta().unwrap().nlink, 0);
    // What is mounted is not claimed, what is open is not unmounted, what is full is full.
    done(machine.make_dir(Path::new("/altroot")));
    let (device, point) = (Path::new("/dev/da0s2"), Path::new("/altroot"));
    let mut claim = done(machine.claim(device));
    assert_eq!(machine.mount(device, point, "ufs", Access::Read).unwrap_err().kind, Kind::Busy);
    done(claim.flush());
    drop(claim);
    done(machine.mount(device, point, "ufs", Access::Write));
    assert_eq!(machine.claim(device).unwrap_err().kind, Kind::Busy);
    assert_eq!(machine.mount(device, point, "ufs", Access::Read).unwrap_err().kind, Kind::Busy);
    let copy = done(machine.open_dir(point));
    let mut file = copy.create_file(name("big")).unwrap();
    no(file.write_all(&vec![1; 3 << 20]), Errno::ENOSPC);
    drop(file);
    let mount = machine.mounts().unwrap().pop().unwrap();
    assert_eq!(machine.unmount(&mount, false).unwrap_err().kind, Kind::Busy);
    // What was not flushed is gone, what was flushed is not.
    copy.make_dir(name("flushed")).unwrap();
    copy.sync().unwrap();
    copy.make_dir(name("lost")).unwrap();
    let has = |m: &Machine, path| m.world(|w| w.tree("da0s2").has(path));
    let after = machine.lose_power(Loss::All);
    assert!(has(&after, "flushed") && !has(&after, "lost"));
    assert!(has(&machine.lose_power(Loss::None), "lost"));
    drop(copy);
    done(machine.unmount(&mount, false));
    assert!(has(&machine.lose_power(Loss::All), "lost"));
    done(machine.mount(device, point, "ufs", Access::Read));
    no(done(machine.open_dir(point)).make_dir(name("x")), Errno::EROFS);
}

// ---- 1: a plain run -----------------------------------------------------------------------------

#[test]
fn a_copy_is_equal_and_valid() {
    for (kinds, transfer) in [(true, usize::MAX), (false, 1000)] {
        let machine = blank_of(8 * MB);
        machine.world(|w| {
            w.edit("da0s1", large_tree);
            (w.kinds_in_listings, w.transfer_max) = (kinds, transfer);
        });
        assert_eq!(state(&machine), State::Empty);
        machine.record();
        let report = done(run(&machine));
        assert_eq!(report.archived, ["/", "/config"]);
        assert!(report.pairs.iter().all(|p| p.verified && p.vanished == 0));
        assert_eq!(against_source(&machine), [""; 0]);
        let root = |w: &mut World, d| w.tree(d).listing()[Path::new("")].attributes.clone();
        let [from, to] = ["da0s1", "da0s2"].map(|d| machine.world(|w| root(w, d)));
        assert_eq!(from, to, "the root itself");
        assert_eq!(state(&machine), State::Valid);
        assert_eq!(left(&machine), [""; 0]);
        let found = done(verify::run(&machine, &session(&machine), Choice::Alternate));
        assert_eq!(found.differences, []);
        assert_eq!(found.files, report.pairs.iter().map(|p| p.files).sum::<u64>());
        // Nothing of it was only in memory, and the root's record was the last thing written.
        assert_eq!(state(&machine.lose_power(Loss::All)), State::Valid);
        let written = |c: &&Call| c.op == "dir.rename" && c.place.ends_with("record.json.new");
        let trace = machine.trace();
        let records: Vec<_> = trace.iter().filter(written).map(|c| &c.place[..6]).collect();
        assert_eq!(records, ["da0s4:", "da0s2:"]);
    }
}

#[test]
fn the_result_does_not_depend_on_workers() {
    let machine = blank_of(8 * MB);
    machine.world(|w| {
        w.edit("da0s1", large_tree);
        w.edit("da0s1", |tree| tree.dir("altroot"));
    });
    let copy_with = |workers| {
        let machine = machine.fork();
        let (device, point) = (Path::new("/dev/da0s2"), Path::new("/altroot"));
        done(machine.mount(device, point, "ufs", Access::Write));
        let options = TreeOptions {
            workers,
            exclude: [b".snap".to_vec()].into(),
            ignore: vec![(".dualroot", Object::Dir)],
            ..TreeOptions::default()
        };
        let (from, to) = (done(machine.open_dir(Path::new("/"))), done(machine.open_dir(point)));
        let copied = done(copy(from, to, &options, None, None, &machine.monitor(), Vec::new()));
        (copied, machine.world(|w| w.tree("da0s2").listing()))
    };
    let first = copy_with(1);
    for workers in [2, 8] {
        assert!(first == copy_with(workers), "{workers} workers make another copy");
    }
}

#[test]
fn the_copy_names_the_new_file_systems() {
    // By identities, which every format makes anew.
    let base = base();
    let machine = base.machine.fork();
    let id = |w: &World, d| superblock::read(&w.head(d)).unwrap().id;
    machine.world(|w| {
        let (root, config) = (id(w, "da0s1"), id(w, "da0s3"));
        fstab(w, "/dev/ufs/config1", &format!("/dev/ufsid/{config}"));
        let loader = LOADER.replace("ufs/root1", &format!("ufsid/{root}"));
        w.edit("da0s1", |tree| tree.file("boot/loader.conf", loader.as_bytes()));
    });
    done(run(&machine));
    let [root, config] = ["da0s2", "da0s4"].map(|d| machine.world(|w| id(w, d)));
    let copy = machine.world(|w| w.tree("da0s2").listing());
    let text = |path| String::from_utf8(copy[Path::new(path)].data[0].1.clone()).unwrap();
    let fstab = FSTAB_COPY.replace("/dev/ufs/config2", &format!("/dev/ufsid/{config}"));
    assert_eq!(text("boot/loader.conf"), LOADER.replace("ufs/root1", &format!("ufsid/{root}")));
    assert_eq!(text("etc/fstab"), fstab);
}

#[test]
fn parts_that_are_copied_alone_fit_together() {
    let base = base();
    let only = |part| Options { only: Some(part), ..Options::default() };
    let fstab_of = |machine: &Machine| {
        let copy = machine.world(|w| w.tree("da0s2").listing());
        String::from_utf8(copy[Path::new("etc/fstab")].data[0].1.clone()).unwrap()
    };
    // The root alone: its fstab names the other config all the same.
    let machine = base.machine.fork();
    done(run_with(&machine, only(Part::Root)));
    assert_eq!(fstab_of(&machine), FSTAB_COPY);
    assert_eq!(state(&machine), State::Valid);
    // The config alone, known by its identity: the root's copy still finds it.
    machine.world(|w| {
        let id = superblock::read(&w.head("da0s3")).unwrap().id;
        fstab(w, "/dev/ufs/config1", &format!("/dev/ufsid/{id}"));
    });
    done(run(&machine));
    let result = run_with(&machine, only(Part::Config));
    let id = machine.world(|w| superblock::read(&w.head("da0s4")).unwrap().id);
    let found = fstab_of(&machine).contains(&format!("/dev/ufsid/{id}"));
    assert!(found || result.is_err_and(|e| e.kind == Kind::Refused), "{}", fstab_of(&machine));
}

// ---- 2: failures --------------------------------------------------------------------------------

/// Operations of the run at which a call of this name on a target can run out of space.
fn takes_space(call: &Call) -> bool {
    let ops = ["create_file", "make_dir", "make_special", "make_symlink", "make_link", "rename"];
    let target = call.place.starts_with("da0s2") || call.place.starts_with("da0s4");
    target
        && (call.op.strip_prefix("dir.").is_some_and(|op| ops.contains(&op))
            || call.op.ends_with("set_xattr")
            || ["file.write", "file.set_len", "file.sync", "dir.sync_all"].contains(&call.op))
}

#[test]
fn every_operation_can_fail_once() {
    let base = base();
    let calls = calls(&base.machine);
    println!("a run has {} operations", calls.len());
    let mut findings = Findings::default();
    let mut seen = HashSet::new();
    for call in &calls {
        let mut errors = vec![Errno::EIO];
        errors.extend(takes_space(call).then_some(Errno::ENOSPC));
        errors.extend(["file.read", "file.write"].contains(&call.op).then_some(Errno::EINTR));
        for errno in errors {
            let case = format!("{call} fails with {errno}");
            let machine = base.machine.fork();
            machine.inject(When::Call(call.clone()), Action::Fail(errno as i32));
            let result = run(&machine);
            findings.check(machine.hits().len() == 1, "it was not reached", &case);
            check_failed(&machine, &base, &result, call, errno, &mut findings, &case);
            if seen.insert(fingerprint(&machine)) {
                match run(&machine) {
                    Err(e) => findings.add(format!("the next run fails: {e}"), &case),
                    Ok(_) => check_new(&machine, "after the next run", &mut findings, &case),
                }
            }
        }
    }
    println!("{} different states were left", seen.len());
    findings.none();
}

fn check_new(machine: &Machine, when: &str, findings: &mut Findings, case: &impl ToString) {
    let state = state(machine);
    findings.check(state == State::Valid, &format!("{when} it is {state:?}"), case);
    for snapshot in snapshots(machine) {
        findings.add(format!("{when} there is {snapshot}"), case);
    }
    for difference in against_source(machine) {
        findings.add(format!("{when}: {difference}"), case);
    }
}

fn check_failed(
    machine: &Machine,
    base: &Base,
    result: &Result<Report, Error>,
    call: &Call,
    errno: Errno,
    findings: &mut Findings,
    case: &String,
) {
    // An unmount that fails leaves its mount; everything else must not.
    if call.op != "os.unmount" {
        for mount in left(machine) {
            findings.add(format!("left mounted: {mount}"), case);
        }
    }
    // One that cannot be removed stays until the next run.
    if !["os.unmount", "os.thaw"].contains(&call.op) {
        for snapshot in snapshots(machine) {
            findings.add(format!("left: {snapshot}"), case);
        }
    }
    // The partition tables are kept on /config.
    let [before, after] = [source(&base.machine), source(machine)].map(|[root, config]| {
        [without(root, &[".snap", STATE]), without(config, &[".snap", ".dualroot"])]
    });
    for (before, after) in before.into_iter().zip(after) {
        for difference in compare(before, after) {
            findings.add(format!("the source has changed: {difference}"), case);
        }
    }
    machine.next_process();
    match result {
        Ok(_) => check_new(machine, "after success", findings, case),
        Err(e) => {
            findings.check(errno != Errno::EINTR, &format!("not survived: {e}"), case);
            let fits = matches!(e.kind, Kind::Failed | Kind::Differs | Kind::Refused);
            findings.check(fits, &format!("kind {:?}: {e}", e.kind), case);
            let told = !e.operation.is_empty() || e.to_string().contains("ing ");
            findings.check(told, &format!("no operation: {e}"), case);
            let refused = e.kind == Kind::Refused && alternate(machine) != base.old;
            findings.check(!refused, &format!("refused after writing: {e}"), case);
            if let Some(what) = half(machine, &base.old) {
                findings.add(HALF, &format!("{case}: {what}"));
            }
        }
    }
}

#[test]
fn a_medium_that_keeps_something_else_is_found_out() {
    let base = base();
    let mut findings = Findings::default();
    let calls = calls(&base.machine);
    // What is written to /config or the root, which are mounted, cannot be read past the system's
    // memory: of the partition tables there, their own checksums tell; a journal is whole or none.
    let mounted = |c: &Call| ["da0s3:.dualroot", "da0s1:"].iter().any(|p| c.place.starts_with(p));
    let writes = |c: &Call| c.op == "file.write" && !mounted(c);
    for call in calls.into_iter().filter(writes) {
        let machine = base.machine.fork();
        machine.inject(When::Call(call.clone()), Action::Rot);
        match run(&machine) {
            Ok(_) => findings.add("nobody saw it", &call),
            Err(e) => findings.check(e.kind == Kind::Differs, &format!("{:?}: {e}", e.kind), &call),
        }
        machine.next_process();
        if let Some(what) = half(&machine, &base.old) {
            findings.add(HALF, &format!("{call}: {what}"));
        }
    }
    findings.none();
}

/// A loss of power has left a file system that can be mounted, and nothing to open in it.
#[test]
fn a_root_that_is_no_directory_is_told() {
    let base = base();
    let machine = base.machine.fork();
    let opened = When::Each("os.open_dir", format!("RUN/{}.show", std::process::id()));
    machine.inject(opened, Action::Fail(Errno::ENOTDIR as i32));
    let report = done(show::run(&machine, &session(&machine), Some(Choice::Alternate)));
    assert_eq!(machine.hits().len(), 1, "it was opened");
    assert_eq!(report.slots[0].state, State::Unknown);
    assert_eq!(report.slots[0].reason.as_deref(), Some("Not a directory"));
    assert!(left(&machine).is_empty());
    done(run(&machine));
    assert_eq!(against_source(&machine), [""; 0]);
}

#[test]
fn a_device_that_is_gone_fails_and_leaves_the_source_alone() {
    let base = base();
    let count = work(calls(&base.machine)).len() as u64;
    for k in (1..=count).step_by(7) {
        let machine = base.machine.fork();
        machine.fail_from(k, Errno::ENXIO);
        let error = run(&machine).unwrap_err();
        assert!(matches!(error.kind, Kind::Failed | Kind::Differs | Kind::Refused), "{k}: {error}");
        machine.next_process();
        assert_eq!(half(&machine, &base.old), None, "{k}");
        done(run(&machine));
        assert_eq!(against_source(&machine), [""; 0], "{k}");
    }
}

// ---- 3: signals ---------------------------------------------------------------------------------

#[test]
fn a_signal_stops_at_every_operation() {
    let base = base();
    let mut findings = Findings::default();
    let mut finished = 0;
    for call in calls(&base.machine) {
        let machine = base.machine.fork();
        machine.inject(When::Call(call.clone()), Action::Signal(SIGINT));
        let result = run(&machine);
        for mount in left(&machine) {
            findings.add(format!("left mounted: {mount}"), &call);
        }
        machine.next_process();
        match result {
            Ok(_) => {
                finished += 1;
                check_new(&machine, "after success", &mut findings, &call);
            }
            Err(e) => {
                let is_signal = e.kind == Kind::Signal(SIGINT);
                findings.check(is_signal, &format!("{:?}: {e}", e.kind), &call);
                let old = alternate(&machine) == base.old;
                findings.check(
                    old || state(&machine) != State::Valid,
                    "valid though it was stopped",
                    &call,
                );
            }
        }
    }
    println!("{finished} came too late to stop anything");
    findings.none();
}

// ---- 4: loss of power ---------------------------------------------------------------------------

#[test]
fn the_power_can_go_at_every_operation() {
    let base = base();
    let count = work(calls(&base.machine)).len() as u64;
    let mut findings = Findings::default();
    let mut seen = HashSet::new();
    let mut cases = 0;
    for k in 1..=count + 1 {
        let machine = base.machine.fork();
        machine.stop_at(k);
        let stopped = run(&machine).is_err();
        assert_eq!(stopped, k <= count, "at {k} of {count}");
        let pending = machine.world(|w| w.pending("da0s2") + w.pending("da0s4"));
        let losses =
            [Loss::All, Loss::None, Loss::AllBut(pending / 2), Loss::Half(k), Loss::Half(!k)];
        for loss in losses {
            cases += 1;
            let after = machine.lose_power(loss);
            if !seen.insert(fingerprint(&after)) {
                continue;
            }
            let at = machine.hits().first().map_or("the end".to_owned(), ToString::to_string);
            let case = format!("{loss:?} of {pending} at operation {k}: {at}");
            if let Some(what) = half(&after, &base.old) {
                findings.add(HALF, &format!("{case}: {what}"));
            }
            match run(&after) {
                Err(e) => findings.add(format!("the next run fails: {e}"), &case),
                Ok(_) => check_new(&after, "after the next run", &mut findings, &case),
            }
        }
    }
    println!("{cases} losses of power, {} different states", seen.len());
    findings.none();
}

#[test]
fn a_killed_process_leaves_what_the_next_one_clears() {
    let base = base();
    let mut findings = Findings::default();
    let mut seen = HashSet::new();
    for call in work(calls(&base.machine)) {
        let machine = base.machine.fork();
        machine.inject(When::Call(call.clone()), Action::Stop);
        run(&machine).unwrap_err();
        machine.next_process();
        let mounts = left(&machine);
        if !seen.insert((fingerprint(&machine), mounts)) {
            continue;
        }
        if let Some(what) = half(&machine, &base.old) {
            findings.add(HALF, &format!("{call}: {what}"));
        }
        let fork = machine.fork();
        match clean::run(&fork, &session(&fork), false) {
            Ok(report) => {
                findings.check(left(&fork).is_empty(), "not clean", &call);
                let told = report.cleared.len() == left(&machine).len();
                findings.check(told, "not all was told", &call);
            }
            Err(e) => findings.add(format!("clean fails: {e}"), &call),
        }
        match run(&machine) {
            Err(e) => findings.add(format!("the next run fails: {e}"), &call),
            Ok(_) => check_new(&machine, "after the next run", &mut findings, &call),
        }
    }
    println!("{} different states", seen.len());
    findings.none();
}

#[test]
fn a_slot_is_valid_only_as_a_whole() {
    // Only /config is copied, and the power goes on the way.
    let base = base();
    let options = Options { only: Some(Part::Config), ..Options::default() };
    let machine = base.machine.fork();
    machine.record();
    done(run_with(&machine, options));
    let mut findings = Findings::default();
    let mut seen = HashSet::new();
    for k in 1..=work(machine.trace()).len() as u64 {
        let machine = base.machine.fork();
        machine.stop_at(k);
        run_with(&machine, options).unwrap_err();
        for loss in [Loss::All, Loss::None, Loss::Half(k)] {
            let after = machine.lose_power(loss);
            if !seen.insert(fingerprint(&after)) || state(&after) != State::Valid {
                continue;
            }
            let fork = after.fork();
            match verify::run(&fork, &session(&fork), Choice::Alternate) {
                Ok(report) if report.differences.is_empty() => {}
                Ok(report) => findings.add(format!("valid, but {:?}", report.differences), &k),
                Err(e) => findings.add(format!("valid, but {e}"), &k),
            }
        }
    }
    findings.none();
}

// ---- 5: a source that changes -------------------------------------------------------------------

/// Lets `edit` happen to the source at each `op` on `place`.
fn meddle(
    machine: &Machine,
    op: &'static str,
    place: &str,
    edit: impl FnMut(&mut Tree) + Send + 'static,
) {
    let action = Action::Edit("da0s1".to_owned(), Box::new(edit));
    machine.inject(When::Each(op, format!("da0s1:{place}")), action);
}

#[test]
fn what_vanishes_is_counted_and_not_there() {
    for (op, at, gone) in [
        ("dir.open_file", "etc/os-release", "etc/os-release"),
        ("dir.open_file", "bin/su", "bin"),
        ("dir.stat", "var/fifo", "var/fifo"),
        ("dir.read_link", "usr/bin/sh", "usr/bin/sh"),
        ("dir.xattrs_of", "var/null", "var/null"),
        ("dir.open_dir", "var/empty", "var/empty"),
    ] {
        let machine = blank();
        meddle(&machine, op, at, move |tree| {
            if tree.has(gone) {
                tree.remove(gone);
            }
        });
        let report = done(run(&machine));
        assert_eq!(report.pairs[0].vanished, 1, "{at}");
        assert_eq!(state(&machine), State::Valid, "{at}");
        let copy = machine.world(|w| w.tree("da0s2").has(at));
        assert!(!copy, "{at} was copied");
        let found = done(verify::run(&machine, &session(&machine), Choice::Alternate));
        assert_eq!(found.differences, [], "{at}");
    }
}

#[test]
fn a_file_that_never_rests_fails_by_its_name() {
    let machine = blank();
    let mut length = 100;
    meddle(&machine, "file.read", "etc/os-release", move |tree| {
        length += 10;
        tree.file("etc/os-release", &noise(length));
    });
    let error = run(&machine).unwrap_err();
    assert_eq!(error.kind, Kind::Failed);
    assert_eq!(error.path.as_deref(), Some(Path::new("etc/os-release")), "{error}");
    assert!(error.to_string().contains("3 tries"), "{error}");
    assert_eq!(machine.hits().iter().filter(|c| c.op == "file.read").count() % 3, 0);
    assert_eq!(state(&machine), State::Invalid);
    assert_eq!(left(&machine), [""; 0]);
}

#[test]
fn a_file_that_changes_once_is_copied_as_it_is_then() {
    type Edit = fn(&mut Tree);
    let cases: [(&'static str, &str, Edit); 6] = [
        ("file.read", "etc/os-release", |t| {
            t.file("etc/os-release", b"NAME=grown\nX=yyyyyyyyyyyyyy\n");
        }),
        ("file.read", "etc/os-release", |t| t.file("etc/os-release", b"NAME=short\n")),
        // Content and attributes belong together.
        ("file.xattrs", "bin/su", |t| {
            t.file("bin/su", &noise(800));
            t.attributes("bin/su").xattrs.insert("user.origin".into(), b"new".to_vec());
        }),
        ("file.next_data", "var/log", |t| t.file("var/log", b"turned over")),
        ("dir.open_file", "etc/os-release", |t| {
            t.remove("etc/os-release");
            t.symlink("etc/os-release", "/etc/passwd");
        }),
        ("dir.read_link", "usr/bin/sh", |t| {
            t.remove("usr/bin/sh");
            t.file("usr/bin/sh", b"now a program");
        }),
    ];
    for (op, at, edit) in cases {
        let machine = blank();
        let mut times = 0;
        meddle(&machine, op, at, move |tree| {
            times += 1;
            if times == 1 {
                edit(tree);
            }
        });
        let result = run(&machine);
        assert!(result.is_ok(), "{op} {at}: {result:?}");
        // The directory was looked at before: its time is that of then.
        let dir = format!("{}: ", Path::new(at).parent().unwrap().display());
        let mut differences = against_source(&machine);
        differences.retain(|d| !d.starts_with(&dir));
        assert_eq!(differences, [""; 0], "{op} {at}");
        assert_eq!(state(&machine), State::Valid, "{op} {at}");
    }
}

/// Whatever is done to the source while it is copied, the copy is what the source was when the
/// copying began, and the next one is not confused by it.
#[test]
fn a_snapshot_is_of_one_moment() {
    let base = base();
    // From the moment on at which it is taken.
    let since = work(calls(&base.machine)).into_iter().skip_while(|c| c.op != "os.freeze");
    let places: Vec<Call> = since.filter(|c| c.op.starts_with("file.")).collect();
    assert!(places.len() > 20, "{}", places.len());
    for call in places.iter().step_by(5) {
        let machine = base.machine.fork();
        let mut count = 0;
        let edit = move |tree: &mut Tree| {
            count += 1;
            tree.file("etc/rc", format!("# {count}\n").as_bytes());
            tree.file("boot/kernel", &noise(count * 100));
            tree.file(format!("etc/new{count}"), b"new");
        };
        machine.inject(When::Call(call.clone()), Action::Edit("da0s1".into(), Box::new(edit)));
        let before = source(&machine);
        let report = done(run(&machine));
        assert_eq!(report.pairs[0].consistency, Consistency::Snapshot);
        assert_eq!((report.pairs[0].vanished, snapshots(&machine)), (0, vec![]));
        let copies = alternate(&machine).map(|copy| without(copy, &[".dualroot"]));
        for (before, copy) in before.into_iter().zip(copies) {
            assert_eq!(compare(expected(before), copy), [""; 0], "{call}");
        }
        done(run(&machine));
        assert_eq!(against_source(&machine), [""; 0], "{call}");
    }
}

/// The kernel's own order of writes leaves a moment in which fsck needs an answer.
#[test]
fn no_snapshot_where_the_next_start_would_wait_for_an_answer() {
    let machine = base().machine;
    let found = |machine: &Machine| {
        let fork = machine.fork();
        let findings = done(check::run(&fork, &session(&fork))).findings;
        findings.iter().any(|finding| finding.code == "fsck-asks")
    };
    let write = |path: &str, text: &str| {
        machine.world(|w| {
            w.edit("da0s1", |tree| {
                tree.dir("etc/defaults");
                tree.file(path, text.as_bytes());
            });
        });
    };
    let taken = |machine: &Machine| {
        let report = done(run(&machine.fork()));
        report.pairs[0].consistency == Consistency::Snapshot
    };
    assert!(taken(&machine), "no rc(8)");
    write("etc/defaults/rc.conf", "fsck_y_enable=\"NO\"\t# Set to YES to do fsck -y\n");
    assert!(!taken(&machine) && !found(&machine));
    write("etc/rc.conf", "fsck_y_enable=YES\n");
    assert!(taken(&machine) && !found(&machine));
    write("etc/dualroot.conf", "file_system_snapshots = true\n");
    assert!(taken(&machine) && !found(&machine));
    write("etc/rc.conf.local", "fsck_y_enable=NO\n");
    assert!(taken(&machine) && found(&machine));
    write("etc/dualroot.conf", "file_system_snapshots = false\n");
    assert!(!taken(&machine) && !found(&machine));
}

/// Where none can be taken after all, the source is copied as it is, and that is said.
#[test]
fn without_a_snapshot_the_copy_is_made_and_the_reason_told() {
    let machine = base().machine;
    let freeze = |place: &str| When::Each("os.freeze", place.to_owned());
    let file = format!("/.snap/{}.dualroot", std::process::id());
    machine.inject(freeze(&file), Action::Fail(Errno::ENOSPC as i32));
    let report = done(run(&machine));
    let Consistency::Detection { why } = &report.pairs[0].consistency else {
        panic!("{report:?}");
    };
    assert!(why.contains("No space left on device"), "{why}");
    assert_eq!(report.pairs[1].consistency, Consistency::Snapshot);
    assert_eq!(against_source(&machine), [""; 0]);
    // A full source is not even tried.
    let machine = blank_of(8 * MB);
    machine.world(|w| {
        w.snapshots = Snapshots::Journaled;
        w.edit("da0s1", |tree| tree.file("var/core", &noise(6_900_000)));
    });
    let report = done(run(&machine));
    let text = report.pairs[0].consistency.to_string();
    assert!(text.contains("% of the file system are free"), "{text}");
    machine.record();
    machine.world(|w| w.snapshots = Snapshots::None);
    done(run(&machine));
    assert!(!machine.trace().iter().any(|c| c.op == "os.freeze"));
}

#[test]
fn a_directory_that_became_a_link_is_not_followed() {
    let machine = blank();
    let mut times = 0;
    meddle(&machine, "dir.open_dir", "usr/bin", move |tree| {
        times += 1;
        if times == 1 {
            tree.remove("usr/bin");
            tree.symlink("usr/bin", "/etc");
        }
    });
    done(run(&machine));
    let copy = machine.world(|w| w.tree("da0s2").listing());
    assert_eq!(copy[Path::new("usr/bin")].link, b"/etc");
    assert!(!copy.contains_key(Path::new("usr/bin/fstab")));
    assert_eq!(state(&machine), State::Valid);
}

// ---- 6: refusals --------------------------------------------------------------------------------

/// A provider on top of others.
fn over(w: &mut World, name: &str, class: Class, lower: &[(&str, Option<u64>)]) {
    let find = |name: &str| w.devices.find(Path::new(name)).unwrap();
    let lower: Vec<_> = lower.iter().map(|&(n, offset)| Lower { id: find(n), offset }).collect();
    let size = w.devices.get(lower[0].id).size;
    let (name, aliases, number) = (name.to_owned(), Vec::new(), None);
    let provider =
        Provider { name, aliases, class, size, sector: 512, number, lower, removable: false };
    w.devices.providers.push(provider);
}

fn fstab(w: &mut World, from: &str, to: &str) {
    let text = FSTAB.replace(from, to);
    w.edit("da0s1", |tree| tree.file("etc/fstab", text.as_bytes()));
}

#[test]
fn refusals_write_nothing() {
    type Change = fn(&mut World);
    let base = base();
    let cases: [(&str, Change); 13] = [
        ("mirror", |w| over(w, "mirror/m", Class::Mirror, &[("da0s2", None)])),
        ("mirror", |w| over(w, "mirror/m", Class::Mirror, &[("da0", None)])),
        ("swap", |w| w.swaps.push("/dev/da0s2".into())),
        ("swap", |w| w.swaps.push("/dev/da0s4".into())),
        ("swap", |w| {
            over(w, "label/swap", Class::Alias, &[("da0s4", Some(0))]);
            w.swaps.push("/dev/label/swap".into());
        }),
        ("in use by", |w| over(w, "da0s2.eli", Class::Other("ELI".to_owned()), &[("da0s2", None)])),
        ("shares its storage", |w| {
            over(w, "da0x", Class::Other("LOOP".to_owned()), &[("da0s1", Some(4096))]);
            fstab(w, "/dev/da0s2", "/dev/da0x");
        }),
        ("bytes", |w| w.edit("da0s1", |tree| tree.file("var/big", &noise(1_750_000)))),
        ("boot flags", |w| w.set_active("da0", 2)),
        ("no such device", |w| fstab(w, "/dev/da0s2", "/dev/da1s2")),
        ("no alternate slot", |w| {
            w.devices.providers.retain(|p| p.name != "da0s2");
            fstab(w, "/dev/da0s2", "#");
        }),
        ("needs root", |w| w.privileged = false),
        ("securelevel", |w| w.forbids = Some("securelevel is 2".to_owned())),
    ];
    for (word, change) in cases {
        let machine = base.machine.fork();
        machine.world(change);
        refused(&machine, word);
    }
    let machine = blank_of_all(2 * MB, 2 * MB, MB);
    machine.world(|w| {
        w.edit("da0s3", |tree| (0..240).for_each(|n| tree.file(format!("f{n}"), b"")));
    });
    refused(&machine, "inodes");
    // A mount point that is no directory, or has something in it.
    let on_point = |f: fn(&mut Tree), word| {
        let machine = base.machine.fork();
        machine.world(|w| w.edit("da0s1", f));
        refused(&machine, word);
    };
    on_point(|tree| tree.symlink("altroot", "/etc"), "symbolic link");
    on_point(
        |tree| {
            tree.dir("altconfig");
            tree.file("altconfig/precious", b"x");
        },
        "not empty",
    );
}

fn refused(machine: &Machine, word: &str) {
    let content = || (alternate(machine), machine.world(|w| ["da0s2", "da0s4"].map(|d| w.head(d))));
    let before = content();
    let Err(error) = run(machine) else { panic!("{word}: not refused") };
    assert_eq!(error.kind, Kind::Refused, "{word}: {error}");
    assert!(error.to_string().contains(word), "{word}: {error}");
    assert!(before == content(), "{word}: it was written to");
    assert_eq!(machine.world(|w| w.pending("da0s2") + w.pending("da0s4")), 0, "{word}");
    assert_eq!(left(machine), [""; 0], "{word}");
}

#[test]
fn what_is_busy_stays_as_it_is() {
    let base = base();
    let machine = base.machine.fork();
    let point = Path::new("/altroot");
    machine.world(|w| w.edit("da0s1", |tree| tree.dir("altroot")));
    done(machine.mount(Path::new("/dev/da0s2"), point, "ufs", Access::Read));
    // Somebody is in it: exit 4, nothing written, still mounted.
    let inside = done(machine.open_dir(point));
    let error = run(&machine).unwrap_err();
    assert_eq!(error.kind, Kind::Busy, "{error}");
    assert!(alternate(&machine) == base.old);
    assert_eq!(left(&machine).len(), 1);
    assert_eq!(clean::run(&machine, &session(&machine), false).unwrap_err().kind, Kind::Busy);
    // He goes: it is stale now.
    drop(inside);
    assert_eq!(done(clean::run(&machine, &session(&machine), false)).cleared.len(), 1);
    done(run(&machine));
    assert_eq!(against_source(&machine), [""; 0]);
}

// ---- 7: partition tables ------------------------------------------------------------------------

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
