//! A part copied by the blocks of its file system.

use std::collections::hash_map::RandomState;
use std::ffi::OsStr;
use std::hash::BuildHasher;
use std::io;
use std::time::Instant;

use jiff::Timestamp;

use super::execute::Run;
use super::mounted::Mounted;
use super::preflight;
use super::record;
use super::source::Source;
use crate::copy::block::{Content, Copy, Target};
use crate::copy::progress::Phase;
use crate::error::{Context, During, Error, Result};
use crate::plan::{Blocks, Way};
use crate::record::{DIR, RECORD};
use crate::slot::Pair;
use crate::slot::view::View;
use crate::sys::tree::Dir;
use crate::sys::{Claim, FsType, Os};
use crate::ufs::{Identity, Image};

/// Whether `pair` can be copied by its blocks; answers whether its target has such a copy already,
/// so that only what differs need be written. `room` is what the partition tables take.
///
/// # Errors
/// Refused: somebody may write to the source, its file system is none that can be trusted, or the
/// target cannot hold it.
pub(super) fn preflight<O: Os>(
    os: &O,
    view: &View,
    pair: &Pair,
    source: &Source<'_, O>,
    room: u64,
) -> Result<bool> {
    let (from, to) = (view.devices.get(pair.source), view.devices.get(pair.target));
    let doing = || format!("copying the blocks of {}", pair.part.point());
    let mount = pair.mounted.as_ref().and_then(|point| view.mount_at(point));
    if mount.is_some_and(|mount| !mount.read_only) {
        let cause = format!("{} is mounted read-write", pair.part.point());
        let hint = "mount it read-only meanwhile, or copy its files: --method tree";
        return Err(Error::refused(cause).hint(hint).during(doing()));
    }
    let content = content(os, view, pair, source, None).during(doing())?;
    let refuse = |cause: String| Err(Error::refused(cause).during(doing()));
    let (size, there) = (content.size(), to.size);
    if size > there {
        return refuse(format!(
            "its file system has {size} bytes, {} has {there}, {} are missing",
            view.node(pair.target),
            size - there
        ));
    }
    let unit = content.unit();
    if !unit.is_multiple_of(to.sector.into()) {
        let sector = to.sector;
        return refuse(format!(
            "its fragments of {unit} bytes are less than the sectors of {}: {sector}",
            view.node(pair.target)
        ));
    }
    let needed = preflight::needed_for_record(source.usage.used_inodes, room);
    let offered = source.usage.free_bytes.saturating_add(there.saturating_sub(from.size));
    if needed > offered {
        return refuse(format!(
            "there is no room for the record: it needs {needed} bytes, {offered} are free"
        ));
    }
    Ok(holds_blocks(os, view, pair))
}

/// What is to be copied, looked at anew. Without a label it is only to be looked at.
fn content<O: Os>(
    os: &O,
    view: &View,
    pair: &Pair,
    source: &Source<'_, O>,
    label: Option<&str>,
) -> Result<Content> {
    let (from, to) = (view.devices.get(pair.source), view.devices.get(pair.target));
    let path = from.path();
    match FsType::from_name(&pair.fs) {
        Some(FsType::Ufs2) => {
            os.refresh(&path)?;
            let identity =
                Identity { id: new_id(), label: label.map(str::to_owned), device: to.size };
            let image = Image::read(&os.open_device(&path)?, from.size, identity);
            image.map(Content::Ufs).map_err(|fault| Error::from(fault).path(&path))
        }
        Some(FsType::Ext4) => {
            let clean = view.superblocks.get(&pair.source).is_some_and(|s| s.clean);
            if !clean {
                return Err(Error::refused("it was not unmounted cleanly").path(&path));
            }
            // Nothing takes it out of the blocks of an ext4 on the way, and for a moment the copy
            // would be a valid one.
            if has_record(&source.dir).doing_to("reading", &path)? {
                let error = Error::refused("it is a copy itself, with a record").path(&path);
                return Err(error.hint("copy its files: --method tree"));
            }
            Ok(Content::Whole(from.size))
        }
        _ => Err(Error::refused(format!("the blocks of {} are not known", pair.fs)).path(&path)),
    }
}

fn has_record<D: Dir>(root: &D) -> io::Result<bool> {
    let found = root.open_dir(OsStr::new(DIR)).and_then(|own| own.stat(OsStr::new(RECORD)));
    match found {
        Ok(_) => Ok(true),
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(e) => Err(e),
    }
}

/// As newfs(8) makes them: the time, and a random number.
fn new_id() -> [u32; 2] {
    let now = u32::try_from(Timestamp::now().as_second()).unwrap_or(u32::MAX);
    let random = RandomState::new().hash_one(now) >> 32;
    [now, u32::try_from(random).unwrap_or(now)]
}

/// Whether the target has a copy that was made by blocks, whose blocks are likely to be the same.
fn holds_blocks<O: Os>(os: &O, view: &View, pair: &Pair) -> bool {
    let clean = view.superblocks.get(&pair.target).filter(|s| s.clean && s.fs.name() == pair.fs);
    let mounted = view.mounts.iter().any(|mount| view.provider_of(mount) == Some(pair.target));
    if clean.is_none() || mounted {
        return false;
    }
    let look = || -> Result<bool> {
        let device = view.devices.get(pair.target).path();
        let mounted = Mounted::private(os, &device, &pair.fs, "blocks")?;
        let found = record::read(&os.open_dir(mounted.point())?);
        mounted.unmount()?;
        Ok(found.record.is_some_and(|record| record.method == Way::Blocks.method()))
    };
    // Nothing depends on it but how much is read.
    look().unwrap_or(false)
}

/// A claimed device as where blocks go.
struct Claimed<C>(C);

impl<C: Claim> Target for Claimed<C> {
    fn write_at(&mut self, offset: u64, data: &[u8]) -> io::Result<()> {
        self.0.write_at(offset, data).map_err(|e| e.as_io())
    }

    fn flush(&mut self) -> io::Result<()> {
        self.0.flush().map_err(|e| e.as_io())
    }
}

impl<O: Os> Run<'_, '_, O> {
    /// Copies the blocks, the superblock last: each half is proved before the next one is written.
    pub(super) fn copy_blocks(&mut self, blocks: &Blocks) -> Result<()> {
        let context = format!("copying {} to {}", blocks.part.point(), blocks.part.alternate());
        self.try_copy_blocks(blocks).during(context)
    }

    fn try_copy_blocks(&mut self, blocks: &Blocks) -> Result<()> {
        let begun = Instant::now();
        let (os, view) = (self.os, self.view);
        let (number, pair) = self.pair(blocks.part)?;
        let (from, to) = (view.devices.get(pair.source), view.devices.get(pair.target));
        let room = to.size;
        let (from, to) = (from.path(), to.path());
        let label = blocks.format.label.as_deref();
        let content = content(os, view, pair, &self.sources[number], label)?;
        let source = os.open_device(&from)?;
        let monitor = &self.session.monitor;
        let phase = |doing: &str| {
            let name = format!("{doing} the blocks of {}", blocks.part.point());
            monitor.begin(Phase { name, bytes: content.used(), objects: 0 });
        };
        let copy = Copy { content: &content, source: &source, names: (&from, &to), monitor };
        phase("copying");
        let body = {
            let mut target = Claimed(self.claim(blocks.part)?);
            // Not before: a claim fails where somebody reads.
            let old = if blocks.compare { Some(os.open_device(&to)?) } else { None };
            copy.body(&mut target, old.as_ref().map(|old| old as _))?
        };
        os.drop_cache(&to)?;
        phase("verifying");
        copy.prove(&body, &os.open_device(&to)?)?;
        let head = copy.head(&mut Claimed(self.claim(blocks.part)?))?;
        os.drop_cache(&to)?;
        copy.prove_head(&head, &os.open_device(&to)?)?;
        os.adopt(&to, &blocks.format, content.can_grow(room))?;
        let written = body.written + head.bytes();
        self.flush(&to)?;
        self.blocks.insert(blocks.part, (written, begun.elapsed().as_secs_f64()));
        Ok(())
    }
}
