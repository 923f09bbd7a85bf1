//! Doing the steps of a snapshot's plan.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use jiff::Timestamp;
use serde::Serialize;

use super::copying::Onto;
use super::frozen::Frozen;
use super::raw;
use super::source::Source;
use crate::copy::progress::Phase;
use crate::copy::touched::Touched;
use crate::copy::tree::Summary;
use crate::error::{During, Error, Kind, Result};
use crate::ops::factory::Changes;
use crate::ops::mounted::{Mounted, write_and_read};
use crate::ops::table::{self, save};
use crate::ops::{Session, clear, flags, record};
use crate::plan::consistency::Consistency;
use crate::plan::{Step, Tables, Way};
use crate::record::packages::Software;
use crate::record::{self as slot_record, Record};
use crate::slot::discover::Layout;
use crate::slot::view::View;
use crate::slot::{Pair, Part};
use crate::sys::Os;
use crate::sys::tree::Time;

const KEEPING: &str = "keeping the partition tables";

/// What was done to one pair.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct PairReport {
    /// `/`
    pub source: &'static str,
    /// `/altroot`
    pub target: &'static str,
    /// The device that was copied.
    pub source_device: String,
    /// The device that holds the copy.
    pub target_device: String,
    /// How.
    pub method: &'static str,
    /// Whether an older copy was brought up to date.
    pub refreshed: bool,
    /// What makes it consistent.
    #[serde(flatten)]
    pub consistency: Consistency,
    /// Regular files.
    pub files: u64,
    /// Bytes of content.
    pub bytes: u64,
    /// Bytes of content that were written.
    pub written_bytes: u64,
    /// Objects that vanished while the source was copied.
    pub vanished: u64,
    /// With `--factory`, what is otherwise than the list has it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub changed_since_factory: Option<Changes>,
    /// Whether all of it was read back from the medium and found equal.
    pub verified: bool,
    /// Wall time of the copying, unmount and flush included.
    pub copy_seconds: f64,
    /// Wall time of the reading back.
    pub verify_seconds: f64,
    /// Both.
    pub seconds: f64,
}

/// A tree that was copied.
pub(super) struct Made {
    pub(super) summary: Summary,
    /// What of the copy this run wrote, or could not tell to be as it was.
    pub(super) touched: Touched,
    /// Of the manifest.
    pub(super) sha256: String,
    /// The files that name themselves in the copy instead of their source.
    pub(super) rewritten: BTreeSet<Vec<u8>>,
    /// When the older copy lost its record, by the clock of its file system.
    pub(super) revoked: Option<Time>,
}

/// What is known of a part once it is copied.
pub(super) struct Copied {
    pub(super) made: Made,
    pub(super) consistency: Consistency,
    pub(super) software: Software,
    pub(super) created: Timestamp,
    pub(super) verified: Option<Timestamp>,
    pub(super) way: Way,
    pub(super) changes: Option<Changes>,
    pub(super) copy_seconds: f64,
    pub(super) verify_seconds: f64,
}

/// A run under way.
pub(super) struct Run<'a, 'b, O: Os> {
    pub(super) os: &'a O,
    pub(super) session: &'a Session,
    pub(super) view: &'a View,
    pub(super) layout: &'a Layout,
    pub(super) say: &'b mut dyn FnMut(&str),
    pub(super) sources: Vec<Source<'a, O>>,
    pub(super) parts: BTreeMap<Part, Copied>,
    /// The snapshots whose blocks are copied.
    pub(super) frozen: BTreeMap<Part, Frozen<'a, O>>,
    /// What was copied by blocks: bytes that were written, and seconds.
    pub(super) blocks: BTreeMap<Part, (u64, f64)>,
    /// The file of partition tables that the root's copy is to get.
    tables: Option<Vec<u8>>,
    /// Parts whose copy, or whose mount point, had to be unmounted first.
    pub(super) cleared: BTreeSet<Part>,
    /// Whether anything of a target was written.
    pub(super) written: bool,
    /// Whether boot flags were changed.
    pub(super) flagged: bool,
}

impl<'a, 'b, O: Os> Run<'a, 'b, O> {
    pub(super) fn new(
        os: &'a O,
        session: &'a Session,
        view: &'a View,
        layout: &'a Layout,
        say: &'b mut dyn FnMut(&str),
        sources: Vec<Source<'a, O>>,
        cleared: BTreeSet<Part>,
    ) -> Self {
        let (parts, frozen, blocks) = (BTreeMap::new(), BTreeMap::new(), BTreeMap::new());
        let (tables, written, flagged) = (None, false, false);
        Self {
            os,
            session,
            view,
            layout,
            say,
            sources,
            parts,
            frozen,
            blocks,
            tables,
            cleared,
            written,
            flagged,
        }
    }

    /// Does one step.
    pub(super) fn execute(&mut self, step: &Step) -> Result<()> {
        match step {
            Step::Clear { mount, force } => clear::unmount(self.os, mount, *force),
            Step::MakePoint(path) => self.os.make_dir(path),
            Step::Flags(_, change, _) => {
                let Some(selection) = self.view.selection_of(self.layout) else { return Ok(()) };
                let through = self.view.devices.get(self.layout.root().target).path();
                self.flagged = true;
                let done = flags::apply(self.os, self.view, selection.medium, change, &through);
                done.map_err(Error::once_begun)
            }
            // The first of them may still refuse.
            Step::Erase(part, _) => {
                let begun = self.written || self.flagged;
                self.erase(*part).map_err(|e| if begun { e.once_begun() } else { e })
            }
            Step::Revoke(part, _) => {
                let begun = self.written || self.flagged;
                self.revoke(*part).map_err(|e| if begun { e.once_begun() } else { e })
            }
            Step::Freeze(part, _) => self.freeze_blocks(*part),
            Step::Format(part, device, format) => self.format(*part, device, format),
            Step::Blocks(blocks) => {
                self.announce(blocks.part);
                // The old copy is gone: nothing is a refusal any more.
                self.copy_blocks(blocks).map_err(Error::once_begun)
            }
            Step::Settle(part, _, consistency) => self.settle(*part, consistency),
            // It changes what everything else is planned on, so it was done before.
            Step::Partition(..) => Ok(()),
            Step::Make(point, device, format) => {
                let made = self.os.format(Path::new(device), format);
                made.during(format!("making a file system for {point}"))
            }
            Step::Efi(from, to, size) => {
                self.session.monitor.begin(Phase::default());
                raw::copy(self.os, from.as_ref(), to.as_ref(), *size, &self.session.monitor)
                    .during("copying the EFI system partition")
            }
            Step::Boot(medium, drawing) => {
                self.os.make_bootable(Path::new(medium), drawing, &self.view.root)
            }
            Step::Copy(part, _, _, consistency) => {
                self.announce(*part);
                self.copy(*part, consistency, &Onto::New)
            }
            Step::Refresh(refresh) => {
                self.announce(refresh.part);
                self.refresh(refresh)
            }
            Step::Verify(verify) => self.verify(verify.part, &verify.consistency),
            Step::Tables(tables) => {
                let kept = self.tables(tables).during(KEEPING);
                kept.map_err(Error::once_begun)
            }
            Step::Record(part, _) => self.record(*part),
        }
    }

    pub(super) fn pair(&self, part: Part) -> Result<(usize, &Pair)> {
        let found = self.layout.pairs.iter().enumerate().find(|(_, p)| p.part == part);
        found.ok_or_else(|| Error::new(Kind::Failed, "", format!("{} is no pair", part.point())))
    }

    pub(super) fn device(&self, part: Part) -> Result<PathBuf> {
        Ok(self.view.devices.get(self.pair(part)?.1.target).path())
    }

    pub(super) fn point(&self, part: Part) -> PathBuf {
        self.view.below(part.alternate())
    }

    /// Looks at the media once more, now with the new file systems on them, and writes the file to
    /// `/config`; to the copy it goes with the record. What is mounted cannot be read back past the
    /// system's cache: of that file, its own checksums will tell.
    fn tables(&mut self, tables: &Tables) -> Result<()> {
        let content = save::collect(self.os, self.view, self.layout)?.0.encode();
        self.session.monitor.begin(Phase::default());
        if let Some(point) = &tables.config {
            table::put(&self.os.open_dir(point)?, &content)
                .during(format!("writing to {}", point.display()))?;
        }
        self.tables = tables.copy.is_some().then_some(content);
        Ok(())
    }

    fn record(&mut self, part: Part) -> Result<()> {
        self.write_record(part).during(format!("recording {}", part.alternate()))
    }

    fn write_record(&mut self, part: Part) -> Result<()> {
        let (_, pair) = self.pair(part)?;
        let Some(Copied {
            made: Made { summary, sha256, .. },
            software,
            created,
            verified: Some(verified),
            way,
            ..
        }) = self.parts.get(&part)
        else {
            return Err(Error::new(Kind::Failed, "", "it was not verified"));
        };
        let record = Record {
            schema: slot_record::SCHEMA,
            tool: concat!("dualroot ", env!("CARGO_PKG_VERSION")).to_owned(),
            created: *created,
            verified: *verified,
            filesystem: part.point().to_owned(),
            source: self.view.node(pair.source),
            target: self.view.node(pair.target),
            method: way.method().to_owned(),
            product: software.product.clone(),
            packages: software.packages.clone(),
            factory: self.layout.purpose.factory,
            objects: summary.objects,
            files: summary.files,
            bytes: summary.bytes,
            vanished: summary.vanished,
            manifest_sha256: sha256.clone(),
        };
        let (device, point) = (self.device(part)?, self.point(part));
        self.session.monitor.begin(Phase::default());
        let tables = self.tables.as_ref().filter(|_| part == Part::Root);
        let mount = |access| Mounted::new(self.os, &device, &point, &pair.fs, access);
        let write = |root: &O::Dir| {
            if let Some(content) = tables {
                table::put(root, content).during(KEEPING)?;
            }
            record::write(root, &record)
        };
        let read = |root: &O::Dir| {
            if let Some(content) = tables {
                table::check(root, content).during(KEEPING)?;
            }
            Ok(record::read(root))
        };
        let found = write_and_read(self.os, &device, mount, write, read)?;
        if found.record.as_ref() == Some(&record) {
            return Ok(());
        }
        let why = found.reason.unwrap_or_else(|| "it is not what was written".to_owned());
        Err(Error::new(Kind::Differs, "reading back the record", why))
    }

    /// Gives the sources back and tells what was done.
    pub(super) fn finish(self) -> Result<Vec<PairReport>> {
        let mut pairs = Vec::new();
        for pair in &self.layout.pairs {
            let Some(copied) = self.parts.get(&pair.part) else { continue };
            let (written, seconds) = self.blocks.get(&pair.part).copied().unwrap_or_default();
            let copy_seconds = copied.copy_seconds + seconds;
            pairs.push(PairReport {
                source: pair.part.point(),
                target: pair.part.alternate(),
                source_device: self.view.node(pair.source),
                target_device: self.view.node(pair.target),
                method: copied.way.method(),
                refreshed: matches!(copied.way, Way::Refresh(_)),
                consistency: copied.consistency.clone(),
                files: copied.made.summary.files,
                bytes: copied.made.summary.bytes,
                written_bytes: copied.made.summary.written + written,
                vanished: copied.made.summary.vanished,
                changed_since_factory: copied.changes.clone(),
                verified: copied.verified.is_some(),
                copy_seconds,
                verify_seconds: copied.verify_seconds,
                seconds: copy_seconds + copied.verify_seconds,
            });
        }
        for source in self.sources {
            source.close()?;
        }
        Ok(pairs)
    }
}
