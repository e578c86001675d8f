"""Work on whole columns of a table at once: a byte, or a word, of every entry.

A table of fixed-size entries is also a set of columns, `table[place::size]`, and Python's own C
code can search, pick and compare a column without a loop over the entries.
"""

from _operator import add, itemgetter
from itertools import accumulate, compress

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

    from .elf import Layout


def pick(values: "Sequence[int]", places: "list[int]") -> "Sequence[int]":
    """The values at these places, in one call of C code."""
    if len(places) < 2:
        return [values[place] for place in places]
    picked: tuple[int, ...] = itemgetter(*places)(values)
    return picked


def positions(column: bytes, values: set[int], first: int = 0) -> list[int]:
    """Where in `column` one of `values` stands, ascending, counted from `first`."""
    found: list[int] = []
    for value in values:
        gaps = column.split(bytes((value,)))
        if gaps.pop() != column:
            found += map(add, accumulate(map(len, gaps)), range(first, first + len(gaps)))
    if len(values) > 1:
        found.sort()
    return found


class Relocations:
    """Relocations as columns of equal length: whole columns can be compared, and that is fast.

    `numbers` are their places in the section, `offsets` section offsets (r_offset), `infos`
    r_info, `addends` r_addend or None where addends are in place (REL). `kinds` are the different
    values of r_info, which are few.
    """

    __slots__ = ("numbers", "offsets", "infos", "addends", "kinds")

    def __init__(
        self,
        numbers: "Sequence[int]",
        offsets: "Sequence[int]",
        infos: "Sequence[int]",
        addends: "Sequence[int] | None",
    ) -> None:
        self.numbers = numbers
        self.offsets = offsets
        self.infos = infos
        self.addends = addends
        self.kinds = set(infos)

    def keep_naming(self, symbols: frozenset[int], layout: "Layout") -> None:
        """Drop the relocations that name none of `symbols`."""
        others = {info for info in self.kinds if layout.symbol_of(info) not in symbols}
        if not others:
            return
        chosen = [info not in others for info in self.infos]
        self.numbers = list(compress(self.numbers, chosen))
        self.offsets = list(compress(self.offsets, chosen))
        self.infos = list(compress(self.infos, chosen))
        self.addends = self.addends and list(compress(self.addends, chosen))
        self.kinds -= others
