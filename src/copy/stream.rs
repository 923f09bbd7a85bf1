//! The streaming core: a bounded ring of large aligned buffers between a reader and a writer, with
//! the CRC-32 taken on the way. The tree copy, verify and the raw copy all run on it.

use std::io::{self, Read, Write};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread;

use crate::record::digest::Digest;

/// Direct I/O and page moves want buffers that begin on a page.
const ALIGNMENT: usize = 4096;
/// Buffers in a ring: one being filled, one being emptied, one waiting on each side.
const COUNT: usize = 4;
/// All rings together take at most this, however many cores there are.
const MEMORY: usize = 12 << 20;

/// A buffer whose data begin on a page.
#[derive(Debug)]
pub(super) struct Buffer {
    storage: Vec<u8>,
    start: usize,
    size: usize,
}

impl Buffer {
    pub(super) fn new(size: usize) -> Self {
        // calloc'ed: pages that are never used never become resident.
        let storage = vec![0; size + ALIGNMENT];
        let start = storage.as_ptr().align_offset(ALIGNMENT).min(ALIGNMENT);
        Self { storage, start, size }
    }

    pub(super) fn data(&self) -> &[u8] {
        &self.storage[self.start..self.start + self.size]
    }

    pub(super) fn data_mut(&mut self) -> &mut [u8] {
        &mut self.storage[self.start..self.start + self.size]
    }
}

/// Which side of a stream failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Side {
    /// The reader.
    Read,
    /// The writer.
    Write,
    /// Neither: a signal asked to stop.
    Stopped,
}

/// A stream that did not reach its end.
#[derive(Debug)]
pub struct Fault {
    /// Which side.
    pub side: Side,
    /// Bytes from the stream's start that the failing side had done.
    pub offset: u64,
    /// Why.
    pub source: io::Error,
}

impl Fault {
    fn new(side: Side, offset: u64, source: io::Error) -> Self {
        Self { side, offset, source }
    }
}

/// Told once per buffer how many bytes pass; answers whether to stop, as after SIGINT.
pub type Tick<'a> = &'a (dyn Fn(u64) -> bool + Sync);

/// The buffers of one worker, used again for every file.
#[derive(Debug)]
pub struct Ring {
    buffers: Vec<Buffer>,
    size: usize,
}

impl Ring {
    /// A ring whose buffers hold `size` bytes each, at least one page.
    pub fn new(size: usize) -> Self {
        let size = size.max(ALIGNMENT);
        Self { buffers: (0..COUNT).map(|_| Buffer::new(size)).collect(), size }
    }

    /// A ring for one of `workers` that work at the same time, within the memory bound.
    pub fn for_workers(workers: usize) -> Self {
        let size = MEMORY / COUNT / workers.max(1);
        Self::new((size & !(ALIGNMENT - 1)).clamp(64 << 10, 512 << 10))
    }

    /// Moves up to `length` bytes from `reader` to `writer` and into `digest`; returns how many
    /// there were before the reader ended. What fits one buffer is moved by this thread alone;
    /// more is read by a second thread while this one takes the CRC and writes.
    ///
    /// # Errors
    /// The first failure in stream order, with its offset. Everything before it was written.
    pub fn stream<R: Read + Send, W: Write>(
        &mut self,
        reader: &mut R,
        writer: &mut W,
        length: u64,
        digest: &mut Digest,
        tick: Tick<'_>,
    ) -> Result<u64, Fault> {
        if length <= self.size as u64 {
            let buffer = &mut self.buffers[0];
            let (filled, end) = fill(reader, buffer.data_mut(), length);
            let done = drain(writer, &buffer.data()[..filled], digest, 0, tick)?;
            return match end {
                Err(e) => Err(Fault::new(Side::Read, done, e)),
                Ok(()) => Ok(done),
            };
        }
        self.overlapped(reader, writer, length, digest, tick)
    }

    fn overlapped<R: Read + Send, W: Write>(
        &mut self,
        reader: &mut R,
        writer: &mut W,
        length: u64,
        digest: &mut Digest,
        tick: Tick<'_>,
    ) -> Result<u64, Fault> {
        let (give_empty, take_empty) = sync_channel::<Buffer>(COUNT);
        let (give_full, take_full) = sync_channel::<(Buffer, usize, io::Result<()>)>(COUNT);
        for buffer in self.buffers.drain(..) {
            // The channel holds them all: sending cannot wait, and the receiver is alive.
            let _ = give_empty.send(buffer);
        }
        let (result, mut buffers) = thread::scope(|scope| {
            let filler = scope.spawn(move || read_ahead(reader, length, take_empty, give_full));
            let (result, mut kept) = write_behind(writer, &take_full, &give_empty, digest, tick);
            drop(give_empty);
            kept.extend(take_full.iter().map(|(buffer, ..)| buffer));
            drop(take_full);
            kept.extend(filler.join().unwrap_or_else(|e| std::panic::resume_unwind(e)));
            (result, kept)
        });
        while buffers.len() < COUNT {
            buffers.push(Buffer::new(self.size));
        }
        self.buffers = buffers;
        result
    }
}

/// Reads until `buffer` or `length` is full or the reader ends, whatever short reads come.
fn fill<R: Read>(reader: &mut R, buffer: &mut [u8], length: u64) -> (usize, io::Result<()>) {
    let wanted = usize::try_from(length).unwrap_or(usize::MAX).min(buffer.len());
    // Past the system's cache only whole sectors are read: what comes behind the end does not count.
    let room = wanted.next_multiple_of(ALIGNMENT).min(buffer.len());
    let mut filled = 0;
    while filled < wanted {
        match reader.read(&mut buffer[filled..room]) {
            Ok(0) => break,
            Ok(n) => filled += n,
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            Err(e) => return (filled.min(wanted), Err(e)),
        }
    }
    (filled.min(wanted), Ok(()))
}

/// Takes the CRC of `data` and writes all of it, whatever short writes come.
fn drain<W: Write>(
    writer: &mut W,
    data: &[u8],
    digest: &mut Digest,
    offset: u64,
    tick: Tick<'_>,
) -> Result<u64, Fault> {
    if tick(data.len() as u64) {
        return Err(Fault::new(Side::Stopped, offset, io::ErrorKind::Interrupted.into()));
    }
    digest.update(data);
    let mut written = 0;
    while written < data.len() {
        let at = offset + written as u64;
        match writer.write(&data[written..]) {
            Ok(0) => return Err(Fault::new(Side::Write, at, io::ErrorKind::WriteZero.into())),
            Ok(n) => written += n,
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            Err(e) => return Err(Fault::new(Side::Write, at, e)),
        }
    }
    Ok(offset + written as u64)
}

/// The reading thread: fills what comes empty until the end, an error, or nobody takes it.
fn read_ahead<R: Read>(
    reader: &mut R,
    length: u64,
    take_empty: Receiver<Buffer>,
    give_full: SyncSender<(Buffer, usize, io::Result<()>)>,
) -> Vec<Buffer> {
    let mut left = length;
    while left > 0 {
        let Ok(mut buffer) = take_empty.recv() else { break };
        let (filled, end) = fill(reader, buffer.data_mut(), left);
        left -= filled as u64;
        let last = end.is_err() || (filled < buffer.size && left > 0);
        if let Err(returned) = give_full.send((buffer, filled, end)) {
            return vec![returned.0.0];
        }
        if last {
            break;
        }
    }
    drop(give_full);
    take_empty.into_iter().collect()
}

/// The writing side: empties what comes full. Returns the buffers it still holds.
fn write_behind<W: Write>(
    writer: &mut W,
    take_full: &Receiver<(Buffer, usize, io::Result<()>)>,
    give_empty: &SyncSender<Buffer>,
    digest: &mut Digest,
    tick: Tick<'_>,
) -> (Result<u64, Fault>, Vec<Buffer>) {
    let mut offset = 0;
    let mut kept = Vec::new();
    for (buffer, filled, end) in take_full {
        match drain(writer, &buffer.data()[..filled], digest, offset, tick) {
            Ok(done) => offset = done,
            Err(fault) => return (Err(fault), vec![buffer]),
        }
        if let Err(e) = end {
            return (Err(Fault::new(Side::Read, offset, e)), vec![buffer]);
        }
        if let Err(returned) = give_empty.send(buffer) {
            kept.push(returned.0); // the reader has read everything already
        }
    }
    (Ok(offset), kept)
}

#[cfg(test)]
mod tests {
    use std::io::Cursor;

    use proptest::prelude::*;

    use super::*;

    const GO: Tick<'static> = &|_| false;

    /// Gives or takes `steps[i]` bytes at call `i` (0: EINTR), and fails at byte `fail_at`.
    struct Faulty<T> {
        inner: T,
        steps: Vec<usize>,
        call: usize,
        at: usize,
        fail_at: Option<(usize, i32)>,
    }

    impl<T> Faulty<T> {
        fn new(inner: T, steps: Vec<usize>, fail_at: Option<(usize, i32)>) -> Self {
            Self { inner, steps, call: 0, at: 0, fail_at }
        }

        fn allowed(&mut self, wanted: usize) -> io::Result<usize> {
            let step = self.steps.get(self.call % self.steps.len().max(1)).copied();
            self.call += 1;
            let mut allowed = match step {
                // Interrupted at most every second call, so that there is progress.
                Some(0) if self.call % 2 == 1 => {
                    return Err(io::ErrorKind::Interrupted.into());
                }
                Some(n) => n.max(1).min(wanted),
                None => wanted,
            };
            if let Some((at, errno)) = self.fail_at {
                if self.at >= at {
                    return Err(io::Error::from_raw_os_error(errno));
                }
                allowed = allowed.min(at - self.at);
            }
            Ok(allowed)
        }
    }

    impl<T: Read> Read for Faulty<T> {
        fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
            let allowed = self.allowed(buffer.len())?;
            let n = self.inner.read(&mut buffer[..allowed])?;
            self.at += n;
            Ok(n)
        }
    }

    impl<T: Write> Write for Faulty<T> {
        fn write(&mut self, data: &[u8]) -> io::Result<usize> {
            let allowed = self.allowed(data.len())?;
            let n = self.inner.write(&data[..allowed])?;
            self.at += n;
            Ok(n)
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    fn pattern(length: usize) -> Vec<u8> {
        (0..length).map(|n| u8::try_from(n * 7 % 251).unwrap()).collect()
    }

    fn run(
        data: &[u8],
        length: u64,
        reader: (Vec<usize>, Option<(usize, i32)>),
        writer: (Vec<usize>, Option<(usize, i32)>),
    ) -> (Result<u64, Fault>, Vec<u8>, Digest, Ring) {
        let mut ring = Ring::new(4096);
        let mut digest = Digest::new(length);
        let mut written = Vec::new();
        let result = {
            let mut from = Faulty::new(Cursor::new(data), reader.0, reader.1);
            let mut to = Faulty::new(&mut written, writer.0, writer.1);
            ring.stream(&mut from, &mut to, length, &mut digest, GO)
        };
        (result, written, digest, ring)
    }

    #[test]
    fn buffers_are_aligned() {
        let ring = Ring::new(4096);
        assert!(ring.buffers.iter().all(|b| b.data().as_ptr().addr() % ALIGNMENT == 0));
    }

    #[test]
    fn a_fault_at_every_boundary_is_told_with_its_offset() {
        let data = pattern(4096 * 5 + 17);
        let length = data.len() as u64;
        let boundaries = (0..=5).flat_map(|n| [4096 * n, 4096 * n + 1, (4096 * n).max(1) - 1]);
        for at in boundaries {
            let (result, written, _, ring) =
                run(&data, length, (vec![], Some((at, nix::libc::EIO))), (vec![], None));
            let fault = result.unwrap_err();
            assert_eq!((fault.side, fault.offset), (Side::Read, at as u64));
            assert_eq!(written, data[..at], "what was read before the error is written");
            assert_eq!(ring.buffers.len(), COUNT);
            let (result, written, ..) =
                run(&data, length, (vec![], None), (vec![], Some((at, nix::libc::ENOSPC))));
            let fault = result.unwrap_err();
            assert_eq!((fault.side, fault.offset), (Side::Write, at as u64));
            assert_eq!(fault.source.raw_os_error(), Some(nix::libc::ENOSPC));
            assert_eq!(written, data[..at]);
        }
    }

    #[test]
    fn a_stop_is_seen_at_the_next_buffer() {
        let data = pattern(4096 * 8);
        let asked = std::sync::atomic::AtomicUsize::new(0);
        let stop = |_| asked.fetch_add(1, std::sync::atomic::Ordering::Relaxed) >= 3;
        let mut written = Vec::new();
        let mut digest = Digest::new(data.len() as u64);
        let fault = Ring::new(4096)
            .stream(&mut Cursor::new(&data), &mut written, data.len() as u64, &mut digest, &stop)
            .unwrap_err();
        assert_eq!((fault.side, fault.offset, written.len()), (Side::Stopped, 3 * 4096, 3 * 4096));
    }

    #[test]
    fn a_writer_that_takes_nothing_is_an_error() {
        struct Full;
        impl Write for Full {
            fn write(&mut self, _: &[u8]) -> io::Result<usize> {
                Ok(0)
            }
            fn flush(&mut self) -> io::Result<()> {
                Ok(())
            }
        }
        let mut digest = Digest::new(3);
        let result =
            Ring::new(4096).stream(&mut Cursor::new(b"abc"), &mut Full, 3, &mut digest, GO);
        assert_eq!(result.unwrap_err().source.kind(), io::ErrorKind::WriteZero);
    }

    proptest! {
        #[test]
        fn what_arrives_is_what_was_sent(
            size in 0usize..40_000,
            length in 0usize..40_000,
            reads in prop::collection::vec(0usize..6000, 0..5),
            writes in prop::collection::vec(0usize..6000, 0..5),
        ) {
            let data = pattern(size);
            let (result, written, digest, ring) = run(&data, length as u64, (reads, None), (writes, None));
            let expected = &data[..size.min(length)];
            prop_assert_eq!(result.unwrap(), expected.len() as u64);
            prop_assert_eq!(&written, expected);
            prop_assert_eq!(digest.finish().whole, crc32fast::hash(expected));
            prop_assert_eq!(ring.buffers.len(), COUNT);
        }

        #[test]
        fn a_failing_side_never_writes_anything_wrong(
            size in 1usize..40_000,
            at in 0usize..40_000,
            side in any::<bool>(),
            steps in prop::collection::vec(0usize..6000, 0..5),
        ) {
            let data = pattern(size);
            let fault = Some((at, nix::libc::EIO));
            let (reader, writer) = if side { (fault, None) } else { (None, fault) };
            let (result, written, ..) = run(&data, size as u64, (steps.clone(), reader), (steps, writer));
            if at >= size {
                prop_assert_eq!(result.unwrap(), size as u64);
                prop_assert_eq!(&written, &data);
            } else {
                let fault = result.unwrap_err();
                prop_assert_eq!(fault.offset, at as u64);
                prop_assert_eq!(fault.side == Side::Read, side);
                prop_assert_eq!(&written[..], &data[..at]);
            }
        }
    }
}
