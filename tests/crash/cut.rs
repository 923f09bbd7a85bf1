//! One loss of power, and all of them.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::fmt;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::thread;

use dualroot::sys::Os;
use dualroot::sys::fake::{Frame, Loss, Machine};
use nix::sched::{CpuSet, sched_getaffinity, sched_setaffinity};
use nix::unistd::Pid;

use crate::judge::{self, Running};
use crate::verb::{self, Verb};

/// Of so many writes and fewer every subset is taken.
const FEW: usize = 8;
/// Random subsets of more.
const RANDOM: u64 = 32;
/// Threads of a run may come in another order: so often is a verb filmed until a cut shows again
/// what it has shown.
const TRIES: usize = 20;

/// Where the power goes, and what it takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Cut {
    pub verb: &'static str,
    /// Which of the verb's states.
    step: usize,
    /// `all` and `none` of the writes that nobody flushed are lost, only that one is `lost` or
    /// `kept`, `these` are kept, or each with probability one `half`.
    class: Class,
    /// The write, the writes as the bits of a number, or the seed.
    seed: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Class {
    All,
    None,
    Lost,
    Kept,
    These,
    Half,
}

const CLASSES: [(&str, Class); 6] = [
    ("all", Class::All),
    ("none", Class::None),
    ("lost", Class::Lost),
    ("kept", Class::Kept),
    ("these", Class::These),
    ("half", Class::Half),
];

impl fmt::Display for Cut {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { verb, step, class, seed } = self;
        let (name, _) = CLASSES.iter().find(|(_, c)| c == class).unwrap();
        write!(f, "{verb}:{step}:{name}:{seed}")
    }
}

impl Cut {
    /// Reads `VERB:STEP:CLASS:SEED`.
    pub fn parse(text: &str) -> Option<Self> {
        let [verb, step, class, seed] = text.split(':').collect::<Vec<_>>()[..] else {
            return None;
        };
        let class = CLASSES.iter().find(|(name, _)| *name == class)?.1;
        let (step, seed) = (step.parse().ok()?, seed.parse().ok()?);
        Some(Self { verb: verb::find(verb).name, step, class, seed })
    }

    fn loss(self) -> Loss {
        let write = usize::try_from(self.seed).unwrap();
        match self.class {
            Class::All => Loss::All,
            Class::None => Loss::None,
            Class::Lost => Loss::One(write),
            Class::Kept => Loss::Others(write),
            Class::These => Loss::AllButThese(self.seed),
            // Another sequence at every step.
            Class::Half => Loss::Half(self.seed.wrapping_mul(1_000_003) + self.step as u64),
        }
    }

    /// Every cut at a step with so many writes that nobody flushed.
    fn at(verb: &'static str, step: usize, pending: usize) -> Vec<Self> {
        let cut = |class, seed| Self { verb, step, class, seed };
        if pending <= FEW {
            return (0..1 << pending).map(|n| cut(Class::These, n)).collect();
        }
        let mut cuts = vec![cut(Class::None, 0), cut(Class::All, 0)];
        for n in 0..pending as u64 {
            cuts.extend([cut(Class::Lost, n), cut(Class::Kept, n)]);
        }
        cuts.extend((0..RANDOM).map(|n| cut(Class::Half, n)));
        cuts
    }

    /// Looks at this one only.
    pub fn replay(self) -> Tally {
        let verb = verb::find(self.verb);
        let mut tally = Tally::default();
        for _ in 0..TRIES {
            let film = Film::of(&verb, &|_| {});
            let mut look = Look::new(&verb, &film);
            assert!(self.step < film.frames.len(), "there are {} steps", film.frames.len());
            look.at(self);
            tally = look.tally;
            if !tally.findings.is_empty() {
                break;
            }
        }
        tally
    }
}

/// Every state of one run.
struct Film {
    running: Running,
    /// The identities of the copy's file systems before it.
    old: [Vec<u8>; 2],
    /// Whether partition tables are kept from the start.
    tables: bool,
    /// The disks of which a copy of a GPT is whole from the start.
    gpts: BTreeSet<String>,
    frames: Vec<Frame>,
    /// Whether the run ended well.
    ended: bool,
}

impl Film {
    fn of(verb: &Verb, spoil: &(dyn Fn(&Machine) + Sync)) -> Self {
        on_one_core(|| {
            let machine = (verb.before)();
            let tables = judge::kept_tables(&machine).unwrap();
            let gpts = judge::gpts(&machine);
            let running = Running::of(&machine);
            let old = judge::identities(&machine, verb.copy);
            spoil(&machine);
            machine.film();
            let ended = (verb.run)(&machine).is_ok();
            Self { running, old, tables, gpts, frames: machine.frames(), ended }
        })
    }
}

/// Threads that share a core come in the same order nearly always, and a run has as many workers
/// as cores.
fn on_one_core<T: Send>(f: impl FnOnce() -> T + Send) -> T {
    let pinned = || {
        let own = Pid::from_raw(0);
        let all = sched_getaffinity(own).unwrap();
        let first = (0..CpuSet::count()).find(|&cpu| all.is_set(cpu).unwrap()).unwrap();
        let mut one = CpuSet::new();
        one.set(first).unwrap();
        sched_setaffinity(own, &one).unwrap();
        f()
    };
    thread::scope(|scope| scope.spawn(pinned).join().unwrap())
}

/// What came of looking.
#[derive(Default)]
pub struct Tally {
    steps: usize,
    states: usize,
    different: usize,
    runs: usize,
    /// What is wrong, with the cuts that show it.
    pub findings: BTreeMap<String, Vec<String>>,
}

impl Tally {
    /// Prints the numbers, and fails where anything is wrong.
    #[track_caller]
    pub fn told(self, name: &str) {
        let Self { steps, states, different, runs, findings } = self;
        println!("{name}: {steps} steps, {states} states, {different} different, {runs} next runs");
        let told = findings.iter().take(10).map(|(what, cuts)| {
            let first = cuts[..cuts.len().min(5)].join("\n    ");
            format!("\n{} times: {what}\n    {first}", cuts.len())
        });
        let text: String = told.collect();
        assert!(findings.is_empty(), "{} kinds of violations:{text}", findings.len());
    }
}

/// All cuts of a verb.
pub fn explore(verb: Verb) -> Tally {
    explore_until(verb, &|_| {}, |_| false)
}

/// The same with something injected into the machine before the verb runs, up to the first
/// violation that is `enough`.
pub fn explore_until(
    verb: Verb,
    spoil: &(dyn Fn(&Machine) + Sync),
    enough: impl Fn(&str) -> bool,
) -> Tally {
    let film = Film::of(&verb, spoil);
    let mut look = Look::new(&verb, &film);
    for (step, frame) in film.frames.iter().enumerate() {
        for cut in Cut::at(verb.name, step, frame.pending()) {
            look.at(cut);
        }
        if look.tally.findings.keys().any(|what| enough(what)) {
            break;
        }
    }
    look.tally.steps = film.frames.len();
    look.tally
}

struct Look<'a> {
    verb: &'a Verb,
    film: &'a Film,
    /// States that were looked at.
    seen: HashSet<u64>,
    /// The copies whose file systems the next run looked into, by all else that there is: it does
    /// the same whatever the others hold.
    groups: HashMap<u64, BTreeSet<String>>,
    /// What next runs began with: all but what they did not look into.
    begun: HashSet<u64>,
    tally: Tally,
}

impl<'a> Look<'a> {
    fn new(verb: &'a Verb, film: &'a Film) -> Self {
        let tally = Tally::default();
        let (seen, begun) = (HashSet::new(), HashSet::new());
        Self { verb, film, seen, groups: HashMap::new(), begun, tally }
    }

    fn at(&mut self, cut: Cut) {
        self.tally.states += 1;
        let machine = self.film.frames[cut.step].lose_power(cut.loss());
        let last = cut.step + 1 == self.film.frames.len();
        // The last step promises more than the others.
        if !self.seen.insert(digest(&machine, &[]) ^ u64::from(last)) {
            return;
        }
        self.tally.different += 1;
        let mut wrong = Vec::new();
        // First: who looks at a slot mounts it, and then its bytes are what it is laid out as anew.
        if self.verb.at_once {
            wrong.extend(judge::at_once(&machine, self.verb.copy, &self.film.old));
        }
        wrong.extend(self.film.running.wrong(&machine));
        wrong.extend(judge::slot(&machine, self.verb));
        wrong.extend(judge::journals(&machine));
        match judge::kept_tables(&machine) {
            Ok(there) if there || !self.film.tables => {}
            Ok(_) => wrong.push("the partition tables that were kept are gone".to_owned()),
            Err(why) => wrong.push(format!("the partition tables that were kept: {why}")),
        }
        if !self.film.gpts.is_empty() {
            let whole = judge::gpts(&machine);
            let torn = self.film.gpts.difference(&whole);
            wrong.extend(torn.map(|disk| format!("no copy of the GPT of {disk} is whole")));
        }
        if last && self.film.ended && self.verb.ends {
            wrong.extend(
                judge::finished(&machine, self.verb)
                    .into_iter()
                    .map(|w| format!("at its end: {w}")),
            );
        }
        wrong.extend(self.next(&machine));
        for what in wrong {
            let case = format!("DUALROOT_CUT={cut} after {}", self.film.frames[cut.step].after);
            self.tally.findings.entry(what).or_default().push(case);
        }
    }

    /// Does it again, and says what is wrong then.
    fn next(&mut self, machine: &Machine) -> Vec<String> {
        let there = machine.world(|w| w.partitions());
        let copies: Vec<&str> = self.verb.renews.iter().map(|p| self.verb.copy.part(*p)).collect();
        let sealed: Vec<&str> =
            copies.into_iter().filter(|d| there.iter().any(|(name, _)| name == d)).collect();
        let looked_at = self.groups.entry(digest(machine, &sealed)).or_default();
        let begins = |machine: &Machine, looked_at: &BTreeSet<String>| {
            let others = sealed.iter().copied().filter(|device| !looked_at.contains(*device));
            digest(machine, &others.collect::<Vec<_>>())
        };
        if self.begun.contains(&begins(machine, looked_at)) {
            return Vec::new();
        }
        self.tally.runs += 1;
        let before = machine.fork();
        machine.world(|w| sealed.iter().for_each(|device| w.seal(device)));
        let result = (self.verb.again)(machine);
        looked_at.extend(machine.world(|w| w.peeked()));
        self.begun.insert(begins(&before, looked_at));
        if let Err(error) = result {
            return vec![format!("the next run fails: {error}")];
        }
        let mut wrong = judge::finished(machine, self.verb);
        wrong.extend(judge::snapshots(machine));
        wrong.extend(self.film.running.wrong(machine));
        let after = machine.lose_power(Loss::All);
        let (state, _) = judge::truth(&after, self.verb.copy);
        if state.name() != "valid" {
            wrong.push(format!("it says that it is done, and it is {}", state.name()));
        }
        wrong.extend((self.verb.done)(&after));
        wrong.into_iter().map(|what| format!("after the next run: {what}")).collect()
    }
}

/// All that the media hold as one number; of some devices only what is outside their file systems.
fn digest(machine: &Machine, without: &[&str]) -> u64 {
    machine.world(|w| {
        let mut hasher = DefaultHasher::new();
        for (device, size) in w.partitions() {
            (&device, size, crc32fast::hash(&w.boot_area(&device))).hash(&mut hasher);
            if !without.contains(&device.as_str()) {
                w.hash(&device, &mut hasher);
            }
        }
        w.sectors().hash(&mut hasher);
        hasher.finish()
    })
}

/// How many mounts there are.
pub fn mounts(machine: &Machine) -> usize {
    machine.mounts().unwrap().len()
}
