"""The sites of several tables of one linked file as one: by address, each place once.

Nearly every file has a table of one kind alone. Where two of them name a place, it is a site of the
first by which it is one, and not foreign.
"""

from __future__ import annotations

from _bisect import bisect_left

from recordmcount.columns import pick

from .state import State

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence
    from typing import Literal, TypeVar

    from .linked import LinkedSites
    from .scan import FoundSites
    from .site import Site
    from .sleds import Sleds

    _Value = TypeVar("_Value")
    # The number of a table, numbers of sites in it -> what is told of these.
    _OfTable = Callable[[int, Sequence[int]], Sequence[_Value]]


class JoinedSites:
    """The SiteTable of a linked file with several `tables`, of calls of mcount the first.

    `vaddrs` are the link-time virtual addresses of the sites, ascending.
    """

    in_object: Literal[False] = False
    loose: Mapping[int, str] = {}

    def __init__(self, tables: Sequence[LinkedSites | Sleds | FoundSites]) -> None:
        self.tables = tables
        self.has_table = all(table.has_table for table in tables)
        self.no_evidence = next((table.no_evidence for table in tables if table.no_evidence), "")
        self.dead = sum(table.dead for table in tables)
        self.repeated = sum(table.repeated for table in tables)
        rows: dict[int, tuple[int, int]] = {}
        for index, table in reversed([*enumerate(tables)]):
            foreign = {*table.where(range(len(table)), State.FOREIGN)}
            for number, vaddr in enumerate(table.vaddrs):
                if number not in foreign or vaddr not in rows:
                    rows[vaddr] = index, number
        self.vaddrs = sorted(rows)
        self._rows = [rows[vaddr] for vaddr in self.vaddrs]

    def __len__(self) -> int:
        return len(self.vaddrs)

    def __iter__(self) -> Iterator[Site]:
        return map(self.__getitem__, range(len(self)))

    def __getitem__(self, number: int) -> Site:
        index, own = self._rows[number]
        return self.tables[index][own]

    def at(self, vaddr: int) -> Site:
        """Return the site at a link-time virtual address, which must be one's."""
        return self[bisect_left(self.vaddrs, vaddr)]

    def names(self, number: int) -> tuple[str, ...]:
        """Give all names of the function that a site is in, the best first."""
        index, own = self._rows[number]
        return self.tables[index].names(own)

    def where(self, numbers: Sequence[int], state: State) -> Sequence[int]:
        """Choose those of `numbers` whose sites are in `state`."""
        return self._chosen(numbers, lambda index, own: self.tables[index].where(own, state))

    def returns(self, numbers: Sequence[int]) -> Sequence[int]:
        """Choose those of `numbers` that stand at a function's end: calls of `__return__`."""
        return self._chosen(numbers, lambda index, own: self.tables[index].returns(own))

    def _chosen(self, numbers: Sequence[int], choose: _OfTable[int]) -> list[int]:
        chosen: list[int] = []
        for index in range(len(self.tables)):
            own = {self._rows[each][1]: each for each in numbers if self._rows[each][0] == index}
            chosen += [own[each] for each in choose(index, list(own))]
        return sorted(chosen)


class JoinedTables(JoinedSites):
    """JoinedSites of tables that name their sites: all of them can be switched."""

    def __init__(self, tables: Sequence[LinkedSites | Sleds]) -> None:
        super().__init__(tables)
        self._own = tables

    def offset(self, number: int) -> int | None:
        """Return how many bytes from its function's start a site is; None if it is in none."""
        index, own = self._rows[number]
        return self._own[index].offset(own)

    def without_call(self, numbers: Sequence[int]) -> Sequence[int]:
        """Choose the sleds: no file tells what they may call."""
        return self._chosen(numbers, lambda index, own: self._own[index].without_call(own))

    def irreversible(self, numbers: Sequence[int]) -> Sequence[int]:
        """Choose those of `numbers` that cannot be turned to the other state and back."""
        return self._chosen(numbers, lambda index, own: self._own[index].irreversible(own))

    def columns(self, numbers: Sequence[int]) -> tuple[Sequence[int], Sequence[bytes]]:
        """Return (link-time virtual addresses, bytes that stand there) of `numbers`."""
        codes = self._merged(numbers, lambda index, own: self._own[index].columns(own)[1])
        return pick(self.vaddrs, numbers), codes

    def turned(self, numbers: Sequence[int], state: State) -> Sequence[bytes]:
        """Return the bytes in `state` of `numbers`, of which none is irreversible."""
        return self._merged(numbers, lambda index, own: self._own[index].turned(own, state))

    def _merged(self, numbers: Sequence[int], column: _OfTable[bytes]) -> list[bytes]:
        found: dict[int, bytes] = {}
        for index in range(len(self.tables)):
            mine = [each for each in numbers if self._rows[each][0] == index]
            own = [self._rows[each][1] for each in mine]
            found.update(zip(mine, column(index, own), strict=True))
        return [found[each] for each in numbers]
