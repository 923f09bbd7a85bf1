//! The manifest of a copy under way.
//!
//! Over an older copy it is compared with the manifest that is there, and written from the first
//! difference on: where nothing has changed, nothing is written.

use std::ffi::OsStr;
use std::io::{self, BufReader, Read, Write};

use crate::error::{Context, Result, if_there};
use crate::ops::record::MANIFEST_NEW;
use crate::record::MANIFEST;
use crate::sys::tree::{Dir, File};

pub(super) struct Draft<'a, D: Dir> {
    dir: &'a D,
    state: State<D::File>,
}

enum State<F> {
    /// The same so far as the manifest that is there.
    Same(BufReader<F>, u64),
    New(F),
}

impl<'a, D: Dir> Draft<'a, D> {
    /// In a new file in `dir`, the directory for what is ours.
    pub(super) fn new(dir: &'a D) -> Result<Self> {
        let file = create(dir).doing_to("creating", MANIFEST_NEW)?;
        Ok(Self { dir, state: State::New(file) })
    }

    /// Beside the manifest of an older copy. One that was finished after that takes its place.
    pub(super) fn over(dir: &'a D) -> Result<Self> {
        let renamed = dir.rename(OsStr::new(MANIFEST_NEW), OsStr::new(MANIFEST));
        if_there(renamed).doing_to("renaming", MANIFEST_NEW)?;
        let old = dir.open_file(OsStr::new(MANIFEST)).doing_to("opening", MANIFEST)?;
        Ok(Self { dir, state: State::Same(BufReader::with_capacity(64 << 10, old), 0) })
    }

    /// No more. What was written is flushed.
    pub(super) fn finish(mut self) -> io::Result<()> {
        if let State::Same(old, length) = &mut self.state {
            let length = *length;
            if old.read(&mut [0])? > 0 {
                self.state = State::New(part(self.dir, length)?);
            }
        }
        match &self.state {
            State::Same(..) => Ok(()),
            State::New(file) => file.sync(),
        }
    }
}

impl<D: Dir> Write for Draft<'_, D> {
    fn write(&mut self, data: &[u8]) -> io::Result<usize> {
        if let State::Same(old, length) = &mut self.state {
            let mut there = Vec::with_capacity(data.len());
            old.by_ref().take(data.len() as u64).read_to_end(&mut there)?;
            if there == data {
                *length += data.len() as u64;
                return Ok(data.len());
            }
            let length = *length;
            self.state = State::New(part(self.dir, length)?);
        }
        match &mut self.state {
            State::Same(..) => Ok(0),
            State::New(file) => file.write(data),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

fn create<D: Dir>(dir: &D) -> io::Result<D::File> {
    dir.create_file(OsStr::new(MANIFEST_NEW))
}

/// A new file with the first `length` bytes of the manifest that is there.
fn part<D: Dir>(dir: &D, length: u64) -> io::Result<D::File> {
    let mut file = create(dir)?;
    let old = dir.open_file(OsStr::new(MANIFEST))?;
    io::copy(&mut old.take(length), &mut file)?;
    Ok(file)
}
