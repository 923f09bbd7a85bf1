//! The engine: streaming with checksums, copying a tree, verifying it. Generic over `Read`,
//! `Write` and [`Dir`](crate::sys::tree::Dir), so that all of it runs without a device.

pub mod attributes;
pub mod beside;
pub mod block;
pub mod census;
pub mod content;
pub mod follow;
pub mod pool;
pub mod progress;
pub mod provenance;
pub mod selection;
pub mod stack;
pub mod stream;
pub mod survey;
pub mod touched;
pub mod tree;
pub mod verify;
