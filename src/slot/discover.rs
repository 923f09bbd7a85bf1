//! Which slot runs, which is the other one, and which partitions are pairs. Pure.
//!
//! The order: the configuration file, then fstab's `/altroot` and `/altconfig`, then the sibling
//! on the same medium. What was looked at without result is told when nothing fits.

use super::config::Slots;
use super::names::are_twins;
use super::view::View;
use super::{Choice, Pair, Part, Slot};
use crate::device::Id;
use crate::error::{Error, Result};
use crate::mounts::Mount;
use crate::table::drawing::Role;
use crate::table::{Entry, Scheme, Table};

/// What belongs together.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Layout {
    /// The two roots, slot 1 first.
    pub slots: [Slot; 2],
    /// What is copied: the root, and `/config` where there is a second one.
    pub pairs: Vec<Pair>,
    /// Pairs that are left as they are this time.
    pub others: Vec<Pair>,
    /// `/config` where both slots use the same one.
    pub shared_config: Option<Id>,
    /// What else the alternate slot's medium has where that is another one.
    pub own: Vec<Own>,
    /// What the copy is for.
    pub purpose: Purpose,
}

/// What a copy is for, where it is not to stand by as the other slot of this system.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Purpose {
    /// It has only what the box left the factory with.
    pub factory: bool,
    /// Its medium is to be put in the place of the running one, and to be called like it.
    pub as_primary: bool,
}

/// What another medium has for itself: swap, `/var`, data, its second slot, an EFI system partition.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Own {
    /// What it is for.
    pub role: Role,
    /// What the running system uses for that, where it does.
    pub source: Option<Id>,
    /// Its provider.
    pub target: Id,
}

impl Layout {
    /// The pair of the root.
    pub fn root(&self) -> &Pair {
        &self.pairs[0]
    }

    /// The slot of a number, 1 or 2.
    pub fn slot(&self, number: u32) -> &Slot {
        &self.slots[usize::from(number == 2)]
    }

    /// The slot that is not running.
    pub fn alternate(&self) -> &Slot {
        &self.slots[usize::from(self.slots[0].running)]
    }

    /// The other one.
    pub fn running(&self) -> &Slot {
        self.slot(3 - self.alternate().number)
    }

    /// The slot that was asked for.
    pub fn pick(&self, choice: Choice) -> &Slot {
        match choice {
            Choice::Number(number) => self.slot(number),
            Choice::Alternate => self.alternate(),
        }
    }
}

impl View {
    /// The mount of a pair's source.
    pub fn source_mount(&self, pair: &Pair) -> Option<&Mount> {
        self.mount_at(pair.mounted.as_deref()?)
    }

    /// Finds slots and pairs.
    ///
    /// # Errors
    /// Nothing fits: the refusal tells what was looked at.
    pub fn discover(&self) -> Result<Layout> {
        let (source, mount) = self.running_root()?;
        let target = self.alternate_root(source)?;
        let root = Pair {
            part: Part::Root,
            source,
            fs: mount.fs.clone(),
            mounted: Some(self.root.clone()),
            target,
        };
        let slots = self.slots(source, target);
        let (config, shared_config) = self.config_pair(source, target)?;
        let mut pairs = vec![root];
        pairs.extend(config);
        let (others, own, purpose) = (Vec::new(), self.own(), Purpose::default());
        Ok(Layout { slots, pairs, others, shared_config, own, purpose })
    }

    fn own(&self) -> Vec<Own> {
        let Some(medium) = self.elsewhere() else { return Vec::new() };
        let swap = || self.fstab.iter().find(|e| e.fs == "swap").and_then(|e| self.find(&e.spec));
        let named = |role: Role| self.fstab_entry(role.point()).and_then(|e| self.find(&e.spec));
        let own = |role: Role| {
            let source = match role {
                Role::Swap => swap(),
                Role::AltRoot | Role::AltConfig => named(role),
                Role::Efi => self.efi(),
                _ => self.apart(role.point()),
            };
            Some(Own { role, source, target: self.role_on(medium, role)? })
        };
        let (used, beside) =
            ([Role::Swap, Role::Var, Role::Data], [Role::AltRoot, Role::AltConfig]);
        used.into_iter().chain(beside).chain([Role::Efi]).filter_map(own).collect()
    }

    /// The EFI system partition of the running medium.
    pub fn efi(&self) -> Option<Id> {
        let medium = self.running_medium()?;
        let entry = self.tables.get(&medium)?.entries.iter().find(|e| e.kind == "efi")?;
        self.partition(medium, entry.index)
    }

    /// What is mounted on the root, and how.
    ///
    /// # Errors
    /// Nothing is, or no partition of a disk.
    pub fn running_root(&self) -> Result<(Id, &Mount)> {
        let Some(mount) = self.mount_at(&self.root) else {
            return Err(Error::refused("nothing is mounted there")
                .path(&self.root)
                .hint("-r takes the mount point of a root file system"));
        };
        match self.provider_of(mount) {
            Some(id) => Ok((id, mount)),
            None => Err(Error::refused(format!(
                "no alternate slot: {} is on {} ({}), which is no partition of a disk",
                self.root.display(),
                mount.source,
                mount.fs
            ))),
        }
    }

    fn alternate_root(&self, source: Id) -> Result<Id> {
        if let Some(medium) = self.elsewhere() {
            return self.root_elsewhere(medium);
        }
        let mut looked = Vec::new();
        // Who names the running medium means the other slot there.
        if self.medium.is_none() {
            let section = &self.config.root;
            if let Some(id) = self.named_in_config(section, "root", source, &mut looked)? {
                return Ok(id);
            }
            if let Some(id) = self.named_in_fstab(Part::Root, source, &mut looked)? {
                return Ok(id);
            }
        }
        if let Some(id) = self.sibling_root(source, &mut looked) {
            return Ok(id);
        }
        // Where the table is to blame, that is what there is to say.
        self.guard_tables(source)?;
        Err(Error::refused(format!(
            "no alternate slot for {} ({}); looked at: {}",
            self.root.display(),
            self.node(source),
            looked.join("; ")
        ))
        .hint(format!("name both roots in {}", self.config_path.display())))
    }

    fn named_in_config(
        &self,
        slots: &Slots,
        section: &str,
        source: Id,
        looked: &mut Vec<String>,
    ) -> Result<Option<Id>> {
        let path = self.config_path.display();
        let Some(names) = &slots.slots else {
            looked.push(format!("{path}: no slots in [{section}]"));
            return Ok(None);
        };
        let mut ids = [source; 2];
        for (id, name) in ids.iter_mut().zip(names) {
            *id = self.find(name.as_bytes()).ok_or_else(|| {
                let why = self.missing(name.as_bytes());
                Error::refused(format!("{path}: [{section}] names {name}: {why}"))
            })?;
        }
        match ids {
            [a, b] if a == b => {
                Err(Error::refused(format!("{path}: [{section}] names one device twice")))
            }
            [a, b] if a == source => Ok(Some(b)),
            [a, b] if b == source => Ok(Some(a)),
            _ => Err(Error::refused(format!(
                "{path}: [{section}] names {} and {}, but {} is running",
                names[0],
                names[1],
                self.node(source)
            ))),
        }
    }

    fn named_in_fstab(
        &self,
        part: Part,
        source: Id,
        looked: &mut Vec<String>,
    ) -> Result<Option<Id>> {
        let point = part.alternate();
        let Some(entry) = self.fstab_entry(point) else {
            looked.push(format!("fstab: no entry for {point}"));
            return Ok(None);
        };
        let spec = String::from_utf8_lossy(&entry.spec);
        match self.find(&entry.spec) {
            // A copy of an fstab that was not rewritten: it names what is running now.
            Some(id) if id == source => {
                looked.push(format!("fstab: {point} is {spec}, which is running"));
                Ok(None)
            }
            Some(id) => Ok(Some(id)),
            // Never something else in its place: the user said which one.
            None => {
                let why = self.missing(&entry.spec);
                Err(Error::refused(format!("fstab: {point} is {spec}: {why}"))
                    .hint("attach the medium, or correct fstab"))
            }
        }
    }

    fn sibling_root(&self, source: Id, looked: &mut Vec<String>) -> Option<Id> {
        let slice = self.slice(source);
        let Some(medium) = self.devices.get(slice).lower.first().map(|l| l.id) else {
            looked.push(format!("{}: not on a slice", self.node(source)));
            return None;
        };
        let Some(table) = self.tables.get(&medium) else {
            let why = self.faults.get(&medium).map_or("no partition table", String::as_str);
            looked.push(format!("{}: {why}", self.node(medium)));
            return None;
        };
        let sibling = self.sibling_slice(slice, medium, table, [1, 2], looked)?;
        let target = if slice == source {
            self.devices.settle(sibling)
        } else {
            let index = self.index(source)?;
            let Some(partition) = self.partition(sibling, index) else {
                looked.push(format!("{}: no BSD label like the other's", self.node(sibling)));
                return None;
            };
            partition
        };
        if let Some(point) = self.fstab_use(target, Part::Root.alternate()) {
            looked.push(format!("{}: fstab uses it for {point}", self.node(target)));
            return None;
        }
        Some(target)
    }

    /// The other of two slices: by index where the table is an MBR (`mbr`), by label or else by
    /// order among those of its type where it is a GPT.
    fn sibling_slice(
        &self,
        slice: Id,
        medium: Id,
        table: &Table,
        mbr: [u32; 2],
        looked: &mut Vec<String>,
    ) -> Option<Id> {
        let what = format!("{} ({})", self.node(medium), table.scheme.name());
        let own = self.entry(slice)?;
        let other = match table.scheme {
            Scheme::Mbr | Scheme::Bsd => {
                let index = mbr.into_iter().find(|i| *i != own.index)?;
                if !mbr.contains(&own.index) {
                    looked.push(format!(
                        "{what}: the running slice is {}, not one of {mbr:?}",
                        own.index
                    ));
                    return None;
                }
                table.by_index(index)
            }
            Scheme::Gpt => Self::gpt_sibling(own, table, mbr),
        };
        let Some(other) = other.filter(|o| o.kind == own.kind) else {
            looked.push(format!(
                "{what}: no second slice of type {} beside slice {}",
                own.kind, own.index
            ));
            return None;
        };
        let found = self.partition(medium, other.index);
        if found.is_none() {
            looked.push(format!("{what}: slice {} has no device node", other.index));
        }
        found
    }

    fn gpt_sibling<'a>(own: &Entry, table: &'a Table, order: [u32; 2]) -> Option<&'a Entry> {
        if let Some(label) = &own.label {
            let twin = |e: &&Entry| e.label.as_ref().is_some_and(|l| are_twins(l, label));
            let twins: Vec<_> = table.entries.iter().filter(twin).collect();
            if let [twin] = twins[..] {
                return Some(twin);
            }
        }
        let alike: Vec<_> = table.entries.iter().filter(|e| e.kind == own.kind).collect();
        let nth = |n: u32| alike.get(usize::try_from(n).ok()?.checked_sub(1)?).copied();
        match (nth(order[0]), nth(order[1])) {
            (Some(a), Some(b)) if a.index == own.index => Some(b),
            (Some(a), Some(b)) if b.index == own.index => Some(a),
            _ => None,
        }
    }

    fn slots(&self, source: Id, target: Id) -> [Slot; 2] {
        let place = |id: Id| {
            let medium = self.devices.medium(id).map(|m| self.devices.get(m).name.clone());
            let start = self.devices.extents(id).first().map(|e| e.start);
            (medium, start)
        };
        // The order on the medium is the same whichever of the two is running.
        let ids = if place(source) <= place(target) { [source, target] } else { [target, source] };
        let active = self.active(ids, source);
        [0, 1].map(|n| Slot {
            number: u32::try_from(n).unwrap_or(0) + 1,
            root: ids[n],
            running: ids[n] == source,
            active: Some(ids[n]) == active,
        })
    }

    /// What boots next: the first slot that is tried; where nothing tells, or the slots are on two
    /// media, the running one. `None` where the flags start something else.
    fn active(&self, ids: [Id; 2], running: Id) -> Option<Id> {
        let Some(selection) = self.selection(ids) else { return Some(running) };
        match selection.next().first() {
            Some(next) => Some(ids[usize::from(next.slot == 2)]),
            None => self.stray(&selection).is_none().then_some(running),
        }
    }

    /// The pair of `/config`, or the one that both slots share.
    fn config_pair(&self, root: Id, alternate: Id) -> Result<(Option<Pair>, Option<Id>)> {
        let point = self.below(Part::Config.point());
        let mount = self.mount_at(&point);
        let entry = self.fstab_entry(Part::Config.point());
        // Part of the root, or a memory disk: nothing of its own to copy.
        let Some(source) = self.apart(Part::Config.point()) else { return Ok((None, None)) };
        let mut looked = Vec::new();
        let mut target = None;
        if self.medium.is_none() {
            target = self.named_in_config(&self.config.config, "config", source, &mut looked)?;
            if target.is_none() {
                target = self.named_in_fstab(Part::Config, source, &mut looked)?;
            }
        }
        // Whoever names a root there has mistaken something, and relies on a copy.
        if let Some(named) = target.filter(|named| [root, alternate].contains(named)) {
            let node = self.node(named);
            let cause = format!("{node} is named for a copy of /config, and is the root of a slot");
            return Err(Error::refused(cause));
        }
        let beside = || match self.elsewhere() {
            Some(medium) => self.role_on(medium, Role::Config),
            None => self.sibling_config(source),
        };
        let target = target.or_else(beside).filter(|t| ![root, alternate, source].contains(t));
        let Some(target) = target else { return Ok((None, Some(source))) };
        let fs = mount.map(|m| m.fs.clone()).or_else(|| entry.map(|e| e.fs.clone()));
        let pair = Pair {
            part: Part::Config,
            source,
            fs: fs.unwrap_or_default(),
            mounted: mount.map(|_| point),
            target,
        };
        Ok((Some(pair), None))
    }

    /// A second config partition. Unlike a root, nothing but its place says that it is one: slice 4
    /// beside slice 3 is as often a data slice (NanoBSD). So there must be evidence: a label that
    /// says so, or the same size, and no other use.
    fn sibling_config(&self, source: Id) -> Option<Id> {
        let slice = self.slice(source);
        let medium = self.devices.get(slice).lower.first().map(|l| l.id)?;
        let table = self.tables.get(&medium)?;
        let mut candidates = Vec::new();
        let unused = &mut Vec::new();
        if slice == source {
            candidates.extend(self.sibling_slice(slice, medium, table, [3, 4], unused));
        } else {
            // EX: s4d is /config, s4e its backup, whichever of the two is in use. Elsewhere it may
            // be the one before or behind.
            let index = self.index(source)?;
            let near = [index ^ 1, index + 1, index - 1];
            candidates.extend(near.into_iter().filter_map(|i| self.partition(slice, i)));
            let beside = self.sibling_slice(slice, medium, table, [3, 4], unused);
            candidates.extend(beside.and_then(|s| self.partition(s, index)));
        }
        candidates.into_iter().find(|&id| self.is_second_config(id, source))
    }

    fn is_second_config(&self, id: Id, source: Id) -> bool {
        if self.fstab_use(id, Part::Config.alternate()).is_some() {
            return false;
        }
        let label = |id: Id| {
            let names = self.names(id);
            names.fs_label.or(names.part_label)
        };
        let twin = match (label(id), label(source)) {
            (Some(a), Some(b)) => are_twins(&a, &b),
            (Some(a), None) => a.eq_ignore_ascii_case("altconfig"),
            _ => false,
        };
        let (size, own) = (self.devices.get(id).size, self.devices.get(source).size);
        let mounted = self.mounts.iter().any(|m| {
            m.point != self.below(Part::Config.alternate()) && self.provider_of(m) == Some(id)
        });
        twin || (size == own && !mounted)
    }
}

#[cfg(test)]
mod tests;
