//! Every attribute of every kind of object, told by tools that we did not write: mtree, bsdtar,
//! rsync, getfacl, getfattr, lsattr.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs::{self, File, Permissions};
use std::os::unix::fs::{FileExt, MetadataExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};

use nix::sys::stat::{Mode, SFlag, UtimensatFlags, makedev, mknod, utimensat};
use nix::sys::time::TimeSpec;

use crate::harness::{Disk, Layout, Mounted, Run, pattern, ready, tool, try_tool};

const TOOLS: [&str; 8] =
    ["mtree", "bsdtar", "rsync", "setfacl", "getfacl", "setfattr", "getfattr", "chattr"];

/// What of the copy is not the source's: our own directory, the rewritten fstab, and the
/// directory that every ext4 is born with.
const NOT_COMPARED: [&str; 4] = [".dualroot", "etc/fstab", "lost+found", "var/db/dualroot"];

fn text(tool_output: Vec<u8>) -> String {
    String::from_utf8(tool_output).unwrap()
}

fn set_times(path: &Path, atime: (i64, i64), mtime: (i64, i64)) {
    let spec = |(sec, nsec)| TimeSpec::new(sec, nsec);
    utimensat(
        nix::fcntl::AT_FDCWD,
        path,
        &spec(atime),
        &spec(mtime),
        UtimensatFlags::NoFollowSymlink,
    )
    .unwrap();
}

/// A root with one of everything. For flags see [`make_flagged`].
fn make(disk: &Disk) {
    let root = disk.root();
    let at = |path: &str| root.join(path);
    disk.write_fstab();
    for dir in
        ["d/inner", "links/a", "links/b", "flags/dir", "flags/append-dir", "acl", "times/below"]
    {
        fs::create_dir_all(at(dir)).unwrap();
    }
    // Hard links: of files, across directories, of a symbolic link, of a fifo; the second name of
    // one sorts before its first directory's other files.
    disk.write("links/b/first", pattern(100_000, 1));
    for name in ["links/a/second", "links/b/zz", "d/inner/third"] {
        fs::hard_link(at("links/b/first"), at(name)).unwrap();
    }
    symlink("nowhere/at all", at("links/a/sym")).unwrap();
    nix::unistd::linkat(
        nix::fcntl::AT_FDCWD,
        &at("links/a/sym"),
        nix::fcntl::AT_FDCWD,
        &at("links/b/sym2"),
        nix::fcntl::AtFlags::empty(),
    )
    .unwrap();
    // Modes and owners.
    for (name, mode, owner) in [
        ("suid", 0o4755, Some(1234)),
        ("sgid", 0o2711, Some(4_000_000_000)),
        ("sticky", 0o1644, None),
        ("none", 0o000, Some(1)),
        ("all", 0o7777, Some(65_534)),
    ] {
        let path = disk.write(&format!("d/{name}"), name);
        std::os::unix::fs::chown(&path, owner, owner.map(|o| o / 2)).unwrap();
        fs::set_permissions(&path, Permissions::from_mode(mode)).unwrap();
    }
    fs::create_dir(at("d/shared")).unwrap();
    std::os::unix::fs::chown(at("d/shared"), Some(7), Some(8)).unwrap();
    fs::set_permissions(at("d/shared"), Permissions::from_mode(0o3775)).unwrap();
    fs::create_dir(at("d/closed")).unwrap();
    disk.write("d/closed/inside", "hidden");
    fs::set_permissions(at("d/closed"), Permissions::from_mode(0o000)).unwrap();
    symlink("inner", at("d/owned-link")).unwrap();
    std::os::unix::fs::lchown(at("d/owned-link"), Some(99), Some(98)).unwrap();
    symlink("x".repeat(1000), at("d/long-link")).unwrap();
    // Special files.
    let special = |name: &str, kind, device| {
        mknod(&at(name), kind, Mode::from_bits_truncate(0o640), device).unwrap();
    };
    special("d/fifo", SFlag::S_IFIFO, 0);
    special("d/null", SFlag::S_IFCHR, makedev(1, 3));
    // As large as xfs can keep them: 9 bits and 18.
    special("d/large", SFlag::S_IFCHR, makedev(511, 200_000));
    special("d/block", SFlag::S_IFBLK, makedev(7, 200));
    fs::hard_link(at("d/fifo"), at("links/fifo")).unwrap();
    special("d/socket", SFlag::S_IFSOCK, 0);
    make_contents(disk);
    make_extended(root);
    make_times(disk);
}

/// Holes: at the start, in the middle, at the end, nothing else, and data without any.
fn make_contents(disk: &Disk) {
    let at = |path: &str| disk.root().join(path);
    let sparse = |name: &str, size: u64, pieces: &[(u64, usize)]| {
        let file = File::create(at(name)).unwrap();
        file.set_len(size).unwrap();
        for &(offset, length) in pieces {
            file.write_all_at(&pattern(length, 7), offset).unwrap();
        }
    };
    sparse(
        "d/sparse",
        64 << 20,
        &[(1 << 20, 4096), ((32 << 20) + 5, 100_000), ((64 << 20) - 1, 1)],
    );
    sparse("d/hole-at-end", 10 << 20, &[(0, 5000)]);
    sparse("d/only-hole", 40 << 20, &[]);
    fs::write(at("d/zeros"), vec![0; 300_000]).unwrap();
    fs::write(at("d/empty"), b"").unwrap();
}

/// Extended attributes of every namespace, on every kind that can have them; ACLs.
fn make_extended(root: &Path) {
    let at = |path: &str| root.join(path);
    let xattr = |path: &str, name: &str, value: &[u8]| xattr::set(at(path), name, value).unwrap();
    xattr("d/suid", "user.text", b"value");
    xattr("d/suid", "user.empty", b"");
    xattr("d/suid", "user.bytes", &(0..=255).collect::<Vec<u8>>());
    xattr("d/suid", "trusted.secret", b"t");
    xattr("d/suid", "security.mine", b"s\0");
    // VFS_CAP_REVISION_2 with CAP_NET_BIND_SERVICE, as setcap(8) writes it; a chown clears it.
    xattr(
        "d/all",
        "security.capability",
        &[1, 0, 0, 2, 0, 4, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0],
    );
    xattr("d/shared", "user.on-dir", b"dir");
    xattr("links/b/first", "user.linked", b"once");
    xattr("d/empty", "user.large", &pattern(600, 3));
    for path in ["d/owned-link", "d/fifo", "d/null", "d/socket", "links/a/sym"] {
        tool("setfattr", &[&"-h", &"-n", &"trusted.special", &"-v", &path, &at(path)]);
    }
    // ACLs, and a default one that what is made below would inherit.
    fs::create_dir(at("acl/dir")).unwrap();
    for path in ["acl/file", "acl/dir/below"] {
        fs::write(at(path), "acl").unwrap();
    }
    tool("setfacl", &[&"-m", &"u:1000:rwx,g:2000:r,m::rx", &at("acl/file")]);
    tool("setfacl", &[&"-m", &"u:1001:rx", &at("acl/dir")]);
    tool("setfacl", &[&"-d", &"-m", &"u:1002:rwx,g::rx,o::-", &at("acl/dir")]);
    // Made before the default ACL: it has none itself, and its copy must not inherit one.
    fs::set_permissions(at("acl/dir/below"), Permissions::from_mode(0o666)).unwrap();
}

/// Times, last: to the nanosecond, before 1970 and after 2038, on every kind.
fn make_times(disk: &Disk) {
    let at = |path: &str| disk.root().join(path);
    let (old, new) = ((-5, 999_999_999), (4_102_444_800, 123_456_789));
    disk.write("times/below/file", "t");
    symlink("t", at("times/link")).unwrap();
    fs::write(at("times/file"), b"t").unwrap();
    for (path, atime, mtime) in [
        ("times/file", new, old),
        ("times/link", (1, 2), (3, 4)),
        ("times/below/file", old, new),
        ("times/below", (10, 11), (12, 13)),
        ("times", (20, 1), (30, 999_999_999)),
        ("d/fifo", (40, 41), (42, 43)),
        ("d/null", (50, 51), (52, 53)),
        ("d/socket", (60, 61), (62, 63)),
        ("links/b/first", (70, 71), (72, 73)),
        ("d/closed", (1, 1), (2, 2)),
        (".", (90, 91), (92, 93)),
    ] {
        set_times(&at(path), atime, mtime);
    }
}

/// Sets flags on files and directories, their own directory last.
fn set_flags(root: &Path) {
    for (flag, path) in [
        ("i", "immutable"),
        ("a", "append"),
        ("d", "nodump"),
        ("A", "no-atime"),
        ("ia", "both"),
        ("i", "linked"),
        ("i", "dir"),
        ("a", "append-dir"),
        ("i", "sparse"),
        ("i", "."),
    ] {
        tool("chattr", &[&format!("+{flag}"), &root.join("flags").join(path)]);
    }
}

fn make_flagged(disk: &Disk) {
    for name in [
        "immutable",
        "append",
        "nodump",
        "no-atime",
        "both",
        "linked",
        "dir/inside",
        "append-dir/inside",
    ] {
        disk.write(&format!("flags/{name}"), name);
    }
    File::create(disk.root().join("flags/sparse")).unwrap().set_len(1 << 20).unwrap();
    fs::hard_link(disk.root().join("flags/linked"), disk.root().join("links/also-immutable"))
        .unwrap();
    set_times(&disk.root().join("flags"), (5, 6), (7, 8));
    set_times(&disk.root().join("links"), (5, 6), (7, 8));
    set_flags(disk.root());
}

/// Everything that can be told of each object below `root` without reading its content, by path.
fn attributes(root: &Path) -> BTreeMap<PathBuf, String> {
    let device = fs::metadata(root).unwrap().dev();
    let mut found = BTreeMap::new();
    let mut inodes = BTreeMap::new();
    let mut left = vec![PathBuf::new()];
    while let Some(path) = left.pop() {
        let full = root.join(&path);
        let m = fs::symlink_metadata(&full).unwrap();
        let first = inodes.entry(m.ino()).or_insert_with(Vec::new);
        first.push(path.clone());
        let mut xattrs: Vec<_> = xattr::list(&full)
            .unwrap()
            .map(|name| (name.clone(), xattr::get(&full, &name).unwrap()))
            .collect();
        xattrs.sort();
        let link = m.is_symlink().then(|| fs::read_link(&full).unwrap());
        // A directory's size and links are the file system's business; its names are compared.
        let of_file = (!m.is_dir()).then(|| (m.nlink(), m.size(), m.rdev()));
        let times = [(m.atime(), m.atime_nsec()), (m.mtime(), m.mtime_nsec())];
        found.insert(
            path.clone(),
            format!(
                "{:o} {}:{} {of_file:?} {times:?} {link:?} {xattrs:?}",
                m.mode(),
                m.uid(),
                m.gid()
            ),
        );
        if m.is_dir() && m.dev() == device {
            for entry in fs::read_dir(&full).unwrap() {
                let below = path.join(entry.unwrap().file_name());
                if !NOT_COMPARED.iter().any(|n| Path::new(n) == below) {
                    left.push(below);
                }
            }
        }
    }
    // Which names are the same file.
    for mut names in inodes.into_values().filter(|n| n.len() > 1) {
        names.sort();
        for name in &names {
            found.entry(name.clone()).and_modify(|text| write!(text, " {names:?}").unwrap());
        }
    }
    found
}

#[track_caller]
fn assert_same<T: PartialEq + std::fmt::Debug>(a: &BTreeMap<PathBuf, T>, b: &BTreeMap<PathBuf, T>) {
    for path in a.keys().chain(b.keys()) {
        assert_eq!(a.get(path), b.get(path), "{}", path.display());
    }
}

/// The test's own reading leaves no trace.
fn quiet(root: &Path) {
    tool("mount", &[&"-o", &"remount,noatime", &root]);
}

/// The disk, snapshot taken, and its copy.
fn copied(flags: bool) -> (Disk, Mounted) {
    let disk = Disk::new(Layout { sizes_mb: vec![24, 24], ..Layout::default() });
    make(&disk);
    if flags {
        make_flagged(&disk);
    }
    quiet(disk.root());
    disk.snapshot();
    assert_eq!(disk.state(), "valid");
    let copy = disk.mount_alternate(true);
    (disk, copy)
}

#[test]
fn every_attribute_arrives() {
    if !ready(&TOOLS) {
        return;
    }
    let (disk, copy) = copied(true);
    let (source, target) = (attributes(disk.root()), attributes(copy.path()));
    assert!(source.len() > 50);
    assert_same(&source, &target);

    // The tools' own words, where the above could be wrong together with the kernel's interface.
    for command in ["getfacl -R -n -P -p .", "getfattr -R -h -d -m - -e hex ."] {
        let told = |root: &Path| {
            let script = format!("cd '{}' && {command}", root.display());
            text(tool("sh", &[&"-c", &script]))
        };
        let strip = |t: String| -> Vec<String> {
            let mut blocks: Vec<_> = t.split("\n\n").map(str::to_owned).collect();
            blocks.retain(|b| {
                !NOT_COMPARED.iter().any(|n| {
                    b.contains(&format!("file: {n}")) || b.contains(&format!("file: ./{n}"))
                })
            });
            blocks.sort();
            blocks
        };
        assert_eq!(strip(told(disk.root())), strip(told(copy.path())), "{command}");
    }
    let flags = |root: &Path| {
        let names = [
            "flags",
            "flags/dir",
            "flags/append-dir",
            "flags/immutable",
            "flags/append",
            "flags/nodump",
            "flags/no-atime",
            "flags/both",
            "flags/linked",
            "links/also-immutable",
            "flags/sparse",
            "flags/dir/inside",
        ];
        names.map(|name| {
            let line = text(tool("lsattr", &[&"-d", &root.join(name)]));
            line.split(' ').next().unwrap().to_owned()
        })
    };
    let told = flags(disk.root());
    assert_eq!(told, flags(copy.path()));
    assert!(told[3].contains('i') && told[7].contains('i') && told[7].contains('a'), "{told:?}");

    drop(copy);
    disk.dualroot(&["verify"]).exits(0);
}

/// The running root is only read, and even that leaves no trace.
#[test]
fn reading_the_source_touches_no_access_time() {
    if !ready(&TOOLS) {
        return;
    }
    let disk = Disk::new(Layout::roots(24, 24));
    make(&disk);
    fs::create_dir_all(disk.root().join("var/db/dualroot")).unwrap();
    quiet(disk.root());
    let before = attributes(disk.root());
    tool("mount", &[&"-o", &"remount,strictatime", &disk.root()]);
    disk.snapshot();
    disk.dualroot(&["show"]).exits(0);
    disk.dualroot(&["verify"]).exits(0);
    quiet(disk.root());
    // But for symbolic links, which cannot be read without it.
    let rest = |mut all: BTreeMap<PathBuf, String>| {
        all.retain(|path, _| !disk.root().join(path).is_symlink());
        all
    };
    assert_same(&rest(before), &rest(attributes(disk.root())));
}

#[test]
fn holes_stay_holes() {
    if !ready(&TOOLS) {
        return;
    }
    let (disk, copy) = copied(false);
    for name in ["sparse", "hole-at-end", "only-hole"] {
        let blocks = |root: &Path| fs::metadata(root.join("d").join(name)).unwrap().blocks();
        let (source, target) = (blocks(disk.root()), blocks(copy.path()));
        assert!(target <= source + 8, "{name}: {source} blocks became {target}");
    }
    // Compared with sparse reads of their own.
    tool("cmp", &[&disk.root().join("d/sparse"), &copy.path().join("d/sparse")]);
    tool("cmp", &[&disk.root().join("d/zeros"), &copy.path().join("d/zeros")]);
}

#[test]
fn mtree_finds_source_and_copy_equal() {
    if !ready(&TOOLS) {
        return;
    }
    let (disk, copy) = copied(false);
    let keywords = "type,mode,uid,gid,size,link,time,sha256,device";
    let exclude = disk.tmp().join("exclude");
    fs::write(&exclude, NOT_COMPARED.map(|n| format!("./{n}\n")).concat()).unwrap();
    let told = |root: &Path| {
        let spec = text(tool("mtree", &[&"-c", &"-X", &exclude, &"-k", &keywords, &"-p", &root]));
        spec.lines().filter(|l| !l.starts_with('#')).map(str::to_owned).collect::<Vec<_>>()
    };
    let (source, target) = (told(disk.root()), told(copy.path()));
    assert!(source.len() > 50, "{source:?}");
    assert_eq!(source, target);
}

#[test]
fn rsync_finds_nothing_to_do() {
    if !ready(&TOOLS) {
        return;
    }
    let (disk, copy) = copied(false);
    let source = format!("{}/", disk.root().display());
    let copy_path = format!("{}/", copy.path().display());
    let flags = ["-aHAXnx", "--itemize-changes", "--delete", "--checksum", "--modify-window=-1"];
    let mut args: Vec<&dyn AsRef<std::ffi::OsStr>> = flags.iter().map(|f| f as _).collect();
    args.extend([&source as &dyn AsRef<_>, &copy_path]);
    let told = text(tool("rsync", &args));
    let lines: Vec<_> = told.lines().collect();
    assert!(lines.contains(&"*deleting   .dualroot/"), "{told}");
    for line in lines {
        assert!(NOT_COMPARED.iter().any(|n| line.contains(n)), "{line}\n\n{told}");
    }
}

/// The manifest, checked with mtree as a user would.
fn mtree(copy: &Path) -> Run {
    try_tool("mtree", &[&"-f", &copy.join(".dualroot/manifest.mtree"), &"-p", &copy])
}

/// A change of a path, with the words by which mtree and our own verify report it.
type Change<'a> = (&'a str, &'a dyn Fn(&Path), &'a str, &'a str);

#[test]
fn mtree_accepts_the_manifest_and_finds_changes() {
    if !ready(&TOOLS) {
        return;
    }
    let (disk, copy) = copied(false);
    let run = mtree(copy.path()).exits(0);
    assert_eq!((run.stdout.as_str(), run.stderr.as_str()), ("", ""));
    drop(copy);
    let times = |path: &Path| {
        let m = fs::metadata(path).unwrap();
        ((m.atime(), m.atime_nsec()), (m.mtime(), m.mtime_nsec()))
    };
    let changes: [Change<'_>; 8] = [
        (
            "d/suid",
            &|p| {
                let (atime, mtime) = times(p);
                fs::write(p, "longer than before").unwrap();
                fs::set_permissions(p, Permissions::from_mode(0o4755)).unwrap();
                set_times(p, atime, mtime);
            },
            "size",
            "size",
        ),
        ("d/zeros", &|p| set_times(p, (1, 1), (1, 1)), "modification time", "time"),
        ("d/empty", &|p| fs::remove_file(p).unwrap(), "missing: ./d/empty", "missing"),
        ("d/extra", &|p| fs::write(p, "").unwrap(), "extra: d/extra", "extra"),
        (
            "d/sticky",
            &|p| fs::set_permissions(p, Permissions::from_mode(0o600)).unwrap(),
            "permissions",
            "mode",
        ),
        (
            "d/owned-link",
            &|p| std::os::unix::fs::lchown(p, Some(5), Some(98)).unwrap(),
            "user",
            "owner",
        ),
        (
            "d/block",
            &|p| {
                let m = fs::symlink_metadata(p).unwrap();
                fs::remove_file(p).unwrap();
                fs::write(p, "").unwrap();
                set_times(p, (m.atime(), m.atime_nsec()), (m.mtime(), m.mtime_nsec()));
            },
            "type",
            "type",
        ),
        (
            "d/long-link",
            &|p| {
                let m = fs::symlink_metadata(p).unwrap();
                fs::remove_file(p).unwrap();
                symlink("elsewhere", p).unwrap();
                set_times(p, (m.atime(), m.atime_nsec()), (m.mtime(), m.mtime_nsec()));
            },
            "link",
            "link target",
        ),
    ];
    for (path, change, theirs, ours) in changes {
        disk.snapshot();
        let copy = disk.mount_alternate(false);
        let dir = times(&copy.path().join("d"));
        change(&copy.path().join(path));
        set_times(&copy.path().join("d"), dir.0, dir.1);
        let run = mtree(copy.path());
        // Its exit code tells of changes, not of what is missing or extra alone.
        assert!(run.stdout.contains(theirs) && run.stdout.contains(path), "{path}: {run}");
        drop(copy);
        let report = disk.dualroot(&["verify", "--json"]).exits(5).json();
        let differences = report["differences"].as_array().unwrap();
        let told = differences.iter().any(|d| d["path"] == format!("/{path}") && d["what"] == ours);
        assert!(told, "{path}: {report}");
        assert!(differences.iter().all(|d| d["path"] == format!("/{path}")), "{path}: {report}");
    }
    // What mtree has no keyword for, we see alone.
    disk.snapshot();
    let copy = disk.mount_alternate(false);
    xattr::set(copy.path().join("d/suid"), "user.text", b"other").unwrap();
    tool("chattr", &[&"+i", &copy.path().join("d/zeros")]);
    tool("setfacl", &[&"-b", &copy.path().join("acl/dir")]);
    drop(copy);
    let report = disk.dualroot(&["verify", "--json"]).exits(5).json();
    let told: Vec<_> = report["differences"]
        .as_array()
        .unwrap()
        .iter()
        .map(|d| format!("{} {}", d["path"].as_str().unwrap(), d["what"].as_str().unwrap()))
        .collect();
    assert_eq!(
        told,
        ["/acl/dir extended attributes", "/d/suid extended attributes", "/d/zeros flags"],
        "{report}"
    );
}

#[test]
fn bsdtar_reads_the_manifest() {
    if !ready(&TOOLS) {
        return;
    }
    let disk = Disk::new(Layout::roots(24, 24));
    make(&disk);
    // The one type that libarchive's reader does not know (it says so, and goes on).
    fs::remove_file(disk.root().join("d/socket")).unwrap();
    make_flagged(&disk);
    disk.snapshot();
    let copy = disk.mount_alternate(true);
    let manifest = copy.path().join(".dualroot/manifest.mtree");
    // libarchive's reader knows every name of it.
    let listed = text(tool("bsdtar", &[&"-tf", &manifest]));
    let mut listed: Vec<_> = listed
        .lines()
        .map(|l| PathBuf::from(l.trim_end_matches('/').trim_start_matches("./")))
        .filter(|p| p != Path::new("."))
        .collect();
    listed.sort();
    let own = |p: &PathBuf| !p.as_os_str().is_empty();
    let mut expected: Vec<_> = attributes(copy.path()).into_keys().filter(own).collect();
    expected.extend(["etc/fstab", "lost+found"].map(PathBuf::from));
    // What checkers are told to pass over.
    expected.extend([".dualroot", ".snap"].map(PathBuf::from));
    expected.sort();
    let hidden: Vec<_> = expected.iter().filter(|p| !listed.contains(p)).collect();
    assert!(
        hidden.iter().all(|p| p.starts_with(".dualroot") || p.starts_with(".snap")),
        "{hidden:?}"
    );
    assert!(listed.iter().all(|p| expected.contains(p)), "{listed:?}");

    // And archives from it what lies there: all bytes of a file come out again.
    let archive = disk.tmp().join("archive.tar");
    let spec = format!("@{}", manifest.display());
    let run = try_tool("bsdtar", &[&"-cf", &archive, &"-C", &copy.path(), &spec]);
    assert!(run.code == 0, "{run}");
    let content = tool("bsdtar", &[&"-xOf", &archive, &"./links/b/first"]);
    if content.is_empty() {
        // Stored as a link to another of its names.
        let names = ["./links/a/second", "./links/b/zz", "./d/inner/third"];
        let found =
            names.iter().any(|n| tool("bsdtar", &[&"-xOf", &archive, n]) == pattern(100_000, 1));
        assert!(found, "no name of links/b/first has its content");
    } else {
        assert!(content == pattern(100_000, 1));
    }
}

/// xfs has its own ways with attributes, flags and holes.
#[test]
fn every_attribute_arrives_on_xfs() {
    if !ready(&TOOLS) || !ready(&["mkfs.xfs"]) {
        return;
    }
    let disk = Disk::new(Layout { fs: "xfs", ..Layout::roots(320, 320) });
    make(&disk);
    make_flagged(&disk);
    quiet(disk.root());
    disk.snapshot();
    let copy = disk.mount_alternate(true);
    assert_same(&attributes(disk.root()), &attributes(copy.path()));
    for name in ["flags", "flags/immutable", "flags/append", "flags/both", "links/also-immutable"] {
        let told = |root: &Path| {
            text(tool("lsattr", &[&"-d", &root.join(name)])).split(' ').next().unwrap().to_owned()
        };
        assert_eq!(told(disk.root()), told(copy.path()), "{name}");
    }
    drop(copy);
    disk.dualroot(&["verify"]).exits(0);
}
