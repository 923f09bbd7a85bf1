#!/usr/bin/env bash
# The program proved on a real FreeBSD, in QEMU. See vm/README.md.
#
#   vm/run.sh [--image FILE] [--sysroot DIR] [--keep] [SUITE]...
#
#   --image FILE   the guest's disk, raw; never written. Else DUALROOT_VM_IMAGE, else the newest of
#                  what vm/fetch.sh put into vm/images. Without any of them: exit 3.
#   --sysroot DIR  links against that FreeBSD (scripts/cross.sh). Else DUALROOT_VM_SYSROOT, else zig.
#   --keep         keeps the guest's disks after a failure and says how to boot them
#   SUITE          unit, tree, block, refresh, guard, stale, faults, consistency, install, table,
#                  check, partition, primary, flags, sweep, boot, fallback, nextboot; or a part of a test's
#                  name; bench only where it is asked for
#
# QEMU=PROGRAM names another qemu-system-x86_64, OVMF=FILE another UEFI firmware,
# DUALROOT_VM_ACCEL=tcg does without KVM. DUALROOT_VM_EVERY=1/1 lets every request fail in the suite
# sweep, not 24 of each run, and K/N the Kth of N shares of them: hours without KVM.
set -euo pipefail
here=$(cd "$(dirname "$0")/.." && pwd)
. "$here/scripts/common.sh"
. "$here/vm/common.sh"

keep=false
suites=()
while [ $# -gt 0 ]; do
    case $1 in
    --image | --sysroot) guest_option "$@"; shift ;;
    --keep) keep=true ;;
    -*) die "no option $1" ;;
    *) suites+=("$1") ;;
    esac
    shift
done
if [ -z "$image" ]; then
    for found in "$here"/vm/images/*.raw; do
        [ ! -e "$found" ] || image=$found
    done
fi
need_guest "vm/fetch.sh downloads them; or --image FILE, or DUALROOT_VM_IMAGE"
firmware=${OVMF:-/usr/share/ovmf/OVMF.fd}
[ -e "$firmware" ] || install_missing ovmf=ovmf >&2
if [ -z "${DUALROOT_VM_ACCEL:-}" ] && [ -w /dev/kvm ] && echo quit | timeout 20 "$qemu" -accel kvm -machine none -display none \
    -monitor stdio >/dev/null 2>&1; then
    accel=kvm
fi

say "building" >&2
mapfile -t built < <("$here/scripts/cross.sh" ${sysroot:+--sysroot "$sysroot"} --test vm --unit)
[ "${#built[@]}" -eq 3 ] || die "the build failed"

target=${CARGO_TARGET_DIR:-$here/target}
logs=$target/vm
work=$(mktemp -d "$target/vm-run.XXXXXX")
mkdir -p "$logs"
beside=
: >"$work/results"
# of NAME TESTS: the next boots, of which another sequence may run beside: their log, and what the names
# of their tests begin with.
of() {
    log=$logs/serial${1:+-$1}.log
    complaint_file=$work/complaint-$1
    mine=$2
    : >"$log"
}
of "" ""

failed=true
clean_up() {
    status=$?
    trap - EXIT
    [ -z "$beside" ] || kill -TERM -- "-$beside" 2>/dev/null || true
    if $failed && $keep; then
        echo "kept: $work; boot it again: $qemu -accel $accel ${guest[*]-}" >&2
    else
        rm -rf "$work"
    fi
    exit "$status"
}
trap clean_up EXIT
trap 'exit 130' INT
trap 'exit 143' TERM

# ---- the guest --------------------------------------------------------------------------------

machine=(-m 1G -nographic -nic none -no-reboot)
guest=()

# disk FILE FORMAT DEVICE [PROPERTY]...: further words of QEMU's command line.
disks=0
disk() {
    disks=$((disks + 1))
    local device=$3
    local more
    more=$(printf ',%s' "${@:4}")
    # What is lost by a power cut of the host does not matter: unsafe is fast.
    guest+=(-drive "file=$1,format=$2,if=none,id=disk$disks,cache=unsafe"
        -device "$device,drive=disk$disks${more%,}")
}

# boot COMMAND [OPTION]: its lines go to the screen and to the results, but for those that begin a test.
boot() {
    {
        timeout --foreground 8000 "$here/vm/console.py" --log "$log" --timeout 7200 ${2:+"$2"} "$1" \
            "$qemu" -accel "$accel" -smp "$(cpus)" "${guest[@]}" 2>"$complaint_file" || code=$?
        # 1 says that a test failed, which its line says too.
        [ "${code:-0}" -le 1 ] || [ -s "$complaint_file" ] ||
            echo "console.py ended with $code" >"$complaint_file"
    } | tee -a "$work/results" | { grep --line-buffered -Ev '^(begin .*)?$' || true; }
    if [ "$accel" = kvm ] && grep -q 'KVM internal error' "$complaint_file"; then
        echo "KVM does not work here: going on without it" >&2
        accel=tcg
        boot "$@"
        return
    fi
    if [ -s "$complaint_file" ]; then
        local complaint running
        complaint=$(tail -n1 "$complaint_file")
        running=$(awk -v mine="$mine" 'substr($2, 1, length(mine)) != mine {next}
            /^begin /{name=$2} /^(ok|FAILED|skipped) /{name=""} END{print name}' "$work/results")
        echo "FAILED ${running:-boot::guest}: ${complaint}" | tee -a "$work/results"
        return 1
    fi
}

cat >"$work/begin.sh" <<GUEST
# Unpacked and started in the guest.
cd /root/in && env DUALROOT=/root/in/dualroot DUALROOT_UNIT=/root/in/unit \\
    ${DUALROOT_VM_EVERY:+DUALROOT_VM_EVERY=$DUALROOT_VM_EVERY} ./vm "\$@"
GUEST
mkdir "$work/in"
cp "${built[0]}" "$work/in/dualroot"
cp "${built[1]}" "$work/in/vm"
cp "${built[2]}" "$work/in/unit"
cp "$work/begin.sh" "$work/in/"
cp -R "$here/testdata" "$here/scripts" "$work/in/"
tar --format=ustar --owner=0 --group=0 -C "$work" -cf "$work/in.tar" in
qemu-img create -q -f qcow2 -F raw -b "$image" "$work/overlay.qcow2"

# What was asked for: parts of test names for the guest, and whether suites that boot are among it.
all=(unit tree block refresh guard stale faults consistency install table check partition primary flags sweep)
on_box=()
booting=false
falling=false
trying=false
for suite in "${suites[@]}"; do
    case $suite in
    boot | boot::*) booting=true ;;
    fallback | fallback::*) falling=true ;;
    nextboot | nextboot::*) trying=true ;;
    # The whole suite, and not the tests of others whose names have that word in them.
    *) [[ " ${all[*]} bench " == *" $suite "* ]] && suite+=:: ; on_box+=("$suite") ;;
    esac
done
if [ "${#suites[@]}" -eq 0 ]; then
    on_box=("${all[@]/%/::}")
    booting=true
    falling=true
    trying=true
fi
truncate -s 800M "$work"/{mbr,gpt,other,mbr_in_its_place,gpt_in_its_place,fallback,nextboot}.img
! $booting || on_box+=(boot::made_)
! $falling || on_box+=(fallback::made)
! $trying || on_box+=(nextboot::made)

say "$(basename "$image"), $accel" >&2
guest=("${machine[@]}")
disk "$work/overlay.qcow2" qcow2 virtio-blk-pci bootindex=0
disk "$work/in.tar" raw virtio-blk-pci
disk "$work/gpt.img" raw virtio-blk-pci
disk "$work/fallback.img" raw virtio-blk-pci
guest+=(-device virtio-scsi-pci)
disk "$work/mbr.img" raw scsi-hd
disk "$work/nextboot.img" raw scsi-hd
boot "mkdir -p /root && tar xf /dev/vtbd1 -C /root && sh /root/in/begin.sh ${on_box[*]}" || true

# ---- what was made there, booted by itself ----------------------------------------------------

# step NAMES BEFORE [OPTION]: what one of those disks is to do in its next boot, unless what goes before
# it failed.
suite=boot
step() {
    local name names
    read -ra names <<<"$1"
    if grep -q "^ok $suite::$2 " "$work/results"; then
        boot "sh /root/in/begin.sh ${names[*]/#/$suite::}" "${3:-}" || true
    else
        for name in "${names[@]}"; do
            echo "FAILED $suite::$name: not tried, $2 did not pass" | tee -a "$work/results"
        done
    fi
}
# chain NAME [MORE]: the boots of one of those disks, one after the other, with a log of their own.
chain() {
    of "$1" "boot::$1"
    step "$1_first_slot" "made_$1"
    step "$1_second_slot" "$1_first_slot"
    step "$1_back_again${2:+ $2}" "$1_second_slot"
}
if $booting; then
    # Side by side: a guest that boots keeps hardly more than one core busy.
    guest=("${machine[@]}")
    disk "$work/gpt.img" raw virtio-blk-pci bootindex=0
    disk "$work/other.img" raw virtio-blk-pci
    set -m # a process group of its own, to be ended as one
    chain gpt &
    beside=$!
    set +m
    guest=("${machine[@]}" -device virtio-scsi-pci)
    disk "$work/mbr.img" raw scsi-hd bootindex=0
    disk "$work/mbr_in_its_place.img" raw scsi-hd removable=on
    disk "$work/gpt_in_its_place.img" raw scsi-hd removable=on
    chain mbr "mbr_makes_its_like mbr_makes_another"
    wait "$beside"
    beside=
    # What they made of other media: each alone, where the one that it was made by had been.
    alone() {
        of "$1" "boot::$1"
        step "$1" "$2"
    }
    before=mbr_makes_its_like
    for name in mbr_in_its_place gpt_in_its_place; do
        guest=("${machine[@]}" -device virtio-scsi-pci)
        disk "$work/$name.img" raw scsi-hd bootindex=0
        alone "$name" "$before"
        before=mbr_makes_another
    done
    guest=("${machine[@]}")
    disk "$work/other.img" raw virtio-blk-pci bootindex=0
    alone other_medium gpt_back_again
    guest=("${machine[@]}" -bios "$firmware")
    disk "$work/other.img" raw virtio-blk-pci bootindex=0
    alone by_uefi_as_well other_medium
fi

if $falling; then
    suite=fallback
    of fallback fallback::
    guest=("${machine[@]}")
    disk "$work/fallback.img" raw virtio-blk-pci bootindex=0
    # The first slot begins at the first MiB: its superblock, and much behind it.
    destroy() {
        dd if=/dev/zero of="$work/fallback.img" bs=1M seek=1 count=8 conv=notrunc status=none
    }
    step first_slot made
    step on_trial first_slot
    step returned on_trial
    step confirmed returned
    step stays confirmed
    destroy
    step falls_back stays
    step primary_again falls_back
    step chosen primary_again
    destroy
    step cut_off chosen --cut
    step finishes cut_off
fi

if $trying; then
    suite=nextboot
    of nextboot nextboot::
    guest=("${machine[@]}" -device virtio-scsi-pci)
    disk "$work/nextboot.img" raw scsi-hd bootindex=0
    before=made
    for name in first_slot on_trial returned confirmed stays rejected back; do
        step $name $before
        before=$name
    done
fi

# ---- the sum ----------------------------------------------------------------------------------

count() { grep -c "^$1 " "$work/results" || true; }
sed 's/\r$//' "$work/results" >"$logs/results.txt"
passed=$(count ok) bad=$(count FAILED) left_out=$(count skipped)
if [ "$bad" -eq 0 ] && [ "$passed" -gt 0 ]; then
    failed=false
else
    echo "first failure: $(grep -m1 '^FAILED ' "$work/results" || echo "no test was run")"
fi
echo "serial logs: $logs"
echo "$passed passed, $bad failed, $left_out skipped"
! $failed
