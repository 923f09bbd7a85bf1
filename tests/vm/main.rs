//! The program on a real FreeBSD: memory disks, GEOM's classes, failing media, the kernel's own
//! tools as referees. `vm/run.sh` runs this inside a guest.
//!
//! Arguments are parts of test names. A line is printed for every test: `ok`, `FAILED` or
//! `skipped`, its name, and why; `begin` tells which one a panic of the kernel belongs to.

#[cfg(target_os = "freebsd")]
mod bench;
#[cfg(target_os = "freebsd")]
mod block;
#[cfg(target_os = "freebsd")]
mod boot;
#[cfg(target_os = "freebsd")]
mod check;
#[cfg(target_os = "freebsd")]
mod compare;
#[cfg(target_os = "freebsd")]
mod consistency;
#[cfg(target_os = "freebsd")]
mod disk;
#[cfg(target_os = "freebsd")]
mod fallback;
#[cfg(target_os = "freebsd")]
mod faults;
#[cfg(target_os = "freebsd")]
mod flags;
#[cfg(target_os = "freebsd")]
mod guard;
#[cfg(target_os = "freebsd")]
mod harness;
#[cfg(target_os = "freebsd")]
mod install;
#[cfg(target_os = "freebsd")]
mod medium;
#[cfg(target_os = "freebsd")]
mod nextboot;
#[cfg(target_os = "freebsd")]
mod partition;
#[cfg(target_os = "freebsd")]
mod primary;
#[cfg(target_os = "freebsd")]
mod refresh;
#[cfg(target_os = "freebsd")]
#[path = "../support/run.rs"]
mod run;
#[cfg(target_os = "freebsd")]
mod stale;
#[cfg(target_os = "freebsd")]
mod sweep;
#[cfg(target_os = "freebsd")]
mod table;
#[cfg(target_os = "freebsd")]
mod tree;
#[cfg(target_os = "freebsd")]
mod unit;

#[cfg(not(target_os = "freebsd"))]
fn main() {
    println!("these tests run on FreeBSD only: vm/run.sh");
}

#[cfg(target_os = "freebsd")]
fn main() -> std::process::ExitCode {
    harness::main(&[
        ("bench", bench::TESTS),
        ("tree", tree::TESTS),
        ("block", block::TESTS),
        ("refresh", refresh::TESTS),
        ("guard", guard::TESTS),
        ("stale", stale::TESTS),
        ("faults", faults::TESTS),
        ("consistency", consistency::TESTS),
        ("install", install::TESTS),
        ("table", table::TESTS),
        ("check", check::TESTS),
        ("partition", partition::TESTS),
        ("primary", primary::TESTS),
        ("flags", flags::TESTS),
        ("sweep", sweep::TESTS),
        ("boot", boot::TESTS),
        ("fallback", fallback::TESTS),
        ("nextboot", nextboot::TESTS),
    ])
}
