"""The call sites of a linked image that has a `__mcount_loc` table, each proven by its bytes.

An entry is only a claim. What makes it a site is that the call which stands there reaches mcount
and nothing else: its operand must name a definition of mcount, a PLT stub that jumps through a
slot of mcount's, or such a slot (`targets`). A call of anything else is foreign.

A site that was turned off is a NOP that still tells what it was: which form of call by its shape,
and in one byte, never 0, which of how many targets. So every site, in either state, knows the bytes
of both, and no state but the image's own is needed.

That byte is our mark as well: compilers and assemblers leave it 0 in their padding. A NOP without
the mark is a site only where gcc -mnop-mcount leaves one and no padding is: of five bytes, at a
function's first instruction (or behind its endbr), in an image with one target. Any other, and
any whose call cannot be told, is foreign.
"""

from __future__ import annotations

from _bisect import bisect_left, bisect_right
from _operator import lt, sub
from itertools import chain, compress, repeat

from recordmcount import mcount_loc, x86
from recordmcount.columns import pick, positions
from recordmcount.elf.segments import LoadView
from recordmcount.errors import FormatError
from recordmcount.sites import linked_entries

from . import tables
from .boundaries import Boundaries
from .decoder import Decoder, Found, Way
from .definitions import Definitions
from .evidence import TABLE
from .linked_code import LinkedCode
from .loaded_words import Words
from .state import State, in_state
from .targets import Targets

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from typing import Literal

    from recordmcount.elf.object import Object

    from .site import Site
    from .tables import Table

# More ways than these are not compared with: then decoding each site is as fast.
MOST_WAYS = 8


class LinkedSites:
    """The SiteTable of a linked file: columns, of which each Site is made.

    `vaddrs` are the sites' link-time virtual addresses, `codes` the bytes that stand there. `dead`
    counts entries of 0 or -1, which linkers leave for code they dropped; `repeated` counts entries
    beyond the first for one address, which identical code folding leaves. `targets` are the
    link-time virtual addresses of code, and `slots` those of GOT slots, through which mcount is
    reached, with its name. `code` is the code of the whole file. `are_returns` tells that all are
    calls of `__return__`, of which then is true what is said of mcount here.
    """

    in_object: Literal[False] = False
    has_table = True
    no_evidence = ""
    loose: Mapping[int, str] = {}

    def __init__(
        self,
        entries: Entries,
        code: LinkedCode,
        decoder: Decoder,
        targets: Targets,
        evidence: str = TABLE,
    ) -> None:
        self.vaddrs = entries.vaddrs
        self.dead = entries.dead
        self.repeated = entries.repeated
        self.targets = targets.code
        self.slots = targets.slots
        self.codes = [b""] * len(self.vaddrs)
        self.code = code
        self.are_returns = decoder.are_returns
        self._decoder = decoder
        self._all_targets = targets
        self._evidence = evidence
        self._ways: list[Way] = []
        # For each site 1 + the number of its way; 0: it was decoded alone, and is in `_alone`.
        self._column = bytearray(len(self.vaddrs))
        self._alone: dict[int, Found] = {}
        self._boundaries = Boundaries(code)
        for numbers, start, text in code.pieces(self.vaddrs):
            self._decode(numbers, start, text)
        alone = [found.way for found in self._alone.values() if found.way]
        self._forms = list(dict.fromkeys([way.form for way in (*self._ways, *alone)]))

    def __len__(self) -> int:
        return len(self.vaddrs)

    def __getitem__(self, number: int) -> Site:
        from .site import Site  # slow to import, and of many sites seldom one is looked at

        vaddr, way_number = self.vaddrs[number], self._column[number]
        if way_number:
            found = Found(self.codes[number], self._ways[way_number - 1])
        else:
            found = self._told(vaddr, self._alone[number % len(self)])
        section, file_offset = self.code.place(vaddr)
        way = found.way
        function, distance = self._function_at(vaddr, way)
        return Site(
            section, vaddr, file_offset, False, self.code.machine,
            function, distance, self.code.names(vaddr - distance, vaddr),
            found.code, found.state, way.form.name if way else "", self._evidence == TABLE,
            way.call(vaddr) if way else None, way.nop if way else None,
            found.reason or self.code.unnamed(function), way.name if way else "", found.expected,
            evidence=self._evidence,
        )  # fmt: skip

    def _told(self, vaddr: int, found: Found) -> Found:
        """Complete a foreign site by what is expected there now that all others are known."""
        if not found.expected:
            return found
        _, text = self.code.around(vaddr)
        expected = self._decoder.expected(vaddr, text, self._forms)
        code = text[: max(map(len, expected))]
        return Found(code, reason=found.reason, expected=expected)

    def __iter__(self) -> Iterator[Site]:
        return map(self.__getitem__, range(len(self)))

    def at(self, vaddr: int) -> Site:
        """Return the site at a link-time virtual address, which must be one's."""
        return self[bisect_left(self.vaddrs, vaddr)]

    def unnamed(self, vaddrs: Sequence[int], evidence: str) -> LinkedSites:
        """Tell what stands elsewhere, at ascending `vaddrs` that no table names."""
        entries = Entries(vaddrs, self.code.view.obj.layout.highest)
        return LinkedSites(entries, self.code, self._decoder, self._all_targets, evidence)

    def names(self, number: int) -> tuple[str, ...]:
        """Give all names of the function that a site is in, the best first."""
        vaddr, way = self.vaddrs[number], self._way(number)
        return self.code.names(vaddr - self._function_at(vaddr, way)[1], vaddr)

    def offset(self, number: int) -> int | None:
        """Return how many bytes from its function's start a site is; None if it is in none."""
        name, distance = self._function_at(self.vaddrs[number], self._way(number))
        return None if name is None else distance

    def _way(self, number: int) -> Way | None:
        way_number = self._column[number]
        return self._ways[way_number - 1] if way_number else self._alone[number].way

    def _function_at(self, vaddr: int, way: Way | None) -> tuple[str | None, int]:
        is_first = way is not None and way.name == x86.FENTRY
        return self.code.function_at(vaddr, is_first=is_first)

    def where(self, numbers: Sequence[int], state: State) -> Sequence[int]:
        """Choose those of ascending `numbers` whose sites are in `state`."""
        ways = [way.state for way in self._ways]
        column = self._ways_of(numbers)
        return in_state(state, numbers, column, ways, lambda number: self._alone[number].state)

    def marked_nops(self) -> list[bytes]:
        """List the NOPs with our mark that many of the sites stand as."""
        return [way.nop for way in self._ways if way.state is State.NOP and way.nop]

    def returns(self, numbers: Sequence[int]) -> Sequence[int]:
        """Choose those of `numbers` that stand at a function's end: all, or none."""
        return numbers if self.are_returns else []

    # --- what a switch needs ------------------------------------------------------------------

    def without_call(self, _: Sequence[int]) -> Sequence[int]:
        """Choose none: what a NOP of a linked file would call is known."""
        return []

    def irreversible(self, numbers: Sequence[int]) -> Sequence[int]:
        """Choose those of `numbers` whose sites cannot be turned to the other state and back."""
        if not self._alone:
            return []
        ways = [(number, self._alone[number].way) for number in numbers if number in self._alone]
        return [number for number, way in ways if way is None or way.nop is None]

    def columns(self, numbers: Sequence[int]) -> tuple[Sequence[int], Sequence[bytes]]:
        """Return (link-time virtual addresses, bytes that stand there) of ascending `numbers`."""
        return pick(self.vaddrs, numbers), pick(self.codes, numbers)

    def turned(self, numbers: Sequence[int], state: State) -> Sequence[bytes]:
        """Return the bytes in `state` of ascending `numbers`, of which none is irreversible."""
        column = self._ways_of(numbers)
        if not column.strip(column[:1]):  # all alike, or none
            return self._turned(column[0], numbers, state) if column else []
        turned = {
            way: self._turned(way, pick(numbers, positions(column, {way})), state)
            for way in set(column)
        }
        return _merged(column, turned)

    def _turned(self, way_number: int, numbers: Sequence[int], state: State) -> list[bytes]:
        """Spell sites in `state` that stand in one way, or if that is 0 each alone."""
        if way_number:
            return self._ways[way_number - 1].turned(pick(self.vaddrs, numbers), state)
        ways = [(self._alone[number].way, self.vaddrs[number]) for number in numbers]
        return [code for way, vaddr in ways if way for code in way.turned([vaddr], state)]

    def _ways_of(self, numbers: Sequence[int]) -> bytes:
        if len(numbers) == len(self):
            return bytes(self._column)
        return bytes([self._column[number] for number in numbers])

    # --- decoding -----------------------------------------------------------------------------

    def alone(self, number: int) -> Found:
        """Tell what stands at a site, by a look at it alone."""
        vaddr = self.vaddrs[number]
        return self._decoder.decode(vaddr, *self.code.around(vaddr))

    def _decode(self, numbers: range, start: int, text: bytes) -> None:
        """Decode the sites that are in `text`, whose first byte is at `start`."""
        left: Sequence[int] = numbers
        for way in range(1, len(self._ways) + 1):
            left = self._compare(way, left, start, text)
        while left:
            left = self._decode_alone(left, start, text)
        self._doubt(numbers, start, text)

    def _doubt(self, numbers: range, start: int, text: bytes) -> None:
        """Make foreign what does not stand where an instruction begins."""
        column = self._column
        known = numbers if all(column[numbers.start : numbers.stop]) else [
            number for number in numbers if column[number] or self._alone[number].way
        ]  # fmt: skip
        for index, reason in self._boundaries.doubtful(pick(self.vaddrs, known), start, text):
            column[known[index]] = 0
            self._alone[known[index]] = Found(self.codes[known[index]], reason=reason)

    def _compare(
        self, way_number: int, numbers: Sequence[int], start: int, text: bytes
    ) -> Sequence[int]:
        """Find the sites that stand in a known way; the numbers of the others."""
        if not numbers:
            return numbers
        vaddrs, way = pick(self.vaddrs, numbers), self._ways[way_number - 1]
        if not way.reaches(vaddrs):
            return numbers
        codes = way.turned(vaddrs, way.state)
        places = list(map(sub, vaddrs, repeat(start)))
        if isinstance(numbers, range) and all(map(text.startswith, codes, places)):
            self.codes[numbers.start : numbers.stop] = codes
            self._column[numbers.start : numbers.stop] = bytes((way_number,)) * len(numbers)
            return ()
        alike = list(map(text.startswith, codes, places))
        for number, code in compress(zip(numbers, codes, strict=True), alike):
            self.codes[number] = code
            self._column[number] = way_number
        return [number for number, is_so in zip(numbers, alike, strict=True) if not is_so]

    def _decode_alone(self, numbers: Sequence[int], start: int, text: bytes) -> Sequence[int]:
        """Decode site by site up to one with which the rest can be compared; those left."""
        for done, number in enumerate(numbers):
            found = self.alone(number)
            way = self._decoder.way_for_many(found)
            if way is not None and len(self._ways) < MOST_WAYS:
                self._ways.append(way)
                return self._compare(len(self._ways), numbers[done:], start, text)
            self._alone[number] = found
            self.codes[number] = found.code
        return ()


class Entries:
    """The entries of all tables of a linked file.

    `vaddrs` are distinct link-time virtual addresses, ascending. `dead` counts entries of 0 or -1,
    `repeated` those beyond the first for one address.
    """

    __slots__ = ("vaddrs", "dead", "repeated")

    def __init__(self, entries: Sequence[int], highest: int) -> None:
        live = entries[bisect_right(entries, 0) : bisect_left(entries, highest)]
        is_distinct = all(map(lt, live, live[1:]))
        self.vaddrs = list(live) if is_distinct else sorted(set(live))
        self.dead = len(entries) - len(live)
        self.repeated = len(live) - len(self.vaddrs)


def read(obj: Object, extra_names: Sequence[str] = ()) -> LinkedSites:
    """Find the sites that the table of an executable or a shared object names.

    `extra_names` are further names of mcount, as given to gcc's -mfentry-name. Raises FormatError
    where there is no table, or an entry names no code that is loaded from the file.
    """
    obj.once(LoadView)  # what is wrong with segments is told first
    if not obj.headers:
        raise FormatError(obj.path, "no section headers, by which a table is found")
    found = obj.once(tables.find)
    if not found:
        raise FormatError(obj.path, f"no {mcount_loc.NAME.decode()} table")
    return Image.of_tables(obj, x86.mcount_names(extra_names), found).sites_of(found)


class Image:
    """A linked file, and what it takes to tell what stands at the entries of its tables.

    `code` is its code, `targets` are the ways to mcount, and `relocated` the values of words that
    have a dynamic relocation, by link-time virtual address.
    """

    def __init__(
        self,
        obj: Object,
        code: LinkedCode,
        targets: Targets,
        words: Words,
        *,
        are_returns: bool = False,
    ) -> None:
        self.code = code
        self.targets = targets
        self.relocated = words.values
        self._obj = obj
        self._decoder = Decoder(obj, targets, code, words.in_code, are_returns=are_returns)

    @classmethod
    def of_tables(cls, obj: Object, names: list[bytes], found: Sequence[Table]) -> Image:
        """Look at a linked file with section headers and these tables. Raises FormatError.

        `names` are those of the function that is called, mcount or `__return__`.
        """
        view = obj.once(LoadView)
        obj.extents()  # a site in one section is code of that alone
        obj.loaded_extents()
        gots = [obj.section(index) for name in (b".got", b".got.plt") for index in obj.named(name)]
        definitions = Definitions(view, names)
        wanted = [range(got.vaddr, got.vaddr + got.size) for got in gots]
        wanted += [table.vaddrs for table in found]
        words = Words(view, wanted, definitions)
        code = obj.once(_code)
        targets = Targets(code, words, gots, definitions)
        return cls(obj, code, targets, words, are_returns=names == [x86.RETURN_NAME])

    def sites_of(self, found: Sequence[Table]) -> LinkedSites:
        """Tell what stands at the entries of the tables. Raises FormatError for unsound ones."""
        addresses = [
            linked_entries.addresses(self._obj, one.name, one.vaddrs, one.content, self.relocated)
            for one in found
        ]
        return self.sites(sorted(chain.from_iterable(addresses)))

    def sites(self, entries: Sequence[int]) -> LinkedSites:
        """Tell what stands at the ascending entries of all tables, dead ones among them.

        Raises FormatError where one names no code that is loaded from the file.
        """
        found = Entries(entries, self._obj.layout.highest)
        return LinkedSites(found, self.code, self._decoder, self.targets)


def _code(obj: Object) -> LinkedCode:
    return LinkedCode(obj.once(LoadView))


def _merged(ways: bytes, columns: dict[int, list[bytes]]) -> list[bytes]:
    """Return one column of several: each value from the column of its way, in order."""
    each = {way: iter(column) for way, column in columns.items()}
    return [next(each[way]) for way in ways]
