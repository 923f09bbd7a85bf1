//! `dualroot boot`: which slot starts, for good or on trial; and what ends a trial.

pub mod confirm;
mod fitness;
pub mod health;
pub(super) mod nextboot;
pub mod reject;
mod same_kernel;
mod starter;
mod work;

use jiff::Timestamp;

use self::starter::Starter;
pub use self::work::Report;
use self::work::{Deed, Work, only_here, settle};
use crate::error::{Error, Result};
use crate::ops::history::{self, Diary};
use crate::ops::lock::{self, Observed};
use crate::ops::{Session, arrival, flags, permitted};
use crate::record::journal::{By, Journal, Trial};
use crate::slot::discover::Layout;
use crate::slot::flags::Selection;
use crate::slot::view::View;
use crate::slot::{Choice, Slot, nextboot as text};
use crate::sys::Os;
use crate::table::Scheme;

/// Lets a slot start next: for good, or `once`.
///
/// # Errors
/// Refused (exit 6): there is no such slot, nothing says that it is good, or nobody obeys the flags.
/// Usage (exit 2): `reboot` with another root than `/`. Later ones leave what the message says.
pub fn run<O: Os>(
    os: &O,
    session: &Session,
    choice: Choice,
    once: bool,
    reboot: bool,
) -> Result<Report> {
    only_here(os, session, reboot)?;
    permitted(os)?;
    let Observed { locks: _locks, view, layout, .. } =
        lock::observed(os, session, "boot", true, |_, _| Ok(()))?;
    let mut report = history::told(os, session, "boot", |diary| {
        let work = Work::new(diary, view, layout)?;
        let slot = *work.layout.pick(choice);
        select(os, session, diary, &work, slot, once)
    })?;
    settle(os, session);
    report.rebooting = reboot;
    Ok(report)
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
    let selection = work.selection.as_ref().ok_or_else(on_two_media)?;
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
    if let Err(unfit) = &other.good
        && !slot.running
    {
        return Err(unfit.clone());
    }
    if let Way::Flags(Some(why)) = &way {
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
        journal.trial = once.then(|| trial.clone());
        work.take_up(journal);
        work.intend(journal, if once { running } else { number });
        journal.prove(&from);
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
    // Before the flags: what starts next may have no other way to know it.
    arrival::mark(os, view, layout);
    diary.details.extend(trial.mixture().filter(|_| once));
    let deed = Deed { flags: Some(&change), file: file.as_deref(), other: other.armed };
    work.set(os, diary, &deed)?;
    Ok(work.report(&deed, number, once.then_some(by)))
}

fn on_two_media() -> Error {
    Error::refused("the slots are on two media: no flag selects among them")
        .hint("choose in the firmware which medium it starts from")
}

/// Whether [`run`] would let the other slot start, for good.
///
/// # Errors
/// Why not.
pub(super) fn would<O: Os>(os: &O, view: &View, layout: &Layout, journal: &Journal) -> Result<()> {
    let selection = view.selection_of(layout).ok_or_else(on_two_media)?;
    flags::guard(view, &selection)?;
    way(os, view, &selection, false, layout.alternate().number)?;
    fitness::look(os, view, layout, Some(&selection), journal, &mut |_| {})?
}

/// By what a slot is started.
enum Way {
    /// Flags; a warning where it is not sure that anybody reads them.
    Flags(Option<String>),
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
    if !once && started == Starter::Obeys {
        flags::guard_code(view, selection, number)?;
    }
    let ignored = |why: String| Error::refused(why).path(&medium).hint(OBEYED);
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

/// What runs is to start by its flags from now on: refused where nobody obeys them, told where nobody
/// knows.
fn rely_on_flags<O: Os>(os: &O, view: &View, selection: &Selection, number: u32) -> Result<()> {
    let way = way(os, view, selection, false, number).map_err(|e| {
        let cause = format!("no flag would start it again: {}", e.cause);
        Error { cause, ..e }
    })?;
    if let Way::Flags(Some(why)) = &way {
        log::warn!("{}: {why}", view.node(selection.medium));
    }
    Ok(())
}

const OBEYED: &str =
    "put /boot/gptboot.efi there as EFI/BOOT/BOOTX64.EFI, or choose at the loader's prompt";
