//! What starts a machine: a gptboot that obeys the flags, the code of an MBR, and a loader that reads
//! nextboot.conf.

use std::hash::{DefaultHasher, Hash, Hasher};
use std::path::Path;

use dualroot::sys::Os;
use dualroot::sys::fake::{Loss, Machine, World};
use dualroot::table::flags::{Change, Flags};
use dualroot::table::gpt::Copy;
use dualroot::table::{Entry, Scheme, Table, gpt, superblock};

use crate::machine::{FILE, KERNEL, choose, done, parts, snapshot};

pub fn scheme(machine: &Machine) -> Scheme {
    let gpt = machine.world(|w| w.devices.find(Path::new("da0p1")).is_some());
    if gpt { Scheme::Gpt } else { Scheme::Mbr }
}

/// The table as the boot code reads it: of a GPT the primary copy, or the backup.
pub fn table(machine: &Machine) -> Table {
    let disk = machine.fork();
    let size = disk.devices().unwrap().get(0).size;
    let read = |at, length| disk.read_device(Path::new("/dev/da0"), at, length).unwrap();
    let bytes = read(0, usize::try_from(size).unwrap());
    let mut reader = std::io::Cursor::new(bytes);
    if scheme(machine) == Scheme::Mbr {
        return dualroot::table::read(&mut reader, size, 512).unwrap().unwrap();
    }
    let mut copy = |copy| gpt::read_copy(&mut reader, size, 512, copy).ok().flatten();
    copy(Copy::Primary).or_else(|| copy(Copy::Backup)).expect("no copy of the gpt is whole")
}

/// Whether the kernel of a slot can be loaded.
fn loads(machine: &Machine, device: &str) -> bool {
    machine.world(|w| {
        superblock::read(&w.boot_area(device)).is_some()
            && w.tree(device)
                .listing()
                .get(Path::new("boot/kernel/kernel"))
                .is_some_and(|f| f.data == [(0, KERNEL.to_vec())] && f.size == KERNEL.len() as u64)
    })
}

/// The machine starts: as `gptfind` does it (stand/libsa/gpt.c), or the code of an MBR. The slot
/// that came up, with what that did to the flags.
pub fn start(machine: &Machine, loss: Loss) -> Option<(Machine, u32)> {
    let machine = machine.lose_power(loss);
    let found = table(&machine);
    let all = parts(scheme(&machine));
    let [one, two, _] = &all;
    let number = |index: u32| match index {
        2 => Some((1, one)),
        3 => Some((2, two)),
        _ => None,
    };
    let ufs = || found.entries.iter().filter(|e| e.kind == "freebsd-ufs");
    let mut change = Change::none(&found, None);
    let slot = if found.scheme == Scheme::Mbr {
        let active: Vec<_> = found.entries.iter().filter(|e| e.active).collect();
        let [active] = active[..] else { return None };
        let slot = active.index;
        loads(&machine, &all[slot as usize - 1]).then_some(slot)
    } else {
        // A trial that was begun and did not lead to a system that could say so.
        for entry in ufs().filter(|e| e.boot_once && !e.boot_me) {
            let failed = Flags { boot_failed: true, ..Flags::default() };
            change.entries.insert(entry.index, (Flags::of(entry), failed));
        }
        let tried_once: Vec<&Entry> = ufs().filter(|e| e.boot_me && e.boot_once).collect();
        let flagged: Vec<&Entry> = ufs().filter(|e| e.boot_me && !e.boot_once).collect();
        let first = ufs().take(usize::from(tried_once.is_empty() && flagged.is_empty()));
        let mut came = None;
        for entry in tried_once.into_iter().chain(flagged).chain(first) {
            let flags = Flags::of(entry);
            if entry.boot_once {
                let tried = Flags { boot_me: false, ..flags };
                change.entries.insert(entry.index, (flags, tried));
            }
            match number(entry.index).filter(|(_, device)| loads(&machine, device)) {
                Some((slot, _)) => {
                    came = Some(slot);
                    break;
                }
                None if entry.boot_once => {
                    let failed = Flags { boot_failed: true, ..Flags::default() };
                    change.entries.insert(entry.index, (flags, failed));
                }
                None => {}
            }
        }
        came
    }?;
    if !change.is_empty() {
        // What one copy lacks, gptboot leaves to `gpart recover`.
        let _ = machine.set_boot(Path::new("/dev/da0"), &change);
    }
    let came = machine.world(|w| {
        let root = load(w, &all, slot)?;
        w.boot[0].0 = format!("/dev/{root}").into();
        w.started.id.push('+'); // another start than the one before
        all.iter().position(|device| *device == root)
    })?;
    Some((machine.lose_power(Loss::None), u32::try_from(came).unwrap() + 1))
}

/// The loader of a slot (stand/lua/config.lua), and the kernel after it: the device of the root.
fn load(w: &mut World, slots: &[String], slot: u32) -> Option<String> {
    let own = &slots[slot as usize - 1];
    let mut roots = vec![format!("/dev/{own}")];
    w.started.trial = None;
    if w.started.nextboot.is_some() {
        w.started.loader = Some(format!("disk0{}:", own.trim_start_matches("da0")));
        let found = w.tree(own).listing().get(Path::new(FILE)).map(|file| file.data[0].1.clone());
        if let Some(mut text) = found.filter(|text| !text.starts_with(b"nextboot_enable=\"NO\"")) {
            let lines = String::from_utf8(text.clone()).unwrap();
            let value = |name: &str| {
                let value = |line: &str| {
                    line.strip_prefix(name)?
                        .strip_prefix("=\"")?
                        .split('"')
                        .next()
                        .map(str::to_owned)
                };
                lines.lines().find_map(value)
            };
            assert_eq!(value("nextboot_enable").as_deref(), Some("YES"));
            if let Some(list) = value("vfs.root.mountfrom") {
                roots = list
                    .split(' ')
                    .map(|root| root.strip_prefix("ufs:").unwrap().to_owned())
                    .collect();
            }
            w.started.trial = value("dualroot.trial");
            text[..21].copy_from_slice(b"nextboot_enable=\"NO\" ");
            w.edit(own, |tree| tree.file(FILE, &text));
        }
    }
    w.started.roots.clone_from(&roots);
    let devices = roots.iter().filter_map(|root| root.strip_prefix("/dev/"));
    let sound = |device: &&str| {
        superblock::read(&w.boot_area(device)).is_some() && w.tree(device).has("etc/fstab")
    };
    devices.into_iter().find(sound).map(str::to_owned)
}

pub fn started(machine: &Machine) -> (Machine, u32) {
    start(machine, Loss::All).expect("nothing starts")
}

/// On an MBR: the second slot has run, copied itself onto the first one, which never ran, and chosen it;
/// what is found broken at the next start is repaired.
pub fn copied_back(machine: &Machine) -> Machine {
    done(choose(machine, 2, false));
    let (machine, _) = started(machine);
    let config = b"auto-snapshot = true\n";
    machine.world(|w| w.edit("da0s2", |tree| tree.file("etc/dualroot.conf", config)));
    done(snapshot(&machine));
    done(choose(&machine, 1, false));
    machine
}

/// What may become of what nobody flushed at the `k`th operation.
pub fn losses(machine: &Machine, k: u64) -> Vec<Loss> {
    let pending = machine.world(|w| w.pending_tables());
    let mut losses = vec![Loss::All, Loss::None, Loss::Half(k), Loss::Half(!k)];
    losses.extend((1..pending).map(Loss::AllBut));
    losses
}

/// What is on the disk outside the file systems, as one number.
pub fn tables(machine: &Machine) -> u64 {
    let mut hasher = DefaultHasher::new();
    machine.world(|w| w.sectors().hash(&mut hasher));
    hasher.finish()
}

/// What is on the disk, as one number.
pub fn fingerprint(machine: &Machine) -> u64 {
    let mut hasher = DefaultHasher::new();
    tables(machine).hash(&mut hasher);
    let trees = parts(scheme(machine));
    machine.world(|w| trees.iter().for_each(|d| w.tree(d).listing().hash(&mut hasher)));
    hasher.finish()
}
