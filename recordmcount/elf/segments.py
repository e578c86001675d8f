"""What the loader sees of a linked file: its segments, and the dynamic segment's relocations.

Section headers are for tools and may lie or be gone; what a word holds when the program runs is
decided by the program headers and by PT_DYNAMIC alone. (System V gABI, chapter "Program Loading
and Dynamic Linking"; DT_RELR as the gABI's draft of 2022 has it.) Not on the recording path.
"""

from __future__ import annotations

from _bisect import bisect_right
from _struct import Struct, unpack_from
from itertools import islice, pairwise

from recordmcount.errors import FormatError
from recordmcount.x86 import EM_386, EM_X86_64

from . import object as elf

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

    from .object import Object, Section

PT_LOAD, PT_DYNAMIC = 1, 2
PF_X = 1
PN_XNUM = 0xFFFF

DT_NULL, DT_PLTRELSZ, DT_PLTGOT, DT_STRTAB, DT_SYMTAB, DT_RELA, DT_RELASZ = 0, 2, 3, 5, 6, 7, 8
DT_STRSZ, DT_REL, DT_RELSZ, DT_PLTREL, DT_JMPREL = 10, 17, 18, 20, 23
DT_RELRSZ, DT_RELR = 35, 36

# What lld --pack-dyn-relocs=android makes, a format of Android's loader alone (bionic, linker.cpp).
PACKED = {
    0x6000000F: "DT_ANDROID_REL", 0x60000011: "DT_ANDROID_RELA", 0x6FFFE000: "DT_ANDROID_RELR",
}  # fmt: skip

LONGEST_NAME = 4096  # bytes of a dynamic symbol's that are looked at

# The same numbers on both machines (psABI x86-64 table 4.9, i386 table 2.3).
R_GLOB_DAT, R_JUMP_SLOT, R_RELATIVE = 6, 7, 8
R_IRELATIVE = {EM_X86_64: 37, EM_386: 42}


class Segment:
    """A program header. `offset` is a file offset, `vaddr` a link-time virtual address; bytes."""

    __slots__ = ("type", "flags", "offset", "vaddr", "filesz", "memsz")

    def __init__(
        self, segment_type: int, flags: int, offset: int, vaddr: int, filesz: int, memsz: int
    ) -> None:
        self.type = segment_type
        self.flags = flags
        self.offset = offset
        self.vaddr = vaddr
        self.filesz = filesz
        self.memsz = memsz

    def holds(self, vaddr: int, size: int) -> bool:
        """Tell whether `size` bytes at link-time virtual address `vaddr` come from the file."""
        return self.vaddr <= vaddr and vaddr + size <= self.vaddr + self.filesz


class DynamicRelocations:
    """What the loader does to the words at `slots`, link-time virtual addresses: equal columns.

    `infos` are r_info. `addends` are None where they stand in the words (REL and RELR).
    """

    __slots__ = ("slots", "infos", "addends")

    def __init__(self, slots: list[int], infos: list[int], addends: list[int] | None) -> None:
        self.slots = slots
        self.infos = infos
        self.addends = addends


class LoadView:
    """The memory a linked file asks for, at the addresses it was linked for.

    `obj` must be an executable or a shared object. Raises FormatError for broken program headers
    or a broken dynamic segment.
    """

    def __init__(self, obj: Object) -> None:
        if obj.type not in (elf.ET_EXEC, elf.ET_DYN):
            raise FormatError(obj.path, "neither an executable nor a shared object")
        self.obj = obj
        self.segments = _segments(obj)
        self._loaded = _loaded(obj.path, self.segments)
        self._starts = [segment.vaddr for segment in self._loaded]
        self.dynamic = self._read_dynamic()
        self._symbols = self._strings = b""

    def file_offset(self, vaddr: int, size: int, *, executable: bool = False) -> int | None:
        """Return the file offset of `size` bytes at link-time virtual address `vaddr`, or None.

        None where no PT_LOAD segment has them all from the file; with `executable`, where that
        segment is not executable.
        """
        number = bisect_right(self._starts, vaddr) - 1
        if number < 0:
            return None
        segment = self._loaded[number]
        if not segment.holds(vaddr, size) or (executable and not segment.flags & PF_X):
            return None
        return segment.offset + vaddr - segment.vaddr

    def loads(self, section: Section, *, executable: bool = False) -> bool:
        """Tell whether the section's bytes are what is loaded there, and `executable`, if asked."""
        offset = self.file_offset(section.vaddr, section.size, executable=executable)
        return offset == section.offset and section.type != elf.SHT_NOBITS

    def read(self, vaddr: int, size: int, what: str) -> bytes:
        """Read `size` bytes at link-time virtual address `vaddr`, or raise FormatError."""
        offset = self.file_offset(vaddr, size)
        if offset is None:
            raise FormatError(
                self.obj.path, f"{what} at address {vaddr:#x}, {size:#x} bytes, is not in the file"
            )
        return self.obj.read(offset, size, what)

    def word(self, vaddr: int) -> int:
        """Return the unsigned word at link-time virtual address `vaddr`, as the file has it."""
        return int.from_bytes(self.read(vaddr, self.obj.layout.word, "a word"), "little")

    # --- the dynamic segment ------------------------------------------------------------------

    def _read_dynamic(self) -> dict[int, int]:
        entries: dict[int, int] = {}
        for segment in self.segments:
            if segment.type == PT_DYNAMIC:
                content = self.obj.read(segment.offset, segment.filesz, "the dynamic segment")
                pair = Struct("<QQ" if self.obj.layout.is_64 else "<II")
                whole = len(content) - len(content) % pair.size
                for tag, value in pair.iter_unpack(content[:whole]):
                    if tag == DT_NULL:
                        break
                    entries[tag] = value
        return entries

    def symbol(self, index: int) -> tuple[bytes, int, int]:
        """Return (name, st_value, st_shndx) of a dynamic symbol, or raise FormatError.

        Symbols and names are read once, all together: a library has thousands.
        """
        layout = self.obj.layout
        at = index * layout.sym.size
        if at + layout.sym.size > len(self._symbols):
            self._symbols = self._read_symbols(index + 1)
        fields = layout.sym_fields(layout.sym.unpack_from(self._symbols, at))
        start = fields[elf.ST_NAME]
        if start >= len(self._strings):
            raise FormatError(self.obj.path, f"dynamic symbol {index} has no name")
        end = self._strings.find(b"\0", start, start + LONGEST_NAME)
        name = self._strings[start : max(end, start)]
        return name, fields[elf.ST_VALUE], fields[elf.ST_SHNDX]

    def _read_symbols(self, count: int) -> bytes:
        """Read the first `count` dynamic symbols, or more, and all names if they are not there."""
        dynamic, size = self.dynamic, self.obj.layout.sym.size
        if DT_SYMTAB not in dynamic or DT_STRTAB not in dynamic:
            raise FormatError(self.obj.path, "a dynamic relocation names a symbol; there are none")
        if not self._symbols:
            length = dynamic.get(DT_STRSZ, 0)
            self._strings = self.read(dynamic[DT_STRTAB], length, "the dynamic strings")
        # The table does not tell how long it is. Twice as much as before bounds what is read.
        for number in (max(count, 2 * len(self._symbols) // size), count):
            if self.file_offset(dynamic[DT_SYMTAB], number * size) is not None:
                break
        return self.read(dynamic[DT_SYMTAB], number * size, "the dynamic symbols")

    def relocations(self) -> Iterator[DynamicRelocations]:
        """Return the dynamic relocations, table by table: DT_RELR, DT_RELA, DT_REL, DT_JMPREL.

        A file without a dynamic segment relocates itself when it starts, by the tables that are
        loaded. Raises FormatError where there are others, in a format that is not supported.
        """
        layout, dynamic = self.obj.layout, self.dynamic
        for tag in PACKED.keys() & dynamic.keys():
            raise FormatError(
                self.obj.path, f"relocations packed for Android ({PACKED[tag]}) are not supported"
            )
        if DT_RELR in dynamic:
            table = self.read(dynamic[DT_RELR], dynamic.get(DT_RELRSZ, 0), "DT_RELR")
            most = self.obj.size // layout.word
            slots = list(islice(_relr_slots(table, layout.word), most + 1))
            if len(slots) > most:
                what = (
                    f"DT_RELR: more than the {most} relocations that a file of this size has words"
                )
                raise FormatError(self.obj.path, what)
            yield DynamicRelocations(slots, [R_RELATIVE] * len(slots), None)
        plt_entry = layout.rela if dynamic.get(DT_PLTREL) == DT_RELA else layout.rel
        for tag, size_tag, entry in (
            (DT_RELA, DT_RELASZ, layout.rela),
            (DT_REL, DT_RELSZ, layout.rel),
            (DT_JMPREL, DT_PLTRELSZ, plt_entry),
        ):
            size = dynamic.get(size_tag, 0)
            if tag in dynamic and size:
                if size % entry.size:
                    raise FormatError(self.obj.path, f"dynamic tag {size_tag}: a size of {size:#x}")
                content = self.read(dynamic[tag], size, "the dynamic relocations")
                yield self._columns(content, entry)
        for index in self.obj.of_type(elf.SHT_RELA, elf.SHT_REL) if not dynamic else ():
            section = self.obj.section(index)
            entry = layout.rela if section.type == elf.SHT_RELA else layout.rel
            if section.flags & elf.SHF_ALLOC and section.size and not section.size % entry.size:
                yield self._columns(self.obj.content(index), entry)

    def _columns(self, content: bytes, entry: Struct) -> DynamicRelocations:
        layout, word = self.obj.layout, self.obj.layout.word
        slots = layout.column(content, 0, entry.size)
        if min(slots) < 0:
            slots = [slot & layout.highest for slot in slots]
        infos = layout.column(content, word, entry.size)
        has_addends = entry.size == 3 * word
        addends = layout.column(content, 2 * word, entry.size) if has_addends else None
        return DynamicRelocations(slots, infos, addends)


def _segments(obj: Object) -> list[Segment]:
    is_64 = obj.layout.is_64
    phdr = Struct("<IIQQQQQQ" if is_64 else "<8I")
    fields = obj.layout.ehdr.unpack(obj.header)
    phoff, phentsize, phnum = (
        fields[elf.E_PHOFF], fields[elf.E_PHENTSIZE], fields[elf.E_PHNUM],
    )  # fmt: skip
    if not phnum:
        raise FormatError(obj.path, "no program headers")
    if phentsize != phdr.size:
        raise FormatError(obj.path, f"e_phentsize is {phentsize}, not {phdr.size}")
    if phnum == PN_XNUM and obj.headers:  # gABI: then sh_info of section 0 has the number
        phnum = obj.headers[0][elf.SH_INFO]
    table = obj.read(phoff, phnum * phdr.size, "the program header table")
    segments = []
    for header in phdr.iter_unpack(table):
        if is_64:
            segment_type, flags, offset, vaddr, _paddr, filesz, memsz, _align = header
        else:
            segment_type, offset, vaddr, _paddr, filesz, memsz, flags, _align = header
        segments.append(Segment(segment_type, flags, offset, vaddr, filesz, memsz))
    return segments


def _loaded(path: str, segments: list[Segment]) -> list[Segment]:
    """Sort the PT_LOAD segments; FormatError if an address is in two of them."""
    loaded = [one for one in segments if one.type == PT_LOAD and (one.memsz or one.filesz)]
    loaded.sort(key=lambda segment: segment.vaddr)
    for before, segment in pairwise(loaded):
        if segment.vaddr < before.vaddr + max(before.memsz, before.filesz):
            what = f"segments are loaded over each other at {segment.vaddr:#x}"
            raise FormatError(path, what)
    return loaded


def _relr_slots(table: bytes, word: int) -> Iterator[int]:
    """Return the addresses in a DT_RELR table.

    An even word is an address; an odd one is a bitmap of the words that follow the last.
    """
    code = "<Q" if word == 8 else "<I"
    next_slot = 0
    for at in range(0, len(table) - word + 1, word):
        (entry,) = unpack_from(code, table, at)
        if not entry & 1:
            yield entry
            next_slot = entry + word
            continue
        bitmap = entry >> 1
        slot = next_slot
        while bitmap:
            if bitmap & 1:
                yield slot
            bitmap >>= 1
            slot += word
        next_slot += (8 * word - 1) * word
