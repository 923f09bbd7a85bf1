#!/usr/bin/env bash
# Cuts the power of a FreeBSD appliance while it works, and looks at what is left. See vm/README.md.
#
#   vm/powercut.sh --image FILE [--sysroot DIR] [--seed N] [--count N] [--scenario NAME]...
#                  [--boots N] [--kill N] [--cut CUT]... [--fresh]
#
#   --image, --sysroot  as of vm/run.sh
#   --seed N            chooses other cut points
#   --count N           cut points for each scenario, 200
#   --scenario NAME     snapshot (onto an empty slot), refresh (over a copy), boot-switch (to the other
#                       slot and back), trial (on a GPT), auto-snapshot (repair of the slot that was to
#                       run); all without it
#   --boots N           how many of them are booted, 3
#   --kill N            instead: N times kill -9 of QEMU at a random moment of a snapshot, then a boot
#   --cut CUT           only this one, as a violation names it
#   --fresh             makes and records the appliance anew
set -euo pipefail
here=$(cd "$(dirname "$0")/.." && pwd)
. "$here/scripts/common.sh"
. "$here/vm/common.sh"

fresh=false
words=()
while [ $# -gt 0 ]; do
    case $1 in
    --image | --sysroot) guest_option "$@"; shift ;;
    --fresh) fresh=true ;;
    --seed | --count | --scenario | --boots | --kill | --cut)
        words+=("$1" "${2:?$1 takes a word}")
        shift
        ;;
    *) die "no option $1" ;;
    esac
    shift
done
need_guest "--image FILE"

say "building" >&2
mapfile -t built < <("$here/scripts/cross.sh" ${sysroot:+--sysroot "$sysroot"} --test vm)
[ "${#built[@]}" -eq 2 ] || die "the build failed"
work=${CARGO_TARGET_DIR:-$here/target}/vm-powercut
! $fresh || rm -rf "$work"
mkdir -p "$work/in"
# An appliance that another program recorded is of no use.
if ! cmp -s "${built[0]}" "$work/in/dualroot" || [ "$(cat "$work/image" 2>/dev/null)" != "$image" ]; then
    rm -f "$work"/*.raw "$work"/log-*
fi
printf '%s\n' "$image" >"$work/image"
cp "${built[0]}" "$work/in/dualroot"
cp "${built[1]}" "$work/in/vm"
cp "$here/vm/look.sh" "$work/in/"
cat >"$work/in/begin.sh" <<'GUEST'
# Unpacked and started in the guest.
cd /root/in && env DUALROOT=/root/in/dualroot ./vm "$@"
GUEST
tar --format=ustar --owner=0 --group=0 -C "$work" -cf "$work/in.tar" in
"$here/vm/powercut.py" --image "$image" --work "$work" --in "$work/in.tar" --qemu "$qemu" --accel "$accel" \
    --cpus "$(cpus)" "${words[@]}"
