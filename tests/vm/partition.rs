//! Another medium gets a new table, by gpart(8), and a copy; what is in use is left alone.

use std::fs::{self, File};

use crate::compare::{assert_equal, assert_sound};
use crate::disk::{Mounted, Scheme};
use crate::harness::{Test, Undo, need_class, tests, tool};
use crate::medium::{Medium, disk, on, partitioned};

pub const TESTS: &[Test] = tests![
    slices_with_labels_on_an_mbr,
    partitions_of_a_gpt,
    large_sectors,
    what_was_there_before_is_gone,
    var_and_swap_are_the_copys_own,
    what_is_in_use_is_left_alone,
    what_does_not_fit_is_refused,
];

fn slices_with_labels_on_an_mbr() {
    let (disk, medium) = (disk(Scheme::Mbr), Medium::new(200, 512));
    partitioned(&disk, &medium, &["--root-size", "40", "--swap-size", "8", "--data-size", "8"]);
    for part in ["s1a", "s4d"] {
        assert_sound(&medium.node(part));
    }
    let show = tool("gpart", &[&"show", &"-p", &medium.name()]);
    let first = show.lines().find(|l| l.contains(&format!("{}s1 ", medium.name()))).unwrap();
    assert!(first.contains("[active]") && show.matches("[active]").count() == 1, "{show}");
    // The place of the table and the disk's number are not the boot code's.
    assert_eq!(medium.begins("", 440), fs::read("/boot/mbr").unwrap()[..440]);
    for slice in ["s1", "s2"] {
        assert_eq!(medium.begins(slice, 440), fs::read("/boot/boot").unwrap()[..440], "{slice}");
    }
    let copy = Mounted::new(&["-o", "ro"], &medium.node("s1a"), &disk.side("copy"));
    // Its mount point has times of its own.
    tool("umount", &[&disk.root().join("config")]);
    assert_equal(&disk.root(), copy.path());
    let fstab = fs::read_to_string(copy.path().join("etc/fstab")).unwrap();
    assert!(fstab.contains(&format!("{} / ufs", medium.node("s1a"))), "{fstab}");
    assert!(fstab.contains(&format!("{} /config ufs", medium.node("s4d"))), "{fstab}");
}

fn partitions_of_a_gpt() {
    let (disk, medium) = (disk(Scheme::Gpt), Medium::new(200, 512));
    partitioned(&disk, &medium, &[]);
    assert_sound(&medium.node("p2"));
    let show = tool("gpart", &[&"show", &"-l", &medium.name()]);
    let boots = show.lines().find(|l| l.contains("[bootme]")).unwrap();
    assert!(boots.contains(&format!("{}-rootA", medium.name())), "{show}");
    assert_eq!(medium.begins("", 440), fs::read("/boot/pmbr").unwrap()[..440]);
    assert_eq!(medium.begins("p1", 512), fs::read("/boot/gptboot").unwrap()[..512]);
    // The alternate slot of the running medium is another matter.
    assert_eq!(disk.state(), "empty");
    let report = on(&disk, &medium, &["show", "--json"]).exits(0).json();
    assert_eq!(report["slots"][1]["state"], "valid", "{report}");
}

fn large_sectors() {
    let (disk, medium) = (disk(Scheme::Gpt), Medium::new(200, 4096));
    partitioned(&disk, &medium, &["--swap-size", "0"]);
    assert_sound(&medium.node("p2"));
    partitioned(&disk, &medium, &["--swap-size", "0", "--scheme", "mbr"]);
    assert_sound(&medium.node("s1a"));
}

/// Tables, labels and file systems at the same places: nothing of them comes through.
fn what_was_there_before_is_gone() {
    let (disk, medium) = (disk(Scheme::Mbr), Medium::new(200, 512));
    for scheme in ["mbr", "gpt", "mbr", "mbr"] {
        let report = partitioned(&disk, &medium, &["--swap-size", "8", "--scheme", scheme]);
        let rows = report["partitions"].as_array().unwrap().len();
        let slices = if scheme == "mbr" { 4 } else { 0 };
        let nodes = fs::read_dir("/dev").unwrap().map(|e| e.unwrap().file_name());
        let own = |name: &std::ffi::OsString| {
            let name = name.to_string_lossy();
            name.starts_with(medium.name()) && *name != *medium.name()
        };
        assert_eq!(nodes.filter(own).count(), rows + slices, "{scheme}");
    }
}

fn var_and_swap_are_the_copys_own() {
    let (disk, medium) = (disk(Scheme::Mbr), Medium::new(200, 512));
    let var = Medium::new(16, 512);
    tool("newfs", &[&"-U", &var.node("")]);
    let over = Mounted::new(&[], &var.node(""), &disk.root().join("var"));
    let fstab = fs::read_to_string(disk.root().join("etc/fstab")).unwrap();
    let more = format!("{} /var ufs rw 2 2\n{} none swap sw 0 0\n", var.node(""), disk.node(2));
    disk.write("etc/fstab", fstab + &more);
    partitioned(&disk, &medium, &["--swap-size", "8"]);
    assert_sound(&medium.node("s3e"));
    let copy = Mounted::new(&["-o", "ro"], &medium.node("s1a"), &disk.side("copy"));
    let fstab = fs::read_to_string(copy.path().join("etc/fstab")).unwrap();
    for line in
        [format!("{} /var ufs", medium.node("s3e")), format!("{} none swap", medium.node("s3b"))]
    {
        assert!(fstab.contains(&line), "{fstab}");
    }
    drop((copy, over));
}

fn what_is_in_use_is_left_alone() {
    let (disk, medium) = (disk(Scheme::Mbr), Medium::new(200, 512));
    disk.dualroot(&["snapshot", "--partition"]).fails(6, "holds the running root");
    partitioned(&disk, &medium, &["--swap-size", "8"]);
    let before = medium.hash(&disk);
    let refused = |code: i32, words: &str| {
        on(&disk, &medium, &["snapshot", "--partition"]).fails(code, words);
        assert!(medium.hash(&disk) == before, "it was written");
    };
    let over = Mounted::new(&["-o", "ro"], &medium.node("s4d"), &disk.side("here"));
    refused(6, "is mounted on");
    drop(over);
    let swap = medium.node("s3b");
    let paging = Undo::after(&["swapon", &swap], &["swapoff", &swap]);
    refused(6, "is used for swap");
    drop(paging);
    need_class("gnop");
    let (part, nop) = (format!("{}s2a", medium.name()), format!("{}s2a.nop", medium.name()));
    let over = Undo::after(&["gnop", "create", &part], &["gnop", "destroy", "-f", &nop]);
    refused(6, "it is in use by");
    drop(over);
    let held = File::options().read(true).write(true).open(medium.node("s2a")).unwrap();
    refused(4, "open for writing");
    drop(held);
}

fn what_does_not_fit_is_refused() {
    let (disk, medium) = (disk(Scheme::Gpt), Medium::new(64, 512));
    disk.write("usr/large", crate::disk::pattern(8 << 20, 7));
    let before = medium.hash(&disk);
    for (args, words) in [
        (&["--root-size", "0"][..], "--root-size 0"),
        (&["--root-size", "60"], "it does not fit: 2 roots of 60 MB"),
        (&["--root-size", "6"], "the copy of / does not fit"),
        (&["--config-size", "90%"], "it does not fit"),
    ] {
        on(&disk, &medium, &[&["snapshot"], args].concat()).fails(6, words);
        assert!(medium.hash(&disk) == before, "{args:?} wrote");
    }
    on(&disk, &medium, &["snapshot", "--partition", "-n"]).exits(0).prints("1. put a new GPT");
    assert!(medium.hash(&disk) == before);
}
