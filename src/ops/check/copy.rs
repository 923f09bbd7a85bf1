//! What is wrong with the slot that does not run.

use std::path::Path;

use jiff::Timestamp;

use super::{boot, names};
use crate::error::Result;
use crate::finding::{Finding, Severity};
use crate::mounts::stale::obstacles;
use crate::ops::lock;
use crate::ops::mounted::run_dir;
use crate::ops::record::{self, Traces};
use crate::ops::show::{self, Seen};
use crate::record::packages::Package;
use crate::slot::discover::Layout;
use crate::slot::view::View;
use crate::slot::{Pair, State};
use crate::sys::Os;

/// A copy that is older is a fossil: nobody knows any more whether what it holds still works.
const OLD_DAYS: i64 = 90;
/// Of so many packages that differ the names are told.
const TOLD: usize = 3;

pub(super) fn sizes(view: &View, layout: &Layout) -> Option<Finding> {
    let Pair { source, target, .. } = *layout.root();
    let [own, other] = [source, target].map(|id| view.devices.get(id).size);
    let what = format!("it has {other} bytes, {} has {own}", view.node(source));
    let severity = match other.cmp(&own) {
        std::cmp::Ordering::Equal => return None,
        std::cmp::Ordering::Less => Severity::Warning,
        std::cmp::Ordering::Greater => Severity::Info,
    };
    let hint =
        "what fits the larger slot may not fit the smaller: lay the medium out with equal ones";
    Some(Finding::new(severity, "slots-differ-in-size", view.node(target), what, hint))
}

/// Everything about the slot that does not run. `to_be_named`: it is to name its root.
pub(super) fn alternate<O: Os>(
    os: &O,
    view: &View,
    layout: &Layout,
    to_be_named: bool,
    findings: &mut Vec<Finding>,
) -> Result<()> {
    let (mut named, mut unnamed, mut installed) = (Vec::new(), None, false);
    let seen = show::whole(os, view, layout, &mut |root| {
        installed = record::traces(root) == Traces::None;
        named = names::names(view, layout, root);
        if to_be_named {
            let place = format!("{}: etc/fstab", view.node(layout.root().target));
            unnamed = names::unnamed(root, place);
        }
        named.extend(boot::nextboot_there(view, layout, root));
    })?;
    if seen.found.state != State::Writing {
        stale(os, view, layout, findings)?;
    }
    findings.extend(state(view, layout, &seen, installed));
    if let Some(record) = &seen.found.record {
        findings.extend(age(view, layout, record.created));
        let running = show::running(os, view)?.software.packages;
        findings.extend(drift(view, layout, &running, &seen.software.packages));
    }
    findings.extend(named);
    findings.extend(unnamed.filter(|_| seen.found.state == State::Valid));
    Ok(())
}

/// Mounts in the way that no live run made.
fn stale<O: Os>(os: &O, view: &View, layout: &Layout, findings: &mut Vec<Finding>) -> Result<()> {
    let run_dir = run_dir(os);
    let at_work = matches!(lock::shared_system(os, view)?, lock::Reading::Taken(_));
    for pair in &layout.pairs {
        let point = view.below(pair.part.alternate());
        let of_target = |m: &crate::mounts::Mount| view.provider_of(m) == Some(pair.target);
        for obstacle in obstacles(&view.mounts, of_target, &view.root, &point) {
            let mount = obstacle.mount();
            // `812.show` is a reader at work, as long as it lives.
            let private = mount.point.strip_prefix(&run_dir).ok().and_then(Path::to_str);
            let owner = private.and_then(|name| name.split('.').next()?.parse().ok());
            // And what is at its place is a writer's, while one is at work, on whatever medium.
            if owner.map_or(at_work, |pid| os.alive(pid)) {
                continue;
            }
            let place = mount.point.to_string_lossy().into_owned();
            let what = format!("{} ({}) is mounted there", mount.source, mount.fs);
            let hint = format!("dualroot clean, or umount {place}");
            findings.push(Finding::warning("stale-mount", place, what, hint));
        }
    }
    Ok(())
}

/// What it is to us. `installed`: nobody copied its root.
fn state(view: &View, layout: &Layout, seen: &Seen, installed: bool) -> Option<Finding> {
    let place = view.node(layout.root().target);
    let reason = seen.found.reason.clone().unwrap_or_default();
    let hint = "make one: dualroot snapshot";
    Some(match seen.found.state {
        State::Valid => return None,
        State::Empty => Finding::warning("copy-missing", place, reason, hint),
        State::Invalid if installed => {
            let hint = format!(
                "dualroot boot {} tells how to start what is there; dualroot snapshot copies over it",
                layout.alternate().number
            );
            Finding::warning("copy-invalid", place, reason, hint)
        }
        State::Invalid => Finding::warning("copy-invalid", place, reason, hint),
        State::Writing => Finding::info("copy-writing", place, reason, "wait until it is done"),
        State::Unknown => {
            let hint = "see the reason; dualroot snapshot makes a new copy";
            Finding::warning("copy-unknown", place, reason, hint)
        }
    })
}

fn age(view: &View, layout: &Layout, created: Timestamp) -> Option<Finding> {
    let days = Timestamp::now().duration_since(created).as_hours() / 24;
    (days > OLD_DAYS).then(|| {
        let what = format!("the copy is {days} days old");
        let hint = "make a new one: dualroot snapshot";
        Finding::warning("copy-old", view.node(layout.root().target), what, hint)
    })
}

fn drift(view: &View, layout: &Layout, own: &[Package], copy: &[Package]) -> Option<Finding> {
    let mut names: Vec<&str> = own.iter().chain(copy).map(|p| p.name.as_str()).collect();
    names.sort_unstable();
    names.dedup();
    // A package may be there in several versions.
    let versions = |all: &[Package], name: &str| {
        let mut found: Vec<_> =
            all.iter().filter(|p| p.name == name).map(|p| p.version.clone()).collect();
        found.sort_unstable();
        if found.is_empty() { "none".to_owned() } else { found.join(", ") }
    };
    let differences: Vec<String> = names
        .into_iter()
        .map(|name| (name, versions(own, name), versions(copy, name)))
        .filter(|(_, own, copy)| own != copy)
        .map(|(name, own, copy)| format!("{name} {own}, in the copy {copy}"))
        .collect();
    if differences.is_empty() {
        return None;
    }
    let more = match differences.len().saturating_sub(TOLD) {
        0 => String::new(),
        n => format!("; and {n} more"),
    };
    let told = differences[..differences.len().min(TOLD)].join("; ");
    let what = format!("it has other software than the running slot: {told}{more}");
    let hint = "once the running system is known to work: dualroot snapshot";
    Some(Finding::warning("version-drift", view.node(layout.root().target), what, hint))
}
