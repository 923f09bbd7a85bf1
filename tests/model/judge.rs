//! What is to be said of a machine.

use std::collections::BTreeMap;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::path::{Path, PathBuf};

use dualroot::error::{Error, Kind};
use dualroot::mounts::Mount;
use dualroot::ops::snapshot::{Options, Report};
use dualroot::ops::{show, verify};
use dualroot::slot::{Choice, State};
use dualroot::sys::Os;
use dualroot::sys::fake::{Call, Machine, Seen};
use dualroot::table::superblock;
use nix::errno::Errno;

use crate::findings::Findings;
use crate::machine::{Base, FSTAB_COPY, LOADER_COPY, STATE, done, run_with, session};

pub type Listing = BTreeMap<PathBuf, Seen>;

/// What `show` says of the other slot, asked on a fork so that nothing of the asking stays.
pub fn state(machine: &Machine) -> State {
    let fork = machine.fork();
    let report = done(show::run(&fork, &session(&fork), Some(Choice::Alternate)));
    assert_eq!(left(&fork), mounts(machine), "show leaves mounts");
    report.slots[0].state
}

pub fn mounts(machine: &Machine) -> Vec<String> {
    left(machine)
}

/// Mounts that were not there at boot.
pub fn left(machine: &Machine) -> Vec<String> {
    let all = machine.fork().mounts().unwrap();
    let boot = |m: &Mount| ["/", "/config", "/dev"].iter().any(|p| m.point == Path::new(p));
    all.iter()
        .filter(|m| !boot(m) && m.fs != "tmpfs")
        .map(|m| format!("{} ({})", m.source, m.read_only))
        .collect()
}

pub fn alternate(machine: &Machine) -> [Listing; 2] {
    machine.world(|w| ["da0s2", "da0s4"].map(|d| without(w.tree(d).listing(), &[".snap"])))
}

pub fn source(machine: &Machine) -> [Listing; 2] {
    machine.world(|w| ["da0s1", "da0s3"].map(|d| w.tree(d).listing()))
}

/// Snapshots in the sources.
pub fn snapshots(machine: &Machine) -> Vec<String> {
    let all = source(machine).into_iter().flat_map(BTreeMap::into_keys);
    all.filter(|p| p.parent() == Some(Path::new(".snap")))
        .map(|p| p.display().to_string())
        .collect()
}

pub fn without(mut listing: Listing, names: &[&str]) -> Listing {
    listing.retain(|path, _| !names.iter().any(|name| path.starts_with(name)));
    listing
}

/// What a copy of `source` must hold.
pub fn expected(source: Listing) -> Listing {
    let left_out = [".snap", ".sujournal", ".dualroot", "boot/nextboot.conf", "firstboot", STATE];
    let mut listing = without(source, &left_out);
    for (path, text) in [("etc/fstab", FSTAB_COPY), ("boot/loader.conf", LOADER_COPY)] {
        if let Some(file) = listing.get_mut(Path::new(path)) {
            file.size = text.len() as u64;
            file.data = vec![(0, text.as_bytes().to_vec())];
        }
    }
    listing
}

/// Where a copy is not what its source says. Of mount points only owner and mode count: what is
/// mounted there covers the rest. The root's own time moves when they are made.
pub fn compare(mut expected: Listing, mut found: Listing) -> Vec<String> {
    for listing in [&mut expected, &mut found] {
        for point in ["", "altroot", "altconfig", "config", "dev"] {
            if let Some(dir) = listing.get_mut(Path::new(point)) {
                let a = &mut dir.attributes;
                (a.atime, a.mtime, a.birth) = Default::default();
            }
        }
    }
    let paths: Vec<_> = expected.keys().chain(found.keys()).cloned().collect();
    let mut different = Vec::new();
    for path in paths {
        // A loss of power may take a mount point of the source, not the copy's.
        let made = path.starts_with("altroot") || path.starts_with("altconfig");
        let (want, have) = (expected.remove(&path), found.remove(&path));
        if want != have && !(made && (want.is_none() || have.is_none())) {
            different.push(format!("{}: {}", path.display(), differs(want, have)));
        }
    }
    different
}

/// In what two objects differ.
pub fn differs(want: Option<Seen>, have: Option<Seen>) -> String {
    let (want, have) = match (want, have) {
        (Some(want), Some(have)) => (want, have),
        (want, _) => return if want.is_some() { "missing" } else { "extra" }.to_owned(),
    };
    let text = |seen: &Seen| {
        let bytes: Vec<u8> =
            seen.data.iter().flat_map(|(_, bytes)| bytes).take(300).copied().collect();
        String::from_utf8_lossy(&bytes).into_owned()
    };
    if (want.size, &want.data) != (have.size, &have.data) {
        return format!("{:?} became {:?}", text(&want), text(&have));
    }
    let bare = |seen: Seen| Seen { data: Vec::new(), ..seen };
    format!("{:?} became {:?}", bare(want), bare(have))
}

/// Where the copies are not what the sources of the same machine are.
pub fn against_source(machine: &Machine) -> Vec<String> {
    let pairs = source(machine).into_iter().zip(alternate(machine));
    pairs
        .flat_map(|(source, copy)| compare(expected(source), without(copy, &[".dualroot"])))
        .collect()
}

/// What no loss of power, no signal and no failure may leave.
pub const HALF: &str = "valid, but neither the old copy nor the new one";

/// What is wrong with the other slot: valid, but neither the whole old copy nor the whole new one.
pub fn half(machine: &Machine, old: &[Listing; 2]) -> Option<String> {
    if alternate(machine) == *old || state(machine) != State::Valid {
        return None;
    }
    let differences = against_source(machine);
    if !differences.is_empty() {
        return Some(differences.join("; ").chars().take(200).collect());
    }
    let fork = machine.fork();
    let report = done(verify::run(&fork, &session(&fork), Choice::Alternate));
    (!report.differences.is_empty()).then(|| format!("{:?}", report.differences))
}

/// The whole state of the disk as one number.
pub fn fingerprint(machine: &Machine) -> u64 {
    let mut hasher = DefaultHasher::new();
    machine.world(|w| {
        for device in ["da0s1", "da0s2", "da0s3", "da0s4"] {
            superblock::read(&w.boot_area(device)).map(|s| s.id).hash(&mut hasher);
            w.tree(device).listing().hash(&mut hasher);
        }
    });
    hasher.finish()
}

/// All operations of a run without faults, in one of their orders.
pub fn calls(base: &Machine) -> Vec<Call> {
    calls_with(base, Options::default())
}

pub fn calls_with(base: &Machine, options: Options) -> Vec<Call> {
    let machine = base.fork();
    machine.record();
    done(run_with(&machine, options));
    machine.trace()
}

/// Those of them until the copy is recorded and unmounted. What is written down then, in the journal
/// and in the history, is no part of the work: where that fails there is a warning.
pub fn work(mut calls: Vec<Call>) -> Vec<Call> {
    let last = calls.iter().rposition(|call| call.op == "os.unmount").unwrap();
    calls.truncate(last + 1);
    calls
}

pub fn check_new(machine: &Machine, when: &str, findings: &mut Findings, case: &impl ToString) {
    let state = state(machine);
    findings.check(state == State::Valid, &format!("{when} it is {state:?}"), case);
    for snapshot in snapshots(machine) {
        findings.add(format!("{when} there is {snapshot}"), case);
    }
    for difference in against_source(machine) {
        findings.add(format!("{when}: {difference}"), case);
    }
}

pub fn check_failed(
    machine: &Machine,
    base: &Base,
    result: &Result<Report, Error>,
    call: &Call,
    errno: Errno,
    findings: &mut Findings,
    case: &String,
) {
    // An unmount that fails leaves its mount; everything else must not.
    if call.op != "os.unmount" {
        for mount in left(machine) {
            findings.add(format!("left mounted: {mount}"), case);
        }
    }
    // One that cannot be removed stays until the next run.
    if !["os.unmount", "os.thaw"].contains(&call.op) {
        for snapshot in snapshots(machine) {
            findings.add(format!("left: {snapshot}"), case);
        }
    }
    // The partition tables are kept on /config.
    let [before, after] = [source(&base.machine), source(machine)].map(|[root, config]| {
        [without(root, &[".snap", STATE]), without(config, &[".snap", ".dualroot"])]
    });
    for (before, after) in before.into_iter().zip(after) {
        for difference in compare(before, after) {
            findings.add(format!("the source has changed: {difference}"), case);
        }
    }
    machine.next_process();
    match result {
        Ok(_) => check_new(machine, "after success", findings, case),
        Err(e) => {
            findings.check(errno != Errno::EINTR, &format!("not survived: {e}"), case);
            let fits = matches!(e.kind, Kind::Failed | Kind::Differs | Kind::Refused);
            findings.check(fits, &format!("kind {:?}: {e}", e.kind), case);
            let told = !e.operation.is_empty() || e.to_string().contains("ing ");
            findings.check(told, &format!("no operation: {e}"), case);
            let refused = e.kind == Kind::Refused && alternate(machine) != base.old;
            findings.check(!refused, &format!("refused after writing: {e}"), case);
            if let Some(what) = half(machine, &base.old) {
                findings.add(HALF, &format!("{case}: {what}"));
            }
        }
    }
}
