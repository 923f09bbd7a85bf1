#!/bin/sh
# Downloads the FreeBSD images that vm/run.sh boots, into vm/images: the project's own BASIC-CI ones,
# which come up with a login prompt on the serial port and a root without a password.
#
#   vm/fetch.sh [14 | 15]...    which of them, all by default
#
# An image is taken only if its SHA-256 is both the one pinned here and the one that FreeBSD
# publishes beside it. 0.7 GB each to download, up to 6 GB on the disk.
set -eu
here=$(cd "$(dirname "$0")/.." && pwd)
. "$here/scripts/common.sh"

site=https://download.freebsd.org/releases/CI-IMAGES

# series release file-name sha256-of-the-.xz
pins() {
    cat <<'PINS'
14 14.3-RELEASE FreeBSD-14.3-RELEASE-amd64-BASIC-CI.raw ec0f5a4bbe63aa50a725d9fee0f1931f850e9a21cbebdadb991df00f168d6805
15 15.1-RELEASE FreeBSD-15.1-RELEASE-amd64-BASIC-CI-ufs.raw 908e735f18ba192eaf48c2703b549225c9b96e74e3784bd9278c7120b4139962
PINS
}

fetch() {
    release=$1 name=$2 pin=$3
    image=$here/vm/images/$name
    if [ -e "$image" ]; then
        echo "$image is there"
        return
    fi
    url=$site/$release/amd64/Latest
    say "$name"
    curl -fSL --retry 3 -C - -o "$image.xz.part" "$url/$name.xz"
    published=$(curl -fsSL --retry 3 "$url/CHECKSUM.SHA256" |
        sed -n "s/^SHA256 ($name\.xz) = \([0-9a-f]*\).*/\1/p")
    found=$(sha256sum "$image.xz.part" | cut -d' ' -f1)
    [ -n "$published" ] || die "$url/CHECKSUM.SHA256 does not name $name.xz"
    [ "$found" = "$published" ] || {
        rm -f "$image.xz.part"
        die "$name.xz: SHA-256 is $found, FreeBSD publishes $published"
    }
    [ "$found" = "$pin" ] || die "$name.xz: SHA-256 is $found, as FreeBSD publishes, but $pin is pinned"
    mv "$image.xz.part" "$image.xz"
    # Under another name first: a half unpacked image must not be found.
    xz -dc "$image.xz" >"$image.part"
    mv "$image.part" "$image"
    rm "$image.xz"
    echo "$image"
}

install_missing curl=curl xz=xz-utils sha256sum=coreutils
mkdir -p "$here/vm/images"
[ $# -gt 0 ] || set -- 14 15
for series; do
    line=$(pins | grep "^$series ") || die "no image of FreeBSD $series is pinned"
    # shellcheck disable=SC2086 # its words
    set -- $line
    fetch "$2" "$3" "$4"
done
