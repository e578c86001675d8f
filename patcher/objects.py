"""The sites of a relocatable object, and what turns one off: two changes, by file offset.

The linker would write the call's operand over whatever stands in its place. So the type of the
site's relocation becomes R_*_NONE, symbol and addend stay (as the kernel's recordmcount does it),
and the call becomes a NOP that tells the type. What would not come back bit for bit is left alone.
"""

from bisect import bisect_left
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from recordmcount import elf, relocatable, sites, x86
from recordmcount.elf import Object
from recordmcount.relocatable import R_NONE, Relocation
from recordmcount.state import State

from .modify import Batch
from .sites import Site

UNKNOWN = "a NOP by another tool, which does not tell the relocation of its call"
SHARED = "another relocation touches it"
NOT_ZERO = "the relocated field is not zero, and would not come back so"

_Row = tuple[int, bytes, bytes, int]  # a change: file offset, old, new; and the site's number


class ObjectSites:
    """A SiteTable of a relocatable object: what the entries of its `__mcount_loc` name.

    Raises FormatError where a relocation that matters cannot be trusted.
    """

    def __init__(self, obj: Object, names: Sequence[str]) -> None:
        listing = relocatable.read(obj, tuple(names))
        self._obj = obj
        self._sites = [site for site in listing.sites if site.recorded]
        self._touching = _Touching(obj)
        self._turns = list(map(self._turn, self._sites))
        self.dead = listing.dead
        self.repeated = listing.repeated

    def __len__(self) -> int:
        return len(self._sites)

    def names(self, number: int) -> tuple[str, ...]:
        """All names of the function that a site is in."""
        return self._sites[number].aliases

    def where(self, numbers: Sequence[int], state: State) -> Sequence[int]:
        """Those of `numbers` whose sites are in `state`."""
        return [number for number in numbers if self._sites[number].state is state]

    def site(self, number: int) -> Site:
        """What there is to know of one site."""
        site, turn = self._sites[number], self._turns[number]
        nop = site.code if site.state is State.NOP else turn.nop
        names, known = x86.RELOCATION_NAMES[self._obj.machine], site.relocation
        return Site(
            site.offset, site.section, site.function, site.function_offset, site.code, site.state,
            site.form, turn.call, nop, turn.reason, self._obj.machine, True,
            relocation=names[known.type] if known else "",
        )  # fmt: skip

    def stuck(self, numbers: Sequence[int], state: State) -> Sequence[int]:
        """Those of `numbers` that cannot be brought to `state` and back."""
        return [
            number
            for number in numbers
            if self._sites[number].state is not state and self._turns[number].call is None
        ]

    def batch(self, numbers: Sequence[int], state: State) -> Batch:
        """What must change so that these sites, of which none is stuck, are in `state`."""
        rows = sorted(row for number in numbers for row in self._changes(number, state))
        owners = {address: number for address, _, _, number in rows}
        return Batch(
            [address for address, _, _, _ in rows],
            [old for _, old, _, _ in rows],
            [new for _, _, new, _ in rows],
            lambda address: self.site(owners[address]).label,
        )

    def _changes(self, number: int, state: State) -> Iterator[_Row]:
        """Of the code, and of the relocation's type."""
        site, turn = self._sites[number], self._turns[number]
        if turn.call is None or turn.nop is None or site.relocation is None:
            return
        old, new = turn.call, turn.nop
        old_type, new_type = site.relocation.type, R_NONE
        if state is State.CALL:
            old, new, old_type, new_type = new, old, new_type, old_type
        yield self._obj.headers[site.index][4] + site.offset, old, new, number
        at, size = _type_field(self._obj, site.relocation)
        yield at, old_type.to_bytes(size, "little"), new_type.to_bytes(size, "little"), number

    def _turn(self, site: relocatable.Site) -> "_Turn":
        known = site.relocation
        if site.state is State.FOREIGN:
            return _Turn(reason=site.reason)
        if known is None:
            return _Turn(reason=UNKNOWN)
        form = known.form
        in_place = self._obj.section_type(known.section) == elf.SHT_REL
        addend = form.addend if in_place else 0
        field = addend.to_bytes(form.width, "little", signed=True)
        call = form.prefix + field + form.suffix
        if site.state is State.CALL and site.code != call:
            return _Turn(reason=NOT_ZERO)
        if self._touching.count(site.index, site.offset, form.length) != 1:
            return _Turn(reason=SHARED)
        return _Turn(call, x86.object_nop(form, known.type))


class _Turn(NamedTuple):
    """The bytes of a site in either state, or None and the reason why it cannot be turned."""

    call: bytes | None = None
    nop: bytes | None = None
    reason: str = ""


def _type_field(obj: Object, relocation: Relocation) -> tuple[int, int]:
    """(file offset, size in bytes) of the relocation's type, the low part of its r_info."""
    header = obj.headers[relocation.section]
    entry = header[4] + relocation.number * header[9]
    return entry + obj.layout.word, 4 if obj.layout.is_64 else 1


class _Touching:
    """Counts the relocations that touch a piece of code.

    An R_*_NONE changes nothing, but may be one that somebody turned off; it counts for one byte.
    """

    def __init__(self, obj: Object) -> None:
        fields: dict[int, list[tuple[int, int]]] = {}
        for index, text in sites.text_relocations(obj):
            rows = fields.setdefault(text, [])
            for offset, kind, _, _ in obj.relocations(index):
                width = 1 if kind == R_NONE else x86.field_size(obj.machine, kind)
                rows.append((offset, width))
        self._fields = {text: sorted(rows) for text, rows in fields.items()}

    def count(self, section: int, offset: int, size: int) -> int:
        """How many touch the `size` bytes at a section offset."""
        fields = self._fields.get(section, [])
        first = bisect_left(fields, (offset - x86.WIDEST_FIELD, 0))
        end = bisect_left(fields, (offset + size, 0))
        return sum(at + width > offset for at, width in fields[first:end])
