"""Which sites of a linked file stand where an instruction begins.

The bytes of a call may be those of anything: a constant, a table. So each site has to be reached by
decoding, from where a function is known to begin. Nearly all need none: they are a function's first
instruction, or stand behind a prologue that was decoded before. Functions are known by symbols, and
where those do not lead to a site, by unwind entries.
"""

from __future__ import annotations

from _bisect import bisect_left, bisect_right

from recordmcount import x86
from recordmcount.elf import frames
from recordmcount.elf import object as elf
from recordmcount.x86_functions import is_prologue
from recordmcount.x86_length import length
from recordmcount.x86_plain import is_plain

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from recordmcount.elf.object import Section

    from .linked_code import LinkedCode

NO_START = "no symbol or unwind entry tells where its function begins"
INSIDE = "not where an instruction begins"
# What is between a function's start and its site is kept up to this many bytes, and so many times.
LONGEST_PROLOGUE, MOST_PROLOGUES = 64, 1 << 12
# So many of them are looked for at all sites at once.
MOST_USUAL = 8
SWEEP = 1 << 16  # bytes that are decoded at a time
# So many instructions are measured by the time that capstone is imported.
FEW = 1 << 13


class Boundaries:
    """Tells which of ascending link-time virtual addresses of code are no sites, and why."""

    def __init__(self, code: LinkedCode) -> None:
        self._obj = code.view.obj
        self._code = code
        self._most = code.most_beginnings()
        # Where functions begin by type or unwind entry, and by symbols without a type: columns that
        # ascend, and are made when they are needed.
        self._typed: list[list[int]] = []
        self._untyped: list[int] = []
        self._has_frames = False
        self._prologues = {b""}
        self._usual: list[bytes] = []
        self._sweep = _Sweep(code)

    def doubtful(self, vaddrs: Sequence[int], start: int, text: bytes) -> Iterator[tuple[int, str]]:
        """Yield (index, reason) of those that are not proven; code from `start` on is `text`."""
        if not vaddrs:
            return
        first = bisect_left(self._most, vaddrs[0])
        near = self._most[first : bisect_right(self._most, vaddrs[-1], first)]
        if near == vaddrs:
            return
        # A set of all, in the order of a symbol table, would be in no cache of a processor.
        starts = set(near)
        if starts.issuperset(vaddrs):
            return
        left = [vaddr for vaddr in reversed(vaddrs) if vaddr not in starts]
        for prologue in self._usual:
            left = _not_behind(prologue, left, near, starts, start, text)
        while left:
            vaddr, known = left.pop(), len(self._usual)
            reason = self._why_not(vaddr, start, text)
            if reason:
                yield bisect_left(vaddrs, vaddr), reason
            for prologue in self._usual[known:]:
                left = _not_behind(prologue, left, near, starts, start, text)

    def _why_not(self, vaddr: int, start: int, text: bytes) -> str:
        section = self._code.section_at(vaddr)
        nearest = _last([self._most], section, vaddr)
        if self._is_behind_prologue(nearest, vaddr, start, text):
            return ""
        if not self._typed:
            self._add_symbols()
        origin = _last([*self._typed, self._untyped], section, vaddr)
        if origin != nearest and self._is_behind_prologue(origin, vaddr, start, text):
            return ""
        # What nothing shows to be code is not decoded.
        is_code = self._is_code(section)
        if is_code and origin is not None and self._sweep.reaches(origin, vaddr):
            return ""
        if not self._has_frames:
            self._add_frames()
            return self._why_not(vaddr, start, text)
        return INSIDE if is_code and origin is not None else NO_START

    def _is_code(self, section: Section | None) -> bool:
        """Tell whether a typed symbol or an unwind entry shows that a section is code."""
        if section is None:
            return False
        end = section.vaddr + section.size
        return any(
            bisect_left(starts, section.vaddr) < bisect_left(starts, end) for starts in self._typed
        )

    def _add_symbols(self) -> None:
        """Learn where functions begin by all symbols, and by the file's header."""
        typed, self._untyped = self._code.more_beginnings()
        entry = self._obj.layout.ehdr.unpack(self._obj.header)[elf.E_ENTRY]
        self._typed = [self._most, typed, [entry]]

    def _add_frames(self) -> None:
        """Learn where functions begin by unwind entries."""
        ranges = self._obj.once(frames.ranges).values()
        self._typed.append(sorted([start for each in ranges for start, _ in each]))
        self._has_frames = True

    def _is_behind_prologue(self, origin: int | None, vaddr: int, start: int, text: bytes) -> bool:
        """Tell whether what compilers put before a call is all that is between."""
        if origin is None or vaddr - origin > LONGEST_PROLOGUE:
            return False
        if origin < start:
            prologue = self._code.some(origin, vaddr - origin)
        else:
            prologue = text[origin - start : vaddr - start]
        if prologue in self._prologues:
            return True
        if not is_prologue(self._code.machine, prologue):
            return False
        if len(self._prologues) < MOST_PROLOGUES:
            self._prologues.add(prologue)
        if len(self._usual) < MOST_USUAL:
            self._usual.append(prologue)
        return True


def _last(columns: Sequence[list[int]], section: Section | None, vaddr: int) -> int | None:
    """Return the last up to `vaddr` of what ascends in each column, if it is in the section."""
    if section is None:
        return None
    ends = [(starts, bisect_right(starts, vaddr)) for starts in columns]
    last = max([starts[end - 1] for starts, end in ends if end], default=-1)
    return last if last >= section.vaddr else None


def _not_behind(
    prologue: bytes, vaddrs: list[int], near: list[int], starts: set[int], start: int, text: bytes
) -> list[int]:
    """Choose those that do not stand behind a prologue of the last function before.

    That must be one of `starts`, which are `near`, ascending, and in `text`, the code from `start`.
    """
    size = len(prologue)
    return [
        vaddr
        for vaddr in vaddrs
        if vaddr - size not in starts
        or vaddr - size < start
        or not text.startswith(prologue, vaddr - size - start)
        or near[bisect_left(near, vaddr) - 1] != vaddr - size
    ]


class _Sweep:
    """Decodes onwards from an origin; what it has come by is not decoded again."""

    def __init__(self, code: LinkedCode) -> None:
        self._code = code
        self._bits = 32 if code.machine == x86.EM_386 else 64
        self._origin = self._at = -1
        self._is_stuck = False
        self._few = FEW

    def reaches(self, origin: int, vaddr: int) -> bool:
        """Tell whether an instruction begins at `vaddr`, which ascends for one origin."""
        if origin != self._origin or vaddr < self._origin:
            self._origin = self._at = origin
            self._is_stuck = False
        while self._at < vaddr and not self._is_stuck:
            self._advance(vaddr)
        return self._at == vaddr

    def _advance(self, vaddr: int) -> None:
        """Decode a piece, up to `vaddr` or behind it."""
        at = self._at
        code = self._code.some(at, min(SWEEP, vaddr - at + x86.LONGEST_INSTRUCTION))
        for size in self._lengths(code):
            if self._at >= vaddr:
                return
            self._at += size
        self._is_stuck = self._at == at

    def _lengths(self, code: bytes) -> Iterator[int]:
        """Measure each instruction in bytes, up to one that is none: a few without capstone."""
        at, bits = 0, self._bits
        while self._few and is_plain(code, at, bits) and (size := length(code, at, bits)):
            yield size
            at += size
            self._few -= 1
        if at < len(code):
            from .disassembler import lengths  # slow to import, rarely needed

            yield from lengths(self._code.machine, code[at:])
