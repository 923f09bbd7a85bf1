//! `scripts/install.sh` and the rc.d(8) script that it installs, with the system's own rc.subr(8),
//! service(8) and rcorder(8).

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::thread::sleep;
use std::time::{Duration, Instant};

use crate::disk::{Disk, Layout, dualroot};
use crate::harness::{BASE, Run, Running, Test, program, skip, tests, tool, try_tool};

pub const TESTS: &[Test] = tests![
    into_a_directory,
    in_its_place,
    the_order_of_the_boot,
    the_notice_outlives_the_making_of_motd,
    switched_on_and_off,
    a_leftover_is_removed_and_the_slot_reported,
    the_boot_itself,
    its_commands,
    a_box_without_a_second_slot,
    what_else_goes_wrong,
];

const SCRIPT: &str = "/usr/local/etc/rc.d/dualroot";
/// Where `load_rc_config` looks for variables of this script alone.
const VARIABLES: &str = "/etc/rc.conf.d/dualroot";
const FILES: [(&str, u32); 7] = [
    ("etc/newsyslog.conf.d/dualroot.conf", 0o444),
    ("etc/periodic/daily/460.dualroot", 0o555),
    ("etc/rc.d/auto-snapshot", 0o555),
    ("etc/rc.d/dualroot", 0o555),
    ("sbin/dualroot", 0o555),
    ("share/examples/dualroot/dualroot.conf", 0o444),
    ("share/man/man8/dualroot.8.gz", 0o444),
];

#[track_caller]
fn install(variables: &[(&str, &Path)], words: &[&str]) -> Run {
    // What is installed is for everybody, whatever the mask.
    let line = format!("umask 077; exec sh scripts/install.sh {}", words.join(" "));
    let mut command = program("/bin/sh");
    command.args(["-c", &line]).env("DUALROOT", dualroot().get_program());
    command.envs(variables.iter().map(|(name, value)| (name, value.as_os_str())));
    Run::of(&mut command).exits(0)
}

/// The files below a directory: mode, owner, group.
fn files(dir: &Path) -> BTreeMap<String, (u32, u32, u32)> {
    let mut found = BTreeMap::new();
    if !dir.exists() {
        return found;
    }
    for entry in walkdir::WalkDir::new(dir) {
        let entry = entry.unwrap();
        let meta = entry.metadata().unwrap();
        if meta.is_file() {
            let name = entry.path().strip_prefix(dir).unwrap().to_str().unwrap().to_owned();
            found.insert(name, (meta.permissions().mode() & 0o7777, meta.uid(), meta.gid()));
        }
    }
    found
}

fn expected(prefix: &str) -> BTreeMap<String, (u32, u32, u32)> {
    FILES.iter().map(|(name, mode)| (format!("{prefix}{name}"), (*mode, 0, 0))).collect()
}

/// Installed in `/usr/local`; gone when it is dropped.
struct Installed;

impl Installed {
    fn new() -> Self {
        let installed = Self;
        install(&[], &[]);
        installed
    }

    /// Sets the script's variables.
    #[allow(clippy::unused_self)] // it is there only while this is
    fn configure(&self, text: &str) {
        fs::create_dir_all("/etc/rc.conf.d").unwrap();
        fs::write(VARIABLES, text).unwrap();
    }

    /// Names the disk's root in the flags of every call.
    fn flags(&self, disk: &Disk, further: &str) {
        self.configure(&format!("dualroot_flags=\"-r {}\"\n{further}", disk.root().display()));
    }

    #[allow(clippy::unused_self)]
    #[track_caller]
    fn service(&self, words: &[&str]) -> Run {
        Run::of(program("service").arg("dualroot").args(words))
    }
}

impl Drop for Installed {
    fn drop(&mut self) {
        let _ = fs::remove_file(VARIABLES);
        let run = Run::of(program("/bin/sh").args(["scripts/install.sh", "--uninstall"]));
        assert!(std::thread::panicking() || run.code == 0, "{run}");
    }
}

fn disk() -> Disk {
    let disk = Disk::new(Layout::default());
    disk.fill();
    disk
}

/// A snapshot of the running root, as a run leaves it that a power cut ends.
fn leave_a_snapshot(disk: &Disk) -> PathBuf {
    let file = disk.root().join(".snap/99999.dualroot");
    tool("mksnap_ffs", &[&file]);
    file
}

/// Exactly these lines on the console.
#[track_caller]
fn reports(run: Run, lines: &[String]) {
    let run = run.exits(0);
    assert_eq!(run.stderr.lines().collect::<Vec<_>>(), lines, "{run}");
    assert_eq!(run.stdout, "", "{run}");
}

fn into_a_directory() {
    let dest = Path::new(BASE).join("dest");
    fs::create_dir_all(&dest).unwrap();
    install(&[("DESTDIR", &dest)], &[]);
    assert_eq!(files(&dest), expected("usr/local/"));
    let man8 = dest.join("usr/local/share/man/man8");
    for dir in man8.ancestors().take_while(|dir| *dir != dest) {
        assert_eq!(fs::metadata(dir).unwrap().mode() & 0o7777, 0o755, "{}", dir.display());
    }
    let manual = man8.join("dualroot.8.gz");
    let before = fs::read(&manual).unwrap();
    install(&[("DESTDIR", &dest)], &[]);
    assert_eq!(files(&dest), expected("usr/local/"), "once more");
    assert_eq!(fs::read(&manual).unwrap(), before);
    // The base system's mandoc(1) reads it, and has nothing to find fault with.
    let text = dest.join("dualroot.8");
    fs::write(&text, tool("zcat", &[&manual])).unwrap();
    assert_eq!(tool("mandoc", &[&"-T", &"lint", &"-W", &"warning", &text]), "");
    assert!(
        tool("mandoc", &[&"-T", &"ascii", &text])
            .contains("was refused before anything was written")
    );
    let moved = Path::new("/opt/dualroot");
    install(&[("DESTDIR", &dest), ("PREFIX", moved)], &[]);
    let script = fs::read_to_string(dest.join("opt/dualroot/etc/rc.d/dualroot")).unwrap();
    assert!(script.contains("\"/opt/dualroot/sbin/dualroot\"") && !script.contains("/usr/local"));
    install(&[("DESTDIR", &dest), ("PREFIX", moved)], &["--uninstall"]);
    install(&[("DESTDIR", &dest)], &["--uninstall"]);
    let left: Vec<_> = files(&dest).into_keys().collect();
    assert_eq!(left, ["dualroot.8"]);
}

fn in_its_place() {
    let local = Path::new("/usr/local");
    let before = files(local);
    let mut all = before.clone();
    all.extend(expected(""));
    let installed = Installed::new();
    assert_eq!(files(local), all);
    Run::of(program("/usr/local/sbin/dualroot").arg("--version")).exits(0);
    drop(installed);
    assert_eq!(files(local), before);
}

/// rcorder(8) has nothing to complain of that it has not without the script. (A system that was built
/// without some service lacks what others require.)
fn the_order_of_the_boot() {
    let order = |local: &str| {
        let line = format!("rcorder -s nostart /etc/rc.d/* {local}");
        Run::of(program("/bin/sh").args(["-c", &line]))
    };
    let without = order("");
    let _installed = Installed::new();
    let with = order("/usr/local/etc/rc.d/*");
    assert_eq!((with.code, &with.stderr), (without.code, &without.stderr));
    let place = |name: &str| {
        let lines: Vec<_> = with.stdout.lines().collect();
        lines.iter().position(|l| *l == name).unwrap_or_else(|| panic!("no {name}: {with}"))
    };
    let own = place(SCRIPT);
    for before in ["root", "mountcritlocal", "var", "cleanvar", "FILESYSTEMS", "syslogd"] {
        assert!(place(&format!("/etc/rc.d/{before}")) < own, "{before}");
    }
    for after in ["LOGIN", "cron", "securelevel", "bgfsck"] {
        assert!(own < place(&format!("/etc/rc.d/{after}")), "{after}");
    }
    let auto = place("/usr/local/etc/rc.d/auto-snapshot");
    assert!(own < auto && auto < place("/etc/rc.d/motd"), "{with}");
    let jailed = Run::of(
        program("/bin/sh")
            .args(["-c", "rcorder -s nojail /etc/rc.d/* /usr/local/etc/rc.d/* 2>/dev/null"]),
    );
    assert!(jailed.stdout.contains("/etc/rc.d/LOGIN"), "{jailed}");
    assert!(!jailed.stdout.contains(SCRIPT), "{jailed}");
}

/// Both scripts in the order of the boot, with a template that takes no notice, as on a read-only root. A
/// program in the place of ours puts it where it would go.
fn the_notice_outlives_the_making_of_motd() {
    const SHOWN: &str = "/var/run/motd";
    const TEMPLATE: &str = "/etc/motd.template";
    let installed = Installed::new();
    stand_in(
        "case $* in *--assess) exit 3;; esac; [ ! -f /var/run/motd ] || echo WARNING >>/var/run/motd",
    );
    let _ = fs::remove_file(SHOWN);
    if !Path::new(TEMPLATE).exists() {
        skip("motd is made otherwise here");
    }
    tool("chflags", &[&"schg", &TEMPLATE]);
    let lines = "autoboot=yes; rc_fast=yes; . /etc/rc.subr; load_rc_config; auto_snapshot_enable=YES; update_motd=YES; \
        auto_snapshot_log=/dev/null; for script in $(rcorder -s nostart /etc/rc.d/* \
        /usr/local/etc/rc.d/* 2>/dev/null); do case $script in \
        */motd | */auto-snapshot) run_rc_script $script faststart;; esac; done";
    let run = Run::of(program("/bin/sh").args(["-c", lines]));
    let read = || fs::read_to_string(SHOWN).unwrap_or_default();
    let begun = Instant::now();
    while !read().ends_with("WARNING\n") && begun.elapsed() < Duration::from_secs(30) {
        sleep(Duration::from_millis(100));
    }
    tool("chflags", &[&"noschg", &TEMPLATE]);
    let run = run.exits(0).says("BOOTED FROM THE BACKUP");
    assert!(read().ends_with("WARNING\n"), "{}: {run}", read());
    assert!(read().starts_with("FreeBSD"), "{}", read());
    tool("service", &[&"motd", &"onestart"]);
    drop(installed);
}

/// Puts a shell script in the place of the program.
fn stand_in(lines: &str) {
    fs::remove_file("/usr/local/sbin/dualroot").unwrap();
    fs::write("/usr/local/sbin/dualroot", format!("#!/bin/sh\n{lines}\n")).unwrap();
    fs::set_permissions("/usr/local/sbin/dualroot", fs::Permissions::from_mode(0o555)).unwrap();
}

fn switched_on_and_off() {
    let installed = Installed::new();
    installed.service(&["enabled"]).exits(1);
    // Off, it does nothing and says how to switch it on.
    installed.service(&["start"]).exits(0).prints("Set dualroot_enable to YES");
    reports(installed.service(&["faststart"]), &[]);
    installed.configure("dualroot_enable=\"YES\"\n");
    installed.service(&["enabled"]).exits(0);
    installed.service(&["rcvar"]).exits(0).prints("dualroot_enable=\"YES\"");
    installed.service(&["describe"]).exits(0).prints("Keep the other root bootable");
    assert_eq!(installed.service(&["stop"]).exits(0).stdout, "");
    assert!(tool("service", &[&"-e"]).lines().any(|l| l == SCRIPT));
}

/// What a power cut leaves and a boot puts right, or tells of.
fn a_leftover_is_removed_and_the_slot_reported() {
    let (installed, disk) = (Installed::new(), disk());
    installed.flags(&disk, "");
    let (node, root) = (disk.node(2), disk.root());
    let tells = |state: &str, why: &str| {
        let repair = format!("repair it: dualroot -r {} snapshot", root.display());
        format!("dualroot: slot 2 ({node}) is {state}: {why}; {repair}")
    };
    let empty = tells("empty", "no file system that dualroot knows is on it");
    reports(installed.service(&["onestart"]), std::slice::from_ref(&empty));
    let file = leave_a_snapshot(&disk);
    let removed = format!("dualroot: {}: removed", file.display());
    reports(installed.service(&["onestart"]), &[removed, empty]);
    assert!(!file.exists());
    assert_eq!(try_tool("snapinfo", &[&root]).stdout, "");

    // What is valid is not talked about, however often it is looked at.
    disk.snapshot();
    for _ in 0..2 {
        reports(installed.service(&["onestart"]), &[]);
    }

    let copy = crate::disk::Mounted::new(&[], &disk.node(2), &disk.side("copy"));
    fs::remove_file(copy.path().join(".dualroot/record.json")).unwrap();
    drop(copy);
    let why = "it has no record: no snapshot of it was finished";
    reports(installed.service(&["onestart"]), &[tells("invalid", why)]);
    disk.assert_unmounted();

    // A name with a quote comes through as it is.
    let copy = crate::disk::Mounted::new(&[], &disk.node(2), &disk.side("copy"));
    fs::write(copy.path().join(".dualroot/record.json"), "{\"schema\": \"odd\"}").unwrap();
    drop(copy);
    let run = installed.service(&["onestart"]).exits(0);
    let reason = disk.slot(2)["reason"].as_str().unwrap().to_owned();
    assert!(reason.contains('"') && disk.state() == "unknown", "{reason}");
    reports(run, &[tells("unknown", &reason)]);
    // The command that is told of does repair it.
    let line = format!("/usr/local/sbin/dualroot --progress none -r {} snapshot", root.display());
    Run::of(program("/bin/sh").args(["-c", &line])).exits(0);
    reports(installed.service(&["onestart"]), &[]);
}

/// The script as /etc/rc runs it: sourced by a shell that goes on.
fn the_boot_itself() {
    let (installed, disk) = (Installed::new(), disk());
    let boot = || {
        let lines = format!(
            "autoboot=yes; rc_fast=yes; . /etc/rc.subr; load_rc_config; \
             run_rc_script {SCRIPT} faststart; echo \"went on: $?\""
        );
        Run::of(program("/bin/sh").args(["-c", &lines])).exits(0)
    };
    installed.flags(&disk, "");
    let run = boot();
    assert_eq!((run.stdout.as_str(), run.stderr.as_str()), ("went on: 0\n", ""), "switched off");
    installed.flags(&disk, "dualroot_enable=YES\n");
    let run = boot().says("is empty: ");
    assert_eq!((run.stdout.as_str(), run.stderr.lines().count()), ("went on: 0\n", 1), "{run}");
    disk.snapshot();
    let run = boot();
    assert_eq!((run.stdout.as_str(), run.stderr.as_str()), ("went on: 0\n", ""), "{run}");
}

fn its_commands() {
    let (installed, disk) = (Installed::new(), disk());
    installed.flags(&disk, "");
    installed.service(&["onestatus"]).exits(0).prints("State: empty");
    // The program's exit codes, and further words for it.
    installed.service(&["oneverify"]).fails(3, "no file system that dualroot knows is on it");
    installed.service(&["onesnapshot", "-n"]).exits(0).prints("1. erase the old copy of /");
    assert_eq!(disk.state(), "empty");
    installed.service(&["onesnapshot"]).exits(0).prints("read back and equal");
    installed.service(&["onestatus", "--slice", "alternate"]).exits(0).prints("State: valid");
    installed.service(&["oneverify"]).exits(0).prints("equal to its manifest");
    installed.service(&["oneverify", "--slice", "1"]).fails(6, "slot 1 is running");
    // Not switched on, it says so.
    installed.service(&["status"]).exits(0).prints("Set dualroot_enable to YES");

    // A snapshot that runs is not in its way, and it not in that one's.
    disk.much(8);
    let running: Running = disk.halted(false);
    let pid = running.pid();
    let locked =
        format!("dualroot: {} is locked by process {pid} (dualroot snapshot)", disk.name());
    let writing = format!(
        "dualroot: slot 2 ({}) is not valid yet: process {pid} is writing it",
        disk.node(2)
    );
    reports(installed.service(&["onestart"]), &[locked, writing]);
    running.signal(nix::sys::signal::Signal::SIGCONT);
    running.wait().exits(0);
    assert_eq!(disk.state(), "valid");
}

fn a_box_without_a_second_slot() {
    let installed = Installed::new();
    installed.configure("dualroot_enable=YES\n");
    let run = installed.service(&["start"]).exits(0);
    let lines: Vec<_> = run.stderr.lines().collect();
    assert!(lines.len() == 1 && run.stdout.is_empty(), "{run}");
    assert!(lines[0].starts_with("dualroot: no alternate slot for / ("), "{run}");
    installed.service(&["status"]).fails(6, "no alternate slot for / (");
}

/// Whatever it is, it is one line, and the boot goes on.
fn what_else_goes_wrong() {
    let (installed, disk) = (Installed::new(), disk());
    disk.snapshot();
    installed.configure("dualroot_flags=\"-c /nonexistent\"\n");
    let line = "dualroot: reading /nonexistent: no such file".to_owned();
    reports(installed.service(&["onestart"]), &[line]);
    disk.write("etc/dualroot.conf", "rot = 1\n");
    installed.flags(&disk, "");
    let run = installed.service(&["onestart"]).exits(0).says("dualroot.conf: line 1: ");
    assert_eq!(run.stderr.lines().count(), 1, "{run}");
    fs::remove_file(disk.root().join("etc/dualroot.conf")).unwrap();
    reports(installed.service(&["onestart"]), &[]);

    // A program that hangs is not waited for.
    stand_in("exec sleep 100");
    installed.configure("dualroot_timeout=1\n");
    let line = "dualroot: no answer within 1 seconds".to_owned();
    reports(installed.service(&["onestart"]), &[line]);
    // Nor one that is not there.
    fs::remove_file("/usr/local/sbin/dualroot").unwrap();
    let line = "dualroot: clean ended with exit code 127".to_owned();
    reports(installed.service(&["onestart"]), &[line]);
}
