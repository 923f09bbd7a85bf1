//! Boot flags: what a table says of what boots, and the bytes that say something else.
//!
//! What is known of who reads them: the code of an MBR starts the one active slice
//! (`stand/i386/mbr/mbr.s`), boot0 its own default. gptboot(8) and gptboot.efi(8) try the partitions
//! of type freebsd-ufs (`stand/libsa/gpt.c`): those with `bootme` and `bootonce` in the order of the
//! table, each losing `bootme` before it is tried; then those with `bootme` alone, in the order of
//! the table; and where none had `bootme`, the first there is. One that has no loader that can be
//! read is given up for the next.

use std::collections::BTreeMap;
use std::io::{Read, Seek};

use super::{Entry, Failure, Fault, Scheme, Table, boot0, gpt, mbr, read_sectors};

/// What gptboot starts.
pub const STARTED: &str = "freebsd-ufs";

/// The boot flags of an entry.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
#[allow(clippy::struct_excessive_bools, reason = "independent bits of the medium, not a state")]
pub struct Flags {
    /// MBR: the active slice.
    pub active: bool,
    /// GPT: to be started.
    pub boot_me: bool,
    /// GPT: to be started once, before all others.
    pub boot_once: bool,
    /// GPT: it was to be started once, and did not come up.
    pub boot_failed: bool,
}

impl Flags {
    /// Those of an entry.
    pub fn of(entry: &Entry) -> Self {
        let Entry { active, boot_me, boot_once, boot_failed, .. } = *entry;
        Self { active, boot_me, boot_once, boot_failed }
    }
}

/// The flags of all entries of a table, as they are and as they are to be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Change {
    /// The kind of table.
    pub scheme: Scheme,
    /// By the entry's index: before, after.
    pub entries: BTreeMap<u32, (Flags, Flags)>,
    /// The slice that boot0 starts by itself, where it is there: before, after.
    pub boot0: Option<(u32, u32)>,
}

impl Change {
    /// No change of this table, for others to be made of.
    pub fn none(table: &Table, boot0: Option<u32>) -> Self {
        let flags = |entry: &Entry| (entry.index, (Flags::of(entry), Flags::of(entry)));
        Self {
            scheme: table.scheme,
            entries: table.entries.iter().map(flags).collect(),
            boot0: boot0.map(|slice| (slice, slice)),
        }
    }

    /// Whether it changes nothing.
    pub fn is_empty(&self) -> bool {
        self.changed().next().is_none() && self.boot0.is_none_or(|(from, to)| from == to)
    }

    /// The change that takes this one back.
    #[must_use]
    pub fn reversed(&self) -> Self {
        let entries = self.entries.iter().map(|(&index, &(from, to))| (index, (to, from)));
        Self {
            scheme: self.scheme,
            entries: entries.collect(),
            boot0: self.boot0.map(|(from, to)| (to, from)),
        }
    }

    /// The entries that change: index, before, after.
    pub fn changed(&self) -> impl Iterator<Item = (u32, Flags, Flags)> + '_ {
        let all = self.entries.iter().map(|(&index, &(from, to))| (index, from, to));
        all.filter(|(_, from, to)| from != to)
    }

    /// Whether this is what a table looks like after it.
    pub fn is_done(&self, table: &Table, boot0: Option<u32>) -> bool {
        let after = |&(index, (_, to)): &(u32, (Flags, Flags))| (index, to);
        self.looks_like(table, after) && self.boot0.map(|(_, to)| to) == boot0
    }

    /// Whether this is what a table looks like before it.
    pub fn is_due(&self, table: &Table, boot0: Option<u32>) -> bool {
        let before = |&(index, (from, _)): &(u32, (Flags, Flags))| (index, from);
        self.looks_like(table, before) && self.boot0.map(|(from, _)| from) == boot0
    }

    fn looks_like(
        &self,
        table: &Table,
        side: impl Fn(&(u32, (Flags, Flags))) -> (u32, Flags),
    ) -> bool {
        let expected = self.entries.iter().map(|(&index, &both)| side(&(index, both)));
        let found = table.entries.iter().map(|e| (e.index, Flags::of(e)));
        table.scheme == self.scheme && found.eq(expected)
    }

    /// The table as it is after it.
    pub fn apply(&self, table: &Table) -> Table {
        let mut table = table.clone();
        for entry in &mut table.entries {
            if let Some(&(_, to)) = self.entries.get(&entry.index) {
                (entry.active, entry.boot_me) = (to.active, to.boot_me);
                (entry.boot_once, entry.boot_failed) = (to.boot_once, to.boot_failed);
            }
        }
        table
    }
}

/// The entries that are started, in the order in which they are tried, and whether that is for once.
/// `kind` is the type of the partitions that are meant, and `boot0` its default where it is there.
pub fn order(table: &Table, kind: &str, boot0: Option<u32>) -> Vec<(u32, bool)> {
    let entries = &table.entries;
    let single = |entry: Option<&Entry>| entry.map(|e| (e.index, false)).into_iter().collect();
    match (table.scheme, boot0) {
        (Scheme::Bsd, _) => Vec::new(),
        (Scheme::Mbr, Some(slice)) => single(table.by_index(slice)),
        (Scheme::Mbr, None) => {
            let mut active = entries.iter().filter(|e| e.active);
            // With several, the boot code stops.
            single(active.next().filter(|_| active.next().is_none()))
        }
        (Scheme::Gpt, _) => {
            let ours = || entries.iter().filter(|e| e.kind == kind);
            let flagged = |once: bool| {
                let flagged = move |e: &&Entry| e.boot_me && e.boot_once == once;
                ours().filter(flagged).map(move |e| (e.index, once))
            };
            let tried: Vec<_> = flagged(true).chain(flagged(false)).collect();
            if tried.is_empty() { single(ours().next().filter(|_| kind == STARTED)) } else { tried }
        }
    }
}

/// The bytes that make a change, in the order in which they are to be written, each flushed before
/// the next. An MBR is one sector. Of a GPT one copy is written whole, then the other one, so that at
/// any time one of them is whole; a copy that is damaged (a change that was interrupted leaves that)
/// comes first, and is made anew from the one that rules.
///
/// # Errors
/// The medium cannot be read; or its table is not the one that is to be changed, or damaged.
pub fn writes<R: Read + Seek>(
    reader: &mut R,
    size: u64,
    sector: u32,
    change: &Change,
) -> Result<Vec<(u64, Vec<u8>)>, Failure> {
    let other = Fault::Invalid("another table than the one to be changed");
    if change.scheme == Scheme::Mbr {
        let mut first = read_sectors(reader, sector, 0, u64::from(sector))?;
        let default = boot0::default(&first);
        let due = mbr::read(&first, size, sector)?.is_some_and(|t| change.is_due(&t, default));
        if !due {
            return Err(other.into());
        }
        for (&index, (_, to)) in &change.entries {
            mbr::set_active(&mut first, index, to.active);
        }
        if let Some((_, slice)) = change.boot0 {
            boot0::set_default(&mut first, slice);
        }
        return Ok(vec![(0, first)]);
    }
    let mut copy = |copy| match gpt::read_raw(reader, size, sector, copy) {
        Ok(found) => Ok(found),
        Err(Failure::Fault(_)) => Ok(None),
        Err(io) => Err(io),
    };
    let (primary, backup) = (copy(gpt::Copy::Primary)?, copy(gpt::Copy::Backup)?);
    let Some((mut raw, table)) = primary.or(backup) else { return Err(Fault::Lost.into()) };
    if !change.is_due(&table, None) {
        return Err(other.into());
    }
    for (index, _, to) in change.changed() {
        gpt::set_flags(&raw.header, &mut raw.array, index, to);
    }
    gpt::seal(&mut raw.header, &raw.array);
    let mirror = gpt::mirror(&raw, size, sector);
    let mirror = mirror.ok_or(Fault::Invalid("gpt made for another medium"))?;
    let whole = |raw: gpt::Raw| [(raw.array_at, raw.array), (raw.header_at, raw.header)];
    Ok(whole(mirror).into_iter().chain(whole(raw)).collect())
}
