//! What the next start does where fsck(8) has a question.

use crate::error::Result;
use crate::slot::rc_conf;
use crate::slot::view::View;
use crate::sys::Os;

/// The variable of rc.conf(5) that lets rc.d/fsck answer yes to whatever `fsck_ffs -p` leaves.
pub(super) const SWITCH: &str = "fsck_y_enable";

/// Whether it waits for somebody at the console: rc.conf(5) is there and has it so.
pub(super) fn asks<O: Os>(os: &O, view: &View) -> Result<bool> {
    let mut on = None;
    for file in rc_conf::FILES {
        let text = os.read_file(&view.root.join(file))?;
        on = text.and_then(|text| rc_conf::is_on(&text, SWITCH)).or(on);
    }
    Ok(on == Some(false))
}
