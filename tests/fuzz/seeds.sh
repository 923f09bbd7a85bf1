#!/usr/bin/env bash
# Makes the fuzzers' seeds in testdata/fuzz, with the system's own tools: sfdisk, sgdisk, fdisk,
# mkfs.ext4, mkfs.xfs, makefs. What is in there from before is taken away.
set -euo pipefail
here=$(cd "$(dirname "$0")/../.." && pwd)
out=$here/testdata/fuzz
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
rm -rf "$out"
mkdir -p "$out"/{mbr,bsd,gpt,table,superblock,ufs,fstab,loader,config,manifest,record,geom,packages}

# medium NAME SWITCHES HEAD TAIL: bytes from the start and sectors from the end of the image, for
# `gpt` and `table` (see Medium in src/lib.rs).
medium() {
    {
        printf '%b' "\\x0$2\\x$(printf %02x "$4")"
        head -c "$3" "$work/image"
        tail -c $(($4 * 512)) "$work/image"
    } >"$work/seed"
    cp "$work/seed" "$out/table/$1"
}

image() { rm -f "$work/image"; truncate -s 8M "$work/image"; }

image
printf 'label: dos\nlabel-id: 0x11223344\nstart=2, size=6000, type=a5, bootable\nstart=6002, size=6000, type=a5\nstart=12002, size=2000, type=83\nstart=14002, size=2000, type=5\n' |
    sfdisk -q "$work/image" 2>/dev/null
head -c 512 "$work/image" >"$out/mbr/four-slices"
medium mbr 0 2048 0
# fdisk's label has room for four partitions and GEOM wants eight: 0 means eight in the input.
printf 'b\ny\nn\na\n\n5999\nt\na\n7\nw\n' | fdisk "$work/image" >/dev/null 2>&1 || true
{ printf '\2'; dd if="$work/image" bs=512 skip=2 count=4 status=none; } >"$out/bsd/fdisk"
printf '\10' | dd of="$out/bsd/fdisk" bs=1 seek=$((1 + 512 + 138)) conv=notrunc status=none
medium mbr-label 0 4096 0

image
sgdisk -Z "$work/image" >/dev/null 2>&1 || true
sgdisk -a 1 -n 1:40:+64 -t 1:a501 -n 2:2048:+4000 -t 2:a503 -c 2:rootA -A 2:set:59 \
    -n 3:8192:+4000 -t 3:a503 -c 3:rootB -U 11111111-2222-3333-4444-555555555555 "$work/image" >/dev/null
medium gpt 2 2048 33
cp "$work/seed" "$out/gpt/three"
medium gpt-no-backup 2 2048 0
cp "$work/seed" "$out/gpt/no-backup"
head -c 512 "$work/image" >"$out/mbr/protective"

# ufs: what makefs writes from the superblock at 8 KiB on: a group with its inodes, a few directories.
mkdir -p "$work/ufs/.dualroot"
echo '{"schema": 1}' >"$work/ufs/.dualroot/record.json"
echo hello >"$work/ufs/file"
makefs -t ffs -s 512k -o version=2,bsize=4096,fsize=512,density=16384 "$work/image" "$work/ufs" >/dev/null
dd if="$work/image" bs=512 skip=16 count=64 status=none >"$out/ufs/makefs"

# superblock: three pieces of 8 KiB, from 0, 8 KiB and 64 KiB.
pieces() {
    { head -c 16384 "$work/image"; dd if="$work/image" bs=8192 skip=8 count=1 status=none; } >"$out/superblock/$1"
}
image
mkfs.ext4 -q -F -L root -U 11111111-2222-3333-4444-555555555555 "$work/image"
head -c 2048 "$work/image" >"$out/superblock/ext4"
rm -f "$work/image"
truncate -s 512M "$work/image"
mkfs.xfs -q -f -L root -m uuid=11111111-2222-3333-4444-555555555555 "$work/image"
head -c 512 "$work/image" >"$out/superblock/xfs"
mkdir "$work/tree"
makefs -t ffs -s 4m -o version=2 "$work/image" "$work/tree" >/dev/null
# Where the kernel looks for it: at 64 KiB, and it says so.
dd if="$work/image" of="$work/image" bs=8192 skip=1 seek=8 count=1 conv=notrunc status=none
printf '\0\0\1\0\0\0\0\0' | dd of="$work/image" bs=1 seek=$((65536 + 1000)) conv=notrunc status=none
pieces ufs2

cp "$here/testdata/appliance/etc/fstab" "$out/fstab/appliance"
printf '# Device\t\tMountpoint\tFStype\tOptions\n/dev/ufs/a\\040b / ufs ro 1 1\r\n\\\\x\t/\\134y ufs rw\n' >"$out/fstab/escapes"
cp "$here/testdata/appliance/boot/loader.conf" "$out/loader/appliance"
printf 'vfs.root.mountfrom="ufs:/dev/da0s1a zfs:z/r"\n vfs.root.mountfrom = ufs:/dev/ufs/a\\ b # x\n' >"$out/loader/list"
printf 'product = "JUNOS"\nfile_system_snapshots = false\n[root]\nslots = ["/dev/a", "/dev/b"]\n[config]\nslots = ["c", "d"]\n' >"$out/config/all"
cp "$here/testdata/record-v1.json" "$out/record/v1"
cat >"$out/manifest/tree" <<'MTREE'
#mtree v2.0
# made by dualroot; check with: mtree -f THIS -p ROOT
. type=dir mode=0755 uid=0 gid=0 nlink=3 time=1600000000.000000001
    a\040b type=file mode=0644 uid=0 gid=0 nlink=1 size=3 time=1.000000000 tags=crc32:00000000,links:1,source:00000000
    c type=link mode=0777 uid=0 gid=0 nlink=1 link=a time=1.000000000
    d type=char mode=0600 uid=0 gid=0 nlink=1 device=native,1,3 time=1.000000000
    e type=dir mode=0700 uid=0 gid=0 nlink=2 time=1.000000000
    ..
..
MTREE
cat >"$out/geom/label" <<'XML'
<mesh><class id="0x1"><name>DISK</name><geom id="0x2"><class ref="0x1"/><name>da0</name><rank>1</rank>
<provider id="0x3"><geom ref="0x2"/><mode>r1w1e2</mode><name>da0</name><mediasize>8388608</mediasize><sectorsize>512</sectorsize></provider></geom></class>
<class id="0x4"><name>PART</name><geom id="0x5"><class ref="0x4"/><name>da0</name><rank>2</rank><config><scheme>MBR</scheme></config>
<consumer id="0x6"><geom ref="0x5"/><provider ref="0x3"/><mode>r1w1e2</mode></consumer>
<provider id="0x7"><geom ref="0x5"/><mode>r0w0e0</mode><name>da0s1</name><mediasize>4194304</mediasize><sectorsize>512</sectorsize>
<config><start>2048</start><end>10239</end><index>1</index><type>freebsd</type><offset>1048576</offset></config></provider></geom></class>
<class id="0x8"><name>LABEL</name><geom id="0x9"><class ref="0x8"/><name>da0s1</name><rank>3</rank>
<consumer id="0xa"><geom ref="0x9"/><provider ref="0x7"/><mode>r0w0e0</mode></consumer>
<provider id="0xb"><geom ref="0x9"/><mode>r0w0e0</mode><name>ufs/root</name><mediasize>4194304</mediasize><sectorsize>512</sectorsize></provider></geom></class></mesh>
XML
printf 'Package: a\nStatus: install ok installed\nVersion: 1:2-3\n\nPackage: b\nStatus: deinstall ok config-files\nVersion: 1\n' >"$out/packages/dpkg"
printf 'jbase-ex-12.3R12-S15' >"$out/packages/junos"
printf "NAME='Example OS'\nVERSION_ID=\"1.2\"\n" >"$out/packages/os-release"
printf 'USERLAND_VERSION="13.2-RELEASE-p1"\n' >"$out/packages/freebsd-version"
du -sh "$out"
