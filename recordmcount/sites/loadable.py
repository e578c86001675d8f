"""The sites of a linked file that is loaded, of both its tables: calls of mcount, and sleds.

Nearly every file has one of the two tables. Where it has both, the sites are merged by address.
"""

from __future__ import annotations

from recordmcount.columns import pick

from . import linked, sleds, tables

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence
    from typing import Literal, TypeVar

    from recordmcount.elf.object import Object

    from .linked import LinkedSites
    from .site import Site
    from .sleds import Sleds
    from .state import State

    _Value = TypeVar("_Value")
    _OfTable = Callable[[LinkedSites | Sleds, Sequence[int]], Sequence[_Value]]


class BothSites:
    """The SiteTable of a linked file with both tables; a sled has the place of a foreign site."""

    in_object: Literal[False] = False
    has_table = True
    no_evidence = ""
    loose: Mapping[int, str] = {}

    def __init__(self, calls: LinkedSites, sleds: Sleds) -> None:
        self.dead = calls.dead + sleds.dead
        self.repeated = calls.repeated + sleds.repeated
        rows: dict[int, tuple[LinkedSites | Sleds, int]] = {}
        for table in (calls, sleds):
            rows.update((vaddr, (table, number)) for number, vaddr in enumerate(table.vaddrs))
        self._tables = (calls, sleds)
        self.vaddrs = sorted(rows)
        self._rows = [rows[vaddr] for vaddr in self.vaddrs]

    def __len__(self) -> int:
        return len(self.vaddrs)

    def __iter__(self) -> Iterator[Site]:
        return map(self.__getitem__, range(len(self)))

    def __getitem__(self, number: int) -> Site:
        table, own = self._rows[number]
        return table[own]

    def names(self, number: int) -> tuple[str, ...]:
        """Give all names of the function that a site is in, the best first."""
        table, own = self._rows[number]
        return table.names(own)

    def where(self, numbers: Sequence[int], state: State) -> Sequence[int]:
        """Choose those of `numbers` whose sites are in `state`."""
        return self._chosen(numbers, lambda table, own: table.where(own, state))

    def without_call(self, numbers: Sequence[int]) -> Sequence[int]:
        """Choose the sleds: no file tells what they may call."""
        return self._chosen(numbers, lambda table, own: table.without_call(own))

    def irreversible(self, numbers: Sequence[int]) -> Sequence[int]:
        """Choose those of `numbers` that cannot be turned to the other state and back."""
        return self._chosen(numbers, lambda table, own: table.irreversible(own))

    def columns(self, numbers: Sequence[int]) -> tuple[Sequence[int], Sequence[bytes]]:
        """Return (link-time virtual addresses, bytes that stand there) of `numbers`."""
        codes = self._merged(numbers, lambda table, own: table.columns(own)[1])
        return pick(self.vaddrs, numbers), codes

    def turned(self, numbers: Sequence[int], state: State) -> Sequence[bytes]:
        """Return the bytes in `state` of `numbers`, of which none is irreversible."""
        return self._merged(numbers, lambda table, own: table.turned(own, state))

    def _chosen(self, numbers: Sequence[int], choose: _OfTable[int]) -> list[int]:
        chosen: list[int] = []
        for table in self._tables:
            own = {self._rows[each][1]: each for each in numbers if self._rows[each][0] is table}
            chosen += [own[each] for each in choose(table, list(own))]
        return sorted(chosen)

    def _merged(self, numbers: Sequence[int], column: _OfTable[bytes]) -> list[bytes]:
        found: dict[int, bytes] = {}
        for table in self._tables:
            mine = [each for each in numbers if self._rows[each][0] is table]
            own = [self._rows[each][1] for each in mine]
            found.update(zip(mine, column(table, own), strict=True))
        return [found[each] for each in numbers]


def read(obj: Object, names: Sequence[str] = ()) -> LinkedSites | Sleds | BothSites | None:
    """Find the sites that the tables of a linked file name; None if it has no table.

    `names` are further names of mcount. Raises FormatError for a table that is not sound.
    """
    if not obj.headers:
        return None
    calls = linked.read(obj, names) if obj.once(tables.find) else None
    found = sleds.read(obj, calls)
    return BothSites(calls, found) if calls and found else calls or found
