//! All that is looked at and refused before the first write of a snapshot.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsStr;
use std::path::PathBuf;

use super::erase::check_empty;
use super::repartition::{self, Repartition};
use super::source::Source;
use super::{Options, blocks, direction, preflight, renewal, rewrite};
use crate::device::Id;
use crate::error::{Context, Error, Result, if_there};
use crate::mounts::Mount;
use crate::mounts::stale::Obstacle;
use crate::ops::history::Diary;
use crate::ops::lock::{self, Observed};
use crate::ops::table::{self, save::Home};
use crate::ops::{Session, clear, flags, fsck, journal, observe, uncovered};
use crate::plan::consistency::{self, Wanted};
use crate::plan::{self, Method, Reading, Step, Way};
use crate::record::journal::{Auto, Journal};
use crate::slot::discover::{Layout, Purpose};
use crate::slot::names::is_identity;
use crate::slot::view::View;
use crate::slot::{Pair, Part};
use crate::sys::tree::Dir;
use crate::sys::{FsType, Lock, Os};

/// Bytes that the boot code and the tables of a new medium take at most, encoded: a boot partition
/// is half a MiB.
const ROOM: u64 = 1 << 20;

/// A run that may begin.
pub(super) struct Prepared<'a, O: Os> {
    /// One writer for each medium.
    pub(super) locks: Vec<Lock>,
    /// With a new table, as it will be.
    pub(super) view: View,
    pub(super) layout: Layout,
    /// The table that is to be made before.
    pub(super) partitioning: Option<Repartition>,
    pub(super) sources: Vec<Source<'a, O>>,
    /// The parts of which something is mounted.
    pub(super) cleared: BTreeSet<Part>,
    pub(super) steps: Vec<Step>,
}

/// Looks at everything, and plans.
///
/// # Errors
/// Every refusal. Nothing of a slot is written.
pub(super) fn prepare<'a, O: Os>(
    os: &'a O,
    session: &Session,
    options: &Options,
    diary: &Diary<'_, O>,
) -> Result<Prepared<'a, O>> {
    let Work { locks, view, layout, partitioning } = Work::new(os, session, options)?;
    let layout = chosen(&view, layout, options)?;
    let journal = diary.journal(&view, &layout)?;
    guard_trial(&view, &layout, &journal)?;
    if options.repair {
        guard_repair(&journal)?;
    }
    if partitioning.is_none() && !options.force && !options.repair {
        direction::guard(os, &view, &layout)?;
    }
    rewrite::files(os, &view, &uncovered::open(os, &view, &view.root)?, &layout, &BTreeMap::new())?;
    for entry in view.fstab.iter().filter(|e| rewrite::stays_behind(&view, &layout, e)) {
        let [spec, file] = [&entry.spec, &entry.file].map(|field| String::from_utf8_lossy(field));
        log::warn!("{file} ({spec}) has no counterpart there: a comment in the copy's fstab");
    }
    let obstacles = clear::find(os, &view, &layout.pairs, options.force)?;
    let points = missing_points(os, &view, &layout)?;
    let sources = layout
        .pairs
        .iter()
        .map(|pair| Source::open(os, &view, pair))
        .collect::<Result<Vec<_>>>()?;
    let room = if partitioning.is_some() {
        // What the medium has now does not matter, and may be damaged: it will have no more than
        // the running one.
        let running = table::save::collect_of(os, &view, view.running_medium())?.0;
        2 * running.encode().len() as u64 + ROOM
    } else {
        let now = table::save::collect(os, &view, &layout)?.0;
        table::save::guard_kept(os, &view, &layout, &now)?;
        now.encode().len() as u64
    };
    let choices = choices(os, session, &view, &layout, &sources, room, options)?;
    if partitioning.is_some() {
        Repartition::preflight(os, &view, &layout, &choices[0].format)?;
    }
    let tables = tables(os, &view, &layout, room)?;
    let steps =
        plan::snapshot(&view, &layout, &obstacles, &points, &choices, tables, options.force);
    let steps = match &partitioning {
        Some(table) => table.around(&view, &layout, &choices[0].format, steps),
        None => with_flags(&view, &layout, options.only, steps)?,
    };
    let cleared = cleared(&view, &layout, &obstacles);
    Ok(Prepared { locks, view, layout, partitioning, sources, cleared, steps })
}

/// What a run works on.
struct Work {
    locks: Vec<Lock>,
    view: View,
    layout: Layout,
    partitioning: Option<Repartition>,
}

impl Work {
    fn new<O: Os>(os: &O, session: &Session, options: &Options) -> Result<Self> {
        let Some(wanted) = &options.partition else {
            let check = |view: &View, layout: &Layout| view.guard(layout, options.force);
            let Observed { locks, view, layout, .. } =
                lock::observed(os, session, "snapshot", !options.dry_run, check)
                    .map_err(|error| way_out(os, session, error))?;
            return Ok(Self { locks, view, layout, partitioning: None });
        };
        if options.only == Some(Part::Config) {
            let cause = "a medium with new partitions and a copy of /config alone starts nothing";
            return Err(Error::refused(cause).hint("leave --config-partition out"));
        }
        let (locks, view, medium) = lock::medium(os, session, "snapshot", repartition::medium)?;
        if wanted.as_primary {
            view.guard_removable(medium, || os.usb_disks())?;
        }
        let (view, partitioning) = repartition::plan(&view, medium, wanted)?;
        let layout = view.discover()?;
        view.guard(&layout, false)?;
        Ok(Self { locks, view, layout, partitioning: Some(partitioning) })
    }
}

/// Adds that new partitions are a way out, where they are: only `snapshot` makes them.
fn way_out<O: Os>(os: &O, session: &Session, error: Error) -> Error {
    let still = |view: &View| view.discover().is_err_and(|now| now.cause == error.cause);
    match observe::view(os, session) {
        Ok(view) if view.may_be_partitioned() && still(&view) => {
            let anew = "--partition makes the partitions anew, and all that is on it is lost";
            let hint = match &error.hint {
                Some(first) => format!("{first}; {anew}"),
                None => anew.to_owned(),
            };
            error.hint(hint)
        }
        _ => error,
    }
}

/// A trial that runs has the known-good root for its other slot.
fn guard_trial(view: &View, layout: &Layout, journal: &Journal) -> Result<()> {
    let alternate = journal::place(view, layout.alternate());
    match &journal.trial {
        Some(trial) if trial.from == alternate => Err(Error::refused(format!(
            "{alternate} is where a trial that is not confirmed leads back to"
        ))
        .hint("dualroot confirm or dualroot reject ends the trial")),
        _ => Ok(()),
    }
}

/// Nobody has the locks between the journal and here.
fn guard_repair(journal: &Journal) -> Result<()> {
    let state = journal.auto_snapshot.as_ref().map(|auto| auto.state);
    if state == Some(Auto::InProgress) {
        return Ok(());
    }
    Err(Error::refused("a slot was chosen meanwhile: nothing is repaired"))
}

/// What must not start while it is written, and may once it is whole. Of a part that is copied alone
/// nobody knows here whether the slot is good with it: then the flags come back as they were.
fn with_flags(
    view: &View,
    layout: &Layout,
    only: Option<Part>,
    steps: Vec<Step>,
) -> Result<Vec<Step>> {
    let number = layout.alternate().number;
    let selection = view.selection_of(layout);
    let flagged = selection.as_ref().is_some_and(|s| s.is_flagged(number));
    let steps = plan::with_flags(view, layout, only.is_none() || flagged, steps);
    if let Some(selection) = selection
        && steps.iter().any(|step| matches!(step, Step::Flags(..)))
    {
        flags::guard(view, &selection)?;
        flags::guard_code(view, &selection, layout.running().number)?;
    }
    Ok(steps)
}

/// Where the partition tables are to be kept, `room` bytes of them.
fn tables<O: Os>(os: &O, view: &View, layout: &Layout, room: u64) -> Result<plan::Tables> {
    let copied = |pair: &&Pair| pair.part == Part::Root;
    let config = match table::save::home(view, layout) {
        Home::Writable(point) => {
            let free = os.usage(&point)?.free_bytes;
            // Beside the one that it replaces, and a block or two for its directory.
            let needed = room.saturating_add(64 << 10);
            if free < needed {
                let cause = format!(
                    "the partition tables do not fit {}: they need {needed} bytes, {free} are there",
                    point.display()
                );
                return Err(Error::refused(cause));
            }
            Some(point)
        }
        Home::ReadOnly(point) => {
            log::info!("{} is read-only: no partition tables are kept on it", point.display());
            None
        }
        Home::None => None,
    };
    let media = table::save::media(view, layout);
    Ok(plan::Tables {
        media: media.into_iter().map(|id| view.node(id)).collect(),
        copy: layout.pairs.iter().find(copied).map(|pair| view.node(pair.target)),
        config,
    })
}

/// What each pair's copy is to be, with `sources` in the order of the pairs. `room` is what the
/// partition tables take beside the root.
fn choices<O: Os>(
    os: &O,
    session: &Session,
    view: &View,
    layout: &Layout,
    sources: &[Source<'_, O>],
    room: u64,
    options: &Options,
) -> Result<Vec<plan::Choice>> {
    let snapshots = os.snapshots()?;
    let wanted = match view.config.file_system_snapshots {
        Some(false) => Wanted::Never,
        None if fsck::asks(os, view)? => Wanted::NotWhereFsckAsks,
        Some(true) | None => Wanted::Always,
    };
    let anew = options.fresh
        || options.repair
        || options.partition.is_some()
        || layout.purpose != Purpose::default();
    let by_blocks = options.method.best() == Method::Block;
    if by_blocks && (options.factory || options.partition.is_some()) {
        let cause = "--method block copies file systems as they are, to slices that are there";
        return Err(Error::refused(cause).hint("without --partition, --factory and --as-primary"));
    }
    let choice = |(pair, opened): (&Pair, &Source<'_, O>)| {
        let room = if pair.part == Part::Root { room } else { 0 };
        let format = if by_blocks {
            preflight::wanted(view, pair, layout.purpose)?
        } else {
            preflight::format(os, view, pair, opened, room, layout.purpose, &session.monitor)?
        };
        // What nobody has mounted is mounted by us, read-only.
        let point = pair.mounted.as_ref();
        let source = consistency::Source {
            fs: &pair.fs,
            read_only: point.is_none_or(|p| view.mount_at(p).is_some_and(|m| m.read_only)),
            superblock: view.superblocks.get(&pair.source),
            usage: opened.usage,
        };
        let consistency = consistency::choose(source, snapshots, wanted);
        if by_blocks {
            let how = (&consistency, wanted);
            let there = blocks::preflight(os, view, pair, opened, room, how)?;
            guard_identity(view, pair)?;
            let compare = there && !options.fresh;
            return Ok(plan::Choice { format, consistency, way: Way::Blocks, compare });
        }
        let way = if anew {
            Way::Anew
        } else {
            let trust = options.reading == Reading::Changed;
            renewal::way(os, view, pair, opened, &format, trust)?
        };
        if way == Way::Anew {
            guard_identity(view, pair)?;
        }
        Ok(plan::Choice { format, consistency, way, compare: false })
    };
    layout.pairs.iter().zip(sources).map(choice).collect()
}

/// The parts of which something was mounted.
fn cleared(view: &View, layout: &Layout, obstacles: &[Obstacle]) -> BTreeSet<Part> {
    let concerns = |pair: &Pair, mount: &Mount| {
        view.provider_of(mount) == Some(pair.target)
            || mount.point == view.below(pair.part.alternate())
    };
    let any = |pair: &&Pair| obstacles.iter().any(|o| concerns(pair, o.mount()));
    layout.pairs.iter().filter(any).map(|pair| pair.part).collect()
}

/// Leaves only the part that was asked for, and says what it is for.
pub(super) fn chosen(view: &View, mut layout: Layout, options: &Options) -> Result<Layout> {
    let as_primary = options.partition.is_some_and(|p| p.as_primary);
    layout.purpose = Purpose { factory: options.factory, as_primary };
    let Some(part) = options.only else { return Ok(layout) };
    (layout.pairs, layout.others) = layout.pairs.into_iter().partition(|p| p.part == part);
    let Some(pair) = layout.pairs.first() else {
        return Err(Error::refused(format!("{} has no second partition", part.point())));
    };
    // The root's copy is left as it is.
    if let Some(spec) = known_by_identity(view, pair) {
        let cause = format!("fstab names {spec}, and a new file system gets a new identity");
        return Err(Error::refused(cause)
            .hint("copy both parts, or name it by its label or device in fstab"));
    }
    Ok(layout)
}

/// Refuses where the running slot knows a copy by the identity of its file system: made anew, it has
/// another one, and nobody finds it any more.
pub(super) fn guard_identity(view: &View, pair: &Pair) -> Result<()> {
    let Some(spec) = identity_of(view, pair, pair.target) else { return Ok(()) };
    let cause = format!("its name {spec} would go with the file system that it has");
    let hint = "name it by its label or its device, in fstab and in dualroot.conf";
    Err(Error::refused(cause).path(view.node(pair.target)).hint(hint))
}

/// The name by which the root's copy knows a configuration, and which that would lose if it was made
/// anew.
pub(super) fn known_by_identity(view: &View, pair: &Pair) -> Option<String> {
    let of = |partition| identity_of(view, pair, partition);
    (pair.part == Part::Config).then(|| of(pair.source).or_else(|| of(pair.target)))?
}

/// The identity by which fstab or the configuration file names this partition of the pair. Only
/// newfs(8) always gives a new one.
fn identity_of(view: &View, pair: &Pair, partition: Id) -> Option<String> {
    if pair.fs != FsType::Ufs2.name() {
        return None;
    }
    let slots = [&view.config.root.slots, &view.config.config.slots];
    let configured = slots.into_iter().flatten().flatten().map(String::as_bytes);
    let mut names = view.fstab.iter().map(|entry| entry.spec.as_slice()).chain(configured);
    let bears = |name: &&[u8]| is_identity(name) && view.find(name) == Some(partition);
    names.find(bears).map(|name| String::from_utf8_lossy(name).into_owned())
}

/// The mount points that are to be made.
fn missing_points<O: Os>(os: &O, view: &View, layout: &Layout) -> Result<Vec<PathBuf>> {
    let root = os.open_dir(&view.root)?;
    let mut missing = Vec::new();
    for pair in &layout.pairs {
        let name = pair.part.alternate().trim_start_matches('/');
        let there = if_there(root.stat(OsStr::new(name)));
        let kind = there.doing_to("reading", view.root.join(name))?.map(|meta| meta.kind);
        view.guard_point(pair.part, kind)?;
        // What is mounted there hides it: then it is looked at once that is cleared.
        let point = view.below(pair.part.alternate());
        if kind.is_some() && view.mount_at(&point).is_none() {
            check_empty(os, &point, pair.part)?;
        }
        if kind.is_none() {
            let read_only = view.mount_at(&view.root).is_some_and(|m| m.read_only);
            if read_only {
                return Err(Error::refused(format!(
                    "{} is missing, and {} is read-only",
                    pair.part.alternate(),
                    view.root.display()
                ))
                .hint("make the directory once, with the root mounted read-write"));
            }
            missing.push(view.root.join(name));
        }
    }
    Ok(missing)
}
