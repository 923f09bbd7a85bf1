//! `snapshot --partition`: a new table for the medium of the alternate slot.

use std::path::{Path, PathBuf};

use serde::Serialize;

use crate::device::Id;
use crate::error::{Error, Kind, Result};
use crate::ops::{Session, observe};
use crate::plan::Step;
use crate::plan::partition::{Sizes, Wish};
use crate::plan::size::human;
use crate::slot::Part;
use crate::slot::discover::Layout;
use crate::slot::view::View;
use crate::sys::{Format, FsType, Os};
use crate::table::drawing::{Drawing, Drawn, Family, Role};
use crate::table::{Scheme, bsd};

/// What the command line says of the partitions.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Options {
    /// The kind of table; by default the running medium's.
    pub scheme: Option<Scheme>,
    /// The sizes asked for.
    pub sizes: Sizes,
    /// The medium is to take the running one's place.
    pub as_primary: bool,
}

/// A line of the table as it is printed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Row {
    /// `s1a`
    pub partition: String,
    /// Where it is mounted when the medium has been booted.
    pub mountpoint: &'static str,
    /// Bytes.
    pub size: u64,
    /// The option that set its size, or `none`.
    pub argument: &'static str,
}

/// A table that is to be made.
#[derive(Debug)]
pub(super) struct Repartition {
    /// The medium's kernel name.
    pub(super) medium: String,
    /// The table.
    pub(super) drawing: Drawing,
    /// The partitions, as Junos lists them.
    pub(super) rows: Vec<Row>,
}

/// The medium that is to be partitioned: the one that was named, else the one that holds the
/// alternate slot.
///
/// # Errors
/// Refused: it is the running one, or nobody said which.
pub(super) fn medium(view: &View) -> Result<Id> {
    let found = match view.medium {
        Some(medium) => Some(medium),
        None => view.discover().ok().and_then(|l| view.devices.medium(l.root().target)),
    };
    let Some(medium) = found else {
        return Err(Error::refused("which medium is to be partitioned?").hint("--media names it"));
    };
    if Some(medium) == view.running_medium() {
        let node = view.node(medium);
        return Err(Error::refused(format!(
            "{node} holds the running root: it is not partitioned"
        ))
        .hint("--media names another medium"));
    }
    Ok(medium)
}

/// Draws the table, as much like the running medium's as was not said otherwise; and the system as it
/// will be with it.
///
/// # Errors
/// Refused: in use, or the sizes do not fit.
pub(super) fn plan(view: &View, medium: Id, options: &Options) -> Result<(View, Repartition)> {
    view.guard_medium(medium)?;
    let Some(mount) = view.mount_at(&view.root) else {
        return Err(Error::refused("nothing is mounted there").path(&view.root));
    };
    let ufs = mount.fs == FsType::Ufs2.name();
    let family = if ufs { Family::FreeBsd } else { Family::Linux };
    let running = view.running_medium();
    let own = running.and_then(|id| view.tables.get(&id));
    let provider = view.devices.get(medium);
    let wish = Wish {
        scheme: options.scheme.or(own.map(|t| t.scheme)).unwrap_or(Scheme::Gpt),
        family,
        medium: provider.size,
        sector: provider.sector,
        sizes: options.sizes,
        config: view.apart(Part::Config.point()).is_some(),
        var: view.apart("/var").is_some(),
        efi: view.efi().map(|id| view.devices.get(id).size),
        prefix: if options.as_primary {
            String::new()
        } else {
            format!("{}-", provider.name.replace('/', "-"))
        },
    };
    guard_efi(view, medium)?;
    let drawing = wish.draw().map_err(|e| e.path(provider.path()))?;
    let future = view.repartitioned(medium, &drawing, family);
    let rows = rows(&wish, &drawing);
    Ok((future, Repartition { medium: provider.name.clone(), rows, drawing }))
}

/// The EFI system partition is copied by its blocks, and a FAT keeps the sectors that it was made
/// with: where its medium has others, not everybody reads it (Linux does not where they are larger,
/// fs/fat/inode.c).
fn guard_efi(view: &View, medium: Id) -> Result<()> {
    let Some(efi) = view.efi() else { return Ok(()) };
    let (from, to) = (view.devices.get(efi).sector, view.devices.get(medium).sector);
    if from == to {
        return Ok(());
    }
    let (efi, medium) = (view.node(efi), view.node(medium));
    let cause = format!(
        "the EFI system partition {efi} is made of sectors of {from} bytes, those of {medium} have {to}"
    );
    Err(Error::refused(cause).hint(format!("choose a medium with sectors of {from} bytes")))
}

fn rows(wish: &Wish, drawing: &Drawing) -> Vec<Row> {
    let name = |slice: Option<&Drawn>, part: &Drawn| match slice {
        Some(slice) => format!("s{}{}", slice.index, bsd::letter(part.index)),
        None if wish.scheme == Scheme::Gpt => format!("p{}", part.index),
        None => format!("s{}", part.index),
    };
    let argument = |role: Role| {
        let asked = match role {
            Role::Root | Role::AltRoot => wish.sizes.root,
            Role::Config | Role::AltConfig => wish.sizes.config,
            Role::Data => wish.sizes.data,
            Role::Swap => wish.sizes.swap,
            Role::Boot | Role::Efi | Role::Var => None,
        };
        if asked.is_some() { role.option() } else { "none" }
    };
    let row = |(slice, part): (Option<&Drawn>, &Drawn)| {
        let role = part.role?;
        let (mountpoint, argument) = (role.point(), argument(role));
        Some(Row { partition: name(slice, part), mountpoint, size: part.size, argument })
    };
    drawing.roles().filter_map(row).collect()
}

impl Repartition {
    fn node(&self) -> PathBuf {
        Path::new("/dev").join(&self.medium)
    }

    /// The steps of a snapshot with those of a new table around them: boot code and marks come when
    /// all is verified, so that nothing boots from the medium before it is whole, and before the
    /// tables are kept.
    pub(super) fn around(
        &self,
        future: &View,
        layout: &Layout,
        root: &Format,
        steps: Vec<Step>,
    ) -> Vec<Step> {
        let medium = self.node().to_string_lossy().into_owned();
        let mut all = vec![Step::Partition(medium.clone(), self.drawing.clone())];
        let last = |step: &Step| matches!(step, Step::Tables(_) | Step::Record(..));
        let kept = steps.iter().position(last).unwrap_or(steps.len());
        let mut steps = steps.into_iter();
        all.extend(steps.by_ref().take(kept));
        for own in &layout.own {
            let node = future.node(own.target);
            match (own.role, own.source) {
                (Role::Var | Role::Data, _) => {
                    all.push(Step::Make(own.role.point(), node, empty(root)));
                }
                (Role::Efi, Some(source)) => {
                    let size = future.devices.get(source).size;
                    all.push(Step::Efi(future.node(source), node, size));
                }
                _ => {}
            }
        }
        all.push(Step::Boot(medium, self.drawing.clone()));
        all.extend(steps);
        all
    }

    /// Checks that the partitions that stay empty are large enough for a file system.
    ///
    /// # Errors
    /// Refused: one is not.
    pub(super) fn preflight<O: Os>(
        os: &O,
        future: &View,
        layout: &Layout,
        root: &Format,
    ) -> Result<()> {
        let empty = empty(root);
        for own in layout.own.iter().filter(|own| matches!(own.role, Role::Var | Role::Data)) {
            let size = future.devices.get(own.target).size;
            os.rehearse(&empty, size).map_err(|e| match e.kind {
                Kind::Signal(_) => e,
                _ => Error::refused(format!(
                    "no {} fits {} for {}: {e}",
                    root.fs.name(),
                    future.node(own.target),
                    own.role.point()
                ))
                .hint(match own.role {
                    Role::Data => "--data-size sets its size",
                    _ => "use a larger medium, or leave more of it to /var",
                }),
            })?;
        }
        Ok(())
    }

    /// Writes the table, and observes what the kernel made of it. `planned` is what is expected.
    ///
    /// # Errors
    /// The table could not be written, or there are other partitions now than were drawn.
    pub(super) fn execute<O: Os>(
        &self,
        os: &O,
        session: &Session,
        planned: (&View, &Layout),
        say: &mut dyn FnMut(&str),
    ) -> Result<(View, Layout)> {
        self.tell(say);
        os.partition(&self.node(), &self.drawing)?;
        let found = observe::view(os, session).and_then(|view| {
            let layout = view.discover()?;
            Ok((view, layout))
        });
        let (view, layout) = found.map_err(Error::once_begun)?;
        let (future, planned) = planned;
        for pair in &planned.pairs {
            let found = layout.pairs.iter().find(|p| p.part == pair.part);
            if found.is_none_or(|p| !same_place(&view, p.target, future, pair.target)) {
                let cause =
                    format!("the kernel has no {} where it was made", future.node(pair.target));
                return Err(Error::new(Kind::Failed, "partitioning", cause).path(self.node()));
            }
        }
        Ok((view, layout))
    }

    /// Junos's lines.
    fn tell(&self, say: &mut dyn FnMut(&str)) {
        say("Performing preliminary partition checks ...");
        for line in table(&self.rows) {
            say(&line);
        }
        say(&format!("Partitioning {} ...", self.medium));
    }
}

/// The file system of a partition that stays empty, like the root's.
fn empty(root: &Format) -> Format {
    Format { label: None, id: None, inodes: None, ..root.clone() }
}

/// The lines of a new table, as Junos prints them.
pub fn table(rows: &[Row]) -> Vec<String> {
    let head =
        ["Partitions on snapshot:", "", "  Partition  Mountpoint  Size    Snapshot argument"];
    let row = |row: &Row| {
        let Row { partition, mountpoint, size, argument } = row;
        format!("  {partition:>7}    {mountpoint:<10}  {:<6}  {argument}", human(*size))
    };
    head.into_iter().map(str::to_owned).chain(rows.iter().map(row)).collect()
}

/// Whether two partitions of two views have the same node and the same bytes.
fn same_place(a: &View, in_a: Id, b: &View, in_b: Id) -> bool {
    let place = |view: &View, id: Id| {
        (view.node(id), view.devices.extents(id).first().map(|e| (e.start, e.end)))
    };
    place(a, in_a) == place(b, in_b)
}
