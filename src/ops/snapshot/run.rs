//! What the steps of a snapshot share.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;

use super::copied::Copied;
use super::frozen::Frozen;
use super::source::Source;
use crate::error::{Error, Kind, Result};
use crate::ops::Session;
use crate::ops::history::Diary;
use crate::slot::discover::Layout;
use crate::slot::view::View;
use crate::slot::{Pair, Part};
use crate::sys::Os;

/// A run under way.
pub(super) struct Run<'a, 'b, O: Os> {
    pub(super) os: &'a O,
    pub(super) session: &'a Session,
    pub(super) view: &'a View,
    pub(super) layout: &'a Layout,
    pub(super) say: &'b mut dyn FnMut(&str),
    pub(super) sources: Vec<Source<'a, O>>,
    pub(super) parts: BTreeMap<Part, Copied>,
    /// The snapshots whose blocks are copied.
    pub(super) frozen: BTreeMap<Part, Frozen<'a, O>>,
    /// What was copied by blocks: bytes that were written, and seconds.
    pub(super) blocks: BTreeMap<Part, (u64, f64)>,
    /// The file of partition tables that the root's copy is to get.
    pub(super) tables: Option<Vec<u8>>,
    /// Parts whose copy, or whose mount point, had to be unmounted first.
    pub(super) cleared: BTreeSet<Part>,
    /// Where it is told of.
    pub(super) diary: &'b Diary<'a, O>,
    /// Whether anything of a target was written.
    pub(super) written: bool,
    /// Whether anything else of a medium was: its table, boot flags.
    pub(super) begun: bool,
}

impl<'a, 'b, O: Os> Run<'a, 'b, O> {
    pub(super) fn new(
        os: &'a O,
        session: &'a Session,
        (view, layout): (&'a View, &'a Layout),
        say: &'b mut dyn FnMut(&str),
        sources: Vec<Source<'a, O>>,
        cleared: BTreeSet<Part>,
        diary: &'b Diary<'a, O>,
    ) -> Self {
        let (parts, frozen, blocks) = (BTreeMap::new(), BTreeMap::new(), BTreeMap::new());
        let (tables, written, begun) = (None, false, false);
        Self {
            os,
            session,
            view,
            layout,
            say,
            sources,
            parts,
            frozen,
            blocks,
            tables,
            cleared,
            diary,
            written,
            begun,
        }
    }

    pub(super) fn pair(&self, part: Part) -> Result<(usize, &Pair)> {
        let found = self.layout.pairs.iter().enumerate().find(|(_, p)| p.part == part);
        found.ok_or_else(|| Error::new(Kind::Failed, "", format!("{} is no pair", part.point())))
    }

    pub(super) fn device(&self, part: Part) -> Result<PathBuf> {
        Ok(self.view.devices.get(self.pair(part)?.1.target).path())
    }

    pub(super) fn point(&self, part: Part) -> PathBuf {
        self.view.below(part.alternate())
    }
}
