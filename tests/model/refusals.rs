//! What is refused writes nothing.

use std::path::Path;

use dualroot::device::Class;
use dualroot::error::Kind;
use dualroot::ops::clean;
use dualroot::sys::fake::{Machine, Tree, World};
use dualroot::sys::{Access, Os};
use dualroot::table::superblock;

use crate::judge::{against_source, alternate, left};
use crate::machine::{MB, base, blank, blank_of_all, done, fstab, noise, over, run, session};

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

/// newfs(8) gives a new identity, and what the running slot names by the old one would be gone.
#[test]
fn what_is_known_by_its_identity_is_not_made_anew() {
    let blank = blank();
    let id = |device| {
        let id = blank.world(|w| superblock::read(&w.head(device)).unwrap().id);
        format!("/dev/ufsid/{id}")
    };
    let [running, root, config] = ["da0s1", "da0s2", "da0s4"].map(id);
    for (known, spec) in [("/dev/da0s2", &root), ("/dev/da0s4", &config)] {
        let machine = blank.fork();
        machine.world(|w| fstab(w, known, spec));
        refused(&machine, spec);
    }
    let machine = blank.fork();
    let slots = format!("[root]\nslots = [\"{running}\", \"{root}\"]\n");
    machine.world(|w| w.edit("da0s1", |t| t.file("etc/dualroot.conf", slots.as_bytes())));
    refused(&machine, &root);
    // An older copy is brought up to date, and keeps it.
    let base = base();
    let id = base.machine.world(|w| superblock::read(&w.head("da0s2")).unwrap().id);
    base.machine.world(|w| fstab(w, "/dev/da0s2", &format!("/dev/ufsid/{id}")));
    done(run(&base.machine));
    assert_eq!(done(clean::run(&base.machine, &session(&base.machine), false)).cleared.len(), 0);
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
