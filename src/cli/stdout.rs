//! Where results go.

use std::cell::RefCell;
use std::io::{self, Write};

use crate::error::{Context, Result};

/// The standard output. A run that writes goes on where it cannot be printed; that it could not is
/// told when the run is over.
#[derive(Debug)]
pub struct Stdout {
    /// Whether what is said on the way is left out: the result is one object.
    json: bool,
    failure: RefCell<Option<io::Error>>,
}

impl Stdout {
    /// With lines said on the way unless the result is `json`.
    pub fn new(json: bool) -> Self {
        Self { json, failure: RefCell::new(None) }
    }

    /// Prints a result. After a failure nothing follows, so that what is there has no hole.
    pub fn print(&self, text: &str) {
        let mut failure = self.failure.borrow_mut();
        if failure.is_none() {
            *failure = write(text).err();
        }
    }

    /// Prints a line of a result that comes while it is worked on.
    pub fn say(&self, line: &str) {
        if !self.json {
            self.print(&format!("{line}\n"));
        }
    }

    /// Ends it.
    ///
    /// # Errors
    /// Something could not be printed. A reader that has gone away, as `head` does, is no failure.
    pub fn finish(&self) -> Result<()> {
        match self.failure.take() {
            Some(error) if error.kind() != io::ErrorKind::BrokenPipe => {
                Err(error).doing("printing the result")
            }
            _ => Ok(()),
        }
    }
}

fn write(text: &str) -> io::Result<()> {
    let mut stdout = io::stdout().lock();
    stdout.write_all(text.as_bytes())?;
    stdout.flush()
}
