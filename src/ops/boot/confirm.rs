//! `dualroot confirm`: the running slot is good.

use super::health::{self, Hook};
use super::rely_on_flags;
use super::work::{Deed, Report, Work, settle};
use crate::error::{Error, Kind, Result};
use crate::ops::history;
use crate::ops::lock::{self, Observed};
use crate::ops::{Session, arrival, permitted};
use crate::record::journal::Journal;
use crate::sys::Os;

/// Makes the running slot the one that starts from now on, where its health hooks are content.
///
/// # Errors
/// One of them is not (exit 1): then nothing changes. A trial of the other slot waits, or nobody obeys
/// the flags (exit 6).
pub fn run<O: Os>(os: &O, session: &Session) -> Result<Report> {
    permitted(os)?;
    let Observed { locks: _locks, view, layout, .. } =
        lock::observed(os, session, "confirm", true, |_, _| Ok(()))?;
    let report = history::told(os, session, "confirm", |diary| {
        let work = Work::new(diary, view, layout)?;
        let number = work.running().number;
        let other = work.layout.alternate().number;
        if work.is_armed(other) {
            let cause = format!("a trial of slot {other} waits for the next start");
            return Err(Error::refused(cause).hint("dualroot reject gives it up"));
        }
        if let Some(selection) = &work.selection {
            rely_on_flags(os, &work.view, selection, number)?;
        }
        let trial = work.journal.trial.as_ref();
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
        if let Some(hook) = hooks.iter().find(|hook| hook.passed == Some(false)) {
            let error = Error::new(Kind::Failed, "confirming", &hook.result);
            let path = work.view.below(health::DIR).join(&hook.name);
            let error = error.path(path).during(format!("slot {number} is not healthy"));
            let said = hook.output.lines().next_back().unwrap_or_default();
            let hint = if said.is_empty() { String::new() } else { format!("it said: {said}; ") };
            return Err(error.hint(format!("{hint}nothing was changed")));
        }
        // A README, or a script that lacks its mode: nobody but the administrator can tell.
        for hook in hooks.iter().filter(|hook| hook.passed.is_none()) {
            let path = work.view.below(health::DIR).join(&hook.name);
            log::warn!("{}: {}", path.display(), hook.result);
        }
        arrival::mark(os, &work.view, &work.layout);
        let other = work.other(os, &mut |_| {})?;
        let change = work.selection.as_ref().map(|s| s.select(number, other.good.is_ok()));
        let deed = Deed { flags: change.as_ref(), file: None, other: other.armed };
        work.set(os, diary, &deed)?;
        // Only now: nothing is marked as good of which the flags say otherwise.
        let known = diary.note(|journal| {
            journal.trial = None;
            work.intend(journal, number);
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
