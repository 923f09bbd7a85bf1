//! What is in use is never written, whatever it is called and whatever lies in between. Every
//! refusal leaves the bytes of the whole medium as they were.
//!
//! A read-only mount holds its provider with r1w0e0 (`ffs_mount`): GEOM lets everybody write to it,
//! so that only our own check stands before a mounted root.

use std::fs::{self, File};
use std::path::{Path, PathBuf};

use crate::disk::{Disk, Layout, Mounted, Scheme, mounts};
use crate::harness::{
    Holder, Run, Test, Undo, need_class, program, skip, tests, tool, try_tool, wait_until,
};

pub const TESTS: &[Test] = tests![
    the_running_root_by_any_name,
    the_real_root_of_the_guest,
    what_overlaps_the_running_root,
    a_label_on_the_wrong_slice,
    a_mirror_over_either_slot,
    gnop_over_the_alternate,
    gnop_under_the_running_root,
    geli_over_the_alternate,
    nullfs_in_between,
    foot_shooting,
    swap_on_the_alternate,
    the_alternate_is_open,
    the_alternate_boots_next,
    the_alternate_is_too_small,
    large_files_take_whole_blocks,
    the_alternate_has_too_few_inodes,
    what_lies_in_altroot,
];

/// A disk whose slot 2 holds a valid copy: something to lose.
fn disk(layout: Layout) -> Disk {
    let disk = Disk::new(layout);
    disk.fill();
    disk.snapshot();
    disk
}

/// A snapshot, a rehearsal and a forced one end with this code and message, and change nothing.
#[track_caller]
fn refuses(disk: &Disk, code: i32, words: &str) {
    for args in [&["snapshot", "-n"][..], &["snapshot"], &["snapshot", "--force"]] {
        refused(disk, args, code, words);
    }
}

/// This call is refused, and nothing of the disk changes.
#[track_caller]
fn refused(disk: &Disk, args: &[&str], code: i32, words: &str) {
    // What the running root's file system wrote for itself is not ours.
    tool("sync", &[]);
    let before = disk.hash(&disk.part(2));
    let table = tool("gpart", &[&"backup", &disk.name()]);
    disk.dualroot(args).fails(code, words);
    assert!(disk.hash(&disk.part(2)) == before, "slot 2 was written");
    assert_eq!(tool("gpart", &[&"backup", &disk.name()]), table);
    disk.assert_unmounted();
}

/// The names that GEOM gives to a slot's root. On an MBR its labels lie on the slice, which the
/// partition fills.
fn names(disk: &Disk, slot: u32) -> Vec<PathBuf> {
    let part = disk.part(slot);
    let places = [part.trim_end_matches('a'), &part];
    let status = tool("glabel", &[&"status", &"-s"]);
    let labels = status.lines().filter_map(|line| {
        let mut words = line.split_whitespace();
        let label = words.next()?;
        places.contains(&words.next_back()?).then(|| Path::new("/dev").join(label))
    });
    labels.chain([PathBuf::from(disk.node(slot))]).collect()
}

/// Mounted by its label, its number, its partition's label or uuid: it is never the target, however
/// it is called there, and a name that lies does not help.
fn the_running_root_by_any_name() {
    let mut seen = 0;
    let mut kinds = Vec::new();
    for scheme in [Scheme::Mbr, Scheme::Gpt] {
        let newfs = vec!["-U", "-L", "vmguard1"];
        let disk = disk(Layout { scheme, newfs, ..Layout::default() });
        // GEOM takes the other labels away when one of them is opened for writing: read-only
        // mounts keep them all.
        tool("umount", &[&disk.root()]);
        let all = names(&disk, 1);
        for own in &all {
            for read_only in [true, false] {
                let words: &[&str] = if read_only { &["-o", "ro"] } else { &[] };
                wait_until("the slot is there", || Path::new(&disk.node(1)).exists());
                disk.taste(1);
                wait_until(&format!("{} is there", own.display()), || own.exists());
                let mounted = Mounted::new(words, own.to_str().unwrap(), &disk.root());
                // A file system that is mounted read-write writes for itself.
                let before = read_only.then(|| disk.hash(&disk.part(1)));
                for other in &all {
                    disk.name_slots(&own.to_string_lossy(), &other.to_string_lossy());
                    let run = disk.dualroot(&["snapshot"]).exits(6);
                    // While the root is mounted read-write, only the name it is mounted by exists.
                    let twice = run.stderr.contains("names one device twice");
                    let gone = run.stderr.contains("no such device");
                    assert!(
                        twice || (gone && !read_only),
                        "{} {}: {run}",
                        own.display(),
                        other.display()
                    );
                    seen += u32::from(twice);
                }
                let after = read_only.then(|| disk.hash(&disk.part(1)));
                assert!(before == after, "{}: the running root was written", own.display());
                drop(mounted);
            }
            kinds.push(own.components().nth(2).unwrap().as_os_str().to_owned());
        }
        disk.name_slots(&disk.node(1), &disk.node(2));
        tool("mount", &[&disk.node(1), &disk.root()]);
        assert_eq!(disk.state(), "valid");
        disk.dualroot(&["verify"]).exits(0);
    }
    for kind in ["ufs", "ufsid", "gpt", "gptid"] {
        assert!(kinds.iter().any(|k| k == kind), "no {kind}/ among {kinds:?}");
    }
    assert!(seen >= 40, "only {seen} combinations: {kinds:?}");
}

/// The root that this very system runs from, by all its names.
fn the_real_root_of_the_guest() {
    let disk = disk(Layout::default());
    let root = mounts().into_iter().find(|m| m.point == Path::new("/")).unwrap().source;
    let node = root.trim_start_matches("/dev/").to_owned();
    let status = tool("glabel", &[&"status", &"-s"]);
    let mut all = vec![root];
    for line in status.lines().filter(|l| l.contains(&node)) {
        let words: Vec<_> = line.split_whitespace().collect();
        all.extend([words[0], words[words.len() - 1]].map(|n| format!("/dev/{n}")));
    }
    all.sort();
    all.dedup();
    for name in all {
        disk.name_slots(&disk.node(1), &name);
        refuses(&disk, 6, "is the running root");
        // As the medium that it lies on.
        let medium: String = name.trim_end_matches(|c: char| c.is_ascii_digit()).to_owned();
        if let Some(medium) = medium.strip_suffix('p').filter(|m| Path::new(m).exists()) {
            disk.name_slots(&disk.node(1), medium);
            refuses(&disk, 6, "shares its storage with");
        }
    }
}

fn what_overlaps_the_running_root() {
    let disk = disk(Layout::with_config());
    let name = disk.name();
    for target in [format!("/dev/{name}"), format!("/dev/{name}s4")] {
        disk.name_slots(&disk.node(1), &target);
        refuses(&disk, 6, "shares its storage with");
    }
    // The slice that its BSD label fills: the same bytes under another name.
    disk.name_slots(&disk.node(1), &format!("/dev/{name}s1"));
    refuses(&disk, 6, "names one device twice");
    // A file system that fstab and the mount table know as something else.
    let var = Mounted::new(&[], &disk.node(2), &disk.side("var"));
    fs::write(var.path().join("data"), "in use").unwrap();
    let busy = Holder::inside(var.path());
    disk.name_slots(&disk.node(1), &disk.node(2));
    disk.dualroot(&["snapshot"]).fails(4, &format!("process {}", busy.pid()));
    assert_eq!(fs::read(var.path().join("data")).unwrap(), b"in use");
}

/// The label that fstab trusts is on the wrong file system: the running one.
fn a_label_on_the_wrong_slice() {
    let layout = Layout { newfs: vec!["-U", "-L", "vmwrong2"], ..Layout::default() };
    let disk = disk(layout);
    tool("umount", &[&disk.root()]);
    let mounted = Mounted::new(&["-o", "ro"], &disk.node(1), &disk.root());
    let fstab =
        format!("{} / ufs ro 1 1\n/dev/ufs/vmwrong2 /altroot ufs ro,noauto 0 0\n", disk.node(1));
    drop(mounted);
    tool("mount", &[&disk.node(1), &disk.root()]);
    disk.write("etc/fstab", fstab);
    tool("mount", &[&"-u", &"-o", &"ro", &disk.root()]);
    // Either the sibling is taken for it, or nothing: never the running one.
    let before = disk.hash(&disk.part(1));
    let run = disk.dualroot(&["snapshot"]);
    assert!(matches!(run.code, 0 | 6), "{run}");
    assert!(disk.hash(&disk.part(1)) == before, "the running root was written: {run}");
}

/// Junos's words.
const MIRRORED: &str = "Snapshot is not possible since mirror-flash-on-disk is configured.";

fn a_mirror_over_either_slot() {
    need_class("gmirror");
    let disk = disk(Layout::default());
    // gmirror(8) keeps its metadata in the last sector, behind the end of what newfs made here.
    // That is the last one of the slice too: without -h, the slice would be the mirror's half.
    for words in [&["-h"][..], &[]] {
        let undo = ["gmirror", "destroy", "-f", "vmgm"];
        let part = disk.part(2);
        let label = [&["gmirror", "label"], words, &["vmgm", &part]].concat();
        let mirror = Undo::after(&label, &undo);
        wait_until("the mirror is there", || Path::new("/dev/mirror/vmgm").exists());
        let before = disk.hash(&format!("{}s2", disk.name()));
        disk.dualroot(&["snapshot"]).fails(6, MIRRORED);
        disk.dualroot(&["snapshot", "--force"]).fails(6, MIRRORED);
        // Where the mirror took the slice, its partition is not there, and that is said.
        let slot = disk.slot(2);
        assert_eq!(slot["device"], disk.node(2).as_str());
        if Path::new(&disk.node(2)).exists() {
            assert_eq!(slot["state"], "valid");
        } else {
            assert_eq!(slot["state"], "unknown");
            let why = slot["reason"].as_str().unwrap();
            assert!(why.contains("/dev/mirror/vmgm"), "{why}");
        }
        assert!(disk.hash(&format!("{}s2", disk.name())) == before, "slot 2 was written");
        drop(mirror);
        try_tool("gmirror", &[&"clear", &disk.part(2)]);
        try_tool("gmirror", &[&"clear", &format!("{}s2", disk.name())]);
    }
    // The running root is the mirror.
    let bare = Disk::bare(Layout::default());
    let part = bare.part(1);
    let undo = ["gmirror", "destroy", "-f", "vmgm1"];
    let mirror = Undo::after(&["gmirror", "label", "-v", "vmgm1", &part], &undo);
    wait_until("the mirror is there", || Path::new("/dev/mirror/vmgm1").exists());
    tool("newfs", &[&"/dev/mirror/vmgm1"]);
    let mounted = Mounted::new(&[], "/dev/mirror/vmgm1", &bare.root());
    bare.name_slots("/dev/mirror/vmgm1", &bare.node(2));
    bare.dualroot(&["snapshot"]).fails(6, MIRRORED);
    drop(mounted);
    drop(mirror);
}

fn gnop_over_the_alternate() {
    need_class("gnop");
    let disk = disk(Layout::default());
    let (part, nop) = (disk.part(2), format!("{}.nop", disk.part(2)));
    let over = Undo::after(&["gnop", "create", &part], &["gnop", "destroy", "-f", &nop]);
    refuses(&disk, 6, "is in use by");
    drop(over);
    disk.snapshot();
}

/// The root is mounted through a gnop: what lies below it is the same storage.
fn gnop_under_the_running_root() {
    need_class("gnop");
    let disk = disk(Layout::default());
    tool("umount", &[&disk.root()]);
    let (part, nop) = (disk.part(1), format!("{}.nop", disk.part(1)));
    let under = Undo::after(&["gnop", "create", &part], &["gnop", "destroy", "-f", &nop]);
    for words in [&["-o", "ro"][..], &[]] {
        let mounted = Mounted::new(words, &format!("/dev/{nop}"), &disk.root());
        disk.name_slots(&format!("/dev/{nop}"), &disk.node(1));
        refuses(&disk, 6, "shares its storage with");
        drop(mounted);
    }
    drop(under);
    tool("mount", &[&disk.node(1), &disk.root()]);
}

fn geli_over_the_alternate() {
    need_class("geli");
    let disk = disk(Layout::default());
    let (part, eli) = (disk.part(2), format!("{}.eli", disk.part(2)));
    let over = Undo::after(&["geli", "onetime", &part], &["geli", "detach", &eli]);
    refuses(&disk, 6, "is in use by");
    drop(over);
}

fn nullfs_in_between() {
    // It may be a part of the kernel: what has no version is no module to kldload(8) then.
    let is_there = try_tool("lsvfs", &[&"nullfs"]).code == 0;
    if !is_there && try_tool("kldload", &[&"-n", &"nullfs"]).code != 0 {
        skip("no nullfs in this system");
    }
    let disk = disk(Layout::default());
    // A window into the running root is no root.
    let window = disk.side("window");
    let over = Mounted::new(&["-t", "nullfs"], disk.root().to_str().unwrap(), &window);
    let run = Run::of(crate::disk::dualroot().arg("-r").arg(&window).arg("snapshot"));
    run.fails(6, "no partition of a disk");
    drop(over);
    // Somebody looks at the old copy through one: the mount below cannot go.
    let copy = disk.mount_copy();
    let over = Mounted::new(&["-t", "nullfs"], copy.path().to_str().unwrap(), &window);
    let before = disk.hash(&disk.part(2));
    disk.dualroot(&["snapshot"]).exits(4);
    assert!(disk.hash(&disk.part(2)) == before);
    drop(over);
    drop(copy);
}

/// geom(4): with this flag GEOM protects nothing. We never set it, and do not run where it is set.
fn foot_shooting() {
    let disk = disk(Layout::default());
    let set = |flags: u32| ["sysctl".to_owned(), format!("kern.geom.debugflags={flags}")];
    for flags in [16, 0x14] {
        let [sysctl, on] = set(flags);
        let off = Undo::after(&[&sysctl, &on], &["sysctl", "kern.geom.debugflags=0"]);
        refuses(&disk, 6, "kern.geom.debugflags");
        assert_eq!(disk.state(), "valid", "looking is allowed");
        let now = tool("sysctl", &[&"-n", &"kern.geom.debugflags"]);
        assert_eq!(now.trim(), flags.to_string(), "it was changed");
        drop(off);
    }
}

fn swap_on_the_alternate() {
    let disk = disk(Layout::default());
    // swapon(8) writes nothing before something is paged out.
    let (node, undo) = (disk.node(2), ["swapoff", &disk.node(2)].map(str::to_owned));
    let swap = Undo::after(&["swapon", &node], &undo.each_ref().map(String::as_str));
    refuses(&disk, 6, "swap or dump");
    drop(swap);
    disk.snapshot();
}

/// Somebody reads or writes the slot's device right now.
fn the_alternate_is_open() {
    let disk = disk(Layout::default());
    for write in [false, true] {
        let file = File::options().read(true).write(write).open(disk.node(2)).unwrap();
        let holder = Holder::with(file);
        let before = disk.hash(&disk.part(2));
        let words = if write { "is open for writing" } else { "being read" };
        disk.dualroot(&["snapshot"]).fails(4, words);
        assert!(disk.hash(&disk.part(2)) == before, "slot 2 was written");
        disk.assert_unmounted();
        drop(holder);
    }
    disk.snapshot();
}

fn the_alternate_boots_next() {
    let words = "the boot flags select the alternate slot";
    for layout in [Layout::default(), Layout::gpt()] {
        let disk = disk(layout);
        // As at boot: what runs was meant to, whatever the flags say of the next start.
        disk.dualroot(&["auto-snapshot", "--assess"]).exits(0);
        match disk.scheme() {
            Scheme::Mbr => {
                tool("gpart", &[&"set", &"-a", &"active", &"-i", &"2", &disk.name()]);
            }
            Scheme::Gpt => {
                tool("gpart", &[&"set", &"-a", &"bootme", &"-i", &"3", &disk.name()]);
                tool("gpart", &[&"unset", &"-a", &"bootme", &"-i", &"2", &disk.name()]);
            }
        }
        refused(&disk, &["snapshot"], 6, words);
        refused(&disk, &["snapshot", "-n"], 6, words);
        // By force they go to the running slot first.
        disk.dualroot(&["snapshot", "--force"]).exits(0);
        assert_eq!([1, 2].map(|n| disk.slot(n)["active"].clone()), [true, false]);
        assert_eq!(disk.state(), "valid");
    }
}

fn the_alternate_is_too_small() {
    let disk = Disk::new(Layout { roots_mb: [40, 8], ..Layout::default() });
    disk.fill();
    disk.write("usr/large", crate::disk::pattern(12 << 20, 5));
    refuses(&disk, 6, "does not fit");
}

/// Beyond 12 blocks a file has whole blocks only, and one more for their addresses: of 32 KB in the
/// copy, whatever they are in the source.
fn large_files_take_whole_blocks() {
    let newfs = [vec!["-U"], vec!["-U", "-b", "4096", "-f", "512", "-i", "8192"]];
    for (newfs, roots_mb) in newfs.into_iter().zip([[32, 24], [24, 24]]) {
        let disk = Disk::new(Layout { roots_mb, newfs, ..Layout::default() });
        // None is written anew: its blocks would be free a while later only (soft updates).
        let write = |numbers: std::ops::Range<usize>| {
            for n in numbers {
                disk.write(&format!("usr/{n}"), crate::disk::pattern(385 << 10, n));
            }
        };
        write(0..44);
        disk.snapshot();
        disk.dualroot(&["verify"]).exits(0);
        write(44..53);
        refuses(&disk, 6, "does not fit");
        assert_eq!(disk.state(), "valid");
    }
}

fn the_alternate_has_too_few_inodes() {
    // A file in every fragment of a file system that is as large as the other: more inodes than
    // newfs(8) makes by itself are asked for, and made.
    let disk = Disk::new(Layout { newfs: vec!["-U", "-i", "4096"], ..Layout::default() });
    disk.fill();
    let script = "mkdir many && cd many && jot 4500 | xargs touch";
    Run::of(program("/bin/sh").args(["-c", script]).current_dir(disk.root())).exits(0);
    disk.snapshot();
    disk.dualroot(&["verify"]).exits(0);
    // A smaller one cannot have as many.
    let small = Disk::new(Layout {
        roots_mb: [24, 8],
        newfs: vec!["-U", "-i", "4096"],
        ..Layout::default()
    });
    small.fill();
    Run::of(program("/bin/sh").args(["-c", script]).current_dir(small.root())).exits(0);
    refuses(&small, 6, "does not fit");
}

fn what_lies_in_altroot() {
    let disk = disk(Layout::default());
    disk.write("altroot/forgotten", "by an operator");
    let before = disk.hash(&disk.part(2));
    disk.dualroot(&["snapshot"]).fails(6, "/altroot is not empty");
    assert!(disk.hash(&disk.part(2)) == before);
    fs::remove_file(disk.altroot().join("forgotten")).unwrap();
    fs::remove_dir(disk.altroot()).unwrap();
    std::os::unix::fs::symlink("etc", disk.altroot()).unwrap();
    refuses(&disk, 6, "/altroot is a symbolic link");
}
