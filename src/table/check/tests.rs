//! Media as the tools make them, damaged byte by byte.

use std::io::Cursor;

use proptest::prelude::*;

use super::super::boot::Firmware;
use super::super::tests::gpt;
use super::*;

const SECTOR: usize = 512;

fn name(place: Place) -> String {
    match place {
        Place::Medium => "da0".to_owned(),
        Place::Slice(n) => format!("da0s{n}"),
        Place::Partition(n, p) => format!("da0s{n}.{p}"),
    }
}

fn reading(bytes: &[u8], sector: u32) -> Reading {
    Reading::take(&mut Cursor::new(bytes), bytes.len() as u64, sector).unwrap()
}

/// Code and place of everything that is found, in order.
pub(crate) fn found(bytes: &[u8], sector: u32) -> Vec<(&'static str, String)> {
    let reading = reading(bytes, sector);
    let mut all = reading.damage(&name);
    all.extend(reading.boot(None, &[], &name));
    all.into_iter().map(|f| (f.code, f.place)).collect()
}

fn codes(bytes: &[u8], sector: u32) -> Vec<&'static str> {
    found(bytes, sector).into_iter().map(|(code, _)| code).collect()
}

/// A dual-root MBR as EX has it, with boot code: two slices with a root in `a`, one with `d` and `e`.
fn mbr_medium(sector: u32) -> Vec<u8> {
    let unit = MIB / u64::from(sector);
    let mb = |n: u64| u32::try_from(n * unit).unwrap();
    let mut bytes = vec![0; 16 * MB];
    bytes[..512].copy_from_slice(&mbr::tests::sector(&[
        (0x80, 0xa5, mb(1), mb(4)),
        (0, 0xa5, mb(5), mb(4)),
        (0, 0xa5, mb(9), mb(2)),
        (0, 5, mb(11), mb(4)),
    ]));
    labelled(bytes, sector)
}

/// The same with boot code, labels and an extended slice's own table, where there are slices only.
pub(crate) fn labelled(mut bytes: Vec<u8>, sector: u32) -> Vec<u8> {
    let unit = MIB / u64::from(sector);
    bytes[..440].fill(0x90);
    let sectors = |mb: u64| u32::try_from(mb * unit).unwrap();
    let bs = sector as usize;
    for (mb, partitions) in [
        (1, vec![(0, sectors(4), 0, 7), (2, sectors(4), 0, 0)]),
        (5, vec![(0, sectors(4), 0, 7), (2, sectors(4), 0, 0)]),
        (9, vec![(3, sectors(1), 0, 7), (4, sectors(1), sectors(1), 7), (2, sectors(2), 0, 0)]),
    ] {
        let at = mb * usize::try_from(MIB).unwrap();
        let mut head = bsd::tests::slice(sector, &partitions);
        head[..512].fill(0x90);
        if 2 * bs < head.len() {
            head[2 * bs..].fill(0x90);
        }
        bytes[at..at + head.len()].copy_from_slice(&head);
    }
    // The EBR of the extended slice.
    let ebr = 11 * usize::try_from(MIB).unwrap();
    bytes[ebr + 510..ebr + 512].copy_from_slice(&[0x55, 0xaa]);
    bytes
}

/// A dual-root GPT with boot code.
fn gpt_medium(sector: u32) -> Vec<u8> {
    let unit = MIB / u64::from(sector);
    let ufs = "516e7cb6-6ecf-11d6-8ff8-00022d09712b";
    let boot = "83bd6b9d-7f41-11dc-be0b-001560b84f0f";
    let efi = "c12a7328-f81f-11d2-ba4b-00a0c93ec93b";
    let parts = [(boot, 1, 1), (ufs, 2, 4), (ufs, 6, 4), (efi, 10, 1)];
    let parts = parts.map(|(kind, at, size)| (kind, at * unit, (at + size) * unit - 1));
    bootable(gpt(12 * MIB, sector, &parts))
}

/// The same with what its partitions boot with, where there is only the table.
pub(crate) fn bootable(mut bytes: Vec<u8>) -> Vec<u8> {
    bytes[..440].fill(0x90);
    bytes[MB..MB + 64].fill(0x90);
    bytes[10 * MB + 510..10 * MB + 512].copy_from_slice(&[0x55, 0xaa]);
    bytes
}

/// A change to a medium.
type Damage = Box<dyn Fn(&mut Vec<u8>)>;

/// The medium with this damage has exactly these findings.
#[track_caller]
fn damaged(medium: &[u8], sector: u32, damage: impl Fn(&mut Vec<u8>), expected: &[(&str, &str)]) {
    let mut bytes = medium.to_vec();
    damage(&mut bytes);
    let found = found(&bytes, sector);
    let found: Vec<_> = found.iter().map(|(code, place)| (*code, place.as_str())).collect();
    assert_eq!(found, expected);
}

const MB: usize = 1 << 20;

#[test]
fn healthy_media_have_no_findings() {
    for sector in [512, 4096] {
        assert_eq!(found(&mbr_medium(sector), sector), []);
        assert_eq!(found(&gpt_medium(sector), sector), []);
    }
    assert_eq!(found(&vec![0; MB], 512), []);
    assert_eq!(found(&[], 512), []);
}

#[test]
fn a_damaged_mbr() {
    let medium = mbr_medium(512);
    let entry = |n: usize, at: usize| 446 + n * 16 + at;
    let overlap = |bytes: &mut Vec<u8>| bytes[entry(1, 9)] -= 1; // 256 sectors earlier
    // A slice elsewhere has its label and its boot code elsewhere.
    damaged(
        &medium,
        512,
        overlap,
        &[("slice-overlap", "da0s2"), ("label-missing", "da0s2"), ("misaligned-1m", "da0s2")],
    );
    let beyond = |bytes: &mut Vec<u8>| bytes[entry(3, 14)] = 1;
    damaged(&medium, 512, beyond, &[("slice-beyond-medium", "da0s4")]);
    let status = |bytes: &mut Vec<u8>| bytes[entry(2, 0)] = 0x41;
    damaged(&medium, 512, status, &[("mbr-status-invalid", "da0")]);
    let several = |bytes: &mut Vec<u8>| bytes[entry(1, 0)] = 0x80;
    damaged(&medium, 512, several, &[("active-several", "da0")]);
    let none = |bytes: &mut Vec<u8>| bytes[entry(0, 0)] = 0;
    damaged(&medium, 512, none, &[("active-none", "da0")]);
    let ebr = |bytes: &mut Vec<u8>| bytes[11 * MB + 510] = 0;
    damaged(&medium, 512, ebr, &[("ebr-damaged", "da0s4")]);
    // All of it gone: nothing is found without the kernel's view, and nothing crashes.
    damaged(&medium, 512, |bytes| bytes[..512].fill(0), &[]);
}

#[test]
fn missing_boot_code() {
    for sector in [512, 4096] {
        let medium = mbr_medium(sector);
        let code = |bytes: &mut Vec<u8>| bytes[..440].fill(0);
        damaged(&medium, sector, code, &[("mbr-boot-code-missing", "da0")]);
        let boot1 = |bytes: &mut Vec<u8>| bytes[5 * MB..5 * MB + 512].fill(0);
        damaged(&medium, sector, boot1, &[("slice-boot-code-missing", "da0s2")]);
        let mut bare = medium;
        bare[..440].fill(0);
        for mb in [1, 5] {
            bare[mb * MB..mb * MB + 512].fill(0);
            bare[mb * MB + 1024..mb * MB + 4096].fill(u8::from(sector == 512));
        }
        let found = reading(&bare, sector).boot(None, &[], &name);
        let severity = if sector == 512 { Severity::Warning } else { Severity::Info };
        assert!(found.len() == 3 && found.iter().all(|f| f.severity == severity), "{found:?}");
    }
    let medium = mbr_medium(512);
    let boot2 = |bytes: &mut Vec<u8>| bytes[MB + 1024..MB + 8192].fill(0);
    damaged(&medium, 512, boot2, &[("slice-boot-code-missing", "da0s1")]);
    // Without any of it the medium may be meant for a loader of another kind.
    let mut bare = medium;
    bare[..440].fill(0);
    for mb in [1, 5] {
        bare[mb * MB..mb * MB + 512].fill(0);
        bare[mb * MB + 1024..mb * MB + 8192].fill(0);
    }
    for (firmware, severity) in [
        (None, Severity::Info),
        (Some(Firmware::Uefi), Severity::Info),
        (Some(Firmware::Bios), Severity::Warning),
    ] {
        let found = reading(&bare, 512).boot(firmware, &[], &name);
        assert_eq!(found.len(), 3);
        assert!(found.iter().all(|f| f.severity == severity), "{firmware:?}: {found:?}");
    }
}

#[test]
fn damaged_labels() {
    let medium = mbr_medium(512);
    let label = 5 * MB + SECTOR;
    // Sectors of a, in the second slice.
    let size_of_a = label + 148;
    let checksum = |bytes: &mut Vec<u8>| bytes[size_of_a] ^= 1;
    damaged(&medium, 512, checksum, &[("label-checksum", "da0s2")]);
    let geometry = |bytes: &mut Vec<u8>| bytes[label + 44] = 0;
    damaged(&medium, 512, geometry, &[("label-invalid", "da0s2")]);
    let shifted = |bytes: &mut Vec<u8>| bytes.copy_within(label..label + 512, label + 16);
    let gone = |bytes: &mut Vec<u8>| bytes[label..label + 512].fill(0);
    let moved = |bytes: &mut Vec<u8>| {
        shifted(bytes);
        bytes[label..label + 16].fill(0);
    };
    damaged(&medium, 512, moved, &[("label-misplaced", "da0s2")]);
    damaged(&medium, 512, gone, &[("label-missing", "da0s2")]);

    let with = |partitions: &[(usize, u32, u32, u8)]| {
        let mut bytes = medium.clone();
        let head = bsd::tests::slice(512, partitions);
        bytes[label..label + SECTOR].copy_from_slice(&head[SECTOR..2 * SECTOR]);
        found(&bytes, 512)
    };
    let place = |code, place: &str| vec![(code, place.to_owned())];
    let c = (2, 8192, 0, 0);
    let overlap = with(&[(0, 4096, 0, 7), (3, 4096, 4000, 7), c]);
    assert_eq!(overlap, place("partition-overlap", "da0s2.4"));
    let beyond = with(&[(0, 8193, 0, 7), c]);
    assert_eq!(beyond, place("partition-beyond-slice", "da0s2.1"));
    // From the start of the medium: the slice begins at sector 10240.
    let absolute = with(&[(0, 8192, 10240, 7), (2, 8192, 10240, 0)]);
    assert_eq!(absolute, place("label-absolute", "da0s2"));
    let displaced = with(&[(0, 8192, 63, 7), (2, 8192, 63, 0)]);
    assert_eq!(displaced, place("label-displaced", "da0s2"));
    let before = with(&[(0, 8192, 10240, 7), (2, 8192, 10240, 0), (3, 10, 5, 7)]);
    let expected =
        [place("label-absolute", "da0s2"), place("partition-before-slice", "da0s2.4")].concat();
    assert_eq!(before, expected);
    let large = with(&[(0, 8192, 0, 7), (2, 8193, 0, 0)]);
    assert_eq!(large, place("label-raw-size", "da0s2"));
    let misaligned = with(&[(0, 8191, 1, 7), c]);
    assert_eq!(misaligned, place("misaligned-4k", "da0s2.1"));
}

#[test]
fn a_damaged_gpt() {
    for sector in [512_u32, 4096] {
        let medium = gpt_medium(sector);
        let bs = sector as usize;
        let last = medium.len() - bs;
        let cases: Vec<(Damage, &[(&str, &str)])> = vec![
            (Box::new(move |b| b[bs..2 * bs].fill(0)), &[("gpt-primary-damaged", "da0")]),
            (Box::new(move |b| b[bs + 20] ^= 1), &[("gpt-primary-damaged", "da0")]),
            (Box::new(move |b| b[2 * bs] ^= 1), &[("gpt-primary-damaged", "da0")]),
            (Box::new(move |b| b[last..].fill(0)), &[("gpt-backup-damaged", "da0")]),
            (Box::new(move |b| b[last + 20] ^= 1), &[("gpt-backup-damaged", "da0")]),
            (
                Box::new(move |b| b.resize(b.len() + MB, 0)),
                &[("gpt-protective-size", "da0"), ("gpt-backup-misplaced", "da0")],
            ),
            (
                Box::new(move |b| {
                    b[bs] ^= 1;
                    b[last + 20] ^= 1;
                }),
                &[("gpt-lost", "da0")],
            ),
        ];
        for (n, (damage, expected)) in cases.into_iter().enumerate() {
            println!("sector {sector}, case {n}");
            damaged(&medium, sector, damage, expected);
        }
        let first = |bytes: &mut Vec<u8>| bytes[..512].fill(0);
        damaged(
            &medium,
            sector,
            first,
            &[("gpt-protective-missing", "da0"), ("pmbr-boot-code-missing", "da0")],
        );
        let empty = |bytes: &mut Vec<u8>| bytes[MB..MB + 64].fill(0);
        damaged(&medium, sector, empty, &[("freebsd-boot-empty", "da0s1")]);
        let esp = |bytes: &mut Vec<u8>| bytes[10 * MB + 510] = 0;
        damaged(&medium, sector, esp, &[("esp-empty", "da0s4")]);
    }
}

/// Both copies of a GPT, changed in the same way and with right checksums.
fn resealed(medium: &[u8], change: impl Fn(&mut [u8])) -> Vec<u8> {
    let mut bytes = medium.to_vec();
    let last = bytes.len() - SECTOR;
    for (header, array) in [(SECTOR, 2 * SECTOR), (last, last - 32 * SECTOR)] {
        change(&mut bytes[array..array + 128 * 128]);
        seal(&mut bytes, header, array);
    }
    bytes
}

fn seal(bytes: &mut [u8], header: usize, array: usize) {
    let sum = crc32fast::hash(&bytes[array..array + 128 * 128]).to_le_bytes();
    bytes[header + 88..header + 92].copy_from_slice(&sum);
    bytes[header + 16..header + 20].fill(0);
    let sum = crc32fast::hash(&bytes[header..header + 92]).to_le_bytes();
    bytes[header + 16..header + 20].copy_from_slice(&sum);
}

#[test]
fn a_gpt_that_says_what_cannot_be() {
    let medium = gpt_medium(512);
    // The second entry's first sector; its attributes.
    let overlap =
        resealed(&medium, |array| array[128 + 32..128 + 36].copy_from_slice(&[0, 9, 0, 0]));
    assert_eq!(found(&overlap, 512), [("slice-overlap", "da0s2".to_owned())]);
    let beyond = resealed(&medium, |array| array[128 + 43] = 1);
    assert_eq!(found(&beyond, 512), [("slice-beyond-medium", "da0s2".to_owned())]);
    let failed = resealed(&medium, |array| array[128 + 48 + 7] = 0x02);
    assert_eq!(found(&failed, 512), [("boot-failed", "da0s2".to_owned())]);
    let aligned = resealed(&medium, |array| array[128 + 32] = 8);
    assert_eq!(found(&aligned, 512), [("misaligned-1m", "da0s2".to_owned())]);
    // Only the primary: the label of the second.
    let mut differ = medium.clone();
    differ[2 * SECTOR + 128 + 56] = b'y';
    seal(&mut differ, SECTOR, 2 * SECTOR);
    assert_eq!(found(&differ, 512), [("gpt-copies-differ", "da0".to_owned())]);
    // Or the boot flags of the second.
    let mut interrupted = medium.clone();
    interrupted[2 * SECTOR + 128 + 48 + 7] ^= 0x08;
    seal(&mut interrupted, SECTOR, 2 * SECTOR);
    assert_eq!(found(&interrupted, 512), [("gpt-copies-differ", "da0".to_owned())]);
    for (medium, severity) in [(&differ, Severity::Error), (&interrupted, Severity::Warning)] {
        assert_eq!(reading(medium, 512).damage(&name)[0].severity, severity);
    }
    // The same without the header that knows of it: not whole, as if any byte were another one.
    let at = 2 * SECTOR + 128 + 48;
    for (place, mask, severity) in [
        (at + 7, 0x08, Severity::Warning),
        (at + 7, 0x10, Severity::Error),
        (at, 0x08, Severity::Error),
        (2 * SECTOR + 128 + 56, 1, Severity::Error),
        (SECTOR + 16, 1, Severity::Error),
        (SECTOR + 88, 1, Severity::Error),
    ] {
        let mut torn = medium.clone();
        torn[place] ^= mask;
        assert_eq!(found(&torn, 512), [("gpt-primary-damaged", "da0".to_owned())]);
        assert_eq!(reading(&torn, 512).damage(&name)[0].severity, severity, "{place}");
    }
    // Nothing to boot from, and a protective MBR with code for it.
    let none = resealed(&medium, |array| {
        array[..128].fill(0);
        array[3 * 128..4 * 128].fill(0);
    });
    assert_eq!(found(&none, 512), [("boot-partition-missing", "da0".to_owned())]);
}

#[test]
fn a_gpt_beside_an_mbr() {
    let mut bytes = gpt_medium(512);
    bytes[446..510].fill(0);
    bytes[446..462].copy_from_slice(&[0x80, 0, 0, 0, 0x83, 0, 0, 0, 0, 8, 0, 0, 0, 8, 0, 0]);
    assert_eq!(codes(&bytes, 512), ["gpt-beside-mbr"]);
}

#[test]
fn what_cannot_be_read_is_told() {
    struct Torn(Cursor<Vec<u8>>, std::ops::Range<u64>);
    impl std::io::Read for Torn {
        fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
            if self.1.contains(&self.0.position()) {
                return Err(std::io::Error::from_raw_os_error(nix::libc::EIO));
            }
            self.0.read(buffer)
        }
    }
    impl std::io::Seek for Torn {
        fn seek(&mut self, to: std::io::SeekFrom) -> std::io::Result<u64> {
            self.0.seek(to)
        }
    }
    for (medium, range, second) in [
        (gpt_medium(512), 512..1024, Some("gpt-primary-damaged")),
        (mbr_medium(512), 5 << 20..6 << 20, None),
    ] {
        let size = medium.len() as u64;
        let start = range.start;
        let mut torn = Torn(Cursor::new(medium.clone()), range);
        let found = Reading::take(&mut torn, size, 512).unwrap().damage(&name);
        assert_eq!((found[0].code, found.get(1).map(|f| f.code)), ("medium-unreadable", second));
        assert_eq!(found[0].what, format!("at {start}: Input/output error"));
        let mut torn = Torn(Cursor::new(medium), 0..512);
        assert!(Reading::take(&mut torn, size, 512).is_err());
    }
}

/// The same table as [`super::super::read`], and no panic.
fn agrees(bytes: &[u8], sector: u32) {
    let size = bytes.len() as u64;
    let plain = super::super::read(&mut Cursor::new(bytes), size, sector);
    let Ok(reading) = Reading::take(&mut Cursor::new(bytes), size, sector) else {
        assert!(plain.is_err());
        return;
    };
    let _ = (reading.damage(&name), reading.boot(Some(Firmware::Bios), &[], &name));
    match (plain, reading.table()) {
        (Ok(plain), Ok(table)) => assert_eq!(plain, table),
        (Err(_), Err(_)) => {}
        // A bad header where the other copy is not there at all.
        (plain, table) => panic!("{plain:?}\n{table:?}"),
    }
}

#[test]
fn changed_media_never_panic() {
    let media = [mbr_medium(512), gpt_medium(512)];
    let change = prop::collection::vec((0usize..6 << 10, any::<u8>(), 0usize..4), 1..8);
    let mut runner = proptest::test_runner::TestRunner::default();
    runner
        .run(&(change, 0usize..2), |(changes, which)| {
            let mut bytes = media[which].clone();
            let end = bytes.len();
            for (at, value, place) in changes {
                let at = [at, end - 1 - at, MB + at, 5 * MB + at][place];
                bytes[at] = value;
            }
            agrees(&bytes, 512);
            Ok(())
        })
        .unwrap();
}

proptest! {
    #[test]
    fn random_media_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..30_000),
                                sign: bool, sector in prop::sample::select(vec![512u32, 4096])) {
        let mut bytes = bytes;
        if sign && bytes.len() > 512 {
            bytes[510..512].copy_from_slice(&[0x55, 0xaa]);
            for at in [446, 462, 478, 494] { bytes[at] &= 0x80; }
            for at in [450, 466, 482, 498] { bytes[at] = 0xa5; }
        }
        agrees(&bytes, sector);
    }
}
