//! What `check` reports: one thing that is wrong, how bad it is, and what to do about it.
//!
//! dualroot(8) has a section with the codes, their severities and what each says. They never change
//! their meaning. With an error of a *table* on a medium, nothing that writes uses that medium.

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
        debug_assert!(CODES.contains(&code), "{code} is not in the list");
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
pub const CODES: [&str; 67] = [
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
    "active-not-a-root",
    "intended-not-next",
    "boot0-differs",
    "fsck-asks",
    "trial-armed",
    "trial-unconfirmed",
    "trial-over",
    "nextboot-stale",
    "nextboot-foreign",
    "run-interrupted",
    "repair-unfinished",
    "journal-unreadable",
    "fstab-invalid",
    "fstab-root-differs",
    "root-not-named",
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
    fn the_manual_has_every_code() {
        let manual = include_str!("../scripts/dualroot.8");
        let (_, section) = manual.split_once(".Sh FINDINGS\n").unwrap();
        let documented: Vec<&str> = section
            .lines()
            .take_while(|line| !line.starts_with(".Sh "))
            .filter_map(|line| line.strip_prefix(".It Li ")?.split(' ').next())
            .collect();
        assert_eq!(documented, CODES);
    }
}
