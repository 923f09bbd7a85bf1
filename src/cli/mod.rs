//! The command line: arguments in, text or JSON out.

pub mod args;
pub mod bar;
pub mod display;
pub mod logger;
pub mod output;
pub mod run;
pub mod stdout;
