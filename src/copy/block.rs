//! Copying a file system by its blocks: what is in use, in the order of the device.
//!
//! The body goes first, is flushed and read back; only then the head, and last of it the key: the
//! superblock, without which nobody takes the target for a file system. So there is none on it
//! before everything else is on the medium and proved.
//!
//! Pieces that are only a little apart are written as one: `GAP`. What lies between them is free,
//! and becomes zeros, which are proved as all the rest is. The source's bytes there would not be
//! the same in two copies, and may be of a file that somebody meant to be gone.

use std::collections::VecDeque;
use std::io::{self, Read, Write};
use std::ops::Range;
use std::path::Path;
use std::sync::{Mutex, PoisonError};

use super::content::Discard;
use super::progress::{Monitor, interrupted};
use super::stream::{Buffer, Fault as StreamFault, Ring, Side};
use crate::error::{Error, Kind, Result};
use crate::record::digest::{Digest, Sums};
use crate::sys::offset::ReadAt;
use crate::table::superblock::WINDOW;
use crate::ufs::{Fault, Image, Piece};

/// Free bytes between two pieces that are written through: a page or two of flash, of which a part
/// costs the medium what the whole does.
const GAP: u64 = 16 << 10;
/// Every so many bytes of the stream have a CRC of their own: 4 KiB of memory for a GiB.
const PROOF: u64 = 1 << 20;
/// Bytes in a request.
const REQUEST: usize = 1 << 20;
/// What is compared with the target is written in units of this.
const UNIT: usize = 64 << 10;
/// More than any file system's head; one that says otherwise is not to be held in memory.
const HEAD_MAX: u64 = 4 << 20;

/// What is to be copied.
#[derive(Debug)]
pub enum Content {
    /// The fragments in use of a UFS2, under another identity.
    Ufs(Image),
    /// All of so many bytes, whatever they are.
    Whole(u64),
}

impl Content {
    /// Bytes of the file system: a target must have as many.
    pub fn size(&self) -> u64 {
        match self {
            Self::Ufs(image) => image.superblock().bytes(),
            Self::Whole(size) => *size,
        }
    }

    /// Whether it can be made larger on a device of `size` bytes.
    pub fn can_grow(&self, size: u64) -> bool {
        match self {
            Self::Ufs(image) => image.superblock().can_grow(size),
            Self::Whole(own) => size > *own,
        }
    }

    /// Bytes that every piece is a multiple of: no less than a sector of the target.
    pub fn unit(&self) -> u64 {
        match self {
            Self::Ufs(image) => image.superblock().fragment.into(),
            Self::Whole(size) if size.is_multiple_of(4096) => 4096,
            Self::Whole(_) => 512,
        }
    }

    /// Bytes that a copy is made of.
    pub fn used(&self) -> u64 {
        match self {
            Self::Ufs(image) => image.used(),
            Self::Whole(size) => *size,
        }
    }

    /// What is written last.
    fn head(&self) -> Range<u64> {
        match self {
            Self::Ufs(image) => image.start()..image.head_end(),
            Self::Whole(size) => 0..(WINDOW as u64).min(*size),
        }
    }

    /// The part of the head that is written last of all. Of what is not UFS, the superblocks of ext
    /// and XFS are in the first 4 KiB.
    fn key(&self) -> Range<u64> {
        match self {
            Self::Ufs(image) => image.key(),
            Self::Whole(size) => 0..4096.min(*size),
        }
    }

    fn body(&self) -> Range<u64> {
        self.head().end..self.size()
    }

    fn pieces<'a, R: ReadAt>(&'a self, source: &'a R, window: Range<u64>) -> Sequence<'a> {
        match self {
            Self::Ufs(image) => Box::new(image.pieces(source, window)),
            Self::Whole(size) => {
                let all = window.start..window.end.min(*size);
                Box::new((!all.is_empty()).then_some(Ok(Piece::Same(all))).into_iter())
            }
        }
    }
}

type Sequence<'a> = Box<dyn Iterator<Item = std::result::Result<Piece, Fault>> + Send + 'a>;

/// Where a copy goes.
pub trait Target {
    /// Writes all of `data` at `offset` (bytes).
    ///
    /// # Errors
    /// Those of pwrite(2).
    fn write_at(&mut self, offset: u64, data: &[u8]) -> io::Result<()>;
    /// Returns when everything is on the medium.
    ///
    /// # Errors
    /// Those of fsync(2).
    fn flush(&mut self) -> io::Result<()>;
}

/// A body that was written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Body {
    /// Bytes that the target has of it.
    pub bytes: u64,
    /// Those that were written; the others were there already.
    pub written: u64,
    sums: Sums,
}

/// A copy under way between two devices.
#[derive(Debug)]
pub struct Copy<'a, R> {
    /// What is copied.
    pub content: &'a Content,
    /// From where.
    pub source: &'a R,
    /// What the source and the target are called, for messages.
    pub names: (&'a Path, &'a Path),
    /// Progress, and whether to stop.
    pub monitor: &'a Monitor,
}

impl<R: ReadAt> Copy<'_, R> {
    /// Writes everything but the head, and flushes. With `old`, which reads the target, what is
    /// there already is not written.
    ///
    /// # Errors
    /// The first failure in the order of the device, with its offset there.
    pub fn body<T: Target>(&self, target: &mut T, old: Option<&dyn ReadAt>) -> Result<Body> {
        let runs = Mutex::new(VecDeque::new());
        let old = old.map(|old| (old, Buffer::new(REQUEST)));
        let mut writer = Writer { target, old, runs: &runs, written: 0, at: 0 };
        let (bytes, sums) = {
            let mut feed = Feed::new(self.pieces(self.content.body()), Bytes::Of(self.source));
            feed.runs = Some(&runs);
            self.stream(&mut feed, &mut writer, |writer| writer.at, self.names.0)?
        };
        let written = writer.written;
        target.flush().map_err(|e| self.failed("flushing", &e))?;
        Ok(Body { bytes, written, sums })
    }

    /// Reads the body back: `target` must answer from the medium.
    ///
    /// # Errors
    /// It is not what was written, with the offset of the first MiB of pieces that is not.
    pub fn prove<T: ReadAt>(&self, body: &Body, target: &T) -> Result<()> {
        let mut feed = Feed::new(self.pieces(self.content.body()), Bytes::Back(target));
        let (_, sums) = self.stream(&mut feed, &mut Discard, |_| 0, self.names.1)?;
        if sums == body.sums {
            return Ok(());
        }
        let block = sums.blocks.iter().zip(&body.sums.blocks).position(|(a, b)| a != b);
        Err(self.differs(self.place(block.unwrap_or(0) as u64 * PROOF)?))
    }

    /// Reads a head back: `target` must answer from the medium.
    ///
    /// # Errors
    /// It is not what was written.
    pub fn prove_head<T: ReadAt>(&self, head: &Head, target: &T) -> Result<()> {
        let mut found = vec![0; head.bytes.len()];
        let read = target.read_exact_at(head.start, &mut found);
        read.map_err(|e| Error::io("reading", &e).path(self.names.1).at(head.start))?;
        match found.iter().zip(&head.bytes).position(|(a, b)| a != b) {
            Some(index) => Err(self.differs(head.start + index as u64)),
            None => Ok(()),
        }
    }

    fn differs(&self, offset: u64) -> Error {
        let error = Error::new(Kind::Differs, "reading back", "it is not what was written");
        error.path(self.names.1).at(offset).hint("the medium does not keep what is written to it")
    }

    /// The target failed.
    fn failed(&self, doing: &str, error: &io::Error) -> Error {
        Error::io(doing, error).path(self.names.1)
    }

    /// Writes the head, the key last and after a flush. Returns it, for [`Copy::prove_head`].
    ///
    /// # Errors
    /// As [`Copy::body`].
    pub fn head<T: Target>(&self, target: &mut T) -> Result<Head> {
        let range = self.content.head();
        let (start, length) = (range.start, range.end - range.start);
        if length > HEAD_MAX {
            return Err(Error::refused(format!("its metadata begin with {length} bytes")));
        }
        let mut feed = Feed::new(self.pieces(range), Bytes::Of(self.source));
        let mut bytes = vec![0; usize::try_from(length).unwrap_or(0)];
        let mut filled = 0;
        // All of it is in use: the pieces follow each other.
        while filled < bytes.len() {
            match feed.read(&mut bytes[filled..]) {
                Ok(0) => return Err(Error::refused("blocks of its metadata are missing")),
                Ok(n) => filled += n,
                Err(e) => return Err(feed.failure(&e, self.names.0)),
            }
        }
        let key = self.content.key();
        let index = |at: u64| usize::try_from(at - start).unwrap_or(usize::MAX);
        let mut write = |range: Range<u64>| {
            let part = bytes.get(index(range.start)..index(range.end)).unwrap_or_default();
            let written = target.write_at(range.start, part);
            written.map_err(|e| self.failed("writing", &e).at(range.start))
        };
        write(start..key.start)?;
        write(key.end..start + length)?;
        target.flush().map_err(|e| self.failed("flushing", &e))?;
        let part = &bytes[index(key.start)..index(key.end)];
        let written = target.write_at(key.start, part);
        written.map_err(|e| self.failed("writing", &e).at(key.start))?;
        target.flush().map_err(|e| self.failed("flushing", &e))?;
        Ok(Head { start, bytes })
    }

    fn pieces(&self, window: Range<u64>) -> Sequence<'_> {
        self.content.pieces(self.source, window)
    }

    /// Where byte `position` of the body's stream lies.
    fn place(&self, mut position: u64) -> Result<u64> {
        let mut end = None;
        for piece in self.pieces(self.content.body()) {
            let range = piece?.range();
            let gap = end.map_or(0, |end| range.start - end);
            let gap = if gap <= GAP { gap } else { 0 };
            if position < gap + (range.end - range.start) {
                return Ok((range.start + position).saturating_sub(gap));
            }
            position -= gap + (range.end - range.start);
            end = Some(range.end);
        }
        Ok(self.content.size())
    }

    /// Streams `feed` to `sink`; returns how many bytes there were, and their checksums.
    fn stream<D: ReadAt + ?Sized, W: Write>(
        &self,
        feed: &mut Feed<'_, D>,
        sink: &mut W,
        place: impl Fn(&W) -> u64,
        read_from: &Path,
    ) -> Result<(u64, Sums)> {
        // How many gaps there are is known at the end only.
        let mut digest = Digest::in_blocks(u64::MAX, PROOF);
        let tick = |bytes| self.monitor.passing(bytes);
        match Ring::new(REQUEST).stream(feed, sink, u64::MAX, &mut digest, &tick) {
            Ok(done) => Ok((done, digest.finish())),
            Err(StreamFault { side, source, .. }) => Err(match (side, self.monitor.stopped()) {
                (Side::Stopped, Some(signal)) => interrupted(signal),
                (Side::Write, _) => self.failed("writing", &source).at(place(sink)),
                _ => feed.failure(&source, read_from),
            }),
        }
    }
}

/// A head that was written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Head {
    start: u64,
    bytes: Vec<u8>,
}

impl Head {
    /// Bytes of it.
    pub fn bytes(&self) -> u64 {
        self.bytes.len() as u64
    }
}

/// Where the bytes of the pieces come from.
enum Bytes<'a, D: ?Sized> {
    /// From the source, or from the piece itself; gaps are zeros.
    Of(&'a D),
    /// Everything from the target.
    Back(&'a D),
}

/// What is between two places of the stream.
enum Part {
    Piece(Piece),
    Gap(Range<u64>),
}

/// The pieces as one stream of bytes, gaps among them.
struct Feed<'a, D: ?Sized> {
    pieces: Sequence<'a>,
    /// The piece that follows a gap.
    next: Option<Piece>,
    /// What is being read, and where in it.
    part: Option<Part>,
    at: u64,
    bytes: Bytes<'a, D>,
    /// Where what was read is to be written, for the writer.
    runs: Option<&'a Mutex<VecDeque<Range<u64>>>>,
    fault: Option<Fault>,
}

impl<'a, D: ReadAt + ?Sized> Feed<'a, D> {
    fn new(pieces: Sequence<'a>, bytes: Bytes<'a, D>) -> Self {
        Self { pieces, next: None, part: None, at: 0, bytes, runs: None, fault: None }
    }

    /// The error behind what a read returned.
    fn failure(&mut self, error: &io::Error, device: &Path) -> Error {
        let error = match self.fault.take() {
            Some(fault) => fault.into(),
            None => Error::io("reading", error).at(self.at),
        };
        error.path(device)
    }

    /// Goes on to the next part; `false` where there is none.
    fn advance(&mut self) -> io::Result<bool> {
        let piece = match self.next.take() {
            Some(piece) => piece,
            None => match self.pieces.next() {
                None => return Ok(false),
                Some(Ok(piece)) => piece,
                Some(Err(fault)) => {
                    self.fault = Some(fault);
                    return Err(io::ErrorKind::InvalidData.into());
                }
            },
        };
        let start = piece.range().start;
        let gap = self.at..start;
        if self.part.is_some() && !gap.is_empty() && gap.end - gap.start <= GAP {
            self.next = Some(piece);
            self.part = Some(Part::Gap(gap));
        } else {
            self.part = Some(Part::Piece(piece));
            self.at = start;
        }
        Ok(true)
    }
}

impl<D: ReadAt + ?Sized> Read for Feed<'_, D> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        loop {
            let range = match &self.part {
                Some(Part::Piece(piece)) => piece.range(),
                Some(Part::Gap(range)) => range.clone(),
                None => 0..0,
            };
            if self.at >= range.end {
                if self.advance()? {
                    continue;
                }
                return Ok(0);
            }
            let left = usize::try_from(range.end - self.at).unwrap_or(usize::MAX);
            let length = left.min(buffer.len());
            let buffer = &mut buffer[..length];
            match (&self.bytes, &self.part) {
                (Bytes::Back(device), _) => device.read_exact_at(self.at, buffer)?,
                (Bytes::Of(_), None | Some(Part::Gap(_))) => buffer.fill(0),
                (Bytes::Of(_), Some(Part::Piece(Piece::Other(start, bytes)))) => {
                    let from = usize::try_from(self.at - start).unwrap_or(0);
                    buffer.copy_from_slice(&bytes[from..from + length]);
                }
                (Bytes::Of(device), Some(Part::Piece(Piece::Same(_)))) => {
                    device.read_exact_at(self.at, buffer)?;
                }
            }
            if let Some(runs) = self.runs {
                let run = self.at..self.at + length as u64;
                let mut runs = runs.lock().unwrap_or_else(PoisonError::into_inner);
                match runs.back_mut() {
                    Some(last) if last.end == run.start => last.end = run.end,
                    _ => runs.push_back(run),
                }
            }
            self.at += length as u64;
            return Ok(length);
        }
    }
}

/// The stream's bytes at their places.
struct Writer<'a, T> {
    target: &'a mut T,
    /// The target as it is, and what was read of it.
    old: Option<(&'a dyn ReadAt, Buffer)>,
    runs: &'a Mutex<VecDeque<Range<u64>>>,
    written: u64,
    /// Where it writes.
    at: u64,
}

impl<T: Target> Writer<'_, T> {
    fn put(&mut self, at: u64, data: &[u8]) -> io::Result<()> {
        self.at = at;
        self.target.write_at(at, data)?;
        self.written += data.len() as u64;
        Ok(())
    }

    /// Writes what is another than `found`, which is there; neighbours at once.
    fn put_changed(&mut self, found: &[u8], at: u64, data: &[u8]) -> io::Result<()> {
        let mut changed: Option<Range<usize>> = None;
        let mut start = 0;
        while start < data.len() {
            // Units of the device, so that the same ones are compared whatever the requests are.
            let skew = usize::try_from((at + start as u64) % UNIT as u64).unwrap_or(0);
            let end = data.len().min(start + UNIT - skew);
            if data[start..end] != found[start..end] {
                changed = match changed.take() {
                    Some(run) if run.end == start => Some(run.start..end),
                    Some(run) => {
                        self.put(at + run.start as u64, &data[run])?;
                        Some(start..end)
                    }
                    None => Some(start..end),
                };
            }
            start = end;
        }
        changed.map_or(Ok(()), |run| self.put(at + run.start as u64, &data[run]))
    }
}

impl<T: Target> Write for Writer<'_, T> {
    fn write(&mut self, data: &[u8]) -> io::Result<usize> {
        let front = {
            let mut runs = self.runs.lock().unwrap_or_else(PoisonError::into_inner);
            let Some(front) = runs.front_mut() else { return Ok(0) };
            let length = (front.end - front.start).min(data.len() as u64);
            let now = front.start..front.start + length;
            front.start = now.end;
            if front.start >= front.end {
                runs.pop_front();
            }
            now
        };
        let length = usize::try_from(front.end - front.start).unwrap_or(0);
        let data = &data[..length];
        match self.old.take() {
            Some((old, mut buffer)) => {
                self.at = front.start;
                // The stream's requests are no longer than this buffer.
                let found = &mut buffer.data_mut()[..length];
                // What cannot be read any more is written.
                match old.read_exact_at(front.start, found) {
                    Ok(()) => self.put_changed(found, front.start, data)?,
                    Err(_) => self.put(front.start, data)?,
                }
                self.old = Some((old, buffer));
            }
            None => self.put(front.start, data)?,
        }
        Ok(length)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests;
