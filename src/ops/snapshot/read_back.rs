//! Reading a copy again from the medium, before it gets its record.

use std::ffi::OsStr;
use std::io::BufReader;
use std::os::unix::ffi::OsStrExt;
use std::time::Instant;

use jiff::Timestamp;

use super::copied::Onto;
use super::run::Run;
use crate::copy::pool;
use crate::copy::progress::Phase;
use crate::copy::verify::{Difference, Report as VerifyReport, verify};
use crate::error::{Context, During, Error, Kind, Result};
use crate::ops::factory::{self, Changes};
use crate::ops::mounted::Mounted;
use crate::ops::record::{self, Hashing};
use crate::plan::Way;
use crate::plan::consistency::Consistency;
use crate::record::{self as slot_record, MANIFEST};
use crate::slot::Part;
use crate::sys::tree::Dir;
use crate::sys::{Access, Os};

/// What was read.
struct ReadBack {
    report: VerifyReport,
    /// Of the manifest.
    sha256: String,
    changes: Option<Changes>,
}

impl<O: Os> Run<'_, '_, O> {
    /// Reads a copy again. Files that were there before, and are found to be others than they were,
    /// are made anew once; what this run has written must be there.
    pub(super) fn verify(&mut self, part: Part, planned: &Consistency) -> Result<()> {
        let begun = Instant::now();
        let context = format!("verifying {}", part.alternate());
        let mut read = self.read_back(part).during(&context)?;
        if self.is_rot(part, &read.report) {
            self.mend(part, planned, &read.report)?;
            read = self.read_back(part).during(&context)?;
        }
        let ReadBack { report, sha256, changes } = read;
        let Some(copied) = self.parts.get_mut(&part) else {
            return Err(Error::new(Kind::Failed, context, "it was not copied"));
        };
        if let Some(first) = report.differences.first() {
            for difference in report.differences.iter().take(20) {
                log::error!("{}: {}", difference.path.display(), difference.what);
            }
            let mut error = Error::new(
                Kind::Differs,
                "reading back",
                match report.different {
                    1 => first.what.clone(),
                    n => format!("{} ({n} differences in all)", first.what),
                },
            )
            .path(&first.path)
            .during(context);
            error.offset = first.offset;
            return Err(error.hint("the medium does not keep what is written to it"));
        }
        if sha256 != copied.made.sha256 {
            return Err(Error::new(Kind::Differs, "reading back", "content")
                .path(MANIFEST)
                .during(context));
        }
        copied.changes = changes;
        copied.verified = Some(Timestamp::now());
        copied.verify_seconds = begun.elapsed().as_secs_f64();
        Ok(())
    }

    /// Whether there are differences, and all are of files that this run has not touched.
    fn is_rot(&self, part: Part, report: &VerifyReport) -> bool {
        let revoked = self.parts.get(&part).and_then(|copied| copied.made.revoked);
        let old = |d: &Difference| d.touched.is_some_and(|touched| Some(touched) < revoked);
        let all = report.different == report.differences.len() as u64;
        report.different > 0 && all && report.differences.iter().all(old)
    }

    /// Makes anew what is not as the manifest has it. The source is looked at again as a whole: its
    /// snapshot, where there was one, is gone.
    fn mend(&mut self, part: Part, planned: &Consistency, report: &VerifyReport) -> Result<()> {
        for difference in report.differences.iter().take(20) {
            let (path, what) = (difference.path.display(), &difference.what);
            log::warn!("{path}: the copy's {what} had changed: it is made anew");
        }
        let path = |d: &Difference| d.path.as_os_str().as_bytes().to_vec();
        let suspect = report.differences.iter().map(path).collect();
        self.copy(part, planned, &Onto::Older(None, suspect))
    }

    fn read_back(&self, part: Part) -> Result<ReadBack> {
        let Some(copied) = self.parts.get(&part) else {
            return Err(Error::new(Kind::Failed, "", "it was not copied"));
        };
        let (number, pair) = self.pair(part)?;
        let usage = self.sources[number].usage;
        self.session.monitor.begin(Phase {
            name: format!("verifying {}", part.alternate()),
            bytes: usage.used_bytes,
            objects: usage.used_inodes,
        });
        let device = self.device(part)?;
        let mounted = Mounted::new(self.os, &device, &self.point(part), &pair.fs, Access::Read)?;
        let root = mounted.open()?;
        let own =
            root.open_dir(OsStr::new(slot_record::DIR)).doing_to("opening", slot_record::DIR)?;
        let manifest = record::manifest(&own)?;
        let changes = if self.layout.purpose.factory && part == Part::Root {
            let manifest = BufReader::with_capacity(64 << 10, record::manifest(&own)?);
            let dir = &self.sources[number].dir;
            Some(factory::changes(dir, manifest, &copied.made.rewritten)?)
        } else {
            None
        };
        drop(own);
        let mut manifest = BufReader::with_capacity(64 << 10, Hashing::new(manifest));
        let reference = Some(&self.sources[number].dir);
        // The rest is as it was when all was read.
        let only = matches!(copied.way, Way::Refresh(Some(_))).then_some(&copied.made.touched);
        let monitor = &self.session.monitor;
        let report = verify(root, &mut manifest, reference, only, pool::readers(), monitor)?;
        let (file, sha256) = manifest.into_inner().finish();
        drop(file);
        mounted.unmount()?;
        Ok(ReadBack { report, sha256, changes })
    }
}
