//! A copy that does not fit is refused before anything is written, in numbers.

use std::fs::{self, File};
use std::path::Path;

use crate::harness::{Disk, Layout, Run, pattern, program, ready, tool};
use crate::medium::{Medium, TOOLS, on};

/// Checks a refusal: `the copy of POINT does not fit DEVICE: it needs A WHAT, B are there, C are
/// missing`, the numbers being right; A and B.
#[track_caller]
fn refused(run: Run, point: &str, device: &str, what: &str) -> (u64, u64) {
    let head = format!("dualroot: the copy of {point} does not fit {device}: it needs ");
    let run = run.fails(6, &head);
    let line = run.stderr.lines().find(|l| l.starts_with(&head)).unwrap();
    let numbers: Vec<u64> =
        line[head.len()..].split(' ').filter_map(|word| word.parse().ok()).collect();
    let [needed, there, missing] = numbers[..] else { panic!("three numbers: {run}") };
    let expected = format!("{head}{needed} {what}, {there} are there, {missing} are missing");
    assert_eq!(line, expected, "{run}");
    assert_eq!(missing, needed - there, "{run}");
    (needed, there)
}

/// Delayed allocation ends: what is used is what statvfs tells.
fn sync(dir: &Path) {
    nix::unistd::syncfs(File::open(dir).unwrap()).unwrap();
}

fn used_bytes(path: &Path) -> u64 {
    let s = nix::sys::statvfs::statvfs(path).unwrap();
    (s.blocks() - s.blocks_free()) * s.fragment_size()
}

#[test]
fn too_small_for_the_bytes() {
    if !ready(&[]) {
        return;
    }
    // By its size alone; and with the room that its file system takes for itself.
    for (second, megabytes) in [(8, 12), (16, 14)] {
        let disk = Disk::new(Layout::roots(32, second));
        disk.fill();
        disk.snapshot();
        assert_eq!(disk.state(), "valid");
        disk.write("var/large", pattern(megabytes << 20, 1));
        sync(disk.root());
        let before = disk.hash_device(2);
        for args in [&["snapshot"][..], &["snapshot", "-n"], &["snapshot", "--force"]] {
            let (needed, there) = refused(disk.dualroot(args), "/", &disk.node(2), "bytes");
            // What is needed is what is used, and a little for the record.
            let used = used_bytes(disk.root());
            assert!((used..used + (1 << 20)).contains(&needed), "{needed}: {used} are used");
            assert!(there <= second << 20 && there > (second << 20) * 3 / 4, "{there}");
        }
        assert_eq!(disk.hash_device(2), before, "something was written");
        assert_eq!(disk.state(), "valid", "the old copy is as good as it was");
        disk.dualroot(&["verify"]).exits(0);
        disk.assert_unmounted();
        // With less it fits again.
        fs::remove_file(disk.root().join("var/large")).unwrap();
        disk.snapshot();
    }
}

#[test]
fn the_refusal_is_an_error_in_json() {
    if !ready(&[]) {
        return;
    }
    let disk = Disk::new(Layout::roots(32, 8));
    disk.write("large", pattern(12 << 20, 1));
    sync(disk.root());
    let run = disk.dualroot(&["--json", "snapshot"]).exits(6);
    let error = &run.json()["error"];
    assert_eq!(error["code"], "refused");
    assert!(error["cause"].as_str().unwrap().ends_with(" are missing"), "{run}");
}

fn make_files(disk: &Disk, count: usize, size: usize) {
    let content = pattern(size, 1);
    for n in 0..count {
        let dir = disk.root().join(format!("f{}", n / 1000));
        if n % 1000 == 0 {
            fs::create_dir(&dir).unwrap();
        }
        fs::write(dir.join(n.to_string()), &content).unwrap();
    }
}

/// On a medium with larger sectors than a file has, small files take more room.
#[test]
fn small_files_and_a_medium_with_large_sectors() {
    if !ready(TOOLS) {
        return;
    }
    let disk = Disk::new(Layout { mkfs: vec!["-N", "20000"], ..Layout::roots(64, 64) });
    disk.write_fstab();
    // 12 MB in blocks of 1 KB, 48 MB in the copy's.
    make_files(&disk, 12_000, 500);
    sync(disk.root());
    for sector in [512, 4096] {
        let medium = Medium::new(96, sector);
        let before = medium.hash();
        let words = ["--scheme", "gpt", "--swap-size", "0", "--root-size", "40"];
        for first in [&["snapshot", "-n"][..], &["snapshot"]] {
            let run = on(&disk, &medium, &[first, &words].concat());
            if sector == 4096 {
                refused(run, "/", medium.part(1).to_str().unwrap(), "bytes");
                assert_eq!(medium.hash(), before, "something was written");
            } else {
                run.exits(0);
            }
        }
    }
}

/// An attribute that fills a block has to have one as large in the copy, however small its slot is.
#[test]
fn the_copy_has_blocks_of_the_size_that_its_source_has() {
    if !ready(&[]) {
        return;
    }
    let disk = Disk::new(Layout { mkfs: vec!["-b", "4096"], ..Layout::roots(32, 32) });
    disk.fill();
    disk.snapshot();
    // A valid copy with smaller ones, which an attribute would not fit.
    let kept = disk.tmp().join("kept");
    let copy = disk.mount_alternate(true);
    tool("cp", &[&"-a", &copy.path(), &kept]);
    drop(copy);
    tool("mkfs.ext4", &[&"-q", &"-F", &"-b", &"1024", &disk.part(2)]);
    let copy = disk.mount_alternate(false);
    tool("cp", &[&"-a", &kept.join("."), &copy.path()]);
    drop(copy);
    disk.dualroot(&["verify"]).exits(0);
    let anew = |run: &Run| run.stdout.contains("make a file system on");
    let plan = disk.dualroot(&["snapshot", "-n"]).exits(0);
    assert!(anew(&plan), "{plan}");
    let file = disk.write("var/attributes", "");
    xattr::set(&file, "user.large", &pattern(2000, 1)).unwrap();
    disk.snapshot();
    disk.dualroot(&["verify"]).exits(0);
    let copy = disk.mount_alternate(true);
    let found = xattr::get(copy.path().join("var/attributes"), "user.large").unwrap();
    assert_eq!(found, Some(pattern(2000, 1)));
    drop(copy);
    let plan = disk.dualroot(&["snapshot", "-n"]).exits(0);
    assert!(!anew(&plan), "{plan}");
}

#[test]
fn more_inodes_than_usual_are_made_where_the_source_has_them() {
    if !ready(&[]) {
        return;
    }
    let disk = Disk::new(Layout { mkfs: vec!["-N", "12000"], ..Layout::roots(24, 24) });
    disk.write_fstab();
    // By default 24 MiB get some 6,000.
    make_files(&disk, 10_000, 0);
    disk.dualroot(&["snapshot", "-n"]).exits(0).prints(" inodes");
    disk.snapshot();
    assert_eq!(disk.state(), "valid");
    disk.dualroot(&["verify"]).exits(0);
    let copy = disk.mount_alternate(true);
    assert!(copy.path().join("f9/9999").exists());
}

#[test]
fn too_small_for_the_inodes() {
    if !ready(&[]) {
        return;
    }
    let disk = Disk::new(Layout { mkfs: vec!["-N", "32000"], ..Layout::roots(24, 8) });
    disk.write_fstab();
    disk.snapshot();
    make_files(&disk, 29_000, 0);
    sync(disk.root());
    let before = disk.hash_device(2);
    let (needed, there) = refused(disk.dualroot(&["snapshot"]), "/", &disk.node(2), "inodes");
    assert!((29_000..29_200).contains(&needed), "{needed}");
    assert!(there < 29_000, "{there}");
    assert_eq!(disk.hash_device(2), before, "something was written");
    assert_eq!(disk.state(), "valid");
    disk.dualroot(&["verify"]).exits(0);
}

/// mkfs.xfs makes nothing below 300 MB: told in our words, before anything is erased.
#[test]
fn too_small_for_xfs() {
    if !ready(&["mkfs.xfs"]) {
        return;
    }
    let disk = Disk::new(Layout { fs: "xfs", ..Layout::roots(320, 64) });
    disk.fill();
    let before = disk.hash_device(2);
    let words = format!("the copy of / does not fit {}: ", disk.node(2));
    disk.dualroot(&["snapshot"]).fails(6, &words);
    assert_eq!(disk.hash_device(2), before, "something was written");
    assert_eq!(disk.state(), "empty");

    // Large enough for xfs, but not for what is to be copied.
    let disk = Disk::new(Layout { fs: "xfs", ..Layout::roots(420, 320) });
    disk.fill();
    disk.snapshot();
    // Allocated, not written: a disk image of zeros would do.
    tool("fallocate", &[&"-l", &"280M", &disk.root().join("large")]);
    sync(disk.root());
    let before = disk.hash_device(2);
    refused(disk.dualroot(&["snapshot"]), "/", &disk.node(2), "bytes");
    assert_eq!(disk.hash_device(2), before, "something was written");
    assert_eq!(disk.state(), "valid");
}

/// Where the run directory has no room for the log of a file system that is only planned.
#[test]
fn an_xfs_is_planned_without_room_for_it() {
    if !ready(&["mkfs.xfs", "unshare"]) {
        return;
    }
    let disk = Disk::new(Layout { fs: "xfs", ..Layout::roots(320, 320) });
    disk.fill();
    let command = disk.command(&["snapshot"]);
    let small = "mount -t tmpfs -o size=4m none /run && exec \"$@\"";
    let mut unshared = program("unshare");
    unshared.args(["-m", "sh", "-c", small, "sh"]).arg(command.get_program());
    Run::of(unshared.args(command.get_args())).exits(0);
    assert_eq!(disk.state(), "valid");
}

/// XFS makes its inodes of the same room that it gives to files. The source is as large and full.
#[test]
fn an_xfs_full_of_small_files() {
    if !ready(&["mkfs.xfs"]) {
        return;
    }
    let disk = Disk::new(Layout { fs: "xfs", ..Layout::roots(320, 320) });
    disk.fill();
    disk.snapshot();
    make_files(&disk, 53_000, 4096);
    sync(disk.root());
    let before = disk.hash_device(2);
    refused(disk.dualroot(&["snapshot"]), "/", &disk.node(2), "bytes");
    assert_eq!(disk.hash_device(2), before, "something was written");
    assert_eq!(disk.state(), "valid");
}

/// Partitions that stay empty get their file systems last: told before the table is written.
#[test]
fn too_small_for_an_empty_xfs() {
    if !ready(&[TOOLS, &["mkfs.xfs"]].concat()) {
        return;
    }
    let disk = Disk::new(Layout { fs: "xfs", ..Layout::roots(320, 320) });
    disk.fill();
    let medium = Medium::new(1200, 4096);
    let words = ["--scheme", "gpt", "--swap-size", "0", "--root-size", "320", "--data-size"];
    for first in [&["snapshot", "-n"][..], &["snapshot"]] {
        let run = on(&disk, &medium, &[first, &words, &["100"]].concat());
        let data = medium.part(3);
        let why = format!("no xfs fits {} for /data: running mkfs.xfs: ", data.display());
        run.fails(6, &why).says("(exit 1)\nhint: --data-size sets its size\n");
        assert!(medium.is_blank(), "something was written");
    }
    on(&disk, &medium, &[&["snapshot"], &words[..], &["320"]].concat()).exits(0);
    on(&disk, &medium, &["verify"]).exits(0);
}

/// The root would fit, the config does not: neither is touched.
#[test]
fn a_config_that_does_not_fit_refuses_the_whole() {
    if !ready(&[]) {
        return;
    }
    let disk = Disk::new(Layout { sizes_mb: vec![24, 24, 16, 4], ..Layout::default() });
    disk.fill();
    let fstab = fs::read_to_string(disk.root().join("etc/fstab")).unwrap();
    disk.write("etc/fstab", format!("{fstab}{} /altconfig ext4 ro,noauto 0 0\n", disk.node(4)));
    disk.snapshot();
    disk.write("config/large", pattern(6 << 20, 1));
    sync(&disk.root().join("config"));
    let before = [2, 4].map(|n| disk.hash_device(n));
    refused(disk.dualroot(&["snapshot"]), "/config", &disk.node(4), "bytes");
    assert_eq!([2, 4].map(|n| disk.hash_device(n)), before, "something was written");
    assert_eq!(disk.state(), "valid");
    disk.dualroot(&["verify"]).exits(0);
    // The root alone still can be copied.
    disk.dualroot(&["snapshot", "--root-partition"]).exits(0);
}

/// Small files take more room where the copy's file system keeps them in blocks of their own. It
/// fits or it is refused; it is never found out half-way.
#[test]
fn small_files_that_take_more_room_in_the_copy() {
    if !ready(&[]) {
        return;
    }
    let mkfs = vec!["-N", "16000", "-I", "1024", "-O", "inline_data"];
    let disk = Disk::new(Layout { mkfs, ..Layout::roots(48, 16) });
    disk.fill();
    disk.snapshot();
    // 500 bytes each, kept in the inode: no block of their own in the source.
    make_files(&disk, 13_000, 500);
    sync(disk.root());
    assert!(used_bytes(disk.root()) < 4 << 20, "{}", used_bytes(disk.root()));
    let before = disk.hash_device(2);
    let run = disk.dualroot(&["snapshot"]);
    if run.code == 0 {
        disk.dualroot(&["verify"]).exits(0);
    } else {
        run.fails(6, "does not fit");
        assert_eq!(disk.hash_device(2), before, "something was written");
        assert_eq!(disk.state(), "valid");
    }
}

/// Clones share their blocks in the source (cp makes such by itself), and not in the copy.
#[test]
fn clones_that_share_their_blocks_in_the_source() {
    if !ready(&["mkfs.xfs"]) {
        return;
    }
    let disk = Disk::new(Layout { fs: "xfs", ..Layout::roots(320, 320) });
    disk.fill();
    disk.snapshot();
    let original = disk.write("clones/0", pattern(90 << 20, 1));
    for n in 1..4 {
        tool("cp", &[&"--reflink=always", &original, &disk.root().join(format!("clones/{n}"))]);
    }
    sync(disk.root());
    assert!(used_bytes(disk.root()) < 200 << 20);
    let before = disk.hash_device(2);
    let run = disk.dualroot(&["snapshot"]);
    if run.code != 0 {
        run.fails(6, "does not fit");
        assert_eq!(disk.hash_device(2), before, "something was written");
        assert_eq!(disk.state(), "valid");
    }
}
