//! A copy of what the box left the factory with, and nothing else.

use std::collections::BTreeSet;
use std::fs;
use std::path::PathBuf;

use crate::harness::{Disk, Layout, fingerprint, pattern, ready, tool};

const LIST: &str = "etc/dualroot/factory.mtree";

/// A system as it left the factory, and its list.
fn disk(layout: Layout) -> Disk {
    let disk = Disk::new(layout);
    disk.fill();
    disk.snapshot();
    disk.dualroot(&["factory", "save"]).exits(0).prints("etc/dualroot/factory.mtree: ");
    disk
}

/// What became of it in the field.
fn use_it(disk: &Disk) {
    disk.write("etc/passwd.local", "operator:x\n");
    disk.write("home/operator/notes", pattern(50_000, 9));
    disk.write("usr/share/doc/0a.txt", "between two files of the factory\n");
    disk.write("usr/share/doc/7.txt", "changed\n");
    disk.write("config/juniper.conf", "system { host-name secret; }\n");
    disk.write("config/rescue.conf", "system { host-name rescue; }\n");
}

fn names(disk: &Disk, slice: usize) -> BTreeSet<PathBuf> {
    let copy = disk.mount_slice(slice, true);
    let mut names: BTreeSet<_> = fingerprint(copy.path()).into_keys().collect();
    names.retain(|path| !path.starts_with(".dualroot") && !path.starts_with("lost+found"));
    names
}

#[test]
fn only_the_factorys_files_and_the_rescue_configuration() {
    if !ready(&[]) {
        return;
    }
    let disk = disk(Layout::default());
    let factory = names(&disk, 2);
    use_it(&disk);
    let report = disk.dualroot(&["snapshot", "--factory", "--json"]).exits(0).json();
    let mut expected = factory.clone();
    expected.extend(["etc/dualroot", LIST].map(PathBuf::from));
    assert_eq!(names(&disk, 2), expected);
    let config: Vec<_> = names(&disk, 4).into_iter().collect();
    assert_eq!(config, ["", "rescue.conf"].map(PathBuf::from));
    let changed = &report["pairs"][0]["changed_since_factory"];
    assert_eq!(changed["count"], 1, "{report}");
    assert_eq!(changed["first"][0], "usr/share/doc/7.txt");
    // It is as whole as any other copy, by our word and by mtree's.
    disk.dualroot(&["verify"]).exits(0);
    let slot = disk.slot(2);
    assert_eq!((&slot["state"], &slot["content"]), (&"valid".into(), &"factory".into()), "{slot}");
    let copy = disk.mount_alternate(true);
    let manifest = copy.path().join(".dualroot/manifest.mtree");
    tool("mtree", &[&"-f", &manifest, &"-p", &copy.path()]);
    let first = fs::read(copy.path().join("boot/kernel.old")).unwrap();
    assert_eq!(first, pattern(700_000, 1));
    let links = std::os::unix::fs::MetadataExt::nlink(
        &fs::metadata(copy.path().join("boot/kernel/kernel")).unwrap(),
    );
    assert_eq!(links, 2);
    drop(copy);
    // A list of that copy would have what is not there.
    disk.dualroot(&["factory", "save"]).fails(6, "it was made with --factory");
    let list = fs::read(disk.root().join(LIST)).unwrap();
    // The whole system again.
    disk.snapshot();
    assert!(names(&disk, 2).contains(&PathBuf::from("home/operator/notes")));
    assert_eq!(disk.slot(2).get("content"), None);
    // What it was by then is no list of the factory's any more.
    let run = disk.dualroot(&["factory", "save"]).fails(6, "the list is there already");
    run.says("hint: remove it first");
    assert_eq!(fs::read(disk.root().join(LIST)).unwrap(), list);
    fs::remove_file(disk.root().join(LIST)).unwrap();
    disk.dualroot(&["factory", "save"]).exits(0);
}

/// A file system that came later: the copy's fstab has it, and rc(8) stops where it cannot be mounted.
#[test]
fn mount_points_of_fstab_are_copied() {
    if !ready(&[]) {
        return;
    }
    let disk = disk(Layout::default());
    for dir in ["data", "usr/home", "config/spool", "mnt"] {
        fs::create_dir(disk.root().join(dir)).unwrap();
    }
    disk.write("data/below", "not the factory's\n");
    std::os::unix::fs::symlink("usr/home", disk.root().join("home")).unwrap();
    let fstab = fs::read_to_string(disk.root().join("etc/fstab")).unwrap();
    let more = "tmpfs /data tmpfs rw 0 0\ntmpfs /home tmpfs rw,late 0 0\n\
                tmpfs /config/spool tmpfs rw 0 0\ntmpfs /mnt tmpfs rw,noauto 0 0\nmd none swap sw 0 0\n";
    disk.write("etc/fstab", format!("{fstab}{more}"));
    disk.dualroot(&["snapshot", "--factory"]).exits(0);
    let root = names(&disk, 2);
    let has = |path: &str| root.contains(&PathBuf::from(path));
    assert!(has("data") && has("home") && has("usr/home"), "{root:?}");
    assert!(!has("data/below") && !has("mnt"), "{root:?}");
    assert!(names(&disk, 4).contains(&PathBuf::from("spool")));
    disk.dualroot(&["verify"]).exits(0);
}

/// The text's last lines say what is not as it was.
#[test]
fn what_changed_is_told() {
    if !ready(&[]) {
        return;
    }
    let disk = disk(Layout::default());
    disk.dualroot(&["snapshot", "--factory"]).exits(0).prints("/: as it left the factory\n");
    use_it(&disk);
    let said = "/: 1 object is not as it left the factory: usr/share/doc/7.txt\n";
    disk.dualroot(&["snapshot", "--factory"]).exits(0).prints(said);
}

#[test]
fn a_system_without_config_has_its_rescue_file_on_the_root() {
    if !ready(&[]) {
        return;
    }
    let disk = Disk::new(Layout::roots(32, 32));
    disk.fill();
    disk.write("config/own.conf", "mine\n");
    disk.snapshot();
    disk.dualroot(&["factory", "save"]).exits(0);
    disk.write("config/later.conf", "later\n");
    disk.write("config/rescue.conf.gz", "rescue\n");
    disk.write("opt/safe.conf", "safe\n");
    disk.dualroot(&["snapshot", "--factory"]).exits(0);
    let copied = names(&disk, 2);
    let has = |path: &str| copied.contains(&PathBuf::from(path));
    assert!(has("config/own.conf") && has("config/rescue.conf.gz"), "{copied:?}");
    assert!(!has("config/later.conf") && !has("opt/safe.conf"), "{copied:?}");
    // The configuration names another.
    disk.write("etc/dualroot.conf", "[factory]\nrescue = \"/opt/safe.conf\"\n");
    disk.dualroot(&["snapshot", "--factory"]).exits(0);
    let copied = names(&disk, 2);
    let has = |path: &str| copied.contains(&PathBuf::from(path));
    assert!(has("opt/safe.conf") && !has("config/rescue.conf.gz"), "{copied:?}");
}

/// Room is needed for what is copied, not for what is there.
#[test]
fn what_is_not_copied_needs_no_room() {
    if !ready(&[]) {
        return;
    }
    let disk = Disk::new(Layout::roots(64, 24));
    disk.fill();
    disk.snapshot();
    disk.dualroot(&["factory", "save"]).exits(0);
    disk.write("var/large", pattern(30 << 20, 4));
    disk.dualroot(&["snapshot"]).fails(6, "does not fit");
    disk.dualroot(&["snapshot", "--factory"]).exits(0);
    assert!(!names(&disk, 2).contains(&PathBuf::from("var/large")));
}

#[test]
fn without_a_whole_list_nothing_is_written() {
    if !ready(&[]) {
        return;
    }
    let disk = Disk::new(Layout::default());
    disk.fill();
    disk.dualroot(&["factory", "save"]).fails(6, "no file system that dualroot knows is on it");
    disk.snapshot();
    let before = [2, 4].map(|n| disk.hash_device(n));
    let refused = |words: &str| {
        disk.dualroot(&["snapshot", "--factory"]).fails(6, words);
        assert_eq!([2, 4].map(|n| disk.hash_device(n)), before, "{words}");
    };
    refused("there is no list of what the box left the factory with");
    disk.dualroot(&["factory", "save"]).exits(0);
    let list = fs::read_to_string(disk.root().join(LIST)).unwrap();
    fs::remove_file(disk.root().join("usr/share/doc/30.txt")).unwrap();
    refused("usr/share/doc/30.txt: it is on the list, and not there");
    fs::remove_dir_all(disk.root().join("usr/share")).unwrap();
    refused("usr/share: it is on the list, and not there");
    disk.write(LIST, "#mtree\n");
    refused("it ends before its root does");
    disk.write(LIST, &list[..list.len() / 2]);
    refused("reading the list");
    disk.write(LIST, "");
    refused("reading the list");
    // Two neighbours changed places.
    let mut lines: Vec<_> = list.lines().collect();
    let at = lines.iter().position(|l| l.starts_with("kernel ")).unwrap();
    lines.swap(at - 1, at);
    disk.write(LIST, lines.join("\n") + "\n");
    refused("reading the list");
}
