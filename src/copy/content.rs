//! The bytes of one file, holes kept as holes.

use std::io::{self, Cursor, Seek, SeekFrom, Write};

use super::stream::{Fault, Ring, Side, Tick};
use crate::record::digest::{Digest, Sums};
use crate::sys::tree::{File, Meta};

/// Where content goes that is only to be checked.
#[derive(Clone, Copy, Debug, Default)]
pub struct Discard;

impl Write for Discard {
    fn write(&mut self, data: &[u8]) -> io::Result<usize> {
        Ok(data.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Seek for Discard {
    fn seek(&mut self, _: SeekFrom) -> io::Result<u64> {
        Ok(0)
    }
}

/// Content that went by.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Passed {
    /// Checksums of the logical content.
    pub sums: Sums,
    /// Bytes of data, without the holes.
    pub bytes: u64,
    /// One past the last byte of data: beyond it there is only a hole.
    pub data_end: u64,
    /// The file ended before the size that it had.
    pub short: bool,
}

/// Passes the content of `source`, whose metadata are `meta`, to `sink`.
///
/// # Errors
/// The first failure in file order; the offset is the file's.
pub fn pass<S: File, W: Write + Seek>(
    source: &mut S,
    sink: &mut W,
    meta: &Meta,
    ring: &mut Ring,
    tick: Tick<'_>,
) -> Result<Passed, Fault> {
    let mut digest = Digest::new(meta.size);
    let mut passed = Passed { sums: Sums::default(), bytes: 0, data_end: 0, short: false };
    // Asking for holes costs two calls per file: only where fewer blocks are in use than bytes.
    if meta.blocks.saturating_mul(512) >= meta.size {
        let done = ring.stream(source, sink, meta.size, &mut digest, tick)?;
        passed.bytes = done;
        passed.data_end = done;
        passed.short = done < meta.size;
    } else {
        let mut at = 0;
        let fault = |side, offset| move |source| Fault { side, offset, source };
        while let Some(data) = source.next_data(at, meta.size).map_err(fault(Side::Read, at))? {
            digest.zeros(data.start - at);
            at = data.start;
            source.seek(SeekFrom::Start(at)).map_err(fault(Side::Read, at))?;
            sink.seek(SeekFrom::Start(at)).map_err(fault(Side::Write, at))?;
            let wanted = data.end - data.start;
            let done = ring
                .stream(source, sink, wanted, &mut digest, tick)
                .map_err(|f| Fault { offset: f.offset + at, ..f })?;
            at += done;
            passed.bytes += done;
            passed.data_end = at;
            if done < wanted {
                passed.short = true;
                break;
            }
        }
        digest.zeros(meta.size - at.min(meta.size));
    }
    passed.sums = digest.finish();
    Ok(passed)
}

/// Passes content that is in memory to `sink`.
///
/// # Errors
/// `sink` takes no more.
pub fn pass_from_memory<W: Write>(
    content: &[u8],
    sink: &mut W,
    ring: &mut Ring,
    tick: Tick<'_>,
) -> Result<Passed, Fault> {
    let size = content.len() as u64;
    let mut digest = Digest::new(size);
    let bytes = ring.stream(&mut Cursor::new(content), sink, size, &mut digest, tick)?;
    Ok(Passed { sums: digest.finish(), bytes, data_end: bytes, short: false })
}
