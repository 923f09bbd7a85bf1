//! Writing over a file only what differs.

use std::io::{self, Read, Seek, SeekFrom, Write};

/// Compared and written in blocks of this size: the least that a file system writes.
const BLOCK: usize = 4096;
/// Read in pieces of this size.
const PIECE: usize = 64 << 10;

/// Takes the new content from the start on, and writes to the file where that is not what it has.
#[derive(Debug)]
pub(super) struct Patch<'a, F> {
    file: &'a mut F,
    /// Bytes that the file has.
    size: u64,
    position: u64,
    written: u64,
    /// What the file has here.
    old: Vec<u8>,
}

impl<'a, F: Read + Write + Seek> Patch<'a, F> {
    /// For a file of `size` bytes.
    pub(super) fn new(file: &'a mut F, size: u64) -> Self {
        Self { file, size, position: 0, written: 0, old: vec![0; PIECE] }
    }

    /// Bytes that were written.
    pub(super) fn written(&self) -> u64 {
        self.written
    }

    /// Reads what the file has at the position: up to `length` bytes of it.
    fn look(&mut self, length: usize) -> io::Result<usize> {
        let left = usize::try_from(self.size.saturating_sub(self.position)).unwrap_or(usize::MAX);
        let wanted = length.min(left);
        if wanted > 0 {
            self.file.seek(SeekFrom::Start(self.position))?;
            self.file.read_exact(&mut self.old[..wanted])?;
        }
        Ok(wanted)
    }
}

impl<F: Read + Write + Seek> Write for Patch<'_, F> {
    fn write(&mut self, data: &[u8]) -> io::Result<usize> {
        let data = &data[..data.len().min(PIECE)];
        let there = self.look(data.len())?;
        let differs = |from: usize| {
            let to = (from + BLOCK).min(data.len());
            to > there || data[from..to] != self.old[from..to]
        };
        let mut at = 0;
        while at < data.len() {
            let mut end = at;
            while end < data.len() && differs(end) {
                end = (end + BLOCK).min(data.len());
            }
            if end > at {
                self.file.seek(SeekFrom::Start(self.position + at as u64))?;
                self.file.write_all(&data[at..end])?;
                self.written += (end - at) as u64;
            }
            at = (end + BLOCK).min(data.len());
        }
        self.position += data.len() as u64;
        Ok(data.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        self.file.flush()
    }
}

impl<F: Read + Write + Seek> Seek for Patch<'_, F> {
    fn seek(&mut self, to: SeekFrom) -> io::Result<u64> {
        match to {
            SeekFrom::Start(at) => self.position = at,
            SeekFrom::Current(_) | SeekFrom::End(_) => {
                return Err(io::ErrorKind::Unsupported.into());
            }
        }
        Ok(self.position)
    }
}

#[cfg(test)]
mod tests {
    use std::io::Cursor;

    use proptest::prelude::*;

    use super::*;

    #[test]
    fn one_byte_costs_one_block() {
        let old = vec![7; 300_000];
        for at in [0, 4095, 4096, 200_000, 299_999] {
            let mut new = old.clone();
            new[at] = 8;
            let mut file = Cursor::new(old.clone());
            let mut patch = Patch::new(&mut file, old.len() as u64);
            patch.write_all(&new).unwrap();
            assert_eq!(patch.written(), (BLOCK.min(old.len() - at / BLOCK * BLOCK)) as u64);
            assert!(file.into_inner() == new);
        }
    }

    proptest! {
        #[test]
        fn the_file_becomes_the_new_content(
            old in prop::collection::vec(0u8..2, 0..20_000),
            changes in prop::collection::vec((0usize..30_000, 2u8..), 0..6),
            length in 0usize..30_000,
            pieces in prop::collection::vec(1usize..9000, 1..5),
        ) {
            let mut new = old.clone();
            new.resize(length, 1);
            for (at, byte) in changes {
                if let Some(place) = new.get_mut(at) {
                    *place = byte;
                }
            }
            let mut file = Cursor::new(old.clone());
            let mut patch = Patch::new(&mut file, old.len() as u64);
            let (mut rest, mut n) = (&new[..], 0);
            while !rest.is_empty() {
                // Blocks are counted from where a write begins: that they lie elsewhere than the
                // file's only makes it write more.
                let (now, later) = rest.split_at(pieces[n % pieces.len()].min(rest.len()));
                patch.write_all(now).unwrap();
                (rest, n) = (later, n + 1);
            }
            let written = patch.written();
            let mut there = file.into_inner();
            there.truncate(length);
            prop_assert!(there == new);
            prop_assert!(written > 0 || old.get(..length) == Some(&new[..]));
        }
    }
}
