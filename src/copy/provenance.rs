//! What ties an object of a copy to the one that it was made from.

use crc32fast::Hasher;

use crate::sys::tree::{Meta, Time};

/// Where a copy comes from: one file system among others.
#[derive(Clone, Debug)]
pub struct Provenance(Hasher);

impl Provenance {
    /// The file system with this identity (ufsid, UUID).
    pub fn new(id: &str) -> Self {
        let mut hasher = Hasher::new();
        hasher.update(id.as_bytes());
        Self(hasher)
    }

    /// CRC-32 over file system, inode number and the time of the last change of any kind: the same as
    /// before says that it is the same object as before, in the same state.
    ///
    /// That time alone does not: what is in a directory keeps it when the directory gets another name,
    /// and a file system that is put back to what it was once has older ones than it had.
    pub fn of(&self, meta: &Meta) -> u32 {
        let Time { sec, nsec } = meta.ctime;
        let mut hasher = self.0.clone();
        hasher.update(&meta.ino.to_le_bytes());
        hasher.update(&sec.to_le_bytes());
        hasher.update(&nsec.to_le_bytes());
        hasher.finalize()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sys::tree::Kind;

    #[test]
    fn another_file_system_number_or_moment_is_another_object() {
        let of = |id: &str, ino: u64, sec: i64, nsec: u32| {
            let ctime = Time { sec, nsec };
            let meta = Meta { ino, ctime, ..Meta::sample(Kind::File) };
            Provenance::new(id).of(&meta)
        };
        let here = of("id", 5, 1_600_000_000, 7);
        assert_eq!(here, of("id", 5, 1_600_000_000, 7));
        for other in [
            of("ie", 5, 1_600_000_000, 7),
            of("id", 6, 1_600_000_000, 7),
            of("id", 5, 1_600_000_001, 7),
            of("id", 5, 1_600_000_000, 8),
        ] {
            assert_ne!(here, other);
        }
    }
}
