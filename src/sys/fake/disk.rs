//! A disk outside its file systems: tables, labels, boot code.

use std::collections::BTreeMap;
use std::sync::Arc;

const SECTOR: usize = 512;

/// Sectors that are not zeros, by their numbers.
#[derive(Clone, Debug, Default)]
pub(super) struct Disk {
    durable: BTreeMap<u64, Arc<Vec<u8>>>,
    /// What makes what reads see of it, oldest first: a sector each, since that is what a medium
    /// writes as a whole.
    log: Vec<(u64, Arc<Vec<u8>>)>,
    /// Whether its partitions are those of its table, and not what a test says.
    pub(super) drawn: bool,
    pub(super) changes: u64,
}

impl Disk {
    fn get(&self, number: u64) -> Option<&Arc<Vec<u8>>> {
        let written = self.log.iter().rev().find(|(n, _)| *n == number).map(|(_, data)| data);
        written.or_else(|| self.durable.get(&number))
    }

    /// The sectors of a byte range that may be something else than zeros.
    pub(super) fn sectors(&self, start: u64, end: u64) -> BTreeMap<u64, Arc<Vec<u8>>> {
        let numbers = start / SECTOR as u64..end.div_ceil(SECTOR as u64);
        let durable = self.durable.range(numbers.clone()).map(|(n, data)| (*n, data.clone()));
        let mut sectors: BTreeMap<_, _> = durable.collect();
        let written = self.log.iter().filter(|(n, _)| numbers.contains(n));
        sectors.extend(written.map(|(n, data)| (*n, data.clone())));
        sectors
    }

    /// Writes whole sectors, not durable yet. What is there already is not written again.
    pub(super) fn write(&mut self, offset: u64, data: &[u8]) {
        let zeros = [0; SECTOR];
        for (number, sector) in (offset / SECTOR as u64..).zip(data.chunks_exact(SECTOR)) {
            let old = self.get(number).map_or(&zeros[..], |old| old);
            if old != sector {
                self.log.push((number, Arc::new(sector.to_vec())));
                self.changes += 1;
            }
        }
    }

    /// Makes everything durable.
    pub(super) fn flush(&mut self) {
        self.changes += u64::from(!self.log.is_empty());
        self.durable.extend(self.log.drain(..));
    }

    /// How many writes nobody flushed.
    pub(super) fn pending(&self) -> usize {
        self.log.len()
    }

    /// What is there after the power was gone; `kept` tells which writes arrived.
    pub(super) fn lose(&mut self, kept: &mut impl Iterator<Item = bool>) {
        let kept = self.log.drain(..).zip(kept).filter(|(_, kept)| *kept).map(|(write, _)| write);
        self.durable.extend(kept.collect::<Vec<_>>());
    }

    /// The first sector, to be changed for good behind everybody's back.
    pub(super) fn first(&mut self) -> &mut Vec<u8> {
        self.flush();
        Arc::make_mut(self.durable.entry(0).or_insert_with(|| vec![0; SECTOR].into()))
    }
}
