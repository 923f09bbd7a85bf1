//! The talk: one line per message on stderr.

use std::io::Write;

use log::{Level, LevelFilter, Log, Metadata, Record};

use crate::error::visible;

struct Stderr;

static LOGGER: Stderr = Stderr;

impl Log for Stderr {
    /// What libraries say of details is no message of ours.
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        metadata.target().starts_with(env!("CARGO_PKG_NAME"))
            || log::max_level() == LevelFilter::Debug
    }

    fn log(&self, record: &Record<'_>) {
        if !self.enabled(record.metadata()) {
            return;
        }
        let word = match record.level() {
            Level::Error => "error: ",
            Level::Warn => "warning: ",
            _ => "",
        };
        // Nobody is left to be told where stderr is gone.
        let text = visible(&record.args().to_string());
        let _ = writeln!(std::io::stderr(), "dualroot: {word}{text}");
    }

    fn flush(&self) {}
}

/// Starts logging: errors only, warnings, then steps with `-v`, everything with `-vv`.
pub fn start(quiet: bool, verbose: u8) {
    let level = match (quiet, verbose) {
        (true, _) => LevelFilter::Error,
        (false, 0) => LevelFilter::Warn,
        (false, 1) => LevelFilter::Info,
        (false, _) => LevelFilter::Debug,
    };
    // A second call, as in tests, keeps the first logger.
    let _ = log::set_logger(&LOGGER);
    log::set_max_level(level);
}
