//! Whether a snapshot would copy the old over the new.

use crate::error::{Error, Result};
use crate::ops::{arrival, show};
use crate::record::version::older;
use crate::slot::State;
use crate::slot::discover::Layout;
use crate::slot::view::View;
use crate::sys::Os;

/// Refuses where the alternate slot is sound and newer than the running one, or was meant to run in
/// its place. The everyday case, a running root that nobody copied or that is newer, passes.
///
/// # Errors
/// Refused, with both sides named.
pub(super) fn guard<O: Os>(os: &O, view: &View, layout: &Layout) -> Result<()> {
    let seen = show::held(os, view, layout)?;
    if seen.found.state != State::Valid {
        return Ok(());
    }
    let running = show::running(os, view)?;
    let (own, other) = (layout.root().source, layout.root().target);
    let (own, other) = (view.node(own), view.node(other));
    let created = seen.found.record.as_ref().map(|r| format!("{:.0}", r.created));
    let created = created.unwrap_or_default();
    let hint = "--force copies all the same; dualroot boot starts the other slot instead";
    if let Some((a, b)) = older(&running.software.packages, &seen.software.packages) {
        let cause = format!(
            "the running {own} is older than the copy of {created} on {other} that it would replace: \
             {} {}, there {}",
            a.name, a.version, b.version
        );
        return Err(Error::refused(cause).hint(hint));
    }
    if arrival::look(os, view, layout)?.is_open() {
        let from =
            running.found.record.map(|r| format!(", a copy of {} of {:.0},", r.source, r.created));
        let cause = format!(
            "{other}, whose copy of {created} is sound, was meant to run, and {own}{} runs in its place",
            from.unwrap_or_default()
        );
        return Err(Error::refused(cause).hint(hint));
    }
    Ok(())
}
