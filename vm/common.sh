# Shared by the scripts beside it that boot a guest: their options, and what they need.
# shellcheck shell=bash
# shellcheck disable=SC2034 # who sources this uses them

image=${DUALROOT_VM_IMAGE:-}
sysroot=${DUALROOT_VM_SYSROOT:-}
accel=${DUALROOT_VM_ACCEL:-tcg}

# How many CPUs a guest has. Those that are emulated wait for each other where the host has no more of
# them: two guests with two each on two are several times slower, and a FreeBSD that starts a second one
# there panics now and then.
cpus() {
    if [ "$accel" = kvm ]; then echo 2; else echo 1; fi
}

# guest_option OPTION WORD: takes one that all of them have.
guest_option() {
    case $1 in
    --image) image=${2:?--image takes a file} ;;
    --sysroot) sysroot=${2:?--sysroot takes a directory} ;;
    esac
}

# need_guest HINT: an image to boot, and QEMU; without an image it is exit 3.
need_guest() {
    [ -n "$image" ] || { echo "${0##*/}: no FreeBSD image: $1" >&2; exit 3; }
    [ -r "$image" ] || die "cannot read $image"
    image=$(realpath "$image")
    qemu=${QEMU:-$(command -v qemu-system-x86_64 || true)}
    if [ -z "$qemu" ]; then
        # Where another qemu-utils is held back, this fails: QEMU=PROGRAM then names one.
        install_missing qemu-system-x86_64=qemu-system-x86 >&2
        qemu=$(command -v qemu-system-x86_64)
    fi
    install_missing python3=python3 qemu-img=qemu-utils tar=tar >&2
}
