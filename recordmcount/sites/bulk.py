"""The usual sites of a relocatable object, proven in bulk: whole columns are compared.

A site is usual if its relocation's type allows but one form of call and the bytes are exactly
those of that call, as a compiler leaves it, or of the NOP that this project puts in its place.
Nearly all are. What is not, and what could stand in two ways, is left to `single`.
"""

from __future__ import annotations

from _bisect import bisect_left
from _operator import not_, sub
from _struct import unpack
from itertools import compress, repeat

from recordmcount import columns, mcount_loc, x86
from recordmcount.columns import having, is_ascending, pick
from recordmcount.elf import object as elf
from recordmcount.x86_object_nops import object_call, object_nop

from .state import State

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from recordmcount.elf.object import Object
    from recordmcount.x86 import CallForm

    from .calls import Found, SectionSites, TurnedOff
    from .turned_off import Callees

# Code is read in pieces of this many bytes, so that what is compared is still in the cache.
PIECE = 1 << 18
# Of so many symbols of mcount: the number of a way is to fit a byte.
MOST_SYMBOLS = 16


class Way:
    """How many sites stand alike: as `code`, with a relocation that has this `addend`.

    It has, or had, this `type` and names, or named, this `symbol`.
    """

    __slots__ = ("state", "form", "type", "symbol", "code", "addend")

    def __init__(
        self,
        state: State,
        form: CallForm,
        relocation_type: int,
        symbol: int,
        code: bytes,
        addend: int,
    ) -> None:
        self.state = state
        self.form = form
        self.type = relocation_type
        self.symbol = symbol
        self.code = code
        self.addend = addend


def ways(obj: Object, callees: Callees) -> list[Way]:
    """List the ways in which a usual site can stand: as calls, then as NOPs."""
    known = x86.CALL_FORMS[obj.machine].items()
    single = [(forms[0], each) for each, forms in known if len(forms) == 1]
    in_place = not mcount_loc.uses_rela(obj)
    calls, nops = [], []
    for symbol in callees.symbols[:MOST_SYMBOLS]:
        kept = callees.kept(symbol)
        if kept is None:
            continue
        addend, name = kept
        for form, each in single:
            call = object_call(form, in_place=in_place)
            calls.append(Way(State.CALL, form, each, symbol, call, form.addend))
            nop = object_nop(form, each, name)
            nops.append(Way(State.NOP, form, each, symbol, nop, addend))
    return calls + nops


class Column:
    """The usual sites of one text section: columns of equal length, in ascending order.

    `relocations` is the section index of their relocations, `starts` the section offsets of their
    first bytes, `entries` the numbers of their relocations, `ways` the ways they stand in, each
    the number in Usual.ways + 1.
    """

    __slots__ = ("relocations", "starts", "entries", "ways")

    def __init__(
        self, relocations: int, starts: list[int], entries: list[int], ways: bytearray
    ) -> None:
        self.relocations = relocations
        self.starts = starts
        self.entries = entries
        self.ways = ways

    def sort(self) -> None:
        """Put the sites in order; of two at one place keep the later."""
        if is_ascending(self.starts):
            return
        places = sorted({start: number for number, start in enumerate(self.starts)}.items())
        self.starts = [start for start, _ in places]
        self.entries = [self.entries[number] for _, number in places]
        self.ways = bytearray(self.ways[number] for _, number in places)

    def find(self, start: int) -> int:
        """Number the site at a section offset; -1 if there is none."""
        number = bisect_left(self.starts, start)
        return number if number < len(self.starts) and self.starts[number] == start else -1


class Usual:
    """What can be proven in bulk, and what is left.

    `columns` are by index of the text section. `calls` and `turned_off` are the rest: a part of
    what was found, with the numbers therein; of calls also the symbols of the whole part.
    """

    def __init__(self, obj: Object, found: Found, callees: Callees) -> None:
        self._obj = obj
        self._callees = callees
        self.ways = ways(obj, callees)
        self.columns: dict[int, Column] = {}
        self.calls = [(part, *self._calls(part)) for part in found.sections]
        self._nops = [number for number, way in enumerate(self.ways, 1) if way.state is State.NOP]
        self.turned_off = [(part, self._turned_off(part)) for part in found.turned_off]
        for column in self.columns.values():
            column.sort()

    def _calls(self, part: SectionSites) -> tuple[list[int], Sequence[int]]:
        """Take the usual calls of a part, and number the others; give the symbols of all."""
        all_ways = enumerate(self.ways, 1)
        ways = {
            (way.type, way.symbol): number for number, way in all_ways if way.state is State.CALL
        }
        entries = unpack(f"<{len(part)}Q", part.entries)
        symbols = self._symbols(part, entries)
        left: list[int] = []
        for kind, numbers in _alike(part.types, symbols):
            if kind in ways and len(part) >= columns.FEW:
                starts, chosen = pick(part.starts, numbers), pick(entries, numbers)
                sections = part.relocations, part.section
                alike = self._compare(ways[kind], *sections, starts, chosen)
                numbers = [] if all(alike) else list(compress(numbers, map(not_, alike)))
            left += numbers
        return sorted(left), symbols

    def _symbols(self, part: SectionSites, entries: Sequence[int]) -> Sequence[int]:
        """Tell which symbol each call of a part names: nearly always there is but one."""
        symbols = self._callees.symbols
        if len(symbols) == 1:
            return symbols * len(part)
        return pick(self._obj.relocation_symbols(part.relocations), entries)

    def _turned_off(self, part: TurnedOff) -> list[int]:
        """Take the usual NOPs of a part, and number the others."""
        relocations, text, entries, fields, infos, addends = part
        left: Sequence[int] = range(len(entries))
        if any(infos):
            return [*left]
        for way in tuple(self._nops) if len(entries) >= columns.FEW else ():
            form, addend = self.ways[way - 1].form, self.ways[way - 1].addend
            numbers = left
            if addends and set(pick(addends, left)) != {addend}:
                numbers = [number for number in left if addends[number] == addend]
            starts = [field - len(form.prefix) for field in pick(fields, numbers)]
            alike = self._compare(way, relocations, text, starts, pick(entries, numbers))
            if any(alike):
                left = sorted({*left}.difference(compress(numbers, alike)))
                self._nops.sort(key=lambda other: other != way)  # the next part is as this one
            if not left:
                break
        return [*left]

    def _compare(
        self,
        way: int,
        relocations: int,
        text: int,
        starts: Sequence[int],
        entries: Sequence[int],
    ) -> list[bool]:
        """Tell which of `starts` stand in one way, and put those into the column."""
        usual = elf.SHT_RELA if mcount_loc.uses_rela(self._obj) else elf.SHT_REL
        column = self.columns.get(text) or Column(relocations, [], [], bytearray())
        sound = self._obj.section_type(relocations) == usual and column.relocations == relocations
        if not starts or not sound or starts[0] < 0 or list(starts) != sorted(starts):
            return [False] * len(starts)
        alike = self._alike(text, starts, self.ways[way - 1].code)
        column.starts += compress(starts, alike)
        column.entries += compress(entries, alike)
        column.ways += bytes((way,)) * (len(column.starts) - len(column.ways))
        self.columns[text] = column
        return alike

    def _alike(self, section: int, starts: Sequence[int], code: bytes) -> list[bool]:
        """Tell at which of ascending `starts` these bytes stand."""
        header = self._obj.headers[section]
        offset, size = header[elf.SH_OFFSET], header[elf.SH_SIZE]
        alike: list[bool] = []
        while len(alike) < len(starts):
            first = len(alike)
            base = starts[first]
            last = bisect_left(starts, base + PIECE, first)
            end = min(starts[last - 1] + len(code), size)
            text = self._obj.read(offset + base, max(0, end - base), "code")
            places = map(sub, starts[first:last], repeat(base))
            alike += map(text.startswith, repeat(code), places)
        return alike


def _alike(types: bytes, symbols: Sequence[int]) -> Iterator[tuple[tuple[int, int], Sequence[int]]]:
    """Number the calls with relocations of each (type, symbol)."""
    if symbols.count(symbols[0]) == len(symbols):
        yield from (((each, symbols[0]), having(types, each)) for each in set(types))
        return
    alike: dict[tuple[int, int], list[int]] = {}
    for number, kind in enumerate(zip(types, symbols, strict=True)):
        alike.setdefault(kind, []).append(number)
    yield from alike.items()
