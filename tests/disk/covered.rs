//! What is mounted over directories of the root hides what the root's start depends on: NanoBSD
//! mounts memory disks over `/etc` and `/var`, and init(8) has run the hidden `/etc/rc` before.

use std::fs;
use std::path::{Path, PathBuf};

use nix::mount::{MsFlags, mount};

use crate::harness::{Disk, Layout, fingerprint, pattern, ready, unmount};

/// Only in what is mounted.
const SECRET: &[u8] = b"this lies in a memory disk and must not be in any copy of the root";

/// A memory disk over a directory of the root, unmounted when it is dropped.
struct Over(PathBuf);

impl Over {
    fn new(disk: &Disk, path: &str) -> Self {
        let point = disk.root().join(path);
        let flags = MsFlags::empty();
        mount(Some("tmpfs"), &point, Some("tmpfs"), flags, Some("size=1m")).unwrap();
        fs::write(point.join("secret"), SECRET).unwrap();
        Self(point)
    }
}

impl Drop for Over {
    fn drop(&mut self) {
        unmount(&self.0);
    }
}

/// A read-only root as NanoBSD has it: all that runs in `etc` and `var` is in memory.
fn nanobsd() -> (Disk, [Over; 2]) {
    let disk = Disk::new(Layout::roots(24, 24));
    disk.fill();
    disk.write("etc/rc", "#!/bin/sh\n");
    disk.write("etc/rc.d/motd", pattern(5000, 1));
    disk.write("var/db/pkg/base-1/+COMMENT", "");
    disk.remount(true);
    let over = ["etc", "var"].map(|path| Over::new(&disk, path));
    let fstab = format!("{} / ext4 ro 0 1\ntmpfs /etc tmpfs rw 0 0\n", disk.node(1));
    disk.write("etc/fstab", fstab);
    (disk, over)
}

/// What the copy is to be, with everything that was mounted unmounted.
#[track_caller]
fn is_whole(disk: &Disk, over: [Over; 2], how: &str) {
    disk.dualroot(&["verify"]).exits(0);
    assert_eq!(disk.state(), "valid", "{how}");
    disk.dualroot(&["check"]).exits(0);
    assert_eq!(disk.slot(2)["packages"][0]["name"], "base", "{how}");
    assert_eq!(disk.slot(2)["product"], "Example OS", "{how}");
    assert!(!disk.is_on_medium(2, SECRET), "{how}");
    drop(over);
    let copy = disk.mount_alternate(true);
    let read = |path: &str| fs::read_to_string(copy.path().join(path)).unwrap();
    assert_eq!(read("etc/fstab"), format!("{} / ext4 rw 0 1\n", disk.node(2)), "{how}");
    let tree = |root: &Path| {
        let mut found = fingerprint(root);
        for own in ["etc/fstab", "lost+found", ".dualroot"] {
            found.retain(|path, _| !path.starts_with(own));
        }
        found
    };
    assert_eq!(tree(copy.path()), tree(disk.root()), "{how}");
}

#[test]
fn a_covered_etc_is_copied_and_rewritten() {
    if !ready(&[]) {
        return;
    }
    for how in [&["snapshot", "--fresh"][..], &["snapshot"], &["snapshot", "--method", "block"]] {
        let (disk, over) = nanobsd();
        disk.dualroot(how).exits(0);
        is_whole(&disk, over, &how.join(" "));
    }
}

/// A copy of which a former version has left out what was covered.
#[test]
fn an_older_copy_without_it_gets_it() {
    if !ready(&[]) {
        return;
    }
    let disk = Disk::new(Layout::roots(24, 24));
    disk.fill();
    disk.snapshot();
    for (dir, file) in [("etc", "etc/rc"), ("usr", "usr/libexec/init")] {
        disk.write(file, "new");
        let over = Over::new(&disk, dir);
        for args in [&["snapshot"][..], &["snapshot", "--verify", "changed"]] {
            disk.dualroot(args).exits(0);
            let copy = disk.mount_alternate(true);
            assert_eq!(fs::read(copy.path().join(file)).unwrap(), b"new");
            assert!(!copy.path().join(dir).join("secret").exists());
        }
        drop(over);
    }
}

/// One mount on another, a mount in a mount, and more directories below than stay open.
#[test]
fn mounts_over_mounts_over_a_deep_tree() {
    if !ready(&[]) {
        return;
    }
    let disk = Disk::new(Layout::roots(24, 24));
    disk.fill();
    let deep: Vec<_> = (0..60).map(|n| format!("d{n}")).collect();
    disk.write(&format!("usr/{}/file", deep.join("/")), "at the end");
    disk.write("usr/zz", "behind it");
    disk.write("usr/d0/zz", "behind it");
    let inner = Over::new(&disk, "usr/d0/d1");
    let over = Over::new(&disk, "usr");
    let again = Over::new(&disk, "usr");
    fs::create_dir(disk.root().join("usr/below")).unwrap();
    let below = Over::new(&disk, "usr/below");
    disk.snapshot();
    disk.dualroot(&["verify"]).exits(0);
    assert!(!disk.is_on_medium(2, SECRET));
    drop(below);
    drop(again);
    drop(over);
    drop(inner);
    let copy = disk.mount_alternate(true);
    let usr = |root: &Path| fingerprint(&root.join("usr"));
    assert_eq!(usr(copy.path()), usr(disk.root()));
}

/// The list of the factory's files is the root's, and would be in memory.
#[test]
fn the_list_of_the_factory_is_not_put_over_a_covered_etc() {
    if !ready(&[]) {
        return;
    }
    let disk = Disk::new(Layout::roots(24, 24));
    disk.fill();
    disk.snapshot();
    let over = Over::new(&disk, "etc");
    disk.dualroot(&["factory", "save"]).fails(6, "tmpfs is mounted on ");
    assert!(!disk.root().join("etc/dualroot").exists());
    drop(over);
    disk.dualroot(&["factory", "save"]).exits(0);
    disk.snapshot();
    let over = Over::new(&disk, "etc");
    disk.dualroot(&["snapshot", "--factory"]).exits(0);
    drop(over);
    let copy = disk.mount_alternate(true);
    assert!(copy.path().join("etc/dualroot/factory.mtree").exists());
    let fstab = fs::read_to_string(copy.path().join("etc/fstab")).unwrap();
    assert!(fstab.starts_with(&disk.node(2)), "{fstab}");
}
