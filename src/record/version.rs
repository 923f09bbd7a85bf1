//! Which of two versions is older. Pure.

use std::cmp::Ordering;

use super::packages::Package;

/// Words that come before the release that they lead to (pkg-version(8)).
const BEFORE: [&str; 4] = ["alpha", "beta", "pre", "rc"];

/// Compares two versions as pkg-version(8) does: the epoch behind a comma first, then the parts of
/// the version, numbers as numbers, then the revision behind an underscore. Junos's own
/// (`12.3R12-S15`) come out right the same way.
pub fn compare(a: &str, b: &str) -> Ordering {
    let (a, b) = (Parts::of(a), Parts::of(b));
    let number =
        |text: &str| (text.trim_start_matches('0').len(), text.trim_start_matches('0').to_owned());
    number(a.epoch)
        .cmp(&number(b.epoch))
        .then_with(|| compare_bases(a.base, b.base))
        .then_with(|| number(a.revision).cmp(&number(b.revision)))
}

struct Parts<'a> {
    epoch: &'a str,
    base: &'a str,
    revision: &'a str,
}

impl<'a> Parts<'a> {
    fn of(version: &'a str) -> Self {
        let is_number =
            |(_, n): &(&str, &str)| !n.is_empty() && n.bytes().all(|b| b.is_ascii_digit());
        let (rest, epoch) = version.rsplit_once(',').filter(is_number).unwrap_or((version, ""));
        let (base, revision) = rest.rsplit_once('_').filter(is_number).unwrap_or((rest, ""));
        Self { epoch, base, revision }
    }
}

fn compare_bases(a: &str, b: &str) -> Ordering {
    let (mut a, mut b) = (tokens(a), tokens(b));
    loop {
        match (a.next(), b.next()) {
            (None, None) => return Ordering::Equal,
            (Some(token), None) => return behind(&token),
            (None, Some(token)) => return behind(&token).reverse(),
            (Some(x), Some(y)) if x == y => {}
            (Some(x), Some(y)) => return x.cmp(&y),
        }
    }
}

/// What a version is that goes on with `token` where the other one ends.
fn behind(token: &Token<'_>) -> Ordering {
    match token {
        Token::Before(_) => Ordering::Less,
        _ => Ordering::Greater,
    }
}

/// A run of letters or digits; what lies between them does not count. In the order in which they
/// come where two versions differ.
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Token<'a> {
    Before(&'a str),
    Word(&'a str),
    /// The number of digits first, so that it need not fit an integer.
    Number(usize, &'a str),
}

fn tokens(version: &str) -> impl Iterator<Item = Token<'_>> {
    let mut rest = version;
    std::iter::from_fn(move || {
        rest = rest.trim_start_matches(|c: char| !c.is_ascii_alphanumeric());
        let first = rest.chars().next()?;
        let same = |c: char| {
            if first.is_ascii_digit() { c.is_ascii_digit() } else { c.is_ascii_alphabetic() }
        };
        let end = rest.find(|c| !same(c)).unwrap_or(rest.len());
        let (token, tail) = rest.split_at(end);
        rest = tail;
        if first.is_ascii_digit() {
            let digits = token.trim_start_matches('0');
            return Some(Token::Number(digits.len(), digits));
        }
        let before = BEFORE.iter().any(|word| token.eq_ignore_ascii_case(word));
        Some(if before { Token::Before(token) } else { Token::Word(token) })
    })
}

/// A package that is older in `a` than in `b`, where none is newer: its name and both versions.
pub fn older<'a>(a: &'a [Package], b: &'a [Package]) -> Option<(&'a Package, &'a Package)> {
    let both = || a.iter().filter_map(|x| Some((x, b.iter().find(|y| y.name == x.name)?)));
    let order = |(x, y): &(&Package, &Package)| compare(&x.version, &y.version);
    let newer = both().any(|pair| order(&pair) == Ordering::Greater);
    both().find(|pair| order(pair) == Ordering::Less).filter(|_| !newer)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn in_order() {
        for row in [
            &["1.0", "1.0.1", "1.1", "1.2", "1.10", "2.0", "10.0", "1.0,1", "0.1,2"][..],
            &["12.3R1", "12.3R3", "12.3R12", "12.3R12-S1", "12.3R12-S15", "12.3X48", "15.1R1"],
            &["1.0alpha2", "1.0beta1", "1.0rc1", "1.0rc2", "1.0", "1.0_1", "1.0_2", "1.0_10"],
            &["13.2", "13.2-p1", "13.2-p12", "14.0"],
            &["", "1"],
            &["99999999999999999999999", "100000000000000000000000"],
        ] {
            for (n, a) in row.iter().enumerate() {
                for (m, b) in row.iter().enumerate() {
                    assert_eq!(compare(a, b), n.cmp(&m), "{a} {b}");
                }
            }
        }
        assert_eq!(compare("1.01", "1.1"), Ordering::Equal);
        assert_eq!(compare("1-0", "1.0"), Ordering::Equal);
    }

    #[test]
    fn one_side_is_older_only_as_a_whole() {
        let list = |versions: &[(&str, &str)]| -> Vec<Package> {
            let package = |(name, version): &(&str, &str)| Package {
                name: (*name).to_owned(),
                version: (*version).to_owned(),
            };
            versions.iter().map(package).collect()
        };
        let running = list(&[("a", "1.0"), ("b", "2.0"), ("only-here", "9")]);
        for (other, is_older) in [
            (list(&[("a", "1.1"), ("b", "2.0")]), true),
            (list(&[("a", "1.0"), ("b", "2.0"), ("new", "1")]), false),
            (list(&[("a", "1.1"), ("b", "1.9")]), false),
            (list(&[("a", "0.9")]), false),
            (list(&[]), false),
        ] {
            assert_eq!(older(&running, &other).is_some(), is_older, "{other:?}");
        }
    }

    proptest! {
        #[test]
        fn it_is_an_order(a in "[0-9a-c._,-]{0,8}", b in "[0-9a-c._,-]{0,8}", c in "[0-9a-c._,-]{0,8}") {
            prop_assert_eq!(compare(&a, &b), compare(&b, &a).reverse());
            if compare(&a, &b) != Ordering::Greater && compare(&b, &c) != Ordering::Greater {
                prop_assert_ne!(compare(&a, &c), Ordering::Greater);
            }
        }
    }
}
