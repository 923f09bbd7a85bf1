//! The main job on UFS2: every layout, every attribute.

use std::fs::{self, File, Permissions};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileExt, PermissionsExt, symlink};
use std::os::unix::net::UnixListener;
use std::path::Path;

use serde_json::json;

use crate::compare::{HUGE, assert_equal, assert_manifest, assert_sound};
use crate::disk::{Disk, Layout, Mounted, Scheme, pattern};
use crate::harness::{Run, Test, program, tests, tool, wait_until};

pub const TESTS: &[Test] = tests![
    the_seeds_lines,
    mbr_soft_updates,
    mbr_without_soft_updates,
    mbr_journaled,
    mbr_sectors_of_4096,
    gpt_soft_updates,
    gpt_without_soft_updates,
    gpt_journaled,
    gpt_sectors_of_4096,
    posix_acls,
    nfs4_acls,
    file_system_switches_are_kept,
    a_read_only_root_is_copied_as_it_lies,
    every_name_of_the_root,
    the_copy_becomes_the_source,
    a_second_snapshot_replaces_the_first,
    a_lost_byte_is_found,
    the_manifest_finds_what_mtree_finds,
    the_demo,
];

/// The first seed, letter by letter.
const SEED: &str = "umount: /altroot: not currently mounted
Copying / to /altroot.. (this may take a few minutes)
umount: /altconfig: not currently mounted
Copying /config to /altconfig.. (this may take a few minutes)
The following filesystems were archived: / /config
";

fn the_seeds_lines() {
    for scheme in [Scheme::Mbr, Scheme::Gpt] {
        let disk = Disk::new(Layout { scheme, ..Layout::with_config() });
        disk.fill();
        assert_eq!(disk.state(), "empty");
        let run = disk.snapshot();
        assert!(run.stdout.starts_with(SEED), "{run}");
        assert_eq!(run.stderr, "");
        disk.assert_unmounted();
        let shown = disk.dualroot(&["show"]).exits(0);
        let node = disk.node(2);
        let shown =
            shown.prints(&format!("Information for snapshot on       internal ({node}) (backup)"));
        shown.prints("Creation date: ").prints("State: valid");
        assert_sound(&disk.node(2));
        assert_sound(&disk.config(2));
        let config = Mounted::new(&["-o", "ro"], &disk.config(2), &disk.side("config"));
        assert_equal(&disk.root().join("config"), config.path());
    }
}

// ---- one of everything ----------------------------------------------------------------------

pub fn sh(dir: &Path, script: &str) {
    Run::of(program("/bin/sh").args(["-e", "-c", script]).current_dir(dir)).exits(0);
}

/// A root with one of everything but ACLs. Flags come last.
pub fn make_everything(disk: &Disk) {
    let root = disk.root();
    disk.fill();
    for dir in ["d/inner", "links/a", "flags/dir", "flags/append", "times"] {
        fs::create_dir_all(root.join(dir)).unwrap();
    }
    disk.write("links/first", pattern(100_000, 1));
    for (name, half) in [("d/sparse", 1 << 22), (HUGE, 1 << 32)] {
        let sparse = File::create(root.join(name)).unwrap();
        sparse.set_len(2 * half).unwrap();
        for (offset, length) in [(1 << 20, 4096), (half + 5, 100_000), (2 * half - 1, 1)] {
            sparse.write_all_at(&pattern(length, 7), offset).unwrap();
        }
    }
    File::create(root.join("d/only-hole")).unwrap().set_len(3 << 20).unwrap();
    fs::write(root.join("d/zeros"), vec![0; 300_000]).unwrap();
    for name in [&b"two\nlines"[..], b" blanks ", b"no\xffUTF-8\x80", b"#*?[]\\=", b"-n"] {
        fs::write(root.join("d/inner").join(std::ffi::OsStr::from_bytes(name)), name).unwrap();
    }
    fs::write(root.join("d/inner").join("n".repeat(255)), "long").unwrap();
    symlink("x".repeat(1000), root.join("d/long-link")).unwrap();
    // A name of a socket is short, and the root's path is not.
    let socket = Path::new("/tmp/dualroot-vm.socket");
    let _ = fs::remove_file(socket);
    drop(UnixListener::bind(socket).unwrap());
    tool("cp", &[&"-RpP", &"/dev/null", &root.join("d/cp-null")]);
    sh(
        &root,
        "ln links/first links/a/second; ln links/first d/inner/third
        ln -s nowhere links/sym; ln -P links/sym links/a/sym2; mkfifo d/fifo; ln d/fifo links/fifo
        mknod d/null c 1 3; mknod d/large c 0x12 0x56007800
        echo suid >d/suid; chown 1234:567 d/suid; chmod 4755 d/suid
        echo none >d/none; chmod 0 d/none; echo all >d/all; chmod 7777 d/all
        mkdir d/shared d/closed; chown 7:8 d/shared; chmod 3775 d/shared
        echo hidden >d/closed/inside; chmod 0 d/closed
        ln -s inner d/owned-link; chown -h 99:98 d/owned-link; chmod -h 700 d/owned-link
        : >d/empty",
    );
    fs::remove_file(socket).unwrap();
    // Attributes of both namespaces, on every kind that can have them.
    for (space, name, value, path) in [
        ("user", "text", "value", "d/suid"),
        ("user", "large", &"v".repeat(2000), "d/empty"),
        ("user", "on-dir", "dir", "d/shared"),
        ("user", "on-link", "link", "d/owned-link"),
        ("system", "secret", "s", "d/suid"),
        ("system", "on-dir", "s", "d/shared"),
        ("user", "linked", "once", "links/first"),
    ] {
        tool("setextattr", &[&"-h", &space, &name, &value, &root.join(path)]);
    }
    // Times: born before they were last written, before 1970, after 2038.
    sh(
        &root,
        "cd times; for f in old new future; do echo $f >$f; done; ln -s t link; mkdir dir
        touch -d 1999-12-31T23:59:59.123456789 new; touch -d 2005-06-07T08:09:10.987654321 new
        touch -d 1965-01-02T03:04:05 old; touch -d 2100-01-01T00:00:00 future
        touch -h -d 2001-02-03T04:05:06 link; touch -d 2002-03-04T05:06:07 dir
        touch -d 2003-04-05T06:07:08.5 .",
    );
    for flag in
        ["schg", "sappnd", "uarch", "uappnd", "uchg", "nodump", "sunlnk", "uunlnk", "uhidden"]
    {
        disk.write(&format!("flags/{flag}"), flag);
    }
    disk.write("flags/both", "both");
    disk.write("flags/dir/inside", "inside");
    disk.write("flags/append/inside", "inside");
    fs::set_permissions(root.join("flags"), Permissions::from_mode(0o711)).unwrap();
    sh(
        &root,
        "cd flags; ln schg ../links/also-schg; ln -s x link; chflags -h uarch,nodump link
        for f in schg sappnd uarch uappnd uchg nodump sunlnk uunlnk uhidden; do chflags $f $f; done
        chflags schg,sappnd,uarch both; chflags schg dir; chflags sappnd append
        touch -d 2004-05-06T07:08:09 .; chflags schg .; chflags sunlnk ../times",
    );
}

/// Copies one of everything and has it compared.
fn everything(layout: Layout) {
    let disk = Disk::new(layout);
    make_everything(&disk);
    disk.snapshot();
    disk.assert_unmounted();
    assert_eq!(disk.state(), "valid");
    disk.dualroot(&["verify"]).exits(0).prints("equal to its manifest");
    assert_sound(&disk.node(2));
    let copy = disk.mount_copy();
    assert_equal(&disk.root(), copy.path());
    assert_manifest(copy.path());
    let fstab = fs::read_to_string(copy.path().join("etc/fstab")).unwrap();
    assert!(fstab.contains(&format!("{} / ufs", disk.node(2))), "{fstab}");
}

fn mbr_soft_updates() {
    everything(Layout::default());
}

fn mbr_without_soft_updates() {
    everything(Layout { newfs: vec![], ..Layout::default() });
}

fn mbr_journaled() {
    everything(Layout { newfs: vec!["-j"], ..Layout::default() });
}

fn mbr_sectors_of_4096() {
    everything(Layout { sector: 4096, ..Layout::default() });
}

fn gpt_soft_updates() {
    everything(Layout::gpt());
}

fn gpt_without_soft_updates() {
    everything(Layout { newfs: vec![], ..Layout::gpt() });
}

fn gpt_journaled() {
    everything(Layout { newfs: vec!["-j"], ..Layout::gpt() });
}

fn gpt_sectors_of_4096() {
    everything(Layout { sector: 4096, newfs: vec!["-j"], ..Layout::gpt() });
}

fn acls(words: &str, tunefs: &'static str) {
    let disk = Disk::new(Layout { tunefs: vec![tunefs, "enable"], ..Layout::default() });
    disk.fill();
    fs::create_dir_all(disk.root().join("acl/dir/below")).unwrap();
    disk.write("acl/file", "acl");
    sh(&disk.root(), words);
    disk.snapshot();
    let copy = disk.mount_copy();
    assert_equal(&disk.root(), copy.path());
    let text = tool("getfacl", &[&copy.path().join("acl/file")]);
    assert!(text.contains("1000"), "{text}");
    disk.dualroot(&["verify"]).exits(0);
}

fn posix_acls() {
    acls(
        "cd acl; setfacl -m u:1000:rwx,g:2000:r,m::rx file; setfacl -m u:1001:rx dir
        setfacl -d -m u::rwx,u:1002:rwx,g::rx,m::rwx,o::- dir; echo inherits >dir/made-below",
        "-a",
    );
}

fn nfs4_acls() {
    acls(
        "cd acl; setfacl -a 0 u:1000:rwxpDdaARWcCos::allow file
        setfacl -a 0 g:2000:w::deny dir; setfacl -a 0 u:1001:rwx:fd:allow dir
        echo inherits >dir/made-below",
        "-N",
    );
}

fn file_system_switches_are_kept() {
    for (newfs, tunefs) in [
        (vec!["-U", "-L", "vmswitch1"], vec!["-a", "enable"]),
        (vec!["-j", "-t"], vec!["-N", "enable"]),
        (vec![], vec![]),
        (vec!["-U", "-l"], vec![]),
    ] {
        let disk = Disk::new(Layout { newfs, tunefs, ..Layout::default() });
        disk.fill();
        disk.snapshot();
        // tunefs -p: what it says of sizes and of space is the format's business.
        let switches = |node: &str| {
            let text = Run::of(program("tunefs").args(["-p", node])).exits(0).stderr;
            let kept = ["-a)", "-N)", "-l)", "-n)", "-j)", "-t)", "-J)"];
            let lines = text.lines().filter(|l| kept.iter().any(|k| l.contains(k)));
            lines.map(str::to_owned).collect::<Vec<_>>()
        };
        assert!(switches(&disk.node(1)).len() >= 6);
        assert_eq!(switches(&disk.node(1)), switches(&disk.node(2)));
        assert_sound(&disk.node(2));
    }
}

/// Not a byte of a read-only root changes, and it is read where it is.
fn a_read_only_root_is_copied_as_it_lies() {
    let disk = Disk::new(Layout::default());
    make_everything(&disk);
    tool("mount", &[&"-u", &"-o", &"ro", &disk.root()]);
    let before = disk.hash(&disk.part(1));
    let report = disk.dualroot(&["snapshot", "--json"]).exits(0).json();
    assert_eq!(report["pairs"][0]["verified"], json!(true), "{report}");
    assert_eq!(disk.hash(&disk.part(1)), before, "the running root was written");
    assert_equal(&disk.root(), disk.mount_copy().path());
    // Without a directory to mount the copy on there is nothing that can be done.
    let bare = Disk::new(Layout::default());
    bare.fill();
    fs::remove_dir(bare.altroot()).unwrap();
    tool("mount", &[&"-u", &"-o", &"ro", &bare.root()]);
    bare.dualroot(&["snapshot"]).fails(6, "/altroot is missing");
}

/// The names of the running root: the copy's fstab names the copy in the same way.
fn every_name_of_the_root() {
    for scheme in [Scheme::Mbr, Scheme::Gpt] {
        let newfs = vec!["-U", "-L", "vmname1"];
        let disk = Disk::new(Layout { scheme, newfs, ..Layout::default() });
        disk.fill();
        let label = |name: &str| format!("/dev/gpt/{}-{name}", disk.name());
        let mut names = vec![
            (disk.node(1), disk.node(2)),
            ("/dev/ufs/vmname1".to_owned(), "/dev/ufs/vmname2".to_owned()),
        ];
        if scheme == Scheme::Gpt {
            names.push((label("rootA"), label("rootB")));
        }
        for (own, other) in names {
            disk.write_fstab(&own);
            for words in [&[][..], &["-o", "ro"]] {
                println!("{scheme:?}, {own} {words:?}");
                tool("umount", &[&disk.root()]);
                wait_until("the slot is there", || Path::new(&disk.node(1)).exists());
                disk.taste(1);
                wait_until(&format!("{own} is there"), || Path::new(&own).exists());
                std::mem::forget(Mounted::new(words, &own, &disk.root()));
                disk.snapshot();
                disk.assert_unmounted();
                wait_until(&format!("{other} is there"), || Path::new(&other).exists());
                let copy = Mounted::new(&["-o", "ro"], &other, &disk.side("copy"));
                let fstab = fs::read_to_string(copy.path().join("etc/fstab")).unwrap();
                assert!(fstab.contains(&format!("\n{other} / ufs rw")), "{own}: {fstab}");
                assert_equal(&disk.root(), copy.path());
            }
            tool("mount", &[&"-u", &"-o", &"rw", &disk.root()]);
        }
    }
}

/// Slot 2 runs and is copied back over slot 1.
fn the_copy_becomes_the_source() {
    let disk = Disk::new(Layout::with_config());
    make_everything(&disk);
    disk.snapshot();
    tool("umount", &[&disk.root().join("config")]);
    tool("umount", &[&disk.root()]);
    tool("gpart", &[&"set", &"-a", &"active", &"-i", &"2", &disk.name()]);
    tool("mount", &[&disk.node(2), &disk.root()]);
    tool("mount", &[&disk.config(2), &disk.root().join("config")]);
    let (one, two) = (disk.slot(1), disk.slot(2));
    assert_eq!((&two["role"], &two["booted"]), (&json!("primary"), &json!(true)));
    assert_eq!((&one["role"], &one["booted"]), (&json!("backup"), &json!(false)));
    assert_eq!(two["state"], "valid", "its record is still there");
    disk.write("etc/made-on-slot-2", "new\n");
    disk.snapshot();
    assert_eq!(disk.slot(1)["state"], "valid");
    let back = Mounted::new(&["-o", "ro"], &disk.node(1), &disk.side("back"));
    // A mount hides the directory that was copied.
    tool("umount", &[&disk.root().join("config")]);
    assert_equal(&disk.root(), back.path());
    let fstab = fs::read_to_string(back.path().join("etc/fstab")).unwrap();
    assert!(fstab.contains(&format!("{} / ufs", disk.node(1))), "{fstab}");
    assert!(fstab.contains(&format!("{} /config ufs", disk.config(1))), "{fstab}");
    // What is mounted as slot 2 here is the running root, not a mount that was left.
    drop(back);
    tool("umount", &[&disk.root()]);
}

fn a_second_snapshot_replaces_the_first() {
    let disk = Disk::new(Layout::with_config());
    disk.fill();
    disk.snapshot();
    disk.write("etc/new", "new\n");
    fs::remove_file(disk.root().join("usr/share/doc/7.txt")).unwrap();
    disk.write("config/juniper.conf", "changed\n");
    disk.snapshot();
    let config = Mounted::new(&["-o", "ro"], &disk.config(2), &disk.side("config"));
    assert_equal(&disk.root().join("config"), config.path());
    // A mount hides the directory that was copied.
    tool("umount", &[&disk.root().join("config")]);
    let copy = disk.mount_copy();
    assert_equal(&disk.root(), copy.path());
}

/// A byte of a file changes on the medium: `fsck_ffs`(8) sees nothing, the manifest does.
fn a_lost_byte_is_found() {
    let disk = Disk::new(Layout::default());
    disk.fill();
    let marker = b"this very line will lose a byte on the medium";
    disk.write("etc/victim", marker);
    disk.snapshot();
    crate::faults::flip(&disk.node(2), marker);
    assert_sound(&disk.node(2));
    let run = disk.dualroot(&["verify", "--json"]).exits(5);
    assert_eq!(run.json()["differences"][0]["path"], "/etc/victim", "{run}");
    assert_eq!(run.json()["differences"][0]["offset"], 0, "{run}");
    disk.snapshot();
    disk.dualroot(&["verify"]).exits(0);
}

/// Who has only the base system can check a copy by hand.
fn the_manifest_finds_what_mtree_finds() {
    let disk = Disk::new(Layout::default());
    make_everything(&disk);
    disk.snapshot();
    let copy = Mounted::new(&[], &disk.node(2), &disk.side("copy"));
    assert_manifest(copy.path());
    sh(
        copy.path(),
        "chmod 600 etc/os-release; echo more >>usr/share/doc/3.txt; rm usr/share/doc/4.txt; : >extra",
    );
    let manifest = copy.path().join(".dualroot/manifest.mtree");
    let run = Run::of(program("mtree").arg("-f").arg(manifest).arg("-p").arg(copy.path())).exits(2);
    let run = run.prints("permissions").prints("size").prints("usr/share/doc/4.txt");
    run.prints("extra");
    drop(copy);
    disk.dualroot(&["verify"]).exits(5).prints("extra").prints("3.txt").prints("4.txt");
}

fn the_demo() {
    let script = Path::new("scripts/demo.sh");
    if !script.exists() {
        crate::harness::skip("scripts/demo.sh is not here");
    }
    let program_path = crate::disk::dualroot().get_program().to_owned();
    let run = Run::of(program("/bin/sh").arg(script).env("DUALROOT", program_path));
    run.exits(0).prints("read back and equal").prints("etc/demo");
}
