//! The program on real disks: images on loop devices, with partition tables and file systems that
//! the system's own tools made. A test that cannot run here says why and is counted by
//! `scripts/test.sh` (see [`harness::ready`]).
#![cfg(target_os = "linux")]

mod attributes;
mod auto_snapshot;
mod block;
mod boot;
mod check;
mod covered;
mod discovery;
mod factory;
mod faults;
mod fit;
mod harness;
mod hostile;
mod lock;
mod main_job;
mod medium;
mod partition;
mod partitions;
mod points;
mod powercut;
mod primary;
mod recorder;
mod refresh;
mod rewritten;
#[path = "../support/run.rs"]
mod run;
mod signals;
mod stale;
mod stdout;
mod table;
mod verify;
