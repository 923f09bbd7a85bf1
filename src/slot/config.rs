//! The optional configuration file, TOML.
//!
//! ```toml
//! product = "JUNOS"                          # instead of os-release's name
//! file_system_snapshots = false              # copy a live UFS without a snapshot of it
//! mirror-flash-on-disk = true                # refuse every snapshot
//! auto-snapshot = true                       # repair a broken slot after a fall-back
//! [media]
//! usb = "da1"                                # what --media usb means here
//! [factory]
//! rescue = "/config/rescue.conf"             # what --factory copies beside the factory's files
//! [root]
//! slots = ["/dev/da0s1a", "/dev/da0s2a"]     # slot 1, slot 2
//! [config]
//! slots = ["/dev/da0s4d", "/dev/da0s4e"]     # the same on both slots
//! ```

use std::collections::BTreeMap;

use serde::de::Error as _;
use serde::{Deserialize, Deserializer};

use crate::error::{Error, Kind, Result};

/// Where it is looked for where the command line does not say.
pub const DEFAULT: &str = "/etc/dualroot.conf";

/// Where a rescue configuration lies, in Junos's words, where the file does not say.
pub const RESCUE: [&str; 2] = ["/config/rescue.conf", "/config/rescue.conf.gz"];

/// The file's content. The same file lies on both slots, so it names both, never "the other".
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// The product's name in `show`.
    pub product: Option<String>,
    /// Whether a source that is in use is copied from a snapshot, where one can be taken; by
    /// default only where rc(8) does not ask when fsck(8) finds what a lost one leaves.
    pub file_system_snapshots: Option<bool>,
    /// Junos's word for media that mirror each other by other means: no snapshot is made then.
    #[serde(default, rename = "mirror-flash-on-disk")]
    pub mirror_flash_on_disk: bool,
    /// Junos's word for the repair of the other slot at boot.
    #[serde(default, rename = "auto-snapshot")]
    pub auto_snapshot: bool,
    /// Devices by Junos's words for media: `usb = "da1"`.
    #[serde(default)]
    pub media: BTreeMap<String, String>,
    /// What a copy of the factory's files has besides them.
    #[serde(default)]
    pub factory: Factory,
    /// The two root devices.
    #[serde(default)]
    pub root: Slots,
    /// The two config devices.
    #[serde(default)]
    pub config: Slots,
}

/// What a copy of the factory's files has besides them.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Factory {
    /// The rescue configuration's file; it need not exist.
    pub rescue: Option<String>,
}

/// Two devices that are copies of each other.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Slots {
    /// Slot 1 and slot 2.
    #[serde(default, deserialize_with = "two")]
    pub slots: Option<[String; 2]>,
}

/// Exactly two: serde's array would take the first two of three.
fn two<'de, D: Deserializer<'de>>(source: D) -> std::result::Result<Option<[String; 2]>, D::Error> {
    let names = Vec::<String>::deserialize(source)?;
    let count = names.len();
    names.try_into().map(Some).map_err(|_| D::Error::invalid_length(count, &"two devices"))
}

impl Config {
    /// Reads the file's content.
    ///
    /// # Errors
    /// The first fault, with its line (exit 2).
    pub fn parse(text: &[u8]) -> Result<Self> {
        let line_at = |at: usize| String::from_utf8_lossy(&text[..at]).matches('\n').count() + 1;
        let wrong = |line: usize, why: &str| {
            Error::new(Kind::Usage, "", format!("line {line}: {}", why.trim().replace('\n', "; ")))
        };
        let toml =
            std::str::from_utf8(text).map_err(|e| wrong(line_at(e.valid_up_to()), "not UTF-8"))?;
        toml::from_str(toml).map_err(|e| {
            let start = e.span().map_or(0, |s| s.start).min(text.len());
            wrong(line_at(start), e.message())
        })
    }
}

/// The file's content with `auto-snapshot` switched on or off: the line that says so, or a new first
/// one; every other byte stays.
pub fn with_auto_snapshot(text: &[u8], enabled: bool) -> Vec<u8> {
    let own = format!("auto-snapshot = {enabled}");
    let is_key = |line: &[u8]| {
        let rest = line.trim_ascii_start().strip_prefix(b"auto-snapshot");
        rest.is_some_and(|rest| rest.trim_ascii_start().starts_with(b"="))
    };
    let mut new = Vec::with_capacity(text.len() + own.len() + 1);
    let (mut done, mut inside) = (false, false);
    for line in text.split_inclusive(|&b| b == b'\n') {
        // A table's keys are its own.
        inside |= line.trim_ascii_start().starts_with(b"[");
        if !done && !inside && is_key(line) {
            let comment = line.iter().position(|&b| b == b'#').map_or(&b""[..], |at| &line[at..]);
            new.extend_from_slice(own.as_bytes());
            if !comment.is_empty() {
                new.push(b' ');
                new.extend_from_slice(comment.strip_suffix(b"\n").unwrap_or(comment));
            }
            new.extend_from_slice(if line.ends_with(b"\n") { b"\n" } else { b"" });
            done = true;
        } else {
            new.extend_from_slice(line);
        }
    }
    if !done {
        new.splice(..0, format!("{own}\n").into_bytes());
    }
    new
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_keys() {
        let text = b"product = \"JUNOS\"\nfile_system_snapshots = false\n\
            [root]\nslots = [\"/dev/a\", \"/dev/b\"]\n";
        let config = Config::parse(text).unwrap();
        assert_eq!(config.file_system_snapshots, Some(false));
        assert_eq!(config.product.as_deref(), Some("JUNOS"));
        assert_eq!(config.root.slots, Some(["/dev/a".to_owned(), "/dev/b".to_owned()]));
        assert_eq!(config.config.slots, None);
        assert_eq!(Config::parse(b"").unwrap(), Config::default());
    }

    #[test]
    fn auto_snapshot_is_switched_and_nothing_else_changes() {
        for (text, on) in [
            ("", "auto-snapshot = true\n"),
            ("# mine\n", "auto-snapshot = true\n# mine\n"),
            ("auto-snapshot=false", "auto-snapshot = true"),
            (
                "product = \"x\"\n auto-snapshot = false # later\n[root]\n",
                "product = \"x\"\nauto-snapshot = true # later\n[root]\n",
            ),
            (
                "#auto-snapshot = false\n[media]\nusb = \"da1\"\n",
                "auto-snapshot = true\n#auto-snapshot = false\n[media]\nusb = \"da1\"\n",
            ),
        ] {
            let new = with_auto_snapshot(text.as_bytes(), true);
            assert_eq!(String::from_utf8(new.clone()).unwrap(), on);
            assert!(Config::parse(&new).unwrap().auto_snapshot);
            assert_eq!(with_auto_snapshot(&new, true), new);
            assert!(!Config::parse(&with_auto_snapshot(&new, false)).unwrap().auto_snapshot);
        }
    }

    #[test]
    fn a_fault_has_its_line() {
        for (text, line) in [
            (&b"product = \"x\"\n\nrot = 1\n"[..], "line 3: "),
            (b"[root]\nslots = [\"/dev/a\"]\n", "line 2: "),
            (b"product = 1\n", "line 1: "),
            (b"a\n", "line 1: "),
            (b"product = \"x\"\n\xff\n", "line 2: not UTF-8"),
        ] {
            let error = Config::parse(text).unwrap_err();
            assert!(error.to_string().starts_with(line), "{error}");
            assert_eq!(error.kind, Kind::Usage);
        }
    }
}
