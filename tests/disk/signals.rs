//! Stopped and killed: at chosen places of a run and at random ones.

use std::fs;
use std::os::unix::process::CommandExt;
use std::thread::sleep;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use nix::errno::Errno;
use nix::sys::signal::{Signal, killpg};
use nix::unistd::Pid;

use crate::harness::{Call, Disk, Layout, Running, pattern, ready, unmount};

/// The places of a run that has one pair, in their order.
const PLACES: [(&str, Call<'static>); 13] = [
    ("rehearsing the format", ("spawn", ".rehearsal", 0)),
    ("formatting", ("spawn", "p2", 0)),
    ("mounting the copy", ("mount-rw", "/altroot", 0)),
    ("copying a small file", ("create", "20.txt", 0)),
    ("writing a large file", ("write", "/large", 3)),
    ("flushing the copy", ("syncfs", "/altroot", 0)),
    ("unmounting the copy", ("umount", "/altroot", 0)),
    ("mounting to verify", ("mount-ro", "/altroot", 0)),
    ("verifying a small file", ("open", "20.txt", 1)),
    ("unmounting what was verified", ("umount", "/altroot", 1)),
    ("mounting to record", ("mount-rw", "/altroot", 1)),
    ("putting the record in place", ("rename", "record.json", 0)),
    ("flushing the record", ("fsync", "/altroot/.dualroot", 2)),
];

fn disk() -> Disk {
    let disk = Disk::new(Layout::roots(16, 16));
    disk.fill();
    disk.write("large", pattern(3 << 20, 7));
    disk
}

/// A stopped run leaves no mount and no scratch file.
#[track_caller]
fn left_nothing(disk: &Disk, pid: u32) {
    disk.assert_unmounted();
    for entry in fs::read_dir("/run/dualroot").unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_name().unwrap().to_str().unwrap();
        assert!(!name.starts_with(&format!("{pid}.")), "left: {}", path.display());
    }
}

/// The slot is not valid, or it is and everything on it is as its manifest says.
#[track_caller]
fn never_wrongly_valid(disk: &Disk) -> String {
    let state = disk.state();
    if state == "valid" {
        disk.dualroot(&["verify"]).exits(0).prints("equal to its manifest");
    }
    state
}

/// The next run needs no help.
#[track_caller]
fn next_run_succeeds(disk: &Disk) {
    disk.spawn(&["snapshot"]).wait_soon().exits(0);
    assert_eq!(disk.state(), "valid");
    disk.assert_unmounted();
}

/// Stops a run at each of `places`; up to the one before the first write the old copy stays.
fn stopped(signal: Signal, places: &[(&str, Call<'static>)]) {
    if !ready(&["cc"]) {
        return;
    }
    let disk = disk();
    let name = signal.as_str();
    for (place, call) in places {
        println!("{name} {place}");
        disk.snapshot();
        let halted = disk.halt(&["snapshot", "--fresh"], *call);
        let pid = halted.running.pid();
        halted.running.signal(signal);
        let run = halted.go().wait_soon();
        run.fails(128 + signal as i32, &format!("stopped by {name}"));
        left_nothing(&disk, pid);
        let state = disk.state();
        match *place {
            "rehearsing the format" => assert_eq!(state, "valid", "nothing was written yet"),
            "formatting" | "mounting the copy" => {
                assert!(["empty", "invalid"].contains(&state.as_str()), "{state}");
            }
            _ => assert_eq!(state, "invalid"),
        }
        next_run_succeeds(&disk);
    }
}

/// Up to the verification's end; what comes then is too short to be stopped.
const STOPPABLE: usize = 10;

#[test]
fn sigint_at_every_place() {
    stopped(Signal::SIGINT, &PLACES[..STOPPABLE]);
}

#[test]
fn sigterm_at_every_place() {
    stopped(Signal::SIGTERM, &PLACES[..STOPPABLE]);
}

#[test]
fn sighup_before_in_and_after_the_copy() {
    stopped(Signal::SIGHUP, &[PLACES[1], PLACES[3], PLACES[8]]);
}

#[test]
fn sigquit_in_the_copy() {
    stopped(Signal::SIGQUIT, &[PLACES[4]]);
}

/// While the record is being put in place a signal comes too late or in time, nothing between.
#[test]
fn sigint_at_the_record() {
    if !ready(&["cc"]) {
        return;
    }
    let disk = disk();
    for (place, call) in &PLACES[STOPPABLE..] {
        let halted = disk.halt(&["snapshot", "--fresh"], *call);
        let pid = halted.running.pid();
        halted.running.signal(Signal::SIGINT);
        let run = halted.go().wait_soon();
        left_nothing(&disk, pid);
        let state = never_wrongly_valid(&disk);
        let expected = if run.code == 0 { "valid" } else { "invalid" };
        assert!([0, 130].contains(&run.code), "{place}: {run}");
        assert_eq!(state, expected, "{place}: {run}");
        next_run_succeeds(&disk);
    }
}

/// One signal in the middle of a large file is enough, and it is not copied to its end.
#[test]
fn a_signal_stops_in_the_middle_of_a_file() {
    if !ready(&["cc"]) {
        return;
    }
    let disk = disk();
    let halted = disk.halt(&["snapshot", "--fresh"], ("write", "/large", 2));
    halted.running.signal(Signal::SIGTERM);
    halted.go().wait_soon().fails(143, "stopped by SIGTERM");
    let copy = disk.mount_alternate(true);
    let size = fs::metadata(copy.path().join("large")).unwrap().len();
    assert!(size < 3 << 20, "{size} bytes were copied");
}

/// What went wrong when the signal came is told, too.
#[test]
fn a_signal_hides_no_failure() {
    if !ready(&["cc"]) {
        return;
    }
    let disk = disk();
    let call = ("umount", "/altroot", 0);
    let halted = disk.halt_and_fail(&["snapshot", "--fresh"], call, Errno::EIO as i32);
    halted.running.signal(Signal::SIGINT);
    let run = halted.go().wait_soon().exits(130);
    unmount(&disk.root().join("altroot"));
    let run = run.says("dualroot: warning: copying / to /altroot: unmounting ");
    run.says(": Input/output error\n").says("dualroot: stopped by SIGINT\n");
    next_run_succeeds(&disk);
}

/// `verify` and `show` are stopped, too, and leave the copy as it was.
#[test]
fn a_stopped_verify() {
    if !ready(&["cc"]) {
        return;
    }
    let disk = disk();
    disk.snapshot();
    let before = disk.hash_device(2);
    for (signal, code) in [(Signal::SIGINT, 130), (Signal::SIGTERM, 143), (Signal::SIGHUP, 129)] {
        let halted = disk.halt(&["verify"], ("open", "20.txt", 0));
        let pid = halted.running.pid();
        halted.running.signal(signal);
        halted.go().wait_soon().fails(code, &format!("stopped by {}", signal.as_str()));
        left_nothing(&disk, pid);
    }
    let halted = disk.halt(&["show"], ("umount", ".show", 0));
    let pid = halted.running.pid();
    halted.running.signal(Signal::SIGINT);
    halted.go().wait_soon();
    left_nothing(&disk, pid);
    assert_eq!(disk.hash_device(2), before);
    assert_eq!(disk.state(), "valid");
}

/// With `--json` the reason is on stdout.
#[test]
fn a_stopped_run_in_json() {
    if !ready(&["cc"]) {
        return;
    }
    let disk = disk();
    let halted = disk.halt(&["--json", "snapshot"], ("create", "20.txt", 0));
    halted.running.signal(Signal::SIGINT);
    let report = halted.go().wait_soon().exits(130).json();
    assert_eq!(report["error"]["code"], "interrupted");
    assert_eq!(report["error"]["cause"], "stopped by SIGINT");
}

/// Ctrl-C in a terminal goes to the whole process group, which mkfs is not in: we end it.
#[test]
fn ctrl_c_while_mkfs_works() {
    if !ready(&["cc"]) {
        return;
    }
    let disk = disk();
    for pause in [0, 2, 5, 10, 20] {
        disk.snapshot();
        let mut command = disk.command(&["snapshot", "--fresh"]);
        command.process_group(0);
        let mut running = Running::spawn(command);
        let pid = running.pid();
        let begun = Instant::now();
        while child(pid).is_none_or(|args| !args.contains(&disk.node(2))) {
            if running.ended() || begun.elapsed() > Duration::from_secs(30) {
                break;
            }
        }
        sleep(Duration::from_millis(pause));
        if running.ended() {
            continue; // it was quicker than this test
        }
        killpg(Pid::from_raw(i32::try_from(pid).unwrap()), Signal::SIGINT).unwrap();
        let run = running.wait_soon();
        if run.code == 0 {
            continue;
        }
        run.fails(130, "stopped by SIGINT");
        left_nothing(&disk, pid);
        assert_ne!(disk.state(), "valid");
        next_run_succeeds(&disk);
    }
}

/// The command line of a process's first child.
fn child(pid: u32) -> Option<String> {
    for entry in fs::read_dir("/proc").unwrap().flatten() {
        let stat = fs::read_to_string(entry.path().join("stat")).unwrap_or_default();
        let parent = stat.rsplit_once(')').and_then(|(_, rest)| rest.split_whitespace().nth(1));
        if parent == Some(pid.to_string().as_str()) {
            return fs::read_to_string(entry.path().join("cmdline")).ok();
        }
    }
    None
}

#[test]
fn sigkill_at_every_place() {
    if !ready(&["cc"]) {
        return;
    }
    let disk = disk();
    for (place, call) in PLACES {
        disk.snapshot();
        disk.halt(&["snapshot", "--fresh"], call).kill();
        let state = never_wrongly_valid(&disk);
        let expected: &[&str] = match place {
            "rehearsing the format" | "flushing the record" => &["valid"],
            "formatting" => &["empty"],
            "mounting the copy" => &["empty", "invalid"],
            _ => &["invalid"],
        };
        assert!(expected.contains(&state.as_str()), "{place}: {state}");
        next_run_succeeds(&disk);
    }
}

/// A small generator (splitmix64), so that a printed seed tells all moments.
struct Random(u64);

impl Random {
    fn below(&mut self, limit: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (z ^ (z >> 31)) % limit
    }
}

/// Killed at random moments, with its children left alone, as the kernel's OOM killer does it.
/// `DUALROOT_SEED` repeats a run.
#[test]
fn sigkill_at_random_moments() {
    if !ready(&[]) {
        return;
    }
    let seed = match std::env::var("DUALROOT_SEED") {
        Ok(seed) => seed.parse().unwrap(),
        Err(_) => u64::from(SystemTime::now().duration_since(UNIX_EPOCH).unwrap().subsec_nanos()),
    };
    println!("DUALROOT_SEED={seed}");
    let mut random = Random(seed);
    let disk = disk();
    disk.snapshot();
    let mut killed = 0;
    for round in 0..60 {
        // The machine may have other work now and then.
        let begun = Instant::now();
        next_run_succeeds(&disk);
        let usual = u64::try_from(begun.elapsed().as_micros()).unwrap();
        // Each round's content is its own: an old copy cannot pass for a new one.
        let content = format!("round {round}");
        disk.write("etc/round", &content);
        let moment = random.below(usual);
        let mut running = disk.spawn(&["snapshot"]);
        let pid = running.pid();
        sleep(Duration::from_micros(moment));
        let ended = running.ended();
        if ended {
            running.wait_soon().exits(0);
        } else {
            running.signal(Signal::SIGKILL);
            killed += 1;
            running.wait_soon();
        }
        println!("round {round}: process {pid}, {moment} µs of {usual}, ended: {ended}");
        let state = never_wrongly_valid(&disk);
        assert!(!ended || state == "valid", "{state}");
        next_run_succeeds(&disk);
        let copy = disk.mount_alternate(true);
        assert_eq!(fs::read_to_string(copy.path().join("etc/round")).unwrap(), content);
        drop(copy);
        if killed == 24 {
            return;
        }
    }
    panic!("only {killed} of 60 runs were killed in time");
}
