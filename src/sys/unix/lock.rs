//! Locks that end with their process.

use std::fs::{self, File as StdFile, TryLockError};
use std::io::{Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use crate::error::{Context, Result};

/// A held lock file. The lock ends with the process, however that ends (flock(2)); the file stays
/// and is never replaced, so that two runs cannot hold different files of one name.
#[derive(Debug)]
pub struct Lock {
    file: StdFile,
    exclusive: bool,
}

/// The answer to an attempt to lock.
#[derive(Debug)]
pub enum LockState {
    /// It is ours until dropped.
    Held(Lock),
    /// Somebody else's, with what they wrote into it.
    Taken(String),
}

impl Lock {
    /// Tries to take the lock without waiting. A holder of the exclusive lock leaves `note` in the
    /// file; readers share the lock and leave nothing.
    pub fn try_take(path: &Path, exclusive: bool, note: &str) -> Result<LockState> {
        let mut file = fs::OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o644)
            .open(path)
            .doing_to("opening lock", path)?;
        let taken = if exclusive { file.try_lock() } else { file.try_lock_shared() };
        match taken {
            Ok(()) => {
                if exclusive {
                    file.set_len(0).doing_to("writing lock", path)?;
                    file.write_all(note.as_bytes()).doing_to("writing lock", path)?;
                }
                Ok(LockState::Held(Self { file, exclusive }))
            }
            Err(TryLockError::WouldBlock) => {
                let mut note = String::new();
                file.read_to_string(&mut note).doing_to("reading lock", path)?;
                Ok(LockState::Taken(note))
            }
            Err(TryLockError::Error(e)) => Err(e).doing_to("locking", path),
        }
    }
}

impl Drop for Lock {
    fn drop(&mut self) {
        if self.exclusive {
            // An old note without a lock is a dead owner's; a failure here reads just like that.
            let _ = self.file.set_len(0);
        }
    }
}
