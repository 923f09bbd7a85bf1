//! The face of a file tree: directories by handle, never by path, so that a name that becomes a
//! symbolic link during the walk is never followed and depth is not bounded by `PATH_MAX`.

use std::ffi::{OsStr, OsString};
use std::io;
use std::ops::Range;
use std::os::unix::ffi::OsStrExt;

/// What an object is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Kind {
    /// Regular file.
    File,
    /// Directory.
    Dir,
    /// Symbolic link.
    Symlink,
    /// Named pipe.
    Fifo,
    /// Unix-domain socket.
    Socket,
    /// Character device.
    Char,
    /// Block device.
    Block,
}

impl Kind {
    /// The word of mtree(5) for it.
    pub fn name(self) -> &'static str {
        match self {
            Self::File => "file",
            Self::Dir => "dir",
            Self::Symlink => "link",
            Self::Fifo => "fifo",
            Self::Socket => "socket",
            Self::Char => "char",
            Self::Block => "block",
        }
    }
}

/// A moment as file systems keep it: seconds since 1970 and nanoseconds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Time {
    /// Seconds, negative before 1970.
    pub sec: i64,
    /// 0 to 999,999,999.
    pub nsec: u32,
}

/// What stat(2) tells of an object, plus its flags.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Meta {
    /// What it is.
    pub kind: Kind,
    /// Identity of the file system.
    pub dev: u64,
    /// Identity of the object there.
    pub ino: u64,
    /// Names that lead to it.
    pub nlink: u64,
    /// Permission bits with set-id and sticky, 0 to 0o7777.
    pub mode: u32,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Bytes; for a symbolic link the length of its target.
    pub size: u64,
    /// 512-byte units in use; less than `size` says where there are holes.
    pub blocks: u64,
    /// Major and minor number of a device.
    pub rdev: (u64, u64),
    /// Last read.
    pub atime: Time,
    /// Last write.
    pub mtime: Time,
    /// Last change of any kind; cannot be set.
    pub ctime: Time,
    /// Creation; UFS2 can set it, Linux can only tell it.
    pub birth: Option<Time>,
    /// chflags(2) flags, or Linux's inode flags (`chattr`); 0 where there are none.
    pub flags: u32,
}

#[cfg(test)]
impl Meta {
    /// An empty object of root's, with one name.
    pub(crate) fn sample(kind: Kind) -> Self {
        let time = Time::default();
        Self {
            kind,
            dev: 1,
            ino: 2,
            nlink: 1,
            mode: 0o755,
            uid: 0,
            gid: 0,
            size: 0,
            blocks: 0,
            rdev: (0, 0),
            atime: time,
            mtime: time,
            ctime: time,
            birth: None,
            flags: 0,
        }
    }
}

/// The names in a directory, sorted by their bytes, in one allocation.
#[derive(Clone, Debug, Default)]
pub struct Names {
    bytes: Vec<u8>,
    index: Vec<(usize, u16, Option<Kind>)>,
}

impl Names {
    /// Adds a name, with the kind where the directory tells it.
    pub fn push(&mut self, name: &[u8], kind: Option<Kind>) {
        // NAME_MAX is 255 on both systems, far below what 16 bits hold.
        let length = u16::try_from(name.len()).unwrap_or(u16::MAX);
        self.index.push((self.bytes.len(), length, kind));
        self.bytes.extend_from_slice(name);
    }

    /// Sorts by bytes: the order of every walk and of the manifest.
    pub fn sort(&mut self) {
        let bytes = &self.bytes;
        self.index
            .sort_unstable_by_key(|&(start, length, _)| &bytes[start..start + usize::from(length)]);
    }

    /// How many.
    pub fn len(&self) -> usize {
        self.index.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.index.is_empty()
    }

    /// The `n`th name and its kind.
    pub fn get(&self, n: usize) -> Option<(&OsStr, Option<Kind>)> {
        let &(start, length, kind) = self.index.get(n)?;
        Some((OsStr::from_bytes(&self.bytes[start..start + usize::from(length)]), kind))
    }

    /// All of them in order.
    pub fn iter(&self) -> impl Iterator<Item = (&OsStr, Option<Kind>)> {
        (0..self.len()).filter_map(|n| self.get(n))
    }
}

/// Extended attributes: full name (`user.x`, `system.posix1e.acl_access`) and value, sorted.
pub type Xattrs = Vec<(OsString, Vec<u8>)>;

/// The attributes that ACLs are kept in: of acl(5) on Linux, of POSIX.1e and of NFSv4 on FreeBSD
/// (acl(9), extattr(9)). They alone come to a new object from its directory.
const ACLS: [&str; 5] = [
    "system.posix_acl_access",
    "system.posix_acl_default",
    "system.posix1e.acl_access",
    "system.posix1e.acl_default",
    "system.nfs4.acl",
];

/// Whether this attribute is an ACL.
pub fn is_acl(name: &OsStr) -> bool {
    ACLS.iter().any(|acl| name == *acl)
}

/// An open regular file.
pub trait File: io::Read + io::Write + io::Seek + Send {
    /// Its metadata.
    fn meta(&self) -> io::Result<Meta>;
    /// The next range of data at or after `from`, `None` where only a hole is left
    /// (lseek(2) `SEEK_DATA`, `SEEK_HOLE`). A file system without holes answers everything.
    fn next_data(&self, from: u64, end: u64) -> io::Result<Option<Range<u64>>>;
    /// ftruncate(2): sets the size, with a hole where it grows.
    fn set_len(&self, size: u64) -> io::Result<()>;
    /// fsync(2).
    fn sync(&self) -> io::Result<()>;
    /// Tells the system that the whole file will be read once, in order.
    fn will_read_once(&self);
    /// Asks that reads go past the system's cache (open(2), `O_DIRECT`): they are of the medium, and
    /// push nothing out that the running system needs. What cannot be had so is read through it.
    fn past_the_cache(&self);
    /// All extended attributes, ACLs among them.
    fn xattrs(&self) -> io::Result<Xattrs>;
    /// Sets one extended attribute.
    fn set_xattr(&self, name: &OsStr, value: &[u8]) -> io::Result<()>;
    /// Removes one that is there.
    fn remove_xattr(&self, name: &OsStr) -> io::Result<()>;
    /// fchown(2).
    fn set_owner(&self, uid: u32, gid: u32) -> io::Result<()>;
    /// fchmod(2), then birth, access and modification time.
    fn set_mode_and_times(&self, meta: &Meta) -> io::Result<()>;
    /// fchflags(2), or Linux's inode flags.
    fn set_flags(&self, flags: u32) -> io::Result<()>;
}

/// An open directory. Methods that take a name act on that entry and never follow a symbolic link.
pub trait Dir: Sized + Send + Sync {
    /// Its files.
    type File: File;
    /// Whether a copy can keep the birth time (UFS2).
    const KEEPS_BIRTH: bool;

    /// The directory's own metadata.
    fn meta(&self) -> io::Result<Meta>;
    /// Its entries without `.` and `..`, sorted.
    fn names(&self) -> io::Result<Names>;
    /// An entry's metadata. Flags may be left 0 for anything but files and directories.
    fn stat(&self, name: &OsStr) -> io::Result<Meta>;
    /// Opens a subdirectory.
    fn open_dir(&self, name: &OsStr) -> io::Result<Self>;
    /// Opens the directory above.
    fn open_parent(&self) -> io::Result<Self>;
    /// Opens a regular file for reading. Anything else that took its place fails at once, without
    /// waiting for a peer of a fifo.
    fn open_file(&self, name: &OsStr) -> io::Result<Self::File>;
    /// Opens a regular file that is there for reading and writing.
    fn open_to_change(&self, name: &OsStr) -> io::Result<Self::File>;
    /// Creates a file that must not exist yet, open for reading and writing, mode 0600.
    fn create_file(&self, name: &OsStr) -> io::Result<Self::File>;
    /// Creates a directory, mode 0700.
    fn make_dir(&self, name: &OsStr) -> io::Result<()>;
    /// Creates a fifo, socket or device of `meta`'s kind and number, mode 0600.
    fn make_special(&self, name: &OsStr, meta: &Meta) -> io::Result<()>;
    /// Creates a symbolic link.
    fn make_symlink(&self, name: &OsStr, target: &[u8]) -> io::Result<()>;
    /// A symbolic link's target.
    fn read_link(&self, name: &OsStr) -> io::Result<Vec<u8>>;
    /// Makes `name` here another name of `original` in `from`.
    fn make_link(&self, name: &OsStr, from: &Self, original: &OsStr) -> io::Result<()>;
    /// Removes anything but a directory.
    fn remove_file(&self, name: &OsStr) -> io::Result<()>;
    /// Removes an empty directory.
    fn remove_dir(&self, name: &OsStr) -> io::Result<()>;
    /// Replaces `to` by `from`, both here, in one step.
    fn rename(&self, from: &OsStr, to: &OsStr) -> io::Result<()>;
    /// fsync(2) of the directory.
    fn sync(&self) -> io::Result<()>;
    /// Writes everything of the file system to the medium and reports errors of the writing.
    fn sync_all(&self) -> io::Result<()>;

    /// The directory's own extended attributes.
    fn xattrs(&self) -> io::Result<Xattrs>;
    /// Sets one of the directory's own extended attributes.
    fn set_xattr(&self, name: &OsStr, value: &[u8]) -> io::Result<()>;
    /// Removes one of them that is there.
    fn remove_xattr(&self, name: &OsStr) -> io::Result<()>;
    /// fchown(2) of the directory.
    fn set_owner(&self, uid: u32, gid: u32) -> io::Result<()>;
    /// Mode and times of the directory.
    fn set_mode_and_times(&self, meta: &Meta) -> io::Result<()>;
    /// Flags of the directory.
    fn set_flags(&self, flags: u32) -> io::Result<()>;

    /// Extended attributes of an entry that cannot be opened (symbolic link, device, …).
    fn xattrs_of(&self, name: &OsStr) -> io::Result<Xattrs>;
    /// Sets an extended attribute of such an entry.
    fn set_xattr_of(&self, name: &OsStr, key: &OsStr, value: &[u8]) -> io::Result<()>;
    /// Removes one that such an entry has.
    fn remove_xattr_of(&self, name: &OsStr, key: &OsStr) -> io::Result<()>;
    /// Owner of an entry.
    fn set_owner_of(&self, name: &OsStr, uid: u32, gid: u32) -> io::Result<()>;
    /// Mode (where the system keeps one for it) and times of an entry.
    fn set_mode_and_times_of(&self, name: &OsStr, meta: &Meta) -> io::Result<()>;
    /// Flags of an entry; what has them already is left alone.
    fn set_flags_of(&self, name: &OsStr, flags: u32) -> io::Result<()>;
}
