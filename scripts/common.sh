# Shared by the scripts beside it: what a fresh machine needs, and attaching disk images.
# shellcheck shell=sh

say() { printf '\n== %s\n' "$*"; }
die() { printf '%s: %s\n' "${0##*/}" "$*" >&2; exit 1; }

system=$(uname -s)

need_root() {
    [ "$(id -u)" -eq 0 ] || die "run it as root: it attaches disk images and mounts them"
}

# install PROGRAM=PACKAGE ...: installs the packages of the programs that are missing.
install_missing() {
    missing=
    for pair in "$@"; do
        command -v "${pair%%=*}" >/dev/null 2>&1 || [ -x "/sbin/${pair%%=*}" ] ||
            [ -x "/usr/sbin/${pair%%=*}" ] || missing="$missing ${pair#*=}"
    done
    [ -n "$missing" ] || return 0
    say "installing$missing"
    case $system in
    Linux)
        command -v apt-get >/dev/null || die "please install:$missing"
        apt-get update -qq
        # shellcheck disable=SC2086 # several packages
        DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends $missing
        ;;
    FreeBSD)
        # shellcheck disable=SC2086
        env ASSUME_ALWAYS_YES=yes pkg install -q $missing
        ;;
    esac
}

# Rust as the project needs it (Cargo.toml, rust-version).
oldest_rust=1.89

rust_is_new_enough() {
    have=$(cargo --version 2>/dev/null | cut -d' ' -f2 | cut -d. -f1-2)
    [ -n "$have" ] && [ "$(printf '%s\n%s\n' "$oldest_rust" "$have" | sort -t. -k1,1n -k2,2n | head -n1)" = "$oldest_rust" ]
}

install_rust() {
    PATH=$PATH:$HOME/.cargo/bin
    rust_is_new_enough && return 0
    case $system in
    Linux) install_missing cc=gcc cargo=cargo ;;
    FreeBSD) install_missing cargo=rust ;;
    esac
    rust_is_new_enough && return 0
    say "the distribution's Rust is older than $oldest_rust: taking rustup's"
    install_missing curl=curl
    curl --proto '=https' --tlsv1.2 -sSf https://sh.rustup.rs | sh -s -- -y --profile minimal -c clippy -c rustfmt
    PATH=$HOME/.cargo/bin:$PATH
    rust_is_new_enough || die "no Rust $oldest_rust or newer could be installed"
}

# attach IMAGE: prints the medium's name (loop0, md0), with nodes for its slices.
attach() {
    case $system in
    Linux)
        device=$(losetup -f --show "$1")
        # Where the kernel parses no tables itself, its answer to the first call is an error.
        partx -a "$device" 2>/dev/null || partx -u "$device" 2>/dev/null || true
        ;;
    FreeBSD) device=/dev/$(mdconfig -a -t vnode -f "$1") ;;
    esac
    printf '%s\n' "${device#/dev/}"
}

detach() {
    case $system in
    Linux) partx -d "/dev/$1" 2>/dev/null || true; losetup -d "/dev/$1" ;;
    FreeBSD) mdconfig -d -u "${1#md}" ;;
    esac
}
