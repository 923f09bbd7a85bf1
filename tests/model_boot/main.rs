//! `boot`, `confirm`, `reject` and `auto-snapshot` on a machine in memory: every failure, every signal
//! and every loss of power, and after each of them something starts.

mod choice;
mod failures;
mod fall_back;
#[path = "../findings/mod.rs"]
mod findings;
mod machine;
mod nextboot;
mod refusals;
mod start;
