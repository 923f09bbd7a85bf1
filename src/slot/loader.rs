//! loader.conf(5), rewritten without touching a byte that does not have to change.
//!
//! Of what it assigns, only `vfs.root.mountfrom` is rewritten: a list of `fstype:device`, separated by
//! blanks, that the kernel tries in turn (`vfs_mountroot.c`). The device is everything after the first
//! colon; mount options are another variable's, `vfs.root.mountfrom.options`.

use std::ops::Range;

use crate::error::{Error, Result};

/// The variable that names the root file system.
pub const ROOTS: &str = "vfs.root.mountfrom";

/// Writes loader.conf(5) again, with the root devices that `replace` tells: it sees the device of
/// every specification of every assignment to `vfs.root.mountfrom` (`/dev/da0s1a` of
/// `ufs:/dev/da0s1a`, backslash escapes resolved) and answers the new one, or `None` to leave it.
///
/// The last assignment is the one that counts at boot, but all are rewritten, also those that the
/// loader would complain of. Every other byte stays: comments, spacing, quotes, line ends.
///
/// Fails with [`crate::error::Kind::Refused`], the line in the cause and no path, where a new
/// device cannot be written in this file: empty, with blanks, control characters, `"`, `\` or `$`,
/// or with `#` where the value stands without quotes.
pub fn rewrite(text: &[u8], replace: impl Fn(&[u8]) -> Option<Vec<u8>>) -> Result<Vec<u8>> {
    let mut out = Vec::with_capacity(text.len() + 64);
    let (mut done, mut start) = (0, 0);
    for (line, number) in text.split_inclusive(|&b| b == b'\n').zip(1..) {
        let offset = start;
        start += line.len();
        let Some(value) = value(line, ROOTS) else { continue };
        for device in devices(line, &value) {
            let Some(new) = replace(&unescape(&line[device.clone()])) else { continue };
            if !writable(&new, value.quoted) {
                let new = new.escape_ascii();
                let cause = format!("line {number}: loader.conf(5) cannot hold the device '{new}'");
                return Err(Error::refused(cause));
            }
            out.extend_from_slice(&text[done..offset + device.start]);
            out.extend_from_slice(&new);
            done = offset + device.end;
        }
    }
    out.extend_from_slice(&text[done..]);
    Ok(out)
}

/// The value that the last assignment to a variable gives it, backslash escapes resolved.
pub fn last(text: &[u8], variable: &str) -> Option<Vec<u8>> {
    let lines = text.split_inclusive(|&b| b == b'\n');
    lines.filter_map(|line| Some(unescape(&line[value(line, variable)?.place]))).next_back()
}

/// The devices of a list of `fstype:device`.
pub fn roots(list: &str) -> impl Iterator<Item = &str> {
    list.split_ascii_whitespace().filter_map(|word| Some(word.split_once(':')?.1))
}

/// The value of an assignment: its place in the line, without the quotes.
struct Value {
    place: Range<usize>,
    quoted: bool,
}

/// The value, where the line assigns one to the variable.
fn value(line: &[u8], variable: &str) -> Option<Value> {
    let rest = line.trim_ascii_start().strip_prefix(variable.as_bytes())?.trim_ascii_start();
    let rest = rest.strip_prefix(b"=")?.trim_ascii_start();
    let inside = rest.strip_prefix(b"\"");
    let quoted = inside.is_some();
    let rest = inside.unwrap_or(rest);
    let start = line.len() - rest.len();
    let mut end = start;
    while let Some(&byte) = line.get(end) {
        let ends = if quoted { byte == b'"' } else { byte == b'#' || byte.is_ascii_whitespace() };
        if ends || byte == b'\n' {
            break;
        }
        // The escaped byte is data, unless it is the end of the line.
        let escaped = byte == b'\\' && line.get(end + 1).is_some_and(|&next| next != b'\n');
        end += if escaped { 2 } else { 1 };
    }
    Some(Value { place: start..end, quoted })
}

/// The places of the devices in the value: what follows the first colon of each word.
fn devices(line: &[u8], value: &Value) -> impl Iterator<Item = Range<usize>> {
    let Range { start: mut at, end } = value.place.clone();
    std::iter::from_fn(move || {
        loop {
            let start = at + line[at..end].iter().position(|b| !b.is_ascii_whitespace())?;
            let word = &line[start..end];
            let length = word.iter().position(u8::is_ascii_whitespace).unwrap_or(word.len());
            at = start + length;
            if let Some(colon) = word[..length].iter().position(|&b| b == b':') {
                // The backslash before a blank is the blank's: without it the value would end there.
                let slashes = word[..length].iter().rev().take_while(|&&b| b == b'\\').count();
                let escapes = usize::from(at < end && slashes % 2 == 1);
                return Some(start + colon + 1..at - escapes);
            }
        }
    })
}

/// Resolves backslash escapes as the loader does: each stands for the byte behind it.
fn unescape(device: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(device.len());
    let mut bytes = device.iter();
    while let Some(&byte) = bytes.next() {
        out.push(if byte == b'\\' { *bytes.next().unwrap_or(&byte) } else { byte });
    }
    out
}

/// Whether a device can stand in a value as it is, for every generation of the loader.
pub fn writable(device: &[u8], quoted: bool) -> bool {
    let special: &[u8] = if quoted { b" \"\\$" } else { b" \"\\$#" };
    !device.is_empty() && !device.iter().any(|b| b.is_ascii_control() || special.contains(b))
}

#[cfg(test)]
mod tests {
    use std::cell::RefCell;

    use proptest::prelude::*;

    use super::*;
    use crate::error::Kind;

    /// Found by the fuzzer: the value went on behind the blank, and ended there once rewritten.
    #[test]
    fn the_escape_of_a_blank_stays() {
        let text = b"vfs.root.mountfrom=ufs:/dev/a\\ ufs:/dev/b\\\\ x\n";
        let new = rewrite(text, |_| Some(b"/dev/c".to_vec())).unwrap();
        assert_eq!(new, b"vfs.root.mountfrom=ufs:/dev/c\\ ufs:/dev/c x\n");
    }

    /// The devices that the file names, in order.
    fn seen(text: &[u8]) -> Vec<Vec<u8>> {
        let seen = RefCell::new(Vec::new());
        let same = rewrite(text, |device| {
            seen.borrow_mut().push(device.to_vec());
            None
        });
        assert_eq!(same.unwrap(), text);
        seen.into_inner()
    }

    fn second(device: &[u8]) -> Option<Vec<u8>> {
        (device == b"/dev/da0s1a").then(|| b"/dev/da0s2a".to_vec())
    }

    #[test]
    fn assignments_are_rewritten_and_nothing_else() {
        let cases = [
            (
                "vfs.root.mountfrom=\"ufs:/dev/da0s1a\"\n",
                "vfs.root.mountfrom=\"ufs:/dev/da0s2a\"\n",
            ),
            (
                "\t vfs.root.mountfrom \t= \"ufs:/dev/da0s1a\"  # ufs:/dev/da0s1a\r\n",
                "\t vfs.root.mountfrom \t= \"ufs:/dev/da0s2a\"  # ufs:/dev/da0s1a\r\n",
            ),
            ("vfs.root.mountfrom=ufs:/dev/da0s1a", "vfs.root.mountfrom=ufs:/dev/da0s2a"),
            ("vfs.root.mountfrom=ufs:/dev/da0s1a#c", "vfs.root.mountfrom=ufs:/dev/da0s2a#c"),
            ("vfs.root.mountfrom=ufs:/dev/da0s1a\r\n", "vfs.root.mountfrom=ufs:/dev/da0s2a\r\n"),
            (
                "vfs.root.mountfrom=\"ufs:/dev/da0s1a  ufs:/dev/ufs/x\tufs:/dev/da0s1a \"",
                "vfs.root.mountfrom=\"ufs:/dev/da0s2a  ufs:/dev/ufs/x\tufs:/dev/da0s2a \"",
            ),
            // Both count as written; the loader takes the last.
            (
                "vfs.root.mountfrom=\"ufs:/dev/da0s1a\"\nvfs.root.mountfrom=\"ufs:/dev/da0s1a\"\n",
                "vfs.root.mountfrom=\"ufs:/dev/da0s2a\"\nvfs.root.mountfrom=\"ufs:/dev/da0s2a\"\n",
            ),
            // Malformed for the loader, and still no reason to name the wrong root.
            ("vfs.root.mountfrom=\"ufs:/dev/da0s1a\n", "vfs.root.mountfrom=\"ufs:/dev/da0s2a\n"),
            (
                "vfs.root.mountfrom=\"ufs:/dev/da0s1a\" x\n",
                "vfs.root.mountfrom=\"ufs:/dev/da0s2a\" x\n",
            ),
        ];
        for (text, expected) in cases {
            let out = rewrite(text.as_bytes(), second).unwrap();
            assert_eq!(String::from_utf8(out).unwrap(), expected);
        }
    }

    #[test]
    fn other_lines_stay() {
        let cases: [&[u8]; 10] = [
            b"",
            b"#vfs.root.mountfrom=\"ufs:/dev/da0s1a\"\n",
            b"vfs.root.mountfrom.options=\"rw:/dev/da0s1a\"\n",
            b"xvfs.root.mountfrom=\"ufs:/dev/da0s1a\"\n",
            b"vfs.root.mountfrom_old=\"ufs:/dev/da0s1a\"\n",
            b"vfs.root.mountfrom\n=\"ufs:/dev/da0s1a\"\n",
            b"vfs.root.mountfrom=\n\"ufs:/dev/da0s1a\"\n",
            b"vfs.root.mountfrom=\"/dev/da0s1a\"\n",
            b"vfs.root.mountfrom=\"\"ufs:/dev/da0s1a\n",
            b"kernel=\"ufs:/dev/da0s1a\" \xff\xfe\0\r\r\n",
        ];
        for text in cases {
            let all = |_: &[u8]| Some(b"/dev/da9".to_vec());
            assert_eq!(rewrite(text, all).unwrap(), text, "{}", text.escape_ascii());
        }
    }

    #[test]
    fn devices_are_what_follows_the_first_colon() {
        let text = b"vfs.root.mountfrom=\"zfs:zroot/ROOT/default nfs:10.0.0.1:/export ufs: x\"\n\
            vfs.root.mountfrom=\"ufs:/dev/ufs/a\\\"b\\\\\"\n\
            vfs.root.mountfrom=ufs:\xff#\nvfs.root.mountfrom=\"cd9660:/dev/cd0\\\n";
        let expected: [&[u8]; 6] = [
            b"zroot/ROOT/default",
            b"10.0.0.1:/export",
            b"",
            b"/dev/ufs/a\"b\\",
            b"\xff",
            b"/dev/cd0\\",
        ];
        assert_eq!(seen(text), expected);
    }

    #[test]
    fn devices_that_the_file_cannot_hold_are_refused() {
        for new in ["", "a b", "a\tb", "a\nb", "a\"b", "a\\b", "a\0b", "${currdev}"] {
            let error = rewrite(b"\nvfs.root.mountfrom=\"ufs:/dev/da0s1a\"", |_| Some(new.into()))
                .unwrap_err();
            assert_eq!(error.kind, Kind::Refused);
            let message = format!(
                "line 2: loader.conf(5) cannot hold the device '{}'",
                new.as_bytes().escape_ascii()
            );
            assert_eq!(error.to_string(), message);
        }
        let hash = |_: &[u8]| Some(b"a#b".to_vec());
        assert_eq!(
            rewrite(b"vfs.root.mountfrom=\"ufs:x\"", hash).unwrap(),
            b"vfs.root.mountfrom=\"ufs:a#b\""
        );
        assert!(rewrite(b"vfs.root.mountfrom=ufs:x", hash).is_err());
    }

    /// Files made of pieces that mean something to the parser, and of any bytes.
    fn config() -> impl Strategy<Value = Vec<u8>> {
        let pieces: Vec<&[u8]> = vec![
            b"vfs.root.mountfrom",
            b"vfs.root.mountfrom=\"ufs:/dev/da0s1a ",
            b"=",
            b"\"",
            b" ",
            b"\t",
            b"\n",
            b"\r\n",
            b"#",
            b"\\",
            b"ufs:/dev/da0s1a",
            b"zfs:x",
            b":",
        ];
        let piece = prop_oneof![
            8 => proptest::sample::select(pieces).prop_map(<[u8]>::to_vec),
            1 => proptest::collection::vec(any::<u8>(), 0..4),
        ];
        proptest::collection::vec(piece, 0..24).prop_map(|pieces| pieces.concat())
    }

    proptest! {
        #[test]
        fn nothing_replaced_is_the_same_file(text in config()) {
            seen(&text); // checks it
        }

        #[test]
        fn a_replaced_device_reads_back(
            text in config(),
            new in "[!%-\\[\\]-~]{1,12}",
            which in any::<proptest::sample::Index>(),
        ) {
            let text = [&text[..], b"\nvfs.root.mountfrom=\"ufs:/dev/da0s1a\" # the last\n"].concat();
            let mut expected = seen(&text);
            let chosen = which.index(expected.len());
            let count = RefCell::new(0);
            let out = rewrite(&text, |_| {
                let n = count.replace_with(|n| *n + 1);
                (n == chosen).then(|| new.clone().into_bytes())
            });
            expected[chosen].clone_from(&new.into_bytes());
            prop_assert_eq!(seen(&out.unwrap()), expected);
        }
    }
}
