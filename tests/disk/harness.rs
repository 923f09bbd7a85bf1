//! Disks for the tests: an image on a loop device that goes away whatever happens.
//!
//! Nothing here is shared between tests, so that they run side by side.
#![allow(dead_code)] // each module uses what it needs

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fmt::Write as _;
use std::fs::{self, File, OpenOptions};
use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread::sleep;
use std::time::{Duration, Instant};

use nix::mount::{MntFlags, MsFlags};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use sha2::{Digest, Sha256};
use tempfile::TempDir;

pub use crate::run::Run;

const MIB: u64 = 1 << 20;
/// sbin is not in everybody's path.
const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
const TOOLS: [&str; 5] = ["sfdisk", "losetup", "partx", "mkfs.ext4", "blockdev"];

// ---- whether and with what ------------------------------------------------------------------

/// Whether this test can run: as root, with loop devices and with the harness's tools and `tools`.
/// Where it cannot, that is printed and added as a line to the file that `DUALROOT_SKIPPED` names.
pub fn ready(tools: &[&str]) -> bool {
    let missing = |tool: &&&str| !PATH.split(':').any(|dir| Path::new(dir).join(tool).exists());
    let why = if !nix::unistd::geteuid().is_root() {
        "not root".to_owned()
    } else if !Path::new("/dev/loop-control").exists() {
        "no loop devices".to_owned()
    } else if let Some(tool) = TOOLS.iter().chain(tools).find(missing) {
        format!("no {tool}")
    } else {
        return true;
    };
    skip(&why);
    false
}

/// Says that the running test cannot run.
pub fn skip(why: &str) {
    let line = format!("{}: {why}\n", std::thread::current().name().unwrap_or("a test"));
    print!("skipped: {line}");
    if let Some(path) = std::env::var_os("DUALROOT_SKIPPED") {
        let mut file = OpenOptions::new().append(true).create(true).open(path).unwrap();
        file.write_all(line.as_bytes()).unwrap();
    }
}

/// A program with the path, the zone and the language that the tests expect.
#[allow(clippy::disallowed_methods)] // tests start programs that the product must not know
pub fn program(name: impl AsRef<OsStr>) -> Command {
    let mut command = Command::new(name);
    command.env("PATH", PATH).env("LC_ALL", "C").env("TZ", "UTC").stdin(Stdio::null());
    command
}

/// Runs a tool that must succeed; its stdout.
pub fn tool(name: &str, args: &[&dyn AsRef<OsStr>]) -> Vec<u8> {
    let run = try_tool(name, args);
    assert!(run.code == 0, "{name} failed: {run}");
    run.stdout_bytes
}

/// Runs a tool, however it ends.
pub fn try_tool(name: &str, args: &[&dyn AsRef<OsStr>]) -> Run {
    let mut command = program(name);
    command.args(args.iter().copied().map(AsRef::as_ref));
    Run::of(&mut command)
}

// ---- a program that runs --------------------------------------------------------------------

/// A program that still runs; killed when it is dropped.
#[derive(Debug)]
pub struct Running {
    child: Child,
    stdout: Option<BufReader<std::process::ChildStdout>>,
    seen: Vec<u8>,
    command: String,
}

impl Running {
    fn start(mut command: Command) -> Self {
        command.stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().unwrap_or_else(|e| panic!("{command:?}: {e}"));
        let stdout = child.stdout.take().map(BufReader::new);
        Self { child, stdout, seen: Vec::new(), command: format!("{command:?}") }
    }

    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Sends a signal.
    pub fn signal(&self, signal: Signal) {
        kill(Pid::from_raw(i32::try_from(self.pid()).unwrap()), signal).unwrap();
    }

    /// Whether it has ended.
    pub fn ended(&mut self) -> bool {
        self.child.try_wait().unwrap().is_some()
    }

    /// Waits for a line of stdout that contains `words`.
    #[track_caller]
    pub fn wait_line(&mut self, words: &str) {
        let stdout = self.stdout.as_mut().unwrap();
        loop {
            let before = self.seen.len();
            stdout.read_until(b'\n', &mut self.seen).unwrap();
            let line = String::from_utf8_lossy(&self.seen[before..]);
            assert!(!line.is_empty(), "ended without {words:?}");
            if line.contains(words) {
                return;
            }
        }
    }

    /// Waits for its end.
    pub fn wait(mut self) -> Run {
        let mut stdout = std::mem::take(&mut self.seen);
        let mut stderr = Vec::new();
        // Both are small: neither can fill its pipe while the other is read.
        self.stdout.take().unwrap().read_to_end(&mut stdout).unwrap();
        self.child.stderr.take().unwrap().read_to_end(&mut stderr).unwrap();
        let status = self.child.wait().unwrap();
        Run::new(self.command.clone(), status, stdout, &stderr)
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Waits until `done`; fails after 30 seconds.
#[track_caller]
pub fn wait_until(what: &str, mut done: impl FnMut() -> bool) {
    let begun = Instant::now();
    while !done() {
        assert!(begun.elapsed() < Duration::from_secs(30), "waited in vain until {what}");
        sleep(Duration::from_millis(2));
    }
}

// ---- the disk -------------------------------------------------------------------------------

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
        Running::start(self.command(args))
    }

    /// Starts the program with the [shim](SHIM) under it.
    pub fn spawn_shimmed(&self, args: &[&str], settings: &[(&str, &OsStr)]) -> Running {
        let mut command = self.command(args);
        command.env("LD_PRELOAD", shim()).envs(settings.iter().copied());
        Running::start(command)
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

/// A mount of the test's own, given back when it is dropped.
#[derive(Debug)]
pub struct Mounted {
    dir: TempDir,
}

impl Mounted {
    pub fn path(&self) -> &Path {
        self.dir.path()
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        unmount(self.dir.path());
    }
}

/// Unmounts what the test mounted.
pub fn unmount(point: &Path) {
    let mut result = nix::mount::umount(point);
    for _ in 0..50 {
        if result != Err(nix::errno::Errno::EBUSY) {
            break;
        }
        sleep(Duration::from_millis(20));
        result = nix::mount::umount(point);
    }
    if !std::thread::panicking() {
        result.unwrap_or_else(|e| panic!("unmounting {}: {e}", point.display()));
    }
}

/// A line of `/proc/self/mountinfo`.
#[derive(Clone, Debug)]
pub struct Mount {
    pub point: PathBuf,
    pub source: String,
    pub options: String,
}

/// All mounts, in the order of their making.
pub fn mounts() -> Vec<Mount> {
    let text = fs::read_to_string("/proc/self/mountinfo").unwrap();
    text.lines()
        .filter_map(|line| {
            let fields: Vec<_> = line.split(' ').collect();
            let dash = fields.iter().position(|f| *f == "-")?;
            Some(Mount {
                point: PathBuf::from(fields.get(4)?.replace("\\040", " ")),
                source: (*fields.get(dash + 2)?).to_owned(),
                options: (*fields.get(5)?).to_owned(),
            })
        })
        .collect()
}

// ---- content --------------------------------------------------------------------------------

/// Bytes that repeat nowhere, another sequence for every seed.
pub fn pattern(length: usize, seed: usize) -> Vec<u8> {
    let mut state = (seed as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut bytes = Vec::with_capacity(length + 8);
    while bytes.len() < length {
        // xorshift64*
        state ^= state >> 12;
        state ^= state << 25;
        state ^= state >> 27;
        bytes.extend_from_slice(&state.wrapping_mul(0x2545_f491_4f6c_dd1d).to_le_bytes());
    }
    bytes.truncate(length);
    bytes
}

/// Hexadecimal.
pub fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |mut text, byte| {
        write!(text, "{byte:02x}").unwrap();
        text
    })
}

/// Everything below a directory on the same file system, told by path: type, mode, owner, times
/// and content, but no access times, and without the journal. For trees of ordinary depth.
pub fn fingerprint(dir: &Path) -> BTreeMap<PathBuf, String> {
    let mut found = BTreeMap::new();
    let device = fs::symlink_metadata(dir).unwrap().dev();
    let mut left = vec![dir.to_path_buf()];
    while let Some(path) = left.pop() {
        // What the box knows of its slots is no part of one.
        if path.strip_prefix(dir) == Ok(Path::new("var/db/dualroot")) {
            continue;
        }
        let meta = fs::symlink_metadata(&path).unwrap();
        let kind = meta.file_type();
        let mut text = format!(
            "{:o} {}:{} {} {}.{:09}",
            meta.permissions().mode(),
            meta.uid(),
            meta.gid(),
            meta.rdev(),
            meta.mtime(),
            meta.mtime_nsec()
        );
        if kind.is_file() {
            let digest = Sha256::digest(fs::read(&path).unwrap());
            write!(text, " {} {}", meta.nlink(), hex(&digest)).unwrap();
        } else if kind.is_symlink() {
            write!(text, " -> {}", fs::read_link(&path).unwrap().display()).unwrap();
        } else if kind.is_dir() && meta.dev() == device {
            left.extend(fs::read_dir(&path).unwrap().map(|e| e.unwrap().path()));
        }
        found.insert(path.strip_prefix(dir).unwrap().to_path_buf(), text);
    }
    found
}

/// The beginning of a file-system label that no other disk of this machine has, 8 bytes at most. A
/// test must not use a plain `root1`: the program finds a label on whatever disk it is.
pub fn unique() -> String {
    static COUNT: AtomicUsize = AtomicUsize::new(0);
    format!("{:x}{:x}-", std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed))
}

/// A name of any bytes.
pub fn os(bytes: &[u8]) -> &OsStr {
    OsStr::from_bytes(bytes)
}

// ---- the shim -------------------------------------------------------------------------------

/// A library laid under the program (`LD_PRELOAD`), so that a test can stop it at an exact place
/// without any hook in it. `SHIM_PAUSE` names what to stop before, once: `mount-ro`, `mount-rw`,
/// `umount`, `open`, `create`, `rename` (the new name), `read`, `write`, `fsync`, `syncfs`, `flock`
/// or `spawn` (the last argument), of the path that ends with `SHIM_PATH`, the first `SHIM_AFTER`
/// of these calls not counted; then the file `SHIM_DIR/paused` is there, until the test makes
/// `SHIM_DIR/go`. `SHIM_FAIL` names the same; that one call then fails with `SHIM_ERRNO`.
/// `SHIM_DISTURB` is `grow` or `change`: the file at `SHIM_PATH` then gets a byte more, or another
/// first byte, before each read of it.
const SHIM: &str = r#"
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <spawn.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>
#include <unistd.h>

/* Taken at the start: a child that is about to be another program has another environment. */
static const char *pause_before, *fail_at, *end, *dir;
static int after, error;

static const char *setting(const char *name) {
    const char *value = getenv(name);
    return value ? strdup(value) : NULL;
}

__attribute__((constructor)) static void start(void) {
    pause_before = setting("SHIM_PAUSE");
    fail_at = setting("SHIM_FAIL");
    end = setting("SHIM_PATH");
    dir = setting("SHIM_DIR");
    after = getenv("SHIM_AFTER") ? atoi(getenv("SHIM_AFTER")) : 0;
    error = getenv("SHIM_ERRNO") ? atoi(getenv("SHIM_ERRNO")) : EIO;
}

static int named(const char *value, const char *what) {
    return value && !strcmp(value, what);
}

/* Pauses or fails where the test wants it: -1 and errno. */
static int at(const char *what, const char *path) {
    static int seen;
    int pausing = named(pause_before, what), failing = named(fail_at, what);
    char name[4096];
    if (!(pausing || failing) || !end || !path) return 0;
    size_t a = strlen(path), b = strlen(end);
    if (a < b || strcmp(path + a - b, end)) return 0;
    if (__atomic_fetch_add(&seen, 1, __ATOMIC_SEQ_CST) != after) return 0;
    if (pausing && dir) {
        snprintf(name, sizeof name, "%s/paused", dir);
        close(open(name, O_CREAT | O_WRONLY | O_CLOEXEC, 0600));
        snprintf(name, sizeof name, "%s/go", dir);
        while (access(name, F_OK)) usleep(1000);
    }
    if (!failing) return 0;
    errno = error;
    return -1;
}

static int at_fd(const char *what, int fd) {
    char link[64], path[4096];
    if (!named(pause_before, what) && !named(fail_at, what)) return 0;
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    ssize_t length = readlink(link, path, sizeof path - 1);
    if (length < 0) return 0;
    path[length] = 0;
    return at(what, path);
}

int mount(const char *source, const char *target, const char *type, unsigned long flags,
          const void *data) {
    int (*next)(const char *, const char *, const char *, unsigned long, const void *) =
        dlsym(RTLD_NEXT, "mount");
    if (at(flags & MS_RDONLY ? "mount-ro" : "mount-rw", target)) return -1;
    return next(source, target, type, flags, data);
}

int umount2(const char *target, int flags) {
    int (*next)(const char *, int) = dlsym(RTLD_NEXT, "umount2");
    if (at("umount", target)) return -1;
    return next(target, flags);
}

static int open_at(const char *function, int dir, const char *path, int flags, va_list list) {
    int (*next)(int, const char *, int, ...) = dlsym(RTLD_NEXT, function);
    if (at(flags & O_CREAT ? "create" : "open", path)) return -1;
    return next(dir, path, flags, va_arg(list, int));
}

int openat(int dir, const char *path, int flags, ...) {
    va_list list;
    va_start(list, flags);
    return open_at("openat", dir, path, flags, list);
}

int openat64(int dir, const char *path, int flags, ...) {
    va_list list;
    va_start(list, flags);
    return open_at("openat64", dir, path, flags, list);
}

static int open_plain(const char *function, const char *path, int flags, va_list list) {
    int (*next)(const char *, int, ...) = dlsym(RTLD_NEXT, function);
    if (at(flags & O_CREAT ? "create" : "open", path)) return -1;
    return next(path, flags, va_arg(list, int));
}

int open(const char *path, int flags, ...) {
    va_list list;
    va_start(list, flags);
    return open_plain("open", path, flags, list);
}

int open64(const char *path, int flags, ...) {
    va_list list;
    va_start(list, flags);
    return open_plain("open64", path, flags, list);
}

int renameat(int from, const char *old, int to, const char *new) {
    int (*next)(int, const char *, int, const char *) = dlsym(RTLD_NEXT, "renameat");
    if (at("rename", new)) return -1;
    return next(from, old, to, new);
}

/* Somebody else writes to the file each time that it is read. */
static void disturb(int fd) {
    static unsigned char count;
    const char *how = getenv("SHIM_DISTURB"), *end = getenv("SHIM_PATH");
    char link[64], path[4096];
    if (!how || !end) return;
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    ssize_t length = readlink(link, path, sizeof path - 1);
    if (length < (ssize_t)strlen(end)) return;
    path[length] = 0;
    if (strcmp(path + length - strlen(end), end)) return;
    int writer = open(path, O_WRONLY | O_CLOEXEC | (strcmp(how, "grow") ? 0 : O_APPEND));
    ssize_t (*write)(int, const void *, size_t) = dlsym(RTLD_NEXT, "write");
    count++;
    if (write(writer, &count, 1) != 1) abort();
    close(writer);
}

ssize_t read(int fd, void *buffer, size_t length) {
    ssize_t (*next)(int, void *, size_t) = dlsym(RTLD_NEXT, "read");
    disturb(fd);
    return at_fd("read", fd) ? -1 : next(fd, buffer, length);
}

ssize_t write(int fd, const void *buffer, size_t length) {
    ssize_t (*next)(int, const void *, size_t) = dlsym(RTLD_NEXT, "write");
    return at_fd("write", fd) ? -1 : next(fd, buffer, length);
}

ssize_t pwrite64(int fd, const void *buffer, size_t length, off_t offset) {
    ssize_t (*next)(int, const void *, size_t, off_t) = dlsym(RTLD_NEXT, "pwrite64");
    return at_fd("pwrite", fd) ? -1 : next(fd, buffer, length, offset);
}

int fsync(int fd) {
    int (*next)(int) = dlsym(RTLD_NEXT, "fsync");
    return at_fd("fsync", fd) ? -1 : next(fd);
}

int syncfs(int fd) {
    int (*next)(int) = dlsym(RTLD_NEXT, "syncfs");
    return at_fd("syncfs", fd) ? -1 : next(fd);
}

int flock(int fd, int operation) {
    int (*next)(int, int) = dlsym(RTLD_NEXT, "flock");
    return at_fd("flock", fd) ? -1 : next(fd, operation);
}

static const char *last(char *const argv[]) {
    int n = 0;
    while (argv[n]) n++;
    return n ? argv[n - 1] : "";
}

int posix_spawnp(pid_t *pid, const char *file, const posix_spawn_file_actions_t *actions,
                 const posix_spawnattr_t *attributes, char *const argv[], char *const envp[]) {
    int (*next)(pid_t *, const char *, const posix_spawn_file_actions_t *,
                const posix_spawnattr_t *, char *const[], char *const[]) =
        dlsym(RTLD_NEXT, "posix_spawnp");
    return at("spawn", last(argv)) ? errno : next(pid, file, actions, attributes, argv, envp);
}

/* Where the product forks by itself: in the child. */
int execvp(const char *file, char *const argv[]) {
    int (*next)(const char *, char *const[]) = dlsym(RTLD_NEXT, "execvp");
    return at("spawn", last(argv)) ? -1 : next(file, argv);
}
"#;

/// The shim's library, built once.
pub fn shim() -> &'static Path {
    static PATH: OnceLock<PathBuf> = OnceLock::new();
    PATH.get_or_init(|| {
        let dir = Path::new(env!("CARGO_TARGET_TMPDIR"));
        // Under another name first: two test processes may build it at once.
        let build = tempfile::Builder::new().prefix("shim.").tempdir_in(dir).unwrap();
        let (source, made) = (build.path().join("shim.c"), build.path().join("shim.so"));
        fs::write(&source, SHIM).unwrap();
        tool("cc", &[&"-shared", &"-fPIC", &"-O1", &"-o", &made, &source, &"-ldl"]);
        let library = dir.join("shim.so");
        fs::rename(&made, &library).unwrap();
        library
    })
}

// ---- a run held at one place ----------------------------------------------------------------

/// A call of the program: what, the end of its path, and how many like it go before.
pub type Call<'a> = (&'a str, &'a str, usize);

/// A run that the [shim](SHIM) holds before one call.
#[derive(Debug)]
pub struct Halted {
    pub running: Running,
    dir: PathBuf,
}

impl Halted {
    /// Lets it go on.
    pub fn go(self) -> Running {
        File::create(self.dir.join("go")).unwrap();
        self.running
    }

    /// Kills it as `kill -9` does; its process id.
    pub fn kill(self) -> u32 {
        let pid = self.running.pid();
        self.running.signal(Signal::SIGKILL);
        assert_eq!(self.running.wait().code, 1000 + Signal::SIGKILL as i32);
        pid
    }
}

impl Disk {
    /// Starts the program and holds it before a call.
    #[track_caller]
    pub fn halt(&self, args: &[&str], (what, path, after): Call<'_>) -> Halted {
        // Not removed before the disk is: the shim looks for `go` there.
        let dir = tempfile::Builder::new().prefix("halt.").tempdir_in(self.tmp()).unwrap().keep();
        let after = after.to_string();
        let settings = [
            ("SHIM_PAUSE", OsStr::new(what)),
            ("SHIM_PATH", OsStr::new(path)),
            ("SHIM_AFTER", OsStr::new(&after)),
            ("SHIM_DIR", dir.as_os_str()),
        ];
        let mut running = self.spawn_shimmed(args, &settings);
        let begun = Instant::now();
        while !dir.join("paused").exists() {
            // `wait` takes it, so this is no assertion.
            if running.ended() {
                let run = running.wait();
                panic!("it ended before {what} of {path}: {run}");
            }
            assert!(begun.elapsed() < Duration::from_secs(30), "no {what} of {path}");
            sleep(Duration::from_millis(1));
        }
        Halted { running, dir }
    }

    /// Runs the program while a file changes each time that it is read: it gets longer (`grow`) or
    /// only other (`change`).
    #[track_caller]
    pub fn disturbed(&self, args: &[&str], how: &str, path: &str) -> Run {
        let settings = [("SHIM_DISTURB", OsStr::new(how)), ("SHIM_PATH", OsStr::new(path))];
        self.spawn_shimmed(args, &settings).wait_soon()
    }

    /// Runs the program with one call that fails.
    #[track_caller]
    pub fn with_fault(&self, args: &[&str], (what, path, after): Call<'_>, errno: i32) -> Run {
        let (after, errno) = (after.to_string(), errno.to_string());
        let settings = [
            ("SHIM_FAIL", OsStr::new(what)),
            ("SHIM_PATH", OsStr::new(path)),
            ("SHIM_AFTER", OsStr::new(&after)),
            ("SHIM_ERRNO", OsStr::new(&errno)),
        ];
        self.spawn_shimmed(args, &settings).wait_soon()
    }
}

impl Running {
    /// Starts any command.
    pub fn spawn(command: Command) -> Self {
        Self::start(command)
    }

    /// Waits for its end, which must come within a minute.
    #[track_caller]
    pub fn wait_soon(mut self) -> Run {
        let begun = Instant::now();
        while !self.ended() {
            assert!(begun.elapsed() < Duration::from_secs(60), "it hangs: {}", self.command);
            sleep(Duration::from_millis(1));
        }
        self.wait()
    }
}

/// A process that keeps something busy; killed when it is dropped.
#[derive(Debug)]
pub struct Holder(Child);

impl Holder {
    /// `sleep` with its working directory there.
    pub fn inside(dir: &Path) -> Self {
        Self::start(program("sleep").current_dir(dir))
    }

    /// `sleep` with an open file.
    pub fn reading(file: &Path) -> Self {
        Self::start(program("sleep").stdin(File::open(file).unwrap()))
    }

    fn start(sleep: &mut Command) -> Self {
        Self(sleep.arg("600").stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap())
    }

    pub fn pid(&self) -> u32 {
        self.0.id()
    }

    /// Whether it has ended.
    pub fn ended(&mut self) -> bool {
        self.0.try_wait().unwrap().is_some()
    }
}

impl Drop for Holder {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}
