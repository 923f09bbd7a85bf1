//! `dualroot check`: everything that will hurt when the other slot is needed.

mod boot;
mod copy;
mod names;

use std::collections::BTreeSet;

use serde::Serialize;

use super::{Session, observe};
use crate::device::Id;
use crate::error::{Error, Result};
use crate::finding::{Finding, Severity};
use crate::slot::discover::Layout;
use crate::slot::view::View;
use crate::sys::{FsType, Os};

/// What a check found.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Report {
    /// Version of this shape.
    pub schema: u32,
    /// What is wrong: the tables first, then the boot, then the slots.
    pub findings: Vec<Finding>,
}

impl Report {
    /// How many there are of a severity.
    pub fn count(&self, severity: Severity) -> usize {
        self.findings.iter().filter(|f| f.severity == severity).count()
    }

    /// Whether there is more than what is good to know.
    pub fn has_problems(&self) -> bool {
        self.findings.iter().any(|f| f.severity > Severity::Info)
    }
}

/// Checks media, slots and the copy. Never waits for a run and changes nothing.
///
/// # Errors
/// Not root, or the system cannot be observed; the configuration makes no sense (exit 2), since it
/// may say which the slots are. What is wrong with the slots, or with fstab, is a finding.
pub fn run<O: Os>(os: &O, session: &Session) -> Result<Report> {
    let (view, wrong) = observe::whatever_fstab_says(os, session)?;
    let layout = view.discover();
    let mut findings = Vec::new();
    let boot = observe::started(os, &view)?;
    let running = view.mount_at(&view.root).and_then(|m| view.provider_of(m));
    let own = running.and_then(|id| view.devices.medium(id));
    let Media { all, bootable } = media(&view, layout.as_ref().ok(), running);
    for medium in all {
        table(&view, medium, &mut findings);
        if bootable.contains(&medium)
            && let Some(reading) = view.readings.get(&medium)
        {
            let firmware = boot.firmware.filter(|_| own == Some(medium));
            let roots = roots(&view, layout.as_ref().ok(), medium);
            findings.extend(reading.boot(firmware, &roots, &|place| view.place(medium, place)));
        }
    }
    findings.extend(wrong.into_iter().map(|error| {
        let place = view.below("/etc/fstab").to_string_lossy().into_owned();
        let hint = "correct the line: until then every snapshot is refused";
        Finding::error("fstab-invalid", place, error.cause, hint)
    }));
    findings.extend(running.and_then(|id| view.against_fstab(id)));
    match layout {
        Err(error) => {
            findings.extend(running.and_then(|id| view.against_kernel_roots(id, &boot.roots)));
            findings.push(not_found(&view, &error));
        }
        Ok(layout) => {
            findings.extend(view.half_boot(&layout, &boot));
            findings.extend(boot::flags(&view, &layout));
            findings.extend(boot::stray(&view, &layout));
            findings.extend(boot::boot0_differs(&view, &layout));
            boot::kept(os, &view, &layout, &mut findings)?;
            findings.extend(boot::fsck_asks(os, &view, &layout)?);
            findings.extend(copy::sizes(&view, &layout));
            let ufs = layout.root().fs == FsType::Ufs2.name();
            let unnamed = if ufs {
                let place = view.below("/etc/fstab").to_string_lossy().into_owned();
                names::unnamed(&os.open_dir(&view.root)?, place)
            } else {
                None
            };
            // What tells the running kernel its root by other means may tell the copy's, too.
            let named = ufs && (unnamed.is_none() || boot.roots.is_empty());
            findings.extend(unnamed.filter(|_| boot.roots.is_empty()));
            copy::alternate(os, &view, &layout, named, &mut findings)?;
        }
    }
    Ok(Report { schema: 1, findings })
}

/// The media to look at.
struct Media {
    all: BTreeSet<Id>,
    /// Those that hold a root.
    bootable: BTreeSet<Id>,
}

/// The media of all pairs; where there are none to be told, of the running root and of everything
/// that fstab names and whose table could not be read as it should.
fn media(view: &View, layout: Option<&Layout>, running: Option<Id>) -> Media {
    let medium = |id: Id| view.devices.medium(id);
    let mut bootable: BTreeSet<Id> = running.and_then(medium).into_iter().collect();
    let mut all = bootable.clone();
    all.extend(view.medium);
    if let Some(layout) = layout {
        bootable.extend(layout.slots.iter().filter_map(|slot| medium(slot.root)));
        let pairs = layout.pairs.iter().flat_map(|pair| [pair.source, pair.target]);
        all.extend(pairs.chain(layout.shared_config).filter_map(medium));
        all.extend(&bootable);
    } else {
        let named = view.fstab.iter().filter_map(|e| view.find(&e.spec));
        let slots = [&view.config.root, &view.config.config];
        let slots = slots.into_iter().flat_map(|s| s.slots.iter().flatten());
        all.extend(named.chain(slots.filter_map(|s| view.find(s.as_bytes()))).filter_map(medium));
        all.extend((0..view.devices.providers.len()).filter(|&id| observe::is_missed(view, id)));
    }
    Media { all, bootable }
}

/// The slices of a medium that slots lie in.
fn roots(view: &View, layout: Option<&Layout>, medium: Id) -> Vec<u32> {
    let slots = layout.iter().flat_map(|layout| layout.slots);
    let slices = slots.map(|slot| view.slice(slot.root));
    let here = slices.filter(|&slice| view.devices.medium(slice) == Some(medium));
    here.filter_map(|slice| Some(view.entry(slice)?.index)).collect()
}

/// What is wrong with the tables of a medium.
fn table(view: &View, medium: Id, findings: &mut Vec<Finding>) {
    let found = view.findings.get(&medium).cloned().unwrap_or_default();
    // A medium that cannot be read at all has nothing to find anything in.
    if let Some(fault) = view.faults.get(&medium).filter(|_| found.is_empty()) {
        let hint = "replace the medium, or see what is wrong with its connection";
        findings.push(Finding::error("medium-unreadable", view.node(medium), fault, hint));
    }
    findings.extend(found);
}

fn not_found(view: &View, error: &Error) -> Finding {
    let place = view.root.to_string_lossy().into_owned();
    let hint = match &error.hint {
        Some(hint) => hint.clone(),
        None if view.elsewhere().is_some() => "is it the medium that was meant?".to_owned(),
        None => format!("name both roots in {}", view.config_path.display()),
    };
    Finding::error("slots-not-found", place, error.to_string(), hint)
}
