"""The code of a linked file by link-time virtual address: its bytes, functions and sections."""

from __future__ import annotations

from _bisect import bisect_left, bisect_right

from recordmcount import mcount_loc, x86
from recordmcount.elf import object as elf
from recordmcount.elf.symbols import Functions
from recordmcount.errors import FormatError
from recordmcount.x86_functions import LONGEST_BEFORE_FENTRY, before_fentry

from .words import UNNAMED

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

    from recordmcount.elf.kallsyms import KernelFunctions
    from recordmcount.elf.object import Object, Section
    from recordmcount.elf.segments import LoadView

# Code is read in pieces of this many bytes, so that what is compared is still in the cache.
PIECE = 1 << 18
ENDBR_SIZE = 4  # bytes


class LinkedCode:
    """The bytes and the functions of the executable sections, by link-time virtual address.

    `view` is the file as the loader sees it, `machine` its e_machine. A kernel's `functions` are
    those it has symbols for, and it sees to it itself that its code can be executed: that is told
    by the flags of sections, and not of segments as well.
    """

    def __init__(self, view: LoadView, functions: KernelFunctions | None = None) -> None:
        self.view = view
        self._functions = functions or Functions(view.obj)
        self._by_segment = functions is None
        self.machine = view.obj.machine
        self._has_symbols = bool(view.obj.of_type(elf.SHT_SYMTAB))
        self._sections = _code_sections(view.obj)
        self._starts = [section.vaddr for section in self._sections]

    def contents(self) -> Iterator[tuple[int, bytes]]:
        """Read all code that is loaded from the file: (link-time virtual address, bytes)."""
        for section in self._sections:
            if self.view.loads(section, executable=True):
                yield section.vaddr, self.view.obj.content(section.index)

    def some(self, vaddr: int, size: int) -> bytes:
        """Read `size` bytes of code at `vaddr`, or fewer: none where no code is loaded."""
        section = self.section_at(vaddr)
        if section is None:
            return b""
        size = min(size, section.vaddr + section.size - vaddr)
        if not self._is_loaded(section, vaddr, vaddr + size):
            return b""
        return self.view.obj.read(section.offset + vaddr - section.vaddr, size, "code")

    def pieces(self, vaddrs: list[int]) -> Iterator[tuple[range, int, bytes]]:
        """Group ascending `vaddrs`: (their indices, an address, the bytes from there).

        Behind the last of a group there are x86.LONGEST_SITE bytes, or less where a section ends.
        Raises FormatError where one is not in code that is loaded from the file.
        """
        first = 0
        while first < len(vaddrs):
            start = vaddrs[first]
            section = self._section(start)
            end = min(start + PIECE, section.vaddr + section.size)
            end = min([end, *self._starts[bisect_right(self._starts, start) :][:1]])
            last = bisect_left(vaddrs, end, first)
            if not self._is_loaded(section, start, end):
                for vaddr in vaddrs[first:last]:
                    self.place(vaddr)
            size = min(end + x86.LONGEST_SITE, section.vaddr + section.size) - start
            what = f"section {section.index}"
            yield (
                range(first, last), start,
                self.view.obj.read(section.offset + start - section.vaddr, size, what),
            )  # fmt: skip
            first = last

    def outside(self, vaddrs: list[int]) -> list[int]:
        """Choose those of ascending `vaddrs` that are in no code that is loaded from the file."""
        found: list[int] = []
        behind = 0
        for section in self._sections:
            first = bisect_left(vaddrs, section.vaddr, behind)
            found += vaddrs[behind:first]
            behind = bisect_left(vaddrs, section.vaddr + section.size, first)
            inside = vaddrs[first:behind]
            if inside and not self._is_loaded(section, inside[0], inside[-1] + 1):
                found += [each for each in inside if not self._is_loaded(section, each, each + 1)]
        return found + vaddrs[behind:]

    def around(self, vaddr: int) -> tuple[bytes, bytes]:
        """Read (ENDBR_SIZE bytes before `vaddr`, LONGEST_SITE from it), less at a section's end."""
        section = self._section(vaddr)
        at = vaddr - section.vaddr
        before = min(at, ENDBR_SIZE)
        size = min(x86.LONGEST_SITE, section.size - at)
        what = f"section {section.index}"
        content = self.view.obj.read(section.offset + at - before, before + size, what)
        return content[:before], content[before:]

    def place(self, vaddr: int) -> tuple[str, int]:
        """Return (section name, file offset) of `vaddr`."""
        section = self._section(vaddr)
        offset = section.offset + vaddr - section.vaddr
        if self.view.file_offset(vaddr, 1, executable=self._by_segment) != offset:
            raise FormatError(
                self.view.obj.path,
                f"entry {vaddr:#x} is not in code that is loaded from the file",
                mcount_loc.NAME.decode(),
            )
        return section.name, offset

    def function_at(self, vaddr: int, *, is_first: bool = False) -> tuple[str | None, int]:
        """Find the function at `vaddr`: (name, bytes from its start), (None, 0) if none is.

        `is_first` tells that a call stands there which is a function's first instruction, but for
        what before_fentry knows.
        """
        section = self.section_at(vaddr)
        if section is None:
            return None, 0
        found = self._functions.at(section.index, vaddr, vaddr if is_first else 0)
        if found[0] is None and is_first:
            start = max(section.vaddr, vaddr - LONGEST_BEFORE_FENTRY)
            begins = vaddr - before_fentry(self.some(start, vaddr - start))
            found = self._functions.at(section.index, vaddr, begins)
        return found

    def beginnings(self) -> set[int]:
        """Return where functions begin by symbols that are typed so."""
        return {*self.most_beginnings(), *self.more_beginnings()[0]}

    def most_beginnings(self) -> list[int]:
        """Return most of those, ascending: it takes a fraction of the time."""
        return self._functions.most_beginnings()

    def more_beginnings(self) -> tuple[list[int], list[int]]:
        """Return the others, and where symbols without a type are; both ascend."""
        return self._functions.more_beginnings()

    def unnamed(self, function: str | None) -> str:
        """Tell what is odd about a site in `function`: that a symbol should name it."""
        return UNNAMED if function is None and self._has_symbols else ""

    def begins_function(self, vaddr: int) -> bool:
        """Tell whether a symbol of type STT_FUNC stands at `vaddr`."""
        section = self.section_at(vaddr)
        return section is not None and self._functions.begins(section.index, vaddr)

    def names(self, start: int, vaddr: int) -> tuple[str, ...]:
        """Return all names of the function that begins at `start`, in the section of `vaddr`."""
        return self._functions.names(self._section(vaddr).index, start)

    def section_at(self, vaddr: int) -> Section | None:
        """Return the executable section that has `vaddr`, or None."""
        number = bisect_right(self._starts, vaddr) - 1
        section = self._sections[number] if number >= 0 else None
        return section if section and vaddr < section.vaddr + section.size else None

    def _section(self, vaddr: int) -> Section:
        section = self.section_at(vaddr)
        if section is None:
            raise FormatError(
                self.view.obj.path, f"entry {vaddr:#x} is not in an executable section",
                mcount_loc.NAME.decode(),
            )  # fmt: skip
        return section

    def _is_loaded(self, section: Section, start: int, end: int) -> bool:
        """Tell whether all bytes from `start` to before `end` are loaded as code by one segment."""
        offset = section.offset + start - section.vaddr
        loaded = self.view.file_offset(start, end - start, executable=self._by_segment)
        return loaded == offset


def _code_sections(obj: Object) -> list[Section]:
    flags = elf.SHF_ALLOC | elf.SHF_EXECINSTR
    sections = []
    for index, header in enumerate(obj.headers):
        is_code = header[elf.SH_FLAGS] & flags == flags and header[elf.SH_TYPE] != elf.SHT_NOBITS
        if is_code and header[elf.SH_SIZE]:
            obj.require_plain(index)
            sections.append(obj.section(index))
    return sorted(sections, key=lambda section: section.vaddr)
