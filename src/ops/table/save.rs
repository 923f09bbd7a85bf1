//! `dualroot table save`.

use std::path::PathBuf;

use jiff::Timestamp;
use serde::Serialize;

use super::{file, find};
use crate::device::Id;
use crate::error::{During, Error, Kind, Result};
use crate::ops::lock::{self, Observed};
use crate::ops::mounted::{Mounted, write_and_read};
use crate::ops::observe::DeviceReader;
use crate::ops::{Session, clear, permitted, record};
use crate::record::{DIR, TABLES, TOOL};
use crate::slot::discover::Layout;
use crate::slot::view::View;
use crate::slot::{Part, State};
use crate::sys::Os;
use crate::table::Failure;
use crate::table::saved::{Medium, Saved, capture};

/// What was kept.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Report {
    /// Version of this shape.
    pub schema: u32,
    /// Where the file is now.
    pub files: Vec<String>,
    /// Its bytes.
    pub bytes: u64,
    /// The media in it.
    pub media: Vec<MediumReport>,
    /// Places that did not get it, and why.
    pub left_out: Vec<String>,
}

/// One medium.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct MediumReport {
    /// `da0`
    pub medium: String,
    /// `MBR`, `GPT` or `BSD`; none without a table.
    pub scheme: Option<&'static str>,
    /// How many structures of it.
    pub pieces: usize,
    /// What of it is not kept.
    pub notes: Vec<String>,
}

/// The media of both slots, in the order of their names.
pub(in super::super) fn media(view: &View, layout: &Layout) -> Vec<Id> {
    let pairs = layout.pairs.iter().chain(&layout.others);
    let mut ids: Vec<Id> = pairs
        .flat_map(|pair| [pair.source, pair.target])
        .chain(layout.shared_config)
        .filter_map(|id| view.devices.medium(id))
        .collect();
    ids.sort_by_key(|&id| view.devices.get(id).name.clone());
    ids.dedup();
    ids
}

/// Looks at the media of both slots.
///
/// # Errors
/// A medium cannot be read; or its table is damaged, or gone (exit 6): what is kept already is better.
pub(in super::super) fn collect<O: Os>(
    os: &O,
    view: &View,
    layout: &Layout,
) -> Result<(Saved, Vec<MediumReport>)> {
    collect_of(os, view, self::media(view, layout))
}

/// The same for these media.
pub(in super::super) fn collect_of<O: Os>(
    os: &O,
    view: &View,
    ids: impl IntoIterator<Item = Id>,
) -> Result<(Saved, Vec<MediumReport>)> {
    let (mut media, mut reports) = (Vec::new(), Vec::new());
    for id in ids {
        let looked = look(os, view, id).and_then(|found| {
            // Of a table that is gone nothing but the kernel knows.
            view.guard_tables(id)?;
            Ok(found)
        });
        let (medium, notes) = looked.during(keeping(view, id))?;
        reports.push(MediumReport {
            medium: medium.name.clone(),
            scheme: medium.scheme.map(crate::table::Scheme::name),
            pieces: medium.pieces.len(),
            notes,
        });
        media.push(medium);
    }
    let tool = TOOL.to_owned();
    Ok((Saved { tool, created: Timestamp::now(), media }, reports))
}

fn keeping(view: &View, id: Id) -> String {
    format!("keeping the tables of {}", view.node(id))
}

/// Refuses where what was kept has a table of a medium, or a label of one of its slices, that is not
/// there any more: what the kernel has not seen go, it does not miss.
///
/// # Errors
/// Refused, with what is gone.
pub(in super::super) fn guard_kept<O: Os>(
    os: &O,
    view: &View,
    layout: &Layout,
    now: &Saved,
) -> Result<()> {
    let Some(kept) = file::kept(os, view, layout)? else { return Ok(()) };
    for (id, now) in self::media(view, layout).into_iter().zip(&now.media) {
        for kept in &kept.media {
            if let Some(what) = kept.lost(now)
                && find(os, view, kept, Some(id)).is_ok()
            {
                let error = Error::refused(format!("the {what} that was kept of it is gone"));
                return Err(error.hint(GONE).during(keeping(view, id)));
            }
        }
    }
    Ok(())
}

const GONE: &str = "dualroot table restore writes it back; where a label was taken away on purpose, \
    delete its slice or give it another type";

fn look<O: Os>(os: &O, view: &View, id: Id) -> Result<(Medium, Vec<String>)> {
    let provider = view.devices.get(id);
    let device = provider.path();
    os.refresh(&device)?;
    let mut reader = DeviceReader::new(os, &device);
    let found = capture::capture(&mut reader, provider.size, provider.sector).map_err(|e| {
        let damaged = matches!(e, Failure::Fault(_));
        let error = Error::from(e);
        // What was kept before is better than anything that could be learned from it.
        let hint = "repair it: dualroot table check tells what differs, table restore writes it";
        if damaged { error.kind(Kind::Refused).hint(hint) } else { error }
    })?;
    let medium = Medium {
        name: provider.name.clone(),
        ident: os.ident(&device)?,
        size: provider.size,
        sector: provider.sector,
        scheme: found.scheme,
        disk_id: found.disk_id,
        file_systems: found.file_systems,
        pieces: found.pieces,
    };
    Ok((medium, found.notes))
}

/// What `/config` can do for the file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in super::super) enum Home {
    /// It is a file system of its own, mounted read-write there.
    Writable(PathBuf),
    /// It is mounted read-only, and left alone.
    ReadOnly(PathBuf),
    /// It is part of the root, in memory, or not mounted.
    None,
}

/// What `/config` is in this layout.
pub(in super::super) fn home(view: &View, layout: &Layout) -> Home {
    let pairs = layout.pairs.iter().chain(&layout.others);
    let own = layout.shared_config.is_some()
        || pairs.into_iter().any(|p| p.part == Part::Config && p.mounted.is_some());
    let point = view.below(Part::Config.point());
    match view.mount_at(&point).filter(|_| own) {
        None => Home::None,
        Some(mount) if mount.read_only => Home::ReadOnly(point),
        Some(_) => Home::Writable(point),
    }
}

/// Keeps the tables of the media of both slots on `/config` and on the copy.
///
/// # Errors
/// A medium cannot be read; its table is damaged, or a table or label is gone that was kept (exit 6);
/// there is no place for the file (exit 6); it cannot be written.
pub fn run<O: Os>(os: &O, session: &Session) -> Result<Report> {
    permitted(os)?;
    let Observed { locks: _locks, view, layout, .. } =
        lock::observed(os, session, "table save", true, |_, _| Ok(()))?;
    let (saved, media) = collect(os, &view, &layout)?;
    guard_kept(os, &view, &layout, &saved)?;
    let content = saved.encode();
    let (mut files, mut left_out) = (Vec::new(), Vec::new());
    let copy = copy_to_write(os, &view, &layout)?;
    let home = home(&view, &layout);
    if let (Err(why), Home::None | Home::ReadOnly(_)) = (&copy, &home) {
        let cause = format!(
            "no place for the partition tables: {why}, and no /config of its own is mounted read-write"
        );
        return Err(Error::refused(cause).hint("take a snapshot first, or mount /config"));
    }
    match copy {
        Ok(device) => {
            let fs = &layout.root().fs;
            let mount = |access| Mounted::aside(os, &device, fs, "tables", access);
            let write = |root: &O::Dir| file::put(root, &content);
            write_and_read(os, &device, mount, write, |root| file::check(root, &content))
                .during(format!("keeping the tables on {}", device.display()))?;
            files.push(file::on(&device).to_string_lossy().into_owned());
        }
        Err(why) => left_out.push(why),
    }
    match home {
        Home::Writable(point) => {
            file::put(&os.open_dir(&point)?, &content)
                .during(format!("keeping the tables on {}", point.display()))?;
            files.push(point.join(DIR).join(TABLES).to_string_lossy().into_owned());
        }
        Home::ReadOnly(point) => left_out.push(format!("{} is read-only", point.display())),
        Home::None => left_out.push("there is no /config of its own".to_owned()),
    }
    Ok(Report { schema: 1, files, bytes: content.len() as u64, media, left_out })
}

/// The device of the copy, where it is a valid one; why not, otherwise. Stale mounts of it are
/// cleared.
fn copy_to_write<O: Os>(
    os: &O,
    view: &View,
    layout: &Layout,
) -> Result<std::result::Result<PathBuf, String>> {
    let pair = layout.root();
    let node = view.node(pair.target);
    clear::gently(os, view, std::slice::from_ref(pair))?;
    if view.superblocks.get(&pair.target).is_none_or(|s| s.fs.name() != pair.fs) {
        return Ok(Err(format!("{node} holds no copy")));
    }
    let device = view.devices.get(pair.target).path();
    let mounted = Mounted::private(os, &device, &pair.fs, "tables")?;
    let state = record::read(&mounted.open()?).state;
    mounted.unmount()?;
    Ok(match state {
        State::Valid => Ok(device),
        state => Err(format!("the copy on {node} is {}", state.name())),
    })
}
