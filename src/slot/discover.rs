//! Which slot runs, which is the other one, and which partitions are pairs. Pure.
//!
//! The order: the configuration file, then fstab's `/altroot` and `/altconfig`, then the sibling
//! on the same medium. What was looked at without result is told when nothing fits.

use std::collections::{HashMap, HashSet};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use super::config::{Config, Slots};
use super::names::{Names, are_twins};
use super::{Pair, Part, Slot, fstab};
use crate::device::{Class, Devices, Id, Lower, Provider};
use crate::error::{Error, Result};
use crate::mounts::Mount;
use crate::table::superblock::Superblock;
use crate::table::{Entry, Scheme, Table};

/// Everything that was observed, as values.
#[derive(Clone, Debug, Default)]
pub struct View {
    /// The directory that is taken for `/`.
    pub root: PathBuf,
    /// The storage stack.
    pub devices: Devices,
    /// All mounts, lowest first.
    pub mounts: Vec<Mount>,
    /// What the system pages or dumps to.
    pub swaps: Vec<PathBuf>,
    /// The entries of `root`'s fstab.
    pub fstab: Vec<fstab::Entry>,
    /// The configuration.
    pub config: Config,
    /// The file that it came from, for messages.
    pub config_path: PathBuf,
    /// Partition tables, by the provider that holds them (a medium, or a slice with a BSD label).
    pub tables: HashMap<Id, Table>,
    /// What is wrong with tables and file systems that could not be read.
    pub faults: HashMap<Id, String>,
    /// Partitions of a BSD label that GEOM has withdrawn, added to the stack as if they were there.
    pub hidden: HashSet<Id>,
    /// File systems found on the partitions of the media at hand.
    pub superblocks: HashMap<Id, Superblock>,
    /// Paths given by users, with every symbolic link resolved.
    pub canonical: HashMap<PathBuf, PathBuf>,
}

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
}

impl Layout {
    /// The pair of the root.
    pub fn root(&self) -> &Pair {
        &self.pairs[0]
    }

    /// The slot that is not running.
    pub fn alternate(&self) -> &Slot {
        &self.slots[usize::from(self.slots[0].running)]
    }
}

impl View {
    /// A path of the system seen from `root`: `/altroot` → `ROOT/altroot`.
    pub fn below(&self, point: &str) -> PathBuf {
        self.root.join(point.trim_start_matches('/'))
    }

    /// The topmost mount at a point.
    pub fn mount_at(&self, point: &Path) -> Option<&Mount> {
        self.mounts.iter().rev().find(|m| m.point == point)
    }

    /// The provider of a mount, through labels.
    pub fn provider_of(&self, mount: &Mount) -> Option<Id> {
        self.mounted(mount).or_else(|| self.find(mount.source.as_bytes()))
    }

    /// The provider of a mount as the system tells it, without what media say of themselves.
    fn mounted(&self, mount: &Mount) -> Option<Id> {
        let found = match mount.number {
            Some(number) => self.devices.by_number(number),
            // GEOM has no two nodes of a name, whatever else bears the label (a clone of the
            // medium, a snapshot): this one is what is mounted.
            None => self.devices.find(Path::new(&mount.source)),
        };
        found.map(|id| self.devices.settle(id))
    }

    /// The provider that a name in fstab or the configuration means, through labels.
    pub fn find(&self, spec: &[u8]) -> Option<Id> {
        let path = Path::new(std::ffi::OsStr::from_bytes(spec));
        let canonical = self.canonical.get(path).map_or(path, PathBuf::as_path);
        match self.bearers(spec)[..] {
            [] => {
                let found = self.devices.find(canonical).or_else(|| self.devices.find(path));
                found.map(|id| self.devices.settle(id))
            }
            [id] => Some(id),
            // A clone of the medium bears the same names, and its node in /dev/disk leads to either
            // of the two: the one beside the running root is meant, or nobody knows which.
            ref several => {
                let beside = |id: &&Id| {
                    let medium = self.devices.medium(**id);
                    medium.is_some() && medium == self.running_medium()
                };
                match several.iter().filter(beside).collect::<Vec<_>>()[..] {
                    [id] => Some(*id),
                    _ => None,
                }
            }
        }
    }

    /// Adds the partitions that GEOM has withdrawn to the stack.
    ///
    /// Who opens a slice for writing (a mount of the label that glabel(8) put on it, a mirror)
    /// takes away the partitions of its BSD label (`g_spoil_event`), and they come back when it is
    /// closed. On the medium they are there all the time, and so is the slot.
    pub fn reveal(&mut self, slice: Id, label: Table) {
        let below = self.devices.get(slice).clone();
        for entry in &label.entries {
            // g_part_bsd_name: the letter follows the slice's name.
            let letter = char::from(b'a' + u8::try_from(entry.index.clamp(1, 26) - 1).unwrap_or(0));
            let id = self.devices.providers.len();
            self.devices.providers.push(Provider {
                name: format!("{}{letter}", below.name),
                aliases: Vec::new(),
                class: Class::Partition { index: entry.index },
                size: entry.size,
                lower: vec![Lower { id: slice, offset: Some(entry.start) }],
                ..below.clone()
            });
            self.hidden.insert(id);
        }
        self.tables.insert(slice, label);
        self.devices.name_twins();
    }

    /// The slice of a hidden partition.
    pub fn hidden_in(&self, id: Id) -> Option<Id> {
        self.hidden.contains(&id).then(|| self.devices.get(id).lower.first().map(|l| l.id))?
    }

    /// Why a hidden partition is not there.
    pub fn why_hidden(&self, id: Id) -> Option<String> {
        let slice = self.hidden_in(id)?;
        let users = self.devices.uppers(slice).filter(|u| !self.hidden.contains(u));
        let names = users.map(|u| self.node(u)).collect::<Vec<_>>().join(", ");
        let by = if names.is_empty() { names } else { format!(" by {names}") };
        Some(format!("it is not there while {} is open for writing{by}", self.node(slice)))
    }

    fn running_medium(&self) -> Option<Id> {
        self.devices.medium(self.mounted(self.mount_at(&self.root)?)?)
    }

    /// Every provider that bears a name: a node, a label, a UUID.
    pub fn bearers(&self, spec: &[u8]) -> Vec<Id> {
        let bears = |&id: &Id| !matches!(self.devices.get(id).class, Class::Alias);
        let mut found: Vec<_> = (0..self.devices.providers.len())
            .filter(bears)
            .filter(|&id| self.names(id).is(spec))
            .map(|id| self.devices.settle(id))
            .collect();
        found.sort_unstable();
        found.dedup();
        found
    }

    /// Why [`View::find`] finds nothing.
    fn missing(&self, spec: &[u8]) -> String {
        match self.bearers(spec)[..] {
            [] => "no such device".to_owned(),
            ref several => {
                let nodes: Vec<_> = several.iter().map(|&id| self.node(id)).collect();
                format!("several devices have this name: {}", nodes.join(", "))
            }
        }
    }

    /// The partition-table entry of a provider.
    pub fn entry(&self, id: Id) -> Option<&Entry> {
        let provider = self.devices.get(id);
        let lower = provider.lower.first()?;
        if !matches!(provider.class, Class::Partition { .. }) {
            return None;
        }
        self.tables.get(&lower.id)?.by_start(lower.offset?)
    }

    /// All names of a provider.
    pub fn names(&self, id: Id) -> Names {
        let name = &self.devices.get(id).name;
        Names::new(name, self.entry(id), self.superblocks.get(&id))
    }

    /// Its node, for messages.
    pub fn node(&self, id: Id) -> String {
        self.devices.get(id).path().to_string_lossy().into_owned()
    }

    /// The slice that `id` is, or that its BSD label lies in.
    fn slice(&self, id: Id) -> Id {
        let above = self.devices.get(id).lower.first().map(|l| l.id);
        match above {
            Some(slice) if matches!(self.devices.get(slice).class, Class::Partition { .. }) => {
                slice
            }
            _ => id,
        }
    }

    fn index(&self, id: Id) -> Option<u32> {
        match self.devices.get(id).class {
            Class::Partition { index } => Some(index),
            _ => None,
        }
    }

    /// The partition of this index that lies directly on `below`.
    fn partition(&self, below: Id, index: u32) -> Option<Id> {
        self.devices.uppers(below).find(|&id| self.index(id) == Some(index))
    }

    /// What fstab says a provider is for, besides a copy's own mount point.
    fn fstab_use(&self, id: Id, alternate: &str) -> Option<String> {
        self.fstab
            .iter()
            .filter(|e| e.file != alternate.as_bytes())
            .find(|e| self.find(&e.spec) == Some(id))
            .map(|e| String::from_utf8_lossy(&e.file).into_owned())
    }

    fn fstab_entry(&self, point: &str) -> Option<&fstab::Entry> {
        self.fstab.iter().find(|e| e.file == point.as_bytes())
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
        Ok(Layout { slots, pairs, others: Vec::new(), shared_config })
    }

    fn running_root(&self) -> Result<(Id, &Mount)> {
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
        let mut looked = Vec::new();
        if let Some(id) = self.named_in_config(&self.config.root, "root", source, &mut looked)? {
            return Ok(id);
        }
        if let Some(id) = self.named_in_fstab(Part::Root, source, &mut looked)? {
            return Ok(id);
        }
        if let Some(id) = self.sibling_root(source, &mut looked) {
            return Ok(id);
        }
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
            active: ids[n] == active,
        })
    }

    /// What boots next: the slot whose slice is flagged; where none or both are, or the slots are
    /// on two media, the running one.
    fn active(&self, ids: [Id; 2], running: Id) -> Id {
        let flagged = |id: Id| self.entry(self.slice(id)).is_some_and(|e| e.active || e.boot_me);
        match ids.map(flagged) {
            [true, false] if self.same_medium(ids) => ids[0],
            [false, true] if self.same_medium(ids) => ids[1],
            _ => running,
        }
    }

    fn same_medium(&self, ids: [Id; 2]) -> bool {
        self.devices.medium(ids[0]) == self.devices.medium(ids[1])
    }

    /// The pair of `/config`, or the one that both slots share.
    fn config_pair(&self, root: Id, alternate: Id) -> Result<(Option<Pair>, Option<Id>)> {
        let point = self.below(Part::Config.point());
        let mount = self.mount_at(&point);
        let entry = self.fstab_entry(Part::Config.point());
        let source = match (mount, entry) {
            (Some(mount), _) => self.provider_of(mount),
            (None, Some(entry)) => self.find(&entry.spec),
            (None, None) => None,
        };
        // Part of the root, or a memory disk: nothing of its own to copy.
        let Some(source) = source.filter(|s| *s != root) else { return Ok((None, None)) };
        let mut looked = Vec::new();
        let mut target =
            self.named_in_config(&self.config.config, "config", source, &mut looked)?;
        if target.is_none() {
            target = self.named_in_fstab(Part::Config, source, &mut looked)?;
        }
        let target = target
            .or_else(|| self.sibling_config(source))
            .filter(|t| ![root, alternate, source].contains(t));
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
