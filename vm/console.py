#!/usr/bin/env python3
"""Boots a FreeBSD guest, logs in on its serial console, runs one command and powers off.

    console.py --log FILE [--timeout SECONDS] [--boot-timeout SECONDS] [--cut] COMMAND QEMU [ARGUMENT...]

The guest needs a login prompt on its first serial port and a root without a password. What the
command prints goes to stdout as it comes, the whole console to the log. The exit code is the
command's; 125 says that the guest did not do its part, and stderr says how: no login prompt, a
panic, a silent end, a command that took too long. With --cut the guest is not powered off: its power
goes as soon as the command has ended.
"""

import argparse
import os
import re
import select
import signal
import subprocess
import sys
import time

FAILED = 125
# What a kernel says on its way down; db> is the debugger's prompt.
PANIC = re.compile(rb"\n(panic: [^\r\n]*|Fatal (?:double )?trap [^\r\n]*|db> )")
# A KVM that is there and cannot do it (inside another virtual machine, say).
NO_KVM = b"KVM internal error"


class GuestError(Exception):
    """The guest did something else than what was asked."""


class Guest:
    """A QEMU with the guest's console on its stdin and stdout."""

    def __init__(self, command, log):
        self.log = log
        self.seen = b""
        self.process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, bufsize=0
        )

    def read(self, deadline):
        """Waits for more output."""
        ready, _, _ = select.select([self.process.stdout], [], [], max(0, deadline - time.monotonic()))
        if not ready:
            raise GuestError("took too long")
        data = os.read(self.process.stdout.fileno(), 65536)
        if not data:
            raise GuestError("ended; the last it said: " + self.last_line())
        self.log.write(data)
        self.log.flush()
        self.seen += data
        if NO_KVM in self.seen:
            raise GuestError("stopped: " + NO_KVM.decode())
        panic = PANIC.search(self.seen)
        if panic:
            self.drain()
            raise GuestError("panicked: " + panic.group(1).decode(errors="replace"))

    def drain(self):
        """The backtrace of a panic goes to the log, too."""
        end = time.monotonic() + 3
        try:
            while True:
                ready, _, _ = select.select([self.process.stdout], [], [], max(0, end - time.monotonic()))
                data = os.read(self.process.stdout.fileno(), 65536) if ready else b""
                if not data:
                    return
                self.log.write(data)
        finally:
            self.log.flush()

    def last_line(self):
        """The end of what is left to look at."""
        lines = self.seen.decode(errors="replace").split("\n")
        return next((line.strip() for line in reversed(lines) if line.strip()), "nothing")

    def expect(self, pattern, deadline):
        """Waits for the pattern and hands back the match; what was before it is gone."""
        while True:
            match = re.search(pattern, self.seen)
            if match:
                self.seen = self.seen[match.end():]
                return match
            self.read(deadline)

    def send(self, text):
        """Types; a terminal takes in only so much at once."""
        for start in range(0, len(text), 100):
            self.process.stdin.write(text[start:start + 100].encode())
            time.sleep(0.02)

    def login(self, deadline):
        """From the login prompt to a shell that does not echo."""
        self.expect(rb"login: ", deadline)
        self.send("root\n")
        self.expect(rb"[#$%>] $", deadline)
        # A csh has no PS1 and no functions: everything is said to a plain sh. The markers are
        # sent in two halves, so that no echo of the line looks like one.
        self.send("exec /bin/sh\n")
        self.expect(rb"[#$] $", deadline)
        self.send("stty -echo; PS1=; PS2=; echo REA''DY\n")
        self.expect(rb"READY\r?\n", deadline)
        # The kernel's own messages would break the lines of the output. A panic comes through.
        # And a program lies at the same address each time that it is started: QEMU without KVM would
        # translate it anew for another one, which takes longer than to run it.
        aslr = "kern.elf64.aslr.enable=0 kern.elf64.aslr.pie_enable=0"
        self.send(f"sysctl -q kern.consmute=1 {aslr} >/dev/null; echo MU''TED\n")
        self.expect(rb"MUTED\r?\n", deadline)

    def run(self, command, deadline):
        """Runs the command, hands its lines on, returns its exit code."""
        self.send("echo BEG''UN; " + command + "; result=$?; echo; echo EN''DED:$result\n")
        self.expect(rb"BEGUN\r?\n", deadline)
        while True:
            match = self.expect(rb"([^\n]*)\n", deadline)
            line = match.group(1).rstrip(b"\r")
            ended = re.fullmatch(rb"ENDED:(\d+)", line)
            if ended:
                return int(ended.group(1))
            sys.stdout.buffer.write(line + b"\n")
            sys.stdout.flush()

    def power_off(self):
        """As an operator does it: everything is written, and the next boot finds clean disks."""
        self.send("sysctl -q kern.consmute=0 >/dev/null; shutdown -p now\n")
        end = time.monotonic() + 600
        try:
            while True:
                self.read(end)
        except GuestError as error:
            if "ended" not in str(error):
                raise GuestError("did not power off: it " + str(error)) from error

    def close(self):
        """Whatever it does, it ends now."""
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()


def end_in_order():
    """Whoever ends this program ends its guests, too."""
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, lambda number, _: sys.exit(128 + number))


def main():
    """The command line."""
    end_in_order()
    parser = argparse.ArgumentParser(usage=__doc__)
    parser.add_argument("--log", required=True)
    parser.add_argument("--timeout", type=float, default=1800)
    parser.add_argument("--boot-timeout", type=float, default=600)
    parser.add_argument("--cut", action="store_true")
    parser.add_argument("command")
    parser.add_argument("qemu", nargs=argparse.REMAINDER)
    arguments = parser.parse_args()
    with open(arguments.log, "ab") as log:
        guest = Guest(arguments.qemu, log)
        step = "booting"
        try:
            guest.login(time.monotonic() + arguments.boot_timeout)
            step = "running the command"
            code = guest.run(arguments.command, time.monotonic() + arguments.timeout)
            step = "powering off"
            if not arguments.cut:
                guest.power_off()
            return code
        except GuestError as error:
            print(f"console.py: {step}: the guest {error}", file=sys.stderr)
            return FAILED
        finally:
            guest.close()


if __name__ == "__main__":
    sys.exit(main())
