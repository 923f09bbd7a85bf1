//! What a finished, verified snapshot leaves on the copy.

pub mod digest;
pub mod journal;
pub mod manifest;
pub mod packages;
pub mod version;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use packages::{Package, Product};

/// The directory for it in the copy's root.
pub const DIR: &str = ".dualroot";
/// The record's name there.
pub const RECORD: &str = "record.json";
/// The manifest's name there.
pub const MANIFEST: &str = "manifest.mtree";
/// The file of partition tables there, and in the same directory of `/config`.
pub const TABLES: &str = "tables";
/// A file there: the system on this root has run since it was copied. It names the root's device, so
/// that one that came along with the blocks of another root says nothing.
pub const USED: &str = "used";
/// What writes records, journals and tables, with its version.
pub const TOOL: &str = concat!("dualroot ", env!("CARGO_PKG_VERSION"));
/// The version of the record's format that this program writes.
pub const SCHEMA: u32 = 1;

/// A snapshot that was finished and verified. Its presence says that the copy is valid.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Record {
    /// Version of this format.
    pub schema: u32,
    /// Program and version that made it.
    pub tool: String,
    /// When the copying began: what changes in the source from then on is known to have changed.
    pub created: Timestamp,
    /// When the snapshot read it back from the medium and found it equal.
    pub verified: Timestamp,
    /// What was copied: `/` or `/config`.
    pub filesystem: String,
    /// Device that was copied.
    pub source: String,
    /// Device that holds the copy.
    pub target: String,
    /// `tree` or `block`.
    pub method: String,
    /// The product on it.
    pub product: Option<Product>,
    /// The software on it.
    pub packages: Vec<Package>,
    /// Whether it holds only what the box left the factory with.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub factory: bool,
    /// Objects of every kind.
    pub objects: u64,
    /// Regular files.
    pub files: u64,
    /// Bytes of content.
    pub bytes: u64,
    /// Objects that vanished from the source while it was copied.
    pub vanished: u64,
    /// SHA-256 of the manifest in hexadecimal, as sha256(1) prints it.
    pub manifest_sha256: String,
}

/// The version of a format of ours, whatever else is there.
fn version_of(text: &[u8]) -> serde_json::Result<u32> {
    #[derive(Deserialize)]
    struct Version {
        schema: u32,
    }
    serde_json::from_slice(text).map(|Version { schema }| schema)
}

impl Record {
    /// Reads a record.
    ///
    /// # Errors
    /// It is no record, one of a newer version, or it has fields that its version does not know:
    /// in words for the user. A slot with such a record is `unknown`, not invalid.
    pub fn parse(text: &[u8]) -> Result<Self, String> {
        let damaged = |e: serde_json::Error| format!("the record is damaged: {e}");
        match version_of(text).map_err(damaged)? {
            SCHEMA => serde_json::from_slice(text).map_err(damaged),
            other => {
                Err(format!("the record has version {other}, this program knows version {SCHEMA}"))
            }
        }
    }

    /// The record as it is stored.
    pub fn to_json(&self) -> Vec<u8> {
        let mut text = serde_json::to_vec_pretty(self).unwrap_or_default();
        text.push(b'\n');
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The record that version 0.1.0 wrote must be readable for ever.
    const V1: &str = include_str!("../../testdata/record-v1.json");

    #[test]
    fn version_1_is_still_read_and_written() {
        let record = Record::parse(V1.as_bytes()).unwrap();
        assert_eq!(record.filesystem, "/");
        assert_eq!(String::from_utf8(record.to_json()).unwrap(), V1);
    }

    #[test]
    fn a_newer_version_is_refused_by_its_number() {
        let newer = V1.replace("\"schema\": 1", "\"schema\": 2");
        let error = Record::parse(newer.as_bytes()).unwrap_err();
        assert_eq!(error, "the record has version 2, this program knows version 1");
    }

    #[test]
    fn unknown_fields_and_damage_are_refused() {
        let unknown = V1.replace("\"tool\"", "\"mood\": 1,\n  \"tool\"");
        assert!(Record::parse(unknown.as_bytes()).unwrap_err().contains("mood"));
        for length in 0..V1.len() - 2 {
            assert!(Record::parse(&V1.as_bytes()[..length]).is_err(), "cut at {length}");
        }
    }
}
