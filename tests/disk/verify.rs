//! What the medium holds is what is verified: bytes are changed below every cache of the system.

use std::fs::{self, File};
use std::io::Read;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::Path;

use serde_json::{Value, json};

use crate::harness::{Disk, Layout, Run, pattern, ready, tool};

/// A file of several blocks of checksums, and its flipped byte: far from every block's start.
const LENGTH: usize = 700_000;
const AT: usize = 300_001;
/// Files of this size have checksums of 64 KiB each.
const BLOCK: usize = 64 << 10;

fn disk() -> Disk {
    let disk = Disk::new(Layout::default());
    disk.fill();
    disk.write("usr/lib/large", pattern(LENGTH, 77));
    disk.write("usr/lib/small", pattern(3000, 78));
    disk.write("config/large", pattern(LENGTH, 79));
    disk
}

/// Inverts the byte `at` of the file with this content on a slice of the medium.
fn flip(disk: &Disk, slice: usize, content: &[u8], at: usize) {
    // Found by its block: the file may lie in pieces.
    let start = at & !1023;
    let end = (start + 1024).min(content.len());
    let offset = disk.find_on_medium(slice, &content[start..end]);
    disk.flip_on_medium(slice, offset + (at - start) as u64);
}

#[track_caller]
fn differences(run: &Run) -> Vec<(String, Value, String)> {
    let report = run.json();
    let list = report["differences"].as_array().unwrap_or_else(|| panic!("{run}"));
    let text = |v: &Value| v.as_str().unwrap().to_owned();
    list.iter().map(|d| (text(&d["path"]), d["offset"].clone(), text(&d["what"]))).collect()
}

fn difference(path: &str, offset: impl Into<Value>, what: &str) -> (String, Value, String) {
    (path.to_owned(), offset.into(), what.to_owned())
}

#[test]
fn a_flipped_byte_is_found_at_its_offset() {
    if !ready(&[]) {
        return;
    }
    let disk = disk();
    disk.snapshot();
    disk.dualroot(&["verify"]).exits(0).prints("equal to its manifest");
    flip(&disk, 2, &pattern(LENGTH, 77), AT);
    let run = disk.dualroot(&["verify", "--json"]).exits(5);
    assert_eq!(differences(&run), [difference("/usr/lib/large", AT, "content")]);
    assert_eq!(run.stderr, "");
    let run = disk.dualroot(&["verify"]).exits(5);
    let lines: Vec<_> = run.stdout.lines().collect();
    assert_eq!(lines[0], format!("/usr/lib/large: content differs at {AT}"), "{run}");
    assert!(lines[1].ends_with(": 1 difference"), "{run}");

    // Several, in all file systems of the slot; the first and the last byte of a file too.
    flip(&disk, 2, &pattern(LENGTH, 77), LENGTH - 1);
    flip(&disk, 2, &pattern(3000, 78), 0);
    flip(&disk, 4, &pattern(LENGTH, 79), LENGTH - 1);
    let run = disk.dualroot(&["verify", "--json"]).exits(5);
    assert_eq!(
        differences(&run),
        [
            difference("/usr/lib/large", AT, "content"),
            difference("/usr/lib/small", 0, "content"),
            difference("/config/large", LENGTH - 1, "content"),
        ]
    );
    // What was flipped back is equal again.
    flip_back(&disk);
    disk.dualroot(&["verify"]).exits(0);
}

/// The same bytes again; their blocks are found by what was made of them.
fn flip_back(disk: &Disk) {
    let mut large = pattern(LENGTH, 77);
    for at in [AT, LENGTH - 1] {
        large[at] = !large[at];
    }
    flip(disk, 2, &large, AT);
    large[AT] = !large[AT];
    flip(disk, 2, &large, LENGTH - 1);
    let mut small = pattern(3000, 78);
    small[0] = !small[0];
    flip(disk, 2, &small, 0);
    let mut config = pattern(LENGTH, 79);
    config[LENGTH - 1] = !config[LENGTH - 1];
    flip(disk, 4, &config, LENGTH - 1);
}

#[test]
fn without_the_original_the_offset_is_that_of_the_block() {
    if !ready(&[]) {
        return;
    }
    let disk = disk();
    disk.snapshot();
    flip(&disk, 2, &pattern(LENGTH, 77), AT);
    flip(&disk, 2, &pattern(3000, 78), 1234);
    flip(&disk, 4, &pattern(LENGTH, 79), AT);
    // Changed in that very block; gone; of another size.
    let mut changed = pattern(LENGTH, 77);
    changed[AT + 1] ^= 1;
    disk.write("usr/lib/large", &changed);
    fs::remove_file(disk.root().join("usr/lib/small")).unwrap();
    disk.write("config/large", "short");
    let run = disk.dualroot(&["verify", "--json"]).exits(5);
    let block = AT / BLOCK * BLOCK;
    assert_eq!(
        differences(&run),
        [
            difference("/usr/lib/large", block, "content"),
            difference("/usr/lib/small", 0, "content"),
            difference("/config/large", block, "content"),
        ]
    );
    // Changed elsewhere only: this block still tells the byte.
    let mut changed = pattern(LENGTH, 77);
    changed[LENGTH - 1] ^= 1;
    disk.write("usr/lib/large", &changed);
    let run = disk.dualroot(&["verify", "--json"]).exits(5);
    assert_eq!(differences(&run)[0], difference("/usr/lib/large", AT, "content"));
}

/// Everything of the copy is in memory, and the block device is held open so that nothing can be
/// forgotten by itself: still it is the medium that is read.
#[test]
fn verify_reads_the_medium_and_not_the_memory() {
    if !ready(&["debugfs"]) {
        return;
    }
    let disk = disk();
    let name = "usr/share/a-name-that-is-unique-on-this-disk";
    disk.write(name, "named");
    disk.snapshot();
    let held = [2, 4].map(|n| File::open(disk.part(n)).unwrap());
    let warm = || {
        for device in &held {
            use std::io::{Seek, SeekFrom};
            let mut device = device;
            device.seek(SeekFrom::Start(0)).unwrap();
            device.read_to_end(&mut Vec::new()).unwrap();
        }
        let copy = disk.mount_alternate(true);
        assert_eq!(fs::read(copy.path().join("usr/lib/large")).unwrap().len(), LENGTH);
        assert_eq!(fs::read(copy.path().join(name)).unwrap(), b"named");
    };
    warm();
    disk.dualroot(&["verify"]).exits(0);
    warm();
    flip(&disk, 2, &pattern(LENGTH, 77), AT);
    let run = disk.dualroot(&["verify", "--json"]).exits(5);
    assert_eq!(differences(&run), [difference("/usr/lib/large", AT, "content")]);

    // The block of a directory lies in the block device's own cache.
    warm();
    let block = tool("debugfs", &[&"-R", &"blocks /usr/share", &disk.part(2)]);
    let block: u64 = String::from_utf8(block).unwrap().trim().parse().unwrap();
    disk.flip_on_medium(2, block * 1024 + 100);
    let run = disk.dualroot(&["verify", "--json"]).exits(5);
    let told = differences(&run);
    assert!(told.iter().any(|(path, ..)| path.starts_with("/usr/share")), "{run}");
    drop(held);
}

/// The strongest: a byte is flipped on the medium between the copy and its verification. The
/// program is held at two places between the two, and catches it at each.
#[test]
fn a_byte_flipped_between_copy_and_verify_is_caught() {
    if !ready(&["cc"]) {
        return;
    }
    let disk = disk();
    // Just before the copy is mounted to be read again; just after it is mounted.
    for call in [("mount-ro", "/altroot", 0), ("open", "manifest.mtree.new", 0)] {
        for json in [false, true] {
            let args: &[&str] = if json { &["snapshot", "--json"] } else { &["snapshot"] };
            let halted = disk.halt(args, call);
            flip(&disk, 2, &pattern(LENGTH, 77), AT);
            let run = halted.go().wait_soon().exits(5);
            if json {
                let error = &run.json()["error"];
                assert_eq!(
                    (&error["code"], &error["offset"]),
                    (&json!("differs"), &json!(AT)),
                    "{run}"
                );
                assert_eq!(error["path"], "usr/lib/large", "{run}");
            } else {
                let message = format!(
                    "dualroot: verifying /altroot: reading back usr/lib/large at {AT}: content"
                );
                assert!(run.stderr.lines().any(|l| l.starts_with(&message)), "{run}");
                assert!(!run.stdout.contains("archived"), "{run}");
            }
            assert_eq!(disk.state(), "invalid");
            disk.dualroot(&["verify"]).fails(3, "it is invalid");
            disk.assert_unmounted();
        }
    }
    // In the config's copy: the root's, verified already, is not valid either.
    let halted = disk.halt(&["snapshot"], ("mount-ro", "/altconfig", 0));
    flip(&disk, 4, &pattern(LENGTH, 79), AT);
    halted
        .go()
        .wait_soon()
        .exits(5)
        .says(&format!("verifying /altconfig: reading back large at {AT}"));
    assert_eq!(disk.state(), "invalid");
    disk.snapshot();
    assert_eq!(disk.state(), "valid");
}

/// Between the copy's last write and its unmounting: what the caches hold is good, the medium not.
#[test]
fn a_byte_flipped_before_the_caches_are_dropped_is_caught() {
    if !ready(&["cc"]) {
        return;
    }
    let disk = disk();
    let halted = disk.halt(&["snapshot"], ("umount", "/altroot", 0));
    // Everything was flushed before: it is on the medium.
    flip(&disk, 2, &pattern(LENGTH, 77), AT);
    assert_eq!(fs::read(disk.root().join("altroot/usr/lib/large")).unwrap(), pattern(LENGTH, 77));
    halted.go().wait_soon().exits(5).says(&format!("usr/lib/large at {AT}"));
    assert_eq!(disk.state(), "invalid");
}

/// The manifest itself, between copy and verify: the CRCs are compared with those of the source.
#[test]
fn a_manifest_changed_between_copy_and_verify_is_caught() {
    if !ready(&["cc"]) {
        return;
    }
    let disk = disk();
    let halted = disk.halt(&["snapshot"], ("mount-ro", "/altroot", 0));
    let offset = disk.find_on_medium(2, b"# made by dualroot; check with");
    disk.flip_on_medium(2, offset + 5);
    halted.go().wait_soon().exits(5);
    assert_eq!(disk.state(), "invalid");
}

// ---- records and manifests --------------------------------------------------------------------

fn change(disk: &Disk, slice: usize, work: impl Fn(&Path)) {
    let copy = disk.mount_slice(slice, false);
    work(copy.path());
}

/// A damage, and the state that it leaves.
type Damage<'a> = (&'a str, &'a dyn Fn(&Path), &'a str);

#[test]
fn a_slot_without_a_sound_record_is_not_valid() {
    if !ready(&[]) {
        return;
    }
    let disk = disk();
    let manifest = |copy: &Path| copy.join(".dualroot/manifest.mtree");
    let record = |copy: &Path| copy.join(".dualroot/record.json");
    let edit = |path: &Path, change: &dyn Fn(String) -> String| {
        let text = fs::read_to_string(path).unwrap();
        let new = change(text.clone());
        assert_ne!(text, new);
        fs::write(path, new).unwrap();
    };
    let cases: [Damage<'_>; 11] = [
        ("no record", &|c| fs::remove_file(record(c)).unwrap(), "invalid"),
        ("no manifest", &|c| fs::remove_file(manifest(c)).unwrap(), "invalid"),
        ("no directory", &|c| fs::remove_dir_all(c.join(".dualroot")).unwrap(), "invalid"),
        (
            "a line less",
            &|c| {
                edit(&manifest(c), &|t| {
                    t.split_inclusive('\n').filter(|l| !l.starts_with("small ")).collect()
                });
            },
            "invalid",
        ),
        (
            "a byte other",
            &|c| edit(&manifest(c), &|t| t.replacen("mode=0", "mode=1", 1)),
            "invalid",
        ),
        ("cut", &|c| edit(&manifest(c), &|t| t[..t.len() / 2].to_owned()), "invalid"),
        ("empty manifest", &|c| fs::write(manifest(c), "").unwrap(), "invalid"),
        ("cut record", &|c| edit(&record(c), &|t| t[..t.len() / 2].to_owned()), "unknown"),
        ("empty record", &|c| fs::write(record(c), "").unwrap(), "unknown"),
        (
            "newer record",
            &|c| edit(&record(c), &|t| t.replace("\"schema\": 1", "\"schema\": 2")),
            "unknown",
        ),
        ("noise", &|c| fs::write(record(c), pattern(5000, 1)).unwrap(), "unknown"),
    ];
    disk.snapshot();
    let saved = disk.tmp().join("saved");
    fs::create_dir(&saved).unwrap();
    change(&disk, 2, |c| {
        fs::copy(manifest(c), saved.join("manifest")).unwrap();
        fs::copy(record(c), saved.join("record")).unwrap();
    });
    for (what, damage, state) in cases {
        change(&disk, 2, damage);
        let slot = disk.slot(2);
        assert_eq!(slot["state"], state, "{what}: {slot}");
        assert!(slot["reason"].is_string(), "{what}: {slot}");
        assert_eq!(slot["created"], Value::Null, "{what}: {slot}");
        disk.dualroot(&["verify"]).fails(3, &format!("it is {state}"));
        let error = disk.dualroot(&["verify", "--json"]).exits(3).json();
        assert_eq!(error["error"]["code"], "problems", "{what}: {error}");
        disk.dualroot(&["show"]).exits(0).prints(&format!("State: {state} ("));
        change(&disk, 2, |c| {
            fs::create_dir_all(c.join(".dualroot")).unwrap();
            fs::copy(saved.join("manifest"), manifest(c)).unwrap();
            fs::copy(saved.join("record"), record(c)).unwrap();
        });
        assert_eq!(disk.state(), "valid", "{what}");
    }
}

/// Links where the record and the manifest should be are not followed.
#[test]
fn a_record_that_is_a_link_is_none() {
    if !ready(&[]) {
        return;
    }
    let disk = disk();
    disk.snapshot();
    let good = disk.tmp().join("good");
    change(&disk, 2, |c| {
        tool("cp", &[&"-a", &c.join(".dualroot"), &good]);
    });
    for name in ["record.json", "manifest.mtree"] {
        change(&disk, 2, |c| {
            let path = c.join(".dualroot").join(name);
            fs::remove_file(&path).unwrap();
            std::os::unix::fs::symlink(good.join(name), &path).unwrap();
        });
        assert_ne!(disk.state(), "valid", "{name}");
        disk.dualroot(&["verify"]).exits(3);
        change(&disk, 2, |c| {
            let path = c.join(".dualroot").join(name);
            fs::remove_file(&path).unwrap();
            fs::copy(good.join(name), &path).unwrap();
        });
    }
    change(&disk, 2, |c| {
        fs::remove_dir_all(c.join(".dualroot")).unwrap();
        std::os::unix::fs::symlink(&good, c.join(".dualroot")).unwrap();
    });
    assert_ne!(disk.state(), "valid");
    disk.dualroot(&["verify"]).exits(3);
}

/// The config's copy is a part of the slot: damage there is the slot's.
#[test]
fn a_config_without_a_record_is_a_problem() {
    if !ready(&[]) {
        return;
    }
    let disk = disk();
    disk.snapshot();
    change(&disk, 4, |c| fs::remove_file(c.join(".dualroot/record.json")).unwrap());
    assert_ne!(disk.state(), "valid");
    disk.dualroot(&["verify"]).fails(3, &format!("verifying /altconfig ({})", disk.node(4)));
    // No file system at all.
    disk.snapshot();
    tool(
        "dd",
        &[
            &"if=/dev/zero",
            &format!("of={}", disk.node(4)),
            &"bs=1M",
            &"count=1",
            &"conv=fsync",
            &"status=none",
        ],
    );
    assert_ne!(disk.state(), "valid");
    disk.dualroot(&["verify"]).fails(3, "no file system that dualroot knows is on it");
}

#[test]
fn names_that_came_or_went_are_told() {
    if !ready(&[]) {
        return;
    }
    let disk = disk();
    disk.snapshot();
    let dir_times = |c: &Path, work: &dyn Fn()| {
        let m = fs::metadata(c).unwrap();
        work();
        let spec = |s, n| nix::sys::time::TimeSpec::new(s, n);
        let (a, b) = (spec(m.atime(), m.atime_nsec()), spec(m.mtime(), m.mtime_nsec()));
        nix::sys::stat::utimensat(
            nix::fcntl::AT_FDCWD,
            c,
            &a,
            &b,
            nix::sys::stat::UtimensatFlags::FollowSymlink,
        )
        .unwrap();
    };
    change(&disk, 2, |c| {
        dir_times(&c.join("usr/lib"), &|| {
            fs::remove_file(c.join("usr/lib/small")).unwrap();
            fs::write(c.join("usr/lib/a-new"), "").unwrap();
            fs::write(c.join("usr/lib/z-new"), "").unwrap();
        });
        // A whole directory goes: one difference, not one for each that was in it.
        dir_times(&c.join("usr"), &|| fs::remove_dir_all(c.join("usr/share")).unwrap());
    });
    let run = disk.dualroot(&["verify", "--json"]).exits(5);
    assert_eq!(
        differences(&run),
        [
            difference("/usr/lib/a-new", Value::Null, "extra"),
            difference("/usr/lib/small", Value::Null, "missing"),
            difference("/usr/lib/z-new", Value::Null, "extra"),
            difference("/usr/share", Value::Null, "missing"),
        ]
    );
    // A broken link of several.
    disk.snapshot();
    change(&disk, 2, |c| {
        dir_times(&c.join("boot"), &|| {
            let (a, b) = (c.join("boot/kernel.old"), c.join("boot/copy"));
            tool("cp", &[&"-a", &a, &b]);
            fs::rename(&b, &a).unwrap();
        });
    });
    let run = disk.dualroot(&["verify", "--json"]).exits(5);
    let told = differences(&run);
    assert!(told.iter().all(|(path, ..)| path.starts_with("/boot/kernel")), "{run}");
    assert!(told.iter().any(|(.., what)| what.contains("link")), "{run}");
}

#[test]
fn nothing_of_the_copy_changes_by_verifying() {
    if !ready(&[]) {
        return;
    }
    let disk = disk();
    disk.snapshot();
    flip(&disk, 2, &pattern(LENGTH, 77), AT);
    let before = [2, 4].map(|n| disk.hash_device(n));
    disk.dualroot(&["verify"]).exits(5);
    assert_eq!([2, 4].map(|n| disk.hash_device(n)), before);
    // The slot stays as it is: its record tells of the day when it was verified.
    assert_eq!(disk.state(), "valid");
    disk.dualroot(&["verify", "--slice", "1"]).fails(6, "slot 1 is running");
    disk.dualroot(&["verify", "--slice", "2"]).exits(5);
    disk.dualroot(&["verify", "--slice", "3"]).exits(2);
}

/// Its record cannot be read: there is none to go by.
#[test]
fn a_slot_that_cannot_be_mounted_is_a_problem() {
    if !ready(&[]) {
        return;
    }
    let disk = disk();
    disk.snapshot();
    // The group descriptors, behind a superblock that is whole.
    let node = std::fs::OpenOptions::new().write(true).open(disk.part(2)).unwrap();
    node.write_all_at(&[0xff; 1024], 2048).unwrap();
    node.sync_all().unwrap();
    assert_eq!(disk.slot(2)["state"], "unknown");
    let run = disk.dualroot(&["verify"]).fails(3, &format!("mounting {}", disk.node(2)));
    run.says("\nhint: dualroot snapshot makes a copy\n");
}

#[test]
fn a_slot_that_was_never_written_is_a_problem() {
    if !ready(&["mkswap"]) {
        return;
    }
    let disk = disk();
    let hint = "\nhint: dualroot snapshot makes a copy\n";
    assert_eq!(disk.state(), "empty");
    disk.dualroot(&["verify"]).fails(3, "no file system that dualroot knows is on it").says(hint);
    // Something may be there all the same.
    tool("mkswap", &[&disk.part(2)]);
    let slot = disk.slot(2);
    assert_eq!(slot["state"], "empty", "{slot}");
    assert_eq!(slot["reason"], "no file system that dualroot knows is on it", "{slot}");
    disk.format(2);
    assert_eq!(disk.state(), "empty");
    disk.dualroot(&["verify"]).fails(3, "it is empty").says(hint);
    change(&disk, 2, |c| fs::write(c.join("file"), "").unwrap());
    assert_eq!(disk.state(), "invalid");
    disk.dualroot(&["verify"]).fails(3, "it is invalid");
}
