#!/usr/bin/env bash
# Measures a snapshot against the usual tools on the same work: a tree of about 1 GiB and 20,000
# files on one loop device, copied to a freshly formatted second one, unmount included. The runs
# alternate, so that the machine's moods hit everybody; figures are medians, compared as ratios.
#
#   scripts/bench.sh [RUNS]      5 runs of each by default
set -euo pipefail
here=$(cd "$(dirname "$0")/.." && pwd)
. "$here/scripts/common.sh"
need_root
[ "$system" = Linux ] || die "this benchmark uses loop devices and ext4: Linux only"
runs=${1:-5}
install_missing cc=gcc sfdisk=fdisk rsync=rsync time=time python3=python3
install_rust
(cd "$here" && cargo build --release --locked --quiet)
dualroot=${CARGO_TARGET_DIR:-$here/target}/release/dualroot

where=/dev/shm
[ "$(df --output=avail -B1M $where | tail -n1)" -gt 5000 ] || where=${TMPDIR:-/tmp}
work=$(mktemp -d "$where/dualroot-bench.XXXXXX")
media=()
clean_up() {
    umount "$work/target" "$work/source" 2>/dev/null || true
    for medium in "${media[@]}"; do detach "$medium" || true; done
    rm -rf "$work"
}
trap clean_up EXIT
mkdir "$work/source" "$work/target"

say "the source: about 1 GiB in 20,000 files"
for name in source target; do
    truncate -s 2G "$work/$name.img"
    echo 'type=83' | sfdisk -q --label dos "$work/$name.img" 2>/dev/null ||
        printf 'label: dos\ntype=83\n' | sfdisk -q "$work/$name.img"
    media+=("$(attach "$work/$name.img")")
done
from=/dev/${media[0]}p1
to=/dev/${media[1]}p1
mkfs.ext4 -q "$from"
mount -o noatime "$from" "$work/source"
# Sizes as in a system root: many small files, few large ones; the same tree every time.
python3 - "$work/source" <<'TREE'
import os, random, sys
random.seed(20000)
block = random.randbytes(1 << 20)
top = sys.argv[1]
for n in range(20000):
    path = f"{top}/usr/d{n // 400}/s{n // 40 % 10}"
    if n % 40 == 0:
        os.makedirs(path, exist_ok=True)
    size = min(int(random.lognormvariate(8.6, 2.0)), 64 << 20)
    with open(f"{path}/f{n}", "wb") as file:
        while size > 0:
            at = random.randrange(1 << 19)
            size -= file.write(block[at:at + min(size, 1 << 19)])
for n in range(6):
    with open(f"{top}/big{n}", "wb") as file:
        for _ in range(96):
            file.write(block)
for n in range(400):
    os.symlink(f"f{n}", f"{top}/usr/link{n}")
TREE
mkdir "$work/source/etc" "$work/source/altroot"
printf '%s / ext4 rw 1 1\n%s /altroot ext4 rw,noauto 0 0\n' "$from" "$to" >"$work/source/etc/fstab"
sync
find "$work/source" | wc -l
du -sm "$work/source" | cut -f1

format() {
    mkfs.ext4 -q -F -E nodiscard "$to"
    mount -o noatime "$to" "$work/target"
}

# measure NAME COMMAND: appends "NAME seconds kilobytes".
measure() {
    name=$1
    shift
    command time -o "$work/time" -f '%e %M' "$@" >"$work/log" 2>&1 || { cat "$work/log"; die "$name failed"; }
    echo "$name $(tail -n1 "$work/time")" >>"$work/figures"
}

copy_and_unmount() { # shell, so that the pipe and the unmount are inside the measured time
    format
    measure "$1" sh -c "$2 && umount '$work/target'"
}

for run in $(seq 0 "$runs"); do
    copy_and_unmount "cp -a" "cp -ax '$work/source/.' '$work/target/'"
    copy_and_unmount "rsync -aHAX" "rsync -aHAXx '$work/source/' '$work/target/'"
    copy_and_unmount "tar | tar" "tar -C '$work/source' --one-file-system -cf - . | tar -C '$work/target' -xpf -"
    # The whole command: rehearsal, erasing, format, copy, flush, read-back, record.
    measure "dualroot, copy + verify" "$dualroot" -r "$work/source" --json snapshot
    python3 - "$work/log" >>"$work/figures" <<'COPY'
import json, sys
pair = json.loads([l for l in open(sys.argv[1]) if l.startswith("{")][0])["pairs"][0]
print("dualroot, copy", pair["copy_seconds"], 0)
COPY
    # The first round warms the caches.
    [ "$run" -gt 0 ] || : >"$work/figures"
    printf '.'
done
echo

python3 - "$work/figures" "$runs" <<'TABLE'
import statistics, sys
seconds, memory = {}, {}
for line in open(sys.argv[1]):
    name, second, kilobytes = line.rstrip("\n").rsplit(" ", 2)
    seconds.setdefault(name, []).append(float(second))
    memory[name] = max(memory.get(name, 0), int(kilobytes))
base = statistics.median(seconds["rsync -aHAX"])
print(f"medians of {sys.argv[2]} alternating runs\n")
print("| work | seconds | of rsync | peak memory |")
print("| --- | ---: | ---: | ---: |")
for name, all in sorted(seconds.items(), key=lambda x: statistics.median(x[1])):
    median = statistics.median(all)
    peak = f"{memory[name] / 1024:.0f} MiB" if memory[name] else ""
    print(f"| {name} | {median:.2f} ({min(all):.2f}–{max(all):.2f}) | {median / base:.2f} | {peak} |")
TABLE
