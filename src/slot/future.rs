//! A view of the system as it will be once a medium has a new table. Pure: everything else is
//! planned on it as on one that was observed.

use super::view::View;
use crate::device::{Class, Id, Lower, Provider};
use crate::table::drawing::{Drawing, Drawn, Family};
use crate::table::{Entry, Scheme, Table, bsd};

impl View {
    /// The same with this table on `medium`. Its old partitions lie on nothing any more, and keep
    /// their numbers.
    #[must_use]
    pub fn repartitioned(&self, medium: Id, drawing: &Drawing, family: Family) -> Self {
        let mut future = self.clone();
        let on_it = |id: Id| id != medium && self.devices.medium(id) == Some(medium);
        for id in (0..self.devices.providers.len()).filter(|id| on_it(*id)) {
            let gone = &mut future.devices.providers[id];
            *gone = Provider {
                name: String::new(),
                aliases: Vec::new(),
                class: Class::Disk,
                size: 0,
                number: None,
                lower: Vec::new(),
                ..gone.clone()
            };
            future.tables.remove(&id);
            future.superblocks.remove(&id);
            future.hidden.remove(&id);
        }
        for id in (0..self.devices.providers.len()).filter(|id| *id == medium || on_it(*id)) {
            future.faults.remove(&id);
            future.findings.remove(&id);
            future.readings.remove(&id);
        }
        let name = future.devices.get(medium).name.clone();
        let named = |part: &Drawn| family.partition(&name, drawing.scheme, part.index);
        future.add_table(medium, drawing.scheme, &drawing.parts, named);
        for slice in drawing.parts.iter().filter(|part| !part.inside.is_empty()) {
            let below = named(slice);
            let Some(id) = future.devices.find(std::path::Path::new(&below)) else { continue };
            future.add_table(id, Scheme::Bsd, &slice.inside, |part| {
                format!("{below}{}", bsd::letter(part.index))
            });
        }
        future
    }

    fn add_table(
        &mut self,
        below: Id,
        scheme: Scheme,
        parts: &[Drawn],
        name: impl Fn(&Drawn) -> String,
    ) {
        let sector = self.devices.get(below).sector;
        let mut entries = Vec::new();
        for part in parts {
            self.devices.providers.push(Provider {
                name: name(part),
                aliases: Vec::new(),
                class: Class::Partition { index: part.index },
                size: part.size,
                sector,
                number: None,
                lower: vec![Lower { id: below, offset: Some(part.start) }],
                removable: false,
            });
            entries.push(Entry {
                index: part.index,
                start: part.start,
                size: part.size,
                kind: part.kind.to_owned(),
                label: part.label.clone(),
                ..Entry::default()
            });
        }
        self.tables.insert(below, Table { scheme, sector, disk_id: None, entries });
    }
}
