"""The sites of a relocatable object, and what turns one off: two changes, by file offset.

The linker would write the call's operand over whatever stands in its place. So the relocation
becomes an R_*_NONE that names no symbol, and the call a NOP that tells the type; which symbol it
was is kept as well (sites.turned_off). What would not come back bit for bit is left alone.
"""

from __future__ import annotations

from _bisect import bisect_left
from _operator import add
from itertools import repeat

from patcher.modify import Batch
from recordmcount.columns import is_ascending
from recordmcount.elf import object as elf
from recordmcount.sites.state import State

from .overlaps import overlapped

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from recordmcount.elf.object import Object
    from recordmcount.sites.relocatable import Group, RelocatableSites
    from recordmcount.sites.site import Site
    from recordmcount.sites.turned_off import Relocation

UNKNOWN = "a NOP by another tool, which does not tell the relocation of its call"
SHARED = "another relocation touches it"
NOT_ZERO = "the relocated field is not zero, and would not come back so"


class ObjectSwitch:
    """The Switchable sites of a relocatable object: what the entries of its `__mcount_loc` name."""

    def __init__(self, obj: Object, sites: RelocatableSites) -> None:
        self._obj = obj
        self._overlapped: set[int] | None = None
        self.sites = sites.only_recorded()

    def site(self, number: int) -> Site:
        """Give the site, and if it cannot be switched back and forth the reason why."""
        site = self.sites[number]
        why = self._why_not(number, site)
        if not why:
            return site
        nop = site.code if site.state is State.NOP else None
        return site._replace(call=None, nop=nop, reason=why)

    def unswitchable(self, numbers: Sequence[int], state: State) -> Sequence[int]:
        """Choose those of `numbers` that cannot be brought to `state` and back."""
        doubtful = {*self.sites.unusual(numbers), *self._overlaps.intersection(numbers)}
        doubtful.difference_update(self.sites.where(sorted(doubtful), state))
        return [number for number in sorted(doubtful) if self._why_not(number, self.sites[number])]

    def without_call(self, numbers: Sequence[int]) -> Sequence[int]:
        """Choose the NOPs of which no call is known: other tools made them, and they stay."""
        unusual = [(number, self.sites.finding(number)) for number in self.sites.unusual(numbers)]
        return [
            number
            for number, found in unusual
            if found.state is State.NOP and not (found.relocation or found.reason)
        ]

    def batch(self, numbers: Sequence[int], state: State) -> Batch:
        """Plan how these sites, of which none is unswitchable, come to be in `state`."""
        changes = _Changes(state)
        groups = [
            (group, group.relocation) for group in self.sites.alike(numbers) if group.relocation
        ]
        for group, relocation in groups:
            self._add_code(changes, group, relocation)
        for group, relocation in groups:
            self._add_relocations(changes, group, relocation)
        return changes.batch(lambda number: self.site(number).label)

    def _add_code(self, changes: _Changes, group: Group, first: Relocation) -> None:
        start = self._obj.headers[group.section][elf.SH_OFFSET]
        offsets = list(map(add, group.starts, repeat(start)))
        call, nop = self.sites.turned(first)
        changes.add(offsets, group.numbers, call, nop or b"")

    def _add_relocations(self, changes: _Changes, group: Group, first: Relocation) -> None:
        """Add the changes of relocations, of all that is behind r_offset."""
        header = self._obj.headers[first.section]
        start, step = header[elf.SH_OFFSET] + self._obj.layout.word, header[elf.SH_ENTSIZE]
        offsets = [start + step * entry for entry in group.entries]
        changes.add(offsets, group.numbers, *self.sites.turned_relocation(first))

    @property
    def _overlaps(self) -> set[int]:
        """The sites that another relocation touches."""
        if self._overlapped is None:
            self._overlapped = overlapped(self._obj, self.sites)
        return self._overlapped

    def _why_not(self, number: int, site: Site) -> str:
        """Tell why the site of this number cannot be switched back and forth; empty if it can."""
        if site.state is State.FOREIGN:
            return site.reason
        if not site.relocation:
            return site.reason or UNKNOWN
        if site.state is State.CALL and site.nop is None:
            return site.reason
        if site.state is State.CALL and site.code != site.call:
            return NOT_ZERO
        return SHARED if number in self._overlaps else ""


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
        """Return all changes in order of file offset; `label` names a site."""
        if not is_ascending(self.offsets):
            rows = sorted(zip(self.offsets, self.old, self.new, self.sites, strict=True))
            self.offsets, self.old, self.new, self.sites = map(list, zip(*rows, strict=True))
        offsets, sites = self.offsets, self.sites
        return Batch(
            offsets, self.old, self.new,
            lambda offset: label(sites[bisect_left(offsets, offset)]),
        )  # fmt: skip
