"""The sites of a linked file that its table leaves out: calls, and NOPs in place of calls.

A call is left out if the code proves it, an entry could name it, and none does. A NOP, if it has
the mark of those that the table names: padding has none.
"""

from __future__ import annotations

from typing import NamedTuple

from recordmcount.elf.segments import LoadView

from . import evidence, scan, tables
from .proven import Begun, Scanned
from .search import LoadedCode
from .starts import PROVEN, Starts
from .state import State

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Collection, Iterator, Sequence

    from recordmcount.elf.object import Object

    from .linked import LinkedSites
    from .scan import FoundSites

# mold puts a NOP before a call, which may belong to it or not.
SAME = 1  # byte


class Missing(NamedTuple):
    """The link-time virtual addresses, ascending, of `calls` and of NOPs that no entry names."""

    calls: list[int]
    nops: list[int]


def find(
    obj: Object, table: LinkedSites, calls: Scanned | Begun, others: Collection[int] = ()
) -> Missing:
    """Find what the table leaves out. An entry that is some bytes off a call does not name it.

    `others` are what a table of another kind names: a program may have one function for both.
    """
    proven = {*calls.positions}.difference(others)
    named = {*table.vaddrs}.difference(foreign(table, proven))
    left_out = [
        vaddr
        for vaddr in sorted(proven - named)
        if named.isdisjoint(range(vaddr - SAME, vaddr + SAME + 1))
        and calls.site(vaddr).state is State.CALL
    ]
    if isinstance(calls, Begun):
        return Missing(left_out, [])
    return Missing(left_out, _turned_off(obj, table, others))


def foreign(table: LinkedSites, proven: set[int]) -> list[int]:
    """List the link-time virtual addresses of entries that name no site."""
    numbers = table.where(range(len(table)), State.FOREIGN)
    return [table.vaddrs[number] for number in numbers if table.vaddrs[number] not in proven]


def read(
    obj: Object,
    table: LinkedSites,
    extra_names: Sequence[str] = (),
    others: Collection[int] = (),
) -> tuple[list[tuple[LinkedSites | FoundSites, Sequence[int]]], str]:
    """Find what the table leaves out: (tables that have it, each with the numbers; `no_evidence`).

    The last says why there may be more. `others` are as for `find`. Raises as `scan.read` does.
    """
    is_kernel = not obj.once(tables.find)
    calls = Begun(obj, table) if is_kernel else Scanned(scan.read(obj, extra_names))
    missing = find(obj, table, calls, others)
    nops = table.unnamed(missing.nops, evidence.MARK)
    return [calls.table(missing.calls), (nops, range(len(nops)))], calls.no_evidence


def _turned_off(obj: Object, table: LinkedSites, others: Collection[int]) -> list[int]:
    """Find calls that are off, and in no table: NOPs with the mark of those in the table.

    They must stand where an instruction begins.
    """
    found = sorted(
        vaddr
        for nop in table.marked_nops()
        for start, content in table.code.contents()
        for vaddr in _places(content, nop, start)
    )
    known = {*table.vaddrs, *others}
    found = [vaddr for vaddr in found if vaddr not in known]
    if not found:
        return []
    view = obj.once(LoadView)
    starts = Starts(view, LoadedCode(view))
    return [vaddr for vaddr in found if starts.at(vaddr) == PROVEN]


def _places(content: bytes, part: bytes, start: int) -> Iterator[int]:
    """Yield the link-time virtual addresses of `part` in `content`, which is at `start`."""
    at = content.find(part)
    while at >= 0:
        yield start + at
        at = content.find(part, at + 1)
