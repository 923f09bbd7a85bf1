//! Doing the steps of a snapshot's plan.

use std::path::Path;

use serde::Serialize;

use super::copied::Onto;
use super::raw;
use super::run::Run;
use crate::copy::progress::Phase;
use crate::error::{During, Error, Result};
use crate::ops::factory::Changes;
use crate::ops::{clear, flags};
use crate::plan::consistency::Consistency;
use crate::plan::{Step, Way};
use crate::sys::Os;

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

impl<O: Os> Run<'_, '_, O> {
    /// Does one step. Before the first write it may refuse.
    pub(super) fn execute(&mut self, step: &Step) -> Result<()> {
        let done = self.step(step);
        if self.begun || self.written { done.map_err(Error::once_begun) } else { done }
    }

    fn step(&mut self, step: &Step) -> Result<()> {
        match step {
            Step::Clear { mount, force } => clear::unmount(self.os, mount, *force),
            Step::MakePoint(path) => self.os.make_dir(path),
            Step::Flags(_, change, _) => {
                let Some(selection) = self.view.selection_of(self.layout) else { return Ok(()) };
                let through = self.view.devices.get(self.layout.root().target).path();
                self.begun = true;
                flags::apply(self.os, self.view, selection.medium, change, &through)
            }
            Step::Erase(part, _) => self.erase(*part),
            Step::Revoke(part, _) => self.revoke(*part),
            Step::Freeze(part, _) => self.freeze_blocks(*part),
            Step::Format(part, device, format) => self.format(*part, device, format),
            Step::Blocks(blocks) => {
                self.announce(blocks.part);
                self.copy_blocks(blocks)
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
            Step::Tables(tables) => self.tables(tables),
            Step::Record(part, _) => self.record(*part),
        }
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
