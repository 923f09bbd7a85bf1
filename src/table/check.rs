//! What is wrong with the tables of a medium, told from its bytes alone. [`crate::finding`] has the
//! codes.

use super::reading::{Reading, Slice};
use super::{Entry, Fault, Scheme, bsd, gpt, mbr, superblock};
use crate::finding::{Finding, Severity};

/// Something on a medium that a finding is about; whoever asks knows what it is called.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    /// The medium itself.
    Medium,
    /// A slice, by its 1-based index.
    Slice(u32),
    /// A partition of the BSD label in a slice: the slice's index, its own.
    Partition(u32, u32),
}

/// Tells what a place is called.
pub type Name<'a> = &'a dyn Fn(Place) -> String;

const KIB: u64 = 1 << 10;
const MIB: u64 = 1 << 20;

/// For a table that has to be written again.
pub(crate) const RESTORE: &str = "write the table again from a backup of it: gpart restore \
    (FreeBSD), sfdisk (Linux)";

/// For a GPT whose copies differ in nothing but the boot flags.
const SAME_AGAIN: &str = "the next dualroot snapshot or boot makes both the same";

/// For a GPT with one copy that can be used.
fn recover(medium: &str) -> String {
    format!("gpart recover {medium} (FreeBSD), sgdisk -e {medium} (Linux)")
}

impl Reading {
    /// Everything that is wrong with the tables.
    pub fn damage(&self, name: Name<'_>) -> Vec<Finding> {
        let mut found = Vec::new();
        let medium = name(Place::Medium);
        for (offset, why) in &self.unreadable {
            let what = format!("at {offset}: {why}");
            let hint = "replace the medium, or see what is wrong with its connection";
            found.push(Finding::error("medium-unreadable", &medium, what, hint));
        }
        let Some((scheme, entries)) = self.entries() else {
            if let Some(index) = mbr::bad_status(&self.first, self.size, self.sector) {
                let what = format!("the status of entry {index} is neither 0x00 nor 0x80");
                found.push(Finding::error("mbr-status-invalid", &medium, what, RESTORE));
            }
            return found;
        };
        match scheme {
            Scheme::Gpt => self.gpt_damage(&medium, name, &mut found),
            Scheme::Mbr | Scheme::Bsd => self.mbr_damage(&medium, &entries, name, &mut found),
        }
        for slice in self.slices.iter().filter(|s| s.entry.kind == "freebsd") {
            self.label_damage(slice, name, &mut found);
        }
        for entry in &entries {
            self.alignment(entry, name, &mut found);
        }
        found
    }

    fn mbr_damage(
        &self,
        medium: &str,
        entries: &[Entry],
        name: Name<'_>,
        found: &mut Vec<Finding>,
    ) {
        bounds(entries, self.size, found, |entry| name(Place::Slice(entry.index)), &SLICES);
        let active: Vec<_> = entries.iter().filter(|e| e.active).collect();
        if active.len() > 1 {
            let list: Vec<_> = active.iter().map(|e| e.index.to_string()).collect();
            let what = format!("slices {} have the active flag", list.join(", "));
            let hint = "gpart set -a active -i N (FreeBSD), sfdisk --activate (Linux)";
            found.push(Finding::error("active-several", medium, what, hint));
        }
        for slice in self.slices.iter().filter(|s| s.entry.kind == "ebr") {
            if !mbr::has_signature(&slice.head) {
                let place = name(Place::Slice(slice.entry.index));
                let what = "the extended slice does not begin with an EBR";
                found.push(Finding::warning("ebr-damaged", place, what, RESTORE));
            }
        }
        if let Ok(Some(_)) = self.primary {
            let what = "behind the MBR there is a whole GPT, which UEFI firmware may prefer";
            let hint = format!("erase it: gpart destroy it first, or sgdisk --zap {medium}");
            found.push(Finding::warning("gpt-beside-mbr", medium, what, hint));
        }
    }

    fn gpt_damage(&self, medium: &str, name: Name<'_>, found: &mut Vec<Finding>) {
        self.protective_damage(medium, found);
        let last = (self.size / u64::from(self.sector)).saturating_sub(1);
        match (&self.primary, &self.backup) {
            (Ok(Some(primary)), Ok(Some(backup))) => {
                if self.differs_in_flags() {
                    let what = "the backup GPT has other boot flags than the primary, which counts";
                    found.push(Finding::warning("gpt-copies-differ", medium, what, SAME_AGAIN));
                } else if primary.table != backup.table {
                    let what = "the primary and the backup GPT do not say the same";
                    found.push(Finding::error("gpt-copies-differ", medium, what, recover(medium)));
                }
            }
            (Ok(Some(primary)), Ok(None)) if primary.other != last => {
                let what = format!(
                    "the backup GPT belongs in the last sector, {last}, and is said to be in {}",
                    primary.other
                );
                let hint = recover(medium);
                found.push(Finding::warning("gpt-backup-misplaced", medium, what, hint));
            }
            (Ok(Some(_)), backup) => {
                let what = format!("the backup GPT cannot be used: {}", why(backup));
                let hint = recover(medium);
                found.push(Finding::warning("gpt-backup-damaged", medium, what, hint));
            }
            (_, Ok(Some(_))) if self.cut_off => {
                let what =
                    "a change of boot flags was cut off in the primary GPT: the backup counts";
                found.push(Finding::warning("gpt-primary-damaged", medium, what, SAME_AGAIN));
            }
            (primary, Ok(Some(_))) => {
                let what =
                    format!("the primary GPT cannot be used, the backup can: {}", why(primary));
                let hint = recover(medium);
                found.push(Finding::error("gpt-primary-damaged", medium, what, hint));
            }
            (primary, backup) => gpt_loss(medium, name, [primary, backup], found),
        }
    }

    fn protective_damage(&self, medium: &str, found: &mut Vec<Finding>) {
        if !mbr::is_protective(&self.first) {
            let what = "the protective MBR before the GPT is missing";
            let hint = format!(
                "gpart bootcode -b /boot/pmbr {medium} (FreeBSD), sgdisk -e {medium} (Linux)"
            );
            return found.push(Finding::error("gpt-protective-missing", medium, what, hint));
        }
        let sectors = self.size / u64::from(self.sector);
        let Some((start, end)) = mbr::protective(&self.first) else { return };
        // Whatever can hold the number has to be right; more sectors than that are "full".
        if start != 1 || end.is_some_and(|end| end != sectors) {
            let end = end.unwrap_or(sectors);
            let what =
                format!("the protective MBR covers the sectors from {start} to {end} of {sectors}");
            let hint = recover(medium);
            found.push(Finding::info("gpt-protective-size", medium, what, hint));
        }
    }

    fn label_damage(&self, slice: &Slice, name: Name<'_>, found: &mut Vec<Finding>) {
        let place = name(Place::Slice(slice.entry.index));
        let restore = format!("restore the label: gpart restore {place}, bsdlabel -R {place}");
        match bsd::label(&slice.head, self.sector) {
            Ok(Some(label)) => self.label_bounds(slice, &label, name, found),
            Ok(None) => self.label_absence(slice, &place, restore, found),
            Err(fault @ Fault::Checksum(_)) => {
                found.push(Finding::error("label-checksum", place, fault.to_string(), restore));
            }
            Err(fault) => {
                found.push(Finding::error("label-invalid", place, fault.to_string(), restore));
            }
        }
    }

    fn label_absence(&self, slice: &Slice, place: &str, hint: String, found: &mut Vec<Finding>) {
        if let Some(at) = bsd::find(&slice.head) {
            let what =
                format!("a BSD label lies at byte {at}, and is looked for at {}", self.sector);
            return found.push(Finding::error("label-misplaced", place, what, hint));
        }
        // A slice may hold a file system of its own, or nothing yet.
        let twin = |other: &&Slice| {
            other.entry.kind == "freebsd"
                && other.entry.size == slice.entry.size
                && bsd::is_labelled(&other.head, self.sector)
        };
        if superblock::read(&slice.head).is_none() && self.slices.iter().any(|s| twin(&s)) {
            let what = "it has neither a BSD label nor a file system; another slice of its size \
                has a label";
            found.push(Finding::warning("label-missing", place, what, hint));
        }
    }

    /// What the label says of places. GEOM goes by where `c` starts, wherever the slice is.
    fn label_bounds(
        &self,
        slice: &Slice,
        label: &bsd::Label,
        name: Name<'_>,
        found: &mut Vec<Finding>,
    ) {
        let index = slice.entry.index;
        let place = name(Place::Slice(index));
        let sector = u64::from(self.sector);
        let base = label.raw().map_or(0, |raw| raw.start);
        let again = format!("write the label again: gpart backup {place}, gpart restore {place}");
        if u64::from(base) * sector == slice.entry.start && base != 0 {
            let what = "the label counts from the start of the medium, not of its slice";
            let hint = "nothing; it must be written again when the slice moves";
            found.push(Finding::info("label-absolute", &place, what, hint));
        } else if base != 0 {
            let what = format!(
                "the label was made for a slice at sector {base}, but this one begins at {}",
                slice.entry.start / sector
            );
            found.push(Finding::warning("label-displaced", &place, what, &again));
        }
        if let Some(raw) =
            label.raw().filter(|raw| u64::from(raw.count) * sector > slice.entry.size)
        {
            let what =
                format!("c has {} sectors, its slice {}", raw.count, slice.entry.size / sector);
            found.push(Finding::warning("label-raw-size", &place, what, again));
        }
        let mut entries = Vec::new();
        for raw in label.used() {
            let Some(start) = raw.start.checked_sub(base) else {
                let what = "it begins before c, so that GEOM makes no node for it";
                let place = name(Place::Partition(index, raw.index));
                found.push(Finding::warning("partition-before-slice", place, what, RESTORE));
                continue;
            };
            entries.push(Entry {
                index: raw.index,
                start: u64::from(start) * sector,
                size: u64::from(raw.count) * sector,
                ..Entry::default()
            });
        }
        let named = |entry: &Entry| name(Place::Partition(index, entry.index));
        bounds(&entries, slice.entry.size, found, named, &PARTITIONS);
    }

    /// Where file systems begin; a slice with a label has them inside.
    fn alignment(&self, entry: &Entry, name: Name<'_>, found: &mut Vec<Finding>) {
        if matches!(entry.kind.as_str(), "ebr" | "freebsd-boot" | "bios-boot") {
            return;
        }
        let slice = self.slices.iter().find(|s| s.entry == *entry && s.entry.kind == "freebsd");
        let inside = slice.and_then(|slice| self.partitions(slice));
        let mut coarse = |place: Place, start: u64| {
            let hint = "lay the medium out again with -a 1m (gpart add) when that can be done";
            let fine = start.is_multiple_of(4 * KIB);
            if !fine {
                let what = format!("it begins at byte {start}, which is no multiple of 4096");
                found.push(Finding::info("misaligned-4k", name(place), what, hint));
            } else if matches!(place, Place::Slice(_)) && !start.is_multiple_of(MIB) {
                let what = format!("it begins at byte {start}, which is no multiple of 1048576");
                found.push(Finding::info("misaligned-1m", name(place), what, hint));
            }
        };
        match inside {
            Some(partitions) => {
                for partition in partitions {
                    let start = entry.start.saturating_add(partition.start);
                    coarse(Place::Partition(entry.index, partition.index), start);
                }
            }
            None => coarse(Place::Slice(entry.index), entry.start),
        }
    }
}

/// Neither copy can be used: for a reason of its own, or because of what they say.
fn gpt_loss(
    medium: &str,
    name: Name<'_>,
    copies: [&Result<Option<gpt::Found>, Fault>; 2],
    found: &mut Vec<Finding>,
) {
    for copy in copies {
        let (code, slice, what) = match copy {
            Err(fault @ Fault::Overlap { second, .. }) => {
                ("slice-overlap", *second, fault.to_string())
            }
            Err(fault @ Fault::Beyond { index }) => {
                ("slice-beyond-medium", *index, fault.to_string())
            }
            _ => continue,
        };
        return found.push(Finding::error(code, name(Place::Slice(slice)), what, RESTORE));
    }
    let [primary, backup] = copies.map(why);
    let what = format!("neither GPT can be used: primary: {primary}; backup: {backup}");
    found.push(Finding::error("gpt-lost", medium, what, RESTORE));
}

/// Why a copy cannot be used.
fn why(copy: &Result<Option<gpt::Found>, Fault>) -> String {
    match copy {
        Ok(_) => "there is no header in its place".to_owned(),
        Err(fault) => fault.to_string(),
    }
}

/// The words for entries that lie wrong.
struct Words {
    overlap: &'static str,
    beyond: &'static str,
    holder: &'static str,
}

const SLICES: Words =
    Words { overlap: "slice-overlap", beyond: "slice-beyond-medium", holder: "medium" };
const PARTITIONS: Words =
    Words { overlap: "partition-overlap", beyond: "partition-beyond-slice", holder: "slice" };

/// Finds all entries that end behind `size`, or begin inside another one.
fn bounds(
    entries: &[Entry],
    size: u64,
    found: &mut Vec<Finding>,
    name: impl Fn(&Entry) -> String,
    words: &Words,
) {
    let mut add = |code, entry: &Entry, what: String| {
        found.push(Finding::new(Severity::Error, code, name(entry), what, RESTORE));
    };
    for entry in entries.iter().filter(|entry| entry.end() > size) {
        let what = format!("it ends at byte {}, its {} at {size}", entry.end(), words.holder);
        add(words.beyond, entry, what);
    }
    let mut by_start: Vec<&Entry> = entries.iter().collect();
    by_start.sort_by_key(|entry| (entry.start, entry.index));
    let mut furthest: Option<&Entry> = None;
    for entry in by_start {
        if let Some(other) = furthest.filter(|other| entry.start < other.end()) {
            let what = format!("it begins inside of {}", name(other));
            add(words.overlap, entry, what);
        }
        if furthest.is_none_or(|other| other.end() < entry.end()) {
            furthest = Some(entry);
        }
    }
}

#[cfg(test)]
pub(crate) mod tests;
