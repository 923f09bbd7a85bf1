#!/usr/bin/env python3
"""Measures dualroot against the usual tools: scripts/bench.sh makes what it needs and is what to call."""

import argparse
import json
import os
import platform
import random
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import time

MB = 1 << 20
# Methods of Bench, and what takes so long that it is asked for.
SUITES = ("tree", "refresh", "verify", "raw", "ufs", "start", "growth")
# Where the figures of a suite are in README.md.
BEGIN, END = "<!-- bench {} begins -->\n", "<!-- bench {} ends -->\n"


class Medium:
    """A disk image on a loop device, with one partition."""

    def __init__(self, work, name, size):
        image = os.path.join(work, name + ".img")
        with open(image, "wb") as file:
            file.truncate(size)
        subprocess.run(["sfdisk", "-q", image], input="label: dos\ntype=83\n", text=True, check=True)
        self.node = run("losetup", "-f", "--show", image).strip()
        # Where the kernel parses no tables itself, its answer to the first call is an error.
        if subprocess.run(["partx", "-a", self.node], stderr=subprocess.DEVNULL, check=False).returncode:
            subprocess.run(["partx", "-u", self.node], stderr=subprocess.DEVNULL, check=False)
        self.part, self.point = self.node + "p1", os.path.join(work, name)
        for _ in range(100):
            if os.path.exists(self.part):
                break
            time.sleep(0.02)
        os.makedirs(self.point, exist_ok=True)

    def format(self, *words):
        """A new file system, of which nothing is left to be made later."""
        run("mkfs.ext4", "-q", "-F", "-E", "nodiscard,lazy_itable_init=0", *words, self.part)

    def mount(self):
        run("mount", "-o", "noatime", self.part, self.point)

    def unmount(self):
        subprocess.run(["umount", self.point], stderr=subprocess.DEVNULL, check=False)

    def written(self):
        """Bytes that reached it, as the kernel's block layer counts them (Documentation/block/stat)."""
        with open(f"/sys/block/{os.path.basename(self.node)}/stat", encoding="ascii") as stat:
            return int(stat.read().split()[6]) * 512

    def detach(self):
        self.unmount()
        subprocess.run(["partx", "-d", self.node], stderr=subprocess.DEVNULL, check=False)
        subprocess.run(["losetup", "-d", self.node], check=False)


class Figures:
    """What was measured: for each piece of work the runs of each tool."""

    def __init__(self):
        self.runs = {}

    def add(self, work, tool, **values):
        self.runs.setdefault(work, {}).setdefault(tool, []).append(values)

    def keep_only(self, works):
        self.runs = {work: runs for work, runs in self.runs.items() if work in works}

    def median(self, work, tool, what="seconds"):
        values = [v[what] for v in self.runs.get(work, {}).get(tool, []) if v.get(what) is not None]
        return statistics.median(values) if values else None

    def table(self):
        """As Markdown: the fastest peer is 1, and a bar shows it."""
        text = ""
        for work, tools in self.runs.items():
            median = {tool: self.median(work, tool) for tool in tools}
            peers = [s for tool, s in median.items() if not tool.startswith("dualroot")]
            base, most = min(peers or median.values()), max(median.values())
            text += f"\n**{work}**\n\n| tool | seconds | ratio | CPU s | peak MiB | written MB | |\n"
            text += "| --- | ---: | ---: | ---: | ---: | ---: | --- |\n"
            for tool, seconds in sorted(median.items(), key=lambda x: x[1]):
                cells = [f"{seconds:.{2 if seconds > 0.1 else 3}f}", f"{seconds / base:.2f}"]
                for what, unit in (("cpu", 1), ("memory", MB), ("written", 1e6)):
                    value = self.median(work, tool, what)
                    cells.append("" if value is None else f"{value / unit:.2f}" if what != "memory" else f"{value / unit:.0f}")
                bar = "█" * max(1, round(20 * seconds / most))
                name = f"**{tool}**" if tool.startswith("dualroot") else "`" + tool.replace("|", "\\|") + "`"
                text += f"| {name} | {' | '.join(cells)} | {bar} |\n"
        return text


def run(*command):
    """A tool that must succeed: what it printed."""
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        sys.exit(f"{' '.join(command)}: {done.stdout}{done.stderr}")
    return done.stdout


def there(peers):
    """Those of the peers that are installed."""
    for tool in [tool for tool, command in peers.items() if not shutil.which(command.split()[0])]:
        print(f"no {tool}: measured without it", file=sys.stderr)
        del peers[tool]
    return peers


def measured(command, medium=None):
    """Runs a shell command that must succeed: what it cost and what it printed."""
    before = medium.written() if medium else 0
    with tempfile.NamedTemporaryFile("r") as cost:
        # time(1), since a child of Python's own has been as large as Python.
        words = ["time", "-o", cost.name, "-f", "%U %S %M", "sh", "-c", command]
        begun = time.monotonic()
        done = subprocess.run(words, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False)
        seconds, said = time.monotonic() - begun, done.stdout
        if done.returncode:
            sys.exit(f"{command}: exit {done.returncode}\n{said}")
        user, system, kilobytes = map(float, cost.read().split())
    values = {"seconds": seconds, "cpu": user + system, "memory": kilobytes * 1024}
    if medium:
        values["written"] = medium.written() - before
    return values, said


def tree(top, files=20000, big=6):
    """Sizes as in a system root: many small files, few large ones; the same tree every time."""
    chance = random.Random(20000)
    block = chance.randbytes(1 << 20)
    for n in range(files):
        path = f"{top}/usr/d{n // 400}/s{n // 40 % 10}"
        if n % 40 == 0:
            os.makedirs(path, exist_ok=True)
        size = min(int(chance.lognormvariate(8.6, 2.0)), 64 << 20)
        with open(f"{path}/f{n}", "wb") as file:
            while size > 0:
                at = chance.randrange(1 << 19)
                size -= file.write(block[at : at + min(size, 1 << 19)])
    for n in range(big):
        with open(f"{top}/big{n}", "wb") as file:
            for _ in range(96):
                file.write(block)
    for n in range(min(files, 400)):
        os.symlink(f"f{n}", f"{top}/usr/link{n}")


def change(top, share, seed):
    """Writes to so many of the files, each anew; the bytes that these have."""
    chance = random.Random(seed)
    names = sorted(os.path.join(path, name) for path, _, all in os.walk(f"{top}/usr") for name in all)
    names = [name for name in names if not os.path.islink(name)]
    total = 0
    for name in chance.sample(names, int(len(names) * share)):
        size = os.path.getsize(name)
        with open(name, "wb") as file:
            file.write(chance.randbytes(size))
        total += size
    return total


def large(top):
    """1 GiB, nearly all of it in 11 files."""
    tree(top, files=40, big=11)


class Bench:
    """The media and what is measured on them."""

    def __init__(self, arguments, work, size):
        self.arguments, self.figures, self.made = arguments, Figures(), None
        self.source, self.slot, self.other = (Medium(work, name, size) for name in ("source", "slot", "other"))

    def close(self):
        for medium in (self.other, self.slot, self.source):
            medium.detach()

    def prepare(self, make, *words):
        """The source, and what it says of itself, unless it is there already."""
        if self.made == (make, words):
            return
        self.made = (make, words)
        self.source.unmount()
        self.source.format(*words)
        self.source.mount()
        make(self.source.point)
        for name in ("etc", "altroot"):
            os.makedirs(f"{self.source.point}/{name}", exist_ok=True)
        with open(f"{self.source.point}/etc/fstab", "w", encoding="ascii") as fstab:
            fstab.write(f"{self.source.part} / ext4 rw 1 1\n{self.slot.part} /altroot ext4 rw,noauto 0 0\n")
        os.sync()

    def dualroot(self, *words):
        """One command of ours: what it cost, and its report where it makes one."""
        command = [self.arguments.dualroot, "-r", self.source.point, "--json", "--progress", "none", *words]
        values, said = measured(" ".join(command), self.slot)
        line = [l for l in said.splitlines() if l.startswith("{")]
        return values, json.loads(line[0]) if line else None

    def peers(self, kinds):
        """Commands that copy the source to the other medium, which is mounted."""
        s, t = self.source.point, self.other.point
        all = {
            "cp -a": f"cp -ax {s}/. {t}/",
            "rsync -aHAX": f"rsync -aHAXx --delete {s}/ {t}/",
            "tar | tar": f"tar -C {s} --one-file-system -cf - . | tar -C {t} -xpf -",
            "xcp": f"xcp -r --no-progress {s}/* {t}/",
            "cpdup": f"cpdup -i0 -s0 -x {s} {t}",
        }
        return there({tool: all[tool] for tool in kinds})

    def rounds(self, one):
        """The first round warms the caches."""
        before = set(self.figures.runs)
        for n in range(self.arguments.runs + 1):
            one(n)
            if n == 0:
                self.figures.keep_only(before)
            print(".", end="", flush=True, file=sys.stderr)
        print(file=sys.stderr)

    def tree(self):
        self.prepare(tree)
        self.copies("copy to a new file system", ("cp -a", "rsync -aHAX", "tar | tar", "xcp", "cpdup"))

    def copies(self, name, kinds):
        peers = self.peers(kinds)

        def one(_):
            for tool, command in peers.items():
                self.other.format(*self.made[1])
                self.other.mount()
                values, _ = measured(f"{command} && umount {self.other.point}", self.other)
                self.figures.add(name, tool, **values)
            values, report = self.dualroot("snapshot", "--fresh")
            pair = report["pairs"][0]
            self.figures.add(name, "dualroot, the copy", seconds=pair["copy_seconds"])
            self.figures.add(name, "dualroot, copy and read back", seconds=pair["seconds"])
            self.figures.add(name, "dualroot, whole command", **values)

        self.rounds(one)

    def refresh(self):
        self.prepare(tree)
        peers = self.peers(("rsync -aHAX", "cpdup"))
        self.dualroot("snapshot", "--fresh")
        self.other.format()
        self.other.mount()
        for command in peers.values():
            measured(command)
        self.other.unmount()
        time.sleep(2)

        def one(n):
            for share, work in ((0, "nothing changed"), (0.01, "1 % of the files changed"), (0.3, "30 % changed")):
                bytes = change(self.source.point, share, n * 10 + share)
                os.sync()
                for tool, command in peers.items():
                    mount = f"mount -o noatime {self.other.part} {self.other.point}"
                    values, _ = measured(f"{mount} && {command} && umount {self.other.point}", self.other)
                    self.figures.add(work, tool, **values)
                values, report = self.dualroot("snapshot", "--verify", "changed")
                pair = report["pairs"][0]
                assert pair["refreshed"], report
                self.figures.add(work, "dualroot --verify changed", **values)
                self.figures.add(work, "dualroot, its copy alone", seconds=pair["copy_seconds"])
                if share:
                    ratio = values["written"] / bytes
                    print(f"{work}: {ratio:.2f} bytes were written for each that changed", file=sys.stderr)
                time.sleep(1.1)
            values, _ = self.dualroot("snapshot")
            self.figures.add("nothing changed, everything read", "dualroot", **values)
            values, _ = measured(f"rsync -aHAXxc --delete --dry-run {self.source.point}/ {self.slot_point()}/")
            self.figures.add("nothing changed, everything read", "rsync -aHAXc", **values)
            self.slot.unmount()
            time.sleep(1.1)

        self.rounds(one)

    def slot_point(self):
        self.slot.mount()
        return self.slot.point

    def raw(self):
        """The whole slice. Of an ext4 dualroot copies all blocks, as dd does."""
        self.prepare(tree)
        name = "the slice, block by block"
        dd = "dd bs=1M iflag=direct oflag=direct status=none"
        copy = f"{dd} if={self.source.part} of={self.other.part}"
        peers = {
            "dd direct": f"{copy} conv=fsync",
            "dd direct, cmp": f"{copy} conv=fsync && dd bs=1M iflag=direct status=none if={self.other.part} | cmp - {self.source.part}",
            "partclone": f"partclone.ext4 -b -q -s {self.source.part} -O {self.other.part} 2>&1",
        }
        peers = there(peers)
        run("umount", self.source.point)
        run("mount", "-o", "ro", self.source.part, self.source.point)

        def one(_):
            for tool, command in peers.items():
                if tool == "partclone":
                    run("umount", self.source.point)
                values, _ = measured(command, self.other)
                self.figures.add(name, tool, **values)
                if tool == "partclone":
                    run("mount", "-o", "ro", self.source.part, self.source.point)
            values, report = self.dualroot("snapshot", "--method", "block", "--fresh")
            pair = report["pairs"][0]
            self.figures.add(name, "dualroot --method block, the copy", seconds=pair["copy_seconds"])
            self.figures.add(name, "dualroot --method block, whole command", **values)

        self.rounds(one)
        run("umount", self.source.point)
        self.source.mount()

    def ufs(self):
        """A UFS of which only so much is in use: dualroot copies that, dd everything. What partclone does is
        to copy an ext4 with the same files, since Debian's knows no UFS."""
        dd = f"dd bs=1M iflag=direct oflag=direct status=none if={self.source.part} of={self.other.part} conv=fsync count=1024"
        compare = f"dd bs=1M iflag=direct status=none count=1024 if={self.other.part} | cmp -n {1 << 30} - {self.source.part}"
        self.source.unmount()
        self.made = None
        for share in (10, 50, 95):
            name = f"a UFS of 1 GiB, {share} % full, block by block"
            with tempfile.TemporaryDirectory(dir=os.path.dirname(self.source.point)) as work:
                files, image = os.path.join(work, "files"), os.path.join(work, "image")
                filled(files, share * (1 << 30) // 100)
                options = "version=2,bsize=32768,fsize=4096,density=65536,minfree=0"
                run("makefs", "-t", "ffs", "-s", "1g", "-o", options, image, files)
                bmap = f"bmaptool -q create -o {image}.bmap {image}"
                peers = there({
                    "dd direct": dd,
                    "dd direct, then cmp": f"{dd} && {compare}",
                    "bmaptool, from a file": f"bmaptool -q copy --bmap {image}.bmap {image} {self.other.part}",
                    "partclone of an ext4": f"partclone.ext4 -b -q -s {self.slot.part} -O {self.other.part} 2>&1",
                })
                if "bmaptool, from a file" in peers:
                    run("sh", "-c", f"fallocate -d {image} && {bmap}")
                run("dd", "bs=1M", "status=none", f"if={image}", f"of={self.source.part}", "conv=fsync")
                run("mkfs.ext4", "-q", "-F", "-E", "nodiscard,lazy_itable_init=0", "-m", "0", "-d", files, self.slot.part, "1g")

                def one(_):
                    for tool, command in peers.items():
                        self.figures.add(name, tool, **measured(command, self.other)[0])
                    before = self.other.written()
                    said = run(self.arguments.block, self.source.part, self.other.part)
                    phases = dict(line.split()[:2] for line in said.splitlines() if line[:4] in ("copy", "prov", "head"))
                    copied = float(phases["copy"]) + float(phases["head"])
                    self.figures.add(name, "dualroot's core", seconds=copied, written=self.other.written() - before)
                    self.figures.add(name, "dualroot's core, and read back", seconds=copied + float(phases["prove"]))

                self.rounds(one)

    def verify(self):
        """Large files, read as fast as dd reads them past the cache, and compared."""
        name = "1 GiB in large files, read and compared"
        self.prepare(large)
        self.dualroot("snapshot", "--fresh")

        def one(_):
            mount = f"mount -o ro {self.slot.part} {self.slot.point}"
            cat = f"cat {self.slot.point}/big* >/dev/null"
            direct = f"for f in {self.slot.point}/big*; do dd bs=1M iflag=direct status=none if=$f of=/dev/null; done"
            for tool, command in (("dd direct", direct), ("cat", cat)):
                self.figures.add(name, tool, **measured(f"{mount} && {command} && umount {self.slot.point}")[0])
            self.figures.add(name, "dualroot verify", **self.dualroot("verify")[0])

        self.rounds(one)

    def start(self):
        self.prepare(tree)
        self.dualroot("snapshot")
        self.rounds(lambda _: self.figures.add("start", "dualroot show", **self.dualroot("show")[0]))


def filled(top, size):
    """Files of about 1 MiB that fill so much of a file system, what it needs for itself left out."""
    chance = random.Random(size)
    block = chance.randbytes(2 << 20)
    os.makedirs(top)
    number, left = 0, size - (64 << 20)
    while left > 0:
        length = min(left, chance.randrange(1 << 21))
        with open(f"{top}/f{number}", "wb") as file:
            file.write(block[:length])
        number, left = number + 1, left - length - 4096


def small(number):
    """So many files of 100 bytes, 500 in a directory."""

    def make(top):
        for n in range(number):
            if n % 500 == 0:
                path = f"{top}/d{n // 25000}/s{n // 500 % 50}"
                os.makedirs(path)
            with open(f"{path}/f{n}", "wb") as file:
                file.write(b"%100d" % n)

    return make


def growth(arguments, work):
    """Time for each file, few and many."""
    text = "\n**growth**\n\n| files | copy, µs each | copy and read back, µs each | `cp -a`, µs each | peak MiB |\n"
    text += "| ---: | ---: | ---: | ---: | ---: |\n"
    for number in (10_000, 1_000_000):
        bench = Bench(arguments, work, 8 << 30 if number > 10_000 else 1 << 30)
        try:
            bench.prepare(small(number), "-N", str(number + number // 10 + 1000), "-b", "1024")
            bench.copies("growth", ("cp -a",))
            figures = bench.figures
            each = [figures.median("growth", what) / number * 1e6
                    for what in ("dualroot, the copy", "dualroot, copy and read back", "cp -a")]
            memory = figures.median("growth", "dualroot, whole command", "memory") / MB
            text += f"| {number} | {each[0]:.1f} | {each[1]:.1f} | {each[2]:.1f} | {memory:.0f} |\n"
        finally:
            bench.close()
    return text


def machine():
    """Where it was measured."""
    with open("/proc/cpuinfo", encoding="ascii", errors="replace") as info:
        model = next((l.split(":", 1)[1].strip() for l in info if l.startswith("model name")), platform.machine())
    return f"{os.cpu_count()} cores ({model}), Linux {platform.release().split('-')[0]}, loop devices in memory, ext4"


def main():
    """The command line."""
    parser = argparse.ArgumentParser(prog="bench.sh")
    parser.add_argument("--dualroot", required=True, help=argparse.SUPPRESS)
    parser.add_argument("--block", required=True, help=argparse.SUPPRESS)
    parser.add_argument("--into", required=True, help=argparse.SUPPRESS)
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--readme", action="store_true")
    parser.add_argument("suite", nargs="*")
    arguments = parser.parse_args()
    suites = arguments.suite or SUITES[:-1]
    for suite in suites:
        if suite not in SUITES:
            parser.error(f"no suite {suite}")
    # What ends it gives the media back too.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    shm = "/dev/shm"
    free = os.statvfs(shm)
    where = shm if free.f_bavail * free.f_frsize > 6 << 30 else None
    runs = f"Medians of {arguments.runs} alternating runs" if arguments.runs > 1 else "One run after one that warmed the caches"
    heading, text = f"{runs}; {machine()}.\n", {}
    with tempfile.TemporaryDirectory(prefix="dualroot-bench.", dir=where) as work:
        if set(suites) - {"growth"}:
            bench = Bench(arguments, work, 2 << 30)
            try:
                for suite in suites:
                    if suite != "growth":
                        getattr(bench, suite)()
                        text[suite] = heading + bench.figures.table()
                        bench.figures.keep_only(())
            finally:
                bench.close()
        if "growth" in suites:
            text["growth"] = heading + growth(arguments, work)
    print("\n".join(text.values()))
    if arguments.readme:
        with open(arguments.into, encoding="utf-8") as readme:
            page = readme.read()
        for suite, figures in text.items():
            begin, end = BEGIN.format(suite), END.format(suite)
            before, rest = page.split(begin)
            page = before + begin + figures + end + rest.split(end)[1]
        with open(arguments.into, "w", encoding="utf-8") as readme:
            readme.write(page)


if __name__ == "__main__":
    main()
