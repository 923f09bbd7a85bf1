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
from console import Guest, GuestError

# Replayed disks that one guest looks at.
BATCH = 40
# What a run does, by scenario: before it is recorded, and then.
PROGRAM = "/root/in/dualroot --progress none"
SCENARIOS = {
    "snapshot": ("true", f"{PROGRAM} snapshot"),
    "refresh": (f"{PROGRAM} snapshot && date >/etc/changed && rm -f /etc/motd.template", f"{PROGRAM} snapshot"),
}


class Failure(Exception):
    """The proof could not be made."""


class Box:
    """Makes and boots guests."""

    def __init__(self, arguments):
        self.arguments = arguments
        self.log = open(os.path.join(arguments.work, "serial.log"), "ab")

    def path(self, name):
        return os.path.join(self.arguments.work, name)

    def start(self, words):
        """A guest that somebody is logged in to."""
        command = [self.arguments.qemu, "-accel", self.arguments.accel, "-m", "1G",
                   # Without KVM on a busy host a FreeBSD that starts a second CPU panics now and then.
                   "-smp", "2" if self.arguments.accel == "kvm" else "1",
                   "-nographic", "-nic", "none", "-no-reboot"]
        guest = Guest(command + words, self.log)
        try:
            guest.login(time.monotonic() + 600)
        except GuestError:
            guest.close()
            raise
        return guest

    def appliance(self, disk, form, more=""):
        """QEMU's words for the appliance's own disk: da0."""
        drive = f"file={disk},format={form},if=none,id=own,cache=unsafe{more}"
        return ["-device", "virtio-scsi-pci", "-drive", drive, "-device", "scsi-hd,drive=own,bootindex=0"]

    def overlay(self, name, base, form):
        """A disk over another one."""
        path = self.path(name)
        subprocess.run(["qemu-img", "create", "-q", "-f", "qcow2", "-F", form, "-b", base, path], check=True)
        return path

    def checker(self):
        """QEMU's words for the image itself, with the program and the tests."""
        disk = self.overlay("checker.qcow2", self.arguments.image, "raw")
        return ["-drive", f"file={disk},format=qcow2,if=none,id=sys,cache=unsafe",
                "-device", "virtio-blk-pci,drive=sys,bootindex=0",
                "-drive", f"file={self.arguments.tar},format=raw,if=none,id=in,cache=unsafe",
                "-device", "virtio-blk-pci,drive=in"]


UNPACK = "mkdir -p /root && tar xf /dev/vtbd1 -C /root"


def ask(guest, command, seconds=900):
    """Runs a command in the guest: its exit code and its lines."""
    guest.send("echo BEG''UN; " + command + "; result=$?; echo; echo EN''DED:$result\n")
    end = time.monotonic() + seconds
    guest.expect(rb"BEGUN\r?\n", end)
    lines = []
    while True:
        line = guest.expect(rb"([^\n]*)\n", end).group(1).rstrip(b"\r").decode(errors="replace")
        ended = re.fullmatch(r"ENDED:(\d+)", line)
        if ended:
            return int(ended.group(1)), lines
        lines.append(line)


def must(guest, command, seconds=900):
    """The same for what must succeed."""
    code, lines = ask(guest, command, seconds)
    if code:
        raise Failure(f"{command}: exit {code}\n" + "\n".join(lines))
    return lines


def made(box):
    """An appliance that has booted once: installed from the image's own files, as tests/vm/boot.rs
    does."""
    path = box.path("appliance.raw")
    if os.path.exists(path):
        return path
    with open(path + ".new", "wb") as disk:
        disk.truncate(800 << 20)
    guest = box.start(box.checker() + ["-device", "virtio-scsi-pci",
                      "-drive", f"file={path}.new,format=raw,if=none,id=own,cache=unsafe",
                      "-device", "scsi-hd,drive=own"])
    try:
        must(guest, f"{UNPACK} && sh /root/in/begin.sh boot::made_mbr", 2400)
        guest.power_off()
    finally:
        guest.close()
    guest = box.start(box.appliance(path + ".new", "raw"))
    try:
        must(guest, "true")
        guest.power_off()
    finally:
        guest.close()
    os.rename(path + ".new", path)
    return path


def prepared(box, scenario):
    """The disk that a scenario begins with."""
    appliance = made(box)
    path = box.path(f"base-{scenario}.raw")
    if not os.path.exists(path):
        subprocess.run(["cp", "--sparse=always", appliance, path + ".new"], check=True)
        guest = box.start(box.appliance(path + ".new", "raw"))
        try:
            must(guest, SCENARIOS[scenario][0])
            guest.power_off()
        finally:
            guest.close()
        os.rename(path + ".new", path)
    return path


def recorded(box, scenario):
    """What the guest wrote from its start to the end of the run: base, log, first and last request
    of the run."""
    base, log, note = prepared(box, scenario), box.path(f"log-{scenario}"), box.path(f"log-{scenario}.json")
    if not os.path.exists(note):
        disk = box.overlay("recorded.qcow2", base, "raw")
        open(log, "wb").close()
        words = ["-device", "virtio-scsi-pci", "-blockdev",
                 f"driver=blklogwrites,node-name=own,file.driver=qcow2,file.file.driver=file,"
                 f"file.file.filename={disk},log.driver=file,log.filename={log},log-super-update-interval=1",
                 "-device", "scsi-hd,drive=own,bootindex=0"]
        guest = box.start(words)
        try:
            must(guest, "sync; sleep 3")
            start = blocklog.count(log)
            must(guest, SCENARIOS[scenario][1])
            end = blocklog.count(log)
        finally:
            guest.close()
        with open(note, "w", encoding="ascii") as out:
            json.dump([start, end], out)
    with open(note, encoding="ascii") as text:
        start, end = json.load(text)
    return base, blocklog.Log(log, end), start, end


def choose(log, start, end, seed, number):
    """Cut points: a third at flushes, a third anywhere, a third with any of the writes between."""
    chance = random.Random(seed)
    flushes = log.flushes(start)
    bounds = [f"p{n}" for n in flushes]
    cuts = chance.sample(bounds, min(len(bounds), number // 3))
    cuts += [f"s{chance.choice(flushes)}:{chance.randrange(1 << 20)}" for _ in range(number // 3) if flushes]
    while len(cuts) < number:
        cuts.append(f"p{chance.randint(start, end)}")
    return cuts


def looked_at(box, base, log, cuts):
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
            _, lines = ask(guest, f"sh /root/in/look.sh cut{n} {kind}", 600)
            facts = dict(line.split("=", 1) for line in lines if re.match(r"[a-z]+=", line))
            facts["said"] = lines
            found[cut] = facts
    finally:
        guest.close()
        for n in range(len(cuts)):
            os.unlink(box.path(f"cut-{n}.qcow2"))
    return found


def wrong(cut, facts, running):
    """What must not be."""
    if "state" not in facts:
        return ["it could not be looked at: " + " / ".join(facts["said"][-6:])]
    bad = []
    if cut[0] == "p" and facts["fsck"] != "0":
        bad.append(f"fsck -p of the running slot ends with {facts['fsck']}")
    if facts["running"] != running:
        lines = [line for line in facts["said"] if line.startswith("differs: ")]
        bad.append("the files of the running slot have changed: " + " / ".join(lines))
    if facts["active"] != "1":
        bad.append(f"slice {facts['active']} is active, the running one is 1")
    if facts["state"] == "valid":
        for what in ("verify", "mtree", "sound"):
            if facts[what] != "0":
                bad.append(f"valid, and {what} ends with {facts[what]}")
    return bad


def boot(box, disk, form, finish):
    """The box comes up from a disk; with `finish` the next snapshot is made."""
    guest = box.start(box.appliance(disk, form))
    try:
        root = must(guest, "mount -p | head -n1")[0]
        if not root.startswith("/dev/da0s1a"):
            raise Failure(f"it came up from {root}")
        must(guest, f"{PROGRAM} show")
        if finish:
            must(guest, f"{PROGRAM} snapshot && {PROGRAM} verify")
        guest.power_off()
    finally:
        guest.close()


def replays(box, scenario, arguments):
    """Cut points of a recorded run; how many violate something."""
    base, log, start, end = recorded(box, scenario)
    flushes = log.flushes(start)
    print(f"{scenario}: {end - start} requests, {len(flushes)} flushes", flush=True)
    cuts = arguments.cut or choose(log, start, end, arguments.seed, arguments.count)
    cuts = list(dict.fromkeys(cuts))
    again = f"vm/powercut.sh --scenario {scenario} --cut"
    running, bad, states = None, 0, {}
    for first in range(0, len(cuts), BATCH):
        batch = cuts[first : first + BATCH]
        # The run's beginning tells what the running slot is.
        found = looked_at(box, base, log, [f"p{start}"] + batch)
        running = running or found[f"p{start}"].get("running")
        for cut in batch:
            facts = found[cut]
            states[facts.get("state")] = states.get(facts.get("state"), 0) + 1
            for what in wrong(cut, facts, running):
                bad += 1
                print(f"VIOLATED {scenario} seed {arguments.seed} cut {cut}: {what}\n  {again} {cut}", flush=True)
        print(f"{scenario}: {first + len(batch)} of {len(cuts)} looked at: {states}", flush=True)
    chance = random.Random(arguments.seed)
    whole = [cut for cut in cuts if cut[0] == "p"]
    for cut in chance.sample(whole, min(arguments.boots, len(whole))):
        path = box.path("booted.qcow2")
        log.disk(base, cut, path)
        try:
            boot(box, path, "qcow2", True)
            print(f"{scenario}: {cut} booted, and the next snapshot was made", flush=True)
        except (Failure, GuestError) as error:
            bad += 1
            print(f"VIOLATED {scenario} cut {cut}: {error}\n  {again} {cut} --boots 1", flush=True)
    return bad


def kills(box, scenario, arguments):
    """kill -9 of QEMU at random moments, one boot after the other; how many did not come up."""
    disk = box.overlay("killed.qcow2", prepared(box, scenario), "raw")
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
                must(guest, f"{PROGRAM} snapshot")
                seconds = time.monotonic() - begun
            elif n == arguments.kill:
                must(guest, f"{PROGRAM} snapshot && {PROGRAM} verify")
            if n < arguments.kill:
                wait = chance.random() * seconds
                guest.send(f"{PROGRAM} snapshot\n")
                time.sleep(wait)
                print(f"kill {n + 1}: {wait:.1f} s into a snapshot of {seconds:.1f} s", flush=True)
        except Failure as error:
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
        for scenario in arguments.scenario or list(SCENARIOS):
            if arguments.kill:
                bad += kills(box, scenario, arguments)
            else:
                bad += replays(box, scenario, arguments)
    except (Failure, GuestError) as error:
        print(f"powercut.py: {error}", file=sys.stderr)
        return 2
    print(f"{bad} violations")
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())
