//! Objects that the copy has already: left as they are where they are what they are to be, and made
//! so where that is less work than making them anew.

use std::io::{self, Seek, SeekFrom};

use super::object::{Attempt, Name, Tried};
use super::patch::Patch;
use super::remove::remove;
use super::{Effort, Old, is_other, vanished};
use crate::copy::content::{Discard, Passed};
use crate::error::{Context, Result};
use crate::record::manifest::Object;
use crate::sys::tree::{Dir, File, Kind, Meta, Xattrs};

/// The file that gets the content.
pub(super) struct Target<F> {
    pub(super) file: F,
    /// What it was, where it was there before.
    pub(super) before: Option<(Meta, Xattrs)>,
    /// Whether its content was changed.
    pub(super) changed: bool,
}

impl<F> Target<F> {
    pub(super) fn new(file: F) -> Self {
        Self { file, before: None, changed: true }
    }
}

/// What an older copy has under a file's name.
enum Present<F> {
    Kept(Target<F>),
    Shared,
    Gone,
}

/// Whether a root can be brought up to date: it is the one directory that cannot be made anew.
///
/// # Errors
/// Either cannot be read.
pub fn can_renew<D: Dir>(source: &D, target: &D) -> io::Result<bool> {
    let attributes = |dir: &D| Ok::<_, io::Error>((dir.meta()?, dir.xattrs()?));
    let ((wanted, wanted_xattrs), (there, xattrs)) = (attributes(source)?, attributes(target)?);
    Ok(can_become::<D>((&there, &xattrs), (&wanted, &wanted_xattrs)))
}

/// In all that stat(2) tells on every system: Linux tells no flags of an entry. The names of a file
/// are another matter.
fn is_as_listed(listed: &Object, found: &Object) -> bool {
    let key = |o: &Object| (o.kind, o.mode, o.uid, o.gid, o.size, o.mtime, o.birth, o.device);
    key(listed) == key(found)
}

/// Whether there is nothing to set but, perhaps, flags.
pub(super) fn has_attributes<D: Dir>(there: &Meta, wanted: &Meta) -> bool {
    let object = |meta| Object { size: 0, ..Object::new(meta, D::KEEPS_BIRTH) };
    is_as_listed(&object(wanted), &object(there))
}

/// Whether what is there can get these attributes: an extended one is never taken away, and a birth
/// time only goes down.
pub(super) fn can_become<D: Dir>(
    (there, xattrs): (&Meta, &Xattrs),
    (wanted, wanted_xattrs): (&Meta, &Xattrs),
) -> bool {
    let birth = Object::new(wanted, D::KEEPS_BIRTH).birth;
    birth.is_none_or(|birth| there.birth.is_some_and(|b| b >= birth))
        && xattrs.iter().all(|(name, _)| wanted_xattrs.iter().any(|(w, _)| w == name))
}

/// Fewer blocks than bytes: there are holes.
fn is_sparse(meta: &Meta) -> bool {
    meta.blocks.saturating_mul(512) < meta.size
}

impl<D: Dir> Attempt<'_, D> {
    /// What nobody has touched, in the source since it was copied, in the copy since it was verified,
    /// is what its manifest says, where the manifest tells of the very same object.
    pub(super) fn untouched(&self) -> Option<Tried> {
        let old = self.entry.old.as_ref().filter(|old| !old.suspect)?;
        let (listed, trust) = (old.listed.as_deref()?, old.trust?);
        if self.entry.replace.is_some() || listed.kind == Kind::Dir {
            return None;
        }
        let source = self.pair.source.stat(&self.entry.name).ok()?;
        let there = self.pair.target.stat(&self.entry.name).ok()?;
        let stands = |meta: &Meta| is_as_listed(listed, &Object::new(meta, D::KEEPS_BIRTH));
        if source.ctime >= trust.source || there.ctime >= trust.copy {
            return None;
        }
        if !stands(&source) || !stands(&there) {
            return None;
        }
        if listed.source? != self.provenance?.of(&source) {
            return None;
        }
        match (self.which, source.nlink, there.nlink) {
            (Name::Only, 2.., _) => return Some(Tried::Several(source)),
            (Name::Only, _, 2..) => return None,
            _ => {}
        }
        let mut object = listed.clone();
        (object.nlink, object.group) = (Some(source.nlink), None);
        let bytes = match source.kind {
            Kind::File => source.size.min(source.blocks.saturating_mul(512)),
            _ => 0,
        };
        self.monitor.passed(bytes);
        Some(Tried::Copied(Box::new(object), Effort { bytes, ..Effort::default() }))
    }

    /// Whether the copy's entry is what `object`, of an entry that cannot be opened, is to be.
    pub(super) fn stands(&self, object: &Object, meta: &Meta, xattrs: &Xattrs) -> Result<bool> {
        let (target, name) = (&self.pair.target, &self.entry.name);
        let there = match target.stat(name) {
            Err(e) if vanished(&e) => return Ok(false),
            there => there.doing_to("reading the copy of", self.path)?,
        };
        if !has_attributes::<D>(&there, meta)
            || there.flags != meta.flags
            || there.nlink > 1 && self.which == Name::Only
        {
            return Ok(false);
        }
        if meta.kind == Kind::Symlink {
            let link = target.read_link(name).doing_to("reading the copy of", self.path)?;
            if link != object.link {
                return Ok(false);
            }
        }
        Ok(target.xattrs_of(name).doing_to("reading the copy of", self.path)? == *xattrs)
    }

    /// The file that is to get the content: the copy's own where it can, else a new one; `None`
    /// where the copy's has other names, of which the caller's thread knows.
    pub(super) fn target(&self, source: &D::File, meta: &Meta) -> Result<Option<Target<D::File>>> {
        let present = match &self.entry.old {
            Some(old) => self.present(old, source, meta)?,
            None => Present::Gone,
        };
        match present {
            Present::Kept(target) => Ok(Some(target)),
            Present::Shared => Ok(None),
            Present::Gone => self.create().map(Target::new).map(Some),
        }
    }

    /// The copy's file, where it can become what it is to be; else it is removed.
    fn present(&self, old: &Old, source: &D::File, meta: &Meta) -> Result<Present<D::File>> {
        match self.pair.target.open_file(&self.entry.name) {
            Ok(file) => {
                let there = file.meta().doing_to("reading the copy of", self.path)?;
                let shared =
                    there.kind == Kind::File && there.nlink > 1 && self.which == Name::Only;
                let replaced = self.entry.replace.is_some();
                // It would change under its other names.
                if shared && !replaced {
                    return Ok(Present::Shared);
                }
                if there.kind == Kind::File && !old.suspect && !shared {
                    let reading = "reading the extended attributes of";
                    let wanted = source.xattrs().doing_to(reading, self.path)?;
                    let xattrs = file.xattrs().doing_to("reading the copy of", self.path)?;
                    if can_become::<D>((&there, &xattrs), (meta, &wanted)) {
                        let before = Some((there, xattrs));
                        return Ok(Present::Kept(Target { file, before, changed: false }));
                    }
                }
            }
            Err(e) if vanished(&e) => return Ok(Present::Gone),
            Err(e) if is_other(&self.pair.target, &self.entry.name, &e) => {}
            Err(e) => return Err(e).doing_to("opening the copy of", self.path),
        }
        remove(&self.pair.target, &self.entry.name, self.path)?;
        Ok(Present::Gone)
    }

    /// Makes the content of a file that was there the source's. Returns the bytes written too.
    pub(super) fn renew(
        &mut self,
        source: &mut D::File,
        target: &mut Target<D::File>,
        meta: &Meta,
    ) -> Result<(Passed, u64)> {
        let Some((there, _)) = &mut target.before else { return self.fill(source, target, meta) };
        if let Some(passed) = self.same(source, there, meta)? {
            return Ok((passed, 0));
        }
        source.seek(SeekFrom::Start(0)).doing_to("reading", self.path)?;
        if self.entry.replace.is_none() && is_sparse(meta) || is_sparse(there) {
            // Old data would lie where a hole is to be.
            remove(&self.pair.target, &self.entry.name, self.path)?;
            *target = Target::new(self.create()?);
            return self.fill(source, target, meta);
        }
        if there.flags != 0 {
            target.file.set_flags(0).doing_to("taking the flags from the copy of", self.path)?;
            there.flags = 0;
        }
        target.file = self
            .pair
            .target
            .open_to_change(&self.entry.name)
            .doing_to("opening the copy of", self.path)?;
        let mut patch = Patch::new(&mut target.file, there.size);
        let passed = self.pass(source, &mut patch, meta)?;
        let written = patch.written();
        let size = self.size(meta);
        if there.size > size {
            target.file.set_len(size).doing_to("setting the size of", self.path)?;
        }
        target.changed = written > 0 || there.size != size;
        Ok((passed, written))
    }

    /// The content, read from the source, where it is the one that the manifest tells of the copy.
    /// Where the copy's metadata are no longer the manifest's it may be another one.
    fn same(&mut self, source: &mut D::File, there: &Meta, meta: &Meta) -> Result<Option<Passed>> {
        if self.entry.old.as_ref().is_some_and(|old| old.same_blocks)
            && self.entry.replace.is_none()
            && has_attributes::<D>(there, meta)
            && there.size == meta.size
        {
            // Where the source's blocks came out as something else after all, the verifying finds it.
            return self.pass(source, &mut Discard, meta).map(Some);
        }
        let entry = self.entry;
        let listed = entry.old.as_ref().and_then(|old| old.listed.as_deref());
        let found = Object::new(there, D::KEEPS_BIRTH);
        let Some(listed) = listed.filter(|listed| is_as_listed(listed, &found)) else {
            return Ok(None);
        };
        // What has another time was written to: it need not be read twice.
        if self.entry.replace.is_none() && (listed.size, listed.mtime) != (meta.size, meta.mtime) {
            return Ok(None);
        }
        let passed = self.pass(source, &mut Discard, meta)?;
        Ok(Some(passed).filter(|passed| Some(&passed.sums) == listed.sums.as_ref()))
    }

    /// Sets what is to be set.
    pub(super) fn set_attributes(
        &self,
        target: &Target<D::File>,
        meta: &Meta,
        xattrs: &Xattrs,
    ) -> Result<()> {
        let file = &target.file;
        if let Some((there, there_xattrs)) = &target.before {
            let same = has_attributes::<D>(there, meta)
                && there.flags == meta.flags
                && there_xattrs == xattrs;
            if !target.changed && same {
                return Ok(());
            }
            if there.flags != 0 {
                file.set_flags(0).doing_to("taking the flags from the copy of", self.path)?;
            }
        }
        crate::copy::attributes::set_on_file(file, meta, xattrs, self.flags(meta), self.path)
    }
}
