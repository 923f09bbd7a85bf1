//! Snapshots of mounted file systems, as the kernel takes them: all at once, and durable.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use nix::errno::Errno;

use super::os::parent;
use super::tree::{Attributes, Body, Change, Content, Inode};
use super::world::{World, provider};
use crate::device::Class;

impl World {
    pub(super) fn freeze(&mut self, file: &Path) -> io::Result<PathBuf> {
        let (node, name) = parent(self, file)?;
        let now = self.now;
        let mut moment = self.volumes[node.volume].clone();
        moment.flush();
        let volume = &mut self.volumes[node.volume];
        volume.tree().may_add(node.ino, name)?;
        volume.tree().room(1, 1)?;
        let ino = volume.allocate();
        let inode = Inode::new(Body::File(Content::default()), Attributes::new(0o440, now));
        volume.change(ino, Change::Make(Arc::new(inode)), now);
        volume.change(node.ino, Change::Link(name.to_owned(), ino), now);
        volume.flush();
        let name = format!("md{}", self.volumes.len());
        self.devices.providers.push(provider(name.clone(), Class::Disk, moment.size, Vec::new()));
        moment.provider = Some(name.clone());
        moment.backing = Some(file.to_path_buf());
        moment.opens.clear();
        self.volumes.push(moment);
        Ok(Path::new("/dev").join(name))
    }

    pub(super) fn thaw(&mut self, file: &Path) -> io::Result<()> {
        let ours = |v: &super::volume::Volume| v.backing.as_deref() == Some(file);
        if let Some(volume) = self.volumes.iter().position(ours) {
            if self.is_mounted(volume) {
                return Err(Errno::EBUSY.into());
            }
            let gone = &mut self.volumes[volume];
            gone.backing = None;
            let name = gone.provider.take().unwrap_or_default();
            // Nothing lies on it, and nothing was added after it: ids stay.
            self.devices.providers.retain(|p| p.name != name);
        }
        let (node, name) = parent(self, file)?;
        let now = self.now;
        let volume = &mut self.volumes[node.volume];
        let ino = match volume.tree().child(node.ino, name) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(()),
            ino => ino?,
        };
        volume.change(node.ino, Change::Unlink(name.to_owned()), now);
        volume.prune(ino);
        Ok(())
    }

    /// The process that they are named for becomes another one, which is gone.
    pub(super) fn orphan_snapshots(&mut self, own: &str, dead: &str) {
        for volume in 0..self.volumes.len() {
            let Some(file) = self.volumes[volume].backing.clone() else { continue };
            let word = file.file_name().and_then(|n| n.to_str()?.strip_prefix(own));
            let Some(word) = word else { continue };
            let (from, to) = (format!("{own}{word}"), format!("{dead}{word}"));
            if let Ok((node, _)) = parent(self, &file) {
                let change = Change::Rename(from.into(), to.clone().into());
                self.volumes[node.volume].change(node.ino, change, self.now);
            }
            self.volumes[volume].backing = Some(file.with_file_name(to));
        }
    }

    /// Memory disks do not outlive the power.
    pub(super) fn forget_snapshots(&mut self) {
        let gone: Vec<_> = self
            .volumes
            .iter()
            .filter(|v| v.backing.is_some())
            .map(|v| v.provider.clone())
            .collect();
        self.devices.providers.retain(|p| !gone.contains(&Some(p.name.clone())));
        self.volumes.retain(|v| v.backing.is_none());
    }
}
