"""The program headers of an image, and room for one more segment behind all others.

A header that says nothing gives its slot away: PT_NULL, an empty PT_LOAD or PT_NOTE, or the
PT_NOTE that PT_GNU_PROPERTY repeats (the kernel and the loader read the latter). Or nothing stands
behind the table. Else the table has to move into the new segment, and there it must keep its
distance: kernels before 5.18 tell a program that its headers are e_phoff behind where file offset
0 would be in memory, wherever they are. (Linux: fs/binfmt_elf.c, create_elf_tables.) It is the last
part of the segment: llvm-strip takes what begins where the headers do for a part of them.
"""

from _struct import Struct

from recordmcount.elf import object as elf
from recordmcount.elf.segments import PT_LOAD
from recordmcount.errors import FormatError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from recordmcount.elf.segments import LoadView

PT_NULL, PT_NOTE, PT_PHDR, PT_GNU_PROPERTY = 0, 4, 6, 0x6474E553
PF_W, PF_R = 2, 4
PN_XNUM = 0xFFFF
# Bytes: of a page, at which two segments of different rights must not meet, and which is also the
# largest table that the kernel reads; and of a hole in the file that is worth a table of sites.
PAGE = 0x1000
LARGEST_HOLE = 64 << 20

_STRUCTS = {True: Struct("<IIQQQQQQ"), False: Struct("<8I")}
# Where ELF64 has the fields of ELF32, which is the order of Header's.
_ORDER_64 = (0, 2, 3, 4, 5, 6, 1, 7)


class Header:
    """One program header by the names of the gABI; sizes are bytes."""

    __slots__ = ("type", "offset", "vaddr", "paddr", "filesz", "memsz", "flags", "align")

    def __init__(self, *fields: int) -> None:
        (self.type, self.offset, self.vaddr, self.paddr, self.filesz, self.memsz, self.flags,
         self.align) = fields  # fmt: skip

    def fields(self) -> tuple[int, ...]:
        """Return the fields in the order of ELF32."""
        return tuple(getattr(self, name) for name in self.__slots__)


class ProgramHeaders:
    """The headers of `view.obj` with a segment more, which must then be given by `add`.

    `moved` tells whether they stand at its end then; `size` is what they take in bytes. `start` is
    the file offset and `vaddr` the link-time virtual address where it begins.
    """

    def __init__(self, view: "LoadView") -> None:
        obj = self._obj = view.obj
        self._struct = _STRUCTS[obj.layout.is_64]
        fields = obj.layout.ehdr.unpack(obj.header)
        self._offset = fields[elf.E_PHOFF]
        if fields[elf.E_PHNUM] >= PN_XNUM - 1:
            raise FormatError(obj.path, "too many program headers")
        table = obj.read(self._offset, fields[elf.E_PHNUM] * self._struct.size, "program headers")
        self._headers = [self._header(row) for row in self._struct.iter_unpack(table)]
        loaded = [one for one in self._headers if one.type == PT_LOAD and one.memsz]
        if not loaded:
            raise FormatError(obj.path, "nothing is loaded")
        free = next(filter(self._is_free, range(len(self._headers))), None)
        if free is not None:
            del self._headers[free]
        self.size = (len(self._headers) + 1) * self._struct.size
        self.moved = free is None and not self._can_grow(loaded)
        end = max(one.vaddr + max(one.memsz, one.filesz) for one in loaded)
        self.start, self.vaddr = self._place(_align(end, PAGE), loaded[0])

    def _header(self, row: tuple[int, ...]) -> Header:
        return Header(*(row[i] for i in _ORDER_64) if self._obj.layout.is_64 else row)

    def _is_free(self, number: int) -> bool:
        header = self._headers[number]
        if header.type == PT_NULL or (header.type == PT_LOAD and not header.memsz):
            return True
        if header.type != PT_NOTE:
            return False
        same = (header.offset, header.filesz)
        return not header.filesz or any(
            one.type == PT_GNU_PROPERTY and (one.offset, one.filesz) == same
            for one in self._headers
        )

    def _can_grow(self, loaded: list[Header]) -> bool:
        """Tell whether nothing stands where the table would grow to, and all of it is loaded."""
        obj = self._obj
        old_end, end = self._offset + self.size - self._struct.size, self._offset + self.size
        used = [
            (header[elf.SH_OFFSET], header[elf.SH_OFFSET] + header[elf.SH_SIZE])
            for header in obj.headers
            if header[elf.SH_TYPE] not in (elf.SHT_NULL, elf.SHT_NOBITS)
        ]
        is_loaded = any(one.offset <= old_end and end <= one.offset + one.filesz for one in loaded)
        if not used or not is_loaded or any(at < end and old_end < to for at, to in used):
            return False
        return not obj.read(old_end, end - old_end, "program headers").strip(b"\0")

    def _place(self, free: int, first: Header) -> tuple[int, int]:
        """Choose where the segment begins, in the file and in memory, of which `free` is."""
        obj, word = self._obj, self._obj.layout.word
        start = _align(obj.size, word)
        if not self.moved:
            return start, free + start % PAGE
        base = first.vaddr - first.offset
        start = max(start, free - base)
        if base % PAGE:
            raise self._no_room("the first segment has another place in a page than in the file")
        if start - obj.size > LARGEST_HOLE:
            raise self._no_room(f"it needs {start - obj.size:#x} bytes of its memory in the file")
        if self.size > PAGE:
            raise self._no_room("there are too many")
        return start, base + start

    def _no_room(self, why: str) -> FormatError:
        return FormatError(
            self._obj.path, f"no room for a program header, and they cannot be moved: {why}"
        )

    def add(self, size: int, flags: int) -> tuple[int, bytes]:
        """Add the segment of `size` bytes: (file offset of the table, its bytes)."""
        if self.vaddr + size > self._obj.layout.highest:
            raise FormatError(self._obj.path, "no addresses are left behind what is loaded")
        new = Header(PT_LOAD, self.start, self.vaddr, self.vaddr, size, size, flags, PAGE)
        last = max(i for i, one in enumerate(self._headers) if one.type == PT_LOAD)
        self._headers.insert(last + 1, new)
        distance = size - self.size
        for one in self._headers:
            if one.type == PT_PHDR:
                one.filesz = one.memsz = self.size
                if self.moved:
                    one.offset = self.start + distance
                    one.vaddr = one.paddr = self.vaddr + distance
        offset = self.start + distance if self.moved else self._offset
        return offset, b"".join(map(self._pack, self._headers))

    def _pack(self, header: Header) -> bytes:
        fields = header.fields()
        if self._obj.layout.is_64:
            fields = (fields[0], fields[6], *fields[1:6], fields[7])
        return self._struct.pack(*fields)


def _align(number: int, alignment: int) -> int:
    return number + -number % alignment
