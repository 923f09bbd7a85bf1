//! `dualroot boot`, `confirm` and `reject`: which slot starts, for good or on trial.

use jiff::Timestamp;
use serde::Serialize;

use super::flags::{self, Now};
use super::health::{self, Hook};
use super::history::{self, Diary};
use super::journal;
use super::lock::{self, Observed};
use super::starter::{self, Starter};
use super::{Session, arrival, record, show};
use crate::error::{Error, Kind, Result};
use crate::record::journal::{Journal, Place, Trial};
use crate::slot::discover::Layout;
use crate::slot::flags::Selection;
use crate::slot::view::View;
use crate::slot::{Choice, Slot, State};
use crate::sys::Os;
use crate::table::Scheme;
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
    /// Whether flags had to be changed for it.
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
struct Work {
    view: View,
    layout: Layout,
    /// `None` where no flags of one medium select among the slots.
    selection: Option<Selection>,
    journal: Journal,
}

impl Work {
    fn new<O: Os>(diary: &Diary<'_, O>, view: View, layout: Layout) -> Result<Self> {
        let selection = view.selection_of(&layout);
        match &selection {
            Some(selection) => flags::guard(&view, selection)?,
            None => view.guard_tables(layout.root().source)?,
        }
        let journal = diary.journal(&view, &layout)?;
        Ok(Self { view, layout, selection, journal })
    }

    fn slot(&self, number: u32) -> &Slot {
        &self.layout.slots[usize::from(number == 2)]
    }

    fn running(&self) -> &Slot {
        self.slot(3 - self.layout.alternate().number)
    }

    fn place(&self, number: u32) -> Place {
        journal::place(&self.view, self.slot(number))
    }

    fn is(&self, place: &Place, number: u32) -> bool {
        *place == self.place(number)
    }

    /// Whether a trial waits for the next start.
    fn is_armed(&self, number: u32) -> bool {
        let next = self.selection.as_ref().and_then(|s| s.next().first().copied());
        next.is_some_and(|next| next.once && next.slot == number)
    }

    /// Whether the other slot is one to start from: valid, or known to have run and not written
    /// since. Why not, otherwise.
    fn is_good<O: Os>(&self, os: &O) -> Result<std::result::Result<(), String>> {
        let alternate = self.layout.alternate().number;
        let mut ran = false;
        let visit = &mut |root: &O::Dir| ran = record::has_run(root);
        let seen = show::whole(os, &self.view, &self.layout, visit)?.found;
        let proven = ran || self.journal.proven.iter().any(|p| self.is(p, alternate));
        Ok(match seen.state {
            State::Valid => Ok(()),
            State::Invalid if proven => Ok(()),
            state => Err(format!("{} ({})", state.name(), seen.reason.unwrap_or_default())),
        })
    }

    /// Sets flags, and puts the journal back where nothing came of it.
    fn set<O: Os>(&self, os: &O, diary: &Diary<'_, O>, change: &Change) -> Result<()> {
        let Some(selection) = &self.selection else { return Ok(()) };
        let (medium, view) = (selection.medium, &self.view);
        let through = view.devices.get(self.layout.root().target).path();
        let error = match flags::apply(os, view, medium, change, &through) {
            Ok(()) => return Ok(()),
            // After the first write nothing is a refusal any more.
            Err(error) if error.kind == Kind::Refused => error.kind(Kind::Failed),
            Err(error) => error,
        };
        if flags::look(os, view, medium, change).is_ok_and(|now| now == Now::Old) {
            let before = self.journal.clone();
            let back = diary.note(|journal| {
                (journal.intended, journal.trial) = (before.intended, before.trial);
                journal.proven = before.proven;
            });
            if let Err(e) = back {
                log::warn!("{e}");
            }
        }
        Err(error)
    }

    fn report(&self, change: Option<&Change>, slot: u32, once: bool) -> Report {
        let after = self.selection.as_ref().map(|s| match change {
            Some(change) => s.after(change),
            None => s.clone(),
        });
        let next = after.map(|s| s.next()).unwrap_or_default();
        Report {
            schema: 1,
            slot,
            device: self.view.node(self.slot(slot).root),
            once,
            changed: change.is_some_and(|c| !c.is_empty()),
            next: show::next(&self.view, &self.layout, &next),
            hooks: Vec::new(),
            reboot_due: slot != self.running().number,
            rebooting: false,
        }
    }
}

fn forbidden<O: Os>(os: &O) -> Result<()> {
    os.forbids()?.map_or(Ok(()), |reason| Err(Error::refused(reason)))
}

fn restart<O: Os>(os: &O, wanted: bool, report: &mut Report) -> Result<()> {
    if wanted {
        os.reboot()?;
        report.rebooting = true;
    }
    Ok(())
}

/// Lets a slot start next: for good, or `once`.
///
/// # Errors
/// Refused (exit 6): there is no such slot, nothing says that it is good, or nobody obeys the flags.
/// Later ones leave what the message says.
pub fn run<O: Os>(
    os: &O,
    session: &Session,
    choice: Choice,
    once: bool,
    reboot: bool,
) -> Result<Report> {
    forbidden(os)?;
    let Observed { locks: _locks, view, layout, .. } =
        lock::observed(os, session, "boot", true, |_, _| Ok(()))?;
    let mut report = history::told(os, "boot", |diary| {
        let work = Work::new(diary, view, layout)?;
        let found = work.layout.slots.iter().find(|slot| choice.matches(slot));
        let Some(slot) = found.copied() else {
            return Err(Error::new(Kind::Usage, "", "there are slots 1 and 2"));
        };
        select(os, diary, &work, slot, once)
    })?;
    settle(os, session);
    restart(os, reboot, &mut report)?;
    Ok(report)
}

/// The notice of a fall-back goes where a choice settles it.
fn settle<O: Os>(os: &O, session: &Session) {
    if let Err(error) = arrival::settle(os, session) {
        log::warn!("{error}");
    }
}

fn select<O: Os>(
    os: &O,
    diary: &mut Diary<'_, O>,
    work: &Work,
    slot: Slot,
    once: bool,
) -> Result<Report> {
    let Work { view, layout, journal, .. } = work;
    let (number, running) = (slot.number, work.running().number);
    let node = view.node(slot.root);
    let Some(selection) = &work.selection else {
        return Err(Error::refused("the slots are on two media: no flag selects among them")
            .hint("choose in the firmware which medium it starts from"));
    };
    let started = starter(os, view, selection, once, number)?;
    if once && slot.running {
        return Err(Error::refused(format!(
            "slot {number} ({node}) is running: there is nothing to try"
        )));
    }
    if let Some(trial) = journal.trial.as_ref().filter(|t| once && work.is(&t.slot, running)) {
        let number = trial.slot.slot;
        return Err(Error::refused(format!("slot {number} is itself on trial"))
            .hint("dualroot confirm or dualroot reject ends that first"));
    }
    let good = work.is_good(os)?;
    if let Err(why) = &good
        && !slot.running
    {
        return Err(Error::refused(format!("slot {number} ({node}) is {why}"))
            .hint("dualroot snapshot makes a copy that can be started"));
    }
    if let Some(why) = started {
        log::warn!("{}: {why}", view.node(selection.medium));
    }
    let other_is_good = !slot.running || good.is_ok();
    let change =
        if once { selection.once(number) } else { Some(selection.select(number, other_is_good)) };
    let Some(change) = change else { return Err(no_once(number, running)) };
    let (from, to) = (work.place(running), work.place(number));
    let trial = Trial { slot: to.clone(), from: from.clone(), armed: Timestamp::now() };
    let intend = |journal: &mut Journal| {
        journal.intended = Some(if once { from.clone() } else { to.clone() });
        journal.trial = once.then(|| trial.clone());
        journal.proven.retain(|place| place.slot != from.slot);
        journal.proven.push(from.clone());
    };
    let ends = (view.node(layout.root().source), node);
    match diary.begin(view, layout, ends, intend) {
        Err(e) if once => {
            let cause = format!("nothing would know of the trial: {e}");
            return Err(Error::refused(cause).hint("mount /config or /var read-write"));
        }
        Err(e) if history::is_only_lost(&e) => {}
        done => done?,
    }
    work.set(os, diary, &change)?;
    Ok(work.report(Some(&change), number, once))
}

fn no_once(number: u32, running: u32) -> Error {
    Error::refused("an MBR has no flag for one start only").hint(format!(
        "dualroot boot {number} now, and dualroot boot {running} there unless it is good: until \
         then nothing leads back by itself"
    ))
}

/// Whether flags can be relied on; a warning where that is not sure.
fn starter<O: Os>(
    os: &O,
    view: &View,
    selection: &Selection,
    once: bool,
    number: u32,
) -> Result<Option<&'static str>> {
    let medium = view.node(selection.medium);
    if !selection.is_started() {
        let kind = selection.kind();
        let cause = format!("gptboot starts freebsd-ufs, and the slots are {kind}");
        return Err(Error::refused(cause).path(medium));
    }
    if once && selection.table.scheme != Scheme::Gpt {
        return Err(no_once(number, 3 - number));
    }
    let hint =
        "put /boot/gptboot.efi there as EFI/BOOT/BOOTX64.EFI, or choose at the loader's prompt";
    match starter::look(os, view, selection)? {
        Starter::Obeys => Ok(None),
        Starter::Ignores(why) => Err(Error::refused(why).path(medium).hint(hint)),
        Starter::Unknown(why) if once => Err(Error::refused(why)
            .path(medium)
            .hint("a trial needs gptboot(8) or gptboot.efi(8), which end it by themselves")),
        Starter::Unknown(why) => Ok(Some(why)),
    }
}

/// Makes the running slot the one that starts from now on, where its health hooks are content.
///
/// # Errors
/// One of them is not (exit 1): then nothing changes. A trial of the other slot waits (exit 6).
pub fn confirm<O: Os>(os: &O, session: &Session) -> Result<Report> {
    forbidden(os)?;
    let Observed { locks: _locks, view, layout, .. } =
        lock::observed(os, session, "confirm", true, |_, _| Ok(()))?;
    let report = history::told(os, "confirm", |diary| {
        let work = Work::new(diary, view, layout)?;
        let number = work.running().number;
        if work.is_armed(3 - number) {
            let cause = format!("a trial of slot {} waits for the next start", 3 - number);
            return Err(Error::refused(cause).hint("dualroot reject gives it up"));
        }
        let from = work
            .journal
            .trial
            .as_ref()
            .map_or_else(|| work.view.node(work.running().root), |trial| trial.from.device.clone());
        let to = work.view.node(work.running().root);
        let hooks = health::run(os, session, &work.view)?;
        diary.details = hooks.iter().map(Hook::line).collect();
        if let Err(e) = diary.begin(&work.view, &work.layout, (from, to), |_| {}) {
            // Flags that say so and a journal that says otherwise are no end of a trial.
            if work.journal.trial.is_some() || !history::is_only_lost(&e) {
                return Err(e);
            }
        }
        if let Some(hook) = hooks.iter().find(|hook| !hook.passed) {
            let error = Error::new(Kind::Failed, "confirming", &hook.result);
            let path = work.view.below(health::DIR).join(&hook.name);
            let error = error.path(path).during(format!("slot {number} is not healthy"));
            let said = hook.output.lines().next_back().unwrap_or_default();
            let hint = if said.is_empty() { String::new() } else { format!("it said: {said}; ") };
            return Err(error.hint(format!("{hint}nothing was changed")));
        }
        let good = work.is_good(os)?.is_ok();
        let change = work.selection.as_ref().map(|s| s.select(number, good));
        if let Some(change) = &change {
            work.set(os, diary, change)?;
        }
        // Only now: nothing is marked as good of which the flags say otherwise.
        let known = diary.note(|journal| {
            journal.intended = Some(work.place(number));
            journal.trial = None;
        });
        if let Err(e) = known
            && (work.journal.trial.is_some() || !history::is_only_lost(&e))
        {
            return Err(e);
        }
        let mut report = work.report(change.as_ref(), number, false);
        report.hooks = hooks;
        Ok(report)
    })?;
    settle(os, session);
    Ok(report)
}

/// Ends a trial: the slot that ran before it starts from now on.
///
/// # Errors
/// There is no trial (exit 6).
pub fn reject<O: Os>(os: &O, session: &Session, reboot: bool) -> Result<Report> {
    forbidden(os)?;
    let Observed { locks: _locks, view, layout, .. } =
        lock::observed(os, session, "reject", true, |_, _| Ok(()))?;
    let mut report = history::told(os, "reject", |diary| {
        let work = Work::new(diary, view, layout)?;
        let running = work.running().number;
        let Some(trial) = &work.journal.trial else {
            return Err(Error::refused("there is no trial").hint(format!(
                "dualroot boot {} lets the other slot start",
                work.layout.alternate().number
            )));
        };
        let number = trial.from.slot;
        if !work.is(&trial.from, number) || !work.is(&trial.slot, 3 - number) {
            let cause = format!("the trial was of {}, which is no slot now", trial.slot.device);
            return Err(Error::refused(cause).hint("dualroot confirm keeps the running slot"));
        }
        let good = running != number || work.is_good(os)?.is_ok();
        let change = work.selection.as_ref().map(|s| s.select(number, good));
        let ends = (trial.slot.device.clone(), trial.from.device.clone());
        let back = |journal: &mut Journal| {
            journal.intended = Some(work.place(number));
            journal.trial = None;
        };
        diary.begin(&work.view, &work.layout, ends, back)?;
        if let Some(change) = &change {
            work.set(os, diary, change)?;
        }
        Ok(work.report(change.as_ref(), number, false))
    })?;
    settle(os, session);
    restart(os, reboot, &mut report)?;
    Ok(report)
}
