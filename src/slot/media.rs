//! Which medium `--media` means. Pure.

use std::path::{Path, PathBuf};

use super::view::View;
use crate::device::{Class, Id};
use crate::error::{Error, Result};

/// Junos's words for media (`request system snapshot media …`), apart from device names.
pub const WORDS: [&str; 8] = [
    "internal",
    "external",
    "compact-flash",
    "removable-compact-flash",
    "usb",
    "usb0",
    "usb1",
    "hard-disk",
];

/// Those of them that can be taken out and put in the place of another.
const REMOVABLE: [&str; 5] = ["external", "removable-compact-flash", "usb", "usb0", "usb1"];

impl View {
    /// The medium that the running root lies on.
    pub fn running_medium(&self) -> Option<Id> {
        self.devices.medium(self.mounted(self.mount_at(&self.root)?)?)
    }

    /// Finds a medium: by the configuration's `[media]`, by Junos's words, else by its name.
    ///
    /// `internal` and `compact-flash` are what the system runs from; `external` is another disk,
    /// `usb` one on that bus (`usb1` the second), `hard-disk` one that cannot be taken out, and
    /// `removable-compact-flash` one that can and is not on USB. `usb_disks` are the kernel's names
    /// of those.
    ///
    /// # Errors
    /// Refused: there is none, or there are several.
    pub fn find_medium(&self, word: &str, usb_disks: &[String]) -> Result<Id> {
        if let Some(name) = self.config.media.get(word) {
            return self.medium_named(name).map_err(|e| {
                e.hint(format!("{} says that {word} is {name}", self.config_path.display()))
            });
        }
        let running = self.running_medium();
        let usb = |id: &Id| usb_disks.contains(&self.devices.get(*id).name);
        let others = || self.disks().filter(|id| Some(*id) != running).collect::<Vec<_>>();
        let mut found = match word {
            "internal" | "compact-flash" => running.into_iter().collect(),
            "external" => others(),
            "usb" => others().into_iter().filter(usb).collect(),
            "usb0" | "usb1" => {
                let number = usize::from(word == "usb1");
                self.disks().filter(usb).skip(number).take(1).collect()
            }
            "hard-disk" => {
                let mut disks = others();
                disks.retain(|id| !usb(id) && !self.devices.get(*id).removable);
                disks
            }
            "removable-compact-flash" => {
                let mut disks = others();
                disks.retain(|id| !usb(id) && self.devices.get(*id).removable);
                disks
            }
            name => return self.medium_named(name),
        };
        match (found.pop(), &found[..]) {
            (Some(id), []) => Ok(id),
            (None, _) => Err(Error::refused(format!("no {word} medium is attached"))),
            (Some(last), _) => {
                let all = found.iter().chain([&last]).map(|id| self.node(*id));
                let all = all.collect::<Vec<_>>().join(", ");
                let hint = format!(
                    "name the device; or say which one is {word} under [media] in {}",
                    self.config_path.display()
                );
                Err(Error::refused(format!("several media are {word}: {all}")).hint(hint))
            }
        }
    }

    /// Checks that a medium can be taken out: the kernel says so, it is on USB, or the configuration
    /// calls it by one of Junos's words for such media.
    ///
    /// # Errors
    /// Refused: it cannot.
    pub fn guard_removable(
        &self,
        medium: Id,
        usb_disks: impl FnOnce() -> Result<Vec<String>>,
    ) -> Result<()> {
        let mut called =
            self.config.media.iter().filter(|(word, _)| REMOVABLE.contains(&word.as_str()));
        let configured = called.any(|(_, name)| self.medium_named(name).ok() == Some(medium));
        let provider = self.devices.get(medium);
        if provider.removable || configured || usb_disks()?.contains(&provider.name) {
            return Ok(());
        }
        let (node, config) = (self.node(medium), self.config_path.display());
        Err(Error::refused(format!("{node} is no removable medium")).hint(format!(
            "if it can be taken out, say so: removable-compact-flash = \"{}\" under \
                [media] in {config}",
            provider.name
        )))
    }

    /// Media of the kernel's own, in its order; memory disks and loop devices are somebody's files.
    fn disks(&self) -> impl Iterator<Item = Id> {
        (0..self.devices.providers.len()).filter(|&id| {
            let provider = self.devices.get(id);
            let file =
                ["md", "loop", "zram", "ram", "nbd"].iter().any(|p| provider.name.starts_with(p));
            matches!(provider.class, Class::Disk) && !file && provider.size > 0
        })
    }

    fn medium_named(&self, name: &str) -> Result<Id> {
        let path = Path::new(name);
        let canonical = self.canonical.get(path).map_or(path, PathBuf::as_path);
        let found = self.devices.find(canonical).or_else(|| self.devices.find(path));
        let Some(id) = found.map(|id| self.devices.named(id)) else {
            let own = self.config.media.keys().map(String::as_str);
            let words: Vec<_> =
                WORDS.into_iter().chain(own.filter(|w| !WORDS.contains(w))).collect();
            return Err(Error::refused(format!("{name}: no such medium"))
                .hint(format!("a medium is a device or one of {}", words.join(", "))));
        };
        if !matches!(self.devices.get(id).class, Class::Disk) {
            return Err(Error::refused(format!("{} is no whole medium", self.node(id))));
        }
        Ok(id)
    }
}
