//! `dualroot snapshot`: copy the pairs, verify, record.

mod blocks;
mod copied;
mod copying;
mod direction;
mod draft;
mod erase;
mod execute;
pub(super) mod frozen;
mod preflight;
mod prepare;
mod raw;
mod read_back;
mod recording;
mod renewal;
pub mod repartition;
pub(super) mod rewrite;
mod run;
mod source;

use std::time::Instant;

use serde::Serialize;

use self::execute::PairReport;
use self::prepare::{Prepared, chosen, prepare};
use self::run::Run;
use super::history::{self, Diary};
use super::{Session, arrival, journal, permitted};
use crate::copy::progress::interrupted;
use crate::error::{Error, Result};
use crate::plan::{Method, Reading};
use crate::record::journal::{Auto, Journal};
use crate::slot::discover::Layout;
use crate::slot::view::View;
use crate::slot::{Pair, Part};
use crate::sys::Os;

/// The command line's choices.
#[derive(Clone, Copy, Debug, Default)]
#[allow(clippy::struct_excessive_bools)] // independent switches
pub struct Options {
    /// Put a new table on the medium first.
    pub partition: Option<repartition::Options>,
    /// Clear busy and foreign mounts by force; copy over a slot that was meant to run, or is newer.
    pub force: bool,
    /// It is known that the alternate slot is broken.
    pub repair: bool,
    /// Only tell what would be done.
    pub dry_run: bool,
    /// Copy only this part.
    pub only: Option<Part>,
    /// Copy only what the box left the factory with, and the rescue configuration.
    pub factory: bool,
    /// Make new file systems, whatever is there.
    pub fresh: bool,
    /// Of a copy that is there: how much is read.
    pub reading: Reading,
    /// How copies are made.
    pub method: Method,
}

/// What was done.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Report {
    /// Version of this shape.
    pub schema: u32,
    /// The file systems archived: `/`, `/config`.
    pub archived: Vec<&'static str>,
    /// Each pair.
    pub pairs: Vec<PairReport>,
    /// The new table, where one was made.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub partitions: Vec<repartition::Row>,
    /// Wall time of the whole.
    pub seconds: f64,
    /// `/config` where both slots use the same one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub shared: Option<String>,
}

/// What would be done.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Plan {
    /// Version of this shape.
    pub schema: u32,
    /// A sentence for each step.
    pub plan: Vec<String>,
    /// The new table, where one would be made.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub partitions: Vec<repartition::Row>,
}

/// What comes of a call.
#[derive(Debug)]
pub enum Outcome {
    /// The plan, with `dry_run`.
    Planned(Plan),
    /// It was done.
    Done(Report),
}

/// Runs a snapshot. `say` gets the result's lines as they come, in Junos's words.
///
/// # Errors
/// See the exit codes. After the first write an error leaves the slot without a record.
pub fn run<O: Os>(
    os: &O,
    session: &Session,
    options: Options,
    say: &mut dyn FnMut(&str),
) -> Result<Outcome> {
    let outcome =
        history::told(os, session, "snapshot", |diary| attempt(os, session, options, say, diary))?;
    if matches!(outcome, Outcome::Done(_))
        && let Err(error) = arrival::settle(os, session)
    {
        log::warn!("{error}");
    }
    Ok(outcome)
}

fn attempt<O: Os>(
    os: &O,
    session: &Session,
    options: Options,
    say: &mut dyn FnMut(&str),
    diary: &mut Diary<'_, O>,
) -> Result<Outcome> {
    let begun = Instant::now();
    permitted(os)?;
    let prepared = prepare(os, session, &options, diary)?;
    let Prepared { locks: _locks, view, layout, partitioning, sources, cleared, steps } = prepared;
    if options.dry_run {
        return Ok(Outcome::Planned(Plan {
            schema: 1,
            plan: steps.iter().map(ToString::to_string).collect(),
            partitions: partitioning.map_or_else(Vec::new, |table| table.rows),
        }));
    }
    begin(diary, &view, &layout)?;
    let (view, layout) = match &partitioning {
        Some(table) => {
            forget(diary, &view, &layout)?;
            let (view, found) = table.execute(os, session, (&view, &layout), say)?;
            let layout = chosen(&view, found, &options).map_err(Error::once_begun)?;
            (view, layout)
        }
        None => (view, layout),
    };
    let mut run = Run::new(os, session, (&view, &layout), say, sources, cleared, diary);
    run.begun = partitioning.is_some();
    for step in &steps {
        log::info!("{step}");
        if let Some(signal) = session.monitor.stopped() {
            return Err(interrupted(signal));
        }
        run.execute(step)?;
    }
    let pairs = run.finish()?;
    // What was to be repaired at boot, and was not, is replaced.
    if options.only.is_none()
        && !options.repair
        && let Err(error) = diary.note(|journal| {
            journal.auto_snapshot.take_if(|auto| auto.state != Auto::Completed);
        })
    {
        diary.tell(&error);
    }
    if let (true, Some(now)) = (layout.purpose.as_primary, view.elsewhere()) {
        let then = view.running_medium().map_or_else(String::new, |id| view.node(id));
        log::warn!("{} calls itself {then}: let no system start with both of them", view.node(now));
    }
    Ok(Outcome::Done(Report {
        schema: 1,
        archived: pairs.iter().map(|p| p.source).collect(),
        pairs,
        partitions: partitioning.map_or_else(Vec::new, |table| table.rows),
        seconds: begun.elapsed().as_secs_f64(),
        shared: layout.shared_config.map(|id| view.node(id)),
    }))
}

/// Writes down that the run begins. The other slot is still what it was.
fn begin<O: Os>(diary: &mut Diary<'_, O>, view: &View, layout: &Layout) -> Result<()> {
    let Pair { source, target, .. } = *layout.root();
    let running = journal::place(view, layout.running());
    let change = |journal: &mut Journal| {
        journal.intended.get_or_insert(running);
    };
    match diary.begin(view, layout, (view.node(source), view.node(target)), change) {
        Err(e) if history::is_only_lost(&e) => {}
        done => done?,
    }
    Ok(())
}

/// The other slot is written next: that it ran is true no more, and nobody is to believe it after a
/// loss of power.
fn forget<O: Os>(diary: &Diary<'_, O>, view: &View, layout: &Layout) -> Result<()> {
    let written = journal::place(view, layout.alternate());
    match diary.change(|journal| journal.forget(&written)) {
        Err(e) if history::is_only_lost(&e) => Ok(()),
        done => done,
    }
}
