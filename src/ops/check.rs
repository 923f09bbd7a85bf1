//! `dualroot check`: everything that will hurt when the other slot is needed.

use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::path::Path;

use jiff::Timestamp;
use serde::Serialize;

use super::journal::{self, Store};
use super::show::{self, Seen, Stage};
use super::{Session, arrival, fsck, history, observe};
use crate::device::Id;
use crate::error::{Error, Result};
use crate::finding::{Finding, Severity};
use crate::mounts::stale::obstacles;
use crate::record::journal::Journal;
use crate::record::packages::{self, Package};
use crate::slot::discover::Layout;
use crate::slot::nextboot::PATH;
use crate::slot::view::View;
use crate::slot::{Pair, Slot, State, fstab, loader};
use crate::sys::tree::Dir;
use crate::sys::{FsType, Os, Snapshots};

/// A copy that is older is a fossil: nobody knows any more whether what it holds still works.
const OLD_DAYS: i64 = 90;
/// Of so many packages that differ the names are told.
const TOLD: usize = 3;

/// What a check found.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Report {
    /// Version of this shape.
    pub schema: u32,
    /// What is wrong: the tables first, then the boot, then the slots.
    pub findings: Vec<Finding>,
}

impl Report {
    /// How many there are of a severity.
    pub fn count(&self, severity: Severity) -> usize {
        self.findings.iter().filter(|f| f.severity == severity).count()
    }

    /// Whether there is more than what is good to know.
    pub fn has_problems(&self) -> bool {
        self.findings.iter().any(|f| f.severity > Severity::Info)
    }
}

/// Checks media, slots and the copy. Never waits for a run and changes nothing.
///
/// # Errors
/// Not root, or the system cannot be observed. What is wrong with the slots is a finding.
pub fn run<O: Os>(os: &O, session: &Session) -> Result<Report> {
    let view = observe::view(os, session)?;
    let layout = view.discover();
    let mut findings = Vec::new();
    let boot = if view.root == Path::new("/") { os.boot()? } else { crate::sys::Boot::default() };
    let running = view.mount_at(&view.root).and_then(|m| view.provider_of(m));
    let own = running.and_then(|id| view.devices.medium(id));
    let Media { all, bootable } = media(&view, layout.as_ref().ok(), running);
    for medium in all {
        table(&view, medium, &mut findings);
        if bootable.contains(&medium)
            && let Some(reading) = view.readings.get(&medium)
        {
            let firmware = boot.firmware.filter(|_| own == Some(medium));
            findings.extend(reading.boot(firmware, &|place| view.place(medium, place)));
        }
    }
    // A trial by nextboot(8) is two slots in one system, and meant to be.
    let mixed = layout.as_ref().is_ok_and(|layout| view.nextboot_trial(layout, &boot).is_some());
    if !mixed {
        findings.extend(running.and_then(|id| view.against_kernel_roots(id, &boot.roots)));
    }
    findings.extend(running.and_then(|id| view.against_fstab(id)));
    match layout {
        Err(error) => findings.push(not_found(&view, &error)),
        Ok(layout) => {
            let loader = boot.loader.filter(|_| !mixed);
            findings.extend(loader.and_then(|loader| view.against_loader(&layout, &loader)));
            findings.extend(boot_flags(&view, &layout));
            findings.extend(boot0_differs(&view, &layout));
            kept(os, &view, &layout, &mut findings)?;
            findings.extend(fsck_asks(os, &view, &layout)?);
            findings.extend(sizes(&view, &layout));
            alternate(os, &view, &layout, &mut findings)?;
        }
    }
    Ok(Report { schema: 1, findings })
}

/// The media to look at.
struct Media {
    all: BTreeSet<Id>,
    /// Those that hold a root.
    bootable: BTreeSet<Id>,
}

/// The media of all pairs; where there are none to be told, of the running root and of everything
/// that fstab names and whose table could not be read as it should.
fn media(view: &View, layout: Option<&Layout>, running: Option<Id>) -> Media {
    let medium = |id: Id| view.devices.medium(id);
    let mut bootable: BTreeSet<Id> = running.and_then(medium).into_iter().collect();
    let mut all = bootable.clone();
    if let Some(layout) = layout {
        bootable.extend(layout.slots.iter().filter_map(|slot| medium(slot.root)));
        let pairs = layout.pairs.iter().flat_map(|pair| [pair.source, pair.target]);
        all.extend(pairs.chain(layout.shared_config).filter_map(medium));
        all.extend(&bootable);
    } else {
        let named = view.fstab.iter().filter_map(|e| view.find(&e.spec));
        let slots = [&view.config.root, &view.config.config];
        let slots = slots.into_iter().flat_map(|s| s.slots.iter().flatten());
        all.extend(named.chain(slots.filter_map(|s| view.find(s.as_bytes()))).filter_map(medium));
        all.extend((0..view.devices.providers.len()).filter(|&id| observe::is_missed(view, id)));
    }
    Media { all, bootable }
}

/// What is wrong with the tables of a medium.
fn table(view: &View, medium: Id, findings: &mut Vec<Finding>) {
    let found = view.findings.get(&medium).cloned().unwrap_or_default();
    // A medium that cannot be read at all has nothing to find anything in.
    if let Some(fault) = view.faults.get(&medium).filter(|_| found.is_empty()) {
        let hint = "replace the medium, or see what is wrong with its connection";
        findings.push(Finding::error("medium-unreadable", view.node(medium), fault, hint));
    }
    findings.extend(found);
}

fn not_found(view: &View, error: &Error) -> Finding {
    let place = view.root.to_string_lossy().into_owned();
    let hint = match &error.hint {
        Some(hint) => hint.clone(),
        None => format!("name both roots in {}", view.config_path.display()),
    };
    Finding::error("slots-not-found", place, error.to_string(), hint)
}

fn boot_flags(view: &View, layout: &Layout) -> Option<Finding> {
    let alternate = layout.alternate();
    alternate.active.then(|| {
        let node = view.node(alternate.root);
        let what = format!("the boot flags select it, but {} is running", {
            view.node(layout.root().source)
        });
        let number = 3 - alternate.number;
        let hint = format!(
            "was it a choice, start again; was it a fall-back, see why it did not come up, then make \
             the running slot active: dualroot boot {number}"
        );
        Finding::warning("active-not-running", node, what, hint)
    })
}

fn boot0_differs(view: &View, layout: &Layout) -> Option<Finding> {
    let selection = view.selection_of(layout)?;
    let slice = selection.boot0?;
    let active = selection.table.entries.iter().find(|e| e.active)?.index;
    (slice != active).then(|| {
        let starts =
            if slice == 0 { "another medium".to_owned() } else { format!("slice {slice}") };
        let what = format!("boot0 starts {starts}, and slice {active} is active");
        let hint = "dualroot boot N sets both";
        Finding::warning("boot0-differs", view.node(selection.medium), what, hint)
    })
}

/// What the journal says that is not as it was meant.
fn kept<O: Os>(os: &O, view: &View, layout: &Layout, findings: &mut Vec<Finding>) -> Result<()> {
    let found = Store::of(view, layout).read(os);
    let place = || view.below(journal::VAR).to_string_lossy().into_owned();
    for why in found.problems() {
        let hint = "the next run writes it anew, unless another version of this program did";
        findings.push(Finding::warning("journal-unreadable", place(), why, hint));
    }
    let mut journal = found.journal.clone().unwrap_or_default();
    arrival::adopt(os, view, layout, &mut journal)?;
    findings.extend(nextboot(view, layout, &journal));
    if found.journal.is_none() && journal.trial.is_none() {
        return Ok(());
    }
    if let Some(operation) = journal::interrupted(os, view, layout, &journal)? {
        let what = format!("the last {}", history::describe(&operation));
        let hint =
            "dualroot show tells what became of the slot; dualroot snapshot makes a new copy";
        findings.push(Finding::warning("run-interrupted", place(), what, hint));
    }
    let next = view.selection_of(layout).map(|s| s.next()).unwrap_or_default();
    if let Some(show::TrialReport { trial, stage }) = show::trial(view, layout, &next, &journal) {
        let by = trial.mixture().map_or_else(String::new, |by| format!(" {by}"));
        let what = format!("slot {} is on trial{by}: {}", trial.slot.slot, stage.words());
        let device = trial.slot.device;
        findings.push(match stage {
            Stage::Armed => {
                let hint = "dualroot reject gives it up";
                Finding::info("trial-armed", device, what, hint)
            }
            Stage::Running => {
                let hint = "dualroot confirm keeps it, dualroot reject ends it; the next start ends it too";
                Finding::warning("trial-unconfirmed", device, what, hint)
            }
            Stage::Over => {
                let hint = "see why; dualroot reject ends it, dualroot boot tries again";
                Finding::warning("trial-over", device, what, hint)
            }
        });
    }
    let known = |slot: &&Slot| journal.intended == Some(journal::place(view, slot));
    // Of the running one `active-not-running` tells.
    let meant = layout.slots.iter().filter(|slot| !slot.running).find(known);
    if let (Some(meant), Some(first)) = (meant, next.iter().find(|n| !n.once))
        && first.slot != meant.number
    {
        let what = format!("slot {} was chosen, and slot {} starts next", meant.number, first.slot);
        let hint =
            "dualroot boot N sets the flags; was the choice made with other tools, it tells us";
        findings.push(Finding::warning("intended-not-next", view.node(meant.root), what, hint));
    }
    Ok(())
}

/// What the loader of the running slot would do once, and nobody knows of.
fn nextboot(view: &View, layout: &Layout, journal: &Journal) -> Option<Finding> {
    let file = view.nextboot.as_ref()?;
    let place = view.below(PATH).to_string_lossy().into_owned();
    let known = journal.trial.is_some() && journal.trial == file.trial;
    match &file.trial {
        Some(_) if known => None,
        Some(trial) if file.enabled => {
            let slot = trial.slot.slot;
            let what = format!("slot {slot} is to be tried once, and no trial is known");
            let hint = "dualroot reject, or nextboot -D, removes it";
            Some(Finding::warning("nextboot-stale", place, what, hint))
        }
        Some(_) => {
            let what = "it is what a trial has left, and does nothing any more";
            Some(Finding::info("nextboot-stale", place, what, "nextboot -D removes it"))
        }
        None => {
            let root = file.roots.first().filter(|_| file.enabled)?;
            let running = layout.root().source;
            (view.find(root.as_bytes()) != Some(running)).then(|| {
                let what = format!(
                    "the next start of this slot takes its kernel and mounts {root}: two slots in one \
                     system"
                );
                let hint = "nextboot -D gives that up; dualroot boot N --once makes a trial of it";
                Finding::warning("nextboot-foreign", place, what, hint)
            })
        }
    }
}

/// The same of the other slot: its loader could not write that it has done so.
fn nextboot_there<D: Dir>(view: &View, layout: &Layout, root: &D) -> Option<Finding> {
    let file = super::boot::nextboot::of(root).ok()??;
    let trial = file.trial.filter(|_| file.enabled)?;
    let place = format!("{}: {PATH}", view.node(layout.root().target));
    let what = format!(
        "each start of slot {} would try slot {}: the loader could not write that it has done so",
        trial.from.slot, trial.slot.slot
    );
    let hint = "dualroot confirm, reject and boot remove it";
    Some(Finding::error("nextboot-stale", place, what, hint))
}

/// `mksnap_ffs`(8) writes block numbers that are none before it marks the file as a snapshot
/// (`ffs_snapshot` in sys/ufs/ffs: `cgaccount`, then `SF_SNAPSHOT`). A loss of power between the two
/// leaves what `fsck_ffs -p` does not repair: rc.d/fsck then waits for somebody at the console, or
/// answers yes where it may. So none is taken there unless the user insists.
fn fsck_asks<O: Os>(os: &O, view: &View, layout: &Layout) -> Result<Option<Finding>> {
    if os.snapshots()? == Snapshots::None || view.config.file_system_snapshots != Some(true) {
        return Ok(None);
    }
    let is_written = |pair: &&Pair| {
        let mount = pair.mounted.as_ref().and_then(|point| view.mount_at(point));
        pair.fs == FsType::Ufs2.name() && mount.is_some_and(|mount| !mount.read_only)
    };
    if layout.pairs.iter().find(is_written).is_none() {
        return Ok(None);
    }
    Ok(fsck::asks(os, view)?.then(|| {
        let what = "power that goes while a snapshot of the file system is taken can leave what \
                    fsck_ffs -p does not repair, and the next start then waits at the console";
        let hint = format!("{}=\"YES\" there, or file_system_snapshots = false", fsck::SWITCH);
        Finding::warning("fsck-asks", view.below("/etc/rc.conf").to_string_lossy(), what, hint)
    }))
}

fn sizes(view: &View, layout: &Layout) -> Option<Finding> {
    let Pair { source, target, .. } = *layout.root();
    let [own, other] = [source, target].map(|id| view.devices.get(id).size);
    let what = format!("it has {other} bytes, {} has {own}", view.node(source));
    let severity = match other.cmp(&own) {
        std::cmp::Ordering::Equal => return None,
        std::cmp::Ordering::Less => Severity::Warning,
        std::cmp::Ordering::Greater => Severity::Info,
    };
    let hint =
        "what fits the larger slot may not fit the smaller: lay the medium out with equal ones";
    Some(Finding::new(severity, "slots-differ-in-size", view.node(target), what, hint))
}

/// Everything about the slot that does not run.
fn alternate<O: Os>(
    os: &O,
    view: &View,
    layout: &Layout,
    findings: &mut Vec<Finding>,
) -> Result<()> {
    let mut named = Vec::new();
    let seen = show::whole(os, view, layout, &mut |root| {
        named = names(view, layout, root);
        named.extend(nextboot_there(view, layout, root));
    })?;
    if seen.found.state != State::Writing {
        stale(os, view, layout, findings);
    }
    findings.extend(state(view, layout, &seen));
    if let Some(record) = &seen.found.record {
        findings.extend(age(view, layout, record.created));
        let running = show::running(os, view)?.software.packages;
        findings.extend(drift(view, layout, &running, &seen.software.packages));
    }
    findings.extend(named);
    Ok(())
}

/// Mounts in the way that no live run made.
fn stale<O: Os>(os: &O, view: &View, layout: &Layout, findings: &mut Vec<Finding>) {
    let run_dir = os.run_dir();
    for pair in &layout.pairs {
        let point = view.below(pair.part.alternate());
        let of_target = |m: &crate::mounts::Mount| view.provider_of(m) == Some(pair.target);
        for obstacle in obstacles(&view.mounts, of_target, &view.root, &point) {
            let mount = obstacle.mount();
            // `812.show` is a reader at work, as long as it lives.
            let private = mount.point.strip_prefix(&run_dir).ok().and_then(Path::to_str);
            let owner = private.and_then(|name| name.split('.').next()?.parse().ok());
            if owner.is_some_and(|pid| os.alive(pid)) {
                continue;
            }
            let place = mount.point.to_string_lossy().into_owned();
            let what = format!("{} ({}) is mounted there", mount.source, mount.fs);
            let hint = format!("dualroot clean, or umount {place}");
            findings.push(Finding::warning("stale-mount", place, what, hint));
        }
    }
}

fn state(view: &View, layout: &Layout, seen: &Seen) -> Option<Finding> {
    let place = view.node(layout.root().target);
    let reason = seen.found.reason.clone().unwrap_or_default();
    let hint = "make one: dualroot snapshot";
    Some(match seen.found.state {
        State::Valid => return None,
        State::Empty => Finding::warning("copy-missing", place, reason, hint),
        State::Invalid => Finding::warning("copy-invalid", place, reason, hint),
        State::Writing => Finding::info("copy-writing", place, reason, "wait until it is done"),
        State::Unknown => {
            let hint = "see the reason; dualroot snapshot makes a new copy";
            Finding::warning("copy-unknown", place, reason, hint)
        }
    })
}

fn age(view: &View, layout: &Layout, created: Timestamp) -> Option<Finding> {
    let days = Timestamp::now().duration_since(created).as_hours() / 24;
    (days > OLD_DAYS).then(|| {
        let what = format!("the copy is {days} days old");
        let hint = "make a new one: dualroot snapshot";
        Finding::warning("copy-old", view.node(layout.root().target), what, hint)
    })
}

fn drift(view: &View, layout: &Layout, own: &[Package], copy: &[Package]) -> Option<Finding> {
    let mut names: Vec<&str> = own.iter().chain(copy).map(|p| p.name.as_str()).collect();
    names.sort_unstable();
    names.dedup();
    // A package may be there in several versions.
    let versions = |all: &[Package], name: &str| {
        let mut found: Vec<_> =
            all.iter().filter(|p| p.name == name).map(|p| p.version.clone()).collect();
        found.sort_unstable();
        if found.is_empty() { "none".to_owned() } else { found.join(", ") }
    };
    let differences: Vec<String> = names
        .into_iter()
        .map(|name| (name, versions(own, name), versions(copy, name)))
        .filter(|(_, own, copy)| own != copy)
        .map(|(name, own, copy)| format!("{name} {own}, in the copy {copy}"))
        .collect();
    if differences.is_empty() {
        return None;
    }
    let more = match differences.len().saturating_sub(TOLD) {
        0 => String::new(),
        n => format!("; and {n} more"),
    };
    let told = differences[..differences.len().min(TOLD)].join("; ");
    let what = format!("it has other software than the running slot: {told}{more}");
    let hint = "once the running system is known to work: dualroot snapshot";
    Some(Finding::warning("version-drift", view.node(layout.root().target), what, hint))
}

/// What the copy calls itself, in the files that its start depends on.
fn names<D: Dir>(view: &View, layout: &Layout, root: &D) -> Vec<Finding> {
    let mut findings = Vec::new();
    let device = view.node(layout.root().target);
    for path in super::snapshot::rewrite::FSTABS {
        let Ok(Some(text)) = packages::read(root, path) else { continue };
        let place = format!("{device}: {path}");
        let entries = match fstab::parse(&text) {
            Ok(entries) => entries,
            Err(error) => {
                let hint = "make a new copy: dualroot snapshot";
                let what = error.to_string();
                findings.push(Finding::warning("copy-fstab-invalid", place, what, hint));
                continue;
            }
        };
        for pair in &layout.pairs {
            let point = pair.part.point();
            for entry in entries.iter().filter(|e| e.file == point.as_bytes()) {
                findings.extend(named(view, pair, &entry.spec, &place));
            }
        }
    }
    for path in loader_files(root) {
        let Ok(Some(text)) = packages::read(root, &path) else { continue };
        let specs = std::cell::RefCell::new(Vec::new());
        let collect = |spec: &[u8]| {
            specs.borrow_mut().push(spec.to_vec());
            None
        };
        // Nothing is replaced, so that nothing can be wrong with it.
        if loader::rewrite(&text, collect).is_ok() {
            let place = format!("{device}: {path}");
            let specs = specs.into_inner();
            findings.extend(specs.iter().filter_map(|s| named(view, layout.root(), s, &place)));
        }
    }
    findings
}

/// A name in the copy that is not the copy's.
fn named(view: &View, pair: &Pair, spec: &[u8], place: &str) -> Option<Finding> {
    let point = pair.part.point();
    let text = String::from_utf8_lossy(spec);
    let hint = "make a new copy: dualroot snapshot";
    match view.find(spec) {
        Some(id) if id == pair.target => None,
        Some(id) => {
            let running = if id == pair.source { ", which is running now" } else { "" };
            let what = format!("it names {text} ({}) for {point}{running}", view.node(id));
            Some(Finding::error("copy-names-another", place, what, hint))
        }
        None => {
            let what = format!("it names {text} for {point}, which is not there");
            Some(Finding::warning("copy-names-nobody", place, what, hint))
        }
    }
}

/// The files that loader(8) reads.
fn loader_files<D: Dir>(root: &D) -> Vec<String> {
    let mut files = Vec::new();
    let Ok(boot) = root.open_dir(OsStr::new("boot")) else { return files };
    let list = |dir: &D| -> Vec<String> {
        let names = dir.names().map(|names| {
            names.iter().filter_map(|(name, _)| name.to_str().map(str::to_owned)).collect()
        });
        names.unwrap_or_default()
    };
    let plain = list(&boot).into_iter().filter(|n| n.starts_with("loader.conf"));
    files.extend(plain.filter(|n| n != "loader.conf.d").map(|n| format!("boot/{n}")));
    if let Ok(further) = boot.open_dir(OsStr::new("loader.conf.d")) {
        files.extend(list(&further).into_iter().map(|n| format!("boot/loader.conf.d/{n}")));
    }
    files.sort();
    files
}
