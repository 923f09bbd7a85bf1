//! The only place that starts programs: absolute path, no shell, empty environment, no input.

use std::ffi::OsStr;
use std::io::Write;
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::{Command, Stdio};

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
    let name = candidates.first().and_then(|c| Path::new(c).file_name()).unwrap_or_default();
    let operation = format!("running {}", name.to_string_lossy());
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
        return Ok(Output { stdout: output.stdout });
    }
    let complaint = if output.stderr.is_empty() { &output.stdout } else { &output.stderr };
    let tail = &complaint[complaint.len().saturating_sub(COMPLAINT_MAX)..];
    let said = String::from_utf8_lossy(tail).trim().replace('\n', "; ");
    let ended = match (output.status.code(), output.status.signal()) {
        (Some(code), _) => format!("exit {code}"),
        (None, Some(signal)) => format!("signal {signal}"),
        (None, None) => "no exit code".to_owned(),
    };
    let cause = if said.is_empty() { ended } else { format!("{said} ({ended})") };
    Err(Error::new(Kind::Failed, operation, cause))
}

#[cfg(test)]
mod tests {
    use super::*;

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
