"""Guests on disks of their own: the one that looks at disks, and the appliance that is looked at."""

import os
import re
import socket
import subprocess
import time

from console import Guest

UNPACK = "mkdir -p /root && tar xf /dev/vtbd1 -C /root"


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
        command = [self.arguments.qemu, "-accel", self.arguments.accel, "-smp", self.arguments.cpus, "-m", "1G",
                   "-nographic", "-nic", "none", "-no-reboot"]
        guest = Guest(command + words, self.log)
        try:
            guest.login(time.monotonic() + 600)
        except BaseException:
            guest.close()
            raise
        return guest

    def session(self, words, command, seconds=900):
        """Boots, does one thing that must succeed, and powers off: the lines that it said."""
        guest = self.start(words)
        try:
            lines = must(guest, command, seconds)
            guest.power_off()
        finally:
            guest.close()
        return lines

    def appliance(self, disk, form):
        """QEMU's words for the appliance's own disk: da0."""
        drive = f"file={disk},format={form},if=none,id=own,cache=unsafe"
        return ["-device", "virtio-scsi-pci", "-drive", drive, "-device", "scsi-hd,drive=own,bootindex=0"]

    def recorder(self, base, log):
        """The same for a disk over `base` of which every request is kept."""
        disk = self.overlay("recorded.qcow2", base, "raw")
        open(log, "wb").close()
        return ["-device", "virtio-scsi-pci", "-blockdev",
                f"driver=blklogwrites,node-name=own,file.driver=qcow2,file.file.driver=file,"
                f"file.file.filename={disk},log.driver=file,log.filename={log},log-super-update-interval=1",
                "-device", "scsi-hd,drive=own,bootindex=0"]

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


class Monitor:
    """QEMU's own console, on a socket."""

    def __init__(self, path):
        self.path = path
        self.words = ["-monitor", f"unix:{path},server=on,wait=off"]
        self.socket = None

    def ask(self, command):
        """One command that must succeed, and so says nothing."""
        if self.socket is None:
            self.socket = socket.socket(socket.AF_UNIX)
            self.socket.settimeout(60)
            self.socket.connect(self.path)
            self.answer()
        self.socket.sendall(command.encode() + b"\n")
        # It echoes what it is told, as a terminal would.
        said = [line for line in self.answer().splitlines()[1:] if line.strip() not in ("", "OK")]
        if said:
            raise Failure(f"{command}: {said}")

    def answer(self):
        """What it says up to its prompt."""
        said = b""
        while not said.endswith(b"(qemu) "):
            said += self.socket.recv(4096)
        return said[: -len(b"(qemu) ")].decode(errors="replace")


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
