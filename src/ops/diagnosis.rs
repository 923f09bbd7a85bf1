//! What is wrong with a slot that was meant to run and does not.

use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::io::BufReader;
use std::path::Path;

use jiff::Timestamp;
use nix::errno::Errno;

use super::mounted::{Mounted, drop_cache};
use super::record::Traces;
use super::{Session, clear, record, uncovered};
use crate::copy::progress::{Phase, interrupted};
use crate::copy::verify::{Difference, verify};
use crate::copy::{pool, survey};
use crate::error::{Context, During, Error, Kind, Result};
use crate::record::{DIR, MANIFEST, Record};
use crate::slot::discover::Layout;
use crate::slot::view::View;
use crate::slot::{Pair, Part, State};
use crate::sys::tree::Dir;
use crate::sys::{FsType, Os};
use crate::table::superblock;

/// What became of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    /// All of it can be read, and is what it is to be: that it did not come up is evidence, and it
    /// may hold newer software.
    Intact,
    /// It cannot be told.
    Unknown(String),
    /// It is damaged.
    Broken(String),
}

/// What is known of it before it is looked at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Past {
    /// Nothing. It may show that it has run.
    Unknown,
    /// It has run since it was last written: it need have no record, and has changed since it had
    /// one.
    Ran,
    /// A repair of it, begun then, did not come to its end; as far as is known here.
    Writing(Timestamp),
}

/// Looks at the alternate slot, and finds out more of its past.
///
/// # Errors
/// It is in use, or a signal came. What cannot be read is a verdict.
pub(super) fn diagnose<O: Os>(
    os: &O,
    session: &Session,
    view: &View,
    layout: &Layout,
    past: &mut Past,
) -> Result<Verdict> {
    // What is mounted would be read from memory, not from the medium.
    clear::gently(os, view, &layout.pairs)?;
    for pair in &layout.pairs {
        let point = pair.part.alternate();
        let found = part(os, session, view, pair, past);
        let found = found.during(format!("examining {point}"));
        // It ends what we run, too, whatever that says then.
        if let Some(signal) = session.monitor.stopped() {
            return Err(interrupted(signal));
        }
        match found {
            Ok(Verdict::Intact) => {}
            Ok(Verdict::Broken(why)) => return Ok(Verdict::Broken(format!("{point}: {why}"))),
            Ok(Verdict::Unknown(why)) => return Ok(Verdict::Unknown(format!("{point}: {why}"))),
            Err(e) if matches!(e.kind, Kind::Signal(_) | Kind::Busy) => return Err(e),
            Err(e) if is_ours(&e) => return Ok(Verdict::Unknown(e.to_string())),
            Err(e) => return Ok(Verdict::Broken(e.to_string())),
        }
    }
    Ok(Verdict::Intact)
}

/// Whether something of the running system is missing, and the error says nothing of the slot, which is
/// only read.
pub(super) fn is_ours(error: &Error) -> bool {
    let missing = [
        Errno::EAGAIN,
        Errno::EDQUOT,
        Errno::EMFILE,
        Errno::ENFILE,
        Errno::ENODEV, // a file system that its kernel does not have
        Errno::ENOMEM,
        Errno::ENOSPC,
        Errno::EROFS,
    ];
    error.errno.is_some_and(|errno| missing.contains(&Errno::from_raw(errno)))
}

fn part<O: Os>(
    os: &O,
    session: &Session,
    view: &View,
    pair: &Pair,
    past: &mut Past,
) -> Result<Verdict> {
    let broken = |why: &str| Ok(Verdict::Broken(why.to_owned()));
    if let Some(fault) = view.faults.get(&pair.target) {
        return broken(fault);
    }
    let Some(superblock) = view.superblocks.get(&pair.target) else {
        return broken(superblock::NONE);
    };
    let device = view.devices.get(pair.target).path();
    drop_cache(os, &device)?;
    // One that was in use when the power went has something to repair, which its own boot does.
    if superblock.clean
        && let Some(fs) = FsType::from_name(superblock.fs.name())
    {
        match os.inspect(&device, fs) {
            Ok(None) => {}
            Ok(Some(complaint)) => return broken(&complaint),
            Err(e) if matches!(e.kind, Kind::Signal(_)) => return Err(e),
            Err(e) => return Ok(Verdict::Unknown(e.to_string())),
        }
    }
    let mounted = Mounted::private(os, &device, superblock.fs.name(), "examine")?;
    let root = mounted.open()?;
    let found = record::read(&root);
    if pair.part == Part::Root {
        let source = view.node(pair.source);
        let ran = match (*past, &found.record) {
            // All of the repair was done, and that was not written down here.
            (Past::Writing(begun), Some(copy)) => {
                copy.created >= begun && record::has_run(&root, &source)
            }
            // A copy is unmounted when it is done.
            (Past::Unknown, Some(_)) if !superblock.clean => true,
            (Past::Unknown, copy) => has_run(os, view, pair, &root, copy.as_ref())?,
            _ => false,
        };
        if ran {
            *past = Past::Ran;
        }
    }
    let (proven, writing) = (*past == Past::Ran, matches!(past, Past::Writing(_)));
    let installed = found.traces == Traces::None && !writing;
    // What has no record, or one of which only another version can tell whether it is true.
    let unrecorded = match found.state {
        State::Invalid => installed || proven && found.traces == Traces::Finished,
        _ => found.foreign,
    };
    let reason = found.reason.unwrap_or_default();
    let verdict = match &found.record {
        Some(record) => against_manifest(os, session, view, pair, root, record, proven)?,
        None if unrecorded => match readable(session, pair, root)? {
            Verdict::Intact if found.foreign && !proven => Verdict::Unknown(reason),
            verdict => verdict,
        },
        None => {
            drop(root);
            Verdict::Broken(reason)
        }
    };
    mounted.unmount()?;
    // Linux's journals are not replayed for a look: what lacks then is no damage.
    let replay = !superblock.clean && superblock.fs.name() != FsType::Ufs2.name();
    Ok(match verdict {
        Verdict::Broken(why) if proven && replay => Verdict::Unknown(format!(
            "it was in use when it stopped, and without its journal {why}"
        )),
        verdict => verdict,
    })
}

/// Whether the system on `root` has run since it was copied: it has left its mark; or it is what the
/// running slot was copied from, later.
fn has_run<O: Os>(
    os: &O,
    view: &View,
    pair: &Pair,
    root: &O::Dir,
    record: Option<&Record>,
) -> Result<bool> {
    let running = record::read(&os.open_dir(&view.root)?).record;
    let copied = running.is_some_and(|copy| {
        copy.source == view.node(pair.target) && record.is_none_or(|r| r.created < copy.created)
    });
    Ok(record::has_run(root, &view.node(pair.source)) || copied)
}

/// Whether all of it can be read.
fn readable<D: Dir>(session: &Session, pair: &Pair, root: D) -> Result<Verdict> {
    let name = format!("reading {}", pair.part.alternate());
    session.monitor.begin(Phase { name, ..Phase::default() });
    match survey::read_all(root, &session.monitor) {
        Ok(()) => Ok(Verdict::Intact),
        Err(e) if matches!(e.kind, Kind::Signal(_)) => Err(e),
        Err(e) => Ok(Verdict::Broken(e.to_string())),
    }
}

fn against_manifest<O: Os>(
    os: &O,
    session: &Session,
    view: &View,
    pair: &Pair,
    root: O::Dir,
    record: &Record,
    proven: bool,
) -> Result<Verdict> {
    session.monitor.begin(Phase {
        name: format!("verifying {}", pair.part.alternate()),
        bytes: record.bytes,
        objects: record.objects,
    });
    let manifest = root
        .open_dir(OsStr::new(DIR))
        .and_then(|own| own.open_file(OsStr::new(MANIFEST)))
        .doing_to("opening", MANIFEST)?;
    let manifest = BufReader::with_capacity(64 << 10, manifest);
    let reference =
        pair.mounted.as_ref().map(|point| uncovered::open(os, view, point)).transpose()?;
    let report =
        verify(root, manifest, reference.as_ref(), None, pool::readers(), &session.monitor)?;
    let damage = damage(&report.differences, proven);
    Ok(match damage.first() {
        None => Verdict::Intact,
        Some(Difference { path, what, .. }) => {
            let path = path.display();
            let more = match damage.len() {
                1 => String::new(),
                n => format!(" ({n} differences in all)"),
            };
            Verdict::Broken(format!("{path}: {what} is not as its manifest says{more}"))
        }
    })
}

/// What of the differences is damage. A slot that has run has changed since: there it is what cannot
/// be read, and content that is another although size and time say that nobody has written it.
fn damage(differences: &[Difference], proven: bool) -> Vec<&Difference> {
    let written: BTreeSet<&Path> = differences
        .iter()
        .filter(|d| d.what != "content" && !is_unreadable(d))
        .map(|d| d.path.as_path())
        .collect();
    let counts = |d: &&Difference| {
        !proven || is_unreadable(d) || d.what == "content" && !written.contains(d.path.as_path())
    };
    differences.iter().filter(counts).collect()
}

fn is_unreadable(difference: &Difference) -> bool {
    difference.what.starts_with("unreadable")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn use_is_no_damage() {
        let difference = |path: &str, what: &str| Difference {
            path: path.into(),
            offset: None,
            what: what.to_owned(),
            touched: None,
        };
        let all = [
            difference("var/log/messages", "size"),
            difference("var/log/messages", "time"),
            difference("etc/rc.conf", "content"),
            difference("etc/rc.conf", "time"),
            difference("boot/kernel/kernel", "content"),
            difference("usr/lib/libc.so", "unreadable: Input/output error"),
            difference("new", "extra"),
        ];
        assert_eq!(damage(&all, false).len(), all.len());
        let paths: Vec<_> = damage(&all, true).iter().map(|d| d.path.to_str().unwrap()).collect();
        assert_eq!(paths, ["boot/kernel/kernel", "usr/lib/libc.so"]);
    }
}
