#!/usr/bin/env bash
# Measures dualroot against the usual tools on the same work: loop devices in memory, ext4, unmount
# included. The runs alternate, so that the machine's moods hit everybody; figures are medians,
# compared as ratios. README.md has the results of one run; --readme writes them there.
#
#   scripts/bench.sh [--runs N] [--readme] [SUITE...]
#
#   tree     a tree of about 1 GiB and 20,000 files, copied to a new file system
#   refresh  the same over an older copy, of which nothing, 1 % and 30 % of the files changed
#   raw      the slice block by block, against dd and partclone
#   growth   10,000 and 1,000,000 small files: time for each, peak memory
#   start    how long show takes
#
# Without a suite all but growth, which takes some minutes and 12 GB.
set -euo pipefail
here=$(cd "$(dirname "$0")/.." && pwd)
. "$here/scripts/common.sh"
need_root
[ "$system" = Linux ] || die "this benchmark uses loop devices and ext4: Linux only"
install_missing cc=gcc sfdisk=fdisk rsync=rsync python3=python3 partx=util-linux time=time partclone.ext4=partclone
install_rust
(cd "$here" && cargo build --release --locked --quiet)
# A peer that no distribution has as a package; without it the others are measured.
if ! command -v xcp >/dev/null && [ ! -x "$HOME/.cargo/bin/xcp" ]; then
    cargo install --quiet --locked xcp || say "xcp could not be installed: measuring without it"
fi
PATH=$PATH:$HOME/.cargo/bin
exec "$here/scripts/bench.py" --dualroot "${CARGO_TARGET_DIR:-$here/target}/release/dualroot" \
    --into "$here/README.md" "$@"
