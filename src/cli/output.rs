//! Reports as text, in the seeds' words, or as JSON.

use std::fmt::Write as _;

use jiff::Timestamp;
use jiff::tz::TimeZone;
use serde::Serialize;

use super::bar;
use crate::error::{Error, visible};
use crate::finding::Severity;
use crate::ops::partitions::Role;
use crate::ops::{
    auto_snapshot, boot, check, clean, factory, history, partitions, show, snapshot, table, verify,
};
use crate::plan::size::human as size;
use crate::record::journal::Auto;
use crate::slot::State;
use crate::sys::terminal_width;

/// One JSON object on one line.
pub fn json<T: Serialize>(report: &T) -> String {
    serde_json::to_string(report).unwrap_or_default() + "\n"
}

/// An error as JSON. `verb` is what was to be done, where the error says no more of that.
pub fn json_error(error: &Error, verb: &str) -> String {
    let mut operation = error.context.clone();
    if !error.operation.is_empty() {
        operation.push(error.operation.clone());
    }
    if operation.is_empty() {
        operation.push(verb.to_owned());
    }
    let object = serde_json::json!({"schema": 1, "error": {
        "code": error.kind.code(),
        "operation": operation.join(": "),
        "path": error.path.as_ref().map(|p| p.to_string_lossy()),
        "offset": error.offset,
        "cause": error.cause,
        "hint": error.hint,
    }});
    object.to_string() + "\n"
}

/// What Junos prints before the words of each member of a chassis.
pub fn member(name: &str) -> String {
    format!("{}:\n{:-<74}\n", visible(name), "")
}

/// A date as Junos prints it: `Sep 1 08:25:17 2020`, local time.
fn date(time: Timestamp) -> String {
    time.to_zoned(TimeZone::system()).strftime("%b %-d %H:%M:%S %Y").to_string()
}

/// `show`, as in the first seed; what it does not have follows each slot's packages.
pub fn show(report: &show::Report) -> String {
    let mut text = String::new();
    for slot in &report.slots {
        // Writing to a String cannot fail.
        let _ = writeln!(
            text,
            "Information for snapshot on       {} ({}) ({})",
            slot.medium, slot.device, slot.role
        );
        if slot.unmountable {
            let reason = slot.reason.as_deref().unwrap_or_default();
            let _ = writeln!(text, "error: cannot mount {}", slot.device);
            let _ = writeln!(text, "State: {} ({reason})", slot.state.name());
            continue;
        }
        let created = slot.created.map_or_else(|| "unknown".to_owned(), date);
        let _ = writeln!(text, "Creation date: {created}");
        if !slot.packages.is_empty() {
            let product = slot.product.as_deref().unwrap_or("Software");
            let _ = writeln!(text, "{product} version on snapshot:");
            for package in &slot.packages {
                let _ = writeln!(text, "{}", package.line());
            }
        }
        let _ = writeln!(text, "State: {}", state(slot));
    }
    if !report.next.is_empty() {
        let _ = writeln!(text, "Next start: {}", next(&report.next));
    }
    if let Some(show::TrialReport { trial, stage }) = &report.trial {
        let (slot, from) = (trial.slot.slot, trial.from.slot);
        let armed = date(trial.armed);
        let stage = stage.words();
        let by = trial.mixture().map_or_else(String::new, |by| format!(", {by}"));
        let _ = writeln!(text, "Trial: slot {slot} from slot {from}, since {armed}{by}: {stage}");
    }
    if let Some(operation) = &report.interrupted {
        let (operation, begun) = (visible(&operation.to_string()), date(operation.begun));
        let _ = writeln!(text, "Interrupted: {operation}, begun {begun}");
    }
    if let Some(why) = &report.journal {
        let _ = writeln!(text, "Journal: {}", visible(why));
    }
    text
}

/// `slot 2 (/dev/da0p3), once; then slot 1 (/dev/da0p2)`
fn next(next: &[show::Next]) -> String {
    let slot = |n: &show::Next| {
        let once = if n.once { ", once" } else { "" };
        format!("slot {} ({}){once}", n.slot, n.device)
    };
    next.iter().map(slot).collect::<Vec<_>>().join("; then ")
}

/// `boot`, `confirm` and `reject`.
pub fn boot(report: &boot::Report) -> String {
    let mut text = String::new();
    // What was not asked is a warning.
    for hook in report.hooks.iter().filter(|hook| hook.passed.is_some()) {
        let _ = writeln!(text, "{}: {}", visible(&hook.name), visible(&hook.result));
    }
    let _ = writeln!(
        text,
        "Next start: {}",
        match &report.next[..] {
            [] => format!("slot {} ({})", report.slot, report.device),
            all => next(all),
        }
    );
    if let Some(kernel) = report.kernel {
        let _ = writeln!(
            text,
            "By nextboot(8): kernel of slot {kernel}, root of slot {0}; the boot code, loader and kernel \
             of slot {0} are not tried",
            report.slot
        );
    }
    if report.rebooting {
        text += "Rebooting\n";
    } else if report.reboot_due {
        text += "A reboot is due\n";
    }
    text
}

/// `log`: a line for each run, the newest last.
pub fn log(report: &history::Report) -> String {
    let mut text = String::new();
    for entry in &report.entries {
        let _ = write!(text, "{}  {}", date(entry.when), visible(&entry.verb));
        if let (Some(from), Some(to)) = (&entry.from, &entry.to) {
            let _ = write!(text, "  {} -> {}", visible(from), visible(to));
        }
        let _ = write!(text, "  {}", entry.result.name());
        if entry.result != history::Outcome::Interrupted {
            let _ = write!(text, " in {:.1} s", entry.seconds);
        }
        if let Some(error) = &entry.error {
            let _ = write!(text, " (exit {}): {}", entry.code, visible(error));
        }
        text.push('\n');
        for detail in &entry.details {
            let _ = writeln!(text, "    {}", visible(detail));
        }
    }
    match report.unreadable {
        0 => {}
        n => {
            let _ = writeln!(text, "{n} lines that make no sense were left out");
        }
    }
    text
}

fn state(slot: &show::SlotReport) -> String {
    let mut text = slot.state.name().to_owned();
    let mut facts = Vec::new();
    if slot.booted {
        facts.push("running".to_owned());
    }
    if let (State::Valid, Some(verified)) = (slot.state, slot.verified) {
        facts.push(format!("verified {}", date(verified)));
    }
    if let Some(content) = slot.content {
        facts.push(format!("{content} content"));
    }
    if let Some(reason) = &slot.reason {
        facts.retain(|f| !reason.starts_with(f.as_str()));
        facts.push(reason.clone());
    }
    if !facts.is_empty() {
        let _ = write!(text, " ({})", facts.join(", "));
    }
    text
}

/// `snapshot`: its last lines; the others were said as they came.
pub fn snapshot(report: &snapshot::Report) -> String {
    let mut text =
        format!("The following filesystems were archived: {}\n", report.archived.join(" "));
    if let Some(device) = &report.shared {
        let _ = writeln!(text, "/config ({device}) is shared by both slots and was left alone");
    }
    for pair in &report.pairs {
        let _ = writeln!(
            text,
            "{}: {} files, {} bytes on {}, read back and equal{}",
            pair.source,
            pair.files,
            pair.bytes,
            pair.target_device,
            match pair.vanished {
                0 => String::new(),
                n => format!("; {n} vanished while they were copied"),
            }
        );
        let _ = writeln!(text, "{}: copied {}", pair.source, pair.consistency);
        if pair.refreshed {
            let (point, bytes) = (pair.source, pair.written_bytes);
            let _ = writeln!(text, "{point}: an older copy was there, {bytes} bytes were written");
        }
        if let Some(changes) = &pair.changed_since_factory {
            let _ = writeln!(text, "{}: {}", pair.source, changed(changes));
        }
    }
    text
}

fn changed(changes: &factory::Changes) -> String {
    let first: Vec<_> = changes.first.iter().map(|path| visible(path)).collect();
    let more = if changes.count > first.len() as u64 { " and more" } else { "" };
    match changes.count {
        0 => "as it left the factory".to_owned(),
        1 => format!("1 object is not as it left the factory: {}", first.join(", ")),
        n => format!("{n} objects are not as they left the factory: {}{more}", first.join(", ")),
    }
}

/// `auto-snapshot --status`, as Junos's `show system auto-snapshot`.
pub fn auto_snapshot_status(status: &auto_snapshot::Status) -> String {
    let state = match (status.state, &status.note) {
        (Auto::Failed, Some(why)) => format!("Failed: {}", visible(why)),
        (state, _) => state.name().to_owned(),
    };
    let mut text = format!(
        "Auto-snapshot Configuration:   {}\nAuto-snapshot State:  {state}\n",
        status.configuration
    );
    if let Some(note) = status.note.as_ref().filter(|_| status.state != Auto::Failed) {
        let _ = writeln!(text, "Note: {}", visible(note));
    }
    text
}

/// `auto-snapshot`.
pub fn auto_snapshot(report: &auto_snapshot::Report) -> String {
    let mut text = report.snapshot.as_ref().map_or_else(String::new, snapshot);
    let _ = writeln!(text, "{} runs: {}", report.running, report.how.words());
    if report.running != report.meant {
        let _ = writeln!(text, "{} was meant to run", report.meant);
    }
    if let Some(half) = &report.half_boot {
        let _ = writeln!(text, "Half boot: {}", visible(half));
    }
    if report.repaired {
        let _ = writeln!(text, "{} is repaired, and starts next", report.meant);
    } else if let Some(note) = &report.status.note {
        let _ = writeln!(text, "{}", visible(note));
    }
    text
}

/// `factory save`.
pub fn factory(report: &factory::Report) -> String {
    format!("{}: {} objects, from {}\n", visible(&report.file), report.objects, report.device)
}

/// The plan; before it the table that would be made, as it is printed when it is.
pub fn plan(plan: &snapshot::Plan) -> String {
    let mut text = String::new();
    if !plan.partitions.is_empty() {
        for line in snapshot::repartition::table(&plan.partitions) {
            let _ = writeln!(text, "{line}");
        }
        text.push('\n');
    }
    for (n, step) in plan.plan.iter().enumerate() {
        let _ = writeln!(text, "{}. {step}", n + 1);
    }
    text
}

/// `verify`.
pub fn verify(report: &verify::Report) -> String {
    let mut text = String::new();
    for difference in &report.differences {
        let _ = write!(text, "{}: {}", visible(&difference.path), difference.what);
        if let Some(offset) = difference.offset {
            let _ = write!(text, " differs at {offset}");
        }
        text.push('\n');
    }
    let verdict = match report.different {
        0 => "equal to its manifest".to_owned(),
        1 => "1 difference".to_owned(),
        n => format!("{n} differences"),
    };
    let _ = writeln!(
        text,
        "slot {} ({}): {} files, {} bytes read: {verdict}",
        report.slot, report.device, report.files, report.bytes
    );
    text
}

/// `partitions`, as Junos's `show system storage partitions`; on a terminal the medium as a bar
/// behind it.
pub fn partitions(report: &partitions::Report) -> String {
    let name = |node: &str| node.strip_prefix("/dev/").unwrap_or(node).to_owned();
    let backup = report.backup.as_deref().map_or_else(|| "none".to_owned(), name);
    let booted = if report.booted == report.active { "active" } else { "backup" };
    let mut text = format!(
        "Boot Media: internal ({})\nActive Partition: {}\nBackup Partition: {backup}\n\
         Currently booted from: {booted} ({})\nPartitions information:\n  \
         Partition  Size   Mountpoint\n",
        report.medium,
        name(&report.active),
        name(&report.booted),
    );
    for partition in &report.partitions {
        let use_of_it = match (&partition.mountpoint, partition.role) {
            (Some(point), _) => visible(point),
            (None, Some(Role::Active | Role::Backup)) => "altroot".to_owned(),
            (None, Some(Role::BackupConfig)) => "unused (backup config)".to_owned(),
            (None, Some(Role::Swap)) => "swap".to_owned(),
            (None, Some(Role::Config) | None) => String::new(),
        };
        // Junos gives no size to what it does not use.
        let unused = partition.mountpoint.is_none() && partition.role == Some(Role::BackupConfig);
        let size = if unused { String::new() } else { size(partition.size) };
        let row = format!("  {:<9}  {size:<5}  {use_of_it}", partition.partition);
        let _ = writeln!(text, "{}", row.trim_end());
    }
    if let Some(width) = terminal_width() {
        let _ = write!(text, "\n{}", bar::draw(&report.partitions, report.size, width));
    }
    text
}

/// `check`: a line and a hint for each finding, and their number.
pub fn check(report: &check::Report) -> String {
    let mut text = String::new();
    for finding in &report.findings {
        let _ = writeln!(
            text,
            "{}: {}: {} ({})",
            finding.severity.name(),
            visible(&finding.place),
            visible(&finding.what),
            finding.code
        );
        let _ = writeln!(text, "hint: {}", visible(&finding.hint));
    }
    if report.findings.is_empty() {
        return "no findings\n".to_owned();
    }
    let count = |severity, word: &str| match report.count(severity) {
        1 => format!("1 {word}"),
        n => format!("{n} {word}s"),
    };
    let (errors, warnings) = (count(Severity::Error, "error"), count(Severity::Warning, "warning"));
    let _ = writeln!(text, "{errors}, {warnings}, {} info", report.count(Severity::Info));
    text
}

/// `clean`.
pub fn clean(report: &clean::Report) -> String {
    let mut text = String::new();
    if report.cleared.is_empty() && report.snapshots.is_empty() {
        text += "umount: /altroot: not currently mounted\n";
    }
    for cleared in &report.cleared {
        let _ = writeln!(text, "{}: unmounted {}", cleared.point, cleared.device);
    }
    for snapshot in &report.snapshots {
        let _ = writeln!(text, "{snapshot}: removed");
    }
    text
}

/// `table save`.
pub fn table_save(report: &table::save::Report) -> String {
    let mut text = String::new();
    for medium in &report.media {
        let scheme = medium.scheme.unwrap_or("no table");
        let _ = writeln!(text, "{}: {scheme}, {} structures kept", medium.medium, medium.pieces);
        for note in &medium.notes {
            let _ = writeln!(text, "{}: {}", medium.medium, visible(note));
        }
    }
    for file in &report.files {
        let _ = writeln!(text, "{}: {} bytes", visible(file), report.bytes);
    }
    for why in &report.left_out {
        let _ = writeln!(text, "not kept elsewhere: {}", visible(why));
    }
    text
}

/// `table check`.
pub fn table_check(report: &table::check::Report) -> String {
    let mut text = String::new();
    for difference in &report.differences {
        let _ = write!(text, "{}: {}", difference.medium, difference.what);
        if let Some(offset) = difference.offset {
            let _ = write!(text, " at {offset}");
        }
        let _ = write!(text, ": {}", visible(&difference.problem));
        if let Some(repair) = &difference.repair {
            let _ = write!(text, " (repair: {repair})");
        }
        text.push('\n');
    }
    let verdict = match report.differences.len() {
        0 => "equal to what was kept".to_owned(),
        1 => "1 difference".to_owned(),
        n => format!("{n} differences"),
    };
    let media =
        if report.media.is_empty() { "no medium".to_owned() } else { report.media.join(", ") };
    let _ = writeln!(
        text,
        "{media}: {} structures compared with {} of {}: {verdict}",
        report.pieces,
        visible(&report.file),
        date(report.saved)
    );
    text
}

/// `table restore`: its last line; what is written was said before.
pub fn table_restore(report: &table::restore::Report) -> String {
    let media = report.media.join(", ");
    match (report.written.len(), report.dry_run) {
        (0, _) => format!("{media}: nothing to repair\n"),
        (_, true) => String::new(),
        (1, false) => format!("{media}: 1 structure written, read back and equal\n"),
        (n, false) => format!("{media}: {n} structures written, read back and equal\n"),
    }
}
