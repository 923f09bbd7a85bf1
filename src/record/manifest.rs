//! The manifest: every object of a copy as an mtree(5) specification.
//!
//! `mtree -f` (FreeBSD, NetBSD) and libarchive take it as it is. What mtree has no keyword for
//! travels in its `tags=` keyword, which both carry along: `crc32:` of the content, `blocks:` (one
//! CRC-32 per [block](crate::record::digest::block_size)), `xattrs:` (CRC-32 of the extended
//! attributes), `flags:`, `birth:`, `links:` (the same number: the same file) and `source:` (CRC-32 of
//! [which object](crate::copy::provenance) it was made from).
//!
//! The form is the hierarchical one: names without slashes, a directory's entries follow it, `..`
//! leaves it. It needs no full paths, so that the manifest of a deep tree stays small, and it can
//! be written and read as a stream.

use std::ffi::{OsStr, OsString};
use std::fmt::Write as _;
use std::io::{self, BufRead, Write};
use std::os::unix::ffi::{OsStrExt, OsStringExt};

use crate::record::digest::Sums;
use crate::sys::tree::{Kind, Meta, Time};

/// What the manifest keeps of an object.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Object {
    /// What it is.
    pub kind: Kind,
    /// Permission bits.
    pub mode: u32,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Names that lead to it, where that is certain: not for directories, not for groups.
    pub nlink: Option<u64>,
    /// Bytes (of a regular file).
    pub size: u64,
    /// Last change of the content.
    pub mtime: Time,
    /// Creation, where the copy keeps it.
    pub birth: Option<Time>,
    /// File flags.
    pub flags: u32,
    /// Number of a device.
    pub device: (u64, u64),
    /// Target of a symbolic link.
    pub link: Vec<u8>,
    /// Checksums of a regular file.
    pub sums: Option<Sums>,
    /// CRC-32 of the extended attributes, where there are any.
    pub xattrs: Option<u32>,
    /// Files of several names: the same number for the same file.
    pub group: Option<u64>,
    /// Which object, in which state, it was made from: a CRC-32 to compare with that of another day.
    pub source: Option<u32>,
}

impl Object {
    /// From metadata, without content, attributes and link target.
    pub fn new(meta: &Meta, keeps_birth: bool) -> Self {
        let device = matches!(meta.kind, Kind::Char | Kind::Block);
        Self {
            kind: meta.kind,
            mode: meta.mode,
            uid: meta.uid,
            gid: meta.gid,
            nlink: (meta.kind != Kind::Dir).then_some(meta.nlink),
            size: if meta.kind == Kind::File { meta.size } else { 0 },
            mtime: meta.mtime,
            // utimensat(2): a birth time cannot be set that is younger than the last write.
            birth: meta.birth.filter(|_| keeps_birth).map(|birth| birth.min(meta.mtime)),
            flags: meta.flags,
            device: if device { meta.rdev } else { (0, 0) },
            link: Vec::new(),
            sums: None,
            xattrs: None,
            group: None,
            source: None,
        }
    }
}

fn kind_from(name: &str) -> Option<Kind> {
    [Kind::File, Kind::Dir, Kind::Symlink, Kind::Fifo, Kind::Socket, Kind::Char, Kind::Block]
        .into_iter()
        .find(|k| k.name() == name)
}

/// vis(3) with octal escapes for all that mtree could take for its own: blanks, `#`, `\`, `=`, and
/// the characters of patterns.
fn encode(bytes: &[u8], line: &mut String) {
    for &byte in bytes {
        if byte.is_ascii_graphic() && !b"#\\=*?[]{}".contains(&byte) {
            line.push(char::from(byte));
        } else {
            let _ = write!(line, "\\{byte:03o}"); // writing to a String cannot fail
        }
    }
}

fn decode(text: &str) -> Option<Vec<u8>> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((&first, tail)) = rest.split_first() {
        if first == b'\\' {
            let digits = std::str::from_utf8(tail.get(..3)?).ok()?;
            bytes.push(u8::from_str_radix(digits, 8).ok()?);
            rest = &tail[3..];
        } else {
            bytes.push(first);
            rest = tail;
        }
    }
    Some(bytes)
}

/// Writes a manifest.
#[derive(Debug)]
pub struct Writer<W> {
    output: W,
    line: String,
}

impl<W: Write> Writer<W> {
    /// Begins a manifest.
    pub fn new(mut output: W) -> io::Result<Self> {
        output
            .write_all(b"#mtree v2.0\n# made by dualroot; check with: mtree -f THIS -p ROOT\n")?;
        Ok(Self { output, line: String::new() })
    }

    /// An object that is no directory, or a directory whose entries follow until
    /// [`leave`](Self::leave). The root's name is `.`.
    pub fn object(&mut self, name: &OsStr, object: &Object) -> io::Result<()> {
        let line = &mut self.line;
        line.clear();
        encode(name.as_bytes(), line);
        describe(object, line);
        line.push('\n');
        self.output.write_all(line.as_bytes())
    }

    /// Ends the entries of the innermost directory.
    pub fn leave(&mut self) -> io::Result<()> {
        self.output.write_all(b"..\n")
    }

    /// An entry of the root that checkers shall pass over, present or not.
    pub fn ignore(&mut self, name: &str, kind: Kind) -> io::Result<()> {
        writeln!(self.output, "{name} type={} optional ignore", kind.name())?;
        if kind == Kind::Dir { self.leave() } else { Ok(()) }
    }

    /// Hands back the output; everything is written to it, nothing is flushed.
    pub fn into_inner(self) -> W {
        self.output
    }
}

/// Writing to a `String` cannot fail, so the results are dropped.
fn describe(object: &Object, line: &mut String) {
    let o = object;
    let _ = write!(line, " type={} mode={:04o} uid={} gid={}", o.kind.name(), o.mode, o.uid, o.gid);
    if let Some(nlink) = o.nlink {
        let _ = write!(line, " nlink={nlink}");
    }
    if o.kind == Kind::File {
        let _ = write!(line, " size={}", o.size);
    }
    let _ = write!(line, " time={}.{:09}", o.mtime.sec, o.mtime.nsec);
    if o.kind == Kind::Symlink {
        line.push_str(" link=");
        encode(&o.link, line);
    }
    if matches!(o.kind, Kind::Char | Kind::Block) {
        let _ = write!(line, " device=native,{},{}", o.device.0, o.device.1);
    }
    let mut separator = " tags=";
    let mut tag = |name: &str, value: std::fmt::Arguments<'_>| {
        let _ = write!(line, "{separator}{name}:{value}");
        separator = ",";
    };
    if let Some(sums) = &o.sums {
        tag("crc32", format_args!("{:08x}", sums.whole));
        if !sums.blocks.is_empty() {
            let blocks = sums.blocks.iter().fold(String::new(), |mut all, crc| {
                let _ = write!(all, "{crc:08x}");
                all
            });
            tag("blocks", format_args!("{blocks}"));
        }
    }
    if let Some(crc) = o.xattrs {
        tag("xattrs", format_args!("{crc:08x}"));
    }
    if o.flags != 0 {
        tag("flags", format_args!("{:x}", o.flags));
    }
    if let Some(birth) = o.birth {
        tag("birth", format_args!("{}.{:09}", birth.sec, birth.nsec));
    }
    if let Some(group) = o.group {
        tag("links", format_args!("{group}"));
    }
    if let Some(crc) = o.source {
        tag("source", format_args!("{crc:08x}"));
    }
}

/// One line of a manifest.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Line {
    /// An object; a directory's entries follow.
    Object(OsString, Object),
    /// A name that checkers pass over; a directory's entries follow.
    Ignored(OsString, Kind),
    /// The end of the innermost directory's entries.
    Leave,
}

impl Line {
    /// Whether the entries of a directory follow.
    pub fn is_dir(&self) -> bool {
        matches!(
            self,
            Self::Object(_, Object { kind: Kind::Dir, .. }) | Self::Ignored(_, Kind::Dir)
        )
    }
}

/// Longer lines are no manifest of ours: a name and a link target at most, all escaped, and tags.
const LINE_MAX: u64 = 64 << 10;

/// Reads a manifest.
#[derive(Debug)]
pub struct Reader<R> {
    input: R,
    line: Vec<u8>,
    number: u64,
}

impl<R: BufRead> Reader<R> {
    /// Begins to read.
    pub fn new(input: R) -> Self {
        Self { input, line: Vec::new(), number: 0 }
    }

    /// The next line, `None` at the end.
    ///
    /// # Errors
    /// Reading fails, or the line (named by its number) is not one that [`Writer`] writes.
    pub fn next_line(&mut self) -> io::Result<Option<Line>> {
        loop {
            self.line.clear();
            let mut limited = io::Read::take(&mut self.input, LINE_MAX);
            if limited.read_until(b'\n', &mut self.line)? == 0 {
                return Ok(None);
            }
            self.number += 1;
            if self.line.first() == Some(&b'#') {
                continue;
            }
            let text = self.line.strip_suffix(b"\n").and_then(|l| std::str::from_utf8(l).ok());
            return match text.and_then(parse) {
                Some(line) => Ok(Some(line)),
                None => Err(io::Error::new(
                    io::ErrorKind::InvalidData,
                    format!("line {} is no line of a manifest", self.number),
                )),
            };
        }
    }
}

fn parse(text: &str) -> Option<Line> {
    if text == ".." {
        return Some(Line::Leave);
    }
    let mut words = text.split(' ');
    let name = OsString::from_vec(decode(words.next()?)?);
    if name.is_empty() || name.as_bytes().contains(&b'/') || name == ".." {
        return None;
    }
    let mut object = Object {
        kind: Kind::File,
        mode: 0,
        uid: 0,
        gid: 0,
        nlink: None,
        size: 0,
        mtime: Time::default(),
        birth: None,
        flags: 0,
        device: (0, 0),
        link: Vec::new(),
        sums: None,
        xattrs: None,
        group: None,
        source: None,
    };
    let mut kind = None;
    for word in words {
        let Some((key, value)) = word.split_once('=') else {
            match word {
                "optional" => continue,
                "ignore" => return Some(Line::Ignored(name, kind?)),
                _ => return None,
            }
        };
        match key {
            "type" => kind = Some(kind_from(value)?),
            "mode" => object.mode = u32::from_str_radix(value, 8).ok()?,
            "uid" => object.uid = value.parse().ok()?,
            "gid" => object.gid = value.parse().ok()?,
            "nlink" => object.nlink = Some(value.parse().ok()?),
            "size" => object.size = value.parse().ok()?,
            "time" => object.mtime = parse_time(value)?,
            "link" => object.link = decode(value)?,
            "device" => object.device = parse_device(value)?,
            "tags" => parse_tags(value, &mut object)?,
            _ => return None,
        }
    }
    object.kind = kind?;
    Some(Line::Object(name, object))
}

fn parse_time(text: &str) -> Option<Time> {
    let (sec, nsec) = text.split_once('.')?;
    Some(Time { sec: sec.parse().ok()?, nsec: nsec.parse().ok().filter(|n| *n < 1_000_000_000)? })
}

fn parse_device(text: &str) -> Option<(u64, u64)> {
    let (major, minor) = text.strip_prefix("native,")?.split_once(',')?;
    Some((major.parse().ok()?, minor.parse().ok()?))
}

fn parse_tags(text: &str, object: &mut Object) -> Option<()> {
    let hex = |text: &str| u32::from_str_radix(text, 16).ok();
    for tag in text.split(',') {
        let (name, value) = tag.split_once(':')?;
        match name {
            "crc32" => object.sums.get_or_insert_default().whole = hex(value)?,
            "blocks" => {
                let crcs = value.as_bytes().chunks(8).map(|c| std::str::from_utf8(c).ok());
                let blocks = crcs.map(|c| hex(c?)).collect::<Option<Vec<u32>>>()?;
                object.sums.get_or_insert_default().blocks = blocks;
            }
            "xattrs" => object.xattrs = Some(hex(value)?),
            "flags" => object.flags = hex(value)?,
            "birth" => object.birth = Some(parse_time(value)?),
            "links" => object.group = Some(value.parse().ok()?),
            "source" => object.source = Some(hex(value)?),
            _ => return None,
        }
    }
    Some(())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn time() -> impl Strategy<Value = Time> {
        (any::<i64>(), 0u32..1_000_000_000).prop_map(|(sec, nsec)| Time { sec, nsec })
    }

    fn object() -> impl Strategy<Value = Object> {
        const KINDS: [Kind; 6] =
            [Kind::File, Kind::Dir, Kind::Symlink, Kind::Fifo, Kind::Socket, Kind::Char];
        let numbers = (0u32..0o10000, any::<u32>(), any::<u32>(), 1u64..9, any::<u64>());
        let tags = (
            prop::option::of(any::<u32>()),
            any::<u32>(),
            prop::option::of(any::<(u64, u32)>()),
            prop::option::of(time()),
            prop::option::of((any::<u32>(), prop::collection::vec(any::<u32>(), 0..9))),
        );
        (
            prop::sample::select(&KINDS[..]),
            numbers,
            time(),
            prop::collection::vec(1u8.., 1..40),
            tags,
        )
            .prop_map(|(kind, (mode, uid, gid, nlink, size), mtime, link, tags)| Object {
                kind,
                mode,
                uid,
                gid,
                nlink: (kind != Kind::Dir).then_some(nlink),
                size: if kind == Kind::File { size } else { 0 },
                mtime,
                birth: tags.3,
                flags: tags.1,
                device: if kind == Kind::Char { (u64::from(uid), size) } else { (0, 0) },
                link: if kind == Kind::Symlink { link } else { Vec::new() },
                sums: tags
                    .4
                    .filter(|_| kind == Kind::File)
                    .map(|(whole, blocks)| Sums { whole, blocks }),
                xattrs: tags.0,
                group: tags.2.map(|(group, _)| group),
                source: tags.2.map(|(_, source)| source),
            })
    }

    fn names() -> impl Strategy<Value = OsString> {
        prop::collection::vec(any::<u8>().prop_filter("", |b| *b != 0 && *b != b'/'), 1..60)
            .prop_filter("", |n| n != b"..")
            .prop_map(OsString::from_vec)
    }

    proptest! {
        #[test]
        fn what_is_written_is_read(lines in prop::collection::vec((names(), object()), 0..20)) {
            let mut writer = Writer::new(Vec::new()).unwrap();
            for (name, object) in &lines {
                writer.object(name, object).unwrap();
            }
            writer.leave().unwrap();
            let text = writer.into_inner();
            let mut reader = Reader::new(&text[..]);
            for (name, object) in lines {
                prop_assert_eq!(reader.next_line().unwrap(), Some(Line::Object(name, object)));
            }
            prop_assert_eq!(reader.next_line().unwrap(), Some(Line::Leave));
            prop_assert_eq!(reader.next_line().unwrap(), None);
        }

        #[test]
        fn garbage_is_an_error_and_no_panic(text in prop::collection::vec(any::<u8>(), 0..300)) {
            let mut reader = Reader::new(&text[..]);
            while let Ok(Some(_)) = reader.next_line() {}
        }
    }

    #[test]
    fn a_line_is_what_mtree_knows() {
        let object = Object {
            kind: Kind::File,
            mode: 0o4755,
            uid: 0,
            gid: 5,
            nlink: Some(1),
            size: 9,
            mtime: Time { sec: 3, nsec: 40 },
            birth: None,
            flags: 0,
            device: (0, 0),
            link: Vec::new(),
            sums: Some(Sums { whole: 0xcbf4_3926, blocks: Vec::new() }),
            xattrs: None,
            group: None,
            source: Some(0x0bad_cafe),
        };
        let mut writer = Writer::new(Vec::new()).unwrap();
        writer.object(OsStr::new("a b#"), &object).unwrap();
        let text = String::from_utf8(writer.into_inner()).unwrap();
        assert!(text.ends_with(
            "\na\\040b\\043 type=file mode=4755 uid=0 gid=5 nlink=1 size=9 \
             time=3.000000040 tags=crc32:cbf43926,source:0badcafe\n"
        ));
    }

    #[test]
    fn ignored_entries_are_passed_over() {
        let mut writer = Writer::new(Vec::new()).unwrap();
        writer.ignore(".dualroot", Kind::Dir).unwrap();
        writer.ignore(".sujournal", Kind::File).unwrap();
        let text = writer.into_inner();
        let mut reader = Reader::new(&text[..]);
        let ignored = |name: &str, kind| Some(Line::Ignored(name.into(), kind));
        assert_eq!(reader.next_line().unwrap(), ignored(".dualroot", Kind::Dir));
        assert_eq!(reader.next_line().unwrap(), Some(Line::Leave));
        assert_eq!(reader.next_line().unwrap(), ignored(".sujournal", Kind::File));
        assert_eq!(reader.next_line().unwrap(), None);
    }
}
