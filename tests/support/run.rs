//! A program that ended, of every suite that runs one.
#![allow(dead_code)] // each suite uses what it needs

use std::fmt::Write;
use std::os::unix::process::ExitStatusExt;
use std::process::{Command, ExitStatus};

/// Lines of one stream in the report of a failure.
const MOST: usize = 30;

/// What a program did.
#[derive(Clone, Debug)]
pub struct Run {
    pub code: i32,
    pub stdout: String,
    pub stderr: String,
    pub stdout_bytes: Vec<u8>,
    command: String,
}

impl std::fmt::Display for Run {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { code, stdout, stderr, command, .. } = self;
        let last = stderr.lines().last().unwrap_or("nothing on stderr");
        let [stdout, stderr] = [stdout, stderr].map(|text| tail(text, MOST));
        write!(f, "exit {code}, {last}\n{command}\n--- stderr\n{stderr}--- stdout\n{stdout}---")
    }
}

/// As a shell tells it; the product never dies of a signal that it catches.
pub fn code(status: ExitStatus) -> i32 {
    status.code().unwrap_or_else(|| 1000 + status.signal().unwrap_or(0))
}

impl Run {
    /// Runs a command to its end.
    pub fn of(command: &mut Command) -> Self {
        let output = command.output().unwrap_or_else(|e| panic!("{command:?}: {e}"));
        Self::new(format!("{command:?}"), output.status, output.stdout, &output.stderr)
    }

    pub fn new(command: String, status: ExitStatus, stdout: Vec<u8>, stderr: &[u8]) -> Self {
        Self {
            code: code(status),
            stdout: String::from_utf8_lossy(&stdout).into_owned(),
            stderr: String::from_utf8_lossy(stderr).into_owned(),
            stdout_bytes: stdout,
            command,
        }
    }

    /// It ended with this exit code.
    #[track_caller]
    pub fn exits(self, code: i32) -> Self {
        assert!(self.code == code, "not exit {code}: {self}");
        self
    }

    /// It ended with this exit code and exactly one error line, which contains `words`.
    #[track_caller]
    pub fn fails(self, code: i32, words: &str) -> Self {
        let run = self.exits(code);
        let mut lines = run.stderr.lines().filter(|l| l.starts_with("dualroot: "));
        let line = lines.next().unwrap_or_else(|| panic!("no message: {run}"));
        assert!(lines.next().is_none(), "more than one message: {run}");
        assert!(line.contains(words), "not {words:?}: {run}");
        run
    }

    /// stderr contains `words`.
    #[track_caller]
    pub fn says(self, words: &str) -> Self {
        assert!(self.stderr.contains(words), "stderr without {words:?}: {self}");
        self
    }

    /// stdout contains `words`.
    #[track_caller]
    pub fn prints(self, words: &str) -> Self {
        assert!(self.stdout.contains(words), "stdout without {words:?}: {self}");
        self
    }

    /// stdout as one JSON object.
    #[track_caller]
    pub fn json(&self) -> serde_json::Value {
        match serde_json::from_str(&self.stdout) {
            Ok(value) => value,
            Err(e) => panic!("no JSON ({e}): {self}"),
        }
    }
}

/// The last lines of a text, and how many went before; long ones cut.
pub fn tail(text: &str, most: usize) -> String {
    let all: Vec<_> = text.lines().collect();
    let left_out = all.len().saturating_sub(most);
    let mut kept = String::new();
    if left_out > 0 {
        writeln!(kept, "({left_out} lines before)").unwrap();
    }
    for line in &all[left_out..] {
        writeln!(kept, "{}", clip(line)).unwrap();
    }
    kept
}

/// A line, cut where it is very long.
pub fn clip(line: &str) -> String {
    const WIDTH: usize = 300;
    match line.char_indices().nth(WIDTH) {
        Some((end, _)) => format!("{} …", &line[..end]),
        None => line.to_owned(),
    }
}
