//! `dualroot snapshot`: copy the pairs, verify, record.

mod blocks;
mod copied;
mod copying;
mod direction;
mod draft;
mod erase;
mod execute;
pub(super) mod frozen;
mod preflight;
mod raw;
mod read_back;
mod recording;
mod renewal;
pub mod repartition;
pub(super) mod rewrite;
mod run;
mod source;

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsStr;
use std::path::PathBuf;
use std::time::Instant;

use serde::Serialize;

use self::erase::check_empty;
use self::execute::PairReport;
use self::repartition::Repartition;
use self::run::Run;
use self::source::Source;
use crate::copy::progress::interrupted;
use crate::device::Id;
use crate::error::{Context, Error, Result, if_there};
use crate::mounts::Mount;
use crate::mounts::stale::Obstacle;
use crate::ops::history::{self, Diary};
use crate::ops::table::save::Home;
use crate::ops::table::{self};
use crate::ops::{Session, arrival, clear, flags, fsck, journal, lock};
use crate::plan::consistency::{self, Wanted};
use crate::plan::{self, Method, Reading, Step, Way};
use crate::record::journal::{Auto, Journal};
use crate::slot::discover::{Layout, Purpose};
use crate::slot::names::is_identity;
use crate::slot::view::View;
use crate::slot::{Pair, Part, fstab};
use crate::sys::tree::Dir;
use crate::sys::{FsType, Os};

/// The command line's choices.
#[derive(Clone, Copy, Debug, Default)]
#[allow(clippy::struct_excessive_bools)] // independent switches
pub struct Options {
    /// Put a new table on the medium first.
    pub partition: Option<repartition::Options>,
    /// Clear busy and foreign mounts by force; copy over a slot that was meant to run, or is newer.
    pub force: bool,
    /// It is known that the alternate slot is broken.
    pub repair: bool,
    /// Only tell what would be done.
    pub dry_run: bool,
    /// Copy only this part.
    pub only: Option<Part>,
    /// Copy only what the box left the factory with, and the rescue configuration.
    pub factory: bool,
    /// Make new file systems, whatever is there.
    pub fresh: bool,
    /// Of a copy that is there: how much is read.
    pub reading: Reading,
    /// How copies are made.
    pub method: Method,
}

/// What was done.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Report {
    /// Version of this shape.
    pub schema: u32,
    /// The file systems archived: `/`, `/config`.
    pub archived: Vec<&'static str>,
    /// Each pair.
    pub pairs: Vec<PairReport>,
    /// The new table, where one was made.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub partitions: Vec<repartition::Row>,
    /// Wall time of the whole.
    pub seconds: f64,
    /// `/config` where both slots use the same one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub shared: Option<String>,
}

/// What comes of a call.
#[derive(Debug)]
pub enum Outcome {
    /// The plan, with `dry_run`.
    Planned(Vec<Step>),
    /// It was done.
    Done(Report),
}

/// Runs a snapshot. `say` gets the result's lines as they come, in Junos's words.
///
/// # Errors
/// See the exit codes. After the first write an error leaves the slot without a record.
pub fn run<O: Os>(
    os: &O,
    session: &Session,
    options: Options,
    say: &mut dyn FnMut(&str),
) -> Result<Outcome> {
    let outcome = history::told(os, "snapshot", |diary| attempt(os, session, options, say, diary))?;
    if matches!(outcome, Outcome::Done(_))
        && let Err(error) = arrival::settle(os, session)
    {
        log::warn!("{error}");
    }
    Ok(outcome)
}

fn attempt<O: Os>(
    os: &O,
    session: &Session,
    options: Options,
    say: &mut dyn FnMut(&str),
    diary: &mut Diary<'_, O>,
) -> Result<Outcome> {
    let begun = Instant::now();
    if let Some(reason) = os.forbids()? {
        return Err(Error::refused(reason));
    }
    let sweep = !options.dry_run;
    let (_locks, work) = match &options.partition {
        None => {
            let check = |view: &View, layout: &Layout| view.guard(layout, options.force);
            let observed = lock::observed(os, session, "snapshot", sweep, check)?;
            (
                observed.locks,
                Work { view: observed.view, layout: observed.layout, partitioning: None },
            )
        }
        Some(wanted) => {
            let (locks, view, medium) = lock::medium(os, session, "snapshot", repartition::medium)?;
            if wanted.as_primary {
                view.guard_removable(medium, || os.usb_disks())?;
            }
            (locks, Work::on_new_table(&view, medium, wanted)?)
        }
    };
    let Work { view, layout, partitioning } = work;
    let layout = chosen(&view, layout, &options)?;
    guard_trial(&view, &layout, &diary.journal(&view, &layout)?)?;
    if partitioning.is_none() && !options.force && !options.repair {
        direction::guard(os, &view, &layout)?;
    }
    rewrite::files(os, &view, &view.root, &layout, &BTreeMap::new())?;
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
        table::save::collect(os, &view, &layout)?.0.encode().len() as u64
    };
    let choices = choices(os, session, &view, &layout, &sources, room, &options)?;
    let tables = tables(os, &view, &layout, room)?;
    let steps =
        plan::snapshot(&view, &layout, &obstacles, &points, &choices, tables, options.force);
    let steps = match &partitioning {
        Some(table) => table.around(&view, &layout, &choices[0].format, steps),
        None => with_flags(&view, &layout, options.only, steps)?,
    };
    if options.dry_run {
        return Ok(Outcome::Planned(steps));
    }
    let cleared = cleared(&view, &layout, &obstacles);
    begin(diary, &view, &layout)?;
    let (view, layout) = match &partitioning {
        Some(table) => {
            let (view, found) = table.execute(os, session, (&view, &layout), say)?;
            let layout = chosen(&view, found, &options)?;
            (view, layout)
        }
        None => (view, layout),
    };
    let mut run = Run::new(os, session, &view, &layout, say, sources, cleared);
    for step in &steps {
        log::info!("{step}");
        if let Some(signal) = session.monitor.stopped() {
            return Err(interrupted(signal));
        }
        let done = run.execute(step);
        // A signal also ends the programs that we run: say what it was, not what they said.
        done.map_err(|e| session.monitor.stopped().map_or(e, interrupted))?;
    }
    let pairs = run.finish()?;
    // What could not be repaired at boot is replaced.
    if options.only.is_none()
        && let Err(error) = diary.note(|journal| {
            journal.auto_snapshot.take_if(|auto| auto.state == Auto::Failed);
        })
    {
        log::warn!("{error}");
    }
    if let (true, Some(now)) = (layout.purpose.as_primary, view.elsewhere()) {
        let then = view.running_medium().map_or_else(String::new, |id| view.node(id));
        log::warn!("{} calls itself {then}: let no system start with both of them", view.node(now));
    }
    Ok(Outcome::Done(Report {
        schema: 1,
        archived: pairs.iter().map(|p| p.source).collect(),
        pairs,
        partitions: partitioning.map_or_else(Vec::new, |table| table.rows),
        seconds: begun.elapsed().as_secs_f64(),
        shared: layout.shared_config.map(|id| view.node(id)),
    }))
}

/// A trial that runs has the known-good root for its other slot.
fn guard_trial(view: &View, layout: &Layout, journal: &Journal) -> Result<()> {
    let alternate = journal::place(view, layout.alternate());
    match &journal.trial {
        Some(trial) if trial.from == alternate => Err(Error::refused(format!(
            "slot {} ({}) is where a trial that is not confirmed leads back to",
            alternate.slot, alternate.device
        ))
        .hint("dualroot confirm or dualroot reject ends the trial")),
        _ => Ok(()),
    }
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
    }
    Ok(steps)
}

/// Writes down that the other slot is being written: what was known of it is true no more.
fn begin<O: Os>(diary: &mut Diary<'_, O>, view: &View, layout: &Layout) -> Result<()> {
    let Pair { source, target, .. } = *layout.root();
    let [running, written] = [3 - layout.alternate().number, layout.alternate().number]
        .map(|number| journal::place(view, &layout.slots[usize::from(number == 2)]));
    let change = |journal: &mut Journal| {
        journal.proven.retain(|place| place.slot != written.slot);
        journal.trial.take_if(|trial| trial.slot == written);
        journal.intended.get_or_insert(running);
    };
    match diary.begin(view, layout, (view.node(source), view.node(target)), change) {
        Err(e) if history::is_only_lost(&e) => {}
        done => done?,
    }
    Ok(())
}

/// Bytes that the boot code and the tables of a new medium take at most, encoded: a boot partition
/// is half a MiB.
const ROOM: u64 = 1 << 20;

/// What a run works on.
struct Work {
    view: View,
    layout: Layout,
    /// The table that is to be made before; view and layout are then as they will be.
    partitioning: Option<Repartition>,
}

impl Work {
    fn on_new_table(view: &View, medium: Id, wanted: &repartition::Options) -> Result<Self> {
        let (future, partitioning) = repartition::plan(view, medium, wanted)?;
        let layout = future.discover()?;
        future.guard(&layout, false)?;
        Ok(Self { view: future, layout, partitioning: Some(partitioning) })
    }
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
            let compare = there && !options.fresh;
            return Ok(plan::Choice { format, consistency, way: Way::Blocks, compare });
        }
        let way = if anew {
            Way::Anew
        } else {
            let trust = options.reading == Reading::Changed;
            renewal::way(os, view, pair, opened, &format, trust)?
        };
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
fn chosen(view: &View, mut layout: Layout, options: &Options) -> Result<Layout> {
    let as_primary = options.partition.is_some_and(|p| p.as_primary);
    layout.purpose = Purpose { factory: options.factory, as_primary };
    let Some(part) = options.only else { return Ok(layout) };
    (layout.pairs, layout.others) = layout.pairs.into_iter().partition(|p| p.part == part);
    let Some(pair) = layout.pairs.first() else {
        return Err(Error::refused(format!("{} has no second partition", part.point())));
    };
    // newfs(8) gives a new identity, which the root's copy, left as it is, would not know.
    let known_by_identity = |e: &&fstab::Entry| {
        let id = view.find(&e.spec);
        is_identity(&e.spec) && (id == Some(pair.source) || id == Some(pair.target))
    };
    if part == Part::Config
        && pair.fs == FsType::Ufs2.name()
        && let Some(entry) = view.fstab.iter().find(known_by_identity)
    {
        let spec = String::from_utf8_lossy(&entry.spec);
        let cause = format!("fstab names {spec}, and a new file system gets a new identity");
        return Err(Error::refused(cause)
            .hint("copy both parts, or name it by its label or device in fstab"));
    }
    Ok(layout)
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
