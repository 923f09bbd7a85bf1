//! Recording a copy: the partition tables and the record that it gets.

use super::copied::{Copied, Made};
use super::run::Run;
use crate::copy::progress::Phase;
use crate::error::{During, Error, Kind, Result};
use crate::ops::mounted::{Mounted, write_and_read};
use crate::ops::record;
use crate::ops::table::{self, save};
use crate::plan::Tables;
use crate::record::{self as slot_record, Record};
use crate::slot::Part;
use crate::sys::Os;

const KEEPING: &str = "keeping the partition tables";

impl<O: Os> Run<'_, '_, O> {
    /// Looks at the media once more, now with the new file systems on them, and writes the file to
    /// `/config`; to the copy it goes with the record. What is mounted cannot be read back past the
    /// system's cache: of that file, its own checksums will tell.
    pub(super) fn tables(&mut self, tables: &Tables) -> Result<()> {
        self.keep_tables(tables).during(KEEPING)
    }

    fn keep_tables(&mut self, tables: &Tables) -> Result<()> {
        let (saved, media) = save::collect(self.os, self.view, self.layout)?;
        for (medium, note) in media.iter().flat_map(|m| m.notes.iter().map(move |n| (m, n))) {
            log::warn!("{}: {note}", medium.medium);
        }
        let content = saved.encode();
        self.session.monitor.begin(Phase::default());
        if let Some(point) = &tables.config {
            table::put(&self.os.open_dir(point)?, &content)
                .during(format!("writing to {}", point.display()))?;
        }
        self.tables = tables.copy.is_some().then_some(content);
        Ok(())
    }

    pub(super) fn record(&mut self, part: Part) -> Result<()> {
        self.write_record(part).during(format!("recording {}", part.alternate()))
    }

    fn write_record(&mut self, part: Part) -> Result<()> {
        let (_, pair) = self.pair(part)?;
        let Some(Copied {
            made: Made { summary, sha256, .. },
            software,
            created,
            verified: Some(verified),
            way,
            ..
        }) = self.parts.get(&part)
        else {
            return Err(Error::new(Kind::Failed, "", "it was not verified"));
        };
        let record = Record {
            schema: slot_record::SCHEMA,
            tool: slot_record::TOOL.to_owned(),
            created: *created,
            verified: *verified,
            filesystem: part.point().to_owned(),
            source: self.view.node(pair.source),
            target: self.view.node(pair.target),
            method: way.method().to_owned(),
            product: software.product.clone(),
            packages: software.packages.clone(),
            factory: self.layout.purpose.factory,
            objects: summary.objects,
            files: summary.files,
            bytes: summary.bytes,
            vanished: summary.vanished,
            manifest_sha256: sha256.clone(),
        };
        let (device, point) = (self.device(part)?, self.point(part));
        self.session.monitor.begin(Phase::default());
        let tables = self.tables.as_ref().filter(|_| part == Part::Root);
        let mount = |access| Mounted::new(self.os, &device, &point, &pair.fs, access);
        let write = |root: &O::Dir| {
            if let Some(content) = tables {
                table::put(root, content).during(KEEPING)?;
            }
            record::write(root, &record)
        };
        let read = |root: &O::Dir| {
            if let Some(content) = tables {
                table::check(root, content).during(KEEPING)?;
            }
            Ok(record::read(root))
        };
        let found = write_and_read(self.os, &device, mount, write, read)?;
        if found.record.as_ref() == Some(&record) {
            return Ok(());
        }
        let why = found.reason.unwrap_or_else(|| "it is not what was written".to_owned());
        Err(Error::new(Kind::Differs, "reading back the record", why))
    }
}
