//! Doing the steps of a snapshot's plan.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsStr;
use std::io::{BufReader, BufWriter, Write};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::time::Instant;

use jiff::Timestamp;
use serde::Serialize;

use super::factory::{self, Changes};
use super::frozen::{Frozen, SNAPSHOTS};
use super::journal::VAR;
use super::mounted::{Mounted, patiently};
use super::record::{self, Hashing, MANIFEST_NEW};
use super::table::{self, save};
use super::{Session, clear, flags, observe, raw, rewrite};
use crate::copy::progress::Phase;
use crate::copy::tree::{Options as TreeOptions, Summary};
use crate::copy::verify::{Report as VerifyReport, verify};
use crate::copy::{pool, tree};
use crate::device::Id;
use crate::error::{Context, During, Error, Kind, Result};
use crate::mounts::Mount;
use crate::plan::consistency::Consistency;
use crate::plan::{Step, Tables};
use crate::record::packages::{self, Software};
use crate::record::{self as slot_record, Record};
use crate::slot::discover::Layout;
use crate::slot::names::Names;
use crate::slot::view::View;
use crate::slot::{Pair, Part};
use crate::sys::tree::{Dir, File, Kind as Object};
use crate::sys::{Access, Claim, Format, FsType, Os, Usage};
use crate::table::superblock;

/// What was done to one pair.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct PairReport {
    /// `/`
    pub source: &'static str,
    /// `/altroot`
    pub target: &'static str,
    /// The device that was copied.
    pub source_device: String,
    /// The device that holds the copy.
    pub target_device: String,
    /// How.
    pub method: &'static str,
    /// What makes it consistent.
    #[serde(flatten)]
    pub consistency: Consistency,
    /// Regular files.
    pub files: u64,
    /// Bytes of content.
    pub bytes: u64,
    /// Bytes of content that were written.
    pub written_bytes: u64,
    /// Objects that vanished while the source was copied.
    pub vanished: u64,
    /// With `--factory`, what is otherwise than the list has it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub changed_since_factory: Option<Changes>,
    /// Whether all of it was read back from the medium and found equal.
    pub verified: bool,
    /// Wall time of the copying, unmount and flush included.
    pub copy_seconds: f64,
    /// Wall time of the reading back.
    pub verify_seconds: f64,
    /// Both.
    pub seconds: f64,
}

/// An opened source.
pub(super) struct Source<'a, O: Os> {
    /// Its root.
    pub(super) dir: O::Dir,
    /// What it holds.
    pub(super) usage: Usage,
    /// The mount that we made where it was not mounted.
    mounted: Option<Mounted<'a, O>>,
}

impl<'a, O: Os> Source<'a, O> {
    pub(super) fn open(os: &'a O, view: &View, pair: &Pair) -> Result<Self> {
        if let Some(point) = &pair.mounted {
            return Ok(Self { dir: os.open_dir(point)?, usage: os.usage(point)?, mounted: None });
        }
        let device = view.devices.get(pair.source).path();
        let mounted = Mounted::private(os, &device, &pair.fs, "source")?;
        let (dir, usage) = (os.open_dir(mounted.point())?, os.usage(mounted.point())?);
        Ok(Self { dir, usage, mounted: Some(mounted) })
    }

    /// A second handle on it.
    fn reopen(&self) -> Result<O::Dir> {
        self.dir.open_dir(OsStr::new(".")).doing_to("opening", "/")
    }
}

/// What is known of a part once it is copied.
struct Copied {
    consistency: Consistency,
    summary: Summary,
    manifest_sha256: String,
    software: Software,
    created: Timestamp,
    verified: Option<Timestamp>,
    changes: Option<Changes>,
    copy_seconds: f64,
    verify_seconds: f64,
}

/// A run under way.
pub(super) struct Run<'a, 'b, O: Os> {
    os: &'a O,
    session: &'a Session,
    view: &'a View,
    layout: &'a Layout,
    say: &'b mut dyn FnMut(&str),
    sources: Vec<Source<'a, O>>,
    parts: BTreeMap<Part, Copied>,
    /// Parts whose copy, or whose mount point, had to be unmounted first.
    cleared: BTreeSet<Part>,
    /// Whether anything of a target was written.
    written: bool,
    /// Whether boot flags were changed.
    flagged: bool,
}

impl<'a, 'b, O: Os> Run<'a, 'b, O> {
    pub(super) fn new(
        os: &'a O,
        session: &'a Session,
        view: &'a View,
        layout: &'a Layout,
        say: &'b mut dyn FnMut(&str),
        sources: Vec<Source<'a, O>>,
        cleared: BTreeSet<Part>,
    ) -> Self {
        let parts = BTreeMap::new();
        let (written, flagged) = (false, false);
        Self { os, session, view, layout, say, sources, parts, cleared, written, flagged }
    }

    /// Does one step.
    pub(super) fn execute(&mut self, step: &Step) -> Result<()> {
        match step {
            Step::Clear { mount, force } => clear::unmount(self.os, mount, *force),
            Step::MakePoint(path) => self.os.make_dir(path),
            Step::Flags(_, change, _) => {
                let Some(selection) = self.view.selection_of(self.layout) else { return Ok(()) };
                let through = self.view.devices.get(self.layout.root().target).path();
                self.flagged = true;
                let done = flags::apply(self.os, self.view, selection.medium, change, &through);
                done.map_err(|e| if e.kind == Kind::Refused { e.kind(Kind::Failed) } else { e })
            }
            Step::Erase(part, _) => {
                let written = self.written || self.flagged;
                // After the first write nothing is a refusal any more.
                self.erase(*part).map_err(|e| match e.kind {
                    Kind::Refused if written => e.kind(Kind::Failed),
                    _ => e,
                })
            }
            Step::Format(part, device, format) => self.format(*part, device, format),
            // It changes what everything else is planned on, so it was done before.
            Step::Partition(..) => Ok(()),
            Step::Make(point, device, format) => {
                let made = self.os.format(Path::new(device), format);
                made.during(format!("making a file system for {point}"))
            }
            Step::Efi(from, to, size) => {
                self.session.monitor.begin(Phase::default());
                raw::copy(self.os, from.as_ref(), to.as_ref(), *size, &self.session.monitor)
                    .during("copying the EFI system partition")
            }
            Step::Boot(medium, drawing) => {
                self.os.make_bootable(Path::new(medium), drawing, &self.view.root)
            }
            Step::Copy(part, _, _, consistency) => self.copy(*part, consistency),
            Step::Verify(part, _) => self.verify(*part),
            Step::Tables(tables) => {
                let kept = self.tables(tables).during("keeping the partition tables");
                kept.map_err(|e| if e.kind == Kind::Refused { e.kind(Kind::Failed) } else { e })
            }
            Step::Record(part, _) => self.record(*part),
        }
    }

    fn pair(&self, part: Part) -> Result<(usize, &Pair)> {
        let found = self.layout.pairs.iter().enumerate().find(|(_, p)| p.part == part);
        found.ok_or_else(|| Error::new(Kind::Failed, "", format!("{} is no pair", part.point())))
    }

    fn device(&self, part: Part) -> Result<PathBuf> {
        Ok(self.view.devices.get(self.pair(part)?.1.target).path())
    }

    fn point(&self, part: Part) -> PathBuf {
        self.view.below(part.alternate())
    }

    /// Erases the superblocks and flushes: from here on the slot has no record. So that none shows
    /// through a new file system of which a loss of power leaves the superblock and not the rest,
    /// the old root goes with them. The guard is asked again with the device open, since its name
    /// may lead elsewhere by now.
    fn erase(&mut self, part: Part) -> Result<()> {
        let device = self.device(part)?;
        if !self.written {
            // Nothing is written yet: the last moment to refuse.
            for pair in &self.layout.pairs {
                check_empty(self.os, &self.point(pair.part), pair.part)?;
            }
        }
        let mut claim = patiently(|| self.os.claim(&device))?;
        let fresh = observe::view(self.os, self.session)?;
        let open = claim.provider()?;
        let layout = fresh.discover()?;
        let same =
            layout.pairs.iter().any(|p| p.part == part && fresh.devices.get(p.target).name == open);
        if !same {
            return Err(Error::refused(format!("{} is {open} by now", device.display())));
        }
        fresh.guard(&layout, false)?;
        let window = self.os.read_device(&device, 0, superblock::WINDOW)?;
        let size = claim.size()?;
        self.written = true;
        let root = superblock::root_inode(&window).filter(|range| range.end <= size);
        for range in superblock::wipe_ranges(&window).into_iter().chain(root) {
            claim.wipe(range.start, range.end - range.start)?;
        }
        claim.flush()
    }

    fn format(&mut self, part: Part, device: &str, format: &Format) -> Result<()> {
        let context = format!("formatting {}", part.alternate());
        self.os.format(Path::new(device), format).during(&context)?;
        // What the tool wrote may lie in the device's cache, in any order: the new superblock must
        // not become durable before what it leads to, or the old tree shows through half a copy.
        patiently(|| self.os.claim(Path::new(device)))
            .and_then(|mut claim| claim.flush())
            .during(context)
    }

    fn copy(&mut self, part: Part, planned: &Consistency) -> Result<()> {
        let begun = Instant::now();
        if !self.cleared.contains(&part) {
            (self.say)(&format!("umount: {}: not currently mounted", part.alternate()));
        }
        let (from, to) = (part.point(), part.alternate());
        (self.say)(&format!("Copying {from} to {to}.. (this may take a few minutes)"));
        let context = format!("copying {from} to {to}");
        let (frozen, consistency) = self.freeze(part, planned)?;
        let root = frozen.as_ref().map_or(self.view.root.as_path(), Frozen::point);
        let source = match &frozen {
            Some(frozen) => self.os.open_dir(frozen.point())?,
            None => self.sources[self.pair(part)?.0].reopen().during(&context)?,
        };
        let (summary, manifest_sha256) = self.copy_tree(part, root, &source).during(&context)?;
        let software = if part == Part::Root {
            packages::scan(&source, self.os.packages(&self.view.root)?)?
        } else {
            Software::default()
        };
        drop(source);
        frozen.map_or(Ok(()), Frozen::thaw)?;
        let copied = Copied {
            consistency,
            summary,
            manifest_sha256,
            software,
            created: Timestamp::now(),
            verified: None,
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
        &self,
        part: Part,
        planned: &Consistency,
    ) -> Result<(Option<Frozen<'a, O>>, Consistency)> {
        let point = self.pair(part)?.1.mounted.as_deref();
        let (Consistency::Snapshot, Some(point)) = (planned, point) else {
            return Ok((None, planned.clone()));
        };
        match Frozen::take(self.os, point) {
            Ok(frozen) => Ok((Some(frozen), Consistency::Snapshot)),
            Err(error) => {
                log::warn!("no snapshot of {}: {error}", part.point());
                Ok((None, Consistency::Detection { why: error.to_string() }))
            }
        }
    }

    /// Copies `source`, which is mounted on `root`.
    fn copy_tree(&self, part: Part, root: &Path, source: &O::Dir) -> Result<(Summary, String)> {
        let (number, pair) = self.pair(part)?;
        let device = self.device(part)?;
        let point = self.point(part);
        let options = self.tree_options(part, root, source)?;
        let usage = self.sources[number].usage;
        self.session.monitor.begin(Phase {
            name: format!("copying {}", part.point()),
            bytes: usage.used_bytes,
            objects: usage.used_inodes,
        });
        let mounted = Mounted::new(self.os, &device, &point, &pair.fs, Access::Write)?;
        let target = self.os.open_dir(mounted.point())?;
        let dir_name = OsStr::new(slot_record::DIR);
        let selection = || {
            let factory = self.layout.purpose.factory;
            factory.then(|| factory::selection(self.view, pair, source)).transpose()
        };
        // What a fresh file system brings along and the copy is not to have.
        let brought = OsStr::new("lost+found");
        let left_out = match selection()? {
            Some(mut selection) => selection.admits(brought)?.is_none(),
            None => false,
        };
        if left_out || source.stat(brought).is_err() {
            remove_if_there(&target, brought)?;
        }
        target.make_dir(dir_name).doing_to("making", slot_record::DIR)?;
        let own = target.open_dir(dir_name).doing_to("opening", slot_record::DIR)?;
        let file = own.create_file(OsStr::new(MANIFEST_NEW)).doing_to("creating", MANIFEST_NEW)?;
        let manifest = BufWriter::with_capacity(64 << 10, Hashing::new(file));
        let read = source.open_dir(OsStr::new(".")).doing_to("opening", part.point())?;
        let write = target.open_dir(OsStr::new(".")).doing_to("opening", part.alternate())?;
        let (summary, mut manifest) =
            tree::copy(read, write, &options, selection()?, &self.session.monitor, manifest)?;
        manifest.flush().doing_to("writing", MANIFEST_NEW)?;
        let hashing = manifest
            .into_inner()
            .map_err(|e| Error::io("writing", e.error()).path(MANIFEST_NEW))?;
        let (file, sha256) = hashing.finish();
        file.sync().doing_to("flushing", MANIFEST_NEW)?;
        target.sync_all().doing_to("flushing", &device)?;
        drop((file, own, target));
        mounted.unmount()?;
        self.os.drop_cache(&device)?;
        Ok((summary, sha256))
    }

    fn tree_options(&self, part: Part, root: &Path, source: &O::Dir) -> Result<TreeOptions> {
        let mut options = TreeOptions { workers: pool::cores(), ..TreeOptions::default() };
        let mut exclude: Vec<&str> = vec![slot_record::DIR];
        options.ignore = vec![(slot_record::DIR, Object::Dir)];
        if self.pair(part)?.1.fs == FsType::Ufs2.name() {
            // Its snapshots and its soft-updates journal; the copy gets its own.
            exclude.extend([SNAPSHOTS, ".sujournal"]);
            options.ignore.extend([(SNAPSHOTS, Object::Dir), (".sujournal", Object::File)]);
        }
        if part == Part::Root {
            // One-time orders to the source's next boot are not the copy's.
            exclude.extend(["boot/nextboot.conf", "firstboot"]);
            // Nor is what the box knows of its slots.
            exclude.push(VAR.trim_start_matches('/'));
            let names = self.target_names()?;
            options.replace = rewrite::files(self.os, self.view, root, self.layout, &names)?;
            for pair in &self.layout.pairs {
                let name = pair.part.alternate().trim_start_matches('/');
                // Before the copy is mounted on it.
                match source.stat(OsStr::new(name)) {
                    Ok(meta) => drop(options.covered.insert(name.as_bytes().to_vec(), meta)),
                    Err(e) if e.kind() == std::io::ErrorKind::NotFound => {}
                    Err(e) => return Err(e).doing_to("reading", name),
                }
            }
        }
        let point = self.pair(part)?.1.mounted.as_deref();
        let below = |m: &Mount| {
            let path = m.point.strip_prefix(point?).ok()?.as_os_str().as_bytes().to_vec();
            (!path.is_empty()).then_some(path)
        };
        options.points = self.view.mounts.iter().filter_map(below).collect();
        options.exclude =
            exclude.into_iter().map(|p| p.as_bytes().to_vec()).collect::<BTreeSet<_>>();
        Ok(options)
    }

    /// The names of the targets, with the labels and the identities of the new file systems.
    fn target_names(&self) -> Result<BTreeMap<Id, Names>> {
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

    fn verify(&mut self, part: Part) -> Result<()> {
        let begun = Instant::now();
        let context = format!("verifying {}", part.alternate());
        let (report, sha256, changes) = self.read_back(part).during(&context)?;
        let Some(copied) = self.parts.get_mut(&part) else {
            return Err(Error::new(Kind::Failed, context, "it was not copied"));
        };
        if let Some(first) = report.differences.first() {
            for difference in report.differences.iter().take(20) {
                log::error!("{}: {}", difference.path.display(), difference.what);
            }
            let mut error = Error::new(
                Kind::Differs,
                "reading back",
                match report.different {
                    1 => first.what.clone(),
                    n => format!("{} ({n} differences in all)", first.what),
                },
            )
            .path(&first.path)
            .during(context);
            error.offset = first.offset;
            return Err(error.hint("the medium does not keep what is written to it"));
        }
        if sha256 != copied.manifest_sha256 {
            return Err(Error::new(Kind::Differs, "reading back", "content")
                .path(MANIFEST_NEW)
                .during(context));
        }
        copied.changes = changes;
        copied.verified = Some(Timestamp::now());
        copied.verify_seconds = begun.elapsed().as_secs_f64();
        Ok(())
    }

    fn read_back(&self, part: Part) -> Result<(VerifyReport, String, Option<Changes>)> {
        let (number, pair) = self.pair(part)?;
        let usage = self.sources[number].usage;
        self.session.monitor.begin(Phase {
            name: format!("verifying {}", part.alternate()),
            bytes: usage.used_bytes,
            objects: usage.used_inodes,
        });
        let device = self.device(part)?;
        let mounted = Mounted::new(self.os, &device, &self.point(part), &pair.fs, Access::Read)?;
        let root = self.os.open_dir(mounted.point())?;
        let own =
            root.open_dir(OsStr::new(slot_record::DIR)).doing_to("opening", slot_record::DIR)?;
        let open = || own.open_file(OsStr::new(MANIFEST_NEW)).doing_to("opening", MANIFEST_NEW);
        let manifest = open()?;
        let changes = if self.layout.purpose.factory && part == Part::Root {
            let manifest = BufReader::with_capacity(64 << 10, open()?);
            let names = self.target_names()?;
            let files = rewrite::files(self.os, self.view, &self.view.root, self.layout, &names)?;
            let rewritten = files.into_keys().collect();
            Some(factory::changes(&self.sources[number].dir, manifest, &rewritten)?)
        } else {
            None
        };
        drop(own);
        let mut manifest = BufReader::with_capacity(64 << 10, Hashing::new(manifest));
        let reference = &self.sources[number].dir;
        let report =
            verify(root, &mut manifest, Some(reference), pool::cores(), &self.session.monitor)?;
        let (file, sha256) = manifest.into_inner().finish();
        drop(file);
        mounted.unmount()?;
        Ok((report, sha256, changes))
    }

    /// Looks at the media once more, now with the new file systems on them, and writes the file to
    /// the copy and to `/config`. What is mounted cannot be read back past the system's cache: of
    /// that file, its own checksums will tell.
    fn tables(&mut self, tables: &Tables) -> Result<()> {
        let content = save::collect(self.os, self.view, self.layout)?.0.encode();
        self.session.monitor.begin(Phase::default());
        if tables.copy.is_some() {
            let (device, point) = (self.device(Part::Root)?, self.point(Part::Root));
            let fs = &self.pair(Part::Root)?.1.fs;
            table::write_copy(self.os, &device, fs, Some(&point), &content)?;
        }
        if let Some(point) = &tables.config {
            table::put(&self.os.open_dir(point)?, &content)
                .during(format!("writing to {}", point.display()))?;
        }
        Ok(())
    }

    fn record(&mut self, part: Part) -> Result<()> {
        self.write_record(part).during(format!("recording {}", part.alternate()))
    }

    fn write_record(&mut self, part: Part) -> Result<()> {
        let (_, pair) = self.pair(part)?;
        let Some(Copied {
            summary,
            manifest_sha256,
            software,
            created,
            verified: Some(verified),
            ..
        }) = self.parts.get(&part)
        else {
            return Err(Error::new(Kind::Failed, "", "it was not verified"));
        };
        let record = Record {
            schema: slot_record::SCHEMA,
            tool: concat!("dualroot ", env!("CARGO_PKG_VERSION")).to_owned(),
            created: *created,
            verified: *verified,
            filesystem: part.point().to_owned(),
            source: self.view.node(pair.source),
            target: self.view.node(pair.target),
            method: "tree".to_owned(),
            product: software.product.clone(),
            packages: software.packages.clone(),
            factory: self.layout.purpose.factory,
            objects: summary.objects,
            files: summary.files,
            bytes: summary.bytes,
            vanished: summary.vanished,
            manifest_sha256: manifest_sha256.clone(),
        };
        let (device, point) = (self.device(part)?, self.point(part));
        self.session.monitor.begin(Phase::default());
        let mounted = Mounted::new(self.os, &device, &point, &pair.fs, Access::Write)?;
        let root = self.os.open_dir(mounted.point())?;
        record::write(&root, &record)?;
        root.sync_all().doing_to("flushing", &device)?;
        drop(root);
        mounted.unmount()?;
        self.os.drop_cache(&device)?;
        // Only what can be read back is there.
        let mounted = Mounted::new(self.os, &device, &point, &pair.fs, Access::Read)?;
        let found = record::read(&self.os.open_dir(mounted.point())?);
        mounted.unmount()?;
        if found.record.as_ref() == Some(&record) {
            return Ok(());
        }
        let why = found.reason.unwrap_or_else(|| "it is not what was written".to_owned());
        Err(Error::new(Kind::Differs, "reading back the record", why))
    }

    /// Gives the sources back and tells what was done.
    pub(super) fn finish(self) -> Result<Vec<PairReport>> {
        let mut pairs = Vec::new();
        for pair in &self.layout.pairs {
            let Some(copied) = self.parts.get(&pair.part) else { continue };
            pairs.push(PairReport {
                source: pair.part.point(),
                target: pair.part.alternate(),
                source_device: self.view.node(pair.source),
                target_device: self.view.node(pair.target),
                method: "tree",
                consistency: copied.consistency.clone(),
                files: copied.summary.files,
                bytes: copied.summary.bytes,
                written_bytes: copied.summary.bytes,
                vanished: copied.summary.vanished,
                changed_since_factory: copied.changes.clone(),
                verified: copied.verified.is_some(),
                copy_seconds: copied.copy_seconds,
                verify_seconds: copied.verify_seconds,
                seconds: copied.copy_seconds + copied.verify_seconds,
            });
        }
        for source in self.sources {
            let Source { dir, mounted, .. } = source;
            drop(dir);
            mounted.map_or(Ok(()), Mounted::unmount)?;
        }
        Ok(pairs)
    }
}

/// A mount would hide what lies in the directory below it.
pub(super) fn check_empty<O: Os>(os: &O, point: &Path, part: Part) -> Result<()> {
    let names = os.open_dir(point)?.names().doing_to("listing", point)?;
    match names.get(0) {
        None => Ok(()),
        Some((name, _)) => Err(Error::refused(format!(
            "{} is not empty: {}{}",
            part.alternate(),
            name.to_string_lossy(),
            if names.len() > 1 { " and more" } else { "" }
        ))
        .hint("move away what is in it; a copy would be mounted over it")),
    }
}

fn remove_if_there<D: Dir>(dir: &D, name: &OsStr) -> Result<()> {
    match dir.remove_dir(name) {
        Err(e) if e.kind() != std::io::ErrorKind::NotFound => Err(e).doing_to("removing", name),
        _ => Ok(()),
    }
}
