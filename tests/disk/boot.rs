//! Which slot starts: flags of MBR and GPT on loop devices, with sfdisk(8) as the one who reads them
//! after us.

use std::fs;
use std::io::{Cursor, Write};
use std::os::unix::fs::{FileExt, PermissionsExt};

use fatfs::{FatType, FileSystem, FormatVolumeOptions, FsOptions};

use crate::check::reseal;
use crate::harness::{Disk, Layout, Scheme, ready, tool};

const TOOLS: &[&str] = &["sgdisk"];
/// freebsd-boot and freebsd-ufs.
const BOOT: &str = "83BD6B9D-7F41-11DC-BE0B-001560B84F0F";
const UFS: &str = "516E7CB6-6ECF-11D6-8FF8-00022D09712B";
const EFI: &str = "C12A7328-F81F-11D2-BA4B-00A0C93EC93B";

/// A disk whose second slot has a copy.
fn disk(scheme: Scheme) -> Disk {
    disk_with(scheme, BOOT)
}

/// The same; on a GPT this kind of a partition holds what starts it.
fn disk_with(scheme: Scheme, kind: &'static str) -> Disk {
    let mut layout = Layout { scheme, ..Layout::default() };
    if scheme == Scheme::Gpt {
        // Slots by their type.
        let last = layout.sizes_mb.len() + 1;
        layout.sizes_mb.push(4);
        layout.types = [(1, UFS), (2, UFS), (last, kind)].into();
    }
    let disk = Disk::new(layout);
    disk.fill();
    if scheme == Scheme::Gpt && kind == BOOT {
        gptboot(&disk, b"no UFS partition was found");
    }
    disk.dualroot(&["snapshot"]).exits(0);
    disk
}

/// Puts words into the boot partition.
fn gptboot(disk: &Disk, words: &[u8]) {
    let medium = fs::OpenOptions::new().write(true).open(disk.medium()).unwrap();
    let last = Layout::default().sizes_mb.len() + 1;
    medium.write_all_at(words, disk.extent(last).0 + 700).unwrap();
    medium.sync_all().unwrap();
}

/// sfdisk's lines for the partitions.
fn dump(disk: &Disk) -> Vec<String> {
    let text = String::from_utf8(tool("sfdisk", &[&"--dump", &disk.medium()])).unwrap();
    text.lines().filter(|line| line.contains("start=")).map(str::to_owned).collect()
}

/// The attributes of both slots, as sfdisk names the bits: 59 is bootme, 58 bootonce.
fn attributes(disk: &Disk) -> [String; 2] {
    let lines = dump(disk);
    [0, 1].map(|n| {
        let attributes = lines[n].split("attrs=\"").nth(1).unwrap_or_default();
        attributes.trim_end_matches('"').to_owned()
    })
}

fn next(disk: &Disk) -> Vec<(u64, bool)> {
    let report = disk.dualroot(&["show", "--json"]).exits(0).json();
    let next = report["next"].as_array().unwrap().iter();
    next.map(|n| (n["slot"].as_u64().unwrap(), n["once"].as_bool().unwrap())).collect()
}

/// Between the two copies of a GPT: neither is damaged, and both say where the partitions are.
#[test]
fn a_snapshot_ends_a_change_of_flags_that_was_cut_off() {
    if !ready(TOOLS) {
        return;
    }
    let disk = disk(Scheme::Gpt);
    disk.dualroot(&["boot", "1"]).exits(0);
    let before = attributes(&disk);
    let boot_me = |entries: &mut [u8]| entries[128 + 48 + 7] ^= 0x08;
    // The first copy without its header, which comes last.
    let mut entries = vec![0; 512];
    let medium = fs::File::options().read(true).write(true).open(disk.medium()).unwrap();
    medium.read_exact_at(&mut entries, 1024).unwrap();
    boot_me(&mut entries);
    medium.write_all_at(&entries, 1024).unwrap();
    medium.sync_all().unwrap();
    disk.dualroot(&["check"]).exits(3).prints("(gpt-primary-damaged)");
    disk.dualroot(&["snapshot", "-n"]).exits(0).prints("let only the running slot start");
    disk.dualroot(&["snapshot"]).exits(0);
    let run = disk.dualroot(&["check"]);
    assert!(!run.stdout.contains("gpt-primary-damaged"), "{run}");
    assert_eq!(attributes(&disk), before);
    // The copy that is of before, or of after: of the second slot.
    for both in [false, true] {
        if both {
            reseal(&disk, true, &boot_me);
        }
        reseal(&disk, false, &boot_me);
        disk.dualroot(&["check"]).exits(3).prints("(gpt-copies-differ)");
        disk.dualroot(&["snapshot", "-n"]).exits(0).prints("let only the running slot start");
        disk.dualroot(&["snapshot"]).exits(0);
        let run = disk.dualroot(&["check"]);
        assert!(!run.stdout.contains("gpt-copies-differ"), "{run}");
        let text = String::from_utf8(tool("sgdisk", &[&"-v", &disk.medium()])).unwrap();
        assert!(text.contains("No problems found"), "{text}");
        assert_eq!(attributes(&disk), before);
    }
}

#[test]
fn the_active_flag_moves_and_nothing_else() {
    if !ready(TOOLS) {
        return;
    }
    let disk = disk(Scheme::Dos);
    let before = dump(&disk);
    let sector = fs::read(disk.image()).unwrap()[..446].to_vec();
    assert_eq!(next(&disk), [(1, false)]);
    disk.dualroot(&["boot", "2"]).exits(0).prints("Next start: slot 2");
    let after = dump(&disk);
    assert!(after[1].contains("bootable") && !after[0].contains("bootable"), "{after:?}");
    let bare =
        |lines: &[String]| lines.iter().map(|l| l.replace(", bootable", "")).collect::<Vec<_>>();
    assert_eq!(bare(&before), bare(&after));
    tool("sync", &[]);
    assert_eq!(fs::read(disk.image()).unwrap()[..446], sector, "the boot code");
    disk.dualroot(&["snapshot"]).fails(6, "boot flags").says("hint: make the running slot active");
    disk.dualroot(&["boot", "2", "--once"]).fails(6, "no flag for one start only");
    disk.dualroot(&["boot", "1"]).exits(0);
    assert_eq!(dump(&disk), before);
    let log = disk.dualroot(&["log", "--json"]).exits(0).json();
    let verbs: Vec<_> =
        log["entries"].as_array().unwrap().iter().map(|e| e["verb"].clone()).collect();
    assert_eq!(verbs, ["snapshot", "boot", "boot"]);
    disk.dualroot(&["log"]).exits(0).prints("boot");
}

#[test]
fn a_trial_on_a_gpt_is_armed_and_given_up() {
    if !ready(TOOLS) {
        return;
    }
    let disk = disk(Scheme::Gpt);
    // The copy is there to fall back on.
    assert_eq!(attributes(&disk), ["GUID:59", "GUID:59"]);
    assert_eq!(next(&disk), [(1, false), (2, false)]);
    disk.dualroot(&["boot", "alternate", "--once"]).exits(0).prints("once; then slot 1");
    assert_eq!(attributes(&disk), ["GUID:59", "GUID:58,59"]);
    disk.dualroot(&["show"]).exits(0).prints("Trial: slot 2 from slot 1");
    disk.dualroot(&["snapshot"]).fails(6, "boot flags");
    disk.dualroot(&["confirm"]).fails(6, "waits for the next start");
    disk.dualroot(&["reject"]).exits(0);
    assert_eq!(attributes(&disk), ["GUID:59", "GUID:59"]);
    disk.dualroot(&["reject"]).fails(6, "no trial");
    disk.dualroot(&["boot", "2"]).exits(0);
    assert_eq!(attributes(&disk), ["", "GUID:59"], "slot 1 would come first");
    disk.dualroot(&["boot", "1"]).exits(0);
    let check = tool("sgdisk", &[&"-v", &disk.medium()]);
    assert!(String::from_utf8_lossy(&check).contains("No problems found"));
    // Nobody is known who would end a trial.
    gptboot(&disk, &[0; 40]);
    disk.dualroot(&["boot", "2", "--once"]).fails(6, "not gptboot");
}

/// Of an EFI system partition the files count, and not what is left of others in its blocks.
#[test]
fn gptboot_efi_is_told_from_loader_efi() {
    if !ready(TOOLS) {
        return;
    }
    let disk = disk_with(Scheme::Gpt, EFI);
    let (start, size) = disk.extent(Layout::default().sizes_mb.len() + 1);
    let medium = fs::OpenOptions::new().read(true).write(true).open(disk.medium()).unwrap();
    let change = |change: &dyn Fn(Cursor<&mut Vec<u8>>)| {
        let mut part = vec![0; usize::try_from(size).unwrap()];
        medium.read_exact_at(&mut part, start).unwrap();
        change(Cursor::new(&mut part));
        medium.write_all_at(&part, start).unwrap();
        medium.sync_all().unwrap();
    };
    let refused = |args: &[&str], words: &str| {
        let before = dump(&disk);
        disk.dualroot(args).fails(6, words).says("hint: ");
        assert_eq!(dump(&disk), before);
    };
    refused(&["boot", "2"], "no gptboot.efi");
    // FAT32 with few clusters, as mkfs.fat(8) makes it where it is told to: firmware goes by its fields.
    change(&|part| {
        let mut large = vec![0; 40 << 20];
        let options = FormatVolumeOptions::new().fat_type(FatType::Fat32).bytes_per_cluster(512);
        fatfs::format_volume(Cursor::new(&mut large), options).unwrap();
        large.truncate(part.get_ref().len());
        let sectors = u32::try_from(large.len() / 512).unwrap();
        large[32..36].copy_from_slice(&sectors.to_le_bytes());
        part.into_inner().copy_from_slice(&large);
    });
    let unread = "the EFI system partition cannot be read: ";
    refused(&["boot", "2", "--once"], unread);
    disk.dualroot(&["boot", "2"]).exits(0).says(unread);
    disk.dualroot(&["boot", "1"]).exits(0).says(unread);
    change(&|part| fatfs::format_volume(part, FormatVolumeOptions::new()).unwrap());
    let write = |path: &str, words: &str| {
        change(&|part| {
            let system = FileSystem::new(part, FsOptions::new()).unwrap();
            let dir = system.root_dir().create_dir("EFI").unwrap();
            let (vendor, name) = path.split_once('/').unwrap();
            let mut file = dir.create_dir(vendor).unwrap().create_file(name).unwrap();
            file.write_all(words.as_bytes()).unwrap();
            file.truncate().unwrap();
        });
    };
    let (gptboot, loader) = ("no UFS partition was found", "EFI loader, Revision 1.1");
    write("BOOT/BOOTX64.EFI", loader);
    refused(&["boot", "2"], "no gptboot.efi");
    write("BOOT/BOOTX64.EFI", &gptboot.repeat(400));
    disk.dualroot(&["boot", "2", "--once"]).exits(0).prints("once; then slot 1");
    disk.dualroot(&["reject"]).exits(0);
    write("FREEBSD/LOADER.EFI", loader);
    refused(&["boot", "2", "--once"], "may start EFI/BOOT/BOOTX64.EFI");
    disk.dualroot(&["boot", "2"]).exits(0).says("or EFI/FREEBSD/LOADER.EFI, which is not");
    write("BOOT/BOOTX64.EFI", loader);
    let image = fs::read(disk.image()).unwrap();
    assert!(image.windows(gptboot.len()).any(|bytes| bytes == gptboot.as_bytes()));
    refused(&["boot", "1"], "no gptboot.efi");
}

#[test]
fn flags_that_nobody_obeys_are_not_written() {
    if !ready(TOOLS) {
        return;
    }
    let mut layout = Layout { scheme: Scheme::Gpt, ..Layout::default() };
    layout.sizes_mb.push(1);
    layout.types = [(layout.sizes_mb.len(), BOOT)].into();
    let disk = Disk::new(layout);
    disk.fill();
    gptboot(&disk, b"no UFS partition was found");
    disk.snapshot();
    let before = dump(&disk);
    for args in [&["boot", "1"][..], &["boot", "2"], &["confirm"]] {
        disk.dualroot(args).fails(6, "gptboot starts freebsd-ufs");
        assert_eq!(dump(&disk), before, "{args:?}");
    }
}

/// The slot has run; then a copy of `/config` alone was cut off.
#[test]
fn a_slot_with_half_a_config_is_not_started() {
    if !ready(TOOLS) {
        return;
    }
    let disk = disk(Scheme::Dos);
    let root = disk.mount_slice(2, false);
    fs::write(root.path().join(".dualroot/used"), "").unwrap();
    fs::remove_file(root.path().join(".dualroot/record.json")).unwrap();
    fs::remove_file(root.path().join(".dualroot/manifest.mtree")).unwrap();
    drop(root);
    disk.dualroot(&["boot", "2"]).exits(0);
    disk.dualroot(&["boot", "1"]).exits(0);
    disk.dualroot(&["snapshot"]).exits(0);
    let root = disk.mount_slice(2, false);
    fs::write(root.path().join(".dualroot/used"), "").unwrap();
    drop(root);
    let config = disk.mount_slice(4, false);
    fs::remove_file(config.path().join(".dualroot/record.json")).unwrap();
    drop(config);
    let before = dump(&disk);
    disk.dualroot(&["boot", "2"]).fails(6, "/altconfig is invalid");
    // Nor where the root has no record that could be valid.
    let root = disk.mount_slice(2, false);
    fs::remove_file(root.path().join(".dualroot/record.json")).unwrap();
    fs::remove_file(root.path().join(".dualroot/manifest.mtree")).unwrap();
    drop(root);
    disk.dualroot(&["boot", "2"]).fails(6, "not whole: /altconfig is invalid");
    disk.format(4);
    disk.dualroot(&["boot", "2"]).fails(6, "not whole: /altconfig is empty");
    assert_eq!(dump(&disk), before);
}

#[test]
fn a_slot_without_a_record_is_not_started() {
    if !ready(TOOLS) {
        return;
    }
    let disk = disk(Scheme::Dos);
    let before = dump(&disk);
    disk.format(2);
    disk.dualroot(&["boot", "2"]).fails(6, "empty").says("hint: dualroot snapshot");
    assert_eq!(dump(&disk), before);
    disk.dualroot(&["boot", "3"]).exits(2);
}

/// A copy over it would be the end of what was installed there.
#[test]
fn a_slot_that_was_installed_is_started_by_its_flag_first() {
    if !ready(TOOLS) {
        return;
    }
    for (scheme, command) in
        [(Scheme::Dos, "sfdisk --activate"), (Scheme::Gpt, "sgdisk -A 2:set:58")]
    {
        let disk = disk(scheme);
        let own = disk.mount_slice(2, false);
        fs::remove_dir_all(own.path().join(".dualroot")).unwrap();
        drop(own);
        let before = dump(&disk);
        let refused = || {
            let run = disk.dualroot(&["boot", "2"]).fails(6, "it has no record");
            let run = run.says("hint: it was installed").says(command);
            assert!(!run.stderr.contains("dualroot snapshot"), "{run}");
            assert_eq!(dump(&disk), before);
        };
        let mark = |node: &str| {
            let root = disk.mount_slice(2, false);
            let own = root.path().join(".dualroot");
            let _ = fs::create_dir(&own);
            fs::write(own.join("used"), format!("{node}\n")).unwrap();
        };
        refused();
        // It came along with the blocks of the other root.
        mark(&disk.node(1));
        refused();
        mark(&disk.node(2));
        disk.dualroot(&["boot", "2"]).exits(0);
    }
}

#[test]
fn health_hooks_are_run_and_told() {
    if !ready(TOOLS) {
        return;
    }
    let disk = disk(Scheme::Dos);
    let hook = |name: &str, text: &str, mode| {
        let path =
            disk.write(&format!("etc/dualroot/health.d/{name}"), format!("#!/bin/sh\n{text}\n"));
        fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
    };
    hook("10-good", "echo fine", 0o755);
    hook("notes", "exit 1", 0o644);
    disk.dualroot(&["confirm"]).exits(0).prints("10-good: passed");
    hook("20-bad", "echo no route; exit 3", 0o755);
    let run = disk.dualroot(&["confirm"]).fails(1, "20-bad: failed with exit 3");
    run.says("hint: it said: no route; nothing was changed");
    hook("20-bad", "exit 0", 0o757);
    disk.dualroot(&["confirm"]).fails(1, "others than root can write it");
    let log = disk.dualroot(&["log"]).exits(0);
    assert_eq!(log.stdout.matches("10-good: passed").count(), 3, "{log}");
}

/// A link leads to a program as a name in the directory does, where nobody else could have put another
/// one there; and what is no program is told.
#[test]
fn hooks_by_links_are_run_and_others_are_told() {
    if !ready(TOOLS) {
        return;
    }
    let disk = disk(Scheme::Dos);
    let hooks = disk.root().join("etc/dualroot/health.d");
    let program = |path: &str, text: &str| {
        let path = disk.write(path, format!("#!/bin/sh\n{text}\n"));
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
        path
    };
    let link = |name: &str, to: &str| {
        let _ = fs::remove_file(hooks.join(name));
        std::os::unix::fs::symlink(to, hooks.join(name)).unwrap();
    };
    let passed = |args: &[&str], code| {
        let report = disk.dualroot(args).exits(code).json();
        let hooks = report["hooks"].as_array().unwrap().clone();
        hooks.iter().map(|h| (h["name"].clone(), h["passed"].clone())).collect::<Vec<_>>()
    };
    disk.write("etc/dualroot/health.d/README", "what belongs here\n");
    fs::create_dir(hooks.join("old")).unwrap();
    let lib = program("usr/libexec/ping", "echo pong");
    link("10-ping", "/usr/libexec/ping");
    link("20-note", "README");
    let told = [("10-ping", Some(true)), ("20-note", None), ("README", None), ("old", None)]
        .map(|(name, passed)| (name.into(), passed.into()));
    assert_eq!(passed(&["confirm", "--json"], 0), told);
    let run = disk.dualroot(&["confirm"]).exits(0).prints("10-ping: passed\n");
    let run = run.says("health.d/README: not run, it is not executable\n");
    run.says("health.d/old: not run, it is no regular file\n");
    let log = disk.dualroot(&["log"]).exits(0);
    log.prints("README: not run, it is not executable");
    // What the link leads to decides.
    program("usr/libexec/ping", "echo no answer; exit 3");
    disk.dualroot(&["confirm"]).fails(1, "10-ping: failed with exit 3").says("no answer");
    fs::set_permissions(&lib, fs::Permissions::from_mode(0o757)).unwrap();
    disk.dualroot(&["confirm"]).fails(1, "10-ping: not run, others than root can write it");
    fs::set_permissions(&lib, fs::Permissions::from_mode(0o755)).unwrap();
    // A directory on the way is somebody else's.
    program("home/operator/ping", "exit 0");
    std::os::unix::fs::chown(disk.root().join("home/operator"), Some(1001), None).unwrap();
    link("10-ping", "../../../home/operator/ping");
    disk.dualroot(&["confirm"]).fails(1, "not run, /home/operator: it belongs to user 1001");
    link("10-ping", "/usr/libexec/gone");
    disk.dualroot(&["confirm"]).fails(1, "10-ping: not run, its link leads to nothing");
    link("10-ping", "10-ping");
    disk.dualroot(&["confirm"]).fails(1, "10-ping: not run, its link cannot be followed: ");
}
