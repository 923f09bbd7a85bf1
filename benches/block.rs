//! How fast the block copy is: in memory, or between two devices or files.
//!
//!   cargo bench --bench block                        copies, proves and compares 256 MiB in memory
//!   cargo bench --bench block -- SOURCE TARGET       copies SOURCE over TARGET, for real
//!
//! Prints `PHASE SECONDS MIB_PER_SECOND`, a line each.

use std::io;
use std::path::Path;
use std::time::Instant;

use dualroot::copy::block::{Body, Content, Copy, Head, Target};
use dualroot::copy::progress::Monitor;
use dualroot::error::Result;
use dualroot::sys::{Claim, Native, Os};
use dualroot::ufs::{Identity, Image};

/// Bytes of the copy in memory.
const SIZE: usize = 256 << 20;

struct Memory(Vec<u8>);

impl Target for Memory {
    fn write_at(&mut self, offset: u64, data: &[u8]) -> io::Result<()> {
        let at = usize::try_from(offset).map_err(io::Error::other)?;
        self.0[at..at + data.len()].copy_from_slice(data);
        Ok(())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

struct Device<C>(C);

impl<C: Claim> Target for Device<C> {
    fn write_at(&mut self, offset: u64, data: &[u8]) -> io::Result<()> {
        self.0.write_at(offset, data).map_err(io::Error::other)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.0.flush().map_err(io::Error::other)
    }
}

/// Runs a phase and tells how long it took for how many bytes.
#[allow(clippy::cast_precision_loss)] // figures for people
fn timed<T>(name: &str, bytes: impl Fn(&T) -> u64, phase: impl FnOnce() -> Result<T>) -> T {
    let begun = Instant::now();
    let done = phase().unwrap_or_else(|error| panic!("{name}: {error}"));
    let seconds = begun.elapsed().as_secs_f64();
    let mib = bytes(&done) as f64 / f64::from(1 << 20);
    println!("{name} {seconds:.3} {:.0}", mib / seconds);
    done
}

fn in_memory() {
    let source: Vec<u8> = (0..SIZE).map(|n| u8::try_from(n * 7 % 251).unwrap_or(0)).collect();
    let content = Content::Whole(source.len() as u64);
    let monitor = Monitor::default();
    let names = (Path::new("source"), Path::new("target"));
    let copy = Copy { content: &content, source: &source, names, monitor: &monitor };
    let mut target = Memory(vec![1; SIZE]);
    for _ in 0..3 {
        let body = timed("copy", |body: &Body| body.bytes, || copy.body(&mut target, None));
        timed("prove", |()| SIZE as u64, || copy.prove(&body, &target.0));
        let old = target.0.clone();
        let same =
            timed("compare", |body: &Body| body.bytes, || copy.body(&mut target, Some(&old)));
        assert_eq!(same.written, 0);
    }
}

fn between(from: &Path, to: &Path) -> Result<()> {
    let os = Native;
    let source = os.open_device(from)?;
    let size = std::fs::File::open(from)
        .and_then(|mut file| io::Seek::seek(&mut file, io::SeekFrom::End(0)))
        .unwrap_or(0);
    let mut claim = os.claim(to)?;
    let device = claim.size()?;
    let identity = Identity { id: [0x6000_0000, 1], label: Some("copy".to_owned()), device };
    let content = match Image::read(&source, size, identity) {
        Ok(image) => Content::Ufs(image),
        Err(why) => {
            eprintln!("all blocks: {why}");
            Content::Whole(size)
        }
    };
    let monitor = Monitor::default();
    let copy = Copy { content: &content, source: &source, names: (from, to), monitor: &monitor };
    let key = 65536.min(device);
    claim.wipe(key, 8192.min(device - key))?;
    claim.flush()?;
    let mut target = Device(claim);
    let body = timed("copy", |body: &Body| body.bytes, || copy.body(&mut target, None));
    let reader = os.open_device(to)?;
    let bytes = body.bytes;
    timed("prove", |()| bytes, || copy.prove(&body, &reader));
    let head = timed("head", Head::bytes, || copy.head(&mut target));
    copy.prove_head(&head, &reader)?;
    let same = timed("compare", |body: &Body| body.bytes, || copy.body(&mut target, Some(&reader)));
    println!("{} of {} bytes, {} of them anew", content.used(), content.size(), same.written);
    Ok(())
}

fn main() {
    // Cargo adds a word of its own.
    let words: Vec<_> = std::env::args_os().skip(1).filter(|word| word != "--bench").collect();
    match &words[..] {
        [] => in_memory(),
        [from, to] => between(Path::new(from), Path::new(to)).unwrap_or_else(|e| panic!("{e}")),
        _ => panic!("usage: block [SOURCE TARGET]"),
    }
}
