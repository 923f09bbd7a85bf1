#!/bin/sh
# In the guest: look at a disk that a loss of power left, with the system's own tools and with ours.
#
#   look.sh SERIAL -p|-y      the disk's serial number; how fsck_ffs repairs what runs
#
# Prints FACT=VALUE lines: fsck, running, active, state; where that is valid also verify, mtree, sound.
disk=
for node in /dev/vtbd[0-9] /dev/vtbd[0-9][0-9]; do
    [ -e "$node" ] || continue
    [ "$(diskinfo -s "$node" 2>/dev/null)" != "$1" ] || disk=$node
done
[ -n "$disk" ] || { echo "no disk $1"; exit 1; }
root=/mnt/root
copy=/mnt/copy
mkdir -p $root $copy

fsck=0
for part in s1a s4d; do
    fsck_ffs "$2" "$disk$part" >/tmp/fsck.out 2>&1 || fsck=$?
done
echo "fsck=$fsck"
[ "$fsck" = 0 ] || cat /tmp/fsck.out
mount -o ro "${disk}s1a" $root && mount -o ro "${disk}s4d" $root/config || exit 1
# What the system needs to come up, and the configuration; not what changes while it runs, nor a
# snapshot that a run left to the next one, nor what fsck_ffs found of a file that was being written.
(cd $root && find boot bin sbin libexec etc config -type f ! -path '*/.dualroot/*' \
    ! -path '*/.snap/*' ! -path '*/lost+found/*' -print0 | sort -z | xargs -0 sha256) >"/tmp/running.$1"
# The first disk is the one of the run's beginning.
diff /tmp/running.cut0 "/tmp/running.$1" | sed 's/^/differs: /'
echo "running=$(sha256 -q "/tmp/running.$1")"
for part in $root $root/config; do
    [ ! -d "$part/lost+found" ] || ls -lR "$part/lost+found"
done
# The active slice, out of the table's own bytes.
active=
for n in 1 2 3 4; do
    flag=$(dd if="$disk" bs=512 count=1 2>/dev/null | od -An -tu1 -j $((446 + 16 * (n - 1))) -N1 | tr -d ' \n')
    [ "$flag" != 128 ] || active=$active$n
done
echo "active=$active"

ours() { /root/in/dualroot --progress none -r $root "$@"; }
state=$(ours --json show 2>/tmp/show.err | sed -n 's/.*"slot":2,.*"state":"\([a-z]*\)".*/\1/p')
if [ -n "$state" ]; then echo "state=$state"; else ours --json show; fi
if [ "$state" = valid ]; then
    ours verify >/tmp/verify.out 2>&1
    echo "verify=$?"
    mtree=0 sound=0
    for part in s2a s4e; do
        mount -o ro "$disk$part" $copy || mtree=1
        mtree -f $copy/.dualroot/manifest.mtree -p $copy >/tmp/mtree.out 2>&1 || mtree=$?
        umount $copy
        fsck_ffs -n "$disk$part" >/tmp/sound.out 2>&1 || sound=$?
    done
    echo "mtree=$mtree"
    echo "sound=$sound"
    [ "$mtree$sound" = 00 ] || cat /tmp/mtree.out /tmp/sound.out
fi
umount $root/config $root
