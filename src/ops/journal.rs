//! Where the journal lies, and the history beside it, and how they get there.

use std::path::{Path, PathBuf};

use jiff::Timestamp;

use super::durable;
use super::lock::{self, Reading};
use super::table::save::{self, Home};
use crate::error::{Context, During, Error, Kind, Result};
use crate::record::DIR;
use crate::record::journal::{JOURNAL, Journal, Operation, Place};
use crate::slot::Slot;
use crate::slot::discover::Layout;
use crate::slot::view::View;
use crate::sys::Os;
use crate::sys::tree::Dir;

/// The directory for the state of the box, which is not copied.
pub(super) const VAR: &str = "/var/db/dualroot";
/// What to do about a journal that this program does not know how to go on with.
pub(super) const FOREIGN: &str = "use the program that wrote it, or remove it";

/// The places of the journal. Any of them may be missing, torn, or in memory: the newest whole one
/// counts.
#[derive(Clone, Debug)]
pub(super) struct Store {
    /// [`VAR`], below the root.
    var: PathBuf,
    /// `/config`, where it is a file system of its own.
    config: Option<PathBuf>,
    /// Whether that is mounted read-write.
    writable: bool,
}

/// A place that can be written.
#[derive(Clone, Debug)]
pub(super) enum Location {
    /// [`VAR`], below the root.
    Var(PathBuf),
    /// `/config`: what is there outlives a `/var` in memory.
    Config(PathBuf),
}

impl Location {
    /// The directory.
    pub(super) fn dir(&self) -> PathBuf {
        match self {
            Self::Var(dir) => dir.clone(),
            Self::Config(point) => point.join(DIR),
        }
    }

    /// Puts a file there. The directory is made where it is missing.
    ///
    /// # Errors
    /// It cannot be written; what was there stays.
    pub(super) fn put<O: Os>(&self, os: &O, name: &str, content: &[u8]) -> Result<()> {
        match self {
            Self::Var(dir) => put(os, dir, name, content),
            Self::Config(point) => os
                .open_dir(point)
                .and_then(|root| durable::put(&durable::own_dir(&root)?, name, content))
                .during(format!("writing to {}", point.display())),
        }
    }
}

/// What the places hold.
#[derive(Debug, Default)]
pub(super) struct Found {
    /// The newest.
    pub(super) journal: Option<Journal>,
    /// What could not be read, in words.
    pub(super) damaged: Vec<String>,
    /// One that another version of this program wrote, or that says what this one does not know.
    pub(super) foreign: Option<String>,
    /// Why a place cannot be read: it may hold a newer one.
    pub(super) unread: Option<Error>,
}

impl Found {
    /// What is wrong with the places, in words.
    pub(super) fn problems(&self) -> Vec<String> {
        let unread = self.unread.as_ref().map(ToString::to_string);
        self.foreign.iter().chain(&self.damaged).cloned().chain(unread).collect()
    }

    /// The journal to go on with: an empty one where there is none.
    ///
    /// # Errors
    /// Refused: a place cannot be read, and may hold a newer one; or another version of this program
    /// keeps one.
    pub(super) fn current(self) -> Result<Journal> {
        if let Some(error) = self.unread {
            return Err(error.kind(Kind::Refused).during("reading the journal"));
        }
        for why in &self.damaged {
            log::warn!("{why}");
        }
        match self.foreign {
            Some(why) => Err(Error::refused(why).hint(FOREIGN)),
            None => Ok(self.journal.unwrap_or_default()),
        }
    }
}

impl Store {
    pub(super) fn of(view: &View, layout: &Layout) -> Self {
        let (config, writable) = match save::home(view, layout) {
            Home::Writable(point) => (Some(point), true),
            Home::ReadOnly(point) => (Some(point), false),
            Home::None => (None, false),
        };
        Self { var: view.below(VAR), config, writable }
    }

    /// The directories, also of what cannot be written.
    pub(super) fn dirs(&self) -> Vec<PathBuf> {
        let config = self.config.iter().map(|point| point.join(DIR));
        std::iter::once(self.var.clone()).chain(config).collect()
    }

    /// The places that can be written, as far as their mounts tell.
    pub(super) fn locations(&self) -> Vec<Location> {
        let config = self.config.clone().filter(|_| self.writable).map(Location::Config);
        std::iter::once(Location::Var(self.var.clone())).chain(config).collect()
    }

    pub(super) fn read<O: Os>(&self, os: &O) -> Found {
        let mut found = Found::default();
        for dir in self.dirs() {
            let path = dir.join(JOURNAL);
            let place = path.display();
            let journal = match os.read_file(&path) {
                Ok(None) => continue,
                Ok(Some(text)) => Journal::parse(&text),
                Err(error) => {
                    found.unread = Some(error);
                    continue;
                }
            };
            match journal {
                Ok(new) if found.journal.as_ref().is_none_or(|j| j.sequence < new.sequence) => {
                    found.journal = Some(new);
                }
                Ok(_) => {}
                Err(why) => {
                    let what = format!("{place}: the journal {why}");
                    if why.is_whole() {
                        found.foreign = Some(what);
                    } else {
                        found.damaged.push(what);
                    }
                }
            }
        }
        found
    }

    /// Writes the journal to every place that takes it.
    ///
    /// # Errors
    /// None did.
    pub(super) fn write<O: Os>(&self, os: &O, journal: &mut Journal) -> Result<()> {
        journal.sequence += 1;
        journal.written = Timestamp::now();
        Journal::default().tool.clone_into(&mut journal.tool);
        let text = journal.to_json();
        let locations = self.locations().into_iter();
        let mut results: Vec<_> = locations.map(|at| at.put(os, JOURNAL, &text)).collect();
        let failed = |result: &Result<()>| result.is_err();
        if results.iter().all(failed) {
            return results.swap_remove(0).during("keeping the journal");
        }
        for error in results.into_iter().filter_map(Result::err) {
            tell(&error.during("keeping the journal"));
        }
        Ok(())
    }
}

/// Tells of what could not be kept. On a root that is meant to be read-only that is nothing to warn
/// of.
pub(super) fn tell(error: &Error) {
    let read_only = error.errno == Some(nix::errno::Errno::EROFS as i32);
    log::log!(if read_only { log::Level::Info } else { log::Level::Warn }, "{error}");
}

/// Puts a file into a directory of the root, which is made where it is missing.
fn put<O: Os>(os: &O, path: &Path, name: &str, content: &[u8]) -> Result<()> {
    let dir = match os.open_dir(path) {
        Err(e) if e.errno == Some(nix::errno::Errno::ENOENT as i32) => {
            os.make_dir(path)?;
            // The directories that may be new with it.
            for above in path.ancestors().skip(1).take(3) {
                os.open_dir(above)?.sync().doing_to("flushing", above)?;
            }
            os.open_dir(path)
        }
        dir => dir,
    }?;
    durable::put(&dir, name, content).map_err(|e| e.path(path.join(name)))
}

/// A slot as the journal knows it.
pub(super) fn place(view: &View, slot: &Slot) -> Place {
    Place { slot: slot.number, device: view.node(slot.root) }
}

/// The run that did not come to its end: the journal names it, and nobody holds the lock.
pub(super) fn interrupted<O: Os>(
    os: &O,
    view: &View,
    journal: &Journal,
) -> Result<Option<Operation>> {
    let Some(operation) = &journal.operation else { return Ok(None) };
    let lock = lock::shared_system(os, view)?;
    Ok(matches!(lock, Reading::Free(_)).then(|| operation.clone()))
}
