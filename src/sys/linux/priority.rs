//! Whose I/O comes first.

use std::io;

use nix::errno::Errno;
use nix::libc;

/// `IOPRIO_WHO_PROCESS` and `IOPRIO_CLASS_IDLE` with its shift (linux/ioprio.h).
const WHO_PROCESS: libc::c_long = 1;
const CLASS_IDLE: libc::c_long = 3 << 13;

/// The media serve this thread, and what it starts, when nobody else wants anything of them. It is
/// advice: not every scheduler takes it.
pub(in crate::sys) fn idle_io() -> io::Result<()> {
    // SAFETY: ioprio_set(2): three numbers, no pointers; 0 is the calling thread.
    let result = unsafe { libc::syscall(libc::SYS_ioprio_set, WHO_PROCESS, 0_i64, CLASS_IDLE) };
    Errno::result(result)?;
    Ok(())
}
