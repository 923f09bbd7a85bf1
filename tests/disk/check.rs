//! `check`: healthy media have no findings; each damage has its own, and the tools of the system see
//! it too where they can. What a table's errors are found on is not written to.

use std::fs::{self, File, OpenOptions};
use std::os::unix::fs::FileExt;
use std::path::Path;

use dualroot::finding::CODES;
use nix::sys::signal::Signal;

use crate::harness::{Disk, Layout, Run, Scheme, program, ready, tool, try_tool, unmount};

const MIB: u64 = 1 << 20;

/// Every code is looked for by a test of this file, or of the model: what is FreeBSD's alone.
#[test]
fn every_code_is_provoked() {
    let sources = [include_str!("check.rs"), include_str!("../model/changes.rs")];
    for code in CODES {
        let quoted = format!("\"{code}\"");
        assert!(sources.iter().any(|source| source.contains(&quoted)), "no test finds {code}");
    }
}

/// A disk with a valid copy and boot code, so that nothing is wrong with it.
fn healthy(layout: Layout) -> Disk {
    let disk = Disk::new(layout);
    disk.fill();
    disk.snapshot();
    make_bootable(&disk);
    disk
}

fn dos() -> Layout {
    Layout::roots(16, 16)
}

/// With a partition to boot from behind the roots.
fn gpt() -> Layout {
    let types = [(3, "83BD6B9D-7F41-11DC-BE0B-001560B84F0F")].into();
    Layout { scheme: Scheme::Gpt, sizes_mb: vec![16, 16], types, ..Layout::default() }
}

/// Boot code in the first sector and, on a GPT, in a freebsd-boot partition in the last MB, which is
/// made without telling the kernel anything else.
fn make_bootable(disk: &Disk) {
    poke(disk, 0, &[0x90; 440]);
}

/// Changes bytes of the medium as the kernel has it, and so of the image.
fn poke(disk: &Disk, offset: u64, bytes: &[u8]) {
    let file = OpenOptions::new().write(true).open(disk.medium()).unwrap();
    file.write_all_at(bytes, offset).unwrap();
    file.sync_all().unwrap();
}

fn peek(disk: &Disk, offset: u64, length: usize) -> Vec<u8> {
    let mut bytes = vec![0; length];
    File::open(disk.medium()).unwrap().read_exact_at(&mut bytes, offset).unwrap();
    bytes
}

/// Inverts the lowest bit of a byte.
fn flip(disk: &Disk, offset: u64) {
    poke(disk, offset, &[peek(disk, offset, 1)[0] ^ 1]);
}

fn size(disk: &Disk) -> u64 {
    fs::metadata(disk.image()).unwrap().len()
}

/// What `check` finds, as severity and code. Text and JSON say the same, and the exit code is theirs.
#[track_caller]
fn findings(disk: &Disk) -> Vec<(String, String)> {
    let json = disk.dualroot(&["check", "--json"]);
    let report = json.json();
    assert_eq!(report["schema"], 1, "{report}");
    let all = report["findings"].as_array().unwrap();
    let text = disk.dualroot(&["check"]);
    assert_eq!(text.code, json.code);
    let mut lines = text.stdout.lines();
    let mut problems = false;
    for finding in all {
        let names: Vec<_> = finding.as_object().unwrap().keys().map(String::as_str).collect();
        let mut expected = vec!["code", "hint", "severity", "what", "where"];
        expected.sort_unstable();
        assert_eq!(names, expected, "{finding}");
        let word = |name: &str| finding[name].as_str().unwrap().to_owned();
        assert!(CODES.contains(&word("code").as_str()), "{finding}");
        let [severity, code, what, place, hint] =
            ["severity", "code", "what", "where", "hint"].map(word);
        assert_eq!(lines.next().unwrap(), format!("{severity}: {place}: {what} ({code})"));
        assert_eq!(lines.next().unwrap(), format!("hint: {hint}"));
        assert!(!hint.is_empty() && !place.is_empty() && !what.is_empty(), "{finding}");
        problems |= severity != "info";
    }
    let last = lines.next().unwrap();
    assert!(last == "no findings" || last.ends_with(" info"), "{text}");
    assert_eq!(last == "no findings", all.is_empty(), "{text}");
    assert_eq!(lines.next(), None, "{text}");
    text.exits(if problems { 3 } else { 0 });
    disk.assert_unmounted();
    let pair = |f: &serde_json::Value| {
        let word = |name: &str| f[name].as_str().unwrap().to_owned();
        (word("severity"), word("code"))
    };
    all.iter().map(pair).collect()
}

/// Exactly these findings.
#[track_caller]
fn finds(disk: &Disk, expected: &[(&str, &str)]) {
    let found = findings(disk);
    let found: Vec<_> = found.iter().map(|(s, c)| (s.as_str(), c.as_str())).collect();
    assert_eq!(found, expected);
}

/// With an error in a table nothing is written, for the reason that `check` gives.
#[track_caller]
fn refuses(disk: &Disk) {
    let report = disk.dualroot(&["check", "--json"]).exits(3).json();
    let errors: Vec<_> = report["findings"].as_array().unwrap().iter().collect();
    let error = errors.iter().find(|f| f["severity"] == "error").unwrap();
    let word = |name: &str| error[name].as_str().unwrap();
    let before = disk.hash_device(2);
    for args in [&["snapshot"][..], &["snapshot", "-n"], &["snapshot", "--force"]] {
        let run = disk.dualroot(args).fails(6, &format!("{}: {}", word("where"), word("what")));
        run.says(&format!("\nhint: {}", word("hint")));
    }
    assert!(disk.hash_device(2) == before, "the slot was written");
}

/// Whether sgdisk(8) has something to say of the medium.
fn sgdisk_complains(disk: &Disk) -> bool {
    let run = try_tool("sgdisk", &[&"-v", &disk.medium()]);
    let said = format!("{}{}", run.stdout, run.stderr);
    !said.contains("No problems found") || said.contains("aution") || said.contains("ERROR")
}

/// Whether sfdisk(8) has.
fn sfdisk_complains(disk: &Disk) -> bool {
    let run = try_tool("sfdisk", &[&"--verify", &disk.medium()]);
    let said = format!("{}{}", run.stdout, run.stderr);
    run.code != 0
        || said.contains("overlap")
        || said.contains("greater than the maximum")
        || said.contains("corrupt")
        || said.contains("invalid")
        || said.contains("outside")
}

// ---- nothing is wrong -----------------------------------------------------------------------

#[test]
fn healthy_media() {
    if !ready(&["sgdisk"]) {
        return;
    }
    for sector in [512, 4096] {
        let disk = healthy(Layout { sector, ..dos() });
        finds(&disk, &[]);
        assert!(!sfdisk_complains(&disk));
        disk.dualroot(&["check"]).exits(0).prints("no findings\n");
        let disk = bootable_gpt(sector);
        finds(&disk, &[]);
        assert!(!sgdisk_complains(&disk), "{}", try_tool("sgdisk", &[&"-v", &disk.medium()]));
        assert!(!sfdisk_complains(&disk));
    }
}

/// A GPT with roots in slices 1 and 2 and boot code in a freebsd-boot, slice 3.
fn bootable_gpt(sector: u64) -> Disk {
    let boot = "83BD6B9D-7F41-11DC-BE0B-001560B84F0F";
    let types = [(3, boot)].into();
    let disk = Disk::new(Layout { sector, sizes_mb: vec![16, 16, 8], types, ..gpt() });
    unmount(&disk.root().join("config"));
    disk.fill();
    let fstab = format!("{} / ext4 rw 0 1\n", disk.node(1));
    disk.write("etc/fstab", fstab);
    disk.snapshot();
    make_bootable(&disk);
    poke(&disk, 33 * MIB, &[0x90; 512]);
    disk
}

/// As most tests make them: nothing that a machine starts from, but nothing to worry about.
#[test]
fn ordinary_media_have_no_warnings() {
    if !ready(&[]) {
        return;
    }
    for (scheme, code) in
        [(Scheme::Dos, "mbr-boot-code-missing"), (Scheme::Gpt, "boot-partition-missing")]
    {
        let disk = Disk::new(Layout { scheme, ..Layout::default() });
        disk.fill();
        finds(&disk, &[("info", code), ("warning", "copy-missing")]);
        disk.snapshot();
        finds(&disk, &[("info", code)]);
        disk.dualroot(&["check"]).exits(0).prints("0 errors, 0 warnings, 1 info\n");
    }
}

// ---- an MBR ---------------------------------------------------------------------------------

/// On an MBR, with a copy; the third slice is nothing to the system.
fn two_roots_and_data() -> Disk {
    let disk = healthy(Layout { sizes_mb: vec![16, 16, 4], ..dos() });
    unmount(&disk.root().join("config"));
    disk.write("etc/fstab", format!("{} / ext4 rw 0 1\n", disk.node(1)));
    disk.snapshot();
    disk
}

/// Where something of the `n`th slice stands in the MBR.
fn entry(n: u64, at: u64) -> u64 {
    446 + (n - 1) * 16 + at
}

/// The step that moves the flag.
const SELECTS: &str = "let only the running slot start from";

#[test]
fn a_damaged_mbr() {
    if !ready(&[]) {
        return;
    }
    let disk = two_roots_and_data();
    finds(&disk, &[]);
    let good = peek(&disk, 0, 512);

    poke(&disk, 0, &[0; 512]);
    finds(&disk, &[("error", "table-missing"), ("error", "slots-not-found")]);
    refuses(&disk);
    poke(&disk, 0, &good);

    // The third slice begins in the second, and ends there.
    poke(&disk, entry(3, 8), &40_000_u32.to_le_bytes());
    finds(
        &disk,
        &[("error", "slice-overlap"), ("info", "misaligned-1m"), ("error", "slots-not-found")],
    );
    assert!(sfdisk_complains(&disk));
    refuses(&disk);
    poke(&disk, 0, &good);

    poke(&disk, entry(3, 12), &u32::MAX.to_le_bytes());
    finds(&disk, &[("error", "slice-beyond-medium"), ("error", "slots-not-found")]);
    assert!(sfdisk_complains(&disk));
    refuses(&disk);
    // Named by hand, it is refused all the same.
    let slots = format!("[root]\nslots = [\"{}\", \"{}\"]\n", disk.node(1), disk.node(2));
    let config = disk.write("etc/dualroot.conf", slots);
    finds(&disk, &[("error", "slice-beyond-medium")]);
    refuses(&disk);
    fs::remove_file(config).unwrap();
    poke(&disk, 0, &good);

    poke(&disk, entry(3, 0), &[0x41]);
    let all = findings(&disk);
    assert!(all.contains(&("error".to_owned(), "mbr-status-invalid".to_owned())), "{all:?}");
    refuses(&disk);
    poke(&disk, 0, &good);

    poke(&disk, entry(2, 0), &[0x80]);
    finds(&disk, &[("error", "active-several")]);
    refuses(&disk);
    poke(&disk, 0, &good);

    poke(&disk, entry(1, 0), &[0]);
    finds(&disk, &[("warning", "active-none")]);
    // What starts without a flag is not given one.
    let plan = disk.dualroot(&["snapshot", "-n"]).exits(0);
    assert!(!plan.stdout.contains(SELECTS), "{plan}");
    assert_eq!(disk.slot(1)["active"], true);
    poke(&disk, 0, &good);

    disk.activate(2);
    finds(&disk, &[("warning", "active-not-running")]);
    poke(&disk, 0, &good);

    // What the kernel has, and the disk has not, and the other way round.
    poke(&disk, entry(3, 0), &[0; 16]);
    finds(&disk, &[("error", "kernel-entry-extra")]);
    refuses(&disk);
    poke(&disk, 0, &good);
    poke(&disk, entry(3, 12), &4096_u32.to_le_bytes());
    finds(&disk, &[("error", "kernel-entry-differs")]);
    refuses(&disk);
    poke(&disk, 0, &good);
    tool("partx", &[&"-d", &"--nr", &"3", &disk.medium()]);
    finds(&disk, &[("warning", "kernel-entry-missing")]);
    disk.dualroot(&["snapshot", "-n"]).exits(0);
    tool("partx", &[&"-a", &"--nr", &"3", &disk.medium()]);
    finds(&disk, &[]);

    // As track-aligned cards are.
    let mut shifted = good.clone();
    shifted[446 + 32 + 8..][..4].copy_from_slice(&(33 * 2048_u32 + 63).to_le_bytes());
    shifted[446 + 32 + 12..][..4].copy_from_slice(&4096_u32.to_le_bytes());
    tool("partx", &[&"-d", &"--nr", &"3", &disk.medium()]);
    poke(&disk, 0, &shifted);
    tool("partx", &[&"-a", &"--nr", &"3", &disk.medium()]);
    finds(&disk, &[("info", "misaligned-4k")]);
}

/// Neither of the roots starts next.
#[test]
fn an_active_slice_that_is_no_root() {
    if !ready(&[]) {
        return;
    }
    let disk = two_roots_and_data();
    let good = peek(&disk, 0, 512);
    disk.activate(3);
    let stray = peek(&disk, 0, 512);
    finds(&disk, &[("error", "active-not-a-root")]);
    for n in [1, 2] {
        let slot = disk.slot(n);
        assert_eq!((&slot["active"], &slot["role"]), (&false.into(), &"backup".into()), "{slot}");
    }
    let report = disk.dualroot(&["partitions", "--json"]).exits(0).json();
    assert_eq!(
        (&report["active"], &report["backup"]),
        (&disk.node(1).into(), &disk.node(2).into())
    );
    disk.dualroot(&["snapshot", "-n"]).exits(0).prints(SELECTS);
    assert_eq!(peek(&disk, 0, 512), stray);
    disk.snapshot();
    assert_eq!(peek(&disk, 0, 512), good, "the running slot starts");
    finds(&disk, &[]);
    disk.activate(3);
    disk.dualroot(&["boot", "2"]).exits(0);
    assert_eq!([1, 2, 3].map(|n| peek(&disk, entry(n, 0), 1)[0]), [0, 0x80, 0]);
    disk.dualroot(&["boot", "1"]).exits(0);
    // What starts before a root has the flag by right: an EFI system partition, a FAT, /boot.
    disk.activate(3);
    poke(&disk, entry(3, 4), &[0x0c]);
    finds(&disk, &[]);
    let plan = disk.dualroot(&["snapshot", "-n"]).exits(0);
    assert!(!plan.stdout.contains(SELECTS), "{plan}");
    poke(&disk, 0, &stray);
    let fstab = disk.root().join("etc/fstab");
    let text = fs::read_to_string(&fstab).unwrap();
    fs::write(&fstab, format!("{text}{} /boot ext4 rw 0 2\n", disk.node(3))).unwrap();
    finds(&disk, &[]);
    fs::write(&fstab, text).unwrap();
    poke(&disk, 0, &good);
    finds(&disk, &[]);
}

#[test]
fn an_extended_slice() {
    if !ready(&[]) {
        return;
    }
    let types = [(3, "5")].into();
    let disk = Disk::bare(Layout { sizes_mb: vec![16, 16, 4], types, ..dos() });
    disk.format(1);
    disk.mount(&disk.part(1), disk.root(), false);
    fs::create_dir(disk.root().join("altroot")).unwrap();
    disk.write("etc/fstab", format!("{} / ext4 rw 0 1\n", disk.node(1)));
    disk.snapshot();
    make_bootable(&disk);
    poke(&disk, 33 * MIB + 510, &[0x55, 0xaa]);
    finds(&disk, &[]);
    poke(&disk, 33 * MIB + 510, &[0, 0]);
    finds(&disk, &[("warning", "ebr-damaged")]);
}

#[test]
fn a_medium_that_cannot_be_read() {
    if !ready(&["cc"]) {
        return;
    }
    let disk = healthy(dos());
    let path = format!("/{}", disk.name());
    for n in [0, 1] {
        let run = disk.with_fault(&["check"], ("read", &path, n), 5);
        let run = run.exits(3).prints("Input/output error").prints("(medium-unreadable)\n");
        assert!(run.stdout.contains(disk.medium().to_str().unwrap()), "{run}");
        let run = disk.with_fault(&["snapshot"], ("read", &path, n), 5);
        run.fails(6, "Input/output error");
    }
    assert_eq!(disk.state(), "valid");
    // It says the code by its name.
    assert!(CODES.contains(&"medium-unreadable"));
}

// ---- BSD labels -----------------------------------------------------------------------------

/// The first 8 KiB of a slice with boot code and a label: index, sectors, start, type.
fn label(partitions: &[(usize, u32, u32, u8)]) -> Vec<u8> {
    let mut head = vec![0x90; 8192];
    let label = &mut head[512..1024];
    label.fill(0);
    for (at, value) in [(0, 0x8256_4557_u32), (132, 0x8256_4557), (40, 512), (44, 63), (48, 255)] {
        label[at..at + 4].copy_from_slice(&value.to_le_bytes());
    }
    label[138] = 8;
    for &(index, count, start, kind) in partitions {
        let at = 148 + index * 16;
        label[at..at + 4].copy_from_slice(&count.to_le_bytes());
        label[at + 4..at + 8].copy_from_slice(&start.to_le_bytes());
        label[at + 12] = kind;
    }
    let words = label[..148 + 128].chunks_exact(2);
    let sum = words.fold(0, |sum, w| sum ^ u16::from_le_bytes([w[0], w[1]]));
    label[136..138].copy_from_slice(&sum.to_le_bytes());
    head
}

#[test]
fn damaged_labels() {
    if !ready(&[]) {
        return;
    }
    // Linux mounts nothing in such slices, so the roots lie elsewhere.
    let types = [(3, "a5"), (4, "a5")].into();
    let disk = Disk::new(Layout { sizes_mb: vec![16, 16, 4, 4], types, ..dos() });
    unmount(&disk.root().join("config"));
    disk.write("etc/fstab", format!("{} / ext4 rw 0 1\n", disk.node(1)));
    disk.snapshot();
    make_bootable(&disk);
    let c = (2, 8192, 0, 0);
    let good = label(&[(0, 8192, 0, 7), c]);
    let (third, fourth) = (33 * MIB, 37 * MIB);
    poke(&disk, third, &good);
    poke(&disk, fourth, &good);
    finds(&disk, &[]);
    let case = |head: &[u8], expected: &[(&str, &str)]| {
        poke(&disk, fourth, head);
        finds(&disk, expected);
        if expected.iter().any(|(severity, _)| *severity == "error") {
            refuses(&disk);
        }
        poke(&disk, fourth, &good);
    };
    let changed = |change: &dyn Fn(&mut Vec<u8>)| {
        let mut head = good.clone();
        change(&mut head);
        head
    };
    case(&changed(&|head| head[512 + 148] ^= 1), &[("error", "label-checksum")]);
    case(&changed(&|head| head[512 + 44] = 0), &[("error", "label-invalid")]);
    let moved = changed(&|head| {
        head.copy_within(512..1024, 528);
        head[512..528].fill(0);
    });
    case(&moved, &[("error", "label-misplaced")]);
    // What lies behind the boot area is a file system's, which it has none of here.
    poke(&disk, fourth, &vec![0; 128 << 10]);
    case(&[0; 8192], &[("warning", "label-missing")]);
    case(&label(&[(0, 4096, 0, 7), (3, 4096, 4000, 7), c]), &[("error", "partition-overlap")]);
    case(&label(&[(0, 9000, 0, 7), c]), &[("error", "partition-beyond-slice")]);
    let start = u32::try_from(fourth / 512).unwrap();
    let absolute = [(0, 8192, start, 7), (2, 8192, start, 0)];
    case(&label(&absolute), &[("info", "label-absolute")]);
    let before = [absolute[0], absolute[1], (3, 8, 8, 7)];
    let expected = [("info", "label-absolute"), ("warning", "partition-before-slice")];
    case(&label(&before), &expected);
    case(&label(&[(0, 8192, 63, 7), (2, 8192, 63, 0)]), &[("warning", "label-displaced")]);
    case(&label(&[(0, 8192, 0, 7), (2, 8193, 0, 0)]), &[("warning", "label-raw-size")]);
    let expected = [("warning", "slice-boot-code-missing")];
    case(&changed(&|head| head[..512].fill(0)), &expected);
    case(&changed(&|head| head[1024..].fill(0)), &expected);
    finds(&disk, &[]);
    poke(&disk, 0, &[0; 440]);
    finds(&disk, &[("warning", "mbr-boot-code-missing")]);
}

// ---- a GPT ----------------------------------------------------------------------------------

#[test]
fn a_damaged_gpt() {
    if !ready(&["sgdisk"]) {
        return;
    }
    for sector in [512, 4096] {
        let disk = bootable_gpt(sector);
        let last = size(&disk) - sector;
        let array = if sector == 512 { 32 * sector } else { 4 * sector };
        let ends = [(0, 2 * sector + array), (last - array, array + sector)]
            .map(|(at, length)| (at, peek(&disk, at, usize::try_from(length).unwrap())));
        let restore = |disk: &Disk| {
            for (at, bytes) in &ends {
                poke(disk, *at, bytes);
            }
            finds(disk, &[]);
        };
        let zeros = vec![0; usize::try_from(sector).unwrap()];
        // Zeroed, and a changed byte, in header and entries of either copy.
        for at in [sector + 20, 2 * sector] {
            flip(&disk, at);
            finds(&disk, &[("error", "gpt-primary-damaged")]);
            assert!(sgdisk_complains(&disk));
            refuses(&disk);
            restore(&disk);
        }
        poke(&disk, sector, &zeros);
        finds(&disk, &[("error", "gpt-primary-damaged")]);
        refuses(&disk);
        restore(&disk);
        for at in [last + 20, last - array] {
            flip(&disk, at);
            finds(&disk, &[("warning", "gpt-backup-damaged")]);
            assert!(sgdisk_complains(&disk));
            restore(&disk);
        }
        poke(&disk, last, &zeros);
        finds(&disk, &[("warning", "gpt-backup-damaged")]);
        // It is no reason to go without a copy.
        disk.snapshot();
        restore(&disk);

        flip(&disk, sector);
        flip(&disk, last);
        finds(&disk, &[("error", "gpt-lost"), ("error", "slots-not-found")]);
        refuses(&disk);
        restore(&disk);

        poke(&disk, 0, &zeros);
        finds(&disk, &[("error", "gpt-protective-missing"), ("warning", "pmbr-boot-code-missing")]);
        refuses(&disk);
        restore(&disk);
        poke(&disk, 0, &[0; 440]);
        finds(&disk, &[("warning", "pmbr-boot-code-missing")]);
        restore(&disk);
        // An ext4 was there before.
        poke(&disk, 33 * MIB, &[0; 8192]);
        finds(&disk, &[("warning", "freebsd-boot-empty")]);
    }
}

/// What the hint says repairs it.
#[test]
fn the_remedy_for_a_gpt_is_one() {
    if !ready(&["sgdisk"]) {
        return;
    }
    let disk = bootable_gpt(512);
    let repaired = |disk: &Disk, code: &str| {
        let found = findings(disk);
        assert!(found.iter().any(|(_, c)| c == code), "{found:?}");
        // It says nothing of code; the kernel need not be told.
        try_tool("sgdisk", &[&"-e", &disk.medium()]);
        finds(disk, &[]);
    };
    poke(&disk, 512, &[0; 512]);
    repaired(&disk, "gpt-primary-damaged");
    poke(&disk, size(&disk) - 512, &[0; 512]);
    repaired(&disk, "gpt-backup-damaged");
    // The medium grows.
    let image = OpenOptions::new().write(true).open(disk.image()).unwrap();
    image.set_len(size(&disk) + MIB).unwrap();
    tool("losetup", &[&"-c", &disk.medium()]);
    finds(&disk, &[("info", "gpt-protective-size"), ("warning", "gpt-backup-misplaced")]);
    repaired(&disk, "gpt-backup-misplaced");
}

/// Recomputes the checksums of both copies after a change of their entries, or of one only.
pub fn reseal(disk: &Disk, both: bool, change: &dyn Fn(&mut [u8])) {
    let last = size(disk) - 512;
    let copies = [(512, 1024), (last, last - 32 * 512)];
    for (header, array) in copies.into_iter().take(if both { 2 } else { 1 }) {
        let mut entries = peek(disk, array, 128 * 128);
        change(&mut entries);
        poke(disk, array, &entries);
        let mut head = peek(disk, header, 512);
        head[88..92].copy_from_slice(&crc32fast::hash(&entries).to_le_bytes());
        head[16..20].fill(0);
        let sum = crc32fast::hash(&head[..92]);
        head[16..20].copy_from_slice(&sum.to_le_bytes());
        poke(disk, header, &head);
    }
}

#[test]
fn a_gpt_that_says_what_cannot_be() {
    if !ready(&["sgdisk"]) {
        return;
    }
    let disk = bootable_gpt(512);
    let last = size(&disk) - 33 * 512;
    let ends = [0, last].map(|at| (at, peek(&disk, at, 33 * 512)));
    let restore = || ends.iter().for_each(|(at, bytes)| poke(&disk, *at, bytes));
    let third = 2 * 128;
    reseal(&disk, true, &|e| e[third + 32..third + 36].copy_from_slice(&[0, 9, 0, 0]));
    finds(&disk, &[("error", "slice-overlap"), ("error", "slots-not-found")]);
    assert!(sgdisk_complains(&disk));
    refuses(&disk);
    restore();
    reseal(&disk, true, &|e| e[third + 43] = 1);
    finds(&disk, &[("error", "slice-beyond-medium"), ("error", "slots-not-found")]);
    assert!(sgdisk_complains(&disk));
    refuses(&disk);
    restore();
    reseal(&disk, false, &|e| e[third + 56] = b'x');
    finds(&disk, &[("error", "gpt-copies-differ")]);
    assert!(sgdisk_complains(&disk));
    refuses(&disk);
    restore();
    reseal(&disk, true, &|e| e[128 + 48 + 7] = 2);
    finds(&disk, &[("warning", "boot-failed")]);
    restore();
    // Slice 3 becomes an EFI system partition, with nothing on it.
    let efi = [0x28, 0x73, 0x2a, 0xc1, 0x1f, 0xf8, 0xd2, 0x11];
    let efi: Vec<u8> =
        efi.into_iter().chain([0xba, 0x4b, 0, 0xa0, 0xc9, 0x3e, 0xc9, 0x3b]).collect();
    reseal(&disk, true, &|e| e[third..third + 16].copy_from_slice(&efi));
    poke(&disk, 33 * MIB, &[0; 512]);
    finds(&disk, &[("warning", "esp-empty")]);
    restore();
    // Something else: nothing is left to start from, though there is code that would.
    reseal(&disk, true, &|e| e.copy_within(..16, third));
    finds(&disk, &[("warning", "boot-partition-missing")]);
    restore();
    // An MBR in front of it.
    let mut mbr = peek(&disk, 0, 512);
    mbr[446..510].fill(0);
    for (n, mb) in [(0, 1_u32), (1, 17), (2, 33)] {
        let entry = &mut mbr[446 + n * 16..][..16];
        entry[0] = if n == 0 { 0x80 } else { 0 };
        entry[4] = 0x83;
        entry[8..12].copy_from_slice(&(mb * 2048).to_le_bytes());
        let size = if n == 2 { 8 } else { 16 };
        entry[12..16].copy_from_slice(&(size * 2048_u32).to_le_bytes());
    }
    poke(&disk, 0, &mbr);
    finds(&disk, &[("warning", "gpt-beside-mbr")]);
}

// ---- slots ----------------------------------------------------------------------------------

#[test]
fn slots_of_different_size() {
    if !ready(&[]) {
        return;
    }
    let disk = healthy(Layout::roots(24, 16));
    finds(&disk, &[("warning", "slots-differ-in-size")]);
    let disk = healthy(Layout::roots(16, 24));
    finds(&disk, &[("info", "slots-differ-in-size")]);
}

#[test]
fn no_second_slot() {
    if !ready(&[]) {
        return;
    }
    let disk = healthy(dos());
    let options = ["-q", "--no-reread", "--no-tell-kernel", "--part-type"];
    let mut sfdisk = program("sfdisk");
    Run::of(sfdisk.args(options).arg(disk.medium()).args(["2", "82"])).exits(0);
    finds(&disk, &[("error", "slots-not-found")]);
    // A medium that fstab names and whose table is gone.
    let other = Disk::bare(dos());
    let fstab =
        format!("{} / ext4 rw 0 1\n{} /altroot ext4 noauto 0 0\n", disk.node(1), other.node(1));
    disk.write("etc/fstab", fstab);
    poke(&other, 450, &[0xee]);
    for n in ["1", "2"] {
        tool("partx", &[&"-d", &"--nr", &n, &other.medium()]);
    }
    let lost =
        [("info", "gpt-protective-size"), ("error", "gpt-lost"), ("error", "slots-not-found")];
    finds(&disk, &lost);
}

#[test]
fn mounts_that_nobody_owns() {
    if !ready(&["cc"]) {
        return;
    }
    let mut disk = healthy(dos());
    // A reader at work is none.
    let halted = disk.halt(&["show"], ("umount", ".show", 0));
    disk.lenient();
    let run = disk.dualroot(&["check"]);
    assert!(run.exits(0).stdout.ends_with("no findings\n"));
    halted.go().wait_soon().exits(0);
    let mounted = disk.mount_alternate(true);
    let text = disk.dualroot(&["check"]).exits(3);
    text.prints(&format!("warning: {}: ", mounted.path().display())).prints("(stale-mount)\n");
    drop(mounted);
    // Something else where the copy is to be mounted.
    let other = Disk::bare(Layout { sizes_mb: vec![4], ..Layout::default() });
    other.format(1);
    other.mount(&other.part(1), &disk.root().join("altroot"), true);
    finds(&disk, &[("warning", "stale-mount")]);
    unmount(&disk.root().join("altroot"));
    finds(&disk, &[]);
}

/// A change of the copy, and what is found of it.
#[track_caller]
fn in_the_copy(disk: &Disk, change: impl Fn(&Path), expected: &[(&str, &str)]) {
    let mounted = disk.mount_alternate(false);
    change(mounted.path());
    drop(mounted);
    finds(disk, expected);
}

#[test]
fn a_copy_that_is_none() {
    if !ready(&["cc"]) {
        return;
    }
    let disk = healthy(dos());
    let record = |root: &Path| root.join(".dualroot/record.json");
    let edit = |root: &Path, from: &str, to: &str| {
        let text = fs::read_to_string(record(root)).unwrap();
        assert!(text.contains(from), "{text}");
        fs::write(record(root), text.replace(from, to)).unwrap();
    };
    let newer = |root: &Path| edit(root, "\"schema\": 1", "\"schema\": 2");
    in_the_copy(&disk, newer, &[("warning", "copy-unknown")]);
    in_the_copy(&disk, |r| fs::remove_file(record(r)).unwrap(), &[("warning", "copy-invalid")]);
    disk.dualroot(&["check"]).prints("make one: dualroot snapshot");
    // What nobody copied is not given up by the way.
    let own = |root: &Path| root.join(".dualroot");
    in_the_copy(&disk, |r| fs::remove_dir_all(own(r)).unwrap(), &[("warning", "copy-invalid")]);
    disk.dualroot(&["check"]).prints("dualroot boot 2 tells how to start what is there");
    disk.snapshot();
    finds(&disk, &[]);
    // What was made years ago.
    let old = |root: &Path| {
        let text = fs::read_to_string(record(root)).unwrap();
        let line = text.lines().find(|l| l.contains("\"created\"")).unwrap().to_owned();
        edit(root, &line, "  \"created\": \"2017-03-01T00:00:00Z\",");
    };
    in_the_copy(&disk, old, &[("warning", "copy-old")]);
    disk.snapshot();

    let halted = disk.halt(&["snapshot", "--fresh"], ("create", "20.txt", 0));
    let run = disk.dualroot(&["check", "--json"]).exits(0).json();
    assert_eq!(run["findings"][0]["code"], "copy-writing", "{run}");
    assert_eq!(run["findings"].as_array().unwrap().len(), 1, "{run}");
    halted.running.signal(Signal::SIGTERM);
    halted.go().wait_soon().exits(143);
    finds(&disk, &[("warning", "copy-invalid")]);
    disk.snapshot();
    disk.write_junos_packages(&["jbase-ex-12.3R12-S15"]);
    finds(&disk, &[("warning", "version-drift")]);
    disk.dualroot(&["check"]).prints("jbase ex-12.3R12-S15, in the copy none");

    // A copy of which only the configuration was made by hand was not installed.
    let disk = healthy(Layout::default());
    fs::remove_dir_all(disk.mount_slice(4, false).path().join(".dualroot")).unwrap();
    finds(&disk, &[("warning", "copy-invalid")]);
    disk.dualroot(&["check"]).prints("make one: dualroot snapshot");
}

#[test]
fn what_the_copy_calls_itself() {
    if !ready(&[]) {
        return;
    }
    let disk = healthy(dos());
    let fstab = |spec: &str| {
        let text = format!("{spec} / ext4 rw 0 1\n");
        move |root: &Path| fs::write(root.join("etc/fstab"), &text).unwrap()
    };
    in_the_copy(&disk, fstab(&disk.node(1)), &[("error", "copy-names-another")]);
    in_the_copy(&disk, fstab("LABEL=nobody-has-this"), &[("warning", "copy-names-nobody")]);
    let torn = |root: &Path| fs::write(root.join("etc/fstab"), "/dev/da0s2a /\n").unwrap();
    in_the_copy(&disk, torn, &[("warning", "copy-fstab-invalid")]);
    in_the_copy(&disk, fstab(&disk.node(2)), &[]);
    let loader = |node: String| {
        move |root: &Path| {
            let line = format!("vfs.root.mountfrom=\"ext4:{node}\"\n");
            fs::create_dir_all(root.join("boot/loader.conf.d")).unwrap();
            fs::write(root.join("boot/loader.conf.d/root.conf"), line).unwrap();
        }
    };
    in_the_copy(&disk, loader(disk.node(1)), &[("error", "copy-names-another")]);
    in_the_copy(&disk, loader(disk.node(2)), &[]);
    // None of that keeps the copy from being made anew.
    in_the_copy(&disk, fstab(&disk.node(1)), &[("error", "copy-names-another")]);
    disk.snapshot();
    finds(&disk, &[]);
    // The running slot's own.
    disk.write("etc/fstab", format!("{} / ext4 rw 0 1\n", disk.node(2)));
    let found = findings(&disk);
    assert_eq!(found[0], ("error".to_owned(), "fstab-root-differs".to_owned()), "{found:?}");
}

/// What nobody could have read is told, and the rest is looked at all the same.
#[test]
fn a_torn_fstab() {
    if !ready(&[]) {
        return;
    }
    let disk = healthy(dos());
    let wrong = format!("{} /\n{} / ext4 rw 0 1\nthree of four\n", disk.node(1), disk.node(1));
    let path = disk.write("etc/fstab", wrong);
    let invalid = ("error", "fstab-invalid");
    finds(&disk, &[invalid, invalid]);
    let run = disk.dualroot(&["check"]).exits(3);
    run.prints(&format!("error: {}: line 1: 2 fields where", path.display())).prints("line 3: 3 ");
    // Whoever writes, and whoever tells which the slots are, does not go by it.
    for verb in ["snapshot", "show"] {
        disk.dualroot(&[verb]).fails(6, "line 1: 2 fields where fstab(5) needs 4");
    }
    disk.write("etc/dualroot.conf", "rot = 1\n");
    disk.dualroot(&["check"]).fails(2, "line 1: unknown field `rot`");
}

/// The kernel was told one root and has another: in a mount namespace where its parameters say so.
#[test]
fn a_half_boot() {
    if !ready(&["unshare", "chroot"]) {
        return;
    }
    let disk = healthy(dos());
    let cmdline = disk.tmp().join("cmdline");
    let root = disk.root().display().to_string();
    for dir in ["proc", "sys", "dev", "run", "usr", "lib", "lib64", "bin", "program"] {
        fs::create_dir_all(disk.root().join(dir)).unwrap();
    }
    fs::write(disk.root().join("program/dualroot"), "").unwrap();
    // All that the program needs, bound there; what is not on this machine is left out.
    let script = format!(
        "for d in proc sys dev run usr lib lib64 bin; do
           [ ! -d /$d ] || mount --rbind /$d {root}/$d; done
         mount --bind {} {root}/program/dualroot
         mount --bind {} {root}/proc/cmdline
         exec chroot {root} /program/dualroot check --json",
        env!("CARGO_BIN_EXE_dualroot"),
        cmdline.display(),
    );
    let check = |parameters: String| {
        fs::write(&cmdline, parameters).unwrap();
        let run = Run::of(program("unshare").args([
            "-m",
            "--propagation",
            "private",
            "sh",
            "-c",
            &script,
        ]));
        let report = run.json();
        let found = report["findings"].as_array().unwrap().iter();
        let halves = found.filter(|f| f["code"] == "half-boot").count();
        assert_eq!(run.code, if halves == 0 { run.code } else { 3 }, "{run}");
        assert!(
            report["findings"].as_array().unwrap().iter().all(|f| f["code"] != "slots-not-found"),
            "{run}"
        );
        halves
    };
    assert_eq!(check(format!("quiet root={} ro\n", disk.node(1))), 0);
    assert_eq!(check(format!("quiet root={} ro\n", disk.node(2))), 1);
    assert_eq!(check("quiet ro\n".to_owned()), 0);
}

// ---- how it is run --------------------------------------------------------------------------

/// It neither waits for a run nor disturbs it.
#[test]
fn a_run_is_at_work() {
    if !ready(&["cc"]) {
        return;
    }
    let disk = healthy(dos());
    let halted = disk.halt(&["snapshot", "--fresh"], ("create", "20.txt", 0));
    let begun = std::time::Instant::now();
    disk.dualroot(&["check"]).exits(0).prints("(copy-writing)");
    assert!(begun.elapsed().as_secs() < 4, "it waited");
    halted.go().wait_soon().exits(0);
    finds(&disk, &[]);
}

/// What the journal says, against the flags and the slot that runs.
#[test]
fn what_the_journal_says_is_compared() {
    if !ready(&[]) {
        return;
    }
    let disk = healthy(dos());
    let place = |slot: usize| serde_json::json!({"slot": slot, "device": disk.node(slot)});
    let trial = |slot: usize, from: usize| {
        let armed = "2026-11-25T20:00:02Z";
        serde_json::json!({"trial": {"slot": place(slot), "from": place(from), "armed": armed}})
    };
    let repair = |state: &str| {
        let auto = serde_json::json!({"state": state, "why": "w", "when": "2026-11-25T20:00:02Z"});
        serde_json::json!({"intended": place(2), "auto_snapshot": auto})
    };
    let operation = serde_json::json!({"operation": {
        "verb": "snapshot", "pid": 1, "begun": "2026-11-25T20:00:02Z", "target": disk.node(2),
    }});
    for (journal, severity, code) in [
        (serde_json::json!({"intended": place(2)}), "warning", "intended-not-next"),
        // The running slot bears a flag: it was confirmed.
        (trial(1, 2), "", ""),
        (trial(2, 1), "warning", "trial-over"),
        (operation, "warning", "run-interrupted"),
        (serde_json::json!({"mood": 1}), "error", "journal-unreadable"),
        (serde_json::json!({"schema": 2}), "error", "journal-unreadable"),
        (serde_json::json!({"sequence": u64::MAX}), "warning", "journal-unreadable"),
        (repair("Failed"), "warning", "repair-unfinished"),
        (repair("In progress"), "warning", "repair-unfinished"),
        (repair("Completed"), "warning", "intended-not-next"),
        (serde_json::json!({"intended": place(1)}), "", ""),
    ] {
        let mut whole = serde_json::json!({
            "schema": 1, "sequence": 9, "tool": "a test", "written": "2026-11-25T20:00:03Z",
        });
        whole.as_object_mut().unwrap().extend(journal.as_object().unwrap().clone());
        disk.write("var/db/dualroot/journal.json", whole.to_string());
        let expected: &[_] = if code.is_empty() { &[] } else { &[(severity, code)] };
        finds(&disk, expected);
    }
    // Of a version that this program does not know nothing is written anew.
    disk.write("var/db/dualroot/journal.json", "{\"schema\": 2}");
    disk.dualroot(&["check"]).prints("hint: use the program that wrote it, or remove it\n");
    disk.write("var/db/dualroot/journal.json", "{");
    disk.dualroot(&["check"]).prints("hint: the next run writes it anew\n");
    fs::remove_file(disk.root().join("var/db/dualroot/journal.json")).unwrap();
    // What a loader of FreeBSD would do once.
    let root = |n: usize| format!("vfs.root.mountfrom=\"ufs:{}\"\n", disk.node(n));
    let mark = format!("dualroot.trial=\"1:{},2:{},1764115200\"\n", disk.node(1), disk.node(2));
    let [yes, no] = ["nextboot_enable=\"YES\"\n", "nextboot_enable=\"NO\" \n"];
    let stays = ("warning", "active-not-running");
    for (text, expected) in [
        (format!("{yes}{}", root(2)), &[stays, ("warning", "nextboot-foreign")][..]),
        (format!("{yes}{}{mark}", root(2)), &[stays, ("warning", "nextboot-stale")]),
        (format!("{no}{}{mark}", root(2)), &[("info", "nextboot-stale")]),
        (format!("{no}{}", root(2)), &[]),
        (format!("{yes}{}kernel=\"test\"\n", root(1)), &[]),
    ] {
        disk.write("boot/nextboot.conf", text);
        finds(&disk, expected);
    }
    // Ours can be given up, those of others stay.
    disk.write("boot/nextboot.conf", format!("{yes}{}{mark}", root(2)));
    disk.dualroot(&["reject"]).exits(0).prints("Next start: slot 1");
    assert!(!disk.root().join("boot/nextboot.conf").exists());
    disk.dualroot(&["boot", "2", "--once"]).fails(6, "no loader(8) that reads such a file");
    // The code of boot0 tells what starts, whatever is active.
    let good = peek(&disk, 0, 512);
    poke(&disk, 0, &[0xfc, 0x31, 0xc0, 0x8e, 0xc0, 0x8e, 0xd8, 0x8e, 0xd0, 0xbc, 0x00, 0x7c]);
    poke(&disk, 0x1b2, b"Drive \0\x01");
    finds(&disk, &[("warning", "active-not-running"), ("warning", "boot0-differs")]);
    poke(&disk, 0, &good);
    // A trial that waits.
    let types = [1, 2].map(|n| (n, "516E7CB6-6ECF-11D6-8FF8-00022D09712B")).into();
    let disk = healthy(Layout { types, ..gpt() });
    tool("sfdisk", &[&"--no-reread", &"--part-attrs", &disk.medium(), &"2", &"GUID:58,59"]);
    let place = |slot: usize| serde_json::json!({"slot": slot, "device": disk.node(slot)});
    let armed = "2026-11-25T20:00:02Z";
    let journal = serde_json::json!({
        "schema": 1, "sequence": 9, "tool": "a test", "written": armed,
        "trial": {"slot": place(2), "from": place(1), "armed": armed},
    });
    disk.write("var/db/dualroot/journal.json", journal.to_string());
    let found = findings(&disk);
    assert!(found.contains(&("info".to_owned(), "trial-armed".to_owned())), "{found:?}");
    // One that runs, as gptboot(8) leaves the flags.
    for (index, attributes) in [("1", "GUID:58"), ("2", "GUID:59")] {
        tool("sfdisk", &[&"--no-reread", &"--part-attrs", &disk.medium(), &index, &attributes]);
    }
    let trial = serde_json::json!({"slot": place(1), "from": place(2), "armed": armed});
    let journal = serde_json::json!({
        "schema": 1, "sequence": 10, "tool": "a test", "written": armed, "trial": trial,
    });
    disk.write("var/db/dualroot/journal.json", journal.to_string());
    let found = findings(&disk);
    let expected = ("warning".to_owned(), "trial-unconfirmed".to_owned());
    assert!(found.contains(&expected), "{found:?}");
}
