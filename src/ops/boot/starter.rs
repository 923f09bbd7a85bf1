//! Who reads the boot flags of a medium: told from what starts it.

use std::io;

use crate::error::{Context, Error, Result};
use crate::ops::observe::{self, DeviceReader};
use crate::slot::flags::Selection;
use crate::slot::view::View;
use crate::sys::Os;
use crate::table::boot::Firmware;
use crate::table::programs::{self, Program};
use crate::table::{Entry, Scheme};

/// Of a larger partition only the beginning is looked at: gptboot(8) allows itself 545 KB.
const LOOKED_AT: u64 = 1 << 20;

/// Who reads them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Starter {
    /// One who does what they say.
    Obeys,
    /// Nobody that is known.
    Unknown(String),
    /// One who does not look at them.
    Ignores(String),
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
            let why = "the machine starts by UEFI, where loader.efi knows no active slice";
            Starter::Ignores(why.to_owned())
        } else {
            Starter::Obeys
        });
    }
    if let Some(efi) = efi {
        let started = if firmware == Some(Firmware::Uefi) { os.efi_program()? } else { None };
        let by_efi = match esp(os, view, selection, efi)? {
            Ok(programs) => by_efi(&programs, started.as_deref()),
            // The firmware may understand what is not understood here.
            Err(why) => Starter::Unknown(format!("the EFI system partition cannot be read: {why}")),
        };
        if by_efi != Starter::Obeys {
            return Ok(by_efi);
        }
    }
    if let Some(code) = code
        && freebsd_boot(os, view, selection, code)? != Program::Gptboot
    {
        let why = "what is in the freebsd-boot partition is not gptboot";
        return Ok(Starter::Unknown(why.to_owned()));
    }
    Ok(if code.is_none() && efi.is_none() {
        Starter::Unknown("there is neither gptboot nor gptboot.efi on the medium".to_owned())
    } else {
        Starter::Obeys
    })
}

/// Who it is by UEFI: the program that the firmware has `started`, where that is known and on this
/// partition; else whatever it may start, by itself or by a boot option of its own.
fn by_efi(programs: &[(String, Program)], started: Option<&str>) -> Starter {
    let known = started.and_then(|path| programs.iter().find(|(name, _)| is_path(name, path)));
    if let Some((path, program)) = known {
        return match program {
            Program::Gptboot => Starter::Obeys,
            _ => Starter::Ignores(format!("the firmware starts {path}, which knows no flags")),
        };
    }
    let may_start = |(path, program): &&(String, Program)| {
        path.starts_with("EFI/BOOT/BOOT") || *program != Program::Other
    };
    let (obey, ignore): (Vec<_>, Vec<_>) =
        programs.iter().filter(may_start).partition(|(_, program)| *program == Program::Gptboot);
    match (obey.first(), ignore.first()) {
        (None, _) => Starter::Ignores(
            "there is no gptboot.efi on the EFI system partition, and loader.efi knows no flags"
                .to_owned(),
        ),
        (Some(_), None) => Starter::Obeys,
        (Some((obeys, _)), Some((ignores, _))) => Starter::Unknown(format!(
            "the firmware may start {obeys}, which is gptboot.efi, or {ignores}, which is not"
        )),
    }
}

/// Whether a file's name on the partition is the firmware's path of it: `\\EFI\\BOOT\\BOOTX64.EFI`.
fn is_path(name: &str, path: &str) -> bool {
    path.trim_start_matches('\\').replace('\\', "/").eq_ignore_ascii_case(name)
}

/// The programs of an EFI system partition, or why what it holds is no FAT file system that can be read.
fn esp<O: Os>(
    os: &O,
    view: &View,
    selection: &Selection,
    part: &Entry,
) -> Result<io::Result<Vec<(String, Program)>>> {
    let device = view.devices.get(selection.medium).path();
    let reader = DeviceReader::new(os, &device);
    match programs::on_esp(reader, part.start, part.size) {
        Err(e) if e.raw_os_error().is_some() => {
            Err(Error::io("reading the EFI system partition of", &e).path(&device))
        }
        read => Ok(read),
    }
}

fn freebsd_boot<O: Os>(
    os: &O,
    view: &View,
    selection: &Selection,
    part: &Entry,
) -> Result<Program> {
    let device = view.devices.get(selection.medium).path();
    let reader = DeviceReader::new(os, &device);
    programs::alone(reader, part.start, part.size.min(LOOKED_AT))
        .doing_to("reading the boot partition of", &device)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The programs, the one that was started, and what that is to the flags.
    type Case<'a> = (&'a [(&'a str, Program)], Option<&'a str>, &'a str);

    #[test]
    fn what_the_firmware_starts_decides() {
        use Program::{Gptboot, Loader, Other};
        let default = "EFI/BOOT/BOOTX64.EFI";
        let own = "EFI/FREEBSD/LOADER.EFI";
        let shell = "EFI/TOOLS/SHELL.EFI";
        let by_default = Some("\\EFI\\Boot\\bootx64.efi");
        let by_option = Some("\\EFI\\FREEBSD\\LOADER.EFI");
        let cases: [Case<'_>; 12] = [
            (&[], None, "ignores"),
            (&[(default, Gptboot)], None, "obeys"),
            (&[(default, Loader)], None, "ignores"),
            (&[(default, Other), (shell, Other)], None, "ignores"),
            (&[(default, Gptboot), (shell, Other)], None, "obeys"),
            (&[(own, Gptboot)], None, "obeys"),
            (&[(default, Gptboot), (own, Loader)], None, "unknown"),
            (&[(default, Other), (own, Gptboot)], None, "unknown"),
            (&[(default, Gptboot), (own, Loader)], by_default, "obeys"),
            (&[(default, Gptboot), (own, Loader)], by_option, "ignores"),
            // From another partition, or it is gone.
            (&[(default, Gptboot)], by_option, "obeys"),
            (&[(default, Gptboot), (shell, Other)], Some("\\EFI\\TOOLS\\SHELL.EFI"), "ignores"),
        ];
        for (programs, started, expected) in cases {
            let named: Vec<_> = programs.iter().map(|(path, p)| ((*path).to_owned(), *p)).collect();
            let found = match by_efi(&named, started) {
                Starter::Obeys => "obeys",
                Starter::Unknown(_) => "unknown",
                Starter::Ignores(_) => "ignores",
            };
            assert_eq!(found, expected, "{programs:?} {started:?}");
        }
    }
}
