#!/bin/sh
# FreeBSD/amd64 binaries, made on Linux. Prints the path of each, the program's first.
#
#   scripts/cross.sh [--sysroot DIR] [--test NAME]... [--unit]
#
#   --sysroot DIR  links with clang and lld against DIR, a FreeBSD's / (its lib and usr/lib with the
#                  crt files): for any release, and what it makes runs on that release and later
#                  ones. Without it zig links, which brings its own libraries for FreeBSD 14.
#   --test NAME    builds the test program tests/NAME too
#   --unit         builds the program of the unit tests too, the last one printed
set -eu
here=$(cd "$(dirname "$0")/.." && pwd)
. "$here/scripts/common.sh"

sysroot=
tests=
unit=false
while [ $# -gt 0 ]; do
    case $1 in
    --sysroot) sysroot=${2:?--sysroot takes a directory}; shift ;;
    --test) tests="$tests --test ${2:?--test takes a name}"; shift ;;
    --unit) unit=true ;;
    *) die "no option $1" ;;
    esac
    shift
done
[ "$system" = Linux ] || die "on $system: cargo build --release"

triple=x86_64-unknown-freebsd
target=${CARGO_TARGET_DIR:-$here/target}
# rustc guesses from the end of this name how to talk to it.
linker=$target/$triple-clang
mkdir -p "$target"

clang_linker() {
    install_missing clang=clang ld.lld=lld
    [ -e "$sysroot/usr/lib/crt1.o" ] || die "$sysroot is no FreeBSD sysroot: no usr/lib/crt1.o"
    sysroot=$(cd "$sysroot" && pwd)
    # __FreeBSD_version, 1302001 for 13.2. clang only wants the number of the release.
    version=$(sed -n 's/^#define[[:space:]]*__FreeBSD_version[[:space:]]*\([0-9]*\).*/\1/p' \
        "$sysroot/usr/include/sys/param.h" 2>/dev/null || true)
    version=$((${version:-1302000} / 1000))
    cat >"$linker" <<WRAPPER
#!/bin/sh
exec clang --target=$triple$((version / 100)).$((version % 100)) --sysroot='$sysroot' -fuse-ld=lld "\$@"
WRAPPER
}

zig_linker() {
    venv=$target/zig
    if [ ! -x "$venv/bin/python" ] || ! "$venv/bin/python" -m ziglang version >/dev/null 2>&1; then
        install_missing python3=python3
        python3 -m venv "$venv" 2>/dev/null || {
            install_missing no-such-program=python3-venv
            python3 -m venv "$venv"
        }
        "$venv/bin/pip" install -q 'ziglang>=0.15.1'
    fi
    # The libc crate names every library that one of its functions is in. zig has not all of them,
    # and nothing here calls into those: if that changes, the link tells the undefined symbol.
    cat >"$linker" <<WRAPPER
#!/bin/sh
for word; do
    shift
    case \$word in
    -lkvm | -lmemstat | -lprocstat | -ldevstat | -lexecinfo | -lrt | -lutil | -lregex) ;;
    *) set -- "\$@" "\$word" ;;
    esac
done
exec '$venv/bin/python' -m ziglang cc -target x86_64-freebsd.14.0 "\$@"
WRAPPER
}

# stdout is for the paths.
{
    install_rust
    if command -v rustup >/dev/null && ! rustup target list --installed | grep -qx $triple; then
        rustup target add $triple
    fi
    if [ -n "$sysroot" ]; then clang_linker; else zig_linker; fi
    chmod +x "$linker"
} >&2

export CARGO_TARGET_X86_64_UNKNOWN_FREEBSD_LINKER="$linker"
cd "$here"
executables() {
    cargo "$@" --locked --target $triple --message-format=json-render-diagnostics |
        sed -n 's/.*"executable":"\([^"]*\)".*/\1/p'
}
built=$(executables build --release --bins)
# shellcheck disable=SC2086 # several words
[ -z "$tests" ] || built="$built
$(executables test --no-run $tests | grep /deps/)"
! $unit || built="$built
$(executables test --no-run --lib | grep /deps/)"
printf '%s\n' "$built" | while read -r path; do
    [ -x "$path" ] || die "cargo built no $path"
    printf '%s\n' "$path"
done
