//! Copies of the blocks of file systems: plain ones, and the same troubles as others have. What a loss
//! of power leaves of them is looked at in tests/crash.

use dualroot::error::Kind;
use dualroot::ops::snapshot::{Options, Report};
use dualroot::ops::verify;
use dualroot::plan::Method;
use dualroot::slot::{Choice, State};
use dualroot::sys::Snapshots;
use dualroot::sys::fake::{Action, Call, IMMUTABLE, Loss, Machine, Tree, When};
use dualroot::table::superblock::{self, Superblock};
use nix::errno::Errno;

use crate::failures::{each_operation_fails, each_rot_is_found, each_signal_stops};
use crate::judge::{against_source, alternate, left, snapshots, state};
use crate::machine::{
    Base, FSTAB, MB, blank, blank_of_all, blank_with, copied, done, noise, run_with, session,
};
use crate::power::each_kill_is_cleared;

fn by_blocks() -> Options {
    Options { method: Method::Block, ..Options::default() }
}

/// Sources that are copied from their snapshots.
fn blank_with_snapshots() -> Machine {
    let machine = blank();
    machine.world(|w| w.snapshots = Snapshots::Journaled);
    machine
}

/// With a finished copy of the blocks of an older state. Every step of a run is tried: they are few.
fn base_by_blocks() -> Base {
    let machine = blank_with(&[2 * MB, 2 * MB, MB, MB], small_tree);
    machine.world(|w| w.snapshots = Snapshots::Journaled);
    copied(&machine, by_blocks())
}

fn small_tree(tree: &mut Tree) {
    for dir in ["dev", "config", "boot", "etc"] {
        tree.dir(dir);
    }
    tree.file("etc/fstab", FSTAB.as_bytes());
    tree.file("etc/empty", b"");
    tree.file("boot/kernel", &noise(70_000));
    tree.attributes("boot/kernel").flags = IMMUTABLE;
    tree.link("etc/kernel", "boot/kernel");
    tree.symlink("etc/motd", "rc");
}

fn superblock_of(machine: &Machine, device: &str) -> Superblock {
    superblock::read(&machine.world(|w| w.head(device))).unwrap()
}

fn is_whole(machine: &Machine, report: &Report) {
    assert!(report.pairs.iter().all(|p| p.verified && p.method == "block" && !p.refreshed));
    assert_eq!(against_source(machine), [""; 0]);
    assert_eq!(state(machine), State::Valid);
    // Nothing of it was only in memory, and nothing is left.
    assert_eq!(state(&machine.lose_power(Loss::All)), State::Valid);
    assert_eq!((left(machine), snapshots(machine)), (vec![], vec![]));
    let found = done(verify::run(machine, &session(machine), Choice::Alternate));
    assert_eq!(found.differences, []);
    for (source, copy, label) in [("da0s1", "da0s2", "root2"), ("da0s3", "da0s4", "config2")] {
        let [from, to] = [source, copy].map(|device| superblock_of(machine, device));
        assert_ne!(from.id, to.id);
        assert_eq!(to.label.as_deref(), Some(label));
        assert_eq!(machine.world(|w| w.complaint(copy)), None);
    }
}

#[test]
fn a_copy_is_equal_and_a_file_system_of_its_own() {
    let machine = blank_with_snapshots();
    let first = done(run_with(&machine, by_blocks()));
    is_whole(&machine, &first);
    // What agrees is not written again.
    let old = superblock_of(&machine, "da0s2").id;
    machine.world(|w| w.edit("da0s1", |tree| tree.file("etc/new", b"new\n")));
    let second = done(run_with(&machine, by_blocks()));
    is_whole(&machine, &second);
    assert_ne!(superblock_of(&machine, "da0s2").id, old);
    let written = |report: &Report| report.pairs[0].written_bytes;
    assert!(written(&second) < written(&first), "{} {}", written(&second), written(&first));
    // Over a copy of files, and under one.
    let machine = copied(&blank(), Options::default()).machine;
    let report = done(run_with(&machine, by_blocks()));
    is_whole(&machine, &report);
    done(run_with(&machine, Options { fresh: true, ..Options::default() }));
    assert_eq!(against_source(&machine), [""; 0]);
    // Of a root that is mounted read-only there is no snapshot.
    let machine = base_by_blocks().machine;
    machine.world(|w| {
        for point in ["altroot", "altconfig"] {
            w.edit("da0s1", |tree| tree.dir(point));
        }
        w.boot_read_only = true;
    });
    let machine = machine.lose_power(Loss::None);
    machine.record();
    let report = done(run_with(&machine, by_blocks()));
    is_whole(&machine, &report);
    let frozen = machine.trace().into_iter().filter(|call| call.op == "os.freeze");
    assert!(frozen.eq(frozen_config(&machine)), "only /config");
}

/// The one snapshot of `/config`.
fn frozen_config(machine: &Machine) -> Vec<Call> {
    let ours = |call: &Call| call.op == "os.freeze" && call.place.starts_with("/config/");
    machine.trace().into_iter().filter(ours).collect()
}

/// What a copy of files does not do as well: that is tried at each of its own operations.
fn is_of_blocks(call: &Call) -> bool {
    let system = ["os.freeze", "os.thaw", "os.adopt", "os.drop_cache", "os.mount", "os.unmount"];
    call.op.starts_with("claim.") || call.op.starts_with("device.") || system.contains(&call.op)
}

#[test]
fn every_operation_can_fail_once() {
    each_operation_fails(&base_by_blocks(), by_blocks());
}

#[test]
fn a_medium_that_keeps_something_else_is_found_out() {
    each_rot_is_found(&base_by_blocks(), by_blocks());
}

#[test]
fn a_signal_stops_at_every_operation() {
    each_signal_stops(&base_by_blocks(), by_blocks(), is_of_blocks);
}

#[test]
fn a_killed_process_leaves_what_the_next_one_clears() {
    each_kill_is_cleared(&base_by_blocks(), by_blocks(), is_of_blocks);
}

/// The head, and of that the superblock, is written when all else is on the medium and read back.
#[test]
fn the_superblock_is_the_last_that_is_written() {
    let machine = blank_with_snapshots();
    machine.record();
    done(run_with(&machine, by_blocks()));
    let of = |call: &&Call| call.place == "/dev/da0s2" && !call.op.starts_with("os.read");
    let trace = machine.trace();
    let ops: Vec<&str> = trace.iter().filter(of).map(|call| call.op).collect();
    let words: Vec<&str> = ops.iter().copied().skip_while(|op| *op != "claim.write_at").collect();
    let mut shape = words.clone();
    shape.dedup();
    let written = [
        "claim.write_at",
        "claim.flush",
        "os.drop_cache",
        "os.open_device",
        "device.read_at",
        "os.claim",
        "os.canonical",
        "claim.provider",
        "claim.write_at",
        "claim.flush",
        "claim.write_at",
        "claim.flush",
        "os.drop_cache",
        "os.open_device",
        "device.read_at",
        "os.adopt",
    ];
    assert_eq!(shape[..written.len()], written, "{words:?}");
}

/// The older copy is looked into, and cannot be unmounted again: it is not taken for busy.
#[test]
fn a_target_that_stays_mounted_is_told() {
    let base = base_by_blocks();
    let machine = base.machine.fork();
    let point = format!("RUN/{}.blocks", std::process::id());
    machine.inject(When::Each("os.unmount", point), Action::Fail(Errno::EIO as i32));
    let error = run_with(&machine, by_blocks()).unwrap_err();
    assert_eq!((error.kind, machine.hits().is_empty()), (Kind::Failed, false), "{error}");
    machine.next_process();
    assert!(alternate(&machine) == base.old);
    done(run_with(&machine, by_blocks()));
    assert_eq!(against_source(&machine), [""; 0]);
}

#[test]
fn refusals_write_nothing() {
    let refused = |machine: &Machine, word: &str| {
        let before = alternate(machine);
        let error = run_with(machine, by_blocks()).unwrap_err();
        assert_eq!(error.kind, Kind::Refused, "{word}: {error}");
        assert!(error.to_string().contains(word), "{word}: {error}");
        assert!(before == alternate(machine), "{word}: it was written to");
        assert_eq!((left(machine), snapshots(machine)), (vec![], vec![]), "{word}");
    };
    refused(&blank(), "mounted read-write, and no snapshot");
    let smaller = blank_of_all(2 * MB, 2 * MB, MB);
    smaller.world(|w| w.snapshots = Snapshots::Journaled);
    refused(&smaller, "are missing");
    let full = blank_with_snapshots();
    full.world(|w| w.edit("da0s1", |tree| tree.file("var/big", &noise(1_700_000))));
    refused(&full, "free");
}
