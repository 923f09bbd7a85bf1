//! A disk's own write cache: what it holds a loss of power can take in any order. It is switched off
//! where several writes must become durable in their order and nobody can flush between them.

use super::command;
use crate::error::Result;

const CAMCONTROL: &str = "/sbin/camcontrol";

/// The cache of a disk, off until this is dropped. After a kill it stays off until the disk loses its
/// power: slower, and no less safe.
#[derive(Debug)]
pub(super) struct Off {
    disk: String,
    cache: Cache,
}

/// How a cache is switched.
#[derive(Debug)]
enum Cache {
    /// By the caching mode page (SBC-3 6.5.5) of da(4), as it was read.
    Scsi(Vec<u8>),
    /// By SET FEATURES (ACS-3 7.45) of ada(4).
    Ata,
}

impl Off {
    /// Switches the cache of a disk off. `None` where it is off, where there is none, and where nobody
    /// knows how: other drivers than da(4) and ada(4).
    ///
    /// # Errors
    /// The disk does not tell, or does not take it.
    pub(super) fn switch(disk: &str) -> Result<Option<Self>> {
        let Some(cache) = Cache::of(disk)? else { return Ok(None) };
        cache.set(disk, false)?;
        log::debug!("{disk}: its write cache is off");
        Ok(Some(Self { disk: disk.to_owned(), cache }))
    }
}

impl Drop for Off {
    fn drop(&mut self) {
        if let Err(e) = self.cache.set(&self.disk, true) {
            log::warn!("the write cache of {} stays off: {e}", self.disk);
        }
    }
}

impl Cache {
    /// The cache of a disk, where it is on.
    fn of(disk: &str) -> Result<Option<Self>> {
        match disk.trim_end_matches(|c: char| c.is_ascii_digit()) {
            "da" => {
                // MODE SENSE(6) without block descriptors, current values, page 8.
                let words = ["cmd", disk, "-c", "1A 08 08 00 FF 00", "-i", "255", "-"];
                let output = command::run(&[CAMCONTROL], &words)?;
                Ok(caching_page(&output.stdout).filter(|page| is_on(page)).map(Self::Scsi))
            }
            "ada" => {
                let output = command::run(&[CAMCONTROL], &["identify", disk])?;
                let on = ata_cache_is_on(&String::from_utf8_lossy(&output.stdout));
                Ok(on.then_some(Self::Ata))
            }
            _ => Ok(None),
        }
    }

    fn set(&self, disk: &str, on: bool) -> Result<()> {
        let run = |words: &[&str], input: &[u8]| {
            command::run_with(&[CAMCONTROL], &[&["cmd", disk], words].concat(), input).map(drop)
        };
        match self {
            Self::Scsi(page) => {
                let list = parameters(page, on);
                let length = list.len();
                // MODE SELECT(6), page format, not saved.
                let cdb = format!("15 10 00 00 {length:02X} 00");
                run(&["-c", &cdb, "-o", &length.to_string(), "-"], &list)
            }
            Self::Ata => {
                let feature = if on { "02" } else { "82" };
                run(&["-a", &format!("EF {feature} 00 00 00 00 00 00 00 00 00 00")], &[])
            }
        }
    }
}

/// The write cache enable bit, in the third byte of the page.
const WCE: u8 = 1 << 2;

/// The caching page in what MODE SENSE(6) returns: a header of four bytes, the last of which is the
/// length of the block descriptors behind it (SPC-4 7.5.5), and then the page.
fn caching_page(sense: &[u8]) -> Option<Vec<u8>> {
    let page = sense.get(4 + usize::from(*sense.get(3)?)..)?;
    let length = 2 + usize::from(*page.get(1)?);
    let page = page.get(..length)?;
    (page[0] & 0x3f == 8 && length > 2).then(|| page.to_vec())
}

fn is_on(page: &[u8]) -> bool {
    page[2] & WCE != 0
}

/// What MODE SELECT(6) takes: a header without a length, and the page without the bit that says that
/// it can be saved.
fn parameters(page: &[u8], on: bool) -> Vec<u8> {
    let mut list = [&[0; 4], page].concat();
    list[4] &= 0x3f;
    list[6] = if on { list[6] | WCE } else { list[6] & !WCE };
    list
}

/// Whether the write cache is there and enabled, of `camcontrol identify`:
///
/// ```text
/// Feature                      Support  Enabled   Value           Vendor
/// write cache                    yes      yes
/// ```
fn ata_cache_is_on(text: &str) -> bool {
    let line = text.lines().find_map(|line| line.strip_prefix("write cache"));
    line.is_some_and(|line| line.split_whitespace().take(2).eq(["yes", "yes"]))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_caching_page_is_found_and_changed() {
        let page = [0x88, 4, 0x14, 1, 2, 3];
        for descriptors in [0, 8] {
            let mut sense = vec![17, 0, 0x10, descriptors];
            sense.resize(4 + usize::from(descriptors), 0xff);
            sense.extend(page);
            sense.resize(255, 0);
            assert_eq!(caching_page(&sense).unwrap(), page);
        }
        assert!(is_on(&page));
        assert_eq!(parameters(&page, false), [0, 0, 0, 0, 8, 4, 0x10, 1, 2, 3]);
        assert_eq!(parameters(&page, true), [0, 0, 0, 0, 8, 4, 0x14, 1, 2, 3]);
        for sense in [
            &[][..],
            &[3, 0, 0, 0],
            &[9, 0, 0, 200, 8],
            &[5, 0, 0, 0, 8, 9, 4],
            &[5, 0, 0, 0, 8, 0],
        ] {
            assert_eq!(caching_page(sense), None, "{sense:?}");
        }
        assert_eq!(caching_page(&[8, 0, 0, 0, 10, 1, 4]), None, "another page");
    }

    #[test]
    fn what_camcontrol_tells_of_an_ata_disk() {
        let text = |line: &str| {
            format!(
                "Feature                      Support  Enabled\n{line}\nflush cache  yes\tyes\n"
            )
        };
        assert!(ata_cache_is_on(&text("write cache                    yes\tyes")));
        assert!(!ata_cache_is_on(&text("write cache                    yes\tno")));
        assert!(!ata_cache_is_on(&text("write cache                    no\tno")));
        assert!(!ata_cache_is_on(&text("")));
    }
}
