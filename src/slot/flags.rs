//! Which slot the boot flags select, and the flags that select another. Pure.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use serde::Serialize;

use super::arrival::Order;
use super::discover::Layout;
use super::fstab;
use super::view::View;
use crate::device::Id;
use crate::finding::Severity;
use crate::mounts::Mount;
use crate::table::flags::{Change, Flags, STARTED, order};
use crate::table::reading::Reading;
use crate::table::{Entry, Scheme, Table, boot0};

/// The two slots in the table that says which of them boots.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Selection {
    /// The medium that both lie on.
    pub medium: Id,
    /// Its table.
    pub table: Table,
    /// The slice that boot0 starts, where that is the medium's boot code.
    pub boot0: Option<u32>,
    /// The slices of slot 1 and slot 2: their indices in the table.
    pub slices: [u32; 2],
    /// The slot whose root the loader of the one that the flags select mounts once.
    pub nextboot: Option<u32>,
}

/// A slot that will be tried.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Next {
    /// 1 or 2.
    pub slot: u32,
    /// Only the next time.
    pub once: bool,
}

impl View {
    /// The boot flags of two roots. `None` where they lie on two media (the firmware's order then
    /// decides), or on none that has flags.
    pub fn selection(&self, roots: [Id; 2]) -> Option<Selection> {
        let [one, two] = roots.map(|id| self.slice(id));
        let medium = self.devices.medium(one)?;
        let below = |id: Id| self.devices.get(id).lower.first().map(|l| l.id);
        if below(one) != Some(medium) || below(two) != Some(medium) {
            return None;
        }
        let table = self.tables.get(&medium)?.clone();
        let slices = [self.entry(one)?.index, self.entry(two)?.index];
        let reading = self.readings.get(&medium).filter(|_| table.scheme == Scheme::Mbr);
        let boot0 = reading.and_then(|r| boot0::default(&r.first));
        let mut selection = Selection { medium, table, boot0, slices, nextboot: None };
        if let Some(first) = selection.next().first() {
            selection.nextboot = self.nextboot_of(roots, first.slot);
        }
        Some(selection)
    }

    /// The same of a layout's slots.
    pub fn selection_of(&self, layout: &Layout) -> Option<Selection> {
        self.selection(layout.slots.map(|slot| slot.root))
    }

    /// The slice that an MBR starts next where that is no root: nothing of either slot starts then. A
    /// slice for what comes before a root (an EFI system partition, a FAT that firmware reads,
    /// `/boot`) is none of those: whoever is there finds the root by itself.
    pub fn stray(&self, selection: &Selection) -> Option<u32> {
        let entry = selection.stray()?;
        let before = ["efi", "prep-boot"].contains(&entry.kind.as_str());
        if before || entry.kind.starts_with("fat") {
            return None;
        }
        let of_it = |id: Option<Id>| {
            let slice = id.map(|id| self.slice(id));
            slice.is_some() && slice == self.partition(selection.medium, entry.index)
        };
        let boot = self.below("/boot");
        let mounted = |m: &Mount| m.point.starts_with(&boot) && of_it(self.provider_of(m));
        let named = |e: &fstab::Entry| {
            Path::new(OsStr::from_bytes(&e.file)).starts_with("/boot") && of_it(self.find(&e.spec))
        };
        let used = self.mounts.iter().any(mounted) || self.fstab.iter().any(named);
        (!used).then_some(entry.index)
    }

    /// Whether a change of flags was interrupted after one copy of a GPT.
    pub fn has_half_flags(&self, medium: Id) -> bool {
        self.readings.get(&medium).is_some_and(Reading::differs_in_flags)
    }

    /// Why the flags of a medium cannot be changed: its table is damaged. A GPT of which one copy is
    /// not whole is none of that: a change that was interrupted leaves it, and the next one makes both
    /// whole.
    pub fn unsound_table(&self, medium: Id) -> Option<&str> {
        let mends = |code: &str| ["gpt-primary-damaged", "gpt-backup-damaged"].contains(&code);
        let found = self.findings.get(&medium)?.iter().filter(|f| !mends(f.code));
        let mut found = found.filter(|f| f.severity == Severity::Error || f.code == MISPLACED);
        found.next().map(|f| f.what.as_str())
    }
}

/// `gpart recover` would move it, and a change of flags shall move nothing.
const MISPLACED: &str = "gpt-backup-misplaced";

impl Selection {
    /// What the slots are, in the table's words.
    pub fn kind(&self) -> &str {
        self.slices.iter().find_map(|&i| self.table.by_index(i)).map_or("", |e| &e.kind)
    }

    /// Whether both slots are what gptboot starts.
    pub fn is_started(&self) -> bool {
        let kind = |&i: &u32| self.table.by_index(i).map(|e| e.kind.as_str());
        self.table.scheme != Scheme::Gpt || self.slices.iter().all(|i| kind(i) == Some(STARTED))
    }

    /// The slots in the order in which they are tried.
    pub fn next(&self) -> Vec<Next> {
        let tried = order(&self.table, self.kind(), self.boot0).into_iter();
        let by_flags =
            tried.filter_map(|(index, once)| Some(Next { slot: self.slot(index)?, once }));
        let before = self.nextboot.map(|slot| Next { slot, once: true });
        before.into_iter().chain(by_flags).collect()
    }

    /// What the boot code makes of the flags. A lone `bootonce` is what gptboot(8) leaves of the trial
    /// that it has begun.
    pub fn starts(&self) -> Order {
        let ours = |e: &&Entry| e.kind == self.kind();
        let flagged = |e: &Entry| e.boot_me || e.boot_once;
        match self.table.scheme {
            Scheme::Gpt if self.table.entries.iter().filter(ours).any(flagged) => Order::Several,
            Scheme::Gpt => Order::Unflagged,
            Scheme::Bsd | Scheme::Mbr => Order::One,
        }
    }

    /// What an MBR starts next where that is neither slot.
    fn stray(&self) -> Option<&Entry> {
        let (index, _) = *order(&self.table, self.kind(), self.boot0).first()?;
        let other = self.table.scheme == Scheme::Mbr && self.slot(index).is_none();
        self.table.by_index(index).filter(|_| other)
    }

    fn slot(&self, index: u32) -> Option<u32> {
        (1..).zip(self.slices).find(|(_, slice)| *slice == index).map(|(slot, _)| slot)
    }

    /// The index of a slot, and of the other one.
    fn both(&self, slot: u32) -> (u32, u32) {
        let [one, two] = self.slices;
        if slot == 1 { (one, two) } else { (two, one) }
    }

    /// The index of a slot in the table.
    pub fn slice(&self, slot: u32) -> u32 {
        self.both(slot).0
    }

    /// Whether a slot bears a flag by which it can be started.
    pub fn is_flagged(&self, slot: u32) -> bool {
        self.table.by_index(self.slice(slot)).is_some_and(|e| e.active || e.boot_me)
    }

    /// The flags with which this slot is the first to be started. The other one is there to fall
    /// back on, where that is wanted and its place in the table allows it.
    pub fn select(&self, slot: u32, fall_back: bool) -> Change {
        let (wanted, other) = self.both(slot);
        self.change(wanted, |entry, flags| {
            if entry.index == wanted {
                Flags { boot_me: true, ..Flags::default() }
            } else if entry.index == other {
                let boot_me = fall_back && entry.index > wanted;
                Flags { boot_me, boot_once: false, ..flags }
            } else {
                // A third one, for rescue, may stay where it comes later.
                let boot_me = flags.boot_me && entry.index > wanted;
                Flags { boot_me, boot_once: false, ..flags }
            }
        })
    }

    /// The flags with which this slot is started once, and the other one after it. `None` where the
    /// table knows no such thing.
    pub fn once(&self, slot: u32) -> Option<Change> {
        if self.table.scheme != Scheme::Gpt {
            return None;
        }
        let (wanted, other) = self.both(slot);
        Some(self.change(wanted, |entry, flags| {
            if entry.index == wanted {
                Flags { boot_me: true, boot_once: true, ..Flags::default() }
            } else if entry.index == other {
                Flags { boot_me: true, boot_once: false, ..flags }
            } else {
                let boot_me = flags.boot_me && entry.index > other;
                Flags { boot_me, boot_once: false, ..flags }
            }
        }))
    }

    /// `gpt` says what becomes of each partition that gptboot would start; of an MBR's slices the
    /// wanted one is active.
    fn change(&self, wanted: u32, gpt: impl Fn(&Entry, Flags) -> Flags) -> Change {
        let mut change = Change::none(&self.table, self.boot0);
        for entry in &self.table.entries {
            let flags = Flags::of(entry);
            let to = match self.table.scheme {
                Scheme::Gpt if entry.kind == self.kind() => gpt(entry, flags),
                Scheme::Gpt | Scheme::Bsd => flags,
                Scheme::Mbr => Flags { active: entry.index == wanted, ..flags },
            };
            change.entries.insert(entry.index, (flags, to));
        }
        change.boot0 = self.boot0.map(|slice| (slice, wanted));
        change
    }

    /// The selection as it is after a change.
    #[must_use]
    pub fn after(&self, change: &Change) -> Self {
        let table = change.apply(&self.table);
        Self { table, boot0: change.boot0.map(|(_, to)| to), ..self.clone() }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Any flags on a table of four partitions, of which the second and the third are the slots.
    fn selections(scheme: Scheme) -> impl Strategy<Value = Selection> {
        let flags = prop::collection::vec(any::<(bool, bool, bool)>(), 4);
        let kinds = prop::collection::vec(any::<bool>(), 2);
        (flags, kinds, prop::option::of(0_u32..5)).prop_map(move |(flags, kinds, boot0)| {
            let entry = |(n, &(a, b, c)): (usize, &(bool, bool, bool))| Entry {
                index: u32::try_from(n).unwrap() + 1,
                start: (n as u64 + 1) << 20,
                size: 1 << 20,
                kind: match (scheme, n) {
                    (Scheme::Gpt, 1 | 2) => "freebsd-ufs",
                    (Scheme::Gpt, _) if kinds[n / 2] => "freebsd-ufs",
                    (Scheme::Gpt, _) => "freebsd-swap",
                    _ => "freebsd",
                }
                .to_owned(),
                active: a && scheme == Scheme::Mbr,
                boot_me: a && scheme == Scheme::Gpt,
                boot_once: b && scheme == Scheme::Gpt,
                boot_failed: c && scheme == Scheme::Gpt,
                ..Entry::default()
            };
            let entries = flags.iter().enumerate().map(entry).collect();
            let table = Table { scheme, sector: 512, disk_id: None, entries };
            let boot0 = boot0.filter(|_| scheme == Scheme::Mbr);
            Selection { medium: 0, table, boot0, slices: [2, 3], nextboot: None }
        })
    }

    /// What gptboot would do (`gptfind` in stand/libsa/gpt.c), told once more in other words: the
    /// partitions that it tries where none of them can be started.
    fn gptboot(table: &Table) -> Vec<u32> {
        let mut tried = Vec::new();
        let ufs: Vec<&Entry> = table.entries.iter().filter(|e| e.kind == "freebsd-ufs").collect();
        tried.extend(ufs.iter().filter(|e| e.boot_me && e.boot_once).map(|e| e.index));
        tried.extend(ufs.iter().filter(|e| e.boot_me && !e.boot_once).map(|e| e.index));
        if tried.is_empty() {
            tried.extend(ufs.first().map(|e| e.index));
        }
        tried
    }

    fn set(selection: &Selection, change: &Change) -> Selection {
        let after = selection.after(change);
        assert!(change.is_done(&after.table, after.boot0));
        assert!(change.is_due(&selection.table, selection.boot0));
        after
    }

    proptest! {
        #[test]
        fn gpt_selected_is_first(selection in selections(Scheme::Gpt), slot in 1_u32..3, fall_back: bool) {
            let after = set(&selection, &selection.select(slot, fall_back));
            let tried = gptboot(&after.table);
            prop_assert_eq!(tried[0], slot + 1);
            prop_assert_eq!(after.next()[0], Next { slot, once: false });
            let other = tried.contains(&(4 - slot));
            prop_assert_eq!(other, fall_back && slot == 1, "{:?}", tried);
            // Nothing is changed that needs none, and all else is left alone.
            prop_assert!(after.select(slot, fall_back).is_empty());
            let left = |s: &Selection| -> Vec<Entry> {
                let bare = |e: &Entry| Entry {
                    boot_me: false, boot_once: false, boot_failed: false, ..e.clone()
                };
                s.table.entries.iter().map(bare).collect()
            };
            prop_assert_eq!(left(&selection), left(&after));
            for entry in selection.table.entries.iter().filter(|e| e.kind == "freebsd-swap") {
                prop_assert_eq!(after.table.by_index(entry.index), Some(entry));
            }
        }

        #[test]
        fn gpt_once_is_first_and_then_the_other(selection in selections(Scheme::Gpt), slot in 1_u32..3) {
            let after = set(&selection, &selection.once(slot).unwrap());
            prop_assert_eq!(&gptboot(&after.table)[..2], &[slot + 1, 4 - slot]);
            let expected = [Next { slot, once: true }, Next { slot: 3 - slot, once: false }];
            prop_assert_eq!(after.next(), expected);
            // gptboot takes bootme away before it starts it: from then on it is the other one.
            let mut tried = after.table.clone();
            tried.entries[slot as usize].boot_me = false;
            prop_assert_eq!(gptboot(&tried)[0], 4 - slot);
        }

        #[test]
        fn mbr_has_one_active_slice(selection in selections(Scheme::Mbr), slot in 1_u32..3) {
            let after = set(&selection, &selection.select(slot, true));
            let active: Vec<_> =
                after.table.entries.iter().filter(|e| e.active).map(|e| e.index).collect();
            prop_assert_eq!(active, [slot + 1]);
            prop_assert!(after.boot0.is_none_or(|slice| slice == slot + 1));
            prop_assert_eq!(after.next(), [Next { slot, once: false }]);
            prop_assert!(after.once(slot).is_none());
        }
    }
}
