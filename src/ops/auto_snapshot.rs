//! `dualroot auto-snapshot`: at boot, tell how the system came up, and repair the other slot where
//! that was an unplanned fall-back and the slot is broken.

use std::path::PathBuf;

use jiff::Timestamp;
use nix::errno::Errno;
use serde::Serialize;

use super::arrival::{self, Found};
use super::diagnosis::{self, Past, Verdict};
use super::journal::{self, Store};
use super::lock::{self, Observed};
use super::{Session, boot, durable, flags, history, observe, permitted, show, snapshot};
use crate::error::{Context, During, Error, Kind, Result, if_there};
use crate::record::journal::{Auto, AutoSnapshot, How, Journal, Place};
use crate::slot::config::{self, Config};
use crate::slot::view::View;
use crate::sys::Os;
use crate::sys::tree::{Dir, Kind as Object};

/// What is configured, and where it stands.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Status {
    /// Version of this shape.
    pub schema: u32,
    /// `Enabled` or `Disabled`.
    pub configuration: &'static str,
    /// `Completed`, `Disabled`, `In progress` or `Failed`.
    pub state: Auto,
    /// Why.
    pub note: Option<String>,
}

/// What a run at boot found and did.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Report {
    /// The version of this shape, and where it stands.
    #[serde(flatten)]
    pub status: Status,
    /// How the running slot came up.
    pub how: How,
    /// The slot that runs.
    pub running: Place,
    /// The slot that was meant to.
    pub meant: Place,
    /// Where the kernel is one slot's and the root the other's: how that is seen.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub half_boot: Option<String>,
    /// Whether the notice of a fall-back is shown.
    pub notice: bool,
    /// Whether the other slot was repaired.
    pub repaired: bool,
    /// The snapshot by which it was.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub snapshot: Option<snapshot::Report>,
}

impl Report {
    /// Whether somebody should look: another slot was meant to run, and is not repaired.
    pub fn is_open(&self) -> bool {
        self.how == How::Fallback && self.status.state != Auto::Completed
    }
}

fn status_of(enabled: bool, auto: Option<&AutoSnapshot>) -> Status {
    Status {
        schema: 1,
        configuration: if enabled { "Enabled" } else { "Disabled" },
        state: auto.map_or(Auto::Disabled, |auto| auto.state),
        note: auto.and_then(|auto| auto.why.clone()),
    }
}

/// What is configured, and where it stands. Never waits for a run and changes nothing.
///
/// # Errors
/// The system cannot be observed.
pub fn status<O: Os>(os: &O, session: &Session) -> Result<Status> {
    let view = observe::view(os, session)?;
    let layout = view.discover()?;
    let journal = Store::of(&view, &layout).read(os).current()?;
    Ok(status_of(view.config.auto_snapshot, journal.auto_snapshot.as_ref()))
}

/// Switches the repair on or off, in the configuration file.
///
/// # Errors
/// The file makes no sense, or cannot be written; or there is no telling where the repair stands.
pub fn configure<O: Os>(os: &O, session: &Session, enabled: bool) -> Result<Status> {
    let view = observe::view(os, session)?;
    // What is refused is refused before the file is written.
    let journal = Store::of(&view, &view.discover()?).read(os).current()?;
    let path = file(os, &view)?;
    let old = os.read_file(&path)?.unwrap_or_default();
    let new = config::with_auto_snapshot(&old, enabled);
    // What was understood before is understood again, and says what was asked for.
    if Config::parse(&new).map_err(|e| e.path(&path))?.auto_snapshot != enabled {
        return Err(Error::refused("the key stands where it cannot be changed").path(path));
    }
    if new != old {
        let (Some(dir), Some(name)) = (path.parent(), path.file_name().and_then(|n| n.to_str()))
        else {
            return Err(Error::refused("no such file").path(path));
        };
        durable::put_as_it_was(&os.open_dir(dir)?, name, &new)
            .map_err(|error| match error.errno.map(Errno::from_raw) {
                Some(Errno::EROFS) => error.hint("mount that file system read-write meanwhile"),
                _ => error,
            })
            .during(format!("writing {}", path.display()))?;
    }
    Ok(status_of(enabled, journal.auto_snapshot.as_ref()))
}

/// The configuration file itself: a link to it stays one.
fn file<O: Os>(os: &O, view: &View) -> Result<PathBuf> {
    let path = &view.config_path;
    let (Some(dir), Some(name)) = (path.parent(), path.file_name()) else {
        return Err(Error::refused("no such file").path(path));
    };
    let there = if_there(os.open_dir(dir)?.stat(name)).doing_to("reading", path)?;
    if there.is_none_or(|meta| meta.kind != Object::Symlink) {
        return Ok(path.clone());
    }
    let why = match os.canonical(path) {
        Ok(file) if !path.starts_with(&view.root) || file.starts_with(&view.root) => {
            return Ok(file);
        }
        Ok(file) => format!("it is a symbolic link out of the root, to {}", file.display()),
        Err(_) => "it is a symbolic link that leads nowhere".to_owned(),
    };
    Err(Error::refused(why).path(path).hint("let it lead to a file below the root"))
}

/// Tells how the system came up and shows the notice of a fall-back; then, unless only that was
/// asked for, finds out what is wrong with the slot that was meant to run, and repairs it where it
/// is broken and the configuration says so. `say` gets the lines of the snapshot.
///
/// # Errors
/// The repair failed; the slot is then not valid, and the running one is what starts next.
pub fn run<O: Os>(
    os: &O,
    session: &Session,
    only_assess: bool,
    say: &mut dyn FnMut(&str),
) -> Result<Report> {
    let mut work = Work::new(os, session)?;
    work.found = arrival::note(os, &work.observed.view, &work.observed.layout)?;
    let auto = |found: &Found| found.journal.auto_snapshot.as_ref().map(|auto| auto.state);
    // Once: what has failed fails again, and flash wears.
    let due = work.found.arrival.how == How::Fallback
        && !matches!(auto(&work.found), Some(Auto::Completed | Auto::Failed));
    if only_assess || !due {
        return work.report(None);
    }
    let Observed { view, layout, .. } = &work.observed;
    let other = journal::place(view, layout.alternate());
    let begun = work.found.journal.auto_snapshot.as_ref();
    let begun = begun.filter(|auto| auto.state == Auto::InProgress).map(|auto| auto.when);
    let mut past = match begun {
        Some(begun) => Past::Writing(begun),
        None if work.found.journal.proven.contains(&other) => Past::Ran,
        // Its kernel did.
        None if work.half_boot()?.is_some() => Past::Ran,
        None => Past::Unknown,
    };
    let verdict = diagnosis::diagnose(os, session, view, layout, &mut past)?;
    let resumed = begun.is_some() && past != Past::Ran;
    if begun.is_some() && !resumed && work.is_selected() {
        // It ran when it was repaired, and then somebody chose this one.
        work.settle()?;
        return work.report(None);
    }
    let (number, running) = (layout.alternate().number, layout.running().number);
    let give_up = format!("dualroot boot {running}, then dualroot snapshot, writes it anew.");
    let why = match verdict {
        // The flags would be changed before the snapshot refuses.
        Verdict::Broken(why) if view.config.auto_snapshot => {
            permitted(os).and_then(|()| work.guard_code()).during("repairing the other slot")?;
            return work.repair(why, say);
        }
        Verdict::Broken(why) => {
            let why = format!("Slot {number} is broken: {why}. {give_up}");
            // What was begun is told until somebody ends it.
            work.set(if resumed { Auto::Failed } else { Auto::Disabled }, Some(why))?;
            return work.report(None);
        }
        // Only the flags are missing.
        Verdict::Intact if resumed => {
            work.finish(number)?;
            return work.report(None);
        }
        Verdict::Intact => {
            let again = match boot::would(os, view, layout, &work.found.journal) {
                Ok(()) => format!("dualroot boot {number} --reboot tries it again."),
                Err(why) => not_again(number, why),
            };
            format!(
                "Slot {number} is intact and was left as it is: it may hold newer software. \
                 {again} {give_up}"
            )
        }
        Verdict::Unknown(why) if resumed => {
            let why =
                format!("the next start goes on with it, since now nothing tells more: {why}.");
            work.put_off(why)?;
            return work.report(None);
        }
        Verdict::Unknown(why) => {
            format!(
                "Slot {number} was left as it is, since nothing tells what is wrong: {why}. {give_up}"
            )
        }
    };
    work.set(Auto::Disabled, Some(why))?;
    work.report(None)
}

/// What to do where `boot` would refuse to try a slot again.
fn not_again(number: u32, why: Error) -> String {
    let hint = why.hint.map_or_else(String::new, |hint| format!("; {hint}"));
    format!("dualroot boot {number} does not try it again: {}{hint}.", why.cause)
}

/// A run under way.
struct Work<'a, O: Os> {
    os: &'a O,
    session: &'a Session,
    observed: Observed,
    found: Found,
}

impl<'a, O: Os> Work<'a, O> {
    fn new(os: &'a O, session: &'a Session) -> Result<Self> {
        let observed = lock::observed(os, session, "auto-snapshot", true, |_, _| Ok(()))?;
        let found = arrival::look(os, &observed.view, &observed.layout)?;
        Ok(Self { os, session, observed, found })
    }

    /// Whether this start has the kernel of one slot and the root of the other.
    fn half_boot(&self) -> Result<Option<String>> {
        let Observed { view, layout, .. } = &self.observed;
        let found = view.half_boot(layout, &observe::started(self.os, view)?).into_iter().next();
        Ok(found.map(|finding| finding.what))
    }

    fn report(&self, snapshot: Option<snapshot::Report>) -> Result<Report> {
        let Observed { view, layout, .. } = &self.observed;
        let how = self.found.arrival.how;
        // What was chosen since is for the next start.
        let meant = match how {
            How::Planned => layout.running(),
            _ => layout.slot(self.found.arrival.meant),
        };
        let software = show::running(self.os, view)?.software;
        let product = software.product.map(|product| product.name);
        let notice = arrival::announce(self.os, view, layout, &self.found, product.as_deref());
        Ok(Report {
            status: status_of(view.config.auto_snapshot, self.found.journal.auto_snapshot.as_ref()),
            how,
            running: journal::place(view, layout.running()),
            meant: journal::place(view, meant),
            half_boot: self.half_boot()?,
            notice,
            repaired: snapshot.is_some(),
            snapshot,
        })
    }

    /// Whether the flags let the running slot start, before the other one.
    fn is_selected(&self) -> bool {
        let Observed { view, layout, .. } = &self.observed;
        let next = view.selection_of(layout).map(|s| s.next()).unwrap_or_default();
        next.iter().find(|n| !n.once).is_some_and(|n| n.slot == layout.running().number)
    }

    /// Nothing is open any more: what runs was chosen.
    fn settle(&mut self) -> Result<()> {
        let running = journal::place(&self.observed.view, self.observed.layout.running());
        self.write(|journal| arrival::choose(journal, running))?;
        self.found = arrival::look(self.os, &self.observed.view, &self.observed.layout)?;
        Ok(())
    }

    /// Whether the repair is still to be done: a choice ends it, also while nobody has the locks.
    fn is_going_on(&self) -> Result<bool> {
        let store = Store::of(&self.observed.view, &self.observed.layout);
        let auto = store.read(self.os).current()?.auto_snapshot;
        Ok(auto.is_some_and(|auto| auto.state == Auto::InProgress))
    }

    /// Writes down where it stands.
    fn set(&mut self, state: Auto, why: Option<String>) -> Result<()> {
        self.write(|journal| {
            journal.auto_snapshot = Some(AutoSnapshot { state, why, when: Timestamp::now() });
        })
    }

    /// A repair that was begun stays begun, when it was.
    fn put_off(&mut self, why: String) -> Result<()> {
        self.write(|journal| {
            if let Some(auto) = &mut journal.auto_snapshot {
                auto.why = Some(why);
            }
        })
    }

    fn write(&mut self, change: impl FnOnce(&mut Journal)) -> Result<()> {
        let store = Store::of(&self.observed.view, &self.observed.layout);
        let mut journal = store.read(self.os).current()?;
        change(&mut journal);
        store.write(self.os, &mut journal)?;
        self.found.journal = journal;
        Ok(())
    }

    /// That the flags can be where the repair has them: on the running slot first, on the other one
    /// in the end.
    fn guard_code(&self) -> Result<()> {
        let Observed { view, layout, .. } = &self.observed;
        let Some(selection) = view.selection_of(layout) else { return Ok(()) };
        let (meant, running) = (layout.alternate().number, layout.running().number);
        flags::guard_code(view, &selection, running)?;
        let then = selection.after(&selection.select(running, false));
        flags::guard_code(view, &then, meant)
    }

    /// Lets `slot` start first.
    fn select(&self, slot: u32, fall_back: bool) -> Result<()> {
        let Observed { view, layout, .. } = &self.observed;
        let Some(selection) = view.selection_of(layout) else { return Ok(()) };
        flags::guard(view, &selection)?;
        flags::guard_code(view, &selection, slot)?;
        let through = view.devices.get(layout.root().target).path();
        let change = selection.select(slot, fall_back);
        flags::apply(self.os, view, selection.medium, &change, &through)
    }

    /// The flags go back to the slot that is whole again.
    fn finish(&mut self, meant: u32) -> Result<()> {
        if !self.is_going_on()? {
            let cause =
                "a slot was chosen meanwhile: the copy is whole, and the flags stay as they are";
            return Err(Error::new(Kind::Failed, "", cause));
        }
        self.select(meant, true)?;
        self.set(Auto::Completed, None)
    }

    /// Copies the running slot over the broken one: flags on the running slot first, then the copy,
    /// verified, then the flags back.
    fn repair(mut self, why: String, say: &mut dyn FnMut(&str)) -> Result<Report> {
        let layout = &self.observed.layout;
        let (meant, running) = (layout.alternate().number, layout.running().number);
        // What nobody would know of is not begun. Where only a /var in memory takes it, a loss of power
        // ends the repair: what runs starts again, and check tells of the other slot.
        self.set(Auto::InProgress, Some(why.clone()))?;
        self.report(None)?;
        let (os, session) = (self.os, self.session);
        let whole =
            history::Whole::begin("auto-snapshot", &self.observed.view, &self.observed.layout);
        let done = self.select(running, false).and_then(|()| {
            // The snapshot takes the locks itself.
            self.observed.locks.clear();
            let options = snapshot::Options { repair: true, ..snapshot::Options::default() };
            let snapshot::Outcome::Done(snapshot) = snapshot::run(os, session, options, say)?
            else {
                return Err(Error::new(Kind::Failed, "", "it was only planned"));
            };
            let mut work = Work::new(os, session)?;
            if work.observed.layout.alternate().number != meant {
                let cause = "the slots changed places while one was repaired";
                return Err(Error::new(Kind::Failed, "", cause));
            }
            work.finish(meant)?;
            work.report(Some(snapshot))
        });
        // The history has the code that the run ends with.
        let done = done.map_err(Error::once_begun);
        whole.end(os, done.as_ref().err(), vec![why]);
        match done {
            Ok(report) => Ok(report),
            // Stopped, or in somebody's way: the next start goes on with it.
            Err(error) if matches!(error.kind, Kind::Signal(_) | Kind::Busy) => Err(error),
            // Ended by a choice; or the running root itself is gone.
            Err(error) if !self.is_going_on().unwrap_or(true) => Err(error),
            Err(error) => {
                let said = self.set(Auto::Failed, Some(error.to_string()));
                if let Err(e) = said.and_then(|()| self.report(None).map(drop)) {
                    log::warn!("{e}");
                }
                Err(error)
            }
        }
        .map_err(|e| e.during("repairing the other slot"))
    }
}
