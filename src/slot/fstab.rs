//! fstab(5), read and rewritten without touching a byte that does not have to change.

use std::ops::Range;

use crate::error::{Error, Result};

/// Fields that getfsent(3) asks for: device, mount point, type and options.
const FIELDS: usize = 4;

/// One file system of fstab(5). The dump frequency and the pass number are left out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// The device or remote file system, decoded: `/dev/da0s1a`.
    pub spec: Vec<u8>,
    /// The mount point, decoded: `/config`; `none` for swap.
    pub file: Vec<u8>,
    /// The type: `ufs`. Bytes that are no UTF-8 become U+FFFD.
    pub fs: String,
    /// The options, separated by commas: `rw,noatime`. Bytes that are no UTF-8 become U+FFFD.
    pub options: String,
    /// The line, counted from 1.
    pub line: usize,
}

/// Reads fstab(5): fields separated by blanks and tabs, lines ended by LF or CR LF, empty lines
/// and lines that start with `#` skipped, a `#` inside a field being data. What follows the fourth
/// field is not looked at.
///
/// Device and mount point are decoded as strunvis(3) does (`\040`, `\\`, `\s`, …), except that a
/// backslash with no meaning stands for itself, as on Linux.
///
/// A line with one to three fields is an error of kind [`crate::error::Kind::Refused`] whose cause
/// names the line; the caller adds the path. So is the old form separated by colons, which
/// getfsent(3) still takes.
pub fn parse(text: &[u8]) -> Result<Vec<Entry>> {
    entries(text).map(|entry| entry.map(|(entry, _)| entry)).collect()
}

/// The same for whoever tells of every line that makes no sense: those that do, and what [`parse`]
/// says of the others.
pub fn parse_lines(text: &[u8]) -> (Vec<Entry>, Vec<Error>) {
    let (mut good, mut wrong) = (Vec::new(), Vec::new());
    for entry in entries(text) {
        match entry {
            Ok((entry, _)) => good.push(entry),
            Err(error) => wrong.push(error),
        }
    }
    (good, wrong)
}

/// What becomes of an entry.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Change {
    /// It stays.
    Keep,
    /// It gets this device, not encoded.
    Device(Vec<u8>),
    /// It becomes a comment.
    Comment,
}

/// Writes fstab(5) again, each entry as `change` tells.
///
/// Only the bytes of first fields change; comments, spacing, line ends, a missing last line feed
/// and bytes that are no UTF-8 stay. Blanks are written as `\040`, a backslash as `\134`.
///
/// Fails as [`parse`] does, and, with the same kind, on a new device that is empty or has a NUL.
pub fn rewrite(text: &[u8], change: impl Fn(&Entry) -> Change) -> Result<Vec<u8>> {
    let mut out = Vec::with_capacity(text.len() + 64);
    let mut done = 0;
    for entry in entries(text) {
        let (entry, spec) = entry?;
        let change = change(&entry);
        if change == Change::Keep {
            continue;
        }
        out.extend_from_slice(&text[done..spec.start]);
        done = spec.start;
        if let Change::Device(new) = change {
            encode(&new, &mut out).map_err(|cause| refused(entry.line, cause))?;
            done = spec.end;
        } else {
            out.push(b'#');
        }
    }
    out.extend_from_slice(&text[done..]);
    Ok(out)
}

/// The entries, each with the place of its first field in `text`.
fn entries(text: &[u8]) -> impl Iterator<Item = Result<(Entry, Range<usize>)>> {
    let mut start = 0;
    text.split_inclusive(|&b| b == b'\n').zip(1..).filter_map(move |(line, number)| {
        let offset = start;
        start += line.len();
        entry(line, number, offset).transpose()
    })
}

/// The entry of a line that starts at `offset`; `None` for an empty line or a comment.
fn entry(line: &[u8], number: usize, offset: usize) -> Result<Option<(Entry, Range<usize>)>> {
    let line = line.strip_suffix(b"\n").unwrap_or(line);
    let line = line.strip_suffix(b"\r").unwrap_or(line);
    let mut fields = [const { 0..0 }; FIELDS];
    let mut found = 0;
    for (slot, field) in fields.iter_mut().zip(ranges(line)) {
        *slot = field;
        found += 1;
    }
    let [spec, file, fs, options] = fields;
    if found == 0 || line[spec.start] == b'#' {
        return Ok(None);
    }
    if found < FIELDS {
        let fields = if found == 1 { "field" } else { "fields" };
        return Err(refused(number, &format!("{found} {fields} where fstab(5) needs {FIELDS}")));
    }
    let text = |field: Range<usize>| String::from_utf8_lossy(&line[field]).into_owned();
    let entry = Entry {
        spec: decode(&line[spec.clone()]),
        file: decode(&line[file]),
        fs: text(fs),
        options: text(options),
        line: number,
    };
    Ok(Some((entry, offset + spec.start..offset + spec.end)))
}

/// The places of the fields in a line.
fn ranges(line: &[u8]) -> impl Iterator<Item = Range<usize>> {
    let mut end = 0;
    std::iter::from_fn(move || {
        let start = end + line[end..].iter().position(|&b| !is_blank(b))?;
        end = line[start..].iter().position(|&b| is_blank(b)).map_or(line.len(), |n| start + n);
        Some(start..end)
    })
}

fn is_blank(byte: u8) -> bool {
    byte == b' ' || byte == b'\t'
}

fn refused(line: usize, cause: &str) -> Error {
    Error::refused(format!("line {line}: {cause}"))
}

/// Reads what vis(3) wrote: one to three octal digits or a letter after a backslash.
fn decode(field: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(field.len());
    let mut rest = field;
    while let [first, tail @ ..] = rest {
        rest = tail;
        if *first != b'\\' {
            out.push(*first);
            continue;
        }
        let digits = rest.iter().take(3).take_while(|b| (b'0'..=b'7').contains(b)).count();
        if digits > 0 {
            // Three digits can tell more than a byte holds; strunvis(3) drops the upper bits.
            out.push(rest[..digits].iter().fold(0, |n: u8, b| (n << 3) | (b - b'0')));
            rest = &rest[digits..];
            continue;
        }
        let meaning = rest.first().and_then(|letter| {
            let letters = b"\\stnrbavfE";
            let bytes = b"\\ \t\n\r\x08\x07\x0b\x0c\x1b";
            letters.iter().position(|l| l == letter).map(|n| bytes[n])
        });
        match meaning {
            Some(byte) => {
                out.push(byte);
                rest = &rest[1..];
            }
            None => out.push(b'\\'),
        }
    }
    out
}

/// Writes a device so that [`decode`], getfsent(3) and Linux's readers tell the same again.
fn encode(spec: &[u8], out: &mut Vec<u8>) -> std::result::Result<(), &'static str> {
    if spec.is_empty() {
        return Err("the new device has no name");
    }
    if spec.contains(&0) {
        return Err("the new device's name has a NUL");
    }
    for (n, &byte) in spec.iter().enumerate() {
        // A first `#` would make the line a comment.
        if b" \t\n\r\\".contains(&byte) || (n == 0 && byte == b'#') {
            out.extend_from_slice(format!("\\{byte:03o}").as_bytes());
        } else {
            out.push(byte);
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::error::Kind;

    const EXAMPLE: &[u8] = b"# Device\tMountpoint\tFStype\tOptions\tDump\tPass#\r\n\
        /dev/da0s1a\t\t/\t\tufs\trw\t\t1\t1\r\n\
        \n\
        \x20 /dev/ufs/my\\040disk  /mnt/a\\011b ufs ro,noauto # old disk\n\
        \t# caf\xe9\n\
        /dev/da0s4d /config ufs rw,noatime 2\n\
        md /tmp mfs rw,-s=10m,label=#1\xff 0 0\r\n\
        \r\n\
        /dev/da0s3b none swap sw 0 0";

    fn entry(spec: &str, file: &str, fs: &str, options: &str, line: usize) -> Entry {
        Entry { spec: spec.into(), file: file.into(), fs: fs.into(), options: options.into(), line }
    }

    #[test]
    fn fields_are_those_of_getfsent() {
        assert_eq!(
            parse(EXAMPLE).unwrap(),
            [
                entry("/dev/da0s1a", "/", "ufs", "rw", 2),
                entry("/dev/ufs/my disk", "/mnt/a\tb", "ufs", "ro,noauto", 4),
                entry("/dev/da0s4d", "/config", "ufs", "rw,noatime", 6),
                entry("md", "/tmp", "mfs", "rw,-s=10m,label=#1\u{fffd}", 7),
                entry("/dev/da0s3b", "none", "swap", "sw", 9),
            ]
        );
        assert_eq!(parse(b"").unwrap(), []);
        assert_eq!(parse(b"#\n \t\n#a b\n").unwrap(), []);
    }

    #[test]
    fn short_lines_are_refused_with_their_number() {
        let cases: [(&[u8], &str); 5] = [
            (b"/dev/da0s1a\n", "line 1: 1 field where fstab(5) needs 4"),
            (b"#\n\n/dev/da0s1a /\r\n", "line 3: 2 fields where fstab(5) needs 4"),
            (b"/dev/a / ufs rw\n/dev/da0s1a / ufs", "line 2: 3 fields where fstab(5) needs 4"),
            (b"/dev/a / ufs \t \r\n", "line 1: 3 fields where fstab(5) needs 4"),
            (b"/dev/da0a:/:rw:1:1\n", "line 1: 1 field where fstab(5) needs 4"),
        ];
        for (text, message) in cases {
            let error = parse(text).unwrap_err();
            assert_eq!(error.kind, Kind::Refused);
            assert_eq!(error.to_string(), message);
            assert_eq!(rewrite(text, |_| Change::Keep).unwrap_err().to_string(), message);
        }
        let error = parse(b"x\n").unwrap_err().path("/altroot/etc/fstab");
        assert_eq!(error.to_string(), "/altroot/etc/fstab: line 1: 1 field where fstab(5) needs 4");
    }

    #[test]
    fn escapes_are_those_of_strunvis() {
        let cases: [(&[u8], &[u8]); 10] = [
            (br"plain", b"plain"),
            (br"a\040b\011c\012d\134e", b"a b\tc\nd\\e"),
            (br"a\sb\tc\nd\\e", b"a b\tc\nd\\e"),
            (br"\r\b\a\v\f\E", b"\r\x08\x07\x0b\x0c\x1b"),
            (br"\7\18\0409", b"\x07\x018 9"),
            (br"\777", b"\xff"),
            (br"a\qb\", br"a\qb\"),
            (br"\8", br"\8"),
            (br"\\040", br"\040"),
            (b"\xff\\303\\251", b"\xff\xc3\xa9"),
        ];
        for (written, meant) in cases {
            assert_eq!(decode(written), meant, "{}", written.escape_ascii());
        }
    }

    #[test]
    fn only_the_devices_bytes_change() {
        let copy = rewrite(EXAMPLE, |entry| match entry.spec.as_slice() {
            b"/dev/da0s1a" => Change::Device(b"/dev/da0s2a".to_vec()),
            b"/dev/ufs/my disk" => Change::Device(b"#my\\new\tdisk\xfe ".to_vec()),
            b"/dev/da0s4d" => Change::Comment,
            b"/dev/da0s3b" => Change::Device(b"/dev/gpt/swap".to_vec()),
            _ => Change::Keep,
        });
        let expected = b"# Device\tMountpoint\tFStype\tOptions\tDump\tPass#\r\n\
            /dev/da0s2a\t\t/\t\tufs\trw\t\t1\t1\r\n\
            \n\
            \x20 \\043my\\134new\\011disk\xfe\\040  /mnt/a\\011b ufs ro,noauto # old disk\n\
            \t# caf\xe9\n\
            #/dev/da0s4d /config ufs rw,noatime 2\n\
            md /tmp mfs rw,-s=10m,label=#1\xff 0 0\r\n\
            \r\n\
            /dev/gpt/swap none swap sw 0 0";
        assert_eq!(copy.unwrap().escape_ascii().to_string(), expected.escape_ascii().to_string());
    }

    #[test]
    fn devices_that_cannot_be_written_are_refused() {
        let cases = [
            (&b""[..], "line 1: the new device has no name"),
            (b"a\0b", "line 1: the new device's name has a NUL"),
        ];
        for (new, message) in cases {
            let error =
                rewrite(b"/dev/a / ufs rw\n", |_| Change::Device(new.to_vec())).unwrap_err();
            assert_eq!((error.kind, error.to_string().as_str()), (Kind::Refused, message));
        }
    }

    /// Lines that mostly parse: comments, blanks, fields of any bytes, both line ends.
    fn table() -> impl Strategy<Value = Vec<u8>> {
        let byte = any::<u8>().prop_filter("ends the field", |b| !b" \t\n\r".contains(b));
        let field = prop_oneof![
            4 => proptest::collection::vec(byte, 1..8),
            1 => Just(br"a\040b\\\s".to_vec()),
            1 => Just(b"#x".to_vec()),
        ];
        let blank = proptest::sample::select(vec![" ", "\t", "  \t"]);
        let part =
            (field, blank).prop_map(|(field, blank)| [&field[..], blank.as_bytes()].concat());
        let line = prop_oneof![
            4 => proptest::collection::vec(part, 4..8).prop_map(|parts| parts.concat()),
            1 => Just(b" # only a comment".to_vec()),
            1 => Just(b" \t".to_vec()),
            1 => Just(Vec::new()),
        ];
        let end = proptest::sample::select(vec!["\n", "\r\n"]);
        let lines = (line, end).prop_map(|(line, end)| [&line[..], end.as_bytes()].concat());
        (proptest::collection::vec(lines, 0..6), any::<bool>()).prop_map(|(lines, cut)| {
            let mut text = lines.concat();
            if cut {
                text.pop();
            }
            text
        })
    }

    proptest! {
        #[test]
        fn any_bytes_are_refused_or_kept(text in proptest::collection::vec(any::<u8>(), 0..200)) {
            if parse(&text).is_ok() {
                prop_assert_eq!(rewrite(&text, |_| Change::Keep).unwrap(), text);
            }
        }

        #[test]
        fn nothing_replaced_is_the_same_file(text in table()) {
            prop_assert_eq!(rewrite(&text, |_| Change::Keep).unwrap(), text);
        }

        #[test]
        fn a_replaced_device_reads_back(
            text in table(),
            new in proptest::collection::vec(1..=u8::MAX, 1..12),
            which in any::<proptest::sample::Index>(),
        ) {
            let text = [b"/dev/da0s1a / ufs rw\n", &text[..]].concat();
            let before = parse(&text).unwrap();
            let chosen = which.index(before.len());
            let line = before[chosen].line;
            let changed = |e: &Entry| {
                if e.line == line { Change::Device(new.clone()) } else { Change::Keep }
            };
            let out = rewrite(&text, changed).unwrap();
            let mut expected = before.clone();
            expected[chosen].spec.clone_from(&new);
            prop_assert_eq!(parse(&out).unwrap(), expected);
            // All lines but that one are the same bytes.
            let lines = |text: &[u8]| -> Vec<Vec<u8>> {
                text.split(|&b| b == b'\n').map(<[u8]>::to_vec).collect()
            };
            let (mut old, mut new) = (lines(&text), lines(&out));
            prop_assert_eq!(old.len(), new.len());
            old.remove(line - 1);
            new.remove(line - 1);
            prop_assert_eq!(old, new);
        }
    }
}
