//! The files in which the copy names itself, wherever links lead to them.

use std::fs;
use std::os::unix::fs::{MetadataExt, symlink};
use std::path::Path;

use crate::harness::{Disk, Layout, ready};

/// A root whose fstab has moved to `usr/fstab`.
fn disk(layout: Layout, to: &str) -> Disk {
    let disk = Disk::new(layout);
    disk.fill();
    fs::rename(disk.root().join("etc/fstab"), disk.root().join("usr/fstab")).unwrap();
    symlink(to, disk.root().join("etc/fstab")).unwrap();
    disk
}

#[track_caller]
fn read(root: &Path, path: &str) -> String {
    fs::read_to_string(root.join(path)).unwrap()
}

#[test]
fn a_linked_fstab_names_the_copy() {
    if !ready(&[]) {
        return;
    }
    for to in ["../usr/fstab", "/usr/fstab"] {
        let disk = disk(Layout::roots(24, 24), to);
        let source = read(disk.root(), "usr/fstab");
        for args in
            [&["snapshot", "--fresh"][..], &["snapshot"], &["snapshot", "--verify", "changed"]]
        {
            disk.dualroot(args).exits(0);
            let copy = disk.mount_alternate(true);
            assert_eq!(fs::read_link(copy.path().join("etc/fstab")).unwrap(), Path::new(to));
            let copied = read(copy.path(), "usr/fstab");
            assert_eq!(copied, source.replace(&disk.node(1), &disk.node(2)), "{args:?}");
            drop(copy);
            disk.dualroot(&["verify"]).exits(0);
        }
        assert_eq!(read(disk.root(), "usr/fstab"), source, "the source keeps its own");
        disk.dualroot(&["check"]).exits(0);
        // What the copy calls itself is looked at behind the link, too.
        let copy = disk.mount_alternate(false);
        fs::write(copy.path().join("usr/fstab"), &source).unwrap();
        drop(copy);
        disk.dualroot(&["check"]).exits(3).prints("copy-names-another");
    }
}

#[test]
fn a_linked_fstab_names_the_copy_of_its_blocks() {
    if !ready(&[]) {
        return;
    }
    let disk = disk(Layout::roots(24, 24), "../usr/fstab");
    disk.remount(true);
    disk.dualroot(&["snapshot", "--method", "block"]).exits(0);
    let copy = disk.mount_alternate(true);
    assert!(read(copy.path(), "usr/fstab").starts_with(&disk.node(2)));
}

#[test]
fn linked_files_of_the_loader_name_the_copy() {
    if !ready(&[]) {
        return;
    }
    let disk = Disk::new(Layout::roots(24, 24));
    disk.write_fstab();
    let line = |n| format!("vfs.root.mountfrom=\"ext4:{}\"\n", disk.node(n));
    disk.write("usr/boot/loader.conf", line(1));
    disk.write("usr/local.conf", line(1));
    disk.write("usr/more/root.conf", line(1));
    symlink("../local.conf", disk.root().join("usr/boot/loader.conf.local")).unwrap();
    symlink("/usr/more", disk.root().join("usr/boot/loader.conf.d")).unwrap();
    symlink("nowhere", disk.root().join("usr/boot/loader.conf.none")).unwrap();
    symlink("usr/boot", disk.root().join("boot")).unwrap();
    disk.snapshot();
    let copy = disk.mount_alternate(true);
    for path in ["usr/boot/loader.conf", "usr/local.conf", "usr/more/root.conf"] {
        assert_eq!(read(copy.path(), path), line(2), "{path}");
    }
}

/// The copy would be started with a file that names its source, and that no copy changes.
#[test]
fn a_link_that_leads_to_another_file_system_is_refused() {
    if !ready(&[]) {
        return;
    }
    let disk = Disk::new(Layout::default());
    disk.fill();
    disk.snapshot();
    let before = [2, 4].map(|n| disk.hash_device(n));
    for (link, to, text) in [
        ("etc/fstab", "config/fstab", read(disk.root(), "etc/fstab")),
        ("boot/loader.conf", "config/l", format!("vfs.root.mountfrom=\"ext4:{}\"\n", disk.node(1))),
    ] {
        let at = disk.root().join(link);
        let old = fs::read(&at).ok();
        disk.write(to, &text);
        if old.is_some() {
            fs::remove_file(&at).unwrap();
        }
        symlink(format!("../{to}"), &at).unwrap();
        for args in [&["snapshot"][..], &["snapshot", "--fresh"], &["snapshot", "-n"]] {
            let run = disk.dualroot(args).fails(6, &format!("/{link}"));
            assert!(run.stderr.contains(&format!("/{to}, on another file system")), "{run}");
            assert!(run.stderr.contains("\nhint: "), "{run}");
        }
        assert!([2, 4].map(|n| disk.hash_device(n)) == before, "a slot was written");
        // It may lie there as long as it names nothing of a slot.
        disk.write(to, "# nothing\n");
        if link != "etc/fstab" {
            disk.dualroot(&["snapshot", "-n"]).exits(0);
        }
        fs::remove_file(&at).unwrap();
        if let Some(old) = old {
            fs::write(&at, old).unwrap();
        }
    }
    assert_eq!(disk.state(), "valid");
}

/// Which name comes first in the tree does not matter: the one that names the slot is changed, and
/// no other.
#[test]
fn an_fstab_of_two_names_becomes_a_file_of_its_own() {
    if !ready(&[]) {
        return;
    }
    let disk = Disk::new(Layout::roots(24, 24));
    disk.write_fstab();
    let source = read(disk.root(), "etc/fstab");
    for other in ["backup-fstab", "zbackup-fstab"] {
        fs::hard_link(disk.root().join("etc/fstab"), disk.root().join(other)).unwrap();
    }
    let copied = |run: &str| {
        let copy = disk.mount_alternate(true);
        let fstab = read(copy.path(), "etc/fstab");
        assert_eq!(fstab, source.replace(&disk.node(1), &disk.node(2)), "{run}");
        let others = ["backup-fstab", "zbackup-fstab"].map(|name| {
            assert_eq!(read(copy.path(), name), source, "{run}");
            fs::metadata(copy.path().join(name)).unwrap()
        });
        assert_eq!(others[0].ino(), others[1].ino(), "{run}");
        assert_eq!(others[0].nlink(), 2, "{run}");
    };
    for args in [&["snapshot", "--fresh"][..], &["snapshot"], &["snapshot", "--verify", "changed"]]
    {
        disk.dualroot(args).exits(0);
        copied(&args.join(" "));
        disk.dualroot(&["verify"]).exits(0);
    }
    disk.remount(true);
    disk.dualroot(&["snapshot", "--method", "block"]).exits(0);
    copied("block");
    disk.dualroot(&["verify"]).exits(0);
}
