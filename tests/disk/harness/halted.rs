//! A run held at one place, or with one call that fails.

use std::ffi::OsStr;
use std::fs::File;
use std::path::PathBuf;
use std::thread::sleep;
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;

use super::{Disk, Run, Running};

/// A call of the program: what, the end of its path, and how many like it go before.
pub type Call<'a> = (&'a str, &'a str, usize);

/// A run that the shim holds before one call.
#[derive(Debug)]
pub struct Halted {
    pub running: Running,
    dir: PathBuf,
}

impl Halted {
    /// Lets it go on.
    pub fn go(self) -> Running {
        File::create(self.dir.join("go")).unwrap();
        self.running
    }

    /// Kills it as `kill -9` does; its process id.
    pub fn kill(self) -> u32 {
        let pid = self.running.pid();
        self.running.signal(Signal::SIGKILL);
        assert_eq!(self.running.wait().code, 1000 + Signal::SIGKILL as i32);
        pid
    }
}

impl Disk {
    /// Starts the program and holds it before a call.
    #[track_caller]
    pub fn halt(&self, args: &[&str], call: Call<'_>) -> Halted {
        self.halt_with(args, call, &[])
    }

    /// The same; the call then fails.
    #[track_caller]
    pub fn halt_and_fail(&self, args: &[&str], call: Call<'_>, errno: i32) -> Halted {
        let errno = errno.to_string();
        let (what, errno) = (OsStr::new(call.0), OsStr::new(&errno));
        self.halt_with(args, call, &[("SHIM_FAIL", what), ("SHIM_ERRNO", errno)])
    }

    #[track_caller]
    fn halt_with(
        &self,
        args: &[&str],
        (what, path, after): Call<'_>,
        more: &[(&str, &OsStr)],
    ) -> Halted {
        // Not removed before the disk is: the shim looks for `go` there.
        let dir = tempfile::Builder::new().prefix("halt.").tempdir_in(self.tmp()).unwrap().keep();
        let after = after.to_string();
        let settings = [
            ("SHIM_PAUSE", OsStr::new(what)),
            ("SHIM_PATH", OsStr::new(path)),
            ("SHIM_AFTER", OsStr::new(&after)),
            ("SHIM_DIR", dir.as_os_str()),
        ];
        let mut running = self.spawn_shimmed(args, &[&settings[..], more].concat());
        let begun = Instant::now();
        while !dir.join("paused").exists() {
            // `wait` takes it, so this is no assertion.
            if running.ended() {
                let run = running.wait();
                panic!("it ended before {what} of {path}: {run}");
            }
            assert!(begun.elapsed() < Duration::from_secs(30), "no {what} of {path}");
            sleep(Duration::from_millis(1));
        }
        Halted { running, dir }
    }

    /// Runs the program while a file changes each time that it is read: it gets longer (`grow`) or
    /// only other (`change`).
    #[track_caller]
    pub fn disturbed(&self, args: &[&str], how: &str, path: &str) -> Run {
        let settings = [("SHIM_DISTURB", OsStr::new(how)), ("SHIM_PATH", OsStr::new(path))];
        self.spawn_shimmed(args, &settings).wait_soon()
    }

    /// Runs the program with one call that fails.
    #[track_caller]
    pub fn with_fault(&self, args: &[&str], (what, path, after): Call<'_>, errno: i32) -> Run {
        let (after, errno) = (after.to_string(), errno.to_string());
        let settings = [
            ("SHIM_FAIL", OsStr::new(what)),
            ("SHIM_PATH", OsStr::new(path)),
            ("SHIM_AFTER", OsStr::new(&after)),
            ("SHIM_ERRNO", OsStr::new(&errno)),
        ];
        self.spawn_shimmed(args, &settings).wait_soon()
    }
}
