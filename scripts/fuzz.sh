#!/usr/bin/env bash
# Feeds the parsers what nobody would write. Linux; Rust's stable compiler, no sanitizer.
#
#   scripts/fuzz.sh [SECONDS] [TARGET]...
#
# Each target (tests/fuzz/src/bin, all of them where none is named) runs for SECONDS, 600 where that is
# not said, from the seeds in testdata/fuzz (tests/fuzz/seeds.sh makes them) and from what it found
# in earlier runs. The first input that breaks one is kept, its place is printed, and the exit code
# is 1.
set -euo pipefail
here=$(cd "$(dirname "$0")/.." && pwd)
. "$here/scripts/common.sh"
[ "$system" = Linux ] || die "the fuzzers are built on Linux only"

seconds=600
case ${1:-} in
[0-9]*) seconds=$1; shift ;;
esac
targets=("$@")
if [ "${#targets[@]}" -eq 0 ]; then
    for file in "$here"/tests/fuzz/src/bin/*.rs; do
        targets+=("$(basename "$file" .rs)")
    done
fi
# libFuzzer is C++.
install_missing c++=g++
install_rust

target=${CARGO_TARGET_DIR:-$here/target}/fuzz
host=$(rustc -vV | sed -n 's/^host: //p')
# What cargo-fuzz sets, as far as stable Rust has it: counters for every edge, and what is compared
# with what. With --target, build scripts and macros stay without.
flags="-Cpasses=sancov-module -Cllvm-args=-sanitizer-coverage-level=4
    -Cllvm-args=-sanitizer-coverage-inline-8bit-counters
    -Cllvm-args=-sanitizer-coverage-pc-table -Cllvm-args=-sanitizer-coverage-trace-compares
    --cfg fuzzing"
say "building the fuzzers"
# shellcheck disable=SC2116,SC2086 # one line of words
RUSTFLAGS=$(echo $flags) CARGO_TARGET_DIR=$target cargo build --quiet --locked --release \
    --target "$host" --manifest-path "$here/tests/fuzz/Cargo.toml" --bins

for name in "${targets[@]}"; do
    program=$target/$host/release/$name
    [ -x "$program" ] || die "no target $name"
    corpus=$target/corpus/$name
    mkdir -p "$corpus" "$target/broken"
    log=$target/$name.log
    begun=$(date +%s)
    if ! "$program" -max_total_time="$seconds" -timeout=10 -rss_limit_mb=2048 -max_len=65536 \
        -print_final_stats=1 -artifact_prefix="$target/broken/$name-" \
        "$corpus" "$here/testdata/fuzz/$name" >"$log" 2>&1; then
        grep -m1 -A1 'panicked at' "$log" >&2 || true
        tail -n 20 "$log" >&2
        die "$name: broken; see $log"
    fi
    runs=$(sed -n 's/^stat::number_of_executed_units: *//p' "$log")
    edges=$(grep -o 'cov: [0-9]*' "$log" | tail -n1 | cut -d' ' -f2)
    echo "$name: $runs runs in $(($(date +%s) - begun)) s, $edges edges, nothing broke"
done
