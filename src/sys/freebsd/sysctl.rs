//! sysctl(3): the kernel's variables, and fields of the C structures that they hold.
//!
//! Fields are read by offset out of bytes, so that a record that is shorter than expected (the
//! kernel cuts paths off) or an older kernel's is a `None` and never a wild read.

use std::ffi::CStr;
use std::io;
use std::ptr;

use nix::errno::Errno;
use nix::libc::{self, c_int};

use crate::error::{Context, Result};

/// `CTL_MAXNAME` of sys/sysctl.h: numbers in a variable's name.
const NAME_MAX: usize = 24;

/// How often a growing value is asked for again.
const TRIES: usize = 16;

/// A variable's numbers.
pub(super) fn numbers(name: &CStr) -> io::Result<Vec<c_int>> {
    let mut numbers = vec![0; NAME_MAX];
    let mut length = numbers.len();
    // SAFETY: sysctlnametomib(3): the name ends with NUL, `length` counts the room behind the pointer.
    let result =
        unsafe { libc::sysctlnametomib(name.as_ptr(), numbers.as_mut_ptr(), &raw mut length) };
    Errno::result(result)?;
    numbers.truncate(length);
    Ok(numbers)
}

/// Asks for the value, or only for its length without a buffer. Returns the length.
fn ask(numbers: &[c_int], buffer: Option<&mut [u8]>) -> nix::Result<usize> {
    let count = libc::c_uint::try_from(numbers.len()).map_err(|_| Errno::EINVAL)?;
    let (pointer, mut length) = match buffer {
        Some(buffer) => (buffer.as_mut_ptr().cast(), buffer.len()),
        None => (ptr::null_mut(), 0),
    };
    // SAFETY: sysctl(3): `count` numbers, and at most `length` bytes are written behind `pointer`
    // (none behind a null pointer); nothing is set, since the new value is null.
    let result =
        unsafe { libc::sysctl(numbers.as_ptr(), count, pointer, &raw mut length, ptr::null(), 0) };
    Errno::result(result)?;
    Ok(length)
}

/// The value of the variable with these numbers.
pub(super) fn value_of(numbers: &[c_int]) -> io::Result<Vec<u8>> {
    for _ in 0..TRIES {
        let length = ask(numbers, None)?;
        // Some more, since disks and processes come between the question and the answer.
        let mut value = vec![0; length + length / 8 + 512];
        match ask(numbers, Some(&mut value)) {
            Ok(length) => {
                value.truncate(length);
                return Ok(value);
            }
            Err(Errno::ENOMEM) => {}
            Err(e) => return Err(e.into()),
        }
    }
    Err(Errno::ENOMEM.into())
}

/// The value of a variable.
pub(super) fn value(name: &CStr) -> Result<Vec<u8>> {
    numbers(name)
        .and_then(|numbers| value_of(&numbers))
        .doing(format!("reading {}", name.to_string_lossy()))
}

/// A variable that is one `int`.
pub(super) fn int(name: &CStr) -> Result<c_int> {
    let value = value(name)?;
    int_at(&value, 0)
        .ok_or_else(|| io::Error::from(io::ErrorKind::UnexpectedEof))
        .doing(format!("reading {}", name.to_string_lossy()))
}

/// A variable that is a string.
pub(super) fn string(name: &CStr) -> Result<String> {
    let value = value(name)?;
    Ok(String::from_utf8_lossy(text_at(&value, 0, value.len())).into_owned())
}

/// The `int` at this offset.
pub(super) fn int_at(bytes: &[u8], at: usize) -> Option<c_int> {
    Some(c_int::from_ne_bytes(bytes.get(at..)?.first_chunk().copied()?))
}

/// The 64-bit number at this offset.
pub(super) fn long_at(bytes: &[u8], at: usize) -> Option<u64> {
    Some(u64::from_ne_bytes(bytes.get(at..)?.first_chunk().copied()?))
}

/// The text at this offset, up to a NUL, `room` or the end.
pub(super) fn text_at(bytes: &[u8], at: usize, room: usize) -> &[u8] {
    let text = bytes.get(at..).unwrap_or_default();
    let text = &text[..room.min(text.len())];
    &text[..text.iter().position(|&b| b == 0).unwrap_or(text.len())]
}

/// Records that begin with their own size as an `int` (sys/user.h); a size of 0 ends them.
pub(super) fn records(mut bytes: &[u8]) -> impl Iterator<Item = &[u8]> {
    std::iter::from_fn(move || {
        let size = usize::try_from(int_at(bytes, 0)?).ok().filter(|&size| size >= 4)?;
        let (record, rest) = bytes.split_at_checked(size)?;
        bytes = rest;
        Some(record)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn variables_are_read() {
        assert_eq!(string(c"kern.ostype").unwrap(), "FreeBSD");
        assert!(int(c"kern.osreldate").unwrap() > 1_200_000);
        assert!(value(c"kern.no.such").is_err());
    }

    #[test]
    fn records_end_where_they_make_no_sense() {
        let record = |size: i32, rest: &[u8]| [&size.to_ne_bytes(), rest].concat();
        let bytes = [record(5, b"a"), record(6, b"bc"), record(0, b"")].concat();
        assert_eq!(records(&bytes).map(|r| &r[4..]).collect::<Vec<_>>(), [&b"a"[..], b"bc"]);
        assert_eq!(records(&record(9, b"a")).count(), 0);
        assert_eq!(records(&record(-1, b"a")).count(), 0);
        assert_eq!((int_at(b"abc", 0), long_at(&[0; 9], 2)), (None, None));
        assert_eq!(text_at(b"xab\0c", 1, 9), b"ab");
    }
}
