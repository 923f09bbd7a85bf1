//! What can be made to go wrong, and when.

use std::collections::HashMap;
use std::ffi::OsStr;
use std::fmt;
use std::os::unix::ffi::OsStrExt;

use super::tree::Tree;
use super::world::World;

/// One operation of a run, the same whatever the threads do meanwhile.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Call {
    /// Trait and method: `dir.open_file`, `os.mount`.
    pub op: &'static str,
    /// What it was done to: `da0s2:etc/fstab`; a path or a node where it has no handle.
    pub place: String,
    /// The how many-th of these, from 0.
    pub nth: usize,
}

impl fmt::Display for Call {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}({})#{}", self.op, self.place, self.nth)
    }
}

/// When something happens.
#[derive(Clone, Debug)]
pub enum When {
    /// At the operation of this number, the first being 1. Which one that is depends on threads.
    Number(u64),
    /// At that one and at all later ones.
    From(u64),
    /// At this one.
    Call(Call),
    /// At each of these: method and place.
    Each(&'static str, String),
}

/// What happens.
pub enum Action {
    /// The operation fails with this error number and does nothing.
    Fail(i32),
    /// This signal arrives.
    Signal(i32),
    /// The process ends: this operation and all later ones fail and do nothing.
    Stop,
    /// Somebody changes the tree of this device.
    Edit(String, Box<dyn FnMut(&mut Tree) + Send>),
    /// Somebody changes anything.
    Change(Box<dyn FnMut(&mut World) + Send>),
    /// The medium keeps something else than what is written.
    Rot,
    /// The operation says that it is done, and what it should have erased is there, what it should
    /// have made durable is not.
    Lie,
}

impl fmt::Debug for Action {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Fail(errno) => write!(f, "Fail({errno})"),
            Self::Signal(number) => write!(f, "Signal({number})"),
            Self::Stop => f.write_str("Stop"),
            Self::Edit(device, _) => write!(f, "Edit({device})"),
            Self::Change(_) => f.write_str("Change"),
            Self::Rot => f.write_str("Rot"),
            Self::Lie => f.write_str("Lie"),
        }
    }
}

/// The object of an operation, put together only where somebody asks.
#[derive(Clone, Copy, Debug)]
pub(super) struct Place<'a>(pub(super) &'a str, pub(super) &'a OsStr);

impl Place<'_> {
    pub(super) fn text(self) -> String {
        let name = String::from_utf8_lossy(self.1.as_bytes());
        let blank = if name.is_empty() || self.0.ends_with(':') { "" } else { "/" };
        format!("{}{blank}{name}", self.0)
    }
}

#[derive(Debug)]
struct Rule {
    when: When,
    action: Action,
    /// How many operations of the same kind went by.
    passed: usize,
}

impl Rule {
    fn applies(&mut self, number: u64, op: &'static str, place: Place<'_>) -> bool {
        match &self.when {
            When::Number(n) => *n == number,
            When::From(n) => *n <= number,
            When::Each(each, at) => *each == op && *at == place.text(),
            When::Call(call) => {
                let same = call.op == op && call.place == place.text();
                self.passed += usize::from(same);
                same && self.passed == call.nth + 1
            }
        }
    }
}

/// What was injected, and what happened.
#[derive(Debug, Default)]
pub(super) struct Faults {
    rules: Vec<Rule>,
    pub(super) count: u64,
    pub(super) trace: Option<Vec<Call>>,
    seen: HashMap<(&'static str, String), usize>,
    /// The process has ended.
    pub(super) stopped: bool,
    /// Calls that something happened at.
    pub(super) hits: Vec<Call>,
}

impl Faults {
    pub(super) fn add(&mut self, when: When, action: Action) {
        self.rules.push(Rule { when, action, passed: 0 });
    }

    /// Counts an operation; hands each action whose time it is to `happen`.
    pub(super) fn pass(
        &mut self,
        op: &'static str,
        place: Place<'_>,
        mut happen: impl FnMut(&mut Action),
    ) {
        self.count += 1;
        if let Some(trace) = &mut self.trace {
            let seen = self.seen.entry((op, place.text())).or_default();
            trace.push(Call { op, place: place.text(), nth: *seen });
            *seen += 1;
        }
        for rule in &mut self.rules {
            if rule.applies(self.count, op, place) {
                self.hits.push(Call {
                    op,
                    place: place.text(),
                    nth: rule.passed.saturating_sub(1),
                });
                happen(&mut rule.action);
            }
        }
    }
}
