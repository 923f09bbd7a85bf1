//! A part copied by the blocks of its file system.

use std::collections::hash_map::RandomState;
use std::ffi::OsStr;
use std::hash::BuildHasher;
use std::io;
use std::path::Path;
use std::time::Instant;

use jiff::Timestamp;

use super::frozen::Frozen;
use super::preflight;
use super::run::Run;
use super::source::Source;
use crate::copy::block::{Content, Copy, Target};
use crate::copy::progress::Phase;
use crate::error::{Context, During, Error, Kind, Result};
use crate::ops::mounted::{Mounted, drop_cache};
use crate::ops::record;
use crate::plan::consistency::{Consistency, Wanted};
use crate::plan::{Blocks, Way};
use crate::record::{DIR, RECORD};
use crate::slot::view::View;
use crate::slot::{Pair, Part};
use crate::sys::tree::Dir;
use crate::sys::{Claim, FsType, Os};
use crate::ufs::{Identity, Image, Superblock};

/// Whether `pair` can be copied by its blocks; answers whether its target has such a copy already,
/// so that only what differs need be written. `room` is what the partition tables take.
///
/// What is mounted read-write is looked at only as far as it holds still: [`Run::freeze_blocks`]
/// looks at the rest.
///
/// # Errors
/// Refused: somebody may write to the source and there can be no snapshot of it, its file system is
/// none that can be trusted, or the target cannot hold it.
pub(super) fn preflight<O: Os>(
    os: &O,
    view: &View,
    pair: &Pair,
    source: &Source<'_, O>,
    room: u64,
    (consistency, wanted): (&Consistency, Wanted),
) -> Result<bool> {
    let (from, to) = (view.devices.get(pair.source), view.devices.get(pair.target));
    let doing = || doing(pair.part);
    let (size, unit) = match consistency {
        Consistency::ReadOnly => {
            let content = content(os, view, pair, source, None, None).during(doing())?;
            (content.size(), content.unit())
        }
        Consistency::Snapshot => {
            let path = from.path();
            os.refresh(&path)?;
            let fs = Superblock::read(&os.open_device(&path)?, from.size);
            let fs = fs.and_then(|fs| fs.can_be_frozen().map(|()| fs));
            let refused = |fault| Error::from(fault).path(&path).hint(HINT).during(doing());
            let fs = fs.map_err(refused)?;
            (fs.bytes(), u64::from(fs.fragment))
        }
        Consistency::Detection { why } => {
            let point = pair.part.point();
            let cause =
                format!("{point} is mounted read-write, and no snapshot of it is taken: {why}");
            let hint = if wanted == Wanted::Always { HINT } else { HINT_SWITCH };
            return Err(Error::refused(cause).hint(hint).during(doing()));
        }
    };
    let refuse = |cause: String| Err(Error::refused(cause).during(doing()));
    let there = to.size;
    if size > there {
        return refuse(format!(
            "its file system has {size} bytes, {} has {there}, {} are missing",
            view.node(pair.target),
            size - there
        ));
    }
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
    holds_blocks(os, view, pair)
}

const HINT: &str = "mount it read-only meanwhile, or copy its files: --method tree";
/// Where it is the user's own word, or that of rc.conf(5), that there are none.
const HINT_SWITCH: &str = "mount it read-only meanwhile, let there be snapshots \
    (file_system_snapshots = true), or copy its files: --method tree";

fn doing(part: Part) -> String {
    format!("copying the blocks of {}", part.point())
}

/// What is to be copied, looked at anew: of the source itself, or of the device with a snapshot of
/// it. Without a label it is only to be looked at.
fn content<O: Os>(
    os: &O,
    view: &View,
    pair: &Pair,
    source: &Source<'_, O>,
    snapshot: Option<&Path>,
    label: Option<&str>,
) -> Result<Content> {
    let (from, to) = (view.devices.get(pair.source), view.devices.get(pair.target));
    let path = snapshot.map_or_else(|| from.path(), Path::to_path_buf);
    match FsType::from_name(&pair.fs) {
        Some(FsType::Ufs2) => {
            os.refresh(&path)?;
            let identity =
                Identity { id: new_id(), label: label.map(str::to_owned), device: to.size };
            let reader = os.open_device(&path)?;
            let image = match snapshot {
                Some(_) => Image::of_snapshot(&reader, from.size, identity),
                None => Image::read(&reader, from.size, identity),
            };
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
/// Nothing depends on it but how much is read: what cannot be looked into has none.
///
/// # Errors
/// It stays mounted, and so cannot be written.
fn holds_blocks<O: Os>(os: &O, view: &View, pair: &Pair) -> Result<bool> {
    let clean = view.superblocks.get(&pair.target).filter(|s| s.clean && s.fs.name() == pair.fs);
    let mounted = view.mounts.iter().any(|mount| view.provider_of(mount) == Some(pair.target));
    if clean.is_none() || mounted {
        return Ok(false);
    }
    let device = view.devices.get(pair.target).path();
    let Ok(mounted) = Mounted::private(os, &device, &pair.fs, "blocks") else { return Ok(false) };
    let found = mounted.open().map(|root| record::read(&root));
    mounted.unmount()?;
    let record = found.ok().and_then(|found| found.record);
    Ok(record.is_some_and(|record| record.method == Way::Blocks.method()))
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

impl<'a, O: Os> Run<'a, '_, O> {
    /// Takes the snapshot whose blocks are copied, and looks at all of it. It stays until the copy
    /// is [settled](Run::settle).
    ///
    /// # Errors
    /// Refused: nothing of a copy is written yet.
    pub(super) fn freeze_blocks(&mut self, part: Part) -> Result<()> {
        let frozen = self.try_freeze_blocks(part).map_err(|error| match error.kind {
            Kind::Failed => error.kind(Kind::Refused).hint(HINT),
            _ => error,
        });
        self.frozen.insert(part, frozen.during(doing(part))?);
        Ok(())
    }

    fn try_freeze_blocks(&self, part: Part) -> Result<Frozen<'a, O>> {
        let (number, pair) = self.pair(part)?;
        let Some(mount) = self.view.source_mount(pair) else {
            return Err(Error::refused("it is not mounted"));
        };
        let frozen = Frozen::take(self.os, part, mount)?;
        content(self.os, self.view, pair, &self.sources[number], Some(frozen.device()), None)?;
        Ok(frozen)
    }

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
        let snapshot = self.frozen.get(&blocks.part).map(|frozen| frozen.device().to_path_buf());
        let label = blocks.format.label.as_deref();
        let content = content(os, view, pair, &self.sources[number], snapshot.as_deref(), label)?;
        let (from, to) = (snapshot.unwrap_or_else(|| from.path()), to.path());
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
        drop_cache(os, &to)?;
        phase("verifying");
        copy.prove(&body, &os.open_device(&to)?)?;
        let head = copy.head(&mut Claimed(self.claim(blocks.part)?))?;
        drop_cache(os, &to)?;
        copy.prove_head(&head, &os.open_device(&to)?)?;
        os.adopt(&to, &blocks.format, content.can_grow(room))?;
        let written = body.written + head.bytes();
        self.flush(&to)?;
        self.blocks.insert(blocks.part, (written, begun.elapsed().as_secs_f64()));
        Ok(())
    }
}
