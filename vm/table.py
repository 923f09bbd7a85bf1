"""Which slot of a disk starts, by the bytes of its table alone."""

import struct
import uuid
import zlib

FREEBSD_UFS = uuid.UUID("516e7cb6-6ecf-11d6-8ff8-00022d09712b").bytes_le
BOOT_ME, BOOT_ONCE = 1 << 59, 1 << 58


def starts(disk, read, size):
    """The slots in the order in which the boot code tries them: `1`, `21`. `read` takes a place and
    a length in bytes, as it does below."""
    tried = active(read) if disk.name == "mbr" else flagged(read, size)
    return "".join(str(disk.slices.index(n) + 1) if n in disk.slices else "?" for n in tried)


def span(read, part):
    """Where a partition begins and ends, in bytes: `p2`, or `s1a` of a slice with a BSD label
    (disklabel(5))."""
    if part[0] == "p":
        first, last = struct.unpack_from("<QQ", entries(read, 512)[int(part[1:]) - 1], 32)
        return first * 512, (last + 1) * 512
    (begin,) = struct.unpack_from("<I", read(0, 512), 446 + 16 * (int(part[1]) - 1) + 8)
    label = read((begin + 1) * 512, 512)

    def entry(letter):
        return struct.unpack_from("<II", label, 148 + 16 * (ord(letter) - ord("a")))

    (sectors, offset), (_, whole) = entry(part[2]), entry("c")
    first = begin + offset - whole
    return first * 512, (first + sectors) * 512


def active(read):
    """The slices of an MBR that are active."""
    sector = read(0, 512)
    return [n + 1 for n in range(4) if sector[446 + 16 * n] == 0x80]


def flagged(read, size):
    """The partitions of a GPT in the order in which gptboot tries them (gptread and gptfind in
    FreeBSD's stand/libsa/gpt.c): the first copy of the table that is whole counts, and in it first
    what is to be started once."""
    table = entries(read, 512) or entries(read, size - 512) or []
    slots = {BOOT_ME | BOOT_ONCE: [], BOOT_ME: []}
    for number, entry in enumerate(table, 1):
        flags = struct.unpack_from("<Q", entry, 48)[0] & (BOOT_ME | BOOT_ONCE)
        if entry[:16] == FREEBSD_UFS and flags in slots:
            slots[flags].append(number)
    return slots[BOOT_ME | BOOT_ONCE] + slots[BOOT_ME]


def entries(read, place):
    """The entries of the copy whose header is there, where both their sums are right."""
    header = read(place, 512)
    length, crc = struct.unpack_from("<II", header, 12)
    first, count, size, crc_of_all = struct.unpack_from("<QIII", header, 72)
    if header[:8] != b"EFI PART" or not 92 <= length <= 512:
        return None
    if zlib.crc32(header[:16] + bytes(4) + header[20:length]) != crc:
        return None
    table = read(first * 512, count * size)
    if zlib.crc32(table) != crc_of_all:
        return None
    return [table[n * size : (n + 1) * size] for n in range(count)]
