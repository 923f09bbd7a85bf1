//! The verbs on a machine in memory: every failure, every signal and every loss of power that a
//! run can meet, one after the other.

mod blocks;
mod changes;
mod failures;
#[path = "../findings/mod.rs"]
mod findings;
mod judge;
mod machine;
mod plain;
mod power;
mod refusals;
mod tables;
