//! Copies that are brought up to date: only what differs is written, and what comes of it is what a
//! new copy would be.

use std::fs::{self, File, OpenOptions};
use std::os::unix::fs::{FileExt, MetadataExt, PermissionsExt, symlink};
use std::path::Path;
use std::time::{Duration, SystemTime};

use serde_json::Value;

use crate::harness::{Disk, Layout, Run, pattern, ready, tool, try_tool, unmount};

/// One root and its copy, without `/config`.
fn disk(mb: u64) -> Disk {
    let disk = Disk::new(Layout::roots(mb, mb));
    disk.fill();
    disk.snapshot();
    disk
}

/// `snapshot` with these words: its report on `/`.
#[track_caller]
fn snapshot(disk: &Disk, words: &[&str]) -> Value {
    let args: Vec<_> = ["--json", "snapshot"].into_iter().chain(words.iter().copied()).collect();
    disk.dualroot(&args).exits(0).json()["pairs"][0].clone()
}

#[track_caller]
fn refreshed(disk: &Disk, words: &[&str]) -> u64 {
    let pair = snapshot(disk, words);
    assert_eq!(pair["refreshed"], true, "{pair}");
    pair["written_bytes"].as_u64().unwrap()
}

#[track_caller]
fn verified(disk: &Disk) -> Run {
    disk.dualroot(&["verify"]).exits(0)
}

fn manifest(disk: &Disk) -> String {
    let copy = disk.mount_alternate(true);
    fs::read_to_string(copy.path().join(".dualroot/manifest.mtree")).unwrap()
}

/// Bytes that were written to the medium since it was attached.
fn written(disk: &Disk) -> u64 {
    let stat = fs::read_to_string(format!("/sys/block/{}/stat", disk.name())).unwrap();
    stat.split_whitespace().nth(6).unwrap().parse::<u64>().unwrap() * 512
}

/// Gives a file the time of its last write again.
fn backdate(path: &Path, change: impl FnOnce()) {
    let before = fs::metadata(path).unwrap().modified().unwrap();
    change();
    OpenOptions::new().write(true).open(path).unwrap().set_modified(before).unwrap();
}

/// What is trusted is told in whole seconds: what a copy is made of must be older than that.
fn settle() {
    std::thread::sleep(Duration::from_millis(1100));
}

/// Gives fields of the copy's record other values.
fn change_record(disk: &Disk, fields: &[(&str, &str)]) {
    let copy = disk.mount_alternate(false);
    let path = copy.path().join(".dualroot/record.json");
    let mut record: Value = serde_json::from_str(&fs::read_to_string(&path).unwrap()).unwrap();
    for (name, value) in fields {
        record[*name] = (*value).into();
    }
    fs::write(&path, serde_json::to_vec(&record).unwrap()).unwrap();
}

#[test]
fn where_nothing_changed_nothing_is_written() {
    if !ready(&[]) {
        return;
    }
    let disk = disk(64);
    let (before, text) = (disk.slot(2), manifest(&disk));
    settle();
    for words in [&["--verify", "full"][..], &["--verify", "changed"]] {
        // ext4 goes on making its inode tables whenever it is mounted read-write, until all are made.
        let bytes = (0..8).map(|_| {
            let already = written(&disk);
            assert_eq!(refreshed(&disk, words), 0, "{words:?}");
            written(&disk) - already
        });
        let bytes = bytes.min().unwrap();
        assert!(bytes <= 256 << 10, "{bytes} bytes were written: {words:?}");
        verified(&disk);
    }
    let after = disk.slot(2);
    assert_ne!(before["created"], after["created"]);
    for same in ["files", "bytes", "state"] {
        assert_eq!(before[same], after[same]);
    }
    assert_eq!(manifest(&disk), text);
}

#[test]
fn one_byte_of_a_large_file_is_a_block() {
    if !ready(&[]) {
        return;
    }
    let disk = Disk::new(Layout::roots(64, 64));
    disk.fill();
    let large = disk.write("var/db/large", pattern(20 << 20, 5));
    disk.snapshot();
    let change = |at: u64, byte: u8| {
        let file = OpenOptions::new().write(true).open(&large).unwrap();
        file.write_all_at(&[byte], at).unwrap();
    };
    change(9_000_000, 0);
    assert_eq!(refreshed(&disk, &[]), 4096);
    change(0, 1);
    change(20_000_000, 1);
    assert_eq!(refreshed(&disk, &["--verify", "changed"]), 8192);
    // Shorter, and longer than before.
    File::options().write(true).open(&large).unwrap().set_len((20 << 20) - 5000).unwrap();
    assert_eq!(refreshed(&disk, &[]), 0);
    fs::write(&large, pattern(21 << 20, 5)).unwrap();
    let bytes = refreshed(&disk, &[]);
    assert!(((1 << 20)..=(1 << 20) + 3 * 8192).contains(&bytes), "{bytes}");
    verified(&disk);
}

/// Everything that can be otherwise than in an older copy.
fn change_everything(root: &Path) {
    let at = |name: &str| root.join(name);
    let write = |name: &str, text: &str| fs::write(at(name), text).unwrap();
    write("etc/os-release", "NAME=\"Example OS\"\nVERSION_ID=1.3\n");
    write("usr/share/doc/3.txt", "shorter");
    fs::write(at("usr/share/doc/4.txt"), pattern(90_000, 9)).unwrap();
    fs::remove_file(at("usr/share/doc/5.txt")).unwrap();
    fs::rename(at("usr/share/doc/6.txt"), at("usr/share/doc/66.txt")).unwrap();
    fs::set_permissions(at("usr/share/doc/7.txt"), fs::Permissions::from_mode(0o4711)).unwrap();
    std::os::unix::fs::chown(at("usr/share/doc/8.txt"), Some(77), Some(78)).unwrap();
    // Another kind of object under the same name.
    fs::remove_file(at("usr/share/doc/9.txt")).unwrap();
    fs::create_dir(at("usr/share/doc/9.txt")).unwrap();
    write("usr/share/doc/9.txt/inside", "a directory now");
    fs::remove_dir_all(at("deep")).unwrap();
    write("deep", "a file now");
    fs::remove_file(at("etc/motd")).unwrap();
    write("etc/motd", "a file now");
    fs::remove_file(at("usr/share/doc/10.txt")).unwrap();
    symlink("11.txt", at("usr/share/doc/10.txt")).unwrap();
    fs::remove_file(at("fifo")).unwrap();
    write("fifo", "a file now");
    fs::remove_file(at("usr/share/doc/12.txt")).unwrap();
    nix::unistd::mkfifo(&at("usr/share/doc/12.txt"), nix::sys::stat::Mode::S_IRUSR).unwrap();
    fs::remove_file(at("link")).unwrap();
    symlink("elsewhere", at("link")).unwrap();
    // Names of files: one less, one more, two that were one, one that were two.
    fs::remove_file(at("boot/kernel.old")).unwrap();
    fs::write(at("boot/kernel.old"), fs::read(at("boot/kernel/kernel")).unwrap()).unwrap();
    fs::hard_link(at("usr/share/doc/13.txt"), at("usr/share/doc/113.txt")).unwrap();
    fs::remove_file(at("names/b")).unwrap();
    fs::hard_link(at("names/c"), at("names/b")).unwrap();
    fs::remove_file(at("names/z")).unwrap();
    // Holes that come, and holes that go.
    let sparse = File::create(at("usr/share/doc/14.txt")).unwrap();
    sparse.set_len(900_000).unwrap();
    sparse.write_all_at(b"end", 899_000).unwrap();
    fs::write(at("sparse"), pattern(500_000, 3)).unwrap();
    // A directory's own attributes, and one that lost an extended attribute.
    fs::set_permissions(at("var/empty"), fs::Permissions::from_mode(0o555)).unwrap();
    tool("setfattr", &[&"-x", &"user.gone", &at("attributes")]);
    tool("setfattr", &[&"-x", &"user.gone", &at("attributes/file")]);
    tool("setfattr", &[&"-n", &"user.kept", &"-v", &"2", &at("attributes/other")]);
    tool("setfacl", &[&"-m", &"u:99:r", &at("usr/share/doc/15.txt")]);
    tool("setfacl", &[&"-b", &at("acl")]);
    // What nobody may write.
    tool("chattr", &[&"-i", &at("immutable/file")]);
    write("immutable/file", "otherwise");
    tool("chattr", &[&"+i", &at("immutable/file")]);
    tool("chattr", &[&"-i", &at("immutable/gone"), &at("immutable/links")]);
    fs::remove_file(at("immutable/gone")).unwrap();
    fs::hard_link(at("immutable/links"), at("immutable/more")).unwrap();
    tool("chattr", &[&"+i", &at("immutable/links")]);
    // The same size, and the old time.
    let path = at("usr/share/doc/20.txt");
    backdate(&path, || fs::write(&path, pattern(2020, 77)).unwrap());
    // The beginning of what it was, and the old time.
    let path = at("usr/share/doc/21.txt");
    let beginning = fs::read(&path).unwrap()[..100].to_vec();
    backdate(&path, || fs::write(&path, &beginning).unwrap());
}

/// What is changed later.
fn prepare(root: &Path) {
    let at = |name: &str| root.join(name);
    for dir in ["deep/deeper/deepest", "names", "attributes", "immutable"] {
        fs::create_dir_all(at(dir)).unwrap();
    }
    for file in ["deep/deeper/file", "deep/deeper/deepest/file", "attributes/file"] {
        fs::write(at(file), file).unwrap();
    }
    for file in ["attributes/other", "acl", "immutable/file", "immutable/gone", "immutable/links"] {
        fs::write(at(file), file).unwrap();
    }
    for name in ["attributes", "attributes/file"] {
        tool("setfattr", &[&"-n", &"user.gone", &"-v", &"1", &at(name)]);
    }
    tool("setfattr", &[&"-n", &"user.kept", &"-v", &"1", &at("attributes/other")]);
    tool("setfacl", &[&"-m", &"u:98:rw", &at("acl")]);
    nix::unistd::mkfifo(&at("fifo"), nix::sys::stat::Mode::S_IRUSR).unwrap();
    symlink("somewhere", at("link")).unwrap();
    fs::write(at("names/a"), "a and b").unwrap();
    fs::hard_link(at("names/a"), at("names/b")).unwrap();
    fs::write(at("names/c"), "a and b").unwrap();
    fs::write(at("names/y"), "y and z").unwrap();
    fs::hard_link(at("names/y"), at("names/z")).unwrap();
    File::create(at("sparse")).unwrap().set_len(500_000).unwrap();
    for file in ["file", "gone", "links"] {
        tool("chattr", &[&"+i", &at("immutable").join(file)]);
    }
}

fn no_flags(root: &Path) {
    try_tool("chattr", &[&"-R", &"-i", &root.join("immutable")]);
}

#[test]
fn whatever_changed_the_copy_is_what_a_new_one_is() {
    if !ready(&["setfattr", "setfacl", "chattr"]) {
        return;
    }
    for fs in ["ext4", "xfs"] {
        for words in [&[][..], &["--verify", "changed"]] {
            let mb = if fs == "xfs" { 320 } else { 48 };
            let disk = Disk::new(Layout { fs, ..Layout::roots(mb, mb) });
            disk.fill();
            prepare(disk.root());
            disk.snapshot();
            settle();
            change_everything(disk.root());
            let bytes = refreshed(&disk, words);
            assert!(bytes < 1_600_000, "{bytes} bytes were written");
            verified(&disk);
            let text = manifest(&disk);
            assert_eq!(snapshot(&disk, &["--fresh"])["refreshed"], false);
            let new = manifest(&disk);
            let lines = |text: &str| text.lines().map(str::to_owned).collect::<Vec<_>>();
            assert_eq!(lines(&text), lines(&new), "{fs} {words:?}");
            // Where holes are does not stand in the manifest.
            let copy = disk.mount_alternate(true);
            for name in ["usr/share/doc/14.txt", "sparse"] {
                let [ours, theirs] = [disk.root(), copy.path()]
                    .map(|d| fs::metadata(d.join(name)).unwrap().blocks());
                assert!(ours.abs_diff(theirs) <= 16, "{name}: {ours} blocks and {theirs}");
            }
            drop(copy);
            no_flags(disk.root());
        }
    }
}

/// Flags go before a further name is made, and what they are is compared like everything else.
#[test]
fn flags_of_a_file_of_several_names_come_and_go() {
    if !ready(&["chattr"]) {
        return;
    }
    for words in [&[][..], &["--verify", "changed"]] {
        let disk = Disk::new(Layout::roots(48, 48));
        disk.fill();
        let content = pattern(50_000, 3);
        let first = disk.write("names/f1", &content);
        let at = |name: &str| first.with_file_name(name);
        let flag = |flag: &str| tool("chattr", &[&flag, &first]);
        fs::hard_link(&first, at("f2")).unwrap();
        flag("+i");
        disk.snapshot();
        let up_to_date = || {
            settle();
            let args: Vec<_> = ["snapshot"].iter().chain(words).copied().collect();
            let run = disk.dualroot(&args).exits(0);
            assert!(!run.stderr.contains("had changed"), "{run}");
            verified(&disk);
        };
        flag("-i");
        up_to_date();
        flag("+i");
        up_to_date();
        flag("-i");
        fs::hard_link(&first, at("f3")).unwrap();
        up_to_date();
        flag("+i");
        up_to_date();
        // One that nobody touched is not touched for its flags' sake: what rots in it is told.
        let offset = disk.find_on_medium(2, &content[..4096]);
        disk.flip_on_medium(2, offset + 5);
        let run = disk.dualroot(&["snapshot"]).exits(0);
        assert!(run.stderr.contains("names/f1: the copy's content had changed"), "{run}");
        verified(&disk);
        flag("-i");
    }
}

#[test]
fn a_copy_that_ran_becomes_a_copy_again() {
    if !ready(&[]) {
        return;
    }
    for words in [&[][..], &["--verify", "changed"]] {
        let disk = disk(48);
        settle();
        let copy = disk.mount_alternate(false);
        let at = |name: &str| copy.path().join(name);
        fs::create_dir_all(at("var/db/dualroot")).unwrap();
        fs::write(at("var/db/dualroot/journal.json"), "{}").unwrap();
        fs::write(at(".dualroot/used"), "").unwrap();
        fs::write(at("firstboot"), "").unwrap();
        fs::create_dir_all(at("altroot/left/behind")).unwrap();
        fs::write(at("usr/share/doc/1.txt"), "of the copy's own").unwrap();
        let path = at("usr/share/doc/2.txt");
        backdate(&path, || fs::write(&path, pattern(202, 99)).unwrap());
        fs::remove_file(at("usr/share/doc/3.txt")).unwrap();
        fs::set_permissions(at("usr"), fs::Permissions::from_mode(0o700)).unwrap();
        drop(copy);
        let run = disk.dualroot(&["snapshot"].iter().chain(words).copied().collect::<Vec<_>>());
        run.exits(0);
        verified(&disk);
        let copy = disk.mount_alternate(true);
        assert!(!copy.path().join(".dualroot/used").exists());
        assert!(!copy.path().join("firstboot").exists());
        assert!(!copy.path().join("altroot/left").exists());
        drop(copy);
        let text = manifest(&disk);
        snapshot(&disk, &["--fresh"]);
        assert_eq!(manifest(&disk), text);
    }
}

#[test]
fn what_rots_on_the_medium_is_made_anew() {
    if !ready(&[]) {
        return;
    }
    let disk = disk(48);
    let at = disk.find_on_medium(2, &pattern(700_000, 1)[..4096]);
    disk.flip_on_medium(2, at + 5);
    let run = disk.dualroot(&["snapshot"]).exits(0);
    assert!(run.stderr.contains("boot/kernel"), "{run}");
    assert!(run.stderr.contains("content had changed"), "{run}");
    verified(&disk);
    assert_eq!(refreshed(&disk, &[]), 0);
}

#[test]
fn the_source_is_read_where_only_its_time_says_that_it_is_the_same() {
    if !ready(&[]) {
        return;
    }
    for words in [&[][..], &["--verify", "changed"]] {
        let disk = disk(48);
        settle();
        let path = disk.root().join("boot/kernel/kernel");
        backdate(&path, || fs::write(&path, pattern(700_000, 2)).unwrap());
        assert!(refreshed(&disk, words) > 600_000);
        verified(&disk);
        let copy = disk.mount_alternate(true);
        assert!(fs::read(copy.path().join("boot/kernel/kernel")).unwrap() == pattern(700_000, 2));
    }
}

#[test]
fn without_room_for_both_the_new_one_is_made_alone() {
    if !ready(&[]) {
        return;
    }
    let disk = Disk::new(Layout::roots(48, 48));
    disk.fill();
    // More than the walk is ahead of the copying: the old is not gone before the new comes.
    for n in 0..2000 {
        disk.write(&format!("between/{n}"), "");
    }
    disk.write("zzz/old", pattern(25 << 20, 1));
    disk.snapshot();
    fs::remove_dir_all(disk.root().join("zzz")).unwrap();
    disk.write("aaa/new", pattern(25 << 20, 2));
    let run = disk.dualroot(&["--json", "snapshot"]).exits(0);
    assert_eq!(run.json()["pairs"][0]["refreshed"], false, "{run}");
    assert!(run.stderr.contains("the copy is made anew"), "{run}");
    verified(&disk);
}

#[test]
fn what_is_no_whole_copy_is_made_anew() {
    if !ready(&["tune2fs", "debugfs"]) {
        return;
    }
    let disk = disk(48);
    let anew = |why: &str| {
        let run = disk.dualroot(&["-v", "--json", "snapshot"]).exits(0);
        assert_eq!(run.json()["pairs"][0]["refreshed"], false, "{run}");
        assert!(run.stderr.contains(why), "{run}");
        assert_eq!(refreshed(&disk, &[]), 0);
    };
    let spoil = |name: &str| {
        let copy = disk.mount_alternate(false);
        fs::remove_file(copy.path().join(".dualroot").join(name)).unwrap();
    };
    spoil("record.json");
    anew("it has no record");
    spoil("manifest.mtree");
    anew("the manifest is missing");
    let id = tool("blkid", &[&"-p", &"-o", &"value", &"-s", &"UUID", &disk.part(1)]);
    try_tool("e2fsck", &[&"-fy", &disk.part(2)]);
    tool("tune2fs", &[&"-U", &String::from_utf8(id).unwrap().trim(), &disk.part(2)]);
    anew("it has the identity of its source");
    // A block that is in use and said to be free: only fsck knows.
    tool("debugfs", &[&"-w", &"-R", &"freei <12>", &disk.part(2)]);
    anew("e2fsck");
    assert_eq!(snapshot(&disk, &["--fresh"])["refreshed"], false);
    let plan = disk.dualroot(&["snapshot", "-n"]).exits(0);
    assert!(plan.stdout.contains("remove the record of the copy of / "), "{plan}");
    assert!(plan.stdout.contains("up to date with /"), "{plan}");
}

#[test]
fn one_that_was_stopped_is_no_copy() {
    if !ready(&[]) {
        return;
    }
    let disk = Disk::new(Layout::roots(64, 64));
    disk.fill();
    disk.write("var/db/large", pattern(30 << 20, 5));
    disk.snapshot();
    disk.write("var/db/large", pattern(30 << 20, 6));
    let halted = disk.halt(&["snapshot"], ("write", "var/db/large", 10));
    assert_eq!(disk.state(), "writing");
    halted.kill();
    assert_eq!(disk.state(), "invalid");
    assert_eq!(snapshot(&disk, &[])["refreshed"], false);
    verified(&disk);
}

/// A disk with two directories whose files are told apart by their content alone, and a copy that
/// took so long that all of it is older than the moment in which it was verified.
fn two_alike() -> Disk {
    let disk = Disk::new(Layout::roots(48, 48));
    disk.fill();
    let time = SystemTime::now() - Duration::from_secs(86_400);
    for (name, seed) in [("a", 501), ("b", 502)] {
        let path = disk.write(&format!("pkg/{name}/file"), pattern(9000, seed));
        OpenOptions::new().write(true).open(path).unwrap().set_modified(time).unwrap();
    }
    disk.write("zzz", pattern(5 << 20, 503));
    slow_snapshot(&disk);
    disk
}

fn slow_snapshot(disk: &Disk) {
    settle();
    disk.dualroot(&["--limit", "3m", "snapshot", "--fresh"]).exits(0);
}

fn change_places(root: &Path) {
    let at = |name: &str| root.join("pkg").join(name);
    for (from, to) in [("a", "t"), ("b", "a"), ("t", "b")] {
        fs::rename(at(from), at(to)).unwrap();
    }
}

const CHANGED: &[&str] = &["--verify", "changed"];

/// The copy has the source's content in both directories, and says so.
#[track_caller]
fn are_alike(disk: &Disk) {
    let copy = disk.mount_alternate(true);
    for name in ["pkg/a/file", "pkg/b/file"] {
        let [ours, theirs] = [disk.root(), copy.path()].map(|r| fs::read(r.join(name)).unwrap());
        assert!(ours == theirs, "{name}");
    }
    drop(copy);
    verified(disk);
}

/// What `--verify changed` saves: what rots is not told by what is not read.
#[test]
fn what_nobody_touched_is_not_read() {
    if !ready(&[]) {
        return;
    }
    let disk = two_alike();
    let offset = disk.find_on_medium(2, &pattern(9000, 501)[..4096]);
    disk.flip_on_medium(2, offset + 5);
    assert_eq!(refreshed(&disk, CHANGED), 0);
    disk.dualroot(&["verify"]).exits(5).prints("/pkg/a/file: content differs at 5");
}

/// Files keep all of their times while the directories that they are in get other names.
#[test]
fn what_came_to_another_place_is_read() {
    if !ready(&[]) {
        return;
    }
    let disk = two_alike();
    change_places(disk.root());
    refreshed(&disk, CHANGED);
    are_alike(&disk);
    slow_snapshot(&disk);
    let copy = disk.mount_alternate(false);
    change_places(copy.path());
    drop(copy);
    refreshed(&disk, CHANGED);
    are_alike(&disk);
}

/// A file system may be as it was before it was copied, under the same name and with the same
/// identity.
#[test]
fn a_source_that_is_older_again_is_read() {
    if !ready(&[]) {
        return;
    }
    let disk = two_alike();
    let saved = disk.tmp().join("older");
    let dd = |from: &Path, to: &Path| {
        unmount(disk.root());
        let [from, to] = [("if", from), ("of", to)].map(|(k, p)| format!("{k}={}", p.display()));
        tool("dd", &[&from, &to, &"bs=1M", &"conv=fsync", &"status=none"]);
        disk.mount(&disk.part(1), disk.root(), false);
    };
    dd(&disk.part(1), &saved);
    let path = disk.root().join("pkg/a/file");
    backdate(&path, || fs::write(&path, pattern(9000, 504)).unwrap());
    slow_snapshot(&disk);
    are_alike(&disk);
    dd(&saved, &disk.part(1));
    assert!(refreshed(&disk, CHANGED) > 0);
    are_alike(&disk);
}

/// One that was made of another device tells nothing of this one.
#[test]
fn another_source_is_read() {
    if !ready(&[]) {
        return;
    }
    let disk = two_alike();
    let plan = || disk.dualroot(&["snapshot", "-n", "--verify", "changed"]).exits(0);
    assert!(!plan().stdout.contains("read the copy of / "));
    change_record(&disk, &[("source", "/dev/da7s1a")]);
    assert!(plan().stdout.contains("read the copy of / "));
}

#[test]
fn a_clock_that_was_set_back_is_not_trusted() {
    if !ready(&[]) {
        return;
    }
    let disk = disk(48);
    // As if the copy had been made tomorrow.
    let tomorrow = SystemTime::now() + Duration::from_secs(86_400);
    let tomorrow = jiff::Timestamp::try_from(tomorrow).unwrap().to_string();
    change_record(&disk, &[("created", &tomorrow), ("verified", &tomorrow)]);
    let path = disk.root().join("usr/share/doc/30.txt");
    backdate(&path, || fs::write(&path, pattern(3030, 1)).unwrap());
    let plan = disk.dualroot(&["snapshot", "-n", "--verify", "changed"]).exits(0);
    assert!(plan.stdout.contains("read the copy of / "), "{plan}");
    assert!(refreshed(&disk, &["--verify", "changed"]) > 0);
    verified(&disk);
}

/// A directory of the copy has its default ACL while things are made in it that have none.
#[test]
fn a_default_acl_is_not_passed_on_to_the_copy() {
    if !ready(&["setfacl", "mkfs.xfs"]) {
        return;
    }
    for (fs, mb) in [("ext4", 48), ("xfs", 320)] {
        let disk = Disk::new(Layout { fs, ..Layout::roots(mb, mb) });
        disk.fill();
        let at = |name: &str| disk.root().join(name);
        for name in ["acl/bare", "acl/holes", "plain/file", "plain/dir/below/file", "plain/a"] {
            disk.write(name, pattern(200_000, 4));
        }
        symlink("file", at("plain/link")).unwrap();
        nix::unistd::mkfifo(&at("plain/fifo"), nix::sys::stat::Mode::S_IRUSR).unwrap();
        fs::hard_link(at("plain/a"), at("plain/b")).unwrap();
        disk.write("root-of-both", "x");
        tool("setfacl", &[&"-m", &"u:99:r", &at("acl/bare")]);
        tool("setfacl", &[&"-d", &"-m", &"u:1234:rwx", &at("acl"), &disk.root()]);
        disk.snapshot();
        let move_in = |name: &str| {
            let to = at("acl").join(name);
            fs::rename(at("plain").join(name), to).unwrap();
        };
        let changes: [(&str, &dyn Fn()); 5] = [
            ("a file without an ACL comes", &|| move_in("file")),
            ("a directory without one", &|| move_in("dir")),
            ("other kinds, and several names", &|| {
                ["link", "fifo", "a", "b"].into_iter().for_each(move_in);
                fs::rename(at("root-of-both"), at("moved-in-the-root")).unwrap();
            }),
            ("an ACL goes", &|| drop(tool("setfacl", &[&"-b", &at("acl/bare")]))),
            ("holes come", &|| {
                let file = File::create(at("acl/holes")).unwrap();
                file.set_len(900_000).unwrap();
                file.write_all_at(b"end", 899_000).unwrap();
            }),
        ];
        for (what, change) in changes {
            settle();
            change();
            println!("{fs}: {what}");
            refreshed(&disk, &[]);
            verified(&disk);
        }
        let text = manifest(&disk);
        snapshot(&disk, &["--fresh"]);
        assert_eq!(manifest(&disk), text, "{fs}");
    }
}

/// The copy is mounted without devices: opening one says something else than of any other object.
#[test]
fn a_device_in_the_place_of_a_file_goes() {
    if !ready(&["mknod"]) {
        return;
    }
    let disk = Disk::new(Layout::roots(48, 48));
    disk.fill();
    let mknod = |path: &Path| {
        fs::remove_file(path).ok();
        tool("mknod", &[&path, &"c", &"10", &"130"]);
    };
    let thing = disk.root().join("etc/thing");
    mknod(&thing);
    disk.snapshot();
    fs::remove_file(&thing).unwrap();
    fs::write(&thing, "a file now").unwrap();
    refreshed(&disk, &[]);
    verified(&disk);
    // The source is what it was, and the copy is not: also in the place of what is rewritten.
    let copy = disk.mount_alternate(false);
    for name in ["etc/thing", "etc/fstab"] {
        mknod(&copy.path().join(name));
    }
    drop(copy);
    refreshed(&disk, &[]);
    verified(&disk);
}
