//! The verbs that write. Another one is an entry of [`VERBS`] and a line in `main.rs`.

use dualroot::error::Error;
use dualroot::ops::snapshot::Options;
use dualroot::ops::snapshot::repartition;
use dualroot::ops::{clean, table};
use dualroot::plan::partition::Sizes;
use dualroot::plan::size::Size;
use dualroot::plan::{Method, Reading};
use dualroot::slot::Part;
use dualroot::sys::fake::Machine;

use crate::judge::{Copy, HERE};
use crate::machine::{self, session, snapshot};

/// A verb, and what it has to do.
#[derive(Clone, Copy)]
pub struct Verb {
    pub name: &'static str,
    /// The machine that it begins with.
    pub before: fn() -> Machine,
    pub run: fn(&Machine) -> Result<(), Error>,
    /// Where the copy is, or is to be.
    pub copy: Copy,
    /// What is done after the power came back.
    pub again: fn(&Machine) -> Result<(), Error>,
    /// Whether the job is done when it is, without that.
    pub ends: bool,
    /// Whether the copy is no file system before it is whole.
    pub at_once: bool,
    /// The parts of the copy that are as the source is when that is done. Their file systems are
    /// made anew.
    pub renews: &'static [Part],
    /// What is not as it is to be when that is done, besides.
    pub done: fn(&Machine) -> Vec<String>,
}

const BOTH: &[Part] = &[Part::Root, Part::Config];

pub const VERBS: [Verb; 17] = [
    Verb { name: "first", before: machine::blank, ..SNAPSHOT },
    SNAPSHOT,
    Verb { name: "refresh", run: refreshed, ..SNAPSHOT },
    Verb { name: "refresh-changed", run: refreshed_where_changed, ..SNAPSHOT },
    Verb { name: "root", run: root, again: root_again, renews: &[Part::Root], ..SNAPSHOT },
    Verb { name: "config", run: config, again: config_again, renews: &[Part::Config], ..SNAPSHOT },
    Verb { name: "block-first", before: machine::bare, ..BLOCK },
    BLOCK,
    Verb { name: "block-over-tree", before: machine::copied, ..BLOCK },
    Verb { name: "block-read-only", before: machine::read_only, ..BLOCK },
    Verb {
        name: "partition",
        before: machine::two_disks,
        run: partitioned,
        again: partitioned,
        copy: Copy { medium: Some("da1"), root: "da1s1a", config: "da1s4d" },
        done: |m| {
            let table = m.world(|w| w.table("da1").clone());
            let flag = table[446] == 0x80 && table[510] == 0x55;
            if flag { vec![] } else { vec!["da1 has no active slice".to_owned()] }
        },
        ..SNAPSHOT
    },
    Verb {
        name: "clean",
        before: machine::littered,
        run: cleaned,
        again: |m| cleaned(m).and_then(|()| whole_again(m)),
        ends: false,
        ..SNAPSHOT
    },
    Verb {
        name: "table-save",
        before: machine::forgotten,
        run: saved,
        again: saved,
        renews: &[],
        ..SNAPSHOT
    },
    RESTORE,
    Verb { name: "table-restore-gpt", before: machine::renamed, ..RESTORE_GPT },
    Verb { name: "table-restore-gpt-primary", before: machine::renamed_primary, ..RESTORE_GPT },
    Verb { name: "table-restore-gpt-backup", before: machine::renamed_backup, ..RESTORE_GPT },
];

const SNAPSHOT: Verb = Verb {
    name: "snapshot",
    before: machine::copied,
    run: whole,
    again: whole_again,
    ends: true,
    at_once: false,
    copy: HERE,
    renews: BOTH,
    done: |_| vec![],
};

/// Over an older copy that was made by its blocks: those that agree are not written.
const BLOCK: Verb = Verb {
    name: "block",
    before: machine::copied_by_blocks,
    run: by_blocks,
    again: by_blocks_again,
    at_once: true,
    ..SNAPSHOT
};

const RESTORE: Verb = Verb {
    name: "table-restore",
    before: machine::torn,
    run: restored,
    again: restored,
    copy: Copy { medium: None, root: "da1s1", config: "da0s4" },
    renews: &[],
    done: |m| match table::check::run(m, &session(m, None), table::Choice::default()) {
        Ok(report) if report.differences.is_empty() => vec![],
        other => vec![format!("after the repair: {other:?}")],
    },
    ..SNAPSHOT
};

const RESTORE_GPT: Verb =
    Verb { copy: Copy { medium: None, root: "da1p1", config: "da0s4" }, ..RESTORE };

/// The next run is told to copy over whatever there is: then it does not look at it, and one run
/// stands for all states that differ in it.
const OVER: Options = Options {
    partition: None,
    force: true,
    repair: false,
    dry_run: false,
    only: None,
    factory: false,
    fresh: true,
    reading: Reading::Full,
    method: Method::Auto,
};

/// Into new file systems.
const ANEW: Options = Options { force: false, ..OVER };

fn whole(machine: &Machine) -> Result<(), Error> {
    snapshot(machine, None, ANEW)
}

fn refreshed(machine: &Machine) -> Result<(), Error> {
    snapshot(machine, None, Options::default())
}

fn refreshed_where_changed(machine: &Machine) -> Result<(), Error> {
    snapshot(machine, None, Options { reading: Reading::Changed, ..Options::default() })
}

fn whole_again(machine: &Machine) -> Result<(), Error> {
    snapshot(machine, None, OVER)
}

fn by_blocks(machine: &Machine) -> Result<(), Error> {
    snapshot(machine, None, machine::BLOCKS)
}

/// It compares with what is there, where that is a copy.
fn by_blocks_again(machine: &Machine) -> Result<(), Error> {
    snapshot(machine, None, Options { force: true, ..machine::BLOCKS })
}

fn root(machine: &Machine) -> Result<(), Error> {
    snapshot(machine, None, Options { only: Some(Part::Root), ..ANEW })
}

fn root_again(machine: &Machine) -> Result<(), Error> {
    snapshot(machine, None, Options { only: Some(Part::Root), ..OVER })
}

fn config(machine: &Machine) -> Result<(), Error> {
    snapshot(machine, None, Options { only: Some(Part::Config), ..ANEW })
}

fn config_again(machine: &Machine) -> Result<(), Error> {
    snapshot(machine, None, Options { only: Some(Part::Config), ..OVER })
}

fn partitioned(machine: &Machine) -> Result<(), Error> {
    let mb = |n: u64| Some(Size::Bytes(n * machine::MB));
    let sizes = Sizes { root: mb(2), config: mb(2), data: None, swap: mb(0) };
    let partition = Some(repartition::Options { scheme: None, sizes, as_primary: false });
    snapshot(machine, Some("da1"), Options { partition, ..Options::default() })
}

fn cleaned(machine: &Machine) -> Result<(), Error> {
    clean::run(machine, &session(machine, None), false).map(drop)
}

fn saved(machine: &Machine) -> Result<(), Error> {
    table::save::run(machine, &session(machine, None)).map(drop)
}

fn restored(machine: &Machine) -> Result<(), Error> {
    let choice = table::Choice { medium: Some("da1"), file: None };
    table::restore::run(machine, &session(machine, None), choice, false, &mut |_| {}).map(drop)
}

pub fn find(name: &str) -> Verb {
    VERBS.into_iter().find(|v| v.name == name).unwrap_or_else(|| panic!("no verb {name}"))
}
