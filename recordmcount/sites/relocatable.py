"""The call sites of a relocatable object, whoever recorded it: calls, NOPs and table entries.

Relocations that name mcount are the sites; a table is compared with them and proves nothing. So an
entry that names no site is shown as what it is, and a site without an entry too. A call that a
recorder turned into a NOP has left its relocation behind, as R_*_NONE. A NOP of this project's own
(object_nop) tells of which type the relocation was, and `turned_off` which symbol it named.

Nearly all sites are alike. They stand in columns, proven in bulk (`bulk`), and a Site is made only
of one that is asked for. All others are decided one by one (`single`).
"""

from __future__ import annotations

from _bisect import bisect_left, bisect_right
from itertools import accumulate, chain, compress, count

from recordmcount import mcount_loc, x86
from recordmcount.columns import having, pick, shifted
from recordmcount.console import printable
from recordmcount.elf import object as elf
from recordmcount.elf.symbols import Functions
from recordmcount.sites.entries import entries_of
from recordmcount.x86_functions import LONGEST_BEFORE_FENTRY, before_fentry
from recordmcount.x86_object_nops import object_call
from recordmcount.x86_relocations import RELOCATION_NAMES

from . import calls, single
from .bulk import Column, Usual
from .single import Finding, ObjectCode
from .state import State, in_state
from .turned_off import Callees, Relocation
from .words import UNNAMED

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence
    from typing import Literal

    from recordmcount.elf.object import Object
    from recordmcount.sites.entries import Entries

    from .bulk import Way
    from .single import Place
    from .site import Site

LOOSE = "its entry counts from the global symbol {}, which a linker may bind elsewhere"


class Part:
    """The sites of one section: columns of equal length, in ascending order.

    `section` is its index and `column` has them; the way of those that are not usual is 0.
    `recorded` tells by a byte each whether a table has an entry for it.
    """

    __slots__ = ("section", "column", "recorded")

    def __init__(self, section: int, column: Column, recorded: bytes) -> None:
        self.section = section
        self.column = column
        self.recorded = recorded

    def only_recorded(self) -> Part:
        """Return the sites of the section that a table has an entry for."""
        if all(self.recorded):
            return self
        column = Column(
            self.column.relocations,
            list(compress(self.column.starts, self.recorded)),
            list(compress(self.column.entries, self.recorded)),
            bytearray(compress(self.column.ways, self.recorded)),
        )
        return Part(self.section, column, bytes(filter(None, self.recorded)))


class Group:
    """Sites of one section that stand alike: columns of equal length, in ascending order.

    One that was not proven in bulk is a group of its own. `relocation` is that of the first, None
    if it is not known. `starts` are section offsets, `entries` the numbers of the relocations.
    """

    __slots__ = ("section", "relocation", "numbers", "starts", "entries")

    def __init__(
        self,
        section: int,
        relocation: Relocation | None,
        numbers: Sequence[int],
        starts: Sequence[int],
        entries: Sequence[int],
    ) -> None:
        self.section = section
        self.relocation = relocation
        self.numbers = numbers
        self.starts = starts
        self.entries = entries


class _Alike:
    """What the usual sites of one section that stand in one `way` have in common; as in Site."""

    __slots__ = ("way", "call", "nop", "relocation", "target")

    def __init__(
        self, way: Way, call: bytes, nop: bytes | None, relocation: str, target: str
    ) -> None:
        self.way = way
        self.call = call
        self.nop = nop
        self.relocation = relocation
        self.target = target


class RelocatableSites:
    """The SiteTable of an object: columns, of which each Site is made.

    `parts` are those columns and `ways` what their numbers mean. `loose` is that of
    Entries.
    """

    in_object: Literal[True] = True
    no_evidence = ""

    def __init__(self, content: _Content, parts: Iterable[Part], entries: Entries) -> None:
        self._content = content
        self._entries = entries
        self.dead = entries.dead
        self.repeated = entries.repeated
        self.loose = entries.loose
        self.ways = content.usual.ways
        self.parts = list(parts)
        # One of return sites alone is gcc's, and the object not recorded yet, if it lacks any site.
        names_all = all(all(part.recorded) for part in self.parts)
        names = mcount_loc.NAMES if names_all else mcount_loc.NAMES[:1]
        self.has_table = any(map(content.obj.named, names))
        self.firsts = [0, *accumulate(len(part.column.starts) for part in self.parts)]
        self._ways = b"".join(part.column.ways for part in self.parts)

    def __len__(self) -> int:
        return len(self._ways)

    def __getitem__(self, number: int) -> Site:
        from .site import Site  # slow to import, and of many sites seldom one is looked at

        part, at = self._at(number)
        start = part.column.starts[at]
        place = part.section, start
        content = self._content
        found, section = content.finding(place, part.column, at), content.code.section(part.section)
        known = found.relocation
        function, distance = content.function_at(place, known)
        call, nop = content.turned(known) if known else (None, None)
        names = RELOCATION_NAMES[content.obj.machine]
        code = content.code.at(place, found.length)
        reason = found.reason
        if part.recorded[at] and part.section in self.loose:
            reason = reason or LOOSE.format(printable(self.loose[part.section]))
        if function is None and content.obj.symtab is not None:
            reason = reason or UNNAMED
        return Site(
            section.name, start, section.offset + start, True, content.obj.machine,
            function, distance, content.functions.names(part.section, start - distance),
            code, found.state, found.form, bool(part.recorded[at]), call,
            code if found.state is State.NOP else nop, reason,
            relocation=names[known.type] if known else "",
            target=content.callees.name(known.symbol) if known else "",
        )  # fmt: skip

    def __iter__(self) -> Iterator[Site]:
        # No generator: one that ends because memory does writes a traceback of its own.
        return chain.from_iterable(map(self._of_part, self.parts, self.firsts))

    def _of_part(self, part: Part, first: int) -> Iterator[Site]:
        """Make the sites of a part, which are numbered from `first`."""
        make = _Maker(self, self._content, part, first)
        return map(make, count(first), part.column.starts, part.column.ways, part.recorded)

    def finding(self, number: int) -> Finding:
        """Tell what stands at a site, without the names that a Site has."""
        part, at = self._at(number)
        return self._content.finding((part.section, part.column.starts[at]), part.column, at)

    def turned(self, relocation: Relocation) -> tuple[bytes, bytes | None]:
        """Return (call, NOP): the bytes in either state of a site with this relocation."""
        return self._content.turned(relocation)

    def turned_relocation(self, relocation: Relocation) -> tuple[bytes, bytes]:
        """Return the bytes behind r_offset in either state of a site that has both."""
        return self._content.callees.relocation(relocation)

    def _at(self, number: int) -> tuple[Part, int]:
        """Return (the part that has a site, its number therein)."""
        index = bisect_right(self.firsts, number) - 1
        return self.parts[index], number - self.firsts[index]

    def names(self, number: int) -> tuple[str, ...]:
        """Give all names of the function that a site is in, the best first."""
        part, at = self._at(number)
        start, content = part.column.starts[at], self._content
        place = part.section, start
        known = content.finding(place, part.column, at).relocation
        _, distance = content.function_at(place, known)
        return content.functions.names(part.section, start - distance)

    def where(self, numbers: Sequence[int], state: State) -> Sequence[int]:
        """Choose those of ascending `numbers` whose sites are in `state`."""
        ways = [way.state for way in self.ways]
        column = bytes(pick(self._ways, numbers))
        return in_state(state, numbers, column, ways, lambda number: self.finding(number).state)

    def alike(self, numbers: Sequence[int]) -> Iterator[Group]:
        """Group the sites of ascending `numbers`."""
        for part, first, end in zip(self.parts, self.firsts, self.firsts[1:], strict=False):
            own = numbers[bisect_left(numbers, first) : bisect_left(numbers, end)]
            ways = bytes(pick(part.column.ways, shifted(own, first)))
            for way in set(ways):
                alike = pick(own, having(ways, way))
                for group in [alike] if way else [[number] for number in alike]:
                    known, places = self.finding(group[0]).relocation, shifted(group, first)
                    starts, entries = part.column.starts, part.column.entries
                    yield Group(
                        part.section, known, group, pick(starts, places), pick(entries, places)
                    )

    def unusual(self, numbers: Sequence[int]) -> list[int]:
        """Choose those of `numbers` that were not proven in bulk."""
        return [number for number in numbers if not self._ways[number]] if 0 in self._ways else []

    def only_recorded(self) -> RelocatableSites:
        """Return the sites that a table has an entry for, as a table of their own."""
        parts = [part.only_recorded() for part in self.parts]
        return RelocatableSites(self._content, parts, self._entries)


class _Maker:
    """Makes the sites of a part; the usual ones fast.

    What those have in common is looked up once: with it they were compared in bulk.
    """

    def __init__(self, sites: RelocatableSites, content: _Content, part: Part, first: int) -> None:
        from .site import Site  # as in RelocatableSites

        self._site = Site
        self._sites = sites
        self._content = content
        self._column = part.column
        self._first = first
        self._index = part.section
        self._section = content.code.section(part.section)
        self._is_loose = part.section in sites.loose
        self._known: dict[int, _Alike] = {}

    def __call__(self, number: int, start: int, way: int, recorded: int) -> Site:
        content, section = self._content, self._section
        names = content.functions.names(self._index, start)
        function, distance = names[0] if names else None, 0
        if function is None:  # not a function's first instruction
            function, distance = content.functions.at(self._index, start, start)
            names = content.functions.names(self._index, start - distance)
        if not way or self._is_loose or function is None:
            return self._sites[number]
        alike = self._known.get(way)
        if alike is None:
            alike = self._known[way] = content.alike(self._column, number - self._first)
        return self._site(
            section.name, start, section.offset + start, True, content.obj.machine,
            function, distance, names, alike.way.code, alike.way.state, alike.way.form.name,
            bool(recorded), alike.call, alike.nop,
            relocation=alike.relocation, target=alike.target,
        )  # fmt: skip


def read(
    obj: Object, extra_names: Sequence[str] = (), entries: Entries | None = None
) -> RelocatableSites:
    """Find the sites of an object, and which of them its tables name.

    `extra_names` are further names of mcount, as given to gcc's -mfentry-name. Raises FormatError
    where a relocation that matters cannot be trusted. `entries` are those of its tables, or of
    these the ones that are to be looked at.
    """
    content = _Content(obj, calls.find(obj, tuple(extra_names), all_off=True))
    if entries is None:
        entries = entries_of(obj)
    content.claim(entries.places)
    return RelocatableSites(content, content.parts(entries.places), entries)


class _Content:
    """What stands where: usual sites in columns, and `findings` at places that are not usual.

    What is foreign comes before what is not, should both be said of one place.
    """

    def __init__(self, obj: Object, found: calls.Found) -> None:
        self.obj = obj
        self.code = ObjectCode(obj)
        self.functions = Functions(obj)
        self.callees = Callees(obj, found.symbols)
        self.usual = Usual(obj, found, self.callees)
        self.findings: dict[Place, Finding] = {}
        for part, numbers, symbols in self.usual.calls:
            self.findings.update(single.calls(part, numbers, symbols, self.callees))
        foreign: dict[Place, Finding] = {}
        for gone, numbers in self.usual.turned_off:
            for place, finding in single.turned_off(obj, self.code, self.callees, gone, numbers):
                is_foreign = finding.state is State.FOREIGN
                (foreign if is_foreign else self.findings)[place] = finding
        for section, field, what in found.unsupported:
            foreign[section, field] = Finding(State.FOREIGN, reason=what)
        self.findings |= foreign

    def finding(self, place: Place, column: Column, number: int) -> Finding:
        """Tell what stands at a place that has this number in a column."""
        if not column.ways[number]:
            return self.findings[place]
        way, known = self.usual.ways[column.ways[number] - 1], self._relocation(column, number)
        return Finding(way.state, way.form.length, way.form.name, relocation=known)

    def alike(self, column: Column, number: int) -> _Alike:
        """Tell what all sites of a column have that stand in the way of this usual one."""
        way = self.usual.ways[column.ways[number] - 1]
        call, nop = self.turned(self._relocation(column, number))
        name = RELOCATION_NAMES[self.obj.machine][way.type]
        nop = way.code if way.state is State.NOP else nop
        target = self.callees.name(way.symbol)
        return _Alike(way, call, nop, name, target)

    def _relocation(self, column: Column, number: int) -> Relocation:
        way = self.usual.ways[column.ways[number] - 1]
        return Relocation(
            column.relocations, column.entries[number], way.form, way.type, way.symbol
        )

    def function_at(self, place: Place, known: Relocation | None) -> tuple[str | None, int]:
        """Find the function of a site as `LinkedCode.function_at` does."""
        section, offset = place
        found = self.functions.at(section, offset, offset)
        if found[0] is not None:
            return found
        if known is None or not self._calls_fentry(known):
            return self.functions.at(section, offset)
        start = max(0, offset - LONGEST_BEFORE_FENTRY)
        before = self.code.at((section, start), offset - start)
        return self.functions.at(section, offset, offset - before_fentry(before))

    def _calls_fentry(self, known: Relocation) -> bool:
        """Tell whether a relocation names __fentry__."""
        name = self.obj.raw_symbol(known.symbol)[elf.ST_NAME]
        return elf.string_at(self.obj.symbol_names, name).partition("@")[0] == x86.FENTRY

    def turned(self, known: Relocation) -> tuple[bytes, bytes | None]:
        """Return (call, NOP): the bytes in either state of a site with this relocation."""
        in_place = self.obj.section_type(known.section) == elf.SHT_REL
        return object_call(known.form, in_place=in_place), self.callees.nop(known)

    def _named(self, place: Place) -> Finding | None:
        """Tell what stands at a place, if a relocation or an entry named it so far."""
        section, offset = place
        column = self.usual.columns.get(section)
        number = column.find(offset) if column else -1
        if place in self.findings or column is None or number < 0:
            return self.findings.get(place)
        return self.finding(place, column, number)

    def claim(self, named: dict[int, list[int]]) -> None:
        """Look at the places that only a table names."""
        for section, offsets in named.items():
            column = self.usual.columns.get(section)
            if column is None or offsets != column.starts:
                usual = set(column.starts) if column else set()
                for place in [(section, offset) for offset in offsets if offset not in usual]:
                    if place not in self.findings:
                        self.findings[place] = single.claimed(place, self.code, self._named)

    def parts(self, named: dict[int, list[int]]) -> Iterator[Part]:
        """Return all places by section."""
        unusual: dict[int, dict[int, int]] = {}
        for (section, offset), finding in self.findings.items():
            known = finding.relocation
            unusual.setdefault(section, {})[offset] = known.number if known else 0
        for section in sorted({*self.usual.columns, *unusual}):
            usual = self.usual.columns.get(section) or Column(0, [], [], bytearray())
            column = _merged(usual, unusual[section]) if section in unusual else usual
            offsets = named.get(section, [])
            if offsets == column.starts:
                recorded = bytes((1,)) * len(offsets)
            else:
                recorded = bytes(map(set(offsets).__contains__, column.starts))
            yield Part(section, column, recorded)


def _merged(column: Column, unusual: dict[int, int]) -> Column:
    """Merge both in order; where both say something, what is unusual counts.

    It is given as start -> number of the relocation.
    """
    usual = zip(column.starts, column.entries, column.ways, strict=True)
    rows = {start: (entry, way) for start, entry, way in usual}
    rows.update((start, (entry, 0)) for start, entry in unusual.items())
    ordered = sorted(rows.items())
    return Column(
        column.relocations,
        [start for start, _ in ordered],
        [entry for _, (entry, _) in ordered],
        bytearray(way for _, (_, way) in ordered),
    )
