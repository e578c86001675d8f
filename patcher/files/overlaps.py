"""Which sites of an object are touched by another relocation than their own.

What such a site becomes would not be what was written there. In a relocation section whose offsets
ascend, as assemblers and linkers leave them, only the neighbours of a site's own relocation can
touch it, and those that fill 8 bytes; so whole columns are compared, and only what is in doubt
then, and any other section, is looked at one by one.
"""

from __future__ import annotations

from _bisect import bisect_left
from _operator import add, sub
from itertools import compress

from recordmcount import columns, x86
from recordmcount.columns import is_ascending, pick, positions
from recordmcount.elf import object as elf
from recordmcount.sites import calls
from recordmcount.x86_relocations import WIDE_TYPES, WIDEST_FIELD, field_size

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from recordmcount.elf.object import Object
    from recordmcount.sites.relocatable import Part, RelocatableSites

NARROW = 4  # bytes that most relocations fill, and at most if they are not WIDE_TYPES


def overlapped(obj: Object, recorded: RelocatableSites) -> set[int]:
    """Return the numbers of the sites that another relocation touches."""
    relocations: dict[int, list[int]] = {}
    for index, text in calls.text_relocations(obj):
        relocations.setdefault(text, []).append(index)
    lengths = [0, *(way.form.length for way in recorded.ways)]
    found = set()
    for part, first in zip(recorded.parts, recorded.firsts, strict=False):
        own = relocations.get(part.section, [])
        doubtful = _doubtful(obj, part, lengths) if len(own) == 1 else range(len(part.recorded))
        fields = sorted(_fields(obj, own)) if doubtful else []
        for at in doubtful:
            finding, start = recorded.finding(first + at), part.column.starts[at]
            if finding.relocation and _touching(fields, start, finding.length) != 1:
                found.add(first + at)
    return found


def _doubtful(obj: Object, part: Part, lengths: Sequence[int]) -> Sequence[int]:
    """Return the numbers in a part of all sites that may be touched; `lengths` are by way.

    The section has one relocation section only.
    """
    ways = bytes(part.column.ways)
    usual = positions(ways, set(ways) - {0}) if 0 in ways else range(len(ways))
    starts, entries = pick(part.column.starts, usual), pick(part.column.entries, usual)
    ends = list(map(add, starts, map(lengths.__getitem__, pick(ways, usual))))
    if len(usual) < columns.FEW or not is_ascending(entries):
        return range(len(ways))
    doubtful = set(positions(ways, {0}))
    header = obj.headers[part.column.relocations]
    count = header[elf.SH_SIZE] // header[elf.SH_ENTSIZE]
    for first in range(0, count, elf.CHUNK):
        # One more on both sides: the neighbours.
        numbers = range(max(0, first - 1), min(first + elf.CHUNK + 1, count))
        offsets, types = obj.relocated(part.column.relocations, numbers)
        if offsets != sorted(offsets):
            return range(len(ways))
        some = slice(bisect_left(entries, first), bisect_left(entries, first + elf.CHUNK))
        near = _near_others(
            offsets, [entry - numbers.start for entry in entries[some]], starts[some], ends[some]
        )
        doubtful.update(usual[some.start + at] for at in near)
        for at in positions(types, WIDE_TYPES) if obj.machine == x86.EM_X86_64 else ():
            for number in _under(offsets[at], starts, ends):
                if entries[number] != numbers[at]:
                    doubtful.add(usual[number])
    return sorted(doubtful)


def _near_others(
    offsets: list[int], own: list[int], starts: Sequence[int], ends: Sequence[int]
) -> Iterator[int]:
    """Tell which sites the neighbours of their `own` relocations touch, if those are narrow."""
    if not own:
        return iter(())
    padded = [min(offsets[0], 0) - NARROW, *offsets, max(offsets[-1], ends[-1])]
    before = list(map(sub, starts, pick(padded, own)))
    behind = list(map(sub, pick(padded, [at + 2 for at in own]), ends))
    if min(before) >= NARROW and min(behind) >= 0:  # nearly always
        return iter(())
    rows = zip(before, behind, strict=True)
    return compress(range(len(own)), (one < NARROW or other < 0 for one, other in rows))


def _under(offset: int, starts: Sequence[int], ends: Sequence[int]) -> Iterator[int]:
    """Return the sites that the widest relocation at a section offset touches."""
    first = bisect_left(starts, offset - x86.LONGEST_SITE)
    last = bisect_left(starts, offset + WIDEST_FIELD, first)
    return (number for number in range(first, last) if ends[number] > offset)


def _fields(obj: Object, relocations: Sequence[int]) -> Iterator[tuple[int, int]]:
    """Return (section offset, width in bytes) of all relocations of some sections, by index.

    An R_*_NONE changes nothing, but may be one that somebody turned off; it counts for one byte.
    """
    for index in relocations:
        for offset, relocation_type, _symbol, _addend in obj.relocations(index):
            none = relocation_type == x86.RELOCATION_NONE
            yield offset, 1 if none else field_size(obj.machine, relocation_type)


def _touching(fields: Sequence[tuple[int, int]], offset: int, size: int) -> int:
    """Count the ascending fields that touch the `size` bytes at a section offset."""
    first = bisect_left(fields, (offset - WIDEST_FIELD, 0))
    end = bisect_left(fields, (offset + size, 0))
    return sum(at + width > offset for at, width in fields[first:end])
