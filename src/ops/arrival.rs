//! How the running slot came up: told once per start, kept in the journal, shown while it matters.

use std::ffi::OsStr;
use std::path::Path;

use jiff::Timestamp;

use super::journal::{self, Store};
use super::{Session, durable, notice, observe};
use crate::error::Result;
use crate::record::USED;
use crate::record::journal::{Auto, AutoSnapshot, Boot, How, Journal, Trial};
use crate::slot::arrival::{Arrival, arrival};
use crate::slot::discover::Layout;
use crate::slot::view::View;
use crate::slot::{Slot, notice as text};
use crate::sys::Os;
use crate::sys::tree::Dir;
use crate::table::Scheme;

/// What is known of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Found {
    /// How it came about, and which slot was meant.
    pub(super) arrival: Arrival,
    /// The journal, with this start in it.
    pub(super) journal: Journal,
}

impl Found {
    /// Whether another slot was meant to run, and nobody has settled that.
    pub(super) fn is_open(&self) -> bool {
        let state = self.journal.auto_snapshot.as_ref().map(|auto| auto.state);
        self.arrival.how == How::Fallback && state != Some(Auto::Completed)
    }
}

/// The trial by nextboot(8) that this start is, with what tells this start from others, until the
/// journal has seen it. Where each slot has a journal of its own, that of the slot that is tried knows
/// nothing but by what the loader left.
///
/// # Errors
/// The system does not tell which start this is.
fn unseen_trial<O: Os>(
    os: &O,
    view: &View,
    layout: &Layout,
    journal: &Journal,
) -> Result<Option<(Trial, String)>> {
    if view.root != Path::new("/") {
        return Ok(None);
    }
    let started = os.boot()?;
    let seen = journal.boot.as_ref().is_some_and(|boot| boot.id == started.id);
    let running = layout.running().number;
    let trial = view.nextboot_trial(layout, &started);
    let runs = trial.filter(|trial| !seen && trial.slot.slot == running);
    Ok(runs.map(|trial| (trial, started.id)))
}

/// Takes such a trial up in a journal that was read: seen from now on, its end is its end.
///
/// # Errors
/// As [`look`].
pub(super) fn adopt<O: Os>(
    os: &O,
    view: &View,
    layout: &Layout,
    journal: &mut Journal,
) -> Result<()> {
    if let Some((trial, id)) = unseen_trial(os, view, layout, journal)? {
        let (time, slot, how) = (Timestamp::now(), trial.slot.clone(), How::Trial);
        journal.boot = Some(Boot { id, time, slot, how });
        take_up(journal, trial);
    }
    Ok(())
}

/// The slot that it was begun from has run, and nobody has written to it since.
fn take_up(journal: &mut Journal, trial: Trial) {
    if !journal.proven.contains(&trial.from) {
        journal.proven.push(trial.from.clone());
    }
    journal.trial = Some(trial);
}

/// Tells how this start came about. Writes nothing.
///
/// # Errors
/// The system does not tell which start this is; or another version of this program keeps the
/// journal.
pub(super) fn look<O: Os>(os: &O, view: &View, layout: &Layout) -> Result<Found> {
    let mut journal = Store::of(view, layout).read(os).current()?;
    if let Some((trial, _)) = unseen_trial(os, view, layout, &journal)? {
        take_up(&mut journal, trial);
    }
    let selection = view.selection_of(layout);
    let several = selection.as_ref().is_some_and(|s| s.table.scheme == Scheme::Gpt);
    let next = selection.map(|s| s.next()).unwrap_or_default();
    let place = |slot: &Slot| journal::place(view, slot);
    let mut arrival = arrival(layout, &next, several, &journal, place);
    let other = place(layout.alternate());
    let running = place(layout.running());
    let id = os.boot()?.id;
    match journal.boot.take() {
        // The same start: what was chosen since is for the next one.
        Some(boot) if boot.id == id && boot.slot == running => {
            if arrival.how == How::Fallback || boot.how != How::Fallback {
                arrival.how = boot.how;
            }
            journal.boot = Some(boot);
        }
        last => {
            // What ran before is a system that came up, and nobody has written to its slot since.
            if last.is_some_and(|last| last.slot == other) && !journal.proven.contains(&other) {
                journal.proven.push(other.clone());
            }
            // What was found and done after an earlier start says nothing of this one.
            journal
                .auto_snapshot
                .take_if(|auto| matches!(auto.state, Auto::Completed | Auto::Disabled));
            let (time, how) = (Timestamp::now(), arrival.how);
            journal.boot = Some(Boot { id, time, slot: running.clone(), how });
        }
    }
    if arrival.how == How::Fallback {
        // While it is repaired the flags say something else.
        journal.intended = Some(other.clone());
    }
    if arrival.how == How::Planned && arrival.meant == running.slot {
        let repaired = journal.intended.as_ref() == Some(&running);
        // What was found of the other slot is settled.
        journal.auto_snapshot.take_if(|auto| auto.state == Auto::Disabled && auto.why.is_some());
        if let Some(auto) = &mut journal.auto_snapshot
            && matches!(auto.state, Auto::InProgress | Auto::Failed)
        {
            // Power was lost after the flags were back, or somebody else has settled it.
            let state = if repaired { Auto::Completed } else { Auto::Disabled };
            *auto = AutoSnapshot { state, why: None, when: Timestamp::now() };
        }
        journal.intended = Some(running);
    }
    Ok(Found { arrival, journal })
}

/// The same, written down.
///
/// # Errors
/// As [`look`].
pub(super) fn note<O: Os>(os: &O, view: &View, layout: &Layout) -> Result<Found> {
    let store = Store::of(view, layout);
    let before = store.read(os).journal;
    let mut found = look(os, view, layout)?;
    if before.as_ref() != Some(&found.journal)
        && let Err(e) = store.write(os, &mut found.journal)
    {
        log::warn!("{e}");
    }
    if view.mount_at(&view.root).is_some_and(|m| !m.read_only)
        && let Err(e) = mark(os, view)
    {
        log::warn!("marking the running root as used: {e}");
    }
    Ok(found)
}

/// A root that runs changes: from now on it is not what its manifest says, and none the worse for it.
fn mark<O: Os>(os: &O, view: &View) -> Result<()> {
    let own = durable::own_dir(&os.open_dir(&view.root)?)?;
    match own.stat(OsStr::new(USED)) {
        Ok(_) => Ok(()),
        Err(_) => durable::put(&own, USED, b""),
    }
}

/// Shows the notice while a fall-back is open, and takes it away when it is settled. Returns whether
/// it is shown.
pub(super) fn announce<O: Os>(
    os: &O,
    view: &View,
    layout: &Layout,
    found: &Found,
    product: Option<&str>,
) -> bool {
    if !found.is_open() {
        return notice::show(os, &view.root, None);
    }
    let [meant, running] =
        [layout.alternate(), layout.running()].map(|slot| journal::place(view, slot));
    let mut more = vec![format!("{meant} was to run; {running} runs.")];
    let auto = found.journal.auto_snapshot.as_ref();
    more.extend(auto.and_then(|auto| {
        let why = auto.why.as_deref()?;
        Some(match auto.state {
            Auto::Completed => return None,
            Auto::InProgress => format!("It is being repaired: {why}"),
            Auto::Failed => format!("It could not be repaired: {why}"),
            Auto::Disabled => why.to_owned(),
        })
    }));
    let product = view.config.product.as_deref().or(product).unwrap_or("the software");
    notice::show(os, &view.root, Some(&text::text(product, &more)))
}

/// Takes the notice away where what it tells of is settled by now.
///
/// # Errors
/// As [`note`].
pub(super) fn settle<O: Os>(os: &O, session: &Session) -> Result<()> {
    if !notice::is_up(os, &os.canonical(&session.root)?)? {
        return Ok(());
    }
    let view = observe::view(os, session)?;
    let layout = view.discover()?;
    let found = note(os, &view, &layout)?;
    if !found.is_open() {
        notice::show(os, &view.root, None);
    }
    Ok(())
}
