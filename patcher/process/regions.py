"""What a trace leaves in a process, as anybody finds it there: by its mark.

A region is code, which nobody can write to, and behind it one page of data, the control page. Sites
that are traced call into the code: at an even address if they were NOPs before, and at an odd one
if they were calls. A region stays when the trace is over, as threads may have to return there. Its
control page says who traces; a fork leaves zeros in it.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from struct import Struct
from typing import NamedTuple

from patcher.errors import ReadError
from patcher.ftrace.mappings import Range
from recordmcount.sites.state import State
from recordmcount.x86_code import relative_target

from .memory import ProcessMemory
from .pages import PAGE
from .proc import Proc

MAGIC = b"patcher trace\n\0\0"
VERSION = 1
# Magic, version, pages of code, stubs, offsets of struct rseq and of the TID from %fs, whether
# there are no restartable sequences.
MARK = Struct("<16s3Iii?27x")
OWNER_AT = 64  # in the control page
OWNER = Struct("<QQ")  # PID, its start in clock ticks
RINGS = "patcher-trace"  # the name of their memfd
PIECE = 256 * PAGE


class Owner(NamedTuple):
    """Who traces by a region: `pid` and `start` as Proc.stat has it; all 0 if nobody does."""

    pid: int
    start: int

    @property
    def is_alive(self) -> bool:
        """Whether that process is there."""
        try:
            with Proc(self.pid) as proc:
                stat = proc.stat()
                return stat.start == self.start and not stat.is_ended
        except OSError:
            return False

    @property
    def name(self) -> str:
        """What that process is called; empty if it is not there, whoever has its PID now."""
        try:
            with Proc(self.pid) as proc:
                stat = proc.stat()
                return stat.name if stat.start == self.start else ""
        except OSError:
            return ""

    def __str__(self) -> str:
        name = self.name
        return f"process {self.pid} ({name})" if name else f"process {self.pid}"


NOBODY = Owner(0, 0)


class Region(NamedTuple):
    """A region of a process: the run-time addresses of its code, and what its mark tells."""

    code: Range
    stubs: int
    rseq: int
    tid: int
    is_locked: bool
    owner: Owner

    @property
    def mark(self) -> bytes:
        """What its code begins with."""
        pages = (self.code.end - self.code.start) // PAGE
        return MARK.pack(
            MAGIC, VERSION, pages, self.stubs, self.rseq, self.tid, self.is_locked
        )  # fmt: skip

    @property
    def control(self) -> int:
        """Run-time address of the control page."""
        return self.code.end


def find(memory: ProcessMemory) -> list[Region]:
    """Find the regions of a process. Raises ReadError."""
    mappings = memory.mappings()
    data = [each.range for each in mappings if each.protection == "rw-p"]
    code = [each for each in mappings if each.protection == "r-xp" and not each.inode]
    return [
        region
        for mapping in code
        if not mapping.path
        for region in _marked(memory, mapping.range)
        if any(each.holds(region.control, PAGE) for each in data)
    ]


def state_before(code: bytes, address: int, regions: Sequence[Region]) -> State | None:
    """Tell what a site is that `code`, at a run-time address, was written to; None if none was."""
    target = relative_target(code, address)
    if target is None or not any(each.code.holds(target) for each in regions):
        return None
    return State.CALL if target % 2 else State.NOP


def _marked(memory: ProcessMemory, code: Range) -> Iterator[Region]:
    """Look for marks at the pages of a mapping; the kernel may have joined it with others."""
    for at in range(code.start, code.end, PIECE):
        try:
            content = memory.read(at, min(PIECE, code.end - at))
        except ReadError:  # unmapped meanwhile, as those who make code do: a region stays
            continue
        for place in range(0, len(content), PAGE):
            if content.startswith(MAGIC, place):
                mark = MARK.unpack_from(content, place)
                _, version, pages, stubs, rseq, tid, is_locked = mark
                found = Range(at + place, at + place + pages * PAGE)
                if version == VERSION and found.end <= code.end:
                    owner = Owner(*OWNER.unpack(memory.read(found.end + OWNER_AT, OWNER.size)))
                    yield Region(found, stubs, rseq, tid, is_locked, owner)
