"""The sites of a relocatable object, and what turns one off: two changes, by file offset.

The linker would write the call's operand over whatever stands in its place. So the type of the
site's relocation becomes R_*_NONE, symbol and addend stay (as the kernel's recordmcount does it),
and the call becomes a NOP that tells the type. What would not come back bit for bit is left alone.
"""

from bisect import bisect_left
from collections.abc import Callable, Sequence
from itertools import repeat
from operator import add
from typing import NamedTuple

from patcher.modify import Batch
from recordmcount import x86
from recordmcount.columns import is_ascending
from recordmcount.elf import object as elf
from recordmcount.elf.object import Object
from recordmcount.sites import relocatable
from recordmcount.sites.relocatable import Group
from recordmcount.sites.single import Relocation
from recordmcount.sites.state import State

from .overlaps import touched

TYPE_CHECKING = False
if TYPE_CHECKING:
    from .sites import Site

UNKNOWN = "a NOP by another tool, which does not tell the relocation of its call"
SHARED = "another relocation touches it"
NOT_ZERO = "the relocated field is not zero, and would not come back so"


class ObjectSites:
    """A SiteTable of a relocatable object: what the entries of its `__mcount_loc` name.

    Raises FormatError where a relocation that matters cannot be trusted.
    """

    def __init__(self, obj: Object, names: Sequence[str]) -> None:
        listing = relocatable.read(obj, tuple(names))
        self._obj = obj
        self._sites = listing.sites.only_recorded()
        self._touched: set[int] | None = None
        self.dead = listing.dead
        self.repeated = listing.repeated

    def __len__(self) -> int:
        return len(self._sites)

    def names(self, number: int) -> tuple[str, ...]:
        """All names of the function that a site is in."""
        return self._sites.names(number)

    def where(self, numbers: Sequence[int], state: State) -> Sequence[int]:
        """Those of `numbers` whose sites are in `state`."""
        return self._sites.where(numbers, state)

    def site(self, number: int) -> "Site":
        """What there is to know of one site."""
        from .sites import Site

        site, turn = self._sites[number], self._turn(number)
        nop = site.code if site.state is State.NOP else turn.nop
        names, known = x86.RELOCATION_NAMES[self._obj.machine], site.relocation
        return Site(
            site.offset, site.section, site.function, site.function_offset, site.code, site.state,
            site.form, turn.call, nop, turn.reason, self._obj.machine, True,
            relocation=names[known.type] if known else "",
        )  # fmt: skip

    def stuck(self, numbers: Sequence[int], state: State) -> Sequence[int]:
        """Those of `numbers` that cannot be brought to `state` and back."""
        doubtful = {*self._sites.unusual(numbers), *self._touching.intersection(numbers)}
        doubtful.difference_update(self.where(sorted(doubtful), state))
        return [number for number in sorted(doubtful) if self._turn(number).call is None]

    def batch(self, numbers: Sequence[int], state: State) -> Batch:
        """What must change so that these sites, of which none is stuck, are in `state`."""
        changes = _Changes(state)
        groups = [
            (group, group.relocation) for group in self._sites.alike(numbers) if group.relocation
        ]
        for group, relocation in groups:
            self._add_code(changes, group, relocation)
        for group, relocation in groups:
            self._add_types(changes, group, relocation)
        return changes.batch(lambda number: self.site(number).label)

    def _add_code(self, changes: "_Changes", group: Group, first: Relocation) -> None:
        start = self._obj.headers[group.section][elf.SH_OFFSET]
        offsets = list(map(add, group.starts, repeat(start)))
        changes.add(offsets, group.numbers, *self._bytes(first))

    def _add_types(self, changes: "_Changes", group: Group, first: Relocation) -> None:
        """The type is the low part of r_info."""
        layout, header = self._obj.layout, self._obj.headers[first.section]
        start, step = header[elf.SH_OFFSET] + layout.word, header[elf.SH_ENTSIZE]
        size = 4 if layout.is_64 else 1
        offsets = [start + step * entry for entry in group.entries]
        call, nop = (kind.to_bytes(size, "little") for kind in (first.type, x86.RELOCATION_NONE))
        changes.add(offsets, group.numbers, call, nop)

    @property
    def _touching(self) -> set[int]:
        """The sites that another relocation touches."""
        if self._touched is None:
            self._touched = touched(self._obj, self._sites)
        return self._touched

    def _turn(self, number: int) -> "_Turn":
        thing = self._sites.thing(number)
        if thing.state is State.FOREIGN:
            return _Turn(reason=thing.reason)
        if thing.relocation is None:
            return _Turn(reason=UNKNOWN)
        call, nop = self._bytes(thing.relocation)
        if thing.state is State.CALL and self._sites.code(number) != call:
            return _Turn(reason=NOT_ZERO)
        if number in self._touching:
            return _Turn(reason=SHARED)
        return _Turn(call, nop)

    def _bytes(self, known: Relocation) -> tuple[bytes, bytes]:
        """(call, NOP) of a site with this relocation."""
        in_place = self._obj.section_type(known.section) == elf.SHT_REL
        call = x86.object_call(known.form, in_place=in_place)
        return call, x86.object_nop(known.form, known.type)


class _Turn(NamedTuple):
    """The bytes of a site in either state, or None and the reason why it cannot be turned."""

    call: bytes | None = None
    nop: bytes | None = None
    reason: str = ""


class _Changes:
    """Changes to `state` as columns: file offsets, old and new bytes, numbers of their sites."""

    def __init__(self, state: State) -> None:
        self.state = state
        self.offsets: list[int] = []
        self.old: list[bytes] = []
        self.new: list[bytes] = []
        self.sites: list[int] = []

    def add(self, offsets: list[int], sites: Sequence[int], call: bytes, nop: bytes) -> None:
        """Add what, at all these offsets, is `call` in one state and `nop` in the other."""
        old, new = (call, nop) if self.state is State.NOP else (nop, call)
        self.offsets += offsets
        self.old += [old] * len(offsets)
        self.new += [new] * len(offsets)
        self.sites += sites

    def batch(self, label: Callable[[int], str]) -> Batch:
        """All changes in order of file offset; `label` names a site."""
        if not is_ascending(self.offsets):
            rows = sorted(zip(self.offsets, self.old, self.new, self.sites, strict=True))
            self.offsets, self.old, self.new, self.sites = map(list, zip(*rows, strict=True))
        offsets, sites = self.offsets, self.sites
        return Batch(
            offsets, self.old, self.new,
            lambda offset: label(sites[bisect_left(offsets, offset)]),
        )  # fmt: skip
