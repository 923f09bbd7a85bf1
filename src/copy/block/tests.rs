use std::sync::Arc;
use std::sync::atomic::AtomicUsize;

use proptest::prelude::*;

use super::*;
use crate::ufs::tests::{identity, makefs};

/// A medium that tells *written* from *durable*.
#[derive(Clone, Default)]
struct Medium {
    written: Vec<u8>,
    durable: Vec<u8>,
    /// What was written since the last flush, oldest first.
    log: Vec<(usize, Vec<u8>)>,
    /// The medium fails at this byte.
    broken: Option<u64>,
    /// Every state that a loss of power can leave: looked at with each write and flush.
    lost: Vec<Vec<u8>>,
    film: bool,
}

impl Medium {
    fn new(bytes: Vec<u8>) -> Self {
        Self { durable: bytes.clone(), written: bytes, ..Self::default() }
    }

    /// The states that are left where the power goes now: nothing of what is pending, all, only the
    /// last, all but the last.
    fn losses(&self) -> Vec<Vec<u8>> {
        let count = self.log.len();
        let kept: [&dyn Fn(usize) -> bool; 4] =
            [&|_| false, &|_| true, &|n| n + 1 == count, &|n| n + 1 != count];
        kept.iter()
            .map(|kept| {
                let mut bytes = self.durable.clone();
                for (_, (at, data)) in self.log.iter().enumerate().filter(|(n, _)| kept(*n)) {
                    bytes[*at..*at + data.len()].copy_from_slice(data);
                }
                bytes
            })
            .collect()
    }
}

impl Target for Medium {
    fn write_at(&mut self, offset: u64, data: &[u8]) -> io::Result<()> {
        assert_eq!((offset % 512, data.len() % 512), (0, 0), "no whole sectors");
        if self.broken.is_some_and(|at| (offset..offset + data.len() as u64).contains(&at)) {
            return Err(io::Error::from_raw_os_error(nix::libc::EIO));
        }
        let at = usize::try_from(offset).unwrap();
        self.written[at..at + data.len()].copy_from_slice(data);
        self.log.push((at, data.to_vec()));
        if self.film {
            self.lost.extend(self.losses());
        }
        Ok(())
    }

    fn flush(&mut self) -> io::Result<()> {
        self.log.clear();
        self.durable.clone_from(&self.written);
        if self.film {
            self.lost.push(self.durable.clone());
        }
        Ok(())
    }
}

/// Reads whole sectors only, as a device does.
struct Sectors<'a>(&'a Vec<u8>);

impl ReadAt for Sectors<'_> {
    fn read_at(&self, offset: u64, buffer: &mut [u8]) -> io::Result<usize> {
        assert_eq!((offset % 512, buffer.len() % 512), (0, 0), "no whole sectors");
        self.0.read_at(offset, buffer)
    }
}

fn task<'a, R>(content: &'a Content, source: &'a R, monitor: &'a Monitor) -> Copy<'a, R> {
    Copy { content, source, names: (Path::new("source"), Path::new("target")), monitor }
}

fn ufs(bytes: &Vec<u8>) -> Content {
    let size = bytes.len() as u64;
    Content::Ufs(Image::read(bytes, size, identity(size)).unwrap())
}

fn copy(content: &Content, source: &Vec<u8>, target: &mut Medium) -> Result<(Body, Head)> {
    let (monitor, sectors) = (Monitor::default(), Sectors(source));
    let copy = task(content, &sectors, &monitor);
    let body = copy.body(target, None)?;
    copy.prove(&body, &Sectors(&target.written))?;
    let head = copy.head(target)?;
    copy.prove_head(&head, &Sectors(&target.written))?;
    Ok((body, head))
}

/// All blocks of something that nobody knows, but for the first sector zeros are not expected.
fn noise(length: usize) -> Vec<u8> {
    let mut state = 1_u64;
    let mut next = || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        u8::try_from(state >> 56).unwrap()
    };
    (0..length).map(|_| next()).collect()
}

#[test]
fn all_blocks_of_what_is_not_known() {
    for length in [512, 4096, 4608, WINDOW, WINDOW + 512, 3 << 20, (3 << 20) + 512] {
        let source = noise(length);
        let mut target = Medium::new(vec![0; length + 1024]);
        let (body, head) = copy(&Content::Whole(length as u64), &source, &mut target).unwrap();
        assert_eq!(target.durable[..length], source);
        assert_eq!(target.durable[length..], [0; 1024]);
        assert_eq!(body.bytes + head.bytes(), length as u64);
        assert_eq!(body.written, body.bytes);
    }
}

#[test]
fn a_ufs_is_one_again() {
    for (block, fragment) in crate::ufs::tests::SIZES {
        let source = makefs(block, fragment);
        let content = ufs(&source);
        let mut target = Medium::new(vec![0xa5; source.len() + (1 << 20)]);
        let (body, head) = copy(&content, &source, &mut target).unwrap();
        assert!(body.bytes + head.bytes() >= content.used());
        let again = ufs(&target.durable);
        assert_eq!(again.used(), content.used());
        for (old, new) in source.chunks(512).zip(target.durable.chunks(512)) {
            assert!(!old.starts_with(b"sector ") || old == new);
        }
        // Boot code, and the label of a slice that the partition begins, are the target's.
        let start = usize::try_from(content.head().start).unwrap();
        assert!(target.durable[..start].iter().all(|&byte| byte == 0xa5));
    }
}

/// After every write and every flush the power goes: what can be mounted is whole.
#[test]
fn a_loss_of_power_leaves_no_half_copy() {
    let mut source = makefs(8192, 1024);
    let content = ufs(&source);
    let mut whole = Medium::new(vec![0; source.len()]);
    copy(&content, &source, &mut whole).unwrap();
    // The medium bears an older copy, of which the key was erased, durably.
    let mut target = Medium::new(whole.durable.clone());
    let key = content.key();
    for at in source.chunks_exact_mut(4096).filter(|c| c.starts_with(b"sector ")) {
        at[8..12].copy_from_slice(b"ANEW");
    }
    let erased = vec![0; usize::try_from(key.end - key.start).unwrap()];
    target.write_at(key.start, &erased).unwrap();
    target.flush().unwrap();
    target.film = true;
    copy(&content, &source, &mut target).unwrap();
    let size = source.len() as u64;
    let mut whole = 0;
    assert!(target.lost.len() > 12, "{}", target.lost.len());
    for state in &target.lost {
        if Image::read(state, size, identity(size)).is_ok() {
            assert!(*state == target.durable, "half a copy is a file system");
            whole += 1;
        }
    }
    assert!(whole >= 1);
}

#[test]
fn only_what_is_another_is_written() {
    let mut source = makefs(16384, 2048);
    let content = ufs(&source);
    let mut target = Medium::new(vec![0x11; source.len()]);
    let (first, _) = copy(&content, &source, &mut target).unwrap();
    let sector = source.chunks(512).rposition(|c| c.starts_with(b"sector ")).unwrap();
    source[sector * 512] ^= 0xff;
    let monitor = Monitor::default();
    let copy = task(&content, &source, &monitor);
    let old = target.durable.clone();
    let body = copy.body(&mut target, Some(&Sectors(&old))).unwrap();
    assert_eq!(body.bytes, first.bytes);
    assert!(body.written <= UNIT as u64, "{}", body.written);
    assert!(body.written > 0);
    copy.prove(&body, &target.durable).unwrap();
    assert_eq!(target.durable[sector * 512], source[sector * 512]);
}

#[test]
fn a_byte_that_the_medium_does_not_keep_is_found() {
    let source = makefs(32768, 4096);
    let content = ufs(&source);
    let mut target = Medium::new(vec![0; source.len()]);
    let monitor = Monitor::default();
    let copy = task(&content, &source, &monitor);
    let body = copy.body(&mut target, None).unwrap();
    let mut sectors = source.chunks(512);
    let at = sectors.rposition(|c| c.starts_with(b"sector ")).unwrap() * 512 + 7;
    target.durable[at] ^= 1;
    let error = copy.prove(&body, &target.durable).unwrap_err();
    assert_eq!(error.kind, Kind::Differs);
    let offset = error.offset.unwrap();
    // The MiB may begin before a gap.
    assert!(offset <= at as u64 && at as u64 - offset < 8 << 20, "{offset} {at}");
    target.durable[at] ^= 1;
    let head = copy.head(&mut target).unwrap();
    let key = usize::try_from(content.key().start).unwrap();
    target.durable[key + 9] ^= 1;
    assert_eq!(copy.prove_head(&head, &target.durable).unwrap_err().offset, Some(key as u64 + 9));
}

#[test]
fn errors_tell_the_place() {
    let source = noise(5 << 20);
    let content = Content::Whole(source.len() as u64);
    let mut target = Medium::new(vec![0; source.len()]);
    target.broken = Some((3 << 20) + 700);
    let error = copy(&content, &source, &mut target).unwrap_err();
    assert_eq!((error.operation.as_str(), error.errno), ("writing", Some(nix::libc::EIO)));
    let offset = error.offset.unwrap();
    assert!((2 << 20..(3 << 20) + 700).contains(&offset), "{offset}");
    assert_eq!(target.durable[..4096], [0; 4096], "there is no head");
    let short = source[..4 << 20].to_vec();
    let error = copy(&content, &short, &mut Medium::new(vec![0; 5 << 20])).unwrap_err();
    assert_eq!(error.operation, "reading");
}

#[test]
fn a_signal_stops_it() {
    let source = noise(8 << 20);
    let signal = Arc::new(AtomicUsize::new(15));
    let monitor = Monitor::new(signal);
    let content = Content::Whole(source.len() as u64);
    let copy = task(&content, &source, &monitor);
    let mut target = Medium::new(vec![0; source.len()]);
    let error = copy.body(&mut target, None).unwrap_err();
    assert_eq!(error.kind, Kind::Signal(15));
    assert!(target.log.len() <= 1);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]
    /// Whatever the target holds, and whether it is looked at or not.
    #[test]
    fn a_copy_does_not_depend_on_what_was_there(
        old in any::<u8>(),
        same in prop::collection::vec(any::<bool>(), 16),
        compare in any::<bool>(),
    ) {
        static SOURCE: std::sync::LazyLock<Vec<u8>> =
            std::sync::LazyLock::new(|| makefs(4096, 1024));
        let content = ufs(&SOURCE);
        let mut before = vec![old; SOURCE.len()];
        for (n, _) in same.iter().enumerate().filter(|(_, same)| **same) {
            before[n << 20..(n + 1) << 20].copy_from_slice(&SOURCE[n << 20..(n + 1) << 20]);
        }
        let monitor = Monitor::default();
        let copy = task(&content, &*SOURCE, &monitor);
        let mut target = Medium::new(before.clone());
        let old: Option<&dyn ReadAt> = if compare { Some(&before) } else { None };
        let body = copy.body(&mut target, old).unwrap();
        copy.prove(&body, &target.durable).unwrap();
        let head = copy.head(&mut target).unwrap();
        copy.prove_head(&head, &target.durable).unwrap();
        let again = ufs(&target.durable);
        prop_assert_eq!(again.used(), content.used());
        for (old, new) in SOURCE.chunks(512).zip(target.durable.chunks(512)) {
            prop_assert!(!old.starts_with(b"sector ") || old == new);
        }
    }
}
