#!/usr/bin/env python3
"""Cuts the power of a FreeBSD appliance while it works, and looks at what is left.

    powercut.py --image FILE --work DIR --in TAR --qemu PROGRAM --accel NAME [--seed N] [--count N]
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
from box import UNPACK, Box, Failure, ask, must
from console import GuestError
from scenario import PROGRAM, SCENARIOS, wrong

# Replayed disks that one guest looks at.
BATCH = 40
# The scenarios of which a kill -9 is to be tried.
KILLED = ("snapshot", "refresh")


def made(box):
    """An appliance that has booted once: installed from the image's own files, as tests/vm/boot.rs
    does."""
    path = box.path("appliance.raw")
    if os.path.exists(path):
        return path
    with open(path + ".new", "wb") as disk:
        disk.truncate(800 << 20)
    words = box.checker() + ["-device", "virtio-scsi-pci", "-drive",
                             f"file={path}.new,format=raw,if=none,id=own,cache=unsafe", "-device", "scsi-hd,drive=own"]
    box.session(words, f"{UNPACK} && sh /root/in/begin.sh boot::made_mbr", 2400)
    box.session(box.appliance(path + ".new", "raw"), "true")
    os.rename(path + ".new", path)
    return path


def prepared(box, name):
    """The disk that a scenario begins with."""
    appliance = made(box)
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
    """Cut points: a third at flushes, a third anywhere, a third with any of the writes between; each
    once, so that there are fewer where there are not so many."""
    chance = random.Random(seed)
    flushes = log.flushes(start)
    bounds = [f"p{n}" for n in flushes]
    cuts = chance.sample(bounds, min(len(bounds), number // 3))
    cuts += [f"s{chance.choice(flushes)}:{chance.randrange(1 << 20)}" for _ in range(number // 3) if flushes]
    anywhere = [cut for cut in (f"p{n}" for n in range(start, end + 1)) if cut not in cuts]
    cuts += chance.sample(anywhere, min(len(anywhere), number - len(cuts)))
    chance.shuffle(cuts)
    return cuts


def looked_at(box, base, log, cuts, running):
    """What a guest finds on the disks that these cuts leave: a dictionary for each."""
    words = box.checker()
    for n, cut in enumerate(cuts):
        path = box.path(f"cut-{n}.qcow2")
        log.disk(base, cut, path)
        slot, function = divmod(n, 8)
        words += ["-drive", f"file={path},format=qcow2,if=none,id=cut{n},cache=unsafe", "-device",
                  f"virtio-blk-pci,drive=cut{n},addr={slot + 8:x}.{function},multifunction=on,serial=cut{n}"]
    guest = box.start(words)
    found = {}
    try:
        must(guest, UNPACK)
        for n, cut in enumerate(cuts):
            kind = "-p" if cut[0] == "p" else "-y"
            _, lines = ask(guest, f"sh /root/in/look.sh cut{n} {kind} {running}", 600)
            facts = dict(line.split("=", 1) for line in lines if re.match(r"[a-z]+=", line))
            facts["said"] = lines
            found[cut] = facts
    finally:
        guest.close()
        for n in range(len(cuts)):
            os.unlink(box.path(f"cut-{n}.qcow2"))
    return found


def boot(box, disk, form, boots):
    """The box comes up from a disk, and does what it is told, once for each of `boots`."""
    for slot, command in boots:
        there = f"mount -p | head -n1 | grep '^/dev/da0s{slot}a'"
        box.session(box.appliance(disk, form), f"{there} && {command}")


def replays(box, name, arguments):
    """Cut points of a recorded run; how many violate something."""
    scenario = SCENARIOS[name]
    base, log, start, end = recorded(box, name)
    print(f"{name}: {end - start} requests, {len(log.flushes(start))} flushes", flush=True)
    cuts = arguments.cut or choose(log, start, end, arguments.seed, arguments.count)
    cuts = list(dict.fromkeys(cuts))
    other = blocklog.slice_of(base, 3 - scenario.running)
    again = f"vm/powercut.sh --scenario {name} --cut"
    running, bad, asked, states, bootable = None, 0, [], {}, {}
    for first in range(0, len(cuts), BATCH):
        batch = cuts[first : first + BATCH]
        # The run's beginning tells what the running slot is.
        found = looked_at(box, base, log, [f"p{start}"] + batch, scenario.running)
        running = running or found[f"p{start}"].get("running")
        for cut in batch:
            facts = found[cut]
            facts["touched"] = log.touches(cut, start, *other)
            said = f"{facts.get('active')}, {facts.get('state')}"
            states[said] = states.get(said, 0) + 1
            if cut[0] == "p" and facts.get("preen") != "0":
                asked.append(cut)
            violated = wrong(scenario, cut, facts, running)
            for what in violated:
                bad += 1
                print(f"VIOLATED {name} seed {arguments.seed} cut {cut}: {what}\n  {again} {cut}", flush=True)
            if not violated and cut[0] == "p" and scenario.boots(facts):
                bootable[cut] = scenario.boots(facts)
        print(f"{name}: {first + len(batch)} of {len(cuts)} looked at (active slice, other slot): {states}", flush=True)
    if asked:
        # ffs_snapshot's own order of writes, of which `dualroot check` tells.
        print(f"{name}: fsck -p was not enough, and -y was: {' '.join(asked)}", flush=True)
    chance = random.Random(arguments.seed)
    for cut in chance.sample(list(bootable), min(arguments.boots, len(bootable))):
        path = box.path("booted.qcow2")
        log.disk(base, cut, path)
        slots = ", then ".join(f"slot {slot}" for slot, _ in bootable[cut])
        try:
            boot(box, path, "qcow2", bootable[cut])
            print(f"{name}: {cut} booted from {slots}, and went on", flush=True)
        except (Failure, GuestError) as error:
            bad += 1
            print(f"VIOLATED {name} cut {cut}, booted from {slots}: {error}\n  {again} {cut} --boots 1", flush=True)
    return bad


def kills(box, name, arguments):
    """kill -9 of QEMU at random moments, one boot after the other; how many did not come up."""
    scenario = SCENARIOS[name]
    disk = box.overlay("killed.qcow2", prepared(box, name), "raw")
    chance = random.Random(arguments.seed)
    seconds = None
    for n in range(arguments.kill + 1):
        try:
            guest = box.start(box.appliance(disk, "qcow2"))
        except GuestError as error:
            print(f"VIOLATED kill {n} seed {arguments.seed}: it did not come up: {error}; {disk} is kept", flush=True)
            return 1
        try:
            must(guest, f"mount -p | head -n1 | grep '^/dev/da0s1a' && {PROGRAM} show")
            if seconds is None:
                begun = time.monotonic()
                must(guest, scenario.run)
                seconds = time.monotonic() - begun
            elif n == arguments.kill:
                must(guest, f"{scenario.run} && {PROGRAM} verify")
            if n < arguments.kill:
                wait = chance.random() * seconds
                guest.send(f"{scenario.run}\n")
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
    parser = argparse.ArgumentParser(usage=__doc__)
    for name in ("image", "work", "qemu", "accel"):
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
