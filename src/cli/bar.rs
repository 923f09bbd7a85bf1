//! A medium drawn as a bar, to scale.

use crate::ops::partitions::Partition;

/// The narrowest bar that tells something.
const NARROWEST: usize = 20;

/// The bar of a medium of `size` bytes in `width` columns: each partition begins with `|` and its
/// name, as far as there is room for it, `.` is free.
pub fn draw(partitions: &[Partition], size: u64, width: usize) -> String {
    let columns = width.max(NARROWEST) - 2;
    let column = |byte: u64| {
        let column = u128::from(byte) * columns as u128 / u128::from(size.max(1));
        usize::try_from(column).unwrap_or(columns).min(columns)
    };
    let mut cells = vec!['.'; columns];
    for partition in partitions {
        let start = column(partition.start).min(columns - 1);
        let end = column(partition.start.saturating_add(partition.size)).max(start + 1);
        let name = std::iter::once('|').chain(partition.partition.chars());
        let drawn = name.chain(std::iter::repeat('='));
        for (cell, c) in cells[start..end].iter_mut().zip(drawn) {
            *cell = c;
        }
    }
    format!("[{}]\n", cells.into_iter().collect::<String>())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn partition(name: &str, start: u64, size: u64) -> Partition {
        Partition {
            partition: name.to_owned(),
            device: format!("/dev/da0{name}"),
            start,
            size,
            kind: None,
            label: None,
            mountpoint: None,
            role: None,
        }
    }

    #[test]
    fn to_scale() {
        let parts = [partition("s1a", 0, 40), partition("s2a", 40, 40), partition("s4", 90, 1)];
        assert_eq!(draw(&parts, 100, 42), "[|s1a============|s2a============....|...]\n");
        assert_eq!(draw(&parts, 100, 0), "[|s1a===|s2a===..|.]\n", "the narrowest");
        assert_eq!(draw(&[], 0, 22), "[....................]\n");
    }

    proptest! {
        #[test]
        fn any_numbers(parts in prop::collection::vec((any::<u64>(), any::<u64>()), 0..6),
                       size: u64, width in 0usize..300) {
            let parts: Vec<_> = parts.into_iter().map(|(a, b)| partition("p1", a, b)).collect();
            let bar = draw(&parts, size, width);
            prop_assert_eq!(bar.trim_end().len(), width.max(NARROWEST));
        }
    }
}
