//! `dualroot partitions`: the medium that the system runs from, and what is on it.

use std::path::Path;

use serde::Serialize;

use super::{Session, observe};
use crate::device::{Class, Id};
use crate::error::{Error, Result};
use crate::slot::Part;
use crate::slot::discover::Layout;
use crate::slot::view::View;
use crate::sys::Os;

/// The medium of the running root.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Report {
    /// Version of this shape.
    pub schema: u32,
    /// Its kernel name: `da0`.
    pub medium: String,
    /// Its bytes.
    pub size: u64,
    /// `MBR` or `GPT`; none where its table cannot be read.
    pub scheme: Option<&'static str>,
    /// The root that boots next: `/dev/da0s1a`.
    pub active: String,
    /// The other root; none where there is none to be told.
    pub backup: Option<String>,
    /// The root that runs.
    pub booted: String,
    /// Everything on the medium that can hold something, in the order of the medium.
    pub partitions: Vec<Partition>,
}

/// A partition, or a slice without any.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Partition {
    /// Its name without the medium's: `s1a`.
    pub partition: String,
    /// Its node: `/dev/da0s1a`.
    pub device: String,
    /// First byte on the medium.
    pub start: u64,
    /// Bytes.
    pub size: u64,
    /// The type in its table, in gpart(8)'s words.
    #[serde(rename = "type")]
    pub kind: Option<String>,
    /// The label of its file system, else the table's name for it.
    pub label: Option<String>,
    /// Where it is mounted, seen from the root.
    pub mountpoint: Option<String>,
    /// What it is for: `active` and `backup` are roots.
    pub role: Option<Role>,
}

/// What a partition is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Role {
    /// The root that boots next.
    Active,
    /// The other root.
    Backup,
    /// `/config`.
    Config,
    /// Its copy.
    BackupConfig,
    /// Pages or dumps go there.
    Swap,
}

/// Tells of the medium. Changes nothing and waits for nobody.
///
/// # Errors
/// The running root is on no medium. That there is no second root is none.
pub fn run<O: Os>(os: &O, session: &Session) -> Result<Report> {
    let view = observe::view(os, session)?;
    let running = view.running_root()?.0;
    let Some(medium) = view.devices.medium(running) else {
        return Err(Error::refused("the running root is on no medium").path(view.node(running)));
    };
    let layout = view.discover().ok();
    let slots = || layout.iter().flat_map(|layout| layout.slots);
    // Where the flags start neither, what runs is what there is.
    let active = slots().find(|slot| slot.active).map_or(running, |slot| slot.root);
    let backup = slots().find(|slot| slot.root != active).map(|slot| slot.root);
    let mut found: Vec<Id> = (0..view.devices.providers.len())
        .filter(|&id| is_partition(&view, id) && view.devices.medium(id) == Some(medium))
        .filter(|&id| !view.devices.uppers(id).any(|upper| is_partition(&view, upper)))
        .collect();
    let place = |id: Id| view.devices.extents(id).first().map_or(0, |extent| extent.start);
    found.sort_by_key(|&id| place(id));
    let start = place(medium);
    let partition = |id: Id| {
        let provider = view.devices.get(id);
        let names = view.names(id);
        let medium = &view.devices.get(medium).name;
        Partition {
            partition: provider.name.strip_prefix(medium.as_str()).unwrap_or_default().to_owned(),
            device: view.node(id),
            start: place(id).saturating_sub(start),
            size: provider.size,
            kind: view.entry(id).map(|entry| entry.kind.clone()),
            label: names.fs_label.or(names.part_label),
            mountpoint: mount_point(&view, id),
            role: role(&view, layout.as_ref(), [Some(active), backup], id),
        }
    };
    let medium_provider = view.devices.get(medium);
    Ok(Report {
        schema: 1,
        medium: medium_provider.name.clone(),
        size: medium_provider.size,
        scheme: view.tables.get(&medium).map(|table| table.scheme.name()),
        active: view.node(active),
        backup: backup.map(|id| view.node(id)),
        booted: view.node(running),
        partitions: found.into_iter().map(partition).collect(),
    })
}

fn is_partition(view: &View, id: Id) -> bool {
    matches!(view.devices.get(id).class, Class::Partition { .. })
}

/// Where it is mounted, seen from the root: the first mount that is below the root, or any.
fn mount_point(view: &View, id: Id) -> Option<String> {
    let of = || view.mounts.iter().filter(|m| view.provider_of(m) == Some(id));
    let below = |point: &Path| {
        let rest = point.strip_prefix(&view.root).ok()?;
        Some(Path::new("/").join(rest).to_string_lossy().into_owned())
    };
    of().find_map(|m| below(&m.point))
        .or_else(|| of().map(|m| m.point.to_string_lossy().into_owned()).next())
}

fn role(view: &View, layout: Option<&Layout>, roots: [Option<Id>; 2], id: Id) -> Option<Role> {
    use std::os::unix::ffi::OsStrExt;
    let [active, backup] = roots;
    if active == Some(id) || backup == Some(id) {
        return Some(if active == Some(id) { Role::Active } else { Role::Backup });
    }
    let mut configs = layout.iter().flat_map(|l| &l.pairs).filter(|p| p.part == Part::Config);
    if let Some(pair) = configs.find(|p| p.source == id || p.target == id) {
        return Some(if pair.source == id { Role::Config } else { Role::BackupConfig });
    }
    if layout.is_some_and(|l| l.shared_config == Some(id)) {
        return Some(Role::Config);
    }
    let mut swaps = view.swaps.iter();
    swaps.any(|swap| view.find(swap.as_os_str().as_bytes()) == Some(id)).then_some(Role::Swap)
}
