//! How fast a copy on UFS2 is, against what the base system has. Nothing is judged: run where it is
//! asked for, it prints ratios of one run.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::Instant;

use crate::disk::{Disk, Layout, pattern};
use crate::harness::{Test, note, tests, tool};
use crate::tree::sh;

pub const TESTS: &[Test] =
    tests![a_copy, a_cold_copy, a_read_only_copy, a_slow_medium, a_slow_read_only_medium, a_slice];

/// Alternating runs, after one that warms the caches.
const RUNS: usize = 3;

/// Some 80 MB in 3,000 files: sizes as of a system root, many small and few large.
fn filled(layout: Layout) -> Disk {
    let disk = Disk::new(Layout { roots_mb: [200, 200], ..layout });
    disk.fill();
    for n in 0..3000_usize {
        let size = 300 + n * n % 29_989;
        disk.write(&format!("usr/d{}/f{n}", n / 100), pattern(size, n));
    }
    for n in 0..8 {
        disk.write(&format!("big{n}"), pattern(5 << 20, n));
    }
    disk
}

/// Seconds that a script takes.
fn timed(dir: &Path, script: &str) -> f64 {
    let begun = Instant::now();
    sh(dir, script);
    begun.elapsed().as_secs_f64()
}

/// Seconds of every run, by what ran.
#[derive(Default)]
struct Figures(BTreeMap<&'static str, Vec<f64>>);

impl Figures {
    fn add(&mut self, what: &'static str, seconds: f64) {
        println!("{what} {seconds:.2} s");
        self.0.entry(what).or_default().push(seconds);
    }

    /// Medians without the first run, the fastest of the others' as 1.
    fn tell(&mut self) {
        let mut medians: Vec<(f64, &str)> = Vec::new();
        for (what, runs) in &mut self.0 {
            runs.remove(0);
            runs.sort_by(f64::total_cmp);
            medians.push((runs[runs.len() / 2], what));
        }
        medians.sort_by(|a, b| a.0.total_cmp(&b.0));
        let peer = medians.iter().find(|(_, what)| !what.starts_with("dualroot")).unwrap().0;
        let cell = |(seconds, what): &(f64, &str)| {
            format!("{what} {seconds:.2} s ({:.2})", seconds / peer)
        };
        note(&medians.iter().map(cell).collect::<Vec<_>>().join(", "));
    }
}

/// Copies `disk`'s root with the program and with its peers, `prepare` before each.
fn compare(disk: &Disk, prepare: impl Fn()) {
    let (root, peer) = (disk.root(), disk.side("peer"));
    let (from, to, target) = (disk.node(1), peer.display(), disk.node(2));
    let peers = [
        ("cp -Rp", format!("cp -Rp . {to}/")),
        ("tar | tar", format!("tar --one-file-system -cf - . | tar -C {to} -xpf -")),
        (
            "dump | restore",
            // -L: of what lies in memory yet dump(8) knows nothing else, and restore(8) asks what to do.
            format!("dump -0 -a -L -C 16 -f - {from} 2>/dev/null | (cd {to} && restore -rf -)"),
        ),
    ];
    let mut figures = Figures::default();
    for _ in 0..=RUNS {
        for (what, script) in &peers {
            prepare();
            tool("newfs", &[&"-U", &target]);
            tool("mount", &[&"-o", &"noatime", &target, &peer]);
            figures.add(what, timed(&root, &format!("{script} && umount {to}")));
        }
        prepare();
        let pair = &disk.dualroot(&["snapshot", "--json", "--fresh"]).exits(0).json()["pairs"][0];
        figures.add("dualroot, the copy", pair["copy_seconds"].as_f64().unwrap());
        figures.add("dualroot, copy and read back", pair["seconds"].as_f64().unwrap());
    }
    figures.tell();
}

/// Mounts the root anew, so that nothing of it lies in the cache.
fn mount_anew(disk: &Disk, words: &str) {
    tool("umount", &[&disk.root()]);
    tool("mount", &[&"-o", &words, &disk.node(1), &disk.root()]);
}

/// Of a live root that lies in the cache. What a snapshot of it holds does not.
fn a_copy() {
    compare(&filled(Layout::default()), || {});
}

/// Of a live root of which nothing lies in the cache.
fn a_cold_copy() {
    let disk = filled(Layout::default());
    compare(&disk, || mount_anew(&disk, "rw"));
}

/// Of a root that needs no snapshot, and lies in the cache.
fn a_read_only_copy() {
    let disk = filled(Layout::default());
    mount_anew(&disk, "ro");
    compare(&disk, || {});
}

/// A disk that takes its time, as flash does: gnop(8) delays a quarter of the requests by one tick
/// of the clock, a hundredth of a second in most virtual machines.
fn slow() -> Disk {
    let disk = filled(Layout { nop: true, ..Layout::default() });
    tool("gnop", &[&"configure", &"-d", &"1", &"-q", &"25", &"-x", &"25", &disk.name()]);
    disk
}

fn a_slow_medium() {
    let disk = slow();
    compare(&disk, || mount_anew(&disk, "rw"));
}

fn a_slow_read_only_medium() {
    let disk = slow();
    compare(&disk, || mount_anew(&disk, "ro"));
}

fn a_slice() {
    let disk = filled(Layout::default());
    let root = disk.root();
    tool("mount", &[&"-u", &"-o", &"ro", &root]);
    let dd = format!("dd if={} of={} bs=1m 2>/dev/null", disk.node(1), disk.node(2));
    let mut figures = Figures::default();
    for _ in 0..=RUNS {
        figures.add("dd", timed(Path::new("/"), &dd));
        for (what, read_back, method) in [
            (
                "dualroot --method block, the copy",
                "dualroot --method block, copy and read back",
                "block",
            ),
            (
                "dualroot --method tree, the copy",
                "dualroot --method tree, copy and read back",
                "tree",
            ),
        ] {
            let words = ["snapshot", "--json", "--fresh", "--method", method];
            let pair = &disk.dualroot(&words).exits(0).json()["pairs"][0];
            figures.add(what, pair["copy_seconds"].as_f64().unwrap());
            figures.add(read_back, pair["seconds"].as_f64().unwrap());
        }
    }
    figures.tell();
}
