//! Health hooks: programs of the administrator's that say whether a slot is good.

use std::ffi::OsStr;
use std::time::Duration;

use serde::Serialize;

use crate::copy::progress::interrupted;
use crate::error::{Context, Error, Kind, Result};
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
    /// Whether it is content.
    pub passed: bool,
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

/// Runs all of them in the order of their names: each executable regular file. One that others than
/// root could have written is not run, and does not pass.
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
        if meta.kind != Object::File || meta.mode & 0o111 == 0 {
            log::info!("{} is no program", path.join(name).display());
            continue;
        }
        let hook = one(os, session, &path, name, &meta)?;
        log::info!("{}", hook.line());
        hooks.push(hook);
    }
    Ok(hooks)
}

fn one<O: Os>(
    os: &O,
    session: &Session,
    path: &std::path::Path,
    name: &OsStr,
    meta: &Meta,
) -> Result<Hook> {
    let hook = |passed, result: String, output| Hook {
        name: name.to_string_lossy().into_owned(),
        passed,
        result,
        output,
    };
    if let Some(why) = unsafe_owner(meta) {
        return Ok(hook(false, format!("not run, {why}"), String::new()));
    }
    let stop = || session.monitor.stopped().is_some();
    let ended = match os.run_hook(&path.join(name), LIMIT, &stop) {
        Ok(ended) => ended,
        Err(error) => return Ok(hook(false, error.to_string(), String::new())),
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
    Ok(hook(ended.code == Some(0), result, ended.tail))
}

/// Why root should not run what lies there.
fn unsafe_owner(meta: &Meta) -> Option<String> {
    match (meta.uid, meta.mode & 0o022) {
        (0, 0) => None,
        (0, _) => Some("others than root can write it".to_owned()),
        (uid, _) => Some(format!("it belongs to user {uid}")),
    }
}
