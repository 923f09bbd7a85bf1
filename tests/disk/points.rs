//! The mount points of the copies: made, used or refused, and never followed.

use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};

use nix::mount::{MsFlags, mount};
use nix::sys::stat::Mode;

use crate::harness::{Disk, Layout, fingerprint, ready};

/// A valid copy that must stay one.
fn disk() -> Disk {
    let disk = Disk::new(Layout::default());
    disk.fill();
    disk.snapshot();
    disk
}

fn points(disk: &Disk) -> [(&'static str, PathBuf); 2] {
    ["altroot", "altconfig"].map(|name| (name, disk.root().join(name)))
}

/// Refused, and neither slot nor source has changed.
#[track_caller]
fn refuses(disk: &Disk, words: &str) {
    let bytes = |disk: &Disk| [2, 4].map(|n| disk.hash_device(n));
    let before = (bytes(disk), fingerprint(disk.root()));
    for args in [&["snapshot"][..], &["snapshot", "--force"]] {
        let run = disk.dualroot(args).fails(6, words);
        assert!(run.stderr.contains("\nhint: "), "{run}");
        assert_eq!(run.stdout, "", "nothing was begun");
        assert!(bytes(disk) == before.0, "a slot was written: {run}");
        assert!(fingerprint(disk.root()) == before.1, "the source was changed: {run}");
        disk.assert_unmounted();
    }
    assert_eq!(disk.state(), "valid");
}

fn remount(disk: &Disk, flags: MsFlags) {
    let flags = MsFlags::MS_REMOUNT | flags;
    mount(None::<&str>, disk.root(), None::<&str>, flags, None::<&str>).unwrap();
}

#[test]
fn a_symbolic_link() {
    if !ready(&[]) {
        return;
    }
    let disk = disk();
    fs::create_dir(disk.tmp().join("elsewhere")).unwrap();
    for (name, point) in points(&disk) {
        for to in [disk.tmp().join("elsewhere"), "etc".into(), "/nowhere/at/all".into()] {
            fs::remove_dir(&point).or_else(|_| fs::remove_file(&point)).unwrap();
            symlink(&to, &point).unwrap();
            refuses(&disk, &format!("/{name} is a symbolic link"));
            assert_eq!(fs::read_link(&point).unwrap(), to);
        }
        fs::remove_file(&point).unwrap();
        fs::create_dir(&point).unwrap();
    }
}

#[test]
fn something_that_is_no_directory() {
    if !ready(&[]) {
        return;
    }
    let disk = disk();
    for (name, point) in points(&disk) {
        let words = format!("/{name} is no directory");
        fs::remove_dir(&point).unwrap();
        fs::write(&point, "a file").unwrap();
        refuses(&disk, &words);
        fs::remove_file(&point).unwrap();
        nix::unistd::mkfifo(&point, Mode::S_IRWXU).unwrap();
        refuses(&disk, &words);
        fs::remove_file(&point).unwrap();
        fs::create_dir(&point).unwrap();
    }
}

#[test]
fn missing_ones_are_made() {
    if !ready(&[]) {
        return;
    }
    let disk = disk();
    for (_, point) in points(&disk) {
        fs::remove_dir(point).unwrap();
    }
    let plan = disk.dualroot(&["snapshot", "-n"]).exits(0);
    for (_, point) in points(&disk) {
        assert!(plan.stdout.contains(&format!("make the directory {}", point.display())), "{plan}");
        assert!(!point.exists(), "a plan makes nothing");
    }
    disk.snapshot();
    assert_eq!(disk.state(), "valid");
    let copy = disk.mount_alternate(true);
    for (name, point) in points(&disk) {
        for point in [point, copy.path().join(name)] {
            let mode = fs::symlink_metadata(&point).unwrap().permissions().mode();
            assert_eq!(mode, 0o040_755, "{}", point.display());
            assert_eq!(fs::read_dir(&point).unwrap().count(), 0);
        }
    }
}

#[test]
fn one_that_is_not_empty() {
    if !ready(&[]) {
        return;
    }
    let disk = disk();
    for (name, point) in points(&disk) {
        fs::write(point.join("precious"), "somebody put it here").unwrap();
        refuses(&disk, &format!("/{name} is not empty: precious"));
        fs::create_dir(point.join("and")).unwrap();
        refuses(&disk, &format!("/{name} is not empty: "));
        fs::remove_dir(point.join("and")).unwrap();
        fs::remove_file(point.join("precious")).unwrap();
    }
    // What lies below a stale mount counts, too.
    let point = disk.root().join("altroot");
    fs::write(point.join("precious"), "somebody put it here").unwrap();
    disk.mount(&disk.part(2), &point, true);
    let before = disk.hash_device(2);
    disk.dualroot(&["snapshot"]).fails(6, "/altroot is not empty: precious");
    assert!(disk.hash_device(2) == before, "the slot was written");
    disk.assert_unmounted();
    assert_eq!(disk.state(), "valid");
    assert!(point.join("precious").exists());
}

#[test]
fn a_read_only_root() {
    if !ready(&[]) {
        return;
    }
    let disk = disk();
    remount(&disk, MsFlags::MS_RDONLY);
    disk.snapshot();
    assert_eq!(disk.state(), "valid");
    disk.dualroot(&["verify"]).exits(0);
    for (name, point) in points(&disk) {
        remount(&disk, MsFlags::empty());
        fs::remove_dir(&point).unwrap();
        remount(&disk, MsFlags::MS_RDONLY);
        refuses(&disk, &format!("/{name} is missing, and "));
        remount(&disk, MsFlags::empty());
        fs::create_dir(&point).unwrap();
    }
    remount(&disk, MsFlags::MS_RDONLY);
    disk.snapshot();
    assert_eq!(disk.state(), "valid");
}

/// Only `/` is copied: what is wrong with the other point does not matter.
#[test]
fn only_the_points_that_are_needed() {
    if !ready(&[]) {
        return;
    }
    let disk = disk();
    let [(_, altroot), (_, altconfig)] = points(&disk);
    fs::write(altconfig.join("precious"), "").unwrap();
    disk.dualroot(&["snapshot", "--root-partition"]).exits(0);
    fs::remove_file(altconfig.join("precious")).unwrap();
    fs::write(altroot.join("precious"), "").unwrap();
    disk.dualroot(&["snapshot", "--config-partition"]).exits(0);
    assert!(Path::new(&altroot).join("precious").exists());
}
