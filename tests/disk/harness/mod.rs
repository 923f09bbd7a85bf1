//! Disks for the tests: an image on a loop device that goes away whatever happens.
//!
//! Nothing here is shared between tests, so that they run side by side.
#![allow(dead_code)] // each module uses what it needs

mod content;
mod disk;
mod halted;
mod mounted;
mod running;
mod shim;

use std::ffi::OsStr;
use std::fs::OpenOptions;
use std::io::Write;
use std::path::Path;
use std::process::{Command, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

pub use self::content::{fingerprint, hex, os, pattern, unique};
pub use self::disk::{Disk, Layout, Scheme, temp_dir};
pub use self::halted::Call;
pub use self::mounted::{Mounted, mounts, unmount};
pub use self::running::{Holder, Running};
pub use crate::run::Run;

/// sbin is not in everybody's path.
const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
const TOOLS: [&str; 5] = ["sfdisk", "losetup", "partx", "mkfs.ext4", "blockdev"];

/// Whether this test can run: as root, with loop devices and with the harness's tools and `tools`.
/// Where it cannot, that is printed and added as a line to the file that `DUALROOT_SKIPPED` names.
pub fn ready(tools: &[&str]) -> bool {
    let missing = |tool: &&&str| !PATH.split(':').any(|dir| Path::new(dir).join(tool).exists());
    let why = if !nix::unistd::geteuid().is_root() {
        "not root".to_owned()
    } else if !Path::new("/dev/loop-control").exists() {
        "no loop devices".to_owned()
    } else if let Some(tool) = TOOLS.iter().chain(tools).find(missing) {
        format!("no {tool}")
    } else {
        return true;
    };
    skip(&why);
    false
}

/// Says that the running test cannot run.
pub fn skip(why: &str) {
    let line = format!("{}: {why}\n", std::thread::current().name().unwrap_or("a test"));
    print!("skipped: {line}");
    if let Some(path) = std::env::var_os("DUALROOT_SKIPPED") {
        let mut file = OpenOptions::new().append(true).create(true).open(path).unwrap();
        file.write_all(line.as_bytes()).unwrap();
    }
}

/// A program with the path, the zone and the language that the tests expect.
#[allow(clippy::disallowed_methods)] // tests start programs that the product must not know
pub fn program(name: impl AsRef<OsStr>) -> Command {
    let mut command = Command::new(name);
    command.env("PATH", PATH).env("LC_ALL", "C").env("TZ", "UTC").stdin(Stdio::null());
    command
}

/// Runs a tool that must succeed; its stdout.
pub fn tool(name: &str, args: &[&dyn AsRef<OsStr>]) -> Vec<u8> {
    let run = try_tool(name, args);
    assert!(run.code == 0, "{name} failed: {run}");
    run.stdout_bytes
}

/// Runs a tool, however it ends.
pub fn try_tool(name: &str, args: &[&dyn AsRef<OsStr>]) -> Run {
    let mut command = program(name);
    command.args(args.iter().copied().map(AsRef::as_ref));
    Run::of(&mut command)
}

/// Waits until `done`; fails after 30 seconds.
#[track_caller]
pub fn wait_until(what: &str, mut done: impl FnMut() -> bool) {
    let begun = Instant::now();
    while !done() {
        assert!(begun.elapsed() < Duration::from_secs(30), "waited in vain until {what}");
        sleep(Duration::from_millis(2));
    }
}
