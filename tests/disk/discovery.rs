//! Which slot is the other one: by the configuration file, by fstab, by the partition table; and
//! what is refused, with not a byte changed.

use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};

use nix::mount::{MsFlags, mount};

use crate::harness::{
    Disk, Layout, Run, Scheme, program, ready, temp_dir, tool, try_tool, unmount,
};

/// The device of the slot that does not run, as `show` tells it.
#[track_caller]
fn alternate(disk: &Disk, args: &[&str]) -> String {
    let args = [args, &["show", "--json"]].concat();
    let report = disk.dualroot(&args).exits(0).json();
    let slots = report["slots"].as_array().unwrap();
    assert_eq!(slots.len(), 2, "{report}");
    let running = slots.iter().find(|s| s["booted"] == true).unwrap();
    assert_eq!(running["device"], disk.node(1), "{report}");
    let other = slots.iter().find(|s| s["booted"] == false).unwrap();
    other["device"].as_str().unwrap().to_owned()
}

/// Three slices of which the third is no `/config` but a candidate.
fn three(layout: Layout) -> Disk {
    let disk = Disk::new(Layout { sizes_mb: vec![16, 16, 16], ..layout });
    unmount(&disk.root().join("config"));
    disk.write("etc/os-release", "NAME=Example\n");
    disk
}

/// Refused with this exit code and these words, and no byte of slice 2 changed.
#[track_caller]
fn refuses(disk: &Disk, args: &[&str], code: i32, words: &str) -> Run {
    let before = disk.hash_device(2);
    let run = disk.dualroot(args).fails(code, words);
    assert!(disk.hash_device(2) == before, "the slot was written: {run}");
    disk.assert_unmounted();
    run
}

// ---- the configuration file -----------------------------------------------------------------

fn config(disk: &Disk, a: usize, b: usize) -> String {
    format!("product = \"EX\"\n[root]\nslots = [\"{}\", \"{}\"]\n", disk.node(a), disk.node(b))
}

#[test]
fn the_configuration_names_both_slots_in_any_order() {
    if !ready(&[]) {
        return;
    }
    let disk = three(Layout::default());
    assert_eq!(alternate(&disk, &[]), disk.node(2), "the sibling");
    for (a, b) in [(1, 3), (3, 1)] {
        disk.write("etc/dualroot.conf", config(&disk, a, b));
        assert_eq!(alternate(&disk, &[]), disk.node(3));
        let before = disk.hash_device(2);
        disk.dualroot(&["snapshot"]).exits(0).prints(&disk.node(3));
        assert!(disk.hash_device(2) == before, "the wrong slice was written");
        let run = disk.dualroot(&["show"]).exits(0);
        assert!(run.stdout.contains("State: valid"), "{run}");
    }
}

#[test]
fn a_configuration_given_by_name_is_the_one_that_counts() {
    if !ready(&[]) {
        return;
    }
    let disk = three(Layout::default());
    disk.write("etc/dualroot.conf", "this is not read = [");
    let file = disk.tmp().join("other.conf");
    fs::write(&file, config(&disk, 1, 3)).unwrap();
    assert_eq!(alternate(&disk, &["-c", file.to_str().unwrap()]), disk.node(3));
    // Relative to the working directory, not to the root.
    let mut command = disk.command(&["-c", "other.conf", "show"]);
    Run::of(command.current_dir(disk.tmp())).exits(0).prints(&disk.node(3));
}

#[test]
fn a_configuration_that_makes_no_sense() {
    if !ready(&[]) {
        return;
    }
    let disk = three(Layout::default());
    let cases: [(&[u8], usize); 6] = [
        (b"product = \"x\"\n\nroot = \n", 3),
        (b"[root]\nslots = [\"/dev/a\"]\n", 2),
        (b"[root]\nslots = [\"/dev/a\", \"/dev/b\", \"/dev/c\"]\n", 2),
        (b"# fine\nslots = [\"/dev/a\", \"/dev/b\"]\n", 2),
        (b"product = \"x\"\n[roots]\n", 2),
        (b"product = \"x\"\n# \xff\n", 2),
    ];
    let other = disk.tmp().join("other.conf");
    for (text, line) in cases {
        let default = disk.write("etc/dualroot.conf", text);
        fs::write(&other, text).unwrap();
        for verb in ["snapshot", "show", "verify", "clean"] {
            let words = format!("{}: line {line}: ", default.display());
            refuses(&disk, &[verb], 2, &words);
            let words = format!("{}: line {line}: ", other.display());
            refuses(&disk, &["-c", other.to_str().unwrap(), verb], 2, &words);
        }
    }
    fs::remove_file(disk.root().join("etc/dualroot.conf")).unwrap();
    let missing = disk.tmp().join("missing.conf");
    refuses(&disk, &["-c", missing.to_str().unwrap(), "snapshot"], 2, missing.to_str().unwrap());
}

#[test]
fn a_configuration_that_names_the_wrong_devices() {
    if !ready(&[]) {
        return;
    }
    let disk = three(Layout::default());
    let slots = |a: &str, b: &str| {
        disk.write("etc/dualroot.conf", format!("[root]\nslots = [\"{a}\", \"{b}\"]\n"));
    };
    slots(&disk.node(1), "/dev/no-such-disk");
    refuses(&disk, &["snapshot"], 6, "/dev/no-such-disk: no such device");
    slots(&disk.node(2), &disk.node(3));
    let run = refuses(&disk, &["snapshot"], 6, &format!("{} is running", disk.node(1)));
    assert!(run.stderr.contains("dualroot.conf"), "{run}");
    slots(&disk.node(1), &disk.node(1));
    refuses(&disk, &["snapshot"], 6, "one device twice");
    slots("/dev/null", &disk.node(1));
    refuses(&disk, &["snapshot"], 6, "/dev/null");
}

/// A root in the place of a config's copy: nothing of /config would be copied, without a word.
#[test]
fn a_configuration_that_names_a_root_for_config() {
    if !ready(&[]) {
        return;
    }
    let disk = Disk::new(Layout::default());
    disk.fill();
    let own = disk.node(3);
    for root in [disk.node(1), disk.node(2)] {
        let text = format!("[config]\nslots = [\"{own}\", \"{root}\"]\n");
        disk.write("etc/dualroot.conf", text);
        refuses(&disk, &["snapshot"], 6, &format!("{root} is named for a copy of /config"));
    }
}

// ---- fstab ----------------------------------------------------------------------------------

/// The second seed: root and configuration on flash, their copies on a hard disk.
#[test]
fn fstab_names_a_second_medium() {
    if !ready(&[]) {
        return;
    }
    let types = [(2, "82")].into(); // no sibling of the root
    let flash = Disk::new(Layout { sizes_mb: vec![16, 4, 8], types, ..Layout::default() });
    let disk = Disk::bare(Layout { sizes_mb: vec![16, 8], ..Layout::default() });
    flash.write("config/juniper.conf", "system { host-name mx; }\n");
    let fstab = format!(
        "{} / ext4 rw 0 1\n{} /config ext4 rw 0 2\n{} /altroot ext4 rw,noauto 0 0\n{} /altconfig ext4 rw,noauto 0 0\n",
        flash.node(1),
        flash.node(3),
        disk.node(1),
        disk.node(2)
    );
    flash.write("etc/fstab", &fstab);
    let run = flash.snapshot();
    assert!(
        run.stdout.starts_with(
            "umount: /altroot: not currently mounted\n\
             Copying / to /altroot.. (this may take a few minutes)\n\
             umount: /altconfig: not currently mounted\n\
             Copying /config to /altconfig.. (this may take a few minutes)\n\
             The following filesystems were archived: / /config\n"
        ),
        "{run}"
    );
    assert_eq!(alternate(&flash, &[]), disk.node(1));
    let run = flash.dualroot(&["show"]).exits(0);
    assert!(run.stdout.contains(&format!("external ({}) (backup)", disk.node(1))), "{run}");
    assert!(run.stdout.contains(&format!("internal ({}) (primary)", flash.node(1))), "{run}");
    assert!(run.stdout.contains("State: valid"), "{run}");
    flash.dualroot(&["verify"]).exits(0);
    assert!(disk.mounts().is_empty());

    let root = disk.mount_slice(1, true);
    // The copy names itself as / and what it was made from as /altroot.
    let swapped = format!(
        "{} / ext4 rw 0 1\n{} /config ext4 rw 0 2\n{} /altroot ext4 rw,noauto 0 0\n{} /altconfig ext4 rw,noauto 0 0\n",
        disk.node(1),
        disk.node(2),
        flash.node(1),
        flash.node(3)
    );
    assert_eq!(fs::read_to_string(root.path().join("etc/fstab")).unwrap(), swapped);
    let configuration = disk.mount_slice(2, true);
    let copy = fs::read_to_string(configuration.path().join("juniper.conf")).unwrap();
    assert_eq!(copy, "system { host-name mx; }\n");
}

#[test]
fn fstab_names_it_by_label_or_identity() {
    if !ready(&["blkid"]) {
        return;
    }
    let label = label("spare");
    let disk = three(Layout { labels: [(3, label)].into(), ..Layout::default() });
    let tag = |name: &str| {
        let run = tool("blkid", &[&"-p", &"-o", &"value", &"-s", &name, &disk.part(3)]);
        String::from_utf8(run).unwrap().trim().to_owned()
    };
    for spec in [
        format!("LABEL={label}"),
        format!("LABEL=\"{label}\""),
        format!("UUID={}", tag("UUID")),
        format!("PARTUUID={}", tag("PART_ENTRY_UUID")),
        disk.node(3),
    ] {
        disk.write("etc/fstab", format!("{spec} /altroot ext4 noauto 0 0\n"));
        assert_eq!(alternate(&disk, &[]), disk.node(3), "{spec}");
    }
}

/// A label that nobody else on this machine has, not even this test in another process.
fn label(name: &str) -> &'static str {
    format!("{name}-{}", std::process::id()).leak()
}

/// The medium of another box is plugged in: what it calls its slices is what we call ours.
#[test]
fn a_label_that_a_clone_bears_too() {
    if !ready(&[]) {
        return;
    }
    let labels = [(1, label("one")), (3, label("three"))];
    // Attached first, so that it is likely to be listed first.
    let clone = three(Layout { labels: labels.into(), ..Layout::default() });
    let disk = three(Layout { labels: labels.into(), ..Layout::default() });
    clone.format(3);
    let [root, alternate] = labels.map(|(_, label)| format!("LABEL={label}"));
    let fstab = format!("{root} / ext4 rw 0 1\n{alternate} /altroot ext4 noauto 0 0\n");
    let untouched = clone.hash_device(3);
    for config in [String::new(), format!("[root]\nslots = [\"{root}\", \"{alternate}\"]\n")] {
        disk.write("etc/fstab", if config.is_empty() { &fstab } else { "" });
        disk.write("etc/dualroot.conf", config);
        // Its own slice beside the running root, or none at all.
        let run = disk.dualroot(&["snapshot"]);
        assert!(clone.hash_device(3) == untouched, "THE WRONG MEDIUM WAS WRITTEN: {run}");
        if run.code != 6 {
            run.exits(0).prints(&disk.node(3));
        }
    }

    // In the copy it is still the running root that is called something else.
    fs::remove_file(disk.root().join("etc/dualroot.conf")).unwrap();
    disk.write("etc/fstab", format!("{root} / ext4 rw 0 1\n"));
    disk.snapshot();
    let copy = disk.mount_alternate(true);
    let fstab = fs::read_to_string(copy.path().join("etc/fstab")).unwrap();
    assert!(!fstab.contains(&format!("{root} ")), "the copy mounts its source as /: {fstab}");
}

/// Two other media bear it: nobody can tell which one is meant.
#[test]
fn a_label_that_two_other_media_bear() {
    if !ready(&[]) {
        return;
    }
    let label = label("twice");
    let one = || Layout { sizes_mb: vec![4], labels: [(1, label)].into(), ..Layout::default() };
    let others = [Disk::bare(one()), Disk::bare(one())];
    for other in &others {
        other.format(1);
    }
    let disk = three(Layout::default());
    let spec = format!("LABEL={label}");
    let before = [0, 1].map(|n| others[n].hash_device(1));
    let refused = || {
        for verb in ["snapshot", "show", "verify", "clean"] {
            let run = refuses(&disk, &[verb], 6, &spec);
            for other in &others {
                assert!(run.stderr.contains(&other.node(1)), "{run}");
            }
        }
    };
    disk.write("etc/fstab", format!("{spec} /altroot ext4 noauto 0 0\n"));
    refused();
    fs::remove_file(disk.root().join("etc/fstab")).unwrap();
    let slots = format!("[root]\nslots = [\"{}\", \"{spec}\"]\n", disk.node(1));
    disk.write("etc/dualroot.conf", slots);
    refused();
    assert!([0, 1].map(|n| others[n].hash_device(1)) == before, "a medium was written");
}

#[test]
fn fstab_names_a_device_that_is_not_there() {
    if !ready(&[]) {
        return;
    }
    let disk = three(Layout::default());
    for spec in ["/dev/ad1s1a", "LABEL=nobody-has-this", "/dev/disk/by-label/nobody"] {
        disk.write("etc/fstab", format!("{spec} /altroot ext4 noauto 0 0\n"));
        for verb in ["snapshot", "show", "verify", "clean"] {
            let run = refuses(&disk, &[verb], 6, &format!("{spec}: no such device"));
            assert!(run.stderr.contains("/altroot") && run.stderr.contains("\nhint: "), "{run}");
        }
    }
}

#[test]
fn fstab_makes_no_sense() {
    if !ready(&[]) {
        return;
    }
    let disk = three(Layout::default());
    let path = disk.write("etc/fstab", "# Device\n/dev/da0s1a /\n");
    for verb in ["snapshot", "show", "verify", "clean"] {
        refuses(&disk, &[verb], 6, &format!("{}: line 2: ", path.display()));
    }
}

/// A medium without a partition table, as a memory stick may be.
#[test]
fn fstab_names_a_whole_medium() {
    if !ready(&[]) {
        return;
    }
    let disk = three(Layout::default());
    let stick = Window::over(&disk.tmp().join("stick"), 0, Some(16 << 20));
    disk.write("etc/fstab", format!("{} /altroot ext4 noauto 0 0\n", stick.node()));
    let run = disk.dualroot(&["snapshot"]);
    if run.code == 6 {
        return; // refused before writing is an answer, too
    }
    let run = run.exits(0);
    let shown = disk.dualroot(&["show"]).exits(0);
    assert!(shown.stdout.contains("State: valid"), "{run}\n{shown}");
    disk.dualroot(&["verify"]).exits(0);
    disk.dualroot(&["snapshot"]).exits(0);
}

// ---- partition tables -----------------------------------------------------------------------

#[test]
fn mbr_siblings() {
    if !ready(&[]) {
        return;
    }
    let disk = three(Layout::default());
    assert_eq!(alternate(&disk, &[]), disk.node(2));
}

#[test]
fn gpt_by_label() {
    if !ready(&[]) {
        return;
    }
    for [running, other, twin] in
        [["rootB", "data", "rootA"], ["root", "root-data", "altroot"], ["sys_2", "sys_3", "sys_1"]]
    {
        let part_labels = [(1, running), (2, other), (3, twin)].into();
        let disk = three(Layout { scheme: Scheme::Gpt, part_labels, ..Layout::default() });
        assert_eq!(alternate(&disk, &[]), disk.node(3), "{running} {other} {twin}");
    }
}

#[test]
fn gpt_by_order_among_those_of_its_type() {
    if !ready(&[]) {
        return;
    }
    let gpt = || Layout { scheme: Scheme::Gpt, ..Layout::default() };
    let disk = three(gpt());
    assert_eq!(alternate(&disk, &[]), disk.node(2));
    let disk = three(Layout { types: [(2, "swap")].into(), ..gpt() });
    assert_eq!(alternate(&disk, &[]), disk.node(3));
}

#[test]
fn another_type_is_no_sibling() {
    if !ready(&[]) {
        return;
    }
    for scheme in [Scheme::Dos, Scheme::Gpt] {
        let types = [(2, "swap")].into();
        let disk = Disk::new(Layout { scheme, types, ..Layout::roots(16, 16) });
        let run = refuses(&disk, &["snapshot"], 6, "no alternate slot");
        assert!(run.stderr.contains("no second slice of type"), "{run}");
    }
}

/// The error tells everything that was looked at, and what to do.
#[test]
fn no_alternate_slice() {
    if !ready(&[]) {
        return;
    }
    let disk = Disk::new(Layout { sizes_mb: vec![16], ..Layout::default() });
    for verb in ["snapshot", "show", "verify", "clean"] {
        let run = disk.dualroot(&[verb]).fails(6, "no alternate slot for ");
        let medium = disk.medium().display().to_string();
        let config = disk.root().join("etc/dualroot.conf").display().to_string();
        for word in [
            disk.node(1).as_str(),
            "looked at: ",
            &format!("{config}: no slots in [root]"),
            "fstab: no entry for /altroot",
            &format!("{medium} (MBR): no second slice of type"),
            &format!("\nhint: name both roots in {config}"),
        ] {
            assert!(run.stderr.contains(word), "not {word:?}: {run}");
        }
    }
    let error = disk.dualroot(&["--json", "snapshot"]).exits(6).json()["error"].clone();
    assert_eq!(error["code"], "refused");
    assert!(error["hint"].as_str().unwrap().contains("dualroot.conf"), "{error}");
}

#[test]
fn a_sibling_with_another_use() {
    if !ready(&[]) {
        return;
    }
    let disk = Disk::new(Layout::roots(16, 16));
    disk.write("etc/fstab", format!("{} /data ext4 rw 0 2\n", disk.node(2)));
    refuses(&disk, &["snapshot"], 6, &format!("{}: fstab uses it for /data", disk.node(2)));
}

#[test]
fn a_root_without_a_partition() {
    if !ready(&[]) {
        return;
    }
    let disk = Disk::new(Layout::roots(16, 16));
    let dir = temp_dir();
    let snapshot = |words: &str| {
        let mut command = program(env!("CARGO_BIN_EXE_dualroot"));
        Run::of(command.arg("-r").arg(dir.path()).arg("snapshot")).fails(6, words)
    };
    mount(Some("tmpfs"), dir.path(), Some("tmpfs"), MsFlags::empty(), None::<&str>).unwrap();
    let run = snapshot("no alternate slot");
    assert!(run.stderr.contains("tmpfs"), "{run}");
    unmount(dir.path());

    let whole = Window::over(&disk.tmp().join("whole"), 0, Some(16 << 20));
    tool("mkfs.ext4", &[&"-q", &whole.node()]);
    disk.mount(Path::new(whole.node()), dir.path(), false);
    let run = snapshot("no alternate slot");
    unmount(dir.path());
    assert!(run.stderr.contains(whole.node()), "{run}");
}

// ---- the running root under another name ----------------------------------------------------

/// A further loop device, gone when it is dropped.
struct Window(String);

impl Window {
    /// Over a file from an offset on. With a size the file is made.
    fn over(file: &Path, offset: u64, size: Option<u64>) -> Self {
        if let Some(size) = size {
            fs::File::create(file).unwrap().set_len(size).unwrap();
        }
        let offset = offset.to_string();
        for _ in 0..100 {
            // Somebody else may take the free one first.
            let run = try_tool("losetup", &[&"-f", &"--show", &"-o", &offset, &file]);
            if run.code == 0 {
                return Self(run.stdout.trim_end().to_owned());
            }
        }
        panic!("no loop device");
    }

    fn node(&self) -> &str {
        &self.0
    }
}

impl Drop for Window {
    fn drop(&mut self) {
        try_tool("losetup", &[&"-d", &self.0]);
    }
}

/// A root without a sibling, read-only so that nobody else changes its bytes.
fn single() -> Disk {
    let disk = Disk::new(Layout { sizes_mb: vec![16, 4], ..Layout::default() });
    disk.fill();
    disk
}

/// Whatever names the running root is refused, in the configuration and in fstab, and no byte of
/// it changes.
fn is_the_running_root(disk: &Disk, name: &str) {
    let root = MsFlags::MS_REMOUNT;
    // A program that another test has just started may hold our file open until it is executed.
    let remount = |flags| {
        crate::harness::wait_until("it can be remounted", || {
            mount(None::<&str>, disk.root(), None::<&str>, root | flags, None::<&str>).is_ok()
        });
    };
    let refused = |way: &str| {
        remount(MsFlags::MS_RDONLY);
        let before = disk.hash_device(1);
        for args in [&["snapshot"][..], &["snapshot", "--force"], &["snapshot", "-n"]] {
            let run = disk.dualroot(args);
            assert!(disk.hash_device(1) == before, "THE RUNNING ROOT WAS WRITTEN: {run}");
            assert!(run.code == 6, "{name} in {way} is not refused: {run}");
        }
        remount(MsFlags::empty());
    };
    disk.write(
        "etc/dualroot.conf",
        format!("[root]\nslots = [\"{}\", \"{name}\"]\n", disk.node(1)),
    );
    disk.write("etc/fstab", format!("{} / ext4 rw 0 1\n", disk.node(1)));
    refused("the configuration");
    fs::remove_file(disk.root().join("etc/dualroot.conf")).unwrap();
    disk.write(
        "etc/fstab",
        format!("{} / ext4 rw 0 1\n{name} /altroot ext4 rw 0 0\n", disk.node(1)),
    );
    // The sibling is no way out.
    tool(
        "sfdisk",
        &[&"-q", &"--no-reread", &"--no-tell-kernel", &"--part-type", &disk.medium(), &"2", &"82"],
    );
    refused("fstab");
}

#[test]
fn a_symlink_to_the_running_root() {
    if !ready(&[]) {
        return;
    }
    let disk = single();
    let by_label = disk.tmp().join("by-label");
    fs::create_dir(&by_label).unwrap();
    symlink(disk.part(1), by_label.join("backup")).unwrap();
    symlink("backup", by_label.join("again")).unwrap();
    is_the_running_root(&disk, by_label.join("again").to_str().unwrap());
}

#[test]
fn a_second_node_of_the_running_root() {
    use nix::sys::stat::{Mode, SFlag, mknod, stat};
    if !ready(&[]) {
        return;
    }
    let disk = single();
    let dir = tempfile::tempdir().unwrap(); // where nodes live
    let node = dir.path().join("backup");
    let number = stat(&disk.part(1)).unwrap().st_rdev;
    mknod(&node, SFlag::S_IFBLK, Mode::S_IRUSR | Mode::S_IWUSR, number).unwrap();
    is_the_running_root(&disk, node.to_str().unwrap());
}

#[test]
fn a_second_loop_device_over_the_running_root() {
    if !ready(&[]) {
        return;
    }
    let disk = single();
    let window = Window::over(&disk.image(), disk.extent(1).0, None);
    is_the_running_root(&disk, window.node());
}

/// It begins before the first byte of the medium's first slice and ends behind it.
#[test]
fn a_second_loop_device_over_the_whole_image() {
    if !ready(&[]) {
        return;
    }
    let disk = single();
    let window = Window::over(&disk.image(), 0, None);
    is_the_running_root(&disk, window.node());
}

/// The same file by another name.
#[test]
fn a_loop_device_over_a_hard_link_of_the_image() {
    if !ready(&[]) {
        return;
    }
    let disk = single();
    let link = disk.tmp().join("link");
    fs::hard_link(disk.image(), &link).unwrap();
    let window = Window::over(&link, disk.extent(1).0, None);
    fs::remove_file(link).unwrap();
    is_the_running_root(&disk, window.node());
}

#[test]
fn a_loop_device_over_the_node_of_the_running_root() {
    if !ready(&[]) {
        return;
    }
    let disk = single();
    let window = Window::over(&disk.part(1), 0, None);
    is_the_running_root(&disk, window.node());
}

#[test]
fn the_medium_of_the_running_root() {
    if !ready(&[]) {
        return;
    }
    let disk = single();
    is_the_running_root(&disk, disk.medium().to_str().unwrap());
}

#[test]
fn the_label_of_the_running_root() {
    if !ready(&[]) {
        return;
    }
    let label = label("root");
    let labels = [(1, label)].into();
    let disk = Disk::new(Layout { sizes_mb: vec![16, 4], labels, ..Layout::default() });
    disk.fill();
    is_the_running_root(&disk, &format!("LABEL={label}"));
}

/// A window on a part of the target that is mounted elsewhere.
#[test]
fn a_mounted_window_on_the_target() {
    if !ready(&[]) {
        return;
    }
    let disk = Disk::new(Layout::roots(16, 16));
    disk.fill();
    disk.snapshot();
    let window = Window::over(&disk.image(), disk.extent(2).0, None);
    let dir = temp_dir();
    disk.mount(Path::new(window.node()), dir.path(), true);
    refuses(&disk, &["snapshot"], 6, &disk.node(2));
    refuses(&disk, &["snapshot", "--force"], 6, &disk.node(2));
    unmount(dir.path());
}

// ---- other uses of the target ---------------------------------------------------------------

struct Swap(PathBuf);

impl Drop for Swap {
    fn drop(&mut self) {
        try_tool("swapoff", &[&self.0]);
    }
}

#[test]
fn the_target_is_swap() {
    if !ready(&["mkswap", "swapon"]) {
        return;
    }
    let disk = Disk::new(Layout::roots(16, 16));
    tool("mkswap", &[&disk.part(2)]);
    // The lowest priority: it is not meant to be used.
    tool("swapon", &[&"-p", &"0", &disk.part(2)]);
    let _swap = Swap(disk.part(2));
    for args in [&["snapshot"][..], &["snapshot", "--force"]] {
        let run = refuses(&disk, args, 6, &disk.node(2));
        assert!(run.stderr.contains("swap"), "{run}");
    }
}

/// Something else has the partition open for itself, as mdadm or LVM would.
#[test]
fn the_target_carries_a_loop_device() {
    if !ready(&[]) {
        return;
    }
    let disk = Disk::new(Layout::roots(16, 16));
    let window = Window::over(&disk.part(2), 0, None);
    refuses(&disk, &["snapshot"], 6, window.node());
}

#[test]
fn not_root() {
    if !ready(&["setpriv"]) {
        return;
    }
    let disk = Disk::new(Layout::roots(16, 16));
    disk.fill();
    // The build directory may be closed to others.
    let dir = tempfile::tempdir().unwrap();
    fs::set_permissions(dir.path(), PermissionsExt::from_mode(0o755)).unwrap();
    fs::set_permissions(disk.tmp(), PermissionsExt::from_mode(0o755)).unwrap();
    let copy = dir.path().join("dualroot");
    // By a process of its own: what another test starts meanwhile would keep it open for writing.
    tool("cp", &[&env!("CARGO_BIN_EXE_dualroot"), &copy]);
    let before = disk.hash_device(2);
    for verb in ["snapshot", "show", "verify", "clean"] {
        let mut command = program("setpriv");
        command.args(["--reuid", "65534", "--regid", "65534", "--clear-groups"]);
        let run = Run::of(command.arg(&copy).arg("-r").arg(disk.root()).arg(verb));
        run.fails(6, "needs root").says("\nhint: ");
    }
    assert!(disk.hash_device(2) == before);
}

// ---- -r -------------------------------------------------------------------------------------

#[test]
fn a_root_that_is_no_mount_point() {
    if !ready(&[]) {
        return;
    }
    let dir = temp_dir();
    for verb in ["snapshot", "show", "verify", "clean"] {
        let mut command = program(env!("CARGO_BIN_EXE_dualroot"));
        let run = Run::of(command.arg("-r").arg(dir.path()).arg(verb));
        let run = run.fails(6, &format!("{}: nothing is mounted there", dir.path().display()));
        assert!(run.stderr.contains("\nhint: "), "{run}");
    }
}

#[test]
fn a_root_by_another_path() {
    if !ready(&[]) {
        return;
    }
    let disk = Disk::new(Layout::roots(16, 16));
    disk.fill();
    symlink("root", disk.tmp().join("link")).unwrap();
    let run = |dir: &Path, root: &str, verb: &str| {
        let mut command = program(env!("CARGO_BIN_EXE_dualroot"));
        Run::of(command.args(["-r", root, verb]).current_dir(dir)).exits(0)
    };
    for root in ["root", "./root/", "root/../root", "link", "link/."] {
        run(disk.tmp(), root, "snapshot");
        let shown = run(disk.tmp(), root, "show");
        assert!(shown.stdout.contains("State: valid"), "{root}: {shown}");
    }
    // From inside the running root itself.
    run(disk.root(), ".", "snapshot");
    run(&disk.root().join("etc"), "..", "verify");
    disk.assert_unmounted();
}

// ---- media that come and go meanwhile -------------------------------------------------------

/// A medium that is listed before `disk`, so that all numbers of devices move when it goes.
fn listed_before(disk: &Disk) -> Option<Window> {
    let mut others = Vec::new();
    for n in 0..16 {
        let window = Window::over(&disk.tmp().join(format!("other{n}")), 0, Some(1 << 20));
        if Path::new(window.node()).file_name().unwrap().to_str().unwrap() < disk.name() {
            return Some(window);
        }
        others.push(window);
    }
    None
}

/// Everything that is known was seen before the lock was taken, and again after it.
#[test]
fn another_medium_goes_while_the_lock_is_taken() {
    if !ready(&["cc"]) {
        return;
    }
    let first = temp_dir();
    // Taken first, so that it gets a low number; the disk's is then behind it.
    let early = Window::over(&first.path().join("early"), 0, Some(1 << 20));
    let disk = Disk::new(Layout::roots(16, 16));
    disk.fill();
    disk.snapshot();
    let name = |node: &str| node.rsplit('/').next().unwrap().to_owned();
    let mut other = Some(early).filter(|w| name(w.node()).as_str() < disk.name());
    for verb in ["verify", "clean", "snapshot", "show"] {
        let Some(medium) = other.take().or_else(|| listed_before(&disk)) else {
            println!("no loop device is free that is listed before {}", disk.name());
            return;
        };
        let halted = disk.halt(&[verb], ("flock", &format!("{}.lock", disk.name()), 0));
        drop(medium);
        halted.go().wait_soon().exits(0);
        assert_eq!(disk.state(), "valid", "{verb}");
    }
}

#[test]
fn another_medium_comes_and_goes_while_the_copy_is_made() {
    if !ready(&["cc"]) {
        return;
    }
    let disk = Disk::new(Layout::roots(16, 16));
    disk.fill();
    for place in [("spawn", ".rehearsal", 0), ("create", "20.txt", 0), ("mount-ro", "/altroot", 0)]
    {
        let halted = disk.halt(&["snapshot", "--fresh"], place);
        let medium = listed_before(&disk);
        let second = disk.halt(&["show"], ("flock", ".lock", 0));
        drop(medium);
        halted.go().wait_soon().exits(0);
        second.go().wait_soon().exits(0);
        assert_eq!(disk.state(), "valid");
    }
}
