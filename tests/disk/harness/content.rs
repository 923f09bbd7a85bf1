//! Content, and what it comes to.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fmt::Write as _;
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};

use sha2::{Digest, Sha256};

/// Bytes that repeat nowhere, another sequence for every seed.
pub fn pattern(length: usize, seed: usize) -> Vec<u8> {
    let mut state = (seed as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut bytes = Vec::with_capacity(length + 8);
    while bytes.len() < length {
        // xorshift64*
        state ^= state >> 12;
        state ^= state << 25;
        state ^= state >> 27;
        bytes.extend_from_slice(&state.wrapping_mul(0x2545_f491_4f6c_dd1d).to_le_bytes());
    }
    bytes.truncate(length);
    bytes
}

/// Hexadecimal.
pub fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |mut text, byte| {
        write!(text, "{byte:02x}").unwrap();
        text
    })
}

/// Everything below a directory on the same file system, told by path: type, mode, owner, times
/// and content, but no access times, and without the journal. For trees of ordinary depth.
pub fn fingerprint(dir: &Path) -> BTreeMap<PathBuf, String> {
    let mut found = BTreeMap::new();
    let device = fs::symlink_metadata(dir).unwrap().dev();
    let mut left = vec![dir.to_path_buf()];
    while let Some(path) = left.pop() {
        // What the box knows of its slots is no part of one.
        if path.strip_prefix(dir) == Ok(Path::new("var/db/dualroot")) {
            continue;
        }
        let meta = fs::symlink_metadata(&path).unwrap();
        let kind = meta.file_type();
        let mut text = format!(
            "{:o} {}:{} {} {}.{:09}",
            meta.permissions().mode(),
            meta.uid(),
            meta.gid(),
            meta.rdev(),
            meta.mtime(),
            meta.mtime_nsec()
        );
        if kind.is_file() {
            let digest = Sha256::digest(fs::read(&path).unwrap());
            write!(text, " {} {}", meta.nlink(), hex(&digest)).unwrap();
        } else if kind.is_symlink() {
            write!(text, " -> {}", fs::read_link(&path).unwrap().display()).unwrap();
        } else if kind.is_dir() && meta.dev() == device {
            left.extend(fs::read_dir(&path).unwrap().map(|e| e.unwrap().path()));
        }
        found.insert(path.strip_prefix(dir).unwrap().to_path_buf(), text);
    }
    found
}

/// The beginning of a file-system label that no other disk of this machine has, 8 bytes at most. A
/// test must not use a plain `root1`: the program finds a label on whatever disk it is.
pub fn unique() -> String {
    static COUNT: AtomicUsize = AtomicUsize::new(0);
    format!("{:x}{:x}-", std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed))
}

/// A name of any bytes.
pub fn os(bytes: &[u8]) -> &OsStr {
    OsStr::from_bytes(bytes)
}
