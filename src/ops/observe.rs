//! Reading the system into a [`View`].

use std::ffi::OsStr;
use std::io::{self, Read, Seek, SeekFrom};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use super::{Session, table};
use crate::device::{Class, Id, Provider};
use crate::error::{Error, Kind, Result};
use crate::slot::config::{self, Config};
use crate::slot::fstab;
use crate::slot::media::WORDS;
use crate::slot::nextboot::{self, Nextboot};
use crate::slot::view::View;
use crate::sys::{Boot, Os};
use crate::table::reading::Reading;
use crate::table::{Scheme, Table, bsd, superblock};

/// Observes everything that decisions are made from.
///
/// # Errors
/// fstab or the configuration cannot be read or make no sense. What is wrong with a medium is kept
/// in [`View::faults`], for those who need it.
pub fn view<O: Os>(os: &O, session: &Session) -> Result<View> {
    let (view, wrong) = whatever_fstab_says(os, session)?;
    match wrong.into_iter().next() {
        Some(error) => Err(error),
        None => Ok(view),
    }
}

/// The same without the lines of fstab that make no sense, for whoever tells of them.
///
/// # Errors
/// As of [`view`], but for those, which come beside it.
pub(super) fn whatever_fstab_says<O: Os>(os: &O, session: &Session) -> Result<(View, Vec<Error>)> {
    privileged(os)?;
    let root = os.canonical(&session.root)?;
    let (config, config_path) = read_config(os, session, &root)?;
    let fstab_path = root.join("etc/fstab");
    let text = os.read_file(&fstab_path)?.unwrap_or_default();
    let (fstab, wrong) = fstab::parse_lines(&text);
    let wrong = wrong.into_iter().map(|e| e.path(&fstab_path)).collect();
    let nextboot = os.read_file(&root.join(nextboot::PATH.trim_start_matches('/')))?;
    let mut view = View {
        root,
        devices: os.devices()?,
        mounts: os.mounts()?,
        swaps: os.swaps()?,
        fstab,
        nextboot: nextboot.map(|text| Nextboot::parse(&text)),
        config,
        config_path,
        ..View::default()
    };
    resolve_paths(os, &mut view, session);
    if let Some(word) = &session.media {
        let usb = if WORDS.contains(&word.as_str()) { os.usb_disks()? } else { Vec::new() };
        view.medium = Some(view.find_medium(word, &usb)?);
    }
    read_media(os, &mut view);
    // It takes a while, and only matters where a table was read and there is none.
    if let Some(medium) = view.elsewhere()
        && view.readings.contains_key(&medium)
        && !view.tables.contains_key(&medium)
    {
        view.kept = table::is_kept(os, &view, medium);
    }
    Ok((view, wrong))
}

/// How the system was started. Of another root than `/` that tells nothing but which start it is.
///
/// # Errors
/// The system does not tell.
pub(super) fn started<O: Os>(os: &O, view: &View) -> Result<Boot> {
    let boot = os.boot()?;
    let live = view.root == Path::new("/");
    Ok(if live { boot } else { Boot { id: boot.id, ..Boot::default() } })
}

/// What every verb needs.
///
/// # Errors
/// Refused: this process is not root's.
pub fn privileged<O: Os>(os: &O) -> Result<()> {
    if os.privileged() {
        return Ok(());
    }
    Err(Error::refused("this needs root").hint("run it as root"))
}

fn read_config<O: Os>(os: &O, session: &Session, root: &Path) -> Result<(Config, PathBuf)> {
    let default = root.join(config::DEFAULT.trim_start_matches('/'));
    let path = session.config.clone().unwrap_or(default);
    let config = match os.read_file(&path)? {
        Some(text) => Config::parse(&text).map_err(|e| e.path(&path))?,
        None if session.config.is_some() => {
            return Err(Error::new(Kind::Usage, "reading", "no such file").path(path));
        }
        None => Config::default(),
    };
    Ok((config, path))
}

/// Resolves the symbolic links of every path that users wrote.
fn resolve_paths<O: Os>(os: &O, view: &mut View, session: &Session) {
    let from_fstab = view.fstab.iter().map(|e| PathBuf::from(OsStr::from_bytes(&e.spec)));
    let from_mounts = view.mounts.iter().map(|m| PathBuf::from(&m.source));
    let from_config = [&view.config.root, &view.config.config]
        .into_iter()
        .flat_map(|s| s.slots.iter().flatten())
        .chain(view.config.media.values())
        .chain(&session.media)
        .map(PathBuf::from);
    let paths: Vec<PathBuf> = from_fstab
        .chain(from_mounts)
        .chain(from_config)
        .chain(view.swaps.iter().cloned())
        .filter(|p| p.is_absolute())
        .collect();
    for path in paths {
        // A name that leads nowhere stays as it is; whoever needs it will say so.
        if let Ok(canonical) = os.canonical(&path) {
            view.canonical.insert(path, canonical);
        }
    }
}

/// Reads partition tables, BSD labels and superblocks.
fn read_media<O: Os>(os: &O, view: &mut View) {
    for id in 0..view.devices.providers.len() {
        if !has_partitions(view, id) && !is_missed(view, id) && view.medium != Some(id) {
            continue;
        }
        let table = if matches!(view.devices.get(id).class, Class::Partition { .. }) {
            read_label(os, view, id)
        } else {
            read_tables(os, view, id)
        };
        match table {
            Ok(Some(table)) => drop(view.tables.insert(id, table)),
            Ok(None) => {}
            Err(error) => drop(view.faults.insert(id, error.to_string())),
        }
    }
    reveal_partitions(os, view);
    judge(view);
    for id in 0..view.devices.providers.len() {
        let mut provider = view.devices.get(id);
        if matches!(provider.class, Class::Alias) || has_partitions(view, id) {
            continue;
        }
        let mut offset = 0;
        if let Some(slice) = view.hidden_in(id) {
            offset = provider.lower.first().and_then(|l| l.offset).unwrap_or(0);
            provider = view.devices.get(slice);
        }
        match os.read_device(&provider.path(), offset, superblock::WINDOW) {
            Ok(window) => {
                if let Some(found) = superblock::read(&window) {
                    view.superblocks.insert(id, found);
                }
            }
            Err(error) => drop(view.faults.insert(id, error.to_string())),
        }
    }
}

/// Finds the partitions that are on the medium and not in GEOM's mesh: see [`View::reveal`].
fn reveal_partitions<O: Os>(os: &O, view: &mut View) {
    for id in 0..view.devices.providers.len() {
        if !is_bsd_slice(view, id) || has_partitions(view, id) {
            continue;
        }
        // What is wrong with a label that nothing is made from is nobody's concern.
        if let Ok(Some(label)) = read_label(os, view, id) {
            view.reveal(id, label);
        }
    }
}

/// Reads the tables of a medium and keeps what they were read from.
fn read_tables<O: Os>(os: &O, view: &mut View, id: Id) -> Result<Option<Table>> {
    let provider = view.devices.get(id);
    let (path, size, sector) = (provider.path(), provider.size, provider.sector);
    let mut reader = DeviceReader { os, device: &path, position: 0 };
    let reading = Reading::take(&mut reader, size, sector)?;
    let table = reading.table();
    view.readings.insert(id, reading);
    Ok(table?)
}

/// Says what is wrong with the tables.
fn judge(view: &mut View) {
    for (&medium, reading) in &view.readings {
        let mut found = reading.damage(&|place| view.place(medium, place));
        found.extend(view.against_kernel(medium, reading));
        if !found.is_empty() {
            view.findings.insert(medium, found);
        }
    }
}

/// Whether this is a medium whose partitions somebody names although there are none: its table may
/// be gone.
pub(super) fn is_missed(view: &View, id: Id) -> bool {
    let Provider { name, class: Class::Disk, .. } = view.devices.get(id) else { return false };
    if has_partitions(view, id) {
        return false;
    }
    let specs = view.fstab.iter().map(|e| e.spec.as_slice());
    let slots = [&view.config.root, &view.config.config].into_iter().flat_map(|s| s.slots.iter());
    let mut named = specs.chain(slots.flatten().map(String::as_bytes));
    named.any(|spec| {
        let rest = spec.strip_prefix(b"/dev/").and_then(|s| s.strip_prefix(name.as_bytes()));
        // da0s1, da0p1; loop0p1; sda1
        rest.is_some_and(|rest| {
            let digits = rest.strip_prefix(b"s").or(rest.strip_prefix(b"p")).unwrap_or(rest);
            digits.first().is_some_and(u8::is_ascii_digit)
        })
    })
}

/// Whether GEOM would look for a BSD label there: a slice of that type, and of GEOM's own name for
/// one (`g_part_mbr_name`), since Linux makes other partitions of a BSD label.
fn is_bsd_slice(view: &View, id: Id) -> bool {
    let provider = view.devices.get(id);
    let Some(medium) = provider.lower.first() else { return false };
    let medium = &view.devices.get(medium.id).name;
    view.entry(id)
        .is_some_and(|e| e.kind == "freebsd" && provider.name == format!("{medium}s{}", e.index))
}

fn has_partitions(view: &View, id: Id) -> bool {
    let mut uppers = view.devices.uppers(id);
    uppers.any(|u| matches!(view.devices.get(u).class, Class::Partition { .. }))
}

fn read_label<O: Os>(os: &O, view: &View, id: Id) -> Result<Option<Table>> {
    let slice = view.devices.get(id);
    let window = os.read_device(&slice.path(), 0, bsd::WINDOW)?;
    let start = slice.lower.first().and_then(|l| l.offset).unwrap_or(0);
    let table = bsd::read(&window, start, slice.size, slice.sector).map_err(Error::from)?;
    debug_assert!(table.as_ref().is_none_or(|t| t.scheme == Scheme::Bsd));
    Ok(table)
}

/// A device as the table parsers read it.
pub(super) struct DeviceReader<'a, O> {
    os: &'a O,
    device: &'a Path,
    position: u64,
}

impl<'a, O> DeviceReader<'a, O> {
    pub(super) fn new(os: &'a O, device: &'a Path) -> Self {
        Self { os, device, position: 0 }
    }
}

impl<O: Os> Read for DeviceReader<'_, O> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let data = self.os.read_device(self.device, self.position, buffer.len()).map_err(|e| {
            e.errno.map_or_else(|| io::Error::other(e.to_string()), io::Error::from_raw_os_error)
        })?;
        buffer[..data.len()].copy_from_slice(&data);
        self.position += data.len() as u64;
        Ok(data.len())
    }
}

impl<O> Seek for DeviceReader<'_, O> {
    fn seek(&mut self, position: SeekFrom) -> io::Result<u64> {
        self.position = match position {
            SeekFrom::Start(n) => n,
            SeekFrom::Current(n) => self.position.saturating_add_signed(n),
            SeekFrom::End(_) => return Err(io::ErrorKind::Unsupported.into()),
        };
        Ok(self.position)
    }
}
