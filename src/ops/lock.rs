//! One writer per medium, and one for the state of the system: its journal, its boot flags, and the
//! mount points of the copies, which a run onto another medium uses as well.

use std::thread::sleep;
use std::time::{Duration, Instant};

use super::mounted::run_dir;
use super::sweep::{self, Swept};
use super::{Session, observe};
use crate::device::Id;
use crate::error::{Error, Kind, Result};
use crate::slot::discover::Layout;
use crate::slot::view::View;
use crate::sys::{Lock, LockState, Os};

/// Readers (`show`) hold the lock for as long as it takes to read a record.
const READERS_WAIT: Duration = Duration::from_secs(5);

/// Who holds a lock, as they wrote it into the file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Owner {
    /// Process id.
    pub pid: u32,
    /// What it does: `snapshot`, `verify`, `clean`.
    pub verb: String,
}

impl Owner {
    fn parse(note: &str) -> Option<Self> {
        let (pid, verb) = note.trim().split_once(' ')?;
        Some(Self { pid: pid.parse().ok()?, verb: verb.to_owned() })
    }
}

/// Ends the names of the locks of systems: each is called after the medium that the root is on.
const SYSTEM: &str = ".system";

/// What a lock is of, in words.
fn describe(name: &str) -> &str {
    if name.ends_with(SYSTEM) { "the state of this system" } else { name }
}

/// Takes these locks, of media by their names, for a run of `verb`.
///
/// # Errors
/// Another run holds one of them (exit 4, at once, with its process id).
pub(super) fn exclusive<O: Os>(os: &O, names: &[String], verb: &str) -> Result<Vec<Lock>> {
    os.make_dir(&os.run_dir())?;
    let note = format!("{} {verb}\n", std::process::id());
    let mut locks = Vec::new();
    for name in names {
        let path = os.run_dir().join(format!("{name}.lock"));
        let begun = Instant::now();
        loop {
            match Lock::try_take(&path, true, &note)? {
                LockState::Held(lock) => break locks.push(lock),
                LockState::Taken(note) => match Owner::parse(&note) {
                    Some(owner) if os.alive(owner.pid) => {
                        return Err(Error::new(
                            Kind::Busy,
                            "",
                            format!(
                                "{} is locked by process {} (dualroot {})",
                                describe(name),
                                owner.pid,
                                owner.verb
                            ),
                        )
                        .hint("wait until it is done"));
                    }
                    // Readers, or a writer between taking the lock and saying so.
                    _ if begun.elapsed() < READERS_WAIT => sleep(Duration::from_millis(20)),
                    _ => {
                        let cause = format!("{} stays locked by {}", describe(name), readers(os));
                        return Err(Error::new(Kind::Busy, "", cause));
                    }
                },
            }
        }
    }
    Ok(locks)
}

/// What [`observed`] hands over.
#[derive(Debug)]
pub struct Observed {
    /// The locks of the alternate slot's media and of the system, held as long as this is.
    pub locks: Vec<Lock>,
    /// Everything as it is since they are held.
    pub view: View,
    /// What belongs together in it.
    pub layout: Layout,
    /// What runs that are gone had left.
    pub swept: Swept,
}

/// Observes, takes the locks of the alternate slot's media for a run of `verb`, and observes
/// again: what was seen before the lock was held may have changed, and with it every number of a
/// device. In between, with `sweep`, what runs that are gone left
/// behind is removed.
///
/// # Errors
/// Another run holds a medium; or the slots changed places while the lock was taken.
pub fn observed<O: Os>(
    os: &O,
    session: &Session,
    verb: &str,
    sweep: bool,
    check: impl Fn(&View, &Layout) -> Result<()>,
) -> Result<Observed> {
    let before = observe::view(os, session)?;
    let layout = before.discover()?;
    check(&before, &layout)?;
    let targets = |layout: &Layout| layout.pairs.iter().map(|p| p.target).collect::<Vec<_>>();
    let locked = written(&before, &targets(&layout));
    let locks = exclusive(os, &locked, verb)?;
    let swept = if sweep { sweep::sweep(os, &layout) } else { Swept::default() };
    let view = observe::view(os, session)?;
    let layout = view.discover()?;
    check(&view, &layout)?;
    if written(&view, &targets(&layout)) != locked {
        return Err(Error::new(Kind::Busy, "", "the media changed while the lock was taken"));
    }
    Ok(Observed { locks, view, layout, swept })
}

/// The same for a medium that may have no slot yet: `pick` says which, both times.
///
/// # Errors
/// Another run holds it; or `pick` refuses.
pub fn medium<O: Os>(
    os: &O,
    session: &Session,
    verb: &str,
    pick: impl Fn(&View) -> Result<Id>,
) -> Result<(Vec<Lock>, View, Id)> {
    let before = observe::view(os, session)?;
    let locked = written(&before, &[pick(&before)?]);
    let locks = exclusive(os, &locked, verb)?;
    let view = observe::view(os, session)?;
    let medium = pick(&view)?;
    if written(&view, &[medium]) != locked {
        return Err(Error::new(Kind::Busy, "", "the media changed while the lock was taken"));
    }
    Ok((locks, view, medium))
}

/// What a reader finds.
#[derive(Debug)]
pub enum Reading {
    /// Nobody writes while this is held.
    Free(Option<Lock>),
    /// Somebody is at work.
    Taken(Option<Owner>),
}

/// Tries to share the lock of the medium that holds `target`, without waiting.
pub fn shared<O: Os>(os: &O, view: &View, target: Id) -> Result<Reading> {
    share(os, media(view, &[target]).pop())
}

/// Tries to share the lock of the running system, without waiting.
pub fn shared_system<O: Os>(os: &O, view: &View) -> Result<Reading> {
    share(os, system(view))
}

fn share<O: Os>(os: &O, name: Option<String>) -> Result<Reading> {
    let Some(name) = name else { return Ok(Reading::Free(None)) };
    os.make_dir(&os.run_dir())?;
    let path = os.run_dir().join(format!("{name}.lock"));
    Ok(match Lock::try_take(&path, false, "")? {
        LockState::Held(lock) => Reading::Free(Some(lock)),
        LockState::Taken(note) => Reading::Taken(Owner::parse(&note)),
    })
}

/// The readers that can be seen: their private mount points name them.
fn readers<O: Os>(os: &O) -> String {
    let mounts = os.mounts().unwrap_or_default();
    let run_dir = run_dir(os);
    let names = mounts.iter().filter_map(|m| m.point.strip_prefix(&run_dir).ok()?.to_str());
    let pids: Vec<_> = names.filter_map(|n| n.split_once('.')).map(|(pid, _)| pid).collect();
    if pids.is_empty() {
        return "readers".to_owned();
    }
    format!("readers (process {})", pids.join(", "))
}

/// What a run takes that writes to these: first the media, since their names tell more.
fn written(view: &View, targets: &[Id]) -> Vec<String> {
    media(view, targets).into_iter().chain(system(view)).collect()
}

/// The lock of the running system.
fn system(view: &View) -> Option<String> {
    let root = view.mount_at(&view.root).and_then(|mount| view.provider_of(mount))?;
    media(view, &[root]).pop().map(|name| name + SYSTEM)
}

/// The media's names, each once, always in the same order so that two runs cannot wait crosswise.
fn media(view: &View, targets: &[Id]) -> Vec<String> {
    let name = |&id: &Id| Some(view.devices.get(view.devices.medium(id)?).name.replace('/', "_"));
    let mut names: Vec<_> = targets.iter().filter_map(name).collect();
    names.sort();
    names.dedup();
    names
}
