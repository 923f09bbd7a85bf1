//! Sizes as users write them.

use std::fmt;
use std::str::FromStr;

use crate::table::drawing::MIB;

/// What there is to say of more bytes than 64 bits count.
pub const TOO_LARGE: &str = "no medium is so large";

/// A size on the command line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Size {
    /// So many bytes.
    Bytes(u64),
    /// So many hundredths of the medium.
    Percent(u8),
}

impl Size {
    /// Bytes on a medium of `medium` bytes, in whole MiB: rounded up where it was said in units, so
    /// that what was asked for is there, and down where it is a share.
    ///
    /// Returns `None` where it is more than can be counted.
    pub fn on(self, medium: u64) -> Option<u64> {
        match self {
            Self::Bytes(bytes) => bytes.checked_next_multiple_of(MIB),
            Self::Percent(share) => {
                let bytes = u128::from(medium) * u128::from(share) / 100;
                u64::try_from(bytes).ok().map(|bytes| bytes - bytes % MIB)
            }
        }
    }
}

/// As it was written, but for its unit: `512` for all that is as much.
impl fmt::Display for Size {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Bytes(bytes) => write!(f, "{}", bytes.div_ceil(MIB)),
            Self::Percent(share) => write!(f, "{share}%"),
        }
    }
}

/// `512` is MB, as in Junos; a unit (`k`, `m`, `g`, `t`, powers of 1024, either case) or `%` says
/// otherwise.
impl FromStr for Size {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = || "a number of MB, or with k, m, g, t or % behind it".to_owned();
        let large = || TOO_LARGE.to_owned();
        let digits = text.bytes().take_while(u8::is_ascii_digit).count();
        let (number, unit) = text.split_at(digits);
        if number.is_empty() {
            return Err(wrong());
        }
        // Digits, and nothing else: too many of them.
        let number: u64 = number.parse().map_err(|_| large())?;
        let shift = match unit {
            "%" => {
                let share = u8::try_from(number).ok().filter(|share| *share <= 100);
                return share.map(Self::Percent).ok_or_else(|| "at most 100%".to_owned());
            }
            "k" | "K" => 10,
            "" | "m" | "M" => 20,
            "g" | "G" => 30,
            "t" | "T" => 40,
            _ => return Err(wrong()),
        };
        let bytes = number.checked_mul(1 << shift);
        bytes.map(Self::Bytes).ok_or_else(large)
    }
}

/// Bytes as Junos and df(1) -h print them: `184M`, `2.7G`.
pub fn human(bytes: u64) -> String {
    let (mut unit, mut units) = (1_u64, "KMGTPE".chars());
    let mut letter = 'B';
    // What would be rounded to 1024 of a unit is one of the next.
    while bytes >= unit.saturating_mul(1024) - unit / 2 && letter != 'E' {
        (unit, letter) = (unit.saturating_mul(1024), units.next().unwrap_or('E'));
    }
    let tenths = (u128::from(bytes) * 10 + u128::from(unit / 2)) / u128::from(unit);
    if letter != 'B' && tenths < 100 {
        format!("{}.{}{letter}", tenths / 10, tenths % 10)
    } else {
        format!("{}{letter}", (u128::from(bytes) + u128::from(unit / 2)) / u128::from(unit))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn units() {
        for (text, bytes) in [
            ("512", 512 * MIB),
            ("512m", 512 * MIB),
            ("2g", 2048 * MIB),
            ("1T", 1 << 40),
            ("2048K", 2 * MIB),
            ("0", 0),
        ] {
            assert_eq!(text.parse(), Ok(Size::Bytes(bytes)), "{text}");
        }
        assert_eq!("30%".parse(), Ok(Size::Percent(30)));
        for text in ["99999999999999999999999", "99999999999t", "99999999999999999999999k"] {
            assert_eq!(text.parse::<Size>(), Err(TOO_LARGE.to_owned()), "{text}");
        }
        for text in ["", "m", "-1", "1.5g", "10 m", "101%", "1e3", "99999999999t", "5mb", "300%"] {
            assert!(text.parse::<Size>().is_err(), "{text}");
        }
    }

    #[test]
    fn whole_megabytes() {
        assert_eq!(Size::Bytes(1).on(0), Some(MIB));
        assert_eq!(Size::Bytes(u64::MAX).on(0), None);
        assert_eq!(Size::Percent(10).on(105 * MIB), Some(10 * MIB));
        assert_eq!(Size::Percent(100).on(u64::MAX), Some(u64::MAX - (MIB - 1)));
    }

    #[test]
    fn sizes_are_those_of_df() {
        let mb = 1 << 20;
        for (bytes, text) in [
            (0, "0B"),
            (512, "512B"),
            (1023, "1023B"),
            (1024, "1.0K"),
            (184 * mb, "184M"),
            (62 * mb + mb / 4, "62M"),
            (1023 * mb + mb / 2, "1.0G"),
            (2765 * mb, "2.7G"),
            (10 << 30, "10G"),
            ((10 << 30) - mb, "10G"),
            (u64::MAX, "16E"),
        ] {
            assert_eq!(human(bytes), text, "{bytes}");
        }
    }
}
