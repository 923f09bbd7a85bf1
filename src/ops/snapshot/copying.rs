//! Copying one part: from what to where, and what of it.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsStr;
use std::io::{BufReader, BufWriter, Write};
use std::time::Instant;

use jiff::Timestamp;
use nix::errno::Errno;

use super::copied::{Copied, Made, Onto};
use super::draft::Draft;
use super::frozen::{self, Frozen};
use super::prepare::{guard_identity, known_by_identity};
use super::rewrite;
use super::run::Run;
use crate::copy::beside::Beside;
use crate::copy::progress::Phase;
use crate::copy::provenance::Provenance;
use crate::copy::selection::Selection;
use crate::copy::tree::{Done, Options as TreeOptions, Trust};
use crate::copy::{pool, tree};
use crate::device::Id;
use crate::error::{Context, During, Error, Result, if_there};
use crate::ops::factory;
use crate::ops::journal::VAR;
use crate::ops::mounted::{Mounted, drop_cache};
use crate::ops::record::{self, Hashing, MANIFEST_NEW};
use crate::ops::uncovered;
use crate::plan::consistency::Consistency;
use crate::plan::{Refresh, Since};
use crate::record as slot_record;
use crate::record::packages::Software;
use crate::slot::names::Names;
use crate::slot::{Pair, Part};
use crate::sys::tree::{Dir, Kind as Object, Time};
use crate::sys::{Access, FOUND, FsType, JOURNAL, Os, SNAPSHOTS};
use crate::table::superblock;

/// In whole seconds, rounded down: some file systems keep no more, and UFS only where it is told to.
fn trust(since: Since) -> Trust {
    let time = |at: Timestamp| Time { sec: at.as_second(), nsec: 0 };
    Trust { source: time(since.created), copy: time(since.verified) }
}

impl<'a, O: Os> Run<'a, '_, O> {
    /// Says what is about to be copied, in Junos's words.
    pub(super) fn announce(&mut self, part: Part) {
        let (from, to) = (part.point(), part.alternate());
        if !self.cleared.contains(&part) {
            (self.say)(&format!("umount: {to}: not currently mounted"));
        }
        (self.say)(&format!("Copying {from} to {to}.. (this may take a few minutes)"));
    }

    /// Brings an older copy up to date. Where both do not fit, the new one is made alone: for that
    /// there is room. But where the root's copy, which is made already, would not find it then, the
    /// run fails.
    pub(super) fn refresh(&mut self, refresh: &Refresh) -> Result<()> {
        let onto = Onto::Older(refresh.since, BTreeSet::new());
        match self.copy(refresh.part, &refresh.consistency, &onto) {
            Err(error) if error.errno == Some(Errno::ENOSPC as i32) => {
                let (_, pair) = self.pair(refresh.part)?;
                if let Err(named) = guard_identity(self.view, pair) {
                    return Err(error.hint(format!("it cannot be made anew: {named}")));
                }
                if let Some(spec) = known_by_identity(self.view, pair) {
                    let hint = format!(
                        "fstab names {spec}, which a new file system changes: --fresh makes both anew"
                    );
                    return Err(error.hint(hint));
                }
                log::warn!("{error}: the copy is made anew");
                self.erase(refresh.part)?;
                self.format(refresh.part, &refresh.target, &refresh.format)?;
                self.copy(refresh.part, &refresh.consistency, &Onto::New)
            }
            copied => copied,
        }
    }

    /// Makes what was copied by its blocks a copy of its own.
    pub(super) fn settle(&mut self, part: Part, consistency: &Consistency) -> Result<()> {
        self.copy(part, consistency, &Onto::Blocks)
    }

    /// Copies a part, and what is known of its software.
    pub(super) fn copy(&mut self, part: Part, planned: &Consistency, onto: &Onto) -> Result<()> {
        let begun = Instant::now();
        // What changes from here on is known to have changed.
        let created = Timestamp::now();
        let context = format!("copying {} to {}", part.point(), part.alternate());
        let (frozen, consistency) = self.freeze(part, planned)?;
        let created = frozen.as_ref().map_or(created, Frozen::taken);
        let source = match &frozen {
            Some(frozen) => frozen.open()?,
            None => self.sources[self.pair(part)?.0].reopen().during(&context)?,
        };
        let made = self.copy_tree(part, &source, onto).during(&context)?;
        let software = if part == Part::Root {
            uncovered::software(self.os, self.view, &source)?
        } else {
            Software::default()
        };
        drop(source);
        frozen.map_or(Ok(()), Frozen::thaw)?;
        let copied = Copied {
            consistency,
            made,
            software,
            created,
            verified: None,
            way: onto.way(),
            changes: None,
            copy_seconds: begun.elapsed().as_secs_f64(),
            verify_seconds: 0.0,
        };
        self.parts.insert(part, copied);
        Ok(())
    }

    /// Takes the snapshot that was planned. Where the system takes none after all, the source is
    /// copied as it is used, and the report says why.
    fn freeze(
        &mut self,
        part: Part,
        planned: &Consistency,
    ) -> Result<(Option<Frozen<'a, O>>, Consistency)> {
        if let Some(frozen) = self.frozen.remove(&part) {
            return Ok((Some(frozen), Consistency::Snapshot));
        }
        let mount = self.view.source_mount(self.pair(part)?.1);
        let (Consistency::Snapshot, Some(mount)) = (planned, mount) else {
            return Ok((None, planned.clone()));
        };
        match Frozen::take(self.os, part, mount) {
            Ok(frozen) => Ok((Some(frozen), Consistency::Snapshot)),
            Err(error) => {
                log::warn!("no snapshot of {}: {error}", part.point());
                Ok((None, Consistency::Detection { why: error.to_string() }))
            }
        }
    }

    /// Copies `source`.
    fn copy_tree(&self, part: Part, source: &O::Dir, onto: &Onto) -> Result<Made> {
        let (number, pair) = self.pair(part)?;
        let device = self.device(part)?;
        let point = self.point(part);
        let mut options = self.tree_options(part, source)?;
        options.provenance =
            self.view.superblocks.get(&pair.source).map(|found| Provenance::new(&found.id));
        options.same_blocks = matches!(onto, Onto::Blocks);
        if let Onto::Older(since, suspect) = onto {
            options.trust = since.map(trust);
            options.suspect.clone_from(suspect);
        }
        let usage = self.sources[number].usage;
        self.session.monitor.begin(Phase {
            name: format!("copying {}", part.point()),
            bytes: usage.used_bytes,
            objects: usage.used_inodes,
        });
        let mounted = Mounted::new(self.os, &device, &point, &pair.fs, Access::Write)?;
        let target = mounted.open()?;
        let selection = || {
            let factory = self.layout.purpose.factory;
            factory.then(|| factory::selection(self.view, pair, source)).transpose()
        };
        self.make_ready(part, source, &target, selection()?, onto)?;
        let own =
            target.open_dir(OsStr::new(slot_record::DIR)).doing_to("opening", slot_record::DIR)?;
        let (draft, old, revoked) = match onto {
            Onto::New => (Draft::new(&own)?, None, None),
            Onto::Blocks => (Draft::new(&own)?, Some(Beside::nothing()), None),
            Onto::Older(..) => {
                // Its record was the last that went from there: what was changed later is of this
                // run.
                let revoked = own.meta().doing_to("reading", slot_record::DIR)?.ctime;
                let draft = Draft::over(&own)?;
                let old = BufReader::with_capacity(64 << 10, record::manifest(&own)?);
                let old = Beside::new("the older copy's manifest", Box::new(old))?;
                (draft, Some(old), Some(revoked))
            }
        };
        let manifest = BufWriter::with_capacity(64 << 10, Hashing::new(draft));
        let read = source.open_dir(OsStr::new(".")).doing_to("opening", part.point())?;
        let write = target.open_dir(OsStr::new(".")).doing_to("opening", part.alternate())?;
        let monitor = &self.session.monitor;
        let Done { summary, touched, mut manifest } =
            tree::copy(read, write, &options, selection()?, old, monitor, manifest)?;
        manifest.flush().doing_to("writing", MANIFEST_NEW)?;
        let hashing = manifest
            .into_inner()
            .map_err(|e| Error::io("writing", e.error()).path(MANIFEST_NEW))?;
        let (draft, sha256) = hashing.finish();
        draft.finish().doing_to("flushing", MANIFEST_NEW)?;
        target.sync_all().doing_to("flushing", &device)?;
        drop((own, target));
        mounted.unmount()?;
        drop_cache(self.os, &device)?;
        let rewritten = options.replace.into_keys().collect();
        Ok(Made { summary, touched, sha256, rewritten, revoked })
    }

    /// Takes away what the copy is not to have, where that is not for the walk to do, and makes the
    /// directory for what is ours.
    fn make_ready(
        &self,
        part: Part,
        source: &O::Dir,
        target: &O::Dir,
        selection: Option<Selection<'_>>,
        onto: &Onto,
    ) -> Result<()> {
        let own = OsStr::new(slot_record::DIR);
        match onto {
            Onto::New => {
                // A new file system brings it along.
                let brought = OsStr::new(FOUND);
                let left_out = match selection {
                    Some(mut selection) => selection.admits(brought)?.is_none(),
                    None => false,
                };
                if left_out || source.stat(brought).is_err() {
                    if_there(target.remove_dir(brought)).doing_to("removing", brought)?;
                }
            }
            Onto::Blocks => {
                // It is the source's.
                tree::remove(target, own, own.as_ref())?;
                if self.pair(part)?.1.fs == FsType::Ufs2.name() {
                    frozen::remove_names(target)?;
                }
            }
            Onto::Older(..) => return Ok(()),
        }
        target.make_dir(own).doing_to("making", own)
    }

    fn tree_options(&self, part: Part, source: &O::Dir) -> Result<TreeOptions> {
        let mut options = TreeOptions { workers: pool::readers(), ..TreeOptions::default() };
        let mut exclude: Vec<&str> = vec![slot_record::DIR];
        options.ignore = vec![(slot_record::DIR, Object::Dir)];
        if self.pair(part)?.1.fs == FsType::Ufs2.name() {
            // Its snapshots and its soft-updates journal; the copy gets its own.
            exclude.extend([SNAPSHOTS, JOURNAL]);
            options.ignore.extend([(SNAPSHOTS, Object::Dir), (JOURNAL, Object::File)]);
        }
        if part == Part::Root {
            // One-time orders to the source's next boot are not the copy's.
            exclude.extend(["boot/nextboot.conf", "firstboot"]);
            // Nor is what the box knows of its slots.
            exclude.push(VAR.trim_start_matches('/'));
            let names = self.target_names()?;
            options.replace = rewrite::files(self.os, self.view, source, self.layout, &names)?;
        }
        options.exclude =
            exclude.into_iter().map(|p| p.as_bytes().to_vec()).collect::<BTreeSet<_>>();
        Ok(options)
    }

    /// The names of the targets, with the labels and the identities of the new file systems.
    pub(super) fn target_names(&self) -> Result<BTreeMap<Id, Names>> {
        let name = |pair: &Pair| {
            let device = self.view.devices.get(pair.target).path();
            let made = superblock::read(&self.os.read_device(&device, 0, superblock::WINDOW)?);
            let mut names = self.view.names(pair.target);
            names.fs_label = made.as_ref().and_then(|s| s.label.clone());
            names.fs_id = made.map(|s| s.id);
            Ok((pair.target, names))
        };
        self.layout.pairs.iter().map(name).collect()
    }
}
