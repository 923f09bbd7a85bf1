//! What `check` reports: one thing that is wrong, how bad it is, and what to do about it.
//!
//! The codes never change their meaning. With a *table* finding of severity error on a medium, nothing
//! that writes uses that medium.
//!
//! | code | severity | what it says | |
//! | --- | --- | --- | --- |
//! | `medium-unreadable` | error | a sector that holds a table cannot be read | table |
//! | `table-missing` | error | the kernel has partitions of a table that is not there any more | table |
//! | `slice-overlap` | error | two slices share bytes; GEOM refuses the whole table | table |
//! | `slice-beyond-medium` | error | a slice ends behind the end of the medium | table |
//! | `mbr-status-invalid` | error | an entry's status is neither 0x00 nor 0x80; GEOM sees no MBR | table |
//! | `active-several` | error | several active flags: `/boot/mbr` says "Invalid partition table" | table |
//! | `ebr-damaged` | warning | an extended slice does not begin with an EBR | table |
//! | `gpt-primary-damaged` | error | the primary GPT cannot be used, the backup can | table |
//! | `gpt-backup-damaged` | warning | the backup GPT cannot be used, the primary can | table |
//! | `gpt-backup-misplaced` | warning | the backup GPT is not in the last sector: the medium grew | table |
//! | `gpt-copies-differ` | error | both copies are whole and do not say the same | table |
//! | `gpt-lost` | error | neither copy can be used | table |
//! | `gpt-protective-missing` | error | a GPT without its protective MBR | table |
//! | `gpt-protective-size` | info | the protective MBR does not cover the medium | table |
//! | `gpt-beside-mbr` | warning | an MBR that rules, and a GPT that firmware may prefer | table |
//! | `label-checksum` | error | the checksum of a BSD label does not match | table |
//! | `label-invalid` | error | a BSD label that GEOM refuses | table |
//! | `label-misplaced` | error | a BSD label that is not in the second sector of its slice | table |
//! | `label-missing` | warning | a slice without a label beside one of its size that has one | table |
//! | `label-displaced` | warning | the label was made for another place on the medium | table |
//! | `label-absolute` | info | the label counts from the start of the medium | table |
//! | `label-raw-size` | warning | the label's `c` is larger than its slice | table |
//! | `partition-overlap` | error | two partitions of a BSD label share bytes | table |
//! | `partition-beyond-slice` | error | a partition ends behind its slice | table |
//! | `partition-before-slice` | warning | a partition begins before `c`; GEOM makes no node for it | table |
//! | `kernel-entry-missing` | warning | an entry of the disk that the kernel does not have | table |
//! | `kernel-entry-extra` | error | a partition of the kernel that is not on the disk | table |
//! | `kernel-entry-differs` | error | kernel and disk place a partition differently | table |
//! | `misaligned-4k` | info | it does not begin on 4 KiB: slow on flash, and wears it | table |
//! | `misaligned-1m` | info | it does not begin on 1 MiB | table |
//! | `active-none` | warning | no slice of an MBR has the active flag | boot |
//! | `mbr-boot-code-missing` | warning, info | the MBR has no boot code | boot |
//! | `slice-boot-code-missing` | warning, info | boot1 or boot2 is missing in a slice with a root | boot |
//! | `pmbr-boot-code-missing` | warning, info | the protective MBR has no boot code | boot |
//! | `freebsd-boot-empty` | warning, info | there is nothing in the freebsd-boot partition | boot |
//! | `boot-partition-missing` | warning, info | a GPT with neither freebsd-boot, bios-boot nor efi | boot |
//! | `esp-empty` | warning | the EFI system partition has no file system | boot |
//! | `boot-failed` | warning | a slot bears gptboot's mark of a trial that failed | boot |
//! | `half-boot` | error, warning | what the loader started is not what is mounted on `/` | slot |
//! | `active-not-running` | warning | the boot flags select the slot that does not run | slot |
//! | `intended-not-next` | warning | the slot that was chosen is not the one that the boot flags select | slot |
//! | `boot0-differs` | warning | boot0 starts another slice than the active one | slot |
//! | `fsck-asks` | warning | power lost during a snapshot of the file system could stop a start | slot |
//! | `trial-armed` | info | the next start tries a slot once | slot |
//! | `trial-unconfirmed` | warning | the running slot is on trial | slot |
//! | `trial-over` | warning | a trial did not come up, or was never started | slot |
//! | `nextboot-stale` | error, warning, info | a nextboot.conf of a trial that is not known, or over | slot |
//! | `nextboot-foreign` | warning | a nextboot.conf that others made mounts another root | slot |
//! | `run-interrupted` | warning | a run that writes did not come to its end | slot |
//! | `journal-unreadable` | warning | the journal is torn, or another version's | slot |
//! | `fstab-root-differs` | error | fstab names another device for `/` than is mounted | slot |
//! | `slots-not-found` | error | there is no telling which slot is the other one | slot |
//! | `slots-differ-in-size` | warning, info | the alternate slot is smaller, or larger | slot |
//! | `stale-mount` | warning | the alternate slot, or something on its mount point, is mounted | slot |
//! | `copy-missing` | warning | there is no copy: the slot is empty | slot |
//! | `copy-invalid` | warning | no snapshot of the slot was finished | slot |
//! | `copy-unknown` | warning | the slot cannot be judged | slot |
//! | `copy-writing` | info | a process is writing the slot | slot |
//! | `copy-old` | warning | the copy is older than 90 days | slot |
//! | `version-drift` | warning | the copy has other software than the running slot | slot |
//! | `copy-names-another` | error | the copy's fstab or loader.conf names another root than itself | slot |
//! | `copy-names-nobody` | warning | the copy's fstab names a device that is not there | slot |
//! | `copy-fstab-invalid` | warning | the copy's fstab makes no sense | slot |
//!
//! Where there are two severities, it is a warning with evidence that the medium boots that way
//! (other boot code on it, or the firmware of this machine), and info without.

use serde::Serialize;

/// How bad it is; later ones are worse.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Severity {
    /// Good to know.
    Info,
    /// It works now, and something about it will hurt.
    Warning,
    /// It is broken.
    Error,
}

impl Severity {
    /// The word for it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Info => "info",
            Self::Warning => "warning",
            Self::Error => "error",
        }
    }
}

/// One thing that is wrong.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// How bad it is.
    pub severity: Severity,
    /// One of [`CODES`].
    pub code: &'static str,
    /// What is wrong, in words.
    pub what: String,
    /// The device, mount point or file.
    #[serde(rename = "where")]
    pub place: String,
    /// What to do about it.
    pub hint: String,
}

impl Finding {
    /// A finding.
    pub fn new(
        severity: Severity,
        code: &'static str,
        place: impl Into<String>,
        what: impl Into<String>,
        hint: impl Into<String>,
    ) -> Self {
        debug_assert!(CODES.contains(&code), "{code} is not in the table");
        Self { severity, code, what: what.into(), place: place.into(), hint: hint.into() }
    }

    /// One of severity error.
    pub fn error(
        code: &'static str,
        place: impl Into<String>,
        what: impl Into<String>,
        hint: impl Into<String>,
    ) -> Self {
        Self::new(Severity::Error, code, place, what, hint)
    }

    /// One of severity warning.
    pub fn warning(
        code: &'static str,
        place: impl Into<String>,
        what: impl Into<String>,
        hint: impl Into<String>,
    ) -> Self {
        Self::new(Severity::Warning, code, place, what, hint)
    }

    /// One of severity info.
    pub fn info(
        code: &'static str,
        place: impl Into<String>,
        what: impl Into<String>,
        hint: impl Into<String>,
    ) -> Self {
        Self::new(Severity::Info, code, place, what, hint)
    }
}

/// All codes there are.
pub const CODES: [&str; 63] = [
    "medium-unreadable",
    "table-missing",
    "slice-overlap",
    "slice-beyond-medium",
    "mbr-status-invalid",
    "active-several",
    "ebr-damaged",
    "gpt-primary-damaged",
    "gpt-backup-damaged",
    "gpt-backup-misplaced",
    "gpt-copies-differ",
    "gpt-lost",
    "gpt-protective-missing",
    "gpt-protective-size",
    "gpt-beside-mbr",
    "label-checksum",
    "label-invalid",
    "label-misplaced",
    "label-missing",
    "label-displaced",
    "label-absolute",
    "label-raw-size",
    "partition-overlap",
    "partition-beyond-slice",
    "partition-before-slice",
    "kernel-entry-missing",
    "kernel-entry-extra",
    "kernel-entry-differs",
    "misaligned-4k",
    "misaligned-1m",
    "active-none",
    "mbr-boot-code-missing",
    "slice-boot-code-missing",
    "pmbr-boot-code-missing",
    "freebsd-boot-empty",
    "boot-partition-missing",
    "esp-empty",
    "boot-failed",
    "half-boot",
    "active-not-running",
    "intended-not-next",
    "boot0-differs",
    "fsck-asks",
    "trial-armed",
    "trial-unconfirmed",
    "trial-over",
    "nextboot-stale",
    "nextboot-foreign",
    "run-interrupted",
    "journal-unreadable",
    "fstab-root-differs",
    "slots-not-found",
    "slots-differ-in-size",
    "stale-mount",
    "copy-missing",
    "copy-invalid",
    "copy-unknown",
    "copy-writing",
    "copy-old",
    "version-drift",
    "copy-names-another",
    "copy-names-nobody",
    "copy-fstab-invalid",
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_in_the_documentation_is_the_list() {
        let documented: Vec<&str> = include_str!("finding.rs")
            .lines()
            .filter_map(|line| line.strip_prefix("//! | `")?.split('`').next())
            .collect();
        assert_eq!(documented, CODES);
    }
}
