//! `dualroot show`: both slots, whatever state they are in.

use jiff::Timestamp;
use serde::Serialize;

use super::journal::{self, Store};
use super::mounted::{Mounted, open_root};
use super::record::{self, Found};
use super::{Session, arrival, lock, observe, uncovered};
use crate::device::Id;
use crate::error::Result;
use crate::record::journal::{Journal, Operation, Trial};
use crate::record::packages::{self, Package, Software};
use crate::slot::discover::Layout;
use crate::slot::view::View;
use crate::slot::{Choice, Slot, State, flags};
use crate::sys::Os;
use crate::sys::tree::Dir;
use crate::table::superblock;

/// All slots that were asked for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Report {
    /// Version of this shape.
    pub schema: u32,
    /// A list, also where it holds one.
    pub slots: Vec<SlotReport>,
    /// The slots in the order in which they will be tried at the next start; empty where nothing
    /// tells.
    pub next: Vec<Next>,
    /// A trial that was neither confirmed nor rejected.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub trial: Option<TrialReport>,
    /// A run that did not come to its end.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub interrupted: Option<Operation>,
    /// Why the journal cannot be read.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub journal: Option<String>,
}

/// A slot that will be tried.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Next {
    /// 1 or 2.
    pub slot: u32,
    /// Its device.
    pub device: String,
    /// Only the next time.
    pub once: bool,
}

/// A trial.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct TrialReport {
    /// The slot, the one before it, and since when.
    #[serde(flatten)]
    pub trial: Trial,
    /// Where it stands.
    pub stage: Stage,
}

/// Where a trial stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Stage {
    /// The next start tries the slot.
    Armed,
    /// The slot runs.
    Running,
    /// Another one runs, and the next start does not try it either.
    Over,
}

impl Stage {
    /// What that means.
    pub fn words(self) -> &'static str {
        match self {
            Self::Armed => "it waits for the next start",
            Self::Running => "it runs, and is not confirmed",
            Self::Over => "it did not come up, or was never started",
        }
    }
}

/// A selection's next slots with their devices.
pub(super) fn next(view: &View, layout: &Layout, next: &[flags::Next]) -> Vec<Next> {
    let device = |slot: u32| view.node(layout.slot(slot).root);
    let next = next.iter().map(|n| Next { slot: n.slot, device: device(n.slot), once: n.once });
    next.collect()
}

/// The trial that a journal knows of.
pub(super) fn trial(
    view: &View,
    layout: &Layout,
    next: &[flags::Next],
    journal: &Journal,
) -> Option<TrialReport> {
    let trial = journal.trial.clone()?;
    let is = |slot: &Slot| trial.slot == journal::place(view, slot);
    let stage = match layout.slots.iter().find(|slot| is(slot)) {
        Some(slot) if slot.running => Stage::Running,
        Some(slot) if next.first().is_some_and(|n| n.once && n.slot == slot.number) => Stage::Armed,
        _ => Stage::Over,
    };
    Some(TrialReport { trial, stage })
}

/// One slot.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct SlotReport {
    /// 1 or 2.
    pub slot: u32,
    /// `/dev/da0s1a`
    pub device: String,
    /// `internal`: the medium that runs; `external`: another one.
    pub medium: &'static str,
    /// `primary` boots next, `backup` does not.
    pub role: &'static str,
    /// Whether it is running.
    pub booted: bool,
    /// Whether it boots next.
    pub active: bool,
    /// What is known of its content.
    pub state: State,
    /// Why, where that is not plain.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// Whether it could not even be mounted.
    #[serde(skip)]
    pub unmountable: bool,
    /// When the copy was made.
    pub created: Option<Timestamp>,
    /// When the snapshot read it back and found it equal; `verify` does not change it.
    pub verified: Option<Timestamp>,
    /// The product's name.
    pub product: Option<String>,
    /// The software on it.
    pub packages: Vec<Package>,
    /// `factory` where the copy has only what the box left the factory with.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub content: Option<&'static str>,
    /// Regular files in the copy.
    pub files: Option<u64>,
    /// Bytes in the copy.
    pub bytes: Option<u64>,
}

/// Shows the slots, or the one that was asked for. Never waits for a run and changes nothing.
pub fn run<O: Os>(os: &O, session: &Session, choice: Option<Choice>) -> Result<Report> {
    let view = observe::view(os, session)?;
    let layout = view.discover()?;
    let slots = choice.map_or(layout.slots.to_vec(), |choice| vec![*layout.pick(choice)]);
    let slots = slots
        .iter()
        .map(|slot| {
            let visit = &mut |_: &O::Dir| {};
            let seen =
                if slot.running { running(os, &view)? } else { whole(os, &view, &layout, visit)? };
            Ok(report(&view, &layout, slot, seen))
        })
        .collect::<Result<_>>()?;
    let selection = view.selection_of(&layout);
    let tried = selection.map(|s| s.next()).unwrap_or_default();
    let found = Store::of(&view, &layout).read(os);
    let problem = found.problems().into_iter().next();
    let mut journal = found.journal.unwrap_or_default();
    arrival::adopt(os, &view, &layout, &mut journal)?;
    Ok(Report {
        schema: 1,
        slots,
        next: next(&view, &layout, &tried),
        trial: trial(&view, &layout, &tried, &journal),
        interrupted: journal::interrupted(os, &view, &journal)?,
        journal: problem,
    })
}

/// What was seen of a slot.
pub(super) struct Seen {
    pub(super) found: Found,
    pub(super) software: Software,
    unmountable: bool,
}

impl Seen {
    fn without_content(state: State, reason: String) -> Self {
        Self { found: Found::new(state, reason), software: Software::default(), unmountable: false }
    }
}

pub(super) fn running<O: Os>(os: &O, view: &View) -> Result<Seen> {
    // Not everybody may look below what is mounted.
    let root = uncovered::open(os, view, &view.root).or_else(|_| os.open_dir(&view.root))?;
    let mut found = record::read(&root);
    if found.record.is_none() {
        found.state = State::Unknown;
        found.reason = Some("running, and not made by a snapshot".to_owned());
    }
    // The running system's software is what is on it now.
    let software = uncovered::software(os, view, &root)?;
    Ok(Seen { found, software, unmountable: false })
}

/// The slot with all its parts: it is no better than its config. `visit` sees its root, where that
/// can be mounted.
pub(super) fn whole<O: Os>(
    os: &O,
    view: &View,
    layout: &Layout,
    visit: &mut dyn FnMut(&O::Dir),
) -> Result<Seen> {
    all::<O>(layout, visit, |target, visit| alternate(os, view, target, visit))
}

/// The same for a run that has the locks itself.
pub(super) fn held<O: Os>(
    os: &O,
    view: &View,
    layout: &Layout,
    visit: &mut dyn FnMut(&O::Dir),
) -> Result<Seen> {
    all::<O>(layout, visit, |target, visit| unlocked(os, view, target, visit))
}

/// One part of the other slot.
pub(super) fn part<O: Os>(os: &O, view: &View, target: Id) -> Result<Found> {
    Ok(alternate(os, view, target, &mut |_| {})?.found)
}

fn all<O: Os>(
    layout: &Layout,
    visit: &mut dyn FnMut(&O::Dir),
    see: impl Fn(Id, &mut dyn FnMut(&O::Dir)) -> Result<Seen>,
) -> Result<Seen> {
    let mut seen = see(layout.root().target, visit)?;
    for pair in &layout.pairs[1..] {
        if seen.found.state != State::Valid {
            break;
        }
        let part = see(pair.target, &mut |_| {})?.found;
        if part.state != State::Valid {
            let why = part.reason.unwrap_or_default();
            let reason = format!("{} is {}: {why}", pair.part.alternate(), part.state.name());
            let state = if part.state == State::Empty { State::Invalid } else { part.state };
            seen.found = Found { record: None, reason: Some(reason), state, ..part };
        }
    }
    Ok(seen)
}

fn alternate<O: Os>(
    os: &O,
    view: &View,
    target: Id,
    visit: &mut dyn FnMut(&O::Dir),
) -> Result<Seen> {
    let reading = lock::shared(os, view, target)?;
    if let lock::Reading::Taken(owner) = &reading {
        match owner {
            Some(owner) if owner.verb != "snapshot" => {}
            Some(owner) => {
                let reason = format!("process {} is writing it", owner.pid);
                return Ok(Seen::without_content(State::Writing, reason));
            }
            None => return Ok(Seen::without_content(State::Writing, "it is locked".to_owned())),
        }
    }
    unlocked(os, view, target, visit)
}

fn unlocked<O: Os>(
    os: &O,
    view: &View,
    target: Id,
    visit: &mut dyn FnMut(&O::Dir),
) -> Result<Seen> {
    let mut look = |root: &O::Dir| {
        visit(root);
        look(root)
    };
    let mounts = os.mounts()?;
    // Mounted already, by whomever: read there, where nothing was mounted over it later.
    let there = mounts.iter().enumerate().find(|(n, m)| {
        m.whole
            && view.provider_of(m) == Some(target)
            && !mounts[n + 1..].iter().any(|later| m.point.starts_with(&later.point))
    });
    // Where it was another `show`'s it may be gone by now, and the path leads to a bare directory.
    if let Some((_, mount)) = there
        && let Ok(root) = open_root(os, mount)
    {
        return Ok(look(&root));
    }
    if let Some(fault) = view.faults.get(&target) {
        return Ok(Seen::without_content(State::Unknown, fault.clone()));
    }
    let Some(superblock) = view.superblocks.get(&target) else {
        return Ok(Seen::without_content(State::Empty, superblock::NONE.to_owned()));
    };
    if let Some(why) = view.why_hidden(target) {
        return Ok(Seen::without_content(State::Unknown, why));
    }
    let device = view.devices.get(target).path();
    let seen = match Mounted::private(os, &device, superblock.fs.name(), "show") {
        Ok(mounted) => {
            // Of what a loss of power left of a new file system, the root may be no directory.
            let seen = mounted.open().map(|root| look(&root));
            mounted.unmount()?;
            seen
        }
        Err(error) => Err(error),
    };
    Ok(seen.unwrap_or_else(|error| {
        let seen = Seen::without_content(State::Unknown, error.cause);
        Seen { unmountable: true, ..seen }
    }))
}

fn look<D: Dir>(root: &D) -> Seen {
    let found = record::read(root);
    let software = match &found.record {
        Some(r) => Software { product: r.product.clone(), packages: r.packages.clone() },
        // Without a record there may still be a system; a damaged one is told by its state.
        None => packages::scan(root, None).unwrap_or_default(),
    };
    Seen { found, software, unmountable: false }
}

fn report(view: &View, layout: &Layout, slot: &Slot, seen: Seen) -> SlotReport {
    let medium = view.devices.medium(slot.root);
    let own = medium == view.devices.medium(layout.root().source);
    let record = seen.found.record;
    SlotReport {
        slot: slot.number,
        device: view.node(slot.root),
        medium: if own { "internal" } else { "external" },
        role: if slot.active { "primary" } else { "backup" },
        booted: slot.running,
        active: slot.active,
        state: seen.found.state,
        reason: seen.found.reason,
        unmountable: seen.unmountable,
        created: record.as_ref().map(|r| r.created),
        verified: record.as_ref().map(|r| r.verified),
        product: view.config.product.clone().or(seen.software.product.map(|p| p.name)),
        packages: seen.software.packages,
        content: record.as_ref().is_some_and(|r| r.factory).then_some("factory"),
        files: record.as_ref().map(|r| r.files),
        bytes: record.as_ref().map(|r| r.bytes),
    }
}
