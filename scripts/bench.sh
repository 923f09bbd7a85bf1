#!/usr/bin/env bash
# Measures dualroot against the usual tools on the same work: loop devices in memory, ext4, unmount
# included. The runs alternate, so that the machine's moods hit everybody; figures are medians,
# compared as ratios. README.md has the results of one run; --readme writes those of
# the suites that were measured there.
#
#   scripts/bench.sh [--runs N] [--readme] [SUITE...]      5 runs without --runs
#
#   tree     a tree of about 1 GiB and 20,000 files, copied to a new file system
#   refresh  the same over an older copy, of which nothing, 1 % and 30 % of the files changed
#   verify   large files read and compared, against dd
#   raw      the slice block by block, against dd and partclone
#   ufs      UFS file systems of which a tenth, half and nearly all is in use, by the core of the block copy
#   growth   10,000 and 1,000,000 small files: time for each, peak memory
#   start    how long show takes
#
# Without a suite all but growth, which takes some minutes and 12 GB.
set -euo pipefail
here=$(cd "$(dirname "$0")/.." && pwd)
. "$here/scripts/common.sh"
need_root
[ "$system" = Linux ] || die "this benchmark uses loop devices and ext4: Linux only"
install_missing cc=gcc sfdisk=fdisk rsync=rsync python3=python3 partx=util-linux time=time partclone.ext4=partclone \
    makefs=makefs bmaptool=bmap-tools
install_rust
(cd "$here" && cargo build --release --locked --quiet)
block=$(cd "$here" && cargo bench --bench block --no-run --locked --message-format=json --quiet |
    sed -n 's/.*"executable":"\([^"]*block-[^"]*\)".*/\1/p' | tail -n 1)
# A peer that no distribution has as a package; without it the others are measured.
if ! command -v xcp >/dev/null && [ ! -x "$HOME/.cargo/bin/xcp" ]; then
    cargo install --quiet --locked xcp || say "xcp could not be installed: measuring without it"
fi
PATH=$PATH:$HOME/.cargo/bin
exec "$here/scripts/bench.py" --dualroot "${CARGO_TARGET_DIR:-$here/target}/release/dualroot" \
    --block "$block" --into "$here/README.md" "$@"
