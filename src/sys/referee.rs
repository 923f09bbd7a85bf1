//! Programs of the platform that judge what the parsers of [`crate::table`] read and what its writers
//! make. Linux and FreeBSD have different ones: each has a module of its own with their tests.

use std::io::Write;
use std::process::{Command, Stdio};

/// Runs a tool of the test machine and panics if it is missing or fails: a table that nobody
/// else made proves nothing. Its stdout.
#[allow(clippy::disallowed_methods, reason = "tests run foreign tools; sys::command is above")]
pub(super) fn tool(program: &str, arguments: &[&str], input: &str) -> String {
    let path = std::env::var("PATH").unwrap_or_default();
    let mut child = Command::new(program)
        .args(arguments)
        .env("PATH", format!("{path}:/usr/sbin:/sbin"))
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap_or_else(|e| panic!("{program} is needed by this test: {e}"));
    child.stdin.take().unwrap().write_all(input.as_bytes()).unwrap();
    let output = child.wait_with_output().unwrap();
    assert!(output.status.success(), "{program}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}
