//! What a run has done so far, and whether it shall stop: shared by all its threads.

use std::num::NonZero;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::sleep;
use std::time::{Duration, Instant};

use crate::error::{Error, Kind};

/// A signal is seen within this time by who waits for the rate.
const NAP: Duration = Duration::from_millis(100);

/// Counters that a display reads while the engine works.
#[derive(Debug, Default)]
pub struct Monitor {
    signal: Arc<AtomicUsize>,
    bytes: AtomicU64,
    objects: AtomicU64,
    phase: Mutex<Phase>,
    /// Bytes per second at most, and when the next may pass.
    limit: Option<(NonZero<u64>, Mutex<Instant>)>,
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

    /// Lets no more than so many bytes pass in a second.
    #[must_use]
    pub fn limited(mut self, limit: Option<NonZero<u64>>) -> Self {
        self.limit = limit.map(|limit| (limit, Mutex::new(Instant::now())));
        self
    }

    /// Counts bytes that are about to pass, and waits where they are too many for the time; answers
    /// whether to stop.
    pub fn passing(&self, bytes: u64) -> bool {
        self.passed(bytes);
        if let Some((limit, next)) = &self.limit {
            let nanos = u128::from(bytes) * 1_000_000_000 / u128::from(limit.get());
            let cost = Duration::from_nanos(u64::try_from(nanos).unwrap_or(u64::MAX));
            let turn = {
                let mut next = next.lock().unwrap_or_else(PoisonError::into_inner);
                let turn = (*next).max(Instant::now());
                *next = turn.checked_add(cost).unwrap_or(turn);
                turn
            };
            while self.stopped().is_none() {
                let left = turn.saturating_duration_since(Instant::now());
                if left.is_zero() {
                    break;
                }
                sleep(left.min(NAP));
            }
        }
        self.stopped().is_some()
    }

    /// Counts bytes of content, read or known.
    pub fn passed(&self, bytes: u64) {
        self.bytes.fetch_add(bytes, Ordering::Relaxed);
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_threads_share_one_rate() {
        let monitor = Monitor::default().limited(NonZero::new(10 << 20));
        let begun = Instant::now();
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| (0..4).for_each(|_| assert!(!monitor.passing(256 << 10))));
            }
        });
        // The last of sixteen quarters of a MiB has its turn after fifteen fortieths of a second.
        assert!(begun.elapsed() >= Duration::from_millis(375), "{:?}", begun.elapsed());
        assert_eq!(monitor.counts().0, 4 << 20);
    }

    #[test]
    fn who_waits_for_the_rate_sees_a_signal() {
        let signal = Arc::new(AtomicUsize::new(0));
        let monitor = Monitor::new(Arc::clone(&signal)).limited(NonZero::new(1));
        assert!(!monitor.passing(3600));
        std::thread::scope(|scope| {
            let waits = scope.spawn(|| monitor.passing(1));
            signal.store(2, Ordering::Relaxed);
            assert!(waits.join().unwrap());
        });
    }
}
