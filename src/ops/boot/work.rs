//! What the verbs that say which slot starts have in common.

use std::path::Path;

use jiff::Timestamp;
use serde::Serialize;

use super::fitness;
use super::health::Hook;
use super::nextboot;
use crate::error::{Error, Kind, Result};
use crate::ops::flags::{self, Now};
use crate::ops::history::Diary;
use crate::ops::{Session, arrival, journal, show};
use crate::record::journal::{By, Journal, Place, Trial};
use crate::slot::Slot;
use crate::slot::discover::Layout;
use crate::slot::flags::Selection;
use crate::slot::view::View;
use crate::sys::Os;
use crate::table::flags::Change;

/// What was done.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[allow(clippy::struct_excessive_bools)] // four independent facts
pub struct Report {
    /// Version of this shape.
    pub schema: u32,
    /// The slot that starts next.
    pub slot: u32,
    /// Its device.
    pub device: String,
    /// Whether only the next time.
    pub once: bool,
    /// By what a slot is started once.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub by: Option<By>,
    /// The slot whose kernel that is, where it is not its own.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub kernel: Option<u32>,
    /// Whether something had to be changed for it.
    pub changed: bool,
    /// The slots in the order in which they are tried.
    pub next: Vec<show::Next>,
    /// The health hooks that were asked.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub hooks: Vec<Hook>,
    /// Whether another slot runs than the one that starts next.
    pub reboot_due: bool,
    /// Whether the system starts again now.
    pub rebooting: bool,
}

/// What a verb works on.
pub(super) struct Work {
    pub(super) view: View,
    pub(super) layout: Layout,
    /// `None` where no flags of one medium select among the slots.
    pub(super) selection: Option<Selection>,
    pub(super) journal: Journal,
}

/// What is known of the other slot.
pub(super) struct Other {
    /// Whether it is one to start from. Why not, otherwise.
    pub(super) good: Result<()>,
    /// Whether its loader would do what a trial of ours told it once: it could not write that it has.
    pub(super) armed: bool,
}

/// What a verb changes besides the journal.
pub(super) struct Deed<'a> {
    pub(super) flags: Option<&'a Change>,
    /// The file by which a slot is started once. Without one there shall be none.
    pub(super) file: Option<&'a [u8]>,
    /// Whether the other slot has one that is to go.
    pub(super) other: bool,
}

impl Work {
    pub(super) fn new<O: Os>(diary: &Diary<'_, O>, view: View, layout: Layout) -> Result<Self> {
        let selection = view.selection_of(&layout);
        match &selection {
            Some(selection) => flags::guard(&view, selection)?,
            None => view.guard_tables(layout.root().source)?,
        }
        let journal = diary.journal(&view, &layout)?;
        let mut work = Self { view, layout, selection, journal };
        // One that waits and of which the journal knows nothing can be given up, too.
        if let (None, Some(file)) = (&work.journal.trial, &work.view.nextboot) {
            let place = work.place(work.running().number);
            let waits = |trial: &Trial| file.enabled && trial.from == place;
            work.journal.trial = file.trial.clone().filter(waits);
        }
        Ok(work)
    }

    /// Writes down what the journal had not seen of this start.
    pub(super) fn take_up(&self, journal: &mut Journal) {
        journal.boot.clone_from(&self.journal.boot);
        journal.proven.clone_from(&self.journal.proven);
        journal.auto_snapshot.clone_from(&self.journal.auto_snapshot);
    }

    /// Somebody has chosen a slot: no repair of the other one is to go on.
    pub(super) fn intend(&self, journal: &mut Journal, number: u32) {
        journal.intended = Some(self.place(number));
        journal.auto_snapshot.take_if(|auto| auto.state.is_unfinished());
    }

    pub(super) fn slot(&self, number: u32) -> &Slot {
        self.layout.slot(number)
    }

    pub(super) fn running(&self) -> &Slot {
        self.layout.running()
    }

    pub(super) fn place(&self, number: u32) -> Place {
        journal::place(&self.view, self.slot(number))
    }

    pub(super) fn is(&self, place: &Place, number: u32) -> bool {
        *place == self.place(number)
    }

    /// Whether a trial waits for the next start.
    pub(super) fn is_armed(&self, number: u32) -> bool {
        let next = self.selection.as_ref().and_then(|s| s.next().first().copied());
        next.is_some_and(|next| next.once && next.slot == number)
    }

    /// The trial that the journal knows of; or one that waits and that it does not know: what ended it
    /// was stopped between the journal and the flags.
    pub(super) fn trial(&self) -> Option<Trial> {
        let (running, other) = (self.running().number, self.layout.alternate().number);
        let armed = || {
            let (slot, from) = (self.place(other), self.place(running));
            let trial = Trial { slot, from, armed: Timestamp::now(), by: By::Flags };
            self.is_armed(other).then_some(trial)
        };
        self.journal.trial.clone().or_else(armed)
    }

    /// Looks at the other slot. `visit` sees its root, where that can be mounted.
    pub(super) fn other<O: Os>(&self, os: &O, visit: &mut dyn FnMut(&O::Dir)) -> Result<Other> {
        let mut file = Ok(None);
        let visit = &mut |root: &O::Dir| {
            file = nextboot::of(root);
            visit(root);
        };
        let (view, layout, selection) = (&self.view, &self.layout, self.selection.as_ref());
        let good = fitness::look(os, view, layout, selection, &self.journal, visit)?;
        // What cannot be read does nothing at the next start, either.
        let file = file.ok().flatten();
        Ok(Other { good, armed: file.is_some_and(|file| file.enabled && file.trial.is_some()) })
    }

    /// Does it, and puts the journal back where nothing came of it.
    pub(super) fn set<O: Os>(&self, os: &O, diary: &Diary<'_, O>, deed: &Deed<'_>) -> Result<()> {
        let Err(error) = self.write(os, deed) else { return Ok(()) };
        let error = error.once_begun();
        if deed.file.is_some_and(|text| nextboot::is_there(os, &self.view, text)) {
            return Err(error);
        }
        let before = self.journal.clone();
        let same = self.selection.as_ref().zip(deed.flags).is_none_or(|(selection, change)| {
            let now = flags::look(os, &self.view, selection.medium, change);
            change.is_empty() || now.is_ok_and(|now| now == Now::Old)
        });
        if same || deed.file.is_some() {
            let back = diary.note(|journal| {
                (journal.trial, journal.proven) = (before.trial, before.proven);
                if same {
                    journal.intended = before.intended;
                    journal.auto_snapshot = before.auto_snapshot;
                }
            });
            if let Err(e) = back {
                log::warn!("{e}");
            }
        }
        Err(error)
    }

    /// A file that is not to be acted on goes first: what the flags select would read it.
    fn write<O: Os>(&self, os: &O, deed: &Deed<'_>) -> Result<()> {
        if deed.file.is_none() {
            nextboot::remove(os, &self.view)?;
        }
        if deed.other {
            nextboot::remove_there(os, &self.view, &self.layout)?;
        }
        if let (Some(selection), Some(change)) = (&self.selection, deed.flags) {
            let through = self.view.devices.get(self.layout.root().target).path();
            flags::apply(os, &self.view, selection.medium, change, &through)?;
        }
        deed.file.map_or(Ok(()), |text| nextboot::put(os, &self.view, text))
    }

    pub(super) fn report(&self, deed: &Deed<'_>, slot: u32, by: Option<By>) -> Report {
        let running = self.running().number;
        // What others have set up stays.
        let theirs = self.view.nextboot.as_ref().is_some_and(|file| file.trial.is_none());
        let stays = |s: &Selection| s.nextboot.filter(|_| theirs && slot == running);
        let after = self.selection.as_ref().map(|s| Selection {
            nextboot: deed.file.map_or_else(|| stays(s), |_| Some(slot)),
            ..deed.flags.map_or_else(|| s.clone(), |change| s.after(change))
        });
        let next = after.map(|s| s.next()).unwrap_or_default();
        let waited = self.selection.as_ref().is_some_and(|s| s.nextboot.is_some() && !theirs);
        let flagged = deed.flags.is_some_and(|change| !change.is_empty());
        Report {
            schema: 1,
            slot,
            device: self.view.node(self.slot(slot).root),
            once: by.is_some(),
            by,
            kernel: deed.file.map(|_| running),
            changed: flagged || waited || deed.other || deed.file.is_some(),
            next: show::next(&self.view, &self.layout, &next),
            hooks: Vec::new(),
            reboot_due: slot != running,
            rebooting: false,
        }
    }
}

/// Only the system that runs can be started again, and it is not the one on another root.
pub(super) fn only_here<O: Os>(os: &O, session: &Session, reboot: bool) -> Result<()> {
    if !reboot || os.canonical(&session.root)? == Path::new("/") {
        return Ok(());
    }
    let cause = "--reboot starts this machine again, and not the system on another root";
    Err(Error::new(Kind::Usage, "", cause).path(&session.root).hint("leave it away"))
}

/// The notice of a fall-back goes where a choice settles it.
pub(super) fn settle<O: Os>(os: &O, session: &Session) {
    if let Err(error) = arrival::settle(os, session) {
        log::warn!("{error}");
    }
}
