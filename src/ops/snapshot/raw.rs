//! One partition copied byte for byte, and read back from the medium.

use std::io::{self, Write};
use std::path::Path;

use crate::copy::content::Discard;
use crate::copy::pool;
use crate::copy::progress::{Monitor, interrupted};
use crate::copy::stream::{Ring, Side};
use crate::error::{Error, Kind, Result};
use crate::ops::mounted::{drop_cache, patiently};
use crate::ops::observe::DeviceReader;
use crate::record::digest::{Digest, Sums};
use crate::sys::{Claim, Os};

/// A source that changes while it is copied is copied so many times before that fails.
const TRIES: u32 = 3;

/// Copies the first `size` bytes, whole sectors, of the partition `from` to `to`, of which at least
/// as many are free to be written. The source may be mounted: it is read once more when the copy is
/// done, and copied again where it is another by then.
///
/// # Errors
/// One of the devices fails, the source does not stand still, or the copy is not what was written.
pub(super) fn copy<O: Os>(
    os: &O,
    from: &Path,
    to: &Path,
    size: u64,
    monitor: &Monitor,
) -> Result<()> {
    let mut ring = Ring::for_workers(pool::cores());
    for _ in 0..TRIES {
        os.refresh(from)?;
        let mut writer = Writer { claim: patiently(|| os.claim(to))?, position: 0 };
        let sums = pass(os, &mut ring, from, size, &mut writer, (to, monitor))?;
        writer.claim.flush()?;
        drop(writer);
        drop_cache(os, to)?;
        let copied = pass(os, &mut ring, to, size, &mut Discard, (to, monitor))?;
        if let Some(offset) = copied.first_difference(&sums, size) {
            let cause = "it is not what was written";
            return Err(Error::new(Kind::Differs, "reading back", cause).path(to).at(offset));
        }
        os.refresh(from)?;
        if pass(os, &mut ring, from, size, &mut Discard, (to, monitor))? == sums {
            return Ok(());
        }
    }
    let cause = format!("it changed every time while it was copied ({TRIES} tries)");
    Err(Error::new(Kind::Failed, "reading", cause).path(from).hint("unmount it meanwhile"))
}

/// Passes the bytes of `from` to `sink`, which is `to`, and takes their checksums.
fn pass<O: Os, W: Write>(
    os: &O,
    ring: &mut Ring,
    from: &Path,
    size: u64,
    sink: &mut W,
    (to, monitor): (&Path, &Monitor),
) -> Result<Sums> {
    let mut digest = Digest::new(size);
    let mut reader = DeviceReader::new(os, from);
    let tick = |bytes| monitor.passing(bytes);
    match ring.stream(&mut reader, sink, size, &mut digest, &tick) {
        Ok(done) if done == size => Ok(digest.finish()),
        Ok(done) => {
            Err(Error::new(Kind::Failed, "reading", "it ends before its size").path(from).at(done))
        }
        Err(fault) => Err(match (fault.side, monitor.stopped()) {
            (Side::Stopped, Some(signal)) => interrupted(signal),
            (Side::Write, _) => Error::io("writing", &fault.source).path(to).at(fault.offset),
            _ => Error::io("reading", &fault.source).path(from).at(fault.offset),
        }),
    }
}

/// A claimed device as something to write to from its beginning.
struct Writer<C> {
    claim: C,
    position: u64,
}

impl<C: Claim> Write for Writer<C> {
    fn write(&mut self, data: &[u8]) -> io::Result<usize> {
        self.claim.write_at(self.position, data).map_err(|e| e.as_io())?;
        self.position += data.len() as u64;
        Ok(data.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
