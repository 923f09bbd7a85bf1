//! A machine in memory that separates what was written from what is durable, for tests of
//! planning, crashes and failures.
//!
//! A [`Machine`] is a FreeBSD with disks in slices and UFS2 on them. It is an [`Os`](super::Os), so
//! the verbs run on it as they are. Every operation that could fail is counted; at any of them
//! something can be made to go wrong ([`Machine::inject`]), and after any of them the power can go
//! ([`Machine::lose_power`]).
//!
//! A partition is bytes: a UFS2 in the kernel's format. While it is mounted its objects change, each
//! on its own; what is written past the file system changes bytes, part by part.
//!
//! What it leaves out: the dirty flag of what is mounted (fsck(8) is run whatever it says), growfs(8),
//! the code that boots, access times moved by reading, and time itself, which only [`World::edit`] and a
//! loss of power move. So a finished run leaves the same state whatever its threads did, and [`When::Call`] means
//! the same operation in every run; only the order between threads, and with it [`When::Number`],
//! is not fixed.
//!
//! A mount, an unmount and a claim keep FreeBSD's rules: no mount over a mount, no claim and no
//! emptying of the cache while mounted, no unmount of what is open. A file system's writes become
//! durable when it is flushed or unmounted, those of [`Os::format`](super::Os::format) only with
//! the next flush of the device, since newfs(8) leaves them in its cache.

mod boot;
mod disk;
mod fault;
mod ffs;
mod film;
mod handle;
mod os;
mod partition;
mod snapshot;
mod tree;
mod volume;
mod world;

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use nix::errno::Errno;

pub use fault::{Action, Call, When};
pub use film::Frame;
pub use handle::{FakeDir, FakeFile};
pub use os::{FakeClaim, FakeDevice};
pub use tree::{Attributes, BLOCK, IMMUTABLE, NODUMP, Seen, Tree};
pub use volume::Loss;
pub use world::World;

use crate::copy::progress::Monitor;
use fault::{Faults, Place};

/// What [`Os::run_dir`](super::Os::run_dir) gets, since locks are real files.
#[derive(Debug)]
struct RunDir(PathBuf);

impl RunDir {
    fn new() -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let name = format!("dualroot-fake-{}-{number}", std::process::id());
        let path = std::env::temp_dir().join(name);
        // Where it cannot be made, taking a lock in it says so.
        let _ = fs::create_dir_all(&path);
        Self(path)
    }
}

impl Drop for RunDir {
    fn drop(&mut self) {
        // It only holds locks; in the system's temporary directory it harms nobody.
        let _ = fs::remove_dir_all(&self.0);
    }
}

#[derive(Debug)]
struct State {
    world: World,
    faults: Faults,
    film: Option<Vec<Frame>>,
}

#[derive(Debug)]
struct Shared {
    state: Mutex<State>,
    signal: Arc<AtomicUsize>,
    _run_dir: RunDir,
}

/// A machine. Clones are handles on the same one; [`Machine::fork`] makes another.
#[derive(Clone, Debug)]
pub struct Machine(Arc<Shared>);

/// An operation under way: nobody else is in the machine.
struct Turn<'a> {
    state: MutexGuard<'a, State>,
    /// What is written now does not arrive.
    rot: bool,
    /// Nothing is erased or made durable.
    lie: bool,
    /// Its name and the count of changes before it, where a film is taken.
    filmed: Option<(String, u64)>,
}

impl Turn<'_> {
    fn world(&mut self) -> &mut World {
        &mut self.state.world
    }
}

impl Default for Machine {
    fn default() -> Self {
        Self::new()
    }
}

impl Machine {
    /// A machine without disks.
    pub fn new() -> Self {
        Self::with(RunDir::new(), |run_dir| World::new(run_dir.to_path_buf()))
    }

    fn with(run_dir: RunDir, world: impl FnOnce(&Path) -> World) -> Self {
        let state = State { world: world(&run_dir.0), faults: Faults::default(), film: None };
        let signal = Arc::new(AtomicUsize::new(0));
        Self(Arc::new(Shared { state: Mutex::new(state), signal, _run_dir: run_dir }))
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Looks at the machine or changes it. Nobody else is in it meanwhile: `f` must not ask for
    /// anything else of the machine.
    pub fn world<T>(&self, f: impl FnOnce(&mut World) -> T) -> T {
        f(&mut self.lock().world)
    }

    /// Another machine in the same state, without open handles, faults and counts.
    #[must_use]
    pub fn fork(&self) -> Self {
        Self::with(RunDir::new(), |run_dir| {
            let mut world = self.lock().world.clone();
            world.close_all();
            world.move_run_dir(run_dir.to_path_buf());
            world
        })
    }

    /// The machine after the power was gone and came back: `loss` says what became of the writes
    /// that nobody flushed. What is mounted at boot is mounted as far as it is there.
    #[must_use]
    pub fn lose_power(&self, loss: Loss) -> Self {
        Self::with(RunDir::new(), |run_dir| self.lock().world.clone().after(loss, run_dir))
    }

    /// Ends the process and starts another one: faults, counts and the signal are gone, mounts stay.
    pub fn next_process(&self) {
        let mut state = self.lock();
        state.faults = Faults::default();
        state.world.end_process();
        self.0.signal.store(0, Ordering::Relaxed);
    }

    /// A monitor that sees the injected signals.
    pub fn monitor(&self) -> Monitor {
        Monitor::new(Arc::clone(&self.0.signal))
    }

    // ---- what goes wrong --------------------------------------------------------------------

    /// Lets something happen.
    pub fn inject(&self, when: When, action: Action) {
        self.lock().faults.add(when, action);
    }

    /// The `k`th operation, from 1, fails once with this error number.
    pub fn fail_at(&self, k: u64, errno: Errno) {
        self.inject(When::Number(k), Action::Fail(errno as i32));
    }

    /// The `k`th operation and all later ones fail.
    pub fn fail_from(&self, k: u64, errno: Errno) {
        self.inject(When::From(k), Action::Fail(errno as i32));
    }

    /// The process ends at the `k`th operation: that one and all later ones do nothing.
    pub fn stop_at(&self, k: u64) {
        self.inject(When::Number(k), Action::Stop);
    }

    /// A signal arrives at the `k`th operation.
    pub fn signal_at(&self, k: u64, signal: i32) {
        self.inject(When::Number(k), Action::Signal(signal));
    }

    /// Operations so far.
    pub fn count(&self) -> u64 {
        self.lock().faults.count
    }

    /// Begins to keep all operations for [`Machine::trace`].
    pub fn record(&self) {
        self.lock().faults.trace = Some(Vec::new());
    }

    /// The operations since [`Machine::record`], in the order in which they happened.
    pub fn trace(&self) -> Vec<Call> {
        self.lock().faults.trace.clone().unwrap_or_default()
    }

    /// The operations at which something injected happened.
    pub fn hits(&self) -> Vec<Call> {
        self.lock().faults.hits.clone()
    }

    /// Begins an operation.
    fn begin(&self, op: &'static str, place: Place<'_>) -> io::Result<Turn<'_>> {
        let mut guard = self.lock();
        let State { world, faults, film } = &mut *guard;
        if faults.stopped {
            return Err(Errno::ESHUTDOWN.into());
        }
        let (mut failed, mut stopped, mut rot, mut lie) = (None, false, false, false);
        faults.pass(op, place, |action| match action {
            Action::Fail(errno) => failed = Some(*errno),
            Action::Stop => stopped = true,
            Action::Rot => rot = true,
            Action::Lie => lie = true,
            Action::Change(change) => change(world),
            Action::Edit(device, edit) => world.edit_dyn(device, edit),
            Action::Signal(number) => {
                let number = usize::try_from(*number).unwrap_or_default();
                self.0.signal.store(number, Ordering::Relaxed);
            }
        });
        faults.stopped = stopped;
        match failed {
            _ if stopped => Err(Errno::ESHUTDOWN.into()),
            Some(errno) => Err(io::Error::from_raw_os_error(errno)),
            None => {
                let name = || (format!("{op}({})", place.text()), world.changes());
                let filmed = film.as_ref().map(|_| name());
                Ok(Turn { state: guard, rot, lie, filmed })
            }
        }
    }
}
