//! Changing boot flags: written, flushed, read back and compared.

use std::path::Path;

use super::mounted::patiently;
use super::observe::DeviceReader;
use crate::device::Id;
use crate::error::{During, Error, Kind, Result};
use crate::slot::flags::Selection;
use crate::slot::view::View;
use crate::sys::{Claim, Os};
use crate::table::check::Place;
use crate::table::flags::Change;
use crate::table::reading::Reading;
use crate::table::{Scheme, Table, boot0, mbr};

/// What a medium's tables say after an attempt to change them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Now {
    /// What they are to say, in every copy.
    New,
    /// What they said before, in every copy.
    Old,
    /// Something else.
    Other,
}

/// Refuses where the flags of the medium cannot be changed in one step.
///
/// # Errors
/// Refused, with what is wrong with the table.
pub(super) fn guard(view: &View, selection: &Selection) -> Result<()> {
    match view.unsound_table(selection.medium) {
        None => Ok(()),
        Some(why) => Err(Error::refused(why)
            .path(view.node(selection.medium))
            .hint("dualroot check tells more; gpart recover (FreeBSD) or dualroot table restore repairs it")),
    }
}

/// Refuses to make the slice of a slot the active one where the code in the MBR would not find in it
/// what it goes on with, boot1 and boot2, and the other slot's slice has them.
///
/// # Errors
/// Refused, with the slice.
pub(super) fn guard_code(view: &View, selection: &Selection, slot: u32) -> Result<()> {
    let Some(reading) = view.readings.get(&selection.medium) else { return Ok(()) };
    let by_efi = selection.table.entries.iter().any(|e| e.kind == "efi");
    let by_code = selection.table.scheme == Scheme::Mbr && mbr::has_boot_code(&reading.first);
    let [wanted, other] = [slot, 3 - slot].map(|slot| selection.slice(slot));
    let missing = reading.has_boot_blocks(wanted) == Some(false)
        && reading.has_boot_blocks(other) == Some(true);
    if by_efi || !by_code || !missing || selection.select(slot, false).is_empty() {
        return Ok(());
    }
    let place = view.place(selection.medium, Place::Slice(wanted));
    let cause = format!(
        "there is no boot code (boot1, boot2) in the slice, and slot {} starts by its own",
        3 - slot
    );
    Err(Error::refused(cause)
        .path(&place)
        .hint(format!("gpart bootcode -b /boot/boot {place} puts it there")))
}

/// Makes a change; and, where it changes nothing, the copies of a GPT the same again that a loss of
/// power left different. `through` is a partition of the medium that nobody has mounted: where a medium is
/// in use, its own cache can only be flushed that way (`g_io_check`).
///
/// # Errors
/// It could not be written; or what is read back from the medium is something else.
pub(super) fn apply<O: Os>(
    os: &O,
    view: &View,
    medium: Id,
    change: &Change,
    through: &Path,
) -> Result<()> {
    // What was seen since the lock is held is enough where nothing is to be changed.
    if change.is_empty() && view.readings.get(&medium).is_some_and(|r| says(r, change) == Now::New)
    {
        return Ok(());
    }
    let node = view.devices.get(medium).path();
    let context = "setting the boot flags";
    os.set_boot(&node, change).during(context)?;
    match patiently(|| os.claim(through)) {
        Ok(mut claim) => claim.flush().during(context)?,
        Err(e) if e.kind == Kind::Busy => {
            log::warn!("{}: in use, so the medium's own cache was not flushed", through.display());
        }
        Err(e) => return Err(e.during(context)),
    }
    match look(os, view, medium, change)? {
        Now::New => Ok(()),
        Now::Old | Now::Other => {
            let cause = "the medium does not say what was written to it";
            Err(Error::new(Kind::Differs, "reading back", cause).path(node).during(context))
        }
    }
}

/// Reads the flags from the medium.
///
/// # Errors
/// It cannot be read.
pub(super) fn look<O: Os>(os: &O, view: &View, medium: Id, change: &Change) -> Result<Now> {
    let provider = view.devices.get(medium);
    let node = provider.path();
    os.refresh(&node)?;
    let mut reader = DeviceReader::new(os, &node);
    let reading = Reading::take(&mut reader, provider.size, provider.sector)
        .map_err(|e| Error::from(e).path(&node))?;
    Ok(says(&reading, change))
}

fn says(reading: &Reading, change: &Change) -> Now {
    let tables: Vec<Option<Table>> = if change.scheme == Scheme::Gpt {
        let copies = [&reading.primary, &reading.backup].map(|copy| copy.as_ref().ok()?.as_ref());
        copies.map(|copy| copy.map(|found| found.table.clone())).into()
    } else {
        vec![reading.table().ok().flatten()]
    };
    let default = boot0::default(&reading.first).filter(|_| change.scheme == Scheme::Mbr);
    let all =
        |is: &dyn Fn(&Table) -> bool| tables.iter().all(|table| table.as_ref().is_some_and(is));
    if all(&|table| change.is_done(table, default)) {
        Now::New
    } else if all(&|table| change.is_due(table, default)) {
        Now::Old
    } else {
        Now::Other
    }
}
