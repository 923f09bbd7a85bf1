//! Whether what started is what was meant to: the loader's slot, the root that is mounted, and what
//! fstab and boot flags say. An fstab that was left as it was puts a new kernel on the old root
//! without a word (`getrootmount` in stand/common/boot.c). Pure.

use super::discover::Layout;
use super::view::View;
use crate::device::Id;
use crate::finding::Finding;
use crate::sys::Boot;
use crate::table::Scheme;

/// What to do about a root that is not the one that was meant.
const LOOK: &str = "see vfs.root.mountfrom in /boot/loader.conf and the entry for / in /etc/fstab \
    of the slot that was started, and start again";

impl View {
    /// The running root against fstab.
    pub fn against_fstab(&self, running: Id) -> Option<Finding> {
        let entry = self.fstab_entry("/")?;
        let spec = String::from_utf8_lossy(&entry.spec);
        let what = match self.find(&entry.spec) {
            Some(id) if id == running => return None,
            Some(id) => {
                format!("it names {spec} for /, but {} is mounted", self.other(running, id))
            }
            None => {
                let why = self.missing(&entry.spec);
                format!("it names {spec} for /: {why}; {} is mounted", self.node(running))
            }
        };
        let place = self.below("/etc/fstab").to_string_lossy().into_owned();
        let hint = "correct it: the next start of this slot would mount the other device";
        Some(Finding::error("fstab-root-differs", place, what, hint))
    }

    /// Whether this start has the kernel of one slot and the root of the other, and how that is seen. A
    /// trial by nextboot(8) is just that, and meant to be.
    pub fn half_boot(&self, layout: &Layout, boot: &Boot) -> Vec<Finding> {
        if self.nextboot_trial(layout, boot).is_some() {
            return Vec::new();
        }
        let told = self.against_kernel_roots(layout.root().source, &boot.roots);
        let came = boot.loader.as_ref().and_then(|loader| self.against_loader(layout, loader));
        told.into_iter().chain(came).collect()
    }

    fn other(&self, running: Id, named: Id) -> String {
        format!("{} (and not {})", self.node(running), self.node(named))
    }

    /// The running root against what the kernel was told to mount.
    pub fn against_kernel_roots(&self, running: Id, roots: &[String]) -> Option<Finding> {
        let ids: Vec<_> = roots.iter().map(|spec| self.find(spec.as_bytes())).collect();
        // What nobody knows (a memory disk, another naming) proves nothing.
        let first = (*ids.first()?)?;
        if first == running {
            return None;
        }
        let node = self.node(running);
        let what = format!("the kernel was told to mount {}, and {node} is mounted", roots[0]);
        Some(if ids.contains(&Some(running)) {
            Finding::warning("half-boot", node, what, LOOK)
        } else {
            Finding::error("half-boot", node, what, LOOK)
        })
    }

    /// The running root against the device that the loader took the kernel from. Its disk numbers
    /// are the firmware's, so only the slice says something, and only beside its sibling.
    pub fn against_loader(&self, layout: &Layout, loader: &str) -> Option<Finding> {
        let number = self.loader_slot(layout, loader)?;
        let started = layout.slots.iter().find(|slot| slot.number == number && !slot.running)?;
        let running = layout.root().source;
        let what = format!(
            "the kernel came from {} ({loader}), and {} is mounted: two slots in one system",
            self.node(started.root),
            self.node(running)
        );
        Some(Finding::error("half-boot", self.node(running), what, LOOK))
    }

    /// The slot that the loader came from. `None` where its name of the device does not tell.
    pub fn loader_slot(&self, layout: &Layout, loader: &str) -> Option<u32> {
        let [one, two] = layout.slots;
        if self.devices.medium(one.root) != self.devices.medium(two.root) {
            return None;
        }
        let place = loader_place(loader)?;
        let started = [one, two].into_iter().find(|s| self.loader_name(s.root) == Some(place))?;
        Some(started.number)
    }

    /// Where the loader would find a root: slice and partition of an MBR, the index of a GPT.
    fn loader_name(&self, id: Id) -> Option<(u32, Option<u32>)> {
        let slice = self.slice(id);
        let medium = self.devices.medium(id)?;
        let scheme = self.tables.get(&medium)?.scheme;
        let inner = if slice == id || scheme == Scheme::Gpt { None } else { self.index(id) };
        Some((self.index(slice)?, inner))
    }
}

/// Slice, and partition where there is one, of a loader's device: `disk0s1a:`, `disk0p2:`.
fn loader_place(loader: &str) -> Option<(u32, Option<u32>)> {
    let rest = loader.strip_prefix("disk")?.trim_end_matches(':');
    let rest = rest.trim_start_matches(|c: char| c.is_ascii_digit());
    let (kind, rest) = (rest.get(..1)?, rest.get(1..)?);
    let digits = rest.find(|c: char| !c.is_ascii_digit()).unwrap_or(rest.len());
    let index = rest[..digits].parse().ok()?;
    match (kind, &rest.as_bytes()[digits..]) {
        ("p" | "s", []) => Some((index, None)),
        ("s", [letter @ b'a'..=b't']) => Some((index, Some(u32::from(letter - b'a') + 1))),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_the_loader() {
        for (name, place) in [
            ("disk0s1a:", Some((1, Some(1)))),
            ("disk12s2d", Some((2, Some(4)))),
            ("disk0p3:", Some((3, None))),
            ("disk1s4:", Some((4, None))),
            ("zfs:zroot/ROOT/default:", None),
            ("disk0:", None),
            ("disk0p2a:", None),
            ("disk0s99999999999a:", None),
            ("", None),
            ("diské1", None),
        ] {
            assert_eq!(loader_place(name), place, "{name}");
        }
    }
}
