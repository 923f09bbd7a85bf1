//! How the system came up, the notice of a fall-back, and the repair of the slot that was meant to
//! run. A fall-back is made by the boot flag: it is on slice 2, and slice 1 runs.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use serde_json::Value;

use crate::harness::{Disk, Layout, pattern, ready, tool, unmount};

const TITLE: &str = "WARNING: THIS DEVICE HAS BOOTED FROM THE BACKUP EXAMPLE OS ";

/// A disk with a valid copy in slot 2, which was chosen and did not come up.
fn disk() -> Disk {
    disk_of(Layout::default())
}

fn disk_of(layout: Layout) -> Disk {
    let disk = Disk::new(layout);
    disk.fill();
    disk.write("etc/motd.template", "Welcome.\n");
    let template = disk.root().join("etc/motd.template");
    fs::set_permissions(&template, fs::Permissions::from_mode(0o640)).unwrap();
    disk.snapshot();
    disk.dualroot(&["boot", "2"]).exits(0);
    restart(&disk);
    disk
}

/// The next start of the system, in which slot 1 runs.
fn restart(disk: &Disk) {
    let path = disk.root().join("var/db/dualroot/journal.json");
    for path in [path, disk.root().join("config/.dualroot/journal.json")] {
        if let Ok(text) = fs::read_to_string(&path) {
            let mut journal: Value = serde_json::from_str(&text).unwrap();
            if let Some(boot) = journal.get_mut("boot") {
                boot["id"] = "another start".into();
            }
            fs::write(&path, serde_json::to_vec(&journal).unwrap()).unwrap();
        }
    }
}

fn motd(disk: &Disk) -> String {
    fs::read_to_string(disk.root().join("etc/motd.template")).unwrap()
}

fn run(disk: &Disk, code: i32) -> Value {
    disk.dualroot(&["auto-snapshot", "--json"]).exits(code).json()
}

fn status(disk: &Disk) -> String {
    disk.dualroot(&["auto-snapshot", "--status"]).exits(0).stdout
}

/// Destroys the file system of slot 2.
fn destroy(disk: &Disk) {
    for offset in (0..64 << 10).step_by(1024) {
        disk.flip_on_medium(2, offset + 56);
    }
    disk.flush(2);
}

/// What a later version of the program leaves in its directory.
fn of_a_later_version(own: &Path) {
    let record = own.join("record.json");
    let text = fs::read_to_string(&record).unwrap();
    fs::write(record, text.replacen("\"schema\": 1", "\"schema\": 2", 1)).unwrap();
}

#[test]
fn it_is_switched_in_the_configuration() {
    if !ready(&[]) {
        return;
    }
    let disk = Disk::new(Layout::default());
    disk.fill();
    let text = "# mine\nproduct = \"EX\" # of ours\n";
    let path = disk.write("etc/dualroot.conf", text);
    fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
    let said = "Auto-snapshot Configuration:   Disabled\nAuto-snapshot State:  Disabled\n";
    assert_eq!(status(&disk), said);
    let on = disk.dualroot(&["auto-snapshot", "--enable"]).exits(0);
    assert_eq!(on.stdout, said.replacen("Disabled", "Enabled", 1));
    assert_eq!(fs::read_to_string(&path).unwrap(), format!("auto-snapshot = true\n{text}"));
    assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o7777, 0o600);
    disk.dualroot(&["auto-snapshot", "--disable"]).exits(0);
    assert_eq!(fs::read_to_string(&path).unwrap(), format!("auto-snapshot = false\n{text}"));
    assert_eq!(status(&disk), said);
    disk.dualroot(&["auto-snapshot", "--enable", "--status"]).exits(2);
}

/// A start as it was meant changes nothing, whatever state the other slot is in.
#[test]
fn nothing_happens_where_the_slot_was_meant_to_run() {
    if !ready(&[]) {
        return;
    }
    let disk = Disk::new(Layout::default());
    disk.fill();
    disk.dualroot(&["auto-snapshot", "--enable"]).exits(0);
    let before = disk.hash_device(2);
    for _ in 0..2 {
        let report = run(&disk, 0);
        assert_eq!((&report["how"], &report["notice"]), (&"planned".into(), &false.into()));
        restart(&disk);
    }
    // A choice is for the next start: it is no fall-back before that.
    disk.snapshot();
    run(&disk, 0);
    disk.dualroot(&["boot", "2"]).exits(0);
    assert_eq!(run(&disk, 0)["how"], "planned");
    disk.dualroot(&["boot", "1"]).exits(0);
    // An operator who chooses the alternate, with whatever tool, and it comes up: no copy.
    restart(&disk);
    assert_eq!(run(&disk, 0)["how"], "planned");
    assert_ne!(before, disk.hash_device(2));
}

#[test]
fn a_broken_slot_is_repaired_once() {
    if !ready(&[]) {
        return;
    }
    let disk = disk();
    destroy(&disk);
    // Where it is not enabled, it is told.
    let report = run(&disk, 3);
    assert_eq!(report["how"], "fallback", "{report}");
    assert_eq!((&report["notice"], &report["repaired"]), (&true.into(), &false.into()));
    assert!(report["note"].as_str().unwrap().contains("Slot 2 is broken: /altroot: "), "{report}");
    assert!(motd(&disk).contains(TITLE) && motd(&disk).ends_with("Welcome.\n"), "{}", motd(&disk));
    let mode = fs::metadata(disk.root().join("etc/motd.template")).unwrap().permissions().mode();
    assert_eq!(mode & 0o7777, 0o640);
    assert_eq!(disk.state(), "empty");
    disk.dualroot(&["auto-snapshot", "--enable"]).exits(0);
    let said = disk.dualroot(&["auto-snapshot"]).exits(0);
    said.clone().prints("The following filesystems").prints("is repaired, and starts next\n");
    assert_eq!(motd(&disk), "Welcome.\n");
    let (one, two) = (disk.slot(1), disk.slot(2));
    assert_eq!((&two["state"], &two["active"]), (&"valid".into(), &true.into()), "{two}");
    assert_eq!((&one["booted"], &one["active"]), (&true.into(), &false.into()), "{one}");
    let completed = "Auto-snapshot Configuration:   Enabled\nAuto-snapshot State:  Completed\n";
    assert_eq!(status(&disk), completed);
    // The copy has no notice.
    let copy = disk.mount_alternate(true);
    assert_eq!(fs::read_to_string(copy.path().join("etc/motd.template")).unwrap(), "Welcome.\n");
    drop(copy);
    let log = disk.dualroot(&["log"]).exits(0).stdout;
    assert!(log.contains("auto-snapshot"), "{log}");
    // Nothing more to do in this start; in the next one it is evidence that it did not come up.
    let before = disk.hash_device(2);
    run(&disk, 0);
    restart(&disk);
    let report = run(&disk, 3);
    assert_eq!((&report["how"], &report["repaired"]), (&"fallback".into(), &false.into()));
    assert!(report["note"].as_str().unwrap().contains("Slot 2 is intact"), "{report}");
    assert_eq!(disk.hash_device(2), before);
}

/// A slot whose every byte is what it is to be, and that did not come up all the same.
#[test]
fn an_intact_slot_is_evidence() {
    if !ready(&[]) {
        return;
    }
    let disk = disk();
    disk.dualroot(&["auto-snapshot", "--enable"]).exits(0);
    let before = [2, 4].map(|n| disk.hash_device(n));
    let report = run(&disk, 3);
    assert!(report["note"].as_str().unwrap().contains("Slot 2 is intact"), "{report}");
    assert_eq!([2, 4].map(|n| disk.hash_device(n)), before);
    assert!(motd(&disk).contains("dualroot boot 2 --reboot"), "{}", motd(&disk));
    // A snapshot by hand does not either, unless it is told to.
    disk.dualroot(&["snapshot"]).fails(6, "the boot flags select the alternate slot 2");
    assert_eq!([2, 4].map(|n| disk.hash_device(n)), before);
    // The operator gives it up.
    disk.dualroot(&["boot", "1"]).exits(0);
    assert_eq!(motd(&disk), "Welcome.\n");
    disk.snapshot();
    restart(&disk);
    assert_eq!(run(&disk, 0)["how"], "planned");
}

/// Only that version can tell whether the copy is what it is to be; what cannot be read is damage to all.
#[test]
fn a_copy_with_a_record_of_another_version_is_not_repaired() {
    if !ready(&[]) {
        return;
    }
    let disk = disk();
    disk.dualroot(&["auto-snapshot", "--enable"]).exits(0);
    of_a_later_version(&disk.mount_alternate(false).path().join(".dualroot"));
    let before = disk.hash_device(2);
    let report = run(&disk, 3);
    let note = report["note"].as_str().unwrap();
    assert!(note.contains("the record has version 2"), "{note}");
    assert_eq!(before, disk.hash_device(2));
    restart(&disk);
    destroy(&disk);
    let report = run(&disk, 0);
    assert_eq!(report["repaired"], true, "{report}");
}

/// The flags go to the running slot before anything is written.
#[test]
fn force_copies_over_the_slot_that_was_meant() {
    if !ready(&[]) {
        return;
    }
    let disk = disk();
    run(&disk, 3);
    assert!(motd(&disk).contains(TITLE));
    let plan = disk.dualroot(&["snapshot", "--force", "-n"]).exits(0);
    let line = |words: &str| plan.stdout.lines().position(|l| l.contains(words)).unwrap();
    assert!(line("let only the running slot start") < line("remove the record"), "{plan}");
    disk.dualroot(&["snapshot", "--force"]).exits(0);
    assert_eq!(disk.slot(1)["active"], true);
    assert_eq!(motd(&disk), "Welcome.\n");
}

/// One bit of one file: nothing but reading all of it finds that.
#[test]
fn a_rotten_file_is_damage() {
    if !ready(&[]) {
        return;
    }
    for used in [false, true] {
        let disk = Disk::new(Layout::default());
        disk.fill();
        let needle = pattern(8192, 1031);
        disk.write("usr/needle", &needle);
        disk.snapshot();
        disk.dualroot(&["boot", "2"]).exits(0);
        disk.dualroot(&["auto-snapshot", "--enable"]).exits(0);
        if used {
            // It has run since, so that much of it is not as the manifest says.
            let copy = disk.mount_alternate(false);
            fs::write(copy.path().join("etc/os-release"), "NAME=\"Example OS\"\nVERSION_ID=2\n")
                .unwrap();
            fs::write(copy.path().join("etc/new"), "new\n").unwrap();
            fs::remove_file(copy.path().join("usr/share/doc/3.txt")).unwrap();
            drop(copy);
            ran(&disk, 2);
            let report = run(&disk, 3);
            assert!(report["note"].as_str().unwrap().contains("is intact"), "{report}");
        }
        let at = disk.find_on_medium(2, &needle[..512]);
        disk.flip_on_medium(2, at + 100);
        disk.flush(2);
        restart(&disk);
        if used {
            ran(&disk, 2);
        }
        let report = run(&disk, 0);
        assert_eq!(report["repaired"], true, "{report}");
        assert_eq!(disk.state(), "valid");
    }
}

/// The start before this one was slot `n`'s.
fn ran(disk: &Disk, n: usize) {
    let path = disk.root().join("config/.dualroot/journal.json");
    let mut journal: Value = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
    let place = serde_json::json!({"slot": n, "device": disk.node(n)});
    journal["boot"] = serde_json::json!({"id": "1", "time": "2026-11-25T20:00:00Z", "slot": place, "how": "planned"});
    journal["sequence"] = 10_000.into();
    fs::write(&path, serde_json::to_vec(&journal).unwrap()).unwrap();
}

/// Both slots were installed, each with a `/config` of its own, in which the journal is.
#[test]
fn a_journal_is_no_copy() {
    if !ready(&[]) {
        return;
    }
    let disk = disk();
    disk.dualroot(&["auto-snapshot", "--enable"]).exits(0);
    for slice in [2, 4] {
        let part = disk.mount_slice(slice, false);
        fs::remove_dir_all(part.path().join(".dualroot")).unwrap();
    }
    let config = disk.mount_slice(4, false);
    let journal = disk.root().join("config/.dualroot/journal.json");
    fs::create_dir(config.path().join(".dualroot")).unwrap();
    fs::copy(journal, config.path().join(".dualroot/journal.json")).unwrap();
    drop(config);
    let before = [2, 4].map(|n| disk.hash_device(n));
    let report = run(&disk, 3);
    assert!(report["note"].as_str().unwrap().contains("Slot 2 is intact"), "{report}");
    assert_eq!([2, 4].map(|n| disk.hash_device(n)), before);
}

/// A root that was installed and never copied has no record: it is none the worse for it.
#[test]
fn an_installed_root_needs_no_record() {
    if !ready(&[]) {
        return;
    }
    let disk = disk();
    disk.dualroot(&["auto-snapshot", "--enable"]).exits(0);
    let copy = disk.mount_alternate(false);
    let own = copy.path().join(".dualroot");
    let saved = disk.tmp().join("own");
    fs::rename(own.join("manifest.mtree"), own.join("manifest.mtree.new")).unwrap();
    fs::remove_file(own.join("record.json")).unwrap();
    tool("cp", &[&"-a", &own, &saved]);
    fs::remove_dir_all(&own).unwrap();
    drop(copy);
    let before = disk.hash_device(2);
    let report = run(&disk, 3);
    assert!(report["note"].as_str().unwrap().contains("is intact"), "{report}");
    assert_eq!(disk.hash_device(2), before);
    // One that was begun and not finished is no root.
    let copy = disk.mount_alternate(false);
    tool("cp", &[&"-a", &saved, &copy.path().join(".dualroot")]);
    drop(copy);
    restart(&disk);
    assert_eq!(run(&disk, 0)["repaired"], true);
}

/// Whoever runs leaves a mark, and so does the copy that is made of it.
#[test]
fn a_root_that_ran_is_known_to_have_changed() {
    if !ready(&[]) {
        return;
    }
    let disk = disk();
    disk.dualroot(&["auto-snapshot", "--enable"]).exits(0);
    assert!(disk.root().join(".dualroot/used").exists() || run(&disk, 3)["notice"] == true);
    assert!(disk.root().join(".dualroot/used").exists());
    let change = |path: &str, text: &str| {
        let copy = disk.mount_alternate(false);
        fs::write(copy.path().join(path), text).unwrap();
        drop(copy);
        restart(&disk);
    };
    // The copy itself never has it.
    assert!(!disk.mount_alternate(true).path().join(".dualroot/used").exists());
    change("etc/upgraded", "newer software\n");
    change(".dualroot/used", "");
    let before = disk.hash_device(2);
    let report = run(&disk, 3);
    assert!(report["note"].as_str().unwrap().contains("is intact"), "{report}");
    assert_eq!(disk.hash_device(2), before);
    // Without it, it is a copy that is not what it was.
    let copy = disk.mount_alternate(false);
    fs::remove_file(copy.path().join(".dualroot/used")).unwrap();
    drop(copy);
    restart(&disk);
    assert_eq!(run(&disk, 0)["repaired"], true);
}

/// Killed in the middle of the repair: the running slot starts next, and goes on with it.
#[test]
fn a_repair_that_was_cut_off_is_finished() {
    if !ready(&[]) {
        return;
    }
    let disk = disk();
    disk.write("usr/much", pattern(6 << 20, 5));
    destroy(&disk);
    disk.dualroot(&["auto-snapshot", "--enable"]).exits(0);
    let mut running = disk.spawn(&["auto-snapshot"]);
    running.wait_line("Copying / to /altroot");
    running.signal(nix::sys::signal::Signal::SIGKILL);
    crate::harness::wait_until("it is dead", || running.ended());
    assert_eq!(disk.slot(1)["active"], true, "flags are on the running slot first");
    assert!(status(&disk).contains("Auto-snapshot State:  In progress\n"), "{}", status(&disk));
    disk.dualroot(&["clean"]).exits(0);
    assert!(motd(&disk).contains("It is being repaired"), "{}", motd(&disk));
    restart(&disk);
    let report = run(&disk, 0);
    assert_eq!((&report["how"], &report["repaired"]), (&"fallback".into(), &true.into()));
    assert_eq!((&disk.slot(2)["state"], &disk.slot(2)["active"]), (&"valid".into(), &true.into()));
    assert_eq!(motd(&disk), "Welcome.\n");
}

/// What cannot be repaired is tried once and then told.
#[test]
fn a_repair_that_fails_is_told() {
    if !ready(&[]) {
        return;
    }
    let disk = disk_of(Layout { sizes_mb: vec![32, 16, 8, 8], ..Layout::default() });
    destroy(&disk);
    disk.dualroot(&["auto-snapshot", "--enable"]).exits(0);
    disk.write("var/large", pattern(16 << 20, 6));
    disk.dualroot(&["auto-snapshot"]).fails(1, "does not fit");
    assert!(status(&disk).contains("Auto-snapshot State:  Failed: "), "{}", status(&disk));
    assert_eq!(disk.slot(1)["active"], true);
    for _ in 0..2 {
        assert!(motd(&disk).contains("It could not be repaired"), "{}", motd(&disk));
        restart(&disk);
        let report = run(&disk, 3);
        assert_eq!(report["how"], "fallback", "{report}");
    }
    // By hand, with the cause gone.
    fs::remove_file(disk.root().join("var/large")).unwrap();
    disk.snapshot();
    assert_eq!(motd(&disk), "Welcome.\n");
    assert_eq!(run(&disk, 0)["how"], "planned", "it is settled");
    restart(&disk);
    assert_eq!(run(&disk, 0)["how"], "planned");
}

/// Software that is older than that of the other slot is not copied over it by accident.
#[test]
fn old_does_not_replace_new() {
    if !ready(&[]) {
        return;
    }
    let disk = Disk::new(Layout::default());
    disk.fill();
    disk.write_junos_packages(&["jbase-ex-12.3R12-S15", "jdocs-ex-12.3R12-S15"]);
    disk.snapshot();
    let package = |version: &str| disk.root().join(format!("var/db/pkg/jbase-ex-{version}"));
    fs::rename(package("12.3R12-S15"), package("12.3R3")).unwrap();
    let before = disk.hash_device(2);
    let run = disk.dualroot(&["snapshot"]);
    run.fails(6, "is older than the copy of").says("hint: --force copies all the same");
    assert_eq!(disk.hash_device(2), before);
    disk.dualroot(&["snapshot", "--force"]).exits(0);
    disk.snapshot();
}

/// Nor over software that got there after the copy was made, or that nobody copied.
#[test]
fn old_does_not_replace_what_was_installed() {
    if !ready(&[]) {
        return;
    }
    let disk = Disk::new(Layout::default());
    disk.fill();
    disk.write_junos_packages(&["jbase-ex-12.3R12-S15"]);
    disk.snapshot();
    let own = |change: &dyn Fn(&Path)| {
        let copy = disk.mount_alternate(false);
        change(&copy.path().join(".dualroot"));
    };
    let refused = |state: &str, what: &str| {
        assert_eq!(disk.state(), state);
        let before = disk.hash_device(2);
        for args in [&["snapshot"][..], &["snapshot", "-n"]] {
            let run = disk.dualroot(args).fails(6, what);
            run.says("jbase ex-12.3R12-S15, there ex-12.3R12-S20").says("hint: --force");
        }
        assert_eq!(disk.hash_device(2), before);
    };
    own(&|own| {
        let package = |version| own.join(format!("../var/db/pkg/jbase-ex-{version}"));
        fs::rename(package("12.3R12-S15"), package("12.3R12-S20")).unwrap();
    });
    refused("valid", "is older than the copy of");
    // Of a record that a later version wrote, nothing is known but what is beside it.
    own(&of_a_later_version);
    refused("unknown", "is older than what is on");
    let run = disk.dualroot(&["boot", "2"]).fails(6, "the record has version 2");
    run.says("what is on it is lost");
    own(&|own| fs::remove_dir_all(own).unwrap());
    refused("invalid", "is older than what is on");
    // Half a copy is nothing to keep.
    own(&|own| {
        fs::create_dir(own).unwrap();
        fs::write(own.join("manifest.mtree.new"), "#mtree\n").unwrap();
    });
    disk.snapshot();
    // Nor is what is as old.
    own(&|own| fs::remove_dir_all(own).unwrap());
    disk.snapshot();
}

/// What rc.d/motd has made at boot takes the notice where its template cannot.
#[test]
fn on_a_read_only_root_the_notice_is_in_the_motd_of_this_start() {
    if !ready(&["mount"]) {
        return;
    }
    let disk = disk();
    let (var, shown) = (disk.root().join("var"), disk.root().join("var/run/motd"));
    disk.remount(true);
    tool("mount", &[&"-t", &"tmpfs", &"tmpfs", &var]);
    let assess = || disk.dualroot(&["auto-snapshot", "--assess", "--json"]).exits(3).json();
    assert_eq!(assess()["notice"], false, "there is nothing that takes it");
    disk.write("var/run/motd", "FreeBSD 13.2-RELEASE\nWelcome.\n");
    assert_eq!(assess()["notice"], true);
    let text = fs::read_to_string(&shown).unwrap();
    assert!(text.contains(TITLE) && text.ends_with("\nFreeBSD 13.2-RELEASE\nWelcome.\n"), "{text}");
    disk.dualroot(&["boot", "1"]).exits(0);
    assert_eq!(fs::read_to_string(&shown).unwrap(), "FreeBSD 13.2-RELEASE\nWelcome.\n");
    assert_eq!(motd(&disk), "Welcome.\n");
    unmount(&var);
}

/// The operation that failed is the first one that was tried.
#[test]
fn a_read_only_root_is_not_switched() {
    if !ready(&["mount"]) {
        return;
    }
    let disk = Disk::new(Layout::roots(16, 16));
    disk.fill();
    tool("mount", &[&"-o", &"remount,ro", &disk.root()]);
    let run = disk.dualroot(&["auto-snapshot", "--enable"]);
    let run = run.fails(1, "dualroot.conf: creating dualroot.conf.new: Read-only file system");
    run.says("\nhint: mount that file system read-write meanwhile\n");
}

/// What another version keeps is looked at before the configuration is written.
#[test]
fn what_is_refused_is_not_switched() {
    if !ready(&[]) {
        return;
    }
    let disk = Disk::new(Layout::default());
    disk.fill();
    let config = disk.root().join("etc/dualroot.conf");
    for (journal, words) in [
        ("{\"schema\": 2}", "the journal has version 2"),
        ("{\"schema\": 1, \"mood\": 1}", "the journal is not understood"),
    ] {
        disk.write("var/db/dualroot/journal.json", journal);
        for verb in ["--enable", "--disable"] {
            let run = disk.dualroot(&["auto-snapshot", verb]).fails(6, words);
            run.says("hint: use the program that wrote it, or remove it");
            assert!(!config.exists(), "{verb}");
        }
    }
    fs::remove_file(disk.root().join("var/db/dualroot/journal.json")).unwrap();
    disk.dualroot(&["auto-snapshot", "--enable"]).exits(0).prints("Enabled");
}

/// A link stays one, and what it leads to is written, as far as that is the system's own.
#[test]
fn a_link_to_the_configuration_stays_one() {
    if !ready(&[]) {
        return;
    }
    let disk = Disk::new(Layout::default());
    disk.fill();
    let link = disk.root().join("etc/dualroot.conf");
    let to = |target: &std::path::Path| {
        let _ = fs::remove_file(&link);
        std::os::unix::fs::symlink(target, &link).unwrap();
    };
    let real = disk.write("config/real.conf", "# mine\n");
    fs::set_permissions(&real, fs::Permissions::from_mode(0o640)).unwrap();
    to("../config/real.conf".as_ref());
    disk.dualroot(&["auto-snapshot", "--enable"]).exits(0).prints("Configuration:   Enabled");
    assert!(link.is_symlink());
    assert_eq!(fs::read_to_string(&real).unwrap(), "auto-snapshot = true\n# mine\n");
    assert_eq!(fs::metadata(&real).unwrap().permissions().mode() & 0o7777, 0o640);
    disk.dualroot(&["auto-snapshot", "--disable"]).exits(0);
    assert_eq!(fs::read_to_string(&real).unwrap(), "auto-snapshot = false\n# mine\n");
    // Not what lies outside the root, nor in the place of a link that leads nowhere.
    let outside = disk.tmp().join("outside.conf");
    fs::write(&outside, "# not ours\n").unwrap();
    to(&outside);
    let run = disk.dualroot(&["auto-snapshot", "--enable"]).fails(6, "out of the root");
    run.says("hint: ");
    assert_eq!(fs::read_to_string(&outside).unwrap(), "# not ours\n");
    to("nowhere.conf".as_ref());
    disk.dualroot(&["auto-snapshot", "--enable"]).fails(6, "leads nowhere");
    assert!(link.is_symlink());
}

/// What is refused once the flags are changed is a failure, and the history says so, too.
#[test]
fn the_history_has_the_code_of_the_run() {
    if !ready(&[]) {
        return;
    }
    let disk = disk();
    destroy(&disk);
    disk.dualroot(&["auto-snapshot", "--enable"]).exits(0);
    disk.write("altroot/x", "in the way\n");
    disk.dualroot(&["auto-snapshot"]).fails(1, "/altroot is not empty");
    let log = disk.dualroot(&["log", "--json"]).exits(0).json();
    let last = log["entries"].as_array().unwrap().last().unwrap().clone();
    assert_eq!((&last["verb"], &last["code"]), (&"auto-snapshot".into(), &1.into()), "{last}");
    // Nobody has chosen a slot.
    let found = disk.dualroot(&["check", "--json"]).exits(3).json();
    let findings = found["findings"].as_array().unwrap();
    let of = |code: &str| findings.iter().find(|f| f["code"] == code);
    assert!(of("intended-not-next").is_none(), "{found}");
    let repair = of("repair-unfinished").unwrap();
    assert_eq!(repair["severity"], "warning");
    assert!(
        repair["what"].as_str().unwrap().starts_with("its repair at boot failed: "),
        "{repair}"
    );
}
