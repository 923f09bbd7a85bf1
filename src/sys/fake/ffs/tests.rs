use std::collections::BTreeMap;

use super::*;
use crate::sys::fake::IMMUTABLE;
use crate::sys::fake::tree::Tree;
use crate::sys::fake::volume::make;
use crate::sys::tree::{Kind, Time};
use crate::sys::{FsType, UfsSwitches};
use crate::ufs::{Identity, Image};

const MB: u64 = 1 << 20;
const NOW: Time = Time { sec: 1_600_000_000, nsec: 0 };

fn format(inodes: Option<u64>) -> Format {
    let ufs = UfsSwitches { soft_updates: true, ..UfsSwitches::default() };
    let (fs, label) = (FsType::Ufs2, Some("root2".to_owned()));
    Format { fs, label, id: None, inodes, block: None, sector: 512, ufs }
}

/// One object of each kind, and files with indirect blocks of two levels.
fn fill(tree: &mut Tree) {
    let byte = |n: usize| u8::try_from(n * n / 7 % 251).unwrap();
    let noise = |length: usize| (0..length).map(byte).collect::<Vec<_>>();
    for dir in ["etc", "var", "var/empty", "var/many"] {
        tree.dir(dir);
    }
    tree.file("etc/rc", b"#!/bin/sh\n");
    tree.link("var/rc", "etc/rc");
    tree.file("var/core", &noise(3 * 1024 * 1024 + 77));
    tree.sparse("var/hole", 90 * MB, &[(70 * MB + 5, b"far out"), (3 * BLOCK, b"near")]);
    tree.symlink("short", "etc/rc");
    tree.symlink("long", &"x/".repeat(200));
    tree.special("null", Kind::Char, (1, 3));
    tree.special("fifo", Kind::Fifo, (0, 0));
    for n in 0..90 {
        tree.file(format!("var/many/{n}{}", "y".repeat(n)), &noise(n * 100));
    }
    let a = tree.attributes("var/empty");
    (a.mode, a.uid, a.gid, a.flags) = (0o4751, 7, 9, IMMUTABLE);
    a.birth = Time { sec: -90_000, nsec: 999_999_999 };
    a.xattrs.insert("user.dir".into(), b"yes".to_vec());
    a.xattrs.insert("system.mark".into(), noise(5000));
}

fn made(size: u64, fill: impl Fn(&mut Tree)) -> (Content, Tree) {
    let bytes = make(&format(None), size, 7, NOW).unwrap();
    let mut tree = read(&bytes, NOW).unwrap();
    fill(&mut tree);
    (lay_out(&bytes, &tree), tree)
}

#[test]
fn objects_are_the_same_again() {
    let (bytes, tree) = made(8 * MB, fill);
    assert_eq!(check(&bytes), None);
    let again = read(&bytes, NOW).unwrap();
    assert!(again.listing() == tree.listing());
    assert_eq!(again.usage(), tree.usage());
    // What does not change stays where it is.
    let mut tree = again;
    tree.remove("etc/rc");
    tree.file("etc/new", b"new");
    let other = lay_out(&bytes, &tree);
    assert_eq!(check(&other), None);
    let moved = bytes.all().zip(other.all()).filter(|(a, b)| a != b).count();
    assert!((1..40).contains(&moved), "{moved}");
}

/// The superblock, the headers and the inodes that lead to the record are where the program has
/// them, and its copy of the blocks in use is the same file system.
#[test]
fn the_program_reads_the_same() {
    for size in [MB, 2 * MB, 8 * MB, 3 * MB + 80 * BLOCK, 2 * MB + 8 * BLOCK] {
        let small = |tree: &mut Tree| {
            tree.dir(".dualroot");
            tree.file(".dualroot/record.json", b"{\"schema\": 1}");
            tree.file("kernel", &vec![7; 99_999]);
        };
        let (bytes, tree) = made(size, small);
        let medium = all(&bytes);
        let id = [0x6000_0001, 0xfeed_beef];
        let identity = Identity { id, label: Some("copy".to_owned()), device: size };
        let image = Image::read(&medium, size, identity).unwrap_or_else(|e| panic!("{e}"));
        let fs = image.superblock();
        assert!(fs.hashed_groups && !fs.can_grow(size), "{fs:?}");
        let mut copy = vec![0xa5; medium.len()];
        for piece in image.pieces(&medium, 0..u64::MAX) {
            let piece = piece.unwrap();
            let range = index(piece.range().start)..index(piece.range().end);
            match piece {
                crate::ufs::Piece::Same(_) => copy[range.clone()].copy_from_slice(&medium[range]),
                crate::ufs::Piece::Other(_, bytes) => copy[range].copy_from_slice(&bytes),
            }
        }
        let mut target = Content::of(size, BTreeMap::new());
        target.write(0, &copy);
        assert_eq!(check(&target), None, "{size}");
        let mut found = read(&target, NOW).unwrap();
        // It is not the source's record any more.
        found.file(".dualroot/record.json", b"{\"schema\": 1}");
        let names = |tree: &Tree| tree.listing().into_iter().map(|(p, s)| (p, s.data)).collect();
        let (found, tree): (Vec<_>, Vec<_>) = (names(&found), names(&tree));
        assert!(found == tree);
    }
}

fn all(bytes: &Content) -> Vec<u8> {
    let mut all = vec![0; index(bytes.size())];
    bytes.read(0, &mut all);
    all
}

/// Whatever byte is damaged: no panic, and what [`check`] leaves uncomplained has the same names.
#[test]
fn damage_is_told() {
    let (bytes, tree) = made(MB, |tree| {
        tree.dir("etc");
        tree.file("etc/rc", b"#!/bin/sh\n");
    });
    let names = |tree: &Tree| tree.listing().into_keys().collect::<Vec<_>>();
    let mut told = 0;
    let places = [SUPERBLOCK, BACKUP * BLOCK, HEADER * BLOCK, INODES * BLOCK];
    for at in places.into_iter().flat_map(|at| at..at + 1200).step_by(3) {
        let mut bad = bytes.clone();
        let mut byte = [0];
        bad.read(at, &mut byte);
        bad.write(at, &[byte[0] ^ 0x11]);
        let there = read(&bad, NOW);
        let complains = check(&bad).is_some() || there.is_none();
        told += u32::from(complains);
        assert!(complains || names(&there.unwrap()) == names(&tree), "{at}");
    }
    assert!(told > 1100, "{told}");
}
