//! Programs that still run.

use std::fs::File;
use std::io::{BufRead, BufReader, Read};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use super::{Run, program};

/// A program that still runs; killed when it is dropped.
#[derive(Debug)]
pub struct Running {
    child: Child,
    stdout: Option<BufReader<std::process::ChildStdout>>,
    seen: Vec<u8>,
    command: String,
}

impl Running {
    /// Starts any command.
    pub fn spawn(mut command: Command) -> Self {
        command.stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().unwrap_or_else(|e| panic!("{command:?}: {e}"));
        let stdout = child.stdout.take().map(BufReader::new);
        Self { child, stdout, seen: Vec::new(), command: format!("{command:?}") }
    }

    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Sends a signal.
    pub fn signal(&self, signal: Signal) {
        kill(Pid::from_raw(i32::try_from(self.pid()).unwrap()), signal).unwrap();
    }

    /// Whether it has ended.
    pub fn ended(&mut self) -> bool {
        self.child.try_wait().unwrap().is_some()
    }

    /// Waits for a line of stdout that contains `words`.
    #[track_caller]
    pub fn wait_line(&mut self, words: &str) {
        let stdout = self.stdout.as_mut().unwrap();
        loop {
            let before = self.seen.len();
            stdout.read_until(b'\n', &mut self.seen).unwrap();
            let line = String::from_utf8_lossy(&self.seen[before..]);
            assert!(!line.is_empty(), "ended without {words:?}");
            if line.contains(words) {
                return;
            }
        }
    }

    /// Waits for its end.
    pub fn wait(mut self) -> Run {
        let mut stdout = std::mem::take(&mut self.seen);
        let mut stderr = Vec::new();
        // Both are small: neither can fill its pipe while the other is read.
        self.stdout.take().unwrap().read_to_end(&mut stdout).unwrap();
        self.child.stderr.take().unwrap().read_to_end(&mut stderr).unwrap();
        let status = self.child.wait().unwrap();
        Run::new(self.command.clone(), status, stdout, &stderr)
    }

    /// Waits for its end, which must come within a minute.
    #[track_caller]
    pub fn wait_soon(mut self) -> Run {
        let begun = Instant::now();
        while !self.ended() {
            assert!(begun.elapsed() < Duration::from_secs(60), "it hangs: {}", self.command);
            sleep(Duration::from_millis(1));
        }
        self.wait()
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A process that keeps something busy; killed when it is dropped.
#[derive(Debug)]
pub struct Holder(Child);

impl Holder {
    /// `sleep` with its working directory there.
    pub fn inside(dir: &Path) -> Self {
        Self::start(program("sleep").current_dir(dir))
    }

    /// `sleep` with an open file.
    pub fn reading(file: &Path) -> Self {
        Self::start(program("sleep").stdin(File::open(file).unwrap()))
    }

    fn start(sleep: &mut Command) -> Self {
        Self(sleep.arg("600").stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap())
    }

    pub fn pid(&self) -> u32 {
        self.0.id()
    }

    /// Whether it has ended.
    pub fn ended(&mut self) -> bool {
        self.0.try_wait().unwrap().is_some()
    }
}

impl Drop for Holder {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}
