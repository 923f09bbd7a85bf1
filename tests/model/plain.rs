//! The machine itself, and runs in which nothing happens.

use std::path::Path;

use dualroot::copy::tree::{Options as TreeOptions, copy};
use dualroot::error::Kind;
use dualroot::ops::snapshot::Options;
use dualroot::ops::verify;
use dualroot::slot::{Choice, Part, State};
use dualroot::sys::fake::{Call, Loss, Machine, World};
use dualroot::sys::tree::Kind as Object;
use dualroot::sys::{Access, Os};
use dualroot::table::superblock;
use nix::errno::Errno;

use crate::judge::{against_source, left, state};
use crate::machine::{
    FSTAB_COPY, LOADER, MB, base, blank, blank_of, done, fstab, large_tree, run, run_with, session,
};

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
        let from = done(machine.open_uncovered(Path::new("/"), Box::new(|_| unreachable!())));
        let to = done(machine.open_dir(point));
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
