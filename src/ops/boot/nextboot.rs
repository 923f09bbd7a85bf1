//! A trial where no flag starts a slot once: by the file that the running slot's loader reads once.

use std::ffi::OsStr;
use std::path::Path;

use nix::errno::Errno;

use super::same_kernel;
use crate::error::{Context, During, Error, Kind, Result, if_there};
use crate::ops::mounted::Mounted;
use crate::ops::{Session, durable, observe};
use crate::record::packages;
use crate::slot::discover::Layout;
use crate::slot::fstab;
use crate::slot::nextboot::{Nextboot, PATH};
use crate::slot::view::View;
use crate::sys::tree::{Dir, Kind as Object};
use crate::sys::{Access, FsType, Os};

const NAME: &str = "nextboot.conf";

/// Something, or why it is not to be had, in words.
pub(super) type Fit<T> = std::result::Result<T, String>;

/// Whether the loader of the running slot will read the file at the next start, and can write into it
/// that it has.
///
/// # Errors
/// The system does not tell.
pub(super) fn is_read<O: Os>(os: &O, view: &View, layout: &Layout) -> Result<Fit<()>> {
    let no = |why: &str| Ok(Err(why.to_owned()));
    let boot = observe::started(os, view)?;
    let (Some(file), Some(loader)) = (boot.nextboot, boot.loader) else {
        return no("no loader(8) that reads such a file has started this system");
    };
    if file != Path::new(PATH) {
        return no(&format!("the loader reads {}", file.display()));
    }
    let running = layout.running().number;
    match view.loader_slot(layout, &loader) {
        Some(slot) if slot == running => {}
        Some(slot) => return no(&format!("the loader came from slot {slot}")),
        None => return no(&format!("nothing tells which slot the loader came from ({loader})")),
    }
    let (_, mount) = view.running_root()?;
    // What the loader cannot write (ZFS, a memory disk) it would do at every start.
    if mount.fs != FsType::Ufs2.name() {
        return no(&format!("the loader cannot write to {}", mount.fs));
    }
    if mount.read_only {
        return no("/ is mounted read-only (mount -uw / changes that)");
    }
    let root = os.open_dir(&view.root)?;
    let apart = view.mount_at(&view.below("/boot")).is_some();
    if apart || !root.stat(OsStr::new("boot")).is_ok_and(|meta| meta.kind == Object::Dir) {
        return no("/boot is no directory of the root");
    }
    if same_kernel::variable(&root, "nextboot_enable")?.is_some() {
        return no("loader.conf sets nextboot_enable");
    }
    if view.nextboot.as_ref().is_some_and(|file| file.enabled && file.trial.is_none()) {
        return no(&format!("{PATH} is set up for something else (nextboot -D gives that up)"));
    }
    Ok(Ok(()))
}

/// The names of the other slot's root and of the running one, as fstab(5) has them, where a trial by
/// the running slot's kernel says something of the other slot: it has the same.
///
/// # Errors
/// One of the slots cannot be read, or a signal came.
pub(super) fn roots<O: Os>(
    os: &O,
    session: &Session,
    view: &View,
    layout: &Layout,
    other: &O::Dir,
) -> Result<Fit<[String; 2]>> {
    let root = os.open_dir(&view.root)?;
    if let Some(why) = same_kernel::difference(&root, other, &session.monitor)? {
        return Ok(Err(format!("it takes the running slot's kernel, and {why}")));
    }
    let pair = layout.root();
    let name = |spec: Option<&fstab::Entry>, id| {
        let spec = spec.filter(|entry| view.find(&entry.spec) == Some(id));
        let spec = spec.and_then(|entry| String::from_utf8(entry.spec.clone()).ok());
        spec.unwrap_or_else(|| view.node(id))
    };
    let theirs = packages::read(other, "etc/fstab")?.unwrap_or_default();
    let theirs = fstab::parse(&theirs).unwrap_or_default();
    let theirs = theirs.iter().find(|entry| entry.file == b"/");
    Ok(Ok([name(theirs, pair.target), name(view.fstab_entry("/"), pair.source)]))
}

/// Puts the file in place, and reads it back.
///
/// # Errors
/// It could not be written; then it is not there.
pub(super) fn put<O: Os>(os: &O, view: &View, text: &[u8]) -> Result<()> {
    let context = || format!("writing {PATH}");
    let path = view.below(PATH);
    let written = os
        .open_dir(&view.below("/boot"))
        .and_then(|dir| durable::put(&dir, NAME, text))
        .and_then(|()| os.read_file(&path));
    let error = match written {
        Ok(Some(found)) if found == text => return Ok(()),
        Ok(_) => Error::new(Kind::Differs, "reading back", "it is not what was written"),
        Err(error) => error,
    };
    if let Err(e) = remove(os, view) {
        log::warn!("{e}");
    }
    Err(error.during(context()))
}

/// Whether the file in place is this one. Where nobody can tell, it is.
pub(super) fn is_there<O: Os>(os: &O, view: &View, text: &[u8]) -> bool {
    os.read_file(&view.below(PATH)).map_or(true, |found| found.as_deref() == Some(text))
}

/// Removes a trial of ours from the running slot, with what an interrupted run left of one.
///
/// # Errors
/// It is there and cannot be removed.
pub(super) fn remove<O: Os>(os: &O, view: &View) -> Result<()> {
    match os.open_dir(&view.below("/boot")) {
        Err(e) if e.errno == Some(Errno::ENOENT as i32) => Ok(()),
        dir => remove_from(&dir?),
    }
    .during(format!("removing {PATH}"))
}

/// The same from the other slot, whose loader could not write that it has read it.
///
/// # Errors
/// The slot cannot be mounted, or written.
pub(super) fn remove_there<O: Os>(os: &O, view: &View, layout: &Layout) -> Result<()> {
    let pair = layout.root();
    let device = view.devices.get(pair.target).path();
    let context = || format!("removing {PATH} from {}", device.display());
    let mounted = Mounted::aside(os, &device, &pair.fs, "boot", Access::Write).during(context())?;
    let root = mounted.open()?;
    let removed = match packages::descend(&root, "boot")? {
        Some(dir) => remove_from(&dir),
        None => Ok(()),
    };
    drop(root);
    removed.and(mounted.unmount()).during(context())
}

fn remove_from<D: Dir>(boot: &D) -> Result<()> {
    let ours = read(boot)?.is_some_and(|file| file.trial.is_some());
    let half = format!("{NAME}.new");
    let mut changed = false;
    for (name, goes) in [(NAME, ours), (half.as_str(), true)] {
        let there = if_there(boot.stat(OsStr::new(name))).doing_to("reading", name)?;
        if goes && there.is_some_and(|meta| meta.kind == Object::File) {
            boot.remove_file(OsStr::new(name)).doing_to("removing", name)?;
            changed = true;
        }
    }
    if changed { boot.sync().doing_to("flushing", "boot") } else { Ok(()) }
}

fn read<D: Dir>(boot: &D) -> Result<Option<Nextboot>> {
    Ok(packages::read(boot, NAME)?.map(|text| Nextboot::parse(&text)))
}

/// What another root has.
///
/// # Errors
/// It cannot be read.
pub(in super::super) fn of<D: Dir>(root: &D) -> Result<Option<Nextboot>> {
    Ok(packages::read(root, PATH.trim_start_matches('/'))?.map(|text| Nextboot::parse(&text)))
}
