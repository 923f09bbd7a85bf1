//! The kernel's view of a medium against the medium's own. Pure.

use super::view::View;
use crate::device::Id;
use crate::finding::Finding;
use crate::table::check::Place;
use crate::table::reading::Reading;
use crate::table::{Entry, Scheme};

/// MBR entries beyond these are logical slices, or the partitions of a label that Linux counts on.
const PRIMARY: u32 = 4;

/// What to do where the kernel is behind.
const READ_AGAIN: &str = "have the kernel read the table again: blockdev --rereadpt (Linux); on \
    FreeBSD, true > /dev/DISK, or a reboot";
/// What to do where the disk has changed under the kernel.
const CHANGED: &str = "the table was changed behind the kernel's back: do not reboot before it is \
    right; gpart backup (FreeBSD) and sysfs (Linux) still tell the kernel's";

impl View {
    /// What a place of a medium is called: its node, or where it would be.
    pub fn place(&self, medium: Id, place: Place) -> String {
        let beneath = |below: Option<Id>, node: String, index: u32| {
            let known = below.and_then(|below| self.partition(below, index));
            known.map_or_else(|| format!("{node} entry {index}"), |id| self.node(id))
        };
        match place {
            Place::Medium => self.node(medium),
            Place::Slice(index) => beneath(Some(medium), self.node(medium), index),
            Place::Partition(slice, index) => {
                let below = self.partition(medium, slice);
                let node = self.place(medium, Place::Slice(slice));
                let letter =
                    u8::try_from(index.clamp(1, 26) - 1).map_or('?', |n| (b'a' + n).into());
                let known = below.and_then(|below| self.partition(below, index));
                known.map_or_else(|| format!("{node} partition {letter}"), |id| self.node(id))
            }
        }
    }

    /// Where kernel and disk differ about `medium`.
    pub fn against_kernel(&self, medium: Id, reading: &Reading) -> Vec<Finding> {
        let mut found = Vec::new();
        let Some((scheme, entries)) = reading.entries() else {
            let count = self.kernel_entries(medium).count();
            if count > 0 {
                let what = format!(
                    "there is no partition table on it any more, but the kernel has {count} \
                     partitions of it"
                );
                found.push(Finding::error("table-missing", self.node(medium), what, CHANGED));
            }
            return found;
        };
        if reading.table().is_err() {
            return found; // said already: what cannot be read is not to be compared
        }
        self.compare(medium, scheme, &entries, &|i| Place::Slice(i), medium, &mut found);
        for slice in &reading.slices {
            let index = slice.entry.index;
            // What GEOM does not show at all is withdrawn, or is no business of a Linux kernel.
            let Some(below) = self.partition(medium, index) else { continue };
            if slice.entry.kind != "freebsd" || self.kernel_entries(below).next().is_none() {
                continue;
            }
            let name = &|i| Place::Partition(index, i);
            if let Some(entries) = reading.partitions(slice) {
                self.compare(below, Scheme::Bsd, &entries, name, medium, &mut found);
            } else {
                let what = "the kernel has partitions of a BSD label that cannot be read";
                let place = self.node(below);
                found.push(Finding::error("kernel-entry-extra", place, what, CHANGED));
            }
        }
        found
    }

    /// The partitions that the kernel has on `below`: index, place, node.
    fn kernel_entries(&self, below: Id) -> impl Iterator<Item = (u32, Id)> + '_ {
        let seen = self.devices.uppers(below).filter(|id| !self.hidden.contains(id));
        seen.filter_map(|id| Some((self.index(id)?, id)))
    }

    fn compare(
        &self,
        below: Id,
        scheme: Scheme,
        entries: &[Entry],
        name: &dyn Fn(u32) -> Place,
        medium: Id,
        found: &mut Vec<Finding>,
    ) {
        for entry in entries {
            let place = self.place(medium, name(entry.index));
            let Some((_, id)) = self.kernel_entries(below).find(|(n, _)| *n == entry.index) else {
                let what = format!("entry {} of the disk is not known to the kernel", entry.index);
                found.push(Finding::warning("kernel-entry-missing", place, what, READ_AGAIN));
                continue;
            };
            let provider = self.devices.get(id);
            let start = provider.lower.first().and_then(|l| l.offset);
            // Linux gives an extended slice no more than its first sectors.
            let same_size = provider.size == entry.size || entry.kind == "ebr";
            if start.is_some_and(|start| start != entry.start) || !same_size {
                let what = format!(
                    "on the disk it begins at {} and has {} bytes; for the kernel it begins at {} \
                     and has {}",
                    entry.start,
                    entry.size,
                    start.unwrap_or(0),
                    provider.size
                );
                found.push(Finding::error("kernel-entry-differs", place, what, CHANGED));
            }
        }
        let known = |index: u32| entries.iter().any(|e| e.index == index);
        let further = |index: u32| scheme == Scheme::Mbr && index > PRIMARY;
        for (index, id) in self.kernel_entries(below).filter(|(n, _)| !known(*n) && !further(*n)) {
            let what = format!("the kernel has it, and the disk has no entry {index}");
            found.push(Finding::error("kernel-entry-extra", self.node(id), what, CHANGED));
        }
    }
}
