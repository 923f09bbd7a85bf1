#!/bin/sh
# In the guest: look at a disk that a loss of power left, with the system's own tools and with ours.
#
#   look.sh -p|-y OWN OTHER [KNOWN]...
#       how fsck_ffs begins to repair what runs; that slot's partitions, root and /config, and the other
#       one's; what is known, of the same bytes: own, other
#
# Prints FACT=VALUE lines: preen, fsck, running, next, and of the other slot state; where that is valid
# also verify, mtree, sound. The disk is the only one that CAM has, and comes while this waits for it.
disk=/dev/da0
how=$1 own=$2 other=$3
known=" $* "
root=/mnt/root
copy=/mnt/copy
mkdir -p $root $copy

# Its partitions are there once GEOM has read its tables; where these are torn, some never come.
tries=0
until [ -e "$disk${own% *}" ] && [ -e "$disk${own#* }" ] || [ $tries = 100 ]; do
    sleep 0.2
    tries=$((tries + 1))
done

# As rc.d/fsck does with fsck_y_enable: what -p does not repair, -y does.
preen=0 fsck=0
for part in $own; do
    fsck_ffs "$how" "$disk$part" >/tmp/fsck.out 2>&1 && continue
    preen=$?
    cat /tmp/fsck.out
    fsck_ffs -y -R "$disk$part" >/tmp/fsck.out 2>&1 || { fsck=$?; cat /tmp/fsck.out; }
done
echo "preen=$preen"
echo "fsck=$fsck"
mount -o ro "$disk${own% *}" $root || exit 1
mount -o ro "$disk${own#* }" $root/config || { umount $root; exit 1; }
# What the system needs to come up, and the configuration; not what changes while it runs, nor a
# snapshot that a run left to the next one, nor what fsck_ffs found of a file that was being written,
# nor the notice of a fall-back.
if [ "${known% own *}" = "$known" ]; then
    (cd $root && find boot bin sbin libexec etc config -type f ! -path '*/.dualroot/*' \
        ! -path '*/.snap/*' ! -path '*/lost+found/*' ! -path 'etc/motd*' -print0 |
        sort -z | xargs -0 md5 -r) >/tmp/running
    # The first disk is the one of the run's beginning.
    [ -e /tmp/before ] || cp /tmp/running /tmp/before
    diff /tmp/before /tmp/running | sed 's/^/differs: /'
    echo "running=$(md5 -q /tmp/running)"
fi
for part in $root $root/config; do
    [ ! -d "$part/lost+found" ] || ls -lR "$part/lost+found"
done
ours() { /root/in/dualroot --progress none -r $root "$@"; }
show=$(ours --json show --slice alternate 2>/tmp/show.err)
echo "next=$(echo "$show" | sed -n 's/.*"next":\[\([^]]*\).*/\1/p' | grep -o '"slot":[12]' | tr -cd 12)"
state=$(echo "$show" | sed -n 's/.*"state":"\([a-z]*\)".*/\1/p')
if [ -n "$state" ]; then echo "state=$state"; else echo "$show"; cat /tmp/show.err; fi
if [ "$state" = valid ] && [ "${known% other *}" = "$known" ]; then
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
