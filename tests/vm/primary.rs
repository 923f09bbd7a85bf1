//! Copies that are more than the other slot: of the factory's files, for the primary's place, with an
//! EFI system partition.

use std::collections::BTreeSet;
use std::fs;

use crate::compare::{assert_manifest, assert_sound};
use crate::disk::{Disk, Layout, Mounted, Scheme, pattern};
use crate::harness::{Test, tests, tool};
use crate::medium::{Medium, disk, on, partitioned};

pub const TESTS: &[Test] = tests![
    only_a_removable_medium_takes_the_primarys_place,
    the_efi_system_partition_comes_along,
    only_the_factorys_files,
];

/// It is called like the running one everywhere, with its labels.
fn only_a_removable_medium_takes_the_primarys_place() {
    for scheme in [Scheme::Mbr, Scheme::Gpt] {
        let (disk, medium) = (disk(scheme), Medium::new(200, 512));
        let fstab = fs::read_to_string(disk.root().join("etc/fstab")).unwrap();
        let more = format!("{} /altroot ufs ro,noauto 0 0\n", disk.node(2));
        disk.write("etc/fstab", fstab.clone() + &more);
        let before = medium.hash(&disk);
        on(&disk, &medium, &["snapshot", "--as-primary"]).fails(6, "is no removable medium");
        assert!(medium.hash(&disk) == before, "it was written");
        disk.write("etc/dualroot.conf", format!("[media]\nusb = \"{}\"\n", medium.name()));
        partitioned(&disk, &medium, &["--as-primary", "--swap-size", "8"]);
        let (root, second) = match scheme {
            Scheme::Mbr => ("s1a", "s2a"),
            Scheme::Gpt => ("p2", "p3"),
        };
        assert_sound(&medium.node(root));
        let copy = Mounted::new(&["-o", "ro"], &medium.node(root), &disk.side("copy"));
        let text = fs::read_to_string(copy.path().join("etc/fstab")).unwrap();
        let moved = |suffix: &str| format!("/dev/{}{suffix}", disk.name());
        for line in [format!("{} / ufs", moved(root)), format!("{} /altroot ufs", moved(second))] {
            assert!(text.contains(&line), "{line} in {text}");
        }
        assert!(!text.contains(medium.name()), "{text}");
        drop(copy);
        if scheme == Scheme::Gpt {
            let show = tool("gpart", &[&"show", &"-l", &medium.name()]);
            let labels = ["rootA", "rootB", "configA", "configB"];
            assert!(labels.iter().all(|l| show.contains(&format!(" {l} "))), "{show}");
        }
    }
}

/// Mounted read-write meanwhile, as installers leave it.
fn the_efi_system_partition_comes_along() {
    let (disk, medium) = (disk(Scheme::Gpt), Medium::new(200, 512));
    tool("gpart", &[&"add", &"-t", &"efi", &"-s", &"5m", &"-i", &"6", &disk.name()]);
    let esp = format!("/dev/{}p6", disk.name());
    tool("newfs_msdos", &[&"-L", &"EFISYS", &esp]);
    fs::create_dir_all(disk.root().join("boot/efi")).unwrap();
    let loader = pattern(400_000, 5);
    let mounted = Mounted::new(&["-t", "msdosfs"], &esp, &disk.root().join("boot/efi"));
    fs::create_dir_all(mounted.path().join("EFI/BOOT")).unwrap();
    fs::write(mounted.path().join("EFI/BOOT/BOOTX64.EFI"), &loader).unwrap();
    tool("sync", &[]);
    let fstab = fs::read_to_string(disk.root().join("etc/fstab")).unwrap();
    disk.write("etc/fstab", fstab + &format!("{esp} /boot/efi msdosfs rw 2 2\n"));
    let report = partitioned(&disk, &medium, &["--swap-size", "0"]);
    let rows = report["partitions"].as_array().unwrap();
    assert_eq!(rows.iter().filter(|r| r["partition"] == "p2").count(), 1, "{report}");
    drop(mounted);
    let copied =
        Mounted::new(&["-t", "msdosfs", "-o", "ro"], &medium.node("p2"), &disk.side("esp"));
    assert!(fs::read(copied.path().join("EFI/BOOT/BOOTX64.EFI")).unwrap() == loader);
    drop(copied);
    tool("fsck_msdosfs", &[&"-n", &medium.node("p2")]);
    let copy = Mounted::new(&["-o", "ro"], &medium.node("p3"), &disk.side("copy"));
    let text = fs::read_to_string(copy.path().join("etc/fstab")).unwrap();
    assert!(text.contains(&format!("{} /boot/efi msdosfs", medium.node("p2"))), "{text}");
}

/// What was added since is not there; flags and ACLs are, and mtree(8) finds it whole.
fn only_the_factorys_files() {
    let disk = Disk::new(Layout::with_config());
    disk.fill();
    let locked = disk.write("usr/locked", "by the factory\n");
    tool("chflags", &[&"schg", &locked]);
    disk.snapshot();
    disk.dualroot(&["factory", "save"]).exits(0);
    let names = |point: &std::path::Path| -> BTreeSet<String> {
        let found = tool("find", &[&"-x", &point, &"-mindepth", &"1"]);
        let own = |line: &&str| !line.contains("/.dualroot") && !line.contains("/.snap");
        let relative = |line: &str| line.trim_start_matches(point.to_str().unwrap()).to_owned();
        found.lines().filter(own).map(relative).collect()
    };
    let before = {
        let copy = Mounted::new(&["-o", "ro"], &disk.node(2), &disk.side("copy"));
        names(copy.path())
    };
    disk.write("usr/later", "later\n");
    disk.write("config/rescue.conf", "rescue\n");
    disk.write("config/other.conf", "other\n");
    disk.dualroot(&["snapshot", "--factory"]).exits(0).prints("/: as it left the factory\n");
    assert_sound(&disk.node(2));
    let copy = Mounted::new(&["-o", "ro"], &disk.node(2), &disk.side("copy"));
    assert_manifest(copy.path());
    let mut expected = before;
    expected.extend(["/etc/dualroot", "/etc/dualroot/factory.mtree"].map(str::to_owned));
    assert_eq!(names(copy.path()), expected);
    let flags = tool("stat", &[&"-f", &"%Sf", &copy.path().join("usr/locked")]);
    assert_eq!(flags.trim(), "schg");
    drop(copy);
    let config = Mounted::new(&["-o", "ro"], &disk.config(2), &disk.side("config"));
    assert_eq!(names(config.path()), ["/rescue.conf".to_owned()].into());
    drop(config);
    disk.dualroot(&["verify"]).exits(0);
    tool("chflags", &[&"noschg", &locked]);
}
