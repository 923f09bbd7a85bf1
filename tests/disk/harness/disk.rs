//! An image on a loop device, with a partition table and file systems.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fmt::Write as _;
use std::fs::{self, File, OpenOptions};
use std::io::Write;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::thread::sleep;
use std::time::Duration;

use nix::mount::{MntFlags, MsFlags};
use sha2::{Digest, Sha256};
use tempfile::TempDir;

use super::mounted::{Mount, Mounted, mounts};
use super::running::Running;
use super::shim::shim;
use super::{Run, hex, pattern, program, tool, try_tool, wait_until};

const MIB: u64 = 1 << 20;

/// The partition table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scheme {
    Dos,
    Gpt,
}

/// How a disk is to be laid out. Slices are counted from 1.
#[derive(Clone, Debug)]
pub struct Layout {
    pub scheme: Scheme,
    /// Bytes in a sector: 512 or 4096.
    pub sector: u64,
    /// `ext4` or `xfs`, of slices 1 and 3; 2 and 4 stay bare.
    pub fs: &'static str,
    /// One slice each. Slice 1 is `/`, slice 3, where there is one, `/config`.
    pub sizes_mb: Vec<u64>,
    /// File-system labels by slice number.
    pub labels: BTreeMap<usize, &'static str>,
    /// Partition labels (GPT) by slice number.
    pub part_labels: BTreeMap<usize, &'static str>,
    /// Partition types by slice number, as sfdisk(8) spells them.
    pub types: BTreeMap<usize, &'static str>,
    /// The slice with the boot flag (MBR).
    pub active: Option<usize>,
    /// Further arguments of mkfs for slice 1.
    pub mkfs: Vec<&'static str>,
}

impl Default for Layout {
    fn default() -> Self {
        Self {
            scheme: Scheme::Dos,
            sector: 512,
            fs: "ext4",
            sizes_mb: vec![24, 24, 8, 8],
            labels: BTreeMap::new(),
            part_labels: BTreeMap::new(),
            types: BTreeMap::new(),
            active: Some(1),
            mkfs: Vec::new(),
        }
    }
}

impl Layout {
    /// Only two roots, of these sizes.
    pub fn roots(first_mb: u64, second_mb: u64) -> Self {
        Self { sizes_mb: vec![first_mb, second_mb], ..Self::default() }
    }

    fn script(&self) -> String {
        let mut text = match self.scheme {
            Scheme::Dos => "label: dos\n".to_owned(),
            Scheme::Gpt => "label: gpt\n".to_owned(),
        };
        let mut start = 1;
        for (n, size) in (1..).zip(&self.sizes_mb) {
            let sectors = MIB / self.sector;
            write!(text, "start={}, size={}", start * sectors, size * sectors).unwrap();
            if let Some(kind) = self.types.get(&n) {
                write!(text, ", type={kind}").unwrap();
            }
            if let Some(name) = self.part_labels.get(&n) {
                write!(text, ", name=\"{name}\"").unwrap();
            }
            if self.scheme == Scheme::Dos && self.active == Some(n) {
                text.push_str(", bootable");
            }
            text.push('\n');
            start += size;
        }
        text
    }
}

/// A disk with a running root. Everything of it goes when it is dropped, and it then checks that
/// the program left no mount of the alternate slot behind.
#[derive(Debug)]
pub struct Disk {
    medium: PathBuf,
    root: PathBuf,
    layout: Layout,
    /// Whether a left mount of the alternate is a failure.
    strict: bool,
    tmp: TempDir,
}

/// A directory in memory where there is room for it.
pub fn temp_dir() -> TempDir {
    let shm = Path::new("/dev/shm");
    let dir = if shm.is_dir() { shm.to_path_buf() } else { std::env::temp_dir() };
    tempfile::Builder::new().prefix("dualroot-test.").tempdir_in(dir).unwrap()
}

impl Disk {
    /// Makes the disk and mounts slice 1 at [`Disk::root`] and slice 3 on its `config`.
    /// `altroot` and `altconfig` are there, empty, and so is `etc`.
    pub fn new(layout: Layout) -> Self {
        Self::new_in(layout, temp_dir())
    }

    /// The same with the image in this directory.
    pub fn new_in(layout: Layout, tmp: TempDir) -> Self {
        let mut disk = Self::bare_in(layout, tmp);
        disk.format(1);
        disk.mount(&disk.part(1), &disk.root.clone(), false);
        for name in ["altroot", "altconfig", "config", "etc"] {
            fs::create_dir(disk.root.join(name)).unwrap();
        }
        if disk.layout.sizes_mb.len() >= 3 {
            disk.format(3);
            disk.mount(&disk.part(3), &disk.root.join("config"), false);
        }
        disk.strict = true;
        disk
    }

    /// Makes the disk without any file system; nothing is mounted.
    pub fn bare(layout: Layout) -> Self {
        Self::bare_in(layout, temp_dir())
    }

    /// The same with the image in this directory.
    pub fn bare_in(layout: Layout, tmp: TempDir) -> Self {
        let image = tmp.path().join("image");
        let total = layout.sizes_mb.iter().sum::<u64>() + 2;
        File::create(&image).unwrap().set_len(total * MIB).unwrap();
        let medium = attach(&image, layout.sector);
        let mut sfdisk = program("sfdisk");
        // The device knows the size of its sectors, a file does not.
        let place = if layout.sector == 512 { &image } else { &medium };
        sfdisk.args(["-q", "--no-reread", "--no-tell-kernel"]).arg(place).stdin(Stdio::piped());
        sfdisk.stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = sfdisk.spawn().unwrap();
        child.stdin.take().unwrap().write_all(layout.script().as_bytes()).unwrap();
        let output = child.wait_with_output().unwrap();
        let stderr = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "sfdisk: {stderr}\n{}", layout.script());

        let root = tmp.path().join("root");
        fs::create_dir(&root).unwrap();
        let disk = Self { medium, root, layout, strict: false, tmp };
        disk.add_partitions();
        disk
    }

    /// This kernel may or may not have read the table by itself: partx(8) complains in the second
    /// case, and only the nodes count.
    pub fn add_partitions(&self) {
        let all = || (1..=self.layout.sizes_mb.len()).all(|n| self.part(n).exists());
        let mut said = String::new();
        for _ in 0..100 {
            said = try_tool("partx", &[&"-a", &self.medium]).to_string();
            for _ in 0..10 {
                if all() {
                    return;
                }
                sleep(Duration::from_millis(10));
            }
            // What a former user of this loop device left behind is in the way.
            try_tool("partx", &[&"-d", &self.medium]);
        }
        panic!("no partitions: {said}");
    }

    /// Makes the layout's kind of file system on a slice, with the layout's label.
    pub fn format(&self, n: usize) {
        self.format_as(n, self.layout.fs);
    }

    /// Makes a file system of this kind on a slice, with the layout's label.
    pub fn format_as(&self, n: usize, kind: &str) {
        let mut mkfs = program(format!("mkfs.{kind}"));
        mkfs.arg("-q");
        match kind {
            "xfs" => mkfs.arg("-f"),
            _ => mkfs.args(["-F", "-E", "nodiscard,lazy_itable_init=1,lazy_journal_init=1"]),
        };
        if let Some(label) = self.layout.labels.get(&n) {
            mkfs.args(["-L", label]);
        }
        if n == 1 {
            mkfs.args(&self.layout.mkfs);
        }
        Run::of(mkfs.arg(self.part(n))).exits(0);
    }

    /// The whole disk: `/dev/loop5`.
    pub fn medium(&self) -> &Path {
        &self.medium
    }

    /// Its kernel name: `loop5`.
    pub fn name(&self) -> &str {
        self.medium.file_name().and_then(OsStr::to_str).unwrap()
    }

    /// A slice's node, counted from 1: `/dev/loop5p1`.
    pub fn part(&self, n: usize) -> PathBuf {
        PathBuf::from(format!("{}p{n}", self.medium.display()))
    }

    /// The same as text.
    pub fn node(&self, n: usize) -> String {
        self.part(n).to_str().unwrap().to_owned()
    }

    /// Where the running root is mounted.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// A directory of this disk's own, gone with it.
    pub fn tmp(&self) -> &Path {
        self.tmp.path()
    }

    /// The image that the medium's bytes are in.
    pub fn image(&self) -> PathBuf {
        self.tmp.path().join("image")
    }

    /// Where a slice starts in the image, and its size.
    pub fn extent(&self, n: usize) -> (u64, u64) {
        let start = 1 + self.layout.sizes_mb[..n - 1].iter().sum::<u64>();
        (start * MIB, self.layout.sizes_mb[n - 1] * MIB)
    }

    /// Writes a file below the root, with the directories above it.
    pub fn write(&self, path: &str, content: impl AsRef<[u8]>) -> PathBuf {
        let full = self.root.join(path);
        fs::create_dir_all(full.parent().unwrap()).unwrap();
        fs::write(&full, content).unwrap();
        full
    }

    /// Writes `etc/fstab` with `/`, and `/config` where there is one, by their nodes.
    pub fn write_fstab(&self) {
        let fs = self.layout.fs;
        let mut text = format!("{} / {fs} rw 0 1\n", self.node(1));
        if self.layout.sizes_mb.len() >= 3 {
            writeln!(text, "{} /config {fs} rw 0 2", self.node(3)).unwrap();
        }
        self.write("etc/fstab", text);
    }

    /// A small tree as a system has it: some directories, files, a link of each kind, a package.
    pub fn fill(&self) {
        self.write_fstab();
        self.write("etc/os-release", "NAME=\"Example OS\"\nVERSION_ID=1.2\n");
        self.write("boot/kernel/kernel", pattern(700_000, 1));
        for n in 0..40 {
            self.write(&format!("usr/share/doc/{n}.txt"), pattern(100 * n + n, n));
        }
        for dir in ["var/empty", "var/db/dualroot"] {
            fs::create_dir_all(self.root.join(dir)).unwrap();
        }
        fs::hard_link(self.root.join("boot/kernel/kernel"), self.root.join("boot/kernel.old"))
            .unwrap();
        std::os::unix::fs::symlink("../usr/share/doc/1.txt", self.root.join("etc/motd")).unwrap();
        if self.layout.sizes_mb.len() >= 3 {
            self.write("config/juniper.conf", "system { host-name ex; }\n");
        }
    }

    /// The running system's packages as Junos keeps them.
    pub fn write_junos_packages(&self, packages: &[&str]) {
        for package in packages {
            self.write(&format!("var/db/pkg/{package}/+COMMENT"), "a package\n");
        }
    }

    /// The program with `-r` for this disk's root and these arguments.
    pub fn command(&self, args: &[&str]) -> Command {
        let mut command = program(env!("CARGO_BIN_EXE_dualroot"));
        command.args(["--progress", "none", "-r"]).arg(&self.root).args(args);
        command
    }

    /// Runs the program to its end.
    pub fn dualroot(&self, args: &[&str]) -> Run {
        Run::of(&mut self.command(args))
    }

    /// Starts the program.
    pub fn spawn(&self, args: &[&str]) -> Running {
        Running::spawn(self.command(args))
    }

    /// Starts the program with the shim under it.
    pub fn spawn_shimmed(&self, args: &[&str], settings: &[(&str, &OsStr)]) -> Running {
        let mut command = self.command(args);
        command.env("LD_PRELOAD", shim()).envs(settings.iter().copied());
        Running::spawn(command)
    }

    /// `snapshot`, which must succeed.
    #[track_caller]
    pub fn snapshot(&self) -> Run {
        self.dualroot(&["snapshot"]).exits(0)
    }

    /// One slot as `show --json` tells of it.
    #[track_caller]
    pub fn slot(&self, number: u64) -> serde_json::Value {
        let report = self.dualroot(&["show", "--json"]).exits(0).json();
        let slots = report["slots"].as_array().unwrap();
        slots.iter().find(|s| s["slot"] == number).unwrap_or_else(|| panic!("{report}")).clone()
    }

    /// The state of slot 2 as `show` tells it.
    #[track_caller]
    pub fn state(&self) -> String {
        self.slot(2)["state"].as_str().unwrap().to_owned()
    }

    /// Sets the boot flag of a slice (MBR).
    pub fn activate(&self, n: usize) {
        let number = n.to_string();
        let quiet = "--no-tell-kernel";
        tool("sfdisk", &[&"-q", &"--no-reread", &quiet, &"-A", &self.medium, &number]);
    }

    /// Makes the running root read-only, or read-write again.
    #[track_caller]
    pub fn remount(&self, read_only: bool) {
        let flags = if read_only { MsFlags::MS_RDONLY } else { MsFlags::empty() };
        // A program that another test starts at the same moment may still have a file of it open.
        wait_until("nobody writes to the root", || {
            let flags = MsFlags::MS_REMOUNT | flags;
            nix::mount::mount(None::<&str>, self.root(), None::<&str>, flags, None::<&str>).is_ok()
        });
    }

    /// Mounts something of this disk; it goes with the disk, or with [`unmount`].
    pub fn mount(&self, device: &Path, point: &Path, read_only: bool) {
        let flags = if read_only { MsFlags::MS_RDONLY } else { MsFlags::empty() };
        let kind = self.layout.fs;
        nix::mount::mount(Some(device), point, Some(kind), flags, None::<&str>).unwrap_or_else(
            |e| panic!("mounting {} on {}: {e}", device.display(), point.display()),
        );
    }

    /// Mounts the copy of `/` (slice 2) on a directory of its own.
    pub fn mount_alternate(&self, read_only: bool) -> Mounted {
        self.mount_slice(2, read_only)
    }

    /// Mounts a slice on a directory of its own.
    pub fn mount_slice(&self, n: usize, read_only: bool) -> Mounted {
        let dir = tempfile::Builder::new().prefix("mnt.").tempdir_in(self.tmp()).unwrap();
        self.mount(&self.part(n), dir.path(), read_only);
        Mounted { dir }
    }

    /// SHA-256 of all bytes of a slice on the medium.
    pub fn hash_device(&self, n: usize) -> String {
        self.flush(n);
        let (start, size) = self.extent(n);
        let image = File::open(self.image()).unwrap();
        let mut hasher = Sha256::new();
        let mut buffer = vec![0; usize::try_from(MIB).unwrap()];
        for offset in (start..start + size).step_by(buffer.len()) {
            image.read_exact_at(&mut buffer, offset).unwrap();
            hasher.update(&buffer);
        }
        hex(&hasher.finalize())
    }

    /// Writes out and forgets what the system has cached of a slice.
    pub fn flush(&self, n: usize) {
        tool("blockdev", &[&"--flushbufs", &self.part(n)]);
    }

    /// Where `pattern` lies on a slice of the medium: once and only once. Found at once where it
    /// begins a block; anywhere else takes a second.
    #[track_caller]
    pub fn find_on_medium(&self, n: usize, pattern: &[u8]) -> u64 {
        let (start, size) = self.extent(n);
        let mut data = vec![0; usize::try_from(size).unwrap()];
        File::open(self.image()).unwrap().read_exact_at(&mut data, start).unwrap();
        let found = |step: usize| -> Vec<usize> {
            let ends = data.len() - pattern.len();
            (0..=ends)
                .step_by(step)
                .filter(|&at| data[at] == pattern[0] && data[at..].starts_with(pattern))
                .collect()
        };
        let mut places = found(512);
        if places.is_empty() {
            places = found(1);
        }
        assert!(places.len() == 1, "the pattern is on the medium {} times", places.len());
        places[0] as u64
    }

    /// Whether a block of a slice of the medium begins with `pattern`, be it in use or not.
    pub fn is_on_medium(&self, n: usize, pattern: &[u8]) -> bool {
        self.flush(n);
        let (start, size) = self.extent(n);
        let mut data = vec![0; usize::try_from(size).unwrap()];
        File::open(self.image()).unwrap().read_exact_at(&mut data, start).unwrap();
        data.chunks(512).any(|block| block.starts_with(pattern))
    }

    /// Inverts a byte of a slice on the medium itself, below every cache of the system.
    pub fn flip_on_medium(&self, n: usize, offset: u64) {
        let (start, size) = self.extent(n);
        assert!(offset < size);
        let image = OpenOptions::new().read(true).write(true).open(self.image()).unwrap();
        let mut byte = [0];
        image.read_exact_at(&mut byte, start + offset).unwrap();
        image.write_all_at(&[!byte[0]], start + offset).unwrap();
    }

    /// Mounts of this disk, in the order of their making.
    pub fn mounts(&self) -> Vec<Mount> {
        let inside = |m: &Mount| m.point.starts_with(self.tmp()) || self.is_part(&m.source, None);
        mounts().into_iter().filter(inside).collect()
    }

    /// Mounts of slices 2 and 4.
    pub fn alternate_mounts(&self) -> Vec<Mount> {
        let of = |m: &Mount| self.is_part(&m.source, Some(2)) || self.is_part(&m.source, Some(4));
        mounts().into_iter().filter(of).collect()
    }

    fn is_part(&self, source: &str, n: Option<usize>) -> bool {
        let Some(rest) = source.strip_prefix(self.medium.to_str().unwrap()) else { return false };
        match n {
            Some(n) => rest == format!("p{n}"),
            None => rest.is_empty() || rest.starts_with('p'), // not loop1 for loop10
        }
    }

    /// A left mount of the alternate is what this test wants.
    pub fn lenient(&mut self) {
        self.strict = false;
    }

    /// Fails where the program left a mount of the alternate slot.
    #[track_caller]
    pub fn assert_unmounted(&self) {
        let left = self.alternate_mounts();
        assert!(left.is_empty(), "left mounted: {left:?}");
    }

    /// Takes the loop device away, with all that is mounted from it.
    fn release(&self) {
        for _ in 0..50 {
            let mounts = self.mounts();
            if mounts.is_empty() {
                break;
            }
            for mount in mounts.iter().rev() {
                let flags = MntFlags::UMOUNT_NOFOLLOW;
                if nix::mount::umount2(&mount.point, flags).is_err() {
                    sleep(Duration::from_millis(20));
                }
            }
        }
        for mount in self.mounts().iter().rev() {
            let _ = nix::mount::umount2(&mount.point, MntFlags::MNT_DETACH);
        }
        for n in 1..=self.layout.sizes_mb.len() {
            let number = n.to_string();
            for _ in 0..50 {
                try_tool("partx", &[&"-d", &"--nr", &number, &self.medium]);
                if !self.part(n).exists() {
                    break;
                }
                sleep(Duration::from_millis(20));
            }
        }
        try_tool("losetup", &[&"-d", &self.medium]);
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        let left = if self.strict { self.alternate_mounts() } else { Vec::new() };
        self.release();
        // Another test may have been given the same loop device by now: only what is ours.
        let ours = |m: &Mount| m.point.starts_with(self.tmp());
        let rest: Vec<_> = self.mounts().into_iter().filter(ours).collect();
        if !std::thread::panicking() {
            assert!(left.is_empty(), "left mounted: {left:?}");
            assert!(rest.is_empty(), "could not unmount: {rest:?}");
        }
    }
}

/// Somebody else may take the free loop device first.
fn attach(image: &Path, sector: u64) -> PathBuf {
    let sector = sector.to_string();
    let mut last = String::new();
    for _ in 0..100 {
        let run = try_tool("losetup", &[&"-f", &"--show", &"-b", &sector, &image]);
        if run.code == 0 {
            return PathBuf::from(run.stdout.trim_end());
        }
        last = run.to_string();
        sleep(Duration::from_millis(20));
    }
    panic!("no loop device: {last}");
}
