//! CRC-32 of a file: one for the whole and one per block, so that a difference has an offset.
//!
//! The CRC is the common one (IEEE 802.3, as gzip and zlib compute it) over the file's logical
//! content, holes being zeros. A hole costs the logarithm of its length, not its length.

use std::sync::LazyLock;

use crc32fast::Hasher;

/// The smallest block: below it the whole file's CRC is the only one.
pub const BLOCK_MIN: u64 = 64 << 10;
/// At most this many blocks in a file: with 8 digits each they fit a manifest line of 2 KiB.
const BLOCKS_MAX: u64 = 256;

/// Bytes per block for a file of `size` bytes: a power of two, at least [`BLOCK_MIN`].
pub fn block_size(size: u64) -> u64 {
    size.div_ceil(BLOCKS_MAX).max(1).checked_next_power_of_two().unwrap_or(1 << 63).max(BLOCK_MIN)
}

/// The finished checksums of a file.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Sums {
    /// CRC-32 of everything.
    pub whole: u32,
    /// CRC-32 of each block of [`block_size`] bytes; empty where one block holds the whole file.
    pub blocks: Vec<u32>,
}

impl Sums {
    /// Offset of the first block in which two files of `size` bytes differ; `None` where they
    /// agree. Without blocks that is 0.
    pub fn first_difference(&self, other: &Self, size: u64) -> Option<u64> {
        if self == other {
            return None;
        }
        let block = self.blocks.iter().zip(&other.blocks).position(|(a, b)| a != b);
        Some(block.map_or(0, |n| n as u64 * block_size(size)))
    }
}

/// CRC-32 of `length` zeros, by doubling.
fn zeros(mut length: u64) -> Hasher {
    static BYTE: LazyLock<Hasher> = LazyLock::new(|| {
        let mut byte = Hasher::new();
        byte.update(&[0]);
        byte
    });
    let mut power = BYTE.clone();
    let mut run = Hasher::new();
    while length > 0 {
        if length & 1 == 1 {
            run.combine(&power);
        }
        length >>= 1;
        if length > 0 {
            let half = power.clone();
            power.combine(&half);
        }
    }
    run
}

/// Takes the checksums of a file of known size while its bytes go by.
#[derive(Clone, Debug)]
pub struct Digest {
    block: u64,
    many: bool,
    current: Hasher,
    filled: u64,
    /// `None` before the first block is whole.
    whole: Option<Hasher>,
    blocks: Vec<u32>,
    zero_block: Option<Hasher>,
}

impl Digest {
    /// For a file that has `size` bytes.
    pub fn new(size: u64) -> Self {
        Self::in_blocks(size, block_size(size))
    }

    /// For `size` bytes with a CRC for every `block` of them.
    pub fn in_blocks(size: u64, block: u64) -> Self {
        Self {
            block,
            many: size > block,
            current: Hasher::new(),
            filled: 0,
            whole: None,
            blocks: Vec::new(),
            zero_block: None,
        }
    }

    /// The next bytes.
    pub fn update(&mut self, mut data: &[u8]) {
        while !data.is_empty() {
            let room = usize::try_from(self.block - self.filled).unwrap_or(usize::MAX);
            let (now, later) = data.split_at(room.min(data.len()));
            self.current.update(now);
            self.advance(now.len() as u64);
            data = later;
        }
    }

    /// The next `length` bytes are a hole.
    pub fn zeros(&mut self, mut length: u64) {
        while length > 0 {
            let now = length.min(self.block - self.filled);
            if now == self.block {
                // Long holes are made of equal blocks: take the CRC of one once.
                let block = self.block;
                self.current = self.zero_block.get_or_insert_with(|| zeros(block)).clone();
            } else {
                self.current.combine(&zeros(now));
            }
            self.advance(now);
            length -= now;
        }
    }

    fn advance(&mut self, length: u64) {
        self.filled += length;
        if self.filled == self.block {
            self.close_block();
        }
    }

    fn close_block(&mut self) {
        let block = std::mem::take(&mut self.current);
        if self.many {
            self.blocks.push(block.clone().finalize());
        }
        // Most files have one block, and combining takes longer than the CRC of a small one.
        match &mut self.whole {
            Some(whole) => whole.combine(&block),
            None => self.whole = Some(block),
        }
        self.filled = 0;
    }

    /// No more bytes.
    pub fn finish(mut self) -> Sums {
        if self.filled > 0 {
            self.close_block();
        }
        let whole = self.whole.map_or(0, Hasher::finalize);
        Sums { whole, blocks: self.blocks }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn of(data: &[u8]) -> Sums {
        let mut digest = Digest::new(data.len() as u64);
        digest.update(data);
        digest.finish()
    }

    #[test]
    fn known_value() {
        assert_eq!(of(b"123456789").whole, 0xcbf4_3926);
        assert_eq!(of(b"").whole, 0);
    }

    #[test]
    fn a_tebibyte_hole_takes_no_time() {
        let mut digest = Digest::new(1 << 40);
        digest.zeros(1 << 40);
        let sums = digest.finish();
        assert_eq!(sums.blocks.len(), 256);
        assert!(sums.blocks.iter().all(|b| *b == sums.blocks[0]));
    }

    #[test]
    fn blocks_never_exceed_the_bound() {
        for size in [0, 1, BLOCK_MIN, BLOCK_MIN + 1, 1 << 24, (1 << 24) + 1, 1 << 45, u64::MAX] {
            assert!(size.div_ceil(block_size(size)) <= 256, "{size}");
        }
    }

    #[test]
    fn a_flipped_byte_has_an_offset() {
        let good = vec![7; 400_000];
        let mut bad = good.clone();
        bad[200_000] = 8;
        let block = block_size(400_000);
        assert_eq!(of(&good).first_difference(&of(&bad), 400_000), Some(200_000 / block * block));
        assert_eq!(of(&good).first_difference(&of(&good), 400_000), None);
    }

    proptest! {
        #[test]
        fn pieces_and_holes_do_not_matter(
            parts in prop::collection::vec((any::<u8>(), 0usize..90_000), 0..6)
        ) {
            let data: Vec<u8> = parts.iter().flat_map(|&(b, n)| std::iter::repeat_n(b & 1, n)).collect();
            let mut digest = Digest::new(data.len() as u64);
            for &(byte, length) in &parts {
                match byte & 1 {
                    0 => digest.zeros(length as u64),
                    one => digest.update(&vec![one; length]),
                }
            }
            let sums = digest.finish();
            prop_assert_eq!(sums.whole, crc32fast::hash(&data));
            let block = usize::try_from(block_size(data.len() as u64)).unwrap();
            if data.len() > block {
                let expected: Vec<u32> = data.chunks(block).map(crc32fast::hash).collect();
                prop_assert_eq!(sums.blocks, expected);
            } else {
                prop_assert!(sums.blocks.is_empty());
            }
        }
    }
}
