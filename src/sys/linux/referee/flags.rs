//! Boot flags that were changed, as sfdisk(8) and sgdisk(8) read them.

use std::os::unix::fs::FileExt;

use tempfile::NamedTempFile;

use super::{MB, medium, read};
use crate::sys::referee::tool;
use crate::table::flags::{Change, Flags, writes};

fn dump(file: &NamedTempFile) -> Vec<String> {
    let text = tool("sfdisk", &["--dump", file.path().to_str().unwrap()], "");
    text.lines().filter(|line| line.contains("start=")).map(str::to_owned).collect()
}

fn make(file: &NamedTempFile, change: &Change) {
    let mut reader = file.reopen().unwrap();
    for (at, bytes) in writes(&mut reader, 16 * MB, 512, change).unwrap() {
        file.as_file().write_all_at(&bytes, at).unwrap();
    }
    assert!(change.is_done(&read(file), None));
}

/// Flags of two entries, before and after.
fn change(file: &NamedTempFile, to: [Flags; 2]) -> Change {
    let mut change = Change::none(&read(file), None);
    for ((_, after), to) in change.entries.values_mut().zip(to) {
        *after = to;
    }
    change
}

#[test]
fn sfdisk_reads_the_same_and_nothing_else_has_changed() {
    let me = Flags { boot_me: true, ..Flags::default() };
    let once = Flags { boot_once: true, ..me };
    let script = "label: gpt\nstart=2048, size=2048, name=a, attrs=\"RequiredPartition\"\n\
        start=4096, size=2048, name=b, attrs=\"GUID:59\"\n";
    let file = medium(16 * MB, script);
    let before = dump(&file);
    make(&file, &change(&file, [me, once]));
    let after = dump(&file);
    let attributes = |line: &str| line.split("attrs=").nth(1).map(str::to_owned);
    assert_eq!(attributes(&after[0]).unwrap(), "\"RequiredPartition GUID:59\"");
    assert_eq!(attributes(&after[1]).unwrap(), "\"GUID:58,59\"");
    let rest = |lines: &[String]| -> Vec<String> {
        lines.iter().map(|l| l.split(", attrs=").next().unwrap().to_owned()).collect()
    };
    assert_eq!(rest(&before), rest(&after));
    let check = tool("sgdisk", &["-v", file.path().to_str().unwrap()], "");
    assert!(check.contains("No problems found"), "{check}");
    let file = medium(16 * MB, "label: dos\nsize=2M, type=a5, bootable\nsize=2M, type=a5\n");
    let (none, active) = (Flags::default(), Flags { active: true, ..Flags::default() });
    make(&file, &change(&file, [none, active]));
    let after = dump(&file);
    assert!(!after[0].contains("bootable") && after[1].contains("bootable"), "{after:?}");
}

/// Whatever of the writes was done, one copy is whole; and the change can be made again.
#[test]
fn a_change_that_was_interrupted_is_finished() {
    let me = Flags { boot_me: true, ..Flags::default() };
    let script = "label: gpt\nstart=2048, size=2048\nstart=4096, size=2048\n";
    for done in 0..=4 {
        let file = medium(16 * MB, script);
        let change = change(&file, [me, Flags::default()]);
        let mut reader = file.reopen().unwrap();
        let writes = writes(&mut reader, 16 * MB, 512, &change).unwrap();
        assert_eq!(writes.len(), 4);
        for (at, bytes) in writes.iter().take(done) {
            file.as_file().write_all_at(bytes, *at).unwrap();
        }
        let table = read(&file);
        let (old, new) = (change.is_due(&table, None), change.is_done(&table, None));
        assert!(old || new, "{done}");
        let mut again = Change::none(&table, None);
        for (_, after) in again.entries.values_mut() {
            *after = me;
        }
        make(&file, &again);
        let check = tool("sgdisk", &["-v", file.path().to_str().unwrap()], "");
        assert!(check.contains("No problems found"), "{done}: {check}");
    }
}
