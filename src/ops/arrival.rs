//! How the running slot came up: told once per start, kept in the journal, shown while it matters.

use jiff::Timestamp;

use super::journal::{self, Store};
use super::{Session, notice, observe, record};
use crate::error::Result;
use crate::record::journal::{Auto, AutoSnapshot, Boot, By, How, Journal, Place, Trial};
use crate::slot::arrival::{Arrival, Order, arrival};
use crate::slot::discover::Layout;
use crate::slot::flags::Selection;
use crate::slot::view::View;
use crate::slot::{Slot, notice as text};
use crate::sys::Os;

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

/// Takes this start up in a journal that was read, unless that has seen it: how it came about, and the
/// trial that it is. Where each slot has a journal of its own, that of the slot that is tried knows of
/// the trial only by what the loader left, or by the flags.
///
/// # Errors
/// The system does not tell which start this is.
pub(super) fn adopt<O: Os>(
    os: &O,
    view: &View,
    layout: &Layout,
    journal: &mut Journal,
) -> Result<Arrival> {
    let started = observe::started(os, view)?;
    let place = |slot: &Slot| journal::place(view, slot);
    let [running, other] = [layout.running(), layout.alternate()].map(place);
    let seen = journal.boot.as_ref().filter(|b| b.id == started.id && b.slot == running);
    let seen = seen.map(|boot| boot.how);
    let marked = view.nextboot_trial(layout, &started).filter(|trial| trial.slot == running);
    let is_marked = marked.is_some();
    if let (None, Some(trial)) = (seen, marked) {
        take_up(journal, trial);
    }
    let selection = view.selection_of(layout);
    let order = selection.as_ref().map_or(Order::One, Selection::starts);
    let next = selection.map(|s| s.next()).unwrap_or_default();
    let mut arrival = arrival(layout, &next, order, is_marked, journal, place);
    if let Some(how) = seen {
        // What was chosen since is for the next one.
        if arrival.how == How::Fallback || how != How::Fallback {
            arrival.how = how;
        }
        return Ok(arrival);
    }
    journal.trial.take_if(|_| arrival.stale_trial);
    let (time, how) = (Timestamp::now(), arrival.how);
    let boot = Boot { id: started.id, time, slot: running.clone(), how };
    // What ran before is a system that came up, and nobody has written to its slot since.
    if journal.boot.replace(boot).is_some_and(|last| last.slot == other) {
        journal.prove(&other);
    }
    // What was found and done after an earlier start says nothing of this one.
    journal.auto_snapshot.take_if(|auto| !auto.state.is_unfinished());
    if how == How::Trial && journal.trial.as_ref().is_none_or(|trial| trial.slot != running) {
        take_up(journal, Trial { slot: running, from: other, armed: time, by: By::Flags });
    }
    Ok(arrival)
}

/// The slot that a trial was begun from has run, and nobody has written to it since.
fn take_up(journal: &mut Journal, trial: Trial) {
    journal.prove(&trial.from);
    journal.trial = Some(trial);
}

/// Tells how this start came about. Writes nothing.
///
/// # Errors
/// The system does not tell which start this is; or another version of this program keeps the
/// journal.
pub(super) fn look<O: Os>(os: &O, view: &View, layout: &Layout) -> Result<Found> {
    let mut journal = Store::of(view, layout).read(os).current()?;
    let arrival = adopt(os, view, layout, &mut journal)?;
    let place = |slot: &Slot| journal::place(view, slot);
    if arrival.how == How::Fallback {
        // While it is repaired the flags say something else.
        journal.intended = Some(place(layout.alternate()));
    }
    if arrival.how == How::Planned && arrival.meant == layout.running().number {
        end_repair(&mut journal, place(layout.running()));
    }
    Ok(Found { arrival, journal })
}

/// Takes the slot that runs for the one that was chosen: it was, and its journal did not know that.
pub(super) fn choose(journal: &mut Journal, running: Place) {
    journal.intended = Some(running);
    journal.auto_snapshot = None;
    if let Some(boot) = &mut journal.boot {
        boot.how = How::Planned;
    }
}

/// The slot that runs was meant to: nothing of the other one is open any more.
fn end_repair(journal: &mut Journal, running: Place) {
    let repaired = journal.intended.as_ref() == Some(&running);
    match journal.auto_snapshot.as_ref().map(|auto| auto.state) {
        // Power was lost after the flags were back.
        Some(Auto::InProgress) if repaired => {
            let (state, when) = (Auto::Completed, Timestamp::now());
            journal.auto_snapshot = Some(AutoSnapshot { state, why: None, when });
        }
        Some(Auto::Completed) | None => {}
        // Somebody else has settled it.
        Some(Auto::InProgress | Auto::Failed | Auto::Disabled) => journal.auto_snapshot = None,
    }
    journal.intended = Some(running);
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
        journal::tell(&e);
    }
    mark(os, view, layout);
    Ok(found)
}

/// A root that runs changes: from now on it is not what its manifest says, and none the worse for it. The
/// other slot may have a journal of its own, which does not know that this one has run: the mark says so
/// there, too.
pub(super) fn mark<O: Os>(os: &O, view: &View, layout: &Layout) {
    if view.mount_at(&view.root).is_none_or(|m| m.read_only) {
        return;
    }
    let node = view.node(layout.running().root);
    if let Err(e) = os.open_dir(&view.root).and_then(|root| record::put_mark(&root, &node)) {
        log::warn!("marking the running root as used: {e}");
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
