"""What QEMU's blklogwrites keeps of a disk, and the disks that a loss of power could leave.

The format is dm-log-writes' (Documentation/admin-guide/device-mapper/log-writes in Linux): a sector
with magic, version, count and sector size, then for each request a sector with its place, length
and flags, followed by its data.
"""

import random
import struct

MAGIC = 0x6A736677736872
FLUSH, FUA, DISCARD = 1, 2, 4
CLUSTER = 65536


def count(path):
    """How many requests the log has so far."""
    with open(path, "rb") as log:
        magic, _version, entries = struct.unpack("<QQQ", log.read(24))
    if magic != MAGIC:
        raise ValueError(f"{path} is no log of writes")
    return entries


def slice_of(path, number):
    """Where a slice of a disk with an MBR begins and ends, in bytes."""
    with open(path, "rb") as disk:
        start, sectors = struct.unpack_from("<II", disk.read(512), 446 + 16 * (number - 1) + 8)
    return start * 512, (start + sectors) * 512


class Log:
    """The requests from `start` on, up to `end`."""

    def __init__(self, path, end):
        self.path = path
        # Place, length, flags, where the data is.
        self.entries = []
        with open(path, "rb") as log:
            _magic, _version, _entries, size = struct.unpack("<QQQI", log.read(28))
            position = size
            for _ in range(end):
                log.seek(position)
                sector, sectors, flags, _length = struct.unpack("<QQQQ", log.read(32))
                position += size
                self.entries.append((sector * size, sectors * size, flags, position))
                if not flags & DISCARD:
                    position += sectors * size

    def flushes(self, start):
        """The numbers of the flushes from the request `start` on."""
        return [n for n, entry in enumerate(self.entries) if n >= start and entry[2] & FLUSH]

    def kept(self, cut):
        """The requests that a cut leaves. `p9`: the first nine, as a medium without a cache would.
        `s9:4`: those before request 9, a flush, and of those between it and the next flush each with
        probability one half, by the seed 4."""
        if cut[0] == "p":
            return self.entries[: int(cut[1:])]
        number, seed = (int(word) for word in cut[1:].split(":"))
        later = [n for n in self.flushes(number + 1)]
        end = later[0] if later else len(self.entries)
        chosen = random.Random(seed * 1_000_003 + number)
        return self.entries[:number] + [e for e in self.entries[number:end] if chosen.random() < 0.5]

    def touches(self, cut, start, begin, end):
        """Whether a cut leaves any request from `start` on that changed bytes from `begin` to `end`."""
        later = self.kept(cut)[start:]
        return any(length and place < end and place + length > begin for place, length, *_ in later)

    def disk(self, base, cut, path):
        """Makes the disk after a cut, on top of the raw `base`."""
        clusters = {}
        with open(self.path, "rb") as log, open(base, "rb") as below:
            size = below.seek(0, 2)
            for place, length, flags, position in self.kept(cut):
                if not length:
                    continue
                log.seek(position)
                data = bytes(length) if flags & DISCARD else log.read(length)
                done = 0
                while done < length:
                    number, inside = divmod(place + done, CLUSTER)
                    piece = min(CLUSTER - inside, length - done)
                    if number not in clusters:
                        below.seek(number * CLUSTER)
                        clusters[number] = bytearray(below.read(CLUSTER).ljust(CLUSTER, b"\0"))
                    clusters[number][inside : inside + piece] = data[done : done + piece]
                    done += piece
        write_qcow2(path, base, size, clusters)


def write_qcow2(path, base, size, clusters):
    """A qcow2 of version 2 with these clusters over `base` (docs/interop/qcow2 in QEMU): header,
    first-level table, reference counts, second-level tables, data."""
    entries = CLUSTER // 8
    tables = sorted({number // entries for number in clusters})
    first = 4 + len(tables)
    used = first + len(clusters)
    if used > CLUSTER // 2:
        raise ValueError("more clusters than one block of reference counts has room for")
    name = base.encode()
    header = struct.pack(
        ">4sIQIIQIIQQIIQ",
        b"QFI\xfb",
        2,
        96,
        len(name),
        16,
        size,
        0,
        -(-size // (CLUSTER * entries)),
        CLUSTER,
        2 * CLUSTER,
        1,
        0,
        0,
    )
    header += struct.pack(">II8sII", 0xE2792ACA, 3, b"raw", 0, 0) + name
    level1 = bytearray(CLUSTER)
    level2 = {number: bytearray(CLUSTER) for number in tables}
    for n, number in enumerate(tables):
        struct.pack_into(">Q", level1, number * 8, 1 << 63 | (4 + n) * CLUSTER)
    for n, number in enumerate(sorted(clusters)):
        table, inside = divmod(number, entries)
        struct.pack_into(">Q", level2[table], inside * 8, 1 << 63 | (first + n) * CLUSTER)
    with open(path, "wb") as image:
        for block in (header, level1, struct.pack(">Q", 3 * CLUSTER), b"\0\1" * used):
            image.write(bytes(block).ljust(CLUSTER, b"\0"))
        for number in tables:
            image.write(level2[number])
        for number in sorted(clusters):
            image.write(clusters[number])
