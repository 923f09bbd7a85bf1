//! A run as a list of steps, each with a sentence: what `-n` prints and the log repeats. Pure.

pub mod consistency;
pub mod partition;
pub mod size;

use std::fmt;
use std::path::PathBuf;

use jiff::Timestamp;

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
    /// Remove the record of a copy that is brought up to date.
    Revoke(Part, String),
    /// Take a snapshot of a file system in use, whose blocks are to be copied.
    Freeze(Part, String),
    /// Make the new file system.
    Format(Part, String, Format),
    /// Copy the blocks of the source's file system, and prove them.
    Blocks(Box<Blocks>),
    /// Make what was copied by its blocks one of its own: what is not to be copied goes, what names
    /// the slot is rewritten.
    Settle(Part, String, Consistency),
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
    /// Bring an older copy up to date and unmount.
    Refresh(Box<Refresh>),
    /// Read the copy again from the medium.
    Verify(Verify),
    /// Keep the partition tables of both slots' media.
    Tables(Tables),
    /// Write the record.
    Record(Part, String),
}

/// An older copy and what brings it up to date.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refresh {
    /// Which file system.
    pub part: Part,
    /// The device that is copied.
    pub source: String,
    /// The device that holds the copy.
    pub target: String,
    /// What makes the copy consistent.
    pub consistency: Consistency,
    /// The file system that it gets where there is no room for the new beside the old.
    pub format: Format,
    /// When the copy was made, where that is to tell what has not changed since.
    pub since: Option<Since>,
}

/// A file system whose blocks are copied.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Blocks {
    /// Which one.
    pub part: Part,
    /// The device that is copied.
    pub source: String,
    /// The device that gets the copy.
    pub target: String,
    /// What the copy is known by.
    pub format: Format,
    /// Whether what is on the target is read first, and only what is another is written.
    pub compare: bool,
}

/// When an older copy was made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Since {
    /// When the copying of it began.
    pub created: Timestamp,
    /// When it was found to be equal.
    pub verified: Timestamp,
}

/// A copy that is read again.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Verify {
    /// Which file system.
    pub part: Part,
    /// The device that holds the copy.
    pub device: String,
    /// What makes it consistent, where some of it has to be copied once more.
    pub consistency: Consistency,
    /// How much of it is read.
    pub reading: Reading,
}

/// How much of an older copy, and of its source, is read.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Reading {
    /// All of it.
    #[default]
    Full,
    /// What was touched since it was made.
    Changed,
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
            Self::Revoke(part, device) => {
                write!(f, "remove the record of the copy of {} on {device} and flush", part.point())
            }
            Self::Freeze(part, device) => {
                write!(f, "take a snapshot of the file system of {} ({device})", part.point())
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
            Self::Blocks(blocks) => {
                let Blocks { part, source, target, format, compare, .. } = &**blocks;
                let what = if *compare { "the blocks that differ" } else { "the blocks in use" };
                let point = part.point();
                write!(f, "copy {what} of {point} ({source}) to {target} and flush, ")?;
                f.write_str("read them again and compare")?;
                match &format.label {
                    Some(label) => write!(f, "; label {label}"),
                    None => Ok(()),
                }
            }
            Self::Settle(part, device, _) => {
                let point = part.point();
                write!(f, "make the copy of {point} on {device} one of its own and flush")
            }
            Self::Partition(medium, drawing) => {
                let (scheme, count) = (drawing.scheme, drawing.roles().count());
                write!(f, "put a new {scheme} with {count} partitions on {medium}: ")?;
                f.write_str("all that is on it is lost")
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
            Self::Refresh(refresh) => {
                let Refresh { part, source, target, consistency, .. } = &**refresh;
                if *consistency == Consistency::Snapshot {
                    f.write_str("take a snapshot of the file system, ")?;
                }
                let (point, to) = (part.point(), part.alternate());
                write!(f, "bring {to} ({target}) up to date with {point} ({source}) and flush")
            }
            Self::Verify(Verify { part, device, reading, .. }) => {
                let what = match reading {
                    Reading::Full => "the copy",
                    Reading::Changed => "what was written to the copy",
                };
                write!(f, "read {what} of {} on {device} again and compare", part.point())
            }
            Self::Tables(tables) => {
                let config = tables.config.as_ref().map(|point| point.display().to_string());
                let places: Vec<_> = tables.copy.iter().cloned().chain(config).collect();
                let (media, places) = (tables.media.join(", "), places.join(" and "));
                write!(f, "keep the partition tables of {media} on {places}")
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
    /// Whether what is there is brought up to date.
    pub way: Way,
    /// As [`Blocks::compare`].
    pub compare: bool,
}

/// How a copy is made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Way {
    /// Into a new file system.
    Anew,
    /// Over an older copy; made then, where that is to tell what has not changed.
    Refresh(Option<Since>),
    /// By the blocks of the file system.
    Blocks,
}

impl Way {
    /// As a record has it.
    pub fn method(self) -> &'static str {
        match self {
            Self::Anew | Self::Refresh(_) => "tree",
            Self::Blocks => "block",
        }
    }
}

/// How the user wants copies to be made.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Method {
    /// The best there is: [`Method::best`].
    #[default]
    Auto,
    /// File by file.
    Tree,
    /// By the blocks of the file system.
    Block,
}

impl Method {
    /// What is meant by the best there is: file by file, as long as blocks are not measured to be
    /// faster with all that has to follow them.
    #[must_use]
    pub fn best(self) -> Self {
        if self == Self::Auto { Self::Tree } else { self }
    }
}

/// The steps of a snapshot with those around them that change boot flags: before the first byte of
/// the slot changes nothing may start it, and afterwards it is there to fall back on, where
/// `fall_back` says so. Only gptboot knows such a thing: the one active slice of an MBR is the
/// running one all the time. One without any starts nothing, and is left as it is: its machine is
/// started by other means.
pub fn with_flags(
    view: &View,
    layout: &Layout,
    fall_back: bool,
    mut steps: Vec<Step>,
) -> Vec<Step> {
    let selection = view.selection_of(layout);
    let gpt = |s: &Selection| s.table.scheme == Scheme::Gpt && s.is_started();
    let concerned = |s: &Selection| gpt(s) || layout.alternate().active || view.stray(s).is_some();
    let Some(selection) = selection.filter(concerned) else { return steps };
    let (medium, number) = (view.node(selection.medium), layout.running().number);
    let before = selection.select(number, false);
    let after = selection.after(&before).select(number, fall_back);
    let first = steps.iter().position(|step| matches!(step, Step::Erase(..) | Step::Revoke(..)));
    if !after.is_empty() {
        steps.push(Step::Flags(medium.clone(), after, true));
    }
    if !before.is_empty() || view.has_half_flags(selection.medium) {
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
    // Whether there can be one is known only then: before anything of a copy is erased.
    for (pair, choice) in layout.pairs.iter().zip(choices) {
        if choice.way == Way::Blocks && choice.consistency == Consistency::Snapshot {
            steps.push(Step::Freeze(pair.part, view.node(pair.source)));
        }
    }
    // All formats first: the copy of fstab needs the identities of the new file systems.
    for (pair, choice) in layout.pairs.iter().zip(choices) {
        let (part, target) = (pair.part, view.node(pair.target));
        if let Way::Refresh(_) = choice.way {
            steps.push(Step::Revoke(part, target));
            continue;
        }
        steps.push(Step::Erase(part, target.clone()));
        let format = choice.format.clone();
        steps.push(match choice.way {
            Way::Blocks => {
                let (source, compare) = (view.node(pair.source), choice.compare);
                Step::Blocks(Box::new(Blocks { part, source, target, format, compare }))
            }
            _ => Step::Format(part, target, format),
        });
    }
    for (pair, choice) in layout.pairs.iter().zip(choices) {
        let (part, target) = (pair.part, view.node(pair.target));
        let source = view.node(pair.source);
        let (consistency, format) = (choice.consistency.clone(), choice.format.clone());
        let mut reading = Reading::Full;
        steps.push(match choice.way {
            Way::Anew => Step::Copy(part, source, target.clone(), consistency.clone()),
            Way::Blocks => Step::Settle(part, target.clone(), consistency.clone()),
            Way::Refresh(since) => {
                if since.is_some() {
                    reading = Reading::Changed;
                }
                let (target, consistency) = (target.clone(), consistency.clone());
                let refresh = Refresh { part, source, target, consistency, format, since };
                Step::Refresh(Box::new(refresh))
            }
        });
        steps.push(Step::Verify(Verify { part, device: target, consistency, reading }));
    }
    if tables.copy.is_some() || tables.config.is_some() {
        steps.push(Step::Tables(tables));
    }
    for pair in layout.pairs.iter().rev() {
        steps.push(Step::Record(pair.part, view.node(pair.target)));
    }
    steps
}
