//! `dualroot reject`: back to the slot that ran before.

use super::work::{Deed, Report, Work, only_here, settle};
use crate::error::{Error, Result};
use crate::ops::lock::{self, Observed};
use crate::ops::{Session, flags, history, permitted};
use crate::record::journal::Journal;
use crate::sys::Os;

/// Ends a trial: the slot that ran before it starts from now on.
///
/// # Errors
/// There is no trial, or nothing starts from the slice of that slot (exit 6); or `reboot` with another
/// root than `/` (exit 2).
pub fn run<O: Os>(os: &O, session: &Session, reboot: bool) -> Result<Report> {
    only_here(os, session, reboot)?;
    permitted(os)?;
    let Observed { locks: _locks, view, layout, .. } =
        lock::observed(os, session, "reject", true, |_, _| Ok(()))?;
    let mut report = history::told(os, session, "reject", |diary| {
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
        if let Some(selection) = &work.selection {
            flags::guard_code(&work.view, selection, number)?;
        }
        let other = work.other(os, &mut |_| {})?;
        let good = running != number || other.good.is_ok();
        let change = work.selection.as_ref().map(|s| s.select(number, good));
        let deed = Deed { flags: change.as_ref(), file: None, other: other.armed };
        let ends = (trial.slot.device.clone(), trial.from.device.clone());
        let back = |journal: &mut Journal| {
            journal.trial = None;
            work.take_up(journal);
            work.intend(journal, number);
        };
        diary.begin(&work.view, &work.layout, ends, back)?;
        work.set(os, diary, &deed)?;
        Ok(work.report(&deed, number, None))
    })?;
    settle(os, session);
    report.rebooting = reboot;
    Ok(report)
}
