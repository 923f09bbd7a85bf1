//! In what a medium differs from what was kept of it, and what would make it equal.
//!
//! Which slice boots is not a difference: the active flag of an MBR, the boot attributes of a GPT
//! and what boot0 remembers are taken from the medium as long as it tells them. An MBR without that
//! flag, or with several, tells nothing.

use super::super::{boot0, gpt};
use super::{Medium, Piece, What};

/// The four entries of an MBR.
const ENTRIES: std::ops::Range<usize> = 446..510;

/// A piece that is not on the medium as it was kept.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Change<'a> {
    /// Which one.
    pub piece: &'a Piece,
    /// What belongs there.
    pub bytes: Vec<u8>,
    /// The first byte of the medium that differs.
    pub offset: u64,
    /// Whether there is nothing there.
    pub zeros: bool,
    /// Whether `gpart recover` can make it from the other copy of the GPT.
    pub recoverable: bool,
}

/// Compares. `now` has the bytes of the medium for each of the pieces, in their order.
pub fn compare<'a>(medium: &'a Medium, now: &[Vec<u8>]) -> Vec<Change<'a>> {
    let wanted = expected(medium, now);
    let whole = Gpt::COPIES.map(|copy| copy.is_whole(medium, now));
    let mut changes = Vec::new();
    for ((piece, bytes), now) in medium.pieces.iter().zip(wanted).zip(now) {
        let differs = |(n, byte): (usize, &u8)| now.get(n) != Some(byte);
        let Some(first) = bytes.iter().enumerate().position(differs) else { continue };
        let other = match piece.what {
            What::GptHeader | What::GptEntries => whole[1],
            What::BackupHeader | What::BackupEntries => whole[0],
            _ => false,
        };
        changes.push(Change {
            piece,
            bytes,
            offset: piece.offset + first as u64,
            zeros: now.iter().all(|&b| b == 0),
            recoverable: other,
        });
    }
    changes
}

/// What belongs on the medium: the pieces, with the choice of what boots as it is now.
fn expected(medium: &Medium, now: &[Vec<u8>]) -> Vec<Vec<u8>> {
    let mut wanted: Vec<Vec<u8>> = medium.pieces.iter().map(|p| p.bytes.clone()).collect();
    let first = medium.pieces.iter().position(|p| p.what == What::Mbr);
    if let Some(n) = first
        && let Some(now) = now.get(n)
    {
        keep_choice(&mut wanted[n], now);
    }
    // Where both copies are whole and say different things, the primary counts, as for GEOM.
    let from = Gpt::COPIES.into_iter().find(|copy| copy.is_whole(medium, now));
    if let Some(from) = from
        && let Some((_, array)) = from.places(medium)
    {
        for copy in Gpt::COPIES {
            let Some((header_at, array_at)) = copy.places(medium) else { continue };
            let header = wanted[header_at].clone();
            gpt::take_boot_bits(&header, &mut wanted[array_at], &now[array]);
            let array = wanted[array_at].clone();
            gpt::seal(&mut wanted[header_at], &array);
        }
    }
    wanted
}

/// Takes the active flags from the first sector as it is now, where all slices are in their
/// places and one of them is active, and what boot0 remembers.
fn keep_choice(wanted: &mut [u8], now: &[u8]) {
    let (Some(kept), Some(entries)) = (wanted.get(ENTRIES), now.get(ENTRIES)) else { return };
    let status = |entries: &[u8]| entries.chunks(16).all(|e| matches!(e[0], 0 | 0x80));
    let places = |entries: &[u8]| entries.chunks(16).flat_map(|e| e[1..].to_vec()).collect();
    let (here, there): (Vec<u8>, Vec<u8>) = (places(kept), places(entries));
    // The boot code starts the one that is active: none, or several, tell of no choice.
    let chosen = entries.chunks(16).filter(|e| e[0] == 0x80).count() == 1;
    if here == there && status(kept) && status(entries) && chosen {
        for n in 0..4 {
            wanted[ENTRIES.start + n * 16] = now[ENTRIES.start + n * 16];
        }
    }
    if let Some(kept) =
        boot0::remembered(wanted).filter(|_| boot0::place(wanted) == boot0::place(now))
    {
        wanted[kept.clone()].copy_from_slice(&now[kept]);
    }
}

/// One of the copies of a GPT, by the pieces that it is made of.
#[derive(Clone, Copy)]
struct Gpt {
    header: What,
    array: What,
}

impl Gpt {
    const COPIES: [Self; 2] = [
        Self { header: What::GptHeader, array: What::GptEntries },
        Self { header: What::BackupHeader, array: What::BackupEntries },
    ];

    /// Which pieces those are.
    fn places(self, medium: &Medium) -> Option<(usize, usize)> {
        let find = |what| medium.pieces.iter().position(|p| p.what == what);
        Some((find(self.header)?, find(self.array)?))
    }

    /// Whether the copy is on the medium and says what was kept, whatever boots.
    fn is_whole(self, medium: &Medium, now: &[Vec<u8>]) -> bool {
        let Some((header, array)) = self.places(medium) else { return false };
        let (Some(own), Some(entries)) = (now.get(header), now.get(array)) else { return false };
        if !gpt::is_whole(own, entries) {
            return false;
        }
        let mut kept = medium.pieces[header].bytes.clone();
        let mut kept_entries = medium.pieces[array].bytes.clone();
        gpt::take_boot_bits(&kept, &mut kept_entries, entries);
        gpt::seal(&mut kept, &kept_entries);
        kept == *own && kept_entries == *entries
    }
}
