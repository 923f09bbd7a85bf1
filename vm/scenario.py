"""What an appliance does while its power is cut, and what must be true of it then."""

import dataclasses
import typing

PROGRAM = "/root/in/dualroot --progress none"


@dataclasses.dataclass(frozen=True)
class Scenario:
    """One verb of the program, on an appliance with an MBR. Facts are those of look.sh."""

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


def stays(facts):
    """The running slot is what starts, whatever becomes of the other one."""
    return [] if facts["active"] == "1" else [f"slice {facts['active']} is active, the running one is 1"]


def switches(facts):
    """Either slot starts, and both are good."""
    return [] if facts["state"] == "valid" else [f"slot 2 was valid, and is {facts['state']}"]


def repairs(facts):
    """The broken slot was to start, and does again only when it is whole or before anything was done
    to it."""
    if facts["active"] == "2" or facts["state"] == "valid" or not facts["touched"]:
        return []
    return [f"slice 1 is active, and slot 1 is {facts['state']}: it was written to"]


def copies_again(_facts):
    return [(1, f"{PROGRAM} show && {PROGRAM} snapshot && {PROGRAM} verify")]


def switches_again(facts):
    own = int(facts["active"])
    other = 3 - own
    back = f"{PROGRAM} boot {other} && {PROGRAM} boot {own} && {PROGRAM} boot {other}"
    return [(own, back), (other, f"{PROGRAM} show")]


def repairs_again(facts):
    if facts["active"] == "2":
        status = f"{PROGRAM} auto-snapshot --status | grep -q 'State:  Completed'"
        return [(2, f"{PROGRAM} auto-snapshot && {status} && {PROGRAM} verify"), (1, f"{PROGRAM} show")]
    # Without firmware that falls back, as that of the models with an MBR does, nothing starts it.
    return [(1, f"{PROGRAM} auto-snapshot && {PROGRAM} show")] if facts["state"] == "valid" else []


COPIED = f"{PROGRAM} snapshot"
SCENARIOS = {
    # Onto an empty slot.
    "snapshot": Scenario(("true",), "true", COPIED, 1, stays, copies_again),
    # Over an older copy.
    "refresh": Scenario((f"{COPIED} && date >/etc/changed && rm -f /etc/motd.template",), "true", COPIED, 1, stays,
                        copies_again),
    # There, back and there again.
    "boot-switch": Scenario((COPIED,), "true", " && ".join(f"{PROGRAM} boot {slot}" for slot in (2, 1, 2)), 1,
                            switches, switches_again),
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
    if facts["active"] not in ("1", "2"):
        bad.append(f"not one slot's slice is active, but '{facts['active']}'")
    elif facts["next"] != facts["active"]:
        bad.append(f"slice {facts['active']} is active, and show tells of {facts['next']}")
    bad += scenario.wrong(facts)
    if facts["state"] == "valid":
        for what in ("verify", "mtree", "sound"):
            if facts[what] != "0":
                bad.append(f"valid, and {what} ends with {facts[what]}")
    return bad
