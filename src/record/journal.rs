//! What is meant to boot, and what is under way: the state of the box, not of a slot.

use std::fmt::{self, Display, Formatter};

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::{Unreadable, parse};

/// Its name.
pub const JOURNAL: &str = "journal.json";
/// The version of its format that this program writes.
pub const SCHEMA: u32 = 1;
/// No journal was written so often: there is always a next number.
const SEQUENCE_MAX: u64 = u64::MAX >> 1;

/// The state of the box.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Journal {
    /// Version of this format.
    pub schema: u32,
    /// Counts the writes: of several copies the one with the highest is the newest.
    pub sequence: u64,
    /// Program and version that wrote it.
    pub tool: String,
    /// When.
    pub written: Timestamp,
    /// The slot that is meant to boot.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub intended: Option<Place>,
    /// Slots that have run and were not written since: they may lack a record.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub proven: Vec<Place>,
    /// A trial that was neither confirmed nor rejected.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub trial: Option<Trial>,
    /// A run that writes, while it does; afterwards one that did not come to its end.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub operation: Option<Operation>,
    /// How the system came up.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub boot: Option<Boot>,
    /// The repair of the other slot at boot.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub auto_snapshot: Option<AutoSnapshot>,
}

/// A slot.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Place {
    /// 1 or 2.
    pub slot: u32,
    /// The node of its root when this was written: on another one the number means nothing.
    pub device: String,
}

impl Display for Place {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        write!(f, "slot {} ({})", self.slot, self.device)
    }
}

/// A slot that was to be started once.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Trial {
    /// The slot.
    pub slot: Place,
    /// The one that ran when the trial was armed, and runs after it.
    pub from: Place,
    /// When.
    pub armed: Timestamp,
    /// By what it is started.
    #[serde(default, skip_serializing_if = "By::is_flags")]
    pub by: By,
}

/// What starts a slot once.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum By {
    /// Boot flags: all of it is the slot's own.
    #[default]
    Flags,
    /// nextboot(8): the kernel is that of the slot before it.
    Nextboot,
}

impl By {
    #[allow(clippy::trivially_copy_pass_by_ref)] // serde's signature
    fn is_flags(&self) -> bool {
        *self == Self::Flags
    }
}

impl Trial {
    /// What runs in a trial that boot flags do not start.
    pub fn mixture(&self) -> Option<String> {
        let (from, slot) = (self.from.slot, self.slot.slot);
        let mixture = || format!("by nextboot(8): kernel of slot {from}, root of slot {slot}");
        (self.by == By::Nextboot).then(mixture)
    }
}

/// A run.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Operation {
    /// What: `snapshot`.
    pub verb: String,
    /// Its process.
    pub pid: u32,
    /// When it began.
    pub begun: Timestamp,
    /// What it reads.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub source: Option<String>,
    /// What it writes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub target: Option<String>,
}

impl Display for Operation {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        f.write_str(&self.verb)?;
        for (word, device) in [("of", &self.source), ("to", &self.target)] {
            if let Some(device) = device {
                write!(f, " {word} {device}")?;
            }
        }
        Ok(())
    }
}

/// A start of the system.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Boot {
    /// Which one, in the system's own words.
    pub id: String,
    /// When it was seen.
    pub time: Timestamp,
    /// The slot that came up.
    pub slot: Place,
    /// How that came about.
    pub how: How,
}

/// How a slot came to run.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum How {
    /// It was meant to.
    Planned,
    /// It is on trial.
    Trial,
    /// A trial was armed, and its slot did not come up.
    Returned,
    /// Another one was meant to.
    Fallback,
}

/// The repair of the other slot at boot.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AutoSnapshot {
    /// Where it stands.
    pub state: Auto,
    /// Why.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub why: Option<String>,
    /// Since when.
    pub when: Timestamp,
}

impl How {
    /// What that means.
    pub fn words(self) -> &'static str {
        match self {
            Self::Planned => "it was meant to",
            Self::Trial => "it is on trial",
            Self::Returned => "the trial of the other slot did not come up",
            Self::Fallback => "another slot was meant to, and did not come up",
        }
    }
}

/// Junos's words for it, and one more.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Auto {
    /// The other slot was repaired.
    Completed,
    /// There is nothing to do.
    Disabled,
    /// It is being done.
    #[serde(rename = "In progress")]
    InProgress,
    /// It could not be done.
    Failed,
}

impl Auto {
    /// Whether a repair was begun, and is not done: then the boot flags do not tell what was meant.
    pub fn is_unfinished(self) -> bool {
        matches!(self, Self::InProgress | Self::Failed)
    }

    /// The word for it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Completed => "Completed",
            Self::Disabled => "Disabled",
            Self::InProgress => "In progress",
            Self::Failed => "Failed",
        }
    }
}

impl Default for Journal {
    fn default() -> Self {
        Self {
            schema: SCHEMA,
            sequence: 0,
            tool: super::TOOL.to_owned(),
            written: Timestamp::UNIX_EPOCH,
            intended: None,
            proven: Vec::new(),
            trial: None,
            operation: None,
            boot: None,
            auto_snapshot: None,
        }
    }
}

impl Journal {
    /// The slot has run, and nobody has written to it since.
    pub fn prove(&mut self, place: &Place) {
        if !self.proven.contains(place) {
            self.proven.push(place.clone());
        }
    }

    /// The slot is about to be written: what was known of it is true no more.
    pub fn forget(&mut self, place: &Place) {
        self.proven.retain(|proven| proven != place);
        self.trial.take_if(|trial| trial.slot == *place);
        // Nor that it ran before this start, which nobody has noted yet.
        self.boot.take_if(|boot| boot.slot == *place);
    }

    /// Reads a journal.
    ///
    /// # Errors
    /// It is of another version, has fields that its version does not know, or is torn.
    pub fn parse(text: &[u8]) -> Result<Self, Unreadable> {
        let journal: Self = parse(text, SCHEMA)?;
        if journal.sequence > SEQUENCE_MAX {
            let why = format!("{} is no number of writes", journal.sequence);
            return Err(Unreadable::Damaged(why));
        }
        Ok(journal)
    }

    /// The journal as it is stored.
    pub fn to_json(&self) -> Vec<u8> {
        let mut text = serde_json::to_vec_pretty(self).unwrap_or_default();
        text.push(b'\n');
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The journal that version 0.1.0 wrote must be readable for ever.
    const V1: &str = include_str!("../../testdata/journal-v1.json");

    #[test]
    fn version_1_is_still_read_and_written() {
        let journal = Journal::parse(V1.as_bytes()).unwrap();
        assert_eq!(journal.trial.as_ref().unwrap().slot.slot, 2);
        assert_eq!(journal.auto_snapshot.as_ref().unwrap().state, Auto::InProgress);
        assert_eq!(String::from_utf8(journal.to_json()).unwrap(), V1);
        let bare = Journal::default();
        assert_eq!(Journal::parse(&bare.to_json()), Ok(bare));
    }

    /// Slot 2 of one medium is not slot 2 of another.
    #[test]
    fn what_is_written_is_forgotten_and_nothing_else() {
        let place = |slot, device: &str| Place { slot, device: device.to_owned() };
        let (one, two) = (place(1, "/dev/da0s1a"), place(2, "/dev/da0s2a"));
        let mut journal = Journal::default();
        for proven in [&one, &two, &one] {
            journal.prove(proven);
        }
        let boot = Boot {
            id: "1".to_owned(),
            time: Timestamp::UNIX_EPOCH,
            slot: two.clone(),
            how: How::Planned,
        };
        journal.boot = Some(boot);
        let known = journal.clone();
        journal.forget(&place(2, "/dev/da1s2a"));
        assert_eq!(journal, known);
        journal.forget(&two);
        assert_eq!((journal.proven, journal.boot), (vec![one], None));
    }

    #[test]
    fn a_newer_version_is_refused_by_its_number() {
        let newer = V1.replace("\"schema\": 1", "\"schema\": 2").replace("\"tool\"", "\"mood\"");
        let error = Journal::parse(newer.as_bytes()).unwrap_err();
        assert_eq!(error, Unreadable::Version { found: 2, known: 1 });
        let text = "the journal has version 2, this program knows version 1";
        assert_eq!(format!("the journal {error}"), text);
    }

    #[test]
    fn a_number_that_none_follows_is_damage() {
        let of = |n: u64| V1.replace("\"sequence\": 41", &format!("\"sequence\": {n}"));
        assert_eq!(Journal::parse(of(SEQUENCE_MAX).as_bytes()).unwrap().sequence, SEQUENCE_MAX);
        for n in [SEQUENCE_MAX + 1, u64::MAX] {
            let error = Journal::parse(of(n).as_bytes()).unwrap_err();
            assert!(matches!(error, Unreadable::Damaged(_)), "{error}");
        }
    }

    #[test]
    fn unknown_fields_and_damage_are_refused() {
        for (from, to) in
            [("\"tool\"", "\"mood\": 1,\n  \"tool\""), ("\"pid\"", "\"mood\": 1, \"pid\"")]
        {
            let Err(Unreadable::Unknown(what)) = Journal::parse(V1.replace(from, to).as_bytes())
            else {
                panic!("{to}");
            };
            assert!(what.contains("mood"), "{what}");
        }
        for length in 0..V1.len() - 2 {
            let cut = Journal::parse(&V1.as_bytes()[..length]);
            assert!(matches!(cut, Err(Unreadable::Damaged(_))), "cut at {length}: {cut:?}");
        }
    }
}
