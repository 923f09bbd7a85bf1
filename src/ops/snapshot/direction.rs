//! Whether a snapshot would copy the old over the new.

use crate::error::{Error, Result};
use crate::ops::record::{self, Traces};
use crate::ops::{arrival, show};
use crate::record::packages::{self, Software};
use crate::record::version::older;
use crate::slot::State;
use crate::slot::discover::Layout;
use crate::slot::view::View;
use crate::sys::Os;

/// Refuses where the alternate slot is newer than the running one, whoever put that there, or is sound
/// and was meant to run in its place. The everyday case, a running root that nobody copied or that is
/// newer, passes; so does half a copy, whatever it is of.
///
/// # Errors
/// Refused, with both sides named.
pub(super) fn guard<O: Os>(os: &O, view: &View, layout: &Layout) -> Result<()> {
    let (mut traces, mut there) = (Traces::None, Software::default());
    let seen = show::held(os, view, layout, &mut |root| {
        traces = record::traces(root);
        // What is on it now: it may have got newer software since it was copied. Without a record that
        // is looked at in any case.
        if traces == Traces::Finished {
            there = packages::scan(root, None).unwrap_or_default();
        }
    })?;
    let there = there.or(seen.software).packages;
    let comparable = traces != Traces::Begun && !there.is_empty();
    let meant = seen.found.state == State::Valid && arrival::look(os, view, layout)?.is_open();
    if !comparable && !meant {
        return Ok(());
    }
    let running = show::running(os, view)?;
    let (own, other) = (layout.root().source, layout.root().target);
    let (own, other) = (view.node(own), view.node(other));
    let created = seen.found.record.as_ref().map(|r| format!("{:.0}", r.created));
    let created = created.as_deref();
    let newer = older(&running.software.packages, &there).filter(|_| comparable);
    if let Some((a, b)) = newer {
        let what = created.map_or("what is".to_owned(), |at| format!("the copy of {at}"));
        let cause = format!(
            "the running {own} is older than {what} on {other} that it would replace: {} {}, there {}",
            a.name, a.version, b.version
        );
        return Err(Error::refused(cause).hint(HINT));
    }
    if meant {
        let created = created.unwrap_or_default();
        let from =
            running.found.record.map(|r| format!(", a copy of {} of {:.0},", r.source, r.created));
        let cause = format!(
            "{other}, whose copy of {created} is sound, was meant to run, and {own}{} runs in its place",
            from.unwrap_or_default()
        );
        return Err(Error::refused(cause).hint(HINT));
    }
    Ok(())
}

const HINT: &str =
    "--force copies all the same; dualroot boot starts the other slot instead, or tells how";
