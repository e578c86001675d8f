"""Where in the code of a linked image an instruction may name one of a few addresses.

The code of a program is searched for a few bytes: an opcode, and what its operand must be there to
lead to an address that is looked for. Within a piece of code the high half of a relative operand
has only few values, so that Python's `re`, in C, finds the candidates, and only those are looked
at. What is found is no more than a candidate: where instructions begin is not known here.
"""

from __future__ import annotations

import re
from _bisect import bisect_right

from recordmcount import x86, x86_patterns
from recordmcount.elf import object as elf
from recordmcount.elf.segments import PF_X, PT_LOAD
from recordmcount.errors import FormatError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

    from recordmcount.elf.segments import LoadView

# Code is searched in pieces of this many bytes: then a high half has at most five values.
PIECE = 1 << 18
HALF = 16  # bits
FIELD = 4  # bytes of a relative operand
# An image has one to three ways to mcount, in at most 17 forms. With more it is made to cost time.
MOST_ROWS = 4096


class Code:
    """A range of code: `size` bytes at the link-time virtual address `vaddr`."""

    __slots__ = ("vaddr", "size")

    def __init__(self, vaddr: int, size: int) -> None:
        self.vaddr = vaddr
        self.size = size


class LoadedCode:
    """The code that is loaded from the file: sections, or where there are none, segments.

    `ranges` ascend; no byte is in two of them, as broken files have it.
    """

    def __init__(self, view: LoadView) -> None:
        self._view = view
        found = [(one.vaddr, one.size) for one in map(view.obj.section, _executable(view))]
        if not view.obj.headers:
            loaded = [one for one in view.segments if one.type == PT_LOAD and one.flags & PF_X]
            found = [(one.vaddr, one.filesz) for one in loaded]
        self.ranges: list[Code] = []
        end = 0
        for vaddr, size in sorted(found):
            start = max(vaddr, end)
            if vaddr + size > start:
                end = vaddr + size
                self.ranges.append(Code(start, end - start))
        self._starts = [one.vaddr for one in self.ranges]

    def at(self, vaddr: int) -> Code | None:
        """Return the range that has a link-time virtual address."""
        number = bisect_right(self._starts, vaddr) - 1
        found = self.ranges[number] if number >= 0 else None
        return found if found and vaddr < found.vaddr + found.size else None

    def read(self, vaddr: int, end: int) -> bytes:
        """Read from `vaddr` to before `end`, or to where the range ends that has `vaddr`."""
        code = self.at(vaddr)
        if code is None:
            return b""
        return self._view.read(vaddr, min(end, code.vaddr + code.size) - vaddr, "code")


def _executable(view: LoadView) -> Iterator[int]:
    flags = elf.SHF_ALLOC | elf.SHF_EXECINSTR
    for index, header in enumerate(view.obj.headers):
        is_code = header[elf.SH_FLAGS] & flags == flags and header[elf.SH_SIZE]
        if is_code and view.loads(view.obj.section(index), executable=True):
            yield index


class Search:
    """Looks for instructions of these patterns; FormatError where there are too many goals."""

    def __init__(self, view: LoadView, patterns: x86_patterns.Patterns) -> None:
        rows = sum(map(len, [*patterns.relative.values(), *patterns.fixed.values()]))
        if rows > MOST_ROWS:
            raise FormatError(view.obj.path, f"{rows} ways to name mcount are too many to look for")
        self._mask = (1 << x86.ADDRESS_BITS[view.obj.machine]) - 1
        goals = patterns.relative.items()
        self._relative = {opcode: frozenset(each) for opcode, each in goals if each}
        self._fixed = patterns.fixed

    def through(self, code: LoadedCode) -> list[tuple[int, int]]:
        """Find candidates: (link-time virtual address of the opcode, the goal), ascending."""
        found: list[tuple[int, int]] = []
        for vaddr, piece in pieces(code, x86.LONGEST_SITE) if self._relative or self._fixed else ():
            found += [(vaddr + at, goal) for at, goal in self._in_piece(vaddr, piece) if at < PIECE]
        return sorted(found)

    def _in_piece(self, vaddr: int, piece: bytes) -> Iterator[tuple[int, int]]:
        """Search a piece, which is at `vaddr`: (index of the opcode, the goal)."""
        for opcode, goals in self._relative.items():
            first = len(opcode)
            for match in self._pattern(opcode, goals, vaddr, len(piece)).finditer(piece):
                end = match.start() + first + FIELD
                field = int.from_bytes(piece[end - FIELD : end], "little", signed=True)
                goal = vaddr + end + field & self._mask
                if goal in goals:
                    yield match.start(), goal
        for operand, rows in self._fixed.items():
            at = piece.find(operand)
            while at >= 0:
                for prefix, suffix, goal in rows:
                    start, end = at - len(prefix), at + len(operand)
                    if (
                        start >= 0
                        and piece.startswith(prefix, start)
                        and piece.startswith(suffix, end)
                    ):
                        yield start, goal
                at = piece.find(operand, at + 1)

    def _pattern(
        self, opcode: bytes, goals: frozenset[int], vaddr: int, size: int
    ) -> re.Pattern[bytes]:
        """Compile what an instruction that begins in `size` bytes at `vaddr` is like."""
        end = vaddr + len(opcode) + FIELD  # of one that stands at the very start
        halves = {
            (half & (1 << HALF) - 1).to_bytes(2, "little")
            for goal in goals
            for half in range(goal - end - size >> HALF, (goal - end >> HALF) + 1)
        }
        high = b"|".join(map(re.escape, sorted(halves)))
        # Looked ahead at, so that an opcode that is part of another's operand is found as well.
        return re.compile(b"%b(?=..(?:%b))" % (re.escape(opcode), high), re.DOTALL)


def pieces(code: LoadedCode, overlap: int) -> Iterator[tuple[int, bytes]]:
    """Read all code in pieces of PIECE and `overlap` bytes: (link-time virtual address, bytes)."""
    for each in code.ranges:
        for vaddr in range(each.vaddr, each.vaddr + each.size, PIECE):
            yield vaddr, code.read(vaddr, vaddr + PIECE + overlap)
