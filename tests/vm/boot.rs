//! A machine that was snapshotted boots from the copy.
//!
//! `vm/run.sh` boots the guest with two empty disks, on which `made_…` installs an appliance from
//! the guest's own files; then it boots each of them alone, and each boot runs the next test there.

use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};

use serde_json::{Value, json};

use crate::disk::{Mounted, dualroot, mounts};
use crate::harness::{BASE, Run, Test, note, program, skip, tests, tool, try_tool};

pub const TESTS: &[Test] = tests![
    made_mbr,
    made_gpt,
    mbr_first_slot,
    mbr_second_slot,
    mbr_back_again,
    mbr_makes_its_like,
    mbr_makes_another,
    gpt_first_slot,
    gpt_second_slot,
    gpt_back_again,
    mbr_in_its_place,
    gpt_in_its_place,
    other_medium,
    by_uefi_as_well,
];

/// What an appliance has of the base system: without compilers, modules and manuals.
const FILES: &str =
    "bin boot dev etc lib libexec root sbin usr/bin usr/lib usr/libexec usr/sbin var";
const EXCLUDED: [&str; 14] = [
    "boot/kernel/*.ko",
    "boot/kernel.old",
    "boot/efi/*",
    "usr/bin/c++*",
    "usr/bin/cc",
    "usr/bin/clang*",
    "usr/bin/ld*",
    "usr/bin/lld*",
    "usr/bin/llvm*",
    "usr/lib/*.a",
    "usr/lib/clang",
    "usr/lib/debug",
    "root/in",
    "var/db/*pkg*",
];

/// Where a slot's parts are, as the appliance itself calls them.
pub struct Names {
    pub root: [&'static str; 2],
    pub config: [&'static str; 2],
}

/// EX: Junos's names come from the SCSI driver.
const MBR: Names =
    Names { root: ["/dev/da0s1a", "/dev/da0s2a"], config: ["/dev/da0s4d", "/dev/da0s4e"] };
const GPT: Names = Names {
    root: ["/dev/gpt/slotA", "/dev/gpt/slotB"],
    config: ["/dev/gpt/configA", "/dev/gpt/configB"],
};

pub fn gpart(words: &str) {
    Run::of(program("gpart").args(words.split(' '))).exits(0);
}

// ---- making it ------------------------------------------------------------------------------

/// MBR, a BSD label in every slice, `boot` in both roots' slices, `/var` and `/var/tmp` in the
/// third, `/config` and its copy in the fourth.
fn made_mbr() {
    if !Path::new("/dev/da0").exists() {
        skip("no /dev/da0");
    }
    gpart("create -s MBR da0");
    gpart("bootcode -b /boot/mbr da0");
    for (slice, size) in [(1, "320m"), (2, "320m"), (3, "97m"), (4, "33m")] {
        gpart(&format!("add -t freebsd -a 1m -s {size} -i {slice} da0"));
        gpart(&format!("create -s BSD da0s{slice}"));
    }
    for slice in [1, 2] {
        gpart(&format!("bootcode -b /boot/boot da0s{slice}"));
        gpart(&format!("add -t freebsd-ufs -i 1 da0s{slice}"));
    }
    gpart("add -t freebsd-ufs -s 32m -i 4 da0s3");
    gpart("add -t freebsd-ufs -i 5 da0s3");
    gpart("add -t freebsd-ufs -s 16m -i 4 da0s4");
    gpart("add -t freebsd-ufs -s 16m -i 5 da0s4");
    gpart("set -a active -i 1 da0");
    let more = [("/dev/da0s3e", "/var"), ("/dev/da0s3d", "/var/tmp")];
    install("/dev/da0s1a", "/dev/da0s4d", &MBR, &more);
}

/// GPT with gptboot, and with gptboot.efi in an EFI system partition; everything by its label.
fn made_gpt() {
    if !Path::new("/dev/vtbd2").exists() {
        skip("no /dev/vtbd2");
    }
    gpart("create -s GPT vtbd2");
    gpart("add -t freebsd-boot -s 512k -i 1 vtbd2");
    gpart("bootcode -b /boot/pmbr -p /boot/gptboot -i 1 vtbd2");
    for (index, size, label) in
        [(2, "320m", "slotA"), (3, "320m", "slotB"), (4, "16m", "configA"), (5, "16m", "configB")]
    {
        gpart(&format!("add -t freebsd-ufs -a 1m -s {size} -i {index} -l {label} vtbd2"));
    }
    gpart("set -a bootme -i 2 vtbd2");
    gpart("add -t efi -a 1m -s 33m -i 6 vtbd2");
    tool("newfs_msdos", &[&"/dev/vtbd2p6"]);
    let esp = Mounted::new(&["-t", "msdosfs"], "/dev/vtbd2p6", &Path::new(BASE).join("esp"));
    fs::create_dir_all(esp.path().join("EFI/BOOT")).unwrap();
    // Where gptboot.efi(8) is not built, the loader itself does.
    let loaders = ["/boot/gptboot.efi", "/boot/loader.efi"].map(Path::new);
    let loader = loaders.into_iter().find(|path| path.exists());
    fs::copy(loader.unwrap(), esp.path().join("EFI/BOOT/BOOTX64.EFI")).unwrap();
    drop(esp);
    install("/dev/vtbd2p2", "/dev/vtbd2p4", &GPT, &[]);
}

/// Fills slot 1 with what runs here.
pub fn install(root: &str, config: &str, names: &Names, more: &[(&str, &str)]) {
    let mut mounted = Vec::new();
    let point = PathBuf::from(BASE).join("appliance");
    let mut fstab = format!("{} / ufs rw 1 1\n", names.root[0]);
    let parts = [(root, "/"), (config, "/config")];
    for (device, place) in parts.iter().chain(more) {
        tool("newfs", &[&"-U", device]);
        let place = place.trim_start_matches('/');
        mounted.push(Mounted::new(&[], device, &point.join(place)));
    }
    writeln!(fstab, "{} /config ufs rw 2 2", names.config[0]).unwrap();
    for (device, place) in more {
        writeln!(fstab, "{device} {place} ufs rw 2 2").unwrap();
    }
    // Of some releases some of these are not there.
    let there: Vec<_> = FILES.split(' ').filter(|f| Path::new("/").join(f).exists()).collect();
    let mut script = "cd / && tar --one-file-system".to_owned();
    for pattern in EXCLUDED {
        write!(script, " --exclude './{pattern}'").unwrap();
    }
    let optional = ["boot.config", ".profile"].map(|f| Path::new("/").join(f)).map(|p| p.exists());
    write!(script, " -cf - ./{}", there.join(" ./")).unwrap();
    if optional[0] {
        script += " ./boot.config";
    }
    script += " | tar -xpf - -C \"$1\"";
    Run::of(program("/bin/sh").args(["-c", &script, "sh"]).arg(&point)).exits(0);
    for dir in ["dev", "tmp", "mnt", "root/in", "altroot", "altconfig"] {
        fs::create_dir_all(point.join(dir)).unwrap();
    }
    for file in ["dualroot", "vm", "begin.sh"] {
        fs::copy(Path::new("/root/in").join(file), point.join("root/in").join(file)).unwrap();
    }
    fs::write(point.join("etc/fstab"), fstab).unwrap();
    fs::write(point.join("config/juniper.conf"), "system { host-name ex; }\n").unwrap();
    // What an image of the release has set to find and name its own root is not ours.
    let loader = point.join("boot/loader.conf");
    let text = fs::read_to_string(&loader).unwrap_or_default();
    let kept = text.lines().filter(|l| !l.starts_with("vfs.root.mountfrom"));
    let mut text = kept.fold(String::new(), |text, line| text + line + "\n");
    writeln!(text, "autoboot_delay=\"0\"\nvfs.root.mountfrom=\"ufs:{}\"", names.root[0]).unwrap();
    fs::write(&loader, text).unwrap();
    fs::write(point.join("etc/rc.local"), format!("sysctl -n kern.boottime >{BOOTED}\n")).unwrap();
    let rc = point.join("etc/rc.conf");
    let text = fs::read_to_string(&rc).unwrap_or_default();
    let off = "growfs_enable=NO\nsshd_enable=NO\nsendmail_enable=NONE\ndumpdev=NO\n\
               fsck_y_enable=YES\n";
    fs::write(&rc, text + "\n" + off).unwrap();
    while let Some(last) = mounted.pop() {
        drop(last);
    }
}

// ---- what each boot finds and does ----------------------------------------------------------

pub fn on(point: &str) -> String {
    let found = mounts().into_iter().rfind(|m| m.point == Path::new(point));
    found.map(|m| m.source).unwrap_or_default()
}

#[track_caller]
pub fn run(args: &[&str]) -> Run {
    Run::of(dualroot().args(["--progress", "none"]).args(args)).exits(0)
}

/// Both slots, as `show` tells of them.
pub fn slots() -> [Value; 2] {
    let report = run(&["show", "--json"]).json();
    let slots = report["slots"].as_array().unwrap();
    assert_eq!(slots.len(), 2, "{report}");
    [slots[0].clone(), slots[1].clone()]
}

/// The running slot is this one (0 or 1) in every respect: what the loader was told, what is
/// mounted, what fstab says, what `show` says.
#[track_caller]
pub fn runs_from(names: &Names, slot: usize) {
    assert_eq!(on("/"), names.root[slot]);
    assert_eq!(on("/config"), names.config[slot]);
    let told = tool("kenv", &[&"vfs.root.mountfrom"]);
    assert_eq!(told.trim(), format!("ufs:{}", names.root[slot]));
    let fstab = fs::read_to_string("/etc/fstab").unwrap();
    for line in
        [format!("{} / ufs rw", names.root[slot]), format!("{} /config ufs rw", names.config[slot])]
    {
        assert!(fstab.contains(&line), "{fstab}");
    }
    let config = fs::read_to_string("/config/juniper.conf").unwrap();
    assert!(config.contains("host-name ex"), "{config}");
    let both = slots();
    let words = |s: &Value| (s["role"].clone(), s["booted"].clone(), s["active"].clone());
    let (own, other) = (words(&both[slot]), words(&both[1 - slot]));
    assert_eq!(own, (json!("primary"), json!(true), json!(true)), "{both:?}");
    assert_eq!(other, (json!("backup"), json!(false), json!(false)), "{both:?}");
    is_multi_user();
}

/// What the appliance's `rc.local` writes: rc(8) came that far in this boot.
const BOOTED: &str = "/var/run/booted";

/// init(8) starts getty(8) only once rc(8) has come to its end without an error, and what we were
/// started from is the login at its prompt: in single-user mode the shell is init's own child.
fn is_multi_user() {
    let mut chain = Vec::new();
    let mut pid = std::process::id().to_string();
    while pid != "0" {
        let line = tool("ps", &[&"-o", &"ppid=", &"-o", &"comm=", &"-p", &pid]);
        let (parent, name) = line.trim().split_once(char::is_whitespace).unwrap();
        chain.push(name.trim().to_owned());
        parent.clone_into(&mut pid);
    }
    assert!(chain.ends_with(&["login".to_owned(), "init".to_owned()]), "{chain:?}");
    let boot = tool("sysctl", &[&"-n", &"kern.boottime"]);
    assert_eq!(fs::read_to_string(BOOTED).unwrap_or_default(), boot, "rc(8) did not end");
    // And on the way there was nothing to repair: the copy was whole when it was unmounted.
    let said = tool("dmesg", &[]);
    assert!(!said.contains("not properly dismounted"), "{said}");
}

/// The running system copies itself; the copy is sound for the base system's tools as well.
fn snapshot(names: &Names, slot: usize, method: &str) {
    let report = run(&["snapshot", "--method", method, "--json"]).json();
    assert_eq!(report["archived"], json!(["/", "/config"]), "{report}");
    if method != "auto" {
        for pair in report["pairs"].as_array().unwrap() {
            let found = (&pair["method"], &pair["consistency"]);
            assert_eq!(found, (&json!(method), &json!("snapshot")), "{report}");
        }
    }
    let both = slots();
    assert_eq!(both[1 - slot]["state"], "valid", "{both:?}");
    for device in [names.root[1 - slot], names.config[1 - slot]] {
        crate::compare::assert_sound(device);
    }
    let copy = Mounted::new(&["-o", "ro"], names.root[1 - slot], &Path::new(BASE).join("copy"));
    crate::compare::assert_manifest(copy.path());
}

/// What boots next.
fn choose(names: &Names, slot: usize) {
    if names.root == MBR.root {
        gpart(&format!("set -a active -i {} da0", slot + 1));
    } else {
        // gptboot takes the first with `bootme`: both writes must have come through.
        gpart(&format!("set -a bootme -i {} vtbd0", slot + 2));
        gpart(&format!("unset -a bootme -i {} vtbd0", 3 - slot));
    }
    let both = slots();
    assert_eq!(both[slot]["role"], "primary", "{both:?}");
    assert_eq!(both[1 - slot]["booted"], true, "{both:?}");
}

fn first(names: &Names, method: &str) {
    runs_from(names, 0);
    assert_eq!(slots()[1]["state"], "empty");
    snapshot(names, 0, method);
    choose(names, 1);
}

fn second(names: &Names) {
    runs_from(names, 1);
    assert_eq!(slots()[1]["state"], "valid", "it was made by a snapshot");
    fs::write("/etc/made-on-slot-2", "new\n").unwrap();
    fs::write("/config/juniper.conf", "system { host-name ex; } # on slot 2\n").unwrap();
    snapshot(names, 1, "auto");
    choose(names, 0);
}

fn back(names: &Names) {
    runs_from(names, 0);
    assert_eq!(fs::read("/etc/made-on-slot-2").unwrap(), b"new\n");
    assert!(fs::read_to_string("/config/juniper.conf").unwrap().contains("on slot 2"));
    assert_eq!(slots()[0]["state"], "valid", "it was made by a snapshot");
    assert_eq!(slots()[1]["state"], "valid");
}

fn mbr_first_slot() {
    first(&MBR, "tree");
}

fn mbr_second_slot() {
    second(&MBR);
}

fn mbr_back_again() {
    back(&MBR);
}

/// Two disks that can be taken out, to come in the place of this one: both kinds of tables.
fn mbr_makes_its_like() {
    makes_primary("da1", "mbr");
}

fn mbr_makes_another() {
    makes_primary("da2", "gpt");
}

fn makes_primary(medium: &str, scheme: &str) {
    let sizes = ["--root-size", "320", "--config-size", "16", "--swap-size", "0"];
    let words = ["--media", medium, "snapshot", "--as-primary", "--scheme", scheme];
    run(&[&words[..], &sizes].concat())
        .prints(&format!("Partitioning {medium} ...\n"))
        .says("/var/tmp (/dev/da0s3d) has no counterpart there");
    run(&["--media", medium, "verify"]);
}

/// What was the second disk, in the place of the first and alone: nothing has changed.
fn mbr_in_its_place() {
    primary(&MBR);
    assert_eq!(on("/var"), "/dev/da0s3e");
}

/// The same, partitioned otherwise.
fn gpt_in_its_place() {
    const NAMES: Names =
        Names { root: ["/dev/da0p2", "/dev/da0p3"], config: ["/dev/da0p4", "/dev/da0p5"] };
    primary(&NAMES);
    assert_eq!(on("/var"), "/dev/da0p6");
}

fn primary(names: &Names) {
    runs_from(names, 0);
    assert_eq!(fs::read("/etc/made-on-slot-2").unwrap(), b"new\n");
    let fstab = fs::read_to_string("/etc/fstab").unwrap();
    assert!(fstab.contains("\n#/dev/da0s3d /var/tmp ufs"), "{fstab}");
    let both = slots();
    assert_eq!((&both[0]["state"], &both[1]["state"]), (&json!("valid"), &json!("empty")));
    snapshot(names, 0, "auto");
}

/// What boots next is a copy by blocks, of a root that was written to meanwhile.
fn gpt_first_slot() {
    first(&GPT, "block");
}

fn gpt_second_slot() {
    second(&GPT);
}

fn gpt_back_again() {
    back(&GPT);
    // The other disk of this machine becomes an appliance as well.
    let sizes = ["--root-size", "320", "--config-size", "16", "--swap-size", "0"];
    let words = [&["--media", "vtbd1", "snapshot", "--partition"], &sizes[..]].concat();
    run(&words).prints("Partitioning vtbd1 ...\n");
    run(&["--media", "vtbd1", "verify"]);
}

/// The names of what was the second disk, booted without the first.
const OTHER: Names = Names {
    root: ["/dev/gpt/vtbd1-rootA", "/dev/gpt/vtbd1-rootB"],
    config: ["/dev/gpt/vtbd1-configA", "/dev/gpt/vtbd1-configB"],
};

fn other_medium() {
    runs_from(&OTHER, 0);
    assert_eq!(fs::read("/etc/made-on-slot-2").unwrap(), b"new\n");
    let both = slots();
    assert_eq!((&both[0]["state"], &both[1]["state"]), (&json!("valid"), &json!("empty")));
    snapshot(&OTHER, 0, "auto");
}

/// Its EFI system partition came along. A second program lies there, which the firmware could have
/// started: where it tells that it has not, the flags can be relied on.
fn by_uefi_as_well() {
    const OTHER_PROGRAM: &str = "EFI/FREEBSD/LOADER.EFI";
    assert_eq!(tool("sysctl", &[&"-n", &"machdep.bootmethod"]).trim(), "UEFI");
    runs_from(&OTHER, 0);
    if !Path::new("/boot/gptboot.efi").exists() {
        note("no gptboot.efi");
        return;
    }
    let once = || Run::of(dualroot().args(["boot", "2", "--once"]));
    once().exits(0).prints("once; then slot 1");
    run(&["reject"]);
    let shown = tool("gpart", &[&"show", &"-p", &"vtbd0"]);
    let esp = shown.lines().find(|line| line.contains(" efi ")).unwrap();
    let esp = format!("/dev/{}", esp.split_whitespace().nth(2).unwrap());
    let esp = Mounted::new(&["-t", "msdosfs"], &esp, &Path::new(BASE).join("esp"));
    let other = esp.path().join(OTHER_PROGRAM);
    fs::create_dir_all(other.parent().unwrap()).unwrap();
    fs::copy("/boot/loader.efi", &other).unwrap();
    drop(esp);
    let name = "cfee69ad-a0de-47a9-93a8-f63106f8ae99-Boot1Path";
    if try_tool("efivar", &[&"-Nqu", &"-n", &name]).code == 0 {
        once().exits(0).prints("once; then slot 1");
        run(&["reject"]);
    } else {
        once().fails(6, OTHER_PROGRAM);
        note("the kernel has no efirt(9)");
    }
}
