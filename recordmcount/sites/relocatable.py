"""The call sites of a relocatable object, whoever recorded it: calls, NOPs and table entries.

Relocations that name mcount are the sites; a table is compared with them and proves nothing. So an
entry that names no site is shown as what it is, and a site without an entry too. A call that a
recorder turned into a NOP has left its relocation behind, as R_*_NONE that still names mcount. A
NOP of this project's own (x86.object_nop) tells of which type the relocation was.

Nearly all sites are alike. They stand in columns, proven in bulk (`usual`), and a Site is made only
of one that is asked for. All others are decided one by one (`places`).
"""

from bisect import bisect_left, bisect_right
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from functools import cached_property
from itertools import accumulate, compress
from typing import NamedTuple

from recordmcount import mcount_loc
from recordmcount.columns import having, pick, positions
from recordmcount.elf import object as elf
from recordmcount.elf.object import Object

from . import calls, entries, single
from .bulk import Column, Usual
from .single import Code, Place, Relocation, Thing
from .state import State


class Site(NamedTuple):
    """A call of mcount, a NOP in its place, or what is neither: foreign.

    Foreign is what else an entry of a table names, and what may be a call but can have no entry.
    `offset` is the section offset of the first byte (for the latter, of the relocated field) and
    `section_index` that of the section. `function` is the nearest symbol at or before it, None
    where that one ends before it, `function_offset` the distance to its first byte and `aliases`
    all names that byte has. `code` are the bytes that stand there, of the form's length or, if
    foreign, up to five. `form` is the name of the call's form (of a NOP: of the call it replaced),
    empty if unknown. `recorded` tells whether a table has an entry for it. `reason` says why a site
    is foreign. `relocation` is known of a call, and of a NOP that tells it.
    """

    section: str
    offset: int
    function: str | None
    function_offset: int
    code: bytes
    state: State
    form: str
    recorded: bool
    reason: str
    section_index: int
    aliases: tuple[str, ...]
    relocation: Relocation | None


class Part(NamedTuple):
    """The sites of one section: columns of equal length, in ascending order.

    `section` is its index and `column` has them; the kind of those that are not usual is 0.
    `recorded` tells by a byte each whether a table has an entry for it.
    """

    section: int
    column: Column
    recorded: bytes

    def only_recorded(self) -> "Part":
        """The same without the others."""
        if all(self.recorded):
            return self
        column = Column(
            self.column.relocations,
            list(compress(self.column.starts, self.recorded)),
            list(compress(self.column.entries, self.recorded)),
            bytearray(compress(self.column.kinds, self.recorded)),
        )
        return Part(self.section, column, bytes(filter(None, self.recorded)))


class Group(NamedTuple):
    """Sites of one section that stand alike: columns of equal length, in ascending order.

    One that was not proven in bulk is a group of its own. `relocation` is that of the first, None
    if it is not known. `starts` are section offsets, `entries` the numbers of the relocations.
    """

    section: int
    relocation: Relocation | None
    numbers: Sequence[int]
    starts: Sequence[int]
    entries: Sequence[int]


class Sites:
    """Sites in the order of section and offset, each once: columns, of which each Site is made.

    `parts` are those columns and `ways` what their kinds mean.
    """

    def __init__(self, content: "_Content", parts: Iterable[Part]) -> None:
        self._content = content
        self.ways = content.usual.ways
        self.parts = list(parts)
        self.firsts = [0, *accumulate(len(part.column.starts) for part in self.parts)]
        self._kinds = b"".join(part.column.kinds for part in self.parts)

    def __len__(self) -> int:
        return len(self._kinds)

    def __getitem__(self, number: int) -> Site:
        part, at = self._at(number)
        place = Place(part.section, part.column.starts[at])
        thing, functions = self._content.thing(place, part.column, at), self._content.functions
        function, distance = functions.at(place)
        return Site(
            self._content.code.section(place.section).name, place.offset, function, distance,
            self._content.code.at(place, thing.length), thing.state, thing.form,
            bool(part.recorded[at]), thing.reason, place.section,
            functions.names(place.section, place.offset - distance), thing.relocation,
        )  # fmt: skip

    def __iter__(self) -> Iterator[Site]:
        return map(self.__getitem__, range(len(self)))

    def thing(self, number: int) -> Thing:
        """What stands at a site, without the names that a Site has."""
        part, at = self._at(number)
        return self._content.thing(Place(part.section, part.column.starts[at]), part.column, at)

    def _at(self, number: int) -> tuple[Part, int]:
        """(the part that has a site, its number therein)."""
        index = bisect_right(self.firsts, number) - 1
        return self.parts[index], number - self.firsts[index]

    def names(self, number: int) -> tuple[str, ...]:
        """All names of the function that a site is in."""
        part, at = self._at(number)
        start, functions = part.column.starts[at], self._content.functions
        _, distance = functions.at(Place(part.section, start))
        return functions.names(part.section, start - distance)

    def where(self, numbers: Sequence[int], state: State) -> Sequence[int]:
        """Those of ascending `numbers` whose sites are in `state`."""
        kinds = {kind for kind, way in enumerate(self.ways, 1) if way.state is state}
        column = bytes(pick(self._kinds, numbers))
        if not column.strip(column[:1]) and 0 not in column:  # nearly always: all alike
            return numbers if column[:1] and column[0] in kinds else []
        return sorted(
            numbers[at]
            for at in positions(column, {*kinds, 0})
            if column[at] or self[numbers[at]].state is state
        )

    def alike(self, numbers: Sequence[int]) -> Iterator[Group]:
        """All of ascending `numbers`, in groups."""
        for part, first, end in zip(self.parts, self.firsts, self.firsts[1:], strict=False):
            own = numbers[bisect_left(numbers, first) : bisect_left(numbers, end)]
            kinds = bytes(pick(part.column.kinds, _shifted(own, first)))
            for kind in set(kinds):
                alike = pick(own, having(kinds, kind))
                for group in [alike] if kind else [[number] for number in alike]:
                    known, places = self.thing(group[0]).relocation, _shifted(group, first)
                    starts, entries = part.column.starts, part.column.entries
                    yield Group(
                        part.section, known, group, pick(starts, places), pick(entries, places)
                    )

    def unusual(self, numbers: Sequence[int]) -> list[int]:
        """Those of `numbers` that were not proven in bulk."""
        return [number for number in numbers if not self._kinds[number]] if 0 in self._kinds else []

    def code(self, number: int) -> bytes:
        """The bytes that stand at a site."""
        part, at = self._at(number)
        place = Place(part.section, part.column.starts[at])
        return self._content.code.at(place, self.thing(number).length)

    def only_recorded(self) -> "Sites":
        """Those that a table has an entry for."""
        return Sites(self._content, [part.only_recorded() for part in self.parts])


class Listing(NamedTuple):
    """What one object holds.

    `has_table` tells whether there is a `__mcount_loc`. `dead` counts words of tables that name no
    place in the object, `repeated` entries beyond the first for one place.
    """

    sites: Sites
    has_table: bool
    dead: int
    repeated: int


def read(obj: Object, extra_names: tuple[str, ...] = ()) -> Listing:
    """The sites and the entries of an object.

    `extra_names` are further names of mcount, as given to gcc's -mfentry-name. Raises FormatError
    where a relocation that matters cannot be trusted.
    """
    content = _Content(obj, calls.find(obj, extra_names))
    named = entries.read(obj)
    content.claim(named.places)
    listed = Sites(content, content.parts(named.places))
    return Listing(listed, bool(obj.named(mcount_loc.NAME)), named.dead, named.repeated)


class _Content:
    """What stands where: usual sites in columns, and `things` at places that are not usual.

    What is foreign comes before what is not, should both be said of one place.
    """

    def __init__(self, obj: Object, found: calls.Found) -> None:
        self.code = Code(obj)
        self.functions = _Functions(obj)
        self.usual = Usual(obj, found)
        self.things: dict[Place, Thing] = {}
        for part, numbers in self.usual.calls:
            self.things.update(single.calls(part, numbers))
        foreign: dict[Place, Thing] = {}
        for gone, numbers in self.usual.turned_off:
            for place, thing in single.turned_off(obj, self.code, gone, numbers):
                (foreign if thing.state is State.FOREIGN else self.things)[place] = thing
        for section, field, what in found.unsupported:
            foreign[Place(section, field)] = Thing(State.FOREIGN, reason=what)
        self.things |= foreign

    def thing(self, place: Place, column: Column, number: int) -> Thing:
        """What stands at a place that has this number in a column."""
        kind = column.kinds[number]
        if not kind:
            return self.things[place]
        way = self.usual.ways[kind - 1]
        known = Relocation(column.relocations, column.entries[number], way.form, way.type)
        return Thing(way.state, way.form.length, way.form.name, relocation=known)

    def _named(self, place: Place) -> Thing | None:
        """What stands at a place, if a relocation or an entry named it so far."""
        column = self.usual.columns.get(place.section)
        number = column.find(place.offset) if column else -1
        if place in self.things or column is None or number < 0:
            return self.things.get(place)
        return self.thing(place, column, number)

    def claim(self, named: dict[int, list[int]]) -> None:
        """Look at the places that only a table names."""
        for section, offsets in named.items():
            column = self.usual.columns.get(section)
            if column is None or offsets != column.starts:
                usual = set(column.starts) if column else set()
                for place in [Place(section, offset) for offset in offsets if offset not in usual]:
                    if place not in self.things:
                        self.things[place] = single.claimed(place, self.code, self._named)

    def parts(self, named: dict[int, list[int]]) -> Iterator[Part]:
        """All places by section."""
        unusual: dict[int, dict[int, int]] = defaultdict(dict)
        for place, thing in self.things.items():
            known = thing.relocation
            unusual[place.section][place.offset] = known.number if known else 0
        for section in sorted({*self.usual.columns, *unusual}):
            usual = self.usual.columns.get(section) or Column(0, [], [], bytearray())
            column = _merged(usual, unusual[section]) if unusual[section] else usual
            offsets = named.get(section, [])
            if offsets == column.starts:
                recorded = bytes((1,)) * len(offsets)
            else:
                recorded = bytes(map(set(offsets).__contains__, column.starts))
            yield Part(section, column, recorded)


def _shifted(numbers: Sequence[int], by: int) -> Sequence[int]:
    """The numbers, each less `by`."""
    if isinstance(numbers, range):
        return range(numbers.start - by, numbers.stop - by)
    return [number - by for number in numbers]


def _merged(column: Column, unusual: dict[int, int]) -> Column:
    """All in order; where both say something, what is unusual counts.

    It is given as start -> number of the relocation.
    """
    usual = zip(column.starts, column.entries, column.kinds, strict=True)
    rows = {start: (entry, kind) for start, entry, kind in usual}
    rows.update((start, (entry, 0)) for start, entry in unusual.items())
    ordered = sorted(rows.items())
    return Column(
        column.relocations,
        [start for start, _ in ordered],
        [entry for _, (entry, _) in ordered],
        bytearray(kind for _, (_, kind) in ordered),
    )


class _Functions:
    """The symbols of code by section; of several at one offset a function, a global one, the first.

    STT_NOTYPE counts: assembly sources often leave the type out. They are read when the first is
    asked for.
    """

    _TYPES = (elf.STT_FUNC, elf.STT_GNU_IFUNC, 0)
    _BINDINGS = (elf.STB_GLOBAL, elf.STB_WEAK, elf.STB_LOCAL)

    def __init__(self, obj: Object) -> None:
        self._obj = obj

    @cached_property
    def _symbols(self) -> dict[int, list[tuple[int, tuple[int, ...], int, int]]]:
        """By section index: (st_value, rank, st_name, st_size), sorted."""
        symbols = defaultdict(list)
        for number, (name, value, size, info, _, shndx) in enumerate(self._obj.raw_symbols()):
            kind, binding = info & 0xF, info >> 4
            if shndx and name and kind in self._TYPES and binding in self._BINDINGS:
                rank = (-self._TYPES.index(kind), -self._BINDINGS.index(binding), -number)
                symbols[shndx].append((value, rank, name, size))
        return {shndx: sorted(rows) for shndx, rows in symbols.items()}

    def at(self, place: Place) -> tuple[str | None, int]:
        """(name, distance to its first byte) of the function at a place; (None, 0) if none."""
        rows = self._symbols.get(place.section, [])
        number = bisect_right(rows, place.offset, key=lambda row: row[0]) - 1
        if number < 0:
            return None, 0
        value, _, name, size = rows[number]
        if size and place.offset >= value + size:
            return None, 0
        return elf.string_at(self._obj.symbol_names, name), place.offset - value

    def names(self, section: int, start: int) -> tuple[str, ...]:
        """All names of the function that begins at a section offset, each once, the best first."""
        rows = self._symbols.get(section, [])
        first = bisect_left(rows, start, key=lambda row: row[0])
        end = bisect_right(rows, start, key=lambda row: row[0])
        found = (
            elf.string_at(self._obj.symbol_names, name)
            for _, _, name, _ in reversed(rows[first:end])
        )
        return tuple(dict.fromkeys(found))
