//! A medium that dies at any request of `boot`, `confirm`, `reject`, a snapshot and a repair: something
//! starts, what is said is true, and the next run comes to the end.

use std::cell::Cell;
use std::fs::{self, File};
use std::io::Read;
use std::os::unix::fs::FileExt;
use std::path::Path;

use crate::disk::{Disk, Layout, Scheme, mounts, pattern};
use crate::harness::{Run, Test, need_class, note, program, tests, tool, try_tool, wait_until};

pub const TESTS: &[Test] = tests![
    boot_on_an_mbr,
    boot_on_an_mbr_that_takes_no_writes,
    boot_on_a_gpt,
    boot_on_a_gpt_that_takes_no_writes,
    back_to_the_running_slot,
    a_trial,
    confirm,
    reject,
    copy_without_a_medium,
    copy_without_writes,
    refresh_without_a_medium,
    refresh_without_writes,
    repair_without_a_medium,
    repair_without_writes,
];

/// Where it fails, unless `DUALROOT_VM_EVERY` is set: at so many requests, evenly.
const PLACES: u64 = 24;

/// Which of so many requests fail. `DUALROOT_VM_EVERY` is `K/N`: every Nth from the Kth on, so that N
/// guests, or N evenings, have failed them all.
fn places(requests: u64) -> Vec<u64> {
    let Ok(share) = std::env::var("DUALROOT_VM_EVERY") else {
        let places = PLACES.min(requests);
        return (0..places).map(|n| requests * n / places).collect();
    };
    let share = share.split_once('/').and_then(|(k, n)| Some((k.parse().ok()?, n.parse().ok()?)));
    let Some((first @ 1.., step)) =
        share.filter(|(first, step): &(u64, usize)| *first <= *step as u64)
    else {
        panic!("DUALROOT_VM_EVERY is K/N, 1/1 for every request");
    };
    (first - 1..requests).step_by(step).collect()
}

/// What fails from some request on, in gnop(8)'s words: everything, or what is written.
const DEAD: [&str; 4] = ["-r", "100", "-w", "100"];
const READ_ONLY: [&str; 4] = ["-r", "0", "-w", "100"];

/// A disk behind a gnop(8) whose second slot has a copy; on a GPT with gptboot.
fn disk(scheme: Scheme) -> Disk {
    need_class("gnop");
    only_its_own_labels();
    let disk = Disk::new(Layout { scheme, nop: true, roots_mb: [8, 8], ..Layout::default() });
    disk.write_fstab(&disk.node(1));
    disk.write("boot/kernel/kernel", pattern(200_000, 1));
    for n in 0..5 {
        disk.write(&format!("usr/share/doc/{n}.txt"), pattern(1000 * n + n, n));
    }
    if scheme == Scheme::Gpt {
        let name = disk.name();
        let code: [&dyn AsRef<std::ffi::OsStr>; 8] =
            [&"bootcode", &"-b", &"/boot/pmbr", &"-p", &"/boot/gptboot", &"-i", &"1", &name];
        tool("gpart", &code);
    }
    disk.snapshot();
    disk
}

/// Whoever closes what was open for writing has GEOM look there for labels of all kinds: a third of the
/// requests would be for those of file systems that the disk has none of.
fn only_its_own_labels() {
    for kind in ["iso9660", "msdosfs", "ext2fs", "reiserfs", "ntfs", "disk_ident", "flashmap"] {
        // Some are not in every release.
        try_tool("sysctl", &[&format!("kern.geom.label.{kind}.enable=0")]);
    }
}

/// A verb, and the slot that starts first when it is done.
struct Verb<'a> {
    args: &'a [&'a str],
    starts: u32,
    /// What is done before each run of it.
    before: &'a dyn Fn(&Disk),
    /// What is done after a failure, on a medium that is well.
    finish: &'a dyn Fn(&Disk) -> Run,
}

impl Verb<'_> {
    /// Its requests, reads and writes.
    fn requests(&self, disk: &Disk) -> u64 {
        (self.before)(disk);
        tool("gnop", &[&"reset", &disk.name()]);
        disk.dualroot(self.args).exits(0);
        let text = tool("gnop", &[&"list", &disk.name()]);
        let number = |what: &str| {
            let line = text.lines().find(|line| line.trim().starts_with(what)).unwrap();
            line.split_whitespace().last().unwrap().parse::<u64>().unwrap()
        };
        number("Reads:") + number("Writes:")
    }

    /// At each of these requests the medium fails from there on, and then is well again.
    fn fails_at(&self, disk: &Disk, places: &[u64], words: &[&str]) -> u32 {
        let mut failures = 0;
        for n in places {
            println!("request {n}");
            (self.before)(disk);
            let (flags, content) = (tried(disk), content(disk));
            let own = root(disk).unwrap();
            let count = n.to_string();
            let fails = [&["configure", "-e", "5", "-c", &count], words, &[disk.name()]].concat();
            Run::of(program("gnop").args(fails)).exits(0);
            let run = disk.dualroot(self.args);
            tool("gnop", &[&"configure", &"-r", &"0", &"-w", &"0", &disk.name()]);
            if !Path::new(&disk.node(2)).exists() {
                // GEOM could not read the label, and looks for it again.
                let slice = format!("/dev/{}", disk.part(2).trim_end_matches('a'));
                drop(File::options().write(true).open(slice).unwrap());
            }
            if !keeps(&disk.root()) {
                // Since FreeBSD 13 UFS gives up a file system whose medium fails, and takes it away by
                // itself, a while later: it is there again at the next start.
                wait_until("the root is gone", || {
                    root(disk).is_none() || try_tool("umount", &[&"-f", &disk.root()]).code == 0
                });
                repair_by_fsck(&own);
                tool("mount", &[&own, &disk.root()]);
                // What fsck found: snapshots that were begun, for the most part; a directory, too.
                for entry in fs::read_dir(disk.root().join("lost+found")).into_iter().flatten() {
                    tool("rm", &[&"-rf", &entry.unwrap().path()]);
                }
            }
            failures += u32::from(run.code != 0);
            let wrong = self.wrong(disk, &flags, content, &run);
            assert!(wrong.is_empty(), "request {n} of {words:?}: {wrong}: {run}");
            let again = (self.finish)(disk);
            let starts = tried(disk)[0];
            let finished = again.code == 0 && starts == self.starts;
            assert!(finished, "request {n} of {words:?}: slot {starts}: {again}, after {run}");
        }
        failures
    }

    /// What must not be after a run that began with these flags and this alternate slot.
    fn wrong(&self, disk: &Disk, flags: &[u32], content: u32, run: &Run) -> String {
        let now = tried(disk);
        let has_failed = run.code != 0;
        if !matches!(run.code, 0 | 1 | 4 | 5 | 6)
            || has_failed && !run.stderr.contains("dualroot: ")
        {
            return "it does not end as it should".to_owned();
        }
        if !has_failed && now[0] != self.starts || run.code == 6 && now != flags {
            return format!("{now:?} start");
        }
        if mounts().iter().any(|mount| mount.point == disk.altroot()) {
            return "the other slot is still mounted".to_owned();
        }
        if fs::read_dir(disk.altroot()).unwrap().next().is_some() {
            return "it was copied into the running root".to_owned();
        }
        let show = disk.dualroot(&["show", "--json"]).exits(0).json();
        if show["next"][0]["slot"] != now[0] {
            return format!("{now:?} start, and it tells {}", show["next"]);
        }
        let alternate = show["slots"].as_array().unwrap().iter().find(|s| s["booted"] == false);
        let alternate = alternate.unwrap();
        if alternate["state"] == "valid" {
            let verify = disk.dualroot(&["verify"]);
            return if verify.code == 0 {
                String::new()
            } else {
                format!("{verify} of {alternate}")
            };
        }
        // What starts and is not known to be good is at least what it was before.
        if alternate["slot"] == now[0] && self::content(disk) != content {
            return format!("{now:?} start, and it was written to: {alternate}");
        }
        String::new()
    }

    /// Places from the first request to the last, for one kind of failures.
    fn sweep(&self, disk: &Disk, words: &[&str]) {
        let requests = self.requests(disk);
        let places = places(requests);
        let failures = self.fails_at(disk, &places, words);
        assert!(failures > 0, "nothing failed");
        note(&format!("{} of {requests} requests, {failures} runs failed", places.len()));
        sound(disk);
    }
}

/// `fsck_ffs`(8) repairs it; once more as often as it asks for that, by exit 16 (`ERERUN`).
#[track_caller]
fn repair_by_fsck(device: &str) {
    let mut runs = (0..5).map(|_| try_tool("fsck_ffs", &[&"-y", &device]));
    runs.find(|run| run.code != 16).expect("fsck_ffs asks for ever").exits(0);
}

/// What is mounted as the running root.
fn root(disk: &Disk) -> Option<String> {
    mounts().into_iter().rfind(|mount| mount.point == disk.root()).map(|mount| mount.source)
}

/// Whether what is written to this root is kept. It has `/etc`, and where it was has nothing.
fn keeps(root: &Path) -> bool {
    let probe = root.join("etc/probe");
    let kept = File::create(&probe).and_then(|file| file.sync_all());
    kept.and_then(|()| fs::remove_file(probe)).is_ok()
}

/// All that is on the slot that does not run, as one number.
fn content(disk: &Disk) -> u32 {
    let alternate = if root(disk) == Some(disk.node(2)) { 1 } else { 2 };
    let mut device = File::open(disk.node(alternate)).unwrap();
    let mut hash = crc32fast::Hasher::new();
    let mut bytes = vec![0; 1 << 20];
    loop {
        match device.read(&mut bytes).unwrap() {
            0 => return hash.finalize(),
            n => hash.update(&bytes[..n]),
        }
    }
}

// ---- the medium's own bytes ---------------------------------------------------------------------

/// The slots in the order in which the boot code tries them.
#[track_caller]
fn tried(disk: &Disk) -> Vec<u32> {
    let medium = File::open(disk.below()).unwrap();
    let size = tool("diskinfo", &[&disk.below()]);
    let size: u64 = size.split_whitespace().nth(2).unwrap().parse().unwrap();
    let slots = if disk.scheme() == Scheme::Mbr { active(&medium) } else { flagged(&medium, size) };
    assert!(matches!(slots.as_slice(), [1 | 2] | [1, 2] | [2, 1]), "nothing starts: {slots:?}");
    slots
}

fn active(medium: &File) -> Vec<u32> {
    let mut sector = [0; 512];
    medium.read_exact_at(&mut sector, 0).unwrap();
    assert_eq!(sector[510..], [0x55, 0xaa], "no MBR");
    (1..).zip(sector[446..510].chunks(16)).filter(|(_, e)| e[0] == 0x80).map(|(n, _)| n).collect()
}

/// As gptboot does (`gptread` and `gptfind` in stand/libsa/gpt.c): the first copy of the table that
/// is whole counts; first what is to be started once, then the rest. The slots follow the boot code.
fn flagged(medium: &File, size: u64) -> Vec<u32> {
    const UFS: [u8; 4] = 0x516e_7cb6_u32.to_le_bytes();
    const BOOT_ME: u64 = 1 << 59;
    const BOOT_ONCE: u64 = 1 << 58;
    let table = entries(medium, 512).or_else(|| entries(medium, size - 512));
    let table = table.expect("neither copy of the GPT is whole");
    let attributes = |entry: &[u8]| u64::from_le_bytes(entry[48..56].try_into().unwrap());
    let with = |flags: u64| {
        let entries = (0..).zip(&table).filter(|(_, entry)| entry[..4] == UFS);
        entries.filter(move |(_, e)| attributes(e) & (BOOT_ME | BOOT_ONCE) == flags).map(|(n, _)| n)
    };
    with(BOOT_ME | BOOT_ONCE).chain(with(BOOT_ME)).collect()
}

fn entries(medium: &File, header: u64) -> Option<Vec<Vec<u8>>> {
    let mut sector = [0; 512];
    medium.read_exact_at(&mut sector, header).ok()?;
    let number = |at: usize| u32::from_le_bytes(sector[at..at + 4].try_into().unwrap());
    let (length, crc) = (number(12) as usize, number(16));
    let (place, count, size, crc_of_all) = (number(72), number(80), number(84), number(88));
    sector[16..20].fill(0);
    if !sector.starts_with(b"EFI PART") || length > 512 || crc32fast::hash(&sector[..length]) != crc
    {
        return None;
    }
    let mut all = vec![0; (count * size) as usize];
    medium.read_exact_at(&mut all, u64::from(place) * 512).ok()?;
    let whole = crc32fast::hash(&all) == crc_of_all;
    whole.then(|| all.chunks(size as usize).map(<[u8]>::to_vec).collect())
}

// ---- the verbs ----------------------------------------------------------------------------------

/// A verb that comes to its end when it is called once more.
fn sweep(disk: &Disk, args: &[&str], starts: u32, before: &dyn Fn(&Disk)) {
    let verb = Verb { args, starts, before, finish: &|disk: &Disk| disk.dualroot(args) };
    verb.sweep(disk, &DEAD);
}

fn boot(scheme: Scheme, words: &[&str]) {
    let disk = disk(scheme);
    let before = |disk: &Disk| drop(disk.dualroot(&["boot", "1"]).exits(0));
    let finish = |disk: &Disk| disk.dualroot(&["boot", "2"]);
    Verb { args: &["boot", "2"], starts: 2, before: &before, finish: &finish }.sweep(&disk, words);
}

fn boot_on_an_mbr() {
    boot(Scheme::Mbr, &DEAD);
}

fn boot_on_an_mbr_that_takes_no_writes() {
    boot(Scheme::Mbr, &READ_ONLY);
}

fn boot_on_a_gpt() {
    boot(Scheme::Gpt, &DEAD);
}

fn boot_on_a_gpt_that_takes_no_writes() {
    boot(Scheme::Gpt, &READ_ONLY);
}

fn back_to_the_running_slot() {
    let before = |disk: &Disk| drop(disk.dualroot(&["boot", "2"]).exits(0));
    sweep(&disk(Scheme::Gpt), &["boot", "1"], 1, &before);
}

fn a_trial() {
    let before = |disk: &Disk| drop(disk.dualroot(&["boot", "1"]).exits(0));
    sweep(&disk(Scheme::Gpt), &["boot", "2", "--once"], 2, &before);
}

/// The second slot is on trial, and is confirmed there.
fn confirm() {
    let disk = disk(Scheme::Gpt);
    tool("umount", &[&disk.root()]);
    tool("mount", &[&disk.node(2), &disk.root()]);
    let before = |disk: &Disk| {
        // As gptboot leaves it.
        for (verb, flag, index) in
            [("set", "bootme", "2"), ("set", "bootonce", "3"), ("unset", "bootme", "3")]
        {
            tool("gpart", &[&verb, &"-a", &flag, &"-i", &index, &disk.name()]);
        }
    };
    sweep(&disk, &["confirm"], 2, &before);
}

/// A trial is given up before it was started.
fn reject() {
    let disk = disk(Scheme::Gpt);
    let before = |disk: &Disk| drop(disk.dualroot(&["boot", "2", "--once"]).exits(0));
    let finish = |disk: &Disk| match disk.dualroot(&["reject"]) {
        // It had come that far.
        run if run.stderr.contains("there is no trial") => disk.dualroot(&["show"]),
        run => run,
    };
    let verb = Verb { args: &["reject"], starts: 1, before: &before, finish: &finish };
    verb.sweep(&disk, &DEAD);
}

/// The running root has changed since it was copied, and is copied again.
fn snapshot(words: &[&str], args: &[&str]) {
    let disk = disk(Scheme::Mbr);
    let times = Cell::new(0);
    let before = |disk: &Disk| {
        times.set(times.get() + 1);
        let root = disk.root();
        let _ =
            fs::rename(root.join(format!("etc/time-{}", times.get() - 1)), root.join("etc/was"));
        disk.write(&format!("etc/time-{}", times.get()), pattern(100_000, times.get()));
        disk.write("etc/motd", format!("for the {}th time", times.get()));
    };
    let finish = |disk: &Disk| disk.dualroot(args);
    Verb { args, starts: 1, before: &before, finish: &finish }.sweep(&disk, words);
}

fn copy_without_a_medium() {
    snapshot(&DEAD, &["snapshot", "--fresh"]);
}

fn copy_without_writes() {
    snapshot(&READ_ONLY, &["snapshot", "--fresh"]);
}

fn refresh_without_a_medium() {
    snapshot(&DEAD, &["snapshot"]);
}

fn refresh_without_writes() {
    snapshot(&READ_ONLY, &["snapshot"]);
}

/// The second slot was to start and is destroyed.
fn repair(words: &[&str]) {
    let disk = disk(Scheme::Mbr);
    disk.configure("auto-snapshot = true\n");
    let before = |disk: &Disk| {
        // The start is always the same one here: it is told anew.
        let _ = fs::remove_dir_all(disk.root().join("var/db/dualroot"));
        // The superblock, and not the label before it.
        let of = format!("of={}", disk.node(2));
        tool("dd", &[&"if=/dev/zero", &of, &"bs=64k", &"seek=1", &"count=16"]);
        tool("gpart", &[&"set", &"-a", &"active", &"-i", &"2", &disk.name()]);
    };
    let finish = |disk: &Disk| {
        // What has failed is not tried again by itself.
        disk.dualroot(&["boot", "1"]).exits(0);
        disk.dualroot(&["snapshot"]).exits(0);
        disk.dualroot(&["boot", "2"])
    };
    let verb = Verb { args: &["auto-snapshot"], starts: 2, before: &before, finish: &finish };
    verb.sweep(&disk, words);
}

fn repair_without_a_medium() {
    repair(&DEAD);
}

fn repair_without_writes() {
    repair(&READ_ONLY);
}

/// Both roots are sound, whatever their medium did while they were used.
fn sound(disk: &Disk) {
    tool("umount", &[&disk.root()]);
    for slot in [1, 2] {
        crate::compare::assert_sound(&disk.node(slot));
    }
}
