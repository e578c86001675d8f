"""The sites of an ELF file, whatever its type."""

from __future__ import annotations

from recordmcount.elf import filetype
from recordmcount.elf import object as elf

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

    from recordmcount.elf.object import Object

    from .linked import LinkedSites
    from .relocatable import RelocatableSites
    from .scan import FoundSites


def read(obj: Object, names: Sequence[str] = ()) -> RelocatableSites | LinkedSites | FoundSites:
    """Find the sites of an object or of a linked file: those of its table, if it has one.

    Of a linked file without one, the calls are searched for. `names` are further names of mcount,
    as given to gcc's -mfentry-name. Raises FormatError for a file or a table that is not sound, and
    for an object that has no code yet.
    """
    sites = recorded(obj, names) if obj.headers or obj.type == elf.ET_REL else None
    if sites is None:
        from . import scan

        return scan.read(obj, names)
    return sites


def recorded(obj: Object, names: Sequence[str] = ()) -> RelocatableSites | LinkedSites | None:
    """Find the sites of an object, or those that the table of a linked file names; else as `read`.

    None of a linked file without a table.
    """
    obj.refuse_without_code()
    if obj.type == elf.ET_REL:
        from . import relocatable

        return relocatable.read(obj, names)
    filetype.refuse_unlinked(obj)
    from . import linked, tables

    if not obj.headers or obj.once(tables.find):
        return linked.read(obj, names)
    from . import kernel

    return kernel.read(obj, names)
