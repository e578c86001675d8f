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


def read(obj: Object, names: Sequence[str] = ()) -> RelocatableSites | LinkedSites | None:
    """Find the sites of an object, or those that the table of a linked file names.

    None of a linked file without a table, whose sites are not known. `names` are further names of
    mcount, as given to gcc's -mfentry-name. Raises FormatError for a file or a table that is not
    sound, and for an object that has no code yet.
    """
    obj.refuse_without_code()
    if obj.type == elf.ET_REL:
        from . import relocatable

        return relocatable.read(obj, names)
    filetype.refuse_unlinked(obj)
    from . import linked, tables

    if obj.headers and not obj.once(tables.find):
        return None
    return linked.read(obj, names)
