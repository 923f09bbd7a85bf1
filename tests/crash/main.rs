//! Every moment at which the power can go, of every verb that writes, on the machine in memory.
//!
//! A verb runs once and the machine keeps each state that it comes through ([`Machine::film`]). For
//! each of them the power goes: with every write lost that nobody flushed, with none, with each
//! single one lost, with each single one kept, and with seeded random ones. `cut.rs` does that,
//! `judge.rs` says what must hold then, `verb.rs` lists the verbs. A violation is told with its cut,
//! `VERB:STEP:CLASS:SEED`, and `DUALROOT_CUT` set to that looks at this one again:
//!
//! ```text
//! DUALROOT_CUT=snapshot:41:lost:7 cargo test --test crash one_cut -- --nocapture
//! ```
//!
//! [`Machine::film`]: dualroot::sys::fake::Machine::film

mod broken;
mod cut;
mod judge;
mod machine;
mod verb;

use cut::{Cut, explore};
use verb::VERBS;

/// A test for each verb, so that they run side by side.
macro_rules! verbs {
    ($($test:ident $name:literal),+ $(,)?) => {
        $(#[test]
        fn $test() {
            explore(verb::find($name)).told($name);
        })+

        #[test]
        fn every_verb_has_its_test() {
            let mut names = vec![$($name),+];
            let mut verbs: Vec<_> = VERBS.iter().map(|v| v.name).collect();
            names.sort_unstable();
            verbs.sort_unstable();
            assert_eq!(names, verbs);
        }
    };
}

verbs! {
    a_first_snapshot "first",
    a_snapshot_over_a_copy "snapshot",
    a_copy_brought_up_to_date "refresh",
    a_copy_brought_up_to_date_where_it_changed "refresh-changed",
    a_snapshot_of_the_root_alone "root",
    a_snapshot_of_the_config_alone "config",
    a_first_copy_of_blocks "block-first",
    a_copy_of_blocks_over_an_older_one "block",
    a_copy_of_blocks_over_a_tree "block-over-tree",
    a_copy_of_the_blocks_of_a_root_that_is_read_only "block-read-only",
    a_snapshot_onto_a_new_table "partition",
    cleaning_up "clean",
    keeping_tables "table-save",
    repairing_tables "table-restore",
    repairing_both_copies_of_a_gpt "table-restore-gpt",
    repairing_a_gpt_of_which_the_primary_is_whole "table-restore-gpt-primary",
    repairing_a_gpt_of_which_the_backup_is_whole "table-restore-gpt-backup",
}

/// Looks at the cut that `DUALROOT_CUT` names. Without one, at the first of them all.
#[test]
fn one_cut() {
    let text = std::env::var("DUALROOT_CUT").unwrap_or_else(|_| "snapshot:0:all:0".to_owned());
    let cut = Cut::parse(&text).unwrap_or_else(|| panic!("{text} is no VERB:STEP:CLASS:SEED"));
    cut.replay().told(&text);
}
