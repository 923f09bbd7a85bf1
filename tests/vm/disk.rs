//! A dual-root disk in memory, md(4), with a running root on it.

use std::cell::RefCell;
use std::fmt::Write as _;
use std::fs::{self, File};
use std::io::Read;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use nix::mount::MntFlags;
use nix::sys::signal::Signal;
use nix::sys::statfs::statfs;
use sha2::{Digest, Sha256};

use crate::harness::{BASE, LABEL, Run, Running, program, tool, try_tool};

/// The program that is tested.
pub fn dualroot() -> Command {
    let given = std::env::var_os("DUALROOT");
    program(given.unwrap_or_else(|| env!("CARGO_BIN_EXE_dualroot").into()))
}

/// The partition table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scheme {
    /// Slices 1 and 2 with a root in the `a` of their BSD labels; `/config` in slice 4, as on EX.
    Mbr,
    /// Boot code, two roots, two configs.
    Gpt,
}

/// How a disk is to be made.
#[derive(Clone, Debug)]
pub struct Layout {
    pub scheme: Scheme,
    /// Bytes in a sector (mdconfig(8) -S).
    pub sector: u32,
    /// MB of the two roots.
    pub roots_mb: [u64; 2],
    /// Whether there is a `/config` of its own.
    pub config: bool,
    /// Whether its bytes are in a file, which can be damaged below GEOM: [`Disk::file`].
    pub in_a_file: bool,
    /// Whether all of it lies behind a gnop(8), whose requests can fail: [`Disk::below`].
    pub nop: bool,
    /// Words for newfs(8), of the running root.
    pub newfs: Vec<&'static str>,
    /// Words for tunefs(8), of the running root.
    pub tunefs: Vec<&'static str>,
}

impl Default for Layout {
    fn default() -> Self {
        Self {
            scheme: Scheme::Mbr,
            sector: 512,
            roots_mb: [24, 24],
            config: false,
            in_a_file: false,
            nop: false,
            newfs: vec!["-U"],
            tunefs: Vec::new(),
        }
    }
}

impl Layout {
    /// With a `/config`.
    pub fn with_config() -> Self {
        Self { config: true, ..Self::default() }
    }

    /// On a GPT.
    pub fn gpt() -> Self {
        Self { scheme: Scheme::Gpt, ..Self::default() }
    }
}

/// What gnop(8) appends to a name.
const NOP: &str = ".nop";

/// The disk. When it is dropped, everything of it goes, and a mount of the alternate slot that the
/// program left is a failure.
#[derive(Debug)]
pub struct Disk {
    name: String,
    dir: PathBuf,
    layout: Layout,
    /// Further words of every call.
    words: RefCell<Vec<String>>,
}

impl Disk {
    /// Makes the disk and mounts slot 1 at [`root`](Self::root). `altroot`, `config`, `altconfig`
    /// and `etc` are there.
    pub fn new(layout: Layout) -> Self {
        let disk = Self::bare(layout);
        let mut newfs = program("newfs");
        newfs.args(&disk.layout.newfs).arg(disk.node(1));
        Run::of(&mut newfs).exits(0);
        if !disk.layout.tunefs.is_empty() {
            Run::of(program("tunefs").args(&disk.layout.tunefs).arg(disk.node(1))).exits(0);
        }
        tool("mount", &[&disk.node(1), &disk.root()]);
        for name in ["altroot", "altconfig", "config", "etc"] {
            fs::create_dir(disk.root().join(name)).unwrap();
        }
        if disk.layout.config {
            tool("newfs", &[&"-U", &disk.config(1)]);
            tool("mount", &[&disk.config(1), &disk.root().join("config")]);
        }
        disk
    }

    /// Makes the disk without any file system; nothing is mounted.
    pub fn bare(layout: Layout) -> Self {
        let megabytes = layout.roots_mb[0] + layout.roots_mb[1] + 24;
        let (size, sector) = (format!("{megabytes}m"), layout.sector.to_string());
        let file = Path::new(BASE).join(format!("image.{}", std::process::id()));
        let mut mdconfig = program("mdconfig");
        mdconfig.args(["-a", "-s", &size, "-S", &sector, "-L", LABEL]);
        if layout.in_a_file {
            fs::create_dir_all(BASE).unwrap();
            File::create(&file).unwrap().set_len(megabytes << 20).unwrap();
            mdconfig.args(["-t", "vnode", "-f"]).arg(&file);
        } else {
            mdconfig.args(["-t", "swap"]);
        }
        let mut name = Run::of(&mut mdconfig).exits(0).stdout.trim().to_owned();
        let dir = Path::new(BASE).join(&name);
        if layout.nop {
            tool("gnop", &[&"create", &name]);
            name += NOP;
        }
        fs::create_dir_all(dir.join("root")).unwrap();
        let disk = Self { name, dir, layout, words: RefCell::default() };
        match disk.layout.scheme {
            Scheme::Mbr => disk.make_mbr(),
            Scheme::Gpt => disk.make_gpt(),
        }
        disk
    }

    fn make_mbr(&self) {
        let gpart = |words: &[&str]| drop(Run::of(program("gpart").args(words)).exits(0));
        gpart(&["create", "-s", "MBR", &self.name]);
        let [first, second] = self.layout.roots_mb.map(|mb| format!("{mb}m"));
        for (index, size) in [("1", first.as_str()), ("2", &second), ("4", "17m")] {
            gpart(&["add", "-t", "freebsd", "-a", "1m", "-s", size, "-i", index, &self.name]);
            gpart(&["create", "-s", "BSD", &format!("{}s{index}", self.name)]);
        }
        gpart(&["set", "-a", "active", "-i", "1", &self.name]);
        for slice in [1, 2] {
            gpart(&["add", "-t", "freebsd-ufs", "-i", "1", &format!("{}s{slice}", self.name)]);
        }
        if self.layout.config {
            for index in ["4", "5"] {
                let slice = format!("{}s4", self.name);
                gpart(&["add", "-t", "freebsd-ufs", "-s", "8m", "-i", index, &slice]);
            }
        }
    }

    fn make_gpt(&self) {
        let gpart = |words: &[&str]| drop(Run::of(program("gpart").args(words)).exits(0));
        gpart(&["create", "-s", "GPT", &self.name]);
        gpart(&["add", "-t", "freebsd-boot", "-s", "512k", "-i", "1", &self.name]);
        let sizes = self.layout.roots_mb.map(|mb| format!("{mb}m"));
        let mut parts = vec![("2", &*sizes[0], "rootA"), ("3", &*sizes[1], "rootB")];
        if self.layout.config {
            parts.extend([("4", "8m", "configA"), ("5", "8m", "configB")]);
        }
        for (index, size, label) in parts {
            // Every disk has labels of its own.
            let label = format!("{}-{label}", self.name);
            let words = ["add", "-t", "freebsd-ufs", "-a", "1m", "-s", size, "-i", index];
            gpart(&[&words[..], &["-l", &label, &self.name]].concat());
        }
        gpart(&["set", "-a", "bootme", "-i", "2", &self.name]);
    }

    /// The file that its bytes are in.
    #[allow(clippy::unused_self)] // reads well at the use
    pub fn file(&self) -> PathBuf {
        Path::new(BASE).join(format!("image.{}", std::process::id()))
    }

    /// `md0`, or `md0.nop`
    pub fn name(&self) -> &str {
        &self.name
    }

    pub fn scheme(&self) -> Scheme {
        self.layout.scheme
    }

    /// The node of the memory disk itself, below a gnop(8).
    pub fn below(&self) -> String {
        format!("/dev/{}", self.unit())
    }

    fn unit(&self) -> &str {
        self.name.trim_end_matches(NOP)
    }

    /// The partition of a slot's root, 1 or 2, without `/dev/`: `md0s1a`, `md0p2`.
    pub fn part(&self, slot: u32) -> String {
        match self.layout.scheme {
            Scheme::Mbr => format!("{}s{slot}a", self.name),
            Scheme::Gpt => format!("{}p{}", self.name, slot + 1),
        }
    }

    /// Its node.
    pub fn node(&self, slot: u32) -> String {
        format!("/dev/{}", self.part(slot))
    }

    /// The node of a slot's config.
    pub fn config(&self, slot: u32) -> String {
        match (self.layout.scheme, slot) {
            (Scheme::Mbr, 1) => format!("/dev/{}s4d", self.name),
            (Scheme::Mbr, _) => format!("/dev/{}s4e", self.name),
            (Scheme::Gpt, n) => format!("/dev/{}p{}", self.name, n + 3),
        }
    }

    /// Brings back all labels of a slot that is not mounted: of several, those that were not used go
    /// when one is opened for writing, and stay away as long as that one is there
    /// (`g_new_provider_event`). Who opens the partition itself for writing takes them all away, and
    /// then GEOM looks for all of them again.
    pub fn taste(&self, slot: u32) {
        drop(File::options().write(true).open(self.node(slot)).unwrap());
    }

    /// Where the running root is mounted.
    pub fn root(&self) -> PathBuf {
        self.dir.join("root")
    }

    /// Where a copy is mounted.
    pub fn altroot(&self) -> PathBuf {
        self.root().join("altroot")
    }

    /// A new directory beside the root.
    pub fn side(&self, name: &str) -> PathBuf {
        let path = self.dir.join(name);
        fs::create_dir_all(&path).unwrap();
        path
    }

    /// Writes a file below the root, with the directories above it.
    pub fn write(&self, path: &str, content: impl AsRef<[u8]>) -> PathBuf {
        let full = self.root().join(path);
        fs::create_dir_all(full.parent().unwrap()).unwrap();
        fs::write(&full, content).unwrap();
        full
    }

    /// Writes `etc/fstab` with `/` as it is called here, and `/config`.
    pub fn write_fstab(&self, root: &str) {
        let mut text =
            format!("# Device Mountpoint FStype Options Dump Pass\n{root} / ufs rw 1 1\n");
        if self.layout.config {
            writeln!(text, "{} /config ufs rw 2 2", self.config(1)).unwrap();
        }
        self.write("etc/fstab", text);
    }

    /// A small tree as a system has it.
    pub fn fill(&self) {
        self.write_fstab(&self.node(1));
        self.write("etc/os-release", "NAME=\"Example OS\"\nVERSION_ID=1.2\n");
        self.write("boot/kernel/kernel", pattern(700_000, 1));
        for n in 0..20 {
            self.write(&format!("usr/share/doc/{n}.txt"), pattern(100 * n + n, n));
        }
        fs::create_dir_all(self.root().join("var/empty")).unwrap();
        if self.layout.config {
            self.write("config/juniper.conf", "system { host-name ex; }\n");
        }
    }

    /// Names both roots in a configuration file, which every call gets.
    pub fn name_slots(&self, first: &str, second: &str) {
        self.configure(&format!("[root]\nslots = [\"{first}\", \"{second}\"]\n"));
    }

    /// Writes a configuration file, which every call gets.
    pub fn configure(&self, text: &str) {
        let path = self.dir.join("dualroot.conf");
        fs::write(&path, text).unwrap();
        *self.words.borrow_mut() = vec!["-c".to_owned(), path.to_str().unwrap().to_owned()];
    }

    /// The program with `-r` for this disk's root and these arguments.
    pub fn command(&self, args: &[&str]) -> Command {
        let mut command = dualroot();
        command.args(["--progress", "none", "-r"]).arg(self.root());
        command.args(self.words.borrow().iter()).args(args);
        command
    }

    /// Runs the program, which must come to its end ([`Running::wait`]).
    #[track_caller]
    pub fn dualroot(&self, args: &[&str]) -> Run {
        Running::start(self.command(args)).wait()
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

    /// The state of slot 2.
    #[track_caller]
    pub fn state(&self) -> String {
        self.slot(2)["state"].as_str().unwrap().to_owned()
    }

    /// SHA-256 of all bytes of a device: `md0s2a`.
    #[allow(clippy::unused_self)] // reads well at the use
    pub fn hash(&self, device: &str) -> String {
        let mut file = File::open(Path::new("/dev").join(device)).unwrap();
        let mut hasher = Sha256::new();
        let mut buffer = vec![0; 1 << 20];
        loop {
            let n = file.read(&mut buffer).unwrap();
            if n == 0 {
                break;
            }
            hasher.update(&buffer[..n]);
        }
        format!("{:x?}", hasher.finalize())
    }

    /// The points where slot 2, or its config, is mounted.
    pub fn alternate_mounts(&self) -> Vec<String> {
        let ours = [self.node(2), self.config(2)];
        let points = [self.altroot(), self.root().join("altconfig")];
        mounts()
            .into_iter()
            .filter(|m| ours.contains(&m.source) || points.contains(&m.point))
            .map(|m| m.point.to_string_lossy().into_owned())
            .collect()
    }

    #[track_caller]
    pub fn assert_unmounted(&self) {
        let left = self.alternate_mounts();
        assert!(left.is_empty(), "still mounted: {left:?}");
    }

    /// Mounts slot 2 read-only beside the root.
    pub fn mount_copy(&self) -> Mounted {
        Mounted::new(&["-o", "ro"], &self.node(2), &self.side("copy"))
    }

    /// Waits until the copy is mounted at `altroot`, to be written or to be read.
    #[track_caller]
    pub fn wait_mounted(&self, read_only: bool) {
        crate::harness::wait_until("the copy is mounted", || self.copy_is_mounted(read_only));
    }

    /// Asks the kernel itself: mount(8) takes longer to start than some runs take to end.
    fn copy_is_mounted(&self, read_only: bool) -> bool {
        let own = fs::metadata(self.root()).unwrap().dev();
        let point = self.altroot();
        // While it is unmounted from there, the path leads nowhere for a moment.
        let look = || Some((fs::metadata(&point).ok()?.dev(), statfs(&point).ok()?.flags()));
        look().is_some_and(|(device, flags)| {
            device != own && flags.contains(MntFlags::MNT_RDONLY) == read_only
        })
    }

    /// A snapshot that stands still with the copy mounted, to be written or to be read, and without a
    /// record. There must be enough to copy for that: [`much`](Self::much). On a busy host the guest
    /// may stand still itself while the run goes on: then there is more to copy, and another run.
    #[track_caller]
    pub fn halted(&self, read_only: bool) -> Running {
        let record = self.altroot().join(".dualroot/record.json");
        // An older copy's is there for a moment, too.
        let begun = || self.copy_is_mounted(read_only) && !record.exists();
        for again in 1..6 {
            let mut running = Running::start(self.command(&["snapshot"]));
            crate::harness::wait_until("the copy is begun, or done", || begun() || running.ended());
            if !running.ended() {
                running.halt();
                if begun() {
                    return running;
                }
                running.signal(Signal::SIGCONT);
            }
            println!("{}", running.wait());
            for entry in fs::read_dir(self.root().join("usr/much")).into_iter().flatten() {
                fs::write(entry.unwrap().path(), pattern(1 << 20, again)).unwrap();
            }
        }
        panic!("it is always faster");
    }

    /// More to copy, in MB, than can be done before a test has looked.
    pub fn much(&self, megabytes: usize) {
        for n in 0..megabytes {
            self.write(&format!("usr/much/{n}"), pattern(1 << 20, n + 100));
        }
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        let left = self.alternate_mounts();
        for mount in mounts().iter().rev().filter(|m| m.point.starts_with(&self.dir)) {
            try_tool("umount", &[&"-f", &mount.point]);
        }
        if self.layout.nop {
            try_tool("gnop", &[&"destroy", &"-f", &self.name]);
        }
        let run = try_tool("mdconfig", &[&"-d", &"-o", &"force", &"-u", &self.unit()]);
        if !std::thread::panicking() {
            assert!(left.is_empty(), "left mounted: {left:?}");
            assert!(run.code == 0 || run.stderr.contains("No such"), "{run}");
        }
    }
}

/// A mount of the test's own, given back when it is dropped.
#[derive(Debug)]
pub struct Mounted(PathBuf);

impl Mounted {
    /// Mounts with these words for mount(8).
    #[track_caller]
    pub fn new(words: &[&str], device: &str, point: &Path) -> Self {
        fs::create_dir_all(point).unwrap();
        Run::of(program("mount").args(words).arg(device).arg(point)).exits(0);
        Self(point.to_path_buf())
    }

    pub fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        let run = try_tool("umount", &[&self.0]);
        // Somebody else may have cleared it, which the test then asks for itself.
        if run.code != 0 && mounts().iter().any(|m| m.point == self.0) {
            try_tool("umount", &[&"-f", &self.0]);
            assert!(std::thread::panicking(), "{run}");
        }
    }
}

/// A line of the mount table.
#[derive(Clone, Debug)]
pub struct Mount {
    pub source: String,
    pub point: PathBuf,
}

/// All mounts, lowest first.
pub fn mounts() -> Vec<Mount> {
    let text = tool("mount", &[&"-p"]);
    let line = |line: &str| {
        let mut fields = line.split_whitespace();
        Some(Mount { source: fields.next()?.to_owned(), point: PathBuf::from(fields.next()?) })
    };
    text.lines().filter_map(line).collect()
}

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
