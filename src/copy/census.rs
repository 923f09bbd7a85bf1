//! How much room a copy of a tree takes at most, object by object.

use std::collections::HashSet;
use std::path::PathBuf;
use std::sync::Arc;

use super::progress::{Monitor, interrupted};
use super::selection::Selection;
use super::stack::Stack;
use super::tree::replaced;
use crate::error::{Context, Result, if_there};
use crate::sys::tree::{Dir, Kind, Meta, Names};

/// What was counted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Census {
    /// Inodes.
    pub inodes: u64,
    /// Bytes in blocks of the copy.
    pub bytes: u64,
}

impl Census {
    /// A file takes what its size rounds up to, a sparse one what it takes in the source; blocks
    /// that files share in the source are not shared in the copy. A directory takes its own size,
    /// a long symbolic link a block.
    fn add(&mut self, meta: &Meta, block: u64) {
        let whole = meta.size.div_ceil(block);
        let used = meta.blocks.saturating_mul(512).div_ceil(block).max(1);
        let blocks = match meta.kind {
            Kind::File if meta.size == 0 => 0,
            // At least a block: what lay in the inode itself (inline data) may not in the copy.
            Kind::File => whole.min(used),
            Kind::Dir => whole.max(1),
            Kind::Symlink => 1,
            Kind::Fifo | Kind::Socket | Kind::Char | Kind::Block => 0,
        };
        self.inodes += 1;
        self.bytes = self.bytes.saturating_add(blocks.saturating_mul(block));
    }
}

/// Counts the tree at `root`, its own file system only, or what is selected of it, as it will lie
/// in blocks of `block` bytes.
///
/// # Errors
/// A directory cannot be read, a signal came, or something selected is not there. What vanishes
/// meanwhile is not counted.
pub fn take<D: Dir>(
    root: D,
    block: u64,
    mut selection: Option<Selection<'_>>,
    monitor: &Monitor,
) -> Result<Census> {
    let root = Arc::new(root);
    let mut census = Census::default();
    let mut several = HashSet::new();
    let mut path = PathBuf::new();
    let meta = root.meta().doing_to("reading", "/")?;
    let device = meta.dev;
    census.add(&meta, block);
    let names = root.names().doing_to("listing", "/")?;
    let mut stack: Stack<D, (Names, usize)> =
        Stack::new(root, (names, 0)).doing_to("reading", "/")?;
    while let Some((dir, (names, next))) = stack.top() {
        if let Some(signal) = monitor.stopped() {
            return Err(interrupted(signal));
        }
        let Some((name, _)) = names.get(*next) else {
            stack.pop().doing_to("leaving", &path)?;
            path.pop();
            if let Some(selection) = &mut selection {
                selection.leave()?;
            }
            continue;
        };
        *next += 1;
        if let Some(selection) = &mut selection
            && selection.admits(name)?.is_none()
        {
            continue;
        }
        let Some(meta) = if_there(dir.stat(name)).doing_to("reading", path.join(name))? else {
            continue;
        };
        // One inode, however many names; a mount point is an empty directory.
        if meta.kind != Kind::Dir && meta.nlink > 1 && !several.insert(meta.ino) {
            continue;
        }
        census.add(&meta, block);
        if meta.kind == Kind::Dir && meta.dev == device {
            let below = match if_there(dir.open_dir(name)) {
                Err(e) if replaced(&e) => continue,
                below => below.doing_to("opening", path.join(name))?,
            };
            let Some(below) = below else { continue };
            let names = below.names().doing_to("listing", path.join(name))?;
            path.push(name);
            if let Some(selection) = &mut selection {
                selection.enter(name);
            }
            stack.push(Arc::new(below), (names, 0)).doing_to("reading", &path)?;
        }
    }
    selection.as_ref().map_or(Ok(()), Selection::complete)?;
    Ok(census)
}
