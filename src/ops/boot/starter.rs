//! Who reads the boot flags of a medium: told from what starts it.

use crate::error::Result;
use crate::ops::observe;
use crate::slot::flags::Selection;
use crate::slot::view::View;
use crate::sys::Os;
use crate::table::boot::Firmware;
use crate::table::{Entry, Scheme};

/// What only gptboot and gptboot.efi say (`stand/i386/gptboot/gptboot.c`,
/// `stand/efi/gptboot/proto.c`): neither loader.efi, boot1.efi nor gptzfsboot does.
const MARK: &[u8] = b"no UFS partition was found";
/// Of larger partitions only the beginning is looked at: programs are put there first.
const LOOKED_AT: u64 = 64 << 20;
const CHUNK: u64 = 1 << 20;

/// Who reads them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Starter {
    /// One who does what they say.
    Obeys,
    /// Nobody that is known.
    Unknown(&'static str),
    /// One who does not look at them.
    Ignores(&'static str),
}

/// Looks at the boot code of the slots' medium.
///
/// # Errors
/// It cannot be read.
pub(super) fn look<O: Os>(os: &O, view: &View, selection: &Selection) -> Result<Starter> {
    let firmware = observe::started(os, view)?.firmware;
    let of_kind = |kind: &str| selection.table.entries.iter().find(|e| e.kind == kind);
    let (code, efi) = (of_kind("freebsd-boot"), of_kind("efi"));
    let efi = efi.filter(|_| firmware != Some(Firmware::Bios));
    let code = code.filter(|_| firmware != Some(Firmware::Uefi));
    if selection.table.scheme != Scheme::Gpt {
        let by_efi = efi.is_some() || firmware == Some(Firmware::Uefi);
        return Ok(if by_efi {
            Starter::Ignores("the machine starts by UEFI, where loader.efi knows no active slice")
        } else {
            Starter::Obeys
        });
    }
    if let Some(efi) = efi
        && !holds(os, view, selection, efi)?
    {
        return Ok(Starter::Ignores(
            "there is no gptboot.efi on the EFI system partition, and loader.efi knows no flags",
        ));
    }
    if let Some(code) = code
        && !holds(os, view, selection, code)?
    {
        return Ok(Starter::Unknown("what is in the freebsd-boot partition is not gptboot"));
    }
    Ok(if code.is_none() && efi.is_none() {
        Starter::Unknown("there is neither gptboot nor gptboot.efi on the medium")
    } else {
        Starter::Obeys
    })
}

/// Whether gptboot's words are in a partition.
fn holds<O: Os>(os: &O, view: &View, selection: &Selection, part: &Entry) -> Result<bool> {
    let device = view.devices.get(selection.medium).path();
    let end = part.size.min(LOOKED_AT);
    let mut before = Vec::new();
    let mut at = 0;
    while at < end {
        let length = usize::try_from(CHUNK.min(end - at)).unwrap_or(0);
        let bytes = os.read_device(&device, part.start + at, length)?;
        if bytes.is_empty() {
            break;
        }
        at += bytes.len() as u64;
        // The words may lie across two chunks.
        before.extend_from_slice(&bytes);
        if before.windows(MARK.len()).any(|words| words == MARK) {
            return Ok(true);
        }
        before.drain(..before.len().saturating_sub(MARK.len()));
    }
    Ok(false)
}
