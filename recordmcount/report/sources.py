"""Where the code of sites stands in the source, and where debug information says so."""

from __future__ import annotations

import os
from contextlib import suppress

from recordmcount.elf import debug_files
from recordmcount.elf import object as elf
from recordmcount.elf.lines import Line, Lines
from recordmcount.errors import Error

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from recordmcount.elf.object import Object

LINE_TABLE = b".debug_line"


class Debug:
    """The debug information of a file: its own, or in the file that it was split into.

    Where its path is relative, it is so to `folder`, or where that is "", the working one.
    """

    def __init__(self, obj: Object, folder: str = "") -> None:
        self._obj = obj
        self._fd = -1
        self.object = obj
        if not obj.named(LINE_TABLE):
            with suppress(Error, OSError):
                found = debug_files.of(obj, folder=folder)
                if found:
                    self.object, self._fd = found

    def close(self) -> None:
        """Close the other file."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    def lines(self, places: Sequence[tuple[int, int]]) -> list[Line | None]:
        """Find the lines of places: (file offset of the section less its address, position)."""
        table = Lines(self.object)
        found: dict[tuple[int, int], Line | None] = {}
        for start, section in self._sections(places):
            positions = sorted({position for each, position in places if each == start})
            lines = table.of(section, positions)
            found.update(zip(((start, one) for one in positions), lines, strict=True))
        return list(map(found.get, places))

    def _sections(self, places: Sequence[tuple[int, int]]) -> Iterator[tuple[int, int]]:
        """Number the sections that places are in; linked files have one space for all."""
        starts = {start for start, _ in places}
        if self._obj.type != elf.ET_REL:
            yield from ((start, 0) for start in starts)
            return
        for index, header in enumerate(self._obj.headers):
            if header[elf.SH_OFFSET] in starts and header[elf.SH_FLAGS] & elf.SHF_EXECINSTR:
                yield header[elf.SH_OFFSET], index
