"""The sleds of a linked file: NOPs of the compiler's, at a function's entry, that may become calls.

-fpatchable-function-entry=N,M leaves N bytes of NOPs, of which M stand before the function's entry
and are not executed. `__patchable_function_entries` has the address of the first, and tells neither
N nor M. So the entry is that of the function whose symbol, or unwind entry, says where it begins:

    M = 0    the entry of the table, or behind it if an endbr stands there
             (gcc 12 and clang 14 name what is behind the endbr)
    M > 0    where NOPs lead from there to a function's begin, or behind its endbr

What cannot be told so is no place for a call. As N is not told, all sleds of a file are taken to be
as long as its shortest: what follows may be NOPs that mean something else, as a probe's.

A call has 5 bytes. Where they end inside of a NOP (clang's are of up to 10 bytes), the sled's site
is up to the end of that. What begins in a sled ends in it.

gcc -mnop-mcount leaves one NOP of 5 bytes instead of a call, and an entry in `__mcount_loc`. If the
file does not tell which call that would be, it is a sled as well.
"""

from __future__ import annotations

from _bisect import bisect_left, bisect_right
from itertools import chain

from recordmcount import x86, x86_nops
from recordmcount.columns import pick
from recordmcount.elf import frames
from recordmcount.elf.segments import LoadView
from recordmcount.x86 import ENDBR
from recordmcount.x86_relocations import WIDEST_FIELD

from . import patchable
from .definitions import Definitions
from .linked_code import PIECE, LinkedCode
from .loaded_words import Words
from .state import State

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from typing import Literal

    from recordmcount.elf.object import Object

    from .linked import LinkedSites
    from .site import Site

LENGTH = x86.CALL.length  # bytes that a call needs
NO_ENTRY = "no symbol or unwind entry tells where its function is entered"
RELOCATED = "the loader relocates it (DT_TEXTREL)"
ENDBR_SIZE = len(ENDBR[0])


class Sled:
    """What a sled has where its function is entered: the `code` of its site, and its `form`.

    If it cannot become a call, `reason` says why.
    """

    __slots__ = ("code", "reason", "form")

    def __init__(self, code: bytes, reason: str = "", form: str = patchable.KIND) -> None:
        self.code = code
        self.reason = reason
        self.form = form


class Sleds:
    """The SiteTable of the sleds of a linked file, by link-time virtual address.

    All are NOPs by the file. `dead` and `repeated` are as LinkedSites has them. Entries that no
    NOP stands at are none. `target` is what they would call, if more than its name were known.
    """

    in_object: Literal[False] = False
    has_table = True
    no_evidence = ""
    loose: Mapping[int, str] = {}

    def __init__(
        self,
        code: LinkedCode,
        found: Mapping[int, Sled],
        dead: int = 0,
        repeated: int = 0,
        target: str = "",
    ) -> None:
        self._code = code
        self._target = target
        self.vaddrs = sorted(found)
        self._sleds = [found[vaddr] for vaddr in self.vaddrs]
        self.dead = dead
        self.repeated = repeated

    def __len__(self) -> int:
        return len(self.vaddrs)

    def __iter__(self) -> Iterator[Site]:
        return map(self.__getitem__, range(len(self)))

    def at(self, vaddr: int) -> Site:
        """Return the site at a link-time virtual address, which must be one's."""
        return self[bisect_left(self.vaddrs, vaddr)]

    def __getitem__(self, number: int) -> Site:
        from .site import Site  # slow to import, and of many sites seldom one is looked at

        vaddr, sled = self.vaddrs[number], self._sleds[number]
        section, file_offset = self._code.place(vaddr)
        function, distance = self._code.function_at(vaddr)
        return Site(
            section, vaddr, file_offset, False, self._code.machine,
            function, distance, self._code.names(vaddr - distance, vaddr),
            sled.code, State.NOP, sled.form, True, reason=sled.reason, target=self._target,
        )  # fmt: skip

    def names(self, number: int) -> tuple[str, ...]:
        """Give all names of the function that a site is in, the best first."""
        vaddr = self.vaddrs[number]
        return self._code.names(vaddr - self._code.function_at(vaddr)[1], vaddr)

    def offset(self, number: int) -> int | None:
        """Return how many bytes from its function's start a site is; None if it is in none."""
        name, distance = self._code.function_at(self.vaddrs[number])
        return None if name is None else distance

    def where(self, numbers: Sequence[int], state: State) -> Sequence[int]:
        """Choose those of `numbers` whose sites are in `state`."""
        return numbers if state is State.NOP else []

    def returns(self, numbers: Sequence[int]) -> Sequence[int]:
        """Choose those of `numbers` that stand at a function's end: all, or none."""
        return numbers if self._target == x86.RETURN else []

    def without_call(self, numbers: Sequence[int]) -> Sequence[int]:
        """Choose all of `numbers`: no file tells what a sled may call."""
        return numbers

    def irreversible(self, numbers: Sequence[int]) -> Sequence[int]:
        """Choose those of `numbers` that cannot become a call."""
        return [number for number in numbers if self._sleds[number].reason]

    def columns(self, numbers: Sequence[int]) -> tuple[Sequence[int], Sequence[bytes]]:
        """Return (link-time virtual addresses, bytes that stand there) of `numbers`."""
        return pick(self.vaddrs, numbers), [self._sleds[number].code for number in numbers]

    def turned(self, numbers: Sequence[int], _: State) -> Sequence[bytes]:
        """Return the NOPs of `numbers`: nothing else can stand there by the file."""
        return self.columns(numbers)[1]


def read(obj: Object, linked: LinkedSites | None = None) -> Sleds | None:
    """Find the sleds of a linked file, those among its `linked` sites too; None if there are none.

    Raises FormatError for a table that is not sound.
    """
    tables = patchable.tables(obj)
    foreign = _foreign_nops(linked) if linked else []
    if not tables and not foreign:
        return None
    view = obj.once(LoadView)
    ranges = [range(table.vaddr, table.vaddr + table.size) for table in tables]
    words = Words(view, ranges, Definitions(view, []))
    entries, dead, repeated = patchable.entries(view, tables, words.values)
    finder = _Finder(obj, LinkedCode(view), words.in_code)
    sleds = finder.sleds(entries)
    for vaddr in foreign:
        if finder.is_entry(vaddr):
            sleds.setdefault(vaddr, Sled(x86.NOP5, finder.why_relocated(vaddr, LENGTH), "call"))
    return Sleds(finder.code, sleds, dead, repeated) if sleds else None


def _foreign_nops(linked: LinkedSites) -> list[int]:
    """List the sites that are the NOP of -mnop-mcount and whose call nothing tells."""
    foreign = linked.where(range(len(linked)), State.FOREIGN)
    vaddrs, codes = linked.columns(foreign)
    return [vaddr for vaddr, code in zip(vaddrs, codes, strict=True) if code == x86.NOP5]


class _Finder:
    """Finds the sled of each entry in `code`; `in_code` are sorted addresses of relocations."""

    def __init__(self, obj: Object, code: LinkedCode, in_code: Sequence[int]) -> None:
        self._obj = obj
        self.code = code
        self._in_code = in_code
        self._begins = code.beginnings()
        self._start, self._piece = 0, b""

    def sleds(self, entries: Sequence[int]) -> dict[int, Sled]:
        """Return the sleds by the link-time virtual address of what is executed first."""
        places = {entry: self._entry(entry) for entry in entries}
        if None in places.values():
            ranges = chain.from_iterable(self._obj.once(frames.ranges).values())
            self._begins.update(start for start, _ in ranges)
            places = {entry: self._entry(entry) for entry in entries}
        ends = sorted({*self._begins, *entries})
        sleds: dict[int, tuple[bytes, list[int]]] = {}
        found: dict[int, Sled] = {}
        for entry, place in places.items():
            at = entry if place is None else place
            text = self._text(at, ends)
            nops = x86_nops.nop_ends(text)
            if place is not None:
                sleds[at] = text, nops
            elif nops:
                found[at] = Sled(text[: nops[0]], NO_ENTRY)
        shortest = min((nops[-1] if nops else 0 for _, nops in sleds.values()), default=0)
        for place, (text, nops) in sleds.items():
            if nops:
                found[place] = self._sled(place, text, nops, shortest)
        return found

    def is_entry(self, vaddr: int) -> bool:
        """Tell whether a function's first instruction but for an endbr is at `vaddr`."""
        begin = vaddr - ENDBR_SIZE
        return vaddr in self._begins or (begin in self._begins and self._is_endbr(begin))

    def why_relocated(self, vaddr: int, size: int) -> str:
        """Say that the loader changes some of `size` bytes of code; empty if it does not."""
        number = bisect_left(self._in_code, vaddr - WIDEST_FIELD + 1)
        is_so = number < len(self._in_code) and self._in_code[number] < vaddr + size
        return RELOCATED if is_so else ""

    def _is_endbr(self, vaddr: int) -> bool:
        return self._some(vaddr, ENDBR_SIZE) in ENDBR

    def _some(self, vaddr: int, size: int) -> bytes:
        """Read as LinkedCode.some does; entries ascend mostly, and much is read at once."""
        at = vaddr - self._start
        if not 0 <= at <= len(self._piece) - size:
            self._start, self._piece = vaddr, self.code.some(vaddr, PIECE)
            at = 0
        return self._piece[at : at + size]

    def _entry(self, entry: int) -> int | None:
        """Find where the function of a table's entry is entered, behind an endbr; None if unknown.

        What is not itself a begin, or behind one's endbr, may be the first of NOPs before one.
        """
        begin: int | None = entry
        if entry not in self._begins:
            if self.is_entry(entry):
                return entry
            ends = x86_nops.nop_ends(self._some(entry, patchable.LONGEST))
            begin = next((entry + end for end in ends if entry + end in self._begins), None)
        if begin is None:
            return None
        return begin + ENDBR_SIZE if self._is_endbr(begin) else begin

    def _text(self, place: int, ends: Sequence[int]) -> bytes:
        """Return the code from `place` up to the next entry or function, or the longest sled's."""
        number = bisect_right(ends, place)
        size = min([patchable.LONGEST, *(each - place for each in ends[number : number + 1])])
        return self._some(place, size)

    def _sled(self, place: int, text: bytes, nops: Sequence[int], shortest: int) -> Sled:
        size = next((end for end in nops if end >= LENGTH), 0)
        if size and shortest >= LENGTH:
            return Sled(text[:size], self.why_relocated(place, size))
        what = "the file's shortest sled" if size else "the sled"
        length = shortest if size else nops[-1]
        bytes_in_words = f"{length} byte{'s' * (length != 1)}"
        return Sled(text[: nops[0]], f"{what} has {bytes_in_words} there, and a call {LENGTH}")
