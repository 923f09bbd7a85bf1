//! The names of a device in fstab and loader.conf, and how a copy spells its own.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use crate::table::Entry;
use crate::table::superblock::Superblock;

/// Everything that one partition can be called.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Names {
    /// Kernel name without `/dev/`.
    pub device: String,
    /// Label of the file system on it.
    pub fs_label: Option<String>,
    /// UUID, or on UFS the ufsid, of the file system on it.
    pub fs_id: Option<String>,
    /// Name in the partition table (GPT).
    pub part_label: Option<String>,
    /// Identity in the partition table.
    pub part_id: Option<String>,
}

/// One way of naming: what stands before the name, and which name it is.
type Style = (&'static str, fn(&Names) -> Option<&str>);

/// fstab(5) on Linux, and the nodes that udev and GEOM's label class (glabel(8)) make.
const STYLES: [Style; 12] = [
    ("LABEL=", |n| n.fs_label.as_deref()),
    ("UUID=", |n| n.fs_id.as_deref()),
    ("PARTLABEL=", |n| n.part_label.as_deref()),
    ("PARTUUID=", |n| n.part_id.as_deref()),
    ("/dev/disk/by-label/", |n| n.fs_label.as_deref()),
    ("/dev/disk/by-uuid/", |n| n.fs_id.as_deref()),
    ("/dev/disk/by-partlabel/", |n| n.part_label.as_deref()),
    ("/dev/disk/by-partuuid/", |n| n.part_id.as_deref()),
    ("/dev/ufs/", |n| n.fs_label.as_deref()),
    ("/dev/ufsid/", |n| n.fs_id.as_deref()),
    ("/dev/gpt/", |n| n.part_label.as_deref()),
    ("/dev/gptid/", |n| n.part_id.as_deref()),
];

impl Names {
    /// Out of what the table and the superblock say.
    pub fn new(device: &str, entry: Option<&Entry>, superblock: Option<&Superblock>) -> Self {
        Self {
            device: device.to_owned(),
            fs_label: superblock.and_then(|s| s.label.clone()),
            fs_id: superblock.map(|s| s.id.clone()),
            part_label: entry.and_then(|e| e.label.clone()),
            part_id: entry.and_then(|e| e.uuid.clone()),
        }
    }

    /// Whether `spec` is one of these names. Quotes around a tag's value are fstab(5)'s.
    pub fn is(&self, spec: &[u8]) -> bool {
        STYLES.iter().any(|(prefix, name)| {
            let value = spec.strip_prefix(prefix.as_bytes()).map(unquote);
            let same = |name: &str| {
                // UUIDs are written in either case.
                value.is_some_and(|v| {
                    v == name.as_bytes() || {
                        prefix.contains("UUID") && v.eq_ignore_ascii_case(name.as_bytes())
                    }
                })
            };
            name(self).is_some_and(same)
        }) || Path::new(OsStr::from_bytes(spec)) == Path::new("/dev").join(&self.device)
    }

    /// These names' spelling in the style of `spec`; by device where that style has no name here.
    pub fn spell_like(&self, spec: &[u8]) -> Vec<u8> {
        for (prefix, name) in STYLES {
            if spec.starts_with(prefix.as_bytes())
                && let Some(name) = name(self)
            {
                return [prefix.as_bytes(), name.as_bytes()].concat();
            }
        }
        [b"/dev/", self.device.as_bytes()].concat()
    }
}

impl Names {
    /// The same partition's names once its medium `from` is called `to` by the kernel.
    #[must_use]
    pub fn moved(self, from: &str, to: &str) -> Self {
        let Some(rest) = self.device.strip_prefix(from) else { return self };
        // Linux has a `p` between a digit and the number: sda1, loop0p1.
        let digit = |name: &str| name.ends_with(|c: char| c.is_ascii_digit());
        let rest = match (digit(from), digit(to)) {
            (true, false) => rest.strip_prefix('p').unwrap_or(rest).to_owned(),
            (false, true) => format!("p{rest}"),
            _ => rest.to_owned(),
        };
        Self { device: format!("{to}{rest}"), ..self }
    }
}

/// Whether a name is the identity of a file system, which changes when it is made anew.
pub fn is_identity(spec: &[u8]) -> bool {
    [&b"UUID="[..], b"/dev/ufsid/", b"/dev/disk/by-uuid/"].iter().any(|p| spec.starts_with(p))
}

fn unquote(value: &[u8]) -> &[u8] {
    value.strip_prefix(b"\"").and_then(|v| v.strip_suffix(b"\"")).unwrap_or(value)
}

/// A label for the copy that is not the source's: the copy's old one where that is different,
/// otherwise one made from the source's: `root1` → `root2`, `rootA` → `rootB`, `root` → `altroot`
/// and back, within `max` bytes.
pub fn label_for_copy(source: Option<&str>, old: Option<&str>, max: usize) -> Option<String> {
    let Some(source) = source else { return old.map(str::to_owned) };
    if let Some(old) = old.filter(|old| *old != source && old.len() <= max) {
        return Some(old.to_owned());
    }
    let (body, last) = source.split_at(source.char_indices().last().map_or(0, |(n, _)| n));
    let twin = match last {
        "1" => "2",
        "2" => "1",
        "A" => "B",
        "B" => "A",
        "a" if body.ends_with(['-', '_']) => "b",
        "b" if body.ends_with(['-', '_']) => "a",
        _ => "",
    };
    let label = if twin.is_empty() {
        source.strip_prefix("alt").map_or_else(|| format!("alt{source}"), str::to_owned)
    } else {
        format!("{body}{twin}")
    };
    Some(cut(&label, max).to_owned()).filter(|l| !l.is_empty() && l != source)
}

/// As much of a label as fits into `max` bytes, in whole characters.
pub fn cut(label: &str, max: usize) -> &str {
    let mut end = label.len().min(max);
    while !label.is_char_boundary(end) {
        end -= 1;
    }
    &label[..end]
}

/// Whether two labels name the two of one thing: they differ in one place, and there as `1` and
/// `2`, `0` and `1`, `a` and `b`, or one of them by `alt`.
pub fn are_twins(a: &str, b: &str) -> bool {
    let before = a.bytes().zip(b.bytes()).take_while(|(x, y)| x == y).count();
    let (rest_a, rest_b) = (&a.as_bytes()[before..], &b.as_bytes()[before..]);
    let after = rest_a.iter().rev().zip(rest_b.iter().rev()).take_while(|(x, y)| x == y).count();
    let mut middle = [&rest_a[..rest_a.len() - after], &rest_b[..rest_b.len() - after]]
        .map(<[u8]>::to_ascii_lowercase);
    middle.sort();
    let [x, y] = middle;
    let pair = (x.as_slice(), y.as_slice());
    matches!(pair, (b"1", b"2") | (b"0", b"1") | (b"a", b"b"))
        || (pair.0.is_empty()
            && matches!(pair.1, b"alt" | b"alt-" | b"alt_" | b"-alt" | b"_alt" | b".alt"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(device: &str, label: &str, id: &str) -> Names {
        Names {
            device: device.to_owned(),
            fs_label: Some(label.to_owned()),
            fs_id: Some(id.to_owned()),
            part_label: Some(format!("gpt-{label}")),
            part_id: None,
        }
    }

    #[test]
    fn every_style_is_known_and_kept() {
        let one = names("da0s1a", "root1", "5f0aabcd00000001");
        let two = names("da0s2a", "root2", "5f0aabcd00000002");
        for (spec, respelt) in [
            ("/dev/da0s1a", "/dev/da0s2a"),
            ("/dev/ufs/root1", "/dev/ufs/root2"),
            ("/dev/ufsid/5f0aabcd00000001", "/dev/ufsid/5f0aabcd00000002"),
            ("/dev/gpt/gpt-root1", "/dev/gpt/gpt-root2"),
            ("LABEL=root1", "LABEL=root2"),
            ("LABEL=\"root1\"", "LABEL=root2"),
            ("UUID=5F0AABCD00000001", "UUID=5f0aabcd00000002"),
        ] {
            assert!(one.is(spec.as_bytes()), "{spec}");
            assert!(!two.is(spec.as_bytes()), "{spec}");
            assert_eq!(two.spell_like(spec.as_bytes()), respelt.as_bytes());
        }
        assert!(!one.is(b"/dev/da0s1"));
        assert_eq!(two.spell_like(b"PARTUUID=x"), b"/dev/da0s2a", "no such name: by device");
    }

    #[test]
    fn a_medium_in_the_place_of_another() {
        for (device, from, to, expected) in [
            ("da1s1a", "da1", "da0", "da0s1a"),
            ("da1p2", "da1", "ada0", "ada0p2"),
            ("sdb1", "sdb", "nvme0n1", "nvme0n1p1"),
            ("loop3p4", "loop3", "sda", "sda4"),
            ("loop3p4", "loop3", "loop1", "loop1p4"),
            ("da0s1a", "da1", "da0", "da0s1a"),
        ] {
            let moved = names(device, "root1", "1").moved(from, to);
            assert_eq!(moved, names(expected, "root1", "1"));
        }
    }

    #[test]
    fn the_copy_never_has_the_source_label() {
        for (source, old, expected) in [
            (Some("root1"), None, Some("root2")),
            (Some("root1"), Some("root1"), Some("root2")),
            (Some("root1"), Some("standby"), Some("standby")),
            (Some("rootB"), None, Some("rootA")),
            (Some("sys_a"), None, Some("sys_b")),
            (Some("data"), None, Some("altdata")),
            (Some("altdata"), None, Some("data")),
            (None, None, None),
            (Some("abcdefghijkl"), None, Some("altabcdefghi")),
        ] {
            assert_eq!(label_for_copy(source, old, 12).as_deref(), expected, "{source:?} {old:?}");
        }
    }

    #[test]
    fn twins() {
        for (a, b) in [
            ("root1", "root2"),
            ("BSDRPs1a", "BSDRPs2a"),
            ("rootA", "rootB"),
            ("root", "altroot"),
            ("config", "config-alt"),
            ("slot0", "slot1"),
        ] {
            assert!(are_twins(a, b) && are_twins(b, a), "{a} {b}");
        }
        for (a, b) in [("root", "root"), ("root", "data"), ("root1", "root3"), ("root1", "root12")]
        {
            assert!(!are_twins(a, b), "{a} {b}");
        }
    }
}
