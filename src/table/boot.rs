//! Whether a medium could start a machine at all, told from its bytes. What of it a machine needs
//! is not on the medium: without evidence (other boot code on it, the firmware of the machine that
//! runs from it) what is missing is only good to know.

use super::check::{Name, Place};
use super::reading::{Reading, Slice};
use super::{Entry, Scheme, bsd, mbr, superblock};
use crate::finding::{Finding, Severity};

/// How the machine that runs from the medium starts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Firmware {
    /// By the code in the first sector.
    Bios,
    /// By a program in the EFI system partition.
    Uefi,
}

impl Reading {
    /// What the medium lacks to be booted from; `firmware` where a machine does so that tells it,
    /// `roots` the slices that slots lie in.
    pub fn boot(&self, firmware: Option<Firmware>, roots: &[u32], name: Name<'_>) -> Vec<Finding> {
        let mut found = Vec::new();
        let Some((scheme, entries)) = self.entries() else { return found };
        if self.table().is_err() {
            return found; // said already, and nothing of it can be relied on
        }
        for slice in self.slices.iter().filter(|s| s.entry.kind == "efi") {
            if !mbr::has_signature(&slice.head) {
                let what = "the EFI system partition has no file system";
                let hint = "newfs_msdos it and put EFI/BOOT/BOOTX64.EFI there (/boot/loader.efi)";
                let place = name(Place::Slice(slice.entry.index));
                found.push(Finding::warning("esp-empty", place, what, hint));
            }
        }
        match scheme {
            Scheme::Gpt => self.gpt_boot(&entries, firmware, name, &mut found),
            Scheme::Mbr | Scheme::Bsd => {
                self.mbr_boot(&entries, firmware, roots, name, &mut found);
            }
        }
        found
    }

    fn mbr_boot(
        &self,
        entries: &[Entry],
        firmware: Option<Firmware>,
        roots: &[u32],
        name: Name<'_>,
        found: &mut Vec<Finding>,
    ) {
        let medium = name(Place::Medium);
        let by_efi = entries.iter().any(|e| e.kind == "efi");
        if !by_efi && !entries.is_empty() && !entries.iter().any(|e| e.active) {
            let what = "no slice has the active flag: the boot code has nothing to start";
            let hint = "gpart set -a active -i N (FreeBSD), sfdisk --activate (Linux)";
            found.push(Finding::warning("active-none", &medium, what, hint));
        }
        let roots: Vec<(&Slice, [bool; 2])> = self
            .slices
            .iter()
            .filter(|slice| self.has_root(slice, roots))
            .map(|slice| (slice, self.boot_blocks(slice)))
            .collect();
        let code = mbr::has_boot_code(&self.first);
        let evident = code || roots.iter().any(|(_, blocks)| blocks.contains(&true));
        let severity = severity(evident && !by_efi || firmware == Some(Firmware::Bios));
        if !code {
            let what = "there is no boot code in the MBR";
            let hint = format!("gpart bootcode -b /boot/mbr {medium}");
            found.push(Finding::new(severity, "mbr-boot-code-missing", medium, what, hint));
        }
        for (slice, [boot1, boot2]) in roots {
            let what = match (boot1, boot2) {
                (true, true) => continue,
                (false, false) => "there is no boot code (boot1, boot2) in the slice",
                (false, true) => "boot1 is missing in the slice",
                (true, false) => "boot2 is missing in the slice",
            };
            let place = name(Place::Slice(slice.entry.index));
            let hint = format!("gpart bootcode -b /boot/boot {place}");
            found.push(Finding::new(severity, "slice-boot-code-missing", place, what, hint));
        }
    }

    /// Whether there is a root in it: in the `a` of a BSD label, where boot2 looks for one; or, of a
    /// slot, without any label.
    fn has_root(&self, slice: &Slice, roots: &[u32]) -> bool {
        slice.entry.kind == "freebsd"
            && match self.partitions(slice) {
                Some(partitions) => partitions.iter().any(|p| p.index == 1),
                None => {
                    roots.contains(&slice.entry.index) && superblock::read(&slice.head).is_some()
                }
            }
    }

    /// Whether boot1 and boot2 are in a slice; `None` where none is looked for.
    pub fn has_boot_blocks(&self, index: u32) -> Option<bool> {
        let ours = |s: &&Slice| s.entry.index == index && s.entry.kind == "freebsd";
        let slice = self.slices.iter().find(ours)?;
        Some(self.boot_blocks(slice) == [true, true])
    }

    /// Whether boot1 (the first sector) and boot2 (between the label and the end of the boot area)
    /// are there. Sectors of 4096 bytes leave no room for boot2: then it is as boot1.
    fn boot_blocks(&self, slice: &Slice) -> [bool; 2] {
        let sector = self.sector as usize;
        let any = |range: std::ops::Range<usize>| {
            slice.head.get(range).is_some_and(|bytes| bytes.iter().any(|&byte| byte != 0))
        };
        let boot1 = any(0..sector.min(512));
        [boot1, if 2 * sector < bsd::WINDOW { any(2 * sector..bsd::WINDOW) } else { boot1 }]
    }

    fn gpt_boot(
        &self,
        entries: &[Entry],
        firmware: Option<Firmware>,
        name: Name<'_>,
        found: &mut Vec<Finding>,
    ) {
        let medium = name(Place::Medium);
        for entry in entries.iter().filter(|e| e.boot_failed) {
            let place = name(Place::Slice(entry.index));
            let what = "gptboot has marked its last trial as failed";
            let hint = format!("see why, then gpart unset -a bootfailed -i {}", entry.index);
            found.push(Finding::warning("boot-failed", place, what, hint));
        }
        let code = mbr::has_boot_code(&self.first);
        let has = |kind: &str| entries.iter().any(|e| e.kind == kind);
        if !has("freebsd-boot") && !has("bios-boot") && !has("efi") {
            let what = "there is neither a freebsd-boot nor an EFI system partition";
            let hint = "gpart add -t freebsd-boot -s 512k, then gpart bootcode -b /boot/pmbr -p \
                /boot/gptboot; or gpart add -t efi";
            let severity = severity(code || firmware.is_some());
            found.push(Finding::new(severity, "boot-partition-missing", &medium, what, hint));
        }
        for slice in self.slices.iter().filter(|s| s.entry.kind == "freebsd-boot") {
            let index = slice.entry.index;
            let content = slice.head.iter().any(|&byte| byte != 0);
            let by_efi = has("efi") && firmware != Some(Firmware::Bios);
            let evident =
                severity((code || content) && !by_efi || firmware == Some(Firmware::Bios));
            let hint = format!("gpart bootcode -b /boot/pmbr -p /boot/gptboot -i {index} {medium}");
            if !content {
                let place = name(Place::Slice(index));
                let what = "there is nothing in the freebsd-boot partition";
                found.push(Finding::new(evident, "freebsd-boot-empty", place, what, &hint));
            }
            if !code {
                let what = "there is no boot code in the protective MBR";
                found.push(Finding::new(evident, "pmbr-boot-code-missing", &medium, what, hint));
            }
        }
    }
}

fn severity(evident: bool) -> Severity {
    if evident { Severity::Warning } else { Severity::Info }
}
