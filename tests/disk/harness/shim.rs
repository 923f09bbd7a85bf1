//! What is laid under the program: failing calls, and calls held back.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use super::tool;

/// A library laid under the program (`LD_PRELOAD`), so that a test can stop it at an exact place
/// without any hook in it. `SHIM_PAUSE` names what to stop before, once: `mount-ro`, `mount-rw`,
/// `umount`, `open`, `create`, `rename` (the new name), `read`, `write`, `fsync`, `syncfs`, `flock`
/// or `spawn` (the last argument), of the path that ends with `SHIM_PATH`, the first `SHIM_AFTER`
/// of these calls not counted; then the file `SHIM_DIR/paused` is there, until the test makes
/// `SHIM_DIR/go`. `SHIM_FAIL` names the same; that one call then fails with `SHIM_ERRNO`.
/// `SHIM_DISTURB` is `grow` or `change`: the file at `SHIM_PATH` then gets a byte more, or another
/// first byte, before each read of it.
const SHIM: &str = include_str!("shim.c");

/// The shim's library, built once.
pub fn shim() -> &'static Path {
    static PATH: OnceLock<PathBuf> = OnceLock::new();
    PATH.get_or_init(|| {
        let dir = Path::new(env!("CARGO_TARGET_TMPDIR"));
        // Under another name first: two test processes may build it at once.
        let build = tempfile::Builder::new().prefix("shim.").tempdir_in(dir).unwrap();
        let (source, made) = (build.path().join("shim.c"), build.path().join("shim.so"));
        fs::write(&source, SHIM).unwrap();
        tool("cc", &[&"-shared", &"-fPIC", &"-O1", &"-o", &made, &source, &"-ldl"]);
        let library = dir.join("shim.so");
        fs::rename(&made, &library).unwrap();
        library
    })
}
