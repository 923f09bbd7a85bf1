//! Health hooks: programs of the administrator's that say whether a slot is good.

use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::result::Result as StdResult;
use std::time::Duration;

use serde::Serialize;

use crate::copy::follow::follow_anywhere;
use crate::copy::progress::interrupted;
use crate::copy::stack::open_below;
use crate::error::{Context, Error, Kind, Result, describe};
use crate::ops::Session;
use crate::slot::view::View;
use crate::sys::Os;
use crate::sys::tree::{Dir, Kind as Object, Meta};

/// Where they are.
pub const DIR: &str = "/etc/dualroot/health.d";
/// How long one may take.
const LIMIT: Duration = Duration::from_secs(60);

/// What one of them said.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Hook {
    /// Its name.
    pub name: String,
    /// Whether it is content; `None` where it was not asked, since it is no program.
    pub passed: Option<bool>,
    /// How it ended.
    pub result: String,
    /// The end of what it printed.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub output: String,
}

impl Hook {
    /// A line for the history.
    pub(super) fn line(&self) -> String {
        let last = self.output.lines().next_back().map_or(String::new(), |l| format!(": {l}"));
        format!("{}: {}{last}", self.name, self.result)
    }
}

/// Runs all of them in the order of their names: each executable regular file, and what a symbolic
/// link leads to. One that others than root could have written is not run, and does not pass. What is
/// no program (a README, a sample) was not meant to be asked, or lacks its mode.
///
/// # Errors
/// The directory cannot be read, or a signal came.
pub(super) fn run<O: Os>(os: &O, session: &Session, view: &View) -> Result<Vec<Hook>> {
    let path = view.below(DIR);
    let dir = match os.open_dir(&path) {
        Err(e) if e.errno == Some(nix::errno::Errno::ENOENT as i32) => return Ok(Vec::new()),
        dir => dir?,
    };
    // Who can write to the directory can put anything there.
    for at in [&path, &view.below("/etc/dualroot")] {
        let meta = os.open_dir(at)?.meta().doing_to("reading", at)?;
        if let Some(why) = unsafe_owner(&meta) {
            return Err(Error::new(Kind::Failed, "checking", why).path(at));
        }
    }
    let mut hooks = Vec::new();
    for (name, _) in dir.names().doing_to("listing", &path)?.iter() {
        let meta = dir.stat(name).doing_to("reading", path.join(name))?;
        let hook = match program(os, view, &path.join(name), meta) {
            Found::Program(program) => one(os, session, name, &program)?,
            Found::Refused(why) => hook(name, Some(false), format!("not run, {why}")),
            Found::Other(what) => hook(name, None, format!("not run, {what}")),
        };
        log::info!("{}", hook.line());
        hooks.push(hook);
    }
    Ok(hooks)
}

fn hook(name: &OsStr, passed: Option<bool>, result: String) -> Hook {
    let name = name.to_string_lossy().into_owned();
    Hook { name, passed, result, output: String::new() }
}

/// What a name in the directory is.
enum Found {
    /// This is to be run.
    Program(PathBuf),
    /// It was meant to be, and root should not, or cannot.
    Refused(String),
    /// No program.
    Other(&'static str),
}

fn program<O: Os>(os: &O, view: &View, path: &Path, meta: Meta) -> Found {
    let (program, meta) = if meta.kind == Object::Symlink {
        match led(os, view, path) {
            Ok(led) => led,
            Err(why) => return Found::Refused(why),
        }
    } else {
        (path.to_path_buf(), meta)
    };
    if meta.kind != Object::File {
        return Found::Other("it is no regular file");
    }
    if meta.mode & 0o111 == 0 {
        return Found::Other("it is not executable");
    }
    // By the link's own name, as a shell would, unless it leads elsewhere from here.
    let same = os.canonical(path).is_ok_and(|here| here == program);
    let program = if same { path.to_path_buf() } else { program };
    unsafe_owner(&meta).map_or(Found::Program(program), Found::Refused)
}

/// Where a symbolic link leads the system that has this root. Who can write to a directory on the way
/// could let it lead elsewhere.
fn led<O: Os>(os: &O, view: &View, path: &Path) -> StdResult<(PathBuf, Meta), String> {
    let root = os.open_dir(&view.root).map_err(|e| e.to_string())?;
    let below = path.strip_prefix(&view.root).unwrap_or(path);
    let mut foul = None;
    let place = follow_anywhere(&root, below, &mut |dir, handle| {
        let why = unsafe_owner(&handle.meta()?);
        foul =
            foul.take().or(why.map(|why| format!("{}: {why}", Path::new("/").join(dir).display())));
        Ok(())
    });
    let place = place.map_err(|e| format!("its link cannot be followed: {}", describe(&e)))?;
    if let Some(why) = foul {
        return Err(why);
    }
    let (above, name) = (place.path.parent(), place.path.file_name());
    let meta = match above.zip(name) {
        _ if place.kind.is_none() => return Err("its link leads to nothing".to_owned()),
        Some((above, name)) => open_below(&root, above).and_then(|dir| dir.stat(name)),
        // The root itself.
        None => root.meta(),
    };
    Ok((view.root.join(&place.path), meta.map_err(|e| describe(&e))?))
}

fn one<O: Os>(os: &O, session: &Session, name: &OsStr, program: &Path) -> Result<Hook> {
    let stop = || session.monitor.stopped().is_some();
    let ended = match os.run_hook(program, LIMIT, &stop) {
        Ok(ended) => ended,
        Err(error) => return Ok(hook(name, Some(false), error.to_string())),
    };
    if let Some(signal) = session.monitor.stopped() {
        return Err(interrupted(signal));
    }
    let result = match ended.code {
        Some(0) => "passed".to_owned(),
        Some(code) => format!("failed with exit {code}"),
        None if ended.late => format!("took more than {} seconds", LIMIT.as_secs()),
        None => "was ended by a signal".to_owned(),
    };
    let passed = Some(ended.code == Some(0));
    Ok(Hook { output: ended.tail, ..hook(name, passed, result) })
}

/// Why root should not run what lies there.
fn unsafe_owner(meta: &Meta) -> Option<String> {
    match (meta.uid, meta.mode & 0o022) {
        (0, 0) => None,
        (0, _) => Some("others than root can write it".to_owned()),
        (uid, _) => Some(format!("it belongs to user {uid}")),
    }
}
