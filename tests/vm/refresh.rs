//! A copy on UFS2 that is brought up to date, with all that UFS2 keeps of an object: `mtree`,
//! `fsck_ffs` and a new copy as referees.

use std::fs;

use crate::compare::{assert_equal, assert_manifest, assert_sound};
use crate::disk::{Disk, Layout, pattern};
use crate::faults::flip;
use crate::harness::{Test, tests};
use crate::tree::{make_everything, sh};

pub const TESTS: &[Test] = tests![
    nothing_changed,
    everything_changed,
    everything_changed_and_little_is_read,
    a_copy_that_ran,
    rot_below_flags,
    what_nobody_touched_is_not_read,
    what_came_to_another_place_is_read,
    with_config_on_a_gpt,
    a_posix_acl_is_not_passed_on,
    an_nfs4_acl_is_not_passed_on,
];

/// A snapshot that brings a copy up to date: bytes that were written.
#[track_caller]
fn refreshed(disk: &Disk, words: &[&str]) -> u64 {
    let args: Vec<_> = ["snapshot", "--json"].into_iter().chain(words.iter().copied()).collect();
    let run = disk.dualroot(&args).exits(0);
    let pair = run.json()["pairs"][0].clone();
    assert_eq!((&pair["refreshed"], &pair["verified"]), (&true.into(), &true.into()), "{run}");
    pair["written_bytes"].as_u64().unwrap()
}

fn manifest(disk: &Disk) -> String {
    let copy = disk.mount_copy();
    fs::read_to_string(copy.path().join(".dualroot/manifest.mtree")).unwrap()
}

/// What trusts times must be older than a second.
fn settle() {
    std::thread::sleep(std::time::Duration::from_millis(1100));
}

/// The copy is the source, and as a new one would be.
#[track_caller]
fn is_new(disk: &Disk) {
    disk.assert_unmounted();
    assert_sound(&disk.node(2));
    let copy = disk.mount_copy();
    assert_equal(&disk.root(), copy.path());
    assert_manifest(copy.path());
    drop(copy);
    let text = manifest(disk);
    let run = disk.dualroot(&["snapshot", "--json", "--fresh"]).exits(0);
    assert_eq!(run.json()["pairs"][0]["refreshed"], false, "{run}");
    assert_eq!(manifest(disk), text);
}

fn nothing_changed() {
    let disk = Disk::new(Layout::default());
    make_everything(&disk);
    disk.snapshot();
    let text = manifest(&disk);
    settle();
    for words in [&[][..], &["--verify", "changed"]] {
        assert_eq!(refreshed(&disk, words), 0, "{words:?}");
        assert_eq!(manifest(&disk), text, "{words:?}");
    }
    is_new(&disk);
}

/// Of each kind something else than before, also where flags forbid it in the copy.
fn change(disk: &Disk) {
    let root = disk.root();
    sh(
        &root,
        "chflags -h 0 flags flags/* times links/also-schg
        echo otherwise >flags/schg; echo more >>flags/sappnd; rm flags/uchg
        echo new >flags/new; chflags schg flags/schg flags/new; chflags sappnd flags/sappnd
        rm -r flags/dir; echo file >flags/dir; chflags uarch flags/nodump
        touch flags/append/added; chflags schg flags/append; chflags schg flags
        rm links/a/second; echo second >links/a/second; ln d/empty links/empty
        rm links/sym; ln -s elsewhere links/sym; rm d/fifo; echo fifo >d/fifo
        rm d/null; mknod d/null c 2 4; rm -f d/cp-null
        setextattr user text other d/suid; rmextattr user large d/empty
        rmextattr user on-dir d/shared; setextattr -h user on-link other d/owned-link
        setextattr system more s d/suid; chmod 0755 d/none; chown 5:6 d/all; chmod -h 711 d/owned-link
        mv d/inner/third d/inner/moved; rm -r d/closed; mkdir d/closed; chmod 1777 d/closed
        touch -d 1998-01-01T00:00:00 times/new; touch -h -d 2011-01-01T00:00:00 times/link
        rmdir times/dir; mkdir times/dir; touch -d 2012-01-01T00:00:00 times",
    );
    disk.write("d/zeros", pattern(200_000, 5));
    disk.write("links/first", pattern(100_000, 2));
}

fn changed(words: &[&str]) {
    let disk = Disk::new(Layout::default());
    make_everything(&disk);
    disk.snapshot();
    settle();
    change(&disk);
    refreshed(&disk, words);
    is_new(&disk);
}

fn everything_changed() {
    changed(&[]);
}

fn everything_changed_and_little_is_read() {
    changed(&["--verify", "changed"]);
}

fn a_copy_that_ran() {
    let disk = Disk::new(Layout::default());
    make_everything(&disk);
    disk.snapshot();
    settle();
    let copy = disk.mount_copy();
    sh(
        copy.path(),
        "mount -u -o rw \"$(pwd)\"; touch firstboot .dualroot/used; mkdir -p var/db/dualroot; chmod 711 d
        echo own >d/suid; mksnap_ffs .snap/own; rm d/empty; mount -u -o ro \"$(pwd)\"",
    );
    drop(copy);
    // One with snapshots of its own is made anew or brought up to date: it is the source then.
    disk.dualroot(&["snapshot"]).exits(0);
    is_new(&disk);
}

/// A file that nobody may write is not touched either, whatever names it has: what rots in it is made
/// anew.
fn rot_below_flags() {
    let disk = Disk::new(Layout::default());
    disk.fill();
    let marker = b"a byte of this line rots";
    disk.write("zz/first", marker);
    sh(&disk.root(), "ln zz/first zz/second; chflags schg zz/first");
    disk.snapshot();
    settle();
    assert_eq!(refreshed(&disk, &[]), 0);
    settle();
    flip(&disk.node(2), marker);
    disk.dualroot(&["snapshot"]).exits(0).says("zz/first: the copy's content had changed");
    disk.dualroot(&["verify"]).exits(0);
    assert_eq!(refreshed(&disk, &[]), 0);
    // A further name of one whose flags are gone.
    sh(&disk.root(), "chflags 0 zz/first; ln zz/first zz/third");
    refreshed(&disk, &[]);
    is_new(&disk);
}

/// A disk with a copy that took so long that all of it is older than the moment in which it was
/// verified, and two directories whose files are told apart by their content alone.
fn two_alike() -> Disk {
    let disk = Disk::new(Layout::default());
    disk.fill();
    disk.write("pkg/a/file", MARKER);
    disk.write("pkg/b/file", MARKER.map(|b| b.to_ascii_uppercase()));
    sh(&disk.root(), "touch -d 2012-01-01T00:00:00 pkg/a/file pkg/b/file");
    disk.much(6);
    settle();
    disk.dualroot(&["--limit", "3m", "snapshot"]).exits(0);
    disk
}

const MARKER: &[u8; 24] = b"two files that are alike";
const PLACES: &str = "mv pkg/a pkg/t; mv pkg/b pkg/a; mv pkg/t pkg/b";

fn what_nobody_touched_is_not_read() {
    let disk = two_alike();
    flip(&disk.node(2), MARKER);
    assert_eq!(refreshed(&disk, &["--verify", "changed"]), 0);
    disk.dualroot(&["verify"]).exits(5).prints("/pkg/a/file: content differs at 0");
}

/// Files keep all of their times while the directories that they are in get other names.
fn what_came_to_another_place_is_read() {
    let disk = two_alike();
    sh(&disk.root(), PLACES);
    refreshed(&disk, &["--verify", "changed"]);
    is_new(&disk);
    drop(disk);
    let disk = two_alike();
    let copy = disk.mount_copy();
    sh(copy.path(), &format!("mount -u -o rw \"$(pwd)\"; {PLACES}; mount -u -o ro \"$(pwd)\""));
    drop(copy);
    refreshed(&disk, &["--verify", "changed"]);
    is_new(&disk);
}

fn with_config_on_a_gpt() {
    let disk = Disk::new(Layout { scheme: crate::disk::Scheme::Gpt, ..Layout::with_config() });
    disk.fill();
    disk.snapshot();
    disk.write("config/app.conf", "host-name changed;\n");
    let report = disk.dualroot(&["snapshot", "--json"]).exits(0).json();
    for pair in report["pairs"].as_array().unwrap() {
        assert_eq!(pair["refreshed"], true, "{report}");
    }
    assert_eq!(disk.state(), "valid");
    disk.dualroot(&["verify"]).exits(0);
    assert_sound(&disk.config(2));
}

/// A directory of the copy has its ACL while things are made in it that have none: `words` gives the
/// directory `acl` one that is passed on, and the file `acl/bare` any.
fn not_passed_on(words: &str, tunefs: &'static str) {
    let disk = Disk::new(Layout { tunefs: vec![tunefs, "enable"], ..Layout::default() });
    disk.fill();
    for name in ["acl/bare", "acl/holes", "plain/file", "plain/dir/below/file", "plain/a"] {
        disk.write(name, pattern(100_000, 4));
    }
    // No device: FreeBSD makes none where it would have to give it an ACL.
    sh(&disk.root(), "cd plain; ln a b; ln -s file link; mkfifo fifo");
    sh(&disk.root(), words);
    disk.snapshot();
    for change in [
        "mv plain/file acl",
        "mv plain/dir acl",
        "cd plain; mv a b link fifo ../acl",
        "setfacl -b acl/bare",
        "chmod 0640 acl/holes; : >acl/holes; truncate -s 900000 acl/holes",
    ] {
        settle();
        sh(&disk.root(), change);
        refreshed(&disk, &[]);
        disk.dualroot(&["verify"]).exits(0);
    }
    is_new(&disk);
}

fn a_posix_acl_is_not_passed_on() {
    not_passed_on(
        "setfacl -d -m u::rwx,u:1234:rwx,g::rx,m::rwx,o::- acl; setfacl -m u:99:r acl/bare",
        "-a",
    );
}

fn an_nfs4_acl_is_not_passed_on() {
    not_passed_on(
        "setfacl -a 0 u:1234:rwx:fd:allow acl; setfacl -a 0 u:99:r::allow acl/bare",
        "-N",
    );
}
