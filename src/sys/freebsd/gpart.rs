//! Making partition tables with gpart(8).
//!
//! Each table is one transaction: the commands are collected under a flag (`-f x`) and written by
//! `gpart commit`, so that there is the old table or the whole new one.

use std::path::Path;

use super::device;
use crate::error::{During, Result};
use crate::sys::{command, erase_for};
use crate::table::Scheme;
use crate::table::drawing::{Drawing, Drawn, Role};

/// Words of a call.
type Words = Vec<String>;

/// Puts the table on a medium that nobody uses, whatever was on it.
pub(super) fn partition(medium: &Path, drawing: &Drawing) -> Result<()> {
    let _after = device::Settle;
    let mut claim = device::Claimed::open(medium)?;
    // gpart(8) destroys a table, but not what is left of an older one at the same place: GEOM
    // would find it as soon as the new slice is there.
    erase_for(&mut claim, drawing)?;
    // GEOM has looked at the empty medium when this is gone.
    drop(claim);
    run(&tables(&name(medium), drawing)).map_err(|e| e.path(medium))
}

/// Writes boot code out of `root`'s `/boot`, and marks what boots.
pub(super) fn make_bootable(medium: &Path, drawing: &Drawing, root: &Path) -> Result<()> {
    // The partitions are gone for a moment after each write below them.
    let _after = device::Settle;
    run(&boot(&name(medium), drawing, &root.join("boot"))).map_err(|e| e.path(medium))
}

fn name(medium: &Path) -> String {
    medium.strip_prefix("/dev").unwrap_or(medium).to_string_lossy().into_owned()
}

fn run(calls: &[Words]) -> Result<()> {
    for words in calls {
        command::run(&["/sbin/gpart"], words).during(words.join(" "))?;
    }
    Ok(())
}

fn words(text: &str) -> Words {
    text.split_whitespace().map(str::to_owned).collect()
}

fn tables(medium: &str, drawing: &Drawing) -> Vec<Words> {
    let sector = drawing.sector;
    let mut calls = table(medium, drawing.scheme, &drawing.parts, sector);
    for slice in drawing.parts.iter().filter(|p| !p.inside.is_empty()) {
        let slice_name = format!("{medium}s{}", slice.index);
        calls.extend(table(&slice_name, Scheme::Bsd, &slice.inside, sector));
    }
    calls
}

fn table(place: &str, scheme: Scheme, parts: &[Drawn], sector: u32) -> Vec<Words> {
    let mut calls = vec![words(&format!("create -s {scheme} -f x {place}"))];
    for part in parts {
        let (start, size) = (part.start / u64::from(sector), part.size / u64::from(sector));
        let Drawn { kind, index, .. } = part;
        let mut add = words(&format!("add -t {kind} -i {index} -b {start} -s {size} -f x"));
        if let Some(label) = &part.label {
            add.extend(["-l".to_owned(), label.clone()]);
        }
        add.push(place.to_owned());
        calls.push(add);
    }
    calls.push(words(&format!("commit {place}")));
    calls
}

fn boot(medium: &str, drawing: &Drawing, dir: &Path) -> Vec<Words> {
    let file = |name: &str| dir.join(name).to_string_lossy().into_owned();
    let code = |words: &[&str]| words.iter().map(|w| (*w).to_owned()).collect::<Words>();
    let boots = drawing.boots;
    // No BIOS reads other sectors, and a label's own sector lies inside /boot/boot then.
    let bios = drawing.sector == 512;
    if drawing.scheme == Scheme::Gpt {
        let mut calls = Vec::new();
        if let Some((_, part)) = drawing.of(Role::Boot).filter(|_| bios) {
            let (pmbr, gptboot, index) = (file("pmbr"), file("gptboot"), part.index.to_string());
            calls.push(code(&["bootcode", "-b", &pmbr, "-p", &gptboot, "-i", &index, medium]));
        }
        calls.push(words(&format!("set -a bootme -i {boots} {medium}")));
        return calls;
    }
    let (mbr, label) = (file("mbr"), file("boot"));
    let mut calls = Vec::new();
    if bios {
        calls.push(code(&["bootcode", "-b", &mbr, medium]));
    }
    for role in [Role::Root, Role::AltRoot] {
        if let Some((Some(slice), _)) = drawing.of(role).filter(|_| bios) {
            let place = format!("{medium}s{}", slice.index);
            calls.push(code(&["bootcode", "-b", &label, &place]));
        }
    }
    calls.push(words(&format!("set -a active -i {boots} {medium}")));
    calls
}

#[cfg(test)]
mod tests {
    use super::*;

    fn drawn(role: Option<Role>, index: u32, start: u64, size: u64, kind: &'static str) -> Drawn {
        Drawn { role, index, start, size, kind, label: None, inside: Vec::new() }
    }

    #[test]
    fn slices_are_one_transaction_each() {
        let inside = vec![drawn(Some(Role::Root), 1, 1 << 20, 8 << 20, "freebsd-ufs")];
        let slice = Drawn { inside, ..drawn(None, 1, 1 << 20, 9 << 20, "freebsd") };
        let drawing = Drawing { scheme: Scheme::Mbr, sector: 4096, parts: vec![slice], boots: 1 };
        let drawing_512 = Drawing { sector: 512, ..drawing.clone() };
        let calls: Vec<_> = tables("da1", &drawing).iter().map(|c| c.join(" ")).collect();
        assert_eq!(
            calls,
            [
                "create -s MBR -f x da1",
                "add -t freebsd -i 1 -b 256 -s 2304 -f x da1",
                "commit da1",
                "create -s BSD -f x da1s1",
                "add -t freebsd-ufs -i 1 -b 256 -s 2048 -f x da1s1",
                "commit da1s1",
            ]
        );
        assert_eq!(boot("da1", &drawing, Path::new("/boot")), [words("set -a active -i 1 da1")]);
        let calls = boot("da1", &drawing_512, Path::new("/boot"));
        let calls: Vec<_> = calls.iter().map(|c| c.join(" ")).collect();
        assert_eq!(
            calls,
            ["bootcode -b /boot/mbr da1", "bootcode -b /boot/boot da1s1", "set -a active -i 1 da1"]
        );
    }
}
