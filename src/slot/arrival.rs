//! How the running slot came to run: whether it was meant to. Pure.

use super::Slot;
use super::discover::Layout;
use super::flags::Next;
use crate::record::journal::{By, How, Journal, Place};

/// How a system came up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Arrival {
    /// How that came about.
    pub how: How,
    /// The slot that was meant to run.
    pub meant: u32,
    /// Whether the flags contradict the trial that the journal knows of. It was ended where another
    /// journal is kept, or its end was not written down.
    pub stale_trial: bool,
}

/// What the boot code makes of the flags.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Order {
    /// One slot is started, and no other.
    One,
    /// Where one cannot be started, it goes on with the next: gptboot(8).
    Several,
    /// The same, and there is no flag: it starts the first slot, and no other.
    Unflagged,
}

/// Tells from the boot flags and from the journal how this start came about. `next` is what the flags
/// select, `order` what the boot code makes of that; `marked`, whether the kernel was told that it is a
/// trial of the running slot by the loader's file. `place` tells how the journal calls a slot.
///
/// The flags say what was meant to run: whoever chooses a slot, with this program or without, sets
/// them. Only while the other slot is being repaired they are on the running one, and then the
/// journal knows which was meant.
pub fn arrival(
    layout: &Layout,
    next: &[Next],
    order: Order,
    marked: bool,
    journal: &Journal,
    place: impl Fn(&Slot) -> Place,
) -> Arrival {
    let running = layout.running().number;
    let number = |known: &Place| layout.slots.iter().find(|s| place(s) == *known).map(|s| s.number);
    let repairing = journal.auto_snapshot.as_ref().is_some_and(|auto| auto.state.is_unfinished());
    let known = |how, meant| Arrival { how, meant, stale_trial: false };
    if order == Order::Several && !repairing && was_started_once(running, next) {
        return known(How::Trial, running);
    }
    let flagged = next.iter().find(|n| !n.once).map(|n| n.slot);
    let mut stale_trial = false;
    if let Some(trial) = &journal.trial {
        let armed = next.first().is_some_and(|n| n.once);
        match (number(&trial.slot), number(&trial.from)) {
            (Some(slot), _) if slot == running => {
                // What was confirmed, or chosen, bears a flag.
                let begun = match trial.by {
                    By::Flags => next.iter().all(|n| n.once || n.slot != running),
                    By::Nextboot => marked,
                };
                if begun {
                    return known(How::Trial, slot);
                }
                stale_trial = true;
            }
            (Some(slot), Some(from)) if from == running && !armed => {
                if flagged.is_none_or(|first| first == running) {
                    return known(How::Returned, slot);
                }
                stale_trial = true;
            }
            _ => {}
        }
    }
    if order == Order::Unflagged && !repairing && was_started_once(running, next) {
        // At the loader's prompt, or by flags that have been taken away since: by somebody's choice.
        return Arrival { how: How::Planned, meant: running, stale_trial };
    }
    let intended = journal.intended.as_ref().and_then(number);
    let meant = if repairing { intended.or(flagged) } else { flagged.or(intended) };
    let meant = meant.unwrap_or(running);
    let how = if meant == running { How::Planned } else { How::Fallback };
    Arrival { how, meant, stale_trial }
}

/// gptboot(8) falls back on nothing without a flag: what runs without one, while the other has one, was
/// started once, though the journal may know nothing of the trial, since each slot can have its own.
fn was_started_once(running: u32, next: &[Next]) -> bool {
    !next.is_empty() && next.iter().all(|n| n.slot != running)
}

#[cfg(test)]
mod tests {
    use jiff::Timestamp;

    use super::*;
    use crate::record::journal::{Auto, AutoSnapshot, Trial};
    use crate::slot::discover::{Layout, Purpose};

    fn layout(running: u32) -> Layout {
        let slot = |number: u32| Slot {
            number,
            root: number as usize,
            running: number == running,
            active: number == 1,
        };
        Layout {
            slots: [slot(1), slot(2)],
            pairs: Vec::new(),
            others: Vec::new(),
            shared_config: None,
            own: Vec::new(),
            purpose: Purpose::default(),
        }
    }

    fn place(slot: &Slot) -> Place {
        Place { slot: slot.number, device: format!("/dev/da0s{}a", slot.number) }
    }

    fn at(number: u32) -> Place {
        place(&layout(1).slots[number as usize - 1])
    }

    fn tell(running: u32, next: &[(u32, bool)], journal: &Journal) -> (How, u32) {
        let next: Vec<_> = next.iter().map(|&(slot, once)| Next { slot, once }).collect();
        let found = arrival(&layout(running), &next, Order::One, false, journal, place);
        (found.how, found.meant)
    }

    #[test]
    fn gptboot_falls_back_on_what_is_flagged() {
        let tell = |next: &[u32]| {
            let next: Vec<_> = next.iter().map(|&slot| Next { slot, once: false }).collect();
            arrival(&layout(2), &next, Order::Several, false, &Journal::default(), place).how
        };
        assert_eq!(tell(&[1, 2]), How::Fallback);
        assert_eq!(tell(&[1]), How::Trial, "a trial that the other slot's journal knows of");
        assert_eq!(tell(&[2]), How::Planned);
        assert_eq!(tell(&[]), How::Planned);
    }

    /// gptboot(8) starts the first slot then: whoever started the second one knew what he did.
    #[test]
    fn without_a_flag_nothing_was_tried() {
        let next = [Next { slot: 1, once: false }];
        let tell = |running, journal: &Journal| {
            let found = arrival(&layout(running), &next, Order::Unflagged, false, journal, place);
            (found.how, found.meant)
        };
        let intended = Journal { intended: Some(at(1)), ..Journal::default() };
        for journal in [&Journal::default(), &intended] {
            assert_eq!(tell(2, journal), (How::Planned, 2));
            assert_eq!(tell(1, journal), (How::Planned, 1));
        }
        // A trial that is known is one.
        let trial = Trial { slot: at(2), from: at(1), armed: Timestamp::UNIX_EPOCH, by: By::Flags };
        let journal = Journal { trial: Some(trial), ..Journal::default() };
        assert_eq!(tell(2, &journal), (How::Trial, 2));
    }

    fn auto(state: Auto) -> Journal {
        let auto = AutoSnapshot { state, why: None, when: Timestamp::UNIX_EPOCH };
        Journal { intended: Some(at(1)), auto_snapshot: Some(auto), ..Journal::default() }
    }

    #[test]
    fn what_the_flags_select_was_meant() {
        let none = Journal::default();
        assert_eq!(tell(1, &[(1, false)], &none), (How::Planned, 1));
        assert_eq!(tell(1, &[(1, false), (2, false)], &none), (How::Planned, 1));
        assert_eq!(tell(2, &[(1, false), (2, false)], &none), (How::Fallback, 1));
        assert_eq!(tell(2, &[(1, false)], &none), (How::Fallback, 1));
        // Whoever sets them by other means has chosen, too.
        let intended = Journal { intended: Some(at(1)), ..Journal::default() };
        assert_eq!(tell(2, &[(2, false)], &intended), (How::Planned, 2));
        // Nothing tells: the journal does, and without it nothing was wrong.
        assert_eq!(tell(2, &[], &intended), (How::Fallback, 1));
        assert_eq!(tell(2, &[], &none), (How::Planned, 2));
        let elsewhere = Place { slot: 1, device: "/dev/da9s1a".to_owned() };
        let other = Journal { intended: Some(elsewhere), ..Journal::default() };
        assert_eq!(tell(2, &[], &other), (How::Planned, 2));
    }

    #[test]
    fn a_trial_is_no_fall_back() {
        let trial = Trial { slot: at(2), from: at(1), armed: Timestamp::UNIX_EPOCH, by: By::Flags };
        let journal = Journal { trial: Some(trial), intended: Some(at(1)), ..Journal::default() };
        assert_eq!(tell(2, &[(1, false)], &journal), (How::Trial, 2));
        assert_eq!(tell(1, &[(1, false)], &journal), (How::Returned, 2));
        assert_eq!(tell(1, &[(2, true), (1, false)], &journal), (How::Planned, 1), "not yet tried");
    }

    /// Where each slot has a journal of its own, one of them knows nothing of how the trial ended.
    #[test]
    fn the_flags_know_of_trials_that_were_ended() {
        let trial = |slot, by| {
            let trial =
                Trial { slot: at(slot), from: at(3 - slot), armed: Timestamp::UNIX_EPOCH, by };
            Journal { trial: Some(trial), ..Journal::default() }
        };
        let tell = |running, next: &[u32], marked, journal: &Journal| {
            let next: Vec<_> = next.iter().map(|&slot| Next { slot, once: false }).collect();
            let found = arrival(&layout(running), &next, Order::Several, marked, journal, place);
            (found.how, found.meant, found.stale_trial)
        };
        let own = trial(2, By::Flags);
        assert_eq!(tell(2, &[1], false, &own), (How::Trial, 2, false));
        assert_eq!(tell(2, &[1, 2], false, &own), (How::Fallback, 1, true), "rejected, and chosen");
        assert_eq!(tell(2, &[2], false, &own), (How::Planned, 2, true), "confirmed");
        let others = trial(1, By::Flags);
        assert_eq!(tell(2, &[2], false, &others), (How::Returned, 1, false));
        assert_eq!(tell(2, &[1, 2], false, &others), (How::Fallback, 1, true), "confirmed there");
        let by_file = trial(2, By::Nextboot);
        assert_eq!(tell(2, &[1, 2], true, &by_file), (How::Trial, 2, false));
        assert_eq!(tell(2, &[1, 2], false, &by_file), (How::Fallback, 1, true));
    }

    #[test]
    fn a_repair_goes_on_after_a_loss_of_power() {
        // The flags are on the running slot while the other one is written.
        assert_eq!(tell(2, &[(2, false)], &auto(Auto::InProgress)), (How::Fallback, 1));
        assert_eq!(tell(2, &[(2, false)], &auto(Auto::Failed)), (How::Fallback, 1));
        assert_eq!(tell(2, &[(2, false)], &auto(Auto::Completed)), (How::Planned, 2));
        assert_eq!(tell(2, &[(2, false)], &auto(Auto::Disabled)), (How::Planned, 2));
        assert_eq!(tell(1, &[(1, false)], &auto(Auto::InProgress)), (How::Planned, 1));
    }
}
