//! What a run has done so far, and whether it shall stop: shared by all its threads.

use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

use crate::error::{Error, Kind};
use std::sync::{Arc, Mutex, PoisonError};

/// Counters that a display reads while the engine works.
#[derive(Debug, Default)]
pub struct Monitor {
    signal: Arc<AtomicUsize>,
    bytes: AtomicU64,
    objects: AtomicU64,
    phase: Mutex<Phase>,
}

/// What is being done, and how much of it there is: an estimate, from what the source uses.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Phase {
    /// `copying /`, `verifying /`; empty between phases.
    pub name: String,
    /// Bytes expected.
    pub bytes: u64,
    /// Objects expected.
    pub objects: u64,
}

impl Monitor {
    /// A monitor that stops once `signal` is not 0: the number of the signal that arrived.
    pub fn new(signal: Arc<AtomicUsize>) -> Self {
        Self { signal, ..Self::default() }
    }

    /// Counts bytes that pass; answers whether to stop.
    pub fn passing(&self, bytes: u64) -> bool {
        self.bytes.fetch_add(bytes, Ordering::Relaxed);
        self.stopped().is_some()
    }

    /// Counts finished objects.
    pub fn finished(&self, objects: u64) {
        self.objects.fetch_add(objects, Ordering::Relaxed);
    }

    /// The signal that asked to stop.
    pub fn stopped(&self) -> Option<i32> {
        match self.signal.load(Ordering::Relaxed) {
            0 => None,
            n => Some(i32::try_from(n).unwrap_or(i32::MAX)),
        }
    }

    /// Bytes and objects so far in this phase.
    pub fn counts(&self) -> (u64, u64) {
        (self.bytes.load(Ordering::Relaxed), self.objects.load(Ordering::Relaxed))
    }

    /// Begins the next phase at zero.
    pub fn begin(&self, phase: Phase) {
        self.bytes.store(0, Ordering::Relaxed);
        self.objects.store(0, Ordering::Relaxed);
        *self.phase.lock().unwrap_or_else(PoisonError::into_inner) = phase;
    }

    /// The present phase.
    pub fn phase(&self) -> Phase {
        self.phase.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

/// The error of a run that a signal stopped.
pub fn interrupted(signal: i32) -> Error {
    let name = nix::sys::signal::Signal::try_from(signal)
        .map_or_else(|_| format!("signal {signal}"), |s| s.as_str().to_owned());
    Error::new(Kind::Signal(signal), "", format!("stopped by {name}"))
}
