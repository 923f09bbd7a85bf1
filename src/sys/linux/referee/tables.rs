//! Tables: as they are read, kept and found to be in order.

use super::{MB, bytes, medium, read};
use crate::sys::referee::tool;
use crate::table::check::tests::{bootable, found, labelled};
use crate::table::saved::tests::{
    all_that_leads_is_kept, the_other_copy_is_made, with_code_and_labels, with_code_in_partition,
};
use crate::table::{Fault, bsd, tests};

#[test]
fn slices_of_sfdisk_are_read() {
    let script = "label: dos\nlabel-id: 0xdeadbeef\n\
        start=2048, size=40960, type=a5\nstart=43008, size=40960, type=a5, bootable\n\
        start=83968, size=8192, type=82\nstart=92160, type=5\n";
    let table = read(&medium(64 * MB, script));
    assert_eq!((table.scheme.name(), table.disk_id.as_deref()), ("MBR", Some("deadbeef")));
    let seen: Vec<_> =
        table.entries.iter().map(|e| (e.index, e.start, e.kind.as_str(), e.active)).collect();
    assert_eq!(
        seen,
        [
            (1, MB, "freebsd", false),
            (2, 21 * MB, "freebsd", true),
            (3, 41 * MB, "linux-swap", false),
            (4, 45 * MB, "ebr", false)
        ]
    );
    assert_eq!(table.by_index(2).unwrap().size, 20 * MB);
    assert_eq!(table.by_start(21 * MB).unwrap().index, 2);
}

#[test]
fn entries_of_sfdisk_are_read() {
    let script = "label: gpt\nlabel-id: 8E4A3C2B-0001-4002-8003-0123456789AB\n\
        start=2048, size=1024, type=83BD6B9D-7F41-11DC-BE0B-001560B84F0F\n\
        start=4096, size=40960, type=516E7CB6-6ECF-11D6-8FF8-00022D09712B, name=\"root A\", \
        uuid=11111111-2222-3333-4444-55555555AAAA, attrs=\"GUID:59,58\"\n\
        start=45056, size=40960, type=516E7CB6-6ECF-11D6-8FF8-00022D09712B, attrs=\"GUID:57\"\n\
        start=86016, size=2048, type=U\nstart=88064, size=2048, type=S\n\
        start=90112, size=2048, type=4F68BCE3-E8CD-4DB1-96E7-FBCAF984B709\n";
    let table = read(&medium(64 * MB, script));
    assert_eq!(table.disk_id.as_deref(), Some("8e4a3c2b-0001-4002-8003-0123456789ab"));
    let kinds: Vec<_> = table.entries.iter().map(|e| e.kind.as_str()).collect();
    assert_eq!(
        kinds,
        [
            "freebsd-boot",
            "freebsd-ufs",
            "freebsd-ufs",
            "efi",
            "linux-swap",
            "!4f68bce3-e8cd-4db1-96e7-fbcaf984b709"
        ]
    );
    let root = table.by_index(2).unwrap();
    assert_eq!((root.start, root.size), (2 * MB, 20 * MB));
    assert_eq!(root.label.as_deref(), Some("root A"));
    assert_eq!(root.uuid.as_deref(), Some("11111111-2222-3333-4444-55555555aaaa"));
    assert_eq!((root.boot_me, root.boot_once, root.boot_failed), (true, true, false));
    let other = table.by_start(22 * MB).unwrap();
    assert_eq!((other.boot_me, other.boot_once, other.boot_failed), (false, false, true));
    assert_eq!(other.label, None);
}

#[test]
fn a_label_of_fdisk_is_read_once_it_has_enough_partitions() {
    // d_npartitions
    const COUNT: usize = 138;
    let file = medium(16 * MB, "label: dos\nstart=2048, size=20480, type=a5\n");
    let path = file.path().to_str().unwrap();
    tool("fdisk", &[path], "b\ny\nn\na\n\n20479\nt\na\n7\nw\n");
    let mut bytes = bytes(&file).split_off(2048 * 512);
    bytes.truncate(bsd::WINDOW);
    // fdisk counts from the start of the medium and makes room for 4; GEOM wants at least 8.
    let few = "disklabel with an impossible number of partitions";
    assert_eq!(bsd::read(&bytes, MB, 10 * MB, 512), Err(Fault::Invalid(few)));
    bytes[512 + COUNT] = 8;
    // Only the count went into the exclusive or: the rest of fdisk's checksum has to hold.
    bytes[512 + 136 + COUNT % 2] ^= 4 ^ 8;
    let table = bsd::read(&bytes, MB, 10 * MB, 512).unwrap().unwrap();
    let seen = table.entries.iter().map(|e| (e.index, e.start, e.size, e.kind.as_str()));
    assert_eq!(seen.collect::<Vec<_>>(), [(1, 0, 18432 * 512, "freebsd-ufs")]);
}

#[test]
fn the_backup_of_sfdisk_stands_in_for_a_lost_gpt() {
    let script = "label: gpt\nstart=2048, size=2048\nstart=8192, size=1024, type=L\n";
    tests::the_backup_stands_in(&bytes(&medium(8 * MB, script)));
}

#[test]
fn tables_of_sfdisk_are_in_order() {
    let mbr = "label: dos\nstart=2048, size=8192, type=a5, bootable\n\
        start=10240, size=8192, type=a5\nstart=18432, size=4096, type=a5\n\
        start=22528, size=8192, type=5\n";
    let gpt = "label: gpt\n\
        start=2048, size=2048, type=83BD6B9D-7F41-11DC-BE0B-001560B84F0F\n\
        start=4096, size=8192, type=516E7CB6-6ECF-11D6-8FF8-00022D09712B, name=rootA\n\
        start=12288, size=8192, type=516E7CB6-6ECF-11D6-8FF8-00022D09712B, name=rootB\n\
        start=20480, size=2048, type=U\n";
    let (mbr, gpt) = (bytes(&medium(16 * MB, mbr)), bytes(&medium(12 * MB, gpt)));
    assert_eq!(found(&labelled(mbr, 512), 512), []);
    assert_eq!(found(&bootable(gpt), 512), []);
}

#[test]
fn tables_of_sfdisk_are_kept() {
    let mbr = "label: dos\nlabel-id: 0x12345678\nstart=63, size=2048, type=a5, bootable\n\
        start=2111, size=2048, type=a5\nstart=6144, size=8192, type=5\n\
        start=6200, size=1000, type=83\nstart=8000, size=1000, type=83\n";
    let gpt = "label: gpt\nfirst-lba: 34\n\
        start=64, size=512, type=83BD6B9D-7F41-11DC-BE0B-001560B84F0F\n\
        start=2048, size=2048\nstart=4096, size=2048\n";
    let mbr = with_code_and_labels(bytes(&medium(8 * MB, mbr)));
    let gpt = with_code_in_partition(bytes(&medium(8 * MB, gpt)));
    all_that_leads_is_kept(&mbr, &gpt);
    the_other_copy_is_made(&gpt);
}
