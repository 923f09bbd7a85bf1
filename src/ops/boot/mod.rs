//! `dualroot boot`, `confirm` and `reject`: which slot starts, for good or on trial.

pub mod health;
pub(super) mod nextboot;
mod same_kernel;
mod starter;

use jiff::Timestamp;
use serde::Serialize;

use self::health::Hook;
use self::starter::Starter;
use crate::error::{Error, Kind, Result};
use crate::ops::flags::{self, Now};
use crate::ops::history::{self, Diary};
use crate::ops::lock::{self, Observed};
use crate::ops::{Session, arrival, journal, record, show};
use crate::record::journal::{By, Journal, Place, Trial};
use crate::slot::discover::Layout;
use crate::slot::flags::Selection;
use crate::slot::view::View;
use crate::slot::{Choice, Slot, State, nextboot as text};
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
struct Work {
    view: View,
    layout: Layout,
    /// `None` where no flags of one medium select among the slots.
    selection: Option<Selection>,
    journal: Journal,
}

/// What is known of the other slot.
struct Other {
    /// Whether it is one to start from: valid, or known to have run and not written since. Why not,
    /// otherwise.
    good: std::result::Result<(), String>,
    /// Whether its loader would do what a trial of ours told it once: it could not write that it has.
    armed: bool,
}

/// What a verb changes besides the journal.
struct Deed<'a> {
    flags: Option<&'a Change>,
    /// The file by which a slot is started once. Without one there shall be none.
    file: Option<&'a [u8]>,
    /// Whether the other slot has one that is to go.
    other: bool,
}

impl Work {
    fn new<O: Os>(diary: &Diary<'_, O>, view: View, layout: Layout) -> Result<Self> {
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
    fn take_up(&self, journal: &mut Journal) {
        journal.boot.clone_from(&self.journal.boot);
        journal.proven.clone_from(&self.journal.proven);
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

    /// The trial that the journal knows of; or one that waits and that it does not know: what ended it
    /// was stopped between the journal and the flags.
    fn trial(&self) -> Option<Trial> {
        let (running, other) = (self.running().number, self.layout.alternate().number);
        let armed = || {
            let (slot, from) = (self.place(other), self.place(running));
            let trial = Trial { slot, from, armed: Timestamp::now(), by: By::Flags };
            self.is_armed(other).then_some(trial)
        };
        self.journal.trial.clone().or_else(armed)
    }

    /// Looks at the other slot. `visit` sees its root, where that can be mounted.
    fn other<O: Os>(&self, os: &O, visit: &mut dyn FnMut(&O::Dir)) -> Result<Other> {
        let alternate = self.layout.alternate().number;
        let (mut ran, mut file) = (false, Ok(None));
        let visit = &mut |root: &O::Dir| {
            ran = record::has_run(root);
            file = nextboot::of(root);
            visit(root);
        };
        let seen = show::whole(os, &self.view, &self.layout, visit)?.found;
        let proven = ran || self.journal.proven.iter().any(|p| self.is(p, alternate));
        let good = match seen.state {
            State::Valid => Ok(()),
            State::Invalid if proven => Ok(()),
            state => Err(format!("{} ({})", state.name(), seen.reason.unwrap_or_default())),
        };
        // What cannot be read does nothing at the next start, either.
        let file = file.ok().flatten();
        Ok(Other { good, armed: file.is_some_and(|file| file.enabled && file.trial.is_some()) })
    }

    /// Does it, and puts the journal back where nothing came of it.
    fn set<O: Os>(&self, os: &O, diary: &Diary<'_, O>, deed: &Deed<'_>) -> Result<()> {
        let Err(error) = self.write(os, deed) else { return Ok(()) };
        // After the first write nothing is a refusal any more.
        let error = if error.kind == Kind::Refused { error.kind(Kind::Failed) } else { error };
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

    fn report(&self, deed: &Deed<'_>, slot: u32, by: Option<By>) -> Report {
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
        select(os, session, diary, &work, slot, once)
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
    session: &Session,
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
    let way = way(os, view, selection, once, number)?;
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
    let by_file = if let Way::Nextboot(refusal) = &way {
        nextboot::is_read(os, view, layout)?.map_err(|why| no_way(refusal, &why))?;
        Some(refusal)
    } else {
        None
    };
    let mut roots = None;
    let other = work.other(os, &mut |root| {
        roots = by_file.map(|_| nextboot::roots(os, session, view, layout, root));
    })?;
    if let Err(why) = &other.good
        && !slot.running
    {
        return Err(Error::refused(format!("slot {number} ({node}) is {why}"))
            .hint("dualroot snapshot makes a copy that can be started"));
    }
    if let Way::Flags(Some(why)) = way {
        log::warn!("{}: {why}", view.node(selection.medium));
    }
    let (from, to) = (work.place(running), work.place(number));
    let by = if by_file.is_some() { By::Nextboot } else { By::Flags };
    // The file knows only seconds.
    let armed = Timestamp::from_second(Timestamp::now().as_second()).unwrap_or_default();
    let trial = Trial { slot: to.clone(), from: from.clone(), armed, by };
    let file = match by_file {
        None => None,
        Some(refusal) => {
            let roots =
                roots.transpose()?.unwrap_or_else(|| Err("its root is not seen".to_owned()));
            let [theirs, own] = roots.map_err(|why| no_way(refusal, &why))?;
            let text = text::file(&trial, &theirs, &own);
            let cause = "the names of the roots cannot be written into it";
            Some(text.ok_or_else(|| no_way(refusal, cause))?)
        }
    };
    let other_is_good = !slot.running || other.good.is_ok();
    let change = match (&file, once) {
        // Its loader is the one that reads the file.
        (Some(_), _) => selection.select(running, true),
        (None, true) => selection.once(number).ok_or_else(|| no_once(number, running))?,
        (None, false) => selection.select(number, other_is_good),
    };
    let intend = |journal: &mut Journal| {
        journal.intended = Some(if once { from.clone() } else { to.clone() });
        journal.trial = once.then(|| trial.clone());
        work.take_up(journal);
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
    diary.details.extend(trial.mixture().filter(|_| once));
    let deed = Deed { flags: Some(&change), file: file.as_deref(), other: other.armed };
    work.set(os, diary, &deed)?;
    Ok(work.report(&deed, number, once.then_some(by)))
}

/// By what a slot is started.
enum Way {
    /// Flags; a warning where it is not sure that anybody reads them.
    Flags(Option<&'static str>),
    /// The loader's file, since flags cannot start it once. Why that is so.
    Nextboot(Error),
}

fn no_once(number: u32, running: u32) -> Error {
    Error::refused("an MBR has no flag for one start only").hint(format!(
        "dualroot boot {number} now, and dualroot boot {running} there unless it is good: until \
         then nothing leads back by itself"
    ))
}

/// The refusal of a trial: neither flags nor the loader's file can start it.
fn no_way(refusal: &Error, why: &str) -> Error {
    let cause = format!("{}; nextboot(8) is no way either: {why}", refusal.cause);
    Error { cause, ..refusal.clone() }
}

/// Whether flags can be relied on.
fn way<O: Os>(os: &O, view: &View, selection: &Selection, once: bool, number: u32) -> Result<Way> {
    let medium = view.node(selection.medium);
    if !selection.is_started() {
        let kind = selection.kind();
        let cause = format!("gptboot starts freebsd-ufs, and the slots are {kind}");
        return Err(Error::refused(cause).path(medium));
    }
    let started = starter::look(os, view, selection)?;
    let ignored = |why: &str| Error::refused(why).path(&medium).hint(OBEYED);
    Ok(match started {
        Starter::Ignores(why) if once => Way::Nextboot(ignored(why)),
        Starter::Ignores(why) => return Err(ignored(why)),
        _ if once && selection.table.scheme != Scheme::Gpt => {
            Way::Nextboot(no_once(number, 3 - number))
        }
        Starter::Unknown(why) if once => Way::Nextboot(
            Error::refused(why)
                .path(medium)
                .hint("a trial needs gptboot(8) or gptboot.efi(8), which end it by themselves"),
        ),
        Starter::Unknown(why) => Way::Flags(Some(why)),
        Starter::Obeys => Way::Flags(None),
    })
}

const OBEYED: &str =
    "put /boot/gptboot.efi there as EFI/BOOT/BOOTX64.EFI, or choose at the loader's prompt";

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
        let trial = work.journal.trial.as_ref();
        // What ran on trial by the loader's file is to start by flags from now on.
        if let (Some(selection), true) = (
            &work.selection,
            trial.is_some_and(|t| t.by == By::Nextboot && work.is(&t.slot, number)),
        ) && let Starter::Ignores(why) = starter::look(os, &work.view, selection)?
        {
            let cause = format!("no flag would start it again: {why}");
            return Err(Error::refused(cause).hint(OBEYED));
        }
        let from = trial
            .map_or_else(|| work.view.node(work.running().root), |trial| trial.from.device.clone());
        let to = work.view.node(work.running().root);
        let hooks = health::run(os, session, &work.view)?;
        diary.details = hooks.iter().map(Hook::line).collect();
        let seen = |journal: &mut Journal| {
            journal.trial.clone_from(&work.journal.trial);
            work.take_up(journal);
        };
        if let Err(e) = diary.begin(&work.view, &work.layout, (from, to), seen) {
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
        let other = work.other(os, &mut |_| {})?;
        let change = work.selection.as_ref().map(|s| s.select(number, other.good.is_ok()));
        let deed = Deed { flags: change.as_ref(), file: None, other: other.armed };
        work.set(os, diary, &deed)?;
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
        let mut report = work.report(&deed, number, None);
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
        let Some(trial) = work.trial() else {
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
        let other = work.other(os, &mut |_| {})?;
        let good = running != number || other.good.is_ok();
        let change = work.selection.as_ref().map(|s| s.select(number, good));
        let deed = Deed { flags: change.as_ref(), file: None, other: other.armed };
        let ends = (trial.slot.device.clone(), trial.from.device.clone());
        let back = |journal: &mut Journal| {
            journal.intended = Some(work.place(number));
            journal.trial = None;
            work.take_up(journal);
        };
        diary.begin(&work.view, &work.layout, ends, back)?;
        work.set(os, diary, &deed)?;
        Ok(work.report(&deed, number, None))
    })?;
    settle(os, session);
    restart(os, reboot, &mut report)?;
    Ok(report)
}
