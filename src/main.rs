//! The `dualroot` program; everything is in the library.

use std::process::ExitCode;

fn main() -> ExitCode {
    dualroot::cli::run::main()
}
