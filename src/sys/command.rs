//! The only place that starts programs: absolute path, no shell, empty environment, no input.

use std::ffi::OsStr;
use std::io::{Read, Write};
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::mpsc;
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

/// Runs a base-system program and waits for it.
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
    match finish(candidates, args, input)? {
        Finished { complaint: None, stdout } => Ok(Output { stdout }),
        Finished { complaint: Some(cause), .. } => {
            Err(Error::new(Kind::Failed, operation(candidates), cause))
        }
    }
}

/// Runs a checker, which exits with 0 where it is content; what it said where it is not.
///
/// # Errors
/// It said nothing: it could not be started, or a signal ended it.
pub(super) fn check<S: AsRef<OsStr>>(candidates: &[&str], args: &[S]) -> Result<Option<String>> {
    let told = |complaint| format!("{}: {complaint}", operation(candidates));
    Ok(finish(candidates, args, &[])?.complaint.map(told))
}

/// A program that ended by itself.
struct Finished {
    stdout: Vec<u8>,
    /// What it said, where it did not exit with 0.
    complaint: Option<String>,
}

fn operation(candidates: &[&str]) -> String {
    let name = candidates.first().and_then(|c| Path::new(c).file_name()).unwrap_or_default();
    format!("running {}", name.to_string_lossy())
}

fn finish<S: AsRef<OsStr>>(candidates: &[&str], args: &[S], input: &[u8]) -> Result<Finished> {
    let operation = operation(candidates);
    let Some(program) = candidates.iter().find(|c| c.starts_with('/') && Path::new(c).exists())
    else {
        return Err(Error::new(
            Kind::Failed,
            operation,
            format!("not found (looked for {})", candidates.join(", ")),
        ));
    };
    #[allow(clippy::disallowed_methods)] // this is the one place
    let mut command = Command::new(program);
    super::platform::end_with_us(&mut command);
    command
        .args(args)
        .env_clear()
        .env("PATH", "/sbin:/bin:/usr/sbin:/usr/bin")
        .env("LC_ALL", "C")
        .current_dir("/")
        .stdin(if input.is_empty() { Stdio::null() } else { Stdio::piped() })
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    let mut child = command.spawn().doing(&operation)?;
    // Short enough for the pipe: no program that we run writes before it has read.
    let given = child.stdin.take().map_or(Ok(()), |mut stdin| stdin.write_all(input));
    let output = child.wait_with_output().doing(&operation)?;
    if output.status.success() {
        given.doing(&operation)?;
        return Ok(Finished { stdout: output.stdout, complaint: None });
    }
    let complaint = if output.stderr.is_empty() { &output.stdout } else { &output.stderr };
    let tail = &complaint[complaint.len().saturating_sub(COMPLAINT_MAX)..];
    let said = String::from_utf8_lossy(tail).trim().replace('\n', "; ");
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

/// Runs a program in a process group of its own, with the environment of [`run`]. When it has ended,
/// or `limit` is over, or `stop` says so, the whole group is killed.
pub(super) fn run_limited(
    program: &Path,
    limit: Duration,
    stop: &dyn Fn() -> bool,
) -> Result<Ended> {
    let (reader, writer) = std::io::pipe().doing("making a pipe")?;
    #[allow(clippy::disallowed_methods)] // this is the one place
    let mut command = Command::new(program);
    super::platform::end_with_us(&mut command);
    command
        .env_clear()
        .env("PATH", "/sbin:/bin:/usr/sbin:/usr/bin:/usr/local/sbin:/usr/local/bin")
        .env("LC_ALL", "C")
        .current_dir("/")
        .process_group(0)
        .stdin(Stdio::null())
        .stdout(writer.try_clone().doing("making a pipe")?)
        .stderr(writer);
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
    if let Ok(group) = i32::try_from(child.id()) {
        // Nobody is left of it, mostly.
        let _ = killpg(Pid::from_raw(group), Signal::SIGKILL);
    }
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

    #[test]
    fn a_failing_program_is_quoted() {
        let error = run(&["/no/such/sh", "/bin/sh"], &["-c", "echo bad block >&2; exit 7"]);
        assert_eq!(error.unwrap_err().to_string(), "running sh: bad block (exit 7)");
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
