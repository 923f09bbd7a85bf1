//! `dualroot table check`.

use jiff::Timestamp;
use serde::Serialize;

use super::{Choice, file, find, read_pieces, save};
use crate::error::{Error, Kind, Result};
use crate::ops::{Session, observe};
use crate::slot::view::View;
use crate::sys::Os;
use crate::table::saved::compare::{Change, compare};
use crate::table::saved::{Medium, What};

/// What a comparison found.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Report {
    /// Version of this shape.
    pub schema: u32,
    /// The file that was compared with.
    pub file: String,
    /// When it was made.
    pub saved: Timestamp,
    /// The media that were compared, by their names now.
    pub media: Vec<String>,
    /// Structures compared.
    pub pieces: usize,
    /// All that is not as it was.
    pub differences: Vec<Difference>,
}

/// One difference.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Difference {
    /// `da0`
    pub medium: String,
    /// Which structure, in words.
    pub what: String,
    /// Its kind as the file spells it; `null` where it is about the whole medium.
    pub kind: Option<What>,
    /// The slice, partition or logical slice that it belongs to.
    pub index: Option<u32>,
    /// First byte of the medium that differs.
    pub offset: Option<u64>,
    /// What is wrong.
    pub problem: String,
    /// What repairs it.
    pub repair: Option<String>,
}

impl Difference {
    fn of_medium(medium: &str, problem: String) -> Self {
        Self {
            medium: medium.to_owned(),
            what: "medium".to_owned(),
            kind: None,
            index: None,
            offset: None,
            problem,
            repair: None,
        }
    }

    fn new(medium: &str, change: &Change<'_>) -> Self {
        let problem = if change.zeros { "it is all zeros" } else { "it is not as it was kept" };
        let repair = if change.recoverable {
            format!("gpart recover {medium}, or dualroot table restore")
        } else {
            "dualroot table restore".to_owned()
        };
        Self {
            medium: medium.to_owned(),
            what: change.piece.to_string(),
            kind: Some(change.piece.what),
            index: change.piece.index,
            offset: Some(change.offset),
            problem: problem.to_owned(),
            repair: Some(repair),
        }
    }
}

/// Compares the media with what was kept. Never waits and changes nothing.
///
/// # Errors
/// There is no file to compare with (exit 3); a medium cannot be read. Differences are no error
/// here: they are in the report.
pub fn run<O: Os>(os: &O, session: &Session, choice: Choice<'_>) -> Result<Report> {
    let view = observe::view(os, session)?;
    let (path, saved) = file::locate(os, &view, choice.file, Kind::Problems)?;
    let mut report = Report {
        schema: 1,
        file: path.to_string_lossy().into_owned(),
        saved: saved.created,
        media: Vec::new(),
        pieces: 0,
        differences: Vec::new(),
    };
    for (kept, found) in chosen(os, &view, &saved.media, choice)? {
        match found {
            Ok(id) => {
                let name = &view.devices.get(id).name;
                let now = read_pieces(os, &view, id, kept)?;
                report.pieces += now.len();
                report.media.push(name.clone());
                let changes = compare(kept, &now);
                report.differences.extend(changes.iter().map(|c| Difference::new(name, c)));
            }
            Err(why) => report.differences.push(Difference::of_medium(&kept.name, why)),
        }
    }
    if choice.medium.is_none()
        && choice.file.is_none()
        && let Ok(layout) = view.discover()
    {
        for id in save::media(&view, &layout) {
            let name = &view.devices.get(id).name;
            let told = |d: &Difference| d.medium == *name;
            if !report.media.contains(name) && !report.differences.iter().any(told) {
                let why = "its tables were never kept".to_owned();
                report.differences.push(Difference::of_medium(name, why));
            }
        }
    }
    Ok(report)
}

/// What was kept of each medium, and which one that is.
pub(super) type Found<'a> = (&'a Medium, std::result::Result<crate::device::Id, String>);

/// The media that were asked for.
///
/// # Errors
/// `--medium` names nothing (exit 2), or nothing that was kept is that medium (exit 6).
pub(super) fn chosen<'a, O: Os>(
    os: &O,
    view: &View,
    kept: &'a [Medium],
    choice: Choice<'_>,
) -> Result<Vec<Found<'a>>> {
    let Some(name) = choice.medium else {
        return Ok(kept.iter().map(|m| (m, find(os, view, m, None))).collect());
    };
    let is_disk =
        |id: &crate::device::Id| matches!(view.devices.get(*id).class, crate::device::Class::Disk);
    let id = view.devices.find(std::path::Path::new(name)).filter(is_disk).ok_or_else(|| {
        Error::new(Kind::Usage, "", format!("{name} is no medium"))
            .hint("a whole disk by its name: da0")
    })?;
    let mut why = Vec::new();
    for medium in kept {
        match find(os, view, medium, Some(id)) {
            Ok(id) => return Ok(vec![(medium, Ok(id))]),
            Err(reason) => why.push(reason),
        }
    }
    why.dedup();
    Err(Error::refused(format!("{name} is not in the file: {}", why.join("; "))))
}
