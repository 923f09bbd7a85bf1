//! What lies where on a medium that the system does not run from. Pure.
//!
//! Nobody has mounted it, and its own fstab is not believed: what a partition is for is told by its
//! place, as on EX, or by its name in a GPT, both as `snapshot --partition` makes them; and a slice
//! without a label by its type.

use super::view::View;
use crate::device::Id;
use crate::error::{Error, Result};
use crate::sys::FsType;
use crate::table::drawing::Role;
use crate::table::{Entry, Scheme};

/// What brings back a table that was kept.
pub const RESTORE: &str = "dualroot table restore writes back the table that was kept of it";

impl View {
    /// The medium that `--media` names, where it is another one than the running.
    pub fn elsewhere(&self) -> Option<Id> {
        self.medium.filter(|medium| Some(*medium) != self.running_medium())
    }

    /// Whether the medium that `--media` names could be read, and new partitions are a way out where
    /// it has none that fit.
    pub fn may_be_partitioned(&self) -> bool {
        self.elsewhere().is_some_and(|medium| {
            self.readings.contains_key(&medium) && self.root_elsewhere(medium).is_err()
        })
    }

    /// The root that is to be filled.
    ///
    /// # Errors
    /// Refused: there is no table, or no partition that could be one.
    pub(super) fn root_elsewhere(&self, medium: Id) -> Result<Id> {
        let refuse = |why: &str| {
            let cause = format!("no alternate slot on {}: {why}", self.node(medium));
            let error = Error::refused(cause);
            Err(if self.kept { error.hint(RESTORE) } else { error })
        };
        if !self.tables.contains_key(&medium) {
            return refuse(self.faults.get(&medium).map_or("no partition table", String::as_str));
        }
        if let Some(id) = self.role_on(medium, Role::Root) {
            return Ok(id);
        }
        let mbr = self.tables.get(&medium).filter(|table| table.scheme != Scheme::Gpt);
        let other = mbr.and_then(|table| table.by_index(1)).filter(|e| e.kind != self.slice_kind());
        match other {
            Some(Entry { kind, .. }) => refuse(&format!(
                "no partition for a root: slice 1 is of type {kind}, not {}",
                self.slice_kind()
            )),
            None => refuse("no partition for a root"),
        }
    }

    /// The type of an MBR's slice that may hold a file system of this system.
    fn slice_kind(&self) -> &'static str {
        let running = self.mount_at(&self.root).and_then(|m| FsType::from_name(&m.fs));
        if matches!(running, None | Some(FsType::Ufs2)) { "freebsd" } else { "linux-data" }
    }

    /// The partition of a medium for this.
    pub fn role_on(&self, medium: Id, role: Role) -> Option<Id> {
        let table = self.tables.get(&medium)?;
        if table.scheme == Scheme::Gpt {
            let named = |e: &&Entry| e.label.as_ref().is_some_and(|l| l.ends_with(role.label()));
            let first = |e: &&Entry| {
                role == Role::Root && ["freebsd-ufs", "linux-data"].contains(&e.kind.as_str())
            };
            let entry =
                table.entries.iter().find(named).or_else(|| table.entries.iter().find(first))?;
            return self.partition(medium, entry.index);
        }
        // Slice and, where that has a BSD label, letter.
        let (slice, letter) = match role {
            Role::Root => (1, 1),
            Role::AltRoot => (2, 1),
            Role::Swap => (3, 2),
            Role::Var => (3, 5),
            Role::Data => (3, 6),
            Role::Config => (4, 4),
            Role::AltConfig => (4, 5),
            Role::Boot | Role::Efi => return None,
        };
        let there = self.partition(medium, slice)?;
        if self.tables.contains_key(&there) {
            let found = self.partition(there, letter)?;
            let twin = |letter| self.partition(there, letter).map(|id| self.devices.get(id).size);
            // NanoBSD has its data in the fourth slice: configs are two of one size.
            return (slice != 4 || twin(4) == twin(5)).then_some(found);
        }
        // Nothing but its type tells that what is in such a slice is nobody else's.
        let ours = |id: &Id| self.entry(*id).is_some_and(|e| e.kind == self.slice_kind());
        match role {
            Role::Root | Role::AltRoot => Some(there).filter(ours),
            // Without labels a slice holds one thing: the configs are two of one size.
            Role::Config | Role::AltConfig => {
                let pair = [3, 4].map(|index| self.partition(medium, index).filter(ours));
                let sizes = pair.map(|id| id.map(|id| self.devices.get(id).size));
                (sizes[0].is_some() && sizes[0] == sizes[1])
                    .then_some(pair[usize::from(role == Role::AltConfig)])?
            }
            _ => None,
        }
    }
}
