//! `snapshot --method block` on UFS2 that newfs(8) made: the kernel, `fsck_ffs` and `mtree` as referees.
//! A source that is mounted read-write is copied from a snapshot of it.

use std::fs;
use std::path::Path;

use nix::sys::signal::Signal;

use crate::compare::{assert_equal, assert_manifest, assert_sound};
use crate::consistency::{hammered, left, nothing_left, source_is_sound};
use crate::disk::{Disk, Layout, Mounted, Scheme, mounts, pattern};
use crate::harness::{
    BASE, Run, Running, Test, need_class, program, tests, tool, try_tool, wait_until,
};
use crate::tree::make_everything;

pub const TESTS: &[Test] = tests![
    soft_updates,
    without_soft_updates,
    journaled,
    smallest_fragments,
    largest_fragments,
    sectors_of_4096,
    gpt_with_config,
    a_larger_slice_is_used_whole,
    the_names_of_the_copy,
    a_copy_is_copied,
    what_is_not_safe_is_refused,
    where_there_is_no_snapshot_it_is_refused,
    a_flipped_byte_is_found,
    a_root_that_is_written_to,
    the_copy_is_of_one_moment,
    other_snapshots_are_not_in_the_copy,
    by_label,
    ended_by_a_signal,
    killed_in_the_middle,
    a_medium_that_fails,
];

const BLOCK: [&str; 4] = ["snapshot", "--method", "block", "--json"];

fn read_only(disk: &Disk) {
    tool("mount", &[&"-u", &"-o", &"ro", &disk.root()]);
}

fn writable(disk: &Disk) {
    tool("mount", &[&"-u", &"-o", &"rw", &disk.root()]);
}

/// Copies a read-only root twice, the second time over the first.
#[track_caller]
fn copied(disk: &Disk) {
    read_only(disk);
    let before = disk.hash(&disk.part(1));
    let mut written = Vec::new();
    for _ in 0..2 {
        let run = disk.dualroot(&BLOCK).exits(0);
        let report = run.json();
        let pair = &report["pairs"][0];
        assert_eq!((&pair["method"], &pair["verified"]), (&"block".into(), &true.into()), "{run}");
        written.push(pair["written_bytes"].as_u64().unwrap());
        assert_eq!(disk.state(), "valid");
        disk.assert_unmounted();
        assert_sound(&disk.node(2));
        assert_manifest(disk.mount_copy().path());
    }
    assert!(written[1] < written[0], "{written:?}");
    assert_equal(&disk.root(), disk.mount_copy().path());
    assert_eq!(disk.hash(&disk.part(1)), before, "the running root was written");
}

/// Copies a root that is mounted read-write, and idle.
#[track_caller]
fn copied_live(disk: &Disk) {
    let report = disk.dualroot(&BLOCK).exits(0).json();
    let pair = &report["pairs"][0];
    assert_eq!((&pair["method"], &pair["verified"]), (&"block".into(), &true.into()), "{report}");
    assert_eq!(pair["consistency"], "snapshot", "{report}");
    is_whole(disk);
    let copy = disk.mount_copy();
    assert_equal(&disk.root(), copy.path());
    assert_manifest(copy.path());
}

/// The copy is valid and sound, with nothing in it of the snapshot that it was made from; there is
/// none any more.
#[track_caller]
fn is_whole(disk: &Disk) {
    nothing_left(disk);
    assert_eq!(disk.state(), "valid");
    disk.assert_unmounted();
    assert_sound(&disk.node(2));
    let copy = disk.mount_copy();
    let names = fs::read_dir(copy.path().join(".snap")).into_iter().flatten();
    assert_eq!(names.map(|name| name.unwrap().file_name()).collect::<Vec<_>>(), [""; 0]);
    assert_eq!(try_tool("snapinfo", &[&copy.path()]).stdout, "");
}

fn everything(layout: Layout) {
    let soft_updates = layout.newfs.contains(&"-U") && !layout.newfs.contains(&"-j");
    let disk = Disk::new(layout);
    make_everything(&disk);
    copied(&disk);
    if soft_updates {
        writable(&disk);
        copied_live(&disk);
        source_is_sound(&disk);
    }
}

fn soft_updates() {
    everything(Layout::default());
}

fn without_soft_updates() {
    everything(Layout { newfs: Vec::new(), ..Layout::default() });
}

fn journaled() {
    everything(Layout { newfs: vec!["-U", "-j"], roots_mb: [40, 40], ..Layout::default() });
}

fn smallest_fragments() {
    everything(Layout { newfs: vec!["-U", "-b", "4096", "-f", "512"], ..Layout::default() });
}

fn largest_fragments() {
    let newfs = vec!["-U", "-b", "65536", "-f", "65536"];
    everything(Layout { newfs, roots_mb: [64, 64], ..Layout::default() });
}

fn sectors_of_4096() {
    everything(Layout { sector: 4096, ..Layout::gpt() });
}

fn gpt_with_config() {
    let disk = Disk::new(Layout { scheme: Scheme::Gpt, ..Layout::with_config() });
    disk.fill();
    // The configuration is still written to, then nobody writes to anything any more.
    let config = disk.root().join("config");
    for (point, words) in [
        (None, ["snapshot", "snapshot"]),
        (Some(disk.root()), ["read-only", "snapshot"]),
        (Some(config), ["read-only", "read-only"]),
    ] {
        if let Some(point) = point {
            tool("mount", &[&"-u", &"-o", &"ro", &point]);
        }
        let report = disk.dualroot(&BLOCK).exits(0).json();
        assert_eq!(report["archived"], serde_json::json!(["/", "/config"]), "{report}");
        for (pair, word) in words.iter().enumerate() {
            let pair = &report["pairs"][pair];
            assert_eq!((&pair["method"], &pair["consistency"]), (&"block".into(), &(*word).into()));
        }
        is_whole(&disk);
        assert_sound(&disk.config(2));
        disk.dualroot(&["verify"]).exits(0);
    }
}

fn a_larger_slice_is_used_whole() {
    let disk = Disk::new(Layout { roots_mb: [24, 64], ..Layout::default() });
    make_everything(&disk);
    copied(&disk);
    let copy = disk.mount_copy();
    let space = nix::sys::statvfs::statvfs(copy.path()).unwrap();
    let bytes = space.blocks() * space.fragment_size();
    assert!(bytes > 50 << 20, "{bytes}");
}

/// What dumpfs(8) tells of a file system: its id and its label.
fn identity(node: &str) -> (String, String) {
    let text = Run::of(program("dumpfs").arg(node)).stdout;
    let field = |name: &str| {
        let at = text.find(name).map(|at| &text[at + name.len()..]).unwrap_or_default();
        at.split(['\t', '\n', ']']).next().unwrap_or_default().trim().to_owned()
    };
    (field("id\t["), field("volname\t"))
}

fn the_names_of_the_copy() {
    let disk = Disk::new(Layout { newfs: vec!["-U", "-L", "root1"], ..Layout::default() });
    disk.fill();
    disk.write_fstab("/dev/ufs/root1");
    read_only(&disk);
    disk.dualroot(&BLOCK).exits(0);
    let (source, copy) = (identity(&disk.node(1)), identity(&disk.node(2)));
    assert_ne!(source.0, copy.0, "{source:?} {copy:?}");
    assert!(source.1.contains("root1") && !copy.1.contains("root1"), "{source:?} {copy:?}");
    let mounted = disk.mount_copy();
    let fstab = fs::read_to_string(mounted.path().join("etc/fstab")).unwrap();
    assert!(fstab.contains(&format!("/dev/ufs/{}", copy.1.split_whitespace().next().unwrap())));
    // fsck_ffs(8) finds its way by a backup, too: it has the new identity, and the same hash.
    drop(mounted);
    Run::of(program("fsck_ffs").args(["-n", "-b", "192"]).arg(disk.node(2))).exits(0);
}

/// The record that the source has, being a copy itself, is never the new copy's.
fn a_copy_is_copied() {
    let disk = Disk::new(Layout::default());
    disk.fill();
    disk.write(".dualroot/record.json", pattern(9000, 5));
    disk.write(".dualroot/used", "");
    read_only(&disk);
    disk.dualroot(&BLOCK).exits(0);
    assert_eq!(disk.state(), "valid");
    assert_sound(&disk.node(2));
    disk.dualroot(&["verify"]).exits(0);
}

fn what_is_not_safe_is_refused() {
    let disk = Disk::new(Layout { roots_mb: [40, 24], ..Layout::default() });
    disk.fill();
    let refused = |words: &str| {
        let before = disk.hash(&disk.part(2));
        disk.dualroot(&BLOCK).fails(6, words);
        assert_eq!(disk.hash(&disk.part(2)), before, "something was written");
    };
    refused("are missing");
    read_only(&disk);
    refused("are missing");
    writable(&disk);
    tool("mksnap_ffs", &[&disk.root().join(".snap/kept")]);
    read_only(&disk);
    refused("it holds 1 snapshots of itself");
}

fn where_there_is_no_snapshot_it_is_refused() {
    let refused = |disk: &Disk, words: &str, hint: &str| {
        let before = disk.hash(&disk.part(2));
        let run = disk.dualroot(&["snapshot", "--method", "block"]);
        run.fails(6, words).says(hint).says("mount it read-only").says("--method tree");
        assert_eq!(disk.hash(&disk.part(2)), before, "something was written");
        nothing_left(disk);
        disk.assert_unmounted();
    };
    let disk = Disk::new(Layout { roots_mb: [40, 40], ..Layout::default() });
    disk.fill();
    disk.configure("file_system_snapshots = false\n");
    refused(&disk, "no snapshot of it is taken: switched off", "file_system_snapshots = true");
    disk.configure("");
    disk.write("etc/rc.conf", "fsck_y_enable=\"NO\"\n");
    refused(&disk, "no snapshot of it is taken: fsck_y_enable", "file_system_snapshots = true");
    disk.write("etc/rc.conf", "fsck_y_enable=\"YES\"\n");
    // An older copy stays what it was.
    disk.snapshot();
    for n in 0..20 {
        tool("mksnap_ffs", &[&disk.root().join(format!(".snap/{n}"))]);
    }
    refused(&disk, "No space left on device", "");
    assert_eq!(fs::read_dir(disk.root().join(".snap")).unwrap().count(), 20);
    assert_eq!(disk.state(), "valid");
    drop(disk);
    let disk = Disk::new(Layout { newfs: Vec::new(), ..Layout::default() });
    disk.fill();
    refused(&disk, "no snapshot of it is taken: no soft updates", "");
    drop(disk);
    let disk = Disk::new(Layout { newfs: vec!["-j"], ..Layout::default() });
    disk.fill();
    refused(&disk, "journal", "");
}

fn a_flipped_byte_is_found() {
    let disk = Disk::new(Layout { in_a_file: true, ..Layout::default() });
    disk.fill();
    let kernel = pattern(700_000, 1);
    read_only(&disk);
    disk.dualroot(&BLOCK).exits(0);
    let mut image = fs::read(disk.file()).unwrap();
    let wanted = &kernel[1024..1024 + 512];
    let last = image.chunks(512).rposition(|sector| sector == wanted).unwrap() * 512;
    image[last] ^= 1;
    // GEOM's own bytes of it are the file's.
    std::os::unix::fs::FileExt::write_all_at(
        &fs::File::options().write(true).open(disk.file()).unwrap(),
        &image[last..=last],
        last as u64,
    )
    .unwrap();
    disk.dualroot(&["verify"]).exits(5).prints("/boot/kernel/kernel: content differs");
}

fn a_root_that_is_written_to() {
    let disk = Disk::new(Layout { newfs: vec!["-U", "-L", "vmlive1"], ..Layout::default() });
    disk.fill();
    disk.much(6);
    let plan = disk.dualroot(&["snapshot", "--method", "block", "-n"]).exits(0).stdout;
    let taken = plan.find("take a snapshot of the file system of / (");
    assert!(taken.is_some() && taken < plan.find("erase the old copy of /"), "{plan}");
    nothing_left(&disk);
    hammered(&disk, &BLOCK[..3]);
    is_whole(&disk);
}

/// A run that stands still with its snapshot taken.
fn frozen(disk: &Disk) -> Running {
    let running = Running::start(disk.command(&BLOCK));
    wait_until("the snapshot is mounted", || {
        mounts().iter().any(|m| m.point.starts_with("/var/run/dualroot"))
    });
    running.halt();
    assert_eq!(left(disk).len(), 3, "{:?}", left(disk));
    running
}

/// The memory disk over the snapshot.
fn frozen_device() -> String {
    let all = mounts();
    let mount = all.iter().find(|m| m.point.starts_with("/var/run/dualroot"));
    mount.unwrap().source.clone()
}

/// What happens to the source after the snapshot is not in the copy.
fn the_copy_is_of_one_moment() {
    let disk = Disk::new(Layout { roots_mb: [64, 64], ..Layout::default() });
    make_everything(&disk);
    disk.much(10);
    let held = fs::File::open(disk.write("var/removed", pattern(300_000, 4))).unwrap();
    fs::remove_file(disk.root().join("var/removed")).unwrap();
    let running = frozen(&disk);
    let moment = Path::new(BASE).join("moment");
    let into = format!("of={}", moment.display());
    tool("dd", &[&format!("if={}", frozen_device()), &into, &"bs=64k"]);
    for n in 0..5 {
        disk.write(&format!("usr/much/{n}"), pattern(1 << 20, n + 500));
        fs::remove_file(disk.root().join(format!("usr/much/{}", n + 5))).unwrap();
        disk.write(&format!("usr/new/{n}"), pattern(200_000, n + 600));
    }
    drop(held);
    tool("sync", &[]);
    running.signal(Signal::SIGCONT);
    running.wait().exits(0);
    is_whole(&disk);
    let unit = tool("mdconfig", &[&"-a", &"-t", &"vnode", &"-o", &"readonly", &"-f", &moment]);
    let node = format!("/dev/{}", unit.trim());
    {
        let copy = disk.mount_copy();
        let then = Mounted::new(&["-o", "ro"], &node, &disk.side("moment"));
        assert_equal(then.path(), copy.path());
        assert_manifest(copy.path());
        assert!(!copy.path().join("usr/new").exists());
    }
    tool("mdconfig", &[&"-d", &"-u", &unit.trim()]);
    fs::remove_file(&moment).unwrap();
    // Over the copy, with what has changed since.
    copied_live(&disk);
    source_is_sound(&disk);
}

/// An operator's own: they stay where they are, and the copy's superblock does not name them.
fn other_snapshots_are_not_in_the_copy() {
    let disk = Disk::new(Layout { roots_mb: [40, 40], ..Layout::default() });
    disk.fill();
    let kept = disk.root().join(".snap/monday");
    tool("mksnap_ffs", &[&kept]);
    disk.write("usr/share/doc/1.txt", pattern(90_000, 77));
    copied_live(&disk);
    assert!(tool("snapinfo", &[&disk.root()]).contains(".snap/monday"));
    let free = |path: &Path| {
        let space = nix::sys::statvfs::statvfs(path).unwrap();
        space.blocks_free() * space.fragment_size()
    };
    let copy = disk.mount_copy();
    assert!(free(copy.path()) > free(&disk.root()), "what they take is free in the copy");
    drop(copy);
    source_is_sound(&disk);
}

/// The memory disk bears the label of the running root.
fn by_label() {
    let disk = Disk::new(Layout { newfs: vec!["-U", "-L", "vmblock1"], ..Layout::gpt() });
    tool("umount", &[&disk.root()]);
    wait_until("the label is there", || Path::new("/dev/ufs/vmblock1").exists());
    tool("mount", &[&"/dev/ufs/vmblock1", &disk.root()]);
    disk.fill();
    disk.write_fstab("/dev/ufs/vmblock1");
    for _ in 0..2 {
        copied_live(&disk);
        let copy = disk.mount_copy();
        let fstab = fs::read_to_string(copy.path().join("etc/fstab")).unwrap();
        assert!(fstab.contains("/dev/ufs/vmblock2 / ufs"), "{fstab}");
    }
}

fn ended_by_a_signal() {
    let disk = Disk::new(Layout::default());
    disk.fill();
    disk.much(6);
    for signal in [Signal::SIGINT, Signal::SIGTERM] {
        let running = frozen(&disk);
        running.signal(signal);
        running.signal(Signal::SIGCONT);
        running.wait().exits(128 + signal as i32);
        nothing_left(&disk);
        disk.assert_unmounted();
        assert_ne!(disk.state(), "valid");
    }
    copied_live(&disk);
    source_is_sound(&disk);
}

/// The next one, whatever it is, finds what is left.
fn killed_in_the_middle() {
    let disk = Disk::new(Layout::default());
    disk.fill();
    disk.much(6);
    for words in [&["clean"][..], &BLOCK] {
        let running = frozen(&disk);
        running.signal(Signal::SIGKILL);
        running.wait().exits(1009);
        assert_eq!(left(&disk).len(), 3, "{:?}", left(&disk));
        disk.dualroot(words).exits(0);
        nothing_left(&disk);
    }
    is_whole(&disk);
    source_is_sound(&disk);
}

/// The target dies under the copy.
fn a_medium_that_fails() {
    need_class("gnop");
    let disk = Disk::new(Layout::default());
    disk.fill();
    disk.much(6);
    let nop = format!("{}.nop", disk.part(2));
    tool("gnop", &[&"create", &disk.part(2)]);
    disk.name_slots(&disk.node(1), &format!("/dev/{nop}"));
    let running = frozen(&disk);
    tool("gnop", &[&"configure", &"-w", &"100", &nop]);
    running.signal(Signal::SIGCONT);
    let run = running.wait();
    try_tool("gnop", &[&"destroy", &"-f", &nop]);
    run.fails(1, &format!("/dev/{nop}")).says("Input/output error");
    nothing_left(&disk);
    disk.name_slots(&disk.node(1), &disk.node(2));
    disk.assert_unmounted();
    copied_live(&disk);
}
