//! A partition table that is to be made, as values.

use std::ops::Range;

use super::Scheme;

/// What partitions are aligned to.
pub const MIB: u64 = 1 << 20;

/// What a partition is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Role {
    /// freebsd-boot: gptboot(8) lies in it.
    Boot,
    /// The EFI system partition.
    Efi,
    /// The root that is filled.
    Root,
    /// The other root, left empty.
    AltRoot,
    /// `/config`.
    Config,
    /// Its copy's place, left empty.
    AltConfig,
    /// Swap.
    Swap,
    /// `/var`.
    Var,
    /// Spare storage.
    Data,
}

impl Role {
    /// Where it is mounted when the medium has been booted.
    pub fn point(self) -> &'static str {
        match self {
            Self::Root => "/",
            Self::AltRoot => "/altroot",
            Self::Config => "/config",
            Self::AltConfig => "/altconfig",
            Self::Var => "/var",
            Self::Data => "/data",
            Self::Swap => "swap",
            Self::Boot | Self::Efi => "none",
        }
    }

    /// The option that sets its size.
    pub fn option(self) -> &'static str {
        match self {
            Self::Root | Self::AltRoot => "root-size",
            Self::Config | Self::AltConfig => "config-size",
            Self::Data => "data-size",
            Self::Swap => "swap-size",
            Self::Boot | Self::Efi | Self::Var => "none",
        }
    }

    /// Its name in a GPT.
    pub fn label(self) -> &'static str {
        match self {
            Self::Boot => "boot",
            Self::Efi => "efi",
            Self::Root => "rootA",
            Self::AltRoot => "rootB",
            Self::Config => "configA",
            Self::AltConfig => "configB",
            Self::Swap => "swap",
            Self::Var => "var",
            Self::Data => "data",
        }
    }
}

/// Which system's partitions they are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Family {
    /// BSD labels inside MBR slices; UFS.
    FreeBsd,
    /// Plain partitions.
    Linux,
}

impl Family {
    /// What its kernel calls an entry of the table on `medium`: `da0s1`, `da0p2`, `sda1`, `loop0p1`.
    pub fn partition(self, medium: &str, scheme: Scheme, index: u32) -> String {
        let infix = match (scheme, self) {
            (Scheme::Gpt, Self::FreeBsd) => "p",
            (_, Self::FreeBsd) => "s",
            // Documentation/admin-guide/devices: a `p` behind a digit.
            (_, Self::Linux) if medium.ends_with(|c: char| c.is_ascii_digit()) => "p",
            (_, Self::Linux) => "",
        };
        format!("{medium}{infix}{index}")
    }
}

/// A partition to be made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Drawn {
    /// What it is for; `None` for a slice that holds a BSD label.
    pub role: Option<Role>,
    /// 1-based place in its table.
    pub index: u32,
    /// First byte, counted from the start of what holds the table.
    pub start: u64,
    /// Bytes.
    pub size: u64,
    /// Its type in gpart(8)'s words.
    pub kind: &'static str,
    /// Its name in a GPT.
    pub label: Option<String>,
    /// The partitions of its BSD label.
    pub inside: Vec<Drawn>,
}

/// A whole table to be made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Drawing {
    /// Which kind.
    pub scheme: Scheme,
    /// Bytes in a sector.
    pub sector: u32,
    /// In the order of the medium.
    pub parts: Vec<Drawn>,
    /// The index of what boots: the slice or partition of the first root.
    pub boots: u32,
}

impl Drawing {
    /// Every partition that is for something, with the slice that its label lies in.
    pub fn roles(&self) -> impl Iterator<Item = (Option<&Drawn>, &Drawn)> {
        self.parts.iter().flat_map(|part| {
            let own = part.role.is_some().then_some((None, part));
            own.into_iter().chain(part.inside.iter().map(move |inner| (Some(part), inner)))
        })
    }

    /// The one for this, with the slice that its label lies in.
    pub fn of(&self, role: Role) -> Option<(Option<&Drawn>, &Drawn)> {
        self.roles().find(|(_, part)| part.role == Some(role))
    }
}

/// Bytes at the start of a partition in which tables, labels and superblocks are looked for, and in
/// which the inode of an old root lies.
const LOOKED_AT: u64 = MIB;

impl Drawing {
    /// The byte ranges of a medium of `size` bytes in which something old could be taken for
    /// something of the new table: the ends of the medium, where tables lie, and the beginning of
    /// every new partition.
    pub fn wipes(&self, size: u64) -> Vec<Range<u64>> {
        let end = size - size % u64::from(self.sector);
        let mut ranges = vec![0..MIB.min(end), end.saturating_sub(MIB)..end];
        for part in &self.parts {
            let starts = part.inside.iter().map(|inner| part.start + inner.start);
            let begin = |start| start..end.min(start + LOOKED_AT);
            ranges.extend([part.start].into_iter().chain(starts).map(begin));
        }
        ranges.retain(|range| range.start < range.end && range.end <= end);
        ranges
    }
}
