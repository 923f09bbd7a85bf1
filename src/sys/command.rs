//! The only place that starts programs: absolute path, no shell, empty environment, no input.

use std::ffi::OsStr;
use std::io::{self, Read, Write};
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::Path;
use std::process::{self, Child, Command, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::{self, RecvTimeoutError};
use std::sync::{Arc, OnceLock};
use std::thread;
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, killpg};
use nix::unistd::Pid;

use crate::error::{Context, Error, Kind, Result};

/// What a finished program left.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Output {
    /// Everything it printed.
    pub stdout: Vec<u8>,
}

/// As much of a failed program's complaint as goes into an error message.
const COMPLAINT_MAX: usize = 1024;

/// Where the number of the signal is found that stops this program.
static SIGNAL: OnceLock<Arc<AtomicUsize>> = OnceLock::new();

/// Tells the signal that came, if one did.
type Stop = fn() -> Option<Signal>;

/// Tells where to look for the signal that stops this program: a number that is 0 until one comes.
pub fn stop_by(signal: Arc<AtomicUsize>) {
    // There is one for the whole program.
    let _ = SIGNAL.set(signal);
}

fn signal() -> Option<Signal> {
    let number = SIGNAL.get()?.load(Ordering::Relaxed);
    i32::try_from(number).ok().and_then(|number| Signal::try_from(number).ok())
}

/// Runs a base-system program and waits for it. No signal of ours reaches it: it does what takes a
/// moment, or gives back what must not stay.
///
/// `candidates` are the absolute paths where systems keep it; the first that exists is run. The
/// environment is empty but for `PATH` (mkfs.xfs and newfs look for nothing, pkg looks for
/// helpers) and `LC_ALL=C`, so that messages can be read.
///
/// # Errors
/// None of the candidates exists, it cannot be started, or it does not exit with 0: the error then
/// holds the end of what it said.
pub fn run<S: AsRef<OsStr>>(candidates: &[&str], args: &[S]) -> Result<Output> {
    run_with(candidates, args, &[])
}

/// The same, with `input` on the program's standard input, which it must read.
pub fn run_with<S: AsRef<OsStr>>(candidates: &[&str], args: &[S], input: &[u8]) -> Result<Output> {
    finish(candidates, args, input, None)?.content(candidates)
}

/// The same for what takes long and can be done again: a signal that stops this program stops it too.
///
/// # Errors
/// Also the signal's, where it came.
pub fn run_stoppable<S: AsRef<OsStr>>(candidates: &[&str], args: &[S]) -> Result<Output> {
    finish(candidates, args, &[], Some(signal))?.content(candidates)
}

/// Runs a checker, which exits with 0 where it is content; what it said where it is not. A signal that
/// stops this program stops it too.
///
/// # Errors
/// It said nothing: it could not be started, or a signal ended it.
pub(super) fn check<S: AsRef<OsStr>>(candidates: &[&str], args: &[S]) -> Result<Option<String>> {
    let told = |complaint| format!("{}: {complaint}", operation(candidates));
    Ok(finish(candidates, args, &[], Some(signal))?.complaint.map(told))
}

/// A program that ended by itself.
struct Finished {
    stdout: Vec<u8>,
    /// What it said, where it did not exit with 0.
    complaint: Option<String>,
}

impl Finished {
    fn content(self, candidates: &[&str]) -> Result<Output> {
        match self.complaint {
            None => Ok(Output { stdout: self.stdout }),
            Some(cause) => Err(Error::new(Kind::Failed, operation(candidates), cause)),
        }
    }
}

fn operation(candidates: &[&str]) -> String {
    let name = candidates.first().and_then(|c| Path::new(c).file_name()).unwrap_or_default();
    format!("running {}", name.to_string_lossy())
}

/// A program that gets nothing of ours: no environment, no input, and a process group of its own, since
/// a terminal sends its Ctrl-C to all of ours.
fn alone(program: impl AsRef<OsStr>, path: &str) -> Command {
    #[allow(clippy::disallowed_methods)] // this is the one place
    let mut command = Command::new(program);
    super::platform::prepare(&mut command);
    command.env_clear().env("PATH", path).env("LC_ALL", "C");
    command.current_dir("/").process_group(0).stdin(Stdio::null());
    command
}

/// Sends a signal to all that is left of a program and what it started.
fn signal_all(program: u32, signal: Signal) {
    if let Ok(group) = i32::try_from(program) {
        // Nobody is left of it, mostly.
        let _ = killpg(Pid::from_raw(group), signal);
    }
}

fn finish<S: AsRef<OsStr>>(
    candidates: &[&str],
    args: &[S],
    input: &[u8],
    stop: Option<Stop>,
) -> Result<Finished> {
    let operation = operation(candidates);
    let Some(program) = candidates.iter().find(|c| c.starts_with('/') && Path::new(c).exists())
    else {
        return Err(Error::new(
            Kind::Failed,
            operation,
            format!("not found (looked for {})", candidates.join(", ")),
        ));
    };
    let mut command = alone(program, "/sbin:/bin:/usr/sbin:/usr/bin");
    command.args(args).stdout(Stdio::piped()).stderr(Stdio::piped());
    if !input.is_empty() {
        command.stdin(Stdio::piped());
    }
    let mut child = command.spawn().doing(&operation)?;
    // Short enough for the pipe: no program that we run writes before it has read.
    let given = child.stdin.take().map_or(Ok(()), |mut stdin| stdin.write_all(input));
    let output = wait(child, stop).doing(&operation)?;
    if output.status.success() {
        given.doing(&operation)?;
        return Ok(Finished { stdout: output.stdout, complaint: None });
    }
    if let Some(signal) = stop.and_then(|stop| stop()) {
        let cause = format!("stopped by {signal}");
        return Err(Error::new(Kind::Signal(signal as i32), operation, cause));
    }
    let complaint = if output.stderr.is_empty() { &output.stdout } else { &output.stderr };
    let said = complaint_of(complaint);
    let told = |ended| if said.is_empty() { ended } else { format!("{said} ({ended})") };
    match (output.status.code(), output.status.signal()) {
        (Some(code), _) => {
            let complaint = Some(told(format!("exit {code}")));
            Ok(Finished { stdout: output.stdout, complaint })
        }
        (None, signal) => {
            let ended = signal.map_or("no exit code".to_owned(), |n| format!("signal {n}"));
            Err(Error::new(Kind::Failed, operation, told(ended)))
        }
    }
}

/// The end of what it said, without the usage that mkfs.xfs(8) tells whatever was wrong.
fn complaint_of(said: &[u8]) -> String {
    const USAGE: &[u8] = b"\nUsage:";
    let end = said.windows(USAGE.len()).position(|w| w == USAGE).unwrap_or(said.len());
    let tail = &said[end.saturating_sub(COMPLAINT_MAX)..end];
    String::from_utf8_lossy(tail).trim().replace('\n', "; ")
}

/// Waits for the program's end, and ends it once a signal has come: by SIGTERM, whatever came, since
/// SIGQUIT would leave a core.
fn wait(child: Child, stop: Option<Stop>) -> io::Result<process::Output> {
    let Some(stop) = stop else { return child.wait_with_output() };
    let (program, (ended, waits)) = (child.id(), mpsc::channel::<()>());
    thread::scope(|scope| {
        scope.spawn(move || {
            while waits.recv_timeout(LOOK) == Err(RecvTimeoutError::Timeout) {
                if stop().is_some() {
                    return signal_all(program, Signal::SIGTERM);
                }
            }
        });
        let output = child.wait_with_output();
        drop(ended);
        output
    })
}

/// How a program of the administrator's ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ended {
    /// Its exit code; `None` where a signal ended it, or it took too long and was killed.
    pub code: Option<i32>,
    /// Whether it took too long.
    pub late: bool,
    /// The end of what it printed.
    pub tail: String,
}

/// How often is looked whether it has ended.
const LOOK: Duration = Duration::from_millis(20);
/// What it printed is there once it has ended, unless something that it started keeps the pipe.
const LAST_WORDS: Duration = Duration::from_secs(1);

/// Runs a program as [`run`] does. When it has ended, or `limit` is over, or `stop` says so, it is
/// killed with all that it started.
pub(super) fn run_limited(
    program: &Path,
    limit: Duration,
    stop: &dyn Fn() -> bool,
) -> Result<Ended> {
    let (reader, writer) = std::io::pipe().doing("making a pipe")?;
    let mut command =
        alone(program, "/sbin:/bin:/usr/sbin:/usr/bin:/usr/local/sbin:/usr/local/bin");
    command.stdout(writer.try_clone().doing("making a pipe")?).stderr(writer);
    let mut child = command.spawn().doing_to("running", program)?;
    drop(command); // and its ends of the pipe
    let (send, words) = mpsc::channel();
    thread::spawn(move || send.send(tail(reader)));
    let begun = Instant::now();
    let (mut status, mut late) = (None, false);
    while status.is_none() && !late && !stop() {
        status = child.try_wait().doing_to("waiting for", program)?;
        if status.is_none() {
            late = begun.elapsed() >= limit;
            thread::sleep(LOOK);
        }
    }
    signal_all(child.id(), Signal::SIGKILL);
    if status.is_none() {
        child.wait().doing_to("waiting for", program)?;
    }
    let tail = words.recv_timeout(LAST_WORDS).unwrap_or_default();
    let tail = String::from_utf8_lossy(&tail).trim().to_owned();
    Ok(Ended { code: status.and_then(|s| s.code()), late, tail })
}

/// The last bytes of a stream, read to its end.
fn tail(mut stream: impl Read) -> Vec<u8> {
    let (mut kept, mut buffer) = (Vec::new(), [0; COMPLAINT_MAX]);
    while let Ok(n @ 1..) = stream.read(&mut buffer) {
        kept.extend_from_slice(&buffer[..n]);
        kept.drain(..kept.len().saturating_sub(COMPLAINT_MAX));
    }
    kept
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    /// Runs a script with a limit; how it ended and how long that took.
    fn hook(text: &str, limit: u64, stop: bool) -> (Ended, Duration) {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("hook");
        std::fs::write(&path, format!("#!/bin/sh\n{text}\n")).unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).unwrap();
        let begun = Instant::now();
        let ended = run_limited(&path, Duration::from_millis(limit), &|| stop).unwrap();
        (ended, begun.elapsed())
    }

    #[test]
    fn a_hook_has_its_time_and_no_more() {
        let ended = |code, late, tail: &str| Ended { code, late, tail: tail.to_owned() };
        assert_eq!(hook("echo a; echo b >&2", 9_000, false).0, ended(Some(0), false, "a\nb"));
        assert_eq!(hook("exit 3", 9_000, false).0, ended(Some(3), false, ""));
        assert_eq!(hook("kill -9 $$", 9_000, false).0, ended(None, false, ""));
        // What it started goes with it, and does not keep us.
        let (late, time) = hook("echo on; sleep 60 & sleep 60", 200, false);
        assert_eq!(late, ended(None, true, "on"));
        assert!(time < Duration::from_secs(20), "{time:?}");
        let (left, time) = hook("sleep 60 & exit 0", 9_000, false);
        assert_eq!(left.code, Some(0));
        assert!(time < Duration::from_secs(20), "{time:?}");
        let (stopped, time) = hook("sleep 60", 60_000, true);
        assert_eq!((stopped.code, stopped.late), (None, false));
        assert!(time < Duration::from_secs(20), "{time:?}");
    }

    #[test]
    fn of_much_output_the_end_is_kept() {
        let (ended, _) =
            hook("i=0; while [ $i -lt 3000 ]; do echo line $i; i=$((i+1)); done", 60_000, false);
        assert!(ended.tail.ends_with("line 2999"), "{}", ended.tail);
        assert!(ended.tail.len() <= COMPLAINT_MAX);
    }

    fn shell(script: &str, stop: Option<Stop>) -> Result<Finished> {
        finish(&["/bin/sh"], &["-c", script], &[], stop)
    }

    #[test]
    fn a_signal_stops_what_takes_long_and_nothing_else() {
        let begun = Instant::now();
        for script in ["sleep 60", "trap 'exit 32' TERM; sleep 60; exit 0"] {
            let error = shell(script, Some(|| Some(Signal::SIGINT))).map(drop).unwrap_err();
            assert_eq!(error.to_string(), "running sh: stopped by SIGINT");
            assert_eq!(error.kind, Kind::Signal(2));
        }
        assert!(begun.elapsed() < Duration::from_secs(20));
        // Whatever is sent to the group that we are in.
        let group = shell("ps -o pgid= -p $$; echo $$", None).unwrap().stdout;
        let numbers = String::from_utf8(group).unwrap();
        let numbers: Vec<_> = numbers.split_whitespace().collect();
        assert!(numbers.len() == 2 && numbers[0] == numbers[1], "{numbers:?}");
    }

    #[test]
    fn a_failing_program_is_quoted() {
        let error = run(&["/no/such/sh", "/bin/sh"], &["-c", "echo bad block >&2; exit 7"]);
        assert_eq!(error.unwrap_err().to_string(), "running sh: bad block (exit 7)");
        let error = run(&["/bin/sh"], &["-c", "echo 'too small\nUsage: x\n-a -b' >&2; exit 1"]);
        assert_eq!(error.unwrap_err().to_string(), "running sh: too small (exit 1)");
    }

    #[test]
    fn the_environment_is_empty() {
        let output = run(&["/usr/bin/env"], &[] as &[&str]).unwrap();
        let text = String::from_utf8(output.stdout).unwrap();
        let mut names: Vec<_> = text.lines().filter_map(|l| l.split('=').next()).collect();
        names.sort_unstable();
        assert_eq!(names, ["LC_ALL", "PATH"]);
    }

    #[test]
    fn a_relative_name_is_never_run() {
        let error = run(&["sh"], &["-c", "true"]).unwrap_err();
        assert_eq!(error.to_string(), "running sh: not found (looked for sh)");
    }
}
