//! kenv(2): the environment that the boot loader left to the kernel.

use std::ffi::CStr;

use nix::libc;

/// `KENV_GET` of sys/kenv.h.
const GET: libc::c_int = 0;
/// `KENV_MVALLEN` of sys/kenv.h, and a NUL.
const LONGEST: usize = 129;

/// The value of a variable; `None` where there is none.
pub(super) fn value(name: &CStr) -> Option<String> {
    let mut value = [0_u8; LONGEST];
    let room = libc::c_int::try_from(value.len()).ok()?;
    // SAFETY: kenv(2): the name ends with NUL, and at most `room` bytes are written at the pointer.
    let length = unsafe { libc::kenv(GET, name.as_ptr(), value.as_mut_ptr().cast(), room) };
    let value = value.get(..usize::try_from(length).ok()?)?;
    Some(String::from_utf8_lossy(value).trim_end_matches('\0').to_owned())
}
