use std::io::Cursor;

use proptest::prelude::*;

use super::super::bsd::tests::slice;
use super::super::{boot0, mbr, tests};
use super::capture::{Captured, capture, mbr_id};
use super::compare::{Change, compare};
use super::identity::{Seen, Verdict, identify};
use super::*;

const MB: u64 = 1 << 20;

const BOOT: &str = "83bd6b9d-7f41-11dc-be0b-001560b84f0f";
const DATA: &str = "0fc63daf-8483-4772-8e79-3d69d8477de4";

fn gpt() -> Vec<u8> {
    let parts = [(BOOT, 64, 575), (DATA, 2048, 4095), (DATA, 4096, 6143)];
    with_code_in_partition(tests::gpt(8 * MB, 512, &parts))
}

pub(crate) fn with_code_in_partition(mut bytes: Vec<u8>) -> Vec<u8> {
    bytes[64 * 512..64 * 512 + 2000].fill(0xb0);
    bytes
}

/// Two slices with labels, a third one with two logical slices, and boot code everywhere.
fn mbr() -> Vec<u8> {
    let mut bytes = vec![0; 8 << 20];
    let mut put = |at: usize, entries: &[(u8, u8, u32, u32)]| {
        bytes[at * 512..at * 512 + 512].copy_from_slice(&mbr::tests::sector(entries));
    };
    put(0, &[(0x80, 0xa5, 63, 2048), (0, 0xa5, 2111, 2048), (0, 5, 6144, 8192)]);
    // Each of the chain tells of one slice from where it is itself, and of the next from 6144.
    put(6144, &[(0, 0x83, 56, 1000), (0, 5, 1800, 1056)]);
    put(6144 + 1800, &[(0, 0x83, 56, 1000)]);
    bytes[440..444].copy_from_slice(&0x1234_5678_u32.to_le_bytes());
    with_code_and_labels(bytes)
}

pub(crate) fn with_code_and_labels(mut bytes: Vec<u8>) -> Vec<u8> {
    bytes[..440].fill(0x31);
    bytes[512..2000].fill(0x32);
    for (n, start) in [(1, 63), (2, 2111)] {
        let mut window = slice(512, &[(0, 2048, 0, 7), (2, 2048, 0, 0)]);
        window[..512].fill(0x40 + n);
        window[1024..4000].fill(0x50 + n);
        bytes[start * 512..start * 512 + 8192].copy_from_slice(&window);
    }
    bytes
}

fn look(bytes: &[u8]) -> Captured {
    capture(&mut Cursor::new(bytes), bytes.len() as u64, 512).unwrap()
}

fn medium(bytes: &[u8]) -> Medium {
    let Captured { scheme, disk_id, file_systems, pieces, notes } = look(bytes);
    assert_eq!(notes, [""; 0]);
    let (name, ident, size) = ("da0".to_owned(), Some("S1".to_owned()), bytes.len() as u64);
    Medium { name, ident, size, sector: 512, scheme, disk_id, file_systems, pieces }
}

fn saved(media: Vec<Medium>) -> Saved {
    Saved { tool: "dualroot 0".to_owned(), created: "2026-11-20T11:28:38Z".parse().unwrap(), media }
}

fn at(range: Range<u64>) -> Range<usize> {
    usize::try_from(range.start).unwrap()..usize::try_from(range.end).unwrap()
}

/// What the pieces are on these bytes.
fn now(medium: &Medium, bytes: &[u8]) -> Vec<Vec<u8>> {
    medium.pieces.iter().map(|p| bytes[at(p.range())].to_vec()).collect()
}

/// Compares, and writes what differs.
fn repair<'a>(medium: &'a Medium, bytes: &mut [u8]) -> Vec<Change<'a>> {
    let changes = compare(medium, &now(medium, bytes));
    for change in &changes {
        bytes[at(change.piece.range())].copy_from_slice(&change.bytes);
    }
    assert_eq!(compare(medium, &now(medium, bytes)), []);
    changes
}

fn kinds(changes: &[Change<'_>]) -> Vec<What> {
    changes.iter().map(|c| c.piece.what).collect()
}

fn pieces(bytes: &[u8]) -> Vec<(What, Option<u32>)> {
    medium(bytes).pieces.iter().map(|p| (p.what, p.index)).collect()
}

fn of_label(n: Option<u32>) -> [(What, Option<u32>); 3] {
    [(What::Boot1, n), (What::Boot2, n), (What::Label, n)]
}

pub(crate) fn all_that_leads_is_kept(mbr: &[u8], gpt: &[u8]) {
    let of = of_label;
    let mut expected = [of(Some(1)), of(Some(2))].concat();
    expected.extend([(What::Ebr, Some(2)), (What::Ebr, Some(1))]);
    expected.extend([(What::BootGap, None), (What::Mbr, None)]);
    assert_eq!(pieces(mbr), expected);
    let expected = [
        (What::BootPartition, Some(1)),
        (What::BackupEntries, None),
        (What::BackupHeader, None),
        (What::GptEntries, None),
        (What::GptHeader, None),
        (What::Mbr, None),
    ];
    assert_eq!(pieces(gpt), expected);
}

#[test]
fn all_that_leads_to_partitions_is_kept_and_what_leads_comes_last() {
    all_that_leads_is_kept(&mbr(), &gpt());
    // A label without a table, and nothing at all.
    let mut bytes = vec![0; 1 << 20];
    bytes[..8192].copy_from_slice(&slice(512, &[(0, 1000, 16, 7), (2, 2048, 0, 0)]));
    assert_eq!(look(&bytes).scheme, Some(Scheme::Bsd));
    assert_eq!(pieces(&bytes), of_label(None));
    assert_eq!(look(&vec![0; 1 << 20]), Captured::default());
    // What is no UFS may keep data where boot code would be.
    bytes[..8192].copy_from_slice(&slice(512, &[(1, 1000, 0, 27), (2, 2048, 0, 0)]));
    assert_eq!(pieces(&bytes), [(What::Label, None)]);
}

#[test]
fn the_tables_are_in_the_pieces() {
    let kept = medium(&mbr());
    let sectors: Vec<_> =
        kept.partitions().iter().map(|r| (r.start / 512, (r.end - r.start) / 512)).collect();
    let slices = [(63, 2048), (2111, 2048), (6144, 8192)];
    assert_eq!(sectors, [&slices[..], &[(63, 2048), (2111, 2048)]].concat());
    assert_eq!(kept.tables().len(), 3);
    assert_eq!(medium(&gpt()).partitions().len(), 3);
}

#[test]
fn a_boot_partition_is_cut_and_that_is_said() {
    let bytes = tests::gpt(8 * MB, 512, &[(BOOT, 2048, 6143)]);
    let found = look(&bytes);
    assert_eq!(found.pieces[0].bytes.len() as u64, MB);
    assert_eq!(found.notes, ["of partition 1 the first 1048576 of 2097152 bytes"]);
}

#[test]
fn the_file_is_read_as_it_was_written() {
    let all = saved(vec![medium(&mbr()), medium(&gpt())]);
    let file = all.encode();
    assert_eq!(Saved::decode(&file), Ok(all));
    // Zeros take no room: 1 MiB of gap, 16 KiB of entries twice.
    assert!(file.len() < 32 << 10, "{}", file.len());
}

#[test]
fn a_file_with_one_other_byte_or_a_byte_less_is_refused() {
    let file = saved(vec![medium(&gpt())]).encode();
    for n in 0..file.len() {
        assert!(Saved::decode(&file[..n]).is_err(), "cut at {n}");
        let mut bad = file.clone();
        for flip in [0x01, 0x20, 0xff] {
            bad[n] = file[n] ^ flip;
            assert!(Saved::decode(&bad).is_err(), "byte {n} with {flip:#x}");
        }
    }
    assert!(Saved::decode(&[&file[..], b"\0"].concat()).is_err(), "a byte more");
}

/// The file with another head, and the checksum of it.
fn with_head(file: &[u8], edit: impl Fn(&str) -> String) -> Vec<u8> {
    let (_, rest) = line(file).unwrap();
    let (head, payload) = line(rest).unwrap();
    let new = edit(head);
    assert_ne!(new, head);
    let rest = [new.as_bytes(), b"\n", payload].concat();
    [format!("{MAGIC}{SCHEMA} {}\n", hex(&Sha256::digest(&rest))).as_bytes(), &rest].concat()
}

#[test]
fn other_versions_unknown_fields_and_impossible_pieces_are_refused() {
    let file = saved(vec![medium(&mbr())]).encode();
    let newer = [b"dualroot tables 2 ", &file[MAGIC.len() + 2..]].concat();
    let why = Saved::decode(&newer).unwrap_err();
    assert_eq!(why, "it has version 2, this program knows version 1");
    assert_eq!(Saved::decode(b"hello\n").unwrap_err(), "it is no file of partition tables");
    let cases = [
        ("\"tool\":", "\"mood\":1,\"tool\":", "mood"),
        ("\"what\":\"mbr\"", "\"what\":\"mood\"", "mood"),
        ("\"scheme\":\"MBR\"", "\"scheme\":\"APM\"", "APM"),
        ("\"schema\":1", "\"schema\":3", "version 3"),
        ("\"sector\":512", "\"sector\":513", "sectors of 513"),
        ("\"offset\":0,\"length\":512", "\"offset\":1,\"length\":512", "impossible"),
        ("\"offset\":0,\"length\":512", "\"offset\":8388608,\"length\":512", "beyond"),
        ("\"offset\":0,\"length\":512", "\"offset\":0,\"length\":1073741824", "impossible"),
        ("\"offset\":0,\"length\":512", "\"offset\":0,\"length\":1024", "checksum"),
        ("\"stored\":512,\"crc32\"", "\"stored\":0,\"crc32\"", "checksum"),
    ];
    for (from, to, word) in cases {
        let bad = with_head(&file, |head| head.replacen(from, to, 1));
        let why = Saved::decode(&bad).unwrap_err();
        assert!(why.contains(word), "{to}: {why}");
    }
}

#[test]
fn a_medium_is_known_by_what_is_on_it() {
    let kept = medium(&mbr());
    let seen = Seen {
        size: kept.size,
        sector: 512,
        ident: kept.ident.clone(),
        scheme: kept.scheme,
        disk_id: kept.disk_id.clone(),
        file_system: true,
    };
    let none = Seen { size: kept.size, sector: 512, ..Seen::default() };
    let some = |text: &str| Some(text.to_owned());
    assert_eq!(identify(&kept, &seen), Verdict::Same);
    assert_eq!(identify(&kept, &none), Verdict::Unknown, "a name is no evidence");
    for one in [
        Seen { ident: some("S1"), ..none.clone() },
        Seen { disk_id: some("12345678"), ..none.clone() },
        Seen { file_system: true, ..none.clone() },
    ] {
        assert_eq!(identify(&kept, &one), Verdict::Same);
    }
    for (other, word) in [
        (Seen { size: kept.size + 512, ..seen.clone() }, "bytes"),
        (Seen { size: kept.size - 512, ..seen.clone() }, "bytes"),
        (Seen { sector: 4096, ..seen.clone() }, "sectors"),
        (Seen { ident: some("S2"), ..seen.clone() }, "serial number"),
        (Seen { disk_id: some("12345679"), ..seen.clone() }, "disk identity"),
        (Seen { scheme: Some(Scheme::Gpt), ..seen.clone() }, "kind GPT"),
    ] {
        let Verdict::Other(why) = identify(&kept, &other) else { panic!("{word}") };
        assert!(why.contains(word), "{why}");
    }
}

#[test]
fn what_boots_is_no_difference() {
    let whole = mbr();
    let kept = medium(&whole);
    let mut bytes = whole.clone();
    (bytes[446], bytes[462]) = (0, 0x80);
    let chosen = bytes.clone();
    assert_eq!(compare(&kept, &now(&kept, &bytes)), []);
    // Its flags stay while its code is repaired, and come from the file where nothing tells them.
    bytes[7] = 0;
    assert_eq!(kinds(&repair(&kept, &mut bytes)), [What::Mbr]);
    assert_eq!(bytes, chosen);
    bytes[..512].fill(0);
    repair(&kept, &mut bytes);
    assert_eq!(bytes, whole);
    // None that is active is no choice, and two are none.
    for flags in [[0, 0], [0x80, 0x80]] {
        (bytes[446], bytes[462]) = flags.into();
        assert_eq!(kinds(&repair(&kept, &mut bytes)), [What::Mbr], "{flags:?}");
        assert_eq!(bytes, whole);
    }
    // Slices that changed places do not tell what boots.
    let (one, two) = (whole[446..462].to_vec(), whole[462..478].to_vec());
    bytes[446..478].copy_from_slice(&[two, one].concat());
    assert_eq!(kinds(&repair(&kept, &mut bytes)), [What::Mbr]);
    assert_eq!(bytes, whole);
}

/// An MBR whose code is boot0 of a version, with slice 1 for its default.
fn with_boot0(version: usize) -> Vec<u8> {
    let mut bytes = mbr();
    let code = boot0::tests::sector(version, 0);
    bytes[..440].copy_from_slice(&code[..440]);
    if version == 0 {
        bytes[440..446].copy_from_slice(&code[440..446]);
    }
    bytes
}

/// What it started last, and the drive that would be next.
#[test]
fn what_boot0_remembers_is_no_difference() {
    for version in 0..2 {
        let whole = with_boot0(version);
        let kept = medium(&whole);
        let mut bytes = whole.clone();
        let remembered = boot0::remembered(&bytes).unwrap();
        boot0::set_default(&mut bytes, 2);
        bytes[remembered.start] = 0xb1;
        assert_eq!(compare(&kept, &now(&kept, &bytes)), [], "{version}");
        // It stays while the code around it is repaired.
        let started = bytes.clone();
        bytes[20] ^= 1;
        assert_eq!(kinds(&repair(&kept, &mut bytes)), [What::Mbr]);
        assert!(bytes == started);
        // Where the code is another one, all of it is what was kept.
        bytes[..12].fill(0);
        repair(&kept, &mut bytes);
        assert_eq!(bytes[..446], whole[..446]);
        for at in [remembered.start - 1, remembered.end] {
            let mut bytes = whole.clone();
            bytes[at] ^= 1;
            assert_eq!(kinds(&repair(&kept, &mut bytes)), [What::Mbr], "{version} {at}");
        }
    }
}

/// The older version keeps that in the place of the disk's signature.
#[test]
fn behind_the_older_boot0_there_is_no_identity() {
    for (version, id) in [(0, None), (1, Some("12345678"))] {
        let mut bytes = with_boot0(version);
        let kept = medium(&bytes);
        assert_eq!(kept.disk_id.as_deref(), id);
        boot0::set_default(&mut bytes, 2);
        let seen = Seen {
            size: kept.size,
            sector: 512,
            scheme: kept.scheme,
            disk_id: medium(&bytes).disk_id,
            file_system: true,
            ..Seen::default()
        };
        assert_eq!(identify(&kept, &seen), Verdict::Same);
        assert_eq!(mbr_id(&bytes[..512]).as_deref(), id, "of a damaged table too");
    }
}

/// Sets attribute bits of entry 2 as GEOM does: in both copies, with their checksums.
fn with_boot_bits(bytes: &[u8], bits: u64, primary: bool, backup: bool) -> Vec<u8> {
    let mut new = bytes.to_vec();
    let kept = medium(bytes);
    let find = |what| kept.pieces.iter().find(|p| p.what == what).unwrap();
    for (header, array, wanted) in [
        (What::GptHeader, What::GptEntries, primary),
        (What::BackupHeader, What::BackupEntries, backup),
    ] {
        let (header, array) = (find(header), find(array));
        let mut entries = array.bytes.clone();
        entries[128 + 48..128 + 56].copy_from_slice(&bits.to_le_bytes());
        let mut head = header.bytes.clone();
        super::super::gpt::seal(&mut head, &entries);
        if wanted {
            new[at(array.range())].copy_from_slice(&entries);
            new[at(header.range())].copy_from_slice(&head);
        }
    }
    new
}

#[test]
fn boot_attributes_of_a_gpt_stay_as_they_are() {
    let whole = gpt();
    let kept = medium(&whole);
    let chosen = with_boot_bits(&whole, 1 << 59, true, true);
    assert_eq!(compare(&kept, &now(&kept, &chosen)), []);
    // Another attribute is one.
    let other = with_boot_bits(&whole, 1 << 2, true, true);
    assert_eq!(compare(&kept, &now(&kept, &other)).len(), 4);
    // One copy is enough to know what boots.
    for damaged in [kept_range(&kept, What::GptHeader), kept_range(&kept, What::BackupEntries)] {
        let mut bytes = chosen.clone();
        bytes[damaged].fill(0);
        assert!(repair(&kept, &mut bytes).iter().all(|c| c.recoverable));
        assert_eq!(bytes, chosen);
    }
    // Where they differ the primary counts, and the backup is told.
    let mut torn = with_boot_bits(&whole, 1 << 58, true, false);
    let changes = repair(&kept, &mut torn);
    assert_eq!(kinds(&changes), [What::BackupEntries, What::BackupHeader]);
    assert!(changes.iter().all(|c| c.recoverable));
    assert_eq!(torn, with_boot_bits(&whole, 1 << 58, true, true));
    // Without any copy it is what was kept.
    let mut bytes = chosen;
    for what in [What::GptHeader, What::BackupHeader] {
        bytes[kept_range(&kept, what)].fill(0);
    }
    assert!(repair(&kept, &mut bytes).iter().all(|c| !c.recoverable));
    assert_eq!(bytes, whole);
}

fn kept_range(kept: &Medium, what: What) -> Range<usize> {
    at(kept.pieces.iter().find(|p| p.what == what).unwrap().range())
}

#[test]
fn the_other_copy_of_a_gpt_is_made_as_its_maker_does() {
    the_other_copy_is_made(&gpt());
}

pub(crate) fn the_other_copy_is_made(whole: &[u8]) {
    let kept = medium(whole);
    for (what, word) in [
        (What::GptHeader, "primary"),
        (What::GptEntries, "primary"),
        (What::BackupHeader, "backup"),
        (What::BackupEntries, "backup"),
    ] {
        let mut bytes = whole.to_vec();
        bytes[kept_range(&kept, what)].fill(0);
        let found = look(&bytes);
        assert_eq!(found.pieces, kept.pieces, "{what:?}");
        let note = format!("the {word} gpt is damaged: kept as made from the other");
        assert_eq!(found.notes, [note]);
    }
    // A medium that is larger than the GPT says has its backup where nobody looks for it.
    let mut bytes = whole.to_vec();
    bytes.resize(9 << 20, 0);
    let found = look(&bytes);
    assert_eq!(found.notes, ["the backup gpt is damaged: not kept"]);
    assert_eq!(found.pieces.len(), kept.pieces.len() - 2);
}

#[test]
fn a_damaged_table_teaches_nothing() {
    let mut bytes = mbr();
    bytes[446 + 8..446 + 12].copy_from_slice(&1000_u32.to_le_bytes());
    let size = bytes.len() as u64;
    assert!(capture(&mut Cursor::new(&bytes), size, 512).is_err(), "overlapping slices");
    // A chain of logical slices that leads back.
    let mut bytes = mbr();
    let second = 6144 * 512 + 446 + 16 + 8;
    bytes[second..second + 4].fill(0);
    assert!(capture(&mut Cursor::new(&bytes), size, 512).is_err(), "a loop");
    // A bad label is left out, and told.
    let mut bytes = mbr();
    bytes[64 * 512 + 200] ^= 1;
    let found = look(&bytes);
    assert_eq!(
        found.notes,
        ["the bsd label of slice 1 is not kept: bad checksum of the disklabel"]
    );
    assert!(found.pieces.iter().all(|p| p.index != Some(1) || p.what == What::Ebr));
}

/// Of what was kept nothing may be lost for what is found now, unless something else took its place.
#[test]
fn a_table_or_label_that_is_gone_is_missed() {
    let whole = mbr();
    let kept = medium(&whole);
    assert_eq!(kept.lost(&kept), None);
    let without = |range: Range<usize>| {
        let mut bytes = whole.clone();
        bytes[range].fill(0);
        medium(&bytes)
    };
    let label = 2112 * 512;
    let found = kept.lost(&without(label..label + 512));
    assert_eq!(found.as_deref(), Some("bsd label of slice 2"));
    assert_eq!(kept.lost(&without(0..512)).as_deref(), Some("partition table"));
    assert_eq!(medium(&gpt()).lost(&medium(&vec![0; 8 << 20])).as_deref(), Some("partition table"));
    // Code is none, and a slice that is gone, or of another type, has none.
    assert_eq!(kept.lost(&without(label - 512..label)), None);
    assert_eq!(kept.lost(&without(462..478)), None);
    let mut bytes = whole.clone();
    bytes[462 + 4] = 0x83;
    assert_eq!(kept.lost(&medium(&bytes)), None);
    // Nor has one that holds a file system of its own by now.
    let mut now = without(label..label + 512);
    now.file_systems.push(FileSystem { offset: label as u64 - 512, id: "1".to_owned() });
    assert_eq!(kept.lost(&now), None);
}

proptest! {
    #[test]
    fn any_file_is_read_as_it_was_written(
        pieces in prop::collection::vec((0u64..1000, 0usize..5, any::<u8>(), 0usize..600), 0..6),
        names in prop::collection::vec(any::<String>(), 0..3),
        size in (1u64 << 20)..1 << 40,
        ident in any::<Option<String>>(),
    ) {
        let piece = |&(lba, sectors, byte, zeros): &(u64, usize, u8, usize)| {
            let mut bytes = vec![byte; sectors * 512];
            let end = bytes.len();
            bytes[end.saturating_sub(zeros)..].fill(0);
            Piece { what: What::Ebr, index: Some(u32::from(byte)), offset: lba * 512, bytes }
        };
        let medium = |name: &String| Medium {
            name: name.clone(),
            ident: ident.clone(),
            size,
            sector: 512,
            scheme: Some(Scheme::Mbr),
            disk_id: None,
            file_systems: vec![FileSystem { offset: size, id: name.clone() }],
            pieces: pieces.iter().map(piece).collect(),
        };
        let all = saved(names.iter().map(medium).collect());
        prop_assert_eq!(Saved::decode(&all.encode()), Ok(all));
    }

    #[test]
    fn any_bytes_are_no_panic(bytes in prop::collection::vec(any::<u8>(), 0..300), seal: bool) {
        let _ = Saved::decode(&bytes);
        if seal {
            let first = format!("{MAGIC}{SCHEMA} {}\n", hex(&Sha256::digest(&bytes)));
            let _ = Saved::decode(&[first.as_bytes(), &bytes].concat());
        }
    }

    /// Whatever is written over the tables, repairing brings every byte of them back.
    #[test]
    fn any_damage_is_repaired(
        on_gpt: bool,
        damage in prop::collection::vec((any::<prop::sample::Index>(), 0usize..512, any::<u8>()), 1..5),
    ) {
        use std::sync::LazyLock;
        static WHOLE: LazyLock<[Vec<u8>; 2]> = LazyLock::new(|| [mbr(), gpt()]);
        let whole = &WHOLE[usize::from(on_gpt)];
        let kept = medium(whole);
        let mut bytes = whole.clone();
        for (piece, offset, byte) in &damage {
            let range = at(piece.get(&kept.pieces).range());
            bytes[range.start + offset] = *byte;
        }
        let clean = bytes == *whole;
        let changes = repair(&kept, &mut bytes);
        // The active flags of an MBR may be other ones; all else is as it was.
        for flag in [446, 462, 478, 494] {
            if matches!(bytes[flag], 0 | 0x80) && !on_gpt {
                bytes[flag] = whole[flag];
            }
        }
        prop_assert!(bytes == *whole);
        prop_assert!(!clean || changes.is_empty());
    }
}
