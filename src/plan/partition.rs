//! The arithmetic of sizes: from what was asked for to a table to be made. Pure.
//!
//! The defaults are Junos's: of a medium of M bytes, config has 10 %, data nothing, swap a third
//! where M is over 128 MB, and each root has a third of what these leave, (M - config - data -
//! swap) / 3. Of the last third the second config and `/var` are made. (Junos's manual says "one-third
//! of the physical memory minus the config, data, and swap partitions", which read literally is
//! less than nothing.)

use super::size::Size;
use crate::error::{Error, Result};
use crate::table::Scheme;
use crate::table::drawing::{Drawing, Drawn, Family, MIB, Role};

/// The sizes that were asked for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Sizes {
    /// Of each root.
    pub root: Option<Size>,
    /// Of each config.
    pub config: Option<Size>,
    /// Of data.
    pub data: Option<Size>,
    /// Of swap.
    pub swap: Option<Size>,
}

/// What is to be drawn.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Wish {
    /// The kind of table: MBR or GPT.
    pub scheme: Scheme,
    /// Whose.
    pub family: Family,
    /// Bytes of the medium.
    pub medium: u64,
    /// Bytes in its sectors.
    pub sector: u32,
    /// The sizes asked for.
    pub sizes: Sizes,
    /// Whether there is a `/config` of its own.
    pub config: bool,
    /// Whether there is a `/var` of its own.
    pub var: bool,
    /// Bytes of an EFI system partition, where one is needed.
    pub efi: Option<u64>,
    /// What is put before each name in a GPT, so that no two media have the same.
    pub prefix: String,
}

/// Room for gptboot(8): its own limit (gpart(8), BOOTSTRAPPING).
const BOOT: u64 = 512 << 10;
/// From this size on Junos makes swap by default.
const SWAP_FROM: u64 = 128 * MIB;
/// An MBR counts sectors in 32 bits.
const MBR_SECTORS: u64 = 1 << 32;

/// Bytes of every part, in MiB but for the boot partition.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Shares {
    root: u64,
    config: u64,
    swap: u64,
    data: u64,
    var: u64,
}

impl Wish {
    /// Draws the table.
    ///
    /// # Errors
    /// Refused: the sizes do not fit, one of them makes no sense, or the scheme cannot hold them.
    pub fn draw(&self) -> Result<Drawing> {
        if self.scheme == Scheme::Mbr && self.medium / u64::from(self.sector) > MBR_SECTORS {
            return Err(Error::refused("the medium is too large for an MBR")
                .hint("--scheme gpt can use all of it"));
        }
        match (self.scheme, self.family) {
            (Scheme::Gpt, _) => self.gpt(),
            (Scheme::Mbr, Family::FreeBsd) => self.slices(),
            (Scheme::Mbr, Family::Linux) => self.primaries(),
            (Scheme::Bsd, _) => Err(Error::refused("a medium has an MBR or a GPT")),
        }
    }

    /// The first MiB holds the table and boot code; a GPT's copy lies in the last.
    fn usable(&self) -> u64 {
        let end = self.medium - self.medium % MIB;
        let tail = if self.scheme == Scheme::Gpt && self.medium - end < MIB { MIB } else { 0 };
        end.saturating_sub(MIB + tail)
    }

    /// The sizes, with `overhead` bytes lost between them.
    fn shares(&self, overhead: u64) -> Result<Shares> {
        let asked = |size: Option<Size>, option: &str| match size.map(|s| s.on(self.medium)) {
            Some(None) => Err(Error::refused(format!("--{option} is larger than any medium"))),
            Some(Some(bytes)) => Ok(Some(bytes)),
            None => Ok(None),
        };
        let none = |option: &str, size: Option<Size>, why: &str| {
            let size = size.unwrap_or(Size::Bytes(0));
            Error::refused(format!("--{option} {size}: less than 1 MB, and {why}"))
        };
        let third = |bytes: u64| bytes / 3 / MIB * MIB;
        let config = match asked(self.sizes.config, "config-size")? {
            Some(0) if self.config => {
                let why = "the running system has a /config";
                return Err(none("config-size", self.sizes.config, why));
            }
            Some(bytes) => bytes,
            None if self.config => Size::Percent(10).on(self.medium).unwrap_or(0).max(MIB),
            None => 0,
        };
        let data = asked(self.sizes.data, "data-size")?.unwrap_or(0);
        let by_default = if self.medium > SWAP_FROM { third(self.medium) } else { 0 };
        let swap = asked(self.sizes.swap, "swap-size")?.unwrap_or(by_default);
        let taken = [config, data, swap].into_iter().try_fold(0_u64, u64::checked_add);
        let left = taken.and_then(|taken| self.medium.checked_sub(taken));
        let root = match asked(self.sizes.root, "root-size")? {
            Some(0) => return Err(none("root-size", self.sizes.root, "a root needs room")),
            Some(bytes) => bytes,
            None => third(left.unwrap_or(0)),
        };
        let whole = [root, root, config, config, data, swap, overhead];
        let needed = whole.into_iter().try_fold(0_u64, u64::checked_add);
        let least = if self.var { MIB } else { 0 };
        let rest = needed.and_then(|needed| self.usable().checked_sub(needed));
        match rest {
            Some(rest) if root > 0 && rest >= least => {
                let var = if self.var { rest / MIB * MIB } else { 0 };
                Ok(Shares { root, config, swap, data, var })
            }
            _ => Err(self.overcommitted(root, config, swap, data, least + overhead)),
        }
    }

    fn overcommitted(&self, root: u64, config: u64, swap: u64, data: u64, other: u64) -> Error {
        let mb = |bytes: u64| bytes.div_ceil(MIB);
        let needed = 2 * (u128::from(root) + u128::from(config))
            + u128::from(swap)
            + u128::from(data)
            + u128::from(other);
        Error::refused(format!(
            "it does not fit: 2 roots of {} MB, 2 configs of {} MB, swap {} MB, data {} MB need {} MB, \
             {} MB are there",
            mb(root),
            mb(config),
            mb(swap),
            mb(data),
            needed.div_ceil(u128::from(MIB)),
            self.usable() / MIB
        ))
        .hint("give smaller sizes: --root-size, --config-size, --swap-size, --data-size")
    }

    fn gpt(&self) -> Result<Drawing> {
        let boot = self.family == Family::FreeBsd;
        let efi = self.efi_size();
        let shares = self.shares(if boot { MIB } else { 0 } + efi)?;
        let mut pen = Pen { next: MIB, index: 1, parts: Vec::new() };
        let (fs, swap) = match self.family {
            Family::FreeBsd => ("freebsd-ufs", "freebsd-swap"),
            Family::Linux => ("linux-data", "linux-swap"),
        };
        let mut add = |role: Role, size: u64, kind| {
            let label = Some(format!("{}{}", self.prefix, role.label()));
            pen.add(role, size, kind, label);
        };
        add(Role::Boot, if boot { BOOT } else { 0 }, "freebsd-boot");
        add(Role::Efi, efi, "efi");
        add(Role::Root, shares.root, fs);
        add(Role::AltRoot, shares.root, fs);
        add(Role::Config, shares.config, fs);
        add(Role::AltConfig, shares.config, fs);
        add(Role::Swap, shares.swap, swap);
        add(Role::Var, shares.var, fs);
        add(Role::Data, shares.data, fs);
        Ok(self.drawing(pen.parts))
    }

    /// As on EX: a root in each of the slices 1 and 2, swap, `/var` and data in 3, the configs in 4.
    /// Each slice's label and boot code have its first MiB.
    fn slices(&self) -> Result<Drawing> {
        let slices = |shares: &Shares| {
            let [config, rest] = [shares.config, shares.swap + shares.var + shares.data];
            2 + u64::from(config > 0) + u64::from(rest > 0 || self.var)
        };
        // Their number depends on the shares, and a MiB of each on their number.
        let efi = self.efi_size();
        let mut shares = self.shares(efi)?;
        shares = self.shares(slices(&shares) * MIB + efi)?;
        let mut pen = Pen { next: MIB, index: 1, parts: Vec::new() };
        let ufs = "freebsd-ufs";
        pen.slice(&[(Role::Root, 1, shares.root, ufs)]);
        pen.slice(&[(Role::AltRoot, 1, shares.root, ufs)]);
        pen.slice(&[
            (Role::Swap, 2, shares.swap, "freebsd-swap"),
            (Role::Var, 5, shares.var, ufs),
            (Role::Data, 6, shares.data, ufs),
        ]);
        pen.index = 4;
        pen.slice(&[
            (Role::Config, 4, shares.config, ufs),
            (Role::AltConfig, 5, shares.config, ufs),
        ]);
        pen.add(Role::Efi, efi, "efi", None);
        self.four(pen.parts)
    }

    fn primaries(&self) -> Result<Drawing> {
        let efi = self.efi_size();
        let shares = self.shares(efi)?;
        let mut pen = Pen { next: MIB, index: 1, parts: Vec::new() };
        for (role, size, kind) in [
            (Role::Root, shares.root, "linux-data"),
            (Role::AltRoot, shares.root, "linux-data"),
            (Role::Config, shares.config, "linux-data"),
            (Role::AltConfig, shares.config, "linux-data"),
            (Role::Swap, shares.swap, "linux-swap"),
            (Role::Var, shares.var, "linux-data"),
            (Role::Data, shares.data, "linux-data"),
            (Role::Efi, efi, "efi"),
        ] {
            pen.add(role, size, kind, None);
        }
        self.four(pen.parts)
    }

    /// A drawing of an MBR, which has four places.
    fn four(&self, parts: Vec<Drawn>) -> Result<Drawing> {
        // A place that is left free counts: what comes behind it is known by its own.
        let count = parts.iter().map(|part| part.index).max().unwrap_or(0);
        if count > 4 {
            let cause = format!("{count} partitions are more than the four of an MBR");
            let without_swap = count == 5 && parts.iter().any(|p| p.role == Some(Role::Swap));
            let hint = if without_swap { "--scheme gpt; or --swap-size 0" } else { "--scheme gpt" };
            return Err(Error::refused(cause).hint(hint));
        }
        Ok(self.drawing(parts))
    }

    fn efi_size(&self) -> u64 {
        self.efi.unwrap_or(0).next_multiple_of(MIB)
    }

    fn drawing(&self, parts: Vec<Drawn>) -> Drawing {
        let holds = |p: &&Drawn| {
            p.role == Some(Role::Root) || p.inside.iter().any(|i| i.role == Some(Role::Root))
        };
        let boots = parts.iter().find(holds).map_or(1, |p| p.index);
        Drawing { scheme: self.scheme, sector: self.sector, parts, boots }
    }
}

/// Puts one behind the other.
struct Pen {
    next: u64,
    index: u32,
    parts: Vec<Drawn>,
}

impl Pen {
    fn add(&mut self, role: Role, size: u64, kind: &'static str, label: Option<String>) {
        if size == 0 {
            return;
        }
        let (index, start) = (self.index, self.next);
        self.parts.push(Drawn {
            role: Some(role),
            index,
            start,
            size,
            kind,
            label,
            inside: Vec::new(),
        });
        self.index += 1;
        self.next += size.next_multiple_of(MIB);
    }

    /// A slice with a BSD label: role, index of the letter, bytes, type.
    fn slice(&mut self, parts: &[(Role, u32, u64, &'static str)]) {
        let mut pen = Self { next: MIB, index: 1, parts: Vec::new() };
        for &(role, index, size, kind) in parts {
            pen.index = index;
            pen.add(role, size, kind, None);
        }
        if pen.parts.is_empty() {
            return;
        }
        let (index, start, size) = (self.index, self.next, pen.next);
        self.parts.push(Drawn {
            role: None,
            index,
            start,
            size,
            kind: "freebsd",
            label: None,
            inside: pen.parts,
        });
        self.index += 1;
        self.next += size;
    }
}

#[cfg(test)]
mod tests;
