//! `snapshot --method block`: of an ext4 all blocks, under another identity.

use std::fs;

use nix::errno::Errno;
use nix::sys::signal::Signal;

use crate::harness::{Call, Disk, Layout, fingerprint, pattern, ready, tool};

const BLOCK: [&str; 3] = ["snapshot", "--method", "block"];

/// A root on slice 1 that nobody writes to, and room for its copy on slice 2.
fn disk(first_mb: u64, second_mb: u64) -> Disk {
    let disk = Disk::new(Layout::roots(first_mb, second_mb));
    disk.fill();
    disk.write("large", pattern(6 << 20, 7));
    disk.write("firstboot", "");
    disk.write("boot/nextboot.conf", "kernel=\"other\"\n");
    fs::hard_link(disk.root().join("large"), disk.root().join("boot/larger")).unwrap();
    disk.remount(true);
    disk
}

/// The UUID that a slice's file system has.
fn uuid(disk: &Disk, n: usize) -> String {
    let said = tool("blkid", &[&"-p", &"-o", &"value", &"-s", &"UUID", &disk.part(n)]);
    String::from_utf8(said).unwrap()
}

#[test]
fn the_copy_is_whole_and_one_of_its_own() {
    if !ready(&["blkid", "e2fsck", "tune2fs", "resize2fs"]) {
        return;
    }
    for second_mb in [24, 32] {
        let disk = disk(24, second_mb);
        let run = disk.dualroot(&[&BLOCK[..], &["--json"]].concat()).exits(0);
        let report = run.json();
        let pair = &report["pairs"][0];
        assert_eq!((&pair["method"], &pair["verified"]), (&"block".into(), &true.into()), "{run}");
        assert_eq!(disk.state(), "valid");
        disk.dualroot(&["verify"]).exits(0);
        disk.assert_unmounted();
        assert_ne!(uuid(&disk, 1), uuid(&disk, 2));
        tool("e2fsck", &[&"-fn", &disk.part(2)]);
        let copy = disk.mount_alternate(true);
        let (mut source, mut there) = (fingerprint(disk.root()), fingerprint(copy.path()));
        for left_out in ["firstboot", "boot/nextboot.conf"] {
            assert!(source.remove(std::path::Path::new(left_out)).is_some(), "{source:?}");
        }
        // The table of what is mounted names the copy there.
        let fstab = std::path::Path::new("etc/fstab");
        assert_ne!(source.remove(fstab), there.remove(fstab));
        source.retain(|path, _| !path.starts_with(".dualroot"));
        there.retain(|path, _| !path.starts_with(".dualroot"));
        assert_eq!(source, there);
        // Where there is more room than the source has, it is used.
        let space = nix::sys::statvfs::statvfs(copy.path()).unwrap();
        let bytes = space.blocks() * space.fragment_size();
        assert!(bytes > (second_mb - 6) << 20, "{bytes}");
        drop(copy);
        // The next one writes only what differs.
        let again = disk.dualroot(&[&BLOCK[..], &["--json"]].concat()).exits(0).json();
        let written =
            |report: &serde_json::Value| report["pairs"][0]["written_bytes"].as_u64().unwrap();
        assert!(written(&again) < written(&report) / 2, "{again}");
        assert_eq!(disk.state(), "valid");
        let id = uuid(&disk, 2);
        assert_ne!(uuid(&disk, 1), id);
        // And file by file, over it and back to blocks.
        disk.snapshot();
        assert_eq!(disk.state(), "valid");
        disk.dualroot(&[&BLOCK[..], &["--fresh"]].concat()).exits(0);
        assert_eq!(uuid(&disk, 2), id, "fstab may know the copy by it");
        disk.dualroot(&["verify"]).exits(0);
    }
}

#[test]
fn what_is_not_safe_is_refused_and_nothing_written() {
    if !ready(&[]) {
        return;
    }
    let refused = |disk: &Disk, words: &str| {
        let before = disk.hash_device(2);
        for more in [&[][..], &["-n"], &["--force"], &["--fresh"]] {
            disk.dualroot(&[&BLOCK[..], more].concat()).fails(6, words);
            assert_eq!(disk.hash_device(2), before, "something was written");
        }
        disk.assert_unmounted();
    };
    let large = disk(24, 16);
    refused(&large, "its file system has 25165824 bytes");
    refused(&large, "8388608 are missing");
    let changing = disk(24, 24);
    changing.remount(false);
    refused(&changing, "copying the blocks of /: / is mounted read-write");
    changing.write(".dualroot/record.json", "{}");
    changing.remount(true);
    refused(&changing, "it is a copy itself, with a record");
    let words = [&BLOCK[..], &["--factory"]].concat();
    changing.dualroot(&words).fails(6, "--method block copies file systems as they are");
}

#[test]
fn a_flipped_byte_of_the_copy_is_found() {
    if !ready(&[]) {
        return;
    }
    let disk = disk(24, 24);
    disk.dualroot(&BLOCK).exits(0);
    let offset = disk.find_on_medium(2, &pattern(6 << 20, 7)[1 << 20..][..4096]);
    disk.flip_on_medium(2, offset);
    disk.dualroot(&["verify"]).exits(5).prints("/large: content differs at 1048576");
    disk.dualroot(&BLOCK).exits(0);
    disk.dualroot(&["verify"]).exits(0);
}

/// In the order of a run: erasing, the blocks, their flush, the superblock, what makes it one of its
/// own, what is not to be in it.
const PLACES: [Call<'static>; 7] = [
    ("write", "p2", 0),
    ("pwrite", "p2", 0),
    ("pwrite", "p2", 9),
    ("fsync", "p2", 1),
    ("fsync", "p2", 2),
    ("spawn", "p2", 0),
    ("mount-rw", "/altroot", 0),
];

#[test]
fn killed_in_the_middle_the_slot_is_not_valid() {
    if !ready(&["cc"]) {
        return;
    }
    let disk = disk(24, 24);
    for (n, place) in PLACES.into_iter().enumerate() {
        disk.dualroot(&["snapshot"]).exits(0);
        disk.halt(&BLOCK, place).kill();
        let state = disk.state();
        if n == 0 {
            assert_eq!(state, "valid", "nothing was written yet");
        } else {
            assert!(["empty", "invalid"].contains(&state.as_str()), "{place:?}: {state}");
        }
        disk.dualroot(&BLOCK).exits(0);
        assert_eq!(disk.state(), "valid");
    }
}

#[test]
fn a_signal_and_a_failing_request_stop_it() {
    if !ready(&["cc"]) {
        return;
    }
    let disk = disk(24, 24);
    let halted = disk.halt(&BLOCK, PLACES[2]);
    halted.running.signal(Signal::SIGTERM);
    halted.go().wait_soon().fails(143, "stopped by SIGTERM");
    assert_ne!(disk.state(), "valid");
    let run = disk.with_fault(&BLOCK, PLACES[2], Errno::EIO as i32);
    let run = run.fails(1, "copying / to /altroot: writing ").says(&disk.node(2));
    assert!(run.stderr.contains(" at ") && run.stderr.contains("Input/output error"), "{run}");
    assert_ne!(disk.state(), "valid");
    disk.assert_unmounted();
    disk.dualroot(&BLOCK).exits(0);
    assert_eq!(disk.state(), "valid");
}
