//! Where a path below a root leads a system that has that root: symbolic links are followed,
//! absolute ones from the root on, and nothing leads out of it or onto another file system.

use std::ffi::{OsStr, OsString};
use std::io::{self, Read};
use std::os::unix::ffi::OsStrExt;
use std::path::{Component, Path, PathBuf};

use nix::errno::Errno;

use super::stack::open_below;
use crate::sys::tree::{Dir, Kind};

/// `MAXSYMLINKS` of sys/param.h on FreeBSD; Linux follows 40.
const LINKS_MAX: usize = 32;

/// Where a path leads.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Place {
    /// The path without symbolic links, relative to the root.
    pub path: PathBuf,
    /// What is there; `None` where nothing is.
    pub kind: Option<Kind>,
    /// Whether a symbolic link was on the way.
    pub linked: bool,
}

/// Follows `path` from `root` on.
///
/// # Errors
/// A directory on the way cannot be read, or there are too many links (`ELOOP`).
pub fn follow<D: Dir>(root: &D, path: &Path) -> io::Result<Place> {
    walk(root, path, Some(root.meta()?.dev), &mut |_, _| Ok(()))
}

/// The same onto other file systems, too. `visit` sees each directory in which a name is looked up.
///
/// # Errors
/// The same, and those of `visit`.
pub fn follow_anywhere<D: Dir>(
    root: &D,
    path: &Path,
    visit: &mut dyn FnMut(&Path, &D) -> io::Result<()>,
) -> io::Result<Place> {
    walk(root, path, None, visit)
}

fn walk<D: Dir>(
    root: &D,
    path: &Path,
    device: Option<u64>,
    visit: &mut dyn FnMut(&Path, &D) -> io::Result<()>,
) -> io::Result<Place> {
    let mut todo = names(path);
    let mut dirs: Vec<D> = Vec::new();
    let mut place = Place { path: PathBuf::new(), kind: Some(Kind::Dir), linked: false };
    let mut links = 0;
    while let Some(name) = todo.pop() {
        if place.kind != Some(Kind::Dir) {
            // Nothing is below a file, nor below what is not there.
            place.kind = None;
            place.path.push(name);
            continue;
        }
        if name == ".." {
            dirs.pop();
            place.path.pop();
            continue;
        }
        let here = dirs.last().unwrap_or(root);
        visit(&place.path, here)?;
        let kind = match here.stat(&name) {
            // Another file system is mounted there.
            Ok(meta) if device.is_some_and(|device| meta.dev != device) => None,
            Ok(meta) => Some(meta.kind),
            Err(e) if e.kind() == io::ErrorKind::NotFound => None,
            Err(e) => return Err(e),
        };
        match kind {
            Some(Kind::Symlink) => {
                links += 1;
                if links > LINKS_MAX {
                    return Err(Errno::ELOOP.into());
                }
                place.linked = true;
                let to = here.read_link(&name)?;
                let to = Path::new(OsStr::from_bytes(&to));
                if to.is_absolute() {
                    dirs.clear();
                    place.path.clear();
                }
                todo.extend(names(to));
                continue;
            }
            Some(Kind::Dir) => {
                let below = here.open_dir(&name)?;
                dirs.push(below);
            }
            _ => {}
        }
        place.kind = kind;
        place.path.push(name);
    }
    Ok(place)
}

/// The content of the file at a path without symbolic links.
///
/// # Errors
/// It cannot be read.
pub fn read<D: Dir>(root: &D, path: &Path) -> io::Result<Vec<u8>> {
    let dir = open_below(root, path.parent().unwrap_or(Path::new("")))?;
    let name = path.file_name().ok_or(Errno::EISDIR)?;
    let mut content = Vec::new();
    dir.open_file(name)?.read_to_end(&mut content)?;
    Ok(content)
}

/// The names that a path consists of, the last one first.
fn names(path: &Path) -> Vec<OsString> {
    let name = |component: Component<'_>| match component {
        Component::Normal(name) => Some(name.to_owned()),
        Component::ParentDir => Some("..".into()),
        Component::RootDir | Component::CurDir | Component::Prefix(_) => None,
    };
    path.components().rev().filter_map(name).collect()
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::symlink;

    use super::*;
    use crate::sys::FdDir;

    #[test]
    fn links_lead_as_they_do_for_a_system_with_that_root() {
        let outside = tempfile::tempdir().unwrap();
        let top = outside.path().join("root");
        for dir in ["etc", "usr/etc", "conf"] {
            fs::create_dir_all(top.join(dir)).unwrap();
        }
        fs::write(top.join("usr/etc/fstab"), "the file").unwrap();
        fs::write(outside.path().join("secret"), "").unwrap();
        let secret = outside.path().join("secret");
        for (name, to) in [
            ("etc/relative", "../usr/etc/fstab"),
            ("etc/absolute", "/usr/etc/fstab"),
            ("etc/chain", "relative"),
            ("etc/above", "../../../usr/./etc/../etc//fstab"),
            ("lib", "usr"),
            ("etc/out", secret.to_str().unwrap()),
            ("etc/up", "../../secret"),
            ("etc/loop", "loop"),
            ("etc/below-a-file", "../usr/etc/fstab/x"),
            ("etc/back", "../nowhere/../usr/etc/fstab"),
        ] {
            symlink(to, top.join(name)).unwrap();
        }
        let root = FdDir::open(&top).unwrap();
        let led = |path: &str| follow(&root, Path::new(path)).unwrap();
        let file = |linked| Place { path: "usr/etc/fstab".into(), kind: Some(Kind::File), linked };
        for path in ["etc/relative", "etc/absolute", "etc/chain", "etc/above", "lib/etc/fstab"] {
            assert_eq!(led(path), file(true), "{path}");
        }
        assert_eq!(led("/usr/etc/fstab"), file(false));
        assert_eq!(read(&root, &led("etc/chain").path).unwrap(), b"the file");
        for path in ["etc/out", "etc/up", "etc/below-a-file", "etc/back"] {
            assert_eq!((led(path).kind, led(path).linked), (None, true), "{path}");
        }
        assert_eq!(led("etc/up").path, Path::new("secret"));
        assert_eq!(led("etc/none").kind, None);
        assert_eq!(led("lib").kind, Some(Kind::Dir));
        let error = follow(&root, Path::new("etc/loop")).unwrap_err();
        assert_eq!(error.raw_os_error(), Some(Errno::ELOOP as i32));
    }
}
