//! What must be true before a target is written. Pure; asked again with the target open.

use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;

use super::Part;
use super::discover::Layout;
use super::nextboot;
use super::view::View;
use crate::device::{Class, Id};
use crate::error::{Error, Kind, Result};
use crate::finding::Severity;
use crate::sys::FsType;

/// Junos's words, which scripts look for.
const MIRRORED: &str = "Snapshot is not possible since mirror-flash-on-disk is configured.";

impl View {
    /// Checks that no target of `layout` shares storage with anything in use, and that the alternate
    /// slot is not the one that starts next; with `reselect` the flags will be moved first.
    ///
    /// # Errors
    /// The first refusal. A mount of a target itself is not one: it may be stale, and clearing
    /// decides that.
    pub fn guard(&self, layout: &Layout, reselect: bool) -> Result<()> {
        for pair in &layout.pairs {
            self.guard_mirror(pair.source, pair.target)?;
            self.guard_tables(pair.source)?;
            self.guard_tables(pair.target)?;
            self.guard_target(pair.target, layout)?;
            if FsType::from_name(&pair.fs).is_none() {
                return Err(Error::refused(format!(
                    "{} is {}, of which no copy can be made (ufs, ext4 and xfs can)",
                    pair.part.point(),
                    pair.fs
                )));
            }
        }
        let alternate = layout.alternate();
        if self.selection_of(layout).and_then(|s| s.nextboot) == Some(alternate.number) {
            let node = self.node(alternate.root);
            let cause = format!(
                "the next start mounts slot {} ({node}): {} says so",
                alternate.number,
                nextboot::PATH
            );
            return Err(
                Error::refused(cause).hint("dualroot reject, or nextboot -D, gives that up")
            );
        }
        if alternate.active && !(reselect && self.selection_of(layout).is_some()) {
            return Err(Error::refused(format!(
                "the boot flags select the alternate slot {} ({}): if the copy failed, nothing would boot",
                alternate.number,
                self.node(alternate.root)
            ))
            .hint(format!(
                "make the running slot active first: dualroot boot {}; --force does so, too",
                layout.running().number
            )));
        }
        Ok(())
    }

    /// A damaged table, or a partition that cannot even be read, is no ground to write on.
    ///
    /// # Errors
    /// Refused, with what is wrong.
    pub fn guard_tables(&self, id: Id) -> Result<()> {
        let findings = self.devices.chain(id).into_iter().filter_map(|id| self.findings.get(&id));
        if let Some(found) = findings.flatten().find(|f| f.severity == Severity::Error) {
            let error = Error::new(Kind::Refused, "checking", &found.what);
            return Err(error.path(&found.place).hint(&found.hint));
        }
        for id in self.devices.chain(id) {
            if let Some(fault) = self.faults.get(&id) {
                return Err(Error::refused(format!("{}: {fault}", self.node(id))));
            }
        }
        Ok(())
    }

    fn guard_target(&self, target: Id, layout: &Layout) -> Result<()> {
        let refuse = |why: String| Err(Error::refused(format!("{} {why}", self.node(target))));
        for pair in &layout.pairs {
            if self.devices.overlap(target, pair.source) {
                return refuse(format!(
                    "shares its storage with {}, the source of {}",
                    self.node(pair.source),
                    pair.part.point()
                ));
            }
            if pair.target != target && self.devices.overlap(target, pair.target) {
                return refuse(format!("shares its storage with {}", self.node(pair.target)));
            }
        }
        for mount in &self.mounts {
            let Some(id) = self.provider_of(mount) else { continue };
            if id != target && self.devices.overlap(id, target) {
                return refuse(format!(
                    "shares its storage with {}, mounted on {}",
                    mount.source,
                    mount.point.display()
                ));
            }
            if id == target && mount.point.as_os_str() == "/" {
                return refuse("is the running root".to_owned());
            }
        }
        for swap in &self.swaps {
            if let Some(id) = self.find(swap.as_os_str().as_bytes())
                && self.devices.overlap(id, target)
            {
                return refuse(format!("shares its storage with swap or dump {}", swap.display()));
            }
        }
        let below = [Some(target), self.hidden_in(target)];
        if let Some(user) = below.into_iter().flatten().find_map(|id| self.in_use_above(id)) {
            return refuse(format!("is in use by {}", self.node(user)));
        }
        // A stale mount is cleared, and then it is there again.
        if let Some(why) = self.why_hidden(target)
            && !self.mounts.iter().any(|m| self.provider_of(m) == Some(target))
        {
            return Err(Error::new(Kind::Busy, "", format!("{}: {why}", self.node(target))));
        }
        Ok(())
    }

    /// A transformation (encryption, gnop, device mapper, a partition table) that lies on the
    /// target: what is written below it would change what it holds.
    fn in_use_above(&self, target: Id) -> Option<Id> {
        let transforms = |&upper: &Id| match self.devices.get(upper).class {
            Class::Alias | Class::Mirror => false,
            _ => !self.hidden.contains(&upper),
        };
        self.devices.uppers(target).find(transforms)
    }

    /// Checks that nobody uses anything of a medium that is to get a new table.
    ///
    /// # Errors
    /// Refused, with what is in use.
    pub fn guard_medium(&self, medium: Id) -> Result<()> {
        let refuse = |why: String| Error::refused(format!("{}: {why}", self.node(medium)));
        let overlaps = |id: Option<Id>| id.is_some_and(|id| self.devices.overlap(id, medium));
        if let Some(source) = self.mount_at(&self.root).and_then(|m| self.mounted(m)) {
            self.guard_mirror(source, medium)?;
        }
        if let Some(mount) = self.mounts.iter().find(|m| overlaps(self.provider_of(m))) {
            let point = mount.point.display();
            return Err(refuse(format!("{} is mounted on {point}", mount.source))
                .hint(format!("unmount it: umount {point}")));
        }
        let named = |swap: &PathBuf| overlaps(self.find(swap.as_os_str().as_bytes()));
        if let Some(swap) = self.swaps.iter().find(|swap| named(swap)) {
            return Err(refuse(format!("{} is used for swap or dumps", swap.display())));
        }
        let other = (0..self.devices.providers.len()).find(|&id| {
            let class = &self.devices.get(id).class;
            id != medium && matches!(class, Class::Mirror | Class::Other(_)) && overlaps(Some(id))
        });
        match other {
            Some(id) => Err(refuse(format!("it is in use by {}", self.node(id)))),
            None => Ok(()),
        }
    }

    fn guard_mirror(&self, source: Id, target: Id) -> Result<()> {
        if self.config.mirror_flash_on_disk {
            let hint = format!("{} says so", self.config_path.display());
            return Err(Error::refused(MIRRORED).hint(hint));
        }
        match self.devices.mirrored(target).or_else(|| self.devices.mirrored(source)) {
            None => Ok(()),
            Some(mirror) => Err(Error::refused(MIRRORED)
                .hint(format!("{} lies on one of the slots", self.node(mirror)))),
        }
    }

    /// Checks the mount point of a copy: a directory of the source itself, or nothing yet.
    /// `kind` is what lies there now, with no symbolic link followed.
    pub fn guard_point(&self, part: Part, kind: Option<crate::sys::tree::Kind>) -> Result<()> {
        use crate::sys::tree::Kind as Object;
        let what = match kind {
            None | Some(Object::Dir) => return Ok(()),
            Some(Object::Symlink) => "a symbolic link",
            Some(_) => "no directory",
        };
        Err(Error::new(Kind::Refused, "", format!("{} is {what}", part.alternate()))
            .hint("remove it; the mount point is made when it is missing"))
    }
}
