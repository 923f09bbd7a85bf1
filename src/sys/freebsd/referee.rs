//! The base system's own tools as referees of what is parsed here: gpart(8), newfs(8), tunefs(8).
//! They work on memory disks, md(4), which need root: `cargo test -- --include-ignored`.

use std::fs::File;
use std::io::Read;

use crate::sys::referee::tool;
use crate::table::tests::{Device, the_backup_stands_in};
use crate::table::{self, Table, bsd, superblock};

const MB: u64 = 1 << 20;

/// A memory disk.
struct Medium {
    name: String,
    megabytes: u64,
}

impl Medium {
    fn new(megabytes: u64) -> Self {
        let size = format!("{megabytes}m");
        let said = tool("mdconfig", &["-a", "-t", "swap", "-L", "dualroot-unit", "-s", &size], "");
        Self { name: said.trim().to_owned(), megabytes }
    }

    /// Runs gpart(8) with these words on `md0` and what follows its name.
    fn gpart(&self, words: &str, suffix: &str) {
        let device = format!("{}{suffix}", self.name);
        let words: Vec<_> = words.split(' ').chain([&*device]).collect();
        tool("gpart", &words, "");
    }

    fn device(&self, suffix: &str) -> String {
        format!("/dev/{}{suffix}", self.name)
    }

    /// The first bytes of a device of it.
    fn window(&self, suffix: &str, length: usize) -> Vec<u8> {
        let mut bytes = vec![0; length];
        File::open(self.device(suffix)).unwrap().read_exact(&mut bytes).unwrap();
        bytes
    }

    /// All of it.
    fn bytes(&self) -> Vec<u8> {
        self.window("", usize::try_from(self.megabytes * MB).unwrap())
    }

    fn table(&self) -> Table {
        let inner = File::open(self.device("")).unwrap();
        let mut device = Device { inner, sector: 512 };
        table::read(&mut device, self.megabytes * MB, 512).unwrap().expect("a table")
    }
}

impl Drop for Medium {
    fn drop(&mut self) {
        tool("mdconfig", &["-d", "-o", "force", "-u", &self.name], "");
    }
}

#[test]
#[ignore = "needs root, for md(4)"]
fn slices_and_labels_of_gpart_are_read() {
    let medium = Medium::new(32);
    for words in [
        "create -s MBR",
        "add -t freebsd -b 2048 -s 20480 -i 1",
        "add -t freebsd -b 22528 -s 20480 -i 2",
        "add -t linux-swap -b 43008 -s 2048 -i 4",
        "set -a active -i 2",
    ] {
        medium.gpart(words, "");
    }
    let table = medium.table();
    let seen = table.entries.iter().map(|e| (e.index, e.start, e.size, &*e.kind, e.active));
    assert_eq!(
        seen.collect::<Vec<_>>(),
        [
            (1, MB, 10 * MB, "freebsd", false),
            (2, 11 * MB, 10 * MB, "freebsd", true),
            (4, 21 * MB, MB, "linux-swap", false)
        ]
    );
    for words in [
        "create -s BSD",
        "add -t freebsd-ufs -s 8192 -i 1",
        "add -t freebsd-swap -s 2048 -i 2",
        "add -t freebsd-ufs -i 5",
    ] {
        medium.gpart(words, "s2");
    }
    let label = bsd::read(&medium.window("s2", bsd::WINDOW), 11 * MB, 10 * MB, 512);
    let label = label.unwrap().unwrap();
    let seen = label.entries.iter().map(|e| (e.index, e.start, e.size, &*e.kind));
    assert_eq!(
        seen.collect::<Vec<_>>(),
        [
            (1, 0, 4 * MB, "freebsd-ufs"),
            (2, 4 * MB, MB, "freebsd-swap"),
            (5, 5 * MB, 5 * MB, "freebsd-ufs")
        ]
    );
}

#[test]
#[ignore = "needs root, for md(4)"]
fn entries_of_gpart_are_read() {
    let medium = Medium::new(32);
    for words in [
        "create -s GPT",
        "add -t freebsd-boot -b 2048 -s 1024 -i 1",
        "add -t freebsd-ufs -b 4096 -s 20480 -i 2 -l rootA",
        "add -t freebsd-ufs -b 24576 -s 20480 -i 3 -l rootB",
        "set -a bootme -i 2",
        "set -a bootonce -i 3",
    ] {
        medium.gpart(words, "");
    }
    let table = medium.table();
    let seen = table.entries.iter().map(|e| (e.index, e.start, &*e.kind, e.label.as_deref()));
    assert_eq!(
        seen.collect::<Vec<_>>(),
        [
            (1, MB, "freebsd-boot", None),
            (2, 2 * MB, "freebsd-ufs", Some("rootA")),
            (3, 12 * MB, "freebsd-ufs", Some("rootB"))
        ]
    );
    let flags = |n: u32| {
        let entry = table.by_index(n).unwrap();
        (entry.boot_me, entry.boot_once, entry.boot_failed)
    };
    // gpart(8): bootonce sets bootme as well.
    assert_eq!(
        [1, 2, 3].map(flags),
        [(false, false, false), (true, false, false), (true, true, false)]
    );
    assert!(table.entries.iter().all(|e| e.uuid.as_ref().is_some_and(|u| u.len() == 36)));
}

#[test]
#[ignore = "needs root, for md(4)"]
fn the_backup_of_gpart_stands_in_for_a_lost_gpt() {
    let medium = Medium::new(8);
    for words in
        ["create -s GPT", "add -t efi -b 2048 -s 2048", "add -t linux-data -b 8192 -s 1024"]
    {
        medium.gpart(words, "");
    }
    the_backup_stands_in(&medium.bytes());
}

#[test]
#[ignore = "needs root, for md(4)"]
fn a_ufs2_of_newfs_is_read_and_wiped() {
    use superblock::{UFS_JOURNAL, UFS_NFS4_ACLS, UFS_SOFT_UPDATES, UFS_TRIM};
    let medium = Medium::new(32);
    let node = medium.device("");
    tool("newfs", &["-U", "-t", "-L", "vmunit", &node], "");
    tool("tunefs", &["-j", "enable", "-N", "enable", &node], "");
    let window = medium.window("", superblock::WINDOW);
    let found = superblock::read(&window).unwrap();
    assert_eq!((found.fs.name(), found.label.as_deref()), ("ufs", Some("vmunit")));
    // FS_METACKHASH: newfs(8) has check hashes made of itself.
    assert_eq!(found.flags & !0x200, UFS_SOFT_UPDATES | UFS_JOURNAL | UFS_NFS4_ACLS | UFS_TRIM);
    assert!(found.clean);
    let free = found.free_blocks * u64::from(found.block);
    assert!((16 * MB..32 * MB).contains(&free), "{free}");
    assert!((2000..10_000).contains(&found.free_inodes), "{}", found.free_inodes);
    let wiped: Vec<_> = superblock::wipe_ranges(&window).iter().map(|r| (r.start, r.end)).collect();
    assert_eq!(wiped, [(65536, 73728)]);
    let root = superblock::root_inodes(&window).unwrap();
    let bytes = medium.window("", usize::try_from(root.end).unwrap());
    let mode = usize::try_from(root.start).unwrap() + 2 * 256;
    assert_eq!(bytes[mode..mode + 2], 0o040_755_u16.to_le_bytes());
}
