//! boot0, a boot code for MBRs with a choice of its own: what it starts when nobody presses a key is
//! written in its code, and the active flag says nothing to it (`stand/i386/boot0/boot0.S`,
//! boot0cfg(8)).

use std::ops::Range;

/// How every version begins.
const START: [u8; 12] = [0xfc, 0x31, 0xc0, 0x8e, 0xc0, 0x8e, 0xd8, 0x8e, 0xd0, 0xbc, 0x00, 0x7c];
/// What the versions are told apart by, where it is, and where they keep their default.
const WORD: &[u8] = b"Drive ";
const VERSIONS: [(usize, usize); 2] = [(0x1b2, 0x1b9), (0x1ae, 0x1b5)];
/// The defaults that mean a slice; others are the next drive and the network.
const SLICES: u8 = 4;

/// Where the default is kept, if this first sector of a medium holds boot0.
pub fn place(sector: &[u8]) -> Option<usize> {
    let is_there = |at: usize, what: &[u8]| sector.get(at..).is_some_and(|s| s.starts_with(what));
    let version = VERSIONS.into_iter().find(|&(word, _)| is_there(word, WORD));
    version.filter(|_| is_there(0, &START)).map(|(_, place)| place)
}

/// What boot0 writes back when it has started something, if this first sector holds it: the next drive
/// (`nxtdrv`), and the default behind it.
pub fn remembered(sector: &[u8]) -> Option<Range<usize>> {
    place(sector).map(|place| place - 1..place + 1)
}

/// The slice that boot0 starts by itself, from 1; 0 where it is another drive or the network. `None`
/// where the sector holds something else than boot0.
pub fn default(sector: &[u8]) -> Option<u32> {
    let choice = *sector.get(place(sector)?)?;
    Some(if choice < SLICES { u32::from(choice) + 1 } else { 0 })
}

/// Makes this slice the default, where the sector holds boot0.
pub fn set_default(sector: &mut [u8], slice: u32) {
    if let Some(place) = place(sector)
        && let Ok(choice) = u8::try_from(slice.saturating_sub(1))
    {
        sector[place] = choice;
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// A sector that boot0cfg(8) would know, of either version.
    pub(crate) fn sector(version: usize, choice: u8) -> Vec<u8> {
        let mut sector = vec![0; 512];
        sector[..START.len()].copy_from_slice(&START);
        let (word, place) = VERSIONS[version];
        sector[word..word + WORD.len()].copy_from_slice(WORD);
        sector[place] = choice;
        sector[510..].copy_from_slice(&[0x55, 0xaa]);
        sector
    }

    #[test]
    fn the_default_of_either_version() {
        for version in 0..2 {
            for (choice, slice) in [(0, 1), (1, 2), (3, 4), (4, 0), (5, 0)] {
                let mut sector = sector(version, choice);
                assert_eq!(default(&sector), Some(slice));
                let before = sector.clone();
                set_default(&mut sector, 2);
                assert_eq!(default(&sector), Some(2));
                let changed = (0..512).filter(|&n| sector[n] != before[n]).count();
                assert_eq!(changed, usize::from(choice != 1));
            }
        }
    }

    #[test]
    fn other_code_is_not_boot0() {
        let whole = sector(0, 1);
        for at in (0..START.len()).chain(0x1b2..0x1b8) {
            let mut other = whole.clone();
            other[at] ^= 1;
            assert_eq!(default(&other), None, "{at}");
            set_default(&mut other, 1);
            assert_eq!(other[0x1b9], 1, "it is left alone");
        }
        assert_eq!(default(&[]), None);
        assert_eq!(default(&whole[..0x1b9]), None);
    }
}
