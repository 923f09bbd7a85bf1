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
use super::stdout::Stdout;
use super::{logger, output};
use crate::copy::progress::Monitor;
use crate::error::{Context, Error, Kind, Result, visible};
use crate::ops::snapshot::repartition;
use crate::ops::{
    Session, auto_snapshot, boot, check, clean, factory, history, observe, partitions, show,
    snapshot, table, verify,
};
use crate::plan::partition::Sizes;
use crate::plan::{Method, Reading};
use crate::slot::Part;
use crate::sys::{Native, Os, command, give_way};
use crate::table::Scheme;

/// Runs the program.
pub fn main() -> ExitCode {
    let args = match Args::try_parse() {
        Ok(args) => args,
        Err(e) => return without_arguments(&e),
    };
    logger::start(args.quiet, args.verbose);
    let out = Stdout::new(args.json);
    if let Some(name) = args.member().filter(|_| !args.json) {
        out.print(&output::member(name));
    }
    let result = observe::privileged(&Native).and_then(|()| signals()).and_then(|signal| {
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
        dispatch(&args, &session, &out)
    });
    let code = match result {
        Ok(code) => code,
        Err(error) => {
            if args.json {
                out.print(&output::json_error(&error, args.command.verb()));
            }
            tell(&error)
        }
    };
    match out.finish() {
        Ok(()) => ExitCode::from(code),
        Err(error) => {
            let error = if code == 0 { error.hint(args.command.done()) } else { error };
            let failed = tell(&error);
            // What was found, or why it was not done, is more than that nobody could be told.
            ExitCode::from(if code == 0 { failed } else { code })
        }
    }
}

/// Tells of an error on stderr, and not through the logger: however quiet. Returns its exit code.
fn tell(error: &Error) -> u8 {
    let _ = writeln!(std::io::stderr(), "dualroot: {}", visible(&error.to_string()));
    if let Some(hint) = &error.hint {
        let _ = writeln!(std::io::stderr(), "hint: {}", visible(hint));
    }
    error.kind.exit_code()
}

/// Prints help or version, or what is wrong with the arguments; clap knows which of them it is.
fn without_arguments(e: &clap::Error) -> ExitCode {
    let out = Stdout::new(false);
    if e.use_stderr() {
        let _ = e.print();
        if std::env::args_os().any(|a| a == "--json") {
            out.print(&output::json_error(&usage(e), ""));
        }
        let _ = out.finish().map_err(|error| tell(&error));
        return ExitCode::from(Kind::Usage.exit_code());
    }
    out.print(&e.render().to_string());
    ExitCode::from(out.finish().map_or_else(|error| tell(&error), |()| 0))
}

/// What is wrong with the arguments, in clap's words: its first paragraph, and the last as what helps.
fn usage(e: &clap::Error) -> Error {
    let text = e.render().to_string();
    let line = |p: &str| p.split_whitespace().collect::<Vec<_>>().join(" ");
    let mut paragraphs = text.trim_end().split("\n\n").map(line);
    let first = paragraphs.next().and_then(|p| p.strip_prefix("error: ").map(str::to_owned));
    // Without a command there is only help.
    let cause = first.unwrap_or_else(|| e.kind().to_string());
    let hint = paragraphs.last().filter(|p| p.contains("--help"));
    let hint = hint.unwrap_or_else(|| "--help tells what there is".to_owned());
    Error::new(Kind::Usage, "reading the arguments", cause).hint(hint)
}

/// The signals that stop a run, as a number that is 0 until one comes.
fn signals() -> Result<Arc<AtomicUsize>> {
    let signal = Arc::new(AtomicUsize::new(0));
    for number in [SIGHUP, SIGINT, SIGQUIT, SIGTERM] {
        let value = usize::try_from(number).unwrap_or(0);
        signal_hook::flag::register_usize(number, Arc::clone(&signal), value)
            .doing("setting up signals")?;
    }
    command::stop_by(Arc::clone(&signal));
    Ok(signal)
}

fn dispatch(args: &Args, session: &Session, out: &Stdout) -> Result<u8> {
    let os = Native;
    thread::scope(|scope| {
        let progress = if args.quiet { super::args::Progress::None } else { args.progress };
        let display = Display::start(scope, &session.monitor, progress);
        let mut restart = false;
        let result = match &args.command {
            Command::Snapshot(options) => run_snapshot(os, session, args, options, out),
            Command::Show(options) => {
                let report = show::run(&os, session, options.slice)?;
                Ok((pick(args, &report, output::show), 0))
            }
            Command::Verify(options) => {
                let report = verify::run(&os, session, options.slice)?;
                let code = if report.different == 0 { 0 } else { Kind::Differs.exit_code() };
                Ok((pick(args, &report, output::verify), code))
            }
            Command::Partitions => {
                let report = partitions::run(&os, session)?;
                Ok((pick(args, &report, output::partitions), 0))
            }
            Command::Check => {
                let report = check::run(&os, session)?;
                let code = if report.has_problems() { Kind::Problems.exit_code() } else { 0 };
                Ok((pick(args, &report, output::check), code))
            }
            Command::Clean(options) => {
                let report = clean::run(&os, session, options.force)?;
                Ok((pick(args, &report, output::clean), 0))
            }
            Command::AutoSnapshot(options) => run_auto_snapshot(os, session, args, options, out),
            Command::Factory(Factory::Save) => {
                let report = factory::save(&os, session)?;
                Ok((pick(args, &report, output::factory), 0))
            }
            Command::Boot(options) => {
                let args::Boot { slot, once, reboot } = *options;
                let report = boot::run(&os, session, slot, once, reboot)?;
                restart = report.rebooting;
                Ok((pick(args, &report, output::boot), 0))
            }
            Command::Confirm => {
                let report = boot::confirm::run(&os, session)?;
                Ok((pick(args, &report, output::boot), 0))
            }
            Command::Reject(options) => {
                let report = boot::reject::run(&os, session, options.reboot)?;
                restart = report.rebooting;
                Ok((pick(args, &report, output::boot), 0))
            }
            Command::Log => {
                let report = history::run(&os, session)?;
                Ok((pick(args, &report, output::log), 0))
            }
            Command::Table(verb) => run_table(os, session, args, verb, out),
        };
        drop(display);
        let (text, code) = result?;
        out.print(&text);
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
    out: &Stdout,
) -> Result<(String, u8)> {
    let status = if options.status {
        auto_snapshot::status(&os, session)
    } else if options.enable || options.disable {
        auto_snapshot::configure(&os, session, options.enable)
    } else {
        let mut say = |line: &str| out.say(line);
        let report = auto_snapshot::run(&os, session, options.assess, &mut say)?;
        let code = if report.is_open() { Kind::Problems.exit_code() } else { 0 };
        return Ok((pick(args, &report, output::auto_snapshot), code));
    }?;
    Ok((pick(args, &status, output::auto_snapshot_status), 0))
}

fn run_table(
    os: Native,
    session: &Session,
    args: &Args,
    verb: &Table,
    out: &Stdout,
) -> Result<(String, u8)> {
    let choice = |kept: &Kept| -> Result<(Option<String>, Option<PathBuf>)> {
        let absolute = |path| std::path::absolute(path).doing_to("resolving", path);
        Ok((kept.medium.clone(), kept.file.as_ref().map(absolute).transpose()?))
    };
    match verb {
        Table::Save => {
            let report = table::save::run(&os, session)?;
            Ok((pick(args, &report, output::table_save), 0))
        }
        Table::Check(kept) => {
            let (medium, file) = choice(kept)?;
            let choice = table::Choice { medium: medium.as_deref(), file: file.as_deref() };
            let report = table::check::run(&os, session, choice)?;
            let equal = report.differences.is_empty();
            let code = if equal { 0 } else { Kind::Problems.exit_code() };
            Ok((pick(args, &report, output::table_check), code))
        }
        Table::Restore(restore) => {
            let (medium, file) = choice(&restore.kept)?;
            let choice = table::Choice { medium: medium.as_deref(), file: file.as_deref() };
            let mut say = |line: &str| out.say(line);
            let report = table::restore::run(&os, session, choice, restore.dry_run, &mut say)?;
            Ok((pick(args, &report, output::table_restore), 0))
        }
    }
}

fn run_snapshot(
    os: Native,
    session: &Session,
    args: &Args,
    options: &super::args::Snapshot,
    out: &Stdout,
) -> Result<(String, u8)> {
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
    let outcome = snapshot::run(&os, session, choices, &mut |line| out.say(line))?;
    let text = match &outcome {
        snapshot::Outcome::Planned(plan) => pick(args, plan, output::plan),
        snapshot::Outcome::Done(report) => pick(args, report, output::snapshot),
    };
    Ok((text, 0))
}
