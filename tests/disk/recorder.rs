//! A medium whose every write and flush is kept: the image of a disk as the one file of a file
//! system in user space (FUSE), which a loop device lies on.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fs;
use std::io::{self, Read, Write};
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use fuser::{
    BackgroundSession, BsdFileFlags, Config, Errno, FileAttr, FileHandle, FileType, Filesystem,
    FopenFlags, Generation, INodeNo, KernelConfig, LockOwner, OpenFlags, ReplyAttr, ReplyData,
    ReplyEmpty, ReplyEntry, ReplyOpen, ReplyWrite, Request, TimeOrNow, WriteFlags,
};
use tempfile::TempDir;

const BLOCK: usize = 4096;
const NAME: &str = "image";
const FILE: INodeNo = INodeNo(2);

/// The bytes of a medium; blocks that are not there are zeros. A clone costs as much as its index.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Image {
    size: u64,
    blocks: BTreeMap<u64, Arc<Vec<u8>>>,
}

impl Image {
    fn read(&self, offset: u64, length: usize) -> Vec<u8> {
        let length = self.size.saturating_sub(offset).min(length as u64);
        let mut data = vec![0; usize::try_from(length).unwrap()];
        let mut done = 0;
        while done < data.len() {
            let (number, inside) = place(offset + done as u64);
            let piece = (BLOCK - inside).min(data.len() - done);
            if let Some(block) = self.blocks.get(&number) {
                data[done..done + piece].copy_from_slice(&block[inside..inside + piece]);
            }
            done += piece;
        }
        data
    }

    fn write(&mut self, offset: u64, data: &[u8]) {
        let mut done = 0;
        while done < data.len() {
            let (number, inside) = place(offset + done as u64);
            let piece = (BLOCK - inside).min(data.len() - done);
            let block = self.blocks.entry(number).or_insert_with(|| vec![0; BLOCK].into());
            Arc::make_mut(block)[inside..inside + piece].copy_from_slice(&data[done..done + piece]);
            done += piece;
        }
    }
}

fn place(offset: u64) -> (u64, usize) {
    (offset / BLOCK as u64, usize::try_from(offset % BLOCK as u64).unwrap())
}

/// What a medium was asked to do.
#[derive(Clone, Debug)]
enum Event {
    Write(u64, Vec<u8>),
    Flush,
}

/// A medium as it was, and all that was done to it then.
#[derive(Clone, Debug, Default)]
pub struct Recording {
    pub base: Image,
    log: Vec<Event>,
}

/// What a loss of power leaves: all up to the flush of this number, and of the writes between it
/// and the next flush those that the seed says; 0 says none.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Cut {
    pub flush: usize,
    pub seed: u64,
}

impl Recording {
    /// How many flushes there are, and writes.
    pub fn count(&self) -> (usize, usize) {
        let flushes = self.log.iter().filter(|e| matches!(e, Event::Flush)).count();
        (flushes, self.log.len() - flushes)
    }

    /// How many writes there are behind this flush, before the next one.
    pub fn writes_behind(&self, flush: usize) -> usize {
        self.window(flush).1.len()
    }

    /// The writes before a flush, and those between it and the next.
    fn window(&self, flush: usize) -> (Vec<&Event>, Vec<&Event>) {
        let (mut before, mut behind, mut flushes) = (Vec::new(), Vec::new(), 0);
        for event in &self.log {
            match event {
                Event::Flush => flushes += 1,
                Event::Write(..) if flushes < flush => before.push(event),
                Event::Write(..) if flushes == flush => behind.push(event),
                Event::Write(..) => break,
            }
        }
        (before, behind)
    }

    /// The medium after that loss. An odd seed cuts the writes at a random place, an even one takes
    /// each with probability one half: media write in what order they like.
    pub fn after(&self, cut: Cut) -> Image {
        let (before, behind) = self.window(cut.flush);
        let mut state = cut.seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ (cut.flush as u64) << 32 | 1;
        let mut random = || {
            // xorshift64*
            state ^= state >> 12;
            state ^= state << 25;
            state ^= state >> 27;
            state.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 33
        };
        let mut kept = before;
        match cut.seed {
            0 => {}
            seed if seed % 2 == 1 => {
                let count = random() % (behind.len() as u64 + 1);
                kept.extend(behind.into_iter().take(usize::try_from(count).unwrap()));
            }
            _ => kept.extend(behind.into_iter().filter(|_| random() % 2 == 1)),
        }
        let mut image = self.base.clone();
        for event in kept {
            if let Event::Write(offset, data) = event {
                image.write(*offset, data);
            }
        }
        image
    }

    /// The numbers of the writes that begin there.
    pub fn writes_in(&self, place: Range<u64>) -> Vec<usize> {
        let offset = |event: &Event| match event {
            Event::Write(offset, _) => Some(*offset),
            Event::Flush => None,
        };
        let offsets = self.log.iter().filter_map(offset).enumerate();
        offsets.filter(|(_, offset)| place.contains(offset)).map(|(number, _)| number).collect()
    }

    /// The medium without one of the writes, as if nobody had flushed.
    pub fn without(&self, lost: usize) -> Image {
        let mut image = self.base.clone();
        let writes = self.log.iter().filter(|e| matches!(e, Event::Write(..))).enumerate();
        for (number, event) in writes {
            if let (Event::Write(offset, data), true) = (event, number != lost) {
                image.write(*offset, data);
            }
        }
        image
    }

    /// Keeps it in a file.
    pub fn save(&self, path: &Path) -> io::Result<()> {
        let mut file = io::BufWriter::new(fs::File::create(path)?);
        let mut number = |n: u64| file.write_all(&n.to_le_bytes());
        number(self.base.size)?;
        number(self.base.blocks.len() as u64)?;
        number(self.log.len() as u64)?;
        for (n, block) in &self.base.blocks {
            file.write_all(&n.to_le_bytes())?;
            file.write_all(block)?;
        }
        for event in &self.log {
            let (offset, data) = match event {
                Event::Write(offset, data) => (*offset, data.as_slice()),
                Event::Flush => (u64::MAX, &[][..]),
            };
            file.write_all(&offset.to_le_bytes())?;
            file.write_all(&(data.len() as u64).to_le_bytes())?;
            file.write_all(data)?;
        }
        file.flush()
    }

    /// Reads what [`Recording::save`] wrote.
    pub fn load(path: &Path) -> io::Result<Self> {
        let mut file = io::BufReader::new(fs::File::open(path)?);
        let mut recording = Self::default();
        recording.base.size = number(&mut file)?;
        let (blocks, events) = (number(&mut file)?, number(&mut file)?);
        let bytes = |file: &mut io::BufReader<fs::File>, length: usize| {
            let mut data = vec![0; length];
            file.read_exact(&mut data).map(|()| data)
        };
        for _ in 0..blocks {
            let at = number(&mut file)?;
            recording.base.blocks.insert(at, bytes(&mut file, BLOCK)?.into());
        }
        for _ in 0..events {
            let (offset, length) = (number(&mut file)?, number(&mut file)?);
            let data = bytes(&mut file, usize::try_from(length).unwrap())?;
            let flush = offset == u64::MAX;
            recording.log.push(if flush { Event::Flush } else { Event::Write(offset, data) });
        }
        Ok(recording)
    }
}

fn number(file: &mut impl Read) -> io::Result<u64> {
    let mut bytes = [0; 8];
    file.read_exact(&mut bytes)?;
    Ok(u64::from_le_bytes(bytes))
}

#[derive(Debug, Default)]
struct State {
    image: Image,
    recording: Option<Recording>,
}

/// The file system. It goes when this is dropped, after whatever lies on it.
pub struct Recorder {
    state: Arc<Mutex<State>>,
    _session: BackgroundSession,
    dir: TempDir,
}

impl Recorder {
    /// Mounts it.
    pub fn new() -> Self {
        let dir = super::harness::temp_dir();
        let state = Arc::new(Mutex::new(State::default()));
        let served = Served(Arc::clone(&state));
        let session = fuser::spawn_mount(served, dir.path(), &Config::default());
        Self { state, _session: session.unwrap(), dir }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The file.
    pub fn path(&self) -> PathBuf {
        self.dir.path().join(NAME)
    }

    /// Begins to keep what is written.
    pub fn begin(&self) {
        let mut state = self.lock();
        state.recording = Some(Recording { base: state.image.clone(), log: Vec::new() });
    }

    /// Ends it.
    pub fn end(&self) -> Recording {
        self.lock().recording.take().unwrap()
    }

    /// Puts other bytes into the medium. Nobody may have anything of it in a cache.
    pub fn put(&self, image: Image) {
        self.lock().image = image;
    }
}

/// What the kernel talks to.
struct Served(Arc<Mutex<State>>);

impl Served {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn attributes(&self, ino: INodeNo) -> FileAttr {
        let file = ino == FILE;
        let size = if file { self.lock().image.size } else { 0 };
        FileAttr {
            ino,
            size,
            blocks: size / 512,
            atime: UNIX_EPOCH,
            mtime: UNIX_EPOCH,
            ctime: UNIX_EPOCH,
            crtime: UNIX_EPOCH,
            kind: if file { FileType::RegularFile } else { FileType::Directory },
            perm: 0o700,
            nlink: 1,
            uid: 0,
            gid: 0,
            rdev: 0,
            blksize: 4096,
            flags: 0,
        }
    }
}

const SHORT: Duration = Duration::ZERO;

impl Filesystem for Served {
    fn init(&mut self, _: &Request, config: &mut KernelConfig) -> io::Result<()> {
        // As large as the kernel likes.
        config.set_max_write(1 << 20).map(drop).or(Ok(()))
    }

    fn lookup(&self, _: &Request, _parent: INodeNo, name: &OsStr, reply: ReplyEntry) {
        if name == NAME {
            reply.entry(&SHORT, &self.attributes(FILE), Generation(0));
        } else {
            reply.error(Errno::ENOENT);
        }
    }

    fn getattr(&self, _: &Request, ino: INodeNo, _: Option<FileHandle>, reply: ReplyAttr) {
        reply.attr(&SHORT, &self.attributes(ino));
    }

    fn setattr(
        &self,
        _: &Request,
        ino: INodeNo,
        _mode: Option<u32>,
        _uid: Option<u32>,
        _gid: Option<u32>,
        size: Option<u64>,
        _atime: Option<TimeOrNow>,
        _mtime: Option<TimeOrNow>,
        _ctime: Option<SystemTime>,
        _fh: Option<FileHandle>,
        _crtime: Option<SystemTime>,
        _chgtime: Option<SystemTime>,
        _bkuptime: Option<SystemTime>,
        _flags: Option<BsdFileFlags>,
        reply: ReplyAttr,
    ) {
        if let (Some(size), true) = (size, ino == FILE) {
            self.lock().image.size = size;
        }
        reply.attr(&SHORT, &self.attributes(ino));
    }

    fn open(&self, _: &Request, _ino: INodeNo, _flags: OpenFlags, reply: ReplyOpen) {
        // Past the page cache: every request arrives here as it was made.
        reply.opened(FileHandle(0), FopenFlags::FOPEN_DIRECT_IO);
    }

    fn read(
        &self,
        _: &Request,
        _ino: INodeNo,
        _fh: FileHandle,
        offset: u64,
        size: u32,
        _flags: OpenFlags,
        _owner: Option<LockOwner>,
        reply: ReplyData,
    ) {
        reply.data(&self.lock().image.read(offset, size as usize));
    }

    fn write(
        &self,
        _: &Request,
        _ino: INodeNo,
        _fh: FileHandle,
        offset: u64,
        data: &[u8],
        _write_flags: WriteFlags,
        _flags: OpenFlags,
        _owner: Option<LockOwner>,
        reply: ReplyWrite,
    ) {
        let mut state = self.lock();
        state.image.write(offset, data);
        if let Some(recording) = &mut state.recording {
            recording.log.push(Event::Write(offset, data.to_vec()));
        }
        drop(state);
        reply.written(u32::try_from(data.len()).unwrap());
    }

    fn flush(&self, _: &Request, _: INodeNo, _: FileHandle, _: LockOwner, reply: ReplyEmpty) {
        reply.ok();
    }

    fn fsync(&self, _: &Request, _: INodeNo, _: FileHandle, _data: bool, reply: ReplyEmpty) {
        if let Some(recording) = &mut self.lock().recording {
            recording.log.push(Event::Flush);
        }
        reply.ok();
    }
}
