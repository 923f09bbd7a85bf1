//! A program that ended, of every suite that runs one.
#![allow(dead_code)] // each suite uses what it needs

use std::fmt::Write;
use std::os::unix::process::ExitStatusExt;
use std::process::{Command, ExitStatus};

use serde::de::{Deserialize, Deserializer, Error as _, MapAccess, SeqAccess, Visitor};
use serde_json::Value;

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

    /// stdout as one JSON object, in which no object has a key twice.
    #[track_caller]
    pub fn json(&self) -> Value {
        match serde_json::from_str(&self.stdout) {
            Ok(Strict(value)) => value,
            Err(e) => panic!("no JSON ({e}): {self}"),
        }
    }
}

/// A JSON value of which every key is there once: of two, other readers take the last.
pub struct Strict(pub Value);

impl<'de> Deserialize<'de> for Strict {
    fn deserialize<D: Deserializer<'de>>(source: D) -> Result<Self, D::Error> {
        source.deserialize_any(Once)
    }
}

struct Once;

impl<'de> Visitor<'de> for Once {
    type Value = Strict;

    fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("JSON")
    }

    fn visit_unit<E>(self) -> Result<Strict, E> {
        Ok(Strict(Value::Null))
    }

    fn visit_bool<E>(self, value: bool) -> Result<Strict, E> {
        Ok(Strict(value.into()))
    }

    fn visit_i64<E>(self, value: i64) -> Result<Strict, E> {
        Ok(Strict(value.into()))
    }

    fn visit_u64<E>(self, value: u64) -> Result<Strict, E> {
        Ok(Strict(value.into()))
    }

    fn visit_f64<E>(self, value: f64) -> Result<Strict, E> {
        Ok(Strict(value.into()))
    }

    fn visit_str<E>(self, value: &str) -> Result<Strict, E> {
        Ok(Strict(value.into()))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut source: A) -> Result<Strict, A::Error> {
        let mut all = Vec::new();
        while let Some(Strict(value)) = source.next_element()? {
            all.push(value);
        }
        Ok(Strict(all.into()))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut source: A) -> Result<Strict, A::Error> {
        let mut all = serde_json::Map::new();
        while let Some((key, Strict(value))) = source.next_entry::<String, _>()? {
            if all.insert(key.clone(), value).is_some() {
                return Err(A::Error::custom(format!("{key} is there twice")));
            }
        }
        Ok(Strict(all.into()))
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
