//! Another medium gets a new table and a copy: every table is read back by tools that are not ours,
//! and every refusal leaves the medium's bytes as they were.

use std::fs::{self, File};
use std::path::Path;

use serde_json::Value;

use crate::harness::{
    Disk, Layout, Run, pattern, program, ready, tool, try_tool, unmount, wait_until,
};
use crate::medium::{MIB, Medium, TOOLS, on};

/// A running system with something to copy.
fn disk() -> Disk {
    let disk = Disk::new(Layout::default());
    disk.fill();
    disk.write("usr/more", pattern(3 << 20, 3));
    disk
}

/// The start and the size of every partition in bytes, by the medium's other readers.
fn partitions(medium: &Medium) -> Vec<(u64, u64)> {
    let json: Value = serde_json::from_slice(&tool("sfdisk", &[&"-J", &medium.path()])).unwrap();
    let table = &json["partitiontable"];
    let sector = table["sectorsize"].as_u64().unwrap();
    let all = table["partitions"].as_array().unwrap().iter();
    all.map(|p| (p["start"].as_u64().unwrap() * sector, p["size"].as_u64().unwrap() * sector))
        .collect()
}

/// From the smallest card to a large disk, in both schemes and both sectors.
#[test]
fn every_medium_gets_a_sound_table_and_a_copy() {
    if !ready(TOOLS) {
        return;
    }
    let disk = disk();
    // So that a large one does not take a large file system: of them the table counts.
    let small = ["--root-size", "40", "--config-size", "10", "--swap-size", "8"];
    let (four, large) = (Some("more than the four of an MBR"), Some("too large for an MBR"));
    for (megabytes, args, refused) in [
        (64, &["--swap-size", "0", "--root-size", "16", "--config-size", "4"][..], None),
        (64, &["--root-size", "16", "--config-size", "4", "--data-size", "4"], four),
        (100, &["--swap-size", "0"], None),
        (128, &["--swap-size", "0"], None),
        (129, &["--swap-size", "0", "--data-size", "5%"], four),
        (300, &["--root-size", "20%", "--config-size", "5%"], four),
        (512, &["--swap-size", "0", "--root-size", "128m"], None),
        (4 << 10, &small, four),
        (2 << 20, &small, four),
        (4 << 20, &small, large),
        (512, &[], four),
    ] {
        for scheme in ["mbr", "gpt"] {
            for sector in [512, 4096] {
                let medium = Medium::new(megabytes, sector);
                let case = format!("{megabytes} MB {scheme} {sector} {args:?}");
                let words = [&["snapshot", "--json", "--scheme", scheme], args].concat();
                let run = on(&disk, &medium, &words);
                if let Some(refused) = refused.filter(|_| scheme == "mbr") {
                    // 32 bits of larger sectors reach further.
                    let words = if sector == 4096 { "more than the four" } else { refused };
                    run.fails(6, words);
                    continue;
                }
                let report = run.exits(0).json();
                medium.assert_sound(scheme);
                let found = partitions(&medium);
                let rows = report["partitions"].as_array().unwrap();
                let sizes: Vec<_> = rows.iter().map(|r| r["size"].as_u64().unwrap()).collect();
                assert_eq!(sizes, found.iter().map(|p| p.1).collect::<Vec<_>>(), "{case}");
                assert!(found.iter().all(|p| p.0 % MIB == 0), "{case}: {found:?}");
                assert!(report["pairs"].as_array().unwrap().iter().all(|p| p["verified"] == true));
                on(&disk, &medium, &["verify"]).exits(0);
            }
        }
    }
}

/// What would be made, with its sizes, and what it costs.
#[test]
fn the_plan_has_the_table() {
    if !ready(TOOLS) {
        return;
    }
    let (disk, medium) = (disk(), Medium::new(200, 512));
    let words = ["snapshot", "-n", "--swap-size", "0", "--root-size", "64m"];
    let run = on(&disk, &medium, &words).exits(0);
    let expected = format!(
        "Partitions on snapshot:

  Partition  Mountpoint  Size    Snapshot argument
       s1    /           64M     root-size
       s2    /altroot    64M     root-size
       s3    /config     20M     none
       s4    /altconfig  20M     none

1. put a new MBR with 4 partitions on {}: all that is on it is lost
2. ",
        medium.node()
    );
    assert!(run.stdout.starts_with(&expected), "{run}");
    let report = on(&disk, &medium, &[&["--json"], &words[..]].concat()).exits(0).json();
    assert!(report["plan"][0].as_str().unwrap().ends_with("all that is on it is lost"), "{report}");
    let rows = report["partitions"].as_array().unwrap();
    let sizes: Vec<_> = rows.iter().map(|row| row["size"].as_u64().unwrap() / MIB).collect();
    assert_eq!(sizes, [64, 64, 20, 20]);
    // It is what is made then.
    let made = on(&disk, &medium, &[&["--json", "snapshot"], &words[2..]].concat()).exits(0).json();
    assert_eq!(made["partitions"], report["partitions"]);
    // Without a new table there is none to show.
    let report = on(&disk, &medium, &["snapshot", "-n", "--json"]).exits(0).json();
    assert_eq!(report.get("partitions"), None);
}

#[test]
fn the_lines_are_junos() {
    if !ready(TOOLS) {
        return;
    }
    let (disk, medium) = (disk(), Medium::new(200, 512));
    let words = ["snapshot", "--partition", "--swap-size", "0", "--root-size", "64m"];
    let run = on(&disk, &medium, &words).exits(0);
    let name = medium.name();
    let expected = format!(
        "Performing preliminary partition checks ...
Partitions on snapshot:

  Partition  Mountpoint  Size    Snapshot argument
       s1    /           64M     root-size
       s2    /altroot    64M     root-size
       s3    /config     20M     none
       s4    /altconfig  20M     none
Partitioning {name} ...
umount: /altroot: not currently mounted
Copying / to /altroot.. (this may take a few minutes)
umount: /altconfig: not currently mounted
Copying /config to /altconfig.. (this may take a few minutes)
The following filesystems were archived: / /config
"
    );
    assert!(run.stdout.starts_with(&expected), "{run}");
    assert_eq!(run.stderr, "");
    let json: Value = serde_json::from_slice(&tool("sfdisk", &[&"-J", &medium.path()])).unwrap();
    let flags = json["partitiontable"]["partitions"].as_array().unwrap().iter();
    let flags: Vec<_> = flags.map(|p| p["bootable"] == true).collect();
    assert_eq!(flags, [true, false, false, false]);
}

/// The copy names itself, its own swap among it; it is shown, verified and refreshed where it is.
#[test]
fn the_copy_is_at_home_on_its_medium() {
    if !ready(TOOLS) {
        return;
    }
    let (disk, medium) = (disk(), Medium::new(300, 512));
    let own = medium.node().to_owned();
    let fstab = format!(
        "{} / ext4 rw 1 1\n{} /config ext4 rw 2 2\n{} none swap sw 0 0\n",
        disk.node(1),
        disk.node(3),
        disk.node(4)
    );
    disk.write("etc/fstab", fstab);
    on(&disk, &medium, &["snapshot", "--scheme", "gpt"]).exits(0);
    let expected =
        format!("{own}p1 / ext4 rw 1 1\n{own}p3 /config ext4 rw 2 2\n{own}p5 none swap sw 0 0\n");
    let point = disk.tmp().join("copy");
    fs::create_dir(&point).unwrap();
    disk.mount(&medium.part(1), &point, true);
    assert_eq!(fs::read_to_string(point.join("etc/fstab")).unwrap(), expected);
    unmount(&point);
    let kind = tool("blkid", &[&"-p", &"-o", &"value", &"-s", &"TYPE", &medium.part(5)]);
    assert_eq!(kind, b"swap\n");
    let report = on(&disk, &medium, &["show", "--json"]).exits(0).json();
    let copy = &report["slots"][1];
    assert_eq!((&copy["medium"], &copy["state"]), (&"external".into(), &"valid".into()), "{copy}");
    // The other slot of the running medium is another matter.
    assert_eq!(disk.state(), "empty");
    // Now as it is partitioned.
    disk.write("etc/later", "later");
    let before = partitions(&medium);
    let run = on(&disk, &medium, &["snapshot"]).exits(0);
    assert!(!run.stdout.contains("Partitioning"), "{run}");
    assert_eq!(partitions(&medium), before);
    disk.mount(&medium.part(1), &point, true);
    assert_eq!(fs::read(point.join("etc/later")).unwrap(), b"later");
    unmount(&point);
}

/// What does not fit, makes no sense or is in use: refused, and not a byte has changed.
#[test]
fn refusals_leave_the_medium_alone() {
    if !ready(TOOLS) {
        return;
    }
    let disk = disk();
    disk.write("usr/large", pattern(12 << 20, 4));
    disk.write("config/large", pattern(2 << 20, 5));
    let medium = Medium::new(96, 512);
    fs::write(disk.tmp().join("table"), "label: gpt\n,30M\n,30M\n").unwrap();
    let table = File::open(disk.tmp().join("table")).unwrap();
    Run::of(program("sfdisk").arg("-q").arg(medium.path()).stdin(table)).exits(0);
    let before = medium.hash();
    let refused = |args: &[&str], words: &str| {
        let run = on(&disk, &medium, &[&["snapshot"], args].concat());
        run.fails(6, words);
        assert_eq!(medium.hash(), before, "{args:?} wrote");
    };
    refused(&["--root-size", "0"], "--root-size 0");
    refused(&["--config-size", "0"], "--config-size 0");
    refused(&["--root-size", "60"], "it does not fit: 2 roots of 60 MB");
    refused(&["--swap-size", "90%"], "it does not fit");
    refused(&["--data-size", "17179869183g"], "it does not fit");
    refused(&["--root-size", "8", "--swap-size", "0"], "the copy of / does not fit");
    refused(&["--partition", "--config-size", "1"], "the copy of /config does not fit");
    refused(&["--partition", "--config-partition"], "a copy of /config alone starts nothing");
    refused(&["--root-size", "20", "--config-partition"], "a copy of /config alone");
    // Nothing is written either where it would go, and only the plan is asked for.
    on(&disk, &medium, &["snapshot", "-n", "--partition"]).exits(0).prints("1. put a new ");
    assert_eq!(medium.hash(), before);
    for (args, code) in
        [(["--root-size", "x"], 2), (["--scheme", "bsd"], 2), (["--root-size", "1e3"], 2)]
    {
        on(&disk, &medium, &[&["snapshot"][..], &args].concat()).exits(code);
        assert_eq!(medium.hash(), before);
    }
}

#[test]
fn a_medium_in_use_is_not_partitioned() {
    if !ready(TOOLS) {
        return;
    }
    let disk = disk();
    disk.dualroot(&["snapshot", "--partition"]).fails(6, "holds the running root");
    let own = disk.medium().to_str().unwrap().to_owned();
    disk.dualroot(&["--media", &own, "snapshot", "--partition"]).fails(6, "holds the running root");
    disk.dualroot(&["--media", "internal", "snapshot", "--partition"]).fails(6, "running root");
    disk.dualroot(&["--media", &disk.node(2), "snapshot"]).fails(6, "is no whole medium");
    disk.dualroot(&["--media", "/dev/none", "snapshot"]).fails(6, "no such medium");
    // It does not speak to the terminal.
    let run = disk.dualroot(&["--media", "x\u{1b}[31m\n", "show"]);
    run.fails(6, "dualroot: x\\u{1b}[31m\\n: no such medium");
    disk.dualroot(&["--media", "usb1", "snapshot"]).fails(6, "no usb1 medium is attached");
    let medium = Medium::new(200, 512);
    on(&disk, &medium, &["snapshot", "--swap-size", "0"]).exits(0);
    let before = medium.hash();
    // Mounted, wherever, and read-only too.
    let point = disk.tmp().join("here");
    fs::create_dir(&point).unwrap();
    disk.mount(&medium.part(3), &point, true);
    on(&disk, &medium, &["snapshot", "--partition"]).fails(6, "is mounted on");
    unmount(&point);
    // Held by somebody.
    let open = fs::OpenOptions::new();
    let mut open = open.clone();
    open.read(true).write(true);
    let held = std::os::unix::fs::OpenOptionsExt::custom_flags(&mut open, nix::libc::O_EXCL);
    let held = held.open(medium.part(2)).unwrap();
    on(&disk, &medium, &["snapshot", "--partition", "--swap-size", "0"]).exits(4);
    drop(held);
    // Mirrored by other means.
    let config = disk.tmp().join("mirrored.conf");
    fs::write(&config, "mirror-flash-on-disk = true\n").unwrap();
    let words = ["-c", config.to_str().unwrap(), "--media", medium.node(), "snapshot"];
    let refusal = "Snapshot is not possible since mirror-flash-on-disk is configured.";
    disk.dualroot(&words).fails(6, refusal);
    disk.dualroot(&[&words[..], &["--partition"]].concat()).fails(6, refusal);
    assert_eq!(medium.hash(), before);
}

/// The configuration says what a word means.
#[test]
fn words_for_media_come_from_the_configuration() {
    if !ready(TOOLS) {
        return;
    }
    let (disk, medium) = (disk(), Medium::new(200, 512));
    let config = disk.tmp().join("media.conf");
    fs::write(&config, format!("[media]\nusb = \"{}\"\n", medium.node())).unwrap();
    let words = ["-c", config.to_str().unwrap(), "--media", "usb", "snapshot", "--swap-size", "0"];
    disk.dualroot(&words).exits(0);
    assert_eq!(partitions(&medium).len(), 4);
    assert!(Path::new(&medium.part(4)).exists());
    // A name of its own that leads to the device, wherever it lies; and a word of one's own.
    let link = disk.tmp().join("str.link");
    std::os::unix::fs::symlink(medium.node(), &link).unwrap();
    let link = link.to_str().unwrap();
    disk.dualroot(&["--media", link, "verify"]).exits(0);
    fs::write(&config, format!("[media]\nusb = \"{link}\"\nfront-slot = \"{link}\"\n")).unwrap();
    for word in ["usb", "front-slot"] {
        disk.dualroot(&["-c", words[1], "--media", word, "verify"]).exits(0);
    }
    let run = disk.dualroot(&["-c", words[1], "--media", "rear-slot", "verify"]);
    run.fails(6, "rear-slot: no such medium").says("hard-disk, front-slot\n");
}

/// A damaged table stops a snapshot onto the medium; a new one is the way out.
#[test]
fn a_damaged_table_is_replaced() {
    if !ready(TOOLS) {
        return;
    }
    let (disk, medium) = (disk(), Medium::new(200, 512));
    let gpt = ["snapshot", "--scheme", "gpt", "--swap-size", "0"];
    on(&disk, &medium, &gpt).exits(0);
    // The primary header and the entries.
    let image = fs::OpenOptions::new().write(true).open(medium.path()).unwrap();
    std::os::unix::fs::FileExt::write_all_at(&image, &[0xa5; 8192], 512).unwrap();
    image.sync_all().unwrap();
    drop(image);
    tool("blockdev", &[&"--flushbufs", &medium.path()]);
    let before = medium.hash();
    let run = on(&disk, &medium, &["snapshot"]).fails(6, "GPT").says("hint: ");
    assert!(medium.hash() == before, "{run}");
    on(&disk, &medium, &gpt).exits(0);
    medium.assert_sound("gpt");
    on(&disk, &medium, &["verify"]).exits(0);
}

/// A stick as it is bought, and what others keep their data in: only a slice of the right type is one to
/// be filled, and another is nobody's but its owner's.
#[test]
fn a_slice_of_another_type_is_not_filled() {
    if !ready(TOOLS) {
        return;
    }
    let disk = disk();
    let word = |kind| match kind {
        "c" => "fat32lba",
        "7" => "ntfs",
        "82" => "linux-swap",
        "8e" => "linux-lvm",
        "a5" => "freebsd",
        _ => "!218",
    };
    let make = |kind: &str| {
        let medium = Medium::new(100, 512);
        let others = "size=30M, type=83\nsize=8M, type=7\nsize=8M, type=7\n";
        let slices = format!("label: dos\nsize=30M, type={kind}\n{others}");
        fs::write(disk.tmp().join("table"), slices).unwrap();
        let table = File::open(disk.tmp().join("table")).unwrap();
        Run::of(program("sfdisk").arg("-q").arg(medium.path()).stdin(table)).exits(0);
        wait_until("the slices are there", || {
            try_tool("partx", &[&"-a", &medium.path()]);
            medium.part(4).exists()
        });
        medium
    };
    for kind in ["c", "7", "82", "8e", "da", "a5"] {
        let medium = make(kind);
        let before = medium.hash();
        let words = format!("no partition for a root: slice 1 is of type {}", word(kind));
        let run = on(&disk, &medium, &["snapshot"]).fails(6, &words);
        run.says("hint: --partition makes the partitions anew");
        assert!(medium.hash() == before, "{kind}: it was written");
    }
    let medium = make("83");
    // And beside a root of the right type no config is made of slices that are not.
    let others = || [3, 4].map(|n| fs::read(medium.part(n)).unwrap());
    let before = others();
    let run = on(&disk, &medium, &["snapshot"]).exits(0);
    assert!(!run.stdout.contains("/altconfig"), "{run}");
    assert!(others() == before);
}

/// What was kept comes first, only `snapshot` can make new partitions, and what cannot be read is not
/// to be written over.
#[test]
fn a_medium_without_a_table_has_a_way_out() {
    if !ready(&[TOOLS, &["cc"]].concat()) {
        return;
    }
    let (disk, medium) = (disk(), Medium::new(200, 512));
    let none = format!("no alternate slot on {}: no partition table", medium.node());
    let anew = "--partition makes the partitions anew, and all that is on it is lost\n";
    let readers = [&["show"][..], &["verify"], &["partitions"], &["clean"], &["log"]];
    let hint = |run: &Run| run.stderr.lines().find(|l| l.starts_with("hint: ")).map(str::to_owned);
    // Nothing was ever there.
    for args in [&["show"][..], &["verify"], &["clean"]] {
        assert_eq!(hint(&on(&disk, &medium, args).fails(6, &none)), None);
    }
    on(&disk, &medium, &["snapshot"]).fails(6, &none).says(&format!("\nhint: {anew}"));
    let run = on(&disk, &medium, &["check"]).exits(3).prints("(slots-not-found)");
    assert!(!run.stdout.contains("--partition"), "{run}");
    // A table was, and the snapshot kept it.
    on(&disk, &medium, &["snapshot", "--swap-size", "0"]).exits(0);
    let image = fs::OpenOptions::new().write(true).open(medium.path()).unwrap();
    std::os::unix::fs::FileExt::write_all_at(&image, &[0; 512], 0).unwrap();
    image.sync_all().unwrap();
    drop(image);
    tool("blockdev", &[&"--flushbufs", &medium.path()]);
    let restore = "\nhint: dualroot table restore writes back the table that was kept of it";
    for args in readers {
        let run = on(&disk, &medium, args);
        assert!(!run.stderr.contains("--partition"), "{run}");
    }
    on(&disk, &medium, &["show"]).fails(6, &none).says(&format!("{restore}\n"));
    let run = on(&disk, &medium, &["check"]).exits(3).prints(&restore[1..]);
    assert!(!run.stdout.contains("--partition"), "{run}");
    on(&disk, &medium, &["snapshot"]).fails(6, &none).says(&format!("{restore}; {anew}"));
    // Nobody knows what is on one that cannot be read.
    let path = format!("/{}", medium.name());
    for (args, errno, why) in [
        (["show"], 5, "Input/output error"),
        (["show"], 1, "Operation not permitted"),
        (["snapshot"], 5, "Input/output error"),
    ] {
        let words = ["--media", medium.node(), args[0]];
        let run = disk.with_fault(&words, ("read", &path, 0), errno).fails(6, why);
        assert_eq!(hint(&run), None, "{run}");
    }
    // And so it comes back.
    disk.dualroot(&["table", "restore", "--medium", medium.name()]).exits(0);
    on(&disk, &medium, &["verify"]).exits(0);
}
