"""A `__return_loc` that is there before anything is recorded: gcc -mrecord-return writes one.

Its entries are right, and its section is not: it is not aligned, and for x32 has words of 8 bytes;
it is read-only, so a PIE has text relocations and a shared object does not link; it is of no group,
so neither do C++ inline functions; and it keeps what --gc-sections would drop. So the table is made
anew where it is not as the recorder would have it, and takes the place of gcc's.

Of -minstrument-return=nop5 nothing but the table tells. What it names and no call does stays
named.
"""

from recordmcount import mcount_loc
from recordmcount.elf import object as elf
from recordmcount.errors import FormatError
from recordmcount.sites.entries import places_of, tables_of

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from recordmcount.elf.object import Object
    from recordmcount.sites.calls import Found

    from .new_sections import Entries, Table

    # Flags, 0 where the words are not sound; section it is linked to, group; sections and offsets
    # that entries name, in order.
    Shape = tuple[int, int, int, list[tuple[int, int]]]

_OF_SHAPE = elf.SHF_ALLOC | elf.SHF_WRITE | elf.SHF_LINK_ORDER | elf.SHF_GROUP


def others(obj: "Object", found: "Found") -> "list[Entries]":
    """Return what the table names and no call does."""
    calls: dict[int, set[int]] = {}
    for part in found.sections:
        if part.are_returns:
            calls.setdefault(part.section, set()).update(part.starts)
    named: dict[int, set[int]] = {}
    for index, relocations in _tables(obj).items():
        for section, offsets in places_of(obj, index, relocations)[0].items():
            named.setdefault(section, set()).update(offsets)
    rest = {section: named[section].difference(calls.get(section, ())) for section in named}
    return [(section, sorted(offsets)) for section, offsets in sorted(rest.items()) if offsets]


def are_right(obj: "Object", anew: "Sequence[Table]", groups: "Mapping[int, int]") -> bool:
    """Tell whether the tables that are there are those that would be made; writable ones will do.

    `groups` are those of sections, by index.
    """
    all_there = [_shape(obj, index, groups.get(index, 0)) for index in _tables(obj)]
    there = sorted((shape for shape in all_there if shape[-1]), key=_without_flags)
    wanted = sorted(map(_shape_of, anew), key=_without_flags)
    return [*map(_without_flags, there)] == [*map(_without_flags, wanted)] and all(
        have[0] in (want[0], want[0] | elf.SHF_WRITE)
        for have, want in zip(there, wanted, strict=True)
    )


def take_place(obj: "Object", anew: "Sequence[Table]") -> list[int]:
    """Give tables the places of those that are there; return the sections that are left over.

    A group's table is a new section, for the group must stand before it.
    """
    kind = elf.SHT_RELA if mcount_loc.uses_rela(obj) else elf.SHT_REL
    free = [one for one in anew if not one.group]
    gone: list[int] = []
    for index, relocations in _tables(obj).items():
        is_usual = len(relocations) == 1 and obj.section_type(relocations[0]) == kind
        if free and is_usual and not obj.headers[index][elf.SH_FLAGS] & elf.SHF_GROUP:
            free.pop(0).place = index, relocations[0]
        else:
            gone += [index, *relocations]
    return gone


def _tables(obj: "Object") -> dict[int, list[int]]:
    """Map the tables that are there to their relocation sections."""
    tables = tables_of(obj, (mcount_loc.RETURNS,))
    for index in tables:
        if obj.section_type(index) != elf.SHT_PROGBITS:
            raise FormatError(obj.path, "not a table of addresses", mcount_loc.RETURNS.decode())
    return tables


def _shape(obj: "Object", index: int, group: int) -> "Shape":
    header, word = obj.headers[index], obj.layout.word
    flags = header[elf.SH_FLAGS] & _OF_SHAPE
    named, _ = places_of(obj, index, _tables(obj)[index])
    link = header[elf.SH_LINK] if flags & elf.SHF_LINK_ORDER else 0
    places = _in_order(named.items())
    is_sound = (header[elf.SH_ADDRALIGN], header[elf.SH_SIZE]) == (word, word * len(places))
    return flags if is_sound else 0, link, group, places


def _shape_of(one: "Table") -> "Shape":
    return one.flags, one.text, one.group, _in_order(one.parts)


def _without_flags(shape: "Shape") -> tuple[int, int, list[tuple[int, int]]]:
    return shape[1:]


def _in_order(parts: "Iterable[Entries]") -> list[tuple[int, int]]:
    return sorted((section, offset) for section, offsets in parts for offset in offsets)
