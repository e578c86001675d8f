r"""/proc/PID/maps: what is mapped where, exactly.

The kernel spells a newline in a path as \012 and nothing else; a backslash stands for itself, so
a path is for people, and for opening a file only if its identity is looked at afterwards. The same
holds for ` (deleted)` behind a path, which a name may end with as well.
(fs/proc/task_mmu.c, show_map_vma; proc_pid_maps(5).)
"""

from __future__ import annotations

import os
import re
from fnmatch import fnmatchcase
from posixpath import basename

from patcher.ftrace.mappings import Mapping, Range

DELETED = " (deleted)"  # behind the path of a file that has no name any more, or another one
_LINE = re.compile(
    rb"([0-9a-f]+)-([0-9a-f]+) ([r-][w-][x-][ps]) ([0-9a-f]+) ([0-9a-f]+):([0-9a-f]+) (\d+)"
    rb"(?: +(.*))?"
)


def parse(content: bytes) -> list[Mapping]:
    """Return the mappings, by address. Raises ValueError for a line that the kernel never wrote."""
    return list(parse_lines(content, {}).values())


def parse_lines(content: bytes, known: dict[bytes, Mapping]) -> dict[bytes, Mapping]:
    """Return the mappings by their lines, as `parse` does; those of `known` lines need no parsing.

    Most are as they were when they are read again, in a halt.
    """
    return {line: known.get(line) or _mapping(line) for line in content.split(b"\n") if line}


def _mapping(line: bytes) -> Mapping:
    found = _LINE.fullmatch(line)
    if found is None:
        raise ValueError(f"no line of maps: {line!r}")
    start, end, protection, offset, major, minor, inode, path = found.groups()
    name = (path or b"").replace(rb"\012", b"\n")
    return Mapping(
        Range(int(start, 16), int(end, 16)),
        protection.decode("ascii"),
        os.makedev(int(major, 16), int(minor, 16)),
        int(inode),
        name.decode("utf-8", "surrogateescape"),
        int(offset, 16),
    )


def growing_down(smaps: bytes) -> set[int]:
    """Return the starts of the mappings that grow down, as stacks do, from /proc/PID/smaps."""
    found, start = set(), 0
    for line in smaps.split(b"\n"):
        if line.startswith(b"VmFlags:"):
            if b"gd" in line.split():
                found.add(start)
        elif header := _LINE.fullmatch(line):
            start = int(header[1], 16)
    return found


def is_like(path: str, glob: str) -> bool:
    """Tell whether a path, or the name at its end, is like a glob."""
    return fnmatchcase(path, glob) or fnmatchcase(basename(path), glob)
