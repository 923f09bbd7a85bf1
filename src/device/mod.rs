//! The storage stack as a graph of providers, in GEOM's words: a provider is anything that can be
//! read at byte offsets (disk, partition, label, mirror, …) and lies on zero or more lower ones.
//!
//! `sys` fills the graph (from `kern.geom.confxml` or sysfs); everything here is pure. Identity is
//! decided by [`Devices::extents`]: two names are the same storage where the byte ranges that
//! they cover on the lowest providers overlap.

pub mod geom;

use std::path::{Path, PathBuf};

/// More layers than anybody stacks: a malformed graph must not loop for ever.
const DEPTH_MAX: usize = 32;

/// Index of a provider in its [`Devices`].
pub type Id = usize;

/// Where a provider lies on a lower one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Lower {
    /// The lower provider.
    pub id: Id,
    /// Byte offset there; `None` where the mapping is not linear (mirror, stripe, encryption):
    /// the whole lower provider is then taken as covered.
    pub offset: Option<u64>,
}

/// What a provider is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Class {
    /// A whole medium: nothing of the partitioning kind below it.
    Disk,
    /// An entry of a partition table: its 1-based index there.
    Partition {
        /// 1-based index in the table (`da0s2` is 2, `da0s2a` is 1 of the BSD label).
        index: u32,
    },
    /// Another name for the same bytes (`ufs/root`, `gpt/rootA`).
    Alias,
    /// A mirror: writes to one half behind its back break the other.
    Mirror,
    /// Any other transformation, with the kernel's word for it (`ELI`, `NOP`, `dm`, `loop`).
    Other(String),
}

/// One provider.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Provider {
    /// Kernel name without `/dev/`: `da0s1a`, `ufs/root`, `loop0p1`.
    pub name: String,
    /// Further names that lead to the same node, absolute: `/dev/disk/by-label/root`.
    pub aliases: Vec<PathBuf>,
    /// What it is.
    pub class: Class,
    /// Bytes.
    pub size: u64,
    /// Bytes in a sector.
    pub sector: u32,
    /// Major and minor number, where the system's mount table speaks in them (Linux).
    pub number: Option<(u64, u64)>,
    /// What it lies on.
    pub lower: Vec<Lower>,
    /// Whether the medium can be taken out.
    pub removable: bool,
}

impl Provider {
    /// Its node: `/dev/` and the name.
    pub fn path(&self) -> PathBuf {
        Path::new("/dev").join(&self.name)
    }
}

/// A byte range of a lowest provider, half-open.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Extent {
    /// The lowest provider.
    pub base: Id,
    /// First byte.
    pub start: u64,
    /// One past the last byte.
    pub end: u64,
}

impl Extent {
    fn overlaps(&self, other: &Self) -> bool {
        self.base == other.base && self.start < other.end && other.start < self.end
    }
}

/// All providers of the machine.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Devices {
    /// In no particular order; [`Lower::id`] are indices into it.
    pub providers: Vec<Provider>,
}

impl Devices {
    /// The provider at `id`.
    pub fn get(&self, id: Id) -> &Provider {
        &self.providers[id]
    }

    /// Finds a provider by kernel name, node path or alias. The path is compared as text: resolve
    /// symbolic links first where the user gave it.
    pub fn find(&self, name: &Path) -> Option<Id> {
        let kernel_name = name.strip_prefix("/dev").unwrap_or(name);
        self.providers
            .iter()
            .position(|p| Path::new(&p.name) == kernel_name)
            .or_else(|| self.providers.iter().position(|p| p.aliases.iter().any(|a| a == name)))
    }

    /// Finds a provider by device number.
    pub fn by_number(&self, number: (u64, u64)) -> Option<Id> {
        self.providers.iter().position(|p| p.number == Some(number))
    }

    /// The byte ranges of lowest providers that `id` covers.
    pub fn extents(&self, id: Id) -> Vec<Extent> {
        let mut found = Vec::new();
        self.collect(id, 0, self.get(id).size, 0, &mut found);
        found
    }

    fn collect(&self, id: Id, start: u64, end: u64, depth: usize, found: &mut Vec<Extent>) {
        let provider = self.get(id);
        if provider.lower.is_empty() || depth > DEPTH_MAX {
            found.push(Extent { base: id, start, end });
            return;
        }
        for lower in &provider.lower {
            match lower.offset {
                Some(offset) => self.collect(
                    lower.id,
                    start.saturating_add(offset),
                    end.saturating_add(offset),
                    depth + 1,
                    found,
                ),
                None => self.collect(lower.id, 0, self.get(lower.id).size, depth + 1, found),
            }
        }
    }

    /// Whether writing to one of the two can change what the other reads.
    pub fn overlap(&self, a: Id, b: Id) -> bool {
        let theirs = self.extents(b);
        self.extents(a).iter().any(|x| theirs.iter().any(|y| x.overlaps(y)))
    }

    /// Makes names of what has them twice: GEOM looks for a BSD label on a label of its slice as well
    /// (`ufs/roota` on `ufs/root` on `da0s1`), so that one partition is two providers.
    pub fn name_twins(&mut self) {
        for id in 0..self.providers.len() {
            let Provider { class: Class::Partition { .. }, size, lower, .. } = self.get(id) else {
                continue;
            };
            let [Lower { id: label, offset }] = lower[..] else { continue };
            let below = self.named(label);
            if below == label {
                continue;
            }
            let same = |twin: &Id| {
                let twin = self.get(*twin);
                matches!(twin.class, Class::Partition { .. })
                    && twin.size == *size
                    && twin.lower == [Lower { id: below, offset }]
            };
            let twin = self.uppers(below).find(same);
            if let Some(twin) = twin {
                self.providers[id].class = Class::Alias;
                self.providers[id].lower = vec![Lower { id: twin, offset: Some(0) }];
            }
        }
    }

    /// What an alias leads down to; anything else is itself.
    pub fn named(&self, mut id: Id) -> Id {
        for _ in 0..DEPTH_MAX {
            match (&self.get(id).class, self.get(id).lower.as_slice()) {
                (Class::Alias, [lower]) => id = lower.id,
                _ => break,
            }
        }
        id
    }

    /// The one provider that stands for all that cover the same bytes: `ufs/root` → `da0s1a`.
    ///
    /// Aliases lead down. Then a partition that fills its slice from the first byte leads up:
    /// GEOM may put a label on `da0s1` as well as on `da0s1a`, since both taste the same. A label's
    /// file system is the partition's also where that ends a little before its slice, less than a
    /// fragment (`g_label_ufs_taste_common`).
    pub fn settle(&self, label: Id) -> Id {
        let mut id = self.named(label);
        let labelled = id != label;
        for _ in 0..DEPTH_MAX {
            let whole = |&upper: &Id| {
                let provider = self.get(upper);
                matches!(provider.class, Class::Partition { .. })
                    && (provider.size == self.get(id).size || labelled)
                    && provider.lower.iter().all(|l| l.offset == Some(0))
            };
            match self.uppers(id).find(whole) {
                Some(upper) => id = upper,
                None => break,
            }
        }
        id
    }

    /// The chain from `id` down to its medium, `id` first, through aliases, along first lowers.
    pub fn chain(&self, id: Id) -> Vec<Id> {
        let mut chain = vec![id];
        while let Some(lower) = self.get(chain[chain.len() - 1]).lower.first() {
            if chain.len() > DEPTH_MAX
                || matches!(self.get(chain[chain.len() - 1]).class, Class::Disk)
            {
                break;
            }
            chain.push(lower.id);
        }
        chain
    }

    /// The medium that `id` lies on: the first disk of its chain.
    pub fn medium(&self, id: Id) -> Option<Id> {
        self.chain(id).into_iter().find(|&i| matches!(self.get(i).class, Class::Disk))
    }

    /// Everything that lies directly on `id`.
    pub fn uppers(&self, id: Id) -> impl Iterator<Item = Id> + '_ {
        (0..self.providers.len())
            .filter(move |&upper| self.get(upper).lower.iter().any(|l| l.id == id))
    }

    /// Whether a mirror lies on, or under, any storage of `id`.
    pub fn mirrored(&self, id: Id) -> Option<Id> {
        (0..self.providers.len())
            .find(|&m| matches!(self.get(m).class, Class::Mirror) && self.overlap(m, id))
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    pub(crate) const MB: u64 = 1 << 20;

    fn provider(name: &str, class: Class, size: u64, lower: &[(Id, Option<u64>)]) -> Provider {
        Provider {
            name: name.to_owned(),
            aliases: Vec::new(),
            class,
            size,
            sector: 512,
            number: None,
            lower: lower.iter().map(|&(id, offset)| Lower { id, offset }).collect(),
            removable: false,
        }
    }

    /// da0 with s1 and s2, each with a BSD label's `a`, a label over s1a and a mirror over s2.
    fn stack() -> Devices {
        Devices {
            providers: vec![
                provider("da0", Class::Disk, 300 * MB, &[]),
                provider("da0s1", Class::Partition { index: 1 }, 100 * MB, &[(0, Some(MB))]),
                provider("da0s1a", Class::Partition { index: 1 }, 100 * MB, &[(1, Some(0))]),
                provider("da0s2", Class::Partition { index: 2 }, 100 * MB, &[(0, Some(101 * MB))]),
                provider("da0s2a", Class::Partition { index: 1 }, 100 * MB, &[(3, Some(0))]),
                provider("ufs/root", Class::Alias, 100 * MB, &[(2, Some(0))]),
                provider("mirror/gm0", Class::Mirror, 99 * MB, &[(3, None)]),
            ],
        }
    }

    #[test]
    fn a_label_is_the_storage_that_it_names() {
        let d = stack();
        let label = d.find(Path::new("/dev/ufs/root")).unwrap();
        let s1a = d.find(Path::new("da0s1a")).unwrap();
        let s2a = d.find(Path::new("/dev/da0s2a")).unwrap();
        assert!(d.overlap(label, s1a));
        assert!(!d.overlap(label, s2a));
        assert_eq!(d.settle(label), s1a);
        assert_eq!(d.settle(d.find(Path::new("da0s1")).unwrap()), s1a, "it fills its slice");
        // The slice's own label, and a partition that does not fill it to the last sector.
        let mut d = stack();
        let s1 = d.find(Path::new("da0s1")).unwrap();
        d.providers[label].lower[0].id = s1;
        d.providers[s1a].size -= 1024;
        assert_eq!((d.settle(label), d.settle(s1)), (s1a, s1));
        assert_eq!(d.get(d.medium(label).unwrap()).name, "da0");
    }

    #[test]
    fn a_partition_on_a_label_is_the_one_below_it() {
        let mut d = stack();
        let s2 = d.find(Path::new("da0s2")).unwrap();
        let s2a = d.find(Path::new("da0s2a")).unwrap();
        let label = d.providers.len();
        d.providers.push(provider("ufs/b", Class::Alias, 100 * MB, &[(s2, Some(0))]));
        for (name, offset) in [("ufs/ba", 0), ("ufs/be", MB)] {
            let below = [(label, Some(offset))];
            d.providers.push(provider(name, Class::Partition { index: 1 }, 100 * MB, &below));
        }
        d.name_twins();
        assert_eq!(d.get(label + 1).class, Class::Alias);
        assert_eq!(d.settle(label + 1), s2a);
        assert_eq!(d.settle(label), s2a);
        assert!(matches!(d.get(label + 2).class, Class::Partition { .. }), "it has no twin");
        assert!(d.overlap(label + 2, s2a));
    }

    #[test]
    fn a_medium_overlaps_all_its_slices_and_a_mirror_its_half() {
        let d = stack();
        assert!(d.overlap(0, 2) && d.overlap(0, 4) && d.overlap(6, 4));
        assert!(!d.overlap(6, 2));
        assert_eq!(d.mirrored(4), Some(6));
        assert_eq!(d.mirrored(2), None);
    }

    #[test]
    fn a_looping_graph_ends() {
        let mut d = stack();
        d.providers[0].lower.push(Lower { id: 1, offset: Some(0) });
        assert!(!d.extents(2).is_empty());
    }
}
