//! Trees that try to break out, to wear out or to deceive.

use std::ffi::{OsStr, OsString};
use std::fs::{self, File, OpenOptions};
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStringExt;
use std::os::unix::fs::{FileExt, MetadataExt, symlink};
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::sleep;
use std::time::{Duration, Instant};

use nix::fcntl::{AtFlags, OFlag, openat};
use nix::sys::stat::{Mode, mkdirat};
use nix::unistd::linkat;

use crate::harness::{Disk, Layout, os, pattern, ready, tool, unmount, wait_until};

/// What must never be in a copy.
const SECRET: &[u8] = b"this lies outside of the tree and must not be copied";

fn roots(first_mb: u64, second_mb: u64) -> Disk {
    let disk = Disk::new(Layout::roots(first_mb, second_mb));
    disk.write_fstab();
    disk
}

/// Sets it when it is dropped.
struct Stop<'a>(&'a AtomicBool);

impl Drop for Stop<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// Does `work` again and again in another thread while `run` runs.
fn meanwhile<T>(mut work: impl FnMut() + Send, run: impl FnOnce() -> T) -> T {
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while !stop.load(Ordering::Relaxed) {
                work();
            }
        });
        // Also where `run` panics, or the scope would wait for ever.
        let _stop = Stop(&stop);
        run()
    })
}

// ---- names and shapes -------------------------------------------------------------------------

#[test]
fn names_of_any_bytes() {
    if !ready(&[]) {
        return;
    }
    let disk = roots(24, 24);
    let dir = disk.root().join("names");
    fs::create_dir(&dir).unwrap();
    let mut names: Vec<OsString> = Vec::new();
    for byte in (1..=255u8).filter(|b| *b != b'/') {
        if byte != b'.' {
            names.push(OsString::from_vec(vec![byte]));
        }
        names.push(OsString::from_vec(vec![b'a', byte, b'z']));
    }
    let others = [
        &b"..."[..],
        b"-rf",
        b"#comment",
        b"type=dir",
        b"..  ",
        b"\\056\\056",
        b"a\nb type=file",
        b"%s%n",
        b"/set".trim_ascii_start().strip_prefix(b"/").unwrap_or_default(),
        b"\xff\xfe\xfd",
        b"\xc3\x28",
        b"*?[a]{b}",
        b"manifest.mtree",
        b".dualroot",
        b"x;rm",
        b"$(id)",
        b"`id`",
        b"'\"",
        b"~root",
        b"+",
        b"@a",
    ];
    names.extend(others.into_iter().map(|n| os(n).to_owned()));
    names.push(OsString::from_vec(vec![b'n'; 255]));
    names.push(OsString::from_vec(vec![0xff; 255]));
    names.push(OsString::from_vec(vec![b'\n'; 255]));
    names.sort();
    names.dedup();
    for (n, name) in names.iter().enumerate() {
        let path = dir.join(name);
        match n % 3 {
            0 => fs::write(&path, pattern(n, n)).unwrap(),
            1 => symlink(Path::new(name), &path).unwrap(),
            _ => {
                fs::create_dir(&path).unwrap();
                fs::write(path.join(name), name.as_encoded_bytes()).unwrap();
            }
        }
    }
    disk.snapshot();
    assert_eq!(disk.state(), "valid");
    disk.dualroot(&["verify"]).exits(0);
    let copy = disk.mount_alternate(true);
    let copied = copy.path().join("names");
    let mut found: Vec<_> =
        fs::read_dir(&copied).unwrap().map(|e| e.unwrap().file_name()).collect();
    found.sort();
    assert_eq!(found, names);
    for (n, name) in names.iter().enumerate() {
        let path = copied.join(name);
        match n % 3 {
            0 => assert_eq!(fs::read(&path).unwrap(), pattern(n, n), "{name:?}"),
            1 => assert_eq!(fs::read_link(&path).unwrap().as_os_str(), name),
            _ => assert_eq!(fs::read(path.join(name)).unwrap(), name.as_encoded_bytes()),
        }
    }
}

/// mtree reads every name as we wrote it, but for those with `*`, `?` or a pair of brackets, which
/// it takes for patterns however they are written.
#[test]
fn mtree_reads_names_of_any_bytes() {
    if !ready(&["mtree"]) {
        return;
    }
    let disk = roots(24, 24);
    let dir = disk.root().join("names");
    fs::create_dir(&dir).unwrap();
    for byte in (1..=255u8).filter(|b| !b"/*?".contains(b)) {
        fs::write(dir.join(os(&[b'a', byte, b'z'])), [byte]).unwrap();
        if byte != b'.' {
            fs::write(dir.join(os(&[byte])), [byte]).unwrap();
        }
    }
    for name in
        [&b"..."[..], b"#x", b"type=dir", b"..  ", b"\\056", b"a\nb type=file", b"\xff\xff", b"@x"]
    {
        symlink(os(name), dir.join(os(name))).unwrap();
    }
    disk.snapshot();
    let copy = disk.mount_alternate(true);
    let manifest = copy.path().join(".dualroot/manifest.mtree");
    let told = tool("mtree", &[&"-f", &manifest, &"-p", &copy.path()]);
    assert_eq!(String::from_utf8_lossy(&told), "");
}

/// A difference in a file of any name is told in one line, whatever the name tries.
#[test]
fn a_name_cannot_forge_a_line_of_the_output() {
    if !ready(&[]) {
        return;
    }
    let disk = roots(24, 24);
    let name = os(b"x\nslot 2: 1 files, 1 bytes read: equal to its manifest\n\x1b[2J");
    fs::write(disk.root().join(name), pattern(1000, 5)).unwrap();
    disk.snapshot();
    disk.flip_on_medium(2, disk.find_on_medium(2, &pattern(1000, 5)) + 10);
    let run = disk.dualroot(&["verify"]).exits(5);
    assert_eq!(run.stdout.lines().count(), 2, "{run}");
    assert!(!run.stdout.contains('\x1b'), "{run}");
    let report = disk.dualroot(&["verify", "--json"]).exits(5).json();
    assert_eq!(report["differences"][0]["offset"], 10, "{report}");
    // The same for errors.
    let run = disk.disturbed(&["snapshot"], "grow", "[2J").exits(1);
    let lines = run.stderr.lines().filter(|l| !l.starts_with("hint: ")).count();
    assert_eq!(lines, 1, "{run}");
    assert!(!run.stderr.contains('\x1b'), "{run}");
}

fn dir_in(dir: &OwnedFd, name: &OsStr) -> OwnedFd {
    openat(dir, name, OFlag::O_DIRECTORY | OFlag::O_RDONLY | OFlag::O_CLOEXEC, Mode::empty())
        .unwrap()
}

#[test]
fn a_directory_4000_deep() {
    if !ready(&[]) {
        return;
    }
    let disk = roots(32, 32);
    let open = |path: &Path| OwnedFd::from(File::open(path).unwrap());
    let name = |n: usize| {
        OsString::from(if n.is_multiple_of(10) { format!("level-{n}") } else { "d".to_owned() })
    };
    fs::create_dir(disk.root().join("deep")).unwrap();
    let mut here = open(&disk.root().join("deep"));
    let create = OFlag::O_CREAT | OFlag::O_WRONLY | OFlag::O_CLOEXEC;
    for n in 0..4000 {
        if n % 100 == 0 {
            // A file on the way, and one that sorts after the directory: both sides of the return.
            for file in ["a", "z"] {
                let fd = openat(&here, file, create, Mode::from_bits_truncate(0o600)).unwrap();
                File::from(fd).write_all_at(format!("{file}{n}").as_bytes(), 0).unwrap();
            }
        }
        mkdirat(&here, name(n).as_os_str(), Mode::from_bits_truncate(0o755)).unwrap();
        here = dir_in(&here, &name(n));
    }
    let bottom = openat(&here, "bottom", create, Mode::from_bits_truncate(0o600)).unwrap();
    File::from(bottom).write_all_at(&pattern(100_000, 4000), 0).unwrap();
    drop(here);
    disk.snapshot();
    assert_eq!(disk.state(), "valid");
    disk.dualroot(&["verify"]).exits(0);

    let copy = disk.mount_alternate(true);
    let mut here = open(&copy.path().join("deep"));
    let read = |dir: &OwnedFd, name: &str| {
        let file = File::from(
            openat(dir, name, OFlag::O_RDONLY | OFlag::O_CLOEXEC, Mode::empty()).unwrap(),
        );
        let mut content = vec![0; usize::try_from(file.metadata().unwrap().len()).unwrap()];
        file.read_exact_at(&mut content, 0).unwrap();
        content
    };
    for n in 0..4000 {
        if n % 100 == 0 {
            for file in ["a", "z"] {
                assert_eq!(read(&here, file), format!("{file}{n}").into_bytes());
            }
        }
        here = dir_in(&here, &name(n));
    }
    assert_eq!(read(&here, "bottom"), pattern(100_000, 4000));
    drop(here);
    drop(copy);

    // A flipped byte down there has a path of more than PATH_MAX, and it is told.
    disk.flip_on_medium(2, disk.find_on_medium(2, &pattern(1024, 4000)));
    let report = disk.dualroot(&["verify", "--json"]).exits(5).json();
    let path = report["differences"][0]["path"].as_str().unwrap();
    assert!(
        path.len() > 8000 && path.starts_with("/deep/level-0/d/") && path.ends_with("/d/bottom"),
        "{report}"
    );
    assert_eq!(report["differences"][0]["offset"], 0);
    // The next snapshot clears the old copy, deep as it is.
    disk.snapshot();
    disk.dualroot(&["verify"]).exits(0);
}

#[test]
fn sixty_thousand_links_to_one_file() {
    if !ready(&[]) {
        return;
    }
    let disk = roots(24, 24);
    fs::create_dir_all(disk.root().join("links/b")).unwrap();
    let file = disk.write("links/file", pattern(50_000, 9));
    let (a, b) = (
        File::open(disk.root().join("links")).unwrap(),
        File::open(disk.root().join("links/b")).unwrap(),
    );
    for n in 1..60_000 {
        let dir = if n % 2 == 0 { &a } else { &b };
        linkat(nix::fcntl::AT_FDCWD, &file, dir, format!("{n}").as_str(), AtFlags::empty())
            .unwrap();
    }
    drop((a, b));
    let report = disk.dualroot(&["snapshot", "--json"]).exits(0).json();
    assert_eq!(report["pairs"][0]["files"], 60_001, "the links and fstab");
    assert!(report["pairs"][0]["bytes"].as_u64().unwrap() < 51_000, "{report}");
    disk.dualroot(&["verify"]).exits(0);
    let copy = disk.mount_alternate(true);
    let meta = |name: &str| fs::metadata(copy.path().join("links").join(name)).unwrap();
    assert_eq!(meta("file").nlink(), 60_000);
    assert_eq!([meta("2").ino(), meta("b/59999").ino()], [meta("file").ino(); 2]);
    assert_eq!(fs::read(copy.path().join("links/b/1")).unwrap(), pattern(50_000, 9));
}

#[test]
fn a_sparse_file_of_a_tebibyte() {
    if !ready(&[]) {
        return;
    }
    let disk = roots(24, 24);
    let size: u64 = 1 << 40;
    let file = File::create(disk.root().join("sparse")).unwrap();
    file.set_len(size).unwrap();
    let pieces = [(size / 2 + 3, 70_000, 1), (size - 5000, 5000, 2)];
    for (offset, length, seed) in pieces {
        file.write_all_at(&pattern(length, seed), offset).unwrap();
    }
    drop(file);
    let begun = Instant::now();
    disk.snapshot();
    disk.dualroot(&["verify"]).exits(0);
    assert!(begun.elapsed() < Duration::from_secs(20), "holes were read: {:?}", begun.elapsed());
    let copy = disk.mount_alternate(true);
    let copied = File::open(copy.path().join("sparse")).unwrap();
    assert_eq!(copied.metadata().unwrap().len(), size);
    let source = fs::metadata(disk.root().join("sparse")).unwrap().blocks();
    assert!(copied.metadata().unwrap().blocks() <= source + 8);
    for (offset, length, seed) in pieces {
        let mut read = vec![0; length];
        copied.read_exact_at(&mut read, offset).unwrap();
        assert!(read == pattern(length, seed));
    }
    drop((copied, copy));
    // A byte in the first whole block of the first piece.
    let block = disk.find_on_medium(2, &pattern(5000, 1)[4093..]);
    disk.flip_on_medium(2, block + 100);
    let report = disk.dualroot(&["verify", "--json"]).exits(5).json();
    assert_eq!(report["differences"][0]["offset"], size / 2 + 4096 + 100, "{report}");
}

/// What is mounted below is not copied; what it covers is the root's own, and is.
#[test]
fn other_file_systems_below_are_not_copied() {
    if !ready(&[]) {
        return;
    }
    let disk = roots(24, 24);
    fs::create_dir_all(disk.root().join("var/tmp")).unwrap();
    disk.write("var/tmp/covered", "below the mount");
    disk.write("var/other", "beside");
    let point = disk.root().join("var/tmp");
    nix::mount::mount(
        Some("tmpfs"),
        &point,
        Some("tmpfs"),
        nix::mount::MsFlags::empty(),
        Some("size=1m"),
    )
    .unwrap();
    fs::write(point.join("temporary"), SECRET).unwrap();
    fs::create_dir(point.join("dir")).unwrap();
    disk.snapshot();
    disk.dualroot(&["verify"]).exits(0);
    let copy = disk.mount_alternate(true);
    let var = copy.path().join("var");
    assert_eq!(fs::read_dir(var.join("tmp")).unwrap().count(), 1);
    assert_eq!(fs::read(var.join("tmp/covered")).unwrap(), b"below the mount");
    assert!(!leaked(&disk));
    assert_eq!(fs::read(var.join("other")).unwrap(), b"beside");
    // The copy's own mount point is empty too, and of the shape that it has in the source.
    assert_eq!(fs::read_dir(copy.path().join("altroot")).unwrap().count(), 0);
    let shape = |root: &Path| {
        let m = fs::metadata(root.join("altroot")).unwrap();
        (m.mode(), m.uid(), m.mtime(), m.mtime_nsec())
    };
    assert_eq!(shape(copy.path()), shape(disk.root()));
    unmount(&point);
}

/// A bind mount of a directory of the same file system: the same device, and yet another mount.
#[test]
fn a_bind_mount_below_is_not_copied_twice() {
    if !ready(&[]) {
        return;
    }
    let disk = roots(24, 24);
    disk.write("data/file", pattern(10_000, 3));
    let point = disk.root().join("bound");
    fs::create_dir(&point).unwrap();
    fs::write(point.join("covered"), "below the mount").unwrap();
    let flags = nix::mount::MsFlags::MS_BIND;
    nix::mount::mount(Some(&disk.root().join("data")), &point, None::<&str>, flags, None::<&str>)
        .unwrap();
    disk.snapshot();
    let copy = disk.mount_alternate(true);
    assert_eq!(fs::read_dir(copy.path().join("bound")).unwrap().count(), 1);
    assert_eq!(fs::read(copy.path().join("bound/covered")).unwrap(), b"below the mount");
    assert_eq!(fs::read(copy.path().join("data/file")).unwrap(), pattern(10_000, 3));
    unmount(&point);
}

// ---- things that change during the walk ---------------------------------------------------------

/// Whether the secret lies anywhere on the copy's medium.
fn leaked(disk: &Disk) -> bool {
    disk.is_on_medium(2, SECRET)
}

/// A directory and a file are swapped for links to the outside, again and again.
#[test]
fn what_is_swapped_for_a_link_is_never_followed() {
    if !ready(&[]) {
        return;
    }
    let disk = roots(24, 24);
    let outside = disk.tmp().join("outside");
    fs::create_dir_all(outside.join("below")).unwrap();
    for name in ["file", "below/file", "f0"] {
        fs::write(outside.join(name), SECRET).unwrap();
    }
    for n in 0..60 {
        for m in 0..4 {
            disk.write(&format!("d{n}/dir/f{m}"), pattern(2000, n));
            disk.write(&format!("d{n}/dir/below/file"), pattern(2000, n));
        }
        symlink(&outside, disk.root().join(format!("d{n}/link"))).unwrap();
        disk.write(&format!("d{n}/file"), pattern(2000, n));
        symlink(outside.join("file"), disk.root().join(format!("d{n}/file-link"))).unwrap();
    }
    let swaps = AtomicU64::new(0);
    let exchange = |a: &Path, b: &Path| {
        use nix::fcntl::{AT_FDCWD, RenameFlags, renameat2};
        renameat2(AT_FDCWD, a, AT_FDCWD, b, RenameFlags::RENAME_EXCHANGE).unwrap();
    };
    let mut outcomes = [0, 0];
    let begun = Instant::now();
    for _ in 0..12 {
        let mut n = 0;
        let swap = || {
            let dir = disk.root().join(format!("d{}", n % 60));
            exchange(&dir.join("dir"), &dir.join("link"));
            exchange(&dir.join("file"), &dir.join("file-link"));
            n += 7;
            swaps.fetch_add(1, Ordering::Relaxed);
        };
        let run = meanwhile(swap, || disk.dualroot(&["snapshot"]));
        assert!(!leaked(&disk), "the outside was copied: {run}");
        if run.code == 0 {
            disk.dualroot(&["verify"]).exits(0);
            outcomes[0] += 1;
        } else {
            run.exits(1);
            assert_eq!(disk.state(), "invalid");
            outcomes[1] += 1;
        }
        if begun.elapsed() > Duration::from_secs(10) {
            break;
        }
    }
    assert!(swaps.load(Ordering::Relaxed) > 1000, "{swaps:?} {outcomes:?}");
}

/// The same, without chance: the program is held just before it opens the directory.
#[test]
fn a_directory_swapped_before_it_is_opened_is_copied_as_a_link() {
    if !ready(&["cc"]) {
        return;
    }
    let disk = roots(24, 24);
    let outside = disk.tmp().join("outside");
    fs::create_dir(&outside).unwrap();
    fs::write(outside.join("file"), SECRET).unwrap();
    disk.write("d/victim/file", "inside");
    let halted = disk.halt(&["snapshot"], ("open", "victim", 0));
    fs::rename(disk.root().join("d/victim"), disk.root().join("moved")).unwrap();
    symlink(&outside, disk.root().join("d/victim")).unwrap();
    let run = halted.go().wait_soon();
    assert!(!leaked(&disk), "{run}");
    if run.code == 0 {
        let copy = disk.mount_alternate(true);
        assert_eq!(fs::read_link(copy.path().join("d/victim")).unwrap(), outside);
        drop(copy);
        disk.dualroot(&["verify"]).exits(0);
    } else {
        run.exits(1);
        assert_eq!(disk.state(), "invalid");
    }
}

/// The way back up from a deep directory leads elsewhere, because it was moved meanwhile.
#[test]
fn a_directory_moved_while_it_is_walked_is_copied_right_or_not_at_all() {
    if !ready(&["cc"]) {
        return;
    }
    let disk = roots(24, 24);
    // Deep enough that no handle of the upper ones is kept.
    let deep = (0..600).map(|n| format!("d{n}")).collect::<Vec<_>>().join("/");
    disk.write(&format!("top/{deep}/last/file"), "deep");
    disk.write("top/z-after", "after");
    disk.write("elsewhere/z-other", "other");
    disk.write("zz/file", "end");
    let halted = disk.halt(&["snapshot"], ("open", "last", 0));
    let (from, to) = (disk.root().join("top/d0"), disk.root().join("elsewhere/d0"));
    fs::rename(&from, &to).unwrap();
    let run = halted.go().wait_soon();
    if run.code == 0 {
        disk.dualroot(&["verify"]).exits(0);
        let copy = disk.mount_alternate(true);
        assert_eq!(fs::read(copy.path().join("top/z-after")).unwrap(), b"after");
        assert_eq!(fs::read(copy.path().join("elsewhere/z-other")).unwrap(), b"other");
        assert!(!copy.path().join("elsewhere/z-after").exists());
        assert!(!copy.path().join("top/z-other").exists());
        assert_eq!(fs::read(copy.path().join("zz/file")).unwrap(), b"end");
    } else {
        run.exits(1);
        assert_eq!(disk.state(), "invalid");
    }
}

/// A file of several names was copied, then removed, and its inode number given to another file of
/// several names: these are two files.
#[test]
fn a_reused_inode_number_is_another_file() {
    if !ready(&["cc"]) {
        return;
    }
    let disk = roots(24, 24);
    let old = disk.write("a/one", pattern(20_000, 1));
    fs::hard_link(&old, disk.root().join("a/two")).unwrap();
    // A third name that is left for later: the program expects to meet the file again.
    fs::create_dir_all(disk.root().join("z")).unwrap();
    fs::hard_link(&old, disk.root().join("z/three")).unwrap();
    fs::create_dir_all(disk.root().join("middle")).unwrap();
    let number = fs::metadata(&old).unwrap().ino();
    let halted = disk.halt(&["snapshot"], ("open", "middle", 0));
    wait_until("a/two is copied", || disk.root().join("altroot/a/two").exists());
    sleep(Duration::from_millis(200));
    for name in ["a/one", "a/two", "z/three"] {
        fs::remove_file(disk.root().join(name)).unwrap();
    }
    // ext4 gives the lowest free number of the directory's group.
    let mut made = Vec::new();
    for n in 0..2000 {
        let path = disk.root().join(format!("a/new{n}"));
        fs::write(&path, pattern(20_000, 2)).unwrap();
        if fs::metadata(&path).unwrap().ino() == number {
            fs::rename(&path, disk.root().join("z/new")).unwrap();
            fs::hard_link(disk.root().join("z/new"), disk.root().join("z/new-too")).unwrap();
            made.push(path);
            break;
        }
        fs::remove_file(&path).unwrap();
        fs::write(&path, "").unwrap();
    }
    assert!(!made.is_empty(), "the number was not reused");
    let run = halted.go().wait_soon();
    if run.code == 0 {
        let copy = disk.mount_alternate(true);
        for name in ["new", "new-too"] {
            let content = fs::read(copy.path().join("z").join(name)).unwrap();
            assert!(content == pattern(20_000, 2), "z/{name} is a link to another file: {run}");
        }
    } else {
        run.exits(1);
        assert_eq!(disk.state(), "invalid");
    }
}

#[test]
fn a_file_that_changes_whenever_it_is_read_fails_the_snapshot_and_is_named() {
    if !ready(&["cc"]) {
        return;
    }
    let disk = roots(24, 24);
    disk.fill();
    disk.snapshot();
    disk.write("var/log/busy", pattern(300_000, 1));
    for how in ["grow", "change"] {
        let run = disk.disturbed(&["snapshot"], how, "/var/log/busy");
        run.fails(1, "var/log/busy: it changed every time while it was read").says("\nhint: ");
        assert_eq!(disk.state(), "invalid", "the old copy is gone, the new one is not whole");
        disk.dualroot(&["verify"]).fails(3, "it is invalid");
        disk.assert_unmounted();
    }
    let run = disk.disturbed(&["snapshot", "--json"], "change", "/var/log/busy").exits(1);
    let error = &run.json()["error"];
    assert_eq!(
        (&error["code"], &error["path"]),
        (&"failed".into(), &"var/log/busy".into()),
        "{run}"
    );

    // When it has ended, the next one succeeds.
    disk.snapshot();
    assert_eq!(disk.state(), "valid");
    disk.dualroot(&["verify"]).exits(0);
}

/// The same by chance: a whole file or none.
#[test]
fn a_file_that_is_written_all_the_time_is_copied_whole_or_not_at_all() {
    if !ready(&[]) {
        return;
    }
    let disk = roots(24, 24);
    let path = disk.write("busy", vec![0; 2 << 20]);
    let file = OpenOptions::new().write(true).open(&path).unwrap();
    for _ in 0..3 {
        let mut n = 0u8;
        // First the start, then the end: they differ by one at most, and never the other way.
        let write = || {
            n = n.wrapping_add(1);
            file.write_all_at(&[n], 0).unwrap();
            file.write_all_at(&[n], (2 << 20) - 1).unwrap();
        };
        let run = meanwhile(write, || disk.dualroot(&["snapshot"]));
        if run.code == 0 {
            let copy = disk.mount_alternate(true);
            let content = fs::read(copy.path().join("busy")).unwrap();
            let (first, last) = (content[0], content[content.len() - 1]);
            assert!(first.wrapping_sub(last) <= 1, "{first} {last}");
        } else {
            run.fails(1, "busy: it changed every time while it was read");
            assert_eq!(disk.state(), "invalid");
        }
    }
}

/// A config that cannot be copied whole leaves no valid slot, even where only it was to be copied.
#[test]
fn half_a_slot_is_never_valid() {
    if !ready(&["cc"]) {
        return;
    }
    let disk = Disk::new(Layout::default());
    disk.fill();
    for args in [&["snapshot", "--config-partition"][..], &["snapshot"]] {
        disk.snapshot();
        assert_eq!(disk.state(), "valid");
        // The source is read as a mount that is in no directory.
        disk.disturbed(args, "grow", "/juniper.conf")
            .fails(1, "juniper.conf: it changed every time");
        assert_ne!(disk.state(), "valid", "{args:?}: its config is half a copy");
        disk.dualroot(&["verify"]).exits(3);
    }
}

#[test]
fn files_that_come_and_go_are_no_failure() {
    if !ready(&[]) {
        return;
    }
    let disk = roots(24, 24);
    for n in 0..300 {
        disk.write(&format!("var/d{}/f{n}", n % 30), pattern(3000, n));
    }
    let mut n = 0;
    for _ in 0..4 {
        let churn = || {
            n += 1;
            let dir = disk.root().join(format!("var/d{}", n % 30));
            fs::write(dir.join(format!("new{}", n % 7)), b"new").unwrap();
            let _ = fs::remove_file(dir.join(format!("new{}", (n + 3) % 7)));
            let _ = fs::create_dir_all(dir.join(format!("dir{}/below", n % 5)));
            let _ = fs::remove_dir_all(dir.join(format!("dir{}", (n + 2) % 5)));
            sleep(Duration::from_micros(200));
        };
        let report = meanwhile(churn, || disk.dualroot(&["snapshot", "--json"])).exits(0).json();
        assert!(report["pairs"][0]["vanished"].is_u64(), "{report}");
        // What stayed is there.
        let copy = disk.mount_alternate(true);
        for n in 0..300 {
            let path = copy.path().join(format!("var/d{}/f{n}", n % 30));
            assert!(fs::read(&path).unwrap() == pattern(3000, n), "{}", path.display());
        }
        drop(copy);
        disk.dualroot(&["verify"]).exits(0);
    }
}

/// Held just before it opens a file and a directory that then go.
#[test]
fn what_vanishes_is_left_out_and_counted() {
    if !ready(&["cc"]) {
        return;
    }
    let disk = roots(24, 24);
    disk.write("d/victim", "gone");
    disk.write("d/stays", "stays");
    fs::create_dir(disk.root().join("e-gone")).unwrap();
    for (name, gone) in [("victim", "d/victim"), ("e-gone", "e-gone")] {
        let halted = disk.halt(&["snapshot"], ("open", name, 0));
        let path = disk.root().join(gone);
        if path.is_dir() {
            fs::remove_dir(&path).unwrap();
        } else {
            fs::remove_file(&path).unwrap();
        }
        let run = halted.go().wait_soon().exits(0);
        run.prints("; 1 vanished while they were copied");
        let copy = disk.mount_alternate(true);
        assert!(!copy.path().join(gone).exists());
        assert_eq!(fs::read(copy.path().join("d/stays")).unwrap(), b"stays");
        drop(copy);
        disk.dualroot(&["verify"]).exits(0);
    }
}

/// Between two looks at the system a disk comes and another one goes: nobody's device is taken for
/// another one.
#[test]
fn disks_that_come_and_go_meanwhile_are_not_taken_for_others() {
    if !ready(&["cc"]) {
        return;
    }
    for verb in ["snapshot", "verify", "clean"] {
        // Neighbours on both sides, whatever the order of the devices.
        let mut before: Vec<_> = (0..2).map(|_| Disk::new(Layout::default())).collect();
        let disk = Disk::new(Layout::default());
        disk.fill();
        disk.snapshot();
        let mut after: Vec<_> = (0..2).map(|_| Disk::new(Layout::default())).collect();
        let lock = format!("{}.lock", disk.name());
        for comes in [false, true] {
            let halted = disk.halt(&[verb], ("create", &lock, 0));
            if comes {
                before.push(Disk::new(Layout::roots(8, 8)));
                after.push(Disk::new(Layout::roots(8, 8)));
            } else {
                before.pop();
                after.pop();
            }
            let others = || before.iter().chain(&after);
            let run = halted.go().wait_soon().exits(0);
            for other in others() {
                // Nothing was written to it, and its mounts are as they were.
                assert_eq!(other.state(), "empty", "{verb}: {run}");
                assert!(other.mounts().iter().any(|m| m.point == other.root()), "{verb}: {run}");
            }
            assert_eq!(disk.state(), "valid", "{verb}: {run}");
        }
    }
}
