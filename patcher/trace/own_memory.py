"""What patcher may write to in a traced process beside sites: the regions that it has mapped there.

All of it is done in a halt, in which mappings stay as they are, and only where the mappings say
that the memory is such: code that nobody can write to, and one page behind it.
"""

from __future__ import annotations

import os

from patcher.closing import Closing
from patcher.errors import NoProcessError, StateError, WriteError
from patcher.ftrace.mappings import Range
from patcher.process.memory import ProcessMemory
from patcher.process.pages import PAGE
from patcher.process.proc import Proc
from patcher.process.regions import MARK, OWNER, OWNER_AT, Owner, Region
from recordmcount.errors import reason

from .layout import HOT, Control


class OwnMemory(Closing):
    """The memory of regions in the process behind `proc`, which must be halted meanwhile.

    Raises NoProcessError if it has ended.
    """

    def __init__(self, proc: Proc, memory: ProcessMemory) -> None:
        self._memory = memory
        try:
            self._fd = proc.open_by_thread("mem", os.O_RDWR)
        except ProcessLookupError as error:
            raise NoProcessError(memory.path, "has ended") from error

    def close(self) -> None:
        """Close it."""
        os.close(self._fd)

    def look_again(self) -> None:
        """Say that mappings were made, or taken away, in this halt."""
        self._memory.look_again()

    def put_code(self, region: Region, content: bytes) -> None:
        """Write the code of a new region, of which all bytes are still 0."""
        self._refuse_other(region)
        if any(self._memory.read(*_start_and_size(region.code))):
            raise StateError(self._memory.path, f"{region.code} is in use; nothing was written")
        self._write(region.code.start, content)
        if self._memory.read(*_start_and_size(region.code)) != content:
            raise WriteError(self._memory.path, f"{region.code} reads back otherwise")

    def put_name(self, region: Region, name: bytes) -> int:
        """Write a name behind all else in the control page; returns its run-time address."""
        self._refuse_other(region)
        address = region.control + PAGE // 2
        self._write(address, name + b"\0")
        return address

    def control(self, region: Region, control: Control) -> None:
        """Say what goes on, the gate last."""
        self._refuse_unmarked(region)
        content = control.encode()
        closed = control._replace(gate=0).encode()
        self._write(region.control, closed)
        self._write(region.control, content[:4])
        if self._memory.read(region.control, HOT.size) != content:
            raise WriteError(self._memory.path, f"the control page at {region.control:#x}")

    def own(self, region: Region, owner: Owner) -> None:
        """Say who traces."""
        self._refuse_unmarked(region)
        self._write(region.control + OWNER_AT, OWNER.pack(*owner))

    def _refuse_unmarked(self, region: Region) -> None:
        self._refuse_other(region)
        mark = self._memory.read(region.code.start, MARK.size)
        if mark != region.mark:
            raise StateError(self._memory.path, f"{region.code} is no region any more")

    def _refuse_other(self, region: Region) -> None:
        """Raise StateError unless the mappings are those of a region."""
        control = Range(region.control, region.control + PAGE)
        for part, protection in ((region.code, "r-xp"), (control, "rw-p")):
            if not any(
                each.range.holds(part.start, part.end - part.start)
                and each.protection == protection and not each.inode
                for each in self._memory.mappings()
            ):  # fmt: skip
                raise StateError(self._memory.path, f"{part} is not mapped as a region is")

    def _write(self, address: int, content: bytes) -> None:
        try:
            written = os.pwrite(self._fd, content, address)
        except OSError as error:
            raise WriteError(self._memory.path, reason(error), address=address) from error
        if written != len(content):
            what = f"only {written} of {len(content)} bytes could be written"
            raise WriteError(self._memory.path, what, address=address)


def _start_and_size(some: Range) -> tuple[int, int]:
    return some.start, some.end - some.start
