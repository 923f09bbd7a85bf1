#!/bin/sh
# The main job on a real disk image: a dual-root medium, a snapshot of its running root, the proof,
# and the catch of a byte that the medium lost. Needs root; leaves nothing behind.
#
#   DUALROOT=PATH  uses that program instead of building one
set -eu
here=$(cd "$(dirname "$0")/.." && pwd)
. "$here/scripts/common.sh"
need_root

case $system in
Linux)
    install_missing sfdisk=fdisk partx=util-linux losetup=mount mkfs.ext4=e2fsprogs tar=tar
    [ -n "${DUALROOT:-}" ] || install_missing cc=gcc
    ;;
FreeBSD) ;;
*) die "$system is neither FreeBSD nor Linux" ;;
esac

if [ -z "${DUALROOT:-}" ]; then
    install_rust
    say "building"
    (cd "$here" && cargo build --release --locked)
    DUALROOT=${CARGO_TARGET_DIR:-$here/target}/release/dualroot
fi

work=$(mktemp -d "${TMPDIR:-/tmp}/dualroot-demo.XXXXXX")
medium=
root=$work/root

clean_up() {
    status=$?
    trap - EXIT INT TERM
    umount "$root/config" 2>/dev/null || true
    umount "$root" 2>/dev/null || true
    [ -z "$medium" ] || detach "$medium" || true
    rm -rf "$work"
    [ "$status" -eq 0 ] || echo "the demo failed (exit $status)" >&2
    exit "$status"
}
trap clean_up EXIT
trap 'exit 130' INT
trap 'exit 143' TERM

mkdir "$root"

# Real files of this machine, as many directories as fit an appliance's flash.
files=
kilobytes=0
for dir in /etc /sbin /usr/sbin /bin /usr/bin /boot/kernel /usr/share/doc; do
    { [ -d "$dir" ] && [ ! -L "$dir" ]; } || continue
    size=$(du -skx "$dir" 2>/dev/null | cut -f1)
    [ $((kilobytes + size)) -le 300000 ] || continue
    files="$files ${dir#/}"
    kilobytes=$((kilobytes + size))
done
slice=$((kilobytes * 3 / 2048 + 48)) # MB

say "a dual-root medium: two roots of $slice MB, config and altconfig of 32 MB"
truncate -s $((2 * slice + 80))M "$work/medium.img"
case $system in
Linux)
    sfdisk -q "$work/medium.img" <<TABLE
label: dos
size=${slice}MiB, type=83, bootable
size=${slice}MiB, type=83
size=32MiB, type=83
size=32MiB, type=83
TABLE
    medium=$(attach "$work/medium.img")
    root1=${medium}p1 root2=${medium}p2 config1=${medium}p3
    mkfs.ext4 -q -L root1 "/dev/$root1"
    mkfs.ext4 -q -L config1 "/dev/$config1"
    type=ext4
    sfdisk -l "/dev/$medium"
    ;;
FreeBSD)
    medium=$(attach "$work/medium.img")
    gpart create -s MBR "$medium" >/dev/null
    for n in 1 2; do gpart add -t freebsd -a 1m -s "${slice}m" -i $n "$medium" >/dev/null; done
    for n in 3 4; do gpart add -t freebsd -a 1m -s 32m -i $n "$medium" >/dev/null; done
    gpart set -a active -i 1 "$medium" >/dev/null
    for n in 1 2; do
        gpart create -s BSD "${medium}s$n" >/dev/null
        gpart add -t freebsd-ufs -i 1 "${medium}s$n" >/dev/null
    done
    for n in 3 4; do
        gpart create -s BSD "${medium}s$n" >/dev/null
        gpart add -t freebsd-ufs -i 4 "${medium}s$n" >/dev/null
    done
    root1=${medium}s1a root2=${medium}s2a config1=${medium}s3d
    newfs -U -L root1 "/dev/$root1" >/dev/null
    newfs -U -L config1 "/dev/$config1" >/dev/null
    type=ufs
    gpart show "$medium"
    ;;
esac

say "the running root: real files of this machine ($files ) and testdata/appliance"
mount -t "$type" "/dev/$root1" "$root"
mkdir "$root/config"
mount -t "$type" "/dev/$config1" "$root/config"
# shellcheck disable=SC2086 # several directories
(cd / && tar cf - --exclude ./lost+found $files) | (cd "$root" && tar xpf -)
rm -f "$root/etc/os-release" # on most systems a symbolic link out of /etc
(cd "$here/testdata/appliance" && tar cf - --exclude ./config .) | (cd "$root" && tar xf -)
cp -R "$here/testdata/appliance/config/." "$root/config/"
for file in etc/fstab boot/loader.conf; do
    sed -e "s|@ROOT_DEVICE@|/dev/$root1|g" -e "s|@CONFIG_DEVICE@|/dev/$config1|g" \
        "$here/testdata/appliance/$file" >"$root/$file"
done
marker="dualroot-demo-$$-$(date +%s)"
printf 'a file that the medium will lose a byte of\n%s\n' "$marker" >"$root/etc/demo"

dualroot() {
    printf '\n# dualroot %s\n' "$*"
    "$DUALROOT" -r "$root" --progress none "$@"
}

say "what would be done"
dualroot snapshot -n
say "the snapshot"
dualroot snapshot
say "both slots"
dualroot show
say "the copy, read again from the medium"
dualroot verify

say "one byte of the copy flips on the device"
offset=$(dd if="/dev/$root2" bs=1048576 2>/dev/null | LC_ALL=C grep -abo "$marker" | head -n1 | cut -d: -f1)
[ -n "$offset" ] || die "the marker is not on /dev/$root2"
# A whole sector is read, changed and written: FreeBSD's devices take nothing less.
dd if="/dev/$root2" of="$work/sector" bs=512 skip=$((offset / 512)) count=1 2>/dev/null
printf X | dd of="$work/sector" bs=1 seek=$((offset % 512)) conv=notrunc 2>/dev/null
dd if="$work/sector" of="/dev/$root2" bs=512 seek=$((offset / 512)) conv=notrunc 2>/dev/null
echo "byte $offset of /dev/$root2 is now an X"
status=0
dualroot verify || status=$?
[ "$status" -eq 5 ] || die "verify should have told of the flipped byte with exit 5, not $status"
echo "(exit 5: the content differs from the manifest)"

say "and a new snapshot puts it right"
dualroot snapshot
dualroot verify
say "done"
