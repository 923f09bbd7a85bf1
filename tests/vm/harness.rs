//! Tests in processes of their own, so that one that hangs or dies takes no other with it, and the
//! programs that they run.

use std::ffi::OsStr;
use std::fs::{self, File};
use std::io::Read;
use std::os::unix::process::CommandExt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::process::{Child, Command, ExitCode, ExitStatus, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill, killpg};
use nix::unistd::Pid;

pub use crate::run::Run;
use crate::run::{clip, code, tail};

/// Where everything is mounted; what is left there after a test is cleared away.
pub const BASE: &str = "/tmp/dualroot-vm";
/// The label of our memory disks (mdconfig(8) -L).
pub const LABEL: &str = "dualroot-vm";
/// The longest that a test may say nothing.
const PATIENCE: Duration = Duration::from_secs(240);
/// The exit code of a test that cannot run here.
const SKIPPED: u8 = 77;
const EXACT: &str = "--exact";
const NOTE: &str = "note: ";
/// The test after which the power goes, in the middle of something.
const CUT: &str = "fallback::cut_off";
/// The suites that are sequences of boots, which somebody outside has to make.
const SEQUENCES: [&str; 3] = ["boot", "fallback", "nextboot"];
/// The suite that only measures.
const MEASURES: &str = "bench";

// ---- tests ----------------------------------------------------------------------------------

/// A test.
#[derive(Clone, Copy, Debug)]
pub struct Test {
    pub name: &'static str,
    pub run: fn(),
}

/// The tests of a suite, by the names of their functions.
macro_rules! tests {
    ($($name:ident),* $(,)?) => {
        &[$($crate::harness::Test { name: stringify!($name), run: $name }),*]
    };
}
pub(crate) use tests;

/// The suites, in order.
pub type Suites = [(&'static str, &'static [Test])];

/// Runs the tests that the arguments select, each in a process of its own.
pub fn main(suites: &Suites) -> ExitCode {
    let words: Vec<String> = std::env::args().skip(1).collect();
    if let [first, name] = words.as_slice()
        && first == EXACT
    {
        return one(suites, name);
    }
    if !nix::unistd::geteuid().is_root() {
        println!("skipped vm: not root");
        return ExitCode::SUCCESS;
    }
    let wanted: Vec<&String> = words.iter().filter(|w| !w.starts_with('-')).collect();
    let mut failed = 0_u32;
    // The program of those tests is not everywhere.
    let in_sequence = |name: &str| SEQUENCES.iter().any(|s| name.starts_with(&format!("{s}::")));
    if wanted.is_empty() || wanted.iter().any(|w| !in_sequence(w)) {
        let is_wanted = |name: &str| wanted.is_empty() || wanted.iter().any(|w| name.contains(*w));
        failed += crate::unit::run(is_wanted);
    }
    for (suite, tests) in suites {
        for test in *tests {
            let name = format!("{suite}::{}", test.name);
            let by_name = wanted.iter().any(|w| name.contains(w.as_str()));
            let by_itself = !SEQUENCES.contains(suite) && *suite != MEASURES;
            if by_name || (wanted.is_empty() && by_itself) {
                failed += u32::from(!supervise(&name));
            }
        }
    }
    ExitCode::from(u8::from(failed > 0))
}

/// Runs one test here.
fn one(suites: &Suites, name: &str) -> ExitCode {
    let tests = suites.iter().flat_map(|(s, tests)| tests.iter().map(move |t| (*s, t)));
    let found = tests.into_iter().find(|(s, t)| format!("{s}::{}", t.name) == name);
    let Some((_, test)) = found else { return ExitCode::FAILURE };
    fs::create_dir_all(BASE).unwrap();
    match catch_unwind(AssertUnwindSafe(test.run)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(payload) if payload.is::<Skip>() => ExitCode::from(SKIPPED),
        Err(_) => ExitCode::FAILURE,
    }
}

/// Thrown by a test that cannot run here.
struct Skip;

/// Ends the test: it cannot run here.
pub fn skip(why: &str) -> ! {
    println!("{why}");
    std::panic::resume_unwind(Box::new(Skip))
}

/// Tells what a test found that passes: behind its line.
pub fn note(text: &str) {
    println!("{NOTE}{text}");
}

/// Runs one test as a process, prints its line, and clears away what it left.
fn supervise(name: &str) -> bool {
    println!("begin {name}");
    let begun = Instant::now();
    let mut command = program(std::env::current_exe().unwrap());
    command.args([EXACT, name]).env("RUST_BACKTRACE", "0");
    let (end, said) = watched(command, PATIENCE);
    if end == End::Immortal {
        tell(name, "FAILED", begun, "hangs, and cannot be killed");
        return false;
    }
    let left = if name == CUT { Vec::new() } else { sweep() };
    if end == End::Exit(i32::from(SKIPPED)) {
        tell(name, "skipped", begun, said.lines().last().unwrap_or_default());
        return true;
    }
    let verdict = match end {
        End::Exit(0) if left.is_empty() => {
            let note = said.lines().find_map(|line| line.strip_prefix(NOTE));
            tell(name, "ok", begun, note.unwrap_or_default());
            return true;
        }
        End::Exit(0) => format!("left behind: {}", left.join(", ")),
        End::Exit(_) => {
            let line = said.lines().skip_while(|l| !l.contains("panicked at")).nth(1);
            clip(line.unwrap_or("no message"))
        }
        End::Hangs | End::Immortal => format!("hangs (silent for {} s)", PATIENCE.as_secs()),
    };
    tell(name, "FAILED", begun, &verdict);
    show(&said);
    false
}

/// How a program ended that was watched.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// With this code; 1009 for SIGKILL: no code that a program could have chosen.
    Exit(i32),
    /// Only when it was killed.
    Hangs,
    /// Not even then.
    Immortal,
}

/// Runs a program that may say much and may hang, which is when it says nothing for that long: how it
/// ended, and all that it said.
pub fn watched(mut command: Command, patience: Duration) -> (End, String) {
    let path = Path::new("/tmp").join(format!("{LABEL}.output"));
    let output = File::create(&path).unwrap();
    command.stdout(output.try_clone().unwrap()).stderr(output).process_group(0);
    let mut child = command.spawn().unwrap();
    let said = || path.metadata().map_or(0, |file| file.len());
    let end = loop {
        let before = said();
        if let Some(status) = wait_for(&mut child, patience) {
            break End::Exit(code(status));
        }
        if said() == before {
            // Its children, too.
            let _ = killpg(pid_of(&child), Signal::SIGKILL);
            let killed = wait_for(&mut child, Duration::from_secs(20));
            break killed.map_or(End::Immortal, |_| End::Hangs);
        }
    };
    (end, String::from_utf8_lossy(&fs::read(&path).unwrap_or_default()).into_owned())
}

/// Prints what was said before a failure.
pub fn show(said: &str) {
    for line in tail(said, REPORT_LINES).lines() {
        println!("    {line}");
    }
}

/// The longest report of a failure.
const REPORT_LINES: usize = 60;

/// Prints a test's line.
pub fn tell(name: &str, verdict: &str, begun: Instant, why: &str) {
    let colon = if why.is_empty() { "" } else { ": " };
    println!("{verdict} {name} ({:.1} s){colon}{why}", begun.elapsed().as_secs_f64());
}

/// Removes every mount, GEOM node and memory disk of ours; what there was.
fn sweep() -> Vec<String> {
    let mut left = Vec::new();
    let ours = |line: &str| line.contains(BASE) || line.contains("/dev/md");
    for _ in 0..3 {
        let mounts = Run::of(program("/sbin/mount").arg("-p")).stdout;
        for line in mounts.lines().rev().filter(|l| ours(l)) {
            let point = line.split_whitespace().nth(1).unwrap_or_default();
            left.push(format!("the mount {point}"));
            Run::of(program("/sbin/umount").args(["-f", point]));
        }
    }
    for line in Run::of(program("/sbin/mdconfig").arg("-lv")).stdout.lines() {
        // A disk of the program's own rehearsal is as bad a thing to leave.
        if line.contains("dualroot") {
            let unit = line.split_whitespace().next().unwrap_or_default().to_owned();
            Run::of(program("/sbin/mdconfig").args(["-d", "-o", "force", "-u", &unit]));
            left.push(unit);
        }
    }
    let _ = fs::remove_dir_all(BASE);
    left.sort();
    left.dedup();
    left
}

fn pid_of(child: &Child) -> Pid {
    Pid::from_raw(i32::try_from(child.id()).unwrap())
}

/// Waits for its end, so long.
fn wait_for(child: &mut Child, patience: Duration) -> Option<ExitStatus> {
    let begun = Instant::now();
    loop {
        if let Some(status) = child.try_wait().unwrap() {
            return Some(status);
        }
        if begun.elapsed() > patience {
            return None;
        }
        sleep(Duration::from_millis(20));
    }
}

// ---- programs -------------------------------------------------------------------------------

/// A program with the path, the zone and the language that the tests expect.
#[allow(clippy::disallowed_methods)] // tests start programs that the product must not know
pub fn program(name: impl AsRef<OsStr>) -> Command {
    let mut command = Command::new(name);
    command.env("PATH", "/sbin:/bin:/usr/sbin:/usr/bin").env("LC_ALL", "C").env("TZ", "UTC");
    command.stdin(Stdio::null());
    command
}

/// Runs a tool that must succeed; its stdout.
#[track_caller]
pub fn tool(name: &str, args: &[&dyn AsRef<OsStr>]) -> String {
    let run = try_tool(name, args);
    assert!(run.code == 0, "{name} failed: {run}");
    run.stdout
}

/// Runs a tool, however it ends.
pub fn try_tool(name: &str, args: &[&dyn AsRef<OsStr>]) -> Run {
    Run::of(program(name).args(args.iter().copied().map(AsRef::as_ref)))
}

/// A program that still runs; killed when it is dropped.
#[derive(Debug)]
pub struct Running {
    child: Child,
    command: String,
}

impl Running {
    /// Starts it. Its output is small enough for the pipes.
    pub fn start(mut command: Command) -> Self {
        command.stdout(Stdio::piped()).stderr(Stdio::piped());
        let child = command.spawn().unwrap_or_else(|e| panic!("{command:?}: {e}"));
        Self { child, command: format!("{command:?}") }
    }

    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Sends a signal.
    pub fn signal(&self, signal: Signal) {
        kill(pid_of(&self.child), signal).unwrap();
    }

    /// Whether it has ended.
    pub fn ended(&mut self) -> bool {
        self.child.try_wait().unwrap().is_some()
    }

    /// Stops it as `kill -STOP` does, and waits until every thread of it stands still.
    pub fn halt(&self) {
        self.signal(Signal::SIGSTOP);
        let pid = self.pid().to_string();
        wait_until("it stands still", || {
            tool("ps", &[&"-o", &"state=", &"-p", &pid]).starts_with('T')
        });
    }

    /// Waits for its end, which must come within three minutes: without KVM a guest on a busy host is
    /// slow.
    #[track_caller]
    pub fn wait(mut self) -> Run {
        let status = wait_for(&mut self.child, Duration::from_secs(180));
        let status = status.unwrap_or_else(|| {
            let pid = self.pid().to_string();
            // Where its threads wait in the kernel, in which no signal may end them.
            let stacks = try_tool("procstat", &[&"-kk", &pid]).stdout;
            panic!("it hangs: {}\n{stacks}", self.command)
        });
        let (mut stdout, mut stderr) = (Vec::new(), Vec::new());
        self.child.stdout.take().unwrap().read_to_end(&mut stdout).unwrap();
        self.child.stderr.take().unwrap().read_to_end(&mut stderr).unwrap();
        Run::new(self.command.clone(), status, stdout, &stderr)
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = wait_for(&mut self.child, Duration::from_secs(20));
    }
}

/// Waits until `done`; fails after 30 seconds.
#[track_caller]
pub fn wait_until(what: &str, mut done: impl FnMut() -> bool) {
    let begun = Instant::now();
    while !done() {
        assert!(begun.elapsed() < Duration::from_secs(30), "waited in vain until {what}");
        sleep(Duration::from_millis(1));
    }
}

/// A process that keeps something busy; killed when it is dropped.
#[derive(Debug)]
pub struct Holder(Child);

impl Holder {
    /// `sleep` with its working directory there.
    pub fn inside(dir: &Path) -> Self {
        let mut command = program("/bin/sleep");
        command.arg("600").current_dir(dir).stdout(Stdio::null()).stderr(Stdio::null());
        Self(command.spawn().unwrap())
    }

    /// `sleep` with an open file, or device.
    pub fn with(file: File) -> Self {
        let mut command = program("/bin/sleep");
        command.arg("600").stdin(file).stdout(Stdio::null()).stderr(Stdio::null());
        Self(command.spawn().unwrap())
    }

    pub fn pid(&self) -> u32 {
        self.0.id()
    }
}

impl Drop for Holder {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

// ---- what GEOM makes above a disk -----------------------------------------------------------

/// Undoes something when it is dropped.
pub struct Undo(Vec<String>);

impl Undo {
    /// Runs `class verb words`, and `undo` in the end.
    #[track_caller]
    pub fn after(words: &[&str], undo: &[&str]) -> Self {
        Run::of(program(words[0]).args(&words[1..])).exits(0);
        Self(undo.iter().map(|w| (*w).to_owned()).collect())
    }
}

impl Drop for Undo {
    fn drop(&mut self) {
        let run = Run::of(program(&self.0[0]).args(&self.0[1..]));
        assert!(run.code == 0 || std::thread::panicking(), "undoing: {run}");
    }
}

/// Loads the kernel module of a GEOM class, or skips the test where there is none.
pub fn need_class(class: &str) {
    if try_tool(class, &[&"load"]).code != 0 && try_tool(class, &[&"status"]).code != 0 {
        skip(&format!("no {class} in this system"));
    }
}
