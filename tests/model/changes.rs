//! A source that changes while it is copied.

use std::path::Path;

use dualroot::error::Kind;
use dualroot::ops::snapshot::Options;
use dualroot::ops::{check, verify};
use dualroot::plan::consistency::Consistency;
use dualroot::slot::{Choice, State};
use dualroot::sys::Snapshots;
use dualroot::sys::fake::{Action, Call, Machine, Tree, When};
use dualroot::sys::tree::Kind as Object;
use nix::errno::Errno;

use crate::judge::{
    against_source, alternate, calls, compare, expected, left, snapshots, source, state, without,
    work,
};
use crate::machine::{FSTAB, MB, base, blank, blank_of, copied, done, noise, run, session};

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

/// A directory of an older copy has its default ACL while things are made in it that have none.
#[test]
fn a_default_acl_is_not_passed_on_to_the_copy() {
    let edit = |machine: &Machine, f: fn(&mut Tree)| machine.world(|w| w.edit("da0s1", f));
    let machine = blank();
    edit(&machine, |tree| {
        tree.dir("acl");
        let acl = tree.attributes("acl");
        acl.xattrs.insert("system.posix1e.acl_default".into(), b"u:1234:rwx".to_vec());
    });
    let machine = copied(&machine, Options::default()).machine;
    edit(&machine, |tree| {
        tree.file("acl/file", b"a file");
        tree.link("acl/name", "acl/file");
        tree.dir("acl/dir");
        tree.dir("acl/dir/below");
        tree.file("acl/dir/below/file", b"deeper");
        tree.symlink("acl/link", "file");
        tree.special("acl/fifo", Object::Fifo, (0, 0));
    });
    let report = done(run(&machine));
    assert!(report.pairs[0].refreshed, "{report:?}");
    assert_eq!(against_source(&machine), [""; 0]);
}

/// Nothing names the root that FreeBSD's kernel is to mount: it asks at the console.
#[test]
fn a_root_that_nothing_names_is_told() {
    let unnamed = |fstab: &str, loader: &str, told: &[&str]| {
        let machine = blank();
        machine.world(|w| {
            w.edit("da0s1", |tree| {
                tree.file("etc/fstab", fstab.as_bytes());
                tree.file("boot/loader.conf", loader.as_bytes());
            });
            w.started.roots = told.iter().map(|&root| root.to_owned()).collect();
        });
        done(run(&machine));
        let found = done(check::run(&machine, &session(&machine))).findings;
        let found = found.into_iter().filter(|f| f.code == "root-not-named");
        found.map(|f| f.place).collect::<Vec<_>>()
    };
    let rest = FSTAB.replacen("/dev/da0s1\t/\t", "#", 1);
    let root = "vfs.root.mountfrom=\"ufs:/dev/da0s1\"\n";
    assert_eq!(unnamed(&rest, "", &[]), ["/etc/fstab", "/dev/da0s2: etc/fstab"]);
    assert_eq!(unnamed(&rest, root, &[]), [""; 0]);
    assert_eq!(unnamed(FSTAB, "", &[]), [""; 0]);
    // Something else names it.
    assert_eq!(unnamed(&rest, "", &["/dev/da0s1"]), [""; 0]);
}
