//! How each structure that differs can be written, decided before the first byte is.
//!
//! On a medium that nobody uses everything is written through the medium itself. On one in use,
//! what lies inside a slice or partition that nobody uses is written through that one, and the
//! kernel is asked to write what it has in memory, where it can be and where that is what was kept.
//! What is left cannot be repaired there, and then nothing is.

use std::ops::Range;
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;

use crate::device::{Class, Id};
use crate::error::{Error, Result};
use crate::slot::view::View;
use crate::sys::Rewrite;
use crate::table::saved::compare::Change;
use crate::table::saved::{Medium, Piece, What};
use crate::table::{Entry, Scheme, Table, mbr};

/// Something that uses the medium.
struct User {
    id: Id,
    /// `/dev/da0s1a on /`
    text: String,
}

/// A device and what is done to it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Action {
    /// Its provider's name: what the opened device must say, too.
    pub(super) provider: String,
    /// Its node.
    pub(super) device: PathBuf,
    /// What is done.
    pub(super) how: How,
    /// The structures that this repairs.
    pub(super) pieces: Vec<Piece>,
}

/// See [`Action`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum How {
    /// These bytes are written at these offsets of the device, step after step: each is flushed
    /// before the next.
    Write(Vec<Vec<(u64, Vec<u8>)>>),
    /// The kernel writes.
    Rewrite(Vec<Rewrite>),
}

/// Decides for the medium `id`, of which `kept` was kept and `changes` differ. `rewrites` says
/// whether the kernel can write tables.
///
/// # Errors
/// Refused (exit 6): a partition in use would change its place, or a structure cannot be written
/// while the medium is in use.
pub(super) fn actions(
    view: &View,
    id: Id,
    kept: &Medium,
    changes: &[Change<'_>],
    rewrites: bool,
) -> Result<Vec<Action>> {
    if changes.is_empty() {
        return Ok(Vec::new());
    }
    let users = users(view, id);
    if users.is_empty() {
        return Ok(vec![direct(view, id, 0, &changes.iter().collect::<Vec<_>>())]);
    }
    let node = view.node(id);
    if changes.iter().any(|c| c.piece.what.is_table()) {
        stays(view, id, kept, &users)?;
    }
    let mut actions: Vec<Action> = Vec::new();
    let mut kernel: Vec<(Id, Vec<&Change<'_>>)> = Vec::new();
    let mut inside: Vec<(Id, u64, Vec<&Change<'_>>)> = Vec::new();
    for change in changes {
        if let Some((part, start)) = unused(view, id, &change.piece.range(), &users) {
            match inside.iter_mut().find(|(p, ..)| *p == part) {
                Some((.., list)) => list.push(change),
                None => inside.push((part, start, vec![change])),
            }
            continue;
        }
        let known = |&holder: &Id| rewrites && in_memory(view, id, holder, kept);
        let Some(holder) = holder(view, id, change.piece).filter(known) else {
            let cause = format!(
                "the {} of {node} cannot be written while the medium is in use ({})",
                change.piece, users[0].text
            );
            return Err(Error::refused(cause).hint(FROM_ELSEWHERE));
        };
        if let Some(what) = says_else(view, id, holder, kept, change) {
            let cause = format!(
                "the {} of {node} cannot be written while the medium is in use ({}): the kernel, which \
                 would write it, has {what}",
                change.piece, users[0].text
            );
            return Err(Error::refused(cause).hint(ELSE));
        }
        match kernel.iter_mut().find(|(h, _)| *h == holder) {
            Some((_, list)) => list.push(change),
            None => kernel.push((holder, vec![change])),
        }
    }
    actions.extend(inside.into_iter().map(|(part, start, list)| direct(view, part, start, &list)));
    actions
        .extend(kernel.into_iter().map(|(holder, list)| by_kernel(view, id, holder, kept, &list)));
    Ok(actions)
}

const FROM_ELSEWHERE: &str =
    "start from another medium and run there: dualroot table restore --file FILE";
const ELSE: &str = "gpart modify, or dualroot boot N for the active flag, puts it right; was it changed \
    on purpose, keep it: dualroot table save";

/// Everything that uses the medium, or something on it: mounts, swap, other classes of storage.
fn users(view: &View, medium: Id) -> Vec<User> {
    let on = |id: Id| view.devices.overlap(id, medium);
    let mut users = Vec::new();
    for mount in &view.mounts {
        if let Some(id) = view.provider_of(mount).filter(|&id| on(id)) {
            users.push(User { id, text: format!("{} on {}", mount.source, mount.point.display()) });
        }
    }
    for swap in &view.swaps {
        if let Some(id) = view.find(swap.as_os_str().as_bytes()).filter(|&id| on(id)) {
            users.push(User { id, text: format!("{}, swap or dump", swap.display()) });
        }
    }
    let below = view.devices.chain(medium);
    for id in 0..view.devices.providers.len() {
        let transforms = matches!(view.devices.get(id).class, Class::Mirror | Class::Other(_));
        if transforms && !below.contains(&id) && on(id) && !beneath(view, medium, id) {
            users.push(User { id, text: view.node(id) });
        }
    }
    users
}

/// Whether `id` is something that the medium itself lies on.
fn beneath(view: &View, medium: Id, id: Id) -> bool {
    let mut left = vec![medium];
    let mut seen = Vec::new();
    while let Some(next) = left.pop() {
        if next == id {
            return true;
        }
        if !seen.contains(&next) {
            seen.push(next);
            left.extend(view.devices.get(next).lower.iter().map(|l| l.id));
        }
    }
    false
}

/// Where a provider lies on the medium; all of it where that cannot be told.
fn place(view: &View, medium: Id, id: Id) -> Range<u64> {
    let whole = 0..view.devices.get(medium).size;
    match (&view.devices.extents(medium)[..], &view.devices.extents(id)[..]) {
        ([own], [part]) if own.base == part.base && part.start >= own.start => {
            part.start - own.start..part.end - own.start
        }
        _ => whole,
    }
}

/// Checks that the tables that were kept leave every partition in use where it is, and the slices
/// that hold them.
fn stays(view: &View, medium: Id, kept: &Medium, users: &[User]) -> Result<()> {
    let partitions = kept.partitions();
    for user in users {
        for id in view.devices.chain(user.id) {
            let is_partition = matches!(view.devices.get(id).class, Class::Partition { .. });
            let here = place(view, medium, id);
            if is_partition && !partitions.contains(&here) {
                let cause = format!(
                    "the tables that were kept have no partition where {} is, which is in use ({})",
                    view.node(id),
                    user.text
                );
                return Err(Error::refused(cause).hint(
                    "if the table was changed on purpose, keep the new one: dualroot table save",
                ));
            }
            if id == medium {
                break;
            }
        }
        if user.id == medium {
            let cause = format!("{} is in use as a whole ({})", view.node(medium), user.text);
            return Err(Error::refused(cause));
        }
    }
    Ok(())
}

/// The smallest partition around `range` that nobody uses, and where it starts.
fn unused(view: &View, medium: Id, range: &Range<u64>, users: &[User]) -> Option<(Id, u64)> {
    let fits = |&id: &Id| {
        let there = matches!(view.devices.get(id).class, Class::Partition { .. })
            && !view.hidden.contains(&id)
            && view.devices.medium(id) == Some(medium);
        let here = place(view, medium, id);
        there
            && here.start <= range.start
            && range.end <= here.end
            && !users.iter().any(|user| view.devices.overlap(user.id, id))
    };
    let all = (0..view.devices.providers.len()).filter(fits);
    let smallest = all.min_by_key(|&id| view.devices.get(id).size)?;
    Some((smallest, place(view, medium, smallest).start))
}

/// Who has the structure in memory: the medium for its own table, a slice for its label.
fn holder(view: &View, medium: Id, piece: &Piece) -> Option<Id> {
    match piece.what {
        What::Mbr
        | What::GptHeader
        | What::GptEntries
        | What::BackupHeader
        | What::BackupEntries => Some(medium),
        What::Label | What::Boot1 | What::Boot2 => match piece.index {
            None => Some(medium),
            Some(index) => view.devices.uppers(medium).find(
                |&id| matches!(view.devices.get(id).class, Class::Partition { index: n } if n == index),
            ),
        },
        What::BootGap | What::Ebr | What::BootPartition => None,
    }
}

/// Whether the kernel's partitions on `holder` are where those are that were kept. The rest of them is
/// only known from the medium: see [`says_else`].
fn in_memory(view: &View, medium: Id, holder: Id, kept: &Medium) -> bool {
    let is_partition = |&id: &Id| matches!(view.devices.get(id).class, Class::Partition { .. });
    let known = view.devices.uppers(holder).filter(is_partition);
    let mut known: Vec<_> =
        known.map(|id| (view.index(id).unwrap_or(0), place(view, medium, id))).collect();
    let Some((own, table)) = table_of(kept, &place(view, medium, holder)) else { return false };
    let on = |e: &Entry| (e.index, own.start + e.start..own.start + e.end());
    let mut kept: Vec<_> = table.entries.iter().map(on).collect();
    for list in [&mut known, &mut kept] {
        list.sort_by_key(|(index, r)| (r.start, r.end, *index));
    }
    !known.is_empty() && known == kept
}

/// What of the table on the medium, as far as it can be read, is not as it was kept, though the places
/// are the same: the kernel has that in memory, too, since nobody else changes a table in use.
fn says_else(
    view: &View,
    medium: Id,
    holder: Id,
    kept: &Medium,
    change: &Change<'_>,
) -> Option<String> {
    let now = view.tables.get(&holder)?;
    let (_, mut table) = table_of(kept, &place(view, medium, holder))?;
    // Which slice boots is the medium's own choice, where it has made one.
    let wanted = mbr::read(&change.bytes, kept.size, kept.sector).ok().flatten();
    let flags = change.piece.what == What::Mbr && table.scheme == Scheme::Mbr;
    if let Some(wanted) = wanted.filter(|_| flags) {
        table = wanted;
    }
    // Other places than the kernel's are none of its writing: what else it has, nothing tells.
    let found: Vec<_> = table.entries.iter().map(|e| (e, now.by_index(e.index))).collect();
    let same = |(a, b): &(&Entry, Option<&Entry>)| {
        b.is_some_and(|b| (a.start, a.size) == (b.start, b.size))
    };
    if now.entries.len() != table.entries.len() || !found.iter().all(same) {
        return None;
    }
    found.into_iter().find_map(|(kept, now)| {
        let now = now?;
        // Of an MBR the names are made of its signature.
        let named =
            table.scheme != Scheme::Mbr && (&now.label, &now.uuid) != (&kept.label, &kept.uuid);
        let what = match () {
            () if now.kind != kept.kind => "type",
            () if named => "name",
            () if flags && now.active != kept.active => "active flag",
            () => return None,
        };
        Some(format!("another {what} of entry {}", kept.index))
    })
}

/// The table that was kept of this range of the medium.
fn table_of(kept: &Medium, range: &Range<u64>) -> Option<(Range<u64>, Table)> {
    kept.tables().into_iter().find(|(own, _)| own == range)
}

/// Writes through a device that begins at `start` of the medium. What leads to others is a step of
/// its own: what it leads to is there before it, and one copy of a GPT is whole before the other is
/// touched.
fn direct(view: &View, id: Id, start: u64, changes: &[&Change<'_>]) -> Action {
    let mut changes = changes.to_vec();
    let primary = view.readings.get(&id).map(|reading| &reading.primary);
    if !matches!(primary, Some(Ok(Some(_)))) {
        // The backup may be the only copy that is whole.
        changes.sort_by_key(|c| match c.piece.what {
            What::BackupEntries | What::BackupHeader => 1,
            What::Mbr => 2,
            _ => 0,
        });
    }
    let steps = changes.chunk_by(|a, b| !leads(a) && !leads(b));
    let write = |c: &&Change<'_>| (c.piece.offset - start, c.bytes.clone());
    Action {
        provider: view.devices.get(id).name.clone(),
        device: view.devices.get(id).path(),
        how: How::Write(steps.map(|step| step.iter().map(write).collect()).collect()),
        pieces: changes.iter().map(|c| c.piece.clone()).collect(),
    }
}

/// Whether it says where others lie.
fn leads(change: &Change<'_>) -> bool {
    matches!(
        change.piece.what,
        What::Mbr | What::Ebr | What::GptHeader | What::BackupHeader | What::Label
    )
}

/// Lets the kernel write. Setting boot code writes the table with it; without any, an entry gets
/// the type that it has.
fn by_kernel(
    view: &View,
    medium: Id,
    holder: Id,
    kept: &Medium,
    changes: &[&Change<'_>],
) -> Action {
    let has = |what| changes.iter().any(|c| c.piece.what == what);
    let mut orders = Vec::new();
    let gpt = [What::GptHeader, What::GptEntries, What::BackupHeader, What::BackupEntries];
    if gpt.into_iter().any(has) {
        orders.push(Rewrite::Recover);
    }
    let table = table_of(kept, &place(view, medium, holder)).map(|(_, table)| table);
    if let Some(code) = boot_code(kept, changes) {
        orders.push(Rewrite::BootCode(code));
    } else if let Some(entry) = table.as_ref().and_then(|table| table.entries.first()) {
        orders.push(Rewrite::Table { index: entry.index, kind: entry.kind.clone() });
    }
    Action {
        provider: view.devices.get(holder).name.clone(),
        device: view.devices.get(holder).path(),
        how: How::Rewrite(orders),
        pieces: changes.iter().map(|c| c.piece.clone()).collect(),
    }
}

/// The boot code that belongs to these structures, as gpart(8) takes it: the first 512 bytes of a
/// medium, the 8 KiB with a label's boot1 and boot2.
fn boot_code(kept: &Medium, changes: &[&Change<'_>]) -> Option<Vec<u8>> {
    if let Some(first) = changes.iter().find(|c| c.piece.what == What::Mbr) {
        return first.bytes.get(..512).map(<[u8]>::to_vec);
    }
    let index = changes.first().filter(|c| of_label(c.piece.what))?.piece.index;
    let parts = [What::Boot1, What::Label, What::Boot2];
    let find = |what| kept.pieces.iter().find(|p| p.what == what && p.index == index);
    let parts = parts.into_iter().map(find).collect::<Option<Vec<_>>>()?;
    Some(parts.iter().flat_map(|p| p.bytes.clone()).collect())
}

fn of_label(what: What) -> bool {
    matches!(what, What::Label | What::Boot1 | What::Boot2)
}

#[cfg(test)]
mod tests;
