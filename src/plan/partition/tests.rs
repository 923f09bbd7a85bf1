//! Sizes of every combination: nothing overlaps, everything fits, what is asked is met or refused.

use proptest::option;
use proptest::prelude::*;

use super::*;
use crate::error::Kind;

fn wish(scheme: Scheme, family: Family, megabytes: u64) -> Wish {
    Wish {
        scheme,
        family,
        medium: megabytes * MIB,
        sector: 512,
        sizes: Sizes::default(),
        config: true,
        var: true,
        efi: None,
        prefix: String::new(),
    }
}

fn sizes(drawing: &Drawing) -> Vec<(Role, u64)> {
    drawing.roles().map(|(_, p)| (p.role.unwrap(), p.size / MIB)).collect()
}

#[test]
fn the_defaults_are_the_manuals() {
    let drawing = wish(Scheme::Mbr, Family::FreeBsd, 1000).draw().unwrap();
    // 10 % config, a third swap, a third of the other 567 for each root, the rest for var: 1000 less
    // the first MiB and one for each of the four slices.
    assert_eq!(
        sizes(&drawing),
        [
            (Role::Root, 189),
            (Role::AltRoot, 189),
            (Role::Swap, 333),
            (Role::Var, 84),
            (Role::Config, 100),
            (Role::AltConfig, 100),
        ]
    );
    let slices: Vec<_> =
        drawing.parts.iter().map(|p| (p.index, p.start / MIB, p.size / MIB)).collect();
    assert_eq!(slices, [(1, 1, 190), (2, 191, 190), (3, 381, 418), (4, 799, 201)]);
    // No swap up to 128 MB.
    let small = wish(Scheme::Gpt, Family::FreeBsd, 128).draw().unwrap();
    assert!(small.of(Role::Swap).is_none());
    assert_eq!(small.of(Role::Root).unwrap().1.size, 38 * MIB);
    assert_eq!(small.boots, 2);
    assert!(wish(Scheme::Gpt, Family::FreeBsd, 129).draw().unwrap().of(Role::Swap).is_some());
}

#[test]
fn what_makes_no_sense_is_refused() {
    let base = wish(Scheme::Gpt, Family::FreeBsd, 1000);
    let with = |f: &dyn Fn(&mut Sizes)| {
        let mut wish = base.clone();
        f(&mut wish.sizes);
        wish.draw()
    };
    let mb = |n: u64| Some(Size::Bytes(n * MIB));
    for (result, words) in [
        (with(&|s| s.root = mb(0)), "--root-size 0"),
        (with(&|s| s.root = Some(Size::Percent(0))), "--root-size 0%: less than 1 MB"),
        (with(&|s| s.root = mb(400)), "2 roots of 400 MB"),
        (with(&|s| s.swap = mb(990)), "swap 990 MB"),
        (with(&|s| s.config = mb(0)), "--config-size 0"),
        (with(&|s| s.data = Some(Size::Percent(100))), "data 1000 MB"),
        (with(&|s| s.data = Some(Size::Bytes(u64::MAX))), "larger than any medium"),
        (with(&|s| s.swap = Some(Size::Bytes(u64::MAX - MIB))), "it does not fit"),
        (wish(Scheme::Mbr, Family::Linux, 1000).draw(), "more than the four of an MBR"),
        (wish(Scheme::Mbr, Family::FreeBsd, 3 << 20).draw(), "too large for an MBR"),
        (wish(Scheme::Gpt, Family::FreeBsd, 1).draw(), "it does not fit"),
        (wish(Scheme::Gpt, Family::FreeBsd, 0).draw(), "it does not fit"),
    ] {
        let error = result.unwrap_err();
        assert_eq!(error.kind, Kind::Refused);
        assert!(error.to_string().contains(words), "{error}");
    }
}

/// As many as the last one's place says, whatever is left free before it; and less swap is a way out
/// only where that makes a place free.
#[test]
fn more_than_an_mbr_holds_is_counted_by_places() {
    let efi = Some(MIB);
    let without_config = |family| Wish { config: false, ..wish(Scheme::Mbr, family, 1000) };
    let mut cases = vec![
        (Wish { efi, ..wish(Scheme::Mbr, Family::FreeBsd, 1000) }, "5", false),
        (wish(Scheme::Mbr, Family::Linux, 1000), "6", false),
        (Wish { var: false, ..wish(Scheme::Mbr, Family::Linux, 1000) }, "5", true),
        (Wish { efi, ..without_config(Family::Linux) }, "5", true),
    ];
    for n in 0..cases.len() {
        // All of them once more without any swap.
        let mut wish = cases[n].0.clone();
        wish.sizes.swap = Some(Size::Bytes(0));
        let left = if wish.family == Family::FreeBsd { "5" } else { "" };
        cases.push((wish, if n == 1 { "5" } else { left }, false));
    }
    for (wish, count, hint) in cases {
        let Err(error) = wish.draw() else {
            assert_eq!(count, "", "{wish:?}");
            continue;
        };
        let words = format!("{count} partitions are more than the four of an MBR");
        assert_eq!(error.to_string(), words, "{wish:?}");
        let expected = if hint { "--scheme gpt; or --swap-size 0" } else { "--scheme gpt" };
        assert_eq!(error.hint.as_deref(), Some(expected), "{wish:?}");
    }
}

fn any_size() -> impl Strategy<Value = Size> {
    prop_oneof![
        (0_u64..5000).prop_map(|mb| Size::Bytes(mb * MIB)),
        (0_u64..u64::MAX).prop_map(Size::Bytes),
        (0_u8..=100).prop_map(Size::Percent),
    ]
}

prop_compose! {
    fn any_wish()(
        gpt in any::<bool>(), freebsd in any::<bool>(),
        medium in prop_oneof![0..(16_u64 << 30), 0..(4_u64 << 40), Just(64 * MIB)],
        sector in prop_oneof![Just(512_u32), Just(4096)],
        root in option::weighted(0.3, any_size()), config_size in option::weighted(0.3, any_size()),
        data in option::weighted(0.3, any_size()), swap in option::weighted(0.3, any_size()),
        config in any::<bool>(), var in any::<bool>(),
        efi in option::weighted(0.2, 1_u64..(300 * MIB)),
    ) -> Wish {
        Wish {
            scheme: if gpt { Scheme::Gpt } else { Scheme::Mbr },
            family: if freebsd { Family::FreeBsd } else { Family::Linux },
            medium: medium / u64::from(sector) * u64::from(sector),
            sector,
            sizes: Sizes { root, config: config_size, data, swap },
            config, var, efi,
            prefix: "x-".to_owned(),
        }
    }
}

/// Apart, in order, aligned, within `space`.
fn check(parts: &[Drawn], space: u64) {
    let mut end = MIB;
    for part in parts {
        assert!(part.size > 0 && part.start >= end, "{parts:?}");
        assert_eq!(part.start % MIB, 0, "{parts:?}");
        assert!(part.role == Some(Role::Boot) || part.size % MIB == 0, "{parts:?}");
        end = part.start + part.size;
        assert!(end <= space, "{end} of {space}: {parts:?}");
        check(&part.inside, part.size);
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(4000))]

    #[test]
    fn every_drawing_fits(wish in any_wish()) {
        match wish.draw() {
            Err(error) => prop_assert_eq!(error.kind, Kind::Refused),
            Ok(drawing) => {
                // A GPT's copy: 32 sectors of entries at 512 bytes, and its header.
                let tail = if wish.scheme == Scheme::Gpt { 33 * u64::from(wish.sector).max(512) } else { 0 };
                check(&drawing.parts, wish.medium - tail);
                let size = |role| drawing.of(role).map_or(0, |(_, p)| p.size);
                prop_assert!(size(Role::Root) > 0);
                prop_assert_eq!(size(Role::Root), size(Role::AltRoot));
                prop_assert_eq!(size(Role::Config), size(Role::AltConfig));
                for (asked, role) in [
                    (wish.sizes.root, Role::Root), (wish.sizes.config, Role::Config),
                    (wish.sizes.data, Role::Data), (wish.sizes.swap, Role::Swap),
                ] {
                    if let Some(asked) = asked {
                        prop_assert_eq!(Some(size(role)), asked.on(wish.medium), "{:?}", role);
                    }
                }
                prop_assert!(!wish.config || size(Role::Config) > 0);
                prop_assert_eq!(wish.var, size(Role::Var) > 0);
                prop_assert!(size(Role::Efi) >= wish.efi.unwrap_or(0));
                let indexes: Vec<u32> = drawing.parts.iter().map(|p| p.index).collect();
                prop_assert!(indexes.windows(2).all(|w| w[0] < w[1]));
                prop_assert!(wish.scheme == Scheme::Gpt || indexes.iter().all(|i| *i <= 4));
                let boots = drawing.parts.iter().find(|p| p.index == drawing.boots).unwrap();
                prop_assert!(boots.role == Some(Role::Root) || boots.inside[0].role == Some(Role::Root));
            }
        }
    }

    /// What a medium refuses, a smaller one refuses, too.
    #[test]
    fn more_room_is_never_worse(wish in any_wish(), more in 0_u64..(1 << 30)) {
        let fixed = |s: Option<Size>| s.filter(|s| matches!(s, Size::Bytes(_)));
        let mut wish = wish;
        wish.sizes = Sizes {
            root: fixed(wish.sizes.root).or(Some(Size::Bytes(100 * MIB))),
            config: fixed(wish.sizes.config).or(Some(Size::Bytes(10 * MIB))),
            data: fixed(wish.sizes.data),
            swap: fixed(wish.sizes.swap).or(Some(Size::Bytes(0))),
        };
        let large = Wish { medium: wish.medium + more / 4096 * 4096, ..wish.clone() };
        if wish.draw().is_ok() && large.medium <= 1 << 40 {
            prop_assert!(large.draw().is_ok());
        }
    }
}
