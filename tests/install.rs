//! `scripts/install.sh` into a directory that stands for `/`, by somebody who is not root; and
//! whether the manual tells of all that the program takes.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Command;

/// nobody
const USER: u32 = 65534;
/// What makes a program one for FreeBSD: its dynamic linker.
const FREEBSD: &[u8] = b"\x7fELF\x02\x01\x01\0/libexec/ld-elf.so.1\0";
const LINUX: &[u8] = b"\x7fELF\x02\x01\x01\0/lib64/ld-linux-x86-64.so.2\0";

/// A copy of the scripts, beside the directory that they install into.
struct Stage {
    dir: tempfile::TempDir,
    root: bool,
}

/// Its name and its value.
type Variable<'a> = (&'a str, &'a Path);

struct Outcome {
    ok: bool,
    stdout: String,
    stderr: String,
}

#[allow(clippy::disallowed_methods)] // tests start programs
fn program(name: &str) -> Command {
    Command::new(name)
}

impl Stage {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let root = nix::unistd::geteuid().is_root();
        let scripts = Path::new(env!("CARGO_MANIFEST_DIR")).join("scripts");
        let status = program("cp").arg("-R").arg(scripts).arg(dir.path()).status().unwrap();
        assert!(status.success());
        let stage = Self { dir, root };
        fs::create_dir(stage.dest()).unwrap();
        fs::write(stage.at("freebsd"), FREEBSD).unwrap();
        fs::write(stage.at("linux"), LINUX).unwrap();
        if root {
            for path in [stage.dir.path().to_path_buf(), stage.dest()] {
                chown(path, Some(USER), Some(USER)).unwrap();
            }
        }
        stage
    }

    fn at(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn dest(&self) -> PathBuf {
        self.at("dest")
    }

    /// Runs the script with a mask that hides everything from others.
    fn run(&self, variables: &[Variable<'_>], words: &str) -> Outcome {
        let mut command = program("/bin/sh");
        command.arg("-c").arg(format!("umask 077; exec sh scripts/install.sh {words}"));
        command.current_dir(self.dir.path()).env_clear().env("PATH", "/bin:/usr/bin:/sbin");
        command.envs(variables.iter().map(|(name, value)| (name, value.as_os_str())));
        if self.root {
            command.uid(USER).gid(USER);
        }
        let output = command.output().unwrap();
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        Outcome {
            ok: output.status.success(),
            stdout: text(&output.stdout),
            stderr: text(&output.stderr),
        }
    }

    #[track_caller]
    fn install(&self, program: &str, prefix: Option<&str>) -> Outcome {
        let (program, dest) = (self.at(program), self.dest());
        let mut variables = vec![("DUALROOT", program.as_path()), ("DESTDIR", &dest)];
        variables.extend(prefix.map(|p| ("PREFIX", Path::new(p))));
        let outcome = self.run(&variables, "");
        assert!(outcome.ok, "{}", outcome.stderr);
        outcome
    }

    #[track_caller]
    fn uninstall(&self) -> Outcome {
        let outcome = self.run(&[("DESTDIR", &self.dest())], "--uninstall");
        assert!(outcome.ok, "{}", outcome.stderr);
        outcome
    }

    /// Every file with its mode; directories, with a slash behind, too.
    fn list(&self) -> BTreeMap<String, u32> {
        let mut found = BTreeMap::new();
        for entry in walkdir::WalkDir::new(self.dest()).min_depth(1) {
            let entry = entry.unwrap();
            let meta = entry.metadata().unwrap();
            let path = entry.path().strip_prefix(self.dest()).unwrap().to_str().unwrap();
            let slash = if meta.is_dir() { "/" } else { "" };
            found.insert(format!("{path}{slash}"), meta.permissions().mode() & 0o7777);
        }
        found
    }

    /// The files alone.
    fn files(&self) -> Vec<(String, u32)> {
        self.list().into_iter().filter(|(path, _)| !path.ends_with('/')).collect()
    }

    fn read(&self, path: &str) -> Vec<u8> {
        fs::read(self.dest().join(path)).unwrap()
    }
}

const EVERYWHERE: [(&str, u32); 3] = [
    ("usr/local/sbin/dualroot", 0o555),
    ("usr/local/share/examples/dualroot/dualroot.conf", 0o444),
    ("usr/local/share/man/man8/dualroot.8.gz", 0o444),
];

/// On FreeBSD: below `scripts` and below `etc`.
const SCRIPTS: [(&str, u32); 4] = [
    ("newsyslog.conf.d/dualroot.conf", 0o444),
    ("periodic/daily/460.dualroot", 0o555),
    ("rc.d/auto-snapshot", 0o555),
    ("rc.d/dualroot", 0o555),
];

fn expected(freebsd: bool) -> Vec<(String, u32)> {
    let scripts = SCRIPTS.iter().filter(|_| freebsd);
    let scripts = scripts.map(|(path, mode)| (format!("usr/local/etc/{path}"), *mode));
    scripts.chain(EVERYWHERE.map(|(path, mode)| (path.to_owned(), mode))).collect()
}

fn source(path: &str) -> String {
    fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join(path)).unwrap()
}

fn gunzip(path: &Path) -> String {
    let output = program("gzip").arg("-dc").arg(path).output().unwrap();
    assert!(output.status.success());
    String::from_utf8(output.stdout).unwrap()
}

#[test]
fn what_is_installed() {
    for (program, content, rc_script) in [("linux", LINUX, false), ("freebsd", FREEBSD, true)] {
        let stage = Stage::new();
        let outcome = stage.install(program, None);
        assert_eq!(stage.files(), expected(rc_script));
        assert_eq!(outcome.stdout.lines().count(), expected(rc_script).len(), "{}", outcome.stdout);
        for (path, mode) in stage.list() {
            assert!(!path.ends_with('/') || mode == 0o755, "{path}: {mode:o}");
            let owner = fs::metadata(stage.dest().join(&path)).unwrap().uid();
            assert_eq!(owner, fs::metadata(stage.dest()).unwrap().uid(), "{path}");
        }
        assert_eq!(stage.read("usr/local/sbin/dualroot"), content);
        let manual = gunzip(&stage.dest().join("usr/local/share/man/man8/dualroot.8.gz"));
        assert_eq!(manual, source("scripts/dualroot.8"));
        if rc_script {
            for (path, _) in SCRIPTS {
                let script = stage.read(&format!("usr/local/etc/{path}"));
                assert_eq!(String::from_utf8(script).unwrap(), source(&format!("scripts/{path}")));
            }
        }
    }
}

#[test]
fn twice_is_once() {
    let stage = Stage::new();
    stage.install("freebsd", None);
    let (list, manual) = (stage.list(), stage.read("usr/local/share/man/man8/dualroot.8.gz"));
    // gzip(1): neither a name nor a time, which would make it another file tomorrow.
    assert_eq!((manual[3], &manual[4..8]), (0, &[0; 4][..]));
    stage.install("freebsd", None);
    assert_eq!(stage.list(), list);
    assert_eq!(stage.read("usr/local/share/man/man8/dualroot.8.gz"), manual, "the same file");
    // A new program takes the old one's place.
    stage.install("linux", None);
    assert_eq!(stage.read("usr/local/sbin/dualroot"), LINUX);
}

#[test]
fn another_prefix_is_known_to_all() {
    let stage = Stage::new();
    stage.install("freebsd", Some("/opt/dual-root_1.0+/"));
    let moved =
        |(path, mode): (String, u32)| (path.replace("usr/local", "opt/dual-root_1.0+"), mode);
    assert_eq!(stage.files(), expected(true).into_iter().map(moved).collect::<Vec<_>>());
    let mut texts = Vec::new();
    for (path, _) in SCRIPTS {
        let script = stage.read(&format!("opt/dual-root_1.0+/etc/{path}"));
        let script = String::from_utf8(script).unwrap();
        let named = script.contains("\"/opt/dual-root_1.0+/sbin/dualroot\"");
        assert!(named || path.starts_with("newsyslog"), "{script}");
        texts.push(script);
    }
    let manual = gunzip(&stage.dest().join("opt/dual-root_1.0+/share/man/man8/dualroot.8.gz"));
    assert!(manual.contains("/opt/dual-root_1.0+/etc/rc.d/dualroot"));
    texts.push(manual);
    for text in texts {
        assert!(!text.contains("/usr/local"), "{text}");
    }
}

#[test]
fn uninstall_takes_its_own_and_nothing_else() {
    let stage = Stage::new();
    stage.install("freebsd", None);
    let theirs = ["usr/local/sbin/other", "usr/local/share/examples/dualroot/mine.conf"];
    for path in theirs {
        fs::write(stage.dest().join(path), "theirs").unwrap();
    }
    let outcome = stage.uninstall();
    assert_eq!(outcome.stdout.lines().count(), 7, "{}", outcome.stdout);
    let left: Vec<_> = stage.files().into_iter().map(|(path, _)| path).collect();
    assert_eq!(left, theirs);
    fs::remove_file(stage.dest().join(theirs[1])).unwrap();
    // There is nothing any more: that is no failure, and the sample's directory goes.
    assert_eq!(stage.uninstall().stdout, "");
    assert!(!stage.dest().join("usr/local/share/examples/dualroot").exists());
    assert!(stage.dest().join("usr/local/share/man/man8").exists(), "others use it too");
}

/// Without `DUALROOT` the release build there is.
#[test]
fn the_release_build() {
    let stage = Stage::new();
    fs::create_dir_all(stage.at("target/release")).unwrap();
    let built = stage.at("target/release/dualroot");
    fs::copy(stage.at("freebsd"), &built).unwrap();
    fs::set_permissions(&built, fs::Permissions::from_mode(0o755)).unwrap();
    let outcome = stage.run(&[("DESTDIR", &stage.dest())], "");
    assert!(outcome.ok, "{}", outcome.stderr);
    assert_eq!(stage.files(), expected(true));
}

#[test]
fn what_is_refused() {
    let stage = Stage::new();
    fs::write(stage.at("text"), "#!/bin/sh\n").unwrap();
    let (dest, text, none) = (stage.dest(), stage.at("text"), stage.at("none"));
    let other = stage.at(if cfg!(target_os = "freebsd") { "linux" } else { "freebsd" });
    let elsewhere = stage.at("elsewhere");
    let cases: [(&[Variable<'_>], &str, &str); 7] = [
        (&[("DESTDIR", &dest), ("DUALROOT", &text)], "", "is no program"),
        (&[("DESTDIR", &dest), ("DUALROOT", &none)], "", "no such file"),
        // Never into the system that could not run it.
        (&[("PREFIX", &elsewhere), ("DUALROOT", &other)], "", "set DESTDIR"),
        (&[("DESTDIR", Path::new("dest")), ("DUALROOT", &other)], "", "DESTDIR must begin"),
        (
            &[("DESTDIR", &dest), ("PREFIX", Path::new("opt")), ("DUALROOT", &other)],
            "",
            "PREFIX must",
        ),
        (
            &[("DESTDIR", &dest), ("PREFIX", Path::new("/a b")), ("DUALROOT", &other)],
            "",
            "PREFIX may",
        ),
        (&[("DESTDIR", &dest), ("DUALROOT", &other)], "--remove", "no option --remove"),
    ];
    for (variables, words, why) in cases {
        let outcome = stage.run(variables, words);
        assert!(!outcome.ok && outcome.stderr.contains(why), "{why}: {}", outcome.stderr);
        assert_eq!(outcome.stdout, "", "{why}");
    }
    assert_eq!(stage.list(), BTreeMap::new());
    assert!(!elsewhere.exists());
}

/// Whoever adds an option adds it to the manual.
#[test]
fn the_manual_has_every_option() {
    let manual = source("scripts/dualroot.8");
    let help = |words: &[&str]| {
        let output = program(env!("CARGO_BIN_EXE_dualroot")).args(words).output().unwrap();
        assert!(output.status.success());
        String::from_utf8(output.stdout).unwrap()
    };
    let general = help(&["--help"]);
    let verbs: Vec<_> = general
        .lines()
        .skip_while(|l| *l != "Commands:")
        .skip(1)
        .take_while(|l| !l.is_empty())
        // What does not begin a line goes on with the one before.
        .filter(|l| l.starts_with("  ") && !l.starts_with("   "))
        .map(|l| l.split_whitespace().next().unwrap())
        .collect();
    assert!(verbs.contains(&"snapshot") && verbs.contains(&"clean"), "{verbs:?}");
    let mut options = 0;
    for verb in &verbs {
        assert!(manual.contains(&format!(".Ss {verb}\n")) || *verb == "help", "no {verb}");
        let mut text = help(&["help", verb]);
        if *verb == "table" {
            text += &["save", "check", "restore"].map(|word| help(&["help", verb, word])).concat();
        }
        for word in text.split(|c: char| !(c.is_ascii_alphanumeric() || c == '-')) {
            if let Some(long) = word.strip_prefix("--").filter(|w| !w.is_empty()) {
                options += 1;
                let named = format!("Fl -{long}");
                assert!(manual.contains(&named), "dualroot {verb} --{long} is not in the manual");
            }
        }
    }
    assert!(options > 30, "{options}");
    for code in ["0", "1", "2", "3", "4", "5", "6", "128+ Ns Ar n"] {
        assert!(manual.contains(&format!(".It {code}\n")), "no exit code {code}");
    }
}

/// Of an error, which needs no slots.
#[test]
fn the_manual_has_the_keys_of_an_error() {
    let manual = source("scripts/dualroot.8");
    let output = program(env!("CARGO_BIN_EXE_dualroot"))
        .args(["-r", "/proc/self/fd", "--json", "show"])
        .output()
        .unwrap();
    let report: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    let section = manual.split(".Sh ").find(|part| part.starts_with("JSON\n")).unwrap();
    let keys = report["error"].as_object().unwrap().keys();
    assert!(keys.len() >= 6);
    for key in keys {
        let words = |c: char| !(c.is_ascii_alphanumeric() || c == '_');
        assert!(section.split(words).any(|word| word == key), "no {key}");
    }
}

/// The sample is one that the program takes, as it is and with everything switched on.
#[test]
fn the_sample_configuration() {
    let sample = source("scripts/dualroot.conf");
    assert!(sample.lines().all(|l| l.is_empty() || l.starts_with('#')), "{sample}");
    let default = dualroot::slot::config::Config::parse(sample.as_bytes()).unwrap();
    assert_eq!(default, dualroot::slot::config::Config::default());
    // A comment has a blank behind its sign, what is switched off has none.
    let on: Vec<_> = sample
        .lines()
        .map(|l| l.strip_prefix('#').filter(|rest| !rest.starts_with(' ')).unwrap_or(l))
        .collect();
    let config = dualroot::slot::config::Config::parse(on.join("\n").as_bytes()).unwrap();
    assert!(config.product.is_some() && config.file_system_snapshots == Some(true), "{config:?}");
    assert!(config.root.slots.is_some() && config.config.slots.is_some(), "{config:?}");
    assert_eq!(config.media.len(), 1, "{config:?}");
}
