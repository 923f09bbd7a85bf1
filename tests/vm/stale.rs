//! The first seed replayed: a mount of the slot that nobody owns any more. `show` works in every
//! one of these, and a snapshot clears what may be cleared.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;

use nix::sys::signal::Signal;

use crate::disk::{Disk, Layout, Mounted, mounts};
use crate::harness::{Holder, Run, Test, tests, tool, try_tool, wait_until};

pub const TESTS: &[Test] = tests![
    the_first_seed,
    mounted_read_only,
    mounted_by_label,
    mounted_elsewhere_and_twice,
    busy_by_its_directory,
    busy_by_an_open_file,
    force_clears_a_busy_one,
    something_foreign_on_altroot,
    a_foreign_mount_inside,
    left_by_a_killed_run,
    the_run_directory_behind_a_link,
    a_rehearsal_left_by_a_killed_run,
    killed_while_it_verifies,
    ended_by_a_signal,
    unmounted_by_force_under_a_run,
    not_cleanly_unmounted,
    two_runs_at_once,
    clean_tells_what_it_did,
];

fn disk() -> Disk {
    let disk = Disk::new(Layout { newfs: vec!["-U", "-L", "vmstale1"], ..Layout::default() });
    disk.fill();
    disk.snapshot();
    disk
}

/// Leaves the slot mounted, as a run that is gone does.
fn leave(words: &[&str], device: &str, point: &Path) {
    std::mem::forget(Mounted::new(words, device, point));
}

/// `show` tells of both slots, and that slot 2 is so.
#[track_caller]
fn shows(disk: &Disk, state: &str) {
    let text = disk.dualroot(&["show"]).exits(0).stdout;
    assert!(text.contains("(primary)") && text.contains("(backup)"), "{text}");
    assert!(!text.contains("cannot mount"), "{text}");
    assert_eq!(disk.state(), state);
}

/// A snapshot clears the mount and is valid, and no word of an error is said.
#[track_caller]
fn is_cleared(disk: &Disk) {
    shows(disk, "valid");
    let run = disk.snapshot();
    assert!(!run.stdout.contains("not currently mounted"), "{run}");
    assert_eq!(run.stderr, "");
    disk.assert_unmounted();
    shows(disk, "valid");
    disk.dualroot(&["verify"]).exits(0);
}

/// `mount: /dev/da0s2a : Operation not permitted` in its log, `cannot mount /dev/da0s2a` in `show`:
/// the slot is mounted at /altroot, and so GEOM gives it to nobody else (`g_access`; since 13 the
/// same node says "Device busy" before GEOM is asked). `umount /altroot` by hand was the cure.
fn the_first_seed() {
    let disk = disk();
    leave(&[], &disk.node(2), &disk.altroot());
    let run = try_tool("mount", &[&disk.node(2), &disk.side("second")]);
    let words = ["Operation not permitted", "Device busy"];
    assert!(words.iter().any(|w| run.stderr.contains(w)), "{run}");
    is_cleared(&disk);
}

fn mounted_read_only() {
    let disk = disk();
    leave(&["-o", "ro"], &disk.node(2), &disk.altroot());
    is_cleared(&disk);
}

/// glabel(8) puts the label on the slice where `a` begins with it, and who opens the slice for
/// writing takes the BSD label's partitions away: `/dev/…s2a` is not there while this lasts.
fn mounted_by_label() {
    let disk = disk();
    let label = "/dev/ufs/vmstale2";
    for words in [&[][..], &["-o", "ro"]] {
        for args in [&["snapshot"][..], &["verify"], &["clean"]] {
            wait_until("the label is there", || Path::new(label).exists());
            leave(words, label, &disk.altroot());
            assert_eq!(mounts().last().unwrap().source, label);
            assert_eq!(Path::new(&disk.node(2)).exists(), !words.is_empty());
            shows(&disk, "valid");
            assert_eq!(disk.slot(2)["device"], disk.node(2).as_str());
            disk.dualroot(args).exits(0);
            assert!(!mounts().iter().any(|m| m.source == label), "it is still mounted");
            assert!(Path::new(&disk.node(2)).exists(), "the partition is not back");
            shows(&disk, "valid");
        }
    }
    disk.assert_unmounted();
    // Kept busy, it is named, and by force it goes.
    wait_until("the label is there", || Path::new(label).exists());
    leave(&[], label, &disk.altroot());
    let holder = Holder::inside(&disk.altroot().join("etc"));
    let words = format!("process {} (sleep)", holder.pid());
    disk.dualroot(&["snapshot"]).fails(4, &words).says("hint: ");
    disk.dualroot(&["snapshot", "--force"]).exits(0);
    drop(holder);
    shows(&disk, "valid");
    disk.dualroot(&["verify"]).exits(0);
}

fn mounted_elsewhere_and_twice() {
    let disk = disk();
    leave(&[], &disk.node(2), &disk.side("elsewhere"));
    is_cleared(&disk);
    // Read-only, it can be mounted twice, by two of its names.
    wait_until("the label is there", || Path::new("/dev/ufs/vmstale2").exists());
    leave(&["-o", "ro"], &disk.node(2), &disk.side("elsewhere"));
    leave(&["-o", "ro"], "/dev/ufs/vmstale2", &disk.altroot());
    is_cleared(&disk);
    assert!(mounts().iter().all(|m| !m.point.ends_with("elsewhere")));
}

/// The mount stays, and who keeps it is named.
#[track_caller]
fn is_busy(disk: &Disk, holder: &Holder) {
    shows(disk, "valid");
    let before = disk.hash(&disk.part(2));
    for args in [&["snapshot"][..], &["clean"], &["verify"]] {
        let words = format!("process {} (sleep)", holder.pid());
        disk.dualroot(args).fails(4, &words).says("hint: ");
    }
    assert_eq!(disk.alternate_mounts().len(), 1);
    assert!(disk.hash(&disk.part(2)) == before);
}

fn busy_by_its_directory() {
    let disk = disk();
    leave(&["-o", "ro"], &disk.node(2), &disk.altroot());
    let holder = Holder::inside(&disk.altroot().join("etc"));
    is_busy(&disk, &holder);
    drop(holder);
    is_cleared(&disk);
}

fn busy_by_an_open_file() {
    let disk = disk();
    leave(&["-o", "ro"], &disk.node(2), &disk.altroot());
    let file = fs::File::open(disk.altroot().join("boot/kernel/kernel")).unwrap();
    let holder = Holder::with(file.try_clone().unwrap());
    drop(file);
    is_busy(&disk, &holder);
    drop(holder);
    is_cleared(&disk);
}

fn force_clears_a_busy_one() {
    let disk = disk();
    for args in [&["snapshot", "--force"][..], &["clean", "--force"]] {
        leave(&[], &disk.node(2), &disk.altroot());
        let holder = Holder::inside(&disk.altroot().join("etc"));
        disk.dualroot(args).exits(0);
        disk.assert_unmounted();
        shows(&disk, "valid");
        drop(holder);
    }
    disk.dualroot(&["verify"]).exits(0);
}

fn something_foreign_on_altroot() {
    let disk = disk();
    let over = Mounted::new(&["-t", "tmpfs"], "tmpfs", &disk.altroot());
    shows(&disk, "valid");
    for args in [&["snapshot"][..], &["clean"]] {
        disk.dualroot(args).fails(4, "tmpfs").says("hint: ");
    }
    // Over the slot's own mount, too: nobody can look into that any more.
    drop(over);
    leave(&[], &disk.node(2), &disk.altroot());
    leave(&["-t", "tmpfs"], "tmpfs", &disk.altroot());
    disk.dualroot(&["show"]).exits(0).prints("(primary)").prints("(backup)");
    disk.dualroot(&["snapshot"]).fails(4, "tmpfs");
    disk.dualroot(&["snapshot", "--force"]).exits(0);
    disk.assert_unmounted();
    shows(&disk, "valid");
}

fn a_foreign_mount_inside() {
    let disk = disk();
    leave(&[], &disk.node(2), &disk.altroot());
    leave(&["-t", "tmpfs"], "tmpfs", &disk.altroot().join("var/empty"));
    shows(&disk, "valid");
    disk.dualroot(&["snapshot"]).fails(4, "tmpfs");
    disk.dualroot(&["snapshot", "--force"]).exits(0);
    disk.assert_unmounted();
    shows(&disk, "valid");
}

// ---- runs that do not end well --------------------------------------------------------------

/// What a dead run left: not valid, told by `show`, and no obstacle for the next.
#[track_caller]
fn the_next_run_clears(disk: &Disk) {
    let text = disk.dualroot(&["show"]).exits(0).stdout;
    assert!(text.contains("(primary)") && text.contains("(backup)"), "{text}");
    assert_ne!(disk.state(), "valid");
    disk.snapshot();
    disk.assert_unmounted();
    shows(disk, "valid");
    disk.dualroot(&["verify"]).exits(0);
}

fn left_by_a_killed_run() {
    let disk = disk();
    disk.much(12);
    let running = disk.halted(false);
    assert_eq!(disk.state(), "writing");
    running.signal(Signal::SIGKILL);
    running.wait().exits(1009);
    the_next_run_clears(&disk);
}

/// `/var` is a link on some systems, and the mount table has every path without links.
fn the_run_directory_behind_a_link() {
    const LINK: &str = "/var/run/dualroot";
    const BEHIND: &str = "/var/run/vm-behind";
    struct Behind;
    impl Drop for Behind {
        fn drop(&mut self) {
            fs::remove_file(LINK).and_then(|()| fs::rename(BEHIND, LINK)).unwrap();
        }
    }
    let disk = disk();
    fs::rename(LINK, BEHIND).unwrap();
    let behind = Behind;
    symlink("vm-behind", LINK).unwrap();
    let left = Path::new(BEHIND).join("99999.show");
    fs::create_dir(&left).unwrap();
    leave(&["-o", "ro"], &disk.node(2), &left);
    shows(&disk, "valid");
    disk.dualroot(&["snapshot", "--fresh"]).exits(0);
    disk.dualroot(&["verify"]).exits(0);
    disk.assert_unmounted();
    assert!(!left.exists());
    assert!(!mounts().iter().any(|m| m.point.starts_with(BEHIND)));
    drop(behind);
}

/// The memory disk of a format that is tried; others may have one, too, of whatever name.
fn a_rehearsal_left_by_a_killed_run() {
    let disk = disk();
    let daemon = Holder::inside(Path::new("/"));
    let labels = ["99999.dualroot", &format!("{}.dualroot", daemon.pid()), "99999.kept"];
    let disks = labels.map(|label| {
        tool("mdconfig", &[&"-a", &"-t", &"swap", &"-s", &"1m", &"-L", &label]).trim().to_owned()
    });
    disk.dualroot(&["clean"]).exits(0);
    let there = disks.each_ref().map(|name| Path::new("/dev").join(name).exists());
    tool("mdconfig", &[&"-d", &"-u", &disks[2]]);
    assert_eq!(there, [false, false, true]);
}

fn killed_while_it_verifies() {
    let disk = disk();
    disk.much(12);
    let running = disk.halted(true);
    running.signal(Signal::SIGKILL);
    running.wait().exits(1009);
    the_next_run_clears(&disk);
}

fn ended_by_a_signal() {
    let disk = disk();
    disk.much(12);
    for (signal, read_only) in
        [(Signal::SIGINT, false), (Signal::SIGTERM, true), (Signal::SIGTERM, false)]
    {
        let running = disk.halted(read_only);
        running.signal(signal);
        running.signal(Signal::SIGCONT);
        running.wait().exits(128 + signal as i32);
        disk.assert_unmounted();
        assert_ne!(disk.state(), "valid");
    }
    the_next_run_clears(&disk);
}

/// An operator tears the copy from under a run (umount(8) -f). One that was about to unmount it by
/// itself lacks nothing, and another one is tried.
fn unmounted_by_force_under_a_run() {
    let disk = disk();
    disk.much(12);
    let fails = |read_only: bool| {
        // It is mounted to remove its record first, and would be about to be unmounted.
        let copy = Mounted::new(&[], &disk.node(2), &disk.side("copy"));
        let _ = fs::remove_file(disk.side("copy").join(".dualroot/record.json"));
        drop(copy);
        let running = disk.halted(read_only);
        Run::of(crate::harness::program("umount").arg("-f").arg(disk.altroot())).exits(0);
        running.signal(Signal::SIGCONT);
        let run = running.wait();
        disk.assert_unmounted();
        // Nothing was written to the directory below in its place.
        assert_eq!(fs::read_dir(disk.altroot()).unwrap().count(), 0, "{run}");
        if run.code == 0 {
            disk.dualroot(&["verify"]).exits(0);
            return false;
        }
        assert!(matches!(run.code, 1 | 4 | 5), "{run}");
        assert_ne!(disk.state(), "valid");
        true
    };
    for read_only in [false, true] {
        assert!((0..5).any(|_| fails(read_only)), "it is always about to end");
    }
    the_next_run_clears(&disk);
}

/// The power went while the slot was mounted to be written: mount(8) refuses it read-write (without
/// soft updates), which is no obstacle for who makes it anew.
fn not_cleanly_unmounted() {
    let disk = Disk::new(Layout { newfs: vec![], ..Layout::default() });
    disk.fill();
    disk.snapshot();
    // fs_clean stays 0 on the medium while a read-write mount lasts: a copy of it then has none.
    leave(&[], &disk.node(2), &disk.altroot());
    fs::write(disk.altroot().join("etc/half"), "half").unwrap();
    let saved = disk.side("saved").join("image");
    tool("dd", &[&format!("if={}", disk.node(2)), &format!("of={}", saved.display()), &"bs=1m"]);
    tool("umount", &[&disk.altroot()]);
    tool("dd", &[&format!("if={}", saved.display()), &format!("of={}", disk.node(2)), &"bs=1m"]);
    fs::remove_file(saved).unwrap();
    let run = try_tool("mount", &[&disk.node(2), &disk.altroot()]);
    assert!(run.code != 0, "it counts as clean: {run}");
    disk.dualroot(&["show"]).exits(0).prints("(backup)");
    disk.snapshot();
    shows(&disk, "valid");
}

fn two_runs_at_once() {
    let disk = disk();
    disk.much(12);
    let first = disk.halted(false);
    let words = format!("process {} (dualroot snapshot)", first.pid());
    for args in [&["snapshot"][..], &["snapshot", "--force"], &["verify"], &["clean", "--force"]] {
        disk.dualroot(args).fails(4, &words);
    }
    assert_eq!(disk.state(), "writing");
    first.signal(Signal::SIGCONT);
    first.wait().exits(0);
    shows(&disk, "valid");
}

fn clean_tells_what_it_did() {
    let disk = disk();
    let before = disk.hash(&disk.part(2));
    disk.dualroot(&["clean"]).exits(0).prints("umount: /altroot: not currently mounted\n");
    leave(&["-o", "ro"], &disk.node(2), &disk.altroot());
    let line = format!("{}: unmounted {}\n", disk.altroot().display(), disk.node(2));
    let run = disk.dualroot(&["clean"]).exits(0);
    assert_eq!(run.stdout, line);
    disk.assert_unmounted();
    assert!(disk.hash(&disk.part(2)) == before, "clean wrote to the slot");
}
