"""What an appliance does while its power is cut, and what must be true of it then."""

import dataclasses
import typing

PROGRAM = "/root/in/dualroot --progress none"


@dataclasses.dataclass(frozen=True)
class Disk:
    """Where the appliance has what."""

    name: str
    # The slices of both slots in the table, and the partitions of each: root, /config.
    slices: tuple
    parts: tuple


MBR = Disk("mbr", (1, 2), (("s1a", "s4d"), ("s2a", "s4e")))
# As `snapshot --as-primary --scheme gpt` makes it.
GPT = Disk("gpt", (2, 3), (("p2", "p4"), ("p3", "p5")))


@dataclasses.dataclass(frozen=True)
class Scenario:
    """One verb of the program, on an appliance. Facts are those of look.sh, and `starts`: the slots in
    the order in which the boot code tries them."""

    # What is done in each boot before the one that is recorded.
    before: tuple
    # In the recorded boot: first, and then what is recorded.
    first: str
    run: str
    # The slot that runs there: 1 or 2.
    running: int
    # What must not be: from the facts to complaints.
    wrong: typing.Callable
    # What a disk of which that is true does when it is booted: from the slot that starts to pairs of
    # the slot that must run and a command that must succeed there, a pair for each boot. Empty where
    # the boot code starts nothing.
    boots: typing.Callable
    disk: Disk = MBR


def stays(facts):
    """The running slot is what starts, whatever becomes of the other one."""
    return [] if facts["starts"] == "1" else [f"slot {facts['starts']} starts, the running one is 1"]


def switches(facts):
    """Either slot starts, and both are good."""
    return [] if facts["state"] == "valid" else [f"slot 2 was valid, and is {facts['state']}"]


def repairs(facts):
    """The broken slot was to start, and does again only when it is whole or before anything was done
    to it."""
    if facts["starts"] == "2" or facts["state"] == "valid" or not facts["touched"]:
        return []
    return [f"slot 1 starts, and is {facts['state']}: it was written to"]


def copies_again(_facts):
    return [(1, f"{PROGRAM} show && {PROGRAM} snapshot && {PROGRAM} verify")]


def switches_again(facts):
    own = int(facts["starts"][0])
    other = 3 - own
    back = f"{PROGRAM} boot {other} && {PROGRAM} boot {own} && {PROGRAM} boot {other}"
    return [(own, back), (other, f"{PROGRAM} show")]


def repairs_again(facts):
    if facts["starts"] == "2":
        status = f"{PROGRAM} auto-snapshot --status | grep -q 'State:  Completed'"
        return [(2, f"{PROGRAM} auto-snapshot && {status} && {PROGRAM} verify"), (1, f"{PROGRAM} show")]
    # Without firmware that falls back, as that of the models with an MBR does, nothing starts it.
    return [(1, f"{PROGRAM} auto-snapshot && {PROGRAM} show")] if facts["state"] == "valid" else []


COPIED = f"{PROGRAM} snapshot"
# What changes between two copies: content, sizes, modes, names, links; files and directories come and
# go; a large file is changed in two places.
LARGE = "dd if=/dev/random of=/boot/large bs=64k count=256"
PATCHED = "dd if=/dev/random of=/boot/large bs=4k count=3 conv=notrunc"
CHANGED = " && ".join((
    f"{PATCHED} seek=1000", f"{PATCHED} seek=3001",
    "for file in /etc/periodic/daily/*; do echo '# changed' >>$file; done",
    "mkdir /boot/added", "cp -Rp /etc/defaults /usr/libexec /boot/added", "rm -r /etc/periodic/monthly /usr/bin/vi",
    "mv /usr/bin/banner /usr/bin/renamed", "ln /usr/bin/awk /usr/bin/linked", "ln -s awk /usr/bin/symbolic",
    "chmod 700 /usr/bin/tail", "chown 1:1 /usr/bin/cut", "truncate -s 100000 /usr/bin/ex",
))
REFRESHED = f"said=$({COPIED}) && echo \"$said\" && echo \"$said\" | grep -q '^/: an older copy was there'"
SCENARIOS = {
    # Onto an empty slot.
    "snapshot": Scenario(("true",), "true", COPIED, 1, stays, copies_again),
    # Over an older copy, in place.
    "refresh": Scenario((f"{LARGE} && {COPIED} && {CHANGED}",), "true", REFRESHED, 1, stays, copies_again),
    # There, back and there again.
    "boot-switch": Scenario((COPIED,), "true", " && ".join(f"{PROGRAM} boot {slot}" for slot in (2, 1, 2)), 1,
                            switches, switches_again),
    # The same on a GPT, and a trial that is given up.
    "trial": Scenario((COPIED,), "true", f"{PROGRAM} boot 2 --once && {PROGRAM} reject && {PROGRAM} boot 2 && "
                      f"{PROGRAM} boot 1", 1, switches, switches_again, GPT),
    # The first slot was to run and is destroyed: the second one runs instead and repairs it, by the
    # calls of scripts/rc.d/auto-snapshot. That the firmware started the second one is put on.
    "auto-snapshot": Scenario(
        (f"{PROGRAM} auto-snapshot --enable && {COPIED} && {PROGRAM} boot 2",
         # Its superblock, and much behind it; not the label before it.
         "dd if=/dev/zero of=/dev/da0s1a bs=64k seek=1 count=128"),
        "gpart set -a active -i 1 da0",
        f"{{ {PROGRAM} auto-snapshot --assess; [ $? = 3 ]; }} && {PROGRAM} auto-snapshot", 2, repairs, repairs_again),
}


def wrong(scenario, cut, facts, running):
    """What must not be on the disk that a cut leaves; `running` is the running slot's content before."""
    if "state" not in facts:
        return ["it could not be looked at: " + " / ".join(facts["said"][-6:])]
    bad = []
    if cut[0] == "p" and facts["fsck"] != "0":
        bad.append(f"fsck -y of the running slot ends with {facts['fsck']}")
    if facts["running"] != running:
        lines = [line for line in facts["said"] if line.startswith("differs: ")]
        bad.append("the files of the running slot have changed: " + " / ".join(lines))
    if facts["starts"] not in ("1", "2", "12", "21"):
        return bad + [f"what starts is '{facts['starts']}'"]
    if facts["next"] != facts["starts"]:
        bad.append(f"slots {facts['starts']} start, and show tells of {facts['next']}")
    bad += scenario.wrong(facts)
    if facts["state"] == "valid":
        for what in ("verify", "mtree", "sound"):
            if facts[what] != "0":
                bad.append(f"valid, and {what} ends with {facts[what]}")
    return bad
