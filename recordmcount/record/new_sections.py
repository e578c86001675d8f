"""New sections behind the end of an ELF file, and the ELF header that makes them part of it.

In this order: the section name table, the section headers, the new contents. Nothing in the old
file is overwritten; what a moved section held stays behind as bytes that no header refers to.
"""

from recordmcount.elf import object as elf
from recordmcount.errors import FormatError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

    from recordmcount.elf.object import Object

    # What has entries: index of a text section, section offsets therein.
    Entries = tuple[int, Sequence[int]]


class Table:
    """One section to be, `__mcount_loc` or `__return_loc` by `name`.

    `text` is the text section it is linked to (SHF_LINK_ORDER) and `group` the section group it
    belongs to, 0 for none; `flags` its sh_flags; `parts` what it has entries for. `place` are the
    sections that it takes the place of, a table and its relocations; None of one that is new.
    """

    __slots__ = ("name", "text", "group", "flags", "parts", "place")

    def __init__(self, name: bytes, text: int, group: int, flags: int) -> None:
        self.name = name
        self.text = text
        self.group = group
        self.flags = flags
        self.parts: list[Entries] = []
        self.place: tuple[int, int] | None = None


class NewSections:
    """Collects what is appended to `obj`; offsets are file offsets.

    `new_names` goes behind its section names; `count` sections must then be added. It all begins
    at `start`, the end of the file unless something else is appended before. Raises FormatError
    where the format cannot name an offset.
    """

    def __init__(self, obj: "Object", new_names: bytes, count: int, start: int = 0) -> None:
        self._obj = obj
        self._start = start or obj.size
        self._names = obj.section_names + new_names + b"\0"
        self._headers = bytearray(obj.header_table)
        self._count = len(obj.headers)
        self._shoff = _align(self._start + len(self._names), obj.layout.word)
        self._data_at = self._shoff + (self._count + count) * obj.layout.shdr.size
        self._data: list[bytes] = []
        self._size = 0  # of the data so far
        self._require_room(self._data_at)

    def add_section(self, name: int, header: tuple[int, ...], content: bytes) -> int:
        """Add a section; its index.

        `name` is an offset into the new names, `header` (type, flags, link, info, addralign,
        entsize).
        """
        section_type, flags, *rest = header
        at = self._place(content)
        return self.add_header(name, (section_type, flags, 0, at, len(content), *rest))

    def add_header(self, name: int, header: tuple[int, ...]) -> int:
        """Add a section whose contents are elsewhere; its index. `header` are all other fields."""
        name += len(self._obj.section_names)
        self._headers += self._obj.layout.shdr.pack(name, *header)
        self._count += 1
        return self._count - 1

    def replace_section(self, section: int, header: tuple[int, ...], content: bytes) -> None:
        """Give an old section all that `add_section` gives a new one; it keeps its name."""
        section_type, flags, link, info, alignment, entry_size = header
        self.replace_content(section, content)
        self.change(section, {
            elf.SH_TYPE: section_type, elf.SH_FLAGS: flags, elf.SH_LINK: link, elf.SH_INFO: info,
            elf.SH_ADDRALIGN: alignment, elf.SH_ENTSIZE: entry_size,
        })  # fmt: skip

    def replace_content(self, section: int, content: bytes) -> None:
        """Give an old section new contents of any size."""
        self.change(section, {elf.SH_OFFSET: self._place(content), elf.SH_SIZE: len(content)})

    def set_info(self, section: int, info: int) -> None:
        """Give an old section another sh_info."""
        self.change(section, {elf.SH_INFO: info})

    def change(self, section: int, fields: dict[int, int]) -> None:
        """Give fields of a section header, by their place in it, new values."""
        shdr = self._obj.layout.shdr
        at = section * shdr.size
        values = list(shdr.unpack_from(self._headers, at))
        for field, value in fields.items():
            values[field] = value
        shdr.pack_into(self._headers, at, *values)

    def finish(self) -> tuple[bytes, bytes]:
        """Return (the new ELF header, the bytes to append)."""
        obj = self._obj
        self.change(obj.shstrndx, {elf.SH_OFFSET: self._start, elf.SH_SIZE: len(self._names)})
        fields = list(obj.layout.ehdr.unpack(obj.header))
        fields[elf.E_SHOFF] = self._shoff
        # gABI "Extended section numbering"; an object that uses it without need goes on with it.
        if self._count >= elf.SHN_LORESERVE or not fields[elf.E_SHNUM]:
            fields[elf.E_SHNUM] = 0
            self.change(0, {elf.SH_SIZE: self._count})
        else:
            fields[elf.E_SHNUM] = self._count
        gap = bytes(self._shoff - self._start - len(self._names))
        return (
            obj.layout.ehdr.pack(*fields),
            b"".join((self._names, gap, self._headers, *self._data)),
        )

    def _place(self, content: bytes) -> int:
        end = self._data_at + self._size
        gap = _align(end, self._obj.layout.word) - end
        self._data += (bytes(gap), content)
        self._size += gap + len(content)
        self._require_room(self._data_at + self._size)
        return end + gap

    def _require_room(self, end: int) -> None:
        """Refuse a file that would end at `end`, or behind it, if the format has no such offset."""
        if end > self._obj.layout.highest:  # of ELF64 no file is so large
            what = f"the recorded object would be larger than ELF32 allows: {end:#x} bytes"
            raise FormatError(self._obj.path, what)


def _align(offset: int, alignment: int) -> int:
    return offset + -offset % alignment
