//! The directories from the root down to where a walk is, with few of them open.
//!
//! A tree 4,000 directories deep must not need 4,000 open files. Only the innermost ones stay
//! open; on the way up the others are opened again as `..`, and must then be what they were.

use std::ffi::OsStr;
use std::io;
use std::path::Path;
use std::sync::Arc;

use crate::sys::tree::Dir;

/// Innermost directories that stay open.
const OPEN_MAX: usize = 24;

/// Something that can step up again: a directory, or a pair of them.
pub trait Place: Sized {
    /// What makes it this place and no other.
    type Id: PartialEq;
    /// The place above.
    fn parent(&self) -> io::Result<Self>;
    /// Its identity.
    fn id(&self) -> io::Result<Self::Id>;
}

impl<D: Dir> Place for D {
    type Id = (u64, u64);

    fn parent(&self) -> io::Result<Self> {
        self.open_parent()
    }

    fn id(&self) -> io::Result<(u64, u64)> {
        let meta = self.meta()?;
        Ok((meta.dev, meta.ino))
    }
}

struct Frame<P: Place, T> {
    place: Option<Arc<P>>,
    id: P::Id,
    data: T,
}

/// The stack itself; `T` is what the walk keeps for each directory.
pub struct Stack<P: Place, T> {
    frames: Vec<Frame<P, T>>,
}

impl<P: Place, T> Stack<P, T> {
    /// Begins at `root`.
    pub fn new(root: Arc<P>, data: T) -> io::Result<Self> {
        let id = root.id()?;
        Ok(Self { frames: vec![Frame { place: Some(root), id, data }] })
    }

    /// How deep: 1 at the root.
    pub fn depth(&self) -> usize {
        self.frames.len()
    }

    /// Steps into an open place below.
    pub fn push(&mut self, place: Arc<P>, data: T) -> io::Result<()> {
        let id = place.id()?;
        self.frames.push(Frame { place: Some(place), id, data });
        if let Some(far) = self.frames.len().checked_sub(OPEN_MAX + 1) {
            self.frames[far].place = None;
        }
        Ok(())
    }

    /// The innermost place and its data; `None` after the last [`Stack::pop`].
    pub fn top(&mut self) -> Option<(&Arc<P>, &mut T)> {
        let frame = self.frames.last_mut()?;
        Some((frame.place.as_ref()?, &mut frame.data))
    }

    /// Leaves the innermost place and returns it. The one above is opened again where it was
    /// closed.
    ///
    /// # Errors
    /// It cannot be, or `..` is another directory by now: the tree was moved during the walk.
    pub fn pop(&mut self) -> io::Result<Option<(Arc<P>, T)>> {
        let Some(Frame { place: Some(place), data, .. }) = self.frames.pop() else {
            return Ok(None);
        };
        if let Some(above) = self.frames.last_mut()
            && above.place.is_none()
        {
            let parent = place.parent()?;
            if parent.id()? != above.id {
                return Err(io::Error::other("the directory was moved during the walk"));
            }
            above.place = Some(Arc::new(parent));
        }
        Ok(Some((place, data)))
    }
}

/// Opens a directory below `root` name by name, so that no path is too long.
pub fn open_below<D: Dir>(root: &D, path: &Path) -> io::Result<D> {
    let mut dir = root.open_dir(OsStr::new("."))?;
    for name in path {
        dir = dir.open_dir(name)?;
    }
    Ok(dir)
}
