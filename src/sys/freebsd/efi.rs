//! What the firmware has started, as FreeBSD's own programs leave it in variables that do not outlive
//! the start (`stand/efi/boot1/boot1.c`, which is gptboot.efi's main program too, and
//! `stand/efi/loader/main.c`).

use crate::sys::command;

const EFIVAR: &str = "/usr/sbin/efivar";
/// `FREEBSD_BOOT_VAR_GUID` of sys/efi.h.
const GUID: &str = "cfee69ad-a0de-47a9-93a8-f63106f8ae99";

/// The path of the first program. The one that starts loader.efi says more than that one.
pub(super) fn program() -> Option<String> {
    ["Boot1Path", "LoaderPath"].into_iter().find_map(|name| {
        let name = format!("{GUID}-{name}");
        // efivar(8) fails where there is no such variable, and where the kernel has no EFIRT.
        let output = command::run(&[EFIVAR], &["-Nqu", "-n", &name]).ok()?;
        let path = String::from_utf8(output.stdout).ok()?;
        Some(path.trim_end_matches('\n').to_owned())
    })
}
