//! dualroot keeps the other root of a dual-root FreeBSD appliance bootable.
//!
//! ```text
//! cli      arguments, text and JSON, progress, exit codes
//! ops      a file or a folder for each verb: observe, plan, execute, report
//! engine   copy: the streaming core, tree copy, verify; ufs; generic over Read, Write and Dir
//! domain   device, slot, plan, mounts, table, record, finding: values in, values out
//! system   sys: the only place with cfg(target_os), unsafe, processes, mounts and devices
//! ```
//!
//! Who is above uses who is below; domain and system know each other's plain types (`Mount`, `Dir`,
//! `Drawing`), and nothing of what is above them.

pub mod cli;
pub mod copy;
pub mod device;
pub mod error;
pub mod finding;
pub mod mounts;
pub mod ops;
pub mod plan;
pub mod record;
pub mod slot;
#[allow(unsafe_code)] // one call per block, each with its SAFETY line
pub mod sys;
pub mod table;
pub mod ufs;
