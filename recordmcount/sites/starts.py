"""Whether an instruction begins at an address, decoded from the start of the function there.

Where functions start is told by their symbols, and where there are none by the unwind tables, which
stripping leaves in place. No instruction can be told from its bytes alone: `74 67 e8` may be a jump
and a call, or end with a call behind a prefix. In a function that is known, its first instruction
and all that follow tell. Elsewhere decoding falls into step after a few instructions, wherever it
begins: that makes an instruction likely, and no more.
"""

from __future__ import annotations

from _bisect import bisect_right
from collections import deque
from functools import cached_property
from itertools import accumulate, chain

from recordmcount.columns import positions
from recordmcount.elf import dynamic_symbols, frames
from recordmcount.elf import object as elf
from recordmcount.errors import Error
from recordmcount.x86 import ENDBR

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from capstone import Cs

    from recordmcount.elf.segments import LoadView

    from .search import LoadedCode

LONGEST_INSTRUCTION = 15  # bytes
# A call of mcount is the first, or after the prologue. What is farther from where decoding could
# begin is not decoded: a file must not make that last.
FARTHEST = 1 << 16
# How decoding falls into step: from this many bytes before, and the next so many.
BACK = 48
STARTS = 16

NO, LIKELY, PROVEN = range(3)


class Starts:
    """Tells of ascending addresses in `code` whether instructions begin there."""

    def __init__(self, view: LoadView, code: LoadedCode) -> None:
        self._view = view
        self._code = code
        self._functions = _Ranges(_by_symbols(view))
        self._has_frames = False
        # A boundary that is known, of the function that was decoded last.
        self._start = self._known = 0

    def at(self, vaddr: int) -> int:
        """Tell whether an instruction begins at `vaddr`: PROVEN, LIKELY or NO.

        Raises Error where capstone is needed and not to be had.
        """
        start = self._function(vaddr)
        if start is None:
            return LIKELY if self._in_step(vaddr) else NO
        known = self._known if self._start == start and self._known <= vaddr else start
        if vaddr - known > FARTHEST:
            return LIKELY if self._in_step(vaddr) else NO
        reached, is_decoded = self._decode(known, vaddr)
        self._start, self._known = start, reached
        if reached == vaddr:
            return PROVEN
        return NO if is_decoded or not self._in_step(vaddr) else LIKELY

    def is_inside(self, vaddr: int) -> bool:
        """Tell whether `vaddr` is in a function that is known, behind its first byte."""
        return self._function(vaddr) not in (vaddr, None)

    def _function(self, vaddr: int) -> int | None:
        """Return where the function at `vaddr` starts, None if none is known."""
        first = self._first(vaddr)
        start = self._functions.start(vaddr)
        if not first <= start <= vaddr and not self._has_frames:
            self._has_frames = True
            self._functions.add(_by_frames(self._view))
            start = self._functions.start(vaddr)
        return start if first <= start <= vaddr else None

    def _decode(self, start: int, vaddr: int) -> tuple[int, bool]:
        """Decode from `start` on: the last boundary up to `vaddr`, whether that decodes as well."""
        if start == vaddr:
            return vaddr, True
        text = self._code.read(start, vaddr + LONGEST_INSTRUCTION)
        if text[: vaddr - start] in ENDBR:
            return vaddr, True
        reached = self._end(text[: vaddr - start], start)
        return reached, self._end(text[reached - start :], reached, 1) > reached

    def _in_step(self, vaddr: int) -> bool:
        """Tell whether decoding from most places before `vaddr` comes by there."""
        first = max(self._first(vaddr), vaddr - BACK)
        text = self._code.read(first, vaddr + LONGEST_INSTRUCTION)
        starts = range(first, min(first + STARTS, vaddr))
        comes_by = {vaddr: True}  # by places that are decoded
        for start in starts:
            self._follow(text[start - first :], start, vaddr, comes_by)
        return 2 * sum(comes_by[start] for start in starts) >= len(starts)

    def _follow(self, text: bytes, start: int, vaddr: int, comes_by: dict[int, bool]) -> None:
        """Decode `text`, which is at `start`, up to a place that is known to come by `vaddr`."""
        places = []
        at = start
        while at < vaddr and at not in comes_by:
            places.append(at)
            end = self._end(text[at - start :], at, 1)
            at = end if end > at else at + 1  # no instruction: data, or a wrong start
        comes_by.update(dict.fromkeys(places, comes_by.get(at, False)))

    def _end(self, text: bytes, vaddr: int, count: int = 0) -> int:
        """Return the end of the instructions in `text`, which is at `vaddr`.

        Of `count` instructions, or 0: up to one that is unknown or not whole.
        """
        last = deque(self._decoder.disasm_lite(text, vaddr, count), maxlen=1)
        return last[0][0] + last[0][1] if last else vaddr

    @cached_property
    def _decoder(self) -> Cs:
        """The disassembler, which is slow to import and not always needed."""
        try:
            from .disassembler import decoder
        except ImportError:
            what = "calls are found without a table by capstone, which is not installed"
            raise Error(self._view.obj.path, what) from None
        return decoder(self._view.obj.machine)

    def _first(self, vaddr: int) -> int:
        """Return where the range of code begins that `vaddr` is in."""
        code = self._code.at(vaddr)
        return code.vaddr if code else vaddr


class _Ranges:
    """Functions by link-time virtual address; they may lie in one another."""

    def __init__(self, ranges: Iterable[tuple[int, int]]) -> None:
        self._ends: dict[int, int] = {}
        self.add(ranges)

    def add(self, ranges: Iterable[tuple[int, int]]) -> None:
        """Add (start, size in bytes); of size 0 is what ends where the next one starts."""
        for start, size in ranges:
            self._ends[start] = max(self._ends.get(start, 0), start + size)
        self._starts = sorted(self._ends)
        following = [*self._starts[1:], 1 << 64][: len(self._starts)]
        ends = [
            self._ends[start] if self._ends[start] > start else after
            for start, after in zip(self._starts, following, strict=True)
        ]
        self._reach = list(accumulate(ends, max))

    def start(self, vaddr: int) -> int:
        """Return the nearest start at or before `vaddr`, -1 where all before it have ended.

        Instructions begin there, whether it is the innermost function's or that of one in it.
        """
        number = bisect_right(self._starts, vaddr) - 1
        return self._starts[number] if number >= 0 and vaddr < self._reach[number] else -1


def _by_frames(view: LoadView) -> Iterator[tuple[int, int]]:
    """Return (link-time virtual address, size in bytes) of the functions with unwind entries."""
    sections = (
        view.obj.once(frames.ranges).values() if view.obj.headers else [frames.of_segments(view)]
    )
    for start, end in chain.from_iterable(sections):
        yield start, end - start


def _by_symbols(view: LoadView) -> list[tuple[int, int]]:
    """List (link-time virtual address, size in bytes) of the functions that have a symbol."""
    obj, layout = view.obj, view.obj.layout
    infos = {
        binding << 4 | each
        for binding in (elf.STB_LOCAL, elf.STB_GLOBAL, elf.STB_WEAK)
        for each in (elf.STT_FUNC, elf.STT_GNU_IFUNC)
    }
    found = []
    if not obj.headers:
        return [(start, size) for start, size, _ in dynamic_symbols.functions(view)]
    for index in obj.of_type(elf.SHT_SYMTAB, elf.SHT_DYNSYM):
        content = obj.content(index)
        content = content[: len(content) - len(content) % layout.sym.size]
        for number in positions(content[layout.sym_info :: layout.sym.size], infos):
            raw = layout.sym.unpack_from(content, number * layout.sym.size)
            _name, value, size, _info, _other, shndx = layout.sym_fields(raw)
            if shndx != elf.SHN_UNDEF:
                found.append((value, size))
    return found
