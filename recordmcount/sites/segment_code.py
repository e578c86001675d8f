"""The code of a linked file without section headers: its executable segments.

Functions have names as far as the dynamic symbols do.
"""

from __future__ import annotations

from _bisect import bisect_right

from recordmcount.elf import object as elf
from recordmcount.elf.dynamic_symbols import functions

from .linked_code import LinkedCode

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

    from recordmcount.elf.segments import LoadView

    from .search import LoadedCode


class SegmentCode(LinkedCode):
    """LinkedCode, of which each executable segment is a section without a name."""

    def __init__(self, view: LoadView, code: LoadedCode) -> None:
        super().__init__(view)
        self._loaded = code
        flags = elf.SHF_ALLOC | elf.SHF_EXECINSTR
        self._sections = [
            elf.Section(
                number, "", (0, elf.SHT_PROGBITS, flags, one.vaddr, offset, one.size, 0, 0, 1, 0)
            )
            for number, one in enumerate(code.ranges)
            if (offset := view.file_offset(one.vaddr, one.size)) is not None
        ]
        self._starts = [section.vaddr for section in self._sections]
        self._names: dict[int, tuple[int, dict[str, None]]] = {}  # by start: end, names
        for start, size, name in functions(view):
            end, names = self._names.get(start, (0, {}))
            self._names[start] = max(end, start + size), {**names, name: None}
        self._named = sorted(self._names)

    def contents(self) -> Iterator[tuple[int, bytes]]:
        """Read all code: (link-time virtual address, bytes)."""
        for one in self._loaded.ranges:
            yield one.vaddr, self._loaded.read(one.vaddr, one.vaddr + one.size)

    def function_at(
        self,
        vaddr: int,
        *,
        is_first: bool = False,  # noqa: ARG002
    ) -> tuple[str | None, int]:
        """Find the function at `vaddr`: (name, bytes from its start), (None, 0) if none is.

        `is_first` adds nothing, for all these symbols have a size.
        """
        number = bisect_right(self._named, vaddr) - 1
        if number < 0 or vaddr >= self._names[self._named[number]][0]:
            return None, 0
        start = self._named[number]
        return next(iter(self._names[start][1])), vaddr - start

    def begins_function(self, vaddr: int) -> bool:
        """Tell whether a symbol of type STT_FUNC stands at `vaddr`."""
        return vaddr in self._names

    def names(self, start: int, vaddr: int) -> tuple[str, ...]:
        """Return all names of the function that begins at `start`, if `vaddr` is in it."""
        if self.function_at(vaddr)[1] != vaddr - start:
            return ()
        return tuple(self._names.get(start, (0, {}))[1])
