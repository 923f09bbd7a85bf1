//! The command line, as far as nothing is mounted and root is not needed.

use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::fs::Permissions;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::process::{Command, Stdio};

/// Exit code, stdout, stderr.
fn dualroot<S: AsRef<OsStr>>(args: &[S]) -> (i32, String, String) {
    #[allow(clippy::disallowed_methods)] // tests start the program
    let mut command = Command::new(env!("CARGO_BIN_EXE_dualroot"));
    let output = command.args(args).env("LC_ALL", "C").stdin(Stdio::null()).output().unwrap();
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    // No signal: it never dies of one here.
    (output.status.code().unwrap(), text(&output.stdout), text(&output.stderr))
}

#[test]
fn help_is_a_result() {
    for args in [&["--help"][..], &["-h"], &["help"]] {
        let (code, stdout, stderr) = dualroot(args);
        assert_eq!((code, stderr.as_str()), (0, ""), "{args:?}");
        for word in [
            "Usage: dualroot",
            "snapshot",
            "show",
            "verify",
            "partitions",
            "check",
            "clean",
            "table",
            "--root",
            "--json",
        ] {
            assert!(stdout.contains(word), "no {word}: {stdout}");
        }
        assert!(stdout.contains("4 busy or locked"), "the exit codes are told: {stdout}");
        assert!(stdout.lines().all(|l| l.chars().count() <= 80), "{stdout}");
    }
}

#[test]
fn every_command_has_help() {
    for verb in ["snapshot", "show", "verify", "partitions", "check", "clean"] {
        for args in [[verb, "--help"], [verb, "-h"], ["help", verb]] {
            let (code, stdout, stderr) = dualroot(&args);
            assert_eq!((code, stderr.as_str()), (0, ""), "{args:?}");
            assert!(stdout.contains(&format!("Usage: dualroot {verb}")), "{stdout}");
            assert!(stdout.lines().all(|l| l.chars().count() <= 80), "{stdout}");
        }
    }
}

#[test]
fn every_table_command_has_help() {
    for (verb, word) in [("save", "/config"), ("check", "--file"), ("restore", "--dry-run")] {
        let (code, stdout, stderr) = dualroot(&["table", verb, "--help"]);
        assert_eq!((code, stderr.as_str()), (0, ""));
        assert!(stdout.contains(&format!("Usage: dualroot table {verb}")), "{stdout}");
        assert!(stdout.contains(word), "{stdout}");
        assert!(stdout.lines().all(|l| l.chars().count() <= 80), "{stdout}");
    }
}

#[test]
fn version() {
    for args in [["--version"], ["-V"]] {
        let version = concat!("dualroot ", env!("CARGO_PKG_VERSION"), "\n");
        assert_eq!(dualroot(&args), (0, version.to_owned(), String::new()));
    }
}

/// The first seed's header, and only of what is text.
#[test]
fn a_member_heads_the_text() {
    let rule = "-".repeat(74);
    let missing = ["-r", "/nonexistent", "show"];
    let (code, _, plain) = dualroot(&missing);
    for (words, name) in [(&["--member", "fpc0"][..], "fpc0"), (&["--all-members"], "localre")] {
        let told = dualroot(&[words, &missing].concat());
        assert_eq!(told, (code, format!("{name}:\n{rule}\n"), plain.clone()));
        let (_, json, _) = dualroot(&[words, &["--json"], &missing].concat());
        assert!(json.starts_with('{') && json.lines().count() == 1, "{json}");
    }
}

/// Exit 2, a message on stderr, nothing on stdout, and nothing was done.
#[test]
fn what_makes_no_sense_is_usage() {
    let cases: [&[&str]; 30] = [
        &[],
        &["--member", "", "show"],
        &["--member", "fpc0", "--all-members", "show"],
        &["--media=", "show"],
        &["frobnicate"],
        &["--frobnicate", "show"],
        &["-r"],
        &["-c"],
        &["show", "--slice"],
        &["show", "--slice", "3"],
        &["show", "--slice", "0"],
        &["show", "--slice", ""],
        &["show", "--slice", "running"],
        &["verify", "--slice", "a"],
        &["snapshot", "--slice", "1"],
        &["snapshot", "--slice", "2"],
        &["snapshot", "--method", "magic"],
        &["snapshot", "--root-partition", "--config-partition"],
        &["snapshot", "extra"],
        &["snapshot", "--force=yes"],
        &["clean", "-n"],
        &["table"],
        &["table", "clear"],
        &["table", "save", "--medium", "da0"],
        &["table", "check", "-n"],
        &["table", "restore", "--medium"],
        &["show", "--force"],
        &["--progress", "fast", "show"],
        &["-q", "-v", "show"],
        &["-r", "/", "-r", "/", "show"],
    ];
    for args in cases {
        let (code, stdout, stderr) = dualroot(args);
        assert_eq!(code, 2, "{args:?}: {stderr}");
        assert_eq!(stdout, "", "{args:?}");
        assert!(stderr.contains("Usage: dualroot") || stderr.contains("--help"), "{stderr}");
    }
}

#[test]
fn an_unknown_slice_is_told_which_there_are() {
    let (code, _, stderr) = dualroot(&["show", "--slice", "3"]);
    assert_eq!(code, 2);
    for word in ["3", "--slice", "1, 2 or alternate"] {
        assert!(stderr.contains(word), "no {word}: {stderr}");
    }
}

/// A directory is no root: for everybody that is a refusal, for others than root the reason is
/// that they are not.
#[test]
fn a_refusal_as_text_and_as_json() {
    let dir = tempfile::tempdir().unwrap();
    let root = dir.path().to_str().unwrap();
    for verb in ["snapshot", "show", "verify", "clean"] {
        let (code, stdout, stderr) = dualroot(&["-r", root, verb]);
        assert_eq!((code, stdout.as_str()), (6, ""), "{stderr}");
        let lines: Vec<_> = stderr.lines().collect();
        assert_eq!(lines.len(), 2, "{stderr}");
        assert!(lines[0].starts_with("dualroot: ") && lines[1].starts_with("hint: "), "{stderr}");

        for args in [["--json", "-r", root, verb], ["-r", root, verb, "--json"]] {
            let (code, stdout, with_json) = dualroot(&args);
            assert_eq!(code, 6);
            assert_eq!(with_json, stderr, "stderr is the same");
            assert_eq!(stdout.lines().count(), 1, "one object on one line: {stdout}");
            let report: serde_json::Value = serde_json::from_str(&stdout).unwrap();
            assert_eq!(report["schema"], 1, "{report}");
            let error = report["error"].as_object().unwrap();
            let names: BTreeSet<_> = error.keys().map(String::as_str).collect();
            let all = ["code", "operation", "path", "offset", "cause", "hint"];
            assert_eq!(names, all.into(), "{report}");
            assert_eq!(error["code"], "refused");
            assert!(error["cause"].is_string(), "{report}");
            assert_eq!(error["operation"], verb, "the cause says no more of it");
            assert!(error["offset"].is_null(), "{report}");
            // The message is made of the same parts.
            assert!(lines[0].ends_with(error["cause"].as_str().unwrap()), "{report}");
            assert_eq!(lines[1], format!("hint: {}", error["hint"].as_str().unwrap()));
        }
        // However quiet: the result is told.
        let (code, stdout, quiet) = dualroot(&["-q", "-r", root, verb]);
        assert_eq!((code, stdout.as_str(), quiet), (6, "", stderr));
    }
    assert_eq!(dir.path().read_dir().unwrap().count(), 0, "something was made");
}

/// Paths are bytes.
#[test]
fn a_root_of_any_bytes() {
    let dir = tempfile::tempdir().unwrap();
    let root = dir.path().join(OsStr::from_bytes(b"\xff\n \x01"));
    std::fs::create_dir(&root).unwrap();
    let args = [OsStr::new("--json"), OsStr::new("-r"), root.as_os_str(), OsStr::new("show")];
    let (code, stdout, _) = dualroot(&args);
    assert_eq!(code, 6, "{stdout}");
    let report: serde_json::Value = serde_json::from_str(&stdout).unwrap();
    assert_eq!(report["error"]["code"], "refused");
}

/// A reader that goes away, as `head` does, is no failure.
#[test]
fn nobody_reads_the_result() {
    #[allow(clippy::disallowed_methods)] // tests start the program
    let mut command = Command::new(env!("CARGO_BIN_EXE_dualroot"));
    let (reader, writer) = std::io::pipe().unwrap();
    drop(reader);
    let output = command.arg("--help").stdout(writer).stderr(Stdio::piped()).output().unwrap();
    assert_eq!(output.status.code(), Some(0));
    assert_eq!(String::from_utf8_lossy(&output.stderr), "");
}

/// A result that cannot be printed is a failure: nobody was told.
#[test]
fn a_full_stdout_is_a_failure() {
    let full = || std::fs::OpenOptions::new().write(true).open("/dev/full").unwrap();
    let run = |args: &[&str]| {
        #[allow(clippy::disallowed_methods)] // tests start the program
        let mut command = Command::new(env!("CARGO_BIN_EXE_dualroot"));
        command.args(args).env("LC_ALL", "C").stdout(full()).stderr(Stdio::piped());
        let output = command.output().unwrap();
        (output.status.code().unwrap(), String::from_utf8_lossy(&output.stderr).into_owned())
    };
    let message = "dualroot: printing the result: No space left on device\n";
    for args in [["--help"], ["--version"]] {
        assert_eq!(run(&args), (1, message.to_owned()));
    }
    // Why it was not done is told first, and its code stays.
    let (code, stderr) = run(&["--json", "-r", "/nonexistent", "show"]);
    assert_eq!(code, dualroot(&["-r", "/nonexistent", "show"]).0);
    assert_eq!(stderr.lines().filter(|l| l.starts_with("dualroot: ")).count(), 2, "{stderr}");
    assert!(stderr.ends_with(message), "{stderr}");
    let (code, stderr) = run(&["--json", "show", "--slice", "3"]);
    assert_eq!(code, 2);
    assert!(stderr.starts_with("error: ") && stderr.ends_with(message), "{stderr}");
}

/// With `--json` the error has clap's words, too.
#[test]
fn usage_as_json() {
    for (args, cause) in [
        (
            &["snapshot", "--root-size", "10Q"][..],
            "invalid value '10Q' for '--root-size <SIZE>': a number of MB, or with k, m, g, t or \
             % behind it",
        ),
        (
            &["snapshot", "--method", "tre"],
            "invalid value 'tre' for '--method <METHOD>' [possible values: auto, tree, block]",
        ),
        (&["show", "--slyce", "1"], "unexpected argument '--slyce' found"),
        (&["frobnicate"], "unrecognized subcommand 'frobnicate'"),
    ] {
        let (code, stdout, stderr) = dualroot(&[args, &["--json"]].concat());
        assert_eq!(code, 2, "{stderr}");
        let report: serde_json::Value = serde_json::from_str(&stdout).unwrap();
        let error = &report["error"];
        assert_eq!((&error["code"], &error["cause"]), (&"usage".into(), &cause.into()));
        assert_eq!(error["hint"], "For more information, try '--help'.");
    }
    // Where there is only help, too.
    let (code, stdout, _) = dualroot(&["table", "--json"]);
    let report: serde_json::Value = serde_json::from_str(&stdout).unwrap();
    assert_eq!((code, &report["error"]["code"]), (2, &"usage".into()));
    assert_ne!(report["error"]["cause"], "");
}

/// Whatever it is.
#[test]
fn others_than_root_are_told() {
    if !nix::unistd::geteuid().is_root() {
        return;
    }
    let dir =
        tempfile::Builder::new().permissions(Permissions::from_mode(0o755)).tempdir().unwrap();
    let program = dir.path().join("dualroot");
    // By a process of its own: what another test starts meanwhile would keep it open for writing, and
    // so from being run (ETXTBSY).
    let from = env!("CARGO_BIN_EXE_dualroot");
    #[allow(clippy::disallowed_methods)] // tests start programs
    let copied = Command::new("cp").arg(from).arg(&program).status().unwrap();
    assert!(copied.success());
    for args in [
        &["snapshot"][..],
        &["show"],
        &["verify"],
        &["partitions"],
        &["check"],
        &["clean"],
        &["boot", "1"],
        &["confirm"],
        &["reject"],
        &["log"],
        &["auto-snapshot"],
        &["table", "save"],
        &["table", "check"],
        &["table", "restore"],
        &["factory", "save"],
    ] {
        #[allow(clippy::disallowed_methods)] // tests start the program
        let output = Command::new(&program).args(args).uid(65534).output().unwrap();
        let stderr = String::from_utf8_lossy(&output.stderr);
        assert_eq!(stderr, "dualroot: this needs root\nhint: run it as root\n", "{args:?}");
        assert_eq!(output.status.code(), Some(6), "{args:?}");
    }
}

#[test]
fn a_size_that_is_none_is_told_what_one_is() {
    for (args, words) in [
        (["--limit", "5%", "show"], "a number of MB, or with k, m, g or t behind it\n"),
        (["--limit", "fast", "show"], "a number of MB, or with k, m, g or t behind it\n"),
        (["--limit", "0", "show"], "nothing would pass\n"),
        (["snapshot", "--root-size", "99999999999999999999999"], "no medium is so large\n"),
        (["snapshot", "--swap-size", "101%"], "at most 100%\n"),
        (["snapshot", "--swap-size", "1.5g"], "or with k, m, g, t or % behind it\n"),
    ] {
        let (code, _, stderr) = dualroot(&args);
        assert_eq!(code, 2, "{stderr}");
        assert!(stderr.contains(words), "no {words}: {stderr}");
    }
}

/// It would be this machine that starts again. Before anything else is looked at.
#[test]
fn another_root_is_not_started_again() {
    if !nix::unistd::geteuid().is_root() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let root = dir.path().to_str().unwrap();
    for args in [
        &["boot", "1", "--reboot"][..],
        &["boot", "2", "--once", "--reboot"],
        &["reject", "--reboot"],
    ] {
        let (code, stdout, stderr) = dualroot(&[&["--json", "-r", root], args].concat());
        assert_eq!(code, 2, "{stderr}");
        assert!(stderr.contains("--reboot starts this machine again"), "{stderr}");
        let report: serde_json::Value = serde_json::from_str(&stdout).unwrap();
        assert_eq!(report["error"]["code"], "usage", "{report}");
    }
}
