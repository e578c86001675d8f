"""Which mappings of an address space count as text: private, executable, unwritable, of a file.

Writes through /proc/PID/mem heed no protection, so what may be written to is decided here. The
memory of a device is never code, whatever its bytes look like: that was the lesson of 2008.
"""

from __future__ import annotations

from collections.abc import Iterable
from os import major, minor
from typing import NamedTuple


class Range(NamedTuple):
    """The run-time addresses from `start` up to, but not including, `end`."""

    start: int
    end: int

    def holds(self, address: int, size: int = 1) -> bool:
        """Tell whether `size` bytes at run-time address `address` are all in the range."""
        return self.start <= address and address + size <= self.end

    def overlaps(self, other: Range) -> bool:
        """Tell whether an address is in both ranges."""
        return self.start < other.end and other.start < self.end

    def __str__(self) -> str:
        return f"{self.start:#x}-{self.end:#x}"


class Mapping(NamedTuple):
    """One mapping of an address space, with the fields of a line of /proc/PID/maps.

    `protection` looks like `r-xp`; `device` (as st_dev) and `inode` are those of the mapped file;
    `inode` is 0 if there is none. `offset` is the file offset of its first byte.
    """

    range: Range
    protection: str
    device: int
    inode: int
    path: str = ""
    offset: int = 0

    def __str__(self) -> str:
        device = device_in_words(self.device)
        return f"{self.range} {self.protection} {device} {self.inode} {self.path}".rstrip()

    def why_not_text(self, device: int, inode: int) -> str:
        """Say why this is no text of the file `device`, `inode`; empty if it is."""
        foreign = (self.device, self.inode) != (device, inode)
        reasons = {
            "a memfd": self.path.startswith("/memfd:"),
            "a device": foreign and self.path.startswith("/dev/"),
            "anonymous": not self.inode,
            "shared": self.protection[3] != "p",
            "writable": self.protection[1] != "-",
            "not executable": self.protection[2] != "x",
            "a mapping of another file": foreign,
        }
        return next((reason for reason, applies in reasons.items() if applies), "")


def device_in_words(device: int) -> str:
    """Spell a device as /proc/PID/maps does: major and minor number in hexadecimal."""
    return f"{major(device):02x}:{minor(device):02x}"


def why_not_text(text: Range, mappings: Iterable[Mapping], device: int, inode: int) -> str:
    """Say why `text` is not wholly inside one mapping of the file's text; empty if it is."""
    overlapping = [mapping for mapping in mappings if mapping.range.overlaps(text)]
    if not overlapping:
        return "is not mapped"
    for mapping in overlapping:
        if why := mapping.why_not_text(device, inode):
            return f"is {why}: {mapping}"
        if not mapping.range.holds(text.start, text.end - text.start):
            return f"is not inside one mapping: {mapping}"
    return ""
