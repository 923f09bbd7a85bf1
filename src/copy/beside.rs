//! A manifest read as a stream beside a walk: both are in byte order, so that one pass is enough,
//! and of neither more is kept than the place where it is.

use std::ffi::{OsStr, OsString};
use std::io::{self, BufRead};
use std::path::{Path, PathBuf};

use crate::error::{Error, Kind as ErrorKind, Result};
use crate::record::manifest::{Line, Object, Reader};
use crate::sys::tree::Kind;

/// A manifest beside a walk.
pub struct Beside<'a> {
    /// What it is called in messages.
    called: &'static str,
    manifest: Reader<Box<dyn BufRead + Send + 'a>>,
    /// The line that was read and not yet used.
    next: Option<Line>,
    /// The last name in each directory that the manifest is in.
    last: Vec<OsString>,
    /// Of each directory that the walk is in: whether the manifest is in it too.
    inside: Vec<bool>,
    /// The listed directory that the walk was told of, and may or may not go into.
    offered: Option<OsString>,
    path: PathBuf,
    missing: Option<PathBuf>,
    missing_count: u64,
}

impl<'a> Beside<'a> {
    /// Begins at the root of both; messages call it `called`.
    ///
    /// # Errors
    /// It is no manifest.
    pub fn new(called: &'static str, manifest: Box<dyn BufRead + Send + 'a>) -> Result<Self> {
        let mut beside = Self::at_root(called, manifest, true);
        match beside.line()? {
            Line::Object(name, root) if name == "." && root.kind == Kind::Dir => Ok(beside),
            _ => Err(malformed(called, "it does not begin with its root")),
        }
    }

    /// Beside a walk of which nothing is listed.
    pub fn nothing() -> Self {
        Self::at_root("nothing", Box::new(io::empty()), false)
    }

    fn at_root(called: &'static str, manifest: Box<dyn BufRead + Send + 'a>, inside: bool) -> Self {
        Self {
            called,
            manifest: Reader::new(manifest),
            next: None,
            last: vec![OsString::new()],
            inside: vec![inside],
            offered: None,
            path: PathBuf::new(),
            missing: None,
            missing_count: 0,
        }
    }

    /// What the manifest has under `name` in the directory that the walk is in. Asked in byte
    /// order.
    ///
    /// # Errors
    /// It cannot be read, or is none.
    pub fn find(&mut self, name: &OsStr) -> Result<Option<Object>> {
        self.catch_up()?;
        if self.inside.last() != Some(&true) {
            return Ok(None);
        }
        loop {
            match self.line()? {
                Line::Object(listed, object) if listed == name => {
                    self.offered = (object.kind == Kind::Dir).then_some(listed);
                    return Ok(Some(object));
                }
                line @ Line::Ignored(..) => self.pass(line)?,
                Line::Object(listed, object) if listed.as_os_str() < name => {
                    self.pass(Line::Object(listed, object))?;
                }
                behind => {
                    self.next = Some(behind);
                    return Ok(None);
                }
            }
        }
    }

    /// The walk goes into the directory `name`, which was asked for last.
    pub fn enter(&mut self, name: &OsStr) {
        self.inside.push(self.offered.take().is_some());
        self.path.push(name);
    }

    /// The walk leaves the innermost directory.
    ///
    /// # Errors
    /// As [`Self::find`].
    pub fn leave(&mut self) -> Result<()> {
        self.catch_up()?;
        if self.inside.pop() == Some(true) {
            self.pass_rest()?;
        }
        self.path.pop();
        Ok(())
    }

    /// What the manifest has and the walk did not ask for: the first of it, and how many.
    pub fn missed(&self) -> Option<(&Path, u64)> {
        self.missing.as_deref().map(|first| (first, self.missing_count))
    }

    /// Passes what is listed in a directory that the walk did not go into.
    fn catch_up(&mut self) -> Result<()> {
        if let Some(name) = self.offered.take() {
            self.path.push(name);
            self.pass_rest()?;
            self.path.pop();
        }
        Ok(())
    }

    /// Passes the rest of the directory that the manifest is in.
    fn pass_rest(&mut self) -> Result<()> {
        loop {
            match self.line()? {
                Line::Leave => return Ok(()),
                line => self.pass(line)?,
            }
        }
    }

    /// Passes an object that the walk did not meet, with what is listed below it.
    fn pass(&mut self, line: Line) -> Result<()> {
        let mut deep = u64::from(line.is_dir());
        if let Line::Object(name, _) = line {
            self.missing_count += 1;
            self.missing.get_or_insert_with(|| self.path.join(name));
        }
        while deep > 0 {
            match self.line()? {
                Line::Leave => deep -= 1,
                below => deep += u64::from(below.is_dir()),
            }
        }
        Ok(())
    }

    /// The next line. That its names are in order is what makes one pass enough.
    fn line(&mut self) -> Result<Line> {
        if let Some(line) = self.next.take() {
            return Ok(line);
        }
        let called = self.called;
        let line = self.manifest.next_line().map_err(|e| match e.kind() {
            io::ErrorKind::InvalidData => malformed(called, &e.to_string()),
            _ => Error::io("reading", &e).path(called),
        })?;
        let line = line.ok_or_else(|| malformed(called, "it ends before its root does"))?;
        if let Line::Object(name, _) = &line
            && let Some(last) = self.last.last_mut()
        {
            if *last >= *name {
                let cause = format!("{} comes behind {}", name.display(), last.display());
                return Err(malformed(called, &cause));
            }
            last.clone_from(name);
        }
        if line.is_dir() {
            self.last.push(OsString::new());
        } else if line == Line::Leave {
            self.last.pop();
        }
        Ok(line)
    }
}

fn malformed(called: &str, why: &str) -> Error {
    Error::new(ErrorKind::Failed, format!("reading {called}"), why)
}
