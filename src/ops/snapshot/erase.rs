//! The end of an old copy: its record, or all of it.

use std::path::Path;

use super::run::Run;
use crate::error::{Context, During, Error, Result};
use crate::ops::mounted::{Mounted, patiently};
use crate::ops::{observe, record};
use crate::slot::Part;
use crate::sys::tree::Dir;
use crate::sys::{Access, Claim, Format, Os};
use crate::table::superblock;

impl<O: Os> Run<'_, '_, O> {
    /// Claims a target that is about to be written. The guard is asked again with the device open,
    /// since its name may lead elsewhere by now.
    pub(super) fn claim(&mut self, part: Part) -> Result<O::Claim> {
        let device = self.device(part)?;
        if !self.written {
            // Nothing is written yet: the last moment to refuse.
            for pair in &self.layout.pairs {
                check_empty(self.os, &self.point(pair.part), pair.part)?;
            }
        }
        let claim = patiently(|| self.os.claim(&device))?;
        let fresh = observe::view(self.os, self.session)?;
        let open = claim.provider()?;
        let layout = fresh.discover()?;
        let same =
            layout.pairs.iter().any(|p| p.part == part && fresh.devices.get(p.target).name == open);
        if !same {
            return Err(Error::refused(format!("{} is {open} by now", device.display())));
        }
        fresh.guard(&layout, false)?;
        if !self.written {
            super::forget(self.diary, self.view, self.layout)?;
        }
        Ok(claim)
    }

    /// Erases the old root, then the superblocks, and flushes each: from here on the slot has no
    /// record.
    ///
    /// The root's inode goes first and alone, in the one sector that a medium writes as a whole. Then
    /// nothing of the old copy can be reached, neither through a superblock that a loss of power
    /// leaves, old or new, nor with a part of its inodes and the record still there.
    pub(super) fn erase(&mut self, part: Part) -> Result<()> {
        let mut claim = self.claim(part)?;
        let target = self.view.devices.get(self.pair(part)?.1.target);
        let window = self.os.read_device(&target.path(), 0, superblock::WINDOW)?;
        let size = claim.size()?;
        self.written = true;
        let inodes = superblock::root_inodes(&window).filter(|range| range.end <= size);
        let root = inodes.as_ref().map(|range| superblock::root_sector(range, target.sector));
        let rest = superblock::wipe_ranges(&window).into_iter().chain(inodes);
        for ranges in [root.into_iter().collect(), rest.collect::<Vec<_>>()] {
            for range in ranges {
                claim.wipe(range.start, range.end - range.start)?;
            }
            claim.flush()?;
        }
        Ok(())
    }

    /// Removes the record of a copy that is to be brought up to date, and flushes.
    pub(super) fn revoke(&mut self, part: Part) -> Result<()> {
        drop(self.claim(part)?);
        self.written = true;
        let (device, point) = (self.device(part)?, self.point(part));
        let fs = &self.pair(part)?.1.fs;
        let mounted = Mounted::new(self.os, &device, &point, fs, Access::Write)?;
        let root = mounted.open()?;
        record::revoke(&root)?;
        root.sync_all().doing_to("flushing", &device)?;
        drop(root);
        mounted.unmount()?;
        self.flush(&device)
    }

    pub(super) fn format(&mut self, part: Part, device: &str, format: &Format) -> Result<()> {
        let context = format!("formatting {}", part.alternate());
        self.os.format(Path::new(device), format).during(&context)?;
        // What the tool wrote may lie in the device's cache, in any order: the new superblock must
        // not become durable before what it leads to, or the old tree shows through half a copy.
        self.flush(Path::new(device)).during(context)
    }

    /// Flushes the device's own cache.
    pub(super) fn flush(&self, device: &Path) -> Result<()> {
        patiently(|| self.os.claim(device)).and_then(|mut claim| claim.flush())
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
