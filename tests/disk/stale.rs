//! What is mounted in the way: the alternate slot itself, left mounted by whomever, is cleared;
//! what somebody uses, and what is not the slot, is refused and named.

use std::fs;
use std::path::{Path, PathBuf};

use nix::mount::{MsFlags, mount};
use nix::sys::stat::{Mode, SFlag, mknod};

use crate::harness::{Disk, Holder, Layout, Run, mounts, program, ready, unmount};

const NOT_MOUNTED: &str = "umount: /altroot: not currently mounted\n";

/// Two small roots, the second one a valid copy.
fn disk() -> Disk {
    let disk = Disk::new(Layout::roots(16, 16));
    disk.fill();
    disk.snapshot();
    disk
}

fn altroot(disk: &Disk) -> PathBuf {
    disk.root().join("altroot")
}

/// Mounts slice 2 on a directory, made where it is missing.
fn leave(disk: &Disk, point: &Path, read_only: bool) {
    fs::create_dir_all(point).unwrap();
    disk.mount(&disk.part(2), point, read_only);
}

fn mount_tmpfs(point: &Path) {
    mount(Some("tmpfs"), point, Some("tmpfs"), MsFlags::empty(), None::<&str>).unwrap();
}

fn bind(from: &Path, to: &Path) {
    mount(Some(from), to, None::<&str>, MsFlags::MS_BIND, None::<&str>).unwrap();
}

/// The mounts of a disk, which `show` must leave as they are. Not those in the run directory: what
/// dead runs left there goes whenever any run sweeps it.
fn table(disk: &Disk) -> Vec<String> {
    let of_disk = disk.mounts().into_iter().filter(|m| !m.point.starts_with("/run/dualroot"));
    of_disk.map(|m| format!("{} {}", m.source, m.point.display())).collect()
}

/// `show` works and tells of both slots, the second one in this state.
#[track_caller]
fn shows_both(disk: &Disk, state: &str) {
    let before = table(disk);
    let run = disk.dualroot(&["show"]).exits(0);
    assert!(!run.stdout.contains("error"), "{run}");
    for n in [1, 2] {
        assert!(run.stdout.contains(&format!("internal ({}) (", disk.node(n))), "{run}");
    }
    assert!(run.stdout.contains(&format!("State: {state}")), "{run}");
    assert_eq!(disk.state(), state);
    assert_eq!(table(disk), before, "show changed mounts");
}

/// The slot was left mounted: `show` works, `snapshot` clears it and goes on. Where it was a run that
/// was killed, that is told, and nothing else.
#[track_caller]
fn is_cleared(disk: &Disk, state: &str) {
    shows_both(disk, state);
    if state == "invalid" {
        let run = disk.dualroot(&["show"]).exits(0);
        let line = run.stdout.lines().find(|line| line.starts_with("Interrupted: ")).unwrap();
        let what = format!("snapshot of {} to {}, begun ", disk.node(1), disk.node(2));
        let when = line.strip_prefix(&format!("Interrupted: {what}")).unwrap();
        // As all dates of it: `Nov 20 11:28:38 2026`.
        assert!(when.split(' ').count() == 4 && !when.contains('T'), "{run}");
    }
    let run = disk.dualroot(&["snapshot"]).exits(0);
    assert!(!run.stdout.contains("not currently mounted"), "{run}");
    let mut said = run.stderr.lines();
    if state == "invalid" {
        assert!(said.next().is_some_and(|line| line.ends_with("was interrupted")), "{run}");
    }
    assert_eq!(said.next(), None, "{run}");
    assert_eq!(disk.state(), "valid");
    disk.assert_unmounted();
}

#[test]
fn nothing_mounted_is_said_in_the_seeds_words() {
    if !ready(&[]) {
        return;
    }
    let disk = disk();
    shows_both(&disk, "valid");
    let run = disk.snapshot();
    assert!(run.stdout.starts_with(NOT_MOUNTED), "{run}");
}

#[test]
fn on_altroot() {
    if !ready(&[]) {
        return;
    }
    let disk = disk();
    leave(&disk, &altroot(&disk), false);
    is_cleared(&disk, "valid");
}

#[test]
fn on_altroot_read_only() {
    if !ready(&[]) {
        return;
    }
    let disk = disk();
    leave(&disk, &altroot(&disk), true);
    is_cleared(&disk, "valid");
}

#[test]
fn on_another_path() {
    if !ready(&[]) {
        return;
    }
    let disk = disk();
    leave(&disk, &disk.tmp().join("else where"), false);
    is_cleared(&disk, "valid");
}

#[test]
fn deep_in_the_running_root() {
    if !ready(&[]) {
        return;
    }
    let disk = disk();
    leave(&disk, &disk.root().join("var/tmp/a/b/c"), false);
    is_cleared(&disk, "valid");
}

#[test]
fn twice_on_two_paths() {
    if !ready(&[]) {
        return;
    }
    let disk = disk();
    leave(&disk, &altroot(&disk), false);
    leave(&disk, &disk.tmp().join("second"), false);
    is_cleared(&disk, "valid");
}

#[test]
fn twice_on_one_path() {
    if !ready(&[]) {
        return;
    }
    let disk = disk();
    leave(&disk, &altroot(&disk), false);
    // The same again on the same directory is refused by mount(2), a bind mount is not.
    bind(&altroot(&disk), &altroot(&disk));
    assert_eq!(disk.alternate_mounts().len(), 2);
    is_cleared(&disk, "valid");
}

#[test]
fn inside_itself() {
    if !ready(&[]) {
        return;
    }
    let disk = disk();
    leave(&disk, &altroot(&disk), false);
    leave(&disk, &altroot(&disk).join("var/empty"), false);
    is_cleared(&disk, "valid");
}

/// Two nodes with one device number are one partition, whatever the mount table calls it.
#[test]
fn by_another_node() {
    if !ready(&[]) {
        return;
    }
    let disk = disk();
    // /dev/shm is often mounted so that device nodes are dead there.
    let dir = tempfile::tempdir().unwrap();
    let node = dir.path().join("node");
    let number = nix::sys::stat::stat(&disk.part(2)).unwrap().st_rdev;
    mknod(&node, SFlag::S_IFBLK, Mode::S_IRUSR | Mode::S_IWUSR, number).unwrap();
    disk.mount(&node, &altroot(&disk), false);
    let source = node.to_str().unwrap();
    assert!(mounts().iter().any(|m| m.source == source), "the table has the other name");
    is_cleared(&disk, "valid");
    assert!(!mounts().iter().any(|m| m.source == source));
}

#[test]
fn a_part_of_it_bound_elsewhere() {
    if !ready(&[]) {
        return;
    }
    let disk = disk();
    leave(&disk, &altroot(&disk), false);
    let bound = disk.tmp().join("bound");
    fs::create_dir(&bound).unwrap();
    bind(&altroot(&disk).join("etc"), &bound);
    is_cleared(&disk, "valid");
}

/// The only mount that there is does not show the slot's root.
#[test]
fn only_a_part_of_it_bound() {
    if !ready(&[]) {
        return;
    }
    let disk = disk();
    leave(&disk, &altroot(&disk), false);
    let bound = disk.tmp().join("bound");
    fs::create_dir(&bound).unwrap();
    bind(&altroot(&disk).join("etc"), &bound);
    unmount(&altroot(&disk));
    is_cleared(&disk, "valid");
}

#[test]
fn left_by_a_snapshot_killed_in_the_copy() {
    if !ready(&["cc"]) {
        return;
    }
    let disk = disk();
    disk.halt(&["snapshot", "--fresh"], ("create", "20.txt", 0)).kill();
    assert_eq!(disk.alternate_mounts().len(), 1);
    is_cleared(&disk, "invalid");
}

#[test]
fn left_by_a_snapshot_killed_in_the_verification() {
    if !ready(&["cc"]) {
        return;
    }
    let disk = disk();
    disk.halt(&["snapshot", "--fresh"], ("open", "20.txt", 1)).kill();
    let left = disk.alternate_mounts();
    assert!(left.len() == 1 && left[0].options.starts_with("ro"), "{left:?}");
    is_cleared(&disk, "invalid");
}

#[test]
fn left_by_a_killed_show() {
    if !ready(&["cc"]) {
        return;
    }
    let disk = disk();
    let show = disk.halt(&["show"], ("umount", ".show", 0));
    let point = PathBuf::from(format!("/run/dualroot/{}.show", show.running.pid()));
    assert!(disk.alternate_mounts().iter().any(|m| m.point == point));
    show.kill();
    shows_both(&disk, "valid");
    disk.snapshot();
    assert_eq!(disk.state(), "valid");
    disk.assert_unmounted();
    assert!(!point.exists(), "the private mount point stayed");
}

/// A dead run's process id belongs to somebody else by now.
#[test]
fn left_by_a_killed_show_whose_number_is_taken() {
    if !ready(&[]) {
        return;
    }
    let disk = disk();
    let other = Holder::inside(disk.tmp());
    let point = PathBuf::from(format!("/run/dualroot/{}.show", other.pid()));
    leave(&disk, &point, true);
    shows_both(&disk, "valid");
    let run = disk.dualroot(&["snapshot"]);
    if run.code != 0 {
        unmount(&point);
        fs::remove_dir(&point).unwrap();
    }
    run.exits(0);
    assert!(!point.exists(), "the private mount point stayed");
}

#[test]
fn left_by_a_killed_verify() {
    if !ready(&["cc"]) {
        return;
    }
    let disk = disk();
    let pid = disk.halt(&["verify"], ("open", "20.txt", 0)).kill();
    shows_both(&disk, "valid");
    disk.dualroot(&["verify"]).exits(0).prints("equal to its manifest");
    assert!(!Path::new(&format!("/run/dualroot/{pid}.verify")).exists());
    disk.assert_unmounted();
}

/// `/config` is not mounted, so that a run mounts it for itself.
#[test]
fn a_source_left_by_a_killed_snapshot() {
    if !ready(&["cc"]) {
        return;
    }
    let disk = Disk::new(Layout::default());
    disk.fill();
    unmount(&disk.root().join("config"));
    let snapshot = disk.halt(&["snapshot", "--fresh"], ("create", "20.txt", 0));
    let point = PathBuf::from(format!("/run/dualroot/{}.source", snapshot.running.pid()));
    assert!(mounts().iter().any(|m| m.point == point));
    snapshot.kill();
    disk.dualroot(&["snapshot"]).exits(0);
    assert_eq!(disk.state(), "valid");
    assert!(!mounts().iter().any(|m| m.point == point), "the source stayed mounted");
    assert!(!point.exists(), "the private mount point stayed");
}

/// `/var` is a link on some systems, and the mount table has every path without links. In a mount
/// namespace of its own, so that no other run sees this run directory.
#[test]
fn the_run_directory_behind_a_link() {
    const SCRIPT: &str = r#"
        mount -t tmpfs tmpfs /run
        mkdir -p /run/real/4999999.show
        ln -s real /run/dualroot
        mount -o ro,noload "$NODE" /run/dualroot/4999999.show
        "$@" show
        "$@" snapshot --fresh
        "$@" verify
        ls /run/real
        ! grep /run/real/ /proc/self/mountinfo"#;
    if !ready(&["unshare"]) {
        return;
    }
    let disk = disk();
    let wanted = disk.command(&[]);
    let mut command = program("unshare");
    command.args(["-m", "sh", "-ec", SCRIPT, "sh"]).arg(wanted.get_program());
    command.args(wanted.get_args()).env("NODE", disk.part(2));
    let run = Run::of(&mut command).exits(0).prints("State: valid").prints("equal to its manifest");
    let mut left = run.stdout.lines().rev().take_while(|line| !line.contains(' '));
    assert!(left.all(|name| Path::new(name).extension().is_some_and(|e| e == "lock")), "{run}");
}

/// What a run leaves in the run directory when it is killed while it rehearses the format.
#[test]
fn a_rehearsal_left_by_a_killed_snapshot() {
    if !ready(&["cc"]) {
        return;
    }
    let disk = disk();
    let snapshot = disk.halt(&["snapshot"], ("spawn", ".rehearsal", 0));
    let file = PathBuf::from(format!("/run/dualroot/{}.rehearsal", snapshot.running.pid()));
    assert!(file.exists());
    snapshot.kill();
    assert_eq!(disk.state(), "valid", "nothing was written yet");
    disk.snapshot();
    assert!(!file.exists(), "the rehearsal stayed");
}

/// Of two pairs only one was left mounted: the other one's line is still told.
#[test]
fn each_pair_has_its_own_line() {
    if !ready(&[]) {
        return;
    }
    for (left, told) in [(2, "/altconfig"), (4, "/altroot")] {
        let disk = Disk::new(Layout::default());
        disk.fill();
        disk.snapshot();
        let point = disk.root().join(if left == 2 { "altroot" } else { "altconfig" });
        disk.mount(&disk.part(left), &point, false);
        let run = disk.dualroot(&["snapshot"]).exits(0);
        let lines: Vec<_> = run.stdout.lines().filter(|l| l.starts_with("umount: ")).collect();
        assert_eq!(lines, [format!("umount: {told}: not currently mounted")], "{run}");
        assert_eq!(disk.state(), "valid");
    }
}

/// Refused with this message, and not a byte of the slot changed.
#[track_caller]
fn refuses(disk: &Disk, args: &[&str], words: &[&str]) -> Run {
    let before = disk.hash_device(2);
    let run = disk.dualroot(args).fails(4, words[0]);
    for word in words {
        assert!(run.stderr.contains(word), "not {word:?}: {run}");
    }
    assert_eq!(disk.hash_device(2), before, "the slot was written: {run}");
    run
}

fn busy(disk: &Disk, mut holder: Holder) {
    let (pid, point) = (holder.pid().to_string(), altroot(disk));
    let words = [point.to_str().unwrap(), &pid, "sleep", "hint: "];
    for args in [&["snapshot"][..], &["clean"], &["verify"]] {
        let run = refuses(disk, args, &words);
        assert!(run.stderr.contains(&disk.node(2)), "{run}");
        // Which verb has the option.
        let hint =
            if args == ["verify"] { "or use dualroot clean --force\n" } else { "or use --force\n" };
        assert!(run.stderr.ends_with(hint), "{run}");
        shows_both(disk, "valid");
    }
    assert!(!holder.ended());
    disk.dualroot(&["snapshot", "--force"]).exits(0);
    assert!(holder.ended(), "the holder is still there");
    assert_eq!(disk.state(), "valid");
    disk.assert_unmounted();
}

/// Mounted read-only, so that nothing but the program could write to it.
#[test]
fn a_working_directory_keeps_it_busy() {
    if !ready(&[]) {
        return;
    }
    let disk = disk();
    leave(&disk, &altroot(&disk), true);
    let holder = Holder::inside(&altroot(&disk).join("etc"));
    busy(&disk, holder);
}

#[test]
fn an_open_file_keeps_it_busy() {
    if !ready(&[]) {
        return;
    }
    let disk = disk();
    leave(&disk, &altroot(&disk), true);
    let holder = Holder::reading(&altroot(&disk).join("boot/kernel/kernel"));
    busy(&disk, holder);
}

/// The second of two mounts is busy: the error names that one.
#[test]
fn the_busy_one_of_two_is_named() {
    if !ready(&[]) {
        return;
    }
    let disk = disk();
    let other = disk.tmp().join("other");
    leave(&disk, &other, true);
    let holder = Holder::inside(&other);
    leave(&disk, &altroot(&disk), true);
    refuses(&disk, &["snapshot"], &[other.to_str().unwrap(), &holder.pid().to_string()]);
    drop(holder);
    is_cleared(&disk, "valid");
}

#[test]
fn clean_by_force() {
    if !ready(&[]) {
        return;
    }
    let disk = disk();
    leave(&disk, &altroot(&disk), true);
    let mut holder = Holder::inside(&altroot(&disk));
    let before = disk.hash_device(2);
    disk.dualroot(&["clean", "--force"]).exits(0).prints(&disk.node(2));
    assert!(holder.ended());
    disk.assert_unmounted();
    assert_eq!(disk.hash_device(2), before, "clean wrote to the slot");
    assert_eq!(disk.state(), "valid");
}

/// Something foreign is refused with what it is, and cleared only by force.
fn foreign(disk: &Disk, point: &Path, source: &str) {
    let words = [source, point.to_str().unwrap(), "hint: "];
    let there = || mounts().iter().any(|m| m.point == point && m.source == source);
    for args in [&["snapshot"][..], &["clean"], &["verify"], &["snapshot", "-n"]] {
        refuses(disk, args, &words);
        assert!(there(), "it was unmounted");
        shows_both(disk, "valid");
    }
    disk.dualroot(&["snapshot", "--force"]).exits(0);
    assert!(!there());
    assert_eq!(disk.state(), "valid");
    disk.assert_unmounted();
}

#[test]
fn a_tmpfs_on_altroot() {
    if !ready(&[]) {
        return;
    }
    let disk = disk();
    mount_tmpfs(&altroot(&disk));
    foreign(&disk, &altroot(&disk), "tmpfs");
}

#[test]
fn another_partition_on_altroot() {
    if !ready(&[]) {
        return;
    }
    let mut layout = Layout::roots(16, 16);
    layout.sizes_mb.push(8);
    let disk = Disk::new(layout);
    disk.fill();
    disk.snapshot();
    unmount(&disk.root().join("config"));
    disk.mount(&disk.part(3), &altroot(&disk), false);
    foreign(&disk, &altroot(&disk), &disk.node(3));
}

#[test]
fn a_tmpfs_on_altconfig() {
    if !ready(&[]) {
        return;
    }
    let disk = Disk::new(Layout::default());
    disk.fill();
    disk.snapshot();
    let point = disk.root().join("altconfig");
    mount_tmpfs(&point);
    foreign(&disk, &point, "tmpfs");
}

#[test]
fn a_tmpfs_inside_the_stale_mount() {
    if !ready(&[]) {
        return;
    }
    let disk = disk();
    leave(&disk, &altroot(&disk), true);
    let point = altroot(&disk).join("var/empty");
    mount_tmpfs(&point);
    foreign(&disk, &point, "tmpfs");
}

/// The slot is mounted, read-write, where nobody can look into it any more.
#[test]
fn a_tmpfs_over_the_stale_mount() {
    if !ready(&[]) {
        return;
    }
    let disk = disk();
    leave(&disk, &altroot(&disk), false);
    mount_tmpfs(&altroot(&disk));
    shows_both(&disk, "valid");
    disk.dualroot(&["snapshot"]).fails(4, "tmpfs");
    disk.dualroot(&["snapshot", "--force"]).exits(0);
    assert_eq!(disk.state(), "valid");
    disk.assert_unmounted();
}

/// The same, with the cover further up: the path of the stale mount leads to nothing.
#[test]
fn a_tmpfs_over_the_directory_above() {
    if !ready(&[]) {
        return;
    }
    let disk = disk();
    let above = disk.tmp().join("above");
    leave(&disk, &above.join("below"), true);
    mount_tmpfs(&above);
    foreign(&disk, &above, "tmpfs");
}

#[test]
fn clean_tells_what_it_did() {
    if !ready(&[]) {
        return;
    }
    let disk = disk();
    let before = disk.hash_device(2);
    let run = disk.dualroot(&["clean"]).exits(0);
    assert_eq!((run.stdout.as_str(), run.stderr.as_str()), (NOT_MOUNTED, ""));
    let report = disk.dualroot(&["clean", "--json"]).exits(0).json();
    assert_eq!(report, serde_json::json!({"schema": 1, "cleared": []}));

    let (first, second) = (altroot(&disk), disk.tmp().join("second"));
    let line = |point: &Path| format!("{}: unmounted {}\n", point.display(), disk.node(2));
    leave(&disk, &first, true);
    leave(&disk, &second, true);
    let run = disk.dualroot(&["clean"]).exits(0);
    assert_eq!(run.stdout, line(&second) + &line(&first));
    disk.assert_unmounted();

    leave(&disk, &first, true);
    let report = disk.dualroot(&["clean", "--json"]).exits(0).json();
    let cleared = serde_json::json!([{"device": disk.node(2), "point": first}]);
    assert_eq!(report, serde_json::json!({"schema": 1, "cleared": cleared}));
    assert_eq!(disk.hash_device(2), before, "clean wrote to the slot");
    assert_eq!(disk.state(), "valid");
}

/// The plan names what would be cleared, and clears nothing.
#[test]
fn a_plan_clears_nothing() {
    if !ready(&[]) {
        return;
    }
    let disk = disk();
    leave(&disk, &altroot(&disk), true);
    let before = disk.hash_device(2);
    let run = disk.dualroot(&["snapshot", "-n"]).exits(0);
    assert!(run.stdout.starts_with(&format!("1. unmount {}", disk.node(2))), "{run}");
    assert_eq!(disk.alternate_mounts().len(), 1);
    assert_eq!(disk.hash_device(2), before);
    unmount(&altroot(&disk));
}
