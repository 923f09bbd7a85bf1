//! The one error type.
//!
//! A message names the operation first, then the path, the offset and the cause, in lower case:
//! `copying / to /altroot: writing boot/kernel/kernel at 4194304: No space left on device`.
//! Whoever knows a larger operation adds it with [`During::during`]; whoever knows what the user
//! can do about it adds a [`Error::hint`]. Nothing is reported twice and nothing is only logged.

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};

/// Shorthand for results of this crate.
pub type Result<T> = std::result::Result<T, Error>;

/// What kind of failure this is; it decides the exit code.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Something went wrong while working (exit 1).
    Failed,
    /// The command line or a configuration file makes no sense (exit 2).
    Usage,
    /// `check` or `verify` found problems (exit 3).
    Problems,
    /// Somebody else holds the lock, a mount or an open file (exit 4).
    Busy,
    /// Content differs from the manifest (exit 5).
    Differs,
    /// Refused before anything was written (exit 6).
    Refused,
    /// Stopped by this signal (exit 128 + n).
    Signal(i32),
}

impl Kind {
    /// The process's exit code.
    pub fn exit_code(self) -> u8 {
        match self {
            Self::Failed => 1,
            Self::Usage => 2,
            Self::Problems => 3,
            Self::Busy => 4,
            Self::Differs => 5,
            Self::Refused => 6,
            Self::Signal(n) => u8::try_from(128 + n).unwrap_or(255),
        }
    }

    /// A stable word for `--json`.
    pub fn code(self) -> &'static str {
        match self {
            Self::Failed => "failed",
            Self::Usage => "usage",
            Self::Problems => "problems",
            Self::Busy => "busy",
            Self::Differs => "differs",
            Self::Refused => "refused",
            Self::Signal(_) => "interrupted",
        }
    }
}

/// A failed operation: what was done, to what, where, why, and what to do about it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Error {
    /// Decides the exit code.
    pub kind: Kind,
    /// Larger operations this was part of, outermost first.
    pub context: Vec<String>,
    /// The operation, a gerund: `writing`, `mounting /dev/da0s2a`. May be empty.
    pub operation: String,
    /// The object it was done to.
    pub path: Option<PathBuf>,
    /// The byte offset in that object.
    pub offset: Option<u64>,
    /// Why it failed.
    pub cause: String,
    /// What the user can do.
    pub hint: Option<String>,
    /// The system's error number, where the cause is one.
    pub errno: Option<i32>,
}

impl Error {
    /// An error of `kind` with a cause of our own.
    pub fn new(kind: Kind, operation: impl Into<String>, cause: impl Into<String>) -> Self {
        Self {
            kind,
            context: Vec::new(),
            operation: operation.into(),
            path: None,
            offset: None,
            cause: cause.into(),
            hint: None,
            errno: None,
        }
    }

    /// A refusal: nothing has been written.
    pub fn refused(cause: impl Into<String>) -> Self {
        Self::new(Kind::Refused, "", cause)
    }

    /// A failed system call.
    pub fn io(operation: impl Into<String>, source: &io::Error) -> Self {
        let mut error = Self::new(Kind::Failed, operation, describe(source));
        error.errno = source.raw_os_error();
        error
    }

    /// Adds the object it happened to.
    #[must_use]
    pub fn path(mut self, path: impl AsRef<Path>) -> Self {
        self.path = Some(path.as_ref().to_path_buf());
        self
    }

    /// Adds the byte offset.
    #[must_use]
    pub fn at(mut self, offset: u64) -> Self {
        self.offset = Some(offset);
        self
    }

    /// Adds what the user can do.
    #[must_use]
    pub fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }

    /// Puts the error inside a larger operation.
    #[must_use]
    pub fn during(mut self, operation: impl Into<String>) -> Self {
        self.context.insert(0, operation.into());
        self
    }

    /// For whoever reads and writes: the system's own error, where the cause is one.
    pub fn as_io(&self) -> io::Error {
        match self.errno {
            Some(errno) => io::Error::from_raw_os_error(errno),
            None => io::Error::other(self.to_string()),
        }
    }

    /// What would be a refusal is a failure once something was written.
    #[must_use]
    pub fn once_begun(self) -> Self {
        if self.kind == Kind::Refused { self.kind(Kind::Failed) } else { self }
    }

    /// Changes the kind, keeping the message.
    #[must_use]
    pub fn kind(mut self, kind: Kind) -> Self {
        self.kind = kind;
        self
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for context in &self.context {
            write!(f, "{context}: ")?;
        }
        let mut object = self.operation.clone();
        if let Some(path) = &self.path {
            if !object.is_empty() {
                object.push(' ');
            }
            object.push_str(&visible(&path.to_string_lossy()));
        }
        match self.offset {
            Some(offset) => write!(f, "{object} at {offset}: ")?,
            None if object.is_empty() => {}
            None => write!(f, "{object}: ")?,
        }
        f.write_str(&self.cause)
    }
}

impl std::error::Error for Error {}

/// Adds operation and path to I/O results.
pub trait Context<T> {
    /// Names the operation that failed.
    fn doing(self, operation: impl Into<String>) -> Result<T>;
    /// Names the operation and the object that it was done to.
    fn doing_to(self, operation: impl Into<String>, path: impl AsRef<Path>) -> Result<T>;
}

impl<T> Context<T> for io::Result<T> {
    fn doing(self, operation: impl Into<String>) -> Result<T> {
        self.map_err(|e| Error::io(operation, &e))
    }

    fn doing_to(self, operation: impl Into<String>, path: impl AsRef<Path>) -> Result<T> {
        self.map_err(|e| Error::io(operation, &e).path(path))
    }
}

/// Puts results of this crate inside a larger operation.
pub trait During<T> {
    /// Names the larger operation.
    fn during(self, operation: impl Into<String>) -> Result<T>;
}

impl<T> During<T> for Result<T> {
    fn during(self, operation: impl Into<String>) -> Result<T> {
        self.map_err(|e| e.during(operation))
    }
}

/// Makes "there is none" an answer, not an error: no such name (ENOENT), or something else than a
/// directory where one is looked into (ENOTDIR).
pub fn if_there<T>(result: io::Result<T>) -> io::Result<Option<T>> {
    match result {
        Err(e) if matches!(e.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => {
            Ok(None)
        }
        result => result.map(Some),
    }
}

/// The text with its control characters escaped: a name cannot pass for a line of ours, nor
/// speak to the terminal.
pub fn visible(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        if c.is_control() {
            out.extend(c.escape_default());
        } else {
            out.push(c);
        }
    }
    out
}

/// The system's words for an error (strerror(3)), without Rust's "(os error N)".
pub fn describe(error: &io::Error) -> String {
    let text = error.to_string();
    match text.rsplit_once(" (os error ") {
        Some((words, _)) if error.raw_os_error().is_some() => words.to_owned(),
        _ => text,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn message_is_operation_path_offset_cause() {
        let enospc = io::Error::from_raw_os_error(nix::libc::ENOSPC);
        let error = Error::io("writing", &enospc)
            .path("boot/kernel/kernel")
            .at(4_194_304)
            .during("copying / to /altroot");
        assert_eq!(
            error.to_string(),
            "copying / to /altroot: writing boot/kernel/kernel at 4194304: No space left on device"
        );
    }

    #[test]
    fn a_cause_of_our_own_stands_alone() {
        assert_eq!(Error::refused("no alternate slice").to_string(), "no alternate slice");
    }

    #[test]
    fn exit_codes_are_the_documented_ones() {
        let codes = [
            (Kind::Failed, 1),
            (Kind::Usage, 2),
            (Kind::Problems, 3),
            (Kind::Busy, 4),
            (Kind::Differs, 5),
            (Kind::Refused, 6),
            (Kind::Signal(15), 143),
        ];
        for (kind, code) in codes {
            assert_eq!(kind.exit_code(), code);
        }
    }
}
