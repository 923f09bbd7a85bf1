#!/bin/sh
# In the guest: look at a disk that a loss of power left, with the system's own tools and with ours.
#
#   look.sh SERIAL -p|-y SLOT   the disk's serial number; how fsck_ffs begins to repair what runs; which
#                               slot that is, 1 or 2
#
# Prints FACT=VALUE lines: preen, fsck, running, active, next, and of the other slot state; where that
# is valid also verify, mtree, sound.
disk=
for node in /dev/vtbd[0-9] /dev/vtbd[0-9][0-9]; do
    [ -e "$node" ] || continue
    [ "$(diskinfo -s "$node" 2>/dev/null)" != "$1" ] || disk=$node
done
[ -n "$disk" ] || { echo "no disk $1"; exit 1; }
case $3 in
1) own="s1a s4d" other="s2a s4e" ;;
2) own="s2a s4e" other="s1a s4d" ;;
*) echo "no slot $3"; exit 1 ;;
esac
root=/mnt/root
copy=/mnt/copy
mkdir -p $root $copy

# As rc.d/fsck does with fsck_y_enable: what -p does not repair, -y does.
preen=0 fsck=0
for part in $own; do
    fsck_ffs "$2" "$disk$part" >/tmp/fsck.out 2>&1 && continue
    preen=$?
    cat /tmp/fsck.out
    fsck_ffs -y -R "$disk$part" >/tmp/fsck.out 2>&1 || { fsck=$?; cat /tmp/fsck.out; }
done
echo "preen=$preen"
echo "fsck=$fsck"
mount -o ro "$disk${own% *}" $root && mount -o ro "$disk${own#* }" $root/config || exit 1
# What the system needs to come up, and the configuration; not what changes while it runs, nor a
# snapshot that a run left to the next one, nor what fsck_ffs found of a file that was being written,
# nor the notice of a fall-back.
(cd $root && find boot bin sbin libexec etc config -type f ! -path '*/.dualroot/*' \
    ! -path '*/.snap/*' ! -path '*/lost+found/*' ! -path 'etc/motd*' -print0 |
    sort -z | xargs -0 md5 -r) >"/tmp/running.$1"
# The first disk is the one of the run's beginning.
diff /tmp/running.cut0 "/tmp/running.$1" | sed 's/^/differs: /'
echo "running=$(md5 -q "/tmp/running.$1")"
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
show=$(ours --json show --slice alternate 2>/tmp/show.err)
echo "next=$(echo "$show" | sed -n 's/.*"next":\[{"slot":\([12]\).*/\1/p')"
state=$(echo "$show" | sed -n 's/.*"state":"\([a-z]*\)".*/\1/p')
if [ -n "$state" ]; then echo "state=$state"; else echo "$show"; cat /tmp/show.err; fi
if [ "$state" = valid ]; then
    ours verify >/tmp/verify.out 2>&1
    echo "verify=$?"
    mtree=0 sound=0
    for part in $other; do
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
