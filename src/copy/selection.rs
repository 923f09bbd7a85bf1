//! Which objects of a tree are copied, where it is not all of them: those of a list, and some more.
//!
//! The list is a [manifest](crate::record::manifest), read [beside](Beside) the walk. What it lists
//! and the walk does not meet is remembered as missing.

use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::io::BufRead;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use super::beside::Beside;
use crate::error::{Error, Kind as ErrorKind, Result};
use crate::record::manifest::Object;

/// Why the walk takes something.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Admission {
    /// The list has it: as this.
    Listed(Box<Object>),
    /// It is one of the further paths, or leads to one.
    Also,
}

/// A list beside a walk.
pub struct Selection<'a> {
    list: Option<Beside<'a>>,
    also: BTreeSet<Vec<u8>>,
    path: PathBuf,
}

impl<'a> Selection<'a> {
    /// Selects what `list` has, where there is one, and the paths of `also`, relative to the root,
    /// with the directories that lead to them.
    ///
    /// # Errors
    /// The list is no manifest.
    pub fn new(
        list: Option<Box<dyn BufRead + Send + 'a>>,
        also: BTreeSet<Vec<u8>>,
    ) -> Result<Self> {
        Ok(Self {
            list: list.map(|list| Beside::new("the list", list)).transpose()?,
            also,
            path: PathBuf::new(),
        })
    }

    /// Whether the walk takes `name` in the directory that it is in. Asked in byte order.
    ///
    /// # Errors
    /// The list cannot be read, or is none.
    pub fn admits(&mut self, name: &OsStr) -> Result<Option<Admission>> {
        let listed = match &mut self.list {
            Some(list) => list.find(name)?.map(|object| Admission::Listed(Box::new(object))),
            None => None,
        };
        Ok(listed.or_else(|| self.leads(name).then_some(Admission::Also)))
    }

    /// The walk goes into the directory that was admitted last.
    pub fn enter(&mut self, name: &OsStr) {
        if let Some(list) = &mut self.list {
            list.enter(name);
        }
        self.path.push(name);
    }

    /// The walk leaves the innermost directory.
    ///
    /// # Errors
    /// As [`Self::admits`].
    pub fn leave(&mut self) -> Result<()> {
        self.path.pop();
        self.list.as_mut().map_or(Ok(()), Beside::leave)
    }

    /// Checks, after the walk, that it met everything that is listed.
    ///
    /// # Errors
    /// It did not.
    pub fn complete(&self) -> Result<()> {
        let Some((first, count)) = self.list.as_ref().and_then(Beside::missed) else {
            return Ok(());
        };
        let cause = match count {
            1 => "it is on the list, and not there".to_owned(),
            n => format!("it is on the list, and not there, as {} more are", n - 1),
        };
        Err(Error::new(ErrorKind::Failed, "selecting", cause).path(first))
    }

    /// Whether `name` is one of the further paths, or leads to one.
    fn leads(&self, name: &OsStr) -> bool {
        let path = self.path.join(name);
        self.also.iter().any(|also| Path::new(OsStr::from_bytes(also)).starts_with(&path))
    }
}

#[cfg(test)]
mod tests {
    use std::io::Cursor;

    use super::*;
    use crate::record::manifest::Writer;
    use crate::sys::tree::{Kind, Meta};

    fn object(kind: Kind) -> Object {
        Object::new(&Meta::sample(kind), false)
    }

    /// A list of paths: a directory ends with a slash, and is left where the next path leaves it.
    fn list(paths: &[&str]) -> Box<dyn BufRead + Send> {
        let mut writer = Writer::new(Vec::new()).unwrap();
        writer.object(OsStr::new("."), &object(Kind::Dir)).unwrap();
        writer.ignore(".dualroot", Kind::Dir).unwrap();
        let mut inside: Vec<&str> = Vec::new();
        for path in paths {
            while inside.last().is_some_and(|dir| !path.starts_with(dir)) {
                inside.pop();
                writer.leave().unwrap();
            }
            let name = path.trim_end_matches('/').rsplit('/').next().unwrap();
            let kind = if path.ends_with('/') { Kind::Dir } else { Kind::File };
            writer.object(OsStr::new(name), &object(kind)).unwrap();
            if kind == Kind::Dir {
                inside.push(path);
            }
        }
        (0..=inside.len()).for_each(|_| writer.leave().unwrap());
        Box::new(Cursor::new(writer.into_inner()))
    }

    /// Walks a tree, given as for [`list`], as the copy does; what was admitted.
    fn walk(selection: &mut Selection<'_>, tree: &[&str]) -> Result<Vec<String>> {
        let mut taken = Vec::new();
        let mut inside: Vec<&str> = Vec::new();
        let mut left_out: Option<&str> = None;
        for path in tree {
            if left_out.is_some_and(|dir| path.starts_with(dir)) {
                continue;
            }
            while inside.last().is_some_and(|dir| !path.starts_with(dir)) {
                inside.pop();
                selection.leave()?;
            }
            let name = OsStr::new(path.trim_end_matches('/').rsplit('/').next().unwrap());
            let admitted = selection.admits(name)?.is_some();
            if admitted {
                taken.push((*path).to_owned());
            }
            match (path.ends_with('/'), admitted) {
                (true, true) => {
                    selection.enter(name);
                    inside.push(path);
                }
                (true, false) => left_out = Some(path),
                (false, _) => {}
            }
        }
        for _ in 0..=inside.len() {
            selection.leave()?;
        }
        Ok(taken)
    }

    const TREE: [&str; 10] = [
        ".dualroot/",
        "bin/",
        "bin/cat",
        "bin/local",
        "etc/",
        "etc/own/",
        "etc/own/key",
        "etc/rc",
        "home/",
        "home/user",
    ];

    #[test]
    fn what_is_listed_is_taken_and_nothing_else() {
        let mut selection =
            Selection::new(Some(list(&["bin/", "bin/cat", "etc/", "etc/rc"])), BTreeSet::new())
                .unwrap();
        let taken = walk(&mut selection, &TREE).unwrap();
        assert_eq!(taken, ["bin/", "bin/cat", "etc/", "etc/rc"]);
        selection.complete().unwrap();
    }

    #[test]
    fn further_paths_are_taken_with_what_leads_to_them() {
        let also = ["etc/own/key", "none/there"].map(|p| p.as_bytes().to_vec());
        let mut selection =
            Selection::new(Some(list(&["bin/", "bin/cat"])), also.clone().into()).unwrap();
        let taken = walk(&mut selection, &TREE).unwrap();
        assert_eq!(taken, ["bin/", "bin/cat", "etc/", "etc/own/", "etc/own/key"]);
        selection.complete().unwrap();
        let mut alone = Selection::new(None, also.into()).unwrap();
        assert_eq!(walk(&mut alone, &TREE).unwrap(), ["etc/", "etc/own/", "etc/own/key"]);
        alone.complete().unwrap();
    }

    #[test]
    fn what_is_listed_and_not_there_is_missing() {
        for (listed, first, more) in [
            (&["bin/", "bin/cat", "bin/dd"][..], "bin/dd", 0),
            (&["a", "bin/", "bin/a", "bin/cat", "etc/"], "a", 1),
            (&["bin/", "bin/cat", "dev/", "dev/null", "dev/zero", "etc/", "zz/"], "dev", 1),
            // No directory any more, or one that the walk does not go into.
            (&["bin/", "bin/cat/", "bin/cat/deep/", "bin/cat/deep/a", "etc/"], "bin/cat/deep", 0),
        ] {
            let mut selection = Selection::new(Some(list(listed)), BTreeSet::new()).unwrap();
            walk(&mut selection, &TREE).unwrap();
            let error = selection.complete().unwrap_err();
            assert_eq!(error.path.as_deref(), Some(Path::new(first)), "{listed:?}");
            assert_eq!(error.cause.contains(&format!("as {more} more")), more > 0, "{error}");
        }
    }

    #[test]
    fn a_list_out_of_order_is_refused() {
        for listed in [&["etc/", "bin/"][..], &["bin/", "bin/local", "bin/cat"], &["a", "a"]] {
            let mut selection = Selection::new(Some(list(listed)), BTreeSet::new()).unwrap();
            let error = walk(&mut selection, &TREE).unwrap_err();
            assert!(error.to_string().contains(" comes behind "), "{error}");
        }
    }

    #[test]
    fn what_is_no_list_is_refused() {
        let whole = "#mtree\n. type=dir mode=0755\na type=file mode=0644\n..\n";
        for length in 0..whole.len() {
            let text = whole.as_bytes()[..length].to_vec();
            let failed = Selection::new(Some(Box::new(Cursor::new(text))), BTreeSet::new())
                .and_then(|mut selection| walk(&mut selection, &["a"]));
            assert!(failed.is_err() || length == whole.len() - 1, "{length}");
        }
    }
}
