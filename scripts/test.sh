#!/usr/bin/env bash
# All tests, with all that they need. Needs root for the tests on loop devices; without it they are
# skipped, which is said and counted. As root nothing may be skipped.
set -euo pipefail
here=$(cd "$(dirname "$0")/.." && pwd)
. "$here/scripts/common.sh"
cd "$here"

root=false
[ "$(id -u)" -ne 0 ] || root=true
case $system in
Linux)
    if $root; then
        install_missing cc=gcc sfdisk=fdisk sgdisk=gdisk parted=parted partx=util-linux mkfs.ext4=e2fsprogs \
            mkfs.xfs=xfsprogs mtree=mtree-netbsd bsdtar=libarchive-tools rsync=rsync setfattr=attr \
            setfacl=acl makefs=makefs shellcheck=shellcheck setpriv=util-linux chattr=e2fsprogs \
            mandoc=mandoc
    fi
    ;;
FreeBSD) $root && install_missing bash=bash rsync=rsync ;;
esac
install_rust

skipped=$(mktemp)
export DUALROOT_SKIPPED=$skipped
trap 'rm -f "$skipped"' EXIT
skip() { printf '%s\n' "$*" | tee -a "$skipped"; }

say "format"
cargo fmt --check
say "clippy, this system"
cargo clippy --locked --all-targets -- -D warnings
other=x86_64-unknown-freebsd
[ "$system" != FreeBSD ] || other=x86_64-unknown-linux-gnu
say "clippy, $other"
if command -v rustup >/dev/null 2>&1 && { rustup target list --installed | grep -qx "$other" || rustup target add "$other"; }; then
    cargo clippy --locked --target "$other" --all-targets -- -D warnings
else
    skip "clippy for $other: its standard library is not there and rustup cannot be asked for it"
fi
if command -v shellcheck >/dev/null 2>&1; then
    say "shellcheck"
    shellcheck -x -P scripts scripts/*.sh scripts/rc.d/* scripts/periodic/*/* tests/fuzz/*.sh vm/*.sh .ci/run
fi
say "the manual"
if command -v mandoc >/dev/null 2>&1; then
    mandoc -T lint -W warning scripts/dualroot.8
else
    skip "the manual: there is no mandoc"
fi
say "documentation"
RUSTDOCFLAGS='-D warnings' cargo doc --locked --no-deps --document-private-items
say "tests"
cargo test --locked --no-fail-fast
if [ "$system" = Linux ]; then
    say "the fuzzers, a few seconds each"
    scripts/fuzz.sh 4
fi
say "the FreeBSD guest"
# vm/run.sh takes an image of FreeBSD; without one it says so and exits 3.
if [ "$system" = Linux ] && [ -z "${DUALROOT_VM_IMAGE:-}" ]; then
    echo "NOT RUN: vm/run.sh needs a FreeBSD image (DUALROOT_VM_IMAGE, or vm/fetch.sh)"
elif [ "$system" = Linux ]; then
    vm/run.sh
fi
say "the demo"
if $root; then
    DUALROOT=${CARGO_TARGET_DIR:-$here/target}/debug/dualroot scripts/demo.sh
else
    skip "demo: not root"
fi

count=$(wc -l <"$skipped")
say "$((count)) skipped"
cat "$skipped"
if $root && [ "$count" -gt 0 ]; then
    die "as root nothing may be skipped"
fi
