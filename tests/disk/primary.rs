//! A medium that is to come in the place of the running one, and the EFI system partition that a
//! new medium gets.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::FileExt;
use std::sync::atomic::{AtomicBool, Ordering};

use crate::harness::{Disk, Layout, Scheme, pattern, ready, tool, unique};
use crate::medium::{MIB, Medium, TOOLS, on};

const EFI: &str = "C12A7328-F81F-11D2-BA4B-00A0C93EC93B";

/// A GPT with two roots, two configs and an EFI system partition of odd content.
fn with_efi() -> Disk {
    with_efi_of(512)
}

/// The same with sectors of this size.
fn with_efi_of(sector: u64) -> Disk {
    let disk = Disk::new(Layout {
        scheme: Scheme::Gpt,
        sector,
        sizes_mb: vec![24, 24, 8, 8, 5, 4],
        types: [(5, EFI)].into(),
        ..Layout::default()
    });
    disk.fill();
    let esp = fs::OpenOptions::new().write(true).open(disk.part(5)).unwrap();
    let mut content = pattern(5 << 20, 77);
    content[510..512].copy_from_slice(&[0x55, 0xaa]);
    esp.write_all_at(&content, 0).unwrap();
    esp.sync_all().unwrap();
    let fstab = fs::read_to_string(disk.root().join("etc/fstab")).unwrap();
    let more =
        format!("{} /boot/efi vfat rw 2 2\n{} /spare ext4 rw 2 2\n", disk.node(5), disk.node(6));
    disk.write("etc/fstab", fstab + &more);
    disk
}

/// The configuration that says that this medium can be taken out.
fn removable(disk: &Disk, medium: &Medium) {
    let text = format!("[media]\nremovable-compact-flash = \"{}\"\n", medium.name());
    disk.write("etc/dualroot.conf", text);
}

#[test]
fn only_a_removable_medium_takes_the_primarys_place() {
    if !ready(TOOLS) {
        return;
    }
    let (disk, medium) = (Disk::new(Layout::default()), Medium::new(128, 512));
    disk.fill();
    let before = medium.hash();
    let words = ["snapshot", "--as-primary", "--swap-size", "0"];
    on(&disk, &medium, &words)
        .fails(6, "is no removable medium")
        .says(&format!("removable-compact-flash = \"{}\"", medium.name()));
    disk.dualroot(&words).fails(6, "holds the running root");
    disk.write("etc/dualroot.conf", "[media]\nhard-disk = \"loop9999\"\n");
    on(&disk, &medium, &words).fails(6, "is no removable medium");
    assert_eq!(medium.hash(), before);
    removable(&disk, &medium);
    on(&disk, &medium, &words).exits(0).says("let no system start with both of them");
}

/// Its fstab has the names of the running medium, which it will be called by; labels as well.
#[test]
fn it_is_called_like_the_running_one() {
    if !ready(TOOLS) {
        return;
    }
    let prefix = unique();
    let label: &'static str = Box::leak(format!("{prefix}root1").into_boxed_str());
    let disk = Disk::new(Layout { labels: BTreeMap::from([(1, label)]), ..Layout::default() });
    let medium = Medium::new(200, 512);
    disk.fill();
    removable(&disk, &medium);
    let fstab = format!(
        "# names of every kind\n{} / ext4 rw 1 1\n{} /config ext4 rw 2 2\n\
         {} /altroot ext4 ro,noauto 0 0\n{} /altconfig ext4 ro,noauto 0 0\n",
        disk.node(1),
        disk.node(3),
        disk.node(2),
        disk.node(4)
    );
    disk.write("etc/fstab", &fstab);
    disk.write("boot/loader.conf", format!("vfs.root.mountfrom=\"ext4:{}\"\n", disk.node(1)));
    let words =
        ["--media", "removable-compact-flash", "snapshot", "--as-primary", "--swap-size", "0"];
    disk.dualroot(&words).exits(0);
    medium.assert_sound("mbr");
    let point = disk.tmp().join("copy");
    fs::create_dir(&point).unwrap();
    disk.mount(&medium.part(1), &point, true);
    let read = |path: &str| fs::read_to_string(point.join(path)).unwrap();
    // Both have the same places: slices 1 and 2 are the roots, 3 and 4 the configs.
    assert_eq!(read("etc/fstab"), fstab);
    assert!(read("boot/loader.conf").contains(&format!("ext4:{}", disk.node(1))));
    crate::harness::unmount(&point);
    let found = tool("blkid", &[&"-p", &"-o", &"value", &"-s", &"LABEL", &medium.part(1)]);
    assert_eq!(String::from_utf8(found).unwrap().trim(), label);
    on(&disk, &medium, &["verify"]).exits(0);
    // The same for a table with names of partitions: as a first medium has them.
    disk.dualroot(&[&words[..], &["--scheme", "gpt"]].concat()).exits(0);
    medium.assert_sound("gpt");
    let names: Vec<_> =
        medium.table().iter().map(|p| p["name"].as_str().unwrap().to_owned()).collect();
    assert_eq!(names, ["rootA", "rootB", "configA", "configB"]);
    // Plain media keep names of their own, and their second slot is on themselves as well.
    let plain = ["snapshot", "--scheme", "gpt", "--swap-size", "0"];
    on(&disk, &medium, &plain).exits(0);
    disk.mount(&medium.part(1), &point, true);
    let node = |n: usize| medium.part(n).to_str().unwrap().to_owned();
    let text = fs::read_to_string(point.join("etc/fstab")).unwrap();
    for line in [
        format!("{} / ext4", node(1)),
        format!("{} /altroot ext4", node(2)),
        format!("{} /config ext4", node(3)),
        format!("{} /altconfig ext4", node(4)),
    ] {
        assert!(text.contains(&line), "{text}");
    }
    crate::harness::unmount(&point);
}

#[test]
fn the_efi_system_partition_comes_along() {
    if !ready(TOOLS) {
        return;
    }
    let (disk, medium) = (with_efi(), Medium::new(128, 512));
    let words = ["snapshot", "--partition", "--swap-size", "0"];
    let plan = on(&disk, &medium, &[&words[..], &["-n"]].concat()).exits(0);
    let from = format!("copy the EFI system partition {} to {}", disk.node(5), medium.node());
    assert!(plan.stdout.contains(&from), "{plan}");
    let said = format!("/spare ({}) has no counterpart there", disk.node(6));
    on(&disk, &medium, &words).exits(0).says(&said);
    medium.assert_sound("gpt");
    let table = medium.table();
    let kind = |p: &serde_json::Value| p["type"] == EFI;
    let index = table.iter().position(kind).unwrap() + 1;
    let content = fs::read(medium.part(index)).unwrap();
    assert_eq!(content.len() as u64, 5 * MIB);
    assert!(content == fs::read(disk.part(5)).unwrap(), "the content is another");
    let point = disk.tmp().join("copy");
    fs::create_dir(&point).unwrap();
    disk.mount(&medium.part(index + 1), &point, true);
    let fstab = fs::read_to_string(point.join("etc/fstab")).unwrap();
    let line = format!("{} /boot/efi vfat", medium.part(index).to_str().unwrap());
    assert!(fstab.contains(&line), "{fstab}");
    // What would not be there must not stop the boot.
    assert!(fstab.contains(&format!("\n#{} /spare ext4 rw 2 2\n", disk.node(6))), "{fstab}");
    crate::harness::unmount(&point);
    // An MBR has four places: with two configs there is none for it.
    on(&disk, &medium, &[&words[..], &["--scheme", "mbr"]].concat())
        .fails(6, "5 partitions are more than the four of an MBR");
}

/// What is written while it is copied is copied again, and in the end the run fails.
#[test]
fn an_efi_system_partition_that_changes_is_not_half_copied() {
    if !ready(TOOLS) {
        return;
    }
    let (disk, medium) = (with_efi(), Medium::new(128, 512));
    let stop = AtomicBool::new(false);
    let run = std::thread::scope(|scope| {
        scope.spawn(|| {
            let esp = fs::OpenOptions::new().write(true).open(disk.part(5)).unwrap();
            for n in 0_u64.. {
                if stop.load(Ordering::Relaxed) {
                    break;
                }
                esp.write_all_at(&n.to_le_bytes(), 4096).unwrap();
            }
        });
        let run = on(&disk, &medium, &["snapshot", "--partition", "--swap-size", "0"]);
        stop.store(true, Ordering::Relaxed);
        run
    });
    run.exits(1).says("it changed every time while it was copied (3 tries)");
    let report = on(&disk, &medium, &["show", "--json"]).exits(0).json();
    let copy = report["slots"].as_array().unwrap().iter().find(|s| s["booted"] == false);
    assert_eq!(copy.unwrap()["state"], "invalid", "{report}");
}

/// Its FAT keeps the sectors that it was made with.
#[test]
fn an_efi_system_partition_keeps_the_size_of_its_sectors() {
    if !ready(TOOLS) {
        return;
    }
    let words = ["snapshot", "--partition", "--swap-size", "0"];
    for (from, to) in [(512, 4096), (4096, 512), (4096, 4096)] {
        let (disk, medium) = (with_efi_of(from), Medium::new(128, to));
        let before = medium.hash();
        if from == u64::from(to) {
            on(&disk, &medium, &words).exits(0);
            on(&disk, &medium, &["verify"]).exits(0);
            continue;
        }
        on(&disk, &medium, &[&words[..], &["-n"]].concat()).exits(6);
        on(&disk, &medium, &words)
            .fails(6, &format!("is made of sectors of {from} bytes"))
            .says(&format!("choose a medium with sectors of {from} bytes"));
        assert_eq!(medium.hash(), before);
    }
}
