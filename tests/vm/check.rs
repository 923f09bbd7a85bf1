//! `check` and `partitions` on GEOM: damage below a mounted root, which the kernel does not see, and
//! damage that GEOM itself calls CORRUPT; what the loader said; the words of Junos.

use std::collections::BTreeSet;
use std::fs::File;
use std::os::unix::fs::FileExt;

use crate::disk::{Disk, Layout, Scheme, dualroot, mounts};
use crate::harness::{Run, Test, Undo, program, skip, tests, tool, try_tool, wait_until};

pub const TESTS: &[Test] = tests![
    healthy_media,
    a_zeroed_first_sector,
    a_label_with_a_wrong_checksum,
    a_label_that_was_moved,
    a_zeroed_gpt_header,
    gpart_repairs_what_the_hint_says,
    a_root_that_the_loader_did_not_mean,
    partitions_as_junos_prints_them,
];

/// A disk with boot code and a valid copy.
fn healthy(layout: Layout) -> Disk {
    let (scheme, sector) = (layout.scheme, layout.sector);
    let disk = Disk::new(layout);
    disk.fill();
    let name = disk.name().to_owned();
    let gpart = |words: &[&str]| drop(Run::of(program("gpart").args(words)).exits(0));
    // boot1 and boot2 are for sectors of 512 bytes.
    if sector == 512 && scheme == Scheme::Mbr {
        gpart(&["bootcode", "-b", "/boot/mbr", &name]);
        for slice in [1, 2] {
            gpart(&["bootcode", "-b", "/boot/boot", &format!("{name}s{slice}")]);
        }
    } else if sector == 512 {
        gpart(&["bootcode", "-b", "/boot/pmbr", "-p", "/boot/gptboot", "-i", "1", &name]);
    }
    disk.snapshot();
    disk
}

/// Codes of severity warning and error.
#[track_caller]
fn problems(disk: &Disk) -> BTreeSet<String> {
    let run = disk.dualroot(&["check", "--json"]);
    let report = run.json();
    let all = report["findings"].as_array().unwrap();
    let bad = all.iter().filter(|f| f["severity"] != "info");
    let codes: BTreeSet<String> = bad.map(|f| f["code"].as_str().unwrap().to_owned()).collect();
    assert_eq!(run.code, if codes.is_empty() { 0 } else { 3 }, "{run}");
    codes
}

#[track_caller]
fn finds(disk: &Disk, codes: &[&str]) {
    let expected: BTreeSet<String> = codes.iter().map(|c| (*c).to_owned()).collect();
    let found = problems(disk);
    assert!(found == expected, "{found:?}: {}", disk.dualroot(&["check"]));
}

/// Writes to the medium below everything that is mounted: GEOM allows it with this flag only, and
/// as long as something is open for writing it does not look at the medium again.
fn poke(disk: &Disk, offset: u64, bytes: &[u8]) {
    let flag = |n: u32| format!("kern.geom.debugflags={n}");
    let _off = Undo::after(&["sysctl", &flag(16)], &["sysctl", &flag(0)]);
    let medium = File::options().write(true).open(format!("/dev/{}", disk.name())).unwrap();
    medium.write_all_at(bytes, offset).unwrap();
}

fn peek(disk: &Disk, offset: u64, length: usize) -> Vec<u8> {
    let mut bytes = vec![0; length];
    let medium = File::open(format!("/dev/{}", disk.name())).unwrap();
    medium.read_exact_at(&mut bytes, offset).unwrap();
    bytes
}

/// A snapshot is refused, and slot 2 stays as it is.
#[track_caller]
fn refuses(disk: &Disk) {
    let part = disk.part(2);
    let before = disk.hash(&part);
    for args in [&["snapshot"][..], &["snapshot", "--force"]] {
        disk.dualroot(args).fails(6, "checking /dev/").says("\nhint: ");
    }
    assert!(disk.hash(&part) == before, "slot 2 was written");
}

fn healthy_media() {
    for scheme in [Scheme::Mbr, Scheme::Gpt] {
        for sector in [512, 4096] {
            let disk = healthy(Layout { scheme, sector, ..Layout::default() });
            finds(&disk, &[]);
        }
    }
    // As other tests make them: without anything to start from.
    let disk = Disk::new(Layout::with_config());
    disk.fill();
    disk.snapshot();
    finds(&disk, &[]);
}

fn a_zeroed_first_sector() {
    let disk = healthy(Layout::default());
    let good = peek(&disk, 0, 512);
    poke(&disk, 0, &[0; 512]);
    let found = problems(&disk);
    assert!(found.contains("table-missing"), "{found:?}");
    refuses(&disk);
    poke(&disk, 0, &good);
    finds(&disk, &[]);

    let disk = healthy(Layout::gpt());
    let good = peek(&disk, 0, 512);
    poke(&disk, 0, &[0; 512]);
    finds(&disk, &["gpt-protective-missing", "pmbr-boot-code-missing"]);
    refuses(&disk);
    poke(&disk, 0, &good);
    finds(&disk, &[]);
}

/// Where slice 2 begins.
fn second_slice(disk: &Disk) -> u64 {
    let entry = peek(disk, 0, 512);
    let sectors = u32::from_le_bytes(entry[446 + 16 + 8..][..4].try_into().unwrap());
    u64::from(sectors) * 512
}

fn a_label_with_a_wrong_checksum() {
    let disk = healthy(Layout::default());
    let label = second_slice(&disk) + 512;
    let good = peek(&disk, label, 512);
    let mut bad = good.clone();
    bad[148] ^= 1;
    poke(&disk, label, &bad);
    finds(&disk, &["label-checksum", "kernel-entry-extra"]);
    refuses(&disk);
    poke(&disk, label, &good);
    finds(&disk, &[]);
    disk.snapshot();
}

fn a_label_that_was_moved() {
    let disk = healthy(Layout::default());
    let label = second_slice(&disk) + 512;
    let good = peek(&disk, label, 1024);
    // Some bytes behind its place.
    let mut moved = good.clone();
    moved.copy_within(..512, 16);
    moved[..16].fill(0);
    poke(&disk, label, &moved);
    finds(&disk, &["label-misplaced", "kernel-entry-extra"]);
    refuses(&disk);
    // In its place, but it was made for a slice elsewhere.
    let mut shifted = good.clone();
    for partition in [0_usize, 2] {
        let start = 148 + partition * 16 + 4;
        shifted[start..start + 4].copy_from_slice(&63_u32.to_le_bytes());
    }
    shifted[136..138].fill(0);
    let length = 148 + usize::from(shifted[138]) * 16;
    let words = shifted[..length].chunks_exact(2);
    let sum = words.fold(0, |sum, w| sum ^ u16::from_le_bytes([w[0], w[1]]));
    shifted[136..138].copy_from_slice(&sum.to_le_bytes());
    poke(&disk, label, &shifted);
    // GEOM goes by where c begins, so that kernel and disk agree.
    finds(&disk, &["label-displaced"]);
    poke(&disk, label, &good);
    finds(&disk, &[]);
}

fn a_zeroed_gpt_header() {
    for sector in [512_u32, 4096] {
        let disk = healthy(Layout { scheme: Scheme::Gpt, sector, ..Layout::default() });
        let header = u64::from(sector);
        let good = peek(&disk, header, sector as usize);
        poke(&disk, header, &vec![0; sector as usize]);
        finds(&disk, &["gpt-primary-damaged"]);
        refuses(&disk);
        poke(&disk, header, &good);
        finds(&disk, &[]);
    }
}

/// GEOM calls it CORRUPT, and after `gpart recover` neither of us has anything to say.
fn gpart_repairs_what_the_hint_says() {
    let disk = healthy(Layout::gpt());
    for (at_end, code) in [(false, "gpt-primary-damaged"), (true, "gpt-backup-damaged")] {
        tool("umount", &[&disk.root()]);
        let medium = File::options().write(true).open(format!("/dev/{}", disk.name())).unwrap();
        let size: u64 =
            tool("diskinfo", &[&disk.name()]).split_whitespace().nth(2).unwrap().parse().unwrap();
        medium.write_all_at(&[0; 512], if at_end { size - 512 } else { 512 }).unwrap();
        drop(medium); // it is looked at again
        wait_until("GEOM sees it", || {
            tool("gpart", &[&"show", &disk.name()]).contains("[CORRUPT]")
        });
        wait_until("the root is back", || {
            try_tool("mount", &[&disk.node(1), &disk.root()]).code == 0
        });
        let run = disk.dualroot(&["check"]).exits(3).prints(&format!("({code})\n"));
        let hint = format!("gpart recover /dev/{} (FreeBSD)", disk.name());
        run.prints(&hint);
        tool("gpart", &[&"recover", &format!("/dev/{}", disk.name())]);
        finds(&disk, &[]);
    }
}

/// The kernel was told to mount slot 2 and has the guest's own root: kenv(1) says so afterwards as
/// the loader would have before.
fn a_root_that_the_loader_did_not_mean() {
    let disk = Disk::new(Layout::default());
    let root = mounts().into_iter().find(|m| m.point.as_os_str() == "/").unwrap().source;
    disk.configure(&format!("[root]\nslots = [\"{root}\", \"{}\"]\n", disk.node(2)));
    let config = disk.side(".").join("dualroot.conf");
    let halves = || {
        let mut command = dualroot();
        command.arg("-c").arg(&config).args(["check", "--json"]);
        let report = Run::of(&mut command).json();
        let all = report["findings"].as_array().unwrap_or_else(|| panic!("{report}")).clone();
        all.iter().filter(|f| f["code"] == "half-boot").count()
    };
    let before = try_tool("kenv", &[&"vfs.root.mountfrom"]);
    if before.code != 0 {
        skip("the loader left no vfs.root.mountfrom");
    }
    assert_eq!(halves(), 0);
    let word = |value: &str| format!("vfs.root.mountfrom={value}");
    let old = word(before.stdout.trim());
    let undo = Undo::after(&["kenv", &word(&format!("ufs:{}", disk.node(2)))], &["kenv", &old]);
    assert_eq!(halves(), 1);
    drop(undo);
    assert_eq!(halves(), 0);
}

fn partitions_as_junos_prints_them() {
    let disk = Disk::new(Layout::with_config());
    disk.fill();
    let name = disk.name();
    let run = disk.dualroot(&["partitions"]).exits(0);
    let expected = format!(
        "Boot Media: internal ({name})\n\
         Active Partition: {name}s1a\n\
         Backup Partition: {name}s2a\n\
         Currently booted from: active ({name}s1a)\n\
         Partitions information:\n\
         \x20 Partition  Size   Mountpoint\n\
         \x20 s1a        24M    /\n\
         \x20 s2a        24M    altroot\n\
         \x20 s4d        8.0M   /config\n\
         \x20 s4e               unused (backup config)\n"
    );
    assert_eq!(run.stdout, expected);
    tool("gpart", &[&"set", &"-a", &"active", &"-i", &"2", &name]);
    let run = disk.dualroot(&["partitions"]).exits(0);
    run.prints(&format!("Currently booted from: backup ({name}s1a)\n"));
    finds(&disk, &["active-not-running", "copy-missing"]);
    let disk = Disk::new(Layout::gpt());
    let report = disk.dualroot(&["partitions", "--json"]).exits(0).json();
    let rows = report["partitions"].as_array().unwrap();
    let kinds: Vec<_> = rows.iter().map(|row| row["type"].as_str().unwrap()).collect();
    assert_eq!(kinds, ["freebsd-boot", "freebsd-ufs", "freebsd-ufs"], "{report}");
    assert_eq!(rows[2]["device"], disk.node(2));
}
