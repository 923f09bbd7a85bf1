//! The crate's own unit tests, which `vm/run.sh` sends in as a program beside this one: those of
//! `src/sys/freebsd` have no other system to run on, and some want to be root.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use crate::harness::{End, program, show, tell, watched};

/// All of them together, with the properties' many cases.
const PATIENCE: Duration = Duration::from_secs(420);
/// Cases of a property (proptest): an emulated processor is slow, and Linux runs all 256.
const CASES: &str = "32";

/// Runs those whose names, with `unit::` before them, are wanted; how many did not pass.
pub fn run(wanted: impl Fn(&str) -> bool) -> u32 {
    let given = std::env::var_os("DUALROOT_UNIT");
    let path = given.map_or_else(|| PathBuf::from("unit"), PathBuf::from);
    let begun = Instant::now();
    if !path.exists() {
        tell("unit::program", "FAILED", begun, &format!("there is no {}", path.display()));
        return 1;
    }
    let mut list = program(&path);
    list.args(["--list", "--format", "terse"]);
    let (end, listed) = watched(list, PATIENCE);
    if end != End::Exit(0) {
        tell("unit::program", "FAILED", begun, &format!("no list of tests: {end:?}"));
        show(&listed);
        return 1;
    }
    let names: Vec<&str> = listed.lines().filter_map(|l| l.strip_suffix(": test")).collect();
    let names: Vec<&str> = names.into_iter().filter(|n| wanted(&format!("unit::{n}"))).collect();
    if names.is_empty() {
        return 0;
    }
    println!("begin unit::program");
    let mut tests = program(&path);
    tests.env("RUST_BACKTRACE", "0").env("PROPTEST_CASES", CASES);
    tests.args(["--include-ignored", "--format", "pretty", "--exact"]).args(&names);
    let (end, said) = watched(tests, PATIENCE);
    let verdicts: BTreeMap<&str, &str> = said.lines().filter_map(verdict).collect();
    let mut failed = 0;
    for name in names {
        let full = format!("unit::{name}");
        match verdicts.get(name).copied() {
            Some("ok") => println!("ok {full}"),
            Some(word) if word.starts_with("ignored") => println!("skipped {full}: {word}"),
            // It hung, or took the whole program with it.
            other => {
                failed += 1;
                println!("FAILED {full}: {}", other.unwrap_or("no verdict"));
            }
        }
    }
    // What a test did after its verdict, or the program after the last one.
    if failed == 0 && end != End::Exit(0) {
        failed = 1;
        tell("unit::program", "FAILED", begun, &format!("{end:?}"));
    }
    if failed > 0 {
        let report = said.split_once("\nfailures:\n");
        show(report.map_or(&*said, |(_, report)| report));
    }
    failed
}

/// `test slot::names::tests::twins ... ok`
fn verdict(line: &str) -> Option<(&str, &str)> {
    let (name, verdict) = line.strip_prefix("test ")?.split_once(" ... ")?;
    // With #[should_panic] it is `name - should panic`.
    Some((name.split(" - ").next()?, verdict))
}
