//! nextboot(8): a file that the loader of a slot reads once. Before it goes on it writes
//! `nextboot_enable="NO" ` over the first line, in place, so that the next start is as ever
//! (`checkNextboot` in stand/lua/config.lua, `include_nextboot_file` in stand/forth/support.4th). What
//! the file assigns comes after loader.conf(5) and counts.
//!
//! With another root in it, the loader takes *its own slot's kernel and modules* and the kernel mounts
//! the other slot: that is what a trial can be where no flag starts a slot once. A mark in the file
//! reaches the kernel's environment, so that the slot that comes up knows what it is. Pure.

use jiff::Timestamp;

use super::Slot;
use super::discover::Layout;
use super::loader::{self, ROOTS, writable};
use super::view::View;
use crate::device::Id;
use crate::record::journal::{By, Place, Trial};
use crate::sys::{self, Boot};

pub use crate::sys::NEXTBOOT as PATH;

/// The variable in which a trial tells of itself: `1:/dev/da0s1a,2:/dev/da0s2a,1764115200`, the slot
/// before it, the slot, and since when.
pub const MARK: &str = match sys::MARK.to_str() {
    Ok(name) => name,
    Err(_) => panic!(),
};
/// The longest value of a kernel variable (`KENV_MVALLEN` in sys/kenv.h).
const LONGEST: usize = 128;
/// What the loader leaves of the first line.
const SPENT: &[u8] = b"nextboot_enable=\"NO\"";

/// What such a file says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Nextboot {
    /// Whether the next start from its slot does what it says.
    pub enabled: bool,
    /// The devices of the root that it names, tried in this order.
    pub roots: Vec<String>,
    /// The trial, where it is ours.
    pub trial: Option<Trial>,
}

impl Nextboot {
    /// Reads one.
    pub fn parse(text: &[u8]) -> Self {
        let value = |name: &str| {
            loader::last(text, name).map(|value| String::from_utf8_lossy(&value).into_owned())
        };
        let list = value(ROOTS).unwrap_or_default();
        Self {
            // What has no such line at all is taken by the one loader and not by the other.
            enabled: !text.trim_ascii().is_empty() && !text.starts_with(SPENT),
            roots: loader::roots(&list).map(str::to_owned).collect(),
            trial: value(MARK).and_then(|mark| unmark(&mark)),
        }
    }
}

/// The file of a trial. The kernel tries `to` and, where that cannot be mounted, `from`: both as
/// fstab(5) calls them. `None` where a name cannot be written there.
pub fn file(trial: &Trial, to: &str, from: &str) -> Option<Vec<u8>> {
    let mark = mark(trial);
    let roots = format!("ufs:{to} ufs:{from}");
    let sound = [to, from].iter().all(|name| writable(name.as_bytes(), true));
    if !sound || roots.len() >= LONGEST || mark.len() >= LONGEST {
        return None;
    }
    let text = format!("nextboot_enable=\"YES\"\n{ROOTS}=\"{roots}\"\n{MARK}=\"{mark}\"\n");
    (unmark(&mark)? == *trial).then(|| text.into_bytes())
}

fn mark(trial: &Trial) -> String {
    let place = |place: &Place| format!("{}:{}", place.slot, place.device);
    format!("{},{},{}", place(&trial.from), place(&trial.slot), trial.armed.as_second())
}

fn unmark(mark: &str) -> Option<Trial> {
    let place = |text: &str| {
        let (slot, device) = text.split_once(':')?;
        let slot = slot.parse().ok().filter(|slot| [1, 2].contains(slot))?;
        (!device.is_empty()).then(|| Place { slot, device: device.to_owned() })
    };
    let mut parts = mark.split(',');
    let (from, slot, armed) = (parts.next()?, parts.next()?, parts.next()?);
    let armed = Timestamp::from_second(armed.parse().ok()?).ok()?;
    let trial = Trial { slot: place(slot)?, from: place(from)?, armed, by: By::Nextboot };
    (parts.next().is_none() && trial.slot.slot != trial.from.slot).then_some(trial)
}

impl View {
    /// The slot that the running slot's nextboot.conf starts next, where the flags lead to that file.
    /// `flagged` is the slot that they select.
    pub(super) fn nextboot_of(&self, roots: [Id; 2], flagged: u32) -> Option<u32> {
        let file = self.nextboot.as_ref().filter(|file| file.enabled)?;
        let (running, _) = self.running_root().ok()?;
        let named = self.find(file.roots.first()?.as_bytes())?;
        let number = |id: Id| (1..).zip(roots).find(|(_, root)| *root == id).map(|(slot, _)| slot);
        (number(running)? == flagged).then(|| number(named))?.filter(|slot| *slot != flagged)
    }

    /// The trial by nextboot(8) that this start is: the loader's slot, the root that the kernel was
    /// told to mount and the slot that runs are those of the mark.
    pub fn nextboot_trial(&self, layout: &Layout, boot: &Boot) -> Option<Trial> {
        let trial = unmark(boot.trial.as_deref()?)?;
        let slot = |place: &Place| -> Option<&Slot> {
            let slot = layout.slots.iter().find(|slot| slot.number == place.slot)?;
            (self.node(slot.root) == place.device).then_some(slot)
        };
        let (to, from) = (slot(&trial.slot)?, slot(&trial.from)?);
        let loader = boot.loader.as_deref()?;
        let told = self.find(boot.roots.first()?.as_bytes());
        let fits = self.loader_slot(layout, loader) == Some(from.number) && told == Some(to.root);
        fits.then_some(trial)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn trial() -> Trial {
        let place = |slot: u32| Place { slot, device: format!("/dev/da0s{slot}a") };
        let armed = Timestamp::from_second(1_764_115_200).unwrap();
        Trial { slot: place(2), from: place(1), armed, by: By::Nextboot }
    }

    #[test]
    fn a_trial_reads_back_and_is_spent_in_place() {
        let text = file(&trial(), "/dev/da0s2a", "/dev/ufs/root1").unwrap();
        let expected = "nextboot_enable=\"YES\"\n\
            vfs.root.mountfrom=\"ufs:/dev/da0s2a ufs:/dev/ufs/root1\"\n\
            dualroot.trial=\"1:/dev/da0s1a,2:/dev/da0s2a,1764115200\"\n";
        assert_eq!(String::from_utf8(text.clone()).unwrap(), expected);
        let roots = ["/dev/da0s2a", "/dev/ufs/root1"].map(str::to_owned).to_vec();
        let read = Nextboot { enabled: true, roots, trial: Some(trial()) };
        assert_eq!(Nextboot::parse(&text), read);
        // As the loader does it: as many bytes as the first line has.
        let mut spent = text.clone();
        spent[..21].copy_from_slice(b"nextboot_enable=\"NO\" ");
        assert_eq!(spent[21], b'\n');
        assert_eq!(Nextboot::parse(&spent), Nextboot { enabled: false, ..read });
    }

    #[test]
    fn what_others_wrote() {
        let parse = |text: &str| {
            let file = Nextboot::parse(text.as_bytes());
            assert_eq!(file.trial, None);
            (file.enabled, file.roots.join(" "))
        };
        for (text, found) in [
            ("nextboot_enable=\"YES\"\nkernel=\"test\"\n", (true, "")),
            ("kernel=\"test\"\n", (true, "")),
            ("nextboot_enable=\"NO\" \nvfs.root.mountfrom=\"ufs:/dev/x\"\n", (false, "/dev/x")),
            ("vfs.root.mountfrom=\"ufs:/dev/x zfs:a/b\"\n", (true, "/dev/x a/b")),
            ("dualroot.trial=\"1:/dev/a,1:/dev/b,9\"\n", (true, "")),
            ("dualroot.trial=\"1:/dev/a,2:/dev/b,9,9\"\n", (true, "")),
            ("dualroot.trial=\"1:/dev/a,3:/dev/b,9\"\n", (true, "")),
            ("dualroot.trial=\"1:,2:/dev/b,9\"\n", (true, "")),
            ("dualroot.trial=\"1:/dev/a,2:/dev/b,soon\"\n", (true, "")),
            ("", (false, "")),
            ("\n \n", (false, "")),
        ] {
            assert_eq!(parse(text), (found.0, found.1.to_owned()), "{text}");
        }
    }

    #[test]
    fn names_that_the_loader_would_not_read_are_refused() {
        for name in ["", "a b", "a\"b", "a$b", "a\nb", &"x".repeat(60)] {
            assert_eq!(file(&trial(), name, &"y".repeat(60)), None, "{name}");
        }
        let mut odd = trial();
        odd.slot.device = "/dev/a,b".to_owned();
        assert_eq!(file(&odd, "/dev/x", "/dev/y"), None);
    }

    proptest! {
        #[test]
        fn any_bytes_are_read(text: Vec<u8>) {
            let _ = Nextboot::parse(&text);
        }

        #[test]
        fn any_mark_is_read_or_not(mark in "[12]:[!-~]{0,9},[12]:[!-~]{0,9},[0-9]{1,12}") {
            if let Some(trial) = unmark(&mark) {
                prop_assert_eq!(unmark(&super::mark(&trial)), Some(trial));
            }
        }
    }
}
