//! From arguments to an exit code.

use std::io::Write;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::AtomicUsize;
use std::thread;

use clap::Parser;
use signal_hook::consts::{SIGHUP, SIGINT, SIGQUIT, SIGTERM};

use super::args::{self, Args, Command, Factory, Kept, Table};
use super::display::Display;
use super::{logger, output};
use crate::copy::progress::Monitor;
use crate::error::{Context, Error, Kind, Result};
use crate::ops::snapshot::repartition;
use crate::ops::{
    Session, auto_snapshot, boot, check, clean, factory, history, partitions, show, snapshot,
    table, verify,
};
use crate::plan::partition::Sizes;
use crate::plan::{Method, Reading};
use crate::slot::Part;
use crate::sys::{Native, Os, give_way};
use crate::table::Scheme;

/// Runs the program.
pub fn main() -> ExitCode {
    let args = match Args::try_parse() {
        Ok(args) => args,
        Err(e) => {
            // Help and version go to stdout and are no failure; clap knows which is which.
            let _ = e.print();
            if !e.use_stderr() {
                return ExitCode::SUCCESS;
            }
            if std::env::args_os().any(|a| a == "--json") {
                let text = e.kind().to_string();
                print(&output::json_error(&Error::new(Kind::Usage, "reading the arguments", text)));
            }
            return ExitCode::from(Kind::Usage.exit_code());
        }
    };
    logger::start(args.quiet, args.verbose);
    if let Some(name) = args.member().filter(|_| !args.json) {
        print(&output::member(name));
    }
    let result = signals().and_then(|signal| {
        // The working directory changes while extended attributes are copied.
        let absolute = |path| std::path::absolute(path).doing_to("resolving", path);
        let session = Session {
            root: absolute(&args.root)?,
            config: args.config.as_ref().map(absolute).transpose()?,
            media: args.media.clone(),
            monitor: Monitor::new(signal).limited(args.limit),
        };
        if args.nice {
            give_way().doing("lowering the priority")?;
        }
        dispatch(&args, &session)
    });
    match result {
        Ok(code) => code,
        Err(error) => {
            if args.json {
                print(&output::json_error(&error));
            }
            // Not through the logger: the result is told however quiet it is.
            let _ = writeln!(std::io::stderr(), "dualroot: {error}");
            if let Some(hint) = &error.hint {
                let _ = writeln!(std::io::stderr(), "hint: {hint}");
            }
            ExitCode::from(error.kind.exit_code())
        }
    }
}

/// The signals that stop a run, as a number that is 0 until one comes.
fn signals() -> Result<Arc<AtomicUsize>> {
    let signal = Arc::new(AtomicUsize::new(0));
    for number in [SIGHUP, SIGINT, SIGQUIT, SIGTERM] {
        let value = usize::try_from(number).unwrap_or(0);
        signal_hook::flag::register_usize(number, Arc::clone(&signal), value)
            .doing("setting up signals")?;
    }
    Ok(signal)
}

/// Prints a result. A reader that has gone away, as `head` does, is no failure of ours.
fn print(text: &str) {
    let _ = std::io::stdout().write_all(text.as_bytes());
    let _ = std::io::stdout().flush();
}

fn dispatch(args: &Args, session: &Session) -> Result<ExitCode> {
    let os = Native;
    thread::scope(|scope| {
        let progress = if args.quiet { super::args::Progress::None } else { args.progress };
        let display = Display::start(scope, &session.monitor, progress);
        let mut restart = false;
        let result = match &args.command {
            Command::Snapshot(options) => run_snapshot(os, session, args, options),
            Command::Show(options) => {
                let report = show::run(&os, session, options.slice)?;
                Ok((pick(args, &report, output::show), ExitCode::SUCCESS))
            }
            Command::Verify(options) => {
                let report = verify::run(&os, session, options.slice)?;
                let code = if report.different == 0 { 0 } else { Kind::Differs.exit_code() };
                Ok((pick(args, &report, output::verify), ExitCode::from(code)))
            }
            Command::Partitions => {
                let report = partitions::run(&os, session)?;
                Ok((pick(args, &report, output::partitions), ExitCode::SUCCESS))
            }
            Command::Check => {
                let report = check::run(&os, session)?;
                let code = if report.has_problems() { Kind::Problems.exit_code() } else { 0 };
                Ok((pick(args, &report, output::check), ExitCode::from(code)))
            }
            Command::Clean(options) => {
                let report = clean::run(&os, session, options.force)?;
                Ok((pick(args, &report, output::clean), ExitCode::SUCCESS))
            }
            Command::AutoSnapshot(options) => run_auto_snapshot(os, session, args, options),
            Command::Factory(Factory::Save) => {
                let report = factory::save(&os, session)?;
                Ok((pick(args, &report, output::factory), ExitCode::SUCCESS))
            }
            Command::Boot(options) => {
                let args::Boot { slot, once, reboot } = *options;
                let report = boot::run(&os, session, slot, once, reboot)?;
                restart = report.rebooting;
                Ok((pick(args, &report, output::boot), ExitCode::SUCCESS))
            }
            Command::Confirm => {
                let report = boot::confirm::run(&os, session)?;
                Ok((pick(args, &report, output::boot), ExitCode::SUCCESS))
            }
            Command::Reject(options) => {
                let report = boot::reject::run(&os, session, options.reboot)?;
                restart = report.rebooting;
                Ok((pick(args, &report, output::boot), ExitCode::SUCCESS))
            }
            Command::Log => {
                let report = history::run(&os, session)?;
                Ok((pick(args, &report, output::log), ExitCode::SUCCESS))
            }
            Command::Table(verb) => run_table(os, session, args, verb),
        };
        drop(display);
        let (text, code): (String, ExitCode) = result?;
        print(&text);
        if restart {
            // Nothing is told any more once this has begun.
            os.reboot()?;
        }
        Ok(code)
    })
}

/// A report as the user wants it.
fn pick<T: serde::Serialize>(args: &Args, report: &T, text: impl Fn(&T) -> String) -> String {
    if args.json { output::json(report) } else { text(report) }
}

fn run_auto_snapshot(
    os: Native,
    session: &Session,
    args: &Args,
    options: &args::AutoSnapshot,
) -> Result<(String, ExitCode)> {
    let status = if options.status {
        auto_snapshot::status(&os, session)
    } else if options.enable || options.disable {
        auto_snapshot::configure(&os, session, options.enable)
    } else {
        let mut say = |line: &str| {
            if !args.json {
                print(&format!("{line}\n"));
            }
        };
        let report = auto_snapshot::run(&os, session, options.assess, &mut say)?;
        let code = if report.is_open() { Kind::Problems.exit_code() } else { 0 };
        return Ok((pick(args, &report, output::auto_snapshot), ExitCode::from(code)));
    }?;
    Ok((pick(args, &status, output::auto_snapshot_status), ExitCode::SUCCESS))
}

fn run_table(
    os: Native,
    session: &Session,
    args: &Args,
    verb: &Table,
) -> Result<(String, ExitCode)> {
    let choice = |kept: &Kept| -> Result<(Option<String>, Option<PathBuf>)> {
        let absolute = |path| std::path::absolute(path).doing_to("resolving", path);
        Ok((kept.medium.clone(), kept.file.as_ref().map(absolute).transpose()?))
    };
    match verb {
        Table::Save => {
            let report = table::save::run(&os, session)?;
            Ok((pick(args, &report, output::table_save), ExitCode::SUCCESS))
        }
        Table::Check(kept) => {
            let (medium, file) = choice(kept)?;
            let choice = table::Choice { medium: medium.as_deref(), file: file.as_deref() };
            let report = table::check::run(&os, session, choice)?;
            let equal = report.differences.is_empty();
            let code = if equal { 0 } else { Kind::Problems.exit_code() };
            Ok((pick(args, &report, output::table_check), ExitCode::from(code)))
        }
        Table::Restore(restore) => {
            let (medium, file) = choice(&restore.kept)?;
            let choice = table::Choice { medium: medium.as_deref(), file: file.as_deref() };
            let mut say = |line: &str| {
                if !args.json {
                    print(&format!("{line}\n"));
                }
            };
            let report = table::restore::run(&os, session, choice, restore.dry_run, &mut say)?;
            Ok((pick(args, &report, output::table_restore), ExitCode::SUCCESS))
        }
    }
}

fn run_snapshot(
    os: Native,
    session: &Session,
    args: &Args,
    options: &super::args::Snapshot,
) -> Result<(String, ExitCode)> {
    let only = match (options.root_partition, options.config_partition) {
        (true, _) => Some(Part::Root),
        (_, true) => Some(Part::Config),
        _ => None,
    };
    let sizes = Sizes {
        root: options.root_size,
        config: options.config_size,
        data: options.data_size,
        swap: options.swap_size,
    };
    let as_primary = options.as_primary;
    let wanted =
        options.partition || as_primary || options.scheme.is_some() || sizes != Sizes::default();
    let partition = wanted.then_some(repartition::Options {
        scheme: options.scheme.map(|scheme| match scheme {
            args::Scheme::Mbr => Scheme::Mbr,
            args::Scheme::Gpt => Scheme::Gpt,
        }),
        sizes,
        as_primary,
    });
    let (force, dry_run, factory) = (options.force, options.dry_run, options.factory);
    let repair = false;
    let fresh = options.fresh;
    let reading = match options.verify {
        args::Reading::Full => Reading::Full,
        args::Reading::Changed => Reading::Changed,
    };
    let method = match options.method {
        args::Method::Auto => Method::Auto,
        args::Method::Tree => Method::Tree,
        args::Method::Block => Method::Block,
    };
    let choices = snapshot::Options {
        partition,
        force,
        repair,
        dry_run,
        only,
        factory,
        fresh,
        reading,
        method,
    };
    let mut say = |line: &str| {
        if !args.json {
            print(&format!("{line}\n"));
        }
    };
    let outcome = snapshot::run(&os, session, choices, &mut say)?;
    let text = match &outcome {
        snapshot::Outcome::Planned(steps) if args.json => output::json_plan(steps),
        snapshot::Outcome::Planned(steps) => output::plan(steps),
        snapshot::Outcome::Done(report) => pick(args, report, output::snapshot),
    };
    Ok((text, ExitCode::SUCCESS))
}
