//! The programs that start a machine, told from their bytes: of an EFI system partition by its files
//! (FAT: UEFI 2.10, 13.3), never by what was once in its blocks.

use std::collections::BTreeMap;
use std::io::{self, Read, Seek, SeekFrom, Write};

use fatfs::{Dir, FileSystem, FsOptions, ReadWriteSeek};

use super::mbr;

/// What a program is to the boot flags of a GPT.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Program {
    /// gptboot(8) or gptboot.efi(8): does what they say.
    Gptboot,
    /// Another one of FreeBSD's for UEFI, loader.efi(8) or boot1.efi: does not look at them.
    Loader,
    /// Something else.
    Other,
}

/// What only gptboot and gptboot.efi say (`stand/i386/gptboot/gptboot.c`,
/// `stand/efi/gptboot/proto.c`): neither loader.efi, boot1.efi nor gptzfsboot does.
const GPTBOOT: &[u8] = b"no UFS partition was found";
/// What loader.efi (`bootprog_info` of `stand/common/newvers.sh`) and boot1.efi
/// (`stand/efi/boot1/boot1.c`) say.
const LOADERS: [&[u8]; 2] = [b"EFI loader, Revision", b"Boot1Path"];
/// Bytes that are read at once.
const CHUNK: usize = 64 << 10;
/// Chunks that are kept: the table of clusters and what it leads to are read by turns.
const KEPT: usize = 64;
/// Bytes that may be asked for. More are in no such partition's directories and programs, and a damaged
/// one may lead in circles.
const MOST: u64 = 64 << 20;

impl Program {
    /// Tells it from its bytes.
    ///
    /// # Errors
    /// Those of reading.
    pub fn of(reader: &mut impl Read) -> io::Result<Self> {
        let mut program = Self::Other;
        let longest = GPTBOOT.len() - 1;
        let mut bytes = vec![0; longest + CHUNK];
        let mut before = 0;
        loop {
            let length = match reader.read(&mut bytes[before..]) {
                Ok(0) => return Ok(program),
                Ok(length) => before + length,
                Err(e) if e.kind() == io::ErrorKind::Interrupted => continue,
                Err(e) => return Err(e),
            };
            let says = |words: &[u8]| bytes[..length].windows(words.len()).any(|w| w == words);
            if says(GPTBOOT) {
                return Ok(Self::Gptboot);
            }
            if LOADERS.iter().any(|words| says(words)) {
                program = Self::Loader;
            }
            // The words may lie across two reads.
            before = length.min(longest);
            bytes.copy_within(length - before..length, 0);
        }
    }
}

/// The program that lies in a partition without a file system, at its beginning.
///
/// # Errors
/// Those of reading.
pub fn alone(reader: impl Read + Seek, start: u64, size: u64) -> io::Result<Program> {
    Program::of(&mut Part::new(reader, start, size))
}

/// The programs of an EFI system partition that begins at `start` of what is read and has `size` bytes:
/// those in the directories below `EFI`, as `EFI/BOOT/BOOTX64.EFI`. None where it does not begin with a
/// boot sector, as one that was never formatted.
///
/// # Errors
/// Those of reading; it is no FAT file system, a damaged one, or one that only others understand: FAT32
/// with so few clusters that by their number it would be FAT16.
pub fn on_esp(
    reader: impl Read + Seek,
    start: u64,
    size: u64,
) -> io::Result<Vec<(String, Program)>> {
    let mut part = Part::new(reader, start, size);
    if !mbr::has_signature(part.chunk()?) {
        return Ok(Vec::new());
    }
    let part = FileSystem::new(part, FsOptions::new())?;
    let mut found = Vec::new();
    for (_, efi) in directories(&part.root_dir(), |name| name == "EFI")? {
        for (vendor, programs) in directories(&efi, |name| !name.starts_with('.'))? {
            for entry in programs.iter() {
                let entry = entry?;
                let name = entry.file_name().to_ascii_uppercase();
                if entry.is_file() && name.rsplit_once('.').is_some_and(|(_, kind)| kind == "EFI") {
                    found
                        .push((format!("EFI/{vendor}/{name}"), Program::of(&mut entry.to_file())?));
                }
            }
        }
    }
    Ok(found)
}

/// The directories in a directory, with their names: FAT does not tell large letters from small ones.
fn directories<'a, T: ReadWriteSeek>(
    dir: &Dir<'a, T>,
    wanted: impl Fn(&str) -> bool,
) -> io::Result<Vec<(String, Dir<'a, T>)>> {
    let mut found = Vec::new();
    for entry in dir.iter() {
        let entry = entry?;
        let name = entry.file_name().to_ascii_uppercase();
        if entry.is_dir() && wanted(&name) {
            found.push((name, entry.to_dir()));
        }
    }
    Ok(found)
}

/// A partition, read in chunks, since a device wants whole sectors, and never written.
struct Part<R> {
    reader: R,
    start: u64,
    size: u64,
    at: u64,
    chunks: BTreeMap<u64, Vec<u8>>,
    left: u64,
}

impl<R: Read + Seek> Part<R> {
    fn new(reader: R, start: u64, size: u64) -> Self {
        Self { reader, start, size, at: 0, chunks: BTreeMap::new(), left: MOST }
    }

    /// The bytes from `at` to the end of their chunk.
    fn chunk(&mut self) -> io::Result<&[u8]> {
        let within = usize::try_from(self.at % CHUNK as u64).map_err(io::Error::other)?;
        let begin = self.at - within as u64;
        if !self.chunks.contains_key(&begin) {
            if self.chunks.len() == KEPT {
                self.chunks.clear();
            }
            let length = self.size.saturating_sub(begin).min(CHUNK as u64);
            let mut bytes = vec![0; usize::try_from(length).map_err(io::Error::other)?];
            self.reader.seek(SeekFrom::Start(self.start + begin))?;
            self.reader.read_exact(&mut bytes)?;
            self.chunks.insert(begin, bytes);
        }
        Ok(self.chunks[&begin].get(within..).unwrap_or_default())
    }
}

impl<R: Read + Seek> Read for Part<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        // Not an end: a directory that lies there would be an empty one.
        if self.at > self.size {
            return Err(io::Error::other("it leads beyond the partition"));
        }
        let bytes = self.chunk()?;
        let length = bytes.len().min(buffer.len());
        buffer[..length].copy_from_slice(&bytes[..length]);
        self.at += length as u64;
        self.left = self
            .left
            .checked_sub(length as u64)
            .ok_or_else(|| io::Error::other("it leads in circles"))?;
        Ok(length)
    }
}

impl<R> Seek for Part<R> {
    fn seek(&mut self, position: SeekFrom) -> io::Result<u64> {
        let at = match position {
            SeekFrom::Start(at) => Some(at),
            SeekFrom::Current(by) => self.at.checked_add_signed(by),
            SeekFrom::End(by) => self.size.checked_add_signed(by),
        };
        self.at = at.ok_or(io::ErrorKind::InvalidInput)?;
        Ok(self.at)
    }
}

impl<R> Write for Part<R> {
    fn write(&mut self, _: &[u8]) -> io::Result<usize> {
        Err(io::ErrorKind::ReadOnlyFilesystem.into())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::io::Cursor;
    use std::sync::LazyLock;

    use fatfs::{FatType, FormatVolumeOptions};
    use proptest::prelude::*;

    use super::*;

    const START: u64 = 1 << 20;
    const SIZE: u64 = 4 << 20;

    fn gptboot() -> Vec<u8> {
        [&vec![0x90; 100_000][..], b"\0%s: ", GPTBOOT, b"\n\0", &[0; 9000]].concat()
    }

    fn loader() -> Vec<u8> {
        [&vec![0xcc; 70_000][..], b"FreeBSD/amd64 EFI loader, Revision 1.1\n\0", &[0; 9000]]
            .concat()
    }

    /// A medium with a partition that has these files.
    fn medium(kind: FatType, size: u64, files: &[(&str, &[u8])]) -> Vec<u8> {
        let mut medium = vec![0xa5; usize::try_from(START + size).unwrap()];
        let part = &mut medium[usize::try_from(START).unwrap()..];
        let options = FormatVolumeOptions::new().fat_type(kind).bytes_per_cluster(512);
        fatfs::format_volume(Cursor::new(&mut *part), options).unwrap();
        let system = FileSystem::new(Cursor::new(part), FsOptions::new()).unwrap();
        for (path, content) in files {
            let (mut dir, mut rest) = (system.root_dir(), *path);
            while let Some((name, below)) = rest.split_once('/') {
                dir = dir.create_dir(name).unwrap();
                rest = below;
            }
            let mut file = dir.create_file(rest).unwrap();
            file.truncate().unwrap();
            file.write_all(content).unwrap();
        }
        drop(system);
        medium
    }

    fn programs(medium: &[u8], size: u64) -> io::Result<Vec<(String, Program)>> {
        on_esp(Cursor::new(medium), START, size)
    }

    #[test]
    fn programs_are_told_by_their_files() {
        let files: [(&str, &[u8]); 6] = [
            ("efi/boot/bootx64.efi", &gptboot()),
            ("efi/freebsd/loader.efi", &loader()),
            ("efi/boot/a program with a long name.efi", b"MZ"),
            ("efi/boot/startup.nsh", &loader()),
            ("efi/freebsd/boot1.efi", b"Boot1Path"),
            ("gptboot.efi", &gptboot()),
        ];
        for (kind, size) in
            [(FatType::Fat12, 2 << 20), (FatType::Fat16, SIZE), (FatType::Fat32, 34 << 20)]
        {
            let found = programs(&medium(kind, size, &files), size).unwrap();
            let expected = [
                ("EFI/BOOT/BOOTX64.EFI", Program::Gptboot),
                ("EFI/BOOT/A PROGRAM WITH A LONG NAME.EFI", Program::Other),
                ("EFI/FREEBSD/LOADER.EFI", Program::Loader),
                ("EFI/FREEBSD/BOOT1.EFI", Program::Loader),
            ];
            assert_eq!(
                found,
                expected.map(|(path, program)| (path.to_owned(), program)),
                "{kind:?}"
            );
        }
    }

    /// What was there once is still in the blocks.
    #[test]
    fn what_was_removed_or_replaced_is_not_there() {
        let file =
            |content: &[u8]| medium(FatType::Fat16, SIZE, &[("EFI/BOOT/BOOTX64.EFI", content)]);
        let mut medium = file(&gptboot());
        let count = |medium: &[u8]| medium.windows(GPTBOOT.len()).filter(|w| w == &GPTBOOT).count();
        {
            let part = Cursor::new(&mut medium[usize::try_from(START).unwrap()..]);
            let system = FileSystem::new(part, FsOptions::new()).unwrap();
            system.root_dir().remove("EFI/BOOT/BOOTX64.EFI").unwrap();
        }
        assert_eq!((count(&medium), programs(&medium, SIZE).unwrap()), (1, Vec::new()));
        assert_eq!(programs(&file(&loader()), SIZE).unwrap()[0].1, Program::Loader);
    }

    /// Nothing could start from the first; from the others somebody else perhaps could.
    #[test]
    fn what_is_not_understood_is_not_empty() {
        let nothing = vec![0; 6 << 20];
        assert_eq!(programs(&nothing, SIZE).unwrap(), []);
        let mut unknown = nothing;
        unknown[usize::try_from(START).unwrap() + 510..][..2].copy_from_slice(&[0x55, 0xaa]);
        assert!(programs(&unknown, SIZE).is_err());
        let files: [(&str, &[u8]); 1] = [("EFI/BOOT/BOOTX64.EFI", &gptboot())];
        let mut small = medium(FatType::Fat32, 34 << 20, &files);
        let total = usize::try_from(START).unwrap() + 32;
        let sectors = u32::try_from(SIZE / 512).unwrap();
        small[total..total + 4].copy_from_slice(&sectors.to_le_bytes());
        let why = programs(&small, SIZE).unwrap_err().to_string();
        assert!(why.contains("FAT32 determination"), "{why}");
        // Of a damaged one not even a part is told: a directory whose first cluster is another.
        let mut damaged = medium(FatType::Fat16, SIZE, &files);
        let name = damaged.windows(11).position(|w| w == b"EFI        ").unwrap();
        damaged[name + 26..name + 28].copy_from_slice(&[0xf0, 0x7f]);
        let why = programs(&damaged, SIZE).unwrap_err().to_string();
        assert_eq!(why, "it leads beyond the partition");
    }

    #[test]
    fn words_across_two_reads_are_found() {
        struct Slow<'a>(&'a [u8]);
        impl Read for Slow<'_> {
            fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
                let length = buffer.len().min(7).min(self.0.len());
                buffer[..length].copy_from_slice(&self.0[..length]);
                self.0 = &self.0[length..];
                Ok(length)
            }
        }
        for before in 0..40 {
            let text = [&vec![b'n'; before][..], GPTBOOT, b"\n"].concat();
            assert_eq!(Program::of(&mut Slow(&text)).unwrap(), Program::Gptboot, "{before}");
            assert_eq!(Program::of(&mut Slow(&text[1 + before..])).unwrap(), Program::Other);
        }
    }

    #[test]
    fn a_device_is_read_by_whole_sectors() {
        struct Sectors(Cursor<Vec<u8>>);
        impl Read for Sectors {
            fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
                assert_eq!((self.0.position() % 512, buffer.len() % 512), (0, 0));
                self.0.read(buffer)
            }
        }
        impl Seek for Sectors {
            fn seek(&mut self, position: SeekFrom) -> io::Result<u64> {
                self.0.seek(position)
            }
        }
        let device = || Sectors(Cursor::new(medium(FatType::Fat12, SIZE / 2, &[])));
        assert_eq!(on_esp(device(), START, SIZE / 2).unwrap(), []);
        assert_eq!(alone(device(), START, SIZE / 2).unwrap(), Program::Other);
    }

    /// A directory whose clusters lead in circles.
    #[test]
    fn circles_end() {
        let mut medium = medium(FatType::Fat16, SIZE, &[("EFI/BOOT/BOOTX64.EFI", b"MZ")]);
        // Each cluster's number of the next one, behind the first sector; those of two directories and
        // a file begin with the third.
        let table = usize::try_from(START).unwrap() + 512;
        for cluster in 2..5_u8 {
            let at = table + 2 * usize::from(cluster);
            medium[at..at + 2].copy_from_slice(&[cluster, 0]);
        }
        // No end of the directory is met.
        let area = usize::try_from(START).unwrap();
        for at in (area..medium.len()).step_by(32) {
            if medium[at..at + 32] == [0; 32] {
                medium[at] = 0xe5; // a name that was removed
            }
        }
        let result = programs(&medium, SIZE);
        assert_eq!(result.unwrap_err().to_string(), "it leads in circles");
    }

    static SOUND: LazyLock<Vec<u8>> = LazyLock::new(|| {
        let files: [(&str, &[u8]); 2] =
            [("EFI/BOOT/BOOTX64.EFI", b"MZ"), ("EFI/FREEBSD/LOADER.EFI", &[1; 3000])];
        medium(FatType::Fat16, SIZE, &files)
    });

    proptest! {
        /// Whatever is damaged, it is an answer or an error.
        #[test]
        fn damage_is_no_panic(at in prop::collection::vec((0_usize..40_000, any::<u8>()), 1..8)) {
            let mut medium = SOUND.clone();
            for (at, byte) in at {
                // Most of them where everything depends on them.
                let at = if at % 2 == 0 { at % 90 } else { at };
                medium[usize::try_from(START).unwrap() + at] = byte;
            }
            let _ = programs(&medium, SIZE);
        }
    }
}
