//! gpart(8): the only one that can write the table of a medium that is in use.
//!
//! GEOM keeps a table in memory from when it tasted it, and each change of it writes all of it: an
//! MBR with its boot code, both copies of a GPT with the protective MBR, a BSD label with boot1 and
//! boot2 (`g_part_mbr_write`, `g_part_gpt_write`, `g_part_bsd_write`).

use std::ffi::OsStr;
use std::fs;
use std::path::Path;

use super::{cache, command, unix};
use crate::error::{Context, During, Result};
use crate::sys::Rewrite;
use crate::table::Scheme;
use crate::table::flags::{Change, Flags};

const GPART: &str = "/sbin/gpart";
const BOOT0CFG: &str = "/usr/sbin/boot0cfg";

/// Runs gpart(8) for `what` of the medium or slice `holder`. Boot code goes through a file in
/// `run_dir`.
pub(super) fn rewrite(run_dir: &Path, holder: &Path, what: &Rewrite) -> Result<()> {
    // gpart(8) takes the geom's name: for a slice that is the provider's.
    let holder = holder.strip_prefix("/dev").unwrap_or(holder).as_os_str();
    // Both copies of a GPT are written without a flush between them.
    let _in_order = cache_off(&holder.to_string_lossy());
    let run = |words: &[&OsStr]| command::run(&[GPART], &[words, &[holder]].concat()).map(drop);
    match what {
        Rewrite::Recover => run(&[OsStr::new("recover")]),
        Rewrite::Table { index, kind } => {
            let index = index.to_string();
            run(&["modify", "-i", &index, "-t", kind].map(OsStr::new))
        }
        Rewrite::BootCode(code) => {
            unix::make_dir(run_dir)?;
            let file = run_dir.join(format!("{}.bootcode", std::process::id()));
            fs::write(&file, code).doing_to("writing", &file)?;
            let done = run(&[OsStr::new("bootcode"), OsStr::new("-b"), file.as_os_str()]);
            fs::remove_file(&file).doing_to("removing", &file)?;
            done
        }
    }
}

/// Changes the boot flags of a medium: the calls are collected under a flag (`-f x`), and
/// `gpart commit` writes the table once. boot0's default lies in its code, which is another write.
pub(super) fn set_boot(medium: &Path, change: &Change) -> Result<()> {
    let name = medium.strip_prefix("/dev").unwrap_or(medium).to_string_lossy().into_owned();
    let run = |words: &[String]| command::run(&[GPART], words).during(words.join(" "));
    let mut calls = calls(&name, change);
    if calls.is_empty() && change.scheme == Scheme::Gpt {
        // The copies on the medium differ, and nobody knows which of them is GEOM's.
        calls = self::calls(&name, &whole(change));
    }
    if !calls.is_empty() {
        if change.scheme == Scheme::Gpt {
            // A table with a copy that is not whole cannot be changed; of a sound one it says so. It
            // is collected too: each commit writes both copies with no flush between them.
            calls.insert(0, ["recover", "-f", "x", &name].map(str::to_owned).to_vec());
        }
        let _in_order = (change.scheme == Scheme::Gpt).then(|| cache_off(&name));
        let committed = ["commit", &name].map(str::to_owned);
        let done = calls.iter().chain([&committed.to_vec()]).try_for_each(|c| run(c).map(drop));
        if let Err(error) = done {
            // What was collected would be written by whoever commits next, and undo leaves the flags
            // in GEOM's table as they were collected (`g_part_ctl_undo`).
            let undo = ["undo", &name].map(str::to_owned).to_vec();
            for call in self::calls(&name, &change.reversed()).iter().chain([&undo]) {
                if let Err(e) = run(call) {
                    log::debug!("{e}");
                }
            }
            return Err(error.path(medium));
        }
    }
    if let Some((from, to)) = change.boot0.filter(|(from, to)| from != to) {
        log::debug!("boot0 starts {to} instead of {from}");
        command::run(&[BOOT0CFG], &["-s", &to.to_string(), &name]).map_err(|e| e.path(medium))?;
    }
    Ok(())
}

/// A commit writes the primary copy of a GPT and then the backup, with no flush between them: where the
/// disk makes them durable in that order, one of them is always whole.
fn cache_off(disk: &str) -> Option<cache::Off> {
    let told = |e| log::info!("{disk}: its write cache stays as it is: {e}");
    cache::Off::switch(disk).map_err(told).ok().flatten()
}

/// The calls of gpart(8) for the flags of a table.
fn calls(name: &str, change: &Change) -> Vec<Vec<String>> {
    let mut calls = Vec::new();
    let mut call = |verb: &str, attribute: &str, index: u32| {
        let words = format!("{verb} -a {attribute} -i {index} -f x {name}");
        calls.push(words.split(' ').map(str::to_owned).collect());
    };
    // One active slice takes the flag from all others.
    if let Some((index, ..)) = change.changed().find(|(_, from, to)| to.active && !from.active) {
        call("set", "active", index);
    } else {
        for (index, ..) in change.changed().filter(|(_, from, to)| from.active && !to.active) {
            call("unset", "active", index);
        }
    }
    let attributes = |flags: Flags| {
        // bootonce sets bootme too (g_part_gpt_setunset).
        [
            ("bootonce", flags.boot_once),
            ("bootme", flags.boot_me),
            ("bootfailed", flags.boot_failed),
        ]
    };
    for verb in ["unset", "set"] {
        for (index, from, to) in change.changed() {
            for ((attribute, before), (_, after)) in
                attributes(from).into_iter().zip(attributes(to))
            {
                if before != after && after == (verb == "set") {
                    call(verb, attribute, index);
                }
            }
        }
    }
    calls
}

/// The change after which a GPT has the flags of this one, whatever it had before.
fn whole(change: &Change) -> Change {
    let mut change = change.clone();
    for (from, to) in change.entries.values_mut() {
        *from = Flags {
            boot_me: !to.boot_me,
            boot_once: !to.boot_once,
            boot_failed: !to.boot_failed,
            ..*to
        };
    }
    change
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_table_is_written_whole() {
        let me = Flags { boot_me: true, ..Flags::default() };
        let entries = [(2, (me, me))].into();
        let change = whole(&Change { scheme: Scheme::Gpt, entries, boot0: None });
        let told: Vec<_> = calls("da0", &change).iter().map(|c| c.join(" ")).collect();
        assert_eq!(
            told,
            [
                "unset -a bootonce -i 2 -f x da0",
                "unset -a bootfailed -i 2 -f x da0",
                "set -a bootme -i 2 -f x da0",
            ]
        );
    }

    #[test]
    fn what_gpart_is_told() {
        let me = Flags { boot_me: true, ..Flags::default() };
        let once = Flags { boot_once: true, ..me };
        let failed = Flags { boot_failed: true, ..Flags::default() };
        let active = Flags { active: true, ..Flags::default() };
        let told = |scheme, entries: &[(u32, Flags, Flags)]| {
            let entries = entries.iter().map(|&(index, from, to)| (index, (from, to))).collect();
            let calls = calls("da0", &Change { scheme, entries, boot0: None });
            calls.iter().map(|c| c.join(" ")).collect::<Vec<_>>()
        };
        let none = Flags::default();
        assert_eq!(told(Scheme::Gpt, &[(2, me, me), (3, none, none)]), [""; 0]);
        assert_eq!(
            told(Scheme::Gpt, &[(2, me, none), (3, failed, once)]),
            [
                "unset -a bootme -i 2 -f x da0",
                "unset -a bootfailed -i 3 -f x da0",
                "set -a bootonce -i 3 -f x da0",
                "set -a bootme -i 3 -f x da0",
            ]
        );
        assert_eq!(
            told(Scheme::Mbr, &[(1, active, none), (2, none, active)]),
            ["set -a active -i 2 -f x da0"]
        );
        assert_eq!(
            told(Scheme::Mbr, &[(1, active, active), (2, active, none)]),
            ["unset -a active -i 2 -f x da0"]
        );
    }
}
