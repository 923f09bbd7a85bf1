//! What must hold after every loss of power, read without the program's own readers.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::path::{Path, PathBuf};

use dualroot::ops::show;
use dualroot::record::journal::Journal;
use dualroot::slot::{Choice, Part, State};
use dualroot::sys::fake::{Machine, Seen};
use dualroot::sys::tree::Kind;
use dualroot::table::saved::Saved;
use sha2::{Digest, Sha256};

use crate::cut::mounts;
use crate::machine::session;
use crate::verb::Verb;

pub type Listing = BTreeMap<PathBuf, Seen>;

/// Where a copy is.
#[derive(Clone, Copy, Debug)]
pub struct Copy {
    /// The medium that `--media` names.
    pub medium: Option<&'static str>,
    pub root: &'static str,
    pub config: &'static str,
}

pub const HERE: Copy = Copy { medium: None, root: "da0s2", config: "da0s4" };

impl Copy {
    pub fn part(self, part: Part) -> &'static str {
        if part == Part::Root { self.root } else { self.config }
    }
}

/// What runs, as it was before the verb.
pub struct Running([Listing; 2]);

/// The running slot without what a run may add to it: mount points, snapshots, partition tables, the
/// journal and the history. Nothing else of these machines is in `/var`.
fn running(machine: &Machine) -> [Listing; 2] {
    let added = ["altroot", "altconfig", ".snap", ".dualroot", "var"];
    ["da0s1", "da0s3"].map(|device| {
        let mut listing = machine.world(|w| w.tree(device).listing());
        listing.retain(|path, _| !added.iter().any(|a| path.starts_with(a)));
        if let Some(root) = listing.get_mut(Path::new("")) {
            (root.attributes.mtime, root.attributes.atime) = Default::default();
        }
        listing
    })
}

impl Running {
    pub fn of(machine: &Machine) -> Self {
        Self(running(machine))
    }

    /// Why the machine would not come up as it was: the running slot has changed, or something
    /// else boots.
    pub fn wrong(&self, machine: &Machine) -> Vec<String> {
        let mut wrong = Vec::new();
        let table = machine.world(|w| w.table("da0").clone());
        let flags: Vec<u8> = (0..4).map(|n| table[446 + 16 * n]).collect();
        if flags != [0x80, 0, 0, 0] || table[510..] != [0x55, 0xaa] {
            wrong.push(format!("what boots is not the running slot: {flags:x?}"));
        }
        for device in ["da0s1", "da0s3"] {
            if !has_file_system(machine, device) {
                wrong.push(format!("{device}, which runs, has no file system"));
            }
        }
        for (before, after) in self.0.iter().zip(running(machine)) {
            let all: BTreeSet<_> = before.keys().chain(after.keys()).collect();
            let differ = |path: &&&PathBuf| before.get(**path) != after.get(**path);
            for path in all.iter().filter(differ) {
                wrong.push(format!("{} of the running slot has changed", path.display()));
            }
        }
        wrong
    }
}

pub fn has_partition(machine: &Machine, device: &str) -> bool {
    machine.world(|w| w.partitions().iter().any(|(name, _)| name == device))
}

/// `FS_UFS2_MAGIC` where UFS2 has it, and cylinder groups: not only the half of a superblock.
fn has_file_system(machine: &Machine, device: &str) -> bool {
    let superblock = machine.world(|w| w.boot_area(device)[65536..].to_vec());
    superblock[1372..1376] == 0x1954_0119_u32.to_le_bytes() && superblock[44..48] != [0; 4]
}

/// The identities (`fs_id`) of the file systems of a copy.
pub fn identities(machine: &Machine, copy: Copy) -> [Vec<u8>; 2] {
    let of = |device| machine.world(|w| w.boot_area(device)[65536 + 144..65536 + 152].to_vec());
    [copy.root, copy.config]
        .map(|device| if has_partition(machine, device) { of(device) } else { Vec::new() })
}

/// What is wrong with a copy that is to be a file system only as a whole: fsck(8) complains; or it is
/// none of the `old`, by its identity, and lacks something of what the source has, before anybody
/// has changed an object of it.
pub fn at_once(machine: &Machine, copy: Copy, old: &[Vec<u8>; 2]) -> Vec<String> {
    let new = identities(machine, copy);
    let pairs = [("da0s1", copy.root), ("da0s3", copy.config)];
    let mut wrong = Vec::new();
    for ((source, device), (old, new)) in pairs.into_iter().zip(old.iter().zip(&new)) {
        if !machine.world(|w| w.is_mountable(device)) {
            continue;
        }
        if let Some(complaint) = machine.world(|w| w.complaint(device)) {
            wrong.push(format!("{device} can be mounted, but {complaint}"));
        }
        if old != new && machine.world(|w| w.is_as_written(device)) {
            let lacks = differ(machine, source, device);
            wrong.extend(lacks.into_iter().map(|d| format!("{device} can be mounted, but {d}")));
        }
    }
    wrong
}

fn content(seen: &Seen) -> Vec<u8> {
    let mut bytes = vec![0; usize::try_from(seen.size).unwrap()];
    for (at, data) in &seen.data {
        let at = usize::try_from(*at).unwrap();
        bytes[at..at + data.len()].copy_from_slice(data);
    }
    bytes
}

/// What is to be said of a partition, and how it differs from its manifest where that is `Valid`.
fn partition(machine: &Machine, device: &str) -> (State, Vec<String>) {
    if !has_partition(machine, device) || !has_file_system(machine, device) {
        return (State::Empty, vec![]);
    }
    if !machine.world(|w| w.is_mountable(device)) {
        return (State::Unknown, vec![]);
    }
    let listing = machine.world(|w| w.tree(device).listing());
    let file = |name: &str| listing.get(&Path::new(".dualroot").join(name)).map(content);
    let Some(record) = file("record.json") else {
        let bare = listing.keys().all(|p| p.as_os_str().is_empty() || p.starts_with(".snap"));
        return (if bare { State::Empty } else { State::Invalid }, vec![]);
    };
    let record: Option<serde_json::Value> = serde_json::from_slice(&record).ok();
    let Some(digest) = record.as_ref().and_then(|r| r["manifest_sha256"].as_str()) else {
        return (State::Unknown, vec![]);
    };
    let Some(manifest) = file("manifest.mtree") else { return (State::Invalid, vec![]) };
    let hex = Sha256::digest(&manifest).iter().fold(String::new(), |mut hex, byte| {
        write!(hex, "{byte:02x}").unwrap();
        hex
    });
    if hex != digest {
        return (State::Invalid, vec![]);
    }
    (State::Valid, against(&String::from_utf8(manifest).unwrap(), &listing))
}

/// How a tree differs from its manifest.
fn against(manifest: &str, listing: &Listing) -> Vec<String> {
    let mut wrong = Vec::new();
    let mut found: BTreeSet<PathBuf> = BTreeSet::new();
    let mut ignored = Vec::new();
    let mut dir = PathBuf::new();
    for line in manifest.lines().filter(|line| !line.starts_with('#')) {
        if line == ".." {
            dir.pop();
            continue;
        }
        let mut words = line.split(' ');
        let name = words.next().unwrap();
        let path = if name == "." { dir.clone() } else { dir.join(name) };
        let keys: BTreeMap<&str, &str> = words.clone().filter_map(|w| w.split_once('=')).collect();
        if keys["type"] == "dir" {
            dir.clone_from(&path);
        }
        if words.any(|word| word == "ignore") {
            ignored.push(path);
            continue;
        }
        match listing.get(&path) {
            None => wrong.push(format!("{} is missing", path.display())),
            Some(seen) => {
                for (key, is) in told(seen) {
                    let said = keys.get(key).copied().unwrap_or_default();
                    if said != is {
                        wrong.push(format!("{}: {key} is {is}, not {said}", path.display()));
                    }
                }
            }
        }
        found.insert(path);
    }
    let extra = |path: &&PathBuf| {
        !found.contains(*path) && !ignored.iter().any(|ignored| path.starts_with(ignored))
    };
    wrong.extend(listing.keys().filter(extra).map(|path| format!("{} is extra", path.display())));
    wrong
}

/// An object in the manifest's words.
fn told(seen: &Seen) -> Vec<(&'static str, String)> {
    let a = &seen.attributes;
    let mut words = vec![
        ("type", seen.kind.name().to_owned()),
        ("mode", format!("{:04o}", a.mode)),
        ("uid", a.uid.to_string()),
        ("gid", a.gid.to_string()),
        ("time", format!("{}.{:09}", a.mtime.sec, a.mtime.nsec)),
    ];
    if seen.kind == Kind::Symlink {
        words.push(("link", String::from_utf8(seen.link.clone()).unwrap()));
    }
    if seen.kind == Kind::File {
        words.push(("size", seen.size.to_string()));
    }
    words
}

/// The checksums that the manifest keeps in its tags.
fn sums(manifest: &str) -> BTreeMap<String, String> {
    let mut sums = BTreeMap::new();
    for line in manifest.lines() {
        if let (Some(name), Some((_, tags))) =
            (line.split(' ').next(), line.split_once("tags=crc32:"))
        {
            sums.insert(name.to_owned(), tags.chars().take(8).collect());
        }
    }
    sums
}

/// What is to be said of the copy as a whole, and what is wrong with it where that is `Valid`.
pub fn truth(machine: &Machine, copy: Copy) -> (State, Vec<String>) {
    let (mut state, mut wrong) = (State::Valid, Vec::new());
    for device in [copy.root, copy.config] {
        let (part, differences) = partition(machine, device);
        wrong.extend(differences.into_iter().map(|d| format!("{device}: {d}")));
        wrong.extend(content_differs(machine, device, part));
        state = match (device == copy.config, part) {
            (true, State::Empty) => State::Invalid,
            (_, part) => part,
        };
        if state != State::Valid {
            return (state, Vec::new());
        }
    }
    (state, wrong)
}

fn content_differs(machine: &Machine, device: &str, state: State) -> Vec<String> {
    if state != State::Valid {
        return Vec::new();
    }
    let listing = machine.world(|w| w.tree(device).listing());
    let manifest = content(&listing[Path::new(".dualroot/manifest.mtree")]);
    let sums = sums(&String::from_utf8(manifest).unwrap());
    // The names of the files of these small trees are all different.
    let file = |path: &PathBuf, seen: &Seen| {
        let said = sums.get(path.file_name()?.to_str()?)?;
        let is = format!("{:08x}", crc32fast::hash(&content(seen)));
        (is != *said).then(|| format!("{device}: the content of {} differs", path.display()))
    };
    listing.iter().filter_map(|(path, seen)| file(path, seen)).collect()
}

/// What `show` gets wrong, and what is wrong where it is right and the copy is valid.
pub fn slot(machine: &Machine, verb: &Verb) -> Vec<String> {
    let (truth, mut wrong) = truth(machine, verb.copy);
    let before = mounts(machine);
    let shown = show::run(machine, &session(machine, verb.copy.medium), Some(Choice::Alternate));
    match shown {
        Ok(report) => {
            let state = report.slots[0].state;
            // Without the new table it may show an older slot, which no snapshot made.
            let there = has_partition(machine, verb.copy.root);
            if state != truth && (there || state == State::Valid) {
                wrong.push(format!("show says {}, it is {}", state.name(), truth.name()));
            }
        }
        // Without a table there is no slot that could be shown.
        Err(_) if !has_partition(machine, verb.copy.root) => {}
        Err(error) => wrong.push(format!("show fails: {error}")),
    }
    if mounts(machine) != before {
        wrong.push("show leaves a mount".to_owned());
    }
    wrong
}

/// The file of partition tables on `/config`: there is a whole one, where there was one.
pub fn kept_tables(machine: &Machine) -> Result<bool, String> {
    let config = machine.world(|w| w.tree("da0s3").listing());
    match config.get(Path::new(".dualroot/tables")) {
        None => Ok(false),
        Some(file) => Saved::decode(&content(file)).map(|_| true),
    }
}

/// The disks of which a copy of a GPT is whole: the checksums of its header and of its entries are
/// right (UEFI specification, 5.3.2).
pub fn gpts(machine: &Machine) -> BTreeSet<String> {
    let all = machine.world(|w| {
        let own = |(disk, number, data): (&str, u64, Vec<u8>)| ((disk.to_owned(), number), data);
        w.sectors().into_iter().map(own).collect::<BTreeMap<_, _>>()
    });
    let is_whole = |disk: &str, number: u64, header: &[u8]| {
        let le32 = |at: usize| u32::from_le_bytes(header[at..at + 4].try_into().unwrap());
        let le64 = |at: usize| u64::from_le_bytes(header[at..at + 8].try_into().unwrap());
        let mut own = header[..92].to_vec();
        own[16..20].fill(0);
        let length = usize::try_from(le32(80) * le32(84)).unwrap();
        let numbers = le64(72)..le64(72) + length as u64 / 512;
        let sector = |n| all.get(&(disk.to_owned(), n)).cloned().unwrap_or(vec![0; 512]);
        let entries: Vec<u8> = numbers.flat_map(sector).collect();
        le64(24) == number
            && crc32fast::hash(&own) == le32(16)
            && crc32fast::hash(&entries) == le32(88)
    };
    let headers = all.iter().filter(|(_, sector)| sector.starts_with(b"EFI PART"));
    let whole = headers.filter(|((disk, number), header)| is_whole(disk, *number, header));
    whole.map(|((disk, _), _)| disk.clone()).collect()
}

/// Which journals there are that are not whole: each is put in its place by a rename.
pub fn journals(machine: &Machine) -> Vec<String> {
    let places = [("da0s1", "var/db/dualroot/journal.json"), ("da0s3", ".dualroot/journal.json")];
    let torn = |(device, path): (&str, &str)| {
        let listing = machine.world(|w| w.tree(device).listing());
        let why = Journal::parse(&content(listing.get(Path::new(path))?)).err()?;
        Some(format!("{path} of {device}: {why}"))
    };
    places.into_iter().filter_map(torn).collect()
}

/// What is wrong once the job is done: not valid, or not as the source is.
pub fn finished(machine: &Machine, verb: &Verb) -> Vec<String> {
    let (state, mut wrong) = truth(machine, verb.copy);
    if state != State::Valid {
        wrong.push(format!("when it is done, it is {}", state.name()));
    }
    for &part in verb.renews {
        let source = if part == Part::Root { "da0s1" } else { "da0s3" };
        wrong.extend(differ(machine, source, verb.copy.part(part)));
    }
    wrong.extend((verb.done)(machine));
    wrong
}

/// Snapshots of the sources that are still there.
pub fn snapshots(machine: &Machine) -> Vec<String> {
    let all = machine.world(|w| [w.tree("da0s1").listing(), w.tree("da0s3").listing()]);
    let paths = all.into_iter().flat_map(Listing::into_keys);
    let ours = paths.filter(|path| path.parent() == Some(Path::new(".snap")));
    ours.map(|path| format!("left: {}", path.display())).collect()
}

/// Where a finished copy has other names or other content than its source. fstab is rewritten.
fn differ(machine: &Machine, source: &str, copy: &str) -> Vec<String> {
    let apart = [".snap", ".dualroot", "etc/fstab", "altroot", "altconfig", "var"];
    let listing = |device: &str| {
        let all = machine.world(|w| w.tree(device).listing()).into_iter();
        let own = all.filter(|(path, _)| !apart.iter().any(|a| path.starts_with(a)));
        own.map(|(path, seen)| (path, (seen.kind, seen.link.clone(), content(&seen)))).collect()
    };
    let (source, copy): (BTreeMap<_, _>, BTreeMap<_, _>) = (listing(source), listing(copy));
    let all: BTreeSet<_> = source.keys().chain(copy.keys()).collect();
    let differ = |path: &&&PathBuf| source.get(**path) != copy.get(**path);
    all.iter().filter(differ).map(|p| format!("{} is not the source's", p.display())).collect()
}
