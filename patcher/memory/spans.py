"""What of a file may be changed, span by span: code, and in an object the relocations of code."""

from __future__ import annotations

from recordmcount.elf import object as elf
from recordmcount.elf.segments import PF_X, PT_LOAD, LoadView
from recordmcount.errors import FormatError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from recordmcount.elf.object import Object


class Span:
    """`size` bytes of a file from file offset `offset` on, which memory has at `address`.

    `address` is a link-time virtual address in a linked file. An object has no addresses yet:
    there it is the file offset again.
    """

    __slots__ = ("address", "offset", "size")

    def __init__(self, address: int, offset: int, size: int) -> None:
        self.address = address
        self.offset = offset
        self.size = size

    @property
    def end(self) -> int:
        """The address behind the last byte."""
        return self.address + self.size

    def holds(self, address: int, size: int) -> bool:
        """Tell whether `size` bytes at `address` are all in it."""
        return self.address <= address and address + size <= self.end

    def offset_of(self, address: int) -> int:
        """Give the file offset of the byte at `address`."""
        return self.offset + address - self.address


def of(obj: Object) -> list[Span]:
    """List the spans of an ELF file, by file offset.

    Raises FormatError where a byte of one is also something else's: a change would be one of both.
    """
    return _of_object(obj) if obj.type == elf.ET_REL else _of_segments(obj)


def _of_object(obj: Object) -> list[Span]:
    """List the executable sections and their relocation sections."""
    return [
        Span(extent.offset, extent.offset, extent.size)
        for extent in obj.extents()
        if extent.section is not None and _concerns_code(obj, extent.section)
    ]


def _concerns_code(obj: Object, section: int) -> bool:
    header = obj.headers[section]
    relocated = header[elf.SH_INFO]
    if header[elf.SH_TYPE] in (elf.SHT_RELA, elf.SHT_REL) and relocated < len(obj.headers):
        header = obj.headers[relocated]
    return bool(header[elf.SH_FLAGS] & elf.SHF_EXECINSTR)


def _of_segments(obj: Object) -> list[Span]:
    """List the executable segments."""
    loaded = [one for one in obj.once(LoadView).segments if one.type == PT_LOAD and one.filesz]
    loaded.sort(key=lambda segment: segment.offset)
    end = end_of_code = 0
    for segment in loaded:
        is_code = segment.flags & PF_X
        if segment.offset < (end if is_code else end_of_code):
            raise FormatError(obj.path, f"code is in two segments at {segment.offset:#x}")
        end = max(end, segment.offset + segment.filesz)
        end_of_code = end if is_code else end_of_code
    return [
        Span(segment.vaddr, segment.offset, segment.filesz)
        for segment in loaded
        if segment.flags & PF_X
    ]
