//! Comparing one object with its line.

use std::ffi::{OsStr, OsString};
use std::io::{self, Read, Seek, SeekFrom};
use std::path::PathBuf;

use super::{Batch, Checked, Difference, compare, unreadable};
use crate::copy::attributes;
use crate::copy::content::{self, Discard};
use crate::copy::progress::{Monitor, interrupted};
use crate::copy::stack::open_below;
use crate::copy::stream::{Fault, Ring, Side};
use crate::error::Result;
use crate::record::digest::{Sums, block_size};
use crate::record::manifest::Object;
use crate::sys::tree::{Dir, File, Kind, Meta, Time};

/// Smaller files are read through the system's cache: asking for more takes longer than it saves.
const CACHED_MAX: u64 = 16 << 10;

pub(super) fn check_batch<D: Dir>(
    ring: &mut Ring,
    batch: &Batch<D>,
    reference: Option<&D>,
    monitor: &Monitor,
) -> Result<Vec<Checked>> {
    let check = |(name, object): &(OsString, Object)| {
        let path = batch.path.join(name);
        let dir = &*batch.dir;
        let found = Checked::default();
        let touched = None;
        let mut check = Check { ring, dir, name, path, object, reference, monitor, touched, found };
        check.run()?;
        monitor.finished(1);
        Ok(check.found)
    };
    batch.entries.iter().map(check).collect()
}

struct Check<'a, D> {
    ring: &'a mut Ring,
    dir: &'a D,
    name: &'a OsStr,
    path: PathBuf,
    object: &'a Object,
    reference: Option<&'a D>,
    monitor: &'a Monitor,
    touched: Option<Time>,
    found: Checked,
}

impl<D: Dir> Check<'_, D> {
    fn different(&mut self, what: impl Into<String>, offset: Option<u64>) {
        let path = self.path.clone();
        let touched = self.touched;
        self.found.differences.push(Difference { path, offset, what: what.into(), touched });
    }

    fn run(&mut self) -> Result<()> {
        let result = if self.object.kind == Kind::File { self.file()? } else { self.special() };
        if let Err(e) = result {
            if e.kind() == io::ErrorKind::NotFound {
                self.different("missing", None);
            } else {
                self.different(unreadable(&e), None);
            }
        }
        Ok(())
    }

    /// The outer error stops everything (a signal), the inner one is a difference.
    fn file(&mut self) -> Result<io::Result<()>> {
        self.found.file = true;
        let mut file = match self.dir.open_file(self.name) {
            Ok(file) => file,
            Err(e) => {
                if self.dir.stat(self.name).is_ok_and(|m| m.kind != Kind::File) {
                    self.different("type", None);
                    return Ok(Ok(()));
                }
                return Ok(Err(e));
            }
        };
        let (meta, xattrs) = match file.meta().and_then(|m| Ok((m, file.xattrs()?))) {
            Ok(read) => read,
            Err(e) => return Ok(Err(e)),
        };
        self.touched = Some(meta.ctime);
        self.compare(&meta, attributes::checksum(&xattrs));
        if meta.kind != Kind::File {
            return Ok(Ok(()));
        }
        if meta.size != self.object.size {
            self.different("size", Some(meta.size.min(self.object.size)));
            return Ok(Ok(()));
        }
        if meta.size > CACHED_MAX {
            file.past_the_cache();
        }
        let tick = |bytes| self.monitor.passing(bytes);
        match content::pass(&mut file, &mut Discard, &meta, self.ring, &tick) {
            Ok(passed) => {
                self.found.bytes += passed.bytes;
                let expected = self.object.sums.clone().unwrap_or_default();
                if passed.short {
                    self.different("size", Some(passed.data_end));
                } else if let Some(block) = expected.first_difference(&passed.sums, meta.size) {
                    let offset = self.narrow(&mut file, &expected, block).unwrap_or(block);
                    self.different("content", Some(offset));
                }
            }
            Err(Fault { side: Side::Stopped, .. }) => {
                return Err(interrupted(self.monitor.stopped().unwrap_or(nix::libc::SIGINT)));
            }
            Err(fault) => self.different(unreadable(&fault.source), Some(fault.offset)),
        }
        Ok(Ok(()))
    }

    fn special(&mut self) -> io::Result<()> {
        let meta = self.dir.stat(self.name)?;
        let xattrs = self.dir.xattrs_of(self.name)?;
        self.compare(&meta, attributes::checksum(&xattrs));
        if meta.kind == Kind::Symlink
            && self.object.kind == Kind::Symlink
            && self.dir.read_link(self.name)? != self.object.link
        {
            self.different("link target", None);
        }
        Ok(())
    }

    fn compare(&mut self, meta: &Meta, xattrs: Option<u32>) {
        for what in compare::<D>(self.object, meta, xattrs) {
            self.different(what, None);
        }
        if let Some(group) = self.object.group {
            self.found.link = Some((group, meta.ino, meta.nlink, self.path.clone()));
        }
    }

    /// The first differing byte in the block at `offset`, where the reference still has the
    /// content that the manifest tells; `None` where it cannot be told.
    fn narrow(&self, file: &mut D::File, expected: &Sums, offset: u64) -> Option<u64> {
        let size = self.object.size;
        let block = block_size(size);
        let number = usize::try_from(offset / block).ok()?;
        let crc = expected.blocks.get(number).copied().unwrap_or(expected.whole);
        let mut original = {
            let dir = open_below(self.reference?, self.path.parent()?).ok()?;
            dir.open_file(self.name).ok()?
        };
        if original.meta().ok()?.size != size {
            return None;
        }
        // Compared in pieces: a block of a huge file is huge.
        let length = block.min(size - offset);
        original.seek(SeekFrom::Start(offset)).ok()?;
        file.seek(SeekFrom::Start(offset)).ok()?;
        let mut hasher = crc32fast::Hasher::new();
        let (mut ours, mut theirs) = (vec![0; 64 << 10], vec![0; 64 << 10]);
        let mut first = None;
        let mut done = 0;
        while done < length {
            let piece = usize::try_from((length - done).min(64 << 10)).ok()?;
            original.read_exact(&mut theirs[..piece]).ok()?;
            hasher.update(&theirs[..piece]);
            if first.is_none() {
                file.read_exact(&mut ours[..piece]).ok()?;
                first =
                    (0..piece).find(|&n| ours[n] != theirs[n]).map(|n| offset + done + n as u64);
            }
            done += piece as u64;
        }
        first.filter(|_| hasher.finalize() == crc)
    }
}
