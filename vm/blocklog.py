"""What QEMU's blklogwrites keeps of a disk, and the disks that a loss of power could leave.

The format is dm-log-writes' (Documentation/admin-guide/device-mapper/log-writes in Linux): a sector
with magic, version, count and sector size, then for each request a sector with its place, length
and flags, followed by its data.
"""

import os
import random
import struct

MAGIC = 0x6A736677736872
FLUSH, FUA, DISCARD = 1, 2, 4
CLUSTER = 65536
# A disk lies over one of these, which has the requests up to a multiple of this.
STEP = 200


def count(path):
    """How many requests the log has so far."""
    with open(path, "rb") as log:
        magic, _version, entries = struct.unpack("<QQQ", log.read(24))
    if magic != MAGIC:
        raise ValueError(f"{path} is no log of writes")
    return entries


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
        # The requests that change a cluster.
        self.clusters = {}
        for n, (place, length, *_) in enumerate(self.entries):
            for cluster in range(place // CLUSTER, -(-(place + length) // CLUSTER)):
                self.clusters.setdefault(cluster, []).append(n)

    def flushes(self, start):
        """The numbers of the flushes from the request `start` on."""
        return [n for n, entry in enumerate(self.entries) if n >= start and entry[2] & FLUSH]

    def kept(self, cut):
        """The requests that a cut leaves: so many from the first on, and then these. `p9`: the first
        nine, as a medium without a cache would. `s9:4`: those before request 9; of those from it to a
        moment before the next flush each with probability one half, by the seed 4, but for what the
        medium was told to keep at once (FUA)."""
        if cut[0] == "p":
            return int(cut[1:]), []
        number, seed = (int(word) for word in cut[1:].split(":"))
        later = self.flushes(number + 1)
        chance = random.Random(seed * 1_000_003 + number)
        end = later[0] if later else len(self.entries)
        moment = chance.choice((end, chance.randint(number, end)))
        return number, [n for n in range(number, moment) if self.entries[n][2] & FUA or chance.random() < 0.5]

    def touching(self, cut, start, spans):
        """The requests from `start` on that a cut leaves and that changed bytes of any of these spans.
        Where they are the same, so are the bytes."""
        first, more = self.kept(cut)

        def touches(n):
            place, length, *_ = self.entries[n]
            return any(place < end and place + length > begin for begin, end in spans)

        return tuple(n for n in (*range(start, first), *more) if touches(n))

    def read(self, base, cut, begin, length):
        """Bytes of the disk after a cut, on top of the raw `base`."""
        with open(self.path, "rb") as log, open(base, "rb") as below:
            first, last = begin // CLUSTER, -(-(begin + length) // CLUSTER)
            found = b"".join(self.cluster(log, below, number, *self.kept(cut)) for number in range(first, last))
        return found[begin - first * CLUSTER :][:length]

    def cluster(self, log, below, number, first, more):
        """One cluster after these requests."""
        begin = number * CLUSTER
        below.seek(begin)
        found = bytearray(below.read(CLUSTER).ljust(CLUSTER, b"\0"))
        for n in self.clusters.get(number, ()):
            if n < first or n in more:
                place, length, flags, position = self.entries[n]
                start, end = max(begin, place), min(begin + CLUSTER, place + length)
                log.seek(position + start - place)
                data = bytes(end - start) if flags & DISCARD else log.read(end - start)
                found[start - begin : end - begin] = data
        return found

    def disk(self, base, cut, path):
        """Makes the disk after a cut, on top of the raw `base`."""
        first, more = self.kept(cut)
        step = first // STEP * STEP
        below = f"{self.path}-{step}.qcow2" if step else base
        if step and not os.path.exists(below):
            self.overlay(base, base, 0, step, (), below + ".new")
            os.rename(below + ".new", below)
        self.overlay(base, below, step, first, more, path)

    def overlay(self, base, below, step, first, more, path):
        """The disk after these requests, on one that has those before `step`."""
        later = {*range(step, first), *more}
        numbers = [number for number, touching in self.clusters.items() if not later.isdisjoint(touching)]
        with open(self.path, "rb") as log, open(base, "rb") as raw:
            size = raw.seek(0, 2)
            clusters = {number: self.cluster(log, raw, number, first, set(more)) for number in numbers}
        write_qcow2(path, below, "raw" if below == base else "qcow2", size, clusters)


def write_qcow2(path, base, form, size, clusters):
    """A qcow2 of version 2 with these clusters over `base`, of that form (docs/interop/qcow2 in QEMU): header,
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
    header += struct.pack(">II8sII", 0xE2792ACA, len(form), form.encode(), 0, 0) + name
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
