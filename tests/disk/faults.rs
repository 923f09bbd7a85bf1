//! Media that fail, fill up or go away in the middle of a run.
//!
//! Real faults first: an image on a file system that fills up or is shut down, an image that is
//! cut off, a loop device that is taken away. Then single system calls that fail.

use std::collections::BTreeMap;
use std::fs::{self, File, OpenOptions};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use nix::mount::{MsFlags, mount};
use tempfile::TempDir;

use crate::harness::{
    Call, Disk, Holder, Layout, Run, fingerprint, pattern, ready, temp_dir, tool, unmount,
};

const EIO: i32 = 5;
const MIB: u64 = 1 << 20;
/// Nobody else's content.
const LARGE: usize = 3 << 20;

// ---- a second medium that can fail ----------------------------------------------------------

/// A file system that holds an image: gone when it is dropped.
struct Host {
    dir: TempDir,
    /// The image of the host itself, where it is no tmpfs.
    _image: Option<TempDir>,
}

impl Host {
    /// One that is full after so many bytes.
    fn small(mb: u64) -> Self {
        let dir = temp_dir();
        let size = format!("size={mb}m");
        mount(Some("tmpfs"), dir.path(), Some("tmpfs"), MsFlags::empty(), Some(size.as_str()))
            .unwrap();
        Self { dir, _image: None }
    }

    /// One that can be shut down.
    fn mortal(mb: u64) -> Self {
        let (dir, own) = (temp_dir(), temp_dir());
        let image = own.path().join("host");
        File::create(&image).unwrap().set_len(mb * MIB).unwrap();
        tool("mkfs.ext4", &[&"-q", &"-F", &image]);
        tool("mount", &[&"-o", &"loop", &image, &dir.path()]);
        Self { dir, _image: Some(own) }
    }

    /// From now on everything on it fails with `EIO`, as on a medium that was pulled.
    fn shut_down(&self) {
        tool("xfs_io", &[&"-x", &"-c", &"shutdown", &self.dir.path()]);
    }

    /// Makes room.
    fn grow(&self, mb: u64) {
        tool("mount", &[&"-o", &format!("remount,size={mb}m"), &self.dir.path()]);
    }

    fn path(&self) -> &Path {
        self.dir.path()
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        unmount(self.path());
    }
}

/// A running root on one medium whose fstab names a second one for `/altroot`.
struct Two {
    first: Disk,
    second: Disk,
    before: BTreeMap<PathBuf, String>,
    /// Behind the disks, which must go first.
    host: Option<Host>,
}

impl Two {
    fn new(source_mb: u64, target_mb: u64, host: Option<Host>) -> Self {
        let one = |mb| Layout { sizes_mb: vec![mb], ..Layout::default() };
        let first = Disk::new(one(source_mb));
        first.fill();
        let second = match &host {
            Some(host) => {
                let dir = tempfile::Builder::new().prefix("disk.").tempdir_in(host.path());
                Disk::bare_in(one(target_mb), dir.unwrap())
            }
            None => Disk::bare(one(target_mb)),
        };
        first.write(
            "etc/fstab",
            format!(
                "{} / ext4 rw 0 1\n{} /altroot ext4 rw,noauto 0 0\n",
                first.node(1),
                second.node(1)
            ),
        );
        Self { first, second, before: BTreeMap::new(), host }
    }

    /// Adds a large file and remembers the source.
    fn with_large(mut self) -> Self {
        self.first.write("zz/large", pattern(LARGE, 99));
        self.before = fingerprint(self.first.root());
        self
    }

    fn host(&self) -> &Host {
        self.host.as_ref().unwrap()
    }

    /// The alternate slot's state: the slots' order is that of the media's names.
    #[track_caller]
    fn state(&self) -> String {
        let report = self.first.dualroot(&["show", "--json"]).exits(0).json();
        let slots = report["slots"].as_array().unwrap();
        let slot = slots.iter().find(|s| s["booted"] == false).unwrap();
        assert_eq!(slot["device"], self.second.node(1));
        slot["state"].as_str().unwrap().to_owned()
    }

    /// Whatever happened, the source is as it was, the copy is not valid and nothing is mounted.
    #[track_caller]
    fn harmless(&self, run: &Run) {
        assert_ne!(self.state(), "valid", "{run}");
        let left = self.second.mounts();
        assert!(left.is_empty(), "left mounted: {left:?}\n{run}");
        assert!(fingerprint(self.first.root()) == self.before, "the source has changed: {run}");
    }

    #[track_caller]
    fn next_run_succeeds(&self) {
        self.first.spawn(&["snapshot"]).wait_soon().exits(0);
        assert_eq!(self.state(), "valid");
        self.first.dualroot(&["verify"]).exits(0);
    }
}

/// Exactly one message, besides the list of the files that differ.
#[track_caller]
fn fails_with_one_message(run: &Run, codes: &[i32]) {
    assert!(codes.contains(&run.code), "not exit {codes:?}: {run}");
    let message = |l: &&str| l.starts_with("dualroot: ") && !l.starts_with("dualroot: error: ");
    assert_eq!(run.stderr.lines().filter(message).count(), 1, "{run}");
    assert!(!run.stderr.contains("panicked"), "{run}");
}

// ---- the target fails -----------------------------------------------------------------------

/// Blocks that the file system has given out cannot be written: only a flush tells.
#[test]
fn the_target_cannot_keep_what_is_written() {
    if !ready(&[]) {
        return;
    }
    let two = Two::new(24, 24, Some(Host::small(5))).with_large();
    // The file system itself fits, its content does not.
    two.first.write("zz/more", pattern(LARGE, 100));
    let two = Two { before: fingerprint(two.first.root()), ..two };
    let run = two.first.spawn(&["snapshot"]).wait_soon();
    fails_with_one_message(&run, &[1]);
    assert!(run.stderr.contains("copying / to /altroot"), "{run}");
    two.harmless(&run);
    two.host().grow(100);
    two.next_run_succeeds();
}

/// Pulled before this call; what ends the run differs, that it ends and how does not.
fn pulled_at(call: Call<'_>, codes: &[i32]) {
    if !ready(&["cc", "xfs_io", "mkfs.ext4"]) {
        return;
    }
    let two = Two::new(24, 24, Some(Host::mortal(64))).with_large();
    let halted = two.first.halt(&["snapshot"], call);
    two.host().shut_down();
    let run = halted.go().wait_soon();
    fails_with_one_message(&run, codes);
    two.harmless(&run);
    // What cannot be read is not known to be empty.
    assert_eq!(two.state(), "unknown", "{run}");
    let shown = two.first.dualroot(&["show"]).exits(0);
    assert!(shown.stdout.contains(&two.first.node(1)), "{shown}");
}

#[test]
fn pulled_before_the_format() {
    pulled_at(("spawn", "p1", 0), &[1]);
}

#[test]
fn pulled_before_the_copy_is_mounted() {
    pulled_at(("mount-rw", "/altroot", 0), &[1]);
}

#[test]
fn pulled_in_the_copy() {
    pulled_at(("create", "20.txt", 0), &[1]);
}

#[test]
fn pulled_at_the_end_of_the_copy() {
    pulled_at(("syncfs", "/altroot", 0), &[1]);
}

#[test]
fn pulled_before_the_verification() {
    pulled_at(("mount-ro", "/altroot", 0), &[1, 5]);
}

#[test]
fn pulled_in_the_verification() {
    pulled_at(("open", "20.txt", 1), &[1, 5]);
}

#[test]
fn pulled_before_the_record_is_written() {
    pulled_at(("mount-rw", "/altroot", 1), &[1]);
}

#[test]
fn pulled_before_the_record_is_in_place() {
    pulled_at(("rename", "record.json", 0), &[1]);
}

/// `verify` of a medium that goes away meanwhile.
#[test]
fn pulled_while_an_old_copy_is_verified() {
    if !ready(&["cc", "xfs_io", "mkfs.ext4"]) {
        return;
    }
    let two = Two::new(24, 24, Some(Host::mortal(64))).with_large();
    two.first.snapshot();
    let halted = two.first.halt(&["verify"], ("open", "20.txt", 0));
    two.host().shut_down();
    let run = halted.go().wait_soon();
    assert!([1, 5].contains(&run.code), "{run}");
    two.harmless(&run);
}

/// The device node goes as soon as nobody has it open: between the copy and its verification.
#[test]
fn the_device_goes_away() {
    if !ready(&["cc"]) {
        return;
    }
    let two = Two::new(24, 24, None).with_large();
    let halted = two.first.halt(&["snapshot"], ("create", "20.txt", 0));
    tool("losetup", &[&"-d", &two.second.medium()]);
    let run = halted.go().wait_soon();
    fails_with_one_message(&run, &[1]);
    let left = two.second.mounts();
    assert!(left.is_empty(), "left mounted: {left:?}");
    assert!(fingerprint(two.first.root()) == two.before, "the source has changed");
}

/// The image is cut off while it is mounted: reads behind its new end fail.
#[test]
fn the_target_is_cut_off_in_the_copy() {
    if !ready(&["cc"]) {
        return;
    }
    let two = Two::new(24, 24, None).with_large();
    let halted = two.first.halt(&["snapshot"], ("create", "20.txt", 0));
    let image = OpenOptions::new().write(true).open(two.second.image()).unwrap();
    let size = image.metadata().unwrap().len();
    // The table stays: without it the next run would be refused.
    image.set_len(1 << 20).unwrap();
    let run = halted.go().wait_soon();
    fails_with_one_message(&run, &[1, 5]);
    image.set_len(size).unwrap();
    two.harmless(&run);
    two.next_run_succeeds();
}

/// A bad spot in the copy of one file: the verification names it.
#[test]
fn the_copy_has_an_unreadable_spot() {
    if !ready(&["cc"]) {
        return;
    }
    let two = Two::new(24, 24, None).with_large();
    let halted = two.first.halt(&["snapshot"], ("mount-ro", "/altroot", 0));
    let middle = &pattern(LARGE, 99)[LARGE / 2..LARGE / 2 + 64];
    let at = two.second.find_on_medium(1, middle) + two.second.extent(1).0;
    let cut = CutOff::at(&two.second.image(), at);
    let run = halted.go().wait_soon();
    fails_with_one_message(&run, &[5]);
    assert!(run.stderr.contains("zz/large: unreadable: Input/output error"), "{run}");
    // Other files may lie behind the cut, too: the first one in the tree's order is the message.
    assert!(run.stderr.contains("verifying /altroot: reading back "), "{run}");
    assert!(run.stderr.contains(" at 0: ") || run.stderr.contains(&format!(" at {}: ", LARGE / 2)));
    cut.mend();
    two.harmless(&run);
    two.next_run_succeeds();
}

/// An image without its end, which can be put back.
struct CutOff {
    image: File,
    at: u64,
    tail: Vec<u8>,
}

impl CutOff {
    fn at(image: &Path, at: u64) -> Self {
        let image = OpenOptions::new().read(true).write(true).open(image).unwrap();
        let mut tail = vec![0; usize::try_from(image.metadata().unwrap().len() - at).unwrap()];
        image.read_exact_at(&mut tail, at).unwrap();
        image.set_len(at).unwrap();
        Self { image, at, tail }
    }

    fn mend(self) {
        self.image.write_all_at(&self.tail, self.at).unwrap();
    }
}

// ---- the source fails -----------------------------------------------------------------------

#[test]
fn the_source_has_an_unreadable_spot() {
    if !ready(&[]) {
        return;
    }
    let two = Two::new(24, 24, None).with_large();
    // From the medium, not from memory.
    unmount(two.first.root());
    two.first.flush(1);
    // In the middle of the file that lies behind the other one: where it begins is the file
    // system's choice.
    let find = |content: Vec<u8>, offset: usize| {
        two.first.find_on_medium(1, &content[offset..offset + 64]) + two.first.extent(1).0
    };
    let files = [
        (find(pattern(700_000, 1), 85 << 12), "boot/kernel/kernel", 85 << 12),
        (find(pattern(LARGE, 99), LARGE / 2), "zz/large", LARGE / 2),
    ];
    let (at, name, offset) = files.into_iter().max().unwrap();
    // Read-only: a write behind the cut would make the image longer again.
    two.first.mount(&two.first.part(1), two.first.root(), true);
    let cut = CutOff::at(&two.first.image(), at);
    let run = two.first.spawn(&["snapshot"]).wait_soon();
    cut.mend();
    unmount(two.first.root());
    let words = format!("copying / to /altroot: reading {name} at {offset}: Input/output error");
    let run = run.fails(1, &words);
    two.first.flush(1);
    two.first.mount(&two.first.part(1), two.first.root(), false);
    two.harmless(&run);
    two.next_run_succeeds();
}

/// The preflight was right when it was made. Which file is named depends on the order in which
/// they were written: workers run ahead, and the first failure in the tree's order is told.
#[test]
fn the_source_grows_beyond_the_target() {
    if !ready(&["cc"]) {
        return;
    }
    let disk = Disk::new(Layout::roots(48, 16));
    disk.fill();
    disk.write("zz/first", "here before");
    let halted = disk.halt(&["snapshot"], ("mount-rw", "/altroot", 0));
    let grown = disk.write("zz/grown", pattern(24 << 20, 5));
    let run = halted.go().wait_soon().fails(1, "copying / to /altroot: writing ");
    assert!(run.stderr.contains(": No space left on device"), "{run}");
    disk.assert_unmounted();
    assert_eq!(disk.state(), "invalid");
    fs::remove_file(grown).unwrap();
    disk.snapshot();
    assert_eq!(disk.state(), "valid");
}

#[test]
fn the_source_gets_more_files_than_the_target_has_inodes() {
    if !ready(&["cc"]) {
        return;
    }
    let disk = Disk::new(Layout::roots(48, 16));
    disk.fill();
    let dir = disk.root().join("zz");
    fs::create_dir(&dir).unwrap();
    let halted = disk.halt(&["snapshot"], ("mount-rw", "/altroot", 0));
    for n in 0..5000 {
        File::create(dir.join(n.to_string())).unwrap();
    }
    let run = halted.go().wait_soon().fails(1, "copying / to /altroot: creating ");
    assert!(run.stderr.contains(": No space left on device"), "{run}");
    disk.assert_unmounted();
    assert_eq!(disk.state(), "invalid");
    fs::remove_dir_all(dir).unwrap();
    disk.snapshot();
    assert_eq!(disk.state(), "valid");
}

// ---- the copy cannot be unmounted -----------------------------------------------------------

/// Somebody looks into the copy while it is made.
#[test]
fn somebody_enters_the_copy() {
    if !ready(&["cc"]) {
        return;
    }
    let mut disk = Disk::new(Layout::roots(16, 16));
    disk.lenient(); // while somebody is in it, it has to stay
    disk.fill();
    let halted = disk.halt(&["snapshot"], ("create", "20.txt", 0));
    let holder = Holder::inside(&disk.root().join("altroot"));
    let run = halted.go().wait_soon().fails(4, "copying / to /altroot: ");
    assert_ne!(disk.state(), "valid");
    let named = run.stderr.contains(&holder.pid().to_string()) && run.stderr.contains("sleep");
    drop(holder);
    disk.snapshot();
    assert_eq!(disk.state(), "valid");
    disk.assert_unmounted();
    assert!(named, "the holder is not named: {run}");
}

/// ... for a moment only: that is waited for.
#[test]
fn somebody_enters_the_copy_for_a_moment() {
    if !ready(&["cc"]) {
        return;
    }
    let disk = Disk::new(Layout::roots(16, 16));
    disk.fill();
    let halted = disk.halt(&["snapshot"], ("create", "20.txt", 0));
    let holder = Holder::inside(&disk.root().join("altroot"));
    let running = halted.go();
    std::thread::sleep(std::time::Duration::from_millis(700));
    drop(holder);
    running.wait_soon().exits(0);
    assert_eq!(disk.state(), "valid");
}

// ---- single calls fail ----------------------------------------------------------------------

/// One system call of the whole run fails: what the message says.
const CALLS: [(Call<'static>, i32, &str); 18] = [
    (("mount-rw", "/altroot", 0), 1, "copying / to /altroot: mounting "),
    (("read", "/zz/large", 1), 1, "copying / to /altroot: reading zz/large at "),
    (("write", "altroot/zz/large", 1), 1, "copying / to /altroot: writing zz/large at "),
    (("create", "20.txt", 0), 1, "copying / to /altroot: creating usr/share/doc/20.txt: "),
    (("open", "20.txt", 0), 1, "copying / to /altroot: opening usr/share/doc/20.txt: "),
    (("fsync", "manifest.mtree.new", 0), 1, "copying / to /altroot: flushing manifest.mtree.new: "),
    (("syncfs", "/altroot", 0), 1, "copying / to /altroot: flushing "),
    (("umount", "/altroot", 0), 1, "copying / to /altroot: unmounting "),
    (("mount-ro", "/altroot", 0), 1, "verifying /altroot: mounting "),
    (("read", "altroot/zz/large", 1), 5, "verifying /altroot: reading back zz/large at "),
    (("umount", "/altroot", 1), 1, "verifying /altroot: unmounting "),
    (("fsync", "tables.new", 0), 1, "keeping the partition tables: flushing tables.new: "),
    (("rename", "tables", 0), 1, "keeping the partition tables: renaming tables.new: "),
    (("fsync", "record.json.new", 0), 1, "recording /altroot: flushing record.json.new: "),
    (("rename", "record.json", 0), 1, "recording /altroot: renaming record.json.new: "),
    (
        ("fsync", "altroot/.dualroot", 2),
        1,
        "recording /altroot: flushing the directory of record.json: ",
    ),
    (("syncfs", "/altroot", 1), 1, "recording /altroot: flushing "),
    (("umount", "/altroot", 2), 1, "recording /altroot: unmounting "),
];

#[test]
fn every_call_may_fail() {
    if !ready(&["cc"]) {
        return;
    }
    let mut disk = Disk::new(Layout::roots(16, 16));
    disk.lenient(); // what cannot be unmounted stays mounted
    disk.fill();
    disk.write("zz/large", pattern(LARGE, 99));
    let before = fingerprint(disk.root());
    let mut wrong = Vec::new();
    for (call, code, words) in CALLS {
        let run = disk.with_fault(&["snapshot", "--fresh"], call, EIO);
        fails_with_one_message(&run, &[code]);
        let clear = run.stderr.contains(words) && run.stderr.contains("Input/output error");
        let state = disk.state();
        // A record that was durable before the fault may be found; then all of it must be there.
        let proven = state == "valid" && disk.dualroot(&["verify"]).code == 0;
        let recorded = words.starts_with("recording") && proven;
        let left = disk.alternate_mounts();
        if !clear || (state == "valid" && !recorded) || (call.0 != "umount" && !left.is_empty()) {
            wrong.push(format!("{call:?} (state {state}, mounts {left:?}): {run}"));
        }
        disk.snapshot();
        assert_eq!(disk.state(), "valid");
        disk.assert_unmounted();
        assert!(fingerprint(disk.root()) == before, "the source has changed: {run}");
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}
