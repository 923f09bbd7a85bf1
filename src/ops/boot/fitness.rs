//! Whether the other slot is one to start from.

use crate::error::{Error, Result};
use crate::ops::record::{self, Traces};
use crate::ops::{journal, show};
use crate::record::journal::Journal;
use crate::slot::State;
use crate::slot::discover::Layout;
use crate::slot::flags::Selection;
use crate::slot::view::View;
use crate::sys::Os;
use crate::table::Scheme;

const COPY: &str = "dualroot snapshot makes a copy that can be started";

/// Whether it is valid, or known to have run and not written since. Why not, otherwise, and what there
/// is to do then. `visit` sees its root, where that can be mounted.
///
/// # Errors
/// It cannot be looked at.
pub(super) fn look<O: Os>(
    os: &O,
    view: &View,
    layout: &Layout,
    selection: Option<&Selection>,
    journal: &Journal,
    visit: &mut dyn FnMut(&O::Dir),
) -> Result<Result<()>> {
    let source = view.node(layout.running().root);
    // Of its root alone, where that can be read.
    let (mut ran, mut traces) = (false, None);
    let whole = show::whole(os, view, layout, &mut |root| {
        (ran, traces) = (record::has_run(root, &source), Some(record::traces(root)));
        visit(root);
    })?
    .found;
    let slot = layout.alternate();
    let (number, node) = (slot.number, view.node(slot.root));
    let proven = ran || journal.proven.contains(&journal::place(view, slot));
    let why = match whole.state {
        State::Valid => return Ok(Ok(())),
        // Of a part of which a copy was begun nothing runs that ran before.
        State::Invalid if proven && whole.traces != Traces::Begun => {
            match half(os, view, layout)? {
                None => return Ok(Ok(())),
                Some(half) => half,
            }
        }
        state => {
            let reason = whole.reason.as_deref().unwrap_or_default();
            format!("{} ({reason})", state.name())
        }
    };
    let unfit = Error::refused(format!("slot {number} ({node}) is {why}"));
    let hint = match (whole.state, traces) {
        (State::Writing, _) => "wait until it is written".to_owned(),
        (State::Invalid, Some(Traces::None)) if !proven => installed(view, selection, number),
        (State::Unknown, _) if whole.foreign => "the dualroot that made it may understand \
            the record; dualroot snapshot writes the slot anew, and what is on it is lost"
            .to_owned(),
        _ => COPY.to_owned(),
    };
    Ok(Err(unfit.hint(hint)))
}

/// What of a slot that has run was written since, besides its root.
fn half<O: Os>(os: &O, view: &View, layout: &Layout) -> Result<Option<String>> {
    for pair in &layout.pairs[1..] {
        let found = show::part(os, view, pair.target)?;
        let whole = match found.state {
            State::Valid => true,
            State::Invalid => found.traces != Traces::Begun,
            _ => false,
        };
        if !whole {
            let (point, state) = (pair.part.alternate(), found.state.name());
            let reason = found.reason.unwrap_or_default();
            return Ok(Some(format!("not whole: {point} is {state} ({reason})")));
        }
    }
    Ok(None)
}

/// What is to be done with a slot that nobody copied. A copy over it would be the end of it.
fn installed(view: &View, selection: Option<&Selection>, number: u32) -> String {
    let known = "it was installed, not copied, and is not known to have run";
    let Some(selection) = selection else { return known.to_owned() };
    let (medium, index) = (view.node(selection.medium), selection.slice(number));
    let start = match selection.table.scheme {
        _ if selection.boot0.is_some() => format!("boot0cfg -s {index} {medium}"),
        Scheme::Gpt => format!(
            "gpart set -a bootonce -i {index} {medium} (FreeBSD), sgdisk -A {index}:set:58 -A \
             {index}:set:59 {medium} (Linux)"
        ),
        Scheme::Mbr | Scheme::Bsd => format!(
            "gpart set -a active -i {index} {medium} (FreeBSD), sfdisk --activate {medium} {index} \
             (Linux)"
        ),
    };
    format!("{known}: start it by {start}, and use dualroot confirm there")
}
