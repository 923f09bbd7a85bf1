//! Which slot starts: what gpart(8) and boot0cfg(8) say after us, also of a medium that is in use.

use std::fs;
use std::os::unix::fs::{FileExt, PermissionsExt};

use crate::disk::{Disk, Layout, Scheme};
use crate::harness::{Test, tests, tool, try_tool, wait_until};

pub const TESTS: &[Test] = tests![
    the_active_slice_and_boot0,
    flags_of_a_gpt,
    a_trial_and_its_end,
    a_backup_table_that_is_torn_is_mended,
    a_backup_table_of_before_is_mended,
    a_primary_table_that_was_cut_off_is_mended_by_a_snapshot,
    health_hooks,
    nothing_is_left_to_commit,
];

/// A disk whose second slot has a copy; on a GPT with gptboot.
fn disk(scheme: Scheme) -> Disk {
    let disk = Disk::new(Layout { scheme, ..Layout::default() });
    disk.fill();
    if scheme == Scheme::Gpt {
        let name = disk.name();
        tool(
            "gpart",
            &[&"bootcode", &"-b", &"/boot/pmbr", &"-p", &"/boot/gptboot", &"-i", &"1", &name],
        );
    }
    disk.snapshot().exits(0);
    disk
}

/// What gpart(8) shows behind the type of an entry: `[bootme]`, or its size where it has no flag.
fn flags(disk: &Disk, index: u32) -> String {
    let shown = tool("gpart", &[&"show", &disk.name()]);
    let index = index.to_string();
    let line = shown.lines().find(|line| line.split_whitespace().nth(2) == Some(&index));
    let line = line.unwrap_or_else(|| panic!("no {index} in {shown}"));
    let attributes = line.split_whitespace().nth(4).unwrap_or_default();
    if attributes.starts_with('[') { attributes.to_owned() } else { String::new() }
}

fn both(disk: &Disk) -> [String; 2] {
    [2, 3].map(|index| flags(disk, index))
}

fn the_active_slice_and_boot0() {
    let disk = disk(Scheme::Mbr);
    disk.dualroot(&["boot", "2"]).exits(0).prints("Next start: slot 2");
    assert_eq!([1, 2].map(|n| flags(&disk, n)), ["", "[active]"]);
    disk.dualroot(&["boot", "2", "--once"]).fails(6, "no flag for one start only");
    disk.dualroot(&["snapshot"]).fails(6, "boot flags");
    disk.dualroot(&["boot", "1"]).exits(0);
    assert_eq!([1, 2].map(|n| flags(&disk, n)), ["[active]", ""]);
    // boot0 has a choice of its own.
    tool("boot0cfg", &[&"-B", &"-s", &"1", &disk.name()]);
    disk.dualroot(&["boot", "2"]).exits(0);
    let said = tool("boot0cfg", &[&"-v", &disk.name()]);
    assert!(said.contains("default_selection=F2"), "{said}");
    assert_eq!([1, 2].map(|n| flags(&disk, n)), ["", "[active]"]);
    tool("boot0cfg", &[&"-s", &"1", &disk.name()]);
    disk.dualroot(&["check"]).exits(3).prints("(boot0-differs)");
    disk.dualroot(&["boot", "1"]).exits(0);
    let run = disk.dualroot(&["check"]);
    assert!(!run.stdout.contains("boot0-differs"), "{run}");
}

fn flags_of_a_gpt() {
    let disk = disk(Scheme::Gpt);
    assert_eq!(both(&disk), ["[bootme]", "[bootme]"], "the copy is there to fall back on");
    disk.dualroot(&["boot", "2"]).exits(0);
    assert_eq!(both(&disk), ["", "[bootme]"]);
    disk.dualroot(&["boot", "1"]).exits(0).prints("slot 1");
    assert_eq!(both(&disk), ["[bootme]", "[bootme]"]);
    let shown = tool("gpart", &[&"show", &disk.name()]);
    assert!(!shown.contains("CORRUPT"), "{shown}");
}

fn a_trial_and_its_end() {
    let disk = disk(Scheme::Gpt);
    disk.dualroot(&["boot", "2", "--once"]).exits(0).prints("once; then slot 1");
    assert_eq!(both(&disk), ["[bootme]", "[bootonce,bootme]"]);
    disk.dualroot(&["show"]).exits(0).prints("Trial: slot 2 from slot 1");
    disk.dualroot(&["reject"]).exits(0);
    assert_eq!(both(&disk), ["[bootme]", "[bootme]"]);
    // As gptboot leaves one that did not come up.
    disk.dualroot(&["boot", "2", "--once"]).exits(0);
    tool("gpart", &[&"unset", &"-a", &"bootme", &"-i", &"3", &disk.name()]);
    disk.dualroot(&["check"]).exits(3).prints("(trial-over)");
    disk.dualroot(&["confirm"]).exits(0);
    assert_eq!(both(&disk), ["[bootme]", "[bootme]"]);
}

/// The power went while the second copy of the table was written.
fn a_backup_table_that_is_torn_is_mended() {
    let layout = Layout { scheme: Scheme::Gpt, in_a_file: true, ..Layout::default() };
    let disk = Disk::new(layout);
    disk.fill();
    disk.snapshot().exits(0);
    let file = fs::OpenOptions::new().write(true).open(disk.file()).unwrap();
    let size = file.metadata().unwrap().len();
    file.write_all_at(&[0x55; 16], size - 512 + 16).unwrap();
    file.sync_all().unwrap();
    disk.dualroot(&["check"]).exits(3).prints("(gpt-backup-damaged)");
    disk.dualroot(&["boot", "2"]).exits(0);
    assert_eq!(both(&disk), ["", "[bootme]"]);
    let run = disk.dualroot(&["check"]);
    assert!(!run.stdout.contains("gpt-backup-damaged"), "{run}");
}

/// The power went between the two copies of the table: what was chosen is chosen once more.
fn a_backup_table_of_before_is_mended() {
    let layout = Layout { scheme: Scheme::Gpt, in_a_file: true, ..Layout::default() };
    let disk = Disk::new(layout);
    disk.fill();
    disk.snapshot().exits(0);
    let file = fs::OpenOptions::new().read(true).write(true).open(disk.file()).unwrap();
    // 128 entries of 128 bytes, and the header.
    let mut backup = vec![0; 33 * 512];
    let place = file.metadata().unwrap().len() - backup.len() as u64;
    file.read_exact_at(&mut backup, place).unwrap();
    disk.dualroot(&["boot", "2"]).exits(0);
    file.write_all_at(&backup, place).unwrap();
    file.sync_all().unwrap();
    disk.dualroot(&["check"]).exits(3).prints("(gpt-copies-differ)");
    disk.dualroot(&["boot", "2"]).exits(0);
    assert_eq!(both(&disk), ["", "[bootme]"]);
    let run = disk.dualroot(&["check"]);
    assert!(!run.stdout.contains("gpt-copies-differ"), "{run}");
}

/// The power went while the first copy was written, after its entries: GEOM calls the table CORRUPT.
fn a_primary_table_that_was_cut_off_is_mended_by_a_snapshot() {
    let disk = disk(Scheme::Gpt);
    let before = both(&disk);
    tool("umount", &[&disk.root()]);
    let path = format!("/dev/{}", disk.name());
    let medium = fs::OpenOptions::new().read(true).write(true).open(path).unwrap();
    let mut entries = [0; 512];
    medium.read_exact_at(&mut entries, 1024).unwrap();
    // `bootme` of the third.
    entries[2 * 128 + 48 + 7] ^= 0x08;
    medium.write_all_at(&entries, 1024).unwrap();
    drop(medium); // it is looked at again
    let corrupt = || tool("gpart", &[&"show", &disk.name()]).contains("[CORRUPT]");
    wait_until("GEOM sees it", corrupt);
    wait_until("the root is back", || try_tool("mount", &[&disk.node(1), &disk.root()]).code == 0);
    disk.dualroot(&["check"]).exits(3).prints("a change of boot flags was cut off");
    disk.snapshot().exits(0);
    assert!(!corrupt());
    assert_eq!(both(&disk), before);
    let run = disk.dualroot(&["check"]);
    assert!(!run.stdout.contains("gpt-primary-damaged"), "{run}");
}

fn health_hooks() {
    let disk = disk(Scheme::Gpt);
    let hook = |text: &str| {
        let path = disk.write("etc/dualroot/health.d/10-net", format!("#!/bin/sh\n{text}\n"));
        fs::set_permissions(path, fs::Permissions::from_mode(0o755)).unwrap();
    };
    hook("echo no route; exit 1");
    disk.dualroot(&["confirm"]).fails(1, "10-net: failed with exit 1");
    hook("exit 0");
    disk.dualroot(&["confirm"]).exits(0).prints("10-net: passed");
    disk.dualroot(&["log"]).exits(0).prints("10-net: passed");
}

/// What gpart(8) refuses is undone: nothing waits for the next commit.
fn nothing_is_left_to_commit() {
    let disk = disk(Scheme::Gpt);
    let before = both(&disk);
    disk.dualroot(&["boot", "2"]).exits(0);
    disk.dualroot(&["boot", "1"]).exits(0);
    assert_eq!(both(&disk), before);
    // An undo without anything collected fails: there is nothing.
    let undo = crate::harness::try_tool("gpart", &[&"undo", &disk.name()]);
    assert!(undo.code != 0, "{undo}");
}
