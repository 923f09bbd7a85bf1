//! Discovery on hand-made views.

use std::path::{Path, PathBuf};

use super::*;
use crate::device::{Class, Lower, Provider};
use crate::error::Kind;
use crate::slot::fstab;
use crate::table::superblock::{FileSystem, Superblock};

const MB: u64 = 1 << 20;

/// Builds views: media, slices, BSD partitions, mounts, fstab.
#[derive(Default)]
struct Build(View);

impl Build {
    fn new() -> Self {
        let mut view = View { root: PathBuf::from("/"), ..View::default() };
        view.config_path = PathBuf::from("/etc/dualroot.conf");
        Self(view)
    }

    fn provider(&mut self, name: &str, class: Class, size: u64, lower: &[(Id, u64)]) -> Id {
        let lower = lower.iter().map(|&(id, offset)| Lower { id, offset: Some(offset) }).collect();
        self.0.devices.providers.push(Provider {
            name: name.to_owned(),
            aliases: Vec::new(),
            class,
            size,
            sector: 512,
            number: None,
            lower,
            removable: false,
        });
        self.0.devices.providers.len() - 1
    }

    /// A medium with slices of (size in MB, type, label, active).
    fn medium(&mut self, name: &str, scheme: Scheme, slices: &[(u64, &str, &str, bool)]) -> Id {
        let medium = self.provider(name, Class::Disk, 4096 * MB, &[]);
        let infix = if scheme == Scheme::Mbr { "s" } else { "p" };
        let mut entries = Vec::new();
        let mut start = MB;
        for (n, &(size, kind, label, active)) in slices.iter().enumerate() {
            let index = u32::try_from(n).unwrap() + 1;
            self.provider(
                &format!("{name}{infix}{index}"),
                Class::Partition { index },
                size * MB,
                &[(medium, start)],
            );
            entries.push(Entry {
                index,
                start,
                size: size * MB,
                kind: kind.to_owned(),
                label: (!label.is_empty()).then(|| label.to_owned()),
                active: active && scheme == Scheme::Mbr,
                boot_me: active && scheme == Scheme::Gpt,
                ..Entry::default()
            });
            start += size * MB;
        }
        self.0.tables.insert(medium, Table { scheme, sector: 512, disk_id: None, entries });
        medium
    }

    /// A BSD partition `letter` over a whole slice.
    fn bsd(&mut self, slice: &str, letter: char, offset: u64, size: u64) {
        let below = self.id(slice);
        let index = u32::from(letter) - u32::from('a') + 1;
        let name = format!("{slice}{letter}");
        self.provider(&name, Class::Partition { index }, size, &[(below, offset)]);
    }

    fn id(&self, name: &str) -> Id {
        self.0.devices.find(Path::new(name)).unwrap()
    }

    fn mount(&mut self, source: &str, point: &str) {
        self.0.mounts.push(Mount {
            source: source.to_owned(),
            number: None,
            point: PathBuf::from(point),
            fs: "ufs".to_owned(),
            whole: true,
            read_only: true,
            id: [0, 0],
        });
    }

    fn fstab(&mut self, text: &str) {
        self.0.fstab = fstab::parse(text.as_bytes()).unwrap();
    }

    fn label(&mut self, name: &str, label: &str) {
        let id = self.id(name);
        self.0.superblocks.insert(
            id,
            Superblock {
                fs: FileSystem::Ufs2,
                label: Some(label.to_owned()),
                id: format!("{id:016x}"),
                block: 4096,
                whole_block: 32768,
                free_blocks: 0,
                free_inodes: 0,
                inode: 0,
                clean: true,
                flags: 0,
            },
        );
    }

    fn pairs(&self) -> Vec<(String, String)> {
        let layout = self.0.discover().unwrap();
        let name = |id: Id| self.0.devices.get(id).name.clone();
        layout.pairs.iter().map(|p| (name(p.source), name(p.target))).collect()
    }

    fn refusal(&self) -> String {
        let error = self.0.discover().unwrap_err();
        assert_eq!(error.kind, Kind::Refused);
        error.to_string()
    }
}

fn pair(a: &str, b: &str) -> (String, String) {
    (a.to_owned(), b.to_owned())
}

const FREEBSD: &str = "freebsd";

/// The EX layout of the first seed.
fn ex(running: char) -> Build {
    let mut b = Build::new();
    let slices = [
        (184, FREEBSD, "", true),
        (184, FREEBSD, "", false),
        (500, FREEBSD, "", false),
        (124, FREEBSD, "", false),
    ];
    b.medium("da0", Scheme::Mbr, &slices);
    b.bsd("da0s1", 'a', 0, 184 * MB);
    b.bsd("da0s2", 'a', 0, 184 * MB);
    b.bsd("da0s3", 'd', 0, 300 * MB);
    b.bsd("da0s3", 'e', 300 * MB, 200 * MB);
    b.bsd("da0s4", 'd', 0, 62 * MB);
    b.bsd("da0s4", 'e', 62 * MB, 62 * MB);
    b.mount(&format!("/dev/da0s{running}a"), "/");
    b.mount("/dev/da0s3e", "/var");
    b.mount("/dev/da0s4d", "/config");
    b.fstab(&format!(
        "/dev/da0s{running}a / ufs ro 1 1\n/dev/da0s3e /var ufs rw 2 2\n\
         /dev/da0s3d /var/tmp ufs rw 2 2\n/dev/da0s4d /config ufs rw 2 2\n"
    ));
    b
}

#[test]
fn the_first_seed_by_slice_and_letter() {
    for (running, other) in [('1', '2'), ('2', '1')] {
        let b = ex(running);
        let root = pair(&format!("da0s{running}a"), &format!("da0s{other}a"));
        assert_eq!(b.pairs(), [root, pair("da0s4d", "da0s4e")]);
        let slots = b.0.discover().unwrap().slots;
        assert_eq!(slots.map(|s| s.number), [1, 2]);
        assert_eq!(slots[0].running, running == '1');
        assert!(slots[0].active && !slots[1].active, "the active flag is on slice 1");
    }
}

#[test]
fn the_second_seed_by_fstab_on_two_media() {
    let mut b = Build::new();
    b.medium("ad0", Scheme::Mbr, &[(500, FREEBSD, "", true)]);
    b.medium("ad1", Scheme::Mbr, &[(900, FREEBSD, "", true)]);
    for name in ["ad0s1", "ad1s1"] {
        b.bsd(name, 'a', 0, 300 * MB);
        b.bsd(name, 'e', 300 * MB, 100 * MB);
    }
    b.mount("/dev/ad0s1a", "/");
    b.mount("/dev/ad0s1e", "/config");
    b.fstab(
        "/dev/ad0s1a / ufs rw 1 1\n/dev/ad0s1e /config ufs rw 2 2\n\
             /dev/ad1s1a /altroot ufs rw,noauto 0 0\n/dev/ad1s1e /altconfig ufs rw,noauto 0 0\n",
    );
    assert_eq!(b.pairs(), [pair("ad0s1a", "ad1s1a"), pair("ad0s1e", "ad1s1e")]);
    assert!(b.0.discover().unwrap().slots[0].active, "on two media what runs is active");
}

#[test]
fn labels_lead_to_the_same_slices() {
    let mut b = ex('1');
    let s1a = b.id("da0s1a");
    b.provider("ufs/root1", Class::Alias, 184 * MB, &[(s1a, 0)]);
    b.0.mounts[0].source = "/dev/ufs/root1".to_owned();
    b.fstab("/dev/ufs/root1 / ufs ro 1 1\n");
    assert_eq!(b.pairs()[0], pair("da0s1a", "da0s2a"));
}

#[test]
fn gpt_by_label_before_order() {
    let mut b = Build::new();
    let ufs = "freebsd-ufs";
    b.medium(
        "vtbd0",
        Scheme::Gpt,
        &[
            (1, "freebsd-boot", "boot", false),
            (100, ufs, "rootA", false),
            (100, ufs, "var", false),
            (100, ufs, "rootB", true),
        ],
    );
    b.mount("/dev/vtbd0p2", "/");
    assert_eq!(b.pairs(), [pair("vtbd0p2", "vtbd0p4")]);
    let slots = b.0.discover().unwrap().slots;
    assert!(slots[1].active && slots[0].running, "bootme is on the other one");
}

#[test]
fn gpt_by_order_among_its_type() {
    let mut b = Build::new();
    let ufs = "freebsd-ufs";
    let slices = [
        (1, "freebsd-boot", "", false),
        (99, ufs, "", true),
        (99, ufs, "", false),
        (9, ufs, "", false),
        (9, ufs, "", false),
    ];
    b.medium("vtbd0", Scheme::Gpt, &slices);
    b.mount("/dev/vtbd0p3", "/");
    b.mount("/dev/vtbd0p4", "/config");
    assert_eq!(b.pairs(), [pair("vtbd0p3", "vtbd0p2"), pair("vtbd0p4", "vtbd0p5")]);
}

#[test]
fn the_config_file_comes_first_and_works_from_both_sides() {
    for running in ['1', '2'] {
        let mut b = ex(running);
        b.0.config.root.slots = Some(["/dev/da0s1a".to_owned(), "/dev/da0s2a".to_owned()]);
        b.fstab("/dev/da0s3d /altroot ufs rw 0 0\n");
        assert_eq!(b.pairs()[0].0, format!("da0s{running}a"));
        assert_ne!(b.pairs()[0].1, "da0s3d");
    }
    let mut b = ex('1');
    b.0.config.root.slots = Some(["/dev/da0s3d".to_owned(), "/dev/da0s2a".to_owned()]);
    assert!(b.refusal().contains("but /dev/da0s1a is running"));
    b.0.config.root.slots = Some(["/dev/da0s1a".to_owned(), "/dev/da9".to_owned()]);
    assert!(b.refusal().contains("/dev/da9: no such device"));
}

#[test]
fn a_data_slice_is_never_taken_for_a_second_config() {
    // NanoBSD: s3 is /cfg, s4 is data, of another size and in no table of mounts.
    let mut b = Build::new();
    let slices = [
        (99, FREEBSD, "", true),
        (99, FREEBSD, "", false),
        (1, FREEBSD, "", false),
        (500, FREEBSD, "", false),
    ];
    b.medium("da0", Scheme::Mbr, &slices);
    b.mount("/dev/da0s1", "/");
    b.mount("/dev/da0s3", "/config");
    let layout = b.0.discover().unwrap();
    assert_eq!(layout.pairs.len(), 1);
    assert_eq!(layout.shared_config, Some(b.id("da0s3")));
    // The same size, but mounted elsewhere: in use by somebody.
    let mut b = ex('1');
    b.mount("/dev/da0s4e", "/data");
    assert_eq!(b.pairs().len(), 1);
    // Named so.
    b.label("da0s4d", "config");
    b.label("da0s4e", "altconfig");
    assert_eq!(b.pairs()[1], pair("da0s4d", "da0s4e"));
}

#[test]
fn the_config_of_either_slot_leads_to_the_other() {
    for (own, other) in [("da0s4d", "da0s4e"), ("da0s4e", "da0s4d")] {
        let mut b = ex('1');
        // Another of the same size, which belongs to neither.
        b.bsd("da0s4", 'f', 124 * MB, 62 * MB);
        b.0.mounts.retain(|m| m.point != Path::new("/config"));
        b.mount(&format!("/dev/{own}"), "/config");
        b.fstab(&format!("/dev/da0s1a / ufs ro 1 1\n/dev/{own} /config ufs rw 2 2\n"));
        assert_eq!(b.pairs()[1], pair(own, other));
    }
}

#[test]
fn a_partition_that_its_slices_label_hides_is_still_the_slot() {
    for (hidden, running) in [('2', '1'), ('1', '1')] {
        let mut b = ex(running);
        let slice = format!("da0s{hidden}");
        let gone = b.id(&format!("{slice}a"));
        b.0.devices.providers[gone].name = "gone".to_owned();
        b.0.devices.providers[gone].lower.clear();
        let below = b.id(&slice);
        b.provider("ufs/hides", Class::Alias, 184 * MB, &[(below, 0)]);
        let point = if hidden == running { "/" } else { "/altroot" };
        b.0.mounts.retain(|m| m.point != Path::new(point));
        b.mount("/dev/ufs/hides", point);
        let entry = Entry { index: 1, size: 184 * MB, ..Entry::default() };
        let label = Table { scheme: Scheme::Bsd, sector: 512, disk_id: None, entries: vec![entry] };
        b.0.reveal(below, label);
        assert_eq!(b.pairs()[0], pair("da0s1a", "da0s2a"), "{hidden} is hidden");
        let id = b.id(&format!("{slice}a"));
        let mount = b.0.mount_at(Path::new(point)).unwrap();
        assert_eq!(b.0.provider_of(mount), Some(id));
        let layout = b.0.discover().unwrap();
        b.0.guard(&layout, false).unwrap();
        // Where no mount of it explains that it is gone, somebody else uses it.
        if hidden != running {
            b.0.mounts.retain(|m| m.point != Path::new(point));
            let error = b.0.guard(&layout, false).unwrap_err();
            assert_eq!(error.kind, Kind::Busy);
            assert!(error.to_string().contains("by /dev/ufs/hides"), "{error}");
        }
    }
}

#[test]
fn a_missing_medium_is_never_replaced_by_the_sibling() {
    let mut b = ex('1');
    b.fstab("/dev/da0s1a / ufs ro 1 1\n/dev/da1s1a /altroot ufs rw,noauto 0 0\n");
    assert!(b.refusal().contains("/altroot is /dev/da1s1a: no such device"));
}

#[test]
fn an_fstab_that_names_the_running_root_as_alternate_is_passed_over() {
    let mut b = ex('2');
    b.fstab("/dev/da0s2a / ufs ro 1 1\n/dev/da0s2a /altroot ufs rw,noauto 0 0\n");
    assert_eq!(b.pairs()[0], pair("da0s2a", "da0s1a"));
}

#[test]
fn when_nothing_fits_it_says_what_was_looked_at() {
    let mut b = Build::new();
    b.medium("da0", Scheme::Mbr, &[(99, FREEBSD, "", true), (99, "linux-data", "", false)]);
    b.mount("/dev/da0s1", "/");
    let text = b.refusal();
    for part in [
        "no alternate slot for / (/dev/da0s1)",
        "/etc/dualroot.conf: no slots in [root]",
        "fstab: no entry for /altroot",
        "/dev/da0 (MBR): no second slice of type freebsd beside slice 1",
    ] {
        assert!(text.contains(part), "{text}");
    }
    let mut b = Build::new();
    b.mount("tmpfs", "/");
    assert!(b.refusal().contains("no partition of a disk"));
    let mut b = ex('1');
    b.fstab("/dev/da0s2a /data ufs rw 0 0\n");
    assert!(b.refusal().contains("fstab uses it for /data"));
}

/// What the loader says counts only where it is plainly the other slot.
#[test]
fn the_loader_started_the_other_slot() {
    for scheme in [Scheme::Mbr, Scheme::Gpt] {
        let mut build = Build::new();
        build.medium("da0", scheme, &[(184, "freebsd", "", true), (184, "freebsd", "", false)]);
        let names = if scheme == Scheme::Mbr {
            build.bsd("da0s1", 'a', 0, 184 * MB);
            build.bsd("da0s2", 'a', 0, 184 * MB);
            ["da0s1a", "da0s2a"]
        } else {
            ["da0p1", "da0p2"]
        };
        build.mount(&format!("/dev/{}", names[0]), "/");
        let view = &build.0;
        let layout = view.discover().unwrap();
        let [own, other] = names.map(|n| format!("disk7{}:", &n[3..]));
        let halves = |loader: &str| view.against_loader(&layout, loader).map(|f| f.code);
        assert_eq!(halves(&own), None);
        assert_eq!(halves(&other), Some("half-boot"));
        for loader in ["", "disk0p9:", "zfs:z", "net0:"] {
            assert_eq!(halves(loader), None, "{loader}");
        }
        // The kernel tries several in turn.
        let running = build.id(names[0]);
        let roots = |names: &[&str]| {
            let roots: Vec<_> = names.iter().map(|n| format!("/dev/{n}")).collect();
            view.against_kernel_roots(running, &roots).map(|f| f.severity.name())
        };
        assert_eq!(roots(&[names[0], names[1]]), None);
        assert_eq!(roots(&[names[1], names[0]]), Some("warning"));
        assert_eq!(roots(&[names[1]]), Some("error"));
        assert_eq!(roots(&["md0"]), None);
        assert_eq!(roots(&[]), None);
    }
}
