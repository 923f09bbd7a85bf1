//! Plans for a medium that is in use, of a kernel that writes tables.

use std::path::Path;

use super::*;
use crate::copy::progress::Monitor;
use crate::error::Kind;
use crate::ops::table::{read_pieces, save};
use crate::ops::{Session, observe};
use crate::sys::fake::Machine;
use crate::table::saved::Saved;
use crate::table::saved::compare::compare;

const MB: u64 = 1 << 20;
const UFS: &str = "516e7cb6-6ecf-11d6-8ff8-00022d09712b";

/// da0, from which the system runs, and what is kept of it.
fn running(scheme: Scheme) -> (Machine, Saved) {
    let machine = Machine::new();
    machine.world(|w| {
        let root = if scheme == Scheme::Gpt {
            w.add_gpt_disk("da0", &[(UFS, 2 * MB), (UFS, 2 * MB)]);
            "da0p1"
        } else {
            w.add_disk("da0", &[2 * MB, 2 * MB]);
            w.table("da0")[..440].fill(0x31);
            "da0s1"
        };
        w.make_fs(root, "root").unwrap();
        w.boot = vec![(format!("/dev/{root}").into(), "/".into())];
        w.start().unwrap();
    });
    let view = view(&machine);
    let id = view.devices.find(Path::new("da0"));
    let saved = save::collect_of(&machine, &view, id).unwrap().0;
    (machine, saved)
}

fn view(machine: &Machine) -> View {
    let monitor = Monitor::default();
    let session = Session { root: "/".into(), config: None, media: None, monitor };
    observe::view(machine, &session).unwrap()
}

/// The plan, where `known` changes what is read of the medium's table.
fn plan(
    machine: &Machine,
    saved: &Saved,
    known: impl Fn(&mut Table),
) -> (usize, Result<Vec<Action>>) {
    let mut view = view(machine);
    let id = view.devices.find(Path::new("da0")).unwrap();
    view.tables.get_mut(&id).into_iter().for_each(known);
    let kept = &saved.media[0];
    let now = read_pieces(machine, &view, id, kept).unwrap();
    let changes = compare(kept, &now);
    (changes.len(), actions(&view, id, kept, &changes, true))
}

fn is_by_kernel(actions: &[Action]) -> bool {
    matches!(actions, [Action { how: How::Rewrite(_), .. }])
}

#[track_caller]
fn refused(planned: (usize, Result<Vec<Action>>), word: &str) {
    let error = planned.1.unwrap_err();
    assert_eq!((planned.0, error.kind), (1, Kind::Refused), "{error}");
    assert!(error.to_string().contains(word) && error.hint.is_some(), "{error}");
}

/// The kernel writes what it has: with another type, or another choice of what boots, that would be no
/// repair.
#[test]
fn a_kernel_that_has_another_mbr_does_not_write_it() {
    let (machine, saved) = running(Scheme::Mbr);
    let damaged = |damage: fn(&mut [u8])| {
        let machine = machine.fork();
        machine.world(|w| damage(w.table("da0")));
        plan(&machine, &saved, |_| {})
    };
    assert_eq!(damaged(|_| {}), (0, Ok(Vec::new())));
    // Its code alone, or nothing that could be read.
    assert!(is_by_kernel(&damaged(|sector| sector[7] = 0).1.unwrap()));
    assert!(is_by_kernel(&damaged(|sector| sector.fill(0)).1.unwrap()));
    // Places that are not the kernel's are not of its writing.
    assert!(is_by_kernel(&damaged(|sector| sector[462 + 13] -= 1).1.unwrap()));
    refused(damaged(|sector| sector[462 + 4] = 0x83), "another type of entry 2");
    refused(damaged(|sector| sector[446] = 0), "another active flag of entry 1");
    // A choice that was made is nothing to be repaired.
    let chosen = damaged(|sector| (sector[446], sector[462]) = (0, 0x80));
    assert_eq!(chosen, (0, Ok(Vec::new())));
    let chosen = damaged(|sector| (sector[7], sector[446], sector[462]) = (0, 0, 0x80));
    assert!(is_by_kernel(&chosen.1.unwrap()));
}

#[test]
fn a_kernel_that_has_another_gpt_does_not_write_it() {
    let (machine, saved) = running(Scheme::Gpt);
    // One copy is damaged, the other tells what the kernel has.
    machine.world(|w| w.table("da0")[..512].fill(0));
    let planned = |known: fn(&mut Table)| plan(&machine, &saved, known);
    assert!(is_by_kernel(&planned(|_| {}).1.unwrap()));
    let name = |table: &mut Table| table.entries[1].label = Some("other".to_owned());
    refused(planned(name), "another name of entry 2");
    refused(planned(|table| table.entries[0].uuid = None), "another name of entry 1");
    refused(planned(|table| table.entries[1].kind = "efi".to_owned()), "another type of entry 2");
    assert!(is_by_kernel(&planned(|table| table.entries[1].boot_me = true).1.unwrap()));
}
