//! Whoever looks for violations must find them: runs on machines that break one of the rules.

use dualroot::sys::fake::{Action, Machine, When};

use crate::cut::explore_until;
use crate::verb;

/// A snapshot over an old copy, with what `spoil` does to the machine, violates something that
/// `words` names, and names the cut.
fn is_found(spoil: impl Fn(&Machine) + Sync, words: &str) {
    is_found_in("snapshot", spoil, words);
}

/// The same of another verb.
fn is_found_in(verb: &str, spoil: impl Fn(&Machine) + Sync, words: &str) {
    let tally = explore_until(verb::find(verb), &spoil, |what| what.contains(words));
    let found = tally.findings.iter().find(|(what, _)| what.contains(words));
    let Some((what, cuts)) = found else {
        panic!("nobody noticed \"{words}\": {:?}", tally.findings.keys());
    };
    println!("{what}: {} cuts, first {}", cuts.len(), cuts[0]);
    assert!(cuts[0].starts_with(&format!("DUALROOT_CUT={verb}:")), "{}", cuts[0]);
}

fn lie(machine: &Machine, op: &'static str, place: &str) {
    machine.inject(When::Each(op, place.to_owned()), Action::Lie);
}

#[test]
fn a_record_before_the_content_is_flushed() {
    let spoil = |machine: &Machine| {
        lie(machine, "dir.sync_all", "da0s2:");
        lie(machine, "os.unmount", "/altroot");
        lie(machine, "os.drop_cache", "/dev/da0s2");
    };
    is_found(spoil, "da0s2: ");
}

#[test]
fn an_old_copy_that_was_not_erased_first() {
    let spoil = |machine: &Machine| lie(machine, "claim.wipe", "/dev/da0s2");
    is_found(spoil, "da0s2: ");
}

#[test]
fn a_record_that_was_not_removed_first() {
    let spoil = |machine: &Machine| {
        lie(machine, "dir.sync", "da0s2:.dualroot");
        lie(machine, "dir.sync_all", "da0s2:");
        lie(machine, "os.unmount", "/altroot");
        lie(machine, "claim.flush", "/dev/da0s2");
        lie(machine, "os.drop_cache", "/dev/da0s2");
    };
    is_found_in("refresh", spoil, "da0s2: ");
}

#[test]
fn an_erasure_that_was_not_flushed() {
    let spoil = |machine: &Machine| lie(machine, "claim.flush", "/dev/da0s2");
    is_found(spoil, "da0s2: ");
}

#[test]
fn partition_tables_in_place_before_their_content_is_flushed() {
    let spoil = |machine: &Machine| lie(machine, "file.sync", "da0s3:.dualroot/tables.new");
    is_found(spoil, "the partition tables that were kept");
}

#[test]
fn a_copy_of_a_gpt_before_the_other_one_is_flushed() {
    let spoil = |machine: &Machine| lie(machine, "claim.flush", "/dev/da1");
    is_found_in("table-restore-gpt", spoil, "no copy of the GPT of da1");
}

#[test]
fn boot_flags_on_the_slot_that_is_written() {
    let spoil = |machine: &Machine| {
        let moved = Action::Change(Box::new(|world| world.set_active("da0", 2)));
        machine.inject(When::Each("os.format", "/dev/da0s2".to_owned()), moved);
    };
    is_found(spoil, "what boots is not the running slot");
}

#[test]
fn blocks_over_an_old_copy_that_was_not_erased() {
    let spoil = |machine: &Machine| lie(machine, "claim.wipe", "/dev/da0s2");
    is_found_in("block", spoil, "da0s2: ");
}

#[test]
fn a_superblock_before_the_blocks_are_flushed() {
    let spoil = |machine: &Machine| {
        lie(machine, "claim.flush", "/dev/da0s2");
        lie(machine, "os.drop_cache", "/dev/da0s2");
    };
    is_found_in("block-first", spoil, "da0s2 can be mounted, but");
}
