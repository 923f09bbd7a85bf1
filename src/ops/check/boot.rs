//! What is wrong with the way a slot is started.

use crate::error::Result;
use crate::finding::{Finding, Severity};
use crate::ops::boot::nextboot;
use crate::ops::journal::{self, Store};
use crate::ops::show::{self, Stage};
use crate::ops::{arrival, fsck, history, lock};
use crate::record::journal::{Auto, AutoSnapshot, How, Journal};
use crate::slot::discover::Layout;
use crate::slot::nextboot::PATH;
use crate::slot::view::View;
use crate::slot::{Pair, Slot};
use crate::sys::tree::Dir;
use crate::sys::{FsType, Os, Snapshots};
use crate::table::check::Place;

pub(super) fn flags(view: &View, layout: &Layout) -> Option<Finding> {
    let alternate = layout.alternate();
    alternate.active.then(|| {
        let node = view.node(alternate.root);
        let what = format!("the boot flags select it, but {} is running", {
            view.node(layout.root().source)
        });
        let number = layout.running().number;
        let hint = format!(
            "was it a choice, start again; was it a fall-back, see why it did not come up, then make \
             the running slot active: dualroot boot {number}"
        );
        Finding::warning("active-not-running", node, what, hint)
    })
}

/// A slice that is no root starts next.
pub(super) fn stray(view: &View, layout: &Layout) -> Option<Finding> {
    let selection = view.selection_of(layout)?;
    let index = view.stray(&selection)?;
    let place = view.place(selection.medium, Place::Slice(index));
    let what = "it is the slice that starts next, and holds the root of neither slot";
    let number = layout.running().number;
    let hint = format!("make the running slot active: dualroot boot {number}");
    Some(Finding::error("active-not-a-root", place, what, hint))
}

pub(super) fn boot0_differs(view: &View, layout: &Layout) -> Option<Finding> {
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
pub(super) fn kept<O: Os>(
    os: &O,
    view: &View,
    layout: &Layout,
    findings: &mut Vec<Finding>,
) -> Result<()> {
    let found = Store::of(view, layout).read(os);
    let place = || view.below(journal::VAR).to_string_lossy().into_owned();
    findings.extend(unreadable(&found, &place()));
    let mut journal = found.journal.clone().unwrap_or_default();
    let came = arrival::adopt(os, view, layout, &mut journal)?;
    findings.extend(waiting(view, layout, &journal));
    if found.journal.is_none() && journal.trial.is_none() {
        return Ok(());
    }
    if let Some(operation) = journal::interrupted(os, view, &journal)? {
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
    let unfinished = journal.auto_snapshot.as_ref().filter(|auto| auto.state.is_unfinished());
    if let Some(auto) = unfinished {
        // Of another one that was chosen since, nothing says so.
        if came.how == How::Fallback {
            findings.push(repair(os, view, layout, auto)?);
        }
        // While it lasts the flags are on the running slot, and nobody has chosen that.
        return Ok(());
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

/// What is wrong with the places of the journal. Where one of them may hold what this program must
/// not write over, everything that writes is refused.
fn unreadable(found: &journal::Found, place: &str) -> Vec<Finding> {
    let error = |why: String, hint| Finding::error("journal-unreadable", place, why, hint);
    let warning = |why: &String| {
        let hint = "the next run writes it anew";
        Finding::warning("journal-unreadable", place, why, hint)
    };
    let foreign = found.foreign.iter().map(|why| error(why.clone(), journal::FOREIGN));
    let unread = found.unread.iter().map(|why| {
        error(why.to_string(), "see what is wrong there: until then nothing is written")
    });
    foreign.chain(found.damaged.iter().map(warning)).chain(unread).collect()
}

/// The repair of the other slot at boot, which is not done.
fn repair<O: Os>(os: &O, view: &View, layout: &Layout, auto: &AutoSnapshot) -> Result<Finding> {
    let place = view.node(layout.root().target);
    let why = auto.why.as_ref().map_or_else(String::new, |why| format!(": {why}"));
    let told = |severity, what: &str, hint| {
        Finding::new(severity, "repair-unfinished", place, format!("{what}{why}"), hint)
    };
    Ok(if auto.state == Auto::Failed {
        let hint = "see why; dualroot snapshot makes a new copy";
        told(Severity::Warning, "its repair at boot failed", hint)
    } else if matches!(lock::shared_system(os, view)?, lock::Reading::Taken(_)) {
        told(Severity::Info, "it is being repaired", "wait until it is done")
    } else {
        let hint = "dualroot auto-snapshot, and the next start, go on with it";
        told(Severity::Warning, "its repair at boot was begun, and is not done", hint)
    })
}

/// What the loader of the running slot would do once, and nobody knows of.
fn waiting(view: &View, layout: &Layout, journal: &Journal) -> Option<Finding> {
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
pub(super) fn nextboot_there<D: Dir>(view: &View, layout: &Layout, root: &D) -> Option<Finding> {
    let file = nextboot::of(root).ok()??;
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
pub(super) fn fsck_asks<O: Os>(os: &O, view: &View, layout: &Layout) -> Result<Option<Finding>> {
    if os.snapshots()? == Snapshots::None || view.config.file_system_snapshots != Some(true) {
        return Ok(None);
    }
    let is_written = |pair: &&Pair| {
        let mount = view.source_mount(pair);
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
