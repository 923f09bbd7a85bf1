//! What a finished, verified snapshot leaves on the copy.

pub mod digest;
pub mod journal;
pub mod manifest;
pub mod packages;
pub mod version;

use std::fmt::{self, Display, Formatter};

use jiff::Timestamp;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::error::Category;

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

/// Why a record or a journal cannot be read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Unreadable {
    /// Another version of this program wrote it: it is whole, and not to be written over.
    Version {
        /// The one of its format.
        found: u32,
        /// The one that this program knows.
        known: u32,
    },
    /// It is whole, and says what this program does not know.
    Unknown(String),
    /// It is torn, or none.
    Damaged(String),
}

impl Unreadable {
    /// Whether another version of this program may understand it.
    pub fn is_whole(&self) -> bool {
        !matches!(self, Self::Damaged(_))
    }
}

/// What can be said of it: that the record *is damaged*.
impl Display for Unreadable {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        match self {
            Self::Version { found, known } => {
                write!(f, "has version {found}, this program knows version {known}")
            }
            Self::Unknown(what) => write!(f, "is not understood: {what}"),
            Self::Damaged(why) => write!(f, "is damaged: {why}"),
        }
    }
}

/// Reads a format of ours, of which this program knows one version. That is looked at first, whatever
/// else is there.
fn parse<T: DeserializeOwned>(text: &[u8], known: u32) -> Result<T, Unreadable> {
    #[derive(Deserialize)]
    struct Version {
        schema: u32,
    }
    let damaged = |e: serde_json::Error| Unreadable::Damaged(e.to_string());
    let Version { schema: found } = serde_json::from_slice(text).map_err(damaged)?;
    if found != known {
        return Err(Unreadable::Version { found, known });
    }
    serde_json::from_slice(text).map_err(|e| match e.classify() {
        Category::Data => Unreadable::Unknown(e.to_string()),
        _ => damaged(e),
    })
}

impl Record {
    /// Reads a record.
    ///
    /// # Errors
    /// It is of another version, has fields that its version does not know, or is torn. A slot with
    /// such a record is `unknown`, not invalid.
    pub fn parse(text: &[u8]) -> Result<Self, Unreadable> {
        parse(text, SCHEMA)
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
        let text = "the record has version 2, this program knows version 1";
        assert_eq!(format!("the record {error}"), text);
    }

    #[test]
    fn unknown_fields_and_damage_are_refused() {
        let unknown = V1.replace("\"tool\"", "\"mood\": 1,\n  \"tool\"");
        let error = Record::parse(unknown.as_bytes()).unwrap_err();
        assert!(error.is_whole() && error.to_string().contains("mood"), "{error}");
        for length in 0..V1.len() - 2 {
            let error = Record::parse(&V1.as_bytes()[..length]).unwrap_err();
            assert!(!error.is_whole(), "cut at {length}: {error}");
        }
    }
}
