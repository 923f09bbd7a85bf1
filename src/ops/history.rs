//! `dualroot log`: what was done, when and with what result. It is kept where the journal is: on
//! `/config`, too, since `/var` may be in memory.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::time::Instant;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::journal::{self, Location, Store, VAR};
use super::{Session, arrival, observe};
use crate::copy::progress::interrupted;
use crate::error::{Error, Kind, Result};
use crate::record::journal::{Journal, Operation};
use crate::slot::discover::Layout;
use crate::slot::view::View;
use crate::sys::Os;

/// Its name; the one before it has `.0` behind it.
const LOG: &str = "log";
const BEFORE: &str = "log.0";

/// Bytes after which another one is begun: `/config` is small.
fn longest(location: &Location) -> usize {
    match location {
        Location::Var(_) => 256 << 10,
        Location::Config(_) => 32 << 10,
    }
}

/// A run that is over.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Entry {
    /// When it began.
    pub when: Timestamp,
    /// `snapshot`, `auto-snapshot`, `boot`, `confirm`, `reject`.
    pub verb: String,
    /// The slot, or the device, that it started from.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub from: Option<String>,
    /// The one that it led to.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub to: Option<String>,
    /// How it ended.
    pub result: Outcome,
    /// How long it took.
    pub seconds: f64,
    /// Its exit code.
    pub code: u8,
    /// What was wrong.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
    /// What else there is to say: the health hooks.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub details: Vec<String>,
}

/// How a run ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Outcome {
    /// It is done.
    Done,
    /// It failed, or a signal stopped it.
    Failed,
    /// It was killed, or the power went: the next run found that out.
    Interrupted,
}

impl Outcome {
    /// The word for it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Done => "done",
            Self::Failed => "failed",
            Self::Interrupted => "interrupted",
        }
    }
}

/// A run under way.
#[derive(Clone, Copy, Debug)]
struct Begun {
    verb: &'static str,
    when: Timestamp,
    clock: Instant,
}

impl Begun {
    fn now(verb: &'static str) -> Self {
        Self { verb, when: Timestamp::now(), clock: Instant::now() }
    }

    /// What there is to say of it when it is over.
    fn over(
        self,
        (from, to): (String, String),
        error: Option<&Error>,
        details: Vec<String>,
    ) -> Entry {
        Entry {
            when: self.when,
            verb: self.verb.to_owned(),
            from: Some(from),
            to: Some(to),
            result: if error.is_none() { Outcome::Done } else { Outcome::Failed },
            seconds: self.clock.elapsed().as_secs_f64(),
            code: error.map_or(0, |e| e.kind.exit_code()),
            error: error.map(ToString::to_string),
            details,
        }
    }
}

/// The history.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Report {
    /// Version of this shape.
    pub schema: u32,
    /// The newest last.
    pub entries: Vec<Entry>,
    /// Lines that make no sense.
    #[serde(skip_serializing_if = "is_zero")]
    pub unreadable: usize,
}

#[allow(clippy::trivially_copy_pass_by_ref)] // serde's signature
fn is_zero(n: &usize) -> bool {
    *n == 0
}

/// Reads the history.
///
/// # Errors
/// It cannot be read. That there is none is no error.
pub fn run<O: Os>(os: &O, session: &Session) -> Result<Report> {
    let mut report = Report { schema: 1, entries: Vec::new(), unreadable: 0 };
    for dir in dirs(os, session)? {
        let mut found: Vec<Entry> = Vec::new();
        for name in [BEFORE, LOG] {
            let text = os.read_file(&dir.join(name))?.unwrap_or_default();
            for line in text.split(|&b| b == b'\n').filter(|line| !line.is_empty()) {
                match serde_json::from_slice(line) {
                    Ok(entry) => found.push(entry),
                    Err(_) => report.unreadable += 1,
                }
            }
        }
        // Most of it is in both.
        let known: BTreeSet<Timestamp> = report.entries.iter().map(|entry| entry.when).collect();
        found.retain(|entry| !known.contains(&entry.when) || !report.entries.contains(entry));
        report.entries.extend(found);
    }
    report.entries.sort_by_key(|entry| entry.when);
    Ok(report)
}

/// Where it may be. What the slots are is no matter where nobody can tell.
fn dirs<O: Os>(os: &O, session: &Session) -> Result<Vec<PathBuf>> {
    let view = observe::view(os, session);
    match view.and_then(|view| Ok(Store::of(&view, &view.discover()?))) {
        Ok(store) => Ok(store.dirs()),
        Err(error) => {
            log::info!("{error}");
            Ok(vec![os.canonical(&session.root)?.join(VAR.trim_start_matches('/'))])
        }
    }
}

/// Adds an entry wherever the journal is. What cannot be written down is no reason to stop.
fn append<O: Os>(os: &O, store: &Store, entry: &Entry) {
    for location in store.locations() {
        if let Err(error) = append_to(os, &location, entry) {
            journal::tell(&error.during("keeping the history"));
        }
    }
}

/// All of it is written anew, so that there is no half line after a loss of power.
fn append_to<O: Os>(os: &O, location: &Location, entry: &Entry) -> Result<()> {
    let mut text = os.read_file(&location.dir().join(LOG))?.unwrap_or_default();
    if text.len() > longest(location) {
        location.put(os, BEFORE, &text)?;
        text.clear();
    }
    if text.last().is_some_and(|&b| b != b'\n') {
        text.push(b'\n');
    }
    text.extend(serde_json::to_vec(entry).unwrap_or_default());
    text.push(b'\n');
    location.put(os, LOG, &text)
}

/// A run that is told of: in the journal while it lasts, and in the history when it is over.
pub(super) struct Diary<'a, O: Os> {
    os: &'a O,
    begun: Begun,
    open: Option<Open>,
    /// For the history.
    pub(super) details: Vec<String>,
}

/// What is known since it began.
struct Open {
    store: Store,
    from: String,
    to: String,
    /// Whether the journal could be kept.
    kept: bool,
}

/// Runs `run`, and writes down what came of it, where it began anything.
///
/// # Errors
/// Those of `run`.
pub(super) fn told<O: Os, T>(
    os: &O,
    session: &Session,
    verb: &'static str,
    run: impl FnOnce(&mut Diary<'_, O>) -> Result<T>,
) -> Result<T> {
    let mut diary = Diary { os, begun: Begun::now(verb), open: None, details: Vec::new() };
    let result = run(&mut diary).map_err(|error| match session.monitor.stopped() {
        Some(signal) => {
            // It is why the run ends, but what went wrong besides is told, too.
            if !matches!(error.kind, Kind::Signal(_)) {
                log::warn!("{error}");
            }
            interrupted(signal)
        }
        None => error,
    });
    diary.close(result.as_ref().err());
    result
}

impl<O: Os> Diary<'_, O> {
    /// The journal, before anything is written.
    ///
    /// # Errors
    /// Refused: it cannot be read, or another version of this program keeps one. Or the system does
    /// not tell which start this is.
    pub(super) fn journal(&self, view: &View, layout: &Layout) -> Result<Journal> {
        let mut journal = Store::of(view, layout).read(self.os).current()?;
        arrival::adopt(self.os, view, layout, &mut journal)?;
        Ok(journal)
    }

    /// Writes down that the run begins to write, after `change`. A run that was interrupted goes to
    /// the history.
    ///
    /// # Errors
    /// The journal can be kept nowhere.
    pub(super) fn begin(
        &mut self,
        view: &View,
        layout: &Layout,
        (from, to): (String, String),
        change: impl FnOnce(&mut Journal),
    ) -> Result<()> {
        let store = Store::of(view, layout);
        let mut journal = store.read(self.os).current()?;
        if let Some(operation) = journal.operation.take() {
            log::warn!("the last {}", describe(&operation));
            append(
                self.os,
                &store,
                &Entry {
                    when: operation.begun,
                    verb: operation.verb,
                    from: operation.source,
                    to: operation.target,
                    result: Outcome::Interrupted,
                    seconds: 0.0,
                    code: 1,
                    error: None,
                    details: Vec::new(),
                },
            );
        }
        journal.operation = Some(Operation {
            verb: self.begun.verb.to_owned(),
            pid: std::process::id(),
            begun: self.begun.when,
            source: Some(from.clone()),
            target: Some(to.clone()),
        });
        change(&mut journal);
        let written = store.write(self.os, &mut journal);
        self.open = Some(Open { store, from, to, kept: written.is_ok() });
        written
    }

    /// Tells that the journal could not be kept, unless that was told when the run began.
    pub(super) fn tell(&self, error: &Error) {
        if self.open.as_ref().is_none_or(|open| open.kept) {
            journal::tell(error);
        }
    }

    /// Changes the journal on the way.
    ///
    /// # Errors
    /// It can be kept nowhere.
    pub(super) fn note(&self, change: impl FnOnce(&mut Journal)) -> Result<()> {
        // What was begun is no refusal any more.
        self.change(change).map_err(Error::once_begun)
    }

    /// The same before anything is written.
    ///
    /// # Errors
    /// It can be kept nowhere. Refused: as [`Self::journal`].
    pub(super) fn change(&self, change: impl FnOnce(&mut Journal)) -> Result<()> {
        let Some(Open { store, .. }) = &self.open else { return Ok(()) };
        let mut journal = store.read(self.os).current()?;
        change(&mut journal);
        store.write(self.os, &mut journal)
    }

    fn close(mut self, error: Option<&Error>) {
        let Some(open) = self.open.take() else { return };
        let done = || -> Result<()> {
            let mut journal = open.store.read(self.os).current()?;
            if journal.operation.take().is_some() {
                open.store.write(self.os, &mut journal)?;
            }
            Ok(())
        };
        if let Err(e) = done()
            && open.kept
        {
            journal::tell(&e);
        }
        let entry = self.begun.over((open.from, open.to), error, self.details);
        append(self.os, &open.store, &entry);
    }
}

/// A run that keeps no operation of its own in the journal, since it consists of others.
pub(super) struct Whole {
    begun: Begun,
    store: Store,
    from: String,
    to: String,
}

impl Whole {
    pub(super) fn begin(verb: &'static str, view: &View, layout: &Layout) -> Self {
        let root = layout.root();
        let (from, to) = (view.node(root.source), view.node(root.target));
        Self { begun: Begun::now(verb), store: Store::of(view, layout), from, to }
    }

    /// Adds it to the history.
    pub(super) fn end<O: Os>(self, os: &O, error: Option<&Error>, details: Vec<String>) {
        let entry = self.begun.over((self.from, self.to), error, details);
        append(os, &self.store, &entry);
    }
}

/// A run that was interrupted, in words.
pub fn describe(operation: &Operation) -> String {
    format!("{operation}, begun {:.0}, was interrupted", operation.begun)
}

/// Whether the journal could not be kept for want of a place, which is told, and not because it must
/// not be: then work goes on.
pub(super) fn is_only_lost(error: &Error) -> bool {
    if error.kind != Kind::Refused {
        journal::tell(error);
    }
    error.kind != Kind::Refused
}
