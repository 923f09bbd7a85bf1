//! A run as a list of steps, each with a sentence: what `-n` prints and the log repeats. Pure.

pub mod consistency;
pub mod partition;
pub mod size;

use std::fmt;
use std::path::PathBuf;

use crate::mounts::Mount;
use crate::mounts::stale::Obstacle;
use crate::slot::Part;
use crate::slot::discover::Layout;
use crate::slot::flags::Selection;
use crate::slot::view::View;
use crate::sys::Format;
use crate::table::Scheme;
use crate::table::drawing::Drawing;
use crate::table::flags::Change;
use consistency::Consistency;

/// One step of a snapshot.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Step {
    /// Unmount what is in the way; by force where the user said so.
    Clear {
        /// The mount.
        mount: Mount,
        /// Break open files.
        force: bool,
    },
    /// Make the mount point.
    MakePoint(PathBuf),
    /// Let the running slot start first; whether there is the other one to fall back on.
    Flags(String, Change, bool),
    /// Make what is on the target unreadable as a file system: the record is gone with it.
    Erase(Part, String),
    /// Make the new file system.
    Format(Part, String, Format),
    /// Put a new table on the medium.
    Partition(String, Drawing),
    /// Make a file system that stays empty, for what is mounted there.
    Make(&'static str, String, Format),
    /// Copy an EFI system partition byte for byte, of this size: from, to.
    Efi(String, String, u64),
    /// Put boot code on the medium and mark what boots.
    Boot(String, Drawing),
    /// Copy the tree and unmount.
    Copy(Part, String, String, Consistency),
    /// Read the copy again from the medium.
    Verify(Part, String),
    /// Keep the partition tables of both slots' media.
    Tables(Tables),
    /// Write the record.
    Record(Part, String),
}

/// Where the partition tables are kept.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Tables {
    /// The media's nodes.
    pub media: Vec<String>,
    /// The device of the root's copy, where that is made.
    pub copy: Option<String>,
    /// `/config`, where it is a file system of its own and mounted read-write.
    pub config: Option<PathBuf>,
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Clear { mount, force } => write!(
                f,
                "unmount {} from {}{}",
                mount.source,
                mount.point.display(),
                if *force { ", by force" } else { "" }
            ),
            Self::MakePoint(path) => write!(f, "make the directory {}", path.display()),
            Self::Flags(medium, _, false) => {
                write!(f, "let only the running slot start from {medium} and flush")
            }
            Self::Flags(medium, _, true) => {
                write!(
                    f,
                    "let the copy start from {medium} where the running slot cannot, and flush"
                )
            }
            Self::Erase(part, device) => {
                write!(f, "erase the old copy of {} on {device} and flush", part.point())
            }
            Self::Format(_, device, format) => {
                write!(f, "make a file system on {device}: {}", format.fs.name())?;
                if let Some(label) = &format.label {
                    write!(f, ", label {label}")?;
                }
                if let Some(inodes) = format.inodes {
                    write!(f, ", {inodes} inodes")?;
                }
                Ok(())
            }
            Self::Partition(medium, drawing) => {
                let count = drawing.roles().count();
                write!(f, "put a new {} with {count} partitions on {medium}", drawing.scheme)
            }
            Self::Make(point, device, format) => {
                write!(f, "make a file system for {point} on {device}: {}", format.fs.name())
            }
            Self::Efi(from, to, _) => {
                write!(f, "copy the EFI system partition {from} to {to}, read it again and compare")
            }
            Self::Boot(medium, _) => write!(f, "make {medium} bootable"),
            Self::Copy(part, from, to, consistency) => {
                if *consistency == Consistency::Snapshot {
                    f.write_str("take a snapshot of the file system, ")?;
                }
                write!(f, "copy {} ({from}) to {} ({to}) and flush", part.point(), part.alternate())
            }
            Self::Verify(part, device) => {
                write!(f, "read the copy of {} on {device} again and compare", part.point())
            }
            Self::Tables(tables) => {
                let config = tables.config.as_ref().map(|point| point.display().to_string());
                let places: Vec<_> = tables.copy.iter().cloned().chain(config).collect();
                let (media, places) = (tables.media.join(", "), places.join(" and "));
                write!(f, "keep the partition tables of {media} on {places} and flush")
            }
            Self::Record(part, device) => {
                write!(f, "write the record of {} on {device} and flush", part.point())
            }
        }
    }
}

/// What the copy of one pair is to be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Choice {
    /// The file system that the target gets.
    pub format: Format,
    /// What makes the copy consistent.
    pub consistency: Consistency,
}

/// The steps of a snapshot with those around them that change boot flags: before the first byte of
/// the slot changes nothing may start it, and afterwards it is there to fall back on, where
/// `fall_back` says so. Only gptboot knows such a thing: the one active slice of an MBR is the
/// running one all the time.
pub fn with_flags(
    view: &View,
    layout: &Layout,
    fall_back: bool,
    mut steps: Vec<Step>,
) -> Vec<Step> {
    let selection = view.selection_of(layout);
    let gpt = |s: &Selection| s.table.scheme == Scheme::Gpt && s.is_started();
    let concerned = |s: &Selection| gpt(s) || layout.alternate().active;
    let Some(selection) = selection.filter(concerned) else { return steps };
    let (medium, number) = (view.node(selection.medium), 3 - layout.alternate().number);
    let before = selection.select(number, false);
    let after = selection.after(&before).select(number, fall_back);
    let first = steps.iter().position(|step| matches!(step, Step::Erase(..)));
    if !after.is_empty() {
        steps.push(Step::Flags(medium.clone(), after, true));
    }
    if !before.is_empty() {
        steps.insert(first.unwrap_or(0), Step::Flags(medium, before, false));
    }
    steps
}

/// The steps of a snapshot. `choices` has one entry per pair of `layout`, in its order; `points`
/// are the mount points that are missing; `tables` tells where partition tables are kept.
///
/// The records come last, after everything is verified, and the root's after the configuration's:
/// a slot is valid only as a whole.
pub fn snapshot(
    view: &View,
    layout: &Layout,
    obstacles: &[Obstacle],
    points: &[PathBuf],
    choices: &[Choice],
    tables: Tables,
    force: bool,
) -> Vec<Step> {
    let mut steps: Vec<Step> =
        obstacles.iter().map(|o| Step::Clear { mount: o.mount().clone(), force }).collect();
    steps.extend(points.iter().cloned().map(Step::MakePoint));
    // All formats first: the copy of fstab needs the identities of the new file systems.
    for (pair, choice) in layout.pairs.iter().zip(choices) {
        let (part, target) = (pair.part, view.node(pair.target));
        steps.push(Step::Erase(part, target.clone()));
        steps.push(Step::Format(part, target, choice.format.clone()));
    }
    for (pair, choice) in layout.pairs.iter().zip(choices) {
        let (part, target) = (pair.part, view.node(pair.target));
        let source = view.node(pair.source);
        steps.push(Step::Copy(part, source, target.clone(), choice.consistency.clone()));
        steps.push(Step::Verify(part, target));
    }
    if tables.copy.is_some() || tables.config.is_some() {
        steps.push(Step::Tables(tables));
    }
    for pair in layout.pairs.iter().rev() {
        steps.push(Step::Record(pair.part, view.node(pair.target)));
    }
    steps
}
