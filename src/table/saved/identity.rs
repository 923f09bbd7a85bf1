//! Whether a medium is the one that was kept: never by its kernel name.

use super::super::Scheme;
use super::Medium;

/// What is seen of a medium now.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Seen {
    /// Bytes.
    pub size: u64,
    /// Bytes in a sector.
    pub sector: u32,
    /// Its serial number, where the system tells one.
    pub ident: Option<String>,
    /// The kind of its table, where that is whole.
    pub scheme: Option<Scheme>,
    /// The identity in its table, as far as one can be read.
    pub disk_id: Option<String>,
    /// Whether a file system of [`Medium::file_systems`] is where it was.
    pub file_system: bool,
}

/// The answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// It is: its serial number, its table's identity, or a file system on it says so, and none of
    /// them says otherwise.
    Same,
    /// It is not, and why.
    Other(String),
    /// Nothing tells.
    Unknown,
}

/// Compares a medium with what was kept. A file system that is gone says nothing: copies get new
/// ones.
pub fn identify(kept: &Medium, seen: &Seen) -> Verdict {
    if kept.size != seen.size {
        return Verdict::Other(format!("it has {} bytes, not {}", seen.size, kept.size));
    }
    if kept.sector != seen.sector {
        let why = format!("it has sectors of {} bytes, not {}", seen.sector, kept.sector);
        return Verdict::Other(why);
    }
    let mut same = seen.file_system;
    let ids = [
        ("serial number", &kept.ident, &seen.ident),
        ("disk identity", &kept.disk_id, &seen.disk_id),
    ];
    for (what, kept, seen) in ids {
        match (kept, seen) {
            (Some(kept), Some(seen)) if kept == seen => same = true,
            (Some(kept), Some(seen)) => {
                return Verdict::Other(format!("its {what} is {seen}, not {kept}"));
            }
            _ => {}
        }
    }
    if let (Some(kept), Some(seen)) = (kept.scheme, seen.scheme)
        && kept != seen
    {
        return Verdict::Other(format!("it has a table of kind {seen}, not {kept}"));
    }
    if same { Verdict::Same } else { Verdict::Unknown }
}
