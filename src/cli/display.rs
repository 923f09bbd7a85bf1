//! Progress on stderr while the engine works.

use std::io::{IsTerminal, Write};
use std::sync::mpsc::{RecvTimeoutError, Sender, channel};
use std::thread::{self, Scope, ScopedJoinHandle};
use std::time::{Duration, Instant};

use super::args::Progress;
use crate::copy::progress::Monitor;

/// A bar moves several times a second; lines come often enough that no client gives up.
const BAR_PERIOD: Duration = Duration::from_millis(200);
const LINE_PERIOD: Duration = Duration::from_secs(2);

/// A display that ends when it is dropped.
pub struct Display<'scope> {
    stop: Option<Sender<()>>,
    thread: Option<ScopedJoinHandle<'scope, ()>>,
}

impl<'scope> Display<'scope> {
    /// Starts to show `monitor` in the form that was asked for.
    pub fn start<'env>(
        scope: &'scope Scope<'scope, 'env>,
        monitor: &'env Monitor,
        form: Progress,
    ) -> Self {
        let form = match form {
            Progress::Auto if std::io::stderr().is_terminal() => Progress::Bar,
            Progress::Auto => Progress::Plain,
            form => form,
        };
        if form == Progress::None {
            return Self { stop: None, thread: None };
        }
        let (stop, stopped) = channel::<()>();
        let period = if form == Progress::Bar { BAR_PERIOD } else { LINE_PERIOD };
        let thread = scope.spawn(move || {
            let begun = Instant::now();
            let mut drawn = false;
            while stopped.recv_timeout(period) == Err(RecvTimeoutError::Timeout) {
                if let Some(line) = line(monitor, form, begun.elapsed()) {
                    let end = if form == Progress::Bar { "\x1b[K\r" } else { "\n" };
                    // Progress is for whoever looks; nobody may be left to.
                    let _ = write!(std::io::stderr(), "{line}{end}");
                    drawn = form == Progress::Bar;
                }
            }
            if drawn {
                let _ = write!(std::io::stderr(), "\x1b[K");
            }
        });
        Self { stop: Some(stop), thread: Some(thread) }
    }
}

impl Drop for Display<'_> {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take() {
            // A panic there is passed on by the scope.
            let _ = thread::ScopedJoinHandle::join(thread);
        }
    }
}

fn line(monitor: &Monitor, form: Progress, elapsed: Duration) -> Option<String> {
    let phase = monitor.phase();
    if phase.name.is_empty() {
        return None;
    }
    let (bytes, objects) = monitor.counts();
    let seconds = elapsed.as_secs_f64();
    if form == Progress::Json {
        return Some(
            serde_json::json!({
                "phase": phase.name, "bytes": bytes, "objects": objects,
                "total_bytes": phase.bytes, "total_objects": phase.objects, "seconds": seconds,
            })
            .to_string(),
        );
    }
    // The totals are what the source's file system says it uses: 99 until it is done.
    let percent = (bytes * 100).checked_div(phase.bytes).unwrap_or(0).min(99);
    Some(format!(
        "dualroot: {}: {percent} %, {objects} objects, {} MB",
        phase.name,
        bytes / 1_000_000
    ))
}
