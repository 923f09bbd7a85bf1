//! `partitions`: Junos's words to the letter, the same in JSON, and a bar for a terminal.

use serde_json::json;

use crate::harness::{Disk, Layout, Run, Scheme, program, ready, unmount};

const MIB: u64 = 1 << 20;

/// Two roots of 24 MB, two configs of 8 MB.
fn disk() -> Disk {
    let disk = Disk::new(Layout::default());
    disk.fill();
    disk
}

#[test]
fn as_junos_prints_it() {
    if !ready(&[]) {
        return;
    }
    let disk = disk();
    let name = disk.name();
    let expected = |active: usize, backup: usize, word: &str| {
        format!(
            "Boot Media: internal ({name})\n\
             Active Partition: {name}p{active}\n\
             Backup Partition: {name}p{backup}\n\
             Currently booted from: {word} ({name}p1)\n\
             Partitions information:\n\
             \x20 Partition  Size   Mountpoint\n\
             \x20 p1         24M    /\n\
             \x20 p2         24M    altroot\n\
             \x20 p3         8.0M   /config\n\
             \x20 p4                unused (backup config)\n"
        )
    };
    let run = disk.dualroot(&["partitions"]).exits(0);
    assert_eq!(run.stdout, expected(1, 2, "active"));
    assert_eq!(run.stderr, "");
    disk.activate(2);
    let run = disk.dualroot(&["partitions"]).exits(0);
    assert_eq!(run.stdout, expected(2, 1, "backup"));
    disk.assert_unmounted();
}

#[test]
fn as_json() {
    if !ready(&[]) {
        return;
    }
    let labels = [(1, "root-a")].into();
    let disk = Disk::new(Layout { labels, ..Layout::default() });
    disk.fill();
    let altroot = disk.root().join("altroot");
    disk.format(2);
    disk.mount(&disk.part(2), &altroot, true);
    let report = disk.dualroot(&["partitions", "--json"]).exits(0).json();
    let row =
        |n: usize, start: u64, size: u64, label: Option<&str>, point: Option<&str>, role: &str| {
            json!({
                "partition": format!("p{n}"), "device": disk.node(n), "start": start * MIB,
                "size": size * MIB, "type": "linux-data", "label": label, "mountpoint": point,
                "role": role,
            })
        };
    let expected = json!({
        "schema": 1, "medium": disk.name(), "size": 66 * MIB, "scheme": "MBR",
        "active": disk.node(1), "backup": disk.node(2), "booted": disk.node(1),
        "partitions": [
            row(1, 1, 24, Some("root-a"), Some("/"), "active"),
            row(2, 25, 24, None, Some("/altroot"), "backup"),
            row(3, 49, 8, None, Some("/config"), "config"),
            row(4, 57, 8, None, None, "backup-config"),
        ],
    });
    assert_eq!(report, expected);
    let run = disk.dualroot(&["partitions"]).exits(0);
    run.prints("  p2         24M    /altroot\n");
    unmount(&altroot);
}

#[test]
fn a_gpt_of_both_sectors_and_no_second_root() {
    if !ready(&[]) {
        return;
    }
    for sector in [512, 4096] {
        let part_labels = [(1, "rootA"), (2, "rootB"), (3, "spare")].into();
        let sizes_mb = vec![16, 16, 4];
        let types = [(3, "swap")].into();
        let layout = Layout {
            scheme: Scheme::Gpt,
            sector,
            sizes_mb,
            part_labels,
            types,
            ..Layout::default()
        };
        let disk = Disk::new(layout);
        unmount(&disk.root().join("config"));
        let report = disk.dualroot(&["partitions", "--json"]).exits(0).json();
        assert_eq!(report["scheme"], "GPT");
        let third = &report["partitions"][2];
        assert_eq!((&third["type"], &third["label"]), (&json!("linux-swap"), &json!("spare")));
        assert_eq!((&third["role"], &third["mountpoint"]), (&json!(null), &json!(null)));
        assert_eq!((&third["start"], &third["size"]), (&json!(33 * MIB), &json!(4 * MIB)));
        assert_eq!(report["partitions"][1]["role"], "backup");
    }
    let disk = Disk::new(Layout { sizes_mb: vec![16], ..Layout::default() });
    let run = disk.dualroot(&["partitions"]).exits(0).prints("Backup Partition: none\n");
    assert!(run.stdout.ends_with("  p1         16M    /\n"), "{run}");
    assert_eq!(disk.dualroot(&["partitions", "--json"]).json()["backup"], json!(null));
}

/// A further block, of the terminal's width.
#[test]
fn a_terminal_sees_a_bar() {
    if !ready(&["script", "stty"]) {
        return;
    }
    let disk = disk();
    let plain = disk.dualroot(&["partitions"]).exits(0).stdout;
    for columns in [40, 68] {
        let line = format!(
            "stty cols {columns}; exec {} -r {} partitions",
            env!("CARGO_BIN_EXE_dualroot"),
            disk.root().display()
        );
        let run = Run::of(program("script").args(["-qec", &line, "/dev/null"])).exits(0);
        let seen = run.stdout.replace("\r\n", "\n");
        let bar = seen.strip_prefix(&plain).unwrap_or_else(|| panic!("{run}"));
        let bar = bar.strip_prefix('\n').and_then(|b| b.strip_suffix('\n')).unwrap();
        assert_eq!(bar.chars().count(), columns, "{bar}");
        let wide = |name: &str| {
            let rest = &bar[bar.find(name).unwrap_or_else(|| panic!("no {name}: {bar}")) + 1..];
            rest.find(['|', '.', ']']).unwrap() + 1
        };
        // 24 MB of 66, and 8.
        for (name, mb) in [("|p1", 24), ("|p2", 24), ("|p3", 8), ("|p4", 8)] {
            let expected = mb * (columns - 2) / 66;
            assert!(wide(name).abs_diff(expected) <= 1, "{name}: {bar}");
        }
    }
}
