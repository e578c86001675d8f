"""The calls of a linked file that its table does not name: `scan` finds them, with evidence."""

from __future__ import annotations

from . import scan

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

    from recordmcount.elf.object import Object

    from .linked import LinkedSites
    from .scan import FoundSites


def read(
    obj: Object, table: LinkedSites, extra_names: Sequence[str] = ()
) -> tuple[FoundSites, list[int]]:
    """Find the calls without an entry: (all that the code proves, the numbers of these).

    `no_evidence` of the first says why there may be more. Raises as `scan.read` does.
    """
    found = scan.read(obj, extra_names)
    named = set(table.vaddrs)
    return found, [number for number, vaddr in enumerate(found.vaddrs) if vaddr not in named]
