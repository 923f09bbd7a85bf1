use std::process::Command;

use proptest::prelude::*;

use super::*;

/// Bytes of the images: two cylinder groups of the smallest fragments.
const SIZE: u64 = 16 << 20;

/// A file system made by makefs(8) of `block` and `fragment` bytes, with files in which every
/// sector tells where it belongs, and a record. Debian's puts the superblock at 8 KiB, FreeBSD's at
/// 64 KiB.
#[allow(clippy::disallowed_methods)] // a test's tool, wherever it is
pub(crate) fn makefs(block: u32, fragment: u32) -> Vec<u8> {
    let dir = tempfile::tempdir().unwrap();
    let tree = dir.path().join("tree");
    for (n, size) in [100, 511, 5000, 40_000, 70_001, 300_000, 2_000_000].into_iter().enumerate() {
        let below = tree.join(format!("dir{}", n % 3));
        std::fs::create_dir_all(&below).unwrap();
        std::fs::write(below.join(format!("file{n}")), tagged(n, size)).unwrap();
    }
    std::fs::create_dir(tree.join(crate::record::DIR)).unwrap();
    let record = format!("{{\"schema\": 1, \"tool\": \"{}\"}}", "x".repeat(9000));
    std::fs::write(tree.join(crate::record::DIR).join(crate::record::RECORD), record).unwrap();
    let image = dir.path().join("image");
    let options = format!("version=2,bsize={block},fsize={fragment},density=8192");
    let path = std::env::var("PATH").unwrap_or_default();
    let output = Command::new("makefs")
        .env("PATH", format!("{path}:/usr/sbin"))
        .args(["-t", "ffs", "-s", &SIZE.to_string(), "-o", &options])
        .args([&image, &tree])
        .output()
        .unwrap_or_else(|e| panic!("makefs is needed by this test: {e}"));
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    std::fs::read(&image).unwrap()
}

fn tagged(file: usize, size: usize) -> Vec<u8> {
    let sector = |n| format!("sector {n:08} of file {file:04} ").repeat(18).into_bytes();
    let mut content: Vec<u8> =
        (0..size.div_ceil(512)).flat_map(|n| sector(n).into_iter().take(512)).collect();
    content.truncate(size);
    content
}

pub(crate) fn identity(device: u64) -> Identity {
    Identity { id: [0x6000_0001, 0xfeed_beef], label: Some("copy".to_owned()), device }
}

/// Block and fragment sizes that newfs(8) takes.
pub(crate) const SIZES: [(u32, u32); 6] =
    [(4096, 512), (8192, 1024), (16384, 2048), (32768, 4096), (65536, 8192), (65536, 65536)];

fn read(bytes: &Vec<u8>) -> Result<Image, Fault> {
    Image::read(bytes, bytes.len() as u64, identity(bytes.len() as u64))
}

/// What a copy on a medium full of garbage looks like.
fn copy(source: &Vec<u8>, image: &Image) -> Vec<u8> {
    let mut target = vec![0xa5; source.len()];
    for piece in image.pieces(source, 0..u64::MAX) {
        let piece = piece.unwrap();
        let range = piece.range();
        let place = usize::try_from(range.start).unwrap()..usize::try_from(range.end).unwrap();
        match piece {
            Piece::Same(_) => target[place.clone()].copy_from_slice(&source[place]),
            Piece::Other(_, bytes) => target[place].copy_from_slice(&bytes),
        }
    }
    target
}

#[test]
fn every_sector_of_every_file_is_in_use() {
    for (block, fragment) in SIZES {
        let source = makefs(block, fragment);
        let image = read(&source).unwrap_or_else(|e| panic!("{block} {fragment}: {e}"));
        assert_eq!((image.superblock().block, image.superblock().fragment), (block, fragment));
        let target = copy(&source, &image);
        let mut sectors = 0;
        for (old, new) in source.chunks(512).zip(target.chunks(512)) {
            if old.starts_with(b"sector ") {
                assert!(old == new, "{block} {fragment}");
                sectors += 1;
            }
        }
        assert!(sectors >= 4717, "{sectors} of {block} {fragment}");
        // What is free is not copied.
        assert!(image.used() < 8 << 20, "{} of {block} {fragment}", image.used());
        assert!(target.chunks(512).any(|sector| sector.iter().all(|&byte| byte == 0xa5)));
        // The copy is a file system, with the same blocks in use.
        let again = read(&target).unwrap();
        assert_eq!(again.superblock(), image.superblock());
        assert_eq!(again.used(), image.used());
    }
}

#[test]
fn every_superblock_has_the_new_identity() {
    let source = makefs(4096, 512);
    let image = read(&source).unwrap();
    let fs = image.superblock().clone();
    let target = copy(&source, &image);
    let groups = (0..fs.groups).map(|n| fs.base(n) + u64::from(fs.backup_start));
    let places = groups.map(|n| n * u64::from(fs.fragment)).chain([fs.place]);
    assert!(fs.groups >= 2);
    for at in places.map(|n| usize::try_from(n).unwrap()) {
        assert_eq!(le32(&source, at + 1372), 0x1954_0119, "{at}");
        let superblock = &target[at..];
        assert_eq!([le32(superblock, 144), le32(superblock, 148)], [0x6000_0001, 0xfeed_beef]);
        assert_eq!(&superblock[680..685], b"copy\0");
        assert_eq!(le64(superblock, 872), SIZE / 512);
    }
}

#[test]
fn the_record_of_the_source_is_none_in_the_copy() {
    let source = makefs(16384, 2048);
    let target = copy(&source, &read(&source).unwrap());
    let record = |bytes: &[u8]| bytes.windows(10).filter(|part| *part == b"{\"schema\":").count();
    assert_eq!((record(&source), record(&target)), (1, 0));
}

/// Where the superblock is.
fn place(bytes: &Vec<u8>) -> usize {
    usize::try_from(read(bytes).unwrap().superblock().place).unwrap()
}

#[test]
fn check_hashes_are_looked_at_and_made() {
    let mut bytes = makefs(32768, 4096);
    let at = place(&bytes);
    // As newfs(8) makes it: superblock and cylinder groups.
    bytes[at + 1312..at + 1316].copy_from_slice(&0x200_u32.to_le_bytes());
    bytes[at + 1308..at + 1312].copy_from_slice(&1_u32.to_le_bytes());
    assert!(matches!(read(&bytes), Err(Fault::Hash(None))));
    let length = le32(&bytes, at + 104) as usize;
    let hash = check_hash_without(&bytes[at..at + length], 1304);
    bytes[at + 1304..at + 1308].copy_from_slice(&hash.to_le_bytes());
    let target = copy(&bytes, &read(&bytes).unwrap());
    read(&target).unwrap();
    bytes[at + 1308] = 3;
    let hash = check_hash_without(&bytes[at..at + length], 1304);
    bytes[at + 1304..at + 1308].copy_from_slice(&hash.to_le_bytes());
    assert!(matches!(read(&bytes), Err(Fault::Hash(Some(0)))));
}

#[test]
fn crc_32c_is_the_kernels() {
    // RFC 3720, B.4: 32 bytes of zeros; the kernel does not invert it in the end.
    assert_eq!(check_hash(&[0; 32]), !0x8a91_36aa);
}

/// An image whose superblock has these bytes at `offset`.
fn changed(image: &Vec<u8>, offset: usize, bytes: &[u8]) -> Vec<u8> {
    let mut changed = image.clone();
    let at = place(image) + offset;
    changed[at..at + bytes.len()].copy_from_slice(bytes);
    changed
}

#[test]
fn what_cannot_be_trusted_is_told() {
    let good = makefs(8192, 1024);
    let told = |offset, bytes: &[u8]| read(&changed(&good, offset, bytes)).unwrap_err().to_string();
    assert_eq!(told(1372, &[0; 4]), "there is no UFS2");
    assert_eq!(told(1372, &0x1996_0408_u32.to_le_bytes()), "newfs was stopped before its end");
    assert!(told(209, &[0]).contains("not unmounted cleanly"));
    assert!(told(1312, &4_u32.to_le_bytes()).contains("not unmounted cleanly"));
    assert_eq!(told(1116, &7_u32.to_le_bytes()), "it holds 1 snapshots of itself");
    for (offset, name) in [
        (8, "fs_sblkno"),
        (12, "fs_cblkno"),
        (16, "fs_iblkno"),
        (20, "fs_dblkno"),
        (44, "fs_ncg"),
        (48, "fs_bsize"),
        (52, "fs_fsize"),
        (56, "fs_frag"),
        (104, "fs_sbsize"),
        (156, "fs_cssize"),
        (160, "fs_cgsize"),
        (184, "fs_ipg"),
        (188, "fs_fpg"),
    ] {
        assert_eq!(told(offset, &[0; 4]), format!("its superblock has {name} 0"));
        assert!(told(offset, &[0xff; 4]).starts_with("its superblock has "), "{name}");
    }
    assert!(told(1080, &[0; 8]).contains("fs_size 0"));
    assert!(told(1096, &[0xff; 8]).contains("fs_csaddr"));
    let short = Image::read(&good, SIZE - 1, identity(SIZE));
    assert!(matches!(short, Err(Fault::Beyond(..))), "{short:?}");
}

/// `ffs_snapshot` leaves the older snapshots in the superblock's list, and the journal out.
#[test]
fn a_snapshot_is_copied_without_those_before_it() {
    let good = makefs(16384, 2048);
    let at = place(&good);
    let changed = |offset, bytes: &[u8]| changed(&good, offset, bytes);
    let of_snapshot = |bytes: &Vec<u8>| Image::of_snapshot(bytes, SIZE, identity(SIZE));
    let older = changed(1116, &[[7, 0, 0, 0], [9, 0, 0, 0]].concat());
    assert!(matches!(read(&older), Err(Fault::Snapshots(2))));
    let target = copy(&older, &of_snapshot(&older).unwrap());
    assert_eq!(target[at + 1116..at + 1196], [0; 80]);
    read(&target).unwrap();
    for (offset, value, word) in [
        (1312, 0x08, "journal is in no snapshot"),
        (1312, 0x01, "not unmounted cleanly"),
        (209, 0, "not unmounted cleanly"),
    ] {
        let fault = of_snapshot(&changed(offset, &[value])).unwrap_err().to_string();
        assert!(fault.contains(word), "{fault}");
    }
    // Mounted read-write it is not clean, and that is no fault.
    let live = Superblock::read(&changed(209, &[0]), SIZE).unwrap();
    live.can_be_frozen().unwrap();
    for flags in [0x01, 0x04, 0x08] {
        let live = Superblock::read(&changed(1312, &[flags]), SIZE).unwrap();
        assert!(live.can_be_frozen().is_err(), "{flags}");
    }
}

#[test]
fn it_grows_where_another_group_has_room() {
    let fs = read(&makefs(8192, 1024)).unwrap().superblock().clone();
    let bytes = |fragments: u64| fragments * u64::from(fs.fragment);
    let partial = Superblock { size: u64::from(fs.per_group) - 8, groups: 1, ..fs.clone() };
    assert!(!partial.can_grow(partial.bytes()) && !partial.can_grow(partial.bytes() + 1023));
    assert!(partial.can_grow(partial.bytes() + 1024));
    let full = Superblock { size: fs.per_group.into(), groups: 1, ..fs.clone() };
    let next = full.size + u64::from(full.data_start);
    assert!(!full.can_grow(bytes(next)) && full.can_grow(bytes(next + 1)));
}

#[test]
fn a_damaged_group_is_told() {
    let good = makefs(4096, 512);
    let fs = read(&good).unwrap().superblock().clone();
    let at = (fs.base(1) + u64::from(fs.header_start)) * u64::from(fs.fragment);
    let at = usize::try_from(at).unwrap();
    for offset in [4, 12, 20, 96, 120] {
        let mut damaged = good.clone();
        damaged[at + offset..at + offset + 4].fill(0xff);
        assert!(matches!(read(&damaged), Err(Fault::Group(1, _))), "{offset}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]
    #[test]
    fn damage_is_a_fault_or_harmless(
        damage in prop::collection::vec((0usize..4, 0usize..2048, any::<u8>()), 1..8),
    ) {
        static GOOD: std::sync::LazyLock<Vec<u8>> = std::sync::LazyLock::new(|| makefs(4096, 512));
        let mut bytes = GOOD.clone();
        let fs = read(&bytes).unwrap().superblock().clone();
        let byte = |fragments: u64| usize::try_from(fragments * u64::from(fs.fragment)).unwrap();
        let places = [
            usize::try_from(fs.place).unwrap(),
            byte(fs.header_start.into()),
            byte(fs.base(1) + u64::from(fs.header_start)),
            byte(fs.inodes_start.into()),
        ];
        for (place, offset, value) in damage {
            bytes[places[place] + offset] = value;
        }
        if let Ok(image) = read(&bytes) {
            let mut end = 0;
            for piece in image.pieces(&bytes, 0..u64::MAX) {
                let range = piece.unwrap().range();
                prop_assert!(range.start >= end && range.start < range.end);
                end = range.end;
            }
            prop_assert!(end <= SIZE);
        }
    }
}
