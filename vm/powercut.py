#!/usr/bin/env python3
"""Cuts the power of a FreeBSD appliance while it works, and looks at what is left.

    powercut.py --image FILE --work DIR --in TAR --qemu PROGRAM --accel NAME --cpus N [--seed N] [--count N]
                [--scenario NAME] [--boots N] [--kill N] [--cut CUT]

vm/powercut.sh makes what it needs and is what to call; vm/README.md tells what is looked at.
"""

import argparse
import json
import os
import random
import re
import subprocess
import sys
import time

import blocklog
import table
from box import UNPACK, Box, Failure, Monitor, ask, must
from console import GuestError, end_in_order
from scenario import COPIED, GPT, MBR, PROGRAM, SCENARIOS, wrong

# The scenarios of which a kill -9 is to be tried.
KILLED = ("snapshot", "refresh")


def made(box, disk):
    """An appliance that has booted once: with an MBR installed from the image's own files, as
    tests/vm/boot.rs does; with a GPT made by that one as what can take its place."""
    path = box.path(f"appliance-{disk.name}.raw")
    if os.path.exists(path):
        return path
    with open(path + ".new", "wb") as empty:
        empty.truncate(800 << 20)
    medium = ["-drive", f"file={path}.new,format=raw,if=none,id=new,cache=unsafe", "-device",
              "scsi-hd,drive=new,removable=on"]
    if disk is GPT:
        maker = box.overlay("maker.qcow2", made(box, MBR), "raw")
        sizes = "--root-size 320 --config-size 16 --swap-size 0"
        command = f"{PROGRAM} --media da1 snapshot --as-primary --scheme gpt {sizes}"
        box.session(box.appliance(maker, "qcow2") + medium, command)
    else:
        words = box.checker() + ["-device", "virtio-scsi-pci"] + medium
        box.session(words, f"{UNPACK} && sh /root/in/begin.sh boot::made_mbr", 2400)
    box.session(box.appliance(path + ".new", "raw"), "true")
    os.rename(path + ".new", path)
    return path


def prepared(box, name):
    """The disk that a scenario begins with."""
    appliance = made(box, SCENARIOS[name].disk)
    path = box.path(f"base-{name}.raw")
    if not os.path.exists(path):
        subprocess.run(["cp", "--sparse=always", appliance, path + ".new"], check=True)
        for command in SCENARIOS[name].before:
            box.session(box.appliance(path + ".new", "raw"), command)
        os.rename(path + ".new", path)
    return path


def recorded(box, name):
    """What the guest wrote from its start to the end of the run: base, log, first and last request
    of the run."""
    base, log, note = prepared(box, name), box.path(f"log-{name}"), box.path(f"log-{name}.json")
    if not os.path.exists(note):
        guest = box.start(box.recorder(base, log))
        try:
            must(guest, SCENARIOS[name].first)
            must(guest, "sync; sleep 3")
            start = blocklog.count(log)
            must(guest, SCENARIOS[name].run)
            end = blocklog.count(log)
        finally:
            guest.close()
        with open(note, "w", encoding="ascii") as out:
            json.dump([start, end], out)
    with open(note, encoding="ascii") as text:
        start, end = json.load(text)
    return base, blocklog.Log(log, end), start, end


def choose(log, start, end, seed, number):
    """Cut points: a third at flushes, a third anywhere, a third with any of the writes between, those
    before the first flush among them; each once, so that there are fewer where there are not so many."""
    chance = random.Random(seed)
    bounds = [start, *log.flushes(start)]
    cuts = [f"p{n}" for n in chance.sample(bounds, min(len(bounds), number // 3))]
    cuts += [f"s{chance.choice(bounds)}:{chance.randrange(1 << 20)}" for _ in range(number // 3)]
    anywhere = [cut for cut in (f"p{n}" for n in range(start, end + 1)) if cut not in cuts]
    cuts += chance.sample(anywhere, min(len(anywhere), number - len(cuts)))
    chance.shuffle(cuts)
    return cuts


class Looks:
    """What guests find on the disks that cuts leave."""

    def __init__(self, box, base, log, start, scenario):
        self.box, self.base, self.log, self.start, self.disk = box, base, log, start, scenario.disk
        self.size = os.path.getsize(base)
        slots = scenario.running, 3 - scenario.running
        self.parts = [scenario.disk.parts[slot - 1] for slot in slots]
        self.spans = [[table.span(self.after(f"p{start}"), part) for part in parts] for parts in self.parts]
        # What was found on a slot, by the requests that made its bytes.
        self.known = {}

    def after(self, cut):
        """Reads the disk that a cut leaves."""
        return lambda place, length: self.log.read(self.base, cut, place, length)

    def all(self, cuts):
        """Looks at the disks of these cuts, one after the other in one guest: pairs of a cut and its
        facts, of the run's beginning first. What is on a slot is read once for the same bytes."""
        monitor = Monitor(self.box.path("monitor"))
        guest = self.box.start(self.box.checker() + ["-device", "virtio-scsi-pci,id=bus"] + monitor.words)
        try:
            must(guest, UNPACK)
            for n, cut in enumerate([f"p{self.start}"] + cuts):
                # The one before may still be on its way out.
                path = self.box.path(f"cut-{n}.qcow2")
                self.log.disk(self.base, cut, path)
                monitor.ask(f"drive_add 0 file={path},format=qcow2,if=none,id=cut{n},cache=unsafe")
                os.unlink(path)
                monitor.ask(f"device_add scsi-hd,drive=cut{n},id=medium{n},bus=bus.0")
                yield cut, self.look(guest, cut)
                monitor.ask(f"device_del medium{n}")
                must(guest, "while [ -e /dev/da0 ]; do sleep 0.1; done", 600)
        finally:
            guest.close()

    def look(self, guest, cut):
        how = "-p" if cut[0] == "p" else "-y"
        own, other = (self.log.touching(cut, self.start, spans) for spans in self.spans)
        kinds = {"own": ((how, own), ("running",)), "other": (other, ("verify", "mtree", "sound"))}
        known = [kind for kind, (key, _) in kinds.items() if (kind, key) in self.known]
        parts = " ".join(f"'{' '.join(parts)}'" for parts in self.parts)
        _, lines = ask(guest, f"sh /root/in/look.sh {how} {parts} {' '.join(known)}", 600)
        facts = dict(line.split("=", 1) for line in lines if re.match(r"[a-z]+=", line))
        for kind, (key, names) in kinds.items():
            if kind in known:
                facts.update(self.known[kind, key])
            elif names[0] in facts:
                self.known[kind, key] = {name: facts[name] for name in names}
        facts["touched"] = bool(other)
        facts["starts"] = table.starts(self.disk, self.after(cut), self.size)
        facts["said"] = lines
        return facts


def runs(disk, slot):
    """A command that succeeds where this slot runs."""
    return f"mount -p | head -n1 | grep '^/dev/da0{disk.parts[slot - 1][0]}'"


def boot(box, scenario, path, boots):
    """The box comes up from a disk, and does what it is told, once for each of `boots`."""
    for slot, command in boots:
        box.session(box.appliance(path, "qcow2"), f"{runs(scenario.disk, slot)} && {command}")


def replays(box, name, arguments):
    """Cut points of a recorded run; how many violate something."""
    scenario = SCENARIOS[name]
    base, log, start, end = recorded(box, name)
    print(f"{name}: {end - start} requests, {len(log.flushes(start))} flushes", flush=True)
    cuts = arguments.cut or choose(log, start, end, arguments.seed, arguments.count)
    cuts = list(dict.fromkeys(cuts))
    looks = Looks(box, base, log, start, scenario)
    again = f"vm/powercut.sh --scenario {name} --cut"
    running, bad, asked, states, bootable = None, 0, [], {}, {}
    for number, (cut, facts) in enumerate(looks.all(cuts)):
        if running is None:
            running = facts.get("running")
            continue
        said = f"{facts['starts']}, {facts.get('state')}"
        states[said] = states.get(said, 0) + 1
        if cut[0] == "p" and facts.get("preen") != "0":
            asked.append(cut)
        violated = wrong(scenario, cut, facts, running)
        for what in violated:
            bad += 1
            print(f"VIOLATED {name} seed {arguments.seed} cut {cut}: {what}\n  {again} {cut}", flush=True)
        if not violated and cut[0] == "p" and scenario.boots(facts):
            bootable[cut] = scenario.boots(facts)
        if number % 20 == 0 or number == len(cuts):
            print(f"{name}: {number} of {len(cuts)} looked at (what starts, other slot): {states}", flush=True)
    if asked:
        # ffs_snapshot's own order of writes, of which `dualroot check` tells.
        print(f"{name}: fsck -p was not enough, and -y was: {' '.join(asked)}", flush=True)
    chance = random.Random(arguments.seed)
    for cut in chance.sample(list(bootable), min(arguments.boots, len(bootable))):
        path = box.path("booted.qcow2")
        log.disk(base, cut, path)
        slots = ", then ".join(f"slot {slot}" for slot, _ in bootable[cut])
        try:
            boot(box, scenario, path, bootable[cut])
            print(f"{name}: {cut} booted from {slots}, and went on", flush=True)
        except (Failure, GuestError) as error:
            bad += 1
            print(f"VIOLATED {name} cut {cut}, booted from {slots}: {error}\n  {again} {cut} --boots 1", flush=True)
    return bad


def kills(box, name, arguments):
    """kill -9 of QEMU at random moments, one boot after the other; how many did not come up."""
    scenario = SCENARIOS[name]
    # Raw: a qcow2's own tables would lose what soft updates have ordered.
    disk = box.path("killed.raw")
    subprocess.run(["cp", "--sparse=always", prepared(box, name), disk], check=True)
    chance = random.Random(arguments.seed)
    seconds = None
    for n in range(arguments.kill + 1):
        try:
            guest = box.start(box.appliance(disk, "raw"))
        except GuestError as error:
            print(f"VIOLATED kill {n} seed {arguments.seed}: it did not come up: {error}; {disk} is kept", flush=True)
            return 1
        try:
            must(guest, f"{runs(scenario.disk, 1)} && {PROGRAM} show")
            if seconds is None:
                begun = time.monotonic()
                must(guest, COPIED)
                seconds = time.monotonic() - begun
            elif n == arguments.kill:
                must(guest, f"{COPIED} && {PROGRAM} verify")
            if n < arguments.kill:
                wait = chance.random() * seconds
                guest.send(f"{COPIED}\n")
                time.sleep(wait)
                print(f"kill {n + 1}: {wait:.1f} s into a snapshot of {seconds:.1f} s", flush=True)
        except (Failure, GuestError) as error:
            print(f"VIOLATED kill {n} seed {arguments.seed}: {error}; {disk} is kept", flush=True)
            return 1
        finally:
            guest.close()
    print(f"{arguments.kill} kills: it came up each time, and the last snapshot was finished", flush=True)
    return 0


def main():
    """The command line."""
    end_in_order()
    parser = argparse.ArgumentParser(usage=__doc__)
    for name in ("image", "work", "qemu", "accel", "cpus"):
        parser.add_argument(f"--{name}", required=True)
    parser.add_argument("--in", dest="tar", required=True)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--count", type=int, default=200)
    parser.add_argument("--boots", type=int, default=3)
    parser.add_argument("--kill", type=int, default=0)
    parser.add_argument("--scenario", action="append", choices=list(SCENARIOS))
    parser.add_argument("--cut", action="append")
    arguments = parser.parse_args()
    box = Box(arguments)
    bad = 0
    try:
        for name in arguments.scenario or (KILLED if arguments.kill else SCENARIOS):
            bad += kills(box, name, arguments) if arguments.kill else replays(box, name, arguments)
    except (Failure, GuestError) as error:
        print(f"powercut.py: {error}", file=sys.stderr)
        return 2
    print(f"{bad} violations")
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())
