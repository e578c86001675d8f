"""Which bytes of a file are whose: those of the headers and of each section, none of them shared.

Whoever edits a file in place asks here first: where two sections overlap, an edit of one is an edit
of both, and where one lies over a header, of what all others are found by.
"""

from recordmcount.errors import FormatError

from . import object as elf

TYPE_CHECKING = False
if TYPE_CHECKING:
    from .object import Object


class Extent:
    """`size` bytes at file offset `offset`, of the section of this index; of a header if None."""

    __slots__ = ("offset", "size", "section")

    def __init__(self, offset: int, size: int, section: int | None) -> None:
        self.offset = offset
        self.size = size
        self.section = section

    def __str__(self) -> str:
        if self.section is None:
            return "the section headers" if self.offset else "the ELF header"
        return f"section {self.section}"


def of(obj: "Object") -> list[Extent]:
    """List the extents of an object, empty ones left out, by file offset.

    Raises FormatError where two overlap.
    """
    extents = [Extent(0, len(obj.header), None), Extent(obj.shoff, len(obj.header_table), None)]
    for index, header in enumerate(obj.headers):
        if header[elf.SH_TYPE] not in (elf.SHT_NULL, elf.SHT_NOBITS):
            extents.append(Extent(header[elf.SH_OFFSET], header[elf.SH_SIZE], index))
    found = [extent for extent in extents if extent.size]
    found.sort(key=lambda extent: extent.offset)
    before = found[0]
    for extent in found[1:]:
        if extent.offset < before.offset + before.size:
            what = f"{before} and {extent} overlap at file offset {extent.offset:#x}"
            raise FormatError(obj.path, what)
        before = extent
    return found
