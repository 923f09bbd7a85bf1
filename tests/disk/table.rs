//! Partition tables: kept by every snapshot, compared, repaired; by the tools that make them and
//! check them.

use std::fs::{self, File, OpenOptions};
use std::io::Write;
use std::os::unix::fs::FileExt;
use std::process::Stdio;

use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use crate::harness::{
    Disk, Layout, Run, Scheme, hex, pattern, program, ready, tool, try_tool, unmount,
};

const KEPT: &str = ".dualroot/tables";

/// A running root on one medium and its copy on another one, so that one of them is not in use.
struct Two {
    running: Disk,
    other: Disk,
}

impl Two {
    /// With a copy, and with the tables of both kept.
    fn new(scheme: Scheme) -> Self {
        let layout = Layout { scheme, sizes_mb: vec![24, 8, 8], ..Layout::default() };
        let two = Self { running: Disk::new(Layout::default()), other: Disk::bare(layout) };
        two.running.fill();
        let slots = format!("slots = [\"{}\", \"{}\"]", two.running.node(1), two.other.node(1));
        two.running.write("etc/dualroot.conf", format!("[root]\n{slots}\n"));
        two.running.snapshot();
        two
    }

    fn run(&self, args: &[&str]) -> Run {
        self.running.dualroot(args)
    }
}

/// All bytes of a medium.
fn bytes(disk: &Disk) -> Vec<u8> {
    tool("blockdev", &[&"--flushbufs", &disk.medium()]);
    fs::read(disk.image()).unwrap()
}

/// What lies before the first partition: a mounted file system writes of itself.
fn tables(disk: &Disk) -> Vec<u8> {
    bytes(disk)[..1 << 20].to_vec()
}

fn hash(disk: &Disk) -> String {
    hex(&Sha256::digest(bytes(disk)))
}

/// Writes to the medium below all partitions.
fn scribble(disk: &Disk, offset: u64, data: &[u8]) {
    let medium = OpenOptions::new().write(true).open(disk.medium()).unwrap();
    medium.write_all_at(data, offset).unwrap();
    medium.sync_all().unwrap();
}

fn read(disk: &Disk, offset: u64, length: usize) -> Vec<u8> {
    let mut data = vec![0; length];
    File::open(disk.medium()).unwrap().read_exact_at(&mut data, offset).unwrap();
    data
}

/// The tools that make tables find nothing wrong.
#[track_caller]
fn referees(disk: &Disk, scheme: Scheme) {
    tool("sfdisk", &[&"--verify", &disk.medium()]);
    if scheme == Scheme::Gpt {
        let said = tool("sgdisk", &[&"-v", &disk.medium()]);
        let said = String::from_utf8(said).unwrap();
        assert!(said.contains("No problems found"), "{said}");
    }
}

/// What is done to a medium, and what `check` must name.
struct Damage {
    name: &'static str,
    work: fn(&Disk),
    told: &'static [&'static str],
    recoverable: bool,
}

fn last(disk: &Disk) -> u64 {
    fs::metadata(disk.image()).unwrap().len() - 512
}

const MBR: [Damage; 4] = [
    Damage {
        name: "no first sector",
        work: |disk| scribble(disk, 0, &[0; 512]),
        told: &["mbr"],
        recoverable: false,
    },
    Damage {
        name: "swapped slices",
        work: |disk| {
            let entries = read(disk, 446, 32);
            let mut sector = read(disk, 0, 512);
            sector[446..462].copy_from_slice(&entries[16..]);
            sector[462..478].copy_from_slice(&entries[..16]);
            scribble(disk, 0, &sector);
        },
        told: &["mbr"],
        recoverable: false,
    },
    Damage {
        name: "a slice of another size",
        work: |disk| {
            let mut sector = read(disk, 0, 512);
            sector[446 + 12] ^= 8;
            scribble(disk, 0, &sector);
        },
        told: &["mbr"],
        recoverable: false,
    },
    Damage {
        name: "noise up to the first slice",
        work: |disk| scribble(disk, 0, &[0xe5; 1 << 20]),
        told: &["boot-gap", "mbr"],
        recoverable: false,
    },
];

const GPT: [Damage; 6] = [
    Damage {
        name: "no protective mbr",
        work: |disk| scribble(disk, 0, &[0; 512]),
        told: &["mbr"],
        recoverable: false,
    },
    Damage {
        name: "no primary header",
        work: |disk| scribble(disk, 512, &[0; 512]),
        told: &["gpt-header"],
        recoverable: true,
    },
    Damage {
        name: "no backup header",
        work: |disk| scribble(disk, last(disk), &[0; 512]),
        told: &["backup-header"],
        recoverable: true,
    },
    Damage {
        name: "noise over the backup",
        work: |disk| scribble(disk, last(disk) - 32 * 512, &[0xe5; 33 * 512]),
        told: &["backup-entries", "backup-header"],
        recoverable: true,
    },
    Damage {
        name: "another name in both copies",
        work: |disk| drop(tool("sgdisk", &[&"-c", &"2:other", &disk.medium()])),
        told: &["backup-entries", "backup-header", "gpt-entries", "gpt-header"],
        recoverable: false,
    },
    Damage {
        name: "noise over all of the beginning, and no backup header",
        work: |disk| {
            scribble(disk, 0, &[0xe5; 34 * 512]);
            scribble(disk, last(disk), &[0; 512]);
        },
        told: &["backup-header", "gpt-entries", "gpt-header", "mbr"],
        recoverable: false,
    },
];

#[test]
fn damage_is_told_and_repaired_to_the_last_byte() {
    if !ready(&["sgdisk"]) {
        return;
    }
    for (scheme, damages) in [(Scheme::Dos, &MBR[..]), (Scheme::Gpt, &GPT[..])] {
        let two = Two::new(scheme);
        if scheme == Scheme::Dos {
            // Boot code, of which nothing is in the table.
            scribble(&two.other, 0, &[0x31; 440]);
            scribble(&two.other, 512, &[0x32; 7000]);
            two.run(&["table", "save"]).exits(0);
        }
        two.run(&["table", "check"]).exits(0).prints("equal to what was kept");
        let whole = bytes(&two.other);
        let running = tables(&two.running);
        for damage in damages {
            println!("{}", damage.name);
            (damage.work)(&two.other);
            let damaged = bytes(&two.other);
            assert!(damaged != whole, "nothing was done");
            repaired(&two, damage, &damaged);
            assert!(bytes(&two.other) == whole, "{}: not as it was", damage.name);
            referees(&two.other, scheme);
        }
        assert!(tables(&two.running) == running, "the other medium was written");
        // All partitions are there for the kernel, and the copy is the copy.
        two.other.add_partitions();
        two.run(&["verify"]).exits(0);
    }
}

/// `check` names the damage, `restore -n` only tells, `restore` repairs.
#[track_caller]
fn repaired(two: &Two, damage: &Damage, damaged: &[u8]) {
    let name = two.other.name();
    let report = two.run(&["table", "check", "--json"]).exits(3).json();
    let list = |field: &str| -> Vec<Value> {
        let all = report["differences"].as_array().unwrap().iter();
        all.map(|d| d[field].clone()).collect()
    };
    assert_eq!(list("kind"), damage.told, "{report}");
    assert!(list("medium").iter().all(|m| m == name), "{report}");
    assert!(list("offset").iter().all(Value::is_u64), "{report}");
    let recover = format!("gpart recover {name}");
    let told = list("repair").iter().all(|r| r.as_str().unwrap().starts_with(&recover));
    assert_eq!(told, damage.recoverable, "{report}");
    two.run(&["table", "check"]).exits(3).prints(&format!("{name}: "));

    let plan = two.run(&["table", "restore", "-n"]).exits(0);
    assert_eq!(plan.stdout.lines().count(), damage.told.len(), "{plan}");
    assert!(plan.stdout.lines().all(|l| l.starts_with(&format!("{name}: write the "))), "{plan}");
    assert!(bytes(&two.other) == damaged, "-n wrote");

    let run = two.run(&["table", "restore", "--medium", name]).exits(0);
    assert!(run.stdout.starts_with(&plan.stdout), "{run}");
    assert!(run.stdout.contains("read back and equal"), "{run}");
    two.run(&["table", "check"]).exits(0);
    two.run(&["table", "restore"]).exits(0).prints("nothing to repair");
}

/// A BSD label as fdisk(8) makes it, in a slice of the medium that is not in use.
#[test]
fn a_label_is_kept_and_repaired() {
    if !ready(&["fdisk"]) {
        return;
    }
    let two = Two::new(Scheme::Dos);
    let (start, _) = two.other.extent(3);
    // Slice 3 becomes one with a label, boot code around it, and a partition.
    tool("sfdisk", &[&"-q", &"--no-reread", &"--part-type", &two.other.medium(), &"3", &"a5"]);
    let mut fdisk = program("fdisk");
    fdisk.arg(two.other.medium()).stdin(Stdio::piped()).stdout(Stdio::piped());
    let mut fdisk = fdisk.stderr(Stdio::piped()).spawn().unwrap();
    fdisk.stdin.take().unwrap().write_all(b"b\ny\nn\na\n\n\nt\na\n7\nw\n").unwrap();
    let said = fdisk.wait_with_output().unwrap();
    let said = String::from_utf8_lossy(&said.stdout).into_owned();
    let label = start + 512;
    assert_eq!(read(&two.other, label, 4), 0x8256_4557_u32.to_le_bytes(), "{said}");
    // fdisk makes room for 4 partitions, GEOM wants at least 8: the count, and its checksum.
    let mut sector = read(&two.other, label, 512);
    let (count, sum) = (sector[138], sector[136]);
    (sector[138], sector[136]) = (8, sum ^ count ^ 8);
    scribble(&two.other, label, &sector);
    scribble(&two.other, start + 1024, &[0x62; 5120]);
    let report = two.run(&["table", "save", "--json"]).exits(0).json();
    let media = report["media"].as_array().unwrap();
    assert!(media.iter().any(|m| m["medium"] == two.other.name() && m["pieces"] == 5), "{report}");
    let whole = bytes(&two.other);

    let kept = read(&two.other, label, 512);
    for (n, work) in [
        // Shifted by a sector, as a boot code of the wrong size does.
        Box::new(|d: &Disk| scribble(d, label, &[vec![0; 512], kept.clone()].concat()))
            as Box<dyn Fn(&Disk)>,
        Box::new(|d: &Disk| scribble(d, label, &[0; 512])),
        Box::new(|d: &Disk| scribble(d, start, &[0xe5; 8192])),
    ]
    .into_iter()
    .enumerate()
    {
        work(&two.other);
        let report = two.run(&["table", "check", "--json"]).exits(3).json();
        let differences = report["differences"].as_array().unwrap();
        // What was kept is not lost for what is there now.
        let run = two.run(&["table", "save"]);
        let words = ["a BSD label lies at byte", "that was kept of it is gone"];
        run.fails(6, words[n.min(1)]).says("hint: ");
        two.run(&["snapshot"]).fails(6, words[n.min(1)]);
        let label = differences.iter().find(|d| d["kind"] == "label").unwrap();
        assert_eq!((&label["index"], &label["what"]), (&json!(3), &json!("bsd label of slice 3")));
        assert_eq!(differences.len(), [2, 1, 3][n], "{report}");
        two.run(&["table", "restore"]).exits(0);
        assert!(bytes(&two.other) == whole, "{n}: not as it was");
    }
}

#[test]
fn which_slot_boots_is_no_difference() {
    if !ready(&["sgdisk"]) {
        return;
    }
    let two = Two::new(Scheme::Dos);
    two.running.activate(2);
    two.other.activate(3);
    two.run(&["table", "check"]).exits(0);
    // It stays as it is when something else is repaired.
    let chosen = bytes(&two.other);
    scribble(&two.other, 0, &[0x55; 100]);
    two.run(&["table", "restore"]).exits(0);
    assert_eq!(bytes(&two.other)[446..512], chosen[446..512]);

    let two = Two::new(Scheme::Gpt);
    tool("sgdisk", &[&"-A", &"1:set:59", &two.other.medium()]);
    two.run(&["table", "check"]).exits(0);
    let chosen = bytes(&two.other);
    scribble(&two.other, 512, &[0; 512]);
    two.run(&["table", "check"]).exits(3);
    two.run(&["table", "restore"]).exits(0);
    assert!(bytes(&two.other) == chosen);
    referees(&two.other, Scheme::Gpt);
}

// ---- refusals -----------------------------------------------------------------------------------

/// Refused, and no byte of the medium is another one.
#[track_caller]
fn refuses(two: &Two, disk: &Disk, args: &[&str], words: &str) {
    let mounted = disk.name() == two.running.name();
    let content = || if mounted { tables(disk) } else { bytes(disk) };
    let before = content();
    for dry in [&["-n"][..], &[]] {
        two.run(&[args, dry].concat()).fails(6, words);
        assert!(content() == before, "it was written");
    }
}

#[test]
fn a_medium_in_use_is_not_written() {
    if !ready(&[]) {
        return;
    }
    let two = Two::new(Scheme::Dos);
    // The running root is on it.
    scribble(&two.running, 0, &[0; 512]);
    two.run(&["table", "check"]).exits(3).prints("master boot record");
    refuses(&two, &two.running, &["table", "restore"], "in use");
    // What is whole can be told to be so.
    two.run(&["table", "restore", "--medium", two.other.name()]).exits(0);
    // A single partition of it is mounted, however little.
    scribble(&two.other, 0, &[0; 512]);
    for read_only in [true, false] {
        let mounted = two.other.mount_slice(1, read_only);
        refuses(&two, &two.other, &["table", "restore", "--medium", two.other.name()], "in use");
        drop(mounted);
    }
    two.run(&["table", "restore", "--medium", two.other.name()]).exits(0);
}

/// In a partition that nobody uses, boot code is repaired while others of the medium are in use.
#[test]
fn what_nobody_uses_is_repaired_beside_what_is_in_use() {
    if !ready(&["sgdisk"]) {
        return;
    }
    let two = Two::new(Scheme::Gpt);
    let boot = "3:83BD6B9D-7F41-11DC-BE0B-001560B84F0F";
    tool("sgdisk", &[&"-t", &boot, &two.other.medium()]);
    let (start, _) = two.other.extent(3);
    scribble(&two.other, start, &[0xb0; 3000]);
    two.run(&["table", "save"]).exits(0);
    let mounted = two.other.mount_slice(1, true);
    let whole = bytes(&two.other);
    scribble(&two.other, start + 1024, &[0; 512]);
    two.run(&["table", "check"]).exits(3).prints("boot code of partition 3");
    let run = two.run(&["table", "restore"]).exits(0);
    assert!(run.stdout.contains(&format!("through {}", two.other.node(3))), "{run}");
    assert!(bytes(&two.other) == whole);
    drop(mounted);
}

#[test]
fn another_table_of_the_same_medium_moves_nothing_that_is_mounted() {
    if !ready(&[]) {
        return;
    }
    let two = Two::new(Scheme::Dos);
    // Somebody has made other slices since, by hand: the first sector has another size of slice 1.
    let mut sector = read(&two.other, 0, 512);
    let sectors = u32::from_le_bytes(sector[446 + 12..446 + 16].try_into().unwrap());
    sector[446 + 12..446 + 16].copy_from_slice(&(sectors - 2048).to_le_bytes());
    scribble(&two.other, 0, &sector);
    try_tool("partx", &[&"-d", &two.other.medium()]);
    two.other.add_partitions();
    two.other.format(1);
    let mounted = two.other.mount_slice(1, true);
    refuses(
        &two,
        &two.other,
        &["table", "restore", "--medium", two.other.name()],
        "no partition where",
    );
    drop(mounted);
}

#[test]
fn another_medium_is_not_written() {
    if !ready(&[]) {
        return;
    }
    let two = Two::new(Scheme::Dos);
    let file = two.running.root().join("config").join(KEPT);
    let file = file.to_str().unwrap();
    let sizes = [vec![24, 8, 8], vec![24, 8, 9]];
    for (sizes_mb, words) in sizes.into_iter().zip(["disk identity is", "bytes, not"]) {
        let third = Disk::bare(Layout { sizes_mb, ..Layout::default() });
        let args = ["table", "restore", "--file", file, "--medium", third.name()];
        refuses(&two, &third, &args, words);
        two.run(&["table", "check", "--medium", third.name()]).fails(6, words);
        // Nothing is left that tells it from the kept one, but it is not told to be the same.
        if words == "disk identity is" {
            scribble(&third, 0, &[0; 512]);
            refuses(&two, &third, &args, "nothing tells");
        }
    }
    for name in ["nothing", two.other.part(1).to_str().unwrap()] {
        two.run(&["table", "restore", "--medium", name]).fails(2, "is no medium");
    }
}

/// A clone has the same table and the same file systems: which one is meant has to be said.
#[test]
fn a_clone_is_not_guessed_at() {
    if !ready(&[]) {
        return;
    }
    let two = Two::new(Scheme::Dos);
    let clone = Disk::bare(Layout { sizes_mb: vec![24, 8, 8], ..Layout::default() });
    scribble(&clone, 0, &bytes(&two.other));
    scribble(&two.other, 512, &[1; 512]);
    refuses(&two, &two.other, &["table", "restore"], "several media are it");
    two.run(&["table", "check"]).exits(3).prints("several media are it");
    let before = hash(&clone);
    two.run(&["table", "restore", "--medium", two.other.name()]).exits(0);
    assert_eq!(hash(&clone), before);
}

// ---- the file -----------------------------------------------------------------------------------

#[test]
fn a_snapshot_keeps_the_tables_on_config_and_on_the_copy() {
    if !ready(&["mtree"]) {
        return;
    }
    let disk = Disk::new(Layout::default());
    disk.fill();
    let at = format!("{} and {}", disk.node(2), disk.root().join("config").display());
    let step = format!("keep the partition tables of {} on {at}", disk.medium().display());
    let plan = disk.dualroot(&["snapshot", "-n"]).exits(0).prints(&step);
    let lines: Vec<_> = plan.stdout.lines().collect();
    let number = lines.iter().position(|l| l.contains("partition tables")).unwrap();
    assert!(lines[number + 1..].iter().all(|l| l.contains("write the record")), "{plan}");
    assert_eq!(lines.len(), number + 3, "{plan}");
    disk.snapshot();
    let copy = disk.mount_alternate(true);
    let files = [disk.root().join("config").join(KEPT), copy.path().join(KEPT)].map(fs::read);
    let [config, copied] = files.map(Result::unwrap);
    assert!(config == copied && config.starts_with(b"dualroot tables 1 "));
    // It is no part of the copy, and nothing half is left.
    let manifest = copy.path().join(".dualroot/manifest.mtree");
    tool("mtree", &[&"-f", &manifest, &"-p", &copy.path()]);
    let names = fs::read_dir(copy.path().join(".dualroot")).unwrap();
    let mut names: Vec<_> = names.map(|e| e.unwrap().file_name()).collect();
    names.sort();
    assert_eq!(names, ["manifest.mtree", "record.json", "tables"]);
    assert!(!disk.mount_slice(4, true).path().join(KEPT).exists());
    drop(copy);
    disk.dualroot(&["verify"]).exits(0);
    disk.dualroot(&["table", "check"]).exits(0);
}

#[test]
fn without_a_writable_config_it_is_on_the_copy() {
    if !ready(&[]) {
        return;
    }
    let disk = Disk::new(Layout::default());
    disk.fill();
    // None of its own: the root stays as it is.
    unmount(&disk.root().join("config"));
    disk.write("etc/fstab", format!("{} / ext4 rw 0 1\n", disk.node(1)));
    disk.snapshot();
    assert!(!disk.root().join(".dualroot").exists());
    assert!(!disk.root().join("config/.dualroot").exists());
    let run = disk.dualroot(&["table", "check", "--json"]).exits(0).json();
    assert_eq!(run["file"], format!("/{KEPT} on {}", disk.node(2)));
    disk.assert_unmounted();
    // Mounted read-only: left alone, and that is said.
    disk.write_fstab();
    disk.mount(&disk.part(3), &disk.root().join("config"), true);
    let run = disk.dualroot(&["-v", "snapshot"]).exits(0);
    assert!(
        run.stderr.contains("config is read-only: no partition tables are kept on it"),
        "{run}"
    );
    assert!(!disk.root().join("config/.dualroot").exists());
}

#[test]
fn save_says_where_and_what() {
    if !ready(&[]) {
        return;
    }
    let disk = Disk::new(Layout::default());
    disk.fill();
    // Of the user's own file the hint is another.
    let run = disk.dualroot(&["table", "check", "--file", "/nosuch"]);
    let run = run.fails(3, "looked at: /nosuch: there is none");
    run.says("\nhint: without --file the newest that is found is taken\n");
    // There is no copy yet, and then no place at all.
    let report = disk.dualroot(&["table", "save", "--json"]).exits(0).json();
    let file = disk.root().join("config").join(KEPT);
    assert_eq!(report["files"], json!([file.to_str().unwrap()]), "{report}");
    assert_eq!(report["bytes"], fs::metadata(&file).unwrap().len(), "{report}");
    assert!(report["left_out"][0].as_str().unwrap().contains("holds no copy"), "{report}");
    disk.dualroot(&["table", "check"]).exits(0);
    unmount(&disk.root().join("config"));
    disk.write("etc/fstab", format!("{} / ext4 rw 0 1\n", disk.node(1)));
    disk.dualroot(&["table", "save"]).fails(6, "no place for the partition tables");
    disk.snapshot();
    let run = disk.dualroot(&["table", "save"]).exits(0);
    assert!(run.stdout.contains(&format!("/{KEPT} on {}: ", disk.node(2))), "{run}");
    assert_eq!(disk.state(), "valid");
    disk.dualroot(&["verify"]).exits(0);
}

#[test]
fn a_damaged_table_is_not_kept() {
    if !ready(&[]) {
        return;
    }
    let two = Two::new(Scheme::Dos);
    scribble(&two.other, 446 + 8, &[0xff; 8]);
    let file = two.running.root().join("config").join(KEPT);
    let (before, kept) = (hash(&two.other), fs::read(&file).unwrap());
    let name = format!("keeping the tables of {}", two.other.medium().display());
    two.run(&["table", "save"]).fails(6, &name).says("hint: repair it");
    two.run(&["snapshot"]).fails(6, "it ends at byte").says("hint: ");
    assert_eq!((hash(&two.other), fs::read(&file).unwrap()), (before, kept));
}

/// What was kept is all there is then.
#[test]
fn a_table_that_is_gone_is_not_kept() {
    if !ready(&[]) {
        return;
    }
    for scheme in [Scheme::Dos, Scheme::Gpt] {
        let two = Two::new(scheme);
        let config = two.running.root().join("config").join(KEPT);
        let on_copy = || fs::read(two.other.mount_slice(1, true).path().join(KEPT)).unwrap();
        let (kept, copy) = (fs::read(&config).unwrap(), on_copy());
        let whole = bytes(&two.other);
        scribble(&two.other, 0, &vec![0; 34 * 512]);
        if scheme == Scheme::Gpt {
            scribble(&two.other, last(&two.other) - 32 * 512, &vec![0; 33 * 512]);
        }
        let words = "there is no partition table on it any more";
        let name = format!("keeping the tables of {}", two.other.medium().display());
        two.run(&["table", "save"]).fails(6, words).says(&name);
        two.run(&["snapshot"]).fails(6, words);
        assert_eq!((fs::read(&config).unwrap(), on_copy()), (kept, copy));
        two.run(&["table", "restore"]).exits(0);
        assert!(bytes(&two.other) == whole, "not as it was");
        two.run(&["table", "save"]).exits(0);
    }
    // The running medium's.
    let disk = Disk::new(Layout::default());
    disk.fill();
    let slots = [1, 2].map(|n| disk.node(n));
    disk.write("etc/dualroot.conf", format!("[root]\nslots = {slots:?}\n"));
    disk.snapshot();
    let config = disk.root().join("config").join(KEPT);
    let kept = fs::read(&config).unwrap();
    scribble(&disk, 0, &[0; 512]);
    disk.dualroot(&["table", "save"]).fails(6, "there is no partition table on it any more");
    assert_eq!(fs::read(&config).unwrap(), kept);
}

/// What is busy on one medium keeps the other from being written, too.
#[test]
fn of_several_media_all_are_had_before_one_is_written() {
    use std::os::unix::fs::OpenOptionsExt;
    if !ready(&[]) {
        return;
    }
    let layout = Layout { sizes_mb: vec![24, 8, 8], ..Layout::default() };
    let running = Disk::new(Layout::default());
    let others = [Disk::bare(layout.clone()), Disk::bare(layout)];
    running.fill();
    let slots = |n: usize, other: &Disk| {
        format!("slots = [\"{}\", \"{}\"]\n", running.node(n), other.node(1))
    };
    let text = format!("[root]\n{}[config]\n{}", slots(1, &others[0]), slots(3, &others[1]));
    running.write("etc/dualroot.conf", text);
    running.snapshot();
    for busy in &others {
        for disk in &others {
            scribble(disk, 0, &[0; 512]);
        }
        let damaged = [0, 1].map(|n| hash(&others[n]));
        let mut open = OpenOptions::new();
        open.read(true).write(true).custom_flags(nix::libc::O_EXCL);
        let held = open.open(busy.medium()).unwrap();
        running.dualroot(&["table", "restore"]).exits(4);
        assert_eq!([0, 1].map(|n| hash(&others[n])), damaged, "it was written");
        drop(held);
        running.dualroot(&["table", "restore"]).exits(0);
        running.dualroot(&["table", "check"]).exits(0);
    }
    // Once something is written it is no refusal, and what was is said.
    let mut names: Vec<&Disk> = others.iter().collect();
    names.sort_by_key(|disk| disk.name().to_owned());
    for disk in &others {
        scribble(disk, 0, &[0; 512]);
    }
    let path = format!("/{}", names[1].name());
    let run = running.with_fault(&["table", "restore"], ("pwrite", &path, 0), 5).exits(1);
    let run = run.says(&format!("repairing {}", names[1].medium().display()));
    run.says(&format!("so far, if only in part: {}: master", names[0].medium().display()));
    running.dualroot(&["table", "restore"]).exits(0);
}

#[test]
fn a_file_that_is_not_whole_is_not_used() {
    if !ready(&[]) {
        return;
    }
    let two = Two::new(Scheme::Dos);
    scribble(&two.other, 0, &[0; 512]);
    let config = two.running.root().join("config").join(KEPT);
    let good = fs::read(&config).unwrap();
    let file = two.running.tmp().join("tables");
    let path = file.to_str().unwrap();
    let newer = [b"dualroot tables 7", &good[17..]].concat();
    let mut flipped = good.clone();
    flipped[good.len() / 2] ^= 4;
    for (content, words) in [
        (newer, "it has version 7, this program knows version 1"),
        (flipped, "it is damaged"),
        (good[..good.len() - 1].to_vec(), "it is damaged"),
        (b"JUNOS\n".to_vec(), "no file of partition tables"),
    ] {
        fs::write(&file, content).unwrap();
        refuses(&two, &two.other, &["table", "restore", "--file", path], words);
        two.run(&["table", "check", "--file", path]).fails(3, words);
    }
    fs::remove_file(&file).unwrap();
    two.run(&["table", "check", "--file", path]).fails(3, "there is none");
    // The one of /config is gone bad: the copy's is taken, as far as the copy can be reached.
    fs::write(&config, b"x").unwrap();
    two.run(&["table", "check"]).exits(3).prints("master boot record").says("no file of partition");
    two.run(&["table", "restore"]).exits(0);
    two.run(&["table", "check"]).exits(0);
    // None at all.
    fs::remove_file(&config).unwrap();
    fs::remove_file(two.other.mount_slice(1, false).path().join(KEPT)).unwrap();
    two.run(&["table", "check"]).fails(3, "no saved partition tables");
    refuses(&two, &two.other, &["table", "restore"], "no saved partition tables");
}

/// Much boot code, and no room for it.
#[test]
fn a_config_that_is_full_fails_the_snapshot_before_anything_is_written() {
    if !ready(&[]) {
        return;
    }
    let disk = Disk::new(Layout { sizes_mb: vec![24, 24, 8, 24], ..Layout::default() });
    disk.fill();
    let slots = [3, 4].map(|n| disk.node(n));
    disk.write("etc/dualroot.conf", format!("[config]\nslots = {slots:?}\n"));
    disk.snapshot();
    let before = disk.hash_device(2);
    scribble(&disk, 512, &pattern(900 << 10, 3));
    let full = disk.root().join("config/full");
    let mut file = File::create(&full).unwrap();
    while file.write_all(&[7; 4096]).is_ok() {}
    disk.dualroot(&["snapshot"]).fails(6, "do not fit");
    assert_eq!(disk.hash_device(2), before);
    drop(file);
    fs::remove_file(full).unwrap();
    disk.snapshot();
}

/// What is left of a boot partition is told once; and that a system that is meant to be read-only keeps
/// no journal is nothing to warn of.
#[test]
fn a_snapshot_warns_of_nothing_twice() {
    if !ready(&[]) {
        return;
    }
    let types = [(5, "83BD6B9D-7F41-11DC-BE0B-001560B84F0F")].into();
    let sizes_mb = vec![24, 24, 8, 8, 4];
    let disk = Disk::new(Layout { scheme: Scheme::Gpt, sizes_mb, types, ..Layout::default() });
    disk.fill();
    let note = "of partition 5 the first 1048576 of 4194304 bytes";
    let times = |run: &Run| run.stderr.matches(note).count();
    let run = disk.snapshot();
    assert_eq!(times(&run), 1, "{run}");
    let run = disk.dualroot(&["table", "save"]).exits(0).prints(note);
    assert_eq!(times(&run), 0, "{run}");
    for point in [disk.root().join("config"), disk.root().to_path_buf()] {
        tool("mount", &[&"-o", &"remount,ro", &point]);
    }
    let run = disk.snapshot();
    assert!(!run.stderr.contains("Read-only file system"), "{run}");
    assert_eq!(times(&run), 1, "{run}");
}
