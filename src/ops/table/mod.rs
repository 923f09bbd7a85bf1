//! `dualroot table`: keep the partition tables and boot blocks of the media, compare, repair.

pub mod check;
mod file;
mod plan;
pub mod restore;
pub mod save;

pub(super) use file::{check, put};

use std::path::Path;

use super::observe::DeviceReader;
use crate::device::{Class, Id};
use crate::error::{Kind, Result};
use crate::slot::view::View;
use crate::sys::Os;
use crate::table::saved::Medium;
use crate::table::saved::capture::mbr_id;
use crate::table::saved::identity::{Seen, Verdict, identify};
use crate::table::{self, superblock};

/// What `check` and `restore` are told.
#[derive(Clone, Copy, Debug, Default)]
pub struct Choice<'a> {
    /// Only this medium, by its name now.
    pub medium: Option<&'a str>,
    /// This file, and no other.
    pub file: Option<&'a Path>,
}

/// Whether tables of the medium `id` were kept, and can be told to be its own.
pub(super) fn is_kept<O: Os>(os: &O, view: &View, id: Id) -> bool {
    let saved = file::locate(os, view, None, Kind::Refused);
    saved.is_ok_and(|(_, saved)| saved.media.iter().any(|m| find(os, view, m, Some(id)).is_ok()))
}

/// The bytes of the medium `id` in the places of the pieces of `kept`, in their order.
fn read_pieces<O: Os>(os: &O, view: &View, id: Id, kept: &Medium) -> Result<Vec<Vec<u8>>> {
    let device = view.devices.get(id).path();
    os.refresh(&device)?;
    let read = |piece: &table::saved::Piece| {
        os.read_device(&device, piece.offset, piece.bytes.len()) // fewer bytes differ, too
    };
    kept.pieces.iter().map(read).collect()
}

/// What is seen of a medium now.
fn see<O: Os>(os: &O, view: &View, id: Id, kept: &Medium) -> Result<Seen> {
    let provider = view.devices.get(id);
    let device = provider.path();
    let (size, sector) = (provider.size, provider.sector);
    let mut seen = Seen { size, sector, ..Seen::default() };
    if size != kept.size || sector != kept.sector {
        return Ok(seen);
    }
    os.refresh(&device)?;
    seen.ident = os.ident(&device)?;
    match table::read(&mut DeviceReader::new(os, &device), size, sector) {
        Ok(Some(table)) => (seen.scheme, seen.disk_id) = (Some(table.scheme), table.disk_id),
        _ => seen.disk_id = mbr_id(&os.read_device(&device, 0, sector as usize)?),
    }
    for file_system in &kept.file_systems {
        let length = superblock::WINDOW.max(sector as usize);
        let window = os.read_device(&device, file_system.offset, length)?;
        seen.file_system |= superblock::read(&window).is_some_and(|s| s.id == file_system.id);
    }
    Ok(seen)
}

/// Finds the medium that was kept, among all of them or as `only` that one.
///
/// # Errors
/// In words for the user: none is it, or several are.
fn find<O: Os>(
    os: &O,
    view: &View,
    kept: &Medium,
    only: Option<Id>,
) -> std::result::Result<Id, String> {
    let is_medium = |&id: &Id| matches!(view.devices.get(id).class, Class::Disk);
    let media: Vec<Id> = (0..view.devices.providers.len())
        .filter(|id| only.map_or_else(|| is_medium(id), |only| only == *id))
        .collect();
    let mut found: Vec<Id> = Vec::new();
    let mut why = "it is not attached".to_owned();
    for id in media {
        let name = &view.devices.get(id).name;
        let other = match see(os, view, id, kept).map(|seen| identify(kept, &seen)) {
            Ok(Verdict::Same) => {
                // Another layer over the same storage is no other medium.
                if !found.iter().any(|&f| view.devices.overlap(f, id)) {
                    found.push(id);
                }
                continue;
            }
            Ok(Verdict::Other(why)) => format!("{name} is another medium: {why}"),
            Ok(Verdict::Unknown) => {
                format!("nothing tells that {name} is the medium that was kept")
            }
            Err(error) => error.to_string(),
        };
        if only.is_some() || *name == kept.name {
            why = other;
        }
    }
    match found[..] {
        [id] => Ok(id),
        [] => Err(why),
        _ => {
            let names: Vec<_> = found.iter().map(|&id| view.node(id)).collect();
            Err(format!("several media are it: {}", names.join(", ")))
        }
    }
}
