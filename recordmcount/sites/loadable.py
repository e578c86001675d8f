"""The sites of a linked file that is loaded, of all its tables: calls, and sleds."""

from __future__ import annotations

from . import linked, returns, sleds, tables
from .joined import JoinedTables

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

    from recordmcount.elf.object import Object

    from .linked import LinkedSites
    from .sleds import Sleds


def read(obj: Object, names: Sequence[str] = ()) -> LinkedSites | Sleds | JoinedTables | None:
    """Find the sites that the tables of a linked file name; None if it has no table.

    `names` are further names of mcount. Raises FormatError for a table that is not sound.
    """
    if not obj.headers:
        return None
    calls = linked.read(obj, names) if obj.once(tables.find) else None
    found = sleds.read(obj, calls)
    every = [each for each in (calls, *returns.read(obj), found) if each]
    return JoinedTables(every) if len(every) > 1 else every[0] if every else None
