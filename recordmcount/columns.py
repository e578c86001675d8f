"""Work on whole columns of a table at once: a byte, or a word, of every entry.

A table of fixed-size entries is also a set of columns, `table[place::size]`, and Python's own C
code can search, pick and compare a column without a loop over the entries.
"""

from _operator import itemgetter, lt
from itertools import accumulate, compress, islice

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from collections.abc import Set as AbstractSet
    from typing import TypeVar

    Value = TypeVar("Value")

# Fewer rows than this are as fast decided one by one.
FEW = 2
LINE_FEED = 0x0A


def pick(values: "Sequence[Value]", places: "Sequence[int]") -> "Sequence[Value]":
    """Pick the values at these ascending places; without a copy if those are all there are."""
    if len(places) == len(values):
        return values
    if isinstance(places, range):
        return values[places.start : places.stop]
    return picked([values], places)[0]


def picked(
    columns: "Iterable[Sequence[Value]]", places: "Sequence[int]"
) -> "list[Sequence[Value]]":
    """Pick the values at these places from each column; always copies, and never views."""
    if len(places) < 2:  # of one place alone itemgetter makes no tuple
        return [[column[place] for place in places] for column in columns]
    return [*map(itemgetter(*places), columns)]


def is_ascending(values: "Sequence[int]") -> bool:
    """Tell whether each value is greater than the one before."""
    return all(map(lt, values, islice(values, 1, None)))


def shifted(values: "Sequence[int]", by: int) -> "Sequence[int]":
    """Subtract `by` from each value; without a copy if that changes none."""
    if not by:
        return values
    if isinstance(values, range):
        return range(values.start - by, values.stop - by)
    return [value - by for value in values]


def positions(column: bytes, values: "AbstractSet[int]") -> list[int]:
    """Find where in `column` one of `values` stands, ascending.

    What is looked for becomes the ends of lines: `splitlines` finds all of them at once.
    """
    ends = bytearray(256)
    for value in values:
        ends[value] = LINE_FEED
    lines = column.translate(ends).splitlines(keepends=True)
    if lines and lines[-1][-1] != LINE_FEED:
        lines.pop()
    if not lines:
        return []
    return list(accumulate(map(len, lines), initial=-1))[1:]


def having(column: bytes, value: int) -> "Sequence[int]":
    """Find where in `column` this value stands, ascending; nearly always everywhere."""
    if column.count(value) == len(column):
        return range(len(column))
    return positions(column, {value})


class Relocations:
    """Relocations as columns of equal length: whole columns can be compared, and that is fast.

    `numbers` are their places in the section, `offsets` section offsets (r_offset), `infos`
    r_info, `addends` r_addend or None where addends are in place (REL). `distinct` are the few
    different values of r_info.
    """

    __slots__ = ("numbers", "offsets", "infos", "addends", "distinct")

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
        self.distinct = set(infos)

    def having(self, infos: set[int]) -> "Relocations":
        """Choose the relocations with one of these values of r_info."""
        if self.distinct <= infos:
            return self
        return self.chosen([info in infos for info in self.infos])

    def chosen(self, chosen: "Sequence[bool]") -> "Relocations":
        """Choose the relocations for which `chosen` is true."""
        return Relocations(
            list(compress(self.numbers, chosen)),
            list(compress(self.offsets, chosen)),
            list(compress(self.infos, chosen)),
            self.addends and list(compress(self.addends, chosen)),
        )
