#!/bin/sh
# Puts the program, its manual, its scripts for rc(8), periodic(8) and newsyslog(8) and a sample of its
# configuration in place.
#
#   scripts/install.sh [--uninstall]
#
#   PREFIX=DIR     where to: /usr/local
#   DESTDIR=DIR    what stands for /: a directory that becomes a package or an image. It needs no
#                  root where it is writable; who runs this then owns the files.
#   DUALROOT=FILE  the program. Else the release build there is, else it is built.
#
# The files:
#   $PREFIX/sbin/dualroot                            555
#   $PREFIX/share/man/man8/dualroot.8.gz             444
#   $PREFIX/share/examples/dualroot/dualroot.conf    444
# and with a program for FreeBSD only:
#   $PREFIX/etc/rc.d/dualroot                        555
#   $PREFIX/etc/rc.d/auto-snapshot                   555
#   $PREFIX/etc/periodic/daily/460.dualroot          555
#   $PREFIX/etc/newsyslog.conf.d/dualroot.conf       444
#
# share/man and not man: it is where FreeBSD's ports put manuals since 2024, man(1) looks there on
# every release that is alive (man_default_path), and so it does on Linux.
#
# The program's file, not the system that runs this, decides whether the scripts go along: on Linux
# an image for FreeBSD can be filled, and Linux itself has no rc.subr(8).
#
# --uninstall removes these files, and the directory of the sample. It leaves the directories that
# others use too, /etc/dualroot.conf, and rc.conf(5).
set -eu
umask 022
here=$(cd "$(dirname "$0")/.." && pwd)
. "$here/scripts/common.sh"

prefix=${PREFIX:-/usr/local}
destdir=${DESTDIR:-}
uninstall=false
for word in "$@"; do
    case $word in
    --uninstall) uninstall=true ;;
    *) die "no option $word (--uninstall is one)" ;;
    esac
done
# It goes into the rc.d script and the manual as it is.
case $prefix in
*[!A-Za-z0-9/._+-]*) die "PREFIX may have letters, digits and /._+- only: $prefix" ;;
/*) ;;
*) die "PREFIX must begin with /: $prefix" ;;
esac
case $destdir in
'' | /*) ;;
*) die "DESTDIR must begin with /: $destdir" ;;
esac
prefix=${prefix%/}
base=${destdir%/}$prefix

binary=$base/sbin/dualroot
manual=$base/share/man/man8/dualroot.8.gz
examples=$base/share/examples/dualroot
sample=$examples/dualroot.conf
# Below scripts/ and below etc/ alike; those that are run first.
run_there='rc.d/dualroot rc.d/auto-snapshot periodic/daily/460.dualroot'
read_there='newsyslog.conf.d/dualroot.conf'

if $uninstall; then
    for file in $run_there $read_there "$sample" "$manual" "$binary"; do
        case $file in
        /*) ;;
        *) file=$base/etc/$file ;;
        esac
        # A link is not what was installed, nor followed: it is removed itself, as a file is.
        if [ -e "$file" ] || [ -L "$file" ]; then
            rm -f "$file"
            echo "removed $file"
        fi
    done
    # Somebody may have put more there.
    rmdir "$examples" 2>/dev/null || true
    exit 0
fi

if [ -z "${DUALROOT:-}" ]; then
    DUALROOT=${CARGO_TARGET_DIR:-$here/target}/release/dualroot
    if [ ! -x "$DUALROOT" ]; then
        install_rust
        say "building"
        (cd "$here" && cargo build --release --locked)
    fi
fi
[ -f "$DUALROOT" ] || die "no such file: $DUALROOT"

# Its magic number, and its dynamic linker: the brand in the header is not set by every linker.
magic=$(dd if="$DUALROOT" bs=1 skip=1 count=3 2>/dev/null)
[ "$magic" = ELF ] || die "$DUALROOT is no program"
target=Linux
if LC_ALL=C grep -q /libexec/ld-elf.so.1 "$DUALROOT"; then target=FreeBSD; fi
[ -n "$destdir" ] || [ "$target" = "$system" ] ||
    die "$DUALROOT is for $target, this is $system: set DESTDIR, or DUALROOT to another program"

work=$(mktemp -d "${TMPDIR:-/tmp}/dualroot-install.XXXXXX")
unfinished=
clean_up() {
    status=$?
    trap - EXIT
    rm -rf "$work"
    [ -z "$unfinished" ] || rm -f "$unfinished"
    exit "$status"
}
trap clean_up EXIT
trap 'exit 130' INT
trap 'exit 143' TERM

owner=
[ "$(id -u)" -ne 0 ] || owner='-o 0 -g 0'

# put MODE FILE TARGET: at every moment the target is the old file or the new one.
put() {
    dir=$(dirname "$3")
    # shellcheck disable=SC2086 # $owner is no word or four
    [ -d "$dir" ] || install -d -m 755 $owner "$dir"
    if [ "$system" = FreeBSD ]; then
        # install(1): -S writes a temporary file, flushes it, and renames it.
        # shellcheck disable=SC2086
        install -S -m "$1" $owner "$2" "$3"
    else
        unfinished=$3.new.$$
        # shellcheck disable=SC2086
        install -m "$1" $owner "$2" "$unfinished"
        mv -f "$unfinished" "$3"
        unfinished=
    fi
    echo "installed $3"
}

# All of them name files of their own below /usr/local.
sed "s|/usr/local|$prefix|g" "$here/scripts/dualroot.8" >"$work/dualroot.8"
# -n: no date and no name, so that the same manual is the same file.
gzip -9 -n "$work/dualroot.8"

put 555 "$DUALROOT" "$binary"
put 444 "$work/dualroot.8.gz" "$manual"
put 444 "$here/scripts/dualroot.conf" "$sample"
if [ "$target" = FreeBSD ]; then
    for file in $run_there $read_there; do
        sed "s|/usr/local|$prefix|g" "$here/scripts/$file" >"$work/script"
        mode=555
        [ "$file" != "$read_there" ] || mode=444
        put "$mode" "$work/script" "$base/etc/$file"
    done
    [ -n "$destdir" ] ||
        echo "to have them started at boot: sysrc dualroot_enable=YES auto_snapshot_enable=YES"
fi
