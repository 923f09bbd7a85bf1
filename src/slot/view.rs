//! What was observed of a system, as values, and what its names mean. Pure.

use std::collections::{HashMap, HashSet};
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use super::config::Config;
use super::fstab;
use super::names::Names;
use super::nextboot::Nextboot;
use crate::device::{Class, Devices, Id, Lower, Provider};
use crate::finding::Finding;
use crate::mounts::Mount;
use crate::table::reading::Reading;
use crate::table::superblock::Superblock;
use crate::table::{Entry, Table, bsd};

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
    /// The medium that `--media` names: the alternate slot is looked for there.
    pub medium: Option<Id>,
    /// Whether tables of that medium were kept, where it has none now.
    pub kept: bool,
    /// What the running slot's loader does once.
    pub nextboot: Option<Nextboot>,
    /// The configuration.
    pub config: Config,
    /// The file that it came from, for messages.
    pub config_path: PathBuf,
    /// Partition tables, by the provider that holds them (a medium, or a slice with a BSD label).
    pub tables: HashMap<Id, Table>,
    /// What is wrong with tables and file systems that could not be read.
    pub faults: HashMap<Id, String>,
    /// What the tables of each medium at hand were read from.
    pub readings: HashMap<Id, Reading>,
    /// What is wrong with them, by medium.
    pub findings: HashMap<Id, Vec<Finding>>,
    /// Partitions of a BSD label that GEOM has withdrawn, added to the stack as if they were there.
    pub hidden: HashSet<Id>,
    /// File systems found on the partitions of the media at hand.
    pub superblocks: HashMap<Id, Superblock>,
    /// Paths given by users, with every symbolic link resolved.
    pub canonical: HashMap<PathBuf, PathBuf>,
}

impl View {
    /// A path of the system seen from `root`: `/altroot` → `ROOT/altroot`.
    pub fn below(&self, point: &str) -> PathBuf {
        self.root.join(point.trim_start_matches('/'))
    }

    /// What is mounted between the root and a path below it, and covers what the root has there.
    pub fn covering(&self, path: &Path) -> Option<&Mount> {
        self.mounts.iter().rfind(|m| {
            m.point != self.root && m.point.starts_with(&self.root) && path.starts_with(&m.point)
        })
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
    pub(super) fn mounted(&self, mount: &Mount) -> Option<Id> {
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
        let path = Path::new(OsStr::from_bytes(spec));
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
            let letter = bsd::letter(entry.index);
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
    pub(super) fn missing(&self, spec: &[u8]) -> String {
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
    pub fn slice(&self, id: Id) -> Id {
        let above = self.devices.get(id).lower.first().map(|l| l.id);
        match above {
            Some(slice) if matches!(self.devices.get(slice).class, Class::Partition { .. }) => {
                slice
            }
            _ => id,
        }
    }

    /// Its place in its table, where it is a slice or a partition.
    pub fn index(&self, id: Id) -> Option<u32> {
        match self.devices.get(id).class {
            Class::Partition { index } => Some(index),
            _ => None,
        }
    }

    /// The partition of this index that lies directly on `below`.
    pub fn partition(&self, below: Id, index: u32) -> Option<Id> {
        self.devices.uppers(below).find(|&id| self.index(id) == Some(index))
    }

    /// What fstab says a provider is for, besides a copy's own mount point.
    pub(super) fn fstab_use(&self, id: Id, alternate: &str) -> Option<String> {
        self.fstab
            .iter()
            .filter(|e| e.file != alternate.as_bytes())
            .find(|e| self.find(&e.spec) == Some(id))
            .map(|e| String::from_utf8_lossy(&e.file).into_owned())
    }

    /// The provider of a file system that is apart from the root: what is mounted there, else what
    /// fstab says. `None` where it is part of the root, or lies on no disk.
    pub fn apart(&self, point: &str) -> Option<Id> {
        let root = self.mount_at(&self.root).and_then(|m| self.provider_of(m));
        let found = match (self.mount_at(&self.below(point)), self.fstab_entry(point)) {
            (Some(mount), _) => self.provider_of(mount),
            (None, Some(entry)) => self.find(&entry.spec),
            (None, None) => None,
        };
        found.filter(|id| Some(*id) != root)
    }

    /// The entry of fstab for a mount point.
    pub fn fstab_entry(&self, point: &str) -> Option<&fstab::Entry> {
        self.fstab.iter().find(|e| e.file == point.as_bytes())
    }
}
