//! What software a root holds: read from its package databases, never asked from its programs.
//!
//! A slot may be broken, foreign or hostile, so nothing of it is executed; files and directories
//! are reached by handle and symbolic links are not followed.

use std::ffi::OsStr;
use std::io::{self, Read};

use serde::{Deserialize, Serialize};

use crate::error::{Context, Error, Kind as ErrorKind, Result, if_there, visible};
use crate::sys::tree::{Dir, Kind};

/// No database that is read whole may be larger: 64 MiB.
const LIMIT: u64 = 64 << 20;

/// Where os-release(5) lies; on FreeBSD and Debian the first one is usually a symbolic link.
const OS_RELEASE: [&str; 2] = ["etc/os-release", "usr/lib/os-release"];
const PKG: &str = "var/db/pkg";
const JUNOS: &str = "packages/db";
const DPKG: &str = "var/lib/dpkg/status";
const FREEBSD: &str = "bin/freebsd-version";
/// What [`scan`] looks at.
pub(crate) const PLACES: [&str; 6] = [OS_RELEASE[0], OS_RELEASE[1], PKG, JUNOS, DPKG, FREEBSD];

/// One installed package.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Package {
    /// Its name: `jkernel-ex-3300`.
    pub name: String,
    /// Its version, as its database spells it: `12.3R12-S15`.
    pub version: String,
}

/// The product as a whole.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Product {
    /// Its name: `JUNOS`, `FreeBSD`.
    pub name: String,
    /// Its version, where it tells one.
    pub version: Option<String>,
}

/// All that is known of a root's software.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Software {
    /// The product; none where the root does not tell.
    pub product: Option<Product>,
    /// The packages: `jbase` first, then the base system `FreeBSD`, then by name and version.
    pub packages: Vec<Package>,
}

impl Software {
    /// This, and of `other` what this does not tell.
    pub(crate) fn or(mut self, other: Self) -> Self {
        self.product = self.product.or(other.product);
        let told = |package: &Package| self.packages.iter().any(|own| own.name == package.name);
        let mut more: Vec<_> = other.packages.into_iter().filter(|other| !told(other)).collect();
        self.packages.append(&mut more);
        self.packages.sort_by(|a, b| order(a).cmp(&order(b)));
        self
    }
}

impl Package {
    /// The package's line in the listing of a snapshot, without a line feed: two blanks, the name
    /// filled up to seven columns, `: ` and the version, as Junos's `show system snapshot` prints
    /// it. Control characters are escaped, so that a name cannot pass for another line.
    pub fn line(&self) -> String {
        format!("  {:<7}: {}", visible(&self.name), visible(&self.version))
    }
}

/// Splits the `NAME-VERSION` of Junos and the old `pkg_install(1)`; `None` where there is
/// no version, as in the `repos` of pkg(8).
///
/// The version starts after the last `-` that a digit follows: `jkernel-ex-3300-12.3R12-S15` is
/// `jkernel-ex-3300` and `12.3R12-S15`. Junos keeps the model in the version of `jbase` alone:
/// `jbase-ex-12.3R12-S15` is `jbase` and `ex-12.3R12-S15`.
pub fn split_name(dir_name: &str) -> Option<Package> {
    let dash = dir_name
        .as_bytes()
        .windows(2)
        .rposition(|pair| pair[0] == b'-' && pair[1].is_ascii_digit())?;
    let dash = if dir_name.starts_with("jbase-") { "jbase".len() } else { dash };
    let (name, version) = (&dir_name[..dash], &dir_name[dash + 1..]);
    (!name.is_empty()).then(|| Package { name: name.to_owned(), version: version.to_owned() })
}

/// The packages of dpkg's status file (dpkg-query(1)) whose status ends in `ok installed`, in
/// the file's order. Bytes that are no UTF-8 become U+FFFD; stanzas without name or version are
/// left out.
pub fn parse_dpkg_status(text: &[u8]) -> Vec<Package> {
    let mut packages = Vec::new();
    let (mut name, mut version, mut installed) = (None, None, false);
    // One more empty line ends the last stanza.
    for line in text.split(|&b| b == b'\n').chain([&b""[..]]) {
        let line = line.trim_ascii_end();
        if line.is_empty() {
            let stanza = (name.take(), version.take(), std::mem::take(&mut installed));
            if let (Some(name), Some(version), true) = stanza {
                packages.push(Package { name, version });
            }
            continue;
        }
        // A line that starts with a blank continues a longer field; none of ours is one.
        let Some(colon) = line.iter().position(|&b| b == b':') else { continue };
        let (field, value) = (&line[..colon], line[colon + 1..].trim_ascii());
        if field.eq_ignore_ascii_case(b"package") {
            name = lossy(value);
        } else if field.eq_ignore_ascii_case(b"version") {
            version = lossy(value);
        } else if field.eq_ignore_ascii_case(b"status") {
            // Whatever is wanted of it (install, hold): this is about what is there.
            installed = value.ends_with(b" ok installed");
        }
    }
    packages
}

/// The version of FreeBSD's userland out of the text of freebsd-version(1), a shell script:
/// `13.2-RELEASE-p1`. `None` where the script assigns none, or one that it computes.
pub fn parse_freebsd_version(script: &[u8]) -> Option<String> {
    let value = assigned(script, b"USERLAND_VERSION")?;
    let plain = |c: char| c.is_ascii_alphanumeric() || "-._+~".contains(c);
    value.chars().all(plain).then_some(value)
}

/// The product out of os-release(5): `NAME`, and `VERSION_ID` or else `VERSION`. `None` without a
/// name. Values may be plain, in single or in double quotes, with backslash escapes as in a shell;
/// a later assignment wins.
pub fn parse_os_release(text: &[u8]) -> Option<Product> {
    let name = assigned(text, b"NAME")?;
    let version = assigned(text, b"VERSION_ID").or_else(|| assigned(text, b"VERSION"));
    Some(Product { name, version })
}

/// The value that the last sound `key=value` line assigns; `None` where it is empty.
fn assigned(text: &[u8], key: &[u8]) -> Option<String> {
    text.split(|&b| b == b'\n')
        .filter_map(|line| line.trim_ascii().strip_prefix(key)?.strip_prefix(b"="))
        .filter_map(unquote)
        .next_back()
        .and_then(|value| lossy(&value))
}

/// A shell word without its quotes; `None` where a quote is left open. Blanks outside of quotes
/// are tolerated within the value, as in systemd's reader; a comment may follow it.
fn unquote(word: &[u8]) -> Option<Vec<u8>> {
    let mut value = Vec::with_capacity(word.len());
    let mut kept = 0; // up to here the value does not end in unquoted blanks
    let mut bytes = word.iter().copied();
    while let Some(byte) = bytes.next() {
        match byte {
            b'\'' => loop {
                match bytes.next()? {
                    b'\'' => break,
                    inner => value.push(inner),
                }
            },
            b'"' => loop {
                match bytes.next()? {
                    b'"' => break,
                    b'\\' => {
                        let next = bytes.next()?;
                        if !b"$`\"\\".contains(&next) {
                            value.push(b'\\');
                        }
                        value.push(next);
                    }
                    inner => value.push(inner),
                }
            },
            b'\\' => value.push(bytes.next()?),
            b'#' if value.len() > kept => break,
            b' ' | b'\t' => {
                value.push(byte);
                continue;
            }
            plain => value.push(plain),
        }
        kept = value.len();
    }
    value.truncate(kept);
    Some(value)
}

/// The bytes as printable text; `None` where nothing is left.
fn lossy(bytes: &[u8]) -> Option<String> {
    let mut text = String::from_utf8_lossy(bytes).into_owned();
    text.retain(|c| !c.is_control());
    (!text.is_empty()).then_some(text)
}

/// Lists the software of the file tree at `root`: os-release(5), freebsd-version(1), the
/// directories of `/var/db/pkg`, the entries of `/packages/db` (Junos) and dpkg's status.
///
/// `pkg_tool` is what the running system's `pkg query` told of this root, name and version. A
/// directory in `/var/db/pkg` whose name it has is then left out. Files and directories that are
/// not there are normal; so is a symbolic link or a device in their place, which is not followed.
/// An entry that cannot be read, or a file larger than 64 MiB, is an error of kind
/// [`ErrorKind::Failed`] with the path below `root`.
pub fn scan<D: Dir>(root: &D, pkg_tool: Option<Vec<(String, String)>>) -> Result<Software> {
    let told = pkg_tool.unwrap_or_default();
    let mut packages = databases(root, PKG, &[Kind::Dir])?;
    packages.retain(|package| !told.iter().any(|(name, _)| *name == package.name));
    packages.extend(told.into_iter().map(|(name, version)| Package { name, version }));
    packages.append(&mut databases(root, JUNOS, &[Kind::Dir, Kind::File])?);
    if let Some(status) = read(root, DPKG)? {
        packages.append(&mut parse_dpkg_status(&status));
    }
    let script = read(root, FREEBSD)?;
    let userland = script.as_deref().and_then(parse_freebsd_version);
    if let Some(version) = &userland {
        packages.push(Package { name: "FreeBSD".to_owned(), version: version.clone() });
    }
    packages.sort_by(|a, b| order(a).cmp(&order(b)));
    packages.dedup();

    let mut product = None;
    for path in OS_RELEASE {
        if product.is_none() {
            product = read(root, path)?.as_deref().and_then(parse_os_release);
        }
    }
    let product = product.or_else(|| match packages.first() {
        Some(base) if base.name == "jbase" => {
            Some(Product { name: "JUNOS".to_owned(), version: Some(base.version.clone()) })
        }
        _ => script.map(|_| Product { name: "FreeBSD".to_owned(), version: userland }),
    });
    Ok(Software { product, packages })
}

/// What packages are sorted by.
fn order(package: &Package) -> (u8, &str, &str) {
    let rank = match package.name.as_str() {
        "jbase" => 0,
        "FreeBSD" => 1,
        _ => 2,
    };
    (rank, &package.name, &package.version)
}

/// The packages that a directory's entries of these kinds name.
fn databases<D: Dir>(root: &D, path: &str, kinds: &[Kind]) -> Result<Vec<Package>> {
    let Some(dir) = descend(root, path)? else { return Ok(Vec::new()) };
    let names = dir.names().doing_to("reading", path)?;
    let mut packages = Vec::new();
    for (name, kind) in names.iter() {
        let Some(package) = split_name(&name.to_string_lossy()) else { continue };
        let kind = match kind {
            Some(kind) => Some(kind),
            None => {
                kind_of(&dir, name).doing_to("reading", format!("{path}/{}", name.display()))?
            }
        };
        if kind.is_some_and(|kind| kinds.contains(&kind)) {
            packages.push(package);
        }
    }
    Ok(packages)
}

/// The content of a regular file; `None` where there is none.
pub(crate) fn read<D: Dir>(root: &D, path: &str) -> Result<Option<Vec<u8>>> {
    let (dir, name) = path.rsplit_once('/').unwrap_or((".", path));
    let Some(dir) = descend(root, dir)? else { return Ok(None) };
    let name = OsStr::new(name);
    if kind_of(&dir, name).doing_to("reading", path)? != Some(Kind::File) {
        return Ok(None);
    }
    let Some(file) = if_there(dir.open_file(name)).doing_to("opening", path)? else {
        return Ok(None);
    };
    let mut content = Vec::new();
    let read = file.take(LIMIT + 1).read_to_end(&mut content).doing_to("reading", path)?;
    if read as u64 > LIMIT {
        let cause = format!("larger than {} MiB", LIMIT >> 20);
        return Err(Error::new(ErrorKind::Failed, "reading", cause).path(path));
    }
    Ok(Some(content))
}

/// Opens the directory at `path` below `root`, one name at a time; `None` where any of them is
/// missing or something else.
pub(crate) fn descend<D: Dir>(root: &D, path: &str) -> Result<Option<D>> {
    let mut here: Option<D> = None;
    for name in path.split('/').map(OsStr::new) {
        let above = here.as_ref().unwrap_or(root);
        if kind_of(above, name).doing_to("reading", path)? != Some(Kind::Dir) {
            return Ok(None);
        }
        here = if_there(above.open_dir(name)).doing_to("opening", path)?;
        if here.is_none() {
            break;
        }
    }
    Ok(here)
}

/// What the entry is; `None` where there is none.
fn kind_of<D: Dir>(dir: &D, name: &OsStr) -> io::Result<Option<Kind>> {
    Ok(if_there(dir.stat(name))?.map(|meta| meta.kind))
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::symlink;
    use std::path::Path;

    use proptest::prelude::*;

    use super::*;
    use crate::sys::FdDir;

    fn package(name: &str, version: &str) -> Package {
        Package { name: name.to_owned(), version: version.to_owned() }
    }

    fn product(name: &str, version: Option<&str>) -> Product {
        Product { name: name.to_owned(), version: version.map(str::to_owned) }
    }

    #[test]
    fn names_split_before_the_last_version() {
        let cases = [
            ("jbase-ex-12.3R12-S15", "jbase", "ex-12.3R12-S15"),
            ("jbase-9.6R1.13", "jbase", "9.6R1.13"),
            ("jkernel-ex-3300-12.3R12-S15", "jkernel-ex-3300", "12.3R12-S15"),
            ("jcrypto-ex-12.3R12-S15", "jcrypto-ex", "12.3R12-S15"),
            ("jpfe-ex33x-12.3R12-S15", "jpfe-ex33x", "12.3R12-S15"),
            ("fips-mode-arm-12.3R12-S15", "fips-mode-arm", "12.3R12-S15"),
            ("junos-runtime-20.4R3-S5", "junos-runtime", "20.4R3-S5"),
            ("jkernel-ex-2200-13.2X51-D35", "jkernel-ex-2200", "13.2X51-D35"),
            ("perl-5.8.8_1", "perl", "5.8.8_1"),
            ("p5-XML-Parser-2.36,1", "p5-XML-Parser", "2.36,1"),
            ("jbaseline-1.0", "jbaseline", "1.0"),
            ("größe-1.0", "größe", "1.0"),
        ];
        for (dir, name, version) in cases {
            assert_eq!(split_name(dir), Some(package(name, version)), "{dir}");
        }
    }

    #[test]
    fn names_without_a_version_are_no_packages() {
        for dir in ["", "-", "repos", "local.sqlite", "jbase", "jbase-", "jbase-ex", "-1.0", "a-"] {
            assert_eq!(split_name(dir), None, "{dir}");
        }
    }

    #[test]
    fn lines_are_those_of_junos() {
        let cases = [
            ("jbase", "ex-12.3R12-S15", "  jbase  : ex-12.3R12-S15"),
            ("jkernel-ex-3300", "12.3R12-S15", "  jkernel-ex-3300: 12.3R12-S15"),
            ("FreeBSD", "13.2-RELEASE-p1", "  FreeBSD: 13.2-RELEASE-p1"),
            ("a\nb", "\u{1b}[2J", "  a\\nb   : \\u{1b}[2J"),
        ];
        for (name, version, line) in cases {
            assert_eq!(package(name, version).line(), line);
        }
    }

    #[test]
    fn dpkg_lists_what_is_installed() {
        let text = b"Package: bash\nStatus: install ok installed\nPriority: required\n\
            Version: 5.2.15-2+b7\nDescription: shell\n Package: not-a-field\n .\n Version: 9\n\n\
            Package: gone\nStatus: deinstall ok config-files\nVersion: 1\n\n\
            Package: half\nStatus: install ok half-installed\nVersion: 1\n\n\
            Package: nameless-version\nStatus: install ok installed\n\n\n\n\
            package: caf\xe9\nSTATUS:install ok installed\nMaintainer: \xff\xfe\nversion:  1:2-3  \n\n\
            Package: last\nVersion: 7\nStatus: install ok installed";
        assert_eq!(
            parse_dpkg_status(text),
            [package("bash", "5.2.15-2+b7"), package("caf\u{fffd}", "1:2-3"), package("last", "7")]
        );
        assert_eq!(parse_dpkg_status(b""), []);
    }

    #[test]
    fn one_stanza_does_not_lend_to_the_next() {
        let text =
            b"Package: a\nStatus: install ok installed\n\nVersion: 1\n\nPackage: b\nVersion: 1\n";
        assert_eq!(parse_dpkg_status(text), []);
    }

    #[test]
    fn freebsd_version_is_read_not_run() {
        let script = b"#!/bin/sh\n#\n# USERLAND_VERSION=\"1.0\"\nset -e\n\n\
            USERLAND_VERSION=\"13.2-RELEASE-p1\"\n\n: ${ROOT:=}\nexit 0\n";
        let cases: [(&[u8], Option<&str>); 8] = [
            (script, Some("13.2-RELEASE-p1")),
            (b"USERLAND_VERSION=14.0-CURRENT", Some("14.0-CURRENT")),
            (b"USERLAND_VERSION='14.0-STABLE' # built here\r\n", Some("14.0-STABLE")),
            (b"USERLAND_VERSION=\"$(uname -r)\"\n", None),
            (b"USERLAND_VERSION=\"13.2\n", None),
            (b"USERLAND_VERSION=\n", None),
            (b"KERNEL_VERSION=13.2\nMY_USERLAND_VERSION=1\n", None),
            (b"\xff\xfe\0", None),
        ];
        for (script, version) in cases {
            assert_eq!(parse_freebsd_version(script).as_deref(), version);
        }
    }

    #[test]
    fn os_release_knows_all_quotes() {
        let cases: [(&[u8], Product); 8] = [
            (b"NAME=Fedora\nVERSION_ID=17\n", product("Fedora", Some("17"))),
            (
                b"# comment\n\nPRETTY_NAME=\"x\"\nNAME=\"Debian GNU/Linux\"\nVERSION=\"12 (bookworm)\"\n\
                VERSION_ID=\"12\"\n",
                product("Debian GNU/Linux", Some("12")),
            ),
            (b"NAME='My $BSD'\nVERSION='1 \"a\"'", product("My $BSD", Some("1 \"a\""))),
            (
                b"NAME=\"a \\\"b\\\" \\$c \\`d\\` \\\\ \\e\"\n",
                product("a \"b\" $c `d` \\ \\e", None),
            ),
            (b"NAME=a\\ b\\'c # not this\r\n", product("a b'c", None)),
            (b"NAME=Free BSD  \n", product("Free BSD", None)),
            (b"NAME=old\nNAME=\"open\nNAME=new\nVERSION_ID=\n", product("new", None)),
            (b"NAME=\"c\xe9\x1b[1m\"\n", product("c\u{fffd}[1m", None)),
        ];
        for (text, expected) in cases {
            assert_eq!(parse_os_release(text), Some(expected), "{}", text.escape_ascii());
        }
        for none in [&b""[..], b"ID=debian\n", b"NAME=\n", b"NAME=\"open\n", b"NAME = spaced\n"] {
            assert_eq!(parse_os_release(none), None);
        }
    }

    fn put(root: &Path, path: &str, content: &[u8]) {
        let path = root.join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, content).unwrap();
    }

    fn scanned(root: &Path, pkg_tool: Option<&[(&str, &str)]>) -> Result<Software> {
        let told = |&(name, version): &(&str, &str)| (name.to_owned(), version.to_owned());
        let pkg_tool = pkg_tool.map(|all| all.iter().map(told).collect());
        scan(&FdDir::open(root).unwrap(), pkg_tool)
    }

    #[test]
    fn what_one_root_does_not_tell_another_one_does() {
        let root = tempfile::tempdir().unwrap();
        put(root.path(), "var/db/pkg/jbase-1/+COMMENT", b"");
        put(root.path(), "var/db/pkg/b-1/+COMMENT", b"");
        let told = |root: &Path, pkg_tool: &[(&str, &str)]| scanned(root, Some(pkg_tool)).unwrap();
        let empty = tempfile::tempdir().unwrap();
        let here = told(empty.path(), &[("b", "2"), ("c", "3")]);
        let all = here.or(told(root.path(), &[]));
        let lines: Vec<String> = all.packages.iter().map(Package::line).collect();
        assert_eq!(lines, ["  jbase  : 1", "  b      : 2", "  c      : 3"]);
        assert_eq!(all.product, Some(product("JUNOS", Some("1"))));
    }

    #[test]
    fn an_empty_root_holds_nothing() {
        let root = tempfile::tempdir().unwrap();
        assert_eq!(scanned(root.path(), None).unwrap(), Software::default());
    }

    #[test]
    fn a_junos_root_lists_jbase_first() {
        let root = tempfile::tempdir().unwrap();
        let path = root.path();
        put(path, "var/db/pkg/jkernel-ex-3300-12.3R12-S15/+COMMENT", b"");
        put(path, "var/db/pkg/jbase-ex-12.3R12-S15/+COMMENT", b"");
        put(path, "var/db/pkg/pkg-1.0", b"a file is no package here");
        put(path, "var/db/pkg/repos/x", b"");
        put(path, "packages/db/jdocs-ex-12.3R12-S15", b"");
        put(path, "packages/db/jbase-ex-12.3R12-S15/+COMMENT", b"");
        symlink("/nowhere", path.join("packages/db/link-1.0")).unwrap();
        let software = scanned(path, None).unwrap();
        assert_eq!(software.product, Some(product("JUNOS", Some("ex-12.3R12-S15"))));
        let lines: Vec<String> = software.packages.iter().map(Package::line).collect();
        assert_eq!(
            lines,
            [
                "  jbase  : ex-12.3R12-S15",
                "  jdocs-ex: 12.3R12-S15",
                "  jkernel-ex-3300: 12.3R12-S15"
            ]
        );
    }

    #[test]
    fn a_freebsd_root_merges_the_tool_and_the_directories() {
        let root = tempfile::tempdir().unwrap();
        let path = root.path();
        put(path, "bin/freebsd-version", b"#!/bin/sh\nUSERLAND_VERSION=\"13.2-RELEASE-p1\"\n");
        put(path, "var/db/pkg/bash-4.0/+COMMENT", b"");
        put(path, "var/db/pkg/old-1.0/+COMMENT", b"");
        fs::create_dir_all(path.join("etc")).unwrap();
        symlink("../var/run/os-release", path.join("etc/os-release")).unwrap();
        put(path, "var/run/os-release", b"NAME=NotFollowed\n");
        let tool = [("zsh", "5.9"), ("bash", "5.2.15"), ("A", "1"), ("zsh", "5.9")];
        let software = scanned(path, Some(&tool)).unwrap();
        assert_eq!(software.product, Some(product("FreeBSD", Some("13.2-RELEASE-p1"))));
        let expected = [
            package("FreeBSD", "13.2-RELEASE-p1"),
            package("A", "1"),
            package("bash", "5.2.15"),
            package("old", "1.0"),
            package("zsh", "5.9"),
        ];
        assert_eq!(software.packages, expected);
    }

    #[test]
    fn a_debian_root_tells_by_its_own_files() {
        let root = tempfile::tempdir().unwrap();
        let path = root.path();
        put(path, "usr/lib/os-release", b"NAME=\"Debian GNU/Linux\"\nVERSION_ID=\"12\"\n");
        fs::create_dir_all(path.join("etc")).unwrap();
        symlink("../usr/lib/os-release", path.join("etc/os-release")).unwrap();
        let stanza = b"Package: bash\nStatus: install ok installed\nVersion: 5.2\n\n";
        put(path, "var/lib/dpkg/status", &stanza.repeat(2));
        let software = scanned(path, None).unwrap();
        assert_eq!(software.product, Some(product("Debian GNU/Linux", Some("12"))));
        assert_eq!(software.packages, [package("bash", "5.2")]);
    }

    #[test]
    fn the_product_of_os_release_wins() {
        let root = tempfile::tempdir().unwrap();
        put(root.path(), "etc/os-release", b"NAME=Box\n");
        put(root.path(), "usr/lib/os-release", b"NAME=Other\n");
        put(root.path(), "var/db/pkg/jbase-ex-12.3R12-S15/+COMMENT", b"");
        put(root.path(), "bin/freebsd-version", b"garbage");
        let software = scanned(root.path(), None).unwrap();
        assert_eq!(software.product, Some(product("Box", None)));
        assert_eq!(software.packages, [package("jbase", "ex-12.3R12-S15")]);
    }

    #[test]
    fn links_and_other_kinds_are_not_followed() {
        let root = tempfile::tempdir().unwrap();
        let outside = tempfile::tempdir().unwrap();
        put(outside.path(), "db/pkg/evil-1.0/+COMMENT", b"");
        put(
            outside.path(),
            "lib/dpkg/status",
            b"Package: e\nStatus: install ok installed\nVersion: 1",
        );
        put(outside.path(), "freebsd-version", b"USERLAND_VERSION=1");
        symlink(outside.path(), root.path().join("var")).unwrap();
        symlink(outside.path(), root.path().join("bin")).unwrap();
        put(root.path(), "packages", b"a file where a directory belongs");
        fs::create_dir_all(root.path().join("etc/os-release")).unwrap();
        assert_eq!(scanned(root.path(), None).unwrap(), Software::default());
    }

    #[test]
    fn an_endless_database_is_refused() {
        let root = tempfile::tempdir().unwrap();
        put(root.path(), "var/lib/dpkg/status", b"");
        let status = root.path().join("var/lib/dpkg/status");
        fs::File::options().write(true).open(status).unwrap().set_len(LIMIT + 1).unwrap();
        let error = scanned(root.path(), None).unwrap_err();
        assert_eq!(error.to_string(), "reading var/lib/dpkg/status: larger than 64 MiB");
        assert_eq!(error.kind, ErrorKind::Failed);
    }

    proptest! {
        #[test]
        fn any_bytes_are_read(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ = parse_dpkg_status(&bytes);
            let _ = parse_freebsd_version(&[b"USERLAND_VERSION=", &bytes[..]].concat());
            let _ = parse_os_release(&[b"NAME=", &bytes[..]].concat());
        }

        #[test]
        fn a_split_name_joins_again(name in ".{0,20}") {
            if let Some(package) = split_name(&name) {
                prop_assert_eq!(format!("{}-{}", package.name, package.version), name);
            }
        }

        #[test]
        fn a_quoted_name_comes_back(name in "[ -~]{1,20}") {
            let double = name.replace('\\', r"\\").replace('"', "\\\"").replace('$', r"\$");
            let text = format!("NAME=\"{}\"\n", double.replace('`', r"\`"));
            prop_assert_eq!(parse_os_release(text.as_bytes()), Some(product(&name, None)));
        }
    }
}
