//! Records and manifests on a mounted copy.

use std::ffi::OsStr;
use std::io::{self, Read, Write};

use sha2::{Digest, Sha256};

use super::durable;
use crate::error::{Context, Result, if_there};
use crate::record::{DIR, MANIFEST, RECORD, Record, USED};
use crate::slot::State;
use crate::sys::OWN;
use crate::sys::tree::Dir;

/// The manifest while its copy is not yet verified.
pub const MANIFEST_NEW: &str = "manifest.mtree.new";

/// Passes bytes on and takes their SHA-256.
#[derive(Debug)]
pub struct Hashing<T> {
    inner: T,
    hasher: Sha256,
}

impl<T> Hashing<T> {
    /// Around `inner`.
    pub fn new(inner: T) -> Self {
        Self { inner, hasher: Sha256::new() }
    }

    /// The inner one, and the digest of what went by in hexadecimal.
    pub fn finish(self) -> (T, String) {
        use std::fmt::Write as _;
        let digest = self.hasher.finalize();
        let hex = digest.iter().fold(String::with_capacity(64), |mut hex, byte| {
            let _ = write!(hex, "{byte:02x}"); // writing to a String cannot fail
            hex
        });
        (self.inner, hex)
    }
}

impl<T: Write> Write for Hashing<T> {
    fn write(&mut self, data: &[u8]) -> io::Result<usize> {
        let written = self.inner.write(data)?;
        self.hasher.update(&data[..written]);
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.inner.flush()
    }
}

impl<T: Read> Read for Hashing<T> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let n = self.inner.read(buffer)?;
        self.hasher.update(&buffer[..n]);
        Ok(n)
    }
}

/// What a root says of itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Found {
    /// What that makes of the slot.
    pub state: State,
    /// Why, where it is not plain.
    pub reason: Option<String>,
    /// The record.
    pub record: Option<Record>,
    /// What of a copy is there, well or not.
    pub traces: Traces,
    /// Another version of this program may understand the record.
    pub foreign: bool,
}

/// How far a copy has come, by the files that are there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Traces {
    /// None was made: what is there was installed. Or nobody can tell.
    None,
    /// A manifest and no record.
    Begun,
    /// A record.
    Finished,
}

impl Found {
    /// Without a record.
    pub(super) fn new(state: State, reason: impl Into<String>) -> Self {
        let reason = Some(reason.into());
        Self { state, reason, record: None, traces: Traces::None, foreign: false }
    }
}

/// Reads the record on `root` and checks that the manifest is the record's.
pub fn read<D: Dir>(root: &D) -> Found {
    let mut found =
        try_read(root).unwrap_or_else(|e| Found::new(State::Unknown, crate::error::describe(&e)));
    if found.record.is_none() {
        found.traces = traces(root);
    }
    found
}

pub(super) fn traces<D: Dir>(root: &D) -> Traces {
    let Ok(own) = root.open_dir(OsStr::new(DIR)) else { return Traces::None };
    let has = |name: &str| own.stat(OsStr::new(name)).is_ok();
    match (has(RECORD), has(MANIFEST) || has(MANIFEST_NEW)) {
        (true, _) => Traces::Finished,
        (false, true) => Traces::Begun,
        (false, false) => Traces::None,
    }
}

/// Whether the system on `root` has left its mark there: it has run since it was copied. Not the mark of
/// `source`, the running root: that came along with its blocks. Version 0.1.0 left an empty one.
pub(super) fn has_run<D: Dir>(root: &D, source: &str) -> bool {
    let own = root.open_dir(OsStr::new(DIR));
    own.and_then(|own| mark(&own)).is_ok_and(|mark| mark != source)
}

/// The mark in the directory for what is ours.
fn mark<D: Dir>(own: &D) -> io::Result<String> {
    let mut text = String::new();
    own.open_file(OsStr::new(USED))?.take(4096).read_to_string(&mut text)?;
    Ok(text.trim_end().to_owned())
}

/// Leaves that mark on the root that runs.
pub(super) fn put_mark<D: Dir>(root: &D, node: &str) -> Result<()> {
    let own = durable::own_dir(root)?;
    match mark(&own) {
        Ok(there) if there == node => Ok(()),
        _ => durable::put(&own, USED, format!("{node}\n").as_bytes()),
    }
}

fn try_read<D: Dir>(root: &D) -> io::Result<Found> {
    let Some(dir) = if_there(root.open_dir(OsStr::new(DIR)))? else {
        return without_record(root);
    };
    let Some(file) = if_there(dir.open_file(OsStr::new(RECORD)))? else {
        return without_record(root);
    };
    let mut text = Vec::new();
    file.take(64 << 20).read_to_end(&mut text)?;
    let record = match Record::parse(&text) {
        Ok(record) => record,
        Err(why) => {
            let found = Found::new(State::Unknown, format!("the record {why}"));
            return Ok(Found { foreign: why.is_whole(), ..found });
        }
    };
    let Some(manifest) = if_there(dir.open_file(OsStr::new(MANIFEST)))? else {
        return Ok(Found::new(State::Invalid, "the manifest is missing"));
    };
    let mut hashing = Hashing::new(manifest);
    io::copy(&mut hashing, &mut io::sink())?;
    if hashing.finish().1 != record.manifest_sha256 {
        return Ok(Found::new(State::Invalid, "the manifest is not the record's"));
    }
    let (state, traces) = (State::Valid, Traces::Finished);
    Ok(Found { state, reason: None, record: Some(record), traces, foreign: false })
}

/// A fresh file system has only its own directories.
fn without_record<D: Dir>(root: &D) -> io::Result<Found> {
    let names = root.names()?;
    let fresh = |name: &OsStr| OWN.iter().any(|own| name == *own);
    if names.iter().all(|(name, _)| fresh(name)) {
        return Ok(Found::new(State::Empty, "nothing is on its file system"));
    }
    Ok(Found::new(State::Invalid, "it has no record: no snapshot of it was finished"))
}

/// Opens the manifest of the copy that is under way, else the one that is there. `dir` is the
/// directory for what is ours.
pub(super) fn manifest<D: Dir>(dir: &D) -> Result<D::File> {
    match if_there(dir.open_file(OsStr::new(MANIFEST_NEW))).doing_to("opening", MANIFEST_NEW)? {
        Some(file) => Ok(file),
        None => dir.open_file(OsStr::new(MANIFEST)).doing_to("opening", MANIFEST),
    }
}

/// Removes the record, and what else tells of the copy's past but its manifest.
pub(super) fn revoke<D: Dir>(root: &D) -> Result<()> {
    let dir = root.open_dir(OsStr::new(DIR)).doing_to("opening", DIR)?;
    for name in [RECORD, USED, MANIFEST_NEW] {
        if_there(dir.remove_file(OsStr::new(name))).doing_to("removing", name)?;
    }
    dir.sync().doing_to("flushing", DIR)
}

/// Puts manifest and record in place, durably: each under a temporary name first, the record last. A
/// copy that was brought up to date may have the manifest that it had.
pub fn write<D: Dir>(root: &D, record: &Record) -> Result<()> {
    let dir = root.open_dir(OsStr::new(DIR)).doing_to("opening", DIR)?;
    let renamed = dir.rename(OsStr::new(MANIFEST_NEW), OsStr::new(MANIFEST));
    if if_there(renamed).doing_to("renaming", MANIFEST_NEW)?.is_some() {
        dir.sync().doing_to("flushing", DIR)?;
    }
    durable::put(&dir, RECORD, &record.to_json())
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;
    use crate::sys::FdDir;

    #[test]
    fn what_a_new_file_system_has_is_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let found = || read(&FdDir::open(dir.path()).unwrap()).state;
        for own in OWN {
            assert_eq!(found(), State::Empty);
            fs::write(dir.path().join(own), "").unwrap();
        }
        assert_eq!(found(), State::Empty);
        fs::write(dir.path().join("any"), "").unwrap();
        assert_eq!(found(), State::Invalid);
    }
}
