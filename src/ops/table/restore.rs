//! `dualroot table restore`.

use jiff::Timestamp;
use serde::Serialize;

use super::check::chosen;
use super::plan::{self, Action, How};
use super::{Choice, file, find, read_pieces};
use crate::device::Id;
use crate::error::{During, Error, Kind, Result};
use crate::ops::mounted::patiently;
use crate::ops::{Session, lock, observe, permitted};
use crate::slot::view::View;
use crate::sys::{Claim, Os, Rewrite};
use crate::table::saved::compare::compare;
use crate::table::saved::{Medium, Saved, What};

/// What was repaired.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Report {
    /// Version of this shape.
    pub schema: u32,
    /// The file that it came from.
    pub file: String,
    /// When that was made.
    pub saved: Timestamp,
    /// Whether nothing was written, since only the plan was asked for.
    pub dry_run: bool,
    /// The media that were compared, by their names now.
    pub media: Vec<String>,
    /// What was, or would be, written.
    pub written: Vec<Written>,
    /// Media whose table the kernel did not read anew.
    pub not_reread: Vec<String>,
}

/// One structure.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Written {
    /// `da0`
    pub medium: String,
    /// Which structure, in words.
    pub what: String,
    /// Its kind as the file spells it.
    pub kind: What,
    /// The slice, partition or logical slice that it belongs to.
    pub index: Option<u32>,
    /// Its first byte on the medium.
    pub offset: u64,
    /// Its bytes.
    pub length: u64,
    /// Through what: a device, or `gpart`.
    pub through: String,
}

/// A medium to be repaired.
struct Job<'a> {
    id: Id,
    kept: &'a Medium,
    actions: Vec<Action>,
}

/// Writes what differs from what was kept, and reads it back. `say` gets a line for each
/// structure before any is written; with `dry_run` that is all.
///
/// # Errors
/// Before the first write (exit 6): there is no file, a medium in it cannot be told, or something
/// cannot be written as the medium is used. Exit 5: it does not keep what was written.
pub fn run<O: Os>(
    os: &O,
    session: &Session,
    choice: Choice<'_>,
    dry_run: bool,
    say: &mut dyn FnMut(&str),
) -> Result<Report> {
    permitted(os)?;
    let view = observe::view(os, session)?;
    let (path, saved) = file::locate(os, &view, choice.file, Kind::Refused)?;
    let ids: Vec<Id> = jobs(os, &view, &saved, choice)?.iter().map(|job| job.id).collect();
    let name = |view: &View, id: Id| view.devices.get(id).name.replace('/', "_");
    let mut names: Vec<String> = ids.iter().map(|&id| name(&view, id)).collect();
    names.sort();
    names.dedup();
    let _locks = if dry_run { Vec::new() } else { lock::exclusive(os, &names, "table restore")? };
    // What was seen before the lock was held may have changed.
    let view = observe::view(os, session)?;
    let jobs = jobs(os, &view, &saved, choice)?;
    if !dry_run && jobs.iter().any(|job| !names.contains(&name(&view, job.id))) {
        return Err(Error::new(Kind::Busy, "", "the media changed while the lock was taken"));
    }
    let mut report = Report {
        schema: 1,
        file: path.to_string_lossy().into_owned(),
        saved: saved.created,
        dry_run,
        media: jobs.iter().map(|job| view.devices.get(job.id).name.clone()).collect(),
        written: Vec::new(),
        not_reread: Vec::new(),
    };
    for job in &jobs {
        let medium = &view.devices.get(job.id).name;
        for action in &job.actions {
            let through = match action.how {
                How::Write(_) => action.device.to_string_lossy().into_owned(),
                How::Rewrite(_) => format!("gpart, {}", action.provider),
            };
            report.written.extend(action.pieces.iter().map(|piece| Written {
                medium: medium.clone(),
                what: piece.to_string(),
                kind: piece.what,
                index: piece.index,
                offset: piece.offset,
                length: piece.bytes.len() as u64,
                through: through.clone(),
            }));
        }
    }
    for w in &report.written {
        say(&format!(
            "{}: write the {} at {}, {} bytes, through {}",
            w.medium, w.what, w.offset, w.length, w.through
        ));
    }
    if dry_run {
        return Ok(report);
    }
    let jobs: Vec<&Job<'_>> = jobs.iter().filter(|job| !job.actions.is_empty()).collect();
    let context = |job: &Job<'_>| format!("repairing {}", view.node(job.id));
    // What cannot be had of the last medium is known before the first is written.
    let claims: Vec<_> = jobs
        .iter()
        .map(|job| claim(os, session, job).during(context(job)))
        .collect::<Result<_>>()?;
    let mut written: Vec<String> = Vec::new();
    for (job, claims) in jobs.iter().zip(claims) {
        let node = view.node(job.id);
        let reread = repair(os, session, job, claims, &node, &mut written)
            .during(context(job))
            .map_err(|error| once_written(error, &written))?;
        if !reread {
            log::warn!("{node}: the kernel still has the old table: run partprobe, or start anew");
            report.not_reread.push(view.devices.get(job.id).name.clone());
        }
    }
    Ok(report)
}

/// Nothing is refused, nor can be done by waiting, once something was written: what that was is said.
fn once_written(error: Error, written: &[String]) -> Error {
    if written.is_empty() {
        return error;
    }
    let error =
        if error.kind == Kind::Busy { error.kind(Kind::Failed) } else { error.once_begun() };
    let so_far = format!("written so far, if only in part: {}", written.join(", "));
    let hint = error.hint.as_ref().map_or(so_far.clone(), |hint| format!("{hint}; {so_far}"));
    error.hint(hint)
}

/// What is to be done to which medium.
fn jobs<'a, O: Os>(
    os: &O,
    view: &View,
    saved: &'a Saved,
    choice: Choice<'_>,
) -> Result<Vec<Job<'a>>> {
    let mut jobs = Vec::new();
    for (kept, found) in chosen(os, view, &saved.media, choice)? {
        let id = found.map_err(|why| {
            let cause = format!("the medium that was {} cannot be repaired: {why}", kept.name);
            Error::refused(cause).hint("--medium NAME repairs only that one")
        })?;
        let now = read_pieces(os, view, id, kept)?;
        let changes = compare(kept, &now);
        let actions = plan::actions(view, id, kept, &changes, os.rewrites())?;
        jobs.push(Job { id, kept, actions });
    }
    Ok(jobs)
}

/// How an action is done: what is written directly has its device open.
enum Opened<'a, C> {
    Write(C, &'a [Vec<(u64, Vec<u8>)>]),
    Rewrite(&'a [Rewrite]),
}

/// Opens what is written directly, in the order of the actions.
///
/// # Errors
/// Somebody has it; or it is another medium by now.
fn claim<'a, O: Os>(
    os: &O,
    session: &Session,
    job: &'a Job<'_>,
) -> Result<Vec<Opened<'a, O::Claim>>> {
    let one = |action: &'a Action| {
        let steps = match &action.how {
            How::Write(steps) => steps,
            How::Rewrite(orders) => return Ok(Opened::Rewrite(orders)),
        };
        let claim = patiently(|| os.claim(&action.device))?;
        let open = claim.provider()?;
        if open != action.provider {
            let cause = format!("{} is {open} by now", action.device.display());
            return Err(Error::refused(cause));
        }
        // Asked again with the device open, since its name may lead elsewhere by now.
        let view = observe::view(os, session)?;
        let medium = view
            .devices
            .find(std::path::Path::new(&open))
            .and_then(|id| view.devices.medium(id))
            .ok_or_else(|| Error::refused(format!("{open} is on no medium")))?;
        find(os, &view, job.kept, Some(medium)).map_err(Error::refused)?;
        Ok(Opened::Write(claim, steps))
    };
    job.actions.iter().map(one).collect()
}

/// Repairs one medium and reads it back; whether the kernel has the new table. `written` gets what
/// was, also where it fails.
fn repair<O: Os>(
    os: &O,
    session: &Session,
    job: &Job<'_>,
    opened: Vec<Opened<'_, O::Claim>>,
    node: &str,
    written: &mut Vec<String>,
) -> Result<bool> {
    if let Some(signal) = session.monitor.stopped() {
        return Err(crate::copy::progress::interrupted(signal));
    }
    let mut reread = true;
    for (action, opened) in job.actions.iter().zip(opened) {
        let mut begun = false;
        let done = act(os, action, opened, &mut begun);
        if begun {
            written.extend(action.pieces.iter().map(|piece| format!("{node}: {piece}")));
        }
        reread &= done?;
    }
    check(os, session, job.kept, node)?;
    Ok(reread)
}

/// Does one action; whether the kernel has the new table. `begun` says whether anything may have been
/// written, also where it fails.
fn act<O: Os>(
    os: &O,
    action: &Action,
    opened: Opened<'_, O::Claim>,
    begun: &mut bool,
) -> Result<bool> {
    match opened {
        Opened::Rewrite(orders) => {
            for order in orders {
                match os.rewrite(&action.device, order) {
                    // A kernel that does not know of the damage needs no recovery; the next order
                    // makes it write all the same.
                    Err(error) if *order == Rewrite::Recover => log::info!("{error}"),
                    done => done?,
                }
                *begun = true;
            }
            Ok(true)
        }
        Opened::Write(mut claim, steps) => {
            *begun = true;
            for step in steps {
                for (offset, bytes) in step {
                    claim.write_at(*offset, bytes)?;
                }
                claim.flush()?;
            }
            claim.reread()
        }
    }
}

/// Reads back from the medium.
fn check<O: Os>(os: &O, session: &Session, kept: &Medium, node: &str) -> Result<()> {
    let view = observe::view(os, session)?;
    let gone = || Error::new(Kind::Failed, "reading back", "the medium is gone").path(node);
    let id = view.devices.find(std::path::Path::new(node)).ok_or_else(gone)?;
    let now = read_pieces(os, &view, id, kept)?;
    match compare(kept, &now).first() {
        None => Ok(()),
        Some(change) => {
            let cause = format!("the {} is still not as it was kept", change.piece);
            Err(Error::new(Kind::Differs, "reading back", cause).path(node).at(change.offset))
        }
    }
}
