//! The main job: snapshot, show and verify on the layouts that there are.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;

use serde_json::{Value, json};

use crate::harness::{
    Disk, Layout, Scheme, fingerprint, pattern, ready, tool, try_tool, unique, unmount,
};

/// The first seed, letter by letter.
const SEED: &str = "umount: /altroot: not currently mounted
Copying / to /altroot.. (this may take a few minutes)
umount: /altconfig: not currently mounted
Copying /config to /altconfig.. (this may take a few minutes)
The following filesystems were archived: / /config
";

/// The packages of the first seed.
const PACKAGES: [&str; 3] =
    ["jbase-ex-12.3R12-S15", "jkernel-ex-3300-12.3R12-S15", "jcrypto-ex-12.3R12-S15"];

/// `/config` without the partition tables that are kept there.
fn config(disk: &Disk) -> BTreeMap<PathBuf, String> {
    let mut found = fingerprint(&disk.root().join("config"));
    found.retain(|path, _| !path.starts_with(".dualroot"));
    found
}

fn id(disk: &Disk, n: usize, what: &str) -> String {
    let out = tool("blkid", &[&"-p", &"-o", &"value", &"-s", &what, &disk.part(n)]);
    String::from_utf8(out).unwrap().trim().to_owned()
}

#[test]
fn the_seeds_lines_come_letter_by_letter() {
    if !ready(&[]) {
        return;
    }
    let disk = Disk::new(Layout::default());
    disk.fill();
    let before = (fingerprint(disk.root()), config(&disk));
    assert_eq!(disk.state(), "empty");
    let run = disk.snapshot();
    assert!(run.stdout.starts_with(SEED), "{run}");
    assert_eq!(run.stderr, "");
    disk.assert_unmounted();
    let after = (fingerprint(disk.root()), config(&disk));
    assert_eq!(before, after, "the running root was touched");
    disk.dualroot(&["verify"]).exits(0).prints("equal to its manifest");

    // What was copied is there, and says that it is its own slot.
    let copy = disk.mount_alternate(true);
    assert_eq!(fs::read(copy.path().join("boot/kernel/kernel")).unwrap(), pattern(700_000, 1));
    let fstab = fs::read_to_string(copy.path().join("etc/fstab")).unwrap();
    assert_eq!(
        fstab,
        format!("{} / ext4 rw 0 1\n{} /config ext4 rw 0 2\n", disk.node(2), disk.node(4))
    );
    let config = disk.mount_slice(4, true);
    let content = fs::read_to_string(config.path().join("juniper.conf")).unwrap();
    assert_eq!(content, "system { host-name ex; }\n");
}

#[test]
fn show_has_the_documented_fields() {
    if !ready(&[]) {
        return;
    }
    let disk = Disk::new(Layout::default());
    disk.fill();
    disk.snapshot();
    let report = disk.dualroot(&["show", "--json"]).exits(0).json();
    assert_eq!(report["schema"], 1);
    let [one, two] = report["slots"].as_array().unwrap().as_slice() else { panic!("{report}") };
    let fields = |slot: &Value| {
        let (slot, device) = (slot["slot"].clone(), slot["device"].clone());
        (slot, device)
    };
    assert_eq!(fields(one), (json!(1), json!(disk.node(1))));
    assert_eq!(fields(two), (json!(2), json!(disk.node(2))));
    for (slot, role, running) in [(one, "primary", true), (two, "backup", false)] {
        assert_eq!(slot["role"], role, "{report}");
        assert_eq!(slot["booted"], running, "{report}");
        assert_eq!(slot["active"], running, "{report}");
        assert_eq!(slot["medium"], "internal", "{report}");
        assert_eq!(slot["product"], "Example OS", "{report}");
        assert!(slot["packages"].is_array(), "{report}");
    }
    assert_eq!(two["state"], "valid");
    for time in ["created", "verified"] {
        assert!(two[time].as_str().unwrap().ends_with('Z'), "{report}");
    }
    // The fstab of the copy is as long as the source's.
    let (files, bytes) = files_and_bytes(&disk);
    assert_eq!((&two["files"], &two["bytes"]), (&json!(files), &json!(bytes)), "{report}");

    // A list also where it holds one.
    let only = disk.dualroot(&["show", "--slice", "2", "--json"]).exits(0).json();
    assert_eq!(only["slots"], json!([two]));
    let only = disk.dualroot(&["show", "--slice", "alternate", "--json"]).exits(0).json();
    assert_eq!(only["slots"], json!([two]));
    let only = disk.dualroot(&["show", "--slice", "1", "--json"]).exits(0).json();
    assert_eq!(only["slots"], json!([one]));
    disk.dualroot(&["show", "--slice", "3"]).exits(2);
}

/// Names of files on the root, and bytes of content: a file of two names counts once.
fn files_and_bytes(disk: &Disk) -> (u64, u64) {
    let mut files = 0;
    let mut sizes = BTreeMap::new();
    for path in fingerprint(disk.root()).keys() {
        let meta = fs::symlink_metadata(disk.root().join(path)).unwrap();
        if meta.is_file() {
            files += 1;
            sizes.insert(meta.ino(), meta.len());
        }
    }
    (files, sizes.values().sum())
}

#[test]
fn snapshot_has_the_documented_fields() {
    if !ready(&[]) {
        return;
    }
    let disk = Disk::new(Layout::default());
    disk.fill();
    let report = disk.dualroot(&["--json", "snapshot"]).exits(0).json();
    assert_eq!(report["schema"], 1);
    assert_eq!(report["archived"], json!(["/", "/config"]));
    assert!(report["seconds"].is_number());
    let [root, config] = report["pairs"].as_array().unwrap().as_slice() else { panic!("{report}") };
    for (pair, source, target) in [(root, "/", "/altroot"), (config, "/config", "/altconfig")] {
        assert_eq!((&pair["source"], &pair["target"]), (&json!(source), &json!(target)));
        assert_eq!((&pair["method"], &pair["verified"]), (&json!("tree"), &json!(true)));
        for number in ["files", "bytes", "written_bytes", "seconds"] {
            assert!(pair[number].is_number(), "{number}: {report}");
        }
    }
    let report = disk.dualroot(&["verify", "--json"]).exits(0).json();
    assert_eq!((&report["slot"], &report["device"]), (&json!(2), &json!(disk.node(2))));
    assert_eq!(report["differences"], json!([]));
    assert!(report["files"].is_u64() && report["bytes"].is_u64(), "{report}");
}

#[test]
fn packages_are_shown_as_in_the_seed() {
    if !ready(&[]) {
        return;
    }
    let disk = Disk::new(Layout::default());
    disk.write_fstab();
    disk.write_junos_packages(&PACKAGES);
    disk.snapshot();
    let text = disk.dualroot(&["show"]).exits(0).stdout;
    let lines: Vec<_> = text.lines().collect();
    let head = format!("Information for snapshot on       internal ({}) (backup)", disk.node(2));
    let start = lines.iter().position(|l| **l == head).unwrap_or_else(|| panic!("{text}"));
    let date = lines[start + 1].strip_prefix("Creation date: ").unwrap_or_else(|| panic!("{text}"));
    jiff::civil::DateTime::strptime("%b %d %H:%M:%S %Y", date).unwrap();
    assert_eq!(
        lines[start + 2..start + 6],
        [
            "JUNOS version on snapshot:",
            "  jbase  : ex-12.3R12-S15",
            "  jcrypto-ex: 12.3R12-S15",
            "  jkernel-ex-3300: 12.3R12-S15",
        ],
        "{text}"
    );
    let primary =
        format!("Information for snapshot on       internal ({}) (primary)", disk.node(1));
    assert_eq!(lines[0], primary, "{text}");
    let slot = disk.slot(2);
    assert_eq!(slot["product"], "JUNOS");
    assert_eq!(slot["packages"][0], json!({"name": "jbase", "version": "ex-12.3R12-S15"}));
}

#[test]
fn dpkg_packages_are_listed() {
    if !ready(&[]) {
        return;
    }
    let disk = Disk::new(Layout::default());
    disk.fill();
    disk.write(
        "var/lib/dpkg/status",
        "Package: zlib1g\nStatus: install ok installed\nVersion: 1:1.2.13-1\n\n\
         Package: gone\nStatus: deinstall ok config-files\nVersion: 1\n\n\
         Package: bash\nStatus: install ok installed\nDescription: shell\n more\nVersion: 5.2-2\n",
    );
    disk.snapshot();
    let expected = json!([
        {"name": "bash", "version": "5.2-2"},
        {"name": "zlib1g", "version": "1:1.2.13-1"},
    ]);
    assert_eq!(disk.slot(2)["packages"], expected);
    assert_eq!(disk.slot(1)["packages"], expected);
    let shown = "Example OS version on snapshot:\n  bash   : 5.2-2\n  zlib1g : 1:1.2.13-1\n";
    disk.dualroot(&["show", "--slice", "2"]).exits(0).prints(shown);
}

#[test]
fn a_gpt_works_like_an_mbr() {
    if !ready(&[]) {
        return;
    }
    let disk = Disk::new(Layout { scheme: Scheme::Gpt, ..Layout::default() });
    disk.fill();
    assert!(disk.snapshot().stdout.starts_with(SEED));
    assert_eq!(
        (disk.slot(2)["state"].clone(), disk.slot(2)["role"].clone()),
        (json!("valid"), json!("backup"))
    );
    disk.dualroot(&["verify"]).exits(0);
}

#[test]
fn gpt_labels_tell_the_twins_apart() {
    if !ready(&[]) {
        return;
    }
    // The second root is not the next slice, and a data slice of the same type lies between.
    let disk = Disk::new(Layout {
        scheme: Scheme::Gpt,
        sizes_mb: vec![24, 8, 8, 24, 8],
        part_labels: [(1, "rootA"), (2, "data"), (3, "configA"), (4, "rootB"), (5, "configB")]
            .into(),
        ..Layout::default()
    });
    disk.fill();
    let data = disk.hash_device(2);
    assert!(disk.snapshot().stdout.starts_with(SEED));
    let slot = disk.slot(2);
    assert_eq!((&slot["device"], &slot["state"]), (&json!(disk.node(4)), &json!("valid")));
    assert_eq!(disk.hash_device(2), data, "the data slice was written");
    assert_eq!(fs::read(disk.mount_slice(5, true).path().join("juniper.conf")).unwrap().len(), 25);
}

#[test]
fn xfs_is_copied_to_xfs() {
    if !ready(&["mkfs.xfs", "blkid"]) {
        return;
    }
    let stem = unique();
    let disk = Disk::new(Layout {
        fs: "xfs",
        labels: [(1, format!("{stem}r1").leak() as &str)].into(),
        ..Layout::roots(320, 320)
    });
    disk.fill();
    let run = disk.snapshot();
    let lines: Vec<_> = run.stdout.lines().collect();
    assert_eq!(lines[2], "The following filesystems were archived: /", "{run}");
    assert_eq!(disk.state(), "valid");
    disk.dualroot(&["verify"]).exits(0);
    assert_eq!(id(&disk, 2, "TYPE"), "xfs");
    assert_eq!(id(&disk, 2, "LABEL"), format!("{stem}r2"));
    // Both can be mounted at once: they have their own identities.
    let copy = disk.mount_alternate(true);
    assert_eq!(fs::read(copy.path().join("boot/kernel.old")).unwrap(), pattern(700_000, 1));
}

#[test]
fn a_config_without_a_second_one_is_shared() {
    if !ready(&[]) {
        return;
    }
    // Slice 4 is there, but nothing says that it is a config: not its size, no label.
    for sizes_mb in [vec![24, 24, 8], vec![24, 24, 8, 12]] {
        let fourth = sizes_mb.len() == 4;
        let disk = Disk::new(Layout { sizes_mb, ..Layout::default() });
        disk.fill();
        if fourth {
            disk.format(4);
        }
        let before = config(&disk);
        let data = fourth.then(|| disk.hash_device(4));
        let run = disk.snapshot();
        let lines: Vec<_> = run.stdout.lines().collect();
        assert_eq!(lines[..2], SEED.lines().take(2).collect::<Vec<_>>(), "{run}");
        assert_eq!(lines[2], "The following filesystems were archived: /");
        let shared =
            format!("/config ({}) is shared by both slots and was left alone", disk.node(3));
        assert_eq!(lines[3], shared, "{run}");
        assert!(!run.stdout.contains("/altconfig"), "{run}");
        let report = disk.dualroot(&["snapshot", "--json"]).exits(0).json();
        assert_eq!((&report["archived"], &report["shared"]), (&json!(["/"]), &json!(disk.node(3))));
        assert_eq!(config(&disk), before);
        assert_eq!(fourth.then(|| disk.hash_device(4)), data, "slice 4 was written");
        // The copy goes on using the one that there is.
        let fstab =
            fs::read_to_string(disk.mount_alternate(true).path().join("etc/fstab")).unwrap();
        assert!(fstab.contains(&format!("{} /config", disk.node(3))), "{fstab}");
    }
}

#[test]
fn a_dry_run_changes_nothing_and_prints_the_plan() {
    if !ready(&[]) {
        return;
    }
    let disk = Disk::new(Layout::default());
    disk.fill();
    fs::remove_dir(disk.root().join("altroot")).unwrap();
    let state = |disk: &Disk| {
        let hashes = [2, 4].map(|n| disk.hash_device(n));
        (hashes, fingerprint(disk.root()), fingerprint(&disk.root().join("config")))
    };
    let before = state(&disk);
    let run = disk.dualroot(&["snapshot", "-n"]).exits(0);
    let (one, two, three, four) = (disk.node(1), disk.node(2), disk.node(3), disk.node(4));
    let expected = [
        format!("1. make the directory {}", disk.root().join("altroot").display()),
        format!("2. erase the old copy of / on {two} and flush"),
        format!("copy / ({one}) to /altroot ({two}) and flush"),
        format!("read the copy of / on {two} again and compare"),
        format!("copy /config ({three}) to /altconfig ({four}) and flush"),
        format!("read the copy of /config on {four} again and compare"),
        format!("write the record of /config on {four} and flush"),
        format!("write the record of / on {two} and flush"),
    ];
    for line in expected {
        assert!(run.stdout.contains(&line), "no {line:?}: {run}");
    }
    assert!(run.stdout.trim_end().ends_with(&format!("write the record of / on {two} and flush")));
    let plan = disk.dualroot(&["snapshot", "-n", "--json"]).exits(0).json();
    let steps = plan["plan"].as_array().unwrap().len();
    assert_eq!(steps, run.stdout.lines().count());
    assert!(before == state(&disk), "the dry run changed something");

    // Over a valid copy too.
    disk.snapshot();
    let before = state(&disk);
    disk.dualroot(&["snapshot", "-n"]).exits(0);
    assert!(before == state(&disk), "the dry run changed something");
    assert_eq!(disk.state(), "valid");
}

#[test]
fn looking_changes_nothing() {
    if !ready(&[]) {
        return;
    }
    let disk = Disk::new(Layout::default());
    disk.fill();
    disk.snapshot();
    let before = [2, 4].map(|n| disk.hash_device(n));
    disk.dualroot(&["show"]).exits(0);
    disk.dualroot(&["verify"]).exits(0);
    disk.dualroot(&["clean"]).exits(0);
    assert_eq!([2, 4].map(|n| disk.hash_device(n)), before);
}

#[test]
fn a_second_snapshot_replaces_the_first() {
    if !ready(&[]) {
        return;
    }
    let disk = Disk::new(Layout::default());
    disk.fill();
    disk.snapshot();
    let first = disk.slot(2);
    disk.write("etc/new", "new\n");
    fs::remove_file(disk.root().join("usr/share/doc/7.txt")).unwrap();
    disk.write("config/juniper.conf", "changed\n");
    assert!(disk.snapshot().stdout.starts_with(SEED));
    let second = disk.slot(2);
    assert_eq!(second["state"], "valid");
    assert!(second["created"].as_str() > first["created"].as_str(), "{first} {second}");
    assert_eq!(second["files"], first["files"]);
    disk.dualroot(&["verify"]).exits(0);
    let copy = disk.mount_alternate(true);
    assert_eq!(fs::read(copy.path().join("etc/new")).unwrap(), b"new\n");
    assert!(!copy.path().join("usr/share/doc/7.txt").exists());
    let config = disk.mount_slice(4, true);
    assert_eq!(fs::read(config.path().join("juniper.conf")).unwrap(), b"changed\n");
}

#[test]
fn the_role_follows_the_boot_flag_and_a_flagged_alternate_is_refused() {
    if !ready(&[]) {
        return;
    }
    let disk = Disk::new(Layout::default());
    disk.fill();
    disk.snapshot();
    let before = [2, 4].map(|n| disk.hash_device(n));
    disk.activate(2);
    let roles = |n: u64| {
        let slot = disk.slot(n);
        (slot["role"].clone(), slot["active"].clone(), slot["booted"].clone())
    };
    assert_eq!(roles(1), (json!("backup"), json!(false), json!(true)));
    assert_eq!(roles(2), (json!("primary"), json!(true), json!(false)));
    disk.dualroot(&["show"]).exits(0).prints(&format!("internal ({}) (primary)", disk.node(2)));
    let words = format!("the boot flags select the alternate slot 2 ({})", disk.node(2));
    disk.dualroot(&["snapshot"]).fails(6, &words).says("\nhint: ");
    let refused = disk.dualroot(&["snapshot", "--json"]).exits(6).json();
    assert_eq!(refused["error"]["code"], "refused");
    assert!(refused["error"]["cause"].as_str().unwrap().contains(&words), "{refused}");
    for field in ["operation", "path", "offset", "hint"] {
        assert!(refused["error"].get(field).is_some(), "{refused}");
    }
    assert_eq!([2, 4].map(|n| disk.hash_device(n)), before);
    assert_eq!(disk.state(), "valid");
    // By force the flag moves first.
    disk.dualroot(&["snapshot", "--force"]).exits(0);
    assert_eq!(roles(2), (json!("backup"), json!(false), json!(false)));
    disk.snapshot();
}

#[test]
fn only_one_part_can_be_copied() {
    if !ready(&[]) {
        return;
    }
    let disk = Disk::new(Layout::default());
    disk.fill();
    disk.snapshot();
    let before = disk.hash_device(2);
    disk.write("config/juniper.conf", "changed\n");
    let report = disk.dualroot(&["snapshot", "--config-partition", "--json"]).exits(0).json();
    assert_eq!(report["archived"], json!(["/config"]));
    assert_eq!(disk.hash_device(2), before, "the root's copy was touched");
    disk.dualroot(&["verify"]).exits(0);
    let before = disk.hash_device(4);
    let report = disk.dualroot(&["snapshot", "--root-partition", "--json"]).exits(0).json();
    assert_eq!(report["archived"], json!(["/"]));
    assert_eq!(disk.hash_device(4), before, "the config's copy was touched");
    // The slot goes on with its own config, which it has had since the first snapshot.
    let fstab = fs::read_to_string(disk.mount_alternate(true).path().join("etc/fstab")).unwrap();
    assert!(fstab.contains(&format!("{} /config ", disk.node(4))), "{fstab}");
    disk.dualroot(&["verify"]).exits(0);
    assert_eq!(disk.state(), "valid");
    disk.dualroot(&["snapshot", "--root-partition", "--config-partition"]).exits(2);
}

/// What names devices in every way, with the given names of `/`, `/config` and their twins.
struct Names<'a> {
    root: [&'a str; 2],
    config: [&'a str; 2],
    root_ids: [&'a str; 2],
    config_ids: [&'a str; 2],
    nodes: [&'a str; 4],
    partition_ids: [&'a str; 2],
}

impl Names<'_> {
    fn fstab(&self) -> String {
        let [root, altroot] = self.root;
        let [config, _] = self.config;
        let [root_id, _] = self.root_ids;
        let [config_id, altconfig_id] = self.config_ids;
        let [node, altnode, config_node, _] = self.nodes;
        let [partition_id, _] = self.partition_ids;
        format!(
            "# /dev/sda1 {node} LABEL={root}\t \n\
             LABEL={root}\t\t/ \text4   rw,noatime\t0 1   # LABEL={root} \n\
             \n\
             \x20 UUID={root_id} /mnt/by-uuid ext4 noauto 0 0\r\n\
             {node}\t/mnt/by\\040node ext4 noauto,ro 0\n\
             PARTUUID={partition_id} /mnt/p ext4 noauto\n\
             /dev/disk/by-label/{root} /mnt/l ext4 noauto 0 0\n\
             \t LABEL={config}  /config ext4 rw,{node} 0 2\n\
             UUID={config_id} /mnt/c ext4 noauto 0 0\n\
             {config_node} /mnt/d ext4 noauto 0 0\n\
             LABEL={altroot} /altroot ext4 ro,noauto 0 0\n\
             UUID={altconfig_id} /altconfig ext4 ro,noauto 0 0\n\
             #{altnode} /altroot ext4 ro 0 0\n\
             {node}0 /mnt/other ext4 noauto 0 0\n\
             tmpfs /tmp tmpfs rw,size=64m 0 0"
        )
    }

    fn loader(&self) -> String {
        let [node, _, _, _] = self.nodes;
        format!(
            "# vfs.root.mountfrom=\"ext4:{node}\"\n\
             autoboot_delay=\"3\"\t# {node}\n\
             vfs.root.mountfrom=\"ext4:{node}\"   # the slot\n\
             vfs.root.mountfrom.options=\"rw\"\n\
             my_comment=\"{node}\""
        )
    }
}

/// The copy's fstab and loader.conf are the source's with the slots changed, and every other byte
/// is kept. The second round proves it for copies that were there before, and whatever names the
/// source's fstab gives the copies, they still lead there when they were formatted again.
#[test]
fn fstab_and_loader_conf_are_rewritten_to_the_byte() {
    if !ready(&["blkid"]) {
        return;
    }
    let stem = unique();
    let label = |name: &str| -> &'static str { format!("{stem}{name}").leak() };
    let [root1, root2] = ["root1", "root2"].map(label);
    let [config1, config2] = ["conf-a", "conf-b"].map(label);
    let labels = [(1, root1), (2, root2), (3, config1), (4, config2)];
    let disk = Disk::new(Layout { labels: labels.into(), ..Layout::default() });
    disk.fill();
    disk.format(2);
    disk.format(4);
    let ids: BTreeMap<_, _> = [1, 2, 3, 4].map(|n| (n, id(&disk, n, "UUID"))).into();
    let parts: Vec<_> = [1, 2].map(|n| id(&disk, n, "PART_ENTRY_UUID")).into();
    let nodes: Vec<_> = (1..=4).map(|n| disk.node(n)).collect();
    let names = Names {
        root: [root1, root2],
        config: [config1, config2],
        root_ids: [&ids[&1], &ids[&2]],
        config_ids: [&ids[&3], &ids[&4]],
        nodes: [&nodes[0], &nodes[1], &nodes[2], &nodes[3]],
        partition_ids: [&parts[0], &parts[1]],
    };
    for round in 1..=2 {
        disk.write("conf/base/etc/fstab", names.fstab());
        disk.write("boot/loader.conf", names.loader());
        let new = |n: usize| id(&disk, n, "UUID");
        let altconfig = new(4);
        let names = Names { config_ids: [&ids[&3], &altconfig], ..names };
        disk.write("etc/fstab", names.fstab());
        disk.snapshot();
        let (new_root, new_config) = (new(2), new(4));
        assert_eq!(id(&disk, 2, "LABEL"), root2);
        assert_eq!(id(&disk, 4, "LABEL"), config2);
        let copied = Names {
            root: [root2, root1],
            config: [config2, config1],
            root_ids: [&new_root, &ids[&1]],
            config_ids: [&new_config, &ids[&3]],
            nodes: [&nodes[1], &nodes[0], &nodes[3], &nodes[2]],
            partition_ids: [&parts[1], &parts[0]],
        };
        // What stands in comments, in options and in foreign values stays.
        let restored = |mut text: String| {
            for (changed, kept) in [
                (
                    format!("# /dev/sda1 {} LABEL={root2}", nodes[1]),
                    format!("# /dev/sda1 {} LABEL={root1}", nodes[0]),
                ),
                (format!("# LABEL={root2} \n"), format!("# LABEL={root1} \n")),
                (format!("rw,{}", nodes[1]), format!("rw,{}", nodes[0])),
                (format!("#{} /altroot", nodes[0]), format!("#{} /altroot", nodes[1])),
                (format!("{}0 /mnt/other", nodes[1]), format!("{}0 /mnt/other", nodes[0])),
                (
                    format!("# vfs.root.mountfrom=\"ext4:{}", nodes[1]),
                    format!("# vfs.root.mountfrom=\"ext4:{}", nodes[0]),
                ),
                (format!("\"3\"\t# {}", nodes[1]), format!("\"3\"\t# {}", nodes[0])),
                (format!("my_comment=\"{}\"", nodes[1]), format!("my_comment=\"{}\"", nodes[0])),
            ] {
                text = text.replace(&changed, &kept);
            }
            text
        };
        let copy = disk.mount_alternate(true);
        let read = |path: &str| fs::read_to_string(copy.path().join(path)).unwrap();
        assert_eq!(read("etc/fstab"), restored(copied.fstab()), "round {round}");
        assert_eq!(read("boot/loader.conf"), restored(copied.loader()), "round {round}");
        // The source keeps its own.
        assert_eq!(fs::read_to_string(disk.root().join("etc/fstab")).unwrap(), names.fstab());
        drop(copy);
        disk.dualroot(&["verify"]).exits(0);
    }
}

/// A clone of the medium (the same labels, the same identities) is attached: a name in fstab then
/// means two devices, and the one on the running medium or none is written, never the clone.
#[test]
fn a_clone_of_the_medium_is_never_written() {
    if !ready(&["blkid"]) {
        return;
    }
    let stem = unique();
    let label = |name: &str| -> &'static str { format!("{stem}{name}").leak() };
    let labels: BTreeMap<_, _> = [(1, label("r1")), (2, label("r2"))].into();
    let layout = Layout { labels: labels.clone(), ..Layout::roots(24, 24) };
    let disks = [Disk::new(layout.clone()), Disk::new(layout)];
    let uuid = "5eed0000-0000-4000-8000-0000".to_owned() + &format!("{:08x}", std::process::id());
    for disk in &disks {
        disk.format(2);
        tool("tune2fs", &[&"-f", &"-U", &uuid, &disk.part(2)]);
    }
    for (names, words) in
        [(format!("LABEL={}", labels[&2]), "label"), (format!("UUID={uuid}"), "uuid")]
    {
        for n in [0, 1] {
            let (own, other) = (&disks[n], &disks[1 - n]);
            own.write(
                "etc/fstab",
                format!("{} / ext4 rw 0 1\n{names} /altroot ext4 ro,noauto 0 0\n", own.node(1)),
            );
            let before = (own.hash_device(2), other.hash_device(2));
            let run = own.dualroot(&["snapshot"]);
            assert_eq!(other.hash_device(2), before.1, "by {words}: the clone was written: {run}");
            if run.code == 0 {
                assert_eq!(own.state(), "valid", "{}", own.slot(2));
            } else {
                run.fails(6, &names);
                assert_eq!(own.hash_device(2), before.0);
            }
            // Only the first round may have formatted it. tune2fs(8) wants a check that is no older
            // than the last mount, in seconds.
            try_tool("e2fsck", &[&"-f", &"-p", &own.part(2)]);
            tool("tune2fs", &[&"-f", &"-U", &uuid, &own.part(2)]);
        }
    }
}

/// The copy is a root: taken for `/`, it is the running one, and its copy is the first.
#[test]
fn the_copy_runs_and_is_copied_back() {
    if !ready(&[]) {
        return;
    }
    let disk = Disk::new(Layout::default());
    disk.fill();
    disk.snapshot();
    let root = disk.root();
    unmount(&root.join("config"));
    unmount(root);
    disk.mount(&disk.part(2), root, false);
    disk.mount(&disk.part(4), &root.join("config"), false);
    disk.activate(2);
    let shown = disk.dualroot(&["show", "--json"]).exits(0).json();
    let of = |n: usize, field: &str| shown["slots"][n - 1][field].clone();
    assert_eq!(
        (of(2, "booted"), of(2, "role"), of(2, "state")),
        (json!(true), json!("primary"), json!("valid"))
    );
    assert_eq!(
        (of(1, "booted"), of(1, "role"), of(1, "state")),
        (json!(false), json!("backup"), json!("invalid"))
    );
    // The running slot is never verified: it changes while it runs.
    disk.dualroot(&["verify", "--slice", "2"]).fails(6, "slot 2 is running");
    let run = disk.snapshot();
    assert!(run.stdout.starts_with(SEED), "{run}");
    let slot = disk.slot(1);
    assert_eq!((&slot["state"], &slot["device"]), (&json!("valid"), &json!(disk.node(1))));
    disk.dualroot(&["verify"]).exits(0);
    let fstab = fs::read_to_string(disk.mount_slice(1, true).path().join("etc/fstab")).unwrap();
    assert_eq!(
        fstab,
        format!("{} / ext4 rw 0 1\n{} /config ext4 rw 0 2\n", disk.node(1), disk.node(3))
    );
    // Its mounts are slices 1 and 3 now; those of 2 and 4 are the test's.
    unmount(&root.join("config"));
    unmount(root);
}

#[test]
fn nice_gives_way_to_everybody() {
    if !ready(&["cc", "ionice"]) {
        return;
    }
    let disk = Disk::new(Layout::roots(16, 16));
    disk.fill();
    let halted = disk.halt(&["--nice", "snapshot"], ("create", "20.txt", 0));
    let pid = halted.running.pid().to_string();
    // proc_pid_stat(5): the 19th field, the 17th behind the command's name.
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
    let nice = stat.rsplit_once(')').unwrap().1.split_whitespace().nth(16).unwrap().to_owned();
    let class = String::from_utf8(tool("ionice", &[&"-p", &pid])).unwrap();
    halted.go().wait_soon().exits(0);
    assert_eq!((nice.as_str(), class.trim()), ("19", "idle"));
}

#[test]
fn no_more_passes_than_the_limit() {
    if !ready(&[]) {
        return;
    }
    let disk = Disk::new(Layout::roots(16, 16));
    disk.fill();
    disk.write("large", pattern(2 << 20, 7));
    // What is copied and what is read again: twice what the limit lets pass in a second each.
    let report = disk.dualroot(&["--json", "--limit", "1", "snapshot"]).exits(0).json();
    let pair = &report["pairs"][0];
    for time in ["copy_seconds", "verify_seconds"] {
        assert!(pair[time].as_f64().unwrap() > 1.5, "{report}");
    }
    for wrong in ["0", "10%", "fast"] {
        disk.dualroot(&["--limit", wrong, "snapshot"]).exits(2);
    }
}
