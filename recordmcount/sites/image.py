"""The sites of an ELF file, whatever its type."""

from __future__ import annotations

from recordmcount.elf import filetype
from recordmcount.elf import object as elf

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

    from recordmcount.elf.object import Object

    from .joined import JoinedSites, JoinedTables
    from .linked import LinkedSites
    from .relocatable import RelocatableSites
    from .scan import FoundSites
    from .sleds import Sleds

    Tables = LinkedSites | Sleds | JoinedTables


def read(
    obj: Object, names: Sequence[str] = ()
) -> RelocatableSites | Tables | FoundSites | JoinedSites:
    """Find the sites of an object or of a linked file: those of its tables, if it has some.

    Of a linked file without one of mcount's calls, these are searched for. `names` are further
    names of mcount, as given to gcc's -mfentry-name. Raises FormatError for a file or a table that
    is not sound, and for an object that has no code yet.
    """
    if obj.headers or obj.type == elf.ET_REL:
        _refuse(obj)
    if obj.type == elf.ET_REL:
        from . import relocatable

        return relocatable.read(obj, names)
    calls: LinkedSites | FoundSites | None = _calls(obj, names) if obj.headers else None
    if calls is None:
        from . import scan

        calls = scan.read(obj, names)
    returns = _returns(obj)
    if not returns:
        return calls
    from .joined import JoinedSites

    return JoinedSites([calls, *returns])


def recorded(obj: Object, names: Sequence[str] = ()) -> RelocatableSites | Tables | None:
    """Find the sites of an object, or those that the tables of a linked file name; else as `read`.

    None of a linked file without a table.
    """
    _refuse(obj)
    if obj.type == elf.ET_REL:
        from . import relocatable

        return relocatable.read(obj, names)
    calls = _calls(obj, names)
    every = [*([] if calls is None else [calls]), *_returns(obj)]
    if len(every) < 2:
        return every[0] if every else None
    from .joined import JoinedTables

    return JoinedTables(every)


def _refuse(obj: Object) -> None:
    """Raise FormatError for a file that is neither linked nor an object, or has no code yet."""
    obj.refuse_without_code()
    if obj.type != elf.ET_REL:
        filetype.refuse_unlinked(obj)


def _calls(obj: Object, names: Sequence[str]) -> LinkedSites | None:
    """Find the calls of mcount that a table of a linked file names; None if it has none."""
    from . import linked, tables

    if not obj.headers or obj.once(tables.find):
        return linked.read(obj, names)
    from . import kernel

    return kernel.read(obj, names)


def _returns(obj: Object) -> Sequence[LinkedSites | Sleds]:
    """Find the calls of `__return__` that a table of a linked file names."""
    from . import tables

    if not obj.headers or not obj.once(tables.find_returns):
        return ()
    from . import returns

    return returns.read(obj)
