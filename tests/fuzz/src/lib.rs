//! What the fuzzers feed to the parsers, and what must hold whatever they are fed.

use std::collections::BTreeSet;
use std::io::{Cursor, Read, Seek, SeekFrom};

use dualroot::copy::selection::Selection;
use dualroot::device::geom;
use dualroot::record::manifest::{Line, Reader};
use dualroot::record::{Record, packages};
use dualroot::slot::config::Config;
use dualroot::slot::fstab::{self, Change};
use dualroot::slot::loader;
use dualroot::sys::tree::Kind;
use dualroot::table::boot::Firmware;
use dualroot::table::check::Place;
use dualroot::table::reading::Reading;
use dualroot::table::{self, Table, bsd, gpt, mbr, superblock};
use dualroot::ufs::{Identity, Image, Piece};

/// Bytes of a medium, and of a slice.
const SIZE: u64 = 8 << 20;

/// A medium that is zeros between its first and its last bytes.
///
/// The input is a byte of switches (1: sectors of 4096 bytes; 2: checksums are made right), the
/// number of sectors at the end of the medium, and the bytes: those of the start, then those of the
/// end.
struct Medium {
    head: Vec<u8>,
    tail: Vec<u8>,
    position: u64,
    sector: u32,
}

impl Medium {
    fn new(data: &[u8]) -> Option<Self> {
        let (&[switches, sectors], rest) = data.split_first_chunk::<2>()?;
        let sector = if switches & 1 == 0 { 512 } else { 4096 };
        let length = (usize::from(sectors) * sector as usize).min(rest.len());
        let (head, tail) = rest.split_at(rest.len() - length);
        let mut medium = Self { head: head.to_vec(), tail: tail.to_vec(), position: 0, sector };
        if switches & 2 != 0 {
            medium.seal(u64::from(sector));
            medium.seal(SIZE - u64::from(sector));
        }
        Some(medium)
    }

    fn at(&self, offset: u64, length: usize) -> Vec<u8> {
        let end = SIZE.min(offset.saturating_add(length as u64));
        let mut bytes = vec![0; end.saturating_sub(offset) as usize];
        let start = SIZE - self.tail.len() as u64;
        for (at, piece) in [(start, &self.tail), (0, &self.head)] {
            let (from, to) = (offset.max(at), end.min(at + piece.len() as u64));
            if from < to {
                let piece = &piece[(from - at) as usize..(to - at) as usize];
                bytes[(from - offset) as usize..(to - offset) as usize].copy_from_slice(piece);
            }
        }
        bytes
    }

    fn put(&mut self, offset: u64, bytes: &[u8]) {
        let start = SIZE - self.tail.len() as u64;
        for (at, byte) in (offset..).zip(bytes) {
            if let Some(place) = self.head.get_mut(at as usize) {
                *place = *byte;
            } else if let Some(n) = at.checked_sub(start)
                && let Some(place) = self.tail.get_mut(n as usize)
            {
                *place = *byte;
            }
        }
    }

    /// Makes the checksums of the GPT header at `offset` right, where it has sane lengths: a fuzzer
    /// does not guess them.
    fn seal(&mut self, offset: u64) {
        let header = self.at(offset, self.sector as usize);
        let le = |at: usize| u64::from_le_bytes(header[at..at + 8].try_into().unwrap());
        let entries = le(72).wrapping_mul(u64::from(self.sector));
        let (count, size) = (le(80) & 0xffff_ffff, le(80) >> 32);
        let length = count.saturating_mul(size);
        if !header.starts_with(b"EFI PART") || length > 1 << 16 {
            return;
        }
        let sum = crc32fast::hash(&self.at(entries, length as usize));
        self.put(offset + 88, &sum.to_le_bytes());
        self.put(offset + 16, &[0; 4]);
        let sum = crc32fast::hash(&self.at(offset, 92));
        self.put(offset + 16, &sum.to_le_bytes());
    }
}

impl Read for Medium {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        assert_eq!(self.position % u64::from(self.sector), 0, "read at an odd offset");
        let bytes = self.at(self.position, buffer.len());
        buffer[..bytes.len()].copy_from_slice(&bytes);
        self.position += bytes.len() as u64;
        Ok(bytes.len())
    }
}

impl Seek for Medium {
    fn seek(&mut self, to: SeekFrom) -> std::io::Result<u64> {
        let SeekFrom::Start(position) = to else {
            return Err(std::io::ErrorKind::Unsupported.into());
        };
        self.position = position;
        Ok(position)
    }
}

/// Entries lie inside and apart.
fn sound(table: &Table, size: u64) {
    let mut places: Vec<_> = table.entries.iter().map(|e| (e.start, e.end())).collect();
    places.sort_unstable();
    assert!(places.iter().all(|(start, end)| start < end && *end <= size));
    assert!(places.windows(2).all(|pair| pair[0].1 <= pair[1].0));
}

/// The first sector.
pub fn mbr(data: &[u8]) {
    for sector in [512, 4096] {
        if let Ok(Some(table)) = mbr::read(data, SIZE, sector) {
            sound(&table, SIZE);
        }
        let _ = (mbr::entries(data, SIZE, sector), mbr::bad_status(data, SIZE, sector));
    }
    let _ = (mbr::protective(data), mbr::is_protective(data), mbr::has_boot_code(data));
}

/// The first bytes of a slice; the first byte of the input is a switch: 2 makes the checksum right.
pub fn bsd(data: &[u8]) {
    let Some((switches, rest)) = data.split_first() else { return };
    for sector in [512_u32, 4096] {
        let mut bytes = rest.to_vec();
        let start = sector as usize;
        if switches & 2 != 0
            && let Some(label) = bytes.get_mut(start..)
            && label.len() >= 148 + 20 * 16
        {
            let length = 148 + usize::from(label[138]).min(20) * 16;
            label[136..138].fill(0);
            let words = label[..length].chunks_exact(2);
            let sum = words.fold(0, |sum, w| sum ^ u16::from_le_bytes([w[0], w[1]]));
            label[136..138].copy_from_slice(&sum.to_le_bytes());
        }
        if let Ok(Some(table)) = bsd::read(&bytes, 1 << 20, SIZE, sector) {
            sound(&table, SIZE);
        }
        let _ = (bsd::label(&bytes, sector), bsd::find(&bytes), bsd::is_labelled(&bytes, sector));
    }
}

/// Both copies of a GPT.
pub fn gpt(data: &[u8]) {
    let Some(mut medium) = Medium::new(data) else { return };
    let sector = medium.sector;
    for copy in [gpt::Copy::Primary, gpt::Copy::Backup] {
        if let Ok(Some(table)) = gpt::read_copy(&mut medium, SIZE, sector, copy) {
            sound(&table, SIZE);
        }
    }
    let _ = gpt::read(&mut medium, SIZE, sector);
}

/// A whole medium, and everything that `check` says of it.
pub fn table(data: &[u8]) {
    let Some(mut medium) = Medium::new(data) else { return };
    let sector = medium.sector;
    let plain = table::read(&mut medium, SIZE, sector);
    let reading = Reading::take(&mut medium, SIZE, sector).unwrap();
    let name = |place: Place| format!("{place:?}");
    let mut found = reading.damage(&name);
    found.extend(reading.boot(Some(Firmware::Bios), &[1, 2], &name));
    assert!(found.iter().all(|f| dualroot::finding::CODES.contains(&f.code)));
    match (plain, reading.table()) {
        (Ok(plain), Ok(table)) => {
            assert_eq!(plain, table);
            if let Some(table) = table {
                sound(&table, SIZE);
            }
        }
        // What cannot be used is told.
        (Err(_), Err(_)) => {
            assert!(found.iter().any(|f| f.severity >= dualroot::finding::Severity::Error))
        }
        (plain, table) => panic!("{plain:?} {table:?}"),
    }
}

/// The first bytes of a partition: 8 KiB for the start, 8 KiB for each place of a UFS superblock.
pub fn superblock(data: &[u8]) {
    let mut window = vec![0; superblock::WINDOW];
    for (piece, place) in data.chunks(8192).zip([0, 8192, 65536]) {
        window[place..place + piece.len()].copy_from_slice(piece);
    }
    let _ = superblock::read(&window);
    for range in superblock::wipe_ranges(&window) {
        window[range.start as usize..range.end as usize].fill(0);
    }
    assert_eq!(superblock::read(&window), None);
    assert!(superblock::wipe_ranges(&window).is_empty());
}

/// A partition of 512 KiB: the input from 8 KiB on, zeros before and behind it. Whatever is there,
/// the pieces of a copy lie on it, in order and apart, and a copy that can be read is made of as many.
pub fn ufs(data: &[u8]) {
    const SIZE: usize = 512 << 10;
    let mut source = vec![0; SIZE];
    let length = data.len().min(SIZE - 8192);
    source[8192..8192 + length].copy_from_slice(&data[..length]);
    let identity = || Identity { id: [1, 2], label: Some("copy".to_owned()), device: SIZE as u64 };
    let Ok(image) = Image::read(&source, SIZE as u64, identity()) else { return };
    let mut target = vec![0xff; SIZE];
    let (mut end, mut used) = (0, 0);
    for piece in image.pieces(&source, 0..u64::MAX) {
        let piece = piece.expect("read before");
        let range = piece.range();
        assert!(end <= range.start && range.start < range.end && range.end <= SIZE as u64);
        (end, used) = (range.end, used + range.end - range.start);
        let place = range.start as usize..range.end as usize;
        match piece {
            Piece::Same(_) => target[place.clone()].copy_from_slice(&source[place]),
            Piece::Other(_, bytes) => target[place].copy_from_slice(&bytes),
        }
    }
    assert_eq!(used, image.used());
    // What its own bitmaps call free is not copied, though a damaged root may lie there.
    let Ok(again) = Image::read(&target, SIZE as u64, identity()) else { return };
    assert_eq!((again.used(), again.superblock()), (image.used(), image.superblock()));
}

/// fstab(5): what is not replaced stays, and what is replaced is read back.
pub fn fstab(data: &[u8]) {
    let Ok(entries) = fstab::parse(data) else { return };
    assert_eq!(fstab::rewrite(data, |_| Change::Keep).unwrap(), data);
    let name = b"/dev/a b\\c";
    let new = fstab::rewrite(data, |_| Change::Device(name.to_vec())).unwrap();
    let again = fstab::parse(&new).unwrap();
    assert_eq!(again.len(), entries.len());
    for (old, new) in entries.iter().zip(&again) {
        assert_eq!((&new.spec[..], &new.file, &new.fs), (&name[..], &old.file, &old.fs));
    }
}

/// loader.conf(5).
pub fn loader(data: &[u8]) {
    let seen = std::cell::RefCell::new(0);
    let same = loader::rewrite(data, |_| {
        *seen.borrow_mut() += 1;
        None
    });
    assert_eq!(same.unwrap(), data);
    let new = loader::rewrite(data, |_| Some(b"/dev/da0s2a".to_vec())).unwrap();
    let again = std::cell::RefCell::new(0);
    let _ = loader::rewrite(&new, |device| {
        assert_eq!(device, b"/dev/da0s2a");
        *again.borrow_mut() += 1;
        None
    });
    assert_eq!(seen, again);
}

/// The configuration file.
pub fn config(data: &[u8]) {
    let _ = Config::parse(data);
}

/// The manifest, to its end or its first fault; then as a list of what is copied, beside a tree that
/// has all of it.
pub fn manifest(data: &[u8]) {
    let mut reader = Reader::new(Cursor::new(data));
    while let Ok(Some(_)) = reader.next_line() {}
    let _ = beside_itself(data);
}

fn beside_itself(data: &[u8]) -> dualroot::error::Result<()> {
    let list = Box::new(Cursor::new(data.to_vec()));
    let mut selection = Selection::new(Some(list), BTreeSet::new())?;
    let mut walk = Reader::new(Cursor::new(data));
    let mut deep = 0;
    while let Ok(Some(line)) = walk.next_line() {
        match line {
            Line::Object(name, object) => {
                if deep > 0 {
                    selection.admits(&name)?;
                }
                if object.kind == Kind::Dir {
                    if deep > 0 {
                        selection.enter(&name);
                    }
                    deep += 1;
                }
            }
            Line::Ignored(name, Kind::Dir) => {
                selection.enter(&name);
                deep += 1;
            }
            Line::Ignored(..) => {}
            Line::Leave => {
                selection.leave()?;
                deep -= 1;
            }
        }
        if deep == 0 {
            break;
        }
    }
    selection.complete()
}

/// The record: what is read is what is written.
pub fn record(data: &[u8]) {
    if let Ok(record) = Record::parse(data) {
        assert_eq!(Record::parse(&record.to_json()).unwrap(), record);
    }
}

/// GEOM's confxml.
pub fn geom(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    if let Ok(devices) = geom::parse(text) {
        for id in 0..devices.providers.len() {
            let _ = (devices.extents(id), devices.medium(id), devices.settle(id));
            let _ = (devices.mirrored(id), devices.chain(id), devices.uppers(id).count());
            let _ = geom::opens(text, &devices.get(id).name);
        }
    }
}

/// Package databases.
pub fn packages(data: &[u8]) {
    let lines = |p: &packages::Package| assert!(!p.line().contains('\n'));
    packages::parse_dpkg_status(data).iter().for_each(lines);
    packages::split_name(&String::from_utf8_lossy(data)).iter().for_each(lines);
    let _ = (packages::parse_freebsd_version(data), packages::parse_os_release(data));
}
