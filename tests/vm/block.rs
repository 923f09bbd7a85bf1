//! `snapshot --method block` on UFS2 that newfs(8) made: the kernel, `fsck_ffs` and `mtree` as referees.

use std::fs;

use crate::compare::{assert_equal, assert_manifest, assert_sound};
use crate::disk::{Disk, Layout, Scheme, pattern};
use crate::harness::{Run, Test, program, tests, tool};
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
    a_flipped_byte_is_found,
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
        let copy = disk.mount_copy();
        assert_equal(&disk.root(), copy.path());
        assert_manifest(copy.path());
    }
    assert!(written[1] < written[0], "{written:?}");
    assert_eq!(disk.hash(&disk.part(1)), before, "the running root was written");
}

fn everything(layout: Layout) {
    let disk = Disk::new(layout);
    make_everything(&disk);
    copied(&disk);
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
    read_only(&disk);
    // The configuration is still written to.
    disk.dualroot(&BLOCK).fails(6, "/config is mounted read-write");
    tool("mount", &[&"-u", &"-o", &"ro", &disk.root().join("config")]);
    let report = disk.dualroot(&BLOCK).exits(0).json();
    assert_eq!(report["archived"], serde_json::json!(["/", "/config"]), "{report}");
    assert_eq!(disk.state(), "valid");
    assert_sound(&disk.node(2));
    assert_sound(&disk.config(2));
    disk.dualroot(&["verify"]).exits(0);
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
    refused("/ is mounted read-write");
    read_only(&disk);
    refused("are missing");
    writable(&disk);
    tool("mksnap_ffs", &[&disk.root().join(".snap/kept")]);
    read_only(&disk);
    refused("it holds 1 snapshots of itself");
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
